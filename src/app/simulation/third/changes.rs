//! Adds and removes the third account and its API, by reloads.

use std::sync::Arc;

use tokio::time::sleep;

use crate::{
    account::Account,
    app::simulation::{
        commands::{self, Daemon},
        third_account::{NAME, Served},
        world::World,
    },
};

/// Adds the account and its API, or removes them.
pub(in crate::app::simulation) async fn change(world: &Arc<World>, daemon: &Daemon) {
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
    commands::log_out_of(world, daemon, None).await;
    let (world, daemon, after) = (Arc::clone(world), daemon.clone(), world.milliseconds(1000..=8000));
    tokio::spawn(async move {
        sleep(after).await;
        commands::log_in(&world, &daemon, &[0, 1]).await;
    });
}

async fn add(world: &Arc<World>, daemon: &Daemon) {
    world.note("event: a reload adds the third account and its API");
    let all_logged_out = || daemon.accounts().iter().filter(|account| account.name() != NAME).all(Account::is_logged_out);
    let before = all_logged_out();
    begin(world, Served::Yes);
    commands::reload_what_changed(world, daemon).await;
    let after = all_logged_out();
    world.third(|third, at| third.end_change(at, |third| third.logged_out = before && after));
    world.note("event: it was added");
    if before != after {
        // It has logged in, or has not.
        commands::log_in_third(world, daemon);
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
    commands::reload_what_changed(world, daemon).await;
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
    let refusal = commands::reload_refused(world, daemon, put_back).await;
    if !refusal.as_ref().is_some_and(|reasons| reasons.iter().any(|reason| reason.contains("stop listening"))) {
        world.break_promise(format!("a reload that closes an address ended as {refusal:?}"));
    }
}
