//! HTTP/2 by prior knowledge, on the listeners that serve HTTP/1.x.

use std::{net::Shutdown, time::Duration};

use rustix::process::Signal;

use crate::harness::{
    Http2, PATIENCE, Request, Setup, Sidecar,
    frames::{
        BODY, CONTINUATION, END_HEADERS, END_STREAM, FrameClient, GOAWAY, HEADERS, PING, PREFACE, RST_STREAM, SETTINGS, fields,
        frame, get_fields,
    },
    let_time_pass, never, now, pattern, seen, simulator, until, until_seen,
};

const MIB: u64 = 1024 * 1024;
const PROTOCOL_ERROR: u32 = 1;
const REFUSED_STREAM: u32 = 7;
const ENHANCE_YOUR_CALM: u32 = 11;

#[test]
fn one_listener_serves_http2_and_http1() {
    let simulator = simulator();
    let sidecar = Sidecar::start(&simulator);
    let mut client = Http2::connect(sidecar.address());
    for _ in 0..3 {
        let answer = client.get("/_sim/echo?a=b");
        assert_eq!((answer.status, answer.json()["target"].as_str()), (200, Some("/_sim/echo?a=b")));
        assert!(answer.echoed("authorization")[0].starts_with("Bearer "));
        assert_eq!(answer.echoed("organization"), ["demo"]);
        assert_eq!(sidecar.get("/_sim/echo").status, 200);
    }
    let upstream = simulator.base_url().replace("https://", "");
    assert_eq!(seen(&simulator, "/_sim/echo").unwrap().authority, upstream);
}

#[test]
fn a_unix_socket_serves_http2_too() {
    let simulator = simulator();
    let mut setup = Setup::new(&simulator);
    let path = setup.dir.path().join("api.sock");
    setup.variable("CAREPORTALS_LISTEN", &format!("unix:{}", path.display()));
    let sidecar = setup.start();
    let mut client = Sidecar::connect_unix(&path);
    client.write(&[PREFACE, &frame(SETTINGS, 0, 0, &[]), &frame(HEADERS, 5, 1, &get_fields("/_sim/echo", &[]))].concat());
    // Its answer ends with the stream of the simulator's document.
    client.read_until(b"\"target\":\"/_sim/echo\"");
    let line = sidecar.wait_for_access_lines(1).remove(0);
    assert_eq!((line["status"].as_u64(), line["path"].as_str()), (Some(200), Some("/{…}/{…}")));
    assert!(line["uid"].is_u64(), "{line}");
}

