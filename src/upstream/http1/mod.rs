//! HTTP/1.1 to upstream: connections that carry one exchange at a time, and the pool where they wait for the next one.
//!
//! Files, each using only those before it: `connection`, `pool` (idle connections), `body` (an answer's body, which gives its
//! connection back).

mod body;
mod connection;
mod pool;

pub(super) use body::Http1Body;
pub use connection::send_once;
pub(super) use connection::{AbortOnDrop, Http1Connection, builder, cause};
pub(super) use pool::Http1Pool;
