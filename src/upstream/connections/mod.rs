//! All connections to one origin, of which each request leases one; and the bodies of answers that come on them.
//!
//! Guarantees: a lease sends one request, once. [`ResponseBody`] alone decides whether an answer was read to its end, and so
//! whether its connection serves again.

use std::{
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, uri::Authority};
use http_body::{Body, Frame, SizeHint};
use tokio::{
    sync::Notify,
    time::{Instant, timeout, timeout_at},
};

use super::{
    ahead::Ahead,
    answer_framing,
    error::{BodyBroken, SendError},
    http1::{Http1Body, Http1Connection, Http1Pool},
    http2::{self, Checkout, Http2Body, Http2Pool, PendingConnection, StreamPermit, Wakeup},
    keep_alive::KeepAlive,
    options::{HeadLimits, Lifetimes, Reuse, SLOW},
    tunnel::{self, TunnelConnection},
};
use crate::{
    clock::{self, Jitter, Moment},
    config::Http2,
    connect::{ConnectError, Connection, Connector, Offer, Protocol},
    metrics::{ConnectionGauge, Meter},
};

/// By how much the boot clock may run ahead, from one sweep to the next, of the clock that stops during a suspend.
const SUSPENDED: Duration = Duration::from_secs(2);
/// How often [`Upstream::keep_ready`] is called at most, and so how far it looks ahead.
const ROUND: Duration = Duration::from_secs(1);
/// How long before a connection is too old another one is opened; less for connections that live less than ten times as long.
const LEAD: Duration = Duration::from_secs(10);

/// One origin with its kept connections; one per worker and API.
pub struct Upstream<B> {
    connector: Connector,
    head: HeadLimits,
    lifetimes: Lifetimes,
    jitter: Mutex<Jitter>,
    http1: Arc<Http1Pool<B>>,
    /// With the authority that requests name; `None` where HTTP/2 is not offered.
    http2: Option<(Http2Pool, Authority)>,
    /// When the last sweep was, by both clocks.
    swept: Mutex<Option<(Moment, Instant)>>,
    /// A request has used the upstream since the last [`Upstream::keep_ready`].
    used: AtomicBool,
    ahead: Mutex<Ahead>,
    /// Ends the tasks that open a connection ahead of need.
    cleared: Arc<Notify>,
    keep_alive: KeepAlive,
    meter: Arc<Meter>,
}

impl<B> Upstream<B>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: std::error::Error + Send + Sync,
{
    /// It makes no connection yet; `meter` counts them, and `keep_alive` is what all workers know of the
    /// upstream. `None` when the origin's host can't stand in a URI.
    #[must_use]
    pub fn new(
        connector: Connector,
        http2: Http2,
        head: HeadLimits,
        lifetimes: Lifetimes,
        jitter: Jitter,
        keep_alive: KeepAlive,
        meter: Arc<Meter>,
    ) -> Option<Self> {
        let idle = lifetimes.idle;
        let http2 = match http2 {
            Http2::Off => None,
            Http2::Auto => Some((Http2Pool::new(idle, keep_alive.clone()), connector.origin().authority().try_into().ok()?)),
        };
        let (jitter, swept) = (Mutex::new(jitter), Mutex::default());
        let (used, ahead, http1) = (AtomicBool::new(false), Mutex::default(), Http1Pool::new(idle, keep_alive.clone()).into());
        let cleared = Arc::default();
        Some(Self { connector, head, lifetimes, jitter, http1, http2, swept, used, ahead, cleared, keep_alive, meter })
    }

    /// Gives an idle connection, a stream on a shared one, or a new connection; the connector's time-out bounds the wait.
    pub async fn lease(&self, reuse: Reuse) -> Result<Lease<B>, SendError> {
        self.used.store(true, Ordering::Relaxed);
        let mut waited_since = None;
        loop {
            if let Some(idle) = self.http1.take(reuse) {
                return Ok(self.exclusive(idle));
            }
            // Connecting is boxed: each request reserves memory for the largest future that it may await, and few connect.
            let Some((pool, _)) = &self.http2 else { return Box::pin(self.or_wait(self.connect_http1(), reuse)).await };
            match pool.checkout(reuse) {
                Checkout::Stream(permit) => return Ok(Lease(Leased::Stream(permit))),
                Checkout::Connect(pending) => return Box::pin(self.connect_for_all(pending, pool, reuse)).await,
                Checkout::ConnectAlone => return Box::pin(self.or_wait(self.connect_offering_http2(None), reuse)).await,
                Checkout::ConnectHttp1 => return Box::pin(self.or_wait(self.connect_http1(), reuse)).await,
                Checkout::Wait(wakeup) => {
                    // Others' connections are waited for no longer than one may take; then its own may take as long.
                    let until = *waited_since.get_or_insert_with(clock::instant) + self.connector.timeout();
                    let late = |_| SendError::unsent(ConnectError::Timeout);
                    match timeout_at(until, wakeup).await.map_err(late)? {
                        Ok(Wakeup::Stream(permit)) => return Ok(Lease(Leased::Stream(permit))),
                        Ok(Wakeup::Connect(pending)) => return Box::pin(self.connect_for_all(pending, pool, reuse)).await,
                        Ok(Wakeup::Failed(error)) => return Err(error),
                        Ok(Wakeup::TryAgain) | Err(_) => {}
                    }
                }
            }
        }
    }

