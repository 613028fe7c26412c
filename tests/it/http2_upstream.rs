//! HTTP/2 to the upstream: when it is spoken, how many requests share a connection, and that none of them disturbs another.

use std::time::Duration;

use careportals_simulator::{Control, Options, Simulator};
use rustix::process::Signal;

use crate::harness::{
    Answer, Connection, Crowd, Http2Peer, ManualHttp2, OFF_AND_AUTO, Request, Setup, Sidecar,
    frames::{BODY, CANCEL, END_STREAM, INTERNAL_ERROR, NO_ERROR, RST_STREAM},
    now, pattern, simulator, until, until_still,
};

const MIB: u64 = 1024 * 1024;

/// Sends `count` requests, which the upstream holds at the same time and then answers.
fn all_at_once(control: &Control, sidecar: &Sidecar, count: u64) {
    control.reset_counts();
    control.hold_requests(true);
    let crowd = Crowd::send(sidecar, usize::try_from(count).unwrap(), &Request::post("/_sim/echo", "once"));
    until("the upstream has got all requests", || control.counts().requests == count);
    control.hold_requests(false);
    crowd.succeeds();
    assert_eq!(control.counts().requests, count, "none was sent twice");
}

#[test]
fn a_connection_on_which_the_server_says_nothing_keeps_only_the_request_that_made_it() {
    let upstream = ManualHttp2::listen();
    let sidecar = upstream.setup().start();
    let all: Vec<Connection> = (0..3)
        .map(|_| {
            let mut client = sidecar.connect();
            client.write(&Request::get("/users").head());
            client
        })
        .collect();
    let _silent = upstream.accept_silently();
    let began = now();
    let mut peer = upstream.accept(100);
    assert!(began.elapsed() < Duration::from_secs(5), "PINGs find the silence after nine seconds");
    for _ in 1..all.len() {
        let (stream, _) = peer.request();
        peer.answer(stream, b"");
    }
    // The GET may arrive twice.
    let (stream, _) = peer.request();
    peer.answer(stream, b"");
    assert!(all.into_iter().all(|mut client| client.answer("GET").status == 200));
}

#[test]
fn an_upload_goes_on_behind_the_head_of_its_answer() {
    let upstream = ManualHttp2::listen();
    let sidecar = upstream.setup().start();
    let mut client = sidecar.connect();
    client.write(&Request::new("POST", "/users").header("Content-Length", "8").head());
    client.write(b"half");
    let mut peer = upstream.accept(100);
    let head = peer.frame().unwrap();
    let half = peer.frame().unwrap();
    assert_eq!((half.kind, half.payload.as_slice()), (BODY, &b"half"[..]));
    peer.head(head.stream);
    assert_eq!(client.head().status, 200);
    client.write(b" end");
    let mut rest = Vec::new();
    while rest.len() < 4 {
        let frame = peer.frame().expect("the rest of the upload");
        assert_eq!((frame.kind, frame.stream), (BODY, head.stream), "{frame:?}");
        rest.extend(frame.payload);
    }
    assert_eq!(rest, b" end");
    peer.send(BODY, END_STREAM, head.stream, b"done");
    client.read_until(b"done");
}

#[test]
fn http2_is_spoken_when_the_settings_and_the_server_agree_and_else_http1() {
    for (http2, offered, expected) in
        [("off", true, "HTTP/1.1"), ("off", false, "HTTP/1.1"), ("auto", false, "HTTP/1.1"), ("auto", true, "HTTP/2.0")]
    {
        let simulator = Simulator::start(Options { http2: offered, ..Options::default() }).unwrap();
        let mut setup = Setup::new(&simulator);
        setup.api("http2", http2);
        let sidecar = setup.start().ready();
        let answer = sidecar.get("/_sim/echo?a=b%2fc&d");
        let echo = answer.json();
        assert_eq!(echo["version"], expected, "{http2} {offered}");
        assert_eq!(echo["target"], "/_sim/echo?a=b%2fc&d");
        assert_eq!(echo["authority"], format!("localhost:{}", simulator.address().port()));
    }
}

