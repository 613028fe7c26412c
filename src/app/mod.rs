//! The daemon as a whole: built from a valid configuration, run until it is told to stop, drained.
//!
//! [`App::bind`] opens everything that must be open and can fail; [`App::run`] serves. Guarantees: clients are accepted before
//! the first log-in is done; a reload changes everything or nothing, but for what `reload` names; after a stop, requests in
//! flight have `drain_timeout` to finish; accounts end after the workers, so that their tokens are wiped before the process is
//! gone.
//!
//! Files, each using only those before it: `listener_error`, `listeners` (sockets, and which APIs they serve), `start` (why a
//! start fails), `snapshot` (what a reload replaces), `accounts`, `orders` (what a worker has to do), `worker` (threads that serve),
//! `admin` (tasks that show the daemon), `daemon` (commands and drain), `reload`.

mod accounts;
mod admin;
mod daemon;
mod listener_error;
mod listeners;
mod orders;
mod reload;
#[cfg(test)]
mod simulation;
mod snapshot;
mod start;
mod worker;

use std::{io, net::SocketAddr, num::NonZeroUsize, path::PathBuf, pin::pin, sync::Arc, time::Duration};

use tokio::{sync::watch, time::timeout};
use tracing::{info, warn};

use crate::{
    account::Account,
    clock::Clock,
    config::{Config, source::Input},
    control::{self, CommandReceiver, Commands, LogOut},
    descriptors::Descriptors,
    hardening::{self, AllowedDirectories},
    logging::{AccessLog, LogControl},
    metrics::Metrics,
    proxy,
    resources::{require_descriptors, require_threads},
    server::{Drain, SharedDescriptors},
    status::{ApiStates, Phase, StatusReader, View},
    systemd::{Reloads, Systemd},
    telemetry,
    tls::{self, ClientTls},
};
use admin::AdminTasks;
use daemon::{Daemon, ReloadSource, STOP_WORKERS, confirm, end_accounts, log_out_accounts, unless_shut_down};
pub use listener_error::ListenerError;
use listeners::{Limits, Listener, ListenerPlan, PassedSockets};
use snapshot::{ApiShared, Snapshot, required_headers};
pub use start::{StartError, judge, rehearse, warnings};
use worker::{OwnThreads, SWITCH_MAX, WorkerFactory, WorkerHost};

/// How long a start may still take when a shutdown comes before it is over. Clients that have connected meanwhile are served then.
const LATE_START: Duration = Duration::from_millis(500);

/// A daemon whose sockets are bound and whose TLS is set up.
pub struct App {
    config: Arc<Config>,
    tls: ClientTls,
    listeners: Vec<Listener>,
    /// For each listener, its APIs as indexes into [`Config::apis`].
    apis_by_listener: Vec<Vec<usize>>,
    passed: PassedSockets,
    telemetry: Option<telemetry::TelemetryListener>,
    control: control::OpenedControl,
    phase: watch::Sender<Phase>,
    view: watch::Sender<Arc<View>>,
    reload_source: Option<ReloadSource>,
    reloads: watch::Sender<Reloads>,
    systemd: Option<Systemd>,
    metrics: Arc<Metrics>,
    descriptors: DescriptorUse,
}

/// The process's descriptors, and the connections that share them.
#[derive(Clone)]
struct DescriptorUse {
    allowed: Descriptors,
    shared: SharedDescriptors,
}

impl App {
    /// Raises the limit of descriptors, and binds the listeners. `tls` is what [`rehearse`] made of the same settings. Call it
    /// before the runtime starts: it takes over the sockets that a service manager passed to the process.
    ///
    /// # Errors
    ///
    /// An address or a socket can't be used.
    pub fn bind(config: Arc<Config>, tls: ClientTls) -> Result<Self, StartError> {
        let descriptors = DescriptorUse { allowed: Descriptors::raise(), shared: SharedDescriptors::default() };
        let mut passed = PassedSockets::take(&config.socket_names)?;
        let plan = ListenerPlan::of(&config, &passed.sockets).map_err(StartError::Listener)?;
        let listeners = plan.open(&config, &[], &mut passed, &descriptors.shared).map_err(StartError::Listener)?;
        for name in passed.unused() {
            warn!(socket = name, "systemd passed a socket that no API listens on");
        }
        let apis_by_listener = plan.apis_by_listener(&listeners);
        let bind = |address| telemetry::TelemetryListener::bind(address).map_err(StartError::Telemetry);
        let telemetry = config.restart_only.telemetry_listen.map(bind).transpose()?.flatten();
        let control = control::ControlListener::open(&config).map_err(StartError::Control)?;
        let workers = workers(&config);
        require_resources(workers, listeners.len())?;
        let metrics = proxy::metrics(workers);
        Ok(Self {
            config,
            tls,
            listeners,
            apis_by_listener,
            passed,
            telemetry,
            control,
            phase: watch::Sender::new(Phase::Starting),
            view: watch::Sender::default(),
            reload_source: None,
            reloads: watch::Sender::default(),
            systemd: None,
            metrics,
            descriptors,
        })
    }

