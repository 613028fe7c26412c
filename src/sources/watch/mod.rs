//! Notices that files may give something else.
//!
//! Directories are watched, never files: a Kubernetes mount swaps a symlink, an editor renames, and a file may appear
//! later. What can't be watched (some network and FUSE file systems say nothing) is looked at twice a minute. An event
//! only says that it is time to look.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::MetadataExt,
    path::{Component, Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use notify::{
    ErrorKind, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _,
    event::{AccessKind, AccessMode},
};
use tokio::{sync::Notify, time::timeout};

/// The directories that decide what some files give; the watch ends, with its thread, when dropped.
pub struct WatchedDirectories {
    files: Vec<PathBuf>,
    stirred: Arc<Notify>,
    watcher: Option<RecommendedWatcher>,
    watched: BTreeSet<Directory>,
    complained: bool,
}

/// By identity too: a directory that was made anew must be watched anew.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Directory {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl WatchedDirectories {
    /// Those of `files`; nothing is watched yet.
    #[must_use]
    pub fn of(files: Vec<PathBuf>) -> Self {
        Self { files, stirred: Arc::new(Notify::new()), watcher: None, watched: BTreeSet::new(), complained: false }
    }

    /// Watches what decides now. Called before each look: what happens after that makes for another one. Blocks.
    ///
    /// # Errors
    ///
    /// Once, when they can't be watched; [`changed`](Self::changed) then ends twice a minute.
    pub fn arm(&mut self) -> Result<(), ErrorKind> {
        let mut complaint = Ok(());
        // What the path leads through may change while we read it.
        for _ in 0..ARM_TRIES {
            let wanted: BTreeSet<Directory> = self.files.iter().flat_map(|path| directories(path)).collect();
            if wanted == self.watched {
                return complaint;
            }
            match watch(&wanted, Arc::clone(&self.stirred)) {
                Ok(watcher) => (self.watcher, self.watched) = (Some(watcher), wanted),
                Err(error) => {
                    (self.watcher, self.watched) = (None, BTreeSet::new());
                    if !std::mem::replace(&mut self.complained, true) {
                        complaint = Err(error.kind);
                    }
                }
            }
        }
        complaint
    }

    /// Until something stirs and settles, or it is time to look anyway.
    pub async fn changed(&self) {
        if timeout(POLL, self.stirred.notified()).await.is_err() {
            return;
        }
        let settled = async { while timeout(QUIET, self.stirred.notified()).await.is_ok() {} };
        // A directory that is never quiet is looked at from time to time.
        let _ = timeout(QUIET_WAIT_MAX, settled).await;
    }
}

fn watch(directories: &BTreeSet<Directory>, stirred: Arc<Notify>) -> notify::Result<RecommendedWatcher> {
    let mut watcher = notify::recommended_watcher(move |event| {
        if may_change_something(&event) {
            stirred.notify_one();
        }
    })?;
    for directory in directories {
        watcher.watch(&directory.path, RecursiveMode::NonRecursive)?;
    }
    Ok(watcher)
}

/// Reading makes events too, our own above all; an error may stand for events that were lost.
fn may_change_something(event: &notify::Result<notify::Event>) -> bool {
    match event {
        Ok(event) => match event.kind {
            EventKind::Access(kind) => kind == AccessKind::Close(AccessMode::Write),
            _ => true,
        },
        Err(_) => true,
    }
}

/// Every directory in which a change may lead `path` to other content: where it ends, where each symbolic link on the
/// way lies, and where the way breaks off.
fn directories(path: &Path) -> BTreeSet<Directory> {
    let mut found = BTreeSet::new();
    let mut ahead: Vec<PathBuf> = vec![path.to_owned()];
    let mut here = PathBuf::from(if path.is_absolute() { "/" } else { "." });
    let mut links = 0;
    while let Some(part) = ahead.pop() {
        let mut components = part.components();
        let Some(component) = components.next() else { continue };
        let rest = components.as_path();
        if !rest.as_os_str().is_empty() {
            ahead.push(rest.to_owned());
        }
        match component {
            Component::Prefix(_) | Component::CurDir => {}
            Component::RootDir => here = PathBuf::from("/"),
            Component::ParentDir => here.push(".."),
            Component::Normal(name) => {
                let next = here.join(name);
                let last = ahead.is_empty();
                let link = fs::read_link(&next).ok().filter(|_| links < LINKS_MAX);
                if let Some(target) = link {
                    links += 1;
                    found.extend(identify(&here));
                    ahead.push(target);
                } else if last || !next.is_dir() {
                    break;
                } else {
                    here = next;
                }
            }
        }
    }
    found.extend(identify(&here));
    found
}

fn identify(directory: &Path) -> Option<Directory> {
    let metadata = directory.metadata().ok()?;
    Some(Directory { path: directory.to_owned(), device: metadata.dev(), inode: metadata.ino() })
}

const POLL: Duration = Duration::from_secs(30);
const QUIET: Duration = Duration::from_millis(100);
const QUIET_WAIT_MAX: Duration = Duration::from_secs(1);
const ARM_TRIES: usize = 3;
/// As Linux counts them in one path.
const LINKS_MAX: usize = 40;

#[cfg(test)]
mod tests;
