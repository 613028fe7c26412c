//! The task that owns an account's session: everything that happens to it happens here, one thing after the other.
//!
//! Depends on everything before it in this folder. Guarantees: one log-in at a time, since there is one place for it; what
//! is published is what the session says is usable; when the task has ended, its token is wiped. It keeps no lock.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwapOption;
use tokio::{
    sync::{Notify, mpsc, oneshot, watch},
    time::{Instant, sleep},
};

use super::{
    failure::LoginError,
    login::{LogIn, LoggingIn},
    phase::{Held, Outlook, Phase},
    session::{Attempt, Effect, Event, Session, StateName},
    token::{Bearer, Generation, Grant, Token},
    transition_log::{TransitionLog, tell_of_change},
    watch::{CredentialChange, Watch},
};
use crate::{
    clock::{self, Clock, Jitter, Now},
    metrics::{AccountMetrics, LoginOutcome},
};

/// What is asked of the driver. Each carries a way to answer, after what it changed was published.
pub(super) enum DriverRequest {
    Reconfigure(Box<AccountSettings>, oneshot::Sender<()>),
    LogIn(oneshot::Sender<Result<(), LogInFailed>>),
    LogOut(oneshot::Sender<()>),
    Unauthorized(Generation, oneshot::Sender<()>),
    ShutDown,
}

/// What a reload changes.
pub(super) struct AccountSettings {
    pub(super) log_in: Box<dyn LogIn>,
    pub(super) assumed_life: Duration,
    pub(super) relogin_floor: Duration,
    /// Where there is something else to watch.
    pub(super) watch: Option<Watch>,
    /// What the token at hand is no longer good for.
    pub(super) change: Option<CredentialChange>,
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
    /// Too many are waiting for the same.
    #[error("too many log-ins are waiting for an answer")]
    Busy,
    /// The daemon is going down.
    #[error("the account has been shut down")]
    Ended,
}

/// Verdicts on a token, and a knock: any number of them is one wake-up.
#[derive(Default)]
pub(super) struct Signals {
    cured: AtomicU64,
    uncured: AtomicU64,
    wake: Notify,
}

impl Signals {
    pub(super) fn cured(&self, by: Generation) {
        self.cured.fetch_max(by.0, Ordering::Relaxed);
        self.wake.notify_one();
    }

    pub(super) fn uncured(&self, by: Generation) {
        self.uncured.fetch_max(by.0, Ordering::Relaxed);
        self.wake.notify_one();
    }

    /// Have the driver look at the clock.
    pub(super) fn wake(&self) {
        self.wake.notify_one();
    }
}

/// Where everybody looks.
pub(super) struct Published {
    pub(super) current: Arc<ArcSwapOption<Bearer>>,
    pub(super) phase: watch::Sender<Phase>,
}

impl Published {
    /// The bearer first: who sees the phase finds it.
    pub(super) fn publish(&self, bearer: Option<&Arc<Bearer>>, phase: Phase) {
        let published = self.current.load().as_ref().map(|bearer| bearer.generation);
        if published != bearer.map(|bearer| bearer.generation) {
            self.current.store(bearer.cloned());
        }
        self.phase.send_if_modified(|before| {
            let differs = *before != phase;
            *before = phase;
            differs
        });
    }
}

impl Drop for Published {
    fn drop(&mut self) {
        self.current.store(None);
        self.phase.send_modify(|phase| {
            *phase = Phase { outlook: Outlook::Ended, ..Phase::new(phase.state.and(Some(StateName::LoggedOut))) };
        });
    }
}

/// An account that logs in.
pub(super) struct Driver {
    pub(super) name: String,
    pub(super) session: Session,
    pub(super) log_in: Box<dyn LogIn>,
    pub(super) assumed_life: Duration,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) jitter: Jitter,
    pub(super) published: Published,
    pub(super) signals: Arc<Signals>,
    pub(super) watch: Watch,
    pub(super) requests: mpsc::Receiver<DriverRequest>,
    pub(super) counts: Arc<AccountMetrics>,
}

impl Driver {
    /// Logs in, and goes on until it is told to stop or nobody is left to tell it.
    pub(super) async fn run(self) {
        let suspend = SuspendDetector { now: self.clock.now(), instant: clock::instant() };
        let mut work = Work {
            driver: self,
            attempt: None,
            asked: Vec::new(),
            suspend,
            last_login_at: None,
            last_error: None,
            failed_at: None,
            transition_log: TransitionLog::default(),
        };
        work.feed(Event::LogIn);
        while work.turn().await == Turn::GoOn {}
    }
}

