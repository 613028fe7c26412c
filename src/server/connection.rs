//! One client connection, from its first byte to its last.

use std::{
    convert::Infallible,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, Version};
use http_body::{Body, Frame, SizeHint};
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};

use super::{
    ConnectionLimits,
    connection_state::{ConnectionState, Due, InProgress},
    drain::Drain,
    peer::Peer,
    stream::{ClientIo, ClientStream},
};

/// Memory that one HTTP/1.x connection may take to buffer a body.
const BODY_BUFFER: usize = 64 * 1024;

/// Bounds of an HTTP/2 connection. What a client may send ahead: a stream's window, a connection's.
const WINDOWS: (u32, u32) = (256 * 1024, 1024 * 1024);
/// Requests in progress; more are refused unseen (`REFUSED_STREAM`).
const STREAMS: u32 = 256;
/// Bytes of an answer that wait in memory for the client to read; one frame of a body may go over it.
const SEND_BUFFER: usize = 64 * 1024;
/// Streams reset by the client before we saw them, and streams that we had to reset: more end the connection.
const RESETS: (usize, usize) = (32, 256);

/// What answers requests. One per worker and listen address.
pub trait RequestService: Send + Sync + 'static {
    /// The body of an answer.
    type Body: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + Unpin + 'static;

    /// Answers one request. Dropped when the client hangs up.
    ///
    /// After a 101 the connection is the answerer's, by hyper's `OnUpgrade`; it keeps its permit, and the drain waiting, for as
    /// long as it is open.
    fn answer(self: Arc<Self>, request: Request<Incoming>, peer: Peer) -> impl Future<Output = Response<Self::Body>> + Send;

    /// What the next connection is granted.
    fn limits(&self) -> ConnectionLimits;
}

/// Serves one connection until either side closes it, or until it becomes a tunnel.
pub(super) async fn serve<A: RequestService>(
    stream: ClientStream,
    service: Arc<A>,
    connection_state: Arc<ConnectionState>,
    drain: Drain,
) {
    let client = Client { service, peer: stream.peer(), connection_state };
    let stream = ClientIo::new(stream, Arc::clone(&client.connection_state));
    if let Some(stream) = http1(stream, &client, drain.clone()).await {
        // Boxed: it is large, and most connections never need it.
        Box::pin(http2(stream, &client, drain)).await;
    }
}

