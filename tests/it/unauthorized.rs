//! A 401 from upstream: one log-in for all, one replay each, and no storm.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use careportals_simulator::LoginFault;

use crate::harness::{
    Answer, Crowd, LOGGED_IN, Request, SetAtEnd, Setup, Sidecar, now, outgrow_the_floor, revoke, simulator, until,
};

#[test]
fn a_request_with_a_revoked_token_is_sent_once_more_with_a_new_one() {
    let simulator = simulator();
    let control = simulator.control();
    let sidecar = Setup::eager(&simulator).start().ready();
    let revoked = control.last_token().unwrap();
    revoke(&simulator);
    let answer = sidecar.get("/_sim/echo?a=b");
    assert_eq!(answer.status, 200, "{answer:?}");
    let renewed = control.last_token().unwrap();
    let seen = control.requests();
    let sent: Vec<_> = seen.iter().filter(|seen| seen.target == "/_sim/echo?a=b").collect();
    let carried: Vec<_> = sent.iter().map(|seen| seen.values("authorization")).collect();
    assert_eq!(carried, [[format!("Bearer {revoked}")], [format!("Bearer {renewed}")]]);
    assert_eq!(control.counts().logins, 2);
}

#[test]
fn a_replay_needs_no_new_connection() {
    let simulator = simulator();
    let control = simulator.control();
    let sidecar = Setup::eager(&simulator).start();
    let mut client = sidecar.connect();
    assert_eq!(client.send(&Request::get("/users/account")).status, 200);
    let before = control.counts().connections;
    revoke(&simulator);
    assert_eq!(client.send(&Request::get("/users/account")).status, 200);
    let counts = control.counts();
    assert_eq!((counts.logins, counts.connections), (2, before + 1), "only the log-in has a connection of its own");
}

#[test]
fn five_hundred_requests_after_a_revocation_share_one_log_in() {
    let simulator = simulator();
    let control = simulator.control();
    let mut setup = Setup::eager(&simulator);
    setup.account("token_wait", "30s").api("connect_timeout", "30s");
    let sidecar = setup.start().ready();
    revoke(&simulator);
    control.hold_requests(true);
    let crowd = Crowd::send(&sidecar, 500, &Request::get("/users/account"));
    // All of them carry the revoked token.
    until("the upstream has got 501 requests", || control.counts().requests == 501);
    control.hold_requests(false);
    crowd.succeeds();
    let counts = control.counts();
    assert_eq!((counts.logins, counts.requests, counts.unauthorized), (2, 1001, 500));
}

#[test]
fn other_requests_wait_for_the_log_in_that_a_401_caused() {
    let simulator = simulator();
    let control = simulator.control();
    let sidecar = Setup::eager(&simulator).start().ready();
    revoke(&simulator);
    control.hold_logins(true);
    let first = Crowd::send(&sidecar, 1, &Request::get("/users/account"));
    until("two log-ins have begun", || control.counts().logins == 2);
    let others = Crowd::send(&sidecar, 5, &Request::get("/customers"));
    control.hold_logins(false);
    first.succeeds();
    others.succeeds();
    let counts = control.counts();
    assert_eq!((counts.by_route["GET /customers"], counts.unauthorized, counts.logins), (5, 1, 2));
}

#[test]
fn a_body_is_replayed_byte_for_byte() {
    let simulator = simulator();
    let control = simulator.control();
    let sidecar = Setup::eager(&simulator).start().ready();
    let body: Vec<u8> = (0..60_000_u32).map(|index| u8::try_from(index * 7 % 251).unwrap()).collect();
    let mut connection = sidecar.connect();
    let untouched = connection.send(&Request::post("/_sim/mirror", body.clone()));
    assert_eq!((untouched.status, control.counts().logins), (200, 1));
    for (logins, method) in (2..).zip(["POST", "PUT", "PATCH", "DELETE"]) {
        revoke(&simulator);
        let request = Request::new(method, "/_sim/mirror").body(body.clone());
        let answer = connection.send(&request);
        assert_eq!(answer.status, 200, "{method}: {answer:?}");
        assert!(answer.body == body, "{method}: other bytes");
        assert_eq!(control.counts().logins, logins, "{method}");
    }
    revoke(&simulator);
    connection.write(b"POST /_sim/mirror HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n");
    connection.write(b"5\r\nfirst\r\n6\r\nsecond\r\n0\r\n\r\n");
    let answer = connection.answer("POST");
    assert_eq!((answer.status, answer.text()), (200, "firstsecond"));
}

