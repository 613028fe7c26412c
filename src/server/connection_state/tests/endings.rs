//! When a connection rests, is told that it is the last, is asked whether its client is there, and ends.

use super::*;

const IDLE: Duration = LIMITS.client_idle;

fn http2() -> LimitedConnection {
    let scene = LimitedConnection::new();
    scene.state.preface_came();
    scene
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_rests_after_a_second_unless_more_of_a_body_may_come() {
    let first_due = async |scene: &LimitedConnection| {
        let start = clock::instant();
        let due = timeout(2 * IDLE, poll_fn(|cx| scene.state.poll_due(cx))).await;
        Some((due.ok()?, start.elapsed()))
    };
    let scene = LimitedConnection::new();
    scene.ask_and_answer();
    assert_due(first_due(&scene).await, Due::Rest, REST_AFTER);
    assert_due(first_due(&scene).await, Due::Leave, IDLE.saturating_sub(REST_AFTER));

    for whole in [true, false] {
        let scene = LimitedConnection::new();
        let mut request = scene.ask(true);
        let number = scene.state.begin_body();
        request.mark_forwarded();
        request.mark_answered();
        drop(request);
        scene.state.end_body(number, whole);
        let (how, after) = if whole { (Due::Rest, REST_AFTER) } else { (Due::Leave, IDLE) };
        assert_due(first_due(&scene).await, how, after);
    }
    // Its body is still on its way.
    let scene = LimitedConnection::new();
    let mut request = scene.ask(true);
    scene.state.begin_body();
    request.mark_answered();
    drop(request);
    assert_due(first_due(&scene).await, Due::Leave, IDLE);
    // Neither one of HTTP/2, nor one behind an answer of our own to a request with a body.
    let scene = http2();
    scene.ask_and_answer();
    assert_due(first_due(&scene).await, Due::Leave, IDLE);
    let scene = LimitedConnection::new();
    scene.ask_in_vain(true);
    assert_due(first_due(&scene).await, Due::Leave, IDLE);
}

#[tokio::test(start_paused = true)]
async fn what_comes_behind_a_request_without_a_body_is_the_next_head() {
    for (had_body, how, after) in [(false, Due::Cut, LIMITS.head_timeout), (true, Due::Leave, IDLE)] {
        let scene = LimitedConnection::new();
        let mut request = scene.ask(had_body);
        scene.state.read_some();
        request.mark_forwarded();
        request.mark_answered();
        drop(request);
        assert_due(scene.due(2 * IDLE).await, how, after);
    }
}

#[tokio::test(start_paused = true)]
async fn what_comes_behind_an_answer_of_our_own_to_a_request_with_a_body_has_to_end_in_time() {
    let scene = LimitedConnection::new();
    scene.ask_in_vain(true);
    scene.state.read_some();
    assert_due(scene.due(2 * IDLE).await, Due::Cut, LIMITS.head_timeout);
    assert_eq!(scene.limit.client_errors().iter().map(|(.., count)| count).sum::<u64>(), 0, "it may be a body");
}

#[tokio::test(start_paused = true)]
async fn the_rest_of_a_body_that_comes_behind_the_answer_is_no_head_and_the_connection_is_idle_after_it() {
    for is_own in [false, true] {
        let scene = LimitedConnection::new();
        let mut request = scene.ask(true);
        let number = scene.state.begin_body();
        if is_own {
            request.give_up_place(0);
        } else {
            request.mark_forwarded();
        }
        request.mark_answered();
        drop(request);
        scene.state.read_some();
        tokio::time::advance(LIMITS.head_timeout / 2).await;
        scene.state.end_body(number, true);
        assert_due(scene.due(2 * IDLE).await, Due::Leave, IDLE);
        assert_eq!(scene.limit.client_errors().iter().map(|(.., count)| count).sum::<u64>(), 0);
        scene.state.read_some();
        assert_due(scene.due(2 * IDLE).await, Due::Cut, LIMITS.head_timeout);
    }
}

#[tokio::test(start_paused = true)]
async fn a_drain_waits_a_second_for_the_first_bytes_and_a_moment_for_another_request() {
    for (what, how, after, awaits) in [
        ((|_: &_| {}) as fn(&LimitedConnection), Due::Cut, CLOSE_GRACE, true),
        (LimitedConnection::ask_and_answer, Due::Leave, DRAIN_GRACE, true),
        // It has begun to ask.
        (|scene| scene.state.read_some(), Due::Cut, LIMITS.head_timeout, true),
        // The rest of a body may come first.
        (|scene| scene.ask_in_vain(true), Due::Leave, IDLE, false),
        (
            |scene| {
                scene.ask_and_answer();
                scene.state.set_blocked(true);
            },
            Due::Cut,
            LIMITS.client_stall,
            false,
        ),
    ] {
        let scene = LimitedConnection::new();
        what(&scene);
        assert_eq!(scene.state.awaits_request(), awaits);
        scene.state.shorten_for_drain();
        assert_due(scene.due(2 * IDLE).await, how, after);
    }
    // An HTTP/2 client is told which request is the last.
    let scene = http2();
    scene.ask_and_answer();
    assert!(!scene.state.awaits_request());
    scene.state.shorten_for_drain();
    assert_due(scene.due(2 * IDLE).await, Due::Leave, IDLE);
    let scene = http2();
    scene.state.read_some();
    assert!(!scene.state.awaits_request());
}

#[tokio::test(start_paused = true)]
async fn an_http2_client_that_abandons_a_hundred_streams_more_than_it_lets_finish_has_to_leave_and_at_two_hundred_is_cut() {
    let scene = http2();
    let abandon = |times: usize| (0..times).for_each(|_| drop(scene.ask(false)));
    abandon(99);
    assert_eq!(scene.state.must_end(), None);
    scene.ask_and_answer();
    abandon(1);
    assert_eq!(scene.state.must_end(), None, "one was let finish");
    abandon(1);
    assert_eq!(scene.state.must_end(), Some(Due::Leave));
    abandon(99);
    assert_eq!(scene.state.must_end(), Some(Due::Leave));
    abandon(1);
    assert_eq!(scene.state.must_end(), Some(Due::Cut));

    let http1 = LimitedConnection::new();
    (0..300).for_each(|_| drop(http1.ask(false)));
    assert_eq!(http1.state.must_end(), None, "over HTTP/1.x the connection ends with its exchange");
}

#[tokio::test(start_paused = true)]
async fn an_http2_client_that_sends_no_more_leaves_with_its_last_answer() {
    let scene = http2();
    let mut request = scene.ask(true);
    let number = scene.state.begin_body();
    assert!(scene.state.progress().has_body && scene.state.has_streams() && !scene.state.is_half_closed());
    let woken = Arc::new(Woken::default());
    scene.state.wake_when_half_closed(number, &Waker::from(Arc::clone(&woken)));
    scene.state.set_half_closed();
    assert!(scene.state.is_half_closed() && woken.0.load(Ordering::Relaxed), "its body is cut");
    assert_eq!(scene.state.must_end(), None, "an answer is due");
    scene.state.end_body(number, false);
    request.mark_answered();
    drop(request);
    assert!(!scene.state.has_streams() && !scene.state.progress().has_body);
    assert_eq!((scene.state.progress().requests, scene.state.progress().given_up), (1, 1));
    assert_eq!(scene.state.must_end(), Some(Due::Leave));
}

#[derive(Default)]
struct Woken(AtomicBool);

impl std::task::Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[tokio::test(start_paused = true)]
async fn while_an_answer_is_due_the_client_is_looked_for_every_half_second_and_once_each_time() {
    let scene = LimitedConnection::new();
    let _request = scene.ask(false);
    for _ in 0..3 {
        assert!(!scene.state.begin_client_check() && !scene.state.take_client_check());
        assert_eq!(scene.due(CLIENT_CHECK.mul_f32(1.1)).await, None);
        assert!(!scene.state.take_client_check(), "the stream is not asked yet");
        assert!(scene.state.begin_client_check());
        assert!(!scene.state.begin_client_check() && scene.state.take_client_check());
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_is_looked_for_as_before_when_it_takes_its_answer_again() {
    let scene = LimitedConnection::new();
    let _request = scene.ask(false);
    scene.state.set_blocked(true);
    assert_eq!(scene.due(2 * CLIENT_CHECK).await, None);
    scene.state.set_blocked(false);
    assert_eq!(scene.due(CLIENT_CHECK.mul_f32(1.1)).await, None);
    assert!(scene.state.begin_client_check());
}

#[tokio::test(start_paused = true)]
async fn a_tunnel_is_not_the_connections_to_end() {
    let scene = LimitedConnection::new();
    let mut request = scene.ask(false);
    assert!(!scene.state.is_tunnel());
    request.mark_tunnel();
    drop(request);
    assert!(scene.state.is_tunnel());
    assert_eq!(scene.due(2 * IDLE).await, None);
}

#[tokio::test(start_paused = true)]
async fn a_head_that_does_not_come_in_time_is_counted_as_what_began_it() {
    for (tls, counted) in [(false, "head_timeout"), (true, "tls")] {
        let scene = LimitedConnection::new();
        scene.state.read_some();
        if tls {
            scene.state.tls_came();
        }
        assert_due(scene.due(IDLE).await, Due::Cut, LIMITS.head_timeout);
        let errors = scene.limit.client_errors().into_iter().filter(|(.., count)| *count > 0).collect::<Vec<_>>();
        assert_eq!(errors, [("".into(), counted, 1)]);
    }
    let scene = LimitedConnection::new();
    scene.ask(false).record(ClientError::HeadTimeout);
    assert_eq!(scene.limit.client_errors().iter().map(|(.., count)| count).sum::<u64>(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_answer_without_a_length_to_http10_ends_with_the_connection_until_it_was_given_to_its_last_byte() {
    let scene = LimitedConnection::new();
    let mut request = scene.ask(false);
    assert!(!scene.state.close_delimited());
    request.set_close_delimited();
    assert!(scene.state.close_delimited());
    request.mark_answered();
    assert!(!scene.state.close_delimited());
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_is_asked_for_its_place_gives_it_up_once_and_its_own_answers_are_the_last() {
    let scene = LimitedConnection::new();
    let request = scene.ask(false);
    assert!(!request.connection_should_end() && !scene.state.is_asked_to_close() && !scene.state.caller_is_refused());
    scene.evict().await;
    assert!(request.connection_should_end(), "another client waits");
    drop(request);
    scene.state.slot.evict_now();
    assert!(scene.state.is_asked_to_close());
    assert_due(scene.due(IDLE).await, Due::LeavePlace, Duration::ZERO);
    assert!(scene.state.leave_place() && !scene.state.leave_place());

    let (drain, _gone) = Drain::new();
    let refused = ConnectionState::begin_refused(&scene.deadlines, LIMITS, drain.hold());
    assert!(refused.caller_is_refused() && !refused.leave_place());
    assert!(InProgress::begin(&refused, false).connection_should_end());
    assert!(refused.progress().is_over && !refused.progress().takes_turns);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_sends_more_than_4_mib_without_a_piece_of_its_body_is_told_apart() {
    const MOST: usize = 4 * 1024 * 1024;
    let scene = LimitedConnection::new();
    assert!(!scene.state.is_all_overhead(MOST + 1), "no body is awaited");
    let _request = scene.ask(true);
    let body = scene.state.begin_body();
    assert!(!scene.state.is_all_overhead(MOST) && scene.state.is_all_overhead(1));
    scene.state.body_came(MOST);
    assert!(!scene.state.is_all_overhead(MOST), "it makes up for its own bytes");
    scene.state.end_body(body, true);
    assert!(!scene.state.is_all_overhead(1));
}

#[tokio::test(start_paused = true)]
async fn a_client_takes_turns_until_its_request_is_admitted_and_a_refused_one_is_over_with_its_first() {
    let scene = http2();
    let turns_and_end = |state: &ConnectionState| (state.progress().takes_turns, state.progress().is_over);
    assert_eq!(turns_and_end(&scene.state), (true, false));
    let admitted = scene.ask(false);
    assert_eq!(turns_and_end(&scene.state), (false, false));
    drop(admitted);
    assert_eq!(turns_and_end(&scene.state), (true, false));
    let (drain, _gone) = Drain::new();
    let refused = ConnectionState::begin_refused(&scene.deadlines, LIMITS, drain.hold());
    assert_eq!(turns_and_end(&refused), (false, false));
    let _request = InProgress::begin(&refused, false);
    assert_eq!(turns_and_end(&refused), (false, true));
}
