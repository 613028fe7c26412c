//! Finds out what reads an output stream: a terminal, the journal, or something else.
//!
//! It gets environment variables as a value, and reads none itself.

use std::{io::IsTerminal, os::fd::AsFd};

use crate::config::source::Environment;

/// The reader of an output stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reader {
    /// A person at a terminal.
    Terminal {
        /// Whether the terminal shows colours and its user wants them.
        colour: bool,
    },
    /// systemd's journal, which adds the time itself and understands levels (sd-daemon(3)).
    Journal,
    /// A file, or an unknown program.
    Unknown,
}

impl Reader {
    /// Finds the reader of `stream`. It honours `NO_COLOR` (no-color.org) and `TERM=dumb`. `JOURNAL_STREAM` counts only when it
    /// names this stream, since a program that redirects its children's output passes the variable on.
    #[must_use]
    pub fn of(stream: &(impl AsFd + IsTerminal), environment: &Environment) -> Self {
        if stream.is_terminal() {
            let unwanted = environment.get("NO_COLOR").is_some_and(|value| !value.is_empty());
            let dumb = environment.get("TERM").is_some_and(|term| term == "dumb");
            return Self::Terminal { colour: !unwanted && !dumb };
        }
        let journal = environment.get("JOURNAL_STREAM").and_then(|names| names.to_str());
        let named = journal.and_then(|names| {
            let (device, inode) = names.split_once(':')?;
            Some((device.parse::<u64>().ok()?, inode.parse::<u64>().ok()?))
        });
        let Some(named) = named else { return Self::Unknown };
        match rustix::fs::fstat(stream) {
            Ok(stat) if identity(&stat) == named => Self::Journal,
            Ok(_) | Err(_) => Self::Unknown,
        }
    }
}

/// The device and the inode, whose types differ between systems.
#[allow(clippy::useless_conversion, clippy::unnecessary_cast, reason = "they are u64 on some systems only")]
fn identity(stat: &rustix::fs::Stat) -> (u64, u64) {
    (stat.st_dev as u64, stat.st_ino as u64)
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    fn reader(file: &File, variables: &[(&str, &str)]) -> Reader {
        Reader::of(file, &variables.iter().copied().collect())
    }

    #[test]
    fn only_the_stream_that_the_variable_names_is_the_journals() {
        let file = tempfile::tempfile().unwrap();
        let (device, inode) = identity(&rustix::fs::fstat(&file).unwrap());
        assert_eq!(reader(&file, &[("JOURNAL_STREAM", &format!("{device}:{inode}"))]), Reader::Journal);
        for other in [format!("{device}:{}", inode + 1), format!("{}:{inode}", device + 1), inode.to_string(), String::new()] {
            assert_eq!(reader(&file, &[("JOURNAL_STREAM", &other)]), Reader::Unknown, "{other}");
        }
        assert_eq!(reader(&file, &[("TERM", "xterm")]), Reader::Unknown);
    }

    #[test]
    fn colours_are_for_terminals_that_show_them_and_users_who_want_them() {
        let terminal = rustix::pty::openpt(rustix::pty::OpenptFlags::RDWR | rustix::pty::OpenptFlags::NOCTTY).unwrap();
        let terminal = File::from(terminal);
        assert!(terminal.is_terminal());
        for (variables, colour) in [
            (vec![("TERM", "xterm-256color")], true),
            (vec![("TERM", "xterm"), ("NO_COLOR", "")], true),
            (vec![("TERM", "xterm"), ("NO_COLOR", "1")], false),
            (vec![("TERM", "dumb")], false),
            (vec![], true),
        ] {
            assert_eq!(reader(&terminal, &variables), Reader::Terminal { colour }, "{variables:?}");
        }
    }
}
