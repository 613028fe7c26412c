//! The clocks and the random numbers that decisions are made by, so that tests give both.
//!
//! Elsewhere only rustls' verifiers read the time of day, and names of temporary files and keys of hash maps are drawn; an
//! `Instant` may be asked for the time since then.
//!
//! A [`Moment`] counts the time while the machine is suspended, since a token ages while a laptop sleeps. `Instant`, of tokio
//! and std, does not count that time on Linux.

use std::{
    ops::{Add, Sub},
    time::{Duration, SystemTime},
};

/// A point on a clock that never goes back and runs on while the machine is suspended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(Duration);

impl Moment {
    /// Makes the moment when the clock shows `since_boot`.
    #[must_use]
    pub const fn new(since_boot: Duration) -> Self {
        Self(since_boot)
    }

    /// The time since `earlier`; zero when `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// Nanoseconds since boot, for atomics.
    #[must_use]
    pub fn as_nanos(self) -> u64 {
        u64::try_from(self.0.as_nanos()).unwrap_or(u64::MAX)
    }

    /// The moment that [`as_nanos`](Self::as_nanos) gave.
    #[must_use]
    pub const fn from_nanos(since_boot: u64) -> Self {
        Self(Duration::from_nanos(since_boot))
    }
}

impl Add<Duration> for Moment {
    type Output = Self;

    fn add(self, later_by: Duration) -> Self {
        Self(self.0.saturating_add(later_by))
    }
}

impl Sub<Duration> for Moment {
    type Output = Self;

    fn sub(self, earlier_by: Duration) -> Self {
        Self(self.0.saturating_sub(earlier_by))
    }
}

/// One reading of both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// The reading for all decisions.
    pub moment: Moment,
    /// The reading for times that people and other machines see; it may jump.
    pub wall: SystemTime,
}

impl Now {
    /// The wall-clock time of `moment`, by the current offset between the clocks.
    #[must_use]
    pub fn wall_at(&self, moment: Moment) -> SystemTime {
        let time = if moment >= self.moment {
            self.wall.checked_add(moment.since(self.moment))
        } else {
            self.wall.checked_sub(self.moment.since(moment))
        };
        time.unwrap_or(self.wall)
    }
}

/// A source of time: the system, or a test.
pub trait Clock: Send + Sync + 'static {
    /// Reads both clocks.
    fn now(&self) -> Now;

    /// The present moment alone, where the time of day is not needed.
    fn moment(&self) -> Moment {
        self.now().moment
    }
}

/// Reads the machine's own clocks.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the clock")]
    fn now(&self) -> Now {
        Now { moment: boot_time(), wall: SystemTime::now() }
    }

    fn moment(&self) -> Moment {
        boot_time()
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn boot_time() -> Moment {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    // The time since boot is not negative.
    Moment(Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0)))
}

/// Elsewhere this reads the monotonic clock. On macOS it stops while the machine sleeps; there the account's driver notices the
/// jump of the wall clock.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn boot_time() -> Moment {
    Moment(monotonic())
}

/// The reading of `CLOCK_MONOTONIC`, which systemd compares with its own.
#[must_use]
pub fn monotonic() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0))
}

/// Reads tokio's clock, for durations and time limits while the machine is awake. Tests can pause it.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "the one place that reads the clock")]
pub fn instant() -> tokio::time::Instant {
    tokio::time::Instant::now()
}

/// Random numbers that need no secrecy, for jitter and request ids. A test can seed them and repeat a run.
#[derive(Debug)]
pub struct Jitter(fastrand::Rng);

impl Jitter {
    /// Takes a seed from the system.
    #[must_use]
    pub fn from_system() -> Self {
        Self(fastrand::Rng::new())
    }

    /// Repeats the same numbers for the same seed.
    #[cfg(test)]
    pub(crate) fn seeded(seed: u64) -> Self {
        Self(fastrand::Rng::with_seed(seed))
    }

    /// Draws a number, uniform in `[0, 1)`.
    pub fn fraction(&mut self) -> f64 {
        self.0.f64()
    }

    /// Draws 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0.u64(..)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_do_not_wrap() {
        let early = Moment::new(Duration::from_secs(1));
        let late = early + Duration::from_secs(5);
        assert_eq!(late.since(early), Duration::from_secs(5));
        assert_eq!(early.since(late), Duration::ZERO);
        assert_eq!(early - Duration::from_secs(9), Moment::new(Duration::ZERO));
        assert!(early + Duration::MAX > late);
    }

    #[test]
    fn the_same_seed_gives_the_same_numbers() {
        let draws = |seed| {
            let mut jitter = Jitter::seeded(seed);
            [jitter.bits(), jitter.bits()]
        };
        assert_eq!(draws(7), draws(7));
        assert_ne!(draws(7), draws(8));
    }
}
