//! A running daemon: its addresses, its log, its signals and its end.

use std::{
    fmt::Write as _,
    fs,
    net::{SocketAddr, TcpStream},
    os::unix::net::UnixStream,
    path::Path,
    process::{Child, ExitStatus},
    sync::Arc,
    thread::JoinHandle,
    time::Duration,
};

use careportals_simulator::Simulator;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::harness::{Answer, Connection, Request, Setup, let_time_pass, logs::Logs, until};

/// This text is in each log line about a log-in that brought a token, and in no other.
pub const LOGGED_IN: &str = "\"refresh_in_s\"";

/// A running daemon. It is killed when dropped, and its files are removed.
pub struct Sidecar {
    pub(super) child: Child,
    pub(super) readers: Vec<JoinHandle<()>>,
    pub(super) logs: Arc<Logs>,
    pub setup: Setup,
    pub(super) exited: Option<ExitStatus>,
}

impl Sidecar {
    /// Starts one with everything at its default.
    pub fn start(simulator: &Simulator) -> Self {
        Setup::new(simulator).start()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The address of the first TCP listener.
    pub fn address(&self) -> SocketAddr {
        self.addresses()[0]
    }

    /// The addresses of all TCP listeners, in the order in which they were logged.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        let events = self.events();
        let listening = events.iter().filter(|event| event["message"] == "listening");
        listening.flat_map(listeners).collect()
    }

    pub fn connect(&self) -> Connection {
        Connection::tcp(TcpStream::connect(self.address()).unwrap())
    }

    pub fn connect_unix(path: &Path) -> Connection {
        Connection::unix(UnixStream::connect(path).unwrap())
    }

    /// Sends one request on a connection of its own.
    pub fn send(&self, request: &Request) -> Answer {
        self.connect().send(request)
    }

    pub fn get(&self, target: &str) -> Answer {
        self.send(&Request::get(target))
    }

    /// The address of health and metrics.
    pub fn telemetry_address(&self) -> SocketAddr {
        let line: Value = serde_json::from_str(&self.wait_for_log("health and metrics")).unwrap();
        let mut address: SocketAddr = line["listener"].as_str().unwrap().parse().unwrap();
        if address.ip().is_unspecified() {
            address.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
        }
        address
    }

    /// Sends one request to the telemetry listener, at most 90 times a second: from the hundredth page on, a page may be one of
    /// the second that has begun, and so tell what is no longer so.
    pub fn telemetry_send(&self, request: &Request) -> Answer {
        let_time_pass("so that the page is made afresh", Duration::from_millis(11));
        Connection::tcp(TcpStream::connect(self.telemetry_address()).unwrap()).send(request)
    }

    pub fn telemetry(&self, path: &str) -> Answer {
        self.telemetry_send(&Request::get(path))
    }

    /// The value of `careportals_sidecar_client_connections` of the first listener.
    pub fn client_connections(&self) -> u64 {
        let page = self.telemetry("/metrics");
        let line =
            page.text().lines().find(|line| line.starts_with("careportals_sidecar_client_connections{")).unwrap().to_owned();
        line.split_whitespace().last().unwrap().parse().unwrap()
    }

    /// Sends a request, which waits for the first token, for tests that don't look at the beginning.
    pub fn ready(self) -> Self {
        let answer = self.get("/users/account");
        assert_eq!(answer.status, 200, "{answer:?}\n{}", self.logs());
        self
    }

    /// As [`Sidecar::ready`], with this request, where not every request passes.
    pub fn ready_with(self, request: &Request) -> Self {
        let answer = self.send(request);
        assert_eq!(answer.status, 200, "{answer:?}\n{}", self.logs());
        self
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().try_into().unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// Everything that was written so far to both streams.
    pub fn logs(&self) -> String {
        self.logs.text()
    }

    /// Parses every log line that is JSON.
    pub fn events(&self) -> Vec<Value> {
        self.logs().lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Waits until a line contains `text`, and returns it.
    #[track_caller]
    pub fn wait_for_log(&self, text: &str) -> String {
        self.logs.find(&format!("the log has a line with {text:?}"), |all| {
            all.lines().find(|line| line.contains(text)).map(str::to_owned)
        })
    }

    /// Waits until `count` lines contain `text`.
    #[track_caller]
    pub fn wait_for_logs(&self, text: &str, count: usize) {
        let lines = |all: &str| all.lines().filter(|line| line.contains(text)).count();
        self.logs.find(&format!("the log has {count} lines with {text:?}"), |all| (lines(all) >= count).then_some(()));
    }

    /// Waits for the first event that is wanted, and returns it.
    #[track_caller]
    pub fn wait_for_event(&self, wanted: impl Fn(&Value) -> bool) -> Value {
        let events = |all: &str| all.lines().filter_map(|line| serde_json::from_str(line).ok()).find(&wanted);
        self.logs.find("the log has such an event", events)
    }

    /// The address of an API's first TCP listener.
    pub fn address_of(&self, api: &str) -> SocketAddr {
        let event = self.wait_for_event(|event| event["message"] == "listening" && event["api"] == api);
        listeners(&event).next().unwrap()
    }

    pub fn connect_to(&self, api: &str) -> Connection {
        Connection::tcp(TcpStream::connect(self.address_of(api)).unwrap())
    }

    /// Waits until `count` access lines were written, and returns all of them.
    #[track_caller]
    pub fn wait_for_access_lines(&self, count: usize) -> Vec<Value> {
        self.wait_for_logs("careportals_sidecar::access", count);
        self.events().into_iter().filter(|event| event["target"] == "careportals_sidecar::access").collect()
    }

    /// Waits for the daemon to end by itself.
    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        if let Some(status) = self.exited {
            return status;
        }
        // The streams close when the process ends; only then is there something to collect.
        until("the daemon ends", || self.readers.iter().all(JoinHandle::is_finished));
        self.readers.clear();
        let status = self.child.wait().unwrap();
        self.exited = Some(status);
        status
    }

    /// Sends SIGTERM, and waits for the exit status.
    pub fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait()
    }

    /// The most memory that the daemon ever took, without the pages of its program, which are many in a debug build.
    pub fn peak_memory_kib(&self) -> u64 {
        self.memory_kib("VmHWM").saturating_sub(self.memory_kib("RssFile"))
    }

    /// Reads a figure of `/proc/PID/status`, in KiB.
    pub fn memory_kib(&self, field: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with(field)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

/// The TCP addresses of a line `listening`.
fn listeners(event: &Value) -> impl Iterator<Item = SocketAddr> {
    event["listener"].as_str().unwrap().split(',').filter_map(|listener| listener.parse().ok())
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        if self.exited.is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        if std::thread::panicking() {
            let mut tail = String::new();
            for line in self.logs.text().lines().rev().take(60).collect::<Vec<_>>().into_iter().rev() {
                let _ = writeln!(tail, "{line}");
            }
            eprintln!("--- the daemon's last lines\n{tail}---");
        }
    }
}
