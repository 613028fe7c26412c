//! Remembers the upstream's answers of the last minute, and the last ten, to tell whether they are failures.
//!
//! Each worker writes memory of its own: an answer costs one addition and two stores. Time is an argument.

use std::{
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
    time::Duration,
};

use crate::clock::Moment;

/// Answers of this time are judged together.
const WINDOW: Duration = Duration::from_secs(60);
/// When the window holds fewer answers, the last ones are judged, however old they are.
const LAST: usize = 10;
/// A power of two that holds the window and the second in progress.
const SECONDS: usize = 64;

const COUNT_BITS: u32 = 22;
const COUNT: u64 = (1 << COUNT_BITS) - 1;
const SECOND: u64 = 1_000_000_000;

/// One worker's answers.
#[derive(Debug)]
pub(super) struct RecentAnswers {
    /// A second's number in the upper 20 bits, then its failures, then its answers.
    seconds: [AtomicU64; SECONDS],
    /// The time of an answer in nanoseconds; the lowest bit says whether it is a failure. 0: none yet.
    last: [AtomicU64; LAST],
    next: AtomicUsize,
}

impl RecentAnswers {
    pub(super) fn new() -> Self {
        let zeros = || std::array::from_fn(|_| AtomicU64::new(0));
        Self { seconds: zeros(), last: std::array::from_fn(|_| AtomicU64::new(0)), next: AtomicUsize::new(0) }
    }

    /// Notes an answer. Only the worker that owns this calls it; were it two, a count could be lost.
    pub(super) fn note(&self, at: Moment, is_failure: bool) {
        let nanos = at.as_nanos();
        let (second, one) = (nanos / SECOND, 1 | u64::from(is_failure) << COUNT_BITS);
        let Some(count) = self.seconds.get(index_of(second)) else { return };
        if is_of(count.load(Ordering::Relaxed), second) {
            count.fetch_add(one, Ordering::Relaxed);
        } else {
            count.store(tag(second) | one, Ordering::Relaxed);
        }
        let next = self.next.load(Ordering::Relaxed);
        if let Some(last) = self.last.get(next) {
            last.store(nanos & !1 | u64::from(is_failure), Ordering::Relaxed);
        }
        self.next.store((next + 1) % LAST, Ordering::Relaxed);
    }
}

/// Answers that are judged together, over all workers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecentFailures {
    /// The answers of the last minute, or the last ten.
    pub answers: u64,
    /// How many of them were failures.
    pub failures: u64,
}

impl RecentFailures {
    /// Whether at least half of the answers are failures.
    #[must_use]
    pub const fn are_most(self) -> bool {
        self.answers > 0 && self.failures * 2 >= self.answers
    }

    /// Reads what `workers` noted until `now`.
    pub(super) fn read<'a>(workers: impl Iterator<Item = &'a RecentAnswers> + Clone, now: Moment) -> Self {
        let (newest, window) = (now.as_nanos() / SECOND, WINDOW.as_secs());
        let mut recent = Self::default();
        for second in newest.saturating_sub(window - 1)..=newest {
            let counts = workers.clone().filter_map(|worker| worker.seconds.get(index_of(second)));
            for count in counts.map(|count| count.load(Ordering::Relaxed)).filter(|count| is_of(*count, second)) {
                recent.answers += count & COUNT;
                recent.failures += count >> COUNT_BITS & COUNT;
            }
        }
        if recent.answers >= LAST as u64 {
            return recent;
        }
        let mut last: Vec<u64> = workers.flat_map(|worker| &worker.last).map(|last| last.load(Ordering::Relaxed)).collect();
        last.retain(|answer| *answer != 0);
        last.sort_unstable_by(|one, other| other.cmp(one));
        last.truncate(LAST);
        Self { answers: last.len() as u64, failures: last.iter().map(|answer| answer & 1).sum() }
    }
}

/// The place of a second's count.
fn index_of(second: u64) -> usize {
    usize::try_from(second).unwrap_or(0) % SECONDS
}

/// The second's number in the upper bits: after twelve days a number comes again, when its count is long overwritten or old.
const fn tag(second: u64) -> u64 {
    second << (2 * COUNT_BITS)
}

const fn is_of(count: u64, second: u64) -> bool {
    count >> (2 * COUNT_BITS) == tag(second) >> (2 * COUNT_BITS)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEVER_MIND: u64 = 1_000_000;

    fn at(millis: u64) -> Moment {
        Moment::new(Duration::from_secs(NEVER_MIND) + Duration::from_millis(millis))
    }

    /// Reads the answers, each with its time in milliseconds and whether it is a failure, of two workers in turn.
    fn read(answers: &[(u64, bool)], now: u64) -> (u64, u64) {
        let workers = [RecentAnswers::new(), RecentAnswers::new()];
        for (index, (time, is_failure)) in answers.iter().enumerate() {
            workers[index % 2].note(at(*time), *is_failure);
        }
        let recent = RecentFailures::read(workers.iter(), at(now));
        (recent.answers, recent.failures)
    }

    #[test]
    fn of_few_answers_the_last_ten_count_however_old() {
        assert_eq!(read(&[], 0), (0, 0));
        assert_eq!(read(&[(0, true)], 0), (1, 1));
        assert_eq!(read(&[(0, true)], 3_600_000), (1, 1));
        let old: Vec<_> = (0..20).map(|index| (index * 1000, index >= 16)).collect();
        assert_eq!(read(&old, 3_600_000), (10, 4), "the first ten are forgotten");
        let mixed: Vec<_> = (0..8).map(|time| (time, true)).chain((0..8).map(|time| (600_000 + time, false))).collect();
        assert_eq!(read(&mixed, 600_100), (10, 2), "eight of the last minute, and two before");
    }

    #[test]
    fn of_many_answers_those_of_the_last_minute_count() {
        let answers: Vec<_> = (0..100).map(|index| (index * 1000, index < 50)).collect();
        assert_eq!(read(&answers, 99_000), (60, 10));
        assert_eq!(read(&answers, 110_000), (49, 0));
        assert_eq!(read(&answers, 149_000), (10, 0), "the last ten");
        let crowd = vec![(0, true); 5000];
        assert_eq!(read(&crowd, 59_000), (5000, 5000));
    }

    #[test]
    fn half_is_most_and_none_is_not() {
        let of = |answers, failures| RecentFailures { answers, failures }.are_most();
        assert!(of(1, 1) && of(2, 1) && of(10, 5) && of(9, 5));
        assert!(!of(0, 0) && !of(1, 0) && !of(10, 4) && !of(9, 4));
    }

    #[test]
    fn a_count_of_another_turn_is_not_this_seconds() {
        let worker = RecentAnswers::new();
        for minute in 0..20 {
            for _ in 0..12 {
                worker.note(at(minute * 64_000), minute < 19);
            }
        }
        let recent = RecentFailures::read([&worker].into_iter(), at(19 * 64_000));
        assert_eq!(recent, RecentFailures { answers: 12, failures: 0 });
    }
}
