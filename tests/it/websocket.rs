//! `Upgrade: websocket` becomes a tunnel; every other `Upgrade` is a plain request.

use std::time::Duration;

use rustix::process::Signal;

use crate::harness::{
    Connection, ManualUpstream, RecordingUpstream, Request, Setup, Sidecar, let_time_pass, now, revoke, simulator, until,
    websocket::{KEY, ask, assert_echoes, handshake, message, open},
};

const SHORT: Duration = Duration::from_millis(300);
#[test]
fn messages_go_both_ways_after_a_101() {
    let simulator = simulator();
    let sidecar = Sidecar::start(&simulator);
    let mut client = sidecar.connect();
    let head = ask(&mut client, &handshake("/_sim/websocket").header("Sec-WebSocket-Protocol", "chat, other"));
    assert_eq!(head.status, 101);
    assert_eq!(head.header("upgrade"), Some("websocket"));
    assert_eq!(head.all("connection"), ["upgrade"]);
    assert_eq!(head.header("sec-websocket-accept"), Some(KEY.1));
    assert_eq!(head.header("sec-websocket-protocol"), Some("chat"));
    for text in ["one", "two", "three"] {
        assert_echoes(&mut client, text);
    }
    let seen = simulator.control().requests().pop().unwrap();
    assert_eq!(seen.values("connection"), ["upgrade"]);
    assert_eq!(seen.values("sec-websocket-key"), [KEY.0]);
    assert!(seen.values("authorization")[0].starts_with("Bearer "));
    assert_eq!(seen.values("organization"), ["demo"]);
}

#[test]
fn what_the_client_says_right_after_its_request_is_not_lost() {
    let simulator = simulator();
    let sidecar = Sidecar::start(&simulator);
    let mut client = sidecar.connect();
    client.write(&[handshake("/_sim/websocket").head(), message("too early")].concat());
    assert_eq!(client.head().status, 101);
    client.read_until(b"too early");
}

#[test]
fn a_tunnels_connection_is_its_own_and_never_used_again() {
    let simulator = simulator();
    let control = simulator.control();
    let mut setup = Setup::new(&simulator);
    // One that is opened ahead may come as late as the first request's own.
    setup.variable("CAREPORTALS_WORKERS", "1").without_connections_ahead();
    let sidecar = setup.start().ready();
    assert_eq!(control.counts().connections, 2, "one for the log-in, one for all else");
    let mut client = open(&sidecar);
    assert_eq!(control.counts().connections, 3, "the kept one was not taken");
    assert_echoes(&mut client, "hello");
    assert_eq!(sidecar.get("/_sim/echo").status, 200);
    drop(client);
    sidecar.wait_for_access_lines(3);
    // An answer other than 101 leaves nothing behind, either.
    let refused = sidecar.send(&Request::get("/_sim/status/404").header("Connection", "upgrade").header("Upgrade", "websocket"));
    assert_eq!(refused.status, 404);
    assert_eq!(sidecar.get("/_sim/echo").status, 200);
    assert_eq!(control.counts().connections, 4);
}

#[test]
fn an_upgrade_goes_over_http1_even_beside_an_http2_connection() {
    let simulator = simulator();
    let control = simulator.control();
    let sidecar = Setup::auto(&simulator).start().ready();
    assert_eq!(sidecar.get("/_sim/echo").json()["version"], "HTTP/2.0");
    control.reset_counts();
    let mut client = open(&sidecar);
    assert_echoes(&mut client, "hello");
    let counts = control.counts();
    assert_eq!((counts.requests, counts.requests_http2, counts.connections, counts.connections_http2), (1, 0, 1, 0));
    assert_eq!(sidecar.get("/_sim/echo").json()["version"], "HTTP/2.0", "the others stay where they were");
    assert_echoes(&mut client, "still here");
    assert_eq!(control.counts().connections, 1);
}

