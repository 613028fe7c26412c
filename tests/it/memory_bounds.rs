//! What small pieces of bodies, answers that nobody reads and bursts take in memory. `tests/drills/memory` measures what all of
//! it comes to in a container.

use std::{thread, time::Duration};

use h2::client::Builder;

use crate::harness::{
    Connection, Http2, ManualUpstream, Request, Setup, Sidecar,
    frames::{FrameClient, HEADERS, PING, SETTINGS, WHOLE, frame, get_fields},
    let_time_pass, simulator, until,
};

/// What a request may take in a debug build, in KiB, besides what is measured here: its connections, tasks and futures.
const REQUEST: u64 = 100;

/// By how much the peak has grown since it was `before`, for each of `requests`, in KiB.
fn grown(sidecar: &Sidecar, before: u64, requests: usize) -> u64 {
    (sidecar.peak_memory_kib() - before) / requests as u64
}

#[test]
fn an_upload_in_tiny_chunks_takes_no_more_than_its_bytes_while_it_is_kept() {
    const CLIENTS: usize = 30;
    let simulator = simulator();
    let sidecar = Sidecar::start(&simulator).ready();
    assert_eq!(sidecar.get("/_sim/echo").status, 200);
    let before = sidecar.peak_memory_kib();
    let head = Request::new("POST", "/_sim/upload").header("transfer-encoding", "chunked").head();
    let mut clients: Vec<Connection> = (0..CLIENTS).map(|_| sidecar.connect()).collect();
    for client in &mut clients {
        client.write(&head);
    }
    let arrived = || simulator.control().requests().iter().map(|seen| seen.body_bytes).sum::<u64>();
    for number in 1..=250 {
        for client in &mut clients {
            client.write(b"1\r\nx\r\n");
        }
        until("each chunk is read apart", || arrived() == number * CLIENTS as u64);
    }
    let grown = grown(&sidecar, before, CLIENTS);
    assert!(grown < REQUEST, "{grown} KiB a request");
    for mut client in clients {
        client.write(b"0\r\n\r\n");
        assert_eq!(client.answer("POST").json()["bytes"], 250);
    }
}

#[test]
fn events_that_an_http2_client_does_not_read_are_joined_and_arrive_whole() {
    const CLIENTS: usize = 8;
    const EVENTS: usize = 4000;
    let upstream = ManualUpstream::listen();
    let mut setup = upstream.setup();
    setup.variable("CAREPORTALS_LOG", "info");
    let sidecar = setup.start();
    assert_eq!(sidecar.connect().send(&Request::new("TRACE", "/")).status, 405);
    let mut http2 =
        Http2::with(sidecar.address(), Builder::new().initial_window_size(1 << 20).initial_connection_window_size(1 << 24));
    let begin = |_| {
        let stream = http2.open(&Request::get("/events"), true);
        http2.turn();
        let mut server = upstream.accept();
        server.read_until(b"\r\n\r\n");
        server.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n");
        (http2.head(stream), server)
    };
    let (answers, mut servers): (Vec<_>, Vec<_>) = (0..CLIENTS).map(begin).unzip();
    let before = sidecar.peak_memory_kib();
    let event = |number: usize| format!("id: {number:05}\ndata: {}\n\n", "e".repeat(80));
    for number in 0..EVENTS {
        let chunk = event(number);
        let chunk = format!("{:x}\r\n{chunk}\r\n", chunk.len());
        // It holds upstream back at the end. What it can't write now, it writes while the client reads.
        for server in &mut servers {
            server.write(chunk.as_bytes());
        }
        if number % 8 == 0 {
            let_time_pass("events come apart", Duration::from_millis(1));
        }
    }
    for server in &mut servers {
        server.write(b"0\r\n\r\n");
    }
    // 64 KiB that h2 holds, what is joined, and a read buffer of upstream's.
    let grown = grown(&sidecar, before, CLIENTS);
    assert!(grown < REQUEST + 64 + 32 + 64, "{grown} KiB a request");
    let whole: String = (0..EVENTS).map(event).collect();
    for answer in answers {
        let answer = http2.rest(answer);
        assert!(!answer.cut && answer.text() == whole, "{} of {} bytes", answer.body.len(), whole.len());
    }
}

#[test]
fn http2_streams_that_are_refused_and_never_read_take_little() {
    const CONNECTIONS: usize = 20;
    let simulator = simulator();
    let mut setup = Setup::new(&simulator);
    setup.variable("CAREPORTALS_LOG", "info");
    let sidecar = setup.start();
    let before = sidecar.peak_memory_kib();
    // No stream may send a byte of its body.
    let windowless = frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]);
    let refused = |number: u32| frame(HEADERS, WHOLE, 2 * number + 1, &get_fields("/patient/auth", &[]));
    let connect = |_| {
        let mut client = FrameClient::silent(sidecar.address());
        let streams: Vec<u8> = (0..100).flat_map(refused).collect();
        client.write(&[crate::harness::frames::PREFACE, &windowless, &streams, &frame(PING, 0, 0, b"all read")].concat());
        while client.next(PING).unwrap().payload != b"all read" {}
        client
    };
    let clients: Vec<FrameClient> = (0..CONNECTIONS).map(connect).collect();
    let grown = grown(&sidecar, before, CONNECTIONS * 100);
    assert!(grown < 6, "{grown} KiB a stream");
    drop(clients);
}

#[test]
fn memory_goes_back_to_the_system_after_a_burst() {
    const CLIENTS: usize = 40;
    const BYTES: usize = 500_000;
    let simulator = simulator();
    let mut setup = Setup::new(&simulator);
    setup.api("replay_buffer", "1MiB");
    let sidecar = setup.start().ready();
    simulator.control().hold_requests(true);
    let head = Request::new("POST", "/_sim/upload").header("content-length", &BYTES.to_string()).head();
    let burst = |_| {
        let mut client = sidecar.connect();
        client.write(&head);
        client.write(&vec![b'b'; BYTES]);
        client
    };
    let before = sidecar.memory_kib("RssAnon");
    let clients: Vec<Connection> = (0..CLIENTS).map(burst).collect();
    until("the bodies are kept", || sidecar.memory_kib("RssAnon") > before + CLIENTS as u64 * 400);
    simulator.control().hold_requests(false);
    thread::scope(|scope| {
        for mut client in clients {
            scope.spawn(move || assert_eq!(client.answer("POST").status, 200));
        }
    });
    until("memory is given back", || sidecar.memory_kib("RssAnon") < before + CLIENTS as u64 * 150);
}
