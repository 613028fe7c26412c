//! How the daemon is: its phase, its accounts, its APIs, as a document for people and programs; and whether it is ready.
//!
//! Depends on `account`, `proxy`, `server` and `logging` for what they count, and on `clock` for times. Read when somebody asks;
//! nothing here is kept up to date for its own sake. Guarantees: nothing of a request is in it, and no secret.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::{
    account::{Account, AccountStatus, StateName},
    clock::{Clock, Moment},
    logging::{AccessLog, rfc3339},
    metrics::{AccountReading, ApiMetrics, ApiReading, ListenerReading, Readings},
    proxy::RequestLimit,
    server::ConnectionLimit,
};

/// Where a daemon is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Bound, and about to serve.
    Starting,
    /// Serving.
    Running,
    /// Finishing what is in flight.
    Draining,
    /// Done.
    Stopped,
}

/// What there is to look at, by the settings in force.
#[derive(Default)]
pub struct View {
    /// As the settings name them; none before they were started.
    pub accounts: Vec<Account>,
    /// As the settings name them.
    pub apis: Vec<ApiView>,
    /// Addresses where clients come in, with their connections.
    pub listeners: Vec<(String, ConnectionLimit)>,
    /// The longest that a drain takes.
    pub drain: Duration,
}

/// One API, as far as it is looked at.
pub struct ApiView {
    /// As in the settings.
    pub name: String,
    /// Its account's.
    pub account: String,
    /// Where it listens, ports as they really are.
    pub listen: Vec<String>,
    /// The base URL that requests go to.
    pub upstream: String,
    /// Requests in flight.
    pub places: RequestLimit,
    /// What has been counted.
    pub metrics: Arc<ApiMetrics>,
}

/// Looks at a daemon. Clones look at the same one.
#[derive(Clone)]
pub struct StatusReader {
    /// Where it is in its life.
    pub phase: watch::Receiver<Phase>,
    /// What there is to look at.
    pub view: watch::Receiver<Arc<View>>,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// When it started.
    pub started: Moment,
    /// Where health and metrics are, if they are anywhere.
    pub telemetry: Option<SocketAddr>,
    /// Its logs.
    pub access: AccessLog,
}

/// How much may be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// Everything.
    Full,
    /// To whoever asks over the network: codes instead of sentences, which may name files and hosts.
    CodesOnly,
}

/// The document of `status --json`. Members may be added, and none changes its meaning. Times are RFC 3339, in UTC.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Document {
    /// The program's.
    pub version: String,
    /// Where the daemon is in its life.
    pub phase: Phase,
    /// Since its start.
    pub uptime_seconds: u64,
    /// The daemon's clock.
    pub now: String,
    /// In the settings' order.
    pub accounts: Vec<AccountDocument>,
    /// In the settings' order.
    pub apis: Vec<ApiDocument>,
    /// Where health and metrics are; null: nowhere.
    pub telemetry: Option<String>,
}

/// One account.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AccountDocument {
    /// As in the settings.
    pub name: String,
    /// One of six; null for an account without log-in.
    pub state: Option<String>,
    /// Whether requests get its token now, or its organization when it does not log in.
    pub usable: bool,
    /// When the token ends.
    pub expires_at: Option<String>,
    /// When its successor is due.
    pub refresh_at: Option<String>,
    /// When the next attempt begins, after one that failed.
    pub retry_at: Option<String>,
    /// When a log-in brought a token last.
    pub last_login_at: Option<String>,
    /// What went wrong at the latest attempt, for people; null while nothing did.
    pub last_error: Option<String>,
    /// The same in a word, for programs.
    pub last_error_code: Option<String>,
    /// When that was.
    pub last_error_at: Option<String>,
    /// What to do about it.
    pub advice: Option<String>,
}

/// One API.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ApiDocument {
    /// As in the settings.
    pub name: String,
    /// Its account's name.
    pub account: String,
    /// Where it listens.
    pub listen: Vec<String>,
    /// The base URL that requests go to.
    pub upstream: String,
    /// Requests that have ended, since the start.
    pub requests: u64,
    /// Those of them that were answered by a 5xx, ours or the upstream's.
    pub errors: u64,
    /// Requests being served.
    pub in_flight: usize,
}

/// Whether requests can be served with what they need.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Readiness {
    /// No reason against it.
    pub ready: bool,
    /// Why not.
    pub reasons: Vec<Reason>,
}

