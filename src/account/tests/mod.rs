//! The driver on paused time, with a scripted log-in that must be used up.

mod scenes;
mod whole;

use std::{
    collections::VecDeque,
    sync::atomic::{AtomicUsize, Ordering},
    time::SystemTime,
};

use http::HeaderValue;
use tokio::time::Instant;

use super::{fixture, login::LoggingIn, token::Grant, watch::CredentialChange, *};
use crate::{
    clock::{Now, instant},
    secret::Secret,
};

/// Follows tokio's paused clock, and jumps ahead when the machine sleeps.
pub(super) struct ManualClock {
    started: Instant,
    slept: Mutex<Duration>,
    stepped: Mutex<Duration>,
}

impl ManualClock {
    fn new() -> Arc<Self> {
        Arc::new(Self { started: instant(), slept: Mutex::default(), stepped: Mutex::default() })
    }

    fn suspend(&self, asleep: Duration) {
        *self.slept.lock().unwrap() += asleep;
    }

    /// The wall clock alone is set ahead.
    fn step_wall(&self, ahead: Duration) {
        *self.stepped.lock().unwrap() += ahead;
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Now {
        let passed = instant() - self.started + *self.slept.lock().unwrap();
        let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000) + passed + *self.stepped.lock().unwrap();
        Now { moment: Moment::new(Duration::from_secs(1000) + passed), wall }
    }
}

/// What the next log-in does, and how long it takes.
#[derive(Clone, Debug)]
enum Scripted {
    /// A token of that life.
    Grant(Duration),
    Fail(LoginError),
    /// Nothing ever.
    Hang,
}

struct Script {
    lines: Mutex<VecDeque<(Duration, Scripted)>>,
    started: AtomicUsize,
    finished: AtomicUsize,
    /// Whether each log-in was given a refresh token.
    refreshed: Mutex<Vec<bool>>,
    organization: Mutex<&'static str>,
}

struct ScriptedLogIn {
    script: Arc<Script>,
    clock: Arc<ManualClock>,
}

impl LogIn for ScriptedLogIn {
    fn log_in(&self, refresh: Option<Arc<Secret>>) -> LoggingIn {
        let number = self.script.started.fetch_add(1, Ordering::SeqCst) + 1;
        self.script.refreshed.lock().unwrap().push(refresh.is_some());
        let next = self.script.lines.lock().unwrap().pop_front();
        let (takes, what) = next.unwrap_or_else(|| panic!("log-in {number} is not in the script"));
        let organization = HeaderValue::from_static(*self.script.organization.lock().unwrap());
        let (script, clock) = (Arc::clone(&self.script), Arc::clone(&self.clock));
        Box::pin(async move {
            tokio::time::sleep(takes).await;
            let outcome = match what {
                Scripted::Grant(life) => {
                    let received = clock.now();
                    let exp = (received.wall + life).duration_since(SystemTime::UNIX_EPOCH).unwrap();
                    let claims = format!(r#"{{"exp":{}}}"#, exp.as_secs_f64());
                    let token = Secret::from(super::token::tests::jwt(&claims).as_str());
                    Ok(Grant { token, refresh: Some(Secret::from("refresh")), organization, server_date: None, received })
                }
                Scripted::Fail(error) => Err(error),
                Scripted::Hang => std::future::pending().await,
            };
            script.finished.fetch_add(1, Ordering::SeqCst);
            outcome
        })
    }
}

/// An account in a story.
struct Stage {
    account: Account,
    script: Arc<Script>,
    clock: Arc<ManualClock>,
    changes: mpsc::Sender<CredentialChange>,
}

impl Stage {
    fn open(lines: impl IntoIterator<Item = Scripted>) -> Self {
        Self::open_slow(lines.into_iter().map(|line| (LOGIN_TAKES, line)))
    }

    fn open_slow(lines: impl IntoIterator<Item = (Duration, Scripted)>) -> Self {
        let clock = ManualClock::new();
        let script = Arc::new(Script {
            lines: Mutex::new(lines.into_iter().collect()),
            started: AtomicUsize::new(0),
            finished: AtomicUsize::new(0),
            refreshed: Mutex::default(),
            organization: Mutex::new("acme"),
        });
        let sources = Sources::new(Arc::new(fixture::config()), AccountId(0)).unwrap();
        let log_in = Box::new(ScriptedLogIn { script: Arc::clone(&script), clock: Arc::clone(&clock) });
        let (changes, watched) = mpsc::channel(4);
        let watch = Watch::scripted(watched);
        let parts =
            Dependencies { clock: Arc::<ManualClock>::clone(&clock), jitter: Jitter::seeded(7), watch, counts: Arc::default() };
        let account = Account::assemble(sources, Some(log_in), parts);
        Self { account, script, clock, changes }
    }

    /// With a token that is old enough to be replaced.
    async fn seasoned(lines: impl IntoIterator<Item = Scripted>) -> (Self, Arc<Bearer>) {
        let first = [Scripted::Grant(LIFE)];
        let stage = Self::open(first.into_iter().chain(lines));
        let bearer = stage.account.wait_for_bearer().await.unwrap();
        stage.pass(FLOOR).await;
        (stage, bearer)
    }

    /// Lets time go by, and the driver with it.
    async fn pass(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }

    fn bearer(&self) -> Option<Arc<Bearer>> {
        self.account.bearer(self.clock.now().moment)
    }

    fn log_ins(&self) -> usize {
        self.script.started.load(Ordering::SeqCst)
    }

    fn state(&self) -> Option<StateName> {
        self.account.status().state
    }

    async fn until(&self, state: StateName) {
        let mut phase = self.account.subscribe();
        let reached = timeout(DAY, phase.wait_for(|phase| phase.state() == Some(state))).await;
        reached.expect("in good time").expect("while the driver runs");
    }

    /// Ends the story: the whole script must have been played.
    async fn close(self) {
        self.account.shut_down().await;
        assert!(self.bearer().is_none());
        assert!(self.script.lines.lock().unwrap().is_empty(), "the script was not used up");
    }
}

const LOGIN_TAKES: Duration = Duration::from_millis(200);
const FLOOR: Duration = Duration::from_secs(30);
const LIFE: Duration = Duration::from_secs(24 * 3600);
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 3600);
