//! What requests last met at an API, over all workers: an upstream that did not answer, or refused the token, or the limit of
//! requests.
//!
//! An answer costs two loads, unless it ends what is noted. Time is an argument.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tracing::{info, warn};

use super::problem::ProxyError;
use crate::{
    account::REFUSED_ADVICE,
    clock::Moment,
    connect::ConnectError,
    upstream::{Cause, SendError},
};

/// Requests that are refused at a shorter distance belong to one shortage.
const SHORTAGE_GAP: Duration = Duration::from_secs(10);
/// The time of the latest refusal is this exact: a flood of refusals must not write shared memory for each.
const SHORTAGE_STEP: Duration = Duration::from_millis(100);

/// A client that waits for so long before it gives up tells something of the upstream.
pub(super) const GIVES_UP_AFTER: Duration = Duration::from_secs(1);
/// How many reasons why no connection can be made the log tells of one outage.
const TOLD: usize = 8;
/// An upstream that refuses tokens for longer than this does not do so because one of them was revoked: that is replaced by then.
const REFUSES_AFTER: Duration = Duration::from_secs(5);

/// The health of one API. Clones share it.
#[derive(Clone, Default)]
pub struct ApiHealth(Arc<LastSeen>);

#[derive(Default)]
struct LastSeen {
    /// Whether `silence` holds anything.
    is_silent: AtomicBool,
    silence: Mutex<Silence>,
    /// The first and the latest 401 since another answer, in nanoseconds; 0: there was none.
    unauthorized_first: AtomicU64,
    unauthorized_last: AtomicU64,
    /// The log tells that they last.
    unauthorized_told: AtomicBool,
    /// The first and the latest refusal of a shortage, in nanoseconds; 0: there was none.
    refused_first: AtomicU64,
    refused_last: AtomicU64,
}

/// What requests have met since the latest answer.
#[derive(Default)]
struct Silence {
    outage: Option<Outage>,
    /// Why no connection could be made, as far as the log tells it; `None`: it tells of requests without an answer.
    told: Vec<Option<ConnectError>>,
    /// When the client of the first one gave up.
    given_up: Option<Moment>,
}

