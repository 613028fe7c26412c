//! Tests what users were promised, one promise each.

use super::*;
use crate::account::failure::Unreachable;

fn fail() -> Scripted {
    Scripted::Fail(LoginError::Unreachable(Unreachable::Cut))
}

fn refuse() -> Scripted {
    Scripted::Fail(LoginError::Refused(StatusCode::UNAUTHORIZED))
}

fn throttle(seconds: u64) -> Scripted {
    Scripted::Fail(LoginError::Throttled(Some(Duration::from_secs(seconds))))
}

#[tokio::test(start_paused = true)]
async fn five_hundred_requests_at_a_cold_start_share_one_log_in() {
    let stage = Stage::open([Scripted::Grant(LIFE)]);
    let waits: Vec<_> = (0..500)
        .map(|_| {
            let account = stage.account.clone();
            tokio::spawn(async move { account.wait_for_bearer().await.map(|bearer| bearer.generation) })
        })
        .collect();
    for wait in waits {
        assert!(wait.await.unwrap().is_ok());
    }
    assert_eq!(stage.log_ins(), 1);
    stage.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_log_in_whose_answer_was_held_back_for_so_long_that_the_next_one_begins_has_worked() {
    let stage = Stage::open([fail(), Scripted::HeldBack(10 * MINUTE), Scripted::Grant(LIFE)]);
    stage.until(StateName::BackingOff).await;
    assert!(stage.account.log_in().await.is_ok());
    let snapshot = stage.account.snapshot();
    assert_eq!((snapshot.state(), snapshot.history.error), (Some(StateName::Refreshing), None));
    assert!(snapshot.history.succeeded_at.is_some());
    stage.until(StateName::Ready).await;
    stage.close().await;
}

#[tokio::test(start_paused = true)]
async fn fifty_401s_cause_one_login() {
    let (stage, old) = Stage::seasoned([Scripted::Grant(LIFE)]).await;
    let reports: Vec<_> = (0..50)
        .map(|_| {
            let (account, refused) = (stage.account.clone(), old.generation);
            tokio::spawn(async move { account.replace(refused, TOKEN_WAIT).await.unwrap() })
        })
        .collect();
    tokio::task::yield_now().await;
    let mut began = 0;
    for report in reports {
        let replaced = report.await.unwrap();
        assert!(replaced.bearer.unwrap().generation > old.generation);
        began += usize::from(replaced.relogin == Relogin::Done);
        assert!(matches!(replaced.relogin, Relogin::Done | Relogin::Joined));
    }
    assert_eq!((stage.log_ins(), began), (2, 1));
    // A later report gets the new token at once.
    let asked = instant();
    let late = stage.account.replace(old.generation, TOKEN_WAIT).await.unwrap();
    assert!(late.bearer.is_some() && late.relogin == Relogin::Joined);
    assert_eq!(asked.elapsed(), Duration::ZERO);
    stage.close().await;
}

#[tokio::test(start_paused = true)]
async fn other_requests_wait_while_the_token_is_suspect() {
    let (stage, old) = Stage::seasoned([Scripted::Grant(LIFE)]).await;
    let account = stage.account.clone();
    let report = tokio::spawn(async move { account.replace(old.generation, TOKEN_WAIT).await.unwrap().bearer.is_some() });
    stage.until(StateName::Refreshing).await;
    assert!(stage.bearer().is_none());
    assert!(stage.account.snapshot().holds_valid_token(stage.clock.now().moment), "readiness does not flap");
    assert_eq!(stage.account.wait_for_bearer().await.unwrap().generation, Generation(2));
    assert!(report.await.unwrap());
    stage.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_failed_log_in_passes_the_401_on_and_brings_the_token_back() {
    let (stage, old) = Stage::seasoned([throttle(60), Scripted::Grant(LIFE)]).await;
    let replaced = stage.account.replace(old.generation, TOKEN_WAIT).await.unwrap();
    assert!(replaced.bearer.is_none() && replaced.relogin == Relogin::Failed);
    assert_eq!(stage.bearer().unwrap().generation, old.generation);
    let asked = instant();
    assert!(
        stage.account.replace(old.generation, TOKEN_WAIT).await.unwrap().bearer.is_none(),
        "while it waits for long, a 401 starts none"
    );
    assert_eq!(asked.elapsed(), Duration::ZERO, "and is not held back");
    assert_eq!(stage.log_ins(), 2);
    stage.pass(MINUTE + SECOND).await;
    assert_eq!(stage.bearer().unwrap().generation, Generation(3));
    stage.close().await;
}

/// The request whose 401 began the log-in that failed waits like the others.
#[tokio::test(start_paused = true)]
async fn a_401_waits_for_the_attempt_that_is_already_scheduled_and_starts_none() {
    let (stage, old) = Stage::seasoned([fail(), fail(), Scripted::Grant(LIFE)]).await;
    let asked = instant();
    let first = tokio::spawn({
        let (account, refused) = (stage.account.clone(), old.generation);
        async move { account.replace(refused, TOKEN_WAIT).await.unwrap() }
    });
    stage.pass(SECOND).await;
    let second = stage.account.replace(old.generation, TOKEN_WAIT).await.unwrap();
    for (replaced, relogin) in [(first.await.unwrap(), Relogin::Done), (second, Relogin::Joined)] {
        assert_eq!((replaced.bearer.unwrap().generation, replaced.relogin), (Generation(4), relogin));
    }
    assert!(asked.elapsed() < 10 * SECOND, "{:?}", asked.elapsed());
    assert_eq!(stage.log_ins(), 4);
    stage.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_401_is_passed_on_when_no_attempt_is_due_in_time() {
    let (stage, old) = Stage::seasoned([throttle(8), throttle(60), Scripted::Grant(LIFE)]).await;
    let asked = instant();
    assert!(stage.account.replace(old.generation, TOKEN_WAIT).await.unwrap().bearer.is_none());
    assert!((8 * SECOND..9 * SECOND).contains(&asked.elapsed()), "it waited for one attempt: {:?}", asked.elapsed());
    assert_eq!(stage.log_ins(), 3);
    stage.pass(MINUTE + SECOND).await;
    stage.close().await;
}

#[tokio::test(start_paused = true)]
async fn after_an_outage_that_began_with_a_401_the_log_in_comes_within_ten_seconds() {
    let outage = Duration::from_secs(20 * 60);
    let (stage, old) = Stage::seasoned(std::iter::repeat_n(fail(), 500)).await;
    let begun = instant();
    let mut earlier = 0;
    while begun.elapsed() < outage {
        assert!(stage.account.replace(old.generation, TOKEN_WAIT).await.unwrap().bearer.is_none());
        stage.pass(SECOND).await;
        if begun.elapsed() > outage / 2 && earlier == 0 {
            earlier = stage.log_ins();
        }
    }
    // Ten seconds at most, and five and a half on average.
    let in_ten_minutes = stage.log_ins() - earlier;
    assert!((58..130).contains(&in_ten_minutes), "{in_ten_minutes}");
    stage.script.lines.lock().unwrap().clear();
    stage.script.lines.lock().unwrap().push_back((LOGIN_TAKES, Scripted::Grant(LIFE)));
    let asked = instant();
    while stage.account.replace(old.generation, TOKEN_WAIT).await.unwrap().bearer.is_none() {}
    assert!(asked.elapsed() <= 11 * SECOND, "{:?}", asked.elapsed());
    stage.close().await;
}

/// One path always answers 401 during an outage of the log-in, among good traffic.
#[tokio::test(start_paused = true)]
async fn a_path_that_always_answers_401_does_not_shorten_the_back_off() {
    let (stage, old) = Stage::seasoned(std::iter::repeat_n(fail(), 100)).await;
    stage.account.unauthorized(old.generation).await;
    for _ in 0..1200 {
        stage.account.unauthorized(old.generation).await;
        stage.account.answered(old.generation);
        stage.pass(SECOND / 2).await;
    }
    // Ten minutes: half a minute apart on average, once the backoff has its full length.
    assert!((10..40).contains(&stage.log_ins()), "{}", stage.log_ins());
    stage.script.lines.lock().unwrap().clear();
    stage.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_log_in_that_takes_too_long_passes_the_401_on() {
    let lines = [(LOGIN_TAKES, Scripted::Grant(LIFE)), (15 * SECOND, Scripted::Grant(LIFE))];
    let stage = Stage::open_slow(lines);
    let old = stage.account.wait_for_bearer().await.unwrap().generation;
    stage.pass(FLOOR).await;
    let asked = instant();
    let account = stage.account.clone();
    let other = tokio::spawn(async move {
        tokio::time::sleep(SECOND).await;
        (account.wait_for_bearer().await.unwrap_err(), instant())
    });
    assert!(stage.account.replace(old, TOKEN_WAIT).await.unwrap().bearer.is_none());
    assert_eq!(asked.elapsed(), 10 * SECOND);
    let (unavailable, answered) = other.await.unwrap();
    assert_eq!(unavailable.why, Why::TokenPending);
    assert_eq!(answered - asked, 11 * SECOND);
    stage.pass(5 * SECOND).await;
    assert!(stage.bearer().unwrap().generation > old, "the log-in itself went on");
    stage.close().await;
}

#[tokio::test(start_paused = true)]
async fn cancelled_waiter_does_not_cancel_the_login() {
    let stage = Stage::open([Scripted::Grant(LIFE)]);
    let account = stage.account.clone();
    let waiter = tokio::spawn(async move { account.wait_for_bearer().await.is_ok() });
    tokio::task::yield_now().await;
    waiter.abort();
    assert!(waiter.await.unwrap_err().is_cancelled());
    stage.until(StateName::Ready).await;
    assert_eq!(stage.log_ins(), 1);
    stage.close().await;
}

#[tokio::test(start_paused = true)]
async fn cancelled_report_does_not_cancel_the_login() {
    let (stage, old) = Stage::seasoned([Scripted::Grant(LIFE)]).await;
    let account = stage.account.clone();
    let report = tokio::spawn(async move { account.replace(old.generation, TOKEN_WAIT).await.unwrap().bearer.is_some() });
    stage.until(StateName::Refreshing).await;
    report.abort();
    stage.until(StateName::Ready).await;
    assert_eq!(stage.bearer().unwrap().generation, Generation(2));
    stage.close().await;
}

#[tokio::test(start_paused = true)]
async fn suspend_past_expiry_never_sends_the_old_token() {
    let stage = Stage::open([Scripted::Grant(10 * MINUTE), Scripted::Grant(LIFE)]);
    let old = stage.account.wait_for_bearer().await.unwrap().generation;
    stage.clock.suspend(11 * MINUTE);
    // No timer has noticed yet.
    assert!(stage.bearer().is_none());
    let asked = instant();
    let new = stage.account.wait_for_bearer().await.unwrap().generation;
    assert!(new > old);
    assert!(asked.elapsed() < SECOND, "the request itself wakes the driver");
    stage.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_401_after_expiry_in_a_suspend_waits_for_the_new_token() {
    let stage = Stage::open([Scripted::Grant(10 * MINUTE), Scripted::Grant(LIFE)]);
    let old = stage.account.wait_for_bearer().await.unwrap().generation;
    stage.clock.suspend(11 * MINUTE);
    assert!(stage.account.replace(old, TOKEN_WAIT).await.unwrap().bearer.unwrap().generation > old);
    stage.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_token_is_refreshed_right_after_a_suspend() {
    let stage = Stage::open([Scripted::Grant(LIFE), Scripted::Grant(LIFE)]);
    let old = stage.account.wait_for_bearer().await.unwrap().generation;
    stage.clock.suspend(MINUTE);
    assert_eq!(stage.bearer().unwrap().generation, old, "it still serves");
    stage.pass(31 * SECOND).await;
    assert!(stage.bearer().unwrap().generation > old);
    assert_eq!(*stage.script.refreshed.lock().unwrap(), [false, true]);
    stage.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_wall_clock_that_jumps_ends_no_token() {
    let stage = Stage::open([Scripted::Grant(LIFE), Scripted::Grant(LIFE)]);
    let old = stage.account.wait_for_bearer().await.unwrap().generation;
    stage.clock.step_wall(3 * DAY);
    assert_eq!(stage.bearer().unwrap().generation, old);
    // It may have been a suspend that no other clock counted.
    stage.pass(31 * SECOND).await;
    assert!(stage.bearer().unwrap().generation > old);
    stage.close().await;
}

#[tokio::test(start_paused = true)]
async fn the_refresh_comes_in_time_and_no_request_waits_for_it() {
    let stage = Stage::open([Scripted::Grant(100 * SECOND), Scripted::Grant(LIFE)]);
    stage.account.wait_for_bearer().await.unwrap();
    for _ in 0..100 {
        stage.pass(SECOND).await;
        assert!(stage.bearer().is_some());
    }
    assert_eq!(stage.bearer().unwrap().generation, Generation(2));
    stage.close().await;
}

#[tokio::test(start_paused = true)]
async fn expiry_during_an_outage_ends_in_a_503_and_then_heals() {
    let outage = [fail(), fail(), fail(), fail(), fail(), fail(), fail(), fail()];
    let lines = [Scripted::Grant(60 * SECOND)].into_iter().chain(outage).chain([Scripted::Grant(LIFE)]);
    let stage = Stage::open(lines);
    let old = stage.account.wait_for_bearer().await.unwrap();
    stage.pass(58 * SECOND).await;
    assert!(stage.bearer().is_none() && !old.is_usable(stage.clock.now().moment));
    stage.until(StateName::BackingOff).await;
    let (snapshot, now) = (stage.account.snapshot(), stage.clock.now());
    assert!(!snapshot.holds_valid_token(now.moment) && snapshot.last_error().is_some() && snapshot.expires_at(now).is_none());
    stage.until(StateName::Ready).await;
    assert!(stage.bearer().is_some());
    assert_eq!(stage.account.snapshot().last_error(), None);
    stage.close().await;
}

#[tokio::test(start_paused = true)]
async fn backing_off_holds_a_request_only_if_the_next_attempt_is_close() {
    let stage = Stage::open([throttle(5), throttle(90), Scripted::Grant(LIFE)]);
    stage.until(StateName::BackingOff).await;
    let asked = instant();
    // The attempt in five seconds is waited for; the one after it is too far.
    let unavailable = stage.account.wait_for_bearer().await.unwrap_err();
    assert_eq!(unavailable.why, Why::LoginFailing);
    assert_eq!(unavailable.retry_after, 90 * SECOND);
    assert!((5 * SECOND..6 * SECOND).contains(&asked.elapsed()));
    let asked = instant();
    assert_eq!(stage.account.wait_for_bearer().await.unwrap_err().why, Why::LoginFailing);
    assert_eq!(asked.elapsed(), Duration::ZERO);
    stage.until(StateName::Ready).await;
    assert!(asked.elapsed() >= 89 * SECOND, "Retry-After is honoured");
    stage.close().await;
}

#[tokio::test(start_paused = true)]
async fn rejected_retry_schedule() {
    let stage = Stage::open([refuse(), refuse(), refuse(), refuse(), refuse(), refuse(), Scripted::Grant(LIFE)]);
    stage.until(StateName::Rejected).await;
    let unavailable = stage.account.wait_for_bearer().await.unwrap_err();
    assert_eq!((unavailable.why, unavailable.retry_after), (Why::LoginRejected, MINUTE));
    for (number, minutes) in (2..).zip([1, 2, 4, 8, 15, 15]) {
        stage.pass(Duration::from_secs(minutes * 60 - 1)).await;
        assert_eq!(stage.log_ins(), number - 1);
        stage.pass(SECOND + 2 * LOGIN_TAKES).await;
        assert_eq!(stage.log_ins(), number);
    }
    assert_eq!(stage.state(), Some(StateName::Ready));
    stage.close().await;
}

#[tokio::test(start_paused = true)]
async fn changed_credentials_end_a_rejection_at_once() {
    let stage = Stage::open([refuse(), Scripted::Grant(LIFE)]);
    stage.until(StateName::Rejected).await;
    let changed = instant();
    stage.changes.send(CredentialChange::Credentials).await.unwrap();
    stage.until(StateName::Ready).await;
    assert!(changed.elapsed() < SECOND);
    stage.close().await;
}

#[tokio::test(start_paused = true)]
async fn credentials_that_change_in_flight_start_a_new_log_in() {
    let stage = Stage::open([Scripted::Hang, Scripted::Grant(LIFE)]);
    stage.until(StateName::LoggingIn).await;
    tokio::task::yield_now().await;
    stage.changes.send(CredentialChange::Credentials).await.unwrap();
    stage.until(StateName::Ready).await;
    assert_eq!(stage.log_ins(), 2);
    assert_eq!(stage.script.finished.load(Ordering::SeqCst), 1, "the first was given up");
    stage.close().await;
}

#[tokio::test(start_paused = true)]
async fn changed_credentials_log_in_anew_without_a_gap_or_the_refresh_token() {
    let stage = Stage::open([Scripted::Grant(LIFE), Scripted::Grant(LIFE)]);
    stage.account.wait_for_bearer().await.unwrap();
    stage.changes.send(CredentialChange::Credentials).await.unwrap();
    stage.until(StateName::Refreshing).await;
    assert!(stage.bearer().is_some());
    stage.until(StateName::Ready).await;
    assert_eq!(stage.bearer().unwrap().generation, Generation(2));
    assert_eq!(*stage.script.refreshed.lock().unwrap(), [false, false]);
    stage.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_changed_organization_withdraws_the_bearer_at_once() {
    let stage = Stage::open([Scripted::Grant(LIFE), Scripted::Grant(LIFE)]);
    assert_eq!(stage.account.wait_for_bearer().await.unwrap().organization, "acme");
    *stage.script.organization.lock().unwrap() = "umbrella";
    stage.changes.send(CredentialChange::Organization).await.unwrap();
    stage.until(StateName::LoggingIn).await;
    assert!(stage.bearer().is_none());
    assert_eq!(stage.account.wait_for_bearer().await.unwrap().organization, "umbrella");
    stage.close().await;
}

/// The watch need not have seen the change: a log-in may come first.
#[tokio::test(start_paused = true)]
async fn a_log_in_that_reads_another_organization_ends_the_old_bearer_however_it_ends() {
    for ending in [fail(), refuse(), Scripted::Hang] {
        let stage = Stage::open([Scripted::Grant(LIFE), ending]);
        stage.account.wait_for_bearer().await.unwrap();
        *stage.script.organization.lock().unwrap() = "umbrella";
        let account = stage.account.clone();
        let log_in = tokio::spawn(async move { account.log_in().await });
        stage.until(StateName::LoggingIn).await;
        assert!(stage.bearer().is_none(), "no request carries the old organization while the log-in is in flight");
        assert!(!stage.account.snapshot().holds_valid_token(stage.clock.now().moment));
        stage.pass(LOGIN_TAKES + Duration::from_millis(1)).await;
        assert!(stage.bearer().is_none(), "nor after it");
        log_in.abort();
        stage.close().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_refresh_that_reads_the_same_organization_lets_the_bearer_serve() {
    let stage = Stage::open([Scripted::Grant(LIFE), Scripted::Hang]);
    let bearer = stage.account.wait_for_bearer().await.unwrap();
    let account = stage.account.clone();
    let log_in = tokio::spawn(async move { account.log_in().await });
    stage.until(StateName::Refreshing).await;
    stage.pass(SECOND).await;
    assert_eq!(stage.bearer().unwrap().generation, bearer.generation);
    log_in.abort();
    stage.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_request_that_waits_at_an_account_that_ends_is_told() {
    let replaced = Unavailable { why: Why::Replaced, retry_after: SECOND };
    for line in [Scripted::Hang, throttle(5)] {
        let stage = Stage::open([line]);
        let account = stage.account.clone();
        let waits = tokio::spawn(async move { account.wait_for_bearer().await });
        stage.pass(SECOND).await;
        stage.account.shut_down().await;
        assert_eq!(waits.await.unwrap().unwrap_err(), replaced);
        assert_eq!(stage.account.wait_for_bearer().await.unwrap_err(), replaced, "and so is one that comes later");
        assert_eq!(stage.state(), Some(StateName::LoggedOut), "status has no word for it");
        assert!(!stage.account.is_logged_out());
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_with_a_401_waits_for_what_is_left_of_its_time() {
    let (stage, old) = Stage::seasoned([Scripted::Hang]).await;
    let asked = instant();
    let replaced = stage.account.replace(old.generation, 3 * SECOND).await.unwrap();
    assert!(replaced.bearer.is_none());
    assert_eq!(asked.elapsed(), 3 * SECOND);
    stage.close().await;
}

#[tokio::test(start_paused = true)]
async fn so_is_a_request_with_a_401() {
    let replaced = Unavailable { why: Why::Replaced, retry_after: SECOND };
    let (stage, old) = Stage::seasoned([Scripted::Hang]).await;
    let (account, refused) = (stage.account.clone(), old.generation);
    let waits = tokio::spawn(async move { account.replace(refused, TOKEN_WAIT).await.map(|replaced| replaced.bearer.is_some()) });
    stage.until(StateName::Refreshing).await;
    stage.account.shut_down().await;
    assert_eq!(waits.await.unwrap(), Err(replaced));
    assert_eq!(stage.account.replace(old.generation, TOKEN_WAIT).await.err(), Some(replaced), "and so is one that comes later");
    // One that can't go again has nobody to tell.
    stage.account.unauthorized(old.generation).await;
}

#[tokio::test(start_paused = true)]
async fn an_account_that_ends_after_a_log_out_stays_logged_out() {
    let (stage, _) = Stage::seasoned([]).await;
    stage.account.log_out().await;
    assert!(stage.account.is_logged_out());
    stage.account.shut_down().await;
    assert!(stage.account.is_logged_out());
    assert_eq!(stage.account.wait_for_bearer().await.unwrap_err().why, Why::LoggedOut);
}

#[tokio::test(start_paused = true)]
async fn the_first_failure_and_the_log_out_give_the_time_since_when_there_is_trouble() {
    let stage = Stage::open([fail(), fail(), fail()]);
    let since = || stage.account.snapshot().trouble_since(stage.clock.now());
    let failed_at = || stage.account.snapshot().last_error_at();
    assert_eq!(since(), None);
    stage.until(StateName::BackingOff).await;
    let first = failed_at();
    while failed_at() == first {
        stage.pass(SECOND).await;
    }
    assert!(first.is_some() && since() == first, "{first:?}");
    stage.account.log_out().await;
    let logged_out = since();
    assert!(logged_out > first);
    stage.pass(MINUTE).await;
    assert_eq!(since(), logged_out);
}

#[tokio::test(start_paused = true)]
async fn an_account_that_follows_a_logged_out_one_waits_for_a_log_in() {
    let stage = Stage::begin(Start::StayLoggedOut, [(LOGIN_TAKES, Scripted::Grant(LIFE))]);
    assert!(stage.account.is_logged_out(), "from the first moment on");
    stage.changes.send(CredentialChange::Credentials).await.unwrap();
    stage.changes.send(CredentialChange::Organization).await.unwrap();
    stage.clock.suspend(DAY);
    stage.pass(MINUTE).await;
    assert_eq!(stage.account.wait_for_bearer().await.unwrap_err().why, Why::LoggedOut);
    assert_eq!(stage.log_ins(), 0);
    assert_eq!(stage.account.log_in().await, Ok(()));
    assert!(stage.bearer().is_some());
    stage.close().await;
}

/// The log-in comes between the successor's start and the end of the one before.
#[tokio::test(start_paused = true)]
async fn a_log_in_is_not_lost_when_another_account_takes_the_place() {
    for logs_in in [true, false] {
        let (before, _) = Stage::seasoned(logs_in.then_some(Scripted::Grant(LIFE))).await;
        before.account.log_out().await;
        let lines = logs_in.then_some((LOGIN_TAKES, Scripted::Grant(LIFE)));
        let after = Stage::begin(Start::StayLoggedOut, lines);
        if logs_in {
            assert_eq!(before.account.log_in().await, Ok(()));
        }
        before.account.give_way_to(Some(&after.account)).await;
        assert!(before.bearer().is_none());
        after.pass(MINUTE).await;
        assert_eq!(after.bearer().is_some(), logs_in);
        after.close().await;
    }
}

#[tokio::test(start_paused = true)]
async fn log_out_while_in_flight_ends_the_log_in() {
    let stage = Stage::open([Scripted::Grant(LIFE)]);
    stage.until(StateName::LoggingIn).await;
    tokio::task::yield_now().await;
    stage.account.log_out().await;
    assert_eq!(stage.state(), Some(StateName::LoggedOut));
    stage.pass(MINUTE).await;
    assert!(stage.bearer().is_none());
    assert_eq!(stage.script.finished.load(Ordering::SeqCst), 0);
    stage.close().await;
}

#[tokio::test(start_paused = true)]
async fn after_a_log_out_only_a_log_in_helps() {
    let (stage, old) = Stage::seasoned([Scripted::Grant(LIFE)]).await;
    stage.account.log_out().await;
    assert!(stage.bearer().is_none());
    stage.changes.send(CredentialChange::Credentials).await.unwrap();
    stage.changes.send(CredentialChange::Organization).await.unwrap();
    stage.clock.suspend(DAY);
    assert!(stage.account.replace(old.generation, TOKEN_WAIT).await.unwrap().bearer.is_none());
    stage.pass(MINUTE).await;
    let asked = instant();
    assert_eq!(stage.account.wait_for_bearer().await.unwrap_err().why, Why::LoggedOut);
    assert_eq!(asked.elapsed(), Duration::ZERO);
    assert_eq!(stage.log_ins(), 1);
    assert_eq!(stage.account.log_in().await, Ok(()));
    assert!(stage.bearer().is_some());
    stage.close().await;
}

#[tokio::test(start_paused = true)]
async fn log_in_waits_for_its_outcome_and_tells_it() {
    let stage = Stage::open([refuse(), refuse(), Scripted::Grant(LIFE), Scripted::Hang]);
    let refused = LogInFailed::Failed(LoginError::Refused(StatusCode::UNAUTHORIZED));
    assert_eq!(stage.account.log_in().await, Err(refused.clone()), "it joins the one in flight");
    assert_eq!(stage.account.log_in().await, Err(refused));
    assert_eq!(stage.account.log_in().await, Ok(()));
    let account = stage.account.clone();
    let asked = tokio::spawn(async move { account.log_in().await });
    stage.until(StateName::Refreshing).await;
    stage.account.log_out().await;
    assert_eq!(asked.await.unwrap(), Err(LogInFailed::LoggedOut));
    stage.close().await;
}

#[tokio::test(start_paused = true)]
async fn too_many_that_wait_for_a_log_in_are_told_so() {
    let stage = Stage::open([(Scripted::Grant(LIFE))]);
    let asked: Vec<_> = (0..100)
        .map(|_| {
            let account = stage.account.clone();
            tokio::spawn(async move { account.log_in().await })
        })
        .collect();
    let mut busy = 0;
    for asked in asked {
        match asked.await.unwrap() {
            Ok(()) => {}
            other => {
                assert_eq!(other, Err(LogInFailed::Busy));
                busy += 1;
            }
        }
    }
    assert_eq!(busy, 36);
    stage.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_shut_down_forgets_the_token_and_ends_every_wait() {
    let stage = Stage::open([Scripted::Hang]);
    let account = stage.account.clone();
    let waiter = tokio::spawn(async move { account.wait_for_bearer().await.map(drop) });
    tokio::task::yield_now().await;
    stage.account.shut_down().await;
    assert_eq!(waiter.await.unwrap().unwrap_err().why, Why::Replaced);
    assert_eq!(stage.account.log_in().await, Err(LogInFailed::Ended));
    stage.account.log_out().await;
    stage.close().await;
}

#[tokio::test(start_paused = true)]
async fn the_token_is_wiped_when_the_last_request_lets_go() {
    let (stage, bearer) = Stage::seasoned([]).await;
    let held = Arc::downgrade(&bearer);
    stage.account.log_out().await;
    assert!(held.upgrade().is_some(), "a request still carries it");
    drop(bearer);
    assert!(held.upgrade().is_none(), "and nobody else does");
    stage.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_refresh_token_is_handed_to_the_next_scheduled_log_in() {
    let stage = Stage::open([Scripted::Grant(100 * SECOND), Scripted::Grant(LIFE), Scripted::Grant(LIFE)]);
    stage.account.wait_for_bearer().await.unwrap();
    stage.pass(90 * SECOND).await;
    assert_eq!(stage.account.log_in().await, Ok(()), "asked for by name, it uses the credentials");
    assert_eq!(*stage.script.refreshed.lock().unwrap(), [false, true, false]);
    stage.close().await;
}

/// One path answers ten thousand 401s among good traffic, over two hours.
#[tokio::test(start_paused = true)]
async fn a_path_that_always_answers_401_costs_one_log_in_for_each_doubled_floor() {
    let (stage, _) = Stage::seasoned(std::iter::repeat_n(Scripted::Grant(30 * DAY), 7)).await;
    let mut longest = Duration::ZERO;
    for _ in 0..100 {
        let carried = stage.account.wait_for_bearer().await.unwrap().generation;
        let storm: Vec<_> = (0..100)
            .map(|_| {
                let account = stage.account.clone();
                tokio::spawn(async move {
                    if let Some(fresh) = account.replace(carried, TOKEN_WAIT).await.unwrap().bearer {
                        account.rejected_again(fresh.generation);
                    }
                })
            })
            .collect();
        let asked = instant();
        tokio::task::yield_now().await;
        assert!(stage.account.wait_for_bearer().await.is_ok(), "good traffic goes on");
        longest = longest.max(asked.elapsed());
        for path in storm {
            path.await.unwrap();
        }
        stage.pass(72 * SECOND).await;
    }
    assert!(longest <= 2 * LOGIN_TAKES, "{longest:?}");
    // 30 s, 1, 2, 4, 8, 16, 32 minutes apart: seven in two hours, the next after an hour.
    assert_eq!(stage.log_ins(), 1 + 7);
    stage.close().await;
}

#[tokio::test(start_paused = true)]
async fn acceptance_resets_the_floor_though_another_path_still_gets_401s() {
    let (stage, old) = Stage::seasoned([Scripted::Grant(LIFE), Scripted::Grant(LIFE), Scripted::Grant(LIFE)]).await;
    let second = stage.account.replace(old.generation, TOKEN_WAIT).await.unwrap().bearer.unwrap().generation;
    stage.account.rejected_again(second);
    stage.pass(FLOOR).await;
    assert!(stage.account.replace(second, TOKEN_WAIT).await.unwrap().bearer.is_none(), "the floor has doubled");
    stage.pass(FLOOR).await;
    let third = stage.account.replace(second, TOKEN_WAIT).await.unwrap().bearer.unwrap().generation;
    stage.account.rejected_again(third);
    stage.account.accepted(third);
    stage.pass(FLOOR).await;
    assert!(stage.account.replace(third, TOKEN_WAIT).await.unwrap().bearer.is_some());
    stage.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_401_for_a_young_token_is_passed_on_at_once() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let stage = Stage::open([Scripted::Grant(LIFE)]);
    let young = stage.account.wait_for_bearer().await.unwrap().generation;
    let asked = instant();
    for _ in 0..2 {
        let replaced = stage.account.replace(young, TOKEN_WAIT).await.unwrap();
        assert!(replaced.bearer.is_none() && replaced.relogin == Relogin::TooYoung);
        // The same for a request whose body is gone.
        assert_eq!(stage.account.unauthorized(young).await, Some(Relogin::TooYoung));
    }
    assert_eq!(asked.elapsed(), Duration::ZERO);
    let lines = log.lines().into_iter().filter(|line| line.contains("younger than relogin_floor")).collect::<Vec<_>>();
    assert!(lines.len() == 1 && lines[0].contains("account=\"crm\" relogin_in_s="), "one line for each token: {lines:?}");
    stage.close().await;
}

#[tokio::test(start_paused = true)]
async fn the_status_tells_times_by_our_clock() {
    let stage = Stage::open([Scripted::Grant(1000 * SECOND)]);
    stage.account.wait_for_bearer().await.unwrap();
    let (snapshot, now) = (stage.account.snapshot(), stage.clock.now());
    let left = snapshot.expires_at(now).unwrap().duration_since(now.wall).unwrap();
    assert!((999 * SECOND..=1000 * SECOND).contains(&left), "{left:?}");
    let refresh = snapshot.refresh_at(now).unwrap().duration_since(now.wall).unwrap();
    assert!((719 * SECOND..=880 * SECOND).contains(&refresh), "{refresh:?}");
    assert_eq!(snapshot.last_login_at(), Some(now.wall));
    assert_eq!(snapshot.state(), Some(StateName::Ready));
    assert!(snapshot.is_usable(now.moment));
    stage.close().await;
}

#[tokio::test(start_paused = true)]
async fn an_account_without_log_in_sends_its_organization_alone() {
    let mut config = config();
    config.accounts[0].login = None;
    let clock = ManualClock::new();
    let account =
        Account::start(Arc::new(config), AccountId(0), None, Start::LogIn, clock.clone(), Jitter::seeded(1), Arc::default())
            .unwrap();
    let bearer = account.wait_for_bearer().await.unwrap();
    assert!(bearer.authorization.is_none());
    assert_eq!(bearer.organization, "acme");
    assert_eq!(account.snapshot().state(), None);
    assert!(account.relogin_on().is_empty());
    assert!(account.replace(bearer.generation, TOKEN_WAIT).await.unwrap().bearer.is_none());
    assert_eq!(account.log_in().await, Ok(()));
    account.log_out().await;
    assert!(account.bearer(clock.now().moment).is_some());
    account.shut_down().await;
    assert!(account.bearer(clock.now().moment).is_none());
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_401s_at_once_cause_one_log_in() {
    let (stage, old) = Stage::seasoned([Scripted::Grant(LIFE)]).await;
    let reports: Vec<_> = (0..10_000)
        .map(|_| {
            let (account, refused) = (stage.account.clone(), old.generation);
            tokio::spawn(async move { account.replace(refused, TOKEN_WAIT).await.unwrap().bearer.is_some() })
        })
        .collect();
    for report in reports {
        assert!(report.await.unwrap());
    }
    assert_eq!(stage.log_ins(), 2);
    stage.close().await;
}

#[tokio::test]
async fn workers_on_other_threads_share_the_account() {
    let stage = Stage::open([Scripted::Grant(LIFE)]);
    let workers: Vec<_> = (0..4)
        .map(|_| {
            let account = stage.account.clone();
            let clock = Arc::clone(&stage.clock);
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
                let generation = runtime.block_on(account.wait_for_bearer()).unwrap().generation;
                assert_eq!(account.bearer(clock.now().moment).unwrap().generation, generation);
                generation
            })
        })
        .collect();
    for worker in workers {
        let joined = tokio::task::spawn_blocking(move || worker.join().unwrap()).await;
        assert_eq!(joined.unwrap(), Generation(1));
    }
    stage.close().await;
}

/// A writer that collects what is logged on this thread.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Log {
    fn lines(&self) -> Vec<String> {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        text.lines().map(str::to_owned).collect()
    }
}

#[tokio::test(start_paused = true)]
async fn the_log_has_one_line_for_each_change_of_the_state() {
    let log = Log::default();
    let writer = log.clone();
    let format = tracing_subscriber::fmt().without_time().with_ansi(false).with_max_level(tracing::Level::TRACE);
    let subscriber = format.with_writer(move || writer.clone()).finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let script = [fail(), fail(), fail(), refuse(), refuse(), Scripted::Grant(MINUTE), fail(), fail(), Scripted::Grant(LIFE)];
    let stage = Stage::open(script);
    stage.until(StateName::Ready).await;
    stage.pass(50 * SECOND).await;
    stage.until(StateName::Ready).await;
    stage.account.log_out().await;
    stage.close().await;
    let lines = log.lines();
    let words = [
        ("INFO", "logging in", "state=\"logging_in\""),
        ("WARN", "log-in failed: the connection failed", "state=\"backing_off\" reason=\"login_cut\" next_attempt_s="),
        ("WARN", "log-in failed: the server refused", "state=\"rejected\" reason=\"login_refused\" next_attempt_s=60 advice="),
        ("INFO", "logged in", "state=\"ready\" expires_in_s="),
        ("DEBUG", "renewing the token", "state=\"refreshing\" expires_in_s="),
        (
            "WARN",
            "log-in failed, the present token serves until it expires: ",
            "state=\"refreshing\" reason=\"login_cut\" next_attempt_s=",
        ),
        ("INFO", "token renewed", "state=\"ready\" expires_in_s="),
        ("INFO", "logged out: only an explicit log-in", "state=\"logged_out\""),
    ];
    assert_eq!(lines.len(), words.len(), "{lines:#?}");
    for (line, (level, message, field)) in lines.iter().zip(words) {
        assert!(line.contains(level) && line.contains("account=\"crm\""), "{line}");
        assert!(line.contains(message) && line.contains(field), "{line}");
        for secret in ["ann", "s3cret", "acme", "Bearer", "eyJ"] {
            assert!(!line.contains(secret), "{line}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_bearer_of_another_account_is_known_as_such_and_logged_once() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_max_level(tracing::Level::ERROR);
    let _guard = tracing::subscriber::set_default(subscriber.with_writer(move || writer.clone()).finish());
    let (stage, _) = Stage::seasoned([Scripted::Grant(LIFE)]).await;
    let (other, foreign) = Stage::seasoned([]).await;
    stage.account.log_in().await.unwrap();
    // A renewed token is its own, too.
    assert!(stage.account.has_fetched(&stage.bearer().unwrap()) && other.account.has_fetched(&foreign));
    assert_eq!(log.lines(), Vec::<String>::new());
    stage.account.task.bearer.store(Some(foreign));
    for _ in 0..3 {
        assert!(!stage.account.has_fetched(&stage.bearer().unwrap()));
    }
    let [line] = log.lines().try_into().unwrap();
    assert!(line.contains("a bearer of another account") && line.contains("account=\"crm\""), "{line}");
    stage.close().await;
    other.close().await;
}
