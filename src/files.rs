//! Reads files whose file system may never answer: a pipe without a writer, a mount whose server is gone.
//!
//! Each reading has a thread of its own, since the system offers no other way to give up on one. Guarantees: the caller waits
//! [`LIMIT`] at most, unless the system refuses the thread. A reading that is given up goes on by itself, and its outcome is
//! dropped.

use std::{
    fs,
    io::{self, Read as _},
    os::unix::fs::MetadataExt as _,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
        mpsc::{RecvTimeoutError, sync_channel},
    },
    thread,
    time::Duration,
};

/// The most bytes that a file may have: more than all the world's roots of trust.
const SIZE_MAX: u64 = 16 << 20;

/// The longest time that a file may take.
pub const LIMIT: Duration = Duration::from_secs(10);

/// Readings of the same files that may hang at a time.
const HANGING_MAX: usize = 8;

/// Reads all of a file. Blocks the calling thread.
///
/// # Errors
///
/// The file can't be read; [`io::ErrorKind::TimedOut`] when it gave nothing for [`LIMIT`], [`io::ErrorKind::FileTooLarge`] when it
/// has more than 16 MiB.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    let path = path.to_owned();
    within(LIMIT, move || read_directly(&path))
}

/// The same without a limit of time.
///
/// # Errors
///
/// The file can't be read, or is too large.
pub fn read_directly(path: &Path) -> io::Result<Vec<u8>> {
    let file = fs::File::open(path)?;
    // Without room it would be read in many small pieces.
    let room = file.metadata()?.len().min(SIZE_MAX);
    let mut bytes = Vec::with_capacity(usize::try_from(room).unwrap_or_default());
    file.take(SIZE_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > SIZE_MAX { Err(io::ErrorKind::FileTooLarge.into()) } else { Ok(bytes) }
}

/// Says in words why the file could not be read; where the right to read it is missing, also whose it is, its mode, and which
/// user this process is.
#[must_use]
pub fn why(path: &Path, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound if has_broken_link(path) => "a link leads nowhere".to_owned(),
        io::ErrorKind::NotFound => "there is no such file".to_owned(),
        io::ErrorKind::IsADirectory => "it is a directory".to_owned(),
        io::ErrorKind::FileTooLarge => "it is too large".to_owned(),
        io::ErrorKind::TimedOut => "its file system gave no answer".to_owned(),
        io::ErrorKind::PermissionDenied => format!("permission denied{}", ownership(path).unwrap_or_default()),
        // Want of descriptors, as an example, has no kind with a name of its own.
        _ => error.to_string(),
    }
}

/// Whether the path, or a directory on the way to it, is a link that leads nowhere.
#[must_use]
pub fn has_broken_link(path: &Path) -> bool {
    path.ancestors().any(|part| part.is_symlink() && !part.exists())
}

/// Who owns the path, and its mode. Where a directory may not be searched, those of the nearest one above that can be looked at.
fn ownership(path: &Path) -> Option<String> {
    let (visible, found) = path.ancestors().find_map(|at| Some((at, fs::metadata(at).ok()?)))?;
    let at = if visible == path { String::new() } else { format!("{}: ", visible.display()) };
    let (owner, mode, us) = (found.uid(), found.mode() & 0o7777, rustix::process::geteuid().as_raw());
    let other =
        if found.is_file() && mode_lets_read(us, owner, mode) { ", so Landlock, SELinux or AppArmor forbids it" } else { "" };
    Some(format!(" ({at}owner uid {owner}, mode {mode:04o}; this process is uid {us}{other})"))
}

/// Whether the mode of a file alone would let a user read it; its group is not looked at.
fn mode_lets_read(us: u32, owner: u32, mode: u32) -> bool {
    us == 0 || us == owner && mode & 0o400 != 0 || us != owner && mode & 0o004 != 0
}

/// Counts readings that have been given up and still hang, so that they hold a bounded number of threads.
#[derive(Clone, Default)]
pub struct BoundedReads(Arc<AtomicUsize>);

impl BoundedReads {
    /// Runs `reading` as [`within`] does, unless too many earlier ones still hang.
    ///
    /// # Errors
    ///
    /// Those of [`within`]; [`io::ErrorKind::TimedOut`], too, while too many hang.
    pub fn within<T: Send + 'static>(
        &self,
        limit: Duration,
        reading: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let under_way = Arc::clone(&self.0);
        if under_way.fetch_add(1, Ordering::Relaxed) >= HANGING_MAX {
            under_way.fetch_sub(1, Ordering::Relaxed);
            return Err(io::ErrorKind::TimedOut.into());
        }
        within(limit, move || {
            let outcome = reading();
            under_way.fetch_sub(1, Ordering::Relaxed);
            outcome
        })
    }
}

