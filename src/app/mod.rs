//! The daemon as a whole: built from a valid configuration, run until told to stop, drained.
//!
//! Depends on everything below it. `bind` opens what must be open and can fail; `run` only works. Guarantees: clients are
//! accepted before the first log-in is done; a reload is taken over whole or not at all; what is in flight when a stop is
//! asked for may finish within `drain_timeout`; accounts end last, so that their tokens are wiped before the process is
//! gone.

mod accounts;
mod doors;
mod reload;
mod worker;

use std::{fmt, io, num::NonZeroUsize, sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, watch},
    time::timeout,
};
use tracing::{info, warn};

use crate::{
    account::Account,
    clock::Clock,
    config::{Config, Egress, Origin, source::Input},
    connect::Connector,
    logging::{AccessLog, LogControl},
    path::Prefix,
    proxy::{Outage, Places},
    tls::{ClientTls, TlsSetupError},
};
pub use doors::DoorError;
use doors::{Door, Layout, PassedSockets};
use worker::{Crew, Order, Workers};

/// What a running daemon can be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Drain and end.
    Shutdown,
    /// Forget every token; only an explicit log-in, or a restart, makes another.
    LogOut,
    /// Read the settings again.
    Reload,
}

/// Where a daemon is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Bound, and about to serve.
    Starting,
    /// Serving.
    Running,
    /// Finishing what is in flight.
    Draining,
    /// Done.
    Stopped,
}

/// Why a daemon can't start.
#[derive(Debug)]
pub enum StartError {
    /// Trust can't be set up: a matter of configuration.
    Tls(TlsSetupError),
    /// A host name no certificate can be for: a matter of configuration.
    Host(Origin),
    /// An address can't be used.
    Door(DoorError),
    /// The system refuses a thread, a descriptor or the like.
    System(io::Error),
}

impl StartError {
    /// Whether changing the settings would help.
    #[must_use]
    pub fn is_configuration(&self) -> bool {
        matches!(self, Self::Tls(_) | Self::Host(_) | Self::Door(DoorError::Group(..)))
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tls(error) => error.fmt(f),
            Self::Host(origin) => write!(f, "{origin}: not a host name that a certificate can be checked for"),
            Self::Door(error) => error.fmt(f),
            Self::System(error) => write!(f, "the system refused what the daemon needs: {error}"),
        }
    }
}

impl std::error::Error for StartError {}

impl From<io::Error> for StartError {
    fn from(error: io::Error) -> Self {
        Self::System(error)
    }
}

/// A daemon whose sockets are bound and whose trust is set up.
pub struct App {
    config: Arc<Config>,
    tls: ClientTls,
    doors: Vec<Door>,
    /// The APIs behind each door, as places in [`Config::apis`].
    behind: Vec<Vec<usize>>,
    passed: PassedSockets,
    phase: watch::Sender<Phase>,
    started: watch::Sender<Vec<Account>>,
    settings: Option<Settings>,
}

/// Where a reload finds the settings, and whom it tells what they say of logs.
struct Settings {
    input: Input,
    log: LogControl,
}

/// Everything that a reload may change, in one piece: workers build their side from it.
struct Plan {
    config: Arc<Config>,
    tls: ClientTls,
    /// As [`Config::accounts`].
    accounts: Vec<Account>,
    /// As [`Config::apis`].
    shared: Vec<Shared>,
    /// As the doors.
    behind: Vec<Vec<usize>>,
}

/// What all workers share of an API.
#[derive(Clone)]
struct Shared {
    /// Requests in flight.
    places: Places,
    /// Whether its upstream was reached last.
    outage: Outage,
}

impl App {
    /// Opens what must be open. Belongs before the runtime: it takes over sockets that were passed to the process.
    pub fn bind(config: Arc<Config>) -> Result<Self, StartError> {
        let tls = ClientTls::new(&config.tls).map_err(StartError::Tls)?;
        check_hosts(&config, &tls)?;
        let mut passed = PassedSockets::take(&config.socket_names)?;
        let layout = Layout::of(&config, &passed.places).map_err(StartError::Door)?;
        let doors = layout.open(&config, &[], &mut passed).map_err(StartError::Door)?;
        for name in passed.unused() {
            warn!(socket = name, "systemd passed a socket that no API listens on");
        }
        let behind = layout.behind(&doors);
        let phase = watch::Sender::new(Phase::Starting);
        let started = watch::Sender::default();
        Ok(Self { config, tls, doors, behind, passed, phase, started, settings: None })
    }

    /// Lets [`Command::Reload`] read the settings again from where they came, and tell `log` what they say of it.
    #[must_use]
    pub fn with_settings(self, input: Input, log: LogControl) -> Self {
        Self { settings: Some(Settings { input, log }), ..self }
    }

    /// Each API's name with an address where it can be reached, ports as they really are.
    pub fn addresses(&self) -> impl Iterator<Item = (&str, &str)> {
        let names = |apis: &'_ Vec<usize>| apis.iter().map(|api| self.config.apis[*api].name.as_str()).collect::<Vec<_>>();
        self.doors
            .iter()
            .zip(&self.behind)
            .flat_map(move |(door, apis)| names(apis).into_iter().map(move |name| (name, door.bound.name.as_str())))
    }

