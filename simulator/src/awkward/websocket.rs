//! Echoes WebSocket messages (RFC 6455) over HTTP/1.1.
//!
//! It uses admitted calls only. A frame takes at most 16 MiB of memory, and the echo ends when the connection is aborted.

use std::{io, sync::Arc};

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::{Engine, engine::general_purpose::STANDARD};
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode, Version,
    header::{
        CONNECTION, HeaderName, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
    },
};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufStream};

use crate::{
    body::RequestBody,
    call::Call,
    response::{ResponseBody, empty, message, response, set_header},
};

/// The limit for a frame's payload, in bytes; a longer one is refused with close code 1009.
const MAX_FRAME_BYTES: u64 = 16 * 1024 * 1024;
/// RFC 6455, 1.3: the server hashes the client's key together with this text.
const ACCEPT_SUFFIX: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Opcodes (RFC 6455, 5.2); 0 to 2 are messages.
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;
/// The flag of the last frame of a message.
const FIN: u8 = 0x80;
/// The flag of a masked payload.
const MASKED: u8 = 0x80;

/// Close codes (RFC 6455, 7.4.1).
const PROTOCOL_ERROR: u16 = 1002;
const TOO_BIG: u16 = 1009;

/// Accepts the upgrade, and echoes until the client closes.
pub(super) fn upgrade(call: &Call, mut request: Request<RequestBody>) -> Response<ResponseBody> {
    let Some(accept) = accept_value(&request) else {
        let mut response = message(StatusCode::UPGRADE_REQUIRED, "Expected a WebSocket handshake (HTTP/1.1)");
        if request.version() != Version::HTTP_2 {
            set_header(&mut response, UPGRADE, "websocket");
            set_header(&mut response, CONNECTION, "upgrade");
        }
        set_header(&mut response, SEC_WEBSOCKET_VERSION, "13");
        return response;
    };
    let protocol = request
        .headers()
        .get(SEC_WEBSOCKET_PROTOCOL)
        .and_then(|offered| offered.to_str().ok())
        .and_then(|offered| offered.split(',').next())
        .map(|first| first.trim().to_owned());
    let connection = Arc::clone(&call.connection);
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let _in_flight = connection.begin();
        // An upgrade that failed has no stream to echo on.
        let Ok(upgraded) = upgraded.await else { return };
        tokio::select! {
            // An error only means that the client is gone.
            _ = echo(BufStream::new(TokioIo::new(upgraded))) => {}
            () = connection.aborted() => {}
        }
    });
    let mut response = response(StatusCode::SWITCHING_PROTOCOLS, empty());
    set_header(&mut response, UPGRADE, "websocket");
    set_header(&mut response, CONNECTION, "Upgrade");
    set_header(&mut response, SEC_WEBSOCKET_ACCEPT, &accept);
    if let Some(protocol) = protocol {
        set_header(&mut response, SEC_WEBSOCKET_PROTOCOL, &protocol);
    }
    response
}

/// The value of `Sec-WebSocket-Accept`; `None` if the request is not a valid handshake.
fn accept_value<B>(request: &Request<B>) -> Option<String> {
    let headers = request.headers();
    let valid = request.method() == Method::GET
        && request.version() == Version::HTTP_11
        && lists(headers, &UPGRADE, "websocket")
        && lists(headers, &CONNECTION, "upgrade")
        && lists(headers, &SEC_WEBSOCKET_VERSION, "13");
    let key = headers.get(SEC_WEBSOCKET_KEY).filter(|_| valid)?.to_str().ok()?;
    let length = STANDARD.decode(key).ok()?.len();
    (length == 16).then(|| accept_of(key))
}

fn accept_of(key: &str) -> String {
    let text = format!("{key}{ACCEPT_SUFFIX}");
    STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes()))
}

/// Whether the comma-separated lists under `name` contain `wanted`.
fn lists(headers: &HeaderMap, name: &HeaderName, wanted: &str) -> bool {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|item| item.trim().eq_ignore_ascii_case(wanted))
}

/// Sends every message back until the client closes or breaks the protocol.
async fn echo(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
    loop {
        let first = stream.read_u8().await?;
        let second = stream.read_u8().await?;
        let length = match second & 0x7f {
            126 => u64::from(stream.read_u16().await?),
            127 => stream.read_u64().await?,
            short => u64::from(short),
        };
        if second & MASKED == 0 {
            return close(&mut stream, PROTOCOL_ERROR).await;
        }
        if length > MAX_FRAME_BYTES {
            return close(&mut stream, TOO_BIG).await;
        }
        let mut mask = [0; 4];
        stream.read_exact(&mut mask).await?;
        let mut payload = vec![0; usize::try_from(length).map_err(io::Error::other)?];
        stream.read_exact(&mut payload).await?;
        for (byte, mask) in payload.iter_mut().zip(mask.iter().cycle()) {
            *byte ^= mask;
        }
        match first & 0x0f {
            // A fragment is sent back as a fragment: `first` has the flag and the opcode.
            0..=2 => send(&mut stream, first, &payload).await?,
            PING => send(&mut stream, FIN | PONG, &payload).await?,
            PONG => {}
            CLOSE => {
                send(&mut stream, FIN | CLOSE, &payload).await?;
                return stream.shutdown().await;
            }
            _ => return close(&mut stream, PROTOCOL_ERROR).await,
        }
    }
}

/// Sends a close frame with this code and ends the stream.
async fn close(stream: &mut (impl AsyncWrite + Unpin), code: u16) -> io::Result<()> {
    send(stream, FIN | CLOSE, &code.to_be_bytes()).await?;
    stream.shutdown().await
}

/// Sends one frame; a server does not mask it (RFC 6455, 5.1).
async fn send(stream: &mut (impl AsyncWrite + Unpin), first: u8, payload: &[u8]) -> io::Result<()> {
    stream.write_u8(first).await?;
    let length = payload.len();
    match (u8::try_from(length), u16::try_from(length)) {
        (Ok(short @ ..=125), _) => stream.write_u8(short).await?,
        (_, Ok(middle)) => {
            stream.write_u8(126).await?;
            stream.write_u16(middle).await?;
        }
        _ => {
            stream.write_u8(127).await?;
            stream.write_u64(length as u64).await?;
        }
    }
    stream.write_all(payload).await?;
    stream.flush().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_accept_value_is_that_of_the_rfc() {
        // RFC 6455, section 1.3.
        assert_eq!(accept_of("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }
}
