//! Reads files whose file system may never answer: a pipe without a writer, a mount whose server is gone.
//!
//! Each reading has a thread of its own, since the system offers no other way to give up on one. Guarantees: the caller
//! waits [`LIMIT`] at most. A reading that is given up goes on by itself, and its outcome is dropped.

use std::{
    fs, io,
    path::Path,
    sync::mpsc::{RecvTimeoutError, sync_channel},
    thread,
    time::Duration,
};

/// The longest time that a file may take.
pub const LIMIT: Duration = Duration::from_secs(10);

/// Reads all of a file. Blocks the calling thread.
///
/// # Errors
///
/// The file can't be read; [`io::ErrorKind::TimedOut`] when it gave nothing for [`LIMIT`].
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    let path = path.to_owned();
    within(LIMIT, move || fs::read(path))
}

/// Runs `reading` on another thread and waits for its outcome. Blocks the calling thread.
///
/// # Errors
///
/// Those of `reading`; [`io::ErrorKind::TimedOut`] when it took longer than `limit`; no thread can be started.
pub fn within<T: Send + 'static>(limit: Duration, reading: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    let (give, given) = sync_channel(1);
    thread::Builder::new().name("file".to_owned()).spawn(move || {
        // Nobody takes it when the limit has passed.
        let _ = give.send(reading());
    })?;
    match given.recv_timeout(limit) {
        Ok(outcome) => outcome,
        Err(RecvTimeoutError::Timeout) => Err(io::ErrorKind::TimedOut.into()),
        Err(RecvTimeoutError::Disconnected) => Err(io::Error::other("the reading thread panicked")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_and_its_errors_are_told() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        assert_eq!(read(&path).unwrap_err().kind(), io::ErrorKind::NotFound);
        fs::write(&path, "content").unwrap();
        assert_eq!(read(&path).unwrap(), b"content");
    }

    #[test]
    fn a_reading_that_does_not_end_is_given_up() {
        let (release, held) = sync_channel::<()>(0);
        let outcome = within(Duration::from_millis(20), move || held.recv().map_err(io::Error::other));
        assert_eq!(outcome.unwrap_err().kind(), io::ErrorKind::TimedOut);
        drop(release);
    }
}
