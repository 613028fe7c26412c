//! One account: credentials and organization, the session that makes a token of them, and whoever wants to carry it.
//!
//! Depends on `config`, `careportals`, `clock`, `secret`, `sources`, `metrics`, `connect` and `upstream`. An [`Account`] is a handle: requests
//! load the bearer from it without a lock, and one driver task owns everything else. A client's request is never seen
//! here, and a client that goes away takes nothing with it but its own wait.
//!
//! Files, each using only those before it: `failure`, `token`, `relogin_floor`, `session` (pure: the state machine), `credentials`,
//! `watch`, `answer` (pure), `login`, `phase` (pure: what others see), `transition_log` (what the log says), `driver`, `organization_only` (no
//! log-in); `internal` (for fuzzing).

mod answer;
mod credentials;
mod driver;
mod failure;
pub mod internal;
mod login;
mod organization_only;
mod phase;
mod relogin_floor;
mod session;
mod token;
mod transition_log;
mod watch;

#[cfg(test)]
mod fixture;
#[cfg(test)]
mod tests;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwapOption;
use http::StatusCode;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::timeout,
};

use self::{
    credentials::Sources,
    driver::{AccountSettings, Driver, DriverRequest, Published, Signals},
    login::{HttpLogIn, LogIn},
    organization_only::OrganizationOnly,
    phase::{Advice, Outlook},
    relogin_floor::Verdict,
    session::Session,
    token::Token,
    watch::{CredentialChange, Watch},
};
pub use self::{
    driver::LogInFailed,
    failure::{Field, LoginError, Malformed, SourceError, Unreachable},
    login::LoginConnectors,
    phase::{AccountStatus, Phase, Unavailable, Why},
    session::StateName,
    token::{Bearer, Generation},
};
use crate::{
    clock::{Clock, Jitter, Moment},
    config::{AccountId, Config},
    metrics::AccountMetrics,
};

/// The handle of an account. Clones are the same account.
#[derive(Clone)]
pub struct Account {
    terms: Arc<Terms>,
    shared: Arc<Shared>,
}

/// What a reload may change of an account, for whoever carries its bearers.
struct Terms {
    sources: Sources,
    relogin_on: Vec<StatusCode>,
    token_wait: Duration,
}

impl Terms {
    fn of(sources: Sources) -> Self {
        let login = sources.login();
        let relogin_on = login.map(|login| login.relogin_on.clone()).unwrap_or_default();
        let token_wait = login.map_or(TENANT_WAIT, |login| login.token_wait);
        Self { sources, relogin_on, token_wait }
    }
}

struct Shared {
    name: String,
    clock: Arc<dyn Clock>,
    current: Arc<ArcSwapOption<Bearer>>,
    phase: tokio::sync::watch::Receiver<Phase>,
    signals: Arc<Signals>,
    requests: mpsc::Sender<DriverRequest>,
    /// Taken by whoever joins it.
    task: Mutex<Option<JoinHandle<()>>>,
}

impl Account {
    /// Starts the account's task on the present runtime; it logs in at once. `connectors` is `None` for an account without
    /// log-in; `counts`: where log-ins are counted. `None` when the configuration has no such account, or the connectors do not fit it.
    #[must_use]
    pub fn start(
        config: Arc<Config>,
        id: AccountId,
        connectors: Option<LoginConnectors>,
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
        let watch = Watch::start(&sources);
        Some(Self::assemble(sources, log_in, Dependencies { clock, jitter, watch, counts }))
    }

    fn assemble(sources: Sources, log_in: Option<Box<dyn LogIn>>, dependencies: Dependencies) -> Self {
        let Dependencies { clock, jitter, watch, counts } = dependencies;
        let name = sources.account().name.clone();
        let terms = Arc::new(Terms::of(sources.clone()));
        let settings = sources.login();
        let current = Arc::new(ArcSwapOption::empty());
        let (phase, seen) = tokio::sync::watch::channel(Phase::new(settings.map(|_| StateName::LoggingIn)));
        let published = Published { current: Arc::clone(&current), phase };
        let signals = Arc::new(Signals::default());
        let (asks, requests) = mpsc::channel(REQUESTS_MAX);
        let task = if let (Some(login), Some(log_in)) = (settings, log_in) {
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
            tokio::spawn(driver.run())
        } else {
            let clock = Arc::clone(&clock);
            tokio::spawn(OrganizationOnly { sources, clock, jitter, published, watch, requests }.run())
        };
        let task = Mutex::new(Some(task));
        Self { terms, shared: Arc::new(Shared { name, clock, current, phase: seen, signals, requests: asks, task }) }
    }

