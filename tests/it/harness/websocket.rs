//! The client's side of a WebSocket, as far as tunnels need it.

use crate::harness::{Answer, Connection, Request, Sidecar};

/// RFC 6455, 1.3: a key, and what the server makes of it.
pub const KEY: (&str, &str) = ("dGhlIHNhbXBsZSBub25jZQ==", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");

/// A request for a tunnel.
pub fn handshake(target: &str) -> Request {
    Request::get(target)
        .header("Connection", "keep-alive, Upgrade")
        .header("Upgrade", "websocket")
        .header("Sec-WebSocket-Version", "13")
        .header("Sec-WebSocket-Key", KEY.0)
}

/// Asks for a tunnel to the simulator's echo, and gets it.
pub fn open(sidecar: &Sidecar) -> Connection {
    let mut client = sidecar.connect();
    let head = ask(&mut client, &handshake("/_sim/websocket"));
    assert_eq!(head.status, 101, "{head:?}");
    client
}

/// Sends `request`, and reads the head of its answer.
pub fn ask(client: &mut Connection, request: &Request) -> Answer {
    client.write(&request.head());
    client.head()
}

/// A masked text frame (RFC 6455, 5.2); the mask is all zeros.
pub fn message(text: &str) -> Vec<u8> {
    let length = u8::try_from(text.len()).unwrap();
    assert!(length < 126);
    [&[0x81, 0x80 | length, 0, 0, 0, 0], text.as_bytes()].concat()
}

/// Asserts that what is written into a tunnel to the echo comes back.
pub fn assert_echoes(client: &mut Connection, text: &str) {
    client.write(&message(text));
    client.read_until(text.as_bytes());
}
