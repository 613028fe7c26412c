//! Slow clients, hoarders and floods over HTTP/1.1: whoever else calls meanwhile is served promptly, and memory stays within
//! bounds that the settings explain.

use std::{
    fs,
    io::{ErrorKind, Read, Write},
    net::{Shutdown, TcpStream},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use careportals_simulator::Simulator;

use crate::harness::{
    Connection, PATIENCE, PlainServer, Request, SetAtEnd, Setup, Sidecar, let_time_pass, never, now, simulator, until,
};

/// Answers of the simulator take milliseconds; the rest is for machines that have much else to do. Shorter than every
/// default time-out that somebody could have to wait for because of a flood.
const PROMPTLY: Duration = Duration::from_secs(8);

/// The program at rest in a debug build, in KiB, which is half of it, and what the allocator keeps of what was freed.
const AT_REST: u64 = 8 * 1024;
/// What a connection takes by itself: 8 KiB for the parser to read into, its task, its permit, its deadline; a debug build's
/// futures are larger than a release build's.
const CONNECTION: u64 = 32;
/// A head under way: `max_header_bytes` of text, and the buffer of half that size which it has outgrown.
const HEAD: u64 = 64 + 32;
/// An exchange under way, each way: 64 KiB that wait to be written, 64 KiB that were read, and a TLS record of upstream's;
/// and 64 KiB of `replay_buffer`.
const EXCHANGE: u64 = 2 * (64 + 64) + 2 * 16 + 64;

fn with(simulator: &Simulator, keys: &[(&str, &str)]) -> Sidecar {
    let mut setup = Setup::new(simulator);
    // No line for each of thousands of connections.
    setup.variable("CAREPORTALS_LOG", "info");
    for (key, value) in keys {
        setup.api(key, value);
    }
    setup.start().ready()
}

fn open(sidecar: &Sidecar, count: usize) -> Vec<TcpStream> {
    // Looked up once: the address is in the log, which grows.
    let address = sidecar.address();
    let connect = |_| {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream
    };
    (0..count).map(connect).collect()
}

/// Reads everything until the other side closes or resets.
fn rest(stream: &mut TcpStream) -> Vec<u8> {
    let (mut all, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return all,
            Ok(read) => all.extend_from_slice(&buffer[..read]),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return all,
            Err(error) => panic!("{error}"),
        }
    }
}

/// Runs the flood while another client goes on asking, in turn on a kept connection and on a new one. Each answer must come
/// promptly.
fn while_another_is_served(sidecar: &Sidecar, flood: impl FnOnce()) {
    let over = AtomicBool::new(false);
    let (address, ask) = (sidecar.address(), Request::get("/_sim/echo?another"));
    let connect = || Connection::tcp(TcpStream::connect(address).unwrap());
    let mut kept = connect();
    // From here on it is idle between requests, and no time-out of a first head counts for it.
    assert_eq!(kept.send(&ask).status, 200);
    thread::scope(|scope| {
        let another = scope.spawn(|| {
            let (mut served, mut slowest) = (0, Duration::ZERO);
            while served < 4 || !over.load(Ordering::Relaxed) {
                let start = now();
                let status = if served % 2 == 0 { connect().send(&ask).status } else { kept.send(&ask).status };
                assert_eq!(status, 200);
                slowest = slowest.max(start.elapsed());
                served += 1;
                let_time_pass("the other client asks now and then", Duration::from_millis(5));
            }
            slowest
        });
        let end = SetAtEnd(&over);
        flood();
        drop(end);
        let slowest = another.join().unwrap();
        assert!(slowest < PROMPTLY, "{slowest:?}");
    });
}

/// Asserts that the daemon never took more than `bound` KiB.
fn assert_memory_within(sidecar: &Sidecar, bound: u64) {
    let peak = sidecar.peak_memory_kib();
    assert!(peak < bound, "{peak} KiB, more than {bound}");
}

/// Counts the requests that the simulator got from the flood.
fn forwarded(simulator: &Simulator) -> usize {
    let others = |target: &str| target == "/_sim/echo?another" || target == "/users/account";
    simulator.control().requests().iter().filter(|seen| !others(&seen.target)).count()
}

