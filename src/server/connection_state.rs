//! One connection's phases: who owes the next step, and until when.
//!
//! Depends on `connection_limit` and `deadline`. A connection has one deadline, which means what its phase says. Guarantees: nothing
//! but a whole head ends the time for it; a connection is idle only when no request is in progress on it and nothing is
//! left to write; whoever holds a [`ConnectionState`] keeps the connection's permit, and the drain waiting.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::sync::mpsc;

use super::{ConnectionLimits, connection_limit::ConnectionPermit, drain::Drain};
use crate::clock;

/// For what should follow at once: the first bytes on a connection accepted during a drain; the end of an HTTP/2
/// connection after our GOAWAY.
const CLOSE_GRACE: Duration = Duration::from_secs(1);

/// A connection that has said nothing for so long since it was accepted counts as idle, should its permit be wanted.
const IDLE_GRACE: Duration = Duration::from_secs(1);

/// Streams that an HTTP/2 client may abandon, over those that it lets finish, before it is asked to connect anew; twice as
/// many, and the connection is cut. Each may have cost a request to upstream (CVE-2023-44487).
const ABANDONED: usize = 100;

/// Accepted, and nothing read yet.
const FIRST: u8 = 0;
/// Part of a head was read, or of HTTP/2's beginning.
const PARTIAL: u8 = 1;
/// At least one request is in progress.
const EXCHANGE: u8 = 2;
/// Between requests.
const IDLE: u8 = 3;

/// What a connection has to do now that its deadline has passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// To end in its protocol's own way.
    Leave,
    /// To end at once.
    Cut,
}

/// A connection's time at the sidecar. All of it happens on the connection's own worker; atomics only because tasks may
/// move.
pub(super) struct ConnectionState {
    phase: AtomicU8,
    http2: AtomicBool,
    /// Requests in progress: at most one over HTTP/1.x.
    streams: AtomicUsize,
    abandoned: AtomicUsize,
    /// Bytes came while a request without a body was answered: they begin the next head.
    surplus: AtomicBool,
    /// The last write could not be finished.
    blocked: AtomicBool,
    /// The client learns only from the connection's end where the present answer ends (HTTP/1.0).
    close_delimited: AtomicBool,
    leaving: AtomicBool,
    limits: ConnectionLimits,
    permit: ConnectionPermit,
    _alive: mpsc::Sender<()>,
}

impl ConnectionState {
    /// Begins now, and with it the time for the first head.
    pub(super) fn begin(mut permit: ConnectionPermit, limits: ConnectionLimits, drain: &Drain) -> Arc<Self> {
        permit.accepted();
        permit.deadline().arm(limits.head_timeout);
        // Whoever says nothing takes the place of somebody who would.
        permit.idle(clock::instant() + IDLE_GRACE);
        Arc::new(Self {
            phase: AtomicU8::new(FIRST),
            http2: AtomicBool::new(false),
            streams: AtomicUsize::new(0),
            abandoned: AtomicUsize::new(0),
            surplus: AtomicBool::new(false),
            blocked: AtomicBool::new(false),
            close_delimited: AtomicBool::new(false),
            leaving: AtomicBool::new(false),
            limits,
            permit,
            _alive: drain.hold(),
        })
    }

    pub(super) fn limits(&self) -> &ConnectionLimits {
        &self.limits
    }

    fn phase(&self) -> u8 {
        self.phase.load(Ordering::Relaxed)
    }

    fn set(&self, phase: u8) {
        self.phase.store(phase, Ordering::Relaxed);
    }

    /// Nothing was read since it was accepted.
    pub(super) fn is_silent(&self) -> bool {
        self.phase() == FIRST
    }

    /// Something was read, in HTTP/1.x, or before the protocol was known.
    pub(super) fn read_some(&self) {
        match self.phase() {
            FIRST => {
                self.set(PARTIAL);
                if self.permit.busy() {
                    // Asked to leave a moment earlier, which made the deadline pass.
                    self.permit.deadline().arm(self.limits.head_timeout);
                }
            }
            IDLE => self.begin_head(),
            EXCHANGE => self.surplus.store(true, Ordering::Relaxed),
            _ => {}
        }
    }

