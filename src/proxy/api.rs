//! What a worker has of an API, and what all workers share of it.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use http::{HeaderValue, Method};

use super::{
    admit::{Admitted, Gate, Refusal},
    headers::HeaderRules,
    health::ApiHealth,
    request_id,
    request_limit::RequestLimit,
    spare_heads::SpareHeads,
    upload::ToUpstream,
};
use crate::{
    account::Account,
    clock::{Clock, Jitter},
    deadline::Deadlines,
    logging::{AccessLine, AccessWriter},
    metrics::Meter,
    path::{ProposedRules, Words},
    upstream::Upstream,
};

/// What all connections of one worker share.
pub struct Worker {
    pub(super) deadlines: Deadlines,
    pub(super) clock: Arc<dyn Clock>,
    access: Mutex<AccessWriter>,
    ids: Mutex<Jitter>,
    /// The id of the request whose exchange a panic has dropped.
    lost_id: Mutex<Option<HeaderValue>>,
    pub(super) spare_heads: SpareHeads,
    /// What is in progress from now on is cut by ourselves.
    stopped: AtomicBool,
    /// Counts requests whose path belongs to no API.
    pub(super) unclaimed: Arc<Meter>,
}

impl Worker {
    /// A worker with its own deadlines, log buffer and request ids. `unclaimed` counts requests whose path belongs to no API.
    #[must_use]
    pub fn new(deadlines: Deadlines, clock: Arc<dyn Clock>, access: AccessWriter, unclaimed: Arc<Meter>) -> Self {
        let (access, ids) = (Mutex::new(access), Mutex::new(Jitter::from_system()));
        let (lost_id, spare_heads, stopped) = (Mutex::default(), SpareHeads::default(), AtomicBool::new(false));
        Self { deadlines, clock, access, ids, lost_id, spare_heads, stopped, unclaimed }
    }

    /// Hands the buffered access lines to the log's thread, and frees spare memory. Called about once a second, so that no line is
    /// late.
    pub fn tidy_up(&self) {
        self.spare_heads.free();
        self.access.lock().unwrap_or_else(PoisonError::into_inner).tick();
    }

    /// The drain time ran out: what is still in progress is dropped.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    /// Random bits for a request id.
    pub(super) fn random_id(&self) -> u64 {
        self.ids.lock().unwrap_or_else(PoisonError::into_inner).bits()
    }

    /// Keeps the id of a request whose exchange a panic drops, for the answer that follows at once.
    pub(super) fn keep_lost_id(&self, id: HeaderValue) {
        *self.lost_id.lock().unwrap_or_else(PoisonError::into_inner) = Some(id);
    }

    /// The id of the request that a panic has just ended; a new one when it had no exchange yet.
    pub(super) fn lost_id(&self) -> HeaderValue {
        let lost = self.lost_id.lock().unwrap_or_else(PoisonError::into_inner).take();
        lost.unwrap_or_else(|| request_id::new_value(self.random_id()))
    }

    pub(super) fn log(&self, line: &AccessLine<'_>, now: SystemTime) {
        self.access.lock().unwrap_or_else(PoisonError::into_inner).write(line, now);
    }
}

/// One API of one worker.
pub struct Api {
    /// As in the settings.
    pub name: String,
    /// The account whose bearer is sent.
    pub account: Account,
    /// The worker's own connections to the upstream.
    pub upstream: Arc<Upstream<ToUpstream>>,
    /// What happens to headers.
    pub rules: Arc<HeaderRules>,
    /// What a log line may show of a path.
    pub words: Words,
    /// The limit of requests in flight, which all workers share.
    pub request_limit: RequestLimit,
    /// The rules for what was seen, over all workers.
    pub observed: SeenRequests,
    /// What requests last met, over all workers.
    pub health: ApiHealth,
    /// Counts this worker's requests.
    pub meter: Arc<Meter>,
    /// The time limit from the end of a request's body to the head of its answer.
    pub response_timeout: Duration,
    /// How long the sender of a body may be silent.
    pub body_idle: Duration,
    /// How long an event stream or a tunnel may be silent.
    pub stream_idle: Duration,
    /// How many bytes of a request's body are kept to send it again.
    pub replay_buffer: usize,
    /// Whether `Idempotency-Key` makes a request safe to send again.
    pub retry_idempotency_key: bool,
}

/// One API behind one listen address; each worker has its own.
pub struct Route {
    /// The API.
    pub api: Arc<Api>,
    /// The conditions on which a request is forwarded.
    pub gate: Gate,
    /// The address, for logs.
    pub listener: Arc<str>,
    /// The worker that serves the connection.
    pub worker: Arc<Worker>,
}

/// The rules that an API with `observe` needs for what it has seen since the start. Clones share them.
#[derive(Clone, Default)]
pub struct SeenRequests(Arc<Mutex<ProposedRules>>);

impl SeenRequests {
    /// Notes a request that was admitted. `base`: the upstream's base path.
    pub(super) fn note(&self, method: &Method, admitted: &Admitted, base: &str, words: &Words) {
        let mut proposed = self.lock();
        match admitted.would_refuse() {
            Some(Refusal::NotCanonical | Refusal::Denied) => proposed.leave_out(),
            // It asks about the whole server, which no rule matches.
            _ if admitted.target() == "*" => proposed.leave_out(),
            _ => proposed.see(method, admitted.target().path(), base, words),
        }
    }

    /// The rules so far. It is a copy, so that no request waits for what is done with it.
    #[must_use]
    pub fn proposed(&self) -> ProposedRules {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, ProposedRules> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_done_with_the_rules_for_what_was_seen_holds_up_no_request() {
        let seen = SeenRequests::default();
        let copy = seen.proposed();
        // A request notes itself so, and would wait for a lock that somebody holds.
        seen.0.try_lock().expect("nobody holds it").leave_out();
        assert_eq!((copy.left_out(), seen.proposed().left_out()), (0, 1));
    }
}
