//! What callers choose: which connections a request may take, how long connections live, how large an answer's head may be.

use std::time::Duration;

use tokio::time::Instant;

/// Memory that one connection may take to buffer a body, in bytes.
pub(super) const BODY_BUFFER: usize = 64 * 1024;

/// A connection that is not open after this time is slow: even from far away it takes less.
pub(super) const SLOW: Duration = Duration::from_secs(1);

/// Which connections a request may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reuse {
    /// Any open one.
    Any,
    /// One that the upstream is unlikely to be closing right now, by what is known of it.
    Safe,
    /// One that was opened after this time. A request that failed gives the time when it took its connection; requests that
    /// fail together may share the new one.
    OpenedAfter(Instant),
}

/// How large an answer's head may be.
#[derive(Clone, Copy, Debug)]
pub struct HeadLimits {
    /// Bytes.
    pub bytes: usize,
    /// Header lines.
    pub lines: usize,
}

/// How long connections live.
#[derive(Clone, Copy, Debug)]
pub struct Lifetimes {
    /// For how long an unused connection is kept.
    pub idle: Duration,
    /// How old any connection may grow. Each gets a little more or less, so that they do not end together.
    pub max_age: Duration,
}
