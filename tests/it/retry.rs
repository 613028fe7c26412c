//! Sent again once, on a fresh connection, where that can't do anything twice; and connections used again.

use std::{fs, thread};

use careportals_simulator::{Control, Simulator};

use crate::harness::{
    Answer, Connection, Crowd, ManualHttp2, ManualUpstream, OFF_AND_AUTO, Request, Setup, Sidecar,
    frames::{END_HEADERS, HEADERS, RST_STREAM, fields},
    simulator, until,
};

/// A sidecar with one worker, so that a request finds the connection that the last one left.
fn sidecar(simulator: &Simulator, http2: &str) -> Sidecar {
    let mut setup = Setup::auto(simulator);
    setup.api("http2", http2);
    setup.start().ready()
}

/// Counts how often a route was asked.
fn arrivals(control: &Control, route: &str) -> u64 {
    control.counts().by_route.get(route).copied().unwrap_or_default()
}

/// Sends `request`, and cuts its connection once the upstream has it and before it answers.
fn cut_before_the_answer(simulator: &Simulator, sidecar: &Sidecar, request: &Request) -> Answer {
    let control = simulator.control();
    control.reset_counts();
    control.hold_requests(true);
    thread::scope(|scope| {
        // In one piece: what the upstream has the head of, the sidecar has begun to send the body of.
        let client = scope.spawn(|| {
            let mut client = sidecar.connect();
            client.write(&[request.head(), request.body.clone()].concat());
            client.answer(&request.method)
        });
        let length = request.body.len() as u64;
        let has_arrived = |control: &Control| control.requests().iter().any(|seen| seen.body_bytes == length || seen.over);
        until("the upstream has got one request", || control.counts().requests == 1);
        // The simulator reads bodies only once it answers, so a held request shows none.
        assert!(request.body.is_empty() || !has_arrived(control));
        let before = control.counts().connections;
        simulator.drop_connections();
        control.hold_requests(false);
        let answer = client.join().unwrap();
        let counts = control.counts();
        assert_eq!(counts.connections - before, counts.requests - 1, "sent again on a fresh connection only");
        answer
    })
}

#[test]
fn an_idempotent_request_is_sent_again_exactly_once_when_its_connection_ends() {
    let simulator = simulator();
    let control = simulator.control();
    for http2 in OFF_AND_AUTO {
        let sidecar = sidecar(&simulator, http2);
        for method in ["GET", "HEAD", "PUT", "DELETE", "OPTIONS"] {
            for how in ["rst", "close"] {
                control.reset_counts();
                let answer = sidecar.send(&Request::new(method, &format!("/_sim/reset-before?how={how}")));
                assert_eq!(answer.status, 502, "{http2} {method} {how}");
                if method != "HEAD" {
                    assert_eq!(answer.problem(), "upstream_closed", "{http2} {method} {how}");
                }
                assert_eq!(arrivals(control, "/_sim/reset-before"), 2, "{http2} {method} {how}");
            }
        }
    }
}

#[test]
fn a_get_survives_the_end_of_its_connection() {
    let simulator = simulator();
    for http2 in OFF_AND_AUTO {
        let sidecar = sidecar(&simulator, http2);
        let answer = cut_before_the_answer(&simulator, &sidecar, &Request::get("/_sim/echo"));
        assert_eq!(answer.status, 200, "{http2}");
        assert_eq!(simulator.control().counts().requests, 2, "{http2}");
    }
}

#[test]
fn a_post_is_never_sent_twice() {
    let simulator = simulator();
    let control = simulator.control();
    for http2 in OFF_AND_AUTO {
        let sidecar = sidecar(&simulator, http2);
        for method in ["POST", "PATCH"] {
            for how in ["rst", "close"] {
                control.reset_counts();
                let request = Request::new(method, &format!("/_sim/reset-before?how={how}")).body("once");
                assert_eq!(sidecar.send(&request).problem(), "upstream_closed", "{http2} {method} {how}");
                assert_eq!(arrivals(control, "/_sim/reset-before"), 1, "{http2} {method} {how}");
            }
        }
        let answer = cut_before_the_answer(&simulator, &sidecar, &Request::post("/_sim/echo", "once"));
        assert_eq!(answer.problem(), "upstream_closed", "{http2}");
        assert_eq!(control.counts().requests, 1, "{http2}");
    }
}

#[test]
fn when_a_shared_connection_ends_each_request_that_may_be_sent_again_is() {
    let simulator = simulator();
    let control = simulator.control();
    let sidecar = sidecar(&simulator, "auto");
    control.reset_counts();
    control.hold_requests(true);
    let reads = Crowd::send(&sidecar, 20, &Request::get("/_sim/echo"));
    let writes = Crowd::send(&sidecar, 20, &Request::post("/_sim/echo", "once"));
    until("the upstream has got 40 requests", || control.counts().requests == 40);
    simulator.drop_connections();
    control.hold_requests(false);
    reads.succeeds();
    for answer in writes.answers() {
        assert_eq!(answer.problem(), "upstream_closed");
    }
    let counts = control.counts();
    assert_eq!((counts.requests, counts.connections), (60, 1), "one new connection for all of them");
}

