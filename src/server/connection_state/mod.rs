//! One client connection: its byte stream, its phase, and the deadline that the phase sets.
//!
//! [`ClientIo`] tells HTTP/2 from HTTP/1.x by the first bytes, and notes reads and writes in [`ConnectionState`]. Guarantees:
//! the bytes of an HTTP/1.x connection, the first ones too, are read straight into the parser's buffer; only bytes that could
//! begin HTTP/2's preface are held back until the protocol is known. A close-delimited response that is not whole ends with a
//! reset, never with a clean end. Only a whole head ends the time for the head; a connection is idle only when no request is in
//! progress on it and nothing is left to write; a [`ConnectionState`] keeps the connection's permit, and the drain waiting,
//! until it is dropped.

use std::{
    io::{self, IoSlice},
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, BytesMut};
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, UnixStream},
    sync::mpsc,
};

use super::{ConnectionLimits, Drain, Peer, connection_limit::ConnectionPermit};
use crate::clock;

/// What an HTTP/2 client sends first (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The time for what should follow at once: the first bytes on a connection that was accepted during a drain, or the end of
/// an HTTP/2 connection after our GOAWAY.
const CLOSE_GRACE: Duration = Duration::from_secs(1);

/// A connection that has sent nothing for this long since it was accepted counts as idle, and may be evicted.
const IDLE_GRACE: Duration = Duration::from_secs(1);

/// How many more streams an HTTP/2 client may abandon than it lets finish, before we close its connection gracefully; at
/// twice as many we cut it. Each abandoned stream may have cost a request to upstream (CVE-2023-44487).
const ABANDONED: usize = 100;

/// The first phase: accepted, and nothing read yet.
const FIRST: u8 = 0;
/// Part of a head was read, or part of HTTP/2's preface.
const PARTIAL: u8 = 1;
/// At least one request is in progress.
const EXCHANGE: u8 = 2;
/// Between requests.
const IDLE: u8 = 3;

/// How a connection ends now that its deadline has passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// Gracefully, as its protocol provides.
    Leave,
    /// At once.
    Cut,
}

/// State of one client connection. Only the connection's own worker uses it; its members are atomic because a task must be
/// `Send`.
pub(super) struct ConnectionState {
    phase: AtomicU8,
    http2: AtomicBool,
    /// Requests in progress: at most one over HTTP/1.x.
    streams: AtomicUsize,
    abandoned: AtomicUsize,
    /// Bytes came while a request without a body was in progress: they begin the next head.
    surplus: AtomicBool,
    /// The last write could not be finished.
    blocked: AtomicBool,
    /// The current response ends with the connection, without another delimiter (HTTP/1.0).
    close_delimited: AtomicBool,
    leaving: AtomicBool,
    limits: ConnectionLimits,
    permit: ConnectionPermit,
    _alive: mpsc::Sender<()>,
}

impl ConnectionState {
    /// Starts the connection's first phase, and the time for its first head.
    pub(super) fn begin(mut permit: ConnectionPermit, limits: ConnectionLimits, drain: &Drain) -> Arc<Self> {
        permit.accepted();
        permit.deadline().arm(limits.head_timeout);
        // A client that sends nothing must not keep out one that would.
        permit.idle(clock::instant() + IDLE_GRACE);
        Arc::new(Self {
            phase: AtomicU8::new(FIRST),
            http2: AtomicBool::new(false),
            streams: AtomicUsize::new(0),
            abandoned: AtomicUsize::new(0),
            surplus: AtomicBool::new(false),
            blocked: AtomicBool::new(false),
            close_delimited: AtomicBool::new(false),
            leaving: AtomicBool::new(false),
            limits,
            permit,
            _alive: drain.hold(),
        })
    }

    pub(super) fn limits(&self) -> &ConnectionLimits {
        &self.limits
    }

    fn phase(&self) -> u8 {
        self.phase.load(Ordering::Relaxed)
    }

    fn set(&self, phase: u8) {
        self.phase.store(phase, Ordering::Relaxed);
    }

    /// Whether nothing was read since the connection was accepted.
    pub(super) fn is_silent(&self) -> bool {
        self.phase() == FIRST
    }

