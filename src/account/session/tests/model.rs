//! A model of the session that holds only what the rules speak of. The random simulation and the exhaustive search compare the
//! session with it after every step.

use super::*;
use crate::account::{
    relogin_floor::ProbationOutcome,
    snapshot::{AccountSnapshot, Availability, LoginHistory, OnUnauthorized, Unauthorized, Why},
};

/// How long a request of the model waits for a token.
const TOKEN_WAIT: Duration = Duration::from_secs(10);

/// What the rules say of one account.
#[derive(Clone)]
pub(super) struct Model {
    logged_out: bool,
    /// The latest token that a log-in brought, unless it was withdrawn or has expired.
    held: Option<Held>,
    /// The organization that a log-in read last.
    organization: Option<HeaderValue>,
    /// A 401 waits for the log-in in flight.
    suspect: bool,
    pub(super) newest: Option<Generation>,
    attempt: Option<Attempt>,
    attempts: u64,
    started_at: Moment,
    /// The latest log-in failed: between these two times the next one starts by itself.
    wait: Option<(Moment, Moment)>,
    /// When the latest log-in failed with an error that backoff answers.
    backing_off_since: Option<Moment>,
    /// Since when the token held, or the one that expired last, is known to be refused.
    pub(super) refused_since: Option<Moment>,
    floor: Duration,
    probation: Option<(Generation, Option<ProbationOutcome>)>,
    pub(super) failures: u32,
    pub(super) refusals: u32,
}

#[derive(Clone)]
struct Held {
    generation: Generation,
    organization: HeaderValue,
    received: Moment,
    life: Duration,
    end: Moment,
}

impl Model {
    pub(super) fn new() -> Self {
        Self {
            logged_out: true,
            held: None,
            organization: None,
            suspect: false,
            newest: None,
            attempt: None,
            attempts: 0,
            started_at: Moment::new(Duration::ZERO),
            wait: None,
            backing_off_since: None,
            refused_since: None,
            floor: FLOOR,
            probation: None,
            failures: 0,
            refusals: 0,
        }
    }

    /// Whether the next log-in waits by backoff, and not by what the server asked for.
    pub(super) fn has_backoff(&self) -> bool {
        self.backing_off_since.is_some()
    }

    /// The session takes over what is known of refused tokens.
    pub(super) fn hear(&mut self, refusal: Option<RefusedToken>) {
        if let Some(held) = &self.held {
            self.refused_since = refusal.filter(|refusal| refusal.generation == held.generation).map(|refusal| refusal.since);
        }
    }

    /// Has the session handle one event, and compares what it does with the rules. Returns whether a log-in has started.
    pub(super) fn step(&mut self, session: &mut Session, event: Event, now: Moment, jitter: &mut Jitter) -> bool {
        let must = self.expect(&event, now);
        let by_password = matches!(event, Event::LogIn | Event::CredentialsChanged | Event::OrganizationChanged);
        let due = session.due_at();
        let started = match session.step(event, now, jitter) {
            Some(Effect::StartLogin { attempt, refresh }) => {
                assert!(!(must && by_password && refresh.is_some()), "the credentials count, not the refresh token");
                self.start(attempt, must, due, now);
                true
            }
            None => false,
        };
        assert!(started || !must, "the event starts a log-in");
        assert_eq!(session.check_invariants(now), Ok(()));
        self.check(session, now);
        started
    }

    /// Updates the model by the rules. Returns whether the event must start a log-in.
    fn expect(&mut self, event: &Event, now: Moment) -> bool {
        if self.held.as_ref().is_some_and(|held| now >= held.end) {
            (self.held, self.suspect) = (None, false);
        }
        match event {
            Event::LogOut => {
                self.withdraw();
                (self.logged_out, self.attempt) = (true, None);
                self.forget_failures();
                false
            }
            Event::LogIn => {
                self.logged_out = false;
                self.attempt.is_none() || now >= self.started_at + HANGS_AFTER
            }
            Event::CredentialsChanged | Event::OrganizationChanged if self.logged_out => false,
            Event::CredentialsChanged => {
                (self.failures, self.refusals) = (0, 0);
                true
            }
            Event::OrganizationChanged => {
                self.withdraw();
                self.forget_failures();
                true
            }
            Event::OrganizationRead(attempt, organization) => {
                if self.attempt == Some(*attempt) {
                    if self.held.as_ref().is_some_and(|held| Some(&held.organization) != organization.as_ref()) {
                        self.withdraw();
                    }
                    self.organization.clone_from(organization);
                }
                false
            }
            Event::Resumed => self.held.is_some() && self.attempt.is_none() && self.wait.is_none(),
            Event::Unauthorized(refused) => self.unauthorized(*refused, now),
            Event::Verdict(ProbationOutcome::Accepted, by) => {
                if let Some((_, verdict)) = self.probation.as_mut().filter(|(generation, _)| generation == by) {
                    *verdict = Some(ProbationOutcome::Accepted);
                    self.floor = FLOOR;
                }
                false
            }
            Event::Verdict(ProbationOutcome::RejectedAgain, by) => {
                self.rejected_again(*by);
                false
            }
            Event::Verdict(ProbationOutcome::Worked, by) => {
                if let Some((_, verdict @ None)) = self.probation.as_mut().filter(|(generation, _)| generation == by) {
                    *verdict = Some(ProbationOutcome::Worked);
                }
                false
            }
            Event::Ended(attempt, outcome) => {
                if self.attempt == Some(*attempt) {
                    self.ended(outcome, now);
                }
                false
            }
            Event::Tick => false,
        }
    }

