//! The daemon as a whole: built from a valid configuration, run until told to stop, drained.
//!
//! Depends on everything below it. `bind` opens what must be open and can fail; `run` only works. Guarantees: clients are
//! accepted before the first log-in is done; a reload is taken over whole or not at all; what is in flight when a stop is
//! asked for may finish within `drain_timeout`; accounts end last, so that their tokens are wiped before the process is
//! gone.

mod accounts;
mod listeners;
mod reload;
mod start;
mod worker;

use std::{net::SocketAddr, num::NonZeroUsize, path::PathBuf, sync::Arc, time::Duration};

use tokio::{
    sync::{Notify, mpsc, oneshot, watch},
    task::JoinSet,
    time::timeout,
};
use tracing::{info, warn};

use crate::{
    account::Account,
    clock::Clock,
    config::{self, Config, source::Input},
    control::{self, Command, NotReloaded},
    hardening::{self, AllowedDirectories, Sandbox},
    logging::{AccessLog, LogControl},
    metrics::{ApiMetrics, Metrics},
    path::Prefix,
    proxy::{self, ReachabilityLog, RequestLimit, Required},
    status::{ApiView, Phase, StatusReader, View},
    systemd::{Reloads, Systemd},
    telemetry::{self, Telemetry},
    tls::ClientTls,
};
pub use listeners::ListenerError;
use listeners::{Listener, ListenerPlan, PassedSockets};
pub use start::{StartError, rehearse};
use start::{connector, trust};
use worker::{WorkerCommand, WorkerFactory, Workers};

/// A daemon whose sockets are bound and whose trust is set up.
pub struct App {
    config: Arc<Config>,
    tls: ClientTls,
    listeners: Vec<Listener>,
    /// The APIs apis_by_listener each listener, as places in [`Config::apis`].
    apis_by_listener: Vec<Vec<usize>>,
    passed: PassedSockets,
    telemetry: Option<telemetry::TelemetryListener>,
    control: Option<control::ControlListener>,
    phase: watch::Sender<Phase>,
    view: watch::Sender<Arc<View>>,
    settings: Option<Settings>,
    reloads: watch::Sender<Reloads>,
    systemd: Option<Systemd>,
    metrics: Arc<Metrics>,
}

/// Where a reload finds the settings, whom it tells what they say of logs, and what they may name.
struct Settings {
    input: Input,
    log: LogControl,
    /// `None`: anything.
    sandbox: Option<Sandbox>,
}

/// Everything that a reload may change, in one piece: workers build their side from it.
struct Snapshot {
    config: Arc<Config>,
    tls: ClientTls,
    /// As [`Config::accounts`].
    accounts: Vec<Account>,
    /// As [`Config::apis`].
    shared: Vec<ApiShared>,
    /// As the listeners.
    apis_by_listener: Vec<Vec<usize>>,
}

/// What all workers share of an API.
#[derive(Clone)]
struct ApiShared {
    /// Requests in flight.
    places: RequestLimit,
    /// Whether its upstream was reached last.
    reachability: ReachabilityLog,
    /// What is counted of it.
    metrics: Arc<ApiMetrics>,
    /// The header that clients must send.
    required: Option<Required>,
}

impl App {
    /// Opens what must be open. Belongs before the runtime: it takes over sockets that were passed to the process.
    pub fn bind(config: Arc<Config>) -> Result<Self, StartError> {
        let tls = trust(&config)?;
        let mut passed = PassedSockets::take(&config.socket_names)?;
        let layout = ListenerPlan::of(&config, &passed.places).map_err(StartError::Listener)?;
        let listeners = layout.open(&config, &[], &mut passed).map_err(StartError::Listener)?;
        for name in passed.unused() {
            warn!(socket = name, "systemd passed a socket that no API listens on");
        }
        let apis_by_listener = layout.apis_by_listener(&listeners);
        let bind = |address| telemetry::TelemetryListener::bind(address).map_err(StartError::Telemetry);
        let telemetry = config.restart_only.telemetry_listen.map(bind).transpose()?.flatten();
        let control = control::ControlListener::open(&config).map_err(StartError::Control)?;
        let (phase, view) = (watch::Sender::new(Phase::Starting), watch::Sender::default());
        let metrics = Metrics::new(workers(&config), proxy::vocabulary());
        let (settings, systemd, reloads) = (None, None, watch::Sender::default());
        Ok(Self {
            config,
            tls,
            listeners,
            apis_by_listener,
            passed,
            telemetry,
            control,
            phase,
            view,
            settings,
            reloads,
            systemd,
            metrics,
        })
    }

