//! Why the listeners that the settings ask for can't be opened, in words.

use std::{
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use crate::server::{BindError, NoSuchGroup};

/// Why the listeners that the settings ask for can't be opened.
#[derive(Debug)]
pub enum ListenerError {
    /// An address can't be used.
    Bind(BindError),
    /// The `socket_group` of the named API does not exist.
    Group(String, NoSuchGroup),
    /// Everybody may replace files in the directory of the Unix socket that the named setting has.
    OpenDirectory(String, PathBuf),
    /// Something that is no socket is where the named setting has one.
    InTheWay(String, BindError),
    /// The Unix socket of the named API is, by another path, what something else listens on.
    SameFile(String, PathBuf, String),
    /// None of the addresses exists on this machine.
    NoListener,
    /// The named API listens on passed sockets, and the service manager passed none for it.
    NotPassed(String),
    /// The named socket could be for several APIs.
    Ambiguous(String),
    /// The socket passed for the named API is reachable from other machines.
    NotLoopback(String, SocketAddr),
}

impl fmt::Display for ListenerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bind(error) | Self::InTheWay(_, error) => error.fmt(f),
            Self::Group(api, error) => write!(f, "apis.{api}.socket_group: {error}\n  hint: {}", NoSuchGroup::HINT),
            Self::OpenDirectory(key, path) => {
                write!(f, "{key}: {}\n  hint: {OPEN_DIRECTORY_HINT}", open_directory(path))
            }
            Self::SameFile(api, path, other) => write!(f, "apis.{api}.listen: {}", same_file(path, other)),
            Self::NoListener => {
                f.write_str("none of the addresses to listen on exists on this machine\n  hint: set CAREPORTALS_LISTEN")
            }
            Self::NotPassed(api) => write!(
                f,
                "apis.{api}.listen: systemd passed no socket for it\n  hint: start the .socket unit; FileDescriptorName= says which API a socket is for"
            ),
            Self::Ambiguous(socket) => write!(
                f,
                "the socket {socket:?} that systemd passed could be for several APIs\n  hint: give it an API's name with FileDescriptorName=, or each API a prefix"
            ),
            Self::NotLoopback(api, address) => write!(
                f,
                "apis.{api}.listen: systemd passed {address}, which is not a loopback address: whoever reaches it can use the token\n  hint: listen on 127.0.0.1 or a Unix socket, or set allow_non_loopback"
            ),
        }
    }
}

impl std::error::Error for ListenerError {}

/// What to do about a socket in a directory that others may write to.
pub(super) const OPEN_DIRECTORY_HINT: &str =
    "choose a directory that only the sidecar's user may write to, or take that right from the others (chmod o-w)";

/// What is wrong with the directory of the Unix socket `path`, to which others may write.
pub(super) fn open_directory(path: &Path) -> String {
    let directory = path.parent().unwrap_or(path).display();
    format!("unix:{}: everybody may write to {directory}, so another program can take the socket's place", path.display())
}

/// Says that two settings name one socket.
pub(super) fn same_file(path: &Path, other: &str) -> String {
    format!("unix:{} is also {other}: one socket can't be both", path.display())
}