#[test]
fn an_answer_other_than_101_is_passed_on_as_any() {
    let simulator = simulator();
    let sidecar = Sidecar::start(&simulator);
    let mut client = sidecar.connect();
    for _ in 0..2 {
        let answer = client.send(&handshake("/_sim/download?bytes=70000"));
        assert_eq!((answer.status, answer.body.len(), answer.cut), (200, 70_000, false));
    }
    // The simulator wants version 13.
    let mut old = Request::get("/_sim/websocket").header("Connection", "upgrade").header("Upgrade", "websocket");
    old = old.header("Sec-WebSocket-Version", "8").header("Sec-WebSocket-Key", KEY.0);
    let answer = client.send(&old);
    assert_eq!((answer.status, answer.header("proxy-status"), answer.header("upgrade")), (426, None, None));
    assert_eq!(client.send(&Request::get("/_sim/echo")).status, 200, "the connection lives on");
}

#[test]
fn a_401_is_cured_by_a_log_in_as_for_any_request() {
    let simulator = simulator();
    let control = simulator.control();
    let sidecar = Setup::eager(&simulator).start().ready();
    revoke(&simulator);
    control.reset_counts();
    let mut client = open(&sidecar);
    assert_echoes(&mut client, "hello");
    assert_eq!((control.counts().logins, control.counts().requests), (1, 2));
    assert_eq!(sidecar.send(&handshake("/_sim/always-401")).status, 401);
}

#[test]
fn a_101_that_does_not_agree_is_a_502() {
    let simulator = simulator();
    for lines in [
        "Connection: upgrade\r\n",
        "Upgrade: websocket\r\n",
        "Connection: upgrade\r\nUpgrade: h2c\r\n",
        "Connection: upgrade\r\nUpgrade: websocket\r\nUpgrade: h2c\r\n",
    ] {
        let upstream = RecordingUpstream::start(format!("HTTP/1.1 101 Switching Protocols\r\n{lines}\r\n"));
        let sidecar = upstream.setup(&simulator).start();
        let answer = sidecar.send(&handshake("/"));
        assert_eq!((answer.status, answer.problem().as_str()), (502, "upgrade_failed"), "{lines}");
        assert_eq!(answer.header("proxy-status"), Some("careportals-sidecar; error=http_upgrade_failed"));
        assert_eq!(upstream.requests().len(), 1, "it is not asked again");
    }
    // No client asked for an upgrade.
    let upstream =
        RecordingUpstream::start("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n");
    let sidecar = upstream.setup(&simulator).start();
    assert_eq!(sidecar.get("/").problem(), "upstream_protocol");
}

#[test]
fn an_upstream_that_does_not_answer_or_hangs_up_is_told_as_for_any_request() {
    let simulator = simulator();
    let mut setup = Setup::new(&simulator);
    setup.api("response_timeout", "300ms");
    let sidecar = setup.start().ready();
    let answer = sidecar.send(&handshake("/_sim/hang"));
    assert_eq!((answer.status, answer.problem().as_str()), (504, "upstream_timeout"));
    until("every exchange is over", || simulator.control().requests().iter().all(|seen| seen.over));
    let answer = sidecar.send(&handshake("/_sim/reset-before"));
    assert_eq!((answer.status, answer.problem().as_str()), (502, "upstream_closed"));
}

#[test]
fn an_upgrade_is_refused_for_the_same_reasons_as_any_request() {
    let simulator = simulator();
    let control = simulator.control();
    let sidecar = Sidecar::start(&simulator).ready();
    control.reset_counts();
    for (request, status, code) in [
        (handshake("/_sim/websocket").host("evil.example"), 421, "host_not_allowed"),
        (handshake("/_sim/websocket").header("Origin", "http://evil.example"), 403, "cross_site"),
        (handshake("/_sim/websocket").header("Sec-Fetch-Site", "cross-site"), 403, "cross_site"),
        (handshake("/patient/auth"), 403, "login_path"),
    ] {
        let answer = sidecar.send(&request);
        assert_eq!((answer.status, answer.problem().as_str()), (status, code));
    }
    assert_eq!(control.counts().requests, 0);
}

