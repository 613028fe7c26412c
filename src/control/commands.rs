//! The commands that wait for the daemon: a shutdown, log-outs and one reload.
//!
//! This is no queue in which one command can hide behind others. A shutdown and a log-out always come before a reload,
//! and are never dropped. Reloads are merged: however many are asked for while one runs, one more follows. Guarantees:
//! what waits is bounded; once the daemon has ended, every command that still waits for an outcome learns that.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, oneshot};

/// Outcomes of reloads, and of log-outs, that may be waited for at a time. The control socket has connections for more than
/// these and as many log-ins, so that a shutdown always finds one.
pub(super) const WAITING_MAX: usize = 64;

/// Why a reload changed nothing: each reason in words, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotReloaded(pub Vec<String>);

/// The outcome of a reload.
pub type ReloadOutcome = Result<(), NotReloaded>;

/// Sends commands to a daemon. Clones send to the same one.
#[derive(Clone)]
pub struct Commands(Arc<Waiting>);

/// The daemon's end: gives the commands in the order of their urgency.
pub struct CommandReceiver(Arc<Waiting>);

/// A log-out, as one or more senders asked for it.
#[derive(Debug)]
pub struct LogOut {
    /// The account's name; `None`: every account.
    pub account: Option<String>,
    /// The senders that wait until the tokens are gone.
    pub done: Vec<oneshot::Sender<()>>,
}

/// A command that can't wait until a reload is over.
#[derive(Debug)]
pub enum UrgentCommand {
    /// Drain and end. Once given, it is given again at every call.
    Shutdown,
    /// Forget tokens; only an explicit log-in, or a restart, brings new ones.
    LogOut(LogOut),
}

/// A command, the most urgent one first.
#[derive(Debug)]
pub enum Command {
    /// See [`UrgentCommand`].
    Urgent(UrgentCommand),
    /// Read the settings again, and tell these senders the outcome.
    Reload(Vec<oneshot::Sender<ReloadOutcome>>),
}

/// Why a command was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotTaken {
    /// The daemon has ended.
    Ended,
    /// Too many senders wait for the same.
    Busy,
}

struct Waiting {
    pending: Mutex<Pending>,
    changed: Notify,
}

#[derive(Default)]
struct Pending {
    ended: bool,
    shutdown: bool,
    log_outs: Vec<LogOut>,
    /// `None`: no reload is asked for.
    reload: Option<Vec<oneshot::Sender<ReloadOutcome>>>,
}

/// Makes both ends.
#[must_use]
pub fn commands() -> (Commands, CommandReceiver) {
    let waiting = Arc::new(Waiting { pending: Mutex::default(), changed: Notify::new() });
    (Commands(Arc::clone(&waiting)), CommandReceiver(waiting))
}

impl Waiting {
    fn lock(&self) -> MutexGuard<'_, Pending> {
        // Nothing panics while the lock is held, so what it guards is whole.
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Commands {
    /// Has the daemon drain and end. It can't be called off. Nothing delays it by more than the two seconds that a log-out, or
    /// the last step of a reload, may take.
    pub fn shut_down(&self) {
        self.0.lock().shutdown = true;
        self.0.changed.notify_one();
    }

    /// Has the daemon forget the tokens of `account`, or of every account. The receiver hears when they are gone; its
    /// sender is dropped when the daemon ends before.
    ///
    /// # Errors
    ///
    /// The daemon has ended, or too many wait for the same.
    pub fn log_out(&self, account: Option<&str>) -> Result<oneshot::Receiver<()>, NotTaken> {
        let (done, outcome) = oneshot::channel();
        let mut pending = self.0.lock();
        if pending.ended {
            return Err(NotTaken::Ended);
        }
        let is_full = pending.log_outs.len() >= WAITING_MAX;
        match pending.log_outs.iter_mut().find(|known| known.account.as_deref() == account) {
            Some(known) => {
                known.done.retain(|waiting| !waiting.is_closed());
                if known.done.len() >= WAITING_MAX {
                    return Err(NotTaken::Busy);
                }
                known.done.push(done);
            }
            None if is_full => return Err(NotTaken::Busy),
            None => pending.log_outs.push(LogOut { account: account.map(str::to_owned), done: vec![done] }),
        }
        drop(pending);
        self.0.changed.notify_one();
        Ok(outcome)
    }

    /// Has the daemon read its settings again: once more, if a reload runs. The receiver hears the outcome; its sender is
    /// dropped when the daemon ends before.
    ///
    /// # Errors
    ///
    /// The daemon has ended, or too many wait for the same.
    pub fn reload(&self) -> Result<oneshot::Receiver<ReloadOutcome>, NotTaken> {
        let (done, outcome) = oneshot::channel();
        let mut pending = self.0.lock();
        if pending.ended {
            return Err(NotTaken::Ended);
        }
        let waiting = pending.reload.get_or_insert_default();
        waiting.retain(|waiting| !waiting.is_closed());
        if waiting.len() >= WAITING_MAX {
            return Err(NotTaken::Busy);
        }
        waiting.push(done);
        drop(pending);
        self.0.changed.notify_one();
        Ok(outcome)
    }
}

impl CommandReceiver {
    /// The most urgent command, once there is one. Cancelling it loses none.
    pub async fn next(&mut self) -> Command {
        self.first(|pending| {
            let urgent = pending.urgent().map(Command::Urgent);
            urgent.or_else(|| pending.reload.take().map(Command::Reload))
        })
        .await
    }

