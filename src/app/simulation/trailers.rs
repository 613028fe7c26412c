//! The trailers of calls and of their answers, and which of them have to arrive (`docs/forwarding.md`).
//!
//! Whether there are any is drawn from the call's number, so that both sides agree on it.

use super::calls::{CallId, Field, Sender, answer_body, bits, owned, request_body};

/// What `Trailer` of a call with trailers says, and of an answer.
pub(super) const OF_CALLS: &str = "x-sum, X-Note, authorization, x-forwarded-for";
pub(super) const OF_ANSWERS: &str = "x-sum, X-Note, x-told, set-cookie";

/// Whether the call has trailers.
pub(super) fn has_call(call: CallId, method: &str, sender: Sender) -> bool {
    let may_have = matches!(sender, Sender::Http1 | Sender::Http2 | Sender::Raw);
    may_have && bits(call, 8).is_multiple_of(3) && !request_body(call, method).is_empty()
}

/// Whether its answer has trailers.
pub(super) fn has_answer(call: CallId, method: &str, is_http2: bool) -> bool {
    // The server delimits these answers by chunks.
    bits(call, 7).is_multiple_of(3) && method != "HEAD" && !answer_body(call).is_empty() && (is_http2 || call.is_multiple_of(3))
}

/// Those that arrive of a call.
fn that_pass(call: CallId) -> Vec<Field> {
    vec![owned("x-sum", &format!("of {call}")), owned("x-note", "one"), owned("x-note", "two, three")]
}

/// Those that the client sends.
pub(super) fn of_call(call: CallId) -> Vec<Field> {
    let mut all = that_pass(call);
    all.extend([
        owned("authorization", "Bearer theirs"),
        owned("x-forwarded-for", "10.0.0.1"),
        // Nothing announces this one.
        owned("x-extra", "unannounced"),
    ]);
    all
}

/// Those that the server sends with its answer to a call that carried this `Authorization`.
pub(super) fn of_answer(call: CallId, authorization: &str) -> Vec<Field> {
    let mut all = that_pass(call);
    all.extend([owned("x-told", authorization), owned("set-cookie", "a=1")]);
    all
}

/// As lines of HTTP/1.1.
pub(super) fn lines(trailers: &[Field]) -> String {
    trailers.iter().flat_map(|(name, value)| [name, ": ", value, "\r\n"]).collect()
}

/// For hyper and h2.
pub(super) fn map(trailers: &[Field]) -> http::HeaderMap {
    // Everything in them is plain ASCII.
    trailers
        .iter()
        .map(|(name, value)| {
            (http::HeaderName::from_bytes(name.as_bytes()).unwrap(), http::HeaderValue::from_str(value).unwrap())
        })
        .collect()
}

/// The fields of a map.
pub(super) fn fields(map: &http::HeaderMap) -> Vec<Field> {
    map.iter().map(|(name, value)| owned(name.as_str(), value.to_str().unwrap_or_default())).collect()
}

/// What has to arrive of a call's trailers, and what has come as far as it counts.
pub(super) fn expected_of_call(
    call: CallId,
    sent: bool,
    sender: Sender,
    is_http2: bool,
    came: &[Field],
) -> (Vec<Field>, Vec<Field>) {
    let mut expected = if sent { that_pass(call) } else { Vec::new() };
    let mut came = came.to_vec();
    match (is_http2, sender) {
        (true, Sender::Http2) if sent => expected.push(owned("x-extra", "unannounced")),
        // HTTP/1.1 may lose it.
        (true, Sender::Raw) => came.retain(|(name, _)| name != "x-extra"),
        _ => {}
    }
    (expected, came)
}

/// What has to arrive of an answer's trailers. `asked`: the request had `TE: trailers`.
pub(super) fn expected_of_answer(call: CallId, method: &str, sender: Sender, asked: bool, is_http2: bool) -> Vec<Field> {
    let gets = sender == Sender::Http2 || (asked && matches!(sender, Sender::Http1 | Sender::Raw));
    if !gets || !has_answer(call, method, is_http2) {
        return Vec::new();
    }
    let mut expected = that_pass(call);
    expected.push(owned("x-told", "[redacted]"));
    expected
}