    /// Notes that something was read, in HTTP/1.x, or before the protocol was known.
    pub(super) fn read_some(&self) {
        match self.phase() {
            FIRST => {
                self.set(PARTIAL);
                if self.permit.busy() {
                    // It was evicted a moment earlier, which made the deadline pass.
                    self.permit.deadline().arm(self.limits.head_timeout);
                }
            }
            IDLE => self.begin_head(),
            EXCHANGE => self.surplus.store(true, Ordering::Relaxed),
            _ => {}
        }
    }

    fn begin_head(&self) {
        self.set(PARTIAL);
        self.permit.deadline().arm(self.limits.head_timeout);
        self.permit.busy();
    }

    /// Notes that the client speaks HTTP/2.
    pub(super) fn preface_came(&self) {
        self.http2.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_http2(&self) -> bool {
        self.http2.load(Ordering::Relaxed)
    }

    /// Notes whether the last write is blocked: the kernel did not take all of it.
    pub(super) fn set_blocked(&self, blocked: bool) {
        if self.is_blocked() == blocked {
            return;
        }
        self.blocked.store(blocked, Ordering::Relaxed);
        if !blocked && self.phase() == IDLE {
            self.begin_idling();
        }
    }

    fn is_blocked(&self) -> bool {
        self.blocked.load(Ordering::Relaxed)
    }

    /// Whether the client would take the connection's end for the end of the response.
    pub(super) fn close_delimited(&self) -> bool {
        self.close_delimited.load(Ordering::Relaxed)
    }

    fn begin_exchange(&self) {
        self.surplus.store(false, Ordering::Relaxed);
        self.set(EXCHANGE);
        if self.streams.fetch_add(1, Ordering::Relaxed) == 0 {
            self.permit.deadline().disarm();
            self.permit.busy();
        }
    }

    fn end_exchange(&self, had_body: bool) {
        if self.streams.fetch_sub(1, Ordering::Relaxed) > 1 {
            return;
        }
        if self.surplus.load(Ordering::Relaxed) && !had_body {
            return self.begin_head();
        }
        self.set(IDLE);
        self.begin_idling();
    }

    /// Starts the idle time-out. The connection counts as idle once everything is written.
    fn begin_idling(&self) {
        let now = clock::instant();
        self.permit.deadline().arm_at(now + if self.is_leaving() { CLOSE_GRACE } else { self.limits.client_idle });
        if !self.is_blocked() {
            self.permit.idle(now);
        }
    }

    /// Counts a stream that has ended. `whole`: the client did not abandon it.
    fn count_stream(&self, whole: bool) {
        let abandoned = self.abandoned.load(Ordering::Relaxed);
        self.abandoned.store(if whole { abandoned.saturating_sub(1) } else { abandoned + 1 }, Ordering::Relaxed);
    }

    /// How the connection has to end when its HTTP/2 client abandons one stream after the other.
    pub(super) fn misuse(&self) -> Option<Due> {
        match self.abandoned.load(Ordering::Relaxed) {
            0..ABANDONED => None,
            abandoned if abandoned < 2 * ABANDONED => Some(Due::Leave),
            _ => Some(Due::Cut),
        }
    }

    /// Shortens the time for the first bytes to [`CLOSE_GRACE`], since a drain has begun.
    pub(super) fn shorten_for_drain(&self) {
        if self.is_silent() {
            self.permit.deadline().arm(CLOSE_GRACE.min(self.limits.head_timeout));
        }
    }

    fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Relaxed)
    }

    /// Notes that a graceful close has begun. An HTTP/2 client with nothing in progress has [`CLOSE_GRACE`] to close its end.
    pub(super) fn leave(&self) {
        self.leaving.store(true, Ordering::Relaxed);
        let nothing_in_progress = self.phase() == IDLE || (self.is_http2() && self.phase() != EXCHANGE);
        if nothing_in_progress {
            self.permit.deadline().arm(CLOSE_GRACE);
        }
    }

    /// How the connection has to end, once its deadline has passed or it was evicted. While it is pending, it wakes the task
    /// when that changes.
    pub(super) fn poll_due(&self, cx: &mut Context<'_>) -> Poll<Due> {
        let deadline = self.permit.deadline();
        loop {
            ready!(deadline.poll_passed(cx));
            match self.phase() {
                EXCHANGE => {
                    // It was evicted at the moment when a request began.
                    deadline.disarm();
                    self.permit.refuse_eviction();
                }
                IDLE if self.is_blocked() => {
                    // A client that reads slowly has not got the end of its response yet.
                    self.begin_idling();
                    self.permit.busy();
                }
                IDLE if !self.is_leaving() => return Poll::Ready(Due::Leave),
                // It was evicted at the moment when a head began.
                PARTIAL if self.permit.refuse_eviction() => deadline.arm(self.limits.head_timeout),
                _ => return Poll::Ready(Due::Cut),
            }
        }
    }
}

