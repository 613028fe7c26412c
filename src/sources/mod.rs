//! Sources of secrets: reads what they give, and watches their files.
//!
//! Guarantees: a buffer that held a value is wiped; the text of an error holds nothing that a source gave, and of a file's path
//! nothing that may be the value itself. What a failed command wrote to its standard error may be a secret: it is logged at `debug`
//! only, and kept only for `check`.

mod oddities;
mod read;
mod watch;

use std::{
    io,
    path::{Path, PathBuf},
};

use thiserror::Error;

use crate::{config::source::printable, files};

pub use self::{
    oddities::oddities,
    read::{read, read_file, read_file_in_time, read_keeping_stderr},
    watch::WatchedDirectories,
};

/// What is wrong with a source.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SourceFault {
    /// The file does not exist, yet.
    #[error("{} does not exist; it is watched, and used as soon as it appears", named(.0))]
    Missing(PathBuf),
    /// The file exists and can't be read.
    #[error("{} can't be read: {why}", named(.path))]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's reason; where a right is missing, whose the file is and who we are.
        why: String,
    },
    /// The path is a directory, a pipe or a device.
    #[error("{} is not a regular file", named(.0))]
    NotAFile(PathBuf),
    /// The value is longer than any credential.
    #[error("its value is longer than 64 KiB")]
    TooLarge,
    /// The command gave nothing, or only a newline.
    #[error("its value is empty")]
    Empty,
    /// The file holds nothing, or only a newline.
    #[error("{} is empty", named(.0))]
    EmptyFile(PathBuf),
    /// The value is not UTF-8, and JSON carries text only.
    #[error("its value is not UTF-8")]
    NotText,
    /// The value can't be sent in a header.
    #[error("its value can't stand in a header ({0})")]
    NotAHeader(&'static str),
    /// The command could not be started.
    #[error("the command {program} can't be run ({})", not_run(*.kind))]
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
    #[error("{} gave no answer within 10 s", named(.0))]
    NoAnswer(PathBuf),
    /// The system refused a thread for the reading.
    #[error("{} can't be read: there is no thread for it (raise TasksMax=, LimitNPROC=, `ulimit -u` or the container's pids limit)", named(.0))]
    NoThread(PathBuf),
    /// The command took too long, or earlier readings of the files still hang.
    #[error("it gave no value within 10 s")]
    TimedOut,
}

impl SourceFault {
    /// Why the file could not be read.
    fn of_file(path: &Path, error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound => Self::Missing(path.to_owned()),
            io::ErrorKind::FileTooLarge => Self::TooLarge,
            _ => Self::Unreadable { path: path.to_owned(), why: files::why(path, error) },
        }
    }

    /// What a failed command wrote to its standard error, where that was kept.
    #[must_use]
    pub fn stderr(&self) -> Option<&str> {
        match self {
            Self::CommandFailed { stderr, .. } => stderr.as_deref().filter(|stderr| !stderr.is_empty()),
            _ => None,
        }
    }

    /// What to do about it: one table for the log, `status`, `login`, `check` and `check --online`.
    #[must_use]
    pub fn advice(&self) -> &'static str {
        match self {
            Self::Missing(path) => where_to_look(&path.to_string_lossy()),
            Self::Unreadable { .. } => {
                "give the daemon's user the right to read it (chown, chmod, setfacl), then run `careportals-sidecar login`"
            }
            Self::NotAFile(_) => "name a regular file",
            Self::TooLarge => "let it give the credential alone",
            Self::Empty => "correct the command: it has to write the value to its standard output",
            Self::EmptyFile(_) => "put the value there; files are watched, and read as soon as they change",
            Self::NotText => "save it as UTF-8, or correct the command that writes it",
            Self::NotAHeader(_) => "remove line breaks, control characters, and blanks around the value",
            Self::CommandNotRun { .. } => "correct the command: its first word is a program that the daemon's user can run",
            Self::CommandFailed { .. } => "correct the command, or run it by hand to see what it says",
            Self::NoAnswer(_) => "look at its file system: a mount whose server is gone, or a pipe without a writer",
            Self::NoThread(_) => "raise that limit, then run `careportals-sidecar login`",
            Self::TimedOut => {
                "run the command by hand: it must end within 10 s, and so must what it leaves behind with its output"
            }
        }
    }

    /// The fault's constant name in logs, `status` and readiness.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Missing(_) => "source_missing",
            Self::Unreadable { .. } | Self::NotAFile(_) | Self::NoThread(_) => "source_unreadable",
            Self::TooLarge | Self::Empty | Self::EmptyFile(_) | Self::NotText | Self::NotAHeader(_) => "source_invalid",
            Self::CommandNotRun { .. } | Self::CommandFailed { .. } => "source_command_failed",
            Self::NoAnswer(_) | Self::TimedOut => "source_timeout",
        }
    }
}

