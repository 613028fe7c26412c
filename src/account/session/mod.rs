//! The account's state machine: an event goes in, the next state and at most one effect come out.
//!
//! Pure: time and chance are arguments, and the driver carries out the effects. Guarantees: at most one log-in is in
//! flight, since a new one makes the one before stale; a token that counts as expired is never [`Session::usable`]; after a
//! log-out nothing but [`Event::LogIn`] starts a log-in; `LoggedOut`, `LoggingIn` and `BackingOff` hold no token; a token is
//! of the organization that a log-in read last.
//! [`Session::check_invariants`] states what holds after every step.

mod backoff;
mod state_name;

use std::{mem, time::Duration};

use http::HeaderValue;

use self::backoff::{Backoff, Tries};
pub use self::state_name::StateName;
use super::{
    failure::{LoginError, Malformed},
    refusal::RefusedToken,
    relogin_floor::{Probation, ProbationOutcome, ReloginFloor},
    token::{Generation, Refresh, Token},
};
use crate::clock::{Jitter, Moment};

/// An explicit log-in joins the one in flight, unless that has taken this long: then it begins anew.
pub(super) const HANGS_AFTER: Duration = Duration::from_secs(5);

/// The session of one account: its state, and what outlives each state.
#[derive(Debug)]
pub(super) struct Session {
    state: State,
    relogin_floor: ReloginFloor,
    /// The token at hand, or the last one if it has expired, is known to be refused.
    refusal: Option<RefusedToken>,
    /// The organization that a log-in read last; `None` when that was none that a request could carry.
    organization: Option<HeaderValue>,
    /// Log-ins started so far; a token's generation is the number of its log-in.
    attempts: u64,
    /// When the latest of them started.
    started_at: Moment,
}

/// The state. Each variant holds exactly what is known in it.
#[derive(Debug)]
pub(super) enum State {
    LoggedOut,
    LoggingIn { attempt: Attempt, tries: Tries },
    Ready { token: Token, refresh_at: Moment },
    Refreshing { token: Token, step: Step, tries: Tries },
    BackingOff { backoff: Backoff, tries: Tries, last: LoginError },
    Rejected { token: Option<Token>, until: Moment, tries: Tries, last: LoginError },
}

/// The step of a refresh.
#[derive(Debug)]
pub(super) enum Step {
    InFlight { attempt: Attempt, trust: Trust },
    Waiting { backoff: Backoff, last: LoginError },
}

/// Whether requests carry the token at hand while its successor is fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trust {
    Trusted,
    /// A 401 named the token, so requests wait for its successor.
    Suspect,
}

/// The number of a log-in. The session drops the outcome of any but the latest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Attempt(pub(super) u64);

impl Attempt {
    /// The generation of the token that this log-in may bring.
    pub(super) fn generation(self) -> Generation {
        Generation(self.0)
    }
}

/// An event in the life of a session.
#[derive(Debug)]
pub(super) enum Event {
    /// The daemon started, or an administrator asked for a log-in.
    LogIn,
    LogOut,
    /// User name or password are no longer those that the last log-in used.
    CredentialsChanged,
    /// The organization is no longer the one that the last log-in used.
    OrganizationChanged,
    /// That log-in has read this organization, and goes on; `None`: one that no request can carry.
    OrganizationRead(Attempt, Option<HeaderValue>),
    /// The machine was suspended; the server may have ended the token meanwhile.
    Resumed,
    /// A request with that token got a 401.
    Unauthorized(Generation),
    /// A request showed this about that token.
    Verdict(ProbationOutcome, Generation),
    /// That log-in ended.
    Ended(Attempt, Result<Token, LoginError>),
    /// Time has passed.
    Tick,
}

/// An action for the driver. Everything else follows from the state.
#[derive(Debug)]
pub(super) enum Effect {
    /// Start this log-in and give up the one before.
    StartLogin { attempt: Attempt, refresh: Option<Refresh> },
}

