//! Reads a path as the most lenient server might, and finds log-in paths and what `deny` names in that reading.
//!
//! Pure: no clock, no I/O. Guarantees: a path that decodes to a pattern, by any server's rules and any number of passes,
//! reaches it; in doubt the answer is yes.

use std::{borrow::Cow, iter::successors};

use super::{
    decode::{decode, is_seen},
    wildcard::covers,
    without_query,
};
use crate::careportals::MOUNTS;

/// How many segments of a pattern are compared: states have to fit into a word. Every path that begins with those segments
/// of a longer pattern reaches it.
pub(super) const MAX_SEGMENTS: usize = 63;

/// The paths that answer with a token, which no client may reach.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct LoginPaths(Vec<LoginPath>);

impl LoginPaths {
    /// Collects paths as the upstream sees them; a query is cut off.
    pub fn new(paths: impl IntoIterator<Item = impl AsRef<str>>) -> Self {
        let mut known = Vec::new();
        for path in paths {
            let mut names = names(path.as_ref());
            while is_mounted(&names) {
                known.push(LoginPath::of_names(names.clone()));
                names.remove(0);
            }
            known.push(LoginPath::of_names(names));
        }
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
            let path = final_path.strip_suffix('/').unwrap_or(final_path).as_bytes();
            let is_known = |path: &[u8]| self.0.iter().any(|known| known.joined.eq_ignore_ascii_case(path));
            return successors(Some(path), |path| without_mount(path)).any(is_known);
        }
        let read = LenientPath::new(final_path);
        self.0.iter().any(|known| read.reaches(&known.pattern))
    }
}

/// Whether every byte means itself to every server, and no segment but the last is empty.
fn is_plain(path: &str) -> bool {
    let special = |byte: u8| byte <= b' ' || byte >= 0x7f || matches!(byte, b'%' | b';' | b'\\' | b'.' | b'+' | b'?' | b'#');
    let mut previous = 0;
    path.bytes().all(|byte| {
        let doubled = byte == b'/' && previous == b'/';
        previous = byte;
        !doubled && !special(byte)
    })
}

/// One log-in path.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct LoginPath {
    /// The segments, each after a slash, to compare plain paths with.
    joined: Vec<u8>,
    pattern: LenientPattern,
}

impl LoginPath {
    fn of_names(names: Vec<Vec<u8>>) -> Self {
        let joined = names.iter().flat_map(|name| [b"/", name.as_slice()]).flatten().copied().collect();
        Self { joined, pattern: LenientPattern::of_names(names) }
    }
}

/// Whether these names begin with a mount, and there is something below it.
fn is_mounted(names: &[Vec<u8>]) -> bool {
    names.len() > 1 && MOUNTS.iter().any(|mount| mount.as_bytes() == names[0])
}

/// What follows the mount that a path begins with, with its slash if there is one.
fn without_mount(path: &[u8]) -> Option<&[u8]> {
    let after = |mount: &&str| {
        let (first, rest) = path.strip_prefix(b"/")?.split_at_checked(mount.len())?;
        (first.eq_ignore_ascii_case(mount.as_bytes()) && matches!(rest, [] | [b'/', ..])).then_some(rest)
    };
    MOUNTS.iter().find_map(after)
}

/// A path, decoded as often as that changes it. A path without escapes is borrowed.
pub(super) struct LenientPath<'a> {
    /// `None`: the path is encoded more often than anybody needs, to hide something.
    decoded: Option<Cow<'a, [u8]>>,
}

impl<'a> LenientPath<'a> {
    /// Decodes `path`; a query is cut off.
    pub(super) fn new(path: &'a str) -> Self {
        Self { decoded: decode(without_query(path).as_bytes()) }
    }

    /// The decoded path; `None`: it is encoded too often.
    pub(super) fn decoded(&self) -> Option<&[u8]> {
        self.decoded.as_deref()
    }

