//! One connection as the awkward endpoints see it: it can be cut, or made to say what hyper never
//! would.
//!
//! [`Line`] is the switchboard a request's code holds; [`Socket`] is the layer between hyper and
//! TLS that obeys it; [`Lines`] knows every open connection.

use std::{
    collections::HashMap,
    io,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use bytes::{Buf, Bytes};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::watch,
};
use tokio_rustls::server::TlsStream;

use crate::{
    clock,
    sync::{Changes, lock},
};

/// How a connection ends before its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    /// The socket is closed without TLS's `close_notify`.
    Close,
    /// A TCP reset.
    Reset,
}

/// The switchboard of one connection.
pub(crate) struct Line {
    /// Set while there is a plan: the only thing an ordinary write looks at.
    armed: AtomicBool,
    plan: Mutex<Plan>,
    severed: watch::Sender<bool>,
    drained: watch::Sender<bool>,
    frozen: AtomicBool,
    reset: AtomicBool,
    in_flight: AtomicUsize,
    idle_since: Mutex<Instant>,
}

enum Plan {
    Nothing,
    /// These bytes go out before whatever hyper writes next.
    SayFirst(Bytes),
    /// These bytes go out instead of whatever hyper writes, then the connection is cut.
    SayInstead(Bytes),
    CutOnceFlushed(Cut),
}

impl Line {
    fn new() -> Self {
        Self {
            armed: AtomicBool::new(false),
            plan: Mutex::new(Plan::Nothing),
            severed: watch::Sender::new(false),
            drained: watch::Sender::new(false),
            frozen: AtomicBool::new(false),
            reset: AtomicBool::new(false),
            in_flight: AtomicUsize::new(0),
            idle_since: Mutex::new(clock::instant()),
        }
    }

    /// Ends the connection now.
    pub(crate) fn cut(&self, how: Cut) {
        if how == Cut::Reset {
            self.reset.store(true, Ordering::Release);
        }
        self.severed.send_replace(true);
    }

    /// Ends the connection as soon as all that was written so far has left.
    pub(crate) fn cut_once_flushed(&self, how: Cut) {
        self.arm(Plan::CutOnceFlushed(how));
    }

    /// Puts raw bytes (an informational answer) before the answer that comes next.
    pub(crate) fn say_first(&self, raw: Bytes) {
        self.arm(Plan::SayFirst(raw));
    }

    /// Puts raw bytes in the place of the answer that comes next, then ends the connection.
    pub(crate) fn say_instead(&self, raw: Bytes) {
        self.arm(Plan::SayInstead(raw));
    }

    fn arm(&self, plan: Plan) {
        *lock(&self.plan) = plan;
        self.armed.store(true, Ordering::Release);
    }

    /// Waits until the connection is to end.
    pub(crate) async fn severed(&self) {
        // The sender lives as long as `self`, so this cannot fail.
        let _ = self.severed.subscribe().wait_for(|severed| *severed).await;
    }

    /// Waits until the connection is to take no more requests.
    pub(crate) async fn drained(&self) {
        // As above.
        let _ = self.drained.subscribe().wait_for(|drained| *drained).await;
    }

    fn is_frozen(&self) -> bool {
        self.frozen.load(Ordering::Acquire)
    }

    /// Marks a request as being served until the mark is dropped.
    pub(crate) fn begin(self: &Arc<Self>) -> InFlight {
        self.in_flight.fetch_add(1, Ordering::AcqRel);
        InFlight(Arc::clone(self))
    }

    /// Since when no request is being served; `None` while one is.
    pub(crate) fn idle_since(&self) -> Option<Instant> {
        (self.in_flight.load(Ordering::Acquire) == 0).then(|| *lock(&self.idle_since))
    }
}

/// A request that is being served.
pub(crate) struct InFlight(Arc<Line>);

