//! Request paths: whether they are canonical, which rule they match, whether they reach a log-in, what a log may show of them.
//!
//! Pure: no clock, no I/O. There are two readings of a path. `allow` takes it as it is sent, after [`is_canonical`] has made sure
//! that it has only one meaning; prefixes and masking take it so in any case. [`LoginPaths`] and `deny` take it as the most
//! lenient server might: what must not be reached is reached by none of its spellings. Guarantees: no input takes longer than its
//! length times a small constant.

mod cover;
mod decode;
mod difference;
mod lenient;
mod proposal;
mod rule;
mod rule_list;
mod symbols;
mod wildcard;

pub use difference::{Difference, RuleSet};
pub use lenient::LoginPaths;
pub use proposal::ProposedRules;
pub use rule::Rule;
pub use rule_list::RuleList;

use self::decode::Likeness;
use crate::careportals;

/// How many segments of a path a log shows, so that a line stays short.
const MAX_SEGMENTS_SHOWN: usize = 32;

/// Whether a path, as it is sent, has only one meaning, so that a decision about it holds for every server.
///
/// A path is not canonical if it has dot segments, `//`, `\` or `;`, segments that end in a dot or a blank, escapes of unreserved
/// characters, of separators, of controls or of escapes, or malformed escapes, or escapes that spell overlong UTF-8 or a
/// look-alike of a separator, or characters that belong into an escape or a query. The digits of an escape may be written in
/// either case.
#[must_use]
pub fn is_canonical(path: &str) -> bool {
    let Some(relative) = path.strip_prefix('/') else { return false };
    let mut segments = relative.split('/').peekable();
    while let Some(segment) = segments.next() {
        // Only the last segment may be empty: it stands for a trailing slash.
        if segment.is_empty() && segments.peek().is_some() {
            return false;
        }
        if !is_canonical_segment(segment.as_bytes()) {
            return false;
        }
    }
    true
}

fn is_canonical_segment(segment: &[u8]) -> bool {
    let mut rest = segment;
    // The escapes directly before `rest`, the nearest one last; and how the segment ended before each of them.
    let (mut escaped, mut ends) = ([0; 4], [NOTHING; 4]);
    let mut end = NOTHING;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'%' {
            if !byte.is_ascii_graphic() || is_special(byte) {
                return false;
            }
            (escaped, ends, end) = ([0; 4], [byte; 4], byte);
            continue;
        }
        let Some(value) = after.get(..2).and_then(hex).and_then(|value| u8::try_from(value).ok()) else {
            return false;
        };
        rest = &after[2..];
        escaped = [escaped[1], escaped[2], escaped[3], value];
        ends = [ends[1], ends[2], ends[3], end];
        let (like, dropped) = match resembles(escaped) {
            Some((Likeness::Ascii(byte), _)) => (byte, None),
            Some((Likeness::Nothing, length)) => (NOTHING, Some(length)),
            None => (0, None),
        };
        if !is_canonical_escape(escaped, like) || (value == b'%' && completes_escape(rest)) {
            return false;
        }
        // What some server drops leaves the end that was there before.
        end = dropped.map_or(like, |length| ends[4 - length]);
    }
    // Dot segments end in a dot, too. Windows drops dots and blanks at the end of a name. What is left of nothing is no segment.
    segment.is_empty() || !matches!(end, b'.' | NOTHING)
}

/// What a blank, and what some server drops, resembles.
const NOTHING: u8 = b' ';

/// Whether some server takes the byte for the end of a segment, or of the path.
const fn is_special(byte: u8) -> bool {
    matches!(byte, b'/' | b'\\' | b';' | b'?' | b'#')
}

/// Whether the last one of these escapes is needed and stands for one thing. `end`: the character that it ends resembles this one.
fn is_canonical_escape(escaped: [u8; 4], end: u8) -> bool {
    let [.., before, value] = escaped;
    let overlong = matches!((before, value), (0xe0, 0x80..=0x9f) | (0xf0, 0x80..=0x8f));
    let unreserved = value.is_ascii_alphanumeric() || matches!(value, b'-' | b'.' | b'_' | b'~');
    let resembles_separator = is_special(end) || (value != b'%' && matches!(end, b'.' | b'%'));
    let ambiguous = unreserved || value.is_ascii_control() || resembles_separator;
    !(ambiguous || overlong || matches!(value, 0xc0 | 0xc1 | 0xf5..))
}

