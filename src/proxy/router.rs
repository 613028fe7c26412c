//! Which API a request behind a listen address is for: by its path's prefix, among the routes of the last reload.

use std::{iter, sync::Arc};

use arc_swap::ArcSwap;

use super::{admit::Gate, api::Route};
use crate::server::{ConnectionLimits, Peer};

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

    /// The route of a request for `path` now.
    pub(super) fn route_of(&self, path: &str) -> Arc<Route> {
        let routes = self.routes.load();
        Arc::clone(choose(path, &routes.by_prefix, |route| &route.gate).unwrap_or(&routes.unrouted))
    }

    /// Whether an API of the address may let the client in.
    pub(super) fn may_let_in(&self, peer: &Peer) -> bool {
        self.routes.load().by_prefix.iter().any(|route| route.gate.may_let_in(peer))
    }

    /// What each connection is granted.
    pub(super) fn connection_limits(&self) -> ConnectionLimits {
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
