//! Tells systemd how the daemon is (`sd_notify(3)`), and feeds its watchdog.
//!
//! Guarantees: it sends only counts, names, states and times, since `systemctl status` shows them to everybody; after
//! STOPPING there is no READY; it feeds the watchdog only after every worker has answered.
//!
//! Files, each using only those before it: `status_text`, `notify_state` (pure).

mod notify_state;
mod status_text;

use std::{
    ffi::OsStr,
    io,
    os::unix::{ffi::OsStrExt, net::UnixDatagram},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::{Notify, watch},
    task::JoinSet,
    time::MissedTickBehavior,
};
use tracing::{info, warn};

use self::notify_state::{DaemonState, NotifyState};
use crate::{
    clock,
    config::source::Environment,
    liveness::LivenessProbe,
    status::{Phase, StatusReader, View},
};

const NOTIFY_SOCKET: &str = "NOTIFY_SOCKET";
const WATCHDOG_USEC: &str = "WATCHDOG_USEC";
const WATCHDOG_PID: &str = "WATCHDOG_PID";

/// The connection to the service manager that started this process.
pub struct Systemd {
    /// A datagram socket, connected to `$NOTIFY_SOCKET`.
    socket: UnixDatagram,
    /// systemd kills the process after this time without a message from it.
    watchdog: Option<Duration>,
}

/// Counts reloads. They follow each other: at most one is under way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reloads {
    /// The number of reloads that have begun.
    pub begun: u64,
    /// The number of reloads that have ended.
    pub ended: u64,
    /// The number of faults for which the last one was refused, if it was.
    pub refused: Option<usize>,
}

impl Reloads {
    /// Tells the service manager that another reload begins.
    pub fn begin(&mut self) {
        self.begun += 1;
    }

    /// The reload ends; `refused` is the number of faults for which it was refused, if it was.
    pub fn end(&mut self, refused: Option<usize>) {
        *self = Self { begun: self.begun, ended: self.begun, refused };
    }
}

impl Systemd {
    /// Connects as `NOTIFY_SOCKET` and `WATCHDOG_USEC` say; `None` when the environment names no socket.
    ///
    /// # Errors
    ///
    /// The socket can't be reached.
    pub fn of(environment: &Environment) -> io::Result<Option<Self>> {
        let Some(address) = environment.get(NOTIFY_SOCKET).filter(|address| !address.is_empty()) else { return Ok(None) };
        let socket = UnixDatagram::unbound()?;
        connect(&socket, address)?;
        socket.set_nonblocking(true)?;
        Ok(Some(Self { socket, watchdog: watchdog(environment, std::process::id()) }))
    }

