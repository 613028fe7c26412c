//! Bodies: streamed both ways as they come, byte for byte, with bounded memory.

use std::{thread, time::Duration};

use crate::harness::{
    Connection, Http2, ManualHttp2, OFF_AND_AUTO, RecordingUpstream, Request, Setup, Sidecar, each_way::clients, never, pattern,
    seen, simulator, until, until_seen,
};

const MIB: u64 = 1024 * 1024;
/// A size that is many times that of every buffer on the way.
const LARGE: u64 = 6 * MIB + 12_345;

fn chunk(data: &[u8]) -> Vec<u8> {
    [format!("{:x}\r\n", data.len()).as_bytes(), data, b"\r\n"].concat()
}

#[test]
fn a_large_download_is_byte_identical() {
    let simulator = simulator();
    let sidecar = Sidecar::start(&simulator);
    let expected = pattern(LARGE);
    let mut client = sidecar.connect();
    for chunked in [0, 1] {
        let answer = client.send(&Request::get(&format!("/_sim/download?bytes={LARGE}&chunked={chunked}")));
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("content-length").is_some(), chunked == 0);
        assert_eq!(answer.header("transfer-encoding").is_some(), chunked == 1);
        assert!(!answer.cut);
        assert!(answer.body == expected, "{} bytes", answer.body.len());
    }
}

#[test]
fn a_large_upload_is_byte_identical() {
    let simulator = simulator();
    let sidecar = Sidecar::start(&simulator);
    let body = pattern(LARGE);
    let mut client = sidecar.connect();
    let counted = client.send(&Request::post("/_sim/upload?counted", body.clone()));
    client.write(&Request::new("POST", "/_sim/upload?chunked").header("Transfer-Encoding", "chunked").head());
    body.chunks(100_000).for_each(|data| client.write(&chunk(data)));
    client.write(b"0\r\n\r\n");
    for answer in [counted, client.answer("POST")] {
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!((answer.json()["bytes"].as_u64(), answer.json()["pattern_ok"].as_bool()), (Some(LARGE), Some(true)));
    }
    let length = LARGE.to_string();
    let counted = seen(&simulator, "/_sim/upload?counted").unwrap();
    assert_eq!((counted.values("content-length"), counted.values("transfer-encoding")), (vec![length.as_str()], vec![]));
    let chunked = seen(&simulator, "/_sim/upload?chunked").unwrap();
    assert_eq!((chunked.values("content-length"), chunked.values("transfer-encoding")), (vec![], vec!["chunked"]));
}

#[test]
fn both_directions_flow_at_once() {
    let simulator = simulator();
    let sidecar = Sidecar::start(&simulator);
    let mut client = sidecar.connect();
    client.write(&Request::new("POST", "/_sim/mirror").header("Transfer-Encoding", "chunked").head());
    assert_eq!(client.head().status, 200);
    for text in ["one", "two", "three"] {
        client.write(&chunk(text.as_bytes()));
        assert_eq!(read_exactly(&mut client, chunk(text.as_bytes()).len()), chunk(text.as_bytes()));
    }
    client.write(b"0\r\n\r\n");
    assert_eq!(read_exactly(&mut client, 5), b"0\r\n\r\n");
}

fn read_exactly(client: &mut Connection, bytes: usize) -> Vec<u8> {
    let mut all = Vec::new();
    while all.len() < bytes {
        let some = client.read_some();
        assert!(!some.is_empty(), "{all:?}");
        all.extend(some);
    }
    all
}

#[test]
fn the_beginning_of_a_body_is_forwarded_before_its_end_comes() {
    let simulator = simulator();
    let sidecar = Sidecar::start(&simulator);
    for (path, framing, value) in
        [("/_sim/upload?counted", "Content-Length", "10"), ("/_sim/upload?chunked", "Transfer-Encoding", "chunked")]
    {
        let mut client = sidecar.connect();
        client.write(&Request::new("POST", path).header(framing, value).head());
        until_seen("the request arrives", &simulator, path, |_| true);
        client.write(if framing == "Content-Length" { b"12345" } else { b"5\r\n12345\r\n" });
        until_seen("the first bytes of the body arrive", &simulator, path, |seen| seen.body_bytes == 5);
        client.write(if framing == "Content-Length" { b"67890" } else { b"5\r\n67890\r\n0\r\n\r\n" });
        assert_eq!(client.answer("POST").json()["bytes"], 10);
    }
}

