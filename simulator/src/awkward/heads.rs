//! Answers with unusual heads: 401, cookies, redirects, many fields, hop-by-hop fields, any status.
//!
//! It uses admitted calls only. Every response is valid HTTP.

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
    body::RequestBody,
    call::{Call, MAX_BODY_BYTES},
    request::{query, query_number, query_status},
    response::{ResponseBody, empty, json_response, message, response, set_header},
};

/// The limit for the number of fields in a head.
const MAX_FIELDS: u64 = 10_000;
/// The limit for the size of a head, in bytes.
const MAX_HEAD_BYTES: u64 = 64 * 1024 * 1024;

/// Answers 401 even to a good bearer.
pub(super) async fn always_unauthorized(request: Request<RequestBody>) -> Response<ResponseBody> {
    // The body is read so that the connection can be reused; how it ended does not matter.
    let _ = request.into_body().read(MAX_BODY_BYTES).await;
    let mut response = message(StatusCode::UNAUTHORIZED, "Unauthorized");
    set_header(&mut response, WWW_AUTHENTICATE, "Bearer error=\"invalid_token\"");
    response
}

/// Sets two cookies.
pub(super) fn cookies() -> Response<ResponseBody> {
    let mut response = json_response(StatusCode::OK, &json!({ "cookies": 2 }));
    for cookie in ["session=invented; Path=/; Secure; HttpOnly", "theme=dark; Path=/"] {
        response.headers_mut().append(SET_COOKIE, HeaderValue::from_static(cookie));
    }
    response
}

/// Redirects with 302, or `status`, to the URL in `to`; without `to`, to an absolute URL of the simulator.
pub(super) fn redirect(call: &Call, request: &Request<RequestBody>) -> Response<ResponseBody> {
    let own = || format!("{}/users/account", call.state.base_url());
    let location = query(request, "to").unwrap_or_else(own);
    let mut response = response(query_status(request, StatusCode::FOUND), empty());
    set_header(&mut response, LOCATION, &location);
    response
}

/// Sends the bearer back in a header of the response.
pub(super) fn leak(call: &Call) -> Response<ResponseBody> {
    let mut response = json_response(StatusCode::OK, &json!({ "leaked": true }));
    let header = HeaderName::from_static("x-debug-auth");
    set_header(&mut response, header, &format!("Bearer {}", call.bearer));
    response
}

/// Sends a head of `count` fields with values of `size` bytes.
pub(super) fn many(request: &Request<RequestBody>) -> Response<ResponseBody> {
    let (count, size) = (query_number(request, "count", 10), query_number(request, "size", 20));
    if count > MAX_FIELDS || count.saturating_mul(size) > MAX_HEAD_BYTES {
        return message(StatusCode::BAD_REQUEST, "At most 10000 fields and 64 MiB");
    }
    let value = "v".repeat(usize::try_from(size).unwrap_or_default());
    let mut response = json_response(StatusCode::OK, &json!({ "fields": count }));
    for field in 0..count {
        if let Ok(name) = HeaderName::from_bytes(format!("x-sim-{field}").as_bytes()) {
            set_header(&mut response, name, &value);
        }
    }
    response
}

/// Sends hop-by-hop fields, which a proxy must not forward (RFC 9110, 7.6.1).
pub(super) fn hop_by_hop() -> Response<ResponseBody> {
    let mut response = json_response(StatusCode::OK, &json!({ "hop_by_hop": true }));
    set_header(&mut response, CONNECTION, "x-private");
    set_header(&mut response, HeaderName::from_static("x-private"), "1");
    set_header(&mut response, HeaderName::from_static("keep-alive"), "timeout=5");
    set_header(&mut response, HeaderName::from_static("proxy-connection"), "keep-alive");
    set_header(&mut response, PROXY_AUTHENTICATE, "Basic realm=\"elsewhere\"");
    set_header(&mut response, ALT_SVC, "h3=\":443\"; ma=86400");
    response
}

/// Answers with the status in the path; 204 and 304 have no body, all others a `message`.
pub(super) async fn status(request: Request<RequestBody>) -> Response<ResponseBody> {
    let code = request.uri().path().strip_prefix("/_sim/status/").unwrap_or_default();
    let code = StatusCode::from_bytes(code.as_bytes()).ok();
    let code = code.filter(|code| !code.is_informational());
    let version = request.version();
    // The body is read so that the connection can be reused; how it ended does not matter.
    let _ = request.into_body().read(MAX_BODY_BYTES).await;
    match code {
        None => message(StatusCode::BAD_REQUEST, "Expected /_sim/status/200 to /_sim/status/999"),
        Some(StatusCode::NO_CONTENT) => response(StatusCode::NO_CONTENT, empty()),
        Some(StatusCode::NOT_MODIFIED) => not_modified(version),
        Some(code) => message(code, code.canonical_reason().unwrap_or("As asked for")),
    }
}

/// Answers 304 with the `Content-Length` that a 200 would have (RFC 9110, 15.4.5).
fn not_modified(version: Version) -> Response<ResponseBody> {
    // On HTTP/1 hyper keeps the announced length only if it does not know the length of the body.
    let body = if version == Version::HTTP_2 { empty() } else { Channel::new(1).1.boxed_unsync() };
    let mut response = response(StatusCode::NOT_MODIFIED, body);
    set_header(&mut response, ETAG, "\"invented-1\"");
    set_header(&mut response, CONTENT_LENGTH, "1234");
    response
}
