//! Where clients come in, and which API a request is for.
//!
//! Depends on `admit` and `server`. Guarantees: a request is answered by the routes in force when its head came, whatever
//! a reload puts in their place meanwhile.

use std::{iter, sync::Arc};

use arc_swap::ArcSwap;
use http::{Request, Response};
use hyper::body::Incoming;

use super::{Route, ToClient, admit::Refusal};
use crate::server::{ConnectionLimits, Peer, RequestService};

/// One listen address of one worker.
pub struct Router {
    routes: ArcSwap<Routes>,
}

/// What is behind a listen address.
pub struct Routes {
    first: Arc<Route>,
    /// Each has its own prefix then, the first one too.
    others: Vec<Arc<Route>>,
    limits: ConnectionLimits,
}

impl Router {
    /// Leads to `routes`.
    #[must_use]
    pub fn new(routes: Routes) -> Self {
        Self { routes: ArcSwap::from_pointee(routes) }
    }

    /// From now on leads to `routes`.
    pub fn replace_routes(&self, routes: Routes) {
        self.routes.store(Arc::new(routes));
    }
}

impl RequestService for Router {
    type Body = ToClient;

    /// The route's own future, not one around it: it is large, and each layer would copy it.
    fn answer(self: Arc<Self>, request: Request<Incoming>, peer: Peer) -> impl Future<Output = Response<ToClient>> + Send {
        let route = Arc::clone(self.routes.load().route_of(&request, &peer));
        route.answer(request, peer)
    }

    fn limits(&self) -> ConnectionLimits {
        self.routes.load().limits
    }
}

impl Routes {
    /// `limits`: what connections are granted, since which API they are for shows only later.
    #[must_use]
    pub fn new(first: Route, others: impl IntoIterator<Item = Route>, limits: ConnectionLimits) -> Self {
        Self { first: Arc::new(first), others: others.into_iter().map(Arc::new).collect(), limits }
    }

    /// The route with the longest prefix of the request. Without one, a route that would admit the request but for that, so
    /// that it is told so; else any, since all refuse it.
    fn route_of(&self, request: &Request<Incoming>, peer: &Peer) -> &Arc<Route> {
        if self.others.is_empty() {
            return &self.first;
        }
        let all = || iter::once(&self.first).chain(&self.others);
        let admits_but_for_that = |route: &&Arc<Route>| {
            let judged = route.gate.admit(request.method(), request.uri(), request.version(), request.headers(), peer);
            judged.err() == Some(Refusal::NoApi)
        };
        let by_prefix =
            all().filter_map(|route| Some((route.gate.prefix_of(request.uri())?, route))).max_by_key(|(bytes, _)| *bytes);
        by_prefix.map(|(_, route)| route).or_else(|| all().find(admits_but_for_that)).unwrap_or(&self.first)
    }
}
