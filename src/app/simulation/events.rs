//! What happens to the daemon and its servers while clients call: faults that begin and end, commands, clocks, and the end.

use std::{sync::Arc, time::Duration};

use tokio::{
    task::yield_now,
    time::{sleep, timeout},
};

use super::{
    careportals::Mood,
    ledger::Ledger,
    network::Reception,
    third,
    world::{ACCOUNTS, SERVERS, State, World},
};
use crate::{
    account::Account,
    clock,
    control::{Commands, ReloadOutcome},
    status::{StatusReader, View},
};

/// How long the daemon may take to log in with credentials that have changed: their files come to rest, and it connects.
const CHANGE_NOTICED: Duration = Duration::from_secs(7);

/// How long the daemon may take to see that the wall clock has jumped.
const CLOCKS_COMPARED: Duration = Duration::from_secs(31);

/// Within what time a log-in that was asked for is answered: one that is under way may take five seconds more, and then another begins.
const LOG_IN_ANSWERED: Duration = Duration::from_secs(26);

/// The daemon, as events reach it.
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

/// Lets events happen for `time`.
pub(super) async fn happen(world: &Arc<World>, daemon: &Daemon, time: Duration) {
    let until = world.clock.elapsed() + time;
    while world.clock.elapsed() < until {
        sleep(world.milliseconds(20..=6000)).await;
        world.ledger(|ledger, _| ledger.counts.events += 1);
        happens(world, daemon).await;
        // What comes at the same moment meets in states that last for a moment only.
        while world.chance(0.3) {
            sleep(world.milliseconds(0..=400)).await;
            world.ledger(|ledger, _| ledger.counts.events += 1);
            happens(world, daemon).await;
        }
    }
}

async fn happens(world: &Arc<World>, daemon: &Daemon) {
    let server = world.draw(0..=SERVERS - 1);
    match world.draw(0..=37) {
        0..=3 => log_ins_become(world, server, mood(world)),
        4..=7 => {
            let mood = mood(world);
            world.note(&format!("event: calls at server {server}: {mood:?}"));
            world.state(|state| state.moods[server].1 = mood);
            later(world, move |state| state.moods[server].1 = Mood::Well);
        }
        8..=10 => {
            let delay = world.milliseconds(0..=5000);
            let reception =
                [Reception::Refused, Reception::Unreachable, Reception::Silence, Reception::Taken(delay)][world.draw(0..=3)];
            world.note(&format!("event: connections to server {server}: {reception:?}"));
            world.state(|state| state.receptions[server] = Some(reception));
            later(world, move |state| state.receptions[server] = None);
        }
        11..=12 => {
            let (frailty, lag) = (world.fraction(), world.milliseconds(0..=300));
            world.note(&format!("event: of new connections {frailty:.2} end early; lag {lag:?}"));
            world.state(|state| (state.frailty, state.lag) = (frailty, lag));
            later(world, |state| (state.frailty, state.lag) = (0.0, Duration::ZERO));
        }
        13..=14 => revoke(world, server),
        15..=16 => {
            let life = [3.0, 8.0, 20.0, 60.0, 300.0, 3600.0][world.draw(0..=5)];
            world.note(&format!("event: tokens live for {life} s"));
            world.state(|state| state.life = life);
        }
        17 => {
            let idle = [1, 2, 5, 15, 75][world.draw(0..=4)];
            world.note(&format!("event: server {server} keeps idle connections for {idle} s"));
            world.state(|state| state.idle[server] = Duration::from_secs(idle));
        }
        18..=19 => change_credentials(world),
        20..=22 => reload(world, daemon).await,
        23 => log_out(world, daemon).await,
        24 => be_suspended(world, Duration::from_secs([1, 20, 200, 4000][world.draw(0..=3)])).await,
        25 => suspend_in_log_in(world),
        26 => lose_credentials(world, world.milliseconds(0..=15_000)),
        // A token is refused while its successor can't be had.
        27..=30 => {
            log_ins_become(world, server, refusal(world));
            revoke(world, server);
            // Nothing else happens while its time runs.
            sleep(world.milliseconds(0..=25_000)).await;
        }
        // Credentials change while a refused token's successor is fetched.
        31..=32 => {
            let mood = Mood::Slow(world.milliseconds(1000..=3900));
            world.note(&format!("event: credentials change during the next log-in, {mood:?}"));
            world.state(|state| {
                state.moods = [(mood, Mood::Well); SERVERS];
                state.changes_in_log_in = true;
            });
            later(world, |state| state.moods = [(Mood::Well, Mood::Well); SERVERS]);
            (0..SERVERS).for_each(|server| revoke(world, server));
        }
        33..=35 => third::change(world, daemon).await,
        _ => {
            let ahead = [-7200, -90, -3, 0, 2, 40, 3600][world.draw(0..=6)];
            world.note(&format!("event: the wall clock is {ahead} s ahead"));
            world.clock.set_ahead(ahead);
            // A jump ahead may be a suspend.
            world.ledger(|ledger, at| ledger.excuse_all(at + CLOCKS_COMPARED));
        }
    }
}

