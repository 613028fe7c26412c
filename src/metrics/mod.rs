//! What is counted, and the text that tells it to Prometheus.
//!
//! Depends on nothing of ours: what is counted comes in as words, numbers and times. There is no state but a [`Metrics`].
//! Guarantees: no label ever holds anything of a request but a registered method's name, the class of a status and words
//! of ours; counting takes no lock, allocates nothing and touches memory of one worker only; a counter lives as long as the
//! process, so that a reload, or an API that comes back, goes on where it was. `docs/metrics.md` is held against this module
//! by a test.

mod exposition;
mod format;
mod histogram;
mod meter;
mod process;

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
pub use histogram::{BUCKETS, Buckets, quantile};
pub use meter::{ApiMetrics, ConnectionGauge, Ended, Meter, Retry, Totals};

/// The states that an account can be in.
pub const STATES: [&str; 6] = ["logged_out", "logging_in", "ready", "refreshing", "backing_off", "rejected"];

/// Words that become labels and that others know: they are counted by their place in these lists.
#[derive(Clone, Debug, Default)]
pub struct Vocabulary {
    /// Of problems.
    pub codes: Vec<CodeWord>,
    /// Why answers are cut.
    pub cuts: Vec<&'static str>,
}

/// A problem's code.
#[derive(Clone, Copy, Debug)]
pub struct CodeWord {
    /// As users see it.
    pub word: &'static str,
    /// The answer's.
    pub status: u16,
    /// Why a request was not let through.
    pub refusal: Option<RefusalReason>,
}

/// Whose requests a refusal is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalReason {
    /// Those of an API.
    OfApi,
    /// Those that no API is for.
    OfNone,
}

/// Everything that is counted. One per daemon.
#[derive(Debug)]
pub struct Metrics {
    workers: NonZeroUsize,
    vocabulary: Vocabulary,
    apis: Mutex<BTreeMap<String, Arc<ApiMetrics>>>,
    accounts: Mutex<BTreeMap<String, Arc<AccountMetrics>>>,
    reloads: [AtomicU64; 2],
}

impl Metrics {
    /// For so many workers.
    #[must_use]
    pub fn new(workers: NonZeroUsize, vocabulary: Vocabulary) -> Arc<Self> {
        let (apis, accounts) = (Mutex::default(), Mutex::default());
        Arc::new(Self { workers, vocabulary, apis, accounts, reloads: Default::default() })
    }

    /// What is counted of the API with that name; `""` stands for requests that no API is for.
    #[must_use]
    pub fn api(&self, name: &str) -> Arc<ApiMetrics> {
        let mut apis = lock(&self.apis);
        if let Some(known) = apis.get(name) {
            return Arc::clone(known);
        }
        let new = Arc::new(ApiMetrics::new(self.workers, &self.vocabulary));
        apis.insert(name.to_owned(), Arc::clone(&new));
        new
    }

    /// What is counted of the account with that name.
    #[must_use]
    pub fn account(&self, name: &str) -> Arc<AccountMetrics> {
        Arc::clone(lock(&self.accounts).entry(name.to_owned()).or_default())
    }

    /// A reload has ended.
    pub fn reloaded(&self, outcome: Reload) {
        self.reloads[outcome as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// All of it as text.
    #[must_use]
    pub fn encode(self: &Arc<Self>, readings: Readings, format: Format) -> String {
        exposition::write(Arc::clone(self), readings, format)
    }
}

fn lock<T>(map: &Mutex<T>) -> MutexGuard<'_, T> {
    // An entry is there or is not.
    map.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How a reload ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reload {
    /// The settings are in force.
    Done,
    /// They were refused, and nothing has changed.
    Refused,
}

impl Reload {
    const WORDS: [&str; 2] = ["ok", "refused"];
}

/// What is counted of one account.
#[derive(Debug, Default)]
pub struct AccountMetrics {
    logins: [AtomicU64; LoginOutcome::WORDS.len()],
}

impl AccountMetrics {
    /// A log-in, or a refresh, has ended.
    pub fn logged_in(&self, outcome: LoginOutcome) {
        self.logins[outcome as usize].fetch_add(1, Ordering::Relaxed);
    }
}

/// How a log-in ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoginOutcome {
    /// With a token.
    Ok,
    /// The server said no.
    Refused,
    /// The server asked for fewer log-ins.
    Throttled,
    /// There was no answer, or the server's own failure.
    Unreachable,
    /// An answer without a usable token.
    Malformed,
    /// A source gave no credentials.
    NoCredentials,
    /// Not within its time.
    TimedOut,
}

impl LoginOutcome {
    const WORDS: [&str; 7] = ["ok", "refused", "throttled", "unreachable", "malformed", "no_credentials", "timed_out"];
}

/// What is read when it is asked for, because it is kept elsewhere.
#[derive(Clone, Debug)]
pub struct Readings {
    /// When the process began.
    pub started_at: SystemTime,
    /// Those in force.
    pub apis: Vec<ApiReading>,
    /// Those in force.
    pub accounts: Vec<AccountReading>,
    /// Those in force.
    pub listeners: Vec<ListenerReading>,
    /// Since the start.
    pub log_lines_dropped: u64,
}

/// An API as it is now.
#[derive(Clone, Debug)]
pub struct ApiReading {
    /// As in the settings.
    pub name: String,
    /// Requests.
    pub in_flight: usize,
    /// At most so many.
    pub in_flight_max: usize,
}

/// An account as it is now.
#[derive(Clone, Debug)]
pub struct AccountReading {
    /// As in the settings.
    pub name: String,
    /// One of [`STATES`]; `None` for an account without log-in.
    pub state: Option<&'static str>,
    /// When the token at hand ends.
    pub expires_at: Option<SystemTime>,
}

/// A listen address as it is now.
#[derive(Clone, Debug)]
pub struct ListenerReading {
    /// As in the log.
    pub address: String,
    /// Of clients.
    pub connections: usize,
    /// At most so many.
    pub connections_max: usize,
}

#[cfg(test)]
mod tests;
