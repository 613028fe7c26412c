//! Tests each state and event by a table, then against a model that knows only the rules: by a seeded simulation, and by every
//! sequence of a few actions; then many sessions at one server (`fleet`).
//!
//! `SIDECAR_SIM_SEED=<n>` replays one seed, `SIDECAR_SIM_SEEDS=<n>` plays that many, `SIDECAR_SIM_DEPTH=<n>` searches that deep.

use std::time::SystemTime;

use http::{HeaderValue, StatusCode};

use super::{
    super::{failure::Unreachable, terms::AccountIdentity, token::Grant},
    *,
};
use crate::{clock::Now, secret::Secret};

mod fleet;
mod model;
mod search;
mod simulation;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const FLOOR: Duration = Duration::from_secs(30);
const LIFE: Duration = Duration::from_secs(1000);

/// A session and its clock.
struct Bench {
    session: Session,
    now: Moment,
    jitter: Jitter,
}

impl Bench {
    fn new() -> Self {
        Self { session: Session::new(FLOOR), now: Moment::new(100 * SECOND), jitter: Jitter::seeded(1) }
    }

    fn logging_in() -> Self {
        let mut bench = Self::new();
        bench.starts(Event::LogIn);
        bench
    }

    fn ready() -> Self {
        let mut bench = Self::logging_in();
        bench.end_with_token(LIFE);
        bench
    }

    /// Holds a token as old as the floor.
    fn seasoned() -> Self {
        let mut bench = Self::ready();
        bench.now = bench.now + FLOOR;
        bench
    }

    fn suspect() -> Self {
        let mut bench = Self::seasoned();
        let refused = bench.generation();
        bench.starts(Event::Unauthorized(refused));
        bench
    }

    fn refresh_waiting() -> Self {
        let mut bench = Self::ready();
        bench.starts(Event::LogIn);
        bench.end_with_error(transient());
        bench
    }

    fn backing_off() -> Self {
        let mut bench = Self::logging_in();
        bench.end_with_error(transient());
        bench
    }

    fn rejected() -> Self {
        let mut bench = Self::logging_in();
        bench.end_with_error(refused());
        bench
    }

    fn rejected_with_token() -> Self {
        let mut bench = Self::ready();
        bench.starts(Event::LogIn);
        bench.end_with_error(refused());
        bench
    }

    fn step(&mut self, event: Event) -> Option<Effect> {
        let effect = self.session.step(event, self.now, &mut self.jitter);
        assert_eq!(self.session.check_invariants(self.now), Ok(()));
        effect
    }

