//! Requests that wait while a connection to the upstream is opened, and the one that opens it gives up: the others are served all the
//! same.

use std::{sync::Arc, time::Duration};

use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{
    commands::{self, Daemon},
    ledger::Ending,
    raw_calls,
    servers::Reception,
    world::World,
};

/// How long an account takes to log in, after a log-out.
const LOGGED_IN: Duration = Duration::from_secs(5);
/// How long a call takes beside the time for its connection.
const SERVED: Duration = Duration::from_secs(2);
/// The second API, which speaks HTTP/2 to its upstream.
const ACCOUNT: usize = 1;

/// Plays that, where a client may leave before its request is carried out.
pub(super) async fn play(world: &Arc<World>, daemon: &Daemon) {
    if !world.has_room() || world.terms().requests < 1000 || world.chance(0.3) {
        return;
    }
    world.note("event: several requests wait for a connection, and the one that opens it gives up");
    // There is no connection after a log-out.
    commands::log_out_of(world, daemon, Some(ACCOUNT)).await;
    commands::log_in(world, daemon, &[ACCOUNT]).await;
    sleep(LOGGED_IN).await;
    let delay = world.milliseconds(1000..=3400);
    world.state(|state| state.receptions[1] = Some(Reception::Taken(delay)));
    let Some((call, mut first)) = raw_calls::begin_quick(world, ACCOUNT).await else { return };
    let mut others = JoinSet::new();
    for _ in 0..world.draw(1..=3) {
        sleep(world.milliseconds(0..=200)).await;
        let world = Arc::clone(world);
        others.spawn(async move { raw_calls::quick_call(&world, ACCOUNT).await });
    }
    sleep(world.milliseconds(0..=300)).await;
    world.note("event: it gives up");
    first.close();
    world.end_call(call, &Ending::GivenUp);
    // The next one opens a connection, and further ones where that allows too few streams.
    let limit = 3 * delay + SERVED;
    let served = timeout(limit, async {
        while let Some(ending) = others.join_next().await {
            if !matches!(ending, Ok(Some(Ending::Answered(200)))) {
                world.break_promise(format!("a request that waited for a connection ends as {ending:?}"));
            }
        }
    });
    if served.await.is_err() {
        world.break_promise(format!("requests that waited for a connection that another one opened still wait after {limit:?}"));
        others.detach_all();
    }
    world.state(|state| state.receptions[1] = None);
}
