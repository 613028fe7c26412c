//! What happens to the daemon's machine: the files of the first account's credentials change or go, and it is suspended.

use std::{sync::Arc, time::Duration};

use tokio::{task::yield_now, time::sleep};

use super::{ledger::Ledger, world::World};

/// How long the daemon may take to log in with credentials that have changed: their files come to rest, and it connects.
const CHANGE_NOTICED: Duration = Duration::from_secs(7);

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
