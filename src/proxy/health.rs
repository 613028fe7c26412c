//! Tracks for each API, over all workers, whether the upstream answers, whether it refuses the token, and whether requests exceed
//! `max_requests`.
//!
//! An answer costs two loads, unless it ends what is noted. Time is an argument.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering},
    },
    time::Duration,
};

use http::StatusCode;
use tracing::{info, warn};

use super::problem::ProxyError;
use crate::{
    account::{REFUSED_ADVICE, TOKEN_REFUSED_AFTER},
    clock::Moment,
    connect::ConnectError,
    upstream::{Cause, SendError},
};

/// Requests that are refused at a shorter distance belong to one shortage.
const SHORTAGE_GAP: Duration = Duration::from_secs(10);
/// The time of the latest refusal is updated at most this often: a flood of refusals must not write shared memory for each.
const SHORTAGE_STEP: Duration = Duration::from_millis(100);

/// A client that waits for so long before it gives up says something about the upstream.
/// That it has gone is noticed up to half a second late.
const GIVES_UP_AFTER: Duration = Duration::from_secs(2);
/// How many reasons why no connection can be made the log tells of one outage.
const LOGGED_MAX: usize = 8;

/// The health of one API. Clones share it.
#[derive(Clone, Default)]
pub struct ApiHealth(Arc<HealthState>);

#[derive(Default)]
struct HealthState {
    /// Whether `unanswered` holds anything.
    has_unanswered: AtomicBool,
    unanswered: Mutex<Unanswered>,
    /// The first and the latest 401 since another answer, in nanoseconds; 0: there was none.
    unauthorized_first: AtomicU64,
    unauthorized_last: AtomicU64,
    unauthorized_status: AtomicU16,
    /// The log tells that they last.
    unauthorized_logged: AtomicBool,
    /// The first and the latest refusal of a shortage, in nanoseconds; 0: there was none.
    busy_first: AtomicU64,
    busy_last: AtomicU64,
}

