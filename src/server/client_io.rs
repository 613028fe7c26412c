//! A client's byte stream: it tells HTTP/2 from HTTP/1.x by the first bytes, and notes reads and writes in [`ConnectionState`].
//!
//! Guarantees: the bytes of an HTTP/1.x connection, the first ones too, are read straight into the parser's buffer; only bytes that
//! could begin HTTP/2's preface are held back until the protocol is known. A close-delimited response that is not whole ends with
//! a reset, never with a clean end. A client that sends FIN behind a whole request gets its answer. One that is gone is noticed
//! within a second or so on this machine, else at the first write.

use std::{
    io::{self, IoSlice},
    net::SocketAddr,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, BytesMut};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    net::{RecvFlags, recv},
};
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::{TcpStream, UnixStream},
};

use super::{Peer, connection_state::ConnectionState, peer};

/// The first byte of a TLS client: a handshake record (RFC 8446, 5.1).
const TLS_HANDSHAKE: u8 = 0x16;

/// What an HTTP/2 client sends first (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A client's byte stream.
pub enum ClientStream {
    /// TCP, with the client's address and our own.
    Tcp(TcpStream, [SocketAddr; 2]),
    /// A Unix socket.
    Unix(UnixStream),
}

/// A [`ClientStream`] that no runtime watches.
pub(super) enum UnregisteredStream {
    Tcp(std::net::TcpStream, [SocketAddr; 2]),
    Unix(std::os::unix::net::UnixStream),
}

impl UnregisteredStream {
    /// Registers it with the runtime that this is called on.
    pub(super) fn register(self) -> io::Result<ClientStream> {
        Ok(match self {
            Self::Tcp(stream, ends) => ClientStream::Tcp(TcpStream::from_std(stream)?, ends),
            Self::Unix(stream) => ClientStream::Unix(UnixStream::from_std(stream)?),
        })
    }
}

impl ClientStream {
    /// Takes it from its runtime, for another one.
    pub(super) fn unregister(self) -> io::Result<UnregisteredStream> {
        Ok(match self {
            Self::Tcp(stream, ends) => UnregisteredStream::Tcp(stream.into_std()?, ends),
            Self::Unix(stream) => UnregisteredStream::Unix(stream.into_std()?),
        })
    }

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

    /// Whether half of the process's descriptors are in use, as far as this new one tells: the lowest number that is free is given
    /// out first.
    pub(super) fn has_late_descriptor(&self) -> bool {
        let number = match self {
            Self::Tcp(stream, _) => stream.as_raw_fd(),
            Self::Unix(stream) => stream.as_raw_fd(),
        };
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        limit.is_some_and(|limit| u64::try_from(number).is_ok_and(|number| number >= limit / 2))
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

    /// Waits until something can be read, or the client has gone. It reads nothing: whoever reads next is told of an error.
    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            // The runtime takes each connection that it has just accepted for readable, so the kernel is asked.
            let looked = match self {
                Self::Tcp(stream, _) => {
                    drop(ready!(stream.poll_read_ready(cx)));
                    stream.try_io(Interest::READABLE, || peek(stream.as_fd()))
                }
                Self::Unix(stream) => {
                    drop(ready!(stream.poll_read_ready(cx)));
                    stream.try_io(Interest::READABLE, || peek(stream.as_fd()))
                }
            };
            if !looked.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock) {
                return Poll::Ready(());
            }
        }
    }

    /// Whether nobody will read what is written. A TCP client that has only sent FIN may still read: it is gone if no process
    /// holds its socket any more, which the kernel tells for clients on this machine.
    pub(super) fn client_is_gone(&self) -> bool {
        let (fd, ends) = match self {
            Self::Tcp(stream, ends) => (stream.as_fd(), Some(*ends)),
            Self::Unix(stream) => (stream.as_fd(), None),
        };
        let mut polled = [PollFd::from_borrowed_fd(fd, SENT_FIN)];
        // Without an answer the client counts as there: it shows at the first write.
        if poll(&mut polled, Some(&Timespec::default())).is_err() {
            return false;
        }
        let events = polled[0].revents();
        let is_abandoned = |[from, ours]: [SocketAddr; 2]| peer::is_abandoned(from, ours);
        events.intersects(PollFlags::HUP | PollFlags::ERR) || (events.intersects(SENT_FIN) && ends.is_some_and(is_abandoned))
    }
}

/// Looks at the first byte that has come, and leaves it there.
fn peek(socket: BorrowedFd<'_>) -> io::Result<()> {
    recv(socket, &mut [0_u8], RecvFlags::PEEK)?;
    Ok(())
}

