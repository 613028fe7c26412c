//! A byte stream to upstream: plain or TLS over TCP. The TCP stream counts the bytes that the kernel took, and ends when the
//! peer is gone.
//!
//! Guarantees: writes are passed on without a copy, and vectored ones stay vectored; reads are passed on without a copy, except
//! while a large answer comes.

use std::{
    io::{self, IoSlice},
    net::IpAddr,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf as _, BytesMut};
use rustls::ClientConnection;
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf},
    net::TcpStream,
    task::yield_now,
};
use tokio_rustls::client::TlsStream;

/// How long bytes may stay unacknowledged.
const UNACKNOWLEDGED: Duration = Duration::from_secs(10);
/// Keep-alive probes: the time before the first one, the interval, and how many may stay unanswered.
const PROBES: (Duration, Duration, u32) = (Duration::from_secs(5), Duration::from_secs(1), 5);
/// How many bytes every peer takes without reading. Most requests are smaller.
const WINDOW: usize = 32 * 1024;

/// How many bytes the peer may send ahead, in the kernel's buffer, which takes twice as much memory. By itself the kernel lets
/// a fast connection's buffer grow to megabytes, which stay when the client stops reading, and count against the memory limit
/// of a container. At 40 ms from the peer it allows some 8 MB/s.
const RECEIVE_BUFFER: usize = 256 * 1024;
/// How many bytes may wait in the kernel's buffer for a peer that reads slowly.
#[cfg(target_os = "linux")]
const UNSENT: u32 = 128 * 1024;

/// How many bytes are read before other tasks have their turn. What is read may all be thrown away, as interim answers without end
/// are, and then nothing else stops the reader while more comes.
const TURN: usize = 64 * 1024;

/// Who asks for this many bytes and gets them may find more: TLS begins with 4 KiB, and asks for one record of 16 KiB at a time.
const MORE_MAY_BE_THERE: usize = 4096;
/// How many bytes are then read at once.
const READ_AHEAD: usize = 64 * 1024;

/// A TCP stream that counts the bytes that the kernel took, and that ends when the peer is gone.
///
/// A network that drops packets gives no error, and by itself the kernel would send again for a quarter of an hour. Two limits
/// end the connection earlier:
/// - While we wait for the peer, it has to answer keep-alive probes: without an answer the connection ends after about ten
///   seconds.
/// - Bytes that we wrote have to be acknowledged within ten seconds (`TCP_USER_TIMEOUT`, Linux only). This limit ends once
///   more than 32 KiB were written without anything read, as in a large upload: the kernel then sends again for as long as it
///   does by default, and only the time-outs of the request end the wait.
///
/// Ten seconds are long enough for a network to find another route.
///
/// A server may answer and close while bytes of ours are on their way, and the next write fails; who is told gives up the answers that
/// came before and wait to be read. So a write that fails is none, and takes no more bytes: reading finds what came, and then the end.
pub struct CountingTcp {
    tcp: TcpStream,
    written: Arc<AtomicU64>,
    acknowledgement: Acknowledgement,
    /// A write has failed.
    broken: Option<io::ErrorKind>,
    /// What was read ahead. It takes no memory while nothing comes.
    ahead: BytesMut,
    /// The last read got as much as it asked for, and no read has found nothing since.
    more_may_be_there: bool,
    /// How many bytes were read in the present turn.
    turn: usize,
    /// The last read found nothing, and not for the sake of others.
    is_drained: bool,
}

/// Whether [`UNACKNOWLEDGED`] is in force.
enum Acknowledgement {
    /// It is in force; `unanswered` bytes were written since something was read.
    Limited { unanswered: usize },
    /// It is not in force any more, for the rest of the connection's life.
    ///
    /// A peer that does not read a large body closes its window. The kernel counts that time, too, though the peer
    /// acknowledges every window probe. A read does not bring the limit back: in a tunnel, or when an answer begins before its
    /// request has ended, bytes go both ways, and the kernel would count from the closing of the window.
    Unlimited,
}

