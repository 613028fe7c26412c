//! What a browser can do, and what a page that it shows: call the API, open it as a page, read health, stop the daemon.

use std::net::TcpStream;

use careportals_simulator::LoginFault;
use rustix::process::Signal;
use serde_json::json;

use crate::harness::{Answer, Connection, Http2, Request, Setup, Sidecar, simulator, until_some};

type Marks = &'static [(&'static str, &'static str)];

/// What pages of other origins, and the browser itself, send; under `Host: localhost` all are refused.
const REFUSED: &[Marks] = &[
    &[("Origin", "https://page.example.test")],
    &[("Origin", "null")],
    &[("Origin", "")],
    &[("Origin", "http://localhost:3000")],
    &[("Origin", "https://localhost")],
    &[("Origin", "http://localhost/")],
    &[("Origin", "http://localhost"), ("Origin", "http://localhost")],
    &[("Origin", "http://localhost"), ("Sec-Fetch-Site", "cross-site")],
    &[("Origin", "http://localhost"), ("Sec-Fetch-Site", "same-site")],
    &[("Origin", "http://localhost"), ("Referer", "https://page.example.test/")],
    &[("Sec-Fetch-Site", "cross-site")],
    &[("Sec-Fetch-Site", "same-site")],
    &[("Sec-Fetch-Site", "anything")],
    &[("Sec-Fetch-Site", "same-origin"), ("Sec-Fetch-Site", "cross-site")],
    // Links, frames, forms and the address bar.
    &[("Sec-Fetch-Mode", "navigate")],
    &[("Sec-Fetch-Mode", "Navigate")],
    &[("Sec-Fetch-Mode", "nested-navigate")],
    &[("Sec-Fetch-Mode", "cors"), ("Sec-Fetch-Mode", "navigate")],
    &[("Sec-Fetch-Site", "none"), ("Sec-Fetch-Mode", "navigate"), ("Sec-Fetch-User", "?1"), ("Sec-Fetch-Dest", "document")],
    &[("Sec-Fetch-Site", "same-origin"), ("Sec-Fetch-Mode", "navigate"), ("Referer", "http://localhost/")],
    // Old browsers, and pages without TLS, say where they are by this alone.
    &[("Referer", "https://page.example.test/a")],
    &[("Referer", "http://localhost:3000/")],
    &[("Referer", "https://localhost/")],
    &[("Referer", "http://localhost@page.example.test/")],
    &[("Referer", "http://me@localhost/")],
    &[("Referer", "http://localhost.page.example.test/")],
    &[("Referer", "http://localhost\\.page.example.test/")],
    &[("Referer", "http://page.example.test/http://localhost/")],
    &[("Referer", "about:blank")],
    &[("Referer", "")],
    &[("Referer", "http://")],
    &[("Referer", "http://localhost/"), ("Referer", "https://page.example.test/")],
    &[("Referer", "http://localhost/"), ("Referer", "http://localhost/")],
];

fn code(answer: &Answer) -> String {
    if answer.status == 200 { "passes".to_owned() } else { answer.problem() }
}

/// A request to the echo with each of `headers`.
fn echo(headers: &[(&str, &str)]) -> Request {
    Request::get("/_sim/echo").headers(headers.iter().copied())
}

/// Asserts that this is a refusal that no page may read.
#[track_caller]
fn refused(answer: &Answer, what: &str) {
    assert_eq!((answer.status, code(answer).as_str()), (403, "cross_site"), "{what}");
    let cors = answer.headers.iter().any(|(name, _)| name.to_ascii_lowercase().starts_with("access-control-"));
    assert!(!cors, "{what}: {answer:?}");
}

#[test]
fn what_another_page_or_the_browser_itself_asks_for_is_403_and_gets_no_cors_headers() {
    let simulator = simulator();
    let mut setup = Setup::new(&simulator);
    let path = setup.dir.path().join("api.sock");
    setup.variable("CAREPORTALS_LISTEN", &format!("127.0.0.1:0,unix:{}", path.display()));
    let sidecar = setup.start().ready();
    simulator.control().reset_counts();
    let mut http2 = Http2::connect(sidecar.address());
    for marks in REFUSED {
        for method in ["GET", "POST", "OPTIONS"] {
            let mut request = echo(marks);
            method.clone_into(&mut request.method);
            refused(&sidecar.send(&request), &format!("{method} {marks:?}"));
        }
        refused(&Sidecar::connect_unix(&path).send(&echo(marks)), &format!("Unix {marks:?}"));
        refused(&http2.send(&echo(marks)), &format!("HTTP/2 {marks:?}"));
    }
    assert_eq!(simulator.control().counts().requests, 0);
}