impl Drop for InFlight {
    fn drop(&mut self) {
        *lock(&self.0.idle_since) = clock::instant();
        self.0.in_flight.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Every open connection.
pub(crate) struct Lines {
    open: Mutex<HashMap<u64, Arc<Line>>>,
    changes: Arc<Changes>,
    next: AtomicU64,
}

/// A connection's place among the open ones; given back when dropped.
pub(crate) struct Place {
    lines: Arc<Lines>,
    id: u64,
    pub(crate) line: Arc<Line>,
}

impl Lines {
    /// None; their end is noted in `changes`.
    pub(crate) fn new(changes: Arc<Changes>) -> Self {
        Self { open: Mutex::default(), changes, next: AtomicU64::new(0) }
    }

    pub(crate) fn open(self: &Arc<Self>) -> Place {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let line = Arc::new(Line::new());
        lock(&self.open).insert(id, Arc::clone(&line));
        Place { lines: Arc::clone(self), id, line }
    }

    pub(crate) fn count(&self) -> u64 {
        lock(&self.open).len() as u64
    }

    /// Cuts every connection, or only those without a request; says which.
    pub(crate) fn cut(&self, idle_only: bool) -> Vec<u64> {
        let open = lock(&self.open);
        let doomed = open.iter().filter(|(_, line)| !idle_only || line.idle_since().is_some());
        doomed
            .map(|(id, line)| {
                line.cut(Cut::Close);
                *id
            })
            .collect()
    }

    /// Every connection finishes what it has begun and takes no more.
    pub(crate) fn drain(&self) {
        for line in lock(&self.open).values() {
            line.drained.send_replace(true);
        }
    }

    /// Every connection falls silent for good.
    pub(crate) fn freeze(&self) {
        for line in lock(&self.open).values() {
            line.frozen.store(true, Ordering::Release);
        }
    }

    /// Waits until these connections are closed; gives up after `limit`.
    pub(crate) fn wait_gone(&self, ids: &[u64], limit: Duration) {
        // What is left when the limit is reached is closed a moment later.
        let _ = self.changes.wait_until(clock::instant() + limit, || {
            let open = lock(&self.open);
            ids.iter().all(|id| !open.contains_key(id))
        });
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        lock(&self.lines.open).remove(&self.id);
        self.lines.changes.note();
    }
}

/// Time for the kernel to deliver what was written before a reset, to a client that reads.
const DELIVERY: Duration = Duration::from_millis(100);

/// A TLS connection that does what its [`Line`] says.
pub(crate) struct Socket {
    // Before `place`: a connection is off the list only once its socket is closed.
    tls: TlsStream<TcpStream>,
    place: Place,
}

impl Socket {
    pub(crate) fn new(tls: TlsStream<TcpStream>, place: Place) -> Self {
        Self { tls, place }
    }

    /// Writes what the plan wants written; `Ready(true)` when hyper's own bytes are to be dropped.
    fn interject(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let mut plan = lock(&self.place.line.plan);
        let (raw, instead) = match &mut *plan {
            Plan::SayFirst(raw) => (raw, false),
            Plan::SayInstead(raw) => (raw, true),
            Plan::Nothing | Plan::CutOnceFlushed(_) => return Poll::Ready(Ok(false)),
        };
        while !raw.is_empty() {
            let written = ready!(Pin::new(&mut self.tls).poll_write(cx, raw))?;
            raw.advance(written);
        }
        if instead {
            ready!(Pin::new(&mut self.tls).poll_flush(cx))?;
            self.place.line.cut(Cut::Close);
        } else {
            *plan = Plan::Nothing;
            self.place.line.armed.store(false, Ordering::Release);
        }
        Poll::Ready(Ok(instead))
    }

    /// All was flushed: if the plan says so, the connection is cut.
    fn cut_as_planned(&self) {
        let mut plan = lock(&self.place.line.plan);
        let Plan::CutOnceFlushed(how) = *plan else { return };
        *plan = Plan::Nothing;
        let line = Arc::clone(&self.place.line);
        tokio::spawn(async move {
            if how == Cut::Reset {
                // A reset throws away what the kernel has not delivered, and nothing tells when
                // it has.
                tokio::time::sleep(DELIVERY).await;
            }
            line.cut(how);
        });
    }

    fn armed(&self) -> bool {
        self.place.line.armed.load(Ordering::Acquire)
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if self.place.line.reset.load(Ordering::Acquire) {
            // A socket that refuses the option is closed like any other.
            let _ = self.tls.get_ref().0.set_zero_linger();
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.place.line.is_frozen() {
            // Nobody will wake it: that is what is meant.
            return Poll::Pending;
        }
        Pin::new(&mut self.get_mut().tls).poll_read(cx, buf)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.place.line.is_frozen() {
            return Poll::Pending;
        }
        if this.armed() && ready!(this.interject(cx))? {
            return Poll::Ready(Ok(buf.len()));
        }
        Pin::new(&mut this.tls).poll_write(cx, buf)
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.place.line.is_frozen() {
            return Poll::Pending;
        }
        if this.armed() && ready!(this.interject(cx))? {
            return Poll::Ready(Ok(bufs.iter().map(|buf| buf.len()).sum()));
        }
        Pin::new(&mut this.tls).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.tls.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(Pin::new(&mut this.tls).poll_flush(cx))?;
        if this.armed() {
            this.cut_as_planned();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().tls).poll_shutdown(cx)
    }
}