    /// After which time a connection that is not open yet is slow.
    fn slow(&self) -> Duration {
        SLOW.min(self.connector.timeout() / 4)
    }

    /// Gives what `connecting` gives. When that takes unusually long, another request's HTTP/1.1 connection serves, if it becomes
    /// idle before: a server that takes no new connections may well answer on those that it has.
    async fn or_wait(
        &self,
        connecting: impl Future<Output = Result<Lease<B>, SendError>>,
        reuse: Reuse,
    ) -> Result<Lease<B>, SendError> {
        let mut connecting = pin!(connecting);
        if matches!(reuse, Reuse::OpenedAfter(_)) {
            return connecting.await;
        }
        if let Ok(connected) = timeout(self.slow(), connecting.as_mut()).await {
            return connected;
        }
        tokio::select! {
            biased;
            connected = connecting => connected,
            freed = self.http1.wait(reuse) => Ok(self.exclusive(freed)),
        }
    }

    async fn connect_http1(&self) -> Result<Lease<B>, SendError> {
        let connection = self.connector.connect(Offer::Http1).await.map_err(SendError::unsent)?;
        self.open_http1(connection).await
    }

    /// Connects for all that wait. When that takes unusually long, the next one of them connects, too, and this request takes a
    /// stream on any connection that has one before: a handshake that hangs must not fail them all.
    async fn connect_for_all(&self, pending: PendingConnection, pool: &Http2Pool, reuse: Reuse) -> Result<Lease<B>, SendError> {
        let mut connecting = pin!(self.connector.connect(Offer::Http1And2));
        if let Ok(connected) = timeout(self.slow(), connecting.as_mut()).await {
            return self.open_offered(connected, Some(pending)).await;
        }
        drop(pending);
        loop {
            tokio::select! {
                biased;
                connected = connecting.as_mut() => return self.open_offered(connected, None).await,
                woken = pool.wait_beside(reuse) => if let Ok(Wakeup::Stream(permit)) = woken {
                    return Ok(Lease(Leased::Stream(permit)));
                },
            }
        }
    }

    /// Connects and learns which protocol the server speaks. `pending`: requests wait for this connection, unless that takes
    /// unusually long.
    async fn connect_offering_http2(&self, pending: Option<PendingConnection>) -> Result<Lease<B>, SendError> {
        let mut connecting = pin!(self.connector.connect(Offer::Http1And2));
        if let Ok(connected) = timeout(self.slow(), connecting.as_mut()).await {
            return self.open_offered(connected, pending).await;
        }
        drop(pending);
        self.open_offered(connecting.await, None).await
    }

    async fn open_offered(
        &self,
        connected: Result<Connection, ConnectError>,
        pending: Option<PendingConnection>,
    ) -> Result<Lease<B>, SendError> {
        let Some((pool, authority)) = &self.http2 else { return self.open_http1(connected.map_err(SendError::unsent)?).await };
        let opened = match connected {
            Ok(connection) if connection.protocol == Protocol::Http1 => {
                pool.speaks_http1();
                drop(pending);
                return self.open_http1(connection).await;
            }
            Ok(connection) => {
                let retires = self.retirement(&connection);
                let opened = http2::open(connection, authority.clone(), self.head, self.meter.connected()).await;
                opened.map(|(handle, driver)| (handle, driver, retires)).map_err(SendError::unsent)
            }
            Err(error) => Err(SendError::unsent(error)),
        };
        match opened {
            Ok((handle, driver, retires)) => Ok(Lease(Leased::Stream(pool.insert(handle, driver, pending, retires)))),
            Err(error) => {
                if let Some(pending) = pending {
                    pending.failed(error);
                }
                Err(error)
            }
        }
    }

    async fn open_http1(&self, connection: Connection) -> Result<Lease<B>, SendError> {
        let retires = self.retirement(&connection);
        let opened = self.http1.open(connection, self.head, retires, self.meter.connected()).await;
        Ok(self.exclusive(opened.map_err(SendError::unsent)?))
    }

    fn exclusive(&self, connection: Box<Http1Connection<B>>) -> Lease<B> {
        Lease(Leased::Connection(connection, Arc::clone(&self.http1)))
    }

