//! The life of the program: waited for a token, started, given its signals, ended, swept up after.
//!
//! One task that waits for one thing at a time, so that no two of them race.

use std::{future::pending, io, process::Command, sync::Arc, time::Duration};

use rustix::process::Signal;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep, sleep_until, timeout},
};
use tracing::{error, warn};

use super::{
    group::{End, Group, GroupEvent},
    terminal::{Terminal, stop_our_group},
};
use crate::{
    account::{Account, AccountSnapshot},
    clock,
    status::{Phase, View},
};

/// What is needed to look after a program.
pub(super) struct Supervisor {
    pub(super) signals: mpsc::Receiver<Signal>,
    /// Without accounts until they have been started.
    pub(super) views: watch::Receiver<Arc<View>>,
    pub(super) phases: watch::Receiver<Phase>,
    pub(super) terminal: Option<Terminal>,
    /// Between SIGTERM and SIGKILL.
    pub(super) patience: Duration,
}

/// What came of it.
#[derive(Debug)]
pub(super) enum Outcome {
    Ended(End),
    /// By Ctrl-C, before or after the program was started.
    Interrupted,
    /// Another signal, before the program was started.
    Signalled(Signal),
    /// The daemon ended before that.
    Stopped,
    NoToken(Vec<(String, AccountSnapshot)>),
    NotStarted(io::Error),
}

impl Supervisor {
    /// Returns when the program has ended and nothing is left of its group.
    pub(super) async fn run(&mut self, mut command: Command, wait: Duration) -> Outcome {
        if let Some(outcome) = self.wait_for_tokens(wait).await {
            return outcome;
        }
        let mut group = match Group::start(&mut command) {
            Ok(group) => group,
            Err(error) => return Outcome::NotStarted(error),
        };
        if let Some(terminal) = &mut self.terminal {
            terminal.lend_at_start(group.id());
        }
        let end = self.attend(&mut group).await;
        let by_interrupt = end == End::Killed(Signal::INT.as_raw()) && self.takes_interrupts();
        if let Some(terminal) = &mut self.terminal {
            if by_interrupt {
                terminal.tell_our_group();
            }
            terminal.take_back();
        }
        self.sweep(&mut group).await;
        if by_interrupt { Outcome::Interrupted } else { Outcome::Ended(end) }
    }

    fn takes_interrupts(&self) -> bool {
        self.terminal.as_ref().is_some_and(Terminal::takes_interrupts)
    }

    /// `None`: every account that logs in has one.
    async fn wait_for_tokens(&mut self, wait: Duration) -> Option<Outcome> {
        if wait.is_zero() {
            return None;
        }
        let (views, phases) = (&mut self.views, &mut self.phases);
        tokio::select! {
            biased;
            signal = interruption(&mut self.signals) => {
                let by_interrupt = signal == Signal::INT && self.takes_interrupts();
                Some(if by_interrupt { Outcome::Interrupted } else { Outcome::Signalled(signal) })
            }
            () = stopping(phases) => Some(Outcome::Stopped),
            held = timeout(wait, tokens(views)) => match held {
                Ok(()) => None,
                Err(_) => Some(Outcome::NoToken(without_token(&views.borrow().accounts))),
            }
        }
    }

    /// Until the program has ended. When the daemon stops, so does the program: it has nobody to call any more.
    async fn attend(&mut self, group: &mut Group) -> End {
        let mut deadline: Option<Instant> = None;
        let mut is_told = false;
        loop {
            match group.look() {
                Some(GroupEvent::Ended(end)) => return end,
                Some(GroupEvent::Stopped(signal)) => {
                    self.on_stop(group, signal);
                    continue;
                }
                None => {}
            }
            tokio::select! {
                signal = self.signals.recv() => match signal {
                    Some(signal) => self.pass_on(group, signal),
                    // Unreachable while signals are caught; never turn round and round.
                    None => pending().await,
                },
                () = stopping(&mut self.phases), if !is_told => {
                    error!("the sidecar is stopping, and so must the program");
                    is_told = true;
                    deadline = Some(clock::instant() + self.patience);
                    group.terminate();
                }
                () = at(deadline) => {
                    warn!("the program did not end in time and was killed");
                    deadline = None;
                    group.signal(Signal::KILL);
                }
            }
        }
    }

    /// A signal that we got instead of the program.
    fn pass_on(&mut self, group: &Group, signal: Signal) {
        match signal {
            Signal::CHILD => {}
            // They mean something to the program alone, and would end whatever does not know them.
            Signal::HUP | Signal::USR1 | Signal::USR2 => group.signal_leader(signal),
            Signal::CONT => {
                if let Some(terminal) = &mut self.terminal {
                    terminal.go_on(group.id());
                }
                group.signal(signal);
            }
            _ => group.signal(signal),
        }
    }

