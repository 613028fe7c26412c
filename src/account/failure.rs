//! Why an account has no new token, in words.
//!
//! Pure. Guarantees: none of these errors holds a value of a source, or a header or body that a server sent; their text holds
//! nothing that a `command` printed.

use std::time::Duration;

use http::StatusCode;
use thiserror::Error;

use crate::{
    metrics::LoginOutcome,
    sources::SourceFault,
    upstream::{Cause, SendError},
};

/// Why one log-in gave no token.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum LoginError {
    /// The server refused (any 3xx or 4xx but 408, 421, 425 and 429). Another attempt soon would not help.
    #[error("the server refused the log-in with status {}", .0.as_u16())]
    Refused(StatusCode),
    /// The server answered 429, with the wait that it asked for, if that is sensible.
    #[error("the server asked for fewer log-ins (429)")]
    Throttled(Option<Duration>),
    /// There was no complete answer, or the server failed.
    #[error("{0}")]
    Unreachable(Unreachable),
    /// The log-in succeeded but brought no usable token.
    #[error("the answer to the log-in is of no use: {0}")]
    Malformed(Malformed),
    /// A source gave no usable credential or organization.
    #[error("{0}")]
    Source(#[from] SourceError),
    /// The log-in took longer than `login_timeout`.
    #[error("the log-in took too long")]
    TimedOut,
}

impl LoginError {
    /// The error's constant name in logs, `status` and readiness.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Refused(_) => "login_refused",
            Self::Throttled(_) => "login_throttled",
            Self::Unreachable(cause) => cause.code(),
            Self::Malformed(_) => "login_answer_malformed",
            Self::Source(error) => error.fault.code(),
            Self::TimedOut => "login_timeout",
        }
    }

    /// What an administrator can do about it.
    #[must_use]
    pub fn advice(&self) -> &'static str {
        match self {
            Self::Refused(StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::BAD_REQUEST) => {
                "correct user name, password or organization; files are read again as soon as they change (those of \
                 `LoadCredential=` when the service restarts), else run `careportals-sidecar login`"
            }
            Self::Refused(_) => "check `login_url` and the account's rights at CarePortals, then run `careportals-sidecar login`",
            Self::Throttled(_) => {
                "nothing; the next attempt comes when the server wants it. Do several daemons share the account?"
            }
            Self::Unreachable(Unreachable::ServerFailed { .. }) => "nothing, if it passes; else ask CarePortals",
            Self::Unreachable(Unreachable::NoAnswer(SendError { cause: Cause::Connect(error), .. })) => error.advice(),
            Self::Unreachable(_) | Self::TimedOut => {
                "check network, DNS, egress proxy and `login_url`: `careportals-sidecar check --online` looks at each"
            }
            Self::Malformed(Malformed::Expired) => "ask CarePortals why its log-in gives tokens that have expired",
            Self::Malformed(Malformed::TooLarge) => "check `login_url`: is it the log-in?",
            Self::Malformed(_) => "check `login_url` and `token_pointer`: does the log-in answer hold the token there?",
            Self::Source(error) => error.fault.advice(),
        }
    }

    /// The same for one whose command has ended: there is no daemon that would log in again.
    #[must_use]
    pub fn advice_for_next_run(&self) -> &'static str {
        match self {
            Self::Refused(StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::BAD_REQUEST) => {
                "correct user name, password or organization"
            }
            Self::Refused(_) => "check `login_url` and the account's rights at CarePortals",
            _ => self.advice(),
        }
    }

    /// The fault of the source that gave no value, if that is why.
    #[must_use]
    pub const fn source_fault(&self) -> Option<&SourceFault> {
        match self {
            Self::Source(error) => Some(&error.fault),
            _ => None,
        }
    }

    /// Whether the server has said that it gives no token now. Settings that lead to it as before do not change that, and another
    /// log-in soon may lock the account, or come when the server has asked for fewer.
    pub(super) const fn is_the_servers_word(&self) -> bool {
        matches!(self, Self::Refused(_) | Self::Throttled(_) | Self::Unreachable(Unreachable::ServerFailed { .. }))
    }

    /// The wait that the server asked for, if that is sensible.
    pub(super) const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Throttled(asked) | Self::Unreachable(Unreachable::ServerFailed { retry_after: asked, .. }) => *asked,
            _ => None,
        }
    }

    /// The outcome that metrics count.
    pub(super) const fn outcome(&self) -> LoginOutcome {
        match self {
            Self::Refused(_) => LoginOutcome::Refused,
            Self::Throttled(_) => LoginOutcome::Throttled,
            Self::Unreachable(_) => LoginOutcome::Unreachable,
            Self::Malformed(_) => LoginOutcome::Malformed,
            Self::Source(_) => LoginOutcome::NoCredentials,
            Self::TimedOut => LoginOutcome::TimedOut,
        }
    }
}

/// Why there was no answer of use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Unreachable {
    /// There was no connection, or no answer over it.
    #[error("{0}")]
    NoAnswer(SendError),
    /// The answer ended too early.
    #[error("the connection failed before the answer was complete")]
    Cut,
    /// The server reported a failure that may pass: 5xx, 408 (it waited for the request for too long), 421 (this connection was
    /// the wrong one) or 425 (too early).
    #[error("the server failed the log-in with status {}", .status.as_u16())]
    ServerFailed {
        /// The answer's status.
        status: StatusCode,
        /// The wait that a 503 asked for, if that is sensible.
        retry_after: Option<Duration>,
    },
}

impl Unreachable {
    const fn code(self) -> &'static str {
        match self {
            Self::NoAnswer(_) => "login_unreachable",
            Self::Cut => "login_cut",
            Self::ServerFailed { .. } => "login_server_failed",
        }
    }
}

/// What is wrong with a successful answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Malformed {
    /// It is longer than any token.
    #[error("it is longer than 64 KiB")]
    TooLarge,
    /// It is not JSON.
    #[error("it is not JSON")]
    NotJson,
    /// It is JSON without a token where one is expected.
    #[error("it holds no token")]
    NoToken,
    /// Its token has characters that a header can't hold.
    #[error("its token can't stand in a header")]
    NotAHeader,
    /// Its token has expired.
    #[error("its token has expired already, by the server's own clock")]
    Expired,
    /// Its status is neither a success nor a refusal.
    #[error("its status means nothing here")]
    Status,
}

/// A source that gave nothing usable, and why.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{which}: {fault}")]
pub struct SourceError {
    /// The setting that names the source.
    pub which: Field,
    /// What is wrong with it.
    pub fault: SourceFault,
}

/// A value that a source gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Field {
    /// The organization.
    #[error("organization")]
    Organization,
    /// The user name.
    #[error("username")]
    Username,
    /// The password.
    #[error("password")]
    Password,
}