    /// The same account under other settings. Its token stays in use when it can still be taken for the account's; where
    /// user name, password or the way to log in differ, a log-in begins; where organization_only or log-in server differ, the token is
    /// withdrawn at once. `None` when one of the two does not log in, or the configuration has no such account: then there
    /// is nothing to go on with.
    pub async fn reconfigure(&self, config: Arc<Config>, id: AccountId, connectors: Option<LoginConnectors>) -> Option<Self> {
        let connectors = connectors?;
        let (before, after) = (self.terms.sources.account(), config.accounts.get(id.0)?);
        let (old, new) = (before.login.as_ref()?, after.login.as_ref()?);
        let change = CredentialChange::between(before, after);
        let same_sources = before.organization.is_same(&after.organization)
            && old.username.is_same(&new.username)
            && old.password.is_same(&new.password);
        let (assumed_life, relogin_floor) = (new.assumed_life, new.relogin_floor);
        // What was read last is what changes of files are told by.
        let sources = if same_sources { self.terms.sources.under(config, id) } else { Sources::new(config, id)? };
        let watch = (!same_sources).then(|| Watch::start(&sources));
        let log_in = Box::new(HttpLogIn { sources: sources.clone(), connectors, clock: Arc::clone(&self.shared.clock) });
        let terms = Arc::new(Terms::of(sources));
        let (answer, answered) = oneshot::channel();
        let settings = AccountSettings { log_in, assumed_life, relogin_floor, watch, change };
        self.shared.requests.send(DriverRequest::Reconfigure(Box::new(settings), answer)).await.ok()?;
        answered.await.ok()?;
        Some(Self { terms, shared: Arc::clone(&self.shared) })
    }

    /// Whether both are handles of one account, under whatever settings.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }

    /// As configured.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// Upstream statuses that make a token suspect; none for an account without log-in.
    #[must_use]
    pub fn relogin_on(&self) -> &[StatusCode] {
        &self.terms.relogin_on
    }

    /// What a request may carry right now. No lock is taken.
    #[must_use]
    pub fn bearer(&self, now: Moment) -> Option<Arc<Bearer>> {
        let current = self.shared.current.load();
        current.as_ref().filter(|bearer| bearer.is_usable(now)).cloned()
    }

    /// Shows the token at hand, whether or not it may still be sent; it must not be kept. No lock is taken.
    pub fn show_token<R>(&self, to: impl FnOnce(&[u8]) -> R) -> Option<R> {
        let current = self.shared.current.load();
        current.as_ref().and_then(|bearer| bearer.token()).map(to)
    }

