//! HTTP/2 connections to one origin, each shared by as many requests as its server allows.
//!
//! Depends on `h2` of this folder and on `clock`. Guarantees: no connection has more streams than its limit; whoever came
//! first is served first; connections are made for those who can't be served otherwise, and for nobody else: as long as it
//! is not known what the server speaks or how many streams it allows, one request connects and all others wait for it.
//! Whoever waits is served, connects himself, or is told why there is no connection; a connector that gives up hands over
//! to the next.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::oneshot, time::Instant};

use super::{
    Reuse, SendError,
    h2::{Http2Driver, Http2Handle},
};
use crate::{allocator::Wiped, clock, connect::Protocol};

/// The connections; clones share them.
#[derive(Clone)]
pub(super) struct Streams(Arc<Mutex<State>>);

struct State {
    /// How long an unused connection is kept.
    keep: Duration,
    /// What the server chose last.
    spoken: Option<Protocol>,
    /// Those that take requests, the oldest first. One that is not in here closes once its last stream has ended.
    members: Vec<Member>,
    waiting: VecDeque<Waiting>,
    /// Connections under way, until they have said how many streams they allow.
    opening: usize,
    /// How many streams a new connection will allow, going by the last one.
    room: Option<usize>,
    /// The number of the connection that comes next.
    next: u64,
}

struct Member {
    number: u64,
    link: Arc<Http2Handle>,
    in_flight: usize,
    limit: usize,
    opened: Instant,
    idle_since: Instant,
    retires: Instant,
}

/// What a request can do with.
#[derive(Clone, Copy)]
struct Requirement {
    /// Idle for no longer than this.
    idle_at_most: Duration,
    /// Not opened before.
    opened_after: Option<Instant>,
}

struct Waiting {
    demand: Requirement,
    permit: oneshot::Sender<StreamPermit>,
}

/// What a request may do now.
pub(super) enum StreamSlot {
    /// Send on this.
    Stream(Http2Stream),
    /// Connect; others wait for the outcome.
    Open(PendingConnection),
    /// Connect for itself: the server speaks HTTP/1.1.
    OpenHttp1,
    /// Wait until it is told.
    Wait(oneshot::Receiver<StreamPermit>),
}

/// What a waiting request is told.
pub(super) enum StreamPermit {
    /// Send on this.
    Stream(Http2Stream),
    /// Connect.
    Open(PendingConnection),
    /// Things are different now: claim again.
    Again,
    /// There is no connection.
    Failed(SendError),
}

/// To be told once no lock is held: what nobody hears any more gives its place back, which takes the lock.
type Notifications = Vec<(oneshot::Sender<StreamPermit>, StreamPermit)>;

impl Streams {
    pub(super) fn new(keep: Duration) -> Self {
        let (members, waiting) = (Vec::new(), VecDeque::new());
        Self(Arc::new(Mutex::new(State { keep, spoken: None, members, waiting, opening: 0, room: None, next: 0 })))
    }

    /// Looks for a stream. What room there is, nobody who waits can do with, so taking it passes over nobody.
    pub(super) fn claim(&self, reuse: Reuse) -> StreamSlot {
        let mut state = self.lock();
        let opened_after = if let Reuse::OpenedAfter(taken) = reuse { Some(taken) } else { None };
        let demand = Requirement { idle_at_most: reuse.idle_at_most(state.keep).unwrap_or(state.keep), opened_after };
        if let Some(stream) = state.take(self, demand) {
            return StreamSlot::Stream(stream);
        }
        if state.spoken == Some(Protocol::Http1) {
            return StreamSlot::OpenHttp1;
        }
        if state.waiting.len() < state.coming() {
            let (permit, told) = oneshot::channel();
            state.waiting.push_back(Waiting { demand, permit });
            return StreamSlot::Wait(told);
        }
        state.opening += 1;
        StreamSlot::Open(PendingConnection(Some(self.clone())))
    }

