//! Headers on their way up, from a client to the upstream: what is removed, kept and set, whatever either side speaks.
//!
//! A case is a row; a row that fails names itself.

use crate::harness::{
    Answer, OK, ORGANIZATION, RecordingUpstream, Request, Setup, Sidecar,
    each_way::{Client, Faults, Way, each_way, owned},
    simulator,
};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// It is removed in each spelling, alone and twice.
    Removed,
    /// It is kept, with all other kept ones in one request, in their order.
    Kept,
}
use Fate::{Kept, Removed};

/// What a client sends by itself, and what becomes of it where the settings say nothing of it.
const TABLE: &[(&str, &str, Fate)] = &[
    // What the sidecar sets.
    ("Authorization", "Bearer forged", Removed),
    ("Authorization", "Basic Zm9yZ2Vk", Removed),
    ("Organization", "forged", Removed),
    // Where a request came from.
    ("Cookie", "session=1", Removed),
    ("Cookie2", "$Version=1", Removed),
    ("Origin", "http://localhost", Removed),
    ("Proxy", "http://attacker.example", Removed),
    ("Proxy-Anything", "1", Removed),
    ("Forwarded", "for=192.0.2.1", Removed),
    ("X-Forwarded-For", "192.0.2.1", Removed),
    ("X-Forwarded_Host", "attacker.example", Removed),
    ("X-Forwarded-Proto", "https", Removed),
    ("X-Forwarded-Anything", "1", Removed),
    ("X-Real-IP", "192.0.2.1", Removed),
    ("X-Client-IP", "192.0.2.1", Removed),
    ("True-Client-IP", "192.0.2.1", Removed),
    ("CF-Connecting-IP", "192.0.2.1", Removed),
    ("X-Cluster-Client-IP", "192.0.2.1", Removed),
    ("Fastly-Client-IP", "192.0.2.1", Removed),
    ("Fly-Client-IP", "192.0.2.1", Removed),
    ("X-Forwarded", "for=192.0.2.1", Removed),
    ("X-Original-Forwarded-For", "192.0.2.1", Removed),
    // What gives a request another meaning than the one that was judged.
    ("X-HTTP-Method-Override", "DELETE", Removed),
    ("X-HTTP-Method", "DELETE", Removed),
    ("X-Method-Override", "DELETE", Removed),
    ("X-Original-URL", "/auth", Removed),
    ("X-Original-Host", "attacker.example", Removed),
    ("X-Original-URI", "/auth", Removed),
    ("X-Original-Method", "DELETE", Removed),
    ("X-Rewrite-URL", "/auth", Removed),
    ("X-Envoy-Original-Path", "/auth", Removed),
    ("X-WAWS-Unencoded-URL", "/auth", Removed),
    ("X.HTTP.Method.Override", "DELETE", Removed),
    // What is of one connection.
    ("Connection", "keep-alive", Removed),
    ("Keep-Alive", "timeout=5", Removed),
    ("Proxy-Connection", "keep-alive", Removed),
    ("Proxy-Authorization", "Basic Zm9yZ2Vk", Removed),
    ("Proxy-Authenticate", "Basic", Removed),
    ("HTTP2-Settings", "AAMAAABkAAQAoAAAAAIAAAAA", Removed),
    ("TE", "gzip", Removed),
    ("Upgrade", "h2c", Removed),
    // With a hyphen they frame the request.
    ("content_length", "5", Removed),
    ("transfer_encoding", "chunked", Removed),
    // Everything else.
    ("accept", "application/json;q=0.9, */*", Kept),
    ("accept-encoding", "br", Kept),
    ("content-type", "text/plain; charset=utf-8", Kept),
    ("idempotency-key", "k-1", Kept),
    ("if-none-match", "\"x\"", Kept),
    ("range", "bytes=0-1", Kept),
    ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", Kept),
    ("tracestate", "a=1,b=2", Kept),
    ("tracestate", "c=3", Kept),
    ("user-agent", "an app/1.0", Kept),
    ("via", "1.1 theirs", Kept),
    ("x-empty", "", Kept),
    ("x-forwardedfor", "not one of them", Kept),
    ("x-many", "one", Kept),
    ("x-many", "two, three", Kept),
    ("x-many", "four", Kept),
    ("x-many", "one", Kept),
    ("x-real-ipv6", "not one of them", Kept),
    ("x-http-methods", "not one of them", Kept),
    ("x-originals", "not one of them", Kept),
    ("x_under_scored", "2", Kept),
    ("x_under_scored", "1", Kept),
];