    /// The token is dropped, and with it what requests found out about it.
    fn withdraw(&mut self) {
        (self.held, self.suspect, self.probation, self.refused_since) = (None, false, None, None);
    }

    fn forget_failures(&mut self) {
        (self.wait, self.backing_off_since, self.failures, self.refusals) = (None, None, 0, 0);
    }

    fn unauthorized(&mut self, refused: Generation, now: Moment) -> bool {
        let Some(received) = self.held.as_ref().filter(|held| held.generation == refused).map(|held| held.received) else {
            return false;
        };
        // A token that has worked is withdrawn, if it is old enough to be replaced.
        let has_worked = self.probation.is_some_and(|(_, verdict)| verdict == Some(ProbationOutcome::Worked));
        if !has_worked || now.since(received) < self.floor {
            self.rejected_again(refused);
        }
        if now.since(received) < self.floor || self.wait.is_some() {
            return false;
        }
        self.suspect = true;
        self.attempt.is_none()
    }

    fn rejected_again(&mut self, by: Generation) {
        if let Some((_, verdict @ (None | Some(ProbationOutcome::Worked)))) =
            self.probation.as_mut().filter(|(generation, _)| *generation == by)
        {
            *verdict = Some(ProbationOutcome::RejectedAgain);
            self.floor = (2 * self.floor).min(60 * MINUTE);
        }
    }

    fn ended(&mut self, outcome: &Result<Token, LoginError>, now: Moment) {
        let was_suspect = std::mem::replace(&mut self.suspect, false);
        self.attempt = None;
        let wait = match outcome {
            Ok(token) if now < token.usable_until => {
                let generation = token.generation();
                assert!(self.newest.is_none_or(|newest| newest < generation), "a later token has a greater number");
                let organization = token.bearer.organization.clone();
                (self.newest, self.organization) = (Some(generation), Some(organization.clone()));
                let (received, life, end) = (token.received, token.life, token.usable_until);
                self.held = Some(Held { generation, organization, received, life, end });
                self.probation = was_suspect.then_some((generation, None));
                self.refused_since = None;
                self.forget_failures();
                return;
            }
            Err(LoginError::Refused(_)) => {
                self.refusals += 1;
                let wait = MINUTE * [1, 2, 4, 8, 15][(self.refusals as usize - 1).min(4)];
                (wait, wait)
            }
            Err(
                LoginError::Throttled(Some(asked))
                | LoginError::Unreachable(Unreachable::ServerFailed { retry_after: Some(asked), .. }),
            ) if !asked.is_zero() => {
                self.failures += 1;
                let (least, most) =
                    if self.failures > 2 { (SECOND, self.longest_backoff()) } else { (Duration::ZERO, Duration::ZERO) };
                (asked.saturating_add(least).min(15 * MINUTE), asked.saturating_add(most).min(15 * MINUTE))
            }
            Ok(_) | Err(_) => {
                self.failures += 1;
                self.backing_off_since = Some(now);
                (SECOND, self.longest_backoff())
            }
        };
        self.wait = Some((now + wait.0, now + wait.1));
    }

    /// The longest backoff after so many failures.
    fn longest_backoff(&self) -> Duration {
        SECOND * [2, 4, 8, 16, 32, 60][(self.failures as usize - 1).min(5)]
    }

