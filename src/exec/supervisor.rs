//! Supervises the program: waits for the tokens, starts it, forwards signals, waits for its end, and ends what it left behind.
//!
//! One task does all of it and waits at one place at a time, so no two steps race.

use std::{
    future::{Future as _, pending, poll_fn},
    process::Command,
    sync::Arc,
    task::Poll,
    time::Duration,
};

use rustix::process::Signal;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep, sleep_until, timeout},
};
use tracing::{error, warn};

use super::{
    ExecError, Exit,
    process_group::{LeaderEvent, ProcessGroup, ProgramExit, exit_code_of_signal},
    terminal::{Terminal, stop_our_group},
};
use crate::{
    account::{Account, AccountSnapshot, StateName},
    clock,
    process::SignalMask,
    status::{Phase, View},
};

/// How often we check whether the program's group is empty. Nobody tells us: a process whose parent is not us ends without
/// a SIGCHLD to us.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// How long we wait at most for killed processes to be gone. A process that the kernel can't end must not keep us.
const GONE_AFTER_KILL: Duration = Duration::from_secs(1);

/// Runs a program while the daemon serves it.
pub(super) struct Supervisor {
    /// The signals that this process catches.
    pub(super) signals: mpsc::Receiver<Signal>,
    /// The daemon's accounts; there are none in it until the daemon has started them.
    pub(super) views: watch::Receiver<Arc<View>>,
    /// The daemon's phase.
    pub(super) phases: watch::Receiver<Phase>,
    /// The signals that are blocked for the program.
    pub(super) signal_mask: SignalMask,
    /// The controlling terminal, if there is one.
    pub(super) terminal: Option<Terminal>,
    /// The time from SIGTERM to SIGKILL.
    pub(super) kill_after: Duration,
}

impl Supervisor {
    /// Waits for the tokens (for `wait` at most; not at all when it is zero) and runs the program. It returns when the program
    /// has ended and its process group is empty; an error says why the program was not started. Dropping the future kills the
    /// group.
    pub(super) async fn run(&mut self, mut command: Command, wait: Duration) -> Result<Exit, ExecError> {
        if let Some(outcome) = self.wait_for_tokens(wait).await {
            return outcome;
        }
        let started = ProcessGroup::start(&mut command, &self.signal_mask);
        let mut group = started.map_err(|error| ExecError::NotStarted(command.get_program().to_owned(), error))?;
        if let Some(terminal) = &mut self.terminal {
            terminal.give_foreground_at_start(group.id());
        }
        let exit = self.wait_for_exit(&mut group).await;
        let by_interrupt = exit == ProgramExit::Killed(Signal::INT.as_raw()) && self.takes_interrupts();
        if let Some(terminal) = &mut self.terminal {
            if by_interrupt {
                terminal.interrupt_our_group();
            }
            terminal.take_foreground_back();
        }
        self.end_remaining(&mut group).await;
        Ok(if by_interrupt { Exit::ByInterrupt } else { Exit::Code(exit.exit_code()) })
    }

    fn takes_interrupts(&self) -> bool {
        self.terminal.as_ref().is_some_and(Terminal::takes_interrupts)
    }

    /// Waits until every account that logs in has a token, and then returns `None`. Otherwise it says what ended the wait.
    async fn wait_for_tokens(&mut self, wait: Duration) -> Option<Result<Exit, ExecError>> {
        if wait.is_zero() {
            return None;
        }
        let (views, phases) = (&mut self.views, &mut self.phases);
        tokio::select! {
            biased;
            signal = terminating_signal(&mut self.signals) => {
                let by_interrupt = signal == Signal::INT && self.takes_interrupts();
                Some(Ok(if by_interrupt { Exit::ByInterrupt } else { Exit::Code(exit_code_of_signal(signal.as_raw())) }))
            }
            () = daemon_stopping(phases) => Some(Err(ExecError::Stopped)),
            held = timeout(wait, tokens(views)) => match held {
                Ok(Ok(())) => None,
                Ok(Err(Rejected)) => Some(Err(ExecError::Rejected(without_token(&views.borrow().accounts)))),
                Err(_) => Some(Err(ExecError::NoToken(wait, without_token(&views.borrow().accounts)))),
            },
        }
    }

