//! How long a session waits after a log-in that failed.
//!
//! Pure. Failures are retried with exponential backoff and full jitter, or when the server asked for it; refusals slowly, so that
//! no account is locked.

use std::time::Duration;

use crate::{account::failure::LoginError, clock::Jitter};

const BACKOFF_MIN: Duration = Duration::from_secs(1);
const BACKOFF_MAX: Duration = Duration::from_secs(60);
const REFUSED_MIN: Duration = Duration::from_secs(60);
const REFUSED_MAX: Duration = Duration::from_secs(15 * 60);
const RETRY_AFTER_MAX: Duration = Duration::from_secs(15 * 60);

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

    /// Counts a failure of another kind, and returns the time until the next attempt.
    pub(super) fn failed(&mut self, error: &LoginError, jitter: &mut Jitter) -> Duration {
        self.failures = self.failures.saturating_add(1);
        match error {
            LoginError::Throttled(Some(asked)) if !asked.is_zero() => (*asked).min(RETRY_AFTER_MAX),
            _ => {
                // Jitter keeps many sidecars from coming back at once.
                let most = doubled(BACKOFF_MIN, self.failures, BACKOFF_MAX);
                BACKOFF_MIN + most.saturating_sub(BACKOFF_MIN).mul_f64(jitter.fraction())
            }
        }
    }
}

fn doubled(first: Duration, times: u32, most: Duration) -> Duration {
    first.saturating_mul(1_u32.checked_shl(times).unwrap_or(u32::MAX)).min(most)
}
