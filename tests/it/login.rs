//! The first log-in: what requests do meanwhile, and what becomes of one that fails.

use std::time::Duration;

use careportals_simulator::{LoginFault, Simulator};

use crate::harness::{Answer, Crowd, Request, Setup, Sidecar, now, simulator, until, wall_clock};

#[test]
fn requests_are_accepted_before_the_first_log_in_and_wait_for_it() {
    let simulator = simulator();
    let control = simulator.control();
    control.hold_logins(true);
    let sidecar = Sidecar::start(&simulator);
    let crowd = Crowd::send(&sidecar, 3, &Request::get("/_sim/echo"));
    until("one log-in has begun", || control.counts().logins == 1);
    assert_eq!(control.counts().requests, 0);
    control.hold_logins(false);
    let answers = crowd.answers();
    let expected = [format!("Bearer {}", control.last_token().unwrap())];
    for answer in answers {
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.echoed("authorization"), expected);
    }
    assert_eq!((control.counts().logins, control.counts().unauthorized), (1, 0));
}

#[test]
fn five_hundred_requests_at_cold_start_share_one_log_in() {
    let simulator = simulator();
    let control = simulator.control();
    control.hold_logins(true);
    let mut setup = Setup::new(&simulator);
    setup.account("token_wait", "30s").api("connect_timeout", "30s");
    let sidecar = setup.start();
    let crowd = Crowd::send(&sidecar, 500, &Request::get("/users/account"));
    control.hold_logins(false);
    crowd.succeeds();
    let counts = control.counts();
    assert_eq!((counts.logins, counts.requests, counts.unauthorized), (1, 500, 0));
}

#[test]
fn a_request_waits_for_a_token_no_longer_than_token_wait() {
    let simulator = simulator();
    simulator.control().hold_logins(true);
    let mut setup = Setup::new(&simulator);
    setup.account("token_wait", "300ms");
    let sidecar = setup.start();
    let begun = now();
    let answer = sidecar.get("/users/account");
    assert!((Duration::from_millis(300)..Duration::from_secs(9)).contains(&begun.elapsed()), "{:?}", begun.elapsed());
    assert_eq!((answer.status, answer.problem().as_str()), (503, "token_pending"));
    assert_eq!(retry_after(&answer), 1);
    assert_eq!(simulator.control().counts().requests, 0);
}

#[test]
fn after_a_failed_log_in_requests_are_told_when_to_come_back() {
    let simulator = simulator();
    let control = simulator.control();
    let faults = [
        LoginFault::Status(500),
        LoginFault::Status(503),
        LoginFault::Reset,
        LoginFault::Garbage,
        LoginFault::Huge,
        LoginFault::EmptyToken,
        LoginFault::NoToken,
        LoginFault::BadTokenBytes,
        LoginFault::ExpiredToken,
    ];
    for fault in faults {
        control.reset_counts();
        control.set_login_fault(Some(fault.clone()));
        let sidecar = impatient(&simulator).start();
        let event = sidecar.wait_for_log("log-in failed");
        assert!(event.contains("\"backing_off\""), "{fault:?}: {event}");
        let answer = sidecar.get("/users/account");
        assert_eq!((answer.status, answer.problem().as_str()), (503, "login_failing"), "{fault:?}");
        assert!((1..=8).contains(&retry_after(&answer)), "{fault:?}: {answer:?}");
        let counts = control.counts();
        assert!(counts.logins <= 3, "{fault:?}: it hammers");
        assert_eq!(counts.requests, 0, "{fault:?}");
    }
}

#[test]
fn a_log_in_without_an_answer_fails_after_login_timeout() {
    let simulator = simulator();
    simulator.control().set_login_fault(Some(LoginFault::Hang));
    let mut setup = impatient(&simulator);
    setup.account("login_timeout", "100ms");
    let sidecar = setup.start();
    let event = sidecar.wait_for_log("log-in failed");
    assert!(event.contains("login_timeout"), "{event}");
    let answer = sidecar.get("/users/account");
    assert_eq!((answer.status, answer.problem().as_str()), (503, "login_failing"));
}

#[test]
fn a_server_that_is_not_there_is_a_failed_log_in() {
    let simulator = simulator();
    let setup = impatient(&simulator);
    simulator.stop();
    let sidecar = setup.start();
    sidecar.wait_for_log("log-in failed");
    let answer = sidecar.get("/users/account");
    assert_eq!((answer.status, answer.problem().as_str()), (503, "login_failing"));
}

#[test]
fn a_server_whose_certificate_is_not_trusted_sees_no_password() {
    let (simulator, other) = (simulator(), simulator());
    let setup = impatient(&simulator);
    setup.file("ca.pem", other.ca_pem());
    let sidecar = setup.start();
    sidecar.wait_for_log("log-in failed");
    let answer = sidecar.get("/users/account");
    assert_eq!((answer.status, answer.problem().as_str()), (503, "login_failing"));
    assert_eq!(simulator.control().counts().logins, 0);
}

