//! Counts one API's requests and connections, in a [`Meter`] per worker.
//!
//! Each worker counts in memory that no other worker writes: a shared count would move from core to core with every request.

use std::{
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
    labels::{Label, ProblemLabel, RequestLabels, label},
};

/// The nine registered methods, and `OTHER` for the rest.
pub(super) const METHODS: [&str; 10] = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "OTHER"];

/// The classes of HTTP statuses.
pub(super) const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// The status of a request that has become a tunnel (RFC 9110, 15.2.2).
const SWITCHING_PROTOCOLS: u16 = 101;

/// The metrics of one API: a meter per worker.
#[derive(Debug)]
pub struct ApiMetrics(Box<[Arc<Meter>]>);

/// Sums since the start of the process; two of them can be compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Requests that have ended.
    pub requests: u64,
    /// Requests that were answered with a 5xx, by us or by the upstream.
    pub errors: u64,
    /// The requests' durations, for [`quantile`](super::quantile). Tunnels are left out.
    pub durations: Buckets,
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
        let mut totals = Totals { durations: self.observed(|meter| &meter.duration).buckets, ..Totals::default() };
        for meter in &self.0 {
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

    /// Requests with this method and this answer, given by their indexes.
    pub(super) fn requests(&self, method: usize, answer: usize) -> u64 {
        self.sum(|meter| meter.counts.get(method * meter.statuses.len() + answer))
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
    duration: Histogram,
    first_byte: Histogram,
    overhead: Histogram,
    retries: [AtomicU64; Retry::ALL.len()],
    redactions: AtomicU64,
    cuts: Box<[AtomicU64]>,
    /// All connections to upstream.
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
    match *method {
        Method::GET => 0,
        Method::HEAD => 1,
        Method::POST => 2,
        Method::PUT => 3,
        Method::DELETE => 4,
        Method::CONNECT => 5,
        Method::OPTIONS => 6,
        Method::TRACE => 7,
        Method::PATCH => 8,
        _ => 9,
    }
}

/// The index of a status' class. A number that is no status counts as 5xx (RFC 9110, 15).
pub(super) fn class_of(status: u16) -> usize {
    match status {
        100..200 => 0,
        200..300 => 1,
        300..400 => 2,
        400..500 => 3,
        _ => 4,
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
            duration: Histogram::new(&LATENCY),
            first_byte: Histogram::new(&LATENCY),
            overhead: Histogram::new(&OVERHEAD),
            retries: Default::default(),
            redactions: AtomicU64::new(0),
            cuts: zeros(labels.cuts.len()),
            open: AtomicU64::new(0),
            idle: AtomicU64::new(0),
        }
    }

    /// Counts a request that has ended. `Code` and `Cut` are the types that the [`Metrics`](super::Metrics) were made for. The
    /// duration of a tunnel says nothing about the upstream and is left out.
    pub fn ended<Code: ProblemLabel, Cut: Label>(&self, ended: &Ended<'_, Code, Cut>) {
        let answer = ended.code.map_or_else(|| class_of(ended.status), |code| CLASSES.len() + code.index());
        let index = index_of(ended.method) * self.statuses.len() + answer;
        self.counts[index].fetch_add(1, Ordering::Relaxed);
        if ended.status != SWITCHING_PROTOCOLS {
            self.duration.observe(ended.duration);
        }
        if let Some(first_byte) = ended.first_byte {
            self.first_byte.observe(first_byte);
        }
        if let Some(cut) = ended.cut.and_then(|cut| self.cuts.get(cut.index())) {
            cut.fetch_add(1, Ordering::Relaxed);
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
