//! Headers on their way down, from the upstream to a client: what is removed, kept and rewritten, whatever either side
//! speaks.
//!
//! A case is a row; a row that fails names itself.

use std::{
    io::{Read, Write},
    net::TcpListener,
    thread,
};

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD},
};
use careportals_simulator::Simulator;
use rustix::process::Signal;

use crate::harness::{
    Answer, Crowd, Http2, ManualHttp2, RecordingUpstream, Request, Setup, Sidecar,
    each_way::{Client, Faults, Way, clients, each_way, owned},
    frames::{BODY, END_HEADERS, END_STREAM, HEADERS, fields},
    simulator, until,
};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// It is removed, whatever the upstream speaks.
    Removed,
    /// It is removed from an HTTP/1.1 upstream's answer; an HTTP/2 upstream must not send it.
    RemovedOfConnection,
    /// It is kept in its order.
    Kept,
}
use Fate::{Kept, Removed, RemovedOfConnection};

/// What an upstream says in one answer, and what becomes of it. Kept ones and removed ones take turns.
const TABLE: &[(&str, &str, Fate)] = &[
    ("x-many", "one", Kept),
    ("Proxy-Status", "careportals-sidecar; error=connection_refused", Removed),
    ("Connection", "close, X-Private, organization, content-length", RemovedOfConnection),
    ("via", "1.1 theirs", Kept),
    ("alt-svc", "h3=\":443\"", Removed),
    ("Alt_Svc", "h3=\":443\"", Removed),
    ("Keep-Alive", "timeout=1", RemovedOfConnection),
    ("x-many", "two, three", Kept),
    ("set-cookie", "a=1", Removed),
    ("Set_Cookie", "a=1", Removed),
    ("Proxy-Connection", "close", RemovedOfConnection),
    ("proxy-status", "cdn; error=dns_error", Kept),
    ("set-cookie2", "a=1", Removed),
    ("Upgrade", "example/1", RemovedOfConnection),
    ("x-many", "one", Kept),
    ("proxy-authenticate", "Basic", Removed),
    ("TE", "trailers", RemovedOfConnection),
    ("X_Request_Id", "theirs", Removed),
    // `Connection` names it.
    ("x_private", "1", RemovedOfConnection),
    ("X-Private", "1", RemovedOfConnection),
    ("location", "https://elsewhere.example/", Kept),
];

/// The path of the upstream's base URL, and the prefix of its API.
type Layout = (&'static str, &'static str);
const AT_THE_ROOT: Layout = ("", "");
const BELOW_A_PATH: Layout = ("/_sim", "");
const UNDER_A_PREFIX: Layout = ("/_sim", "/api");