    /// What [`bearer`](Self::bearer) gives, after waiting for a log-in that is under way or close, at most `token_wait`. Dropping the future ends
    /// the wait and nothing else.
    ///
    /// # Errors
    ///
    /// Says why there is none, and when asking again makes sense.
    pub async fn wait_for_bearer(&self) -> Result<Arc<Bearer>, Unavailable> {
        let deadline = self.shared.clock.now().moment + self.terms.token_wait;
        match timeout(self.terms.token_wait, self.bearer_before(deadline)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Unavailable::of(self.shared.phase.borrow().outlook, self.shared.clock.now().moment)),
        }
    }

    async fn bearer_before(&self, deadline: Moment) -> Result<Arc<Bearer>, Unavailable> {
        let mut phase = self.shared.phase.clone();
        loop {
            let outlook = phase.borrow_and_update().outlook;
            let now = self.shared.clock.now().moment;
            if let Some(bearer) = self.bearer(now) {
                return Ok(bearer);
            }
            match outlook {
                Outlook::Pending => {}
                // Its end has come, but the driver's timer slept through it.
                Outlook::Usable => self.shared.signals.wake(),
                Outlook::AttemptAt(moment) | Outlook::NoOrganization(moment) if moment <= now => self.shared.signals.wake(),
                Outlook::AttemptAt(moment) if moment <= deadline => {}
                _ => return Err(Unavailable::of(outlook, now)),
            }
            if phase.changed().await.is_err() {
                return Err(Unavailable::of(Outlook::Ended, now));
            }
        }
    }

    /// Reports that a request with that token got a 401. A bearer that is newer, at once or from the log-in that all
    /// such requests share; `None` when the 401 is the client's: the token is too young, a failed log-in has yet to wait,
    /// the log-in fails or takes longer than `token_wait`.
    pub async fn replace(&self, refused: Generation) -> Option<Arc<Bearer>> {
        timeout(self.terms.token_wait, self.newer_than(refused)).await.ok().flatten()
    }

    async fn newer_than(&self, refused: Generation) -> Option<Arc<Bearer>> {
        let mut phase = self.shared.phase.clone();
        let mut has_complained = false;
        loop {
            let now = self.shared.clock.now().moment;
            let advice = phase.borrow_and_update().advise(refused, now);
            if let Some(bearer) = self.bearer(now).filter(|bearer| bearer.generation > refused) {
                return Some(bearer);
            }
            match advice {
                Advice::PassOn => return None,
                Advice::Complain if has_complained => return None,
                Advice::Complain => {
                    has_complained = true;
                    let (answer, answered) = oneshot::channel();
                    self.shared.requests.send(DriverRequest::Unauthorized(refused, answer)).await.ok()?;
                    // What it led to is published by then.
                    answered.await.ok()?;
                    continue;
                }
                Advice::WakeAndWait => self.shared.signals.wake(),
                Advice::Wait => {}
            }
            phase.changed().await.ok()?;
        }
    }

    /// Reports the same for a request that can't be sent again, and does not wait for what comes of it.
    pub async fn unauthorized(&self, refused: Generation) {
        let now = self.shared.clock.now().moment;
        if self.shared.phase.borrow().advise(refused, now) != Advice::Complain {
            return;
        }
        let (answer, answered) = oneshot::channel();
        if self.shared.requests.send(DriverRequest::Unauthorized(refused, answer)).await.is_ok() {
            drop(answered.await);
        }
    }

    /// A request that had got a 401 got through with that (newer) token.
    pub fn cured(&self, by: Generation) {
        if self.shared.phase.borrow().is_open_to(Verdict::Accepted, by) {
            self.shared.signals.cured(by);
        }
    }

    /// A request that had got a 401 got another with that (newer) token.
    pub fn uncured(&self, by: Generation) {
        if self.shared.phase.borrow().is_open_to(Verdict::RejectedAgain, by) {
            self.shared.signals.uncured(by);
        }
    }

    /// Logs in anew, or joins the log-in in flight, and waits for its outcome. The only way back from a log-out.
    ///
    /// # Errors
    ///
    /// The log-in failed, or something came in between.
    pub async fn log_in(&self) -> Result<(), LogInFailed> {
        let (answer, answered) = oneshot::channel();
        self.shared.requests.send(DriverRequest::LogIn(answer)).await.map_err(|_| LogInFailed::Ended)?;
        answered.await.unwrap_or(Err(LogInFailed::Ended))
    }

    /// Withdraws and forgets the token, and gives up a log-in in flight; done when it returns.
    pub async fn log_out(&self) {
        let (answer, answered) = oneshot::channel();
        // An account that has ended has no token either.
        if self.shared.requests.send(DriverRequest::LogOut(answer)).await.is_ok() {
            drop(answered.await);
        }
    }

    /// For `status`, readiness and metrics.
    #[must_use]
    pub fn status(&self) -> AccountStatus {
        let now = self.shared.clock.now();
        AccountStatus::of(&self.shared.phase.borrow(), self.bearer(now.moment).is_some(), now)
    }

    /// Wakes whenever the status changes.
    #[must_use]
    pub fn subscribe(&self) -> tokio::sync::watch::Receiver<Phase> {
        self.shared.phase.clone()
    }

    /// Ends the task; its token is wiped when this returns, but for requests that still carry it.
    pub async fn shut_down(&self) {
        // An error means that it has ended already.
        drop(self.shared.requests.send(DriverRequest::ShutDown).await);
        let task = self.shared.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(Err(error)) = match task {
            Some(task) => Some(task.await),
            None => None,
        } {
            tracing::error!(account = self.shared.name, panicked = error.is_panic(), "the account's task did not end well");
        }
    }
}

/// One log-in by itself, for `check --online`: nothing is kept of it.
pub async fn try_log_in(
    config: Arc<Config>,
    id: AccountId,
    connectors: LoginConnectors,
    clock: Arc<dyn Clock>,
) -> Result<Tried, LoginError> {
    let Some((sources, assumed_life)) =
        Sources::new(config, id).and_then(|sources| Some((sources.clone(), sources.login()?.assumed_life)))
    else {
        return Err(LoginError::Malformed(Malformed::NoToken));
    };
    let grant = HttpLogIn { sources, connectors, clock }.log_in(None).await?;
    let (server_date, received) = (grant.server_date, grant.received.wall);
    let token = Token::read(grant, Generation(0), assumed_life).map_err(LoginError::Malformed)?;
    Ok(Tried { life: token.life, server_date, received })
}

/// What a log-in by itself showed.
#[derive(Clone, Copy, Debug)]
pub struct Tried {
    /// Of the token.
    pub life: Duration,
    /// The server's clock when it answered.
    pub server_date: Option<SystemTime>,
    /// Ours at that moment.
    pub received: SystemTime,
}

/// What an account's task is made of, beside its settings.
struct Dependencies {
    clock: Arc<dyn Clock>,
    jitter: Jitter,
    watch: Watch,
    counts: Arc<AccountMetrics>,
}

/// Reports of 401s wait for a place beyond that.
const REQUESTS_MAX: usize = 256;
/// Without a log-in there is only a file or a command to wait for.
const TENANT_WAIT: Duration = Duration::from_secs(10);
