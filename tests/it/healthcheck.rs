//! `healthcheck`: what a probe asks, and what it says when the answer is no.

use std::{
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener},
    thread::JoinHandle,
};

use careportals_simulator::LoginFault;

use crate::harness::{Output, PATIENCE, Setup, now, simulator};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const NOT_READY: &str = "HTTP/1.1 503 Service Unavailable\r\n\r\n\
    {\"ready\": false, \"reasons\": [{\"account\": \"crm\", \"code\": \"rejected\", \"detail\": \"the server said no\"}]}";

/// A listener that gives each of these answers once, in their order, and returns what was asked.
fn listener(at: &str, answers: &'static [&'static str]) -> (SocketAddr, JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind(at).unwrap();
    let address = listener.local_addr().unwrap();
    let answer = move |answer: &&str| {
        let (stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut reader = BufReader::new(&stream);
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            reader.read_until(b'\n', &mut head).unwrap();
        }
        (&stream).write_all(answer.as_bytes()).unwrap();
        String::from_utf8(head).unwrap().lines().next().unwrap().to_owned()
    };
    (address, std::thread::spawn(move || answers.iter().map(answer).collect()))
}

/// Runs `healthcheck` without a credential, with settings that no daemon could start with.
fn healthcheck(listen: &str, arguments: &[&str]) -> Output {
    let mut setup = Setup::empty();
    setup.variable("CAREPORTALS_TELEMETRY_LISTEN", listen);
    setup.output_of(&[&["healthcheck"], arguments].concat())
}

#[test]
fn each_probe_asks_its_own_question_and_needs_no_credentials() {
    for (arguments, asked, word) in [
        (&[][..], "GET /livez ", "live\n"),
        (&["--live"], "GET /livez ", "live\n"),
        (&["--started"], "GET /startupz ", "started\n"),
        (&["--ready"], "GET /readyz ", "ready\n"),
    ] {
        let (address, answering) = listener("127.0.0.1:0", &[OK]);
        let output = healthcheck(&address.to_string(), arguments);
        assert_eq!((output.code, output.stdout.as_str()), (Some(0), word), "{output:?}");
        assert!(answering.join().unwrap()[0].starts_with(asked));
    }
}

#[test]
fn a_listener_on_every_address_is_asked_by_loopback() {
    let (address, _answering) = listener("127.0.0.1:0", &[OK]);
    let output = healthcheck(&format!("0.0.0.0:{}", address.port()), &[]);
    assert_eq!(output.code, Some(0), "{output:?}");
    if TcpListener::bind("[::1]:0").is_err() {
        eprintln!("skipped: this machine has no IPv6");
        return;
    }
    let (address, _answering) = listener("[::1]:0", &[OK]);
    let output = healthcheck(&format!("[::]:{}", address.port()), &[]);
    assert_eq!(output.code, Some(0), "{output:?}");
}

#[test]
fn a_daemon_without_a_token_is_alive_and_started_but_not_ready() {
    let simulator = simulator();
    simulator.control().set_login_fault(Some(LoginFault::Status(401)));
    let mut setup = Setup::new(&simulator);
    setup.with_telemetry();
    let mut sidecar = setup.start();
    let address = sidecar.telemetry_address().to_string();
    for probe in ["--live", "--started"] {
        assert_eq!(healthcheck(&address, &[probe, "--wait", "10s"]).code, Some(0));
    }
    sidecar.wait_for_log("\"rejected\"");
    let output = healthcheck(&address, &["--ready"]);
    assert_eq!(output.code, Some(1), "{output:?}");
    assert!(output.stderr.contains("account default: ") && output.stderr.contains("status 401"), "{output:?}");
    assert_eq!(sidecar.stop().code(), Some(0));
    assert_eq!(healthcheck(&address, &[]).code, Some(1));
}

#[test]
fn a_no_exits_1_with_the_daemons_reasons() {
    let (address, _answering) = listener("127.0.0.1:0", &[NOT_READY]);
    let output = healthcheck(&address.to_string(), &["--ready"]);
    assert_eq!(output.code, Some(1), "{output:?}");
    assert_eq!(output.stderr, "error: not ready: account crm: the server said no\n");
}

#[test]
fn wait_asks_again_until_the_answer_is_yes() {
    let (address, answering) = listener("127.0.0.1:0", &[NOT_READY, NOT_READY, OK]);
    let output = healthcheck(&address.to_string(), &["--ready", "--wait", "30s"]);
    assert_eq!(output.code, Some(0), "{output:?}");
    assert_eq!(answering.join().unwrap().len(), 3);
}

#[test]
fn wait_ends_in_time_when_nobody_answers() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap().to_string();
    drop(free);
    let start = now();
    let output = healthcheck(&address, &["--wait", "300ms"]);
    assert_eq!(output.code, Some(1), "{output:?}");
    assert!(start.elapsed().as_millis() >= 300);
    for said in [address.as_str(), "nobody listens there", "CAREPORTALS_TELEMETRY_LISTEN", "is the daemon running"] {
        assert!(output.stderr.contains(said), "{said}: {output:?}");
    }
}

#[test]
fn without_a_listener_that_can_be_known_it_fails_at_once_and_says_so() {
    for (listen, said) in [
        ("off", "the telemetry listener is off (CAREPORTALS_TELEMETRY_LISTEN)"),
        ("127.0.0.1:0", "has port 0 (CAREPORTALS_TELEMETRY_LISTEN)"),
        ("nonsense", "CAREPORTALS_TELEMETRY_LISTEN: "),
    ] {
        let output = healthcheck(listen, &["--wait", "1h"]);
        assert_eq!(output.code, Some(1), "{output:?}");
        assert!(output.stderr.contains(said), "{said}: {output:?}");
    }
}

#[test]
fn a_settings_file_that_is_broken_by_now_does_not_hide_a_healthy_daemon() {
    let (address, _answering) = listener("127.0.0.1:0", &[OK]);
    let mut setup = Setup::empty();
    setup.settings("this is no TOML\n").variable("CAREPORTALS_TELEMETRY_LISTEN", &address.to_string());
    assert_eq!(setup.output("healthcheck").code, Some(0));
    setup.variable("CAREPORTALS_TELEMETRY_LISTEN", "off");
    let output = setup.output("healthcheck");
    assert_eq!(output.code, Some(1), "{output:?}");
    assert!(output.stderr.contains("note: ") && output.stderr.contains("config.toml:1: not valid TOML"), "{output:?}");
}

/// Another daemon may be at the default address.
#[test]
fn a_settings_file_that_can_not_be_read_leaves_nobody_to_ask() {
    let mut setup = Setup::empty();
    setup.without("CAREPORTALS_TELEMETRY_LISTEN").variable("CAREPORTALS_CONFIG", "/nonexistent/config.toml");
    let output = setup.output("healthcheck");
    assert_eq!(output.code, Some(1), "{output:?}");
    assert!(output.stderr.contains("cannot read /nonexistent/config.toml"), "{output:?}");
    assert_eq!(output.stderr.matches("/nonexistent").count(), 1, "told once: {output:?}");
}

#[test]
fn two_questions_at_once_are_a_usage_error() {
    let output = healthcheck("off", &["--live", "--ready"]);
    assert_eq!(output.code, Some(2), "{output:?}");
}
