//! The HTTP/2 connections to one origin, and who gets a stream on them, who connects and who waits.
//!
//! Guarantees: no connection has more streams than its limit. Waiting requests are served in the order in which they came, apart
//! from one that needs a newer connection. A connection is made ahead of need, or for a request that can't be served otherwise:
//! as long as it is unknown which protocol the server speaks or how many streams it allows, one request connects and all others
//! wait for it. Each waiting request gets a stream, is told to connect, or learns why there is no connection; when a connecting
//! request gives up, the next one connects.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use tokio::{
    sync::oneshot,
    time::{Instant, timeout},
};

use super::{
    super::{
        error::{Cause, SendError},
        keep_alive::KeepAlive,
        options::{Reuse, SLOW},
    },
    connection::{Announced, Http2Driver, Http2Handle},
};
use crate::{allocator::Wiped, clock, connect::Protocol};

/// For how long HTTP/2 is not offered to a server that has asked for HTTP/1.1.
const HTTP1_REQUIRED_FOR: Duration = Duration::from_secs(10 * 60);

/// The connections. Clones share them.
#[derive(Clone)]
pub(in crate::upstream) struct Http2Pool(Arc<Mutex<PoolState>>);

struct PoolState {
    /// For how long an unused connection is kept.
    keep: Duration,
    /// How long the upstream keeps it.
    keep_alive: KeepAlive,
    /// The protocol that the server chose last.
    spoken: Option<Protocol>,
    /// Until then HTTP/2 is not offered, since the server has asked for HTTP/1.1.
    http1_until: Option<Instant>,
    /// Connections that take requests, the oldest first. A connection that is not in here closes once its last stream has
    /// ended.
    connections: Vec<PooledConnection>,
    waiting: VecDeque<WaitingRequest>,
    /// Connections that are being made, until the server has said how many streams it allows.
    connecting: usize,
    /// How many streams a new connection is expected to allow: as many as the last one.
    expected_limit: Option<usize>,
    /// The number of the connection that comes next.
    next: u64,
    /// No connection without a stream is kept any more.
    retired: bool,
}

struct PooledConnection {
    number: u64,
    handle: Arc<Http2Handle>,
    in_flight: usize,
    limit: usize,
    opened: Instant,
    idle_since: Instant,
    retires: Instant,
}

struct WaitingRequest {
    /// It may use only connections that were opened after this.
    opened_after: Option<Instant>,
    /// It connects itself, which takes long: it is never told to.
    connects: bool,
    wakeup: oneshot::Sender<Wakeup>,
}

/// What a request that needs a stream may do now.
pub(in crate::upstream) enum Checkout {
    /// Send on this stream.
    Stream(StreamPermit),
    /// Connect; others wait for the outcome.
    Connect(PendingConnection),
    /// Connect for itself alone: the server spoke HTTP/1.1 last.
    ConnectAlone,
    /// The same, and offer nothing but HTTP/1.1: the server has asked for it.
    ConnectHttp1,
    /// Wait.
    Wait(oneshot::Receiver<Wakeup>),
}

/// What wakes a waiting request.
pub(in crate::upstream) enum Wakeup {
    /// It may send on this stream.
    Stream(StreamPermit),
    /// It is its turn to connect.
    Connect(PendingConnection),
    /// The server speaks another protocol now: check out again.
    TryAgain,
    /// There is no connection.
    Failed(SendError),
}

/// Sent once the lock is released: if its receiver is gone, a permit gives its stream back, which takes the lock.
type Wakeups = Vec<(oneshot::Sender<Wakeup>, Wakeup)>;

impl Http2Pool {
    /// `keep`: for how long an unused connection is kept. `keep_alive`: how long the upstream keeps it.
    pub(in crate::upstream) fn new(keep: Duration, keep_alive: KeepAlive) -> Self {
        let state = PoolState {
            keep,
            keep_alive,
            spoken: None,
            http1_until: None,
            connections: Vec::new(),
            waiting: VecDeque::new(),
            connecting: 0,
            expected_limit: None,
            next: 0,
            retired: false,
        };
        Self(Arc::new(Mutex::new(state)))
    }

    /// Looks for a stream. A free stream goes to the newcomer: it does not meet the requirement of any waiting request.
    pub(in crate::upstream) fn checkout(&self, reuse: Reuse) -> Checkout {
        let mut state = self.lock();
        if state.must_speak_http1() {
            return Checkout::ConnectHttp1;
        }
        let opened_after = opened_after(reuse);
        if let Some(permit) = state.take(self, opened_after) {
            return Checkout::Stream(permit);
        }
        if state.spoken == Some(Protocol::Http1) {
            return Checkout::ConnectAlone;
        }
        if state.waiting_for_others() < state.expected_streams() {
            return Checkout::Wait(state.wait(opened_after, false));
        }
        state.connecting += 1;
        Checkout::Connect(PendingConnection(Some(self.clone())))
    }

