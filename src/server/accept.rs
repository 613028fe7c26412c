//! Accepts connections: one loop per worker and listen address, on descriptors of one shared socket.
//!
//! Guarantees: a connection is accepted only with a permit; a connection whose caller no API lets in gives its permit back at
//! once, and lingers to read why, within limits of number and time; running out of descriptors closes a connection that needs
//! its place least, and never ends accepting; when a drain begins, connections that the kernel has queued are still accepted.

use std::{
    collections::VecDeque,
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
    io::Interest,
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    sync::watch,
    task::{AbortHandle, yield_now},
};
use tracing::{info, warn};

use super::{
    Drain, Peer,
    bind::{Bound, ListenSocket},
    client_io::ClientStream,
    connection::{self, RequestService},
    connection_limit::{ConnectionLimit, ConnectionPermit, EvictionGuard},
    connection_state::ConnectionState,
};
use crate::deadline::Deadlines;

/// The first and the longest pause after accepting has failed because descriptors or memory ran out (EMFILE, ENFILE, ENOMEM).
/// When a connection closes, the pause is over.
const PAUSE: (Duration, Duration) = (Duration::from_millis(5), Duration::from_secs(1));

/// How many connections of refused callers one worker keeps at an address, so that they can read why. Each is a descriptor.
pub const LINGERING: usize = 8;

/// One worker's descriptor of a listening socket, and the connection limit of its address.
pub struct Acceptor {
    name: String,
    socket: ListeningSocket,
    /// A duplicate, which is only asked whether it is readable: tokio's listeners tell that only by accepting. That it is no
    /// stream does not matter to the kernel.
    watched: UnixStream,
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
        let watched = UnixStream::from_std(socket.as_fd().try_clone_to_owned()?.into())?;
        connection_limit.name(&bound.name);
        Ok(Self { name: bound.name, socket, watched, connection_limit })
    }

    /// Accepts and serves connections until the drain begins, then those that are queued, and then closes the socket.
    pub async fn run<A: RequestService>(self, service: Arc<A>, deadlines: Deadlines, mut drain: Drain) {
        let mut pause = PAUSE.0;
        let mut lingering = Lingering::default();
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
                    let peer = stream.peer();
                    if service.lets_in(&peer) {
                        spawn(stream, peer, permit, &service, &drain);
                    } else {
                        drop(permit);
                        lingering.add(spawn_refused(stream, peer, &service, &deadlines, &drain)).await;
                    }
                }
                // The client gave up while it was queued; the next one may be there already.
                Err(error) if is_the_clients(&error) => {}
                Err(error) => {
                    if pause == PAUSE.0 {
                        warn!(listener = self.name, code = error.raw_os_error(), "accepting is paused: {}", why(&error));
                    }
                    self.connection_limit.descriptors().free_descriptor(pause).await;
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
                readable = self.watched.readable() => if readable.is_err() {
                    // The runtime shuts down.
                    std::future::pending::<()>().await;
                }
            }
            if let Some(guard) = self.connection_limit.eviction_guard() {
                // Another worker may have accepted the client meanwhile, and then no connection has to be evicted.
                if !self.client_waits() {
                    continue;
                }
                return (guard.permit(deadlines).await, Some(guard));
            }
            changed.await;
        }
    }

    /// Whether there is a connection to accept now. Where there is none, `watched` becomes readable with the next one.
    fn client_waits(&self) -> bool {
        let has_client = || if self.socket.has_client_waiting() { Ok(()) } else { Err(io::ErrorKind::WouldBlock.into()) };
        self.watched.try_io(Interest::READABLE, has_client).is_ok()
    }

    /// Accepts and serves what the kernel has queued, within the limit, and closes the socket.
    fn empty_queue<A: RequestService>(self, service: &Arc<A>, deadlines: &Deadlines, drain: &Drain) {
        while let Some(permit) = self.connection_limit.take(deadlines) {
            match self.socket.accept_queued() {
                Ok(stream) => {
                    let peer = stream.peer();
                    spawn(stream, peer, permit, service, drain);
                }
                Err(error) if is_the_clients(&error) => {}
                Err(_) => return,
            }
        }
    }
}

impl ListeningSocket {
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

/// The connections of one worker whose callers were refused, the oldest first. Some may have ended.
#[derive(Default)]
struct Lingering(VecDeque<AbortHandle>);

impl Lingering {
    /// Adds one. Where there would be too many, the oldest is closed before anything else is accepted.
    async fn add(&mut self, connection: AbortHandle) {
        self.0.retain(|other| !other.is_finished());
        self.0.push_back(connection);
        while self.0.len() > LINGERING
            && let Some(oldest) = self.0.pop_front()
        {
            oldest.abort();
            // The task ends when the runtime comes to it.
            yield_now().await;
        }
    }
}

/// Serves a connection that takes no place: what its caller asks is refused.
fn spawn_refused<A: RequestService>(
    stream: ClientStream,
    peer: Peer,
    service: &Arc<A>,
    deadlines: &Deadlines,
    drain: &Drain,
) -> AbortHandle {
    let state = ConnectionState::begin_refused(deadlines, service.limits(), drain);
    tokio::spawn(connection::serve(stream, peer, Arc::clone(service), state, drain.clone())).abort_handle()
}

fn spawn<A: RequestService>(stream: ClientStream, peer: Peer, permit: ConnectionPermit, service: &Arc<A>, drain: &Drain) {
    let state = ConnectionState::begin(permit, peer.is_local(), service.limits(), drain);
    // The drain owns this task: it waits until the state is dropped. A panic ends the task and nothing else.
    tokio::spawn(connection::serve(stream, peer, Arc::clone(service), state, drain.clone()));
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
