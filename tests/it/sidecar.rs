//! The real binary in front of a simulator, as a test sees it.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    io::{BufRead, BufReader, Read},
    net::{SocketAddr, TcpStream},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Condvar, Mutex, PoisonError},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use careportals_simulator::Simulator;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::http::{Answer, Connection, Request};

/// Nothing in these tests takes this long unless it is broken.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The credentials the simulator knows from the start.
pub const ORGANIZATION: &str = "demo";
pub const USERNAME: &str = "service@demo.example.test";
pub const PASSWORD: &str = "demo-password-1";

/// A sidecar about to be started.
pub struct Setup {
    pub dir: TempDir,
    variables: BTreeMap<String, String>,
    arguments: Vec<String>,
}

impl Setup {
    /// Everything the environment needs for one account and one API, on a free port, in front of `simulator`.
    pub fn new(simulator: &Simulator) -> Self {
        let mut setup = Self::empty();
        let ca = setup.file("ca.pem", simulator.ca_pem());
        setup
            .variable("CAREPORTALS_ORGANIZATION", ORGANIZATION)
            .variable("CAREPORTALS_USERNAME", USERNAME)
            .variable("CAREPORTALS_PASSWORD", PASSWORD)
            .variable("CAREPORTALS_UPSTREAM", &simulator.base_url())
            .variable("CAREPORTALS_CA_ONLY_FILE", ca.to_str().unwrap())
            .variable("CAREPORTALS_LISTEN", "127.0.0.1:0");
        setup
    }

    /// In front of a server without TLS that the test plays itself, without log-in.
    pub fn plain(upstream: SocketAddr) -> Self {
        let mut setup = Self::empty();
        setup
            .variable("CAREPORTALS_ORGANIZATION", ORGANIZATION)
            .variable("CAREPORTALS_UPSTREAM", &format!("http://{upstream}"))
            .variable("CAREPORTALS_LOGIN_URL", "off")
            .variable("CAREPORTALS_LISTEN", "127.0.0.1:0")
            .api("allow_insecure_upstream", "true");
        setup
    }

    /// In front of `upstream`, a base URL, without log-in; the roots are `ca_pem` alone.
    pub fn without_login(upstream: &str, ca_pem: &str) -> Self {
        let mut setup = Self::empty();
        let ca = setup.file("ca.pem", ca_pem);
        setup
            .variable("CAREPORTALS_ORGANIZATION", ORGANIZATION)
            .variable("CAREPORTALS_UPSTREAM", upstream)
            .variable("CAREPORTALS_LOGIN_URL", "off")
            .variable("CAREPORTALS_CA_ONLY_FILE", ca.to_str().unwrap())
            .variable("CAREPORTALS_LISTEN", "127.0.0.1:0");
        setup
    }

    /// Nothing but what keeps a daemon to itself.
    pub fn empty() -> Self {
        let mut setup = Self { dir: tempfile::tempdir().unwrap(), variables: BTreeMap::new(), arguments: Vec::new() };
        setup
            .variable("CAREPORTALS_TELEMETRY_LISTEN", "off")
            .variable("CAREPORTALS_CONTROL_SOCKET", "off")
            .variable("CAREPORTALS_LOG", "trace")
            .variable("CAREPORTALS_LOG_FORMAT", "json")
            .variable("CAREPORTALS_WORKERS", "2");
        setup
    }

    pub fn variable(&mut self, name: &str, value: &str) -> &mut Self {
        self.variables.insert(name.to_owned(), value.to_owned());
        self
    }

    pub fn without(&mut self, name: &str) -> &mut Self {
        self.variables.remove(name);
        self
    }

    /// A key of the only API, in TOML syntax or as a bare word.
    pub fn api(&mut self, key: &str, value: &str) -> &mut Self {
        self.variable(&format!("CAREPORTALS__APIS__DEFAULT__{}", key.to_uppercase()), value)
    }

