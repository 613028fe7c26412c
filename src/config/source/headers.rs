//! Fixed headers: which names a setting may use, and which values can stand in a header.
//!
//! Pure.

use http::{HeaderName, HeaderValue};
use serde_json::Value;

use super::{
    faults::{Diagnostic, ensure},
    toml::mismatch,
};
use crate::careportals::ORGANIZATION_HEADER;

/// Framing and hop-by-hop fields, which belong to a connection and not to a message.
const CONNECTION_HEADERS: &[&str] = &[
    "host",
    "connection",
    "content-length",
    "expect",
    "http2-settings",
    "keep-alive",
    "proxy",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];
/// Names that `headers` may not set, besides those of the connection.
pub(super) const REQUEST_HEADERS: &[&str] = &["authorization", ORGANIZATION_HEADER, "cookie", "x-request-id"];
/// Names that `require_header` may not have, besides those of the connection: its value is secret, and a request's id is logged.
pub(super) const REQUIRED_HEADERS: &[&str] = &["x-request-id"];
/// Names that `login_headers` may not set, besides those of the connection.
pub(super) const LOGIN_HEADERS: &[&str] = &[ORGANIZATION_HEADER, "content-type", "cookie"];

/// Reads a table of headers. `reserved`: names that the sidecar sets itself, besides those of the connection.
pub(super) fn headers(value: &Value, reserved: &[&str]) -> Result<Vec<(HeaderName, HeaderValue)>, Diagnostic> {
    let Value::Object(table) = value else { return Err(mismatch("a table of headers", value)) };
    let mut headers: Vec<(HeaderName, HeaderValue)> = Vec::new();
    for (name, value) in table {
        let name = header_name(name, reserved)?;
        let is_set = headers.iter().any(|(known, _)| folded(known.as_str()) == folded(name.as_str()));
        ensure!(!is_set, format!("`{name}` is set twice"));
        let Value::String(text) = value else { return Err(mismatch(&format!("text for `{name}`"), value)) };
        let value = HeaderValue::from_str(text).ok().filter(|value| !value.is_empty() && text.trim() == text);
        let wrong = || Diagnostic::new(format!("the value of `{name}` cannot stand in a header"));
        let mut value = value.ok_or_else(wrong)?;
        value.set_sensitive(true);
        headers.push((name, value));
    }
    Ok(headers)
}

/// Reads a header's name. `reserved` as for [`headers`].
pub(super) fn header_name(text: &str, reserved: &[&str]) -> Result<HeaderName, Diagnostic> {
    let name = HeaderName::from_bytes(text.as_bytes()).map_err(|_| Diagnostic::new("holds what is not a header's name"))?;
    let is_owned = CONNECTION_HEADERS.iter().chain(reserved).any(|owned| folded(owned) == folded(name.as_str()));
    ensure!(!is_owned, format!("`{name}` is the sidecar's own to set"));
    Ok(name)
}

/// Many servers take `_` for `-`, so both are one name.
fn folded(name: &str) -> String {
    name.to_ascii_lowercase().replace('_', "-")
}