#[test]
fn a_preflight_of_another_page_is_refused_and_one_of_an_allowed_origin_goes_to_the_upstream() {
    let simulator = simulator();
    let mut setup = Setup::new(&simulator);
    setup.api("allowed_origins", r#"["https://app.example.test"]"#);
    let sidecar = setup.start().ready();
    for (origin, expected) in [("https://page.example.test", "cross_site"), ("https://app.example.test", "passes")] {
        let mut preflight = echo(&[
            ("Origin", origin),
            ("Access-Control-Request-Method", "PUT"),
            ("Access-Control-Request-Private-Network", "true"),
            ("Sec-Fetch-Mode", "cors"),
            ("Sec-Fetch-Site", "cross-site"),
            ("Sec-Fetch-Dest", "empty"),
        ]);
        "OPTIONS".clone_into(&mut preflight.method);
        assert_eq!(code(&sidecar.send(&preflight)), expected, "{origin}");
    }
}

#[test]
fn a_page_under_the_very_host_it_calls_passes_and_so_do_programs() {
    let simulator = simulator();
    let sidecar = Sidecar::start(&simulator);
    for (host, headers) in [
        ("localhost:2273", [("Origin", "http://localhost:2273")].as_slice()),
        ("localhost", &[("Origin", "HTTP://LOCALHOST"), ("Sec-Fetch-Site", "same-origin")]),
        ("localhost", &[("Sec-Fetch-Site", "same-origin"), ("Sec-Fetch-Mode", "cors"), ("Sec-Fetch-Dest", "empty")]),
        ("localhost", &[("Sec-Fetch-Site", "none")]),
        ("127.0.0.1:2273", &[("Referer", "http://127.0.0.1:2273/a?b#c")]),
        ("[::1]:2273", &[("Referer", "HTTP://[::1]:2273"), ("Origin", "http://[::1]:2273")]),
        ("localhost", &[("Referer", "http://LocalHost?x=https://page.example.test/")]),
        // Node's `fetch`, and what old libraries say of themselves.
        ("localhost", &[("Sec-Fetch-Mode", "cors"), ("X-Requested-With", "XMLHttpRequest"), ("User-Agent", "Mozilla/5.0")]),
    ] {
        assert_eq!(code(&sidecar.send(&echo(headers).host(host))), "passes", "{headers:?}");
    }
}

#[test]
fn allow_navigation_lets_a_browser_open_a_page_and_nothing_else() {
    let simulator = simulator();
    let mut setup = Setup::new(&simulator);
    setup.api("allow_navigation", "true");
    let sidecar = setup.start();
    let typed: Marks = &[("Sec-Fetch-Site", "none"), ("Sec-Fetch-Mode", "navigate"), ("Sec-Fetch-Dest", "document")];
    let on_the_page: Marks =
        &[("Sec-Fetch-Site", "same-origin"), ("Sec-Fetch-Mode", "navigate"), ("Referer", "http://localhost/a")];
    for marks in [typed, on_the_page] {
        assert_eq!(code(&sidecar.send(&echo(marks))), "passes", "{marks:?}");
    }
    let elsewhere: Marks = &[("Sec-Fetch-Site", "cross-site"), ("Sec-Fetch-Mode", "navigate")];
    let linked: Marks = &[("Sec-Fetch-Mode", "navigate"), ("Referer", "https://page.example.test/")];
    for marks in [elsewhere, linked] {
        refused(&sidecar.send(&echo(marks)), &format!("{marks:?}"));
    }
}

#[test]
fn a_reload_changes_whether_a_browser_may_open_pages() {
    let simulator = simulator();
    let settings = |navigation: &str| format!("[apis.default]\nallow_navigation = {navigation}\n");
    let mut setup = Setup::new(&simulator);
    setup.settings(&settings("false"));
    let sidecar = setup.start().ready();
    let opened = echo(&[("Sec-Fetch-Site", "none"), ("Sec-Fetch-Mode", "navigate")]);
    refused(&sidecar.send(&opened), "before");
    sidecar.setup.file("config.toml", &settings("true"));
    sidecar.signal(Signal::HUP);
    until_some("a browser may open a page", || Some(sidecar.send(&opened)).filter(|answer| answer.status == 200));
}

#[test]
fn allowed_origins_may_call_from_other_sites() {
    let simulator = simulator();
    let mut setup = Setup::new(&simulator);
    setup.api("allowed_origins", r#"["https://app.example.test"]"#).api("allowed_hosts", r#"["sidecar.example.test"]"#);
    let sidecar = setup.start();
    let app = ("Origin", "https://app.example.test");
    for headers in [
        [app].as_slice(),
        &[app, ("Sec-Fetch-Site", "cross-site"), ("Referer", "https://app.example.test/a")],
        &[app, ("Sec-Fetch-Mode", "navigate")],
        &[("Origin", "http://localhost")],
    ] {
        assert_eq!(code(&sidecar.send(&echo(headers))), "passes", "{headers:?}");
    }
    assert_eq!(code(&sidecar.send(&echo(&[app]).host("sidecar.example.test"))), "passes");
    for headers in [
        [("Origin", "http://app.example.test")].as_slice(),
        &[("Origin", "https://app.example.test:8443")],
        &[("Origin", "https://app.example.test.example")],
        &[app, app],
        &[app, ("Origin", "null")],
        &[("Sec-Fetch-Site", "cross-site")],
        &[("Referer", "https://app.example.test/")],
        &[("Origin", "http://localhost"), ("Sec-Fetch-Site", "cross-site")],
    ] {
        assert_eq!(code(&sidecar.send(&echo(headers))), "cross_site", "{headers:?}");
    }
}

#[test]
fn over_tcp_a_browser_gains_nothing_by_a_name_that_was_made_to_lead_here() {
    let simulator = simulator();
    let mut setup = Setup::new(&simulator);
    let path = setup.dir.path().join("api.sock");
    setup
        .variable("CAREPORTALS_LISTEN", &format!("127.0.0.1:0,unix:{}", path.display()))
        .api("allowed_hosts", r#"["sidecar.example.test", "10.1.2.3"]"#);
    let sidecar = setup.start().ready();
    simulator.control().reset_counts();
    // The page has rebound the name, so for the browser all is of one origin.
    for host in ["sidecar.example.test", "sidecar.example.test:2273", "10.1.2.3"] {
        let (origin, referer) = (format!("http://{host}"), format!("http://{host}/"));
        for mark in [
            ("Origin", origin.as_str()),
            ("Referer", referer.as_str()),
            ("Sec-Fetch-Site", "same-origin"),
            ("Sec-Fetch-Site", "none"),
            ("Sec-Fetch-Dest", "empty"),
            ("Sec-Fetch-Dest", "document"),
        ] {
            refused(&sidecar.send(&echo(&[mark]).host(host)), &format!("{host} {mark:?}"));
            refused(&Http2::connect(sidecar.address()).send(&echo(&[mark]).host(host)), &format!("HTTP/2 {host} {mark:?}"));
            let absolute = Request { target: format!("http://{host}/_sim/echo"), ..echo(&[mark]) };
            refused(&sidecar.send(&absolute), &format!("absolute {host} {mark:?}"));
        }
        let program = [("Sec-Fetch-Mode", "cors"), ("X-Requested-With", "XMLHttpRequest")];
        assert_eq!(code(&sidecar.send(&echo(&program).host(host))), "passes", "{host}");
    }
    // A browser reaches no Unix socket; what passes its requests on to one is a server.
    let proxied = echo(&[("Referer", "http://sidecar.example.test/")]).host("sidecar.example.test");
    assert_eq!(code(&Sidecar::connect_unix(&path).send(&proxied)), "passes");
    let mut old = Sidecar::connect(&sidecar);
    old.write(b"GET /_sim/echo HTTP/1.0\r\nSec-Fetch-Dest: empty\r\n\r\n");
    refused(&old.answer("GET"), "no host at all");
}

#[test]
fn the_upstreams_own_name_is_no_way_in_for_a_browser_either() {
    let simulator = simulator();
    let mut setup = Setup::new(&simulator);
    setup.upstream("https://api.careportals.invalid", &simulator).api("connect_timeout", "200ms");
    let sidecar = setup.start();
    let of = |mark| Request::get("/").host("api.careportals.invalid").headers([mark]);
    for mark in [("Origin", "http://api.careportals.invalid"), ("Referer", "http://api.careportals.invalid/")] {
        refused(&sidecar.send(&of(mark)), &format!("{mark:?}"));
    }
    assert!(sidecar.send(&of(("Sec-Fetch-Mode", "cors"))).problem().starts_with("dns_"));
}

#[test]
fn no_page_stops_the_daemon_by_quitquitquit_and_no_other_name() {
    let simulator = simulator();
    let mut setup = Setup::new(&simulator);
    setup.with_telemetry().global("quitquitquit", "true");
    let mut sidecar = setup.start().ready();
    let quit = |host: &str| Request::post("/quitquitquit", "").host(host);
    for mark in [
        ("Origin", "http://localhost"),
        ("Origin", "null"),
        ("Referer", "http://localhost/"),
        ("Sec-Fetch-Site", "same-origin"),
        ("Sec-Fetch-Site", "cross-site"),
        ("Sec-Fetch-Dest", "empty"),
        ("Sec-Fetch-Mode", "navigate"),
    ] {
        assert_eq!(sidecar.telemetry_send(&quit("localhost").headers([mark])).status, 403, "{mark:?}");
    }
    for host in ["rebound.example.test", "localhost.", "10.1.2.3", ""] {
        assert_eq!(sidecar.telemetry_send(&quit(host)).status, 403, "{host}");
    }
    assert_eq!(sidecar.telemetry_send(&quit("localhost").header("Host", "localhost")).status, 403);
    let mut old = Connection::tcp(TcpStream::connect(sidecar.telemetry_address()).unwrap());
    old.write(b"POST /quitquitquit HTTP/1.0\r\n\r\n");
    assert_eq!(old.answer("POST").status, 403);
    assert_eq!(sidecar.telemetry("/livez").status, 200);
    // As Node's `fetch` asks.
    assert_eq!(sidecar.telemetry_send(&quit("127.0.0.1:2274").header("Sec-Fetch-Mode", "cors")).status, 200);
    assert_eq!(sidecar.wait().code(), Some(0));
}

#[test]
fn under_another_name_health_and_metrics_show_codes_and_no_files() {
    let simulator = simulator();
    let mut setup = Setup::new(&simulator);
    let sockets = [setup.dir.path().join("one.sock"), setup.dir.path().join("two.sock")];
    let listen = format!("127.0.0.1:0,unix:{},unix:{}", sockets[0].display(), sockets[1].display());
    let password = setup.dir.path().join("canary-password");
    setup
        .with_telemetry()
        .variable("CAREPORTALS_LISTEN", &listen)
        .without("CAREPORTALS_PASSWORD")
        .variable("CAREPORTALS_PASSWORD_FILE", password.to_str().unwrap());
    let sidecar = setup.start();
    simulator.control().set_login_fault(Some(LoginFault::Status(401)));
    let ask = |path: &str, host: &str| sidecar.telemetry_send(&Request::get(path).host(host));
    let told = until_some("the missing file is named", || {
        Some(ask("/readyz", "localhost")).filter(|told| told.text().contains("canary"))
    });
    assert_eq!(told.json()["reasons"][0]["code"], "login_failing");
    for host in ["127.0.0.1:2274", "[::1]"] {
        assert!(ask("/readyz", host).text().contains("canary-password"), "{host}");
        assert!(ask("/metrics", host).text().contains("one.sock"), "{host}");
    }
    for host in ["rebound.example.test", "10.1.2.3:2274", "localhost.example.test", ""] {
        let expected = json!({"ready": false, "reasons": [{"account": "default", "code": "login_failing"}]});
        assert_eq!(ask("/readyz", host).json(), expected, "{host}");
        assert_eq!(ask("/readyz/default", host).json(), expected, "{host}");
        let metrics = ask("/metrics", host);
        assert!(!metrics.text().contains(".sock") && metrics.text().contains("listener=\"unix\""), "{host}: {}", metrics.text());
    }
    let status = ask("/status", "10.1.2.3:2274");
    assert_eq!(status.status, 200);
    assert!(!status.text().contains("canary") && !status.text().contains(".sock"), "{}", status.text());
    assert!(ask("/status", "localhost").text().contains("one.sock"));
}