    /// A key of the only account.
    pub fn account(&mut self, key: &str, value: &str) -> &mut Self {
        self.variable(&format!("CAREPORTALS__ACCOUNTS__DEFAULT__{}", key.to_uppercase()), value)
    }

    /// A global key.
    pub fn global(&mut self, key: &str, value: &str) -> &mut Self {
        self.variable(&format!("CAREPORTALS__{}", key.to_uppercase()), value)
    }

    /// A settings file.
    pub fn settings(&mut self, toml: &str) -> &mut Self {
        let path = self.file("config.toml", toml);
        self.variable("CAREPORTALS_CONFIG", path.to_str().unwrap())
    }

    /// Writes a file into the test's own directory.
    pub fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    }

    pub fn argument(&mut self, argument: &str) -> &mut Self {
        self.arguments.push(argument.to_owned());
        self
    }

    /// The program with this environment and no other.
    pub fn command(&self, subcommand: &str) -> Command {
        let mut command = program();
        command.env_clear().envs(&self.variables).env("PATH", "/usr/bin:/bin").current_dir(self.dir.path());
        command.arg(subcommand).args(&self.arguments).stdin(Stdio::null());
        // `.ci/run coverage` sets it. The program counts its lines into that file, and the environment was cleared.
        command.envs(option_env!("LLVM_PROFILE_FILE").map(|file| ("LLVM_PROFILE_FILE", file)));
        command
    }

    /// Runs a command that ends by itself.
    pub fn output(&self, subcommand: &str) -> Output {
        self.output_of(&[subcommand])
    }

    /// The same with further arguments.
    pub fn output_of(&self, arguments: &[&str]) -> Output {
        let output = self.command(arguments[0]).args(&arguments[1..]).output().unwrap();
        Output {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Starts the daemon and waits until it listens.
    pub fn start(self) -> Sidecar {
        let command = self.command("run");
        self.start_with(command)
    }

    /// The same with a command line of one's own that becomes the daemon.
    pub fn start_with(self, mut command: Command) -> Sidecar {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let logs = Arc::new(Logs::default());
        let readers = vec![logs.collect(child.stdout.take().unwrap()), logs.collect(child.stderr.take().unwrap())];
        let sidecar = Sidecar { child, readers, logs, setup: self, exited: None };
        sidecar.wait_for_log("listening");
        sidecar
    }
}

/// The program. Where Ctrl-C is ignored, `env` comes first, gives the signals back, and becomes the program.
fn program() -> Command {
    const BINARY: &str = env!("CARGO_BIN_EXE_careportals-sidecar");
    if !interrupts_are_ignored() {
        return Command::new(BINARY);
    }
    let mut command = Command::new("/usr/bin/env");
    command.arg("--default-signal=INT,QUIT").arg(BINARY);
    command
}

/// Whether these tests were begun with Ctrl-C ignored, as in a shell's background; all that they start inherits that, and a
/// terminal's signals can't be tried.
pub fn interrupts_are_ignored() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("SigIgn:")?.trim(), 16).ok());
    let interrupt_and_quit = 0b110;
    ignored.unwrap_or_default() & interrupt_and_quit != 0
}

/// What a command that ended said.
#[derive(Debug)]
pub struct Output {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Output {
    pub fn all(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }
}

/// A running daemon. Dropped, it is gone, with everything it wrote.
pub struct Sidecar {
    child: Child,
    readers: Vec<JoinHandle<()>>,
    logs: Arc<Logs>,
    pub setup: Setup,
    exited: Option<ExitStatus>,
}

impl Sidecar {
    /// With everything at its default.
    pub fn start(simulator: &Simulator) -> Self {
        Setup::new(simulator).start()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Where the first TCP listener is.
    pub fn address(&self) -> SocketAddr {
        self.addresses()[0]
    }

    /// All TCP listeners, in the order in which they were logged.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        let events = self.events();
        let listening = events.iter().filter(|event| event["message"] == "listening");
        listening.filter_map(|event| event["listener"].as_str()?.parse().ok()).collect()
    }

