//! One request and its answer, as the access log sees it.
//!
//! Depends on `logging`, `path` and `server`. Guarantees: however an exchange ends, also when the client hangs up or a
//! panic unwinds, one line is written, and its place among the requests in flight is free again.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use http::{HeaderMap, Method, Uri, header::HeaderValue, request};
use tokio::time::Instant;

use super::{Entrance, headers, problem::Code, upload::Upload};
use crate::{clock, logging::AccessLine, server::Peer};

/// Lives from the request's head to the last byte of its answer.
pub(super) struct Exchange {
    entrance: Arc<Entrance>,
    method: Method,
    target: Uri,
    peer: Peer,
    request_id: RequestId,
    started: Instant,
    first_byte: Option<Duration>,
    status: Option<u16>,
    code: Option<Code>,
    upload: Option<Upload>,
    answered_bytes: u64,
    ending: Ending,
    place: Option<Place>,
}

enum Ending {
    /// Nothing has ended yet: whoever drops the exchange now is the client.
    Open,
    Complete,
    Cut(Cut),
}

/// Why an answer is shorter than upstream meant it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cut {
    /// Upstream broke off.
    UpstreamClosed,
    /// Upstream said nothing for too long.
    UpstreamSilent,
    /// The client hung up.
    ClientClosed,
}

impl Cut {
    fn as_str(self) -> &'static str {
        match self {
            Self::UpstreamClosed => "upstream_closed",
            Self::UpstreamSilent => "upstream_silent",
            Self::ClientClosed => "client_closed",
        }
    }
}

impl Exchange {
    /// Begins with the request's head.
    pub(super) fn open(entrance: &Arc<Entrance>, head: &request::Parts, peer: Peer) -> Self {
        Self {
            entrance: Arc::clone(entrance),
            method: head.method.clone(),
            target: head.uri.clone(),
            peer,
            request_id: RequestId::of(&head.headers, || entrance.worker.draw()),
            started: clock::instant(),
            first_byte: None,
            status: None,
            code: None,
            upload: None,
            answered_bytes: 0,
            ending: Ending::Open,
            place: None,
        }
    }

    /// Keeps a place among the requests in flight until the end.
    pub(super) fn keep(&mut self, place: Place) {
        self.place = Some(place);
    }

    /// The request has a body.
    pub(super) fn uploads(&mut self, upload: Upload) {
        self.upload = Some(upload);
    }

    /// The client's request id, or ours.
    pub(super) fn request_id(&self) -> &str {
        self.request_id.as_str()
    }

    /// Upstream's answer begins.
    pub(super) fn answered(&mut self, status: u16) {
        self.status = Some(status);
        self.first_byte = Some(self.started.elapsed());
    }

    /// A problem of ours is the answer.
    pub(super) fn failed(&mut self, status: u16, code: Code) {
        self.status = Some(status);
        self.code = Some(code);
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
        let entrance = &self.entrance;
        entrance.worker.log(&AccessLine {
            api: &entrance.api.name,
            listener: &entrance.listener,
            method: &self.method,
            path: self.target.path(),
            words: &entrance.api.words,
            status,
            code: code.map(Code::as_str),
            cut: cut.map(Cut::as_str),
            request_bytes: self.upload.as_ref().map_or(0, Upload::bytes),
            response_bytes: self.answered_bytes,
            duration: self.started.elapsed(),
            upstream_first_byte: self.first_byte,
            request_id: self.request_id.as_str(),
            uid: self.peer.uid,
            pid: self.peer.pid,
        });
        if let Some(upload) = self.upload.take()
            && !upload.has_ended()
            && !matches!(self.ending, Ending::Open)
        {
            // The connection owns the rest of the body and ends with it.
            tokio::spawn(upload.linger(entrance.worker.deadlines.clone()));
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

/// Counts the requests of an API in flight, over all workers.
#[derive(Clone)]
pub struct Places {
    taken: Arc<AtomicUsize>,
    most: usize,
}

impl Places {
    /// `most` requests at a time.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self { taken: Arc::default(), most }
    }

    /// A place, if there is one.
    pub(super) fn take(&self) -> Option<Place> {
        let place = Place(Arc::clone(&self.taken));
        if self.taken.fetch_add(1, Ordering::Relaxed) < self.most { Some(place) } else { None }
    }
}

/// A place among the requests in flight.
pub(super) struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_over_the_limit_takes_no_place_and_leaves_none_taken() {
        let places = Places::new(2);
        let first = places.take().unwrap();
        let _second = places.take().unwrap();
        assert!(places.take().is_none());
        assert!(places.take().is_none());
        drop(first);
        assert!(places.take().is_some());
        assert_eq!(places.taken.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn our_request_ids_are_sixteen_hex_digits() {
        assert_eq!(&hex(0x0123_4567_89ab_cdef), b"0123456789abcdef");
        assert_eq!(&hex(0), b"0000000000000000");
    }
}
