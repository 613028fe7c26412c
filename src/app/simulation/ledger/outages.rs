//! Judges the waits between log-ins that fail for a long time, in one way or in several (`docs/fleet.md`).

use std::time::Duration;

use super::Ledger;
use crate::app::simulation::servers::{ACCOUNTS, Mood, account_of};

/// No server may ask for a longer wait.
const LONGEST_ASKED: u64 = 900;
/// After so many failures a random wait is added to the one that the server asked for.
const ASKED_ALONE: u32 = 2;
/// The waits after refusals, and the one after all later ones.
const AFTER_REFUSALS: [u64; 4] = [60, 120, 240, 480];
/// How much earlier or later a log-in may arrive: connections and timers take their time.
const EARLY: Duration = Duration::from_millis(100);
const LATE: Duration = Duration::from_millis(300);

/// The shortest and the longest wait after the failure of that number in a row, in seconds.
fn waits(mood: Mood, failure: u32) -> (u64, u64) {
    let random = 2_u64.saturating_pow(failure).min(60);
    let added = if failure > ASKED_ALONE { random } else { 0 };
    match mood {
        Mood::Status(429 | 503, Some(asked)) => {
            let asked = u64::from(asked).min(LONGEST_ASKED);
            ((asked + u64::from(added > 0)).min(900), (asked + added).min(900))
        }
        _ if is_refusal(mood) => {
            let wait = AFTER_REFUSALS.get(failure as usize - 1).copied().unwrap_or(900);
            (wait, wait)
        }
        _ => (1, random),
    }
}

impl Ledger {
    /// How many log-ins of each account have arrived so far.
    pub(in crate::app::simulation) fn log_ins_so_far(&self) -> [usize; ACCOUNTS.len()] {
        [0, 1].map(|account: usize| self.log_ins[account].len())
    }

    /// A log-in has arrived, and will be answered so.
    pub(in crate::app::simulation) fn will_answer(&mut self, at: Duration, organization: &str, mood: Mood) {
        self.answers[account_of(organization)].push((at, mood));
    }

    /// Each log-in since `began` has failed, so many after it took `took`. Failures of one kind do not make the waits after those of
    /// the other kind begin anew.
    pub(in crate::app::simulation) fn judge_outage(&mut self, at: Duration, began: Duration, took: Duration) {
        for (account, name) in ACCOUNTS.iter().enumerate() {
            let arrived: Vec<_> = self.answers[account].iter().copied().filter(|(then, _)| *then >= began).collect();
            if arrived.is_empty() {
                self.break_promise(at, format!("the token of {name} has ended in an outage, and nobody has logged in"));
            }
            let (mut refusals, mut failures) = (0, 0);
            for (index, (then, mood)) in arrived.iter().enumerate() {
                let count = if is_refusal(*mood) { &mut refusals } else { &mut failures };
                *count += 1;
                let (least, most) = waits(*mood, *count);
                let (least, most) = (Duration::from_secs(least), Duration::from_secs(most));
                let next = arrived.get(index + 1).map(|(next, _)| *next);
                let waited = next.unwrap_or(at).saturating_sub(*then + took);
                if waited > most + LATE || (next.is_some() && waited + EARLY < least) {
                    let what = format!("{mood:?}, after {refusals} refusals and {failures} other failures");
                    self.break_promise(at, format!("{name} waits for {waited:?} after {what}: it is {least:?} to {most:?}"));
                }
            }
        }
    }
}

/// Whether the server says that the log-in is refused, and not that something fails.
fn is_refusal(mood: Mood) -> bool {
    matches!(mood, Mood::Status(status, _) if status < 500 && status != 429)
}
