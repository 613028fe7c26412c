//! A connection that speaks HTTP/1.1: it carries one exchange at a time.
//!
//! Guarantees: an exchange that is given up closes its connection; a connection is usable again only when the request and its
//! answer have ended on both sides.

use std::{
    pin::Pin,
    sync::{
        Arc,
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
use tokio::{task::AbortHandle, time::Instant};

use super::super::{
    answer_framing,
    answer_io::{AnswerIo, AnswerProgress},
    error::{Cause, SendError, Sent},
    keep_alive::{KeepAlive, announced_timeout},
    options::{BODY_BUFFER, HeadLimits},
};
use crate::{
    allocator::Wiped,
    clock,
    connect::{Connection, Connector, Offer, bytes_written, refused_afterwards},
    metrics::ConnectionGauge,
};

/// How many header lines hyper takes by default.
const HYPERS_HEADER_LINES: usize = 100;

/// An open connection without an exchange. It is boxed, since each request moves it about: out of the pool, to the answer's body, and
/// back.
pub(in crate::upstream) struct Http1Connection<B> {
    sender: SendRequest<SentBody<B>>,
    written: Arc<AtomicU64>,
    progress: Arc<AnswerProgress>,
    limits: HeadLimits,
    /// It has carried an exchange.
    used: bool,
    /// How long it had been idle when it was taken.
    pub(super) idled: Duration,
    driver: AbortHandle,
    pub(super) retires: Instant,
    /// How often its pool had been cleared when it was opened.
    pub(super) generation: u64,
    keep_alive: KeepAlive,
    pub(super) gauge: ConnectionGauge,
}

/// hyper's side of a connection that keeps to these limits.
pub(in crate::upstream) fn builder(limits: HeadLimits) -> Builder {
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
    pub(super) fn is_usable(&self) -> bool {
        self.sender.is_ready()
    }

    /// Whether the connection has ended.
    pub(super) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// What was read of the present answer.
    pub(super) fn progress(&self) -> Arc<AnswerProgress> {
        Arc::clone(&self.progress)
    }

    /// Whether bytes came in place of an answer, ever.
    pub(super) fn was_odd(&self) -> bool {
        self.progress.was_odd()
    }

    /// Closes the connection whatever is still to be written.
    pub(super) fn abort(&self) {
        self.driver.abort();
    }

    /// Waits until a new connection is ready for its first request.
    pub(in crate::upstream) async fn ready(&mut self) -> Result<(), Cause> {
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
    /// Makes a connection ready for requests. A task drives it until either side closes it. `retires`: when it is too old for
    /// another request. `generation`: how often its pool has been cleared.
    pub(in crate::upstream) async fn open(
        connection: Connection,
        limits: HeadLimits,
        retires: Instant,
        generation: u64,
        keep_alive: KeepAlive,
        gauge: ConnectionGauge,
    ) -> Result<Box<Self>, Cause> {
        if let Some(address) = connection.stream.peer_address() {
            keep_alive.connected_to(address);
        }
        let (stream, progress) = AnswerIo::new(connection.stream);
        let (sender, driver) = builder(limits).handshake(TokioIo::new(stream)).await.map_err(|_| Cause::Closed)?;
        // The task ends with its connection: when the sender and the answer's body are dropped, when an exchange is left
        // unfinished, or when the upstream closes. The exchange in progress learns how the connection ended.
        let driver = tokio::spawn(Wiped::at_the_end(driver)).abort_handle();
        let (written, used, idled) = (connection.written, false, Duration::ZERO);
        Ok(Box::new(Self { sender, written, progress, limits, used, idled, driver, retires, generation, keep_alive, gauge }))
    }

    /// Sends `request`. Dropping the future closes the connection. The connection is free again when the bodies of both the
    /// request and the answer have ended.
    pub(in crate::upstream) async fn send(&mut self, request: Request<B>) -> Result<(Response<Incoming>, UploadFlag), SendError> {
        let before = bytes_written(&self.written);
        let (request, upload) = with_upload_flag(request);
        let in_flight = AbortOnDrop(&self.driver);
        self.progress.expect();
        let response = self.sender.try_send_request(request).await.map_err(|mut error| {
            let unsent = error.take_message().is_some() || bytes_written(&self.written) == before;
            let error = error.into_error();
            let no_answer =
                !self.progress.was_interim() && (error.is_parse_status() || (error.is_parse() && self.progress.was_odd()));
            let cause = match cause(&error, &self.progress, self.limits) {
                Cause::Protocol if self.used && no_answer => Cause::Surplus,
                cause => cause,
            };
            if self.used && cause == Cause::Closed {
                self.keep_alive.unanswered(self.idled, clock::instant());
            }
            SendError { cause, sent: if unsent { Sent::Nothing } else { Sent::Something } }
        })?;
        self.progress.head_has_ended();
        if std::mem::replace(&mut self.used, true) {
            self.keep_alive.answered();
        }
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            // Nobody asked for it: what follows is not HTTP any more.
            return Err(SendError::after_sending(Cause::Protocol));
        }
        if let Some(timeout) = announced_timeout(response.headers()) {
            self.keep_alive.announced(timeout);
        }
        in_flight.disarm();
        Ok((response, upload))
    }
}

/// Closes a connection whose exchange is given up before its answer. Without it, hyper's driver would wait for the rest of a
/// request that the client may never send.
pub(in crate::upstream) struct AbortOnDrop<'a>(pub(in crate::upstream) &'a AbortHandle);

impl AbortOnDrop<'_> {
    /// The answer came.
    pub(in crate::upstream) fn disarm(self) {
        std::mem::forget(self);
    }
}