    /// Forwards signals until the program has ended. When the daemon stops, the program is terminated, since nothing serves
    /// it any more.
    async fn wait_for_exit(&mut self, group: &mut ProcessGroup) -> ProgramExit {
        let mut deadline: Option<Instant> = None;
        let mut is_terminated = false;
        loop {
            match group.reap() {
                Some(LeaderEvent::Ended(exit)) => return exit,
                Some(LeaderEvent::Stopped(signal)) => {
                    self.on_stopped(group, signal);
                    continue;
                }
                None => {}
            }
            tokio::select! {
                signal = self.signals.recv() => match signal {
                    Some(signal) => self.forward_signal(group, signal),
                    // The channel stays open while signals are caught. If it closed, the loop must not spin.
                    None => pending().await,
                },
                () = daemon_stopping(&mut self.phases), if !is_terminated => {
                    error!("the sidecar is stopping, and so must the program");
                    is_terminated = true;
                    deadline = Some(clock::instant() + self.kill_after);
                    group.terminate();
                }
                () = reached(deadline) => {
                    warn!("the program did not end in time and was killed");
                    deadline = None;
                    group.signal(Signal::KILL);
                }
            }
        }
    }

    /// Sends the program a signal that we got in its place.
    fn forward_signal(&mut self, group: &ProcessGroup, signal: Signal) {
        match signal {
            Signal::CHILD => {}
            // These mean something to the program alone; they would kill its children that don't handle them.
            Signal::HUP | Signal::USR1 | Signal::USR2 => group.signal_leader(signal),
            Signal::CONT => {
                if let Some(terminal) = &mut self.terminal {
                    terminal.continued(group.id());
                }
                group.signal(signal);
            }
            _ => group.signal(signal),
        }
    }

    /// Handles that `signal` stopped the program: Ctrl-Z, or the use of a terminal whose foreground it did not have. The
    /// program gets the foreground, or we stop as well; if neither is possible after Ctrl-Z, the program continues.
    fn on_stopped(&mut self, group: &ProcessGroup, signal: Signal) {
        let Some(terminal) = &mut self.terminal else { return };
        let wants_terminal = matches!(signal, Signal::TTIN | Signal::TTOU);
        let continues = (wants_terminal && terminal.give_foreground(group.id())) || (!terminal.stop() && signal == Signal::TSTP);
        if continues {
            group.signal(Signal::CONT);
        }
    }

    /// Ends the processes that the program left behind in its group, since nothing serves them any more.
    async fn end_remaining(&mut self, group: &mut ProcessGroup) {
        let mut deadline = Some(clock::instant() + self.kill_after);
        let mut is_told_to_end = false;
        if !group.is_empty() {
            group.terminate();
        }
        loop {
            // Orphans are our children by now (`adopt_orphans`), so only we can reap them.
            group.reap();
            if group.is_empty() {
                return;
            }
            tokio::select! {
                signal = self.signals.recv() => {
                    // The first may be our own (`interrupt_our_group`), or have been meant for the program, at whose end it comes.
                    // Whoever sends a second one does not want to wait.
                    if signal.is_some_and(is_terminating) && std::mem::replace(&mut is_told_to_end, true) {
                        group.signal(Signal::KILL);
                    }
                }
                () = sleep(POLL_INTERVAL) => {}
                () = reached(deadline) => {
                    warn!("processes that the program left behind did not end in time and were killed");
                    group.signal(Signal::KILL);
                    deadline = None;
                    if timeout(self.kill_after.min(GONE_AFTER_KILL), group_is_empty(group)).await.is_err() {
                        return;
                    }
                }
            }
        }
    }
}

/// Reaps the processes of the group until there is none.
async fn group_is_empty(group: &mut ProcessGroup) {
    loop {
        group.reap();
        if group.is_empty() {
            return;
        }
        sleep(POLL_INTERVAL).await;
    }
}

/// Waits until the deadline has passed; forever if there is none.
async fn reached(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => pending().await,
    }
}

/// Waits for a signal that asks this process to end. A stop signal (Ctrl-Z) stops our group meanwhile.
async fn terminating_signal(signals: &mut mpsc::Receiver<Signal>) -> Signal {
    loop {
        match signals.recv().await {
            Some(signal) if is_terminating(signal) => return signal,
            Some(Signal::TSTP) => {
                stop_our_group();
            }
            Some(_) => {}
            None => pending().await,
        }
    }
}