    /// The program was stopped: by Ctrl-Z, or because it wanted a terminal that it did not have.
    fn on_stop(&mut self, group: &Group, signal: Signal) {
        let Some(terminal) = &mut self.terminal else { return };
        let wants_terminal = matches!(signal, Signal::TTIN | Signal::TTOU);
        let goes_on = (wants_terminal && terminal.lend(group.id())) || (!terminal.stop() && signal == Signal::TSTP);
        if goes_on {
            group.signal(Signal::CONT);
        }
    }

    /// Ends what the program left behind in its group: nobody will serve it any more.
    async fn sweep(&mut self, group: &mut Group) {
        let mut deadline = Some(clock::instant() + self.patience);
        if !group.is_empty() {
            group.terminate();
        }
        loop {
            // Nobody else reaps whom we adopted.
            group.look();
            if group.is_empty() {
                return;
            }
            tokio::select! {
                signal = self.signals.recv() => {
                    // Whoever is impatient need not wait.
                    if signal.is_some_and(is_interruption) {
                        group.signal(Signal::KILL);
                    }
                }
                // Whoever has a parent elsewhere ends without our being told.
                () = sleep(LOOK_AGAIN) => {}
                () = at(deadline) => {
                    warn!("processes that the program left behind did not end in time and were killed");
                    group.signal(Signal::KILL);
                    deadline = None;
                    // A process that the kernel can't end can't keep us.
                    if timeout(self.patience.min(LAST_WAIT), emptied(group)).await.is_err() {
                        return;
                    }
                }
            }
        }
    }
}

async fn emptied(group: &mut Group) {
    loop {
        group.look();
        if group.is_empty() {
            return;
        }
        sleep(LOOK_AGAIN).await;
    }
}

async fn at(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => pending().await,
    }
}

/// A signal that ends a program which does nothing about it, and is meant to.
async fn interruption(signals: &mut mpsc::Receiver<Signal>) -> Signal {
    loop {
        match signals.recv().await {
            Some(signal) if is_interruption(signal) => return signal,
            Some(Signal::TSTP) => {
                stop_our_group();
            }
            Some(_) => {}
            None => pending().await,
        }
    }
}

fn is_interruption(signal: Signal) -> bool {
    matches!(signal, Signal::TERM | Signal::INT | Signal::HUP | Signal::QUIT)
}

/// Until the daemon drains or has ended, whoever wants it.
async fn stopping(phases: &mut watch::Receiver<Phase>) {
    // An error means that it is gone.
    let _ = phases.wait_for(|phase| matches!(phase, Phase::Draining | Phase::Stopped)).await;
}

/// Until every account that logs in has a token.
async fn tokens(views: &mut watch::Receiver<Arc<View>>) {
    let Ok(started) = views.wait_for(|view| !view.accounts.is_empty()).await.map(|view| view.accounts.clone()) else {
        // The daemon is gone, which is noticed elsewhere.
        return pending().await;
    };
    for account in started {
        let mut snapshots = account.subscribe();
        while account.lacks_token() {
            if snapshots.changed().await.is_err() {
                return pending().await;
            }
        }
    }
}

fn without_token(accounts: &[Account]) -> Vec<(String, AccountSnapshot)> {
    let without = accounts.iter().filter(|account| account.lacks_token());
    without.map(|account| (account.name().to_owned(), account.snapshot())).collect()
}

const LOOK_AGAIN: Duration = Duration::from_millis(10);
const LAST_WAIT: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead as _, BufReader},
        thread,
    };

    use rustix::process::{WaitOptions, waitpid};

    use super::*;
    use crate::process::CaughtSignals;

    /// Runs a script whose first line of output is waited for, then has the daemon drain.
    fn ended_by_the_daemon(script: &str) -> Outcome {
        let (_caught, signals) = CaughtSignals::catch().unwrap();
        let (phase, phases) = watch::channel(Phase::Running);
        let (_view, views) = watch::channel(Arc::default());
        let patience = Duration::from_millis(300);
        let mut supervisor = Supervisor { signals, views, phases, terminal: None, patience };
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
    fn when_the_daemon_stops_the_program_is_asked_to_end_and_its_own_end_counts() {
        let outcome = ended_by_the_daemon("trap 'exit 9' TERM; echo ready; sleep 60 & wait");
        assert!(matches!(outcome, Outcome::Ended(End::Code(9))), "{outcome:?}");
    }

    #[test]
    fn when_the_daemon_stops_a_program_that_does_not_end_is_killed() {
        let outcome = ended_by_the_daemon("trap '' TERM; echo ready; sleep 60");
        assert!(matches!(outcome, Outcome::Ended(End::Killed(9))), "{outcome:?}");
    }

    #[test]
    fn a_program_that_nobody_looks_after_any_more_is_killed() {
        let group = Group::start(Command::new("sleep").arg("60")).unwrap();
        let leader = group.id();
        drop(group);
        let (_, status) = waitpid(Some(leader), WaitOptions::empty()).unwrap().unwrap();
        assert_eq!(status.terminating_signal(), Some(9));
    }
}
