//! What the sources of secrets give: read, and their files watched.
//!
//! Depends on `config` and `secret`. Guarantees: nothing here says what a source gave; what holds a value is wiped.

mod read;
mod watch;

use std::{io, path::PathBuf};

use thiserror::Error;

pub use self::{
    read::{read, read_file},
    watch::WatchedDirectories,
};

/// What is wrong with a source.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SourceFault {
    /// There is no such file, yet.
    #[error("{} does not exist; it is watched, and used as soon as it appears", .0.display())]
    Missing(PathBuf),
    /// There is one, but not for us.
    #[error("{} can't be read ({})", .path.display(), .kind)]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// As the system says.
        kind: io::ErrorKind,
    },
    /// A directory, a pipe, a device.
    #[error("{} is not a regular file", .0.display())]
    NotAFile(PathBuf),
    /// More than a credential can be.
    #[error("its value is longer than 64 KiB")]
    TooLarge,
    /// Nothing, or only a newline.
    #[error("its value is empty")]
    Empty,
    /// JSON carries text only.
    #[error("its value is not UTF-8")]
    NotText,
    /// It travels in a header.
    #[error("its value can't stand in a header (line breaks, control characters or outer spaces)")]
    NotAHeader,
    /// The command could not be started.
    #[error("the command {program} can't be run ({kind})")]
    CommandNotRun {
        /// Its first word.
        program: String,
        /// As the system says.
        kind: io::ErrorKind,
    },
    /// The command says that it failed.
    #[error("the command {program} failed ({}): {stderr}", exit_status(*.status))]
    CommandFailed {
        /// Its first word.
        program: String,
        /// Its exit code; `None`: ended by a signal.
        status: Option<i32>,
        /// How its standard error begins, control characters removed.
        stderr: String,
    },
    /// The source took too long.
    #[error("it gave no value within 10 s")]
    TimedOut,
}

impl SourceFault {
    /// A constant word for logs and readiness.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Missing(_) => "source_missing",
            Self::Unreadable { .. } | Self::NotAFile(_) => "source_unreadable",
            Self::TooLarge | Self::Empty | Self::NotText | Self::NotAHeader => "source_invalid",
            Self::CommandNotRun { .. } | Self::CommandFailed { .. } => "source_command_failed",
            Self::TimedOut => "source_timeout",
        }
    }
}

fn exit_status(status: Option<i32>) -> String {
    status.map_or_else(|| "ended by a signal".to_owned(), |code| format!("exit status {code}"))
}
