//! Limits connections per listen address, across workers. When the limit is reached, it evicts the connection that has been
//! idle longest.
//!
//! Guarantees: there are never more permits than the limit; one connection at a time is asked to close, and that connection
//! decides itself whether it still is idle. The lock is taken when a connection is accepted or closed, and when the limit is
//! reached; never for a request.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Notify, futures::Notified},
    time::{Instant, timeout},
};

use crate::{
    clock,
    deadline::{Deadline, Deadlines},
};

/// The value of [`Slot::idle_since`] while a connection is not idle.
const BUSY: u64 = u64::MAX;

/// The connection limit of one listen address. Clones share it.
#[derive(Clone)]
pub struct ConnectionLimit(Arc<LimitState>);

struct LimitState {
    registry: Mutex<Registry>,
    /// An acceptor holds the [`EvictionGuard`]: the next free permit is for its client.
    guard_is_held: AtomicBool,
    /// Notified when a permit is free, or when another connection could be evicted.
    changed: Notify,
    epoch: Instant,
}

/// The connections of one listen address.
struct Registry {
    limit: usize,
    /// Permits given out.
    taken: usize,
    /// Permits whose connection was accepted; acceptors hold the others.
    connected: usize,
    slots: Vec<Option<Arc<Slot>>>,
    free: Vec<usize>,
}

/// One connection, as acceptors on all workers see it.
struct Slot {
    deadline: Deadline,
    /// Nanoseconds since the epoch, perhaps in the future; [`BUSY`] while the connection is not idle.
    idle_since: AtomicU64,
    /// The connection was asked to close, and has not decided yet.
    evicting: AtomicBool,
}

impl Slot {
    /// Asks the connection to close, and wakes its task, on any worker.
    fn evict(&self) {
        self.evicting.store(true, Ordering::SeqCst);
        self.deadline.pass();
    }
}

impl ConnectionLimit {
    /// Makes a limit of `limit` connections at a time.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        let registry = Registry { limit, taken: 0, connected: 0, slots: Vec::new(), free: Vec::new() };
        Self(Arc::new(LimitState {
            registry: Mutex::new(registry),
            guard_is_held: AtomicBool::new(false),
            changed: Notify::new(),
            epoch: clock::instant(),
        }))
    }

    /// Changes the limit. Connections over a lower limit stay, and an acceptor that already has a permit uses it; further
    /// clients wait.
    pub fn set_limit(&self, limit: usize) {
        self.0.lock().limit = limit;
        self.0.changed.notify_waiters();
    }

    /// The number of connections, and the limit.
    #[must_use]
    pub fn taken(&self) -> (usize, usize) {
        let registry = self.0.lock();
        (registry.connected, registry.limit)
    }

    /// Takes a permit if one is free. Its deadline is one of `deadlines`, which belong to the connection's worker.
    pub(super) fn take(&self, deadlines: &Deadlines) -> Option<ConnectionPermit> {
        let reserved = usize::from(self.0.guard_is_held.load(Ordering::SeqCst));
        self.take_beside(reserved, deadlines)
    }

    /// Takes a permit if one is free besides `reserved` others.
    fn take_beside(&self, reserved: usize, deadlines: &Deadlines) -> Option<ConnectionPermit> {
        let mut registry = self.0.lock();
        if registry.taken + reserved >= registry.limit {
            return None;
        }
        registry.taken += 1;
        let slot =
            Arc::new(Slot { deadline: deadlines.deadline(), idle_since: AtomicU64::new(BUSY), evicting: AtomicBool::new(false) });
        let key = registry.free.pop().unwrap_or_else(|| {
            registry.slots.push(None);
            registry.slots.len() - 1
        });
        registry.slots[key] = Some(Arc::clone(&slot));
        Some(ConnectionPermit { slot, key, is_accepted: false, connection_limit: self.clone() })
    }

    /// Takes the right to evict a connection. Only one acceptor has it at a time, and none has it while another acceptor holds
    /// a permit: that one accepts the waiting client.
    pub(super) fn eviction_guard(&self) -> Option<EvictionGuard> {
        let registry = self.0.lock();
        let permit_is_held = registry.taken > registry.connected;
        (!permit_is_held && !self.0.guard_is_held.swap(true, Ordering::SeqCst)).then(|| EvictionGuard(self.clone()))
    }

    /// Completes when a permit may be free. A change before the first poll counts, too, once the future is enabled.
    pub(super) fn changed(&self) -> Notified<'_> {
        self.0.changed.notified()
    }
}