/// In this spelling these are an error over HTTP/2 (RFC 9113, 8.2.2).
const OF_A_CONNECTION: [&str; 5] = ["proxy-connection", "keep-alive", "te", "upgrade", "connection"];

/// A request of several headers, under these settings of its API.
struct Case {
    name: &'static str,
    settings: &'static [(&'static str, &'static str)],
    /// It holds a `Connection` header, which is an error over HTTP/2.
    is_http1_only: bool,
    body: &'static str,
    sent: &'static [(&'static str, &'static str)],
    /// What arrives beside what the sidecar sets.
    arrives: &'static [(&'static str, &'static str)],
    /// What arrives from an HTTP/2 client, where that differs.
    arrives_from_http2: Option<&'static [(&'static str, &'static str)]>,
}

const PLAIN: Case =
    Case { name: "", settings: &[], is_http1_only: false, body: "", sent: &[], arrives: &[], arrives_from_http2: None };

const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const GOLD_PLAN: &[(&str, &str)] = &[("headers", "{ x-plan = \"gold\" }"), ("cookies", "pass")];
const FIXED: &[(&str, &str)] =
    &[("headers", "{ origin = \"https://acme.example.test\", x-plan = \"gold\", x-forwarded-for = \"192.0.2.9\" }")];

const CASES: &[Case] = &[
    Case { name: "nothing is added but what the sidecar sets", ..PLAIN },
    Case {
        name: "what Connection names is removed, but for what the sidecar sets",
        is_http1_only: true,
        body: "five!",
        sent: &[
            ("Connection", "X-Private, authorization,organization , host, content-length"),
            ("Connection", "x-also_private"),
            ("X-Private", "1"),
            ("X-Also-Private", "2"),
            ("X-Public", "3"),
        ],
        arrives: &[("content-length", "5"), ("x-public", "3")],
        ..PLAIN
    },
    Case {
        name: "what Connection names is removed, but for what the settings set",
        settings: GOLD_PLAN,
        is_http1_only: true,
        body: "five!",
        sent: &[
            ("Connection", "authorization, ORGANIZATION , host, content-length, x-plan, traceparent"),
            ("Authorization", "Bearer theirs"),
            ("X-Mine", "1"),
            ("X_Mine", "2"),
            ("Cookie", "a=1"),
            ("X-Kept", "3"),
            ("traceparent", TRACE),
            ("Connection", "x-mine,, cookie;\t\"close\""),
            ("organization", "theirs"),
        ],
        arrives: &[("content-length", "5"), ("x-kept", "3"), ("x-plan", "gold")],
        ..PLAIN
    },
    Case {
        name: "fixed headers replace the client's, and come once",
        settings: FIXED,
        sent: &[
            ("Origin", "http://localhost"),
            ("X-Plan", "theirs"),
            ("x_plan", "theirs"),
            ("X-PLAN", "theirs"),
            ("X_Forwarded_For", "192.0.2.1"),
        ],
        arrives: &[("origin", "https://acme.example.test"), ("x-forwarded-for", "192.0.2.9"), ("x-plan", "gold")],
        ..PLAIN
    },
    Case {
        name: "Connection removes no fixed header",
        settings: FIXED,
        is_http1_only: true,
        sent: &[("Origin", "http://localhost"), ("X-Plan", "forged"), ("X_Plan", "forged"), ("Connection", "x-plan, origin")],
        arrives: &[("origin", "https://acme.example.test"), ("x-forwarded-for", "192.0.2.9"), ("x-plan", "gold")],
        ..PLAIN
    },
    Case {
        name: "cookies pass when the settings have it",
        settings: &[("cookies", "pass")],
        sent: &[("Cookie", "a=1"), ("cookie", "b=2")],
        arrives: &[("cookie", "a=1"), ("cookie", "b=2")],
        // HTTP/2 clients may split what is one line elsewhere (RFC 9113, 8.2.3).
        arrives_from_http2: Some(&[("cookie", "a=1; b=2")]),
        ..PLAIN
    },
    Case {
        name: "cookies are removed when the settings have it",
        settings: &[("cookies", "strip")],
        sent: &[("Cookie", "a=1"), ("cookie", "b=2")],
        ..PLAIN
    },
];

