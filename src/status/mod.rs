//! The daemon's state: its phase, accounts and APIs as a document for people and programs, and whether it is ready.
//!
//! It reads everything when asked, and keeps only since when each API is in its state. The daemon writes and the commands read
//! [`StatusDocument`] by the same types. Guarantees: no secret is in it, and nothing of a request.

mod api_state;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

pub use self::api_state::{ApiStanding, ApiState, ApiStates, Symptoms, TroubleCause};
use crate::{
    account::{Account, AccountSnapshot, StateName},
    clock::{Clock, Moment, Now},
    logging::{AccessLog, rfc3339},
    metrics::{AccountReading, ApiMetrics, ApiReading, ClientErrorReading, ListenerReading, Readings},
    proxy::{ApiHealth, RequestLimit, Required, SeenRequests},
    server::ConnectionLimit,
};

/// How long a worker may take to answer the liveness probe. A busy worker answers between two requests, and a machine that
/// is short of processors may delay it.
pub const TURN_MAX: Duration = Duration::from_secs(3);

/// How often the states of APIs are brought up to date while nobody reads them.
const STATES_EVERY: Duration = Duration::from_secs(1);

/// The phases of a daemon's life, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Its listeners are bound; it does not serve yet.
    Starting,
    /// The daemon serves requests.
    Running,
    /// It finishes the requests in flight.
    Draining,
    /// The daemon has ended, and serves nothing.
    Stopped,
}

impl Phase {
    /// The name in `status`.
    const fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Draining => "draining",
            Self::Stopped => "stopped",
        }
    }
}

/// The parts of a daemon that can be looked at, by the settings in force.
#[derive(Default)]
pub struct View {
    /// The accounts in the settings' order; none before they were started.
    pub accounts: Vec<Account>,
    /// The APIs in the settings' order.
    pub apis: Vec<ApiView>,
    /// The addresses that clients connect to, with their connections.
    pub listeners: Vec<(String, ConnectionLimit)>,
    /// The longest time that a drain takes.
    pub drain: Duration,
}

/// The part of one API that can be looked at.
pub struct ApiView {
    /// Its name in the settings.
    pub name: String,
    /// The name of its account.
    pub account: String,
    /// Its listen addresses, with the ports that were really bound.
    pub listen: Vec<String>,
    /// The base URL that requests go to.
    pub upstream: String,
    /// Whether its rules are observed, and not enforced.
    pub observe: bool,
    /// The rules for what it has seen while it observed.
    pub observed: SeenRequests,
    /// The limit of its requests in flight, which counts them.
    pub request_limit: RequestLimit,
    /// What its requests last met.
    pub health: ApiHealth,
    /// The header that each of its requests must have.
    pub required: Option<Required>,
    /// The counters of its requests.
    pub metrics: Arc<ApiMetrics>,
}

/// Reads a daemon's state. Clones read the same daemon.
#[derive(Clone)]
pub struct StatusReader {
    /// The daemon's phase, as it changes.
    pub phase: watch::Receiver<Phase>,
    /// The parts to look at.
    pub view: watch::Receiver<Arc<View>>,
    pub clock: Arc<dyn Clock>,
    /// The time at which the daemon started; a step of the wall clock is no other start.
    pub started: Now,
    /// The telemetry listener's address; `None`: there is none.
    pub telemetry: Option<SocketAddr>,
    /// The access log, for the count of lost lines.
    pub access: AccessLog,
    /// The states of the APIs.
    pub states: ApiStates,
}

/// An API that is not served as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiTrouble {
    /// Its name in the settings.
    pub api: String,
    /// Its state.
    pub standing: ApiStanding,
}

/// How much a reader may be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Detail {
    /// Codes and sentences: for administrators.
    Full,
    /// Codes without sentences, which may name files and hosts: for readers over the network.
    CodesOnly,
}

/// The document of `status --json`. Later versions may add members, and none changes its meaning. Times are RFC 3339 in UTC.
///
/// States and times are text and every member may be missing, so that a command reads the document of another version too.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct StatusDocument {
    pub version: String,
    /// The name of the machine, or of the pod.
    pub host: String,
    /// The daemon's [`Phase`] in words.
    pub phase: String,
    /// Seconds since the daemon's start.
    pub uptime_seconds: u64,
    /// The daemon's wall clock in RFC 3339; a reader counts from it, not from its own.
    pub now: String,
    /// The accounts in the settings' order.
    pub accounts: Vec<AccountDocument>,
    /// The APIs in the settings' order.
    pub apis: Vec<ApiDocument>,
    /// The telemetry listener's address; null: there is none.
    pub telemetry: Option<String>,
}

