//! Holds the state of a running simulator: settings, tokens, users, records and open connections.
//!
//! It knows nothing of routes. Every lock is held only for the duration of one method or one statement of a caller.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::sync::watch;

#[cfg(feature = "import")]
use crate::route_table::RouteTable;
use crate::{
    clock,
    connection::ConnectionRegistry,
    fault::LoginFault,
    pattern::Pattern,
    record::{Recorder, RequestListener},
    store::Store,
    sync::{ChangeSignal, lock},
    tokens::Tokens,
};

/// The last time that `now` returns: the end of the year 9998, since `Date` has four digits for the year.
const LAST_DATE: Duration = Duration::from_secs(253_370_764_800);

/// The users that the README names: organization, user name and password.
pub(crate) const DEMO_USERS: [(&str, &str, &str); 2] =
    [("demo", "service@demo.example.test", "demo-password-1"), ("other", "service@other.example.test", "other-password-1")];

/// The state of one simulator; [`Control`](crate::Control) is a handle to it.
pub(crate) struct SimulatorState {
    /// The address where clients connect.
    pub(crate) address: SocketAddr,
    /// After this time a connection without a request in flight is closed.
    pub(crate) keep_alive_for: Option<Duration>,
    /// Is told of each request that is over.
    pub(crate) on_request: Option<RequestListener>,
    settings: Mutex<Settings>,
    /// The routes that a team has set.
    #[cfg(feature = "import")]
    pub(crate) routes: Mutex<RouteTable>,
    /// Notified of everything that a test may wait for.
    pub(crate) changes: Arc<ChangeSignal>,
    pub(crate) tokens: Mutex<Tokens>,
    pub(crate) store: Mutex<Store>,
    pub(crate) recorder: Recorder,
    pub(crate) connections: Arc<ConnectionRegistry>,
    pub(crate) pattern: Pattern,
    /// Whether new connections are served.
    pub(crate) accepting: watch::Sender<bool>,
    /// Whether log-ins wait before they are answered.
    pub(crate) logins_held: watch::Sender<bool>,
    /// Whether all other requests wait before they are admitted.
    pub(crate) requests_held: watch::Sender<bool>,
}

/// The settings that can change while the simulator runs.
pub(crate) struct Settings {
    /// How long new tokens live; only whole seconds count.
    pub(crate) token_life: Duration,
    /// Passwords, by organization and user name.
    pub(crate) credentials: BTreeMap<(String, String), String>,
    /// The names of the two fields of a log-in's body.
    pub(crate) login_fields: (String, String),
    /// The fault of every log-in.
    pub(crate) login_fault: Option<LoginFault>,
    /// Faults of the next log-ins, with how many each has left; they come before `login_fault`.
    pub(crate) next_faults: VecDeque<(u32, LoginFault)>,
    pub(crate) login_delay: Duration,
    pub(crate) latency: Duration,
    /// How many seconds the simulator's clock is ahead.
    pub(crate) clock_offset: i64,
    pub(crate) omit_date: bool,
    /// Whether `POST /users` answers with a token of the patient that it created.
    pub(crate) new_user_token: bool,
    pub(crate) http2: bool,
    /// `SETTINGS_MAX_CONCURRENT_STREAMS` of new HTTP/2 connections; `None` sends none.
    pub(crate) max_concurrent_streams: Option<u32>,
}

impl SimulatorState {
    /// A new state with a new key for tokens.
    ///
    /// # Errors
    ///
    /// The system has no randomness for the key.
    pub(crate) fn new(
        address: SocketAddr,
        keep_alive_for: Option<Duration>,
        on_request: Option<RequestListener>,
        settings: Settings,
    ) -> io::Result<Self> {
        let changes = Arc::new(ChangeSignal::default());
        Ok(Self {
            address,
            keep_alive_for,
            on_request,
            settings: Mutex::new(settings),
            #[cfg(feature = "import")]
            routes: Mutex::default(),
            tokens: Mutex::new(Tokens::new()?),
            store: Mutex::default(),
            recorder: Recorder::new(Arc::clone(&changes)),
            connections: Arc::new(ConnectionRegistry::new(Arc::clone(&changes))),
            changes,
            pattern: Pattern::new(),
            accepting: watch::Sender::new(true),
            logins_held: watch::Sender::new(false),
            requests_held: watch::Sender::new(false),
        })
    }

    /// Changes the settings.
    pub(crate) fn set<T>(&self, change: impl FnOnce(&mut Settings) -> T) {
        change(&mut lock(&self.settings));
    }

    /// Reads the settings.
    pub(crate) fn settings<T>(&self, read: impl FnOnce(&Settings) -> T) -> T {
        read(&lock(&self.settings))
    }

    /// The simulator's own time, moved by the clock offset.
    pub(crate) fn now(&self) -> SystemTime {
        let offset = self.settings(|settings| settings.clock_offset);
        let distance = Duration::from_secs(offset.unsigned_abs());
        let real = clock::time_of_day();
        let moved = if offset < 0 { real.checked_sub(distance) } else { real.checked_add(distance) };
        // `Date` has four digits for the year and no times before 1970.
        moved.unwrap_or(real).clamp(UNIX_EPOCH, UNIX_EPOCH + LAST_DATE)
    }

    /// [`now`](Self::now) in seconds since 1970.
    pub(crate) fn now_seconds(&self) -> i64 {
        let since = self.now().duration_since(UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
    }

    /// The origin of the simulator, for clients on this machine.
    pub(crate) fn base_url(&self) -> String {
        format!("https://localhost:{}", self.address.port())
    }

    /// Whether any user belongs to this organization.
    pub(crate) fn knows_organization(&self, organization: &str) -> bool {
        self.settings(|settings| settings.credentials.keys().any(|(known, _)| known == organization))
    }

    /// The fault for one log-in; takes one of `next_faults` if any is left.
    pub(crate) fn take_login_fault(&self) -> Option<LoginFault> {
        let mut settings = lock(&self.settings);
        while let Some((left, fault)) = settings.next_faults.front_mut() {
            if *left > 0 {
                *left -= 1;
                return Some(fault.clone());
            }
            settings.next_faults.pop_front();
        }
        settings.login_fault.clone()
    }
}

/// Waits until `held` is false. Cancelling the wait changes nothing.
pub(crate) async fn wait_while_held(held: &watch::Sender<bool>) {
    // The wait fails only when the sender is dropped, and the caller has the sender.
    let _ = held.subscribe().wait_for(|held| !held).await;
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            token_life: Duration::from_secs(3600),
            credentials: BTreeMap::new(),
            login_fields: ("username".to_owned(), "password".to_owned()),
            login_fault: None,
            next_faults: VecDeque::new(),
            login_delay: Duration::ZERO,
            latency: Duration::ZERO,
            clock_offset: 0,
            omit_date: false,
            new_user_token: false,
            http2: true,
            max_concurrent_streams: Some(200),
        }
    }
}