#[test]
fn events_arrive_while_the_stream_goes_on_whatever_either_side_speaks() {
    const FIRST: &str = "id: 1\nevent: tick\ndata: {\"event\": 1}\n\n";
    // The second event is an hour away.
    let request = Request::get("/_sim/sse?events=0&interval_ms=3600000");
    for http2 in OFF_AND_AUTO {
        let simulator = simulator();
        let mut setup = Setup::new(&simulator);
        setup.api("http2", http2);
        let sidecar = setup.start().ready();
        simulator.control().reset_counts();

        let mut client = sidecar.connect();
        client.write(&request.head());
        let head = client.head();
        assert_eq!((head.status, head.header("content-type")), (200, Some("text/event-stream")), "{http2}");
        let mut text = Vec::new();
        while !text.ends_with(b"\n\n\r\n") {
            text.extend(client.read_some());
        }
        assert!(String::from_utf8(text).unwrap().contains(FIRST), "{http2}");

        let mut shared = Http2::connect(sidecar.address());
        let stream = shared.open(&request, true);
        let mut answering = shared.head(stream);
        assert_eq!(answering.head.header("content-type"), Some("text/event-stream"));
        let mut text = Vec::new();
        while !text.ends_with(b"}\n\n") {
            text.extend(shared.read_some(&mut answering).unwrap());
        }
        assert!(String::from_utf8(text).unwrap().ends_with(FIRST), "{http2}");

        drop((client, answering, shared));
        until("every exchange is over, for nobody listens", || simulator.control().requests().iter().all(|seen| seen.over));
        assert_eq!(simulator.control().counts().requests_http2, if http2 == "auto" { 2 } else { 0 });
    }
}

#[test]
fn a_slow_drip_arrives_drop_by_drop() {
    let simulator = simulator();
    let sidecar = Sidecar::start(&simulator);
    let mut client = sidecar.connect();
    client.write(&Request::get("/_sim/drip?bytes=2&interval_ms=3600000").head());
    assert_eq!(client.head().header("content-length"), Some("2"));
    assert_eq!(client.read_some(), pattern(1));
    let answer = sidecar.get("/_sim/drip?bytes=50&interval_ms=2");
    assert_eq!(answer.body, pattern(50));
}

#[test]
fn head_204_and_304_have_no_body_and_keep_their_length() {
    let simulator = simulator();
    let mut setup = Setup::new(&simulator);
    setup.without_connections_ahead();
    let sidecar = setup.start();
    let mut client = sidecar.connect();
    let head = client.send(&Request::new("HEAD", "/_sim/download?bytes=1234567"));
    assert_eq!((head.status, head.header("content-length")), (200, Some("1234567")));
    let none = client.send(&Request::get("/_sim/status/204"));
    assert_eq!((none.status, none.header("content-length"), none.header("transfer-encoding")), (204, None, None));
    let unchanged = client.send(&Request::get("/_sim/status/304"));
    assert_eq!((unchanged.status, unchanged.header("content-length")), (304, Some("1234")));
    assert_eq!(unchanged.header("etag"), Some("\"invented-1\""));
    assert_eq!(unchanged.header("transfer-encoding"), None);
    // Had any of them had a body, this would not be an answer.
    assert_eq!(client.send(&Request::get("/_sim/echo")).json()["target"], "/_sim/echo");
    assert_eq!(simulator.control().counts().connections, 2, "one for the log-in, one for all of these");
}

#[test]
fn a_304_without_a_length_gets_none() {
    let simulator = simulator();
    let upstream = RecordingUpstream::start("HTTP/1.1 304 Not Modified\r\nETag: \"1\"\r\n\r\n");
    let sidecar = upstream.setup(&simulator).start();
    let mut client = sidecar.connect();
    for _ in 0..2 {
        let answer = client.send(&Request::get("/"));
        let names: Vec<&str> = answer.headers.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!((answer.status, names), (304, vec!["etag", "x-request-id", "date"]));
    }
}

#[test]
fn compressed_bodies_are_not_touched() {
    let simulator = simulator();
    let body = [b"\x1f\x8b\x08\x00not really gzip\x00\xff".as_slice(), &pattern(5000)].concat();
    let head = format!("HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {}\r\n\r\n", body.len());
    let upstream = RecordingUpstream::start([head.as_bytes(), &body].concat());
    let sidecar = upstream.setup(&simulator).start();
    let answer = sidecar.get("/");
    assert_eq!(answer.header("content-encoding"), Some("gzip"));
    assert_eq!(answer.body, body);
    assert!(!upstream.requests()[0].contains("accept-encoding"), "nobody asked for it");
    let sidecar = Sidecar::start(&simulator);
    let answer = sidecar.get("/_sim/gzip");
    assert_eq!((answer.header("content-encoding"), answer.body.get(..2)), (Some("gzip"), Some(b"\x1f\x8b".as_slice())));
}

#[test]
fn an_upstream_body_that_ends_with_its_connection_arrives_whole() {
    let simulator = simulator();
    let upstream = RecordingUpstream::start("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nuntil the end");
    let sidecar = upstream.setup(&simulator).start();
    let mut client = sidecar.connect();
    for _ in 0..2 {
        let answer = client.send(&Request::get("/"));
        assert_eq!((answer.text(), answer.cut), ("until the end", false));
    }
}