/// The upstream has not answered since a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outage {
    /// When the first request got no answer.
    pub since: Moment,
    /// What the latest one met.
    pub error: ProxyError,
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
        if self.0.is_silent.load(Ordering::Relaxed) && !self.end_silence().told.is_empty() {
            info!(api, "the upstream is reached again");
        }
    }

    /// A request failed, perhaps before the upstream had a part in it.
    pub(super) fn failed(&self, api: &str, error: ProxyError, now: Moment) {
        match error {
            ProxyError::UpstreamTimeout => self.begin_outage(api, error, now, false),
            ProxyError::Upstream(SendError { cause, .. }) => match cause {
                Cause::Connect(_) | Cause::Closed | Cause::BrokenOff => self.begin_outage(api, error, now, false),
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

    /// A client gave up after [`GIVES_UP_AFTER`] or more, with its whole request sent and no answer. It may have asked for what takes
    /// long; the second one in a row begins an outage.
    pub(super) fn given_up(&self, api: &str, now: Moment) {
        let first = {
            let mut silence = self.lock();
            self.0.is_silent.store(true, Ordering::Relaxed);
            let first = silence.given_up;
            silence.given_up.get_or_insert(now);
            first.filter(|_| silence.outage.is_none())
        };
        if let Some(first) = first {
            self.begin_outage(api, ProxyError::UpstreamTimeout, first, true);
        }
    }

    /// The upstream answered a 401, or what else `relogin_on` has.
    pub(super) fn unauthorized(&self, api: &str, now: Moment) {
        let now = now.as_nanos();
        self.0.unauthorized_last.store(now, Ordering::Release);
        // Another worker may have noted the first one.
        let _ = self.0.unauthorized_first.compare_exchange(0, now, Ordering::AcqRel, Ordering::Relaxed);
        if self.unauthorized_since().is_some() && !self.0.unauthorized_told.swap(true, Ordering::Relaxed) {
            warn!(api, advice = REFUSED_ADVICE, "the upstream refuses the token with every answer");
        }
    }

    /// The upstream answered anything else.
    pub(super) fn authorized(&self, api: &str) {
        if self.0.unauthorized_first.load(Ordering::Relaxed) == 0 {
            return;
        }
        self.0.unauthorized_first.store(0, Ordering::Release);
        if self.0.unauthorized_told.swap(false, Ordering::Relaxed) {
            info!(api, "the upstream takes the token again");
        }
    }

    /// Since when the upstream has answered with 401s and nothing else, if that lasts.
    #[must_use]
    pub fn unauthorized_since(&self) -> Option<Moment> {
        let last = Moment::from_nanos(self.0.unauthorized_last.load(Ordering::Acquire));
        let first = Some(self.0.unauthorized_first.load(Ordering::Acquire)).filter(|nanos| *nanos > 0).map(Moment::from_nanos)?;
        (last.since(first) > REFUSES_AFTER).then_some(first)
    }

    /// The present outage; `None` while the upstream answers, and before the first request.
    #[must_use]
    pub fn outage(&self) -> Option<Outage> {
        self.lock().outage
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

    /// Begins an outage, or goes on with the present one. The log is told once, and again for each other reason why no
    /// connection can be made; each request's access line has its own code. A request that was sent and got no answer may be the
    /// fault of what it asked for, so that is told with the second one in a row; `is_second`: one before was not noted as an outage.
    fn begin_outage(&self, api: &str, error: ProxyError, now: Moment, is_second: bool) {
        let code = error.code();
        let connect = match error {
            ProxyError::Upstream(SendError { cause: Cause::Connect(connect), .. }) => Some(connect),
            _ => None,
        };
        let is_told = {
            let mut silence = self.lock();
            let Silence { outage, told, .. } = &mut *silence;
            let is_told = match connect {
                Some(connect) => told.len() < TOLD && !told.iter().any(|told| told.is_some_and(|told| told.is_like(connect))),
                None => told.is_empty() && (is_second || outage.is_some()),
            };
            let since = outage.map_or(now, |outage| outage.since);
            *outage = Some(Outage { since, error });
            told.extend(is_told.then_some(connect));
            self.0.is_silent.store(true, Ordering::Relaxed);
            is_told
        };
        if is_told {
            let reason = connect.map_or_else(|| error.in_brief(), |connect| connect.to_string());
            warn!(api, code = code.as_str(), reason, advice = error.advice(), "the upstream can't be reached");
        }
    }

    fn end_silence(&self) -> Silence {
        let mut silence = self.lock();
        self.0.is_silent.store(false, Ordering::Relaxed);
        std::mem::take(&mut *silence)
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

    fn lock(&self) -> MutexGuard<'_, Silence> {
        // Nothing panics while it is locked.
        self.0.silence.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{connect::EgressError, upstream::Sent};

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
    fn two_clients_in_a_row_that_give_up_begin_an_outage_and_an_answer_ends_it() {
        let health = ApiHealth::default();
        health.given_up("a", at(1));
        assert_eq!(health.outage(), None);
        health.answered("a");
        health.given_up("a", at(2));
        health.given_up("a", at(3));
        health.given_up("a", at(4));
        assert_eq!(health.outage(), Some(Outage { since: at(2), error: ProxyError::UpstreamTimeout }));
        health.answered("a");
        assert_eq!(health.outage(), None);
        health.failed("a", failed(Cause::Closed), at(5));
        health.given_up("a", at(6));
        health.given_up("a", at(7));
        let outage = Outage { since: at(5), error: failed(Cause::Closed) };
        assert_eq!(health.outage(), Some(outage), "what a request met says more");
    }

    #[test]
    fn each_reason_why_no_connection_is_made_is_told_once() {
        let health = ApiHealth::default();
        let told = || health.lock().told.len();
        let connect = |error| failed(Cause::Connect(error));
        let [denied, other] = [403, 502].map(|status| connect(ConnectError::Egress(EgressError::Denied(status))));
        for (error, expected) in [
            (failed(Cause::Closed), 0),
            (connect(ConnectError::Refused), 1),
            (failed(Cause::Closed), 1),
            (connect(ConnectError::Refused), 1),
            (denied, 2),
            (other, 3),
            (denied, 3),
        ] {
            health.failed("a", error, at(1));
            assert_eq!(told(), expected, "{error:?}");
        }
    }

    #[test]
    fn a_token_is_refused_while_401s_come_and_nothing_else_for_longer_than_five_seconds() {
        let health = ApiHealth::default();
        for (time, since) in [(1_000, None), (6_000, None), (6_001, Some(at(1_000))), (9_000, Some(at(1_000)))] {
            health.unauthorized("a", at(time));
            assert_eq!(health.unauthorized_since(), since, "{time}");
        }
        health.authorized("a");
        assert_eq!(health.unauthorized_since(), None);
        health.unauthorized("a", at(20_000));
        assert_eq!(health.unauthorized_since(), None);
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