#[test]
fn a_body_that_is_still_coming_when_the_401_comes_is_replayed_whole() {
    let simulator = simulator();
    let control = simulator.control();
    let sidecar = Setup::eager(&simulator).start().ready();
    revoke(&simulator);
    let mut connection = sidecar.connect();
    connection.write(b"POST /_sim/mirror HTTP/1.1\r\nHost: localhost\r\nContent-Length: 11\r\n\r\nfirst");
    until("the 401 is on its way", || control.counts().unauthorized == 1);
    connection.write(b"second");
    let answer = connection.answer("POST");
    assert_eq!((answer.status, answer.text()), (200, "firstsecond"));
    assert_eq!(control.counts().logins, 2);
}

#[test]
fn a_body_beyond_replay_buffer_is_not_replayed_and_its_401_is_passed_on() {
    // How long the body is, and how often it is sent.
    for (length, times) in [(1024, 2), (1025, 1)] {
        let simulator = simulator();
        let control = simulator.control();
        let mut setup = Setup::eager(&simulator);
        setup.api("replay_buffer", "1KiB");
        let sidecar = setup.start().ready();
        outgrow_the_floor();
        // This path reads a body to its end before it refuses it.
        is_upstreams_401(&sidecar.send(&Request::post("/_sim/always-401", vec![b'x'; length])));
        assert_eq!(control.counts().by_route["/_sim/always-401"], times, "{length}");
        // Either way it has caused a log-in.
        sidecar.wait_for_logs(LOGGED_IN, 2);
        assert_eq!(control.counts().logins, 2, "{length}");
        if times == 1 {
            sidecar.wait_for_log("\"relogin\":\"body_gone\"");
        }
    }
}

#[test]
fn a_second_401_is_passed_on_as_it_came() {
    let simulator = simulator();
    let control = simulator.control();
    let sidecar = Setup::eager(&simulator).start().ready();
    outgrow_the_floor();
    is_upstreams_401(&sidecar.get("/_sim/always-401"));
    let counts = control.counts();
    assert_eq!((counts.by_route["/_sim/always-401"], counts.logins), (2, 2));
}

#[test]
fn a_401_for_a_token_younger_than_the_floor_is_passed_on_without_a_log_in() {
    let simulator = simulator();
    let control = simulator.control();
    // The floor is 30 s unless it is set.
    let sidecar = Sidecar::start(&simulator).ready();
    control.revoke_tokens();
    for answer in Crowd::send(&sidecar, 20, &Request::get("/customers")).answers() {
        is_upstreams_401(&answer);
    }
    let counts = control.counts();
    assert_eq!((counts.by_route["GET /customers"], counts.logins), (20, 1));
}

#[test]
fn a_log_in_that_does_not_cure_raises_the_floor() {
    let simulator = simulator();
    let control = simulator.control();
    let sidecar = Setup::eager(&simulator).start().ready();
    let mut connection = sidecar.connect();
    for _ in 0..3 {
        // Old enough for the floor as it is set.
        outgrow_the_floor();
        is_upstreams_401(&connection.send(&Request::get("/_sim/always-401")));
    }
    // One log-in and one replay, and then the floor is seconds high.
    let counts = control.counts();
    assert_eq!((counts.by_route["/_sim/always-401"], counts.logins), (4, 2));
    assert_eq!(sidecar.get("/users/account").status, 200);
}

#[test]
fn a_log_in_that_cures_leaves_the_floor_as_it_is() {
    let simulator = simulator();
    let control = simulator.control();
    let sidecar = Setup::eager(&simulator).start().ready();
    for logins in 2..=5 {
        revoke(&simulator);
        assert_eq!(sidecar.get("/users/account").status, 200);
        assert_eq!(control.counts().logins, logins);
    }
}

#[test]
fn so_does_one_whose_request_can_not_be_sent_again_if_others_are_answered() {
    let simulator = simulator();
    let control = simulator.control();
    let mut setup = Setup::eager(&simulator);
    setup.api("replay_buffer", "1KiB");
    let sidecar = setup.start().ready();
    for logins in 2..=5 {
        revoke(&simulator);
        is_upstreams_401(&sidecar.send(&Request::post("/_sim/echo", "x".repeat(4096))));
        until("another log-in has begun", || control.counts().logins == logins);
        assert_eq!(sidecar.get("/users/account").status, 200);
        assert_eq!(control.counts().logins, logins);
    }
}

