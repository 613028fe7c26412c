//! The control socket: commands to a running daemon, by its administrators and by signals.
//!
//! It speaks HTTP over a Unix socket. It may not use `telemetry`, which is read-only. Guarantees: only the daemon's own user,
//! root and the users that `control_allow_uids` names get anything but a 403; no answer holds a secret; `login` and `reload` are
//! answered when their outcome is known.
//!
//! Files, each using only those before it: `commands` (those that wait for the daemon), `socket_path` (which file), `problem`
//! (error answers; pure), `routes` (what a request asks for; pure), `server` (the daemon's end), `client` (the commands' end).

mod client;
mod commands;
mod problem;
mod routes;
mod server;
mod socket_path;

pub use client::{ControlError, send};
pub use commands::{Command, CommandReceiver, Commands, LogOut, NotReloaded, ReloadOutcome, UrgentCommand, commands};
pub use problem::ControlProblem;
pub use routes::{ControlRequest, RulesDocument};
pub use server::{CONNECTIONS, ControlListener, OpenedControl};
pub use socket_path::{ControlSocketPath, PathReason};