/// The driver with what it is busy with.
struct Work {
    driver: Driver,
    attempt: Option<(Attempt, LoggingIn)>,
    /// Who waits for the log-in in flight.
    asked: Vec<oneshot::Sender<Result<(), LogInFailed>>>,
    suspend: SuspendDetector,
    last_login_at: Option<SystemTime>,
    last_error: Option<LoginError>,
    /// When an attempt failed last.
    failed_at: Option<SystemTime>,
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

#[derive(PartialEq, Eq)]
enum Turn {
    GoOn,
    Stop,
}

impl Work {
    async fn turn(&mut self) -> Turn {
        let pause = self.pause();
        tokio::select! {
            biased;
            request = self.driver.requests.recv() => match request {
                Some(DriverRequest::ShutDown) | None => return Turn::Stop,
                Some(request) => self.serve(request),
            },
            (attempt, outcome) = land(&mut self.attempt) => self.landed(attempt, outcome),
            change = self.driver.watch.changed() => {
                tell_of_change(&self.driver.name, &self.driver.session, change);
                self.feed(change.into());
            }
            () = self.driver.signals.wake.notified() => self.hear_verdicts(),
            () = sleep(pause) => {}
        }
        let resumed = self.suspend.advance(self.driver.clock.now());
        self.feed(if resumed { Event::Resumed } else { Event::Tick });
        Turn::GoOn
    }

    /// Never long: this timer stands still while the machine is suspended.
    fn pause(&self) -> Duration {
        let now = self.driver.clock.now().moment;
        self.driver.session.deadline().map_or(PAUSE_MAX, |deadline| deadline.since(now).min(PAUSE_MAX))
    }

    fn serve(&mut self, request: DriverRequest) {
        // Whoever gave up waiting takes no place.
        self.asked.retain(|asked| !asked.is_closed());
        // Whoever asked may have gone; then nobody needs the answer.
        match request {
            DriverRequest::LogIn(answer) if self.asked.len() >= ASKED_MAX => {
                answer.send(Err(LogInFailed::Busy)).ok();
            }
            DriverRequest::LogIn(answer) => {
                self.feed(Event::LogIn);
                self.asked.push(answer);
            }
            DriverRequest::LogOut(answer) => {
                self.feed(Event::LogOut);
                self.answer_asked(&Err(LogInFailed::LoggedOut));
                answer.send(()).ok();
            }
            DriverRequest::Unauthorized(refused, answer) => {
                self.feed(Event::Unauthorized(refused));
                answer.send(()).ok();
            }
            DriverRequest::Reconfigure(settings, answer) => {
                self.reconfigure(*settings);
                answer.send(()).ok();
            }
            DriverRequest::ShutDown => {}
        }
    }

    fn reconfigure(&mut self, settings: AccountSettings) {
        let AccountSettings { log_in, assumed_life, relogin_floor, watch, change } = settings;
        self.driver.log_in = log_in;
        self.driver.assumed_life = assumed_life;
        self.driver.session.set_floor(relogin_floor);
        if let Some(watch) = watch {
            self.driver.watch = watch;
        }
        // What failed for want of trust or of a way may be good now. A refusal is not asked for again so easily: it may
        // lock the account.
        let session = &self.driver.session;
        let may_help = session.last_error().is_some() && session.name() != StateName::Rejected;
        if let Some(change) = change.or(may_help.then_some(CredentialChange::Credentials)) {
            self.feed(change.into());
        }
    }

    fn hear_verdicts(&mut self) {
        let uncured = self.driver.signals.uncured.swap(0, Ordering::Relaxed);
        let cured = self.driver.signals.cured.swap(0, Ordering::Relaxed);
        // No log-in has the number zero.
        if uncured > 0 {
            self.feed(Event::RejectedAgain(Generation(uncured)));
        }
        if cured > 0 {
            self.feed(Event::Accepted(Generation(cured)));
        }
    }

