//! Idle connections to one origin: last in, first out, so that the rest can grow old and be closed. What was open when
//! the pool was cleared never comes back.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::{Reuse, h1::Open};
use crate::clock;

/// A handle; clones share the connections.
pub(super) struct Pool<B> {
    kept: Arc<Mutex<Kept<B>>>,
    keep: Duration,
    /// When this handle was made, counted in clearances.
    era: u64,
}

struct Kept<B> {
    idle: Vec<Idle<B>>,
    /// How often the pool was cleared.
    era: u64,
}

struct Idle<B> {
    since: Instant,
    connection: Open<B>,
}

impl<B> Pool<B> {
    pub(super) fn new(keep: Duration) -> Self {
        Self { kept: Arc::new(Mutex::new(Kept { idle: Vec::new(), era: 0 })), keep, era: 0 }
    }

    /// For a connection that may come back, unless the pool is cleared first.
    pub(super) fn handle(&self) -> Self {
        Self { kept: Arc::clone(&self.kept), keep: self.keep, era: self.lock().era }
    }

    /// The connection that was used last, if it may be used again.
    pub(super) async fn take(&self, reuse: Reuse) -> Option<Open<B>> {
        let limit = match reuse {
            Reuse::Any => self.keep,
            Reuse::IdleAtMost(limit) => limit.min(self.keep),
            Reuse::Never => return None,
        };
        loop {
            let mut candidate = self.pop(limit)?;
            if candidate.is_usable().await {
                return Some(candidate);
            }
        }
    }

    fn pop(&self, limit: Duration) -> Option<Open<B>> {
        let idle = &mut self.lock().idle;
        // Sorted by age: when the newest has been idle for too long, all have.
        if idle.last()?.since.elapsed() > limit {
            return None;
        }
        idle.pop().map(|newest| newest.connection)
    }

    /// Takes a connection whose exchange is complete. One that was in use when the pool was cleared is closed.
    pub(super) fn put(&self, connection: Open<B>) {
        let mut kept = self.lock();
        if kept.era == self.era {
            kept.idle.push(Idle { since: clock::instant(), connection });
        }
    }

    pub(super) fn sweep(&self) {
        let keep = self.keep;
        self.lock().idle.retain(|idle| !idle.connection.is_closed() && idle.since.elapsed() <= keep);
    }

    pub(super) fn clear(&self) {
        let mut kept = self.lock();
        kept.era += 1;
        kept.idle.clear();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Kept<B>> {
        // A list of connections can't be left half changed.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