/// Changes for a while what a server does with log-ins.
fn log_ins_become(world: &Arc<World>, server: usize, mood: Mood) {
    world.note(&format!("event: log-ins at server {server}: {mood:?}"));
    world.state(|state| state.moods[server].0 = mood);
    later(world, move |state| state.moods[server].0 = Mood::Well);
}

fn revoke(world: &World, server: usize) {
    world.note(&format!("event: server {server} revokes its tokens"));
    world.ledger(|ledger, at| {
        ledger.revoke(server);
        ledger.causes_log_in(at);
    });
}

/// An answer by a status.
fn refusal(world: &World) -> Mood {
    let status = [400, 401, 403, 404, 408, 429, 429, 500, 502, 503, 503][world.draw(0..=10)];
    Mood::Status(status, world.chance(0.7).then(|| [0, 1, 7, 30, 30][world.draw(0..=4)]))
}

fn mood(world: &World) -> Mood {
    let slow = Mood::Slow(world.milliseconds(0..=14_000));
    let odd = [Mood::Silent, Mood::Truncated, Mood::Stalled, Mood::Garbage, Mood::Odd, Mood::Stale, Mood::Huge];
    match world.draw(0..=9) {
        0..=1 => refusal(world),
        2 => slow,
        other => odd[other - 3],
    }
}

/// Ends a fault, in a while.
fn later(world: &Arc<World>, end: impl FnOnce(&mut State) + Send + 'static) {
    let (world, after) = (Arc::clone(world), world.milliseconds(200..=25_000));
    tokio::spawn(async move {
        sleep(after).await;
        world.state(end);
    });
}

/// Replaces the password or the organization of the first account.
pub(super) fn change_credentials(world: &Arc<World>) {
    if world.chance(0.5) {
        let password = format!("word-{}", world.next_number());
        world.note("event: another password");
        world.put("password", &password);
        world.state(|state| (state.password, state.missing[PASSWORD]) = (password, false));
        notice(world);
    } else {
        let organization = ["acme", "umbrella", "initech"][world.draw(0..=2)];
        world.note(&format!("event: the organization is {organization}"));
        world.put("organization", organization);
        world.state(|state| {
            organization.clone_into(&mut state.organization);
            state.missing[ORGANIZATION] = false;
        });
        world.ledger(|ledger, at| ledger.organization_changed(at, organization));
    }
    world.ledger(|ledger, at| {
        ledger.causes_log_in(at);
        ledger.excuse_log_in(at, 0, Duration::ZERO);
    });
}

/// After a log-in that found no file.
const LONGEST_BACKOFF: Duration = Duration::from_secs(60);

/// Where the files stand in `State::missing`.
const ORGANIZATION: usize = 0;
const PASSWORD: usize = 1;

/// Removes a file, and puts it back after some time: the password's with another one.
pub(super) fn lose_credentials(world: &Arc<World>, time: Duration) {
    let file = world.draw(ORGANIZATION..=PASSWORD);
    let name = ["organization", "password"][file];
    world.note(&format!("event: the file of the {name} is gone for {time:?}"));
    world.remove(name);
    world.state(|state| state.missing[file] = true);
    world.ledger(|ledger, at| {
        ledger.trouble(at, 0);
        ledger.causes_log_in(at);
        ledger.excuse_log_in(at, 0, time + LONGEST_BACKOFF);
        if file == ORGANIZATION {
            ledger.organization_lost(at);
        }
    });
    let world = Arc::clone(world);
    tokio::spawn(async move {
        sleep(time).await;
        // Another event may have brought it back.
        if !world.state(|state| state.missing[file]) {
            return;
        }
        world.note(&format!("event: the file of the {name} is back"));
        world.ledger(|ledger, at| ledger.trouble(at, 0));
        world.state(|state| state.missing[file] = false);
        if file == PASSWORD {
            let password = format!("word-{}", world.next_number());
            world.put(name, &password);
            world.state(|state| state.password = password);
            notice(&world);
        } else {
            // It may be noticed as no change. A token that came meanwhile may have gone.
            let organization = world.state(|state| state.organization.clone());
            world.put(name, &organization);
            world.ledger(|ledger, at| {
                ledger.organization_lost(at);
                ledger.organization_changed(at, &organization);
            });
        }
        world.ledger(Ledger::causes_log_in);
    });
}

