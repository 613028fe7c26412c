//! How long a client may be silent after it has connected, before it may be closed for another one.
//!
//! An app that opens many connections at once sends a moment later; were its connections closed for each other, requests would be
//! lost that could have waited. In a flood of silent clients the time is short. Guarantee: such a flood keeps nobody out for
//! long. Times are arguments: nanoseconds since the address was opened.

use std::sync::atomic::{AtomicU64, Ordering};

/// How long a client may be silent at first before it counts as idle.
pub(super) const FIRST_GRACE: u64 = 1_000_000_000;
/// The same at an address of probes, where a burst of silent clients must be over within a second.
pub(super) const FIRST_GRACE_OF_PROBES: u64 = 20_000_000;
/// How long it may be silent in a flood of silent clients.
const FIRST_GRACE_IN_FLOOD: u64 = 5_000_000;
/// Clients that are closed one after the other for their silence are a flood after this time, and until nobody was for twice as
/// long.
const FLOOD: u64 = 1_000_000_000;

/// How long clients of one address may be silent at first.
pub(super) struct FirstGrace {
    /// How long outside a flood.
    usual: u64,
    /// When clients began to be closed for their silence.
    began: AtomicU64,
    /// When one was closed for it last.
    last: AtomicU64,
}

impl FirstGrace {
    const NEVER: u64 = u64::MAX;

    pub(super) fn new(usual: u64) -> Self {
        Self { usual, began: AtomicU64::new(Self::NEVER), last: AtomicU64::new(0) }
    }

    /// How long a client may be silent at first, as of `now`.
    pub(super) fn at(&self, now: u64) -> u64 {
        let lasts = now.saturating_sub(self.began.load(Ordering::Relaxed)) >= FLOOD;
        if lasts && self.is_recent(now) { FIRST_GRACE_IN_FLOOD } else { self.usual }
    }

    /// Takes note of a client that is closed for another one, as it has been silent since it came, for `silence`. What has been
    /// open for long says nothing about those that have just come: it may belong to a pool.
    pub(super) fn closed_one(&self, now: u64, silence: u64) {
        if silence >= 2 * FIRST_GRACE {
            return;
        }
        if self.began.load(Ordering::Relaxed) == Self::NEVER || !self.is_recent(now) {
            self.began.store(now, Ordering::Relaxed);
        }
        self.last.store(now, Ordering::Relaxed);
    }

    fn is_recent(&self, now: u64) -> bool {
        now.saturating_sub(self.last.load(Ordering::Relaxed)) < 2 * FLOOD
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_for_the_first_bytes_is_short_in_a_flood_of_silence_alone() {
        let (grace, start) = (FirstGrace::new(FIRST_GRACE), 100 * FLOOD);
        assert_eq!(grace.at(start), FIRST_GRACE);
        // A burst: some are closed, and soon nobody any more.
        for now in [start, start + FLOOD / 2] {
            grace.closed_one(now, FIRST_GRACE);
            assert_eq!(grace.at(now), FIRST_GRACE);
        }
        let start = start + 4 * FLOOD;
        assert_eq!(grace.at(start), FIRST_GRACE);
        // Old ones of a pool are no flood.
        for step in 0..10 {
            grace.closed_one(start + step * FLOOD / 2, 2 * FIRST_GRACE);
            assert_eq!(grace.at(start + step * FLOOD / 2), FIRST_GRACE);
        }
        let start = start + 10 * FLOOD;
        for step in 0..10 {
            let now = start + step * FLOOD / 2;
            grace.closed_one(now, FIRST_GRACE);
            assert_eq!(grace.at(now), if step < 2 { FIRST_GRACE } else { FIRST_GRACE_IN_FLOOD }, "{step}");
        }
        let last = start + 9 * FLOOD / 2;
        assert_eq!(grace.at(last + 2 * FLOOD - 1), FIRST_GRACE_IN_FLOOD);
        assert_eq!(grace.at(last + 2 * FLOOD), FIRST_GRACE);
    }
}
