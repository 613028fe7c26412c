//! Worker threads. Each has its own runtime, upstream connections and deadlines.
//!
//! A request never leaves its worker. What workers share is told in ARCHITECTURE.md.

use std::{io, num::NonZeroUsize, pin::pin, sync::Arc, thread, time::Duration};

use http::HeaderValue;
use tokio::{sync::mpsc, time::timeout};
use tracing::error;

use super::{
    listeners::Listener,
    orders::{self, OrderReceiver, OrderSender, Orders},
    snapshot::Snapshot,
};
use crate::{
    allocator::{Returns, spare_large_blocks},
    clock::{Clock, Jitter},
    config::{self, UpstreamSettings},
    connect::Connector,
    deadline::Deadlines,
    liveness::{LivenessProbe, Responder},
    logging::AccessLog,
    metrics::{Meter, Metrics},
    path::Words,
    proxy::{Api, Entry, Gate, HeaderRules, Route, Router, Routes, ToUpstream, Worker},
    resources::Runtime,
    server::{Acceptor, ConnectionLimits, Drain},
    upstream::{HeadLimits, Lifetimes, Upstream},
};

/// How often idle upstream connections are swept, access lines are flushed, and spare memory is freed.
const ROUND: Duration = Duration::from_secs(1);

/// How many HTTP/2 requests of one client connection may be in progress.
const STREAMS: u32 = 100;

/// How long the workers may take to take over a snapshot. Only a worker that is stuck takes longer; it takes over when it goes on.
pub(super) const SWITCH_MAX: Duration = Duration::from_secs(2);

/// What workers run on.
pub(super) trait WorkerHost {
    /// Runs a worker, and drops `working` when it has ended and nothing of it is left. Gives the thread that it took, if it took
    /// one.
    fn run(
        &self,
        number: usize,
        work: impl Future<Output = ()> + Send + 'static,
        working: mpsc::Sender<()>,
    ) -> io::Result<Option<thread::JoinHandle<()>>>;
}

/// Gives each worker a thread with a runtime of its own.
pub(super) struct OwnThreads;

impl WorkerHost for OwnThreads {
    fn run(
        &self,
        number: usize,
        work: impl Future<Output = ()> + Send + 'static,
        working: mpsc::Sender<()>,
    ) -> io::Result<Option<thread::JoinHandle<()>>> {
        let runtime = Runtime::new()?;
        let thread = thread::Builder::new().name(format!("worker-{number}")).spawn(move || {
            runtime.block_on(work);
            drop(runtime);
            drop(working);
        });
        thread.map(Some)
    }
}

/// Makes workers; holds what every worker is given.
#[derive(Clone)]
pub(super) struct WorkerFactory {
    pub(super) clock: Arc<dyn Clock>,
    pub(super) access: AccessLog,
    /// The daemon's drain. Each worker has one of its own, which begins with it.
    pub(super) drain: Drain,
    pub(super) metrics: Arc<Metrics>,
}

/// The running workers.
pub(super) struct Workers {
    threads: Vec<thread::JoinHandle<()>>,
    orders: Vec<OrderSender>,
    finished: Option<mpsc::Receiver<()>>,
    liveness: LivenessProbe,
}

impl WorkerFactory {
    /// Starts `count` workers. They accept no connection until [`Workers::serve_by`].
    pub(super) fn start(&self, count: NonZeroUsize, host: &impl WorkerHost) -> io::Result<Workers> {
        let (working, finished) = mpsc::channel(1);
        let (threads, orders, liveness) = (Vec::new(), Vec::new(), LivenessProbe::default());
        let mut workers = Workers { threads, orders, finished: Some(finished), liveness };
        for number in 0..count.get() {
            let (orders, given) = orders::channel();
            let (factory, working, responder) = (self.clone(), working.clone(), workers.liveness.add());
            workers.threads.extend(host.run(number, factory.work(number, given, responder), working)?);
            workers.orders.push(orders);
        }
        Ok(workers)
    }

