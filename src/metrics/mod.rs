//! Metrics and their Prometheus encoding.
//!
//! The only state is a [`Metrics`]. Guarantees: of a request, a label holds only the name of a registered method, the class of
//! a status, and words of our own; counting takes no lock, allocates nothing, and touches memory of one worker only; a counter
//! lives as long as the process, so an API that comes back with a reload goes on counting where it was. A test compares
//! `docs/metrics.md` with this module.

mod exposition;
mod format;
mod histogram;
mod labels;
mod meter;
mod process;
mod recent;

use std::{
    collections::BTreeMap,
    num::NonZeroUsize,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

pub use format::Format;
pub use histogram::{BUCKETS, Buckets, Scale, quantile};
use labels::RequestLabels;
pub(crate) use labels::label;
pub use labels::{CutLabel, Label, ProblemLabel, RefusalScope};
pub use meter::{ApiMetrics, ConnectionGauge, Ended, LastError, Meter, Retry, Totals};
pub use recent::RecentFailures;

/// The states of an account.
pub const STATES: [&str; 6] = ["logged_out", "logging_in", "ready", "refreshing", "backing_off", "rejected"];

/// All metrics of one daemon.
#[derive(Debug)]
pub struct Metrics {
    workers: NonZeroUsize,
    labels: RequestLabels,
    apis: Mutex<BTreeMap<String, Arc<ApiMetrics>>>,
    accounts: Mutex<BTreeMap<String, Arc<AccountMetrics>>>,
    reloads: [AtomicU64; Reload::ALL.len()],
}

impl Metrics {
    /// Makes the metrics of a daemon with this number of workers. `Code` and `Cut` are the types of [`Ended::code`] and
    /// [`Ended::cut`].
    #[must_use]
    pub fn new<Code: ProblemLabel, Cut: CutLabel>(workers: NonZeroUsize) -> Arc<Self> {
        let (apis, accounts) = (Mutex::default(), Mutex::default());
        Arc::new(Self { workers, labels: RequestLabels::new::<Code, Cut>(), apis, accounts, reloads: Default::default() })
    }

    /// The metrics of the API with this name; `""` stands for requests that no API is for.
    #[must_use]
    pub fn api(&self, name: &str) -> Arc<ApiMetrics> {
        let new = || Arc::new(ApiMetrics::new(self.workers, &self.labels));
        Arc::clone(lock(&self.apis).entry(name.to_owned()).or_insert_with(new))
    }

    /// The metrics of the account with this name.
    #[must_use]
    pub fn account(&self, name: &str) -> Arc<AccountMetrics> {
        Arc::clone(lock(&self.accounts).entry(name.to_owned()).or_default())
    }

    /// Counts a reload that has ended.
    pub fn reloaded(&self, outcome: Reload) {
        self.reloads[outcome.index()].fetch_add(1, Ordering::Relaxed);
    }

    /// Encodes all metrics as text.
    #[must_use]
    pub fn encode(self: &Arc<Self>, readings: Readings, format: Format) -> String {
        exposition::write(Arc::clone(self), readings, format)
    }
}

fn lock<T>(map: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics between two changes of a map.
    map.lock().unwrap_or_else(PoisonError::into_inner)
}

label! {
    /// How a reload ended.
    pub enum Reload {
        /// The settings are in force.
        Done = "ok",
        /// The settings were refused, and nothing has changed.
        Refused = "refused",
    }
}

/// The metrics of one account.
#[derive(Debug, Default)]
pub struct AccountMetrics {
    logins: [AtomicU64; LoginOutcome::ALL.len()],
}

impl AccountMetrics {
    /// Counts a log-in, or a refresh, that has ended.
    pub fn logged_in(&self, outcome: LoginOutcome) {
        self.logins[outcome.index()].fetch_add(1, Ordering::Relaxed);
    }
}

label! {
    /// How a log-in ended.
    pub enum LoginOutcome {
        /// It gave a token.
        Ok = "ok",
        /// The server refused the credentials.
        Refused = "refused",
        /// The server asked for fewer log-ins.
        Throttled = "throttled",
        /// The server did not answer, or failed itself.
        Unreachable = "unreachable",
        /// The server's answer holds no usable token.
        Malformed = "malformed",
        /// A source gave no credentials.
        NoCredentials = "no_credentials",
        /// The log-in took too long.
        TimedOut = "timed_out",
    }
}

/// Values that other modules keep, read at the time of a scrape.
#[derive(Clone, Debug)]
pub struct Readings {
    /// The wall-clock time at which the process began.
    pub started_at: SystemTime,
    /// The APIs of the settings in force.
    pub apis: Vec<ApiReading>,
    /// The accounts of the settings in force.
    pub accounts: Vec<AccountReading>,
    /// The listen addresses of the settings in force.
    pub listeners: Vec<ListenerReading>,
    /// What clients sent that is not HTTP, by API and reason.
    pub client_errors: Vec<ClientErrorReading>,
    /// Log lines dropped since the start.
    pub log_lines_dropped: u64,
}

/// The gauges of an API.
#[derive(Clone, Debug)]
pub struct ApiReading {
    /// The name in the settings.
    pub name: String,
    /// The number of requests in flight.
    pub in_flight: usize,
    /// The limit of requests in flight.
    pub in_flight_max: usize,
    /// Whether the last request got an answer from the upstream, or there was none yet.
    pub is_reached: bool,
}

/// The gauges of an account.
#[derive(Clone, Debug)]
pub struct AccountReading {
    /// The name in the settings.
    pub name: String,
    /// One of [`STATES`]; `None` for an account without log-in.
    pub state: Option<&'static str>,
    /// When the current token expires.
    pub expires_at: Option<SystemTime>,
}

/// How often clients sent what is not HTTP.
#[derive(Clone, Debug)]
pub struct ClientErrorReading {
    /// The API; empty where several share the address.
    pub api: String,
    /// What was wrong.
    pub reason: &'static str,
    /// How often, since the start.
    pub count: u64,
}

/// The gauges of a listen address.
#[derive(Clone, Debug)]
pub struct ListenerReading {
    /// The address as in the log.
    pub address: String,
    /// The number of client connections.
    pub connections: usize,
    /// The limit of client connections.
    pub connections_max: usize,
}

#[cfg(test)]
mod tests;
