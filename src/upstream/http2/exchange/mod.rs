//! One request and its answer on a stream.
//!
//! Guarantees: a body that broke off is an error to its reader; an exchange that is given up resets its stream and disturbs
//! no other.

use std::{
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, Version,
    header::{CONNECTION, CONTENT_LENGTH, HOST, TE, TRANSFER_ENCODING, UPGRADE},
    response,
    uri::{Authority, Scheme},
};
use http_body::{Body, Frame, SizeHint};
use tokio::{runtime::Handle, task::AbortHandle, time::timeout};

use super::{
    super::{
        error::{BodyBroken, Cause, SendError, Sent},
        options::HeadLimits,
    },
    pool::StreamPermit,
};
use crate::connect::bytes_written;

/// How long the end of a stream is waited for, behind an answer that is there.
const END_WAIT: Duration = Duration::from_secs(2);

/// Sends `request` on the stream of `permit`. Dropping the future resets the stream.
pub(in crate::upstream) async fn send<B>(permit: StreamPermit, mut request: Request<B>) -> Result<Response<Http2Body>, SendError>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
{
    let handle = permit.handle();
    let (before, limits) = (bytes_written(&handle.written), handle.limits);
    let head = http2_head(&mut request, &handle.authority)?;
    let asked_for_head = head.method() == Method::HEAD;
    let body = request.into_body();
    let bodiless = body.is_end_stream();
    // A request that can't be queued never leaves: the connection is going away, or is gone.
    let queued = handle.sender.clone().send_request(head, bodiless);
    let queued = queued.map_err(|error| SendError { sent: Sent::Nothing, ..failure(&error) });
    let (mut answer, output) = queued.inspect_err(|error| permit.note(*error))?;
    let mut upload = (!bodiless).then_some(BodyWriter { output, body, ahead: None });
    let mut has_begun = false;
    let response = poll_fn(|cx| {
        if let Some(sending) = &mut upload
            && let Poll::Ready(sent) = sending.poll_sent(cx)
        {
            upload = None;
            if sent.is_err() {
                return Poll::Ready(Err(SendError::after_sending(Cause::RequestBody)));
            }
        }
        // Interim answers are dropped, but the upstream has begun to answer.
        while let Poll::Ready(Some(Ok(_))) = answer.poll_informational(cx) {
            has_begun = true;
        }
        let answered = ready!(Pin::new(&mut answer).poll(cx));
        Poll::Ready(answered.map_err(|error| {
            let failure = failure(&error);
            // Even where the server says now that it did nothing: it had said otherwise.
            if has_begun {
                return SendError::after_sending(match failure.cause {
                    Cause::Closed | Cause::Http1Required => Cause::BrokenOff,
                    other => other,
                });
            }
            // Nothing at all was written on the connection since.
            let unsent = bytes_written(&handle.written) == before;
            if unsent { SendError { sent: Sent::Nothing, ..failure } } else { failure }
        }))
    })
    .await
    .inspect_err(|error| permit.note(*error))?;
    judge(&response, limits)?;
    // The answer may come before the request has left; then a task goes on sending, whether or not the answer is read.
    let upload = upload.map(|mut rest| tokio::spawn(async move { drop(poll_fn(|cx| rest.poll_sent(cx)).await) }).abort_handle());
    let (head, body) = response.into_parts();
    let body = Http2Body::new(&head, body, asked_for_head, upload, permit);
    Ok(Response::from_parts(head, body))
}

/// The head as HTTP/2 has it: the authority takes the place of `Host`, and fields that only concern an HTTP/1.1 connection
/// are removed (RFC 9113, 8.2.2 and 8.3.1).
fn http2_head<B>(request: &mut Request<B>, authority: &Authority) -> Result<Request<()>, SendError> {
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    (parts.scheme, parts.authority) = (Some(Scheme::HTTPS), Some(authority.clone()));
    let uri = Uri::from_parts(parts).map_err(|_| SendError::unsent(Cause::Protocol))?;
    let mut head = Request::new(());
    *head.method_mut() = request.method().clone();
    *head.uri_mut() = uri;
    *head.version_mut() = Version::HTTP_2;
    *head.headers_mut() = http2_fields(std::mem::take(request.headers_mut()));
    Ok(head)
}

