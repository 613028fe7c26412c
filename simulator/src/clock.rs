//! The only file that reads a clock; the simulator's own, movable time is `Shared::now`.

use std::time::{Instant, SystemTime};

/// The real time of day.
#[expect(clippy::disallowed_methods, reason = "this is where it is read")]
pub(crate) fn time_of_day() -> SystemTime {
    SystemTime::now()
}

/// Time for measuring how long something takes.
#[expect(clippy::disallowed_methods, reason = "this is where it is read")]
pub(crate) fn instant() -> Instant {
    Instant::now()
}