    /// Waits for a stream, unless one is free now, for a request that connects itself and is never told to.
    pub(in crate::upstream) fn wait_beside(&self, reuse: Reuse) -> oneshot::Receiver<Wakeup> {
        let (mut state, opened_after) = (self.lock(), opened_after(reuse));
        let Some(permit) = state.take(self, opened_after) else { return state.wait(opened_after, true) };
        let (wakeup, woken) = oneshot::channel();
        // The receiver is here, so it can't be gone.
        drop(wakeup.send(Wakeup::Stream(permit)));
        woken
    }

    /// The right to open a connection ahead of need, unless one is being opened, or is there and not retired within `lead`.
    pub(in crate::upstream) fn open_ahead(&self, lead: Duration) -> Option<PendingConnection> {
        if self.is_ready(lead) {
            return None;
        }
        self.lock().connecting += 1;
        Some(PendingConnection(Some(self.clone())))
    }

    /// Whether a connection is there, or being opened, that is not retired within `lead`.
    pub(in crate::upstream) fn is_ready(&self, lead: Duration) -> bool {
        let (state, soon) = (self.lock(), clock::instant() + lead);
        state.retired || state.connecting > 0 || state.connections.iter().any(|connection| soon < connection.retires)
    }

    /// Whether HTTP/2 is offered.
    pub(in crate::upstream) fn may_speak_http2(&self) -> bool {
        !self.lock().must_speak_http1()
    }

    /// Whether the server chose HTTP/1.1 last, or has asked for it.
    pub(in crate::upstream) fn is_http1(&self) -> bool {
        let state = self.lock();
        state.spoken == Some(Protocol::Http1) || state.must_speak_http1()
    }

    /// Adds a new connection; its first stream is for the request that made it. `pending`: other requests wait for it.
    pub(in crate::upstream) fn insert(
        &self,
        handle: Http2Handle,
        driver: Http2Driver,
        pending: Option<PendingConnection>,
        retires: Instant,
    ) -> StreamPermit {
        let handle = Arc::new(handle);
        let now = clock::instant();
        let mut state = self.lock();
        let number = state.next;
        state.next += 1;
        state.spoken = Some(Protocol::Http2);
        let own = Arc::clone(&handle);
        // Until the server's settings come, one stream.
        let (in_flight, limit) = (1, 1);
        state.connections.push(PooledConnection { number, handle: own, in_flight, limit, opened: now, idle_since: now, retires });
        drop(state);
        let entry = PoolEntry { pool: self.clone(), number, pending, limit: None };
        // The task ends with its connection: when the last handle is dropped, when the server closes or falls silent.
        tokio::spawn(Wiped::throughout(drive(driver, entry, Arc::downgrade(&handle))));
        StreamPermit { pool: self.clone(), number, handle }
    }

    /// The server has chosen HTTP/1.1.
    pub(in crate::upstream) fn speaks_http1(&self) {
        self.change(None, |state| state.spoken = Some(Protocol::Http1));
    }

    /// The server has asked for HTTP/1.1: no connection takes a new request, and no new one speaks HTTP/2 for some time.
    fn requires_http1(&self) {
        self.change(None, |state| {
            state.spoken = Some(Protocol::Http1);
            state.http1_until = Some(clock::instant() + HTTP1_REQUIRED_FOR);
            state.connections.clear();
        });
    }

    /// Removes connections that were unused for too long or have grown old.
    pub(in crate::upstream) fn sweep(&self) {
        let now = clock::instant();
        let mut state = self.lock();
        let keep = state.keep;
        if let Some(longest) = state.connections.iter().filter_map(|connection| connection.idle_for(now)).max() {
            state.keep_alive.survived(longest);
        }
        state.connections.retain(|connection| now < connection.retires && connection.is_idle_at_most(keep, now));
    }

    /// Connections that were opened `silence` ago or earlier take no new request.
    pub(in crate::upstream) fn retire_older_than(&self, silence: Duration) {
        self.lock().connections.retain(|connection| connection.opened.elapsed() < silence);
    }

    /// No connection takes a new request.
    pub(in crate::upstream) fn clear(&self) {
        self.lock().connections.clear();
    }

    /// Closes each connection once it has no stream, also those that are opened later.
    pub(in crate::upstream) fn retire(&self) {
        self.change(None, |state| state.retired = true);
    }

