//! How long an upstream keeps idle connections, learned from what it announces and from what was seen.
//!
//! No clock and no I/O: times are arguments. Guarantees: [`KeepAlive::safe_idle`] never exceeds four fifths of a time for which
//! the upstream is known to keep connections; while nothing is known it is [`FLOOR`]; a request asks without a lock.

use std::{
    net::IpAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use http::HeaderMap;
use tokio::time::Instant;

/// The idle time that is taken to be safe while nothing is known. Common servers keep connections for 5 s or longer.
const FLOOR: Duration = Duration::from_secs(4);

/// A connection that is idle for less at most is not worth being opened ahead of need.
const WORTH_WARMING: Duration = Duration::from_secs(30);

/// What is seen about idle connections is seen once a second, and so is late by as much. A connection that closed earlier was not
/// closed for being idle.
const SEEN_EVERY: Duration = Duration::from_secs(1);

/// For how long requests on used connections have to go unanswered, one and all, until the upstream is known to take no second one.
const DOUBT: Duration = Duration::from_secs(1);

/// How many addresses of the upstream are remembered.
const ADDRESSES: usize = 8;

/// How many idle times are remembered after which the upstream closed a connection.
const CLOSINGS: usize = 8;

/// What is known of one upstream. Clones share it, over all workers.
#[derive(Clone)]
pub struct KeepAlive(Arc<Learned>);

struct Learned {
    observed: Mutex<Observed>,
    /// [`Observed::safe_idle`], in milliseconds, for requests.
    safe_idle: AtomicU64,
    /// [`Observed::unanswered_since`] is known.
    is_doubted: AtomicBool,
}

#[derive(Default)]
struct Observed {
    /// The shortest `timeout` of a `Keep-Alive` field.
    announced: Option<Duration>,
    /// The idle times after which the upstream closed a connection, the shortest first; those that are near each other are one.
    closings: Vec<Duration>,
    /// The longest idle time that a connection survived.
    survived: Duration,
    /// Since when each request on a used connection has gone unanswered, if the last one has.
    unanswered_since: Option<Instant>,
    /// Where connections led.
    addresses: Vec<IpAddr>,
}

impl Default for KeepAlive {
    fn default() -> Self {
        let safe_idle = AtomicU64::new(milliseconds(FLOOR));
        Self(Arc::new(Learned { observed: Mutex::default(), safe_idle, is_doubted: AtomicBool::new(false) }))
    }
}

impl KeepAlive {
    /// For how long a connection may have been idle when a request takes it that must not arrive twice.
    #[must_use]
    pub(super) fn safe_idle(&self) -> Duration {
        Duration::from_millis(self.0.safe_idle.load(Ordering::Relaxed))
    }

    /// What [`safe_idle`](Self::safe_idle) will be after `time`, if a connection that is idle now survives it.
    pub(super) fn safe_idle_after(&self, time: Duration) -> Duration {
        let observed = self.0.observed.lock().unwrap_or_else(PoisonError::into_inner);
        observed.safe_idle(observed.survived + time)
    }

    /// Whether idle connections live long enough to be opened ahead of need. `keep`: for how long we keep them.
    pub(super) fn is_worth_warming(&self, keep: Duration) -> bool {
        let observed = self.0.observed.lock().unwrap_or_else(PoisonError::into_inner);
        observed.limit().map_or(keep, |limit| limit.min(keep)) >= WORTH_WARMING
    }

    /// Notes that the upstream said for how long it keeps an idle connection.
    pub(super) fn announced(&self, timeout: Duration) {
        self.learn(|observed| {
            observed.announced = Some(observed.announced.map_or(timeout, |known| known.min(timeout)));
        });
    }

    /// Notes that a connection was found closed when it had been idle for `idle`.
    pub(super) fn found_closed(&self, idle: Duration) {
        if let Some(before) = idle.checked_sub(SEEN_EVERY) {
            self.closed_after(before);
        }
    }

    /// Notes that the upstream closed a connection that had been idle for `idle`.
    pub(super) fn closed_after(&self, idle: Duration) {
        self.learn(|observed| observed.closed_after(idle));
    }

    /// Notes that the upstream closed a used connection, which had been idle for `idle`, without an answer to its next request.
    /// One such end tells nothing: a server may restart.
    pub(super) fn unanswered(&self, idle: Duration, now: Instant) {
        self.0.is_doubted.store(true, Ordering::Relaxed);
        self.learn(|observed| {
            let since = *observed.unanswered_since.get_or_insert(now);
            if now.duration_since(since) >= DOUBT {
                observed.closed_after(idle);
            }
        });
    }

    /// Notes that a request on a used connection was answered.
    pub(super) fn answered(&self) {
        if self.0.is_doubted.load(Ordering::Relaxed) {
            self.0.is_doubted.store(false, Ordering::Relaxed);
            self.learn(|observed| observed.unanswered_since = None);
        }
    }

    /// Notes that a connection has been idle for `idle` and is open.
    pub(super) fn survived(&self, idle: Duration) {
        self.learn(|observed| {
            observed.survived = observed.survived.max(idle);
            // A server that restarts closes connections however long they were idle: that was no limit of idleness. A longer
            // limit may be one.
            observed.closings.retain(|closed| is_near(*closed, idle));
        });
    }

    /// Notes that a connection leads to `address`. Another server may keep connections for another time, so what is known is
    /// forgotten when the upstream moves to an address that it had not.
    pub(super) fn connected_to(&self, address: IpAddr) {
        self.learn(|observed| {
            if observed.addresses.contains(&address) {
                return;
            }
            let mut addresses = std::mem::take(&mut observed.addresses);
            if !addresses.is_empty() {
                *observed = Observed::default();
            }
            addresses.truncate(ADDRESSES - 1);
            addresses.insert(0, address);
            observed.addresses = addresses;
        });
    }

    fn learn(&self, change: impl FnOnce(&mut Observed)) {
        // Nothing in between can panic.
        let mut observed = self.0.observed.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut observed);
        let safe_idle = observed.safe_idle(observed.survived);
        self.0.safe_idle.store(milliseconds(safe_idle), Ordering::Relaxed);
    }
}

