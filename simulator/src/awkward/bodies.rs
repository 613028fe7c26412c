//! Answers with unusual bodies: echoed, mirrored, large, slow, endless, compressed, with trailers.
//!
//! It uses admitted calls and the pattern. At most 1 MiB of a body is held in memory, for the echo.

use std::{
    io::{self, Write},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use aws_lc_rs::digest::{self, digest};
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use http_body_util::{BodyExt, channel::Channel};
use hyper::{
    HeaderMap, Request, Response, StatusCode,
    body::{Body, Frame, SizeHint},
    header::{CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue, TRAILER},
};
use serde_json::{Value, json};

use crate::{
    body::RequestBody,
    call::Call,
    ids::hex,
    pattern::Pattern,
    record::{header_pairs, target_and_authority},
    request::{query, query_number},
    response::{ResponseBody, full, json_response, message, response, set_header},
};

/// The limit for an echoed body, in bytes; a longer one is only counted and hashed.
const MAX_ECHO_BYTES: u64 = 1024 * 1024;

/// Sends what arrived, as JSON.
pub(super) async fn echo(request: Request<RequestBody>) -> Response<ResponseBody> {
    let (head, mut body) = request.into_parts();
    let (target, authority) = target_and_authority(&head);
    let mut echo = json!({
        "method": head.method.as_str(),
        "target": target,
        "authority": authority,
        "version": format!("{:?}", head.version),
        "headers": header_pairs(&head.headers),
    });
    let mut kept = Vec::new();
    let mut hash = digest::Context::new(&digest::SHA256);
    let mut bytes = 0;
    while let Some(frame) = body.frame().await {
        match frame.map(Frame::into_data) {
            Ok(Ok(piece)) => {
                hash.update(&piece);
                bytes += piece.len() as u64;
                if bytes <= MAX_ECHO_BYTES {
                    kept.extend_from_slice(&piece);
                }
            }
            Ok(Err(frame)) => echo["trailers"] = trailers_of(frame),
            Err(_) => return message(StatusCode::BAD_REQUEST, "The body broke off"),
        }
    }
    echo["body_bytes"] = bytes.into();
    echo["sha256"] = hex(hash.finish().as_ref()).into();
    if bytes <= MAX_ECHO_BYTES {
        match String::from_utf8(kept) {
            Ok(text) => echo["body"] = text.into(),
            Err(binary) => echo["body_base64"] = STANDARD.encode(binary.as_bytes()).into(),
        }
    }
    json_response(StatusCode::OK, &echo)
}

fn trailers_of(frame: Frame<Bytes>) -> Value {
    json!(frame.into_trailers().map(|trailers| header_pairs(&trailers)).unwrap_or_default())
}

/// Sends the request's body back while it arrives.
pub(super) fn mirror(request: Request<RequestBody>) -> Response<ResponseBody> {
    let content_type = request.headers().get(CONTENT_TYPE).cloned();
    let mut response = response(StatusCode::OK, request.into_body().boxed_unsync());
    if let Some(content_type) = content_type {
        response.headers_mut().insert(CONTENT_TYPE, content_type);
    }
    response
}

/// Sends server-sent events: `events` of them, or without end if 0, one each `interval_ms`.
pub(super) fn events(request: &Request<RequestBody>) -> Response<ResponseBody> {
    let (events, interval) = (query_number(request, "events", 3), query_number(request, "interval_ms", 100));
    let (mut sender, channel) = Channel::new(1);
    tokio::spawn(async move {
        for event in 1_u64.. {
            let text = format!("id: {event}\nevent: tick\ndata: {{\"event\": {event}}}\n\n");
            if sender.send_data(Bytes::from(text)).await.is_err() || event == events {
                return;
            }
            tokio::time::sleep(Duration::from_millis(interval)).await;
        }
    });
    let mut response = response(StatusCode::OK, channel.boxed_unsync());
    set_header(&mut response, CONTENT_TYPE, "text/event-stream");
    set_header(&mut response, CACHE_CONTROL, "no-cache");
    response
}

/// Sends `bytes` of the pattern, one each `interval_ms`.
pub(super) fn drip(call: &Call, request: &Request<RequestBody>) -> Response<ResponseBody> {
    let (bytes, interval) = (query_number(request, "bytes", 10), query_number(request, "interval_ms", 20));
    let pattern = call.state.pattern.clone();
    let (mut sender, channel) = Channel::new(1);
    tokio::spawn(async move {
        for offset in 0..bytes {
            if sender.send_data(pattern.stretch(offset, 1)).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(interval)).await;
        }
    });
    let mut response = response(StatusCode::OK, channel.boxed_unsync());
    set_header(&mut response, CONTENT_TYPE, "application/octet-stream");
    response.headers_mut().insert(CONTENT_LENGTH, bytes.into());
    response
}