/// The `Location` that an upstream gives, and what a client is told; [`AS_IT_IS`] is the same. `AUTHORITY` and `PORT` are
/// the upstream's.
const LOCATIONS: &[(Layout, &str, &str)] = &[
    (AT_THE_ROOT, "https://AUTHORITY/a//b;c?d=%2F&e=f#g%20?h", "/a//b;c?d=%2F&e=f#g%20?h"),
    (AT_THE_ROOT, "HTTPS://LOCALHOST:PORT/a", "/a"),
    (AT_THE_ROOT, "//AUTHORITY/a?b", "/a?b"),
    (AT_THE_ROOT, "https://AUTHORITY", "/"),
    (AT_THE_ROOT, "https://AUTHORITY?a", "/?a"),
    (AT_THE_ROOT, "https://elsewhere.example.test/a", AS_IT_IS),
    (AT_THE_ROOT, "https://localhost/a", AS_IT_IS),
    (AT_THE_ROOT, "http://localhost:PORT/a", AS_IT_IS),
    (AT_THE_ROOT, "https://localhost:PORT@elsewhere.example.test/a", AS_IT_IS),
    (AT_THE_ROOT, "https://user@localhost:PORT/a", AS_IT_IS),
    (AT_THE_ROOT, "https://localhost:PORT.example.test/a", AS_IT_IS),
    (AT_THE_ROOT, "https://localhost:PORT//elsewhere.example.test/a", AS_IT_IS),
    (AT_THE_ROOT, "//elsewhere.example.test/a", AS_IT_IS),
    (AT_THE_ROOT, "/a?b#c", AS_IT_IS),
    (AT_THE_ROOT, "a?b", AS_IT_IS),
    (AT_THE_ROOT, "?b", AS_IT_IS),
    (AT_THE_ROOT, "mailto:somebody", AS_IT_IS),
    (BELOW_A_PATH, "https://AUTHORITY/_sim/echo?a=b#c", "/echo?a=b#c"),
    (BELOW_A_PATH, "https://AUTHORITY/_sim", "/"),
    (BELOW_A_PATH, "https://AUTHORITY/_sim?a", "/?a"),
    (BELOW_A_PATH, "/_sim/echo", "/echo"),
    // Not under it, whole segments counted: no path on our side leads there.
    (BELOW_A_PATH, "https://AUTHORITY/users", AS_IT_IS),
    (BELOW_A_PATH, "https://AUTHORITY/_simulated/x", AS_IT_IS),
    (BELOW_A_PATH, "/_simulated", AS_IT_IS),
    (BELOW_A_PATH, "https://AUTHORITY/_sim/../users", AS_IT_IS),
    (UNDER_A_PREFIX, "https://AUTHORITY/_sim/echo?a=%2F#b", "/api/echo?a=%2F#b"),
    (UNDER_A_PREFIX, "https://AUTHORITY/_sim", "/api"),
    (UNDER_A_PREFIX, "HTTPS://LOCALHOST:PORT/_sim/a//b", "/api/a//b"),
    (UNDER_A_PREFIX, "//AUTHORITY/_sim/a", "/api/a"),
    (UNDER_A_PREFIX, "/_sim/a", "/api/a"),
    (UNDER_A_PREFIX, "a?b", AS_IT_IS),
    (UNDER_A_PREFIX, "../a", AS_IT_IS),
    (UNDER_A_PREFIX, "?b", AS_IT_IS),
    (UNDER_A_PREFIX, "/users", AS_IT_IS),
    (UNDER_A_PREFIX, "/_simulated", AS_IT_IS),
    (UNDER_A_PREFIX, "https://AUTHORITY/users", AS_IT_IS),
    (UNDER_A_PREFIX, "https://AUTHORITY/_sim/../users", AS_IT_IS),
    (UNDER_A_PREFIX, "https://AUTHORITY/_sim/%2e%2E/users", AS_IT_IS),
    (UNDER_A_PREFIX, "https://AUTHORITY/_sim/a\\..\\users", AS_IT_IS),
    (UNDER_A_PREFIX, "http://AUTHORITY/_sim/a", AS_IT_IS),
    (UNDER_A_PREFIX, "https://localhost/_sim/a", AS_IT_IS),
    (UNDER_A_PREFIX, "https://localhost:1/_sim/a", AS_IT_IS),
    (UNDER_A_PREFIX, "https://user@AUTHORITY/_sim/a", AS_IT_IS),
    (UNDER_A_PREFIX, "https://AUTHORITY@elsewhere.example/_sim/a", AS_IT_IS),
    (UNDER_A_PREFIX, "https://AUTHORITY.elsewhere.example/_sim/a", AS_IT_IS),
    (UNDER_A_PREFIX, "//elsewhere.example/_sim/a", AS_IT_IS),
    (UNDER_A_PREFIX, "https://elsewhere.example/_sim/a", AS_IT_IS),
    (UNDER_A_PREFIX, "mailto:somebody", AS_IT_IS),
];
const AS_IT_IS: &str = "as it is";

/// An answer's headers in their order, but for those of its own framing and the request's id.
fn told(answer: &Answer) -> Vec<(String, String)> {
    let framing = ["content-length", "transfer-encoding", "date", "x-request-id"];
    answer.headers.iter().filter(|(name, _)| !framing.contains(&name.as_str())).cloned().collect()
}

/// All headers but what is added: the request's id, and the date where there is none.
fn undated(answer: &Answer) -> Vec<(String, String)> {
    answer.headers.iter().filter(|(name, _)| !["date", "x-request-id"].contains(&name.as_str())).cloned().collect()
}

/// Notes each row of the table that did not come out as it says.
fn compare(client: &Client, answer: &Answer, faults: &mut Faults) {
    let to = if client.is_http2() { "to HTTP/2" } else { "to HTTP/1.1" };
    faults.compare(to, &(answer.status, answer.text()), &(200, "ok"));
    let told = told(answer);
    let values = |all: &[(String, String)], name: &str| -> Vec<String> {
        all.iter().filter(|(other, _)| *other == name.to_lowercase()).map(|(_, value)| value.clone()).collect()
    };
    let kept: Vec<_> = TABLE.iter().filter(|(_, _, fate)| *fate == Kept).map(|(name, value, _)| (*name, *value)).collect();
    let kept = owned(&kept);
    for (name, value, _) in TABLE {
        faults.compare(format!("{name}: {value} {to}"), &values(&told, name), &values(&kept, name));
    }
    faults.compare(format!("nothing is added {to}"), &told.len(), &kept.len());
}

