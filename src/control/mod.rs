//! What a running daemon can be told, and the socket by which its administrators tell it.
//!
//! Depends on `config`, `server`, `status`, `ask` and `deadline`; never on `telemetry`, which only looks. HTTP over a Unix
//! socket. Guarantees: nobody is answered but the daemon's own user, root and those that `control_allow_uids` names; no
//! answer holds a secret; `login` and `reload` are answered when it is known what came of them.
//!
//! Files, each using only those before it: `commands` (what waits for the daemon), `socket_path` (which file), `problem` (what a failure is told as; pure), `routes`
//! (what a request means; pure), `server` (the daemon's end), `client` (what commands ask).

mod client;
mod commands;
mod problem;
mod routes;
mod server;
mod socket_path;

pub use client::{ControlError, ControlRequest, send};
pub use commands::{Command, CommandReceiver, Commands, LogOut, NotReloaded, ReloadOutcome, UrgentCommand, commands};
pub use problem::ControlProblem;
pub use server::ControlListener;
pub use socket_path::{ControlSocketPath, PathReason};
