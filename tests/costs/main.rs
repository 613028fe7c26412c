//! What a request costs in allocations: a test that counts them inside the daemon. `run`, beside this file, counts more, with
//! tools that not every machine has.
//!
//! This program is the test, and it is the daemon: started with [`DAEMON`], it runs as `careportals-sidecar` does, but for an
//! allocator that counts, and tells the counts to whoever writes a line to it.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed, and says where")]

use std::{
    alloc::{GlobalAlloc, Layout},
    env,
    io::{BufRead as _, BufReader, Read as _, Write as _, stdin},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    sync::{
        atomic::{AtomicU32, Ordering::Relaxed},
        mpsc::{Receiver, channel},
    },
    thread,
    time::Duration,
};

use careportals_sidecar::{allocator::Wiping, cli};
use careportals_simulator::{Options, Simulator};

/// The environment variable with which this program is the daemon.
const DAEMON: &str = "COUNTS_ALLOCATIONS";
const TEST: &str = "a_request_allocates_no_more_than_it_did";
/// What a request allocates at most over HTTP/1.1 and HTTP/2 to the upstream: how often, and how many bytes.
const LIMITS: [(&str, f64, f64); 2] = [("off", 8.8, 11_700.0), ("auto", 12.8, 4_200.0)];
const REQUESTS: u32 = 500;
const REQUEST: &[u8] = b"GET /v2/products HTTP/1.1\r\nhost: localhost\r\naccept: */*\r\nuser-agent: costs/1\r\n\r\n";

#[global_allocator]
static ALLOCATOR: Counting = Counting;

static CALLS: AtomicU32 = AtomicU32::new(0);
static BYTES: AtomicU32 = AtomicU32::new(0);

/// The program's allocator, counted.
struct Counting;

fn count(layout: Layout) {
    CALLS.fetch_add(1, Relaxed);
    BYTES.fetch_add(u32::try_from(layout.size()).unwrap_or(u32::MAX), Relaxed);
}

#[expect(unsafe_code, reason = "an allocator is unsafe to write; every call is passed on as it came")]
// SAFETY: it is the program's allocator, which gets every call as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout);
        // SAFETY: the caller's promises are passed on.
        unsafe { Wiping.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout);
        // SAFETY: as above.
        unsafe { Wiping.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { Wiping.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(layout);
        // SAFETY: as above.
        unsafe { Wiping.realloc(block, layout, size) }
    }
}

#[expect(clippy::disallowed_methods, reason = "the daemon reads its settings elsewhere; this says only that it is one")]
fn main() -> ExitCode {
    if env::var_os(DAEMON).is_some() {
        thread::spawn(tell_counts);
        return cli::run();
    }
    let arguments: Vec<String> = env::args().skip(1).collect();
    let mut names = arguments.iter().filter(|argument| !argument.starts_with('-')).peekable();
    let is_named = names.peek().is_none() || names.any(|name| TEST.contains(name.as_str()));
    if is_named && !arguments.iter().any(|argument| argument == "--list") {
        for (http2, calls, bytes) in LIMITS {
            a_request_allocates_no_more_than_it_did(http2, calls, bytes);
        }
    }
    ExitCode::SUCCESS
}

fn tell_counts() {
    for _ in stdin().lines() {
        println!("counts {} {}", CALLS.load(Relaxed), BYTES.load(Relaxed));
    }
}

fn a_request_allocates_no_more_than_it_did(http2: &str, calls: f64, bytes: f64) {
    let simulator = Simulator::start(Options::default()).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let mut daemon = Daemon::start(&simulator, directory.path(), http2);
    let mut client = daemon.connect();
    ask(&mut client, 100);
    let before = daemon.counts();
    ask(&mut client, REQUESTS);
    let after = daemon.counts();
    let each = |before: u32, after: u32| f64::from(after - before) / f64::from(REQUESTS);
    let (calls_made, bytes_taken) = (each(before.0, after.0), each(before.1, after.1));
    println!("http2 = \"{http2}\": {calls_made:.1} allocations of {bytes_taken:.0} bytes a request");
    assert!(calls_made <= calls && bytes_taken <= bytes, "at most {calls} allocations of {bytes} bytes");
}

/// A daemon that is ready, with one worker. It is killed when dropped.
struct Daemon {
    child: Child,
    /// The lines that it writes, of which most are its log.
    lines: Receiver<String>,
    socket: PathBuf,
}

impl Daemon {
    fn start(simulator: &Simulator, directory: &Path, http2: &str) -> Self {
        let (ca, socket) = (directory.join("ca.pem"), directory.join("app.sock"));
        std::fs::write(&ca, simulator.ca_pem()).unwrap();
        let mut command = Command::new(env::current_exe().unwrap());
        command.env_clear().current_dir(directory).env(DAEMON, "1").arg("run");
        command
            .env("CAREPORTALS_ORGANIZATION", "demo")
            .env("CAREPORTALS_USERNAME", "service@demo.example.test")
            .env("CAREPORTALS_PASSWORD", "demo-password-1")
            .env("CAREPORTALS_UPSTREAM", simulator.base_url())
            .env("CAREPORTALS_CA_ONLY_FILE", &ca)
            .env("CAREPORTALS_LISTEN", format!("unix:{}", socket.display()))
            .env("CAREPORTALS_TELEMETRY_LISTEN", "off")
            .env("CAREPORTALS_CONTROL_SOCKET", "off")
            .env("CAREPORTALS_WORKERS", "1")
            .env("CAREPORTALS_LOG_FORMAT", "json")
            .env("CAREPORTALS__APIS__DEFAULT__HTTP2", http2);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("this program starts once more");
        let (sender, lines) = channel();
        let output = BufReader::new(child.stdout.take().unwrap());
        // It ends with the daemon. It reads on while nobody waits for a line, since a log that is not read is a log that waits.
        thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        let daemon = Self { child, lines, socket };
        daemon.line_with("\"listening\"");
        daemon
    }

    /// The next line with this text in it.
    fn line_with(&self, text: &str) -> String {
        loop {
            let line = self.lines.recv_timeout(Duration::from_secs(30)).expect("the daemon tells it");
            if line.contains(text) {
                return line;
            }
        }
    }

    fn connect(&self) -> UnixStream {
        UnixStream::connect(&self.socket).unwrap()
    }

    fn counts(&mut self) -> (u32, u32) {
        self.child.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
        let line = self.line_with("counts ");
        let (calls, bytes) = line.trim_start_matches("counts ").split_once(' ').unwrap();
        (calls.parse().unwrap(), bytes.parse().unwrap())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn ask(client: &mut UnixStream, times: u32) {
    for _ in 0..times {
        client.write_all(REQUEST).unwrap();
        let mut answer = Vec::new();
        while !is_whole(&answer) {
            let mut piece = [0; 8192];
            let length = client.read(&mut piece).unwrap();
            assert_ne!(length, 0, "the daemon has closed the connection");
            answer.extend_from_slice(&piece[..length]);
        }
        assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
    }
}

/// Whether an answer with a length has come to its end.
fn is_whole(answer: &[u8]) -> bool {
    let text = String::from_utf8_lossy(answer).to_lowercase();
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.split_once("content-length: ").expect("an answer with a length").1;
    body.len() >= length.lines().next().unwrap().parse().unwrap()
}
