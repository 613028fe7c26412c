//! Where a request ends: for each one upstream receives nothing, or one request framed by the sidecar.

use crate::harness::{OK, RecordingUpstream, Request, Setup, Sidecar, simulator};

/// Writes `bytes`, and reads until the connection ends.
fn told(sidecar: &Sidecar, bytes: &[u8]) -> String {
    let mut client = sidecar.connect();
    client.write(bytes);
    client.read_to_end().iter().map(|&byte| char::from(byte)).collect()
}

/// Parses `told`, which must be one answer.
fn only_status(told: &str) -> u16 {
    assert_eq!(told.matches("HTTP/1.1 ").count(), 1, "{told:?}");
    told.strip_prefix("HTTP/1.1 ").unwrap()[..3].parse().unwrap()
}

/// Asserts that the upstream got nothing of what was sent before.
fn assert_nothing_arrived(sidecar: &Sidecar, upstream: &RecordingUpstream) {
    assert_eq!(sidecar.get("/marker").status, 200);
    assert_eq!(upstream.lines(), ["GET /marker HTTP/1.1"]);
    assert_eq!(upstream.unfinished(), 0);
}

/// The lines of a head that frame the body, and the body.
fn framing(request: &str) -> (Vec<String>, String) {
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    let frames = |line: &&str| line.starts_with("content-length") || line.starts_with("transfer-encoding");
    (head.split("\r\n").filter(frames).map(str::to_owned).collect(), body.to_owned())
}

#[test]
fn a_body_of_known_length_goes_out_with_its_length() {
    let simulator = simulator();
    let upstream = RecordingUpstream::start(OK);
    let sidecar = upstream.setup(&simulator).start();
    for (written, length) in [("5", "5"), ("0005", "5")] {
        let mut client = sidecar.connect();
        client.write(format!("PUT / HTTP/1.1\r\nHost: localhost\r\nContent-Length: {written}\r\n\r\nfive!").as_bytes());
        assert_eq!(client.answer("PUT").status, 200);
        let request = upstream.requests().pop().unwrap();
        assert_eq!(framing(&request), (vec![format!("content-length: {length}")], "five!".to_owned()));
    }
}

#[test]
fn a_chunked_body_is_chunked_anew() {
    let simulator = simulator();
    let upstream = RecordingUpstream::start(OK);
    let sidecar = upstream.setup(&simulator).start();
    for coding in ["chunked", "Chunked", "CHUNKED", "\t chunked "] {
        let mut client = sidecar.connect();
        let body = "005;name=\"value\"\r\nfive!\r\n0;last\r\n\r\n";
        client.write(format!("POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding:{coding}\r\n\r\n{body}").as_bytes());
        assert_eq!(client.answer("POST").status, 200);
        let request = upstream.requests().pop().unwrap();
        let chunked = vec!["transfer-encoding: chunked".to_owned()];
        assert_eq!(framing(&request), (chunked, "5\r\nfive!\r\n0\r\n\r\n".to_owned()), "{coding:?}");
    }
}

#[test]
fn an_empty_body_stays_one() {
    let simulator = simulator();
    let upstream = RecordingUpstream::start(OK);
    let sidecar = upstream.setup(&simulator).start();
    let mut client = sidecar.connect();
    assert_eq!(client.send(&Request::post("/", "")).status, 200);
    assert_eq!(client.send(&Request::get("/")).status, 200);
    let requests = upstream.requests();
    // Some servers answer 411 to a POST that does not say that it has no body.
    assert_eq!(framing(&requests[0]), (vec!["content-length: 0".to_owned()], String::new()));
    assert_eq!(framing(&requests[1]), (vec![], String::new()));
}

