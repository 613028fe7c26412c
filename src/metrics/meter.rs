//! Counts one API's requests, their durations and connections, in a [`Meter`] per worker.
//!
//! Each worker counts in memory that no other worker writes: a shared count would move from core to core with every request.

use std::{
    collections::BTreeMap,
    num::NonZeroUsize,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use http::Method;

use super::{
    histogram::{Buckets, Histogram, LATENCY, OVERHEAD, Observed},
    labels::{CodeLabel, CutLabel, Label, ProblemLabel, RequestLabels, label},
    recent::{RecentAnswers, RecentFailures},
};
use crate::clock::Moment;

/// The nine registered methods, and `OTHER` for the rest.
pub(super) const METHODS: [&str; 10] = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "OTHER"];

/// The classes of HTTP statuses.
pub(super) const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// The status of a request that has become a tunnel (RFC 9110, 15.2.2).
const SWITCHING_PROTOCOLS: u16 = 101;

/// The upstream's 5xx are counted one by one; the last count is for numbers that are no status.
const SERVER_ERRORS: usize = 101;

/// The bits of an error's number beside its time.
const ERROR_BITS: u32 = 12;

/// The metrics of one API: a meter per worker.
#[derive(Debug)]
pub struct ApiMetrics(Box<[Arc<Meter>]>);

/// Sums since the start of the process; two of them can be compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// The number of requests that have ended.
    pub requests: u64,
    /// Requests that the rules would have refused, were they enforced.
    pub would_refuse: u64,
    /// Requests that were answered with a 5xx, by us or by the upstream.
    pub errors: u64,
    /// Requests whose answer the upstream cut behind a head of another class.
    pub cut: u64,
    /// The requests' durations, for [`quantile`](super::quantile). Tunnels are left out.
    pub durations: Buckets,
    /// The times until the head of the upstream's answer.
    pub first_bytes: Buckets,
    /// The sidecar's own times, for [`Scale::Overhead`](super::Scale::Overhead).
    pub overheads: Buckets,
}

/// The latest request that was answered by a 5xx, or whose answer the upstream cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastError {
    /// The problem's code, `upstream_503` for the upstream's own answer, or why the upstream's answer was cut.
    pub code: String,
    /// When the answer ended.
    pub at: Moment,
}

impl ApiMetrics {
    pub(super) fn new(workers: NonZeroUsize, labels: &RequestLabels) -> Self {
        Self((0..workers.get()).map(|_| Arc::new(Meter::new(labels))).collect())
    }

    /// The meter of the worker with this number.
    #[must_use]
    pub fn meter(&self, worker: usize) -> Arc<Meter> {
        // There is at least one.
        Arc::clone(&self.0[worker % self.0.len()])
    }

    /// Sums the meters, which takes some hundred loads.
    #[must_use]
    pub fn totals(&self) -> Totals {
        let mut totals = Totals {
            durations: self.duration().buckets,
            first_bytes: self.first_byte().buckets,
            overheads: self.overhead().buckets,
            ..Totals::default()
        };
        for meter in &self.0 {
            totals.cut += meter.cut_by_upstream.load(Ordering::Relaxed);
            totals.would_refuse += meter.would_refuse.iter().map(|count| count.load(Ordering::Relaxed)).sum::<u64>();
            for (index, count) in meter.counts.iter().enumerate() {
                let count = count.load(Ordering::Relaxed);
                totals.requests += count;
                if meter.statuses[index % meter.statuses.len()] >= 500 {
                    totals.errors += count;
                }
            }
        }
        totals
    }

    /// The numbers of requests that were answered by a 5xx, by what [`LastError::code`] says; only those that are not zero.
    #[must_use]
    pub fn errors_by_code(&self) -> BTreeMap<String, u64> {
        let mut errors = BTreeMap::new();
        let Some(first) = self.0.first() else { return errors };
        for index in 0..first.codes.len() + SERVER_ERRORS {
            let count = match index.checked_sub(first.codes.len()) {
                Some(status) => self.sum(|meter| meter.server_errors.get(status)),
                None if first.codes[index].status < 500 => 0,
                None => (0..METHODS.len()).map(|method| self.requests(method, CLASSES.len() + index)).sum(),
            };
            if count > 0 {
                errors.insert(first.error(index), count);
            }
        }
        errors
    }