/// An account and its token, without the token itself.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct AccountDocument {
    /// Its name in the settings.
    pub name: String,
    /// A [`StateName`] in words; null for an account without log-in.
    pub state: Option<String>,
    /// Whether requests get its token now, or its organization when it does not log in.
    pub usable: bool,
    /// The time at which the token expires, in RFC 3339.
    pub expires_at: Option<String>,
    /// When the token's successor is due.
    pub refresh_at: Option<String>,
    /// When the next attempt starts, after one that failed.
    pub retry_at: Option<String>,
    /// When the log-in in flight began; null: there is none.
    pub login_began_at: Option<String>,
    /// What is wrong with its log-ins or tokens, and what that means: an [`AccountTrouble`](crate::account::AccountTrouble) in words.
    pub trouble: Option<String>,
    /// Since when that is so, or since when the account is logged out, in RFC 3339.
    pub since: Option<String>,
    /// When a log-in brought a token last.
    pub last_login_at: Option<String>,
    /// Why the latest attempt failed, for people; null when it did not.
    pub last_error: Option<String>,
    /// Why it failed, in a word for programs.
    pub last_error_code: Option<String>,
    /// The time of that failure, in RFC 3339.
    pub last_error_at: Option<String>,
    /// What an administrator can do about it.
    pub advice: Option<String>,
}

/// One API. The daemon gives all numbers; they are options for readers of another version's document.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ApiDocument {
    /// Its name in the settings.
    pub name: String,
    /// The name of its account.
    pub account: String,
    /// The addresses where its clients connect.
    pub listen: Vec<String>,
    /// The base URL that requests go to.
    pub upstream: String,
    /// An [`ApiState`] in words.
    pub state: Option<String>,
    /// When that state began, in RFC 3339.
    pub since: Option<String>,
    /// What is wrong, in a few words for people; null while it is served.
    pub reason: Option<String>,
    /// What an administrator can do about it.
    pub advice: Option<String>,
    /// The latest 5xx: a problem's code, or `upstream_503` for the upstream's own.
    pub last_error: Option<String>,
    /// The time of that answer, in RFC 3339.
    pub last_error_at: Option<String>,
    /// The numbers of 5xx since the start, by the same words.
    pub errors_by_code: BTreeMap<String, u64>,
    /// The number of requests that have ended since the start.
    pub requests: Option<u64>,
    /// How many of them were answered by a 5xx, ours or the upstream's.
    pub errors: Option<u64>,
    /// The number of requests in flight.
    pub in_flight: Option<usize>,
    /// Whether its rules are observed, and not enforced.
    pub observe: Option<bool>,
    /// The number of requests that the rules would have refused, were they enforced.
    pub would_refuse: Option<u64>,
}

/// Whether the daemon can serve requests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Readiness {
    /// Whether there is no reason against it.
    pub ready: bool,
    /// The reasons why the daemon is not ready.
    pub reasons: Vec<Reason>,
}

/// Why a daemon, or an account, is not ready.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Reason {
    /// The account that holds no token; null when the reason is the daemon's own phase.
    pub account: Option<String>,
    /// The reason's stable name, for programs.
    pub code: &'static str,
    /// The reason in words, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

impl StatusReader {
    /// Whether the daemon serves, or has served.
    #[must_use]
    pub fn has_started(&self) -> bool {
        *self.phase.borrow() != Phase::Starting
    }

    /// Builds the document from all parts of the daemon, as they are now.
    #[must_use]
    pub fn document(&self, detail: Detail) -> StatusDocument {
        let now = self.clock.now();
        let view = Arc::clone(&self.view.borrow());
        let standings = self.states.update(&view, now);
        let accounts: Vec<_> = view.accounts.iter().map(|account| AccountDocument::of(account, now, detail)).collect();
        let api = |(api, standing): (&ApiView, &ApiStanding)| {
            let account = accounts.iter().find(|account| account.name == api.account);
            ApiDocument::of(api, standing, account, now, detail)
        };
        StatusDocument {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            phase: self.phase.borrow().as_str().to_owned(),
            uptime_seconds: now.moment.since(self.started.moment).as_secs(),
            now: rfc3339(now.wall),
            apis: view.apis.iter().zip(&standings).map(api).collect(),
            accounts,
            telemetry: self.telemetry.map(|address| address.to_string()),
        }
    }