    /// When a connection that was made just now is too old, or its server's certificate expires.
    fn retirement(&self, connection: &Connection) -> Instant {
        clock::instant() + self.connector.trusted_for(self.age(), connection)
    }

    /// How old a connection may grow. It is scattered, so that connections are not all renewed at once.
    fn age(&self) -> Duration {
        let fraction = self.jitter.lock().unwrap_or_else(PoisonError::into_inner).fraction();
        self.lifetimes.max_age.mul_f64(0.8 + 0.4 * fraction)
    }

    /// Gives a new connection for a request for a WebSocket, which is never kept; the connector's time-out bounds the wait. A
    /// 101 that agrees to the request has hyper's `OnUpgrade` among its extensions; any other answer is an ordinary one.
    pub async fn lease_for_tunnel(&self) -> Result<Lease<B>, SendError> {
        let connection = self.connector.connect(Offer::Http1).await.map_err(SendError::unsent)?;
        let opened = tunnel::open(connection, self.head).await?;
        Ok(Lease(Leased::Tunnel(opened, self.meter.connected())))
    }

    /// Closes connections that were idle for too long, that have grown old or that the upstream closed. `now` is the clock
    /// that runs on while the machine is suspended: after a suspend the connections may be dead, so all idle ones are
    /// closed. Called about once a second.
    pub fn sweep(&self, now: Moment) {
        let awake = clock::instant();
        let before = self.swept.lock().unwrap_or_else(PoisonError::into_inner).replace((now, awake));
        if before.is_some_and(|(then, instant)| now.since(then) > awake.duration_since(instant) + SUSPENDED) {
            self.clear();
        }
        self.http1.sweep();
        if let Some((pool, _)) = &self.http2 {
            pool.sweep();
        }
    }

    /// Opens a connection in the background if none is ready for the next request, or none will be in a moment: because all
    /// are in use, grow old, or were idle for too long. It does so while requests use the upstream, unless that closes
    /// connections soon. Called after each [`sweep`](Self::sweep).
    pub fn keep_ready(self: &Arc<Self>) {
        let now = clock::instant();
        let mut ahead = self.ahead();
        if self.used.swap(false, Ordering::Relaxed) {
            ahead.used(now);
        }
        let wanted = ahead.is_wanted(now) && self.is_worth_warming() && !self.is_ready();
        if wanted && ahead.may_open(now) {
            drop(ahead);
            self.open_ahead();
        }
    }

    fn ahead(&self) -> MutexGuard<'_, Ahead> {
        self.ahead.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_ready(&self) -> bool {
        match &self.http2 {
            Some((pool, _)) if !pool.is_http1() => pool.is_ready(self.lead()),
            _ => self.http1.is_ready(ROUND, self.lead()),
        }
    }

    fn is_worth_warming(&self) -> bool {
        self.keep_alive.is_worth_warming(self.lifetimes.idle)
    }

    fn lead(&self) -> Duration {
        LEAD.min(self.lifetimes.max_age / 10)
    }

    /// Opens a connection in the background, so that the next request finds it, unless idle ones are not kept for long. If it
    /// fails, nobody is told: the request will be. The connector's time-out ends the task, and so does closing the idle ones.
    pub fn open_ahead(self: &Arc<Self>) {
        if !self.is_worth_warming() {
            return;
        }
        let cleared = Arc::clone(&self.cleared).notified_owned();
        let upstream = Arc::clone(self);
        tokio::spawn(async move {
            tokio::select! {
                biased;
                () = cleared => {}
                () = upstream.open_idle() => {}
            }
        });
    }

    /// Opens a connection and gives it to the pool.
    async fn open_idle(&self) {
        let lease = match &self.http2 {
            Some((pool, _)) if !pool.is_http1() => match pool.open_ahead(self.lead()) {
                Some(pending) => self.connect_offering_http2(Some(pending)).await,
                None => return,
            },
            Some((pool, _)) if pool.may_speak_http2() => self.connect_offering_http2(None).await,
            _ => self.connect_http1().await,
        };
        // A stream that is given back leaves its connection in the pool.
        if let Ok(Lease(Leased::Connection(mut connection, pool))) = lease
            && connection.ready().await.is_ok()
        {
            pool.put(connection);
        }
    }

    /// An answer did not come within `silence`. Connections that were open when it was asked for may be dead: those idle
    /// since then are closed, and shared ones take no new request.
    pub fn retire_older_than(&self, silence: Duration) {
        self.http1.retire_older_than(silence);
        if let Some((pool, _)) = &self.http2 {
            pool.retire_older_than(silence);
        }
    }

    /// Closes every idle connection now, those that are opened ahead of need too, and those in use once their exchanges have
    /// ended. Connections that are opened later are kept; none is opened before a request comes.
    pub fn close_idle(&self) {
        self.used.store(false, Ordering::Relaxed);
        self.ahead().stop();
        self.clear();
    }