/// When a 401 has the token at hand replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Replacement {
    /// It does not: there is no token.
    Never,
    /// It does not, since the next log-in has its time; requests that got a 401 may wait for that.
    Scheduled {
        /// Whether the session knows that the token is refused. Otherwise a 401 may bring that time nearer.
        refusal_known: bool,
    },
    /// An earlier 401 made the token suspect, and its replacement is in flight.
    InFlight,
    /// A log-in is in flight; from this time on, a 401 makes it a replacement.
    Join(Moment),
    /// From this time on, a 401 starts a log-in.
    From(Moment),
}

impl Session {
    /// A session that is logged out; the driver's first event is a log-in.
    pub(super) fn new(relogin_floor: Duration) -> Self {
        Self {
            state: State::LoggedOut,
            relogin_floor: ReloginFloor::new(relogin_floor),
            refusal: None,
            organization: None,
            attempts: 0,
            started_at: Moment::new(Duration::ZERO),
        }
    }

    /// Changes the least age at which a 401 replaces a token.
    pub(super) fn set_relogin_floor(&mut self, relogin_floor: Duration) {
        self.relogin_floor.rebase(relogin_floor);
    }

    /// Takes over what is known of refused tokens. It counts while the token is at hand and after it has expired, until
    /// another one comes.
    pub(super) fn set_refusal(&mut self, refusal: Option<RefusedToken>) {
        if let Some(token) = self.token() {
            self.refusal = refusal.filter(|refusal| refusal.generation == token.generation());
        }
    }

    /// Handles one event. Every event is also a tick: the session also does what is due at `now`.
    pub(super) fn step(&mut self, event: Event, now: Moment, jitter: &mut Jitter) -> Option<Effect> {
        self.forget_expired(now);
        let effect = match event {
            Event::LogOut => {
                self.state = State::LoggedOut;
                self.forget_verdicts();
                None
            }
            Event::LogIn => self.log_in(now),
            Event::CredentialsChanged => self.credentials_changed(now),
            Event::OrganizationChanged => self.organization_changed(now),
            Event::OrganizationRead(attempt, organization) => {
                if self.attempt() == Some(attempt) {
                    self.organization_read(organization);
                }
                None
            }
            Event::Resumed => matches!(self.state, State::Ready { .. }).then(|| self.start(Trust::Trusted, now)),
            Event::Unauthorized(refused) => self.unauthorized(refused, now),
            Event::Verdict(outcome, by) => {
                self.relogin_floor.judge(outcome, by);
                None
            }
            Event::Ended(attempt, outcome) => {
                // A token from an older attempt is wiped here, unused.
                if self.attempt() == Some(attempt) {
                    self.ended(outcome, now, jitter);
                }
                None
            }
            Event::Tick => None,
        };
        if effect.is_none() && self.due_at().is_some_and(|due| now >= due) {
            return Some(self.start(Trust::Trusted, now));
        }
        effect
    }

    /// The token that requests may carry.
    pub(super) fn usable(&self, now: Moment) -> Option<&Token> {
        let token = match &self.state {
            State::Refreshing { step: Step::InFlight { trust: Trust::Suspect, .. }, .. } => None,
            _ => self.token(),
        };
        token.filter(|token| token.is_usable(now))
    }

    /// The token at hand, suspect or not; never an expired one after a step.
    pub(super) fn token(&self) -> Option<&Token> {
        match &self.state {
            State::LoggedOut | State::LoggingIn { .. } | State::BackingOff { .. } => None,
            State::Ready { token, .. } | State::Refreshing { token, .. } => Some(token),
            State::Rejected { token, .. } => token.as_ref(),
        }
    }

    /// When a tick next changes something; `None` when only other events do.
    pub(super) fn deadline(&self) -> Option<Moment> {
        let expiry = self.token().map(|token| token.usable_until);
        self.due_at().into_iter().chain(expiry).min()
    }

