//! A log-out by SIGUSR1: the token is gone, and comes back with a restart only.

use std::time::Duration;

use careportals_simulator::{Options, Simulator};
use rustix::process::Signal;

use crate::harness::{Crowd, PASSWORD, Request, Setup, Sidecar, never, now, simulator, until, until_within};

/// This is far longer than a changed file takes to be noticed.
const LONG_ENOUGH: Duration = Duration::from_millis(800);

#[test]
fn after_a_log_out_requests_are_refused_at_once() {
    let simulator = simulator();
    let control = simulator.control();
    let sidecar = Sidecar::start(&simulator).ready();
    log_out(&sidecar);
    let begun = now();
    for answer in Crowd::send(&sidecar, 5, &Request::get("/users/account")).answers() {
        assert_eq!((answer.status, answer.problem().as_str()), (503, "logged_out"));
        assert!(answer.header("retry-after").is_some(), "{answer:?}");
    }
    assert!(begun.elapsed() < Duration::from_secs(8), "they waited");
    assert_eq!((control.counts().logins, control.counts().requests), (1, 1));
}

#[test]
fn a_log_out_closes_idle_upstream_connections() {
    let simulator = simulator();
    let control = simulator.control();
    let sidecar = Sidecar::start(&simulator);
    // Connections of both workers.
    control.hold_requests(true);
    let crowd = Crowd::send(&sidecar, 12, &Request::get("/users/account"));
    until("the upstream has got 12 requests", || control.counts().requests == 12);
    control.hold_requests(false);
    crowd.succeeds();
    assert!(control.counts().open_connections >= 12, "they are kept for the next requests");
    log_out(&sidecar);
    until_within(Duration::from_secs(8), "no connection to the upstream is open", || control.counts().open_connections == 0);
}

#[test]
fn a_request_in_flight_survives_the_log_out_and_its_connection_does_not() {
    let simulator = simulator();
    let control = simulator.control();
    let sidecar = Sidecar::start(&simulator).ready();
    control.hold_requests(true);
    let crowd = Crowd::send(&sidecar, 1, &Request::get("/users/account"));
    until("the upstream has got two requests", || control.counts().requests == 2);
    log_out(&sidecar);
    control.hold_requests(false);
    crowd.succeeds();
    until_within(Duration::from_secs(8), "no connection to the upstream is open", || control.counts().open_connections == 0);
}

#[test]
fn changed_credentials_do_not_undo_a_log_out() {
    let simulator = simulator();
    let control = simulator.control();
    let mut setup = Setup::new(&simulator);
    let path = setup.file("password", PASSWORD);
    setup.without("CAREPORTALS_PASSWORD").variable("CAREPORTALS_PASSWORD_FILE", path.to_str().unwrap());
    let sidecar = setup.start().ready();
    log_out(&sidecar);
    sidecar.setup.file("password", "another-password");
    never("a log-in begins", LONG_ENOUGH, || control.counts().logins > 1);
    let answer = sidecar.get("/users/account");
    assert_eq!((answer.status, answer.problem().as_str()), (503, "logged_out"));
}

#[test]
fn a_log_out_gives_up_the_log_in_in_flight_and_frees_those_who_wait_for_it() {
    let simulator = simulator();
    let control = simulator.control();
    control.hold_logins(true);
    let sidecar = Sidecar::start(&simulator);
    let crowd = Crowd::send(&sidecar, 3, &Request::get("/users/account"));
    until("one log-in has begun", || control.counts().logins == 1);
    let begun = now();
    log_out(&sidecar);
    for answer in crowd.answers() {
        assert_eq!((answer.status, answer.problem().as_str()), (503, "logged_out"));
    }
    assert!(begun.elapsed() < Duration::from_secs(8), "they waited for token_wait");
    control.hold_logins(false);
    until_within(Duration::from_secs(8), "no connection to the upstream is open", || control.counts().open_connections == 0);
    let answer = sidecar.get("/users/account");
    assert_eq!((answer.status, answer.problem().as_str()), (503, "logged_out"));
    assert_eq!((control.counts().logins, control.counts().requests), (1, 0));
}

#[test]
fn a_token_that_ends_after_the_log_out_has_no_successor() {
    let simulator = Simulator::start(Options { token_life: Duration::from_secs(2), ..Options::default() }).unwrap();
    let control = simulator.control();
    let sidecar = Sidecar::start(&simulator).ready();
    log_out(&sidecar);
    let before = control.counts().logins;
    never("a log-in begins", Duration::from_millis(1500), || control.counts().logins > before);
}

#[test]
fn a_restart_logs_in_again() {
    let simulator = simulator();
    let mut sidecar = Sidecar::start(&simulator).ready();
    log_out(&sidecar);
    assert_eq!(sidecar.stop().code(), Some(0));
    let _again = Sidecar::start(&simulator).ready();
    assert_eq!(simulator.control().counts().logins, 2);
}

fn log_out(sidecar: &Sidecar) {
    sidecar.signal(Signal::USR1);
    sidecar.wait_for_log("\"logged_out\"");
}
