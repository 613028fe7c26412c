//! Accepting: one loop per worker and listen address, on descriptors of one shared socket.

use std::{io, sync::Arc, time::Duration};

use tokio::{
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tracing::{info, warn};

use super::{
    ConnectionLimits,
    bind::{Bound, ListenSocket},
    connection::{self, Answering, ClientStream},
    drain::Drain,
};
use crate::deadline::Deadlines;

/// When accepting fails for want of descriptors or memory, the first and the longest pause.
const PAUSE: (Duration, Duration) = (Duration::from_millis(5), Duration::from_secs(1));

/// One worker's end of a listening socket.
pub struct Acceptor {
    name: String,
    socket: Socket,
    permits: Arc<Semaphore>,
}

enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Acceptor {
    /// `permits`: shared by all workers on this address. Must be called on the worker's runtime.
    pub fn new(bound: Bound, permits: Arc<Semaphore>) -> io::Result<Self> {
        let socket = match bound.socket {
            ListenSocket::Tcp(listener) => Socket::Tcp(TcpListener::from_std(listener)?),
            ListenSocket::Unix(listener) => Socket::Unix(UnixListener::from_std(listener)?),
        };
        Ok(Self { name: bound.name, socket, permits })
    }

    /// Accepts and serves until the drain begins, then what is queued, then closes the socket.
    pub async fn run<A: Answering>(self, answering: Arc<A>, limits: ConnectionLimits, deadlines: Deadlines, mut drain: Drain) {
        let mut pause = PAUSE.0;
        loop {
            let accepted = tokio::select! {
                biased;
                () = drain.begun() => break,
                accepted = self.next() => accepted,
            };
            match accepted {
                Ok((stream, permit)) => {
                    if pause > PAUSE.0 {
                        info!(listener = self.name, "accepting again");
                        pause = PAUSE.0;
                    }
                    spawn(stream, permit, &answering, limits, &deadlines, &drain);
                }
                // The client gave up while it was queued; the next one waits already.
                Err(error) if is_the_clients(&error) => {}
                Err(error) => {
                    if pause == PAUSE.0 {
                        warn!(listener = self.name, error = %error.kind(), code = error.raw_os_error(), "accepting is paused");
                    }
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(PAUSE.1);
                }
            }
        }
        self.empty_queue(&answering, limits, &deadlines, &drain);
    }

    /// The permit comes first: a connection that was accepted is one that will be served.
    async fn next(&self) -> io::Result<(ClientStream, OwnedSemaphorePermit)> {
        let permit = Arc::clone(&self.permits).acquire_owned().await.map_err(|_| io::Error::other("closed"))?;
        // Workers share the socket; tokio waits on when another one was faster.
        let stream = match &self.socket {
            Socket::Tcp(listener) => ClientStream::tcp(listener.accept().await?.0),
            Socket::Unix(listener) => ClientStream::Unix(listener.accept().await?.0),
        };
        Ok((stream, permit))
    }

    /// Serves what the kernel has queued, and closes the socket.
    fn empty_queue<A: Answering>(self, answering: &Arc<A>, limits: ConnectionLimits, deadlines: &Deadlines, drain: &Drain) {
        let Ok(queue) = Queue::of(self.socket) else { return };
        while let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() {
            match queue.next() {
                Ok(stream) => spawn(stream, permit, answering, limits, deadlines, drain),
                Err(error) if is_the_clients(&error) => {}
                Err(_) => return,
            }
        }
    }
}

/// A listening socket asked directly: the runtime may not have heard yet of what is queued.
enum Queue {
    Tcp(std::net::TcpListener),
    Unix(std::os::unix::net::UnixListener),
}

impl Queue {
    fn of(socket: Socket) -> io::Result<Self> {
        Ok(match socket {
            Socket::Tcp(listener) => Self::Tcp(listener.into_std()?),
            Socket::Unix(listener) => Self::Unix(listener.into_std()?),
        })
    }

    /// The next connection; `WouldBlock` when there is none.
    fn next(&self) -> io::Result<ClientStream> {
        match self {
            Self::Tcp(listener) => {
                let stream = listener.accept()?.0;
                stream.set_nonblocking(true)?;
                Ok(ClientStream::tcp(TcpStream::from_std(stream)?))
            }
            Self::Unix(listener) => {
                let stream = listener.accept()?.0;
                stream.set_nonblocking(true)?;
                UnixStream::from_std(stream).map(ClientStream::Unix)
            }
        }
    }
}

fn spawn<A: Answering>(
    stream: ClientStream,
    permit: OwnedSemaphorePermit,
    answering: &Arc<A>,
    limits: ConnectionLimits,
    deadlines: &Deadlines,
    drain: &Drain,
) {
    let (answering, head, drain, alive) = (Arc::clone(answering), deadlines.deadline(), drain.clone(), drain.hold());
    // Its owner is the drain, which waits for `alive` to go. A panic ends this task and nothing else.
    tokio::spawn(async move {
        connection::serve(stream, answering, limits, head, drain).await;
        drop((permit, alive));
    });
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