    /// When the next log-in starts by itself.
    pub(super) fn due_at(&self) -> Option<Moment> {
        match &self.state {
            State::LoggedOut | State::LoggingIn { .. } | State::Refreshing { step: Step::InFlight { .. }, .. } => None,
            State::Ready { refresh_at, .. } => Some(*refresh_at),
            State::Refreshing { step: Step::Waiting { backoff, .. }, .. } | State::BackingOff { backoff, .. } => {
                Some(backoff.until(self.refusal.as_ref()))
            }
            State::Rejected { until, .. } => Some(*until),
        }
    }

    /// The log-in in flight.
    pub(super) fn attempt(&self) -> Option<Attempt> {
        match &self.state {
            State::LoggingIn { attempt, .. } | State::Refreshing { step: Step::InFlight { attempt, .. }, .. } => Some(*attempt),
            _ => None,
        }
    }

    /// Why the latest log-in failed, until the next one is in flight.
    pub(super) fn last_error(&self) -> Option<&LoginError> {
        match &self.state {
            State::Refreshing { step: Step::Waiting { last, .. }, .. }
            | State::BackingOff { last, .. }
            | State::Rejected { last, .. } => Some(last),
            _ => None,
        }
    }

    /// Whether the log-in in flight follows one that failed.
    pub(super) fn is_retrying(&self) -> bool {
        match &self.state {
            State::LoggingIn { tries, .. } | State::Refreshing { tries, step: Step::InFlight { .. }, .. } => {
                *tries != Tries::default()
            }
            _ => false,
        }
    }

    /// When a 401 has the token at hand replaced.
    pub(super) fn replacement(&self) -> Replacement {
        match &self.state {
            State::Refreshing { step: Step::InFlight { trust: Trust::Suspect, .. }, .. } => Replacement::InFlight,
            State::Ready { token, .. } => Replacement::From(self.replaceable_from(token)),
            State::Refreshing { token, step: Step::InFlight { .. }, .. } => Replacement::Join(self.replaceable_from(token)),
            State::Refreshing { step: Step::Waiting { .. }, .. } | State::Rejected { token: Some(_), .. } => {
                Replacement::Scheduled { refusal_known: self.refusal.is_some() }
            }
            State::LoggedOut | State::LoggingIn { .. } | State::BackingOff { .. } | State::Rejected { token: None, .. } => {
                Replacement::Never
            }
        }
    }

    /// From when on a 401 counts against `token`.
    fn replaceable_from(&self, token: &Token) -> Moment {
        match self.relogin_floor.probation() {
            // The first 401 is a verdict, however young the token is: it is the one on probation.
            Some(probation) if probation.is_open_to(ProbationOutcome::RejectedAgain) => token.received,
            _ => token.received + self.relogin_floor.current(),
        }
    }

    pub(super) fn probation(&self) -> Option<Probation> {
        self.relogin_floor.probation()
    }

    pub(super) fn name(&self) -> StateName {
        match self.state {
            State::LoggedOut => StateName::LoggedOut,
            State::LoggingIn { .. } => StateName::LoggingIn,
            State::Ready { .. } => StateName::Ready,
            State::Refreshing { .. } => StateName::Refreshing,
            State::BackingOff { .. } => StateName::BackingOff,
            State::Rejected { .. } => StateName::Rejected,
        }
    }