fn is_terminating(signal: Signal) -> bool {
    matches!(signal, Signal::TERM | Signal::INT | Signal::HUP | Signal::QUIT)
}

/// Waits until the daemon drains or has ended, for whatever reason.
async fn daemon_stopping(phases: &mut watch::Receiver<Phase>) {
    // An error means that the daemon has ended.
    let _ = phases.wait_for(|phase| matches!(phase, Phase::Draining | Phase::Stopped)).await;
}

/// The log-in of an account was rejected.
struct Rejected;

/// Waits until every account that logs in has a token, or until the log-in of one is rejected.
async fn tokens(views: &mut watch::Receiver<Arc<View>>) -> Result<(), Rejected> {
    let Ok(started) = views.wait_for(|view| !view.accounts.is_empty()).await.map(|view| view.accounts.clone()) else {
        // The daemon has ended, which `daemon_stopping` reports.
        return pending().await;
    };
    let mut waits: Vec<_> = started.into_iter().map(|account| Box::pin(token(account))).collect();
    poll_fn(|context| {
        let mut rejected = false;
        waits.retain_mut(|wait| match wait.as_mut().poll(context) {
            Poll::Ready(held) => {
                rejected |= held.is_err();
                false
            }
            Poll::Pending => true,
        });
        if rejected {
            return Poll::Ready(Err(Rejected));
        }
        if waits.is_empty() { Poll::Ready(Ok(())) } else { Poll::Pending }
    })
    .await
}

async fn token(account: Account) -> Result<(), Rejected> {
    let mut snapshots = account.subscribe();
    while account.lacks_token() {
        if account.snapshot().state() == Some(StateName::Rejected) {
            return Err(Rejected);
        }
        if snapshots.changed().await.is_err() {
            return pending().await;
        }
    }
    Ok(())
}

fn without_token(accounts: &[Account]) -> Vec<(String, AccountSnapshot)> {
    let without = accounts.iter().filter(|account| account.lacks_token());
    without.map(|account| (account.name().to_owned(), account.snapshot())).collect()
}

#[cfg(test)]
mod tests {
    use std::{
        io::{self, BufRead as _, BufReader},
        thread,
    };

    use rustix::process::{WaitOptions, waitpid};

    use super::*;
    use crate::process::CaughtSignals;

    /// Runs a shell script and lets the daemon drain once the script has written a line.
    fn ended_by_the_daemon(script: &str) -> Result<Exit, ExecError> {
        let (_caught, signals) = CaughtSignals::catch().unwrap();
        let (phase, phases) = watch::channel(Phase::Running);
        let (_view, views) = watch::channel(Arc::default());
        let kill_after = Duration::from_millis(300);
        let mut supervisor =
            Supervisor { signals, views, phases, signal_mask: SignalMask::prepare(), terminal: None, kill_after };
        let (output, input) = io::pipe().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", script]).stdout(input);
        let daemon = thread::spawn(move || {
            let mut line = String::new();
            BufReader::new(output).read_line(&mut line).unwrap();
            phase.send_replace(Phase::Draining);
            phase
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let outcome = runtime.block_on(supervisor.run(command, Duration::ZERO));
        drop(daemon.join().unwrap());
        outcome
    }

    #[test]
    fn when_the_daemon_stops_the_program_gets_sigterm_and_its_exit_code_counts() {
        let outcome = ended_by_the_daemon("trap 'exit 9' TERM; echo ready; sleep 60 & wait");
        assert!(matches!(outcome, Ok(Exit::Code(9))), "{outcome:?}");
    }

    #[test]
    fn when_the_daemon_stops_a_program_that_does_not_end_is_killed() {
        let outcome = ended_by_the_daemon("trap '' TERM; echo ready; sleep 60");
        assert!(matches!(outcome, Ok(Exit::Code(137))), "{outcome:?}");
    }

    #[test]
    fn a_program_whose_supervisor_is_dropped_is_killed() {
        let group = ProcessGroup::start(Command::new("sleep").arg("60"), &SignalMask::prepare()).unwrap();
        let leader = group.id();
        drop(group);
        let (_, status) = waitpid(Some(leader), WaitOptions::empty()).unwrap().unwrap();
        assert_eq!(status.terminating_signal(), Some(9));
    }
}
