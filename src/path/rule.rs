//! An entry of `allow` or `deny`, and which requests it matches. Pure.

use std::fmt;

use http::Method;

use super::{
    hex, is_canonical,
    lenient::{LenientPath, LenientPattern, SegmentText},
};

/// An entry of `allow` or `deny`, such as `METHOD /a/*/b`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The method; `None` stands for any.
    pub(super) method: Option<Method>,
    pub(super) segments: Vec<Pattern>,
    /// The same path, as `deny` compares it.
    pub(super) lenient: LenientPattern,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Pattern {
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
        let segments = segments.collect::<Result<Vec<_>, _>>()?;
        let lenient = LenientPattern::of_segments(segments.iter().map(Pattern::text));
        Ok(Self { method, segments, lenient })
    }

    /// Whether the rule, as one of `allow`, matches this request exactly; `path` is canonical and without a query.
    ///
    /// An escape equals the character it stands for, as it does for servers: `/a%3Ab` is `/a:b`.
    #[must_use]
    pub fn matches(&self, method: &Method, path: &str) -> bool {
        self.method.as_ref().is_none_or(|only| only == method) && self.matches_path(path)
    }

    /// Whether a server could take the request for one that the rule, as one of `deny`, names.
    pub(super) fn denies(&self, method: &Method, path: &LenientPath<'_>) -> bool {
        self.denies_method(method) && path.reaches(&self.lenient)
    }

    /// The names of segments that a path has to have, as `deny` compares them.
    pub(super) fn names(&self) -> impl Iterator<Item = &[u8]> {
        self.lenient.names()
    }

    pub(super) fn denies_method(&self, method: &Method) -> bool {
        self.method.as_ref().is_none_or(|denied| {
            let is = |name: &Method| method.as_str().eq_ignore_ascii_case(name.as_str());
            is(denied) || (*denied == Method::GET && is(&Method::HEAD))
        })
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
    pub(super) fn matches_path(&self, path: &str) -> bool {
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

/// As it is written in the settings, with one blank between method and path.
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.method.as_ref().map_or("*", Method::as_str))?;
        self.segments.iter().try_for_each(|segment| write!(f, "/{}", segment.as_written()))
    }
}

fn first_segment(path: &str) -> (&str, Option<&str>) {
    path.split_once('/').map_or((path, None), |(segment, rest)| (segment, Some(rest)))
}

impl Pattern {
    pub(super) fn as_written(&self) -> &str {
        match self {
            Self::Literal(word) => word,
            Self::One => "*",
            Self::Any => "**",
        }
    }

    fn text(&self) -> SegmentText<'_> {
        match self {
            Self::Literal(word) => SegmentText::Name(word),
            Self::One => SegmentText::One,
            Self::Any => SegmentText::Any,
        }
    }

    pub(super) fn fits(&self, segment: &str) -> bool {
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
