//! Notices that files may have changed.
//!
//! It watches directories: a Kubernetes mount swaps a symlink, an editor renames, and a file may appear later. The file itself is
//! watched as well, since a container's runtime may mount it alone: who rewrites it does so in another directory. Directories that
//! can't be watched (some network and FUSE file systems send no events) are looked at twice a minute. An event says only that it is
//! time to look. On Linux this takes no thread.

#[cfg(target_os = "linux")]
mod inotify;
#[cfg(not(target_os = "linux"))]
mod thread;

use std::{
    collections::BTreeSet,
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Component, Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{sync::Notify, time::timeout};

#[cfg(target_os = "linux")]
use inotify::InotifyEvents as DirectoryEvents;
#[cfg(not(target_os = "linux"))]
use thread::ThreadEvents as DirectoryEvents;

/// The time between two looks when no event comes.
const POLL: Duration = Duration::from_secs(30);
/// Files count as settled after this time without an event.
const QUIET: Duration = Duration::from_millis(100);
/// A directory that is never quiet is looked at after this time.
const QUIET_WAIT_MAX: Duration = Duration::from_secs(1);
const ARM_TRIES: usize = 3;
/// The most symbolic links in one path, as Linux counts them.
const LINKS_MAX: usize = 40;

/// A watch over the directories that decide what some files give. Dropping it ends the watch.
pub struct WatchedDirectories {
    files: Vec<PathBuf>,
    event_seen: Arc<Notify>,
    events: Option<DirectoryEvents>,
    watched: BTreeSet<WatchedPath>,
    has_failed: bool,
}

/// A directory or a file by path and identity: one that was made anew must be watched anew. It may have the number of the one before,
/// but was born later, where the file system says when.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct WatchedPath {
    path: PathBuf,
    is_file: bool,
    device: u64,
    inode: u64,
    born: Option<SystemTime>,
}

impl WatchedDirectories {
    /// The directories of `files`; nothing is watched yet.
    #[must_use]
    pub fn of(files: Vec<PathBuf>) -> Self {
        Self::with_signal(files, Arc::default())
    }

    /// As [`of`](Self::of); whoever notifies `event_seen` causes another look, too.
    #[must_use]
    pub fn with_signal(files: Vec<PathBuf>, event_seen: Arc<Notify>) -> Self {
        Self { files, event_seen, events: None, watched: BTreeSet::new(), has_failed: false }
    }

    /// Watches the directories as they are now. Call it before each look: a change after that causes another look. It blocks.
    ///
    /// # Errors
    ///
    /// The directories can't be watched; the error comes once, and [`changed`](Self::changed) then ends twice a minute.
    pub fn arm(&mut self) -> io::Result<()> {
        let mut outcome = Ok(());
        // The path may change while it is read, so compare until it stays the same.
        for _ in 0..ARM_TRIES {
            let wanted: BTreeSet<WatchedPath> = self.files.iter().flat_map(|path| watched_paths(path)).collect();
            if wanted == self.watched {
                return outcome;
            }
            let (files, directories) = wanted.iter().partition::<Vec<_>, _>(|watched| watched.is_file);
            let [files, directories] = [files, directories].map(|paths| paths.into_iter().map(|watched| watched.path.as_path()));
            match DirectoryEvents::of(directories, files, &self.event_seen) {
                Ok(events) => (self.events, self.watched) = (Some(events), wanted),
                Err(error) => {
                    (self.events, self.watched) = (None, BTreeSet::new());
                    if !std::mem::replace(&mut self.has_failed, true) {
                        outcome = Err(error);
                    }
                }
            }
        }
        outcome
    }

    /// Waits until something changes and settles, or it is time to look anyway.
    pub async fn changed(&self) {
        if timeout(POLL, self.event()).await.is_err() {
            return;
        }
        let settled = async { while timeout(QUIET, self.event()).await.is_ok() {} };
        let _ = timeout(QUIET_WAIT_MAX, settled).await;
    }

    async fn event(&self) {
        match &self.events {
            Some(events) => tokio::select! {
                biased;
                () = self.event_seen.notified() => {}
                () = events.next() => {}
            },
            None => self.event_seen.notified().await,
        }
    }
}

/// Finds every directory in which a change may lead `path` to other content: the one where it ends or breaks off, and the
/// one of each symbolic link in it; and the file where it ends.
fn watched_paths(path: &Path) -> BTreeSet<WatchedPath> {
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
                    found.extend(identify(&next).filter(|found| last && found.is_file));
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

fn identify(path: &Path) -> Option<WatchedPath> {
    let metadata = path.metadata().ok()?;
    let is_file = metadata.is_file();
    let (device, inode, born) = (metadata.dev(), metadata.ino(), metadata.created().ok());
    Some(WatchedPath { path: path.to_owned(), is_file, device, inode, born })
}

#[cfg(test)]
mod tests;