/// HTTP/1.x. Gives the stream back when the client's first bytes are HTTP/2's.
async fn http1<A: RequestService>(stream: ClientIo, client: &Client<A>, drain: Drain) -> Option<ClientIo> {
    let limits = client.connection_state.limits();
    let mut connection = http1::Builder::new()
        .max_buf_size(limits.head_bytes.max(BODY_BUFFER))
        .max_header_size(limits.head_bytes)
        .max_headers(limits.head_lines)
        // It also runs while a connection is idle, and does not run before the first byte: see `ConnectionState`.
        .header_read_timeout(None)
        .auto_date_header(false)
        .serve_connection(TokioIo::new(stream), service_fn(|request| client.answer(request)))
        .with_upgrades();
    drive(&client.connection_state, drain, |cx, turn| {
        let mut connection = Pin::new(&mut connection);
        if turn == Turn::Leave {
            connection.as_mut().graceful_shutdown();
        }
        let ended = connection.poll(cx).is_ready();
        if ended || client.connection_state.is_http2() { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    if client.connection_state.is_http2() { connection.into_parts().map(|parts| parts.io.into_inner()) } else { None }
}

async fn http2<A: RequestService>(stream: ClientIo, client: &Client<A>, drain: Drain) {
    let limits = client.connection_state.limits();
    // Each stream is a task of its own. They end with the connection, and hold its `ConnectionState`, for which the drain waits.
    let mut connection = http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(WINDOWS.0)
        .initial_connection_window_size(WINDOWS.1)
        .max_concurrent_streams(STREAMS)
        .max_send_buf_size(SEND_BUFFER)
        .max_pending_accept_reset_streams(RESETS.0)
        .max_local_error_reset_streams(RESETS.1)
        .max_header_list_size(u32::try_from(limits.head_bytes).unwrap_or(u32::MAX))
        .auto_date_header(false)
        .serve_connection(TokioIo::new(stream), service_fn(|request| client.answer(request)));
    drive(&client.connection_state, drain, |cx, turn| {
        let mut connection = Pin::new(&mut connection);
        if turn == Turn::Leave {
            connection.as_mut().graceful_shutdown();
        }
        connection.poll(cx).map(drop)
    })
    .await;
}

/// What a connection is polled for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Turn {
    GoOn,
    /// To finish what is in progress, accept no more, and end.
    Leave,
}

/// Polls a connection until it ends, or until it must: a deadline has passed, or a drain wants it gone.
async fn drive(connection_state: &ConnectionState, mut drain: Drain, mut poll: impl FnMut(&mut Context<'_>, Turn) -> Poll<()>) {
    let mut begun = pin!(drain.begun());
    let (mut draining, mut leaving) = (false, false);
    std::future::poll_fn(|cx| {
        let mut turn = Turn::GoOn;
        loop {
            // How it ended is known to the exchange that was under way; there is nobody else to tell.
            if poll(cx, turn).is_ready() {
                return Poll::Ready(());
            }
            if !draining && begun.as_mut().poll(cx).is_ready() {
                draining = true;
                connection_state.shorten_for_drain();
            }
            let due = match connection_state.poll_due(cx) {
                Poll::Ready(due) => Some(due),
                Poll::Pending => connection_state.misuse(),
            };
            if due == Some(Due::Cut) {
                return Poll::Ready(());
            }
            // hyper would close a connection that has not said anything, though its first request may be on the way.
            let leave = due == Some(Due::Leave) || (draining && !connection_state.is_silent());
            if leaving || !leave {
                return Poll::Pending;
            }
            leaving = true;
            connection_state.leave();
            turn = Turn::Leave;
        }
    })
    .await;
}

/// What is the same for every request of a connection.
struct Client<A> {
    service: Arc<A>,
    peer: Peer,
    connection_state: Arc<ConnectionState>,
}

impl<A: RequestService> Client<A> {
    fn answer(
        &self,
        request: Request<Incoming>,
    ) -> impl Future<Output = Result<Response<TrackedBody<A::Body>>, Infallible>> + Send + use<A> {
        let (service, peer) = (Arc::clone(&self.service), self.peer.clone());
        let mut in_progress = InProgress::begin(&self.connection_state, !request.body().is_end_stream());
        // HTTP/1.x's parser has counted already.
        let too_many =
            request.version() == Version::HTTP_2 && request.headers().len() > self.connection_state.limits().head_lines;
        let older = request.version() == Version::HTTP_10 && *request.method() != Method::HEAD;
        async move {
            if too_many {
                in_progress.is_answered();
                let mut answer = Response::new(TrackedBody { inner: None, in_progress });
                *answer.status_mut() = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
                return Ok(answer);
            }
            let mut answer = service.answer(request, peer).await;
            if older {
                delimit(&mut answer, &in_progress);
            }
            if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
                in_progress.goes_on();
            } else if answer.body().is_end_stream() {
                in_progress.is_answered();
            }
            Ok(answer.map(|inner| TrackedBody { inner: Some(inner), in_progress }))
        }
    }
}

/// HTTP/1.0 knows no chunks: unless there is a length, the body ends with the connection, and if it is cut, so does what
/// was left of it. Then the end must not look like one.
fn delimit<B: Body>(answer: &mut Response<B>, in_progress: &InProgress) {
    let bodiless = matches!(answer.status(), StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) || answer.body().is_end_stream();
    if bodiless {
        return;
    }
    in_progress.close_delimited();
    if answer.body().size_hint().exact().is_none() {
        // Says that the connection is not kept, even if the client has asked for that.
        *answer.version_mut() = Version::HTTP_10;
    }
}

/// An answer's body that tells when its exchange is over.
struct TrackedBody<B> {
    /// `None`: there is none, and nobody of ours answered.
    inner: Option<B>,
    in_progress: InProgress,
}

impl<B: Body<Data = Bytes> + Unpin> Body for TrackedBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = &mut *self;
        let Some(inner) = &mut this.inner else { return Poll::Ready(None) };
        let polled = Pin::new(&mut *inner).poll_frame(cx);
        let answered = match &polled {
            Poll::Ready(None) => true,
            Poll::Ready(Some(Ok(frame))) => frame.is_trailers() || inner.is_end_stream(),
            _ => false,
        };
        if answered {
            this.in_progress.is_answered();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}
