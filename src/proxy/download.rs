//! An answer's body on its way to the client: counted, watched for silence, and the last thing that holds the exchange.
//!
//! Depends on `deadline` and `upstream`. Guarantees: a body that upstream cut stays cut; when the body is dropped, for
//! whatever reason, the exchange ends and writes its line.

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
    exchange::{Cut, Exchange},
    upload::ToUpstream,
};
use crate::{deadline::Deadline, upstream::ResponseBody};

/// What the client reads.
pub enum ToClient {
    /// A problem of ours.
    #[expect(private_interfaces, reason = "nobody outside looks into it")]
    Problem {
        /// The whole document, until it is taken.
        document: Option<Bytes>,
        /// Ends with it.
        exchange: Option<Exchange>,
    },
    /// Upstream's answer.
    ResponseBody(Download),
    /// There is none: the answer is the beginning of a tunnel.
    Empty,
}

/// Upstream's body.
pub struct Download {
    answer: ResponseBody<ToUpstream>,
    deadline: Deadline,
    idle: Duration,
    waiting: bool,
    /// There is no body, and yet the head tells a length (304). Of a body that is known to be empty hyper takes it away.
    length_only: bool,
    /// Upstream's body broke off, and the client is not told yet.
    broken: bool,
    exchange: Exchange,
}

impl Download {
    /// `idle`: how long upstream may be silent while we wait for it.
    pub(super) fn new(answer: ResponseBody<ToUpstream>, deadline: Deadline, idle: Duration, exchange: Exchange) -> Self {
        deadline.disarm();
        Self { answer, deadline, idle, waiting: false, length_only: false, broken: false, exchange }
    }

    /// A 304 keeps the length of what was not modified.
    pub(super) fn under(mut self, head: &response::Parts) -> Self {
        self.length_only = head.status == StatusCode::NOT_MODIFIED && head.headers.contains_key(CONTENT_LENGTH);
        self
    }

    fn is_end_stream(&self) -> bool {
        !self.length_only && self.answer.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        if self.length_only { SizeHint::default() } else { self.answer.size_hint() }
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, CutOff>>> {
        if self.broken {
            return Poll::Ready(Some(Err(CutOff)));
        }
        let Poll::Ready(polled) = Pin::new(&mut self.answer).poll_frame(cx) else {
            if !self.waiting {
                self.waiting = true;
                self.deadline.arm(self.idle);
            }
            return self.deadline.poll_passed(cx).map(|()| {
                self.exchange.cut(Cut::UpstreamSilent);
                Some(Err(CutOff))
            });
        };
        if self.waiting {
            self.waiting = false;
            self.deadline.disarm();
        }
        Poll::Ready(match polled {
            None => {
                self.exchange.complete();
                None
            }
            Some(Err(_)) => {
                self.exchange.cut(Cut::UpstreamClosed);
                // hyper drops what it has not written when a body fails, the head too, and writes it when a body pauses.
                self.broken = true;
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            Some(Ok(frame)) => {
                let frame = match frame.into_trailers() {
                    Ok(trailers) => Frame::trailers(self.exchange.trailers(&trailers)),
                    Err(frame) => frame,
                };
                self.exchange.passed_on(frame.data_ref().map_or(0, |data| data.len() as u64));
                if self.answer.is_end_stream() {
                    self.exchange.complete();
                }
                Some(Ok(frame))
            }
        })
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
            Self::ResponseBody(download) => download.poll_frame(cx),
            Self::Empty => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Problem { document, .. } => document.is_none(),
            Self::ResponseBody(download) => download.is_end_stream(),
            Self::Empty => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Problem { document, .. } => SizeHint::with_exact(document.as_ref().map_or(0, |document| document.len() as u64)),
            Self::ResponseBody(download) => download.size_hint(),
            Self::Empty => SizeHint::with_exact(0),
        }
    }
}

/// The answer ends here, and not as it should: the client's connection is closed without a clean end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CutOff;

impl fmt::Display for CutOff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the answer was cut off")
    }
}

impl std::error::Error for CutOff {}

/// Event streams are silent for as long as nothing happens (HTML Living Standard, 9.2).
pub(super) fn is_event_stream(headers: &HeaderMap) -> bool {
    const MEDIA_TYPE: &[u8] = b"text/event-stream";
    headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.as_bytes().get(..MEDIA_TYPE.len()))
        .is_some_and(|start| start.eq_ignore_ascii_case(MEDIA_TYPE))
}
