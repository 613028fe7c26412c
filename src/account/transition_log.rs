//! Logs what happens to an account: one line for each change that matters to an operator, not one for each attempt.
//!
//! Guarantees: a line says which setting is at fault and never what the setting gives.

use std::time::{Duration, SystemTime};

use tracing::{debug, info, warn};

use super::{
    failure::LoginError,
    session::{Replacement, Session, StateName},
    watch::CredentialChange,
};
use crate::clock::Moment;

/// What the log last said about an account.
#[derive(Default)]
pub(super) struct TransitionLog {
    logged: Option<Logged>,
    causes: Causes,
    /// Whether the account held a token then.
    held_token: bool,
    /// Whether the log said that the clocks differ.
    told_clocks: bool,
}

/// What makes a line differ from the one before.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Logged {
    state: StateName,
    /// Why the last log-in failed.
    reason: Option<&'static str>,
    /// Requests wait because a 401 named the token.
    suspect: bool,
}

impl TransitionLog {
    /// Logs what has changed since the last call, if anything has.
    pub(super) fn log(&mut self, account: &str, session: &Session, now: Moment) {
        // The failure before this attempt was logged, and the attempt's outcome will be.
        if session.is_retrying() {
            return;
        }
        let (state, error) = (session.name(), session.last_error());
        let suspect = session.replacement() == Replacement::InFlight;
        let logged = Logged { state, reason: error.map(LoginError::code), suspect };
        let is_new_cause = self.causes.is_new(error);
        if self.logged.replace(logged) == Some(logged) && !is_new_cause {
            return;
        }
        let held_token = std::mem::replace(&mut self.held_token, session.token().is_some());
        let in_seconds = |moment: Option<Moment>| moment.map(|moment| moment.since(now).as_secs());
        let due_in_s = in_seconds(session.due_at());
        let expires_in_s = in_seconds(session.token().map(|token| token.expires));
        let state_name = state.as_str();
        if let Some(error) = error {
            log_failure(account, state, error, due_in_s, expires_in_s);
            return;
        }
        match state {
            StateName::Ready if held_token => {
                info!(account, state = state_name, expires_in_s, refresh_in_s = due_in_s, "token renewed");
            }
            StateName::Ready => info!(account, state = state_name, expires_in_s, refresh_in_s = due_in_s, "logged in"),
            StateName::LoggedOut => {
                info!(account, state = state_name, "logged out: only an explicit log-in, or a restart, logs in again");
            }
            StateName::Refreshing if suspect => {
                info!(account, state = state_name, expires_in_s, "the API refused the token (401): logging in again");
            }
            StateName::Refreshing => debug!(account, state = state_name, expires_in_s, "renewing the token"),
            StateName::LoggingIn => info!(account, state = state_name, "logging in"),
            // These two have an error, which was logged above.
            StateName::BackingOff | StateName::Rejected => {}
        }
    }
}

/// How many causes the log tells until an attempt succeeds: they may take turns.
const CAUSES_MAX: usize = 8;

/// Why attempts have failed since one succeeded, as far as the log told it.
#[derive(Default)]
pub(super) struct Causes(Vec<String>);

impl Causes {
    /// Whether the log is to tell this cause, though it may have told another one of the same reason: a status after another
    /// status, or a certificate after a connection that was refused. `None`: an attempt succeeded.
    pub(super) fn is_new(&mut self, error: Option<&impl ToString>) -> bool {
        let Some(cause) = error.map(ToString::to_string) else {
            self.0.clear();
            return false;
        };
        let is_new = self.0.len() < CAUSES_MAX && !self.0.contains(&cause);
        if is_new {
            self.0.push(cause);
        }
        is_new
    }
}

/// Clocks that differ by more than this are told.
const CLOCKS_APART: Duration = Duration::from_secs(300);

impl TransitionLog {
    /// Logs once that this machine's clock and the log-in server's differ, until they agree again.
    pub(super) fn compare_clocks(&mut self, account: &str, server: SystemTime, ours: SystemTime) {
        let (behind, ahead) = (server.duration_since(ours).unwrap_or_default(), ours.duration_since(server).unwrap_or_default());
        let (apart, direction) = if behind > ahead { (behind, "behind") } else { (ahead, "ahead of") };
        let differ = apart > CLOCKS_APART;
        if differ && !self.told_clocks {
            let difference_s = apart.as_secs();
            warn!(
                account,
                difference_s,
                "this machine's clock is {difference_s} s {direction} the server's: set it, for certificates are judged by it"
            );
        }
        self.told_clocks = differ;
    }
}

/// Logs that a file of credentials holds something else, unless the account is logged out and ignores it.
pub(super) fn log_credential_change(account: &str, session: &Session, change: CredentialChange) {
    if session.name() == StateName::LoggedOut {
        return;
    }
    match change {
        CredentialChange::Credentials => info!(account, "the credentials have changed: logging in with them"),
        CredentialChange::Organization => info!(account, "the organization has changed: its token is dropped"),
    }
}

fn log_failure(account: &str, state: StateName, error: &LoginError, next_attempt_s: Option<u64>, expires_in_s: Option<u64>) {
    let (state_name, reason) = (state.as_str(), error.code());
    let advice = error.advice();
    if expires_in_s.is_some() {
        warn!(
            account,
            state = state_name,
            reason,
            next_attempt_s,
            expires_in_s,
            advice,
            "log-in failed, the present token serves until it expires: {error}"
        );
    } else {
        warn!(account, state = state_name, reason, next_attempt_s, advice, "log-in failed: {error}");
    }
}
