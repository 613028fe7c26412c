//! HTTP/1.1 to upstream: connections that carry one exchange at a time, and the pool where they wait for the next one.
//!
//! Guarantees: an exchange that is given up closes its connection; a connection returns to the pool only when both the
//! request and its answer were read to their ends, and the upstream never sent more than its answers; a connection that was
//! open when the pool was cleared never returns; [`Http1Pool::take`] never waits.

use std::{
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use hyper::{
    body::Incoming,
    client::conn::http1::{Builder, SendRequest},
};
use hyper_util::rt::TokioIo;
use tokio::{sync::Notify, task::AbortHandle, time::Instant};

use super::{
    answer_framing,
    answer_io::{AnswerBeginning, AnswerIo},
    error::{BodyBroken, Cause, SendError, Sent},
    keep_alive::{KeepAlive, announced_timeout},
    options::{BODY_BUFFER, HeadLimits, Reuse},
};
use crate::{
    allocator::Wiped,
    clock,
    connect::{Connection, Connector, Offer, bytes_written, refused_afterwards},
    metrics::ConnectionGauge,
};

/// How many header lines hyper takes by default.
const HYPERS_HEADER_LINES: usize = 100;

/// An open connection without an exchange.
pub(super) struct Http1Connection<B> {
    sender: SendRequest<SentBody<B>>,
    written: Arc<AtomicU64>,
    beginning: Arc<AnswerBeginning>,
    limits: HeadLimits,
    /// It has carried an exchange.
    used: bool,
    /// How long it had been idle when it was taken.
    idled: Duration,
    driver: AbortHandle,
    retires: Instant,
    /// How often its pool had been cleared when it was opened.
    generation: u64,
    keep_alive: KeepAlive,
    gauge: ConnectionGauge,
}

/// Makes a connection for `pool` ready for requests. A task drives it until either side closes it. `retires`: when it is too
/// old for another request.
pub(super) async fn open<B>(
    connection: Connection,
    limits: HeadLimits,
    retires: Instant,
    pool: &Http1Pool<B>,
    gauge: ConnectionGauge,
) -> Result<Http1Connection<B>, Cause>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: std::error::Error + Send + Sync,
{
    let keep_alive = pool.keep_alive.clone();
    if let Some(address) = connection.stream.peer_address() {
        keep_alive.connected_to(address);
    }
    let (stream, beginning) = AnswerIo::new(connection.stream);
    let (sender, driver) = builder(limits).handshake(TokioIo::new(stream)).await.map_err(|_| Cause::Closed)?;
    // The task ends with its connection: when the sender and the answer's body are dropped, when an exchange is left
    // unfinished, or when the upstream closes. The exchange in progress learns how the connection ended.
    let driver = tokio::spawn(Wiped::at_the_end(driver)).abort_handle();
    let generation = pool.lock().generation;
    let written = connection.written;
    Ok(Http1Connection {
        sender,
        written,
        beginning,
        limits,
        used: false,
        idled: Duration::ZERO,
        driver,
        retires,
        generation,
        keep_alive,
        gauge,
    })
}

/// hyper's side of a connection that keeps to these limits.
pub(super) fn builder(limits: HeadLimits) -> Builder {
    let mut builder = lenient();
    builder.max_buf_size(limits.bytes.max(BODY_BUFFER)).max_header_size(limits.bytes);
    // hyper's own limit stands on the stack; any other one costs an allocation for each answer.
    if limits.lines != HYPERS_HEADER_LINES {
        builder.max_headers(limits.lines);
    }
    builder
}

/// Removes a blank between a field's name and its colon (RFC 9112, 5.1), so that the field is known for what it is.
fn lenient() -> Builder {
    let mut builder = Builder::new();
    builder.allow_spaces_after_header_name_in_responses(true);
    builder
}

impl<B> Http1Connection<B> {
    /// Whether the last exchange has ended on both sides, the kernel took all of its request, and the upstream has not closed
    /// the connection.
    fn is_usable(&self) -> bool {
        self.sender.is_ready()
    }

    /// Waits until a new connection is ready for its first request.
    pub(super) async fn ready(&mut self) -> Result<(), Cause> {
        self.sender.ready().await.map_err(|_| Cause::Closed)
    }
}

impl<B> Drop for Http1Connection<B> {
    fn drop(&mut self) {
        // hyper's driver closes a connection only after it has written all of the request: it would wait for an upstream that
        // answered early and reads no further.
        if !self.is_usable() && !self.sender.is_closed() {
            self.driver.abort();
        }
    }
}

impl<B> Http1Connection<B>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: std::error::Error + Send + Sync,
{
    /// Sends `request`. Dropping the future closes the connection. The connection is free again when the bodies of both the
    /// request and the answer have ended.
    pub(super) async fn send(&mut self, request: Request<B>) -> Result<(Response<Incoming>, UploadFlag), SendError> {
        let before = bytes_written(&self.written);
        let (request, upload) = with_upload_flag(request);
        let in_flight = AbortOnDrop(&self.driver);
        self.beginning.expect();
        let response = self.sender.try_send_request(request).await.map_err(|mut error| {
            let unsent = error.take_message().is_some() || bytes_written(&self.written) == before;
            let error = error.into_error();
            let no_answer =
                !self.beginning.was_interim() && (error.is_parse_status() || (error.is_parse() && self.beginning.was_odd()));
            let cause = match cause(&error, &self.beginning, self.limits) {
                Cause::Protocol if self.used && no_answer => Cause::Surplus,
                cause => cause,
            };
            if self.used && cause == Cause::Closed {
                self.keep_alive.unanswered(self.idled, clock::instant());
            }
            SendError { cause, sent: if unsent { Sent::Nothing } else { Sent::Something } }
        })?;
        self.beginning.head_has_ended();
        if std::mem::replace(&mut self.used, true) {
            self.keep_alive.answered();
        }
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            // Nobody asked for it: what follows is not HTTP any more.
            return Err(SendError::after_sending(Cause::Protocol));
        }
        if let Some(timeout) = response.headers().get("keep-alive").and_then(|field| announced_timeout(field.as_bytes())) {
            self.keep_alive.announced(timeout);
        }
        in_flight.disarm();
        Ok((response, upload))
    }
}