#[test]
fn a_put_is_sent_again_with_its_whole_body() {
    let simulator = simulator();
    let body = "0123456789".repeat(3000);
    for http2 in OFF_AND_AUTO {
        let sidecar = sidecar(&simulator, http2);
        let request = Request::new("PUT", "/_sim/echo").body(body.as_str());
        let answer = cut_before_the_answer(&simulator, &sidecar, &request);
        assert_eq!(answer.status, 200, "{http2}");
        assert_eq!(answer.json()["body"], body, "{http2}");
        assert_eq!(simulator.control().counts().requests, 2, "{http2}");
    }
}

#[test]
fn a_put_larger_than_the_replay_buffer_is_not_sent_again() {
    let simulator = simulator();
    for http2 in OFF_AND_AUTO {
        let mut setup = Setup::auto(&simulator);
        setup.api("http2", http2).api("replay_buffer", "1KiB");
        let sidecar = setup.start().ready();
        let request = Request::new("PUT", "/_sim/echo").body("x".repeat(16 * 1024));
        let answer = cut_before_the_answer(&simulator, &sidecar, &request);
        assert_eq!(answer.problem(), "upstream_closed", "{http2}");
        assert_eq!(simulator.control().counts().requests, 1, "{http2}");
    }
}

#[test]
fn an_idempotency_key_makes_a_post_safe_to_send_again_if_the_settings_say_so() {
    let simulator = simulator();
    let control = simulator.control();
    for http2 in OFF_AND_AUTO {
        for (relied_on, with_key, expected) in [(true, true, 2), (true, false, 1), (false, true, 1)] {
            let mut setup = Setup::auto(&simulator);
            setup.api("http2", http2).api("retry_idempotency_key", &relied_on.to_string());
            let sidecar = setup.start().ready();
            control.reset_counts();
            let mut request = Request::post("/_sim/reset-before", "pay");
            if with_key {
                request = request.header("Idempotency-Key", "b1946ac9");
            }
            assert_eq!(sidecar.send(&request).problem(), "upstream_closed");
            assert_eq!(arrivals(control, "/_sim/reset-before"), expected, "{http2}, relied on: {relied_on}, key: {with_key}");
        }
    }
}

/// Closes the connections in the sidecar's pool, and waits until its kernel knows.
fn make_stale(simulator: &Simulator) {
    let established = format!("0100007F:{:04X} 01 ", simulator.address().port());
    until("no connection to the upstream is established", || {
        // Again each time, for an exchange may end a moment after its answer.
        simulator.control().close_idle_connections();
        !fs::read_to_string("/proc/net/tcp").unwrap().contains(&established)
    });
}

#[test]
fn a_post_on_a_connection_that_the_upstream_has_closed_arrives_once() {
    let simulator = simulator();
    let control = simulator.control();
    for http2 in OFF_AND_AUTO {
        let sidecar = sidecar(&simulator, http2);
        let mut client = sidecar.connect();
        for _ in 0..20 {
            assert_eq!(client.send(&Request::get("/_sim/echo")).status, 200);
            make_stale(&simulator);
            control.reset_counts();
            let answer = client.send(&Request::post("/_sim/echo", "once"));
            assert_eq!(answer.status, 200, "{http2} {answer:?}");
            assert_eq!(control.counts().requests, 1, "{http2}");
        }
    }
}

#[test]
fn a_post_that_found_no_tls_is_tried_on_one_more_connection() {
    let upstream = ManualUpstream::listen();
    let simulator = simulator();
    let sidecar = Setup::without_login(&format!("https://{}", upstream.address()), simulator.ca_pem()).start();
    let mut client = sidecar.connect();
    let request = Request::post("/users", "once");
    client.write(&request.head());
    client.write(&request.body);
    drop(upstream.accept());
    drop(upstream.accept());
    assert_eq!(client.answer("POST").status, 502);
    assert!(!upstream.has_more());
}

#[test]
fn a_request_during_a_restart_of_the_upstream_waits_for_its_connection() {
    let simulator = simulator();
    let control = simulator.control();
    let sidecar = Sidecar::start(&simulator).ready();
    simulator.pause_accepting(true);
    control.reset_counts();
    let mut client = sidecar.connect();
    let request = Request::post("/_sim/echo", "once");
    client.write(&request.head());
    client.write(&request.body);
    simulator.pause_accepting(false);
    assert_eq!(client.answer("POST").status, 200);
    assert_eq!(control.counts().requests, 1);
}