fn until_all_are_over(simulator: &Simulator) {
    until("every exchange is over", || simulator.control().requests().iter().all(|seen| seen.over));
}

#[test]
fn a_head_that_begins_with_the_request_before_it_has_its_time_too() {
    let simulator = simulator();
    let sidecar = with(&simulator, &[("head_timeout", "500ms")]);
    let mut client = sidecar.connect();
    client.write(&[&Request::get("/users/account").head()[..], b"GET /users/account HTTP/1.1\r\nHost:"].concat());
    assert_eq!(client.answer("GET").status, 200);
    client.read_to_end();
}

#[test]
fn heads_that_drip_in_byte_by_byte_from_many_end_with_head_timeout() {
    const CLIENTS: usize = 300;
    let simulator = simulator();
    let sidecar = with(&simulator, &[("head_timeout", "500ms")]);
    while_another_is_served(&sidecar, || {
        let (start, mut slow) = (now(), open(&sidecar, CLIENTS));
        for stream in &slow {
            stream.set_nonblocking(true).unwrap();
        }
        let head = b"GET /_sim/echo?slow HTTP/1.1\r\nHost: localhost\r\nX-Slow: ".iter().chain(std::iter::repeat(&b's'));
        for byte in head {
            slow.retain_mut(|stream| stream.write_all(&[*byte]).is_ok() && !matches!(stream.read(&mut [0; 64]), Ok(0)));
            if slow.is_empty() {
                break;
            }
            assert!(start.elapsed() < PATIENCE, "{} are still there", slow.len());
            let_time_pass("the heads drip in", Duration::from_millis(5));
        }
        assert!(start.elapsed() >= Duration::from_millis(500));
    });
    assert_eq!(forwarded(&simulator), 0);
    assert_memory_within(&sidecar, AT_REST + CLIENTS as u64 * CONNECTION);
}

#[test]
fn head_bombs_at_the_limit_from_many_connections_are_bounded_by_it() {
    const CLIENTS: usize = 150;
    let simulator = simulator();
    let sidecar = with(&simulator, &[("head_timeout", "700ms")]);
    while_another_is_served(&sidecar, || {
        let bomb = format!("GET /_sim/echo?bomb HTTP/1.1\r\nHost: localhost\r\n{}", "X-Bomb: boom\r\n".repeat(90));
        let bomb = format!("{bomb}X-Long: {}", "b".repeat(64 * 1024 - 16 - bomb.len()));
        let thrown = |_| {
            let mut stream = open(&sidecar, 1).remove(0);
            stream.write_all(bomb.as_bytes()).unwrap();
            stream
        };
        let bombs: Vec<TcpStream> = (0..CLIENTS).map(thrown).collect();
        // Not one byte more than is allowed: they are not refused, they wait.
        for mut stream in bombs {
            assert_eq!(rest(&mut stream), b"");
        }
    });
    assert_eq!(forwarded(&simulator), 0);
    assert_memory_within(&sidecar, AT_REST + CLIENTS as u64 * (CONNECTION + HEAD));
}

#[test]
fn a_client_that_hoards_silent_connections_loses_them_to_others_at_once() {
    const LIMIT: usize = 50;
    let simulator = simulator();
    let sidecar = with(&simulator, &[("max_connections", "50")]);
    let mut silent = open(&sidecar, 20 * LIMIT);
    let start = now();
    assert_eq!(sidecar.get("/_sim/echo").status, 200);
    assert!(start.elapsed() < PROMPTLY, "{:?}", start.elapsed());
    // The longest idle ones were closed.
    for stream in &mut silent[..LIMIT] {
        assert_eq!(rest(stream), b"");
    }
    assert_memory_within(&sidecar, AT_REST + LIMIT as u64 * CONNECTION);
}

