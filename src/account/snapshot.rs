//! The published state of an account, and what readers derive from it.
//!
//! Pure: no clock, no I/O. The driver makes one [`AccountSnapshot`] from its session after each step; requests, readiness,
//! `status`, metrics and systemd read nothing else, but for the streak of 401s (`refusal`). The bearer is not in it: requests load
//! that without a lock.

use std::time::{Duration, SystemTime};

use super::{
    failure::LoginError,
    relogin_floor::{Probation, ProbationOutcome},
    session::{HANGS_AFTER, Replacement, Session, StateName},
    token::Generation,
};
use crate::clock::{Moment, Now};

/// What to do while a log-in hangs: its time limit ends it, and another one follows.
const HANG_ADVICE: &str = "nothing for now, it tries again by itself; if this lasts, `careportals-sidecar check --online` looks at DNS, \
                           network, egress proxy and log-in";
/// What to do while log-ins succeed and their tokens are refused.
pub const REFUSED_ADVICE: &str = "check that the account may use this API, and that `organization` and `upstream` belong together; then ask \
                              CarePortals, with the `request_id` of a refused call from the log";
const LOGGED_OUT_ADVICE: &str = "`careportals-sidecar login` logs in again";
const RETRY_MIN: Duration = Duration::from_secs(1);
/// A server that refuses tokens for longer than this does not do so because one of them was revoked: that is replaced by then.
pub const TOKEN_REFUSED_AFTER: Duration = Duration::from_secs(5);
/// A token ends soon when less than a tenth of its life is left, and less than this.
const ENDS_WITHIN_MAX: Duration = Duration::from_secs(60);
/// An account that is logged out waits for an administrator, so clients need not ask often.
const LOGGED_OUT_RETRY: Duration = Duration::from_secs(30);

/// One account after one step of its driver.
#[derive(Clone, Debug, PartialEq)]
pub struct AccountSnapshot {
    pub(super) standing: Standing,
    pub(super) token: Option<HeldToken>,
    pub(super) probation: Option<Probation>,
    /// When the next log-in or reading of the sources starts by itself.
    pub(super) due_at: Option<Moment>,
    pub(super) history: LoginHistory,
    /// The first and the latest of the 401s since upstream answered with anything else. Only who asks now has it: it wakes nobody.
    pub(super) refusals: Option<(Moment, Moment)>,
}

/// What the account is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It logs in, and its session is in this state.
    Session(StateName),
    /// It has no log-in, and its organization is being read.
    OrganizationPending,
    /// It has no log-in, and requests carry its organization.
    OrganizationKnown,
    /// It has no log-in, and its source gave no organization.
    OrganizationMissing,
    /// Its task has ended: at a reload or at the daemon's end. `status` shows this state.
    Ended(Option<StateName>),
}

/// The token at hand, suspect or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct HeldToken {
    pub(super) generation: Generation,
    pub(super) life: Duration,
    pub(super) expires: Moment,
    pub(super) usable_until: Moment,
    pub(super) replacement: Replacement,
}

/// How the latest log-ins ended.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct LoginHistory {
    pub(super) succeeded_at: Option<SystemTime>,
    pub(super) failed_at: Option<SystemTime>,
    /// When the log-in in flight began; `None`: there is none.
    pub(super) in_flight_since: Option<Moment>,
    /// Why the latest one failed; `None` once a log-in succeeded or the account was logged out.
    pub(super) error: Option<LoginError>,
    /// When the first one failed since one succeeded; `None` where `error` is.
    pub(super) failing_since: Option<SystemTime>,
    /// When the account was logged out; `None` while it is not.
    pub(super) logged_out_at: Option<SystemTime>,
}

/// Whether requests get a bearer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Availability {
    /// A bearer is published. It may have expired since: the driver withdraws it at its next step.
    Available,
    /// There is none. `until`: when the next attempt starts, where that has a time.
    Unavailable { why: Why, until: Option<Moment> },
    /// There is none, and there never will be: the account has ended. A reload may have started another one.
    Ended,
}

/// A log-in fails or hangs, and what that means for requests, or its tokens are of no use. It does not change with each attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccountTrouble {
    /// Requests are served with the present token.
    RenewalFailing,
    /// They are, and the token ends soon.
    TokenEnding,
    /// They are not.
    NoToken,
    /// For some seconds upstream has answered with 401s and nothing else, whether log-ins succeed or not.
    TokenRefused,
}