/// Names and values that reached the upstream, sorted, but for what the sidecar sets, which must be there once.
fn arrived(way: &Way<'_>, answer: &Answer) -> Result<Vec<(String, String)>, String> {
    if answer.status != 200 || answer.header("via").is_some() {
        return Err(format!("{answer:?}"));
    }
    let document = answer.json();
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let pairs = document["headers"].as_array().ok_or("not an echo")?;
    let mut all: Vec<(String, String)> = pairs.iter().map(|pair| (text(&pair[0]), text(&pair[1]))).collect();
    let bearer = format!("Bearer {}", way.simulator.control().last_token().unwrap());
    let mut ours = owned(&[("authorization", &bearer), ("organization", ORGANIZATION)]);
    if !way.upstream_is_http2 {
        ours.push(("host".to_owned(), way.simulator.base_url().trim_start_matches("https://").to_owned()));
    }
    // Which id that is, the chapter `request_id` tests.
    ours.extend(all.iter().find(|(name, _)| name == "x-request-id").cloned());
    if ours.last().is_none_or(|(name, _)| name != "x-request-id") || all.iter().any(|(name, _)| name == "x_request_id") {
        return Err(format!("not one request id in {all:?}"));
    }
    for ours in ours {
        if all.iter().filter(|other| **other == ours).count() != 1 {
            return Err(format!("not one {ours:?} in {all:?}"));
        }
        all.retain(|other| *other != ours);
    }
    all.sort();
    Ok(all)
}

/// A name as it is, in lower case, in upper case, and with underscores.
fn spellings(name: &str) -> Vec<String> {
    let mut all = vec![name.to_owned(), name.to_lowercase(), name.to_uppercase(), name.replace('-', "_")];
    all.sort();
    all.dedup();
    all
}

#[test]
fn what_a_client_must_not_send_is_removed_in_every_spelling() {
    let mut faults = Faults::default();
    each_way(
        |_, _| {},
        |way| {
            for (name, value, _) in TABLE.iter().filter(|(_, _, fate)| *fate == Removed) {
                for name in spellings(name) {
                    if way.client.is_http2() && OF_A_CONNECTION.contains(&name.to_lowercase().as_str()) {
                        continue;
                    }
                    let alone = vec![(name.as_str(), *value)];
                    let twice = vec![(name.as_str(), "theirs"); 2];
                    // Two origins are refused.
                    let is_origin = name.eq_ignore_ascii_case("origin");
                    for sent in [Some(alone), (!is_origin).then_some(twice)].into_iter().flatten() {
                        let request = Request::get("/_sim/echo").headers(sent.iter().copied()).header("X-Kept", "1");
                        let answer = way.client.send(&request);
                        let row = format!("{sent:?} {way}");
                        faults.compare(row, &arrived(way, &answer), &Ok(owned(&[("x-kept", "1")])));
                    }
                }
            }
        },
    );
    faults.assert_none();
}

#[test]
fn everything_else_passes_in_its_order() {
    let kept: Vec<(&str, &str)> =
        TABLE.iter().filter(|(_, _, fate)| *fate == Kept).map(|(name, value, _)| (*name, *value)).collect();
    let mut faults = Faults::default();
    each_way(
        |_, _| {},
        |way| {
            let mut request = Request::get("/_sim/echo");
            // Spread out, so that the order of one name's values is not the order of neighbours.
            for (place, (name, value)) in kept.iter().enumerate() {
                request = request.header(name, value).header(&format!("y-between-{place}"), "1");
            }
            let answer = way.client.send(&request);
            for (name, _) in &kept {
                let sent: Vec<String> =
                    kept.iter().filter(|(other, _)| other == name).map(|(_, value)| (*value).to_owned()).collect();
                faults.compare(format!("{name} {way}"), &answer.echoed(name), &sent);
            }
            let arrived = arrived(way, &answer).map(|all| all.len());
            faults.compare(format!("nothing is added {way}"), &arrived, &Ok(2 * kept.len()));
        },
    );
    faults.assert_none();
}

