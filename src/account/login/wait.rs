//! Reads from the fields of an answer what the server's clock shows and how long we are to wait. Pure.

use std::time::{Duration, SystemTime};

use http::{HeaderMap, header};

/// Reads the server's clock from `Date`.
pub(super) fn date(headers: &HeaderMap) -> Option<SystemTime> {
    httpdate::parse_http_date(headers.get(header::DATE)?.to_str().ok()?).ok()
}

/// Reads `Retry-After`: seconds, or a date by the server's clock. `None` for anything else, and for no wait at all.
pub(super) fn retry_after(headers: &HeaderMap, server_now: SystemTime) -> Option<Duration> {
    let asked = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = if !asked.is_empty() && asked.bytes().all(|byte| byte.is_ascii_digit()) {
        // A number that is too large for us still asks for a long wait.
        Duration::from_secs(asked.parse().unwrap_or(u64::MAX))
    } else {
        httpdate::parse_http_date(asked).ok()?.duration_since(server_now).ok()?
    };
    (!wait.is_zero()).then_some(wait)
}

/// The wait that an answer with these fields asks for, and the server's clock, for the fuzz targets.
#[must_use]
pub fn read_wait(headers: &HeaderMap, server_now: SystemTime) -> (Option<Duration>, Option<SystemTime>) {
    (retry_after(headers, server_now), date(headers))
}