    fn landed(&mut self, attempt: Attempt, outcome: Result<Grant, LoginError>) {
        self.attempt = None;
        let life = self.driver.assumed_life;
        let outcome = outcome.and_then(|grant| Token::read(grant, attempt.generation(), life).map_err(LoginError::Malformed));
        let now = Some(self.driver.clock.now().wall);
        *(if outcome.is_ok() { &mut self.last_login_at } else { &mut self.failed_at }) = now;
        self.feed(Event::Landed(attempt, outcome));
        // As the session judged it: a token may have been too old when it landed.
        let error = self.last_error.as_ref();
        self.driver.counts.logged_in(error.map_or(LoginOutcome::Ok, LoginError::outcome));
        let answer = self.last_error.clone().map_or(Ok(()), |error| Err(LogInFailed::Failed(error)));
        self.answer_asked(&answer);
    }

    fn answer_asked(&mut self, answer: &Result<(), LogInFailed>) {
        for asked in self.asked.drain(..) {
            asked.send(answer.clone()).ok();
        }
    }

    /// One step of the session, what it asks for, and the transition_log of it.
    fn feed(&mut self, event: Event) {
        let now = self.driver.clock.now();
        let effect = self.driver.session.step(event, now.moment, &mut self.driver.jitter);
        debug_assert_eq!(self.driver.session.check_invariants(now.moment), Ok(()));
        match effect {
            Some(Effect::StartLogin { attempt, refresh }) => {
                self.attempt = Some((attempt, self.driver.log_in.log_in(refresh)));
            }
            // After a log-out nobody waits for it: what it brings is wiped unseen.
            None if self.driver.session.attempt().is_none() => self.attempt = None,
            None => {}
        }
        self.remember_error();
        self.publish(now);
        self.transition_log.tell(&self.driver.name, &self.driver.session, now.moment);
    }

    /// The latest failure stays in sight until something ends it.
    fn remember_error(&mut self) {
        let session = &self.driver.session;
        match session.last_error() {
            Some(error) if self.last_error.as_ref() != Some(error) => self.last_error = Some(error.clone()),
            None if matches!(session.name(), StateName::Ready | StateName::LoggedOut) => self.last_error = None,
            _ => {}
        }
    }

    fn publish(&self, now: Now) {
        let session = &self.driver.session;
        let usable = session.usable(now.moment);
        let phase = Phase {
            state: Some(session.name()),
            outlook: outlook(session, usable),
            held: session.token().map(|token| Held {
                generation: token.generation(),
                expires: token.expires,
                usable_until: token.usable_until,
            }),
            complaints: session.complaints(),
            probation: session.probation(),
            due_at: session.due_at(),
            last_login_at: self.last_login_at,
            last_error: self.last_error.clone(),
            last_error_at: self.last_error.as_ref().and(self.failed_at),
        };
        self.driver.published.publish(usable.map(|token| &token.bearer), phase);
    }
}

fn outlook(session: &Session, usable: Option<&Token>) -> Outlook {
    if usable.is_some() {
        return Outlook::Usable;
    }
    match (session.name(), session.due_at()) {
        (StateName::LoggedOut, _) => Outlook::LoggedOut,
        (StateName::Rejected, Some(until)) => Outlook::RejectedUntil(until),
        (_, Some(until)) => Outlook::AttemptAt(until),
        (_, None) => Outlook::Pending,
    }
}

/// The end of the log-in in flight; never, when there is none.
async fn land(attempt: &mut Option<(Attempt, LoggingIn)>) -> (Attempt, Result<Grant, LoginError>) {
    match attempt {
        Some((number, log_in)) => (*number, log_in.await),
        None => std::future::pending().await,
    }
}

/// The last look at the clocks: those that count a suspend, and the one that doesn't.
struct SuspendDetector {
    now: Now,
    instant: Instant,
}

impl SuspendDetector {
    /// Whether the machine slept since the last look. Where no clock counts that (macOS), the wall clock's jump tells.
    fn advance(&mut self, now: Now) -> bool {
        let instant = clock::instant();
        let awake = instant.duration_since(self.instant);
        let wall = now.wall.duration_since(self.now.wall).unwrap_or_default();
        let passed = now.moment.since(self.now.moment).max(wall);
        *self = Self { now, instant };
        passed > awake + SUSPEND_MIN
    }
}

const PAUSE_MAX: Duration = Duration::from_secs(30);
const SUSPEND_MIN: Duration = Duration::from_secs(5);
const ASKED_MAX: usize = 64;
