//! The running daemon: it carries out commands one after the other, and drains at the end.

use std::sync::Arc;

use tokio::{
    sync::{Notify, mpsc, oneshot, watch},
    time::timeout,
};
use tracing::{info, warn};

use super::{
    listeners::{Listener, PassedSockets},
    snapshot::Snapshot,
    worker::{WorkerCommand, Workers},
};
use crate::{
    clock::Clock,
    config::source::Input,
    control::{Command, NotReloaded},
    hardening::Sandbox,
    logging::LogControl,
    metrics::Metrics,
    status::View,
    systemd::Reloads,
};

/// Commands of the control socket that may wait while one is carried out.
pub(super) const CONTROL_COMMANDS: usize = 16;

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
}

/// Where a reload reads the settings, who adopts their log settings, and the sandbox that limits what they may name.
pub(super) struct ReloadSource {
    pub(super) input: Input,
    pub(super) log: LogControl,
    /// `None`: the settings may name any path.
    pub(super) sandbox: Option<Sandbox>,
}

/// The channels that commands come through.
pub(super) struct CommandSources {
    /// Signals; under `exec`, the supervisor.
    pub(super) commands: mpsc::Receiver<Command>,
    /// `POST /quitquitquit`.
    pub(super) quit: Arc<Notify>,
    /// The control socket; closed when there is none.
    pub(super) control: mpsc::Receiver<Command>,
}

impl CommandSources {
    /// The next command; `None` when no sender of signals is left. Cancelling it loses no command.
    async fn next(&mut self) -> Option<Command> {
        tokio::select! {
            command = self.commands.recv() => command,
            () = self.quit.notified() => Some(Command::Shutdown),
            Some(command) = self.control.recv() => Some(command),
        }
    }
}

impl Daemon {
    /// Carries out commands until a `Shutdown`, or until nobody can send one.
    pub(super) async fn run_commands(&mut self, sources: &mut CommandSources) {
        while let Some(command) = sources.next().await {
            match command {
                Command::Shutdown => return,
                Command::LogOut { account, done } => self.log_out(account.as_deref(), done).await,
                Command::Reload { done } => {
                    self.reloads.send_modify(Reloads::begin);
                    let outcome = self.reload().await;
                    let faults = outcome.as_ref().err().map(|NotReloaded(reasons)| reasons.len());
                    self.reloads.send_modify(|reloads| reloads.end(faults));
                    // The sender of the command may no longer wait for it.
                    drop(done.map(|done| done.send(outcome)));
                }
            }
        }
    }

    /// Drains: new requests are served for `drain_delay`, requests in flight have `drain_timeout` to finish, and then the
    /// workers stop.
    pub(super) async fn drain(mut self, begun: &watch::Sender<bool>, mut sources: CommandSources) {
        let (delay, limit) = (self.snapshot.config.reloadable.drain_delay, self.snapshot.config.reloadable.drain_timeout);
        if !delay.is_zero() {
            info!(seconds = delay.as_secs(), "stopping: new requests are still served for the drain delay");
            drop(timeout(delay, self.run_commands_while_draining(&mut sources)).await);
        }
        info!(seconds = limit.as_secs(), "draining");
        // The workers hold the last descriptors of the listening sockets now, and close them once the queues are empty.
        self.listeners.clear();
        begun.send_replace(true);
        let mut finished = self.workers.finished();
        let ended = async {
            tokio::select! {
                () = self.run_commands_while_draining(&mut sources) => std::future::pending().await,
                _ = finished.recv() => {}
            }
        };
        if timeout(limit, ended).await.is_err() {
            warn!("the drain time ran out: what is still in flight is cut off");
        }
        self.workers.command(|| WorkerCommand::Stop).await;
        self.workers.join();
    }

    /// Carries out log-outs and refuses reloads until nobody can send a command. A shutdown can't be called off.
    async fn run_commands_while_draining(&self, sources: &mut CommandSources) {
        while let Some(command) = sources.next().await {
            match command {
                Command::LogOut { account, done } => self.log_out(account.as_deref(), done).await,
                Command::Reload { done: Some(done) } => {
                    drop(done.send(Err(NotReloaded(vec!["the daemon is stopping".to_owned()]))));
                }
                Command::Reload { done: None } | Command::Shutdown => {}
            }
        }
    }

    /// Logs out the account named `only`, or all. Idle upstream connections are closed too, since their buffers may hold
    /// the token.
    async fn log_out(&self, only: Option<&str>, done: Option<oneshot::Sender<()>>) {
        for account in self.snapshot.accounts.iter().filter(|account| only.is_none_or(|name| account.name() == name)) {
            account.log_out().await;
        }
        self.workers.command(|| WorkerCommand::CloseIdle).await;
        if let Some(done) = done {
            // The sender of the command may no longer wait for it.
            done.send(()).unwrap_or(());
        }
    }
}
