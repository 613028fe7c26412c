//! What every answer keeps to, whoever made it and whatever either side speaks: HEAD has no content, the length is one number, the
//! coding is `chunked` or none, there is a date and no invented reason.

use std::{net::TcpStream, thread};

use careportals_simulator::Simulator;

use crate::harness::{
    Answer, Connection, Http2, ManualHttp2, ManualUpstream, RecordingUpstream, Request, Setup, Sidecar,
    each_way::{Client, Faults, clients},
    frames::{BODY, END_HEADERS, END_STREAM, FrameClient, HEADERS, PING, WHOLE, fields, frame},
    simulator, until,
};

/// Has the upstream answer one request by these bytes, on a connection that ends then, and returns what the client gets.
fn answered(upstream: &ManualUpstream, client: &mut Client, request: &Request, bytes: &str) -> Answer {
    thread::scope(|scope| {
        let answer = scope.spawn(|| client.send(request));
        let mut connection = upstream.accept();
        connection.read_until(b"\r\n\r\n");
        connection.write(bytes.as_bytes());
        drop(connection);
        answer.join().unwrap()
    })
}

fn head(method: &str) -> Request {
    Request::new(method, "/users")
}

fn outcome(answer: &Answer) -> (u16, Option<String>) {
    (answer.status, answer.header("content-length").map(str::to_owned))
}

