//! Taking locks, and waiting for something to change.

use std::{
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use crate::clock;

/// Takes the lock, poisoned or not: what is behind these locks is valid after every statement, and
/// a test that panicked while it held one must not take the simulator down with it.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A number that rises with every change, for those who wait for one.
#[derive(Default)]
pub(crate) struct Changes {
    number: Mutex<u64>,
    risen: Condvar,
}

impl Changes {
    /// Wakes those who wait.
    pub(crate) fn note(&self) {
        *lock(&self.number) += 1;
        self.risen.notify_all();
    }

    /// Waits until `condition` holds, asking again after every change; false at the deadline.
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
            // Whether it was a change or the deadline is found out at the top of the loop.
            let _ = self.risen.wait_timeout_while(lock(&self.number), left, |number| *number == before);
        }
    }
}
