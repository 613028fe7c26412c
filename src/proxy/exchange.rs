//! One request and its answer, as the access log and the metrics see it.
//!
//! Depends on `logging`, `metrics`, `path` and `server`. Guarantees: however an exchange ends, also when the client hangs up
//! or a panic unwinds, one line is written, it is counted once, and its place among the requests in flight is free again.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use http::{HeaderMap, Method, Uri, Version, header::HeaderValue, request};
use tokio::time::Instant;

use super::{
    Route,
    headers::{self, HeaderRules},
    problem::Code,
    upload::Upload,
    upstream_time::UpstreamTime,
};
use crate::{
    clock,
    logging::AccessLine,
    metrics::{Ended, Label as _, Meter, label},
    server::Peer,
};

/// Lives from the request's head to the last byte of its answer.
pub(super) struct Exchange {
    route: Arc<Route>,
    method: Method,
    target: Uri,
    version: Version,
    peer: Peer,
    request_id: RequestId,
    started: Instant,
    first_byte: Option<Duration>,
    status: Option<u16>,
    code: Option<Code>,
    upload: Option<Upload>,
    /// Bytes through a tunnel, which is no upload.
    tunnelled_bytes: u64,
    answered_bytes: u64,
    ending: Ending,
    place: Option<RequestPermit>,
}

enum Ending {
    /// Nothing has ended yet: whoever drops the exchange now is the client.
    Open,
    Complete,
    Cut(Cut),
}

label! {
    /// Why an answer is shorter than upstream meant it.
    pub(super) enum Cut {
        /// Upstream broke off.
        UpstreamClosed = "upstream_closed",
        /// Upstream said nothing for too long.
        UpstreamSilent = "upstream_silent",
        /// The client hung up.
        ClientClosed = "client_closed",
        /// Nobody said anything for too long, in a tunnel.
        Silent = "silent",
    }
}

impl Exchange {
    /// Begins with the request's head.
    pub(super) fn open(route: &Arc<Route>, head: &request::Parts, peer: Peer) -> Self {
        Self {
            route: Arc::clone(route),
            method: head.method.clone(),
            target: head.uri.clone(),
            version: head.version,
            peer,
            request_id: RequestId::of(&head.headers, || route.worker.draw()),
            started: clock::instant(),
            first_byte: None,
            status: None,
            code: None,
            upload: None,
            tunnelled_bytes: 0,
            answered_bytes: 0,
            ending: Ending::Open,
            place: None,
        }
    }

    /// Keeps a place among the requests in flight until the end.
    pub(super) fn keep(&mut self, place: RequestPermit) {
        self.place = Some(place);
    }

    /// The request has a body.
    pub(super) fn uploads(&mut self, upload: Upload) {
        self.upload = Some(upload);
    }

    /// Who the client is.
    pub(super) fn peer(&self) -> &Peer {
        &self.peer
    }

    /// What the client speaks.
    pub(super) fn version(&self) -> Version {
        self.version
    }

    /// The client's request id, or ours.
    pub(super) fn request_id(&self) -> &str {
        self.request_id.as_str()
    }

    /// Upstream's answer has begun, `at` that time.
    pub(super) fn answered(&mut self, status: u16, at: Option<Instant>) {
        self.status = Some(status);
        self.first_byte = at.map(|at| at - self.started);
    }

    /// The answer's head is about to go to the client; what was not waited since the request's came was ours.
    pub(super) fn head_is_ready(&self, waits: &UpstreamTime) {
        self.meter().spent(self.started.elapsed().saturating_sub(waits.total()));
    }

    fn meter(&self) -> &Meter {
        if self.is_of_no_api() { &self.route.worker.unclaimed } else { &self.route.api.meter }
    }

    fn is_of_no_api(&self) -> bool {
        self.code == Some(Code::NoApi)
    }

    /// A problem of ours is the answer.
    pub(super) fn failed(&mut self, status: u16, code: Code) {
        self.status = Some(status);
        self.code = Some(code);
    }

    /// What happens to headers.
    pub(super) fn rules(&self) -> &HeaderRules {
        &self.route.api.rules
    }

    /// What passes of the answer's trailers.
    pub(super) fn trailers(&self, upstream: &HeaderMap) -> HeaderMap {
        let mut trailers = headers::trailers_to_client(self.rules(), upstream);
        self.route.api.hide_token_in_trailers(&mut trailers);
        trailers
    }

    /// So many bytes went through a tunnel, from the client and to it.
    pub(super) fn tunnelled(&mut self, up: u64, down: u64) {
        (self.tunnelled_bytes, self.answered_bytes) = (up, down);
    }

    /// So many more bytes went to the client.
    pub(super) fn passed_on(&mut self, bytes: u64) {
        self.answered_bytes += bytes;
    }

    /// The answer's body has ended as it should.
    pub(super) fn complete(&mut self) {
        self.ending = Ending::Complete;
    }

    /// The answer's body was cut.
    pub(super) fn cut(&mut self, cut: Cut) {
        self.ending = Ending::Cut(cut);
    }

    fn cut_or_none(&self) -> Option<Cut> {
        match self.ending {
            Ending::Complete => None,
            Ending::Cut(cut) => Some(cut),
            Ending::Open => Some(Cut::ClientClosed),
        }
    }
}