    pub fn connect(&self) -> Connection {
        Connection::tcp(TcpStream::connect(self.address()).unwrap())
    }

    pub fn connect_unix(path: &Path) -> Connection {
        Connection::unix(UnixStream::connect(path).unwrap())
    }

    /// One request on a connection of its own.
    pub fn send(&self, request: &Request) -> Answer {
        self.connect().send(request)
    }

    pub fn get(&self, target: &str) -> Answer {
        self.send(&Request::get(target))
    }

    /// Where health and metrics are.
    pub fn telemetry_address(&self) -> SocketAddr {
        let line: Value = serde_json::from_str(&self.wait_for_log("health and metrics")).unwrap();
        let mut address: SocketAddr = line["listener"].as_str().unwrap().parse().unwrap();
        if address.ip().is_unspecified() {
            address.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
        }
        address
    }

    /// One request to the telemetry listener.
    pub fn telemetry_send(&self, request: &Request) -> Answer {
        Connection::tcp(TcpStream::connect(self.telemetry_address()).unwrap()).send(request)
    }

    pub fn telemetry(&self, path: &str) -> Answer {
        self.telemetry_send(&Request::get(path))
    }

    /// Repeats a request until the daemon has its first token, for tests that don't look at the beginning.
    pub fn ready(self) -> Self {
        let answer = self.get("/users/account");
        assert_eq!(answer.status, 200, "{answer:?}\n{}", self.logs());
        self
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().try_into().unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// Everything written so far, both streams.
    pub fn logs(&self) -> String {
        self.logs.text()
    }

    /// Every log line that is JSON.
    pub fn events(&self) -> Vec<Value> {
        self.logs().lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Waits until a line contains `text`.
    pub fn wait_for_log(&self, text: &str) -> String {
        self.logs.wait_for(text)
    }

    /// Waits until so many access lines were written, and gives them all.
    pub fn wait_for_access_lines(&self, count: usize) -> Vec<Value> {
        self.wait_for_logs("careportals_sidecar::access", count);
        self.events().into_iter().filter(|event| event["target"] == "careportals_sidecar::access").collect()
    }

    /// Waits for the daemon to end by itself.
    pub fn wait(&mut self) -> ExitStatus {
        if let Some(status) = self.exited {
            return status;
        }
        let deadline = Instant::now() + PATIENCE;
        // The streams close when the process ends; only then is there something to collect.
        for reader in self.readers.drain(..) {
            while !reader.is_finished() {
                assert!(Instant::now() < deadline, "the daemon does not end\n{}", self.logs.text());
                std::thread::park_timeout(Duration::from_millis(2));
            }
        }
        let status = self.child.wait().unwrap();
        self.exited = Some(status);
        status
    }

    /// SIGTERM, and the exit status.
    pub fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait()
    }

    /// The most memory that it ever took, but for the pages of its program, of which there are many in a debug build.
    pub fn peak_memory_kib(&self) -> u64 {
        self.memory_kib("VmHWM").saturating_sub(self.memory_kib("RssFile"))
    }

    /// A figure of `/proc/PID/status`, in KiB.
    fn memory_kib(&self, field: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with(field)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
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

/// What a daemon writes, as it comes.
#[derive(Default)]
struct Logs {
    text: Mutex<String>,
    grown: Condvar,
}

impl Logs {
    fn collect(self: &Arc<Self>, stream: impl Read + Send + 'static) -> JoinHandle<()> {
        let logs = Arc::clone(self);
        std::thread::spawn(move || {
            let mut stream = BufReader::new(stream);
            let mut line = Vec::new();
            while stream.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
                logs.text.lock().unwrap().push_str(&String::from_utf8_lossy(&line));
                logs.grown.notify_all();
                line.clear();
            }
            // Whoever waits for a line that never comes must not wait for ever.
            logs.grown.notify_all();
        })
    }

    fn text(&self) -> String {
        // Whoever waited in vain panicked with the lock in hand; its test still wants to show the log.
        self.text.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn wait_for(&self, text: &str) -> String {
        self.wait_until(|all| all.lines().find(|line| line.contains(text)).map(str::to_owned))
            .unwrap_or_else(|| panic!("no line with {text:?}\n{}", self.text()))
    }

    /// What `found` finds, once it does, or nothing when it never does. The lock is free again by then: a test that fails
    /// for it shows the log.
    fn wait_until<T>(&self, found: impl Fn(&str) -> Option<T>) -> Option<T> {
        let deadline = Instant::now() + PATIENCE;
        let mut all = self.text.lock().unwrap();
        loop {
            if let Some(found) = found(&all) {
                return Some(found);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            all = self.grown.wait_timeout(all, left).unwrap().0;
        }
    }
}

/// The smallest `relogin_floor` that can be set.
const FLOOR: Duration = Duration::from_millis(100);

impl Setup {
    /// A 401 may replace a token that is as old as the smallest floor; see [`outgrow_the_floor`].
    pub fn eager(simulator: &Simulator) -> Self {
        let mut setup = Self::new(simulator);
        setup.account("relogin_floor", "100ms");
        setup
    }
}

/// Time itself is waited for: afterwards the token at hand is older than the smallest floor.
pub fn outgrow_the_floor(simulator: &Simulator) {
    assert!(!simulator.control().wait_until(FLOOR, |_| false));
}

/// Revokes all tokens, once they are old enough to be replaced.
pub fn revoke(simulator: &Simulator) {
    outgrow_the_floor(simulator);
    simulator.control().revoke_tokens();
}

/// The program's log as events, and several APIs.
impl Sidecar {
    /// Waits until `count` lines contain `text`.
    pub fn wait_for_logs(&self, text: &str, count: usize) {
        let lines = |all: &str| all.lines().filter(|line| line.contains(text)).count();
        let seen = self.logs.wait_until(|all| (lines(all) >= count).then_some(()));
        assert!(seen.is_some(), "not {count} lines with {text:?}\n{}", self.logs());
    }

    /// Waits for an event of that kind.
    pub fn wait_for_event(&self, wanted: impl Fn(&Value) -> bool) -> Value {
        let events = |all: &str| all.lines().filter_map(|line| serde_json::from_str(line).ok()).find(&wanted);
        self.logs.wait_until(events).unwrap_or_else(|| panic!("no such event\n{}", self.logs()))
    }

    /// Where an API's first TCP listener is.
    pub fn address_of(&self, api: &str) -> SocketAddr {
        let event = self.wait_for_event(|event| event["message"] == "listening" && event["api"] == api);
        event["listener"].as_str().unwrap().parse().unwrap()
    }

    pub fn connect_to(&self, api: &str) -> Connection {
        Connection::tcp(TcpStream::connect(self.address_of(api)).unwrap())
    }
}

/// Protocols towards the upstream, as `http2` names them.
pub const OFF_AND_AUTO: [&str; 2] = ["off", "auto"];

impl Setup {
    /// HTTP/2 to the upstream if it takes it, from one worker: what was written first has arrived first.
    pub fn auto(simulator: &Simulator) -> Self {
        let mut setup = Self::new(simulator);
        setup.api("http2", "auto").variable("CAREPORTALS_WORKERS", "1");
        setup
    }
}

/// In each line, and in no other, that tells of a log-in that brought a token.
pub const LOGGED_IN: &str = "\"refresh_in_s\"";

impl Sidecar {
    /// As [`Sidecar::ready`], where only some requests pass.
    pub fn ready_with(self, request: &Request) -> Self {
        let answer = self.send(request);
        assert_eq!(answer.status, 200, "{answer:?}\n{}", self.logs());
        self
    }
}
