//! Reads the clocks; no other file of the simulator does (clippy checks it).
//!
//! It uses no other module. The simulator's own time, which tests can move, is `SimulatorState::now`.

use std::time::{Instant, SystemTime};

/// The real time of day.
#[expect(clippy::disallowed_methods, reason = "this is where it is read")]
pub(crate) fn time_of_day() -> SystemTime {
    SystemTime::now()
}

/// Monotonic time, for measuring how long something takes.
#[expect(clippy::disallowed_methods, reason = "this is where it is read")]
pub(crate) fn instant() -> Instant {
    Instant::now()
}
