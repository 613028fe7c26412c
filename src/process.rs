//! What passes between the process and its operating system: signals in, and what a panic says.
//!
//! Depends on `app` for its commands.

use std::{
    io,
    panic::PanicHookInfo,
    sync::{Arc, atomic::AtomicBool},
    thread::{self, JoinHandle},
};

use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1},
    flag,
    iterator::{Handle, Signals},
};
use tokio::sync::mpsc;
use tracing::error;

use crate::app::Command;

/// The exit code of a second SIGTERM or SIGINT.
const AT_ONCE: i32 = 1;

/// Signals, as commands. They are caught from the moment this exists until it is dropped.
pub struct SignalCommands {
    handle: Handle,
    thread: Option<JoinHandle<()>>,
}

impl SignalCommands {
    /// Sends a command for each signal. A second SIGTERM or SIGINT ends the process from within the signal handler, so it
    /// works even when nothing else does.
    pub fn catch(commands: mpsc::Sender<Command>) -> io::Result<Self> {
        let first_seen = Arc::new(AtomicBool::new(false));
        for signal in [SIGTERM, SIGINT] {
            // The order counts: the check comes before the flag is set.
            flag::register_conditional_shutdown(signal, AT_ONCE, Arc::clone(&first_seen))?;
            flag::register(signal, Arc::clone(&first_seen))?;
        }
        let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP, SIGUSR1])?;
        let handle = signals.handle();
        let thread = thread::Builder::new().name("signals".to_owned()).spawn(move || {
            for signal in signals.forever() {
                let command = match signal {
                    SIGHUP => Command::Reload,
                    SIGUSR1 => Command::LogOut,
                    _ => Command::Shutdown,
                };
                // Full: as many commands as anyone can mean are waiting already. Closed: the daemon is ending.
                let _ = commands.try_send(command);
            }
        })?;
        Ok(Self { handle, thread: Some(thread) })
    }
}

impl Drop for SignalCommands {
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
