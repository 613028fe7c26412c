//! Answers whose head is the point.

use http_body_util::{BodyExt, channel::Channel};
use hyper::{
    Request, Response, StatusCode, Version,
    header::{
        ALT_SVC, CONNECTION, CONTENT_LENGTH, ETAG, HeaderName, HeaderValue, LOCATION, PROXY_AUTHENTICATE, SET_COOKIE,
        WWW_AUTHENTICATE,
    },
};
use serde_json::json;

use crate::{
    answer::{Body, Received, answer, empty, json as json_answer, message, set},
    portal::LONGEST_BODY,
    routes::{Call, number, query, wanted_status},
};

/// 401, however good the bearer.
pub(super) async fn always_unauthorized(request: Request<Received>) -> Response<Body> {
    // Read, so that the connection can be used again; how it ended changes nothing.
    let _ = request.into_body().read(LONGEST_BODY).await;
    let mut response = message(StatusCode::UNAUTHORIZED, "Unauthorized");
    set(&mut response, WWW_AUTHENTICATE, "Bearer error=\"invalid_token\"");
    response
}

/// Two cookies.
pub(super) fn cookies() -> Response<Body> {
    let mut response = json_answer(StatusCode::OK, &json!({ "cookies": 2 }));
    for cookie in ["session=invented; Path=/; Secure; HttpOnly", "theme=dark; Path=/"] {
        response.headers_mut().append(SET_COOKIE, HeaderValue::from_static(cookie));
    }
    response
}

/// 302 (or `status`) to `to`, else to an absolute URL of our own.
pub(super) fn redirect(call: &Call, request: &Request<Received>) -> Response<Body> {
    let own = || format!("{}/users/account", call.shared.base_url());
    let location = query(request, "to").unwrap_or_else(own);
    let mut response = answer(wanted_status(request, StatusCode::FOUND), empty());
    set(&mut response, LOCATION, &location);
    response
}

/// The bearer, in a header of the answer.
pub(super) fn leak(call: &Call) -> Response<Body> {
    let mut response = json_answer(StatusCode::OK, &json!({ "leaked": true }));
    let header = HeaderName::from_static("x-debug-auth");
    set(&mut response, header, &format!("Bearer {}", call.bearer));
    response
}

/// A head of `count` fields of `size` bytes.
pub(super) fn many(request: &Request<Received>) -> Response<Body> {
    let (count, size) = (number(request, "count", 10), number(request, "size", 20));
    if count > 10_000 || count.saturating_mul(size) > 64 * 1024 * 1024 {
        return message(StatusCode::BAD_REQUEST, "At most 10000 fields and 64 MiB");
    }
    let value = "v".repeat(usize::try_from(size).unwrap_or_default());
    let mut response = json_answer(StatusCode::OK, &json!({ "fields": count }));
    for field in 0..count {
        if let Ok(name) = HeaderName::from_bytes(format!("x-sim-{field}").as_bytes()) {
            set(&mut response, name, &value);
        }
    }
    response
}

/// Fields that concern one connection only, and must not travel on.
pub(super) fn hop_by_hop() -> Response<Body> {
    let mut response = json_answer(StatusCode::OK, &json!({ "hop_by_hop": true }));
    set(&mut response, CONNECTION, "x-private");
    set(&mut response, HeaderName::from_static("x-private"), "1");
    set(&mut response, HeaderName::from_static("keep-alive"), "timeout=5");
    set(&mut response, HeaderName::from_static("proxy-connection"), "keep-alive");
    set(&mut response, PROXY_AUTHENTICATE, "Basic realm=\"elsewhere\"");
    set(&mut response, ALT_SVC, "h3=\":443\"; ma=86400");
    response
}

/// The status in the path: 204 and 304 without a body, the others with a `message`.
pub(super) async fn status(request: Request<Received>) -> Response<Body> {
    let code = request.uri().path().strip_prefix("/_sim/status/").unwrap_or_default();
    let code = StatusCode::from_bytes(code.as_bytes()).ok();
    let code = code.filter(|code| !code.is_informational());
    let version = request.version();
    // Read, so that the connection can be used again; how it ended changes nothing.
    let _ = request.into_body().read(LONGEST_BODY).await;
    match code {
        None => message(StatusCode::BAD_REQUEST, "Expected /_sim/status/200 to /_sim/status/999"),
        Some(StatusCode::NO_CONTENT) => answer(StatusCode::NO_CONTENT, empty()),
        Some(StatusCode::NOT_MODIFIED) => not_modified(version),
        Some(code) => message(code, code.canonical_reason().unwrap_or("As asked for")),
    }
}

/// 304 with the length of what was not modified.
fn not_modified(version: Version) -> Response<Body> {
    // On HTTP/1 hyper keeps the announced length only of a body whose own length it does not know.
    let body = if version == Version::HTTP_2 { empty() } else { Channel::new(1).1.boxed_unsync() };
    let mut response = answer(StatusCode::NOT_MODIFIED, body);
    set(&mut response, ETAG, "\"invented-1\"");
    set(&mut response, CONTENT_LENGTH, "1234");
    response
}