#[test]
fn the_log_tells_each_cause_of_failing_log_ins_once_also_where_they_take_turns() {
    let simulator = simulator();
    let sidecar = Setup::controlled(&simulator).start().ready();
    let log_in_fails_by = |fault: &LoginFault| {
        simulator.control().set_login_fault(Some(fault.clone()));
        assert_eq!(sidecar.setup.output("login").code, Some(1));
    };
    // Each group has one word for `reason`.
    for (told, faults) in [
        (["status 401", "status 404", "status 302"], [401, 404, 302].map(LoginFault::Status)),
        (["not JSON", "holds no token", "expired already"], [LoginFault::Garbage, LoginFault::NoToken, LoginFault::ExpiredToken]),
    ] {
        for _ in 0..2 {
            faults.iter().for_each(log_in_fails_by);
        }
        for cause in told {
            sidecar.wait_for_log(cause);
            let lines = sidecar
                .events()
                .into_iter()
                .filter(|event| event["message"].as_str().is_some_and(|said| said.contains(cause)))
                .count();
            assert_eq!(lines, 1, "{cause}: {}", sidecar.logs());
        }
    }
}

#[test]
fn a_request_waits_for_the_next_attempt_when_that_is_close() {
    let simulator = simulator();
    simulator.control().fail_next_logins(1, LoginFault::Status(503));
    let sidecar = Sidecar::start(&simulator);
    sidecar.wait_for_log("log-in failed");
    let answer = sidecar.get("/users/account");
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(simulator.control().counts().logins, 2);
}

#[test]
fn a_log_in_told_to_wait_waits_as_long_as_it_was_told() {
    let in_two_minutes = httpdate::fmt_http_date(wall_clock() + Duration::from_secs(120));
    // What was asked for, and the seconds that may be left.
    let cases = [("300", 290..=300), (&in_two_minutes, 100..=120), ("100000", 890..=900)];
    for (asked, left) in cases {
        let simulator = simulator();
        simulator.control().set_login_fault(Some(LoginFault::StatusRetryAfter(429, asked.to_owned())));
        let sidecar = Sidecar::start(&simulator);
        sidecar.wait_for_log("log-in failed");
        let begun = now();
        let answer = sidecar.get("/users/account");
        assert!(begun.elapsed() < Duration::from_secs(8), "{asked}: it waited for an attempt beyond token_wait");
        assert_eq!((answer.status, answer.problem().as_str()), (503, "login_failing"), "{asked}");
        assert!(left.contains(&retry_after(&answer)), "{asked}: {answer:?}");
        assert_eq!(simulator.control().counts().logins, 1, "{asked}");
    }
}

#[test]
fn refused_credentials_are_not_tried_again_soon_and_no_request_waits() {
    let simulator = simulator();
    let control = simulator.control();
    for status in [300, 304, 400, 401, 403, 404, 406, 422] {
        control.reset_counts();
        control.set_login_fault(Some(LoginFault::Status(status)));
        is_rejected(&simulator, &Sidecar::start(&simulator));
    }
    control.reset_counts();
    control.set_login_fault(None);
    let mut setup = Setup::new(&simulator);
    setup.variable("CAREPORTALS_PASSWORD", "not-the-password");
    is_rejected(&simulator, &setup.start());
}

#[test]
fn a_log_in_never_follows_a_redirect() {
    let (simulator, elsewhere) = (simulator(), simulator());
    let both = format!("{}{}", simulator.ca_pem(), elsewhere.ca_pem());
    let location = format!("{}/patient/auth", elsewhere.base_url());
    simulator.control().set_login_fault(Some(LoginFault::Redirect(location)));
    let setup = Setup::new(&simulator);
    setup.file("ca.pem", &both);
    is_rejected(&simulator, &setup.start());
    assert_eq!(elsewhere.control().counts().connections, 0);
}

fn is_rejected(simulator: &Simulator, sidecar: &Sidecar) {
    let event = sidecar.wait_for_log("log-in failed");
    assert!(event.contains("\"rejected\""), "{event}");
    let begun = now();
    let answer = sidecar.get("/users/account");
    assert!(begun.elapsed() < Duration::from_secs(8), "it waited");
    assert_eq!((answer.status, answer.problem().as_str()), (503, "login_rejected"));
    assert!((45..=60).contains(&retry_after(&answer)), "{answer:?}");
    let counts = simulator.control().counts();
    assert_eq!((counts.logins, counts.requests), (1, 0));
}

/// Requests wait, but not for the next attempt of a log-in that failed.
fn impatient(simulator: &Simulator) -> Setup {
    let mut setup = Setup::new(simulator);
    setup.account("token_wait", "500ms");
    setup
}

fn retry_after(answer: &Answer) -> u64 {
    answer.header("retry-after").unwrap_or_else(|| panic!("{answer:?}")).parse().unwrap()
}
