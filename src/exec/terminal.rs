//! Gives the program the terminal's foreground, takes it back, and stops us when the program is stopped.
//!
//! A terminal has one foreground process group. Only that group may read from the terminal, and Ctrl-C and Ctrl-Z signal
//! that group alone. The program runs in a group of its own, so it gets the foreground; and when Ctrl-Z stops it, our group
//! stops too, so that the shell above us notices.

use std::{
    fs::File,
    io::{self, IsTerminal},
};

// Numbers of groups and sessions come from nix: for one whose leader is in a PID namespace above ours the kernel says 0, which
// rustix's `Pid` can't hold.
use nix::{
    sys::signal::{SigSet, SigmaskHow, Signal as BlockedSignal},
    unistd::{getpgid, getpgrp, getppid, getsid},
};
use rustix::{
    process::{Pid, Signal, kill_current_process_group},
    termios::{tcgetpgrp, tcsetpgrp},
};

/// Our controlling terminal.
pub(super) struct Terminal {
    device: File,
    own_group: Pid,
    /// We gave the foreground to the program's group.
    is_given: bool,
    /// The program's group had the foreground when it was stopped, and gets it again when we continue in the foreground.
    give_again: bool,
}

impl Terminal {
    /// Opens the controlling terminal; `None` if there is none, or if our group has no number here, so that it couldn't be given
    /// back.
    pub(super) fn open() -> Option<Self> {
        let device = File::options().read(true).write(true).open("/dev/tty").ok()?;
        let own_group = Pid::from_raw(getpgrp().as_raw())?;
        Some(Self { device, own_group, is_given: false, give_again: false })
    }

    /// Gives the foreground to the group of a program that has just started, if our group has it and the program has the
    /// terminal to itself. A program in a pipeline shares the terminal; it gets the foreground when it asks for it.
    pub(super) fn give_foreground_at_start(&mut self, group: Pid) {
        if io::stdin().is_terminal() && io::stdout().is_terminal() {
            self.give_foreground(group);
        }
    }

    /// Gives the foreground to `group` if our group has it. Returns whether `group` has it now.
    pub(super) fn give_foreground(&mut self, group: Pid) -> bool {
        let foreground = self.foreground();
        if foreground == Some(self.own_group) {
            self.is_given = self.set_foreground(group);
            return self.is_given;
        }
        foreground == Some(group)
    }

    /// Stops our group after the program was stopped; from then on the shell above us decides who has the foreground. False
    /// when that is not possible, as [`stop_our_group`] says.
    pub(super) fn stop(&mut self) -> bool {
        let was_given = self.is_given;
        // This comes first, since the call below stops us before it returns.
        (self.is_given, self.give_again) = (false, self.give_again || was_given);
        let stopped = stop_our_group();
        if !stopped {
            (self.is_given, self.give_again) = (was_given, false);
        }
        stopped
    }

    /// Gives the foreground back to the program after we were stopped and continued, unless we continue in the background.
    pub(super) fn continued(&mut self, group: Pid) {
        if std::mem::take(&mut self.give_again) {
            self.give_foreground(group);
        }
    }

    /// Whether a Ctrl-C now would reach the program or us.
    pub(super) fn takes_interrupts(&self) -> bool {
        self.is_given || (io::stdin().is_terminal() && self.foreground() == Some(self.own_group))
    }

    /// Sends SIGINT to our group after Ctrl-C ended the program. Others in our group, such as the script that called us,
    /// would have got it from the terminal if we had kept the foreground. We catch it ourselves.
    pub(super) fn interrupt_our_group(&self) {
        if self.is_given {
            // We are in the group, so it exists.
            let _ = kill_current_process_group(Signal::INT);
        }
    }

    /// Takes the foreground back from a program that has ended.
    pub(super) fn take_foreground_back(&mut self) {
        if std::mem::take(&mut self.is_given) {
            self.set_foreground(self.own_group);
        }
    }

    fn foreground(&self) -> Option<Pid> {
        tcgetpgrp(&self.device).ok()
    }

    /// Returns false when the terminal or the group is gone; nothing can be done then.
    fn set_foreground(&self, group: Pid) -> bool {
        // The kernel sends SIGTTOU to a background process that calls `tcsetpgrp`, unless the signal is blocked. It is
        // blocked for this call alone, since a program that we start would inherit the mask.
        let mut mask = SigSet::empty();
        mask.add(BlockedSignal::SIGTTOU);
        let Ok(before) = mask.thread_swap_mask(SigmaskHow::SIG_BLOCK) else { return false };
        let set = tcsetpgrp(&self.device, group).is_ok();
        // The mask came from the system, so setting it can't fail.
        let _ = before.thread_set_mask();
        set
    }
}

/// Stops every process of our group, as Ctrl-Z would have done. Returns false, and stops nobody, when no shell above us
/// could continue us: the kernel ignores Ctrl-Z for such a group, which POSIX calls orphaned.
pub(super) fn stop_our_group() -> bool {
    if is_orphaned() {
        return false;
    }
    kill_current_process_group(Signal::STOP).is_ok()
}

/// Whether our group is orphaned, as far as our ancestors tell. A shell with job control puts us in a group that is neither
/// its own nor the session's first.
fn is_orphaned() -> bool {
    let (group, session) = (getpgrp(), getsid(None).ok());
    // A parent in a PID namespace above ours has the number 0, by which these calls understand ourselves.
    let parent = Some(getppid()).filter(|parent| parent.as_raw() != 0);
    let parent_in_session = parent.is_some_and(|parent| getsid(Some(parent)).ok() == session);
    let parent_elsewhere = parent.is_some_and(|parent| getpgid(Some(parent)).ok() != Some(group));
    !parent_in_session || (session == Some(group) && !parent_elsewhere)
}