    /// Lets [`Commands::reload`] read the settings again from `input`, and adopt their log settings through `log`.
    #[must_use]
    pub fn reloading_from(self, input: Input, log: LogControl) -> Self {
        Self { reload_source: Some(ReloadSource { input, log, sandbox: None }), ..self }
    }

    /// Gives up for good what the process does not need; a later reload's settings stay within reach. Call it before
    /// there is a second thread.
    ///
    /// # Errors
    ///
    /// A step that `hardening = "required"` demands can't be taken.
    pub fn harden(mut self) -> Result<Self, StartError> {
        let inputs = || self.reload_source.iter().map(|source| &source.input);
        let files: Vec<_> = inputs().flat_map(Input::files).collect();
        let mut directories = AllowedDirectories::of(&self.config, files.iter().map(PathBuf::as_path));
        if let Ok(directories) = &mut directories {
            self.control.file().into_iter().for_each(|socket| directories.add_socket(socket));
            inputs().flat_map(Input::directories).for_each(|directory| directories.add_directory(&directory));
            if self.config.tls.named_roots.is_none() {
                tls::root_directories().for_each(|directory| directories.add_links_of(directory));
            }
        }
        let sandbox = hardening::harden(self.config.restart_only.hardening, directories).map_err(StartError::Hardening)?;
        if let Some(source) = &mut self.reload_source {
            source.sandbox = sandbox.map(Arc::new);
        }
        Ok(self)
    }

    /// Hardens the process of `exec`. The program that it runs keeps its rights, and settings are not read again.
    ///
    /// # Errors
    ///
    /// A step that `hardening = "required"` demands can't be taken.
    pub fn harden_around_a_program(&self) -> Result<(), StartError> {
        hardening::harden_around_a_program(self.config.restart_only.hardening).map_err(StartError::Hardening)
    }

    /// Reports the daemon's state to the service manager.
    #[must_use]
    pub fn with_systemd(self, systemd: Option<Systemd>) -> Self {
        Self { systemd, ..self }
    }

    /// Each API's name with an address where clients reach it; ports are the bound ones.
    pub fn addresses(&self) -> impl Iterator<Item = (&str, &str)> {
        let names = |apis: &'_ Vec<usize>| apis.iter().map(|api| self.config.apis[*api].name.as_str()).collect::<Vec<_>>();
        self.listeners
            .iter()
            .zip(&self.apis_by_listener)
            .flat_map(move |(listener, apis)| names(apis).into_iter().map(move |name| (name, listener.bound.name.as_str())))
    }

