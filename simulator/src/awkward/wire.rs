//! Answers by misusing the connection: early, truncated, reset, hung, or with bytes that are not HTTP.
//!
//! It uses admitted calls and the handle of their connection. It affects no other connection.

use std::{
    future::pending,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::{
    Request, Response, StatusCode, Version,
    body::{Body, Frame},
    header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE},
};
use serde_json::json;

use crate::{
    body::RequestBody,
    call::Call,
    connection::{Abort, ConnectionHandle},
    pattern::Pattern,
    request::{query, query_number, query_status},
    response::{ResponseBody, empty, json_response, message, response, set_header},
};

/// Answers with `status` at once and does not read the body.
///
/// On HTTP/1.1 the connection is closed `linger_ms` later (200), so that a client that is still writing can find the
/// response; with 0 the client may lose it. On HTTP/2 the stream is reset.
pub(super) fn early(call: &Call, request: Request<RequestBody>) -> Response<ResponseBody> {
    let status = query_status(&request, StatusCode::PAYLOAD_TOO_LARGE);
    let linger = Duration::from_millis(query_number(&request, "linger_ms", 200));
    let http1 = request.version() != Version::HTTP_2;
    let connection = Arc::clone(&call.connection);
    let body = request.into_body();
    tokio::spawn(async move {
        tokio::time::sleep(linger).await;
        // The body is kept until here: when it is dropped, hyper itself reads the rest or closes.
        drop(body);
        if http1 {
            connection.abort(Abort::Close);
        }
    });
    let mut response = message(status, "Answered before the body was read");
    if http1 {
        set_header(&mut response, CONNECTION, "close");
    }
    response
}

/// Sends the first `after` bytes of the pattern, then resets or closes the connection (`how`).
///
/// The announced length is `of`, or 1000 bytes more than are sent; with `chunked=1` none is announced.
pub(super) fn reset(call: &Call, request: &Request<RequestBody>) -> Response<ResponseBody> {
    let after = query_number(request, "after", 1000);
    let body = TruncatedBody {
        pattern: call.state.pattern.clone(),
        connection: Arc::clone(&call.connection),
        how: how(request),
        offset: 0,
        after,
    };
    let mut response = response(StatusCode::OK, body.boxed_unsync());
    set_header(&mut response, CONTENT_TYPE, "application/octet-stream");
    if query(request, "chunked").as_deref() != Some("1") {
        let announced = query_number(request, "of", after.saturating_add(1000));
        response.headers_mut().insert(CONTENT_LENGTH, announced.into());
    }
    response
}

/// A body that aborts the connection after `after` bytes.
struct TruncatedBody {
    pattern: Pattern,
    connection: Arc<ConnectionHandle>,
    how: Abort,
    offset: u64,
    after: u64,
}

impl Body for TruncatedBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let this = self.get_mut();
        if this.offset == this.after {
            // hyper flushes what it has when a body returns `Pending`, so the abort follows.
            this.connection.abort_once_flushed(this.how);
            return Poll::Pending;
        }
        let piece = this.pattern.stretch(this.offset, this.after - this.offset);
        this.offset += piece.len() as u64;
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }
}

/// Ends the connection without a response.
pub(super) async fn reset_before(call: &Call, request: &Request<RequestBody>) -> Response<ResponseBody> {
    call.connection.abort(how(request));
    pending().await
}

/// Reads `how=rst`, which is the default, or `how=close`.
fn how(request: &Request<RequestBody>) -> Abort {
    match query(request, "how").as_deref() {
        Some("close") => Abort::Close,
        _ => Abort::Reset,
    }
}

/// Never answers.
pub(super) async fn hang() -> Response<ResponseBody> {
    pending().await
}

/// Sends bytes that are not HTTP, then ends the connection.
pub(super) fn garbage(call: &Call) -> Response<ResponseBody> {
    call.connection.write_instead_of_response(Bytes::from_static(b"\x00\xffthis is no HTTP\r\n\r\nat all\r\n"));
    response(StatusCode::OK, empty())
}

/// Sends a 103 before the response, on HTTP/1.1 only: hyper cannot send one on HTTP/2.
pub(super) fn informational(call: &Call, request: &Request<RequestBody>) -> Response<ResponseBody> {
    let possible = request.version() == Version::HTTP_11;
    if possible {
        call.connection
            .write_before_response(Bytes::from_static(b"HTTP/1.1 103 Early Hints\r\nlink: </style.css>; rel=preload\r\n\r\n"));
    }
    json_response(StatusCode::OK, &json!({ "informational_sent": possible }))
}