/// The client has sent FIN. Other systems than Linux do not tell it without a read.
#[cfg(target_os = "linux")]
const SENT_FIN: PollFlags = PollFlags::RDHUP;
#[cfg(not(target_os = "linux"))]
const SENT_FIN: PollFlags = PollFlags::empty();

/// A client's stream that tells its [`ConnectionState`] what was read, and whether writing is blocked. It keeps the state
/// until the connection is closed, also after the connection has become a tunnel.
pub(super) struct ClientIo {
    stream: ClientStream,
    state: Arc<ConnectionState>,
    protocol: ClientProtocol,
    /// Bytes that were read, and not given to a parser yet.
    held: BytesMut,
    /// Whether the HTTP/2 client has sent FIN.
    end: EndOfInput,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum ClientProtocol {
    Unknown,
    Http1,
    Http2,
}

/// What is known of the end of what an HTTP/2 client sends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum EndOfInput {
    Open,
    /// It was read. The requests that came before it are not counted yet.
    Seen,
    /// Answers are due: the connection is not told.
    Held,
}

impl ClientIo {
    pub(super) fn new(stream: ClientStream, state: Arc<ConnectionState>) -> Self {
        Self { stream, state, protocol: ClientProtocol::Unknown, held: BytesMut::new(), end: EndOfInput::Open }
    }

    /// Waits until something can be read, or the client has gone.
    pub(super) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.stream.poll_readable(cx)
    }

    /// Gives back what a parser has read and not used.
    pub(super) fn hold(&mut self, unused: &[u8]) {
        self.held.extend_from_slice(unused);
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
            let no_http2 = self.state.limits().streams.is_none();
            if self.held.is_empty() && (no_http2 || !could_be_preface(read)) {
                if read[0] == TLS_HANDSHAKE {
                    self.state.tls_came();
                }
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

    /// Reads for the HTTP/2 connection. It takes an end for the end of all streams, also of those whose answers are not written
    /// yet, so it is told of one only before the first request, and when nobody reads; else the connection leaves when all are
    /// answered.
    fn poll_http2(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.check_client()?;
        match self.end {
            EndOfInput::Open => {
                let before = buffer.filled().len();
                ready!(self.stream.poll_read(cx, buffer))?;
                if buffer.filled().len() > before || buffer.remaining() == 0 {
                    return Poll::Ready(Ok(()));
                }
                self.end = EndOfInput::Seen;
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            EndOfInput::Seen if self.state.has_begun() && !self.stream.client_is_gone() => {
                self.end = EndOfInput::Held;
                self.state.set_half_closed();
                Poll::Pending
            }
            EndOfInput::Seen => Poll::Ready(Ok(())),
            EndOfInput::Held => Poll::Pending,
        }
    }

    /// Asks the kernel whether the client is there, if that is due.
    fn check_client(&self) -> io::Result<()> {
        if self.state.take_client_check() && self.stream.client_is_gone() {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        Ok(())
    }

    fn give_held(&mut self, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let given = self.held.len().min(buffer.remaining());
        buffer.put_slice(&self.held[..given]);
        self.held.advance(given);
        Poll::Ready(Ok(()))
    }

    /// Notes whether the client takes what is written. A tunnel has nobody else who looks whether it does.
    fn wrote(&self, cx: &mut Context<'_>, polled: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        self.state.set_blocked(polled.is_pending());
        if polled.is_pending() && self.state.is_tunnel() && self.state.poll_due(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
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
        if this.protocol == ClientProtocol::Http2 {
            return this.poll_http2(cx, buffer);
        }
        let before = buffer.filled().len();
        let polled = this.stream.poll_read(cx, buffer);
        let read = buffer.filled().len() - before;
        if read > 0 {
            this.state.read_some();
            if this.state.is_all_overhead(read) {
                return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
            }
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
        self.wrote(cx, polled)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffers: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let polled = match &mut self.stream {
            ClientStream::Tcp(stream, _) => Pin::new(stream).poll_write_vectored(cx, buffers),
            ClientStream::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, buffers),
        };
        self.wrote(cx, polled)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Neither kind of socket has a buffer in this process. hyper reads nothing while an HTTP/1.x answer is due, but flushes.
        Poll::Ready(self.check_client())
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
        // This holds for every way to end: an error of the upstream, a time-out, or the end of the process. For a client that
        // does not read, the kernel would keep what is left to write.
        if self.state.close_delimited() || self.state.is_blocked() {
            self.stream.reset_when_closed();
        }
    }
}
