//! Controls open connections: aborts, drains and freezes them, and writes raw bytes that hyper would never write.
//!
//! [`ConnectionHandle`] is what the code of a request holds. [`ControlledStream`] stands between hyper and TLS and does what
//! the handle says. [`ConnectionRegistry`] lists every open connection. A connection leaves the registry only after its
//! socket is closed.

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
    sync::{ChangeSignal, lock},
};

/// Gives the kernel time to deliver what was written before a reset, to a client that reads.
const DELIVERY: Duration = Duration::from_millis(100);

/// How a connection is ended before its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Abort {
    /// The socket is closed without TLS's `close_notify`.
    Close,
    /// The socket sends a TCP reset.
    Reset,
}

/// Controls one connection.
pub(crate) struct ConnectionHandle {
    /// Whether `write_override` holds one; an ordinary write looks at nothing else.
    has_override: AtomicBool,
    write_override: Mutex<WriteOverride>,
    aborted: watch::Sender<bool>,
    drained: watch::Sender<bool>,
    frozen: AtomicBool,
    reset: AtomicBool,
    in_flight: AtomicUsize,
    idle_since: Mutex<Instant>,
}

/// What happens at the next write or flush.
enum WriteOverride {
    None,
    /// These bytes are written before hyper's next bytes.
    Before(Bytes),
    /// These bytes are written instead of hyper's next bytes, then the connection is aborted.
    Instead(Bytes),
    /// The connection is aborted once everything is flushed.
    AbortOnceFlushed(Abort),
}

impl ConnectionHandle {
    fn new() -> Self {
        Self {
            has_override: AtomicBool::new(false),
            write_override: Mutex::new(WriteOverride::None),
            aborted: watch::Sender::new(false),
            drained: watch::Sender::new(false),
            frozen: AtomicBool::new(false),
            reset: AtomicBool::new(false),
            in_flight: AtomicUsize::new(0),
            idle_since: Mutex::new(clock::instant()),
        }
    }

    /// Ends the connection now.
    pub(crate) fn abort(&self, how: Abort) {
        if how == Abort::Reset {
            self.reset.store(true, Ordering::Release);
        }
        self.aborted.send_replace(true);
    }

    /// Ends the connection once everything written so far is flushed.
    pub(crate) fn abort_once_flushed(&self, how: Abort) {
        self.set_override(WriteOverride::AbortOnceFlushed(how));
    }

    /// Writes raw bytes (an informational response) before the next response.
    pub(crate) fn write_before_response(&self, raw: Bytes) {
        self.set_override(WriteOverride::Before(raw));
    }

    /// Writes raw bytes instead of the next response, then ends the connection.
    pub(crate) fn write_instead_of_response(&self, raw: Bytes) {
        self.set_override(WriteOverride::Instead(raw));
    }

    fn set_override(&self, write_override: WriteOverride) {
        *lock(&self.write_override) = write_override;
        self.has_override.store(true, Ordering::Release);
    }

    /// Waits until the connection is aborted.
    pub(crate) async fn aborted(&self) {
        // The wait fails only when the sender is dropped, and `self` owns the sender.
        let _ = self.aborted.subscribe().wait_for(|aborted| *aborted).await;
    }

    /// Waits until the connection must take no more requests.
    pub(crate) async fn drained(&self) {
        // The wait fails only when the sender is dropped, and `self` owns the sender.
        let _ = self.drained.subscribe().wait_for(|drained| *drained).await;
    }

    fn is_frozen(&self) -> bool {
        self.frozen.load(Ordering::Acquire)
    }

    /// Counts a request as in flight until the guard is dropped.
    pub(crate) fn begin(self: &Arc<Self>) -> InFlightGuard {
        self.in_flight.fetch_add(1, Ordering::AcqRel);
        InFlightGuard(Arc::clone(self))
    }

    /// When the last request ended, or the connection began; `None` while a request is in flight.
    pub(crate) fn idle_since(&self) -> Option<Instant> {
        (self.in_flight.load(Ordering::Acquire) == 0).then(|| *lock(&self.idle_since))
    }
}

/// Counts one request as in flight while it exists.
pub(crate) struct InFlightGuard(Arc<ConnectionHandle>);