#[test]
fn what_belongs_to_an_http1_connection_is_not_in_an_http2_request() {
    let simulator = simulator();
    let sidecar = Setup::auto(&simulator).start().ready();
    let mut client = sidecar.connect();
    let request = Request::new("POST", "/_sim/echo")
        .header("X-One", "1")
        .header("Connection", "keep-alive, X-Named")
        .header("X-Named", "gone")
        .header("Keep-Alive", "timeout=5")
        .header("Transfer-Encoding", "chunked")
        .header("X-Two", "2")
        .header("X-One", "3");
    client.write(&request.head());
    client.write(b"4\r\nbody\r\n0\r\nx-checksum: 17\r\n\r\n");
    let answer = client.answer("POST");
    assert_eq!(answer.json()["body"], "body", "{answer:?}");
    for name in ["host", "connection", "keep-alive", "transfer-encoding", "x-named", "te", "upgrade", "content-length"] {
        assert_eq!(answer.echoed(name), [""; 0], "{name}");
    }
    assert_eq!((answer.echoed("x-one"), answer.echoed("x-two")), (vec!["1".to_owned(), "3".to_owned()], vec!["2".to_owned()]));
    assert_eq!((answer.echoed("organization").len(), answer.echoed("authorization").len()), (1, 1));
}

#[test]
fn many_requests_share_a_connection() {
    let simulator = simulator();
    let control = simulator.control();
    let sidecar = Setup::auto(&simulator).start().ready();
    all_at_once(control, &sidecar, 90);
    assert_eq!((control.counts().connections, control.counts().requests_http2), (0, 90));
}

#[test]
fn a_server_that_takes_one_request_at_a_time_on_a_connection_serves_a_crowd() {
    let simulator = simulator();
    let control = simulator.control();
    control.set_max_concurrent_streams(Some(1));
    let sidecar = Setup::auto(&simulator).start().ready();
    all_at_once(control, &sidecar, 256);
    assert_eq!(control.counts().connections, 255, "each has its own, and one was there");
    control.reset_counts();
    Crowd::send(&sidecar, 256, &Request::post("/_sim/echo", "once")).succeeds();
    assert_eq!((control.counts().requests, control.counts().connections), (256, 0), "they are used again");
}

#[test]
fn a_server_that_takes_a_thousand_requests_on_a_connection_serves_a_crowd() {
    for streams in [Some(1000), None] {
        let simulator = simulator();
        let control = simulator.control();
        control.set_max_concurrent_streams(streams);
        let sidecar = Setup::auto(&simulator).start().ready();
        all_at_once(control, &sidecar, 256);
        assert_eq!(control.counts().connections, 2, "{streams:?}: a hundred on each at most");
    }
}

#[test]
fn a_crowd_larger_than_the_connections_have_room_for_is_served_to_the_last() {
    let simulator = simulator();
    let control = simulator.control();
    control.set_max_concurrent_streams(Some(7));
    control.set_latency(Duration::from_millis(5));
    let sidecar = Setup::auto(&simulator).start().ready();
    control.reset_counts();
    for round in 1..=3 {
        Crowd::send(&sidecar, 200, &Request::post("/_sim/echo", "once")).succeeds();
        assert_eq!(control.counts().requests, 200 * round);
    }
}

#[test]
fn a_burst_at_the_beginning_waits_for_one_connection_instead_of_making_one_each() {
    let simulator = simulator();
    let control = simulator.control();
    let mut setup = Setup::auto(&simulator);
    // The log-in goes to another server: no connection to this upstream was made.
    setup.variable("CAREPORTALS_LOGIN_URL", "off").without_connections_ahead();
    let sidecar = setup.start();
    simulator.pause_accepting(true);
    let crowd = Crowd::send(&sidecar, 80, &Request::post("/v2/products", "once"));
    simulator.pause_accepting(false);
    for answer in crowd.answers() {
        assert!(matches!(answer.status, 200 | 401 | 404), "{answer:?}");
    }
    assert_eq!((control.counts().connections, control.counts().requests), (1, 80));
}

