//! Commands that an administrator gives the daemon, and what has to come of each: reloads, log-outs and log-ins.

use std::{sync::Arc, time::Duration};

use tokio::{
    task::yield_now,
    time::{sleep, timeout},
};

use super::{
    ledger::Ledger,
    servers::{ACCOUNTS, SERVERS},
    third_account::{self, Third},
    upstreams::Role,
    world::World,
};
use crate::{
    account::Account,
    clock,
    control::{Commands, ReloadOutcome},
    status::{StatusReader, View},
};

/// Within what time a log-in that was asked for is answered: one that is under way may take ten seconds more, and then another
/// begins, as with each change of the organization.
const LOG_IN_ANSWERED: Duration = Duration::from_secs(60);

/// The daemon, as its administrators reach it.
#[derive(Clone)]
pub(super) struct Daemon {
    pub(super) commands: Commands,
    pub(super) view: tokio::sync::watch::Receiver<Arc<View>>,
    pub(super) status: StatusReader,
}

impl Daemon {
    pub(super) fn accounts(&self) -> Vec<Account> {
        self.view.borrow().accounts.clone()
    }
}

/// Reloads the settings, which name the same server, or another one, or are wrong.
pub(super) async fn reload(world: &World, daemon: &Daemon) {
    let ((before, limits), server) = (world.state(|state| (state.server, state.limits)), world.draw(0..=SERVERS - 1));
    let (wrong, limits) = (world.chance(0.15), world.other_limits(limits));
    world.note(&format!("event: a reload, to server {server}, wrong: {wrong}, {limits:?}"));
    let began = clock::instant();
    world.upstreams().renew();
    world.state(|state| state.reloading = true);
    world.ledger(Ledger::reload);
    let changes_server = |ledger: &mut Ledger, at| {
        if server != before && !wrong {
            ledger.excuse_log_in(at, 0, Duration::ZERO);
        }
    };
    world.ledger(changes_server);
    world.put_settings(server, limits);
    if wrong {
        world.put("config.toml", "max_requests = \"many\"");
    }
    world.ledger(Ledger::causes_log_in);
    let Ok(outcome) = daemon.commands.reload() else { return world.break_promise("a reload was not taken".to_owned()) };
    match outcome.await {
        Ok(Ok(())) if !wrong => {
            let before_it = world.state(|state| {
                state.server = server;
                std::mem::replace(&mut state.limits, limits)
            });
            world.upstreams().change_times([limits.response_timeout, limits.body_idle]);
            let is_as_old = before_it.max_age == limits.max_age;
            if !is_as_old || server != before {
                world.upstreams().retire(is_as_old.then_some(0), began, true);
            }
            if server != before {
                world.upstreams().moved(0);
                world.ledger(|ledger, _| ledger.server_changed());
            }
        }
        Ok(Err(_)) if wrong => {}
        outcome => world.break_promise(format!("a reload of settings that are wrong ({wrong}) ended as {outcome:?}")),
    }
    if wrong {
        put_same_settings(world);
    }
    world.state(|state| state.reloading = false);
    world.ledger(changes_server);
    world.note("event: the reload is done");
}

/// Reloads settings that name the same server.
pub(super) async fn reload_what_changed(world: &World, daemon: &Daemon) {
    let outcome = reload_again(world, daemon).await;
    if !matches!(outcome, Some(Ok(()))) {
        world.break_promise(format!("a reload ended as {outcome:?}"));
    }
}

/// The same, and they have to be refused. Returns why they were, and puts those in force back. `put_back`: what has the settings be
/// the same again.
pub(super) async fn reload_refused(world: &World, daemon: &Daemon, put_back: impl FnOnce()) -> Option<Vec<String>> {
    let outcome = reload_again(world, daemon).await;
    put_back();
    put_same_settings(world);
    outcome?.err().map(|reasons| reasons.0)
}

fn put_same_settings(world: &World) {
    let (server, limits) = world.state(|state| (state.server, state.limits));
    world.put_settings(server, limits);
}

