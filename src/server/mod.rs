//! The listener side: bind, accept under a permit, serve HTTP/1.1, drain.
//!
//! Depends on `config`, `clock` and `deadline`; what answers a request is an argument. Guarantees: a permit is held before
//! a connection is accepted; running out of descriptors slows accepting and never ends it; once a drain begins what the
//! kernel has queued is still accepted, what is in flight finishes, and then each connection closes.

mod accept;
mod bind;
mod connection;
mod drain;
mod passed;

use std::time::Duration;

pub use accept::Acceptor;
pub use bind::{BindError, Bound, ListenSocket, NoSuchGroup, SocketAccess, bind_tcp, bind_unix};
pub use connection::{Answering, ClientStream, Peer};
pub use drain::Drain;
pub use passed::{Passed, passed_sockets};

/// What one listen address grants its connections.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionLimits {
    /// Bytes of a request's head.
    pub head_bytes: usize,
    /// Header lines of a request.
    pub head_lines: usize,
    /// From accept to the first whole head, and from the first byte of each later one.
    pub head_timeout: Duration,
}
