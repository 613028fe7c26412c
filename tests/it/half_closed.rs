//! Clients that send FIN behind a whole request and read the answer, as `nc -N`, socat and old Python do; and clients that are gone.

use std::time::Duration;

use crate::harness::{
    Connection, Request, Setup, Sidecar,
    frames::{BODY, END_HEADERS, END_STREAM, Frame, FrameClient, HEADERS, PREFACE, SETTINGS, fields, frame, get_fields},
    let_time_pass, seen, simulator, until, until_seen, until_within,
};

/// Longer than the kernel is left unasked whether the client is there.
const LOOKS: Duration = Duration::from_millis(1200);

fn with_both_sockets(simulator: &careportals_simulator::Simulator) -> Sidecar {
    let mut setup = Setup::new(simulator);
    let listen = format!("127.0.0.1:0,unix:{}", setup.dir.path().join("api.sock").display());
    setup.variable("CAREPORTALS_LISTEN", &listen).with_telemetry().with_control_socket();
    setup.start().ready()
}

fn each_socket(sidecar: &Sidecar) -> [(&'static str, Connection); 2] {
    let path = sidecar.setup.dir.path().join("api.sock");
    [("tcp", sidecar.connect()), ("unix", Sidecar::connect_unix(&path))]
}

#[test]
fn a_client_that_half_closes_after_a_whole_request_gets_its_answer() {
    let simulator = simulator();
    let control = simulator.control();
    let sidecar = with_both_sockets(&simulator);
    for (name, request) in [
        ("1.1", "GET /_sim/echo?half HTTP/1.1\r\nHost: localhost\r\n\r\n"),
        ("1.0", "GET /_sim/echo?half HTTP/1.0\r\n\r\n"),
        ("a length", "POST /_sim/echo?half HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\nbody"),
        (
            "chunks",
            "POST /_sim/echo?half HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n",
        ),
        ("a length, 1.0", "POST /_sim/echo?half HTTP/1.0\r\nContent-Length: 4\r\n\r\nbody"),
    ] {
        for (socket, mut client) in each_socket(&sidecar) {
            let before = control.counts().requests;
            control.hold_requests(true);
            client.write(request.as_bytes());
            client.finish_writing();
            until("the request arrives", || control.counts().requests > before);
            let_time_pass("the client is looked at", LOOKS);
            control.hold_requests(false);
            let answer = client.answer(request.split(' ').next().unwrap());
            assert_eq!((answer.status, answer.cut), (200, false), "{name} over {socket}");
            assert!(client.is_closed(), "{name} over {socket}");
        }
    }
}

#[test]
fn each_of_several_pipelined_requests_before_a_half_close_is_answered() {
    let simulator = simulator();
    let sidecar = with_both_sockets(&simulator);
    for (socket, mut client) in each_socket(&sidecar) {
        let requests: Vec<u8> = (0..5).flat_map(|n| Request::get(&format!("/_sim/echo?n={n}")).head()).collect();
        client.write(&requests);
        client.finish_writing();
        for n in 0..5 {
            let answer = client.answer("GET");
            assert_eq!(answer.json()["target"], format!("/_sim/echo?n={n}"), "{socket}");
        }
        assert!(client.is_closed());
    }
}

#[test]
fn half_a_request_is_not_served() {
    let simulator = simulator();
    let sidecar = with_both_sockets(&simulator);
    let before = simulator.control().counts().requests;
    for half in ["GET /_sim/echo HTTP/1.1\r\nHost: localhost\r\n", "GET /_sim/echo HTTP/1.1\r\nHo", "G", ""] {
        for (socket, mut client) in each_socket(&sidecar) {
            client.write(half.as_bytes());
            client.finish_writing();
            assert_eq!(client.read_to_end(), b"", "{half:?} over {socket}");
        }
    }
    assert_eq!(simulator.control().counts().requests, before);
    for (_, mut client) in each_socket(&sidecar) {
        client.write(b"POST /_sim/upload?half HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nhalf");
        until_seen("half of the body arrives", &simulator, "/_sim/upload?half", |seen| seen.body_bytes == 4);
        client.finish_writing();
        until_seen("the exchange is over", &simulator, "/_sim/upload?half", |seen| seen.over);
        assert!(!seen(&simulator, "/_sim/upload?half").unwrap().complete);
    }
}

#[test]
fn health_and_control_answer_a_client_that_half_closes() {
    let simulator = simulator();
    let sidecar = with_both_sockets(&simulator);
    let telemetry = Connection::tcp(std::net::TcpStream::connect(sidecar.telemetry_address()).unwrap());
    let control = Sidecar::connect_unix(&sidecar.setup.control_socket());
    for (mut client, path) in [(telemetry, "/livez"), (control, "/status")] {
        client.write(&Request::get(path).head());
        client.finish_writing();
        assert_eq!(client.answer("GET").status, 200, "{path}");
        assert!(client.is_closed());
    }
}

#[test]
fn a_client_that_is_gone_frees_its_upstream_request_soon() {
    let simulator = simulator();
    let sidecar = with_both_sockets(&simulator);
    for path in ["/_sim/hang?gone", "/_sim/drip?bytes=10&interval_ms=3600000"] {
        for (index, (socket, mut client)) in each_socket(&sidecar).into_iter().enumerate() {
            let path = format!("{path}&{index}");
            client.write(&Request::get(&path).head());
            until_seen("the request arrives", &simulator, &path, |_| true);
            // It half-closes first: only that nobody holds the socket any more tells that it is gone.
            client.finish_writing();
            let_time_pass("the client is looked at", LOOKS);
            assert!(!seen(&simulator, &path).unwrap().over, "{path} over {socket}");
            drop(client);
            until_within(Duration::from_secs(5), "the exchange is over", || seen(&simulator, &path).unwrap().over);
        }
    }
}

#[test]
fn an_http2_client_that_half_closes_after_its_last_stream_gets_its_answers() {
    let simulator = simulator();
    let control = simulator.control();
    let sidecar = with_both_sockets(&simulator);
    let before = control.counts().requests;
    control.hold_requests(true);
    let mut client = FrameClient::silent(sidecar.address());
    client.write(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat());
    client.write(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &get_fields("/_sim/echo?one", &[])));
    client.write(&frame(HEADERS, END_HEADERS | END_STREAM, 3, &get_fields("/_sim/download?bytes=60000", &[])));
    client.0.shutdown(std::net::Shutdown::Write).unwrap();
    until("both requests arrive", || control.counts().requests == before + 2);
    let_time_pass("the client is looked at", LOOKS);
    control.hold_requests(false);
    let mut bytes = std::collections::BTreeMap::new();
    let mut ended = 0;
    while ended < 2 {
        let frame = client.read().expect("answers");
        if matches!(frame.kind, HEADERS | BODY) {
            *bytes.entry(frame.stream).or_insert(0) += if frame.kind == BODY { frame.payload.len() } else { 0 };
            ended += usize::from(frame.ends_stream());
        }
    }
    assert_eq!(bytes[&3], 60_000);
    assert!(bytes[&1] > 0);
    while client.read().is_some() {}
}

