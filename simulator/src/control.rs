//! The knobs: everything about a running simulator that can be set or asked.
//!
//! All calls are synchronous and may come from any thread.

use std::{fmt, sync::Arc, time::Duration};

use crate::{
    clock,
    fault::LoginFault,
    record::{Counts, Seen, SeenLogin},
    state::Shared,
    sync::lock,
};

/// A handle on a running simulator; clones act on the same one.
#[derive(Clone)]
pub struct Control(pub(crate) Arc<Shared>);

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Control").field("address", &self.0.address).finish_non_exhaustive()
    }
}

/// How long [`Control::drop_connections`] waits for the sockets to be closed.
const CLOSING: Duration = Duration::from_secs(5);

impl Control {
    /// How long tokens issued from now on live, in whole seconds, as `exp` counts.
    pub fn set_token_life(&self, life: Duration) {
        self.0.set(|settings| settings.token_life = life);
    }

    /// Adds a user, or gives a known one another password.
    pub fn set_credentials(&self, organization: &str, username: &str, password: &str) {
        let user = (organization.to_owned(), username.to_owned());
        self.0.set(|settings| settings.credentials.insert(user, password.to_owned()));
    }

    /// The names of the two fields a log-in's body must have (`username`, `password`).
    pub fn set_login_fields(&self, username: &str, password: &str) {
        self.0.set(|settings| settings.login_fields = (username.to_owned(), password.to_owned()));
    }

    /// What every log-in does from now on instead of answering properly; `None`: nothing.
    pub fn set_login_fault(&self, fault: Option<LoginFault>) {
        self.0.set(|settings| settings.login_fault = fault);
    }

    /// What the next `times` log-ins do, before [`set_login_fault`](Self::set_login_fault) counts
    /// again. Calls add up, in their order.
    pub fn fail_next_logins(&self, times: u32, fault: LoginFault) {
        self.0.set(|settings| settings.next_faults.push_back((times, fault)));
    }

    /// Forgets what [`fail_next_logins`](Self::fail_next_logins) has left.
    pub fn clear_next_login_faults(&self) {
        self.0.set(|settings| settings.next_faults.clear());
    }

    /// How long each log-in takes.
    pub fn set_login_delay(&self, delay: Duration) {
        self.0.set(|settings| settings.login_delay = delay);
    }

    /// While `true`, log-ins are read and counted but not answered; `false` lets them go on.
    pub fn hold_logins(&self, hold: bool) {
        self.0.logins_held.send_replace(hold);
    }

    /// How long each other call takes.
    pub fn set_latency(&self, latency: Duration) {
        self.0.set(|settings| settings.latency = latency);
    }

    /// While `true`, calls other than log-ins are read and counted but not answered; `false` lets
    /// them go on.
    pub fn hold_requests(&self, hold: bool) {
        self.0.requests_held.send_replace(hold);
    }

    /// How far the simulator's clock is ahead: it moves `Date`, `iat`, `exp` and the judgement
    /// whether a token has expired.
    pub fn set_clock_offset(&self, seconds: i64) {
        self.0.set(|settings| settings.clock_offset = seconds);
    }

    /// Whether answers come without `Date`.
    pub fn set_omit_date(&self, omit: bool) {
        self.0.set(|settings| settings.omit_date = omit);
    }

    /// Whether new connections are offered HTTP/2.
    pub fn set_http2(&self, offer: bool) {
        self.0.set(|settings| settings.http2 = offer);
    }

    /// How many requests new HTTP/2 connections take at once (200); `None`: the server does not say.
    pub fn set_max_concurrent_streams(&self, streams: Option<u32>) {
        self.0.set(|settings| settings.max_concurrent_streams = streams);
    }

    /// Revokes all tokens issued so far.
    pub fn revoke_tokens(&self) {
        lock(&self.0.tokens).revoke(None);
    }

    /// Revokes all tokens issued so far to one organization.
    pub fn revoke_tokens_of(&self, organization: &str) {
        lock(&self.0.tokens).revoke(Some(organization));
    }

    /// Voids all refresh tokens issued so far.
    pub fn revoke_refresh_tokens(&self) {
        lock(&self.0.tokens).revoke_refresh();
    }

    /// The token issued last.
    #[must_use]
    pub fn last_token(&self) -> Option<String> {
        lock(&self.0.tokens).last().map(str::to_owned)
    }

    /// How many tokens were issued; a reset leaves it alone.
    #[must_use]
    pub fn tokens_issued(&self) -> u64 {
        lock(&self.0.tokens).count()
    }

    /// The public key that verifies the tokens' ES256 signatures: an uncompressed P-256 point.
    #[must_use]
    pub fn public_key(&self) -> Vec<u8> {
        lock(&self.0.tokens).public_key()
    }

    /// How often things happened.
    #[must_use]
    pub fn counts(&self) -> Counts {
        Counts { open_connections: self.0.lines.count(), ..self.0.ledger.counts() }
    }

    /// Forgets counts, requests and log-ins.
    pub fn reset_counts(&self) {
        self.0.ledger.reset();
    }

    /// The last 1000 requests other than log-ins and refreshes, oldest first; those being served
    /// are among them.
    #[must_use]
    pub fn requests(&self) -> Vec<Seen> {
        self.0.ledger.requests()
    }

    /// The last 1000 log-ins, oldest first.
    #[must_use]
    pub fn logins(&self) -> Vec<SeenLogin> {
        self.0.ledger.logins()
    }

    /// Blocks until `condition` holds, asking again whenever something was seen; false when
    /// `limit` has passed. From async code, call it on a blocking thread.
    pub fn wait_until(&self, limit: Duration, condition: impl Fn(&Self) -> bool) -> bool {
        self.0.changes.wait_until(clock::instant() + limit, || condition(self))
    }

    /// Closes every open connection abruptly, as when the server is restarted; returns when the
    /// sockets are closed.
    pub fn drop_connections(&self) {
        let doomed = self.0.lines.cut(false);
        self.0.lines.wait_gone(&doomed, CLOSING);
    }

    /// Closes the connections on which no request is being served, as when a server tires of
    /// them; returns when the sockets are closed.
    pub fn close_idle_connections(&self) {
        let doomed = self.0.lines.cut(true);
        self.0.lines.wait_gone(&doomed, CLOSING);
    }

    /// Every open connection takes no more requests, as when a server is about to stop: on HTTP/2 it sends GOAWAY, finishes
    /// what it has accepted and closes; on HTTP/1.1 it closes once its request is answered.
    pub fn drain_connections(&self) {
        self.0.lines.drain();
    }

    /// Every open connection falls silent for good, as when the network drops all its packets: nothing more is read or
    /// written, and nothing closed. New ones are not affected.
    pub fn freeze_connections(&self) {
        self.0.lines.freeze();
    }

    /// `true`: new connections wait in the kernel's queue, and idle ones are closed (what a client
    /// has pooled is stale). `false`: those that waited are served.
    pub fn pause_accepting(&self, pause: bool) {
        self.0.accepting.send_replace(!pause);
        if pause {
            self.close_idle_connections();
        }
    }
}
