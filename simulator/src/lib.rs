//! A stand-in for the CarePortals API: run it in your tests instead of the real thing.
//!
//! It speaks TLS (HTTP/1.1 and HTTP/2) with a throw-away certificate authority, has log-in,
//! signed tokens, tenants kept apart by the `organization` header and the known calls with
//! invented people. Everything can be made to go wrong while it runs, and it counts what it saw.
//!
//! ```
//! use careportals_simulator::{LoginFault, Options, Simulator};
//!
//! # fn main() -> std::io::Result<()> {
//! let simulator = Simulator::start(Options::default())?;
//! // Point your program at `simulator.base_url()`, and let it trust `simulator.ca_pem()`.
//! simulator.control().fail_next_logins(2, LoginFault::Status(503));
//! assert_eq!(simulator.control().counts().logins, 0);
//! # Ok(())
//! # }
//! ```
//!
//! Inside: `server.rs` accepts and serves connections, `routes.rs` admits calls and hands them to
//! `login.rs`, `portal.rs` (the known calls) or `awkward/` (everything under `/_sim/`);
//! `control.rs` and `admin.rs` are the two ways to the knobs.

mod admin;
mod answer;
mod awkward;
mod clock;
mod control;
mod duration;
mod fault;
mod line;
mod login;
mod pattern;
mod portal;
mod record;
mod routes;
mod server;
mod simulator;
mod state;
mod sync;
mod tls;
mod tokens;

pub use control::Control;
pub use fault::{LoginFault, UnknownFault};
pub use pattern::{Pattern, pattern_byte};
pub use record::{Counts, Seen, SeenLogin};
pub use simulator::{Options, Simulator};

/// Reads a duration as the flags and the admin port take it: `500ms`, `30s`, `1h30m`, `30d`.
///
/// # Errors
///
/// A message that says what is expected.
pub fn parse_duration(written: &str) -> Result<std::time::Duration, String> {
    duration::parse(written)
}
