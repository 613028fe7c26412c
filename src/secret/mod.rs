//! Secrets: bytes in memory of their own that are never printed, and wiped on drop.
//!
//! Guarantees: a [`Secret`] has no `Clone`, `Display`, `Serialize` or `PartialEq`, and its `Debug` shows `[redacted]`; only
//! [`Secret::expose`] and [`Secret::expose_str`] give the bytes; no other module builds an `Authorization` value.

mod pages;

use std::fmt;

use bytes::Bytes;
use http::HeaderValue;

pub use pages::Pages;

/// The scheme of an `Authorization` value (RFC 6750, 2.1).
const SCHEME: &[u8] = b"Bearer ";

/// UTF-8's byte order mark, which is no part of a text.
pub const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// A password, a user name, an organization before it is sent, or a token.
pub struct Secret(Pages);

impl Secret {
    /// Copies `bytes`. The caller wipes its own copy, if it has one.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        let mut pages = Pages::default();
        pages.extend(bytes);
        Self(pages)
    }

    /// The bytes. The caller must not print them, nor copy them into memory that is not wiped.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// The bytes as text; `None` when they are not UTF-8.
    #[must_use]
    pub fn expose_str(&self) -> Option<&str> {
        std::str::from_utf8(&self.0).ok()
    }

    /// Whether it has no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Drops one trailing newline (`\n` or `\r\n`), since a file written by hand ends with one, and a byte order mark at the start,
    /// which some editors write.
    #[must_use]
    pub fn trim_ends(mut self) -> Self {
        let kept = match &*self.0 {
            [kept @ .., b'\r', b'\n'] | [kept @ .., b'\n'] => kept.len(),
            all => all.len(),
        };
        self.0.truncate(kept);
        match self.0.strip_prefix(BYTE_ORDER_MARK) {
            // The copy with the mark is wiped when it is dropped.
            Some(rest) => Self::of(rest),
            None => self,
        }
    }

    /// Compares in a time that does not depend on where the two differ.
    ///
    /// The time does depend on the lengths, so a caller that measures it may learn the secret's length. A value that was drawn
    /// at random stays as hard to guess, since the length of such values is usually known. The barrier keeps the compiler from
    /// ending the loop at the first difference.
    #[must_use]
    pub fn matches(&self, other: &[u8]) -> bool {
        let differing = self.0.iter().zip(other).fold(0, |bits, (a, b)| bits | (a ^ b));
        self.0.len() == other.len() && std::hint::black_box(differing) == 0
    }

    /// Makes the header value `Bearer <token>`. Its clones share one allocation, which is wiped with the last clone.
    ///
    /// `None` when the bytes are empty or are not visible ASCII without spaces (a generous reading of `b64token`, RFC 6750).
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

    /// Makes a header value that `Debug` does not print, and that is wiped with its last clone.
    ///
    /// # Errors
    ///
    /// A header can't carry the bytes as they are: HTTP removes blanks at either end. The text says what is in the way.
    pub fn header_value(&self) -> Result<HeaderValue, &'static str> {
        match &self.0[..] {
            [] => return Err("no value"),
            [b' ' | b'\t', ..] => return Err("leading blank"),
            [.., b' ' | b'\t'] => return Err("trailing blank"),
            value if value.iter().any(|byte| matches!(byte, b'\r' | b'\n')) => return Err("line break"),
            _ => {}
        }
        let mut copy = Pages::with_capacity(self.0.len());
        copy.extend(&self.0);
        sensitive(copy).ok_or("control character")
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
            assert_eq!(Secret::from(input).trim_ends().expose(), expected.as_bytes());
        }
    }

    #[test]
    fn a_byte_order_mark_at_the_start_is_trimmed_and_only_one() {
        let cases = [
            ("\u{feff}a\n", "a"),
            ("\u{feff}a", "a"),
            ("\u{feff}", ""),
            ("\u{feff}\n", ""),
            ("\u{feff}\u{feff}a", "\u{feff}a"),
            ("a\u{feff}", "a\u{feff}"),
        ];
        for (input, expected) in cases {
            assert_eq!(Secret::from(input).trim_ends().expose(), expected.as_bytes(), "{input:?}");
        }
    }

    #[test]
    fn bytes_that_no_header_may_hold_are_no_authorization() {
        for bad in ["", "a b", "a\r\nx: y", "ä", "\u{7f}"] {
            assert!(Secret::from(bad).authorization().is_none(), "{bad:?}");
        }
    }

    #[test]
    fn a_header_value_is_the_bytes_or_says_what_is_in_the_way() {
        let value = Secret::from("a b\tc").header_value().unwrap();
        assert_eq!((value.as_bytes(), value.is_sensitive()), (&b"a b\tc"[..], true));
        for (text, fault) in [
            ("", "no value"),
            (" a", "leading blank"),
            ("\ta", "leading blank"),
            ("a ", "trailing blank"),
            ("a\t", "trailing blank"),
            ("a\rb", "line break"),
            ("a\nb", "line break"),
            ("a\0b", "control character"),
        ] {
            assert_eq!(Secret::from(text).header_value().unwrap_err(), fault, "{text:?}");
        }
    }

    #[test]
    fn matching_compares_every_byte() {
        let secret = Secret::from("abc");
        assert!(secret.matches(b"abc"));
        for other in [&b"abd"[..], b"bac", b"ab", b"abcd", b""] {
            assert!(!secret.matches(other));
        }
    }
}