    /// Serves until a drain has ended the last connection, or until it is told to stop.
    async fn work(self, number: usize, orders: OrderReceiver, mut responder: Responder) {
        spare_large_blocks();
        let deadlines = Deadlines::default();
        let ticking = deadlines.clone();
        tokio::spawn(async move { ticking.run().await });
        let unclaimed = self.metrics.api("").meter(number);
        let worker = Arc::new(Worker::new(deadlines.clone(), Arc::clone(&self.clock), self.access.worker(), unclaimed));
        let mut begun = pin!(self.drain.begun());
        let (drain, mut gone) = Drain::new();
        let mut state = Some(WorkerState::new(number, Arc::clone(&worker), deadlines, drain));
        let mut apis: Vec<Arc<Api>> = Vec::new();
        let mut returns = Returns::default();
        let mut round = tokio::time::interval(ROUND);
        round.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                _ = gone.recv() => break,
                () = responder.answer() => {}
                // The state holds the worker's drain open.
                () = &mut begun, if state.is_some() => if let Some(state) = state.take() {
                    state.drain.begin();
                },
                Orders { take_over, listeners, close_idle, stop, done } = orders.next() => {
                    if stop {
                        worker.stop();
                        break;
                    }
                    if let (Some(state), Some(snapshot)) = (&mut state, take_over) {
                        state.serve_by(&snapshot, listeners);
                        apis.clone_from(&state.apis);
                    }
                    if close_idle {
                        for api in &apis {
                            api.upstream.close_idle();
                        }
                    }
                    // The daemon may no longer wait for it.
                    for done in done {
                        let _ = done.send(());
                    }
                }
                _ = round.tick() => {
                    let now = self.clock.now().moment;
                    for api in &apis {
                        api.upstream.sweep(now);
                        if state.is_some() {
                            api.upstream.keep_ready();
                        }
                    }
                    worker.tidy_up();
                    returns.round();
                }
            }
        }
        worker.tidy_up();
        responder.finish();
    }
}

/// The listeners and APIs that one worker serves.
struct WorkerState {
    number: usize,
    worker: Arc<Worker>,
    deadlines: Deadlines,
    drain: Drain,
    /// `None` until the first take-over.
    snapshot: Option<Arc<Snapshot>>,
    apis: Vec<Arc<Api>>,
    /// One for each listener, in the listeners' order.
    routers: Vec<(Arc<str>, Entry, Arc<Router>)>,
}

impl WorkerState {
    fn new(number: usize, worker: Arc<Worker>, deadlines: Deadlines, drain: Drain) -> Self {
        Self { number, worker, deadlines, drain, snapshot: None, apis: Vec::new(), routers: Vec::new() }
    }

    fn serve_by(&mut self, snapshot: &Arc<Snapshot>, new_listeners: Vec<Listener>) {
        let made = |index| api(snapshot, index, self.number, self.kept(snapshot, index)).map(Arc::new);
        let apis: Vec<Option<Arc<Api>>> = (0..snapshot.config.apis.len()).map(made).collect();
        for ((listener, entry, router), apis_by_listener) in self.routers.iter().zip(&snapshot.apis_by_listener) {
            if let Some(routes) = self.routes(snapshot, &apis, apis_by_listener, listener, *entry) {
                router.replace_routes(routes);
            }
        }
        for (listener, apis_by_listener) in new_listeners.into_iter().zip(&snapshot.apis_by_listener[self.routers.len()..]) {
            self.open(listener, snapshot, &apis, apis_by_listener);
        }
        let before = std::mem::replace(&mut self.apis, apis.into_iter().flatten().collect());
        self.snapshot = Some(Arc::clone(snapshot));
        let is_in = |apis: &[Arc<Api>], api: &Api| apis.iter().any(|other| Arc::ptr_eq(&other.upstream, &api.upstream));
        // Connections in use close when their exchange ends.
        for old in before.iter().filter(|old| !is_in(&self.apis, old)) {
            old.upstream.retire();
        }
        // The first request finds a connection that was made while the account logged in.
        for new in self.apis.iter().filter(|new| !is_in(&before, new)) {
            new.upstream.open_ahead();
        }
    }

