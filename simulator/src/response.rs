//! Builds responses: statuses, JSON, and errors in the form that CarePortals gives them.
//!
//! It uses no other module.

use std::io;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Full, combinators::UnsyncBoxBody};
use hyper::{
    HeaderMap, Response, StatusCode,
    body::Body,
    header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue},
};
use serde_json::{Value, json};

/// The body of every response.
pub(crate) type ResponseBody = UnsyncBoxBody<Bytes, io::Error>;

/// Makes an empty body.
pub(crate) fn empty() -> ResponseBody {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// A body that is in memory.
pub(crate) fn full(bytes: impl Into<Bytes>) -> ResponseBody {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// Makes a response without headers.
pub(crate) fn response(status: StatusCode, body: ResponseBody) -> Response<ResponseBody> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response
}

/// Makes a response whose body is JSON.
pub(crate) fn json_response(status: StatusCode, value: &Value) -> Response<ResponseBody> {
    let mut response = response(status, full(value.to_string()));
    set_header(&mut response, CONTENT_TYPE, "application/json");
    response
}

/// An error as CarePortals words it: `{"message": …}`.
pub(crate) fn message(status: StatusCode, message: &str) -> Response<ResponseBody> {
    json_response(status, &json!({ "message": message }))
}

/// An error that also has a type: `{"message": …, "type": …}`.
pub(crate) fn typed_error(status: StatusCode, kind: &str, message: &str) -> Response<ResponseBody> {
    json_response(status, &json!({ "message": message, "type": kind }))
}

/// Sets a header; leaves it out when HTTP does not allow the value.
pub(crate) fn set_header(response: &mut Response<ResponseBody>, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}

/// Turns the response to GET into the response to HEAD: same headers, same length, no body.
pub(crate) fn without_body(mut response: Response<ResponseBody>) -> Response<ResponseBody> {
    let length = response.body().size_hint().exact();
    let may_have_body = !matches!(response.status(), StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    let headers: &mut HeaderMap = response.headers_mut();
    if let Some(length) = length
        && may_have_body
        && !headers.contains_key(CONTENT_LENGTH)
    {
        headers.insert(CONTENT_LENGTH, length.into());
    }
    *response.body_mut() = empty();
    response
}
