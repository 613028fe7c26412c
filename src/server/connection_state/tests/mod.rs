//! Which time-outs end a connection, and when it goes for another client. Files: `endings` (rest, drain, HTTP/2, client checks).

use std::{future::poll_fn, task::Waker};

use tokio::time::timeout;

use super::*;
use crate::server::{ConnectionLimit, Drain, LINGER, SharedDescriptors};

mod endings;

const LIMITS: ConnectionLimits = ConnectionLimits {
    head_bytes: 8192,
    head_lines: 8,
    head_timeout: Duration::from_secs(10),
    client_idle: Duration::from_secs(3600),
    client_stall: Duration::from_secs(300),
    streams: Some(100),
};

const STALL_GRACE: Duration = Duration::from_secs(10);

struct LimitedConnection {
    limit: ConnectionLimit,
    deadlines: Deadlines,
    state: Arc<ConnectionState>,
}

impl LimitedConnection {
    /// Accepts one connection, which is all that the limit allows.
    fn new() -> Self {
        let (limit, deadlines) = (SharedDescriptors::default().limit(1), Deadlines::default());
        let looking = deadlines.clone();
        tokio::spawn(async move { looking.run().await });
        let (drain, _gone) = Drain::new();
        let state = ConnectionState::begin(limit.take(&deadlines, true).unwrap(), LIMITS, drain.hold());
        Self { limit, deadlines, state }
    }

    fn ask(&self, had_body: bool) -> InProgress {
        self.state.read_some();
        InProgress::begin(&self.state, had_body)
    }

    fn ask_and_answer(&self) {
        let mut request = self.ask(false);
        request.mark_forwarded();
        request.mark_answered();
    }

    /// Asks for what is refused.
    fn ask_in_vain(&self, had_body: bool) {
        let mut request = self.ask(had_body);
        request.give_up_place(0);
        request.mark_answered();
    }

    /// How the connection ends within `limit`, and after how long.
    async fn due(&self, limit: Duration) -> Option<(Due, Duration)> {
        let start = clock::instant();
        let due = timeout(limit, async {
            loop {
                let due = poll_fn(|cx| self.state.poll_due(cx)).await;
                if due != Due::Rest {
                    return due;
                }
            }
        });
        Some((due.await.ok()?, start.elapsed()))
    }

    /// Another client waits for the only permit from now on.
    async fn evict(&self) {
        let (limit, deadlines) = (self.limit.clone(), self.deadlines.clone());
        tokio::spawn(async move { drop(limit.permit(&deadlines, true).await) });
        tokio::task::yield_now().await;
    }
}

#[track_caller]
fn assert_due(due: Option<(Due, Duration)>, how: Due, after: Duration) {
    let is_about = |took: Duration| (after..after + Duration::from_millis(200)).contains(&took);
    assert!(due.is_some_and(|(due, took)| due == how && is_about(took)), "{due:?}, not {how:?} after {after:?}");
}

#[tokio::test(start_paused = true)]
async fn a_head_has_to_come_in_time_and_an_idle_connection_is_closed_later() {
    let scene = LimitedConnection::new();
    assert_due(scene.due(2 * LIMITS.client_idle).await, Due::Cut, LIMITS.head_timeout);
    let scene = LimitedConnection::new();
    scene.state.read_some();
    assert_due(scene.due(2 * LIMITS.client_idle).await, Due::Cut, LIMITS.head_timeout);
    let scene = LimitedConnection::new();
    scene.ask_and_answer();
    assert_due(scene.due(2 * LIMITS.client_idle).await, Due::Leave, LIMITS.client_idle);
}

#[tokio::test(start_paused = true)]
async fn a_connection_without_an_admitted_request_goes_soon_when_its_connection_should_end() {
    for (how, what) in [
        (Due::Cut, (|_: &_| {}) as fn(&LimitedConnection)),
        (Due::LeavePlace, LimitedConnection::ask_and_answer),
        (Due::LeavePlace, |scene| scene.ask_in_vain(false)),
        (Due::LeavePlace, |scene| scene.ask_in_vain(true)),
        // The only one: nothing else can go.
        (Due::Cut, |scene| scene.state.read_some()),
        (Due::Cut, |scene| {
            scene.ask_and_answer();
            scene.state.read_some();
        }),
        // It goes on with the body of what was refused.
        (Due::Cut, |scene| {
            scene.ask_in_vain(true);
            scene.state.read_some();
        }),
        // It does not read what it was told.
        (Due::Cut, |scene| {
            scene.ask_in_vain(false);
            scene.state.set_blocked(true);
        }),
        // The next request came behind it.
        (Due::Cut, |scene| {
            let mut request = scene.ask(false);
            scene.state.read_some();
            request.give_up_place(0);
            request.mark_answered();
            scene.state.set_blocked(true);
        }),
    ] {
        let scene = LimitedConnection::new();
        what(&scene);
        // A client that has just come may be about to send.
        let after = if scene.state.is_silent() { Duration::from_secs(1) } else { Duration::ZERO };
        scene.evict().await;
        assert_due(scene.due(LIMITS.client_idle).await, how, after);
    }
}

