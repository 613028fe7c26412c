//! One client connection, from its first byte to its last.

use std::{
    convert::Infallible,
    io::{self, IoSlice},
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, UnixStream},
};

use super::{ConnectionLimits, drain::Drain};
use crate::deadline::Deadline;

/// Once a drain began, how long a connection that has said nothing yet may take to begin.
const FIRST_WORD: Duration = Duration::from_secs(1);

/// Memory that one connection may take to buffer a body.
const BODY_BUFFER: usize = 64 * 1024;

/// What answers requests. One per worker and listen address.
pub trait Answering: Send + Sync + 'static {
    /// The body of an answer.
    type Body: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + Unpin + 'static;

    /// Answers one request. Dropped when the client hangs up.
    fn answer(self: Arc<Self>, request: Request<Incoming>, peer: Peer) -> impl Future<Output = Response<Self::Body>> + Send;
}

/// Who is at the other end, as far as the kernel tells for free.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Peer {
    /// User id, on Unix sockets.
    pub uid: Option<u32>,
    /// Process id, on Unix sockets.
    pub pid: Option<i32>,
}

/// Serves one connection until either side closes it.
pub(super) async fn serve<A: Answering>(
    stream: ClientStream,
    answering: Arc<A>,
    limits: ConnectionLimits,
    deadline: Deadline,
    mut drain: Drain,
) {
    let peer = stream.peer();
    let head =
        Arc::new(Head { phase: AtomicU8::new(FIRST), surplus: AtomicBool::new(false), deadline, limit: limits.head_timeout });
    head.deadline.arm(limits.head_timeout);
    let service = service_fn(|request: Request<Incoming>| {
        let (answering, head) = (Arc::clone(&answering), Arc::clone(&head));
        head.begin_exchange();
        let had_body = !request.body().is_end_stream();
        async move {
            let answer = answering.answer(request, peer).await;
            Ok::<_, Infallible>(answer.map(|inner| Tracked { inner, head, had_body }))
        }
    });
    let mut connection = pin!(
        http1::Builder::new()
            .max_buf_size(limits.head_bytes.max(BODY_BUFFER))
            .max_header_size(limits.head_bytes)
            .max_headers(limits.head_lines)
            // It also runs while a connection is idle, and does not run before the first byte: see `Head`.
            .header_read_timeout(None)
            .auto_date_header(false)
            .serve_connection(TokioIo::new(Watched { stream, head: Arc::clone(&head) }), service)
    );
    let mut begun = pin!(drain.begun());
    let mut draining = false;
    let mut told = false;
    std::future::poll_fn(|cx| {
        // How it ended is known to the exchange that was under way; there is nobody else to tell.
        if connection.as_mut().poll(cx).is_ready() || head.poll_overdue(cx).is_ready() {
            return Poll::Ready(());
        }
        if !draining && begun.as_mut().poll(cx).is_ready() {
            draining = true;
            head.hurry();
        }
        // hyper would close a connection that has not said anything, though its first request may be on the way.
        if draining && !told && !head.is_silent() {
            told = true;
            connection.as_mut().graceful_shutdown();
            return connection.as_mut().poll(cx).map(drop);
        }
        Poll::Pending
    })
    .await;
}

/// Accepted, and nothing read yet.
const FIRST: u8 = 0;
/// Part of a head was read.
const PARTIAL: u8 = 1;
/// A request is being answered.
const EXCHANGE: u8 = 2;
/// Between requests.
const IDLE: u8 = 3;

/// How long the client takes for its heads. All of it happens on the connection's own task; atomics only because tasks
/// may move.
struct Head {
    phase: AtomicU8,
    /// Bytes came while a request without a body was answered: they begin the next head.
    surplus: AtomicBool,
    deadline: Deadline,
    limit: Duration,
}

impl Head {
    fn phase(&self) -> u8 {
        self.phase.load(Ordering::Relaxed)
    }

    fn set(&self, phase: u8) {
        self.phase.store(phase, Ordering::Relaxed);
    }

    fn read_some(&self) {
        match self.phase() {
            FIRST => self.set(PARTIAL),
            IDLE => self.begin_head(),
            EXCHANGE => self.surplus.store(true, Ordering::Relaxed),
            _ => {}
        }
    }

    fn begin_head(&self) {
        self.set(PARTIAL);
        self.deadline.arm(self.limit);
    }

    fn begin_exchange(&self) {
        self.surplus.store(false, Ordering::Relaxed);
        self.set(EXCHANGE);
        self.deadline.disarm();
    }

    fn end_exchange(&self, had_body: bool) {
        if self.surplus.load(Ordering::Relaxed) && !had_body {
            self.begin_head();
        } else {
            self.set(IDLE);
        }
    }

    /// The drain began: a connection that is silent since it was accepted gets a moment, and no more.
    fn hurry(&self) {
        if self.is_silent() {
            self.deadline.arm(FIRST_WORD.min(self.limit));
        }
    }

    fn is_silent(&self) -> bool {
        self.phase() == FIRST
    }

    fn poll_overdue(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.deadline.poll_passed(cx)
    }
}

/// An answer's body that tells when its exchange is over.
struct Tracked<B> {
    inner: B,
    head: Arc<Head>,
    had_body: bool,
}

impl<B> Drop for Tracked<B> {
    fn drop(&mut self) {
        self.head.end_exchange(self.had_body);
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Tracked<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        Pin::new(&mut self.inner).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// A client's byte stream.
pub enum ClientStream {
    /// TCP.
    Tcp(TcpStream),
    /// Unix.
    Unix(UnixStream),
}

impl ClientStream {
    pub(super) fn tcp(stream: TcpStream) -> Self {
        // Answers are written whole; waiting for more only adds delay. Nothing breaks where it can't be set.
        drop(stream.set_nodelay(true));
        Self::Tcp(stream)
    }

    fn peer(&self) -> Peer {
        match self {
            Self::Tcp(_) => Peer::default(),
            Self::Unix(stream) => stream
                .peer_cred()
                .map_or_else(|_| Peer::default(), |credentials| Peer { uid: Some(credentials.uid()), pid: credentials.pid() }),
        }
    }
}

/// A client's stream that tells [`Head`] when something was read.
struct Watched {
    stream: ClientStream,
    head: Arc<Head>,
}

impl AsyncRead for Watched {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = match &mut self.stream {
            ClientStream::Tcp(stream) => Pin::new(stream).poll_read(cx, buffer),
            ClientStream::Unix(stream) => Pin::new(stream).poll_read(cx, buffer),
        };
        if buffer.filled().len() > before {
            self.head.read_some();
        }
        polled
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.stream {
            ClientStream::Tcp(stream) => Pin::new(stream).poll_write(cx, buffer),
            ClientStream::Unix(stream) => Pin::new(stream).poll_write(cx, buffer),
        }
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffers: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        match &mut self.stream {
            ClientStream::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, buffers),
            ClientStream::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, buffers),
        }
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
            ClientStream::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            ClientStream::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
