//! Accepts connections: one loop per worker and listen address, on descriptors of one shared socket.
//!
//! The acceptor gives each connection to the worker that has the fewest ([`ConnectionBalancer`]).
//!
//! Guarantees: a connection is served only with a permit, and until the drain each loop accepts one at most that waits for its
//! permit; a connection whose caller no API lets in takes none, and lingers to read why, within limits of number and time;
//! running out of descriptors closes a connection that needs its place least; no failure ends accepting, and one that stays is
//! logged once and costs one attempt a second; when a drain begins, the connections that the kernel has queued are accepted, and
//! each is served once a permit is free.

use std::{
    collections::VecDeque,
    io,
    net::SocketAddr,
    os::fd::{AsFd, BorrowedFd},
    sync::Arc,
};

use socket2::SockRef;
use tokio::{
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    sync::{mpsc, watch},
    task::{AbortHandle, yield_now},
    time::sleep,
};
use tracing::{info, warn};

use super::{
    Drain, DrainHolder, Peer,
    accept_failure::{AcceptFailures, Pause, is_exhaustion, why},
    balance::{Assigned, BalancerEntry, ConnectionBalancer, GivenConnection},
    bind::{Bound, ListenSocket},
    client_io::ClientStream,
    connection::{self, RequestService},
    connection_limit::{ConnectionLimit, ConnectionPermit},
    connection_state::ConnectionState,
};
use crate::deadline::Deadlines;

/// How many connections of refused callers one worker keeps at an address, so that they can read why.
const LINGERING: usize = 8;
/// How many connections without a place one worker keeps at an address: those of refused callers, and one that waits for its place.
/// Each is a descriptor.
pub const WITHOUT_PLACE: usize = LINGERING + 1;

/// One worker's descriptor of a listening socket, and the connection limit of its address.
pub struct Acceptor {
    name: String,
    socket: ListeningSocket,
    connection_limit: ConnectionLimit,
    balancer: ConnectionBalancer,
}

enum ListeningSocket {
    /// A listener with its address.
    Tcp(TcpListener, SocketAddr),
    Unix(UnixListener),
}

impl Acceptor {
    /// Registers the socket with the runtime that this is called on. All workers on the address share `connection_limit` and
    /// `balancer`.
    pub fn new(bound: Bound, connection_limit: ConnectionLimit, balancer: ConnectionBalancer) -> io::Result<Self> {
        let socket = match bound.socket {
            ListenSocket::Tcp(listener) => {
                let listener = TcpListener::from_std(listener)?;
                let address = listener.local_addr()?;
                ListeningSocket::Tcp(listener, address)
            }
            ListenSocket::Unix(listener) => ListeningSocket::Unix(UnixListener::from_std(listener)?),
        };
        connection_limit.name(&bound.name);
        Ok(Self { name: bound.name, socket, connection_limit, balancer })
    }

    /// Accepts and serves connections until the drain begins, and then those that the kernel has queued.
    pub async fn run<A: RequestService>(self, service: Arc<A>, deadlines: Deadlines, drain: Drain) {
        let mut failures = AcceptFailures::default();
        let connection_limit = self.connection_limit.clone();
        let (entry, given) = self.balancer.join(&deadlines, &drain);
        // It holds the drain until it has served all that was given.
        tokio::spawn(serve_given(given, Arc::clone(&service), drain.clone()));
        let (balancer_entry, lingering) = (Some(entry), Lingering::default());
        let mut serving = Serving { service, deadlines, drain: drain.clone(), connection_limit, balancer_entry, lingering };
        let mut next = None;
        loop {
            let accepted = tokio::select! {
                biased;
                () = drain.begun() => break,
                accepted = self.socket.accept() => accepted,
            };
            match accepted {
                Ok(stream) => {
                    if failures.accepted() {
                        info!(listener = self.name, "accepting again");
                    }
                    next = Some(stream);
                    tokio::select! {
                        biased;
                        () = serving.serve(&mut next) => {}
                        () = drain.begun() => break,
                    }
                }
                Err(error) => {
                    let Some(pause) = failures.failed(&error) else { continue };
                    tokio::select! {
                        biased;
                        () = drain.begun() => break,
                        () = self.pause(pause, &error) => {}
                    }
                }
            }
        }
        // The other workers are in their drains, too.
        serving.balancer_entry = None;
        serving.serve_queued(self.socket, VecDeque::from_iter(next)).await;
    }

    /// Waits after accepting has failed. Where descriptors or memory ran out, a connection that closes ends the pause.
    async fn pause(&self, Pause { length, is_first }: Pause, error: &io::Error) {
        if is_first {
            warn!(listener = self.name, code = error.raw_os_error(), "accepting is paused: {}", why(error));
        }
        if is_exhaustion(error) {
            self.connection_limit.descriptors().free_descriptor(length).await;
        } else {
            sleep(length).await;
        }
    }

