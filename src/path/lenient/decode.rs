//! Decodes a path until nothing is left to decode, by any server's rules. Pure.

use std::borrow::Cow;

use crate::path::hex;

/// How often a path is decoded. A path that is encoded more often is an attack, and each pass costs time.
pub(in crate::path) const MAX_PASSES: usize = 8;

/// Decodes until nothing changes. `None` when that takes more than [`MAX_PASSES`].
pub(in crate::path) fn decode(path: &[u8]) -> Option<Cow<'_, [u8]>> {
    let mut text = Cow::Borrowed(path);
    for _ in 0..MAX_PASSES {
        if text.iter().all(|&byte| byte != b'%' && byte.is_ascii()) {
            return Some(text);
        }
        let next = fold(&unescape(&text));
        // Every replacement is shorter than what it replaces.
        if next.len() == text.len() {
            return Some(text);
        }
        text = Cow::Owned(next);
    }
    None
}

/// Decodes `%41` and IIS's `%u0041`, and keeps malformed escapes.
pub(in crate::path) fn unescape(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'%' {
            out.push(byte);
        } else if let Some(decoded) = after.get(..2).and_then(hex) {
            out.push(u8::try_from(decoded).unwrap_or(byte));
            rest = &after[2..];
        } else if let Some(decoded) = after.strip_prefix(b"u").or(after.strip_prefix(b"U")).and_then(unicode) {
            out.extend_from_slice(decoded.encode_utf8(&mut [0; 4]).as_bytes());
            rest = &after[5..];
        } else {
            out.push(byte);
        }
    }
    out
}

fn unicode(digits: &[u8]) -> Option<char> {
    digits.get(..4).and_then(hex).and_then(char::from_u32)
}

/// Replaces overlong UTF-8, and characters that compatibility mappings and "best fit" conversions turn into ASCII, with ASCII.
/// Removes blanks and controls, except for NUL.
pub(in crate::path) fn fold(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(&lead) = rest.first() {
        if lead != 0 && !is_seen(lead) {
            // It is removed before the next pass, since the bytes around it may form an escape.
            rest = &rest[1..];
            continue;
        }
        let (point, length) = scalar(rest).unwrap_or((u32::from(lead), 1));
        match ascii_for(point) {
            Some((byte, times)) if length > 1 => out.extend(std::iter::repeat_n(byte, times)),
            _ => out.extend_from_slice(&rest[..length]),
        }
        rest = &rest[length..];
    }
    out
}

/// Reads a sequence that has the form of UTF-8, legal or not: the code point and the length.
fn scalar(text: &[u8]) -> Option<(u32, usize)> {
    let lead = *text.first()?;
    let length = match lead {
        0xc0..=0xdf => 2,
        0xe0..=0xef => 3,
        0xf0..=0xf7 => 4,
        0xf8..=0xfb => 5,
        0xfc..=0xfd => 6,
        _ => return None,
    };
    let tail = text.get(1..length)?;
    let start = u32::from(lead) & (0x7f >> length);
    let point =
        tail.iter().try_fold(start, |point, &byte| (byte & 0xc0 == 0x80).then_some(point << 6 | u32::from(byte & 0x3f)))?;
    Some((point, length))
}

/// The ASCII byte that `sequence`, one character in UTF-8, may become at first; `None` when it stays as it is.
pub(in crate::path) fn ascii_like(sequence: &[u8]) -> Option<u8> {
    let (point, length) = scalar(sequence)?;
    if length == sequence.len() { ascii_for(point).map(|(byte, _)| byte) } else { None }
}

/// The ASCII byte that a code point may become, and how many of it; `None` when it stays as it is.
fn ascii_for(point: u32) -> Option<(u8, usize)> {
    let letter = |offset: u32| u8::try_from(offset % 26).map_or(b'?', |offset| b'a' + offset);
    let (byte, times) = match point {
        // Overlong UTF-8.
        0..=0x7f => (u8::try_from(point).ok()?, 1),
        // Full-width forms.
        0xff01..=0xff5e => (u8::try_from(point - 0xfee0).ok()?, 1),
        // Long s and the Kelvin sign change their script with their case.
        0x17f => (b's', 1),
        0x212a => (b'k', 1),
        // Circled letters, mathematical letters.
        0x24b6..=0x24e9 => (letter(point - 0x24b6), 1),
        0x1d400..=0x1d6a3 => (letter(point - 0x1d400), 1),
        // Dots; two and three of them in one character.
        0x2024 | 0x3002 | 0xfe52 | 0xff61 => (b'.', 1),
        0x2025 => (b'.', 2),
        0x2026 => (b'.', 3),
        0x2044 | 0x2215 | 0x29f8 => (b'/', 1),
        0x2216 | 0x29f5 | 0xfe68 => (b'\\', 1),
        0x37e | 0xfe54 => (b';', 1),
        0xfe6a => (b'%', 1),
        // Blanks, and characters without width: soft hyphen, joiners, byte order mark.
        0xa0 | 0x2000..=0x200a | 0x3000 => (b' ', 1),
        0xad | 0x200b..=0x200f | 0x2060 | 0xfeff => (b' ', 0),
        _ => return None,
    };
    Some((byte, times))
}

/// Whether every server keeps the byte; some drop controls and blanks.
pub(super) fn is_seen(byte: u8) -> bool {
    byte > b' ' && byte != 0x7f
}
