//! Places for connections at one listen address, over all workers, and who gives his up when there is none.
//!
//! Depends on `deadline`. Guarantees: never more connection_limit than the limit; a connection that is asked to leave is the one that
//! has been idle longest, one at a time, and decides itself whether it still is idle. The lock is taken when a connection
//! comes or goes, and when the limit is reached; not for a request.

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

/// The connection_limit of one listen address. Clones share them.
#[derive(Clone)]
pub struct ConnectionLimit(Arc<Shared>);

struct Shared {
    registry: Mutex<Registry>,
    /// One acceptor has somebody waiting and looks for a permit: the next free one is his.
    claimed: AtomicBool,
    /// A permit is free, or somebody else could be asked to leave.
    changed: Notify,
    epoch: Instant,
}

struct Registry {
    limit: usize,
    taken: usize,
    /// ConnectionLimit whose connection has come; the other ones are held by acceptors.
    connected: usize,
    slots: Vec<Option<Arc<Slot>>>,
    free: Vec<usize>,
}

/// One connection, as acceptors on all workers see it.
struct Slot {
    deadline: Deadline,
    /// Nanoseconds since the epoch, perhaps in the future; [`BUSY`] while it is not idle.
    idle_since: AtomicU64,
    /// Asked to leave.
    evicting: AtomicBool,
}

const BUSY: u64 = u64::MAX;

impl Slot {
    /// Asks it to leave. Its task is woken, on whichever worker.
    fn evict(&self) {
        self.evicting.store(true, Ordering::SeqCst);
        self.deadline.pass();
    }
}

