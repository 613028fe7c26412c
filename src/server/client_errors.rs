//! Counts and logs what clients of one listen address send that is not HTTP. Such bytes reach no API, so no request is logged.
//!
//! Guarantees: nothing that a client sent is kept or logged; at most one line for each reason in [`EVERY`], or [`EVERY_TLS`]; what
//! was counted for an API stays counted for it, whoever listens at the address later.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

use crate::{
    clock,
    metrics::{Label as _, label},
};

/// The shortest time between two lines about the same reason.
const EVERY: Duration = Duration::from_secs(10);
/// The shortest time between two lines about TLS. It is a wrong setting of a client, which tries again and again: saying it once
/// is enough.
const EVERY_TLS: Duration = Duration::from_secs(3600);

label! {
    /// Why a client got a bare refusal, or none.
    pub(super) enum ClientError {
        /// What came is not HTTP/1.x: a bare 400.
        Malformed = "malformed",
        /// The head of a request, or its target, is over the limits: a bare 414 or 431.
        HeadTooLarge = "head_too_large",
        /// The head of a request was not whole in time.
        HeadTimeout = "head_timeout",
        /// The client began a TLS handshake.
        Tls = "tls",
        /// The client broke the rules of HTTP/2, and the connection was ended.
        Http2 = "http2",
    }
}

/// How many reasons there are.
const REASONS: usize = 5;

/// The errors of the clients of one listen address. Clones share them, over all workers.
#[derive(Clone, Default)]
pub(super) struct ClientErrors(Arc<Counts>);

#[derive(Default)]
struct Counts {
    listener: OnceLock<Box<str>>,
    counted: Mutex<Counted>,
}

#[derive(Default)]
struct Counted {
    /// The API that errors are counted for now; empty for none.
    api: Arc<str>,
    /// The errors since the start, for each API that they were counted for. It grows only when a reload names another one.
    all: BTreeMap<Arc<str>, [u64; REASONS]>,
    told: [Told; REASONS],
}

/// What the log says of one reason.
#[derive(Clone, Copy, Default)]
struct Told {
    at: Option<Instant>,
    /// Errors that came since, and are told when [`EVERY`] has passed.
    since: u64,
}

impl ClientErrors {
    /// Gives the address the name that the log says.
    pub(super) fn name(&self, listener: &str) {
        // Each worker gives the same name.
        self.0.listener.get_or_init(|| listener.into());
    }

    /// Counts further errors for the API of this name; empty for none.
    pub(super) fn count_for(&self, api: &str) {
        let mut counted = self.lock();
        counted.api = api.into();
        let api = Arc::clone(&counted.api);
        counted.all.entry(api).or_default();
    }

    /// How often each of [`ClientError::ALL`] happened, for each API that errors were counted for.
    pub(super) fn counts(&self) -> Vec<(Arc<str>, &'static str, u64)> {
        let counted = self.lock();
        let of_api = |(api, counts): (&Arc<str>, &[u64; REASONS])| {
            ClientError::ALL
                .iter()
                .zip(*counts)
                .map(|(reason, count)| (Arc::clone(api), reason.as_str(), count))
                .collect::<Vec<_>>()
        };
        counted.all.iter().flat_map(of_api).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Counted> {
        // Counting can't panic half-way.
        self.0.counted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts one, and logs it: at once if nothing was logged of the reason lately, else with those that follow.
    pub(super) fn record(&self, reason: ClientError) {
        let now = clock::instant();
        let mut counted = self.lock();
        let api = Arc::clone(&counted.api);
        counted.all.entry(api).or_default()[reason.index()] += 1;
        let told = &mut counted.told[reason.index()];
        let due = told.at.map_or(now, |at| at + if reason == ClientError::Tls { EVERY_TLS } else { EVERY });
        if due <= now && told.since == 0 {
            told.at = Some(now);
            return self.tell(reason, 1);
        }
        told.since += 1;
        if told.since == 1 {
            let errors = self.clone();
            // It ends by itself when it has told them, or with the runtime.
            tokio::spawn(async move {
                sleep_until(due).await;
                errors.tell_rest(reason);
            });
        }
    }

    fn tell_rest(&self, reason: ClientError) {
        let mut counted = self.lock();
        let told = &mut counted.told[reason.index()];
        told.at = Some(clock::instant());
        self.tell(reason, std::mem::take(&mut told.since));
    }

    fn tell(&self, reason: ClientError, count: u64) {
        let listener = self.0.listener.get().map_or("", |name| name);
        if reason == ClientError::Tls {
            warn!(listener, count, "a client speaks TLS to a plain-HTTP port: its base URL must begin with http://");
        } else {
            info!(listener, reason = reason.as_str(), count, "a client was refused before its request had a head");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_a_place() {
        assert_eq!(ClientError::ALL.len(), REASONS);
    }

    #[tokio::test(start_paused = true)]
    async fn one_line_in_ten_seconds_tells_of_all_that_came_since() {
        let errors = ClientErrors::default();
        let told = || errors.lock().told[ClientError::Malformed.index()].since;
        for since in 0..4 {
            errors.record(ClientError::Malformed);
            assert_eq!(told(), since);
        }
        tokio::time::sleep(Duration::from_millis(9_999)).await;
        assert_eq!(told(), 3);
        tokio::time::sleep(Duration::from_millis(2)).await;
        assert_eq!(told(), 0, "they were told");
        errors.record(ClientError::Malformed);
        assert_eq!(told(), 1, "too early for another line");
        tokio::time::sleep(EVERY * 3).await;
        errors.record(ClientError::Malformed);
        assert_eq!(told(), 0);
        assert_eq!(errors.counts()[..2], [("".into(), "malformed", 6), ("".into(), "head_too_large", 0)]);
    }

    #[tokio::test]
    async fn what_was_counted_for_an_api_stays_counted_for_it() {
        let errors = ClientErrors::default();
        errors.count_for("one");
        assert_eq!(errors.counts().len(), REASONS, "all are there from the start");
        errors.record(ClientError::Tls);
        errors.count_for("");
        errors.record(ClientError::Tls);
        errors.record(ClientError::Tls);
        errors.count_for("one");
        errors.record(ClientError::Tls);
        let counted: Vec<_> = errors.counts().into_iter().filter(|(.., count)| *count > 0).collect();
        assert_eq!(counted, [("".into(), "tls", 2), ("one".into(), "tls", 2)]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_goes_on_speaking_tls_is_told_of_once_in_an_hour() {
        let errors = ClientErrors::default();
        let told = || errors.lock().told[ClientError::Tls.index()].since;
        for since in 0..100 {
            errors.record(ClientError::Tls);
            assert_eq!(told(), since);
            tokio::time::sleep(Duration::from_secs(30)).await;
        }
        tokio::time::sleep(Duration::from_secs(601)).await;
        assert_eq!(told(), 0, "they were told");
    }
}
