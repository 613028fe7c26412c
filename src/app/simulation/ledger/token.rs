//! A token that a server has made.

use std::time::Duration;

/// A token that a server has made.
pub(super) struct Token {
    pub(super) number: u64,
    pub(super) server: usize,
    pub(super) organization: String,
    /// By the right time, in seconds since 1970.
    pub(super) expires: f64,
    /// In seconds.
    pub(super) life: f64,
    /// How long its answer was on its way, by which it may count as older than it is.
    pub(super) late: f64,
    /// When its answer had been written whole.
    pub(super) answered: Option<Duration>,
    /// From when on it must not be sent, and why.
    pub(super) withdrawn: Option<(Duration, &'static str)>,
    pub(super) revoked: bool,
    /// A request that carried it was answered 401.
    pub(super) refused: bool,
}

impl Token {
    /// How many seconds early it counts as expired for sure. The daemon goes by a `Date`, which is of whole seconds.
    pub(super) fn margin(&self) -> f64 {
        (self.life / 10.0).clamp(1.0, 2.0) - 1.05
    }
}