/// Runs `reading` on another thread and waits for its outcome. Blocks the calling thread.
///
/// # Errors
///
/// Those of `reading`; [`io::ErrorKind::TimedOut`] when it took longer than `limit`.
pub fn within<T: Send + 'static>(limit: Duration, reading: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    let (give, given) = sync_channel(1);
    let slot = Arc::new(Mutex::new(Some(reading)));
    let taken = Arc::clone(&slot);
    let spawned = thread::Builder::new().name("file".to_owned()).spawn(move || {
        if let Some(reading) = take(&taken) {
            // Nobody takes it when the limit has passed.
            let _ = give.send(reading());
        }
    });
    if let Err(error) = spawned {
        // Where the system refuses a thread, the file is read here, without a limit.
        return take(&slot).map_or(Err(error), |reading| reading());
    }
    match given.recv_timeout(limit) {
        Ok(outcome) => outcome,
        Err(RecvTimeoutError::Timeout) => Err(io::ErrorKind::TimedOut.into()),
        Err(RecvTimeoutError::Disconnected) => Err(io::Error::other("the reading thread panicked")),
    }
}

fn take<T>(slot: &Mutex<Option<T>>) -> Option<T> {
    slot.lock().unwrap_or_else(PoisonError::into_inner).take()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_file_is_read_and_its_errors_are_told() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        assert_eq!(read(&path).unwrap_err().kind(), io::ErrorKind::NotFound);
        fs::write(&path, "content").unwrap();
        assert_eq!(read(&path).unwrap(), b"content");
        assert_eq!(read(Path::new("/dev/zero")).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
    }

    #[test]
    fn each_error_is_told_in_words() {
        let path = Path::new("/nonexistent/file");
        for (kind, words) in [
            (io::ErrorKind::NotFound, "there is no such file"),
            (io::ErrorKind::IsADirectory, "it is a directory"),
            (io::ErrorKind::FileTooLarge, "it is too large"),
            (io::ErrorKind::TimedOut, "its file system gave no answer"),
        ] {
            assert_eq!(why(path, &kind.into()), words);
        }
        assert!(why(path, &io::Error::from_raw_os_error(24)).starts_with("Too many open files"));
    }

    #[test]
    fn a_file_that_may_not_be_read_is_told_with_its_owner_its_mode_and_what_else_may_forbid_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        fs::write(&path, "content").unwrap();
        let set = |path: &Path, mode: u32| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        set(&path, 0o640);
        set(directory.path(), 0o700);
        let us = rustix::process::geteuid().as_raw();
        let denied = |path: &Path| why(path, &io::ErrorKind::PermissionDenied.into());
        let told = format!("owner uid {us}, mode 0640; this process is uid {us}");
        assert_eq!(denied(&path), format!("permission denied ({told}, so Landlock, SELinux or AppArmor forbids it)"));
        let told =
            format!("permission denied ({}: owner uid {us}, mode 0700; this process is uid {us})", directory.path().display());
        assert_eq!(denied(&directory.path().join("below/it")), told, "a directory that can be searched is no reason");
        assert!(denied(directory.path()).starts_with("permission denied (owner uid "));
    }

    #[test]
    fn a_mode_lets_root_the_owner_or_others_read() {
        for (us, owner, mode, expected) in [
            (0, 7, 0o000, true),
            (7, 7, 0o400, true),
            (7, 7, 0o377, false),
            (8, 7, 0o004, true),
            (8, 7, 0o773, false),
            (7, 7, 0o004, false),
            (8, 7, 0o400, false),
        ] {
            assert_eq!(mode_lets_read(us, owner, mode), expected, "{us} {owner} {mode:o}");
        }
    }

    #[test]
    fn a_reading_that_does_not_end_is_given_up() {
        let (release, held) = sync_channel::<()>(0);
        let outcome = within(Duration::from_millis(20), move || held.recv().map_err(io::Error::other));
        assert_eq!(outcome.unwrap_err().kind(), io::ErrorKind::TimedOut);
        drop(release);
    }

    #[test]
    fn readings_that_hang_hold_no_further_threads() {
        let readings = BoundedReads::default();
        let (release, held) = (Arc::new(std::sync::Barrier::new(HANGING_MAX + 1)), Duration::from_millis(1));
        for _ in 0..HANGING_MAX {
            let release = Arc::clone(&release);
            let outcome = readings.within(held, move || Ok(release.wait().is_leader()));
            assert_eq!(outcome.unwrap_err().kind(), io::ErrorKind::TimedOut);
        }
        let refused = readings.within(LIMIT, || -> io::Result<()> { unreachable!("it would be one too many") });
        assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::TimedOut);
        release.wait();
        while readings.0.load(Ordering::Relaxed) > 0 {
            std::thread::yield_now();
        }
        readings.within(LIMIT, || Ok(())).unwrap();
    }
}