impl ConnectionLimit {
    /// For `limit` connections at a time.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        let registry = Registry { limit, taken: 0, connected: 0, slots: Vec::new(), free: Vec::new() };
        Self(Arc::new(Shared {
            registry: Mutex::new(registry),
            claimed: AtomicBool::new(false),
            changed: Notify::new(),
            epoch: clock::instant(),
        }))
    }

    /// From now on as many. Whoever is over a lower limit may stay, and each acceptor that has a permit ready uses it; other
    /// newcomers wait.
    pub fn set_limit(&self, limit: usize) {
        self.0.lock().limit = limit;
        self.0.changed.notify_waiters();
    }

    /// Connections that are there, and how many may be.
    #[must_use]
    pub fn taken(&self) -> (usize, usize) {
        let registry = self.0.lock();
        (registry.connected, registry.limit)
    }

    /// A free permit, with a deadline of the connection's worker.
    pub(super) fn take(&self, deadlines: &Deadlines) -> Option<ConnectionPermit> {
        let spoken_for = usize::from(self.0.claimed.load(Ordering::SeqCst));
        self.take_beside(spoken_for, deadlines)
    }

    fn take_beside(&self, spoken_for: usize, deadlines: &Deadlines) -> Option<ConnectionPermit> {
        let mut registry = self.0.lock();
        if registry.taken + spoken_for >= registry.limit {
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
        Some(ConnectionPermit { slot, key, came: false, connection_limit: self.clone() })
    }

    /// The right to evict somebody to leave: one acceptor at a time has it, and none while another one holds a permit for
    /// whoever comes next.
    pub(super) fn eviction_guard(&self) -> Option<EvictionGuard> {
        let registry = self.0.lock();
        let one_is_held = registry.taken > registry.connected;
        (!one_is_held && !self.0.claimed.swap(true, Ordering::SeqCst)).then(|| EvictionGuard(self.clone()))
    }

    /// Completes when it is worth looking again. What happens before it is first polled counts once it is enabled.
    pub(super) fn changed(&self) -> Notified<'_> {
        self.0.changed.notified()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Registry> {
        // Counts and list change together, and nothing in between can panic.
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn nanoseconds(&self, instant: Instant) -> u64 {
        let since = instant.saturating_duration_since(self.epoch).as_nanos();
        u64::try_from(since).unwrap_or(BUSY - 1)
    }

    /// Somebody who looks for a permit may find one now.
    fn notify_claimant(&self) {
        if self.claimed.load(Ordering::SeqCst) {
            self.changed.notify_waiters();
        }
    }
}

/// Looks for a permit for somebody who waits. Dropped, the next acceptor may.
pub(super) struct EvictionGuard(ConnectionLimit);

impl EvictionGuard {
    /// Waits for a free permit, and asks the longest idle connection for its own.
    pub(super) async fn permit(&self, deadlines: &Deadlines) -> ConnectionPermit {
        loop {
            let mut changed = std::pin::pin!(self.0.changed());
            changed.as_mut().enable();
            if let Some(permit) = self.0.take_beside(0, deadlines) {
                return permit;
            }
            match self.ask_longest_idle() {
                // It makes no difference which of the two it was.
                Some(moment) => drop(timeout(moment, changed).await),
                None => changed.await,
            }
        }
    }

    /// Nobody, while one who was asked before has not made up his mind. Where nobody counts as idle yet, but somebody will,
    /// after how long.
    fn ask_longest_idle(&self) -> Option<Duration> {
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
        self.0.0.claimed.store(false, Ordering::SeqCst);
        self.0.0.changed.notify_waiters();
    }
}

/// One connection's place. Free again when dropped.
pub(super) struct ConnectionPermit {
    slot: Arc<Slot>,
    key: usize,
    came: bool,
    connection_limit: ConnectionLimit,
}

impl ConnectionPermit {
    /// Its connection has come.
    pub(super) fn accepted(&mut self) {
        self.came = true;
        self.connection_limit.0.lock().connected += 1;
        // Acceptors that left the newcomer to us look whether there is another one.
        self.connection_limit.0.changed.notify_waiters();
    }

    /// The one deadline of the connection; it passes, too, when the connection is asked to leave.
    pub(super) fn deadline(&self) -> &Deadline {
        &self.slot.deadline
    }

    /// The connection is idle since then, or will be.
    pub(super) fn idle(&self, since: Instant) {
        self.slot.idle_since.store(self.connection_limit.0.nanoseconds(since), Ordering::SeqCst);
        self.connection_limit.0.notify_claimant();
    }

    /// It is not idle any more. To be called after its deadline was set, so that a request to leave is either seen here or
    /// makes that deadline pass. Whether it was asked to leave before.
    pub(super) fn busy(&self) -> bool {
        self.slot.idle_since.store(BUSY, Ordering::SeqCst);
        self.refuse_eviction()
    }

    /// Somebody asks it to leave who thought it idle.
    #[cfg(test)]
    pub(super) fn evict(&self) {
        self.slot.evict();
    }

    /// If it was asked to leave: it does not. Whether it was.
    pub(super) fn refuse_eviction(&self) -> bool {
        let evicting = self.slot.evicting.load(Ordering::SeqCst);
        if evicting {
            self.slot.evicting.store(false, Ordering::SeqCst);
            self.connection_limit.0.notify_claimant();
        }
        evicting
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        let mut registry = self.connection_limit.0.lock();
        registry.taken -= 1;
        registry.connected -= usize::from(self.came);
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

    fn connected(connection_limit: &ConnectionLimit, deadlines: &Deadlines) -> ConnectionPermit {
        let mut permit = connection_limit.take(deadlines).unwrap();
        permit.accepted();
        permit
    }

    /// Whether it was asked to leave.
    async fn is_evicting(permit: &ConnectionPermit) -> bool {
        poll_fn(|cx| std::task::Poll::Ready(permit.deadline().poll_passed(cx).is_ready())).await
            && permit.slot.evicting.load(Ordering::SeqCst)
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_seats_than_the_limit_and_it_can_be_changed() {
        let (connection_limit, deadlines) = (ConnectionLimit::new(2), Deadlines::default());
        let first = connected(&connection_limit, &deadlines);
        let _second = connected(&connection_limit, &deadlines);
        assert!(connection_limit.take(&deadlines).is_none());
        connection_limit.set_limit(3);
        let third = connected(&connection_limit, &deadlines);
        connection_limit.set_limit(1);
        drop((first, third));
        assert!(connection_limit.take(&deadlines).is_none());
        assert_eq!(connection_limit.0.lock().slots.len(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn the_longest_idle_one_is_asked_and_nobody_else_until_it_has_decided() {
        let (connection_limit, deadlines) = (ConnectionLimit::new(3), Deadlines::default());
        let [busy, older, newer] = [(); 3].map(|()| connected(&connection_limit, &deadlines));
        older.idle(clock::instant());
        newer.idle(clock::instant() + Duration::from_millis(1));
        let eviction_guard = connection_limit.eviction_guard().unwrap();
        assert!(connection_limit.eviction_guard().is_none(), "one at a time");
        let mut permit = Box::pin(eviction_guard.permit(&deadlines));
        assert!(tokio::time::timeout(Duration::from_secs(1), &mut permit).await.is_err());
        assert!(is_evicting(&older).await);
        assert!(!is_evicting(&newer).await && !is_evicting(&busy).await);

        // A request has begun just then.
        older.deadline().disarm();
        older.busy();
        assert!(tokio::time::timeout(Duration::from_secs(1), &mut permit).await.is_err());
        assert!(!is_evicting(&older).await && is_evicting(&newer).await);

        drop(newer);
        let _found = permit.await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_freed_seat_is_the_claimants() {
        let (connection_limit, deadlines) = (ConnectionLimit::new(1), Deadlines::default());
        let only = connected(&connection_limit, &deadlines);
        let eviction_guard = connection_limit.eviction_guard().unwrap();
        drop(only);
        assert!(connection_limit.take(&deadlines).is_none());
        drop(eviction_guard.permit(&deadlines).await);
        drop(eviction_guard);
        assert!(connection_limit.take(&deadlines).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_is_asked_while_another_acceptor_holds_a_seat() {
        let (connection_limit, deadlines) = (ConnectionLimit::new(2), Deadlines::default());
        let _connection = connected(&connection_limit, &deadlines);
        let mut held = connection_limit.take(&deadlines).unwrap();
        assert!(connection_limit.eviction_guard().is_none());
        held.accepted();
        assert!(connection_limit.eviction_guard().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn who_becomes_idle_later_is_asked_then() {
        let (connection_limit, deadlines) = (ConnectionLimit::new(1), Deadlines::default());
        let only = connected(&connection_limit, &deadlines);
        let eviction_guard = connection_limit.eviction_guard().unwrap();
        let mut permit = Box::pin(eviction_guard.permit(&deadlines));
        assert!(tokio::time::timeout(Duration::from_secs(1), &mut permit).await.is_err());
        assert!(!is_evicting(&only).await);
        only.idle(clock::instant());
        assert!(tokio::time::timeout(Duration::from_secs(1), &mut permit).await.is_err());
        assert!(is_evicting(&only).await);
    }
}
