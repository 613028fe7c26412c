//! HTTP/2: one connection, many exchanges.
//!
//! Not hyper's client: that one does not say when the server's limit on streams comes or changes, and takes a stream that
//! was reset without an error code for a body that came to its end. Guarantees: a body that broke off is an error to its reader; an exchange
//! that is given up resets its stream and disturbs no other; a connection on which the server is silent, though it was
//! asked to say something, is found dead within [`PING_EVERY`] and [`PING_PATIENCE`].

use std::{
    convert::Infallible,
    future::poll_fn,
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use h2::{Ping, PingPong, Reason, RecvStream, SendStream, client};
use http::{
    HeaderMap, Method, Request, Response, StatusCode, Uri,
    header::{CONNECTION, CONTENT_LENGTH, HOST, TE, TRANSFER_ENCODING, UPGRADE},
    response,
    uri::{Authority, Scheme},
};
use http_body::{Body, Frame, SizeHint};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::oneshot,
    task::AbortHandle,
    time::{Sleep, sleep},
};
use tracing::debug;

use super::{
    BODY_BUFFER, Broken, Cause, HeadLimits, SendError, Sent,
    streams::{Http2Stream, PoolEntry},
};
use crate::{
    clock,
    connect::{Connection, bytes_written},
    metrics::ConnectionGauge,
    upstream_io,
};

/// Streams on one connection at most, whatever the server allows.
const STREAMS: u32 = 100;
/// What the server may send ahead on one stream.
const STREAM_WINDOW: u32 = 128 * 1024;
/// On all streams together: nobody who reads slowly can take another's share.
const CONNECTION_WINDOW: u32 = STREAM_WINDOW * STREAMS;
/// Streams that were given up and whose last frames may still come.
const RESET_STREAMS: usize = 1024;

/// How often the server is asked for a sign of life.
const PING_EVERY: Duration = Duration::from_secs(5);
/// How long it may take; anything that it sends counts.
const PING_PATIENCE: Duration = Duration::from_secs(4);

/// The handle of a connection. When the last one is gone and its last stream has ended, it closes.
pub(super) struct Http2Handle {
    sender: client::SendRequest<Bytes>,
    scheme: Scheme,
    authority: Authority,
    limits: HeadLimits,
    written: Arc<AtomicU64>,
    presence: ConnectionGauge,
    /// Dropped with the handle: the driver sees it.
    _held: oneshot::Sender<Infallible>,
}

/// Makes a connection ready for requests to `authority`.
pub(super) async fn open(
    connection: Connection,
    authority: Authority,
    limits: HeadLimits,
    presence: ConnectionGauge,
) -> Result<(Http2Handle, Http2Driver), Cause> {
    let heard = Arc::<AtomicBool>::default();
    let socket = Socket { stream: connection.stream, heard: Arc::clone(&heard) };
    let list = u32::try_from(limits.bytes.saturating_mul(2)).unwrap_or(u32::MAX);
    let (sender, mut exchanges) = client::Builder::new()
        .enable_push(false)
        // Before its settings come, the server might refuse more.
        .initial_max_send_streams(1)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        // Heads over the limit itself are judged here, and get an error of their own.
        .max_header_list_size(list)
        .max_send_buffer_size(BODY_BUFFER)
        .max_concurrent_reset_streams(RESET_STREAMS)
        .handshake(socket)
        .await
        .map_err(|_| Cause::Closed)?;
    let pings = exchanges.ping_pong().ok_or(Cause::Closed)?;
    let (held, released) = oneshot::channel();
    let written = connection.written;
    let link = Http2Handle { sender, scheme: Scheme::HTTPS, authority, limits, written, presence, _held: held };
    let silence = PingTimeout { pings, timer: Box::pin(sleep(PING_EVERY)), asked: false, heard: false };
    Ok((link, Http2Driver { connection: exchanges, released: Some(released), heard, silence }))
}

/// What keeps a connection going.
pub(super) struct Http2Driver {
    connection: client::Connection<Socket, Bytes>,
    released: Option<oneshot::Receiver<Infallible>>,
    heard: Arc<AtomicBool>,
    silence: PingTimeout,
}

