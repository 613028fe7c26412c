//! Error answers of the sidecar's own: told apart from upstream's, telling what to do, and nothing else.

use std::net::TcpListener;

use careportals_simulator::{LoginFault, Simulator};
use rustix::process::Signal;

use crate::harness::{
    Answer, Connection, ORGANIZATION, PASSWORD, RecordingUpstream, Request, Setup, Sidecar, USERNAME, simulator, until,
};

/// What no problem may repeat.
const MARK: &str = "mark3d";

/// A request that carries the mark wherever a client can put something.
fn marked(method: &str, path: &str) -> Request {
    let target = format!("{path}{}{MARK}={MARK}", if path.contains('?') { '&' } else { '?' });
    Request::new(method, &target).header(&format!("X-{MARK}"), MARK).header("Authorization", MARK)
}

/// Asserts that the problem is this one, in each of its forms, and tells nothing of the request or of the account.
fn assert_problem(answer: &Answer, status: u16, code: &str, proxy_error: &str) {
    assert_eq!(answer.problem(), code, "{answer:?}");
    assert_eq!(answer.status, status, "{code}");
    assert_eq!(answer.header("proxy-status"), Some(format!("careportals-sidecar; error={proxy_error}").as_str()), "{code}");
    let document = answer.json();
    assert_eq!(document["type"], format!("urn:careportals-sidecar:problem:{code}"));
    assert_eq!(answer.header("cache-control"), Some("no-store"), "{code}");
    let retry_after = answer.header("retry-after").map(|seconds| seconds.parse::<u64>().unwrap());
    assert_eq!(retry_after.is_some(), status == 503, "{code}: {retry_after:?}");
    assert!(retry_after.is_none_or(|seconds| seconds >= 1), "{code}");
    let all = format!("{:?}{}", answer.headers, answer.text());
    for secret in [MARK, "mark=", "_sim", ORGANIZATION, USERNAME, PASSWORD, "eyJ", "127.0.0.1"] {
        assert!(!all.contains(secret), "{secret} in {all}");
    }
}

/// A sidecar whose API is elsewhere than its log-in.
fn split(simulator: &Simulator, upstream: &str) -> Setup {
    let mut setup = Setup::new(simulator);
    setup.upstream(upstream, simulator);
    setup
}

/// A port where nothing listens.
fn closed_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[test]
fn a_refused_request_is_told_why_by_its_code() {
    let simulator = simulator();
    let sidecar = Sidecar::start(&simulator);
    let cases = [
        (400, "bad_host", "http_request_error", marked("GET", "/users").header("Host", MARK)),
        (400, "bad_target", "http_request_error", marked("GET", "http://elsewhere.example.test/users")),
        (405, "method_not_allowed", "http_request_error", marked("TRACE", "/users")),
        (421, "host_not_allowed", "http_request_denied", marked("GET", "/users").host(&format!("{MARK}.example.test"))),
        (403, "cross_site", "http_request_denied", marked("GET", "/users").header("Origin", &format!("http://{MARK}"))),
        (403, "login_path", "http_request_denied", marked("POST", "/auth")),
    ];
    for (status, code, proxy_error, request) in cases {
        assert_problem(&sidecar.send(&request), status, code, proxy_error);
    }
    let mut client = sidecar.connect();
    client.write(&marked("POST", "/users").header("Transfer-Encoding", "gzip, chunked").head());
    assert_problem(&client.answer("POST"), 400, "bad_framing", "http_request_error");
    assert!(client.is_closed());
}

#[test]
fn a_problem_carries_the_clients_request_id_or_one_of_ours() {
    let simulator = simulator();
    let sidecar = Sidecar::start(&simulator);
    let id = |answer: Answer| answer.json()["request_id"].as_str().unwrap().to_owned();
    assert_eq!(id(sidecar.send(&Request::get("/auth").header("X-Request-Id", "Order_17.a-B"))), "Order_17.a-B");
    let ours = id(sidecar.send(&Request::get("/auth").header("X-Request-Id", "jane doe")));
    assert!(!ours.is_empty() && ours.bytes().all(|byte| byte.is_ascii_hexdigit()), "{ours}");
    assert_ne!(ours, id(sidecar.get("/auth")));
    // It is how the log line is found.
    sidecar.wait_for_log(&ours);
}

#[test]
fn a_problem_for_head_has_no_body() {
    let simulator = simulator();
    let sidecar = Sidecar::start(&simulator);
    let mut client = sidecar.connect();
    let answer = client.send(&Request::new("HEAD", "/auth").header("X-Request-Id", "the-head"));
    assert_eq!((answer.status, answer.header("content-type")), (403, Some("application/problem+json")));
    assert_eq!(client.send(&Request::get("/users/account")).status, 200);
    let line = sidecar.wait_for_log("the-head");
    assert!(!line.contains("client_closed"), "it was answered in full: {line}");
}

