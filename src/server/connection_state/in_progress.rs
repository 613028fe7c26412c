//! One request in progress on a connection, which tells the connection's state what it holds.

use std::sync::{Arc, atomic::Ordering};

use tokio::time::Instant;

use super::{super::client_errors::ClientError, ConnectionPhase, ConnectionState, Ending};
use crate::clock;

/// A request in progress, from its head to the last byte of its response.
pub(in crate::server) struct InProgress {
    state: Arc<ConnectionState>,
    had_body: bool,
    /// It is admitted, as far as we know, and was not answered by ourselves.
    holds_place: bool,
    /// The HTTP/2 client gives no window for what follows of the answer.
    is_windowless: bool,
    outcome: Outcome,
}

/// How far the answer of a request is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Open,
    /// It was given to its last byte.
    Answered,
    /// The connection has become a tunnel.
    Tunnel,
}

impl InProgress {
    /// Begins with the head. A request that is not admitted is answered before the connection is polled again, so until then it
    /// counts as admitted.
    pub(in crate::server) fn begin(state: &Arc<ConnectionState>, had_body: bool) -> Self {
        state.begin_exchange();
        let state = Arc::clone(state);
        Self { state, had_body, holds_place: true, is_windowless: false, outcome: Outcome::Open }
    }

    /// Counts what the client has sent in place of HTTP.
    pub(in crate::server) fn record(&self, error: ClientError) {
        self.state.record(error);
    }

    /// Notes that the answer is the upstream's.
    pub(in crate::server) fn mark_forwarded(&self) {
        self.state.owes_answer.store(true, Ordering::Relaxed);
    }

    /// Notes that the answer is our own, of so many `bytes`: while the client reads it, the connection may be closed for another
    /// client.
    pub(in crate::server) fn give_up_place(&mut self, bytes: u64) {
        if std::mem::take(&mut self.holds_place) {
            self.state.give_up_place(bytes);
        }
    }

    /// Whether the connection should end with the answer: its caller was refused when it was accepted, or another client waits for
    /// its place. Otherwise a client that sends one request behind the other would keep its place, or us busy with refusals.
    pub(in crate::server) fn connection_should_end(&self) -> bool {
        self.state.caller_is_refused() || self.state.slot.is_wanted()
    }

    /// Until when this answer waits if it is our own.
    pub(in crate::server) fn own_answer_waits_until(&self) -> Option<Instant> {
        self.state.own_answer_waits_until()
    }

    /// Notes that the connection closes after this answer.
    pub(in crate::server) fn mark_last(&self) {
        if !self.state.is_leaving() {
            self.state.ending.store(Ending::LastAnswer as u8, Ordering::Relaxed);
        }
    }

    /// Notes whether an HTTP/2 client has to give more window before it gets more of the answer. HTTP/1.x shows that by writes.
    pub(in crate::server) fn set_windowless(&mut self, windowless: bool) {
        if windowless == self.is_windowless || !self.state.is_http2() {
            return;
        }
        self.is_windowless = windowless;
        if windowless {
            self.state.windowless.fetch_add(1, Ordering::Relaxed);
        } else {
            self.state.windowless.fetch_sub(1, Ordering::Relaxed);
        }
        self.state.publish(clock::instant);
    }

    /// Notes that the response ends with the connection, without a delimiter that an HTTP/1.0 client would notice.
    pub(in crate::server) fn set_close_delimited(&self) {
        self.state.close_delimited.store(true, Ordering::Relaxed);
    }

    /// Notes that the response was given to its last byte.
    pub(in crate::server) fn mark_answered(&mut self) {
        self.outcome = Outcome::Answered;
        self.state.close_delimited.store(false, Ordering::Relaxed);
    }

    /// Notes that the connection has become a tunnel: the request stays in progress until it closes.
    pub(in crate::server) fn mark_tunnel(&mut self) {
        self.outcome = Outcome::Tunnel;
        self.state.set(ConnectionPhase::Tunnel);
    }
}

impl Drop for InProgress {
    fn drop(&mut self) {
        if self.outcome == Outcome::Tunnel {
            return;
        }
        self.set_windowless(false);
        if self.state.is_http2() {
            self.state.count_stream(self.outcome == Outcome::Answered);
        }
        if self.holds_place {
            self.state.admitted.fetch_sub(1, Ordering::Relaxed);
        }
        self.state.end_exchange(self.had_body, self.had_body && (!self.holds_place || self.state.awaits_body()));
    }
}
