//! What passes between the process and its operating system: signals in, and what a panic says.
//!
//! Depends on `control` for commands. Signals are commands to a daemon, or are handed on as they are by `exec`, whose
//! program they are for.

use std::{
    io,
    panic::PanicHookInfo,
    sync::{Arc, atomic::AtomicBool},
    thread::{self, JoinHandle},
};

use rustix::process::Signal;
use signal_hook::{
    consts::{SIGCHLD, SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP, SIGUSR1, SIGUSR2, SIGWINCH},
    flag,
    iterator::{Handle, Signals},
};
use tokio::sync::mpsc;
use tracing::error;

use crate::control::Command;

/// The exit code of a second SIGTERM or SIGINT.
const AT_ONCE: i32 = 1;

/// Signals that may wait for whoever passes them on.
const SIGNALS: usize = 64;

/// Signals, as commands. They are caught from the moment this exists until it is dropped.
pub struct SignalCommands {
    _listener: Listener,
}

impl SignalCommands {
    /// Sends a command for each signal. A second SIGTERM or SIGINT ends the process from within the signal handler, so it
    /// works even when nothing else does.
    pub fn catch(commands: mpsc::Sender<Command>) -> io::Result<Self> {
        let [terminated, interrupted] = [(); 2].map(|()| Arc::new(AtomicBool::new(false)));
        for (signal, seen, other_seen) in [(SIGTERM, &terminated, &interrupted), (SIGINT, &interrupted, &terminated)] {
            // The order counts: a flag is looked at before it is set, and the other one after, so that of two different
            // signals, on two threads at the same moment, one sees the other.
            flag::register_conditional_shutdown(signal, AT_ONCE, Arc::clone(seen))?;
            flag::register(signal, Arc::clone(seen))?;
            flag::register_conditional_shutdown(signal, AT_ONCE, Arc::clone(other_seen))?;
        }
        let listener = Listener::start(&[SIGTERM, SIGINT, SIGHUP, SIGUSR1], move |signal| {
            let command = match signal {
                SIGHUP => Command::Reload { done: None },
                SIGUSR1 => Command::LogOut { account: None, done: None },
                _ => Command::Shutdown,
            };
            // Full: as many commands as anyone can mean are waiting already. Closed: the daemon is ending.
            let _ = commands.try_send(command);
        })?;
        Ok(Self { _listener: listener })
    }
}

/// Signals as they come, for whoever runs a program that they are meant for. While this exists none of them has its
/// default effect on this process.
pub struct CaughtSignals {
    _listener: Listener,
}

impl CaughtSignals {
    /// Catches what may be meant for the program, and SIGCHLD. What this process was started to ignore (`nohup`, a shell's
    /// `&`) stays ignored, by the program too.
    pub fn catch() -> io::Result<(Self, mpsc::Receiver<Signal>)> {
        let ignored = ignored_signals();
        let mut signals = vec![SIGCHLD, SIGCONT];
        let passed_on = [SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGWINCH, SIGTSTP];
        signals.extend(passed_on.into_iter().filter(|signal| ignored & (1 << (signal - 1)) == 0));
        let (caught, given) = mpsc::channel(SIGNALS);
        let listener = Listener::start(&signals, move |signal| {
            if let Some(signal) = Signal::from_named_raw(signal) {
                // Waits while it is full: a child's end must not be missed. Closed: nobody runs a program any more.
                let _ = caught.blocking_send(signal);
            }
        })?;
        Ok((Self { _listener: listener }, given))
    }
}

/// A bit for each signal that is ignored, the lowest for signal 1. Where the system does not tell, none.
fn ignored_signals() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

/// From now on, whatever a program that we run leaves behind comes to us when its parent ends, for us to end and to reap.
/// Only Linux has this; elsewhere it goes to the system's first process.
pub fn adopt_orphans() -> io::Result<()> {
    #[cfg(target_os = "linux")]
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    Ok(())
}

/// Ends this process as SIGINT ends one that does nothing about it. Belongs at the very end: nothing is tidied up.
pub fn end_by_interrupt() {
    // It returns only when it failed.
    let _ = signal_hook::low_level::emulate_default_handler(SIGINT);
}

/// A thread that waits for signals until this is dropped.
struct Listener {
    handle: Handle,
    thread: Option<JoinHandle<()>>,
}

impl Listener {
    fn start(signals: &[i32], mut on_signal: impl FnMut(i32) + Send + 'static) -> io::Result<Self> {
        let mut signals = Signals::new(signals)?;
        let handle = signals.handle();
        let thread = thread::Builder::new().name("signals".to_owned()).spawn(move || {
            for signal in signals.forever() {
                on_signal(signal);
            }
        })?;
        Ok(Self { handle, thread: Some(thread) })
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.handle.close();
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// From now on a panic is one log line that says where, and never with what: its message may quote a request.
pub fn report_panics_by_place() {
    std::panic::set_hook(Box::new(|panic: &PanicHookInfo<'_>| {
        let place = panic.location().map_or_else(String::new, ToString::to_string);
        error!(place, "a bug: one task panicked");
    }));
}
