//! Which file the control socket is, for the daemon and for the commands that talk to it.
//!
//! Depends on `config`. The directory that the service manager made for us comes first, then the system's, then the
//! user's; a daemon uses only what is its own.

use std::{
    fmt, fs, io,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
};

use crate::config::{RuntimeDirectories, source::ValueOrigin};

/// A socket's file, and why it is that one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlSocketPath {
    /// The file.
    pub path: PathBuf,
    /// Who says so.
    pub reason: PathReason,
}

/// Why a place is the one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathReason {
    /// A setting.
    Told(ValueOrigin),
    /// `$RUNTIME_DIRECTORY`.
    Service,
    /// The system's directory exists.
    System,
    /// `$XDG_RUNTIME_DIR`.
    User,
}

impl fmt::Display for PathReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Told(origin) => write!(f, "control_socket: {origin}"),
            Self::Service => f.write_str("the default: in $RUNTIME_DIRECTORY"),
            Self::System => write!(f, "the default, as {SYSTEM} exists"),
            Self::User => f.write_str("the default: under $XDG_RUNTIME_DIR"),
        }
    }
}

/// The default place, as a command sees it: where a daemon would be that may be somebody else's.
pub(super) fn to_ask(directories: &RuntimeDirectories) -> Option<ControlSocketPath> {
    first(directories, Path::new(SYSTEM), Path::is_dir, |_| true)
}

/// The default place for a daemon of this user.
pub(super) fn to_open(directories: &RuntimeDirectories) -> Option<ControlSocketPath> {
    first(directories, Path::new(SYSTEM), is_ours, is_ours)
}

fn first(
    directories: &RuntimeDirectories,
    system: &Path,
    fits: impl Fn(&Path) -> bool,
    fits_user: impl Fn(&Path) -> bool,
) -> Option<ControlSocketPath> {
    let service = directories.service.as_deref().map(|directory| (directory.to_owned(), PathReason::Service));
    let system = || fits(system).then(|| (system.to_owned(), PathReason::System));
    let user = || {
        let directory = directories.user.as_deref().filter(|directory| fits_user(directory))?;
        Some((directory.join(OURS), PathReason::User))
    };
    let (directory, reason) = service.or_else(system).or_else(user)?;
    Some(ControlSocketPath { path: directory.join(SOCKET), reason })
}

fn is_ours(directory: &Path) -> bool {
    fs::metadata(directory).is_ok_and(|found| found.is_dir() && found.uid() == rustix::process::geteuid().as_raw())
}

impl ControlSocketPath {
    /// Where the user keeps such things there is no directory of ours at first.
    pub(super) fn make_directory(&self) -> io::Result<()> {
        let (PathReason::User, Some(directory)) = (&self.reason, self.path.parent()) else { return Ok(()) };
        match fs::DirBuilder::new().mode(0o700).create(directory) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && is_ours(directory) => Ok(()),
            made => made,
        }
    }
}

/// The directory of the system's own daemon.
pub(super) const SYSTEM: &str = "/run/careportals-sidecar";
const OURS: &str = "careportals-sidecar";
const SOCKET: &str = "control.sock";

#[cfg(test)]
mod tests {
    use super::*;

    /// Where it is, by what is set and by what fits.
    fn place(service: Option<&str>, user: Option<&str>, fits: [bool; 2]) -> Option<(String, PathReason)> {
        let directories = RuntimeDirectories { service: service.map(Into::into), user: user.map(Into::into) };
        let place = first(&directories, Path::new("/system"), |_| fits[0], |_| fits[1])?;
        Some((place.path.to_str()?.to_owned(), place.reason))
    }

    #[test]
    fn the_systemds_directory_comes_first_then_the_systems_then_the_users() {
        let found = |path: &str, reason| Some((path.to_owned(), reason));
        for (service, user, fits, expected) in [
            (Some("/a"), Some("/u"), [true, true], found("/a/control.sock", PathReason::Service)),
            (None, Some("/u"), [true, true], found("/system/control.sock", PathReason::System)),
            (None, Some("/u"), [false, true], found("/u/careportals-sidecar/control.sock", PathReason::User)),
            (None, Some("/u"), [false, false], None),
            (None, None, [false, true], None),
        ] {
            assert_eq!(place(service, user, fits), expected);
        }
    }

    #[test]
    fn the_users_directory_is_made_for_the_user_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(OURS).join(SOCKET);
        let place = ControlSocketPath { path: path.clone(), reason: PathReason::User };
        place.make_directory().unwrap();
        place.make_directory().unwrap();
        assert_eq!(fs::metadata(path.parent().unwrap()).unwrap().mode() & 0o777, 0o700);
        fs::remove_dir(path.parent().unwrap()).unwrap();
        fs::write(path.parent().unwrap(), "in the way").unwrap();
        assert!(place.make_directory().is_err());
    }
}