/// Why a daemon, or an account, is not ready.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Reason {
    /// Whose token is missing; null where it is the daemon's own matter.
    pub account: Option<String>,
    /// Stable, for programs.
    pub code: &'static str,
    /// For people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

impl StatusReader {
    /// Whether it serves, or did so before.
    #[must_use]
    pub fn has_started(&self) -> bool {
        *self.phase.borrow() != Phase::Starting
    }

    /// Everything, as it is now.
    #[must_use]
    pub fn document(&self, detail: Detail) -> Document {
        let now = self.clock.now();
        let view = Arc::clone(&self.view.borrow());
        Document {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            phase: *self.phase.borrow(),
            uptime_seconds: now.moment.since(self.started).as_secs(),
            now: rfc3339(now.wall),
            accounts: view.accounts.iter().map(|account| AccountDocument::of(account, detail)).collect(),
            apis: view.apis.iter().map(ApiDocument::of).collect(),
            telemetry: self.telemetry.map(|address| address.to_string()),
        }
    }

    /// What metrics show of it that is not counted.
    #[must_use]
    pub fn readings(&self) -> Readings {
        let view = Arc::clone(&self.view.borrow());
        let api = |api: &ApiView| ApiReading {
            name: api.name.clone(),
            in_flight: api.places.taken(),
            in_flight_max: api.places.most(),
        };
        let account = |account: &Account| {
            let status = account.status();
            let state = status.state.map(StateName::as_str);
            AccountReading { name: account.name().to_owned(), state, expires_at: status.expires_at }
        };
        let listener = |(address, connection_limit): &(String, ConnectionLimit)| {
            let (connections, connections_max) = connection_limit.taken();
            ListenerReading { address: address.clone(), connections, connections_max }
        };
        Readings {
            started_at: self.clock.now().wall_at(self.started),
            apis: view.apis.iter().map(api).collect(),
            accounts: view.accounts.iter().map(account).collect(),
            listeners: view.listeners.iter().map(listener).collect(),
            log_lines_dropped: self.access.dropped(),
        }
    }

    /// Whether every account that logs in holds a valid token and nothing is ending. `only`: of one account; `None` when
    /// there is none of that name.
    #[must_use]
    pub fn readiness(&self, only: Option<&str>, detail: Detail) -> Option<Readiness> {
        let view = Arc::clone(&self.view.borrow());
        let asked = |account: &&Account| only.is_none_or(|name| account.name() == name);
        let accounts: Vec<&Account> = view.accounts.iter().filter(asked).collect();
        if only.is_some() && accounts.is_empty() {
            return None;
        }
        let statuses = accounts.into_iter().map(|account| (account.name().to_owned(), account.status()));
        Some(readiness(*self.phase.borrow(), statuses, detail))
    }
}

fn readiness(phase: Phase, accounts: impl Iterator<Item = (String, AccountStatus)>, detail: Detail) -> Readiness {
    let told = |text: String| (detail == Detail::Full).then_some(text);
    let own = match phase {
        Phase::Running => None,
        Phase::Starting => Some(("starting", "the daemon is starting")),
        Phase::Draining | Phase::Stopped => Some(("draining", "the daemon is stopping")),
    };
    let own = own.map(|(code, text)| Reason { account: None, code, detail: told(text.to_owned()) });
    let missing = accounts.filter(|(_, status)| !status.holds_valid_token).filter_map(|(name, status)| {
        let (code, text) = without_token(status.state?);
        let detail = told(status.last_error.map_or_else(|| text.to_owned(), |error| format!("{text}: {error}")));
        Some(Reason { account: Some(name), code, detail })
    });
    let reasons: Vec<Reason> = own.into_iter().chain(missing).collect();
    Readiness { ready: reasons.is_empty(), reasons }
}

/// The code is the one that requests get meanwhile.
fn without_token(state: StateName) -> (&'static str, &'static str) {
    match state {
        StateName::LoggedOut => ("logged_out", "logged out; `careportals-sidecar login` logs in"),
        StateName::Rejected => ("login_rejected", "the log-in is refused"),
        StateName::BackingOff => ("login_failing", "the log-in fails, and is tried again"),
        // These two hold a token, unless it ends this very moment.
        StateName::LoggingIn | StateName::Ready | StateName::Refreshing => ("token_pending", "the log-in is under way"),
    }
}

