//! A client's byte stream, and which protocol its first bytes are.
//!
//! Depends on `connection_state`, which it tells what happens. Guarantees: the bytes of an HTTP/1.x connection are read straight into
//! the parser's own buffer, the first ones too; only what begins like HTTP/2's preface is held back until it is known. An
//! answer that only the connection's end delimits never ends cleanly unless it is whole.

use std::{
    io::{self, IoSlice},
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, BytesMut};
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, UnixStream},
};

use super::{connection_state::ConnectionState, peer::Peer};

/// RFC 9113, 3.4.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A client's byte stream.
pub enum ClientStream {
    /// TCP, with the client's address and ours.
    Tcp(TcpStream, [SocketAddr; 2]),
    /// Unix.
    Unix(UnixStream),
}

impl ClientStream {
    /// `listener`: the address that it was accepted on.
    pub(super) fn tcp((stream, from): (TcpStream, SocketAddr), listener: SocketAddr) -> Self {
        // Answers are written whole; waiting for more only adds delay. Nothing breaks where it can't be set.
        drop(stream.set_nodelay(true));
        // Only a listener on all addresses leaves it open which one the client has called; it stays open if that fails.
        let ours = if listener.ip().is_unspecified() { stream.local_addr().unwrap_or(listener) } else { listener };
        Self::Tcp(stream, [from, ours])
    }

    pub(super) fn peer(&self) -> Peer {
        match self {
            Self::Tcp(_, [from, ours]) => Peer::tcp(*from, *ours),
            Self::Unix(stream) => Peer::unix(stream.peer_cred().ok()),
        }
    }

    /// Closing it will be a reset. Unix sockets know none; their clients get the end.
    fn reset_when_closed(&self) {
        if let Self::Tcp(stream, _) = self {
            // Nothing can be done where it fails: the client has hung up already.
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

/// A client's stream that tells its [`ConnectionState`] what was read, and whether writing is stuck. The connection_state lasts as long, also
/// when the connection has become a tunnel.
pub(super) struct ClientIo {
    stream: ClientStream,
    connection_state: Arc<ConnectionState>,
    protocol: Protocol,
    /// Read, and not given to anybody yet.
    held: BytesMut,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Protocol {
    Unknown,
    Http1,
    Http2,
}

impl ClientIo {
    pub(super) fn new(stream: ClientStream, connection_state: Arc<ConnectionState>) -> Self {
        Self { stream, connection_state, protocol: Protocol::Unknown, held: BytesMut::new() }
    }

    /// Reads until the protocol is known. The whole preface is kept for the HTTP/2 connection that takes over; for this
    /// reader, HTTP/1's, there is nothing then.
    fn poll_first(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            let before = buffer.filled().len();
            ready!(self.stream.poll_read(cx, buffer))?;
            let read = &buffer.filled()[before..];
            if read.is_empty() {
                self.protocol = Protocol::Http1;
                return self.give_held(buffer);
            }
            self.connection_state.read_some();
            if self.held.is_empty() && !could_be_preface(read) {
                self.protocol = Protocol::Http1;
                return Poll::Ready(Ok(()));
            }
            self.held.extend_from_slice(read);
            buffer.set_filled(before);
            if !could_be_preface(&self.held) {
                self.protocol = Protocol::Http1;
                return self.give_held(buffer);
            }
            if self.held.len() >= PREFACE.len() {
                self.protocol = Protocol::Http2;
                self.connection_state.preface_came();
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
        self.connection_state.set_blocked(polled.is_pending());
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
        if this.protocol == Protocol::Unknown {
            return this.poll_first(cx, buffer);
        }
        if !this.held.is_empty() {
            return this.give_held(buffer);
        }
        let before = buffer.filled().len();
        let polled = this.stream.poll_read(cx, buffer);
        if this.protocol == Protocol::Http1 && buffer.filled().len() > before {
            this.connection_state.read_some();
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
        // Neither kind of socket buffers on our side.
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
        // However it comes to its end, by a fault upstream, a time-out or because the process stops.
        if self.connection_state.close_delimited() {
            self.stream.reset_when_closed();
        }
    }
}
