//! HTTP/2 to upstream: one connection, many exchanges.
//!
//! It stands on h2, not on hyper's client, which does not tell the server's limit on streams and takes a stream that was
//! reset without an error code for a body that came to its end.
//!
//! Files, each using only those before it: `connection` (its driver reports what the server announces), `pool` (who gets a
//! stream, who connects, who waits), `exchange` (one request and its answer on a stream).

mod connection;
mod exchange;
mod pool;

pub(super) use self::{
    connection::open,
    exchange::{Http2Body, send},
    pool::{Checkout, Http2Pool, PendingConnection, StreamPermit, Wakeup},
};