/// RFC 9112, 9.8: without the alert somebody else may have ended the connection.
#[test]
fn content_up_to_the_end_of_a_tls_connection_is_whole_only_after_its_closure_alert() {
    let upstream = ManualHttp2::listen();
    let mut setup = upstream.setup();
    setup.api("http2", "off");
    let sidecar = setup.start();
    for is_whole in [true, false] {
        for mut client in clients(&sidecar) {
            thread::scope(|scope| {
                let answer = "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nuntil the end";
                let peer = &upstream;
                scope.spawn(
                    move || {
                        if is_whole { peer.answer_http1(answer) } else { peer.answer_http1_without_an_alert(answer) }
                    },
                );
                let answer = client.get("/users");
                assert_eq!((answer.status, answer.cut), (200, !is_whole), "{answer:?}");
                assert!(!is_whole || answer.text() == "until the end", "{answer:?}");
            });
        }
    }
}

/// RFC 9112, 9.8.
#[test]
fn a_connection_to_the_upstream_ends_with_a_closure_alert() {
    let upstream = ManualHttp2::listen();
    let mut setup = upstream.setup();
    setup.api("http2", "off").api("pool_idle", "100ms");
    let sidecar = setup.start();
    thread::scope(|scope| {
        let alerted = scope.spawn(|| upstream.answer_http1_until_the_alert("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"));
        assert_eq!(sidecar.get("/users").text(), "ok");
        assert!(alerted.join().unwrap());
    });
}

#[test]
fn a_truncated_body_stays_truncated() {
    let simulator = simulator();
    let sidecar = Sidecar::start(&simulator);
    for query in ["after=5000&of=9000", "after=5000&chunked=1", "after=300000&of=300001", "after=0&of=10"] {
        for how in ["rst", "close"] {
            let mut client = sidecar.connect();
            let answer = client.send(&Request::get(&format!("/_sim/reset?{query}&how={how}")));
            assert_eq!(answer.status, 200, "{query} {how}");
            assert!(answer.cut, "{query} {how}: {} bytes and a clean end", answer.body.len());
            assert!(client.is_closed());
            assert!(pattern(300_000).starts_with(&answer.body));
        }
    }
    let cut = simulator.control().counts().by_route["/_sim/reset"];
    assert_eq!(cut, 8, "an answer that began is not asked for again");
}

#[test]
fn an_early_answer_reaches_a_client_that_is_still_sending() {
    let simulator = simulator();
    let sidecar = Sidecar::start(&simulator);
    let mut client = sidecar.connect();
    client.write(&Request::new("POST", "/_sim/early?status=413").header("Content-Length", &LARGE.to_string()).head());
    client.write(&pattern(1000));
    let answer = client.answer("POST");
    assert_eq!((answer.status, answer.header("proxy-status")), (413, None), "{answer:?}");
    assert!(answer.json()["message"].is_string());
    // One that reads only when it has written everything, more than any kernel's buffers hold, finds it, too.
    let mut client = sidecar.connect();
    let body = pattern(24 * MIB);
    client.write(&Request::new("POST", "/_sim/early?status=413").header("Content-Length", &body.len().to_string()).head());
    client.write(&body);
    assert_eq!(client.answer("POST").status, 413);
}

#[test]
fn a_client_that_hangs_up_in_its_body_leaves_half_a_request_upstream() {
    let simulator = simulator();
    let sidecar = Sidecar::start(&simulator);
    for (path, framing, value, half) in [
        ("/_sim/upload?counted", "Content-Length", "10", "half"),
        ("/_sim/upload?chunked", "Transfer-Encoding", "chunked", "4\r\nhalf\r\n"),
    ] {
        let mut client = sidecar.connect();
        client.write(&Request::new("POST", path).header(framing, value).head());
        client.write(half.as_bytes());
        until_seen("half of the body arrives", &simulator, path, |seen| seen.body_bytes == 4);
        drop(client);
        until_seen("the exchange is over", &simulator, path, |seen| seen.over);
        assert!(!seen(&simulator, path).unwrap().complete, "half a body must not look like a whole one");
    }
    assert_eq!(simulator.control().counts().by_route["/_sim/upload"], 2, "it is not sent again");
}

#[test]
fn a_client_that_hangs_up_ends_the_exchange_upstream() {
    let simulator = simulator();
    let sidecar = Sidecar::start(&simulator);
    for path in ["/_sim/hang", "/_sim/download?bytes=1073741824", "/_sim/drip?bytes=10&interval_ms=3600000"] {
        let mut client = sidecar.connect();
        client.write(&Request::get(path).head());
        until_seen("the request arrives", &simulator, path, |_| true);
        drop(client);
        until_seen("the exchange is over", &simulator, path, |seen| seen.over);
    }
}

