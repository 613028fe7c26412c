//! Says why a listen address can't be used, and what to do about it.

use std::{
    fmt, io,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use super::{port_owner, unix_socket::BindErrorKind};
use crate::{files, resources};

/// Why a listen address can't be used.
#[derive(Debug)]
pub struct BindError {
    listen: String,
    /// The setting in which the user could choose another address.
    setting: &'static str,
    why: String,
    remedy: Option<&'static str>,
    is_answered: bool,
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { listen, setting, why, .. } = self;
        write!(f, "cannot listen on {listen}: {why}\n  hint: ")?;
        if let Some(remedy) = self.remedy {
            write!(f, "{remedy}, or ")?;
        }
        write!(f, "choose another with `{setting}` in the settings file or CAREPORTALS_{}", setting.to_uppercase())
    }
}

impl std::error::Error for BindError {}

impl BindError {
    /// For a TCP address.
    pub(super) fn tcp(address: SocketAddr, error: &io::Error) -> Self {
        const UNPRIVILEGED: u16 = 1024;
        let (why, remedy) = match error.kind() {
            io::ErrorKind::AddrInUse => {
                let by = port_owner::of(address).map_or_else(String::new, |owner| format!(" by {owner}"));
                // A socket that a socket unit has passed is held by systemd and by ourselves.
                let is_passed = [1, std::process::id()].iter().any(|pid| by.ends_with(&format!("(pid {pid})")));
                let remedy =
                    if is_passed { "write `systemd` in its place (CAREPORTALS_LISTEN=systemd)" } else { "stop that program" };
                (format!("the address is in use{by}"), Some(remedy))
            }
            io::ErrorKind::PermissionDenied if address.port() < UNPRIVILEGED => (
                "a port below 1024 needs a right that this process does not have".to_owned(),
                Some("give it CAP_NET_BIND_SERVICE (systemd: AmbientCapabilities=)"),
            ),
            io::ErrorKind::AddrNotAvailable => ("this machine has no such address".to_owned(), Some("see `ip address`")),
            _ => other(error),
        };
        Self { listen: address.to_string(), setting: "listen", why, remedy, is_answered: false }
    }

    /// For a Unix socket.
    pub(super) fn unix(path: &Path, kind: &BindErrorKind) -> Self {
        let directory = path.parent().unwrap_or(path);
        let (why, remedy) = match kind {
            BindErrorKind::Io(error) => match error.kind() {
                io::ErrorKind::NotFound if !directory.exists() => (
                    format!("there is no directory {}", first_missing(directory).display()),
                    Some("create it (systemd: RuntimeDirectory=)"),
                ),
                io::ErrorKind::PermissionDenied => (
                    format!("{} can't be written to: {}", directory.display(), files::why(directory, error)),
                    Some("give this process's user the right to write there"),
                ),
                io::ErrorKind::NotADirectory => {
                    (format!("{} is not a directory", nearest_above(path).unwrap_or(directory).display()), None)
                }
                _ => other(error),
            },
            BindErrorKind::Answered => {
                let by = port_owner::of_socket(path).map_or_else(String::new, |owner| format!(": {owner}"));
                (format!("another process answers on that socket{by}"), Some("stop it"))
            }
            BindErrorKind::NotASocket if path.is_dir() => ("a directory is there".to_owned(), Some("name a file in it")),
            BindErrorKind::NotASocket => ("a file that is not a socket is in the way".to_owned(), Some("remove it")),
        };
        let is_answered = matches!(kind, BindErrorKind::Answered);
        Self { listen: format!("unix:{}", path.display()), setting: "listen", why, remedy, is_answered }
    }

    /// What is wrong, without what to do.
    #[must_use]
    pub fn message(&self) -> String {
        format!("cannot listen on {}: {}", self.listen, self.why)
    }

