//! What the daemon does by itself while everything is well and nobody calls: it keeps its tokens, keeps asking a log-in server that
//! fails, notices a suspend, and opens no more connections.

use std::{sync::Arc, time::Duration};

use tokio::time::sleep;

use super::{
    commands::{self, Daemon},
    ledger::{Ending, Ledger},
    machine, raw_calls,
    servers::{ACCOUNTS, Mood, SERVERS},
    world::World,
};

/// The driver of an account compares its clocks twice a minute, and a log-in takes its time.
const SUSPEND_NOTICED: Duration = Duration::from_secs(35);
/// The longest wait after a log-in that failed and was not refused, and the time of a log-in.
const LONGEST_WAIT: Duration = Duration::from_secs(64);
/// How long a log-in takes at most that no event delays.
const LONGEST_LOG_IN: Duration = Duration::from_secs(3);

/// Plays one scene, or none.
pub(super) async fn play(world: &Arc<World>, daemon: &Daemon) {
    match world.draw(0..=9) {
        0..=1 => {
            world.note("event: a quarter of an hour passes");
            world.be_quiet(true);
            sleep(Duration::from_secs(900)).await;
        }
        2..=3 => sleep_through_a_life(world).await,
        4 => outage(world, daemon, false).await,
        5..=6 => outage(world, daemon, true).await,
        7 => refusing_path(world).await,
        _ => return,
    }
    world.be_quiet(false);
    for (account, name) in ACCOUNTS.iter().enumerate() {
        let ending = raw_calls::plain_call(world, account).await;
        if ending != Some(Ending::Answered(200)) {
            world.break_promise(format!("the first call after a while for {name} ends as {ending:?}"));
        }
    }
}

/// The machine is suspended for longer than tokens live. They are replaced when a call asks for one, or by themselves.
async fn sleep_through_a_life(world: &Arc<World>) {
    machine::be_suspended(world, Duration::from_secs(4000)).await;
    if world.chance(0.5) {
        return;
    }
    let before = world.ledger(|ledger, _| ledger.log_ins_so_far());
    sleep(SUSPEND_NOTICED).await;
    let after = world.ledger(|ledger, _| ledger.log_ins_so_far());
    for (account, name) in ACCOUNTS.iter().enumerate() {
        if after[account] == before[account] {
            world.break_promise(format!("the token of {name} ended in a suspend, and is not replaced after {SUSPEND_NOTICED:?}"));
        }
    }
}

/// For some minutes each call gets a 401, with whatever token: log-ins do not cure that, so there are fewer and fewer.
async fn refusing_path(world: &Arc<World>) {
    world.note("event: each call gets a 401");
    world.ledger(|ledger, _| ledger.expect_trouble());
    world.state(|state| (0..SERVERS).for_each(|server| state.moods[server].1 = Mood::Status(401, None)));
    let (account, before) = (world.draw(0..=1), world.ledger(|ledger, _| ledger.log_ins_so_far()));
    let time = Duration::from_secs(300);
    let began = world.clock.elapsed();
    while world.clock.elapsed() < began + time {
        sleep(world.milliseconds(500..=6000)).await;
        let ending = raw_calls::plain_call(world, account).await;
        if ending != Some(Ending::Answered(401)) {
            world.break_promise(format!("a call that gets a 401 with whatever token ends as {ending:?}"));
        }
    }
    let after = world.ledger(|ledger, _| ledger.log_ins_so_far());
    // The floor doubles each time. One more is a renewal.
    let (mut floor, mut most) = (world.terms().floor, 2);
    while floor < time {
        (floor, most) = (floor * 2, most + 1);
    }
    if after[account] - before[account] > most {
        world.break_promise(format!(
            "401s for {time:?} led to {} log-ins; the floor allows {most}",
            after[account] - before[account]
        ));
    }
    world.state(|state| (0..SERVERS).for_each(|server| state.moods[server].1 = Mood::Well));
    world.ledger(Ledger::expect_answers);
}

/// Log-ins fail for a long time, all in the same way, or each in another (`mixed`).
async fn outage(world: &Arc<World>, daemon: &Daemon, mixed: bool) {
    let mood = [
        Mood::Status(500, Some(300)),
        Mood::Status(502, None),
        Mood::Status(429, None),
        Mood::Status(429, Some(100)),
        Mood::Status(503, Some(3000)),
        Mood::Status(401, None),
        Mood::Status(403, None),
        Mood::Status(404, Some(5)),
        Mood::Odd,
    ][world.draw(0..=8)];
    world.note(&format!("event: log-ins fail for long: {mood:?}, in several ways: {mixed}"));
    world.be_quiet(true);
    world.state(|state| {
        state.mixed_log_ins = mixed;
        (0..SERVERS).for_each(|server| state.moods[server].0 = mood);
    });
    let began = world.clock.elapsed();
    let seconds = if mixed { 4800 } else { world.draw(1200..=3600) };
    sleep(Duration::from_secs(seconds as u64)).await;
    world.ledger(|ledger, at| ledger.judge_outage(at, began, world.log_in_time()));
    world.note("event: log-ins are well again");
    world.state(|state| {
        state.mixed_log_ins = false;
        (0..SERVERS).for_each(|server| state.moods[server].0 = Mood::Well);
    });
    let is_asked_soon = !mixed && matches!(mood, Mood::Odd | Mood::Status(429 | 502, None) | Mood::Status(500, _));
    if is_asked_soon {
        sleep(LONGEST_WAIT).await;
    } else {
        // One that is under way may fail still, and would be joined.
        sleep(LONGEST_LOG_IN).await;
        commands::log_in(world, daemon, &[0, 1]).await;
        sleep(Duration::from_secs(4)).await;
    }
}
