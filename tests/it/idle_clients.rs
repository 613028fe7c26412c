//! Idle connections of clients: how long they stay, and which one is closed when `max_connections` is reached.

use std::{fs, thread, time::Duration};

use careportals_simulator::Simulator;

use crate::harness::{
    Connection, Http2, PATIENCE, Request, Setup, Sidecar,
    frames::{FrameClient, HEADERS, frame, get_fields},
    let_time_pass, never, now, simulator, until,
};

const SHORT: Duration = Duration::from_millis(300);
/// The time counts from the answer's end, which is a moment before it is read.
const ALMOST: Duration = Duration::from_millis(250);

fn with_short_idle(simulator: &Simulator) -> Sidecar {
    let mut setup = Setup::new(simulator);
    setup.api("client_idle", "300ms");
    setup.start().ready()
}

/// Opens a connection that has had an answer and is idle now.
fn idle(sidecar: &Sidecar) -> Connection {
    let mut client = sidecar.connect();
    assert_eq!(client.send(&Request::get("/_sim/status/204")).status, 204);
    client
}

#[test]
fn an_idle_connection_is_closed_after_client_idle_and_not_before() {
    let simulator = simulator();
    let sidecar = with_short_idle(&simulator);
    let mut client = idle(&sidecar);
    let start = now();
    assert_eq!(client.read_to_end(), b"");
    assert!(start.elapsed() >= ALMOST, "{:?}", start.elapsed());

    // One that asks again and again stays.
    let mut client = sidecar.connect();
    let start = now();
    while start.elapsed() < 3 * SHORT {
        assert_eq!(client.send(&Request::get("/_sim/drip?bytes=3&interval_ms=60")).status, 200);
    }
}

#[test]
fn by_default_an_idle_connection_stays() {
    let simulator = simulator();
    let sidecar = Sidecar::start(&simulator).ready();
    let mut client = idle(&sidecar);
    let_time_pass("the connection is idle for longer than the short limits of other tests", 2 * SHORT);
    assert_eq!(client.send(&Request::get("/_sim/echo")).status, 200);
}

/// How much of the program's memory is not its file's, in KiB.
fn anonymous_memory(sidecar: &Sidecar) -> u64 {
    let told = fs::read_to_string(format!("/proc/{}/smaps_rollup", sidecar.pid())).unwrap();
    let line = told.lines().find_map(|line| line.strip_prefix("Anonymous:")).unwrap();
    line.trim_end_matches("kB").trim().parse().unwrap()
}

#[cfg(target_os = "linux")]
#[test]
fn idle_connections_give_their_buffers_back_and_are_served_again() {
    const CLIENTS: u64 = 400;
    let simulator = simulator();
    let sidecar = Sidecar::start(&simulator).ready();
    drop(sidecar.get("/_sim/echo"));
    let before = anonymous_memory(&sidecar);
    let mut silent: Vec<Connection> = (0..CLIENTS / 4).map(|_| sidecar.connect()).collect();
    let mut answered: Vec<Connection> = (0..3 * CLIENTS / 4).map(|_| idle(&sidecar)).collect();
    until("the buffers of 20 KiB for each client are free", || anonymous_memory(&sidecar) < before + 6 * CLIENTS);
    for client in silent.iter_mut().chain(&mut answered) {
        assert_eq!(client.send(&Request::get("/_sim/status/204")).status, 204);
    }
}

