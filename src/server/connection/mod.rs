//! Serves one client connection: HTTP/1.x or HTTP/2 by hyper, until it ends, must end, or becomes a tunnel.
//!
//! Guarantees: an HTTP/2 connection is bounded in streams, resets, heads and memory; an answer to HEAD has no content, and every
//! answer has a `Date`, whoever made it.

use std::{
    convert::Infallible,
    ops::ControlFlow::{self, Break, Continue},
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{
    HeaderValue, Method, Request, Response, StatusCode, Version,
    header::{CONNECTION, CONTENT_LENGTH, Entry},
};
use http_body::{Body, Frame, SizeHint};
use hyper::{
    body::Incoming,
    ext::ReasonPhrase,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{task::yield_now, time::sleep_until};

use super::{
    ConnectionLimits, Drain, Peer,
    client_errors::ClientError,
    client_io::{ClientIo, ClientStream},
    connection_state::{ConnectionState, Due, InProgress},
    paced::{Pace, Paced},
    request_body::RequestBody,
};
use crate::clock;

/// How many header lines hyper takes by default.
const HYPERS_HEADER_LINES: usize = 100;
/// How much of a body an HTTP/1.x connection may buffer, in bytes.
const BODY_BUFFER: usize = 64 * 1024;

/// How many bytes an HTTP/2 client may send at once that are no request, beside what its largest head may take on the wire.
const BURST: usize = 16 * 1024;
/// How many bytes an HTTP/2 client may send whose caller was refused when it was accepted, its head included: it is only told so.
const REFUSED_BURST: usize = 4 * 1024;
/// HTTP/2's windows, in bytes: how much a client may send ahead on a stream, and on the connection.
const WINDOWS: (u32, u32) = (256 * 1024, 1024 * 1024);
/// How much of an HTTP/2 response may wait in memory for the client to read, in bytes; one frame may exceed it.
const SEND_BUFFER: usize = 64 * 1024;
/// How many streams a client may reset before we saw them, and how many we may have to reset, on one HTTP/2 connection;
/// more end it.
const RESETS: (usize, usize) = (32, 256);

/// What an answer means for its connection, and so for other clients that need a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnswerKind {
    /// The request was admitted, and this is what it has brought: the connection keeps its place until the client has taken it.
    Forwarded,
    /// We made it ourselves: the connection gives up its place while the client reads it.
    Own,
    /// The same, and its caller may ask for nothing here: the connection closes after it.
    CallerRefused,
}

/// Answers requests. There is one per worker and listen address.
pub trait RequestService: Send + Sync + 'static {
    /// The body of a response.
    type Body: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + Unpin + 'static;

    /// Answers one request. The future is dropped when the client hangs up. A request that is not admitted is answered at the
    /// first poll: one that is pending holds its connection's place.
    ///
    /// After a 101, the service has the connection through hyper's `OnUpgrade`. The connection keeps its permit, and the drain
    /// waiting, until it is closed.
    fn answer(self: Arc<Self>, request: Request<RequestBody>, peer: Peer) -> impl Future<Output = Response<Self::Body>> + Send;

    /// What an answer of this service means for its connection.
    fn kind(answer: &Response<Self::Body>) -> AnswerKind;

    /// Whether the client may ask for anything, as far as that shows before its first request. One that may not gets no place.
    fn lets_in(&self, peer: &Peer) -> bool;

    /// The limits of the next connection.
    fn limits(&self) -> ConnectionLimits;
}

/// Serves one connection until either side closes it, its deadline passes, or it becomes a tunnel.
pub(super) async fn serve<A: RequestService>(
    stream: ClientStream,
    peer: Peer,
    service: Arc<A>,
    state: Arc<ConnectionState>,
    drain: Drain,
) {
    let client = ClientConnection { service, peer, state };
    let stream = ClientIo::new(stream, Arc::clone(&client.state));
    if let Some(stream) = http1(stream, &client, drain.clone()).await {
        // The future is boxed because it is large, and most connections never need it.
        let _ended = Box::pin(http2(stream, &client, drain)).await;
    }
}

