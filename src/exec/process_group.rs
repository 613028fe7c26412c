//! Starts a program in a process group of its own, signals the group, and reaps its processes.
//!
//! Guarantees: once the group's leader has been reaped and the group was seen empty, the group gets no more signals, since
//! another group may have its number by then. A group that is dropped before that is killed.

use std::{io, os::unix::process::CommandExt as _, process::Command};

use rustix::{
    io::retry_on_intr,
    process::{Pid, Signal, WaitOptions, WaitStatus, kill_process, kill_process_group, waitpgid, waitpid},
};

use crate::{
    children::{self, OwnChild},
    process::SignalMask,
};

/// A started program (the group's leader), and every process that it started and that did not leave its group.
pub(super) struct ProcessGroup {
    leader: Pid,
    /// Keeps the leader's end for [`reap`](Self::reap).
    own: Option<OwnChild>,
    /// How the leader ended; `None` until it has been reaped.
    exit: Option<ProgramExit>,
    is_empty: bool,
}

/// What the leader did since the last call of [`ProcessGroup::reap`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LeaderEvent {
    /// This signal stopped it.
    Stopped(Signal),
    /// It ended.
    Ended(ProgramExit),
}

/// How a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ProgramExit {
    /// It exited with this code.
    Code(u8),
    /// A signal with this number killed it.
    Killed(i32),
}

impl ProgramExit {
    /// The exit code that a shell reports for it.
    pub(super) fn exit_code(self) -> u8 {
        match self {
            Self::Code(code) => code,
            Self::Killed(signal) => exit_code_of_signal(signal),
        }
    }
}

/// The exit code that a shell reports for a program that `signal` killed: 128 + its number.
pub(super) fn exit_code_of_signal(signal: i32) -> u8 {
    u8::try_from(128 + signal).unwrap_or(u8::MAX)
}

impl ProcessGroup {
    /// Starts `command` as the leader of a new group, with the signals of `mask` blocked.
    ///
    /// # Errors
    ///
    /// The program is not there, or the system can't start it.
    pub(super) fn start(command: &mut Command, mask: &SignalMask) -> io::Result<Self> {
        let start = || mask.within(|| command.process_group(0).spawn());
        let (child, own) = children::start(start, |child| Some(child.id()))?;
        // Dropping a `Child` neither ends nor reaps the process; this type does both.
        let leader = i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self { leader, own: Some(own), exit: None, is_empty: false })
    }

    /// The group's number, which is its leader's process id.
    pub(super) fn id(&self) -> Pid {
        self.leader
    }

    /// Sends a signal to every process of the group.
    pub(super) fn signal(&self, signal: Signal) {
        if !self.is_empty {
            // It fails when every process has ended or belongs to another user by now.
            let _ = kill_process_group(self.leader, signal);
        }
    }

    /// Sends a signal to the leader alone.
    pub(super) fn signal_leader(&self, signal: Signal) {
        if self.exit.is_none() {
            // The leader has not been reaped, so its process id is still its own.
            let _ = kill_process(self.leader, signal);
        }
    }

    /// Sends SIGTERM to every process, and SIGCONT so that stopped ones get it.
    pub(super) fn terminate(&self) {
        self.signal(Signal::TERM);
        self.signal(Signal::CONT);
    }

    /// Reaps the processes that have ended, without waiting, and returns what the leader did.
    pub(super) fn reap(&mut self) -> Option<LeaderEvent> {
        let mut event = None;
        let options = WaitOptions::NOHANG | WaitOptions::UNTRACED;
        while let Some((pid, status)) = changed(|| waitpgid(self.leader, options)) {
            if pid == self.leader {
                event = self.record(status).or(event);
            }
        }
        // The leader may have moved to another group.
        while self.exit.is_none()
            && let Some((_, status)) = changed(|| waitpid(Some(self.leader), options))
        {
            event = self.record(status).or(event);
        }
        event
    }

    fn record(&mut self, status: WaitStatus) -> Option<LeaderEvent> {
        let stopped = status.stopping_signal().and_then(Signal::from_named_raw).map(LeaderEvent::Stopped);
        let killed = status.terminating_signal().map(ProgramExit::Killed);
        let exited = status.exit_status().and_then(|code| u8::try_from(code).ok()).map(ProgramExit::Code);
        self.exit = killed.or(exited).or(self.exit);
        if self.exit.is_some() {
            self.own = None;
        }
        self.exit.map(LeaderEvent::Ended).or(stopped)
    }

    /// Whether the group has no process left. Call it after the leader has ended. Processes of another user don't count.
    pub(super) fn is_empty(&mut self) -> bool {
        self.is_empty |= rustix::process::test_kill_process_group(self.leader).is_err();
        self.is_empty
    }
}

impl Drop for ProcessGroup {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}

/// The change that `wait` finds. `None`: no process has changed, or there is none.
fn changed(wait: impl FnMut() -> rustix::io::Result<Option<(Pid, WaitStatus)>>) -> Option<(Pid, WaitStatus)> {
    retry_on_intr(wait).ok().flatten()
}
