//! Bytes that nobody may print, in memory of their own, and wiped when dropped.
//!
//! Depends on nothing of ours. Guarantees: no `Clone`, `Display`, `Serialize` or `PartialEq`; `Debug` says
//! `[redacted]`; [`Secret::expose`] is the only door, and this file alone builds an `Authorization` value.

mod pages;

use std::fmt;

use bytes::Bytes;
use http::HeaderValue;

pub use pages::Pages;

/// A password, a user name, an organization before it is sent, a token.
pub struct Secret(Pages);

impl Secret {
    /// A copy of `bytes`, which the caller wipes if they are its own.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        let mut pages = Pages::default();
        pages.extend(bytes);
        Self(pages)
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
        let kept = match &*self.0 {
            [kept @ .., b'\r', b'\n'] | [kept @ .., b'\n'] => kept.len(),
            all => all.len(),
        };
        self.0.truncate(kept);
        self
    }

    /// Equality in time that does not depend on where the two differ.
    ///
    /// It does depend on their lengths, so who can measure it may learn how long the secret is. That leaves a value that
    /// was drawn at random as hard to guess as before: its length is usually known from how such values are made. The
    /// barrier keeps the compiler from ending the loop at the first difference.
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
        let mut line = Pages::with_capacity(SCHEME.len() + self.0.len());
        line.extend(SCHEME);
        line.extend(&self.0);
        sensitive(line)
    }

    /// The bytes as a header value that `Debug` doesn't print; wiped with its last clone. `None` when empty or not a
    /// legal value.
    #[must_use]
    pub fn header_value(&self) -> Option<HeaderValue> {
        if self.0.is_empty() {
            return None;
        }
        let mut copy = Pages::with_capacity(self.0.len());
        copy.extend(&self.0);
        sensitive(copy)
    }
}

fn sensitive(bytes: Pages) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_maybe_shared(Bytes::from_owner(bytes)).ok()?;
    value.set_sensitive(true);
    Some(value)
}

impl From<Pages> for Secret {
    fn from(bytes: Pages) -> Self {
        Self(bytes)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self::of(text.as_bytes())
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
