//! Who holds a connection's place against others: nobody but a request that was admitted and is in progress.

use std::{
    fs,
    io::Write,
    net::{SocketAddr, TcpStream},
    os::unix::{fs::PermissionsExt, net::UnixStream},
    path::Path,
    thread,
    time::Duration,
};

use careportals_simulator::Simulator;
use rustix::{
    process::{Gid, Uid, getuid},
    thread::{set_thread_gid, set_thread_groups, set_thread_uid},
};

use crate::harness::{
    Answer, Connection, Http2, PASSWORD, PATIENCE, Request, Setup, Sidecar,
    frames::{FrameClient, HEADERS, frame, get_fields},
    let_time_pass, never, now, simulator, until, until_within,
};

/// Shorter than any time-out that somebody could have to wait for, and long enough for a busy machine.
const PROMPTLY: Duration = Duration::from_secs(5);
const FRIEND: u32 = 65_521;
const STRANGER: u32 = 65_522;

/// A client of any kind of socket.
trait Client: Write + Send {}

impl<T: Write + Send> Client for T {}

/// How an attacker uses a connection.
#[derive(Clone, Copy, Debug)]
enum Attack {
    Idle,
    OneByte,
    NeverReads,
    SlowUpload,
}

impl Attack {
    const ALL: [Self; 4] = [Self::Idle, Self::OneByte, Self::NeverReads, Self::SlowUpload];

    /// What is written, as far as it is taken.
    fn bytes(self) -> Vec<u8> {
        match self {
            Self::Idle => Vec::new(),
            Self::OneByte => b"G".to_vec(),
            // Far more than the kernel keeps of the answers.
            Self::NeverReads => b"GET /auth HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(20_000),
            Self::SlowUpload => b"POST /auth HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\nx".to_vec(),
        }
    }

    fn over_tcp(self, address: SocketAddr) -> Box<dyn Client> {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_nonblocking(true).unwrap();
        write_what_is_taken(&mut stream, &self.bytes());
        Box::new(stream)
    }

    fn over_unix(self, path: &Path) -> Box<dyn Client> {
        let mut stream = UnixStream::connect(path).unwrap();
        stream.set_nonblocking(true).unwrap();
        write_what_is_taken(&mut stream, &self.bytes());
        Box::new(stream)
    }
}

fn write_what_is_taken(stream: &mut impl Write, bytes: &[u8]) {
    let mut written = 0;
    while let Some(rest) = bytes.get(written..).filter(|rest| !rest.is_empty()) {
        match stream.write(rest) {
            Ok(some) => written += some,
            Err(_) => return,
        }
    }
}

fn with_connections(simulator: &Simulator, most: usize) -> Setup {
    let mut setup = Setup::new(simulator);
    setup.api("max_connections", &most.to_string()).variable("CAREPORTALS_LOG", "info");
    setup
}

/// Whether it is a 200 that came promptly.
#[track_caller]
fn assert_prompt(what: &str, ask: impl FnOnce() -> Answer) {
    let start = now();
    assert_eq!(ask().status, 200, "{what}");
    assert!(start.elapsed() < PROMPTLY, "{what}: {:?}", start.elapsed());
}

#[test]
fn clients_that_use_no_place_give_it_up_at_once_over_tcp_and_unix_sockets() {
    const LIMIT: usize = 16;
    let simulator = simulator();
    for attack in Attack::ALL {
        let mut setup = with_connections(&simulator, LIMIT);
        let socket = setup.dir.path().join("api.sock");
        setup.variable("CAREPORTALS_LISTEN", &format!("127.0.0.1:0,unix:{}", socket.display()));
        let sidecar = setup.start().ready();
        let address = sidecar.address();
        let _over_tcp: Vec<_> = (0..3 * LIMIT).map(|_| attack.over_tcp(address)).collect();
        let _over_unix: Vec<_> = (0..3 * LIMIT).map(|_| attack.over_unix(&socket)).collect();
        for _ in 0..3 {
            assert_prompt(&format!("{attack:?} over TCP"), || sidecar.get("/_sim/echo"));
            let over_unix = || Sidecar::connect_unix(&socket).send(&Request::get("/_sim/echo"));
            assert_prompt(&format!("{attack:?} over a Unix socket"), over_unix);
        }
    }
}

