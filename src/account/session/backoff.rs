//! How long a session waits after a log-in that failed.
//!
//! Pure. Failures are retried with exponential backoff and full jitter, or when the server asked for it; if it asks time after
//! time, the backoff is added. Refusals are retried slowly, so that no account is locked. While the token at hand is known to be
//! refused, requests fail, so the backoff is shorter then.

use std::time::Duration;

use crate::{
    account::{failure::LoginError, refusal::RefusedToken},
    clock::{Jitter, Moment},
};

const BACKOFF_MIN: Duration = Duration::from_secs(1);
const BACKOFF_MAX: Duration = Duration::from_secs(60);
/// The longest backoff while the token at hand is known to be refused.
const BACKOFF_MAX_REFUSED: Duration = Duration::from_secs(10);
const REFUSED_MIN: Duration = Duration::from_secs(60);
const REFUSED_MAX: Duration = Duration::from_secs(15 * 60);
const RETRY_AFTER_MAX: Duration = Duration::from_secs(15 * 60);
/// After so many failures in a row the backoff is added to what `Retry-After` asks for.
const RETRY_AFTER_ALONE: u32 = 2;

/// The wait after a log-in that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::account) struct Backoff {
    failed_at: Moment,
    wait: Duration,
    /// The wait while the token at hand is known to be refused: never longer than `wait`.
    wait_if_refused: Duration,
}

impl Backoff {
    /// When the next attempt starts. A refusal that becomes known during the wait shortens it from that time on, so that a 401
    /// never starts an attempt at once.
    pub(super) fn until(&self, refusal: Option<&RefusedToken>) -> Moment {
        let until = self.failed_at + self.wait;
        match refusal {
            Some(refusal) => until.min(self.failed_at.max(refusal.since) + self.wait_if_refused),
            None => until,
        }
    }
}

/// Attempts that failed since the last success.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::account) struct Tries {
    failures: u32,
    /// Failures in between do not reset this: they must not speed up attempts that may lock an account.
    refusals: u32,
}

impl Tries {
    /// Counts a refusal, and returns the time until the next attempt.
    pub(super) fn refused(&mut self) -> Duration {
        self.refusals = self.refusals.saturating_add(1);
        doubled(REFUSED_MIN, self.refusals - 1, REFUSED_MAX)
    }

    /// Counts a failure of another kind at `failed_at`, and returns the wait for the next attempt.
    pub(super) fn failed(&mut self, error: &LoginError, failed_at: Moment, jitter: &mut Jitter) -> Backoff {
        self.failures = self.failures.saturating_add(1);
        // Jitter keeps many sidecars from coming back at once.
        let fraction = jitter.fraction();
        let jittered = |most: Duration| BACKOFF_MIN + most.saturating_sub(BACKOFF_MIN).mul_f64(fraction);
        let most = doubled(BACKOFF_MIN, self.failures, BACKOFF_MAX);
        if let Some(asked) = error.retry_after().filter(|asked| !asked.is_zero()) {
            // A server that asks again has too many of them at once. If all kept to its time, all would come at once again.
            let more = if self.failures > RETRY_AFTER_ALONE { jittered(most) } else { Duration::ZERO };
            let wait = asked.saturating_add(more).min(RETRY_AFTER_MAX);
            return Backoff { failed_at, wait, wait_if_refused: wait };
        }
        Backoff { failed_at, wait: jittered(most), wait_if_refused: jittered(most.min(BACKOFF_MAX_REFUSED)) }
    }
}

fn doubled(first: Duration, times: u32, most: Duration) -> Duration {
    first.saturating_mul(1_u32.checked_shl(times).unwrap_or(u32::MAX)).min(most)
}