    fn begin_head(&self) {
        self.set(PARTIAL);
        self.permit.deadline().arm(self.limits.head_timeout);
        self.permit.busy();
    }

    /// The client speaks HTTP/2.
    pub(super) fn preface_came(&self) {
        self.http2.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_http2(&self) -> bool {
        self.http2.load(Ordering::Relaxed)
    }

    /// Whether the kernel did not take all of the last write.
    pub(super) fn set_blocked(&self, blocked: bool) {
        if self.is_blocked() == blocked {
            return;
        }
        self.blocked.store(blocked, Ordering::Relaxed);
        if !blocked && self.phase() == IDLE {
            self.begin_idling();
        }
    }

    fn is_blocked(&self) -> bool {
        self.blocked.load(Ordering::Relaxed)
    }

    /// Whether the client would mistake the connection's end for the answer's.
    pub(super) fn close_delimited(&self) -> bool {
        self.close_delimited.load(Ordering::Relaxed)
    }

    fn begin_exchange(&self) {
        self.surplus.store(false, Ordering::Relaxed);
        self.set(EXCHANGE);
        if self.streams.fetch_add(1, Ordering::Relaxed) == 0 {
            self.permit.deadline().disarm();
            self.permit.busy();
        }
    }

    fn end_exchange(&self, had_body: bool) {
        if self.streams.fetch_sub(1, Ordering::Relaxed) > 1 {
            return;
        }
        if self.surplus.load(Ordering::Relaxed) && !had_body {
            return self.begin_head();
        }
        self.set(IDLE);
        self.begin_idling();
    }

    /// It counts as idle once everything is written.
    fn begin_idling(&self) {
        let now = clock::instant();
        self.permit.deadline().arm_at(now + if self.is_leaving() { CLOSE_GRACE } else { self.limits.client_idle });
        if !self.is_blocked() {
            self.permit.idle(now);
        }
    }

    /// A stream has ended. `whole`: the client let it.
    fn count_stream(&self, whole: bool) {
        let abandoned = self.abandoned.load(Ordering::Relaxed);
        self.abandoned.store(if whole { abandoned.saturating_sub(1) } else { abandoned + 1 }, Ordering::Relaxed);
    }

    /// What an HTTP/2 client deserves that abandons one stream after the other.
    pub(super) fn misuse(&self) -> Option<Due> {
        match self.abandoned.load(Ordering::Relaxed) {
            0..ABANDONED => None,
            abandoned if abandoned < 2 * ABANDONED => Some(Due::Leave),
            _ => Some(Due::Cut),
        }
    }

    /// The drain began: a connection that is silent since it was accepted gets a moment, and no more.
    pub(super) fn shorten_for_drain(&self) {
        if self.is_silent() {
            self.permit.deadline().arm(CLOSE_GRACE.min(self.limits.head_timeout));
        }
    }

    fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Relaxed)
    }

    /// It was evicting, in its protocol, that it ends. An HTTP/2 client with nothing in progress has a moment to say that it
    /// has heard.
    pub(super) fn leave(&self) {
        self.leaving.store(true, Ordering::Relaxed);
        let nothing_in_progress = self.phase() == IDLE || (self.is_http2() && self.phase() != EXCHANGE);
        if nothing_in_progress {
            self.permit.deadline().arm(CLOSE_GRACE);
        }
    }

    /// What there is to do once the deadline has passed, or somebody else wants the permit. Pending, it wakes the task.
    pub(super) fn poll_due(&self, cx: &mut Context<'_>) -> Poll<Due> {
        let deadline = self.permit.deadline();
        loop {
            ready!(deadline.poll_passed(cx));
            match self.phase() {
                EXCHANGE => {
                    // Somebody wanted its permit just when a request began.
                    deadline.disarm();
                    self.permit.refuse_eviction();
                }
                IDLE if self.is_blocked() => {
                    // The end of an answer is still on its way to a client that reads slowly.
                    self.begin_idling();
                    self.permit.busy();
                }
                IDLE if !self.is_leaving() => return Poll::Ready(Due::Leave),
                // The same, a moment earlier.
                PARTIAL if self.permit.refuse_eviction() => deadline.arm(self.limits.head_timeout),
                _ => return Poll::Ready(Due::Cut),
            }
        }
    }
}