#[test]
fn an_answer_of_an_http1_upstream_comes_as_the_table_says() {
    let simulator = simulator();
    let lines: String = TABLE.iter().map(|(name, value, _)| format!("{name}: {value}\r\n")).collect();
    let early = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\n";
    let upstream = RecordingUpstream::start(format!("{early}HTTP/1.1 200 OK\r\n{lines}Content-Length: 2\r\n\r\nok"));
    let sidecar = upstream.setup(&simulator).start();
    let mut faults = Faults::default();
    for mut client in clients(&sidecar) {
        for _ in 0..2 {
            let answer = client.get("/");
            compare(&client, &answer, &mut faults);
        }
    }
    faults.assert_none();
}

#[test]
fn an_answer_of_an_http2_upstream_comes_as_the_table_says() {
    let upstream = ManualHttp2::listen();
    let sidecar = upstream.setup().start();
    let mut faults = Faults::default();
    thread::scope(|scope| {
        let serving = scope.spawn(|| {
            let mut peer = upstream.accept(100);
            for _ in 0..2 {
                let (stream, _) = peer.request();
                peer.send(HEADERS, END_HEADERS, stream, &fields(&[(":status", "103"), ("link", "</style.css>")]));
                let rows = TABLE.iter().filter(|(_, _, fate)| *fate != RemovedOfConnection);
                let head: Vec<(String, &str)> = rows.map(|(name, value, _)| (name.to_lowercase(), *value)).collect();
                let head = [(":status", "200")].into_iter().chain(head.iter().map(|(name, value)| (name.as_str(), *value)));
                peer.send(HEADERS, END_HEADERS, stream, &fields(&head.collect::<Vec<_>>()));
                peer.send(BODY, END_STREAM, stream, b"ok");
            }
        });
        for mut client in clients(&sidecar) {
            let answer = client.get("/");
            compare(&client, &answer, &mut faults);
        }
        serving.join().unwrap();
    });
    faults.assert_none();
}

/// RFC 9113, 8.2.2: such an answer is malformed, and a header of it must not be passed on.
#[test]
fn an_http2_upstream_that_speaks_of_its_connection_is_not_understood() {
    let upstream = ManualHttp2::listen();
    let sidecar = upstream.setup().start();
    thread::scope(|scope| {
        let serving = scope.spawn(|| {
            let mut peer = upstream.accept(100);
            while let Some(frame) = peer.frame() {
                if frame.kind == HEADERS {
                    let head = [(":status", "200"), ("connection", "x-private"), ("x-private", "1")];
                    peer.send(HEADERS, END_HEADERS | END_STREAM, frame.stream, &fields(&head));
                }
            }
        });
        let answer = sidecar.send(&Request::post("/", "x"));
        assert_eq!((answer.status, answer.problem().as_str()), (502, "upstream_protocol"), "{answer:?}");
        drop(sidecar);
        serving.join().unwrap();
    });
}

fn redirected(way: &mut Way<'_>, path: &str, to: &str) -> (u16, Option<String>) {
    let encoded: String = to.bytes().map(|byte| format!("%{byte:02x}")).collect();
    let answer = way.client.get(&format!("{path}?to={encoded}"));
    (answer.status, answer.header("location").map(str::to_owned))
}

#[test]
fn a_location_at_the_upstream_becomes_a_path_on_our_side_and_any_other_stays_as_it_is() {
    let mut faults = Faults::default();
    for layout in [AT_THE_ROOT, BELOW_A_PATH, UNDER_A_PREFIX] {
        let (base, prefix) = layout;
        each_way(
            |simulator, setup| {
                setup.upstream(&format!("{}{base}", simulator.base_url()), simulator);
                if !prefix.is_empty() {
                    setup.api("prefix", &format!("\"{prefix}\""));
                }
            },
            |way| {
                let authority = way.simulator.base_url().trim_start_matches("https://").to_owned();
                let port = way.simulator.address().port().to_string();
                let path = if base.is_empty() { "/_sim/redirect".to_owned() } else { format!("{prefix}/redirect") };
                for (_, to, ours) in LOCATIONS.iter().filter(|(of, _, _)| *of == layout) {
                    let to = to.replace("AUTHORITY", &authority).replace("PORT", &port);
                    let ours = if *ours == AS_IT_IS { to.clone() } else { (*ours).to_owned() };
                    faults.compare(format!("{to} {layout:?} {way}"), &redirected(way, &path, &to), &(302, Some(ours)));
                }
            },
        );
    }
    faults.assert_none();
}

