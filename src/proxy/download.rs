//! An answer on its way to the client.
//!
//! Guarantees: [`ToClient`] alone decides when an answer has ended, from what upstream's body says of itself; `server` asks by
//! `is_end_stream`. A body that the upstream cut stays cut. When the body is dropped, the exchange ends and writes its line.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{
    HeaderMap, StatusCode,
    header::{CONTENT_LENGTH, CONTENT_TYPE},
    response,
};
use http_body::{Body, Frame, SizeHint};

use super::{
    coalesce::Coalesced,
    exchange::{Cut, Exchange},
    upload::{ToUpstream, Upload, WaitsFor},
};
use crate::{
    clock,
    deadline::Deadline,
    server::{AnswerKind, is_all_here},
    upstream::ResponseBody,
};

/// The body of an answer as the client gets it.
pub enum ToClient {
    /// The document of a problem of ours.
    #[expect(private_interfaces, reason = "nobody outside looks into it")]
    Problem {
        /// The whole document, until it is taken.
        document: Option<Bytes>,
        /// Ends with the document; `None` when a panic has ended it before. Boxed, since every answer would be as large.
        exchange: Option<Box<Exchange>>,
    },
    /// Upstream's body.
    Download(Box<Download>),
    /// No body: a tunnel begins.
    Empty,
}

impl ToClient {
    /// `bodiless`: the request was a HEAD, so the client gets the document's head alone.
    pub(super) fn problem(document: Bytes, mut exchange: Exchange, bodiless: bool) -> Self {
        if bodiless {
            exchange.complete();
        }
        Self::Problem { document: Some(document), exchange: Some(Box::new(exchange)) }
    }

    /// What the answer means for its connection.
    pub(super) fn kind(&self) -> AnswerKind {
        match self {
            Self::Problem { exchange: Some(exchange), .. } if exchange.caller_is_refused() => AnswerKind::CallerRefused,
            Self::Problem { .. } => AnswerKind::Own,
            Self::Download(_) | Self::Empty => AnswerKind::Forwarded,
        }
    }
}

/// Upstream's body, watched for silence.
pub struct Download {
    body: Coalesced<ResponseBody<ToUpstream>>,
    deadline: Deadline,
    idle: Duration,
    waiting: bool,
    /// A 304 keeps the length of what was not modified, though it has no body. hyper would remove the length if it knew that
    /// the body is empty.
    length_only: bool,
    /// The upstream broke off, and the client is not told yet.
    broken: bool,
    exchange: Exchange,
}

impl Download {
    /// The body that belongs to `head`. `idle`: how long the upstream may be silent while we wait for it.
    pub(super) fn new(
        head: &response::Parts,
        body: ResponseBody<ToUpstream>,
        idle: Duration,
        deadline: Deadline,
        mut exchange: Exchange,
    ) -> Self {
        deadline.disarm();
        // Of an answer to HEAD nothing is due but its head, even if an HTTP/2 upstream ends its stream later.
        if is_all_here(&body) || exchange.asks_for_head() {
            exchange.complete();
        }
        let length_only = head.status == StatusCode::NOT_MODIFIED && head.headers.contains_key(CONTENT_LENGTH);
        let body = Coalesced::new(body);
        Self { body, deadline, idle, waiting: false, length_only, broken: false, exchange }
    }

    fn is_end_stream(&self) -> bool {
        !self.length_only && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        if self.length_only { SizeHint::default() } else { self.body.size_hint() }
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, CutOff>>> {
        if self.broken {
            return Poll::Ready(Some(Err(CutOff)));
        }
        let Poll::Ready(polled) = Pin::new(&mut self.body).poll_frame(cx) else { return self.poll_silence(cx) };
        if self.waiting {
            self.waiting = false;
            self.deadline.disarm();
        }
        if is_all_here(&self.body) {
            self.exchange.complete();
        }
        match polled {
            None => Poll::Ready(None),
            Some(Err(_)) => {
                self.exchange.cut(Cut::UpstreamClosed);
                // When a body fails, hyper drops what it has not written yet, the head too; when a body pauses, it writes.
                self.broken = true;
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Some(Ok(frame)) => {
                let frame = match frame.into_trailers() {
                    Ok(trailers) => Frame::trailers(self.exchange.trailers_to_client(&trailers)),
                    Err(frame) => frame,
                };
                self.exchange.passed_on(frame.data_ref().map_or(0, |data| data.len() as u64));
                Poll::Ready(Some(Ok(frame)))
            }
        }
    }

    /// The upstream has nothing more yet. After `idle` in which nothing of the request moves either, the answer is cut.
    fn poll_silence(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, CutOff>>> {
        // It is the client that we wait for.
        if self.body.is_held_back() {
            self.waiting = false;
            self.deadline.disarm();
            return Poll::Pending;
        }
        if !self.waiting {
            self.waiting = true;
            self.deadline.arm(self.idle);
        }
        while self.deadline.poll_passed(cx).is_ready() {
            // An upstream that has begun to answer may wait for the rest of the request, which may be under way.
            let request = self.exchange.upload().map(Upload::waits_for);
            if let Some(end) = request.map(|(_, since)| since + self.idle).filter(|end| *end > clock::instant()) {
                self.deadline.arm_at(end);
                continue;
            }
            let is_the_clients = matches!(request, Some((WaitsFor::Client, _)));
            self.exchange.cut(if is_the_clients { Cut::ClientSilent } else { Cut::UpstreamSilent });
            return Poll::Ready(Some(Err(CutOff)));
        }
        Poll::Pending
    }
}

impl Body for ToClient {
    type Data = Bytes;
    type Error = CutOff;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, CutOff>>> {
        match self.get_mut() {
            Self::Problem { document, exchange } => {
                if let Some(exchange) = exchange {
                    exchange.complete();
                }
                Poll::Ready(document.take().map(|document| {
                    if let Some(exchange) = exchange {
                        exchange.passed_on(document.len() as u64);
                    }
                    Ok(Frame::data(document))
                }))
            }
            Self::Download(download) => download.poll_frame(cx),
            Self::Empty => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Problem { document, .. } => document.is_none(),
            Self::Download(download) => download.is_end_stream(),
            Self::Empty => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Problem { document, .. } => SizeHint::with_exact(document.as_ref().map_or(0, |document| document.len() as u64)),
            Self::Download(download) => download.size_hint(),
            Self::Empty => SizeHint::with_exact(0),
        }
    }
}

/// The answer was cut off: the client's connection must be closed without a clean end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CutOff;

impl fmt::Display for CutOff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the answer was cut off")
    }
}

impl std::error::Error for CutOff {}

/// Whether an answer is an event stream, which is silent for as long as nothing happens (HTML Living Standard, 9.2).
pub(super) fn is_event_stream(headers: &HeaderMap) -> bool {
    const MEDIA_TYPE: &[u8] = b"text/event-stream";
    headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.as_bytes().get(..MEDIA_TYPE.len()))
        .is_some_and(|start| start.eq_ignore_ascii_case(MEDIA_TYPE))
}
