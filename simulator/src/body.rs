//! Records bodies while they pass: a request's while it is read, a response's while it is sent.
//!
//! It uses the state and the connection. A connection counts as busy until the response's body is dropped, and every dropped
//! body ends its exchange.

use std::{
    io,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::{
    Method,
    body::{Body, Frame, Incoming, SizeHint},
};

use crate::{
    connection::InFlightGuard,
    record::{LiveRequest, RequestLine},
    response::ResponseBody,
    state::SimulatorState,
};

/// A request's body; it records how much of it was read.
pub(crate) struct RequestBody {
    incoming: Incoming,
    record: Option<(Arc<LiveRequest>, Arc<SimulatorState>)>,
}

impl RequestBody {
    /// Wraps `incoming`. Log-ins have no `record`.
    pub(crate) fn new(incoming: Incoming, record: Option<(Arc<LiveRequest>, Arc<SimulatorState>)>) -> Self {
        let body = Self { incoming, record };
        if body.incoming.is_end_stream() {
            body.record_end();
        }
        body
    }

    fn record_end(&self) {
        if let Some((record, state)) = &self.record
            && !record.complete.swap(true, Ordering::AcqRel)
        {
            state.recorder.notify();
        }
    }

    /// Reads the whole body; `None` when it is longer than `limit` bytes or breaks off.
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

impl Body for RequestBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.incoming).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let (Some(piece), Some((record, state))) = (frame.data_ref(), &this.record)
        {
            record.body_bytes.fetch_add(piece.len() as u64, Ordering::AcqRel);
            state.recorder.notify();
        }
        if matches!(polled, Poll::Ready(None)) || matches!(polled, Poll::Ready(Some(Ok(_)))) && this.incoming.is_end_stream() {
            this.record_end();
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

/// One request and its response, until the response's body is dropped; that records the end.
pub(crate) struct Exchange {
    /// `None` for a log-in.
    pub(crate) record: Option<Arc<LiveRequest>>,
    pub(crate) state: Arc<SimulatorState>,
    pub(crate) in_flight: Option<InFlightGuard>,
    pub(crate) method: Method,
    /// The path of the route, without ids.
    pub(crate) route: String,
    /// The status of the response, once there is one.
    pub(crate) status: Option<u16>,
}

impl Drop for Exchange {
    fn drop(&mut self) {
        // The connection is idle before `over` is set: a test that waits for `over` may then close idle connections.
        self.in_flight = None;
        if let Some(record) = &self.record {
            record.over.store(true, Ordering::Release);
        }
        self.state.recorder.notify();
        if let Some(listener) = &self.state.on_request {
            let method = if is_standard(&self.method) { self.method.as_str() } else { "-" };
            listener(RequestLine { method, route: &self.route, status: self.status });
        }
    }
}

/// Whether HTTP defines the method (RFC 9110, RFC 5789); another one may be anything that a client writes.
fn is_standard(method: &Method) -> bool {
    const STANDARD: [Method; 9] = [
        Method::GET,
        Method::HEAD,
        Method::POST,
        Method::PUT,
        Method::PATCH,
        Method::DELETE,
        Method::OPTIONS,
        Method::CONNECT,
        Method::TRACE,
    ];
    STANDARD.contains(method)
}

/// A response's body; it records how much of it was handed to the connection. Over HTTP/2 its stream ends in a frame of its own, behind
/// the last byte, as with Node's servers.
pub(crate) struct RecordedBody {
    body: ResponseBody,
    exchange: Exchange,
    begun: bool,
}

impl RecordedBody {
    /// Wraps `body`; the exchange ends when the result is dropped.
    pub(crate) fn new(body: ResponseBody, exchange: Exchange) -> Self {
        Self { body, exchange, begun: false }
    }
}

impl Body for RecordedBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.body).poll_frame(cx);
        this.begun |= matches!(polled, Poll::Ready(Some(_)));
        if let (Poll::Ready(Some(Ok(frame))), Some(record)) = (&polled, &this.exchange.record)
            && let Some(piece) = frame.data_ref()
        {
            record.answer_bytes.fetch_add(piece.len() as u64, Ordering::AcqRel);
            this.exchange.state.recorder.notify();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        !self.begun && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
