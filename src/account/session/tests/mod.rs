//! The table of the states, then a seeded simulation against a model that knows only the rules.
//!
//! `SIDECAR_SIM_SEED=<n>` plays one seed again, `SIDECAR_SIM_SEEDS=<n>` plays that many.

use std::time::SystemTime;

use http::{HeaderValue, StatusCode};

use super::{
    super::{failure::Unreachable, token::Grant},
    *,
};
use crate::clock::Now;

mod simulation;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const FLOOR: Duration = Duration::from_secs(30);
const LIFE: Duration = Duration::from_secs(1000);

/// A session and its clock.
struct Story {
    session: Session,
    now: Moment,
    jitter: Jitter,
}

impl Story {
    fn new() -> Self {
        Self { session: Session::new(FLOOR), now: Moment::new(100 * SECOND), jitter: Jitter::seeded(1) }
    }

    fn logging_in() -> Self {
        let mut story = Self::new();
        story.starts(Event::LogIn);
        story
    }

    fn ready() -> Self {
        let mut story = Self::logging_in();
        story.land_token(LIFE);
        story
    }

    /// A token as old as the floor asks.
    fn seasoned() -> Self {
        let mut story = Self::ready();
        story.now = story.now + FLOOR;
        story
    }

    fn suspect() -> Self {
        let mut story = Self::seasoned();
        let refused = story.generation();
        story.starts(Event::Unauthorized(refused));
        story
    }

    fn refresh_waiting() -> Self {
        let mut story = Self::ready();
        story.starts(Event::LogIn);
        story.land_error(transient());
        story
    }

    fn backing_off() -> Self {
        let mut story = Self::logging_in();
        story.land_error(transient());
        story
    }

    fn rejected() -> Self {
        let mut story = Self::logging_in();
        story.land_error(refused());
        story
    }

    fn rejected_with_token() -> Self {
        let mut story = Self::ready();
        story.starts(Event::LogIn);
        story.land_error(refused());
        story
    }

    fn step(&mut self, event: Event) -> Option<Effect> {
        let effect = self.session.step(event, self.now, &mut self.jitter);
        assert_eq!(self.session.check_invariants(self.now), Ok(()));
        effect
    }

    #[track_caller]
    fn starts(&mut self, event: Event) -> Option<Arc<Secret>> {
        let shown = format!("{event:?}");
        match self.step(event) {
            Some(Effect::StartLogin { attempt, refresh }) => {
                assert_eq!(self.session.attempt(), Some(attempt));
                refresh
            }
            None => panic!("{shown} started no log-in in {:?}", self.session),
        }
    }

    #[track_caller]
    fn quiet(&mut self, event: Event) {
        let shown = format!("{event:?}");
        assert!(self.step(event).is_none(), "{shown} started a log-in");
    }

    fn land_token(&mut self, life: Duration) {
        let attempt = self.session.attempt().unwrap();
        self.quiet(Event::Landed(attempt, Ok(token(attempt, self.now, life))));
    }

    fn land_error(&mut self, error: LoginError) {
        let attempt = self.session.attempt().unwrap();
        self.quiet(Event::Landed(attempt, Err(error)));
    }

    fn generation(&self) -> Generation {
        self.session.token().unwrap().generation()
    }

    fn serves(&self) -> bool {
        self.session.usable(self.now).is_some()
    }

    #[track_caller]
    fn is(&self, name: StateName) {
        assert_eq!(self.session.name(), name);
    }

    /// Until the next log-in starts by itself.
    fn wait(&self) -> Duration {
        self.session.due_at().unwrap().since(self.now)
    }

    fn skip_to_deadline(&mut self) {
        self.now = self.session.deadline().unwrap();
    }
}

fn token(attempt: Attempt, now: Moment, life: Duration) -> Token {
    let grant = Grant {
        token: Secret::from("opaque"),
        refresh: Some(Secret::from("refresh")),
        organization: HeaderValue::from_static("acme"),
        server_date: None,
        received: Now { moment: now, wall: SystemTime::UNIX_EPOCH },
    };
    Token::read(grant, attempt.generation(), life).unwrap()
}

fn transient() -> LoginError {
    LoginError::Unreachable(Unreachable::Cut)
}

fn refused() -> LoginError {
    LoginError::Refused(StatusCode::UNAUTHORIZED)
}

type Begin = fn() -> Story;

