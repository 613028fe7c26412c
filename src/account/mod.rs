//! One account: its credentials and organization, the session that makes a token of them, and the bearer.
//!
//! An [`Account`] is a handle. Requests load the bearer from it without a lock, and one driver task owns everything else.
//! Guarantees: this module never sees a client's request; a client that hangs up ends its own wait and nothing else; every
//! bearer that a handle gives was fetched under the same terms (`terms`), since another set of terms is another account.
//!
//! Files, each using only those before it: `failure`, `terms` (pure: what a bearer is good for), `token`, `refusal` (what answers
//! say of a token), `relogin_floor` (pure), `session` (pure: the state machine), `credentials`, `watch`, `answer` (pure),
//! `login`, `snapshot` (pure: what the driver publishes), `transition_log`, `driver`, `organization_only` (an account without
//! log-in), `unauthorized` (what a 401 does for its request), `login_check` (a log-in by itself).

mod answer;
mod credentials;
mod driver;
mod failure;
mod login;
mod login_check;
mod organization_only;
mod refusal;
mod relogin_floor;
mod session;
mod snapshot;
mod terms;
mod token;
mod transition_log;
mod unauthorized;
mod watch;

#[cfg(test)]
mod tests;

use std::{
    sync::{Arc, Mutex, Once, PoisonError, atomic::AtomicU64},
    time::Duration,
};

use arc_swap::ArcSwapOption;
use http::StatusCode;
use tokio::{
    sync::{Notify, mpsc, oneshot},
    task::JoinHandle,
    time::timeout,
};

use self::{
    credentials::Sources,
    driver::{AccountSettings, Driver, DriverRequest, Published, Signals},
    login::{HttpLogIn, LogIn},
    organization_only::OrganizationOnly,
    session::Session,
    snapshot::{Availability, Standing},
    terms::AccountIdentity,
    watch::CredentialWatch,
};
pub use self::{
    driver::LogInFailed,
    failure::{Field, LoginError, Malformed, SourceError, Unreachable},
    login::LoginConnectors,
    login_check::{Tried, try_log_in, try_organization},
    session::StateName,
    snapshot::{AccountSnapshot, AccountTrouble, REFUSED_ADVICE, TOKEN_REFUSED_AFTER, Unavailable, Why},
    token::{Bearer, Fingerprint, Generation},
    unauthorized::{Relogin, Replaced},
};
use crate::{
    clock::{Clock, Jitter, Moment},
    config::{AccountId, Config},
    metrics::AccountMetrics,
};

/// Requests to the driver that wait in its queue; further senders wait for room.
const REQUESTS_MAX: usize = 256;
/// How long a request waits for the organization of an account without log-in: only a file or a command can be slow.
const ORGANIZATION_WAIT: Duration = Duration::from_secs(10);

/// What the fuzz targets call, and the test that replays what they found. Not an interface: the program calls nothing here.
#[doc(hidden)]
pub mod internal {
    pub use crate::account::{
        answer::read_answer,
        login::read_wait,
        token::{TokenLife, read_token},
    };
}

/// The handle of an account. Clones are the same account.
#[derive(Clone)]
pub struct Account {
    settings: Arc<RequestSettings>,
    task: Arc<AccountTask>,
}

/// What a new account does first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// It logs in.
    LogIn,
    /// It stays logged out until an explicit log-in: it follows an account that was logged out.
    StayLoggedOut,
}

/// The settings that requests go by; a reload makes new ones.
struct RequestSettings {
    sources: Sources,
    relogin_on: Vec<StatusCode>,
    token_wait: Duration,
}

impl RequestSettings {
    fn of(sources: Sources) -> Self {
        let login = sources.login();
        let relogin_on = login.map(|login| login.relogin_on.clone()).unwrap_or_default();
        let token_wait = login.map_or(ORGANIZATION_WAIT, |login| login.token_wait);
        Self { sources, relogin_on, token_wait }
    }
}