/// Serves HTTP/1.x. Gives the stream back when the client's first bytes are HTTP/2's.
///
/// While a client has sent nothing, or nothing for a while, there is no parser, and so there are no buffers.
async fn http1<A: RequestService>(mut stream: ClientIo, client: &ClientConnection<A>, drain: Drain) -> Option<ClientIo> {
    let state = &*client.state;
    loop {
        let readable = drive(state, drain.clone(), |cx, step| match step {
            ConnectionStep::Serve => stream.poll_readable(cx).map(Continue),
            ConnectionStep::ShutDown => Poll::Ready(Break(None)),
        });
        if readable.await.is_break() {
            return None;
        }
        let service = service_fn(|request| client.answer(request));
        // Boxed, so that its memory is free again when the connection rests.
        let mut connection =
            Box::new(http1_builder(state.limits()).serve_connection(TokioIo::new(stream), service).with_upgrades());
        let served = drive(state, drain.clone(), |cx, step| {
            let mut connection = Pin::new(&mut *connection);
            if step == ConnectionStep::ShutDown {
                connection.as_mut().graceful_shutdown();
            }
            match connection.poll(cx) {
                Poll::Ready(ended) => Poll::Ready(Break(ended.err().as_ref().and_then(error_in_http1))),
                Poll::Pending if state.is_http2() => Poll::Ready(Continue(())),
                Poll::Pending => Poll::Pending,
            }
        });
        if served.await.is_break() {
            return None;
        }
        let parts = connection.into_parts()?;
        stream = parts.io.into_inner();
        if state.is_http2() {
            return Some(stream);
        }
        if !parts.read_buf.is_empty() {
            // They came with the request before, so nobody has seen that another head has begun.
            state.read_some();
        }
        stream.hold(&parts.read_buf);
    }
}

fn http1_builder(limits: &ConnectionLimits) -> http1::Builder {
    let mut builder = http1::Builder::new();
    // hyper's own limit stands on the stack; any other one costs an allocation for each head.
    if limits.head_lines != HYPERS_HEADER_LINES {
        builder.max_headers(limits.head_lines);
    }
    builder
        .max_buf_size(limits.head_bytes.max(BODY_BUFFER))
        .max_header_size(limits.head_bytes)
        // A client may send FIN behind its request and read the answer. `ClientIo` notices one that is gone.
        .half_close(true)
        // hyper's time-out also runs while a connection is idle, and not before the first byte. `ConnectionState` has ours.
        .header_read_timeout(None)
        .auto_date_header(true);
    builder
}

async fn http2<A: RequestService>(stream: ClientIo, client: &ClientConnection<A>, drain: Drain) -> ControlFlow<()> {
    let limits = client.state.limits();
    let burst = if client.state.caller_is_refused() { REFUSED_BURST } else { 2 * limits.head_bytes + BURST };
    let pace = Pace::new(burst, WINDOWS.0 as usize, clock::instant());
    // A request's future is boxed, since the task of a stream keeps the memory until the client has read the answer.
    // Each stream is a task of its own. It ends with the connection, and holds its `ConnectionState`, so the drain waits for it.
    let mut connection = http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(WINDOWS.0)
        .initial_connection_window_size(WINDOWS.1)
        .max_concurrent_streams(limits.streams)
        .max_send_buf_size(SEND_BUFFER)
        .max_pending_accept_reset_streams(RESETS.0)
        .max_local_error_reset_streams(RESETS.1)
        .max_header_list_size(u32::try_from(limits.head_bytes).unwrap_or(u32::MAX))
        .auto_date_header(true)
        .serve_connection(TokioIo::new(Paced::new(stream, pace.clone())), service_fn(|request| Box::pin(client.answer(request))));
    drive(&client.state, drain, |cx, step| {
        if pace.renew(client.state.progress(), clock::instant()) {
            client.state.book_turn(0);
        }
        let mut connection = Pin::new(&mut connection);
        if step == ConnectionStep::ShutDown {
            connection.as_mut().graceful_shutdown();
        }
        connection.poll(cx).map(|ended| {
            let flood = pace.is_exhausted().then_some(ClientError::Http2);
            Break(flood.or_else(|| ended.err().as_ref().and_then(error_in_http2)))
        })
    })
    .await
}

/// What the client sent wrong, if hyper ended the connection for it.
fn error_in_http1(error: &hyper::Error) -> Option<ClientError> {
    if error.is_parse_too_large() { Some(ClientError::HeadTooLarge) } else { error.is_parse().then_some(ClientError::Malformed) }
}

/// What the client sent wrong over HTTP/2, if hyper ended the connection for that and the client did not just go away.
fn error_in_http2(error: &hyper::Error) -> Option<ClientError> {
    let error = std::error::Error::source(error)?.downcast_ref::<h2::Error>()?;
    error.is_library().then_some(ClientError::Http2)
}

