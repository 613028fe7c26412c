//! Signals and panics of the process.
//!
//! A daemon takes signals as commands. `exec` passes them on to its program, which they are meant for. Guarantees: a signal that is
//! taken as a command is not blocked, whatever the process was started with; nothing of a panic is logged but its place.

use std::{
    io,
    panic::PanicHookInfo,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

use nix::sys::signal::{SigSet, SigmaskHow, Signal as MaskedSignal};
use rustix::process::Signal;
use signal_hook::{
    consts::{SIGCHLD, SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP, SIGUSR1, SIGUSR2, SIGWINCH, SIGXFSZ},
    flag,
    iterator::{Handle, Signals},
};
use tokio::sync::mpsc;
use tracing::error;

use crate::{children, control::Commands};

/// The exit code of a second SIGTERM or SIGINT.
const AT_ONCE: i32 = 1;

/// Signals of `exec` that may wait until they are passed on.
const SIGNALS: usize = 64;

/// The signals that something here handles.
const HANDLED: [MaskedSignal; 10] = [
    MaskedSignal::SIGTERM,
    MaskedSignal::SIGINT,
    MaskedSignal::SIGHUP,
    MaskedSignal::SIGQUIT,
    MaskedSignal::SIGUSR1,
    MaskedSignal::SIGUSR2,
    MaskedSignal::SIGCHLD,
    MaskedSignal::SIGCONT,
    MaskedSignal::SIGTSTP,
    MaskedSignal::SIGWINCH,
];

/// The signals that were blocked when the process was started. A parent that blocks signals while it starts a program, and forgets
/// to unblock them there, leaves a program that can't be stopped.
#[derive(Clone, Copy, Debug)]
pub struct SignalMask(SigSet);

impl SignalMask {
    /// Unblocks the signals that are handled here, and returns what was blocked before. A container's first process blocks them
    /// instead, until [`unblock_handled`](Self::unblock_handled): the kernel drops a signal to it that has no handler yet, unless it
    /// is blocked. Call it before there is a second thread, which inherits the mask.
    #[must_use]
    pub fn prepare() -> Self {
        // None of these calls fails for signals that exist.
        let before = SigSet::thread_get_mask().unwrap_or_else(|_| SigSet::empty());
        if std::process::id() == 1 {
            let _ = HANDLED.into_iter().collect::<SigSet>().thread_block();
        } else {
            Self::unblock_handled();
        }
        Self(before)
    }

    /// Unblocks the signals that are handled here. Call it after they are caught, since one that waits comes at once.
    pub fn unblock_handled() {
        // It does not fail for signals that exist.
        let _ = HANDLED.into_iter().collect::<SigSet>().thread_unblock();
    }

    /// Runs `start` with this mask, which a process that it starts inherits.
    pub fn within<T>(&self, start: impl FnOnce() -> T) -> T {
        let own = self.0.thread_swap_mask(SigmaskHow::SIG_SETMASK);
        let outcome = start();
        if let Ok(own) = own {
            // The mask came from the system, so setting it can't fail.
            let _ = own.thread_set_mask();
        }
        outcome
    }
}

/// What SIGHUP means to a daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnHangup {
    /// The settings have changed.
    Reload,
    /// The terminal is closed.
    ShutDown,
}

/// The signals that are commands to a daemon, caught and kept until [`deliver`](Self::deliver).
///
/// Catch them before anything else: as the first process of a container we would never see a signal that has no handler.
pub struct DaemonSignals {
    signals: Signals,
    nothing_to_clean_up: Arc<AtomicBool>,
}

impl DaemonSignals {
    /// Catches SIGTERM, SIGINT, SIGHUP, SIGUSR1 and SIGCHLD. Until [`clean_up_from_now_on`](Self::clean_up_from_now_on), a SIGTERM
    /// or SIGINT ends the process at once with exit code 0. Later, a second one ends it with exit code 1 from within the
    /// signal handler, so it works even when nothing else does.
    ///
    /// # Errors
    ///
    /// The system refuses a handler or a descriptor.
    pub fn catch() -> io::Result<Self> {
        let nothing_to_clean_up = Arc::new(AtomicBool::new(true));
        let [terminated, interrupted] = [(); 2].map(|()| Arc::new(AtomicBool::new(false)));
        for (signal, seen, other_seen) in [(SIGTERM, &terminated, &interrupted), (SIGINT, &interrupted, &terminated)] {
            flag::register_conditional_shutdown(signal, 0, Arc::clone(&nothing_to_clean_up))?;
            // The order counts: a handler looks at its flag before it sets it, and at the other flag after. So of two
            // different signals, on two threads at the same moment, one sees the other.
            flag::register_conditional_shutdown(signal, AT_ONCE, Arc::clone(seen))?;
            flag::register(signal, Arc::clone(seen))?;
            flag::register_conditional_shutdown(signal, AT_ONCE, Arc::clone(other_seen))?;
        }
        let signals = Signals::new([SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGCHLD])?;
        Ok(Self { signals, nothing_to_clean_up })
    }

