//! Has each request answered by the API that it is for.
//!
//! Guarantees: a request is answered by the routes in force when its head came, whatever a reload puts in their place
//! meanwhile, unless its account is gone before it was answered (`forward`). A panic ends one request, and not its connection or
//! its worker.

use std::{
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http::{Request, Response};
use pin_project_lite::pin_project;

use super::{
    download::ToClient,
    forward::Arrived,
    problem::{self, ProxyError},
    router::Router,
};
use crate::server::{AnswerKind, ConnectionLimits, Peer, RequestBody, RequestService};

impl RequestService for Router {
    type Body = ToClient;

    /// Returns the route's own future, not one around it: it is large, and each layer would copy it.
    fn answer(self: Arc<Self>, request: Request<RequestBody>, peer: Peer) -> impl Future<Output = Response<ToClient>> + Send {
        let route = self.route_of(request.uri().path());
        let (worker, version) = (Arc::clone(&route.worker), request.version());
        let instead = move || {
            // The exchange wrote its line when the panic dropped it.
            problem::response(&ProxyError::Bug, version, worker.lost_id())
                .map(|document| ToClient::Problem { document: Some(document), exchange: None })
        };
        UnlessPanicked { work: route.forward(Arrived { request, peer, router: self }), instead: Some(instead) }
    }

    fn kind(answer: &Response<ToClient>) -> AnswerKind {
        answer.body().kind()
    }

    fn lets_in(&self, peer: &Peer) -> bool {
        self.may_let_in(peer)
    }

    fn limits(&self) -> ConnectionLimits {
        self.connection_limits()
    }
}

pin_project! {
    /// Completes with what `work` gives, or with what `instead` gives when `work` panics. Written by hand: an `async` block would copy
    /// the work, which is large, once more, and so would a function that makes this.
    struct UnlessPanicked<W, I> {
        #[pin]
        work: W,
        instead: Option<I>,
    }
}

impl<W: Future, I: FnOnce() -> W::Output> Future for UnlessPanicked<W, I> {
    type Output = W::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<W::Output> {
        let this = self.project();
        let work = this.work;
        // After a panic the work is not polled again, so only destructors see what it left half done.
        let panicked = match catch_unwind(AssertUnwindSafe(|| work.poll(cx))) {
            Ok(polled) => return polled,
            Err(panicked) => panicked,
        };
        match this.instead.take() {
            Some(instead) => Poll::Ready(instead()),
            // It was polled after its end, against its contract.
            None => resume_unwind(panicked),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_ends_one_request_and_nothing_else() {
        assert_eq!(UnlessPanicked { work: async { 7 }, instead: Some(|| 8) }.await, 7);
        let panics = async {
            tokio::task::yield_now().await;
            panic!("on purpose")
        };
        assert_eq!(UnlessPanicked { work: panics, instead: Some(|| 8) }.await, 8);
    }
}
