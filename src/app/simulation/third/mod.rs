//! A third account and its API, which reloads add and remove while requests run (`docs/reload.md`).
//!
//! Nothing is ever wrong with its server, so every call has one right ending: it depends on what the settings said while the call ran.
//! It has an address of its own, which is opened when the API comes first. No reload may close that again, so it leads to the second
//! API while the third one is not served; where connections are not limited, the second API's address leads to both. Files: `clients`
//! makes calls and judges their endings, `server` answers, and judges tokens.

mod clients;
mod server;

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use tokio::time::sleep;

use super::{
    events::{self, Daemon},
    world::{ACCOUNTS, World},
};
use crate::status::StatusDocument;

pub(super) use self::{clients::run, server::serve};

/// The name of the account, of its organization, and of the API.
pub(super) const NAME: &str = "third";
/// Where its server takes calls, and log-ins.
pub(super) const ADDRESS: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 7005));
pub(super) const LOG_IN_ADDRESS: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 7015));
const PREFIX: &str = "/third";
const PASSWORD: &str = "third-word";

/// How long the daemon may take to do what it has to at once.
const AT_ONCE: Duration = Duration::from_secs(2);
/// How long it may take to have a token: a log-in takes two seconds at most.
const LOGGED_IN: Duration = Duration::from_secs(5);

/// What the settings say of the API.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Served {
    /// Nothing, and they never did.
    #[default]
    Never,
    Yes,
    /// It was removed. Its address is still open.
    Removed,
}

/// Number of a call to the third API.
type Number = u64;

/// What is known of the third account and its API.
#[derive(Default)]
pub(super) struct Third {
    /// By the settings in force, and by those that are written next.
    served: Served,
    written: Served,
    logged_out: bool,
    /// Counts what changes the right ending of a call.
    changes: u64,
    /// A reload or a log-out is under way, which changes it.
    changing: bool,
    /// When it last changed.
    changed: Duration,
    calls: BTreeMap<Number, Call>,
    tokens: BTreeMap<String, Token>,
    /// When the last call ended.
    last_end: Duration,
}

struct Token {
    /// By the right time, in seconds since 1970.
    expires: f64,
    /// Since when no new request may carry it, and why.
    withdrawn: Option<(Duration, &'static str)>,
    /// When its log-in arrived, and whether that was answered.
    arrived: Duration,
    given: bool,
}

struct Call {
    begun: Duration,
    body: Vec<u8>,
    arrived: u32,
    ended: bool,
}

impl Third {
    fn begin_change(&mut self, at: Duration) {
        self.changes += 1;
        (self.changing, self.changed) = (true, at);
    }

    fn end_change(&mut self, at: Duration, change: impl FnOnce(&mut Self)) {
        self.changes += 1;
        (self.changing, self.changed, self.served) = (false, at, self.written);
        change(self);
    }

