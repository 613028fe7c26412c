//! The daemon as a whole: built from a valid configuration, run until told to stop, drained.
//!
//! Depends on everything below it. `bind` opens what must be open and can fail; `run` only works. Guarantees: clients are
//! accepted before the first log-in is done; a reload is taken over whole or not at all; what is in flight when a stop is
//! asked for may finish within `drain_timeout`; accounts end last, so that their tokens are wiped before the process is
//! gone.

mod accounts;
mod doors;
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
    hardening::{self, Directories, Sandbox},
    logging::{AccessLog, LogControl},
    metrics::{ApiMetrics, Metrics},
    path::Prefix,
    proxy::{self, Outage, Places, Required},
    status::{ApiView, Phase, Sight, View},
    systemd::{Reloads, Systemd},
    telemetry::{self, Telemetry},
    tls::ClientTls,
};
pub use doors::DoorError;
use doors::{Door, Layout, PassedSockets};
pub use start::{StartError, rehearse};
use start::{connector, trust};
use worker::{Crew, Order, Workers};

/// A daemon whose sockets are bound and whose trust is set up.
pub struct App {
    config: Arc<Config>,
    tls: ClientTls,
    doors: Vec<Door>,
    /// The APIs behind each door, as places in [`Config::apis`].
    behind: Vec<Vec<usize>>,
    passed: PassedSockets,
    telemetry: Option<telemetry::Listener>,
    control: Option<control::Listener>,
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
        let layout = Layout::of(&config, &passed.places).map_err(StartError::Door)?;
        let doors = layout.open(&config, &[], &mut passed).map_err(StartError::Door)?;
        for name in passed.unused() {
            warn!(socket = name, "systemd passed a socket that no API listens on");
        }
        let behind = layout.behind(&doors);
        let bind = |address| telemetry::Listener::bind(address).map_err(StartError::Telemetry);
        let telemetry = config.telemetry_listen.map(bind).transpose()?.flatten();
        let control = control::Listener::open(&config).map_err(StartError::Control)?;
        let (phase, view) = (watch::Sender::new(Phase::Starting), watch::Sender::default());
        let metrics = Metrics::new(workers(&config), proxy::vocabulary());
        let (settings, systemd, reloads) = (None, None, watch::Sender::default());
        Ok(Self { config, tls, doors, behind, passed, telemetry, control, phase, view, settings, reloads, systemd, metrics })
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
        let mut directories = Directories::of(&self.config, files.iter().map(PathBuf::as_path));
        if let Ok(directories) = &mut directories {
            self.control.iter().filter_map(control::Listener::file).for_each(|socket| directories.add_socket(socket));
            inputs().flat_map(Input::directories).for_each(|directory| directories.add_directory(&directory));
        }
        let sandbox = hardening::harden(self.config.hardening, directories).map_err(StartError::Hardening)?;
        if let Some(settings) = &mut self.settings {
            settings.sandbox = sandbox;
        }
        Ok(self)
    }

    /// The same where another's program is run: settings are not read again, and it can do what it could.
    pub fn harden_around_a_program(&self) -> Result<(), StartError> {
        hardening::harden_around_a_program(self.config.hardening).map_err(StartError::Hardening)
    }

    /// Has the service manager told how the daemon is.
    #[must_use]
    pub fn with_systemd(self, systemd: Option<Systemd>) -> Self {
        Self { systemd, ..self }
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

    /// What there is to look at; no accounts before they have been started.
    #[must_use]
    pub fn views(&self) -> watch::Receiver<Arc<View>> {
        self.view.subscribe()
    }

    /// Where health and metrics are; `None`: nowhere.
    #[must_use]
    pub fn telemetry_address(&self) -> Option<SocketAddr> {
        self.telemetry.as_ref().map(telemetry::Listener::address)
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
        let (quit, sight) = (Arc::new(Notify::new()), self.sight(&clock, access.clone()));
        let crew = Crew { clock: Arc::clone(&clock), access, drain, metrics: Arc::clone(&self.metrics) };
        let workers = crew.start(workers(&self.config))?;
        let (orders, ordered) = mpsc::channel(ORDERS);
        let shown = self.show(&workers, sight, &quit, orders);
        let Self { config, tls, doors, behind, passed, phase, view, reloads, settings, metrics, .. } = self;
        let required = required_headers(&config, None).await;
        let shared = config.apis.iter().zip(required).map(|(api, required)| Shared::new(api, &metrics, required)).collect();
        let plan = Arc::new(Plan { config, tls, accounts, shared, behind });
        view.send_replace(plan.view(&doors));
        workers.take_over(&plan, workers.descriptors(&doors)?).await;
        plan.announce(&doors, 0);
        phase.send_replace(Phase::Running);
        let mut daemon = Daemon { plan, doors, workers, passed, settings, clock, view, reloads, metrics };
        let mut inbox = Inbox { commands, quit, orders: ordered };
        daemon.obey(&mut inbox).await;
        phase.send_replace(Phase::Draining);
        let plan = Arc::clone(&daemon.plan);
        daemon.drain(&begun, inbox).await;
        for account in &plan.accounts {
            account.shut_down().await;
        }
        phase.send_replace(Phase::Stopped);
        shown.close().await;
        info!("stopped");
        Ok(())
    }

    fn sight(&self, clock: &Arc<dyn Clock>, access: AccessLog) -> Sight {
        let (phase, view, telemetry) = (self.phase.subscribe(), self.view.subscribe(), self.telemetry_address());
        Sight { phase, view, started: clock.now().moment, clock: Arc::clone(clock), telemetry, access }
    }

    /// Starts to answer whoever looks at the daemon.
    fn show(&mut self, workers: &Workers, sight: Sight, quit: &Arc<Notify>, orders: mpsc::Sender<Command>) -> Shown {
        let (close, closing) = watch::channel(false);
        let mut tasks = JoinSet::new();
        if let Some(systemd) = self.systemd.take() {
            tasks.spawn(systemd.tell(sight.clone(), workers.pulse(), self.reloads.subscribe()));
        }
        if let Some(listener) = self.control.take() {
            tasks.spawn(listener.serve(sight.clone(), orders, closing.clone()));
        }
        if let Some(listener) = self.telemetry.take() {
            let quit = self.config.quitquitquit.then(|| Arc::clone(quit));
            info!(listener = %listener.address(), "health and metrics");
            let telemetry = Telemetry { sight, pulse: workers.pulse(), metrics: Arc::clone(&self.metrics), quit };
            tasks.spawn(listener.serve(telemetry, closing));
        }
        Shown { close, tasks }
    }
}

