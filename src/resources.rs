//! Threads, runtimes and descriptors, where the system may refuse them.
//!
//! Guarantees: a refusal is an error that a user can act on ([`advice`]), and no panic. tokio's own pool for blocking work panics
//! when it gets no thread, and so does a runtime that gets no descriptors; nothing else uses these two.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use tokio::sync::oneshot;

/// The descriptors that a runtime takes at most, with the two that all runtimes of a process share.
const DESCRIPTORS_OF_RUNTIME: usize = 8;

/// A runtime on the thread that calls [`block_on`](Self::block_on). Dropping it waits for nothing.
pub struct Runtime(Option<tokio::runtime::Runtime>);

impl Runtime {
    /// Makes a runtime with all drivers.
    ///
    /// # Errors
    ///
    /// The system refuses the descriptors.
    pub fn new() -> io::Result<Self> {
        require_descriptors(DESCRIPTORS_OF_RUNTIME)?;
        tokio::runtime::Builder::new_current_thread().enable_all().build().map(|runtime| Self(Some(runtime)))
    }

    /// Runs a future to its end.
    #[expect(clippy::missing_panics_doc, reason = "it does not panic")]
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.0.as_ref().expect("only `drop` takes it").block_on(future)
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            // It may be dropped by a task of another runtime, where nothing may wait.
            runtime.shutdown_background();
        }
    }
}

/// Runs work that blocks on a thread of its own. Dropping the future does not end the work.
///
/// # Errors
///
/// The system refuses a thread, or the work panicked.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    // Paused time would pass while another thread works.
    #[cfg(test)]
    if crate::simulated::network().is_some() {
        return Ok(work());
    }
    let (give, given) = oneshot::channel();
    thread::Builder::new().name("blocking".to_owned()).spawn(move || {
        // Nobody takes it when the future was dropped.
        let _ = give.send(work());
    })?;
    given.await.map_err(|_| io::Error::other("the work panicked"))
}

/// As [`blocking`], for work on a value that comes back whether or not there was a thread. `None` when the work panicked.
pub async fn blocking_on<T, R>(value: T, work: impl FnOnce(&mut T) -> R + Send + 'static) -> Option<(T, io::Result<R>)>
where
    T: Send + 'static,
    R: Send + 'static,
{
    let slot = Arc::new(Mutex::new(Some(value)));
    let taken = Arc::clone(&slot);
    let outcome = blocking(move || {
        let mut value = take(&taken)?;
        let done = work(&mut value);
        Some((value, done))
    });
    match outcome.await {
        Ok(done) => done.map(|(value, done)| (value, Ok(done))),
        Err(error) => take(&slot).map(|value| (value, Err(error))),
    }
}

fn take<T>(slot: &Mutex<Option<T>>) -> Option<T> {
    slot.lock().unwrap_or_else(PoisonError::into_inner).take()
}

/// Checks that at least this many more descriptors can be opened.
///
/// # Errors
///
/// The system refuses one of them.
pub fn require_descriptors(count: usize) -> io::Result<()> {
    let mut pipes = Vec::with_capacity(count.div_ceil(2));
    for _ in 0..count.div_ceil(2) {
        pipes.push(io::pipe()?);
    }
    Ok(())
}

/// Checks that at least this many more threads can run at a time.
///
/// # Errors
///
/// The system refuses one of them.
pub fn require_threads(count: usize) -> io::Result<()> {
    let (mut threads, mut ends) = (Vec::with_capacity(count), Vec::with_capacity(count));
    let mut outcome = Ok(());
    for _ in 0..count {
        let (end, ended) = std::sync::mpsc::channel::<()>();
        // The thread waits until its sender is dropped.
        match thread::Builder::new().stack_size(64 * 1024).spawn(move || ended.recv().is_ok()) {
            Ok(thread) => threads.push(thread),
            Err(error) => {
                outcome = Err(error);
                break;
            }
        }
        ends.push(end);
    }
    drop(ends);
    for thread in threads {
        // It does not panic.
        let _ = thread.join();
    }
    outcome
}

/// The [`advice`] as the end of a message; empty when there is none.
#[must_use]
pub fn hint(error: &io::Error) -> String {
    advice(error).map_or_else(String::new, |advice| format!("; {advice}"))
}

/// What to raise when the system refuses a resource; `None` when the error says something else.
#[must_use]
pub fn advice(error: &io::Error) -> Option<&'static str> {
    use rustix::io::Errno;
    match Errno::from_io_error(error)? {
        Errno::MFILE => Some("raise the limit of open files: LimitNOFILE= in systemd, `ulimit -n` in a shell"),
        Errno::NFILE => Some("the whole machine has no file descriptor left: raise fs.file-max"),
        Errno::AGAIN => Some(
            "raise the limit of processes and threads: TasksMax= and LimitNPROC= in systemd, the pids limit of a container, `ulimit -u`",
        ),
        Errno::NOMEM => Some("give it more memory: MemoryMax= in systemd, the memory limit of a container"),
        Errno::FBIG => Some("raise the limit of a file's size: LimitFSIZE= in systemd, `ulimit -f`"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_that_blocks_gives_its_outcome_and_a_panic_is_an_error() {
        let runtime = Runtime::new().unwrap();
        assert_eq!(runtime.block_on(blocking(|| 7)).unwrap(), 7);
        let panicking: io::Result<()> = runtime.block_on(blocking(|| panic!("as planned")));
        assert!(panicking.is_err());
        let (value, sum) = runtime.block_on(blocking_on(vec![1, 2], |numbers| numbers.iter().sum::<i32>())).unwrap();
        assert_eq!((value, sum.unwrap()), (vec![1, 2], 3));
    }

    #[test]
    fn what_is_there_can_be_required_again_and_again() {
        for _ in 0..3 {
            require_descriptors(20).unwrap();
            require_threads(5).unwrap();
        }
    }

    #[test]
    fn each_limit_has_its_advice() {
        for (code, word) in [(24, "LimitNOFILE"), (11, "TasksMax"), (12, "memory"), (27, "LimitFSIZE"), (23, "fs.file-max")] {
            assert!(advice(&io::Error::from_raw_os_error(code)).unwrap().contains(word), "{code}");
        }
        assert_eq!(advice(&io::ErrorKind::NotFound.into()), None);
    }
}