    /// The next command that interrupts a reload or a start. Cancelling it loses none.
    pub async fn urgent(&mut self) -> UrgentCommand {
        self.first(Pending::urgent).await
    }

    /// The next command that still counts once a shutdown is under way: a log-out, or a reload to refuse. Cancelling it
    /// loses none.
    pub async fn next_while_draining(&mut self) -> Command {
        self.first(|pending| {
            let log_out = pending.log_out().map(|log_out| Command::Urgent(UrgentCommand::LogOut(log_out)));
            log_out.or_else(|| pending.reload.take().map(Command::Reload))
        })
        .await
    }

    /// Whether a shutdown was asked for.
    #[must_use]
    pub fn is_shut_down(&self) -> bool {
        self.0.lock().shutdown
    }

    async fn first<T>(&mut self, take: impl Fn(&mut Pending) -> Option<T>) -> T {
        loop {
            if let Some(command) = take(&mut self.0.lock()) {
                return command;
            }
            // A command that was sent since the look above has left a permit.
            self.0.changed.notified().await;
        }
    }
}

impl Drop for CommandReceiver {
    fn drop(&mut self) {
        *self.0.lock() = Pending { ended: true, ..Pending::default() };
    }
}

impl Pending {
    fn urgent(&mut self) -> Option<UrgentCommand> {
        if self.shutdown { Some(UrgentCommand::Shutdown) } else { self.log_out().map(UrgentCommand::LogOut) }
    }

    /// The oldest log-out.
    fn log_out(&mut self) -> Option<LogOut> {
        (!self.log_outs.is_empty()).then(|| self.log_outs.remove(0))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    /// Time that passes only when nothing else can happen.
    const IDLE: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn a_shutdown_comes_before_any_number_of_reloads_and_log_outs() {
        let (commands, mut given) = commands();
        for _ in 0..1000 {
            drop(commands.reload());
            drop(commands.log_out(None));
        }
        commands.shut_down();
        assert!(matches!(given.next().await, Command::Urgent(UrgentCommand::Shutdown)));
        assert!(matches!(given.urgent().await, UrgentCommand::Shutdown), "it can't be called off");
    }

    #[tokio::test(start_paused = true)]
    async fn a_log_out_comes_before_a_reload() {
        let (commands, mut given) = commands();
        let mut reloaded = commands.reload().unwrap();
        let mut logged_out = commands.log_out(Some("crm")).unwrap();
        let Command::Urgent(UrgentCommand::LogOut(log_out)) = given.next().await else { panic!("the log-out comes first") };
        assert_eq!(log_out.account.as_deref(), Some("crm"));
        assert!(logged_out.try_recv().is_err());
        for done in log_out.done {
            done.send(()).unwrap();
        }
        logged_out.await.unwrap();
        let Command::Reload(waiting) = given.next().await else { panic!("then the reload") };
        assert_eq!(waiting.len(), 1);
        assert!(reloaded.try_recv().is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn reloads_that_wait_are_one() {
        let (commands, mut given) = commands();
        let outcomes: Vec<_> = (0..WAITING_MAX).map(|_| commands.reload().unwrap()).collect();
        assert_eq!(commands.reload().unwrap_err(), NotTaken::Busy);
        let Command::Reload(waiting) = given.next().await else { panic!("a reload") };
        for done in waiting {
            done.send(Ok(())).unwrap();
        }
        for outcome in outcomes {
            assert_eq!(outcome.await.unwrap(), Ok(()));
        }
        assert!(timeout(IDLE, given.next()).await.is_err(), "there is nothing more to do");
    }

    #[tokio::test(start_paused = true)]
    async fn senders_that_no_longer_wait_take_no_room() {
        let (commands, _given) = commands();
        for _ in 0..3 * WAITING_MAX {
            drop(commands.reload().unwrap());
            drop(commands.log_out(None).unwrap());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn while_draining_a_shutdown_hides_nothing() {
        let (commands, mut given) = commands();
        commands.shut_down();
        drop(commands.log_out(None));
        drop(commands.reload());
        assert!(matches!(given.next_while_draining().await, Command::Urgent(UrgentCommand::LogOut(_))));
        assert!(matches!(given.next_while_draining().await, Command::Reload(_)));
    }

    #[tokio::test(start_paused = true)]
    async fn the_daemons_end_is_told_to_everybody_who_waits() {
        let (commands, given) = commands();
        let (reloaded, logged_out) = (commands.reload().unwrap(), commands.log_out(None).unwrap());
        drop(given);
        assert!(reloaded.await.is_err() && logged_out.await.is_err());
        assert_eq!(commands.reload().unwrap_err(), NotTaken::Ended);
        assert_eq!(commands.log_out(None).unwrap_err(), NotTaken::Ended);
        commands.shut_down();
    }

    #[tokio::test(start_paused = true)]
    async fn a_command_that_comes_while_the_daemon_waits_wakes_it() {
        let (commands, mut given) = commands();
        let waiting = tokio::spawn(async move { given.urgent().await });
        tokio::task::yield_now().await;
        drop(commands.reload());
        tokio::task::yield_now().await;
        commands.shut_down();
        assert!(matches!(waiting.await.unwrap(), UrgentCommand::Shutdown));
    }
}
