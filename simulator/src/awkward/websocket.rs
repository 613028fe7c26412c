//! A WebSocket (RFC 6455) that sends every message back, over HTTP/1.1.

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
    answer::{Body, Received, answer, empty, message, set},
    routes::Call,
};

/// Longer frames are refused with close code 1009.
const LONGEST_FRAME: u64 = 16 * 1024 * 1024;

/// Agrees to the upgrade and echoes until the client closes.
pub(super) fn upgrade(call: &Call, mut request: Request<Received>) -> Response<Body> {
    let Some(accept) = accepted(&request) else {
        let mut response = message(StatusCode::UPGRADE_REQUIRED, "Expected a WebSocket handshake (HTTP/1.1)");
        if request.version() != Version::HTTP_2 {
            set(&mut response, UPGRADE, "websocket");
            set(&mut response, CONNECTION, "upgrade");
        }
        set(&mut response, SEC_WEBSOCKET_VERSION, "13");
        return response;
    };
    let protocol = request
        .headers()
        .get(SEC_WEBSOCKET_PROTOCOL)
        .and_then(|offered| offered.to_str().ok())
        .and_then(|offered| offered.split(',').next())
        .map(|first| first.trim().to_owned());
    let line = Arc::clone(&call.line);
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let _in_flight = line.begin();
        // A handshake that comes to nothing leaves nothing to echo.
        let Ok(upgraded) = upgraded.await else { return };
        tokio::select! {
            // How the client ends it is its business.
            _ = echo(BufStream::new(TokioIo::new(upgraded))) => {}
            () = line.severed() => {}
        }
    });
    let mut response = answer(StatusCode::SWITCHING_PROTOCOLS, empty());
    set(&mut response, UPGRADE, "websocket");
    set(&mut response, CONNECTION, "Upgrade");
    set(&mut response, SEC_WEBSOCKET_ACCEPT, &accept);
    if let Some(protocol) = protocol {
        set(&mut response, SEC_WEBSOCKET_PROTOCOL, &protocol);
    }
    response
}

/// The value of `Sec-WebSocket-Accept` for a proper handshake.
fn accepted<B>(request: &Request<B>) -> Option<String> {
    let headers = request.headers();
    let proper = request.method() == Method::GET
        && request.version() == Version::HTTP_11
        && lists(headers, &UPGRADE, "websocket")
        && lists(headers, &CONNECTION, "upgrade")
        && lists(headers, &SEC_WEBSOCKET_VERSION, "13");
    let key = headers.get(SEC_WEBSOCKET_KEY).filter(|_| proper)?.to_str().ok()?;
    let length = STANDARD.decode(key).ok()?.len();
    (length == 16).then(|| accept_of(key))
}

fn accept_of(key: &str) -> String {
    let text = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes()))
}

fn lists(headers: &HeaderMap, name: &HeaderName, wanted: &str) -> bool {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|item| item.trim().eq_ignore_ascii_case(wanted))
}

const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

async fn echo(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
    loop {
        let first = stream.read_u8().await?;
        let second = stream.read_u8().await?;
        let length = match second & 0x7f {
            126 => u64::from(stream.read_u16().await?),
            127 => stream.read_u64().await?,
            short => u64::from(short),
        };
        if second & 0x80 == 0 {
            return close(&mut stream, 1002).await;
        }
        if length > LONGEST_FRAME {
            return close(&mut stream, 1009).await;
        }
        let mut mask = [0; 4];
        stream.read_exact(&mut mask).await?;
        let mut payload = vec![0; usize::try_from(length).map_err(io::Error::other)?];
        stream.read_exact(&mut payload).await?;
        for (byte, mask) in payload.iter_mut().zip(mask.iter().cycle()) {
            *byte ^= mask;
        }
        match first & 0x0f {
            // A fragment goes back as the fragment it was.
            0..=2 => send(&mut stream, first, &payload).await?,
            PING => send(&mut stream, 0x80 | PONG, &payload).await?,
            PONG => {}
            CLOSE => {
                send(&mut stream, 0x80 | CLOSE, &payload).await?;
                return stream.shutdown().await;
            }
            _ => return close(&mut stream, 1002).await,
        }
    }
}

async fn close(stream: &mut (impl AsyncWrite + Unpin), code: u16) -> io::Result<()> {
    send(stream, 0x80 | CLOSE, &code.to_be_bytes()).await?;
    stream.shutdown().await
}

/// Servers do not mask.
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
