//! Limits connections per listen address, across workers. When the limit is reached, or descriptors run out, it closes the
//! connection that needs its place least.
//!
//! Guarantees: there are never more permits than the limit; few connections of an address at a time are asked to close ([`AHEAD`]),
//! and each decides itself whether it still is as it was seen. The lock is taken when a connection is accepted or closed, and
//! when the limit is reached; never for a request.

use std::{
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::Notify,
    time::{Instant, timeout},
};

use super::{
    client_errors::{ClientError, ClientErrors},
    first_grace::{FIRST_GRACE, FIRST_GRACE_OF_PROBES, FirstGrace},
    hold::{Evictable, Hold},
    own_answers::{LONGEST, LONGEST_OF_PROBES, OwnAnswers},
};
use crate::{
    clock,
    deadline::{Deadline, Deadlines},
};

/// How many connections of an address may go on for a moment without a permit, to end as their protocol provides.
const ENDING: usize = 8;

/// Clients that wait at a shorter distance come one after the other, in nanoseconds.
const CROWDED: u64 = 5_000_000;
/// How many connections may be asked to close at once when clients come one after the other.
const AHEAD: usize = 8;

/// What the connections and the acceptors of one address share, beside the list of connections.
struct Evictions {
    /// How many acceptors wait for a permit for the client that they have accepted: free ones are for them.
    waiting: AtomicUsize,
    /// Notified when a permit is free, or when another connection could be evicted.
    changed: Notify,
    own_answers: OwnAnswers,
    first_grace: FirstGrace,
    /// When a client waited for a permit last; nanoseconds.
    waited_at: AtomicU64,
    epoch: Instant,
}

impl Evictions {
    /// `first_grace`: how long clients may be silent at first. `longest`: the longest wait for an answer of our own.
    fn new(first_grace: u64, longest: Duration) -> Self {
        Self {
            waiting: AtomicUsize::new(0),
            changed: Notify::new(),
            own_answers: OwnAnswers::new(longest),
            first_grace: FirstGrace::new(first_grace),
            waited_at: AtomicU64::new(0),
            epoch: clock::instant(),
        }
    }

    fn nanoseconds(&self, instant: Instant) -> u64 {
        u64::try_from(instant.saturating_duration_since(self.epoch).as_nanos()).unwrap_or(Hold::TIME).min(Hold::TIME)
    }

    /// Whether a client waits for a permit.
    fn client_waits(&self) -> bool {
        self.waiting.load(Ordering::SeqCst) > 0
    }

    /// Wakes the acceptors that wait: they may find a permit, or a connection to evict.
    fn notify_waiting(&self) {
        if self.client_waits() {
            self.changed.notify_waiters();
        }
    }
}

/// One connection, as acceptors on all workers see it.
pub(super) struct Slot {
    /// The one deadline of the connection. An acceptor wakes the connection's task through it.
    pub(super) deadline: Deadline,
    /// A packed [`Hold`].
    hold: AtomicU64,
    /// The packed [`Hold`] for which an acceptor has asked the connection to close; [`Self::NOT_ASKED`] otherwise.
    asked: AtomicU64,
    /// The client is on this machine.
    is_local: bool,
    evictions: Arc<Evictions>,
}

impl Slot {
    /// [`Hold::Busy`], for which no connection is asked to close.
    const NOT_ASKED: u64 = 0;

    fn new(deadlines: &Deadlines, is_local: bool, evictions: Arc<Evictions>) -> Arc<Self> {
        Arc::new(Self {
            deadline: deadlines.deadline(),
            hold: AtomicU64::new(Hold::Busy.pack()),
            asked: AtomicU64::new(Self::NOT_ASKED),
            is_local,
            evictions,
        })
    }

    /// A slot of no address, for a connection that takes no place.
    pub(super) fn unlisted(deadlines: &Deadlines) -> Arc<Self> {
        Self::new(deadlines, true, Arc::new(Evictions::new(FIRST_GRACE, LONGEST)))
    }

    pub(super) fn hold(&self) -> Hold {
        Hold::unpack(self.hold.load(Ordering::SeqCst))
    }

    /// The time of a [`Hold`].
    pub(super) fn instant(&self, nanoseconds: u64) -> Instant {
        self.evictions.epoch + Duration::from_nanos(nanoseconds)
    }