impl Http2Driver {
    /// Until the connection ends.
    pub(super) async fn run(mut self, mut membership: PoolEntry, link: Weak<Http2Handle>) {
        poll_fn(|cx| self.poll(cx, &mut membership, &link)).await;
        // First of all: what hears of the end below is not to come here again.
        membership.ends(SendError { cause: Cause::Closed, sent: Sent::Nothing });
    }

    fn poll(&mut self, cx: &mut Context<'_>, membership: &mut PoolEntry, link: &Weak<Http2Handle>) -> Poll<()> {
        if let Some(released) = &mut self.released
            && Pin::new(released).poll(cx).is_ready()
        {
            self.released = None;
        }
        // h2 closes a connection that nobody refers to when it is polled.
        if Pin::new(&mut self.connection).poll(cx).is_ready() {
            return Poll::Ready(());
        }
        if self.heard.swap(false, Ordering::Relaxed) {
            self.silence.heard = true;
            // The first that a server sends is its settings (RFC 9113, 3.4).
            membership.allows(self.connection.max_concurrent_send_streams().min(STREAMS as usize));
            if link.upgrade().is_some_and(|link| link.is_going_away()) {
                membership.leaves();
            }
        }
        self.silence.poll_too_long(cx)
    }
}

impl Http2Handle {
    /// Counts it among those without a stream, or no more.
    pub(super) fn set_idle(&self, idle: bool) {
        self.presence.set_idle(idle);
    }

    /// The server has said that it will process no further stream (RFC 9113, 6.8).
    fn is_going_away(&self) -> bool {
        // A fresh clone waits for no stream of its own, so it is ready or never will be.
        matches!(self.sender.clone().poll_ready(&mut Context::from_waker(std::task::Waker::noop())), Poll::Ready(Err(_)))
    }

    /// The head as HTTP/2 has it: the authority takes the place of `Host`, and what only concerns an HTTP/1.1 connection
    /// goes (RFC 9113, 8.2.2 and 8.3.1).
    fn head<B>(&self, request: &mut Request<B>) -> Result<Request<()>, SendError> {
        let mut parts = std::mem::take(request.uri_mut()).into_parts();
        (parts.scheme, parts.authority) = (Some(self.scheme.clone()), Some(self.authority.clone()));
        let uri = Uri::from_parts(parts).map_err(|_| SendError { cause: Cause::Protocol, sent: Sent::Nothing })?;
        let mut head = Request::new(());
        *head.method_mut() = request.method().clone();
        *head.uri_mut() = uri;
        *head.version_mut() = http::Version::HTTP_2;
        *head.headers_mut() = for_http2(std::mem::take(request.headers_mut()));
        Ok(head)
    }
}

/// A new map: `HeaderMap::remove` changes the order of what is kept.
fn for_http2(headers: HeaderMap) -> HeaderMap {
    let mut kept = HeaderMap::with_capacity(headers.len());
    let mut current = None;
    for (name, value) in headers {
        current = name.or(current);
        let Some(name) = &current else { continue };
        let foreign = *name == HOST
            || *name == CONNECTION
            || *name == TRANSFER_ENCODING
            || *name == UPGRADE
            || matches!(name.as_str(), "keep-alive" | "proxy-connection")
            || (*name == TE && value != "trailers");
        if !foreign {
            kept.append(name.clone(), value);
        }
    }
    kept
}