#[test]
fn an_http2_client_that_half_closes_as_its_answer_comes_gets_it() {
    let simulator = simulator();
    let control = simulator.control();
    let sidecar = with_both_sockets(&simulator);
    for round in 0..150_u64 {
        control.hold_requests(true);
        let before = control.counts().requests;
        let mut client = FrameClient::silent(sidecar.address());
        client.write(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat());
        client.write(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &get_fields("/_sim/echo?as", &[])));
        until("the request arrives", || control.counts().requests > before);
        control.hold_requests(false);
        // Up to some milliseconds, so that the end meets every moment of the answer.
        for _ in 0..round * 400 {
            std::hint::spin_loop();
        }
        client.0.shutdown(std::net::Shutdown::Write).unwrap();
        let is_end = |frame: &Frame| matches!(frame.kind, HEADERS | BODY) && frame.ends_stream();
        while !is_end(&client.read().unwrap_or_else(|| panic!("round {round}: the connection ends without an answer"))) {}
    }
}

#[test]
fn an_http2_client_that_is_gone_frees_its_upstream_requests_soon() {
    let simulator = simulator();
    let sidecar = with_both_sockets(&simulator);
    let mut client = FrameClient::silent(sidecar.address());
    client.write(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat());
    client.write(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &get_fields("/_sim/hang?h2", &[])));
    until_seen("the request arrives", &simulator, "/_sim/hang?h2", |_| true);
    client.0.shutdown(std::net::Shutdown::Write).unwrap();
    let_time_pass("the client is looked at", LOOKS);
    assert!(!seen(&simulator, "/_sim/hang?h2").unwrap().over);
    drop(client);
    until_within(Duration::from_secs(5), "the exchange is over", || seen(&simulator, "/_sim/hang?h2").unwrap().over);
}

#[test]
fn half_an_http2_request_is_not_served_and_ends_at_once() {
    let simulator = simulator();
    let sidecar = with_both_sockets(&simulator);
    let mut client = FrameClient::silent(sidecar.address());
    client.write(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat());
    client.write(&frame(HEADERS, END_HEADERS, 1, &get_fields("/_sim/upload?h2", &[])));
    client.write(&frame(BODY, 0, 1, b"half"));
    until_seen("half of the body arrives", &simulator, "/_sim/upload?h2", |seen| seen.body_bytes == 4);
    client.0.shutdown(std::net::Shutdown::Write).unwrap();
    until_within(Duration::from_secs(5), "the exchange is over", || seen(&simulator, "/_sim/upload?h2").unwrap().over);
    while client.read().is_some() {}
}

#[test]
fn an_http2_client_that_half_closes_after_its_whole_bodies_gets_its_answers() {
    let simulator = simulator();
    let control = simulator.control();
    let sidecar = with_both_sockets(&simulator);
    let before = control.counts().requests;
    control.hold_requests(true);
    let mut client = FrameClient::silent(sidecar.address());
    client.write(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat());
    let post = fields(&[(":method", "POST"), (":scheme", "http"), (":authority", "localhost"), (":path", "/_sim/echo?half")]);
    for stream in [1, 3] {
        client.write(&frame(HEADERS, END_HEADERS, stream, &post));
        client.write(&frame(BODY, 0, stream, b"who"));
        client.write(&frame(BODY, END_STREAM, stream, b"le"));
    }
    client.0.shutdown(std::net::Shutdown::Write).unwrap();
    until("both requests arrive", || control.counts().requests == before + 2);
    let_time_pass("the client is looked at", LOOKS);
    control.hold_requests(false);
    let (mut ended, mut answered) = (0, 0);
    while ended < 2 {
        let frame = client.read().expect("answers");
        answered += usize::from(frame.kind == HEADERS);
        ended += usize::from(matches!(frame.kind, HEADERS | BODY) && frame.ends_stream());
    }
    assert_eq!(answered, 2);
    assert!(simulator.control().requests().iter().filter(|seen| seen.target.contains("half")).all(|seen| seen.complete));
    while client.read().is_some() {}
}