/// Closes a connection whose exchange is given up before its answer. Without it, hyper's driver would wait for the rest of a
/// request that the client may never send.
pub(super) struct AbortOnDrop<'a>(pub(super) &'a AbortHandle);

impl AbortOnDrop<'_> {
    /// The answer came.
    pub(super) fn disarm(self) {
        std::mem::forget(self);
    }
}

impl Drop for AbortOnDrop<'_> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Sends one request over a connection of its own, for log-ins: nothing is kept or shared with the data path.
pub async fn exchange(connector: &Connector, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, SendError> {
    let connection = connector.connect(Offer::Http1).await.map_err(SendError::unsent)?;
    let handshake = lenient().handshake(TokioIo::new(connection.stream)).await;
    let (mut sender, driver) = handshake.map_err(|_| SendError::unsent(Cause::Closed))?;
    // The task ends with its connection, as above.
    tokio::spawn(async move { drop(driver.await) });
    let mut response = sender.send_request(request).await.map_err(|error| SendError::after_sending(classify(&error)))?;
    answer_framing::settle(&mut response)?;
    Ok(response)
}

/// What an error of hyper's means on a connection that began its answer so.
pub(super) fn cause(error: &hyper::Error, beginning: &AnswerBeginning, limits: HeadLimits) -> Cause {
    match classify(error) {
        // A length that hyper can't count has the same error as a head that is too large.
        Cause::HeadTooLarge if !beginning.exceeds(limits) => Cause::Protocol,
        Cause::Closed if beginning.has_come() => Cause::BrokenOff,
        cause => cause,
    }
}

fn classify(error: &hyper::Error) -> Cause {
    if error.is_parse_too_large() {
        Cause::HeadTooLarge
    } else if error.is_parse() {
        Cause::Protocol
    } else if error.is_user() || error.is_body_write_aborted() {
        Cause::RequestBody
    } else {
        refused_afterwards(error).map_or(Cause::Closed, Cause::Connect)
    }
}

/// An answer's body.
pub(super) struct Http1Body<B> {
    incoming: Incoming,
    after: After<B>,
}

/// What becomes of the connection after the answer.
enum After<B> {
    /// It goes to the pool, if the exchange is complete.
    Reuse(Http1Connection<B>, Http1Pool<B>, UploadFlag),
    /// It closes, and counts until then.
    Close { _gauge: ConnectionGauge },
    /// It was given away already.
    Released,
}

impl<B> Http1Body<B> {
    /// The body of an answer whose connection goes to `pool` afterwards, if the exchange is complete.
    pub(super) fn new(incoming: Incoming, connection: Http1Connection<B>, pool: Http1Pool<B>, upload: UploadFlag) -> Self {
        Self { incoming, after: After::Reuse(connection, pool, upload) }
    }

    /// The body of an answer whose connection is not kept.
    pub(super) fn alone(incoming: Incoming, gauge: ConnectionGauge) -> Self {
        Self { incoming, after: After::Close { _gauge: gauge } }
    }

    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyBroken>>> {
        Pin::new(&mut self.incoming).poll_frame(cx).map_err(|_| BodyBroken)
    }

    pub(super) fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }

    /// Nobody reads on. `whole`: the answer was read to its end.
    pub(super) fn release(&mut self, whole: bool) {
        let After::Reuse(connection, pool, upload) = std::mem::replace(&mut self.after, After::Released) else { return };
        if !(whole && upload.is_complete()) {
            // hyper's driver would wait for the rest of a request that nobody reads from the client any more.
            connection.driver.abort();
        } else if !connection.sender.is_closed() && !connection.beginning.was_odd() {
            pool.put(connection);
        }
    }
}