/// What a client that hangs up before its answer is counted as; nobody receives it.
const CLIENT_CLOSED_REQUEST: u16 = 499;

impl Drop for Exchange {
    fn drop(&mut self) {
        let (status, code, cut) = if std::thread::panicking() {
            (500, Some(Code::Internal), None)
        } else {
            (self.status.unwrap_or(CLIENT_CLOSED_REQUEST), self.code, self.cut_or_none())
        };
        let route = &self.route;
        let api = if self.is_of_no_api() { "" } else { &*route.api.name };
        let duration = self.started.elapsed();
        self.meter().ended(&Ended { method: &self.method, status, code, cut, duration, first_byte: self.first_byte });
        route.worker.log(&AccessLine {
            api,
            listener: &route.listener,
            method: &self.method,
            path: self.target.path(),
            words: &route.api.words,
            status,
            code: code.map(Code::as_str),
            cut: cut.map(Cut::as_str),
            request_bytes: self.upload.as_ref().map_or(self.tunnelled_bytes, Upload::bytes),
            response_bytes: self.answered_bytes,
            duration,
            upstream_first_byte: self.first_byte,
            request_id: self.request_id.as_str(),
            uid: self.peer.uid(),
            pid: self.peer.pid(),
        });
        if let Some(upload) = self.upload.take()
            && !upload.has_ended()
            && !matches!(self.ending, Ending::Open)
        {
            // The connection owns the rest of the body and ends with it. Over HTTP/2, too: a client may be told that nobody
            // reads on (RFC 9113, 8.1), and some then forget the answer that they have just got.
            tokio::spawn(upload.discard_upload(route.worker.deadlines.clone()));
        }
    }
}

/// What ties a log line, a problem and the client's own records together.
enum RequestId {
    /// Well-formed, so it is ASCII.
    Clients(HeaderValue),
    Ours([u8; 16]),
}

impl RequestId {
    fn of(headers: &HeaderMap, draw: impl FnOnce() -> u64) -> Self {
        let clients = headers::request_id(headers).and_then(|_| headers.get("x-request-id"));
        clients.cloned().map_or_else(|| Self::Ours(hex(draw())), Self::Clients)
    }

    fn as_str(&self) -> &str {
        match self {
            Self::Clients(value) => value.to_str().unwrap_or_default(),
            Self::Ours(digits) => std::str::from_utf8(digits).unwrap_or_default(),
        }
    }
}

fn hex(bits: u64) -> [u8; 16] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let bytes = bits.to_be_bytes();
    std::array::from_fn(|place| {
        let half = if place % 2 == 0 { bytes[place / 2] >> 4 } else { bytes[place / 2] & 0xf };
        DIGITS[usize::from(half)]
    })
}

/// Counts the requests of an API in flight, over all workers. Clones share the count.
#[derive(Clone)]
pub struct RequestLimit(Arc<RequestsInFlight>);

struct RequestsInFlight {
    taken: AtomicUsize,
    most: AtomicUsize,
}

impl RequestLimit {
    /// `most` requests at a time.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self(Arc::new(RequestsInFlight { taken: AtomicUsize::new(0), most: AtomicUsize::new(most) }))
    }

    /// Requests in flight.
    #[must_use]
    pub fn taken(&self) -> usize {
        self.0.taken.load(Ordering::Relaxed)
    }

    /// From now on `most` at a time. Who has a place keeps it.
    pub fn limit_to(&self, most: usize) {
        self.0.most.store(most, Ordering::Relaxed);
    }

    /// How many there may be.
    #[must_use]
    pub fn most(&self) -> usize {
        self.0.most.load(Ordering::Relaxed)
    }

    /// A place, if there is one.
    pub(super) fn take(&self) -> Option<RequestPermit> {
        let place = RequestPermit(Arc::clone(&self.0));
        let before = place.0.taken.fetch_add(1, Ordering::Relaxed);
        (before < self.0.most.load(Ordering::Relaxed)).then_some(place)
    }
}

/// A place among the requests in flight.
pub(super) struct RequestPermit(Arc<RequestsInFlight>);

impl Drop for RequestPermit {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_over_the_limit_takes_no_place_and_leaves_none_taken() {
        let places = RequestLimit::new(2);
        let first = places.take().unwrap();
        let _second = places.take().unwrap();
        assert!(places.take().is_none());
        assert!(places.take().is_none());
        drop(first);
        assert!(places.take().is_some());
        assert_eq!(places.0.taken.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_new_limit_counts_for_those_who_come_and_not_for_those_who_are_there() {
        let places = RequestLimit::new(2);
        let both = [places.take().unwrap(), places.take().unwrap()];
        places.limit_to(1);
        assert!(places.take().is_none());
        drop(both);
        let _one = places.take().unwrap();
        assert!(places.take().is_none());
        places.limit_to(3);
        assert!(places.take().is_some());
    }

    #[test]
    fn our_request_ids_are_sixteen_hex_digits() {
        assert_eq!(&hex(0x0123_4567_89ab_cdef), b"0123456789abcdef");
        assert_eq!(&hex(0), b"0000000000000000");
    }
}
