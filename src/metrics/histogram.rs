//! Histograms of durations, and the quantiles between two readings.
//!
//! They are ours: that of `prometheus-client` takes a lock for each observation, and its buckets can't be read.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

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

/// The bounds of a histogram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// Those of an API's time.
    Latency,
    /// Those of the sidecar's own time.
    Overhead,
}

/// Estimates the quantile `of` (0 to 1) of the durations between two readings of [`Totals`](super::Totals).
///
/// It does so like Prometheus' `histogram_quantile`: it takes durations for evenly spread within a bucket, and returns the
/// largest bound for durations above it. `None` when there were no requests.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "counts of minutes")]
pub fn quantile(of: f64, scale: Scale, from: &Buckets, to: &Buckets) -> Option<Duration> {
    let bounds = match scale {
        Scale::Latency => &LATENCY,
        Scale::Overhead => &OVERHEAD,
    };
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
    let Some(upper) = bounds.get(bucket) else { return bounds.last().copied().map(Duration::from_nanos) };
    let lower = bucket.checked_sub(1).map_or(0, |lower| bounds[lower]);
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
        assert_eq!(quantile(0.5, Scale::Latency, &none, &none), None);
        let before = buckets(&[(0, 7), (16, 3)]);
        assert_eq!(quantile(0.5, Scale::Latency, &before, &before), None, "nothing came");
        let millis = |part, to: &[(usize, u64)]| {
            let mut after = before;
            for (bucket, count) in to {
                after[*bucket] += count;
            }
            quantile(part, Scale::Latency, &before, &after).unwrap().as_micros()
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
        assert_eq!(quantile(0.5, Scale::Latency, &buckets(&[(2, 9)]), &buckets(&[(2, 3)])), None);
    }

    proptest! {
        #[test]
        fn a_higher_quantile_is_never_shorter(counts in proptest::array::uniform17(0_u64..1000), one in 0.0..1.0_f64, other in 0.0..1.0_f64) {
            let (low, high) = (one.min(other), one.max(other));
            let none = Buckets::default();
            prop_assert!(quantile(low, Scale::Latency, &none, &counts) <= quantile(high, Scale::Latency, &none, &counts));
        }
    }
}
