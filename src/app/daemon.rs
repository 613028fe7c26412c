//! The running daemon: it carries out commands, and drains at the end.
//!
//! A shutdown and a log-out interrupt everything else: a start, and a reload as long as it has changed nothing. Guarantees: a
//! log-out that has begun is finished; once requests in flight have ended, or `drain_timeout` has passed, the process ends within a
//! second, whatever blocks. The limits of that end, with those of `admin` and of the log's last lines, add up to less.

use std::{pin::pin, sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tracing::{info, warn};

use super::{
    DescriptorUse,
    listeners::{Listener, PassedSockets},
    snapshot::Snapshot,
    worker::Workers,
};
use crate::{
    account::Account,
    clock::Clock,
    config::source::Input,
    control::{Command, CommandReceiver, LogOut, NotReloaded, UrgentCommand},
    hardening::Sandbox,
    logging::LogControl,
    metrics::Metrics,
    server::Drain,
    status::View,
    systemd::Reloads,
};

/// How long a log-out may take, with the workers closing their idle connections. Only a worker that is stuck takes longer.
pub(super) const CLOSE_IDLE: Duration = Duration::from_secs(2);

/// How long answers of our own have to go out when the time of the drain has run out.
const LAST_ANSWERS: Duration = Duration::from_millis(200);

/// How long a log-out may take while the daemon drains.
const CLOSE_IDLE_WHILE_DRAINING: Duration = Duration::from_millis(200);

/// How long the workers may take to end once they are stopped.
pub(super) const STOP_WORKERS: Duration = Duration::from_millis(200);

/// How long the accounts may take to end.
const STOP_ACCOUNTS: Duration = Duration::from_millis(100);

/// A daemon that serves.
pub(super) struct Daemon {
    pub(super) snapshot: Arc<Snapshot>,
    pub(super) listeners: Vec<Listener>,
    pub(super) workers: Workers,
    pub(super) passed: PassedSockets,
    pub(super) reload_source: Option<ReloadSource>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) view: watch::Sender<Arc<View>>,
    pub(super) reloads: watch::Sender<Reloads>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) descriptors: DescriptorUse,
}

/// Where a reload reads the settings, who adopts their log settings, and the sandbox that limits what they may name.
#[derive(Clone)]
pub(super) struct ReloadSource {
    pub(super) input: Input,
    pub(super) log: LogControl,
    /// `None`: the settings may name any path.
    pub(super) sandbox: Option<Arc<Sandbox>>,
}

/// Waits for `work`, and meanwhile carries out log-outs by `log_out`. `None`: a shutdown came first, and `work` was dropped.
pub(super) async fn unless_shut_down<T>(
    work: impl Future<Output = T>,
    commands: &mut CommandReceiver,
    log_out: impl AsyncFn(LogOut),
) -> Option<T> {
    let mut work = pin!(work);
    loop {
        tokio::select! {
            biased;
            urgent = commands.urgent() => match urgent {
                UrgentCommand::Shutdown => return None,
                UrgentCommand::LogOut(asked) => log_out(asked).await,
            },
            outcome = &mut work => return Some(outcome),
        }
    }
}

/// Logs out the account that is meant, or all of them.
pub(super) async fn log_out_accounts(accounts: &[Account], asked: &LogOut) {
    for account in accounts.iter().filter(|account| asked.account.as_ref().is_none_or(|name| account.name() == name)) {
        account.log_out().await;
    }
}

/// Tells the senders of a log-out that it is done.
pub(super) fn confirm(asked: LogOut) {
    for done in asked.done {
        // The sender may no longer wait for it.
        done.send(()).unwrap_or(());
    }
}

/// Ends the accounts, so that their tokens are wiped.
pub(super) async fn end_accounts(accounts: &[Account]) {
    let ended = async {
        for account in accounts {
            account.shut_down().await;
        }
    };
    drop(timeout(STOP_ACCOUNTS, ended).await);
}

impl Daemon {
    /// Carries out commands until a shutdown.
    pub(super) async fn run_commands(&mut self, commands: &mut CommandReceiver) {
        loop {
            match commands.next().await {
                Command::Urgent(UrgentCommand::Shutdown) => return,
                Command::Urgent(UrgentCommand::LogOut(asked)) => self.log_out(asked, CLOSE_IDLE).await,
                Command::Reload(waiting) => {
                    self.reloads.send_modify(Reloads::begin);
                    let outcome = self.reload(commands).await;
                    let faults = outcome.as_ref().err().map(|NotReloaded(reasons)| reasons.len());
                    self.reloads.send_modify(|reloads| reloads.end(faults));
                    if outcome.is_err() && commands.is_shut_down() {
                        // Dropped, the senders learn that the daemon is stopping.
                        continue;
                    }
                    for done in waiting {
                        // The sender may no longer wait for it.
                        drop(done.send(outcome.clone()));
                    }
                }
            }
        }
    }

    /// Drains: new requests are served for `drain_delay`, requests in flight have `drain_timeout` to finish, and then the
    /// workers stop.
    pub(super) async fn drain(mut self, drain: &Drain, mut commands: CommandReceiver) {
        let (delay, limit) = (self.snapshot.config.reloadable.drain_delay, self.snapshot.config.reloadable.drain_timeout);
        if !delay.is_zero() {
            info!(seconds = delay.as_secs(), "stopping: new requests are still served for the drain delay");
            self.run_commands_until(sleep(delay), &mut commands).await;
        }
        info!(seconds = limit.as_secs(), "draining");
        // The workers hold the last descriptors of the listening sockets now, and close them once the queues are empty.
        self.listeners.clear();
        drain.begin();
        let mut finished = self.workers.finished();
        let drained = timeout(limit, finished.recv());
        if self.run_commands_until(drained, &mut commands).await.is_err() {
            warn!("the drain time ran out: what is still in flight is cut off");
            // Requests that wait for a token were never sent, and hear so.
            let heard = async {
                end_accounts(&self.snapshot.accounts).await;
                finished.recv().await;
            };
            drop(timeout(LAST_ANSWERS, heard).await);
        }
        self.workers.stop(finished, STOP_WORKERS).await;
    }

    /// Carries out log-outs and refuses reloads until `end` is there. A log-out that has begun is finished first.
    async fn run_commands_until<T>(&self, end: impl Future<Output = T>, commands: &mut CommandReceiver) -> T {
        let mut end = pin!(end);
        loop {
            tokio::select! {
                biased;
                command = commands.next_while_draining() => match command {
                    Command::Urgent(UrgentCommand::LogOut(asked)) => self.log_out(asked, CLOSE_IDLE_WHILE_DRAINING).await,
                    // It can't be called off, and is under way.
                    Command::Urgent(UrgentCommand::Shutdown) => {}
                    // Its senders learn from that that the daemon is stopping.
                    Command::Reload(waiting) => drop(waiting),
                },
                outcome = &mut end => return outcome,
            }
        }
    }

    /// Logs out, and closes idle upstream connections, since their buffers may hold the token.
    pub(super) async fn log_out(&self, asked: LogOut, limit: Duration) {
        let logged_out = async {
            log_out_accounts(&self.snapshot.accounts, &asked).await;
            self.workers.close_idle(limit).await;
        };
        drop(timeout(limit, logged_out).await);
        confirm(asked);
    }
}