    /// Books an answer of our own of so many bytes, as [`OwnAnswers::book`] does.
    pub(super) fn book_own_answer(&self, bytes: u64) -> u64 {
        self.evictions.own_answers.book(self.evictions.nanoseconds(clock::instant()), bytes)
    }

    /// Publishes what the connection holds, from `now` on if it is something else than before.
    pub(super) fn publish(&self, hold: fn(u64) -> Hold, now: impl FnOnce() -> Instant) {
        if std::mem::discriminant(&hold(0)) == std::mem::discriminant(&self.hold()) {
            return;
        }
        let since = if hold(0) == Hold::Busy { 0 } else { self.evictions.nanoseconds(now()) };
        self.hold.store(hold(since).pack(), Ordering::SeqCst);
        self.evictions.notify_waiting();
    }

    /// Whether another client waits for a place at the address.
    pub(super) fn is_wanted(&self) -> bool {
        self.evictions.client_waits()
    }

    /// Whether the connection was asked to close and has not decided yet.
    pub(super) fn is_asked(&self) -> bool {
        self.asked.load(Ordering::SeqCst) != Self::NOT_ASKED
    }

    /// Asks the connection to close if it still is as the acceptor has `seen` it, and wakes its task, on any worker.
    fn evict(&self, seen: Hold) {
        self.asked.store(seen.pack(), Ordering::SeqCst);
        self.deadline.wake();
    }

    /// Evicts the connection as an acceptor does that has just seen it.
    #[cfg(test)]
    pub(super) fn evict_now(&self) {
        self.evict(self.hold());
    }

    /// Decides, if the connection was asked to close, whether it does.
    pub(super) fn decide(&self) -> bool {
        if !self.is_asked() {
            return false;
        }
        let asked = self.asked.swap(Self::NOT_ASKED, Ordering::SeqCst);
        let agrees = asked == self.hold.load(Ordering::SeqCst);
        if !agrees {
            self.evictions.notify_waiting();
        }
        agrees
    }
}

/// All connection limits of the process, whose connections share its descriptors. Clones share the list.
#[derive(Clone, Default)]
pub struct SharedDescriptors(Arc<AllLimits>);

#[derive(Default)]
struct AllLimits {
    limits: Mutex<Vec<Weak<LimitState>>>,
    /// Notified when a connection has closed.
    closed: Notify,
}

impl SharedDescriptors {
    /// Makes a limit of `limit` connections at a time at one address.
    #[must_use]
    pub fn limit(&self, limit: usize) -> ConnectionLimit {
        self.limit_with(limit, Evictions::new(FIRST_GRACE, LONGEST))
    }

    /// Makes a limit for an address whose clients send as soon as they have connected, and must wait neither for silent ones nor
    /// for those that ask often.
    #[must_use]
    pub fn limit_of_probes(&self, limit: usize) -> ConnectionLimit {
        self.limit_with(limit, Evictions::new(FIRST_GRACE_OF_PROBES, LONGEST_OF_PROBES))
    }

    fn limit_with(&self, limit: usize, evictions: Evictions) -> ConnectionLimit {
        let registry = Registry { limit, connected: 0, slots: Vec::new(), free: Vec::new() };
        let state = Arc::new(LimitState {
            registry: Mutex::new(registry),
            ending: AtomicUsize::new(0),
            evictions: Arc::new(evictions),
            descriptors: self.clone(),
            client_errors: ClientErrors::default(),
        });
        let mut limits = self.lock();
        limits.retain(|known| known.strong_count() > 0);
        limits.push(Arc::downgrade(&state));
        drop(limits);
        ConnectionLimit(state)
    }