#[test]
fn a_burst_at_an_http1_server_makes_as_many_connections_as_there_are_requests() {
    let simulator = Simulator::start(Options { http2: false, ..Options::default() }).unwrap();
    let control = simulator.control();
    let sidecar = Setup::auto(&simulator).start().ready();
    all_at_once(control, &sidecar, 80);
    let counts = control.counts();
    // A worker may have opened up to three ahead of need while all were in use.
    assert!((79..=79 + 3 * 4).contains(&counts.connections), "{}", counts.connections);
    assert_eq!(counts.requests_http2, 0);
}

#[test]
fn a_server_that_changes_its_protocol_is_followed() {
    let simulator = simulator();
    let control = simulator.control();
    let sidecar = Setup::auto(&simulator).start().ready();
    let mut client = sidecar.connect();
    for (offered, version) in [(true, "HTTP/2.0"), (false, "HTTP/1.1"), (true, "HTTP/2.0")] {
        control.set_http2(offered);
        control.drain_connections();
        until("no connection to the upstream is open", || control.counts().open_connections == 0);
        assert_eq!(client.send(&Request::get("/_sim/echo")).json()["version"], version);
        Crowd::send(&sidecar, 30, &Request::get("/_sim/echo")).succeeds();
    }
}

#[test]
fn when_the_server_hangs_up_on_everybody_a_burst_fails_without_two_connections_for_each() {
    let upstream = ManualHttp2::listen();
    let sidecar = upstream.setup().start();
    let attempts = std::thread::scope(|scope| {
        let crowd = Crowd::send(&sidecar, 80, &Request::post("/users", "once"));
        let answering = scope.spawn(|| crowd.answers());
        let mut attempts = 0;
        until("every client is answered", || {
            while upstream.has_more() {
                attempts += 1;
            }
            answering.is_finished()
        });
        for answer in answering.join().unwrap() {
            assert_eq!(answer.status, 502, "{answer:?}");
        }
        attempts
    });
    // Two would do if all came at once; one by one it would be 160.
    assert!(attempts <= 40, "{attempts}");
}

#[test]
fn bodies_are_byte_identical_in_both_directions() {
    let simulator = simulator();
    let sidecar = Setup::auto(&simulator).start().ready();
    let body = pattern(3 * MIB + 4321);
    let mut client = sidecar.connect();
    let answer = client.send(&Request::post("/_sim/mirror", body.clone()));
    assert!(answer.status == 200 && !answer.cut && answer.body == body, "{} bytes", answer.body.len());
    for chunked in [0, 1] {
        let answer = client.send(&Request::get(&format!("/_sim/download?bytes={}&chunked={chunked}", body.len())));
        assert_eq!(answer.header("content-length").is_some(), chunked == 0);
        assert!(!answer.cut && answer.body == body, "{} bytes", answer.body.len());
    }
    let answer = client.send(&Request::post("/_sim/upload", body));
    assert_eq!(answer.json()["pattern_ok"], true);
    assert!(sidecar.peak_memory_kib() < 28 * 1024, "{} KiB", sidecar.peak_memory_kib());
}

#[test]
fn answers_without_a_body_keep_their_length() {
    let simulator = simulator();
    let sidecar = Setup::auto(&simulator).start().ready();
    let mut client = sidecar.connect();
    let head = client.send(&Request::new("HEAD", "/_sim/download?bytes=1234567"));
    assert_eq!((head.status, head.header("content-length")), (200, Some("1234567")));
    assert_eq!(client.send(&Request::get("/_sim/status/204")).status, 204);
    let unchanged = client.send(&Request::get("/_sim/status/304"));
    assert_eq!((unchanged.status, unchanged.header("content-length")), (304, Some("1234")));
    assert_eq!(client.send(&Request::get("/_sim/echo")).json()["version"], "HTTP/2.0");
}

#[test]
fn a_slow_reader_holds_back_the_upstream_and_nobody_else() {
    let simulator = simulator();
    let control = simulator.control();
    let sidecar = Setup::auto(&simulator).start().ready();
    control.reset_counts();
    let slow: Vec<Connection> = (0..30)
        .map(|_| {
            let mut client = sidecar.connect();
            client.write(&Request::get("/_sim/download?bytes=1073741824").head());
            assert_eq!(client.head().status, 200);
            client
        })
        .collect();
    let sent = |control: &Control| control.requests().iter().map(|seen| seen.answer_bytes).sum::<u64>();
    until_still("every window and buffer on the way is full", Duration::from_millis(300), || {
        let sent = sent(control);
        assert!(sent < 1024 * MIB, "nobody reads that");
        sent
    });
    let answer = sidecar.get(&format!("/_sim/download?bytes={MIB}"));
    assert!(answer.body == pattern(MIB), "{} bytes", answer.body.len());
    assert_eq!(control.counts().connections, 0, "they share one connection");
    drop(slow);
    until("every exchange is over", || control.requests().iter().all(|seen| seen.over));
    assert!(sidecar.peak_memory_kib() < 52 * 1024, "{} KiB", sidecar.peak_memory_kib());
}