#[test]
fn http2_clients_that_use_no_place_give_it_up_at_once() {
    const LIMIT: usize = 8;
    let simulator = simulator();
    let refused: Vec<u8> =
        (0..4000_u32).flat_map(|number| frame(HEADERS, 5, 2 * number + 1, &get_fields("/auth", &[]))).collect();
    let idle = |address| FrameClient::connect(address);
    let partial = |address| {
        let mut client = FrameClient::connect(address);
        client.write(&frame(HEADERS, 5, 1, &get_fields("/auth", &[]))[..4]);
        client
    };
    let never_reads = |address| {
        let mut client = FrameClient::connect(address);
        client.flood(&refused, Duration::from_millis(50), refused.len());
        client
    };
    for attack in [&idle as &dyn Fn(SocketAddr) -> FrameClient, &partial, &never_reads] {
        let sidecar = with_connections(&simulator, LIMIT).start().ready();
        let address = sidecar.address();
        let _attackers: Vec<_> = (0..2 * LIMIT).map(|_| attack(address)).collect();
        for _ in 0..3 {
            assert_prompt("HTTP/1.1", || sidecar.get("/_sim/echo"));
            assert_prompt("h2c", || Http2::connect(address).get("/_sim/echo"));
        }
    }
}

#[test]
fn an_admitted_request_in_progress_keeps_its_place_and_loses_it_with_the_answer() {
    let simulator = simulator();
    let control = simulator.control();
    let sidecar = with_connections(&simulator, 1).start().ready();
    control.reset_counts();
    control.hold_requests(true);
    let mut held = sidecar.connect();
    held.write(&Request::get("/_sim/echo").head());
    until("the upstream has got one request", || control.counts().requests == 1);
    let mut waiting = sidecar.connect();
    waiting.write(&Request::get("/_sim/status/204").head());
    never("the second one is served", Duration::from_millis(500), || control.counts().requests > 1);
    control.hold_requests(false);
    assert_eq!(held.answer("GET").status, 200);
    assert_eq!(waiting.answer("GET").status, 204);
    assert!(held.is_closed());
}

#[test]
fn a_caller_that_no_api_lets_in_takes_no_place_and_can_still_read_why() {
    let simulator = simulator();
    let us = getuid().as_raw();
    let mut setup = with_connections(&simulator, 4);
    let socket = setup.dir.path().join("api.sock");
    setup.variable("CAREPORTALS_LISTEN", &format!("127.0.0.1:0,unix:{}", socket.display()));
    setup.api("allow_uids", &format!("[{}]", us + 1)).with_telemetry();
    let sidecar = setup.start();
    let start = now();
    let silent: Vec<TcpStream> = (0..200).map(|_| TcpStream::connect(sidecar.address()).unwrap()).collect();
    for mut client in [sidecar.connect(), Sidecar::connect_unix(&socket)] {
        let answer = client.send(&Request::get("/_sim/echo"));
        assert_eq!((answer.status, answer.header("connection")), (403, Some("close")));
        assert!(client.is_closed());
    }
    // A refused body does not keep the answer from being read.
    let mut upload = sidecar.connect();
    upload.write(b"POST /_sim/echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\nx");
    assert_eq!(upload.answer("POST").problem(), "caller_not_allowed");
    assert!(upload.is_closed());
    let mut http2 = Http2::connect(sidecar.address());
    assert_eq!(http2.get("/_sim/echo").status, 403);
    drop(http2.closed());
    assert_eq!(sidecar.client_connections(), 0, "none of them takes a place");
    for client in silent {
        let mut client = Connection::tcp(client);
        assert_eq!(client.read_to_end(), b"");
    }
    assert!(start.elapsed() < 2 * PROMPTLY, "{:?}", start.elapsed());
    assert_eq!(simulator.control().counts().requests, 0);
}

#[test]
fn an_allowed_user_is_served_promptly_whatever_a_refused_one_does() {
    if !getuid().is_root() {
        eprintln!("skipped: only root can become another user");
        return;
    }
    let simulator = simulator();
    for attack in Attack::ALL {
        let mut setup = with_connections(&simulator, 16);
        setup.api("allow_uids", &format!("[{FRIEND}]"));
        let sidecar = setup.start();
        let address = sidecar.address();
        let _attackers = acting_as(STRANGER, move || (0..100).map(|_| attack.over_tcp(address)).collect::<Vec<_>>());
        let mut kept = acting_as(FRIEND, move || Connection::tcp(TcpStream::connect(address).unwrap()));
        assert_eq!(kept.send(&Request::get("/_sim/echo")).status, 200);
        for _ in 0..3 {
            let connect = move || Connection::tcp(TcpStream::connect(address).unwrap());
            assert_prompt(&format!("{attack:?}"), || acting_as(FRIEND, connect).send(&Request::get("/_sim/echo")));
            assert_prompt("a kept connection stays", || kept.send(&Request::get("/_sim/echo")));
        }
    }
}