    /// The names in a decoded path, without parameters, as [`LenientPattern`] takes them.
    pub(super) fn raw_names(decoded: &[u8]) -> impl Iterator<Item = &[u8]> {
        decoded.split(|&byte| is_separator(byte)).map(without_parameters)
    }

    /// Whether a server could take the path for one that `pattern` matches.
    pub(super) fn reaches(&self, pattern: &LenientPattern) -> bool {
        let Some(decoded) = &self.decoded else { return true };
        // A server in C stops at the first NUL.
        let until_nul = decoded.iter().position(|&byte| byte == 0).map(|end| &decoded[..end]);
        pattern.is_reached_by(decoded) || until_nul.is_some_and(|shorter| pattern.is_reached_by(shorter))
    }
}

/// Whether `segment` takes every segment that `other` stands for.
fn takes(segment: &LenientSegment, other: &LenientSegment) -> bool {
    *other != LenientSegment::Any && (*segment == LenientSegment::One || segment == other)
}

/// One segment of a pattern.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum LenientSegment {
    /// A name: decoded, in lower case, without parameters and without dots at its end. It is not empty.
    Name(Vec<u8>),
    /// One segment.
    One,
    /// Any number of segments, none too.
    Any,
}

impl LenientSegment {
    /// The name that `raw` stands for, which is decoded. It may be dots, or nothing.
    fn name(raw: &[u8]) -> Result<Vec<u8>, Dots> {
        let name = raw.iter().filter(|&&byte| is_seen(byte)).take_while(|&&byte| !ends_name(byte));
        let mut name: Vec<u8> = name.map(u8::to_ascii_lowercase).collect();
        let dots = name.iter().rev().take_while(|&&byte| byte == b'.').count();
        if dots == name.len() {
            return Err(Dots(dots));
        }
        name.truncate(name.len() - dots);
        Ok(name)
    }
}

/// A segment that is no name has this many dots.
struct Dots(usize);

/// The names in `path`, with its dots resolved; a query is cut off.
pub(super) fn names(path: &str) -> Vec<Vec<u8>> {
    let path = without_query(path).as_bytes();
    let decoded = decode(path).unwrap_or(Cow::Borrowed(path));
    let mut names: Vec<Vec<u8>> = Vec::new();
    for raw in decoded.split(|&byte| is_separator(byte)) {
        match LenientSegment::name(raw) {
            Ok(name) => names.push(name),
            Err(Dots(0 | 1)) => {}
            Err(Dots(_)) => drop(names.pop()),
        }
    }
    names
}

/// What paths are compared with.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) struct LenientPattern {
    segments: Vec<LenientSegment>,
    /// Bit `i` is set when segment `i` is [`LenientSegment::One`].
    one: u64,
    /// Bit `i` is set when segment `i` is [`LenientSegment::Any`]. No two neighbours are.
    any: u64,
}

impl LenientPattern {
    /// The pattern that matches one path: the one of these names, as [`names`] reads them.
    pub(super) fn of_names(names: Vec<Vec<u8>>) -> Self {
        Self::new(names.into_iter().map(LenientSegment::Name).collect())
    }