    /// The latest request, over all workers, that was answered by a 5xx, or whose answer the upstream cut.
    #[must_use]
    pub fn last_error(&self) -> Option<LastError> {
        let last = self.0.iter().map(|meter| meter.last_error.load(Ordering::Relaxed)).max().filter(|last| *last > 0)?;
        let index = usize::try_from(last & ((1 << ERROR_BITS) - 1)).ok()?;
        let at = Moment::new(Duration::from_millis(last >> ERROR_BITS));
        Some(LastError { code: self.0.first()?.error(index), at })
    }

    /// How many of the upstream's latest answers are failures.
    #[must_use]
    pub fn recent_failures(&self, now: Moment) -> RecentFailures {
        RecentFailures::read(self.0.iter().map(|meter| &meter.recent), now)
    }

    /// Requests with this method and this answer, given by their indexes.
    pub(super) fn requests(&self, method: usize, answer: usize) -> u64 {
        self.sum(|meter| meter.counts.get(method * meter.statuses.len() + answer))
    }

    /// Requests that would have been refused with this code, given by its index.
    pub(super) fn would_refuse(&self, code: usize) -> u64 {
        self.sum(|meter| meter.would_refuse.get(code))
    }

    pub(super) fn retries(&self, reason: Retry) -> u64 {
        self.sum(|meter| meter.retries.get(reason.index()))
    }

    pub(super) fn redactions(&self) -> u64 {
        self.sum(|meter| Some(&meter.redactions))
    }

    pub(super) fn cuts(&self, reason: usize) -> u64 {
        self.sum(|meter| meter.cuts.get(reason))
    }

    pub(super) fn duration(&self) -> Observed {
        self.observed(|meter| &meter.duration)
    }

    pub(super) fn first_byte(&self) -> Observed {
        self.observed(|meter| &meter.first_byte)
    }

    pub(super) fn overhead(&self) -> Observed {
        self.observed(|meter| &meter.overhead)
    }

    /// The numbers of active and of idle connections to upstream.
    #[must_use]
    pub fn connections(&self) -> (u64, u64) {
        let idle = self.sum(|meter| Some(&meter.idle));
        // The counts are read one after the other, so the difference could be negative.
        (self.sum(|meter| Some(&meter.open)).saturating_sub(idle), idle)
    }

    fn sum<'a>(&'a self, count: impl Fn(&'a Meter) -> Option<&'a AtomicU64>) -> u64 {
        self.0.iter().filter_map(|meter| count(meter)).map(|count| count.load(Ordering::Relaxed)).sum()
    }

    fn observed(&self, histogram: impl Fn(&Meter) -> &Histogram) -> Observed {
        let mut observed = Observed::default();
        for meter in &self.0 {
            histogram(meter).add_to(&mut observed);
        }
        observed
    }
}

