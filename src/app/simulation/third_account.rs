//! What is known of a third account and its API, which reloads add and remove while requests run (`docs/reload.md`).

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    path::{Path, PathBuf},
    time::Duration,
};

use super::servers::ACCOUNTS;

/// The name of the account, of its organization, and of the API.
pub(super) const NAME: &str = "third";
/// Where its server takes calls, and log-ins.
const ADDRESS: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 7005));
const LOG_IN_ADDRESS: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 7015));
pub(super) const PREFIX: &str = "/third";
pub(super) const PASSWORD: &str = "third-word";

/// How long the daemon may take to do what it has to at once.
pub(super) const AT_ONCE: Duration = Duration::from_secs(2);
/// How long it may take to have a token: a log-in takes two seconds at most.
pub(super) const LOGGED_IN: Duration = Duration::from_secs(5);

/// What the settings say of the API.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Served {
    /// Nothing, and they never did.
    #[default]
    Never,
    Yes,
    /// It was removed. Its address is still open.
    Removed,
}

/// Number of a call to the third API.
pub(super) type Number = u64;

/// What is known of the third account and its API.
#[derive(Default)]
pub(super) struct Third {
    /// By the settings in force, and by those that are written next.
    pub(super) served: Served,
    pub(super) written: Served,
    pub(super) logged_out: bool,
    /// Counts what changes the right ending of a call.
    pub(super) changes: u64,
    /// A reload or a log-out is under way, which changes it.
    pub(super) changing: bool,
    /// When it last changed.
    pub(super) changed: Duration,
    pub(super) calls: BTreeMap<Number, Call>,
    pub(super) tokens: BTreeMap<String, Token>,
    /// When the last call ended.
    pub(super) last_end: Duration,
}

pub(super) struct Token {
    /// By the right time, in seconds since 1970.
    pub(super) expires: f64,
    /// Since when no new request may carry it, and why.
    pub(super) withdrawn: Option<(Duration, &'static str)>,
    /// When its log-in arrived, and whether that was answered.
    pub(super) arrived: Duration,
    pub(super) given: bool,
}

pub(super) struct Call {
    pub(super) begun: Duration,
    pub(super) body: Vec<u8>,
    pub(super) arrived: u32,
    pub(super) ended: bool,
}

impl Third {
    pub(super) fn begin_change(&mut self, at: Duration) {
        self.changes += 1;
        (self.changing, self.changed) = (true, at);
    }

    pub(super) fn end_change(&mut self, at: Duration, change: impl FnOnce(&mut Self)) {
        self.changes += 1;
        (self.changing, self.changed, self.served) = (false, at, self.written);
        change(self);
    }

    pub(super) fn withdraw(&mut self, at: Duration, why: &'static str) {
        for token in self.tokens.values_mut() {
            token.withdrawn.get_or_insert((at, why));
        }
    }

    /// All accounts are logged out.
    pub(super) fn logged_out(&mut self, at: Duration) {
        self.end_change(at, |third| third.logged_out = third.served == Served::Yes);
        self.withdraw(at, "a log-out");
    }

    /// The account is told to log in.
    pub(super) fn may_log_in(&mut self, at: Duration) {
        self.changes += 1;
        (self.changed, self.logged_out) = (at, false);
    }

    /// The further addresses of the second API, and what the settings say of the third account and its API. `has_room`: connections
    /// are not limited.
    pub(super) fn settings(&self, directory: &Path, places: usize, has_room: bool) -> (String, String) {
        let directory = directory.display();
        let own = format!("\"unix:{directory}/{NAME}.sock\"");
        match self.written {
            Served::Never => (String::new(), String::new()),
            Served::Removed => (format!(", {own}"), String::new()),
            Served::Yes => {
                let other = format!(", \"unix:{directory}/{}.sock\"", ACCOUNTS[1]);
                let shared = if has_room { other } else { String::new() };
                let text = format!(
                    r#"
[accounts.{NAME}]
organization = "{NAME}"
username = "service"
password = "{PASSWORD}"
login_url = "http://{LOG_IN_ADDRESS}/auth"
[apis.{NAME}]
account = "{NAME}"
prefix = "{PREFIX}"
upstream = "http://{ADDRESS}"
listen = [{own}{shared}]
allow_insecure_upstream = true
max_connections = {places}
head_timeout = "4s"
client_idle = "20s"
"#
                );
                (String::new(), text)
            }
        }
    }

    pub(super) fn last_end(&self) -> Duration {
        self.last_end
    }

    /// How many calls have not ended that the server has got. A client may still send the body of one that was refused.
    pub(super) fn unfinished(&self) -> usize {
        self.calls.values().filter(|call| call.arrived > 0 && !call.ended).count()
    }
}

/// Whether a server of the third API is there.
pub(super) fn is_its(address: SocketAddr) -> bool {
    [ADDRESS, LOG_IN_ADDRESS].contains(&address)
}

/// The socket of its own.
pub(super) fn socket(directory: &Path) -> PathBuf {
    directory.join(format!("{NAME}.sock"))
}
