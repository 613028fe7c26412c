//! The task that owns an account's session. It handles everything that happens to the account, one event after the other.
//!
//! Guarantees: one log-in at a time, since there is one place for it; the published bearer is the one that the session
//! says is usable; when the task has ended it holds no token.

use std::{
    ops::ControlFlow,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwapOption;
use tokio::{
    sync::{Notify, mpsc, oneshot, watch},
    time::{Instant, sleep},
};

use super::{
    Start,
    failure::LoginError,
    login::{LogIn, LoggingIn, Progress},
    refusal::RefusalRecord,
    relogin_floor::ProbationOutcome,
    session::{Attempt, Effect, Event, Session, StateName},
    snapshot::{AccountSnapshot, LoginHistory},
    terms::AccountIdentity,
    token::{Bearer, Generation, Grant, Token},
    transition_log::{TransitionLog, log_credential_change},
    watch::{CredentialChange, CredentialWatch},
};
use crate::{
    clock::{self, Clock, Jitter, Now},
    metrics::{AccountMetrics, LoginOutcome},
};

/// The driver looks at the clocks at least this often.
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// A shorter gap between clocks is not taken for a suspend.
const SUSPEND_MIN: Duration = Duration::from_secs(5);
/// At most this many explicit log-ins wait for the one in flight.
const WAITING_MAX: usize = 64;

/// A request to the driver. It answers after it has published what changed.
pub(super) enum DriverRequest {
    Reconfigure(Box<AccountSettings>, oneshot::Sender<()>),
    LogIn(oneshot::Sender<Result<(), LogInFailed>>),
    LogOut(oneshot::Sender<()>),
    /// The answer tells whether a log-in has begun.
    Unauthorized(Generation, oneshot::Sender<bool>),
    ShutDown,
}

/// What a reload changes for the driver.
pub(super) struct AccountSettings {
    pub(super) log_in: Box<dyn LogIn>,
    pub(super) assumed_life: Duration,
    pub(super) relogin_floor: Duration,
    /// A new watch, when the sources have changed.
    pub(super) watch: Option<CredentialWatch>,
    /// Whether a log-in sends the same as before.
    pub(super) same_log_in: bool,
}

/// Why an explicit log-in brought no token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LogInFailed {
    /// The attempt failed.
    #[error(transparent)]
    Failed(#[from] LoginError),
    /// A log-out came in between, and wins.
    #[error("the account was logged out meanwhile")]
    LoggedOut,
    /// Too many others wait for the log-in in flight.
    #[error("too many log-ins are waiting for an answer")]
    Busy,
    /// The daemon is going down, or a reload has replaced the account.
    #[error("the account has been shut down")]
    Ended,
}

/// Signals from requests to the driver: verdicts on a token, and wake-ups. Any number of them is one wake-up, so requests
/// never wait here.
#[derive(Default)]
pub(super) struct Signals {
    /// What answers said of the latest token. The driver reads it at each step; it wakes nobody.
    pub(super) refusal: RefusalRecord,
    accepted: AtomicU64,
    rejected_again: AtomicU64,
    /// The token of which the driver wants to know whether it works; 0: none.
    unproven: AtomicU64,
    worked: AtomicU64,
    wake: Notify,
}

impl Signals {
    pub(super) fn accepted(&self, by: Generation) {
        self.accepted.fetch_max(by.0, Ordering::Relaxed);
        self.wake.notify_one();
    }

    pub(super) fn rejected_again(&self, by: Generation) {
        self.rejected_again.fetch_max(by.0, Ordering::Relaxed);
        self.wake.notify_one();
    }

    /// A request was answered with token `by`. It costs a load of an atomic, but for the first answer to a token on probation.
    pub(super) fn answered(&self, by: Generation) {
        self.refusal.answered(by);
        let unproven = self.unproven.load(Ordering::Relaxed);
        if unproven != 0 && unproven == by.0 {
            self.unproven.store(0, Ordering::Relaxed);
            self.worked.fetch_max(by.0, Ordering::Relaxed);
            self.wake.notify_one();
        }
    }

    /// Has the driver look at the clock.
    pub(super) fn wake(&self) {
        self.wake.notify_one();
    }
}

/// What the driver publishes, and everybody else reads.
pub(super) struct Published {
    /// The account whose bearers these are.
    pub(super) identity: AccountIdentity,
    pub(super) bearer: Arc<ArcSwapOption<Bearer>>,
    pub(super) snapshot: watch::Sender<AccountSnapshot>,
    /// Wakes the requests that wait, in the order in which they came.
    pub(super) changed: Arc<Notify>,
}

impl Published {
    /// Publishes the bearer first, so that a reader whom the snapshot wakes finds it.
    pub(super) fn publish(&self, bearer: Option<&Arc<Bearer>>, snapshot: AccountSnapshot) {
        let published = self.bearer.load().as_ref().map(|bearer| bearer.generation);
        if published != bearer.map(|bearer| bearer.generation) {
            self.bearer.store(bearer.cloned());
        }
        let has_changed = self.snapshot.send_if_modified(|before| {
            let differs = *before != snapshot;
            *before = snapshot;
            differs
        });
        if has_changed {
            self.changed.notify_waiters();
        }
    }
}

impl Drop for Published {
    fn drop(&mut self) {
        self.bearer.store(None);
        self.snapshot.send_modify(|snapshot| *snapshot = snapshot.ended());
        self.changed.notify_waiters();
    }
}

/// The task of an account that logs in.
pub(super) struct Driver {
    pub(super) name: String,
    pub(super) session: Session,
    pub(super) log_in: Box<dyn LogIn>,
    pub(super) assumed_life: Duration,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) jitter: Jitter,
    pub(super) published: Published,
    pub(super) signals: Arc<Signals>,
    pub(super) watch: CredentialWatch,
    pub(super) requests: mpsc::Receiver<DriverRequest>,
    pub(super) counts: Arc<AccountMetrics>,
}