impl AccountTrouble {
    /// The name in `status`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::RenewalFailing => "renewal_failing",
            Self::TokenEnding => "token_ending",
            Self::NoToken => "no_token",
            Self::TokenRefused => "token_refused",
        }
    }
}

/// A 401 that a request got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unauthorized {
    /// The token that the request carried.
    pub(super) refused: Generation,
    /// How long the request can wait for another one.
    pub(super) deadline: Moment,
    /// Whether the driver was told of it.
    pub(super) is_reported: bool,
}

/// What a 401 does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OnUnauthorized {
    /// The driver starts a log-in, makes the one in flight a replacement, or brings the scheduled one nearer. It must be told.
    Report,
    /// A log-in is in flight or due in time, and the request waits for its token.
    Wait,
    /// The token expired or a log-in is due, and the driver has not noticed: it must be woken, then the request waits.
    WakeAndWait,
    /// Nothing: the client gets the 401.
    PassOn,
    /// The client gets the 401, since the token is younger than the floor. From that moment on a 401 has it replaced.
    TooYoung(Moment),
    /// The account has ended, so no token will come.
    Ended,
}

/// Why a request gets no bearer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unavailable {
    /// The cause.
    pub why: Why,
    /// When the client should ask again; a second at least.
    pub retry_after: Duration,
}

/// The cause that a request gets no bearer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The account is logged out until an explicit log-in.
    LoggedOut,
    /// A log-in is in flight and took longer than the request may wait.
    TokenPending,
    /// A reload has put another account in its place, or removed it.
    Replaced,
    /// The last log-in failed, and the next one has its time.
    LoginFailing,
    /// The server refused the credentials.
    LoginRejected,
    /// The source of the organization gives none.
    NoOrganization,
}

impl AccountSnapshot {
    /// A snapshot before the first log-in or reading.
    pub(super) fn new(standing: Standing) -> Self {
        Self { standing, token: None, probation: None, due_at: None, history: LoginHistory::default(), refusals: None }
    }

    /// What `session` shows. It must have stepped now, so that it holds no expired token.
    pub(super) fn of(session: &Session, history: &LoginHistory) -> Self {
        let token = session.token().map(|token| HeldToken {
            generation: token.generation(),
            life: token.life,
            expires: token.expires,
            usable_until: token.usable_until,
            replacement: session.replacement(),
        });
        Self {
            standing: Standing::Session(session.name()),
            token,
            probation: session.probation(),
            due_at: session.due_at(),
            history: history.clone(),
            refusals: None,
        }
    }

    /// The session's state; `None` for an account without log-in.
    #[must_use]
    pub fn state(&self) -> Option<StateName> {
        match self.standing {
            Standing::Session(name) => Some(name),
            Standing::Ended(name) => name,
            Standing::OrganizationPending | Standing::OrganizationKnown | Standing::OrganizationMissing => None,
        }
    }

    /// What readers find once the account's task has ended. An account that was logged out stays so.
    pub(super) fn ended(&self) -> Self {
        Self::new(match self.standing {
            Standing::Session(StateName::LoggedOut) => self.standing,
            _ => Standing::Ended(self.state().map(|_| StateName::LoggedOut)),
        })
    }

    /// Whether requests get a bearer; if not, why, and until when it pays to wait.
    pub(super) fn availability(&self) -> Availability {
        let is_suspect = |token: HeldToken| token.replacement == Replacement::InFlight;
        let (why, until) = match self.standing {
            Standing::OrganizationKnown => return Availability::Available,
            Standing::Session(_) if self.token.is_some_and(|token| !is_suspect(token)) => return Availability::Available,
            Standing::Ended(_) => return Availability::Ended,
            Standing::Session(StateName::LoggedOut) => (Why::LoggedOut, None),
            Standing::OrganizationMissing => (Why::NoOrganization, self.due_at),
            Standing::Session(StateName::Rejected) => (Why::LoginRejected, self.due_at),
            Standing::Session(_) if self.due_at.is_some() => (Why::LoginFailing, self.due_at),
            Standing::OrganizationPending | Standing::Session(_) => (Why::TokenPending, None),
        };
        Availability::Unavailable { why, until }
    }