/// What [`drive`] asks of hyper's connection with a poll.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ConnectionStep {
    Serve,
    /// Finish what is in progress, accept no more requests, and end.
    ShutDown,
}

/// Polls a connection until it ends, or goes on otherwise: as `poll` says, or without its buffers. A deadline that passes, and a
/// drain, end it: gracefully, or at once.
async fn drive(
    state: &ConnectionState,
    drain: Drain,
    mut poll: impl FnMut(&mut Context<'_>, ConnectionStep) -> Poll<ControlFlow<Option<ClientError>>>,
) -> ControlFlow<()> {
    let mut begun = pin!(drain.begun());
    let (mut draining, mut shutting_down) = (false, false);
    let mut look = None;
    std::future::poll_fn(|cx| {
        let mut step = ConnectionStep::Serve;
        loop {
            // Of how the connection ended only this is told: an exchange that was in progress knows the rest.
            if let Poll::Ready(flow) = poll(cx, step) {
                return Poll::Ready(flow.map_break(|error| error.into_iter().for_each(|error| state.record(error))));
            }
            if !draining && begun.as_mut().poll(cx).is_ready() {
                draining = true;
                state.shorten_for_drain();
            }
            // The next request may have come, and the runtime has not told yet: it asks the kernel before it goes on here.
            if state.is_asked_to_close() {
                let look = look.get_or_insert_with(|| Box::pin(yield_now()));
                ready!(look.as_mut().poll(cx));
            }
            look = None;
            let due = match state.poll_due(cx) {
                Poll::Ready(due) => Some(due),
                Poll::Pending => state.must_end(),
            };
            let leaves = match due {
                Some(Due::Rest) => return Poll::Ready(Continue(())),
                Some(Due::Cut) => return Poll::Ready(Break(())),
                Some(Due::LeavePlace) if !state.leave_place() => return Poll::Ready(Break(())),
                Some(Due::LeavePlace | Due::Leave) => true,
                // The stream is asked in the next poll.
                None if state.begin_client_check() => continue,
                None => false,
            };
            // hyper would close a connection between requests, though the next one may be on the way.
            let shut_down = leaves || (draining && !state.awaits_request());
            if shutting_down || !shut_down {
                return Poll::Pending;
            }
            shutting_down = true;
            state.leave();
            step = ConnectionStep::ShutDown;
        }
    })
    .await
}

/// What every request of a connection shares.
struct ClientConnection<A> {
    service: Arc<A>,
    peer: Peer,
    state: Arc<ConnectionState>,
}

impl<A: RequestService> ClientConnection<A> {
    fn answer(
        &self,
        request: Request<Incoming>,
    ) -> impl Future<Output = Result<Response<TrackedBody<A::Body>>, Infallible>> + Send + use<A> {
        let (service, peer) = (Arc::clone(&self.service), self.peer.clone());
        let mut in_progress = InProgress::begin(&self.state, !request.body().is_end_stream());
        // The HTTP/1.x parser has counted the lines itself.
        let (version, asked_for_head) = (request.version(), *request.method() == Method::HEAD);
        let is_http2 = version == Version::HTTP_2;
        let too_many = is_http2 && request.headers().len() > self.state.limits().head_lines;
        // Dropped now, and not when the stream's task runs: its fields may take much more memory than they took on the wire.
        let request = (!too_many).then(|| request.map(|body| RequestBody::new(body, &self.state)));
        async move {
            let Some(request) = request else {
                in_progress.record(ClientError::HeadTooLarge);
                in_progress.give_up_place(0);
                in_progress.mark_answered();
                let mut answer = Response::new(TrackedBody { inner: None, in_progress });
                *answer.status_mut() = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
                return Ok(answer);
            };
            // Pinned where it is: awaited as it is, it would be copied once more, and it is large.
            let mut answer = pin!(service.answer(request, peer)).await;
            let due = if is_http2 { None } else { in_progress.own_answer_waits_until() };
            let is_last = settle::<A>(&answer, is_http2, &mut in_progress);
            // A client that sends HTTP/2 may have many requests in progress, so there it is reading that waits.
            if let (Some(due), false) = (due, A::kind(&answer) == AnswerKind::Forwarded) {
                // Boxed, since every request would reserve the memory.
                Box::pin(sleep_until(due)).await;
            }
            if is_last && !is_http2 {
                answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                // hyper would add `keep-alive` for a client of HTTP/1.0 that asks for it, but not to an answer of that version.
                if version == Version::HTTP_10 {
                    *answer.version_mut() = Version::HTTP_10;
                }
            }
            leave_reason_empty(&mut answer);
            // hyper leaves content out by itself over HTTP/1.x, but for a 304 it needs the body to keep the length.
            let never_has_content = matches!(answer.status(), StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
            let bodiless = asked_for_head || (is_http2 && never_has_content);
            if asked_for_head {
                announce_length(&mut answer);
            } else if version == Version::HTTP_10 {
                delimit(&mut answer, &in_progress);
            }
            if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
                in_progress.mark_tunnel();
            } else if bodiless || is_all_here(answer.body()) {
                in_progress.mark_answered();
            } else {
                in_progress.set_windowless(true);
            }
            Ok(answer.map(|inner| TrackedBody { inner: (!bodiless).then_some(inner), in_progress }))
        }
    }
}

/// Gives a status that has no standard reason an empty one, if it has none of its own: hyper would write `<none>`.
fn leave_reason_empty<B>(answer: &mut Response<B>) {
    if answer.status().canonical_reason().is_none() && answer.extensions().get::<ReasonPhrase>().is_none() {
        answer.extensions_mut().insert(ReasonPhrase::from_static(b""));
    }
}

/// Says in a response to HEAD how long the body would be that a GET gets (RFC 9110, 9.3.2).
fn announce_length<B: Body>(answer: &mut Response<B>) {
    let body = answer.body();
    let length = body.size_hint().exact().filter(|_| !body.is_end_stream());
    if let (Some(length), Entry::Vacant(vacant)) = (length, answer.headers_mut().entry(CONTENT_LENGTH)) {
        vacant.insert(HeaderValue::from(length));
    }
}

/// Notes what the answer means for its connection. Tells whether the connection closes after it. Where another client waits for
/// the place, an answer over HTTP/1.x says so: closed between requests, the connection could meet one that is on its way. HTTP/2
/// tells a client which requests were not read.
fn settle<A: RequestService>(answer: &Response<A::Body>, is_http2: bool, in_progress: &mut InProgress) -> bool {
    let kind = A::kind(answer);
    if kind == AnswerKind::Forwarded {
        in_progress.mark_forwarded();
        return !is_http2 && in_progress.connection_should_end() && answer.status() != StatusCode::SWITCHING_PROTOCOLS;
    }
    in_progress.give_up_place(answer.body().size_hint().lower());
    let is_last = kind == AnswerKind::CallerRefused || in_progress.connection_should_end();
    if is_last {
        in_progress.mark_last();
    }
    is_last
}

/// Prepares a response to an HTTP/1.0 client, which knows no chunks: without a length, the body ends with the connection. If
/// the body is cut, the connection must not end cleanly, since the client would take the body for whole.
fn delimit<B: Body>(answer: &mut Response<B>, in_progress: &InProgress) {
    if matches!(answer.status(), StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) || is_all_here(answer.body()) {
        return;
    }
    in_progress.set_close_delimited();
    if answer.body().size_hint().exact().is_none() {
        // hyper then closes the connection, even if the client has asked to keep it.
        *answer.version_mut() = Version::HTTP_10;
    }
}

/// Whether no byte of a body is to come. Over HTTP/2 the end of a body may come later than its last byte. Over HTTP/1.x hyper drops a
/// body of a known length with that byte, and does not ask for the end.
pub fn is_all_here(body: &impl Body) -> bool {
    body.is_end_stream() || body.size_hint().exact() == Some(0)
}

/// A response body that tells its [`InProgress`] when the last byte was given.
struct TrackedBody<B> {
    /// `None`: the response has no body.
    inner: Option<B>,
    in_progress: InProgress,
}

impl<B: Body<Data = Bytes> + Unpin> Body for TrackedBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = &mut *self;
        let Some(inner) = &mut this.inner else { return Poll::Ready(None) };
        this.in_progress.set_windowless(false);
        let polled = Pin::new(&mut *inner).poll_frame(cx);
        let answered = match &polled {
            Poll::Ready(None) => true,
            Poll::Ready(Some(Ok(frame))) => frame.is_trailers() || is_all_here(inner),
            _ => false,
        };
        if answered {
            this.in_progress.mark_answered();
        } else if polled.is_ready() {
            // hyper asks for more as soon as the client takes more.
            this.in_progress.set_windowless(true);
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

#[cfg(test)]
mod tests;
