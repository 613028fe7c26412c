//! Reads single values out of a request's head: query parameters and headers that may come once.
//!
//! Pure; it uses no other module.

use hyper::{HeaderMap, Request, StatusCode};

/// Replaces a header value that is not text: it equals no organization and no token.
const NOT_TEXT: &str = "\u{fffd}";

/// A header came more than once, though it may come once only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RepeatedHeader;

/// The value of a header that may come once.
///
/// # Errors
///
/// [`RepeatedHeader`] when there is more than one.
pub(crate) fn single_header<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, RepeatedHeader> {
    let mut values = headers.get_all(name).iter();
    let first = values.next();
    if values.next().is_some() {
        return Err(RepeatedHeader);
    }
    Ok(first.map(|value| value.to_str().unwrap_or(NOT_TEXT)))
}

/// Returns a query parameter, percent-decoded.
pub(crate) fn query<B>(request: &Request<B>, name: &str) -> Option<String> {
    let query = request.uri().query()?;
    let (_, value) = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, ""))).find(|(known, _)| *known == name)?;
    Some(decode(value))
}

/// A query parameter as a number; `default` when it is missing or not a number.
pub(crate) fn query_number<B>(request: &Request<B>, name: &str, default: u64) -> u64 {
    query(request, name).and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// The status that the query parameter `status` asks for; `default` when it is missing, not a status or not final.
pub(crate) fn query_status<B>(request: &Request<B>, default: StatusCode) -> StatusCode {
    query(request, "status")
        .and_then(|status| StatusCode::from_bytes(status.as_bytes()).ok())
        .filter(|status| !status.is_informational())
        .unwrap_or(default)
}

/// Decodes a segment of a path, in which `+` is a plus sign.
#[cfg(feature = "import")]
pub(crate) fn decode_path(segment: &str) -> String {
    decode(&segment.replace('+', "%2B"))
}

/// Decodes `%XX` and `+`; an incomplete `%` stays as it is.
fn decode(value: &str) -> String {
    let mut bytes = value.bytes();
    let mut plain = Vec::with_capacity(value.len());
    while let Some(byte) = bytes.next() {
        let mut rest = bytes.clone();
        let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
        match (byte, digit(rest.next()), digit(rest.next())) {
            (b'%', Some(high), Some(low)) => {
                plain.push(u8::try_from(high * 16 + low).unwrap_or_default());
                bytes = rest;
            }
            (b'+', ..) => plain.push(b' '),
            (byte, ..) => plain.push(byte),
        }
    }
    String::from_utf8_lossy(&plain).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn query_parameters_are_found_and_decoded() {
        let request = Request::get("/x?a=1&keyword=ana%40example.test+x%2&b").body(()).unwrap();
        assert_eq!(query(&request, "keyword").as_deref(), Some("ana@example.test x%2"));
        assert_eq!(query(&request, "b").as_deref(), Some(""));
        assert_eq!(query(&request, "c"), None);
        assert_eq!((query_number(&request, "a", 5), query_number(&request, "b", 5)), (1, 5));
    }
}
