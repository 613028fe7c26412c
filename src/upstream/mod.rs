//! Connections to one origin, kept and used again; one request, sent once.
//!
//! Depends on `connect`, `clock` and `config`. The only place that names hyper's client types. Guarantees: a request is
//! written to one connection at the most, and a failure says whether any byte of it left; whether it may be sent again is
//! for the caller to judge.

mod answer;
mod h1;
mod pool;
mod tunnel;

use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::Full;
use hyper::body::Incoming;
use thiserror::Error;

pub use answer::Answer;
use pool::Pool;

use crate::connect::{ConnectError, Connector};

/// Why there is no answer. Holds nothing of the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{cause}")]
pub struct SendError {
    /// What went wrong.
    pub cause: Cause,
    /// Whether the upstream may have seen anything of the request.
    pub sent: Sent,
}

/// What went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Cause {
    /// There was no connection to be had.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The connection ended before an answer.
    #[error("the upstream closed the connection before it answered")]
    Closed,
    /// What came was not HTTP.
    #[error("the upstream's answer is not HTTP")]
    Protocol,
    /// The answer's head is over the limit.
    #[error("the head of the upstream's answer is too large")]
    HeadTooLarge,
    /// The client's body ended in an error.
    #[error("the client did not finish its request")]
    RequestBody,
    /// It switched protocols, and not to the one that it was asked for.
    #[error("the upstream switched to another protocol than was asked for")]
    Upgrade,
}

/// How far a failed request came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// Not a byte reached the kernel: sending it again can't do anything twice.
    Nothing,
    /// The upstream may have acted on it.
    Something,
}

/// Which connections a request may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reuse {
    /// Any that is open.
    Any,
    /// One that was used not longer ago than this: the other side is unlikely to be closing it right now.
    IdleAtMost(Duration),
    /// A new one.
    Never,
}

/// Sizes that an answer's head must keep to.
#[derive(Clone, Copy, Debug)]
pub struct HeadLimits {
    /// Bytes.
    pub bytes: usize,
    /// Header lines.
    pub lines: usize,
}

/// Memory that one connection may take to buffer a body.
pub const BODY_BUFFER: usize = 64 * 1024;

/// One origin with its kept connections; one per worker and API.
pub struct Upstream<B> {
    connector: Connector,
    head: HeadLimits,
    pool: Pool<B>,
}

impl<B> Upstream<B>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: std::error::Error + Send + Sync,
{
    /// No connection is made until one is needed. `idle`: how long an unused one is kept.
    #[must_use]
    pub fn new(connector: Connector, head: HeadLimits, idle: Duration) -> Self {
        Self { connector, head, pool: Pool::new(idle) }
    }

    /// A kept connection, or a new one; the connector's time-out bounds the wait.
    pub async fn lease(&self, reuse: Reuse) -> Result<Lease<B>, SendError> {
        let connection = match self.pool.take(reuse).await {
            Some(kept) => kept,
            None => self.open().await?,
        };
        Ok(Lease { connection, pool: self.pool.handle() })
    }

    async fn open(&self) -> Result<h1::Open<B>, SendError> {
        let unsent = |cause| SendError { cause, sent: Sent::Nothing };
        let connection = self.connector.connect().await.map_err(|error| unsent(error.into()))?;
        h1::open(connection, self.head).await.map_err(unsent)
    }

    /// Closes connections that were idle for too long or that the other side closed.
    pub fn sweep(&self) {
        self.pool.sweep();
    }

    /// Closes every idle connection now.
    pub fn close_idle(&self) {
        self.pool.clear();
    }
}

/// A connection that is ours for one exchange.
pub struct Lease<B> {
    connection: h1::Open<B>,
    pool: Pool<B>,
}

impl<B> Lease<B>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: std::error::Error + Send + Sync,
{
    /// Sends one request, once. It waits as long as the upstream does: the caller limits that. Dropping the future ends
    /// the exchange and closes the connection.
    pub async fn send(self, request: Request<B>) -> Result<Response<Answer<B>>, SendError> {
        let Self { mut connection, pool } = self;
        let (response, uploaded) = connection.send(request).await?;
        Ok(response.map(|incoming| Answer::new(incoming, connection, pool, uploaded)))
    }
}

/// One request over a connection of its own, for log-ins: nothing is kept or shared with the data path.
pub async fn exchange(connector: &Connector, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, SendError> {
    let unsent = |cause| SendError { cause, sent: Sent::Nothing };
    let connection = connector.connect().await.map_err(|error| unsent(error.into()))?;
    h1::once(connection, request).await
}

#[cfg(test)]
mod tests;