#[test]
fn any_other_upgrade_is_served_as_a_plain_request() {
    let simulator = simulator();
    let sidecar = Sidecar::start(&simulator);
    let plain = |request: Request| {
        let mut client = sidecar.connect();
        for _ in 0..2 {
            let answer = client.send(&request);
            assert_eq!((answer.status, answer.header("upgrade")), (200, None), "{answer:?}");
            for name in ["upgrade", "connection", "http2-settings"] {
                assert_eq!(answer.echoed(name), [""; 0], "{name}");
            }
        }
    };
    let asking = |method, upgrade, connection| {
        Request::new(method, "/_sim/echo").header("Upgrade", upgrade).header("Connection", connection)
    };
    let settings = "AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA";
    // As java.net.http does by itself.
    plain(asking("GET", "h2c", "Upgrade, HTTP2-Settings").header("HTTP2-Settings", settings));
    plain(asking("POST", "h2c", "Upgrade, HTTP2-Settings").header("HTTP2-Settings", settings).body("a body"));
    plain(asking("GET", "h2c, websocket", "Upgrade"));
    plain(asking("GET", "websocket", "keep-alive"));
    plain(asking("POST", "websocket", "Upgrade"));
    plain(asking("GET", "websocket", "Upgrade").body("a body"));
    plain(asking("GET", "TLS/1.0", "Upgrade"));
}

#[test]
fn a_tunnel_is_closed_after_silence_on_both_sides_for_stream_idle() {
    let simulator = simulator();
    let mut setup = Setup::new(&simulator);
    setup.api("stream_idle", "300ms").api("body_idle", "10ms").api("client_idle", "10ms");
    let sidecar = setup.start();
    let mut client = open(&sidecar);
    let start = now();
    while start.elapsed() < 2 * SHORT {
        assert_echoes(&mut client, "still here");
        let_time_pass("the tunnel rests for less than `stream_idle`", Duration::from_millis(100));
    }
    let start = now();
    assert_eq!(client.read_to_end(), b"");
    assert!(start.elapsed() >= Duration::from_millis(150), "{:?}", start.elapsed());
    assert_eq!(sidecar.wait_for_access_lines(1)[0]["cut"], "silent");
}

/// An upstream played by the test, and a tunnel to it.
fn tunnel(setup: impl FnOnce(&mut Setup)) -> (Sidecar, Connection, Connection) {
    let upstream = ManualUpstream::listen();
    let mut with = upstream.setup();
    setup(&mut with);
    let sidecar = with.start();
    let mut client = sidecar.connect();
    client.write(&handshake("/users").head());
    let mut server = upstream.accept();
    server.read_until(b"\r\n\r\n");
    server.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nfirst");
    assert_eq!(client.head().status, 101);
    client.read_until(b"first");
    (sidecar, client, server)
}

#[test]
fn the_end_of_one_direction_is_passed_on_and_the_other_one_goes_on() {
    let (sidecar, mut client, mut server) = tunnel(|_| {});
    client.write(b"last words");
    client.finish_writing();
    assert_eq!(server.read_to_end(), b"last words");
    server.write(b"and the answer");
    server.finish_writing();
    assert_eq!(client.read_to_end(), b"and the answer");
    let line = sidecar.wait_for_access_lines(1).remove(0);
    assert_eq!((line["status"].as_u64(), line["cut"].as_str()), (Some(101), None), "{line}");
    assert_eq!((line["request_bytes"].as_u64(), line["response_bytes"].as_u64()), (Some(10), Some(19)), "{line}");
    assert_eq!((line["method"].as_str(), line["path"].as_str()), (Some("GET"), Some("/users")));
    assert!(line["duration_us"].is_u64() && line["upstream_first_byte_us"].is_u64(), "{line}");
}