#[test]
fn a_refused_user_closes_no_connection_of_an_allowed_one_though_all_places_are_taken() {
    if !getuid().is_root() {
        eprintln!("skipped: only root can become another user");
        return;
    }
    let simulator = simulator();
    let mut setup = with_connections(&simulator, 2);
    setup.api("allow_uids", &format!("[{FRIEND}]"));
    let sidecar = setup.start();
    let address = sidecar.address();
    let mut kept = acting_as(FRIEND, move || [(); 2].map(|()| Connection::tcp(TcpStream::connect(address).unwrap())));
    for connection in &mut kept {
        assert_eq!(connection.send(&Request::get("/_sim/echo")).status, 200);
    }
    acting_as(STRANGER, move || {
        for _ in 0..50 {
            let mut client = Connection::tcp(TcpStream::connect(address).unwrap());
            assert_eq!(client.send(&Request::get("/_sim/echo")).problem(), "caller_not_allowed");
            // Nobody can tell any more who has gone already.
            drop(TcpStream::connect(address).unwrap());
        }
    });
    for connection in &mut kept {
        assert_eq!(connection.send(&Request::get("/_sim/echo")).status, 200);
    }
}

/// Runs `act` on a thread that acts as another user.
fn acting_as<T: Send + 'static>(uid: u32, act: impl FnOnce() -> T + Send + 'static) -> T {
    let thread = thread::spawn(move || {
        set_thread_groups(&[]).unwrap();
        set_thread_gid(Gid::from_raw(uid)).unwrap();
        set_thread_uid(Uid::from_raw(uid)).unwrap();
        act()
    });
    thread.join().unwrap()
}

#[test]
fn probes_and_the_control_socket_answer_whatever_others_do_on_the_telemetry_port() {
    let simulator = simulator();
    for attack in Attack::ALL {
        let mut setup = Setup::controlled(&simulator);
        setup.with_telemetry().variable("CAREPORTALS_LOG", "info");
        let sidecar = setup.start().ready();
        let address = sidecar.telemetry_address();
        let _attackers: Vec<_> = (0..600).map(|_| attack.over_tcp(address)).collect();
        for _ in 0..3 {
            assert_prompt(&format!("{attack:?}"), || sidecar.telemetry("/livez"));
        }
        let start = now();
        assert_eq!(sidecar.setup.output("status").code, Some(0), "{attack:?}");
        assert!(start.elapsed() < PROMPTLY, "{:?}", start.elapsed());
    }
}

