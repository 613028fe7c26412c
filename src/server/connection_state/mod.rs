//! One client connection: its phase, the deadline that the phase sets, and whether it may be closed for another client.
//!
//! A connection holds its place against others only while it has an admitted request in progress; [`Hold`] says so to the
//! acceptors of all workers. Guarantees: only a whole head ends the time for the head; a client that takes nothing of an
//! answer for `client_stall` is cut; a connection that was asked to close decides itself whether it still is as the acceptor
//! saw it; a [`ConnectionState`] keeps the connection's permit, and the drain waiting, until it is dropped. No lock is taken
//! here for a request but those of the worker's own deadlines and of the connection's own bodies.

mod bodies;
mod in_progress;
mod phase;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::Instant;

pub(super) use in_progress::InProgress;

use super::{
    ConnectionLimits, DrainHolder,
    client_errors::ClientError,
    connection_limit::{ConnectionPermit, Slot},
    hold::Hold,
};
use crate::{clock, deadline::Deadlines};
use bodies::Bodies;
use phase::{ClientCheck, ConnectionPhase, Ending};

/// The time for what should follow at once: the first bytes on a connection that was accepted during a drain, or the end of
/// an HTTP/2 connection after our GOAWAY.
const CLOSE_GRACE: Duration = Duration::from_secs(1);

/// How long an idle HTTP/1.x connection stays open when a drain begins: a client that sends one request after the other has the
/// next one on its way, and learns from the answer that it is the last.
const DRAIN_GRACE: Duration = Duration::from_millis(200);

/// How long an HTTP/1.x connection is idle before its buffers are freed.
const REST_AFTER: Duration = Duration::from_secs(1);

/// How often the kernel is asked, while an answer is due, whether the client is still there.
const CLIENT_CHECK: Duration = Duration::from_millis(500);

/// How many more streams an HTTP/2 client may abandon than it lets finish, before we close its connection gracefully; at
/// twice as many we cut it. Each abandoned stream may have cost a request to upstream (CVE-2023-44487).
const ABANDONED: usize = 100;

/// What a connection has to do now that its deadline has passed, or that another client needs its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// Free its buffers, and wait for the next request without them.
    Rest,
    /// End gracefully, as its protocol provides.
    Leave,
    /// The same, but without its place, which another client gets at once.
    LeavePlace,
    /// End at once.
    Cut,
}

/// State of one client connection. Only the connection's own worker uses it; its members are atomic because a task must be
/// `Send`.
pub(super) struct ConnectionState {
    phase: AtomicU8,
    http2: AtomicBool,
    /// Requests in progress: at most one over HTTP/1.x.
    streams: AtomicUsize,
    /// Of those, the ones that hold the place: admitted, and not answered by ourselves.
    admitted: AtomicUsize,
    /// Requests that have begun so far.
    begun: AtomicUsize,
    bodies: Bodies,
    /// Requests in progress whose HTTP/2 client gives no window for more of the answer.
    windowless: AtomicUsize,
    abandoned: AtomicUsize,
    /// The last write could not be finished.
    blocked: AtomicBool,
    /// Part of what may wait to be written is of an admitted request's answer.
    owes_answer: AtomicBool,
    /// When the next answer of our own is due, unless it is at once: nanoseconds since the address was opened.
    own_answer_due: AtomicU64,
    /// The current response ends with the connection, without another delimiter (HTTP/1.0).
    close_delimited: AtomicBool,
    /// The deadline is that of [`Due::Rest`].
    rests_next: AtomicBool,
    ending: AtomicU8,
    client_check: AtomicU8,
    /// The HTTP/2 client sends no further request.
    half_closed: AtomicBool,
    /// The first bytes were those of TLS.
    began_tls: AtomicBool,
    limits: ConnectionLimits,
    slot: Arc<Slot>,
    /// `None`: the caller was refused, and only lingers to read why.
    permit: Option<ConnectionPermit>,
    _alive: DrainHolder,
}

impl ConnectionState {
    /// Starts the connection's first phase, and the time for its first head.
    pub(super) fn begin(permit: ConnectionPermit, limits: ConnectionLimits, alive: DrainHolder) -> Arc<Self> {
        let slot = Arc::clone(permit.slot());
        Self::at(slot, Some(permit), limits, alive)
    }