    fn change(&self, failure: Option<SendError>, change: impl FnOnce(&mut PoolState)) {
        let mut state = self.lock();
        change(&mut state);
        let wakeups = state.settle(self, failure);
        if state.retired {
            state.connections.retain(|connection| connection.in_flight > 0);
        }
        drop(state);
        for (sender, wakeup) in wakeups {
            // A request that was given up gives back what it is sent.
            drop(sender.send(wakeup));
        }
    }

    fn lock(&self) -> MutexGuard<'_, PoolState> {
        // Counts and lists are consistent between any two statements that could panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Drives a connection until it ends, and keeps its entry in the pool up to date.
async fn drive(mut driver: Http2Driver, mut entry: PoolEntry, handle: Weak<Http2Handle>) {
    let first = timeout(SLOW, driver.next_announcement(&handle)).await;
    let mut announced = if let Ok(announced) = first {
        announced
    } else {
        // A server that says nothing must not keep all that wait: the next one of them connects, too.
        entry.pending = None;
        driver.next_announcement(&handle).await
    };
    while let Some(settings) = announced {
        entry.update(settings);
        announced = driver.next_announcement(&handle).await;
    }
    // Leave the pool before the driver is dropped: requests that fail then must not pick this connection again.
    entry.remove(SendError::unsent(Cause::Closed));
}

/// When a connection that such a request may use must have been opened, at least.
fn opened_after(reuse: Reuse) -> Option<Instant> {
    match reuse {
        // Any live one is safe: GOAWAY tells which requests the server has not processed, and pings find a dead connection.
        Reuse::Any | Reuse::Safe => None,
        Reuse::OpenedAfter(taken) => Some(taken),
    }
}

impl PoolState {
    fn wait(&mut self, opened_after: Option<Instant>, connects: bool) -> oneshot::Receiver<Wakeup> {
        let (wakeup, woken) = oneshot::channel();
        self.waiting.push_back(WaitingRequest { opened_after, connects, wakeup });
        woken
    }

    /// How many requests wait for a connection that another one opens.
    fn waiting_for_others(&self) -> usize {
        self.waiting.iter().filter(|waiting| !waiting.connects).count()
    }

    /// Whether the server has asked for HTTP/1.1 of late.
    fn must_speak_http1(&self) -> bool {
        self.http1_until.is_some_and(|until| clock::instant() < until)
    }

    /// A stream on the newest connection that has one, so that the rest can grow old and be closed.
    fn take(&mut self, pool: &Http2Pool, opened_after: Option<Instant>) -> Option<StreamPermit> {
        let (now, keep) = (clock::instant(), self.keep);
        self.connections.retain(|connection| now < connection.retires);
        let is_new_enough = |opened: Instant| opened_after.is_none_or(|taken| opened > taken);
        let usable = |connection: &&mut PooledConnection| {
            connection.has_room() && connection.is_idle_at_most(keep, now) && is_new_enough(connection.opened)
        };
        let connection = self.connections.iter_mut().rev().find(usable)?;
        connection.in_flight += 1;
        connection.handle.set_idle(false);
        Some(StreamPermit { pool: pool.clone(), number: connection.number, handle: Arc::clone(&connection.handle) })
    }

    /// Gives free streams to waiting requests in their order. If too few connections are being made for the rest, the first
    /// of them are told to connect; after a `failure` they are told of it instead.
    fn settle(&mut self, pool: &Http2Pool, failure: Option<SendError>) -> Wakeups {
        let mut wakeups = Wakeups::new();
        let mut at = 0;
        while at < self.waiting.len() && self.connections.iter().any(PooledConnection::has_room) {
            let waiting = &self.waiting[at];
            let (opened_after, gave_up) = (waiting.opened_after, waiting.wakeup.is_closed());
            let permit = if gave_up { None } else { self.take(pool, opened_after).map(Wakeup::Stream) };
            if permit.is_none() && !gave_up {
                at += 1;
            } else if let Some(waiting) = self.waiting.remove(at) {
                wakeups.extend(permit.map(|permit| (waiting.wakeup, permit)));
            }
        }
        let http1 = self.spoken == Some(Protocol::Http1);
        while http1 || self.waiting_for_others() > self.expected_streams() {
            let first = self.waiting.iter().position(|waiting| http1 || !waiting.connects);
            let Some(waiting) = first.and_then(|at| self.waiting.remove(at)) else { break };
            if waiting.wakeup.is_closed() {
                continue;
            }
            let wakeup = match failure {
                _ if http1 => Wakeup::TryAgain,
                Some(failure) => Wakeup::Failed(failure),
                None => {
                    self.connecting += 1;
                    Wakeup::Connect(PendingConnection(Some(pool.clone())))
                }
            };
            wakeups.push((waiting.wakeup, wakeup));
        }
        wakeups
    }

