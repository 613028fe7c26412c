//! Why there is no answer, and whether the upstream may have acted on the request.

use std::fmt;

use thiserror::Error;

use crate::connect::ConnectError;

/// Why there is no answer. Holds nothing of the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{cause}")]
pub struct SendError {
    /// What went wrong.
    pub cause: Cause,
    /// Whether the upstream may have seen anything of the request.
    pub sent: Sent,
}

impl SendError {
    /// Nothing of the request has left.
    pub(super) fn unsent(cause: impl Into<Cause>) -> Self {
        Self { cause: cause.into(), sent: Sent::Nothing }
    }

    /// The upstream may have acted on the request.
    pub(super) const fn after_sending(cause: Cause) -> Self {
        Self { cause, sent: Sent::Something }
    }
}

/// What went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Cause {
    /// No connection could be made.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The connection ended before an answer.
    #[error("the upstream closed the connection before it answered")]
    Closed,
    /// The connection ended in the head of an answer, or after an interim one.
    #[error("the upstream closed the connection in the head of its answer")]
    BrokenOff,
    /// The upstream's answer was not HTTP.
    #[error("the upstream's answer is not HTTP")]
    Protocol,
    /// On a connection that had carried another exchange, something came in place of an answer: the rest of an earlier one.
    #[error("the upstream sent more than one answer, or less")]
    Surplus,
    /// The upstream asked for HTTP/1.1 in place of HTTP/2 (RFC 9113, 7).
    #[error("the upstream wants HTTP/1.1")]
    Http1Required,
    /// The answer's head is over the limit.
    #[error("the head of the upstream's answer is too large")]
    HeadTooLarge,
    /// The client's body ended in an error.
    #[error("the client did not finish its request")]
    RequestBody,
    /// The upstream switched protocols, and not to the one that it was asked for.
    #[error("the upstream switched to another protocol than was asked for")]
    Upgrade,
}

/// How much of a failed request has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// No byte reached the kernel, or the upstream said that it did not act on the request: sending it again can't do
    /// anything twice.
    Nothing,
    /// The upstream may have acted on the request.
    Something,
}

/// The upstream broke an answer's body off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BodyBroken;

impl fmt::Display for BodyBroken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the upstream broke its answer off")
    }
}

impl std::error::Error for BodyBroken {}
