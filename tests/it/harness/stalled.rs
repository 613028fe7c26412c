//! A worker whose event loop does not turn: ptrace holds one thread of the daemon, as a debugger would.

use std::fs;

use nix::{
    sys::{
        ptrace,
        wait::{WaitPidFlag, waitpid},
    },
    unistd::Pid,
};

use crate::harness::Sidecar;

/// The `hardening` under which a test may hold a thread without being root.
pub const LETS_DEBUGGERS_IN: &str = "off";

/// Holds the thread until dropped, which must happen on the thread that made this.
pub struct Stalled(Pid);

impl Stalled {
    pub fn worker(sidecar: &Sidecar, number: usize) -> Self {
        let thread = thread_named(sidecar.pid(), &format!("worker-{number}"));
        ptrace::seize(thread, ptrace::Options::empty()).unwrap();
        ptrace::interrupt(thread).unwrap();
        waitpid(thread, Some(WaitPidFlag::__WALL)).unwrap();
        Self(thread)
    }
}

impl Drop for Stalled {
    fn drop(&mut self) {
        // The daemon may have been killed meanwhile.
        let _ = ptrace::detach(self.0, None);
    }
}

pub(super) fn thread_named(process: u32, name: &str) -> Pid {
    let threads = fs::read_dir(format!("/proc/{process}/task")).unwrap();
    let id = threads.filter_map(Result::ok).find_map(|thread| {
        let known = fs::read_to_string(thread.path().join("comm")).unwrap_or_default();
        (known.trim_end() == name).then(|| thread.file_name().into_string().unwrap().parse().unwrap())
    });
    Pid::from_raw(id.unwrap_or_else(|| panic!("no thread {name}")))
}
