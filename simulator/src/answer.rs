//! Bodies and the making of answers.

use std::{
    io,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Full, combinators::UnsyncBoxBody};
use hyper::{
    HeaderMap, Response, StatusCode,
    body::{Body as _, Frame, Incoming, SizeHint},
    header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue},
};
use serde_json::{Value, json};

use crate::{line::InFlight, record::Record, state::Shared};

/// The body of every answer.
pub(crate) type Body = UnsyncBoxBody<Bytes, io::Error>;

/// No body.
pub(crate) fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// A body that is at hand.
pub(crate) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// An answer without headers of its own.
pub(crate) fn answer(status: StatusCode, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response
}

/// A JSON answer.
pub(crate) fn json(status: StatusCode, value: &Value) -> Response<Body> {
    let mut response = answer(status, full(value.to_string()));
    set(&mut response, CONTENT_TYPE, "application/json");
    response
}

/// An error as CarePortals words it: `{"message": …}`.
pub(crate) fn message(status: StatusCode, message: &str) -> Response<Body> {
    json(status, &json!({ "message": message }))
}

/// An error that also has a type.
pub(crate) fn error(status: StatusCode, kind: &str, message: &str) -> Response<Body> {
    json(status, &json!({ "message": message, "type": kind }))
}

/// Sets a header; a value that HTTP does not allow is left out.
pub(crate) fn set(response: &mut Response<Body>, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}

/// A request body whose reading is recorded.
pub(crate) struct Received {
    incoming: Incoming,
    record: Option<(Arc<Record>, Arc<Shared>)>,
}

impl Received {
    /// Records into `record`; log-ins have none.
    pub(crate) fn new(incoming: Incoming, record: Option<(Arc<Record>, Arc<Shared>)>) -> Self {
        let received = Self { incoming, record };
        if received.incoming.is_end_stream() {
            received.ended();
        }
        received
    }

    fn ended(&self) {
        if let Some((record, shared)) = &self.record
            && !record.complete.swap(true, Ordering::AcqRel)
        {
            shared.ledger.touch();
        }
    }

    /// Reads it all; `None` when it is longer than `limit` or breaks off.
    pub(crate) async fn read(mut self, limit: usize) -> Option<Vec<u8>> {
        let mut read = Vec::new();
        while let Some(frame) = self.frame().await {
            if let Ok(piece) = frame.ok()?.into_data() {
                if read.len() + piece.len() > limit {
                    return None;
                }
                read.extend_from_slice(&piece);
            }
        }
        Some(read)
    }
}

impl hyper::body::Body for Received {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.incoming).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let (Some(piece), Some((record, shared))) = (frame.data_ref(), &this.record)
        {
            record.body_bytes.fetch_add(piece.len() as u64, Ordering::AcqRel);
            shared.ledger.touch();
        }
        if matches!(polled, Poll::Ready(None)) || matches!(polled, Poll::Ready(Some(Ok(_)))) && this.incoming.is_end_stream() {
            this.ended();
        }
        polled.map_err(io::Error::other)
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

/// The body of an answer, on its way out: its bytes are recorded, and the request counts as being
/// served until it is gone.
pub(crate) struct Sending {
    body: Body,
    exchange: Exchange,
}

/// What is told when an answer is over.
pub(crate) struct Exchange {
    pub(crate) record: Option<Arc<Record>>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) in_flight: Option<InFlight>,
}

impl Drop for Exchange {
    fn drop(&mut self) {
        // First, so that who waits for `over` finds the connection idle.
        self.in_flight = None;
        if let Some(record) = &self.record {
            record.over.store(true, Ordering::Release);
        }
        self.shared.ledger.touch();
    }
}

impl Sending {
    pub(crate) fn new(body: Body, exchange: Exchange) -> Self {
        Self { body, exchange }
    }
}

impl hyper::body::Body for Sending {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.body).poll_frame(cx);
        if let (Poll::Ready(Some(Ok(frame))), Some(record)) = (&polled, &this.exchange.record)
            && let Some(piece) = frame.data_ref()
        {
            record.answer_bytes.fetch_add(piece.len() as u64, Ordering::AcqRel);
            this.exchange.shared.ledger.touch();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Makes the answer to HEAD out of the answer to GET: its headers, its length, no body.
pub(crate) fn without_body(mut response: Response<Body>) -> Response<Body> {
    let length = response.body().size_hint().exact();
    let may_have_body = !matches!(response.status(), StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    let headers: &mut HeaderMap = response.headers_mut();
    if let Some(length) = length
        && may_have_body
        && !headers.contains_key(CONTENT_LENGTH)
    {
        headers.insert(CONTENT_LENGTH, length.into());
    }
    *response.body_mut() = empty();
    response
}
