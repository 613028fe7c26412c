//! What a running daemon can be told.
//!
//! Depends on nothing of ours.

use tokio::sync::oneshot;

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