    /// Runs outside the workers, with deadlines of its own. Returns when `closing` has turned true and the last connection has
    /// ended.
    pub async fn run_alone<A: RequestService>(self, service: Arc<A>, closing: watch::Receiver<bool>) {
        let deadlines = Deadlines::default();
        let (drain, mut gone) = Drain::new();
        let accepting = self.run(service, deadlines.clone(), drain.clone());
        let serving = async {
            tokio::join!(accepting, drain.begin_when(closing));
            gone.recv().await;
        };
        tokio::select! {
            biased;
            () = serving => {}
            () = deadlines.run() => {}
        }
    }
}

/// What an acceptor serves connections with.
struct Serving<A> {
    service: Arc<A>,
    deadlines: Deadlines,
    drain: Drain,
    connection_limit: ConnectionLimit,
    /// `None` in the drain.
    balancer_entry: Option<BalancerEntry>,
    lingering: Lingering,
}

impl<A: RequestService> Serving<A> {
    /// Begins to serve a connection once it has its permit, or gives it to another worker; or serves it at once, if its caller is
    /// only to read why no API lets it in.
    /// Cancelled, it leaves a connection that waits for its permit where it was.
    async fn serve(&mut self, connection: &mut Option<ClientStream>) {
        let Some(peer) = connection.as_ref().map(ClientStream::peer) else { return };
        if !self.service.lets_in(&peer) {
            if let Some(stream) = connection.take() {
                let connection = spawn_refused(stream, peer, &self.service, &self.deadlines, &self.drain);
                self.lingering.add(connection).await;
            }
            return;
        }
        let own = || Assigned::Own(self.drain.hold());
        let assigned = self.balancer_entry.as_ref().map_or_else(own, BalancerEntry::assign);
        let deadlines = if let Assigned::Other(recipient) = &assigned { recipient.deadlines() } else { &self.deadlines };
        let permit = self.connection_limit.permit(deadlines, peer.is_local()).await;
        let Some(stream) = connection.take() else { return };
        match assigned {
            // It fails only when the kernel knows nothing of the socket.
            Assigned::Other(recipient) => drop(stream.unregister().map(|stream| recipient.give(stream, permit))),
            Assigned::Own(alive) => spawn(stream, peer, permit, alive, &self.service, &self.drain),
        }
    }

    /// Serves those that `waiting` holds already, and what the kernel has queued. The socket is closed as soon as the queue is
    /// empty: its connections wait here for their permits, and later ones are refused. Where descriptors are few, requests need
    /// those that are left, and connections go on waiting in the kernel, later ones too.
    async fn serve_queued(mut self, socket: ListeningSocket, mut waiting: VecDeque<ClientStream>) {
        let (mut socket, mut failures) = (Some(socket), AcceptFailures::default());
        loop {
            while let Some(listening) = &socket {
                match listening.accept_queued() {
                    Ok(stream) => {
                        let few_are_left = stream.has_late_descriptor();
                        waiting.push_back(stream);
                        if few_are_left {
                            break;
                        }
                    }
                    // The rest has its turn when a connection has ended.
                    Err(error) if is_exhaustion(&error) && !waiting.is_empty() => break,
                    Err(error) if failures.failed(&error).is_none() => {}
                    Err(_) => socket = None,
                }
            }
            let mut next = waiting.pop_front();
            if next.is_none() {
                return;
            }
            self.serve(&mut next).await;
        }
    }
}

impl ListeningSocket {
    /// Accepts the next connection. Workers share the socket: another one may be faster, and then this goes on waiting.
    async fn accept(&self) -> io::Result<ClientStream> {
        Ok(match self {
            Self::Tcp(listener, address) => ClientStream::tcp(listener.accept().await?, *address),
            Self::Unix(listener) => ClientStream::Unix(listener.accept().await?.0),
        })
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

/// Serves what other workers give, until the drain begins and nobody gives any more.
async fn serve_given<A: RequestService>(mut given: mpsc::Receiver<GivenConnection>, service: Arc<A>, drain: Drain) {
    loop {
        let next = tokio::select! {
            biased;
            next = given.recv() => next,
            () = drain.begun(), if !given.is_closed() => {
                given.close();
                continue;
            }
        };
        let Some(GivenConnection { stream, permit, alive }) = next else { return };
        // It fails only when the kernel has no memory to watch the socket.
        if let Ok(stream) = stream.register() {
            let peer = stream.peer();
            spawn(stream, peer, permit, alive, &service, &drain);
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
    let state = ConnectionState::begin_refused(deadlines, service.limits(), drain.hold());
    tokio::spawn(connection::serve(stream, peer, Arc::clone(service), state, drain.clone())).abort_handle()
}

/// Serves a connection, unless its client gave up while it was queued: what it has sent would be carried out for nobody, and
/// perhaps twice, since the client may have sent it again.
fn spawn<A: RequestService>(
    stream: ClientStream,
    peer: Peer,
    permit: ConnectionPermit,
    alive: DrainHolder,
    service: &Arc<A>,
    drain: &Drain,
) {
    if stream.client_is_gone() {
        return;
    }
    let state = ConnectionState::begin(permit, service.limits(), alive);
    // The drain owns this task: it waits until the state is dropped. A panic ends the task and nothing else.
    tokio::spawn(connection::serve(stream, peer, Arc::clone(service), state, drain.clone()));
}
