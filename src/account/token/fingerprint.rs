//! The fingerprint of a token, by which an echo of it is found without the token.
//!
//! Pure. A request keeps the fingerprint until its answer has ended, and not the token: a long upload or an event stream must
//! not keep in memory a token that was replaced or withdrawn. Guarantees: it holds the token's length and four hashes of 64
//! bits, from which nobody computes a token; an echo is always found; that another text has such a hash is as good as
//! impossible, and would only hide that text.

/// The characters of Base64 (RFC 4648, 4). A search takes those of the URL-safe alphabet for the same ones.
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
/// Base64 of fewer characters is not searched for: ordinary texts would hold it by chance.
const ENCODED_MIN: usize = 12;
/// The base of the hash, odd. Any serves: nobody gains from a text that is hidden though it holds no token.
const BASE: u64 = 0x9e37_79b9_7f4a_7c15;

/// What is kept of a token that is forgotten: how it would look in a header, as hashes.
#[derive(Debug, PartialEq, Eq)]
pub struct Fingerprint {
    /// The token as it is.
    plain: Search<1>,
    /// The token in Base64, where it stands 0, 1 and 2 bytes after a group of three.
    encoded: Search<3>,
}

impl Fingerprint {
    /// The fingerprint of `token`. It makes no copy of the token.
    #[must_use]
    pub fn of(token: &[u8]) -> Self {
        let plain = Search::new(token.len(), [hash(token.iter().copied())]);
        // Of each of the three, the characters that depend on the token alone; as many of each, so that one search finds all.
        let spans = [0, 1, 2].map(|before| ((before * 8usize).div_ceil(6), (before + token.len()) * 8 / 6));
        let length = spans.iter().map(|(from, to)| to.saturating_sub(*from)).min().unwrap_or_default();
        let length = if length < ENCODED_MIN { 0 } else { length };
        let of = |before: usize| hash((spans[before].0..).take(length).map(move |at| encoded(token, before, at)));
        Self { plain, encoded: Search::new(length, [0, 1, 2].map(of)) }
    }

    /// Whether `text` holds the token: as it is, or in Base64, standard or URL-safe, padded or not, alone or as the part of a
    /// longer text. Most texts are shorter than the token, and cost two comparisons. It allocates nothing.
    #[must_use]
    pub fn is_in(&self, text: &[u8]) -> bool {
        self.plain.finds(text) || self.encoded.finds(text)
    }
}

/// The character `at` of the Base64 of a text that holds `token` after `before` other bytes, as far as it depends on the token.
fn encoded(token: &[u8], before: usize, at: usize) -> u8 {
    let byte = |index: usize| index.checked_sub(before).and_then(|index| token.get(index)).map_or(0, |byte| u16::from(*byte));
    let (first, offset) = (at * 6 / 8, at * 6 % 8);
    let two = byte(first) << 8 | byte(first + 1);
    ALPHABET[usize::from(two >> (10 - offset) & 63)]
}

/// Texts of one length, searched for by their hashes (Rabin and Karp).
#[derive(Debug, PartialEq, Eq)]
struct Search<const TEXTS: usize> {
    length: usize,
    hashes: [u64; TEXTS],
    /// The weight of the byte that leaves the window: the base to the power of `length - 1`.
    first_weight: u64,
}

impl<const TEXTS: usize> Search<TEXTS> {
    fn new(length: usize, hashes: [u64; TEXTS]) -> Self {
        let first_weight = (1..length).fold(1, |weight: u64, _| weight.wrapping_mul(BASE));
        Self { length, hashes, first_weight }
    }

    /// Whether some part of `text` is one of the texts. Empty ones are in none.
    fn finds(&self, text: &[u8]) -> bool {
        if text.len() < self.length || self.length == 0 {
            return false;
        }
        let (window, rest) = text.split_at(self.length);
        let mut hash = hash(window.iter().copied());
        for (leaving, entering) in text.iter().zip(rest) {
            if self.hashes.contains(&hash) {
                return true;
            }
            hash = push(hash.wrapping_sub(digit(*leaving).wrapping_mul(self.first_weight)), *entering);
        }
        self.hashes.contains(&hash)
    }
}

