//! Binds listen addresses, accepts connections within the connection limit, serves HTTP/1.x and h2c, and drains.
//!
//! A [`RequestService`], which is an argument, answers the requests. Guarantees: no more connections are served than have a
//! permit, but for a few that are only told why they are refused; running out of descriptors slows accepting and never ends it;
//! an HTTP/2 connection is bounded in streams, resets, heads and memory; when a drain begins, connections that the kernel has
//! queued are still accepted, requests in flight finish, and then each connection closes.

mod accept;
mod accept_failure;
mod balance;
mod bind;
mod bind_error;
mod client_errors;
mod client_io;
mod connection;
mod connection_limit;
mod connection_state;
mod first_grace;
mod hold;
mod own_answers;
#[cfg(target_os = "linux")]
mod owner;
mod paced;
mod peer;
mod port_owner;
mod request_body;
mod unix_socket;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::sync::{Notify, mpsc, watch};

pub use accept::{Acceptor, WITHOUT_PLACE};
pub use balance::ConnectionBalancer;
pub use bind::{Bound, ListenSocket, Passed, bind_tcp, bind_unix, check_path, missing_directory, passed_sockets};
pub use bind_error::BindError;
pub use client_io::ClientStream;
pub use connection::{AnswerKind, RequestService, is_all_here};
pub use connection_limit::{ConnectionLimit, SharedDescriptors};
pub use peer::{Peer, is_one_user};
pub use request_body::{BodyCut, RequestBody};
pub use unix_socket::{DirectoryAccess, NoSuchGroup, SocketAccess};

/// The limits of a connection at one listen address.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionLimits {
    /// The longest head of a request, in bytes.
    pub head_bytes: usize,
    /// The most header lines of a request.
    pub head_lines: usize,
    /// How long a head may take: the first one from accept on, each later one from its first byte on.
    pub head_timeout: Duration,
    /// How long a connection may be idle between two requests.
    pub client_idle: Duration,
    /// How long a client may take nothing of an answer.
    pub client_stall: Duration,
    /// HTTP/2 requests in progress; further ones are refused (`REFUSED_STREAM`). `None`: HTTP/1.x only.
    pub streams: Option<u32>,
}

/// How long each step of a connection may take whose caller was refused: its head, the rest of its body, reading our answer.
const LINGER: Duration = Duration::from_secs(1);

impl ConnectionLimits {
    /// The limits of a connection whose caller was refused when it was accepted.
    fn of_refused(self) -> Self {
        Self {
            head_timeout: self.head_timeout.min(LINGER),
            client_idle: self.client_idle.min(LINGER),
            client_stall: self.client_stall.min(LINGER),
            streams: self.streams.map(|_| 1),
            ..self
        }
    }
}

/// Tells a worker's acceptors and connections that a drain has begun. The drain ends when the last holder is dropped.
#[derive(Clone)]
pub struct Drain {
    start: Arc<DrainStart>,
    /// Every acceptor and connection holds a sender; the channel closes when the last one is dropped.
    alive: mpsc::Sender<()>,
    /// How many connections the worker has, by which [`ConnectionBalancer`] chooses.
    connections: Arc<AtomicUsize>,
}

/// One of a worker's connections, which keeps the drain from ending until it is dropped.
struct DrainHolder {
    _alive: mpsc::Sender<()>,
    connections: Arc<AtomicUsize>,
}

#[derive(Default)]
struct DrainStart {
    has_begun: AtomicBool,
    told: Notify,
}

impl Drain {
    /// Makes a drain that has not begun. The receiver yields `None` when the last holder is dropped.
    #[must_use]
    pub fn new() -> (Self, mpsc::Receiver<()>) {
        let (alive, gone) = mpsc::channel(1);
        (Self { start: Arc::default(), alive, connections: Arc::default() }, gone)
    }

    /// Begins it, and tells the acceptors and connections in the order in which they began to wait.
    pub fn begin(&self) {
        self.start.has_begun.store(true, Ordering::Release);
        self.start.told.notify_waiters();
    }

    /// Begins it when `closing` turns true, or when nobody is left to say so.
    pub async fn begin_when(self, mut closing: watch::Receiver<bool>) {
        drop(closing.wait_for(|closing| *closing).await);
        self.begin();
    }

    /// Waits for the drain to begin.
    pub async fn begun(&self) {
        // From here on it hears of a start.
        let told = self.start.told.notified();
        if !self.has_begun() {
            told.await;
        }
    }

    /// Whether the drain has begun.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.start.has_begun.load(Ordering::Acquire)
    }

    /// Counts a connection.
    fn hold(&self) -> DrainHolder {
        self.connections.fetch_add(1, Ordering::Relaxed);
        DrainHolder { _alive: self.alive.clone(), connections: Arc::clone(&self.connections) }
    }

    /// How many connections there are.
    fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

impl Drop for DrainHolder {
    fn drop(&mut self) {
        self.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_drain_ends_when_the_last_connection_has_ended() {
        let (drain, mut gone) = Drain::new();
        let (connection, acceptor) = (drain.hold(), drain.clone());
        assert!(!acceptor.has_begun());
        let waiting = acceptor.begun();
        drain.begin();
        drop(drain);
        waiting.await;
        assert!(acceptor.has_begun());
        acceptor.begun().await;
        drop(acceptor);
        assert_eq!(gone.try_recv(), Err(mpsc::error::TryRecvError::Empty), "a connection is left");
        drop(connection);
        assert_eq!(gone.recv().await, None);
    }

    #[tokio::test]
    async fn a_drain_begins_when_it_is_told_or_nobody_is_left_to_tell_it() {
        for is_told in [true, false] {
            let (sender, closing) = watch::channel(false);
            let (drain, _gone) = Drain::new();
            let waiting = tokio::spawn(drain.clone().begin_when(closing));
            tokio::task::yield_now().await;
            assert!(!drain.has_begun());
            if is_told {
                sender.send(true).unwrap();
            } else {
                drop(sender);
            }
            waiting.await.unwrap();
            assert!(drain.has_begun());
        }
    }
}
