//! How long an upstream keeps idle connections, learned from what it announces and from what was seen.
//!
//! No clock and no I/O: times are arguments. Guarantees: [`KeepAlive::safe_idle`] never exceeds four fifths of a time for which
//! the upstream is known to keep connections, unless that is less than [`FLOOR`]; asking takes no lock.

use std::{
    net::IpAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

/// The idle time that is taken to be safe while nothing is known. Common servers keep connections for 5 s or longer.
const FLOOR: Duration = Duration::from_secs(4);

/// A connection that is idle for less at most is not worth being opened ahead of need.
const WORTH_WARMING: Duration = Duration::from_secs(30);

/// A connection that closed earlier was not closed for being idle.
const SHORTEST_IDLE_LIMIT: Duration = Duration::from_secs(1);

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
}

#[derive(Default)]
struct Observed {
    /// The shortest `timeout` of a `Keep-Alive` field.
    announced: Option<Duration>,
    /// The idle times after which the upstream closed a connection, the shortest first; those that are near each other are one.
    closings: Vec<Duration>,
    /// The longest idle time that a connection survived.
    survived: Duration,
    /// Where connections led.
    addresses: Vec<IpAddr>,
}

impl Default for KeepAlive {
    fn default() -> Self {
        let safe_idle = AtomicU64::new(milliseconds(FLOOR));
        Self(Arc::new(Learned { observed: Mutex::default(), safe_idle }))
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

    /// Notes that the upstream closed a connection that had been idle for `idle`.
    pub(super) fn closed_after(&self, idle: Duration) {
        if idle < SHORTEST_IDLE_LIMIT {
            return;
        }
        self.learn(|observed| {
            observed.closed_after(idle);
            observed.survived = observed.survived.min(idle);
        });
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
        FLOOR.max(self.limit().unwrap_or(survived) * 4 / 5)
    }
}

/// Whether the upstream may close connections after `limit`, though one was idle for `idle`: timers are not exact.
fn is_near(limit: Duration, idle: Duration) -> bool {
    idle <= limit + limit / 4 + SHORTEST_IDLE_LIMIT
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Reads the seconds of `timeout` in a `Keep-Alive` field (RFC 2068, 19.7.1.1): `timeout=5, max=100`.
pub(super) fn announced_timeout(field: &[u8]) -> Option<Duration> {
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
    fn a_server_that_closes_early_leaves_the_floor() {
        let known = KeepAlive::default();
        known.closed_after(seconds(2));
        assert_eq!(known.safe_idle(), seconds(4));
        assert!(!known.is_worth_warming(seconds(90)));
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
        assert_eq!(known.safe_idle(), seconds(4));
        known.survived(seconds(6));
        assert_eq!(known.safe_idle(), seconds(12));
        assert!(!known.is_worth_warming(seconds(90)), "it still closes connections after 15 s");
    }

    #[test]
    fn a_connection_that_closes_at_once_teaches_nothing() {
        let known = KeepAlive::default();
        known.survived(seconds(30));
        known.closed_after(Duration::from_millis(900));
        assert_eq!(known.safe_idle(), seconds(24));
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
        let read = |text: &str| announced_timeout(text.as_bytes()).map(|timeout| timeout.as_secs());
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
}
