//! Whether an API's requests are served, and since when.
//!
//! The decision is pure. [`ApiStates`] remembers when a state began; it is brought up to date whenever somebody reads it, and
//! once a second, so that a state which only time ends has its time.

use std::{collections::BTreeMap, sync::Arc, time::SystemTime};

use tokio::sync::watch;

use super::{ApiView, PENDING, View, without_token};
use crate::{
    account::{Account, REFUSED_ADVICE},
    clock::{Moment, Now},
    proxy::{Outage, Required, Shortage, TokenRefusal},
};

/// The states of an API: the first that applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApiState {
    /// Its account gives requests nothing to send.
    NoToken,
    /// It refuses every request, since no value is known for the header that it requires.
    Refusing,
    /// The last request got no answer from the upstream.
    Unreachable,
    /// At least half of the upstream's latest answers are 5xx, or of no use, or it refuses the token with every answer.
    Failing,
    /// A request was refused for `max_requests` in the last ten seconds.
    Busy,
    /// None of these.
    Served,
}

impl ApiState {
    /// All states, the first that applies first.
    pub const ALL: [Self; 6] = [Self::NoToken, Self::Refusing, Self::Unreachable, Self::Failing, Self::Busy, Self::Served];

    /// The name in `status`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoToken => "no_token",
            Self::Refusing => "refusing",
            Self::Unreachable => "unreachable",
            Self::Failing => "failing",
            Self::Busy => "busy",
            Self::Served => "served",
        }
    }
}

/// What is known of an API at one moment.
#[derive(Clone, Debug)]
pub struct Symptoms {
    /// Why requests get no bearer, or no organization where there is no log-in; `None`: they do.
    pub without_token: Option<&'static str>,
    /// Whether no request can pass, since no value is known for the required header.
    pub refuses_all: bool,
    /// The present outage.
    pub outage: Option<Outage>,
    /// That the upstream refuses the token with every answer.
    pub refusal: Option<TokenRefusal>,
    /// Whether most of the upstream's latest answers are failures.
    pub fails: bool,
    /// The code of the latest failure.
    pub last_error: Option<String>,
    /// The latest shortage of permits, which may be over.
    pub shortage: Option<Shortage>,
    /// How many requests may be in flight.
    pub max_requests: usize,
}

impl Symptoms {
    /// Reads them; `accounts` are those of the same view.
    #[must_use]
    pub fn of(api: &ApiView, accounts: &[Account], now: Moment) -> Self {
        let account = accounts.iter().find(|account| account.name() == api.account).map(Account::snapshot);
        Self {
            without_token: account.map_or(Some(PENDING), |account| match account.state() {
                _ if account.is_usable(now) => None,
                Some(state) => Some(without_token(state).0),
                None if account.lacks_organization() => Some("no_organization"),
                None => Some(PENDING),
            }),
            refuses_all: api.required.as_ref().is_some_and(Required::refuses_all),
            outage: api.health.outage(),
            refusal: api.health.token_refusal(),
            fails: api.metrics.recent_failures(now).are_most(),
            last_error: api.metrics.last_error().map(|error| error.code),
            shortage: api.health.shortage(),
            max_requests: api.request_limit.most(),
        }
    }

    /// The state, and when it began where the symptoms tell.
    #[must_use]
    pub fn state(&self, now: Moment) -> (ApiState, Option<Moment>) {
        if self.without_token.is_some() {
            return (ApiState::NoToken, None);
        }
        if self.refuses_all {
            return (ApiState::Refusing, None);
        }
        if let Some(outage) = self.outage {
            return (ApiState::Unreachable, Some(outage.since));
        }
        if self.refusal.is_some() || self.fails {
            return (ApiState::Failing, self.refusal.map(|refusal| refusal.since));
        }
        match self.shortage.filter(|shortage| shortage.lasts(now)) {
            Some(shortage) => (ApiState::Busy, Some(shortage.since)),
            None => (ApiState::Served, None),
        }
    }

