//! What all parts of a running simulator share.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::sync::watch;

use crate::{
    clock,
    fault::LoginFault,
    line::Lines,
    pattern::Pattern,
    portal::Portal,
    record::Ledger,
    sync::{Changes, lock},
    tokens::Tokens,
};

/// The end of the year 9998.
const LAST_DATE: Duration = Duration::from_secs(253_370_764_800);

/// The state behind [`Control`](crate::Control).
pub(crate) struct Shared {
    pub(crate) address: SocketAddr,
    pub(crate) keep_alive_for: Option<Duration>,
    settings: Mutex<Settings>,
    pub(crate) changes: Arc<Changes>,
    pub(crate) tokens: Mutex<Tokens>,
    pub(crate) portal: Mutex<Portal>,
    pub(crate) ledger: Ledger,
    pub(crate) lines: Arc<Lines>,
    pub(crate) pattern: Pattern,
    pub(crate) accepting: watch::Sender<bool>,
    pub(crate) logins_held: watch::Sender<bool>,
    pub(crate) requests_held: watch::Sender<bool>,
}

/// What can be set at run time.
pub(crate) struct Settings {
    pub(crate) token_life: Duration,
    /// By organization and user name.
    pub(crate) credentials: BTreeMap<(String, String), String>,
    pub(crate) login_fields: (String, String),
    pub(crate) login_fault: Option<LoginFault>,
    pub(crate) next_faults: VecDeque<(u32, LoginFault)>,
    pub(crate) login_delay: Duration,
    pub(crate) latency: Duration,
    pub(crate) clock_offset: i64,
    pub(crate) omit_date: bool,
    pub(crate) http2: bool,
    pub(crate) max_concurrent_streams: Option<u32>,
}

impl Shared {
    pub(crate) fn new(address: SocketAddr, keep_alive_for: Option<Duration>, settings: Settings) -> io::Result<Self> {
        let changes = Arc::new(Changes::default());
        Ok(Self {
            address,
            keep_alive_for,
            settings: Mutex::new(settings),
            tokens: Mutex::new(Tokens::new()?),
            portal: Mutex::default(),
            ledger: Ledger::new(Arc::clone(&changes)),
            lines: Arc::new(Lines::new(Arc::clone(&changes))),
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
        // `Date` has four digits for the year and knows nothing before 1970.
        moved.unwrap_or(real).clamp(UNIX_EPOCH, UNIX_EPOCH + LAST_DATE)
    }

    /// [`now`](Self::now) in seconds since 1970.
    pub(crate) fn now_seconds(&self) -> i64 {
        let since = self.now().duration_since(UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
    }

    /// The origin clients reach the simulator at.
    pub(crate) fn base_url(&self) -> String {
        format!("https://localhost:{}", self.address.port())
    }

    /// Whether there is a user of this organization.
    pub(crate) fn knows_organization(&self, organization: &str) -> bool {
        self.settings(|settings| settings.credentials.keys().any(|(known, _)| known == organization))
    }

    /// The fault of the log-in that is being served; uses up one of those ordered by number.
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

/// Waits while `held` is true.
pub(crate) async fn released(held: &watch::Sender<bool>) {
    // The sender lives as long as the simulator, so this cannot fail.
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
            http2: true,
            max_concurrent_streams: Some(200),
        }
    }
}
