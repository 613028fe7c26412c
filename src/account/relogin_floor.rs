//! The least age at which a 401 replaces a token, which doubles while log-ins do not help.
//!
//! Pure. A token that replaced a refused one is on probation. A request that had got a 401 and gets through with it accepts
//! it: the floor goes back to its base. Another 401 for it doubles the floor, once per log-in. Acceptance outweighs every
//! 401, before or after it: one path that always answers 401 must not lengthen the outage of the others. Where nobody could show
//! that, since the request that had got the 401 could not be sent again, an answer to any other request shows that the token
//! works: what gets a 401 once the token is old enough to be replaced was withdrawn since then.

use std::time::Duration;

use super::token::Generation;

const FLOOR_MAX: Duration = Duration::from_secs(3600);
/// A floor of zero could not double.
const FLOOR_STEP_MIN: Duration = Duration::from_secs(1);

/// The floor of one account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ReloginFloor {
    base: Duration,
    current: Duration,
    probation: Option<Probation>,
}

/// The probation of a token that replaced a refused one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Probation {
    pub(super) generation: Generation,
    pub(super) verdict: Option<ProbationOutcome>,
}

/// What a request showed about the token on probation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ProbationOutcome {
    /// A request that had got a 401 got through. Final.
    Accepted,
    /// A request got a 401 with the new token too. It may still be accepted.
    RejectedAgain,
    /// A request that had got no 401 was answered. Others may still get one.
    Worked,
}

impl ReloginFloor {
    /// A floor at its base, as the settings have it.
    pub(super) fn new(base: Duration) -> Self {
        Self { base, current: base, probation: None }
    }

    /// Changes the base. How far the floor has risen belongs to the old one, so a new base starts over.
    pub(super) fn rebase(&mut self, base: Duration) {
        if base != self.base {
            (self.base, self.current) = (base, base);
        }
    }

    /// The floor now.
    pub(super) fn current(&self) -> Duration {
        self.current
    }

    /// The floor as the settings have it.
    pub(super) fn base(&self) -> Duration {
        self.base
    }

    /// The highest floor, however often it doubles.
    pub(super) fn max(&self) -> Duration {
        self.base.max(FLOOR_MAX)
    }

    /// The token on probation.
    pub(super) fn probation(&self) -> Option<Probation> {
        self.probation
    }

    /// A token has come that replaces a refused one.
    pub(super) fn start_probation(&mut self, generation: Generation) {
        self.probation = Some(Probation { generation, verdict: None });
    }

    /// The token on probation is gone; later verdicts on it say nothing of its successor.
    pub(super) fn end_probation(&mut self) {
        self.probation = None;
    }

    /// A request showed this about token `by`.
    pub(super) fn judge(&mut self, outcome: ProbationOutcome, by: Generation) {
        match outcome {
            ProbationOutcome::Accepted => self.accepted(by),
            ProbationOutcome::RejectedAgain => self.rejected_again(by),
            ProbationOutcome::Worked => self.worked(by),
        }
    }

    /// A request got a 401 with token `by`, which is so old.
    pub(super) fn unauthorized(&mut self, by: Generation, age: Duration) {
        let has_worked = self.probation.is_some_and(|probation| probation.verdict == Some(ProbationOutcome::Worked));
        if !has_worked || age < self.current {
            self.rejected_again(by);
        }
    }

    fn accepted(&mut self, by: Generation) {
        if let Some(probation) = self.probation.as_mut().filter(|probation| probation.generation == by) {
            probation.verdict = Some(ProbationOutcome::Accepted);
            self.current = self.base;
        }
    }

    fn worked(&mut self, by: Generation) {
        let is_open = |probation: &&mut Probation| probation.generation == by && probation.verdict.is_none();
        if let Some(probation) = self.probation.as_mut().filter(is_open) {
            probation.verdict = Some(ProbationOutcome::Worked);
        }
    }

    fn rejected_again(&mut self, by: Generation) {
        let max = self.max();
        let is_open =
            |probation: &&mut Probation| probation.generation == by && probation.is_open_to(ProbationOutcome::RejectedAgain);
        if let Some(probation) = self.probation.as_mut().filter(is_open) {
            probation.verdict = Some(ProbationOutcome::RejectedAgain);
            self.current = self.current.max(FLOOR_STEP_MIN).saturating_mul(2).min(max);
        }
    }
}

