//! What happens to the daemon and its servers while clients call: faults that begin and end, commands, clocks, and the end.

use std::{sync::Arc, time::Duration};

use tokio::time::sleep;

use super::{
    commands::{Daemon, log_in, log_out_of, reload},
    machine::{be_suspended, change_credentials, lose_credentials},
    servers::{ACCOUNTS, Mood, Reception, SERVERS},
    third,
    world::{State, World},
};

/// How long the daemon may take to see that the wall clock has jumped.
const CLOCKS_COMPARED: Duration = Duration::from_secs(31);

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