/// The account's task, what it publishes, and the ways to reach it. All handles share it.
struct AccountTask {
    name: String,
    identity: AccountIdentity,
    clock: Arc<dyn Clock>,
    bearer: Arc<ArcSwapOption<Bearer>>,
    /// Logs once that a bearer of another account was found here.
    found_foreign: Once,
    /// The latest token that was refused too young, to log that once.
    refused_young: AtomicU64,
    snapshot: tokio::sync::watch::Receiver<AccountSnapshot>,
    /// Told when the snapshot changes; those who waited longest hear it first.
    changed: Arc<Notify>,
    signals: Arc<Signals>,
    requests: mpsc::Sender<DriverRequest>,
    /// Taken by the handle that joins it.
    join: Mutex<Option<JoinHandle<()>>>,
}

impl Account {
    /// Starts the account's task on the present runtime. `connectors` is `None` for an account without log-in; log-ins are
    /// counted in `counts`. `None` when the configuration has no such account, or the connectors do not fit it.
    #[must_use]
    pub fn start(
        config: Arc<Config>,
        id: AccountId,
        connectors: Option<LoginConnectors>,
        start: Start,
        clock: Arc<dyn Clock>,
        jitter: Jitter,
        counts: Arc<AccountMetrics>,
    ) -> Option<Self> {
        let sources = Sources::new(config, id)?;
        let log_in = match (sources.login(), connectors) {
            (Some(_), Some(connectors)) => {
                let (sources, clock) = (sources.clone(), Arc::clone(&clock));
                Some(Box::new(HttpLogIn { sources, connectors, clock }) as Box<dyn LogIn>)
            }
            (None, _) => None,
            (Some(_), None) => return None,
        };
        let watch = CredentialWatch::start(&sources);
        Some(Self::assemble(sources, log_in, Dependencies { start, clock, jitter, watch, counts }))
    }

    fn assemble(sources: Sources, log_in: Option<Box<dyn LogIn>>, dependencies: Dependencies) -> Self {
        let Dependencies { start, clock, jitter, watch, counts } = dependencies;
        let name = sources.account().name.clone();
        let settings = Arc::new(RequestSettings::of(sources.clone()));
        let bearer = Arc::new(ArcSwapOption::empty());
        let standing = match (sources.login(), start) {
            (None, _) => Standing::OrganizationPending,
            (Some(_), Start::LogIn) => Standing::Session(StateName::LoggingIn),
            (Some(_), Start::StayLoggedOut) => Standing::Session(StateName::LoggedOut),
        };
        let (publish, snapshot) = tokio::sync::watch::channel(AccountSnapshot::new(standing));
        let identity = AccountIdentity::new();
        let changed = Arc::new(Notify::new());
        let published = Published { identity, bearer: Arc::clone(&bearer), snapshot: publish, changed: Arc::clone(&changed) };
        let signals = Arc::new(Signals::default());
        let (ask, requests) = mpsc::channel(REQUESTS_MAX);
        let join = if let (Some(login), Some(log_in)) = (sources.login(), log_in) {
            let driver = Driver {
                name: name.clone(),
                session: Session::new(login.relogin_floor),
                log_in,
                assumed_life: login.assumed_life,
                clock: Arc::clone(&clock),
                jitter,
                published,
                signals: Arc::clone(&signals),
                watch,
                requests,
                counts,
            };
            tokio::spawn(driver.run(start))
        } else {
            let clock = Arc::clone(&clock);
            tokio::spawn(OrganizationOnly { sources, clock, jitter, published, watch, requests }.run())
        };
        let join = Mutex::new(Some(join));
        let (found_foreign, refused_young, requests) = (Once::new(), AtomicU64::new(0), ask);
        let task = AccountTask {
            name,
            identity,
            clock,
            bearer,
            found_foreign,
            refused_young,
            snapshot,
            changed,
            signals,
            requests,
            join,
        };
        Self { settings, task: Arc::new(task) }
    }

