//! Records counts, requests and log-ins, so that tests can check what arrived.
//!
//! It uses `sync` only. The public types are snapshots, which [`Recorder`] takes. Their `Debug` output shows neither header
//! values nor bodies. The last 1000 requests and log-ins are kept.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering},
    },
};

use hyper::{HeaderMap, http::request::Parts};
use serde_json::Value;

use crate::sync::{ChangeSignal, lock};

/// How many requests and how many log-ins are kept, each.
const KEPT_MAX: usize = 1000;
/// How many unknown routes are told apart.
const UNKNOWN_MAX: usize = 100;

/// Counts of what happened since the start or the last reset.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counts {
    /// Log-ins that arrived, successful or not.
    pub logins: u64,
    /// Log-ins that got a token which the simulator accepts.
    pub login_ok: u64,
    /// Uses of a refresh token that arrived.
    pub refreshes: u64,
    /// Refresh tokens that were accepted.
    pub refresh_ok: u64,
    /// Requests other than log-ins and refreshes.
    pub requests: u64,
    /// Those of `requests` that came over HTTP/2.
    pub requests_http2: u64,
    /// Those of `requests` that were answered with 401.
    pub unauthorized: u64,
    /// Requests (log-ins too) with more than one `Authorization` or `organization` header.
    pub malformed: u64,
    /// The number of connections that were accepted.
    pub connections: u64,
    /// Connections on which HTTP/2 was agreed.
    pub connections_http2: u64,
    /// The number of TLS handshakes that failed.
    pub handshakes_failed: u64,
    /// TLS handshakes that made a new session.
    pub handshakes_full: u64,
    /// TLS handshakes that resumed a session.
    pub handshakes_resumed: u64,
    /// Connections that are open now; a reset does not change it.
    pub open_connections: u64,
    /// Requests by route, such as `GET /customers/{id}`; `other` for a path that is no route.
    pub by_route: BTreeMap<String, u64>,
    /// Requests that no route answers; the answer has the header `x-simulator: unknown-route`.
    pub unknown: u64,
    /// The first hundred of them that differ, by method and path.
    pub unknown_routes: BTreeMap<String, u64>,
    /// How often each `Idempotency-Key` arrived.
    pub idempotency_keys: BTreeMap<String, u64>,
    /// Answers that repeated an earlier one because of its `Idempotency-Key`.
    pub idempotency_replays: u64,
}

impl Counts {
    /// Counts a request that no route answers.
    pub(crate) fn count_unknown(&mut self, method: &str, path: &str) {
        self.unknown += 1;
        let name = format!("{method} {path}");
        if self.unknown_routes.len() < UNKNOWN_MAX || self.unknown_routes.contains_key(&name) {
            *self.unknown_routes.entry(name).or_default() += 1;
        }
    }
}

/// A request that is over, as [`Options::on_request`](crate::Options::on_request) gets it: without ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RequestLine<'a> {
    /// The method, if it is one that HTTP defines; else `-`.
    pub method: &'a str,
    /// The path of the route, such as `/customers/{id}`; `(unknown route)` for a path that is no route.
    pub route: &'a str,
    /// The status of the response; `None` if there was none.
    pub status: Option<u16>,
}

impl fmt::Display for RequestLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} ", self.method, self.route)?;
        match self.status {
            Some(status) => write!(f, "{status}"),
            None => f.write_str("-"),
        }
    }
}

/// Is told of each request that is over, on the simulator's thread, which waits for it.
pub type RequestListener = Arc<dyn Fn(RequestLine<'_>) + Send + Sync>;

/// A request that arrived. A log-in is a [`RecordedLogin`] instead.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RecordedRequest {
    /// The method, as the client sent it.
    pub method: String,
    /// The request target as it arrived; on HTTP/2 the `:path`.
    pub target: String,
    /// The `Host` header; on HTTP/2 without one, `:authority`.
    pub authority: String,
    /// The headers; names are in lower case, and values of one name keep their order.
    pub headers: Vec<(String, String)>,
    /// The version of HTTP: `HTTP/1.0`, `HTTP/1.1` or `HTTP/2.0`.
    pub version: String,
    /// How many bytes of the body were read so far.
    pub body_bytes: u64,
    /// Whether the body was read completely.
    pub complete: bool,
    /// The status of the response, once there is one.
    pub status: Option<u16>,
    /// How many bytes of the response's body were handed to the connection so far.
    pub answer_bytes: u64,
    /// Whether the exchange is over: the response is complete, the client gave up, or the connection ended.
    pub over: bool,
}

impl RecordedRequest {
    /// The values of the header `name`, in their order.
    #[must_use]
    pub fn values(&self, name: &str) -> Vec<&str> {
        let matching = self.headers.iter().filter(|(known, _)| known.eq_ignore_ascii_case(name));
        matching.map(|(_, value)| value.as_str()).collect()
    }
}

impl fmt::Debug for RecordedRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.headers.iter().map(|(name, _)| name.as_str()).collect();
        f.debug_struct("RecordedRequest")
            .field("method", &self.method)
            .field("path", &self.target.split('?').next())
            .field("version", &self.version)
            .field("header_names", &names)
            .field("body_bytes", &self.body_bytes)
            .field("complete", &self.complete)
            .field("status", &self.status)
            .field("answer_bytes", &self.answer_bytes)
            .field("over", &self.over)
            .finish_non_exhaustive()
    }
}

