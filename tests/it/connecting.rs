//! What becomes of the token while a request waits for its connection: a request carries the token of the moment when it is
//! sent, never one that expired or was withdrawn meanwhile.

use std::{net::Shutdown, time::Duration};

use careportals_simulator::{Options, Simulator};
use rustix::process::Signal;

use crate::harness::{
    Answer, Crowd, HeldUpstream, LOGGED_IN, OFF_AND_AUTO, Request, Sidecar, never, revoke, simulator, until, websocket,
};

/// This is far longer than a request takes to arrive once its connection is there.
const LONG_ENOUGH: Duration = Duration::from_millis(300);

fn log_out(sidecar: &Sidecar) {
    sidecar.signal(Signal::USR1);
    sidecar.wait_for_log("\"logged_out\"");
}

fn start(upstream: &HeldUpstream, simulator: &Simulator, http2: &str) -> Sidecar {
    let mut setup = upstream.setup(simulator);
    setup.api("http2", http2).with_telemetry();
    let sidecar = setup.start();
    sidecar.wait_for_log(LOGGED_IN);
    sidecar
}

fn assert_logged_out(answers: &[Answer]) {
    for answer in answers {
        assert_eq!((answer.status, answer.problem().as_str()), (503, "logged_out"), "{answer:?}");
    }
}

#[test]
fn a_log_out_during_the_tls_handshake_keeps_the_token_from_being_sent() {
    for http2 in OFF_AND_AUTO {
        for request in [Request::get("/users/account"), websocket::handshake("/_sim/websocket")] {
            let simulator = simulator();
            let upstream = HeldUpstream::before(&simulator);
            let sidecar = start(&upstream, &simulator, http2);
            let crowd = Crowd::send(&sidecar, 1, &request);
            let held = upstream.accept();
            log_out(&sidecar);
            let _open = held.go_on();
            assert_logged_out(&crowd.answers());
            never("a request arrives", LONG_ENOUGH, || simulator.control().counts().requests > 0);
        }
    }
}

#[test]
fn requests_that_share_a_connection_being_made_are_not_sent_after_a_log_out() {
    let simulator = simulator();
    let upstream = HeldUpstream::before(&simulator);
    let sidecar = start(&upstream, &simulator, "auto");
    let crowd = Crowd::send(&sidecar, 5, &Request::get("/users/account"));
    let held = upstream.accept();
    log_out(&sidecar);
    let _open = held.go_on();
    assert_logged_out(&crowd.answers());
    never("a request arrives", LONG_ENOUGH, || simulator.control().counts().requests > 0);
}

#[test]
fn a_request_whose_token_expired_while_it_connected_waits_for_the_next_one_and_keeps_no_connection_from_others() {
    for http2 in OFF_AND_AUTO {
        let simulator = Simulator::start(Options { token_life: Duration::from_secs(3), ..Options::default() }).unwrap();
        let control = simulator.control();
        let upstream = HeldUpstream::before(&simulator);
        let sidecar = start(&upstream, &simulator, http2);
        let first = control.last_token().unwrap();
        control.hold_logins(true);
        control.set_token_life(Duration::from_secs(3600));
        let crowd = Crowd::send(&sidecar, 1, &Request::get("/users/account"));
        let held = upstream.accept();
        until("the token has expired", || sidecar.telemetry("/readyz").status == 503);
        let _open = held.go_on();
        never("a request arrives", LONG_ENOUGH, || control.counts().requests > 0);
        control.hold_logins(false);
        crowd.succeeds();
        let sent = control.requests();
        assert_eq!(sent.len(), 1, "{http2}");
        let token = control.last_token().unwrap();
        assert_ne!(token, first, "{http2}");
        assert_eq!(sent[0].values("authorization"), [format!("Bearer {token}")], "{http2}");
        assert!(!upstream.has_more(), "{http2}: the request gave its connection back, and took it again");
    }
}

#[test]
fn a_token_that_was_renewed_while_a_request_connected_is_sent_in_place_of_the_expired_one() {
    for http2 in OFF_AND_AUTO {
        let simulator = Simulator::start(Options { token_life: Duration::from_secs(3), ..Options::default() }).unwrap();
        let control = simulator.control();
        let upstream = HeldUpstream::before(&simulator);
        let sidecar = start(&upstream, &simulator, http2);
        control.set_token_life(Duration::from_secs(3600));
        let crowd = Crowd::send(&sidecar, 1, &Request::get("/users/account"));
        let held = upstream.accept();
        sidecar.wait_for_logs(LOGGED_IN, 2);
        let _open = held.go_on();
        crowd.succeeds();
        let token = control.last_token().unwrap();
        assert_eq!(control.requests()[0].values("authorization"), [format!("Bearer {token}")], "{http2}");
    }
}

