//! The states' names, as users see them.

/// A state's name, as users see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StateName {
    /// No token until an explicit log-in.
    LoggedOut,
    /// No token; a log-in is in flight.
    LoggingIn,
    /// A valid token, and nothing to do.
    Ready,
    /// A token, while its successor is in flight or waits for its next attempt.
    Refreshing,
    /// No token; the next attempt has its time.
    BackingOff,
    /// The server refused the credentials; the old token serves until it expires.
    Rejected,
}

impl StateName {
    /// All states, for metrics.
    pub const ALL: [Self; 6] =
        [Self::LoggedOut, Self::LoggingIn, Self::Ready, Self::Refreshing, Self::BackingOff, Self::Rejected];

    /// The name in `status`, logs and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::LoggedOut => "logged_out",
            Self::LoggingIn => "logging_in",
            Self::Ready => "ready",
            Self::Refreshing => "refreshing",
            Self::BackingOff => "backing_off",
            Self::Rejected => "rejected",
        }
    }
}
