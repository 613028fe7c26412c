//! An answer's body, and what becomes of its connection.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::{
    h1::{Open, Uploaded},
    h2,
    pool::Pool,
};
use crate::metrics::ConnectionGauge;

/// An answer's body. Over HTTP/1.1, read to its end it gives its connection back; dropped before, it closes it. Over
/// HTTP/2, dropped before its end it resets its stream.
pub struct ResponseBody<B>(Source<B>);

enum Source<B> {
    Http1(Exclusive<B>),
    Http2(h2::Incoming),
}

struct Exclusive<B> {
    incoming: Incoming,
    ended: bool,
    lease: Option<(Open<B>, Pool<B>, Uploaded)>,
    /// Of a connection that is not kept.
    _presence: Option<ConnectionGauge>,
}

impl<B> ResponseBody<B> {
    /// On a connection that nobody uses after it, and that counts as long.
    pub(super) fn alone(incoming: Incoming, presence: ConnectionGauge) -> Self {
        Self(Source::Http1(Exclusive { incoming, ended: false, lease: None, _presence: Some(presence) }))
    }

    /// The connection goes to `pool` when the body has ended.
    pub(super) fn http1(incoming: Incoming, connection: Open<B>, pool: Pool<B>, uploaded: Uploaded) -> Self {
        Self(Source::Http1(Exclusive { incoming, ended: false, lease: Some((connection, pool, uploaded)), _presence: None }))
    }

    pub(super) fn http2(incoming: h2::Incoming) -> Self {
        Self(Source::Http2(incoming))
    }
}

impl<B> Body for ResponseBody<B> {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        // Sound: `Incoming` is `Unpin`, and so is the rest.
        match &mut self.0 {
            Source::Http1(body) => {
                let polled = Pin::new(&mut body.incoming).poll_frame(cx);
                body.ended |= matches!(polled, Poll::Ready(None));
                polled.map_err(|_| Broken)
            }
            Source::Http2(body) => body.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Source::Http1(body) => body.incoming.is_end_stream(),
            Source::Http2(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Source::Http1(body) => body.incoming.size_hint(),
            Source::Http2(body) => body.size_hint(),
        }
    }
}

impl<B> Drop for Exclusive<B> {
    fn drop(&mut self) {
        let Some((connection, pool, uploaded)) = self.lease.take() else { return };
        let answered = self.ended || self.incoming.is_end_stream();
        if !(answered && uploaded.is_complete()) {
            connection.abort();
        } else if !connection.is_closed() {
            pool.put(connection);
        }
    }
}

/// The upstream broke an answer off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broken;

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the upstream broke its answer off")
    }
}

impl std::error::Error for Broken {}