#[test]
fn connections_to_upstream_are_used_again() {
    let simulator = simulator();
    let control = simulator.control();
    let sidecar = Sidecar::start(&simulator);
    let mut client = sidecar.connect();
    assert_eq!(client.send(&Request::get("/_sim/echo")).status, 200);
    control.reset_counts();
    for request in [
        Request::get("/_sim/echo"),
        Request::post("/_sim/echo", "a body"),
        Request::new("HEAD", "/_sim/echo"),
        Request::get("/_sim/status/204"),
        Request::get("/_sim/download?bytes=300000&chunked=1"),
        Request::get("/_sim/status/503"),
    ] {
        assert!(client.send(&request).status < 600);
    }
    assert_eq!(control.counts().requests, 6);
    assert_eq!(control.counts().connections, 0);
}

#[test]
fn a_connection_is_closed_once_it_idled_for_pool_idle() {
    let simulator = simulator();
    let control = simulator.control();
    let mut setup = Setup::new(&simulator);
    setup.api("pool_idle", "1s");
    let sidecar = setup.start().ready();
    assert_eq!(sidecar.get("/_sim/echo").status, 200);
    assert!(control.counts().open_connections > 0);
    until("no connection to the upstream is open", || control.counts().open_connections == 0);
    assert_eq!(sidecar.get("/_sim/echo").status, 200);
}

fn answer_early(upstream: &mut Connection) {
    upstream.read_until(b"\r\n\r\n");
    upstream.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nearly");
}

