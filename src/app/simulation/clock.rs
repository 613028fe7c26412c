//! The simulated clocks: tokio's paused time, suspends of the machine that it does not count, and a wall clock that may be wrong.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use tokio::time::Instant;

use crate::clock::{self, Clock, Moment, Now};

/// When every simulation begins, by CarePortals' clock: seconds since 1970.
const EPOCH: u64 = 1_800_000_000;

/// The machine's clocks.
pub(super) struct SimulatedClock {
    began: Instant,
    state: Mutex<Offsets>,
}

#[derive(Clone, Copy, Default)]
struct Offsets {
    suspended: Duration,
    /// By how many seconds the machine's wall clock is ahead.
    ahead: i64,
}

impl SimulatedClock {
    pub(super) fn new() -> Self {
        Self { began: clock::instant(), state: Mutex::default() }
    }

    fn offsets(&self) -> Offsets {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The time since the beginning, suspends included.
    pub(super) fn elapsed(&self) -> Duration {
        self.began.elapsed() + self.offsets().suspended
    }

    /// The right time of day, in seconds since 1970.
    pub(super) fn true_seconds(&self) -> f64 {
        (Duration::from_secs(EPOCH) + self.elapsed()).as_secs_f64()
    }

    /// By how many seconds the wall clock is ahead of the right time.
    pub(super) fn ahead(&self) -> f64 {
        // It is some hours at most.
        i32::try_from(self.offsets().ahead).map_or(0.0, f64::from)
    }

    pub(super) fn suspend(&self, time: Duration) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).suspended += time;
    }

    /// Sets the wall clock by so many seconds ahead of the right time.
    pub(super) fn set_ahead(&self, seconds: i64) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).ahead = seconds;
    }
}

impl Clock for SimulatedClock {
    fn now(&self) -> Now {
        let right = SystemTime::UNIX_EPOCH + Duration::from_secs(EPOCH) + self.elapsed();
        let ahead = self.offsets().ahead;
        let shift = Duration::from_secs(ahead.unsigned_abs());
        let wall = if ahead < 0 { right - shift } else { right + shift };
        // The machine was started long ago.
        Now { moment: Moment::new(Duration::from_secs(100_000) + self.elapsed()), wall }
    }
}