#[test]
fn a_request_of_several_headers_arrives_as_its_row_says() {
    let mut faults = Faults::default();
    let mut settings: Vec<_> = CASES.iter().map(|case| case.settings).collect();
    settings.dedup();
    for settings in settings {
        each_way(
            |_, setup| {
                for (key, value) in settings {
                    setup.api(key, value);
                }
            },
            |way| {
                for case in CASES.iter().filter(|case| case.settings == settings) {
                    if !(case.is_http1_only && way.client.is_http2()) {
                        play(case, way, &mut faults);
                    }
                }
            },
        );
    }
    faults.assert_none();
}

fn play(case: &Case, way: &mut Way<'_>, faults: &mut Faults) {
    let request = if case.body.is_empty() { Request::get("/_sim/echo") } else { Request::post("/_sim/echo", case.body) };
    let answer = way.client.send(&request.headers(case.sent.iter().copied()));
    let from_http2 = case.arrives_from_http2.filter(|_| way.client.is_http2());
    let mut expected = owned(from_http2.unwrap_or(case.arrives));
    let found = arrived(way, &answer);
    if way.upstream_is_http2 {
        // A body's length may be told there, and need not be.
        let is_told = found.iter().flatten().any(|(name, _)| name == "content-length");
        expected.retain(|(name, _)| name != "content-length" || is_told);
    }
    let row = format!("{} {way}", case.name);
    faults.compare(&row, &found, &Ok(expected));
    if !case.body.is_empty() && answer.status == 200 {
        faults.compare(&row, &answer.json()["body"].as_str(), &Some(case.body));
    }
}

#[test]
fn close_beside_other_names_in_connection_ends_the_connection() {
    each_way(
        |_, _| {},
        |way| {
            let Client::Http1(client) = &mut way.client else { return };
            let closing = Request::get("/_sim/echo").header("Connection", "close, authorization, x-mine").header("X-Mine", "1");
            assert_eq!(client.send(&closing).echoed("x-mine"), [""; 0]);
            assert!(client.is_closed());
        },
    );
}

#[test]
fn values_pass_byte_for_byte() {
    let simulator = simulator();
    let upstream = RecordingUpstream::start(OK);
    let sidecar = upstream.setup(&simulator).start();
    let mut client = sidecar.connect();
    client.write(b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Odd:\t a \xe4\t\xff  b,;\"\\ \r\n\r\n");
    assert_eq!(client.answer("GET").status, 200);
    let request = upstream.requests().remove(0);
    assert!(request.contains("x-odd: a \u{e4}\t\u{ff}  b,;\"\\\r\n"), "{request:?}");
}

#[test]
fn host_is_the_upstreams_and_comes_once() {
    let simulator = simulator();
    let sidecar = Sidecar::start(&simulator);
    let answer = sidecar.send(&Request::get("/_sim/echo").host("127.0.0.1:1"));
    assert_eq!(answer.echoed("host"), [simulator.base_url().trim_start_matches("https://")]);
}

#[test]
fn an_account_that_does_not_log_in_adds_the_organization_only() {
    let simulator = simulator();
    let mut setup = Setup::new(&simulator);
    setup.variable("CAREPORTALS_LOGIN_URL", "off").without("CAREPORTALS_USERNAME").without("CAREPORTALS_PASSWORD");
    let sidecar = setup.start();
    let answer = sidecar.send(&Request::get("/v2/products").header("Authorization", "Bearer forged"));
    assert_eq!(answer.status, 200, "{answer:?}");
    let seen = simulator.control().requests().remove(0);
    assert_eq!(seen.values("organization"), [ORGANIZATION]);
    assert_eq!(seen.values("authorization"), [""; 0]);
    assert_eq!(simulator.control().counts().logins, 0);
}