    /// What a 401 does at `now`.
    pub(super) fn on_unauthorized(&self, unauthorized: Unauthorized, now: Moment) -> OnUnauthorized {
        let Unauthorized { refused, deadline, is_reported } = unauthorized;
        let Some(token) = self.token else {
            return match self.availability() {
                Availability::Ended => OnUnauthorized::Ended,
                Availability::Unavailable { why: Why::TokenPending, .. } => OnUnauthorized::Wait,
                Availability::Unavailable { why: Why::LoginFailing | Why::LoginRejected, .. } => {
                    self.wait_for_schedule(now, deadline)
                }
                Availability::Unavailable { .. } | Availability::Available => OnUnauthorized::PassOn,
            };
        };
        let is_refused = token.generation == refused;
        match token.replacement {
            _ if now >= token.usable_until => OnUnauthorized::WakeAndWait,
            Replacement::InFlight => OnUnauthorized::Wait,
            Replacement::From(moment) if is_refused && now >= moment && !is_reported => OnUnauthorized::Report,
            Replacement::Join(moment) if is_refused && now >= moment && !is_reported => OnUnauthorized::Report,
            Replacement::Join(_) if is_refused => OnUnauthorized::Wait,
            Replacement::Scheduled { refusal_known: false } if is_refused && !is_reported => OnUnauthorized::Report,
            Replacement::Scheduled { .. } if is_refused => self.wait_for_schedule(now, deadline),
            Replacement::From(moment) if is_refused => OnUnauthorized::TooYoung(moment),
            Replacement::From(_) | Replacement::Join(_) | Replacement::Scheduled { .. } | Replacement::Never => {
                OnUnauthorized::PassOn
            }
        }
    }

    /// Whether it pays to wait for the attempt that is scheduled.
    fn wait_for_schedule(&self, now: Moment, deadline: Moment) -> OnUnauthorized {
        match self.due_at {
            Some(due) if due <= now => OnUnauthorized::WakeAndWait,
            Some(due) if due <= deadline => OnUnauthorized::Wait,
            _ => OnUnauthorized::PassOn,
        }
    }

    /// Whether the driver needs that verdict.
    pub(super) fn is_open_to(&self, verdict: ProbationOutcome, on: Generation) -> bool {
        self.probation.is_some_and(|probation| probation.generation == on && probation.is_open_to(verdict))
    }

    /// Whether requests get a bearer at `now`.
    #[must_use]
    pub fn is_usable(&self, now: Moment) -> bool {
        let has_ended = self.token.is_some_and(|token| now >= token.usable_until);
        self.availability() == Availability::Available && !has_ended
    }

    /// Whether a token that has not expired is at hand, even while a 401 has it replaced.
    #[must_use]
    pub fn holds_valid_token(&self, now: Moment) -> bool {
        self.token.is_some_and(|token| now < token.usable_until)
    }

    /// Whether the account has no log-in and its source gives no organization, so that every request fails.
    #[must_use]
    pub fn lacks_organization(&self) -> bool {
        self.standing == Standing::OrganizationMissing
    }

    /// Whether a log-in fails or hangs, and how much that matters, or whether its tokens are refused. An account that was logged
    /// out has no trouble.
    #[must_use]
    pub fn trouble(&self, now: Moment) -> Option<AccountTrouble> {
        let hangs = self.history.in_flight_since.is_some_and(|since| now.since(since) > HANGS_AFTER);
        let fails = self.last_error().is_some() || hangs;
        // That log-ins fail, too, makes nothing better.
        if self.is_refused() && (self.is_usable(now) || !fails) {
            return Some(AccountTrouble::TokenRefused);
        }
        if !fails {
            return None;
        }
        let left = |token: HeldToken| token.usable_until.since(now);
        let ends_soon = |token: HeldToken| left(token) < ENDS_WITHIN_MAX.min(token.life / 10);
        Some(match self.token {
            _ if !self.is_usable(now) => AccountTrouble::NoToken,
            Some(token) if ends_soon(token) => AccountTrouble::TokenEnding,
            _ => AccountTrouble::RenewalFailing,
        })
    }

    /// One 401 alone tells nothing of the next request.
    fn is_refused(&self) -> bool {
        let lasts = self.refusals.is_some_and(|(first, latest)| latest.since(first) > TOKEN_REFUSED_AFTER);
        lasts && matches!(self.standing, Standing::Session(name) if name != StateName::LoggedOut)
    }

