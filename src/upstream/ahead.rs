//! Decides when a connection is opened ahead of need, so that no request waits for a handshake. Pure: times are arguments.
//!
//! Guarantees: on average at most one connection in [`EVERY`] is opened ahead of need, whatever the server does; none is opened
//! for an upstream that no request has used for [`USED_WITHIN`].

use std::time::Duration;

use tokio::time::Instant;

/// For how long after a request a connection is kept ready.
const USED_WITHIN: Duration = Duration::from_secs(600);
/// The average time between two connections that are opened ahead of need.
const EVERY: Duration = Duration::from_secs(30);
/// How many may be opened at once after a quiet time.
const BURST: u32 = 3;

/// What has to be known of one upstream at one worker.
#[derive(Default)]
pub(super) struct Ahead {
    used: Option<Instant>,
    /// The time by which the connections opened so far are paid for, at one in [`EVERY`].
    paid_at: Option<Instant>,
}

impl Ahead {
    /// Notes that a request used the upstream.
    pub(super) fn used(&mut self, now: Instant) {
        self.used = Some(now);
    }

    /// Opens nothing until a request uses the upstream again.
    pub(super) fn stop(&mut self) {
        self.used = None;
    }

    /// Whether a connection should be ready.
    pub(super) fn is_wanted(&self, now: Instant) -> bool {
        self.used.is_some_and(|used| now.duration_since(used) < USED_WITHIN)
    }

    /// Whether another connection may be opened now. If so, it counts.
    pub(super) fn may_open(&mut self, now: Instant) -> bool {
        let paid_at = self.paid_at.map_or(now, |paid_at| paid_at.max(now));
        let allowed = paid_at.duration_since(now) <= EVERY * (BURST - 1);
        if allowed {
            self.paid_at = Some(paid_at + EVERY);
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    #[test]
    fn a_connection_is_wanted_for_ten_minutes_after_a_request() {
        let (mut ahead, start) = (Ahead::default(), clock::instant());
        assert!(!ahead.is_wanted(start));
        ahead.used(start);
        assert!(ahead.is_wanted(start + Duration::from_secs(599)));
        assert!(!ahead.is_wanted(start + Duration::from_secs(600)));
        ahead.used(start + Duration::from_secs(700));
        assert!(ahead.is_wanted(start + Duration::from_secs(800)));
        ahead.stop();
        assert!(!ahead.is_wanted(start + Duration::from_secs(800)));
    }

    #[test]
    fn three_are_opened_at_once_and_then_one_in_thirty_seconds() {
        let (mut ahead, start) = (Ahead::default(), clock::instant());
        let opened = (0..3600).filter(|second| ahead.may_open(start + Duration::from_secs(*second))).collect::<Vec<_>>();
        assert_eq!(opened[..5], [0, 1, 2, 30, 60]);
        assert_eq!(opened.len(), 2 + 120);
    }
}