impl LimitState {
    fn lock(&self) -> MutexGuard<'_, Registry> {
        // Counts and slots change together, and nothing in between can panic.
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn nanoseconds(&self, instant: Instant) -> u64 {
        let since = instant.saturating_duration_since(self.epoch).as_nanos();
        u64::try_from(since).unwrap_or(BUSY - 1)
    }

    /// Wakes the acceptor that holds the eviction guard: it may find a permit, or a connection to evict.
    fn notify_guard(&self) {
        if self.guard_is_held.load(Ordering::SeqCst) {
            self.changed.notify_waiters();
        }
    }
}

/// The right to evict one connection for a waiting client; released on drop.
pub(super) struct EvictionGuard(ConnectionLimit);

impl EvictionGuard {
    /// Waits for a free permit, and evicts the connection that has been idle longest. Cancelled, it takes no permit.
    pub(super) async fn permit(&self, deadlines: &Deadlines) -> ConnectionPermit {
        loop {
            let mut changed = std::pin::pin!(self.0.changed());
            changed.as_mut().enable();
            if let Some(permit) = self.0.take_beside(0, deadlines) {
                return permit;
            }
            match self.evict_longest_idle() {
                // It makes no difference which of the two happened: the loop looks again.
                Some(moment) => drop(timeout(moment, changed).await),
                None => changed.await,
            }
        }
    }

    /// Evicts the connection that has been idle longest, unless another one is still deciding. When none is idle yet but one
    /// will be, returns after how long.
    fn evict_longest_idle(&self) -> Option<Duration> {
        let registry = self.0.0.lock();
        let slots = || registry.slots.iter().flatten();
        if slots().any(|slot| slot.evicting.load(Ordering::SeqCst)) {
            return None;
        }
        let idle = slots().map(|slot| (slot.idle_since.load(Ordering::SeqCst), slot)).filter(|(since, _)| *since != BUSY);
        let (since, longest) = idle.min_by_key(|(since, _)| *since)?;
        let now = self.0.0.nanoseconds(clock::instant());
        if since <= now {
            longest.evict();
            return None;
        }
        Some(Duration::from_nanos(since - now))
    }
}

impl Drop for EvictionGuard {
    fn drop(&mut self) {
        self.0.0.guard_is_held.store(false, Ordering::SeqCst);
        self.0.0.changed.notify_waiters();
    }
}

/// The permit of one connection; given back on drop.
pub(super) struct ConnectionPermit {
    slot: Arc<Slot>,
    key: usize,
    is_accepted: bool,
    connection_limit: ConnectionLimit,
}

impl ConnectionPermit {
    /// Notes that the permit's connection was accepted.
    pub(super) fn accepted(&mut self) {
        self.is_accepted = true;
        self.connection_limit.0.lock().connected += 1;
        // Other acceptors left this client to us; now they look whether another one waits.
        self.connection_limit.0.changed.notify_waiters();
    }

    /// The one deadline of the connection. It passes, too, when the connection is evicted.
    pub(super) fn deadline(&self) -> &Deadline {
        &self.slot.deadline
    }

    /// Notes that the connection is idle since `since`, which may lie in the future.
    pub(super) fn idle(&self, since: Instant) {
        self.slot.idle_since.store(self.connection_limit.0.nanoseconds(since), Ordering::SeqCst);
        self.connection_limit.0.notify_guard();
    }

    /// Notes that the connection is not idle any more, and refuses an eviction. Returns whether there was one.
    ///
    /// Set the deadline first: an eviction is then either seen here, or makes the new deadline pass.
    pub(super) fn busy(&self) -> bool {
        self.slot.idle_since.store(BUSY, Ordering::SeqCst);
        self.refuse_eviction()
    }

    /// Evicts the connection as an acceptor does that has just seen it idle.
    #[cfg(test)]
    pub(super) fn evict(&self) {
        self.slot.evict();
    }

