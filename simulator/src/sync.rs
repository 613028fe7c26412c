//! Takes locks, and blocks threads until something changes.
//!
//! It uses the clock. No lock is held while a caller's condition runs.

use std::{
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use crate::clock;

/// Takes the lock even if it is poisoned: these locks protect data that is valid after every statement, and a test that
/// panics while it holds one must not take the simulator down.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Wakes threads that wait for a change. It counts the changes, so that none is missed.
#[derive(Default)]
pub(crate) struct ChangeSignal {
    number: Mutex<u64>,
    changed: Condvar,
}

impl ChangeSignal {
    /// Wakes every thread that waits.
    pub(crate) fn notify(&self) {
        *lock(&self.number) += 1;
        self.changed.notify_all();
    }

    /// Blocks until `condition` holds, and evaluates it again after every change; false at the deadline.
    pub(crate) fn wait_until(&self, deadline: Instant, condition: impl Fn() -> bool) -> bool {
        loop {
            let before = *lock(&self.number);
            if condition() {
                return true;
            }
            let left = deadline.saturating_duration_since(clock::instant());
            if left.is_zero() {
                return false;
            }
            // The top of the loop finds out whether this was a change or the deadline.
            let _ = self.changed.wait_timeout_while(lock(&self.number), left, |number| *number == before);
        }
    }
}
