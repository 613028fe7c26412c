//! What the simulator saw: counts, requests and log-ins, for tests to prove things with.
//!
//! The public types are snapshots; [`Ledger`] is what they are taken from. Their `Debug` output
//! shows neither header values nor bodies.

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

use crate::sync::{Changes, lock};

/// How often things happened since the start or the last reset.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counts {
    /// Log-ins that arrived, whatever became of them.
    pub logins: u64,
    /// Log-ins that were answered with a good token.
    pub login_ok: u64,
    /// Uses of a refresh token that arrived.
    pub refreshes: u64,
    /// Refresh tokens that were accepted.
    pub refresh_ok: u64,
    /// Requests other than log-ins and refreshes.
    pub requests: u64,
    /// Of these, those that came over HTTP/2.
    pub requests_http2: u64,
    /// Of all of them, those answered with 401.
    pub unauthorized: u64,
    /// Requests (log-ins too) with more than one `Authorization` or `organization` header.
    pub malformed: u64,
    /// Connections accepted.
    pub connections: u64,
    /// Connections on which HTTP/2 was agreed.
    pub connections_http2: u64,
    /// TLS handshakes that failed.
    pub handshakes_failed: u64,
    /// TLS handshakes that made a session anew.
    pub handshakes_full: u64,
    /// TLS handshakes that resumed a session.
    pub handshakes_resumed: u64,
    /// Connections open now; a reset leaves it alone.
    pub open_connections: u64,
    /// Requests by route, as `GET /customers/{id}`; those of no route are `other`.
    pub by_route: BTreeMap<String, u64>,
    /// How often each `Idempotency-Key` arrived.
    pub idempotency_keys: BTreeMap<String, u64>,
    /// Answers that repeated an earlier one because of its `Idempotency-Key`.
    pub idempotency_replays: u64,
}

/// A request (log-ins are [`SeenLogin`]s).
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Seen {
    /// The method.
    pub method: String,
    /// The request target as it came; on HTTP/2 its `:path`.
    pub target: String,
    /// `Host`, or on HTTP/2 `:authority`.
    pub authority: String,
    /// The headers; names in lower case, values of one name in their order.
    pub headers: Vec<(String, String)>,
    /// `HTTP/1.0`, `HTTP/1.1` or `HTTP/2.0`.
    pub version: String,
    /// Bytes of the body that were read so far.
    pub body_bytes: u64,
    /// Whether the body was read to its proper end.
    pub complete: bool,
    /// The status of the answer, once there is one.
    pub status: Option<u16>,
    /// Bytes of the answer's body that were handed to the connection so far.
    pub answer_bytes: u64,
    /// Whether the exchange is over: answered to the end, given up by the client, or cut.
    pub over: bool,
}

impl Seen {
    /// The values of one header, in their order.
    #[must_use]
    pub fn values(&self, name: &str) -> Vec<&str> {
        let matching = self.headers.iter().filter(|(known, _)| known.eq_ignore_ascii_case(name));
        matching.map(|(_, value)| value.as_str()).collect()
    }
}

impl fmt::Debug for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.headers.iter().map(|(name, _)| name.as_str()).collect();
        f.debug_struct("Seen")
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

/// A log-in. It holds what was sent, the password included.
#[derive(Clone, PartialEq)]
#[non_exhaustive]
pub struct SeenLogin {
    /// The `organization` header, empty when there was none.
    pub organization: String,
    /// The user name, empty when there was none.
    pub username: String,
    /// The path that was asked.
    pub path: String,
    /// The headers, as in [`Seen`].
    pub headers: Vec<(String, String)>,
    /// The body; null when it was not JSON.
    pub body: Value,
    /// The status of the answer; 0 while there is none.
    pub status: u16,
}

impl fmt::Debug for SeenLogin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SeenLogin")
            .field("organization", &self.organization)
            .field("path", &self.path)
            .field("status", &self.status)
            .finish_non_exhaustive()
    }
}

/// A request while it is served.
pub(crate) struct Record {
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

impl Record {
    pub(crate) fn of(head: &Parts) -> Self {
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

    fn snapshot(&self) -> Seen {
        let status = self.status.load(Ordering::Acquire);
        Seen {
            method: self.method.clone(),
            target: self.target.clone(),
            authority: self.authority.clone(),
            headers: listed(&self.headers),
            version: self.version.clone(),
            body_bytes: self.body_bytes.load(Ordering::Acquire),
            complete: self.complete.load(Ordering::Acquire),
            status: (status != 0).then_some(status),
            answer_bytes: self.answer_bytes.load(Ordering::Acquire),
            over: self.over.load(Ordering::Acquire),
        }
    }
}

/// A log-in while it is served.
pub(crate) struct LoginRecord {
    pub(crate) seen: SeenLogin,
    pub(crate) status: AtomicU16,
}

/// Everything that was seen.
pub(crate) struct Ledger {
    counts: Mutex<Counts>,
    requests: Mutex<VecDeque<Arc<Record>>>,
    logins: Mutex<VecDeque<Arc<LoginRecord>>>,
    changes: Arc<Changes>,
}

/// How many requests and log-ins are kept.
const KEPT: usize = 1000;

impl Ledger {
    /// Empty; notes its changes in `changes`.
    pub(crate) fn new(changes: Arc<Changes>) -> Self {
        Self { counts: Mutex::default(), requests: Mutex::default(), logins: Mutex::default(), changes }
    }

    /// Changes the counts.
    pub(crate) fn count(&self, change: impl FnOnce(&mut Counts)) {
        change(&mut lock(&self.counts));
        self.touch();
    }

    /// Keeps a request, at the arrival of its head.
    pub(crate) fn keep(&self, record: Arc<Record>) {
        push(&mut lock(&self.requests), record);
    }

    /// Keeps a log-in, once its body was read.
    pub(crate) fn keep_login(&self, record: Arc<LoginRecord>) {
        push(&mut lock(&self.logins), record);
        self.touch();
    }

    pub(crate) fn counts(&self) -> Counts {
        lock(&self.counts).clone()
    }

    pub(crate) fn requests(&self) -> Vec<Seen> {
        lock(&self.requests).iter().map(|record| record.snapshot()).collect()
    }

    pub(crate) fn logins(&self) -> Vec<SeenLogin> {
        let with_status =
            |record: &Arc<LoginRecord>| SeenLogin { status: record.status.load(Ordering::Acquire), ..record.seen.clone() };
        lock(&self.logins).iter().map(with_status).collect()
    }

    pub(crate) fn reset(&self) {
        *lock(&self.counts) = Counts::default();
        lock(&self.requests).clear();
        lock(&self.logins).clear();
        self.touch();
    }

    /// Wakes those who wait for a change.
    pub(crate) fn touch(&self) {
        self.changes.note();
    }
}

fn push<T>(kept: &mut VecDeque<T>, new: T) {
    if kept.len() == KEPT {
        kept.pop_front();
    }
    kept.push_back(new);
}

/// The target as it came, and who it was addressed to.
///
/// HTTP/2 has no target of its own, and hyper puts `:authority` into the URI.
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

/// Headers as pairs of text.
pub(crate) fn listed(headers: &HeaderMap) -> Vec<(String, String)> {
    let pair = |(name, value): (&hyper::header::HeaderName, &hyper::header::HeaderValue)| {
        (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned())
    };
    headers.iter().map(pair).collect()
}