/// One worker's metrics of an API.
// The alignment gives it a cache line of its own, and the one that is fetched along with it.
#[repr(align(128))]
#[derive(Debug)]
pub struct Meter {
    /// Requests, by method, then by answer: the classes of statuses, then the codes of problems.
    counts: Box<[AtomicU64]>,
    /// The status of each answer; for a class, its first status.
    statuses: Box<[u16]>,
    /// The codes of problems, by their indexes.
    codes: Arc<[CodeLabel]>,
    /// The upstream's own 5xx, by their status from 500 on.
    server_errors: Box<[AtomicU64]>,
    /// The time of the latest failure in milliseconds, then what it was.
    last_error: AtomicU64,
    recent: RecentAnswers,
    /// Answers of other classes than 5xx that the upstream cut.
    cut_by_upstream: AtomicU64,
    /// By the code of the problem that it would have been.
    would_refuse: Box<[AtomicU64]>,
    duration: Histogram,
    first_byte: Histogram,
    overhead: Histogram,
    retries: [AtomicU64; Retry::ALL.len()],
    redactions: AtomicU64,
    cuts: Box<[AtomicU64]>,
    /// The reasons why answers are cut, by their indexes.
    cut_words: Box<[&'static str]>,
    /// Connections to upstream, active and idle.
    open: AtomicU64,
    /// The connections to upstream that have no exchange.
    idle: AtomicU64,
}

/// A request that has ended.
#[derive(Clone, Copy, Debug)]
pub struct Ended<'a, Code, Cut> {
    /// The method, counted as `OTHER` unless it is registered.
    pub method: &'a Method,
    /// The status of the answer.
    pub status: u16,
    /// The problem's code, when the answer is a problem.
    pub code: Option<Code>,
    /// The reason why the answer ended early, when it did.
    pub cut: Option<Cut>,
    /// The time from the arrival of the request's head to the end of the answer.
    pub duration: Duration,
    /// The time from the arrival of the request's head to the head of the upstream's answer.
    pub first_byte: Option<Duration>,
    /// When the answer ended.
    pub at: Moment,
}

label! {
    /// Why a request is sent again.
    pub enum Retry {
        /// Its connection failed.
        Connection = "connection",
        /// Its bearer was refused.
        Bearer = "bearer",
    }
}

fn index_of(method: &Method) -> usize {
    METHODS.iter().position(|name| *name == method.as_str()).unwrap_or(METHODS.len() - 1)
}

/// The index of a status' class. A number that is no status counts as 5xx (RFC 9110, 15).
pub(super) fn class_of(status: u16) -> usize {
    match status / 100 {
        class @ 1..=5 => usize::from(class) - 1,
        _ => CLASSES.len() - 1,
    }
}

impl Meter {
    pub(super) fn new(labels: &RequestLabels) -> Self {
        let statuses: Box<[u16]> =
            [100, 200, 300, 400, 500].into_iter().chain(labels.codes.iter().map(|code| code.status)).collect();
        let zeros = |count: usize| (0..count).map(|_| AtomicU64::new(0)).collect::<Box<[AtomicU64]>>();
        Self {
            counts: zeros(METHODS.len() * statuses.len()),
            statuses,
            codes: Arc::clone(&labels.codes),
            server_errors: zeros(SERVER_ERRORS),
            last_error: AtomicU64::new(0),
            recent: RecentAnswers::new(),
            cut_by_upstream: AtomicU64::new(0),
            would_refuse: zeros(labels.codes.len()),
            duration: Histogram::new(&LATENCY),
            first_byte: Histogram::new(&LATENCY),
            overhead: Histogram::new(&OVERHEAD),
            retries: Default::default(),
            redactions: AtomicU64::new(0),
            cuts: zeros(labels.cuts.len()),
            cut_words: labels.cuts.as_slice().into(),
            open: AtomicU64::new(0),
            idle: AtomicU64::new(0),
        }
    }

