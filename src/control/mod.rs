//! Takes an administrator's commands over a Unix socket, and sends them.
//!
//! It uses `config`, `server`, `status`, `local_http` and `deadline`; never `telemetry`, which only shows. Guarantees: only the
//! daemon's own user, root and those that `control_allow_uids` names get an answer; no answer holds a secret; `login` and
//! `reload` are answered when their outcome is known.
//!
//! Files, each using only those before it: `commands` (commands that wait for the daemon), `socket_path` (which file),
//! `problem` (the document of a failure; pure), `routes` (the requests; pure), `server` (the daemon's end), `client` (the
//! commands' end).

mod client;
mod commands;
mod problem;
mod routes;
mod server;
mod socket_path;

pub use client::{ControlError, send};
pub use commands::{Command, CommandReceiver, Commands, LogOut, NotReloaded, ReloadOutcome, UrgentCommand, commands};
pub use problem::ControlProblem;
pub use routes::ControlRequest;
pub use server::ControlListener;
pub use socket_path::{ControlSocketPath, PathReason};