    /// Why the API is in this state, and what to do; `docs/runbook.md` says more. Where a token is missing, the account's own advice
    /// comes first.
    fn cause(&self, state: ApiState) -> Option<TroubleCause> {
        let cause = |code: &str, reason: String, advice| Some(TroubleCause { code: code.to_owned(), reason, advice });
        match state {
            ApiState::Served => None,
            ApiState::NoToken => cause(self.without_token?, "no token".to_owned(), "see the account"),
            ApiState::Refusing => cause(
                "header_required",
                "no value is known for the required header".to_owned(),
                "look at the source that `require_header` names; the log says why it gives no value",
            ),
            ApiState::Unreachable => {
                let error = self.outage?.error;
                cause(error.code().as_str(), error.in_brief(), error.advice())
            }
            ApiState::Failing => {
                if let Some(TokenRefusal { status, .. }) = self.refusal {
                    return cause(&format!("upstream_{status}"), format!("status {status} and no other"), REFUSED_ADVICE);
                }
                let code = self.last_error.as_deref().unwrap_or_default();
                let status = code.strip_prefix("upstream_").filter(|status| status.parse::<u16>().is_ok());
                let reason =
                    status.map_or_else(|| "5xx, cut short, or of no use".to_owned(), |status| format!("status {status}"));
                cause(code, reason, "ask CarePortals, with the `request_id` of a failed call from the log")
            }
            ApiState::Busy => cause(
                "too_many_requests_in_flight",
                format!("{} requests in flight, which is the limit", self.max_requests),
                "if the upstream's time has risen, it is slow; else raise `max_requests` and reload",
            ),
        }
    }
}

/// Why an API is not served as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TroubleCause {
    /// A problem's code, or the status of the upstream's answers, as `upstream_503`.
    pub code: String,
    /// What is wrong, in a few words for people.
    pub reason: String,
    /// What an administrator can do about it.
    pub advice: &'static str,
}

/// An API's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiStanding {
    /// The state.
    pub state: ApiState,
    /// Why it is so; `None`: it is served.
    pub cause: Option<TroubleCause>,
    /// When it began.
    pub since: Moment,
    /// The same by the wall clock as it was then, so that every reader gets the same time.
    pub began_at: SystemTime,
}

/// The states of all APIs. Clones share them.
#[derive(Clone, Default)]
pub struct ApiStates(Arc<watch::Sender<BTreeMap<String, ApiStanding>>>);

impl ApiStates {
    /// Brings the states up to date, and returns them in the view's order.
    pub(super) fn update(&self, view: &View, now: Now) -> Vec<ApiStanding> {
        let symptoms = view.apis.iter().map(|api| (api.name.as_str(), Symptoms::of(api, &view.accounts, now.moment)));
        self.update_by(symptoms, now)
    }

    fn update_by<'a>(&self, symptoms: impl Iterator<Item = (&'a str, Symptoms)>, now: Now) -> Vec<ApiStanding> {
        let mut standings = Vec::new();
        self.0.send_if_modified(|known| {
            let present: BTreeMap<String, ApiStanding> = symptoms
                .map(|(name, symptoms)| {
                    let standing = standing(known.get(name), &symptoms, now);
                    standings.push(standing.clone());
                    (name.to_owned(), standing)
                })
                .collect();
            let differs = *known != present;
            *known = present;
            differs
        });
        standings
    }

    /// Notices changes of states.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<BTreeMap<String, ApiStanding>> {
        self.0.subscribe()
    }
}

