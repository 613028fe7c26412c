//! One HTTP/2 connection to upstream, and the driver that keeps it going.
//!
//! Guarantees: the driver reports each limit on streams that the server announces, and that the server is going away; it
//! finds a silent server dead within [`PING_EVERY`] and [`PING_PATIENCE`].

use std::{
    convert::Infallible,
    future::poll_fn,
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use bytes::Bytes;
use h2::{Ping, PingPong, client};
use http::uri::Authority;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::oneshot,
    time::{Sleep, sleep},
};
use tracing::debug;

use super::super::{
    error::Cause,
    options::{BODY_BUFFER, HeadLimits},
};
use crate::{clock, connect::Connection, metrics::ConnectionGauge, upstream_io::UpstreamIo};

/// Streams on one connection at most, whatever the server allows.
const STREAMS: u32 = 100;
/// Bytes that the server may send ahead on one stream.
const STREAM_WINDOW: u32 = 128 * 1024;
/// Bytes that it may send ahead on all streams together: no slow reader can take another's share.
const CONNECTION_WINDOW: u32 = STREAM_WINDOW * STREAMS;
/// Streams that were given up and whose last frames may still come.
const RESET_STREAMS: usize = 1024;

/// How many bytes are read before the exchanges of the connection take their turn; one read may exceed it. What waits for an
/// exchange takes many times its bytes on the wire: an interim answer of 20 bytes may take a kilobyte.
const READ_AT_ONCE: usize = 64 * 1024;

/// How often the driver sends a ping.
const PING_EVERY: Duration = Duration::from_secs(5);
/// How long the server may be silent after a ping. Anything that it sends counts as an answer.
const PING_PATIENCE: Duration = Duration::from_secs(4);

/// The handle of a connection. When the last one is gone and the last stream has ended, the connection closes.
pub(in crate::upstream) struct Http2Handle {
    pub(super) sender: client::SendRequest<Bytes>,
    /// Whom requests on this connection name.
    pub(super) authority: Authority,
    pub(super) limits: HeadLimits,
    /// Bytes that the kernel took so far.
    pub(super) written: Arc<AtomicU64>,
    gauge: ConnectionGauge,
    /// Dropped with the handle: the driver notices.
    _held: oneshot::Sender<Infallible>,
}

/// Makes a connection ready for requests to `authority`.
pub(in crate::upstream) async fn open(
    connection: Connection,
    authority: Authority,
    limits: HeadLimits,
    gauge: ConnectionGauge,
) -> Result<(Http2Handle, Http2Driver), Cause> {
    let heard = Arc::<Heard>::default();
    let io = ObservedIo { stream: connection.stream, heard: Arc::clone(&heard), end: None };
    let header_list = u32::try_from(limits.bytes.saturating_mul(2)).unwrap_or(u32::MAX);
    let (sender, mut connected) = client::Builder::new()
        .enable_push(false)
        // Before its settings come, the server might refuse more.
        .initial_max_send_streams(1)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        // `exchange` judges heads over the limit itself, and gives them an error of their own.
        .max_header_list_size(header_list)
        .max_send_buffer_size(BODY_BUFFER)
        .max_concurrent_reset_streams(RESET_STREAMS)
        .handshake(io)
        .await
        .map_err(|_| Cause::Closed)?;
    let pings = connected.ping_pong().ok_or(Cause::Closed)?;
    let (held, released) = oneshot::channel();
    let handle = Http2Handle { sender, authority, limits, written: connection.written, gauge, _held: held };
    let ping_timeout = PingTimeout { pings, timer: Box::pin(sleep(PING_EVERY)), asked: false, heard: false };
    let driver =
        Http2Driver { connection: connected, released: Some(released), heard, ping_timeout, announced: None, yields: false };
    Ok((handle, driver))
}

impl Http2Handle {
    /// Counts the connection among those without a stream, or no more.
    pub(super) fn set_idle(&self, idle: bool) {
        self.gauge.set_idle(idle);
    }

    /// The server has said that it will process no further stream (RFC 9113, 6.8).
    fn is_going_away(&self) -> bool {
        // A fresh clone waits for no stream of its own, so it is ready or never will be.
        matches!(self.sender.clone().poll_ready(&mut Context::from_waker(Waker::noop())), Poll::Ready(Err(_)))
    }
}

/// What the server has announced for a connection.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Announced {
    /// How many streams it allows at a time; never more than [`STREAMS`].
    pub(super) stream_limit: usize,
    /// It takes no new stream.
    pub(super) going_away: bool,
}