/// Sends `request` on `stream`. Dropping the future resets the stream.
pub(super) async fn send<B>(stream: Http2Stream, mut request: Request<B>) -> Result<Response<Incoming>, SendError>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
{
    let link = stream.link();
    let (before, limits) = (bytes_written(&link.written), link.limits);
    let head = link.head(&mut request)?;
    let asked_for_head = head.method() == Method::HEAD;
    let body = request.into_body();
    let bodiless = body.is_end_stream();
    // What can't be queued never leaves: the connection is going away, or is gone.
    let queued = link.sender.clone().send_request(head, bodiless);
    let (mut answer, output) = queued.map_err(|error| SendError { sent: Sent::Nothing, ..failure(&error) })?;
    let mut upload = (!bodiless).then_some(Upload { output, body, ahead: None });
    let response = poll_fn(|cx| {
        if let Some(sending) = &mut upload
            && let Poll::Ready(sent) = sending.poll_sent(cx)
        {
            upload = None;
            if sent.is_err() {
                return Poll::Ready(Err(SendError { cause: Cause::RequestBody, sent: Sent::Something }));
            }
        }
        let answered = ready!(Pin::new(&mut answer).poll(cx));
        Poll::Ready(answered.map_err(|error| {
            let failure = failure(&error);
            // Nothing at all was written since.
            let unsent = bytes_written(&link.written) == before;
            if unsent { SendError { sent: Sent::Nothing, ..failure } } else { failure }
        }))
    })
    .await?;
    judge(&response, limits)?;
    // The answer may come first; reading it must not be what keeps the request going.
    let upload = upload.map(|mut rest| tokio::spawn(async move { drop(poll_fn(|cx| rest.poll_sent(cx)).await) }).abort_handle());
    let (head, body) = response.into_parts();
    let body = Incoming::new(&head, body, asked_for_head, upload, stream);
    Ok(Response::from_parts(head, body))
}

fn judge(response: &Response<RecvStream>, limits: HeadLimits) -> Result<(), SendError> {
    let headers = response.headers();
    // As many bytes as it has in HTTP/1.1.
    let bytes: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    let cause = if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        // There is no such thing in HTTP/2 (RFC 9113, 8.6).
        Cause::Protocol
    } else if headers.len() > limits.lines || bytes > limits.bytes {
        Cause::HeadTooLarge
    } else {
        return Ok(());
    };
    Err(SendError { cause, sent: Sent::Something })
}

/// Whether the server may have acted on it. It has not if it says so: it refused the stream (RFC 9113, 8.7), or the stream
/// is above the last one of its GOAWAY (6.8). h2 tells an exchange of a GOAWAY from the peer only in the latter case: on
/// those that the server may have processed it waits for their end or that of the connection, which is another error.
fn failure(error: &h2::Error) -> SendError {
    let refused = error.is_go_away() || error.reason() == Some(Reason::REFUSED_STREAM);
    let sent = if error.is_remote() && refused { Sent::Nothing } else { Sent::Something };
    // What h2 itself objects to is not HTTP/2; and who demands HTTP/1.1 will demand it again.
    let foreign = error.is_library() || error.reason() == Some(Reason::HTTP_1_1_REQUIRED);
    SendError { cause: if foreign { Cause::Protocol } else { Cause::Closed }, sent }
}

/// A request's body on its way out.
struct Upload<B> {
    output: SendStream<Bytes>,
    body: B,
    /// Taken from the body and waiting for room in the server's window; whether it is the last.
    ahead: Option<(Bytes, bool)>,
}

/// The client did not finish it.
struct Unfinished;