    /// The connections that an API of `snapshot` had before, if it would make the same ones now.
    fn kept(&self, snapshot: &Snapshot, index: usize) -> Option<Arc<Upstream<ToUpstream>>> {
        let (before, settings) = (self.snapshot.as_ref()?, &snapshot.config.apis[index]);
        let known = before.config.apis.iter().find(|known| known.name == settings.name)?;
        let same = known.connections == settings.connections && before.tls.is_same(&snapshot.tls);
        let api = self.apis.iter().find(|api| api.name == settings.name)?;
        same.then(|| Arc::clone(&api.upstream))
    }

    fn open(&mut self, listener: Listener, snapshot: &Snapshot, apis: &[Option<Arc<Api>>], apis_by_listener: &[usize]) {
        let name: Arc<str> = listener.bound.name.as_str().into();
        let entry = if listener.bound.socket.is_tcp() { Entry::Tcp } else { Entry::Unix };
        let Some(routes) = self.routes(snapshot, apis, apis_by_listener, &name, entry) else { return };
        let service = Arc::new(Router::new(routes));
        match Acceptor::new(listener.bound, listener.connection_limit, listener.balancer) {
            Ok(acceptor) => {
                tokio::spawn(acceptor.run(Arc::clone(&service), self.deadlines.clone(), self.drain.clone()));
            }
            // Other workers accept on the same socket.
            Err(cause) => error!(listener = %name, error = %cause, "a worker can't accept here"),
        }
        self.routers.push((name, entry, service));
    }

    /// The routes of a listener; `None` when it serves no API, which a reload rules out.
    fn routes(
        &self,
        snapshot: &Snapshot,
        apis: &[Option<Arc<Api>>],
        apis_by_listener: &[usize],
        listener: &Arc<str>,
        entry: Entry,
    ) -> Option<Routes> {
        let mut routes = apis_by_listener.iter().filter_map(|index| {
            let (settings, api) = (&snapshot.config.apis[*index], apis[*index].clone()?);
            let required = snapshot.shared[*index].required.clone();
            let gate = Gate::new(&snapshot.config, settings, required, entry);
            Some(Route { api, gate, listener: Arc::clone(listener), worker: Arc::clone(&self.worker) })
        });
        let first = routes.next()?;
        let limits = connection_limits(apis_by_listener.iter().map(|index| &snapshot.config.apis[*index]));
        Some(Routes::new(first, routes, limits))
    }
}

/// The worker's part of an API. `kept`: the upstream connections that it had before, where they are still good.
fn api(snapshot: &Snapshot, index: usize, worker: usize, kept: Option<Arc<Upstream<ToUpstream>>>) -> Option<Api> {
    let settings = &snapshot.config.apis[index];
    let authority = HeaderValue::try_from(settings.upstream.origin.authority()).ok()?;
    let rules = settings.allow.iter().flatten().chain(&settings.deny);
    let words = rules.flat_map(crate::path::Rule::words).chain(settings.path_words.iter().map(String::as_str));
    let shared = &snapshot.shared[index];
    let meter = shared.metrics.meter(worker);
    let connections = || upstream(snapshot, index, Arc::clone(&meter));
    Some(Api {
        name: settings.name.clone(),
        account: snapshot.accounts[settings.account.0].clone(),
        upstream: kept.or_else(|| connections().map(Arc::new))?,
        rules: Arc::new(HeaderRules::new(settings, authority)),
        words: Words::new(words),
        request_limit: shared.request_limit.clone(),
        observed: shared.observed.clone(),
        health: shared.health.clone(),
        meter,
        response_timeout: settings.response_timeout,
        body_idle: settings.body_idle,
        stream_idle: settings.stream_idle,
        replay_buffer: settings.replay_buffer,
        retry_idempotency_key: settings.retry_idempotency_key,
    })
}

/// The worker's own connections to an upstream. `None` where the connector can't be made; the daemon made the same one before.
fn upstream(snapshot: &Snapshot, index: usize, meter: Arc<Meter>) -> Option<Upstream<ToUpstream>> {
    let settings: &UpstreamSettings = &snapshot.config.apis[index].connections;
    let connector = Connector::new(&settings.origin, &snapshot.tls, &snapshot.config.egress, settings.connect_timeout)?;
    let head = HeadLimits { bytes: settings.max_header_bytes, lines: settings.max_headers };
    let lifetimes = Lifetimes { idle: settings.pool_idle, max_age: settings.connection_max_age };
    let keep_alive = snapshot.shared[index].keep_alive.clone();
    Upstream::new(connector, settings.http2, head, lifetimes, Jitter::from_system(), keep_alive, meter)
}