    /// Keeps the states of the APIs up to date, for ever.
    pub async fn watch_states(self) {
        let mut round = tokio::time::interval(STATES_EVERY);
        round.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            round.tick().await;
            let view = Arc::clone(&self.view.borrow());
            self.states.update(&view, self.clock.now());
        }
    }

    /// The APIs of `view` that are not served as they should be, in its order.
    #[must_use]
    pub fn troubles(&self, view: &View, now: Now) -> Vec<ApiTrouble> {
        let standings = view.apis.iter().zip(self.states.update(view, now));
        let troubled = standings.filter(|(_, standing)| standing.state != ApiState::Served);
        troubled.map(|(api, standing)| ApiTrouble { api: api.name.clone(), standing }).collect()
    }

    /// Reads the gauges for metrics. Where files are not named, all Unix sockets are one listener.
    #[must_use]
    pub fn readings(&self, detail: Detail) -> Readings {
        let (now, view) = (self.clock.now(), Arc::clone(&self.view.borrow()));
        let api = |api: &ApiView| ApiReading {
            name: api.name.clone(),
            in_flight: api.request_limit.taken(),
            in_flight_max: api.request_limit.most(),
            is_reached: api.health.outage().is_none(),
        };
        let account = |account: &Account| {
            let snapshot = account.snapshot();
            let state = snapshot.state().map(StateName::as_str);
            AccountReading { name: account.name().to_owned(), state, expires_at: snapshot.expires_at(now) }
        };
        let mut listeners: Vec<ListenerReading> = Vec::new();
        for (address, connection_limit) in &view.listeners {
            let (address, (connections, connections_max)) = (shown(address, detail), connection_limit.connected_and_limit());
            match listeners.iter_mut().find(|listener| listener.address == address) {
                Some(known) => {
                    known.connections += connections;
                    known.connections_max += connections_max;
                }
                None => listeners.push(ListenerReading { address: address.to_owned(), connections, connections_max }),
            }
        }
        let client_errors = client_errors(&view);
        Readings {
            started_at: self.started.wall,
            apis: view.apis.iter().map(api).collect(),
            accounts: view.accounts.iter().map(account).collect(),
            listeners,
            client_errors,
            log_lines_dropped: self.access.dropped(),
        }
    }

    /// Whether the daemon serves, every account that logs in holds a valid token, and every other one has its organization.
    /// `only` restricts it to one account; `None` when there is none of that name.
    #[must_use]
    pub fn readiness(&self, only: Option<&str>, detail: Detail) -> Option<Readiness> {
        let view = Arc::clone(&self.view.borrow());
        let asked = |account: &&Account| only.is_none_or(|name| account.name() == name);
        let accounts: Vec<&Account> = view.accounts.iter().filter(asked).collect();
        if only.is_some() && accounts.is_empty() {
            return None;
        }
        let snapshots = accounts.into_iter().map(|account| (account.name().to_owned(), account.snapshot()));
        Some(readiness(*self.phase.borrow(), snapshots, self.clock.now().moment, detail))
    }
}

/// A listen address as a reader may see it: without the path of a socket's file, except for readers on this machine.
fn shown(address: &str, detail: Detail) -> &str {
    match (detail, address.split_once(':')) {
        (Detail::CodesOnly, Some(("unix", _))) => "unix",
        _ => address,
    }
}

fn readiness(phase: Phase, accounts: impl Iterator<Item = (String, AccountSnapshot)>, now: Moment, detail: Detail) -> Readiness {
    let for_people = |text: String| (detail == Detail::Full).then_some(text);
    let own = match phase {
        Phase::Running => None,
        Phase::Starting => Some(("starting", "the daemon is starting")),
        Phase::Draining | Phase::Stopped => Some(("draining", "the daemon is stopping")),
    };
    let own = own.map(|(code, text)| Reason { account: None, code, detail: for_people(text.to_owned()) });
    let missing = accounts.filter(|(_, snapshot)| !snapshot.holds_valid_token(now)).filter_map(|(name, snapshot)| {
        let (code, text) = match snapshot.state() {
            Some(state) => without_token(state),
            None if snapshot.lacks_organization() => ("no_organization", "the organization is missing"),
            None if !snapshot.is_usable(now) => ("no_organization", "the organization is being read"),
            None => return None,
        };
        let text = snapshot.last_error().map_or_else(|| text.to_owned(), |error| format!("{text}: {error}"));
        Some(Reason { account: Some(name), code, detail: for_people(text) })
    });
    let reasons: Vec<Reason> = own.into_iter().chain(missing).collect();
    Readiness { ready: reasons.is_empty(), reasons }
}

