//! What the driver tells everybody about its account, and what they make of it.
//!
//! Pure; depends on `session` and `token`. The bearer itself is not in it: requests load that without a lock.

use std::time::{Duration, SystemTime};

use super::{
    failure::LoginError,
    relogin_floor::{Probation, Verdict},
    session::{Complaints, StateName},
    token::Generation,
};
use crate::clock::{Moment, Now};

/// One account as others see it.
#[derive(Clone, Debug, PartialEq)]
pub struct Phase {
    pub(super) state: Option<StateName>,
    pub(super) outlook: Outlook,
    pub(super) held: Option<Held>,
    pub(super) complaints: Complaints,
    pub(super) probation: Option<Probation>,
    /// When the next log-in or refresh begins, where that has a time.
    pub(super) due_at: Option<Moment>,
    pub(super) last_login_at: Option<SystemTime>,
    pub(super) last_error: Option<LoginError>,
    pub(super) last_error_at: Option<SystemTime>,
}

/// What a request without a bearer has to expect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outlook {
    /// A bearer is there; until its end has been noticed.
    Usable,
    /// A log-in is in flight.
    Pending,
    /// A log-in has its time.
    AttemptAt(Moment),
    /// The server said no.
    RejectedUntil(Moment),
    LoggedOut,
    /// There is no log-in, but no organization either.
    NoOrganization(Moment),
    /// The driver is gone.
    Ended,
}

/// The token at hand, suspect or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) generation: Generation,
    pub(super) expires: Moment,
    pub(super) usable_until: Moment,
}

/// What to do about a 401.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Advice {
    /// Tell the driver.
    Complain,
    /// A log-in is in flight.
    Wait,
    /// The driver has not noticed that the token expired.
    WakeAndWait,
    /// The 401 is the client's.
    PassOn,
}

impl Phase {
    /// Before the driver's first step.
    pub(super) fn new(state: Option<StateName>) -> Self {
        Self {
            state,
            outlook: Outlook::Pending,
            held: None,
            complaints: Complaints::Ignored,
            probation: None,
            due_at: None,
            last_login_at: None,
            last_error: None,
            last_error_at: None,
        }
    }

    /// The state's name; `None` for an account without log-in.
    #[must_use]
    pub fn state(&self) -> Option<StateName> {
        self.state
    }

    pub(super) fn advise(&self, refused: Generation, now: Moment) -> Advice {
        let Some(held) = self.held else {
            return if self.outlook == Outlook::Pending { Advice::Wait } else { Advice::PassOn };
        };
        match self.complaints {
            _ if now >= held.usable_until => Advice::WakeAndWait,
            Complaints::Joined => Advice::Wait,
            Complaints::HeardFrom(moment) if held.generation == refused && now >= moment => Advice::Complain,
            Complaints::HeardFrom(_) | Complaints::Ignored => Advice::PassOn,
        }
    }

    /// Whether the driver wants to hear that verdict.
    pub(super) fn is_open_to(&self, verdict: Verdict, on: Generation) -> bool {
        self.probation.is_some_and(|probation| probation.generation == on && probation.is_open_to(verdict))
    }
}

/// One account for `status`, readiness and metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountStatus {
    /// `None` for an account without log-in.
    pub state: Option<StateName>,
    /// Whether requests get a bearer now.
    pub usable: bool,
    /// Whether a token that has not expired is at hand, even while a 401 has it replaced.
    pub holds_valid_token: bool,
    /// When the token ends, by our clock.
    pub expires_at: Option<SystemTime>,
    /// When its successor is due.
    pub refresh_at: Option<SystemTime>,
    /// When the next attempt begins, after one that failed.
    pub retry_at: Option<SystemTime>,
    /// When the last log-in succeeded.
    pub last_login_at: Option<SystemTime>,
    /// Why the latest attempt brought nothing.
    pub last_error: Option<LoginError>,
    /// When that was.
    pub last_error_at: Option<SystemTime>,
}

impl AccountStatus {
    pub(super) fn of(phase: &Phase, usable: bool, now: Now) -> Self {
        let due_at = phase.due_at.map(|moment| now.wall_at(moment));
        Self {
            state: phase.state,
            usable,
            holds_valid_token: phase.held.is_some_and(|held| now.moment < held.usable_until),
            expires_at: phase.held.map(|held| now.wall_at(held.expires)),
            refresh_at: phase.held.and(due_at),
            retry_at: phase.last_error.as_ref().and(due_at),
            last_login_at: phase.last_login_at,
            last_error: phase.last_error.clone(),
            last_error_at: phase.last_error_at,
        }
    }
}

