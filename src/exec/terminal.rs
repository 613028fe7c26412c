//! The terminal that a program is run from, lent to it and taken back.
//!
//! Depends on nothing of ours. A terminal has one foreground group: it gets what is typed, Ctrl-C and Ctrl-Z included, and
//! only it may read. The program has a group of its own, so it is lent the foreground, and we stop when it is stopped, for
//! the shell above us to see.

use std::{
    fs::File,
    io::{self, IsTerminal},
};

use nix::sys::signal::{SigSet, SigmaskHow, Signal as Blocked};
use rustix::{
    process::{Pid, Signal, getpgid, getpgrp, getppid, getsid, kill_current_process_group},
    termios::{tcgetpgrp, tcsetpgrp},
};

/// Our controlling terminal.
pub(super) struct Terminal {
    device: File,
    own_group: Pid,
    /// The program's group has the foreground.
    lent: bool,
    /// It had it when it was stopped, and gets it again when we go on in the foreground.
    owed: bool,
}

impl Terminal {
    /// `None`: there is none.
    pub(super) fn open() -> Option<Self> {
        let device = File::options().read(true).write(true).open("/dev/tty").ok()?;
        Some(Self { device, own_group: getpgrp(), lent: false, owed: false })
    }

    /// Lends the foreground to a program that was just started, when it is ours to lend and the program has the terminal to
    /// itself. In a pipeline it has not: there it gets the foreground when it asks for it.
    pub(super) fn lend_at_start(&mut self, group: Pid) {
        if io::stdin().is_terminal() && io::stdout().is_terminal() {
            self.lend(group);
        }
    }

    /// Lends the foreground if it is ours. Whether `group` has it now.
    pub(super) fn lend(&mut self, group: Pid) -> bool {
        let foreground = self.foreground();
        if foreground == Some(self.own_group) {
            self.lent = self.set_foreground(group);
            return self.lent;
        }
        foreground == Some(group)
    }

    /// Stops us as the program was stopped; from then on the shell above us decides who has the foreground. False as for
    /// [`stop_our_group`].
    pub(super) fn stop(&mut self) -> bool {
        let was_lent = self.lent;
        // Before, since we stop in the midst of it.
        (self.lent, self.owed) = (false, self.owed || was_lent);
        let stopped = stop_our_group();
        if !stopped {
            (self.lent, self.owed) = (was_lent, false);
        }
        stopped
    }

    /// After we were stopped: the program gets back what it had, unless it goes on in the background.
    pub(super) fn go_on(&mut self, group: Pid) {
        if std::mem::take(&mut self.owed) {
            self.lend(group);
        }
    }

    /// Whether Ctrl-C, here and now, is for the program or for us.
    pub(super) fn takes_interrupts(&self) -> bool {
        self.lent || (io::stdin().is_terminal() && self.foreground() == Some(self.own_group))
    }

    /// After a program that Ctrl-C ended: whoever shares our group, such as the script that called us, would have got it
    /// too, had the foreground not been lent. We catch it ourselves.
    pub(super) fn tell_our_group(&self) {
        if self.lent {
            // We are in it, so it exists.
            let _ = kill_current_process_group(Signal::INT);
        }
    }

    /// Takes the foreground back from a program that has ended.
    pub(super) fn take_back(&mut self) {
        if std::mem::take(&mut self.lent) {
            self.set_foreground(self.own_group);
        }
    }

    fn foreground(&self) -> Option<Pid> {
        tcgetpgrp(&self.device).ok()
    }

    /// It fails when the terminal is gone or the group is; then there is nothing to be done.
    fn set_foreground(&self, group: Pid) -> bool {
        // Whoever is not in the foreground is stopped for this by SIGTTOU, unless that is blocked. Only here and now: a
        // program that is started inherits what is blocked.
        let mut mask = SigSet::empty();
        mask.add(Blocked::SIGTTOU);
        let Ok(before) = mask.thread_swap_mask(SigmaskHow::SIG_BLOCK) else { return false };
        let set = tcsetpgrp(&self.device, group).is_ok();
        // Neither call fails with a mask that the system itself gave.
        let _ = before.thread_set_mask();
        set
    }
}

/// Stops everybody in our group, as Ctrl-Z would have done. False: nobody is above us who could make us go on, so that the
/// kernel would have ignored Ctrl-Z (POSIX calls such a group orphaned).
pub(super) fn stop_our_group() -> bool {
    if is_orphaned() {
        return false;
    }
    kill_current_process_group(Signal::STOP).is_ok()
}

/// As far as our own ancestors tell: a shell with job control makes a group for us that is neither its own nor the
/// session's first.
fn is_orphaned() -> bool {
    let (group, session) = (getpgrp(), getsid(None).ok());
    let parent_in_session = getppid().is_some_and(|parent| getsid(Some(parent)).ok() == session);
    let parent_elsewhere = getppid().is_some_and(|parent| getpgid(Some(parent)).ok() != Some(group));
    !parent_in_session || (session == Some(group) && !parent_elsewhere)
}