    #[track_caller]
    fn starts(&mut self, event: Event) -> Option<Refresh> {
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

    fn end_with_token(&mut self, life: Duration) {
        let attempt = self.session.attempt().unwrap();
        self.quiet(Event::Ended(attempt, Ok(token(attempt, self.now, life))));
    }

    fn end_with_error(&mut self, error: LoginError) {
        let attempt = self.session.attempt().unwrap();
        self.quiet(Event::Ended(attempt, Err(error)));
    }

    /// The token at hand is known to be refused, from now on.
    fn refuse(&mut self) {
        self.session.set_refusal(Some(RefusedToken { generation: self.generation(), since: self.now }));
        assert_eq!(self.session.check_invariants(self.now), Ok(()));
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

    /// The time until the next log-in starts by itself.
    fn wait(&self) -> Duration {
        self.session.due_at().unwrap().since(self.now)
    }

    fn skip_to_deadline(&mut self) {
        self.now = self.session.deadline().unwrap();
    }
}

fn token(attempt: Attempt, now: Moment, life: Duration) -> Token {
    token_of("acme", attempt, now, life)
}

fn token_of(organization: &'static str, attempt: Attempt, now: Moment, life: Duration) -> Token {
    let grant = Grant {
        token: Secret::from("opaque"),
        refresh: Some(Secret::from("refresh")),
        organization: HeaderValue::from_static(organization),
        server_date: None,
        asked: now,
        received: Now { moment: now, wall: SystemTime::UNIX_EPOCH },
    };
    Token::read(grant, AccountIdentity::new(), attempt.generation(), life).unwrap()
}

fn transient() -> LoginError {
    LoginError::Unreachable(Unreachable::Cut)
}

fn refused() -> LoginError {
    LoginError::Refused(StatusCode::UNAUTHORIZED)
}

type Begin = fn() -> Bench;

/// Lists every state by name, with whether it serves a token.
fn every_state() -> [(&'static str, Begin, bool); 9] {
    [
        ("logged out", Bench::new, false),
        ("logging in", Bench::logging_in, false),
        ("ready", Bench::ready, true),
        ("suspect", Bench::suspect, false),
        ("waiting with a token", Bench::refresh_waiting, true),
        ("backing off", Bench::backing_off, false),
        ("rejected", Bench::rejected, false),
        ("rejected with a token", Bench::rejected_with_token, true),
        (
            "refreshing",
            || {
                let mut bench = Bench::ready();
                bench.starts(Event::LogIn);
                bench
            },
            true,
        ),
    ]
}

#[test]
fn each_state_serves_exactly_the_token_it_may() {
    for (name, bench, serves) in every_state() {
        assert_eq!(bench().serves(), serves, "{name}");
    }
}

#[test]
fn log_out_wins_in_every_state_and_only_log_in_ends_it() {
    for (name, bench, _) in every_state() {
        let mut bench = bench();
        let attempt = bench.session.attempt();
        bench.quiet(Event::LogOut);
        assert!(!bench.serves() && bench.session.token().is_none(), "{name}");
        if let Some(attempt) = attempt {
            bench.quiet(Event::Ended(attempt, Ok(token(attempt, bench.now, LIFE))));
        }
        for event in [
            Event::CredentialsChanged,
            Event::OrganizationChanged,
            Event::Resumed,
            Event::Unauthorized(Generation(1)),
            Event::Verdict(ProbationOutcome::Accepted, Generation(1)),
            Event::Verdict(ProbationOutcome::RejectedAgain, Generation(1)),
            Event::Verdict(ProbationOutcome::Worked, Generation(1)),
            Event::Tick,
        ] {
            bench.now = bench.now + MINUTE;
            bench.quiet(event);
            bench.is(StateName::LoggedOut);
        }
        assert_eq!(bench.session.deadline(), None);
        bench.starts(Event::LogIn);
        bench.is(StateName::LoggingIn);
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
    for ((name, bench, serves), (row, expected)) in every_state().into_iter().zip(table) {
        assert_eq!(name, row);
        for (event, (after, starts)) in events.iter().zip(expected) {
            let mut bench = bench();
            let before = bench.session.attempt();
            let effect = bench.step(event());
            assert_eq!(effect.is_some(), starts, "{name}: {:?}", event());
            bench.is(after);
            if let (Some(before), true) = (before, starts) {
                bench.quiet(Event::Ended(before, Ok(token(before, bench.now, LIFE))));
                bench.is(after);
            }
            let withdrawn = matches!(event(), Event::OrganizationChanged);
            assert_eq!(bench.serves(), serves && !withdrawn, "{name}: {:?}", event());
        }
    }
}

#[test]
fn an_explicit_log_in_joins_the_one_in_flight_and_replaces_one_that_hangs() {
    for begin in [Bench::logging_in, Bench::suspect] {
        let mut bench = begin();
        let (first, state) = (bench.session.attempt().unwrap(), bench.session.name());
        bench.now = bench.now + HANGS_AFTER.saturating_sub(Duration::from_millis(1));
        bench.quiet(Event::LogIn);
        bench.now = bench.now + Duration::from_millis(1);
        assert!(bench.starts(Event::LogIn).is_none(), "with the credentials");
        assert_ne!(bench.session.attempt(), Some(first));
        bench.is(state);
        assert!(!bench.serves(), "a suspect token stays suspect");
        bench.quiet(Event::LogIn);
        bench.quiet(Event::Ended(first, Ok(token(first, bench.now, LIFE))));
        bench.is(state);
    }
}

#[test]
fn the_refresh_starts_in_time_while_the_old_token_serves() {
    let mut bench = Bench::ready();
    assert!((720..=880).contains(&bench.wait().as_secs()));
    bench.skip_to_deadline();
    assert!(bench.starts(Event::Tick).is_some(), "with the refresh token");
    bench.is(StateName::Refreshing);
    assert!(bench.serves());
    let old = bench.generation();
    bench.end_with_token(LIFE);
    bench.is(StateName::Ready);
    assert!(bench.generation() > old);
}

#[test]
fn a_failing_refresh_keeps_the_token_until_it_expires() {
    let mut bench = Bench::refresh_waiting();
    let end = bench.session.token().unwrap().usable_until;
    let mut attempts = 0;
    while bench.now < end {
        assert!(bench.serves());
        bench.skip_to_deadline();
        if bench.step(Event::Tick).is_some() {
            attempts += 1;
            bench.end_with_error(transient());
        }
    }
    assert!(!bench.serves());
    assert!(bench.session.token().is_none());
    bench.is(StateName::BackingOff);
    assert!((15..60).contains(&attempts), "{attempts}");
}

#[test]
fn a_token_that_expires_in_flight_is_dropped_and_the_log_in_goes_on() {
    let mut bench = Bench::ready();
    bench.starts(Event::LogIn);
    let attempt = bench.session.attempt();
    bench.skip_to_deadline();
    bench.quiet(Event::Tick);
    bench.is(StateName::LoggingIn);
    assert_eq!(bench.session.attempt(), attempt);
    let mut rejected = Bench::rejected_with_token();
    let (until, end) = (rejected.session.due_at(), rejected.session.token().unwrap().usable_until);
    assert_eq!(rejected.session.deadline(), until, "the retry comes first");
    rejected.now = end;
    rejected.starts(Event::Tick);
    rejected.is(StateName::LoggingIn);
}

#[test]
fn any_event_after_a_long_suspend_finds_no_token() {
    let mut bench = Bench::ready();
    bench.now = bench.now + 2 * LIFE;
    assert!(!bench.serves());
    assert!(bench.starts(Event::Resumed).is_none(), "the refresh token went with its token");
    bench.is(StateName::LoggingIn);
}

#[test]
fn back_off_is_jittered_and_bounded() {
    let mut bench = Bench::logging_in();
    for attempt in 1..20_u32 {
        bench.end_with_error(transient());
        bench.is(StateName::BackingOff);
        let most = 2_u64.checked_pow(attempt).map_or(60, |seconds| seconds.min(60));
        assert!(bench.wait() >= SECOND && bench.wait() <= Duration::from_secs(most), "{attempt}: {:?}", bench.wait());
        bench.skip_to_deadline();
        bench.starts(Event::Tick);
    }
}

#[test]
fn retry_after_is_honoured_up_to_a_quarter_of_an_hour() {
    for (asked, expected) in [(2, 2), (90, 90), (900, 900), (901, 900), (1 << 40, 900)] {
        let mut bench = Bench::logging_in();
        bench.end_with_error(LoginError::Throttled(Some(Duration::from_secs(asked))));
        bench.is(StateName::BackingOff);
        assert_eq!(bench.wait(), Duration::from_secs(expected), "{asked}");
    }
    for (asked, expected) in [(2, 2), (90, 90), (901, 900)] {
        let mut bench = Bench::logging_in();
        let (status, retry_after) = (StatusCode::SERVICE_UNAVAILABLE, Some(Duration::from_secs(asked)));
        bench.end_with_error(LoginError::Unreachable(Unreachable::ServerFailed { status, retry_after }));
        assert_eq!(bench.wait(), Duration::from_secs(expected), "{asked}");
    }
    for useless in [None, Some(Duration::ZERO)] {
        let mut bench = Bench::logging_in();
        bench.end_with_error(LoginError::Throttled(useless));
        assert!(bench.wait() >= SECOND && bench.wait() <= 2 * SECOND);
    }
}

#[test]
fn the_back_off_is_added_to_what_a_server_asks_for_a_third_time() {
    for asked in [1, 60, 870, 900] {
        let wait = Duration::from_secs(asked);
        let mut bench = Bench::logging_in();
        for most in [0, 0, 8, 16, 32, 60, 60] {
            bench.end_with_error(LoginError::Throttled(Some(wait)));
            let added = bench.wait().checked_sub(wait).expect("it never comes earlier");
            // Both together are a quarter of an hour at most.
            let most = most.min(900 - asked);
            let right = if most == 0 { added.is_zero() } else { added >= SECOND && added <= Duration::from_secs(most) };
            assert!(right, "{added:?} of {most} s were added to {wait:?}");
            bench.skip_to_deadline();
            bench.starts(Event::Tick);
        }
        bench.end_with_token(LIFE);
        bench.starts(Event::LogIn);
        bench.end_with_error(LoginError::Throttled(Some(wait)));
        assert_eq!(bench.wait(), wait, "after a success it is the first time");
    }
}

#[test]
fn a_rejected_log_in_is_retried_slowly() {
    let mut bench = Bench::logging_in();
    for minutes in [1, 2, 4, 8, 15, 15] {
        bench.end_with_error(refused());
        bench.is(StateName::Rejected);
        assert_eq!(bench.wait(), minutes * MINUTE);
        bench.skip_to_deadline();
        bench.starts(Event::Tick);
    }
    // A failure in between does not make it faster.
    bench.end_with_error(transient());
    bench.skip_to_deadline();
    bench.starts(Event::Tick);
    bench.end_with_error(refused());
    assert_eq!(bench.wait(), 15 * MINUTE);
    bench.starts(Event::CredentialsChanged);
    bench.end_with_error(refused());
    assert_eq!(bench.wait(), MINUTE, "other credentials have not been refused yet");
}

#[test]
fn success_forgets_what_failed_before() {
    let mut bench = Bench::rejected();
    bench.skip_to_deadline();
    bench.starts(Event::Tick);
    assert!(bench.session.is_retrying());
    bench.end_with_token(LIFE);
    bench.starts(Event::LogIn);
    assert!(!bench.session.is_retrying());
    bench.end_with_error(refused());
    assert_eq!(bench.wait(), MINUTE);
}

#[test]
fn a_401_makes_the_token_suspect_and_one_log_in_answers_all() {
    let mut bench = Bench::seasoned();
    let refused = bench.generation();
    assert!(bench.starts(Event::Unauthorized(refused)).is_some(), "with the refresh token");
    for _ in 0..50 {
        bench.quiet(Event::Unauthorized(refused));
    }
    assert!(!bench.serves());
    assert_eq!(bench.session.replacement(), Replacement::InFlight);
    bench.end_with_token(LIFE);
    assert!(bench.serves());
    bench.quiet(Event::Unauthorized(refused));
    bench.is(StateName::Ready);
}

#[test]
fn a_failed_log_in_brings_the_suspect_token_back() {
    for error in [transient(), self::refused(), LoginError::Throttled(Some(MINUTE))] {
        let mut bench = Bench::suspect();
        let refused = bench.generation();
        bench.end_with_error(error.clone());
        assert!(bench.serves(), "{error}");
        assert_eq!(bench.session.replacement(), Replacement::Scheduled { refusal_known: false });
        bench.quiet(Event::Unauthorized(refused));
        assert!(bench.serves(), "while a log-in waits, a 401 starts none");
        bench.skip_to_deadline();
        bench.starts(Event::Tick);
        assert!(bench.serves(), "the retry is not because of a 401");
        bench.quiet(Event::Unauthorized(refused));
        assert!(!bench.serves(), "but one may join it");
    }
}

/// Ten failed log-ins in a row, so that the backoff has its full length.
fn long_outage(bench: &mut Bench) {
    for _ in 0..10 {
        bench.end_with_error(transient());
        bench.skip_to_deadline();
        bench.starts(Event::Tick);
    }
}

/// A suspect token whose log-in has failed for long, and that waits for at least 30 s now.
fn long_wait() -> Bench {
    for seed in 0.. {
        let mut bench = Bench::suspect();
        bench.jitter = Jitter::seeded(seed);
        long_outage(&mut bench);
        bench.end_with_error(transient());
        if bench.wait() > 30 * SECOND {
            return bench;
        }
    }
    unreachable!("half of the waits are that long")
}

#[test]
fn while_the_token_is_known_to_be_refused_the_back_off_is_ten_seconds_at_most() {
    let (mut short, mut long) = (Duration::ZERO, Duration::ZERO);
    for seed in 0..100 {
        let mut bench = Bench::suspect();
        bench.jitter = Jitter::seeded(seed);
        long_outage(&mut bench);
        bench.end_with_error(transient());
        long = long.max(bench.wait());
        bench.refuse();
        assert!(bench.wait() >= SECOND && bench.wait() <= 10 * SECOND, "{:?}", bench.wait());
        short = short.max(bench.wait());
        assert_eq!(bench.session.replacement(), Replacement::Scheduled { refusal_known: true });
    }
    assert!(short > 9 * SECOND && long > 50 * SECOND, "{short:?} {long:?}");
}

#[test]
fn a_refusal_that_becomes_known_during_the_wait_shortens_it_from_then_on_and_starts_nothing() {
    let mut bench = long_wait();
    let (generation, until) = (bench.generation(), bench.session.due_at().unwrap());
    bench.now = bench.now + 15 * SECOND;
    bench.refuse();
    bench.quiet(Event::Unauthorized(generation));
    assert!(bench.wait() >= SECOND && bench.wait() <= 10 * SECOND, "{:?}", bench.wait());
    // Any other answer ends that.
    bench.session.set_refusal(None);
    assert_eq!(bench.session.due_at(), Some(until));
    bench.now = until - SECOND;
    bench.refuse();
    assert_eq!(bench.session.due_at(), Some(until), "it never lengthens the wait");
}

#[test]
fn what_the_server_asked_for_and_a_rejection_are_not_shortened() {
    let busy = Unreachable::ServerFailed { status: StatusCode::SERVICE_UNAVAILABLE, retry_after: Some(MINUTE) };
    for error in [self::refused(), LoginError::Throttled(Some(MINUTE)), LoginError::Unreachable(busy)] {
        let mut bench = Bench::suspect();
        bench.end_with_error(error.clone());
        bench.refuse();
        assert_eq!(bench.wait(), MINUTE, "{error}");
    }
}

#[test]
fn a_refusal_counts_for_its_own_token_and_until_another_one_comes() {
    let mut bench = long_wait();
    let other = RefusedToken { generation: Generation(bench.generation().0 + 1), since: bench.now };
    bench.session.set_refusal(Some(other));
    assert!(bench.wait() > 30 * SECOND, "a refusal of another token");
    bench.refuse();
    // The token expires during an outage, and no answer can tell more of it.
    let mut attempts = 0;
    while bench.session.token().is_some() || attempts < 200 {
        bench.skip_to_deadline();
        if bench.step(Event::Tick).is_some() {
            attempts += 1;
            bench.end_with_error(transient());
        }
        if bench.session.token().is_none() {
            bench.session.set_refusal(None);
        }
        assert!(bench.wait() <= 10 * SECOND, "{:?}", bench.wait());
    }
    bench.is(StateName::BackingOff);
    bench.skip_to_deadline();
    bench.starts(Event::Tick);
    bench.end_with_token(LIFE);
    assert_eq!(bench.session.refusal, None);
}

#[test]
fn a_young_token_is_not_replaced() {
    let mut bench = Bench::ready();
    let refused = bench.generation();
    bench.now = bench.now + FLOOR - Duration::from_nanos(1);
    bench.quiet(Event::Unauthorized(refused));
    assert!(bench.serves());
    bench.now = bench.now + Duration::from_nanos(1);
    bench.starts(Event::Unauthorized(refused));
}

#[test]
fn a_401_for_another_token_is_ignored() {
    let mut bench = Bench::seasoned();
    for generation in [0, 99] {
        bench.quiet(Event::Unauthorized(Generation(generation)));
        assert!(bench.serves());
    }
}

#[test]
fn changed_credentials_keep_a_suspect_token_suspect() {
    let mut bench = Bench::suspect();
    assert!(bench.starts(Event::CredentialsChanged).is_none(), "with the new credentials, not the refresh token");
    assert!(!bench.serves());
    bench.end_with_error(transient());
    assert!(bench.serves());
    bench.skip_to_deadline();
    assert!(bench.starts(Event::Tick).is_none(), "nor at the retry");
}

#[test]
fn a_log_in_that_does_not_help_doubles_the_floor_and_acceptance_resets_it() {
    let mut bench = Bench::suspect();
    bench.end_with_token(LIFE);
    let second = bench.generation();
    for _ in 0..10 {
        bench.quiet(Event::Verdict(ProbationOutcome::RejectedAgain, second));
    }
    assert_eq!(bench.session.replacement(), Replacement::From(bench.now + 2 * FLOOR));
    bench.now = bench.now + FLOOR;
    bench.quiet(Event::Unauthorized(second));
    bench.now = bench.now + FLOOR;
    bench.starts(Event::Unauthorized(second));
    bench.end_with_token(LIFE);
    bench.quiet(Event::Verdict(ProbationOutcome::Accepted, bench.generation()));
    assert_eq!(bench.session.replacement(), Replacement::From(bench.now + FLOOR));
}

#[test]
fn a_401_for_the_token_on_probation_is_a_verdict_even_without_a_replay() {
    let mut bench = Bench::suspect();
    bench.end_with_token(LIFE);
    assert_eq!(bench.session.replacement(), Replacement::From(bench.now), "the first one is heard");
    let second = bench.generation();
    bench.quiet(Event::Unauthorized(second));
    assert_eq!(bench.session.replacement(), Replacement::From(bench.now + 2 * FLOOR));
}

#[test]
fn a_scheduled_refresh_is_not_on_probation() {
    let mut bench = Bench::ready();
    bench.skip_to_deadline();
    bench.starts(Event::Tick);
    bench.end_with_token(LIFE);
    let generation = bench.generation();
    bench.quiet(Event::Verdict(ProbationOutcome::RejectedAgain, generation));
    assert_eq!(bench.session.replacement(), Replacement::From(bench.now + FLOOR));
}

#[test]
fn a_grant_that_comes_after_its_end_is_no_success() {
    let mut bench = Bench::logging_in();
    let attempt = bench.session.attempt().unwrap();
    let late = token(attempt, bench.now, 10 * SECOND);
    bench.now = bench.now + MINUTE;
    bench.quiet(Event::Ended(attempt, Ok(late)));
    bench.is(StateName::BackingOff);
}

fn organization(name: &'static str) -> HeaderValue {
    HeaderValue::from_static(name)
}

#[test]
fn the_organization_that_a_log_in_reads_ends_the_token_of_another_one_at_once() {
    for begin in [Bench::ready, Bench::seasoned, Bench::suspect, Bench::refresh_waiting, Bench::rejected_with_token] {
        for read in [Some(organization("umbrella")), None] {
            let mut bench = begin();
            bench.step(Event::LogIn);
            let attempt = bench.session.attempt().unwrap();
            bench.quiet(Event::OrganizationRead(attempt, read));
            assert!(!bench.serves() && bench.session.token().is_none());
            assert_eq!(bench.session.attempt(), Some(attempt), "the log-in goes on");
            bench.is(StateName::LoggingIn);
            // However it ends, the old token does not come back.
            bench.end_with_error(refused());
            assert!(!bench.serves());
            bench.is(StateName::Rejected);
        }
    }
}

#[test]
fn the_same_organization_read_again_changes_nothing() {
    let mut bench = Bench::ready();
    bench.starts(Event::LogIn);
    let attempt = bench.session.attempt().unwrap();
    bench.quiet(Event::OrganizationRead(attempt, Some(organization("acme"))));
    assert!(bench.serves());
    bench.is(StateName::Refreshing);
    let mut bench = Bench::suspect();
    let attempt = bench.session.attempt().unwrap();
    bench.quiet(Event::OrganizationRead(attempt, Some(organization("acme"))));
    assert_eq!(bench.session.replacement(), Replacement::InFlight, "a suspect token stays suspect");
}

#[test]
fn what_a_stale_log_in_has_read_changes_nothing() {
    let mut bench = Bench::ready();
    bench.starts(Event::LogIn);
    let stale = bench.session.attempt().unwrap();
    bench.starts(Event::CredentialsChanged);
    bench.quiet(Event::OrganizationRead(stale, Some(organization("umbrella"))));
    assert!(bench.serves());
    bench.quiet(Event::LogOut);
    bench.quiet(Event::OrganizationRead(stale, Some(organization("umbrella"))));
    bench.is(StateName::LoggedOut);
}

#[test]
fn a_token_of_another_organization_on_probation_says_nothing_of_its_successor() {
    let mut bench = Bench::suspect();
    bench.end_with_token(LIFE);
    bench.starts(Event::LogIn);
    let attempt = bench.session.attempt().unwrap();
    bench.quiet(Event::OrganizationRead(attempt, Some(organization("umbrella"))));
    assert_eq!(bench.session.probation(), None);
    bench.quiet(Event::Ended(attempt, Ok(token_of("umbrella", attempt, bench.now, LIFE))));
    assert!(bench.serves());
}

#[test]
fn a_floor_that_is_lowered_holds_at_once() {
    let mut bench = Bench::ready();
    bench.now = bench.now + FLOOR / 2;
    let refused = bench.generation();
    bench.quiet(Event::Unauthorized(refused));
    bench.session.set_relogin_floor(FLOOR / 3);
    bench.starts(Event::Unauthorized(refused));
}

#[test]
fn a_rule_that_is_broken_is_named() {
    type Break = fn(&mut Bench);
    let cases: [(Begin, Break, &str); 9] = [
        (Bench::suspect, |bench| bench.session.attempts += 1, "the attempt is not the latest"),
        (Bench::ready, |bench| bench.session.attempts = 0, "a token is newer than its log-in"),
        (
            Bench::ready,
            |bench| bench.session.organization = None,
            "a token is of another organization than the one that was read last",
        ),
        (Bench::ready, |bench| bench.now = bench.session.due_at().unwrap(), "something due was not done"),
        (Bench::backing_off, |bench| bench.now = bench.session.due_at().unwrap(), "something due was not done"),
        (Bench::suspect, |bench| bench.now = bench.session.token().unwrap().usable_until, "an expired token is kept"),
        (
            Bench::ready,
            |bench| bench.session.refusal = Some(RefusedToken { generation: Generation(9), since: bench.now }),
            "a refusal of another token is known",
        ),
        (Bench::ready, |bench| bench.session.relogin_floor.start_probation(Generation(9)), "another token is on probation"),
        (Bench::ready, |bench| bench.session.relogin_floor.start_probation(bench.generation()), ""),
    ];
    for (begin, break_it, rule) in cases {
        let mut bench = begin();
        break_it(&mut bench);
        let broken = bench.session.check_invariants(bench.now).err().unwrap_or_default();
        assert_eq!(broken, rule);
    }
}
