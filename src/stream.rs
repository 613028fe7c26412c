//! A byte stream to upstream: plain or TLS over TCP that counts what the kernel took and notices when nobody is there.
//!
//! Depends on nothing of ours. Both directions pass straight through; vectored writes stay vectored.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::client::TlsStream;

/// TCP that counts the bytes it wrote, and that ends when the peer is gone without a word.
///
/// Packets that are dropped on the way say nothing, and by itself the kernel would send again for a quarter of an hour. So
/// what is not acknowledged for ten seconds ends the connection, and so does a peer that answers no probe while it
/// owes us an answer: about ten seconds either way, a time in which a network may well reconverge.
pub struct Counted {
    tcp: TcpStream,
    written: Arc<AtomicU64>,
    /// Since something was read.
    unanswered: usize,
}

/// How long bytes may go without an acknowledgement.
const UNACKNOWLEDGED: Duration = Duration::from_secs(10);
/// When the peer is asked whether it is still there, how often, and how many questions may go unanswered.
const PROBES: (Duration, Duration, u32) = (Duration::from_secs(5), Duration::from_secs(1), 5);
/// Less than this any peer takes without reading.
const WINDOW: usize = 8 * 1024;

impl Counted {
    /// Adds to `written` from now on.
    pub fn new(tcp: TcpStream, written: Arc<AtomicU64>) -> io::Result<Self> {
        // A proxy's writes are whole messages: waiting for more only adds delay.
        tcp.set_nodelay(true)?;
        let (after, every, count) = PROBES;
        let probes = TcpKeepalive::new().with_time(after).with_interval(every).with_retries(count);
        SockRef::from(&tcp).set_tcp_keepalive(&probes)?;
        let counted = Self { tcp, written, unanswered: 0 };
        counted.end_when_unacknowledged(true);
        Ok(counted)
    }

    fn wrote(&mut self, outcome: &Poll<io::Result<usize>>) {
        let Poll::Ready(Ok(bytes)) = outcome else { return };
        self.written.fetch_add(*bytes as u64, Ordering::Relaxed);
        let before = self.unanswered;
        self.unanswered = before.saturating_add(*bytes);
        // A peer that does not read a large body closes its window, which the kernel takes for silence though the peer
        // acknowledges every probe of it. How long it may be slow, the time-outs of a body say.
        if before < WINDOW && self.unanswered >= WINDOW {
            self.end_when_unacknowledged(false);
        }
    }

    fn read(&mut self) {
        if self.unanswered >= WINDOW {
            self.end_when_unacknowledged(true);
        }
        self.unanswered = 0;
    }

    #[cfg(target_os = "linux")]
    fn end_when_unacknowledged(&self, wanted: bool) {
        // Without it the connection ends later.
        drop(SockRef::from(&self.tcp).set_tcp_user_timeout(wanted.then_some(UNACKNOWLEDGED)));
    }

    #[cfg(not(target_os = "linux"))]
    fn end_when_unacknowledged(&self, _: bool) {}
}

impl AsyncRead for Counted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.tcp).poll_read(cx, buffer);
        if outcome.is_ready() {
            self.read();
        }
        outcome
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.tcp).poll_write(cx, buffer);
        self.wrote(&outcome);
        outcome
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffers: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.tcp).poll_write_vectored(cx, buffers);
        self.wrote(&outcome);
        outcome
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}

/// What HTTP to upstream runs over.
pub enum Stream {
    /// Plain HTTP, to loopback only.
    Plain(Counted),
    /// Everything else. Boxed: a TLS session is some kilobytes.
    Tls(Box<TlsStream<Counted>>),
    /// TLS through a proxy that speaks TLS itself.
    Nested(Box<TlsStream<TlsStream<Counted>>>),
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Nested(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buffer),
            Self::Nested(stream) => Pin::new(stream).poll_write(cx, buffer),
        }
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, buffers: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, buffers),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, buffers),
            Self::Nested(stream) => Pin::new(stream).poll_write_vectored(cx, buffers),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
            Self::Nested(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
            Self::Nested(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Nested(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