    /// Lets [`Command::Reload`] read the settings again from where they came, and tell `log` what they say of it.
    #[must_use]
    pub fn reloading_from(self, input: Input, log: LogControl) -> Self {
        Self { settings: Some(Settings { input, log, sandbox: None }), ..self }
    }

    /// Gives up what the process does not need from now on, for good; a reload's settings are among what it needs. Belongs
    /// before there is a second thread.
    pub fn harden(mut self) -> Result<Self, StartError> {
        let inputs = || self.settings.iter().map(|settings| &settings.input);
        let files: Vec<_> = inputs().flat_map(Input::files).collect();
        let mut directories = AllowedDirectories::of(&self.config, files.iter().map(PathBuf::as_path));
        if let Ok(directories) = &mut directories {
            self.control.iter().filter_map(control::ControlListener::file).for_each(|socket| directories.add_socket(socket));
            inputs().flat_map(Input::directories).for_each(|directory| directories.add_directory(&directory));
        }
        let sandbox = hardening::harden(self.config.restart_only.hardening, directories).map_err(StartError::Hardening)?;
        if let Some(settings) = &mut self.settings {
            settings.sandbox = sandbox;
        }
        Ok(self)
    }

    /// The same where another's program is run: settings are not read again, and it can do what it could.
    pub fn harden_around_a_program(&self) -> Result<(), StartError> {
        hardening::harden_around_a_program(self.config.restart_only.hardening).map_err(StartError::Hardening)
    }

    /// Has the service manager told how the daemon is.
    #[must_use]
    pub fn with_systemd(self, systemd: Option<Systemd>) -> Self {
        Self { systemd, ..self }
    }

    /// Each API's name with an address where it can be reached, ports as they really are.
    pub fn addresses(&self) -> impl Iterator<Item = (&str, &str)> {
        let names = |apis: &'_ Vec<usize>| apis.iter().map(|api| self.config.apis[*api].name.as_str()).collect::<Vec<_>>();
        self.listeners
            .iter()
            .zip(&self.apis_by_listener)
            .flat_map(move |(listener, apis)| names(apis).into_iter().map(move |name| (name, listener.bound.name.as_str())))
    }

    /// Follows the daemon through its life.
    #[must_use]
    pub fn phases(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    /// What there is to look at; no accounts before they have been started.
    #[must_use]
    pub fn views(&self) -> watch::Receiver<Arc<View>> {
        self.view.subscribe()
    }

    /// Where health and metrics are; `None`: nowhere.
    #[must_use]
    pub fn telemetry_address(&self) -> Option<SocketAddr> {
        self.telemetry.as_ref().map(telemetry::TelemetryListener::address)
    }

    /// Serves until a `Shutdown` arrives or the sender of commands is gone, then drains. Needs a tokio runtime; workers
    /// bring their own.
    pub async fn run(
        mut self,
        clock: Arc<dyn Clock>,
        access: AccessLog,
        commands: mpsc::Receiver<Command>,
    ) -> Result<(), StartError> {
        let (begun, drain) = watch::channel(false);
        let accounts = accounts::start(&self.config, &self.tls, &clock, &self.metrics)?;
        let (quit, status) = (Arc::new(Notify::new()), self.status(&clock, access.clone()));
        let factory = WorkerFactory { clock: Arc::clone(&clock), access, drain, metrics: Arc::clone(&self.metrics) };
        let workers = factory.start(workers(&self.config))?;
        let (orders, ordered) = mpsc::channel(CONTROL_COMMANDS);
        let shown = self.show(&workers, status, &quit, orders);
        let Self { config, tls, listeners, apis_by_listener, passed, phase, view, reloads, settings, metrics, .. } = self;
        let required = required_headers(&config, None).await;
        let shared = config.apis.iter().zip(required).map(|(api, required)| ApiShared::new(api, &metrics, required)).collect();
        let snapshot = Arc::new(Snapshot { config, tls, accounts, shared, apis_by_listener });
        view.send_replace(snapshot.view(&listeners));
        workers.take_over(&snapshot, workers.descriptors(&listeners)?).await;
        snapshot.announce(&listeners, 0);
        phase.send_replace(Phase::Running);
        let mut daemon = Daemon { snapshot, listeners, workers, passed, settings, clock, view, reloads, metrics };
        let mut sources = CommandSources { commands, quit, orders: ordered };
        daemon.run_commands(&mut sources).await;
        phase.send_replace(Phase::Draining);
        let snapshot = Arc::clone(&daemon.snapshot);
        daemon.drain(&begun, sources).await;
        for account in &snapshot.accounts {
            account.shut_down().await;
        }
        phase.send_replace(Phase::Stopped);
        shown.close().await;
        info!("stopped");
        Ok(())
    }

    fn status(&self, clock: &Arc<dyn Clock>, access: AccessLog) -> StatusReader {
        let (phase, view, telemetry) = (self.phase.subscribe(), self.view.subscribe(), self.telemetry_address());
        StatusReader { phase, view, started: clock.now().moment, clock: Arc::clone(clock), telemetry, access }
    }

    /// Starts to answer whoever looks at the daemon.
    fn show(&mut self, workers: &Workers, status: StatusReader, quit: &Arc<Notify>, orders: mpsc::Sender<Command>) -> AdminTasks {
        let (close, closing) = watch::channel(false);
        let mut tasks = JoinSet::new();
        if let Some(systemd) = self.systemd.take() {
            tasks.spawn(systemd.tell(status.clone(), workers.liveness(), self.reloads.subscribe()));
        }
        if let Some(listener) = self.control.take() {
            tasks.spawn(listener.serve(status.clone(), orders, closing.clone()));
        }
        if let Some(listener) = self.telemetry.take() {
            let quit = self.config.restart_only.quitquitquit.then(|| Arc::clone(quit));
            info!(listener = %listener.address(), "health and metrics");
            let telemetry = Telemetry { status, liveness: workers.liveness(), metrics: Arc::clone(&self.metrics), quit };
            tasks.spawn(listener.serve(telemetry, closing));
        }
        AdminTasks { close, tasks }
    }
}

fn workers(config: &Config) -> NonZeroUsize {
    config.restart_only.workers.or_else(|| NonZeroUsize::new(default_workers())).unwrap_or(NonZeroUsize::MIN)
}

/// Usable cores (affinity and cgroup quota honoured), at most 4.
fn default_workers() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).min(4)
}

