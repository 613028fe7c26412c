//! Connections to one origin: kept, used again, and one request sent once on one of them.
//!
//! Nothing else sends clients' requests by the client types of hyper and h2. Guarantees: a request is written to one connection
//! at most, and a failure says whether the upstream may have acted on it. Whether the request may be sent again is for the caller
//! to judge.
//!
//! Files, each using only those before it: `error`, `options` (what callers choose), `keep_alive` (how long the upstream keeps
//! idle connections), `ahead` (when one is opened ahead of need), `answer_framing` (how an answer is delimited; pure), `answer_io`
//! (how an answer begins), `http1` (one exchange at a time on a connection, and the pool of idle ones), `tunnel` (a WebSocket),
//! `http2` (many exchanges on a connection), `connections` (leases one of them to a request).

mod ahead;
mod answer_framing;
mod answer_io;
mod connections;
mod error;
mod http1;
mod http2;
mod keep_alive;
mod options;
mod tunnel;

pub use connections::{Lease, ResponseBody, Upstream};
pub use error::{BodyBroken, Cause, SendError, Sent};
pub use http1::send_once;
pub use keep_alive::KeepAlive;
pub use options::{HeadLimits, Lifetimes, Reuse};
