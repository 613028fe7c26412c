//! What systemd is told of a daemon that it runs (`sd_notify(3)`), and the watchdog that it is to be fed.
//!
//! Depends on `status`, `liveness`, and `config`'s [`Environment`]. Guarantees: nothing but counts, names, states and times is
//! said, since `systemctl status` shows it to everybody; after STOPPING there is no READY; the watchdog is fed only after
//! every worker has answered.
//!
//! Files, each using only those before it: `status_text` (pure), `notify_state` (pure).

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

use self::notify_state::{NotifyState, Scene};
use crate::{
    clock,
    config::source::Environment,
    liveness::LivenessProbe,
    status::{Phase, StatusReader, View},
};

/// The way to the service manager that started this process.
pub struct Systemd {
    /// Connected. It wants messages.
    socket: UnixDatagram,
    /// After so long without a sign of life it kills us.
    watchdog: Option<Duration>,
}

/// Reloads so far. They follow each other: at most one is under way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reloads {
    /// How many have been asked for.
    pub begun: u64,
    /// How many are over.
    pub ended: u64,
    /// Faults of the last one, when it was refused.
    pub refused: Option<usize>,
}

impl Reloads {
    /// One more is under way.
    pub fn begin(&mut self) {
        self.begun += 1;
    }

    /// It is over; `refused`: for so many faults.
    pub fn end(&mut self, refused: Option<usize>) {
        *self = Self { begun: self.begun, ended: self.begun, refused };
    }
}

impl Systemd {
    /// As `NOTIFY_SOCKET` and `WATCHDOG_USEC` say; `None` when nobody wants to be told.
    pub fn of(environment: &Environment) -> io::Result<Option<Self>> {
        let Some(address) = environment.get(NOTIFY_SOCKET).filter(|address| !address.is_empty()) else { return Ok(None) };
        let socket = UnixDatagram::unbound()?;
        connect(&socket, address)?;
        socket.set_nonblocking(true)?;
        Ok(Some(Self { socket, watchdog: watchdog(environment, std::process::id()) }))
    }

    /// Tells it what happens, until the daemon has stopped. Needs a tokio runtime.
    pub async fn tell(self, status: StatusReader, liveness: LivenessProbe, reloads: watch::Receiver<Reloads>) {
        let Ok(socket) = tokio::net::UnixDatagram::from_std(self.socket) else { return };
        let fed = async {
            match self.watchdog {
                Some(limit) => feed(&socket, &liveness, limit).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = narrate(&socket, status, reloads) => {}
            () = fed => {}
        }
    }
}

/// Both kinds of address: a path, or a name in the kernel's abstract namespace, which is written with an `@`.
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

/// The limit, when it is meant for the process of that number.
fn watchdog(environment: &Environment, process: u32) -> Option<Duration> {
    let number = |name| environment.get(name)?.to_str()?.parse::<u64>().ok();
    let is_ours = environment.get(WATCHDOG_PID).is_none() || number(WATCHDOG_PID) == Some(process.into());
    number(WATCHDOG_USEC).filter(|limit| is_ours && *limit > 0).map(Duration::from_micros)
}

async fn narrate(socket: &tokio::net::UnixDatagram, mut status: StatusReader, mut reloads: watch::Receiver<Reloads>) {
    let stirred = Arc::new(Notify::new());
    let mut watched = JoinSet::new();
    watch_accounts(&mut watched, &status.view.borrow_and_update(), &stirred);
    let mut notify_state = NotifyState::default();
    loop {
        let phase = *status.phase.borrow_and_update();
        let reloads_so_far = *reloads.borrow_and_update();
        let view = Arc::clone(&status.view.borrow());
        let now = status.clock.now().wall;
        let text = status_text::status(phase, &view, reloads_so_far.refused, now);
        let scene = Scene { phase, reloads: reloads_so_far, drain: view.drain, status: text };
        for message in notify_state.go_on(scene, clock::monotonic()) {
            // Whoever does not listen any more misses nothing.
            let _ = socket.send(message.as_bytes()).await;
        }
        if phase == Phase::Stopped {
            return;
        }
        tokio::select! {
            Ok(()) = status.phase.changed() => {}
            Ok(()) = reloads.changed() => {}
            Ok(()) = status.view.changed() => watch_accounts(&mut watched, &status.view.borrow_and_update(), &stirred),
            () = stirred.notified() => {}
            // All of them are gone, and the daemon with them.
            else => return,
        }
    }
}

/// From now on each change of one of these accounts' states knocks; no other account's does.
fn watch_accounts(watched: &mut JoinSet<()>, view: &View, stirred: &Arc<Notify>) {
    *watched = JoinSet::new();
    for account in &view.accounts {
        let (mut phase, stirred) = (account.subscribe(), Arc::clone(stirred));
        watched.spawn(async move {
            while phase.changed().await.is_ok() {
                stirred.notify_one();
            }
        });
    }
}

/// Asks the workers three times within `limit`, so that one late answer is no end.
async fn feed(socket: &tokio::net::UnixDatagram, liveness: &LivenessProbe, limit: Duration) {
    let period = limit / 3;
    let mut rounds = tokio::time::interval(period);
    rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut turned = true;
    loop {
        rounds.tick().await;
        let turns = liveness.turns(period).await;
        if turns {
            let _ = socket.send(b"WATCHDOG=1").await;
        }
        match (turned, turns) {
            (true, false) => warn!(limit_s = limit.as_secs(), "a worker does not answer: the watchdog is not fed"),
            (false, true) => info!("every worker answers again"),
            _ => {}
        }
        turned = turns;
    }
}

const NOTIFY_SOCKET: &str = "NOTIFY_SOCKET";
const WATCHDOG_USEC: &str = "WATCHDOG_USEC";
const WATCHDOG_PID: &str = "WATCHDOG_PID";

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
