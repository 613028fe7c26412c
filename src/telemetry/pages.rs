//! Pages that take a moment to make, kept while they are asked for faster than anybody can read them.
//!
//! A flood of requests, whose answers nobody may read, costs no more time and memory than [`AFRESH`] pages a second.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use tokio::time::Instant;

use crate::{metrics::Format, status::Detail};

/// How many pages are made in a second. Those who ask for more get the latest one.
const AFRESH: u32 = 100;
const SECOND: Duration = Duration::from_secs(1);

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Asked {
    Metrics(Format, Detail),
    Status(Detail),
}

/// The pages of the present second.
#[derive(Default)]
pub(super) struct RecentPages(Mutex<Recent>);

#[derive(Default)]
struct Recent {
    since: Option<Instant>,
    made: u32,
    latest: HashMap<Asked, Bytes>,
}

impl RecentPages {
    /// The page as `make` makes it now; at most a second old if others were asked for too often.
    pub(super) fn page(&self, asked: Asked, now: Instant, make: impl FnOnce() -> Vec<u8>) -> Bytes {
        let mut recent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if recent.since.is_none_or(|since| now.duration_since(since) >= SECOND) {
            *recent = Recent { since: Some(now), ..Recent::default() };
        }
        if recent.made >= AFRESH
            && let Some(latest) = recent.latest.get(&asked)
        {
            return latest.clone();
        }
        recent.made += 1;
        let page = Bytes::from(make());
        recent.latest.insert(asked, page.clone());
        page
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    #[test]
    fn a_hundred_pages_a_second_are_made_afresh_and_others_get_the_latest() {
        let (pages, start) = (RecentPages::default(), clock::instant());
        let ask = |asked, now, text: &'static str| pages.page(asked, now, || text.into());
        for _ in 0..AFRESH {
            assert_eq!(ask(Asked::Status(Detail::Full), start, "early"), "early");
        }
        assert_eq!(ask(Asked::Status(Detail::Full), start + SECOND / 2, "late"), "early");
        assert_eq!(ask(Asked::Status(Detail::CodesOnly), start + SECOND / 2, "codes"), "codes", "nobody has asked for it");
        assert_eq!(ask(Asked::Status(Detail::CodesOnly), start + SECOND / 2, "later"), "codes");
        assert_eq!(ask(Asked::Status(Detail::Full), start + SECOND, "next"), "next");
    }
}
