//! Tests the driver on paused time with scripted log-ins, all of which must be used; and holds settings for this folder's tests.

mod handover;
mod promises;
mod whole;

use std::{
    collections::VecDeque,
    sync::atomic::{AtomicUsize, Ordering},
    time::SystemTime,
};

use http::{HeaderMap, HeaderValue, uri::PathAndQuery};
use tokio::time::Instant;

use super::{
    credentials::Noted,
    login::{LoggingIn, Progress},
    token::{Grant, Refresh},
    watch::{CredentialChange, Differences},
    *,
};
use crate::{
    clock::{Now, instant},
    config::{self, Endpoint, Login, Origin, Scheme, Source},
    secret::Secret,
};

const LOGIN_TAKES: Duration = Duration::from_millis(200);
const FLOOR: Duration = Duration::from_secs(30);
const LIFE: Duration = Duration::from_secs(24 * 3600);
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// A clock that follows tokio's paused one, and jumps ahead when the machine is suspended.
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

    /// Sets the wall clock alone ahead.
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
    /// It brings a token of that life.
    Grant(Duration),
    /// It brings a token of that life, most of which has passed.
    HeldBack(Duration),
    Fail(LoginError),
    /// It never ends.
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
    fn log_in(&self, refresh: Option<Refresh>) -> LoggingIn {
        let number = self.script.started.fetch_add(1, Ordering::SeqCst) + 1;
        self.script.refreshed.lock().unwrap().push(refresh.is_some());
        let next = self.script.lines.lock().unwrap().pop_front();
        let (takes, what) = next.unwrap_or_else(|| panic!("log-in {number} is not in the script"));
        let organization = HeaderValue::from_static(*self.script.organization.lock().unwrap());
        let (script, clock) = (Arc::clone(&self.script), Arc::clone(&self.clock));
        let read = organization.clone();
        let rest = Box::pin(async move {
            tokio::time::sleep(takes).await;
            let outcome = match what {
                Scripted::Grant(life) | Scripted::HeldBack(life) => {
                    let age = if matches!(what, Scripted::HeldBack(_)) { life.mul_f64(0.95) } else { Duration::ZERO };
                    let now = clock.now();
                    let received = Now { moment: now.moment - age, wall: now.wall - age };
                    let exp = (received.wall + life).duration_since(SystemTime::UNIX_EPOCH).unwrap();
                    let claims = format!(r#"{{"exp":{}}}"#, exp.as_secs_f64());
                    let token = Secret::from(super::token::tests::jwt(&claims).as_str());
                    Ok(Grant {
                        token,
                        refresh: Some(Secret::from("refresh")),
                        organization,
                        server_date: None,
                        asked: received.moment,
                        received,
                    })
                }
                Scripted::Fail(error) => Err(error),
                Scripted::Hang => std::future::pending().await,
            };
            script.finished.fetch_add(1, Ordering::SeqCst);
            Progress::Ended(outcome)
        });
        Box::pin(async { Progress::OrganizationRead { organization: Some(read), rest: rest as LoggingIn } })
    }
}

/// An account with its script and clock.
struct Stage {
    account: Account,
    script: Arc<Script>,
    clock: Arc<ManualClock>,
    changes: Changes,
}

/// Reports changed files to the driver.
struct Changes(mpsc::Sender<Differences>);

impl Changes {
    async fn send(&self, change: CredentialChange) -> Result<(), mpsc::error::SendError<Differences>> {
        let field = match change {
            CredentialChange::Credentials => Field::Password,
            CredentialChange::Organization => Field::Organization,
        };
        self.0.send(vec![(field, Noted::default(), change)]).await
    }
}

impl Stage {
    fn open(lines: impl IntoIterator<Item = Scripted>) -> Self {
        Self::open_slow(lines.into_iter().map(|line| (LOGIN_TAKES, line)))
    }

    fn open_slow(lines: impl IntoIterator<Item = (Duration, Scripted)>) -> Self {
        Self::begin(Start::LogIn, lines)
    }

    fn begin(start: Start, lines: impl IntoIterator<Item = (Duration, Scripted)>) -> Self {
        let clock = ManualClock::new();
        let script = Arc::new(Script {
            lines: Mutex::new(lines.into_iter().collect()),
            started: AtomicUsize::new(0),
            finished: AtomicUsize::new(0),
            refreshed: Mutex::default(),
            organization: Mutex::new("acme"),
        });
        let sources = Sources::new(Arc::new(config()), AccountId(0)).unwrap();
        let log_in = Box::new(ScriptedLogIn { script: Arc::clone(&script), clock: Arc::clone(&clock) });
        let (changes, watched) = mpsc::channel(4);
        let watch = CredentialWatch::scripted(watched);
        let parts = Dependencies {
            start,
            clock: Arc::<ManualClock>::clone(&clock),
            jitter: Jitter::seeded(7),
            watch,
            counts: Arc::default(),
        };
        let account = Account::assemble(sources, Some(log_in), parts);
        Self { account, script, clock, changes: Changes(changes) }
    }

    /// Opens a stage whose token is old enough to be replaced.
    async fn seasoned(lines: impl IntoIterator<Item = Scripted>) -> (Self, Arc<Bearer>) {
        let first = [Scripted::Grant(LIFE)];
        let stage = Self::open(first.into_iter().chain(lines));
        let bearer = stage.account.wait_for_bearer().await.unwrap();
        stage.pass(FLOOR).await;
        (stage, bearer)
    }

    /// Lets time pass, and the driver act.
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
        self.account.snapshot().state()
    }

    async fn until(&self, state: StateName) {
        let mut snapshots = self.account.subscribe();
        let reached = timeout(DAY, snapshots.wait_for(|snapshot| snapshot.state() == Some(state))).await;
        reached.expect("in good time").expect("while the driver runs");
    }

    /// Ends the account; the whole script must have been played.
    async fn close(self) {
        self.account.shut_down().await;
        assert!(self.bearer().is_none());
        assert!(self.script.lines.lock().unwrap().is_empty(), "the script was not used up");
    }
}

/// Settings of one account, `crm`, that logs in with literals at a port where nothing listens.
pub(in crate::account) fn config() -> Config {
    Config { accounts: vec![account()], ..crate::config::fixture::config() }
}

fn account() -> config::Account {
    config::Account { name: "crm".to_owned(), organization: Source::Value(Secret::from("acme")), login: Some(login()) }
}

/// How long the tests' requests may wait for a bearer.
const TOKEN_WAIT: Duration = Duration::from_secs(10);

fn login() -> Login {
    Login {
        url: endpoint(9, "/auth"),
        refresh_url: None,
        username: Source::Value(Secret::from("ann")),
        password: Source::Value(Secret::from("s3cret")),
        username_field: "username".to_owned(),
        password_field: "password".to_owned(),
        extra: serde_json::Map::new(),
        headers: HeaderMap::new(),
        timeout: Duration::from_secs(10),
        token_wait: TOKEN_WAIT,
        relogin_floor: Duration::from_secs(30),
        relogin_on: vec![StatusCode::UNAUTHORIZED],
        assumed_life: Duration::from_secs(3600),
        token_pointer: None,
    }
}

/// An endpoint over plain HTTP on loopback.
pub(in crate::account) fn endpoint(port: u16, target: &'static str) -> Endpoint {
    let origin = Origin { scheme: Scheme::Http, host: "127.0.0.1".to_owned(), rooted: false, port };
    Endpoint { origin, target: PathAndQuery::from_static(target) }
}
