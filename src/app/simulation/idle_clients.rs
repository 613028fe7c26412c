//! Clients that keep their connection after an answer, and send nothing more, or the beginning of a further request: for how long the
//! daemon waits for them (`client_idle` and `head_timeout`, `docs/settings.md`).

use std::{sync::Arc, time::Duration};

use tokio::time::timeout;

use super::{raw_calls, wire::Wire, world::World};
use crate::clock;

/// `client_idle`.
const CLIENT_IDLE: Duration = Duration::from_secs(20);

/// Makes a call, and then nothing, or a part of a head.
pub(super) async fn stay(world: &Arc<World>, wire: &mut Wire, account: usize) {
    raw_calls::call_on(world, wire, account).await;
    if !wire.is_open() || !world.has_room() {
        return;
    }
    let begins = world.chance(0.5);
    let (limit, what) = if begins { (raw_calls::HEAD_TIMEOUT, "a later head") } else { (CLIENT_IDLE, "an idle client") };
    if begins {
        tokio::time::sleep(world.milliseconds(0..=15_000)).await;
        wire.write(b"GET /v2/calls/0 HT").await;
    }
    let since = clock::instant();
    let ended = timeout(limit + raw_calls::LATE, async { while wire.read_more().await.is_some() {} }).await.is_ok();
    let kept = since.elapsed();
    // It may be closed with the answer.
    let is_closed = ended && kept < Duration::from_millis(200);
    if (!ended || kept < limit) && !is_closed && world.is_listening() {
        world.break_promise(format!("{what} may take {limit:?}, and had {kept:?}; the connection was closed: {ended}"));
    }
}
