//! What a client, or an upstream, may ask for at most.

use std::time::Duration;

use careportals_simulator::Simulator;

use crate::harness::{Connection, Request, Setup, Sidecar, let_time_pass, never, simulator, until};

/// Sends `count` requests, each on a connection of its own, and has the simulator hold them.
fn in_flight(count: u64, simulator: &Simulator, sidecar: &Sidecar) -> Vec<Connection> {
    let control = simulator.control();
    control.reset_counts();
    control.hold_requests(true);
    let connections = (0..count)
        .map(|_| {
            let mut connection = sidecar.connect();
            connection.write(&Request::get("/_sim/echo").head());
            connection
        })
        .collect();
    until("the upstream has got all requests", || control.counts().requests == count);
    connections
}

#[test]
fn beyond_max_requests_the_answer_is_503_at_once_and_later_requests_pass_again() {
    let simulator = simulator();
    let control = simulator.control();
    let mut setup = Setup::new(&simulator);
    setup.api("max_requests", "3");
    let sidecar = setup.start().ready();
    let mut held = in_flight(3, &simulator, &sidecar);
    for _ in 0..5 {
        let refused = sidecar.get("/_sim/echo");
        assert_eq!(refused.status, 503);
        assert_eq!(refused.problem(), "too_many_requests_in_flight");
        assert_eq!(refused.header("retry-after"), Some("1"));
        assert_eq!(refused.header("proxy-status"), Some("careportals-sidecar; error=connection_limit_reached"));
    }
    assert_eq!(control.counts().requests, 3);
    control.hold_requests(false);
    for connection in &mut held {
        assert_eq!(connection.answer("GET").status, 200);
    }
    drop(in_flight(3, &simulator, &sidecar));
}

#[test]
fn a_client_that_hangs_up_counts_no_longer_against_max_requests() {
    let simulator = simulator();
    let control = simulator.control();
    let mut setup = Setup::new(&simulator);
    setup.api("max_requests", "2");
    let sidecar = setup.start().ready();
    drop(in_flight(2, &simulator, &sidecar));
    until("every exchange is over", || control.requests().iter().all(|seen| seen.over));
    for mut connection in in_flight(2, &simulator, &sidecar) {
        control.hold_requests(false);
        assert_eq!(connection.answer("GET").status, 200);
    }
}

#[test]
fn beyond_max_connections_clients_wait_in_the_kernels_queue() {
    let simulator = simulator();
    let control = simulator.control();
    let mut setup = Setup::new(&simulator);
    setup.api("max_connections", "2");
    let sidecar = setup.start().ready();
    let mut admitted = in_flight(2, &simulator, &sidecar);
    let mut waiting = sidecar.connect();
    waiting.write(&Request::get("/_sim/status/200").head());
    // Both are in the middle of a request, so neither is closed.
    never("a third client is served", Duration::from_millis(300), || control.counts().requests > 2);
    drop(admitted.pop());
    until("the client that waited is served", || control.counts().by_route.contains_key("/_sim/status"));
    control.hold_requests(false);
    assert_eq!(waiting.answer("GET").status, 200);
    assert_eq!(admitted[0].answer("GET").status, 200);
}

#[test]
fn clients_that_connect_all_at_once_and_send_a_moment_later_are_all_answered() {
    let simulator = simulator();
    let mut setup = Setup::new(&simulator);
    setup.api("max_connections", "3");
    let sidecar = setup.start().ready();
    // Each has a second to send something, which a busy machine may let pass.
    let all_are_answered = || {
        let mut clients: Vec<_> = (0..20).map(|_| sidecar.connect()).collect();
        let_time_pass("the clients have nothing to say yet", Duration::from_millis(200));
        for client in &mut clients {
            // One that was closed shows it when it is read.
            drop(client.try_write(&Request::get("/_sim/echo").header("Connection", "close").head()));
        }
        clients.iter_mut().all(|client| client.read_to_end().starts_with(b"HTTP/1.1 200 OK"))
    };
    assert!((0..5).any(|_| all_are_answered()), "{}", sidecar.logs());
}

