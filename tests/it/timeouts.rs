//! Time-outs of either side: when they end an exchange, and what the client is told.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    thread,
    time::Duration,
};

use careportals_simulator::{Options, Simulator};
use socket2::{Domain, Socket, Type};

use crate::harness::{
    Answer, Connection, LOGGED_IN, ManualUpstream, Request, Setup, Sidecar, let_time_pass, now, simulator, until,
};

const SHORT: Duration = Duration::from_millis(300);

/// A sidecar with one key of its API at 300 ms.
fn with_short(simulator: &Simulator, key: &str) -> Sidecar {
    let mut setup = Setup::new(simulator);
    setup.api(key, "300ms");
    setup.start().ready()
}

/// The status and code of a problem.
fn problem(answer: &Answer) -> (u16, String) {
    (answer.status, answer.problem())
}

#[test]
fn a_client_that_says_nothing_is_closed_after_head_timeout() {
    let simulator = simulator();
    let sidecar = with_short(&simulator, "head_timeout");
    let start = now();
    let mut silent = sidecar.connect();
    assert!(silent.is_closed());
    assert!(start.elapsed() >= SHORT);
}

#[test]
fn bytes_that_drip_in_do_not_extend_head_timeout() {
    let simulator = simulator();
    let sidecar = with_short(&simulator, "head_timeout");
    let start = now();
    let mut stream = TcpStream::connect(sidecar.address()).unwrap();
    // Each read waits that long for the end of the connection, and so paces the bytes.
    stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    stream.write_all(b"GET /_sim/echo HTTP/1.1\r\nX-Slow: ").unwrap();
    let closed = (0..200).any(|_| {
        if stream.write_all(b"s").is_err() {
            return true;
        }
        match stream.read(&mut [0; 64]) {
            Ok(read) => read == 0,
            Err(error) => error.kind() != ErrorKind::WouldBlock,
        }
    });
    assert!(closed);
    assert!(start.elapsed() >= SHORT);
}

#[test]
fn an_idle_connection_outlives_head_timeout_but_a_begun_head_does_not() {
    let simulator = simulator();
    let sidecar = with_short(&simulator, "head_timeout");
    let request = Request::get("/_sim/echo");
    let mut idle = sidecar.connect();
    assert_eq!(idle.send(&request).status, 200);
    // Younger, so it is closed later than the idle one would be.
    assert!(sidecar.connect().is_closed());
    assert_eq!(idle.send(&request).status, 200);
    assert!(sidecar.connect().is_closed());
    let start = now();
    idle.write(b"GET /_sim/echo HTTP/1.1\r\nHost: loc");
    assert!(idle.is_closed());
    assert!(start.elapsed() >= SHORT);
}

#[test]
fn the_rest_of_a_body_that_comes_behind_its_answer_is_no_head_and_its_connection_serves_again() {
    let simulator = simulator();
    let sidecar = with_short(&simulator, "head_timeout");
    for (path, status) in [("/_sim/early?status=413", 413), ("/auth", 403)] {
        let mut client = sidecar.connect();
        client.write(&Request::new("POST", path).header("Content-Length", "100000").head());
        client.write(&[b'x'; 1000]);
        assert_eq!(client.answer("POST").status, status);
        client.write(&vec![b'x'; 99_000]);
        // Younger, so it is closed later than the other one would be.
        assert!(sidecar.connect().is_closed());
        assert_eq!(client.send(&Request::get("/_sim/echo")).status, 200, "{path}");
    }
}

#[test]
fn a_request_in_flight_does_not_count_against_head_timeout() {
    let simulator = simulator();
    let sidecar = with_short(&simulator, "head_timeout");
    simulator.control().hold_requests(true);
    let mut client = sidecar.connect();
    client.write(&Request::get("/_sim/echo").head());
    assert!(sidecar.connect().is_closed());
    simulator.control().hold_requests(false);
    assert_eq!(client.answer("GET").status, 200);
}

#[test]
fn a_tls_handshake_that_is_not_answered_ends_with_connect_timeout() {
    let simulator = simulator();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut setup = Setup::without_login(&format!("https://{}", silent.local_addr().unwrap()), simulator.ca_pem());
    setup.api("connect_timeout", "300ms");
    let sidecar = setup.start();
    let start = now();
    assert_eq!(problem(&sidecar.get("/users/account")), (504, "connect_timeout".to_owned()));
    assert!(start.elapsed() >= SHORT);
}

