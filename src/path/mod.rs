//! Request paths: whether they are canonical, which rule they match, whether they reach a log-in, what a log may show of them.
//!
//! Pure: no clock, no I/O. There are two readings of a path. Rules, prefixes and masking take it as it is sent, after
//! [`is_canonical`] has made sure that it has only one meaning. [`LoginPaths`] takes it as the most lenient server might, since a
//! path that reaches a log-in yields a token. Guarantees: no input takes longer than its length times a small constant.

mod login;

use http::Method;

pub use login::LoginPaths;

use crate::careportals;

/// How many segments of a path a log shows, so that a line stays short.
const MAX_SEGMENTS_SHOWN: usize = 32;

/// Whether a path, as it is sent, has only one meaning, so that a decision about it holds for every server.
///
/// A path is not canonical if it has dot segments, `//` or `\`, or escapes of unreserved characters, of slashes or of controls,
/// or malformed escapes, or escapes that spell overlong UTF-8, or characters that belong into an escape or a query. The digits
/// of an escape may be written in either case.
#[must_use]
pub fn is_canonical(path: &str) -> bool {
    let Some(relative) = path.strip_prefix('/') else { return false };
    let mut segments = relative.split('/').peekable();
    while let Some(segment) = segments.next() {
        // Only the last segment may be empty: it stands for a trailing slash.
        if segment.is_empty() && segments.peek().is_some() {
            return false;
        }
        // Some servers drop parameters before they resolve dots.
        if matches!(segment.split(';').next(), Some("." | "..")) || !is_canonical_segment(segment.as_bytes()) {
            return false;
        }
    }
    true
}

fn is_canonical_segment(segment: &[u8]) -> bool {
    let mut rest = segment;
    let mut escaped_before = 0;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'%' {
            if !byte.is_ascii_graphic() || matches!(byte, b'\\' | b'?' | b'#') {
                return false;
            }
            escaped_before = 0;
            continue;
        }
        let Some(escaped) = after.get(..2).and_then(hex).and_then(|value| u8::try_from(value).ok()) else {
            return false;
        };
        let overlong = matches!((escaped_before, escaped), (0xe0, 0x80..=0x9f) | (0xf0, 0x80..=0x8f));
        let unreserved = escaped.is_ascii_alphanumeric() || matches!(escaped, b'-' | b'.' | b'_' | b'~');
        let ambiguous = unreserved || escaped.is_ascii_control() || matches!(escaped, b'/' | b'\\');
        if ambiguous || overlong || matches!(escaped, 0xc0 | 0xc1 | 0xf5..) {
            return false;
        }
        escaped_before = escaped;
        rest = &after[2..];
    }
    true
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

/// An entry of `allow` or `deny`, such as `METHOD /a/*/b`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The method; `None` stands for any.
    method: Option<Method>,
    segments: Vec<Pattern>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Pattern {
    /// One segment, or an equivalent spelling of it; it is empty for a trailing slash.
    Literal(String),
    /// `*`: one segment, which is not empty.
    One,
    /// `**`: any number of segments, also none.
    Any,
}

