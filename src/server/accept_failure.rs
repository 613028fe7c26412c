//! What an acceptor does when accept(2) has failed. Pure.
//!
//! Guarantees: an error of a client that gave up while it was queued holds up nobody; an error that stays, whatever it is, costs
//! one attempt a second in the end.

use std::{io, time::Duration};

use rustix::io::Errno;

/// The first and the longest pause after a failure that is not one client's.
const PAUSE: (Duration, Duration) = (Duration::from_millis(5), Duration::from_secs(1));

/// How many clients that give up may be queued one behind the other. More such failures in a row are the socket's own: it was shut
/// down, or a rule of the system keeps us from accepting.
const CLIENTS_IN_A_ROW: usize = 1000;

/// The failures of one acceptor since it accepted the last connection.
pub(super) struct AcceptFailures {
    clients: usize,
    pause: Duration,
}

impl Default for AcceptFailures {
    fn default() -> Self {
        Self { clients: 0, pause: PAUSE.0 }
    }
}

impl AcceptFailures {
    /// Takes note of a failure. `None`: it is about one client, and the next one may be there already.
    pub(super) fn failed(&mut self, error: &io::Error) -> Option<Pause> {
        if is_the_clients(error) && self.clients < CLIENTS_IN_A_ROW {
            self.clients += 1;
            return None;
        }
        let (length, is_first) = (self.pause, self.pause == PAUSE.0);
        self.pause = (length * 2).min(PAUSE.1);
        Some(Pause { length, is_first })
    }

    /// Takes note of a connection that was accepted. Tells whether there was a pause before.
    pub(super) fn accepted(&mut self) -> bool {
        std::mem::take(self).pause > PAUSE.0
    }
}

/// How long to wait before the next attempt.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Pause {
    pub(super) length: Duration,
    /// No other one came before it since the last connection was accepted.
    pub(super) is_first: bool,
}

/// Whether accept(2) failed for want of descriptors or memory, so that a connection which closes ends the failures.
pub(super) fn is_exhaustion(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::NOBUFS))
}

/// Says in words why accepting failed, and what an operator can do about it.
pub(super) fn why(error: &io::Error) -> String {
    match Errno::from_io_error(error) {
        Some(Errno::MFILE) => "no file descriptor is left (raise LimitNOFILE= or `ulimit -n`)".to_owned(),
        Some(Errno::NFILE) => "the machine has no file descriptor left".to_owned(),
        Some(Errno::INVAL) => "the socket no longer listens: whoever passed it has shut it down".to_owned(),
        _ => error.to_string(),
    }
}

/// Whether an error of accept(2) may be about one connection, and not about the socket.
fn is_the_clients(error: &io::Error) -> bool {
    use io::ErrorKind::{
        ConnectionAborted, ConnectionReset, Interrupted, InvalidInput, NotConnected, PermissionDenied, TimedOut,
    };
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionReset | Interrupted | InvalidInput | NotConnected | PermissionDenied | TimedOut
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_gave_up_makes_no_pause_and_an_error_that_stays_does_whatever_it_is() {
        for errno in [Errno::INVAL, Errno::PERM, Errno::ACCESS, Errno::CONNABORTED, Errno::NOTCONN] {
            let (mut failures, error) = (AcceptFailures::default(), errno.into());
            assert!((0..CLIENTS_IN_A_ROW).all(|_| failures.failed(&error).is_none()), "{errno}");
            assert_eq!(failures.failed(&error), Some(Pause { length: PAUSE.0, is_first: true }), "{errno}");
            assert_eq!(failures.failed(&error), Some(Pause { length: 2 * PAUSE.0, is_first: false }), "{errno}");
            assert!(failures.accepted() && failures.failed(&error).is_none() && !failures.accepted(), "{errno}");
        }
    }

    #[test]
    fn pauses_grow_to_a_second_and_begin_anew_once_a_connection_was_accepted() {
        for errno in [Errno::MFILE, Errno::NOBUFS, Errno::OPNOTSUPP, Errno::BADF] {
            let (mut failures, error) = (AcceptFailures::default(), errno.into());
            let mut next = || failures.failed(&error).unwrap();
            assert_eq!(next(), Pause { length: PAUSE.0, is_first: true }, "{errno}");
            let longest = (0..20).map(|_| next()).max_by_key(|pause| pause.length).unwrap();
            assert_eq!(longest, Pause { length: PAUSE.1, is_first: false }, "{errno}");
            assert!(failures.accepted());
            assert_eq!(failures.failed(&error).map(|pause| pause.length), Some(PAUSE.0), "{errno}");
        }
    }
}
