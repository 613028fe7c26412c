//! Looks at the daemon as its administrators see it: limits, readiness, counters, access log.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{task::JoinHandle, time::sleep};

use super::{
    commands::Daemon,
    ledger::{lines::AccessLine, since::Looks},
    servers::ACCOUNTS,
    third,
    world::World,
};
use crate::status::{AccountDocument, Detail, Readiness, StatusDocument};

/// How often it looks.
const EVERY: Duration = Duration::from_millis(700);

/// Looks at the daemon now and then, until it is aborted.
pub(super) fn start(world: &Arc<World>, daemon: &Daemon) -> JoinHandle<()> {
    let (world, daemon) = (Arc::clone(world), daemon.clone());
    tokio::spawn(async move {
        let mut looks = Looks::default();
        loop {
            sleep(if world.is_quiet() { 20 * EVERY } else { EVERY }).await;
            look(&world, &daemon, &mut looks);
        }
    })
}

/// The APIs of the two accounts that are always there, and their indexes.
fn of_accounts<T>(all: &[T], name: impl Fn(&T) -> &str) -> impl Iterator<Item = (usize, &T)> {
    all.iter().filter_map(move |one| Some((ACCOUNTS.iter().position(|known| *known == name(one))?, one)))
}

fn look(world: &World, daemon: &Daemon, looks: &mut Looks) {
    for fault in world.upstreams().inspect() {
        world.break_promise(fault);
    }
    // Only the second API's upstream speaks HTTP/2.
    if world.upstreams().is_quiet(1) && world.streams() > 0 {
        world.break_promise(format!("{} streams are open, and no client waits", world.streams()));
    }
    let view = Arc::clone(&daemon.view.borrow());
    for (account, api) in of_accounts(&view.apis, |api| &api.name) {
        let (taken, most) = (api.request_limit.taken(), world.terms().requests);
        let made = world.ledger(|ledger, at| ledger.open_calls(account, at));
        if taken > most || taken > made {
            world.break_promise(format!("{taken} requests are in flight; clients have made {made}, and {most} are allowed"));
        }
        world.ledger(|ledger, at| ledger.judge_places(at, account, taken));
    }
    for (_, limit) in &view.listeners {
        let (connected, _) = limit.connected_and_limit();
        if connected > world.places() {
            world.break_promise(format!("{connected} clients have a place; there are {}", world.places()));
        }
    }
    let document = daemon.status.document(Detail::Full);
    for (index, name) in ACCOUNTS.iter().enumerate() {
        let state = document.accounts.iter().find(|account| account.name == *name).and_then(|account| account.state.as_deref());
        world.ledger(|ledger, at| ledger.judge_logged_out(at, index, state));
    }
    judge_document(world, &document, looks);
    third::inspect(world, &document);
    let readiness = daemon.status.readiness(None, Detail::Full);
    for reason in readiness.iter().flat_map(|readiness| &readiness.reasons) {
        let is_of = |account: &&AccountDocument| Some(&account.name) == reason.account.as_ref();
        let state = document.accounts.iter().find(is_of).and_then(|account| account.state.as_deref());
        let expected = match state {
            Some("logged_out") => "logged_out",
            Some("logging_in") => "token_pending",
            Some("rejected") => "login_rejected",
            Some("backing_off") => "login_failing",
            _ => reason.code,
        };
        if reason.code != expected && world.is_listening() {
            world.break_promise(format!("the account is {state:?}, and the daemon is not ready: {reason:?}"));
        }
    }
    let ready = readiness.is_some_and(|readiness| readiness.ready);
    let (organization, now) = (world.state(|state| state.organization.clone()), world.now());
    let of = [(organization.as_str(), world.configured_server(0)), (ACCOUNTS[1], world.configured_server(1))];
    let third = third::readiness(world);
    world.ledger(|ledger, at| {
        ledger.judge_ready(at, now, ready, &of, third);
        ledger.judge_renewals(at, now);
    });
}

fn judge_document(world: &World, document: &StatusDocument, looks: &mut Looks) {
    let (ahead, now) = (world.clock.ahead(), world.now());
    for (index, name) in ACCOUNTS.iter().enumerate() {
        let account = document.accounts.iter().find(|account| account.name == *name);
        let api = document.apis.iter().find(|api| api.name == *name);
        let (Some(account), Some(api)) = (account, api) else {
            world.break_promise(format!("the status says nothing of {name}: {document:?}"));
            continue;
        };
        world.ledger(|ledger, at| {
            ledger.judge_account(at, index, account, ahead);
            ledger.judge_api(at, index, api, account);
            ledger.judge_since(looks, (at, now), index, (account, api), ahead);
        });
    }
}

/// While the daemon drains, it is not ready.
pub(super) fn is_not_ready(world: &World, daemon: &Daemon) {
    let readiness = daemon.status.readiness(None, Detail::Full);
    let says_so = |readiness: &Readiness| !readiness.ready && readiness.reasons.iter().any(|reason| reason.code == "draining");
    let phase = daemon.status.document(Detail::Full).phase;
    if !readiness.as_ref().is_some_and(says_so) || phase != "draining" {
        world.break_promise(format!("the daemon drains, and is {phase}: {readiness:?}"));
    }
}

/// Once no client is left, nothing is held for one, and everything has been counted.
pub(super) fn nothing_is_held(world: &World, daemon: &Daemon) {
    let view = Arc::clone(&daemon.view.borrow());
    for (account, api) in of_accounts(&view.apis, |api| &api.name) {
        let (taken, (active, _)) = (api.request_limit.taken(), api.metrics.connections());
        if taken > 0 || active > 0 {
            world.break_promise(format!("{taken} requests and {active} connections are in use, and there is no client"));
        }
        let requests = api.metrics.totals().requests;
        let errors = api.metrics.errors_by_code();
        world.ledger(|ledger, at| ledger.judge_counters(at, account, requests, &errors));
    }
    let document = daemon.status.document(Detail::Full);
    for account in &document.accounts {
        let is_well = matches!(account.state.as_deref(), Some("ready" | "refreshing")) && account.usable;
        // A new token has been tried by nobody yet.
        let was_refused = ACCOUNTS.iter().position(|name| *name == account.name);
        let was_refused = was_refused.is_some_and(|index| world.ledger(|ledger, _| ledger.was_refused_last(index)));
        let trouble = account.trouble.as_deref().filter(|trouble| !(was_refused && *trouble == "token_refused"));
        if !is_well || trouble.is_some() || account.last_error.is_some() {
            world.break_promise(format!("all is well, and the status says: {account:?}"));
        }
    }
    for (account, api) in of_accounts(&document.apis, |api| &api.name) {
        let was_served = world.ledger(|ledger, _| ledger.was_served(account));
        if was_served && api.state.as_deref() != Some("served") && world.terms().requests > 1000 {
            world.break_promise(format!("its last calls were answered, and the status says: {api:?}"));
        }
    }
    for (name, limit) in &view.listeners {
        let (connected, _) = limit.connected_and_limit();
        if connected > 0 {
            world.break_promise(format!("{connected} places are taken at {name}, and there is no client"));
        }
    }
}

/// What the log thread writes.
#[derive(Clone, Default)]
pub(super) struct Written(Arc<Mutex<Vec<u8>>>);

impl Written {
    /// The lines about requests.
    pub(super) fn lines(&self) -> Vec<AccessLine> {
        let bytes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        bytes.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect()
    }

    /// All of it.
    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }
}

impl io::Write for Written {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