#[test]
fn a_slow_reader_holds_back_the_upstream() {
    let simulator = simulator();
    let sidecar = Sidecar::start(&simulator).ready();
    let path = format!("/_sim/download?bytes={}", 1024 * MIB);
    let mut client = sidecar.connect();
    client.write(&Request::get(&path).head());
    assert_eq!(client.head().status, 200);
    // What fits into the kernel's buffers on both sides is some MiB.
    let runs_ahead = || seen(&simulator, &path).is_some_and(|seen| seen.answer_bytes > 48 * MIB);
    never("the upstream runs ahead of the reader", Duration::from_millis(700), runs_ahead);
    // The same upstream is fast when the client reads.
    let mut read = 0;
    while read < 64 * MIB {
        read += client.read_some().len() as u64;
    }
    assert!(runs_ahead());
    assert!(sidecar.peak_memory_kib() < 12 * 1024, "{} KiB", sidecar.peak_memory_kib());
}

#[test]
fn a_slow_upstream_holds_back_the_client() {
    let simulator = simulator();
    let sidecar = Sidecar::start(&simulator).ready();
    let mut client = sidecar.connect();
    client.write(
        &Request::new("POST", "/_sim/slow-read?bytes_per_second=1").header("Content-Length", &(1024 * MIB).to_string()).head(),
    );
    client.write_timeout(Duration::from_millis(300));
    let (piece, mut written) = (vec![0; 256 * 1024], 0);
    while client.try_write(&piece).is_ok() {
        written += piece.len() as u64;
        assert!(written < 64 * MIB, "nobody reads that");
    }
    assert!(sidecar.peak_memory_kib() < 12 * 1024, "{} KiB", sidecar.peak_memory_kib());
}

#[test]
fn upstream_connections_are_used_again() {
    let simulator = simulator();
    let mut setup = Setup::new(&simulator);
    setup.variable("CAREPORTALS_WORKERS", "1").without_connections_ahead();
    let sidecar = setup.start().ready();
    let mut client = sidecar.connect();
    for number in 0..20 {
        let answer = match number % 4 {
            0 => client.send(&Request::get("/_sim/echo")),
            1 => client.send(&Request::post("/_sim/echo", "body")),
            2 => sidecar.get("/_sim/download?bytes=100000&chunked=1"),
            _ => client.send(&Request::get("/_sim/status/404")),
        };
        assert!(matches!(answer.status, 200 | 404), "{answer:?}");
    }
    assert_eq!(simulator.control().counts().connections, 2, "one for the log-in, one for all else");
}

#[test]
fn a_client_that_closes_after_each_request_does_not_close_upstreams_connection() {
    let simulator = simulator();
    let mut setup = Setup::new(&simulator);
    setup.variable("CAREPORTALS_WORKERS", "1").without_connections_ahead();
    let sidecar = setup.start().ready();
    for _ in 0..5 {
        let mut client = sidecar.connect();
        let answer = client.send(&Request::get("/_sim/echo").header("Connection", "close"));
        assert_eq!((answer.status, answer.header("connection")), (200, Some("close")));
        assert!(client.is_closed());
        assert_eq!(answer.echoed("connection"), [""; 0]);
    }
    assert_eq!(simulator.control().counts().connections, 2, "one for the log-in, one for all else");
}

#[test]
fn a_client_learns_that_upstream_died_during_its_upload() {
    let simulator = simulator();
    let sidecar = Sidecar::start(&simulator);
    let body = pattern(24 * MIB);
    let answer = sidecar.send(&Request::post("/_sim/reset-before", body));
    assert_eq!((answer.status, answer.problem().as_str()), (502, "upstream_closed"));
    assert_eq!(simulator.control().counts().by_route["/_sim/reset-before"], 1, "a POST that left is not sent again");
}

#[test]
fn a_clients_connection_serves_many_requests_of_all_kinds() {
    let simulator = simulator();
    let sidecar = Sidecar::start(&simulator);
    let mut client = sidecar.connect();
    for number in 0..10 {
        let body = format!("body {number}");
        let answer = client.send(&Request::post("/_sim/echo", body.clone()));
        assert_eq!(answer.json()["body"], body);
        client.write(&Request::new("POST", "/_sim/echo").header("Transfer-Encoding", "chunked").head());
        client.write(&[chunk(body.as_bytes()), b"0\r\n\r\n".to_vec()].concat());
        assert_eq!(client.answer("POST").json()["body"], body);
        assert_eq!(client.send(&Request::new("HEAD", "/_sim/echo")).status, 200);
        assert_eq!(client.send(&Request::get("/_sim/sse?events=2&interval_ms=1")).text().matches("event: tick").count(), 2);
    }
}
