//! Idle HTTP/1.1 connections to one origin: last in, first out, so that the rest can grow old and be closed. What was open
//! when the pool was cleared never comes back.

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
    generation: u64,
}

struct Kept<B> {
    idle: Vec<Idle<B>>,
    /// How often the pool was cleared.
    generation: u64,
}

struct Idle<B> {
    since: Instant,
    connection: Open<B>,
}

impl<B> Pool<B> {
    pub(super) fn new(keep: Duration) -> Self {
        Self { kept: Arc::new(Mutex::new(Kept { idle: Vec::new(), generation: 0 })), keep, generation: 0 }
    }

    /// For a connection that may come back, unless the pool is cleared first.
    pub(super) fn handle(&self) -> Self {
        Self { kept: Arc::clone(&self.kept), keep: self.keep, generation: self.lock().generation }
    }

    /// The connection that was used last, if it may be used again.
    pub(super) async fn take(&self, reuse: Reuse) -> Option<Open<B>> {
        let limit = reuse.idle_at_most(self.keep)?;
        loop {
            let mut candidate = self.pop(limit)?;
            if candidate.is_usable().await {
                candidate.set_idle(false);
                return Some(candidate);
            }
        }
    }

    fn pop(&self, limit: Duration) -> Option<Open<B>> {
        let idle = &mut self.lock().idle;
        let newest = idle.last()?;
        let now = clock::instant();
        // Sorted by age: when the newest has been idle for too long, all have.
        if now.duration_since(newest.since) > limit {
            return None;
        }
        while let Some(newest) = idle.pop() {
            if now < newest.connection.retires() {
                return (now.duration_since(newest.since) <= limit).then_some(newest.connection);
            }
        }
        None
    }

    /// Takes a connection whose exchange is complete. One that has grown old is closed, and so is one that was in use
    /// when the pool was cleared.
    pub(super) fn put(&self, connection: Open<B>) {
        let since = clock::instant();
        let mut kept = self.lock();
        if kept.generation == self.generation && since < connection.retires() {
            connection.set_idle(true);
            kept.idle.push(Idle { since, connection });
        }
    }

    pub(super) fn sweep(&self) {
        let (keep, now) = (self.keep, clock::instant());
        self.lock().idle.retain(|idle| {
            let kept = !idle.connection.is_closed() && now.duration_since(idle.since) <= keep;
            kept && now < idle.connection.retires()
        });
    }

    /// Closes what has been idle for so long or longer.
    pub(super) fn retire_older_than(&self, silence: Duration) {
        self.lock().idle.retain(|idle| idle.since.elapsed() < silence);
    }

    pub(super) fn clear(&self) {
        let mut kept = self.lock();
        kept.generation += 1;
        kept.idle.clear();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Kept<B>> {
        // A list of connections can't be left half changed.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