/// What to do about a path at which there is no file.
fn where_to_look(path: &str) -> &'static str {
    match path {
        _ if path.starts_with(['"', '\'']) => "leave out the quotes, which are part of the path",
        _ if path.starts_with('~') => "write the whole path: only a shell knows what `~` is",
        _ if path.ends_with(|last: char| last.is_control() || last == ' ') => {
            "leave out the blank or control character at its end"
        }
        _ if !path.starts_with('/') => "create the file, or correct its path, which begins at the working directory",
        _ => "create the file, or correct its path in the settings",
    }
}

/// A file, as a message names it. A path that begins otherwise may be the secret itself, written where its file's name belongs:
/// passwords in Base64 have a `/`, and so have URLs with a password.
fn named(path: &Path) -> String {
    let path = printable(&path.to_string_lossy());
    let begins = |beginning: &&str| path.trim_start_matches(['"', '\'']).starts_with(*beginning);
    if ["/", "./", "../", "~/"].iter().any(begins) { path } else { "the file that it names".to_owned() }
}

fn not_run(kind: io::ErrorKind) -> String {
    if kind == io::ErrorKind::NotFound { "there is no such program".to_owned() } else { kind.to_string() }
}

fn exit_status(status: Option<i32>) -> String {
    status.map_or_else(|| "ended by a signal".to_owned(), |code| format!("exit status {code}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_may_be_the_secret_itself_is_in_no_message() {
        let of = |path: &str| {
            let io = |kind: io::ErrorKind| SourceFault::of_file(Path::new(path), &kind.into());
            let path = || PathBuf::from(path);
            let own = [
                SourceFault::NotAFile(path()),
                SourceFault::EmptyFile(path()),
                SourceFault::NoAnswer(path()),
                SourceFault::NoThread(path()),
            ];
            let of_kinds = [io::ErrorKind::NotFound, io::ErrorKind::PermissionDenied, io::ErrorKind::InvalidFilename].map(io);
            own.into_iter().chain(of_kinds).map(|fault| fault.to_string()).collect::<Vec<_>>()
        };
        for secret in ["hunter2", "aB3/hunter2==", "http://u:hunter2@host/"] {
            assert!(of(secret).iter().all(|told| told.starts_with("the file that it names ") && !told.contains("hunter2")));
        }
        assert!(of("./hunter2").iter().all(|told| told.starts_with("./hunter2 ")));
    }

    #[test]
    fn a_path_that_leads_nowhere_is_named_with_what_is_wrong_with_it() {
        for (path, named, advice) in [
            ("/run/p", "/run/p", "create the file, or correct its path in the settings"),
            ("~/p", "~/p", "write the whole path"),
            ("\"/run/p\"", "\"/run/p\"", "leave out the quotes"),
            ("/run/p\r", "/run/p\\r", "leave out the blank or control character"),
            ("./p", "./p", "create the file, or correct its path, which begins at the working directory"),
            (
                "secrets/p",
                "the file that it names",
                "create the file, or correct its path, which begins at the working directory",
            ),
        ] {
            let fault = SourceFault::Missing(path.into());
            assert!(fault.to_string().starts_with(&format!("{named} does not exist")), "{fault}");
            assert!(fault.advice().starts_with(advice), "{fault}: {}", fault.advice());
        }
    }
}
