//! Finds the API that a request is for, by its path's prefix, and has it answered.
//!
//! Guarantees: a request is answered by the routes in force when its head came, whatever a reload puts in their place
//! meanwhile. A panic ends one request, and not its connection or its worker.

use std::{
    iter,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use arc_swap::ArcSwap;
use http::{Request, Response};
use pin_project_lite::pin_project;

use super::{
    admit::Gate,
    api::Route,
    download::ToClient,
    problem::{self, ProxyError},
};
use crate::server::{AnswerKind, ConnectionLimits, Peer, RequestBody, RequestService};

/// Routes the requests of one listen address of one worker.
pub struct Router {
    routes: ArcSwap<Routes>,
}

/// The APIs behind a listen address.
pub struct Routes {
    /// One at least. Where there are several, each has its own prefix.
    by_prefix: Vec<Arc<Route>>,
    /// Refuses requests that have none of the prefixes.
    unrouted: Arc<Route>,
    limits: ConnectionLimits,
}

impl Router {
    /// Routes requests to `routes`.
    #[must_use]
    pub fn new(routes: Routes) -> Self {
        Self { routes: ArcSwap::from_pointee(routes) }
    }

    /// Routes requests to `routes` from now on.
    pub fn replace_routes(&self, routes: Routes) {
        self.routes.store(Arc::new(routes));
    }
}

impl RequestService for Router {
    type Body = ToClient;

    /// Returns the route's own future, not one around it: it is large, and each layer would copy it.
    fn answer(self: Arc<Self>, request: Request<RequestBody>, peer: Peer) -> impl Future<Output = Response<ToClient>> + Send {
        let route = Arc::clone(self.routes.load().route_of(request.uri().path()));
        let (worker, version) = (Arc::clone(&route.worker), request.version());
        unless_panicked(route.forward((request, peer)), move || {
            // The exchange wrote its line when the panic dropped it.
            problem::response(&ProxyError::Bug, version, worker.lost_id())
                .map(|document| ToClient::Problem { document: Some(document), exchange: None })
        })
    }

    fn kind(answer: &Response<ToClient>) -> AnswerKind {
        answer.body().kind()
    }

    /// Whether an API of the address may let the client in.
    fn lets_in(&self, peer: &Peer) -> bool {
        self.routes.load().by_prefix.iter().any(|route| route.gate.may_let_in(peer))
    }

    fn limits(&self) -> ConnectionLimits {
        self.routes.load().limits
    }
}

impl Routes {
    /// `limits`: what each connection is granted. Which API a connection is for shows only with its first request.
    #[must_use]
    pub fn new(first: Route, others: impl IntoIterator<Item = Route>, limits: ConnectionLimits) -> Self {
        let (first, others) = (Arc::new(first), others.into_iter().map(Arc::new).collect::<Vec<_>>());
        let gate = Gate::of_no_api(&first.gate, others.iter().map(|route| &route.gate));
        let unrouted =
            Route { api: Arc::clone(&first.api), gate, listener: Arc::clone(&first.listener), worker: Arc::clone(&first.worker) };
        let by_prefix = iter::once(first).chain(others).collect();
        Self { by_prefix, unrouted: Arc::new(unrouted), limits }
    }

    fn route_of(&self, path: &str) -> &Arc<Route> {
        choose(path, &self.by_prefix, |route| &route.gate).unwrap_or(&self.unrouted)
    }
}

/// Chooses the one of the `routes` behind an address that a request for `path` is for: the only one, or the one with the longest
/// prefix of `path`. `None`: no API has a prefix of it.
pub fn choose<'a, R>(path: &str, routes: &'a [R], gate: impl Fn(&R) -> &Gate) -> Option<&'a R> {
    if let [only] = routes {
        return Some(only);
    }
    let matching = routes.iter().filter_map(|route| Some((gate(route).prefix_of(path)?, route)));
    matching.max_by_key(|(bytes, _)| *bytes).map(|(_, route)| route)
}

/// Completes with what `work` gives, or with what `instead` gives when `work` panics.
fn unless_panicked<W: Future, I: FnOnce() -> W::Output>(work: W, instead: I) -> UnlessPanicked<W, I> {
    UnlessPanicked { work, instead: Some(instead) }
}

pin_project! {
    /// Written by hand: an `async` block would copy the work, which is large, once more.
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
        assert_eq!(unless_panicked(async { 7 }, || 8).await, 7);
        let panics = async {
            tokio::task::yield_now().await;
            panic!("on purpose")
        };
        assert_eq!(unless_panicked(panics, || 8).await, 8);
    }
}