#[test]
fn no_answer_to_head_has_content_and_each_has_the_length_of_a_get() {
    let simulator = simulator();
    let mut setup = Setup::controlled(&simulator);
    setup.with_telemetry().global("quitquitquit", "true");
    let sidecar = setup.start().ready();
    let telemetry = sidecar.telemetry_address();
    let (own, health): (&[&str], &[&str]) = (
        &["/auth", "/users/account", "/_sim/echo"],
        &["/livez", "/readyz", "/status", "/", "/metrics", "/nothing", "/quitquitquit"],
    );
    for (address, paths) in [(sidecar.address(), own), (telemetry, health)] {
        for path in paths {
            let whole = Connection::tcp(TcpStream::connect(address).unwrap()).send(&Request::get(path));
            // What counts, and what echoes the request, has another length each time.
            let fixed = !matches!(*path, "/metrics" | "/status" | "/_sim/echo");
            let check = |answer: &Answer| {
                assert!(!answer.cut && answer.body.is_empty(), "{path} {answer:?}");
                assert_eq!(answer.status, whole.status, "{path}");
                let length: usize = answer.header("content-length").unwrap().parse().unwrap();
                assert!(length > 0 && (!fixed || length == whole.body.len()), "{path} {answer:?}");
            };
            let mut client = Connection::tcp(TcpStream::connect(address).unwrap());
            check(&client.send(&Request::new("HEAD", path)));
            check(&client.send(&Request::new("HEAD", path)));
            if address == telemetry {
                continue;
            }
            let mut client = Http2::connect(address);
            check(&client.send(&Request::new("HEAD", path)));
            check(&client.send(&Request::new("HEAD", path)));
            // No frame at all follows the head.
            let mut raw = FrameClient::connect(address);
            let asked = fields(&[(":method", "HEAD"), (":scheme", "http"), (":authority", "localhost"), (":path", path)]);
            raw.write(&frame(HEADERS, WHOLE, 1, &asked));
            let first = raw.on(1).unwrap();
            assert_eq!((first.kind, first.ends_stream()), (HEADERS, true), "{path}");
            let mut plain = Connection::tcp(TcpStream::connect(address).unwrap());
            plain.write(format!("HEAD {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").as_bytes());
            assert!(plain.read_to_end().ends_with(b"\r\n\r\n"), "{path}");
        }
    }
    for host in ["evil.example.test", "localhost"] {
        let mut refused = Request::new("HEAD", "/users").host(host);
        if host == "localhost" {
            refused = refused.header("Expect", "miracles");
        }
        let answer = Http2::connect(sidecar.address()).send(&refused);
        assert!((400..500).contains(&answer.status) && !answer.cut && answer.body.is_empty(), "{answer:?}");
    }
    let mut control = Sidecar::connect_unix(&sidecar.setup.control_socket());
    control.write(b"HEAD /status HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    let told = String::from_utf8(control.read_to_end()).unwrap();
    assert!(told.starts_with("HTTP/1.1 405 ") && told.ends_with("\r\n\r\n") && told.contains("content-length: "), "{told}");
    // What the parser refuses has no content anyhow.
    let mut bare = sidecar.connect();
    bare.write(b"HEAD /a b HTTP/1.1\r\n\r\n");
    assert!(bare.read_to_end().ends_with(b"\r\n\r\n"));
}

#[test]
fn an_http2_upstream_that_ends_a_head_late_gives_a_whole_answer() {
    let upstream = ManualHttp2::listen();
    let sidecar = upstream.setup().start();
    thread::scope(|scope| {
        let serving = scope.spawn(|| {
            let mut peer = upstream.accept(100);
            let (stream, _) = peer.request();
            peer.send(HEADERS, END_HEADERS, stream, &fields(&[(":status", "200"), ("content-length", "7")]));
            // The client has its answer by now; who ends the stream late is not told that nobody wanted it.
            let asked = peer.frame().unwrap();
            assert_eq!(asked.kind, HEADERS, "{asked:?}");
            peer.send(BODY, END_STREAM, stream, b"");
            let stream = asked.stream;
            peer.send(HEADERS, WHOLE, stream, &fields(&[(":status", "204"), ("content-length", "0")]));
        });
        let answer = Http2::connect(sidecar.address()).send(&head("HEAD"));
        assert_eq!((outcome(&answer), answer.cut), ((200, Some("7".to_owned())), false));
        assert_eq!(outcome(&Http2::connect(sidecar.address()).send(&head("GET"))), (204, None));
        assert!(sidecar.wait_for_access_lines(2).iter().all(|line| line["cut"].is_null()));
        drop(sidecar);
        serving.join().unwrap();
    });
}

#[test]
fn the_length_of_an_answer_is_one_decimal_number_or_the_answer_is_no_http() {
    let upstream = ManualUpstream::listen();
    let sidecar = upstream.setup().start();
    let mut faults = Faults::default();
    for (lines, expected) in [
        (&["2"][..], Some("2")),
        (&["0002"], Some("0002")),
        (&["2, 2"], Some("2")),
        (&["2,2,  2"], Some("2")),
        (&["2", "2"], Some("2")),
        (&["2, 2", "2"], Some("2")),
        (&["2, 02"], Some("2")),
        (&["2, 3"], None),
        (&["2", "3"], None),
        (&["abc"], None),
        (&["+2"], None),
        (&["-1"], None),
        (&["0x2"], None),
        (&["2.0"], None),
        (&["2 2"], None),
        (&[""], None),
        (&["2,"], None),
        (&[",2"], None),
        (&["2", ""], None),
        (&["18446744073709551616"], None),
        (&["99999999999999999999999999"], None),
    ] {
        let lines: String = lines.iter().map(|line| format!("Content-Length: {line}\r\n")).collect();
        for mut client in clients(&sidecar) {
            for method in ["GET", "HEAD"] {
                let body = if method == "GET" { "ok" } else { "" };
                let bytes = format!("HTTP/1.1 200 OK\r\n{lines}Connection: close\r\n\r\n{body}");
                let answer = answered(&upstream, &mut client, &head(method), &bytes);
                let found = (answer.status, answer.all("content-length"), answer.cut);
                let row = format!("{method} {lines:?} to HTTP/2: {}", client.is_http2());
                match expected {
                    Some(length) => faults.compare(row, &found, &(200, vec![length], false)),
                    None => faults.compare(row, &(answer.status, answer.header("proxy-status")), &(502, Some(PROTOCOL))),
                }
            }
            // A 304 keeps the length of what was not modified, over HTTP/1.1; a 204 has none.
            for (status, kept) in [("304 Not Modified", !client.is_http2()), ("204 No Content", false)] {
                let bytes = format!("HTTP/1.1 {status}\r\n{lines}Connection: close\r\n\r\n");
                for method in ["GET", "HEAD"] {
                    let answer = answered(&upstream, &mut client, &head(method), &bytes);
                    let row = format!("{method} {status} {lines:?} to HTTP/2: {}", client.is_http2());
                    match expected {
                        None => faults.compare(row, &answer.status, &502),
                        Some(length) => {
                            let lengths = if kept { vec![length] } else { vec![] };
                            faults.compare(row, &answer.all("content-length"), &lengths);
                        }
                    }
                }
            }
        }
    }
    faults.assert_none();
}

#[test]
fn a_101_has_no_length_and_no_coding() {
    let upstream = ManualUpstream::listen();
    let sidecar = upstream.setup().start();
    let asked = Request::get("/socket").headers([
        ("Connection", "upgrade"),
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Key", "AAAAAAAAAAAAAAAAAAAAAA=="),
        ("Sec-WebSocket-Version", "13"),
    ]);
    for (line, status) in [
        ("Content-Length: 5", 101),
        ("Content-Length: 5, 5", 101),
        ("Transfer-Encoding: chunked", 101),
        ("Content-Length: x", 502),
        ("Transfer-Encoding: gzip", 502),
    ] {
        let mut client = sidecar.connect();
        client.write(&asked.head());
        let mut connection = upstream.accept();
        connection.read_until(b"\r\n\r\n");
        connection.write(
            format!("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n{line}\r\n\r\n").as_bytes(),
        );
        let answer = client.head();
        assert_eq!(answer.status, status, "{line}");
        if status == 101 {
            assert!(answer.header("content-length").is_none() && answer.header("transfer-encoding").is_none(), "{answer:?}");
            assert!(is_now(answer.header("date").unwrap()));
            connection.write(b"hello");
            assert_eq!(client.read_until(b"hello"), b"hello", "{line}");
        }
    }
}

#[test]
fn the_length_of_an_http2_upstreams_answer_is_judged_alike() {
    let upstream = ManualHttp2::listen();
    let sidecar = upstream.setup().start();
    let mut faults = Faults::default();
    let rows: [(&[&str], Option<&str>); 8] = [
        (&["2"], Some("2")),
        (&["2", "2"], Some("2")),
        (&["2", "3"], None),
        (&["2", "x"], None),
        (&["abc"], None),
        (&["+2"], None),
        (&[""], None),
        (&["18446744073709551616"], None),
    ];
    thread::scope(|scope| {
        let serving = scope.spawn(|| {
            let mut peer = upstream.accept(100);
            let mut next = rows.iter().flat_map(|(lines, _)| std::iter::repeat_n(lines, 4));
            // The sidecar resets the streams of answers that are no HTTP.
            while let Some(frame) = peer.frame() {
                if frame.kind == HEADERS {
                    let lengths = next.next().unwrap().iter().map(|line| ("content-length", *line));
                    let head: Vec<_> = [(":status", "200")].into_iter().chain(lengths).collect();
                    let is_get = frame.payload.first() == Some(&0x82);
                    peer.send(HEADERS, if is_get { END_HEADERS } else { WHOLE }, frame.stream, &fields(&head));
                    if is_get {
                        peer.send(BODY, END_STREAM, frame.stream, b"ok");
                    }
                }
            }
        });
        for (lines, expected) in rows {
            for mut client in clients(&sidecar) {
                for method in ["GET", "HEAD"] {
                    let answer = client.send(&head(method));
                    let row = format!("{method} {lines:?} to HTTP/2: {}", client.is_http2());
                    match expected {
                        Some(length) => faults.compare(row, &(answer.status, answer.all("content-length")), &(200, vec![length])),
                        None => faults.compare(row, &(answer.status, answer.header("proxy-status")), &(502, Some(PROTOCOL))),
                    }
                }
            }
        }
        drop(sidecar);
        serving.join().unwrap();
    });
    faults.assert_none();
}

const PROTOCOL: &str = "careportals-sidecar; error=http_protocol_error";

#[test]
fn a_length_that_nothing_can_have_is_no_head_that_is_too_large() {
    let upstream = ManualUpstream::listen();
    let sidecar = upstream.setup().start();
    for mut client in clients(&sidecar) {
        let bytes = "HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551615\r\nConnection: close\r\n\r\n";
        let answer = answered(&upstream, &mut client, &head("GET"), bytes);
        assert_eq!((answer.status, answer.problem().as_str()), (502, "upstream_protocol"));
        let large = format!("HTTP/1.1 200 OK\r\nX-Large: {}\r\n\r\n", "x".repeat(70 * 1024));
        assert_eq!(answered(&upstream, &mut client, &head("GET"), &large).problem(), "upstream_head_too_large");
        let long = format!("HTTP/1.1 200 OK\r\n{}\r\n", "a:b\r\n".repeat(300));
        assert_eq!(answered(&upstream, &mut client, &head("GET"), &long).problem(), "upstream_head_too_large");
    }
}

#[test]
fn the_coding_of_an_answer_is_chunked_or_the_answer_is_no_http() {
    let upstream = ManualUpstream::listen();
    let sidecar = upstream.setup().start();
    let mut faults = Faults::default();
    for (lines, passes) in [
        (&["chunked"][..], true),
        (&["Chunked"], true),
        (&["CHUNKED"], true),
        (&["gzip, chunked"], false),
        (&["chunked, gzip"], false),
        (&["gzip", "chunked"], false),
        (&["chunked", "chunked"], false),
        (&["chunked, chunked"], false),
        (&["xchunked"], false),
        (&["identity"], false),
        (&["gzip"], false),
        (&["chunked;q=1"], false),
        (&["chunked,"], false),
        (&[""], false),
    ] {
        let lines: String = lines.iter().map(|line| format!("Transfer-Encoding: {line}\r\n")).collect();
        for mut client in clients(&sidecar) {
            for (method, status, length) in [
                ("GET", "200 OK", ""),
                ("GET", "200 OK", "Content-Length: 2\r\n"),
                ("HEAD", "200 OK", ""),
                ("GET", "304 Not Modified", ""),
            ] {
                let body = if method == "GET" && status == "200 OK" { "2\r\nok\r\n0\r\n\r\n" } else { "" };
                let bytes = format!("HTTP/1.1 {status}\r\n{length}{lines}Connection: close\r\n\r\n{body}");
                let answer = answered(&upstream, &mut client, &head(method), &bytes);
                let row = format!("{method} {status} {length:?} {lines:?} to HTTP/2: {}", client.is_http2());
                let text = String::from_utf8_lossy(&answer.body).into_owned();
                if passes {
                    let body = if body.is_empty() { "" } else { "ok" };
                    faults.compare(row, &(answer.status, text.as_str()), &(status[..3].parse().unwrap(), body));
                } else {
                    faults.compare(row, &(answer.status, answer.header("proxy-status")), &(502, Some(PROTOCOL)));
                }
            }
        }
    }
    for version in ["HTTP/1.0 200 OK", "HTTP/1.0 304 Not Modified"] {
        let bytes = format!("{version}\r\nTransfer-Encoding: chunked\r\n\r\n");
        let mut client = Client::Http1(sidecar.connect());
        faults.compare(version, &answered(&upstream, &mut client, &head("GET"), &bytes).status, &502);
    }
    faults.assert_none();
}

/// Whether it is a date of HTTP's, and of this minute.
fn is_now(date: &str) -> bool {
    let Ok(date) = httpdate::parse_http_date(date) else { return false };
    crate::harness::wall_clock().duration_since(date).unwrap_or_else(|early| early.duration()).as_secs() < 60
}

#[test]
fn every_answer_has_one_date_and_the_upstreams_is_its_own() {
    let simulator = simulator();
    let theirs = "Sun, 06 Nov 1994 08:49:37 GMT";
    for (line, expected) in [(String::new(), None), (format!("Date: {theirs}\r\n"), Some(theirs))] {
        let upstream = RecordingUpstream::start(format!("HTTP/1.1 200 OK\r\n{line}Content-Length: 2\r\n\r\nok"));
        let mut setup = upstream.setup(&simulator);
        setup.with_telemetry().with_control_socket();
        let sidecar = setup.start().ready_with(&Request::get("/"));
        for mut client in clients(&sidecar) {
            let answer = client.get("/users");
            let dates = answer.all("date");
            assert_eq!(dates.len(), 1, "{answer:?}");
            assert!(expected.map_or_else(|| is_now(dates[0]), |expected| dates[0] == expected), "{answer:?}");
            let refused = client.get("/auth");
            assert!(refused.problem() == "login_path" && is_now(refused.header("date").unwrap()), "{refused:?}");
        }
        let mut old = sidecar.connect();
        old.write(b"GET /auth HTTP/1.0\r\n\r\n");
        assert!(is_now(old.answer("GET").header("date").unwrap()));
        for path in ["/livez", "/readyz", "/metrics", "/nothing", "/"] {
            assert!(is_now(sidecar.telemetry(path).header("date").unwrap()), "{path}");
        }
        for (method, path) in [("GET", "/status"), ("POST", "/nothing")] {
            let answer = Sidecar::connect_unix(&sidecar.setup.control_socket()).send(&Request::new(method, path));
            assert!(is_now(answer.header("date").unwrap()), "{path}");
        }
    }
}

/// The status line that an HTTP/1.1 client gets.
fn status_line(sidecar: &Sidecar) -> String {
    let mut client = sidecar.connect();
    client.write(&Request::get("/users").head());
    String::from_utf8(client.read_until(b"\r\n")).unwrap()
}

#[test]
fn a_status_without_a_standard_reason_has_the_upstreams_or_none() {
    let upstream = ManualHttp2::listen();
    let sidecar = upstream.setup().start();
    thread::scope(|scope| {
        let serving = scope.spawn(|| {
            let mut peer = upstream.accept(100);
            for status in ["600", "299", "200", "999"] {
                let (stream, _) = peer.request();
                peer.send(HEADERS, WHOLE, stream, &fields(&[(":status", status)]));
            }
        });
        for expected in ["HTTP/1.1 600 \r\n", "HTTP/1.1 299 \r\n", "HTTP/1.1 200 OK\r\n", "HTTP/1.1 999 \r\n"] {
            assert_eq!(status_line(&sidecar), expected);
        }
        drop(sidecar);
        serving.join().unwrap();
    });
    let simulator = simulator();
    for (theirs, ours) in [("600 Odd", "600 Odd"), ("600 ", "600 "), ("600", "600 "), ("200 Fine", "200 Fine")] {
        let upstream = RecordingUpstream::start(format!("HTTP/1.1 {theirs}\r\nContent-Length: 0\r\n\r\n"));
        let sidecar = upstream.setup(&simulator).start();
        assert_eq!(status_line(&sidecar), format!("HTTP/1.1 {ours}\r\n"));
    }
}

#[test]
fn a_blank_before_the_colon_hides_no_field() {
    let simulator = simulator();
    for blank in [" ", "\t", "  \t "] {
        let upstream = RecordingUpstream::start(format!(
            "HTTP/1.1 200 OK\r\nSet-Cookie{blank}: a=1\r\nAlt-Svc{blank}: h3=\":443\"\r\nX-Kept{blank}: b\r\n\
             Transfer-Encoding{blank}: chunked\r\nContent-Length{blank}: 1\r\n\r\n2\r\nok\r\n0\r\n\r\n"
        ));
        let sidecar = upstream.setup(&simulator).start();
        for mut client in clients(&sidecar) {
            let answer = client.get("/");
            assert_eq!((answer.status, answer.text(), answer.header("x-kept")), (200, "ok", Some("b")), "{answer:?}");
            for gone in ["set-cookie", "alt-svc", "content-length"] {
                assert_eq!(answer.header(gone), None, "{answer:?}");
            }
        }
        let doubtful = RecordingUpstream::start(format!("HTTP/1.1 200 OK\r\nTransfer-Encoding{blank}: gzip, chunked\r\n\r\n"));
        assert_eq!(doubtful.setup(&simulator).start().get("/").problem(), "upstream_protocol");
    }
    for malformed in [" X-First: a", ": a", "X Y: a", "X-A\r: a"] {
        let upstream =
            RecordingUpstream::start(format!("HTTP/1.1 200 OK\r\n{malformed}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"));
        assert_eq!(upstream.setup(&simulator).start().get("/").problem(), "upstream_protocol", "{malformed:?}");
    }
}

#[test]
fn an_options_that_may_not_be_passed_on_is_answered_here() {
    let simulator = simulator();
    let mut setup = Setup::new(&simulator);
    setup.api("deny", r#"["OPTIONS /denied/**"]"#);
    let sidecar = setup.start().ready();
    simulator.control().reset_counts();
    let ask = |method: &str, target: &str, hops: &str| Request::new(method, target).header("Max-Forwards", hops);
    for mut client in clients(&sidecar) {
        for hops in ["0", "00"] {
            let answer = client.send(&ask("OPTIONS", "/users", hops));
            assert_eq!((answer.status, answer.body.len(), answer.header("content-length")), (200, 0, Some("0")), "{answer:?}");
            assert_eq!(answer.header("allow"), Some("DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT"));
            assert!(is_now(answer.header("date").unwrap()) && answer.header("proxy-status").is_none());
        }
        // It is judged first, like every request.
        for (target, code) in [("/auth", "login_path"), ("/denied/1", "not_allowed")] {
            assert_eq!(client.send(&ask("OPTIONS", target, "0")).problem(), code);
        }
        assert_eq!(client.send(&ask("TRACE", "/users", "0")).problem(), "method_not_allowed");
        assert_eq!(client.send(&ask("OPTIONS", "/users", "0").header("Origin", "null")).problem(), "cross_site");
    }
    assert_eq!(simulator.control().counts().requests, 0);
    let lines = sidecar.wait_for_access_lines(11);
    assert!(lines.iter().any(|line| line["method"] == "OPTIONS" && line["status"] == 200 && line["code"].is_null()), "{lines:?}");
    for mut client in clients(&sidecar) {
        for (method, sent, arrives) in [
            ("OPTIONS", "1", "0"),
            ("OPTIONS", "10", "9"),
            ("OPTIONS", "007", "6"),
            ("OPTIONS", "18446744073709551615", "18446744073709551614"),
            ("OPTIONS", "99999999999999999999", "18446744073709551614"),
            // It is no number, or not about this method (RFC 9110, 7.6.2).
            ("OPTIONS", "-1", "-1"),
            ("OPTIONS", "+0", "+0"),
            ("OPTIONS", "0, 0", "0, 0"),
            ("OPTIONS", "many", "many"),
            ("OPTIONS", "", ""),
            ("GET", "0", "0"),
            ("POST", "5", "5"),
        ] {
            let answer = client.send(&ask(method, "/_sim/echo", sent));
            assert_eq!(answer.echoed("max-forwards"), [arrives], "{method} {sent}");
        }
        let twice = client.send(&ask("OPTIONS", "/_sim/echo", "0").header("Max-Forwards", "0"));
        assert_eq!(twice.echoed("max-forwards"), ["0", "0"]);
    }
}

#[test]
fn an_options_that_ends_here_needs_no_token_and_its_body_is_read() {
    let simulator: Simulator = simulator();
    simulator.control().hold_logins(true);
    let sidecar = Setup::new(&simulator).start();
    for mut client in clients(&sidecar) {
        for _ in 0..2 {
            let answer = client.send(&Request::new("OPTIONS", "/users").header("Max-Forwards", "0").body("unread"));
            assert_eq!((answer.status, answer.body.len()), (200, 0));
        }
    }
    simulator.control().hold_logins(false);
}

#[test]
fn an_answer_to_no_ping_leaves_no_trace_in_the_log() {
    let simulator = simulator();
    let sidecar = Sidecar::start(&simulator).ready();
    let mut raw = FrameClient::connect(sidecar.address());
    raw.write(&frame(PING, 1, 0, b"canary-8").repeat(50));
    raw.write(&frame(PING, 0, 0, b"all read"));
    while raw.next(PING).unwrap().payload != b"all read" {}
    raw.write(&frame(HEADERS, WHOLE, 1, &crate::harness::frames::get_fields("/_sim/echo", &[])));
    assert_eq!(raw.on(1).unwrap().kind, HEADERS);
    until("the request is logged", || sidecar.wait_for_access_lines(2).len() >= 2);
    let logs = sidecar.logs();
    assert!(!logs.to_lowercase().contains("ping") && !logs.contains("99, 97, 110") && !logs.contains("canary"), "{logs}");
}

#[test]
fn an_answer_that_never_has_content_has_none_over_http2_whatever_the_upstream_sends() {
    let upstream = ManualHttp2::listen();
    let sidecar = upstream.setup().start();
    thread::scope(|scope| {
        let serving = scope.spawn(|| {
            let mut peer = upstream.accept(100);
            for status in ["204", "304"] {
                let (stream, _) = peer.request();
                peer.send(HEADERS, END_HEADERS, stream, &fields(&[(":status", status)]));
                peer.send(BODY, END_STREAM, stream, b"surplus");
            }
        });
        for status in [204, 304] {
            let answer = Http2::connect(sidecar.address()).get("/users");
            assert_eq!((answer.status, answer.body.len(), answer.cut), (status, 0, false));
        }
        drop(sidecar);
        serving.join().unwrap();
    });
}