    /// Evicts one connection of any address, since descriptors have run out, and waits until a connection has closed, for
    /// `limit` at most.
    pub(super) async fn free_descriptor(&self, limit: Duration) {
        let mut closed = pin!(self.0.closed.notified());
        closed.as_mut().enable();
        let limits: Vec<Arc<LimitState>> = self.lock().iter().filter_map(Weak::upgrade).collect();
        let first = limits.iter().filter_map(|limit| Some((limit.first_to_go()?, limit))).min_by_key(|(rank, _)| *rank);
        if let Some((_, limit)) = first {
            limit.evict_first();
        }
        drop(timeout(limit, closed).await);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Weak<LimitState>>> {
        // Nothing can panic while it is held.
        self.0.limits.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The connection limit of one listen address. Clones share it.
#[derive(Clone)]
pub struct ConnectionLimit(Arc<LimitState>);

struct LimitState {
    registry: Mutex<Registry>,
    /// Connections that have given their permit back and have not ended yet.
    ending: AtomicUsize,
    evictions: Arc<Evictions>,
    descriptors: SharedDescriptors,
    client_errors: ClientErrors,
}

/// The connections of one listen address.
struct Registry {
    limit: usize,
    connected: usize,
    slots: Vec<Option<Arc<Slot>>>,
    free: Vec<usize>,
}

impl ConnectionLimit {
    /// Changes the limit. Connections over a lower limit stay; further clients wait.
    pub fn set_limit(&self, limit: usize) {
        self.0.lock().limit = limit;
        self.0.evictions.changed.notify_waiters();
    }

    /// The number of connections, and the limit.
    #[must_use]
    pub fn connected_and_limit(&self) -> (usize, usize) {
        let registry = self.0.lock();
        (registry.connected, registry.limit)
    }

    /// Counts what clients send that is not HTTP for the API of this name, from now on; empty for none.
    pub fn count_client_errors_for(&self, api: &str) {
        self.0.client_errors.count_for(api);
    }

    /// How often clients sent what is not HTTP: for each API that it was counted for, each reason, and how often.
    #[must_use]
    pub fn client_errors(&self) -> Vec<(Arc<str>, &'static str, u64)> {
        self.0.client_errors.counts()
    }

    /// Gives the address the name that the log says.
    pub(super) fn name(&self, listener: &str) {
        self.0.client_errors.name(listener);
    }

    /// What the limit shares with all others of the process.
    pub(super) fn descriptors(&self) -> &SharedDescriptors {
        &self.0.descriptors
    }

    /// Takes a permit if one is free and no other client waits for one. Its deadline is one of `deadlines`, which belong to the
    /// connection's worker. `is_local`: the client is on this machine.
    pub(super) fn take(&self, deadlines: &Deadlines, is_local: bool) -> Option<ConnectionPermit> {
        if self.0.evictions.client_waits() { None } else { self.take_first(deadlines, is_local) }
    }

    /// Waits for a permit, as [`take`](Self::take) gives it, and evicts the connection that needs its place least. Cancelled, it
    /// takes no permit.
    pub(super) async fn permit(&self, deadlines: &Deadlines, is_local: bool) -> ConnectionPermit {
        if let Some(permit) = self.take(deadlines, is_local) {
            return permit;
        }
        let _waiting = Waiting::begin(self);
        loop {
            let mut changed = pin!(self.0.evictions.changed.notified());
            changed.as_mut().enable();
            if let Some(permit) = self.take_first(deadlines, is_local) {
                return permit;
            }
            match self.0.evict_first() {
                // It makes no difference which of the two happened: the loop looks again.
                Some(moment) => drop(timeout(moment, changed).await),
                None => changed.await,
            }
        }
    }

    /// Takes a permit if one is free, whoever else waits for it.
    fn take_first(&self, deadlines: &Deadlines, is_local: bool) -> Option<ConnectionPermit> {
        let mut registry = self.0.lock();
        if registry.connected >= registry.limit {
            return None;
        }
        registry.connected += 1;
        let slot = Slot::new(deadlines, is_local, Arc::clone(&self.0.evictions));
        let key = registry.free.pop().unwrap_or_else(|| {
            registry.slots.push(None);
            registry.slots.len() - 1
        });
        registry.slots[key] = Some(Arc::clone(&slot));
        Some(ConnectionPermit { slot, key, is_given_back: AtomicBool::new(false), connection_limit: self.clone() })
    }
}

impl LimitState {
    fn lock(&self) -> MutexGuard<'_, Registry> {
        // Counts and slots change together, and nothing in between can panic.
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> u64 {
        self.evictions.nanoseconds(clock::instant())
    }

    /// The rank of the connection that would be evicted now, and since when it has it.
    fn first_to_go(&self) -> Option<(bool, u8, Instant)> {
        let now = self.now();
        let (is_local, evictable) = self.lock().first_to_go(now, self.evictions.first_grace.at(now))?.0;
        let Evictable::Now(rank, since) = evictable else { return None };
        Some((is_local, rank, self.evictions.epoch + Duration::from_nanos(since)))
    }

    /// Evicts the connection that needs its place least, unless another one is still deciding. Where one client after the other
    /// waits, some more are evicted ahead of those to come. When none may be evicted yet but one will be, returns after how long.
    fn evict_first(&self) -> Option<Duration> {
        let now = self.now();
        let before = self.evictions.waited_at.load(Ordering::Relaxed);
        let at_once = if before > 0 && now.saturating_sub(before) < CROWDED { AHEAD } else { 1 };
        let registry = self.lock();
        let deciding = registry.slots.iter().flatten().filter(|slot| slot.is_asked()).count();
        for others in deciding..at_once {
            match registry.first_to_go(now, self.evictions.first_grace.at(now))? {
                // A head that has just begun is closed for a client that waits, and not for those to come.
                ((_, Evictable::Now(rank, _)), ..) if others > 0 && rank >= Hold::LAST_RESORT => return None,
                ((_, Evictable::Now(..)), seen, slot) => {
                    if let Hold::Silent(since) = seen {
                        self.evictions.first_grace.closed_one(now, now - since);
                    }
                    slot.evict(seen);
                }
                ((_, Evictable::In(nanoseconds)), ..) => return Some(Duration::from_nanos(nanoseconds)),
                ((_, Evictable::Never), ..) => return None,
            }
        }
        None
    }
}

impl Registry {
    /// The connection that is evicted first. Of those that may go now, clients on this machine come last, so that a flood from
    /// elsewhere can't keep a probe out.
    fn first_to_go(&self, now: u64, first_grace: u64) -> Option<((bool, Evictable), Hold, &Arc<Slot>)> {
        let ranked = |slot| {
            let slot: &Arc<Slot> = slot;
            let hold = slot.hold();
            ((slot.is_local, hold.evictable(now, first_grace)), hold, slot)
        };
        // Only time makes evictable what is not so now, and it wakes no acceptor: the soonest counts, wherever its client is.
        let order = |(is_local, evictable): (bool, Evictable)| match evictable {
            Evictable::Now(..) => (0, is_local, evictable),
            Evictable::In(_) | Evictable::Never => (1, false, evictable),
        };
        self.slots.iter().flatten().filter(|slot| !slot.is_asked()).map(ranked).min_by_key(|(rank, ..)| order(*rank))
    }
}

/// A client that waits for a permit, until it is dropped.
struct Waiting<'a>(&'a ConnectionLimit);

impl<'a> Waiting<'a> {
    fn begin(limit: &'a ConnectionLimit) -> Self {
        limit.0.evictions.waiting.fetch_add(1, Ordering::SeqCst);
        Self(limit)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let (limit, now) = (&self.0.0, self.0.0.now());
        limit.evictions.waited_at.store(now, Ordering::Relaxed);
        limit.evictions.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}

/// The permit of one connection; given back on drop.
pub(super) struct ConnectionPermit {
    slot: Arc<Slot>,
    key: usize,
    is_given_back: AtomicBool,
    connection_limit: ConnectionLimit,
}

impl ConnectionPermit {
    /// Counts what its client has sent in place of HTTP.
    pub(super) fn record(&self, error: ClientError) {
        self.connection_limit.0.client_errors.record(error);
    }

    /// The connection, as acceptors see it.
    pub(super) fn slot(&self) -> &Arc<Slot> {
        &self.slot
    }
}

impl ConnectionPermit {
    /// Gives the permit back before the connection has ended, for a client that waits. `false`: too many connections of the
    /// address are ending already.
    pub(super) fn give_back_early(&self) -> bool {
        let ending = &self.connection_limit.0.ending;
        let others = ending.fetch_add(1, Ordering::SeqCst);
        if others >= ENDING || self.is_given_back.swap(true, Ordering::SeqCst) {
            ending.fetch_sub(1, Ordering::SeqCst);
            return false;
        }
        self.give_back();
        true
    }

    fn give_back(&self) {
        let mut registry = self.connection_limit.0.lock();
        registry.connected -= 1;
        registry.slots[self.key] = None;
        registry.free.push(self.key);
        drop(registry);
        self.connection_limit.0.evictions.changed.notify_waiters();
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        if *self.is_given_back.get_mut() {
            self.connection_limit.0.ending.fetch_sub(1, Ordering::SeqCst);
        } else {
            self.give_back();
        }
        self.connection_limit.0.descriptors.0.closed.notify_waiters();
    }
}

#[cfg(test)]
mod tests;