/// Of each API of `config`, with values read; all at the same time, since a command may take its own. `before`: in force
/// until now.
async fn required_headers(config: &Arc<Config>, before: Option<&Snapshot>) -> Vec<Option<Required>> {
    let mut readings = JoinSet::new();
    for (place, api) in config.apis.iter().enumerate() {
        let known = before.and_then(|snapshot| snapshot.shared_as(&api.name)).and_then(|shared| shared.required.clone());
        let config = Arc::clone(config);
        readings.spawn(async move { (place, Required::begin(&config, place, known.as_ref()).await) });
    }
    let mut required: Vec<Option<Required>> = config.apis.iter().map(|_| None).collect();
    for (place, read) in readings.join_all().await {
        required[place] = read;
    }
    required
}

impl ApiShared {
    fn new(api: &config::Api, metrics: &Metrics, required: Option<Required>) -> Self {
        let places = RequestLimit::new(api.limits.max_requests);
        Self { places, reachability: ReachabilityLog::default(), metrics: metrics.api(&api.name), required }
    }
}

impl Snapshot {
    /// Itself, as far as it is shown.
    fn view(&self, listeners: &[Listener]) -> Arc<View> {
        let apis = self.config.apis.iter().zip(&self.shared).enumerate().map(|(place, (api, shared))| {
            let listens = listeners.iter().zip(&self.apis_by_listener).filter(|(_, apis)| apis.contains(&place));
            ApiView {
                name: api.name.clone(),
                account: self.config.accounts[api.account.0].name.clone(),
                listen: listens.map(|(listener, _)| listener.bound.name.clone()).collect(),
                upstream: api.upstream.to_string(),
                places: shared.places.clone(),
                metrics: Arc::clone(&shared.metrics),
            }
        });
        let listeners =
            listeners.iter().map(|listener| (listener.bound.name.clone(), listener.connection_limit.clone())).collect();
        let drain = self.config.reloadable.drain_delay + self.config.reloadable.drain_timeout;
        Arc::new(View { apis: apis.collect(), accounts: self.accounts.clone(), listeners, drain })
    }

    /// Says where clients come in, from the listener with that number on.
    fn announce(&self, listeners: &[Listener], from: usize) {
        for (listener, apis) in listeners.iter().zip(&self.apis_by_listener).skip(from) {
            for api in apis.iter().map(|api| &self.config.apis[*api]) {
                let prefix = api.prefix.as_ref().map(Prefix::as_str);
                let upstream = api.upstream.origin.to_string();
                info!(api = api.name, listener = listener.bound.name, prefix, upstream, "listening");
            }
        }
    }
}