/// A request in progress, from its head to the last byte of its response.
pub(super) struct InProgress {
    state: Arc<ConnectionState>,
    had_body: bool,
    answered: bool,
    is_tunnel: bool,
}

impl InProgress {
    pub(super) fn begin(state: &Arc<ConnectionState>, had_body: bool) -> Self {
        state.begin_exchange();
        Self { state: Arc::clone(state), had_body, answered: false, is_tunnel: false }
    }

    /// Notes that the response ends with the connection, without a delimiter that an HTTP/1.0 client would notice.
    pub(super) fn set_close_delimited(&self) {
        self.state.close_delimited.store(true, Ordering::Relaxed);
    }

    /// Notes that the response was given to its last byte.
    pub(super) fn mark_answered(&mut self) {
        self.answered = true;
        self.state.close_delimited.store(false, Ordering::Relaxed);
    }

    /// Notes that the connection has become a tunnel: the request stays in progress until it closes.
    pub(super) fn mark_tunnel(&mut self) {
        self.is_tunnel = true;
    }
}

impl Drop for InProgress {
    fn drop(&mut self) {
        if self.is_tunnel {
            return;
        }
        if self.state.is_http2() {
            self.state.count_stream(self.answered);
        }
        self.state.end_exchange(self.had_body);
    }
}

/// A client's byte stream.
pub enum ClientStream {
    /// TCP, with the client's address and our own.
    Tcp(TcpStream, [SocketAddr; 2]),
    /// A Unix socket.
    Unix(UnixStream),
}

impl ClientStream {
    /// Wraps an accepted connection. `listener`: the address that it was accepted on.
    pub(super) fn tcp((stream, from): (TcpStream, SocketAddr), listener: SocketAddr) -> Self {
        // Responses are written whole, so Nagle's algorithm only adds delay. A failure to disable it breaks nothing.
        drop(stream.set_nodelay(true));
        // Only for a listener on all addresses, the kernel has to say which one the client has called.
        let ours = if listener.ip().is_unspecified() { stream.local_addr().unwrap_or(listener) } else { listener };
        Self::Tcp(stream, [from, ours])
    }

    pub(super) fn peer(&self) -> Peer {
        match self {
            Self::Tcp(_, [from, ours]) => Peer::tcp(*from, *ours),
            Self::Unix(stream) => Peer::unix(stream.peer_cred().ok()),
        }
    }

    /// Makes closing the stream a reset. Unix sockets have no resets; their clients see a clean end.
    fn reset_when_closed(&self) {
        if let Self::Tcp(stream, _) = self {
            // It fails only when the client has hung up already.
            drop(SockRef::from(stream).set_linger(Some(Duration::ZERO)));
        }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream, _) => Pin::new(stream).poll_read(cx, buffer),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

/// A client's stream that tells its [`ConnectionState`] what was read, and whether writing is blocked. It keeps the state
/// until the connection is closed, also after the connection has become a tunnel.
pub(super) struct ClientIo {
    stream: ClientStream,
    state: Arc<ConnectionState>,
    protocol: ClientProtocol,
    /// Bytes that were read, and not given to a parser yet.
    held: BytesMut,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum ClientProtocol {
    Unknown,
    Http1,
    Http2,
}

impl ClientIo {
    pub(super) fn new(stream: ClientStream, state: Arc<ConnectionState>) -> Self {
        Self { stream, state, protocol: ClientProtocol::Unknown, held: BytesMut::new() }
    }

