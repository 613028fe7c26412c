//! An answer's body, and what becomes of its connection.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::{
    h1::{Open, Uploaded},
    pool::Pool,
};

/// An answer's body. Read to its end it gives its connection back; dropped before, it closes it.
pub struct Answer<B> {
    incoming: Incoming,
    ended: bool,
    lease: Option<(Open<B>, Pool<B>, Uploaded)>,
}

impl<B> Answer<B> {
    /// On a connection that nobody uses after it.
    pub(super) fn alone(incoming: Incoming) -> Self {
        Self { incoming, ended: false, lease: None }
    }

    /// The connection goes to `pool` when the body has ended.
    pub(super) fn new(incoming: Incoming, connection: Open<B>, pool: Pool<B>, uploaded: Uploaded) -> Self {
        Self { incoming, ended: false, lease: Some((connection, pool, uploaded)) }
    }
}

impl<B> Body for Answer<B> {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        // Sound: `Incoming` is `Unpin`, and so is the rest.
        let this = &mut *self;
        let polled = Pin::new(&mut this.incoming).poll_frame(cx);
        this.ended |= matches!(polled, Poll::Ready(None));
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

impl<B> Drop for Answer<B> {
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
