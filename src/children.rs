//! The processes that this process starts, and the orphans that it adopts: what other processes leave behind comes to a
//! container's first process, and to `exec`.
//!
//! Guarantees: a process that [`start`] has started is reaped by its owner alone, until its [`OwnChild`] is dropped; each wait for
//! an orphan names one process. Only on Linux are orphans reaped.

use std::{
    io,
    sync::{Mutex, MutexGuard, PoisonError},
};

use rustix::process::{Pid, WaitOptions, waitpid};

use crate::descriptors::spawn_with_own_limit;

/// The children that are not orphans. There is one list, since the kernel keeps one list of this process's children.
static CHILDREN: Mutex<Children> = Mutex::new(Children { reaps_orphans: false, starting: 0, own: Vec::new() });

struct Children {
    reaps_orphans: bool,
    /// How many starts are under way. What they start may have ended before it stands in `own`.
    starting: usize,
    /// The children that have an owner. One that was reaped stands here for a moment longer, so a number may stand here twice.
    own: Vec<Pid>,
}

/// Keeps a child for its owner. Drop it when the owner has reaped the child, or will not.
#[derive(Debug)]
pub struct OwnChild(Option<Pid>);

impl Drop for OwnChild {
    fn drop(&mut self) {
        let mut children = lock();
        if let Some(at) = children.own.iter().position(|own| Some(*own) == self.0) {
            children.own.swap_remove(at);
        }
        // It may have hidden orphans, and may have become one.
        children.reap_orphans();
    }
}

/// Starts a program by `spawn`, which starts nothing else, with the limit of descriptors that this process was started with. `id`
/// names the program.
///
/// # Errors
///
/// Those of `spawn`.
pub fn start<T>(spawn: impl FnOnce() -> io::Result<T>, id: impl Fn(&T) -> Option<u32>) -> io::Result<(T, OwnChild)> {
    // The lock is not held meanwhile: a program on a file system that hangs must not keep others from being reaped.
    let starting = Starting::begin();
    let child = spawn_with_own_limit(spawn, &id)?;
    let pid = id(&child).and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    lock().own.extend(pid);
    drop(starting);
    Ok((child, OwnChild(pid)))
}

/// From now on orphans are reaped, also those that have ended already. Call [`reap_orphans`] after each SIGCHLD.
pub fn reap_orphans_from_now_on() {
    lock().reaps_orphans = true;
    reap_orphans();
}

/// Reaps the orphans that have ended, without waiting. It does nothing before [`reap_orphans_from_now_on`].
pub fn reap_orphans() {
    lock().reap_orphans();
}

/// A start under way.
struct Starting;

impl Starting {
    fn begin() -> Self {
        lock().starting += 1;
        Self
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        let mut children = lock();
        children.starting -= 1;
        // None was reaped meanwhile.
        children.reap_orphans();
    }
}

impl Children {
    /// Whoever ends a state in which this reaps less than all calls it again.
    fn reap_orphans(&mut self) {
        if !self.reaps_orphans || self.starting > 0 {
            return;
        }
        loop {
            match ended_child() {
                Ok(Some(pid)) if !self.own.contains(&pid) => reap(pid),
                Ok(None) => return,
                // One with an owner hides others, and so does one whose end nix has no word for: by a real-time signal.
                Ok(Some(_)) | Err(_) => break,
            }
        }
        listed_children().into_iter().filter(|pid| !self.own.contains(pid)).for_each(reap);
    }
}

/// Reaps a process if it has ended.
fn reap(pid: Pid) {
    // An error means that somebody else has reaped it: the owner of its group.
    let _ = waitpid(Some(pid), WaitOptions::NOHANG);
}

/// The first child that has ended and was not reaped; it stays so.
#[cfg(target_os = "linux")]
fn ended_child() -> nix::Result<Option<Pid>> {
    use nix::sys::wait::{Id, WaitPidFlag, waitid};
    match waitid(Id::All, WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT) {
        Ok(status) => Ok(status.pid().and_then(|pid| Pid::from_raw(pid.as_raw()))),
        Err(nix::errno::Errno::ECHILD) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(not(target_os = "linux"))]
fn ended_child() -> nix::Result<Option<Pid>> {
    Ok(None)
}

/// All children, as far as the kernel lists them. The numbers may be of another PID namespace, where `/proc` is: what is no child of
/// ours can't be reaped.
fn listed_children() -> Vec<Pid> {
    let threads = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let lists = threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("children")).ok());
    lists.flat_map(|list| list.split_ascii_whitespace().filter_map(number).collect::<Vec<_>>()).collect()
}

fn number(word: &str) -> Option<Pid> {
    word.parse().ok().and_then(Pid::from_raw)
}

fn lock() -> MutexGuard<'static, Children> {
    // It holds numbers alone, so it is whole after a panic, too.
    CHILDREN.lock().unwrap_or_else(PoisonError::into_inner)
}