/// Returns the outcome, unless the reload was not taken, or nobody has said how it ended.
async fn reload_again(world: &World, daemon: &Daemon) -> Option<ReloadOutcome> {
    world.upstreams().renew();
    world.ledger(Ledger::reload);
    world.ledger(Ledger::causes_log_in);
    put_same_settings(world);
    daemon.commands.reload().ok()?.await.ok()
}

/// Logs out one account, or all.
pub(super) async fn log_out_of(world: &Arc<World>, daemon: &Daemon, one: Option<usize>) {
    let name = one.map(|account| ACCOUNTS[account]);
    world.note(&format!("event: a log-out of {name:?}"));
    let accounts: Vec<usize> = one.map_or_else(|| (0..ACCOUNTS.len()).collect(), |account| vec![account]);
    // Idle connections of all close before that is known.
    (0..ACCOUNTS.len()).for_each(|account| world.upstreams().trouble(Role::Calls(account)));
    world.ledger(|ledger, at| {
        for account in &accounts {
            ledger.trouble(at, *account);
            ledger.begin_log_out(at, *account);
        }
    });
    if one.is_none() {
        world.third(Third::begin_change);
    }
    let (began, began_at) = (clock::instant(), world.clock.elapsed());
    let Ok(done) = daemon.commands.log_out(name) else { return world.break_promise("a log-out was not taken".to_owned()) };
    if done.await.is_err() {
        world.break_promise("a log-out was not carried out".to_owned());
    }
    world.ledger(|ledger, at| accounts.iter().for_each(|account| ledger.log_out(at, *account)));
    if one.is_none() {
        world.third(Third::logged_out);
    }
    world.upstreams().stop(began);
    world.note("event: logged out");
    judge_asked(world, &accounts, began_at).await;
}

/// Asks for log-ins, and does not wait for their end.
pub(super) async fn log_in(world: &World, daemon: &Daemon, accounts: &[usize]) {
    world.note(&format!("event: log-ins are asked for: {accounts:?}"));
    for account in accounts {
        world.ledger(|ledger, at| ledger.may_log_in(at, *account));
        for known in daemon.accounts().into_iter().filter(|known| known.name() == ACCOUNTS[*account]) {
            tokio::spawn(ask(world.itself(), *account, known));
        }
    }
    if accounts.len() == ACCOUNTS.len() {
        log_in_third(world, daemon);
    }
    yield_now().await;
}

/// Tells the third account to log in.
pub(super) fn log_in_third(world: &World, daemon: &Daemon) {
    world.third(Third::may_log_in);
    for known in daemon.accounts().into_iter().filter(|known| known.name() == third_account::NAME) {
        tokio::spawn(async move { drop(known.log_in().await) });
    }
}

/// Asks for one log-in, and judges how long the answer takes.
async fn ask(world: Option<Arc<World>>, account: usize, known: Account) {
    let Some(world) = world else { return };
    let (number, at) = (world.next_number(), world.clock.elapsed());
    world.state(|state| state.asked.push((number, account, at)));
    if timeout(LOG_IN_ANSWERED, known.log_in()).await.is_err() {
        world.break_promise(format!("a log-in of {} was asked for, and there is no answer", ACCOUNTS[account]));
    }
    world.state(|state| state.asked.retain(|(other, ..)| *other != number));
}

/// After a log-out: who asked for a log-in before it began has an answer.
async fn judge_asked(world: &Arc<World>, accounts: &[usize], began: Duration) {
    sleep(Duration::from_millis(200)).await;
    let is_left = |(_, account, at): &&(u64, usize, Duration)| accounts.contains(account) && *at < began;
    if let Some((_, account, at)) = world.state(|state| state.asked.iter().find(is_left).copied()) {
        let (name, at) = (ACCOUNTS[account], at.as_secs_f64());
        world.break_promise(format!("{name} is logged out, and who asked for a log-in at {at:.3} has no answer"));
    }
}