fn hash(text: impl Iterator<Item = u8>) -> u64 {
    text.fold(0, push)
}

fn push(hash: u64, byte: u8) -> u64 {
    hash.wrapping_mul(BASE).wrapping_add(digit(byte))
}

/// A byte as a digit. The characters in which the two alphabets of Base64 differ are one. A zero does no harm: only texts of one
/// length are compared.
fn digit(byte: u8) -> u64 {
    u64::from(match byte {
        b'-' => b'+',
        b'_' => b'/',
        other => other,
    })
}

#[cfg(test)]
mod tests {
    use base64::{
        Engine as _,
        engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD},
    };
    use proptest::prelude::*;

    use super::*;

    const TOKEN: &str = "eyJhbGciOiJSUzI1NiJ9.eyJleHAiOjF9.c2ln-_x";

    #[test]
    fn a_token_is_found_as_it_is_and_in_base64_and_a_part_of_it_is_not() {
        let fingerprint = Fingerprint::of(TOKEN.as_bytes());
        let found = |text: &str| fingerprint.is_in(text.as_bytes());
        assert!(
            found(TOKEN) && found(&format!("Bearer {TOKEN}")) && found(&format!("{TOKEN}; b")) && found(&format!("a{TOKEN}b"))
        );
        for before in ["", "Bearer ", "Basic", "ab", "user:"] {
            for after in ["", "x", "xy"] {
                let text = format!("{before}{TOKEN}{after}");
                for engine in [STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD] {
                    assert!(found(&format!("/?state={}&a", engine.encode(&text))), "{before:?} {after:?}");
                }
            }
        }
        for part in [&TOKEN[1..], &TOKEN[..TOKEN.len() - 1]] {
            assert!(!found(part) && !found(&format!("xx{part}")) && !found(&STANDARD.encode(part)));
        }
        assert!(!found("") && !found(&"x".repeat(4096)));
        assert!(!Fingerprint::of(b"").is_in(b"") && !Fingerprint::of(b"").is_in(b"text"));
    }

    #[test]
    fn base64_of_a_short_token_is_not_searched_for() {
        // Of ten bytes at least twelve characters depend on them alone, wherever they stand; of nine fewer.
        for (token, is_searched_for) in [("s3cret-9.", false), ("s3cret-10.", true)] {
            let fingerprint = Fingerprint::of(token.as_bytes());
            assert!(fingerprint.is_in(token.as_bytes()));
            for before in ["", "a", "ab"] {
                let text = STANDARD.encode(format!("{before}{token}"));
                assert_eq!(fingerprint.is_in(text.as_bytes()), is_searched_for, "{before}{token}");
            }
        }
    }

    #[test]
    fn both_alphabets_are_one() {
        // It holds characters in which they differ.
        let token = "?>~?>~?>~~~~???";
        assert!(STANDARD.encode(token).contains(['+', '/']));
        let fingerprint = Fingerprint::of(token.as_bytes());
        assert!(fingerprint.is_in(STANDARD.encode(token).as_bytes()) && fingerprint.is_in(URL_SAFE.encode(token).as_bytes()));
    }

    proptest! {
        #[test]
        fn a_token_is_found_in_any_text_that_holds_it_and_in_no_other(
            token in "[A-Za-z0-9._~-]{11,80}", before in "[ -~]{0,40}", after in "[ -~]{0,40}",
        ) {
            let fingerprint = Fingerprint::of(token.as_bytes());
            let text = format!("{before}{token}{after}");
            prop_assert!(fingerprint.is_in(text.as_bytes()));
            prop_assert!(fingerprint.is_in(URL_SAFE_NO_PAD.encode(&text).as_bytes()));
            let without = format!("{before}{after}");
            prop_assert_eq!(fingerprint.is_in(without.as_bytes()), without.contains(&token));
        }
    }
}
