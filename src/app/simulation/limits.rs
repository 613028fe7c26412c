//! The settings that a reload changes while requests run: which value holds for requests in progress, and which for those that come
//! later (`docs/reload.md`).

use std::{sync::Arc, time::Duration};

use tokio::time::sleep;

use super::{
    events::{self, Daemon},
    ledger::Ending,
    strange,
    world::World,
};

/// What a reload may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    pub(super) response_timeout: Duration,
    pub(super) body_idle: Duration,
    pub(super) max_age: Duration,
    pub(super) drain_timeout: Duration,
    /// `max_requests`.
    pub(super) requests: usize,
}

impl Limits {
    /// Those before the first reload.
    pub(super) fn first(requests: usize) -> Self {
        let [response_timeout, body_idle, max_age, drain_timeout] = [20, 15, 300, 20].map(Duration::from_secs);
        Self { response_timeout, body_idle, max_age, drain_timeout, requests }
    }

    /// Others.
    pub(super) fn drawn(self, world: &World) -> Self {
        let of = |all: &[u64]| Duration::from_secs(all[world.draw(0..=all.len() - 1)]);
        let (max_age, response_timeout) = (of(&[8, 30, 300]), of(&[12, 20]));
        let (body_idle, drain_timeout) = (of(&[11, 15]), of(&[12, 20]));
        Self { response_timeout, body_idle, max_age, drain_timeout, ..self }
    }

    /// The least and the most that a time may be while a reload is under way that draws others.
    pub(super) fn any() -> [(Duration, Duration); 2] {
        [(12, 20), (11, 15)].map(|(least, most)| (Duration::from_secs(least), Duration::from_secs(most)))
    }
}

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
        uploads.extend(strange::begin_upload(world, account).await);
    }
    sleep(Duration::from_millis(200)).await;
    let allow = async |requests: usize| {
        world.state(|state| state.limits.requests = requests);
        events::reload_what_changed(world, daemon).await;
    };
    allow(FEWER).await;
    world.ledger(|ledger, _| ledger.allows_requests(FEWER));
    let mut left = uploads.len();
    for upload in uploads {
        let ending = strange::quick_call(world, account).await;
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