/// The reason while a log-in is under way, which requests wait for.
pub const PENDING: &str = "token_pending";

/// The reason of an account without a token. Its code is the one that requests get meanwhile.
fn without_token(state: StateName) -> (&'static str, &'static str) {
    match state {
        StateName::LoggedOut => ("logged_out", "logged out; `careportals-sidecar login` logs in"),
        StateName::Rejected => ("login_rejected", "the log-in is refused"),
        StateName::BackingOff => ("login_failing", "the log-in fails, and is tried again"),
        // `Ready` and `Refreshing` are without a token only at the moment when it expires.
        StateName::LoggingIn | StateName::Ready | StateName::Refreshing => (PENDING, "the log-in is under way"),
    }
}

impl AccountDocument {
    fn of(account: &Account, now: Now, detail: Detail) -> Self {
        let snapshot = account.snapshot();
        let time = |time: Option<SystemTime>| time.map(rfc3339);
        let error = snapshot.last_error();
        let for_people = error.filter(|_| detail == Detail::Full);
        Self {
            name: account.name().to_owned(),
            state: snapshot.state().map(|state| state.as_str().to_owned()),
            usable: snapshot.is_usable(now.moment),
            expires_at: time(snapshot.expires_at(now)),
            refresh_at: time(snapshot.refresh_at(now)),
            retry_at: time(snapshot.retry_at(now)),
            login_began_at: time(snapshot.login_began_at(now)),
            trouble: snapshot.trouble(now.moment).map(|trouble| trouble.as_str().to_owned()),
            since: time(snapshot.trouble_since(now)),
            last_login_at: time(snapshot.last_login_at()),
            last_error: for_people.map(ToString::to_string),
            last_error_code: error.map(|error| error.code().to_owned()),
            last_error_at: time(snapshot.last_error_at()),
            advice: snapshot.advice(now.moment).filter(|_| detail == Detail::Full).map(str::to_owned),
        }
    }
}

impl ApiDocument {
    fn of(api: &ApiView, standing: &ApiStanding, account: Option<&AccountDocument>, now: Now, detail: Detail) -> Self {
        let (totals, last_error) = (api.metrics.totals(), api.metrics.last_error());
        let time = |moment| Some(rfc3339(now.wall_at(moment)));
        let cause = standing.cause.as_ref();
        let of_account = account.filter(|_| standing.state == ApiState::NoToken).and_then(|account| account.advice.clone());
        Self {
            state: Some(standing.state.as_str().to_owned()),
            since: Some(rfc3339(standing.began_at)),
            reason: cause.map(|cause| cause.reason.clone()),
            advice: of_account.or_else(|| cause.map(|cause| cause.advice.to_owned())),
            last_error_at: last_error.as_ref().and_then(|error| time(error.at)),
            last_error: last_error.map(|error| error.code),
            errors_by_code: api.metrics.errors_by_code(),
            name: api.name.clone(),
            account: api.account.clone(),
            listen: api.listen.iter().map(|address| shown(address, detail).to_owned()).collect(),
            upstream: api.upstream.clone(),
            requests: Some(totals.requests),
            errors: Some(totals.errors),
            in_flight: Some(api.request_limit.taken()),
            observe: Some(api.observe),
            would_refuse: Some(totals.would_refuse),
        }
    }
}