#[test]
fn pipelined_requests_are_separate_requests_answered_in_order() {
    let simulator = simulator();
    let upstream = RecordingUpstream::start(OK);
    let sidecar = upstream.setup(&simulator).start();
    let mut client = sidecar.connect();
    client.write(
        b"GET /one HTTP/1.1\r\nHost: localhost\r\n\r\n\
          POST /two HTTP/1.1\r\nHost: localhost\r\nContent-Length: 30\r\n\r\nGET /body HTTP/1.1\r\nHost: x\r\n\r\n\
          POST /three HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n\
          GET /auth HTTP/1.1\r\nHost: localhost\r\n\r\n\
          GET /five HTTP/1.1\r\nHost: localhost\r\nAuthorization: forged\r\n\r\n",
    );
    let statuses: Vec<u16> = (0..5).map(|_| client.answer("GET").status).collect();
    assert_eq!(statuses, [200, 200, 200, 403, 200]);
    assert_eq!(upstream.lines(), ["GET /one HTTP/1.1", "POST /two HTTP/1.1", "POST /three HTTP/1.1", "GET /five HTTP/1.1"]);
    let token = simulator.control().last_token().unwrap();
    for request in upstream.requests() {
        let credentials: Vec<&str> = request.split("\r\n").filter(|line| line.starts_with("authorization: ")).collect();
        assert_eq!(credentials, [format!("authorization: Bearer {token}")]);
    }
}

#[test]
fn any_other_transfer_encoding_is_400_and_ends_the_connection() {
    let simulator = simulator();
    let upstream = RecordingUpstream::start(OK);
    let sidecar = upstream.setup(&simulator).start();
    for coding in [
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: chunked, chunked",
        "Transfer-Encoding: chunked, gzip",
        "Transfer-Encoding: gzip",
        "Transfer-Encoding: identity",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: chunked;q=1",
        "Transfer-Encoding: \"chunked\"",
        "Transfer-Encoding: chunked,",
        "Transfer-Encoding: ,chunked",
        "Transfer-Encoding: \x0bchunked",
        "Transfer-Encoding:",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding : chunked",
        "Transfer-Encoding: chun\r\n ked",
        "Content-Length: 5\r\nTransfer-Encoding: gzip, chunked",
    ] {
        let request = format!(
            "POST /refused HTTP/1.1\r\nHost: localhost\r\n{coding}\r\n\r\n0\r\n\r\n\
             GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n"
        );
        assert_eq!(only_status(&told(&sidecar, request.as_bytes())), 400, "{coding:?}");
    }
    assert_nothing_arrived(&sidecar, &upstream);
}

#[test]
fn a_doubtful_content_length_is_400_and_ends_the_connection() {
    let simulator = simulator();
    let upstream = RecordingUpstream::start(OK);
    let sidecar = upstream.setup(&simulator).start();
    for length in [
        "Content-Length: 5\r\nContent-Length: 6",
        "Content-Length: 5, 6",
        "Content-Length: +5",
        "Content-Length: -5",
        "Content-Length: 0x5",
        "Content-Length: 5 5",
        "Content-Length: five",
        "Content-Length:",
        "Content-Length: 18446744073709551621",
        "Content-Length : 5",
    ] {
        let request = format!(
            "POST /refused HTTP/1.1\r\nHost: localhost\r\n{length}\r\n\r\nfive!GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
        );
        assert_eq!(only_status(&told(&sidecar, request.as_bytes())), 400, "{length:?}");
    }
    assert_nothing_arrived(&sidecar, &upstream);
}

#[test]
fn transfer_encoding_beside_content_length_wins_and_the_connection_closes() {
    let simulator = simulator();
    let upstream = RecordingUpstream::start(OK);
    let sidecar = upstream.setup(&simulator).start();
    for both in ["Content-Length: 3\r\nTransfer-Encoding: chunked", "Transfer-Encoding: chunked\r\nContent-Length: 3"] {
        let request = format!(
            "POST /both HTTP/1.1\r\nHost: localhost\r\n{both}\r\n\r\n5\r\nfive!\r\n0\r\n\r\n\
             GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n"
        );
        assert_eq!(only_status(&told(&sidecar, request.as_bytes())), 200, "{both:?}");
        let request = upstream.requests().pop().unwrap();
        assert_eq!(framing(&request), (vec!["transfer-encoding: chunked".to_owned()], "5\r\nfive!\r\n0\r\n\r\n".to_owned()));
    }
    assert_eq!(upstream.lines(), ["POST /both HTTP/1.1", "POST /both HTTP/1.1"]);
}