/// A request in progress, from its head to the last byte of its answer.
pub(super) struct InProgress {
    connection_state: Arc<ConnectionState>,
    had_body: bool,
    answered: bool,
    goes_on: bool,
}

impl InProgress {
    pub(super) fn begin(connection_state: &Arc<ConnectionState>, had_body: bool) -> Self {
        connection_state.begin_exchange();
        Self { connection_state: Arc::clone(connection_state), had_body, answered: false, goes_on: false }
    }

    /// The answer that begins is delimited by the connection's end alone, or nothing older clients would notice.
    pub(super) fn close_delimited(&self) {
        self.connection_state.close_delimited.store(true, Ordering::Relaxed);
    }

    /// The answer was given to its last byte.
    pub(super) fn is_answered(&mut self) {
        self.answered = true;
        self.connection_state.close_delimited.store(false, Ordering::Relaxed);
    }

    /// It does not end: the connection has become a tunnel.
    pub(super) fn goes_on(&mut self) {
        self.goes_on = true;
    }
}

impl Drop for InProgress {
    fn drop(&mut self) {
        if self.goes_on {
            return;
        }
        if self.connection_state.is_http2() {
            self.connection_state.count_stream(self.answered);
        }
        self.connection_state.end_exchange(self.had_body);
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::{sync::watch, time::timeout};

    use super::*;
    use crate::{deadline::Deadlines, server::ConnectionLimit};

    const LIMITS: ConnectionLimits = ConnectionLimits {
        head_bytes: 8192,
        head_lines: 8,
        head_timeout: Duration::from_secs(10),
        client_idle: Duration::from_secs(3600),
    };

    struct Scene {
        connection_limit: ConnectionLimit,
        deadlines: Deadlines,
        connection_state: Arc<ConnectionState>,
    }

    impl Scene {
        /// One connection, the only one that may be.
        fn new() -> Self {
            let (connection_limit, deadlines) = (ConnectionLimit::new(1), Deadlines::default());
            let looking = deadlines.clone();
            tokio::spawn(async move { looking.run().await });
            let (drain, _gone) = Drain::new(watch::channel(false).1);
            let connection_state = ConnectionState::begin(connection_limit.take(&deadlines).unwrap(), LIMITS, &drain);
            Self { connection_limit, deadlines, connection_state }
        }

        fn ask_and_answer(&self) {
            self.connection_state.read_some();
            InProgress::begin(&self.connection_state, false).is_answered();
        }

        /// What is due within `limit`, and after how long.
        async fn due(&self, limit: Duration) -> Option<(Due, Duration)> {
            let start = clock::instant();
            let due = timeout(limit, poll_fn(|cx| self.connection_state.poll_due(cx))).await.ok()?;
            Some((due, start.elapsed()))
        }

        /// Somebody wants the only permit from now on.
        async fn is_wanted(&self) {
            let (connection_limit, deadlines) = (self.connection_limit.clone(), self.deadlines.clone());
            tokio::spawn(async move { drop(connection_limit.eviction_guard().unwrap().permit(&deadlines).await) });
            tokio::task::yield_now().await;
        }
    }

    fn is_about(took: Duration, limit: Duration) -> bool {
        (limit..limit + Duration::from_millis(200)).contains(&took)
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_is_due_in_time_and_an_idle_connection_leaves_later() {
        let scene = Scene::new();
        scene.connection_state.read_some();
        let (due, took) = scene.due(2 * LIMITS.client_idle).await.unwrap();
        assert!(due == Due::Cut && is_about(took, LIMITS.head_timeout), "{due:?} {took:?}");
        let scene = Scene::new();
        scene.ask_and_answer();
        let (due, took) = scene.due(2 * LIMITS.client_idle).await.unwrap();
        assert!(due == Due::Leave && is_about(took, LIMITS.client_idle), "{due:?} {took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_says_nothing_leaves_after_a_moment_when_its_seat_is_wanted() {
        let scene = Scene::new();
        let (due, took) = scene.due(2 * LIMITS.client_idle).await.unwrap();
        assert!(due == Due::Cut && is_about(took, LIMITS.head_timeout), "nobody wants it: {due:?} {took:?}");
        let scene = Scene::new();
        scene.is_wanted().await;
        let (due, took) = scene.due(2 * LIMITS.client_idle).await.unwrap();
        assert!(due == Due::Cut && is_about(took, IDLE_GRACE), "{due:?} {took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_speaks_just_when_its_seat_is_wanted_has_time_for_its_head() {
        for asked_first in [true, false] {
            let scene = Scene::new();
            if asked_first {
                scene.connection_state.permit.evict();
            }
            scene.connection_state.read_some();
            if !asked_first {
                scene.connection_state.permit.evict();
            }
            let (due, took) = scene.due(LIMITS.client_idle).await.unwrap();
            assert!(due == Due::Cut && is_about(took, LIMITS.head_timeout), "{due:?} {took:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_due_while_a_request_is_in_progress() {
        let scene = Scene::new();
        scene.connection_state.read_some();
        let _request = InProgress::begin(&scene.connection_state, true);
        scene.is_wanted().await;
        assert_eq!(scene.due(2 * LIMITS.client_idle).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_connection_leaves_at_once_when_its_seat_is_wanted() {
        let scene = Scene::new();
        scene.ask_and_answer();
        scene.is_wanted().await;
        assert_eq!(scene.due(LIMITS.client_idle).await, Some((Due::Leave, Duration::ZERO)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_that_began_just_when_the_seat_was_wanted_has_its_time() {
        let scene = Scene::new();
        scene.ask_and_answer();
        scene.connection_state.read_some();
        scene.connection_state.permit.evict();
        let (due, took) = scene.due(LIMITS.client_idle).await.unwrap();
        assert!(due == Due::Cut && is_about(took, LIMITS.head_timeout), "{due:?} {took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_whose_answer_is_still_being_read_is_not_idle() {
        let scene = Scene::new();
        scene.ask_and_answer();
        scene.connection_state.set_blocked(true);
        scene.is_wanted().await;
        assert_eq!(scene.due(LIMITS.client_idle / 2).await, None);
        scene.connection_state.set_blocked(false);
        assert_eq!(scene.due(LIMITS.client_idle).await.map(|(due, _)| due), Some(Due::Leave));
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_http2_client_that_was_told_to_go_has_a_moment() {
        for asked_before in [false, true] {
            let scene = Scene::new();
            scene.connection_state.read_some();
            scene.connection_state.preface_came();
            if asked_before {
                InProgress::begin(&scene.connection_state, false).is_answered();
            }
            scene.connection_state.leave();
            let (due, took) = scene.due(LIMITS.client_idle).await.unwrap();
            assert!(due == Due::Cut && is_about(took, CLOSE_GRACE), "{due:?} {took:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_http2_client_that_was_told_to_go_may_finish_and_then_has_a_moment() {
        let scene = Scene::new();
        scene.connection_state.preface_came();
        let first = InProgress::begin(&scene.connection_state, false);
        let mut second = InProgress::begin(&scene.connection_state, false);
        scene.connection_state.leave();
        drop(first);
        assert_eq!(scene.due(2 * LIMITS.client_idle).await, None, "one is left");
        second.is_answered();
        drop(second);
        let (due, took) = scene.due(LIMITS.client_idle).await.unwrap();
        assert!(due == Due::Cut && is_about(took, CLOSE_GRACE), "{due:?} {took:?}");
    }
}