    /// Refuses to be evicted. Returns whether the connection was asked to close.
    pub(super) fn refuse_eviction(&self) -> bool {
        let evicting = self.slot.evicting.load(Ordering::SeqCst);
        if evicting {
            self.slot.evicting.store(false, Ordering::SeqCst);
            self.connection_limit.0.notify_guard();
        }
        evicting
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        let mut registry = self.connection_limit.0.lock();
        registry.taken -= 1;
        registry.connected -= usize::from(self.is_accepted);
        registry.slots[self.key] = None;
        registry.free.push(self.key);
        drop(registry);
        self.connection_limit.0.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, time::Duration};

    use super::*;

    fn connected(limit: &ConnectionLimit, deadlines: &Deadlines) -> ConnectionPermit {
        let mut permit = limit.take(deadlines).unwrap();
        permit.accepted();
        permit
    }

    /// Whether the connection was asked to close.
    async fn is_evicting(permit: &ConnectionPermit) -> bool {
        poll_fn(|cx| std::task::Poll::Ready(permit.deadline().poll_passed(cx).is_ready())).await
            && permit.slot.evicting.load(Ordering::SeqCst)
    }

    #[tokio::test(start_paused = true)]
    async fn there_are_no_more_permits_than_the_limit_which_can_be_changed() {
        let (limit, deadlines) = (ConnectionLimit::new(2), Deadlines::default());
        let first = connected(&limit, &deadlines);
        let _second = connected(&limit, &deadlines);
        assert!(limit.take(&deadlines).is_none());
        limit.set_limit(3);
        let third = connected(&limit, &deadlines);
        limit.set_limit(1);
        drop((first, third));
        assert!(limit.take(&deadlines).is_none());
        assert_eq!(limit.0.lock().slots.len(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn the_longest_idle_connection_is_evicted_and_no_other_until_it_has_decided() {
        let (limit, deadlines) = (ConnectionLimit::new(3), Deadlines::default());
        let [busy, older, newer] = [(); 3].map(|()| connected(&limit, &deadlines));
        older.idle(clock::instant());
        newer.idle(clock::instant() + Duration::from_millis(1));
        let guard = limit.eviction_guard().unwrap();
        assert!(limit.eviction_guard().is_none(), "one at a time");
        let mut permit = Box::pin(guard.permit(&deadlines));
        assert!(tokio::time::timeout(Duration::from_secs(1), &mut permit).await.is_err());
        assert!(is_evicting(&older).await);
        assert!(!is_evicting(&newer).await && !is_evicting(&busy).await);

        // A request began at the same moment.
        older.deadline().disarm();
        older.busy();
        assert!(tokio::time::timeout(Duration::from_secs(1), &mut permit).await.is_err());
        assert!(!is_evicting(&older).await && is_evicting(&newer).await);

        drop(newer);
        let _found = permit.await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_free_permit_goes_to_the_holder_of_the_eviction_guard() {
        let (limit, deadlines) = (ConnectionLimit::new(1), Deadlines::default());
        let only = connected(&limit, &deadlines);
        let guard = limit.eviction_guard().unwrap();
        drop(only);
        assert!(limit.take(&deadlines).is_none());
        drop(guard.permit(&deadlines).await);
        drop(guard);
        assert!(limit.take(&deadlines).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_evicted_while_another_acceptor_holds_a_permit() {
        let (limit, deadlines) = (ConnectionLimit::new(2), Deadlines::default());
        let _connection = connected(&limit, &deadlines);
        let mut held = limit.take(&deadlines).unwrap();
        assert!(limit.eviction_guard().is_none());
        held.accepted();
        assert!(limit.eviction_guard().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_becomes_idle_later_is_evicted_then() {
        let (limit, deadlines) = (ConnectionLimit::new(1), Deadlines::default());
        let only = connected(&limit, &deadlines);
        let guard = limit.eviction_guard().unwrap();
        let mut permit = Box::pin(guard.permit(&deadlines));
        assert!(tokio::time::timeout(Duration::from_secs(1), &mut permit).await.is_err());
        assert!(!is_evicting(&only).await);
        only.idle(clock::instant());
        assert!(tokio::time::timeout(Duration::from_secs(1), &mut permit).await.is_err());
        assert!(is_evicting(&only).await);
    }
}
