//! Finds the control socket's file, for the daemon and for the commands that talk to it.
//!
//! Without a setting, the first of these directories counts: the one that the service manager made for us, the system
//! daemon's, the user's. The daemon uses one that no service manager made only if its own user owns it.

use std::{
    fmt, fs, io,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
};

use crate::{
    config::{RuntimeDirectories, source::ValueOrigin},
    files,
    server::is_one_user,
};

/// The directory of a daemon that runs as a system service.
pub(super) const SYSTEM_DIRECTORY: &str = "/run/careportals-sidecar";

/// The name of the daemon's own directory below the user's runtime directory.
const USER_SUBDIRECTORY: &str = "careportals-sidecar";

const FILE_NAME: &str = "control.sock";

/// The control socket's file, and why it is that one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlSocketPath {
    /// The socket's file.
    pub path: PathBuf,
    /// Why the socket is there.
    pub reason: PathReason,
}

/// Why the control socket has this path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathReason {
    /// The setting `control_socket` names it.
    Configured(ValueOrigin),
    /// It is in `$RUNTIME_DIRECTORY`, which the service manager sets.
    Service,
    /// The system daemon's directory exists.
    System,
    /// It is below `$XDG_RUNTIME_DIR`.
    User,
}

impl fmt::Display for PathReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Configured(origin) => write!(f, "control_socket: {origin}"),
            Self::Service => f.write_str("the default: in $RUNTIME_DIRECTORY"),
            Self::System => write!(f, "the default, as {SYSTEM_DIRECTORY} exists"),
            Self::User => f.write_str("the default: under $XDG_RUNTIME_DIR"),
        }
    }
}

/// The default path at which a command looks for a daemon, which another user may have started. `None`: there is none of the
/// directories.
pub(super) fn for_client(directories: &RuntimeDirectories) -> Option<ControlSocketPath> {
    default_path(directories, Path::new(SYSTEM_DIRECTORY), Path::is_dir, |_| true)
}

/// The default path at which a daemon of this user opens its socket. `None`: this user owns none of the directories.
pub(super) fn for_daemon(directories: &RuntimeDirectories) -> Option<ControlSocketPath> {
    default_path(directories, Path::new(SYSTEM_DIRECTORY), is_ours, is_ours)
}

/// Why there is no default path: no directory is named, or the user's can't be used.
pub(super) fn why_none(directories: &RuntimeDirectories) -> String {
    match &directories.user {
        None => "there is no directory for it".to_owned(),
        Some(user) => match fs::metadata(user) {
            Ok(found) if found.is_dir() => {
                let (own, owner) = (rustix::process::geteuid().as_raw(), found.uid());
                let may_be_anybody = if is_one_user(owner) { "" } else { ", which in this user namespace may be anybody" };
                let user = user.display();
                format!("$XDG_RUNTIME_DIR ({user}) belongs to uid {owner}{may_be_anybody}, and this process is uid {own}")
            }
            Ok(_) => format!("$XDG_RUNTIME_DIR ({}) is not a directory", user.display()),
            Err(error) => format!("$XDG_RUNTIME_DIR ({}) can't be used: {}", user.display(), files::why(user, &error)),
        },
    }
}

fn default_path(
    directories: &RuntimeDirectories,
    system: &Path,
    accepts_system: impl Fn(&Path) -> bool,
    accepts_user: impl Fn(&Path) -> bool,
) -> Option<ControlSocketPath> {
    let service = directories.service.as_deref().map(|directory| (directory.to_owned(), PathReason::Service));
    let system = || accepts_system(system).then(|| (system.to_owned(), PathReason::System));
    let user = || {
        let directory = directories.user.as_deref().filter(|directory| accepts_user(directory))?;
        Some((directory.join(USER_SUBDIRECTORY), PathReason::User))
    };
    let (directory, reason) = service.or_else(system).or_else(user)?;
    Some(ControlSocketPath { path: directory.join(FILE_NAME), reason })
}

fn is_ours(directory: &Path) -> bool {
    let is_own = |owner| owner == rustix::process::geteuid().as_raw() && is_one_user(owner);
    fs::metadata(directory).is_ok_and(|found| found.is_dir() && is_own(found.uid()))
}

impl ControlSocketPath {
    /// Creates the daemon's own directory (mode 0700) below the user's runtime directory. The other directories exist.
    ///
    /// # Errors
    ///
    /// The directory can't be created, or something else has its name.
    pub(super) fn make_directory(&self) -> io::Result<()> {
        let (PathReason::User, Some(directory)) = (&self.reason, self.path.parent()) else { return Ok(()) };
        match fs::DirBuilder::new().mode(0o700).create(directory) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && is_ours(directory) => Ok(()),
            created => created,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The default path for these runtime directories. `accepted`: whether the system's and the user's may be used.
    fn chosen(service: Option<&str>, user: Option<&str>, accepted: [bool; 2]) -> Option<(String, PathReason)> {
        let directories = RuntimeDirectories { service: service.map(Into::into), user: user.map(Into::into) };
        let socket = default_path(&directories, Path::new("/system"), |_| accepted[0], |_| accepted[1])?;
        Some((socket.path.to_str()?.to_owned(), socket.reason))
    }

    #[test]
    fn the_service_managers_directory_comes_first_then_the_systems_then_the_users() {
        let found = |path: &str, reason| Some((path.to_owned(), reason));
        for (service, user, accepted, expected) in [
            (Some("/a"), Some("/u"), [true, true], found("/a/control.sock", PathReason::Service)),
            (None, Some("/u"), [true, true], found("/system/control.sock", PathReason::System)),
            (None, Some("/u"), [false, true], found("/u/careportals-sidecar/control.sock", PathReason::User)),
            (None, Some("/u"), [false, false], None),
            (None, None, [false, true], None),
        ] {
            assert_eq!(chosen(service, user, accepted), expected);
        }
    }

    #[test]
    fn why_there_is_no_default_path_is_said() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        fs::write(&file, "").unwrap();
        let gone = directory.path().join("gone");
        for (user, why) in [
            (None, "there is no directory for it".to_owned()),
            (Some(&file), format!("$XDG_RUNTIME_DIR ({}) is not a directory", file.display())),
            (Some(&gone), format!("$XDG_RUNTIME_DIR ({}) can't be used: there is no such file", gone.display())),
        ] {
            assert_eq!(why_none(&RuntimeDirectories { service: None, user: user.cloned() }), why);
        }
    }

    #[test]
    fn the_directory_below_the_users_is_created_for_the_user_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(USER_SUBDIRECTORY).join(FILE_NAME);
        let socket = ControlSocketPath { path: path.clone(), reason: PathReason::User };
        socket.make_directory().unwrap();
        socket.make_directory().unwrap();
        assert_eq!(fs::metadata(path.parent().unwrap()).unwrap().mode() & 0o777, 0o700);
        fs::remove_dir(path.parent().unwrap()).unwrap();
        fs::write(path.parent().unwrap(), "in the way").unwrap();
        assert!(socket.make_directory().is_err());
    }
}