/// Leaves out what only concerns an HTTP/1.1 connection. `HeaderMap::remove` puts the last field in the place of the one that
/// goes. For `Host` alone, which begins our heads, that does no harm; where more has to go, a new map keeps the order.
fn http2_fields(mut headers: HeaderMap) -> HeaderMap {
    if headers.contains_key(HOST) && headers.iter().filter(|(name, value)| is_foreign(name, value)).count() == 1 {
        headers.remove(HOST);
        return headers;
    }
    let mut kept = HeaderMap::with_capacity(headers.len());
    let mut current = None;
    for (name, value) in headers {
        current = name.or(current);
        let Some(name) = &current else { continue };
        if !is_foreign(name, &value) {
            kept.append(name.clone(), value);
        }
    }
    kept
}

/// Whether a field only concerns an HTTP/1.1 connection.
fn is_foreign(name: &HeaderName, value: &HeaderValue) -> bool {
    *name == HOST
        || *name == CONNECTION
        || *name == TRANSFER_ENCODING
        || *name == UPGRADE
        || matches!(name.as_str(), "keep-alive" | "proxy-connection")
        || (*name == TE && value != "trailers")
}

/// Whether the answer's head keeps to the limits and to HTTP/2.
fn judge(response: &Response<RecvStream>, limits: HeadLimits) -> Result<(), SendError> {
    let headers = response.headers();
    // Counted as in HTTP/1.1: a colon, a blank and the line's end besides name and value.
    let bytes: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    let cause = if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        // There is no such thing in HTTP/2 (RFC 9113, 8.6).
        Cause::Protocol
    } else if headers.len() > limits.lines || bytes > limits.bytes {
        Cause::HeadTooLarge
    } else {
        return Ok(());
    };
    Err(SendError::after_sending(cause))
}

/// Tells what failed, and whether the server may have acted on the request. It has not if it says so: it refused the stream (RFC
/// 9113, 8.7) or wants it over HTTP/1.1 (7), or the stream is above the last one of its GOAWAY (6.8). h2 reports a GOAWAY of the
/// server to an exchange only in the latter case: for the others it waits until they end or the connection does, which is another
/// error.
fn failure(error: &h2::Error) -> SendError {
    let wants_http1 = error.is_remote() && error.reason() == Some(Reason::HTTP_1_1_REQUIRED);
    let refused = error.is_go_away() || error.reason() == Some(Reason::REFUSED_STREAM);
    let sent = if error.is_remote() && (refused || wants_http1) { Sent::Nothing } else { Sent::Something };
    let cause = if wants_http1 {
        Cause::Http1Required
    } else if error.is_library() {
        // An error of h2's own means that the answer is not HTTP/2.
        Cause::Protocol
    } else {
        Cause::Closed
    };
    SendError { cause, sent }
}

/// Writes a request's body under the server's flow control.
struct BodyWriter<B> {
    output: SendStream<Bytes>,
    body: B,
    /// Bytes that were taken from the body and wait for the server's window, and whether they are the last.
    ahead: Option<(Bytes, bool)>,
}

/// The client did not finish the body.
struct RequestBodyFailed;

impl<B: Body<Data = Bytes> + Unpin> BodyWriter<B> {
    /// Completes when all of the body has left, or when the server wants no more; the answer tells why.
    fn poll_sent(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), RequestBodyFailed>> {
        loop {
            if self.output.poll_reset(cx).is_ready() {
                return Poll::Ready(Ok(()));
            }
            if let Some((bytes, last)) = self.ahead.take() {
                if self.output.capacity() == 0 && !bytes.is_empty() {
                    let granted = self.output.poll_capacity(cx);
                    self.ahead = Some((bytes, last));
                    match ready!(granted) {
                        Some(Ok(_)) => continue,
                        Some(Err(_)) | None => return Poll::Ready(Ok(())),
                    }
                }
                if self.output.send_data(bytes, last).is_err() || last {
                    return Poll::Ready(Ok(()));
                }
            }
            // Take the body first and reserve the window for it later: reserved and unused, it is missing elsewhere.
            let Some(frame) = ready!(Pin::new(&mut self.body).poll_frame(cx)) else {
                self.ahead = Some((Bytes::new(), true));
                continue;
            };
            let Ok(frame) = frame else {
                self.output.send_reset(Reason::CANCEL);
                return Poll::Ready(Err(RequestBodyFailed));
            };
            match frame.into_data() {
                Ok(bytes) => {
                    // h2 reserves the rest when it has the bytes.
                    self.output.reserve_capacity(usize::from(!bytes.is_empty()));
                    self.ahead = Some((bytes, self.body.is_end_stream()));
                }
                Err(frame) => {
                    let Ok(trailers) = frame.into_trailers() else { continue };
                    self.output.reserve_capacity(0);
                    // If this fails, the answer tells why.
                    let _ = self.output.send_trailers(trailers);
                    return Poll::Ready(Ok(()));
                }
            }
        }
    }
}