    /// Reads until the protocol is known. If it is HTTP/2, the whole preface is held for the HTTP/2 connection that takes
    /// over, and the HTTP/1.x parser, which reads here, gets nothing.
    fn poll_first(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            let before = buffer.filled().len();
            ready!(self.stream.poll_read(cx, buffer))?;
            let read = &buffer.filled()[before..];
            if read.is_empty() {
                self.protocol = ClientProtocol::Http1;
                return self.give_held(buffer);
            }
            self.state.read_some();
            if self.held.is_empty() && !could_be_preface(read) {
                self.protocol = ClientProtocol::Http1;
                return Poll::Ready(Ok(()));
            }
            self.held.extend_from_slice(read);
            buffer.set_filled(before);
            if !could_be_preface(&self.held) {
                self.protocol = ClientProtocol::Http1;
                return self.give_held(buffer);
            }
            if self.held.len() >= PREFACE.len() {
                self.protocol = ClientProtocol::Http2;
                self.state.preface_came();
                return Poll::Pending;
            }
        }
    }

    fn give_held(&mut self, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let given = self.held.len().min(buffer.remaining());
        buffer.put_slice(&self.held[..given]);
        self.held.advance(given);
        Poll::Ready(Ok(()))
    }

    fn wrote<T>(&self, polled: Poll<T>) -> Poll<T> {
        self.state.set_blocked(polled.is_pending());
        polled
    }
}

fn could_be_preface(bytes: &[u8]) -> bool {
    let length = bytes.len().min(PREFACE.len());
    bytes[..length] == PREFACE[..length]
}

impl AsyncRead for ClientIo {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.protocol == ClientProtocol::Unknown {
            return this.poll_first(cx, buffer);
        }
        if !this.held.is_empty() {
            return this.give_held(buffer);
        }
        let before = buffer.filled().len();
        let polled = this.stream.poll_read(cx, buffer);
        if this.protocol == ClientProtocol::Http1 && buffer.filled().len() > before {
            this.state.read_some();
        }
        polled
    }
}

impl AsyncWrite for ClientIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        let polled = match &mut self.stream {
            ClientStream::Tcp(stream, _) => Pin::new(stream).poll_write(cx, buffer),
            ClientStream::Unix(stream) => Pin::new(stream).poll_write(cx, buffer),
        };
        self.wrote(polled)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffers: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let polled = match &mut self.stream {
            ClientStream::Tcp(stream, _) => Pin::new(stream).poll_write_vectored(cx, buffers),
            ClientStream::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, buffers),
        };
        self.wrote(polled)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Neither kind of socket has a buffer in this process.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            ClientStream::Tcp(stream, _) => Pin::new(stream).poll_shutdown(cx),
            ClientStream::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

