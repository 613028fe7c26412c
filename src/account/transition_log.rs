//! What the log says of an account: one line for each change that an operator cares about, not one for each attempt.
//!
//! Depends on `session`, `failure` and `watch`. Says no more of the credentials than which setting they are.

use tracing::{debug, info, warn};

use super::{
    failure::LoginError,
    session::{Complaints, Session, StateName},
    watch::CredentialChange,
};
use crate::clock::Moment;

/// What the log last said of an account.
#[derive(Default)]
pub(super) struct TransitionLog {
    told: Option<Told>,
    /// Whether there was a token when it was told.
    held: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Told {
    state: StateName,
    /// Why the last log-in brought nothing.
    reason: Option<&'static str>,
    /// Requests wait because a 401 named the token.
    suspect: bool,
}

impl TransitionLog {
    /// Says what has changed since it was last asked, if anything has.
    pub(super) fn tell(&mut self, account: &str, session: &Session, now: Moment) {
        // What went before has been told, and so will be what comes of it.
        if session.is_retrying() {
            return;
        }
        let (state, error) = (session.name(), session.last_error());
        let suspect = session.complaints() == Complaints::Joined;
        let told = Told { state, reason: error.map(LoginError::code), suspect };
        if self.told.replace(told) == Some(told) {
            return;
        }
        let held = std::mem::replace(&mut self.held, session.token().is_some());
        let in_seconds = |moment: Option<Moment>| moment.map(|moment| moment.since(now).as_secs());
        let due_in_s = in_seconds(session.due_at());
        let expires_in_s = in_seconds(session.token().map(|token| token.expires));
        let state_name = state.as_str();
        if let Some(error) = error {
            tell_of_failure(account, state, error, due_in_s, expires_in_s);
            return;
        }
        match state {
            StateName::Ready if held => {
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
            // Neither is without its error.
            StateName::BackingOff | StateName::Rejected => {}
        }
    }
}

/// Says that a file of credentials holds something else. After a log-out nothing comes of it.
pub(super) fn tell_of_change(account: &str, session: &Session, change: CredentialChange) {
    if session.name() == StateName::LoggedOut {
        return;
    }
    match change {
        CredentialChange::Credentials => info!(account, "the credentials have changed: logging in with them"),
        CredentialChange::Organization => info!(account, "the organization has changed: its token is dropped"),
    }
}

fn tell_of_failure(account: &str, state: StateName, error: &LoginError, next_attempt_s: Option<u64>, expires_in_s: Option<u64>) {
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