/// What the character at the end of these escapes resembles, or is, and the number of its bytes; `None` for nothing that matters.
fn resembles(escaped: [u8; 4]) -> Option<(Likeness, usize)> {
    if escaped[3].is_ascii() {
        return Some((Likeness::Ascii(escaped[3]), 1));
    }
    (2..=4).find_map(|length| decode::likeness(&escaped[4 - length..]).map(|like| (like, length)))
}

/// Whether a decoded `%` before `rest` makes an escape that a second decoding would decode.
fn completes_escape(rest: &[u8]) -> bool {
    let is_hex = |digits: &[u8]| hex(digits).is_some();
    let by_unicode = rest
        .split_first()
        .is_some_and(|(first, digits)| first.eq_ignore_ascii_case(&b'u') && digits.get(..4).is_some_and(is_hex));
    by_unicode || rest.get(..2).is_some_and(is_hex)
}

/// The leading segments that tell the requests of one API from those of another one at a shared address.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Prefix(String);

impl Prefix {
    /// Parses a canonical path such as `/emr`.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        if !text.starts_with('/') || text.len() == 1 {
            return Err("a prefix begins with `/` and names at least one segment, like `/emr`");
        }
        if text.ends_with('/') {
            return Err("a prefix has no `/` at its end");
        }
        if !is_canonical(text) {
            return Err("a prefix is a canonical path: no `//`, `.`, `..`, `\\`, query, nor needless escapes");
        }
        Ok(Self(text.to_owned()))
    }

    /// The prefix as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Removes the prefix from `path`; the rest is at least `/`. `None` when `path` does not have the prefix.
    ///
    /// The rest is unchanged and may begin with `//`: it is a path, and must never be parsed as a URL reference.
    #[must_use]
    pub fn strip<'a>(&self, path: &'a str) -> Option<&'a str> {
        match path.strip_prefix(&self.0)? {
            "" => Some("/"),
            rest if rest.starts_with('/') => Some(rest),
            _ => None,
        }
    }
}

/// The path segments that a log may show.
#[derive(Clone, Debug)]
pub struct Words(Vec<Box<str>>);

impl Words {
    /// Collects the words of CarePortals' routes and `further` ones, which come from rules and `path_words`.
    ///
    /// A word that a log line would have to escape is left out, so it stays masked.
    pub fn new(further: impl IntoIterator<Item = impl AsRef<str>>) -> Self {
        let routes = careportals::ROUTE_WORDS.into_iter().map(Box::from);
        let further = further.into_iter().map(|word| Box::from(word.as_ref()));
        let mut words: Vec<Box<str>> = routes.chain(further).filter(|word| is_printable(word)).collect();
        words.sort_unstable();
        words.dedup();
        Self(words)
    }

    fn shows(&self, segment: &[u8]) -> bool {
        segment.is_empty() || is_version(segment) || self.0.binary_search_by(|word| word.as_bytes().cmp(segment)).is_ok()
    }
}

fn is_printable(word: &str) -> bool {
    word.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\' | b'/' | b'?' | b'#'))
}

/// Whether a segment is a version, like `v2`.
fn is_version(segment: &[u8]) -> bool {
    let digits = segment.strip_prefix(b"v").unwrap_or_default();
    (1..=3).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit)
}

/// Appends `path` without its query, with `{…}` for every segment that is not one of `words`. The result needs no escaping.
pub fn mask(path: &str, words: &Words, out: &mut Vec<u8>) {
    // Bytes, since each request has a line: the characters that part segments are ASCII.
    let path = path.as_bytes().split(|byte| matches!(byte, b'?' | b'#')).next().unwrap_or_default();
    for (at, segment) in path.split(|byte| *byte == b'/').enumerate() {
        if at > 0 {
            out.push(b'/');
        }
        if at > MAX_SEGMENTS_SHOWN {
            out.extend_from_slice("…".as_bytes());
            return;
        }
        out.extend_from_slice(if words.shows(segment) { segment } else { "{…}".as_bytes() });
    }
}

fn without_query(path: &str) -> &str {
    path.split(['?', '#']).next().unwrap_or_default()
}

fn hex(digits: &[u8]) -> Option<u32> {
    digits.iter().try_fold(0, |value, &digit| Some(value * 16 + char::from(digit).to_digit(16)?))
}

#[cfg(test)]
mod tests;