/// A listener whose queue is full, and the connections that fill it.
fn full() -> (Socket, SocketAddr, Vec<TcpStream>) {
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    listener.listen(0).unwrap();
    let address = listener.local_addr().unwrap().as_socket().unwrap();
    let mut filling = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(100)) {
        filling.push(stream);
    }
    (listener, address, filling)
}

#[test]
fn a_connection_that_is_not_answered_ends_with_connect_timeout() {
    let (_listener, address, _filling) = full();
    let mut setup = Setup::plain(address);
    setup.api("connect_timeout", "300ms");
    let sidecar = setup.start();
    assert_eq!(problem(&sidecar.get("/users/account")), (504, "connect_timeout".to_owned()));
}

#[test]
fn a_refused_connection_is_a_502() {
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let sidecar = Setup::plain(gone).start();
    let answer = sidecar.get("/users/account");
    assert_eq!(problem(&answer), (502, "connect_failed".to_owned()));
    assert_eq!(answer.header("proxy-status"), Some("careportals-sidecar; error=connection_refused"));
}

#[test]
fn a_name_that_does_not_exist_is_a_502() {
    let simulator = simulator();
    let sidecar = Setup::without_login("https://nowhere.invalid", simulator.ca_pem()).start();
    let answer = sidecar.get("/users/account");
    assert_eq!(problem(&answer), (502, "dns_failed".to_owned()));
    assert_eq!(answer.header("proxy-status"), Some("careportals-sidecar; error=dns_error"));
}

#[test]
fn a_certificate_of_an_unknown_authority_is_a_502() {
    let (trusted, actual) = (simulator(), simulator());
    let sidecar = Setup::without_login(&actual.base_url(), trusted.ca_pem()).start();
    assert_eq!(problem(&sidecar.get("/v2/products")), (502, "certificate_rejected".to_owned()));
    assert_eq!(actual.control().counts().requests, 0);
    assert!(sidecar.wait_for_log("the upstream can't be reached").contains("its issuer is not trusted"));
}

/// A reserved port that refuses connections until the test listens there.
fn closed_port() -> (Socket, SocketAddr) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    (socket, address)
}

/// Answers every connection with the same bytes, for as long as the test lasts.
fn open_port(socket: &Socket, answer: &'static [u8]) {
    socket.listen(8).unwrap();
    let listener = TcpListener::from(socket.try_clone().unwrap());
    thread::spawn(move || {
        for stream in listener.incoming() {
            // A client that has hung up has had its answer.
            let _ = stream.and_then(|mut stream| stream.read(&mut [0; 4096]).and_then(|_| stream.write_all(answer)));
        }
    });
}

fn told(sidecar: &Sidecar, text: &str) -> usize {
    sidecar.logs().lines().filter(|line| line.contains(text)).count()
}