impl Drop for AbortOnDrop<'_> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Sends one request over a connection of its own, for log-ins: nothing is kept or shared with the data path. `begins` is called when
/// there is a connection, before anything is sent.
pub async fn send_once(
    connector: &Connector,
    request: Request<Full<Bytes>>,
    begins: impl FnOnce(),
) -> Result<Response<Incoming>, SendError> {
    let connection = connector.connect(Offer::Http1).await.map_err(SendError::unsent)?;
    // Nobody tells it what has come of the answer, whose body is small.
    let (stream, _) = AnswerIo::new(connection.stream);
    let handshake = lenient().handshake(TokioIo::new(stream)).await;
    let (mut sender, driver) = handshake.map_err(|_| SendError::unsent(Cause::Closed))?;
    // The task ends with its connection, as above.
    tokio::spawn(async move { drop(driver.await) });
    begins();
    let mut response = sender.send_request(request).await.map_err(|error| SendError::after_sending(classify(&error)))?;
    answer_framing::settle(&mut response)?;
    Ok(response)
}

/// What an error of hyper's means on a connection that began its answer so.
pub(in crate::upstream) fn cause(error: &hyper::Error, progress: &AnswerProgress, limits: HeadLimits) -> Cause {
    match classify(error) {
        // A length that hyper can't count has the same error as a head that is too large.
        Cause::HeadTooLarge if !progress.exceeds(limits) => Cause::Protocol,
        Cause::Closed if progress.is_all_overhead() => Cause::Protocol,
        Cause::Closed if progress.has_come() => Cause::BrokenOff,
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

/// Whether a request's body left completely; `None`: it has no body.
pub(in crate::upstream) struct UploadFlag(Option<Arc<AtomicBool>>);

impl UploadFlag {
    pub(super) fn is_complete(&self) -> bool {
        self.0.as_ref().is_none_or(|flag| flag.load(Ordering::Relaxed))
    }
}

fn with_upload_flag<B: Body>(request: Request<B>) -> (Request<SentBody<B>>, UploadFlag) {
    let is_all_here = request.body().is_end_stream() || request.body().size_hint().exact() == Some(0);
    let flag = (!is_all_here).then(Arc::<AtomicBool>::default);
    let complete = flag.clone();
    (request.map(|inner| SentBody { inner, complete }), UploadFlag(flag))
}

/// A request's body, and the flag that it was read to its end. Until then its connection is not fit for another request,
/// even if the answer is complete: an upstream may answer before it has read everything. A body of a known length ends with its last
/// byte here, though an HTTP/2 client may end its stream later.
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
            && (self.inner.is_end_stream() || self.inner.size_hint().exact() == Some(0))
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
