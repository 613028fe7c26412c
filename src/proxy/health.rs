//! What requests last met at an API, over all workers: an upstream that did not answer, or the limit of requests.
//!
//! An answer costs one load, unless it ends an outage. Time is an argument.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tracing::{info, warn};

use super::problem::{Code, ProxyError};
use crate::{
    clock::Moment,
    upstream::{Cause, SendError},
};

/// Requests that are refused at a shorter distance belong to one shortage.
const SHORTAGE_GAP: Duration = Duration::from_secs(10);
/// The time of the latest refusal is this exact: a flood of refusals must not write shared memory for each.
const SHORTAGE_STEP: Duration = Duration::from_millis(100);

/// The health of one API. Clones share it.
#[derive(Clone, Default)]
pub struct ApiHealth(Arc<LastSeen>);

#[derive(Default)]
struct LastSeen {
    /// Whether `outage` holds one.
    is_out: AtomicBool,
    outage: Mutex<Option<Outage>>,
    /// The first and the latest refusal of a shortage, in nanoseconds; 0: there was none.
    refused_first: AtomicU64,
    refused_last: AtomicU64,
}

/// The upstream has not answered since a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outage {
    /// When the first request got no answer.
    pub since: Moment,
    /// What the latest one met.
    pub error: ProxyError,
    /// Whether the log tells it, and with which code.
    logged: Option<Code>,
}

#[cfg(test)]
impl Outage {
    /// An outage for the tests of those who show it.
    pub(crate) const fn begun(since: Moment, error: ProxyError) -> Self {
        Self { since, error, logged: None }
    }
}

/// Requests were refused because `max_requests` were in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shortage {
    /// When the first one was.
    pub since: Moment,
    /// When the latest one was.
    pub last: Moment,
}

impl Shortage {
    /// Whether one was refused in the last ten seconds.
    #[must_use]
    pub fn lasts(self, now: Moment) -> bool {
        now.since(self.last) < SHORTAGE_GAP
    }
}

impl ApiHealth {
    /// The upstream answered.
    pub(super) fn answered(&self, api: &str) {
        // A load is enough for nearly all answers.
        if self.0.is_out.load(Ordering::Relaxed)
            && let Some(Outage { logged: Some(_), .. }) = self.end_outage()
        {
            info!(api, "the upstream is reached again");
        }
    }

    /// A request failed, perhaps before the upstream had a part in it.
    pub(super) fn failed(&self, api: &str, error: ProxyError, now: Moment) {
        match error {
            ProxyError::UpstreamTimeout => self.begin_outage(api, error, now),
            ProxyError::Upstream(SendError { cause, .. }) => match cause {
                Cause::Connect(_) | Cause::Closed | Cause::BrokenOff => self.begin_outage(api, error, now),
                // Something answered.
                Cause::Protocol | Cause::Surplus | Cause::Http1Required | Cause::HeadTooLarge | Cause::Upgrade => {
                    self.answered(api);
                }
                Cause::RequestBody => {}
            },
            ProxyError::Busy => self.refused(now),
            ProxyError::Refused(_) | ProxyError::NoBearer(_) | ProxyError::RequestBodyTimeout | ProxyError::Bug => {}
        }
    }

    /// The present outage; `None` while the upstream answers, and before the first request.
    #[must_use]
    pub fn outage(&self) -> Option<Outage> {
        *self.lock()
    }

    /// The health of the API with another upstream: of the one before nothing is known any more, but a shortage of permits goes on.
    #[must_use]
    pub fn with_other_upstream(&self) -> Self {
        let copied = |time: &AtomicU64| AtomicU64::new(time.load(Ordering::Acquire));
        let (refused_first, refused_last) = (copied(&self.0.refused_first), copied(&self.0.refused_last));
        Self(Arc::new(LastSeen { refused_first, refused_last, ..LastSeen::default() }))
    }

    /// The latest shortage of permits; it may be over.
    #[must_use]
    pub fn shortage(&self) -> Option<Shortage> {
        let of = |time: &AtomicU64| Some(time.load(Ordering::Acquire)).filter(|nanos| *nanos > 0).map(Moment::from_nanos);
        // The latest refusal is read before the first one and written after it, so a shortage never has the beginning of an
        // earlier one.
        let last = of(&self.0.refused_last)?;
        Some(Shortage { since: of(&self.0.refused_first)?, last })
    }

