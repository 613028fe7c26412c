//! Starts the simulated CarePortals and the real sidecar in front of it, both in this process.

use std::{
    fs,
    io::{self, PipeReader, Write},
    iter,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
    os::{fd::AsRawFd, unix::fs::DirBuilderExt},
    path::PathBuf,
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use careportals_simulator::{Control, Options, Simulator};
use tokio::sync::watch;

use super::DemoError;
use crate::{
    app::{self, App, StartError},
    clock::SystemClock,
    config::{
        Config, ControlSocket, Listen,
        source::{self, Environment, Input},
    },
    control::{self, Commands},
    logging::AccessLog,
    process::{DaemonSignals, OnHangup, SignalThread},
    resources::{Runtime, require_descriptors, require_threads},
    status::Phase,
};

/// The port at which the sidecar listens by default.
pub(super) const USUAL_PORT: u16 = 2273;

/// The port of the telemetry listener by default.
const USUAL_TELEMETRY_PORT: u16 = 2274;

/// The age from which a 401 replaces a token. It is the least that the settings allow, so that the demo takes little time.
pub(super) const RELOGIN_FLOOR: Duration = Duration::from_millis(100);

/// How many free ports are tried. Another process may bind one, at one of the two addresses, before the sidecar does.
const FREE_PORTS: usize = 8;

/// The running sidecar and simulator.
pub(super) struct Setup {
    sidecar: JoinHandle<Result<(), StartError>>,
    commands: Commands,
    phases: watch::Receiver<Phase>,
    /// The sidecar's addresses: at least one, and all with the same port.
    pub(super) addresses: Vec<SocketAddr>,
    /// The address of the sidecar's status page.
    pub(super) telemetry: Option<SocketAddr>,
    /// The path to which the sidecar posts its log-in.
    pub(super) login_path: String,
    /// Where the control socket is; `None` where the machine has no place for it.
    pub(super) control: Option<ControlDirectory>,
    /// The simulator ends after the sidecar.
    simulator: Simulator,
}

/// What the two sides of the demo, and its calls, take at most.
const DESCRIPTORS: usize = 100;
const THREADS: usize = 10;

impl Setup {
    /// Starts both; the sidecar runs in a thread of its own.
    ///
    /// # Errors
    ///
    /// One of the two can't be started, or no port is free.
    pub(super) fn start(access: AccessLog, environment: &Environment) -> Result<Self, DemoError> {
        // Both are tried at once, so that the demo does not begin and then fail in the middle.
        require_descriptors(DESCRIPTORS).and_then(|()| require_threads(THREADS)).map_err(DemoError::System)?;
        let options = Options::default();
        let user = options.credentials.first().cloned().unwrap_or_default();
        let simulator = Simulator::start(options).map_err(DemoError::Simulator)?;
        let control = ControlDirectory::make(environment);
        let (app, login_path) = bind(&simulator, &user, control.as_ref())?;
        let addresses = app.addresses().filter_map(|(_, address)| address.parse().ok()).collect();
        let telemetry = app.telemetry_address();
        let phases = app.phases();
        let (commands, receiver) = control::commands();
        let senders = commands.clone();
        let serve = move || Runtime::new()?.block_on(app.run(Arc::new(SystemClock), access, senders, receiver));
        let sidecar = thread::Builder::new().name("sidecar".to_owned()).spawn(serve).map_err(DemoError::System)?;
        Ok(Self { sidecar, commands, phases, addresses, telemetry, login_path, control, simulator })
    }

    /// Makes signals commands to the sidecar, until the returned value is dropped. SIGHUP ends the demo: it has no settings
    /// to read again, and comes when the terminal is closed.
    ///
    /// # Errors
    ///
    /// The system refused a signal handler or a thread.
    pub(super) fn catch_signals(&self) -> Result<SignalThread, DemoError> {
        let deliver = |signals: DaemonSignals| signals.deliver(self.commands.clone(), OnHangup::ShutDown);
        DaemonSignals::catch().and_then(deliver).map_err(DemoError::System)
    }

    /// The simulator's controls: what it received, and faults to set.
    pub(super) fn control(&self) -> &Control {
        self.simulator.control()
    }

    /// Returns the simulator's base URL.
    pub(super) fn upstream(&self) -> String {
        upstream(&self.simulator)
    }

    /// Whether a signal stopped the sidecar, or it ended by itself.
    pub(super) fn is_stopping(&self) -> bool {
        self.sidecar.is_finished() || matches!(*self.phases.borrow(), Phase::Draining | Phase::Stopped)
    }

    /// Waits until the sidecar has ended, which a signal makes it do, and then ends the simulator.
    ///
    /// # Errors
    ///
    /// The sidecar ended with an error, or panicked.
    pub(super) fn wait(self) -> Result<(), DemoError> {
        let outcome = self.sidecar.join().map_err(|_| DemoError::Panic)?.map_err(DemoError::Sidecar);
        self.simulator.stop();
        outcome
    }

    /// Drains the sidecar and waits until both have ended.
    ///
    /// # Errors
    ///
    /// The sidecar ended with an error, or panicked.
    pub(super) fn stop(self) -> Result<(), DemoError> {
        self.commands.shut_down();
        self.wait()
    }
}

/// A simulated user: organization, user name, password.
type User = (String, String, String);

/// Binds the sidecar at the usual port, or else at a free one. Also returns the path to which it posts its log-in.
fn bind(simulator: &Simulator, user: &User, control: Option<&ControlDirectory>) -> Result<(App, String), DemoError> {
    let free = iter::repeat_with(free_port).take(FREE_PORTS);
    // The first attempt has both usual ports, the second the usual port and any for telemetry.
    let usual = [Ok(USUAL_PORT), Ok(USUAL_PORT)].into_iter().chain(free);
    for (port, telemetry) in usual.zip([USUAL_TELEMETRY_PORT, 0].into_iter().cycle()) {
        let port = port.map_err(DemoError::System)?;
        // A pipe can be read once, so each attempt has its own.
        let ca = PipedText::new(simulator.ca_pem()).map_err(DemoError::System)?;
        let mut config = settings(environment(simulator, &ca, user))?;
        config.restart_only.control_socket =
            control.map_or(ControlSocket::Off, |directory| ControlSocket::Path(directory.socket()));
        for api in &mut config.apis {
            api.listen = loopback(port);
        }
        config.restart_only.telemetry_listen = Some((Ipv4Addr::LOCALHOST, telemetry).into());
        let login = config.accounts.iter().find_map(|account| account.login.as_ref());
        let login_path = login.map(|login| login.url.target.to_string()).unwrap_or_default();
        match app::rehearse(&config).and_then(|tls| App::bind(Arc::new(config), tls)) {
            Err(StartError::Listener(_) | StartError::Telemetry(_)) => {}
            Err(error) => return Err(DemoError::Sidecar(error)),
            Ok(app) => return Ok((app, login_path)),
        }
    }
    Err(DemoError::NoPort)
}

/// The addresses that are the default, at `port`. The sidecar leaves out a family that the machine lacks.
fn loopback(port: u16) -> Vec<Listen> {
    let addresses = [SocketAddr::from((Ipv4Addr::LOCALHOST, port)), SocketAddr::from((Ipv6Addr::LOCALHOST, port))];
    addresses.into_iter().map(|address| Listen::Tcp { address, required: false }).collect()
}

/// The simulator's URL by its address, so that no name has to be resolved, not even `localhost`.
fn upstream(simulator: &Simulator) -> String {
    format!("https://{}", simulator.address())
}

fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// The settings as a user's environment would give them; the process's environment does not hold them.
fn environment(simulator: &Simulator, ca: &PipedText, (organization, username, password): &User) -> Environment {
    let (upstream, ca) = (upstream(simulator), ca.path());
    [
        ("CAREPORTALS_ORGANIZATION", organization.as_str()),
        ("CAREPORTALS_USERNAME", username),
        ("CAREPORTALS_PASSWORD", password),
        ("CAREPORTALS_UPSTREAM", &upstream),
        ("CAREPORTALS_CA_ONLY_FILE", &ca.to_string_lossy()),
        ("CAREPORTALS_WORKERS", "2"),
        ("CAREPORTALS__ACCOUNTS__DEFAULT__RELOGIN_FLOOR", &format!("{}ms", RELOGIN_FLOOR.as_millis())),
        ("CAREPORTALS__DRAIN_TIMEOUT", "5s"),
        ("CAREPORTALS__HARDENING", "off"),
        ("CAREPORTALS__APIS__DEFAULT__PATH_WORDS", "[\"_sim\", \"sse\"]"),
    ]
    .into_iter()
    .collect()
}

fn settings(environment: Environment) -> Result<Config, DemoError> {
    // The empty path makes the reader skip the default settings file.
    let input = Input {
        config_flag: None,
        default_file: PathBuf::new(),
        needs_file_keys: false,
        flags: Vec::new(),
        environment,
        defaults: &[],
    };
    let loaded = source::load(input);
    let faults = loaded.faults;
    let in_words = || faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    loaded.config.ok_or_else(|| DemoError::Settings(in_words()))
}

/// A directory for the control socket that only this user may enter. Dropping it removes it.
pub(super) struct ControlDirectory(PathBuf);

impl ControlDirectory {
    /// The longest path of a socket, in bytes; systems take a little more.
    const PATH_MAX: usize = 100;

    /// Makes it in the first of the usual places that takes it.
    fn make(environment: &Environment) -> Option<Self> {
        let named = ["XDG_RUNTIME_DIR", "TMPDIR"].into_iter().filter_map(|name| environment.get(name)).map(PathBuf::from);
        let name = format!("careportals-sidecar-demo-{}", std::process::id());
        let places =
            named.chain([PathBuf::from("/tmp")]).filter(|place| place.is_absolute()).map(|place| Self(place.join(&name)));
        let mut fitting = places.filter(|place| place.socket().as_os_str().len() <= Self::PATH_MAX);
        fitting.find(|place| fs::DirBuilder::new().mode(0o700).create(&place.0).is_ok())
    }

    pub(super) fn socket(&self) -> PathBuf {
        self.0.join("control.sock")
    }
}

impl Drop for ControlDirectory {
    fn drop(&mut self) {
        // The sidecar has removed its socket.
        drop(fs::remove_dir(&self.0));
    }
}

/// A text that can be read by a path although there is no file, because it is in a pipe. The demo needs no directory that
/// it can write to.
struct PipedText(PipeReader);

impl PipedText {
    /// Writes `text` to a pipe. It must fit into the pipe's buffer, which holds at least 4 KiB.
    fn new(text: &str) -> io::Result<Self> {
        let (reader, mut writer) = io::pipe()?;
        writer.write_all(text.as_bytes())?;
        Ok(Self(reader))
    }

    /// The path of the pipe. The text can be read once.
    fn path(&self) -> PathBuf {
        let directory = if cfg!(target_os = "linux") { "/proc/self/fd" } else { "/dev/fd" };
        PathBuf::from(format!("{directory}/{}", self.0.as_raw_fd()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piped_text_is_read_by_its_path() {
        let text = PipedText::new("some text").unwrap();
        assert_eq!(std::fs::read_to_string(text.path()).unwrap(), "some text");
    }
}