impl AccountDocument {
    fn of(account: &Account, detail: Detail) -> Self {
        let status = account.status();
        let time = |time: Option<SystemTime>| time.map(rfc3339);
        let error = status.last_error.as_ref();
        let told = error.filter(|_| detail == Detail::Full);
        Self {
            name: account.name().to_owned(),
            state: status.state.map(|state| state.as_str().to_owned()),
            usable: status.usable,
            expires_at: time(status.expires_at),
            refresh_at: time(status.refresh_at),
            retry_at: time(status.retry_at),
            last_login_at: time(status.last_login_at),
            last_error: told.map(ToString::to_string),
            last_error_code: error.map(|error| error.code().to_owned()),
            last_error_at: time(status.last_error_at),
            advice: told.map(|error| error.advice().to_owned()),
        }
    }
}

impl ApiDocument {
    fn of(api: &ApiView) -> Self {
        let totals = api.metrics.totals();
        Self {
            name: api.name.clone(),
            account: api.account.clone(),
            listen: api.listen.clone(),
            upstream: api.upstream.clone(),
            requests: totals.requests,
            errors: totals.errors,
            in_flight: api.places.taken(),
        }
    }
}

/// How long a worker may take to show that it turns. One that is busy answers between two requests; a machine that is
/// short of processors may let it wait for a moment.
pub const TURN_MAX: Duration = Duration::from_secs(3);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        account::{Field, LoginError, SourceError},
        sources::SourceFault,
    };

    fn status(state: Option<StateName>, holds_valid_token: bool) -> AccountStatus {
        AccountStatus {
            state,
            usable: holds_valid_token,
            holds_valid_token,
            expires_at: None,
            refresh_at: None,
            retry_at: None,
            last_login_at: None,
            last_error: None,
            last_error_at: None,
        }
    }

    fn codes(phase: Phase, accounts: &[(Option<StateName>, bool)]) -> Vec<&'static str> {
        let named = accounts.iter().map(|(state, holds)| ("some".to_owned(), status(*state, *holds)));
        let readiness = readiness(phase, named, Detail::Full);
        assert_eq!(readiness.ready, readiness.reasons.is_empty());
        readiness.reasons.iter().map(|reason| reason.code).collect()
    }

    #[test]
    fn a_daemon_is_ready_while_every_account_that_logs_in_holds_a_token_and_nothing_is_ending() {
        use StateName::*;
        for (phase, accounts, expected) in [
            (Phase::Running, vec![(Some(Ready), true)], vec![]),
            (Phase::Running, vec![(Some(Refreshing), true), (None, false)], vec![]),
            (Phase::Running, vec![(Some(Rejected), true)], vec![]),
            (Phase::Running, vec![(Some(Rejected), false)], vec!["login_rejected"]),
            (Phase::Running, vec![(Some(Ready), true), (Some(BackingOff), false)], vec!["login_failing"]),
            (Phase::Running, vec![(Some(LoggingIn), false), (Some(LoggedOut), false)], vec!["token_pending", "logged_out"]),
            (Phase::Running, vec![], vec![]),
            (Phase::Draining, vec![(Some(Ready), true)], vec!["draining"]),
            (Phase::Starting, vec![(Some(LoggingIn), false)], vec!["starting", "token_pending"]),
        ] {
            assert_eq!(codes(phase, &accounts), expected, "{phase:?} {accounts:?}");
        }
    }

    #[test]
    fn over_the_network_there_are_codes_and_no_sentences() {
        let missing = SourceError { which: Field::Password, fault: SourceFault::Missing("/run/secrets/password".into()) };
        let failed =
            AccountStatus { last_error: Some(LoginError::Source(missing)), ..status(Some(StateName::BackingOff), false) };
        let of = |detail| readiness(Phase::Draining, [("a".to_owned(), failed.clone())].into_iter(), detail);
        let full = serde_json::to_string(&of(Detail::Full)).unwrap();
        assert!(full.contains("/run/secrets/password") && full.contains("stopping"), "{full}");
        let codes = serde_json::to_string(&of(Detail::CodesOnly)).unwrap();
        let expected = r#"{"ready":false,"reasons":[{"account":null,"code":"draining"},{"account":"a","code":"login_failing"}]}"#;
        assert_eq!(codes, expected);
    }
}