#[test]
fn a_client_that_hoards_idle_connections_loses_one_to_others_at_once() {
    const LIMIT: usize = 120;
    let simulator = simulator();
    let sidecar = with(&simulator, &[("max_connections", "120")]);
    let mut idle: Vec<Connection> = (0..LIMIT).map(|_| sidecar.connect()).collect();
    for client in &mut idle {
        assert_eq!(client.send(&Request::get("/_sim/status/204")).status, 204);
    }
    for _ in 0..LIMIT {
        let start = now();
        assert_eq!(sidecar.get("/_sim/status/204").status, 204);
        assert!(start.elapsed() < PROMPTLY, "{:?}", start.elapsed());
    }
    assert_memory_within(&sidecar, AT_REST + 2 * LIMIT as u64 * CONNECTION);
}

#[test]
fn bodies_that_stall_are_told_408_and_count_no_longer_as_in_flight() {
    const CLIENTS: usize = 48;
    let simulator = simulator();
    // One is left for another client.
    let sidecar = with(&simulator, &[("body_idle", "500ms"), ("max_requests", "49")]);
    while_another_is_served(&sidecar, || {
        let mut stalled = open(&sidecar, CLIENTS);
        for (number, stream) in stalled.iter_mut().enumerate() {
            let framing = if number % 2 == 0 { "Content-Length: 1000" } else { "Transfer-Encoding: chunked" };
            write!(stream, "POST /_sim/upload HTTP/1.1\r\nHost: localhost\r\n{framing}\r\n\r\n1\r\nx").unwrap();
        }
        for stream in stalled {
            let answer = Connection::tcp(stream).answer("POST");
            assert_eq!((answer.status, answer.header("connection")), (408, Some("close")));
        }
    });
    until_all_are_over(&simulator);
    let whole = simulator.control().requests().iter().filter(|seen| seen.method == "POST" && seen.complete).count();
    assert_eq!(whole, 0, "what is missing is not made up");
    assert_memory_within(&sidecar, AT_REST + CLIENTS as u64 * (CONNECTION + EXCHANGE));
}

#[test]
fn a_body_in_a_great_many_small_pieces_takes_no_more_memory_than_others() {
    const CLIENTS: usize = 16;
    let simulator = simulator();
    let sidecar = with(&simulator, &[]);
    while_another_is_served(&sidecar, || {
        let mut clients = open(&sidecar, CLIENTS);
        let pieces = "1\r\nx\r\n".repeat(10_000);
        for stream in &mut clients {
            write!(stream, "POST /_sim/slow-read?bytes_per_second=1 HTTP/1.1\r\nHost: localhost\r\n").unwrap();
            write!(stream, "Transfer-Encoding: chunked\r\n\r\n{pieces}").unwrap();
            stream.set_nonblocking(true).unwrap();
        }
        // This writes until no client can write any more.
        let start = now();
        while start.elapsed() < Duration::from_millis(700) {
            for stream in &mut clients {
                let _ = stream.write(pieces.as_bytes());
            }
            let_time_pass("what can be read is read before more is written", Duration::from_millis(5));
        }
    });
    assert_memory_within(&sidecar, AT_REST + CLIENTS as u64 * (CONNECTION + EXCHANGE));
}

