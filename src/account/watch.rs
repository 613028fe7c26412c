//! Notices when the files of credentials give something else than the last log-in used.
//!
//! Directories are watched, never files: a Kubernetes mount swaps a symlink, an editor renames, and a file may appear
//! later. What can't be watched (some network and FUSE file systems say nothing) is looked at twice a minute. An event
//! only makes us look: a change is reported when the content differs, and once.

use std::{
    collections::BTreeSet,
    fs,
    future::pending,
    os::unix::fs::MetadataExt,
    path::{Component, Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use notify::{
    EventKind, RecommendedWatcher, RecursiveMode, Watcher as _,
    event::{AccessKind, AccessMode},
};
use tokio::{
    sync::{Notify, mpsc},
    task::JoinHandle,
    time::{sleep, timeout},
};

use super::{
    credentials::{Reading, Seen, Sources, read_file},
    failure::Field,
};
use crate::config::{Account, Source};

/// What differs from what the last log-in used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// User name or password.
    Credentials,
    /// The tenant, whatever else.
    Organization,
}

impl Change {
    /// What other settings make of a log-in. Another log-in server is another tenant's, as far as we know: what it gives
    /// must not be mixed with what the old one gave.
    pub(super) fn between(before: &Account, after: &Account) -> Option<Self> {
        let (old, new) = (before.login.as_ref()?, after.login.as_ref()?);
        if !before.organization.is_same(&after.organization) || old.url != new.url {
            return Some(Self::Organization);
        }
        let same_credentials = old.username.is_same(&new.username) && old.password.is_same(&new.password);
        let same_way = old.refresh_url == new.refresh_url
            && old.username_field == new.username_field
            && old.password_field == new.password_field
            && old.extra == new.extra
            && old.headers == new.headers
            && old.token_pointer == new.token_pointer;
        (!(same_credentials && same_way)).then_some(Self::Credentials)
    }
}

/// The watch; it ends, with its threads, when dropped.
pub(super) struct Watch {
    changes: mpsc::Receiver<Change>,
    /// `None` when the account has no files.
    task: Option<JoinHandle<()>>,
}

impl Watch {
    pub(super) fn start(sources: &Sources) -> Self {
        let (tell, changes) = mpsc::channel(1);
        let task = Eyes::new(sources).map(|eyes| tokio::spawn(eyes.look_on(tell)));
        Self { changes, task }
    }

    /// One that tells what it is told.
    #[cfg(test)]
    pub(super) fn scripted(changes: mpsc::Receiver<Change>) -> Self {
        Self { changes, task: None }
    }

    /// The next change; dropping the future loses none.
    pub(super) async fn changed(&mut self) -> Change {
        match self.changes.recv().await {
            Some(change) => change,
            None => pending().await,
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

struct Eyes {
    account: String,
    files: Vec<(Field, PathBuf)>,
    /// What was reported of each file: a change is told once, even if no log-in reads it.
    announced: Vec<Reading>,
    seen: Arc<Seen>,
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

impl Eyes {
    fn new(sources: &Sources) -> Option<Self> {
        let files: Vec<(Field, PathBuf)> = sources
            .each()
            .filter_map(|(field, source)| match source {
                Source::File(path) => Some((field, path.clone())),
                Source::Value(_) | Source::Command(_) => None,
            })
            .collect();
        if files.is_empty() {
            return None;
        }
        Some(Self {
            account: sources.account().name.clone(),
            announced: vec![Reading::Never; files.len()],
            files,
            seen: Arc::clone(sources.seen()),
            stirred: Arc::new(Notify::new()),
            watcher: None,
            watched: BTreeSet::new(),
            complained: false,
        })
    }

    async fn look_on(mut self, changes: mpsc::Sender<Change>) {
        loop {
            // Watching first, reading then: what happens in between makes us look again.
            let looked = tokio::task::spawn_blocking(move || {
                self.arm();
                let change = self.look();
                (self, change)
            });
            // It fails only while the runtime shuts down, or in a panic, which was printed.
            let Ok((eyes, change)) = looked.await else { return };
            self = eyes;
            if let Some(change) = change {
                if changes.send(change).await.is_err() {
                    return;
                }
                // A file that never stays the same must not cause a storm of log-ins.
                sleep(AFTER_CHANGE).await;
            }
            self.wait().await;
        }
    }

    /// Until something stirs and settles, or it is time to look anyway.
    async fn wait(&self) {
        if timeout(POLL, self.stirred.notified()).await.is_err() {
            return;
        }
        let settled = async { while timeout(QUIET, self.stirred.notified()).await.is_ok() {} };
        // A directory that is never quiet is looked at from time to time.
        let _ = timeout(QUIET_WAIT_MAX, settled).await;
    }

    fn arm(&mut self) {
        // What the path leads through may change while we read it.
        for _ in 0..ARM_TRIES {
            let wanted: BTreeSet<Directory> = self.files.iter().flat_map(|(_, path)| directories(path)).collect();
            if wanted == self.watched {
                return;
            }
            let watcher = watch(&wanted, Arc::clone(&self.stirred));
            if let (Err(error), false) = (&watcher, self.complained) {
                self.complained = true;
                tracing::warn!(account = self.account, reason = ?error.kind, "credential files can't be watched: looking twice a minute instead");
            }
            self.watcher = watcher.ok();
            self.watched = if self.watcher.is_some() { wanted } else { BTreeSet::new() };
        }
    }

    fn look(&mut self) -> Option<Change> {
        let mut change = None;
        for ((field, path), announced) in self.files.iter().zip(&mut self.announced) {
            // A file that is gone or empty, in the midst of being replaced perhaps, is no reason to log in.
            let Some(value) = read_file(path).ok().filter(|value| !value.is_empty()) else { continue };
            let reading = self.seen.reading_of(Some(&value));
            let last = self.seen.last(*field);
            if last == Reading::Never || last == reading {
                *announced = Reading::Never;
            } else if *announced != reading {
                *announced = reading;
                change = match (field, change) {
                    (Field::Organization, _) | (_, Some(Change::Organization)) => Some(Change::Organization),
                    _ => Some(Change::Credentials),
                };
            }
        }
        change
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
const AFTER_CHANGE: Duration = Duration::from_secs(1);
const ARM_TRIES: usize = 3;
/// As Linux counts them in one path.
const LINKS_MAX: usize = 40;

#[cfg(test)]
mod tests;