    /// Since when the account has that trouble, or is logged out; `None` when neither is so.
    #[must_use]
    pub fn trouble_since(&self, now: Now) -> Option<SystemTime> {
        if self.standing == Standing::Session(StateName::LoggedOut) {
            return self.history.logged_out_at;
        }
        match self.trouble(now.moment)? {
            AccountTrouble::TokenRefused => self.refusals.map(|(first, _)| now.wall_at(first)),
            _ => self.history.failing_since.or_else(|| self.login_began_at(now)),
        }
    }

    /// What an administrator can do, while the account has trouble or is logged out.
    #[must_use]
    pub fn advice(&self, now: Moment) -> Option<&'static str> {
        match self.last_error() {
            Some(error) => Some(error.advice()),
            None if self.standing == Standing::Session(StateName::LoggedOut) => Some(LOGGED_OUT_ADVICE),
            None => self.trouble(now).map(|trouble| match trouble {
                AccountTrouble::TokenRefused => REFUSED_ADVICE,
                _ => HANG_ADVICE,
            }),
        }
    }

    /// When the log-in in flight began.
    #[must_use]
    pub fn login_began_at(&self, now: Now) -> Option<SystemTime> {
        self.history.in_flight_since.map(|since| now.wall_at(since))
    }

    /// When the token expires, by our wall clock.
    #[must_use]
    pub fn expires_at(&self, now: Now) -> Option<SystemTime> {
        self.token.map(|token| now.wall_at(token.expires))
    }

    /// When the token's successor is due.
    #[must_use]
    pub fn refresh_at(&self, now: Now) -> Option<SystemTime> {
        self.token.and(self.due_at).map(|due| now.wall_at(due))
    }

    /// When the next attempt starts, after one that failed.
    #[must_use]
    pub fn retry_at(&self, now: Now) -> Option<SystemTime> {
        self.last_error().and(self.due_at).map(|due| now.wall_at(due))
    }

    /// When a log-in brought a token last.
    #[must_use]
    pub fn last_login_at(&self) -> Option<SystemTime> {
        self.history.succeeded_at
    }

    /// Why the latest log-in, or reading of the organization, failed; `None` when it did not.
    #[must_use]
    pub fn last_error(&self) -> Option<&LoginError> {
        self.history.error.as_ref()
    }

    /// When it failed.
    #[must_use]
    pub fn last_error_at(&self) -> Option<SystemTime> {
        self.last_error().and(self.history.failed_at)
    }
}

impl Availability {
    /// The error of a request that waited until `now` in vain.
    pub(super) fn unavailable(self, now: Moment) -> Unavailable {
        let (why, wait) = match self {
            // The log-in ended just after the wait did.
            Self::Available => (Why::TokenPending, RETRY_MIN),
            Self::Ended => (Why::Replaced, RETRY_MIN),
            Self::Unavailable { why: Why::LoggedOut, .. } => (Why::LoggedOut, LOGGED_OUT_RETRY),
            Self::Unavailable { why, until } => (why, until.map_or(RETRY_MIN, |until| until.since(now))),
        };
        Unavailable { why, retry_after: wait.max(RETRY_MIN) }
    }
}

