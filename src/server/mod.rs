//! The listener side: bind, accept when there is a seat, serve HTTP/1.x and h2c, drain.
//!
//! Depends on `config`, `clock` and `deadline`; what answers a request is an argument. Guarantees: a seat is held before
//! a connection is accepted; running out of descriptors slows accepting and never ends it; an HTTP/2 connection is bounded
//! in streams, resets, heads and memory; once a drain begins what the kernel has queued is still accepted, what is in
//! flight finishes, and then each connection closes.

mod accept;
mod bind;
mod connection;
mod connection_limit;
mod connection_state;
mod drain;
#[cfg(target_os = "linux")]
mod owner;
mod passed;
mod peer;
mod stream;

use std::time::Duration;

pub use accept::Acceptor;
pub use bind::{BindError, Bound, ListenSocket, NoSuchGroup, SocketAccess, bind_tcp, bind_unix};
pub use connection::RequestService;
pub use connection_limit::ConnectionLimit;
pub use drain::Drain;
pub use passed::{Passed, passed_sockets};
pub use peer::Peer;
pub use stream::ClientStream;

/// What one listen address grants its connections.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionLimits {
    /// Bytes of a request's head.
    pub head_bytes: usize,
    /// Header lines of a request.
    pub head_lines: usize,
    /// From accept to the first whole head, and from the first byte of each later one.
    pub head_timeout: Duration,
    /// How long a connection may be idle between requests.
    pub client_idle: Duration,
}