    /// Starts a connection whose caller was refused when it was accepted. It takes no place.
    pub(super) fn begin_refused(deadlines: &Deadlines, limits: ConnectionLimits, alive: DrainHolder) -> Arc<Self> {
        Self::at(Slot::unlisted(deadlines), None, limits.of_refused(), alive)
    }

    fn at(slot: Arc<Slot>, permit: Option<ConnectionPermit>, limits: ConnectionLimits, alive: DrainHolder) -> Arc<Self> {
        slot.deadline.arm(limits.head_timeout);
        let state = Self {
            phase: AtomicU8::new(ConnectionPhase::Silent as u8),
            http2: AtomicBool::new(false),
            streams: AtomicUsize::new(0),
            admitted: AtomicUsize::new(0),
            begun: AtomicUsize::new(0),
            bodies: Bodies::default(),
            windowless: AtomicUsize::new(0),
            abandoned: AtomicUsize::new(0),
            blocked: AtomicBool::new(false),
            owes_answer: AtomicBool::new(false),
            own_answer_due: AtomicU64::new(0),
            close_delimited: AtomicBool::new(false),
            rests_next: AtomicBool::new(false),
            ending: AtomicU8::new(Ending::None as u8),
            client_check: AtomicU8::new(ClientCheck::None as u8),
            half_closed: AtomicBool::new(false),
            began_tls: AtomicBool::new(false),
            limits,
            slot,
            permit,
            _alive: alive,
        };
        // A client that sends nothing must not keep out one that would.
        state.publish(clock::instant);
        Arc::new(state)
    }

    pub(super) fn limits(&self) -> &ConnectionLimits {
        &self.limits
    }

    /// Whether the caller was refused when the connection was accepted.
    pub(super) fn caller_is_refused(&self) -> bool {
        self.permit.is_none()
    }

    fn phase(&self) -> ConnectionPhase {
        ConnectionPhase::ALL[usize::from(self.phase.load(Ordering::Relaxed))]
    }

    fn set(&self, phase: ConnectionPhase) {
        self.phase.store(phase as u8, Ordering::Relaxed);
    }

    /// Tells acceptors what the connection holds, from `now` on if that is something else than before.
    fn publish(&self, now: impl FnOnce() -> Instant) {
        let is_stalled = self.is_blocked() || self.all_are_windowless();
        let hold = match (self.admitted.load(Ordering::Relaxed) > 0, is_stalled) {
            (true, false) => |_| Hold::Busy,
            (true, true) => Hold::Stalled,
            (false, true) if self.owes_answer.load(Ordering::Relaxed) => Hold::Stalled,
            (false, true) => Hold::Idle,
            (false, false) => match self.phase() {
                ConnectionPhase::Silent => Hold::Silent,
                ConnectionPhase::Head => Hold::Head,
                _ => Hold::Idle,
            },
        };
        self.slot.publish(hold, now);
    }

    fn all_are_windowless(&self) -> bool {
        let windowless = self.windowless.load(Ordering::Relaxed);
        windowless > 0 && windowless >= self.streams.load(Ordering::Relaxed)
    }

    /// Whether nothing was read since the connection was accepted.
    pub(super) fn is_silent(&self) -> bool {
        self.phase() == ConnectionPhase::Silent
    }

    /// Notes that something was read, in HTTP/1.x, or before the protocol was known.
    pub(super) fn read_some(&self) {
        match self.phase() {
            ConnectionPhase::Silent => {
                self.set(ConnectionPhase::Head);
                self.publish(clock::instant);
            }
            ConnectionPhase::Idle => self.begin_head(),
            ConnectionPhase::IdleBehindBody => {
                self.set(ConnectionPhase::Rest);
                self.slot.deadline.arm(self.limits.head_timeout);
            }
            ConnectionPhase::Exchange => self.set(ConnectionPhase::ExchangeAndHead),
            ConnectionPhase::Head | ConnectionPhase::ExchangeAndHead | ConnectionPhase::Rest | ConnectionPhase::Tunnel => {}
        }
    }

    fn begin_head(&self) {
        self.set(ConnectionPhase::Head);
        let now = clock::instant();
        self.slot.deadline.arm_at(now + self.limits.head_timeout);
        self.publish(|| now);
    }

