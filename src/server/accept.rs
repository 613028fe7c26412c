//! Accepts connections: one loop per worker and listen address, on descriptors of one shared socket.
//!
//! Guarantees: a connection is accepted only with a permit; running out of descriptors slows accepting and never ends it; when
//! a drain begins, connections that the kernel has queued are still accepted.

use std::{
    io,
    net::SocketAddr,
    os::fd::{AsFd, BorrowedFd},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::SockRef;
use tokio::{
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    sync::watch,
};
use tracing::{info, warn};

use super::{
    Drain,
    bind::{Bound, ListenSocket},
    connection::{self, RequestService},
    connection_limit::{ConnectionLimit, ConnectionPermit, EvictionGuard},
    connection_state::{ClientStream, ConnectionState},
};
use crate::deadline::Deadlines;

/// The first and the longest pause after accepting has failed because descriptors or memory ran out (EMFILE, ENFILE, ENOMEM).
const PAUSE: (Duration, Duration) = (Duration::from_millis(5), Duration::from_secs(1));

/// One worker's descriptor of a listening socket, and the connection limit of its address.
pub struct Acceptor {
    name: String,
    socket: ListeningSocket,
    connection_limit: ConnectionLimit,
}

enum ListeningSocket {
    /// A listener with its address.
    Tcp(TcpListener, SocketAddr),
    Unix(UnixListener),
}

impl Acceptor {
    /// Registers the socket with the runtime that this is called on. All workers on the address share `connection_limit`.
    pub fn new(bound: Bound, connection_limit: ConnectionLimit) -> io::Result<Self> {
        let socket = match bound.socket {
            ListenSocket::Tcp(listener) => {
                let listener = TcpListener::from_std(listener)?;
                let address = listener.local_addr()?;
                ListeningSocket::Tcp(listener, address)
            }
            ListenSocket::Unix(listener) => ListeningSocket::Unix(UnixListener::from_std(listener)?),
        };
        Ok(Self { name: bound.name, socket, connection_limit })
    }

    /// Accepts and serves connections until the drain begins, then those that are queued, and then closes the socket.
    pub async fn run<A: RequestService>(self, service: Arc<A>, deadlines: Deadlines, mut drain: Drain) {
        let mut pause = PAUSE.0;
        loop {
            let accepted = tokio::select! {
                biased;
                () = drain.begun() => break,
                accepted = self.next(&deadlines) => accepted,
            };
            match accepted {
                Ok((stream, permit)) => {
                    if pause > PAUSE.0 {
                        info!(listener = self.name, "accepting again");
                        pause = PAUSE.0;
                    }
                    spawn(stream, permit, &service, &drain);
                }
                // The client gave up while it was queued; the next one may be there already.
                Err(error) if is_the_clients(&error) => {}
                Err(error) => {
                    if pause == PAUSE.0 {
                        warn!(listener = self.name, code = error.raw_os_error(), "accepting is paused: {}", why(&error));
                    }
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(PAUSE.1);
                }
            }
        }
        self.empty_queue(&service, &deadlines, &drain);
    }

    /// Runs outside the workers, with deadlines of its own. Returns when `closing` has turned true and the last connection has
    /// ended.
    pub async fn run_alone<A: RequestService>(self, service: Arc<A>, closing: watch::Receiver<bool>) {
        let deadlines = Deadlines::default();
        let (drain, mut gone) = Drain::new(closing);
        let serving = async {
            self.run(service, deadlines.clone(), drain).await;
            gone.recv().await;
        };
        tokio::select! {
            () = serving => {}
            () = deadlines.run() => {}
        }
    }

    /// Takes a permit, then accepts: a connection that was accepted will be served.
    async fn next(&self, deadlines: &Deadlines) -> io::Result<(ClientStream, ConnectionPermit)> {
        // Hold the guard until accept returns; otherwise another acceptor counts the same client twice.
        let (permit, _guard) = match self.connection_limit.take(deadlines) {
            Some(permit) => (permit, None),
            None => self.wait_for_permit(deadlines).await,
        };
        // Workers share the socket; tokio goes on waiting when another worker was faster.
        let stream = match &self.socket {
            ListeningSocket::Tcp(listener, address) => ClientStream::tcp(listener.accept().await?, *address),
            ListeningSocket::Unix(listener) => ClientStream::Unix(listener.accept().await?.0),
        };
        Ok((stream, permit))
    }

    /// Waits until a permit is free. Evicts a connection only when a client waits in the kernel's queue.
    async fn wait_for_permit(&self, deadlines: &Deadlines) -> (ConnectionPermit, Option<EvictionGuard>) {
        loop {
            let mut changed = pin!(self.connection_limit.changed());
            changed.as_mut().enable();
            if let Some(permit) = self.connection_limit.take(deadlines) {
                return (permit, None);
            }
            tokio::select! {
                biased;
                () = changed.as_mut() => continue,
                () = self.socket.client_waits() => {}
            }
            if let Some(guard) = self.connection_limit.eviction_guard() {
                // Another worker may have accepted the client meanwhile, and then no connection has to be evicted.
                if !self.socket.has_client_waiting() {
                    continue;
                }
                return (guard.permit(deadlines).await, Some(guard));
            }
            changed.await;
        }
    }

    /// Accepts and serves what the kernel has queued, within the limit, and closes the socket.
    fn empty_queue<A: RequestService>(self, service: &Arc<A>, deadlines: &Deadlines, drain: &Drain) {
        while let Some(permit) = self.connection_limit.take(deadlines) {
            match self.socket.accept_queued() {
                Ok(stream) => spawn(stream, permit, service, drain),
                Err(error) if is_the_clients(&error) => {}
                Err(_) => return,
            }
        }
    }
}

impl ListeningSocket {
    /// Completes when there is a connection to accept. tokio's listeners tell that only by accepting, so this watches a
    /// descriptor of its own. It is wrapped as a stream, which does not matter: the kernel is only asked whether it is
    /// readable.
    async fn client_waits(&self) {
        let watched = self.as_fd().try_clone_to_owned().and_then(|own| UnixStream::from_std(own.into()));
        let waits = match &watched {
            Ok(watched) => watched.readable().await.is_ok(),
            Err(_) => false,
        };
        if !waits {
            // Descriptors have run out. A connection that closes frees one, and its permit.
            std::future::pending::<()>().await;
        }
    }

    /// Whether there is a connection to accept now.
    fn has_client_waiting(&self) -> bool {
        let mut asked = [PollFd::new(self, PollFlags::IN)];
        poll(&mut asked, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
    }

    /// Accepts the next connection; `WouldBlock` when there is none. It asks the kernel itself, since the runtime may not have
    /// heard yet of what is queued.
    fn accept_queued(&self) -> io::Result<ClientStream> {
        let (stream, from) = SockRef::from(self).accept()?;
        stream.set_nonblocking(true)?;
        match (self, from.as_socket()) {
            (Self::Tcp(_, address), Some(from)) => Ok(ClientStream::tcp((TcpStream::from_std(stream.into())?, from), *address)),
            _ => UnixStream::from_std(stream.into()).map(ClientStream::Unix),
        }
    }
}

impl AsFd for ListeningSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(listener, _) => listener.as_fd(),
            Self::Unix(listener) => listener.as_fd(),
        }
    }
}

fn spawn<A: RequestService>(stream: ClientStream, permit: ConnectionPermit, service: &Arc<A>, drain: &Drain) {
    let state = ConnectionState::begin(permit, service.limits(), drain);
    // The drain owns this task: it waits until the state is dropped. A panic ends the task and nothing else.
    tokio::spawn(connection::serve(stream, Arc::clone(service), state, drain.clone()));
}

/// Says in words why accepting failed, and what an operator can do about it.
fn why(error: &io::Error) -> String {
    let errno = rustix::io::Errno::from_io_error(error);
    match errno {
        Some(rustix::io::Errno::MFILE) => "no file descriptor is left (raise LimitNOFILE= or `ulimit -n`)".to_owned(),
        Some(rustix::io::Errno::NFILE) => "the machine has no file descriptor left".to_owned(),
        _ => error.to_string(),
    }
}

/// Whether an error of accept(2) is about one connection and not about the socket.
fn is_the_clients(error: &io::Error) -> bool {
    use io::ErrorKind::{
        ConnectionAborted, ConnectionReset, Interrupted, InvalidInput, NotConnected, PermissionDenied, TimedOut,
    };
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionReset | Interrupted | InvalidInput | NotConnected | PermissionDenied | TimedOut
    )
}