    /// A pattern of canonical segments. One that is empty, for a trailing slash, is left out.
    pub(super) fn of_segments<'a>(segments: impl Iterator<Item = SegmentText<'a>>) -> Self {
        let read = |text| match text {
            SegmentText::Name(text) => {
                let decoded = decode(text.as_bytes()).unwrap_or(Cow::Borrowed(text.as_bytes()));
                LenientSegment::name(&decoded).ok().map(LenientSegment::Name)
            }
            SegmentText::One => Some(LenientSegment::One),
            SegmentText::Any => Some(LenientSegment::Any),
        };
        Self::new(segments.filter_map(read).collect())
    }

    fn new(mut segments: Vec<LenientSegment>) -> Self {
        segments.dedup_by(|a, b| (&*a, &*b) == (&LenientSegment::Any, &LenientSegment::Any));
        segments.truncate(MAX_SEGMENTS);
        let bits = |wanted: &LenientSegment| {
            segments.iter().enumerate().filter(|(_, segment)| *segment == wanted).fold(0, |bits, (at, _)| bits | 1 << at)
        };
        let (one, any) = (bits(&LenientSegment::One), bits(&LenientSegment::Any));
        Self { segments, one, any }
    }

    /// The names among the segments that each path has which reaches the pattern.
    pub(super) fn names(&self) -> impl Iterator<Item = &[u8]> {
        self.segments.iter().skip(usize::from(self.is_under_mount())).filter_map(|segment| match segment {
            LenientSegment::Name(name) => Some(name.as_slice()),
            LenientSegment::One | LenientSegment::Any => None,
        })
    }

    /// The pattern of one canonical segment.
    pub(super) fn of_path(segment: &str) -> Self {
        Self::of_segments([SegmentText::Name(segment)].into_iter())
    }

    /// The states before the first segment of a canonical path: bit `i` is set when our first `i` segments are matched.
    pub(super) fn start(&self) -> u64 {
        self.skip_any(if self.is_under_mount() { 0b11 } else { 1 })
    }

    /// Whether the first segment is a mount, which a path may lack. Before a wildcard it may not: the rule means all below the
    /// mount.
    fn is_under_mount(&self) -> bool {
        let is_mount = |name: &[u8]| MOUNTS.iter().any(|mount| mount.as_bytes() == name);
        matches!(self.segments.as_slice(), [LenientSegment::Name(first), LenientSegment::Name(_), ..] if is_mount(first))
    }

    /// The states after one more segment of a canonical path. It has no parameters and no dots, so all readings of it are one.
    pub(super) fn after(&self, states: u64, segment: &str) -> u64 {
        let decoded = decode(segment.as_bytes()).unwrap_or(Cow::Borrowed(segment.as_bytes()));
        let is_long = self.segments.len() == MAX_SEGMENTS;
        self.step(states, states, &decoded) | if is_long { states & self.goal() } else { 0 }
    }

    /// How many segments there are: the state of that bit is the last one.
    pub(super) fn length(&self) -> usize {
        self.segments.len()
    }

    /// Whether a path that ends in these states reaches the pattern.
    pub(super) fn accepts(&self, states: u64) -> bool {
        states & self.goal() != 0
    }

    fn goal(&self) -> u64 {
        1 << self.segments.len()
    }

    /// Whether every path that reaches `other` reaches this pattern too. It may say no where that is so.
    pub(super) fn covers(&self, other: &Self) -> bool {
        let is_whole = |pattern: &Self| pattern.segments.len() < MAX_SEGMENTS;
        is_whole(self) && is_whole(other) && covers(&self.segments, &other.segments, &LenientSegment::Any, takes)
    }

    /// Whether some path under `base` reaches the pattern; `base` has no slash at its end.
    pub(super) fn may_be_under(&self, base: &str) -> bool {
        let decoded = decode(base.as_bytes()).unwrap_or(Cow::Borrowed(base.as_bytes()));
        let names = decoded.split(|&byte| is_separator(byte)).skip(1);
        names.fold(self.start(), |states, name| self.step(states, states, name)) != 0
    }

    /// Follows all readings of `decoded` at once: bit `i` of a state is set when some reading has matched our first `i`
    /// segments.
    ///
    /// Servers differ in what `..` removes (an empty segment? one between backslashes?), and in where parameters end. So `..`
    /// may lead back to every state that a reading has had, parameters may end at any later slash, and the path may end at `;`,
    /// `?` or `#`.
    fn is_reached_by(&self, decoded: &[u8]) -> bool {
        let goal = self.goal();
        let mut here = self.start();
        let mut ever = here;
        let mut after_parameters = 0;
        let relative = decoded.split_first().filter(|(first, _)| is_separator(**first)).map_or(decoded, |(_, rest)| rest);
        // A server that resolves the target like a link takes what follows two slashes for a host.
        let mut may_be_host = relative.first().is_some_and(|&byte| is_separator(byte));
        for raw in relative.split(|&byte| is_separator(byte)) {
            let name = without_parameters(raw);
            let before_host = if may_be_host { here } else { 0 };
            may_be_host &= name.is_empty();
            here = self.step(here | after_parameters, ever, name) | before_host;
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

    /// The states after one more segment. An empty one, or dots, may be nothing, or what a `*` stands for: some routers fill a
    /// parameter with it.
    fn step(&self, states: u64, ever: u64, name: &[u8]) -> u64 {
        let mut seen = name.iter().filter(|&&byte| is_seen(byte));
        if seen.clone().all(|&byte| matches!(byte, b'.' | b'+')) {
            let unchanged = if seen.nth(1).is_some() { ever } else { states };
            return self.skip_any(unchanged | (states & self.one) << 1);
        }
        let fits = |(at, segment): &(usize, &LenientSegment)| {
            let is_here = states & (1 << at) != 0;
            is_here
                && match segment {
                    LenientSegment::Name(known) => is_same_name(known, name),
                    LenientSegment::One => true,
                    LenientSegment::Any => false,
                }
        };
        let taken: u64 = self.segments.iter().enumerate().filter(fits).map(|(at, _)| 1 << (at + 1)).sum();
        // A server that runs a script for every path answers below it as it does without, and below a mount at the start, too.
        let passed_over = if is_same_name(b"index.php", name) {
            states
        } else if MOUNTS.iter().any(|mount| is_same_name(mount.as_bytes(), name)) {
            states & self.start()
        } else {
            0
        };
        self.skip_any(taken | passed_over | (states & self.any))
    }

    /// Adds the states in which a `**` has matched all that it will.
    const fn skip_any(&self, states: u64) -> u64 {
        states | (states & self.any) << 1
    }
}

/// A segment of a rule as it is written.
pub(super) enum SegmentText<'a> {
    /// A canonical segment.
    Name(&'a str),
    /// `*`.
    One,
    /// `**`.
    Any,
}

/// Whether some server takes `name` for `known`. Windows drops dots at the end; a `+` is a blank to some; frameworks take what
/// follows a dot for the format of the answer, and some cut it from the first dot on, whatever it is: `/a.tar.gz` is `/a`.
fn is_same_name(known: &[u8], name: &[u8]) -> bool {
    let mut seen = name.iter().filter(|&&byte| is_seen(byte));
    let mut begins = |start: &[u8]| start.iter().all(|byte| seen.next().is_some_and(|other| byte.eq_ignore_ascii_case(other)));
    begins(known) && seen.find(|&&byte| byte != b'+').is_none_or(|byte| *byte == b'.')
}

/// Writes to `name` what is compared of a raw name.
pub(super) fn name_of(raw: &[u8], name: &mut Vec<u8>) {
    name.clear();
    name.extend(raw.iter().filter(|byte| is_seen(**byte)).map(u8::to_ascii_lowercase));
}

/// All that a server may take `name`, as [`name_of`] gives it, for, by [`is_same_name`]; none longer than `longest`.
pub(super) fn names_that_match(name: &[u8], longest: usize) -> impl Iterator<Item = &[u8]> {
    let is_end = |at: usize| name[at..].iter().find(|byte| **byte != b'+').is_none_or(|byte| *byte == b'.');
    (0..=name.len().min(longest)).filter(move |at| is_end(*at)).map(|at| &name[..at])
}

fn without_parameters(raw: &[u8]) -> &[u8] {
    raw.split(|&byte| ends_name(byte)).next().unwrap_or_default()
}

pub(super) fn is_separator(byte: u8) -> bool {
    matches!(byte, b'/' | b'\\')
}

/// Whether parameters begin here, or a query that was hidden by encoding.
fn ends_name(byte: u8) -> bool {
    matches!(byte, b';' | b'?' | b'#')
}

#[cfg(test)]
mod tests;
