//! Decides which message to systemd is due, from what was sent before and the daemon's state now.
//!
//! Pure. Guarantees: messages are in systemd's order, though changes may be seen late and several at once; after STOPPING
//! there is no READY.

use std::time::Duration;

use super::Reloads;
use crate::status::Phase;

/// The time beyond the drain for accounts to end and the log to be written.
const MARGIN: Duration = Duration::from_secs(5);

/// The daemon's state, as far as systemd is told.
pub(super) struct DaemonState {
    pub(super) phase: Phase,
    pub(super) reloads: Reloads,
    /// The longest time that a drain takes.
    pub(super) drain: Duration,
    /// The text of `STATUS=`, one line.
    pub(super) status: String,
}

/// What was sent so far.
#[derive(Default)]
pub(super) struct NotifyState {
    announced: Announced,
    begun: u64,
    ended: u64,
    status: String,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Announced {
    #[default]
    Nothing,
    Ready,
    Stopping,
}

impl NotifyState {
    /// The messages that are due, in order. `monotonic` is the reading of `CLOCK_MONOTONIC`.
    pub(super) fn messages(&mut self, state: DaemonState, monotonic: Duration) -> Vec<String> {
        let mut messages = self.lifecycle_messages(&state, monotonic);
        if self.status != state.status {
            let line = format!("STATUS={}", state.status);
            match messages.last_mut() {
                Some(last) => *last = format!("{last}\n{line}"),
                None => messages.push(line),
            }
            self.status = state.status;
        }
        messages
    }

    fn lifecycle_messages(&mut self, state: &DaemonState, monotonic: Duration) -> Vec<String> {
        let mut messages = Vec::new();
        match (self.announced, state.phase) {
            (Announced::Stopping, _) | (Announced::Nothing, Phase::Starting) => {}
            (_, Phase::Draining | Phase::Stopped) => {
                self.announced = Announced::Stopping;
                // The unit's own time-out does not know the settings' drain time.
                let time_out = (state.drain + MARGIN).as_micros();
                messages.push(format!("STOPPING=1\nEXTEND_TIMEOUT_USEC={time_out}"));
            }
            (Announced::Nothing, Phase::Running) => {
                self.announced = Announced::Ready;
                messages.push("READY=1".to_owned());
            }
            (Announced::Ready, _) => {
                if state.reloads.begun > self.begun {
                    messages.push(format!("RELOADING=1\nMONOTONIC_USEC={}", monotonic.as_micros()));
                }
                if state.reloads.ended > self.ended {
                    messages.push("READY=1".to_owned());
                }
            }
        }
        self.begun = state.reloads.begun;
        self.ended = state.reloads.ended;
        messages
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_micros(77);

    fn messages(notify_state: &mut NotifyState, phase: Phase, (begun, ended): (u64, u64), status: &str) -> Vec<String> {
        let reloads = Reloads { begun, ended, refused: None };
        notify_state.messages(DaemonState { phase, reloads, drain: Duration::from_secs(2), status: status.to_owned() }, NOW)
    }

    #[test]
    fn a_daemon_is_ready_reloads_and_stops() {
        let mut notify_state = NotifyState::default();
        for (phase, reloads, status, expected) in [
            (Phase::Starting, (0, 0), "a", vec!["STATUS=a"]),
            (Phase::Running, (0, 0), "b", vec!["READY=1\nSTATUS=b"]),
            (Phase::Running, (0, 0), "b", vec![]),
            (Phase::Running, (0, 0), "c", vec!["STATUS=c"]),
            (Phase::Running, (1, 0), "c", vec!["RELOADING=1\nMONOTONIC_USEC=77"]),
            (Phase::Running, (1, 0), "d", vec!["STATUS=d"]),
            (Phase::Running, (1, 1), "e", vec!["READY=1\nSTATUS=e"]),
            (Phase::Running, (2, 2), "f", vec!["RELOADING=1\nMONOTONIC_USEC=77", "READY=1\nSTATUS=f"]),
            (Phase::Draining, (2, 2), "g", vec!["STOPPING=1\nEXTEND_TIMEOUT_USEC=7000000\nSTATUS=g"]),
            (Phase::Stopped, (2, 2), "g", vec![]),
        ] {
            assert_eq!(messages(&mut notify_state, phase, reloads, status), expected, "{phase:?} {reloads:?} {status}");
        }
    }

    #[test]
    fn after_stopping_there_is_no_ready() {
        let mut notify_state = NotifyState::default();
        assert_eq!(messages(&mut notify_state, Phase::Draining, (0, 0), "a").len(), 1, "it was stopped before it was ready");
        assert_eq!(messages(&mut notify_state, Phase::Running, (0, 0), "a"), [""; 0]);
        // A reload whose end was not seen before the drain began.
        let mut notify_state = NotifyState::default();
        messages(&mut notify_state, Phase::Running, (1, 0), "a");
        let messages = messages(&mut notify_state, Phase::Draining, (1, 1), "a");
        assert!(messages.len() == 1 && messages[0].starts_with("STOPPING=1"), "{messages:?}");
    }
}
