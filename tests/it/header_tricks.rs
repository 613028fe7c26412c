//! Every clause about headers, whatever client and upstream speak: HTTP/1.1 or HTTP/2, both ways.

use std::{
    io::{Read, Write},
    net::TcpListener,
    thread,
};

use careportals_simulator::Simulator;

use crate::harness::{
    Answer, Connection, Http2, ManualHttp2, OFF_AND_AUTO, ORGANIZATION, RecordingUpstream, Request, Setup, Sidecar,
    frames::{BODY, END_HEADERS, END_STREAM, HEADERS, fields},
    simulator,
};

enum Client {
    Http1(Connection),
    Http2(Http2),
}

impl Client {
    fn send(&mut self, request: &Request) -> Answer {
        match self {
            Self::Http1(client) => client.send(request),
            Self::Http2(client) => client.send(request),
        }
    }

    fn get(&mut self, target: &str) -> Answer {
        self.send(&Request::get(target))
    }

    fn is_http2(&self) -> bool {
        matches!(self, Self::Http2(_))
    }
}

fn clients(sidecar: &Sidecar) -> [Client; 2] {
    [Client::Http1(sidecar.connect()), Client::Http2(Http2::connect(sidecar.address()))]
}

/// A client of each kind, in front of an upstream of each kind, one after the other.
fn each_way(set: impl Fn(&Simulator, &mut Setup), check: impl Fn(&Simulator, &mut Client, &str)) {
    let simulator = simulator();
    for http2 in OFF_AND_AUTO {
        let mut setup = Setup::new(&simulator);
        setup.api("http2", http2);
        set(&simulator, &mut setup);
        let sidecar = setup.start();
        for mut client in clients(&sidecar) {
            check(&simulator, &mut client, http2);
        }
        let spoken = simulator.control().counts().requests_http2 > 0;
        assert_eq!(spoken, http2 == "auto", "the upstream was spoken to as meant");
    }
}

/// Names and values that reached upstream, sorted, but for what the sidecar adds, which must be there once.
fn arrived(simulator: &Simulator, answer: &Answer, http2: &str) -> Vec<(String, String)> {
    assert_eq!(answer.status, 200, "{answer:?}");
    let document = answer.json();
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let pairs = document["headers"].as_array().unwrap_or_else(|| panic!("not an echo: {answer:?}"));
    let mut all: Vec<(String, String)> = pairs.iter().map(|pair| (text(&pair[0]), text(&pair[1]))).collect();
    let mut ours = vec![
        ("authorization".to_owned(), format!("Bearer {}", simulator.control().last_token().unwrap())),
        ("organization".to_owned(), ORGANIZATION.to_owned()),
    ];
    if http2 == "off" {
        ours.push(("host".to_owned(), simulator.base_url().trim_start_matches("https://").to_owned()));
    }
    for ours in ours {
        assert_eq!(all.iter().filter(|other| **other == ours).count(), 1, "{ours:?} {all:?}");
        all.retain(|other| *other != ours);
    }
    all.sort();
    all
}

/// What is removed whatever its value, as clients may write it.
const REMOVED: [&str; 20] = [
    "Authorization",
    "Organization",
    "Cookie",
    "Cookie2",
    "Origin",
    "Forwarded",
    "X-Forwarded-For",
    "X-Forwarded-Proto",
    "X-Forwarded-Anything",
    "X-Real-IP",
    "Proxy",
    "Proxy-Authorization",
    "Proxy-Authenticate",
    "Proxy-Anything",
    "Proxy-Connection",
    "Keep-Alive",
    "HTTP2-Settings",
    "TE",
    "Upgrade",
    "Connection",
];
/// In this spelling an error over HTTP/2 (RFC 9113, 8.2.2).
const OF_A_CONNECTION: [&str; 5] = ["proxy-connection", "keep-alive", "te", "upgrade", "connection"];
/// Removed in this spelling; in the other one they frame or route the request, or are an expectation.
const UNDERSCORED: [&str; 2] = ["content_length", "transfer_encoding"];