    fn withdraw(&mut self, at: Duration, why: &'static str) {
        for token in self.tokens.values_mut() {
            token.withdrawn.get_or_insert((at, why));
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

/// For the settings.
impl World {
    fn third_socket(&self) -> PathBuf {
        self.directory.join(format!("{NAME}.sock"))
    }

    /// The further addresses of the second API, and what the settings say of the third account and its API.
    pub(super) fn third_settings(&self) -> (String, String) {
        let (directory, places) = (self.directory.display(), self.places());
        let own = format!("\"unix:{directory}/{NAME}.sock\"");
        match self.third(|third, _| third.written) {
            Served::Never => (String::new(), String::new()),
            Served::Removed => (format!(", {own}"), String::new()),
            Served::Yes => {
                let other = format!(", \"unix:{directory}/{}.sock\"", ACCOUNTS[1]);
                let shared = if self.has_room() { other } else { String::new() };
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
}

/// Adds the account and its API, or removes them.
pub(super) async fn change(world: &Arc<World>, daemon: &Daemon) {
    match world.third(|third, _| third.served) {
        Served::Yes if world.chance(0.2) => keep_address(world, daemon).await,
        Served::Yes => {
            remove(world, daemon).await;
            if world.chance(0.5) {
                sleep(world.milliseconds(0..=4000)).await;
                add(world, daemon).await;
            }
        }
        Served::Never | Served::Removed => {
            if world.chance(0.2) {
                log_out_all(world, daemon).await;
            }
            add(world, daemon).await;
            if world.chance(0.5) {
                // Often while it logs in.
                sleep(world.milliseconds(0..=2500)).await;
                remove(world, daemon).await;
            }
        }
    }
}

/// Logs out all accounts, so that one that is added stays logged out, too, until all log in some time later.
async fn log_out_all(world: &Arc<World>, daemon: &Daemon) {
    events::log_out_of(world, daemon, None).await;
    let (world, daemon, after) = (Arc::clone(world), daemon.clone(), world.milliseconds(1000..=8000));
    tokio::spawn(async move {
        sleep(after).await;
        events::log_in(&world, &daemon, &[0, 1]).await;
    });
}

async fn add(world: &Arc<World>, daemon: &Daemon) {
    world.note("event: a reload adds the third account and its API");
    let all_logged_out =
        || daemon.accounts().iter().filter(|account| account.name() != NAME).all(crate::account::Account::is_logged_out);
    let before = all_logged_out();
    begin(world, Served::Yes);
    events::reload_what_changed(world, daemon).await;
    let after = all_logged_out();
    world.third(|third, at| third.end_change(at, |third| third.logged_out = before && after));
    world.note("event: it was added");
    if before != after {
        // It has logged in, or has not.
        log_in(world, daemon);
    }
}

/// Has the settings say something else when they are written next.
fn begin(world: &World, served: Served) {
    world.third(|third, at| {
        third.begin_change(at);
        third.written = served;
    });
}

async fn remove(world: &Arc<World>, daemon: &Daemon) {
    world.note("event: a reload removes the third account and its API");
    begin(world, Served::Removed);
    events::reload_what_changed(world, daemon).await;
    world.third(|third, at| {
        third.end_change(at, |third| third.logged_out = false);
        third.withdraw(at, "its account was removed");
    });
    world.note("event: it was removed");
}

/// Settings without its address are refused as a whole.
async fn keep_address(world: &Arc<World>, daemon: &Daemon) {
    world.note("event: a reload would close the third API's address");
    world.third(|third, _| third.written = Served::Never);
    let put_back = || world.third(|third, _| third.written = third.served);
    let refusal = events::reload_refused(world, daemon, put_back).await;
    if !refusal.as_ref().is_some_and(|reasons| reasons.iter().any(|reason| reason.contains("stop listening"))) {
        world.break_promise(format!("a reload that closes an address ended as {refusal:?}"));
    }
}

/// All accounts are about to be logged out.
pub(super) fn begin_log_out(world: &World) {
    world.third(Third::begin_change);
}

/// All accounts are logged out.
pub(super) fn logged_out(world: &World) {
    world.third(|third, at| {
        third.end_change(at, |third| third.logged_out = third.served == Served::Yes);
        third.withdraw(at, "a log-out");
    });
}

/// The account is told to log in.
pub(super) fn log_in(world: &World, daemon: &Daemon) {
    world.third(|third, at| {
        third.changes += 1;
        (third.changed, third.logged_out) = (at, false);
    });
    for known in daemon.accounts().into_iter().filter(|known| known.name() == NAME) {
        tokio::spawn(async move { drop(known.log_in().await) });
    }
}

/// Judges what the status document says of them.
pub(super) fn inspect(world: &World, document: &StatusDocument) {
    let (served, changing, logged_out, changed, at) =
        world.third(|third, at| (third.served, third.changing, third.logged_out, third.changed, at));
    if changing {
        return;
    }
    let account = document.accounts.iter().find(|account| account.name == NAME);
    let api = document.apis.iter().find(|api| api.name == NAME);
    let is_served = served == Served::Yes;
    if account.is_some() != is_served || api.is_some() != is_served {
        world.break_promise(format!("the third API is served: {is_served}; the status says {account:?}, {api:?}"));
    }
    let own = world.third_socket().display().to_string();
    let leads =
        |name: &str| document.apis.iter().any(|api| api.name == name && api.listen.iter().any(|text| text.contains(&own)));
    let expected = [is_served, served == Served::Removed];
    if [leads(NAME), leads(ACCOUNTS[1])] != expected {
        world.break_promise(format!("the third address leads to others than it should: {:?}", document.apis));
    }
    let (Some(account), true) = (account, changed + LOGGED_IN < at && world.is_awake()) else { return };
    let state = account.state.as_deref();
    let is_right = if logged_out { state == Some("logged_out") } else { matches!(state, Some("ready" | "refreshing")) };
    if !is_right {
        world.break_promise(format!("the third account is logged out: {logged_out}; the status says {account:?}"));
    }
}

/// What readiness may depend on: whether the third account surely has a token, or surely has none.
pub(super) fn readiness(world: &World) -> (bool, bool) {
    let is_awake = world.is_awake();
    let now = world.now();
    world.third(|third, at| {
        if third.served != Served::Yes {
            return (!third.changing, false);
        }
        let is_settled = !third.changing && third.changed + LOGGED_IN < at && is_awake;
        let has_good = third.tokens.values().any(|token| token.withdrawn.is_none() && token.expires > now);
        (is_settled && !third.logged_out, !third.changing && !has_good)
    })
}