#[test]
fn while_a_client_waits_for_a_place_an_answer_says_that_its_connection_closes() {
    let simulator = simulator();
    let control = simulator.control();
    for version in ["1.1", "1.0"] {
        let mut setup = Setup::new(&simulator);
        setup.api("max_connections", "1").variable("CAREPORTALS_WORKERS", "1");
        let sidecar = setup.start().ready();
        control.reset_counts();
        control.hold_requests(true);
        let ask = || {
            let mut client = sidecar.connect();
            let head = format!("GET /_sim/echo HTTP/{version}\r\nHost: localhost\r\nConnection: keep-alive\r\n\r\n");
            client.write(head.as_bytes());
            client
        };
        let mut admitted = ask();
        until("the upstream has got the request", || control.counts().requests == 1);
        let mut waiting = ask();
        // It was accepted, and waits: the only place is taken.
        never("the client is served", Duration::from_millis(300), || control.counts().requests > 1);
        control.hold_requests(false);
        let last = admitted.answer("GET");
        assert_eq!((last.status, last.all("connection")), (200, vec!["close"]), "{version}");
        assert!(admitted.is_closed());
        let answer = waiting.answer("GET");
        assert_eq!(answer.status, 200);
        assert!(!answer.all("connection").contains(&"close"), "{version}: nobody waits any more");
    }
}

#[test]
fn what_a_client_has_sent_that_gave_up_in_the_queue_is_not_carried_out() {
    let simulator = simulator();
    let control = simulator.control();
    let mut setup = Setup::new(&simulator);
    // One worker accepts in the order of the queue.
    setup.api("max_connections", "1").variable("CAREPORTALS_WORKERS", "1");
    let sidecar = setup.start().ready();
    let mut admitted = in_flight(1, &simulator, &sidecar);
    let mut gone = sidecar.connect();
    gone.write(&Request::get("/_sim/echo").head());
    drop(gone);
    let mut waiting = sidecar.connect();
    waiting.write(&Request::get("/_sim/status/200").head());
    control.hold_requests(false);
    assert_eq!(admitted[0].answer("GET").status, 200);
    // It came behind the one that is gone.
    assert_eq!(waiting.answer("GET").status, 200);
    assert_eq!(control.counts().requests, 2);
}

/// Whether the whole answer is a bare status and the connection's end.
fn assert_bare(sidecar: &Sidecar, request: &[u8], status: u16) {
    let mut connection = sidecar.connect();
    connection.write(request);
    let answer = connection.head();
    assert_eq!(answer.status, status, "{answer:?}");
    assert_eq!(answer.header("content-type"), None);
    assert_eq!(answer.header("content-length").unwrap_or("0"), "0");
    assert!(connection.is_closed());
}

fn head_of(bytes: usize) -> Vec<u8> {
    let empty = Request::get("/_sim/echo").header("X-Filling", "").head().len();
    let head = Request::get("/_sim/echo").header("X-Filling", &"f".repeat(bytes - empty)).head();
    assert_eq!(head.len(), bytes);
    head
}

#[test]
fn a_request_head_over_max_header_bytes_is_refused_by_a_bare_431() {
    let simulator = simulator();
    let control = simulator.control();
    for (limit, bytes) in [(None, 64 * 1024), (Some("8KiB"), 8 * 1024), (Some("100KiB"), 100 * 1024)] {
        let mut setup = Setup::new(&simulator);
        if let Some(limit) = limit {
            setup.api("max_header_bytes", limit);
        }
        let sidecar = setup.start().ready();
        control.reset_counts();
        assert_bare(&sidecar, &head_of(bytes + 1), 431);
        assert_eq!(control.counts().requests, 0);
        let mut connection = sidecar.connect();
        connection.write(&head_of(bytes));
        assert_eq!(connection.answer("GET").status, 200, "{limit:?}");
    }
}

#[test]
fn a_request_with_more_than_max_headers_is_refused_by_a_bare_431() {
    let simulator = simulator();
    let mut setup = Setup::new(&simulator);
    setup.api("max_headers", "20");
    let sidecar = setup.start().ready();
    let with =
        |lines: usize| (1..lines).fold(Request::get("/_sim/echo"), |request, line| request.header(&format!("x-{line}"), "1"));
    assert_eq!(sidecar.send(&with(20)).status, 200);
    assert_bare(&sidecar, &with(21).head(), 431);
}

#[test]
fn an_answer_whose_head_is_over_the_limits_becomes_a_502() {
    let simulator = simulator();
    let control = simulator.control();
    let mut setup = Setup::new(&simulator);
    setup.api("max_header_bytes", "8KiB").api("max_headers", "20");
    let sidecar = setup.start().ready();
    assert_eq!(sidecar.get("/_sim/headers?count=10&size=700").status, 200);
    control.reset_counts();
    for (sent, large) in ["count=10&size=900", "count=1&size=70000", "count=20&size=1"].into_iter().enumerate() {
        let answer = sidecar.get(&format!("/_sim/headers?{large}"));
        assert_eq!(answer.status, 502, "{large}");
        assert_eq!(answer.problem(), "upstream_head_too_large", "{large}");
        assert_eq!(control.counts().requests, sent as u64 + 1, "it would be as large again");
    }
    assert_eq!(sidecar.get("/_sim/echo").status, 200);
}