    /// Sends what happens, until the daemon has stopped. It needs a tokio runtime.
    pub async fn tell(self, status: StatusReader, liveness: LivenessProbe, reloads: watch::Receiver<Reloads>) {
        let Ok(socket) = tokio::net::UnixDatagram::from_std(self.socket) else { return };
        let fed = async {
            match self.watchdog {
                Some(limit) => feed(&socket, &liveness, limit).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = report(&socket, status, reloads) => {}
            () = fed => {}
        }
    }
}

/// Connects to a path, or to a name in the kernel's abstract namespace, which is written with an `@`.
fn connect(socket: &UnixDatagram, address: &OsStr) -> io::Result<()> {
    match address.as_bytes().strip_prefix(b"@") {
        #[cfg(target_os = "linux")]
        Some(name) => {
            use std::os::linux::net::SocketAddrExt;
            socket.connect_addr(&std::os::unix::net::SocketAddr::from_abstract_name(name)?)
        }
        _ => socket.connect(address),
    }
}

/// The watchdog's limit, when it is meant for the process of that number.
fn watchdog(environment: &Environment, process: u32) -> Option<Duration> {
    let number = |name| environment.get(name)?.to_str()?.parse::<u64>().ok();
    let is_ours = environment.get(WATCHDOG_PID).is_none() || number(WATCHDOG_PID) == Some(process.into());
    number(WATCHDOG_USEC).filter(|limit| is_ours && *limit > 0).map(Duration::from_micros)
}

async fn report(socket: &tokio::net::UnixDatagram, mut status: StatusReader, mut reloads: watch::Receiver<Reloads>) {
    let account_changed = Arc::new(Notify::new());
    let mut watched = JoinSet::new();
    watch_accounts(&mut watched, &status.view.borrow_and_update(), &account_changed);
    let mut api_changed = status.states.changes();
    let mut notify_state = NotifyState::default();
    loop {
        let phase = *status.phase.borrow_and_update();
        let reloads_so_far = *reloads.borrow_and_update();
        let view = Arc::clone(&status.view.borrow());
        let now = status.clock.now();
        let troubles = status.troubles(&view, now);
        api_changed.mark_unchanged();
        let text = status_text::status(phase, &view, &troubles, reloads_so_far.refused, now);
        let state = DaemonState { phase, reloads: reloads_so_far, drain: view.drain, status: text };
        for message in notify_state.messages(state, clock::monotonic()) {
            // systemd may have gone; then nobody misses the message.
            let _ = socket.send(message.as_bytes()).await;
        }
        if phase == Phase::Stopped {
            return;
        }
        tokio::select! {
            Ok(()) = status.phase.changed() => {}
            Ok(()) = reloads.changed() => {}
            Ok(()) = status.view.changed() => watch_accounts(&mut watched, &status.view.borrow_and_update(), &account_changed),
            () = account_changed.notified() => {}
            Ok(()) = api_changed.changed() => {}
            // The senders are gone, and the daemon with them.
            else => return,
        }
    }
}

/// Notifies `account_changed` whenever one of the view's accounts changes, and for no account of an earlier view.
fn watch_accounts(watched: &mut JoinSet<()>, view: &View, account_changed: &Arc<Notify>) {
    *watched = JoinSet::new();
    for account in &view.accounts {
        let (mut snapshots, account_changed) = (account.subscribe(), Arc::clone(account_changed));
        watched.spawn(async move {
            while snapshots.changed().await.is_ok() {
                account_changed.notify_one();
            }
        });
    }
}

/// Feeds the watchdog while every worker answers. It asks three times within `limit`, so that one late answer does not end
/// the daemon.
async fn feed(socket: &tokio::net::UnixDatagram, liveness: &LivenessProbe, limit: Duration) {
    let period = limit / 3;
    let mut rounds = tokio::time::interval(period);
    rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut answered = true;
    loop {
        rounds.tick().await;
        let answers = liveness.turns(period).await;
        if answers {
            let _ = socket.send(b"WATCHDOG=1").await;
        }
        match (answered, answers) {
            (true, false) => warn!(limit_s = limit.as_secs(), "a worker does not answer: the watchdog is not fed"),
            (false, true) => info!("every worker answers again"),
            _ => {}
        }
        answered = answers;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(variables: &[(&str, &str)]) -> Environment {
        variables.iter().copied().collect()
    }

    #[test]
    fn nobody_is_told_when_nobody_asked() {
        for variables in [&[][..], &[(NOTIFY_SOCKET, "")]] {
            assert!(Systemd::of(&environment(variables)).unwrap().is_none());
        }
        assert!(Systemd::of(&environment(&[(NOTIFY_SOCKET, "/nowhere/at/all")])).is_err());
    }

    #[test]
    fn the_watchdog_is_for_the_process_that_it_names() {
        for (variables, expected) in [
            (vec![(WATCHDOG_USEC, "3000000")], Some(3)),
            (vec![(WATCHDOG_USEC, "3000000"), (WATCHDOG_PID, "7")], Some(3)),
            (vec![(WATCHDOG_USEC, "3000000"), (WATCHDOG_PID, "8")], None),
            (vec![(WATCHDOG_USEC, "3000000"), (WATCHDOG_PID, "x")], None),
            (vec![(WATCHDOG_USEC, "0")], None),
            (vec![(WATCHDOG_USEC, "often")], None),
            (vec![], None),
        ] {
            assert_eq!(watchdog(&environment(&variables), 7), expected.map(Duration::from_secs), "{variables:?}");
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn an_abstract_name_is_an_address_too() {
        use std::os::linux::net::SocketAddrExt;
        let name = format!("careportals-sidecar-test-{}", std::process::id());
        let address = std::os::unix::net::SocketAddr::from_abstract_name(&name).unwrap();
        let systemd = UnixDatagram::bind_addr(&address).unwrap();
        let told = Systemd::of(&environment(&[(NOTIFY_SOCKET, &format!("@{name}"))])).unwrap().unwrap();
        told.socket.send(b"READY=1").unwrap();
        let mut message = [0; 16];
        let length = systemd.recv(&mut message).unwrap();
        assert_eq!(&message[..length], b"READY=1");
    }
}