#[cfg(test)]
impl AccountSnapshot {
    /// An account for the tests of those who show it. `expires` and `due_at` are in seconds since boot.
    pub(crate) fn showing(
        state: Option<StateName>,
        expires: Option<u64>,
        due_at: Option<u64>,
        error: Option<LoginError>,
    ) -> Self {
        let standing = match (state, &error) {
            (Some(name), _) => Standing::Session(name),
            (None, None) => Standing::OrganizationKnown,
            (None, Some(_)) => Standing::OrganizationMissing,
        };
        let at = |seconds| Moment::new(Duration::from_secs(seconds));
        let token = expires.map(at).map(|expires| HeldToken {
            generation: Generation(1),
            life: Duration::from_secs(100),
            expires,
            usable_until: expires,
            replacement: Replacement::Never,
        });
        let history = LoginHistory { error, ..LoginHistory::default() };
        Self { token, due_at: due_at.map(at), history, ..Self::new(standing) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment::new(Duration::from_secs(seconds))
    }

    fn snapshot(name: StateName, token: Option<(u64, Replacement)>, due_at: Option<Moment>) -> AccountSnapshot {
        let token = token.map(|(generation, replacement)| HeldToken {
            generation: Generation(generation),
            life: Duration::from_secs(100),
            expires: at(102),
            usable_until: at(100),
            replacement,
        });
        AccountSnapshot { token, due_at, ..AccountSnapshot::new(Standing::Session(name)) }
    }

    #[test]
    fn a_401_is_judged_by_what_the_driver_published() {
        use {OnUnauthorized::*, Replacement::*, StateName::*};
        // State, token and when a 401 replaces it, when a log-in is due, the time: what a 401 for the second token does.
        // Then: what it does once the driver was told of it. Each request can wait for 10 s.
        let (known, unknown) = (Scheduled { refusal_known: true }, Scheduled { refusal_known: false });
        for (name, token, due, now, first, then) in [
            (Ready, Some((2, From(at(50)))), Some(90), 50, Report, TooYoung(at(50))),
            (Ready, Some((2, From(at(50)))), Some(90), 49, TooYoung(at(50)), TooYoung(at(50))),
            (Refreshing, Some((2, Join(at(50)))), None, 50, Report, Wait),
            (Refreshing, Some((2, Join(at(50)))), None, 49, Wait, Wait),
            (Refreshing, Some((2, InFlight)), None, 50, Wait, Wait),
            (Refreshing, Some((2, known)), Some(60), 50, Wait, Wait),
            (Refreshing, Some((2, known)), Some(61), 50, PassOn, PassOn),
            (Refreshing, Some((2, known)), Some(50), 50, WakeAndWait, WakeAndWait),
            (Refreshing, Some((2, unknown)), Some(60), 50, Report, Wait),
            (Refreshing, Some((2, unknown)), Some(90), 50, Report, PassOn),
            (Rejected, Some((2, known)), Some(60), 50, Wait, Wait),
            (Rejected, Some((2, known)), Some(61), 50, PassOn, PassOn),
            (Ready, Some((2, From(at(50)))), Some(90), 100, WakeAndWait, WakeAndWait),
            (Ready, Some((2, From(at(150)))), Some(90), 100, WakeAndWait, WakeAndWait),
            (Ready, Some((1, From(at(50)))), Some(90), 50, PassOn, PassOn),
            (Ready, Some((3, From(at(50)))), Some(90), 50, PassOn, PassOn),
            (Refreshing, Some((3, known)), Some(60), 50, PassOn, PassOn),
            (Refreshing, Some((3, InFlight)), None, 50, Wait, Wait),
            (LoggingIn, None, None, 50, Wait, Wait),
            (BackingOff, None, Some(60), 50, Wait, Wait),
            (BackingOff, None, Some(61), 50, PassOn, PassOn),
            (BackingOff, None, Some(50), 50, WakeAndWait, WakeAndWait),
            (Rejected, None, Some(60), 50, Wait, Wait),
            (Rejected, None, Some(61), 50, PassOn, PassOn),
            (LoggedOut, None, None, 50, PassOn, PassOn),
        ] {
            let snapshot = snapshot(name, token, due.map(at));
            for (is_reported, expected) in [(false, first), (true, then)] {
                let unauthorized = Unauthorized { refused: Generation(2), deadline: at(now + 10), is_reported };
                assert_eq!(snapshot.on_unauthorized(unauthorized, at(now)), expected, "{snapshot:?} {now} {is_reported}");
            }
        }
        for state in [None, Some(LoggedOut)] {
            let unauthorized = Unauthorized { refused: Generation(2), deadline: at(60), is_reported: false };
            assert_eq!(AccountSnapshot::new(Standing::Ended(state)).on_unauthorized(unauthorized, at(50)), Ended);
        }
    }

    #[test]
    fn a_bearer_is_available_while_a_token_is_at_hand_that_no_401_has_replaced() {
        use StateName::*;
        let unavailable = |why, until| Availability::Unavailable { why, until };
        let due = Some(at(110));
        for (name, token, due, expected) in [
            (Ready, Some(Replacement::From(at(50))), due, Availability::Available),
            (Refreshing, Some(Replacement::Join(at(50))), None, Availability::Available),
            (Refreshing, Some(Replacement::Scheduled { refusal_known: true }), due, Availability::Available),
            (Rejected, Some(Replacement::Scheduled { refusal_known: false }), due, Availability::Available),
            (Refreshing, Some(Replacement::InFlight), None, unavailable(Why::TokenPending, None)),
            (LoggingIn, None, None, unavailable(Why::TokenPending, None)),
            (BackingOff, None, due, unavailable(Why::LoginFailing, due)),
            (Rejected, None, due, unavailable(Why::LoginRejected, due)),
            (LoggedOut, None, None, unavailable(Why::LoggedOut, None)),
        ] {
            let snapshot = snapshot(name, token.map(|replacement| (1, replacement)), due);
            assert_eq!(snapshot.availability(), expected, "{snapshot:?}");
            let usable = expected == Availability::Available;
            assert_eq!((snapshot.is_usable(at(99)), snapshot.is_usable(at(100))), (usable, false), "{snapshot:?}");
            assert_eq!(snapshot.holds_valid_token(at(99)), token.is_some(), "a suspect token is valid too: {snapshot:?}");
        }
    }

    #[test]
    fn an_account_without_log_in_is_available_while_its_organization_is_known() {
        for (standing, expected) in [
            (Standing::OrganizationKnown, Availability::Available),
            (Standing::OrganizationPending, Availability::Unavailable { why: Why::TokenPending, until: None }),
            (Standing::OrganizationMissing, Availability::Unavailable { why: Why::NoOrganization, until: Some(at(12)) }),
            (Standing::Ended(None), Availability::Ended),
        ] {
            let snapshot = AccountSnapshot { due_at: Some(at(12)), ..AccountSnapshot::new(standing) };
            assert_eq!(snapshot.availability(), expected);
        }
    }

    #[test]
    fn an_account_that_has_ended_says_so_unless_it_was_logged_out() {
        use StateName::*;
        for (name, token) in [(LoggingIn, None), (BackingOff, None), (Ready, Some((1, Replacement::Never)))] {
            let ended = snapshot(name, token, Some(at(110))).ended();
            assert_eq!((ended.availability(), ended.state(), ended.token), (Availability::Ended, Some(LoggedOut), None));
        }
        let ended = snapshot(LoggedOut, None, None).ended();
        assert_eq!(ended.availability(), Availability::Unavailable { why: Why::LoggedOut, until: None });
        let ended = AccountSnapshot::new(Standing::OrganizationKnown).ended();
        assert_eq!((ended.availability(), ended.state()), (Availability::Ended, None));
    }

    #[test]
    fn retry_after_is_at_least_a_second_and_tells_when_it_makes_sense() {
        for (why, until, seconds) in [
            (Why::TokenPending, None, 1),
            (Why::LoginFailing, Some(10), 1),
            (Why::LoginFailing, Some(25), 15),
            (Why::LoginRejected, Some(70), 60),
            (Why::NoOrganization, Some(12), 2),
            (Why::LoggedOut, None, 30),
        ] {
            let expected = Unavailable { why, retry_after: Duration::from_secs(seconds) };
            assert_eq!(Availability::Unavailable { why, until: until.map(at) }.unavailable(at(10)), expected);
        }
        for (availability, why) in [(Availability::Available, Why::TokenPending), (Availability::Ended, Why::Replaced)] {
            let expected = Unavailable { why, retry_after: Duration::from_secs(1) };
            assert_eq!(availability.unavailable(at(10)), expected);
        }
    }

    #[test]
    fn what_keeps_an_account_from_a_token_is_told_with_its_beginning_and_what_to_do() {
        use StateName::*;
        let now = |seconds| Now { moment: at(seconds), wall: SystemTime::UNIX_EPOCH + Duration::from_secs(1000 + seconds) };
        let wall = |seconds| Some(now(seconds).wall);
        let of = |name, history| AccountSnapshot { history, ..snapshot(name, None, None) };
        let failing = LoginHistory {
            in_flight_since: Some(at(50)),
            failed_at: wall(40),
            failing_since: wall(20),
            error: Some(LoginError::TimedOut),
            ..LoginHistory::default()
        };
        let hanging = LoginHistory { in_flight_since: Some(at(50)), ..LoginHistory::default() };
        let logged_out = LoginHistory { logged_out_at: wall(30), ..LoginHistory::default() };
        for (snapshot, at, since, advice) in [
            (of(BackingOff, failing), 51, wall(20), Some(LoginError::TimedOut.advice())),
            (of(LoggingIn, hanging.clone()), 55, None, None),
            (of(LoggingIn, hanging), 56, wall(50), Some(HANG_ADVICE)),
            (of(LoggedOut, logged_out), 56, wall(30), Some(LOGGED_OUT_ADVICE)),
            (of(Ready, LoginHistory::default()), 56, None, None),
        ] {
            let now = now(at);
            assert_eq!((snapshot.trouble_since(now), snapshot.advice(now.moment)), (since, advice), "{snapshot:?} at {at}");
        }
    }

    #[test]
    fn tokens_that_are_refused_for_seconds_are_trouble_unless_the_account_has_another_one() {
        use StateName::*;
        let of = |name, error, latest| {
            let history = LoginHistory { error, ..LoginHistory::default() };
            AccountSnapshot {
                history,
                refusals: Some((at(20), at(latest))),
                ..snapshot(name, Some((2, Replacement::Never)), None)
            }
        };
        for (snapshot, expected) in [
            (of(Ready, None, 20), None),
            (of(Ready, None, 25), None),
            (of(Ready, None, 26), Some(AccountTrouble::TokenRefused)),
            (of(Refreshing, None, 26), Some(AccountTrouble::TokenRefused)),
            (of(Ready, Some(LoginError::TimedOut), 25), Some(AccountTrouble::RenewalFailing)),
            (of(Ready, Some(LoginError::TimedOut), 26), Some(AccountTrouble::TokenRefused)),
            (of(Refreshing, Some(LoginError::TimedOut), 26), Some(AccountTrouble::TokenRefused)),
            (of(LoggedOut, None, 26), None),
            (AccountSnapshot { refusals: None, ..of(Ready, None, 26) }, None),
        ] {
            assert_eq!(snapshot.trouble(at(50)), expected, "{snapshot:?}");
        }
        let now = Now { moment: at(26), wall: SystemTime::UNIX_EPOCH + Duration::from_secs(1026) };
        let refused = of(Ready, None, 26);
        assert_eq!(refused.trouble_since(now), Some(SystemTime::UNIX_EPOCH + Duration::from_secs(1020)));
        assert_eq!(refused.advice(at(26)), Some(REFUSED_ADVICE));
    }

    #[test]
    fn a_renewal_that_fails_or_hangs_is_told_by_what_is_left_of_the_token() {
        use {AccountTrouble::*, Replacement::*, StateName::*};
        let error = || Some(LoginError::TimedOut);
        let of = |name, token: Option<u64>, since: Option<u64>, error| {
            let history = LoginHistory { in_flight_since: since.map(at), error, ..LoginHistory::default() };
            let token = token.map(|life| (2, Never, life));
            let mut snapshot = snapshot(name, token.map(|(generation, replacement, _)| (generation, replacement)), None);
            if let (Some(held), Some((_, _, life))) = (&mut snapshot.token, token) {
                held.life = Duration::from_secs(life);
            }
            AccountSnapshot { history, ..snapshot }
        };
        // The token is usable until 100.
        for (snapshot, now, expected) in [
            (of(Ready, Some(100), None, None), 99, None),
            (of(Refreshing, Some(100), Some(50), None), 55, None),
            (of(Refreshing, Some(100), Some(50), None), 56, Some(RenewalFailing)),
            // The next attempt begins, and what failed is known still.
            (of(Refreshing, Some(100), Some(50), error()), 50, Some(RenewalFailing)),
            (of(Refreshing, Some(100), None, error()), 90, Some(RenewalFailing)),
            (of(Refreshing, Some(100), None, error()), 91, Some(TokenEnding)),
            (of(Rejected, Some(3600), None, error()), 40, Some(RenewalFailing)),
            (of(Rejected, Some(3600), None, error()), 41, Some(TokenEnding)),
            (of(Refreshing, Some(100), Some(50), None), 100, Some(NoToken)),
            (of(LoggingIn, None, Some(50), error()), 50, Some(NoToken)),
            (of(LoggingIn, None, Some(50), None), 55, None),
            (of(LoggingIn, None, Some(50), None), 56, Some(NoToken)),
            (of(LoggedOut, None, None, None), 56, None),
        ] {
            assert_eq!(snapshot.trouble(at(now)), expected, "{snapshot:?} at {now}");
        }
    }
}