    /// How many waiting requests the connections that are being made will serve. The request that connects uses one stream
    /// itself; while the limit is unknown, it is expected to be enough.
    fn expected_streams(&self) -> usize {
        self.connecting.saturating_mul(self.expected_limit.map_or(usize::MAX, |limit| limit.saturating_sub(1)))
    }

    /// The connections are sorted by number.
    fn connection(&mut self, number: u64) -> Option<&mut PooledConnection> {
        let at = self.connections.binary_search_by_key(&number, |connection| connection.number).ok()?;
        self.connections.get_mut(at)
    }

    fn set_limit(&mut self, number: u64, limit: usize) {
        self.expected_limit = Some(limit);
        if let Some(connection) = self.connection(number) {
            connection.limit = limit;
        }
    }
}

impl PooledConnection {
    fn has_room(&self) -> bool {
        self.in_flight < self.limit
    }

    fn is_idle_at_most(&self, limit: Duration, now: Instant) -> bool {
        self.idle_for(now).is_none_or(|time| time <= limit)
    }

    /// For how long it has had no stream; `None` while it has one.
    fn idle_for(&self, now: Instant) -> Option<Duration> {
        (self.in_flight == 0).then(|| now.duration_since(self.idle_since))
    }
}

/// The right to one stream on a connection. Dropping it gives the stream back.
pub(in crate::upstream) struct StreamPermit {
    pool: Http2Pool,
    number: u64,
    handle: Arc<Http2Handle>,
}

impl StreamPermit {
    pub(super) fn handle(&self) -> &Http2Handle {
        &self.handle
    }

    /// The exchange on this stream has failed so.
    pub(super) fn note(&self, error: SendError) {
        if error.cause == Cause::Http1Required {
            self.pool.requires_http1();
        }
    }
}

impl Drop for StreamPermit {
    fn drop(&mut self) {
        let now = clock::instant();
        self.pool.change(None, |state| {
            if let Some(connection) = state.connection(self.number) {
                connection.in_flight -= 1;
                connection.handle.set_idle(connection.in_flight == 0);
                connection.idle_since = now;
            }
        });
    }
}

/// A connection that is being made, for which others may wait. When it is dropped, the next waiting request connects.
pub(in crate::upstream) struct PendingConnection(Option<Http2Pool>);

impl PendingConnection {
    /// Tells all requests that wait for it why there is no connection.
    pub(in crate::upstream) fn failed(mut self, error: SendError) {
        self.end(Some(error), |_| ());
    }

    /// The connection is there, and allows `limit` streams.
    fn opened(mut self, number: u64, limit: usize) {
        self.end(None, |state| state.set_limit(number, limit));
    }

    fn end(&mut self, failure: Option<SendError>, change: impl FnOnce(&mut PoolState)) {
        let Some(pool) = self.0.take() else { return };
        pool.change(failure, |state| {
            state.connecting -= 1;
            change(state);
        });
    }
}

impl Drop for PendingConnection {
    fn drop(&mut self) {
        self.end(None, |_| ());
    }
}

/// A connection's entry in the pool, which its driver's task keeps.
struct PoolEntry {
    pool: Http2Pool,
    number: u64,
    pending: Option<PendingConnection>,
    /// The limit that the server announced last.
    limit: Option<usize>,
}

impl PoolEntry {
    fn update(&mut self, announced: Announced) {
        let limit = announced.stream_limit;
        if self.limit.replace(limit) != Some(limit) {
            match self.pending.take() {
                Some(pending) => pending.opened(self.number, limit),
                None => self.pool.change(None, |state| state.set_limit(self.number, limit)),
            }
        }
        if announced.going_away {
            self.take_no_more();
        }
    }

    /// The upstream ends the connection.
    fn take_no_more(&self) {
        let mut state = self.pool.lock();
        let idle = state.connection(self.number).and_then(|connection| connection.idle_for(clock::instant()));
        if let Some(time) = idle {
            state.keep_alive.closed_after(time);
        }
        state.connections.retain(|connection| connection.number != self.number);
    }

    /// The connection has ended. Requests that wait to learn its limit are told.
    fn remove(mut self, error: SendError) {
        self.take_no_more();
        if let Some(pending) = self.pending.take() {
            pending.failed(error);
        }
    }
}

#[cfg(test)]
mod tests;