    /// Takes in a new connection; its first stream is for the request that made it. `opening`: others wait for it.
    pub(super) fn join(
        &self,
        link: Http2Handle,
        driver: Http2Driver,
        opening: Option<PendingConnection>,
        retires: Instant,
    ) -> Http2Stream {
        let link = Arc::new(link);
        let now = clock::instant();
        let mut state = self.lock();
        let number = state.next;
        state.next += 1;
        state.spoken = Some(Protocol::Http2);
        let own = Arc::clone(&link);
        // Until the server's settings come, one.
        state.members.push(Member { number, link: own, in_flight: 1, limit: 1, opened: now, idle_since: now, retires });
        drop(state);
        let membership = PoolEntry { streams: self.clone(), number, opening, limit: None };
        // It ends with its connection: when the last handle is dropped, when the peer hangs up or falls silent.
        tokio::spawn(Wiped::throughout(driver.run(membership, Arc::downgrade(&link))));
        Http2Stream { streams: self.clone(), number, link }
    }

    /// The server has chosen HTTP/1.1.
    pub(super) fn speaks_http1(&self) {
        self.change(None, |state| state.spoken = Some(Protocol::Http1));
    }

    /// Lets go of what was unused for too long or has grown old.
    pub(super) fn sweep(&self) {
        let now = clock::instant();
        let mut state = self.lock();
        let keep = state.keep;
        state.members.retain(|member| now < member.retires && member.idle_at_most(keep, now));
    }

    /// What was open so long ago takes no new request.
    pub(super) fn retire_older_than(&self, silence: Duration) {
        self.lock().members.retain(|member| member.opened.elapsed() < silence);
    }

    /// No connection takes a new request.
    pub(super) fn clear(&self) {
        self.lock().members.clear();
    }

