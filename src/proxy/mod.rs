//! The life of one request: admitted, given a bearer, sent, perhaps sent again, answered.
//!
//! The file `forward` tells it from top to bottom. What decides is pure and stands in files of its own. Guarantees: a client
//! gets the token neither in the head nor in the trailers of an answer; no request is sent more than three times; a token that
//! expired or was withdrawn before the request's connection was there is not sent.
//!
//! Files, each using only those before it: `request_id` (pure), `spare_heads` (memory for heads that is used again), `headers`
//! (pure), `required` (a header that each request must have), `admit` (pure but for two questions), `problem` (our error answers;
//! pure), `health` (what requests last met), `retry` (pure), `coalesce` (small frames of a body), `upload` (the request's body),
//! `request_limit`, `api` (what a worker has of an API), `router` (which API a request is for), `exchange` (the record of a
//! request), `download` (the answer's body), `tunnel`, `upstream_time` (how long a request waits for others), `forward`,
//! `service` (has requests answered), `internal` (for fuzzing).

mod admit;
mod api;
mod coalesce;
mod download;
mod exchange;
mod forward;
mod headers;
mod health;
pub mod internal;
mod problem;
mod request_id;
mod request_limit;
mod required;
mod retry;
mod router;
mod service;
mod spare_heads;
mod tunnel;
mod upload;
mod upstream_time;

pub use admit::{BrowserMarks, Entry, Explanation, Gate, Refusal, names_loopback};
pub use api::{Api, Route, SeenRequests, Worker};
pub use download::{CutOff, Download, ToClient};
pub use exchange::metrics;
pub use headers::HeaderRules;
pub use health::{ApiHealth, Outage, Shortage, TokenRefusal};
pub use problem::{Code, ProxyError};
pub use request_limit::RequestLimit;
pub use required::{Required, try_source};
pub use router::{Router, Routes, choose};
pub use upload::{ToUpstream, UploadError};