    /// Counts a request that has ended. `Code` and `Cut` are the types that the [`Metrics`](super::Metrics) were made for. The
    /// duration of a tunnel says nothing about the upstream and is left out.
    pub fn ended<Code: ProblemLabel, Cut: CutLabel>(&self, ended: &Ended<'_, Code, Cut>) {
        let answer = ended.code.map_or_else(|| class_of(ended.status), |code| CLASSES.len() + code.index());
        let index = index_of(ended.method) * self.statuses.len() + answer;
        self.counts[index].fetch_add(1, Ordering::Relaxed);
        if ended.status != SWITCHING_PROTOCOLS {
            self.duration.observe(ended.duration);
        }
        // A tunnel ends as either side likes.
        let cut = ended.cut.filter(|cut| cut.is_the_upstreams() && ended.status != SWITCHING_PROTOCOLS);
        let is_failure = ended.status >= 500 || cut.is_some();
        if is_failure {
            self.failed(ended, cut);
        }
        if ended.code.map_or(ended.first_byte.is_some(), ProblemLabel::is_of_an_answer) {
            self.recent.note(ended.at, is_failure);
        }
        if let Some(first_byte) = ended.first_byte {
            self.first_byte.observe(first_byte);
        }
        if let Some(cut) = ended.cut.and_then(|cut| self.cuts.get(cut.index())) {
            cut.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Notes a 5xx, or else that the upstream has `cut` its answer.
    fn failed<Code: ProblemLabel, Cut: CutLabel>(&self, ended: &Ended<'_, Code, Cut>, cut: Option<Cut>) {
        let status = ended.status.checked_sub(500).map(|status| usize::from(status).min(SERVER_ERRORS - 1));
        let index = match (ended.code, status, cut) {
            (Some(code), ..) => code.index(),
            (None, Some(status), _) => {
                self.server_errors[status].fetch_add(1, Ordering::Relaxed);
                self.codes.len() + status
            }
            (None, None, Some(cut)) => {
                self.cut_by_upstream.fetch_add(1, Ordering::Relaxed);
                self.codes.len() + SERVER_ERRORS + cut.index()
            }
            (None, None, None) => return,
        };
        let millis = ended.at.as_nanos() / 1_000_000;
        self.last_error.fetch_max(millis << ERROR_BITS | index as u64, Ordering::Relaxed);
    }

    /// The name of an error, given by its index: those of the problems' codes, then the upstream's statuses, then the reasons why
    /// answers were cut.
    fn error(&self, index: usize) -> String {
        match index.checked_sub(self.codes.len()) {
            None => self.codes[index].word.to_owned(),
            Some(status) if status < SERVER_ERRORS - 1 => format!("upstream_{}", 500 + status),
            Some(status) if status == SERVER_ERRORS - 1 => "upstream_other".to_owned(),
            Some(cut) => self.cut_words[cut - SERVER_ERRORS].to_owned(),
        }
    }

    /// Counts a request that the rules would have refused with `code`, were they enforced.
    pub fn would_have_refused(&self, code: impl ProblemLabel) {
        if let Some(count) = self.would_refuse.get(code.index()) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Observes how much of the time between the heads of a request and its answer the sidecar itself took.
    pub fn spent(&self, overhead: Duration) {
        self.overhead.observe(overhead);
    }

    /// Counts a request that is sent again.
    pub fn retried(&self, reason: Retry) {
        self.retries[reason.index()].fetch_add(1, Ordering::Relaxed);
    }

    /// Counts headers of an answer that held the token.
    pub fn redacted(&self, headers: u64) {
        self.redactions.fetch_add(headers, Ordering::Relaxed);
    }

    /// Counts a new connection to upstream, which is active at first, until the gauge is dropped.
    #[must_use]
    pub fn connected(self: &Arc<Self>) -> ConnectionGauge {
        self.open.fetch_add(1, Ordering::Relaxed);
        ConnectionGauge { meter: Arc::clone(self), idle: AtomicBool::new(false) }
    }
}

/// Counts one connection to upstream, as active or as idle, until it is dropped.
#[derive(Debug)]
pub struct ConnectionGauge {
    meter: Arc<Meter>,
    idle: AtomicBool,
}

impl ConnectionGauge {
    /// Notes whether the connection has no exchange now.
    pub fn set_idle(&self, idle: bool) {
        if self.idle.swap(idle, Ordering::Relaxed) != idle {
            let count = &self.meter.idle;
            if idle {
                count.fetch_add(1, Ordering::Relaxed)
            } else {
                count.fetch_sub(1, Ordering::Relaxed)
            };
        }
    }
}

impl Drop for ConnectionGauge {
    fn drop(&mut self) {
        self.set_idle(false);
        self.meter.open.fetch_sub(1, Ordering::Relaxed);
    }
}