    fn change(&self, failure: Option<SendError>, change: impl FnOnce(&mut State)) {
        let mut state = self.lock();
        change(&mut state);
        let tidings = state.settle(self, failure);
        drop(state);
        for (permit, what) in tidings {
            // Who no longer listens gives back what it was given.
            drop(permit.send(what));
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Counts and lists are consistent between any two statements that could panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// A stream on the newest connection that has room, so that the rest can grow old and be closed.
    fn take(&mut self, streams: &Streams, demand: Requirement) -> Option<Http2Stream> {
        let now = clock::instant();
        self.members.retain(|member| now < member.retires);
        let member = self.members.iter_mut().rev().find(|member| member.has_room() && member.meets(demand, now))?;
        member.in_flight += 1;
        member.link.set_idle(false);
        Some(Http2Stream { streams: streams.clone(), number: member.number, link: Arc::clone(&member.link) })
    }

    /// Gives those who wait what there is, in their order, and sees that connections come for the rest: the first of them
    /// makes one, or hears of the failure that it was waiting for.
    fn settle(&mut self, streams: &Streams, failure: Option<SendError>) -> Notifications {
        let mut tidings = Notifications::new();
        let mut at = 0;
        while at < self.waiting.len() && self.members.iter().any(Member::has_room) {
            let demand = self.waiting[at].demand;
            let permit =
                if self.waiting[at].permit.is_closed() { None } else { self.take(streams, demand).map(StreamPermit::Stream) };
            let done = permit.is_some() || self.waiting[at].permit.is_closed();
            if !done {
                at += 1;
            } else if let Some(waiting) = self.waiting.remove(at) {
                tidings.extend(permit.map(|permit| (waiting.permit, permit)));
            }
        }
        let http1 = self.spoken == Some(Protocol::Http1);
        while http1 || self.waiting.len() > self.coming() {
            let Some(waiting) = self.waiting.pop_front() else { break };
            if waiting.permit.is_closed() {
                continue;
            }
            let permit = match failure {
                _ if http1 => StreamPermit::Again,
                Some(failure) => StreamPermit::Failed(failure),
                None => {
                    self.opening += 1;
                    StreamPermit::Open(PendingConnection(Some(streams.clone())))
                }
            };
            tidings.push((waiting.permit, permit));
        }
        tidings
    }

    /// For how many that wait there will be room when the connections under way are there. Their makers use one each; what
    /// is unknown is taken to be enough.
    fn coming(&self) -> usize {
        self.opening.saturating_mul(self.room.map_or(usize::MAX, |room| room.saturating_sub(1)))
    }

    /// The members are sorted by number.
    fn member(&mut self, number: u64) -> Option<&mut Member> {
        let at = self.members.binary_search_by_key(&number, |member| member.number).ok()?;
        self.members.get_mut(at)
    }
}

impl Member {
    fn has_room(&self) -> bool {
        self.in_flight < self.limit
    }

    fn meets(&self, demand: Requirement, now: Instant) -> bool {
        self.idle_at_most(demand.idle_at_most, now) && demand.opened_after.is_none_or(|taken| self.opened > taken)
    }

    fn idle_at_most(&self, limit: Duration, now: Instant) -> bool {
        self.in_flight > 0 || now.duration_since(self.idle_since) <= limit
    }
}

/// The right to one stream on a connection; given back when dropped.
pub(super) struct Http2Stream {
    streams: Streams,
    number: u64,
    link: Arc<Http2Handle>,
}

impl Http2Stream {
    pub(super) fn link(&self) -> &Http2Handle {
        &self.link
    }
}

impl Drop for Http2Stream {
    fn drop(&mut self) {
        let now = clock::instant();
        self.streams.change(None, |state| {
            if let Some(member) = state.member(self.number) {
                member.in_flight -= 1;
                member.link.set_idle(member.in_flight == 0);
                member.idle_since = now;
            }
        });
    }
}

/// A connection on its way, for which others may wait. Dropped, somebody else takes over.
pub(super) struct PendingConnection(Option<Streams>);

impl PendingConnection {
    /// All who wait for it hear why there is none.
    pub(super) fn failed(mut self, error: SendError) {
        self.end(Some(error), |_| ());
    }

    /// It is there, and allows so many streams.
    fn arrived(mut self, number: u64, limit: usize) {
        self.end(None, |state| state.allow(number, limit));
    }

    fn end(&mut self, failure: Option<SendError>, change: impl FnOnce(&mut State)) {
        let Some(streams) = self.0.take() else { return };
        streams.change(failure, |state| {
            state.opening -= 1;
            change(state);
        });
    }
}

impl State {
    fn allow(&mut self, number: u64, limit: usize) {
        self.room = Some(limit);
        if let Some(member) = self.member(number) {
            member.limit = limit;
        }
    }
}

impl Drop for PendingConnection {
    fn drop(&mut self) {
        self.end(None, |_| ());
    }
}

/// A connection's own place among the rest.
pub(super) struct PoolEntry {
    streams: Streams,
    number: u64,
    opening: Option<PendingConnection>,
    /// As it was told last.
    limit: Option<usize>,
}

impl PoolEntry {
    /// The server allows so many streams from now on.
    pub(super) fn allows(&mut self, limit: usize) {
        if self.limit.replace(limit) == Some(limit) {
            return;
        }
        match self.opening.take() {
            Some(opening) => opening.arrived(self.number, limit),
            None => self.streams.change(None, |state| state.allow(self.number, limit)),
        }
    }

    /// It takes no new stream.
    pub(super) fn leaves(&self) {
        let mut state = self.streams.lock();
        state.members.retain(|member| member.number != self.number);
    }

    /// It is gone. Whoever still waits to hear of its limit won't.
    pub(super) fn ends(mut self, error: SendError) {
        self.leaves();
        if let Some(opening) = self.opening.take() {
            opening.failed(error);
        }
    }
}

#[cfg(test)]
mod tests;
