//! HTTP/1.1 over one connection.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use hyper::{
    body::Incoming,
    client::conn::http1::{self, SendRequest},
};
use hyper_util::rt::TokioIo;
use tokio::{task::AbortHandle, time::Instant};

use super::{BODY_BUFFER, Cause, HeadLimits, SendError, Sent};
use crate::{
    allocator::Wiped,
    connect::{Connection, bytes_written, refused_afterwards},
    metrics::ConnectionGauge,
};

/// An open connection with no exchange on it.
pub(super) struct Open<B> {
    sender: SendRequest<SentBody<B>>,
    written: Arc<AtomicU64>,
    driver: AbortHandle,
    retires: Instant,
    presence: ConnectionGauge,
}

/// Makes a connection ready for requests. A task drives it until either side closes it. `retires`: when it is too old for
/// another request.
pub(super) async fn open<B>(
    connection: Connection,
    head: HeadLimits,
    retires: Instant,
    presence: ConnectionGauge,
) -> Result<Open<B>, Cause>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: std::error::Error + Send + Sync,
{
    let (sender, driver) = http1::Builder::new()
        .max_buf_size(head.bytes.max(BODY_BUFFER))
        .max_header_size(head.bytes)
        .max_headers(head.lines)
        .handshake(TokioIo::new(connection.stream))
        .await
        .map_err(|_| Cause::Closed)?;
    // It ends with its connection: when the sender and the answer's body are dropped, when an exchange is left unfinished,
    // or when the peer hangs up. How it ended reaches the exchange that was under way.
    let driver = tokio::spawn(Wiped::at_the_end(driver)).abort_handle();
    Ok(Open { sender, written: connection.written, driver, retires, presence })
}

impl<B> Open<B> {
    /// Whether the exchange before this one has ended on both sides and the peer has not closed.
    pub(super) async fn is_usable(&mut self) -> bool {
        self.sender.is_ready() || self.sender.ready().await.is_ok()
    }

    pub(super) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// When it is too old for another request.
    pub(super) fn retires(&self) -> Instant {
        self.retires
    }

    /// Counts it among those that wait for a request, or no more.
    pub(super) fn set_idle(&self, idle: bool) {
        self.presence.set_idle(idle);
    }

    /// Closes it in the middle of an exchange: by itself the driver would wait for the rest of a request that nobody reads
    /// from the client any more.
    pub(super) fn abort(self) {
        self.driver.abort();
    }
}

impl<B> Open<B>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: std::error::Error + Send + Sync,
{
    /// Sends `request`; the connection is free again when both its body and the answer's have ended.
    pub(super) async fn send(&mut self, request: Request<B>) -> Result<(Response<Incoming>, Uploaded), SendError> {
        let before = bytes_written(&self.written);
        let (request, uploaded) = with_upload(request);
        let in_flight = InFlight(&self.driver);
        let response = self.sender.try_send_request(request).await.map_err(|mut error| {
            let unsent = error.take_message().is_some() || bytes_written(&self.written) == before;
            SendError { cause: classify(&error.into_error()), sent: if unsent { Sent::Nothing } else { Sent::Something } }
        })?;
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            // Nobody asked for it: what follows is not HTTP any more.
            return Err(SendError { cause: Cause::Protocol, sent: Sent::Something });
        }
        in_flight.answered();
        Ok((response, uploaded))
    }
}

/// A request without an answer yet. Given up, it takes its connection along: by itself the driver would wait for the rest
/// of a body that the client may never send.
struct InFlight<'a>(&'a AbortHandle);

impl InFlight<'_> {
    fn answered(self) {
        std::mem::forget(self);
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// One exchange on a connection that nobody else uses.
pub(super) async fn once(connection: Connection, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, SendError> {
    let (mut sender, driver) = http1::handshake(TokioIo::new(connection.stream))
        .await
        .map_err(|_| SendError { cause: Cause::Closed, sent: Sent::Nothing })?;
    // It ends with its connection, as above.
    tokio::spawn(async move { drop(driver.await) });
    sender.send_request(request).await.map_err(|error| SendError { cause: classify(&error), sent: Sent::Something })
}

pub(super) fn classify(error: &hyper::Error) -> Cause {
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

/// Whether a request's body left completely. No flag: there is none.
pub(super) struct Uploaded(Option<Arc<AtomicBool>>);

impl Uploaded {
    pub(super) fn is_complete(&self) -> bool {
        self.0.as_ref().is_none_or(|flag| flag.load(Ordering::Relaxed))
    }
}

fn with_upload<B: Body>(request: Request<B>) -> (Request<SentBody<B>>, Uploaded) {
    let uploaded = (!request.body().is_end_stream()).then(Arc::<AtomicBool>::default);
    let flag = uploaded.clone();
    (request.map(|inner| SentBody { inner, uploaded: flag }), Uploaded(uploaded))
}

/// A request's body that says when it has been read to its end. Until then its connection is not fit for another
/// request, even if the answer is complete: an upstream may answer before it has read everything.
pub(super) struct SentBody<B> {
    inner: B,
    uploaded: Option<Arc<AtomicBool>>,
}

impl<B: Body + Unpin> Body for SentBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let polled = Pin::new(&mut self.inner).poll_frame(cx);
        let ended = match &polled {
            Poll::Ready(None) => true,
            Poll::Ready(Some(Ok(_))) => self.inner.is_end_stream(),
            _ => false,
        };
        if let (true, Some(flag)) = (ended, &self.uploaded) {
            flag.store(true, Ordering::Relaxed);
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
