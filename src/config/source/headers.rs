//! Fixed headers: which names a setting may use, and which values can stand in a header.
//!
//! Pure.

use http::{HeaderName, HeaderValue};
use serde_json::Value;

use super::{
    faults::{Diagnostic, all, ensure, shown},
    toml::{mismatch, text},
};
use crate::{careportals::ORGANIZATION_HEADER, secret::Secret};

/// Framing and hop-by-hop fields, which belong to a connection and not to a message.
const CONNECTION_HEADERS: &str = "host connection content-length expect http2-settings keep-alive proxy proxy-authenticate \
                                  proxy-authorization proxy-connection te trailer transfer-encoding upgrade";
/// Names that `headers` may not set, besides those of the connection.
pub(super) const REQUEST_HEADERS: &[&str] = &["authorization", ORGANIZATION_HEADER, "cookie", "x-request-id"];
/// Names that `require_header` may not have, besides those of the connection: its value is secret, and a request's id is logged.
const REQUIRED_HEADERS: &[&str] = &["x-request-id"];
/// How fields begin that `require_header` may not name, either: it is not forwarded, and without them a request means something else.
const NEEDED_FIELDS: [&str; 8] = ["accept", "content-", "if-", "range", "origin", "idempotency-key", "traceparent", "tracestate"];
/// Names that `login_headers` may not set, besides those of the connection.
pub(super) const LOGIN_HEADERS: &[&str] = &[ORGANIZATION_HEADER, "content-type", "cookie"];

/// Reads a table of headers. `reserved`: names that the sidecar sets itself, besides those of the connection.
pub(super) fn headers(value: &Value, reserved: &[&str]) -> Result<Vec<(HeaderName, HeaderValue)>, Diagnostic> {
    let Value::Object(table) = value else { return Err(mismatch("a table of headers", value)) };
    let headers = all(table.iter().map(|(name, value)| header(name, value, reserved)))?;
    for (at, (name, _)) in headers.iter().enumerate() {
        let is_set = headers[..at].iter().any(|(known, _)| folded(known.as_str()) == folded(name.as_str()));
        ensure!(!is_set, format!("{} is set twice", shown(name.as_str())));
    }
    Ok(headers)
}

fn header(name: &str, value: &Value, reserved: &[&str]) -> Result<(HeaderName, HeaderValue), Diagnostic> {
    let name = header_name(name, reserved)?;
    let value = text(value).and_then(|text| Secret::from(text).header_value().map_err(not_a_header));
    Ok((name.clone(), value.map_err(|wrong| wrong.about(shown(name.as_str())))?))
}

/// A value that a header can't carry, for what is in the way.
pub(super) fn not_a_header(what: &'static str) -> Diagnostic {
    Diagnostic::new(format!("cannot stand in a header ({what})")).hint(format!("remove the {what}"))
}

/// Reads a header's name. `reserved` as for [`headers`].
pub(super) fn header_name(text: &str, reserved: &[&str]) -> Result<HeaderName, Diagnostic> {
    let name = HeaderName::from_bytes(text.as_bytes())
        .map_err(|_| Diagnostic::new(format!("{} is not a header's name", shown(text))))?;
    let is_owned =
        CONNECTION_HEADERS.split(' ').chain(reserved.iter().copied()).any(|owned| folded(owned) == folded(name.as_str()));
    ensure!(!is_owned, format!("{} is the sidecar's own to set", shown(name.as_str())));
    Ok(name)
}

/// Reads the name of the header that clients must send.
pub(super) fn required_header_name(text: &str) -> Result<HeaderName, Diagnostic> {
    let name = header_name(text, REQUIRED_HEADERS)?;
    let is_needed = NEEDED_FIELDS.iter().any(|beginning| folded(name.as_str()).starts_with(beginning));
    let wrong = "has a meaning of its own, which is lost: the required header is not forwarded";
    let wrong = format!("{} {wrong}", shown(name.as_str()));
    ensure!(!is_needed, wrong, hint = "choose a name that nothing else has, such as x-careportals-sidecar");
    Ok(name)
}

/// Many servers take `_` for `-`, so both are one name.
fn folded(name: &str) -> String {
    name.to_ascii_lowercase().replace('_', "-")
}
