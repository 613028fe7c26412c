//! Changes the settings of a running simulator, acts on its connections and reads what it recorded.
//!
//! It uses the state and the endpoints that own routes may change. Every method is synchronous and may be called from any thread. Only `wait_until`,
//! `drop_connections`, `close_idle_connections` and `pause_accepting` block.

use std::{fmt, sync::Arc, time::Duration};

use crate::{
    clock,
    fault::LoginFault,
    record::{Counts, RecordedLogin, RecordedRequest},
    state::SimulatorState,
    sync::lock,
};
#[cfg(feature = "import")]
use crate::{openapi, own_routes, route_table::BuiltIn};

/// The limit for how long a method waits until sockets are closed.
const CLOSE_WAIT: Duration = Duration::from_secs(5);

/// A handle to a running simulator; clones control the same one.
#[derive(Clone)]
pub struct Control(pub(crate) Arc<SimulatorState>);

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Control").field("address", &self.0.address).finish_non_exhaustive()
    }
}

impl Control {
    /// Sets how long new tokens live. Only whole seconds count, since `exp` has no fractions.
    pub fn set_token_life(&self, life: Duration) {
        self.0.set(|settings| settings.token_life = life);
    }

    /// Adds a user, or changes the password of one.
    pub fn set_credentials(&self, organization: &str, username: &str, password: &str) {
        let user = (organization.to_owned(), username.to_owned());
        self.0.set(|settings| settings.credentials.insert(user, password.to_owned()));
    }

    /// Sets the names of the two fields that a log-in's body must have; they are `username` and `password` at first.
    pub fn set_login_fields(&self, username: &str, password: &str) {
        self.0.set(|settings| settings.login_fields = (username.to_owned(), password.to_owned()));
    }

    /// Sets the fault of every log-in from now on; `None` ends it.
    pub fn set_login_fault(&self, fault: Option<LoginFault>) {
        self.0.set(|settings| settings.login_fault = fault);
    }

    /// Sets the fault of the next `times` log-ins; after them [`set_login_fault`](Self::set_login_fault) applies again. Several
    /// calls add up in their order.
    pub fn fail_next_logins(&self, times: u32, fault: LoginFault) {
        self.0.set(|settings| settings.next_faults.push_back((times, fault)));
    }

    /// Cancels the faults that [`fail_next_logins`](Self::fail_next_logins) has left.
    pub fn clear_next_login_faults(&self) {
        self.0.set(|settings| settings.next_faults.clear());
    }

    /// Sets how long each log-in takes.
    pub fn set_login_delay(&self, delay: Duration) {
        self.0.set(|settings| settings.login_delay = delay);
    }

    /// `true` holds log-ins and refreshes: they are read and counted but not answered. `false` answers them.
    pub fn hold_logins(&self, hold: bool) {
        self.0.logins_held.send_replace(hold);
    }

    /// Sets how long each other request takes.
    pub fn set_latency(&self, latency: Duration) {
        self.0.set(|settings| settings.latency = latency);
    }

    /// `true` holds all other requests: they are counted but not answered. `false` answers them.
    pub fn hold_requests(&self, hold: bool) {
        self.0.requests_held.send_replace(hold);
    }

    /// Sets how many seconds the simulator's clock is ahead. The clock gives `Date`, `iat` and `exp`, and decides whether a
    /// token has expired.
    pub fn set_clock_offset(&self, seconds: i64) {
        self.0.set(|settings| settings.clock_offset = seconds);
    }

    /// Sets whether responses have no `Date`.
    pub fn set_omit_date(&self, omit: bool) {
        self.0.set(|settings| settings.omit_date = omit);
    }

    /// Sets whether `POST /users` answers with a token of the patient that it created.
    pub fn set_new_user_token(&self, with_token: bool) {
        self.0.set(|settings| settings.new_user_token = with_token);
    }

    /// Adds routes of your own, all of `document` or none; the README says how they are written. A route with the method and the
    /// path of an added one takes its place.
    ///
    /// # Errors
    ///
    /// One line for each route that is wrong: the route, the member, and what to write.
    #[cfg(feature = "import")]
    pub fn add_routes(&self, document: &serde_json::Value) -> Result<(), String> {
        lock(&self.0.routes).add(document, own_routes::built_in)
    }

    /// Adds the routes of an OpenAPI 3 document in JSON or YAML, and returns what became no route, and why.
    ///
    /// # Errors
    ///
    /// Why this is no such document, and what to do.
    #[cfg(feature = "import")]
    pub fn add_openapi(&self, document: &str) -> Result<Vec<String>, String> {
        let mut imported = openapi::routes_from_openapi(document)?;
        imported.routes.retain(|route| {
            let text = |member: &str| route[member].as_str().unwrap_or_default();
            let (method, path) = (text("method"), text("path"));
            let is_fixed = own_routes::built_in(method, path) == BuiltIn::Fixed;
            if is_fixed {
                imported.skipped.push(format!("{method} {path}: the simulator answers this by itself"));
            }
            !is_fixed
        });
        self.add_routes(&serde_json::Value::Array(imported.routes))?;
        Ok(imported.skipped)
    }

