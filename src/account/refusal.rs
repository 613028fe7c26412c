//! The record of what upstream's answers said of the latest token: refused by a 401, and by nothing but 401s since then.
//!
//! Workers write it and the driver reads it. An answer costs one load of an atomic, unless its token is recorded as refused.

use std::sync::{
    Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use super::token::Generation;
use crate::clock::Moment;

/// A token that is known to be refused: since then it got 401s and no other answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RefusedToken {
    pub(super) generation: Generation,
    pub(super) since: Moment,
}

/// The latest refusal, shared by workers and driver.
#[derive(Debug, Default)]
pub(super) struct RefusalRecord {
    /// The refused generation; zero, which no log-in has, when there is none. It is written under the lock.
    generation: AtomicU64,
    /// When the latest 401 came.
    latest_nanos: AtomicU64,
    streak: Mutex<Option<RejectionStreak>>,
}

/// Tokens that were refused one after the other, with no other answer in between.
#[derive(Clone, Copy, Debug)]
struct RejectionStreak {
    latest: RefusedToken,
    since: Moment,
}

impl RefusalRecord {
    /// A request got a 401 with that token.
    pub(super) fn refused(&self, generation: Generation, now: Moment) {
        self.latest_nanos.store(now.as_nanos(), Ordering::Relaxed);
        // A path that always answers 401 takes no lock for what is known.
        if self.generation.load(Ordering::Relaxed) >= generation.0 {
            return;
        }
        let mut streak = self.lock();
        // An answer to an older token, which comes late, says nothing of the present one.
        if streak.is_none_or(|streak| streak.latest.generation < generation) {
            let since = streak.map_or(now, |streak| streak.since);
            *streak = Some(RejectionStreak { latest: RefusedToken { generation, since: now }, since });
            self.generation.store(generation.0, Ordering::Relaxed);
        }
    }

    /// A request got another answer with that token.
    pub(super) fn answered(&self, generation: Generation) {
        let is_of = |refused: u64| (1..=generation.0).contains(&refused);
        if !is_of(self.generation.load(Ordering::Relaxed)) {
            return;
        }
        let mut streak = self.lock();
        // Another worker may have recorded another token meanwhile.
        if streak.is_some_and(|streak| is_of(streak.latest.generation.0)) {
            *streak = None;
            self.generation.store(0, Ordering::Relaxed);
        }
    }

    /// What is known now.
    pub(super) fn current(&self) -> Option<RefusedToken> {
        self.lock().map(|streak| streak.latest)
    }

    /// The first and the latest of the 401s since upstream answered with anything else, whichever token they were for.
    pub(super) fn streak(&self) -> Option<(Moment, Moment)> {
        let since = self.lock().map(|streak| streak.since)?;
        Some((since, Moment::from_nanos(self.latest_nanos.load(Ordering::Relaxed))))
    }

    fn lock(&self) -> MutexGuard<'_, Option<RejectionStreak>> {
        // What it guards is replaced as a whole, so a panic leaves it as it was before or after.
        self.streak.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment::new(Duration::from_secs(seconds))
    }

    #[test]
    fn a_token_is_refused_from_its_first_401_until_any_other_answer() {
        let record = RefusalRecord::default();
        let (first, second) = (Generation(1), Generation(2));
        assert_eq!(record.current(), None);
        record.refused(first, at(5));
        record.refused(first, at(6));
        assert_eq!(record.current(), Some(RefusedToken { generation: first, since: at(5) }));
        record.answered(first);
        assert_eq!(record.current(), None);
        record.refused(first, at(7));
        record.refused(second, at(8));
        record.refused(first, at(9));
        let refused = Some(RefusedToken { generation: second, since: at(8) });
        assert_eq!(record.current(), refused, "a late answer to an old token");
        assert_eq!(record.streak(), Some((at(7), at(9))), "of the first token in the streak");
        record.answered(first);
        assert_eq!(record.current(), refused, "another late answer to an old token");
        record.answered(Generation(3));
        assert_eq!(record.current(), None, "a newer token is good, and another streak begins with the next 401");
        record.refused(Generation(4), at(10));
        record.refused(Generation(4), at(12));
        assert_eq!(record.streak(), Some((at(10), at(12))));
    }
}
