//! Connections to one origin, kept and used again; one request, sent once.
//!
//! Depends on `connect`, `clock`, `metrics` and `config`. The only place that names the client types of hyper and h2. Guarantees: a
//! request is written to one connection at the most, and a failure says whether the upstream may have acted on it; whether
//! it may be sent again is for the caller to judge.

mod answer;
mod h1;
mod h2;
mod pool;
mod streams;
mod tunnel;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, uri::Authority};
use http_body::Body;
use http_body_util::Full;
use hyper::body::Incoming;
use thiserror::Error;
use tokio::time::Instant;

pub use answer::{Broken, ResponseBody};
use pool::Pool;
use streams::{Http2Stream, PendingConnection, StreamPermit, StreamSlot, Streams};

use crate::{
    clock::{self, Jitter, Moment},
    config::Http2,
    connect::{ConnectError, Connection, Connector, Offer, Protocol},
    metrics::Meter,
};

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
    /// Not a byte reached the kernel, or the upstream said that it did not act on it: sending it again can't do anything
    /// twice.
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
    /// A new one, for a request that failed on another that it took at this time. Those that fail together may share it.
    OpenedAfter(Instant),
}

impl Reuse {
    /// For how long a connection that is kept for `keep` may have been idle. `None`: it may not be a used one.
    fn idle_at_most(self, keep: Duration) -> Option<Duration> {
        match self {
            Self::Any => Some(keep),
            Self::IdleAtMost(limit) => Some(limit.min(keep)),
            Self::OpenedAfter(_) => None,
        }
    }
}

/// Sizes that an answer's head must keep to.
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
    /// An unused one.
    pub idle: Duration,
    /// Any; each a little longer or shorter, so that they don't end together.
    pub max_age: Duration,
}

/// Memory that one connection may take to buffer a body.
pub const BODY_BUFFER: usize = 64 * 1024;

/// By how much the boot clock may run ahead of the one that stops during a suspend, from one sweep to the next.
const SUSPENDED: Duration = Duration::from_secs(2);

/// One origin with its kept connections; one per worker and API.
pub struct Upstream<B> {
    connector: Connector,
    head: HeadLimits,
    max_age: Duration,
    jitter: Mutex<Jitter>,
    pool: Pool<B>,
    /// Where HTTP/2 is offered.
    http2: Option<Shared>,
    swept: Mutex<Option<(Moment, Instant)>>,
    meter: Arc<Meter>,
}

/// Connections that requests share, and whom they lead to.
type Shared = (Streams, Authority);

impl<B> Upstream<B>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: std::error::Error + Send + Sync,
{
    /// No connection is made until one is needed; `meter` counts them. `None` when the origin's host can't stand in a URI.
    #[must_use]
    pub fn new(
        connector: Connector,
        http2: Http2,
        head: HeadLimits,
        lifetimes: Lifetimes,
        jitter: Jitter,
        meter: Arc<Meter>,
    ) -> Option<Self> {
        let Lifetimes { idle, max_age } = lifetimes;
        let http2 = match http2 {
            Http2::Off => None,
            Http2::Auto => Some((Streams::new(idle), connector.origin().authority().try_into().ok()?)),
        };
        let (jitter, swept) = (Mutex::new(jitter), Mutex::default());
        Some(Self { connector, head, max_age, jitter, pool: Pool::new(idle), http2, swept, meter })
    }

    /// A kept connection, room on a shared one, or a new one; the connector's time-out bounds the wait.
    pub async fn lease(&self, reuse: Reuse) -> Result<Lease<B>, SendError> {
        loop {
            if let Some(kept) = self.pool.take(reuse).await {
                return Ok(self.exclusive(kept));
            }
            // Boxed: a request holds, and is moved with, room for all that it may wait for, and hardly any connects.
            let Some(shared) = &self.http2 else { return Box::pin(self.open_http1()).await };
            match shared.0.claim(reuse) {
                StreamSlot::Stream(stream) => return Ok(Lease(Held::Stream(stream))),
                StreamSlot::Open(opening) => return Box::pin(self.open(shared, Some(opening))).await,
                StreamSlot::OpenHttp1 => return Box::pin(self.open(shared, None)).await,
                StreamSlot::Wait(permit) => match permit.await {
                    Ok(StreamPermit::Stream(stream)) => return Ok(Lease(Held::Stream(stream))),
                    Ok(StreamPermit::Open(opening)) => return Box::pin(self.open(shared, Some(opening))).await,
                    Ok(StreamPermit::Failed(error)) => return Err(error),
                    Ok(StreamPermit::Again) | Err(_) => {}
                },
            }
        }
    }