/// What requests have met since the latest answer.
#[derive(Default)]
struct Unanswered {
    outage: Option<Outage>,
    /// Why no connection could be made, as far as the log tells it; `None`: it tells of requests without an answer.
    logged: Vec<Option<ConnectError>>,
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

/// The upstream refuses the token with every answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenRefusal {
    /// When the first of these answers came.
    pub since: Moment,
    /// The status of the latest one.
    pub status: u16,
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
        if self.0.has_unanswered.load(Ordering::Relaxed) && !self.end_unanswered().logged.is_empty() {
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
            ProxyError::Busy => self.note_busy(now),
            ProxyError::Refused(_) | ProxyError::NoBearer(_) | ProxyError::RequestBodyTimeout | ProxyError::Bug => {}
        }
    }

    /// A client gave up after it had `waited`, with its whole request sent and no answer. It may have been in a hurry, or have asked for
    /// what takes long: one that waited for [`GIVES_UP_AFTER`] begins an outage if it came after another one had given up, with no
    /// answer since.
    pub(super) fn given_up(&self, api: &str, waited: Duration, now: Moment) {
        if waited < GIVES_UP_AFTER {
            return;
        }
        let first = {
            let mut unanswered = self.lock();
            self.0.has_unanswered.store(true, Ordering::Relaxed);
            let first = unanswered.given_up;
            unanswered.given_up.get_or_insert(now);
            first.filter(|first| unanswered.outage.is_none() && now.since(*first) >= waited)
        };
        if let Some(first) = first {
            self.begin_outage(api, ProxyError::UpstreamTimeout, first, true);
        }
    }

    /// The upstream answered with this status, which `relogin_on` has.
    pub(super) fn unauthorized(&self, api: &str, status: StatusCode, now: Moment) {
        let now = now.as_nanos();
        self.0.unauthorized_status.store(status.as_u16(), Ordering::Relaxed);
        self.0.unauthorized_last.store(now, Ordering::Release);
        // Another worker may have noted the first one.
        let _ = self.0.unauthorized_first.compare_exchange(0, now, Ordering::AcqRel, Ordering::Relaxed);
        if self.token_refusal().is_some() && !self.0.unauthorized_logged.swap(true, Ordering::Relaxed) {
            warn!(api, advice = REFUSED_ADVICE, "the upstream refuses the token with every answer");
        }
    }

    /// The upstream answered anything else.
    pub(super) fn authorized(&self, api: &str) {
        if self.0.unauthorized_first.load(Ordering::Relaxed) == 0 {
            return;
        }
        self.0.unauthorized_first.store(0, Ordering::Release);
        if self.0.unauthorized_logged.swap(false, Ordering::Relaxed) {
            info!(api, "the upstream takes the token again");
        }
    }

    /// That the upstream answers with statuses of `relogin_on` and nothing else, if that lasts.
    #[must_use]
    pub fn token_refusal(&self) -> Option<TokenRefusal> {
        let last = Moment::from_nanos(self.0.unauthorized_last.load(Ordering::Acquire));
        let since = Some(self.0.unauthorized_first.load(Ordering::Acquire)).filter(|nanos| *nanos > 0).map(Moment::from_nanos)?;
        let status = self.0.unauthorized_status.load(Ordering::Relaxed);
        (last.since(since) > TOKEN_REFUSED_AFTER).then_some(TokenRefusal { since, status })
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
        let (busy_first, busy_last) = (copied(&self.0.busy_first), copied(&self.0.busy_last));
        Self(Arc::new(HealthState { busy_first, busy_last, ..HealthState::default() }))
    }

    /// The latest shortage of permits; it may be over.
    #[must_use]
    pub fn shortage(&self) -> Option<Shortage> {
        let of = |time: &AtomicU64| Some(time.load(Ordering::Acquire)).filter(|nanos| *nanos > 0).map(Moment::from_nanos);
        // The latest refusal is read before the first one and written after it, so a shortage never has the beginning of an
        // earlier one.
        let last = of(&self.0.busy_last)?;
        Some(Shortage { since: of(&self.0.busy_first)?, last })
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
        let is_logged = {
            let mut unanswered = self.lock();
            let Unanswered { outage, logged, .. } = &mut *unanswered;
            let is_logged = match connect {
                Some(connect) => logged.len() < LOGGED_MAX && !logged.iter().flatten().any(|known| known.is_like(connect)),
                None => logged.is_empty() && (is_second || outage.is_some()),
            };
            let since = outage.map_or(now, |outage| outage.since);
            *outage = Some(Outage { since, error });
            logged.extend(is_logged.then_some(connect));
            self.0.has_unanswered.store(true, Ordering::Relaxed);
            is_logged
        };
        if is_logged {
            let reason = connect.map_or_else(|| error.in_brief(), |connect| connect.to_string());
            warn!(api, code = code.as_str(), reason, advice = error.advice(), "the upstream can't be reached");
        }
    }

    fn end_unanswered(&self) -> Unanswered {
        let mut unanswered = self.lock();
        self.0.has_unanswered.store(false, Ordering::Relaxed);
        std::mem::take(&mut *unanswered)
    }

    fn note_busy(&self, now: Moment) {
        let (now_nanos, last) = (now.as_nanos(), self.0.busy_last.load(Ordering::Relaxed));
        let gap = now.since(Moment::from_nanos(last));
        if last == 0 || gap >= SHORTAGE_GAP {
            self.0.busy_first.store(now_nanos, Ordering::Relaxed);
        }
        if last == 0 || gap >= SHORTAGE_STEP {
            self.0.busy_last.store(now_nanos, Ordering::Release);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Unanswered> {
        // Nothing panics while it is locked.
        self.0.unanswered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::io;

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
        for time in [0, 2_000] {
            health.given_up("a", GIVES_UP_AFTER.saturating_sub(Duration::from_millis(1)), at(time));
        }
        health.given_up("a", GIVES_UP_AFTER, at(2_001));
        assert_eq!(health.outage(), None, "the others were in a hurry");
        health.answered("a");
        for time in [2_000, 2_001, 3_000, 3_999] {
            health.given_up("a", GIVES_UP_AFTER, at(time));
            assert_eq!(health.outage(), None, "it had come before the first one gave up");
        }
        health.given_up("a", GIVES_UP_AFTER, at(4_000));
        assert_eq!(health.outage(), Some(Outage { since: at(2_000), error: ProxyError::UpstreamTimeout }));
        health.answered("a");
        assert_eq!(health.outage(), None);
        health.failed("a", failed(Cause::Closed), at(5));
        health.given_up("a", GIVES_UP_AFTER, at(2_000));
        health.given_up("a", GIVES_UP_AFTER, at(4_000));
        let outage = Outage { since: at(5), error: failed(Cause::Closed) };
        assert_eq!(health.outage(), Some(outage), "what a request met says more");
    }

    #[test]
    fn each_reason_why_no_connection_is_made_is_told_once() {
        let health = ApiHealth::default();
        let logged = || health.lock().logged.len();
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
            assert_eq!(logged(), expected, "{error:?}");
        }
    }

    #[test]
    fn of_one_outage_the_log_tells_eight_reasons_at_most() {
        let health = ApiHealth::default();
        for (status, told) in (500..520).zip(1..) {
            health.failed("a", failed(ConnectError::Egress(EgressError::Denied(status))), at(1));
            assert_eq!(health.lock().logged.len(), LOGGED_MAX.min(told), "{status}");
        }
    }

    #[test]
    fn that_a_request_gets_no_answer_is_told_with_the_second_one_and_once() {
        let health = ApiHealth::default();
        let logged = || health.lock().logged.len();
        for (error, told) in [(failed(Cause::Closed), 0), (ProxyError::UpstreamTimeout, 1), (failed(Cause::BrokenOff), 1)] {
            health.failed("a", error, at(1));
            assert_eq!(logged(), told, "{error:?}");
        }
        health.answered("a");
        // A client that gives up is the second one where another one gave up before.
        for (time, told) in [(0, 0), (2_000, 1), (4_000, 1)] {
            health.given_up("a", GIVES_UP_AFTER, at(time));
            assert_eq!(logged(), told, "{time}");
        }
    }

    #[test]
    fn a_token_is_refused_while_401s_come_and_nothing_else_for_longer_than_five_seconds() {
        let health = ApiHealth::default();
        for (time, since) in [(1_000, None), (6_000, None), (6_001, Some(at(1_000))), (9_000, Some(at(1_000)))] {
            health.unauthorized("a", StatusCode::FORBIDDEN, at(time));
            assert_eq!(health.token_refusal().map(|refusal| refusal.since), since, "{time}");
        }
        health.authorized("a");
        assert_eq!(health.token_refusal().map(|refusal| refusal.since), None);
        health.unauthorized("a", StatusCode::FORBIDDEN, at(20_000));
        assert_eq!(health.token_refusal().map(|refusal| refusal.since), None);
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

    #[test]
    fn in_a_flood_of_refusals_the_time_of_the_latest_moves_every_tenth_of_a_second() {
        let health = ApiHealth::default();
        for (time, last) in [(0, 0), (1, 0), (99, 0), (100, 100), (199, 100), (200, 200)] {
            health.failed("a", ProxyError::Busy, at(time));
            assert_eq!(health.shortage(), Some(Shortage { since: at(0), last: at(last) }), "{time}");
        }
    }

    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Log {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn the_log_says_that_all_is_well_again_only_where_it_has_said_what_was_wrong() {
        let (health, log) = (ApiHealth::default(), Log::default());
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
        tracing::subscriber::with_default(subscriber, || {
            for error in [failed(Cause::Closed), failed(ConnectError::Refused)] {
                health.failed("a", error, at(1));
                health.answered("a");
            }
            for times in [&[0][..], &[1_000, 6_001], &[10_000, 15_001, 16_000]] {
                for time in times {
                    health.unauthorized("a", StatusCode::UNAUTHORIZED, at(*time));
                }
                health.authorized("a");
            }
        });
        let told = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
        let (refused, taken) = ("refuses the token with every answer", "takes the token again");
        let expected = ["can't be reached", "is reached again", refused, taken, refused, taken];
        assert_eq!(told.lines().count(), expected.len(), "{told}");
        assert!(told.lines().zip(expected).all(|(line, words)| line.contains(words)), "{told}");
    }
}