#[test]
fn clients_that_never_read_their_answer_hold_back_upstream_and_nobody_else() {
    const CLIENTS: usize = 12;
    const BYTES: u64 = 64 * 1024 * 1024;
    let simulator = simulator();
    let sidecar = with(&simulator, &[("body_idle", "1500ms")]);
    let answers = || {
        let requests = simulator.control().requests().into_iter();
        requests.filter(|seen| seen.target.contains("download")).collect::<Vec<_>>()
    };
    while_another_is_served(&sidecar, || {
        let mut deaf = open(&sidecar, CLIENTS);
        for stream in &mut deaf {
            write!(stream, "GET /_sim/download?bytes={BYTES} HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        }
        until("every client is being answered", || answers().len() == CLIENTS);
        // Longer than `body_idle`: it is not upstream that is silent. A kernel whose buffers fill up may pause for less.
        never("an answer is given up", Duration::from_secs(2), || answers().iter().any(|seen| seen.over));
        assert!(answers().iter().all(|seen| seen.answer_bytes < BYTES / 2));
    });
    until_all_are_over(&simulator);
    assert_memory_within(&sidecar, AT_REST + CLIENTS as u64 * (CONNECTION + EXCHANGE));
}

#[test]
fn thousands_of_pipelined_requests_whose_answers_nobody_reads_wait_their_turn() {
    const CLIENTS: usize = 4;
    let simulator = simulator();
    let sidecar = with(&simulator, &[]);
    while_another_is_served(&sidecar, || {
        let mut clients = open(&sidecar, CLIENTS);
        let requests = "GET /_sim/download?bytes=100000 HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(2000);
        for stream in &mut clients {
            stream.set_nonblocking(true).unwrap();
            let mut written = 0;
            while let Ok(more) = stream.write(&requests.as_bytes()[written..]) {
                written += more;
                if written == requests.len() {
                    break;
                }
            }
        }
        // The kernel keeps some MiB for each client that does not read; 200 MB were asked for.
        never("requests are forwarded whose answers have no room", Duration::from_millis(900), || {
            forwarded(&simulator) > CLIENTS * 200
        });
        assert!(forwarded(&simulator) > CLIENTS);
    });
    until_all_are_over(&simulator);
    assert_memory_within(&sidecar, AT_REST + CLIENTS as u64 * (CONNECTION + EXCHANGE));
}

#[test]
fn pipelined_garbage_is_not_read_on() {
    const CLIENTS: usize = 20;
    const PATIENT: usize = 16 * 1024 * 1024;
    let simulator = simulator();
    let sidecar = with(&simulator, &[]);
    while_another_is_served(&sidecar, || {
        for (number, mut stream) in open(&sidecar, CLIENTS).into_iter().enumerate() {
            stream.write_all(b"GET /_sim/status/404?first HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
            let piece = match number % 3 {
                0 => vec![b'x'; 64 * 1024],
                1 => vec![0; 64 * 1024],
                _ => b"\r\n".repeat(32 * 1024),
            };
            let mut written = 0;
            while written < PATIENT && stream.write_all(&piece).is_ok() {
                written += piece.len();
            }
            assert!(written < PATIENT, "{number}: somebody reads that");
        }
    });
    assert_eq!(forwarded(&simulator), CLIENTS);
    assert_memory_within(&sidecar, AT_REST + CLIENTS as u64 * (CONNECTION + HEAD));
}

#[test]
fn clients_that_come_and_go_leave_nothing_behind() {
    const CLIENTS: usize = 1500;
    let simulator = simulator();
    let sidecar = with(&simulator, &[]);
    let open_files = || fs::read_dir(format!("/proc/{}/fd", sidecar.pid())).unwrap().count();
    let before = open_files();
    while_another_is_served(&sidecar, || {
        let address = sidecar.address();
        for number in 0..CLIENTS {
            let mut stream = TcpStream::connect(address).unwrap();
            match number % 5 {
                0 => {}
                1 => stream.write_all(b"GET /_sim/ec").unwrap(),
                2 => stream.shutdown(Shutdown::Write).unwrap(),
                3 => socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap(),
                _ => stream.write_all(b"GET /auth HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap(),
            }
        }
    });
    assert_eq!(forwarded(&simulator), 0);
    // Beside what was open before there may be two connections to upstream that were not needed then.
    until(&format!("no more than {} files are open", before + 2), || open_files() <= before + 2);
    assert_memory_within(&sidecar, AT_REST + 64 * CONNECTION);
}

#[test]
fn clients_that_stop_writing_in_a_head_or_body_are_let_go_at_once() {
    const CLIENTS: usize = 60;
    let simulator = simulator();
    // No limit but the longest ones.
    let sidecar = with(&simulator, &[]);
    while_another_is_served(&sidecar, || {
        let start = now();
        let mut clients = open(&sidecar, CLIENTS);
        for (number, stream) in clients.iter_mut().enumerate() {
            let begun = if number % 2 == 0 {
                ""
            } else {
                "POST /_sim/upload HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nhalf"
            };
            stream.write_all(begun.as_bytes()).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
        }
        for mut stream in clients {
            rest(&mut stream);
        }
        assert!(start.elapsed() < PROMPTLY, "{:?}", start.elapsed());
    });
    until_all_are_over(&simulator);
    assert!(simulator.control().requests().iter().all(|seen| seen.method != "POST" || !seen.complete));
    assert_memory_within(&sidecar, AT_REST + CLIENTS as u64 * (CONNECTION + EXCHANGE));
}

/// Of what the upstream says nothing is passed on, so nothing else stops whoever reads it.
#[test]
fn an_upstream_that_floods_some_requests_loses_them_and_keeps_no_other_one_waiting() {
    const FLOODED: usize = 2;
    const CHUNKED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    const WEBSOCKET: &str = "Upgrade: websocket\r\nConnection: upgrade\r\nSec-WebSocket-Version: 13\r\n";
    for (fields, beginning, flood) in [
        ("", "", "HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n"),
        ("", CHUNKED, "00000000000000000000000000000000"),
        ("", &format!("{CHUNKED}4\r\nsome\r\n1"), "                                "),
        (WEBSOCKET, CHUNKED, "00000000000000000000000000000000"),
        ("", CHUNKED, &("0".repeat(8000) + "1\r\nx\r\n")),
    ] {
        let beginning = beginning.to_owned();
        let (to_write, to_repeat) = (beginning.clone(), flood.to_owned());
        let upstream = PlainServer::start(move |accepted| {
            let Ok(reading) = accepted.stream.try_clone() else { return };
            let mut connection = Connection::tcp(reading);
            let head = connection.read_until(b"\r\n\r\n");
            if head.starts_with(b"GET /flood") {
                connection.write(to_write.as_bytes());
                while connection.try_write(to_repeat.repeat(256).as_bytes()).is_ok() {}
            } else {
                connection.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            }
        });
        let mut setup = Setup::plain(upstream.address());
        setup.variable("CAREPORTALS_WORKERS", "1");
        let sidecar = setup.start();
        let mut flooded = open(&sidecar, FLOODED);
        for client in &mut flooded {
            client.write_all(format!("GET /flood HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n").as_bytes()).unwrap();
        }
        let start = now();
        for _ in 0..20 {
            assert_eq!(sidecar.get("/other").status, 200);
        }
        assert!(start.elapsed() < PROMPTLY, "{flood}: {:?}", start.elapsed());
        for client in flooded {
            let mut connection = Connection::tcp(client);
            if beginning.is_empty() {
                assert_eq!(connection.answer("GET").problem(), "upstream_protocol", "{flood}");
            } else {
                assert!(connection.read_until(b"\r\n\r\n").starts_with(b"HTTP/1.1 200 "), "{flood}");
                assert!(!connection.read_to_end().ends_with(b"\r\n0\r\n\r\n"), "{flood}");
            }
        }
    }
}

#[test]
fn clients_that_send_a_chunk_s_size_without_end_are_refused_and_keep_no_other_one_waiting() {
    const FLOODING: usize = 8;
    let simulator = simulator();
    let mut setup = Setup::new(&simulator);
    setup.variable("CAREPORTALS_WORKERS", "1");
    let sidecar = setup.start().ready();
    while_another_is_served(&sidecar, || {
        for (beginning, flood) in [("", "0"), ("4\r\nsome\r\n1", " "), ("", &("0".repeat(8000) + "1\r\nx\r\n"))] {
            let flood = &flood.repeat(4096 / flood.len() + 1);
            let flooding = open(&sidecar, FLOODING);
            thread::scope(|scope| {
                for mut client in flooding {
                    scope.spawn(move || {
                        let head = "POST /_sim/echo?flood HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n";
                        client.write_all(format!("{head}{beginning}").as_bytes()).unwrap();
                        while client.write_all(flood.as_bytes()).is_ok() {}
                    });
                }
            });
        }
    });
    until_all_are_over(&simulator);
    assert!(simulator.control().requests().iter().all(|seen| seen.method != "POST" || !seen.complete));
}