/// Why a request gets no bearer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unavailable {
    /// The cause.
    pub why: Why,
    /// When asking again makes sense; at least a second.
    pub retry_after: Duration,
}

/// The cause that a request gets no bearer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// Until an explicit log-in.
    LoggedOut,
    /// A log-in is in flight, and took longer than the request may wait.
    TokenPending,
    /// The last log-in failed, and the next one has its time.
    LoginFailing,
    /// The server refused the credentials.
    LoginRejected,
    /// The source of the organization gives none.
    NoOrganization,
}

impl Unavailable {
    pub(super) fn of(outlook: Outlook, now: Moment) -> Self {
        let (why, wait) = match outlook {
            Outlook::LoggedOut | Outlook::Ended => (Why::LoggedOut, LOGGED_OUT_RETRY),
            Outlook::Usable | Outlook::Pending => (Why::TokenPending, RETRY_MIN),
            Outlook::AttemptAt(moment) => (Why::LoginFailing, moment.since(now)),
            Outlook::RejectedUntil(moment) => (Why::LoginRejected, moment.since(now)),
            Outlook::NoOrganization(moment) => (Why::NoOrganization, moment.since(now)),
        };
        Self { why, retry_after: wait.max(RETRY_MIN) }
    }
}

const RETRY_MIN: Duration = Duration::from_secs(1);
/// Somebody must act first.
const LOGGED_OUT_RETRY: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment::new(Duration::from_secs(seconds))
    }

    #[test]
    fn a_401_is_judged_by_what_the_driver_published() {
        use {Advice::*, Complaints::*};
        let held = |generation| Some(Held { generation: Generation(generation), expires: at(102), usable_until: at(100) });
        // What is held, what complaints do, the outlook, the time: what to do about a 401 for the second token.
        for (held, complaints, outlook, now, expected) in [
            (held(2), HeardFrom(at(50)), Outlook::Usable, 50, Complain),
            (held(2), HeardFrom(at(50)), Outlook::Usable, 49, PassOn),
            (held(2), Joined, Outlook::Pending, 50, Wait),
            (held(2), Ignored, Outlook::Usable, 50, PassOn),
            (held(2), HeardFrom(at(50)), Outlook::Usable, 100, WakeAndWait),
            (held(2), HeardFrom(at(150)), Outlook::Usable, 100, WakeAndWait),
            (held(1), HeardFrom(at(50)), Outlook::Usable, 50, PassOn),
            (held(3), HeardFrom(at(50)), Outlook::Usable, 50, PassOn),
            (held(3), Joined, Outlook::Pending, 50, Wait),
            (None, Ignored, Outlook::Pending, 50, Wait),
            (None, Ignored, Outlook::AttemptAt(at(51)), 50, PassOn),
            (None, Ignored, Outlook::RejectedUntil(at(51)), 50, PassOn),
            (None, Ignored, Outlook::LoggedOut, 50, PassOn),
            (None, Ignored, Outlook::Ended, 50, PassOn),
        ] {
            let phase = Phase { outlook, held, complaints, ..Phase::new(Some(StateName::Ready)) };
            assert_eq!(phase.advise(Generation(2), at(now)), expected, "{held:?} {complaints:?} {outlook:?} {now}");
        }
    }

    #[test]
    fn retry_after_is_at_least_a_second_and_tells_when_it_makes_sense() {
        for (outlook, why, seconds) in [
            (Outlook::Pending, Why::TokenPending, 1),
            (Outlook::AttemptAt(at(10)), Why::LoginFailing, 1),
            (Outlook::AttemptAt(at(25)), Why::LoginFailing, 15),
            (Outlook::RejectedUntil(at(70)), Why::LoginRejected, 60),
            (Outlook::NoOrganization(at(12)), Why::NoOrganization, 2),
            (Outlook::LoggedOut, Why::LoggedOut, 30),
        ] {
            let expected = Unavailable { why, retry_after: Duration::from_secs(seconds) };
            assert_eq!(Unavailable::of(outlook, at(10)), expected);
        }
    }
}
