//! Which fields of a request are removed, and which ones need more than their name to decide. Pure.

use super::same_name;
use crate::careportals::ORGANIZATION_HEADER;

/// Fields of a request that never pass, whatever the settings say: those that the sidecar sets itself, those of one connection,
/// those that claim where a request came from, and those that change its meaning after it was judged. To add one: here,
/// `docs/forwarding.md`, a row of `tests/corpus/requests/forwarding.jsonl`, and `tests/fuzz/headers.rs`.
pub(super) const REMOVED_FROM_REQUESTS: [&str; 27] = [
    "authorization",
    ORGANIZATION_HEADER,
    "host",
    "origin",
    "connection",
    "expect",
    "http2-settings",
    "keep-alive",
    "proxy",
    "transfer-encoding",
    "upgrade",
    "x-request-id",
    // Some servers believe these about the client's address.
    "cf-connecting-ip",
    "fastly-client-ip",
    "fly-client-ip",
    "forwarded",
    "true-client-ip",
    "x-client-ip",
    "x-cluster-client-ip",
    "x-forwarded",
    "x-real-ip",
    // Some servers take the method from these.
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
    // Some servers take the host or the path from these.
    "x-envoy-original-path",
    "x-rewrite-url",
    "x-waws-unencoded-url",
];
/// How the names of further such fields begin.
pub(super) const REMOVED_FAMILIES: [&str; 3] = ["proxy-", "x-forwarded-", "x-original-forwarded-"];
/// What proxies write so with this before it is what a server may take for the request's own. Other such names are an app's.
pub(super) const ORIGINAL: &str = "x-original-";
pub(super) const ORIGINALS: [&str; 13] =
    ["url", "uri", "request-uri", "path", "query", "host", "port", "scheme", "proto", "prefix", "method", "ip", "remote-addr"];

/// What happens to a request's header, by its name alone.
pub(super) enum RequestField {
    Removed,
    ContentLength,
    Cookie,
    Te,
    Trailer,
    Other,
}

impl RequestField {
    /// The length and the first byte decide for most headers.
    pub(super) fn of(name: &[u8]) -> Self {
        let is = |ours: &str| same_name(name, ours.as_bytes());
        let begins = |ours: &&str| name.get(..ours.len()).is_some_and(|start| same_name(start, ours.as_bytes()));
        match name.first() {
            Some(b'c') if is("content-length") => return Self::ContentLength,
            Some(b'c') if is("cookie") || is("cookie2") => return Self::Cookie,
            Some(b't') if is("te") => return Self::Te,
            Some(b't') if is("trailer") => return Self::Trailer,
            _ => {}
        }
        let is_original =
            || begins(&ORIGINAL) && ORIGINALS.iter().any(|what| same_name(&name[ORIGINAL.len()..], what.as_bytes()));
        let removed = REMOVED_FROM_REQUESTS.into_iter().any(is) || REMOVED_FAMILIES.iter().any(begins) || is_original();
        if removed { Self::Removed } else { Self::Other }
    }
}