/// Sends `bytes` of the pattern; with `chunked=1` their number is not announced.
pub(super) fn download(call: &Call, request: &Request<RequestBody>) -> Response<ResponseBody> {
    let body = PatternBody {
        pattern: call.state.pattern.clone(),
        offset: 0,
        end: query_number(request, "bytes", 1024),
        announced: query(request, "chunked").as_deref() != Some("1"),
    };
    let mut response = response(StatusCode::OK, body.boxed_unsync());
    set_header(&mut response, CONTENT_TYPE, "application/octet-stream");
    response
}

/// A stretch of the pattern as a body; it is never in memory whole.
struct PatternBody {
    pattern: Pattern,
    offset: u64,
    end: u64,
    announced: bool,
}

impl Body for PatternBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let this = self.get_mut();
        if this.offset == this.end {
            return Poll::Ready(None);
        }
        let piece = this.pattern.stretch(this.offset, this.end - this.offset);
        this.offset += piece.len() as u64;
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.announced && self.offset == self.end
    }

    fn size_hint(&self) -> SizeHint {
        if self.announced { SizeHint::with_exact(self.end - self.offset) } else { SizeHint::default() }
    }
}

/// Reads the body as fast as it arrives; answers with its length, its hash and whether it is the pattern.
pub(super) async fn upload(call: &Call, request: Request<RequestBody>) -> Response<ResponseBody> {
    let mut body = request.into_body();
    let mut hash = digest::Context::new(&digest::SHA256);
    let (mut bytes, mut pattern_ok) = (0_u64, true);
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else {
            return message(StatusCode::BAD_REQUEST, "The body broke off");
        };
        if let Ok(piece) = frame.into_data() {
            hash.update(&piece);
            pattern_ok = pattern_ok && call.state.pattern.matches(bytes, &piece);
            bytes += piece.len() as u64;
        }
    }
    let sha256 = hex(hash.finish().as_ref());
    let value = json!({ "bytes": bytes, "sha256": sha256, "pattern_ok": pattern_ok });
    json_response(StatusCode::OK, &value)
}

/// Reads the body at `bytes_per_second`, on average.
pub(super) async fn slow_read(request: Request<RequestBody>) -> Response<ResponseBody> {
    let rate = query_number(&request, "bytes_per_second", 64 * 1024).max(1);
    let mut body = request.into_body();
    let mut bytes = 0_u64;
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else {
            return message(StatusCode::BAD_REQUEST, "The body broke off");
        };
        if let Some(piece) = frame.data_ref() {
            let length = piece.len() as u64;
            bytes += length;
            let pause = length.saturating_mul(1_000_000) / rate;
            tokio::time::sleep(Duration::from_micros(pause)).await;
        }
    }
    json_response(StatusCode::OK, &json!({ "bytes": bytes }))
}

/// Answers with the trailers of the request, and sends one: the SHA-256 of the response's body.
pub(super) async fn trailers(request: Request<RequestBody>) -> Response<ResponseBody> {
    let mut body = request.into_body();
    let mut value = json!({ "body_bytes": 0, "trailers": [] });
    let mut bytes = 0;
    while let Some(frame) = body.frame().await {
        match frame.map(Frame::into_data) {
            Ok(Ok(piece)) => bytes += piece.len(),
            Ok(Err(frame)) => value["trailers"] = trailers_of(frame),
            Err(_) => return message(StatusCode::BAD_REQUEST, "The body broke off"),
        }
    }
    value["body_bytes"] = bytes.into();
    let text = value.to_string();
    let checksum = HeaderName::from_static("x-checksum");
    let mut trailers = HeaderMap::new();
    if let Ok(sum) = HeaderValue::from_str(&hex(digest(&digest::SHA256, text.as_bytes()).as_ref())) {
        trailers.insert(checksum, sum);
    }
    let (mut sender, channel) = Channel::new(2);
    tokio::spawn(async move {
        // A send fails only when the client is gone.
        if sender.send_data(Bytes::from(text)).await.is_ok() {
            let _ = sender.send_trailers(trailers).await;
        }
    });
    let mut response = response(StatusCode::OK, channel.boxed_unsync());
    set_header(&mut response, CONTENT_TYPE, "application/json");
    set_header(&mut response, TRAILER, "x-checksum");
    response
}

/// Sends a compressed JSON body, even if the client did not ask for compression.
pub(super) fn gzip() -> Response<ResponseBody> {
    let text = json!({ "gzipped": true, "filling": "abcdefgh".repeat(1000) }).to_string();
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    let compressed = encoder.write_all(text.as_bytes()).and_then(|()| encoder.finish());
    let Ok(compressed) = compressed else {
        return message(StatusCode::INTERNAL_SERVER_ERROR, "Compression failed");
    };
    let mut response = response(StatusCode::OK, full(compressed));
    set_header(&mut response, CONTENT_TYPE, "application/json");
    set_header(&mut response, CONTENT_ENCODING, "gzip");
    response
}
