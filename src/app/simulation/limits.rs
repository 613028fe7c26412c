//! The settings that a reload changes while requests run: which value holds for requests in progress, and which for those that come
//! later (`docs/reload.md`).

use std::{sync::Arc, time::Duration};

use tokio::time::sleep;

use super::{
    commands::{self, Daemon},
    ledger::Ending,
    raw_calls,
    world::World,
};

/// How many requests are in progress when a reload allows fewer.
const IN_PROGRESS: usize = 3;
/// How many it allows.
const FEWER: usize = 2;
/// For how long an API is busy after a refusal.
const BUSY: Duration = Duration::from_secs(12);

/// A reload allows fewer requests than are in progress. They are finished, and others are refused until enough have ended.
pub(super) async fn play(world: &Arc<World>, daemon: &Daemon) {
    let requests = world.terms().requests;
    if !world.has_room() || requests < 1000 || world.chance(0.5) {
        return;
    }
    let account = world.draw(0..=1);
    world.note("event: a reload allows fewer requests than are in progress");
    let mut uploads = Vec::new();
    for _ in 0..IN_PROGRESS {
        uploads.extend(raw_calls::begin_upload(world, account).await);
    }
    sleep(Duration::from_millis(200)).await;
    let allow = async |requests: usize| {
        world.state(|state| state.limits.requests = requests);
        commands::reload_what_changed(world, daemon).await;
    };
    allow(FEWER).await;
    world.ledger(|ledger, _| ledger.allows_requests(FEWER));
    let mut left = uploads.len();
    for upload in uploads {
        let ending = raw_calls::quick_call(world, account).await;
        let is_right = if left >= FEWER {
            matches!(&ending, Some(Ending::Refused(503, code)) if code == "too_many_requests_in_flight")
        } else {
            ending == Some(Ending::Answered(200))
        };
        if !is_right {
            world.break_promise(format!("{left} requests are in progress, {FEWER} may be, and one more ends as {ending:?}"));
        }
        let ending = upload.finish(world).await;
        if ending != Ending::Answered(200) {
            world.break_promise(format!("a request that was in progress when fewer were allowed ends as {ending:?}"));
        }
        left -= 1;
    }
    allow(requests).await;
    sleep(BUSY).await;
    world.ledger(|ledger, _| ledger.allows_requests(requests));
}