#[test]
fn what_is_not_http_gets_a_bare_answer_and_a_closed_connection() {
    let simulator = simulator();
    let upstream = RecordingUpstream::start(OK);
    let mut setup = upstream.setup(&simulator);
    // Room for a target that is longer than any.
    setup.api("max_header_bytes", "80KiB");
    let sidecar = setup.start();
    let many: String = (0..300).map(|number| format!("X-{number}: 1\r\n")).collect();
    for (status, request) in [
        (400, "nonsense\r\n\r\n".to_owned()),
        (400, "GET /\r\n\r\n".to_owned()),
        (400, "GET / HTTP/9.9\r\n\r\n".to_owned()),
        (400, "GET /a b HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned()),
        (400, "GET / HTTP/1.1\r\nHost: localhost\r\nX-Split: a\r\n b\r\n\r\n".to_owned()),
        (400, "GET / HTTP/1.1\r\nHost: localhost\r\nX-Space : a\r\n\r\n".to_owned()),
        (400, "GET / HTTP/1.1\r\nHost: localhost\r\nX-Nul: a\0b\r\n\r\n".to_owned()),
        (400, "GET / HTTP/1.1\r\nHost: localhost\r\nX-Bare-Cr: a\rb\r\n\r\n".to_owned()),
        (400, "GET / HTTP/1.1\r\nHost: localhost\r\nno colon\r\n\r\n".to_owned()),
        (400, "GET / HTTP/1.1\r\nHost: localhost\r\n: no name\r\n\r\n".to_owned()),
        (414, format!("GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "p".repeat(65_534))),
        (431, format!("GET / HTTP/1.1\r\nHost: localhost\r\n{many}\r\n")),
        (431, format!("GET / HTTP/1.1\r\nHost: localhost\r\nX-Long: {}\r\n\r\n", "v".repeat(100_000))),
    ] {
        let shown: String = request.chars().take(60).collect();
        let mut told = told(&sidecar, request.as_bytes()).to_ascii_lowercase();
        assert!(told.starts_with(&format!("http/1.1 {status} ")), "{shown:?}: {told:?}");
        assert!(told.ends_with("\r\n\r\n"), "no body: {told:?}");
        // Nothing of what was asked, and nothing of ours.
        told = told.split_once("\r\n").unwrap().1.replace("content-length: 0\r\n", "").replace("connection: close\r\n", "");
        let lines: Vec<&str> = told.split("\r\n").filter(|line| !line.starts_with("date: ")).collect();
        assert_eq!(lines, ["", ""], "{shown:?}");
    }
    assert_nothing_arrived(&sidecar, &upstream);
}

#[test]
fn the_size_of_a_head_is_limited_as_configured() {
    let simulator = simulator();
    let mut setup = Setup::new(&simulator);
    setup.api("max_header_bytes", "9KiB").api("max_headers", "20");
    let sidecar = setup.start();
    let sized = |bytes: usize| Request::get("/_sim/echo").header("X-Long", &"v".repeat(bytes));
    let many = |count: usize| (0..count).fold(Request::get("/_sim/echo"), |request, n| request.header(&format!("X-{n}"), "1"));
    for (request, status) in [(sized(9000), 200), (sized(9300), 431), (sized(60_000), 431), (many(19), 200), (many(20), 431)] {
        assert_eq!(sidecar.send(&request).status, status, "{} bytes", request.head().len());
    }
    for (query, status) in [("count=1&size=9000", 200), ("count=1&size=9300", 502), ("count=15", 200), ("count=20", 502)] {
        assert_eq!(sidecar.get(&format!("/_sim/headers?{query}")).status, status, "{query}");
    }
}

#[test]
fn a_broken_chunk_ends_the_request_and_the_connection() {
    let simulator = simulator();
    let upstream = RecordingUpstream::start(OK);
    let sidecar = upstream.setup(&simulator).start();
    for body in
        ["x\r\nfive!\r\n0\r\n\r\n", "5\r\nfive!too much\r\n0\r\n\r\n", "-5\r\nfive!\r\n0\r\n\r\n", "fffffffffffffffff\r\n"]
    {
        let request = format!(
            "POST /broken HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n{body}\
             GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n"
        );
        let told = told(&sidecar, request.as_bytes());
        assert!(told.is_empty() || only_status(&told) == 400, "{body:?}: {told:?}");
    }
    // Upstream may have seen the beginning of each, but no end.
    assert_eq!(sidecar.get("/marker").status, 200);
    assert_eq!(upstream.lines(), ["GET /marker HTTP/1.1"]);
}