    /// Says that there is something to clean up: from now on SIGTERM and SIGINT wait to be delivered.
    pub fn clean_up_from_now_on(&self) {
        self.nothing_to_clean_up.store(false, Ordering::SeqCst);
    }

    /// Delivers the signals as commands, those too that have come already; `on_hangup` says what SIGHUP means. It starts
    /// a thread, which ends when the outcome is dropped.
    ///
    /// A container's first process reaps orphans from now on, since they come to it.
    ///
    /// # Errors
    ///
    /// The system refuses a thread.
    pub fn deliver(self, commands: Commands, on_hangup: OnHangup) -> io::Result<SignalThread> {
        self.clean_up_from_now_on();
        if std::process::id() == 1 {
            children::reap_orphans_from_now_on();
        }
        SignalThread::start(self.signals, move |signal| match signal {
            SIGCHLD => children::reap_orphans(),
            // Nobody waits for the outcome of a signal.
            SIGHUP if on_hangup == OnHangup::Reload => drop(commands.reload()),
            SIGUSR1 => drop(commands.log_out(None)),
            _ => commands.shut_down(),
        })
    }
}

/// Catches signals for `exec`, which passes them on to its program. While this exists, none of them has its default effect on
/// this process.
pub struct CaughtSignals {
    _thread: SignalThread,
}

impl CaughtSignals {
    /// Catches the signals that may be meant for the program, and SIGCHLD. Signals that this process was started to ignore
    /// (`nohup`, a shell's `&`) stay ignored, by the program too.
    pub fn catch() -> io::Result<(Self, mpsc::Receiver<Signal>)> {
        let ignored = ignored_signals();
        let mut signals = vec![SIGCHLD, SIGCONT];
        let passed_on = [SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGWINCH, SIGTSTP];
        signals.extend(passed_on.into_iter().filter(|signal| !is_ignored(ignored, *signal)));
        let (caught, given) = mpsc::channel(SIGNALS);
        let thread = SignalThread::start(Signals::new(&signals)?, move |signal| {
            if signal == SIGCHLD {
                children::reap_orphans();
            }
            if let Some(signal) = Signal::from_named_raw(signal) {
                // Waits while it is full: a child's end must not be missed. Closed: nobody runs a program any more.
                let _ = caught.blocking_send(signal);
            }
        })?;
        Ok((Self { _thread: thread }, given))
    }
}

/// Keeps the status of children that end, for those who wait for it: where SIGCHLD is ignored, which a parent may have left so, the
/// kernel throws it away, and every command seems to fail.
///
/// # Errors
///
/// The system refuses a handler.
pub fn keep_ended_children() -> io::Result<()> {
    // Any handler will do.
    flag::register(SIGCHLD, Arc::default()).map(drop)
}

/// Lets a write beyond the limit of a file's size fail, so that it does not end the process: the log may be such a file. Where the
/// signal is ignored that is so already, and the program of `exec` is to inherit it.
///
/// # Errors
///
/// The system refuses a handler.
pub fn survive_full_files() -> io::Result<()> {
    if is_ignored(ignored_signals(), SIGXFSZ) { Ok(()) } else { flag::register(SIGXFSZ, Arc::default()).map(drop) }
}

/// Reads which signals are ignored: a bit for each, the lowest for signal 1; none where the system does not tell.
fn ignored_signals() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

/// Whether a signal is among those that [`ignored_signals`] has read.
fn is_ignored(ignored: u64, signal: i32) -> bool {
    ignored & (1 << (signal - 1)) != 0
}

/// Makes this process the parent of every process that its program leaves behind, and reaps them from now on. Only Linux has this;
/// elsewhere they go to the system's first process.
pub fn adopt_orphans() -> io::Result<()> {
    #[cfg(target_os = "linux")]
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    children::reap_orphans_from_now_on();
    Ok(())
}

/// Ends this process as SIGINT ends a process without a handler. Call it at the very end: nothing is cleaned up.
pub fn end_by_interrupt() {
    // It returns only when it failed.
    let _ = signal_hook::low_level::emulate_default_handler(SIGINT);
}

/// A thread that waits for signals until this is dropped.
pub struct SignalThread {
    handle: Handle,
    thread: Option<JoinHandle<()>>,
}

impl SignalThread {
    fn start(mut signals: Signals, mut on_signal: impl FnMut(i32) + Send + 'static) -> io::Result<Self> {
        let handle = signals.handle();
        let thread = thread::Builder::new().name("signals".to_owned()).spawn(move || {
            for signal in signals.forever() {
                on_signal(signal);
            }
        })?;
        Ok(Self { handle, thread: Some(thread) })
    }
}

impl Drop for SignalThread {
    fn drop(&mut self) {
        self.handle.close();
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// Logs a panic as one line with its place, and without its message, which may quote a request.
pub fn report_panics_by_place() {
    std::panic::set_hook(Box::new(|panic: &PanicHookInfo<'_>| {
        let place = panic.location().map_or_else(String::new, ToString::to_string);
        error!(place, "a bug: one task panicked");
    }));
}
