//! What a running daemon can be told, and the socket by which its administrators tell it.
//!
//! Depends on `config`, `server`, `status`, `ask` and `deadline`; never on `telemetry`, which only looks. HTTP over a Unix
//! socket. Guarantees: nobody is answered but the daemon's own user, root and those that `control_allow_uids` names; no
//! answer holds a secret; `login` and `reload` are answered when it is known what came of them.
//!
//! Files, each using only those before it: `socket_path` (which file), `problem` (what a failure is told as; pure), `routes`
//! (what a request means; pure), `server` (the daemon's end), `client` (what commands ask).

mod client;
mod problem;
mod routes;
mod server;
mod socket_path;

use tokio::sync::oneshot;

pub use client::{ControlError, ControlRequest, send};
pub use problem::ControlProblem;
pub use server::ControlListener;
pub use socket_path::{ControlSocketPath, PathReason};

/// What a running daemon can be told. Whoever wants to know what came of it leaves a way to answer; it may be gone by then.
#[derive(Debug)]
pub enum Command {
    /// Drain and end.
    Shutdown,
    /// Forget the tokens of one account, by its name, or of all; only an explicit log-in, or a restart, makes others.
    LogOut {
        /// `None`: every account.
        account: Option<String>,
        /// Told once the tokens are gone.
        done: Option<oneshot::Sender<()>>,
    },
    /// Read the settings again.
    Reload {
        /// Told what came of it.
        done: Option<oneshot::Sender<Result<(), NotReloaded>>>,
    },
}

/// Why a reload changed nothing: each reason in words, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotReloaded(pub Vec<String>);
