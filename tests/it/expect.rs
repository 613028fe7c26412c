//! `Expect: 100-continue`: answered when the body is about to be read, and only then.

use careportals_simulator::Simulator;

use crate::harness::{Connection, Request, Setup, Sidecar, simulator, until};

const CONTINUE: &str = "HTTP/1.1 100 Continue\r\n\r\n";

fn post(target: &str) -> Request {
    Request::new("POST", target).header("Expect", "100-continue")
}

fn read_continue(client: &mut Connection) {
    assert_eq!(String::from_utf8(client.read_until(b"\r\n\r\n")).unwrap(), CONTINUE);
}

#[test]
fn the_client_is_told_to_go_on_and_the_upstream_is_not_asked() {
    let simulator = simulator();
    let sidecar = Sidecar::start(&simulator);
    let mut client = sidecar.connect();
    for spelling in ["100-continue", "100-Continue"] {
        let counted = Request::new("POST", "/_sim/echo").header("Expect", spelling).header("Content-Length", "4");
        client.write(&counted.head());
        read_continue(&mut client);
        client.write(b"body");
        let answer = client.answer("POST");
        assert_eq!((answer.status, answer.json()["body"].as_str()), (200, Some("body")));
        assert_eq!(answer.echoed("expect"), [""; 0]);
    }
    client.write(&post("/_sim/echo").header("Transfer-Encoding", "chunked").head());
    read_continue(&mut client);
    client.write(b"4\r\nbody\r\n0\r\n\r\n");
    let answer = client.answer("POST");
    assert_eq!((answer.json()["body"].as_str(), answer.echoed("expect").len()), (Some("body"), 0));
}

#[test]
fn a_client_that_does_not_wait_is_served_too() {
    let simulator = simulator();
    let sidecar = Sidecar::start(&simulator);
    let mut client = sidecar.connect();
    client.write(&[post("/_sim/echo").header("Content-Length", "4").head(), b"body".to_vec()].concat());
    read_continue(&mut client);
    assert_eq!(client.answer("POST").json()["body"], "body");
    // Without a body there is nothing to go on with.
    assert_eq!(client.send(&Request::get("/_sim/echo").header("Expect", "100-continue")).status, 200);
}

#[test]
fn nobody_is_told_to_go_on_before_there_is_a_token() {
    let simulator = simulator();
    let control = simulator.control();
    control.hold_logins(true);
    let mut setup = Setup::new(&simulator);
    setup.account("token_wait", "300ms");
    let sidecar = setup.start();
    let mut client = sidecar.connect();
    client.write(&post("/_sim/echo").header("Content-Length", "4").head());
    let answer = client.answer("POST");
    assert_eq!((answer.status, answer.problem().as_str()), (503, "token_pending"));
    control.hold_logins(false);
    let sidecar = sidecar.ready();
    let mut client = sidecar.connect();
    client.write(&post("/_sim/echo").header("Content-Length", "4").head());
    read_continue(&mut client);
}

#[test]
fn a_refusal_comes_without_going_on() {
    let simulator = simulator();
    let control = simulator.control();
    let sidecar = Sidecar::start(&simulator).ready();
    control.reset_counts();
    for (request, status, code) in [
        (post("/patient/auth"), 403, "login_path"),
        (post("/_sim/echo").header("Origin", "http://evil.example"), 403, "cross_site"),
        (post("/_sim/echo").host("evil.example"), 421, "host_not_allowed"),
        (Request::new("POST", "/_sim/echo").header("Expect", "200-ok"), 417, "expectation_failed"),
        (Request::new("POST", "/_sim/echo").header("Expect", "100-continue, more"), 417, "expectation_failed"),
    ] {
        for framing in [("Content-Length", "4"), ("Transfer-Encoding", "chunked")] {
            let mut client = sidecar.connect();
            client.write(&request.clone().header(framing.0, framing.1).head());
            let answer = client.answer("POST");
            assert_eq!((answer.status, answer.problem().as_str()), (status, code), "{request:?}");
            // It may take the refusal for a reason to send no body.
            let waits = status != 417;
            assert_eq!(answer.header("connection"), waits.then_some("close"), "{request:?}");
            // Nor afterwards.
            client.finish_writing();
            assert_eq!(client.read_to_end(), b"", "{request:?}");
        }
    }
    assert_eq!(control.counts().requests, 0);
}

#[test]
fn an_upstream_that_answers_at_once_is_heard_before_the_body_is_there() {
    let simulator = simulator();
    let sidecar = Sidecar::start(&simulator).ready();
    let mut client = sidecar.connect();
    client.write(&post("/_sim/early?status=413").header("Content-Length", "1000000").head());
    let mut answer = client.answer("POST");
    if answer.status == 100 {
        answer = client.answer("POST");
    }
    assert_eq!(answer.status, 413);
    let over = |simulator: &Simulator| simulator.control().requests().iter().any(|seen| seen.status == Some(413));
    assert!(over(&simulator));
    drop(client);
    until("every exchange is over", || simulator.control().requests().iter().all(|seen| seen.over));
}