#[test]
fn a_connection_that_was_idle_for_seconds_goes_on_where_it_was() {
    let simulator = simulator();
    let sidecar = Sidecar::start(&simulator).ready();
    let chunks = "2\r\nok\r\n0\r\n\r\n";
    let upload = format!("POST /_sim/echo HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}");
    let old = "GET /_sim/echo HTTP/1.0\r\nHost: localhost\r\nConnection: keep-alive\r\n\r\n";
    let mut clients = [("GET", Request::get("/_sim/echo").head()), ("POST", upload.into_bytes()), ("GET", old.into())].map(
        |(method, bytes)| {
            let mut client = sidecar.connect();
            client.write(&bytes);
            assert_eq!(client.answer(method).status, 200, "{method}");
            // Some clients send an empty line behind a body.
            client.write(b"\r\n");
            (client, method, bytes)
        },
    );
    for _ in 0..2 {
        let_time_pass("the connections are idle until their buffers are freed", Duration::from_millis(1300));
        for (client, method, bytes) in &mut clients {
            client.write(bytes);
            assert_eq!(client.answer(method).status, 200, "{method}");
        }
    }
    // A head may come in two parts, with a pause between them.
    let (client, ..) = &mut clients[0];
    client.write(b"GET /_sim/echo HTTP/1.1\r\nHo");
    let_time_pass("a part of a head is no idleness", Duration::from_millis(1300));
    client.write(b"st: localhost\r\n\r\n");
    assert_eq!(client.answer("GET").status, 200);
}

#[test]
fn the_rest_of_a_body_is_no_request_however_long_it_takes() {
    let simulator = simulator();
    let control = simulator.control();
    let mut setup = Setup::new(&simulator);
    setup.api("deny", "[\"POST /customers/**\"]");
    let sidecar = setup.start().ready();
    let smuggled = Request::get("/_sim/status/204").head();
    // One is answered by the upstream before it has the body, the other one by the sidecar.
    for (path, status) in [("/_sim/early?status=413", 413), ("/customers/1", 403)] {
        let mut client = sidecar.connect();
        let length = (smuggled.len() + 1).to_string();
        client.write(&Request::new("POST", path).header("Content-Length", &length).head());
        client.write(b"x");
        assert_eq!(client.answer("POST").status, status, "{path}");
        let_time_pass("a connection without a body to come would have freed its buffers", Duration::from_millis(1300));
        control.reset_counts();
        // The connection may have been closed by now.
        let _closed = client.try_write(&smuggled);
        never("the body is taken for a request", Duration::from_millis(500), || control.counts().requests > 0);
    }
}

#[test]
fn a_request_in_progress_is_not_idle() {
    let simulator = simulator();
    let sidecar = with_short_idle(&simulator);
    // A silent upstream, a slow upload and a slow download do not make the client idle.
    let quiet = Request::get("/_sim/sse?events=2&interval_ms=900");
    assert!(!sidecar.send(&quiet).cut);
    assert!(!Http2::connect(sidecar.address()).send(&quiet).cut);
    let mut client = sidecar.connect();
    client.write(b"POST /_sim/echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\nsl");
    let_time_pass("the client pauses in its body for longer than `client_idle`", 2 * SHORT);
    client.write(b"ow");
    assert_eq!(client.answer("POST").json()["body"], "slow");
}

#[test]
fn a_client_that_reads_slowly_does_not_trip_client_idle() {
    const BYTES: usize = 12 * 1024 * 1024;
    let simulator = simulator();
    let sidecar = with_short_idle(&simulator);
    let mut client = sidecar.connect();
    client.write(&Request::get(&format!("/_sim/download?bytes={BYTES}")).head());
    assert_eq!(client.head().status, 200);
    let mut left = BYTES;
    let mut pauses = 0;
    while left > 0 {
        // So slow at the end that what is left waits in the sidecar's memory and the kernel's.
        if left < 6 * 1024 * 1024 && pauses < 2 {
            pauses += 1;
            let_time_pass("the client does not read for longer than `client_idle`", 3 * SHORT);
        }
        let some = client.read_some();
        assert!(!some.is_empty(), "cut with {left} bytes left");
        left -= some.len();
    }
}

#[test]
fn an_idle_http2_connection_is_told_and_closed_and_pings_do_not_keep_it() {
    let simulator = simulator();
    let sidecar = with_short_idle(&simulator);
    let (mut client, mut pings) = Http2::ping(sidecar.address());
    assert_eq!(client.get("/_sim/echo").status, 200);
    let start = now();
    while client.pong(&mut pings) {
        assert!(start.elapsed() < PATIENCE, "still open");
        client.stay_for("the client pings now and then", Duration::from_millis(20));
    }
    client.closed().unwrap();
    assert!(start.elapsed() >= ALMOST);

    // One that does not answer is closed all the same.
    let mut mute = FrameClient::connect(sidecar.address());
    mute.write(&frame(HEADERS, 5, 1, &get_fields("/_sim/status/204", &[])));
    assert_eq!(mute.last_words(), Some(0));
}