impl<B: Body<Data = Bytes> + Unpin> Upload<B> {
    /// Until all of it has left, or the server wants no more; why, its answer tells.
    fn poll_sent(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Unfinished>> {
        loop {
            if self.output.poll_reset(cx).is_ready() {
                return Poll::Ready(Ok(()));
            }
            if let Some((bytes, last)) = self.ahead.take() {
                if self.output.capacity() == 0 && !bytes.is_empty() {
                    let granted = self.output.poll_capacity(cx);
                    self.ahead = Some((bytes, last));
                    match ready!(granted) {
                        Some(Ok(_)) => continue,
                        Some(Err(_)) | None => return Poll::Ready(Ok(())),
                    }
                }
                if self.output.send_data(bytes, last).is_err() || last {
                    return Poll::Ready(Ok(()));
                }
            }
            // The body first, room for it later: room that was reserved and is not used is missing elsewhere.
            let Some(frame) = ready!(Pin::new(&mut self.body).poll_frame(cx)) else {
                self.ahead = Some((Bytes::new(), true));
                continue;
            };
            let Ok(frame) = frame else {
                self.output.send_reset(Reason::CANCEL);
                return Poll::Ready(Err(Unfinished));
            };
            match frame.into_data() {
                Ok(bytes) => {
                    // h2 asks for the rest when it has all of it.
                    self.output.reserve_capacity(usize::from(!bytes.is_empty()));
                    self.ahead = Some((bytes, self.body.is_end_stream()));
                }
                Err(frame) => {
                    let Ok(trailers) = frame.into_trailers() else { continue };
                    self.output.reserve_capacity(0);
                    // What goes wrong here, the answer tells.
                    let _ = self.output.send_trailers(trailers);
                    return Poll::Ready(Ok(()));
                }
            }
        }
    }
}

/// An answer's body. Dropped before its end, it resets the stream.
pub(super) struct Incoming {
    body: RecvStream,
    /// Bytes to come, if the server said how many.
    left: Option<u64>,
    in_trailers: bool,
    upload: Option<AbortHandle>,
    /// After `body`: a stream that is given back has been let go of.
    _stream: Http2Stream,
}

impl Incoming {
    fn new(
        head: &response::Parts,
        body: RecvStream,
        asked_for_head: bool,
        upload: Option<AbortHandle>,
        stream: Http2Stream,
    ) -> Self {
        let length = head.headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        Self { body, left: if asked_for_head { None } else { length }, in_trailers: false, upload, _stream: stream }
    }

    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        if !self.in_trailers {
            match ready!(self.body.poll_data(cx)) {
                Some(Ok(bytes)) => {
                    self.left = self.left.map(|left| left.saturating_sub(bytes.len() as u64));
                    // Who takes it has asked for it, so the server may send as much again. There is no more to give back
                    // than came in.
                    let _ = self.body.flow_control().release_capacity(bytes.len());
                    return Poll::Ready(Some(Ok(Frame::data(bytes))));
                }
                Some(Err(_)) => return Poll::Ready(Some(Err(Broken))),
                None => self.in_trailers = true,
            }
        }
        Poll::Ready(match ready!(self.body.poll_trailers(cx)) {
            Ok(trailers) => trailers.map(|trailers| Ok(Frame::trailers(trailers))),
            Err(_) => Some(Err(Broken)),
        })
    }

    pub(super) fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        if self.is_end_stream() {
            SizeHint::with_exact(0)
        } else {
            self.left.map_or_else(SizeHint::default, SizeHint::with_exact)
        }
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        // The exchange is over, finished or not: nobody waits for the rest of the request.
        if let Some(upload) = &self.upload {
            upload.abort();
        }
    }
}

/// Finds out that nobody is there any more.
struct PingTimeout {
    pings: PingPong,
    timer: Pin<Box<Sleep>>,
    /// The server owes a sign of life.
    asked: bool,
    /// It gave one since.
    heard: bool,
}

impl PingTimeout {
    fn poll_too_long(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.asked {
            // What it says, the connection's end tells too; asking makes way for the next ping.
            let _ = self.pings.poll_pong(cx);
        }
        while self.timer.as_mut().poll(cx).is_ready() {
            let next = if !self.asked {
                // One at a time: a server that talks but answers no ping is alive.
                let _ = self.pings.send_ping(Ping::opaque());
                (self.asked, self.heard) = (true, false);
                PING_PATIENCE
            } else if self.heard {
                self.asked = false;
                PING_EVERY.saturating_sub(PING_PATIENCE)
            } else {
                debug!("the upstream does not answer on an HTTP/2 connection");
                return Poll::Ready(());
            };
            self.timer.as_mut().reset(clock::instant() + next);
        }
        Poll::Pending
    }
}

/// A byte stream that notes when something came.
struct Socket {
    stream: upstream_io::UpstreamIo,
    heard: Arc<AtomicBool>,
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if matches!(outcome, Poll::Ready(Ok(()))) {
            self.heard.store(true, Ordering::Relaxed);
        }
        outcome
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buffer)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffers: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