    /// What to do about it, besides choosing another address.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        self.remedy
    }

    /// Whether another process answers on that Unix socket.
    #[must_use]
    pub fn is_answered(&self) -> bool {
        self.is_answered
    }

    /// Names the setting that the address came from, when it is not `listen`.
    #[must_use]
    pub fn of_setting(self, setting: &'static str) -> Self {
        Self { setting, ..self }
    }
}

fn other(error: &io::Error) -> (String, Option<&'static str>) {
    (error.to_string(), resources::advice(error))
}

/// What there is closest above a path.
pub(super) fn nearest_above(path: &Path) -> Option<&Path> {
    path.ancestors().skip(1).find(|above| above.exists())
}

/// The outermost directory on the way to `directory` that does not exist.
fn first_missing(directory: &Path) -> PathBuf {
    let missing = directory.ancestors().take_while(|at| !at.exists());
    missing.last().unwrap_or(directory).to_owned()
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use super::*;

    fn tcp(address: &str, kind: ErrorKind) -> String {
        BindError::tcp(address.parse().unwrap(), &kind.into()).to_string()
    }

    #[test]
    fn an_address_that_can_not_be_used_is_told_with_its_reason_and_a_remedy() {
        let choose = "choose another with `listen` in the settings file or CAREPORTALS_LISTEN";
        // Nobody listens at port 0, so no program is named.
        for (address, kind, why) in [
            ("127.0.0.1:0", ErrorKind::AddrInUse, "the address is in use\n  hint: stop that program, or "),
            (
                "127.0.0.1:1023",
                ErrorKind::PermissionDenied,
                "a port below 1024 needs a right that this process does not have\n  hint: give it CAP_NET_BIND_SERVICE (systemd: AmbientCapabilities=), or ",
            ),
            ("127.0.0.1:1024", ErrorKind::PermissionDenied, "permission denied\n  hint: "),
            ("192.0.2.1:1", ErrorKind::AddrNotAvailable, "this machine has no such address\n  hint: see `ip address`, or "),
        ] {
            assert_eq!(tcp(address, kind), format!("cannot listen on {address}: {why}{choose}"));
        }
        let of_setting =
            BindError::tcp("127.0.0.1:1".parse().unwrap(), &ErrorKind::AddrNotAvailable.into()).of_setting("telemetry_listen");
        assert!(of_setting.to_string().ends_with("with `telemetry_listen` in the settings file or CAREPORTALS_TELEMETRY_LISTEN"));
    }

    #[test]
    fn a_socket_that_can_not_be_used_is_told_with_its_reason_and_whether_another_process_answers_there() {
        let directory = tempfile::tempdir().unwrap();
        let (here, missing) = (directory.path().join("s"), directory.path().join("none/below/s"));
        let io = |kind: ErrorKind| BindErrorKind::Io(kind.into());
        let at = directory.path().display();
        for (path, kind, why) in [
            (
                &missing,
                io(ErrorKind::NotFound),
                format!("there is no directory {at}/none\n  hint: create it (systemd: RuntimeDirectory=), or "),
            ),
            (&here, io(ErrorKind::NotFound), "entity not found\n  hint: ".to_owned()),
            (&here, io(ErrorKind::NotADirectory), format!("{at} is not a directory\n  hint: ")),
            (&here, BindErrorKind::Answered, "another process answers on that socket\n  hint: stop it, or ".to_owned()),
            (&here, BindErrorKind::NotASocket, "a file that is not a socket is in the way\n  hint: remove it, or ".to_owned()),
        ] {
            let error = BindError::unix(path, &kind);
            let expected = format!("cannot listen on unix:{}: {why}choose another with `listen`", path.display());
            assert!(error.to_string().starts_with(&expected), "{error}");
            assert_eq!(error.is_answered(), matches!(kind, BindErrorKind::Answered));
        }
        let denied = BindError::unix(&here, &io(ErrorKind::PermissionDenied)).to_string();
        assert!(denied.starts_with(&format!("cannot listen on unix:{}: {at} can't be written to: ", here.display())), "{denied}");
        assert!(denied.contains("\n  hint: give this process's user the right to write there, or choose"), "{denied}");
    }
}