    /// Takes over other settings; the result is a handle of the same account, whose token stays in use. Where user name,
    /// password or the way to log in differ, a log-in starts. `None` when the terms differ (log-in server, refresh server or
    /// source of the organization; see `terms`), when it does not log in, or when the configuration has no such account. The
    /// caller must start another account then: handles of this one never see a bearer of other terms.
    pub async fn reconfigure(&self, config: Arc<Config>, id: AccountId, connectors: Option<LoginConnectors>) -> Option<Self> {
        let connectors = connectors?;
        let (before, after) = (self.settings.sources.account(), config.accounts.get(id.0)?);
        if !terms::are_kept(before, after) {
            return None;
        }
        let (old, new) = (before.login.as_ref()?, after.login.as_ref()?);
        let (same_sources, same_log_in) = (terms::have_same_secrets(old, new), terms::log_in_alike(old, new));
        let (assumed_life, relogin_floor) = (new.assumed_life, new.relogin_floor);
        // The watch compares files with what was read last, so the same sources keep that.
        let sources = if same_sources { self.settings.sources.under(config, id) } else { Sources::new(config, id)? };
        let watch = (!same_sources).then(|| CredentialWatch::start(&sources));
        let log_in = Box::new(HttpLogIn { sources: sources.clone(), connectors, clock: Arc::clone(&self.task.clock) });
        let request_settings = Arc::new(RequestSettings::of(sources));
        let (answer, answered) = oneshot::channel();
        let settings = AccountSettings { log_in, assumed_life, relogin_floor, watch, same_log_in };
        self.task.requests.send(DriverRequest::Reconfigure(Box::new(settings), answer)).await.ok()?;
        answered.await.ok()?;
        Some(Self { settings: request_settings, task: Arc::clone(&self.task) })
    }

