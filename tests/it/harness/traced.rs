//! The system calls of one worker, which ptrace counts as strace does.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use nix::sys::{
    ptrace::{self, Options},
    wait::{WaitPidFlag, WaitStatus, waitpid},
};

use crate::harness::{Sidecar, stalled::thread_named};

/// How many system calls the worker makes while `work` is done. What `work` gives back is dropped at the end, and has to wake the
/// worker by that, as a connection does: a thread that sleeps can't be left.
pub fn system_calls<T>(sidecar: &Sidecar, worker: usize, work: impl FnOnce() -> T + Send) -> u32 {
    let thread = thread_named(sidecar.pid(), &format!("worker-{worker}"));
    let done = AtomicBool::new(false);
    ptrace::seize(thread, Options::PTRACE_O_TRACESYSGOOD).unwrap();
    ptrace::interrupt(thread).unwrap();
    let stop = || waitpid(thread, Some(WaitPidFlag::__WALL)).unwrap();
    stop();
    let mut stops: u32 = 0;
    thread::scope(|scope| {
        scope.spawn(|| {
            let wakes = work();
            done.store(true, Ordering::Release);
            drop(wakes);
        });
        let mut signal = None;
        loop {
            ptrace::syscall(thread, signal.take()).unwrap();
            match stop() {
                _ if done.load(Ordering::Acquire) => break,
                WaitStatus::PtraceSyscall(_) => stops += 1,
                WaitStatus::Stopped(_, came) => signal = Some(came),
                WaitStatus::Exited(..) | WaitStatus::Signaled(..) => panic!("the daemon has ended"),
                _ => {}
            }
        }
        ptrace::detach(thread, None).unwrap();
    });
    // The kernel stops the thread at the beginning and at the end of a call.
    stops / 2
}
