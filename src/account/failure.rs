//! Why an account has no new token, in words.
//!
//! Pure. Guarantees: none of these holds a value of a source, a body or a header that a server sent; what they print may
//! stand in a log line and in `status`.

use std::time::Duration;

use http::StatusCode;
use thiserror::Error;

use crate::{metrics::LoginOutcome, sources::SourceFault, upstream::SendError};

/// Why one log-in gave no token.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum LoginError {
    /// The server said no (any 3xx or 4xx but 429): trying soon again would be no better.
    #[error("the server refused the log-in with status {}", .0.as_u16())]
    Refused(StatusCode),
    /// 429, with the wait that the server asked for, when it asked for a sensible one.
    #[error("the server asked for fewer log-ins (429)")]
    Throttled(Option<Duration>),
    /// The exchange did not come about.
    #[error("{0}")]
    Unreachable(Unreachable),
    /// A success that brought no usable token.
    #[error("the answer to the log-in is of no use: {0}")]
    Malformed(Malformed),
    /// Credentials or organization are not at hand.
    #[error("{0}")]
    Source(#[from] SourceError),
    /// Not done within `login_timeout`.
    #[error("the log-in took too long")]
    TimedOut,
}

impl LoginError {
    /// A constant word for logs and readiness.
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

    /// What whoever runs the daemon can do about it.
    #[must_use]
    pub const fn advice(&self) -> &'static str {
        match self {
            Self::Refused(StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::BAD_REQUEST) => {
                "correct user name, password or organization; files are read again as soon as they change, else run \
                 `careportals-sidecar login`"
            }
            Self::Refused(_) => "check `login_url` and the account's rights at CarePortals, then run `careportals-sidecar login`",
            Self::Throttled(_) => {
                "nothing; the next attempt comes when the server wants it. Do several daemons share the account?"
            }
            Self::Unreachable(Unreachable::ServerFailed(_)) => "nothing, if it passes; else ask CarePortals",
            Self::Unreachable(_) | Self::TimedOut => {
                "check network, DNS, egress proxy and `login_url`: `careportals-sidecar check --online` looks at each"
            }
            Self::Malformed(_) => "check `login_url` and `token_pointer`: does the log-in answer hold the token there?",
            Self::Source(_) => "put the value where the setting says; files are watched, and read as soon as they appear",
        }
    }

    /// What it is counted as.
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

/// What kept the exchange from coming about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Unreachable {
    /// No connection, or no answer over it.
    #[error("{0}")]
    NoAnswer(SendError),
    /// An answer that ended too early.
    #[error("the connection failed before the answer was complete")]
    Cut,
    /// The server answered with its own failure (5xx).
    #[error("the server failed the log-in with status {}", .0.as_u16())]
    ServerFailed(StatusCode),
}

impl Unreachable {
    const fn code(self) -> &'static str {
        match self {
            Self::NoAnswer(_) => "login_unreachable",
            Self::Cut => "login_cut",
            Self::ServerFailed(_) => "login_server_failed",
        }
    }
}

/// What is wrong with a successful answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Malformed {
    /// Longer than any token.
    #[error("it is longer than 64 KiB")]
    TooLarge,
    /// Not JSON at all.
    #[error("it is not JSON")]
    NotJson,
    /// JSON without a token where one is looked for.
    #[error("it holds no token")]
    NoToken,
    /// A token with characters that no header takes.
    #[error("its token can't stand in a header")]
    NotAHeader,
    /// Too late already.
    #[error("its token has expired already, by the server's own clock")]
    Expired,
    /// Neither a success nor a refusal.
    #[error("its status means nothing here")]
    Status,
}

/// Which source gave nothing usable, and why.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{which}: {fault}")]
pub struct SourceError {
    /// The setting.
    pub which: Field,
    /// What is wrong with it.
    pub fault: SourceFault,
}

/// What a source gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Field {
    /// The organization_only.
    #[error("organization")]
    Organization,
    /// Who logs in.
    #[error("username")]
    Username,
    /// With what.
    #[error("password")]
    Password,
}
