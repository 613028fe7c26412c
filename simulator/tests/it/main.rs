//! Tests the simulator from outside: over real TLS, HTTP/1.1 and HTTP/2.

#![allow(clippy::disallowed_methods, reason = "tests measure real time")]

mod awkward;
mod client;
mod control;
mod guide;
mod login;
mod portal;
mod program;
#[cfg(feature = "import")]
mod routes;
mod wire;