impl Observed {
    /// After what idle time the upstream closes a connection, where that is known.
    fn limit(&self) -> Option<Duration> {
        self.announced.into_iter().chain(self.closings.first().copied()).min()
    }

    /// Notes that the upstream closed a connection that had been idle for `idle`.
    fn closed_after(&mut self, idle: Duration) {
        self.survived = self.survived.min(idle);
        let shorter = self.closings.partition_point(|closed| *closed <= idle);
        if self.closings[..shorter].last().is_some_and(|closed| is_near(*closed, idle)) {
            return;
        }
        match self.closings.get_mut(shorter) {
            Some(longer) if is_near(idle, *longer) => *longer = idle,
            _ => self.closings.insert(shorter, idle),
        }
        self.closings.truncate(CLOSINGS);
    }

    /// `survived`: the longest idle time that a connection survived, now or soon.
    fn safe_idle(&self, survived: Duration) -> Duration {
        self.limit().map_or_else(|| FLOOR.max(survived * 4 / 5), |limit| limit * 4 / 5)
    }
}

/// Whether the upstream may close connections after `limit`, though one was idle for `idle`: timers are not exact.
fn is_near(limit: Duration, idle: Duration) -> bool {
    idle <= limit + limit / 4 + SEEN_EVERY
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Reads for how long the upstream says that it keeps idle connections. The shortest of several fields counts: a proxy on the way
/// may add one of its own.
pub(super) fn announced_timeout(head: &HeaderMap) -> Option<Duration> {
    head.get_all("keep-alive").iter().filter_map(|field| timeout_in(field.as_bytes())).min()
}

/// Reads the seconds of `timeout` in a `Keep-Alive` field (RFC 2068, 19.7.1.1): `timeout=5, max=100`.
fn timeout_in(field: &[u8]) -> Option<Duration> {
    let parameters = std::str::from_utf8(field).ok()?.split(',');
    let mut timeouts = parameters.filter_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        let seconds = value.trim().trim_matches('"');
        let digits_only = !seconds.is_empty() && seconds.bytes().all(|byte| byte.is_ascii_digit());
        (name.trim().eq_ignore_ascii_case("timeout") && digits_only).then(|| seconds.parse::<u32>().unwrap_or(u32::MAX))
    });
    timeouts.next().map(|seconds| Duration::from_secs(seconds.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn while_nothing_is_known_four_seconds_are_safe() {
        let known = KeepAlive::default();
        assert_eq!(known.safe_idle(), seconds(4));
        assert!(known.is_worth_warming(seconds(90)));
        assert!(!known.is_worth_warming(seconds(29)));
    }

    #[test]
    fn four_fifths_of_what_a_connection_survived_are_safe() {
        let known = KeepAlive::default();
        known.survived(seconds(20));
        known.survived(seconds(10));
        assert_eq!(known.safe_idle(), seconds(16));
        assert!(known.is_worth_warming(seconds(90)));
    }

    #[test]
    fn a_server_that_closes_is_believed_more_than_a_connection_that_survived() {
        let known = KeepAlive::default();
        known.survived(seconds(60));
        known.closed_after(seconds(50));
        assert_eq!(known.safe_idle(), seconds(40));
        assert!(known.is_worth_warming(seconds(90)));
        known.closed_after(seconds(15));
        known.closed_after(seconds(20));
        assert_eq!(known.safe_idle(), seconds(12));
        assert!(!known.is_worth_warming(seconds(90)));
    }

    #[test]
    fn what_is_announced_counts_like_what_was_seen_and_the_shorter_one_holds() {
        let known = KeepAlive::default();
        known.announced(seconds(75));
        assert_eq!(known.safe_idle(), seconds(60));
        known.announced(seconds(90));
        assert_eq!(known.safe_idle(), seconds(60));
        known.closed_after(seconds(50));
        assert_eq!(known.safe_idle(), seconds(40));
        known.announced(seconds(5));
        assert_eq!(known.safe_idle(), seconds(4));
        assert!(!known.is_worth_warming(seconds(90)));
    }

    #[test]
    fn a_server_that_closes_early_is_believed_too() {
        let known = KeepAlive::default();
        known.found_closed(seconds(3));
        assert_eq!(known.safe_idle(), Duration::from_millis(1600), "it may have been closed a second ago");
        assert!(!known.is_worth_warming(seconds(90)));
        known.announced(seconds(1));
        assert_eq!(known.safe_idle(), Duration::from_millis(800));
    }

    #[test]
    fn a_server_that_answers_no_second_request_gets_none_that_must_not_arrive_twice() {
        let (known, start) = (KeepAlive::default(), clock::instant());
        for milliseconds in [0, 10, 999] {
            known.unanswered(Duration::from_millis(5), start + Duration::from_millis(milliseconds));
        }
        assert_eq!(known.safe_idle(), seconds(4), "a restart ends many at once");
        known.answered();
        known.unanswered(Duration::from_millis(5), start + seconds(2));
        assert_eq!(known.safe_idle(), seconds(4), "one was answered meanwhile");
        known.unanswered(Duration::from_millis(5), start + seconds(3));
        assert_eq!(known.safe_idle(), Duration::from_millis(4));
        known.survived(seconds(2));
        assert_eq!(known.safe_idle(), seconds(4));
    }

    #[test]
    fn a_connection_that_closes_at_once_teaches_nothing() {
        let known = KeepAlive::default();
        known.survived(seconds(30));
        known.found_closed(Duration::from_millis(900));
        assert_eq!(known.safe_idle(), seconds(24));
    }

    #[test]
    fn a_restart_is_forgotten_once_a_connection_lives_longer() {
        let known = KeepAlive::default();
        known.closed_after(seconds(8));
        known.survived(seconds(10));
        assert_eq!(known.safe_idle(), Duration::from_millis(6400), "too near to be sure");
        known.survived(seconds(12));
        assert_eq!(known.safe_idle(), Duration::from_millis(9600));
    }

    #[test]
    fn a_restart_hides_an_idle_limit_only_until_a_connection_lives_longer() {
        let known = KeepAlive::default();
        known.closed_after(seconds(15));
        known.closed_after(seconds(3));
        assert_eq!(known.safe_idle(), Duration::from_millis(2400));
        known.survived(seconds(6));
        assert_eq!(known.safe_idle(), seconds(12));
        assert!(!known.is_worth_warming(seconds(90)), "it still closes connections after 15 s");
    }

    #[test]
    fn two_closings_after_nearly_the_same_time_are_one_that_is_forgotten_as_one() {
        let known = KeepAlive::default();
        known.closed_after(seconds(20));
        known.closed_after(seconds(18));
        assert_eq!(known.safe_idle(), Duration::from_millis(14_400));
        known.survived(seconds(24));
        assert_eq!(known.safe_idle(), Duration::from_millis(19_200));
    }

    #[test]
    fn of_many_addresses_the_last_eight_are_known() {
        let known = KeepAlive::default();
        let address = |number: u8| IpAddr::from([192, 0, 2, number]);
        for number in 1..=9 {
            known.connected_to(address(number));
        }
        for (number, is_known) in [(2, true), (9, true), (1, false)] {
            known.survived(seconds(40));
            known.connected_to(address(number));
            assert_eq!(known.safe_idle(), if is_known { seconds(32) } else { seconds(4) }, "{number}");
        }
    }

    #[test]
    fn a_new_address_forgets_what_is_known_and_a_known_one_does_not() {
        let known = KeepAlive::default();
        let [first, second] = [[192, 0, 2, 1], [192, 0, 2, 2]].map(IpAddr::from);
        known.connected_to(first);
        known.survived(seconds(40));
        known.connected_to(first);
        assert_eq!(known.safe_idle(), seconds(32));
        known.connected_to(second);
        assert_eq!(known.safe_idle(), seconds(4));
        known.survived(seconds(40));
        known.connected_to(first);
        known.connected_to(second);
        assert_eq!(known.safe_idle(), seconds(32), "a name with two addresses");
    }

    #[test]
    fn only_a_number_of_seconds_is_an_announcement() {
        let read = |text: &str| timeout_in(text.as_bytes()).map(|timeout| timeout.as_secs());
        for (text, timeout) in [
            ("timeout=5", Some(5)),
            ("timeout=5, max=100", Some(5)),
            ("max=100 , Timeout = \"75\"", Some(75)),
            ("timeout=0", Some(0)),
            ("timeout=99999999999999999999", Some(u64::from(u32::MAX))),
            ("timeout", None),
            ("timeout=", None),
            ("timeout=-1", None),
            ("timeout=+1", None),
            ("timeout=soon", None),
            ("max=3", None),
            ("", None),
        ] {
            assert_eq!(read(text), timeout, "{text}");
        }
    }

    #[test]
    fn the_shortest_of_several_announcements_counts() {
        let head = |fields: &[&'static str]| -> HeaderMap {
            fields
                .iter()
                .map(|field| (http::HeaderName::from_static("keep-alive"), http::HeaderValue::from_static(field)))
                .collect()
        };
        for (fields, expected) in [
            (&[][..], None),
            (&["timeout=5"], Some(5)),
            (&["timeout=5", "max=1, timeout=1"], Some(1)),
            (&["max=100", "timeout=7"], Some(7)),
        ] {
            assert_eq!(announced_timeout(&head(fields)), expected.map(seconds), "{fields:?}");
        }
    }
}