#[test]
fn a_side_that_does_not_read_holds_the_other_one_back_and_is_not_silent() {
    let (sidecar, mut client, mut server) = tunnel(|setup| {
        setup.api("stream_idle", "300ms");
    });
    server.write_timeout(2 * SHORT);
    let (piece, mut written) = (vec![b'x'; 64 * 1024], 0);
    while server.try_write(&piece).is_ok() {
        written += piece.len();
        assert!(written < 64 * 1024 * 1024, "nobody reads that");
    }
    assert!(sidecar.peak_memory_kib() < 12 * 1024, "{} KiB", sidecar.peak_memory_kib());
    // The write above was stuck for longer than `stream_idle`, and all that came before it arrives.
    let mut read = 0;
    while read < written {
        let some = client.read_some();
        assert!(!some.is_empty(), "cut after {read} bytes");
        read += some.len();
    }
}

#[test]
fn a_side_that_breaks_off_takes_the_other_one_along() {
    let (sidecar, client, mut server) = tunnel(|_| {});
    drop(client);
    assert_eq!(server.read_to_end(), b"");
    drop(server);
    let (_, mut client, server) = tunnel(|_| {});
    drop(server);
    assert_eq!(client.read_to_end(), b"");
    drop(client);
    sidecar.wait_for_access_lines(1);
}

#[test]
fn a_tunnel_counts_against_max_requests_and_max_connections() {
    let simulator = simulator();
    let mut setup = Setup::new(&simulator);
    setup.api("max_requests", "1").api("max_connections", "2");
    let sidecar = setup.start().ready();
    let mut client = open(&sidecar);
    let mut other = sidecar.connect();
    assert_eq!(other.send(&Request::get("/_sim/echo")).problem(), "too_many_requests_in_flight");
    // Of the two, only the other one is idle, however long the tunnel is quiet.
    let mut third = sidecar.connect();
    third.write(&Request::get("/_sim/echo").head());
    assert_eq!(third.answer("GET").status, 503);
    assert!(other.is_closed());
    assert_echoes(&mut client, "still here");
    drop(client);
    sidecar.wait_for_event(|event| event["status"] == 101);
    assert_eq!(third.send(&Request::get("/_sim/echo")).status, 200);
    assert_eq!(sidecar.get("/_sim/echo").status, 200);
    assert_eq!(sidecar.get("/_sim/echo").status, 200);
}

#[test]
fn a_drain_waits_for_a_tunnel() {
    let simulator = simulator();
    let mut sidecar = Sidecar::start(&simulator).ready();
    let mut client = open(&sidecar);
    sidecar.signal(Signal::TERM);
    sidecar.wait_for_log("draining");
    assert_echoes(&mut client, "still here");
    drop(client);
    assert_eq!(sidecar.wait().code(), Some(0));
    assert!(!sidecar.logs().contains("the drain time ran out"));
}

#[test]
fn a_drain_cuts_a_tunnel_after_drain_timeout() {
    let simulator = simulator();
    let mut setup = Setup::new(&simulator);
    setup.global("drain_timeout", "300ms");
    let mut sidecar = setup.start().ready();
    let mut client = open(&sidecar);
    assert_echoes(&mut client, "hello");
    sidecar.signal(Signal::TERM);
    client.read_to_end();
    assert_eq!(sidecar.wait().code(), Some(0));
    let lines = sidecar.wait_for_access_lines(2);
    let line = lines.iter().find(|line| line["status"] == 101).unwrap();
    assert_eq!(line["request_bytes"], message("hello").len());
}

#[test]
fn a_tunnel_ends_when_its_client_is_gone() {
    let (sidecar, client, mut server) = tunnel(|_| {});
    drop(client);
    // Whatever the server still says has nowhere to go.
    while server.try_write(b"anybody there?").is_ok() {}
    let line = sidecar.wait_for_event(|event| event["status"] == 101);
    assert_eq!(line["cut"], "client_closed");
}
