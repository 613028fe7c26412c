//! The simulated CarePortals and the real sidecar in front of it, in one process.

use std::{
    io::{self, PipeReader, Write},
    iter,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
    os::fd::AsRawFd,
    path::PathBuf,
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use careportals_simulator::{Control, Options, Simulator};
use tokio::sync::{mpsc, watch};

use super::DemoError;
use crate::{
    app::{App, StartError},
    clock::SystemClock,
    config::{
        Config, Listen,
        source::{self, Environment, Input},
    },
    control::Command,
    logging::AccessLog,
    process::SignalCommands,
    status::Phase,
};

/// Where the sidecar listens unless told otherwise.
pub(super) const USUAL_PORT: u16 = 2273;

/// Where its health, metrics and status page are unless told otherwise.
const USUAL_TELEMETRY_PORT: u16 = 2274;

/// How old a token must be before a 401 has it replaced: as little as the settings allow, for the story to be short.
pub(super) const RELOGIN_FLOOR: Duration = Duration::from_millis(100);

/// Free ports tried: another process may take one, on one of the two addresses, before we do.
const FREE_PORTS: usize = 8;

/// Commands that may wait while one is carried out.
const COMMANDS: usize = 16;

/// Both, running.
pub(super) struct Stage {
    sidecar: JoinHandle<Result<(), StartError>>,
    commands: mpsc::Sender<Command>,
    phases: watch::Receiver<Phase>,
    addresses: Vec<SocketAddr>,
    telemetry: Option<SocketAddr>,
    login_path: String,
    signalled: mpsc::Sender<Command>,
    /// Outlives the sidecar.
    simulator: Simulator,
}

impl Stage {
    /// Starts both.
    pub(super) fn set(access: AccessLog) -> Result<Self, DemoError> {
        let options = Options::default();
        let user = options.credentials.first().cloned().unwrap_or_default();
        let simulator = Simulator::start(options).map_err(DemoError::Simulator)?;
        let (app, login_path) = bind(&simulator, &user)?;
        let addresses = app.addresses().filter_map(|(_, address)| address.parse().ok()).collect();
        let telemetry = app.telemetry_address();
        let phases = app.phases();
        let (commands, given) = mpsc::channel(COMMANDS);
        let (signalled, by_signal) = mpsc::channel(COMMANDS);
        let relay = relay(by_signal, commands.clone());
        let play = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let relay = tokio::spawn(relay);
                let ended = app.run(Arc::new(SystemClock), access, given).await;
                relay.abort();
                ended
            })
        };
        let sidecar = thread::Builder::new().name("sidecar".to_owned()).spawn(play).map_err(DemoError::System)?;
        Ok(Self { sidecar, commands, phases, addresses, telemetry, login_path, signalled, simulator })
    }

    /// From now on signals are commands to the sidecar.
    pub(super) fn catch_signals(&self) -> Result<SignalCommands, DemoError> {
        SignalCommands::catch(self.signalled.clone()).map_err(DemoError::System)
    }

    /// What the simulator saw, and its knobs.
    pub(super) fn control(&self) -> &Control {
        self.simulator.control()
    }

    /// Where the simulator is.
    pub(super) fn upstream(&self) -> String {
        upstream(&self.simulator)
    }

    /// Where the sidecar is; at least one, and all with the same port.
    pub(super) fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Where its status page is.
    pub(super) fn telemetry(&self) -> Option<SocketAddr> {
        self.telemetry
    }

    /// What the sidecar asks when it logs in.
    pub(super) fn login_path(&self) -> &str {
        &self.login_path
    }

    /// Whether a signal came, or the sidecar gave up.
    pub(super) fn is_stopping(&self) -> bool {
        self.sidecar.is_finished() || matches!(*self.phases.borrow(), Phase::Draining | Phase::Stopped)
    }

    /// Stays until the sidecar has ended, as a signal makes it.
    pub(super) fn wait(self) -> Result<(), DemoError> {
        let ended = self.sidecar.join().map_err(|_| DemoError::Panic)?.map_err(DemoError::Sidecar);
        self.simulator.stop();
        ended
    }

    /// Ends the sidecar in an orderly way.
    pub(super) fn stop(self) -> Result<(), DemoError> {
        // Closed: it has ended already, and `wait` tells how.
        let _ = self.commands.blocking_send(Command::Shutdown);
        self.wait()
    }
}

/// What signals ask for, but that a demo whose terminal is closed ends with it: it has no settings to read again.
async fn relay(mut signals: mpsc::Receiver<Command>, commands: mpsc::Sender<Command>) {
    while let Some(command) = signals.recv().await {
        let command = if matches!(command, Command::Reload { .. }) { Command::Shutdown } else { command };
        if commands.send(command).await.is_err() {
            return;
        }
    }
}