#[test]
fn without_a_token_in_time_the_code_is_token_pending() {
    let simulator = simulator();
    simulator.control().hold_logins(true);
    let mut setup = Setup::new(&simulator);
    setup.account("token_wait", "100ms");
    let sidecar = setup.start();
    assert_problem(&sidecar.send(&marked("GET", "/_sim/echo")), 503, "token_pending", "proxy_internal_response");
}

#[test]
fn while_log_ins_fail_the_code_is_login_failing_with_the_time_of_the_next_one() {
    let simulator = simulator();
    simulator.control().set_login_fault(Some(LoginFault::StatusRetryAfter(429, "77".to_owned())));
    let sidecar = Sidecar::start(&simulator);
    let answer = sidecar.send(&marked("GET", "/_sim/echo"));
    assert_problem(&answer, 503, "login_failing", "proxy_internal_response");
    let seconds: u64 = answer.header("retry-after").unwrap().parse().unwrap();
    assert!((70..=77).contains(&seconds), "when the next attempt is due: {seconds}");
}

#[test]
fn with_rejected_credentials_the_code_is_login_rejected() {
    let simulator = simulator();
    let mut setup = Setup::new(&simulator);
    setup.variable("CAREPORTALS_PASSWORD", &format!("{PASSWORD}-wrong"));
    let sidecar = setup.start();
    assert_problem(&sidecar.send(&marked("GET", "/_sim/echo")), 503, "login_rejected", "proxy_internal_response");
}

#[test]
fn after_a_log_out_the_code_is_logged_out() {
    let simulator = simulator();
    let sidecar = Sidecar::start(&simulator).ready();
    sidecar.signal(Signal::USR1);
    sidecar.wait_for_log("\"logged_out\"");
    assert_problem(&sidecar.send(&marked("GET", "/_sim/echo")), 503, "logged_out", "proxy_internal_response");
}

#[test]
fn without_an_organization_the_code_is_no_organization() {
    let simulator = simulator();
    let mut setup = Setup::new(&simulator);
    let absent = setup.dir.path().join("absent");
    setup
        .variable("CAREPORTALS_LOGIN_URL", "off")
        .without("CAREPORTALS_USERNAME")
        .without("CAREPORTALS_PASSWORD")
        .without("CAREPORTALS_ORGANIZATION")
        .variable("CAREPORTALS_ORGANIZATION_FILE", absent.to_str().unwrap())
        .account("token_wait", "100ms");
    let sidecar = setup.start();
    let answer = sidecar.send(&marked("GET", "/_sim/echo"));
    assert_problem(&answer, 503, "no_organization", "proxy_configuration_error");
}

#[test]
fn beyond_max_requests_the_code_is_too_many_requests_in_flight() {
    let simulator = simulator();
    let mut setup = Setup::new(&simulator);
    setup.api("max_requests", "2");
    let sidecar = setup.start().ready();
    simulator.control().reset_counts();
    simulator.control().hold_requests(true);
    let mut holders = [sidecar.connect(), sidecar.connect()];
    for holder in &mut holders {
        holder.write(&Request::get("/_sim/echo").head());
    }
    until("the upstream has got two requests", || simulator.control().counts().requests == 2);
    let answer = sidecar.send(&marked("GET", "/_sim/echo"));
    assert_problem(&answer, 503, "too_many_requests_in_flight", "connection_limit_reached");
    simulator.control().hold_requests(false);
    for mut holder in holders {
        assert_eq!(holder.answer("GET").status, 200);
    }
    assert_eq!(sidecar.get("/_sim/echo").status, 200, "the places are free again");
    assert_eq!(simulator.control().counts().requests, 3);
}

#[test]
fn for_a_name_that_does_not_exist_the_code_is_dns_failed() {
    let simulator = simulator();
    let sidecar = split(&simulator, "https://api.careportals.invalid").start();
    assert_problem(&sidecar.send(&marked("GET", "/_sim/echo")), 502, "dns_failed", "dns_error");
}

#[test]
fn for_a_port_where_nobody_listens_the_code_is_connect_failed() {
    let simulator = simulator();
    let sidecar = split(&simulator, &format!("https://localhost:{}", closed_port())).start();
    assert_problem(&sidecar.send(&marked("GET", "/_sim/echo")), 502, "connect_failed", "connection_refused");
}

#[test]
fn for_a_connection_that_takes_too_long_the_code_is_connect_timeout() {
    let simulator = simulator();
    // The kernel accepts, and no handshake is ever answered.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut setup = split(&simulator, &format!("https://127.0.0.1:{}", silent.local_addr().unwrap().port()));
    setup.api("connect_timeout", "200ms");
    let sidecar = setup.start();
    assert_problem(&sidecar.send(&marked("GET", "/_sim/echo")), 504, "connect_timeout", "connection_timeout");
}