impl CountingTcp {
    /// Wraps a connected stream. It adds the bytes that it writes to `written`.
    pub fn new(tcp: TcpStream, written: Arc<AtomicU64>) -> Self {
        // A proxy writes whole messages, so Nagle's algorithm only adds delay.
        drop(tcp.set_nodelay(true));
        let (after, every, count) = PROBES;
        let probes = TcpKeepalive::new().with_time(after).with_interval(every).with_retries(count);
        let socket = SockRef::from(&tcp);
        // None of these fails while the connection is open. One that the peer has reset tells so at the first read.
        drop(socket.set_tcp_keepalive(&probes));
        drop(socket.set_recv_buffer_size(RECEIVE_BUFFER));
        #[cfg(target_os = "linux")]
        drop(socket.set_tcp_notsent_lowat(UNSENT));
        let acknowledgement = Acknowledgement::Limited { unanswered: 0 };
        let (ahead, more_may_be_there, is_drained) = (BytesMut::new(), false, false);
        let counted = Self { tcp, written, acknowledgement, broken: None, ahead, more_may_be_there, turn: 0, is_drained };
        counted.end_when_unacknowledged(true);
        counted
    }

    /// What is told of a write of `length` bytes that ended so.
    fn wrote(&mut self, outcome: io::Result<usize>, length: usize) -> usize {
        let bytes = match outcome {
            Ok(bytes) => bytes,
            Err(error) => {
                self.broken = Some(error.kind());
                return length;
            }
        };
        self.written.fetch_add(bytes as u64, Ordering::Relaxed);
        if let Acknowledgement::Limited { unanswered } = &mut self.acknowledgement {
            *unanswered += bytes;
            if *unanswered > WINDOW {
                self.acknowledgement = Acknowledgement::Unlimited;
                self.end_when_unacknowledged(false);
            }
        }
        bytes
    }

    /// The end as the reader sees it. The kernel tells of a reset once, and a write may have heard of it; then only a server that had
    /// sent its FIN before has come to its end.
    fn end(&self) -> io::Result<()> {
        self.broken.filter(|kind| *kind != io::ErrorKind::BrokenPipe).map_or(Ok(()), |kind| Err(kind.into()))
    }

    fn poll_read_now(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.ahead.is_empty() {
            if !self.more_may_be_there {
                return self.poll_read_directly(cx, buffer);
            }
            ready!(self.poll_read_ahead(cx))?;
        }
        let length = self.ahead.len().min(buffer.remaining());
        buffer.put_slice(&self.ahead[..length]);
        self.ahead.advance(length);
        Poll::Ready(Ok(()))
    }

    fn poll_read_directly(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let room = buffer.remaining();
        let outcome = ready!(Pin::new(&mut self.tcp).poll_read(cx, buffer));
        self.has_read();
        self.more_may_be_there = room >= MORE_MAY_BE_THERE && buffer.remaining() == 0;
        Poll::Ready(outcome)
    }

    fn poll_read_ahead(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.ahead.reserve(READ_AHEAD);
        let Poll::Ready(outcome) = pin!(self.tcp.read_buf(&mut self.ahead)).poll(cx) else {
            (self.ahead, self.more_may_be_there) = (BytesMut::new(), false);
            return Poll::Pending;
        };
        self.has_read();
        Poll::Ready(outcome.map(drop))
    }

    fn has_read(&mut self) {
        if let Acknowledgement::Limited { unanswered } = &mut self.acknowledgement {
            *unanswered = 0;
        }
    }

    #[cfg(target_os = "linux")]
    fn end_when_unacknowledged(&self, wanted: bool) {
        // If it can't be set, a dead connection only ends later.
        drop(SockRef::from(&self.tcp).set_tcp_user_timeout(wanted.then_some(UNACKNOWLEDGED)));
    }

    #[cfg(not(target_os = "linux"))]
    fn end_when_unacknowledged(&self, _: bool) {}
}

