//! Tracks request bodies that are not read to their end, and how much may be read meanwhile.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::Waker,
};

use super::{super::paced::RequestProgress, ConnectionPhase, ConnectionState};
use crate::{clock, overhead::Overhead};

/// The bodies of a connection's requests.
#[derive(Default)]
pub(super) struct Bodies {
    /// How many were not read to their end.
    given_up: AtomicUsize,
    /// Those that are on their way, and whom to wake when no more of them can come.
    under_way: Mutex<Vec<(usize, Option<Waker>)>>,
    /// What was read over HTTP/1.x since a body began.
    overhead: Overhead,
}

impl ConnectionState {
    /// Counts what was read over HTTP/1.x. Returns whether a body is awaited, and too much came that is none.
    pub(in crate::server) fn is_all_overhead(&self, bytes: usize) -> bool {
        self.bodies.overhead.read(bytes);
        self.bodies.overhead.is_too_much() && self.awaits_body()
    }

    /// A piece of a body has come.
    pub(in crate::server) fn body_came(&self, bytes: usize) {
        self.bodies.overhead.body_came(bytes);
    }

    /// What is in progress over HTTP/2.
    pub(in crate::server) fn progress(&self) -> RequestProgress {
        let waits_until = self.own_answer_waits_until();
        // A refused caller's connection is cut soon, so it may as well send all that it may at once.
        let takes_turns = (self.admitted.load(Ordering::Relaxed) == 0 || waits_until.is_some()) && !self.caller_is_refused();
        let has_body = self.awaits_body();
        let (requests, given_up) = (self.begun.load(Ordering::Relaxed), self.bodies.given_up.load(Ordering::Relaxed));
        let is_over = self.caller_is_refused() && requests > 0;
        RequestProgress { takes_turns, has_body, requests, given_up, waits_until, is_over }
    }

    /// Notes that the HTTP/2 client has sent FIN and waits for its answers. Bodies that are not whole are cut.
    pub(in crate::server) fn set_half_closed(&self) {
        self.half_closed.store(true, Ordering::Relaxed);
        let wakers: Vec<Waker> = self.bodies_under_way().iter_mut().filter_map(|(_, waker)| waker.take()).collect();
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Whether no more can come of the bodies that are on their way.
    pub(in crate::server) fn is_half_closed(&self) -> bool {
        self.half_closed.load(Ordering::Relaxed)
    }

    /// A body is on its way. Returns its number.
    pub(in crate::server) fn begin_body(&self) -> usize {
        let number = self.begun.load(Ordering::Relaxed);
        self.bodies.overhead.begin();
        self.bodies_under_way().push((number, None));
        number
    }

    /// The body was read to its end, if it is `whole`, or is read no further.
    pub(in crate::server) fn end_body(&self, number: usize, whole: bool) {
        self.bodies.given_up.fetch_add(usize::from(!whole), Ordering::Relaxed);
        self.bodies_under_way().retain(|(known, _)| *known != number);
        if whole {
            self.idle_after_body();
        }
    }

    /// The rest of a body has come, behind the answer: what follows is another request. If a part of that has come with it, the
    /// connection counts as idle until more does.
    fn idle_after_body(&self) {
        if matches!(self.phase(), ConnectionPhase::IdleBehindBody | ConnectionPhase::Rest) {
            self.set(ConnectionPhase::Idle);
            let now = clock::instant();
            self.begin_idling(now);
            self.publish(|| now);
        }
    }

    /// Whether the end of a body was not read yet, and is still to be.
    pub(super) fn awaits_body(&self) -> bool {
        !self.bodies_under_way().is_empty()
    }

    /// Whether each body so far was read to its end.
    pub(super) fn has_read_all_bodies(&self) -> bool {
        self.bodies.given_up.load(Ordering::Relaxed) == 0 && !self.awaits_body()
    }

    /// Whom to wake when the client sends FIN, and the body can't go on.
    pub(in crate::server) fn wake_when_half_closed(&self, number: usize, waker: &Waker) {
        if let Some((_, slot)) = self.bodies_under_way().iter_mut().find(|(known, _)| *known == number)
            && !slot.as_ref().is_some_and(|known| known.will_wake(waker))
        {
            *slot = Some(waker.clone());
        }
    }

    fn bodies_under_way(&self) -> MutexGuard<'_, Vec<(usize, Option<Waker>)>> {
        // A list can't be left half changed.
        self.bodies.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
