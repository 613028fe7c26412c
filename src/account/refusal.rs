//! The record of what upstream's answers said of the latest token: refused by a 401, and by nothing but 401s since then.
//!
//! Workers write it and the driver reads it. An answer costs one load of an atomic, unless its token is recorded as refused.

use std::sync::atomic::{AtomicU64, Ordering};

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
    /// The refused generation; zero, which no log-in has, when there is none.
    generation: AtomicU64,
    since_nanos: AtomicU64,
}

impl RefusalRecord {
    /// A request got a 401 with that token.
    pub(super) fn refused(&self, generation: Generation, now: Moment) {
        // An answer to an older token, which comes late, says nothing of the present one.
        if self.generation.load(Ordering::Relaxed) < generation.0 {
            self.since_nanos.store(now.as_nanos(), Ordering::Relaxed);
            self.generation.store(generation.0, Ordering::Release);
        }
    }

    /// A request got another answer with that token.
    pub(super) fn answered(&self, generation: Generation) {
        if self.generation.load(Ordering::Relaxed) == generation.0 {
            // It fails when another worker has recorded another token meanwhile.
            let _ = self.generation.compare_exchange(generation.0, 0, Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    /// What is known now.
    pub(super) fn current(&self) -> Option<RefusedToken> {
        let generation = self.generation.load(Ordering::Acquire);
        let since = Moment::from_nanos(self.since_nanos.load(Ordering::Relaxed));
        (generation > 0).then_some(RefusedToken { generation: Generation(generation), since })
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
        record.answered(second);
        assert!(record.current().is_some(), "an answer to another token says nothing of it");
        record.answered(first);
        assert_eq!(record.current(), None);
        record.refused(first, at(7));
        record.refused(second, at(8));
        record.refused(first, at(9));
        assert_eq!(record.current(), Some(RefusedToken { generation: second, since: at(8) }), "a late answer to an old token");
    }
}