    /// Whether both are handles of one account, under the same settings or others.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.task, &other.task)
    }

    /// Whether it logs in at all.
    #[must_use]
    pub fn logs_in(&self) -> bool {
        matches!(self.task.snapshot.borrow().standing, Standing::Session(_))
    }

    /// Whether only an explicit log-in gives it a token again.
    #[must_use]
    pub fn is_logged_out(&self) -> bool {
        self.task.snapshot.borrow().standing == Standing::Session(StateName::LoggedOut)
    }

    /// The account's name in the settings.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.task.name
    }

    /// The upstream statuses that make a token suspect; none for an account without log-in.
    #[must_use]
    pub fn relogin_on(&self) -> &[StatusCode] {
        &self.settings.relogin_on
    }

    /// The bearer that a request may carry at `now`. It takes no lock.
    #[must_use]
    pub fn bearer(&self, now: Moment) -> Option<Arc<Bearer>> {
        let bearer = self.task.bearer.load();
        bearer.as_ref().filter(|bearer| bearer.is_usable(now)).cloned()
    }

    /// Whether this account has fetched `bearer`, so that its requests may carry it: before 1.9.5 arc-swap could hand out another
    /// instance's value, which would be another tenant's token. The first such find is logged.
    #[must_use]
    pub fn has_fetched(&self, bearer: &Bearer) -> bool {
        let own = bearer.account == self.task.identity;
        if !own {
            let log = || tracing::error!(account = self.name(), "a bearer of another account was found here: it is not sent");
            self.task.found_foreign.call_once(log);
        }
        own
    }

    /// Passes the fingerprint of the published token to `to`, whether or not the token may still be sent. It takes no lock.
    pub fn show_fingerprint<R>(&self, to: impl FnOnce(Option<&Fingerprint>) -> R) -> R {
        let bearer = self.task.bearer.load();
        to(bearer.as_ref().and_then(|bearer| bearer.fingerprint.as_deref()))
    }

    /// Gives the [`bearer`](Self::bearer) after waiting, at most `token_wait`, for a log-in that is in flight or close.
    /// Dropping the future ends the wait and nothing else.
    ///
    /// # Errors
    ///
    /// There is no bearer in time, or the account has ended; the error says why, and when the client should ask again.
    pub async fn wait_for_bearer(&self) -> Result<Arc<Bearer>, Unavailable> {
        self.wait_for_bearer_within(self.settings.token_wait).await
    }

    /// How long one request may wait for bearers in all.
    #[must_use]
    pub fn token_wait(&self) -> Duration {
        self.settings.token_wait
    }

    /// [`wait_for_bearer`](Self::wait_for_bearer) for a request that has only `limit` of its `token_wait` left.
    ///
    /// # Errors
    ///
    /// There is no bearer in time, or the account has ended.
    pub async fn wait_for_bearer_within(&self, limit: Duration) -> Result<Arc<Bearer>, Unavailable> {
        let deadline = self.task.clock.now().moment + limit;
        match timeout(limit, self.bearer_before(deadline)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(self.task.snapshot.borrow().availability().unavailable(self.task.clock.now().moment)),
        }
    }

    async fn bearer_before(&self, deadline: Moment) -> Result<Arc<Bearer>, Unavailable> {
        loop {
            // What changes from here on wakes it.
            let changed = self.task.changed.notified();
            let availability = self.task.snapshot.borrow().availability();
            let now = self.task.clock.now().moment;
            if let Some(bearer) = self.bearer(now) {
                return Ok(bearer);
            }
            match availability {
                // The bearer has expired, or an attempt is due, but the driver's timer slept through it.
                Availability::Available => self.task.signals.wake(),
                Availability::Unavailable { why: Why::LoginFailing | Why::NoOrganization, until: Some(until) }
                    if until <= now =>
                {
                    self.task.signals.wake();
                }
                Availability::Unavailable { why: Why::TokenPending, .. } => {}
                Availability::Unavailable { why: Why::LoginFailing, until: Some(until) } if until <= deadline => {}
                Availability::Unavailable { .. } | Availability::Ended => return Err(availability.unavailable(now)),
            }
            changed.await;
        }
    }

    /// The error of a request that waits at an account whose task has ended.
    fn ended(&self) -> Unavailable {
        Availability::Ended.unavailable(self.task.clock.now().moment)
    }

    /// Logs in anew, or joins the log-in in flight, and waits for its outcome. It is the only way back from a log-out.
    /// Dropping the future ends the wait, not the log-in.
    ///
    /// # Errors
    ///
    /// The log-in failed, or a log-out or the end of the account came in between.
    pub async fn log_in(&self) -> Result<(), LogInFailed> {
        let (answer, answered) = oneshot::channel();
        self.task.requests.send(DriverRequest::LogIn(answer)).await.map_err(|_| LogInFailed::Ended)?;
        answered.await.unwrap_or(Err(LogInFailed::Ended))
    }

    /// Withdraws and forgets the token, and gives up a log-in in flight. It returns when that is done.
    pub async fn log_out(&self) {
        let (answer, answered) = oneshot::channel();
        // An account that has ended has no token either.
        if self.task.requests.send(DriverRequest::LogOut(answer)).await.is_ok() {
            drop(answered.await);
        }
    }

    /// The latest snapshot, for `status`, readiness and metrics.
    #[must_use]
    pub fn snapshot(&self) -> AccountSnapshot {
        AccountSnapshot { refusals: self.task.signals.refusal.streak(), ..self.task.snapshot.borrow().clone() }
    }

    /// A receiver that wakes whenever the snapshot changes.
    #[must_use]
    pub fn subscribe(&self) -> tokio::sync::watch::Receiver<AccountSnapshot> {
        self.task.snapshot.clone()
    }

    /// Whether the account logs in and its requests get no bearer now.
    #[must_use]
    pub fn lacks_token(&self) -> bool {
        let snapshot = self.task.snapshot.borrow();
        snapshot.state().is_some() && !snapshot.is_usable(self.task.clock.now().moment)
    }

    /// Ends the task in favour of `successor`, the account of that name after a reload. If the successor found this one logged
    /// out and an administrator has logged it in since, the successor logs in. It does not wait for that log-in.
    pub async fn give_way_to(&self, successor: Option<&Self>) {
        let owed = successor.filter(|successor| successor.is_logged_out() && !self.is_logged_out());
        self.shut_down().await;
        if let Some(successor) = owed {
            let (answer, _) = oneshot::channel();
            // An error means that the successor has ended, too.
            drop(successor.task.requests.send(DriverRequest::LogIn(answer)).await);
        }
    }

    /// Ends the task. The token is wiped when this returns, or when the last request that carries it ends.
    pub async fn shut_down(&self) {
        // An error means that it has ended already.
        drop(self.task.requests.send(DriverRequest::ShutDown).await);
        let join = self.task.join.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(join) = join else { return };
        if let Err(error) = join.await {
            tracing::error!(account = self.task.name, panicked = error.is_panic(), "the account's task did not end well");
        }
    }
}

/// What an account's task needs beside its settings.
struct Dependencies {
    start: Start,
    clock: Arc<dyn Clock>,
    jitter: Jitter,
    watch: CredentialWatch,
    counts: Arc<AccountMetrics>,
}
