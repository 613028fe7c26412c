//! Answers the routes that a team has set, or makes them fail as they say.
//!
//! It uses admitted calls, the table of own routes and the known calls, which a route may change or replace.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Body, Frame},
    header::{CONTENT_LENGTH, CONTENT_TYPE},
};
use serde_json::Value;

use crate::{
    awkward,
    body::RequestBody,
    call::{Call, MAX_BODY_BYTES},
    connection::{Abort, ConnectionHandle},
    failure, login,
    portal::{self, PortalCall},
    request::query,
    response::{ResponseBody, empty, full, json_response, message, response, set_header},
    route_table::{BuiltIn, CallFault, FoundRoute, MadeAnswer, PathPattern, RequestValues, RouteAnswer, RouteBody},
    state::SimulatorState,
    sync::lock,
};

/// Finds the own route for a request; `None` too where the known call of this name is the better match.
pub(crate) fn find(state: &SimulatorState, method: &Method, path: &str, known: Option<&str>) -> Option<FoundRoute> {
    let method = if *method == Method::HEAD { "GET" } else { method.as_str() };
    let found = lock(&state.routes).find(method, path)?;
    let is_better = |name: &str| {
        let pattern = name.split_once(' ').and_then(|(_, path)| PathPattern::parse(path).ok());
        pattern.is_some_and(|pattern| pattern.matches(path).is_some() && pattern.is_before(&found.route.path))
    };
    if known.is_some_and(is_better) { None } else { Some(found) }
}

/// What the simulator answers by itself at a method and a path pattern.
pub(crate) fn built_in(method: &str, path: &str) -> BuiltIn {
    let is_log_in = method == "POST" && (login::LOGIN_PATHS.contains(&path) || path == login::REFRESH_PATH);
    let is_awkward =
        || path.strip_prefix("/_sim/").is_some_and(|name| awkward::NAMES.iter().any(|known| name.starts_with(known)));
    if is_log_in || is_awkward() {
        return BuiltIn::Fixed;
    }
    // A parameter such as `{id}` is found as an identifier would be; a text that the known call has no such place for is not.
    let known = method.parse().ok().and_then(|method| portal::find(&method, path));
    if known.is_some() { BuiltIn::Call } else { BuiltIn::Nothing }
}

/// Serves an own route; `known` is the call that it may change.
pub(crate) async fn serve(
    call: &Call,
    found: &FoundRoute,
    known: Option<PortalCall>,
    request: Request<RequestBody>,
) -> Response<ResponseBody> {
    let fault = found.route.fault.as_ref().and_then(|fault| fault.take());
    if let Some(CallFault::Shared(fault)) = fault {
        // The body is read so that the connection can be reused; how it ended does not matter.
        let _ = request.into_body().read(MAX_BODY_BYTES).await;
        let failed = failure::carry_out(&call.state, &call.connection, fault).await;
        return failed.unwrap_or_else(|| message(StatusCode::INTERNAL_SERVER_ERROR, "Something went wrong"));
    }
    let answer = match (&found.route.answer, known) {
        (RouteAnswer::Made(made), _) => made_answer(call, found, made, request).await,
        (RouteAnswer::BuiltIn, Some(known)) => portal::serve(call, known, request).await,
        (RouteAnswer::BuiltIn, None) => message(StatusCode::NOT_FOUND, "Not Found"),
    };
    match fault {
        Some(CallFault::Truncated) => truncated(call, answer).await,
        _ => answer,
    }
}

/// Fills the answer that the team wrote.
async fn made_answer(
    call: &Call,
    found: &FoundRoute,
    made: &MadeAnswer,
    request: Request<RequestBody>,
) -> Response<ResponseBody> {
    let (head, body) = request.into_parts();
    let Some(body) = body.read(MAX_BODY_BYTES).await else {
        return message(StatusCode::PAYLOAD_TOO_LARGE, "request entity too large");
    };
    let request = Request::from_parts(head, ());
    let values = RequestValues {
        path: &found.parameters,
        query: &|name| query(&request, name),
        body: &serde_json::from_slice(&body).unwrap_or(Value::Null),
        organization: &call.organization,
        now: call.state.now(),
    };
    let mut answer = match &made.body {
        RouteBody::Empty => response(made.status, empty()),
        RouteBody::Json(json) => json_response(made.status, &json.value(&values)),
        RouteBody::Text(text) => {
            let mut answer = response(made.status, full(text.text(&values)));
            set_header(&mut answer, CONTENT_TYPE, "text/plain; charset=utf-8");
            answer
        }
    };
    answer.headers_mut().extend(made.filled_headers(&values));
    answer
}

/// Announces the whole body, sends half of it, and closes the connection.
async fn truncated(call: &Call, answer: Response<ResponseBody>) -> Response<ResponseBody> {
    let (head, body) = answer.into_parts();
    // A body in memory does not fail.
    let whole = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let half = Some(whole.slice(..whole.len() / 2)).filter(|half| !half.is_empty());
    let body = BrokenBody { half, connection: Arc::clone(&call.connection) };
    let mut response = Response::from_parts(head, body.boxed_unsync());
    // A client that was promised no byte would miss none.
    response.headers_mut().insert(CONTENT_LENGTH, whole.len().max(1).into());
    response
}

/// A body that ends its connection after its first half.
struct BrokenBody {
    half: Option<Bytes>,
    connection: Arc<ConnectionHandle>,
}

impl Body for BrokenBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let this = self.get_mut();
        if let Some(half) = this.half.take() {
            return Poll::Ready(Some(Ok(Frame::data(half))));
        }
        // hyper flushes what it has when a body returns `Pending`, so the abort follows.
        this.connection.abort_once_flushed(Abort::Close);
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_ins_and_awkward_endpoints_can_not_be_replaced() {
        for (method, path, expected) in [
            ("POST", "/patient/auth", BuiltIn::Fixed),
            ("POST", "/auth/refresh", BuiltIn::Fixed),
            ("GET", "/_sim/status/{code}", BuiltIn::Fixed),
            ("GET", "/auth", BuiltIn::Nothing),
            ("GET", "/customers/{customer}", BuiltIn::Call),
            ("POST", "/users", BuiltIn::Call),
            ("GET", "/notes", BuiltIn::Nothing),
        ] {
            assert_eq!(built_in(method, path), expected, "{method} {path}");
        }
    }
}
