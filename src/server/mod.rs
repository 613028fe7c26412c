//! Binds listen addresses, accepts connections within the connection limit, serves HTTP/1.x and h2c, and drains.
//!
//! A [`RequestService`], which is an argument, answers the requests. Guarantees: a connection is accepted only with a permit;
//! running out of descriptors slows accepting and never ends it; an HTTP/2 connection is bounded in streams, resets, heads
//! and memory; when a drain begins, connections that the kernel has queued are still accepted, requests in flight finish, and
//! then each connection closes.

mod accept;
mod bind;
mod connection;
mod connection_limit;
mod connection_state;
mod drain;
#[cfg(target_os = "linux")]
mod owner;
mod peer;
mod stream;
mod unix_socket;

use std::time::Duration;

pub use accept::Acceptor;
pub use bind::{BindError, Bound, ListenSocket, Passed, bind_tcp, bind_unix, passed_sockets};
pub use connection::RequestService;
pub use connection_limit::ConnectionLimit;
pub use drain::Drain;
pub use peer::Peer;
pub use stream::ClientStream;
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
}
