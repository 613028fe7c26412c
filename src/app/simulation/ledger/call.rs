//! A call as the ledger knows it: what servers have done with it, and how it ended.

use std::time::Duration;

/// One request of a client.
pub(super) struct Call {
    /// It may not be sent again once the server may have got some of it, unless a 401 says that it did nothing.
    pub(super) once: bool,
    pub(super) arrived: u32,
    /// How often it was answered 401.
    pub(super) refused: u32,
    /// How often it was sent and not answered at all.
    pub(super) failed: u32,
    /// What became of the latest send.
    pub(super) reply: Reply,
    /// A server answered before it had read the body, so the daemon may not have seen that answer.
    pub(super) is_uncertain: bool,
    /// When its 401 made its token suspect, so that a log-in has begun for it.
    pub(super) made_suspect: Option<Duration>,
    /// The newest token with which it was refused.
    pub(super) refused_token: Option<u64>,
    pub(super) executed: u32,
    pub(super) begun: Duration,
    pub(super) account: usize,
    /// The server that was configured when the call began, if no reload was under way.
    pub(super) server: Option<usize>,
    /// Its client reads the answer some time after it has come, or sends it behind another one.
    pub(super) at_leisure: bool,
    /// How long its body is, and that of its answer, if that came whole.
    pub(super) request_bytes: u64,
    pub(super) response_bytes: Option<u64>,
    pub(super) ended: Option<(Duration, Ending)>,
}

/// What a server has let the daemon see of its answer to one send of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::app::simulation) enum Reply {
    /// No byte.
    #[default]
    None,
    /// It said that it has not processed the request.
    Unprocessed,
    /// It reads all, and will say nothing.
    Silent,
    /// Bytes that are no answer.
    Garbage,
    /// The beginning of a 401, or all of it.
    Refused,
    /// The beginning of another answer, or all of it.
    Answered,
}

/// How a call ended for its client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::app::simulation) enum Ending {
    /// CarePortals' answer came whole.
    Answered(u16),
    /// The daemon's own answer: status and code.
    Refused(u16, String),
    /// The connection ended before an answer, or in it.
    Cut,
    /// The client gave up.
    GivenUp,
    /// The connection was closed before the client sent anything.
    Unsent,
}
