//! Tests the awkward endpoints that break or misuse the connection.

use std::io;

use bytes::Bytes;
use careportals_simulator::{Pattern, Simulator};
use http_body_util::{BodyExt, channel::Channel};
use hyper::{Method, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::client::{BOTH, Client, Version, nothing, simulator, tls};

/// Sends a raw request and reads until the connection ends; returns what was read, and how the connection ended.
async fn raw(simulator: &Simulator, request: &str) -> (Vec<u8>, io::Result<()>) {
    let token = Client::logged_in(simulator, Version::Http1).await.token.expect("logged in");
    let mut stream = tls(simulator.address(), simulator.ca_pem(), b"http/1.1").await.expect("connected");
    let head = format!("{request}\r\nhost: localhost\r\norganization: demo\r\nauthorization: Bearer {token}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.expect("sent");
    let mut read = Vec::new();
    let mut piece = [0; 4096];
    loop {
        match stream.read(&mut piece).await {
            Ok(0) => return (read, Ok(())),
            Ok(bytes) => read.extend_from_slice(&piece[..bytes]),
            Err(fault) => return (read, Err(fault)),
        }
    }
}

#[tokio::test]
async fn a_reset_in_mid_body_comes_after_exactly_the_bytes_asked_for() {
    let simulator = simulator();
    for (how, kind) in [("rst", io::ErrorKind::ConnectionReset), ("close", io::ErrorKind::UnexpectedEof)] {
        let request = format!("GET /_sim/reset?after=70000&how={how} HTTP/1.1");
        let (read, ended) = raw(&simulator, &request).await;
        let head = read.windows(4).position(|window| window == b"\r\n\r\n").expect("a head") + 4;
        assert!(String::from_utf8_lossy(&read[..head]).contains("content-length: 71000"));
        assert_eq!(read.len() - head, 70_000, "{how}");
        assert!(Pattern::new().matches(0, &read[head..]));
        assert_eq!(ended.expect_err("cut").kind(), kind, "{how}");
    }
}

#[tokio::test]
async fn a_reset_ends_the_body_with_an_error_on_both_versions() {
    let simulator = simulator();
    for version in BOTH {
        for target in ["/_sim/reset?after=0", "/_sim/reset?after=500&chunked=1&how=close"] {
            let mut client = Client::logged_in(&simulator, version).await;
            let outcome = client.try_call(Method::GET, target, nothing()).await;
            assert!(outcome.is_err(), "{version:?} {target}");
        }
    }
}

#[tokio::test]
async fn a_connection_can_end_before_the_answer() {
    let simulator = simulator();
    for (how, kind) in [("rst", io::ErrorKind::ConnectionReset), ("close", io::ErrorKind::UnexpectedEof)] {
        let (read, ended) = raw(&simulator, &format!("GET /_sim/reset-before?how={how} HTTP/1.1")).await;
        assert!(read.is_empty());
        assert_eq!(ended.expect_err("cut").kind(), kind, "{how}");
    }
    assert_eq!(simulator.control().counts().by_route["/_sim/reset-before"], 2);
}

#[tokio::test]
async fn garbage_is_no_http() {
    let simulator = simulator();
    let (read, _) = raw(&simulator, "GET /_sim/garbage HTTP/1.1").await;
    assert!(read.starts_with(b"\x00\xffthis is no HTTP"));
    assert!(!String::from_utf8_lossy(&read).contains("HTTP/1.1"), "hyper's own answer is swallowed");
    let mut client = Client::logged_in(&simulator, Version::Http2).await;
    assert!(client.try_call(Method::GET, "/_sim/garbage", nothing()).await.is_err());
}

#[tokio::test]
async fn an_informational_answer_comes_first() {
    let simulator = simulator();
    let (read, _) = raw(&simulator, "GET /_sim/informational HTTP/1.1\r\nconnection: close").await;
    let text = String::from_utf8(read).expect("text");
    assert!(text.starts_with("HTTP/1.1 103 Early Hints\r\n"));
    assert!(text.contains("\r\n\r\nHTTP/1.1 200 OK\r\n"));
    assert!(text.ends_with(r#"{"informational_sent":true}"#));
    let mut client = Client::logged_in(&simulator, Version::Http2).await;
    assert_eq!(client.get("/_sim/informational").await.json()["informational_sent"], false);
}

#[tokio::test]
async fn an_early_answer_does_not_wait_for_the_body() {
    let simulator = simulator();
    for version in BOTH {
        let mut client = Client::logged_in(&simulator, version).await;
        let (mut sender, channel) = Channel::<Bytes, io::Error>::new(1);
        sender.send_data(Bytes::from_static(&[0; 1000])).await.expect("sent");
        let request = client.request(Method::POST, "/_sim/early?status=413").body(channel.boxed()).expect("a request");
        let response = client.send(request).await.expect("an answer");
        assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE, "{version:?}");
        assert!(response.into_body().collect().await.is_ok());
        drop(sender);
    }
    let seen = simulator.control().requests();
    assert!(seen.iter().all(|seen| seen.body_bytes == 0 && !seen.complete));
}

#[tokio::test]
async fn a_large_body_against_an_early_answer_ends_with_the_connection() {
    let simulator = simulator();
    let head = "POST /_sim/early?linger_ms=50 HTTP/1.1\r\ncontent-length: 100000000";
    let (read, _) = raw(&simulator, head).await;
    assert!(read.starts_with(b"HTTP/1.1 413 "));
}

#[tokio::test]
async fn a_websocket_echoes() {
    let simulator = simulator();
    let token = Client::logged_in(&simulator, Version::Http1).await.token.expect("logged in");
    let mut stream = tls(simulator.address(), simulator.ca_pem(), b"http/1.1").await.expect("connected");
    let head = format!(
        "GET /_sim/websocket HTTP/1.1\r\nhost: localhost\r\norganization: demo\r\nauthorization: Bearer {token}\r\n\
         connection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
         sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.expect("sent");
    let mut read = Vec::new();
    while !read.ends_with(b"\r\n\r\n") {
        read.push(stream.read_u8().await.expect("a head"));
    }
    let text = String::from_utf8(read).expect("text");
    assert!(text.starts_with("HTTP/1.1 101 "));
    assert!(text.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));

    for length in [5_usize, 200, 70_000] {
        let payload: Vec<u8> = (0..length).map(|byte| (byte % 251).to_le_bytes()[0]).collect();
        stream.write_all(&frame(2, &payload)).await.expect("sent");
        assert_eq!(read_frame(&mut stream).await, (0x82, payload));
    }
    stream.write_all(&frame(9, b"hi")).await.expect("sent");
    assert_eq!(read_frame(&mut stream).await, (0x8a, b"hi".to_vec()));
    stream.write_all(&frame(8, &1000_u16.to_be_bytes())).await.expect("sent");
    assert_eq!(read_frame(&mut stream).await, (0x88, vec![3, 232]));
    assert_eq!(stream.read(&mut [0]).await.expect("an orderly end"), 0);
}

#[tokio::test]
async fn a_request_that_is_no_handshake_is_told_to_upgrade() {
    let simulator = simulator();
    for version in BOTH {
        let mut client = Client::logged_in(&simulator, version).await;
        assert_eq!(client.get("/_sim/websocket").await.status, StatusCode::UPGRADE_REQUIRED, "{version:?}");
    }
}

fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [1, 2, 3, 4];
    let mut frame = vec![0x80 | opcode];
    match payload.len() {
        short @ ..126 => frame.push(0x80 | u8::try_from(short).expect("short")),
        middle @ ..65_536 => {
            frame.push(0xfe);
            frame.extend(u16::try_from(middle).expect("middle").to_be_bytes());
        }
        long => {
            frame.push(0xff);
            frame.extend((long as u64).to_be_bytes());
        }
    }
    frame.extend(mask);
    frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

async fn read_frame(stream: &mut (impl AsyncReadExt + Unpin)) -> (u8, Vec<u8>) {
    let first = stream.read_u8().await.expect("a frame");
    let length = match stream.read_u8().await.expect("a length") {
        126 => u64::from(stream.read_u16().await.expect("a length")),
        127 => stream.read_u64().await.expect("a length"),
        short => u64::from(short),
    };
    let mut payload = vec![0; usize::try_from(length).expect("fits")];
    stream.read_exact(&mut payload).await.expect("a payload");
    (first, payload)
}
