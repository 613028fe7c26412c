//! Events of directories from a library's thread, where the kernel is not Linux.

use std::{io, path::Path, sync::Arc};

use notify::{
    EventKind, RecommendedWatcher, RecursiveMode, Watcher as _,
    event::{AccessKind, AccessMode},
};
use tokio::sync::Notify;

/// The events of some directories. Dropping it ends the thread.
pub(super) struct ThreadEvents {
    _watcher: RecommendedWatcher,
}

impl ThreadEvents {
    /// Watches these directories, and notifies `seen` of each event. Only Linux mounts single files.
    ///
    /// # Errors
    ///
    /// The system refuses another watch.
    pub(super) fn of<'a>(
        directories: impl Iterator<Item = &'a Path>,
        _files: impl Iterator<Item = &'a Path>,
        seen: &Arc<Notify>,
    ) -> io::Result<Self> {
        let seen = Arc::clone(seen);
        let notify_one = move |event: notify::Result<notify::Event>| {
            if event.map_or(true, |event| may_change_something(event.kind)) {
                seen.notify_one();
            }
        };
        let mut watcher = notify::recommended_watcher(notify_one).map_err(io::Error::other)?;
        for directory in directories {
            watcher.watch(directory, RecursiveMode::NonRecursive).map_err(io::Error::other)?;
        }
        Ok(Self { _watcher: watcher })
    }

    /// Waits for ever: the thread notifies.
    pub(super) async fn next(&self) {
        std::future::pending().await
    }
}

/// Whether an event is a reason to look. Reading makes events too, above all our own.
fn may_change_something(kind: EventKind) -> bool {
    match kind {
        EventKind::Access(kind) => kind == AccessKind::Close(AccessMode::Write),
        _ => true,
    }
}
