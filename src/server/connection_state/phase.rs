//! What a connection is doing, how it ends, and whether its client has to be looked for. Pure.

/// What is going on at a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum ConnectionPhase {
    /// It was accepted, and nothing was read yet.
    Silent,
    /// Part of a head was read, or part of HTTP/2's preface.
    Head,
    /// At least one request is in progress.
    Exchange,
    /// At least one request is in progress, and bytes came behind one without a body: they begin the next head.
    ExchangeAndHead,
    /// It is between requests.
    Idle,
    /// It is between requests, after an answer to a request with a body, of which the rest may still come.
    IdleBehindBody,
    /// Bytes came behind such an answer: the rest of the body, or the next head.
    Rest,
    /// It is no longer HTTP.
    Tunnel,
}

impl ConnectionPhase {
    pub(super) const ALL: [Self; 8] = {
        use ConnectionPhase::{Exchange, ExchangeAndHead, Head, Idle, IdleBehindBody, Rest, Silent, Tunnel};
        [Silent, Head, Exchange, ExchangeAndHead, Idle, IdleBehindBody, Rest, Tunnel]
    };
}

/// Whether the connection takes further requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Ending {
    None,
    /// It has to close after the answer that is given now.
    LastAnswer,
    /// A graceful close has begun.
    Leaving,
}

/// Whether the client's stream has to find out if the client is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum ClientCheck {
    None,
    /// It is due.
    Due,
    /// The stream is asked with the next poll.
    Asked,
}
