//! Reaps processes that this process has adopted: what the program's own children leave behind comes to us, and we are not told
//! of it.
//!
//! Guarantees: each wait names one process, so none can take the status of the program; the end of a command that gives a secret
//! (`sources`) is left to the one who waits for it. Only Linux lets a process adopt.

use std::{fs, time::Duration};

use nix::unistd::getsid;
use rustix::process::{Pid, WaitOptions, waitpid};
use tokio::time::Instant;

use crate::clock;

/// How long a process that may be a command of our own stays unreaped. Who started it reaps it within milliseconds.
const GRACE: Duration = Duration::from_secs(1);

/// The adopted processes of one program.
pub(super) struct Orphans {
    /// The program itself, which `process_group` reaps.
    leader: Pid,
    /// A process that has ended and that we may have started ourselves, and when it was seen first.
    doubtful: Option<(Pid, Instant)>,
}

impl Orphans {
    pub(super) fn of(leader: Pid) -> Self {
        Self { leader, doubtful: None }
    }

    /// Reaps the adopted processes that have ended, without waiting. It does not look past the program's own end.
    pub(super) fn reap(&mut self) {
        while let Some(pid) = ended_child().filter(|pid| *pid != self.leader && self.is_adopted(*pid)) {
            // Its end was seen, so this does not wait. An error means that somebody else has reaped it.
            let _ = waitpid(Some(pid), WaitOptions::NOHANG);
            self.doubtful = None;
        }
    }

    /// When to look again, though no signal may come.
    pub(super) fn again_at(&self) -> Option<Instant> {
        self.doubtful.map(|(_, since)| since + GRACE)
    }

    /// A command of our own is the leader of its group in our session. Another process is not ours; and one that could be is ours
    /// no longer when nobody reaps it.
    fn is_adopted(&mut self, pid: Pid) -> bool {
        if !may_be_own(pid) {
            return true;
        }
        let now = clock::instant();
        match self.doubtful {
            Some((seen, since)) if seen == pid => now >= since + GRACE,
            _ => {
                self.doubtful = Some((pid, now));
                false
            }
        }
    }
}

/// A child that has ended and was not reaped; it stays so.
#[cfg(target_os = "linux")]
fn ended_child() -> Option<Pid> {
    use nix::sys::wait::{Id, WaitPidFlag, waitid};
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    let ended = waitid(Id::All, flags).ok()?.pid()?;
    Pid::from_raw(ended.as_raw())
}

#[cfg(not(target_os = "linux"))]
fn ended_child() -> Option<Pid> {
    None
}

/// Whether the process leads its group and is in our session. A process that has ended still tells.
fn may_be_own(pid: Pid) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { return true };
    // `pid (name) state parent group session …`; the name may hold anything.
    let mut fields = stat.rsplit(')').next().unwrap_or_default().split_ascii_whitespace().skip(2);
    let mut number = || fields.next().and_then(|field| field.parse::<i32>().ok());
    let (group, session) = (number(), number());
    // The session is 0 on both sides where its leader is in a PID namespace above ours.
    group == Some(pid.as_raw_pid()) && session == getsid(None).ok().map(nix::unistd::Pid::as_raw)
}