impl Driver {
    /// Does what `start` says, and goes on until it is told to stop or every handle is gone.
    pub(super) async fn run(self, start: Start) {
        let suspend = SuspendDetector { now: self.clock.now(), instant: clock::instant() };
        let mut active = ActiveDriver {
            driver: self,
            attempt: None,
            waiting: Vec::new(),
            suspend,
            history: LoginHistory::default(),
            transition_log: TransitionLog::default(),
        };
        active.step(match start {
            Start::LogIn => Event::LogIn,
            Start::StayLoggedOut => Event::Tick,
        });
        while active.turn().await.is_continue() {}
    }
}

/// A driver that runs, and its work in progress.
struct ActiveDriver {
    driver: Driver,
    attempt: Option<(Attempt, LoggingIn)>,
    /// Explicit log-ins that wait for the one in flight.
    waiting: Vec<oneshot::Sender<Result<(), LogInFailed>>>,
    suspend: SuspendDetector,
    history: LoginHistory,
    transition_log: TransitionLog,
}

impl From<CredentialChange> for Event {
    fn from(change: CredentialChange) -> Self {
        match change {
            CredentialChange::Credentials => Self::CredentialsChanged,
            CredentialChange::Organization => Self::OrganizationChanged,
        }
    }
}

impl ActiveDriver {
    /// Handles the next thing that happens, then what is due. `Break`: the account is shut down.
    async fn turn(&mut self) -> ControlFlow<()> {
        let pause = self.pause();
        tokio::select! {
            biased;
            request = self.driver.requests.recv() => match request {
                Some(DriverRequest::ShutDown) | None => return ControlFlow::Break(()),
                Some(request) => self.serve(request),
            },
            (attempt, progress) = progress_of(&mut self.attempt) => self.progressed(attempt, progress),
            change = self.driver.watch.changed() => {
                log_credential_change(&self.driver.name, &self.driver.session, change);
                self.step(change.into());
            }
            () = self.driver.signals.wake.notified() => self.take_verdicts(),
            () = sleep(pause) => {}
        }
        let resumed = self.suspend.advance(self.driver.clock.now());
        self.step(if resumed { Event::Resumed } else { Event::Tick });
        ControlFlow::Continue(())
    }

