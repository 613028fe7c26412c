//! Counts one API's requests, their durations and connections, in a [`Meter`] per worker.
//!
//! Each worker counts in memory that no other worker writes: a shared count would move from core to core with every request.
//! The histograms are ours: that of `prometheus-client` takes a lock for each observation, and its buckets can't be read.

use std::{
    num::NonZeroUsize,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use http::Method;

use super::labels::{Label, ProblemLabel, RequestLabels, label};

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
    /// The number of requests that have ended.
    pub requests: u64,
    /// Requests that the rules would have refused, were they enforced.
    pub would_refuse: u64,
    /// Requests that were answered with a 5xx, by us or by the upstream.
    pub errors: u64,
    /// The requests' durations, for [`quantile`]. Tunnels are left out.
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
    /// By the code of the problem that it would have been.
    would_refuse: Box<[AtomicU64]>,
    duration: Histogram,
    first_byte: Histogram,
    overhead: Histogram,
    retries: [AtomicU64; Retry::ALL.len()],
    redactions: AtomicU64,
    cuts: Box<[AtomicU64]>,
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
            would_refuse: zeros(labels.codes.len()),
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

/// The number of a histogram's buckets; the last bucket has no upper bound.
pub const BUCKETS: usize = 17;

/// How many observations each bucket holds. An observation is in one bucket only.
pub type Buckets = [u64; BUCKETS];

/// The upper bounds of all buckets but the last one, in nanoseconds.
pub(super) type Bounds = [u64; BUCKETS - 1];

const MICRO: u64 = 1_000;
const MILLI: u64 = 1_000 * MICRO;
const SECOND: u64 = 1_000 * MILLI;

/// Bounds for the sidecar's own time, from microseconds to what only a fault takes.
pub(super) const OVERHEAD: Bounds = [
    5 * MICRO,
    10 * MICRO,
    25 * MICRO,
    50 * MICRO,
    100 * MICRO,
    250 * MICRO,
    500 * MICRO,
    MILLI,
    2_500 * MICRO,
    5 * MILLI,
    10 * MILLI,
    25 * MILLI,
    50 * MILLI,
    100 * MILLI,
    250 * MILLI,
    SECOND,
];

/// Bounds for the time of an API, up to the longest useful time-outs.
pub(super) const LATENCY: Bounds = [
    MILLI,
    2_500 * MICRO,
    5 * MILLI,
    10 * MILLI,
    25 * MILLI,
    50 * MILLI,
    100 * MILLI,
    250 * MILLI,
    500 * MILLI,
    SECOND,
    2_500 * MILLI,
    5 * SECOND,
    10 * SECOND,
    30 * SECOND,
    60 * SECOND,
    300 * SECOND,
];

/// A histogram of durations. Each observation is two additions.
#[derive(Debug)]
pub(super) struct Histogram {
    bounds: &'static Bounds,
    counts: [AtomicU64; BUCKETS],
    /// The sum in nanoseconds. It wraps after 584 years, which a scraper takes for a restart.
    sum: AtomicU64,
}

/// The sum of several histograms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Observed {
    pub(super) buckets: Buckets,
    sum: u64,
}

impl Histogram {
    pub(super) fn new(bounds: &'static Bounds) -> Self {
        Self { bounds, counts: Default::default(), sum: AtomicU64::new(0) }
    }

    pub(super) fn observe(&self, duration: Duration) {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        // An upper bound belongs to its bucket.
        let bucket = self.bounds.partition_point(|bound| *bound < nanos);
        self.counts[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(nanos, Ordering::Relaxed);
    }

    pub(super) fn add_to(&self, observed: &mut Observed) {
        for (sum, count) in observed.buckets.iter_mut().zip(&self.counts) {
            *sum += count.load(Ordering::Relaxed);
        }
        observed.sum = observed.sum.wrapping_add(self.sum.load(Ordering::Relaxed));
    }
}

impl Observed {
    pub(super) fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// Returns the sum of the durations in seconds.
    pub(super) fn sum(&self) -> f64 {
        seconds(self.sum)
    }