#[test]
fn hop_by_hop_headers_and_alternative_services_do_not_come_back() {
    let simulator = simulator();
    let sidecar = Sidecar::start(&simulator);
    let answer = sidecar.get("/_sim/hop-by-hop");
    assert_eq!(answer.json()["hop_by_hop"], true);
    let mut names: Vec<String> = answer.headers.iter().map(|(name, _)| name.to_ascii_lowercase()).collect();
    names.sort();
    assert_eq!(names, ["content-length", "content-type", "date", "x-request-id"]);
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
        assert_eq!(undated(&answer), [("content-length".to_owned(), "2".to_owned())]);
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
        assert_eq!(undated(&answer), [("transfer-encoding".to_owned(), "chunked".to_owned())]);
        assert_eq!(answer.text(), "five!");
    }
}

#[test]
fn cookies_come_back_only_when_the_settings_have_it() {
    for (cookies, set) in [(None, false), (Some("strip"), false), (Some("pass"), true)] {
        each_way(
            |_, setup| {
                if let Some(cookies) = cookies {
                    setup.api("cookies", cookies);
                }
            },
            |way| {
                let answer = way.client.get("/_sim/cookies");
                assert_eq!(answer.json()["cookies"], 2, "{cookies:?} {way}");
                let both = ["session=invented; Path=/; Secure; HttpOnly", "theme=dark; Path=/"];
                assert_eq!(answer.all("set-cookie"), if set { &both[..] } else { &[] }, "{cookies:?} {way}");
            },
        );
    }
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
    lines.retain(|line| ["x-many", "date: ", "x-request-id: "].iter().all(|start| !line.starts_with(start)));
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
fn lengths_without_a_body_are_told_as_each_client_can_take_them() {
    each_way(
        |_, _| {},
        |way| {
            let head = way.client.send(&Request::new("HEAD", "/_sim/download?bytes=1234567"));
            assert_eq!((head.status, head.header("content-length"), head.body.len()), (200, Some("1234567"), 0), "{way}");
            let unchanged = way.client.get("/_sim/status/304");
            assert_eq!((unchanged.status, unchanged.header("etag").is_some()), (304, true), "{way}");
            let length = if way.client.is_http2() { None } else { Some("1234") };
            assert_eq!(unchanged.header("content-length"), length, "{way}");
            assert_eq!(way.client.get("/_sim/status/204").status, 204, "{way}");
            assert_eq!(way.client.get("/_sim/echo").status, 200, "and the connection is in step {way}");
        },
    );
}

#[test]
fn an_echoed_token_does_not_come_back() {
    each_way(
        |_, _| {},
        |way| {
            assert_eq!(way.client.get("/_sim/echo").status, 200);
            let token = way.simulator.control().last_token().unwrap();
            let leak = way.client.get("/_sim/leak");
            assert_eq!(leak.json()["leaked"], true);
            assert!(leak.all("x-debug-auth") == ["[redacted]"], "{way} {:?}", leak.headers.len());
            let to = way.client.get(&format!("/_sim/redirect?to=/x%3Ftoken%3D{token}%26b"));
            assert!(to.header("location") == Some("[redacted]"), "{way}");
        },
    );
}

/// An upstream that repeats the token in every part of an answer, to this many requests.
fn parrot(answers: usize) -> (Setup, Simulator, thread::JoinHandle<()>) {
    let (simulator, listener) = (simulator(), TcpListener::bind("127.0.0.1:0").unwrap());
    let mut setup = Setup::new(&simulator);
    setup
        .upstream(&format!("http://{}", listener.local_addr().unwrap()), &simulator)
        .api("allow_insecure_upstream", "true")
        .without_connections_ahead();
    let talking = thread::spawn(move || {
        for _ in 0..answers {
            let (mut stream, _) = listener.accept().unwrap();
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                head.push(char::from(byte[0]));
            }
            let line = head.lines().find(|line| line.starts_with("authorization: ")).unwrap();
            let token = line.strip_prefix("authorization: Bearer ").unwrap();
            let answer = format!(
                "HTTP/1.1 103 {token}\r\nLink: <{token}>\r\n\r\nHTTP/1.1 299 Token {token}\r\nX-One: {token}\r\nX-Two: a {token}; b\r\nX-Two: clean\r\n\
                 X-Two: \"{token}{token}\"\r\nLocation: /?{token}\r\nTrailer: x-sum, x-clean\r\nTransfer-Encoding: chunked\r\n\
                 Connection: close\r\n\r\n2\r\nok\r\n0\r\nx-sum: a{token}b\r\nx-clean: 1\r\n\r\n"
            );
            stream.write_all(answer.as_bytes()).unwrap();
        }
    });
    (setup, simulator, talking)
}