#[test]
fn a_slow_upstream_holds_back_the_client_and_nobody_else() {
    let simulator = simulator();
    let sidecar = Setup::auto(&simulator).start().ready();
    let mut client = sidecar.connect();
    let length = 1024 * MIB;
    client
        .write(&Request::new("POST", "/_sim/slow-read?bytes_per_second=1").header("Content-Length", &length.to_string()).head());
    client.write_timeout(Duration::from_millis(300));
    let (piece, mut written) = (vec![0; 256 * 1024], 0);
    while client.try_write(&piece).is_ok() {
        written += piece.len() as u64;
        assert!(written < 64 * MIB, "nobody reads that");
    }
    assert_eq!(sidecar.send(&Request::post("/_sim/upload", pattern(MIB))).json()["pattern_ok"], true);
    assert!(sidecar.peak_memory_kib() < 28 * 1024, "{} KiB", sidecar.peak_memory_kib());
}

#[test]
fn a_client_that_hangs_up_resets_its_stream_and_the_connection_lives_on() {
    let upstream = ManualHttp2::listen();
    let sidecar = upstream.setup().start();
    let mut waiting = sidecar.connect();
    waiting.write(&Request::get("/users").head());
    let mut peer = upstream.accept(100);
    let (first, _) = peer.request();
    for reading in [false, true] {
        let mut client = sidecar.connect();
        client.write(&Request::get("/users").head());
        let (stream, _) = peer.request();
        if reading {
            peer.head(stream);
            assert_eq!(client.head().status, 200);
        }
        drop(client);
        let reset = peer.frame().unwrap();
        assert_eq!((reset.kind, reset.stream, reset.error_code()), (RST_STREAM, stream, CANCEL));
    }
    // In the middle of its own body.
    let mut client = sidecar.connect();
    client.write(&Request::new("POST", "/users").header("Content-Length", "10").head());
    client.write(b"half");
    let head = peer.frame().unwrap();
    assert_eq!(peer.frame().unwrap().payload, b"half");
    drop(client);
    let reset = peer.frame().unwrap();
    assert_eq!((reset.kind, reset.stream, reset.error_code()), (RST_STREAM, head.stream, CANCEL), "never a clean end");
    peer.answer(first, b"not disturbed");
    assert_eq!(waiting.answer("GET").text(), "not disturbed");
    assert!(!upstream.has_more());
}

#[test]
fn an_answer_that_ends_before_its_request_ends_the_stream_and_nothing_else() {
    let upstream = ManualHttp2::listen();
    let sidecar = upstream.setup().start();
    // With an error code that is none, as it should be, or without.
    for polite in [true, false] {
        let mut client = sidecar.connect();
        client.write(&Request::new("POST", "/users").header("Content-Length", "10").head());
        client.write(b"half");
        let mut peer = upstream.accept(100);
        let (head, data) = (peer.frame().unwrap(), peer.frame().unwrap());
        assert_eq!(data.payload, b"half");
        if polite {
            peer.answer_early(head.stream, b"early");
        } else {
            peer.answer(head.stream, b"early");
        }
        let answer = client.answer("POST");
        assert_eq!((answer.text(), answer.cut), ("early", false));
        if !polite {
            let reset = peer.frame().unwrap();
            assert_eq!((reset.kind, reset.stream), (RST_STREAM, head.stream));
        }
        let mut next = sidecar.connect();
        next.write(&Request::get("/users").head());
        let (stream, _) = peer.request();
        peer.answer(stream, b"next");
        assert_eq!(next.answer("GET").text(), "next");
        peer.go_away(stream, NO_ERROR);
        while peer.frame().is_some() {}
    }
}