#[test]
fn for_an_upstream_without_tls_the_code_is_tls_failed() {
    let simulator = simulator();
    let plain = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = plain.local_addr().unwrap().port();
    let serving = std::thread::spawn(move || {
        // Twice: a failed handshake is worth one more try.
        for _ in 0..2 {
            let mut client = Connection::tcp(plain.accept().unwrap().0);
            client.read_some();
            client.write(b"HTTP/1.1 400 Bad Request\r\n\r\n");
            client.finish_writing();
            client.read_to_end();
        }
    });
    let mut setup = split(&simulator, &format!("https://localhost:{port}"));
    setup.without_connections_ahead();
    let sidecar = setup.start();
    assert_problem(&sidecar.send(&marked("GET", "/_sim/echo")), 502, "tls_failed", "tls_protocol_error");
    serving.join().unwrap();
}

#[test]
fn for_an_untrusted_certificate_the_code_is_certificate_rejected() {
    let (simulator, stranger) = (simulator(), self::simulator());
    let sidecar = split(&simulator, &stranger.base_url()).start();
    assert_problem(&sidecar.send(&marked("GET", "/_sim/echo")), 502, "certificate_rejected", "tls_certificate_error");
    assert_eq!(stranger.control().counts().requests, 0, "a token went to a stranger");
}

#[test]
fn for_a_connection_that_closes_before_its_answer_the_code_is_upstream_closed() {
    let simulator = simulator();
    let sidecar = Sidecar::start(&simulator);
    for how in ["rst", "close"] {
        for request in
            [marked("POST", "/_sim/reset-before?how=rst").body(MARK), marked("GET", &format!("/_sim/reset-before?how={how}"))]
        {
            assert_problem(&sidecar.send(&request), 502, "upstream_closed", "connection_terminated");
        }
    }
}

#[test]
fn for_an_answer_that_is_no_http_the_code_is_upstream_protocol() {
    let simulator = simulator();
    let sidecar = Sidecar::start(&simulator);
    assert_problem(&sidecar.send(&marked("GET", "/_sim/garbage")), 502, "upstream_protocol", "http_protocol_error");
    assert_eq!(sidecar.get("/_sim/echo").status, 200);
}

#[test]
fn for_an_upgrade_that_nobody_asked_for_the_code_is_upstream_protocol() {
    let simulator = simulator();
    let upstream = RecordingUpstream::start(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
    );
    let sidecar = upstream.setup(&simulator).start();
    assert_problem(&sidecar.send(&marked("GET", "/")), 502, "upstream_protocol", "http_protocol_error");
}

#[test]
fn for_an_answer_with_too_large_a_head_the_code_is_upstream_head_too_large() {
    let simulator = simulator();
    let sidecar = Sidecar::start(&simulator);
    for (count, size) in [(1, 70_000), (300, 1)] {
        let answer = sidecar.send(&marked("GET", &format!("/_sim/headers?count={count}&size={size}")));
        assert_problem(&answer, 502, "upstream_head_too_large", "http_response_header_section_size");
    }
    assert_eq!(sidecar.get("/_sim/headers?count=80&size=500").status, 200, "within the limits");
}

#[test]
fn for_an_answer_that_takes_too_long_the_code_is_upstream_timeout() {
    let simulator = simulator();
    let mut setup = Setup::new(&simulator);
    setup.api("response_timeout", "200ms");
    let sidecar = setup.start();
    for request in [marked("GET", "/_sim/hang"), marked("POST", "/_sim/hang").body(MARK)] {
        assert_problem(&sidecar.send(&request), 504, "upstream_timeout", "http_response_timeout");
    }
    assert_eq!(simulator.control().counts().by_route["/_sim/hang"], 2, "a time-out is not tried again");
}

#[test]
fn for_a_body_that_is_broken_the_code_is_request_body_failed() {
    let simulator = simulator();
    let sidecar = Sidecar::start(&simulator);
    for (framing, value, body) in [("Content-Length", "10", "half"), ("Transfer-Encoding", "chunked", "4\r\nhalf\r\n")] {
        let mut client = sidecar.connect();
        client.write(&marked("POST", "/_sim/echo").header(framing, value).head());
        client.write(body.as_bytes());
        client.finish_writing();
        assert_problem(&client.answer("POST"), 400, "request_body_failed", "http_request_error");
        assert!(client.is_closed());
    }
}

#[test]
fn for_a_body_that_pauses_too_long_the_code_is_request_body_timeout() {
    let simulator = simulator();
    let mut setup = Setup::new(&simulator);
    setup.api("body_idle", "200ms");
    let sidecar = setup.start();
    let mut client = sidecar.connect();
    client.write(&marked("POST", "/_sim/echo").header("Content-Length", "10").head());
    client.write(b"half");
    let answer = client.answer("POST");
    assert_problem(&answer, 408, "request_body_timeout", "http_request_error");
    assert_eq!(answer.header("connection"), Some("close"), "the rest could be taken for a request");
}
