//! HTTP/1.0 clients.

use std::{
    io::{ErrorKind, Read, Write},
    net::TcpStream,
};

use rustix::process::Signal;

use crate::harness::{Connection, PATIENCE, RecordingUpstream, Request, Setup, Sidecar, pattern, simulator};

fn get(target: &str, lines: &str) -> Vec<u8> {
    format!("GET {target} HTTP/1.0\r\n{lines}\r\n").into_bytes()
}

/// How a connection ended.
#[derive(Debug, PartialEq, Eq)]
enum End {
    Clean,
    Reset,
}

/// Sends one request, and returns all bytes of the answer and how the connection ended.
fn ask(sidecar: &Sidecar, request: &[u8]) -> (Vec<u8>, End) {
    let mut stream = TcpStream::connect(sidecar.address()).unwrap();
    stream.write_all(request).unwrap();
    read_to_end(&mut stream)
}

fn read_to_end(stream: &mut TcpStream) -> (Vec<u8>, End) {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let (mut all, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return (all, End::Clean),
            Ok(read) => all.extend_from_slice(&buffer[..read]),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return (all, End::Reset),
            Err(error) => panic!("{error}"),
        }
    }
}

fn head_and_body(answer: &[u8]) -> (String, Vec<u8>) {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n").unwrap_or_else(|| panic!("{answer:?}"));
    (String::from_utf8(answer[..end].to_vec()).unwrap(), answer[end + 4..].to_vec())
}

#[test]
fn a_request_is_answered_and_the_connection_closed() {
    let simulator = simulator();
    let sidecar = Sidecar::start(&simulator);
    for lines in ["Host: localhost\r\n", ""] {
        let (answer, end) = ask(&sidecar, &get("/_sim/echo", lines));
        let (head, body) = head_and_body(&answer);
        assert!(head.starts_with("HTTP/1.0 200 OK\r\n"), "{head}");
        assert!(!head.contains("transfer-encoding"), "{head}");
        let echo: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(echo["version"], "HTTP/1.1", "upstream is asked in our version");
        assert_eq!(end, End::Clean);
    }
}

#[test]
fn a_connection_is_kept_only_when_asked_for() {
    let simulator = simulator();
    let sidecar = Sidecar::start(&simulator);
    let mut client = sidecar.connect();
    for _ in 0..3 {
        client.write(&get("/_sim/status/404", "Host: localhost\r\nConnection: keep-alive\r\n"));
        let answer = client.answer("GET");
        assert_eq!((answer.status, answer.header("connection")), (404, Some("keep-alive")));
    }
    client.write(&get("/_sim/status/404", "Host: localhost\r\n"));
    assert_eq!(client.answer("GET").status, 404);
    assert!(client.is_closed());
}

#[test]
fn a_body_of_unknown_length_ends_with_the_connection() {
    let simulator = simulator();
    let sidecar = Sidecar::start(&simulator);
    for lines in ["Host: localhost\r\n", "Host: localhost\r\nConnection: keep-alive\r\n"] {
        let (answer, end) = ask(&sidecar, &get("/_sim/download?bytes=300000&chunked=1", lines));
        let (head, body) = head_and_body(&answer);
        assert!(!head.contains("content-length") && !head.contains("transfer-encoding"), "{head}");
        assert!(!head.contains("keep-alive"), "{head}");
        assert!(body == pattern(300_000), "{} bytes", body.len());
        assert_eq!(end, End::Clean);
    }
}

#[test]
fn a_truncated_body_is_a_reset() {
    let simulator = simulator();
    let sidecar = Sidecar::start(&simulator);
    for query in ["after=5000&chunked=1", "after=5000&of=9000", "after=300000&chunked=1", "after=0&chunked=1"] {
        let (answer, end) = ask(&sidecar, &get(&format!("/_sim/reset?{query}&how=close"), "Host: localhost\r\n"));
        assert_eq!(end, End::Reset, "{query}: {} bytes and a clean end", answer.len());
    }
    assert!(sidecar.wait_for_access_lines(4).iter().all(|line| line["cut"] == "upstream_closed"));
}

#[test]
fn an_upstream_that_falls_silent_ends_in_a_reset() {
    let simulator = simulator();
    let mut setup = Setup::new(&simulator);
    setup.api("body_idle", "300ms");
    let sidecar = setup.start();
    let (_, end) = ask(&sidecar, &get("/_sim/drip?bytes=2&interval_ms=3600000&chunked=1", "Host: localhost\r\n"));
    assert_eq!(end, End::Reset);
}

#[test]
fn an_answer_that_the_drain_cuts_is_a_reset() {
    let simulator = simulator();
    let mut setup = Setup::new(&simulator);
    setup.global("drain_timeout", "300ms");
    let mut sidecar = setup.start();
    let mut stream = TcpStream::connect(sidecar.address()).unwrap();
    stream.write_all(&get("/_sim/sse?events=0&interval_ms=3600000", "Host: localhost\r\n")).unwrap();
    let mut first = [0; 1];
    stream.read_exact(&mut first).unwrap();
    sidecar.signal(Signal::TERM);
    assert_eq!(read_to_end(&mut stream).1, End::Reset);
    assert_eq!(sidecar.wait().code(), Some(0));
}

#[test]
fn answers_without_a_body_and_problems_end_cleanly() {
    let simulator = simulator();
    let sidecar = Sidecar::start(&simulator);
    for target in ["/_sim/status/204", "/_sim/status/304", "/patient/auth", "/_sim/reset-before?how=close"] {
        let (answer, end) = ask(&sidecar, &get(target, "Host: localhost\r\n"));
        assert!(answer.starts_with(b"HTTP/1.0 "), "{target}");
        assert_eq!(end, End::Clean, "{target}");
    }
    for target in ["/_sim/download?bytes=1000", "/patient/auth"] {
        let request = format!("HEAD {target} HTTP/1.0\r\n\r\n");
        let (answer, end) = ask(&sidecar, request.as_bytes());
        assert_eq!((head_and_body(&answer).1.len(), end), (0, End::Clean), "{target}");
    }
}

#[test]
fn an_upload_needs_a_length() {
    let simulator = simulator();
    let sidecar = Sidecar::start(&simulator);
    let mut client: Connection = sidecar.connect();
    client.write(b"POST /_sim/echo HTTP/1.0\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\nhello");
    // No 100 is sent to a client that can't know it.
    assert_eq!(client.answer("POST").json()["body"], "hello");
    let mut client = sidecar.connect();
    client.write(b"POST /_sim/echo HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n");
    assert_eq!(client.head().status, 400);
}

#[test]
fn an_http10_upstream_is_understood() {
    let simulator = simulator();
    let upstream = RecordingUpstream::start("HTTP/1.0 200 OK\r\nConnection: close\r\n\r\nuntil the end");
    let sidecar = upstream.setup(&simulator).start();
    let (answer, end) = ask(&sidecar, &get("/", "Host: localhost\r\n"));
    assert_eq!((head_and_body(&answer).1, end), (b"until the end".to_vec(), End::Clean));
    assert_eq!(sidecar.send(&Request::get("/")).text(), "until the end");
}