/// Every state, by name, with whether it serves a token.
fn every_state() -> [(&'static str, Begin, bool); 9] {
    [
        ("logged out", Story::new, false),
        ("logging in", Story::logging_in, false),
        ("ready", Story::ready, true),
        ("suspect", Story::suspect, false),
        ("waiting with a token", Story::refresh_waiting, true),
        ("backing off", Story::backing_off, false),
        ("rejected", Story::rejected, false),
        ("rejected with a token", Story::rejected_with_token, true),
        (
            "refreshing",
            || {
                let mut story = Story::ready();
                story.starts(Event::LogIn);
                story
            },
            true,
        ),
    ]
}

#[test]
fn each_state_serves_exactly_the_token_it_may() {
    for (name, story, serves) in every_state() {
        assert_eq!(story().serves(), serves, "{name}");
    }
}

#[test]
fn log_out_wins_in_every_state_and_only_log_in_ends_it() {
    for (name, story, _) in every_state() {
        let mut story = story();
        let attempt = story.session.attempt();
        story.quiet(Event::LogOut);
        assert!(!story.serves() && story.session.token().is_none(), "{name}");
        if let Some(attempt) = attempt {
            story.quiet(Event::Landed(attempt, Ok(token(attempt, story.now, LIFE))));
        }
        for event in [
            Event::CredentialsChanged,
            Event::OrganizationChanged,
            Event::Resumed,
            Event::Unauthorized(Generation(1)),
            Event::Accepted(Generation(1)),
            Event::RejectedAgain(Generation(1)),
            Event::Tick,
        ] {
            story.now = story.now + MINUTE;
            story.quiet(event);
            story.is(StateName::LoggedOut);
        }
        assert_eq!(story.session.deadline(), None);
        story.starts(Event::LogIn);
        story.is(StateName::LoggingIn);
    }
}

#[test]
fn what_each_event_does_in_each_state() {
    use StateName::{LoggedOut, LoggingIn, Refreshing};
    // state, (LogIn, CredentialsChanged, OrganizationChanged, Resumed): the state after it, and whether a log-in starts
    type Row = (&'static str, [(StateName, bool); 4]);
    let table: [Row; 9] = [
        ("logged out", [(LoggingIn, true), (LoggedOut, false), (LoggedOut, false), (LoggedOut, false)]),
        ("logging in", [(LoggingIn, false), (LoggingIn, true), (LoggingIn, true), (LoggingIn, false)]),
        ("ready", [(Refreshing, true), (Refreshing, true), (LoggingIn, true), (Refreshing, true)]),
        ("suspect", [(Refreshing, false), (Refreshing, true), (LoggingIn, true), (Refreshing, false)]),
        ("waiting with a token", [(Refreshing, true), (Refreshing, true), (LoggingIn, true), (Refreshing, false)]),
        ("backing off", [(LoggingIn, true), (LoggingIn, true), (LoggingIn, true), (StateName::BackingOff, false)]),
        ("rejected", [(LoggingIn, true), (LoggingIn, true), (LoggingIn, true), (StateName::Rejected, false)]),
        ("rejected with a token", [(Refreshing, true), (Refreshing, true), (LoggingIn, true), (StateName::Rejected, false)]),
        ("refreshing", [(Refreshing, false), (Refreshing, true), (LoggingIn, true), (Refreshing, false)]),
    ];
    let events: [fn() -> Event; 4] =
        [|| Event::LogIn, || Event::CredentialsChanged, || Event::OrganizationChanged, || Event::Resumed];
    for ((name, story, serves), (row, expected)) in every_state().into_iter().zip(table) {
        assert_eq!(name, row);
        for (event, (after, starts)) in events.iter().zip(expected) {
            let mut story = story();
            let before = story.session.attempt();
            let effect = story.step(event());
            assert_eq!(effect.is_some(), starts, "{name}: {:?}", event());
            story.is(after);
            if let (Some(before), true) = (before, starts) {
                story.quiet(Event::Landed(before, Ok(token(before, story.now, LIFE))));
                story.is(after);
            }
            let withdrawn = matches!(event(), Event::OrganizationChanged);
            assert_eq!(story.serves(), serves && !withdrawn, "{name}: {:?}", event());
        }
    }
}

#[test]
fn the_refresh_starts_in_time_while_the_old_token_serves() {
    let mut story = Story::ready();
    assert!((720..=880).contains(&story.wait().as_secs()));
    story.skip_to_deadline();
    assert!(story.starts(Event::Tick).is_some(), "with the refresh token");
    story.is(StateName::Refreshing);
    assert!(story.serves());
    let old = story.generation();
    story.land_token(LIFE);
    story.is(StateName::Ready);
    assert!(story.generation() > old);
}

#[test]
fn a_failing_refresh_keeps_the_token_until_it_expires() {
    let mut story = Story::refresh_waiting();
    let end = story.session.token().unwrap().usable_until;
    let mut attempts = 0;
    while story.now < end {
        assert!(story.serves());
        story.skip_to_deadline();
        if story.step(Event::Tick).is_some() {
            attempts += 1;
            story.land_error(transient());
        }
    }
    assert!(!story.serves());
    assert!(story.session.token().is_none());
    story.is(StateName::BackingOff);
    assert!((15..60).contains(&attempts), "{attempts}");
}

#[test]
fn a_token_that_expires_in_flight_is_dropped_and_the_flight_goes_on() {
    let mut story = Story::ready();
    story.starts(Event::LogIn);
    let attempt = story.session.attempt();
    story.skip_to_deadline();
    story.quiet(Event::Tick);
    story.is(StateName::LoggingIn);
    assert_eq!(story.session.attempt(), attempt);
    let mut rejected = Story::rejected_with_token();
    let (until, end) = (rejected.session.due_at(), rejected.session.token().unwrap().usable_until);
    assert_eq!(rejected.session.deadline(), until, "the retry comes first");
    rejected.now = end;
    rejected.starts(Event::Tick);
    rejected.is(StateName::LoggingIn);
}

#[test]
fn any_event_after_a_long_suspend_finds_no_token() {
    let mut story = Story::ready();
    story.now = story.now + 2 * LIFE;
    assert!(!story.serves());
    assert!(story.starts(Event::Resumed).is_none(), "the refresh token went with its token");
    story.is(StateName::LoggingIn);
}

#[test]
fn back_off_is_jittered_and_bounded() {
    let mut story = Story::logging_in();
    for attempt in 1..20_u32 {
        story.land_error(transient());
        story.is(StateName::BackingOff);
        let most = 2_u64.checked_pow(attempt).map_or(60, |seconds| seconds.min(60));
        assert!(story.wait() >= SECOND && story.wait() <= Duration::from_secs(most), "{attempt}: {:?}", story.wait());
        story.skip_to_deadline();
        story.starts(Event::Tick);
    }
}

#[test]
fn retry_after_is_honoured_up_to_a_quarter_of_an_hour() {
    for (asked, expected) in [(2, 2), (90, 90), (900, 900), (901, 900), (1 << 40, 900)] {
        let mut story = Story::logging_in();
        story.land_error(LoginError::Throttled(Some(Duration::from_secs(asked))));
        story.is(StateName::BackingOff);
        assert_eq!(story.wait(), Duration::from_secs(expected), "{asked}");
    }
    for useless in [None, Some(Duration::ZERO)] {
        let mut story = Story::logging_in();
        story.land_error(LoginError::Throttled(useless));
        assert!(story.wait() >= SECOND && story.wait() <= 2 * SECOND);
    }
}

#[test]
fn a_rejected_log_in_is_retried_slowly() {
    let mut story = Story::logging_in();
    for minutes in [1, 2, 4, 8, 15, 15] {
        story.land_error(refused());
        story.is(StateName::Rejected);
        assert_eq!(story.wait(), minutes * MINUTE);
        story.skip_to_deadline();
        story.starts(Event::Tick);
    }
    // A failure in between does not make it faster.
    story.land_error(transient());
    story.skip_to_deadline();
    story.starts(Event::Tick);
    story.land_error(refused());
    assert_eq!(story.wait(), 15 * MINUTE);
    story.starts(Event::CredentialsChanged);
    story.land_error(refused());
    assert_eq!(story.wait(), MINUTE, "other credentials have not been refused yet");
}

#[test]
fn success_forgets_what_failed_before() {
    let mut story = Story::rejected();
    story.skip_to_deadline();
    story.starts(Event::Tick);
    assert!(story.session.is_retrying());
    story.land_token(LIFE);
    story.starts(Event::LogIn);
    assert!(!story.session.is_retrying());
    story.land_error(refused());
    assert_eq!(story.wait(), MINUTE);
}

#[test]
fn a_401_makes_the_token_suspect_and_one_log_in_answers_all() {
    let mut story = Story::seasoned();
    let refused = story.generation();
    assert!(story.starts(Event::Unauthorized(refused)).is_some(), "with the refresh token");
    for _ in 0..50 {
        story.quiet(Event::Unauthorized(refused));
    }
    assert!(!story.serves());
    assert_eq!(story.session.complaints(), Complaints::Joined);
    story.land_token(LIFE);
    assert!(story.serves());
    story.quiet(Event::Unauthorized(refused));
    story.is(StateName::Ready);
}

#[test]
fn a_failed_log_in_brings_the_suspect_token_back() {
    for error in [transient(), self::refused(), LoginError::Throttled(Some(MINUTE))] {
        let mut story = Story::suspect();
        let refused = story.generation();
        story.land_error(error.clone());
        assert!(story.serves(), "{error}");
        assert_eq!(story.session.complaints(), Complaints::Ignored);
        story.quiet(Event::Unauthorized(refused));
        assert!(story.serves(), "while a log-in waits, a 401 starts none");
        story.skip_to_deadline();
        story.starts(Event::Tick);
        assert!(story.serves(), "the retry is not because of a 401");
        story.quiet(Event::Unauthorized(refused));
        assert!(!story.serves(), "but one may join it");
    }
}

#[test]
fn a_young_token_is_not_replaced() {
    let mut story = Story::ready();
    let refused = story.generation();
    story.now = story.now + FLOOR - Duration::from_nanos(1);
    story.quiet(Event::Unauthorized(refused));
    assert!(story.serves());
    story.now = story.now + Duration::from_nanos(1);
    story.starts(Event::Unauthorized(refused));
}

#[test]
fn a_401_for_another_token_is_ignored() {
    let mut story = Story::seasoned();
    for generation in [0, 99] {
        story.quiet(Event::Unauthorized(Generation(generation)));
        assert!(story.serves());
    }
}

#[test]
fn changed_credentials_keep_a_suspect_token_suspect() {
    let mut story = Story::suspect();
    assert!(story.starts(Event::CredentialsChanged).is_none(), "with the new credentials, not the refresh token");
    assert!(!story.serves());
    story.land_error(transient());
    assert!(story.serves());
    story.skip_to_deadline();
    assert!(story.starts(Event::Tick).is_none(), "nor at the retry");
}

#[test]
fn an_uncured_log_in_doubles_the_floor_and_a_cure_resets_it() {
    let mut story = Story::suspect();
    story.land_token(LIFE);
    let second = story.generation();
    for _ in 0..10 {
        story.quiet(Event::RejectedAgain(second));
    }
    assert_eq!(story.session.complaints(), Complaints::HeardFrom(story.now + 2 * FLOOR));
    story.now = story.now + FLOOR;
    story.quiet(Event::Unauthorized(second));
    story.now = story.now + FLOOR;
    story.starts(Event::Unauthorized(second));
    story.land_token(LIFE);
    story.quiet(Event::Accepted(story.generation()));
    assert_eq!(story.session.complaints(), Complaints::HeardFrom(story.now + FLOOR));
}

#[test]
fn a_401_for_the_token_on_trial_is_a_verdict_even_without_a_replay() {
    let mut story = Story::suspect();
    story.land_token(LIFE);
    assert_eq!(story.session.complaints(), Complaints::HeardFrom(story.now), "the first one is heard");
    let second = story.generation();
    story.quiet(Event::Unauthorized(second));
    assert_eq!(story.session.complaints(), Complaints::HeardFrom(story.now + 2 * FLOOR));
}

#[test]
fn a_scheduled_refresh_is_not_on_trial() {
    let mut story = Story::ready();
    story.skip_to_deadline();
    story.starts(Event::Tick);
    story.land_token(LIFE);
    let generation = story.generation();
    story.quiet(Event::RejectedAgain(generation));
    assert_eq!(story.session.complaints(), Complaints::HeardFrom(story.now + FLOOR));
}

#[test]
fn a_grant_that_lands_after_its_end_is_no_success() {
    let mut story = Story::logging_in();
    let attempt = story.session.attempt().unwrap();
    let late = token(attempt, story.now, 10 * SECOND);
    story.now = story.now + MINUTE;
    story.quiet(Event::Landed(attempt, Ok(late)));
    story.is(StateName::BackingOff);
}
