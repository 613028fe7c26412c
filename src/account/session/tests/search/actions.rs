//! One node in the life of a session, the actions that lead on from it, and what makes two nodes the same.

use std::sync::Arc;

use super::{super::model::Model, *};
use crate::account::{relogin_floor::ProbationOutcome, token::Bearer};

/// What happens next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    LogIn,
    LogOut,
    CredentialsChanged,
    OrganizationChanged,
    Resumed,
    Tick,
    OrganizationRead(Read),
    Granted(Life),
    Failed(Failure),
    /// A log-in that was given up reads an organization, brings a token, or fails.
    StaleOrganizationRead,
    StaleGranted,
    StaleFailed,
    /// Requests get a 401; or, after one, get through or get another.
    Unauthorized(Which),
    Accepted(Which),
    RejectedAgain(Which),
    /// Another request is answered with the latest token.
    Worked,
    /// Answers refuse the token held, so that it is known to be refused; another answer ends that.
    KnownRefused,
    Answered,
    /// Time passes, and the driver sleeps through it.
    Pass(Until),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Read {
    Same,
    Other,
    Unusable,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Life {
    Long,
    /// It is shorter than the floor.
    Short,
    /// It has expired on the way.
    Over,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    Refused,
    Throttled,
    ThrottledWithoutTime,
    Busy,
    Cut,
    TimedOut,
    Malformed,
}

/// The token that a request speaks of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Which {
    /// The latest one, whether or not the session holds it still.
    Latest,
    Earlier,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Until {
    /// The session's deadline.
    Due,
    Expiry,
    /// A nanosecond before a 401 counts.
    AlmostFloor,
    Floor,
    /// The log-in in flight hangs.
    Hang,
    /// Everything known of has passed.
    LongAfter,
}

pub(super) const ACTIONS: [Action; 37] = [
    Action::LogIn,
    Action::LogOut,
    Action::CredentialsChanged,
    Action::OrganizationChanged,
    Action::Resumed,
    Action::Tick,
    Action::OrganizationRead(Read::Same),
    Action::OrganizationRead(Read::Other),
    Action::OrganizationRead(Read::Unusable),
    Action::Granted(Life::Long),
    Action::Granted(Life::Short),
    Action::Granted(Life::Over),
    Action::Failed(Failure::Refused),
    Action::Failed(Failure::Throttled),
    Action::Failed(Failure::ThrottledWithoutTime),
    Action::Failed(Failure::Busy),
    Action::Failed(Failure::Cut),
    Action::Failed(Failure::TimedOut),
    Action::Failed(Failure::Malformed),
    Action::StaleOrganizationRead,
    Action::StaleGranted,
    Action::StaleFailed,
    Action::Unauthorized(Which::Latest),
    Action::Unauthorized(Which::Earlier),
    Action::Accepted(Which::Latest),
    Action::Accepted(Which::Earlier),
    Action::RejectedAgain(Which::Latest),
    Action::RejectedAgain(Which::Earlier),
    Action::Worked,
    Action::KnownRefused,
    Action::Answered,
    Action::Pass(Until::Due),
    Action::Pass(Until::Expiry),
    Action::Pass(Until::AlmostFloor),
    Action::Pass(Until::Floor),
    Action::Pass(Until::Hang),
    Action::Pass(Until::LongAfter),
];

const SHORT: Duration = Duration::from_secs(20);

/// A session, its model, and what surrounds them.
pub(super) struct Node {
    session: Session,
    model: Model,
    now: Moment,
    /// What workers have recorded of refused tokens.
    record: Option<RefusedToken>,
    /// Chance draws the same jitter for each event.
    seed: u64,
    identity: AccountIdentity,
    refresh: Arc<Secret>,
}

/// What decides all that can follow. Times are told from now on, and generations by whether they are the token's.
#[derive(PartialEq, Eq, Hash)]
pub(super) struct Key {
    state: StateName,
    /// Whether the token is suspect, and the age of the log-in in flight while that matters.
    in_flight: Option<(bool, Duration)>,
    /// Its age, what is left of it, and whether a refresh token came with it.
    token: Option<(Duration, Duration, bool)>,
    due: Option<Duration>,
    /// When a wait ends, by what may become known of the token; and whether the server asked for that time.
    backoff: Option<([Duration; 3], bool)>,
    has_organization: bool,
    floor: Duration,
    probation: Option<u8>,
    is_refused: bool,
    is_recorded: bool,
    /// Failures and refusals, up to where more change nothing.
    tries: (u32, u32),
    /// Log-ins so far and the number of the latest token, up to where there are earlier ones.
    numbers: (u64, u64),
}

impl Node {
    pub(super) fn new(seed: u64) -> Self {
        let (session, now) = (Session::new(FLOOR), Moment::new(100 * SECOND));
        let (identity, refresh) = (AccountIdentity::new(), Arc::new(Secret::from("refresh")));
        Self { session, model: Model::new(), now, record: None, seed, identity, refresh }
    }

    pub(super) fn state(&self) -> StateName {
        self.session.name()
    }

    /// The node after one action; `None` when that is not possible here.
    pub(super) fn after(&self, action: Action) -> Option<Self> {
        if let Action::Pass(until) = action {
            let now = self.moment(until).filter(|moment| *moment > self.now)?;
            let after = Self { now, ..self.copy() };
            after.model.check_usable(&after.session, now);
            return Some(after);
        }
        let (event, record) = (self.event(action)?, self.record_after(action));
        let mut after = Self { record, ..self.copy() };
        after.session.set_refusal(record);
        after.model.hear(record);
        after.model.step(&mut after.session, event, after.now, &mut Jitter::seeded(self.seed));
        Some(after)
    }

    fn moment(&self, until: Until) -> Option<Moment> {
        let session = &self.session;
        let floor = || Some(session.token()?.received + session.relogin_floor.current());
        match until {
            Until::Due => session.deadline(),
            Until::Expiry => Some(session.token()?.usable_until),
            Until::AlmostFloor => Some(floor()? - Duration::from_nanos(1)),
            Until::Floor => floor(),
            Until::Hang => session.attempt().map(|_| session.started_at + HANGS_AFTER),
            Until::LongAfter => Some(self.now + 2 * LIFE),
        }
    }

    fn event(&self, action: Action) -> Option<Event> {
        let in_flight = self.session.attempt();
        let stale = || {
            let number = self.session.attempts - u64::from(in_flight.is_some());
            (number > 0).then_some(Attempt(number))
        };
        let generation = |which| match (which, self.model.newest?) {
            (Which::Latest, newest) => Some(newest),
            (Which::Earlier, newest) => (newest.0 > 1).then(|| Generation(newest.0 - 1)),
        };
        Some(match action {
            Action::LogIn => Event::LogIn,
            Action::LogOut => Event::LogOut,
            Action::CredentialsChanged => Event::CredentialsChanged,
            Action::OrganizationChanged => Event::OrganizationChanged,
            Action::Resumed => Event::Resumed,
            Action::Tick => Event::Tick,
            Action::OrganizationRead(read) => Event::OrganizationRead(in_flight?, self.organization(read)),
            Action::Granted(life) => Event::Ended(in_flight?, Ok(self.grant(in_flight?, life))),
            Action::Failed(failure) => Event::Ended(in_flight?, Err(failure.error())),
            Action::StaleOrganizationRead => Event::OrganizationRead(stale()?, self.organization(Read::Other)),
            Action::StaleGranted => Event::Ended(stale()?, Ok(self.grant(stale()?, Life::Long))),
            Action::StaleFailed => Event::Ended(stale()?, Err(Failure::Refused.error())),
            Action::Unauthorized(which) => Event::Unauthorized(generation(which)?),
            Action::Accepted(which) => Event::Verdict(ProbationOutcome::Accepted, generation(which)?),
            Action::RejectedAgain(which) => Event::Verdict(ProbationOutcome::RejectedAgain, generation(which)?),
            Action::Worked => Event::Verdict(ProbationOutcome::Worked, generation(Which::Latest)?),
            Action::KnownRefused => self.session.token().map(|_| Event::Tick)?,
            Action::Answered => self.record.map(|_| Event::Tick)?,
            Action::Pass(_) => return None,
        })
    }

    fn record_after(&self, action: Action) -> Option<RefusedToken> {
        let held = self.session.token().map(Token::generation);
        match (action, held) {
            (Action::Answered, _) => None,
            (Action::KnownRefused, Some(generation)) if self.record.is_none_or(|record| record.generation < generation) => {
                Some(RefusedToken { generation, since: self.now })
            }
            _ => self.record,
        }
    }

    fn organization(&self, read: Read) -> Option<HeaderValue> {
        let known = self.session.organization.clone().unwrap_or(organization("acme"));
        match read {
            Read::Same => Some(known),
            Read::Other if known == "acme" => Some(organization("umbrella")),
            Read::Other => Some(organization("acme")),
            Read::Unusable => None,
        }
    }

    /// A token that the log-in brings now. It holds no secret: pages for one cost more than the rest of an action.
    fn grant(&self, attempt: Attempt, life: Life) -> Token {
        let (life, received) = match life {
            Life::Long => (LIFE, self.now),
            Life::Short => (SHORT, self.now),
            Life::Over => (SHORT, self.now - SHORT),
        };
        let usable_until = received + life - 2 * SECOND;
        let bearer = Bearer {
            authorization: None,
            organization: self.organization(Read::Same).unwrap(),
            generation: attempt.generation(),
            fingerprint: None,
            account: self.identity,
            usable_until: Some(usable_until),
        };
        let refresh = Some(Arc::clone(&self.refresh));
        Token { bearer: Arc::new(bearer), refresh, received, expires: received + life, life, usable_until }
    }

    fn copy(&self) -> Self {
        let state = match &self.session.state {
            State::LoggedOut => State::LoggedOut,
            State::LoggingIn { attempt, tries } => State::LoggingIn { attempt: *attempt, tries: *tries },
            State::Ready { token, refresh_at } => State::Ready { token: token.clone(), refresh_at: *refresh_at },
            State::Refreshing { token, step, tries } => {
                let step = match step {
                    Step::InFlight { attempt, trust } => Step::InFlight { attempt: *attempt, trust: *trust },
                    Step::Waiting { backoff, last } => Step::Waiting { backoff: *backoff, last: last.clone() },
                };
                State::Refreshing { token: token.clone(), step, tries: *tries }
            }
            State::BackingOff { backoff, tries, last } => {
                State::BackingOff { backoff: *backoff, tries: *tries, last: last.clone() }
            }
            State::Rejected { token, until, tries, last } => {
                State::Rejected { token: token.clone(), until: *until, tries: *tries, last: last.clone() }
            }
        };
        let Session { relogin_floor, organization, .. } = &self.session;
        let (relogin_floor, organization) = (relogin_floor.clone(), organization.clone());
        let session = Session { state, relogin_floor, organization, ..self.session };
        Self { session, model: self.model.clone(), refresh: Arc::clone(&self.refresh), ..*self }
    }

    pub(super) fn key(&self) -> Key {
        let (session, now) = (&self.session, self.now);
        let token = session.token();
        let backoff = match &session.state {
            State::Refreshing { step: Step::Waiting { backoff, .. }, .. } | State::BackingOff { backoff, .. } => Some(backoff),
            _ => None,
        };
        let refused = |since| RefusedToken { generation: Generation(0), since };
        let ends = |backoff: &Backoff, refusal: Option<RefusedToken>| backoff.until(refusal.as_ref()).since(now);
        let (always, from_now) = (Some(refused(Moment::new(Duration::ZERO))), Some(refused(now)));
        Key {
            state: session.name(),
            in_flight: session
                .attempt()
                .map(|_| (session.replacement() == Replacement::InFlight, now.since(session.started_at).min(HANGS_AFTER))),
            token: token.map(|token| (now.since(token.received), token.usable_until.since(now), token.refresh.is_some())),
            due: session.due_at().map(|due| due.since(now)),
            backoff: backoff.map(|backoff| {
                let possible = [None, always, from_now].map(|refusal| ends(backoff, refusal));
                (possible, !self.model.has_backoff())
            }),
            has_organization: session.organization.is_some(),
            floor: session.relogin_floor.current(),
            probation: session.probation().map(|probation| match probation.verdict {
                None => 0,
                Some(ProbationOutcome::Accepted) => 1,
                Some(ProbationOutcome::RejectedAgain) => 2,
                Some(ProbationOutcome::Worked) => 3,
            }),
            is_refused: session.refusal.is_some(),
            is_recorded: self.record.is_some_and(|record| Some(record.generation) == token.map(Token::generation)),
            tries: (self.model.failures.min(6), self.model.refusals.min(5)),
            numbers: (session.attempts.min(2), self.model.newest.map_or(0, |newest| newest.0.min(2))),
        }
    }
}

impl Failure {
    fn error(self) -> LoginError {
        let server_failed = |retry_after| {
            LoginError::Unreachable(Unreachable::ServerFailed { status: StatusCode::SERVICE_UNAVAILABLE, retry_after })
        };
        match self {
            Self::Refused => refused(),
            Self::Throttled => LoginError::Throttled(Some(90 * SECOND)),
            Self::ThrottledWithoutTime => LoginError::Throttled(None),
            Self::Busy => server_failed(Some(MINUTE)),
            Self::Cut => transient(),
            Self::TimedOut => LoginError::TimedOut,
            Self::Malformed => LoginError::Malformed(Malformed::NoToken),
        }
    }
}
