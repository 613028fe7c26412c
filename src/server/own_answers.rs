//! Shares out the time that answers of our own may take at one address, so that refused callers leave the rest to others. Pure.
//!
//! A refusal costs us as much as it costs the client that provokes it, and thousands of clients may send one refused request behind
//! the other. Each answer books [`COST`] of the address's time; its connection is served again when what was booked before it is
//! over. Guarantees: a connection's first answers never wait; a lone client is not slowed down below one answer in [`COST`]; no
//! wait is longer than [`LONGEST`], or at an address of probes [`LONGEST_OF_PROBES`].

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// How much of the address's time an answer of our own takes: about four times what it costs one processor.
const COST: Duration = Duration::from_micros(100);
/// An answer books [`COST`] once more for so many bytes.
const LARGE: u64 = 8 * 1024;
/// How much may be booked ahead before anybody waits.
const AHEAD: Duration = Duration::from_millis(100);
/// The longest wait.
pub(super) const LONGEST: Duration = Duration::from_secs(5);
/// The same at an address of probes, of which each must be answered within a second. All answers there are our own, and the
/// connections are few, so those that wait so long cost little.
pub(super) const LONGEST_OF_PROBES: Duration = Duration::from_millis(200);

/// What answers have booked at one address.
pub(super) struct OwnAnswers {
    longest: Duration,
    /// In nanoseconds since the address was opened.
    booked_until: AtomicU64,
}

impl OwnAnswers {
    pub(super) fn new(longest: Duration) -> Self {
        Self { longest, booked_until: AtomicU64::new(0) }
    }

    /// Books an answer of `bytes` at `now`, in nanoseconds since the address was opened. Returns when its connection may have the
    /// next one; 0 if at once.
    pub(super) fn book(&self, now: u64, bytes: u64) -> u64 {
        let longest = now.saturating_add(nanoseconds(AHEAD + self.longest));
        let cost = nanoseconds(COST).saturating_mul(1 + bytes / LARGE);
        let book = |booked: u64| Some(booked.max(now).saturating_add(cost).min(longest));
        let before = self.booked_until.fetch_update(Ordering::Relaxed, Ordering::Relaxed, book).unwrap_or(now);
        let next = before.saturating_sub(nanoseconds(AHEAD));
        if next > now { next } else { 0 }
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn a_thousand_answers_at_once_and_then_ten_thousand_a_second() {
        let answers = OwnAnswers::new(LONGEST);
        let waits = (0..11_000).map(|_| answers.book(SECOND, 300)).collect::<Vec<_>>();
        assert!(waits[..=1000].iter().all(|next| *next == 0));
        assert_eq!(waits[1001], SECOND + nanoseconds(COST));
        assert_eq!(waits[10_999], 2 * SECOND - nanoseconds(COST));
        // Those who come once a second has passed are served as the first ones were.
        assert_eq!(answers.book(3 * SECOND, 300), 0);
    }

    #[test]
    fn a_client_that_is_alone_does_not_wait() {
        let answers = OwnAnswers::new(LONGEST);
        assert!((0..50_000).all(|answer| answers.book(answer * nanoseconds(COST), 0) == 0));
    }

    #[test]
    fn nobody_waits_longer_than_five_seconds_and_no_probe_longer_than_a_fifth_of_one() {
        for (longest, expected) in [(LONGEST, 5 * SECOND), (LONGEST_OF_PROBES, SECOND / 5)] {
            let answers = OwnAnswers::new(longest);
            let longest = (0..1_000).map(|_| answers.book(0, u64::MAX)).max();
            assert_eq!(longest, Some(expected));
        }
    }

    #[test]
    fn a_large_answer_books_by_its_size() {
        let answers = OwnAnswers::new(LONGEST);
        let before_a_wait = (0..1000).take_while(|_| answers.book(0, 63 * LARGE) == 0).count();
        assert_eq!(before_a_wait, 1000_usize.div_ceil(64));
    }
}
