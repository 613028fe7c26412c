//! Which directories the daemon goes on needing, and whether settings that come later fit into them.
//!
//! AllowedDirectories and never files: a secret mount swaps a symlink, an editor renames, and a file may appear later.

use std::{
    collections::BTreeSet,
    fmt,
    path::{Path, PathBuf},
};

use crate::config::{Config, Listen, Source};

/// AllowedDirectories within reach, each with all that is below it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct AllowedDirectories {
    /// To read from.
    pub(super) read: BTreeSet<PathBuf>,
    /// To make sockets in, and to remove them.
    pub(super) bind: BTreeSet<PathBuf>,
}

/// What was left within reach when the rest was closed off.
#[derive(Debug)]
pub struct Sandbox(pub(super) AllowedDirectories);

/// What new settings name, and the process can't reach any more.
#[derive(Debug, PartialEq, Eq)]
pub enum Outside {
    /// A file, or a socket's.
    File(PathBuf),
    /// A program.
    Command,
}

impl fmt::Display for Outside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => {
                write!(f, "{}, which lies outside the directories that hardening left within reach,", path.display())
            }
            Self::Command => f.write_str("a `command`, which hardening keeps from being run,"),
        }
    }
}

impl AllowedDirectories {
    /// What `config` needs, beside what every program does. `files`: further ones that are read again later.
    ///
    /// # Errors
    ///
    /// Why nothing can be closed off.
    pub fn of<'a>(config: &'a Config, files: impl IntoIterator<Item = &'a Path>) -> Result<Self, &'static str> {
        if runs_commands(config) {
            return Err("a `command` is run, which may need anything");
        }
        let mut directories = Self::default();
        for path in config.files().chain(files) {
            directories.read.extend(homes(path));
        }
        for socket in sockets(config) {
            directories.bind.extend(homes(socket));
        }
        for path in SYSTEM.iter().map(Path::new) {
            directories.read.extend(path.canonicalize());
        }
        directories.read.extend(homes(Path::new(RESOLVER)));
        Ok(directories)
    }

    /// Sockets are made and removed beside `socket` too.
    pub fn add_socket(&mut self, socket: &Path) {
        self.bind.extend(homes(socket));
    }

    /// Everything below `path` may be read, once that is a directory.
    pub fn add_directory(&mut self, path: &Path) {
        self.read.extend(path.canonicalize());
    }
}

impl Sandbox {
    /// Whether all that `config` names is within reach. `files`: further ones.
    pub fn admits<'a>(&self, config: &'a Config, files: impl IntoIterator<Item = &'a Path>) -> Result<(), Outside> {
        if runs_commands(config) {
            return Err(Outside::Command);
        }
        let outside = |path: &Path, within: &BTreeSet<PathBuf>| {
            let is_within = |home: &PathBuf| within.iter().any(|directory| home.starts_with(directory));
            !homes(path).iter().all(is_within)
        };
        let mut read = config.files().chain(files).filter(|path| outside(path, &self.0.read));
        let mut bind = sockets(config).filter(|path| outside(path, &self.0.bind));
        match read.next().or_else(|| bind.next()) {
            Some(path) => Err(Outside::File(path.to_owned())),
            None => Ok(()),
        }
    }
}

fn runs_commands(config: &Config) -> bool {
    config.sources().any(|source| matches!(source, Source::Command(_)))
}

fn sockets(config: &Config) -> impl Iterator<Item = &Path> {
    let listens = config.apis.iter().flat_map(|api| &api.listen);
    listens.filter_map(|listen| match listen {
        Listen::Unix(path) => Some(path.as_path()),
        _ => None,
    })
}

/// The directory that `path` names something in, and the one that it leads to now, if symlinks lead elsewhere. Of one that
/// does not exist yet, the closest above it that does.
fn homes(path: &Path) -> BTreeSet<PathBuf> {
    let named = path.ancestors().skip(1).find_map(|directory| {
        let directory = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
        directory.canonicalize().ok()
    });
    let target = path.canonicalize().ok().and_then(|target| target.parent().map(Path::to_owned));
    named.into_iter().chain(target).collect()
}

/// What a program on glibc reads while it runs (names of hosts and groups, libraries that know them, roots of trust), and what
/// the system tells of processes: the groups of a caller, our own memory.
const SYSTEM: [&str; 8] =
    ["/etc", "/usr", "/lib", "/lib64", "/nix/store", "/var/lib/ca-certificates", "/proc", "/sys/devices/system/cpu"];

/// Often a symlink to what a service writes.
const RESOLVER: &str = "/etc/resolv.conf";

#[cfg(test)]
mod tests;