impl Rule {
    /// Parses a method in capitals or `*`, a space, and a canonical path in which `*` and `**` may stand for segments.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let mut words = text.split_ascii_whitespace();
        let (Some(method), Some(path), None) = (words.next(), words.next(), words.next()) else {
            return Err("a rule is a method and a path, like `GET /customers/**`");
        };
        let method = match method {
            "*" => None,
            _ if method.bytes().any(|byte| byte.is_ascii_lowercase()) => {
                return Err("methods are written in capitals, like `GET`");
            }
            _ => Some(Method::from_bytes(method.as_bytes()).map_err(|_| "that is no HTTP method")?),
        };
        let relative = path.strip_prefix('/').ok_or("the path of a rule begins with `/`")?;
        if !is_canonical(path) {
            return Err("the path of a rule is canonical: no `//`, `.`, `..`, `\\`, query, nor needless escapes");
        }
        let segments = relative.split('/').map(|segment| match segment {
            "*" => Ok(Pattern::One),
            "**" => Ok(Pattern::Any),
            _ if segment.contains('*') => Err("`*` and `**` stand for whole segments"),
            _ => Ok(Pattern::Literal(segment.to_owned())),
        });
        Ok(Self { method, segments: segments.collect::<Result<_, _>>()? })
    }

    /// Whether it speaks of this request; `path` is canonical and without a query.
    ///
    /// An escape equals the character it stands for, as it does for servers: `/a%3Ab` is `/a:b`.
    #[must_use]
    pub fn matches(&self, method: &Method, path: &str) -> bool {
        self.method.as_ref().is_none_or(|only| only == method) && self.matches_path(path)
    }

    /// The segments that the rule spells out. They are words of routes, and name no person.
    pub fn words(&self) -> impl Iterator<Item = &str> {
        self.segments.iter().filter_map(|pattern| match pattern {
            Pattern::Literal(word) if !word.is_empty() => Some(word.as_str()),
            _ => None,
        })
    }

    /// Matches without recursion: when a segment does not fit, only the last `**` so far takes one more, since an earlier `**`
    /// could not match more by that.
    fn matches_path(&self, path: &str) -> bool {
        let Some(relative) = path.strip_prefix('/') else { return false };
        let mut patterns = self.segments.as_slice();
        let mut rest = Some(relative);
        let mut last_any = None;
        loop {
            let fits = match (patterns.split_first(), rest) {
                (Some((Pattern::Any, after)), _) => {
                    last_any = Some((after, rest));
                    patterns = after;
                    continue;
                }
                (Some((pattern, after)), Some(path)) => {
                    let (segment, remaining) = first_segment(path);
                    patterns = after;
                    rest = remaining;
                    pattern.fits(segment)
                }
                (None, None) => return true,
                (None, Some(_)) | (Some(_), None) => false,
            };
            if !fits {
                let Some((after, Some(taken_until))) = last_any else { return false };
                patterns = after;
                rest = first_segment(taken_until).1;
                last_any = Some((after, rest));
            }
        }
    }
}

fn first_segment(path: &str) -> (&str, Option<&str>) {
    path.split_once('/').map_or((path, None), |(segment, rest)| (segment, Some(rest)))
}

impl Pattern {
    fn fits(&self, segment: &str) -> bool {
        match self {
            Self::Literal(word) => word == segment || Unescaped(word.as_bytes()).eq(Unescaped(segment.as_bytes())),
            Self::One => !segment.is_empty(),
            Self::Any => true,
        }
    }
}

/// The bytes of a segment, each escape as one byte.
struct Unescaped<'a>(&'a [u8]);

impl Iterator for Unescaped<'_> {
    type Item = u8;

    fn next(&mut self) -> Option<u8> {
        let (&byte, after) = self.0.split_first()?;
        let escaped = if byte == b'%' { after.get(..2).and_then(hex) } else { None };
        self.0 = if escaped.is_some() { &after[2..] } else { after };
        Some(escaped.and_then(|value| u8::try_from(value).ok()).unwrap_or(byte))
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

    fn shows(&self, segment: &str) -> bool {
        segment.is_empty() || is_version(segment) || self.0.binary_search_by(|word| (**word).cmp(segment)).is_ok()
    }
}

fn is_printable(word: &str) -> bool {
    word.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\' | b'/' | b'?' | b'#'))
}

/// Whether a segment is a version, like `v2`.
fn is_version(segment: &str) -> bool {
    let digits = segment.strip_prefix('v').unwrap_or_default();
    (1..=3).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit())
}

/// Appends `path` without its query, with `{…}` for every segment that is not one of `words`. The result needs no escaping.
pub fn mask(path: &str, words: &Words, out: &mut Vec<u8>) {
    for (at, segment) in without_query(path).split('/').enumerate() {
        if at > 0 {
            out.push(b'/');
        }
        if at > MAX_SEGMENTS_SHOWN {
            out.extend_from_slice("…".as_bytes());
            return;
        }
        out.extend_from_slice(if words.shows(segment) { segment.as_bytes() } else { "{…}".as_bytes() });
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
