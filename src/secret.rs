//! Bytes that nobody may print, and that are wiped when dropped.
//!
//! Depends on nothing of ours. Guarantees: no `Clone`, `Display`, `Serialize` or `PartialEq`; `Debug` says
//! `[redacted]`; [`Secret::expose`] is the only door, and this file alone builds an `Authorization` value.

use std::fmt;

use bytes::Bytes;
use http::HeaderValue;
use zeroize::Zeroizing;

/// A password, a user name, an organization before it is sent, a token.
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// Takes the buffer over; it is wiped when the secret is dropped.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The bytes. Whoever calls this must not copy them into anything that is not wiped, printed or kept.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// The bytes as text; `None` when they are not UTF-8.
    #[must_use]
    pub fn expose_str(&self) -> Option<&str> {
        std::str::from_utf8(&self.0).ok()
    }

    /// Whether there is nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Drops one trailing newline (`\n` or `\r\n`), as files written by hand end with one.
    #[must_use]
    pub fn trim_newline(mut self) -> Self {
        if self.0.last() == Some(&b'\n') {
            self.0.pop();
            if self.0.last() == Some(&b'\r') {
                self.0.pop();
            }
        }
        self
    }

    /// Equality in time that does not depend on where the two differ (only on their lengths).
    #[must_use]
    pub fn matches(&self, other: &[u8]) -> bool {
        let differing = self.0.iter().zip(other).fold(0, |bits, (a, b)| bits | (a ^ b));
        self.0.len() == other.len() && std::hint::black_box(differing) == 0
    }

    /// `Bearer <token>` as one shared allocation: clones share it, and the last one to go wipes it.
    ///
    /// `None` when the bytes are empty or can't stand in a header as one word (RFC 6750, `b64token`, read generously:
    /// visible ASCII without spaces).
    #[must_use]
    pub fn authorization(&self) -> Option<HeaderValue> {
        if self.0.is_empty() || !self.0.iter().all(u8::is_ascii_graphic) {
            return None;
        }
        let mut line = Zeroizing::new(Vec::with_capacity(SCHEME.len() + self.0.len()));
        line.extend_from_slice(SCHEME);
        line.extend_from_slice(&self.0);
        sensitive(line)
    }

    /// The bytes as a header value that `Debug` doesn't print; wiped with its last clone. `None` when empty or not a
    /// legal value.
    #[must_use]
    pub fn header_value(&self) -> Option<HeaderValue> {
        if self.0.is_empty() {
            return None;
        }
        sensitive(Zeroizing::new(self.0.to_vec()))
    }
}

fn sensitive(bytes: Zeroizing<Vec<u8>>) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_maybe_shared(Bytes::from_owner(Wiped(bytes))).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// An owner for `Bytes`: `Zeroizing` itself has no `AsRef<[u8]>`.
struct Wiped(Zeroizing<Vec<u8>>);

impl AsRef<[u8]> for Wiped {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// A buffer that leaves as a body and is wiped when the last reference to it goes.
#[must_use]
pub fn wiped_bytes(buffer: Zeroizing<Vec<u8>>) -> Bytes {
    Bytes::from_owner(Wiped(buffer))
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self::new(text.as_bytes().to_vec())
    }
}

/// RFC 6750, 2.1.
const SCHEME: &[u8] = b"Bearer ";

/// The token in an `Authorization` value that this module made.
#[must_use]
pub fn token_of(authorization: &HeaderValue) -> Option<&[u8]> {
    authorization.as_bytes().strip_prefix(SCHEME)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_never_shows_a_secret() {
        let secret = Secret::from("hunter2");
        assert_eq!(format!("{secret:?}"), "[redacted]");
        let value = secret.authorization().unwrap();
        assert_eq!(format!("{value:?}"), "Sensitive");
        assert_eq!(value.as_bytes(), b"Bearer hunter2");
    }

    #[test]
    fn one_newline_is_trimmed_and_only_one() {
        for (input, expected) in [("a\n", "a"), ("a\r\n", "a"), ("a\n\n", "a\n"), ("a", "a"), ("\n", "")] {
            assert_eq!(Secret::from(input).trim_newline().expose(), expected.as_bytes());
        }
    }

    #[test]
    fn what_cannot_be_a_header_is_no_authorization() {
        for bad in ["", "a b", "a\r\nx: y", "ä", "\u{7f}"] {
            assert!(Secret::from(bad).authorization().is_none(), "{bad:?}");
        }
    }

    #[test]
    fn matching_compares_every_byte() {
        let secret = Secret::from("abc");
        assert!(secret.matches(b"abc"));
        for other in [&b"abd"[..], b"ab", b"abcd", b""] {
            assert!(!secret.matches(other));
        }
    }
}