/// Counts the errors of clients by API and reason. The API is empty where several share the address: which one a client meant shows
/// only with a request.
fn client_errors(view: &View) -> Vec<ClientErrorReading> {
    let mut readings: Vec<ClientErrorReading> = Vec::new();
    for (api, reason, count) in view.listeners.iter().flat_map(|(_, connection_limit)| connection_limit.client_errors()) {
        match readings.iter_mut().find(|reading| *reading.api == *api && reading.reason == reason) {
            Some(known) => known.count += count,
            None => readings.push(ClientErrorReading { api: api.as_ref().to_owned(), reason, count }),
        }
    }
    readings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        account::{Field, LoginError, SourceError},
        sources::SourceFault,
    };

    fn now() -> Moment {
        Moment::new(Duration::ZERO)
    }

    fn account(state: Option<StateName>, holds_token: bool) -> AccountSnapshot {
        AccountSnapshot::showing(state, holds_token.then_some(60), None, None)
    }

    fn codes(phase: Phase, accounts: &[(Option<StateName>, bool)]) -> Vec<&'static str> {
        let named = accounts.iter().map(|(state, holds)| ("some".to_owned(), account(*state, *holds)));
        let readiness = readiness(phase, named, now(), Detail::Full);
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
    fn an_account_without_log_in_is_not_ready_while_its_organization_is_missing() {
        let missing = SourceError { which: Field::Organization, fault: SourceFault::Missing("/run/secrets/organization".into()) };
        let error = Some(LoginError::Source(missing));
        let missing = AccountSnapshot::showing(None, None, None, error);
        let of = |snapshot: &AccountSnapshot| {
            readiness(Phase::Running, [("a".to_owned(), snapshot.clone())].into_iter(), now(), Detail::CodesOnly)
        };
        let reason = Reason { account: Some("a".to_owned()), code: "no_organization", detail: None };
        assert_eq!(of(&missing), Readiness { ready: false, reasons: vec![reason] });
        assert!(of(&AccountSnapshot::showing(None, None, None, None)).ready);
    }

    #[test]
    fn over_the_network_there_are_codes_and_no_sentences() {
        let missing = SourceError { which: Field::Password, fault: SourceFault::Missing("/run/secrets/password".into()) };
        let error = Some(LoginError::Source(missing));
        let failed = AccountSnapshot::showing(Some(StateName::BackingOff), None, None, error);
        let of = |detail| readiness(Phase::Draining, [("a".to_owned(), failed.clone())].into_iter(), now(), detail);
        let full = serde_json::to_string(&of(Detail::Full)).unwrap();
        assert!(full.contains("/run/secrets/password") && full.contains("stopping"), "{full}");
        let codes = serde_json::to_string(&of(Detail::CodesOnly)).unwrap();
        let expected = r#"{"ready":false,"reasons":[{"account":null,"code":"draining"},{"account":"a","code":"login_failing"}]}"#;
        assert_eq!(codes, expected);
    }

    #[test]
    fn the_document_names_a_phase_as_serde_does() {
        for phase in [Phase::Starting, Phase::Running, Phase::Draining, Phase::Stopped] {
            assert_eq!(serde_json::to_string(&phase).unwrap(), format!("\"{}\"", phase.as_str()));
        }
    }

    #[test]
    fn the_members_of_the_document_keep_their_names_order_and_nulls() {
        let (accounts, apis) =
            (vec![AccountDocument::default()], vec![ApiDocument { requests: Some(7), ..ApiDocument::default() }]);
        let document = StatusDocument { accounts, apis, ..StatusDocument::default() };
        let expected = concat!(
            r#"{"version":"","host":"","phase":"","uptime_seconds":0,"now":"","#,
            r#""accounts":[{"name":"","state":null,"usable":false,"expires_at":null,"refresh_at":null,"retry_at":null,"#,
            r#""login_began_at":null,"trouble":null,"since":null,"last_login_at":null,"last_error":null,"last_error_code":null,"last_error_at":null,"advice":null}],"#,
            r#""apis":[{"name":"","account":"","listen":[],"upstream":"","state":null,"since":null,"reason":null,"advice":null,"#,
            r#""last_error":null,"last_error_at":null,"errors_by_code":{},"requests":7,"errors":null,"in_flight":null,"#,
            r#""observe":null,"would_refuse":null}],"#,
            r#""telemetry":null}"#,
        );
        assert_eq!(serde_json::to_string(&document).unwrap(), expected);
    }
    /// A reader of a daemon in this phase, with these APIs, each at its listen addresses, and these listeners with their limits.
    fn reader(phase: Phase, apis: &[(&str, &[&str])], listeners: &[(&str, usize)]) -> StatusReader {
        let (clock, metrics): (Arc<dyn Clock>, _) =
            (Arc::new(crate::clock::SystemClock), crate::proxy::metrics(std::num::NonZeroUsize::MIN));
        let api = |(name, listen): &(&str, &[&str])| ApiView {
            name: (*name).to_owned(),
            account: "default".to_owned(),
            listen: listen.iter().map(|address| (*address).to_owned()).collect(),
            upstream: "https://api.example".to_owned(),
            observe: false,
            observed: SeenRequests::default(),
            request_limit: RequestLimit::new(7),
            health: ApiHealth::default(),
            required: None,
            metrics: metrics.api(name),
        };
        let shared = crate::server::SharedDescriptors::default();
        let listeners = listeners.iter().map(|(name, most)| ((*name).to_owned(), shared.limit(*most))).collect();
        let view = View { apis: apis.iter().map(api).collect(), listeners, ..View::default() };
        let log = crate::config::fixture::config().reloadable.log;
        let logging =
            crate::logging::Logging::build(&log, std::io::sink(), crate::logging::Reader::Unknown, Arc::clone(&clock)).unwrap();
        StatusReader {
            phase: watch::channel(phase).1,
            view: watch::channel(Arc::new(view)).1,
            started: clock.now(),
            clock,
            telemetry: Some(([127, 0, 0, 1], 2274).into()),
            access: logging.access_log(),
            states: ApiStates::default(),
        }
    }

    #[test]
    fn over_the_network_all_unix_sockets_are_one_listener_without_a_path() {
        let listeners = [("127.0.0.1:1", 3), ("unix:/run/a.sock", 4), ("[::1]:1", 6), ("unix:/run/b.sock", 5)];
        let status = reader(Phase::Running, &[("a", &["unix:/run/a.sock", "127.0.0.1:1"])], &listeners);
        let told = |detail| {
            let readings = status.readings(detail).listeners.into_iter();
            readings.map(|listener| (listener.address, listener.connections, listener.connections_max)).collect::<Vec<_>>()
        };
        let all =
            |listeners: &[(&str, usize)]| listeners.iter().map(|(name, most)| ((*name).to_owned(), 0, *most)).collect::<Vec<_>>();
        assert_eq!(told(Detail::Full), all(&listeners));
        assert_eq!(told(Detail::CodesOnly), all(&[("127.0.0.1:1", 3), ("unix", 9), ("[::1]:1", 6)]));
        let listen = |detail| status.document(detail).apis.remove(0).listen;
        assert_eq!(listen(Detail::Full), ["unix:/run/a.sock", "127.0.0.1:1"]);
        assert_eq!(listen(Detail::CodesOnly), ["unix", "127.0.0.1:1"]);
    }

    #[test]
    fn a_step_of_the_wall_clock_is_no_other_start() {
        struct Stepped(Now);
        impl Clock for Stepped {
            fn now(&self) -> Now {
                self.0
            }
        }
        let mut status = reader(Phase::Running, &[], &[]);
        let before = status.readings(Detail::Full).started_at;
        let now = status.clock.now();
        status.clock = Arc::new(Stepped(Now { wall: now.wall + Duration::from_secs(3600), ..now }));
        assert_eq!(status.readings(Detail::Full).started_at, before);
    }

    #[test]
    fn errors_of_clients_of_several_addresses_are_one_series_for_each_api_and_reason() {
        let listeners = [("127.0.0.1:1", 1), ("127.0.0.1:2", 1), ("127.0.0.1:3", 1), ("127.0.0.1:4", 1)];
        let status = reader(Phase::Running, &[], &listeners);
        for ((_, connection_limit), api) in status.view.borrow().listeners.iter().zip(["a", "", "a", ""]) {
            connection_limit.count_client_errors_for(api);
        }
        let readings = status.readings(Detail::Full).client_errors;
        let reasons = readings.iter().filter(|reading| reading.api == "a").count();
        let of =
            |api: &str| readings.iter().filter(|reading| reading.api == api).map(|reading| reading.reason).collect::<Vec<_>>();
        assert!(reasons > 1, "{readings:?}");
        assert_eq!(of("").len(), reasons, "each reason once for each API: {readings:?}");
        assert_eq!(readings.len(), 2 * reasons);
    }

    #[test]
    fn a_daemon_has_started_in_every_phase_but_the_first_and_says_which_it_is_in() {
        for (phase, started) in
            [(Phase::Starting, false), (Phase::Running, true), (Phase::Draining, true), (Phase::Stopped, true)]
        {
            let status = reader(phase, &[("a", &[])], &[]);
            let document = status.document(Detail::Full);
            assert_eq!((status.has_started(), document.phase.as_str()), (started, phase.as_str()));
            assert_eq!(document.telemetry.as_deref(), Some("127.0.0.1:2274"));
            let [api] = &document.apis[..] else { panic!("{document:?}") };
            // Its account is not there, so it has no token.
            assert_eq!(api.state.as_deref(), Some("no_token"));
            assert_eq!((api.requests, api.errors, api.in_flight, api.would_refuse), (Some(0), Some(0), Some(0), Some(0)));
            assert_eq!((api.reason.as_deref(), api.advice.as_deref()), (Some("no token"), Some("see the account")));
        }
    }
}
