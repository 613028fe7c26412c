//! The daemon as a whole: built from a valid configuration, run until told to stop, drained.
//!
//! Depends on everything below it. `bind` opens what must be open and can fail; `run` only works. Guarantees: clients are
//! accepted before the first log-in is done; what is in flight when a stop is asked for may finish within
//! `drain_timeout`; accounts end last, so that their tokens are wiped before the process is gone.

mod worker;

use std::{fmt, io, num::NonZeroUsize, sync::Arc, time::Duration};

use rustls::ClientConfig;
use tokio::{
    sync::{Semaphore, mpsc, watch},
    time::timeout,
};
use tracing::{info, warn};

use crate::{
    account::{Account, LoginConnectors},
    clock::{Clock, Jitter},
    config::{AccountId, Config, Endpoint, Login, Origin},
    connect::Connector,
    logging::AccessLog,
    proxy::{Outage, Places},
    server::{BindError, bind},
    tls::{self, TlsSetupError},
};
use worker::{Crew, Door, Orders};

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
    Bind(BindError),
    /// There is no address left to listen on.
    NoListener,
    /// The system refuses a thread, a descriptor or the like.
    System(io::Error),
}

impl StartError {
    /// Whether changing the settings would help.
    #[must_use]
    pub fn is_configuration(&self) -> bool {
        matches!(self, Self::Tls(_) | Self::Host(_))
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tls(error) => error.fmt(f),
            Self::Host(origin) => write!(f, "{origin}: not a host name that a certificate can be checked for"),
            Self::Bind(error) => error.fmt(f),
            Self::NoListener => {
                f.write_str("none of the addresses to listen on exists on this machine\n  hint: set CAREPORTALS_LISTEN")
            }
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
    tls: Arc<ClientConfig>,
    doors: Vec<Door>,
    phase: watch::Sender<Phase>,
}

impl App {
    /// Opens what must be open. Belongs before the runtime: it reads files and sets the process's file mode mask.
    pub fn bind(config: Arc<Config>) -> Result<Self, StartError> {
        let tls = tls::client_config(&config.tls).map_err(StartError::Tls)?;
        let mut app = Self { config, tls, doors: Vec::new(), phase: watch::Sender::new(Phase::Starting) };
        for account in &app.config.accounts {
            if let Some(login) = &account.login {
                app.connector(&login.url.origin, login.timeout)?;
            }
        }
        let config = Arc::clone(&app.config);
        for (index, api) in config.apis.iter().enumerate() {
            app.connector(&api.upstream.origin, api.timeouts.connect)?;
            let (places, outage) = (Places::new(api.limits.max_requests), Outage::default());
            for listen in &api.listen {
                let Some(bound) = bind(listen, api.socket_mode).map_err(StartError::Bind)? else {
                    info!(listener = %listen, "skipped: this machine lacks the address family");
                    continue;
                };
                let permits = Arc::new(Semaphore::new(api.limits.max_connections));
                app.doors.push(Door { api: index, bound, permits, places: places.clone(), outage: outage.clone() });
            }
        }
        if app.doors.is_empty() { Err(StartError::NoListener) } else { Ok(app) }
    }

    /// Each API's name with an address where it can be reached, ports as they really are.
    pub fn addresses(&self) -> impl Iterator<Item = (&str, &str)> {
        self.doors.iter().map(|door| (self.config.apis[door.api].name.as_str(), door.bound.name.as_str()))
    }