    /// Checks what holds after every step; the error says which rule is broken.
    pub(super) fn check_invariants(&self, now: Moment) -> Result<(), &'static str> {
        let is_at_hand = |generation| self.token().is_none_or(|token| token.generation() == generation);
        let rules = [
            (self.usable(now).is_none_or(|token| token.is_usable(now)), "an expired token is usable"),
            (self.attempt().is_none_or(|attempt| attempt.0 == self.attempts), "the attempt is not the latest"),
            (
                self.token().is_none_or(|token| {
                    let latest = self.attempt().map_or(self.attempts + 1, |attempt| attempt.0);
                    token.generation().0 < latest
                }),
                "a token is newer than its log-in",
            ),
            (
                self.token().is_none_or(|token| token.is_of(self.organization.as_ref())),
                "a token is of another organization than the one that was read last",
            ),
            (self.due_at().is_none_or(|due| due > now), "something due was not done"),
            (self.token().is_none_or(|token| token.is_usable(now)), "an expired token is kept"),
            (self.attempt().is_none() || self.due_at().is_none(), "a log-in is in flight and another one has its time"),
            (
                self.name() == StateName::LoggedOut || self.attempt().is_some() || self.due_at().is_some(),
                "nothing will ever happen again",
            ),
            (self.refusal.is_none_or(|refusal| is_at_hand(refusal.generation)), "a refusal of another token is known"),
            (self.probation().is_none_or(|probation| is_at_hand(probation.generation)), "another token is on probation"),
            (
                (self.relogin_floor.base()..=self.relogin_floor.max()).contains(&self.relogin_floor.current()),
                "the floor is out of its bounds",
            ),
        ];
        rules.into_iter().find(|(holds, _)| !holds).map_or(Ok(()), |(_, broken)| Err(broken))
    }

    fn log_in(&mut self, now: Moment) -> Option<Effect> {
        if self.attempt().is_some() && now < self.started_at + HANGS_AFTER {
            return None;
        }
        self.drop_refresh_token();
        Some(self.start(Trust::Trusted, now))
    }

    fn credentials_changed(&mut self, now: Moment) -> Option<Effect> {
        if self.name() == StateName::LoggedOut {
            return None;
        }
        self.drop_refresh_token();
        // The new credentials have not failed yet.
        self.forget_tries();
        Some(self.start(Trust::Trusted, now))
    }

    fn organization_changed(&mut self, now: Moment) -> Option<Effect> {
        if self.name() == StateName::LoggedOut {
            return None;
        }
        self.forget_verdicts();
        self.state = State::LoggedOut;
        Some(self.start(Trust::Trusted, now))
    }

    /// Drops a token of another organization. The log-in that read this one goes on.
    fn organization_read(&mut self, organization: Option<HeaderValue>) {
        if self.token().is_some_and(|token| !token.is_of(organization.as_ref())) {
            self.forget_verdicts();
            self.state = match mem::replace(&mut self.state, State::LoggedOut) {
                State::Refreshing { step: Step::InFlight { attempt, .. }, tries, .. } => State::LoggingIn { attempt, tries },
                // No other state has both a token and a log-in in flight.
                other => other,
            };
        }
        self.organization = organization;
    }

    /// Forgets what requests found out about a token that is dropped now.
    fn forget_verdicts(&mut self) {
        self.refusal = None;
        self.relogin_floor.end_probation();
    }

    fn unauthorized(&mut self, refused: Generation, now: Moment) -> Option<Effect> {
        let token = self.token().filter(|token| token.generation() == refused && token.is_usable(now))?;
        let age = now.since(token.received);
        self.relogin_floor.unauthorized(refused, age);
        if age < self.relogin_floor.current() {
            return None;
        }
        match &mut self.state {
            State::Ready { .. } => Some(self.start(Trust::Suspect, now)),
            State::Refreshing { step: Step::InFlight { trust, .. }, .. } => {
                *trust = Trust::Suspect;
                None
            }
            _ => None,
        }
    }

    /// Starts the next attempt, in whatever state. A token that was suspect stays so.
    fn start(&mut self, trust: Trust, now: Moment) -> Effect {
        self.attempts += 1;
        self.started_at = now;
        let attempt = Attempt(self.attempts);
        let (token, trust_before, tries) = mem::replace(&mut self.state, State::LoggedOut).into_parts();
        let trust = if trust_before == Trust::Suspect { trust_before } else { trust };
        let token = token.filter(|token| token.is_usable(now));
        let refresh = token.as_ref().and_then(Token::refresh);
        self.state = match token {
            Some(token) => State::Refreshing { token, step: Step::InFlight { attempt, trust }, tries },
            None => State::LoggingIn { attempt, tries },
        };
        Effect::StartLogin { attempt, refresh }
    }

    fn ended(&mut self, outcome: Result<Token, LoginError>, now: Moment, jitter: &mut Jitter) {
        match outcome {
            Ok(token) if token.is_usable(now) => self.succeeded(token, jitter),
            Ok(_) => self.failed(LoginError::Malformed(Malformed::Expired), now, jitter),
            Err(error) => self.failed(error, now, jitter),
        }
    }

    fn succeeded(&mut self, token: Token, jitter: &mut Jitter) {
        let (_, trust, _) = mem::replace(&mut self.state, State::LoggedOut).into_parts();
        match trust {
            Trust::Suspect => self.relogin_floor.start_probation(token.generation()),
            Trust::Trusted => self.relogin_floor.end_probation(),
        }
        self.refusal = None;
        let refresh_at = token.refresh_at(jitter.fraction());
        self.organization = Some(token.bearer.organization.clone());
        self.state = State::Ready { token, refresh_at };
    }

    /// A failed log-in brings a suspect token back into use: a token that may work beats none.
    fn failed(&mut self, error: LoginError, now: Moment, jitter: &mut Jitter) {
        let (token, _, mut tries) = mem::replace(&mut self.state, State::LoggedOut).into_parts();
        self.state = if let LoginError::Refused(_) = error {
            let until = now + tries.refused();
            State::Rejected { token, until, tries, last: error }
        } else {
            let backoff = tries.failed(&error, now, jitter);
            match token {
                Some(token) => State::Refreshing { token, step: Step::Waiting { backoff, last: error }, tries },
                None => State::BackingOff { backoff, tries, last: error },
            }
        };
    }

    /// Drops a token that counts as expired. In `Ready` a log-in is due by then, and [`Session::start`] drops the token.
    fn forget_expired(&mut self, now: Moment) {
        if self.token().is_none_or(|token| token.is_usable(now)) {
            return;
        }
        self.state = match mem::replace(&mut self.state, State::LoggedOut) {
            State::Refreshing { step: Step::InFlight { attempt, .. }, tries, .. } => State::LoggingIn { attempt, tries },
            State::Refreshing { step: Step::Waiting { backoff, last }, tries, .. } => State::BackingOff { backoff, tries, last },
            State::Rejected { until, tries, last, .. } => State::Rejected { token: None, until, tries, last },
            other => other,
        };
    }

    /// Has the next log-in use the credentials, since it was asked for or they changed.
    fn drop_refresh_token(&mut self) {
        match &mut self.state {
            State::Ready { token, .. } | State::Refreshing { token, .. } | State::Rejected { token: Some(token), .. } => {
                token.refresh = None;
            }
            _ => {}
        }
    }

    fn forget_tries(&mut self) {
        match &mut self.state {
            State::LoggedOut | State::Ready { .. } => {}
            State::LoggingIn { tries, .. }
            | State::Refreshing { tries, .. }
            | State::BackingOff { tries, .. }
            | State::Rejected { tries, .. } => *tries = Tries::default(),
        }
    }
}

impl State {
    fn into_parts(self) -> (Option<Token>, Trust, Tries) {
        match self {
            Self::LoggedOut => (None, Trust::Trusted, Tries::default()),
            Self::LoggingIn { tries, .. } | Self::BackingOff { tries, .. } => (None, Trust::Trusted, tries),
            Self::Ready { token, .. } => (Some(token), Trust::Trusted, Tries::default()),
            Self::Refreshing { token, step: Step::InFlight { trust, .. }, tries } => (Some(token), trust, tries),
            Self::Refreshing { token, step: Step::Waiting { .. }, tries } => (Some(token), Trust::Trusted, tries),
            Self::Rejected { token, tries, .. } => (token, Trust::Trusted, tries),
        }
    }
}

#[cfg(test)]
mod tests;
