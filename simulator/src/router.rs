//! Routes a request to the log-in, to a known call, to a team's own route or to an awkward endpoint, and counts it.
//!
//! It uses the endpoints. Log-ins are counted apart from all other requests. Every other request is delayed, held and admitted
//! here, so that no endpoint can forget it.

use std::{fmt, sync::Arc, time::Duration};

use hyper::{Method, Request, Response, StatusCode, Version, header::HeaderName, http::request::Parts};

use crate::{
    awkward,
    body::RequestBody,
    call::{self, Access, Call, MAX_BODY_BYTES},
    connection::ConnectionHandle,
    login,
    portal::{self, PortalCall},
    response::{ResponseBody, message, set_header},
    state::{SimulatorState, wait_while_held},
};
#[cfg(feature = "import")]
use crate::{
    own_routes,
    route_table::{FoundRoute, RouteAnswer},
};

/// Marks answers that come from the simulator alone.
const MARK: HeaderName = HeaderName::from_static("x-simulator");

/// Whether this is a log-in or a refresh.
pub(crate) fn is_log_in(head: &Parts) -> bool {
    let path = head.uri.path();
    head.method == Method::POST && (login::LOGIN_PATHS.contains(&path) || path == login::REFRESH_PATH)
}

/// Serves a log-in or a refresh.
pub(crate) async fn serve_log_in(
    state: &Arc<SimulatorState>,
    connection: &ConnectionHandle,
    request: Request<RequestBody>,
) -> Response<ResponseBody> {
    if request.uri().path() == login::REFRESH_PATH {
        login::refresh(state, request).await
    } else {
        login::log_in(state, connection, request).await
    }
}

/// Serves every other request.
pub(crate) async fn serve_call(
    state: &Arc<SimulatorState>,
    connection: &Arc<ConnectionHandle>,
    route: Route,
    request: Request<RequestBody>,
) -> Response<ResponseBody> {
    let is_unknown = matches!(route, Route::Other);
    state.recorder.count(|counts| {
        counts.requests += 1;
        counts.requests_http2 += u64::from(request.version() == Version::HTTP_2);
        *counts.by_route.entry(route.to_string()).or_default() += 1;
        if is_unknown {
            counts.count_unknown(request.method().as_str(), request.uri().path());
        }
    });
    let latency = route.latency().unwrap_or_else(|| state.settings(|settings| settings.latency));
    if !latency.is_zero() {
        tokio::time::sleep(latency).await;
    }
    wait_while_held(&state.requests_held).await;
    let mut response = match call::admit(state, connection, request.headers(), route.access()) {
        Ok(call) => answer(call, route, request).await,
        Err(refusal) => {
            // The refusal goes out at once, but the body is still read: closing a socket with unread bytes makes the kernel
            // send a reset, and the client may then lose the response.
            tokio::spawn(request.into_body().read(MAX_BODY_BYTES));
            *refusal
        }
    };
    if response.status() == StatusCode::UNAUTHORIZED {
        state.recorder.count(|counts| counts.unauthorized += 1);
    }
    if is_unknown {
        set_header(&mut response, MARK, "unknown-route");
    }
    response
}

/// Answers an admitted call.
async fn answer(call: Call, route: Route, request: Request<RequestBody>) -> Response<ResponseBody> {
    match route {
        Route::Portal(_, portal_call) => portal::serve(&call, portal_call, request).await,
        Route::Awkward(name) => awkward::serve(call, name, request).await,
        #[cfg(feature = "import")]
        Route::Own(found, known) => own_routes::serve(&call, &found, known.map(|(_, known)| known), request).await,
        Route::Other => {
            // The body is read so that the connection can be reused; how it ended does not matter.
            let _ = request.into_body().read(MAX_BODY_BYTES).await;
            message(StatusCode::NOT_FOUND, "Not Found")
        }
    }
}

/// The endpoint that a request is for.
pub(crate) enum Route {
    /// A known call, with the name that it is counted under.
    Portal(&'static str, PortalCall),
    /// An awkward endpoint, by its name under `/_sim/`.
    Awkward(String),
    /// A route that a team has set, and the known call that it may change.
    #[cfg(feature = "import")]
    Own(FoundRoute, Option<(&'static str, PortalCall)>),
    /// No endpoint has this path.
    Other,
}

impl Route {
    fn access(&self) -> Access {
        match self {
            // The storefront shows its products before anybody logs in, and whoever forgot a password can't log in.
            Self::Portal(_, PortalCall::Products | PortalCall::ForgottenPassword) => Access::Organization,
            #[cfg(feature = "import")]
            Self::Own(found, known) => match &found.route.answer {
                RouteAnswer::Made(made) if made.needs_bearer => Access::Bearer,
                RouteAnswer::Made(_) => Access::Organization,
                RouteAnswer::BuiltIn => {
                    known.clone().map_or(Access::Bearer, |(name, portal_call)| Self::Portal(name, portal_call).access())
                }
            },
            _ => Access::Bearer,
        }
    }

    /// The latency of its own.
    fn latency(&self) -> Option<Duration> {
        match self {
            #[cfg(feature = "import")]
            Self::Own(found, _) => found.route.latency,
            _ => None,
        }
    }

    /// Its path without ids.
    pub(crate) fn path(&self) -> String {
        match self {
            Self::Other => "(unknown route)".to_owned(),
            known => {
                let name = known.to_string();
                name.split_once(' ').map_or(name.clone(), |(_, path)| path.to_owned())
            }
        }
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Portal(name, _) => f.write_str(name),
            Self::Awkward(name) => write!(f, "/_sim/{name}"),
            #[cfg(feature = "import")]
            Self::Own(found, _) => f.write_str(&found.route.name()),
            Self::Other => f.write_str("other"),
        }
    }
}

/// Finds the endpoint that a request is for.
#[cfg_attr(not(feature = "import"), expect(unused_variables, reason = "only own routes are part of the state"))]
pub(crate) fn find<B>(state: &SimulatorState, request: &Request<B>) -> Route {
    let path = request.uri().path();
    if let Some(rest) = path.strip_prefix("/_sim/") {
        let name = rest.split('/').next().unwrap_or_default();
        if awkward::NAMES.contains(&name) {
            return Route::Awkward(name.to_owned());
        }
    }
    let known = portal::find(request.method(), path);
    #[cfg(feature = "import")]
    if let Some(found) = own_routes::find(state, request.method(), path, known.as_ref().map(|(name, _)| *name)) {
        return Route::Own(found, known);
    }
    match known {
        Some((name, portal_call)) => Route::Portal(name, portal_call),
        None => Route::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_ins_are_told_by_method_and_path() {
        let is =
            |method: &str, path: &str| is_log_in(&Request::builder().method(method).uri(path).body(()).unwrap().into_parts().0);
        assert!(is("POST", "/patient/auth") && is("POST", "/auth/refresh"));
        assert!(!is("GET", "/patient/auth") && !is("POST", "/auth/forgot"));
    }
}