    /// The buckets, each with its upper bound in seconds.
    pub(super) fn bounded(&self, bounds: &Bounds) -> [(f64, u64); BUCKETS] {
        let bound = |bucket: usize| bounds.get(bucket).map_or(f64::INFINITY, |bound| seconds(*bound));
        std::array::from_fn(|bucket| (bound(bucket), self.buckets[bucket]))
    }
}

#[expect(clippy::cast_precision_loss, reason = "a float has 53 bits: a sum of three months is off by a microsecond at most")]
fn seconds(nanos: u64) -> f64 {
    nanos as f64 / SECOND as f64
}

/// Estimates the quantile `of` (0 to 1) of the durations between two readings of [`Totals`].
///
/// It does so like Prometheus' `histogram_quantile`: it takes durations for evenly spread within a bucket, and returns the
/// largest bound for durations above it. `None` when there were no requests.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "counts of minutes")]
pub fn quantile(of: f64, from: &Buckets, to: &Buckets) -> Option<Duration> {
    let counts: Buckets = std::array::from_fn(|bucket| to[bucket].saturating_sub(from[bucket]));
    let all: u64 = counts.iter().sum();
    if all == 0 {
        return None;
    }
    let rank = of.clamp(0.0, 1.0) * all as f64;
    let mut below = 0;
    let bucket = counts.iter().position(|count| {
        below += count;
        *count > 0 && below as f64 >= rank
    })?;
    let Some(upper) = LATENCY.get(bucket) else { return LATENCY.last().copied().map(Duration::from_nanos) };
    let lower = bucket.checked_sub(1).map_or(0, |lower| LATENCY[lower]);
    let count = counts[bucket];
    let part = (rank - (below - count) as f64) / count as f64;
    Some(Duration::from_nanos(lower) + Duration::from_nanos(upper - lower).mul_f64(part.clamp(0.0, 1.0)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn buckets(of: &[(usize, u64)]) -> Buckets {
        let mut buckets = Buckets::default();
        for (bucket, count) in of {
            buckets[*bucket] = *count;
        }
        buckets
    }

    #[test]
    fn a_duration_falls_into_the_first_bucket_that_holds_it() {
        let histogram = Histogram::new(&OVERHEAD);
        for nanos in [0, 5_000, 5_001, 1_000_000_000, 1_000_000_001, u64::MAX / 4] {
            histogram.observe(Duration::from_nanos(nanos));
        }
        let mut observed = Observed::default();
        histogram.add_to(&mut observed);
        histogram.add_to(&mut observed);
        assert_eq!(observed.buckets, buckets(&[(0, 4), (1, 2), (15, 2), (16, 4)]));
        assert_eq!(observed.count(), 12);
        assert_eq!(observed.bounded(&OVERHEAD)[0], (5e-6, 4));
        assert_eq!(observed.bounded(&OVERHEAD)[16], (f64::INFINITY, 4));
    }

    #[test]
    fn the_sum_is_in_seconds() {
        let histogram = Histogram::new(&LATENCY);
        histogram.observe(Duration::from_millis(1500));
        histogram.observe(Duration::from_millis(250));
        let mut observed = Observed::default();
        histogram.add_to(&mut observed);
        assert!((observed.sum() - 1.75).abs() < 1e-9);
    }

    #[test]
    fn bounds_rise() {
        for bounds in [OVERHEAD, LATENCY] {
            assert!(bounds.is_sorted_by(|one, next| one < next));
        }
    }

    #[test]
    fn a_quantile_is_of_the_durations_between_two_readings() {
        let none = Buckets::default();
        assert_eq!(quantile(0.5, &none, &none), None);
        let before = buckets(&[(0, 7), (16, 3)]);
        assert_eq!(quantile(0.5, &before, &before), None, "nothing came");
        let millis = |part, to: &[(usize, u64)]| {
            let mut after = before;
            for (bucket, count) in to {
                after[*bucket] += count;
            }
            quantile(part, &before, &after).unwrap().as_micros()
        };
        assert_eq!(millis(0.5, &[(0, 10)]), 500, "half way into the first bucket");
        assert_eq!(millis(0.5, &[(3, 10)]), 7_500, "half way from 5 to 10 ms");
        assert_eq!(millis(0.99, &[(3, 98), (4, 2)]), 17_500, "half way from 10 to 25 ms");
        assert_eq!(millis(1.0, &[(3, 98), (4, 2)]), 25_000);
        assert_eq!(millis(0.0, &[(3, 98), (4, 2)]), 5_000);
        assert_eq!(millis(0.99, &[(16, 1)]), 300_000_000, "nothing is known above the largest bound");
    }

    #[test]
    fn a_later_reading_with_lower_counts_has_no_quantile() {
        assert_eq!(quantile(0.5, &buckets(&[(2, 9)]), &buckets(&[(2, 3)])), None);
    }

    proptest! {
        #[test]
        fn a_higher_quantile_is_never_shorter(counts in proptest::array::uniform17(0_u64..1000), one in 0.0..1.0_f64, other in 0.0..1.0_f64) {
            let (low, high) = (one.min(other), one.max(other));
            let none = Buckets::default();
            prop_assert!(quantile(low, &none, &counts) <= quantile(high, &none, &counts));
        }
    }
}