#[tokio::test(start_paused = true)]
async fn an_own_answer_that_is_being_written_holds_no_place() {
    let scene = LimitedConnection::new();
    let mut request = scene.ask(false);
    request.give_up_place(0);
    scene.state.set_blocked(true);
    scene.evict().await;
    assert_due(scene.due(LIMITS.client_idle).await, Due::Cut, Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_speaks_just_when_it_is_evicted_has_time_for_its_head() {
    for evicted_first in [true, false] {
        for before in [(|_: &_| {}) as fn(&LimitedConnection), LimitedConnection::ask_and_answer] {
            let scene = LimitedConnection::new();
            before(&scene);
            if evicted_first {
                scene.state.slot.evict_now();
                scene.state.read_some();
            } else {
                scene.state.read_some();
            }
            assert_due(scene.due(LIMITS.client_idle).await, Due::Cut, LIMITS.head_timeout);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_ends_a_connection_while_a_request_is_in_progress() {
    for http2 in [false, true] {
        let scene = LimitedConnection::new();
        if http2 {
            scene.state.preface_came();
        }
        let _request = scene.ask(true);
        scene.evict().await;
        assert_eq!(scene.due(2 * LIMITS.client_idle).await, None);
    }
}

#[tokio::test(start_paused = true)]
async fn an_http2_connection_holds_its_place_while_one_of_its_streams_is_admitted() {
    let scene = LimitedConnection::new();
    scene.state.preface_came();
    let (mut refused, admitted) = (scene.ask(false), scene.ask(false));
    refused.give_up_place(0);
    scene.evict().await;
    assert_eq!(scene.due(LIMITS.client_idle).await, None);
    drop(admitted);
    assert_due(scene.due(LIMITS.client_idle).await, Due::Cut, Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_takes_nothing_of_its_answer_is_cut_after_client_stall_or_10_s_when_its_connection_should_end() {
    let block = |scene: &LimitedConnection, answered: bool| {
        let mut request = scene.ask(false);
        request.mark_forwarded();
        if answered {
            request.mark_answered();
            drop(request);
            scene.state.set_blocked(true);
            return None;
        }
        scene.state.set_blocked(true);
        Some(request)
    };
    for answered in [false, true] {
        let scene = LimitedConnection::new();
        let _request = block(&scene, answered);
        assert_due(scene.due(LIMITS.client_idle).await, Due::Cut, LIMITS.client_stall);
        let scene = LimitedConnection::new();
        let _request = block(&scene, answered);
        scene.evict().await;
        assert_due(scene.due(LIMITS.client_idle).await, Due::Cut, STALL_GRACE);
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_takes_a_little_now_and_then_is_not_cut() {
    let scene = LimitedConnection::new();
    let request = scene.ask(false);
    request.mark_forwarded();
    scene.state.set_blocked(true);
    for _ in 0..10 {
        assert_eq!(scene.due(LIMITS.client_stall.mul_f32(0.99)).await, None);
        scene.state.set_blocked(false);
        scene.state.set_blocked(true);
    }
    assert_due(scene.due(LIMITS.client_idle).await, Due::Cut, LIMITS.client_stall);
}

#[tokio::test(start_paused = true)]
async fn an_http2_client_that_gives_no_window_is_cut_like_one_that_does_not_read() {
    let scene = LimitedConnection::new();
    scene.state.preface_came();
    let (mut first, mut second) = (scene.ask(false), scene.ask(false));
    first.set_windowless(true);
    scene.evict().await;
    assert_eq!(scene.due(LIMITS.client_idle).await, None, "the other one waits for the upstream");
    second.set_windowless(true);
    assert_due(scene.due(LIMITS.client_idle).await, Due::Cut, STALL_GRACE);

    let scene = LimitedConnection::new();
    scene.state.preface_came();
    let mut refused = scene.ask(false);
    refused.give_up_place(0);
    refused.set_windowless(true);
    assert_due(scene.due(LIMITS.client_idle).await, Due::Cut, LIMITS.client_stall);

    let scene = LimitedConnection::new();
    scene.state.preface_came();
    let mut only = scene.ask(false);
    only.set_windowless(true);
    assert_eq!(scene.due(LIMITS.client_stall / 2).await, None);
    only.set_windowless(false);
    only.set_windowless(true);
    assert_due(scene.due(LIMITS.client_idle).await, Due::Cut, LIMITS.client_stall);
}

#[tokio::test(start_paused = true)]
async fn a_connection_whose_response_is_still_being_read_is_not_idle() {
    let scene = LimitedConnection::new();
    scene.ask_and_answer();
    scene.state.set_blocked(true);
    scene.evict().await;
    assert_eq!(scene.due(STALL_GRACE / 2).await, None);
    scene.state.set_blocked(false);
    assert_due(scene.due(LIMITS.client_idle).await, Due::LeavePlace, Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn what_was_written_to_its_end_is_owed_no_more() {
    let scene = LimitedConnection::new();
    scene.ask_and_answer();
    scene.ask_in_vain(false);
    scene.state.set_blocked(true);
    scene.evict().await;
    assert_due(scene.due(LIMITS.client_idle).await, Due::Cut, Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn an_idle_http2_client_has_a_moment_after_the_goaway() {
    for asked_before in [false, true] {
        let scene = LimitedConnection::new();
        scene.state.read_some();
        scene.state.preface_came();
        if asked_before {
            InProgress::begin(&scene.state, false).mark_answered();
        }
        scene.state.leave();
        assert_due(scene.due(LIMITS.client_idle).await, Due::Cut, CLOSE_GRACE);
    }
}

#[tokio::test(start_paused = true)]
async fn an_http2_client_may_finish_after_the_goaway_and_then_has_a_moment() {
    let scene = LimitedConnection::new();
    scene.state.preface_came();
    let first = InProgress::begin(&scene.state, false);
    let mut second = InProgress::begin(&scene.state, false);
    scene.state.leave();
    drop(first);
    assert_eq!(scene.due(2 * LIMITS.client_idle).await, None, "one is left");
    second.mark_answered();
    drop(second);
    assert_due(scene.due(LIMITS.client_idle).await, Due::Cut, CLOSE_GRACE);
}

#[tokio::test(start_paused = true)]
async fn a_connection_whose_caller_is_refused_closes_after_the_answer_and_has_a_second_for_each_step() {
    let scene = LimitedConnection::new();
    let mut request = scene.ask(false);
    request.give_up_place(0);
    assert_eq!(scene.state.must_end(), None);
    request.mark_last();
    assert_eq!(scene.state.must_end(), Some(Due::Leave));

    let (drain, _gone) = Drain::new();
    let refused = || LimitedConnection {
        state: ConnectionState::begin_refused(&scene.deadlines, LIMITS, drain.hold()),
        limit: scene.limit.clone(),
        deadlines: scene.deadlines.clone(),
    };
    assert_due(refused().due(LIMITS.client_idle).await, Due::Cut, LINGER);
    let does_not_read = refused();
    does_not_read.ask_in_vain(false);
    does_not_read.state.set_blocked(true);
    assert_due(does_not_read.due(LIMITS.client_idle).await, Due::Cut, LINGER);
    assert_eq!(scene.limit.connected_and_limit(), (1, 1), "they take no place");
}

#[tokio::test(start_paused = true)]
async fn after_a_thousand_answers_of_our_own_the_next_one_waits() {
    let scene = LimitedConnection::new();
    for _ in 0..1001 {
        scene.ask_in_vain(false);
    }
    assert_eq!(scene.state.own_answer_waits_until(), None);
    for _ in 0..10_000 {
        scene.ask_in_vain(false);
    }
    let waits = scene.state.own_answer_waits_until().unwrap() - clock::instant();
    assert!((900..=1000).contains(&waits.as_millis()), "{waits:?}");
    assert!(scene.state.progress().waits_until.is_some());
    // An admitted request does not free the connection from its turn.
    let admitted = scene.ask(false);
    assert!(scene.state.progress().waits_until.is_some() && scene.state.progress().takes_turns);
    drop(admitted);
    tokio::time::advance(waits).await;
    assert_eq!(scene.state.own_answer_waits_until(), None);
}

#[tokio::test(start_paused = true)]
async fn a_tunnel_that_goes_on_when_it_is_asked_to_close_does_not_keep_others_from_being_asked() {
    let (limit, deadlines) = (SharedDescriptors::default().limit(2), Deadlines::default());
    let looking = deadlines.clone();
    tokio::spawn(async move { looking.run().await });
    let (drain, _gone) = Drain::new();
    let [tunnel, other] = [(); 2].map(|()| ConnectionState::begin(limit.take(&deadlines, true).unwrap(), LIMITS, drain.hold()));
    tunnel.read_some();
    let mut upgrade = InProgress::begin(&tunnel, false);
    upgrade.mark_tunnel();
    drop(upgrade);
    other.read_some();
    let busy = InProgress::begin(&other, false);
    tunnel.set_blocked(true);
    poll_fn(|cx| Poll::Ready(tunnel.poll_due(cx).is_ready())).await;
    let (waiting, of) = (limit.clone(), deadlines.clone());
    tokio::spawn(async move { drop(waiting.permit(&of, true).await) });
    tokio::time::sleep(STALL_GRACE + Duration::from_millis(10)).await;
    assert!(tunnel.is_asked_to_close());
    // The client reads in this moment: the write goes through, and a tunnel looks only at writes that don't.
    tunnel.set_blocked(false);
    drop(busy);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(other.is_asked_to_close(), "the idle connection is asked to give its place up");
}
