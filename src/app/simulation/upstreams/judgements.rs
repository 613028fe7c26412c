//! What is wrong with a connection, or with a request on it.

use std::time::Duration;

use tokio::time::Instant;

use super::{
    AHEAD, Awaited, CLOSED_WITHIN, Call, Connection, MOMENT, Number, RETIRED_WITHIN, SAFE, State, USED_WITHIN, Upstreams,
};
use crate::app::simulation::{calls::CallId, servers::ACCOUNTS};

impl Connection {
    /// Whether it waits for its next request, and since when.
    pub(super) fn idle_since(&self) -> Option<Instant> {
        let is_held = self.in_flight > 0 || !self.calls.is_empty();
        (!is_held && !self.apart).then_some(self.idle_since)
    }
}

impl Upstreams {
    /// The daemon has given up a call after it waited for so long. What is wrong with that.
    pub(in crate::app::simulation) fn judge_wait(&self, call: CallId, awaited: Awaited, waited: Duration) -> Option<String> {
        let state = self.lock();
        let known = state.calls.get(&call)?;
        let (least, most) = match awaited {
            Awaited::Head => known.times[0],
            Awaited::Body => known.times[1],
        };
        if waited > most + Duration::from_millis(500) {
            return Some(format!("the daemon has waited for {waited:?}, and may for {most:?}"));
        }
        (waited + MOMENT < least && known.ended.is_none() && !state.draining)
            .then(|| format!("the daemon has waited for {waited:?} only, and has to for {least:?}"))
    }
}

impl Call {
    /// `response_timeout` and `body_idle` may be these.
    pub(super) fn may_have(&mut self, times: [Duration; 2]) {
        for (known, time) in self.times.iter_mut().zip(times) {
            *known = (known.0.min(time), known.1.max(time));
        }
    }
}

impl State {
    pub(super) fn judge_attempt(&mut self, account: usize, now: Instant) -> Option<String> {
        let asking = |call: &&Call| call.account == account && call.ended.is_none_or(|ended| ended + MOMENT > now);
        let asking: Vec<&Call> = self.calls.values().filter(asking).collect();
        if asking.is_empty() {
            return self.judge_ahead(account, now);
        }
        // Any of them may take an idle connection that is neither old nor unsafe, if it is known to be of their worker.
        let takes_any = asking.iter().all(|call| call.idempotent && !call.is_choosy && call.arrived == 0 && call.ended.is_none());
        let is_free = |connection: &&Connection| {
            let age = now.duration_since(connection.opened);
            let is_young = age + Duration::from_secs(12) < connection.oldest.mul_f64(0.8 / 1.2);
            if connection.account != account || connection.retired.is_some() || !is_young {
                return false;
            }
            // One more is opened when the last stream is taken.
            if connection.is_http2 {
                let has_room = connection.streams.is_some_and(|streams| connection.in_flight + 1 < streams);
                // A client may get its answer long after that has ended.
                let is_kept = now.duration_since(connection.silent_since) + MOMENT < self.pool_idle;
                return has_room && is_kept && !connection.apart && age > Duration::from_secs(1);
            }
            // A client may get its answer long after that has ended, as a 401 whose successor can't be had.
            let is_kept = now.duration_since(connection.silent_since) + CLOSED_WITHIN < self.pool_idle;
            is_kept
                && connection.idle_since().is_some_and(|since| {
                    let idle = now.duration_since(since);
                    MOMENT < idle && idle < SAFE / 2
                })
        };
        let api = &self.apis[account];
        // A pool that has just been made has none yet.
        let is_frail = self.open.values().any(|connection| connection.account == account && connection.is_frail);
        let is_quiet = !api.unworthy && !is_frail && api.trouble.max(api.made) + Duration::from_secs(5) < now;
        // Some of them may have taken one just now.
        let free: Vec<&Connection> = self.open.values().filter(is_free).collect();
        let is_wasted = self.workers == 1 && takes_any && is_quiet && free.len() >= asking.len();
        // A worker opens connections ahead of need at whole seconds, whoever waits for a token then.
        let is_ahead = self.began.is_some_and(|began| now.duration_since(began).subsec_millis() < 2);
        if is_wasted && is_ahead {
            return self.judge_ahead(account, now);
        }
        is_wasted.then(|| {
            let ages = free.iter().map(|connection| (now.duration_since(connection.opened), connection.is_http2));
            format!("a connection for {} is opened, and others are free: {:?}", ACCOUNTS[account], ages.collect::<Vec<_>>())
        })
    }

