//! Sources of secrets: reads what they give, and watches their files.
//!
//! Guarantees: a buffer that held a value is wiped; the text of an error holds nothing that a source gave. What a failed command
//! wrote to its standard error may be a secret: it is logged at `debug` only, and kept only for `check`.

mod oddities;
mod read;
mod watch;

use std::{io, path::PathBuf};

use thiserror::Error;

pub use self::{
    oddities::{Oddity, oddities},
    read::{read, read_file, read_file_in_time, read_keeping_stderr},
    watch::WatchedDirectories,
};

/// What is wrong with a source.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SourceFault {
    /// The file does not exist, yet.
    #[error("{} does not exist; it is watched, and used as soon as it appears", .0.display())]
    Missing(PathBuf),
    /// The file exists and can't be read.
    #[error("{} can't be read ({})", .path.display(), .kind)]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's error.
        kind: io::ErrorKind,
    },
    /// The path is a directory, a pipe or a device.
    #[error("{} is not a regular file", .0.display())]
    NotAFile(PathBuf),
    /// The value is longer than any credential.
    #[error("its value is longer than 64 KiB")]
    TooLarge,
    /// The value is nothing, or only a newline.
    #[error("its value is empty")]
    Empty,
    /// The value is not UTF-8, and JSON carries text only.
    #[error("its value is not UTF-8")]
    NotText,
    /// The value can't be sent in a header.
    #[error("its value can't stand in a header (line breaks, control characters or outer spaces)")]
    NotAHeader,
    /// The command could not be started.
    #[error("the command {program} can't be run ({kind})")]
    CommandNotRun {
        /// The first word of the command.
        program: String,
        /// The system's error.
        kind: io::ErrorKind,
    },
    /// The command ended with an error.
    #[error("the command {program} failed ({})", exit_status(*.status))]
    CommandFailed {
        /// The first word of the command.
        program: String,
        /// Its exit code; `None`: a signal ended it.
        status: Option<i32>,
        /// The first 512 bytes of its standard error, without control characters, for `check` alone. The program does not know
        /// what they say.
        stderr: Option<String>,
    },
    /// The file's system did not answer.
    #[error("{} gave no answer within 10 s", .0.display())]
    NoAnswer(PathBuf),
    /// The system refused a thread for the reading.
    #[error("{} can't be read: there is no thread for it (raise TasksMax=, LimitNPROC=, `ulimit -u` or the container's pids limit)", .0.display())]
    NoThread(PathBuf),
    /// The command took too long, or earlier readings of the files still hang.
    #[error("it gave no value within 10 s")]
    TimedOut,
}

impl SourceFault {
    /// What a failed command wrote to its standard error, where that was kept.
    #[must_use]
    pub fn stderr(&self) -> Option<&str> {
        match self {
            Self::CommandFailed { stderr, .. } => stderr.as_deref().filter(|stderr| !stderr.is_empty()),
            _ => None,
        }
    }

    /// The fault's constant name in logs, `status` and readiness.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Missing(_) => "source_missing",
            Self::Unreadable { .. } | Self::NotAFile(_) | Self::NoThread(_) => "source_unreadable",
            Self::TooLarge | Self::Empty | Self::NotText | Self::NotAHeader => "source_invalid",
            Self::CommandNotRun { .. } | Self::CommandFailed { .. } => "source_command_failed",
            Self::NoAnswer(_) | Self::TimedOut => "source_timeout",
        }
    }
}

fn exit_status(status: Option<i32>) -> String {
    status.map_or_else(|| "ended by a signal".to_owned(), |code| format!("exit status {code}"))
}