/// An answer's body. Dropped before its end, it resets the stream.
pub(in crate::upstream) struct Http2Body {
    /// `None` only while it is dropped.
    stream: Option<AnswerStream>,
    /// Bytes to come, if the server said how many.
    left: Option<u64>,
    asked_for_head: bool,
    in_trailers: bool,
    upload: Option<AbortHandle>,
}

/// The server's half of a stream.
struct AnswerStream {
    body: RecvStream,
    /// Dropped after `body`: the stream must have ended when its permit is given back.
    _permit: StreamPermit,
}

impl Http2Body {
    fn new(
        head: &response::Parts,
        body: RecvStream,
        asked_for_head: bool,
        upload: Option<AbortHandle>,
        permit: StreamPermit,
    ) -> Self {
        let length = || head.headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        let left = match head.status {
            // The length is that of the answer to a GET.
            _ if asked_for_head => None,
            StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED => Some(0),
            _ => length(),
        };
        Self { stream: Some(AnswerStream { body, _permit: permit }), left, asked_for_head, in_trailers: false, upload }
    }

    pub(in crate::upstream) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyBroken>>> {
        let Some(AnswerStream { body, .. }) = &mut self.stream else { return Poll::Ready(None) };
        if !self.in_trailers {
            match ready!(body.poll_data(cx)) {
                Some(Ok(bytes)) => {
                    self.left = self.left.map(|left| left.saturating_sub(bytes.len() as u64));
                    // The reader has asked for these bytes, so the server may send as many again. It can't fail: no more
                    // is given back than came in.
                    let _ = body.flow_control().release_capacity(bytes.len());
                    if self.left == Some(0) {
                        // Many servers end the stream in a frame of its own. If that is here, the reader learns of it with the bytes.
                        self.in_trailers = matches!(body.poll_data(cx), Poll::Ready(None));
                    }
                    return Poll::Ready(Some(Ok(Frame::data(bytes))));
                }
                // Nothing is missing, however the stream ends.
                Some(Err(_)) if self.left == Some(0) => return Poll::Ready(None),
                Some(Err(_)) => return Poll::Ready(Some(Err(BodyBroken))),
                None => self.in_trailers = true,
            }
        }
        Poll::Ready(match ready!(body.poll_trailers(cx)) {
            Ok(trailers) => trailers.map(|trailers| Ok(Frame::trailers(trailers))),
            Err(_) => Some(Err(BodyBroken)),
        })
    }

    pub(in crate::upstream) fn is_end_stream(&self) -> bool {
        self.stream.as_ref().is_none_or(|stream| stream.body.is_end_stream())
    }

    pub(in crate::upstream) fn size_hint(&self) -> SizeHint {
        if self.is_end_stream() {
            SizeHint::with_exact(0)
        } else {
            self.left.map_or_else(SizeHint::default, SizeHint::with_exact)
        }
    }
}

impl Drop for Http2Body {
    fn drop(&mut self) {
        // The exchange is over, finished or not: the rest of the request is not needed.
        if let Some(upload) = &self.upload {
            upload.abort();
        }
        // A reader that knows the length reads no further than that. If the stream were reset now, the server would take its answer
        // for one that nobody wanted.
        if let Some(stream) = self.stream.take()
            && (self.asked_for_head || self.left == Some(0))
            && !stream.body.is_end_stream()
            && let Ok(runtime) = Handle::try_current()
        {
            runtime.spawn(stream.read_end());
        }
    }
}

impl AnswerStream {
    /// Waits a moment for the end of the stream, and resets it if anything else comes.
    async fn read_end(mut self) {
        let end = async {
            while let Some(Ok(bytes)) = self.body.data().await {
                if !bytes.is_empty() {
                    return;
                }
            }
            drop(self.body.trailers().await);
        };
        drop(timeout(END_WAIT, end).await);
    }
}

#[cfg(test)]
mod tests;