/// What answers whoever looks at the daemon.
struct AdminTasks {
    close: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

impl AdminTasks {
    /// What is under way may finish, for a moment.
    async fn close(mut self) {
        self.close.send_replace(true);
        // Nobody's request depends on it.
        drop(timeout(LAST_ANSWERS, async { while self.tasks.join_next().await.is_some() {} }).await);
    }
}

const LAST_ANSWERS: Duration = Duration::from_millis(500);

/// Where commands come from.
struct CommandSources {
    /// Signals, or whoever runs the daemon.
    commands: mpsc::Receiver<Command>,
    /// `POST /quitquitquit`.
    quit: Arc<Notify>,
    /// The control socket, if there is one.
    orders: mpsc::Receiver<Command>,
}

impl CommandSources {
    /// `None`: nobody can send one any more. Cancelled, it loses none.
    async fn next(&mut self) -> Option<Command> {
        tokio::select! {
            command = self.commands.recv() => command,
            () = self.quit.notified() => Some(Command::Shutdown),
            Some(order) = self.orders.recv() => Some(order),
        }
    }
}

/// Orders of the control socket that may wait while one is carried out.
const CONTROL_COMMANDS: usize = 16;

/// A daemon that serves.
struct Daemon {
    snapshot: Arc<Snapshot>,
    listeners: Vec<Listener>,
    workers: Workers,
    passed: PassedSockets,
    settings: Option<Settings>,
    clock: Arc<dyn Clock>,
    view: watch::Sender<Arc<View>>,
    reloads: watch::Sender<Reloads>,
    metrics: Arc<Metrics>,
}

impl Daemon {
    /// Carries out commands until a `Shutdown`, or until nobody can send one.
    async fn run_commands(&mut self, sources: &mut CommandSources) {
        while let Some(command) = sources.next().await {
            match command {
                Command::Shutdown => return,
                Command::LogOut { account, done } => self.log_out(account.as_deref(), done).await,
                Command::Reload { done } => {
                    self.reloads.send_modify(Reloads::begin);
                    let outcome = self.reload().await;
                    let faults = outcome.as_ref().err().map(|NotReloaded(reasons)| reasons.len());
                    self.reloads.send_modify(|reloads| reloads.end(faults));
                    // Whoever asked may have gone.
                    drop(done.map(|done| done.send(outcome)));
                }
            }
        }
    }

    /// The same while a shutdown is under way: it can't be called off, and nothing new begins.
    async fn obey_until_closed(&self, sources: &mut CommandSources) {
        while let Some(command) = sources.next().await {
            match command {
                Command::LogOut { account, done } => self.log_out(account.as_deref(), done).await,
                Command::Reload { done: Some(done) } => {
                    drop(done.send(Err(NotReloaded(vec!["the daemon is stopping".to_owned()]))));
                }
                Command::Reload { done: None } | Command::Shutdown => {}
            }
        }
    }

    /// `only`: one account. Idle connections may hold a token in their buffers.
    async fn log_out(&self, only: Option<&str>, done: Option<oneshot::Sender<()>>) {
        for account in self.snapshot.accounts.iter().filter(|account| only.is_none_or(|name| account.name() == name)) {
            account.log_out().await;
        }
        self.workers.order(|| WorkerCommand::CloseIdle).await;
        if let Some(done) = done {
            // Whoever asked may have gone.
            done.send(()).unwrap_or(());
        }
    }

    /// Ends the workers: in their own time, then in ours.
    async fn drain(mut self, begun: &watch::Sender<bool>, mut sources: CommandSources) {
        let (delay, limit) = (self.snapshot.config.reloadable.drain_delay, self.snapshot.config.reloadable.drain_timeout);
        if !delay.is_zero() {
            info!(seconds = delay.as_secs(), "stopping: new requests are still served for the drain delay");
            // A log-out still counts; another shutdown changes nothing.
            drop(timeout(delay, self.obey_until_closed(&mut sources)).await);
        }
        info!(seconds = limit.as_secs(), "draining");
        // The workers hold the last descriptors of the listening sockets now, and close them once the queues are empty.
        self.listeners.clear();
        begun.send_replace(true);
        let mut finished = self.workers.finished();
        let ended = async {
            tokio::select! {
                () = self.obey_until_closed(&mut sources) => std::future::pending().await,
                _ = finished.recv() => {}
            }
        };
        if timeout(limit, ended).await.is_err() {
            warn!("the drain time ran out: what is still in flight is cut off");
        }
        self.workers.order(|| WorkerCommand::Stop).await;
        self.workers.join();
    }
}
