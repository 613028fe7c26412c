//! Routes a request to the log-in, to a known call or to an awkward endpoint, and counts it.
//!
//! It uses the endpoints. Log-ins are counted apart from all other requests. Every other request is delayed, held and admitted
//! here, so that no endpoint can forget it.

use std::{fmt, sync::Arc};

use hyper::{Method, Request, Response, StatusCode, Version, http::request::Parts};

use crate::{
    awkward,
    body::RequestBody,
    call::{self, Access, MAX_BODY_BYTES},
    connection::ConnectionHandle,
    login,
    portal::{self, PortalCall},
    response::{ResponseBody, message},
    state::{SimulatorState, wait_while_held},
};

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
    request: Request<RequestBody>,
) -> Response<ResponseBody> {
    let route = route(&request);
    state.recorder.count(|counts| {
        counts.requests += 1;
        counts.requests_http2 += u64::from(request.version() == Version::HTTP_2);
        *counts.by_route.entry(route.to_string()).or_default() += 1;
    });
    let latency = state.settings(|settings| settings.latency);
    if !latency.is_zero() {
        tokio::time::sleep(latency).await;
    }
    wait_while_held(&state.requests_held).await;
    let response = match call::admit(state, connection, request.headers(), route.access()) {
        Ok(call) => match route {
            Route::Portal(_, portal_call) => portal::serve(&call, portal_call, request).await,
            Route::Awkward(name) => awkward::serve(call, name, request).await,
            Route::Other => {
                // The body is read so that the connection can be reused; how it ended does not matter.
                let _ = request.into_body().read(MAX_BODY_BYTES).await;
                message(StatusCode::NOT_FOUND, "Not Found")
            }
        },
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
    response
}

/// The endpoint that a request is for.
enum Route {
    /// A known call, with the name that it is counted under.
    Portal(&'static str, PortalCall),
    /// An awkward endpoint, by its name under `/_sim/`.
    Awkward(String),
    /// No endpoint has this path.
    Other,
}

impl Route {
    fn access(&self) -> Access {
        match self {
            // The storefront shows its products before anybody logs in.
            Self::Portal(_, PortalCall::Products) => Access::Organization,
            _ => Access::Bearer,
        }
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Portal(name, _) => f.write_str(name),
            Self::Awkward(name) => write!(f, "/_sim/{name}"),
            Self::Other => f.write_str("other"),
        }
    }
}

fn route<B>(request: &Request<B>) -> Route {
    let path = request.uri().path();
    if let Some(rest) = path.strip_prefix("/_sim/") {
        let name = rest.split('/').next().unwrap_or_default();
        if awkward::NAMES.contains(&name) {
            return Route::Awkward(name.to_owned());
        }
    }
    match portal::find(request.method(), path) {
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
