//! The body of a request.
//!
//! An HTTP/2 client may send FIN behind its last frame and wait for its answers, so its connection is not told of the end while
//! answers are due ([`client_io`](super::client_io)). Guarantee: a body that the end has cut ends in an error, as soon as what
//! came of it is read.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::connection_state::ConnectionState;

/// The body of a request, as the client sends it.
pub struct RequestBody {
    incoming: Incoming,
    /// Its end was not read yet.
    unread: Option<Unread>,
}

/// Counts a body among those of its connection that are on their way.
struct Unread {
    state: Arc<ConnectionState>,
    number: usize,
    whole: bool,
}

impl RequestBody {
    pub(super) fn new(incoming: Incoming, state: &Arc<ConnectionState>) -> Self {
        let unread =
            (!incoming.is_end_stream()).then(|| Unread { state: Arc::clone(state), number: state.begin_body(), whole: false });
        Self { incoming, unread }
    }
}

impl Drop for Unread {
    fn drop(&mut self) {
        self.state.end_body(self.number, self.whole);
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyCut;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyCut>>> {
        let this = &mut *self;
        let polled = Pin::new(&mut this.incoming).poll_frame(cx).map_err(|_| BodyCut);
        if let (Poll::Ready(Some(Ok(frame))), Some(unread)) = (&polled, &this.unread) {
            unread.state.body_came(frame.data_ref().map_or(0, Bytes::len));
        }
        let ended = match &polled {
            Poll::Ready(None) => true,
            Poll::Ready(Some(Ok(_))) => this.incoming.is_end_stream(),
            Poll::Ready(Some(Err(_))) | Poll::Pending => false,
        };
        if let Some(unread) = this.unread.as_mut().filter(|_| ended) {
            unread.whole = true;
            this.unread = None;
        }
        match (&polled, &this.unread) {
            (Poll::Pending, Some(unread)) if unread.state.is_half_closed() => return Poll::Ready(Some(Err(BodyCut))),
            (Poll::Pending, Some(unread)) => unread.state.wake_when_half_closed(unread.number, cx.waker()),
            (Poll::Ready(Some(Err(_))), Some(_)) => this.unread = None,
            _ => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

/// The client did not finish the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BodyCut;

impl fmt::Display for BodyCut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the client did not finish its request")
    }
}

impl std::error::Error for BodyCut {}

/// For tests of those who read bodies.
#[cfg(test)]
mod played {
    use std::{convert::Infallible, future::pending, sync::Mutex};

    use http::{Request, Response};
    use http_body_util::Empty;
    use hyper::{server::conn::http1, service::service_fn};
    use hyper_util::rt::TokioIo;
    use tokio::{io::DuplexStream, sync::oneshot};

    use super::*;

    impl RequestBody {
        /// The body of the only request on this connection, which is never answered.
        pub(crate) async fn of_request_on(connection: DuplexStream) -> Self {
            let (give, given) = oneshot::channel();
            let give = Mutex::new(Some(give));
            let service = service_fn(move |request: Request<Incoming>| {
                let give = give.lock().unwrap().take().expect("a second request");
                let _ = give.send(request.into_body());
                pending::<Result<Response<Empty<Bytes>>, Infallible>>()
            });
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(connection), service));
            Self { incoming: given.await.unwrap(), unread: None }
        }
    }
}