    /// Notes that the client speaks HTTP/2.
    pub(super) fn preface_came(&self) {
        self.http2.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_http2(&self) -> bool {
        self.http2.load(Ordering::Relaxed)
    }

    /// Notes whether the last write is blocked: the kernel did not take all of it.
    pub(super) fn set_blocked(&self, blocked: bool) {
        if self.is_blocked() == blocked {
            return;
        }
        self.blocked.store(blocked, Ordering::Relaxed);
        if blocked {
            self.slot.deadline.arm(self.limits.client_stall);
            return self.publish(clock::instant);
        }
        if self.admitted.load(Ordering::Relaxed) == 0 {
            self.owes_answer.store(false, Ordering::Relaxed);
        }
        match self.phase() {
            ConnectionPhase::Idle | ConnectionPhase::IdleBehindBody => self.begin_idling(clock::instant()),
            ConnectionPhase::Head | ConnectionPhase::Rest => self.slot.deadline.arm(self.limits.head_timeout),
            ConnectionPhase::Exchange | ConnectionPhase::ExchangeAndHead => self.slot.deadline.arm(CLIENT_CHECK),
            ConnectionPhase::Silent | ConnectionPhase::Tunnel => {}
        }
        self.publish(clock::instant);
        // A tunnel looks whether it was asked to close when a write is blocked, and now none is.
        if self.is_tunnel() {
            self.slot.decide();
        }
    }

    /// Whether bytes wait that the client does not take.
    pub(super) fn is_blocked(&self) -> bool {
        self.blocked.load(Ordering::Relaxed)
    }

    /// Whether the client would take the connection's end for the end of the response.
    pub(super) fn close_delimited(&self) -> bool {
        self.close_delimited.load(Ordering::Relaxed)
    }

    pub(super) fn is_tunnel(&self) -> bool {
        self.phase() == ConnectionPhase::Tunnel
    }

    fn begin_exchange(&self) {
        self.begun.fetch_add(1, Ordering::Relaxed);
        if self.admitted.fetch_add(1, Ordering::Relaxed) == 0 && !self.is_blocked() {
            self.owes_answer.store(false, Ordering::Relaxed);
        }
        if self.streams.fetch_add(1, Ordering::Relaxed) == 0 {
            self.slot.deadline.arm(CLIENT_CHECK.min(self.limits.client_stall));
        }
        self.set(ConnectionPhase::Exchange);
        self.publish(clock::instant);
    }

    /// A request no longer holds the place: its answer is our own, of so many `bytes`.
    fn give_up_place(&self, bytes: u64) {
        self.admitted.fetch_sub(1, Ordering::Relaxed);
        self.book_turn(bytes);
        if self.streams.load(Ordering::Relaxed) > 0 {
            self.publish(clock::instant);
        }
    }

    /// A request has ended. `owes_body`: the rest of its body may still come.
    fn end_exchange(&self, had_body: bool, owes_body: bool) {
        if self.streams.fetch_sub(1, Ordering::Relaxed) > 1 {
            return self.publish(clock::instant);
        }
        if self.phase() == ConnectionPhase::ExchangeAndHead && !had_body {
            return self.begin_head();
        }
        self.set(if owes_body && !self.is_http2() { ConnectionPhase::IdleBehindBody } else { ConnectionPhase::Idle });
        let now = clock::instant();
        self.begin_idling(now);
        self.publish(|| now);
    }

    /// Starts the idle time-out. The connection is between requests once everything is written.
    fn begin_idling(&self, now: Instant) {
        let limit = match (self.is_blocked(), self.is_leaving()) {
            (true, _) => self.limits.client_stall,
            (false, true) => CLOSE_GRACE,
            (false, false) => self.limits.client_idle,
        };
        let rests = limit > REST_AFTER && !self.is_blocked() && !self.is_http2() && self.phase() == ConnectionPhase::Idle;
        self.rests_next.store(rests, Ordering::Relaxed);
        self.slot.deadline.arm_at(now + if rests { REST_AFTER } else { limit });
    }

    /// Ends the first part of the idle time. Tells whether the connection rests for the other one: it doesn't when a part of a
    /// body may still come, which only the connection's parser can tell from a request.
    fn begin_rest(&self, now: Instant) -> bool {
        self.slot.deadline.arm_at(now + self.limits.client_idle.saturating_sub(REST_AFTER));
        self.has_read_all_bodies()
    }

    /// Counts a stream that has ended. `whole`: the client did not abandon it.
    fn count_stream(&self, whole: bool) {
        let abandoned = self.abandoned.load(Ordering::Relaxed);
        self.abandoned.store(if whole { abandoned.saturating_sub(1) } else { abandoned + 1 }, Ordering::Relaxed);
    }

    /// How the connection has to end when its HTTP/2 client abandons one stream after the other, or after its last answer.
    pub(super) fn must_end(&self) -> Option<Due> {
        match self.abandoned.load(Ordering::Relaxed) {
            0..ABANDONED => {
                let was_last = self.ending.load(Ordering::Relaxed) == Ending::LastAnswer as u8;
                let sends_no_more = self.half_closed.load(Ordering::Relaxed) && !self.has_streams();
                (was_last || sends_no_more).then_some(Due::Leave)
            }
            abandoned if abandoned < 2 * ABANDONED => Some(Due::Leave),
            _ => Some(Due::Cut),
        }
    }

    /// Notes that the first bytes were those of a TLS handshake.
    pub(super) fn tls_came(&self) {
        self.began_tls.store(true, Ordering::Relaxed);
    }

    /// Counts what the client has sent in place of HTTP.
    pub(super) fn record(&self, error: ClientError) {
        let began_tls = self.began_tls.load(Ordering::Relaxed);
        if let Some(permit) = &self.permit {
            permit.record(if began_tls { ClientError::Tls } else { error });
        }
    }

    /// Whether a request is in progress.
    pub(super) fn has_streams(&self) -> bool {
        self.streams.load(Ordering::Relaxed) > 0
    }

    /// Whether a request has begun, now or before.
    pub(super) fn has_begun(&self) -> bool {
        self.begun.load(Ordering::Relaxed) > 0
    }

    /// Takes a turn of the address's time, for an answer of our own of so many `bytes`, or for reading what is no request.
    pub(super) fn book_turn(&self, bytes: u64) {
        self.own_answer_due.store(self.slot.book_own_answer(bytes), Ordering::Relaxed);
    }

    /// Until when the connection's next answer of our own waits; see [`OwnAnswers`](super::own_answers::OwnAnswers).
    pub(super) fn own_answer_waits_until(&self) -> Option<Instant> {
        match self.own_answer_due.load(Ordering::Relaxed) {
            0 => None,
            due => Some(self.slot.instant(due)).filter(|due| *due > clock::instant()),
        }
    }

    /// Whether the client's stream has to be polled, since it is time to ask whether the client is there.
    pub(super) fn begin_client_check(&self) -> bool {
        self.move_client_check(ClientCheck::Due, ClientCheck::Asked)
    }

    /// Whether the client's stream has to ask now.
    pub(super) fn take_client_check(&self) -> bool {
        self.move_client_check(ClientCheck::Asked, ClientCheck::None)
    }

    /// Steps from one stage of the look at the client to the next, if it is at that stage.
    fn move_client_check(&self, from: ClientCheck, to: ClientCheck) -> bool {
        self.client_check.load(Ordering::Relaxed) == from as u8
            && self.client_check.swap(to as u8, Ordering::Relaxed) == from as u8
    }

    /// Makes the next look at the client due, and the one after it, which may be `due` earlier.
    fn look_at_client(&self, now: Instant, due: Instant) {
        self.client_check.store(ClientCheck::Due as u8, Ordering::Relaxed);
        self.slot.deadline.arm_at(due.min(now + CLIENT_CHECK));
    }

    /// Whether the first request, or over HTTP/1.x the next one, may be on the way, or has come in part. An HTTP/2 client is told
    /// which one is the last.
    pub(super) fn awaits_request(&self) -> bool {
        self.is_silent() || self.may_get_another() || (self.phase() == ConnectionPhase::Head && !self.is_http2())
    }

    /// Whether a client of HTTP/1.x may be about to send another request.
    fn may_get_another(&self) -> bool {
        self.phase() == ConnectionPhase::Idle && !self.is_http2() && !self.is_blocked()
    }

    /// Shortens the time for the first bytes to [`CLOSE_GRACE`], and that for another request to [`DRAIN_GRACE`], since a drain has
    /// begun.
    pub(super) fn shorten_for_drain(&self) {
        if self.is_silent() {
            self.slot.deadline.arm(CLOSE_GRACE.min(self.limits.head_timeout));
        } else if self.may_get_another() {
            self.rests_next.store(false, Ordering::Relaxed);
            self.slot.deadline.arm(DRAIN_GRACE.min(self.limits.client_idle));
        }
    }

    fn is_leaving(&self) -> bool {
        self.ending.load(Ordering::Relaxed) == Ending::Leaving as u8
    }

    /// Notes that a graceful close has begun. An HTTP/2 client with nothing in progress has [`CLOSE_GRACE`] to close its end.
    pub(super) fn leave(&self) {
        self.ending.store(Ending::Leaving as u8, Ordering::Relaxed);
        let nothing_in_progress = match self.phase() {
            ConnectionPhase::Idle | ConnectionPhase::IdleBehindBody => true,
            ConnectionPhase::Silent | ConnectionPhase::Head | ConnectionPhase::Rest => self.is_http2(),
            ConnectionPhase::Exchange | ConnectionPhase::ExchangeAndHead | ConnectionPhase::Tunnel => false,
        };
        if nothing_in_progress {
            self.slot.deadline.arm(CLOSE_GRACE);
        }
    }

    /// Gives the place up at once, though the connection goes on for a moment. `false`: it may not go on.
    pub(super) fn leave_place(&self) -> bool {
        self.permit.as_ref().is_some_and(ConnectionPermit::give_back_early)
    }

    /// Whether an acceptor has asked the connection to close, and it has not decided yet whether it does.
    pub(super) fn is_asked_to_close(&self) -> bool {
        self.slot.is_asked()
    }

    /// What the connection has to do, once its deadline has passed or another client needs its place. While it is pending, it
    /// wakes the task when that changes.
    pub(super) fn poll_due(&self, cx: &mut Context<'_>) -> Poll<Due> {
        loop {
            // Register with the deadline first: an acceptor that asks between the two looks would else wake nobody.
            let passed = self.slot.deadline.poll_passed(cx).is_ready();
            if self.slot.decide() {
                return Poll::Ready(if self.is_between_requests() { Due::LeavePlace } else { Due::Cut });
            }
            if !passed {
                return Poll::Pending;
            }
            if let Some(due) = self.overdue(clock::instant()) {
                return Poll::Ready(due);
            }
        }
    }

    fn is_between_requests(&self) -> bool {
        matches!(self.phase(), ConnectionPhase::Idle | ConnectionPhase::IdleBehindBody) && !self.is_blocked()
    }

    /// The deadline has passed. Tells what the connection has to do; if it is nothing, arms the deadline for the next look.
    fn overdue(&self, now: Instant) -> Option<Due> {
        if self.is_blocked() || self.all_are_windowless() {
            let (Hold::Stalled(since) | Hold::Idle(since)) = self.slot.hold() else {
                self.look_at_client(now, now + self.limits.client_stall);
                return None;
            };
            let due = self.slot.instant(since) + self.limits.client_stall;
            if due <= now {
                return Some(Due::Cut);
            }
            self.look_at_client(now, due);
            return None;
        }
        match self.phase() {
            ConnectionPhase::Head => {
                self.record(ClientError::HeadTimeout);
                Some(Due::Cut)
            }
            ConnectionPhase::Silent | ConnectionPhase::Rest => Some(Due::Cut),
            ConnectionPhase::Idle | ConnectionPhase::IdleBehindBody if self.is_leaving() => Some(Due::Cut),
            ConnectionPhase::Idle if self.rests_next.swap(false, Ordering::Relaxed) => self.begin_rest(now).then_some(Due::Rest),
            ConnectionPhase::Idle | ConnectionPhase::IdleBehindBody => Some(Due::Leave),
            ConnectionPhase::Exchange | ConnectionPhase::ExchangeAndHead => {
                self.look_at_client(now, now + self.limits.client_stall);
                None
            }
            ConnectionPhase::Tunnel => {
                self.slot.deadline.arm_at(now + self.limits.client_stall);
                None
            }
        }
    }
}

#[cfg(test)]
mod tests;