#[test]
fn the_preface_may_come_in_pieces() {
    let simulator = simulator();
    let sidecar = Sidecar::start(&simulator).ready();
    let mut raw = FrameClient::silent(sidecar.address());
    for byte in [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat() {
        raw.write(&[byte]);
        let_time_pass("each byte is read by itself", Duration::from_millis(5));
    }
    raw.write(&frame(HEADERS, END_STREAM | END_HEADERS, 1, &get_fields("/_sim/status/204", &[])));
    let head = raw.on(1).unwrap();
    assert_eq!((head.kind, head.flags & END_STREAM), (HEADERS, END_STREAM));
}

#[test]
fn what_only_begins_like_the_preface_is_http1() {
    let simulator = simulator();
    let sidecar = Sidecar::start(&simulator).ready();
    let mut client = sidecar.connect();
    for piece in ["P", "O", "ST /_sim/echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\nok"] {
        client.write(piece.as_bytes());
        let_time_pass("each piece is read by itself", Duration::from_millis(50));
    }
    assert_eq!(client.answer("POST").json()["body"], "ok");
    assert_eq!(client.send(&Request::get("/_sim/echo")).status, 200);

    let mut client = sidecar.connect();
    client.write(b"PRI * HTTP/2.0\r\n\r\nXX");
    assert_eq!(client.head().status, 400);
    assert!(client.is_closed());

    // Half of it, and no more.
    let mut client = sidecar.connect();
    client.write(b"PRI * HT");
    client.finish_writing();
    client.read_to_end();
}

#[test]
fn head_timeout_runs_until_the_first_whole_request() {
    let simulator = simulator();
    let mut setup = Setup::new(&simulator);
    setup.api("head_timeout", "300ms");
    let sidecar = setup.start().ready();
    for beginning in [&PREFACE[..5], PREFACE, &[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()] {
        let start = now();
        let mut raw = FrameClient::silent(sidecar.address());
        raw.write(beginning);
        raw.last_words();
        assert!(start.elapsed() >= Duration::from_millis(300));
        assert!(start.elapsed() < PATIENCE / 2);
    }
    // A connection that has asked something may be idle for longer.
    let mut client = Http2::connect(sidecar.address());
    assert_eq!(client.get("/_sim/echo").status, 200);
    client.stay_for("the connection is idle for longer than `head_timeout`", Duration::from_millis(700));
    assert_eq!(client.get("/_sim/echo").status, 200);
}

#[test]
fn bodies_are_byte_identical_both_ways() {
    let simulator = simulator();
    let sidecar = Sidecar::start(&simulator);
    let mut client = Http2::connect(sidecar.address());
    let size = 3 * MIB + 12_345;
    let body = pattern(size);
    for chunked in [0, 1] {
        let answer = client.get(&format!("/_sim/download?bytes={size}&chunked={chunked}"));
        assert!(!answer.cut && answer.body == body, "{} bytes", answer.body.len());
        assert_eq!(answer.header("transfer-encoding"), None);
    }
    let counted = client.send(&Request::post("/_sim/upload?counted", body.clone()));
    let mut stream = client.open(&Request::new("POST", "/_sim/upload?open"), false);
    client.write(&mut stream, &body, true);
    for answer in [counted, client.answer(stream)] {
        assert_eq!((answer.json()["bytes"].as_u64(), answer.json()["pattern_ok"].as_bool()), (Some(size), Some(true)));
    }
    assert_eq!(seen(&simulator, "/_sim/upload?counted").unwrap().values("content-length"), [size.to_string()]);
    assert_eq!(seen(&simulator, "/_sim/upload?open").unwrap().values("transfer-encoding"), ["chunked"]);
}

#[test]
fn many_requests_are_served_at_once_on_one_connection() {
    let simulator = simulator();
    let control = simulator.control();
    let sidecar = Sidecar::start(&simulator).ready();
    control.reset_counts();
    control.hold_requests(true);
    let mut client = Http2::connect(sidecar.address());
    let streams: Vec<_> = (0..20).map(|number| client.open(&Request::get(&format!("/_sim/echo?{number}")), true)).collect();
    client.turn();
    until("the upstream has got 20 requests", || control.counts().requests == 20);
    control.hold_requests(false);
    for (number, stream) in streams.into_iter().enumerate() {
        assert_eq!(client.answer(stream).json()["target"], format!("/_sim/echo?{number}"));
    }
}

#[test]
fn the_authority_is_judged_as_host() {
    let simulator = simulator();
    let sidecar = Sidecar::start(&simulator).ready();
    let mut client = Http2::connect(sidecar.address());
    let request = Request::get("/_sim/echo");
    let evil = client.open_at("http://evil.example/_sim/echo", &request, true);
    let secure = client.open_at("https://localhost/_sim/echo", &request, true);
    let twice = client.open(&request.clone().header("host", "evil.example"), true);
    let same = client.open(&request.clone().header("host", "localhost"), true);
    for (stream, status, code) in [(evil, 421, "host_not_allowed"), (twice, 400, "bad_host")] {
        let answer = client.answer(stream);
        assert_eq!((answer.status, answer.problem().as_str()), (status, code));
    }
    assert_eq!(client.answer(secure).status, 200);
    assert_eq!(client.answer(same).status, 200);

    let mut raw = FrameClient::connect(sidecar.address());
    raw.write(&frame(HEADERS, 5, 1, &fields(&[(":method", "GET"), (":scheme", "http"), (":path", "/_sim/echo")])));
    let head = raw.next(HEADERS).unwrap();
    // An indexed field (RFC 7541, 6.1), the twelfth of appendix A: `:status: 400`.
    assert_eq!(head.payload[0], 0x8c, "{head:?}");
}

#[test]
fn an_http2_request_is_refused_for_the_same_reasons_as_any() {
    let simulator = simulator();
    let control = simulator.control();
    let sidecar = Sidecar::start(&simulator).ready();
    control.reset_counts();
    let mut client = Http2::connect(sidecar.address());
    for (request, status, code) in [
        (Request::new("TRACE", "/_sim/echo"), 405, "method_not_allowed"),
        (Request::post("/patient/auth", "{}"), 403, "login_path"),
        (Request::get("/_sim/echo").header("origin", "http://evil.example"), 403, "cross_site"),
        (Request::get("/_sim/echo").header("sec-fetch-site", "cross-site"), 403, "cross_site"),
        (Request::get("/_sim/echo").header("expect", "the-unexpected"), 417, "expectation_failed"),
    ] {
        let answer = client.send(&request);
        assert_eq!((answer.status, answer.problem().as_str()), (status, code), "{request:?}");
        assert_eq!(answer.header("connection"), None);
    }
    let connect = client.open_at("localhost:443", &Request::new("CONNECT", ""), true);
    let answer = client.answer(connect);
    assert_eq!((answer.status, answer.problem().as_str()), (405, "method_not_allowed"));
    assert!(answer.header("allow").is_some());
    assert_eq!(client.get("/_sim/status/404").header("proxy-status"), None);
    assert_eq!(control.counts().requests, 1);
}

#[test]
fn cookies_in_pieces_arrive_as_one() {
    let simulator = simulator();
    let mut setup = Setup::new(&simulator);
    setup.api("cookies", "pass");
    let sidecar = setup.start();
    let request = Request::get("/_sim/echo").header("cookie", "a=1").header("cookie", "b=2").header("cookie", "c=3");
    assert_eq!(Http2::connect(sidecar.address()).send(&request).echoed("cookie"), ["a=1; b=2; c=3"]);
}

#[test]
fn fields_of_a_connection_are_an_error_of_their_stream_alone() {
    let simulator = simulator();
    let control = simulator.control();
    let sidecar = Sidecar::start(&simulator).ready();
    control.reset_counts();
    let mut raw = FrameClient::connect(sidecar.address());
    let forbidden = [
        ("connection", "close"),
        ("keep-alive", "1"),
        ("proxy-connection", "close"),
        ("transfer-encoding", "chunked"),
        ("upgrade", "websocket"),
        ("te", "gzip"),
    ];
    let mut stream = 1;
    for (name, value) in forbidden {
        raw.write(&frame(HEADERS, 5, stream, &get_fields("/_sim/echo", &[(name, value)])));
        let reset = raw.on(stream).unwrap();
        assert_eq!((reset.kind, reset.payload.as_slice()), (RST_STREAM, &PROTOCOL_ERROR.to_be_bytes()[..]), "{name}");
        stream += 2;
    }
    assert_eq!(control.counts().requests, 0);
    raw.write(&frame(HEADERS, 5, stream, &get_fields("/_sim/echo", &[("te", "trailers")])));
    assert_eq!(raw.on(stream).unwrap().kind, HEADERS);
}

#[test]
fn an_answer_has_no_field_of_a_connection() {
    let simulator = simulator();
    let sidecar = Sidecar::start(&simulator);
    let mut client = Http2::connect(sidecar.address());
    for answer in [client.get("/_sim/hop-by-hop"), client.get("/_sim/sse?events=1"), client.get("/_sim/cookies")] {
        for name in ["connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade", "te", "set-cookie"] {
            assert_eq!(answer.header(name), None, "{answer:?}");
        }
    }
    let head = client.send(&Request::new("HEAD", "/_sim/download?bytes=1234567"));
    assert_eq!((head.status, head.header("content-length"), head.body.len()), (200, Some("1234567"), 0));
}

#[test]
fn a_head_over_the_limits_is_a_431_of_its_stream_alone() {
    let simulator = simulator();
    let control = simulator.control();
    let mut setup = Setup::new(&simulator);
    setup.api("max_header_bytes", "8KiB").api("max_headers", "20");
    let sidecar = setup.start().ready();
    control.reset_counts();
    let mut client = Http2::connect(sidecar.address());
    let large = |bytes| Request::get("/_sim/echo").header("x-filling", &"f".repeat(bytes));
    let with =
        |lines: usize| (0..lines).fold(Request::get("/_sim/echo"), |request, line| request.header(&format!("x-{line}"), "1"));
    for refused in [large(9 * 1024), with(21)] {
        let answer = client.send(&refused);
        assert_eq!((answer.status, answer.body.len(), answer.header("content-type")), (431, 0, None));
    }
    assert_eq!(control.counts().requests, 0);
    assert_eq!(client.send(&large(7 * 1024)).status, 200);
    assert_eq!(client.send(&with(20)).status, 200);
}

#[test]
fn beyond_max_requests_a_stream_is_told_503() {
    let simulator = simulator();
    let control = simulator.control();
    let mut setup = Setup::new(&simulator);
    setup.api("max_requests", "2");
    let sidecar = setup.start().ready();
    control.reset_counts();
    control.hold_requests(true);
    let mut client = Http2::connect(sidecar.address());
    let held = [1, 2].map(|_| client.open(&Request::get("/_sim/echo"), true));
    client.turn();
    until("the upstream has got two requests", || control.counts().requests == 2);
    assert_eq!(client.get("/_sim/echo").problem(), "too_many_requests_in_flight");
    control.hold_requests(false);
    for stream in held {
        assert_eq!(client.answer(stream).status, 200);
    }
    assert_eq!(client.get("/_sim/echo").status, 200);
}

#[test]
fn a_stream_that_is_reset_ends_its_exchange_and_no_other() {
    let simulator = simulator();
    let sidecar = Sidecar::start(&simulator);
    let mut client = Http2::connect(sidecar.address());
    let hanging = client.open(&Request::get("/_sim/hang"), true);
    let mut half = client.open(&Request::new("POST", "/_sim/upload"), false);
    client.write(&mut half, b"half", false);
    client.turn();
    until_seen("the request arrives", &simulator, "/_sim/hang", |_| true);
    until_seen("half of the body arrives", &simulator, "/_sim/upload", |seen| seen.body_bytes == 4);
    client.reset(hanging);
    client.reset(half);
    until_seen("the exchange is over", &simulator, "/_sim/hang", |seen| seen.over);
    until_seen("the exchange is over and its body incomplete", &simulator, "/_sim/upload", |seen| seen.over && !seen.complete);
    assert_eq!(client.get("/_sim/echo").status, 200);
    let lines = sidecar.wait_for_access_lines(3);
    assert_eq!(lines.iter().filter(|line| line["status"] == 499 && line["cut"] == "client_closed").count(), 2, "{lines:?}");
}

#[test]
fn a_truncated_body_is_a_reset_stream_and_the_connection_lives_on() {
    let simulator = simulator();
    let sidecar = Sidecar::start(&simulator);
    let mut client = Http2::connect(sidecar.address());
    for query in ["after=5000&of=9000", "after=5000&chunked=1", "after=0&of=10"] {
        let answer = client.get(&format!("/_sim/reset?{query}&how=close"));
        assert_eq!((answer.status, answer.cut), (200, true), "{query}: {} bytes and a clean end", answer.body.len());
    }
    assert_eq!(client.get("/_sim/echo").status, 200);
}

#[test]
fn a_slow_reader_holds_back_its_own_stream_and_no_other() {
    let simulator = simulator();
    let sidecar = Sidecar::start(&simulator).ready();
    let mut roomy = h2::client::Builder::new();
    roomy.initial_connection_window_size(1024 * 1024);
    let mut client = Http2::with(sidecar.address(), &roomy);
    let path = format!("/_sim/download?bytes={}", 1024 * MIB);
    let slow = client.open(&Request::get(&path), true);
    let mut slow = client.head(slow);
    assert!(!client.read_some(&mut slow).unwrap().is_empty());
    // The client's window for that stream is full, its connection's is not.
    let runs_ahead = || seen(&simulator, &path).is_some_and(|seen| seen.answer_bytes > 24 * MIB);
    never("the upstream runs ahead of the reader", Duration::from_millis(300), runs_ahead);
    assert_eq!(client.get("/_sim/echo").status, 200);
    let mut read = 0;
    while read < 16 * MIB {
        read += client.read_some(&mut slow).unwrap().len() as u64;
    }
    assert!(sidecar.peak_memory_kib() < 12 * 1024, "{} KiB", sidecar.peak_memory_kib());
}

#[test]
fn a_slow_upstream_holds_back_its_own_stream_and_no_other() {
    let simulator = simulator();
    let sidecar = Sidecar::start(&simulator).ready();
    let mut client = Http2::connect(sidecar.address());
    let mut stuck = client.open(&Request::new("POST", "/_sim/slow-read?bytes_per_second=1"), false);
    let (piece, mut written) = (vec![0; 256 * 1024], 0);
    while client.try_write(&mut stuck, &piece, false, Duration::from_millis(300)) {
        written += piece.len() as u64;
        assert!(written < 32 * MIB, "nobody reads that");
    }
    let answer = client.send(&Request::post("/_sim/upload", pattern(MIB)));
    assert_eq!(answer.json()["pattern_ok"], true);
    assert!(sidecar.peak_memory_kib() < 12 * 1024, "{} KiB", sidecar.peak_memory_kib());
}

#[test]
fn a_client_that_pauses_in_its_body_is_told_408_and_its_connection_lives_on() {
    let simulator = simulator();
    let mut setup = Setup::new(&simulator);
    setup.api("body_idle", "300ms").api("response_timeout", "300ms");
    let sidecar = setup.start().ready();
    let mut client = Http2::connect(sidecar.address());
    let mut paused = client.open(&Request::new("POST", "/_sim/echo"), false);
    client.write(&mut paused, b"sl", false);
    let answer = client.answer(paused);
    assert_eq!((answer.status, answer.problem().as_str()), (408, "request_body_timeout"));
    assert_eq!(answer.header("connection"), None);
    assert_eq!(client.get("/_sim/hang").problem(), "upstream_timeout");
    let silent = client.get("/_sim/drip?bytes=2&interval_ms=3600000");
    assert_eq!((silent.status, silent.body.len(), silent.cut), (200, 1, true));
    assert_eq!(client.get("/_sim/drip?bytes=8&interval_ms=100").body.len(), 8);
}

#[test]
fn a_client_that_reads_slowly_does_not_trip_body_idle() {
    let simulator = simulator();
    let mut setup = Setup::new(&simulator);
    setup.api("body_idle", "300ms");
    let sidecar = setup.start().ready();
    let mut client = Http2::connect(sidecar.address());
    let bytes = 24 * MIB;
    let stream = client.open(&Request::get(&format!("/_sim/download?bytes={bytes}")), true);
    let answering = client.head(stream);
    client.stay_for("the client does not read for longer than `body_idle`", Duration::from_millis(700));
    assert!(seen(&simulator, "/_sim/download").unwrap().answer_bytes < bytes, "held back by the client");
    let answer = client.rest(answering);
    assert_eq!((answer.body.len() as u64, answer.cut), (bytes, false));
}

#[test]
fn an_event_stream_is_held_to_stream_idle_instead() {
    let simulator = simulator();
    let mut setup = Setup::new(&simulator);
    setup.api("stream_idle", "300ms");
    let sidecar = setup.start().ready();
    assert!(Http2::connect(sidecar.address()).get("/_sim/sse?events=2&interval_ms=3600000").cut);
    let mut setup = Setup::new(&simulator);
    setup.api("body_idle", "300ms");
    let sidecar = setup.start().ready();
    let mut client = Http2::connect(sidecar.address());
    let stream = client.open(&Request::get("/_sim/sse?events=2&interval_ms=900"), true);
    let mut answering = client.head(stream);
    assert!(!client.read_some(&mut answering).unwrap().is_empty(), "the first event is not held back");
    assert!(!client.rest(answering).cut);
}

#[test]
fn an_early_answer_ends_the_upload_and_nothing_else() {
    let simulator = simulator();
    let sidecar = Sidecar::start(&simulator).ready();
    let mut client = Http2::connect(sidecar.address());
    let mut stream = client.open(&Request::new("POST", "/_sim/early?status=413"), false);
    client.write(&mut stream, &pattern(1000), false);
    assert_eq!(client.answer(stream).status, 413);
    for _ in 0..3 {
        assert_eq!(client.get("/_sim/echo").status, 200);
    }
}

#[test]
fn on_sigterm_streams_finish_and_an_idle_connection_is_told_to_go() {
    let simulator = simulator();
    let control = simulator.control();
    let mut sidecar = Sidecar::start(&simulator).ready();
    let (mut busy, mut idle) = (Http2::connect(sidecar.address()), Http2::connect(sidecar.address()));
    assert_eq!(idle.get("/_sim/echo").status, 200);
    // One that never answers our PING does not hold the drain up.
    let mut mute = FrameClient::connect(sidecar.address());
    mute.write(&frame(HEADERS, 5, 1, &get_fields("/_sim/status/204", &[])));
    mute.next(HEADERS).unwrap();
    control.reset_counts();
    control.hold_requests(true);
    let stream = busy.open(&Request::get("/_sim/echo"), true);
    busy.turn();
    until("the upstream has got one request", || control.counts().requests == 1);
    sidecar.signal(Signal::TERM);
    sidecar.wait_for_log("draining");
    idle.closed().unwrap();
    control.hold_requests(false);
    assert_eq!(busy.answer(stream).status, 200);
    busy.closed().unwrap();
    assert_eq!(mute.last_words(), Some(0));
    assert_eq!(sidecar.wait().code(), Some(0));
    assert!(!sidecar.logs().contains("the drain time ran out"));
}

/// A client that is served while another one misbehaves.
fn assert_unaffected(sidecar: &Sidecar) {
    assert_eq!(sidecar.get("/_sim/echo").status, 200);
    assert_eq!(Http2::connect(sidecar.address()).get("/_sim/echo").status, 200);
    assert!(sidecar.peak_memory_kib() < 20 * 1024, "{} KiB", sidecar.peak_memory_kib());
}

#[test]
fn streams_over_the_limit_are_refused() {
    let simulator = simulator();
    let control = simulator.control();
    control.hold_logins(true);
    let sidecar = Sidecar::start(&simulator);
    let mut raw = FrameClient::connect(sidecar.address());
    let mut request = |number: u32| raw.write(&frame(HEADERS, 5, 2 * number + 1, &get_fields("/_sim/echo", &[])));
    (0..100).for_each(&mut request);
    request(100);
    let reset = raw.next(RST_STREAM).unwrap();
    assert_eq!((reset.stream, reset.payload.as_slice()), (201, &REFUSED_STREAM.to_be_bytes()[..]));
    raw.0.shutdown(Shutdown::Both).unwrap();
    control.hold_logins(false);
    assert_eq!(sidecar.get("/_sim/echo").status, 200);
}

#[test]
fn rapid_resets_end_the_connection() {
    let simulator = simulator();
    let control = simulator.control();
    let sidecar = Sidecar::start(&simulator).ready();
    control.reset_counts();
    let mut raw = FrameClient::connect(sidecar.address());
    let mut pairs = Vec::new();
    for number in 0..2000 {
        pairs.extend(frame(HEADERS, 5, 2 * number + 1, &get_fields("/_sim/hang", &[])));
        pairs.extend(frame(RST_STREAM, 0, 2 * number + 1, &8_u32.to_be_bytes()));
    }
    raw.flood(&pairs, PATIENCE, pairs.len());
    assert_eq!(raw.last_words(), Some(ENHANCE_YOUR_CALM));
    assert!(control.counts().requests < 100, "{}", control.counts().requests);
    assert_unaffected(&sidecar);
}

/// Opens a stream, waits until its request was taken up, and resets it. Returns whether GOAWAY came meanwhile, or `None` once
/// the connection is closed.
fn abandon(raw: &mut FrameClient, stream: u32) -> Option<bool> {
    let (mut going, pause) = (false, Duration::from_secs(1));
    let asked = [frame(HEADERS, 5, stream, &get_fields("/_sim/echo", &[])), frame(PING, 0, 0, b"taken up")].concat();
    raw.flood(&asked, pause, asked.len());
    loop {
        let frame = raw.read()?;
        going |= frame.kind == GOAWAY;
        if frame.kind == PING && frame.payload == b"taken up" {
            break;
        }
    }
    let reset = frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes());
    raw.flood(&reset, pause, reset.len());
    Some(going)
}

#[test]
fn a_client_that_resets_one_stream_after_the_other_is_sent_goaway_and_then_cut() {
    let simulator = simulator();
    let control = simulator.control();
    control.hold_logins(true);
    let sidecar = Sidecar::start(&simulator);
    let mut raw = FrameClient::connect(sidecar.address());
    let said: Vec<bool> = (0..400).map_while(|number| abandon(&mut raw, 2 * number + 1)).collect();
    let asked = said.iter().position(|going| *going).unwrap();
    assert!((100..110).contains(&asked), "{asked}");
    assert!((200..210).contains(&said.len()), "{}", said.len());
    control.hold_logins(false);
    assert_unaffected(&sidecar);
}

#[test]
fn a_client_that_lets_most_streams_finish_may_reset_the_others() {
    let simulator = simulator();
    simulator.control().hold_logins(true);
    let sidecar = Sidecar::start(&simulator);
    let mut raw = FrameClient::connect(sidecar.address());
    for number in 0..150 {
        assert_eq!(abandon(&mut raw, 6 * number + 1), Some(false), "{number}");
        for refused in [6 * number + 3, 6 * number + 5] {
            raw.write(&frame(HEADERS, 5, refused, &get_fields("/patient/auth", &[])));
            while raw.on(refused).unwrap().flags & END_STREAM == 0 {}
        }
    }
}

#[test]
fn a_flood_of_continuations_ends_the_connection() {
    let simulator = simulator();
    let sidecar = Sidecar::start(&simulator).ready();
    for piece in [&b""[..], &fields(&[("x-more", &"m".repeat(16_000))])] {
        let mut raw = FrameClient::connect(sidecar.address());
        raw.write(&frame(HEADERS, END_STREAM, 1, &get_fields("/_sim/echo", &[])));
        let taken = raw.flood(&frame(CONTINUATION, 0, 1, piece), PATIENCE, 64 * 1024 * 1024);
        assert!(taken < 64 * 1024 * 1024);
        raw.last_words();
        assert_unaffected(&sidecar);
    }
}

#[test]
fn floods_of_settings_and_pings_cost_no_memory_and_nobody_else() {
    let simulator = simulator();
    let sidecar = Sidecar::start(&simulator).ready();
    let settings = frame(SETTINGS, 0, 0, &[0, 4, 0, 1, 0, 0]).repeat(1000);
    let pings = frame(PING, 0, 0, b"flooding").repeat(1000);
    for flood in [settings, pings] {
        // The client does not read the answers, so in the end the sidecar does not read the requests.
        let mut raw = FrameClient::connect(sidecar.address());
        raw.write(&frame(HEADERS, 5, 1, &get_fields("/_sim/status/204", &[])));
        let taken = raw.flood(&flood, Duration::from_millis(300), 256 * 1024 * 1024);
        assert!(taken < 256 * 1024 * 1024);
        assert_unaffected(&sidecar);
    }
}

#[test]
fn the_log_says_the_same_as_of_http1() {
    let simulator = simulator();
    let sidecar = Sidecar::start(&simulator).ready();
    let request = Request::post("/users/account?q=secret", "12345").header("x-request-id", "mine-1");
    let mut client = Http2::connect(sidecar.address());
    let (second, first) = (client.send(&request), sidecar.send(&request));
    assert_eq!(first.status, second.status);
    let mut lines = sidecar.wait_for_access_lines(3);
    lines.retain(|line| line["request_id"] == "mine-1");
    for line in &mut lines {
        let line = line.as_object_mut().unwrap();
        for changing in ["timestamp", "duration_us", "upstream_first_byte_us"] {
            assert!(line.remove(changing).is_some(), "{line:?}");
        }
    }
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[0], lines[1]);
}