fn workers(config: &Config) -> NonZeroUsize {
    config.workers.or_else(|| NonZeroUsize::new(default_workers())).unwrap_or(NonZeroUsize::MIN)
}

/// Usable cores (affinity and cgroup quota honoured), at most 4.
fn default_workers() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).min(4)
}

/// Of each API of `config`, with values read; all at the same time, since a command may take its own. `before`: in force
/// until now.
async fn required_headers(config: &Arc<Config>, before: Option<&Plan>) -> Vec<Option<Required>> {
    let mut readings = JoinSet::new();
    for (place, api) in config.apis.iter().enumerate() {
        let known = before.and_then(|plan| plan.shared_as(&api.name)).and_then(|shared| shared.required.clone());
        let config = Arc::clone(config);
        readings.spawn(async move { (place, Required::begin(&config, place, known.as_ref()).await) });
    }
    let mut required: Vec<Option<Required>> = config.apis.iter().map(|_| None).collect();
    for (place, read) in readings.join_all().await {
        required[place] = read;
    }
    required
}

impl Shared {
    fn new(api: &config::Api, metrics: &Metrics, required: Option<Required>) -> Self {
        let places = Places::new(api.limits.max_requests);
        Self { places, outage: Outage::default(), metrics: metrics.api(&api.name), required }
    }
}

impl Plan {
    /// Itself, as far as it is shown.
    fn view(&self, doors: &[Door]) -> Arc<View> {
        let apis = self.config.apis.iter().zip(&self.shared).enumerate().map(|(place, (api, shared))| {
            let listens = doors.iter().zip(&self.behind).filter(|(_, apis)| apis.contains(&place));
            ApiView {
                name: api.name.clone(),
                account: self.config.accounts[api.account.0].name.clone(),
                listen: listens.map(|(door, _)| door.bound.name.clone()).collect(),
                upstream: api.upstream.to_string(),
                places: shared.places.clone(),
                metrics: Arc::clone(&shared.metrics),
            }
        });
        let listeners = doors.iter().map(|door| (door.bound.name.clone(), door.seats.clone())).collect();
        let drain = self.config.drain_delay + self.config.drain_timeout;
        Arc::new(View { apis: apis.collect(), accounts: self.accounts.clone(), listeners, drain })
    }

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

/// What answers whoever looks at the daemon.
struct Shown {
    close: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

impl Shown {
    /// What is under way may finish, for a moment.
    async fn close(mut self) {
        self.close.send_replace(true);
        // Nobody's request depends on it.
        drop(timeout(LAST_ANSWERS, async { while self.tasks.join_next().await.is_some() {} }).await);
    }
}

const LAST_ANSWERS: Duration = Duration::from_millis(500);

/// Where commands come from.
struct Inbox {
    /// Signals, or whoever runs the daemon.
    commands: mpsc::Receiver<Command>,
    /// `POST /quitquitquit`.
    quit: Arc<Notify>,
    /// The control socket, if there is one.
    orders: mpsc::Receiver<Command>,
}

impl Inbox {
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
const ORDERS: usize = 16;

/// A daemon that serves.
struct Daemon {
    plan: Arc<Plan>,
    doors: Vec<Door>,
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
    async fn obey(&mut self, inbox: &mut Inbox) {
        while let Some(command) = inbox.next().await {
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
    async fn obey_until_closed(&self, inbox: &mut Inbox) {
        while let Some(command) = inbox.next().await {
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
        for account in self.plan.accounts.iter().filter(|account| only.is_none_or(|name| account.name() == name)) {
            account.log_out().await;
        }
        self.workers.order(|| Order::CloseIdle).await;
        if let Some(done) = done {
            // Whoever asked may have gone.
            done.send(()).unwrap_or(());
        }
    }

    /// Ends the workers: in their own time, then in ours.
    async fn drain(mut self, begun: &watch::Sender<bool>, mut inbox: Inbox) {
        let (delay, limit) = (self.plan.config.drain_delay, self.plan.config.drain_timeout);
        if !delay.is_zero() {
            info!(seconds = delay.as_secs(), "stopping: new requests are still served for the drain delay");
            // A log-out still counts; another shutdown changes nothing.
            drop(timeout(delay, self.obey_until_closed(&mut inbox)).await);
        }
        info!(seconds = limit.as_secs(), "draining");
        // The workers hold the last descriptors of the listening sockets now, and close them once the queues are empty.
        self.doors.clear();
        begun.send_replace(true);
        let mut finished = self.workers.finished();
        let ended = async {
            tokio::select! {
                () = self.obey_until_closed(&mut inbox) => std::future::pending().await,
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