/// Whether a request's body left completely; `None`: it has no body.
pub(super) struct UploadFlag(Option<Arc<AtomicBool>>);

impl UploadFlag {
    fn is_complete(&self) -> bool {
        self.0.as_ref().is_none_or(|flag| flag.load(Ordering::Relaxed))
    }
}

fn with_upload_flag<B: Body>(request: Request<B>) -> (Request<SentBody<B>>, UploadFlag) {
    let flag = (!request.body().is_end_stream()).then(Arc::<AtomicBool>::default);
    let complete = flag.clone();
    (request.map(|inner| SentBody { inner, complete }), UploadFlag(flag))
}

/// A request's body, and the flag that it was read to its end. Until then its connection is not fit for another request,
/// even if the answer is complete: an upstream may answer before it has read everything.
struct SentBody<B> {
    inner: B,
    complete: Option<Arc<AtomicBool>>,
}

impl<B: Body + Unpin> Body for SentBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let polled = Pin::new(&mut self.inner).poll_frame(cx);
        // The body alone knows whether it has ended.
        if let (Poll::Ready(_), Some(complete)) = (&polled, &self.complete)
            && self.inner.is_end_stream()
        {
            complete.store(true, Ordering::Relaxed);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// Idle connections to one origin. The one that was used last is taken first, so that the rest can grow old and be closed.
/// Clones share the connections.
pub(super) struct Http1Pool<B> {
    connections: Arc<Mutex<IdleConnections<B>>>,
    /// Notified when a connection has become idle.
    freed: Arc<Notify>,
    keep: Duration,
    keep_alive: KeepAlive,
}

impl<B> Clone for Http1Pool<B> {
    fn clone(&self) -> Self {
        let (connections, freed) = (Arc::clone(&self.connections), Arc::clone(&self.freed));
        Self { connections, freed, keep: self.keep, keep_alive: self.keep_alive.clone() }
    }
}

struct IdleConnections<B> {
    /// The one that was used last comes last.
    idle: Vec<IdleConnection<B>>,
    /// How often the pool was cleared.
    generation: u64,
    /// No connection is kept any more.
    retired: bool,
}

struct IdleConnection<B> {
    since: Instant,
    connection: Http1Connection<B>,
}

impl<B> Http1Pool<B> {
    /// `keep`: for how long a connection may be idle. `keep_alive`: how long the upstream keeps it.
    pub(super) fn new(keep: Duration, keep_alive: KeepAlive) -> Self {
        let connections = IdleConnections { idle: Vec::new(), generation: 0, retired: false };
        Self { connections: Arc::new(Mutex::new(connections)), freed: Arc::default(), keep, keep_alive }
    }

    /// The connection that was used last, if `reuse` allows it. One that is not ready now is closed: its upstream may never
    /// read the rest of the last request.
    pub(super) fn take(&self, reuse: Reuse) -> Option<Http1Connection<B>> {
        let limit = match reuse {
            Reuse::Any => self.keep,
            Reuse::Safe => self.safe_idle(),
            Reuse::OpenedAfter(_) => return None,
        };
        loop {
            let connection = self.pop(limit)?;
            if connection.is_usable() {
                connection.gauge.set_idle(false);
                return Some(connection);
            }
            if connection.sender.is_closed() {
                self.keep_alive.found_closed(connection.idled);
            }
        }
    }

    /// Waits for a connection that `reuse` allows and that nobody else takes before.
    pub(super) async fn wait(&self, reuse: Reuse) -> Http1Connection<B> {
        loop {
            let freed = self.freed.notified();
            if let Some(connection) = self.take(reuse) {
                return connection;
            }
            freed.await;
        }
    }

    /// For how long a connection may have been idle when a request takes it that must not arrive twice.
    fn safe_idle(&self) -> Duration {
        self.keep_alive.safe_idle().min(self.keep)
    }

    /// Whether a connection is idle that any request may take, now and for `ahead`, and that is not retired within `lead`.
    pub(super) fn is_ready(&self, ahead: Duration, lead: Duration) -> bool {
        let (now, limit) = (clock::instant(), self.keep_alive.safe_idle_after(ahead).min(self.keep));
        let connections = self.lock();
        let will_serve = |idle: &IdleConnection<B>| {
            now.duration_since(idle.since) + ahead <= limit && now + lead < idle.connection.retires && idle.connection.is_usable()
        };
        connections.retired || connections.idle.iter().any(will_serve)
    }

    fn pop(&self, limit: Duration) -> Option<Http1Connection<B>> {
        let idle = &mut self.lock().idle;
        let newest = idle.last()?;
        let now = clock::instant();
        // Sorted by age: when the newest has been idle for too long, all have.
        if now.duration_since(newest.since) > limit {
            return None;
        }
        while let Some(mut newest) = idle.pop() {
            if now < newest.connection.retires {
                newest.connection.idled = now.duration_since(newest.since);
                return (newest.connection.idled <= limit).then_some(newest.connection);
            }
        }
        None
    }

    /// Takes a connection back whose exchange is complete or never began. A connection that has grown old, or that was in use
    /// when the pool was cleared or retired, is closed instead.
    pub(super) fn put(&self, connection: Http1Connection<B>) {
        let since = clock::instant();
        let mut connections = self.lock();
        if !connections.retired && connections.generation == connection.generation && since < connection.retires {
            connection.gauge.set_idle(true);
            connections.idle.push(IdleConnection { since, connection });
            self.freed.notify_one();
        }
    }

    /// Closes what was idle for too long, what has grown old and what the upstream closed; learns how long that keeps
    /// connections.
    pub(super) fn sweep(&self) {
        let (keep, now) = (self.keep, clock::instant());
        let (mut closed, mut open) = (None, None);
        self.lock().idle.retain(|idle| {
            let time = now.duration_since(idle.since);
            if idle.connection.sender.is_closed() {
                closed = Some(closed.map_or(time, |shortest: Duration| shortest.min(time)));
                return false;
            }
            open = open.max(Some(time));
            time <= keep && now < idle.connection.retires
        });
        if let Some(time) = closed {
            self.keep_alive.found_closed(time);
        }
        if let Some(time) = open {
            self.keep_alive.survived(time);
        }
    }

    /// Closes what has been idle for `silence` or longer.
    pub(super) fn retire_older_than(&self, silence: Duration) {
        self.lock().idle.retain(|idle| idle.since.elapsed() < silence);
    }

    /// Closes every idle connection now, and those in use once their exchanges have ended.
    pub(super) fn clear(&self) {
        let mut connections = self.lock();
        connections.generation += 1;
        connections.idle.clear();
    }

    /// Closes every idle connection now and each other one once its exchange has ended, also those that are opened later.
    pub(super) fn retire(&self) {
        let mut connections = self.lock();
        connections.retired = true;
        connections.idle.clear();
    }

    fn lock(&self) -> MutexGuard<'_, IdleConnections<B>> {
        // A list of connections can't be left half changed.
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, net::Ipv4Addr, num::NonZeroUsize};

    use tokio::{
        net::{TcpListener, TcpStream},
        time::{advance, pause, resume},
    };

    use super::*;
    use crate::{
        connect::Protocol,
        metrics::Metrics,
        upstream_io::{CountingTcp, UpstreamIo},
    };

    const SECOND: Duration = Duration::from_secs(1);
    const MOMENT: Duration = Duration::from_nanos(1);
    const ALMOST_TEN: Duration = Duration::new(9, 999_999_999);
    const LIMITS: HeadLimits = HeadLimits { bytes: 64 * 1024, lines: 100 };

    type Pool = Http1Pool<Full<Bytes>>;

    /// A pool with one idle connection that retires after `life`, in time that stands still; and the upstream's end of it.
    async fn pool(keep: Duration, life: Duration) -> (Pool, TcpStream) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let tcp = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (upstream, _) = listener.accept().await.unwrap();
        pause();
        let written = Arc::default();
        let stream = UpstreamIo::Plain(CountingTcp::new(tcp, Arc::clone(&written)));
        let connection = Connection { stream, written, protocol: Protocol::Http1 };
        let pool = Pool::new(keep, KeepAlive::default());
        let gauge = Metrics::new::<Infallible, Infallible>(NonZeroUsize::MIN).api("emr").meter(0).connected();
        let mut connection = open(connection, LIMITS, clock::instant() + life, &pool, gauge).await.unwrap();
        connection.ready().await.unwrap();
        pool.put(connection);
        (pool, upstream)
    }

    fn idle(pool: &Pool) -> usize {
        pool.lock().idle.len()
    }

    #[tokio::test]
    async fn a_connection_is_taken_until_it_was_idle_for_too_long_or_is_too_old() {
        for (keep, life, age, is_taken) in [
            (10 * SECOND, 99 * SECOND, 10 * SECOND, true),
            (10 * SECOND, 99 * SECOND, 10 * SECOND + MOMENT, false),
            (99 * SECOND, 10 * SECOND, ALMOST_TEN, true),
            (99 * SECOND, 10 * SECOND, 10 * SECOND, false),
        ] {
            let (pool, _upstream) = pool(keep, life).await;
            advance(age).await;
            let taken = pool.take(Reuse::Any);
            assert_eq!(taken.as_ref().map(|taken| taken.idled), is_taken.then_some(age), "{keep:?} {life:?}");
            assert!(pool.take(Reuse::Any).is_none(), "there was one");
            resume();
        }
    }

    #[tokio::test]
    async fn a_sweep_closes_what_may_not_be_taken_any_more() {
        for (keep, life, age, stays) in [
            (10 * SECOND, 99 * SECOND, 10 * SECOND, 1),
            (10 * SECOND, 99 * SECOND, 10 * SECOND + MOMENT, 0),
            (99 * SECOND, 10 * SECOND, ALMOST_TEN, 1),
            (99 * SECOND, 10 * SECOND, 10 * SECOND, 0),
        ] {
            let (pool, _upstream) = pool(keep, life).await;
            advance(age).await;
            pool.sweep();
            assert_eq!(idle(&pool), stays, "{keep:?} {life:?} {age:?}");
            resume();
        }
    }

    #[tokio::test]
    async fn a_connection_is_not_put_back_once_it_is_too_old_nor_after_the_pool_was_cleared() {
        for (age, clears, stays) in [(ALMOST_TEN, false, 1), (10 * SECOND, false, 0), (SECOND, true, 0)] {
            let (pool, _upstream) = pool(99 * SECOND, 10 * SECOND).await;
            let taken = pool.take(Reuse::Any).unwrap();
            advance(age).await;
            if clears {
                pool.clear();
            }
            pool.put(taken);
            assert_eq!(idle(&pool), stays, "{age:?}");
            resume();
        }
    }

    #[tokio::test]
    async fn what_was_silent_for_so_long_is_retired() {
        let (pool, _upstream) = pool(99 * SECOND, 99 * SECOND).await;
        advance(10 * SECOND).await;
        pool.retire_older_than(10 * SECOND + MOMENT);
        assert_eq!(idle(&pool), 1);
        pool.retire_older_than(10 * SECOND);
        assert_eq!(idle(&pool), 0);
    }

    #[tokio::test]
    async fn the_pool_is_ready_while_a_connection_will_serve_the_next_request() {
        let (pool, _upstream) = pool(99 * SECOND, 10 * SECOND).await;
        assert!(pool.is_ready(SECOND, ALMOST_TEN));
        assert!(!pool.is_ready(SECOND, 10 * SECOND), "it retires then");
        let safe = pool.keep_alive.safe_idle_after(SECOND);
        advance(safe.saturating_sub(SECOND)).await;
        assert!(pool.is_ready(SECOND, SECOND));
        advance(MOMENT).await;
        assert!(!pool.is_ready(SECOND, SECOND), "a second later the upstream may have closed it");
        drop(pool.take(Reuse::Any));
        assert!(!pool.is_ready(SECOND, SECOND), "it is empty");
        pool.retire();
        assert!(pool.is_ready(SECOND, SECOND), "nothing is opened any more");
    }
}