#[test]
fn a_truncated_body_stays_truncated_however_it_was_cut() {
    let upstream = ManualHttp2::listen();
    let sidecar = upstream.setup().start();
    for how in [Some(NO_ERROR), Some(CANCEL), Some(INTERNAL_ERROR), None] {
        let mut client = sidecar.connect();
        client.write(&Request::post("/users", "once").head());
        client.write(b"once");
        let mut peer = Some(upstream.accept(100));
        let (stream, _) = peer.as_mut().unwrap().request();
        let server = peer.as_mut().unwrap();
        server.head(stream);
        server.send(BODY, 0, stream, b"half an ans");
        assert_eq!(client.head().status, 200);
        let mut seen = Vec::new();
        while !seen.ends_with(b"half an ans\r\n") {
            seen.extend(client.read_some());
        }
        match how {
            Some(code) => server.reset(stream, code),
            None => drop(peer.take()),
        }
        assert_eq!(client.read_to_end(), b"", "{how:?}: no clean end");
        let _ = peer.take().map(Http2Peer::leave);
        assert!(!upstream.has_more());
    }
    let simulator = simulator();
    let sidecar = Setup::auto(&simulator).start().ready();
    let answer = sidecar.get("/_sim/reset?after=5000&of=9000&how=close");
    assert!(answer.status == 200 && answer.cut, "{answer:?}");
}

#[test]
fn an_answer_with_a_head_over_the_limits_is_a_problem_of_its_own() {
    let simulator = simulator();
    let mut setup = Setup::auto(&simulator);
    setup.api("max_header_bytes", "16KiB").api("max_headers", "20");
    let sidecar = setup.start().ready();
    assert_eq!(sidecar.get("/_sim/headers?count=5&size=1000").status, 200);
    for large in ["count=17&size=1000", "count=100&size=1"] {
        assert_eq!(sidecar.get(&format!("/_sim/headers?{large}")).problem(), "upstream_head_too_large", "{large}");
    }
}

#[test]
fn after_a_time_out_its_connection_takes_no_more_requests() {
    let simulator = simulator();
    let control = simulator.control();
    for http2 in OFF_AND_AUTO {
        let mut setup = Setup::auto(&simulator);
        setup.api("http2", http2).api("response_timeout", "300ms");
        let sidecar = setup.start().ready();
        control.freeze_connections();
        control.reset_counts();
        let [first, second]: [Answer; 2] = [(); 2].map(|()| sidecar.send(&Request::post("/_sim/echo", "once")));
        assert_eq!(first.problem(), "upstream_timeout", "{http2}");
        assert_eq!((second.status, control.counts().connections), (200, 1), "{http2}");
    }
}

#[test]
fn an_idle_connection_is_closed_after_pool_idle() {
    let simulator = simulator();
    let control = simulator.control();
    let mut setup = Setup::auto(&simulator);
    setup.api("pool_idle", "500ms");
    let sidecar = setup.start().ready();
    assert_eq!(sidecar.get("/_sim/echo").json()["version"], "HTTP/2.0");
    until("no connection to the upstream is open", || control.counts().open_connections == 0);
    assert_eq!(sidecar.get("/_sim/echo").status, 200);
}

#[test]
fn a_log_out_closes_the_idle_connection_and_one_in_use_when_it_is_done() {
    let simulator = simulator();
    let control = simulator.control();
    // Else time alone would close them.
    let start = || {
        let mut setup = Setup::auto(&simulator);
        setup.api("pool_idle", "1h");
        setup.start().ready()
    };
    let sidecar = start();
    sidecar.signal(Signal::USR1);
    until("no connection to the upstream is open", || control.counts().open_connections == 0);

    let sidecar = start();
    control.reset_counts();
    control.hold_requests(true);
    let crowd = Crowd::send(&sidecar, 2, &Request::get("/_sim/echo"));
    until("the upstream has got two requests", || control.counts().requests == 2);
    sidecar.signal(Signal::USR1);
    sidecar.wait_for_log("logged_out");
    control.hold_requests(false);
    crowd.succeeds();
    until("no connection to the upstream is open", || control.counts().open_connections == 0);
}