#[test]
fn a_wait_for_another_token_after_the_connection_ends_with_token_wait() {
    let simulator = Simulator::start(Options { token_life: Duration::from_secs(3), ..Options::default() }).unwrap();
    let control = simulator.control();
    let upstream = HeldUpstream::before(&simulator);
    let mut setup = upstream.setup(&simulator);
    setup.with_telemetry().account("token_wait", "1s");
    let sidecar = setup.start();
    sidecar.wait_for_log(LOGGED_IN);
    control.hold_logins(true);
    let crowd = Crowd::send(&sidecar, 1, &Request::get("/users/account"));
    let held = upstream.accept();
    until("the token has expired", || sidecar.telemetry("/readyz").status == 503);
    let _open = held.go_on();
    let answers = crowd.answers();
    assert_eq!((answers[0].status, answers[0].problem().as_str()), (503, "token_pending"), "{answers:?}");
    assert_eq!(control.counts().requests, 0);
}

#[test]
fn a_request_that_is_sent_again_after_a_failure_carries_no_token_from_before_a_log_out() {
    for http2 in OFF_AND_AUTO {
        let simulator = simulator();
        let control = simulator.control();
        let upstream = HeldUpstream::before(&simulator);
        let sidecar = start(&upstream, &simulator, http2);
        control.hold_requests(true);
        let crowd = Crowd::send(&sidecar, 1, &Request::get("/users/account"));
        let first = upstream.accept().go_on();
        until("the request has arrived", || control.counts().requests == 1);
        first.shutdown(Shutdown::Both).unwrap();
        let second = upstream.accept();
        log_out(&sidecar);
        let _open = second.go_on();
        assert_logged_out(&crowd.answers());
        never("the request arrives again", LONG_ENOUGH, || control.counts().requests > 1);
        control.hold_requests(false);
    }
}

#[test]
fn a_request_that_is_sent_again_after_a_401_carries_no_token_from_before_a_log_out() {
    let simulator = simulator();
    let control = simulator.control();
    let upstream = HeldUpstream::before(&simulator);
    let sidecar = start(&upstream, &simulator, "off");
    revoke(&simulator);
    // With a body it takes another connection.
    let crowd = Crowd::send(&sidecar, 1, &Request::post("/_sim/echo", "body"));
    let _first = upstream.accept().go_on();
    let second = upstream.accept();
    log_out(&sidecar);
    let _open = second.go_on();
    assert_logged_out(&crowd.answers());
    assert_eq!(control.counts().requests, 1);
    never("the request arrives again", LONG_ENOUGH, || control.counts().requests > 1);
}

#[test]
fn a_request_whose_handshake_hangs_takes_a_connection_that_becomes_free() {
    for http2 in OFF_AND_AUTO {
        let simulator = Simulator::start(Options { http2: false, ..Options::default() }).unwrap();
        let control = simulator.control();
        let upstream = HeldUpstream::before(&simulator);
        let sidecar = start(&upstream, &simulator, http2);
        control.hold_requests(true);
        let first = Crowd::send(&sidecar, 1, &Request::get("/users/account"));
        let _open = upstream.accept().go_on();
        until("the first request has arrived", || control.counts().requests == 1);
        let second = Crowd::send(&sidecar, 1, &Request::get("/users/account"));
        let _held = upstream.accept();
        control.hold_requests(false);
        first.succeeds();
        second.succeeds();
        assert_eq!(control.counts().requests, 2, "{http2}");
    }
}

#[test]
fn where_one_handshake_hangs_the_next_one_serves_all_that_wait() {
    let simulator = simulator();
    let upstream = HeldUpstream::before(&simulator);
    let sidecar = start(&upstream, &simulator, "auto");
    let crowd = Crowd::send(&sidecar, 5, &Request::get("/users/account"));
    let _held = upstream.accept();
    let _open = upstream.accept().go_on();
    crowd.succeeds();
}

#[test]
fn a_connection_ahead_of_need_whose_handshake_hangs_holds_up_no_request() {
    let simulator = simulator();
    let upstream = HeldUpstream::before(&simulator);
    let mut setup = upstream.setup(&simulator);
    setup.api("http2", "auto").api("pool_idle", "90s");
    let sidecar = setup.start();
    let _ahead = upstream.accept();
    sidecar.wait_for_log(LOGGED_IN);
    let crowd = Crowd::send(&sidecar, 2, &Request::get("/users/account"));
    let _open = upstream.accept().go_on();
    crowd.succeeds();
}
