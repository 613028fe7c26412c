//! Opens the pure decisions of this folder to the fuzz targets, and to the test that replays what they found.
//!
//! The program calls nothing here, so nothing here is compiled into it. It adds no rule of its own.

#![doc(hidden)]

use http::{HeaderMap, HeaderValue, Method, Uri, Version, uri::PathAndQuery};

use super::{
    admit::{Gate, Refusal},
    exchange::{Tokens, redact},
    headers::{self, AccountFields, Framing, HeaderRules, NamedByConnection},
    request_id,
};
use crate::{account::Fingerprint, server::Peer};

/// The bits of the id that each request has here.
pub const REQUEST_ID: u64 = 0x5afe;

/// The target that the upstream would be asked for, or the refusal.
pub fn admit(
    gate: &Gate,
    method: &Method,
    uri: &Uri,
    version: Version,
    headers: &HeaderMap,
    peer: &Peer,
) -> Result<PathAndQuery, Refusal> {
    gate.admit(method, uri, version, headers, peer).map(|admitted| admitted.target().clone())
}

/// The head that the upstream gets, with `Bearer <token>` as `authorization`. `length`: how many bytes the body has; `Err`:
/// it is unknown.
#[must_use]
pub fn head_to_upstream(
    rules: &HeaderRules,
    client: &HeaderMap,
    version: Version,
    [authorization, organization]: [&HeaderValue; 2],
    length: Option<Result<u64, ()>>,
) -> HeaderMap {
    let framing = match length {
        None => Framing::None,
        Some(Ok(length)) => Framing::Length(length),
        Some(Err(())) => Framing::Chunked,
    };
    let account = AccountFields { authorization: Some(authorization), organization };
    let request_id = request_id::new_value(REQUEST_ID);
    headers::to_upstream(HeaderMap::new(), rules, client, version, account, framing, request_id)
}

/// The head that the client gets, and how many of its values held `token`.
#[must_use]
pub fn head_to_client(rules: &HeaderRules, upstream: HeaderMap, misread: bool, token: &[u8]) -> (HeaderMap, u64) {
    let named = NamedByConnection::in_headers(&upstream);
    let mut head = headers::to_client(rules, upstream, &named, misread, request_id::new_value(REQUEST_ID));
    let token = Fingerprint::of(token);
    let redacted = redact(&mut head, Tokens { carried: None, present: Some(&token) });
    (head, redacted)
}

/// What passes of trailers, as a request's and as an answer's.
#[must_use]
pub fn trailers(rules: &HeaderRules, trailers: &HeaderMap) -> [HeaderMap; 2] {
    let named = NamedByConnection::default();
    [headers::trailers_to_upstream(rules, &named, trailers), headers::trailers_to_client(rules, &named, trailers)]
}

/// The client's own id of a request, and whether it asks for a WebSocket.
#[must_use]
pub fn request_id_and_websocket(client: &HeaderMap) -> (Option<&str>, bool) {
    (request_id::clients_id(client), headers::asks_for_websocket(client))
}