#[test]
fn an_outage_is_told_once_and_so_is_its_end() {
    let (port, address) = closed_port();
    let sidecar = Setup::plain(address).start();
    for _ in 0..3 {
        assert_eq!(problem(&sidecar.get("/users/account")), (502, "connect_failed".to_owned()));
    }
    open_port(&port, b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n");
    for _ in 0..3 {
        assert_eq!(sidecar.get("/users/account").status, 204);
    }
    sidecar.wait_for_log("the upstream is reached again");
    assert_eq!(told(&sidecar, "the upstream can't be reached"), 1, "{}", sidecar.logs());
    assert_eq!(told(&sidecar, "the upstream is reached again"), 1, "{}", sidecar.logs());
}

#[test]
fn another_reason_for_an_outage_is_told_anew() {
    let (port, address) = closed_port();
    let simulator = simulator();
    let sidecar = Setup::without_login(&format!("https://{address}"), simulator.ca_pem()).start();
    assert_eq!(problem(&sidecar.get("/users/account")), (502, "connect_failed".to_owned()));
    open_port(&port, b"HTTP/1.1 400 Bad Request\r\n\r\n");
    for _ in 0..2 {
        assert_eq!(problem(&sidecar.get("/users/account")), (502, "tls_failed".to_owned()));
    }
    sidecar.wait_for_log("the TLS handshake with the upstream failed");
    assert_eq!(told(&sidecar, "the upstream can't be reached"), 2, "{}", sidecar.logs());
    assert_eq!(told(&sidecar, "the upstream is reached again"), 0, "{}", sidecar.logs());
}

#[test]
fn a_certificate_for_another_name_is_a_502() {
    let elsewhere = SocketAddr::from(([127, 0, 0, 2], 0));
    let simulator = Simulator::start(Options { listen: elsewhere, ..Options::default() }).unwrap();
    let sidecar = Setup::without_login(&format!("https://{}", simulator.address()), simulator.ca_pem()).start();
    assert_eq!(problem(&sidecar.get("/v2/products")), (502, "certificate_rejected".to_owned()));
}

#[test]
fn an_upstream_that_speaks_no_tls_is_a_502() {
    let simulator = simulator();
    let upstream = ManualUpstream::listen();
    let sidecar = Setup::without_login(&format!("https://{}", upstream.address()), simulator.ca_pem()).start();
    let mut client = sidecar.connect();
    client.write(&Request::get("/users/account").head());
    for _ in 0..2 {
        upstream.accept().write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
    }
    assert_eq!(problem(&client.answer("GET")), (502, "tls_failed".to_owned()));
}

#[test]
fn an_answer_that_is_no_http_on_a_fresh_connection_is_a_502_and_not_asked_for_again() {
    let simulator = simulator();
    let sidecar = Sidecar::start(&simulator);
    sidecar.wait_for_log(LOGGED_IN);
    simulator.control().reset_counts();
    assert_eq!(problem(&sidecar.get("/_sim/garbage")), (502, "upstream_protocol".to_owned()));
    assert_eq!(simulator.control().counts().requests, 1);
}

#[test]
fn an_upstream_that_does_not_answer_within_response_timeout_is_a_504() {
    let simulator = simulator();
    let sidecar = with_short(&simulator, "response_timeout");
    for request in [Request::get("/_sim/hang"), Request::post("/_sim/hang", "a body"), Request::new("PUT", "/_sim/hang")] {
        simulator.control().reset_counts();
        let start = now();
        assert_eq!(problem(&sidecar.send(&request)), (504, "upstream_timeout".to_owned()));
        assert!(start.elapsed() >= SHORT);
        assert_eq!(simulator.control().counts().requests, 1, "a time-out is not tried again");
    }
}

#[test]
fn response_timeout_counts_from_the_last_byte_of_the_request() {
    let simulator = simulator();
    let sidecar = with_short(&simulator, "response_timeout");
    let mut slow = sidecar.connect();
    slow.write(b"POST /_sim/echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\nsl");
    for _ in 0..2 {
        assert_eq!(sidecar.get("/_sim/hang").status, 504);
    }
    // One may be the fault of what it asked for; with two in a row nobody answers.
    sidecar.wait_for_log("the upstream can't be reached");
    assert_eq!(told(&sidecar, "the upstream can't be reached"), 1, "{}", sidecar.logs());
    slow.write(b"ow");
    assert_eq!(slow.answer("POST").json()["body"], "slow");
    sidecar.wait_for_log("the upstream is reached again");
    slow.write(b"POST /_sim/hang HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\nsl");
    assert_eq!(sidecar.get("/_sim/hang").status, 504);
    let start = now();
    slow.write(b"ow");
    assert_eq!(problem(&slow.answer("POST")), (504, "upstream_timeout".to_owned()));
    assert!(start.elapsed() >= SHORT);
}

#[test]
fn a_client_that_pauses_in_its_body_for_body_idle_is_told_408() {
    let simulator = simulator();
    let sidecar = with_short(&simulator, "body_idle");
    let mut client = sidecar.connect();
    client.write(b"POST /_sim/echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\nsl");
    let start = now();
    let answer = client.answer("POST");
    assert_eq!(problem(&answer), (408, "request_body_timeout".to_owned()));
    assert!(start.elapsed() >= SHORT);
    assert_eq!(answer.header("connection"), Some("close"));
    let seen = || simulator.control().requests().into_iter().find(|seen| seen.method == "POST").unwrap();
    until("the exchange is over", || seen().over);
    assert!(!seen().complete, "what is missing is not made up");
}

#[test]
fn an_upstream_that_pauses_in_its_body_for_body_idle_is_cut_off() {
    let simulator = simulator();
    let sidecar = with_short(&simulator, "body_idle");
    let mut client = sidecar.connect();
    client.write(&Request::get("/_sim/drip?bytes=2&interval_ms=3600000").head());
    let start = now();
    let answer = client.answer("GET");
    assert_eq!(answer.status, 200);
    assert_eq!(answer.body.len(), 1);
    assert!(answer.cut);
    assert!(start.elapsed() >= SHORT);
    let lines = sidecar.wait_for_access_lines(2);
    assert!(lines.iter().any(|line| line["cut"] == "upstream_silent"), "{lines:?}");
    until("every exchange is over", || simulator.control().requests().iter().all(|seen| seen.over));
}

#[test]
fn an_answer_that_begins_before_the_request_has_ended_is_cut_only_when_nothing_moves_either_way() {
    let upstream = ManualUpstream::listen();
    let mut setup = upstream.setup();
    setup.api("body_idle", "400ms");
    let sidecar = setup.start();
    for goes_silent in [false, true] {
        let mut client = sidecar.connect();
        client.write(b"POST /orders HTTP/1.1\r\nHost: localhost\r\nContent-Length: 8\r\n\r\n1");
        let mut serving = upstream.accept();
        serving.read_until(b"\r\n\r\n");
        serving.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n");
        assert_eq!(client.head().status, 200);
        for _ in 0..if goes_silent { 2 } else { 7 } {
            let_time_pass("a client takes its time, and never `body_idle`", Duration::from_millis(150));
            client.write(b"2");
        }
        if goes_silent {
            client.read_to_end();
            let lines = sidecar.wait_for_access_lines(2);
            assert!(lines.iter().any(|line| line["cut"] == "client_silent"), "{lines:?}");
        } else {
            serving.write(b"done");
            client.read_until(b"done");
        }
    }
}

#[test]
fn an_event_stream_is_held_to_stream_idle_instead() {
    let simulator = simulator();
    let quiet = "/_sim/sse?events=2&interval_ms=3600000";
    let sidecar = with_short(&simulator, "stream_idle");
    let start = now();
    assert!(sidecar.get(quiet).cut);
    assert!(start.elapsed() >= SHORT);

    // Silent for longer than `body_idle`, and complete all the same.
    let sidecar = with_short(&simulator, "body_idle");
    let pause = 3 * SHORT.as_millis();
    let answer = sidecar.get(&format!("/_sim/sse?events=2&interval_ms={pause}"));
    assert_eq!((answer.status, answer.cut), (200, false), "{answer:?}");
}

#[test]
fn a_body_that_keeps_coming_may_take_longer_than_body_idle() {
    let simulator = simulator();
    let sidecar = with_short(&simulator, "body_idle");
    let answer = sidecar.get("/_sim/drip?bytes=8&interval_ms=100");
    assert_eq!((answer.body.len(), answer.cut), (8, false));
}

/// Takes a moment longer than [`SHORT`]: an answer of the upstream's that is slow by itself.
fn outlast(sidecar: &Sidecar) {
    assert_eq!(sidecar.get("/_sim/drip?bytes=5&interval_ms=120").body.len(), 5);
}

#[test]
fn a_client_that_reads_slowly_does_not_trip_body_idle() {
    const BYTES: usize = 24 * 1024 * 1024;
    let simulator = simulator();
    let sidecar = with_short(&simulator, "body_idle");
    let mut client = sidecar.connect();
    client.write(&Request::get(&format!("/_sim/download?bytes={BYTES}")).head());
    let head = client.head();
    assert_eq!(head.status, 200);
    outlast(&sidecar);
    let seen = simulator.control().requests().into_iter().find(|seen| seen.target.contains("download")).unwrap();
    assert!(seen.answer_bytes < BYTES as u64, "held back by the client");
    let mut left = BYTES;
    while left > 0 {
        let some = client.read_some();
        assert!(!some.is_empty(), "cut with {left} bytes left");
        left -= some.len();
    }
}

#[test]
fn an_upstream_that_stops_reading_is_not_blamed_on_the_client() {
    let upstream = ManualUpstream::listen();
    let mut setup = upstream.setup();
    setup.api("body_idle", "300ms");
    let sidecar = setup.start();
    let stream = TcpStream::connect(sidecar.address()).unwrap();
    let (mut writer, end) = (stream.try_clone().unwrap(), stream.try_clone().unwrap());
    let mut client = Connection::tcp(stream);
    client.write(b"POST /users HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000000\r\n\r\n");
    let mut stuck = upstream.accept();
    stuck.read_until(b"\r\n\r\n");
    let flood = thread::spawn(move || while writer.write_all(&vec![b'x'; 64 * 1024]).is_ok() {});
    assert_eq!(problem(&client.answer("POST")), (504, "upstream_timeout".to_owned()));
    end.shutdown(Shutdown::Both).unwrap();
    flood.join().unwrap();
}