    /// A connection that no request asks for.
    pub(super) fn judge_ahead(&mut self, account: usize, now: Instant) -> Option<String> {
        let (workers, name) = (self.workers, ACCOUNTS[account]);
        let api = &mut self.apis[account];
        api.ahead += 1;
        let since = now.duration_since(api.made);
        let paid = u32::try_from(since.as_secs() / AHEAD.0.as_secs()).unwrap_or(u32::MAX);
        // One more is opened when the pool is made.
        let most = workers * (1 + AHEAD.1 + paid);
        if api.ahead > most {
            return Some(format!("{} connections for {name} were opened ahead of need in {since:?}; {most} may be", api.ahead));
        }
        let is_at_first = since < RETIRED_WITHIN;
        let is_in_use = api.used && now.duration_since(api.used_at) < USED_WITHIN + CLOSED_WITHIN;
        (!is_in_use && !is_at_first).then(|| format!("a connection for {name} is opened, and no request has used it lately"))
    }

    pub(super) fn judge_exchange(&self, number: Number, call: CallId, now: Instant) -> Option<String> {
        let (connection, known) = (self.open.get(&number)?, self.calls.get(&call)?);
        let api = &self.apis[connection.account];
        if known.account != connection.account {
            return Some("it went to another API's upstream".to_owned());
        }
        if let Some(retired) = connection.retired.filter(|retired| *retired + RETIRED_WITHIN < known.begun) {
            return Some(format!("its connection was given up {:?} ago", now.duration_since(retired)));
        }
        if known.arrived > 0 && known.received > self.replay_buffer {
            return Some(format!("it is sent again after {} bytes of its body", known.received));
        }
        if !connection.is_http2 && connection.in_flight > 0 {
            return Some("its connection has another exchange".to_owned());
        }
        // A request that waits for a token after its 401 may still hold the connection.
        let is_held = !connection.calls.is_empty();
        let idle = if is_held { Duration::ZERO } else { now.duration_since(connection.idle_since) };
        if idle > self.pool_idle + CLOSED_WITHIN {
            return Some(format!("its connection was idle for {idle:?}, and may be for {:?}", self.pool_idle));
        }
        // Whatever was or is open for so long has shown that it may be.
        let of_account = self.open.values().filter(|other| other.account == connection.account);
        let survived = of_account.map(|other| now.duration_since(other.silent_since)).fold(api.survived, Duration::max);
        let safe = api.announced.map_or(SAFE.max(survived.mul_f64(0.8)), |announced| announced.mul_f64(0.8));
        let safe = safe.max(api.may_have_announced.unwrap_or_default().mul_f64(0.8));
        // Its connection may have been chosen before.
        let is_new = api.announced_at.is_some_and(|announced| announced + MOMENT > now);
        (!known.idempotent && !connection.is_http2 && !is_new && idle > safe + MOMENT)
            .then(|| format!("it is not idempotent, and its connection was idle for {idle:?}; safe is {safe:?}"))
    }

    /// A request whose connection failed is sent again on one that was opened since then.
    pub(super) fn judge_freshness(&self, number: Number, call: CallId, has_failed: bool) -> Option<String> {
        let (connection, sent) = (self.open.get(&number)?, self.calls.get(&call)?.arrived_at?);
        let is_used = has_failed && connection.opened < sent;
        is_used.then(|| {
            format!("it is sent again on a connection that was open {:?} before", sent.duration_since(connection.opened))
        })
    }
}
