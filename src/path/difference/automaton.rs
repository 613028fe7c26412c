//! Rules as automata over the classes of segments. Pure.

use super::super::{Rule, lenient::LenientPattern, rule::Pattern, symbols::Symbol};

/// How many segments a rule may have to be compared: progress has to fit into a word.
pub(super) const MAX_SEGMENTS: usize = 127;

/// A rule, in the reading of `allow` or of `deny`. Bit `i` of its progress is set when some reading of a path so far has matched its
/// first `i` segments.
pub(super) struct Automaton {
    start: u128,
    goal: u128,
    /// By symbol, and behind all of them for the empty segment: the progress to which each bit leads.
    next: Vec<Box<[u128]>>,
}

/// The progress of many automata, by their numbers; those that can't match any more are left out.
pub(super) type MatchStates = Vec<(usize, u128)>;

impl Automaton {
    /// In the reading of `allow`, behind the segments of `base`.
    pub(super) fn exact(rule: &Rule, base: &str, symbols: &[Symbol]) -> Self {
        let (segments, any) = (&rule.segments, positions(&rule.segments, |pattern| *pattern == Pattern::Any));
        let skip_any = |mut progress: u128| {
            // A `**` has matched all that it will, and perhaps the next one, too.
            while progress | (progress & any) << 1 != progress {
                progress |= (progress & any) << 1;
            }
            progress
        };
        let after = |progress: u128, segment: &str| {
            let takers = positions(segments, |pattern| *pattern != Pattern::Any && pattern.fits(segment));
            skip_any((progress & takers) << 1 | (progress & any))
        };
        Self::new(segments.len(), skip_any(1), after, base, symbols)
    }

    /// In the reading of `deny`, behind the segments of `base`.
    pub(super) fn lenient(pattern: &LenientPattern, base: &str, symbols: &[Symbol]) -> Self {
        // Its states are bits of a shorter word.
        let after = |progress: u128, segment: &str| u128::from(pattern.after(u64::try_from(progress).unwrap_or(0), segment));
        Self::new(pattern.length(), u128::from(pattern.start()), after, base, symbols)
    }

    fn new(length: usize, start: u128, after: impl Fn(u128, &str) -> u128, base: &str, symbols: &[Symbol]) -> Self {
        let start = base.split('/').skip(1).fold(start, &after);
        let segments = symbols.iter().map(|symbol| symbol.segment.as_str()).chain([""]);
        let next = segments.map(|segment| (0..=length).map(|bit| after(1 << bit, segment)).collect()).collect();
        Self { start, goal: 1 << length, next }
    }

    pub(super) fn start(&self) -> u128 {
        self.start
    }

    /// Whether a path that ends here is matched.
    pub(super) fn is_matched(&self, progress: u128) -> bool {
        progress & self.goal != 0
    }

    fn after(&self, progress: u128, symbol: usize) -> u128 {
        let bits = self.next[symbol].iter().enumerate();
        bits.fold(0, |further, (bit, next)| if progress & (1 << bit) == 0 { further } else { further | next })
    }
}

/// The progress of all after one more segment.
pub(super) fn after<'a>(automaton: impl Fn(usize) -> &'a Automaton, progress: &MatchStates, symbol: usize) -> MatchStates {
    let further = progress.iter().map(|(number, progress)| (*number, automaton(*number).after(*progress, symbol)));
    further.filter(|(_, progress)| *progress != 0).collect()
}

/// The bits of the segments for which `holds` is true.
fn positions(segments: &[Pattern], holds: impl Fn(&Pattern) -> bool) -> u128 {
    segments.iter().enumerate().filter(|(_, pattern)| holds(pattern)).fold(0, |bits, (at, _)| bits | 1 << at)
}