    fn clear(&self) {
        self.cleared.notify_waiters();
        self.http1.clear();
        if let Some((pool, _)) = &self.http2 {
            pool.clear();
        }
    }

    /// Keeps no connection from now on: closes every idle one at once, and each other one when its last exchange has ended,
    /// also those that are opened later. For an upstream that was replaced: it needs no further [`sweep`](Self::sweep).
    pub fn retire(&self) {
        self.cleared.notify_waiters();
        self.http1.retire();
        if let Some((pool, _)) = &self.http2 {
            pool.retire();
        }
    }
}

/// The right to one exchange.
pub struct Lease<B>(Leased<B>);

enum Leased<B> {
    /// A connection for this exchange alone, and the pool where it goes afterwards.
    Connection(Box<Http1Connection<B>>, Arc<Http1Pool<B>>),
    /// A stream on a shared connection.
    Stream(StreamPermit),
    /// A connection that may become a tunnel.
    Tunnel(TunnelConnection<B>, ConnectionGauge),
}

impl<B> Lease<B>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: std::error::Error + Send + Sync,
{
    /// Sends one request, once. It waits for as long as the upstream takes: the caller limits that. Dropping the future ends
    /// the exchange: it closes the connection, or resets the stream.
    ///
    /// `make` makes the request in the same poll in which the connection's driver or h2 gets it, so that nothing of it can grow
    /// old in a wait. What `make` gives beside the request comes back with the answer. If it fails, nothing is sent and the
    /// lease is given back at once.
    pub async fn send<T, E: From<SendError>>(
        self,
        make: impl FnOnce() -> Result<(Request<B>, T), E>,
    ) -> Result<(Response<ResponseBody<B>>, T), E> {
        let (mut response, beside) = match self.0 {
            Leased::Connection(mut connection, pool) => {
                let (request, beside) = match make() {
                    Ok(request) => request,
                    Err(error) => {
                        pool.put(connection);
                        return Err(error);
                    }
                };
                let (response, upload) = connection.send(request).await?;
                let body = |incoming| BodySource::Http1(Http1Body::new(incoming, connection, pool, upload));
                (response.map(|incoming| ResponseBody::new(body(incoming))), beside)
            }
            Leased::Stream(permit) => {
                let (request, beside) = make()?;
                let response = http2::send(permit, request).await?;
                (response.map(|body| ResponseBody::new(BodySource::Http2(body))), beside)
            }
            Leased::Tunnel(connection, gauge) => {
                let (request, beside) = make()?;
                // Boxed: each request reserves memory for the largest future that it may await, and few open a tunnel.
                let (response, progress) = Box::pin(connection.send(request)).await?;
                let body = |incoming| BodySource::Http1(Http1Body::alone(incoming, progress, gauge));
                (response.map(|incoming| ResponseBody::new(body(incoming))), beside)
            }
        };
        answer_framing::settle(&mut response)?;
        Ok((response, beside))
    }
}

/// An answer's body. Over HTTP/1.1, read to its end it gives its connection back; dropped before, it closes it. Over
/// HTTP/2, dropped before its end it resets its stream.
pub struct ResponseBody<B> {
    source: BodySource<B>,
    /// The last frame was read, or the sign that there is none.
    ended: bool,
}

enum BodySource<B> {
    Http1(Http1Body<B>),
    Http2(Http2Body),
}

impl<B> ResponseBody<B> {
    fn new(source: BodySource<B>) -> Self {
        Self { source, ended: false }
    }

    fn has_ended(&self) -> bool {
        self.ended
            || match &self.source {
                BodySource::Http1(body) => body.is_end_stream(),
                BodySource::Http2(body) => body.is_end_stream(),
            }
    }
}

impl<B> Body for ResponseBody<B> {
    type Data = Bytes;
    type Error = BodyBroken;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyBroken>>> {
        let polled = match &mut self.source {
            BodySource::Http1(body) => body.poll_frame(cx),
            BodySource::Http2(body) => body.poll_frame(cx),
        };
        // Nothing follows trailers.
        self.ended |= match &polled {
            Poll::Ready(None) => true,
            Poll::Ready(Some(Ok(frame))) => frame.is_trailers(),
            Poll::Ready(Some(Err(_))) | Poll::Pending => false,
        };
        polled
    }

    /// Whether the answer was read to its end.
    fn is_end_stream(&self) -> bool {
        self.has_ended()
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            BodySource::Http1(body) => body.size_hint(),
            BodySource::Http2(body) => body.size_hint(),
        }
    }
}

impl<B> Drop for ResponseBody<B> {
    fn drop(&mut self) {
        let whole = self.has_ended();
        if let BodySource::Http1(body) = &mut self.source {
            body.release(whole);
        }
    }
}

#[cfg(test)]
mod tests;
