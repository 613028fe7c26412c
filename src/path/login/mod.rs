//! Finds paths that the most lenient server could take for a log-in.
//!
//! Pure: no clock, no I/O. Guarantees: a path that decodes to a log-in path, by any server's rules and any number of passes, is
//! found; in doubt the answer is yes.

use std::borrow::Cow;

use super::{hex, without_query};

/// How many segments of a log-in path are compared: states have to fit into a word. Every path that begins with those segments
/// of a longer log-in path is refused.
const MAX_SEGMENTS: usize = 63;
/// How often a path is decoded. A path that is encoded more often is an attack, and each pass costs time.
const MAX_PASSES: usize = 8;

/// The paths that answer with a token, which no client may reach.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct LoginPaths(Vec<LoginPath>);

impl LoginPaths {
    /// Collects paths as the upstream sees them; a query is cut off.
    pub fn new(paths: impl IntoIterator<Item = impl AsRef<str>>) -> Self {
        let mut known: Vec<_> = paths.into_iter().map(|path| LoginPath::new(path.as_ref())).collect();
        known.sort_unstable();
        known.dedup();
        Self(known)
    }

    /// Whether a server could take `final_path` for a log-in path, however it decodes and normalizes.
    ///
    /// `final_path` is the upstream's base path and the request's path. The whole path counts: `/auth/forgot` is not
    /// `/auth`. In doubt the answer is yes.
    #[must_use]
    pub fn contains(&self, final_path: &str) -> bool {
        if is_plain(final_path) {
            let path = final_path.strip_suffix('/').unwrap_or(final_path);
            return self.0.iter().any(|known| known.joined.eq_ignore_ascii_case(path.as_bytes()));
        }
        let Some(decoded) = decode(without_query(final_path).as_bytes()) else {
            // A path is encoded that often only to hide something.
            return true;
        };
        // A server in C stops at the first NUL.
        let until_nul = decoded.iter().position(|&byte| byte == 0).map(|end| &decoded[..end]);
        self.0.iter().any(|known| known.is_reached_by(&decoded) || until_nul.is_some_and(|shorter| known.is_reached_by(shorter)))
    }
}

/// Whether every byte means itself to every server, and no segment but the last is empty.
fn is_plain(path: &str) -> bool {
    let special = |byte: u8| byte <= b' ' || byte >= 0x7f || matches!(byte, b'%' | b';' | b'\\' | b'.' | b'?' | b'#');
    let mut previous = 0;
    path.bytes().all(|byte| {
        let doubled = byte == b'/' && previous == b'/';
        previous = byte;
        !doubled && !special(byte)
    })
}

/// One log-in path: decoded, in lower case, without parameters, dots and empty segments.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct LoginPath {
    /// The segments, each after a slash, to compare plain paths with.
    joined: Vec<u8>,
    segments: Vec<Vec<u8>>,
}

impl LoginPath {
    fn new(path: &str) -> Self {
        let path = without_query(path).as_bytes();
        let decoded = decode(path).unwrap_or(Cow::Borrowed(path));
        let mut segments: Vec<Vec<u8>> = Vec::new();
        for raw in decoded.split(|&byte| is_separator(byte)) {
            let name = raw.iter().filter(|&&byte| is_seen(byte)).take_while(|&&byte| !ends_name(byte));
            let mut name: Vec<u8> = name.map(u8::to_ascii_lowercase).collect();
            let dots = name.iter().rev().take_while(|&&byte| byte == b'.').count();
            if dots < name.len() {
                name.truncate(name.len() - dots);
                segments.push(name);
            } else if dots > 1 {
                segments.pop();
            }
        }
        let joined = segments.iter().flat_map(|segment| [b"/", segment.as_slice()]).flatten().copied().collect();
        segments.truncate(MAX_SEGMENTS);
        Self { joined, segments }
    }

    /// Follows all readings of `decoded` at once: bit `i` of a state is set when some reading has matched our first `i`
    /// segments.
    ///
    /// Servers differ in what `..` removes (an empty segment? one between backslashes?), and in where parameters end. So `..`
    /// may lead back to every state that a reading has had, parameters may end at any later slash, and the path may end at `;`,
    /// `?` or `#`.
    fn is_reached_by(&self, decoded: &[u8]) -> bool {
        let goal = 1_u64 << self.segments.len();
        let mut here = 1_u64;
        let mut ever = here;
        let mut after_parameters = 0;
        for raw in decoded.split(|&byte| is_separator(byte)) {
            let name = raw.split(|&byte| ends_name(byte)).next().unwrap_or_default();
            here = self.step(here | after_parameters, ever, name);
            ever |= here;
            if name.len() < raw.len() {
                if here & goal != 0 {
                    return true;
                }
                after_parameters |= here;
            }
        }
        let end = if self.segments.len() == MAX_SEGMENTS { ever } else { here };
        end & goal != 0
    }

    fn step(&self, states: u64, ever: u64, name: &[u8]) -> u64 {
        let mut seen = name.iter().filter(|&&byte| is_seen(byte));
        if seen.clone().all(|&byte| byte == b'.') {
            return if seen.nth(1).is_some() { ever } else { states };
        }
        let steps =
            self.segments.iter().enumerate().filter(|(at, segment)| states & (1 << at) != 0 && is_same_name(segment, name));
        steps.fold(0, |next, (at, _)| next | 1 << (at + 1))
    }
}

fn is_same_name(known: &[u8], name: &[u8]) -> bool {
    let mut seen = name.iter().filter(|&&byte| is_seen(byte));
    known.iter().all(|byte| seen.next().is_some_and(|other| byte.eq_ignore_ascii_case(other)))
        // Windows drops dots at the end of a name.
        && seen.all(|&byte| byte == b'.')
}

fn is_separator(byte: u8) -> bool {
    matches!(byte, b'/' | b'\\')
}

/// Whether parameters begin here, or a query that was hidden by encoding.
fn ends_name(byte: u8) -> bool {
    matches!(byte, b';' | b'?' | b'#')
}

/// Whether every server keeps the byte; some drop controls and blanks.
fn is_seen(byte: u8) -> bool {
    byte > b' ' && byte != 0x7f
}

/// Decodes until nothing changes. `None` when that takes more than [`MAX_PASSES`].
fn decode(path: &[u8]) -> Option<Cow<'_, [u8]>> {
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
fn unescape(text: &[u8]) -> Vec<u8> {
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
fn fold(text: &[u8]) -> Vec<u8> {
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

#[cfg(test)]
mod tests;