/// The standing that follows `before`. Where nothing tells when the state began, it began now, unless it is the same as before.
fn standing(before: Option<&ApiStanding>, symptoms: &Symptoms, now: Now) -> ApiStanding {
    let (state, since) = symptoms.state(now.moment);
    let cause = symptoms.cause(state);
    let same = before.filter(|before| before.state == state && since.is_none_or(|since| since == before.since));
    let since = since.unwrap_or(now.moment);
    let (since, began_at) = same.map_or_else(|| (since, now.wall_at(since)), |same| (same.since, same.began_at));
    ApiStanding { state, cause, since, began_at }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;
    use crate::proxy::ProxyError;

    fn at(seconds: u64) -> Moment {
        Moment::new(Duration::from_secs(1000 + seconds))
    }

    fn now(seconds: u64) -> Now {
        Now { moment: at(seconds), wall: UNIX_EPOCH + Duration::from_secs(seconds) }
    }

    const HEALTHY: Symptoms = Symptoms {
        without_token: None,
        refuses_all: false,
        outage: None,
        refusal: None,
        fails: false,
        last_error: None,
        shortage: None,
        max_requests: 7,
    };

    fn out(since: u64) -> Outage {
        Outage { since: at(since), error: ProxyError::UpstreamTimeout }
    }

    #[test]
    fn the_first_state_that_applies_is_told() {
        let short = Some(Shortage { since: at(1), last: at(15) });
        for (symptoms, expected) in [
            (HEALTHY, (ApiState::Served, None)),
            (Symptoms { shortage: short, ..HEALTHY }, (ApiState::Busy, Some(at(1)))),
            (Symptoms { shortage: Some(Shortage { since: at(1), last: at(10) }), ..HEALTHY }, (ApiState::Served, None)),
            (Symptoms { shortage: short, fails: true, ..HEALTHY }, (ApiState::Failing, None)),
            (Symptoms { shortage: short, fails: true, outage: Some(out(3)), ..HEALTHY }, (ApiState::Unreachable, Some(at(3)))),
            (
                Symptoms { shortage: short, refusal: Some(TokenRefusal { since: at(4), status: 401 }), ..HEALTHY },
                (ApiState::Failing, Some(at(4))),
            ),
            (Symptoms { refuses_all: true, outage: Some(out(3)), ..HEALTHY }, (ApiState::Refusing, None)),
            (
                Symptoms {
                    without_token: Some(PENDING),
                    refuses_all: true,
                    shortage: short,
                    fails: true,
                    outage: Some(out(3)),
                    ..HEALTHY
                },
                (ApiState::NoToken, None),
            ),
        ] {
            assert_eq!(symptoms.state(at(20)), expected, "{symptoms:?}");
        }
    }

    #[test]
    fn each_state_has_its_cause() {
        let told = |symptoms: &Symptoms, state| symptoms.cause(state).map(|cause| (cause.code, cause.reason));
        let both = |code: &str, reason: &str| Some((code.to_owned(), reason.to_owned()));
        let failed = |code: &str| Symptoms { last_error: Some(code.to_owned()), ..HEALTHY };
        let refused = Symptoms { refusal: Some(TokenRefusal { since: at(1), status: 403 }), ..failed("upstream_503") };
        let out = Symptoms { outage: Some(out(3)), without_token: Some("login_failing"), ..HEALTHY };
        for (symptoms, state, expected) in [
            (&HEALTHY, ApiState::Served, None),
            (&out, ApiState::NoToken, both("login_failing", "no token")),
            (&out, ApiState::Unreachable, both("upstream_timeout", "HTTP response timeout")),
            (&failed("upstream_closed"), ApiState::Failing, both("upstream_closed", "5xx, cut short, or of no use")),
            (&failed("upstream_503"), ApiState::Failing, both("upstream_503", "status 503")),
            (&refused, ApiState::Failing, both("upstream_403", "status 403 and no other")),
            (&HEALTHY, ApiState::Busy, both("too_many_requests_in_flight", "7 requests in flight, which is the limit")),
        ] {
            assert_eq!(told(symptoms, state), expected, "{state:?}");
        }
    }

    #[test]
    fn a_state_keeps_its_beginning_until_another_one_begins() {
        let states = ApiStates::default();
        let mut changes = states.changes();
        for (time, symptoms, state, since, is_told) in [
            (0, HEALTHY, ApiState::Served, 0, true),
            (1, HEALTHY, ApiState::Served, 0, false),
            (5, Symptoms { outage: Some(out(3)), ..HEALTHY }, ApiState::Unreachable, 3, true),
            (6, Symptoms { outage: Some(out(3)), without_token: Some(PENDING), ..HEALTHY }, ApiState::NoToken, 6, true),
            (7, Symptoms { outage: Some(out(3)), ..HEALTHY }, ApiState::Unreachable, 3, true),
            // It was reached between two looks.
            (9, Symptoms { outage: Some(out(8)), ..HEALTHY }, ApiState::Unreachable, 8, true),
            (10, Symptoms { fails: true, ..HEALTHY }, ApiState::Failing, 10, true),
            (12, Symptoms { fails: true, ..HEALTHY }, ApiState::Failing, 10, false),
            (13, HEALTHY, ApiState::Served, 13, true),
        ] {
            changes.mark_unchanged();
            let standings = states.update_by([("a", symptoms)].into_iter(), now(time));
            let cause = standings[0].cause.clone();
            assert_eq!(standings, [ApiStanding { state, cause, since: at(since), began_at: now(since).wall }], "{time}");
            assert_eq!(changes.has_changed().unwrap(), is_told, "{time}");
        }
        assert_eq!(states.update_by(std::iter::empty(), now(20)), []);
        let again = states.update_by([("a", HEALTHY)].into_iter(), now(21));
        assert_eq!(again[0].since, at(21), "an API that a reload brings back begins anew");
    }
}
