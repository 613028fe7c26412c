//! Connections that break, hang, or say what they should not.

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
    body::{Body as HttpBody, Frame},
    header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE},
};
use serde_json::json;

use crate::{
    answer::{Body, Received, answer, empty, json as json_answer, message, set},
    line::{Cut, Line},
    pattern::Pattern,
    routes::{Call, number, query, wanted_status},
};

/// Answers with `status` at once and does not read the body.
///
/// On HTTP/1.1 the connection is closed `linger_ms` later (200), so that a client that is still
/// writing can find the answer; 0 is what the rudest servers do. On HTTP/2 the stream is reset.
pub(super) fn early(call: &Call, request: Request<Received>) -> Response<Body> {
    let status = wanted_status(&request, StatusCode::PAYLOAD_TOO_LARGE);
    let linger = Duration::from_millis(number(&request, "linger_ms", 200));
    let http1 = request.version() != Version::HTTP_2;
    let line = Arc::clone(&call.line);
    let body = request.into_body();
    tokio::spawn(async move {
        tokio::time::sleep(linger).await;
        // Until here the body was kept: dropped, hyper would read or close on its own terms.
        drop(body);
        if http1 {
            line.cut(Cut::Close);
        }
    });
    let mut response = message(status, "Answered before the body was read");
    if http1 {
        set(&mut response, CONNECTION, "close");
    }
    response
}

/// Announces a length (`of`, else more than is sent), sends the first `after` bytes of the
/// pattern, then resets or closes the connection (`how`).
pub(super) fn reset(call: &Call, request: &Request<Received>) -> Response<Body> {
    let after = number(request, "after", 1000);
    let body =
        BreakingOff { pattern: call.shared.pattern.clone(), line: Arc::clone(&call.line), how: how(request), offset: 0, after };
    let mut response = answer(StatusCode::OK, body.boxed_unsync());
    set(&mut response, CONTENT_TYPE, "application/octet-stream");
    if query(request, "chunked").as_deref() != Some("1") {
        let announced = number(request, "of", after.saturating_add(1000));
        response.headers_mut().insert(CONTENT_LENGTH, announced.into());
    }
    response
}

struct BreakingOff {
    pattern: Pattern,
    line: Arc<Line>,
    how: Cut,
    offset: u64,
    after: u64,
}

impl HttpBody for BreakingOff {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let this = self.get_mut();
        if this.offset == this.after {
            // hyper flushes whatever it has whenever a body has nothing for it.
            this.line.cut_once_flushed(this.how);
            return Poll::Pending;
        }
        let piece = this.pattern.stretch(this.offset, this.after - this.offset);
        this.offset += piece.len() as u64;
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }
}

/// Ends the connection without an answer.
pub(super) async fn reset_before(call: &Call, request: &Request<Received>) -> Response<Body> {
    call.line.cut(how(request));
    pending().await
}

/// `how=rst` (also when nothing is said) or `how=close`.
fn how(request: &Request<Received>) -> Cut {
    match query(request, "how").as_deref() {
        Some("close") => Cut::Close,
        _ => Cut::Reset,
    }
}

/// Never answers.
pub(super) async fn hang() -> Response<Body> {
    pending().await
}

/// Bytes that are no HTTP, then the end of the connection.
pub(super) fn garbage(call: &Call) -> Response<Body> {
    call.line.say_instead(Bytes::from_static(b"\x00\xffthis is no HTTP\r\n\r\nat all\r\n"));
    answer(StatusCode::OK, empty())
}

/// A 103 before the answer. Only HTTP/1.1: the HTTP/2 library cannot send one.
pub(super) fn informational(call: &Call, request: &Request<Received>) -> Response<Body> {
    let possible = request.version() == Version::HTTP_11;
    if possible {
        call.line.say_first(Bytes::from_static(b"HTTP/1.1 103 Early Hints\r\nlink: </style.css>; rel=preload\r\n\r\n"));
    }
    json_answer(StatusCode::OK, &json!({ "informational_sent": possible }))
}
