//! Events of directories from the Linux kernel.

use std::{future::pending, io, os::fd::OwnedFd, path::Path, sync::Arc};

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use tokio::{net::unix::pipe::Receiver, sync::Notify};

/// Changes that may lead to other content. Reading makes none of these.
const CHANGES: WatchFlags = WatchFlags::ATTRIB
    .union(WatchFlags::CLOSE_WRITE)
    .union(WatchFlags::CREATE)
    .union(WatchFlags::DELETE)
    .union(WatchFlags::DELETE_SELF)
    .union(WatchFlags::MODIFY)
    .union(WatchFlags::MOVE)
    .union(WatchFlags::MOVE_SELF);

/// The events of some directories.
pub(super) struct InotifyEvents(OwnedFd);

impl InotifyEvents {
    /// Watches these directories and files. On other systems a thread notifies `_seen`.
    ///
    /// # Errors
    ///
    /// The kernel refuses to watch a directory.
    pub(super) fn of<'a>(
        directories: impl Iterator<Item = &'a Path>,
        files: impl Iterator<Item = &'a Path>,
        _seen: &Arc<Notify>,
    ) -> io::Result<Self> {
        let events = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        for directory in directories {
            inotify::add_watch(&events, directory, CHANGES | WatchFlags::ONLYDIR)?;
        }
        for file in files {
            // One that may not be read may not be watched; its directory tells when it may.
            let _ = inotify::add_watch(&events, file, CHANGES);
        }
        Ok(Self(events))
    }

    /// Waits for events, and takes all that are there. Where they can't be waited for, it waits for ever.
    pub(super) async fn next(&self) {
        // What is read from is no pipe, but it is waited for and read in the same way.
        let events = self.0.try_clone().and_then(Receiver::from_owned_fd_unchecked);
        let Ok(events) = events else { return pending().await };
        if events.readable().await.is_err() {
            return pending().await;
        }
        // The content does not matter: lost events are told by one, too.
        let mut buffer = [0; 4096];
        while events.try_read(&mut buffer).is_ok_and(|count| count > 0) {}
    }
}