/// Keeps a connection going while it is polled.
pub(in crate::upstream) struct Http2Driver {
    connection: client::Connection<ObservedIo, Bytes>,
    released: Option<oneshot::Receiver<Infallible>>,
    heard: Arc<Heard>,
    ping_timeout: PingTimeout,
    announced: Option<Announced>,
    /// The end was found in this turn, and is told in the next one.
    yields: bool,
}

impl Http2Driver {
    /// Drives the connection until the server announces something new; `None` when the connection has ended.
    pub(super) async fn next_announcement(&mut self, handle: &Weak<Http2Handle>) -> Option<Announced> {
        poll_fn(|cx| self.poll(cx, handle)).await
    }

    fn poll(&mut self, cx: &mut Context<'_>, handle: &Weak<Http2Handle>) -> Poll<Option<Announced>> {
        if let Some(released) = &mut self.released
            && Pin::new(released).poll(cx).is_ready()
        {
            self.released = None;
        }
        if std::mem::take(&mut self.yields) {
            return Poll::Pending;
        }
        // h2 closes a connection that nobody refers to when it is polled.
        if Pin::new(&mut self.connection).poll(cx).is_ready() {
            return Poll::Ready(None);
        }
        let ends = self.heard.end.swap(false, Ordering::Relaxed);
        if self.heard.bytes.swap(0, Ordering::Relaxed) > 0 || (ends && self.announced.is_some()) {
            self.ping_timeout.heard = true;
            let announced = Announced {
                // A server sends its settings first (RFC 9113, 3.4).
                stream_limit: self.connection.max_concurrent_send_streams().min(STREAMS as usize),
                going_away: ends || handle.upgrade().is_some_and(|handle| handle.is_going_away()),
            };
            if self.announced.replace(announced) != Some(announced) {
                self.yields = ends;
                return Poll::Ready(Some(announced));
            }
        }
        if ends {
            // This task was woken for the end, behind those who read what came before.
            return Poll::Pending;
        }
        self.ping_timeout.poll_too_long(cx).map(|()| None)
    }
}

/// Finds out whether the server is still there.
struct PingTimeout {
    pings: PingPong,
    timer: Pin<Box<Sleep>>,
    /// A ping was sent.
    asked: bool,
    /// Something came since.
    heard: bool,
}

impl PingTimeout {
    fn poll_too_long(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.asked {
            // An error shows as the connection's end, too; taking the pong makes way for the next ping.
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

/// What a connection has heard of the server.
#[derive(Default)]
struct Heard {
    /// How many bytes the present poll has read.
    bytes: AtomicUsize,
    /// The present poll has found the end of the connection.
    end: AtomicBool,
}

/// A byte stream that counts what came, and gives no more than [`READ_AT_ONCE`] in one poll of its connection.
///
/// When the connection ends, h2 fails every exchange whose request has not left, though all of its answer may have come right before.
/// So the end shows in the poll after: those who wait for what came before it have read that by then.
struct ObservedIo {
    stream: UpstreamIo,
    heard: Arc<Heard>,
    /// The end was found, and is told next.
    end: Option<io::Result<()>>,
}

impl AsyncRead for ObservedIo {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if let Some(end) = self.end.take() {
            return Poll::Ready(end);
        }
        if self.heard.bytes.load(Ordering::Relaxed) >= READ_AT_ONCE {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        let outcome = ready!(Pin::new(&mut self.stream).poll_read(cx, buffer));
        let read = buffer.filled().len() - before;
        if read == 0 {
            self.end = Some(outcome);
            self.heard.end.store(true, Ordering::Relaxed);
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.heard.bytes.fetch_add(read, Ordering::Relaxed);
        Poll::Ready(outcome)
    }
}

impl AsyncWrite for ObservedIo {
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

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::{TcpListener, TcpStream},
        time::timeout,
    };

    use super::*;
    use crate::upstream_io::CountingTcp;

    #[tokio::test]
    async fn what_is_written_passes_as_it_is_and_so_does_its_end() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let ours = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut theirs, _) = listener.accept().await.unwrap();
        let stream = UpstreamIo::Plain(CountingTcp::new(ours, Arc::default()));
        let mut io = ObservedIo { stream, heard: Arc::default(), end: None };
        assert!(io.is_write_vectored());
        io.write_all(b"a frame").await.unwrap();
        io.shutdown().await.unwrap();
        let mut read = Vec::new();
        timeout(Duration::from_secs(10), theirs.read_to_end(&mut read)).await.expect("the end is passed on").unwrap();
        assert_eq!(read, b"a frame");
    }
}