    /// A log-in has started. `must`: the event had to start it. `due`: when one was due by itself before the event.
    fn start(&mut self, attempt: Attempt, must: bool, due: Option<Moment>, now: Moment) {
        assert!(!self.logged_out, "after a log-out only a log-in starts one");
        assert!(self.attempts < attempt.0, "attempts have rising numbers");
        if !must {
            assert!(self.attempt.is_none(), "nothing but an explicit request starts a second log-in while one is in flight");
            assert!(due.is_some_and(|due| now >= due), "no log-in was due");
            assert!(self.wait.is_none_or(|(from, _)| now >= from), "a log-in did not wait its time");
            let in_half = self.held.as_ref().filter(|_| self.wait.is_none()).map(|held| held.received + held.life / 2);
            assert!(in_half.is_none_or(|half| now >= half), "a token is not renewed in the first half of its life");
        }
        (self.attempt, self.attempts, self.started_at) = (Some(attempt), attempt.0, now);
        (self.wait, self.backing_off_since) = (None, None);
    }

    /// Compares the token that requests may carry, which holds between two steps, too.
    pub(super) fn check_usable(&self, session: &Session, now: Moment) {
        let held = self.held.as_ref().filter(|held| now < held.end && !self.suspect);
        let usable = session.usable(now);
        assert_eq!(usable.map(Token::generation), held.map(|held| held.generation), "the token that requests carry");
        assert!(usable.is_none_or(|token| token.is_of(self.organization.as_ref())), "a token of another organization");
    }

    /// Compares what the session shows after a step.
    fn check(&self, session: &Session, now: Moment) {
        self.check_usable(session, now);
        assert_eq!(session.token().map(Token::generation), self.held.as_ref().map(|held| held.generation), "the token held");
        assert_eq!(session.attempt(), self.attempt, "the log-in in flight");
        assert_eq!(session.name() == StateName::LoggedOut, self.logged_out, "whether it is logged out");
        assert_eq!(session.replacement() == Replacement::InFlight, self.suspect, "whether the token is suspect");
        assert_eq!(session.relogin_floor.current(), self.floor, "the floor");
        let probation = session.probation().map(|probation| (probation.generation, probation.verdict));
        assert_eq!(probation, self.probation, "the probation");
        self.check_schedule(session, now);
        self.check_requests(session, now);
    }

    /// Checks when the next log-in starts by itself: never too early, and never too late.
    pub(super) fn check_schedule(&self, session: &Session, now: Moment) {
        let due = session.due_at();
        assert_eq!(due.is_some(), !self.logged_out && self.attempt.is_none(), "a log-in is in flight or has its time");
        let Some(due) = due else { return };
        assert!(due > now, "what is due was done");
        if let Some((from, until)) = self.wait {
            assert!((from..=until).contains(&due), "the wait is {:?}", due.since(now));
        } else if let Some(held) = &self.held {
            assert!((held.received + held.life / 2..held.end).contains(&due), "the renewal is in the second half of the life");
        }
        if let (Some(failed), Some(refused)) = (self.backing_off_since, self.refused_since) {
            assert!(due <= failed.max(refused) + 10 * SECOND, "the wait is short while the token is known to be refused");
        }
    }

    /// Checks what requests do: they wait only for something that comes.
    fn check_requests(&self, session: &Session, now: Moment) {
        let snapshot = AccountSnapshot::of(session, &LoginHistory::default());
        let usable = session.usable(now).is_some();
        assert_eq!(snapshot.is_usable(now), usable, "{snapshot:?} shows whether there is a token");
        match snapshot.availability() {
            Availability::Available => assert!(usable, "nothing is available"),
            Availability::Unavailable { why: Why::TokenPending, until } => assert!(self.attempt.is_some() && until.is_none()),
            Availability::Unavailable { why: Why::LoginFailing | Why::LoginRejected, until } => {
                assert!(self.wait.is_some() && until == session.due_at());
            }
            Availability::Unavailable { why: Why::LoggedOut, until } => assert!(self.logged_out && until.is_none()),
            other => panic!("{other:?} is no state of an account that logs in and runs"),
        }
        let deadline = now + TOKEN_WAIT;
        for refused in session.token().map(Token::generation).into_iter().chain([Generation(0)]) {
            for is_reported in [false, true] {
                match snapshot.on_unauthorized(Unauthorized { refused, deadline, is_reported }, now) {
                    OnUnauthorized::Wait => {
                        let due = session.due_at().is_some_and(|due| due <= deadline);
                        assert!(self.attempt.is_some() || due, "a 401 waits for nothing");
                    }
                    OnUnauthorized::Report => assert!(!is_reported && refused.0 > 0, "one 401 is reported again and again"),
                    OnUnauthorized::TooYoung(until) => assert!(is_reported || until > now, "the token is old enough"),
                    OnUnauthorized::PassOn => assert!(self.attempt.is_none() || usable, "a 401 does not wait for the log-in"),
                    OnUnauthorized::WakeAndWait => panic!("there is nothing to wake the driver for"),
                    OnUnauthorized::Ended => panic!("the account runs"),
                }
            }
        }
    }
}