    /// The daemon's phase, as it changes.
    #[must_use]
    pub fn phases(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    /// The accounts and APIs that are served; empty until [`run`](Self::run) has started the accounts.
    #[must_use]
    pub fn views(&self) -> watch::Receiver<Arc<View>> {
        self.view.subscribe()
    }

    /// The address of health and metrics; `None` when they are off.
    #[must_use]
    pub fn telemetry_address(&self) -> Option<SocketAddr> {
        self.telemetry.as_ref().map(telemetry::TelemetryListener::address)
    }

    /// Serves until a shutdown is among `commands`, then drains; `senders` is the other end, for the admin listeners. Needs
    /// a tokio runtime; workers have their own.
    ///
    /// # Errors
    ///
    /// The system refuses a thread or a descriptor. Nothing was served then.
    pub async fn run(
        self,
        clock: Arc<dyn Clock>,
        access: AccessLog,
        senders: Commands,
        commands: CommandReceiver,
    ) -> Result<(), StartError> {
        self.run_with(OwnThreads, clock, access, senders, commands).await
    }

    /// As [`run`](Self::run), with workers on `host`.
    async fn run_with(
        mut self,
        host: impl WorkerHost,
        clock: Arc<dyn Clock>,
        access: AccessLog,
        senders: Commands,
        mut commands: CommandReceiver,
    ) -> Result<(), StartError> {
        let (drain, _) = Drain::new();
        let accounts = accounts::start(&self.config, &self.tls, &clock, &self.metrics)?;
        let status = self.status_reader(&clock, access.clone());
        let factory =
            WorkerFactory { clock: Arc::clone(&clock), access, drain: drain.clone(), metrics: Arc::clone(&self.metrics) };
        let mut workers = factory.start(self::workers(&self.config), &host)?;
        let admin = AdminTasks::start(&mut self, &workers, status, &senders);
        let Self {
            config,
            tls,
            listeners,
            apis_by_listener,
            passed,
            phase,
            view,
            reloads,
            reload_source,
            metrics,
            descriptors,
            ..
        } = self;
        let log_out = async |asked| {
            log_out_accounts(&accounts, &asked).await;
            confirm(asked);
        };
        let Some(required) = soon_if_shut_down(required_headers(&config, None), &mut commands, log_out).await else {
            phase.send_replace(Phase::Draining);
            let finished = workers.finished();
            workers.stop(finished, STOP_WORKERS).await;
            end(&accounts, &phase, admin).await;
            return Ok(());
        };
        let limits = Limits::of(&config, &apis_by_listener, workers.count(), descriptors.allowed);
        limits.set(&listeners, 0);
        let apis = config.apis.iter().zip(&limits.requests).zip(required);
        let shared = apis.map(|((api, requests), required)| ApiShared::new(api, *requests, &metrics, required)).collect();
        let snapshot = Arc::new(Snapshot { config, tls, accounts, shared, apis_by_listener });
        snapshot.count_client_errors(&listeners);
        view.send_replace(snapshot.view(&listeners));
        workers.serve_by(&snapshot, workers.descriptors(&listeners)?, SWITCH_MAX).await;
        snapshot.announce(&listeners, 0);
        phase.send_replace(Phase::Running);
        let mut daemon =
            Daemon { snapshot, listeners, workers, passed, reload_source, clock, view, reloads, metrics, descriptors };
        daemon.run_commands(&mut commands).await;
        phase.send_replace(Phase::Draining);
        let snapshot = Arc::clone(&daemon.snapshot);
        daemon.drain(&drain, commands).await;
        end(&snapshot.accounts, &phase, admin).await;
        Ok(())
    }

    fn status_reader(&self, clock: &Arc<dyn Clock>, access: AccessLog) -> StatusReader {
        let (phase, view, telemetry) = (self.phase.subscribe(), self.view.subscribe(), self.telemetry_address());
        let (started, states) = (clock.now(), ApiStates::default());
        StatusReader { phase, view, started, clock: Arc::clone(clock), telemetry, access, states }
    }
}

/// As [`unless_shut_down`], but a shutdown leaves `work` a moment to end: clients have connected since the sockets were bound, and
/// the drain serves them.
async fn soon_if_shut_down<T>(
    work: impl Future<Output = T>,
    commands: &mut CommandReceiver,
    log_out: impl AsyncFn(LogOut),
) -> Option<T> {
    let mut work = pin!(work);
    match unless_shut_down(&mut work, commands, log_out).await {
        None => timeout(LATE_START, work).await.ok(),
        done => done,
    }
}

/// Ends the accounts last, so that their tokens are wiped, and then the tasks that show the daemon.
async fn end(accounts: &[Account], phase: &watch::Sender<Phase>, admin: AdminTasks) {
    end_accounts(accounts).await;
    phase.send_replace(Phase::Stopped);
    admin.close().await;
    info!("stopped");
}

/// Checks that the system gives what the daemon takes at its start, and enough for a few requests. With less it would start and
/// serve nobody.
fn require_resources(workers: NonZeroUsize, listeners: usize) -> io::Result<()> {
    // For the log, signals, and a few blocking calls at a time.
    const THREADS: usize = 6;
    // For the main runtime, connections of two clients, a log-in, telemetry and control.
    const DESCRIPTORS: usize = 20;
    // A worker has a runtime, and each listener once more.
    const DESCRIPTORS_OF_WORKER: usize = 6;
    require_threads(workers.get() + THREADS)?;
    require_descriptors(DESCRIPTORS + workers.get() * (DESCRIPTORS_OF_WORKER + listeners))
}

/// The number of worker threads: as configured, else the usable cores (affinity and cgroup quota honoured), at most 4.
fn workers(config: &Config) -> NonZeroUsize {
    let usable = || std::thread::available_parallelism().map_or(1, usize::from).min(4);
    config.restart_only.workers.or_else(|| NonZeroUsize::new(usable())).unwrap_or(NonZeroUsize::MIN)
}