    /// Follows the daemon through its life.
    #[must_use]
    pub fn phases(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    /// Every account, once they have been started; none before.
    #[must_use]
    pub fn accounts(&self) -> watch::Receiver<Vec<Account>> {
        self.started.subscribe()
    }

    /// Serves until a `Shutdown` arrives or the sender of commands is gone, then drains. Needs a tokio runtime; workers
    /// bring their own.
    pub async fn run(
        self,
        clock: Arc<dyn Clock>,
        access: AccessLog,
        mut commands: mpsc::Receiver<Command>,
    ) -> Result<(), StartError> {
        let (begun, drain) = watch::channel(false);
        let accounts = accounts::start(&self.config, &self.tls, &clock)?;
        self.started.send_replace(accounts.clone());
        let crew = Crew { clock: Arc::clone(&clock), access, drain };
        let workers = crew.start(self.workers())?;
        let Self { config, tls, doors, behind, passed, phase, started: _, settings } = self;
        let shared = config.apis.iter().map(|api| Shared::new(api.limits.max_requests)).collect();
        let plan = Arc::new(Plan { config, tls, accounts, shared, behind });
        workers.take_over(&plan, workers.descriptors(&doors)?).await;
        plan.announce(&doors, 0);
        phase.send_replace(Phase::Running);
        let mut daemon = Daemon { plan, doors, workers, passed, settings, clock };
        daemon.obey(&mut commands).await;
        phase.send_replace(Phase::Draining);
        let plan = Arc::clone(&daemon.plan);
        daemon.drain(&begun, commands).await;
        for account in &plan.accounts {
            account.shut_down().await;
        }
        phase.send_replace(Phase::Stopped);
        info!("stopped");
        Ok(())
    }

    fn workers(&self) -> NonZeroUsize {
        self.config.workers.or_else(|| NonZeroUsize::new(default_workers())).unwrap_or(NonZeroUsize::MIN)
    }
}

/// Usable cores (affinity and cgroup quota honoured), at most 4.
fn default_workers() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).min(4)
}

/// What no certificate could be for is named before anything is started.
fn check_hosts(config: &Config, tls: &ClientTls) -> Result<(), StartError> {
    let logins = config.accounts.iter().filter_map(|account| account.login.as_ref());
    let endpoints = logins.flat_map(|login| [Some(&login.url), login.refresh_url.as_ref()]).flatten();
    let origins = config.apis.iter().map(|api| &api.upstream.origin).chain(endpoints.map(|endpoint| &endpoint.origin));
    for origin in origins {
        connector(origin, tls, &config.egress, Duration::ZERO)?;
    }
    Ok(())
}

fn connector(origin: &Origin, tls: &ClientTls, egress: &Egress, limit: Duration) -> Result<Connector, StartError> {
    Connector::new(origin, tls, egress, limit).ok_or_else(|| StartError::Host(origin.clone()))
}

impl Shared {
    fn new(max_requests: usize) -> Self {
        Self { places: Places::new(max_requests), outage: Outage::default() }
    }
}

impl Plan {
    /// Says where clients come in, from the door with that number on.
    fn announce(&self, doors: &[Door], from: usize) {
        for (door, apis) in doors.iter().zip(&self.behind).skip(from) {
            for api in apis.iter().map(|api| &self.config.apis[*api]) {
                let prefix = api.prefix.as_ref().map(Prefix::as_str);
                let upstream = api.upstream.origin.to_string();
                info!(api = api.name, listener = door.bound.name, prefix, upstream, "listening");
            }
        }
    }
}

/// A daemon that serves.
struct Daemon {
    plan: Arc<Plan>,
    doors: Vec<Door>,
    workers: Workers,
    passed: PassedSockets,
    settings: Option<Settings>,
    clock: Arc<dyn Clock>,
}

impl Daemon {
    /// Carries out commands until a `Shutdown`, or until nobody can send one.
    async fn obey(&mut self, commands: &mut mpsc::Receiver<Command>) {
        while let Some(command) = commands.recv().await {
            match command {
                Command::Shutdown => return,
                Command::LogOut => self.log_out().await,
                Command::Reload => self.reload().await,
            }
        }
    }

    /// The same while a shutdown is under way: it can't be called off, and nothing new begins.
    async fn obey_until_closed(&self, commands: &mut mpsc::Receiver<Command>) {
        while let Some(command) = commands.recv().await {
            if command == Command::LogOut {
                self.log_out().await;
            }
        }
    }

    async fn log_out(&self) {
        for account in &self.plan.accounts {
            account.log_out().await;
        }
        self.workers.order(|| Order::CloseIdle).await;
    }

    /// Ends the workers: in their own time, then in ours.
    async fn drain(mut self, begun: &watch::Sender<bool>, mut commands: mpsc::Receiver<Command>) {
        let (delay, limit) = (self.plan.config.drain_delay, self.plan.config.drain_timeout);
        if !delay.is_zero() {
            info!(seconds = delay.as_secs(), "stopping: new requests are still served for the drain delay");
            // A log-out still counts; another shutdown changes nothing.
            drop(timeout(delay, self.obey_until_closed(&mut commands)).await);
        }
        info!(seconds = limit.as_secs(), "draining");
        // The workers hold the last descriptors of the listening sockets now, and close them once the queues are empty.
        self.doors.clear();
        begun.send_replace(true);
        let mut finished = self.workers.finished();
        let ended = async {
            tokio::select! {
                () = self.obey_until_closed(&mut commands) => std::future::pending().await,
                _ = finished.recv() => {}
            }
        };
        if timeout(limit, ended).await.is_err() {
            warn!("the drain time ran out: what is still in flight is cut off");
        }
        self.workers.order(|| Order::Stop).await;
        self.workers.join();
    }
}