#[test]
fn what_is_removed_from_a_request_is_removed_in_every_spelling_each_way() {
    each_way(
        |_, _| {},
        |simulator, client, http2| {
            let spellings = REMOVED.iter().flat_map(|name| [(*name).to_owned(), name.to_uppercase(), name.replace('-', "_")]);
            for name in spellings.chain(UNDERSCORED.map(str::to_owned)) {
                let lower = name.to_lowercase();
                if client.is_http2() && OF_A_CONNECTION.contains(&lower.as_str()) {
                    continue;
                }
                let value = if lower == "origin" { "http://localhost" } else { "theirs" };
                // Two origins are nobody's.
                let lines = if lower == "origin" { 1 } else { 2 };
                let request = (0..lines).fold(Request::get("/_sim/echo"), |request, _| request.header(&name, value));
                let answer = client.send(&request.header("X-Kept", "1"));
                assert_eq!(arrived(simulator, &answer, http2), [("x-kept".to_owned(), "1".to_owned())], "{name} {http2}");
            }
        },
    );
}

#[test]
fn connection_removes_what_it_names_and_nothing_of_ours_whatever_the_upstream_speaks() {
    each_way(
        |_, setup| {
            setup.api("headers", "{ x-plan = \"gold\" }").api("cookies", "pass");
        },
        |simulator, client, http2| {
            // Over HTTP/2 such a request is an error.
            if client.is_http2() {
                return;
            }
            let request = Request::post("/_sim/echo", "five!")
                .header("Connection", "authorization, ORGANIZATION , host, content-length, x-plan, traceparent")
                .header("Authorization", "Bearer theirs")
                .header("X-Mine", "1")
                .header("X_Mine", "2")
                .header("Cookie", "a=1")
                .header("X-Kept", "3")
                .header("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
                .header("Connection", "x-mine,, cookie;\t\"close\"")
                .header("organization", "theirs");
            let answer = client.send(&request);
            let mut expected = vec![("content-length", "5"), ("x-kept", "3"), ("x-plan", "gold")];
            let arrived = arrived(simulator, &answer, http2);
            if http2 == "auto" {
                // A body's length may be told there, and need not be.
                expected.retain(|pair| pair.0 != "content-length" || arrived.iter().any(|(name, _)| name == "content-length"));
            }
            let arrived: Vec<_> = arrived.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            assert_eq!(arrived, expected);
            assert_eq!(answer.json()["body"], "five!");
            let Client::Http1(client) = client else { return };
            let closing = Request::get("/_sim/echo").header("Connection", "close, authorization, x-mine").header("X-Mine", "1");
            assert_eq!(client.send(&closing).echoed("x-mine"), [""; 0]);
            assert!(client.is_closed(), "`close` among others is heard");
        },
    );
}

#[test]
fn everything_else_of_a_request_passes_in_its_order_each_way() {
    let kept = [
        ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
        ("tracestate", "a=1"),
        ("tracestate", "b=2"),
        ("via", "1.1 theirs"),
        ("x-empty", ""),
        ("x-forwardedfor", "another name"),
        ("x-many", "one"),
        ("x-many", "two, three"),
        ("x-many", "one"),
        ("x-real-ipv6", "another name"),
        ("x-request-id", "Order_17.a-B"),
        ("x_under", "2"),
        ("x_under", "1"),
    ];
    each_way(
        |_, _| {},
        |simulator, client, http2| {
            let mut request = Request::get("/_sim/echo");
            for (place, (name, value)) in kept.iter().enumerate() {
                request = request.header(name, value).header(&format!("y-{place}"), "1");
            }
            let answer = client.send(&request);
            for (name, _) in kept {
                let sent: Vec<&str> = kept.iter().filter(|(other, _)| *other == name).map(|(_, value)| *value).collect();
                assert_eq!(answer.echoed(name), sent, "{name} {http2}");
            }
            assert_eq!(arrived(simulator, &answer, http2).len(), 2 * kept.len(), "and nothing is added");
            assert_eq!(answer.header("via"), None);
        },
    );
}

#[test]
fn a_request_id_passes_alone_and_well_formed_or_not_at_all_each_way() {
    let (longest, too_long) = ("i".repeat(64), "i".repeat(65));
    each_way(
        |_, _| {},
        |_, client, http2| {
            for good in ["a.B_c-9", longest.as_str()] {
                let answer = client.send(&Request::get("/_sim/echo").header("X-Request-Id", good));
                assert_eq!(answer.echoed("x-request-id"), [good], "{http2}");
            }
            for bad in [&["a b"][..], &["jane@example.test"], &[""], &[too_long.as_str()], &["a", "a"], &["a", "b"]] {
                let request = bad.iter().fold(Request::get("/_sim/echo"), |request, id| request.header("X-Request-Id", id));
                assert_eq!(client.send(&request).echoed("x-request-id"), [""; 0], "{bad:?} {http2}");
            }
            let underscored = client.send(&Request::get("/_sim/echo").header("X_Request_Id", "a"));
            assert_eq!((underscored.echoed("x_request_id").len(), underscored.echoed("x-request-id").len()), (0, 0));
        },
    );
}

#[test]
fn fixed_headers_come_once_whatever_clients_send_each_way() {
    each_way(
        |_, setup| {
            setup
                .api("headers", "{ origin = \"https://acme.example.test\", x-plan = \"gold\", x-forwarded-for = \"192.0.2.9\" }");
        },
        |simulator, client, http2| {
            let request = Request::get("/_sim/echo")
                .header("Origin", "http://localhost")
                .header("X-Plan", "theirs")
                .header("x_plan", "theirs")
                .header("X-PLAN", "theirs")
                .header("X_Forwarded_For", "192.0.2.1");
            let answer = client.send(&request);
            let expected = [("origin", "https://acme.example.test"), ("x-forwarded-for", "192.0.2.9"), ("x-plan", "gold")];
            let arrived = arrived(simulator, &answer, http2);
            let arrived: Vec<_> = arrived.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            assert_eq!(arrived, expected, "{http2}");
        },
    );
}

#[test]
fn cookies_pass_both_ways_or_neither_each_way() {
    for cookies in ["strip", "pass"] {
        each_way(
            |_, setup| {
                setup.api("cookies", cookies);
            },
            |_, client, http2| {
                let answer = client.send(&Request::get("/_sim/echo").header("Cookie", "a=1").header("cookie", "b=2"));
                // HTTP/2 clients may split what is one line elsewhere (RFC 9113, 8.2.3).
                let expected = match (cookies, client.is_http2()) {
                    ("strip", _) => vec![],
                    (_, true) => vec!["a=1; b=2"],
                    (_, false) => vec!["a=1", "b=2"],
                };
                assert_eq!(answer.echoed("cookie"), expected, "{cookies} {http2}");
                let set = client.get("/_sim/cookies");
                let both = ["session=invented; Path=/; Secure; HttpOnly", "theme=dark; Path=/"];
                assert_eq!(set.all("set-cookie"), if cookies == "pass" { &both[..] } else { &[] }, "{cookies} {http2}");
            },
        );
    }
}

#[test]
fn lengths_without_a_body_are_told_as_each_client_can_take_them() {
    each_way(
        |_, _| {},
        |_, client, http2| {
            let head = client.send(&Request::new("HEAD", "/_sim/download?bytes=1234567"));
            assert_eq!((head.status, head.header("content-length"), head.body.len()), (200, Some("1234567"), 0), "{http2}");
            let unchanged = client.get("/_sim/status/304");
            assert_eq!((unchanged.status, unchanged.header("etag").is_some()), (304, true));
            let length = if client.is_http2() { None } else { Some("1234") };
            assert_eq!(unchanged.header("content-length"), length, "{http2}");
            assert_eq!(client.get("/_sim/status/204").status, 204);
            assert_eq!(client.get("/_sim/echo").status, 200, "and the connection is in step");
        },
    );
}

#[test]
fn a_location_under_the_base_becomes_a_path_of_ours_and_no_other_does_each_way() {
    each_way(
        |simulator, setup| {
            setup
                .variable("CAREPORTALS_UPSTREAM", &format!("{}/_sim", simulator.base_url()))
                .variable("CAREPORTALS_LOGIN_URL", &format!("{}/patient/auth", simulator.base_url()))
                .api("prefix", "\"/api\"");
        },
        |simulator, client, http2| {
            let authority = simulator.base_url().trim_start_matches("https://").to_owned();
            let port = simulator.address().port();
            let base = format!("https://{authority}/_sim");
            let stays = |to: String| (to.clone(), to);
            let forms = [
                (format!("{base}/echo?a=%2F#b"), "/api/echo?a=%2F#b".to_owned()),
                (base.clone(), "/api".to_owned()),
                (format!("HTTPS://LOCALHOST:{port}/_sim/a//b"), "/api/a//b".to_owned()),
                (format!("//{authority}/_sim/a"), "/api/a".to_owned()),
                ("/_sim/a".to_owned(), "/api/a".to_owned()),
                stays("a?b".to_owned()),
                stays("../a".to_owned()),
                stays("?b".to_owned()),
                stays("/users".to_owned()),
                stays("/_simulated".to_owned()),
                stays(format!("https://{authority}/users")),
                stays(format!("{base}/../users")),
                stays(format!("{base}/%2e%2E/users")),
                stays(format!("{base}/a\\..\\users")),
                stays(format!("http://{authority}/_sim/a")),
                stays("https://localhost/_sim/a".to_owned()),
                stays(format!("https://localhost:{}/_sim/a", port - 1)),
                stays(format!("https://user@{authority}/_sim/a")),
                stays(format!("https://{authority}@elsewhere.example/_sim/a")),
                stays(format!("https://{authority}.elsewhere.example/_sim/a")),
                stays("//elsewhere.example/_sim/a".to_owned()),
                stays("https://elsewhere.example/_sim/a".to_owned()),
                stays("mailto:somebody".to_owned()),
            ];
            for (to, ours) in forms {
                let encoded: String = to.bytes().map(|byte| format!("%{byte:02x}")).collect();
                let answer = client.get(&format!("/api/redirect?to={encoded}"));
                assert_eq!((answer.status, answer.header("location")), (302, Some(ours.as_str())), "{to} {http2}");
            }
        },
    );
}

#[test]
fn an_echoed_token_does_not_come_back_each_way() {
    each_way(
        |_, _| {},
        |simulator, client, http2| {
            assert_eq!(client.get("/_sim/echo").status, 200);
            let token = simulator.control().last_token().unwrap();
            let leak = client.get("/_sim/leak");
            assert_eq!(leak.json()["leaked"], true);
            assert!(leak.all("x-debug-auth") == ["[redacted]"], "{http2} {:?}", leak.headers.len());
            let to = client.get(&format!("/_sim/redirect?to=/x%3Ftoken%3D{token}%26b"));
            assert!(to.header("location") == Some("[redacted]"), "{http2}");
        },
    );
}

/// An upstream that says back what it was sent, in every place there is, to so many requests.
fn parrot(answers: usize) -> (Setup, Simulator, thread::JoinHandle<()>) {
    let (simulator, listener) = (simulator(), TcpListener::bind("127.0.0.1:0").unwrap());
    let mut setup = Setup::new(&simulator);
    setup
        .variable("CAREPORTALS_UPSTREAM", &format!("http://{}", listener.local_addr().unwrap()))
        .variable("CAREPORTALS_LOGIN_URL", &format!("{}/patient/auth", simulator.base_url()))
        .api("allow_insecure_upstream", "true");
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

/// Of an answer's fields: those that end here, and those that go on in this order.
const ENDING: [(&str, &str); 7] = [
    ("Proxy-Status", "careportals-sidecar; error=connection_refused"),
    ("alt-svc", "h3=\":443\""),
    ("Alt_Svc", "h3=\":443\""),
    ("set-cookie", "a=1"),
    ("Set_Cookie", "a=1"),
    ("set-cookie2", "a=1"),
    ("proxy-authenticate", "Basic"),
];
const GOING_ON: [(&str, &str); 7] = [
    ("x-many", "one"),
    ("via", "1.1 theirs"),
    ("x-many", "two, three"),
    ("proxy-status", "cdn; error=dns_error"),
    ("x-many", "one"),
    ("x-request-id", "theirs"),
    ("location", "https://elsewhere.example/"),
];

#[track_caller]
fn assert_as_it_goes_on(answer: &Answer) {
    assert_eq!((answer.status, answer.text()), (200, "ok"), "{answer:?}");
    let mut expected: Vec<_> = GOING_ON.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let mut headers: Vec<_> = answer
        .headers
        .iter()
        .filter(|(name, _)| !["content-length", "transfer-encoding", "date"].contains(&name.as_str()))
        .cloned()
        .collect();
    let many = |all: &[(String, String)]| -> Vec<String> {
        all.iter().filter(|(name, _)| name == "x-many").map(|(_, value)| value.clone()).collect()
    };
    assert_eq!(many(&headers), many(&expected), "in its order");
    headers.sort();
    expected.sort();
    assert_eq!(headers, expected);
}

#[test]
fn an_answer_of_an_http1_upstream_ends_and_goes_on_for_each_client() {
    let simulator = simulator();
    let of_a_connection = [
        ("Connection", "close, X-Private, organization, content-length"),
        ("Keep-Alive", "timeout=1"),
        ("Proxy-Connection", "close"),
        ("Upgrade", "example/1"),
        ("TE", "trailers"),
        ("x_private", "1"),
        ("X-Private", "1"),
    ];
    let (mut lines, mut ending) = (String::new(), ENDING.iter().chain(&of_a_connection));
    for going_on in &GOING_ON {
        for (name, value) in [going_on].into_iter().chain(ending.by_ref().take(2)) {
            lines.push_str(&format!("{name}: {value}\r\n"));
        }
    }
    assert!(ending.next().is_none(), "all of them are sent");
    let early = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\n";
    let upstream = RecordingUpstream::start(format!("{early}HTTP/1.1 200 OK\r\n{lines}Content-Length: 2\r\n\r\nok"));
    let sidecar = upstream.setup(&simulator).start();
    for mut client in clients(&sidecar) {
        for _ in 0..2 {
            assert_as_it_goes_on(&client.get("/"));
        }
    }
}

#[test]
fn an_answer_of_an_http2_upstream_ends_and_goes_on_for_each_client() {
    let upstream = ManualHttp2::listen();
    let sidecar = upstream.setup().start();
    thread::scope(|scope| {
        let serving = scope.spawn(|| {
            let mut peer = upstream.accept(100);
            for _ in 0..2 {
                let (stream, _) = peer.request();
                peer.send(HEADERS, END_HEADERS, stream, &fields(&[(":status", "103"), ("link", "</style.css>")]));
                let (mut head, mut ending) = (vec![(":status", "200")], ENDING.iter());
                for going_on in GOING_ON {
                    head.push(going_on);
                    head.extend(ending.next());
                }
                let head: Vec<_> = head.iter().map(|(name, value)| (name.to_lowercase(), *value)).collect();
                let head: Vec<_> = head.iter().map(|(name, value)| (name.as_str(), *value)).collect();
                peer.send(HEADERS, END_HEADERS, stream, &fields(&head));
                peer.send(BODY, END_STREAM, stream, b"ok");
            }
        });
        for mut client in clients(&sidecar) {
            assert_as_it_goes_on(&client.get("/"));
        }
        serving.join().unwrap();
    });
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
