//! Computes which directories the daemon needs while it serves, and whether settings that are read later stay within them.
//!
//! Access is granted to directories, not files, so every way of rotating a secret works: a rewrite, a rename, the swap of a
//! symlink, a file that appears later. It reads the file system to follow symlinks, and changes nothing.

use std::{
    collections::BTreeSet,
    fs,
    path::{Component, Path, PathBuf},
};

use crate::config::{Config, Listen, Source};

/// Directories that every program on glibc reads while it runs: names of hosts and groups, the libraries that look them up,
/// roots of trust, and what the kernel tells about processes (a caller's groups, our own memory).
const SYSTEM_DIRECTORIES: [&str; 8] =
    ["/etc", "/usr", "/lib", "/lib64", "/nix/store", "/var/lib/ca-certificates", "/proc", "/sys/devices/system/cpu"];

/// The resolver's settings. The file is often a symlink to one that a service writes elsewhere.
const RESOLVER_SETTINGS: &str = "/etc/resolv.conf";

/// The directories that stay accessible, each with everything below it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct AllowedDirectories {
    /// Files below these can be read.
    pub(super) read: BTreeSet<PathBuf>,
    /// Sockets can be created below these, and files of any kind deleted.
    pub(super) bind: BTreeSet<PathBuf>,
}

/// The restriction that is in force: the directories that it leaves accessible.
#[derive(Debug)]
pub struct Sandbox(pub(super) AllowedDirectories);

/// Something that new settings name and that the sandbox does not let the process use.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum OutsideSandbox {
    /// A file or a Unix socket outside the accessible directories.
    #[error("{}, which lies outside the directories that hardening left within reach,", .0.display())]
    File(PathBuf),
    /// A program that a `command` source runs.
    #[error("a `command`, which hardening keeps from being run,")]
    Command,
}

impl AllowedDirectories {
    /// The directories that `config` needs, and those that every program needs. `files` holds further files that are read
    /// again later.
    ///
    /// # Errors
    ///
    /// Landlock does not apply, for the reason in the text.
    pub fn of<'a>(config: &'a Config, files: impl IntoIterator<Item = &'a Path>) -> Result<Self, &'static str> {
        if runs_commands(config) {
            return Err("a `command` is run, which may need anything");
        }
        let mut directories = Self::default();
        for path in config.files().chain(files) {
            directories.read.extend(parent_directories(path));
        }
        for socket in sockets(config) {
            directories.bind.extend(parent_directories(socket));
        }
        for path in SYSTEM_DIRECTORIES.iter().map(Path::new) {
            directories.read.extend(path.canonicalize());
        }
        directories.read.extend(parent_directories(Path::new(RESOLVER_SETTINGS)));
        Ok(directories)
    }

    /// Also allows sockets to be created, and files to be deleted, in the directory of `socket`.
    pub fn add_socket(&mut self, socket: &Path) {
        self.bind.extend(parent_directories(socket));
    }

    /// Also allows everything below `path` to be read. It has no effect when there is no such directory.
    pub fn add_directory(&mut self, path: &Path) {
        self.read.extend(path.canonicalize());
        self.add_links_of(path);
    }

    /// Also allows the directories to be read to which links in `directory` lead: roots of trust are often links.
    pub fn add_links_of(&mut self, directory: &Path) {
        let entries = fs::read_dir(directory).into_iter().flatten().filter_map(Result::ok);
        for link in entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_symlink())) {
            let Ok(target) = fs::read_link(link.path()) else { continue };
            let target = directory.join(target);
            let climbs = target.components().any(|part| part == Component::ParentDir);
            // Most stay where they are, or lead to what is allowed anyway.
            if climbs || !self.read.iter().any(|known| target.starts_with(known)) {
                self.read.extend(parent_directories(&target));
            }
        }
    }
}

impl Sandbox {
    /// Finds what the sandbox does not let the process use of all that `config` names, and of the further `files`.
    #[must_use]
    pub fn outside<'a>(&self, config: &'a Config, files: impl IntoIterator<Item = &'a Path>) -> Vec<OutsideSandbox> {
        let outside = |path: &Path, within: &BTreeSet<PathBuf>| {
            let is_within = |parent: &PathBuf| within.iter().any(|directory| parent.starts_with(directory));
            !parent_directories(path).iter().all(is_within)
        };
        let read = config.files().chain(files).filter(|path| outside(path, &self.0.read));
        let bind = sockets(config).filter(|path| outside(path, &self.0.bind));
        // Several settings may name one file.
        let paths: BTreeSet<&Path> = read.chain(bind).collect();
        let command = runs_commands(config).then_some(OutsideSandbox::Command);
        command.into_iter().chain(paths.into_iter().map(|path| OutsideSandbox::File(path.to_owned()))).collect()
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

/// The directory of `path`, and the directory of the file that `path` leads to now if symlinks lead elsewhere. When the
/// directory does not exist yet, the closest one above it that does.
fn parent_directories(path: &Path) -> BTreeSet<PathBuf> {
    let named = path.ancestors().skip(1).find_map(|directory| {
        let directory = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
        directory.canonicalize().ok()
    });
    let target = path.canonicalize().ok().and_then(|target| target.parent().map(Path::to_owned));
    named.into_iter().chain(target).collect()
}

#[cfg(test)]
mod tests;