#[test]
fn an_http2_connection_with_a_stream_open_is_not_idle() {
    let simulator = simulator();
    let control = simulator.control();
    let sidecar = with_short_idle(&simulator);
    let mut client = Http2::connect(sidecar.address());
    control.reset_counts();
    control.hold_requests(true);
    let stream = client.open(&Request::get("/_sim/echo"), true);
    client.turn();
    until("the upstream has got one request", || control.counts().requests == 1);
    client.stay_for("the stream lasts longer than `client_idle`", 3 * SHORT);
    control.hold_requests(false);
    assert_eq!(client.answer(stream).status, 200);
    // The time counts from the last stream's end.
    assert_eq!(client.get("/_sim/echo").status, 200);
}

#[test]
fn at_max_connections_the_connection_that_was_idle_longest_is_closed_for_a_new_one() {
    let simulator = simulator();
    let mut setup = Setup::new(&simulator);
    setup.api("max_connections", "3");
    let sidecar = setup.start();
    drop(sidecar.get("/users/account"));
    let [mut first, mut second, mut third] = [idle(&sidecar), idle(&sidecar), idle(&sidecar)];
    // Used again, it is not the longest idle any more.
    assert_eq!(first.send(&Request::get("/_sim/echo")).status, 200);
    let mut fourth = idle(&sidecar);
    assert!(second.is_closed());
    for client in [&mut first, &mut third, &mut fourth] {
        assert_eq!(client.send(&Request::get("/_sim/echo")).status, 200);
    }
}

#[test]
fn at_max_connections_an_idle_http2_connection_is_closed_and_a_busy_one_is_not() {
    let simulator = simulator();
    let control = simulator.control();
    let mut setup = Setup::new(&simulator);
    setup.api("max_connections", "2").variable("CAREPORTALS_WORKERS", "1");
    let sidecar = setup.start().ready();
    let (mut busy, mut quiet) = (Http2::connect(sidecar.address()), Http2::connect(sidecar.address()));
    assert_eq!(quiet.get("/_sim/echo").status, 200);
    control.reset_counts();
    control.hold_requests(true);
    let stream = busy.open(&Request::get("/_sim/echo"), true);
    busy.turn();
    until("the upstream has got one request", || control.counts().requests == 1);
    let mut late = sidecar.connect();
    late.write(&Request::get("/_sim/status/204").head());
    quiet.closed().unwrap();
    until("the upstream has got two requests", || control.counts().requests == 2);
    control.hold_requests(false);
    assert_eq!(late.answer("GET").status, 204);
    assert_eq!(busy.answer(stream).status, 200);
}

#[test]
fn under_a_crowd_no_request_that_was_taken_up_is_lost() {
    let simulator = simulator();
    let control = simulator.control();
    let mut setup = Setup::new(&simulator);
    setup.api("max_connections", "4");
    let sidecar = setup.start().ready();
    control.reset_counts();
    let request = Request::get("/_sim/status/404");
    let talk = || {
        let mut answered = 0;
        for _ in 0..10 {
            let mut client = sidecar.connect();
            // The first is answered for certain; before a later one, others may have pushed this client out.
            while let Some(answer) = client.try_send(&request) {
                assert_eq!(answer.status, 404);
                answered += 1;
                if answered % 4 == 0 {
                    break;
                }
            }
        }
        answered
    };
    let answered: u64 = thread::scope(|scope| {
        let crowd: Vec<_> = (0..12).map(|_| scope.spawn(talk)).collect();
        crowd.into_iter().map(|client| client.join().unwrap()).sum()
    });
    assert!(answered >= 120, "{answered}");
    assert_eq!(control.counts().requests, answered);
}
