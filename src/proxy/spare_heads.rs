//! Header maps that serve again: that of a client's request, once it is answered, becomes that of a later request to upstream.
//!
//! hyper keeps the maps that it is given for the heads that it reads, so of each request one map would be allocated and another one
//! freed. Guarantees: a map that is kept is empty, so nothing of a request outlives it here; few are kept, none of them large, and
//! [`SpareHeads::free`] frees them all.

use std::sync::{Mutex, MutexGuard, PoisonError};

use http::HeaderMap;

/// How many maps one worker keeps.
const MOST: usize = 32;
/// For how many fields a map may have room that is kept.
const LARGEST: usize = 48;

/// The empty maps of one worker.
#[derive(Default)]
pub(super) struct SpareHeads(Mutex<Vec<HeaderMap>>);

impl SpareHeads {
    /// An empty map.
    pub(super) fn take(&self) -> HeaderMap {
        self.lock().pop().unwrap_or_default()
    }

    /// Empties a map, and keeps it.
    pub(super) fn give(&self, mut head: HeaderMap) {
        if head.capacity() > LARGEST {
            return;
        }
        head.clear();
        let mut kept = self.lock();
        if kept.len() < MOST {
            kept.push(head);
        }
    }

    /// Frees all that are kept.
    pub(super) fn free(&self) {
        drop(std::mem::take(&mut *self.lock()));
    }

    fn lock(&self) -> MutexGuard<'_, Vec<HeaderMap>> {
        // Nothing can panic while it is held.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue, header::ACCEPT};

    use super::*;

    fn kept(spare: &SpareHeads) -> usize {
        spare.lock().len()
    }

    #[test]
    fn a_map_serves_again_and_holds_nothing_of_before() {
        let spare = SpareHeads::default();
        let mut head = HeaderMap::with_capacity(10);
        head.append(ACCEPT, HeaderValue::from_static("text/html"));
        head.append(ACCEPT, HeaderValue::from_static("text/plain"));
        let room = head.capacity();
        spare.give(head);
        let head = spare.take();
        assert_eq!((head.len(), head.capacity(), kept(&spare)), (0, room, 0));
    }

    #[test]
    fn few_are_kept_and_none_that_is_large() {
        let spare = SpareHeads::default();
        let mut large = HeaderMap::new();
        for number in 0..=LARGEST {
            large.append(HeaderName::try_from(format!("x-{number}")).unwrap(), HeaderValue::from_static("1"));
        }
        spare.give(large);
        assert_eq!(kept(&spare), 0);
        for _ in 0..=MOST {
            spare.give(HeaderMap::with_capacity(10));
        }
        assert_eq!(kept(&spare), MOST);
        spare.free();
        assert_eq!(kept(&spare), 0);
    }
}