impl AsyncRead for CountingTcp {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.is_drained = false;
        if self.turn >= TURN {
            self.turn = 0;
            // It wakes us when the sockets of the others have been looked at, too.
            return pin!(yield_now()).poll(cx).map(Ok);
        }
        let before = buffer.filled().len();
        let outcome = self.poll_read_now(cx, buffer);
        self.is_drained = outcome.is_pending();
        let read = buffer.filled().len() - before;
        self.turn = if self.is_drained { 0 } else { self.turn + read };
        if read == 0 && buffer.remaining() > 0 && matches!(outcome, Poll::Ready(Ok(()))) {
            return Poll::Ready(self.end());
        }
        outcome
    }
}

impl AsyncWrite for CountingTcp {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        if self.broken.is_some() {
            return Poll::Ready(Ok(buffer.len()));
        }
        let outcome = ready!(Pin::new(&mut self.tcp).poll_write(cx, buffer));
        Poll::Ready(Ok(self.wrote(outcome, buffer.len())))
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffers: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let length = || buffers.iter().map(|buffer| buffer.len()).sum();
        if self.broken.is_some() {
            return Poll::Ready(Ok(length()));
        }
        let outcome = ready!(Pin::new(&mut self.tcp).poll_write_vectored(cx, buffers));
        Poll::Ready(Ok(self.wrote(outcome, length())))
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

/// TLS over TCP. hyper reads six times for each answer, and five of these reads find nothing: those ask TCP alone.
pub struct TlsOverTcp {
    tls: TlsStream<CountingTcp>,
    /// The last read found nothing, in TCP neither, so nobody holds bytes or an error for the next one.
    is_drained: bool,
}

impl TlsOverTcp {
    fn tcp(&self) -> &CountingTcp {
        self.tls.get_ref().0
    }

    /// The session of TLS.
    #[must_use]
    pub fn session(&self) -> &ClientConnection {
        self.tls.get_ref().1
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.is_drained {
            // An error shows when it is read.
            drop(ready!(self.tcp().tcp.poll_read_ready(cx)));
        }
        let outcome = Pin::new(&mut self.tls).poll_read(cx, buffer);
        self.is_drained = outcome.is_pending() && self.tcp().is_drained;
        outcome
    }
}

impl From<TlsStream<CountingTcp>> for UpstreamIo {
    fn from(tls: TlsStream<CountingTcp>) -> Self {
        Self::Tls(Box::new(TlsOverTcp { tls, is_drained: false }))
    }
}

/// The byte stream of an HTTP connection to upstream.
pub enum UpstreamIo {
    /// Plain HTTP, to loopback only.
    Plain(CountingTcp),
    /// TLS. It is boxed because a TLS session takes some kilobytes.
    Tls(Box<TlsOverTcp>),
    /// TLS through a proxy that speaks TLS itself.
    Nested(Box<TlsStream<TlsStream<CountingTcp>>>),
}

impl UpstreamIo {
    /// The address that the TCP connection leads to: the upstream's, or an egress proxy's.
    #[must_use]
    pub fn peer_address(&self) -> Option<IpAddr> {
        let tcp = match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => stream.tcp(),
            Self::Nested(stream) => stream.get_ref().0.get_ref().0,
        };
        tcp.tcp.peer_addr().ok().map(|address| address.ip())
    }
}