impl Drop for InFlightGuard {
    fn drop(&mut self) {
        *lock(&self.0.idle_since) = clock::instant();
        self.0.in_flight.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Lists every open connection.
pub(crate) struct ConnectionRegistry {
    open: Mutex<HashMap<u64, Arc<ConnectionHandle>>>,
    changes: Arc<ChangeSignal>,
    next: AtomicU64,
}

/// An entry of the registry; dropping it removes the connection.
pub(crate) struct RegistryEntry {
    registry: Arc<ConnectionRegistry>,
    id: u64,
    pub(crate) connection: Arc<ConnectionHandle>,
}

impl ConnectionRegistry {
    /// An empty registry; it notifies `changes` when a connection is removed.
    pub(crate) fn new(changes: Arc<ChangeSignal>) -> Self {
        Self { open: Mutex::default(), changes, next: AtomicU64::new(0) }
    }

    /// Adds a connection.
    pub(crate) fn add(self: &Arc<Self>) -> RegistryEntry {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let connection = Arc::new(ConnectionHandle::new());
        lock(&self.open).insert(id, Arc::clone(&connection));
        RegistryEntry { registry: Arc::clone(self), id, connection }
    }

    /// How many connections are open.
    pub(crate) fn count(&self) -> u64 {
        lock(&self.open).len() as u64
    }

    /// Aborts every connection, or only those without a request in flight. Returns their numbers, for
    /// [`wait_closed`](Self::wait_closed).
    pub(crate) fn abort(&self, idle_only: bool) -> Vec<u64> {
        let open = lock(&self.open);
        let chosen = open.iter().filter(|(_, connection)| !idle_only || connection.idle_since().is_some());
        chosen
            .map(|(id, connection)| {
                connection.abort(Abort::Close);
                *id
            })
            .collect()
    }

    /// Has every connection finish its requests and take no more.
    pub(crate) fn drain(&self) {
        for connection in lock(&self.open).values() {
            connection.drained.send_replace(true);
        }
    }

    /// Silences every connection for good: it neither reads, writes nor closes.
    pub(crate) fn freeze(&self) {
        for connection in lock(&self.open).values() {
            connection.frozen.store(true, Ordering::Release);
        }
    }

    /// Blocks until these connections are closed, or until `limit` has passed.
    pub(crate) fn wait_closed(&self, ids: &[u64], limit: Duration) {
        // A connection that is still open at the limit closes soon after, so the result does not matter.
        let _ = self.changes.wait_until(clock::instant() + limit, || {
            let open = lock(&self.open);
            ids.iter().all(|id| !open.contains_key(id))
        });
    }
}

impl Drop for RegistryEntry {
    fn drop(&mut self) {
        lock(&self.registry.open).remove(&self.id);
        self.registry.changes.notify();
    }
}

/// A TLS stream that does what its [`ConnectionHandle`] says.
pub(crate) struct ControlledStream {
    // Rust drops fields in this order, so the connection leaves the registry after its socket is closed.
    tls: TlsStream<TcpStream>,
    entry: RegistryEntry,
}

impl ControlledStream {
    /// Wraps `tls`; the entry is dropped after the socket is closed.
    pub(crate) fn new(tls: TlsStream<TcpStream>, entry: RegistryEntry) -> Self {
        Self { tls, entry }
    }

    fn connection(&self) -> &Arc<ConnectionHandle> {
        &self.entry.connection
    }

    /// Writes the bytes of the override, if it has any; `Ready(true)` when hyper's own bytes must be dropped.
    fn poll_override(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let mut write_override = lock(&self.entry.connection.write_override);
        let (raw, instead) = match &mut *write_override {
            WriteOverride::Before(raw) => (raw, false),
            WriteOverride::Instead(raw) => (raw, true),
            WriteOverride::None | WriteOverride::AbortOnceFlushed(_) => return Poll::Ready(Ok(false)),
        };
        while !raw.is_empty() {
            let written = ready!(Pin::new(&mut self.tls).poll_write(cx, raw))?;
            raw.advance(written);
        }
        if instead {
            ready!(Pin::new(&mut self.tls).poll_flush(cx))?;
            self.entry.connection.abort(Abort::Close);
        } else {
            *write_override = WriteOverride::None;
            self.entry.connection.has_override.store(false, Ordering::Release);
        }
        Poll::Ready(Ok(instead))
    }

    /// Aborts the connection if the override asks for it. Everything is flushed when this is called.
    fn abort_if_asked(&self) {
        let mut write_override = lock(&self.connection().write_override);
        let WriteOverride::AbortOnceFlushed(how) = *write_override else { return };
        *write_override = WriteOverride::None;
        let connection = Arc::clone(self.connection());
        tokio::spawn(async move {
            if how == Abort::Reset {
                // A reset discards what the kernel has not delivered yet, and no call tells when it has.
                tokio::time::sleep(DELIVERY).await;
            }
            connection.abort(how);
        });
    }

    fn has_override(&self) -> bool {
        self.connection().has_override.load(Ordering::Acquire)
    }
}

impl Drop for ControlledStream {
    fn drop(&mut self) {
        if self.connection().reset.load(Ordering::Acquire) {
            // A socket that refuses the option is closed like any other.
            let _ = self.tls.get_ref().0.set_zero_linger();
        }
    }
}

impl AsyncRead for ControlledStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.connection().is_frozen() {
            // No waker is registered, since a frozen connection must never go on.
            return Poll::Pending;
        }
        Pin::new(&mut self.get_mut().tls).poll_read(cx, buf)
    }
}

impl AsyncWrite for ControlledStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.connection().is_frozen() {
            return Poll::Pending;
        }
        if this.has_override() && ready!(this.poll_override(cx))? {
            return Poll::Ready(Ok(buf.len()));
        }
        Pin::new(&mut this.tls).poll_write(cx, buf)
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.connection().is_frozen() {
            return Poll::Pending;
        }
        if this.has_override() && ready!(this.poll_override(cx))? {
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
        if this.has_override() {
            this.abort_if_asked();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().tls).poll_shutdown(cx)
    }
}
