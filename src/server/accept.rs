//! Accepting: one loop per worker and listen address, on descriptors of one shared socket.

use std::{
    io,
    net::SocketAddr,
    os::fd::{AsFd, BorrowedFd},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::{
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    sync::watch,
};
use tracing::{info, warn};

use super::{
    bind::{Bound, ListenSocket},
    connection::{self, RequestService},
    connection_limit::{ConnectionLimit, ConnectionPermit, EvictionGuard},
    connection_state::ConnectionState,
    drain::Drain,
    stream::ClientStream,
};
use crate::deadline::Deadlines;

/// When accepting fails for want of descriptors or memory, the first and the longest pause.
const PAUSE: (Duration, Duration) = (Duration::from_millis(5), Duration::from_secs(1));

/// One worker's end of a listening socket.
pub struct Acceptor {
    name: String,
    socket: Socket,
    connection_limit: ConnectionLimit,
}

enum Socket {
    /// With its address.
    Tcp(TcpListener, SocketAddr),
    Unix(UnixListener),
}

impl Acceptor {
    /// `connection_limit`: shared by all workers on this address. Must be called on the worker's runtime.
    pub fn new(bound: Bound, connection_limit: ConnectionLimit) -> io::Result<Self> {
        let socket = match bound.socket {
            ListenSocket::Tcp(listener) => {
                let listener = TcpListener::from_std(listener)?;
                let address = listener.local_addr()?;
                Socket::Tcp(listener, address)
            }
            ListenSocket::Unix(listener) => Socket::Unix(UnixListener::from_std(listener)?),
        };
        Ok(Self { name: bound.name, socket, connection_limit })
    }

    /// Accepts and serves until the drain begins, then what is queued, then closes the socket.
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
                // The client gave up while it was queued; the next one waits already.
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

    /// The same for a listener that is no worker's: it has deadlines of its own, and ends when its connections have, after
    /// `closing` turned true.
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

    /// The permit comes first: a connection that was accepted is one that will be served.
    async fn next(&self, deadlines: &Deadlines) -> io::Result<(ClientStream, ConnectionPermit)> {
        // The eviction_guard is kept until somebody was accepted: others would take him for one more who waits.
        let (permit, _claim) = match self.connection_limit.take(deadlines) {
            Some(permit) => (permit, None),
            None => self.wait_for_seat(deadlines).await,
        };
        // Workers share the socket; tokio waits on when another one was faster.
        let stream = match &self.socket {
            Socket::Tcp(listener, address) => ClientStream::tcp(listener.accept().await?, *address),
            Socket::Unix(listener) => ClientStream::Unix(listener.accept().await?.0),
        };
        Ok((stream, permit))
    }

    /// All connection_limit are taken. Somebody has to come before anybody is asked to leave.
    async fn wait_for_seat(&self, deadlines: &Deadlines) -> (ConnectionPermit, Option<EvictionGuard>) {
        loop {
            let mut changed = pin!(self.connection_limit.changed());
            changed.as_mut().enable();
            if let Some(permit) = self.connection_limit.take(deadlines) {
                return (permit, None);
            }
            tokio::select! {
                biased;
                () = changed.as_mut() => continue,
                () = self.socket.somebody_waits() => {}
            }
            if let Some(eviction_guard) = self.connection_limit.eviction_guard() {
                // Another worker may have accepted whoever it was, meanwhile; nobody has to go for one who is gone.
                if !self.socket.has_somebody_waiting() {
                    continue;
                }
                return (eviction_guard.permit(deadlines).await, Some(eviction_guard));
            }
            changed.await;
        }
    }

    /// Serves what the kernel has queued, and closes the socket.
    fn empty_queue<A: RequestService>(self, service: &Arc<A>, deadlines: &Deadlines, drain: &Drain) {
        let Ok(queue) = Queue::of(self.socket) else { return };
        while let Some(permit) = self.connection_limit.take(deadlines) {
            match queue.next() {
                Ok(stream) => spawn(stream, permit, service, drain),
                Err(error) if is_the_clients(&error) => {}
                Err(_) => return,
            }
        }
    }
}

impl Socket {
    /// Completes when there is a connection to accept. The runtime's listeners tell that only by accepting, so this watches
    /// a descriptor of its own; that it is wrapped as a stream does not matter to the kernel, which is only asked whether
    /// it is readable.
    async fn somebody_waits(&self) {
        let watched = self.as_fd().try_clone_to_owned().and_then(|own| UnixStream::from_std(own.into()));
        let waits = match &watched {
            Ok(watched) => watched.readable().await.is_ok(),
            Err(_) => false,
        };
        if !waits {
            // Out of descriptors: then whoever leaves makes registry.
            std::future::pending::<()>().await;
        }
    }

    /// Whether there is one right now.
    fn has_somebody_waiting(&self) -> bool {
        let mut asked = [PollFd::new(self, PollFlags::IN)];
        poll(&mut asked, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(listener, _) => listener.as_fd(),
            Self::Unix(listener) => listener.as_fd(),
        }
    }
}

/// A listening socket asked directly: the runtime may not have heard yet of what is queued.
enum Queue {
    Tcp(std::net::TcpListener, SocketAddr),
    Unix(std::os::unix::net::UnixListener),
}

impl Queue {
    fn of(socket: Socket) -> io::Result<Self> {
        Ok(match socket {
            Socket::Tcp(listener, address) => Self::Tcp(listener.into_std()?, address),
            Socket::Unix(listener) => Self::Unix(listener.into_std()?),
        })
    }

    /// The next connection; `WouldBlock` when there is none.
    fn next(&self) -> io::Result<ClientStream> {
        match self {
            Self::Tcp(listener, address) => {
                let (stream, from) = listener.accept()?;
                stream.set_nonblocking(true)?;
                Ok(ClientStream::tcp((TcpStream::from_std(stream)?, from), *address))
            }
            Self::Unix(listener) => {
                let stream = listener.accept()?.0;
                stream.set_nonblocking(true)?;
                UnixStream::from_std(stream).map(ClientStream::Unix)
            }
        }
    }
}

fn spawn<A: RequestService>(stream: ClientStream, permit: ConnectionPermit, service: &Arc<A>, drain: &Drain) {
    let connection_state = ConnectionState::begin(permit, service.limits(), drain);
    // Its owner is the drain, which waits for the connection_state to end. A panic ends this task and nothing else.
    tokio::spawn(connection::serve(stream, Arc::clone(service), connection_state, drain.clone()));
}

/// In words, with what an operator can do about it.
fn why(error: &io::Error) -> String {
    let errno = rustix::io::Errno::from_io_error(error);
    match errno {
        Some(rustix::io::Errno::MFILE) => "no file descriptor is left (raise LimitNOFILE= or `ulimit -n`)".to_owned(),
        Some(rustix::io::Errno::NFILE) => "the machine has no file descriptor left".to_owned(),
        _ => error.to_string(),
    }
}

/// Errors of one connection, not of the socket (accept(2)).
fn is_the_clients(error: &io::Error) -> bool {
    use io::ErrorKind::{
        ConnectionAborted, ConnectionReset, Interrupted, InvalidInput, NotConnected, PermissionDenied, TimedOut,
    };
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionReset | Interrupted | InvalidInput | NotConnected | PermissionDenied | TimedOut
    )
}
