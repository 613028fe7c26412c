//! Who reads what is written: what a stream is, and what its reader can show.
//!
//! Depends on `config`'s [`Environment`]. Reads no variable itself.

use std::{io::IsTerminal, os::fd::AsFd};

use crate::config::source::Environment;

/// Who is at the other end of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reader {
    /// People.
    Terminal {
        /// The terminal shows colours, and its user wants them.
        colour: bool,
    },
    /// systemd's journal, which notes the time itself and understands levels (sd-daemon(3)).
    Journal,
    /// A file, or a program that we know nothing of.
    Unknown,
}

impl Reader {
    /// Of `stream`. `NO_COLOR` (no-color.org) and `TERM=dumb` are honoured; `JOURNAL_STREAM` is believed only when it
    /// names this very stream, since programs that redirect their children's output pass the variable on.
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

/// Device and inode; their types differ between systems.
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
    fn the_journal_is_whom_the_variable_names_and_nobody_else() {
        let file = tempfile::tempfile().unwrap();
        let (device, inode) = identity(&rustix::fs::fstat(&file).unwrap());
        assert_eq!(reader(&file, &[("JOURNAL_STREAM", &format!("{device}:{inode}"))]), Reader::Journal);
        for other in [format!("{device}:{}", inode + 1), format!("{}:{inode}", device + 1), inode.to_string(), String::new()] {
            assert_eq!(reader(&file, &[("JOURNAL_STREAM", &other)]), Reader::Unknown, "{other}");
        }
        assert_eq!(reader(&file, &[("TERM", "xterm")]), Reader::Unknown);
    }

    #[test]
    fn colours_are_for_terminals_that_show_them_and_people_who_want_them() {
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
