//! A program in a process group of its own, and what becomes of it.
//!
//! Depends on nothing of ours. Guarantees: no process of the group is signalled once its leader has been reaped and the
//! group was seen empty, since its number may be somebody else's by then; dropped before that, the group is killed.

use std::{io, os::unix::process::CommandExt as _, process::Command};

use rustix::{
    io::Errno,
    process::{Pid, Signal, WaitOptions, WaitStatus, kill_process, kill_process_group, waitpgid, waitpid},
};

/// A started program and everything it started that did not leave its group.
pub(super) struct Group {
    leader: Pid,
    /// The leader's; it has been reaped.
    end: Option<End>,
    is_empty: bool,
}

/// What the leader did since it was last looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum GroupEvent {
    Stopped(Signal),
    Ended(End),
}

/// How a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Code(u8),
    /// By a signal's number.
    Killed(i32),
}

impl End {
    /// As a shell has it.
    pub(super) fn exit_code(self) -> u8 {
        match self {
            Self::Code(code) => code,
            Self::Killed(signal) => exit_code_of(signal),
        }
    }
}

/// 128 + its number.
pub(super) fn exit_code_of(signal: i32) -> u8 {
    u8::try_from(128 + signal).unwrap_or(u8::MAX)
}

impl Group {
    /// Starts `command` as the leader of a new group.
    pub(super) fn start(command: &mut Command) -> io::Result<Self> {
        let child = command.process_group(0).spawn()?;
        // Dropping a `Child` neither ends nor reaps it: both are done here.
        let leader = i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self { leader, end: None, is_empty: false })
    }

    /// The group's number, which is its leader's.
    pub(super) fn id(&self) -> Pid {
        self.leader
    }

    /// Sends a signal to all of them.
    pub(super) fn signal(&self, signal: Signal) {
        if !self.is_empty {
            // It fails when all of them have ended, or have become somebody else's.
            let _ = kill_process_group(self.leader, signal);
        }
    }

    /// Sends a signal to the program itself.
    pub(super) fn signal_leader(&self, signal: Signal) {
        if self.end.is_none() {
            // Not reaped, so the number is still its own.
            let _ = kill_process(self.leader, signal);
        }
    }

    /// Asks all of them to end, those that are stopped too.
    pub(super) fn terminate(&self) {
        self.signal(Signal::TERM);
        self.signal(Signal::CONT);
    }

    /// Reaps whoever has ended, without waiting, and tells what became of the program itself.
    pub(super) fn look(&mut self) -> Option<GroupEvent> {
        let mut change = None;
        let options = WaitOptions::NOHANG | WaitOptions::UNTRACED;
        while let Some((pid, status)) = retried(|| waitpgid(self.leader, options)) {
            if pid == self.leader {
                change = self.note(status).or(change);
            }
        }
        // The program itself may have changed to another group.
        while self.end.is_none()
            && let Some((_, status)) = retried(|| waitpid(Some(self.leader), options))
        {
            change = self.note(status).or(change);
        }
        change
    }

    fn note(&mut self, status: WaitStatus) -> Option<GroupEvent> {
        let stopped = status.stopping_signal().and_then(Signal::from_named_raw).map(GroupEvent::Stopped);
        let killed = status.terminating_signal().map(End::Killed);
        let exited = status.exit_status().and_then(|code| u8::try_from(code).ok()).map(End::Code);
        self.end = killed.or(exited).or(self.end);
        self.end.map(GroupEvent::Ended).or(stopped)
    }

    /// Whether anybody is left of a program that has ended. Those that belong to another user don't count.
    pub(super) fn is_empty(&mut self) -> bool {
        self.is_empty |= rustix::process::test_kill_process_group(self.leader).is_err();
        self.is_empty
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}

/// `None`: nobody has changed, or nobody is there.
fn retried(mut wait: impl FnMut() -> rustix::io::Result<Option<(Pid, WaitStatus)>>) -> Option<(Pid, WaitStatus)> {
    loop {
        match wait() {
            Err(Errno::INTR) => {}
            outcome => return outcome.ok().flatten(),
        }
    }
}