impl Workers {
    /// Duplicates the listeners' descriptors: one list for each worker.
    pub(super) fn descriptors(&self, listeners: &[Listener]) -> io::Result<Vec<Vec<Listener>>> {
        self.orders.iter().map(|_| listeners.iter().map(Listener::for_worker).collect()).collect()
    }

    /// Makes every worker serve by `snapshot`, and returns when all do. A worker that is stuck is waited for `limit`; it
    /// takes the snapshot over when it goes on. Returns whether there was none. `descriptors`: the new listeners, one list for each
    /// worker.
    pub(super) async fn serve_by(&self, snapshot: &Arc<Snapshot>, descriptors: Vec<Vec<Listener>>, limit: Duration) -> bool {
        let mut descriptors = descriptors.into_iter();
        let order = |orders: &mut Orders| {
            orders.take_over = Some(Arc::clone(snapshot));
            orders.listeners.extend(descriptors.next().unwrap_or_default());
        };
        self.carry_out(order, limit).await
    }

    /// Makes every worker close its idle upstream connections, and returns when all have, after `limit` at the latest.
    pub(super) async fn close_idle(&self, limit: Duration) {
        self.carry_out(|orders| orders.close_idle = true, limit).await;
    }

    /// Ends the workers now, with the connections that are left. Threads that have not ended after `limit` are left alone.
    /// `finished`: the channel of [`finished`](Self::finished).
    pub(super) async fn stop(self, mut finished: mpsc::Receiver<()>, limit: Duration) {
        for orders in self.orders {
            orders.give(|orders| orders.stop = true);
        }
        if timeout(limit, finished.recv()).await.is_err() {
            return;
        }
        for thread in self.threads {
            // A worker that panicked has logged it.
            drop(thread.join());
        }
    }

    /// Gives every worker an order, and waits until each has carried it out, for `limit` at most. Returns whether each has.
    async fn carry_out(&self, mut order: impl FnMut(&mut Orders), limit: Duration) -> bool {
        let outcomes: Vec<_> = self.orders.iter().map(|orders| orders.give(&mut order)).collect();
        let all = async {
            for outcome in outcomes {
                // A worker that has ended carries nothing out.
                drop(outcome.await);
            }
        };
        timeout(limit, all).await.is_ok()
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.orders.len()
    }

    /// Probes whether the workers' event loops turn.
    pub(super) fn liveness(&self) -> LivenessProbe {
        self.liveness.clone()
    }

    /// A channel that closes once every worker has ended.
    pub(super) fn finished(&mut self) -> mpsc::Receiver<()> {
        self.finished.take().unwrap_or_else(|| mpsc::channel(1).1)
    }
}

/// The largest limits of a listener's APIs: which API a connection is for is known only once its first head has come.
fn connection_limits<'a>(apis: impl Iterator<Item = &'a config::Api>) -> ConnectionLimits {
    let granted = |api: &config::Api| ConnectionLimits {
        head_bytes: api.max_header_bytes,
        head_lines: api.max_headers,
        head_timeout: api.head_timeout,
        client_idle: api.client_idle,
        client_stall: api.client_stall,
        streams: Some(STREAMS),
    };
    let larger = |left: ConnectionLimits, right: ConnectionLimits| ConnectionLimits {
        head_bytes: left.head_bytes.max(right.head_bytes),
        head_lines: left.head_lines.max(right.head_lines),
        head_timeout: left.head_timeout.max(right.head_timeout),
        client_idle: left.client_idle.max(right.client_idle),
        client_stall: left.client_stall.max(right.client_stall),
        streams: Some(STREAMS),
    };
    let none = ConnectionLimits {
        head_bytes: 0,
        head_lines: 0,
        head_timeout: Duration::ZERO,
        client_idle: Duration::ZERO,
        client_stall: Duration::ZERO,
        streams: Some(STREAMS),
    };
    apis.map(granted).fold(none, larger)
}
