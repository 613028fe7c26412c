//! How old a token must be before a 401 may have it replaced.
//!
//! Pure. A log-in that a 401 asked for is on probation: a request that had got the 401 and got through with the new token is
//! a cure and sets the floor back; another 401 for the new token doubles it, once for each log-in. A cure outweighs every
//! 401, before or after it: one path that always answers 401 must not lengthen the outage of the others.

use std::time::Duration;

use super::token::Generation;

/// The account's floor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ReloginFloor {
    base: Duration,
    current: Duration,
    probation: Option<Probation>,
}

/// A log-in that a 401 asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Probation {
    pub(super) generation: Generation,
    pub(super) verdict: Option<Verdict>,
}

/// What became of the 401.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// A replay got through. Final.
    Accepted,
    /// The new token was refused as well. A cure may still come.
    RejectedAgain,
}

impl ReloginFloor {
    pub(super) fn new(base: Duration) -> Self {
        Self { base, current: base, probation: None }
    }

    /// From now on begins at `base`. How far it has risen says something about the old one.
    pub(super) fn rebase(&mut self, base: Duration) {
        if base != self.base {
            (self.base, self.current) = (base, base);
        }
    }

    pub(super) fn current(&self) -> Duration {
        self.current
    }

    pub(super) fn base(&self) -> Duration {
        self.base
    }

    /// However often it doubles.
    pub(super) fn max(&self) -> Duration {
        self.base.max(FLOOR_MAX)
    }

    pub(super) fn probation(&self) -> Option<Probation> {
        self.probation
    }

    /// A token has come that a 401 was waiting for.
    pub(super) fn put_on_trial(&mut self, generation: Generation) {
        self.probation = Some(Probation { generation, verdict: None });
    }

    /// The token on probation is gone; what is said of it later says nothing of its successor.
    pub(super) fn end_trial(&mut self) {
        self.probation = None;
    }

    pub(super) fn cured(&mut self, by: Generation) {
        if let Some(probation) = self.probation.as_mut().filter(|probation| probation.generation == by) {
            probation.verdict = Some(Verdict::Accepted);
            self.current = self.base;
        }
    }

    pub(super) fn uncured(&mut self, by: Generation) {
        let max = self.max();
        if let Some(probation) =
            self.probation.as_mut().filter(|probation| probation.generation == by && probation.verdict.is_none())
        {
            probation.verdict = Some(Verdict::RejectedAgain);
            // A floor of zero would stay zero for ever.
            self.current = self.current.max(FLOOR_STEP_MIN).saturating_mul(2).min(max);
        }
    }
}

const FLOOR_MAX: Duration = Duration::from_secs(3600);
const FLOOR_STEP_MIN: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn on_trial(floor: &mut ReloginFloor, generation: u64) -> Generation {
        floor.put_on_trial(Generation(generation));
        Generation(generation)
    }

    #[test]
    fn it_doubles_once_for_each_uncured_log_in_up_to_an_hour() {
        let mut floor = ReloginFloor::new(30 * SECOND);
        for (generation, seconds) in (1..).zip([60, 120, 240, 480, 960, 1920, 3600, 3600]) {
            let generation = on_trial(&mut floor, generation);
            for _ in 0..10_000 {
                floor.uncured(generation);
            }
            assert_eq!(floor.current(), seconds * SECOND);
        }
    }

    #[test]
    fn a_cure_resets_it_whenever_it_comes() {
        let mut floor = ReloginFloor::new(30 * SECOND);
        let first = on_trial(&mut floor, 1);
        floor.uncured(first);
        floor.cured(first);
        assert_eq!(floor.current(), 30 * SECOND);
        floor.uncured(first);
        assert_eq!(floor.current(), 30 * SECOND, "after a cure another 401 is the path's own fault");
    }

    #[test]
    fn only_the_token_on_trial_is_judged() {
        let mut floor = ReloginFloor::new(30 * SECOND);
        floor.uncured(Generation(1));
        let second = on_trial(&mut floor, 2);
        floor.uncured(Generation(1));
        assert_eq!(floor.current(), 30 * SECOND);
        floor.uncured(second);
        floor.cured(Generation(1));
        floor.end_trial();
        floor.cured(second);
        assert_eq!(floor.current(), 60 * SECOND);
    }

    #[test]
    fn a_configured_floor_beyond_an_hour_stays() {
        let mut floor = ReloginFloor::new(7200 * SECOND);
        let generation = on_trial(&mut floor, 1);
        floor.uncured(generation);
        assert_eq!(floor.current(), 7200 * SECOND);
        let mut zero = ReloginFloor::new(Duration::ZERO);
        let generation = on_trial(&mut zero, 1);
        zero.uncured(generation);
        assert_eq!(zero.current(), 2 * SECOND);
    }
}
