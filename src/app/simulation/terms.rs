//! The settings of a simulation: those that stay, and those that a reload may change.

use std::time::Duration;

/// The settings of a simulation that stay.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    /// `max_connections`, and `max_requests`.
    pub(super) places: usize,
    pub(super) requests: usize,
    /// Worker tasks.
    pub(super) workers: usize,
    /// `relogin_floor`, and `replay_buffer` in KiB.
    pub(super) floor: Duration,
    pub(super) replay_buffer: usize,
    pub(super) drain_delay: Duration,
    /// How long every log-in takes.
    pub(super) log_in: Duration,
    /// The second API's upstream speaks TLS, and HTTP/2.
    pub(super) tls: bool,
    /// `pool_idle`.
    pub(super) pool_idle: Duration,
    /// Servers say for how long they keep connections.
    pub(super) announces: bool,
}

impl Terms {
    pub(super) fn draw(chance: &mut fastrand::Rng) -> Self {
        Self {
            places: [2, 3, 5, 4096, 4096, 4096][chance.usize(0..6)],
            requests: [1, 2, 1024, 1024, 1024, 1024][chance.usize(0..6)],
            workers: chance.usize(1..=2),
            floor: Duration::from_secs([2, 5, 30][chance.usize(0..3)]),
            replay_buffer: [2, 64][chance.usize(0..2)],
            drain_delay: Duration::from_secs([0, 0, 3][chance.usize(0..3)]),
            log_in: Duration::from_millis([0, 0, 300, 2500][chance.usize(0..4)]),
            tls: chance.bool(),
            pool_idle: Duration::from_secs([10, 40, 90][chance.usize(0..3)]),
            announces: chance.usize(0..4) == 0,
        }
    }
}

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
    pub(super) fn drawn(self, chance: &mut fastrand::Rng) -> Self {
        let mut of = |all: &[u64]| Duration::from_secs(all[chance.usize(0..all.len())]);
        let (max_age, response_timeout) = (of(&[8, 30, 300]), of(&[12, 20]));
        let (body_idle, drain_timeout) = (of(&[11, 15]), of(&[12, 20]));
        Self { response_timeout, body_idle, max_age, drain_timeout, ..self }
    }

    /// The least and the most that a time may be while a reload is under way that draws others.
    pub(super) fn any() -> [(Duration, Duration); 2] {
        [(12, 20), (11, 15)].map(|(least, most)| (Duration::from_secs(least), Duration::from_secs(most)))
    }
}