    async fn open_http1(&self) -> Result<Lease<B>, SendError> {
        let connection = self.connector.connect(Offer::Http1).await.map_err(|error| unsent(error.into()))?;
        self.adopt(connection).await
    }

    /// Connects and finds out what the server speaks. `opening`: others wait to hear it.
    async fn open(&self, (streams, authority): &Shared, opening: Option<PendingConnection>) -> Result<Lease<B>, SendError> {
        let opened = match self.connector.connect(Offer::Http1And2).await {
            Ok(connection) if connection.protocol == Protocol::Http1 => {
                streams.speaks_http1();
                drop(opening);
                return self.adopt(connection).await;
            }
            Ok(connection) => {
                let retires = self.retirement(&connection);
                let opened = h2::open(connection, authority.clone(), self.head, self.meter.connected()).await;
                opened.map(|(link, driver)| (link, driver, retires)).map_err(unsent)
            }
            Err(error) => Err(unsent(error.into())),
        };
        match opened {
            Ok((link, driver, retires)) => Ok(Lease(Held::Stream(streams.join(link, driver, opening, retires)))),
            Err(error) => {
                if let Some(opening) = opening {
                    opening.failed(error);
                }
                Err(error)
            }
        }
    }

    async fn adopt(&self, connection: Connection) -> Result<Lease<B>, SendError> {
        let retires = self.retirement(&connection);
        let open = h1::open(connection, self.head, retires, self.meter.connected()).await.map_err(unsent)?;
        Ok(self.exclusive(open))
    }

    fn exclusive(&self, connection: h1::Open<B>) -> Lease<B> {
        Lease(Held::Exclusive(connection, self.pool.handle()))
    }

    /// When a connection that was made just now is too old, or its server's certificate.
    fn retirement(&self, connection: &Connection) -> Instant {
        clock::instant() + self.connector.trusted_for(self.age(), connection)
    }

    /// How old a connection may grow: scattered, so that they are not all renewed at once.
    fn age(&self) -> Duration {
        let fraction = self.jitter.lock().unwrap_or_else(PoisonError::into_inner).fraction();
        self.max_age.mul_f64(0.8 + 0.4 * fraction)
    }

    /// Closes connections that were idle for too long, that have grown old or that the other side closed. `now` is the
    /// clock that runs on while the machine is suspended: when it did, nobody knows what became of the connections.
    /// Called about once a second.
    pub fn sweep(&self, now: Moment) {
        let awake = clock::instant();
        let before = self.swept.lock().unwrap_or_else(PoisonError::into_inner).replace((now, awake));
        if before.is_some_and(|(then, instant)| now.since(then) > awake.duration_since(instant) + SUSPENDED) {
            self.close_idle();
        }
        self.pool.sweep();
        if let Some((streams, _)) = &self.http2 {
            streams.sweep();
        }
    }

    /// An answer did not come within `silence`. What was open when it was asked for may lead nowhere: it is closed if it
    /// has been idle since, and a shared one takes no new request.
    pub fn retire_older_than(&self, silence: Duration) {
        self.pool.retire_older_than(silence);
        if let Some((streams, _)) = &self.http2 {
            streams.retire_older_than(silence);
        }
    }

    /// Closes every idle connection now, and those in use once their exchanges have ended.
    pub fn close_idle(&self) {
        self.pool.clear();
        if let Some((streams, _)) = &self.http2 {
            streams.clear();
        }
    }
}

fn unsent(cause: Cause) -> SendError {
    SendError { cause, sent: Sent::Nothing }
}

/// A right to one exchange.
pub struct Lease<B>(Held<B>);

enum Held<B> {
    /// A connection of our own, and where it goes afterwards.
    Exclusive(h1::Open<B>, Pool<B>),
    /// A place on a shared one.
    Stream(Http2Stream),
}

impl<B> Lease<B>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: std::error::Error + Send + Sync,
{
    /// Sends one request, once. It waits as long as the upstream does: the caller limits that. Dropping the future ends
    /// the exchange: it closes the connection, or resets the stream.
    pub async fn send(self, request: Request<B>) -> Result<Response<ResponseBody<B>>, SendError> {
        match self.0 {
            Held::Exclusive(mut connection, pool) => {
                let (response, uploaded) = connection.send(request).await?;
                Ok(response.map(|incoming| ResponseBody::http1(incoming, connection, pool, uploaded)))
            }
            Held::Stream(stream) => Ok(h2::send(stream, request).await?.map(ResponseBody::http2)),
        }
    }
}

/// One request over a connection of its own, for log-ins: nothing is kept or shared with the data path.
pub async fn exchange(connector: &Connector, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, SendError> {
    let connection = connector.connect(Offer::Http1).await.map_err(|error| unsent(error.into()))?;
    h1::once(connection, request).await
}

#[cfg(test)]
mod tests;
