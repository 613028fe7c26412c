//! Headers on their way back: what is removed, rewritten and kept.

use crate::harness::{RecordingUpstream, Request, Setup, Sidecar, simulator};

/// The `Location` a client gets when upstream redirects to `to`.
fn location(sidecar: &Sidecar, path: &str, to: &str) -> String {
    let encoded: String = to.bytes().map(|byte| format!("%{byte:02x}")).collect();
    let answer = sidecar.get(&format!("{path}?to={encoded}"));
    assert_eq!(answer.status, 302, "{answer:?}");
    answer.header("location").unwrap().to_owned()
}

#[test]
fn hop_by_hop_headers_and_alternative_services_do_not_come_back() {
    let simulator = simulator();
    let sidecar = Sidecar::start(&simulator);
    let answer = sidecar.get("/_sim/hop-by-hop");
    assert_eq!(answer.json()["hop_by_hop"], true);
    let mut names: Vec<String> = answer.headers.iter().map(|(name, _)| name.to_ascii_lowercase()).collect();
    names.sort();
    assert_eq!(names, ["content-length", "content-type", "date"]);
}

#[test]
fn what_upstream_says_of_its_connection_is_not_said_of_ours() {
    let simulator = simulator();
    let upstream = RecordingUpstream::start(
        "HTTP/1.1 200 OK\r\nUpgrade: example/1\r\nKeep-Alive: timeout=1\r\nConnection: close, X-Private\r\n\
         x_private: 1\r\nProxy-Connection: close\r\nContent-Length: 2\r\n\r\nok",
    );
    let sidecar = upstream.setup(&simulator).start();
    let mut client = sidecar.connect();
    for _ in 0..2 {
        let answer = client.send(&Request::get("/"));
        assert_eq!(answer.headers, [("content-length".to_owned(), "2".to_owned())]);
    }
}

#[test]
fn an_answer_is_framed_anew() {
    let simulator = simulator();
    let upstream = RecordingUpstream::start(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\nConnection: close\r\n\r\n\
         005;name=value\r\nfive!\r\n0\r\n\r\n",
    );
    let sidecar = upstream.setup(&simulator).start();
    let mut client = sidecar.connect();
    for _ in 0..2 {
        let answer = client.send(&Request::get("/"));
        assert_eq!(answer.headers, [("transfer-encoding".to_owned(), "chunked".to_owned())]);
        assert_eq!(answer.text(), "five!");
    }
}

#[test]
fn cookies_are_not_set() {
    let simulator = simulator();
    let sidecar = Sidecar::start(&simulator);
    let answer = sidecar.get("/_sim/cookies");
    assert_eq!(answer.json()["cookies"], 2);
    assert_eq!(answer.header("set-cookie"), None);
}

#[test]
fn everything_else_comes_back_in_its_order_and_nothing_is_added() {
    let simulator = simulator();
    let upstream = RecordingUpstream::start(
        b"HTTP/1.1 299 Odd\r\nServer: theirs\r\nX-Many: one\r\nContent-Length: 2\r\nX-Many: two, three\r\nETag: W/\"1\"\r\n\
          X-Many: one\r\nX-Empty:\r\nX-Odd: a \xe4\xff b\r\n\r\nok"
            .to_vec(),
    );
    let sidecar = upstream.setup(&simulator).start();
    let mut client = sidecar.connect();
    client.write(&Request::get("/").head());
    let mut all = Vec::new();
    while !all.ends_with(b"\r\n\r\nok") {
        let some = client.read_some();
        assert!(!some.is_empty(), "{all:?}");
        all.extend(some);
    }
    let text: String = all.iter().map(|&byte| char::from(byte)).collect();
    let mut lines: Vec<&str> = text.trim_end_matches("\r\n\r\nok").split("\r\n").collect();
    assert!(lines.remove(0).starts_with("HTTP/1.1 299 "), "{text:?}");
    let many: Vec<&str> = lines.iter().copied().filter(|line| line.starts_with("x-many")).collect();
    assert_eq!(many, ["x-many: one", "x-many: two, three", "x-many: one"]);
    lines.retain(|line| !line.starts_with("x-many"));
    lines.sort_unstable();
    assert_eq!(lines, ["content-length: 2", "etag: W/\"1\"", "server: theirs", "x-empty: ", "x-odd: a \u{e4}\u{ff} b"]);
}

