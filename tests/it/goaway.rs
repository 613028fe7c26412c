//! A server that says which requests it did not process: those are sent again, whatever their method, and no others are
//! that must not arrive twice.

use crate::harness::{
    Connection, Crowd, Http2Peer, ManualHttp2, Request, Setup, Sidecar,
    frames::{CANCEL, GOAWAY, HTTP_1_1_REQUIRED, INTERNAL_ERROR, NO_ERROR, REFUSED_STREAM},
    simulator, until,
};

/// Sends a request, and does not wait for its answer.
fn begin(sidecar: &Sidecar, method: &str, body: &str) -> Connection {
    let request = Request::new(method, "/users").body(body);
    let mut client = sidecar.connect();
    client.write(&[request.head(), request.body].concat());
    client
}

fn serve(peer: &mut Http2Peer, expected: &str) {
    let (stream, body) = peer.request();
    assert_eq!(String::from_utf8(body).unwrap(), expected);
    peer.answer(stream, expected.as_bytes());
}

#[test]
fn a_drain_under_load_loses_no_request_and_repeats_none() {
    let simulator = simulator();
    let control = simulator.control();
    let sidecar = Setup::auto(&simulator).start().ready();
    control.reset_counts();
    control.hold_requests(true);
    let held = Crowd::send(&sidecar, 20, &Request::post("/_sim/echo", "held"));
    until("the upstream has got 20 requests", || control.counts().requests == 20);
    control.drain_connections();
    let later = Crowd::send(&sidecar, 20, &Request::post("/_sim/echo", "later"));
    until("the upstream has got 40 requests", || control.counts().requests == 40);
    control.hold_requests(false);
    held.succeeds();
    later.succeeds();
    let counts = control.counts();
    assert_eq!((counts.requests, counts.requests_http2), (40, 40));
    until("the drained connection is gone", || control.counts().open_connections == control.counts().connections);
}

#[test]
fn draining_again_and_again_loses_no_request_and_repeats_none() {
    let simulator = simulator();
    let control = simulator.control();
    let sidecar = Setup::auto(&simulator).start().ready();
    control.reset_counts();
    for round in 1..=10 {
        let crowd = Crowd::send(&sidecar, 20, &Request::post("/_sim/echo", "once"));
        control.drain_connections();
        crowd.succeeds();
        assert_eq!(control.counts().requests, 20 * round);
    }
}

#[test]
fn requests_above_the_last_one_of_a_goaway_are_sent_again_whatever_their_method() {
    let upstream = ManualHttp2::listen();
    let sidecar = upstream.setup().start();
    let mut first = begin(&sidecar, "POST", "first");
    let mut peer = upstream.accept(100);
    let (accepted, _) = peer.request();
    let mut others = Vec::new();
    for (method, body) in [("POST", "second"), ("PATCH", "third"), ("PUT", "fourth")] {
        others.push((begin(&sidecar, method, body), method, body));
        peer.request();
    }
    peer.go_away(accepted, NO_ERROR);
    let mut next = upstream.accept(100);
    let mut bodies = Vec::new();
    for (stream, body) in next.requests(3) {
        next.answer(stream, body.as_bytes());
        bodies.push(body);
    }
    bodies.sort();
    assert_eq!(bodies, ["fourth", "second", "third"]);
    for (mut client, method, body) in others {
        assert_eq!(client.answer(method).text(), body);
    }
    peer.answer(accepted, b"at leisure");
    assert_eq!(first.answer("POST").text(), "at leisure");
    assert_eq!(peer.frame().map(|frame| frame.kind), Some(GOAWAY));
    assert_eq!(peer.frame(), None, "closed once its last exchange is over");
    assert!(!upstream.has_more());
}

#[test]
fn a_request_that_a_goaway_includes_is_not_sent_again_when_the_connection_ends() {
    let upstream = ManualHttp2::listen();
    let sidecar = upstream.setup().start();
    for code in [NO_ERROR, INTERNAL_ERROR] {
        let mut client = begin(&sidecar, "POST", "perhaps");
        let mut peer = upstream.accept(100);
        let (stream, _) = peer.request();
        peer.go_away(stream, code);
        drop(peer);
        assert_eq!(client.answer("POST").problem(), "upstream_closed");
        assert!(!upstream.has_more());
    }
    // A GET may arrive twice.
    let mut client = begin(&sidecar, "GET", "");
    let mut peer = upstream.accept(100);
    let (stream, _) = peer.request();
    peer.go_away(stream, NO_ERROR);
    drop(peer);
    serve(&mut upstream.accept(100), "");
    assert_eq!(client.answer("GET").status, 200);
}

