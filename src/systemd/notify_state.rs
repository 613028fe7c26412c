//! Which message is due, from what was said so far and how things are now.
//!
//! Pure. Changes may be seen late, and several at once; what is said is in order all the same.

use std::time::Duration;

use super::Reloads;
use crate::status::Phase;

/// How things are.
pub(super) struct Scene {
    pub(super) phase: Phase,
    pub(super) reloads: Reloads,
    /// The longest that a drain takes.
    pub(super) drain: Duration,
    /// One line.
    pub(super) status: String,
}

/// What was said so far.
#[derive(Default)]
pub(super) struct NotifyState {
    told: Told,
    begun: u64,
    ended: u64,
    status: String,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Told {
    #[default]
    Nothing,
    Ready,
    Stopping,
}

impl NotifyState {
    /// Each message that is due, in order. `monotonic`: the reading of `CLOCK_MONOTONIC`.
    pub(super) fn go_on(&mut self, scene: Scene, monotonic: Duration) -> Vec<String> {
        let mut messages: Vec<String> = self.news(&scene, monotonic).into_iter().collect();
        if self.status != scene.status {
            let line = format!("STATUS={}", scene.status);
            match messages.last_mut() {
                Some(last) => *last = format!("{last}\n{line}"),
                None => messages.push(line),
            }
            self.status = scene.status;
        }
        messages
    }

    fn news(&mut self, scene: &Scene, monotonic: Duration) -> Vec<String> {
        let mut messages = Vec::new();
        match (self.told, scene.phase) {
            (Told::Stopping, _) | (Told::Nothing, Phase::Starting) => {}
            (_, Phase::Draining | Phase::Stopped) => {
                self.told = Told::Stopping;
                // The unit need not know the settings' drain times.
                let patience = (scene.drain + MARGIN).as_micros();
                messages.push(format!("STOPPING=1\nEXTEND_TIMEOUT_USEC={patience}"));
            }
            (Told::Nothing, Phase::Running) => {
                self.told = Told::Ready;
                messages.push("READY=1".to_owned());
            }
            (Told::Ready, _) => {
                if scene.reloads.begun > self.begun {
                    messages.push(format!("RELOADING=1\nMONOTONIC_USEC={}", monotonic.as_micros()));
                }
                if scene.reloads.ended > self.ended {
                    messages.push("READY=1".to_owned());
                }
            }
        }
        self.begun = scene.reloads.begun;
        self.ended = scene.reloads.ended;
        messages
    }
}

/// For accounts to end and the log to be written.
const MARGIN: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_micros(77);

    fn tell(notify_state: &mut NotifyState, phase: Phase, (begun, ended): (u64, u64), status: &str) -> Vec<String> {
        let reloads = Reloads { begun, ended, refused: None };
        notify_state.go_on(Scene { phase, reloads, drain: Duration::from_secs(2), status: status.to_owned() }, NOW)
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
            assert_eq!(tell(&mut notify_state, phase, reloads, status), expected, "{phase:?} {reloads:?} {status}");
        }
    }

    #[test]
    fn after_stopping_there_is_no_ready() {
        let mut notify_state = NotifyState::default();
        assert_eq!(tell(&mut notify_state, Phase::Draining, (0, 0), "a").len(), 1, "it was stopped before it was ready");
        assert_eq!(tell(&mut notify_state, Phase::Running, (0, 0), "a"), [""; 0]);
        // A reload whose end was not seen before the drain began.
        let mut notify_state = NotifyState::default();
        tell(&mut notify_state, Phase::Running, (1, 0), "a");
        let messages = tell(&mut notify_state, Phase::Draining, (1, 1), "a");
        assert!(messages.len() == 1 && messages[0].starts_with("STOPPING=1"), "{messages:?}");
    }
}