    /// Begins an outage, or goes on with the present one. The log is told once, and again when there is another reason why no
    /// connection can be made; each request's access line has its own code. A request that was sent and got no answer may be the
    /// fault of what it asked for, so that is told with the second one in a row.
    fn begin_outage(&self, api: &str, error: ProxyError, now: Moment) {
        let code = error.code();
        let connect = match error {
            ProxyError::Upstream(SendError { cause: Cause::Connect(connect), .. }) => Some(connect),
            _ => None,
        };
        let is_told = {
            let mut outage = self.lock();
            let known = outage.and_then(|outage| outage.logged);
            let is_told = if connect.is_some() { known != Some(code) } else { known.is_none() && outage.is_some() };
            let since = outage.map_or(now, |outage| outage.since);
            *outage = Some(Outage { since, error, logged: if is_told { Some(code) } else { known } });
            self.0.is_out.store(true, Ordering::Relaxed);
            is_told
        };
        if is_told {
            let reason = connect.map_or_else(|| error.in_brief(), |connect| connect.to_string());
            warn!(api, code = code.as_str(), reason, advice = error.advice(), "the upstream can't be reached");
        }
    }

    fn end_outage(&self) -> Option<Outage> {
        let mut outage = self.lock();
        self.0.is_out.store(false, Ordering::Relaxed);
        outage.take()
    }

    fn refused(&self, now: Moment) {
        let (now_nanos, last) = (now.as_nanos(), self.0.refused_last.load(Ordering::Relaxed));
        let gap = now.since(Moment::from_nanos(last));
        if last == 0 || gap >= SHORTAGE_GAP {
            self.0.refused_first.store(now_nanos, Ordering::Relaxed);
        }
        if last == 0 || gap >= SHORTAGE_STEP {
            self.0.refused_last.store(now_nanos, Ordering::Release);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Outage>> {
        // Nothing panics while it is locked.
        self.0.outage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{connect::ConnectError, upstream::Sent};

    fn at(millis: u64) -> Moment {
        Moment::new(Duration::from_secs(1000) + Duration::from_millis(millis))
    }

    fn failed(cause: impl Into<Cause>) -> ProxyError {
        ProxyError::Upstream(SendError { cause: cause.into(), sent: Sent::Nothing })
    }

    #[test]
    fn an_outage_begins_with_the_first_request_without_an_answer_and_ends_with_the_first_answer() {
        let health = ApiHealth::default();
        assert_eq!(health.outage(), None);
        for (time, error) in [(1, failed(ConnectError::Refused)), (2, failed(Cause::Closed)), (3, ProxyError::UpstreamTimeout)] {
            health.failed("a", error, at(time));
            let outage = health.outage().unwrap();
            assert_eq!((outage.since, outage.error), (at(1), error));
        }
        health.answered("a");
        assert_eq!(health.outage(), None);
        health.failed("a", ProxyError::UpstreamTimeout, at(4));
        assert_eq!(health.outage().unwrap().since, at(4));
    }

    #[test]
    fn what_is_no_fault_of_the_way_begins_no_outage_and_an_answer_of_no_use_ends_one() {
        let health = ApiHealth::default();
        for error in [failed(Cause::RequestBody), failed(Cause::Protocol), ProxyError::RequestBodyTimeout, ProxyError::Busy] {
            health.failed("a", error, at(1));
            assert_eq!(health.outage(), None, "{error:?}");
        }
        health.failed("a", failed(Cause::Closed), at(1));
        health.failed("a", failed(Cause::RequestBody), at(2));
        assert!(health.outage().is_some());
        health.failed("a", failed(Cause::HeadTooLarge), at(2));
        assert_eq!(health.outage(), None);
    }

    #[test]
    fn refusals_belong_together_while_ten_seconds_do_not_pass_without_one() {
        let health = ApiHealth::default();
        assert_eq!(health.shortage(), None);
        for (time, since) in [(0, 0), (9_000, 0), (18_000, 0), (28_000, 28_000)] {
            health.failed("a", ProxyError::Busy, at(time));
            let shortage = health.shortage().unwrap();
            assert_eq!(shortage, Shortage { since: at(since), last: at(time) });
            assert!(shortage.lasts(at(time + 9_999)) && !shortage.lasts(at(time + 10_000)));
        }
        health.failed("a", failed(Cause::Closed), at(28_001));
        let other = health.with_other_upstream();
        assert_eq!((other.shortage(), other.outage()), (health.shortage(), None));
    }
}