#[test]
fn a_refused_stream_is_sent_again_on_another_connection_and_only_once() {
    let upstream = ManualHttp2::listen();
    let sidecar = upstream.setup().start();
    let mut bystander = begin(&sidecar, "POST", "bystander");
    let mut peer = upstream.accept(100);
    let (other, _) = peer.request();
    let mut client = begin(&sidecar, "POST", "once");
    let (stream, _) = peer.request();
    peer.reset(stream, REFUSED_STREAM);
    let mut second = upstream.accept(100);
    serve(&mut second, "once");
    assert_eq!(client.answer("POST").text(), "once");
    // The connection that refused it is as good as ever.
    peer.answer(other, b"not disturbed");
    assert_eq!(bystander.answer("POST").text(), "not disturbed");
    peer.leave();
    second.leave();

    let mut client = begin(&sidecar, "PATCH", "never");
    for _ in 0..2 {
        let mut peer = upstream.accept(100);
        let (stream, _) = peer.request();
        peer.reset(stream, REFUSED_STREAM);
    }
    assert_eq!(client.answer("PATCH").problem(), "upstream_closed");
    assert!(!upstream.has_more());
}

#[test]
fn a_stream_that_was_reset_for_another_reason_is_sent_again_only_if_it_may_arrive_twice() {
    let upstream = ManualHttp2::listen();
    let sidecar = upstream.setup().start();
    for code in [INTERNAL_ERROR, CANCEL, NO_ERROR] {
        let mut client = begin(&sidecar, "POST", "once");
        let mut peer = upstream.accept(100);
        let (stream, _) = peer.request();
        peer.reset(stream, code);
        assert_eq!(client.answer("POST").problem(), "upstream_closed", "{code}");
        assert!(!upstream.has_more());
        let mut client = begin(&sidecar, "PUT", "twice");
        let (stream, _) = peer.request();
        peer.reset(stream, code);
        let mut next = upstream.accept(100);
        serve(&mut next, "twice");
        assert_eq!(client.answer("PUT").text(), "twice", "{code}");
        peer.leave();
        next.leave();
    }
}

#[test]
fn many_refused_requests_share_the_connection_on_which_they_go_again() {
    let upstream = ManualHttp2::listen();
    let sidecar = upstream.setup().start();
    let mut clients = vec![begin(&sidecar, "POST", "0")];
    let mut peer = upstream.accept(100);
    let mut streams = vec![peer.request().0];
    for number in 1..20 {
        clients.push(begin(&sidecar, "POST", &number.to_string()));
        streams.push(peer.request().0);
    }
    for stream in streams {
        peer.reset(stream, REFUSED_STREAM);
    }
    let mut next = upstream.accept(100);
    for (stream, body) in next.requests(20) {
        next.answer(stream, body.as_bytes());
    }
    for (number, mut client) in clients.into_iter().enumerate() {
        assert_eq!(client.answer("POST").text(), number.to_string());
    }
    assert!(!upstream.has_more());
}

/// Reads a request over HTTP/1.1, and answers it.
fn serve_http1(upstream: &ManualHttp2, expected: &str) {
    let request = upstream.answer_http1("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok");
    assert!(request.starts_with(expected), "{request}");
}

#[test]
fn a_request_that_the_server_wants_over_http1_is_asked_again_over_http1_and_so_are_later_ones() {
    for (method, body) in [("GET", ""), ("POST", "once")] {
        for by_reset in [true, false] {
            let upstream = ManualHttp2::listen();
            let sidecar = upstream.setup().start();
            let mut client = begin(&sidecar, method, body);
            let mut peer = upstream.accept(100);
            let (stream, sent) = peer.request();
            assert_eq!(sent, body.as_bytes());
            if by_reset {
                peer.reset(stream, HTTP_1_1_REQUIRED);
            } else {
                peer.go_away(0, HTTP_1_1_REQUIRED);
            }
            serve_http1(&upstream, &format!("{method} /users HTTP/1.1\r\n"));
            assert_eq!(client.answer(method).status, 200, "{method} {by_reset}");
            for method in ["GET", "POST"] {
                let mut client = begin(&sidecar, method, "later");
                serve_http1(&upstream, &format!("{method} /users HTTP/1.1\r\n"));
                assert_eq!(client.answer(method).status, 200);
            }
            assert!(!upstream.has_more(), "HTTP/2 is not tried again so soon");
        }
    }
}

#[test]
fn a_server_that_wants_http1_before_it_has_seen_a_request_gets_it() {
    for method in ["GET", "POST"] {
        let upstream = ManualHttp2::listen();
        let sidecar = upstream.setup().start();
        let mut client = begin(&sidecar, method, "once");
        let mut peer = upstream.accept(100);
        peer.go_away(0, HTTP_1_1_REQUIRED);
        serve_http1(&upstream, &format!("{method} /users HTTP/1.1\r\n"));
        assert_eq!(client.answer(method).status, 200, "{method}");
        assert!(!upstream.has_more(), "{method}");
    }
}

#[test]
fn a_request_whose_body_is_gone_is_not_asked_again_over_http1() {
    let upstream = ManualHttp2::listen();
    let mut setup = upstream.setup();
    setup.api("replay_buffer", "0");
    let sidecar = setup.start();
    let mut client = begin(&sidecar, "POST", "gone");
    let mut peer = upstream.accept(100);
    let (stream, _) = peer.request();
    peer.reset(stream, HTTP_1_1_REQUIRED);
    assert_eq!(client.answer("POST").problem(), "upstream_protocol");
    let mut next = begin(&sidecar, "POST", "next");
    serve_http1(&upstream, "POST /users HTTP/1.1\r\n");
    assert_eq!(next.answer("POST").status, 200, "it is remembered all the same");
}
