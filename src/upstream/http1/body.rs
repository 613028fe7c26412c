//! An answer's body over HTTP/1.1, and what becomes of its connection afterwards.
//!
//! Guarantees: a connection returns to its pool only when both the request and its answer were read to their ends, and the upstream
//! never sent more than its answers.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::{
    super::{answer_io::AnswerProgress, error::BodyBroken},
    connection::{Http1Connection, UploadFlag},
    pool::Http1Pool,
};
use crate::metrics::ConnectionGauge;

/// An answer's body.
pub(in crate::upstream) struct Http1Body<B> {
    incoming: Incoming,
    progress: Arc<AnswerProgress>,
    after: After<B>,
}

/// What becomes of the connection after the answer.
enum After<B> {
    /// It goes to the pool, if the exchange is complete.
    Reuse(Box<Http1Connection<B>>, Arc<Http1Pool<B>>, UploadFlag),
    /// It closes, and counts until then.
    Close { _gauge: ConnectionGauge },
    /// It was given away already.
    Released,
}

impl<B> Http1Body<B> {
    /// The body of an answer whose connection goes to `pool` afterwards, if the exchange is complete.
    pub(in crate::upstream) fn new(
        incoming: Incoming,
        connection: Box<Http1Connection<B>>,
        pool: Arc<Http1Pool<B>>,
        upload: UploadFlag,
    ) -> Self {
        Self { incoming, progress: connection.progress(), after: After::Reuse(connection, pool, upload) }
    }

    /// The body of an answer whose connection is not kept.
    pub(in crate::upstream) fn alone(incoming: Incoming, progress: Arc<AnswerProgress>, gauge: ConnectionGauge) -> Self {
        Self { incoming, progress, after: After::Close { _gauge: gauge } }
    }

    pub(in crate::upstream) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyBroken>>> {
        let polled = Pin::new(&mut self.incoming).poll_frame(cx).map_err(|_| BodyBroken);
        if let Poll::Ready(Some(Ok(frame))) = &polled {
            self.progress.body_came(frame.data_ref().map_or(0, Bytes::len));
        }
        polled
    }

    pub(in crate::upstream) fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    pub(in crate::upstream) fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }

    /// Nobody reads on. `whole`: the answer was read to its end.
    pub(in crate::upstream) fn release(&mut self, whole: bool) {
        let After::Reuse(connection, pool, upload) = std::mem::replace(&mut self.after, After::Released) else { return };
        if !(whole && upload.is_complete()) {
            // hyper's driver would wait for the rest of a request that nobody reads from the client any more.
            connection.abort();
        } else if !connection.is_closed() && !connection.was_odd() {
            pool.put(connection);
        }
    }
}