/// Organization, user name, password.
type User = (String, String, String);

/// The sidecar at the usual port, else at a free one, and where it logs in.
fn bind(simulator: &Simulator, user: &User) -> Result<(App, String), DemoError> {
    let free = iter::repeat_with(free_port).take(FREE_PORTS);
    // Where both or one of the usual ports are free, they are used.
    let usual = [Ok(USUAL_PORT), Ok(USUAL_PORT)].into_iter().chain(free);
    for (port, telemetry) in usual.zip([USUAL_TELEMETRY_PORT, 0].into_iter().cycle()) {
        let port = port.map_err(DemoError::System)?;
        // A pipe is read once, so each attempt has one of its own.
        let ca = InMemory::new(simulator.ca_pem()).map_err(DemoError::System)?;
        let mut config = settings(environment(simulator, &ca, user))?;
        for api in &mut config.apis {
            api.listen = loopback(port);
        }
        config.restart_only.telemetry_listen = Some((Ipv4Addr::LOCALHOST, telemetry).into());
        let login = config.accounts.iter().find_map(|account| account.login.as_ref());
        let login_path = login.map(|login| login.url.target.to_string()).unwrap_or_default();
        match App::bind(Arc::new(config)) {
            Err(StartError::Listener(_) | StartError::Telemetry(_)) => {}
            Err(error) => return Err(DemoError::Sidecar(error)),
            Ok(app) => return Ok((app, login_path)),
        }
    }
    Err(DemoError::NoPort)
}

/// As by default: a family that the machine lacks is left out.
fn loopback(port: u16) -> Vec<Listen> {
    let addresses = [SocketAddr::from((Ipv4Addr::LOCALHOST, port)), SocketAddr::from((Ipv6Addr::LOCALHOST, port))];
    addresses.into_iter().map(|address| Listen::Tcp { address, required: false }).collect()
}

/// By its address: not even the name `localhost` need resolve.
fn upstream(simulator: &Simulator) -> String {
    format!("https://{}", simulator.address())
}

fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// The settings, as users make them, but of variables that exist nowhere else.
fn environment(simulator: &Simulator, ca: &InMemory, (organization, username, password): &User) -> Environment {
    let (upstream, ca) = (upstream(simulator), ca.path());
    [
        ("CAREPORTALS_ORGANIZATION", organization.as_str()),
        ("CAREPORTALS_USERNAME", username),
        ("CAREPORTALS_PASSWORD", password),
        ("CAREPORTALS_UPSTREAM", &upstream),
        ("CAREPORTALS_CA_ONLY_FILE", &ca.to_string_lossy()),
        ("CAREPORTALS_CONTROL_SOCKET", "off"),
        ("CAREPORTALS_WORKERS", "2"),
        ("CAREPORTALS__ACCOUNTS__DEFAULT__RELOGIN_FLOOR", &format!("{}ms", RELOGIN_FLOOR.as_millis())),
        ("CAREPORTALS__DRAIN_TIMEOUT", "5s"),
        ("CAREPORTALS__HARDENING", "off"),
    ]
    .into_iter()
    .collect()
}

fn settings(environment: Environment) -> Result<Config, DemoError> {
    // The empty path names no file, so none is read.
    let input = Input { config_flag: None, default_file: PathBuf::new(), flags: Vec::new(), environment, defaults: &[] };
    let loaded = source::load(input);
    let faults = loaded.faults;
    let in_words = || faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    loaded.config.ok_or_else(|| DemoError::Settings(in_words()))
}

/// Text under a path, without a file: the throw-away authority touches no disk, and one that is read-only does not matter.
struct InMemory(PipeReader);

impl InMemory {
    /// Of a text that fits into a pipe, which is 4 KiB at the very least.
    fn new(text: &str) -> io::Result<Self> {
        let (reader, mut writer) = io::pipe()?;
        writer.write_all(text.as_bytes())?;
        Ok(Self(reader))
    }

    /// Good for one reading.
    fn path(&self) -> PathBuf {
        let directory = if cfg!(target_os = "linux") { "/proc/self/fd" } else { "/dev/fd" };
        PathBuf::from(format!("{directory}/{}", self.0.as_raw_fd()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_in_memory_is_read_by_its_path() {
        let text = InMemory::new("some text").unwrap();
        assert_eq!(std::fs::read_to_string(text.path()).unwrap(), "some text");
    }
}
