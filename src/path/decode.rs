//! Decodes a path until nothing is left to decode, by any server's rules. Pure.

use std::borrow::Cow;

use super::hex;

/// How often a path is decoded. A path that is encoded more often is an attack, and each pass costs time.
pub(super) const MAX_PASSES: usize = 8;

/// Decodes until nothing changes. `None` when that takes more than [`MAX_PASSES`].
pub(super) fn decode(path: &[u8]) -> Option<Cow<'_, [u8]>> {
    let mut text = Cow::Borrowed(path);
    for _ in 0..MAX_PASSES {
        if text.iter().all(|&byte| byte != b'%' && byte.is_ascii()) {
            return Some(text);
        }
        let next = fold(&unescape(&text));
        if next == *text {
            return Some(text);
        }
        text = Cow::Owned(next);
    }
    None
}

/// Decodes `%41` and IIS's `%u0041`, and keeps malformed escapes.
pub(super) fn unescape(text: &[u8]) -> Vec<u8> {
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
/// Folds the case of other letters, as servers that ignore case do; that of ASCII is left to those who compare. Removes blanks and
/// controls, except for NUL.
pub(super) fn fold(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(&lead) = rest.first() {
        let (point, length) = scalar(rest).unwrap_or((u32::from(lead), 1));
        // Some servers drop what is no UTF-8.
        if (lead != 0 && !is_seen(lead)) || !is_character(point, length) {
            // It is removed before the next pass, since the bytes around it may form an escape.
            rest = &rest[length..];
            continue;
        }
        match ascii_for(point) {
            Some((bytes, count)) => out.extend_from_slice(&bytes[..count]),
            None if point > 0x7f => extend_with_folded(&mut out, &rest[..length]),
            None => out.push(lead),
        }
        rest = &rest[length..];
    }
    out
}

/// Adds one character, which is no ASCII. Some letters have two lower cases, as the sigma, but one upper case.
fn extend_with_folded(out: &mut Vec<u8>, sequence: &[u8]) {
    let characters = str::from_utf8(sequence).unwrap_or_default().chars();
    for character in characters.flat_map(char::to_uppercase).flat_map(char::to_lowercase) {
        out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
    }
}

/// Whether a sequence stands for a character, to some server: it is UTF-8, or overlong for ASCII.
fn is_character(point: u32, length: usize) -> bool {
    char::from_u32(point).is_some_and(|character| character.is_ascii() || character.len_utf8() == length)
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

/// What a character may become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Likeness {
    /// This ASCII byte, at first.
    Ascii(u8),
    /// Nothing: some server drops it.
    Nothing,
}

/// What `sequence`, one character in UTF-8, may become; `None` when it stays as it is.
pub(super) fn likeness(sequence: &[u8]) -> Option<Likeness> {
    let (point, length) = scalar(sequence).filter(|(_, length)| *length == sequence.len())?;
    if !is_character(point, length) {
        return Some(Likeness::Nothing);
    }
    ascii_for(point).map(|([byte, ..], count)| if count == 0 { Likeness::Nothing } else { Likeness::Ascii(byte) })
}

/// Blocks of compatibility forms: the first code point, and the letter or digit that each one becomes (NFKC, lower case); `_` where
/// that is none.
const COMPATIBILITY_FORMS: [(u32, &str); 17] = [
    (0xaa, "a_______23_____1o"),
    (0x2b0, "h_jr___wy"),
    (0x2e1, "lsx"),
    (0x1d2c, "a_b_de_ghijklmn_o_prtuwa___bde___g_km_o___ptu__v______iruv"),
    (0x2070, "0i__456789_____n0123456789______aeox_hklmnpst"),
    (0x2102, "c_______ghhhh_iill_n___pqrrr______z___z_k_bc_eef_mo____i___________ddeij"),
    (0x2160, "i___v____x__lcdmi___v____x__lcdm"),
    (0x2460, "123456789"),
    (0x2c7c, "jv"),
    (0xa7f2, "cfq"),
    (0x1d6a4, "ij"),
    (0x1d9c, "c"),
    (0x1da0, "f"),
    (0x1dbb, "z"),
    (0x107a5, "q"),
    (0x1f12b, "cr"),
    (0x1f130, "abcdefghijklmnopqrstuvwxyz"),
];

/// The ASCII bytes that a code point may become, and how many they are; `None` when it stays as it is.
fn ascii_for(point: u32) -> Option<([u8; 3], usize)> {
    let from = |start: u8, offset: u32| u8::try_from(offset).map_or(b'?', |offset| start + offset);
    let byte = match point {
        // Overlong UTF-8.
        0..=0x7f => u8::try_from(point).ok()?,
        // Full-width forms.
        0xff01..=0xff5e => u8::try_from(point - 0xfee0).ok()?,
        // Long s and the Kelvin sign change their script with their case, and so do the dotted and the dotless i.
        0x17f => b's',
        0x212a => b'k',
        0x130 | 0x131 => b'i',
        // Circled and mathematical letters, and mathematical and segmented digits. 0x1d400 is a multiple of 26.
        0x24b6..=0x24e9 => from(b'a', (point - 0x24b6) % 26),
        0x1d400..=0x1d6a3 => from(b'a', point % 26),
        0x1d7ce..=0x1d7ff => from(b'0', (point - 0x1d7ce) % 10),
        0x1fbf0..=0x1fbf9 => from(b'0', point - 0x1fbf0),
        0x24ea => b'0',
        0x2024 | 0x3002 | 0xfe52 | 0xff61 => b'.',
        0x2044 | 0x2215 | 0x2571 | 0x27cb | 0x29f8 | 0x2f03 => b'/',
        0xa5 | 0x20a9 | 0x2216 | 0x29f5 | 0xfe68 => b'\\',
        0x37e | 0xfe54 => b';',
        0xfe6a => b'%',
        0xa0 | 0x1680 | 0x180e | 0x2000..=0x200a | 0x2028 | 0x2029 | 0x202f | 0x205f | 0x3000 => b' ',
        _ => return several_for(point).or_else(|| compatible(point)),
    };
    Some(([byte, 0, 0], 1))
}

/// What becomes of a code point that does not become one byte.
const fn several_for(point: u32) -> Option<([u8; 3], usize)> {
    Some(match point {
        0x2025 | 0xfe30 => (*b"..\0", 2),
        0x2026 | 0xfe19 => (*b"...", 3),
        // Ligatures.
        0xfb00 => (*b"ff\0", 2),
        0xfb01 => (*b"fi\0", 2),
        0xfb02 => (*b"fl\0", 2),
        0xfb03 => (*b"ffi", 3),
        0xfb04 => (*b"ffl", 3),
        0xfb05 | 0xfb06 => (*b"st\0", 2),
        // In upper case it is two letters.
        0xdf | 0x1e9e => (*b"ss\0", 2),
        // Characters that some servers drop: C1 controls, the dot that a dotted i leaves in lower case, all that Unicode calls
        // ignorable (soft hyphen, joiners, fillers, directions, variations, tags, byte order mark), and its other format characters
        // (category Cf).
        0x80..=0x9f
        | 0xad
        | 0x307
        | 0x34f
        | 0x600..=0x605
        | 0x61c
        | 0x6dd
        | 0x70f
        | 0x890..=0x891
        | 0x8e2
        | 0x115f
        | 0x1160
        | 0x17b4
        | 0x17b5
        | 0x180b..=0x180f
        | 0x200b..=0x200f
        | 0x202a..=0x202e
        | 0x2060..=0x206f
        | 0x3164
        | 0xfe00..=0xfe0f
        | 0xfeff
        | 0xffa0
        | 0xfff0..=0xfffb
        | 0x110bd
        | 0x110cd
        | 0x13430..=0x1343f
        | 0x1bca0..=0x1bca3
        | 0x1d173..=0x1d17a
        | 0xe0000..=0xe0fff => (*b" \0\0", 0),
        _ => return None,
    })
}

/// The letter or digit of a compatibility form.
fn compatible(point: u32) -> Option<([u8; 3], usize)> {
    let mut forms = COMPATIBILITY_FORMS.iter();
    let byte = forms.find_map(|(first, forms)| forms.as_bytes().get(usize::try_from(point.checked_sub(*first)?).ok()?))?;
    (*byte != b'_').then_some(([*byte, 0, 0], 1))
}

/// Whether every server keeps the byte; some drop controls and blanks.
pub(super) fn is_seen(byte: u8) -> bool {
    byte > b' ' && byte != 0x7f
}