/// Expects a log-in soon, since the first account's credentials have just changed.
fn notice(world: &Arc<World>) {
    let world = Arc::clone(world);
    tokio::spawn(async move {
        let number = world.ledger(|ledger, _| ledger.changed(0));
        sleep(CHANGE_NOTICED).await;
        let is_readable = world.is_listening() && world.state(|state| state.missing == [false; 2] && !state.reloading);
        world.ledger(|ledger, at| ledger.judge_notice(at, 0, number, is_readable));
    });
}

/// Reloads the settings, which name the same server, or another one, or are wrong.
pub(super) async fn reload(world: &World, daemon: &Daemon) {
    let ((before, limits), server) = (world.state(|state| (state.server, state.limits)), world.draw(0..=SERVERS - 1));
    let (wrong, limits) = (world.chance(0.15), limits.drawn(world));
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

/// Logs out one account, or all, and has them log in again some time later.
async fn log_out(world: &Arc<World>, daemon: &Daemon) {
    let one = world.chance(0.6).then(|| world.draw(0..=ACCOUNTS.len() - 1));
    let accounts: Vec<usize> = one.map_or_else(|| (0..ACCOUNTS.len()).collect(), |account| vec![account]);
    if world.chance(0.3) {
        log_in(world, daemon, &accounts).await;
        sleep(world.milliseconds(0..=1500)).await;
    }
    log_out_of(world, daemon, one).await;
    let (world, daemon, after) = (Arc::clone(world), daemon.clone(), world.milliseconds(0..=20_000));
    tokio::spawn(async move {
        sleep(after).await;
        log_in(&world, &daemon, &accounts).await;
    });
}

/// Logs out one account, or all.
pub(super) async fn log_out_of(world: &Arc<World>, daemon: &Daemon, one: Option<usize>) {
    let name = one.map(|account| ACCOUNTS[account]);
    world.note(&format!("event: a log-out of {name:?}"));
    let accounts: Vec<usize> = one.map_or_else(|| (0..ACCOUNTS.len()).collect(), |account| vec![account]);
    world.ledger(|ledger, at| {
        for account in &accounts {
            ledger.trouble(at, *account);
            ledger.begin_log_out(at, *account);
        }
    });
    if one.is_none() {
        third::begin_log_out(world);
    }
    let (began, began_at) = (clock::instant(), world.clock.elapsed());
    let Ok(done) = daemon.commands.log_out(name) else { return world.break_promise("a log-out was not taken".to_owned()) };
    if done.await.is_err() {
        world.break_promise("a log-out was not carried out".to_owned());
    }
    world.ledger(|ledger, at| accounts.iter().for_each(|account| ledger.log_out(at, *account)));
    if one.is_none() {
        third::logged_out(world);
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
        third::log_in(world, daemon);
    }
    yield_now().await;
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

/// Suspends the machine for that time.
pub(super) async fn be_suspended(world: &World, time: Duration) {
    let_all_arrive().await;
    suspend_now(world, time);
}

/// What was sent before has arrived when this returns.
pub(super) async fn let_all_arrive() {
    for _ in 0..200 {
        yield_now().await;
    }
}

/// Suspends the machine between two steps of one task, so that nobody else runs in between.
pub(super) fn suspend_now(world: &World, time: Duration) {
    world.note(&format!("event: the machine is suspended for {time:?}"));
    world.ledger(|ledger, at| ledger.suspend(at, time));
    world.clock.suspend(time);
    if time > Duration::from_secs(3) {
        world.upstreams().suspended();
    }
    world.ledger(|ledger, at| {
        ledger.causes_log_in(at);
        ledger.trouble_at(at, 0);
    });
}

/// The machine will be suspended when the next log-in was answered, before the daemon has read that: for a part of the token's life.
fn suspend_in_log_in(world: &World) {
    let share = [0.3, 0.6, 0.9, 1.5][world.draw(0..=3)];
    let server = world.draw(0..=SERVERS - 1);
    world.note(&format!("event: the next log-in is answered before a suspend for {share} of the token's life"));
    world.state(|state| {
        state.suspends_in_log_in = Some(share);
        state.life = state.life.max(20.0);
    });
    revoke(world, server);
}

/// Ends every fault, and asks for a log-in, since the daemon may wait for minutes until the next one.
pub(super) async fn heal(world: &Arc<World>, daemon: &Daemon) {
    // The last fault ends by itself.
    sleep(Duration::from_secs(26)).await;
    world.note("event: everything is well again");
    world.state(|state| {
        state.moods = [(Mood::Well, Mood::Well); SERVERS];
        state.receptions = [None; SERVERS];
        (state.frailty, state.lag, state.life) = (0.0, Duration::ZERO, 600.0);
    });
    log_in(world, daemon, &[0, 1]).await;
    // Connections that were made before may still be cut.
    sleep(Duration::from_secs(70)).await;
}