#[test]
fn upstreams_own_errors_pass_as_they_came() {
    let simulator = simulator();
    let sidecar = Sidecar::start(&simulator);
    for status in [400, 403, 404, 405, 409, 421, 429, 500, 502, 503, 504, 599] {
        let answer = sidecar.get(&format!("/_sim/status/{status}"));
        assert_eq!(answer.status, status);
        assert_eq!(answer.header("content-type"), Some("application/json"));
        assert_eq!(answer.header("proxy-status"), None);
        assert_eq!(answer.header("retry-after"), None);
        assert!(answer.json()["message"].is_string(), "{answer:?}");
    }
    assert_eq!(simulator.control().counts().by_route["/_sim/status"], 12, "none of them was sent again");
}

#[test]
fn redirects_are_passed_on_and_never_followed() {
    let simulator = simulator();
    let sidecar = Sidecar::start(&simulator);
    for status in [301, 302, 303, 307, 308] {
        let answer = sidecar.get(&format!("/_sim/redirect?status={status}"));
        assert_eq!((answer.status, answer.header("location")), (status, Some("/users/account")));
    }
    assert_eq!(simulator.control().counts().requests, 5);
}

#[test]
fn a_location_at_the_upstream_becomes_a_path_on_our_side() {
    let simulator = simulator();
    let sidecar = Sidecar::start(&simulator);
    let authority = simulator.base_url().trim_start_matches("https://").to_owned();
    let port = simulator.address().port();
    for (to, ours) in [
        (format!("https://{authority}/a//b;c?d=%2F&e=f#g%20?h"), "/a//b;c?d=%2F&e=f#g%20?h"),
        (format!("HTTPS://LOCALHOST:{port}/a"), "/a"),
        (format!("//{authority}/a?b"), "/a?b"),
        (format!("https://{authority}"), "/"),
        (format!("https://{authority}?a"), "/?a"),
    ] {
        assert_eq!(location(&sidecar, "/_sim/redirect", &to), ours, "{to}");
    }
}

#[test]
fn a_location_elsewhere_stays_as_it_is() {
    let simulator = simulator();
    let sidecar = Sidecar::start(&simulator);
    let port = simulator.address().port();
    for to in [
        "https://elsewhere.example.test/a".to_owned(),
        "https://localhost/a".to_owned(),
        format!("http://localhost:{port}/a"),
        format!("https://localhost:{port}@elsewhere.example.test/a"),
        format!("https://user@localhost:{port}/a"),
        format!("https://localhost:{port}.example.test/a"),
        format!("https://localhost:{port}//elsewhere.example.test/a"),
        "//elsewhere.example.test/a".to_owned(),
        "/a?b#c".to_owned(),
        "a?b".to_owned(),
        "?b".to_owned(),
        "mailto:somebody".to_owned(),
    ] {
        assert_eq!(location(&sidecar, "/_sim/redirect", &to), to);
    }
}

#[test]
fn the_base_path_of_the_upstream_is_taken_off_a_location() {
    let simulator = simulator();
    let base = format!("{}/_sim", simulator.base_url());
    let mut setup = Setup::new(&simulator);
    setup
        .variable("CAREPORTALS_UPSTREAM", &base)
        .variable("CAREPORTALS_LOGIN_URL", &format!("{}/patient/auth", simulator.base_url()));
    let sidecar = setup.start();
    for (to, ours) in [
        (format!("{base}/echo?a=b#c"), "/echo?a=b#c"),
        (base.clone(), "/"),
        (format!("{base}?a"), "/?a"),
        ("/_sim/echo".to_owned(), "/echo"),
        // Not under it, whole segments counted: there is no such place on our side.
        (format!("{}/users", simulator.base_url()), &format!("{}/users", simulator.base_url())),
        (format!("{base}ulated/x"), &format!("{base}ulated/x")),
        ("/_simulated".to_owned(), "/_simulated"),
        (format!("{base}/../users"), &format!("{base}/../users")),
    ] {
        assert_eq!(location(&sidecar, "/redirect", &to), ours, "{to}");
    }
}

#[test]
fn a_header_that_echoes_the_token_comes_back_without_it_and_is_counted() {
    let simulator = simulator();
    let mut setup = Setup::new(&simulator);
    setup.variable("CAREPORTALS_TELEMETRY_LISTEN", "127.0.0.1:0");
    let sidecar = setup.start().ready();
    let token = simulator.control().last_token().unwrap();
    let to = location(&sidecar, "/_sim/redirect", &format!("https://elsewhere.example/?token={token}"));
    assert_eq!(to, "[redacted]");
    let other = format!("https://elsewhere.example/?token={}", &token[1..]);
    assert_eq!(location(&sidecar, "/_sim/redirect", &other), other);
    let metrics = sidecar.telemetry("/metrics");
    let counted = "careportals_sidecar_headers_redacted_total{api=\"default\"} 1\n";
    assert!(metrics.text().contains(counted), "{}", metrics.text());
    assert!(!sidecar.logs().contains(&token));
}