    /// Makes the routes added so far those of the start, which [`remove_added_routes`](Self::remove_added_routes) leaves.
    #[cfg(feature = "import")]
    pub fn keep_added_routes(&self) {
        lock(&self.0.routes).keep_added();
    }

    /// Takes away the routes that were added since the start.
    #[cfg(feature = "import")]
    pub fn remove_added_routes(&self) {
        lock(&self.0.routes).remove_added();
    }

    /// The names of your own routes, such as `GET /customers/{id}`.
    #[cfg(feature = "import")]
    #[must_use]
    pub fn route_names(&self) -> Vec<String> {
        lock(&self.0.routes).names()
    }

    /// Sets whether new connections are offered HTTP/2.
    pub fn set_http2(&self, offer: bool) {
        self.0.set(|settings| settings.http2 = offer);
    }

    /// Sets `SETTINGS_MAX_CONCURRENT_STREAMS` of new HTTP/2 connections, 200 at first; `None` sends none.
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

    /// Revokes all refresh tokens issued so far.
    pub fn revoke_refresh_tokens(&self) {
        lock(&self.0.tokens).revoke_refresh();
    }

    /// The token that was issued last.
    #[must_use]
    pub fn last_token(&self) -> Option<String> {
        lock(&self.0.tokens).last().map(str::to_owned)
    }

    /// How many tokens were issued; a reset does not change it.
    #[must_use]
    pub fn tokens_issued(&self) -> u64 {
        lock(&self.0.tokens).count()
    }

    /// The public key that verifies the tokens' ES256 signatures: an uncompressed P-256 point.
    #[must_use]
    pub fn public_key(&self) -> Vec<u8> {
        lock(&self.0.tokens).public_key()
    }

    /// What happened since the start or the last reset, as counts.
    #[must_use]
    pub fn counts(&self) -> Counts {
        Counts { open_connections: self.0.connections.count(), ..self.0.recorder.counts() }
    }

    /// Forgets counts, requests and log-ins.
    pub fn reset_counts(&self) {
        self.0.recorder.reset();
    }

    /// The last 1000 requests other than log-ins and refreshes, oldest first. Requests in flight are among them.
    #[must_use]
    pub fn requests(&self) -> Vec<RecordedRequest> {
        self.0.recorder.requests()
    }

    /// The last 1000 log-ins, oldest first.
    #[must_use]
    pub fn logins(&self) -> Vec<RecordedLogin> {
        self.0.recorder.logins()
    }

    /// Blocks until `condition` holds, and evaluates it again whenever something was recorded; false when `limit` has passed.
    /// Async code must call it on a blocking thread.
    pub fn wait_until(&self, limit: Duration, condition: impl Fn(&Self) -> bool) -> bool {
        self.0.changes.wait_until(clock::instant() + limit, || condition(self))
    }

    /// Closes every open connection abruptly, as a restart does. Blocks until the sockets are closed, for 5 seconds at most.
    pub fn drop_connections(&self) {
        let aborted = self.0.connections.abort(false);
        self.0.connections.wait_closed(&aborted, CLOSE_WAIT);
    }

    /// Closes the connections without a request in flight, as a server's idle time-out does. Blocks until the sockets are
    /// closed, for 5 seconds at most.
    pub fn close_idle_connections(&self) {
        let aborted = self.0.connections.abort(true);
        self.0.connections.wait_closed(&aborted, CLOSE_WAIT);
    }

    /// Drains every open connection, as a server does before it stops. An HTTP/2 connection sends GOAWAY, finishes the requests
    /// that it has accepted and closes; an HTTP/1.1 connection closes once its request is answered.
    pub fn drain_connections(&self) {
        self.0.connections.drain();
    }

    /// Freezes every open connection for good, as a network that drops all packets does: nothing more is read or written, and
    /// nothing is closed. New connections are not affected.
    pub fn freeze_connections(&self) {
        self.0.connections.freeze();
    }

    /// `true` leaves new connections in the kernel's queue and closes idle ones, so that a client's pool is stale; it blocks like
    /// [`close_idle_connections`](Self::close_idle_connections). `false` serves the connections that waited.
    pub fn pause_accepting(&self, pause: bool) {
        self.0.accepting.send_replace(!pause);
        if pause {
            self.close_idle_connections();
        }
    }
}