    /// Follows the daemon through its life.
    #[must_use]
    pub fn phases(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    /// Serves until a `Shutdown` arrives or the sender of commands is gone, then drains. Needs a tokio runtime; workers
    /// bring their own.
    pub async fn run(
        mut self,
        clock: Arc<dyn Clock>,
        access: AccessLog,
        mut commands: mpsc::Receiver<Command>,
    ) -> Result<(), StartError> {
        let accounts = self.start_accounts(&clock)?;
        let (begun, drain) = watch::channel(false);
        let (orders, given) = watch::channel(Orders::default());
        let crew = Crew {
            config: Arc::clone(&self.config),
            tls: Arc::clone(&self.tls),
            accounts: accounts.clone(),
            clock,
            access,
            drain,
            orders: given,
        };
        let workers = crew.start(self.workers(), &self.doors)?;
        for (api, listener) in self.addresses() {
            let upstream = self.config.apis.iter().find(|known| known.name == api).map(|known| known.upstream.origin.to_string());
            info!(api, listener, upstream, "listening");
        }
        self.phase.send_replace(Phase::Running);
        obey(&mut commands, &accounts, &orders).await;
        self.phase.send_replace(Phase::Draining);
        let doors = std::mem::take(&mut self.doors);
        self.drain(doors, &begun, &orders, workers, commands, &accounts).await;
        for account in &accounts {
            account.shut_down().await;
        }
        self.phase.send_replace(Phase::Stopped);
        info!("stopped");
        Ok(())
    }

    /// Ends the workers: in their own time, then in ours.
    async fn drain(
        &self,
        doors: Vec<Door>,
        begun: &watch::Sender<bool>,
        orders: &watch::Sender<Orders>,
        mut workers: worker::Workers,
        mut commands: mpsc::Receiver<Command>,
        accounts: &[Account],
    ) {
        if !self.config.drain_delay.is_zero() {
            info!(seconds = self.config.drain_delay.as_secs(), "stopping: new requests are still served for the drain delay");
            // A log-out still counts; another shutdown changes nothing.
            drop(timeout(self.config.drain_delay, obey_until_closed(&mut commands, accounts, orders)).await);
        }
        info!(seconds = self.config.drain_timeout.as_secs(), "draining");
        // The workers hold the last descriptors of the listening sockets now, and close them once the queues are empty.
        drop(doors);
        begun.send_replace(true);
        let ended = async {
            tokio::select! {
                () = obey_until_closed(&mut commands, accounts, orders) => std::future::pending().await,
                _ = workers.finished().recv() => {}
            }
        };
        if timeout(self.config.drain_timeout, ended).await.is_err() {
            warn!("the drain time ran out: what is still in flight is cut off");
        }
        orders.send_modify(|orders| orders.stop = true);
        workers.join();
    }

    fn workers(&self) -> NonZeroUsize {
        self.config.workers.or_else(|| NonZeroUsize::new(default_workers())).unwrap_or(NonZeroUsize::MIN)
    }

    fn start_accounts(&self, clock: &Arc<dyn Clock>) -> Result<Vec<Account>, StartError> {
        (0..self.config.accounts.len())
            .map(|index| {
                let connectors = match &self.config.accounts[index].login {
                    Some(login) => Some(self.login_connectors(login)?),
                    None => None,
                };
                let (config, clock) = (Arc::clone(&self.config), Arc::clone(clock));
                // It fits: index and connectors come from the same configuration.
                Account::start(config, AccountId(index), connectors, clock, Jitter::from_system())
                    .ok_or(StartError::System(io::ErrorKind::InvalidInput.into()))
            })
            .collect()
    }

    fn login_connectors(&self, login: &Login) -> Result<LoginConnectors, StartError> {
        let connector = |endpoint: &Endpoint| self.connector(&endpoint.origin, login.timeout);
        Ok(LoginConnectors { login: connector(&login.url)?, refresh: login.refresh_url.as_ref().map(connector).transpose()? })
    }

    fn connector(&self, origin: &Origin, limit: Duration) -> Result<Connector, StartError> {
        Connector::new(origin, &self.tls, limit).ok_or_else(|| StartError::Host(origin.clone()))
    }
}

/// Usable cores (affinity and cgroup quota honoured), at most 4.
fn default_workers() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).min(4)
}

/// Carries out commands until a `Shutdown`, or until nobody can send one.
async fn obey(commands: &mut mpsc::Receiver<Command>, accounts: &[Account], orders: &watch::Sender<Orders>) {
    while let Some(command) = commands.recv().await {
        match command {
            Command::Shutdown => return,
            Command::LogOut => log_out(accounts, orders).await,
            Command::Reload => warn!("reload is not supported yet: restart to apply changed settings"),
        }
    }
}

/// The same while a shutdown is under way: it can't be called off.
async fn obey_until_closed(commands: &mut mpsc::Receiver<Command>, accounts: &[Account], orders: &watch::Sender<Orders>) {
    while let Some(command) = commands.recv().await {
        if command == Command::LogOut {
            log_out(accounts, orders).await;
        }
    }
}

async fn log_out(accounts: &[Account], orders: &watch::Sender<Orders>) {
    for account in accounts {
        account.log_out().await;
    }
    orders.send_modify(|orders| orders.close_idle += 1);
}