impl Drop for ClientIo {
    fn drop(&mut self) {
        // This holds for every way to end: an error of the upstream, a time-out, or the end of the process.
        if self.state.close_delimited() {
            self.stream.reset_when_closed();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::{sync::watch, time::timeout};

    use super::*;
    use crate::{deadline::Deadlines, server::ConnectionLimit};

    const LIMITS: ConnectionLimits = ConnectionLimits {
        head_bytes: 8192,
        head_lines: 8,
        head_timeout: Duration::from_secs(10),
        client_idle: Duration::from_secs(3600),
    };

    struct LimitedConnection {
        limit: ConnectionLimit,
        deadlines: Deadlines,
        state: Arc<ConnectionState>,
    }

    impl LimitedConnection {
        /// Accepts one connection, which is all that the limit allows.
        fn new() -> Self {
            let (limit, deadlines) = (ConnectionLimit::new(1), Deadlines::default());
            let looking = deadlines.clone();
            tokio::spawn(async move { looking.run().await });
            let (drain, _gone) = Drain::new(watch::channel(false).1);
            let state = ConnectionState::begin(limit.take(&deadlines).unwrap(), LIMITS, &drain);
            Self { limit, deadlines, state }
        }

        fn ask_and_answer(&self) {
            self.state.read_some();
            InProgress::begin(&self.state, false).mark_answered();
        }

        /// How the connection ends within `limit`, and after how long.
        async fn due(&self, limit: Duration) -> Option<(Due, Duration)> {
            let start = clock::instant();
            let due = timeout(limit, poll_fn(|cx| self.state.poll_due(cx))).await.ok()?;
            Some((due, start.elapsed()))
        }

        /// Another client waits for the only permit from now on.
        async fn evict(&self) {
            let (limit, deadlines) = (self.limit.clone(), self.deadlines.clone());
            tokio::spawn(async move { drop(limit.eviction_guard().unwrap().permit(&deadlines).await) });
            tokio::task::yield_now().await;
        }
    }

    fn is_about(took: Duration, limit: Duration) -> bool {
        (limit..limit + Duration::from_millis(200)).contains(&took)
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_has_to_come_in_time_and_an_idle_connection_is_closed_later() {
        let scene = LimitedConnection::new();
        scene.state.read_some();
        let (due, took) = scene.due(2 * LIMITS.client_idle).await.unwrap();
        assert!(due == Due::Cut && is_about(took, LIMITS.head_timeout), "{due:?} {took:?}");
        let scene = LimitedConnection::new();
        scene.ask_and_answer();
        let (due, took) = scene.due(2 * LIMITS.client_idle).await.unwrap();
        assert!(due == Due::Leave && is_about(took, LIMITS.client_idle), "{due:?} {took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_connection_is_evicted_after_a_moment() {
        let scene = LimitedConnection::new();
        let (due, took) = scene.due(2 * LIMITS.client_idle).await.unwrap();
        assert!(due == Due::Cut && is_about(took, LIMITS.head_timeout), "without an eviction: {due:?} {took:?}");
        let scene = LimitedConnection::new();
        scene.evict().await;
        let (due, took) = scene.due(2 * LIMITS.client_idle).await.unwrap();
        assert!(due == Due::Cut && is_about(took, IDLE_GRACE), "{due:?} {took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_speaks_just_when_it_is_evicted_has_time_for_its_head() {
        for evicted_first in [true, false] {
            let scene = LimitedConnection::new();
            if evicted_first {
                scene.state.permit.evict();
            }
            scene.state.read_some();
            if !evicted_first {
                scene.state.permit.evict();
            }
            let (due, took) = scene.due(LIMITS.client_idle).await.unwrap();
            assert!(due == Due::Cut && is_about(took, LIMITS.head_timeout), "{due:?} {took:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_ends_a_connection_while_a_request_is_in_progress() {
        let scene = LimitedConnection::new();
        scene.state.read_some();
        let _request = InProgress::begin(&scene.state, true);
        scene.evict().await;
        assert_eq!(scene.due(2 * LIMITS.client_idle).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_connection_is_evicted_at_once() {
        let scene = LimitedConnection::new();
        scene.ask_and_answer();
        scene.evict().await;
        assert_eq!(scene.due(LIMITS.client_idle).await, Some((Due::Leave, Duration::ZERO)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_that_began_just_before_an_eviction_has_its_time() {
        let scene = LimitedConnection::new();
        scene.ask_and_answer();
        scene.state.read_some();
        scene.state.permit.evict();
        let (due, took) = scene.due(LIMITS.client_idle).await.unwrap();
        assert!(due == Due::Cut && is_about(took, LIMITS.head_timeout), "{due:?} {took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_whose_response_is_still_being_read_is_not_idle() {
        let scene = LimitedConnection::new();
        scene.ask_and_answer();
        scene.state.set_blocked(true);
        scene.evict().await;
        assert_eq!(scene.due(LIMITS.client_idle / 2).await, None);
        scene.state.set_blocked(false);
        assert_eq!(scene.due(LIMITS.client_idle).await.map(|(due, _)| due), Some(Due::Leave));
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_http2_client_has_a_moment_after_the_goaway() {
        for asked_before in [false, true] {
            let scene = LimitedConnection::new();
            scene.state.read_some();
            scene.state.preface_came();
            if asked_before {
                InProgress::begin(&scene.state, false).mark_answered();
            }
            scene.state.leave();
            let (due, took) = scene.due(LIMITS.client_idle).await.unwrap();
            assert!(due == Due::Cut && is_about(took, CLOSE_GRACE), "{due:?} {took:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_http2_client_may_finish_after_the_goaway_and_then_has_a_moment() {
        let scene = LimitedConnection::new();
        scene.state.preface_came();
        let first = InProgress::begin(&scene.state, false);
        let mut second = InProgress::begin(&scene.state, false);
        scene.state.leave();
        drop(first);
        assert_eq!(scene.due(2 * LIMITS.client_idle).await, None, "one is left");
        second.mark_answered();
        drop(second);
        let (due, took) = scene.due(LIMITS.client_idle).await.unwrap();
        assert!(due == Due::Cut && is_about(took, CLOSE_GRACE), "{due:?} {took:?}");
    }
}
