//! Tests the program: the line it prints, its files, its admin port and its end.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    process::{Child, Command, Stdio},
};

use serde_json::{Value, json};

use crate::client::tls;

pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_careportals-simulator");

/// A program that is killed when this is dropped, so that a failed test leaves none behind.
pub(crate) struct KilledOnDrop(Child);

impl Drop for KilledOnDrop {
    fn drop(&mut self) {
        // Both fail if the program has ended already, as it has after most tests.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts the program on free ports; its two addresses come from the line it prints.
pub(crate) fn started(flags: &[&str]) -> (KilledOnDrop, SocketAddr, SocketAddr) {
    let child = Command::new(PROGRAM)
        .args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
        .args(flags)
        .stdout(Stdio::piped())
        .spawn()
        .expect("started");
    let mut running = KilledOnDrop(child);
    let mut line = String::new();
    BufReader::new(running.0.stdout.take().expect("piped")).read_line(&mut line).expect("a line");
    let address = |after: &str| {
        let rest = line.split_once(after).expect("in the line").1;
        let end = rest.find(|c: char| c == ',' || c.is_whitespace()).unwrap_or(rest.len());
        rest[..end].parse().expect("an address")
    };
    let (listen, admin) = (address("https://"), address("http://"));
    (running, listen, admin)
}

/// One call to the admin port.
fn admin(address: SocketAddr, method: &str, target: &str, host: &str, body: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).expect("connected");
    let length = body.len();
    write!(stream, "{method} {target} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}")
        .expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let status = answer.split(' ').nth(1).expect("a status").parse().expect("a number");
    (status, answer.split_once("\r\n\r\n").expect("a body").1.to_owned())
}

#[tokio::test]
async fn the_program_serves_follows_its_admin_port_and_ends_on_sigterm() {
    let ca_file = std::env::temp_dir().join(format!("careportals-simulator-{}.pem", std::process::id()));
    let flags = ["--ca-out", ca_file.to_str().expect("text"), "--token-life", "30s", "--clock-offset", "-5"];
    let (mut running, listen, port) = started(&flags);
    let ca = std::fs::read_to_string(&ca_file).expect("written");
    std::fs::remove_file(&ca_file).expect("removed");
    tls(listen, &ca, b"h2").await.expect("trusted");
    let local = port.to_string();
    let json = |answer: (u16, String)| -> Value {
        assert_eq!(answer.0, 200, "{}", answer.1);
        serde_json::from_str(&answer.1).expect("JSON")
    };

    assert_eq!(admin(port, "GET", "/ca.pem", &local, ""), (200, ca));
    assert_eq!(json(admin(port, "GET", "/counts", &local, ""))["connections"], 1);
    assert_eq!(json(admin(port, "GET", "/requests", &local, "")), json!([]));
    let settings = json!({
        "token_life": "5s", "latency": "1ms", "login_delay": "0s", "clock_offset": 10, "omit_date": true, "http2": false,
        "login_fault": "status:503", "fail_next_logins": { "times": 2, "fault": "garbage" },
        "credentials": { "organization": "acme", "username": "u", "password": "p" },
    });
    json(admin(port, "POST", "/settings", &local, &settings.to_string()));
    assert!(tls(listen, &admin(port, "GET", "/ca.pem", &local, "").1, b"h2").await.is_err(), "no HTTP/2 any more");
    json(admin(port, "POST", "/settings", &local, r#"{"fail_next_logins":null}"#));
    assert_eq!(admin(port, "POST", "/settings", &local, r#"{"latency":"soon"}"#).0, 400);
    for target in ["/revoke", "/revoke?organization=demo", "/drop-connections", "/reset"] {
        json(admin(port, "POST", target, &local, ""));
    }
    assert_eq!(json(admin(port, "GET", "/counts", &local, ""))["connections"], 0);
    assert_eq!(admin(port, "GET", "/counts", "rebound.example.test", "").0, 403);
    assert_eq!(admin(port, "GET", "/nothing", &local, "").0, 404);

    let pid = running.0.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().expect("told").success());
    assert!(running.0.wait().expect("ended").success());
}

#[test]
fn an_opened_admin_port_takes_containers_names_and_no_web_page() {
    let (_running, _, port) = started(&["--admin-open"]);
    for host in ["simulator:8444", "10.0.0.7:8444", "[fd00::7]:8444", "localhost"] {
        assert_eq!(admin(port, "GET", "/counts", host, "").0, 200, "{host}");
    }
    for host in ["rebound.example.test", "rebound.example.test:8444", "", "simulator\r\norigin: http://web.example.test"] {
        assert_eq!(admin(port, "GET", "/counts", host, "").0, 403, "{host}");
    }
}

#[test]
fn the_health_check_asks_a_running_simulator_and_is_not_counted() {
    let (running, _, port) = started(&[]);
    let check = || {
        let asked = Command::new(PROGRAM).args(["--healthcheck", "--admin", &port.to_string()]).output().expect("ran");
        (asked.status.code(), asked.stdout.len())
    };
    assert_eq!(check(), (Some(0), 0));
    let counts: Value = serde_json::from_str(&admin(port, "GET", "/counts", "localhost", "").1).expect("JSON");
    assert_eq!((&counts["connections"], &counts["handshakes_failed"]), (&json!(0), &json!(0)));
    drop(running);
    assert_eq!(check(), (Some(1), 0));
}

#[tokio::test]
async fn the_last_of_the_two_flags_for_http2_counts() {
    for (flags, offered) in [(["--http2", "--no-http2"], false), (["--no-http2", "--http2"], true)] {
        let (_running, listen, port) = started(&flags);
        let ca = admin(port, "GET", "/ca.pem", "localhost", "").1;
        assert_eq!(tls(listen, &ca, b"h2").await.is_ok(), offered, "{flags:?}");
    }
}

#[test]
fn wrong_flags_are_reported() {
    let told = |flags: &[&str]| {
        let output = Command::new(PROGRAM).args(flags).output().expect("ran");
        (output.status.code(), String::from_utf8(output.stderr).expect("text"))
    };
    let (code, text) = told(&["--token-life", "soon"]);
    assert!(code == Some(2) && text.contains("expected a duration"), "{text}");
    let (code, text) = told(&["--login-fault", "nonsense"]);
    assert!(code == Some(2) && text.contains("retry-after:CODE:VALUE"), "{text}");
    let (code, text) = told(&["--listen", "127.0.0.1:0", "--admin", "0.0.0.0:0"]);
    assert!(code == Some(1) && text.contains("loopback"), "{text}");
}