#[test]
fn strangers_at_the_control_socket_keep_no_administrator_out() {
    if !getuid().is_root() {
        eprintln!("skipped: only root can become another user");
        return;
    }
    let simulator = simulator();
    let mut setup = Setup::controlled(&simulator);
    fs::set_permissions(setup.dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    setup.global("control_allow_uids", &format!("[{FRIEND}]")).variable("CAREPORTALS_LOG", "info");
    let socket = setup.control_socket();
    let sidecar = setup.start().ready();
    let hoard = move || (0..600).map(|_| Attack::Idle.over_unix(&socket)).collect::<Vec<_>>();
    let _attackers = acting_as(STRANGER, hoard);
    for _ in 0..3 {
        let start = now();
        assert_eq!(sidecar.setup.output("status").code, Some(0), "{}", sidecar.logs());
        assert!(start.elapsed() < PROMPTLY, "{:?}", start.elapsed());
    }
}

/// The downloads that the simulator has begun and given up.
fn downloads(simulator: &Simulator) -> (usize, usize) {
    let requests = simulator.control().requests();
    let downloads = requests.iter().filter(|seen| seen.target.contains("download"));
    (downloads.clone().count(), downloads.filter(|seen| seen.over).count())
}

const DOWNLOAD: &str = "/_sim/download?bytes=100000000";

#[test]
fn a_client_that_takes_nothing_of_its_answer_is_cut_after_client_stall() {
    let simulator = simulator();
    let mut setup = Setup::new(&simulator);
    let socket = setup.dir.path().join("api.sock");
    setup.variable("CAREPORTALS_LISTEN", &format!("127.0.0.1:0,unix:{}", socket.display())).api("client_stall", "500ms");
    let sidecar = setup.start().ready();
    let head = Request::get(DOWNLOAD).head();
    let (mut over_tcp, mut over_unix) = (sidecar.connect(), Sidecar::connect_unix(&socket));
    over_tcp.write(&head);
    over_unix.write(&head);
    let mut http2 = FrameClient::connect(sidecar.address());
    http2.write(&frame(HEADERS, 5, 1, &get_fields(DOWNLOAD, &[])));
    // This one reads what comes, but gives no window for more.
    let mut no_window = Http2::connect(sidecar.address());
    let stream = no_window.open(&Request::get(DOWNLOAD), true);
    let answering = no_window.head(stream);
    // And this one has given none from the beginning.
    let mut never_any = Http2::with(sidecar.address(), h2::client::Builder::new().initial_window_size(0));
    let unread = never_any.open(&Request::get(DOWNLOAD), true);
    let unread = never_any.head(unread);
    until("all downloads have begun", || downloads(&simulator).0 == 5);
    until_within(PATIENCE, "all are given up", || downloads(&simulator).1 == 5);
    drop((unread, never_any));
    drop((answering, no_window));
}

#[test]
fn a_client_that_takes_a_little_now_and_then_is_not_cut() {
    let simulator = simulator();
    let mut setup = Setup::new(&simulator);
    setup.api("client_stall", "1s");
    let sidecar = setup.start().ready();
    let mut client = sidecar.connect();
    client.write(&Request::get(DOWNLOAD).head());
    assert_eq!(client.head().status, 200);
    let start = now();
    while start.elapsed() < Duration::from_secs(4) {
        let mut left = 512 * 1024_usize;
        while left > 0 {
            let some = client.read_some();
            assert!(!some.is_empty(), "cut after {:?}", start.elapsed());
            left = left.saturating_sub(some.len());
        }
        let_time_pass("the client pauses for less than `client_stall`", Duration::from_millis(200));
    }
    // A slow upstream is not the client's fault.
    assert!(!sidecar.send(&Request::get("/_sim/sse?events=2&interval_ms=1500")).cut);
}

#[test]
fn a_client_that_takes_nothing_is_cut_after_10_s_when_its_place_is_wanted() {
    let simulator = simulator();
    let sidecar = with_connections(&simulator, 1).start().ready();
    let mut stalled = sidecar.connect();
    stalled.write(&Request::get(DOWNLOAD).head());
    until("the download has begun", || downloads(&simulator).0 == 1);
    let start = now();
    assert_eq!(sidecar.get("/_sim/echo").status, 200);
    assert!((9..25).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
    until("the download is given up", || downloads(&simulator).1 == 1);
}

#[test]
fn by_default_a_client_may_pause_for_longer_than_that_and_a_reload_changes_it() {
    let simulator = simulator();
    let settings = |rest: &str| {
        format!(
            "[accounts.demo]\norganization = \"demo\"\nusername = \"service@demo.example.test\"\npassword = \"{PASSWORD}\"\n\
             [apis.one]\naccount = \"demo\"\nupstream = \"{}\"\nlisten = \"127.0.0.1:0\"\n{rest}\n",
            simulator.base_url()
        )
    };
    let mut setup = Setup::empty();
    setup.settings(&settings("")).trust(simulator.ca_pem());
    let sidecar = setup.start().ready();
    let shown = sidecar.setup.output("config");
    assert!(shown.stdout.lines().any(|line| line.contains("client_stall") && line.contains("5m")), "{shown:?}");
    let stall = || {
        let mut client = sidecar.connect();
        client.write(&Request::get(DOWNLOAD).head());
        client
    };
    let _before = stall();
    until("one download has begun", || downloads(&simulator).0 == 1);
    sidecar.setup.file("config.toml", &settings("client_stall = \"300ms\""));
    sidecar.signal(rustix::process::Signal::HUP);
    sidecar.wait_for_log("\"message\":\"reloaded\"");
    let _after = stall();
    until("the second one is given up", || downloads(&simulator) == (2, 1));
    never("the first one is given up", Duration::from_millis(600), || downloads(&simulator).1 == 2);
}
