//! Clients that need a place while all are taken: by clients that take nothing of their answers, by tunnels until a reload allows more
//! connections, and by each other (`docs/capacity.md`).

use std::{collections::VecDeque, sync::Arc, time::Duration};

use tokio::{
    task::{JoinSet, yield_now},
    time::{sleep, timeout},
};

use super::{
    calls::CallId,
    commands::{self, Daemon},
    ledger::Ending,
    raw_calls,
    wire::Wire,
    world::World,
};
use crate::clock;

/// For how long a client may take nothing while another one waits for its place.
const STALLED: Duration = Duration::from_secs(10);
/// How long a call takes, once it has a place, and how long the daemon may take to give it one.
const SERVED: Duration = Duration::from_millis(1500);

/// Plays a scene, where places are few.
pub(super) async fn play(world: &Arc<World>, daemon: &Daemon) {
    if world.has_room() || world.terms().requests < 1000 {
        return;
    }
    let account = world.draw(0..=1);
    match world.draw(0..=4) {
        0 => stalled(world, account).await,
        1 => more(world, daemon, account).await,
        2..=3 => declined(world, account).await,
        _ => burst(world, account).await,
    }
    sleep(Duration::from_secs(7)).await;
}

/// Each place is taken by a client that takes nothing of a long answer. One that waits gets the place of the one that has done so for
/// longest, and the others keep theirs.
async fn stalled(world: &Arc<World>, account: usize) {
    world.note("event: clients take nothing of their answers, and one waits for a place");
    let began = clock::instant();
    let mut all: Vec<(CallId, Wire)> = Vec::new();
    for _ in 0..world.terms().places {
        let Some(mut wire) = raw_calls::connect(world, account).await else { return };
        let call = raw_calls::begin_long(world, account);
        wire.write(&raw_calls::request(world, account, call, "GET")).await;
        all.push((call, wire));
        sleep(world.milliseconds(200..=1500)).await;
    }
    sleep(world.milliseconds(0..=2000)).await;
    let ending = raw_calls::quick_call(world, account).await;
    let waited = began.elapsed();
    if ending != Some(Ending::Answered(200)) || waited < STALLED || waited > STALLED + SERVED {
        world.break_promise(format!("a client that waited for the place of a stalled one ends as {ending:?} after {waited:?}"));
    }
    let mut cut = 0;
    for (call, mut wire) in all {
        let read = timeout(Duration::from_secs(5), raw_calls::read_answer(world, &mut wire, call, "GET")).await;
        cut += u32::from(!matches!(read, Ok(Some(Ending::Answered(200)))));
        world.end_call(call, &Ending::GivenUp);
    }
    if cut != 1 {
        world.break_promise(format!("one client waited for a place, and {cut} lost theirs"));
    }
}

/// Tunnels take all places. A client that waits is served once a reload allows for more.
async fn more(world: &Arc<World>, daemon: &Daemon, account: usize) {
    world.note("event: tunnels take all places, and a reload makes more");
    let mut tunnels = Vec::new();
    for _ in 0..world.terms().places {
        let Some(mut wire) = raw_calls::connect(world, account).await else { return };
        let call = raw_calls::begin_tunnel(world, &mut wire, account).await;
        let agreed = timeout(Duration::from_secs(5), raw_calls::read_answer(world, &mut wire, call, "GET")).await;
        if !matches!(agreed, Ok(Some(Ending::Answered(101)))) {
            world.break_promise(format!("the tunnel {call} did not begin: {agreed:?}"));
        }
        tunnels.push((call, wire));
    }
    let waiting = {
        let world = Arc::clone(world);
        tokio::spawn(async move { raw_calls::quick_call(&world, account).await })
    };
    sleep(world.milliseconds(1000..=3000)).await;
    if waiting.is_finished() {
        world.break_promise("tunnels had all the places, and another client was served".to_owned());
    }
    world.allow_more(2);
    commands::reload_what_changed(world, daemon).await;
    match timeout(SERVED, waiting).await {
        Ok(Ok(Some(Ending::Answered(200)))) => {}
        ended => world.break_promise(format!("there are more places, and a client that waited ends as {ended:?}")),
    }
    for (call, mut wire) in tunnels {
        wire.finish().await;
        world.end_call(call, &Ending::Answered(101));
    }
}

/// More clients than there are places come at once, and each one sends its request at once: all are served.
async fn burst(world: &Arc<World>, account: usize) {
    world.note("event: more clients than places come at once");
    let mut clients = JoinSet::new();
    for _ in 0..world.terms().places + world.draw(1..=4) {
        let world = Arc::clone(world);
        clients.spawn(async move { raw_calls::plain_call_kept(&world, account).await });
    }
    let began = clock::instant();
    while let Some(ending) = clients.join_next().await {
        let waited = began.elapsed();
        if !matches!(ending, Ok(Some(Ending::Answered(200)))) || waited > 2 * SERVED {
            world.break_promise(format!("a client of a burst ends as {ending:?} after {waited:?}"));
        }
    }
}

/// All places are taken by clients that have got their answers. The one that has been idle for longest sends its next request at the
/// moment when another client comes, so that it may keep its place. The other one gets that of the next.
async fn declined(world: &Arc<World>, account: usize) {
    world.note("event: a client waits for a place, and the connection that is asked for it has a request");
    let mut idle = VecDeque::new();
    for _ in 0..world.places() {
        let Some(mut wire) = raw_calls::connect(world, account).await else { return };
        raw_calls::quick_call_on(world, &mut wire, account).await;
        idle.push_back(wire);
        sleep(Duration::from_millis(1)).await;
    }
    sleep(world.milliseconds(200..=800)).await;
    let (Some(first), Some(mut comes)) = (idle.pop_front(), raw_calls::connect_now(world, account)) else { return };
    for _ in 0..world.draw(0..=2) {
        yield_now().await;
    }
    let upload = raw_calls::begin_upload_on(world, first, account).await;
    let mut waiting = {
        let world = Arc::clone(world);
        tokio::spawn(async move { raw_calls::quick_call_on(&world, &mut comes, account).await })
    };
    match timeout(SERVED, &mut waiting).await {
        Ok(Ok(Ending::Answered(200))) => {}
        ended => {
            world.break_promise(format!("there are clients without requests, and one that waits for a place ends as {ended:?}"));
        }
    }
    upload.finish(world).await;
    if !waiting.is_finished() {
        drop(waiting.await);
    }
}

/// Requests in progress have all the places when the drain begins, and one more client waits for its own. It is served when they end.
pub(super) async fn wait_through_drain(world: &Arc<World>) {
    if world.has_room() || world.terms().requests < 1000 || !world.ledger(|ledger, _| ledger.is_well()) {
        return;
    }
    world.note("event: a client will wait for a place when the drain begins");
    let account = world.draw(0..=1);
    for _ in 0..world.places() {
        let Some(upload) = raw_calls::begin_upload(world, account).await else { return };
        let (world, after) = (Arc::clone(world), world.milliseconds(1000..=4000));
        tokio::spawn(async move {
            sleep(after).await;
            upload.finish(&world).await;
        });
    }
    sleep(Duration::from_millis(20)).await;
    let Some(mut wire) = raw_calls::connect(world, account).await else { return };
    let world = Arc::clone(world);
    tokio::spawn(async move {
        let ending = raw_calls::quick_call_on(&world, &mut wire, account).await;
        if ending != Ending::Answered(200) {
            world.break_promise(format!("a client waited for a place when the drain began, and ends as {ending:?}"));
        }
    });
    sleep(Duration::from_millis(20)).await;
}
