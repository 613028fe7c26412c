//! What clients send that is no request: it is counted by reason, and told in a line without a byte of it.

use std::{
    io::{Read, Write},
    net::TcpStream,
};

use crate::harness::{PATIENCE, Setup, Sidecar, simulator, until};

const MARK: &str = "mark3d";

/// Sends the bytes and reads to the end.
fn send(sidecar: &Sidecar, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(sidecar.address()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(bytes).unwrap();
    let mut answer = Vec::new();
    // Bytes that nobody read may make the end a reset.
    drop(stream.read_to_end(&mut answer));
    answer
}

fn counted(sidecar: &Sidecar, api: &str, reason: &str) -> f64 {
    let page = sidecar.telemetry("/metrics");
    let series = format!("careportals_sidecar_client_errors_total{{api=\"{api}\",reason=\"{reason}\"}} ");
    page.text().lines().find_map(|line| line.strip_prefix(&series)).unwrap().parse().unwrap()
}

#[test]
fn what_the_parser_refuses_is_counted_by_reason_and_told_without_its_content() {
    let simulator = simulator();
    let mut setup = Setup::new(&simulator);
    setup.api("head_timeout", "300ms").api("max_header_bytes", "8KiB").with_telemetry();
    let sidecar = setup.start().ready();
    let preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    for (reason, bytes, status) in [
        ("malformed", format!("GET /{MARK} HTTP/9.9\r\n\r\n"), "400"),
        ("malformed", format!("GET / HTTP/1.1\r\nHost: localhost\r\n{MARK} {MARK}\r\n\r\n"), "400"),
        ("head_too_large", format!("GET / HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n", MARK.repeat(5000)), "431"),
        ("head_too_large", format!("GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n", MARK.repeat(12_000)), "4"),
        ("tls", format!("\x16\x03\x01\x02\x00\x01\x00\x01{MARK}"), "400"),
        ("head_timeout", format!("GET /{MARK} HTTP/1.1\r\nHost:"), ""),
        ("http2", format!("{preface}\x00\x00\x08\x06\x00\x00\x00\x00\x01{MARK}mk"), ""),
    ] {
        let before = counted(&sidecar, "default", reason);
        let answer = send(&sidecar, bytes.as_bytes());
        let answer = String::from_utf8_lossy(&answer);
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")) || reason == "http2" || status.is_empty(),
            "{reason}: {answer}"
        );
        until(reason, || (counted(&sidecar, "default", reason) - before - 1.0).abs() < 0.5);
    }
    let told = |text: &str| sidecar.logs().lines().filter(|line| line.contains(text)).count();
    for reason in ["malformed", "head_too_large", "head_timeout", "http2"] {
        let text = format!("\"reason\":\"{reason}\"");
        until("it is told", || told(&text) >= 1);
        assert_eq!(told(&text), 1, "at once, and then not for ten seconds");
    }
    assert_eq!(
        told(r#""level":"WARN","message":"a client speaks TLS to a plain-HTTP port: its base URL must begin with http://""#),
        1
    );
    assert!(!sidecar.logs().contains(MARK), "{}", sidecar.logs());
}

#[test]
fn clients_that_behave_or_go_away_are_no_errors() {
    let simulator = simulator();
    let mut setup = Setup::new(&simulator);
    setup.with_telemetry();
    let sidecar = setup.start().ready();
    assert_eq!(sidecar.get("/_sim/echo").status, 200);
    for bytes in ["", "GET / HTTP/1.1\r\nHo"] {
        drop(TcpStream::connect(sidecar.address()).unwrap().write_all(bytes.as_bytes()));
    }
    assert_eq!(sidecar.get("/_sim/echo").status, 200);
    for reason in ["malformed", "head_too_large", "head_timeout", "tls", "http2"] {
        assert!(counted(&sidecar, "default", reason) < 0.5, "{reason}");
    }
}
