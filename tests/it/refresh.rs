//! A token's life: when it is replaced, what is sent meanwhile, and that it is never sent too late.

use std::{ops::RangeInclusive, time::Duration};

use careportals_simulator::{Control, LoginFault, Options, Simulator};

use crate::harness::{Crowd, LOGGED_IN, Request, Setup, Sidecar, now, simulator, until, until_some};

#[test]
fn the_refresh_is_planned_between_half_and_nine_tenths_of_a_life_and_thirty_seconds_before_its_end() {
    // A life, and the seconds after which its refresh may be due.
    let cases = [(3600, 2590..=3168), (100, 69..=70), (40, 18..=20)];
    for (life, due) in cases {
        let simulator = with_life(life);
        is_planned(&Sidecar::start(&simulator), life, due);
    }
}

#[test]
fn a_token_without_an_end_lives_for_assumed_life() {
    for fault in [LoginFault::NoExp, LoginFault::OpaqueToken] {
        let simulator = simulator();
        simulator.control().set_login_fault(Some(fault));
        is_planned(&Sidecar::start(&simulator), 3600, 2590..=3168);
        let mut setup = Setup::new(&simulator);
        setup.account("assumed_life", "100s");
        is_planned(&setup.start().ready(), 100, 69..=70);
    }
}

#[test]
fn a_token_is_replaced_before_its_end_while_requests_run() {
    let simulator = with_life(3);
    let control = simulator.control();
    let sidecar = Sidecar::start(&simulator);
    let mut connection = sidecar.connect();
    let mut sent = 0;
    until("the token is replaced", || {
        assert_eq!(connection.send(&Request::get("/users/account")).status, 200);
        sent += 1;
        control.counts().login_ok >= 2
    });
    // The new one is carried without a request having asked for it.
    carries_the_last_token(&sidecar, control);
    let counts = control.counts();
    assert_eq!((counts.requests, counts.unauthorized), (sent + counts.by_route["/_sim/echo"], 0));
}

#[test]
fn while_a_refresh_is_answered_with_a_failure_the_valid_token_goes_on() {
    goes_on(LoginFault::Status(503));
}

#[test]
fn while_a_refresh_is_refused_the_valid_token_goes_on() {
    goes_on(LoginFault::Status(401));
}

#[test]
fn while_a_refresh_gets_no_answer_the_valid_token_goes_on() {
    goes_on(LoginFault::Hang);
}

#[test]
fn an_expired_token_is_never_sent() {
    let simulator = with_life(2);
    let control = simulator.control();
    let mut setup = Setup::new(&simulator);
    setup.account("token_wait", "150ms");
    let sidecar = setup.start();
    sidecar.wait_for_log("logged in");
    let sidecar = sidecar.ready();
    let issued = now();
    control.hold_logins(true);
    let mut connection = sidecar.connect();
    let (mut passed, mut refused) = (1, 0);
    // By the server's clock it has ended for certain when this is over.
    while issued.elapsed() < Duration::from_millis(2300) || refused == 0 {
        let answer = connection.send(&Request::get("/users/account"));
        if answer.status == 200 {
            passed += 1;
        } else {
            assert_eq!((answer.status, answer.problem().as_str()), (503, "token_pending"));
            refused += 1;
        }
    }
    let counts = control.counts();
    assert_eq!((counts.requests, counts.unauthorized), (passed, 0));
    control.hold_logins(false);
    sidecar.wait_for_logs(LOGGED_IN, 2);
    assert_eq!(connection.send(&Request::get("/users/account")).status, 200);
}

#[test]
fn five_hundred_requests_at_expiry_share_one_log_in() {
    let simulator = with_life(2);
    let control = simulator.control();
    let mut setup = Setup::new(&simulator);
    setup.account("token_wait", "30s").api("connect_timeout", "30s");
    let sidecar = setup.start().ready();
    control.hold_logins(true);
    control.set_token_life(Duration::from_secs(3600));
    let before = control.counts().login_ok;
    // A token that lives for two seconds has its successor asked for when it counts as expired.
    until("another log-in has begun", || control.counts().logins == before + 1);
    let crowd = Crowd::send(&sidecar, 500, &Request::get("/users/account"));
    assert_eq!(control.counts().requests, 1);
    control.hold_logins(false);
    crowd.succeeds();
    let counts = control.counts();
    assert_eq!((counts.logins, counts.requests, counts.unauthorized), (before + 1, 501, 0));
}

#[test]
fn a_refused_refresh_takes_the_requests_down_only_when_the_token_ends() {
    let simulator = with_life(3);
    let control = simulator.control();
    let sidecar = Sidecar::start(&simulator).ready();
    control.set_login_fault(Some(LoginFault::Status(403)));
    sidecar.wait_for_log("\"rejected\"");
    let mut connection = sidecar.connect();
    let refused = until_some("the token ends", || {
        Some(connection.send(&Request::get("/users/account"))).filter(|answer| answer.status != 200)
    });
    assert_eq!((refused.status, refused.problem().as_str()), (503, "login_rejected"));
    assert_eq!((control.counts().logins, control.counts().unauthorized), (2, 0));
}

fn with_life(seconds: u64) -> Simulator {
    Simulator::start(Options { token_life: Duration::from_secs(seconds), ..Options::default() }).unwrap()
}

fn is_planned(sidecar: &Sidecar, life: u64, due: RangeInclusive<u64>) {
    let event = sidecar.wait_for_event(|event| event["message"] == "logged in");
    assert!((life - 2..=life).contains(&event["expires_in_s"].as_u64().unwrap()), "{event}");
    assert!(due.contains(&event["refresh_in_s"].as_u64().unwrap()), "{event}");
}

fn goes_on(fault: LoginFault) {
    let simulator = with_life(5);
    let control = simulator.control();
    let sidecar = Sidecar::start(&simulator).ready();
    let token = control.last_token().unwrap();
    let is_answered = fault != LoginFault::Hang;
    control.set_login_fault(Some(fault));
    until("two log-ins have begun", || control.counts().logins == 2);
    if is_answered {
        sidecar.wait_for_log("log-in failed");
    }
    let answer = sidecar.get("/_sim/echo");
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.echoed("authorization"), [format!("Bearer {token}")]);
}

/// Repeats the request while a log-in that the simulator has answered is on its way to the sidecar.
fn carries_the_last_token(sidecar: &Sidecar, control: &Control) {
    until("the new token is used", || {
        let expected = control.last_token().unwrap();
        let answer = sidecar.get("/_sim/echo");
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.echoed("authorization") == [format!("Bearer {expected}")]
    });
}
