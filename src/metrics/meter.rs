//! What one API's requests and connections are counted by. Each worker counts in memory of its own, which no other one
//! writes: a count that all of them shared would travel from core to core with every request.

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
    Vocabulary,
    histogram::{Buckets, Histogram, LATENCY, OVERHEAD, Observed},
};

/// An API over all workers.
#[derive(Debug)]
pub struct ApiMetrics(Box<[Arc<Meter>]>);

/// Sums since the start, to be compared with earlier ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// That have ended.
    pub requests: u64,
    /// Answered by a 5xx, ours or upstream's.
    pub errors: u64,
    /// How long they took; for [`quantile`](super::quantile). Tunnels are left out.
    pub durations: Buckets,
}

impl ApiMetrics {
    pub(super) fn new(workers: NonZeroUsize, vocabulary: &Vocabulary) -> Self {
        Self((0..workers.get()).map(|_| Arc::new(Meter::new(vocabulary))).collect())
    }

    /// What the worker with that number counts by.
    #[must_use]
    pub fn meter(&self, worker: usize) -> Arc<Meter> {
        // There is at least one.
        Arc::clone(&self.0[worker % self.0.len()])
    }

    /// Some hundred loads.
    #[must_use]
    pub fn totals(&self) -> Totals {
        let mut totals = Totals { durations: self.observed(|meter| &meter.duration).buckets, ..Totals::default() };
        for meter in &self.0 {
            for (place, count) in meter.counts.iter().enumerate() {
                let count = count.load(Ordering::Relaxed);
                totals.requests += count;
                if meter.statuses[place % meter.statuses.len()] >= 500 {
                    totals.errors += count;
                }
            }
        }
        totals
    }

    /// Requests with a method and an answer, each by its place.
    pub(super) fn requests(&self, method: usize, answer: usize) -> u64 {
        self.sum(|meter| meter.counts.get(method * meter.statuses.len() + answer))
    }

    pub(super) fn retries(&self, reason: usize) -> u64 {
        self.sum(|meter| meter.retries.get(reason))
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

    /// Connections to upstream: active, idle.
    #[must_use]
    pub fn connections(&self) -> (u64, u64) {
        let idle = self.sum(|meter| Some(&meter.idle));
        // What was read apart may not fit together.
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

/// One worker's counts of an API.
// A cache line of its own, and the one that is fetched along with it.
#[repr(align(128))]
#[derive(Debug)]
pub struct Meter {
    /// By method, and there by answer: the classes of statuses, then the problems' codes.
    counts: Box<[AtomicU64]>,
    /// Of each answer; of a class the first one.
    statuses: Box<[u16]>,
    duration: Histogram,
    first_byte: Histogram,
    overhead: Histogram,
    retries: [AtomicU64; Retry::WORDS.len()],
    redactions: AtomicU64,
    cuts: Box<[AtomicU64]>,
    /// Connections to upstream.
    open: AtomicU64,
    /// Those of them without an exchange.
    idle: AtomicU64,
}

/// A request that has ended.
#[derive(Clone, Copy, Debug)]
pub struct Ended<'a> {
    /// Counted as `OTHER` unless it is registered.
    pub method: &'a Method,
    /// Of the answer.
    pub status: u16,
    /// Its place among the codes of the [`Vocabulary`], when the answer is a problem.
    pub code: Option<usize>,
    /// The reason's place among the cuts of the [`Vocabulary`], when the answer ended early.
    pub cut: Option<usize>,
    /// From the head's arrival to the answer's end.
    pub duration: Duration,
    /// From the head's arrival to the upstream's head.
    pub first_byte: Option<Duration>,
}

/// Why a request is sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// Its connection failed.
    Connection,
    /// Its bearer was refused.
    Bearer,
}

impl Retry {
    pub(super) const WORDS: [&str; 2] = ["connection", "bearer"];
}

/// The registered nine, and the rest.
pub(super) const METHODS: [&str; 10] = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "OTHER"];

fn place_of(method: &Method) -> usize {
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

/// Classes of statuses.
pub(super) const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// RFC 9110, 15: what is no status is taken for a 5xx.
pub(super) fn class_of(status: u16) -> usize {
    match status {
        100..200 => 0,
        200..300 => 1,
        300..400 => 2,
        400..500 => 3,
        _ => 4,
    }
}

/// RFC 9110, 15.2.2: the request has become a tunnel.
const SWITCHING_PROTOCOLS: u16 = 101;

impl Meter {
    /// Counts nothing yet.
    #[must_use]
    pub fn new(vocabulary: &Vocabulary) -> Self {
        let statuses: Box<[u16]> =
            [100, 200, 300, 400, 500].into_iter().chain(vocabulary.codes.iter().map(|code| code.status)).collect();
        let zeros = |count: usize| (0..count).map(|_| AtomicU64::new(0)).collect::<Box<[AtomicU64]>>();
        Self {
            counts: zeros(METHODS.len() * statuses.len()),
            statuses,
            duration: Histogram::new(&LATENCY),
            first_byte: Histogram::new(&LATENCY),
            overhead: Histogram::new(&OVERHEAD),
            retries: Default::default(),
            redactions: AtomicU64::new(0),
            cuts: zeros(vocabulary.cuts.len()),
            open: AtomicU64::new(0),
            idle: AtomicU64::new(0),
        }
    }

    /// Counts a request that has ended. How long a tunnel lasts says nothing of the upstream, and is left out.
    pub fn ended(&self, ended: &Ended<'_>) {
        let answer = match ended.code {
            Some(code) if CLASSES.len() + code < self.statuses.len() => CLASSES.len() + code,
            _ => class_of(ended.status),
        };
        let place = place_of(ended.method) * self.statuses.len() + answer;
        self.counts[place].fetch_add(1, Ordering::Relaxed);
        if ended.status != SWITCHING_PROTOCOLS {
            self.duration.observe(ended.duration);
        }
        if let Some(first_byte) = ended.first_byte {
            self.first_byte.observe(first_byte);
        }
        if let Some(cut) = ended.cut.and_then(|cut| self.cuts.get(cut)) {
            cut.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The head of an answer is ready, and so much of the time since the request's was ours.
    pub fn spent(&self, overhead: Duration) {
        self.overhead.observe(overhead);
    }

    /// A request is sent again.
    pub fn retried(&self, reason: Retry) {
        self.retries[reason as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// So many headers of an answer held the token.
    pub fn redacted(&self, headers: u64) {
        self.redactions.fetch_add(headers, Ordering::Relaxed);
    }

    /// There is a new connection to upstream, for an exchange. It counts until what is returned is dropped.
    #[must_use]
    pub fn connected(self: &Arc<Self>) -> ConnectionGauge {
        self.open.fetch_add(1, Ordering::Relaxed);
        ConnectionGauge { meter: Arc::clone(self), idle: AtomicBool::new(false) }
    }
}

/// A connection to upstream that counts.
#[derive(Debug)]
pub struct ConnectionGauge {
    meter: Arc<Meter>,
    idle: AtomicBool,
}

impl ConnectionGauge {
    /// Whether it has no exchange now.
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
