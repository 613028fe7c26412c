//! A server whose clock differs from ours: what counts is its `Date`.

use std::time::Duration;

use careportals_simulator::{LoginFault, Options, Simulator};

use crate::harness::{LOGGED_IN, Setup, Sidecar, simulator, until, until_within};

const HOUR: i64 = 3600;

#[test]
fn a_token_lives_by_the_servers_clock_however_far_that_is_off() {
    for offset in [-30 * HOUR, -2 * HOUR, 2 * HOUR, 30 * HOUR] {
        let simulator = simulator();
        simulator.control().set_clock_offset(offset);
        let sidecar = Sidecar::start(&simulator).ready();
        let event = sidecar.wait_for_event(|event| event["message"] == "logged in");
        assert!((3590..=3600).contains(&event["expires_in_s"].as_u64().unwrap()), "{offset}: {event}");
        assert_eq!(simulator.control().counts().logins, 1, "{offset}");
    }
}

#[test]
fn a_clock_that_is_hours_ahead_delays_no_refresh() {
    is_refreshed_in_time(5 * HOUR);
}

#[test]
fn a_clock_that_is_hours_behind_delays_no_refresh() {
    is_refreshed_in_time(-5 * HOUR);
}

#[test]
fn a_clock_that_jumps_is_followed_at_the_next_log_in() {
    let simulator = Simulator::start(Options { token_life: Duration::from_secs(2), ..Options::default() }).unwrap();
    let control = simulator.control();
    let sidecar = Sidecar::start(&simulator).ready();
    control.set_token_life(Duration::from_secs(3600));
    // Backwards: the token at hand does not expire early.
    control.set_clock_offset(-7 * HOUR);
    until("two log-ins have succeeded", || control.counts().login_ok == 2);
    assert_eq!(sidecar.get("/users/account").status, 200);
    sidecar.wait_for_logs(LOGGED_IN, 2);
    let events = sidecar.events();
    let last = events.iter().rfind(|event| event["refresh_in_s"].is_u64()).unwrap();
    assert!((3590..=3600).contains(&last["expires_in_s"].as_u64().unwrap()), "{last}");
}

#[test]
fn a_clock_that_is_minutes_off_is_told_once_until_it_is_set() {
    let simulator = simulator();
    let control = simulator.control();
    control.set_clock_offset(HOUR);
    let sidecar = Setup::controlled(&simulator).start().ready();
    let event = sidecar.wait_for_event(|event| event["difference_s"].is_u64());
    let message = event["message"].as_str().unwrap();
    assert!(message.ends_with("s behind the server's: set it, for certificates are judged by it"), "{event}");
    assert!((3500..=3700).contains(&event["difference_s"].as_u64().unwrap()), "{event}");
    // Less than five minutes are let pass.
    for (offset, told) in [(HOUR, 1), (-200, 1), (200, 1), (-HOUR, 2), (-HOUR, 2)] {
        control.set_clock_offset(offset);
        assert_eq!(sidecar.setup.output("login").code, Some(0));
        // The log is written by a thread of its own, and in order.
        let logged = sidecar.logs().matches("\"refresh_in_s\"").count();
        assert_eq!(sidecar.setup.output("login").code, Some(0));
        until("the later log-in is logged", || sidecar.logs().matches("\"refresh_in_s\"").count() > logged);
        assert_eq!(sidecar.logs().matches("this machine's clock is").count(), told, "{offset}");
    }
    assert!(sidecar.logs().contains("s ahead of the server's"));
}

#[test]
fn without_a_date_our_own_clock_counts() {
    let simulator = simulator();
    simulator.control().set_omit_date(true);
    let sidecar = Sidecar::start(&simulator).ready();
    let event = sidecar.wait_for_event(|event| event["message"] == "logged in");
    assert!((3590..=3600).contains(&event["expires_in_s"].as_u64().unwrap()), "{event}");
}

#[test]
fn a_token_that_has_ended_by_the_servers_clock_is_no_token() {
    let simulator = simulator();
    // By ours it would end in an hour.
    simulator.control().set_clock_offset(2 * HOUR);
    simulator.control().set_login_fault(Some(LoginFault::ExpiredToken));
    let sidecar = Sidecar::start(&simulator);
    let event = sidecar.wait_for_log("log-in failed");
    assert!(event.contains("backing_off"), "{event}");
    assert_eq!(simulator.control().counts().requests, 0);
}

fn is_refreshed_in_time(offset: i64) {
    let simulator = Simulator::start(Options { token_life: Duration::from_secs(2), ..Options::default() }).unwrap();
    let control = simulator.control();
    control.set_clock_offset(offset);
    let sidecar = Sidecar::start(&simulator).ready();
    until_within(Duration::from_secs(15), "at least two log-ins have succeeded", || control.counts().login_ok >= 2);
    assert_eq!(sidecar.get("/users/account").status, 200);
    assert_eq!(control.counts().unauthorized, 0);
}
