//! Worker threads: each with a runtime, connections to upstream and deadlines of its own.

use std::{io, num::NonZeroUsize, sync::Arc, thread, time::Duration};

use http::HeaderValue;
use rustls::ClientConfig;
use tokio::sync::{Semaphore, mpsc, watch};
use tracing::error;

use crate::{
    account::Account,
    clock::Clock,
    config::{self, Config},
    connect::Connector,
    deadline::Deadlines,
    logging::AccessLog,
    path::Words,
    proxy::{Api, Entrance, Entry, Gate, HeaderRules, Outage, Places, Worker},
    server::{Acceptor, Bound, ConnectionLimits, Drain},
    upstream::{HeadLimits, Upstream},
};

/// How often idle upstream connections are looked over, and log lines handed on.
const ROUND: Duration = Duration::from_secs(1);

/// Where clients of one API come in.
pub(super) struct Door {
    /// Its place in the configuration.
    pub(super) api: usize,
    pub(super) bound: Bound,
    /// Connections, over all workers.
    pub(super) permits: Arc<Semaphore>,
    /// Requests in flight, over all workers and doors of the API.
    pub(super) places: Places,
    /// Whether its upstream was reached last, over the same.
    pub(super) outage: Outage,
}

/// What the workers are told while they run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Orders {
    /// Counts up: close every idle upstream connection.
    pub(super) close_idle: u64,
    /// Drop what is left.
    pub(super) stop: bool,
}

/// What every worker is given.
#[derive(Clone)]
pub(super) struct Crew {
    pub(super) config: Arc<Config>,
    pub(super) tls: Arc<ClientConfig>,
    pub(super) accounts: Vec<Account>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) access: AccessLog,
    pub(super) drain: watch::Receiver<bool>,
    pub(super) orders: watch::Receiver<Orders>,
}

/// The running workers.
pub(super) struct Workers {
    threads: Vec<thread::JoinHandle<()>>,
    finished: mpsc::Receiver<()>,
}

impl Crew {
    /// Starts `count` workers, each with a descriptor of its own for every door.
    pub(super) fn start(&self, count: NonZeroUsize, doors: &[Door]) -> io::Result<Workers> {
        let (working, finished) = mpsc::channel(1);
        let mut threads = Vec::with_capacity(count.get());
        for number in 0..count.get() {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let own = doors.iter().map(Door::for_worker).collect::<io::Result<Vec<_>>>()?;
            let (crew, working) = (self.clone(), working.clone());
            threads.push(thread::Builder::new().name(format!("worker-{number}")).spawn(move || {
                if let Err(cause) = runtime.block_on(crew.work(own)) {
                    error!(error = %cause, "a worker could not start");
                }
                drop(working);
            })?);
        }
        Ok(Workers { threads, finished })
    }

    async fn work(self, doors: Vec<Door>) -> io::Result<()> {
        let deadlines = Deadlines::default();
        let ticking = deadlines.clone();
        tokio::spawn(async move { ticking.run().await });
        let worker = Arc::new(Worker::new(deadlines.clone(), Arc::clone(&self.clock), self.access.worker()));
        let (drain, gone) = Drain::new(self.drain.clone());
        let mut apis: Vec<Option<Arc<Api>>> = vec![None; self.config.apis.len()];
        for door in doors {
            let settings = &self.config.apis[door.api];
            if apis[door.api].is_none() {
                apis[door.api] = Some(Arc::new(self.api(settings, &door)?));
            }
            let Some(api) = apis[door.api].clone() else { continue };
            let entry = if door.bound.socket.is_tcp() { Entry::Tcp } else { Entry::Unix };
            let entrance = Arc::new(Entrance {
                api,
                gate: Gate::new(&self.config, settings, entry),
                listener: door.bound.name.as_str().into(),
                worker: Arc::clone(&worker),
            });
            let acceptor = Acceptor::new(door.bound, door.permits)?;
            tokio::spawn(acceptor.run(entrance, connection_limits(settings), deadlines.clone(), drain.clone()));
        }
        drop(drain);
        let apis: Vec<Arc<Api>> = apis.into_iter().flatten().collect();
        self.make_rounds(&worker, &apis, gone).await;
        worker.flush_access_log();
        Ok(())
    }

    /// Until every connection has ended after a drain, or the order to stop.
    async fn make_rounds(mut self, worker: &Worker, apis: &[Arc<Api>], mut gone: mpsc::Receiver<()>) {
        let mut round = tokio::time::interval(ROUND);
        round.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = gone.recv() => return,
                changed = self.orders.changed() => {
                    if changed.is_err() || self.orders.borrow().stop {
                        return;
                    }
                    for api in apis {
                        api.upstream.close_idle();
                    }
                }
                _ = round.tick() => {
                    for api in apis {
                        api.upstream.sweep();
                    }
                    worker.flush_access_log();
                }
            }
        }
    }

    fn api(&self, settings: &config::Api, door: &Door) -> io::Result<Api> {
        let origin = &settings.upstream.origin;
        // `App::bind` made the same connector; a host that passes once passes again.
        let connector = Connector::new(origin, &self.tls, settings.timeouts.connect).ok_or(io::ErrorKind::InvalidInput)?;
        let authority = HeaderValue::try_from(origin.authority()).map_err(|_| io::ErrorKind::InvalidInput)?;
        let limits = HeadLimits { bytes: settings.limits.max_header_bytes, lines: settings.limits.max_headers };
        let rules = settings.allow.iter().flatten().chain(&settings.deny);
        let words = rules.flat_map(crate::path::Rule::words).chain(settings.path_words.iter().map(String::as_str));
        Ok(Api {
            name: settings.name.clone(),
            account: self.accounts[settings.account.0].clone(),
            upstream: Upstream::new(connector, limits, settings.timeouts.pool_idle),
            rules: HeaderRules::new(settings, authority),
            words: Words::new(words),
            places: door.places.clone(),
            outage: door.outage.clone(),
            timeouts: settings.timeouts,
            replay_buffer: settings.replay_buffer,
            retry_idempotency_key: settings.retry_idempotency_key,
        })
    }
}

impl Door {
    fn for_worker(&self) -> io::Result<Self> {
        Ok(Self {
            api: self.api,
            bound: self.bound.try_clone()?,
            permits: Arc::clone(&self.permits),
            places: self.places.clone(),
            outage: self.outage.clone(),
        })
    }
}

impl Workers {
    /// Yields `None` once every worker is done.
    pub(super) fn finished(&mut self) -> &mut mpsc::Receiver<()> {
        &mut self.finished
    }

    /// Waits for the threads.
    pub(super) fn join(self) {
        for thread in self.threads {
            // A worker that panicked has said so already.
            drop(thread.join());
        }
    }
}

fn connection_limits(settings: &config::Api) -> ConnectionLimits {
    ConnectionLimits {
        head_bytes: settings.limits.max_header_bytes,
        head_lines: settings.limits.max_headers,
        head_timeout: settings.timeouts.head,
    }
}