#[test]
fn a_304_ends_with_its_head_and_tells_no_length_that_could_be_misread() {
    let simulator = simulator();
    let sidecar = Sidecar::start(&simulator).ready();
    let mut raw = FrameClient::connect(sidecar.address());
    raw.write(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &get_fields("/_sim/status/304", &[])));
    let head = raw.on(1).unwrap();
    assert_eq!((head.kind, head.flags & END_STREAM), (HEADERS, END_STREAM), "no empty frame follows");
    let mut client = Http2::connect(sidecar.address());
    let answer = client.get("/_sim/status/304");
    assert!(answer.status == 304 && answer.header("etag").is_some(), "{answer:?}");
    assert_eq!(answer.header("content-length"), None, "Go's client waits for as many bytes");
}

#[test]
fn an_upload_whose_end_comes_after_its_answer_is_not_reset() {
    let simulator = simulator();
    let sidecar = Sidecar::start(&simulator).ready();
    let mut raw = FrameClient::connect(sidecar.address());
    // One that upstream answers, and one that is refused here.
    for (stream, path) in [(1, "/_sim/upload"), (3, "/patient/auth")] {
        let post =
            [(":method", "POST"), (":scheme", "http"), (":authority", "localhost"), (":path", path), ("content-length", "5")];
        raw.write(&[frame(HEADERS, END_HEADERS, stream, &fields(&post)), frame(BODY, 0, stream, b"hello")].concat());
        loop {
            let answer = raw.on(stream).unwrap();
            assert_ne!(answer.kind, RST_STREAM, "{path}");
            if answer.flags & END_STREAM != 0 {
                break;
            }
        }
        raw.write(&[frame(BODY, END_STREAM, stream, &[]), frame(PING, 0, 0, &[0; 8])].concat());
        loop {
            let next = raw.read().unwrap();
            assert_ne!(next.kind, RST_STREAM, "{path}: told that nobody reads it");
            if next.kind == PING {
                break;
            }
        }
    }
}