#[test]
fn a_connection_whose_upload_was_not_finished_is_not_used_again() {
    let upstream = ManualUpstream::listen();
    let sidecar = upstream.setup().start();
    let mut client = sidecar.connect();
    client.write(b"POST /users HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n01234");
    let mut first = upstream.accept();
    answer_early(&mut first);
    assert_eq!(client.answer("POST").body, b"early");
    assert!(!first.read_to_end().ends_with(b"56789"), "closed by the sidecar");
    client.write(b"56789GET /users HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let mut second = upstream.accept();
    assert!(second.read_until(b"\r\n\r\n").starts_with(b"GET /users HTTP/1.1\r\n"));
    second.write(b"HTTP/1.1 204 No Content\r\n\r\n");
    assert_eq!(client.answer("GET").status, 204);
}

/// Bytes that are no answer: the rest of an earlier one, as broken servers send it.
const SURPLUS: [&str; 9] = [
    "lo",
    "0\r\n\r\n",
    "5\r\nhello\r\n0\r\n\r\n",
    "\0\0",
    "HTHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    "HTTP/2.0 200 OK\r\n\r\n",
    "HTTP/1.1 2x0 OK\r\n\r\n",
    "HTTP/1.1 2HTTP/1.1 200 OK\r\n\r\n",
    "ICY 200 OK\r\n\r\n",
];

/// A sidecar with one kept connection to the upstream, which has answered one request.
fn with_a_used_connection(upstream: &ManualUpstream) -> (Sidecar, Connection) {
    let mut setup = upstream.setup();
    setup.variable("CAREPORTALS_WORKERS", "1");
    let sidecar = setup.start();
    let mut client = sidecar.connect();
    client.write(&Request::get("/first").head());
    let mut connection = upstream.accept();
    connection.read_until(b"\r\n\r\n");
    connection.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    assert_eq!(client.answer("GET").text(), "ok");
    (sidecar, connection)
}

#[test]
fn surplus_in_place_of_an_answer_is_no_answer_and_an_idempotent_request_is_sent_again() {
    for surplus in SURPLUS {
        for method in ["GET", "PUT", "DELETE", "HEAD"] {
            let upstream = ManualUpstream::listen();
            let (sidecar, mut used) = with_a_used_connection(&upstream);
            let mut client = sidecar.connect();
            client.write(&Request::new(method, "/second").head());
            used.read_until(b"\r\n\r\n");
            used.write(surplus.as_bytes());
            let mut fresh = upstream.accept();
            fresh.read_until(b"\r\n\r\n");
            fresh.write(b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n");
            assert_eq!(client.answer(method).status, 201, "{method} {surplus:?}");
            assert!(used.is_closed(), "{method} {surplus:?}");
        }
    }
}

#[test]
fn surplus_is_a_502_to_a_post_and_on_a_fresh_connection_and_nothing_is_sent_twice() {
    for surplus in SURPLUS {
        let upstream = ManualUpstream::listen();
        let (sidecar, mut used) = with_a_used_connection(&upstream);
        let mut client = sidecar.connect();
        client.write(&Request::new("POST", "/second").head());
        used.read_until(b"\r\n\r\n");
        used.write(surplus.as_bytes());
        assert_eq!(client.answer("POST").problem(), "upstream_protocol", "{surplus:?}");
        assert!(!upstream.has_more(), "{surplus:?}");
        let mut client = sidecar.connect();
        client.write(&Request::get("/third").head());
        let mut fresh = upstream.accept();
        fresh.read_until(b"\r\n\r\n");
        fresh.write(surplus.as_bytes());
        assert_eq!(client.answer("GET").problem(), "upstream_protocol", "fresh: {surplus:?}");
        assert!(!upstream.has_more(), "fresh: {surplus:?}");
    }
}

#[test]
fn a_head_that_begins_as_an_answer_is_not_asked_for_again() {
    let upstream = ManualUpstream::listen();
    let (sidecar, mut used) = with_a_used_connection(&upstream);
    let mut client = sidecar.connect();
    client.write(&Request::get("/second").head());
    used.read_until(b"\r\n\r\n");
    used.write(b"HTTP/1.1 200 OK\r\nno field\r\n\r\n");
    assert_eq!(client.answer("GET").problem(), "upstream_protocol");
    assert!(!upstream.has_more());
}

#[test]
fn what_follows_an_interim_answer_is_of_the_same_request_whatever_it_is() {
    for interim in ["100 Continue", "103 Early Hints"] {
        for rest in SURPLUS {
            let upstream = ManualUpstream::listen();
            let (sidecar, mut used) = with_a_used_connection(&upstream);
            let mut client = sidecar.connect();
            client.write(&Request::get("/second").head());
            used.read_until(b"\r\n\r\n");
            used.write(format!("HTTP/1.1 {interim}\r\n\r\n{rest}").as_bytes());
            assert_eq!(client.answer("GET").problem(), "upstream_protocol", "{interim}, {rest:?}");
            assert!(!upstream.has_more(), "{interim}, {rest:?}");
        }
    }
}

/// Over HTTP/1.1 rows of the corpus show it: `answers/ends`.
#[test]
fn a_get_whose_http2_stream_or_connection_ends_after_an_interim_answer_is_not_sent_again() {
    const REFUSED_STREAM: [u8; 4] = [0, 0, 0, 7];
    for is_refused in [false, true] {
        let upstream = ManualHttp2::listen();
        let sidecar = upstream.setup().start();
        let mut client = sidecar.connect();
        client.write(&Request::get("/users").head());
        let mut peer = upstream.accept(100);
        let (stream, _) = peer.request();
        peer.send(HEADERS, END_HEADERS, stream, &fields(&[(":status", "103")]));
        let peer = is_refused.then(|| {
            peer.send(RST_STREAM, 0, stream, &REFUSED_STREAM);
            peer
        });
        assert_eq!(client.answer("GET").problem(), "upstream_closed", "{is_refused}");
        assert!(!upstream.has_more(), "{is_refused}");
        drop(peer);
    }
}

#[test]
fn a_connection_whose_server_sent_more_than_its_answers_is_not_used_again() {
    for (method, answer) in [
        ("GET", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokmore"),
        ("GET", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok\r\n"),
        ("GET", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged"),
        ("GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n\r\n"),
        ("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"),
        ("GET", "HTTP/1.1 204 No Content\r\n\r\n0\r\n\r\n"),
        ("GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 2\r\n\r\nok"),
        // An empty line before an answer is skipped by HTTP's parsers; it belongs to nothing all the same.
        ("GET", "\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"),
    ] {
        let upstream = ManualUpstream::listen();
        let (sidecar, mut used) = with_a_used_connection(&upstream);
        let mut client = sidecar.connect();
        client.write(&Request::new(method, "/second").head());
        used.read_until(b"\r\n\r\n");
        used.write(answer.as_bytes());
        client.answer(method);
        client.write(&Request::get("/third").head());
        let mut fresh = upstream.accept();
        fresh.read_until(b"\r\n\r\n");
        fresh.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfresh");
        assert_eq!(client.answer("GET").text(), "fresh", "{method} {answer:?}");
        assert!(used.is_closed(), "{method} {answer:?}");
    }
}

#[test]
fn surplus_that_comes_while_a_connection_is_idle_ends_it() {
    for surplus in ["lo", "\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged"] {
        let upstream = ManualUpstream::listen();
        let (sidecar, mut used) = with_a_used_connection(&upstream);
        used.write(surplus.as_bytes());
        assert!(used.is_closed(), "{surplus:?}");
        let mut client = sidecar.connect();
        client.write(&Request::post("/second", "x").head());
        client.write(b"x");
        let mut fresh = upstream.accept();
        fresh.read_until(b"\r\n\r\nx");
        fresh.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfresh");
        assert_eq!(client.answer("POST").text(), "fresh", "{surplus:?}");
    }
}