#[test]
fn a_failed_log_in_passes_the_401_on_and_starts_no_other() {
    // None of these tries again soon by itself.
    let busy = [429, 503].map(|status| LoginFault::StatusRetryAfter(status, "600".to_owned()));
    for fault in [LoginFault::Status(403)].into_iter().chain(busy) {
        let simulator = simulator();
        let control = simulator.control();
        let sidecar = Setup::eager(&simulator).start().ready();
        let token = control.last_token().unwrap();
        revoke(&simulator);
        control.set_login_fault(Some(fault.clone()));
        for _ in 0..3 {
            is_upstreams_401(&sidecar.get("/customers"));
        }
        let counts = control.counts();
        assert_eq!((counts.by_route["GET /customers"], counts.logins), (3, 2), "{fault:?}");
        // The suspect token is in use again: some paths may still take it.
        let seen = control.requests();
        let last = seen.last().unwrap();
        assert_eq!(last.values("authorization"), [format!("Bearer {token}")], "{fault:?}");
    }
}

#[test]
fn requests_whose_token_was_refused_wait_for_the_log_in_that_is_already_scheduled() {
    let simulator = simulator();
    let control = simulator.control();
    let mut setup = Setup::eager(&simulator);
    setup.account("token_wait", "60s");
    let sidecar = setup.start().ready();
    revoke(&simulator);
    control.set_login_fault(Some(LoginFault::Status(500)));
    // The first one begins the log-in that fails; the others find that one is scheduled.
    let first = Crowd::send(&sidecar, 1, &Request::get("/users/account"));
    until("the log-in has failed", || sidecar.logs().contains("login_server_failed"));
    let others = Crowd::send(&sidecar, 3, &Request::post("/_sim/mirror", "body"));
    until("their token was refused", || control.counts().unauthorized == 4);
    control.set_login_fault(None);
    first.succeeds();
    others.succeeds();
    let counts = control.counts();
    assert_eq!((counts.login_ok, counts.unauthorized), (2, 4));
}

#[test]
fn statuses_that_may_pass_are_no_rejection() {
    let simulator = simulator();
    let control = simulator.control();
    let sidecar = Setup::eager(&simulator).start().ready();
    for status in [408, 421, 425, 500, 503] {
        revoke(&simulator);
        control.set_login_fault(Some(LoginFault::Status(status)));
        let failures = control.counts().logins - control.counts().login_ok;
        let waiting = Crowd::send(&sidecar, 1, &Request::get("/users/account"));
        until("the log-in has failed", || control.counts().logins - control.counts().login_ok > failures);
        control.set_login_fault(None);
        waiting.succeeds();
    }
    assert!(!sidecar.logs().contains("rejected"), "{}", sidecar.logs());
}

#[test]
fn a_log_in_slower_than_token_wait_passes_the_401_on_and_makes_others_wait_no_longer() {
    let simulator = simulator();
    let control = simulator.control();
    let mut setup = Setup::eager(&simulator);
    setup.account("token_wait", "400ms");
    let sidecar = setup.start();
    sidecar.wait_for_log("logged in");
    let sidecar = sidecar.ready();
    revoke(&simulator);
    control.hold_logins(true);
    let first = Crowd::send(&sidecar, 1, &Request::get("/users/account"));
    until("two log-ins have begun", || control.counts().logins == 2);
    let other = sidecar.get("/customers");
    assert_eq!((other.status, other.problem().as_str()), (503, "token_pending"));
    is_upstreams_401(&first.answers()[0]);
    control.hold_logins(false);
    until("two log-ins have succeeded", || control.counts().login_ok == 2);
    assert_eq!(sidecar.get("/customers").status, 200);
    assert_eq!(control.counts().logins, 2);
}

#[test]
fn relogin_on_names_the_statuses_that_make_a_token_suspect() {
    let simulator = simulator();
    let control = simulator.control();
    let mut setup = Setup::eager(&simulator);
    setup.account("relogin_on", "[403, 419]");
    let sidecar = setup.start().ready();
    outgrow_the_floor();
    assert_eq!(sidecar.get("/_sim/status/403").status, 403);
    assert_eq!((control.counts().by_route["/_sim/status"], control.counts().logins), (2, 2));
    revoke(&simulator);
    is_upstreams_401(&sidecar.get("/users/account"));
    assert_eq!(control.counts().logins, 2, "401 is not among them");
}

