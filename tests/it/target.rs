//! The request's target: what the client wrote, byte for byte, below the upstream's base path.

use crate::harness::{Connection, OK, RecordingUpstream, Request, simulator};

fn asks(client: &mut Connection, line: &str) -> u16 {
    client.write(format!("{line} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes());
    client.answer("GET").status
}

#[test]
fn a_target_is_forwarded_byte_for_byte() {
    let simulator = simulator();
    let upstream = RecordingUpstream::start(OK);
    let sidecar = upstream.setup(&simulator).start();
    let mut client = sidecar.connect();
    let targets = [
        "/",
        "//",
        "/?",
        "/a//b/",
        "/a/../b/./c",
        "/%2e%2E/%2F%5c%00",
        "/a;b=c,d:e@f!$&'()*+~",
        "/a?b=c&&d=%zz&e=%2B+%20",
        "/a?b?c/d//e",
        "/caf%C3%A9",
        "/%",
        "/A/b?Q=q",
        "/a?b={}|^`\\",
        "/*",
    ];
    for target in targets {
        assert_eq!(asks(&mut client, &format!("GET {target}")), 200, "{target}");
    }
    assert_eq!(upstream.lines(), targets.map(|target| format!("GET {target} HTTP/1.1")));
}

#[test]
fn a_long_target_is_forwarded_whole() {
    let simulator = simulator();
    let upstream = RecordingUpstream::start(OK);
    let sidecar = upstream.setup(&simulator).start();
    let target = format!("/{}?{}", "p".repeat(20_000), "q".repeat(20_000));
    assert_eq!(sidecar.get(&target).status, 200);
    assert_eq!(upstream.lines(), [format!("GET {target} HTTP/1.1")]);
}

#[test]
fn a_fragment_is_cut() {
    let simulator = simulator();
    let upstream = RecordingUpstream::start(OK);
    let sidecar = upstream.setup(&simulator).start();
    let mut client = sidecar.connect();
    for target in ["/a#b", "/a?b#c?d", "/#", "http://localhost/a#b"] {
        assert_eq!(asks(&mut client, &format!("GET {target}")), 200, "{target}");
    }
    assert_eq!(upstream.lines(), ["GET /a HTTP/1.1", "GET /a?b HTTP/1.1", "GET / HTTP/1.1", "GET /a HTTP/1.1"]);
}

#[test]
fn methods_pass_as_they_are_written() {
    let simulator = simulator();
    let upstream = RecordingUpstream::start(OK);
    let sidecar = upstream.setup(&simulator).start();
    let mut client = sidecar.connect();
    for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PURGE", "get", "M-SEARCH"] {
        assert_eq!(asks(&mut client, &format!("{method} /a")), 200, "{method}");
    }
    let methods: Vec<String> = upstream.lines().iter().map(|line| line.split(' ').next().unwrap().to_owned()).collect();
    assert_eq!(methods, ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PURGE", "get", "M-SEARCH"]);
}

#[test]
fn absolute_form_is_served_for_names_of_ours() {
    let simulator = simulator();
    let upstream = RecordingUpstream::start(OK);
    let mut setup = upstream.setup(&simulator);
    setup.api("allowed_hosts", r#"["sidecar.example.test"]"#);
    let sidecar = setup.start();
    let mut client = sidecar.connect();
    for (target, arrives) in [
        ("http://localhost/a?b=%2F", "/a?b=%2F"),
        ("HTTP://LOCALHOST:80/a", "/a"),
        ("http://127.0.0.1:1", "/"),
        ("http://[::1]/a", "/a"),
        ("http://sidecar.example.test?a=b", "/?a=b"),
    ] {
        assert_eq!(asks(&mut client, &format!("GET {target}")), 200, "{target}");
        assert_eq!(upstream.lines().last().unwrap(), &format!("GET {arrives} HTTP/1.1"), "{target}");
    }
    // Whose it is, upstream is told by `Host`, and that is never the client's.
    let host = upstream.base_url().replace("http://", "host: ");
    assert!(upstream.requests().iter().all(|request| request.contains(&format!("\r\n{host}\r\n"))));
}

#[test]
fn absolute_form_for_anybody_else_is_400() {
    let simulator = simulator();
    let upstream = RecordingUpstream::start(OK);
    let sidecar = upstream.setup(&simulator).start();
    for target in [
        "http://elsewhere.example.test/",
        "http://localhost.example.test/",
        "http://localhost@elsewhere.example.test/",
        "https://localhost/",
        "ftp://localhost/",
        "elsewhere.example.test:443",
        "relative",
    ] {
        let answer = sidecar.get(target);
        assert_eq!(answer.status, 400, "{target}");
        assert_eq!(answer.problem(), "bad_target", "{target}");
    }
    assert_eq!(upstream.lines(), [""; 0]);
}

#[test]
fn the_asterisk_is_for_options_alone() {
    let simulator = simulator();
    let upstream = RecordingUpstream::start(OK);
    let mut setup = upstream.setup(&simulator);
    setup.variable("CAREPORTALS_UPSTREAM", &format!("{}/base", upstream.base_url()));
    let sidecar = setup.start();
    assert_eq!(sidecar.get("*").problem(), "bad_target");
    assert_eq!(sidecar.send(&Request::new("OPTIONS", "*")).status, 200);
    assert_eq!(upstream.lines(), ["OPTIONS * HTTP/1.1"]);
}

#[test]
fn the_base_path_of_the_upstream_comes_before_the_target() {
    let simulator = simulator();
    let upstream = RecordingUpstream::start(OK);
    let mut setup = upstream.setup(&simulator);
    setup.variable("CAREPORTALS_UPSTREAM", &format!("{}/base/v1", upstream.base_url()));
    let sidecar = setup.start();
    let mut client = sidecar.connect();
    for (target, arrives) in [
        ("/", "/base/v1/"),
        ("/a//b?c=%2F#d", "/base/v1/a//b?c=%2F"),
        ("/../x", "/base/v1/../x"),
        ("http://localhost?a", "/base/v1/?a"),
        ("http://localhost", "/base/v1/"),
    ] {
        assert_eq!(asks(&mut client, &format!("GET {target}")), 200, "{target}");
        assert_eq!(upstream.lines().last().unwrap(), &format!("GET {arrives} HTTP/1.1"), "{target}");
    }
}
