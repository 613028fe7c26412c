//! The limit of an API's requests in flight (`max_requests`).
//!
//! Guarantees: nobody waits here, and a permit is given back when its request ends, however it ends.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// Limits the requests of an API in flight, over all workers. Clones share the count.
#[derive(Clone)]
pub struct RequestLimit(Arc<RequestsInFlight>);

struct RequestsInFlight {
    taken: AtomicUsize,
    most: AtomicUsize,
}

impl RequestLimit {
    /// Allows `most` requests at a time.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self(Arc::new(RequestsInFlight { taken: AtomicUsize::new(0), most: AtomicUsize::new(most) }))
    }

    /// How many requests are in flight.
    #[must_use]
    pub fn taken(&self) -> usize {
        self.0.taken.load(Ordering::Relaxed)
    }

    /// Allows `most` requests at a time from now on. Requests in flight keep their permits.
    pub fn limit_to(&self, most: usize) {
        self.0.most.store(most, Ordering::Relaxed);
    }

    /// How many requests may be in flight.
    #[must_use]
    pub fn most(&self) -> usize {
        self.0.most.load(Ordering::Relaxed)
    }

    /// A permit, unless the limit is reached.
    pub(super) fn take(&self) -> Option<RequestPermit> {
        let permit = RequestPermit(Arc::clone(&self.0));
        let before = permit.0.taken.fetch_add(1, Ordering::Relaxed);
        (before < self.0.most.load(Ordering::Relaxed)).then_some(permit)
    }
}

/// The right to have one request in flight. Released on drop.
pub(super) struct RequestPermit(Arc<RequestsInFlight>);

impl RequestPermit {
    /// Whether it counts against `limit`.
    pub(super) fn is_of(&self, limit: &RequestLimit) -> bool {
        Arc::ptr_eq(&self.0, &limit.0)
    }
}

impl Drop for RequestPermit {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_over_the_limit_gets_no_permit_and_leaves_none_taken() {
        let limit = RequestLimit::new(2);
        let first = limit.take().unwrap();
        assert!(first.is_of(&limit.clone()) && !first.is_of(&RequestLimit::new(2)));
        let _second = limit.take().unwrap();
        assert!(limit.take().is_none());
        assert!(limit.take().is_none());
        drop(first);
        assert!(limit.take().is_some());
        assert_eq!(limit.taken(), 1);
    }

    #[test]
    fn a_new_limit_counts_for_new_requests_and_not_for_those_in_flight() {
        let limit = RequestLimit::new(2);
        let both = [limit.take().unwrap(), limit.take().unwrap()];
        limit.limit_to(1);
        assert!(limit.take().is_none());
        drop(both);
        let _one = limit.take().unwrap();
        assert!(limit.take().is_none());
        limit.limit_to(3);
        assert!(limit.take().is_some());
    }
}