#[test]
fn a_path_that_always_answers_401_takes_nothing_else_down() {
    const CLIENTS: usize = 4;
    const EACH: usize = 2500;
    const LOGIN: Duration = Duration::from_millis(50);
    let simulator = simulator();
    let control = simulator.control();
    control.set_login_delay(LOGIN);
    let sidecar = Setup::eager(&simulator).start().ready();
    let begun = now();
    let over = AtomicBool::new(false);
    let (served, longest) = std::thread::scope(|scope| {
        let other = scope.spawn(|| {
            let (mut served, mut longest) = (0, Duration::ZERO);
            let mut connection = sidecar.connect();
            while !over.load(Ordering::Relaxed) {
                let sent = now();
                let answer = connection.send(&Request::get("/users/account"));
                longest = longest.max(sent.elapsed());
                assert_eq!(answer.status, 200, "{answer:?}");
                served += 1;
            }
            (served, longest)
        });
        let at_end = SetAtEnd(&over);
        let hitting: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(|| hit(&sidecar, EACH))).collect();
        for hits in hitting {
            hits.join().unwrap();
        }
        drop(at_end);
        other.join().unwrap()
    });
    let counts = control.counts();
    assert!(counts.by_route["/_sim/always-401"] >= (CLIENTS * EACH) as u64);
    assert!(served > 0);
    // One log-in at start, one at once, and one more each time that a floor of 2, 4, 8 … seconds has passed.
    let mut most = 2;
    let (mut floor, mut passed) = (Duration::from_secs(2), Duration::ZERO);
    while passed + floor <= begun.elapsed() {
        passed += floor;
        floor *= 2;
        most += 1;
    }
    assert!(counts.logins <= most, "{} log-ins in {:?}", counts.logins, begun.elapsed());
    // Room for a busy machine; a wait for a second log-in would still show in their number.
    assert!(longest < LOGIN + Duration::from_secs(5), "{longest:?}");
}

#[test]
fn an_account_whose_tokens_are_all_refused_is_not_said_to_work_until_one_is_taken() {
    let simulator = simulator();
    let mut setup = Setup::eager(&simulator);
    setup.with_telemetry();
    let sidecar = setup.start().ready();
    let trouble = || sidecar.telemetry("/status").json()["accounts"][0].clone();
    is_upstreams_401(&sidecar.get("/_sim/always-401"));
    assert!(trouble()["trouble"].is_null(), "one 401 may be over with the next answer");
    let began = now();
    until("answers were 401s and nothing else for five seconds", || {
        is_upstreams_401(&sidecar.get("/_sim/always-401"));
        trouble()["trouble"] == "token_refused"
    });
    assert!(began.elapsed() > Duration::from_secs(4));
    assert!(trouble()["since"].is_string() && trouble()["advice"].is_string(), "{}", trouble());
    assert_eq!(trouble()["usable"], true, "{}", trouble());
    let api = sidecar.telemetry("/status").json()["apis"][0].clone();
    assert_eq!((&api["state"], &api["reason"]), (&"failing".into(), &"status 401 and no other".into()), "{api}");
    simulator.control().set_login_fault(Some(LoginFault::Status(500)));
    until("the log-in fails, too", || {
        is_upstreams_401(&sidecar.get("/_sim/always-401"));
        !trouble()["last_error"].is_null()
    });
    assert_eq!(trouble()["trouble"], "token_refused", "that makes nothing better: {}", trouble());
    simulator.control().set_login_fault(None);
    until("it logs in again", || trouble()["last_error"].is_null());
    assert_eq!(sidecar.get("/users/account").status, 200);
    assert!(trouble()["trouble"].is_null(), "{}", trouble());
}

/// Asks for the path that always answers 401, many times on one connection, a few at a time.
fn hit(sidecar: &Sidecar, times: usize) {
    const BATCH: usize = 50;
    let batch = Request::get("/_sim/always-401").head().repeat(BATCH);
    let mut connection = sidecar.connect();
    for _ in 0..times / BATCH {
        connection.write(&batch);
        for _ in 0..BATCH {
            is_upstreams_401(&connection.answer("GET"));
        }
    }
}

fn is_upstreams_401(answer: &Answer) {
    assert_eq!(answer.status, 401, "{answer:?}");
    assert_eq!(answer.header("proxy-status"), None, "{answer:?}");
    assert_eq!(answer.header("content-type"), Some("application/json"), "{answer:?}");
}