    /// The time until the session's deadline, but never long: this timer stands still while the machine is suspended.
    fn pause(&self) -> Duration {
        let now = self.driver.clock.now().moment;
        self.driver.session.deadline().map_or(PAUSE_MAX, |deadline| deadline.since(now).min(PAUSE_MAX))
    }

    /// Serves one request. Its sender may have gone; then nobody needs the answer.
    fn serve(&mut self, request: DriverRequest) {
        // Those that gave up must not count against the limit.
        self.waiting.retain(|waiting| !waiting.is_closed());
        match request {
            DriverRequest::LogIn(answer) if self.waiting.len() >= WAITING_MAX => {
                answer.send(Err(LogInFailed::Busy)).ok();
            }
            DriverRequest::LogIn(answer) => {
                self.step(Event::LogIn);
                self.waiting.push(answer);
            }
            DriverRequest::LogOut(answer) => {
                self.step(Event::LogOut);
                self.answer_waiting(&Err(LogInFailed::LoggedOut));
                answer.send(()).ok();
            }
            DriverRequest::Unauthorized(refused, answer) => {
                let before = self.driver.session.attempt();
                self.step(Event::Unauthorized(refused));
                let now = self.driver.session.attempt();
                answer.send(now.is_some() && now != before).ok();
            }
            DriverRequest::Reconfigure(settings, answer) => {
                self.reconfigure(*settings);
                answer.send(()).ok();
            }
            DriverRequest::ShutDown => {}
        }
    }

    fn reconfigure(&mut self, settings: AccountSettings) {
        let AccountSettings { log_in, assumed_life, relogin_floor, watch, same_log_in } = settings;
        self.driver.log_in = log_in;
        self.driver.assumed_life = assumed_life;
        self.driver.session.set_relogin_floor(relogin_floor);
        if let Some(watch) = watch {
            self.driver.watch = watch;
        }
        // New settings may cure a failed connection, so try at once.
        let may_help = self.driver.session.last_error().is_some_and(|error| !error.is_the_servers_word());
        if !same_log_in || may_help {
            self.step(Event::CredentialsChanged);
        }
    }

    fn take_verdicts(&mut self) {
        let rejected_again = self.driver.signals.rejected_again.swap(0, Ordering::Relaxed);
        let accepted = self.driver.signals.accepted.swap(0, Ordering::Relaxed);
        let worked = self.driver.signals.worked.swap(0, Ordering::Relaxed);
        // No log-in has the number zero.
        if worked > 0 {
            self.step(Event::Verdict(ProbationOutcome::Worked, Generation(worked)));
        }
        if rejected_again > 0 {
            self.step(Event::Verdict(ProbationOutcome::RejectedAgain, Generation(rejected_again)));
        }
        if accepted > 0 {
            self.step(Event::Verdict(ProbationOutcome::Accepted, Generation(accepted)));
        }
    }

    /// The log-in in flight has read the organization, or has ended. It goes on only after the session has heard of the
    /// organization: no request carries another one once the log-in connects.
    fn progressed(&mut self, attempt: Attempt, progress: Progress) {
        match progress {
            Progress::OrganizationRead { organization, rest } => {
                self.attempt = Some((attempt, rest));
                if self.driver.session.token().is_some_and(|token| !token.is_of(organization.as_ref())) {
                    log_credential_change(&self.driver.name, &self.driver.session, CredentialChange::Organization);
                }
                self.step(Event::OrganizationRead(attempt, organization));
            }
            Progress::Ended(outcome) => self.ended(attempt, outcome),
        }
    }

    fn ended(&mut self, attempt: Attempt, outcome: Result<Grant, LoginError>) {
        self.attempt = None;
        let life = self.driver.assumed_life;
        let (identity, generation) = (self.driver.published.identity, attempt.generation());
        if let Ok(Grant { server_date: Some(server), received, .. }) = &outcome {
            self.transition_log.compare_clocks(&self.driver.name, *server, received.wall);
        }
        let outcome = outcome.and_then(|grant| Token::read(grant, identity, generation, life).map_err(LoginError::Malformed));
        let now = self.advance(Event::Ended(attempt, outcome));
        // The session has judged the token by now: it may have expired on the way, or be so old that the next log-in has begun.
        let session = &self.driver.session;
        if session.token().is_some_and(|token| token.bearer.generation == generation) {
            (self.history.succeeded_at, self.history.error) = (Some(now.wall), None);
        } else {
            self.history.failed_at = Some(now.wall);
        }
        self.tell(now);
        let error = self.history.error.as_ref();
        self.driver.counts.logged_in(error.map_or(LoginOutcome::Ok, LoginError::outcome));
        let answer = error.cloned().map_or(Ok(()), |error| Err(LogInFailed::Failed(error)));
        self.answer_waiting(&answer);
    }

