//! A daemon about to be started: its environment, its settings file, its command line.

use std::{
    collections::BTreeMap,
    env, fs,
    net::SocketAddr,
    path::PathBuf,
    process::{Command, Stdio},
    sync::Arc,
};

use careportals_simulator::Simulator;
use nix::sys::signal::{SigSet, SigmaskHow};
use tempfile::TempDir;

use crate::harness::{Sidecar, logs::Logs};

/// The credentials the simulator knows from the start.
pub const ORGANIZATION: &str = "demo";
pub const USERNAME: &str = "service@demo.example.test";
pub const PASSWORD: &str = "demo-password-1";

/// Protocols towards the upstream, as `http2` names them.
pub const OFF_AND_AUTO: [&str; 2] = ["off", "auto"];

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
        setup
            .trust(simulator.ca_pem())
            .variable("CAREPORTALS_ORGANIZATION", ORGANIZATION)
            .variable("CAREPORTALS_USERNAME", USERNAME)
            .variable("CAREPORTALS_PASSWORD", PASSWORD)
            .variable("CAREPORTALS_UPSTREAM", &simulator.base_url())
            .variable("CAREPORTALS_LISTEN", "127.0.0.1:0");
        setup
    }

    /// A sidecar without log-in, in front of a server without TLS that the test plays itself.
    pub fn plain(upstream: SocketAddr) -> Self {
        let mut setup = Self::empty();
        setup
            .variable("CAREPORTALS_ORGANIZATION", ORGANIZATION)
            .variable("CAREPORTALS_UPSTREAM", &format!("http://{upstream}"))
            .variable("CAREPORTALS_LOGIN_URL", "off")
            .variable("CAREPORTALS_LISTEN", "127.0.0.1:0")
            .api("allow_insecure_upstream", "true")
            .without_connections_ahead();
        setup
    }

    /// Only a request opens a connection to upstream, so that the test knows which one it is.
    pub fn without_connections_ahead(&mut self) -> &mut Self {
        self.api("pool_idle", "15s")
    }

    /// A sidecar without log-in, in front of `upstream`, a base URL. It trusts `ca_pem` alone.
    pub fn without_login(upstream: &str, ca_pem: &str) -> Self {
        let mut setup = Self::empty();
        setup
            .trust(ca_pem)
            .variable("CAREPORTALS_ORGANIZATION", ORGANIZATION)
            .variable("CAREPORTALS_UPSTREAM", upstream)
            .variable("CAREPORTALS_LOGIN_URL", "off")
            .variable("CAREPORTALS_LISTEN", "127.0.0.1:0")
            .without_connections_ahead();
        setup
    }

    /// A sidecar with no account and no API, which opens nothing that other tests could meet.
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

    /// As [`Setup::new`], with the smallest `relogin_floor`: a 401 may replace a token that is 100 ms old.
    pub fn eager(simulator: &Simulator) -> Self {
        let mut setup = Self::new(simulator);
        setup.account("relogin_floor", "100ms");
        setup
    }

    /// As [`Setup::new`], with HTTP/2 to the upstream if it takes it. With one worker, requests arrive in the order in which
    /// they were written.
    pub fn auto(simulator: &Simulator) -> Self {
        let mut setup = Self::new(simulator);
        setup.api("http2", "auto").variable("CAREPORTALS_WORKERS", "1");
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

    /// Sets a key of the only API, in TOML syntax or as a bare word.
    pub fn api(&mut self, key: &str, value: &str) -> &mut Self {
        self.variable(&format!("CAREPORTALS__APIS__DEFAULT__{}", key.to_uppercase()), value)
    }

    /// Sets a key of the only account.
    pub fn account(&mut self, key: &str, value: &str) -> &mut Self {
        self.variable(&format!("CAREPORTALS__ACCOUNTS__DEFAULT__{}", key.to_uppercase()), value)
    }

    /// Sets a global key.
    pub fn global(&mut self, key: &str, value: &str) -> &mut Self {
        self.variable(&format!("CAREPORTALS__{}", key.to_uppercase()), value)
    }

    /// Writes a settings file and names it in the environment.
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

    /// Trusts the authorities of `pem` and no others.
    pub fn trust(&mut self, pem: &str) -> &mut Self {
        let ca = self.file("ca.pem", pem);
        self.variable("CAREPORTALS_CA_ONLY_FILE", ca.to_str().unwrap())
    }

    /// Sends requests to `base_url`, while log-ins go to `simulator` as before.
    pub fn upstream(&mut self, base_url: &str, simulator: &Simulator) -> &mut Self {
        self.variable("CAREPORTALS_UPSTREAM", base_url)
            .variable("CAREPORTALS_LOGIN_URL", &format!("{}/patient/auth", simulator.base_url()))
    }

    /// Opens health and metrics on a free port; see [`Sidecar::telemetry`].
    pub fn with_telemetry(&mut self) -> &mut Self {
        self.variable("CAREPORTALS_TELEMETRY_LISTEN", "127.0.0.1:0")
    }

    /// Opens a control socket in the test's own directory; see [`Setup::control_socket`].
    pub fn with_control_socket(&mut self) -> &mut Self {
        let path = self.control_socket();
        self.variable("CAREPORTALS_CONTROL_SOCKET", path.to_str().unwrap())
    }

    /// As [`Setup::new`], with a control socket.
    pub fn controlled(simulator: &Simulator) -> Self {
        let mut setup = Self::new(simulator);
        setup.with_control_socket();
        setup
    }

    /// The path of the control socket.
    pub fn control_socket(&self) -> PathBuf {
        self.dir.path().join("control.sock")
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

    /// Runs a command with further arguments that ends by itself.
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

    /// Starts the daemon by this command line, and waits until it listens.
    pub fn start_with(self, mut command: Command) -> Sidecar {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let logs = Arc::new(Logs::default());
        let readers = vec![logs.collect(child.stdout.take().unwrap()), logs.collect(child.stderr.take().unwrap())];
        let sidecar = Sidecar { child, readers, logs, setup: self, exited: None };
        sidecar.wait_for_log("listening");
        sidecar
    }
}

/// The program. Where Ctrl-C is ignored, `env` restores the signals before it becomes the program.
fn program() -> Command {
    if !interrupts_are_ignored() {
        return Command::new(program_file());
    }
    let mut command = Command::new("/usr/bin/env");
    command.arg("--default-signal=INT,QUIT").arg(program_file());
    command
}

/// The file of the program that is tested: this build's, or the one that `CAREPORTALS_TEST_PROGRAM` names, as `deploy/arm64/test` does
/// with a program for another architecture.
#[expect(clippy::disallowed_methods, reason = "how a developer names another program")]
pub fn program_file() -> PathBuf {
    env::var_os("CAREPORTALS_TEST_PROGRAM").map_or_else(|| env!("CARGO_BIN_EXE_careportals-sidecar").into(), PathBuf::from)
}

/// Whether these tests were started with Ctrl-C ignored, as in a shell's background. Every process that they start inherits
/// that, so a terminal's signals can't be tried.
pub fn interrupts_are_ignored() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("SigIgn:")?.trim(), 16).ok());
    let interrupt_and_quit = 0b110;
    ignored.unwrap_or_default() & interrupt_and_quit != 0
}

/// Runs `start` while every signal is blocked for this thread; a process that it starts inherits that.
pub fn with_signals_blocked<T>(start: impl FnOnce() -> T) -> T {
    let before = SigSet::all().thread_swap_mask(SigmaskHow::SIG_BLOCK).unwrap();
    let started = start();
    before.thread_set_mask().unwrap();
    started
}

/// The output of a command that has ended.
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
