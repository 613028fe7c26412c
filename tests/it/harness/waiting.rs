//! The only place where a test reads a clock, and where it waits, each time with a reason: until something happens, to show
//! that something does not happen, or for time itself.
//!
//! Clippy holds tests to that: it knows every other way to sleep as a disallowed method.

#![expect(clippy::disallowed_methods, reason = "real processes live in real time")]

use std::{
    thread,
    time::{Duration, Instant, SystemTime},
};

/// Nothing in these tests takes this long unless it is broken.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// How long a wait rests between two looks.
const PAUSE: Duration = Duration::from_millis(1);

/// The longest that a test may let time pass.
const LONGEST: Duration = Duration::from_secs(5);

/// The time, to measure how long something takes.
pub fn now() -> Instant {
    Instant::now()
}

/// The time of day.
pub fn wall_clock() -> SystemTime {
    SystemTime::now()
}

/// Waits until `holds` does. Fails after [`PATIENCE`] with `what`, which says what was waited for.
#[track_caller]
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    until_some(what, || holds().then_some(()));
}

/// Waits until `find` finds something. Fails after [`PATIENCE`] with `what`.
#[track_caller]
pub fn until_some<T>(what: &str, find: impl FnMut() -> Option<T>) -> T {
    let Some(found) = within(PATIENCE, find) else { panic!("waited {PATIENCE:?} in vain until {what}") };
    found
}

/// Waits until `holds` does. Fails after `limit`, the promise that the test is about, with `what`.
#[track_caller]
pub fn until_within(limit: Duration, what: &str, mut holds: impl FnMut() -> bool) {
    let kept = within(limit, || holds().then_some(())).is_some();
    assert!(kept, "waited {limit:?} in vain until {what}");
}

/// Watches for `time` that `happens` does not. Fails at once, with `what`, when it does.
#[track_caller]
pub fn never(what: &str, time: Duration, mut happens: impl FnMut() -> bool) {
    assert_short(what, time);
    let happened = within(time, || happens().then_some(())).is_some();
    assert!(!happened, "must not happen: {what}");
}

/// Lets time pass because the test is about time; `why` says how. Where something can be looked for, [`until`] waits for it.
#[track_caller]
pub fn let_time_pass(why: &str, time: Duration) {
    assert_short(why, time);
    thread::sleep(time);
}

/// Waits until `figure` has not changed for `quiet`. Fails after [`PATIENCE`] with `what`.
#[track_caller]
pub fn until_still(what: &str, quiet: Duration, mut figure: impl FnMut() -> u64) {
    let (mut last, mut since) = (figure(), Instant::now());
    until(what, || {
        let now = figure();
        if now != last {
            (last, since) = (now, Instant::now());
        }
        since.elapsed() >= quiet
    });
}

/// A test that lets more time pass than this is too slow.
#[track_caller]
pub fn assert_short(why: &str, time: Duration) {
    assert!(time <= LONGEST, "{time:?} is too long: {why}");
}

/// What `find` finds within `limit`. It looks once more when the time is over.
pub fn within<T>(limit: Duration, mut find: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + limit;
    loop {
        let is_last = Instant::now() >= deadline;
        match find() {
            Some(found) => return Some(found),
            None if is_last => return None,
            None => thread::sleep(PAUSE),
        }
    }
}