impl AsyncRead for UpstreamIo {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Tls(stream) => stream.poll_read(cx, buffer),
            Self::Nested(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for UpstreamIo {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buffer),
            Self::Tls(stream) => Pin::new(&mut stream.tls).poll_write(cx, buffer),
            Self::Nested(stream) => Pin::new(stream).poll_write(cx, buffer),
        }
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, buffers: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, buffers),
            Self::Tls(stream) => Pin::new(&mut stream.tls).poll_write_vectored(cx, buffers),
            Self::Nested(stream) => Pin::new(stream).poll_write_vectored(cx, buffers),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.tls.is_write_vectored(),
            Self::Nested(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(&mut stream.tls).poll_flush(cx),
            Self::Nested(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(&mut stream.tls).poll_shutdown(cx),
            Self::Nested(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use std::io::Write as _;

    use rustls::{ClientConfig, RootCertStore, ServerConfig, ServerConnection, pki_types::PrivatePkcs8KeyDer};
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
        time::timeout,
    };
    use tokio_rustls::{TlsAcceptor, TlsConnector};

    use super::*;

    async fn connected() -> (CountingTcp, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let tcp = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (CountingTcp::new(tcp, Arc::default()), listener.accept().await.unwrap().0)
    }

    fn limit(counted: &CountingTcp) -> Option<Duration> {
        SockRef::from(&counted.tcp).tcp_user_timeout().unwrap().filter(|limit| !limit.is_zero())
    }

    #[tokio::test]
    async fn a_connection_whose_packets_are_dropped_fails_after_ten_seconds() {
        let (counted, _peer) = connected().await;
        let socket = SockRef::from(&counted.tcp);
        assert!(socket.tcp_nodelay().unwrap() && socket.keepalive().unwrap());
        let unanswered = socket.tcp_keepalive_interval().unwrap() * socket.tcp_keepalive_retries().unwrap();
        assert_eq!(socket.tcp_keepalive_time().unwrap() + unanswered, Duration::from_secs(10));
        assert_eq!(limit(&counted), Some(Duration::from_secs(10)));
    }

    #[tokio::test]
    async fn what_came_before_a_write_failed_is_read_and_then_the_reset() {
        let (mut counted, mut peer) = connected().await;
        counted.write_all(b"a request that nobody reads").await.unwrap();
        peer.readable().await.unwrap();
        peer.write_all(b"an answer").await.unwrap();
        // Bytes are unread there, so this is a reset.
        drop(peer);
        while counted.broken.is_none() {
            counted.write_all(b"more").await.unwrap();
            tokio::task::yield_now().await;
        }
        let written = counted.written.load(Ordering::Relaxed);
        counted.write_all(b"more").await.unwrap();
        counted.flush().await.unwrap();
        assert_eq!(counted.written.load(Ordering::Relaxed), written, "the kernel took none of it");
        let mut answer = [0; 9];
        counted.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"an answer");
        assert_eq!(counted.read(&mut answer).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    }

    #[tokio::test]
    async fn a_large_answer_comes_whole_and_leaves_no_memory_behind() {
        let (mut counted, mut peer) = connected().await;
        let sent: Vec<u8> = (0..300_000_u32).map(|at| (at % 251) as u8).collect();
        let writing = {
            let sent = sent.clone();
            tokio::spawn(async move { peer.write_all(&sent).await.map(|()| peer) })
        };
        let mut got = Vec::new();
        // Rooms as TLS asks for them, and odd ones.
        for room in [4096, 12_000, 16_384, 100, 1, 70_000].into_iter().cycle() {
            if got.len() == sent.len() {
                break;
            }
            let mut piece = vec![0; room];
            let length = counted.read(&mut piece).await.unwrap();
            got.extend_from_slice(&piece[..length]);
        }
        assert!(got == sent);
        let mut peer = writing.await.unwrap().unwrap();
        let mut piece = [0; 4096];
        assert!(timeout(Duration::ZERO, counted.read(&mut piece)).await.is_err());
        assert_eq!((counted.ahead.capacity(), counted.more_may_be_there), (0, false));
        peer.write_all(b"more").await.unwrap();
        assert_eq!(counted.read(&mut piece).await.unwrap(), 4);
        drop(peer);
        assert_eq!(counted.read(&mut piece).await.unwrap(), 0);
    }

    /// Our end of a TLS connection, and the peer's TLS and TCP.
    async fn connected_by_tls() -> (UpstreamIo, ServerConnection, TcpStream) {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()).into();
        let config = ServerConfig::builder().with_no_client_auth().with_single_cert(vec![made.cert.der().clone()], key).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(made.cert.der().clone()).unwrap();
        let connector = TlsConnector::from(Arc::new(ClientConfig::builder().with_root_certificates(roots).with_no_client_auth()));
        let (counted, peer) = connected().await;
        let name = "localhost".try_into().unwrap();
        let (ours, theirs) = tokio::join!(connector.connect(name, counted), TlsAcceptor::from(Arc::new(config)).accept(peer));
        let (peer, session) = theirs.unwrap().into_inner();
        (ours.unwrap().into(), session, peer)
    }

    /// What one read finds, if anything.
    async fn read_now(stream: &mut UpstreamIo) -> Option<io::Result<Vec<u8>>> {
        let mut piece = vec![0; 100];
        let read = timeout(Duration::from_millis(100), stream.read(&mut piece)).await.ok()?;
        Some(read.map(|length| piece[..length].to_vec()))
    }

    #[tokio::test]
    async fn what_comes_by_tls_after_reads_that_found_nothing_is_read_and_so_are_errors_and_the_end() {
        let (mut ours, mut session, mut peer) = connected_by_tls().await;
        for text in [&b"one"[..], b"two"] {
            session.writer().write_all(text).unwrap();
            let mut records = Vec::new();
            session.write_tls(&mut records).unwrap();
            peer.write_all(&records).await.unwrap();
            assert_eq!(read_now(&mut ours).await.unwrap().unwrap(), text);
            for _ in 0..2 {
                assert!(read_now(&mut ours).await.is_none());
            }
        }
        let no_record = [[0x17, 3, 3, 0, 32].as_slice(), &[0; 32]].concat();
        peer.write_all(&no_record).await.unwrap();
        assert_eq!(read_now(&mut ours).await.unwrap().unwrap_err().kind(), io::ErrorKind::InvalidData);
        let (mut ours, _, peer) = connected_by_tls().await;
        assert!(read_now(&mut ours).await.is_none());
        drop(peer);
        assert_eq!(read_now(&mut ours).await.unwrap().unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[tokio::test]
    async fn what_was_read_ahead_when_others_had_their_turn_is_not_left_behind() {
        let (mut ours, mut session, mut peer) = connected_by_tls().await;
        assert!(read_now(&mut ours).await.is_none());
        session.writer().write_all(b"some").unwrap();
        let mut record = Vec::new();
        session.write_tls(&mut record).unwrap();
        peer.write_all(&record).await.unwrap();
        let UpstreamIo::Tls(stream) = &mut ours else { panic!("it is TLS") };
        let counted = stream.tls.get_mut().0;
        counted.tcp.readable().await.unwrap();
        // The kernel has nothing more, and the turn ends here.
        while counted.tcp.try_read_buf(&mut counted.ahead).is_ok() {}
        (counted.turn, stream.is_drained) = (TURN, false);
        assert_eq!(read_now(&mut ours).await.expect("it comes").unwrap(), b"some");
    }

    #[tokio::test]
    async fn answered_requests_keep_the_limit_however_many_they_are() {
        let (mut counted, mut peer) = connected().await;
        let mut buffer = vec![0; 30 * 1024];
        for _ in 0..5 {
            counted.write_all(&buffer).await.unwrap();
            peer.read_exact(&mut buffer).await.unwrap();
            peer.write_all(b"x").await.unwrap();
            counted.read_u8().await.unwrap();
        }
        assert!(limit(&counted).is_some());
    }

    #[tokio::test]
    async fn a_large_upload_may_meet_a_peer_that_pauses_even_one_that_speaks_meanwhile() {
        let (mut counted, mut peer) = connected().await;
        counted.write_all(&vec![0; 33 * 1024]).await.unwrap();
        assert_eq!(limit(&counted), None);
        // The peer has read nothing, and its window may be closed.
        peer.write_all(b"x").await.unwrap();
        counted.read_u8().await.unwrap();
        assert_eq!(limit(&counted), None);
    }
}