    fn answer_waiting(&mut self, answer: &Result<(), LogInFailed>) {
        for waiting in self.waiting.drain(..) {
            waiting.send(answer.clone()).ok();
        }
    }

    /// Has the session handle an event, carries out its effect, and publishes and logs the result.
    fn step(&mut self, event: Event) {
        let now = self.advance(event);
        self.tell(now);
    }

    /// Has the session handle an event, and carries out its effect.
    fn advance(&mut self, event: Event) -> Now {
        let now = self.driver.clock.now();
        self.driver.session.set_refusal(self.driver.signals.refusal.current());
        let effect = self.driver.session.step(event, now.moment, &mut self.driver.jitter);
        debug_assert_eq!(self.driver.session.check_invariants(now.moment), Ok(()));
        match effect {
            Some(Effect::StartLogin { attempt, refresh }) => {
                self.attempt = Some((attempt, self.driver.log_in.log_in(refresh)));
                self.history.in_flight_since = Some(now.moment);
            }
            // After a log-out nobody waits for it: a token that it brings is wiped unread.
            None if self.driver.session.attempt().is_none() => self.attempt = None,
            None => {}
        }
        if self.attempt.is_none() {
            self.history.in_flight_since = None;
        }
        now
    }

    /// Publishes and logs how the session is.
    fn tell(&mut self, now: Now) {
        self.update_history(now);
        self.publish(now);
        self.transition_log.log(&self.driver.name, &self.driver.session, now.moment);
    }

    /// Keeps the latest failure, and the time of the first, until a log-in succeeds or the account is logged out.
    fn update_history(&mut self, now: Now) {
        let session = &self.driver.session;
        match session.last_error() {
            Some(error) if self.history.error.as_ref() != Some(error) => self.history.error = Some(error.clone()),
            None if matches!(session.name(), StateName::Ready | StateName::LoggedOut) => self.history.error = None,
            _ => {}
        }
        let LoginHistory { error, failing_since, logged_out_at, .. } = &mut self.history;
        *failing_since = error.is_some().then(|| failing_since.unwrap_or(now.wall));
        *logged_out_at = (session.name() == StateName::LoggedOut).then(|| logged_out_at.unwrap_or(now.wall));
    }

    fn publish(&self, now: Now) {
        let session = &self.driver.session;
        let bearer = session.usable(now.moment).map(|token| &token.bearer);
        let unproven = session.probation().filter(|probation| probation.is_open_to(ProbationOutcome::Worked));
        self.driver.signals.unproven.store(unproven.map_or(0, |probation| probation.generation.0), Ordering::Relaxed);
        self.driver.published.publish(bearer, AccountSnapshot::of(session, &self.history));
    }
}

/// Waits for the next progress of the log-in in flight; for ever when there is none.
async fn progress_of(attempt: &mut Option<(Attempt, LoggingIn)>) -> (Attempt, Progress) {
    match attempt {
        Some((number, log_in)) => (*number, log_in.await),
        None => std::future::pending().await,
    }
}

/// Compares clocks that count a suspend with one that does not.
struct SuspendDetector {
    now: Now,
    instant: Instant,
}

impl SuspendDetector {
    /// Whether the machine was suspended since the last call. Where no monotonic clock counts that (macOS), the wall clock's
    /// jump tells.
    fn advance(&mut self, now: Now) -> bool {
        let instant = clock::instant();
        let awake = instant.duration_since(self.instant);
        let wall = now.wall.duration_since(self.now.wall).unwrap_or_default();
        let passed = now.moment.since(self.now.moment).max(wall);
        *self = Self { now, instant };
        passed > awake + SUSPEND_MIN
    }
}