/// A log-in that arrived. It holds everything that was sent, the password too.
#[derive(Clone, PartialEq)]
#[non_exhaustive]
pub struct RecordedLogin {
    /// The `organization` header; empty when it was missing.
    pub organization: String,
    /// The user name; empty when it was missing.
    pub username: String,
    /// The path of the request.
    pub path: String,
    /// The headers, in the form of [`RecordedRequest::headers`].
    pub headers: Vec<(String, String)>,
    /// The body; `Null` when it was not JSON.
    pub body: Value,
    /// The status of the response; 0 while there is none.
    pub status: u16,
}

impl fmt::Debug for RecordedLogin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecordedLogin")
            .field("organization", &self.organization)
            .field("path", &self.path)
            .field("status", &self.status)
            .finish_non_exhaustive()
    }
}

/// A request while it is served; the body wrappers update it.
pub(crate) struct LiveRequest {
    method: String,
    target: String,
    authority: String,
    version: String,
    headers: HeaderMap,
    pub(crate) body_bytes: AtomicU64,
    pub(crate) complete: AtomicBool,
    pub(crate) status: AtomicU16,
    pub(crate) answer_bytes: AtomicU64,
    pub(crate) over: AtomicBool,
}

impl LiveRequest {
    /// Copies what the head says.
    pub(crate) fn new(head: &Parts) -> Self {
        let (target, authority) = target_and_authority(head);
        Self {
            method: head.method.to_string(),
            target,
            authority,
            version: format!("{:?}", head.version),
            headers: head.headers.clone(),
            body_bytes: AtomicU64::new(0),
            complete: AtomicBool::new(false),
            status: AtomicU16::new(0),
            answer_bytes: AtomicU64::new(0),
            over: AtomicBool::new(false),
        }
    }

    fn snapshot(&self) -> RecordedRequest {
        let status = self.status.load(Ordering::Acquire);
        RecordedRequest {
            method: self.method.clone(),
            target: self.target.clone(),
            authority: self.authority.clone(),
            headers: header_pairs(&self.headers),
            version: self.version.clone(),
            body_bytes: self.body_bytes.load(Ordering::Acquire),
            complete: self.complete.load(Ordering::Acquire),
            status: (status != 0).then_some(status),
            answer_bytes: self.answer_bytes.load(Ordering::Acquire),
            over: self.over.load(Ordering::Acquire),
        }
    }
}

/// A log-in while it is served; its status is set at the end.
pub(crate) struct LiveLogin {
    pub(crate) login: RecordedLogin,
    pub(crate) status: AtomicU16,
}

/// Holds everything that is recorded.
pub(crate) struct Recorder {
    counts: Mutex<Counts>,
    requests: Mutex<VecDeque<Arc<LiveRequest>>>,
    logins: Mutex<VecDeque<Arc<LiveLogin>>>,
    changes: Arc<ChangeSignal>,
}

impl Recorder {
    /// An empty recorder; it notifies `changes` of every change.
    pub(crate) fn new(changes: Arc<ChangeSignal>) -> Self {
        Self { counts: Mutex::default(), requests: Mutex::default(), logins: Mutex::default(), changes }
    }

    /// Changes the counts and notifies.
    pub(crate) fn count(&self, change: impl FnOnce(&mut Counts)) {
        change(&mut lock(&self.counts));
        self.notify();
    }

    /// Keeps a request; called when its head has arrived.
    pub(crate) fn keep_request(&self, record: Arc<LiveRequest>) {
        push(&mut lock(&self.requests), record);
    }

    /// Keeps a log-in; called when its body was read.
    pub(crate) fn keep_login(&self, record: Arc<LiveLogin>) {
        push(&mut lock(&self.logins), record);
        self.notify();
    }

    /// A snapshot of the counts.
    pub(crate) fn counts(&self) -> Counts {
        lock(&self.counts).clone()
    }

    /// Snapshots of the requests, oldest first.
    pub(crate) fn requests(&self) -> Vec<RecordedRequest> {
        lock(&self.requests).iter().map(|record| record.snapshot()).collect()
    }

    /// Snapshots of the log-ins, oldest first.
    pub(crate) fn logins(&self) -> Vec<RecordedLogin> {
        let with_status =
            |record: &Arc<LiveLogin>| RecordedLogin { status: record.status.load(Ordering::Acquire), ..record.login.clone() };
        lock(&self.logins).iter().map(with_status).collect()
    }

    /// Forgets everything.
    pub(crate) fn reset(&self) {
        *lock(&self.counts) = Counts::default();
        lock(&self.requests).clear();
        lock(&self.logins).clear();
        self.notify();
    }

    /// Wakes every thread that waits for a change.
    pub(crate) fn notify(&self) {
        self.changes.notify();
    }
}

fn push<T>(kept: &mut VecDeque<T>, new: T) {
    if kept.len() == KEPT_MAX {
        kept.pop_front();
    }
    kept.push_back(new);
}

/// The request target as it arrived, and the authority that it was sent to.
///
/// HTTP/2 has no request target, and hyper puts `:authority` into the URI.
pub(crate) fn target_and_authority(head: &Parts) -> (String, String) {
    let host = head.headers.get("host").map(|host| String::from_utf8_lossy(host.as_bytes()));
    let authority = host.map(std::borrow::Cow::into_owned);
    let authority = authority.or_else(|| head.uri.authority().map(ToString::to_string));
    let target = if head.version == hyper::Version::HTTP_2 {
        head.uri.path_and_query().map_or("/", |target| target.as_str()).to_owned()
    } else {
        head.uri.to_string()
    };
    (target, authority.unwrap_or_default())
}

/// The headers as pairs of name and value; bytes that are not UTF-8 are replaced.
pub(crate) fn header_pairs(headers: &HeaderMap) -> Vec<(String, String)> {
    let pair = |(name, value): (&hyper::header::HeaderName, &hyper::header::HeaderValue)| {
        (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned())
    };
    headers.iter().map(pair).collect()
}