#[test]
fn a_token_that_is_echoed_wherever_it_fits_comes_back_nowhere() {
    let (setup, simulator, talking) = parrot(2);
    let sidecar = setup.start();
    let asked = Request::get("/").header("TE", "trailers");
    let mut client = sidecar.connect();
    client.write(&asked.clone().header("Connection", "TE, close").head());
    let raw = String::from_utf8(client.read_to_end()).unwrap();
    let token = simulator.control().last_token().unwrap();
    assert!(!raw.contains(&token) && raw.starts_with("HTTP/1.1 299 "), "{}", raw.replace(&token, "THE TOKEN"));
    assert!(!raw.contains(" 103 ") && !raw.contains("link:"), "nothing goes before the answer");
    for line in
        ["x-one: [redacted]\r\n", "location: [redacted]\r\n", "x-two: clean\r\n", "x-sum: [redacted]\r\n", "x-clean: 1\r\n"]
    {
        assert!(raw.contains(line), "{line} {raw}");
    }
    let answer = Http2::connect(sidecar.address()).send(&asked);
    assert_eq!((answer.status, answer.text()), (299, "ok"));
    assert_eq!(answer.all("x-two"), ["[redacted]", "clean", "[redacted]"]);
    let trailers = [("x-sum", "[redacted]"), ("x-clean", "1")];
    assert_eq!(answer.trailers, trailers.map(|(name, value)| (name.to_owned(), value.to_owned())));
    talking.join().unwrap();
}

/// A target that upstream redirects to `to`.
fn redirect(path: &str, to: &str) -> String {
    let encoded: String = to.bytes().map(|byte| format!("%{byte:02x}")).collect();
    format!("{path}?to={encoded}")
}

/// The `Location` a client gets when upstream redirects to `to`.
fn location(sidecar: &Sidecar, path: &str, to: &str) -> String {
    let answer = sidecar.get(&redirect(path, to));
    assert_eq!(answer.status, 302, "{answer:?}");
    answer.header("location").unwrap().to_owned()
}

#[test]
fn a_header_that_echoes_the_token_comes_back_without_it_and_is_counted() {
    let simulator = simulator();
    let mut setup = Setup::new(&simulator);
    setup.with_telemetry();
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

#[test]
fn the_token_of_a_request_is_hidden_when_it_was_replaced_or_withdrawn_before_the_answer() {
    let simulator = simulator();
    let control = simulator.control();
    let sidecar = Setup::controlled(&simulator).start().ready();
    let log_in = || assert_eq!(sidecar.setup.output("login").code, Some(0));
    let log_out = || {
        sidecar.signal(Signal::USR1);
        sidecar.wait_for_log("\"logged_out\"");
    };
    for replace in [&log_in as &dyn Fn(), &log_out] {
        let carried = control.last_token().unwrap();
        let requests = control.counts().requests;
        control.hold_requests(true);
        let target = redirect("/_sim/redirect", &format!("https://elsewhere.example/?token={carried}"));
        let crowd = Crowd::send(&sidecar, 1, &Request::get(&target));
        until("the upstream has got the request", || control.counts().requests == requests + 1);
        replace();
        control.hold_requests(false);
        let [answer] = crowd.answers().try_into().unwrap();
        assert_eq!((answer.status, answer.header("location")), (302, Some("[redacted]")));
    }
}

#[test]
fn a_token_in_base64_is_hidden_in_either_alphabet_padded_or_not() {
    let simulator = simulator();
    let sidecar = Sidecar::start(&simulator).ready();
    let token = simulator.control().last_token().unwrap();
    for text in [token.clone(), format!("Bearer {token}"), format!("service:{token}\n")] {
        for engine in [STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD] {
            let to = format!("https://elsewhere.example/?state={}&a=b", engine.encode(&text));
            assert_eq!(location(&sidecar, "/_sim/redirect", &to), "[redacted]", "{}", text.len() - token.len());
        }
    }
    let other = format!("https://elsewhere.example/?state={}", STANDARD.encode(&token[1..]));
    assert_eq!(location(&sidecar, "/_sim/redirect", &other), other);
}