impl Probation {
    /// Whether that verdict would still change something.
    pub(super) fn is_open_to(self, verdict: ProbationOutcome) -> bool {
        match verdict {
            ProbationOutcome::Accepted => self.verdict != Some(ProbationOutcome::Accepted),
            ProbationOutcome::RejectedAgain => matches!(self.verdict, None | Some(ProbationOutcome::Worked)),
            ProbationOutcome::Worked => self.verdict.is_none(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn on_probation(floor: &mut ReloginFloor, generation: u64) -> Generation {
        floor.start_probation(Generation(generation));
        Generation(generation)
    }

    #[test]
    fn it_doubles_once_for_each_log_in_that_does_not_help_up_to_an_hour() {
        let mut floor = ReloginFloor::new(30 * SECOND);
        for (generation, seconds) in (1..).zip([60, 120, 240, 480, 960, 1920, 3600, 3600]) {
            let generation = on_probation(&mut floor, generation);
            for _ in 0..10_000 {
                floor.rejected_again(generation);
            }
            assert_eq!(floor.current(), seconds * SECOND);
        }
    }

    #[test]
    fn acceptance_resets_it_whenever_it_comes() {
        let mut floor = ReloginFloor::new(30 * SECOND);
        let first = on_probation(&mut floor, 1);
        floor.rejected_again(first);
        floor.accepted(first);
        assert_eq!(floor.current(), 30 * SECOND);
        floor.rejected_again(first);
        assert_eq!(floor.current(), 30 * SECOND, "after acceptance another 401 is the path's own fault");
    }

    #[test]
    fn only_the_token_on_probation_is_judged() {
        let mut floor = ReloginFloor::new(30 * SECOND);
        floor.rejected_again(Generation(1));
        let second = on_probation(&mut floor, 2);
        floor.rejected_again(Generation(1));
        assert_eq!(floor.current(), 30 * SECOND);
        floor.rejected_again(second);
        floor.accepted(Generation(1));
        floor.end_probation();
        floor.accepted(second);
        assert_eq!(floor.current(), 60 * SECOND);
    }

    #[test]
    fn a_token_that_has_worked_for_others_may_be_withdrawn_later_and_that_doubles_nothing() {
        for (worked, age, seconds) in [(true, 30, 30), (true, 29, 60), (false, 30, 60), (false, 29, 60)] {
            let mut floor = ReloginFloor::new(30 * SECOND);
            let generation = on_probation(&mut floor, 1);
            floor.worked(if worked { generation } else { Generation(0) });
            floor.unauthorized(generation, age * SECOND);
            assert_eq!(floor.current(), seconds * SECOND, "{worked} {age}");
        }
        let mut floor = ReloginFloor::new(30 * SECOND);
        let generation = on_probation(&mut floor, 1);
        floor.worked(generation);
        floor.rejected_again(generation);
        floor.worked(generation);
        assert_eq!(floor.current(), 60 * SECOND, "the request that had got a 401 got another");
    }

    #[test]
    fn a_new_base_starts_over_and_the_same_one_changes_nothing() {
        let mut floor = ReloginFloor::new(30 * SECOND);
        let generation = on_probation(&mut floor, 1);
        floor.rejected_again(generation);
        floor.rebase(30 * SECOND);
        assert_eq!((floor.base(), floor.current()), (30 * SECOND, 60 * SECOND));
        floor.rebase(10 * SECOND);
        assert_eq!((floor.base(), floor.current()), (10 * SECOND, 10 * SECOND));
    }

    #[test]
    fn only_a_verdict_that_would_change_something_is_worth_telling() {
        use ProbationOutcome::{Accepted, RejectedAgain, Worked};
        for (known, open) in [
            (None, [true, true, true]),
            (Some(Worked), [true, true, false]),
            (Some(RejectedAgain), [true, false, false]),
            (Some(Accepted), [false, false, false]),
        ] {
            let probation = Probation { generation: Generation(1), verdict: known };
            assert_eq!([Accepted, RejectedAgain, Worked].map(|verdict| probation.is_open_to(verdict)), open, "{known:?}");
        }
    }

    #[test]
    fn a_configured_floor_beyond_an_hour_stays() {
        let mut floor = ReloginFloor::new(7200 * SECOND);
        let generation = on_probation(&mut floor, 1);
        floor.rejected_again(generation);
        assert_eq!(floor.current(), 7200 * SECOND);
        let mut zero = ReloginFloor::new(Duration::ZERO);
        let generation = on_probation(&mut zero, 1);
        zero.rejected_again(generation);
        assert_eq!(zero.current(), 2 * SECOND);
    }
}
