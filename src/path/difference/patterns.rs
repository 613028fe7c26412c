//! Finds patterns, in the syntax of rules, that stand for all paths in which two sets of rules differ. Pure.

use std::collections::{BTreeSet, HashSet, VecDeque};

use super::{
    super::{Rule, symbols::Symbol},
    automaton::{Automaton, MAX_SEGMENTS, MatchStates, after},
    graph::{Graph, Node},
};

/// How many patterns one method may need.
const MAX_PATTERNS: usize = 200;

/// The paths that differ are too many, or too hard to find.
struct Incomplete;

/// How the paths that a pattern stands for end.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Plain,
    Slash,
    /// In any way, and every longer one is meant, too.
    Whole,
}

impl End {
    fn text(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Slash => "/",
            Self::Whole => "/**",
        }
    }

    fn differs(self, node: &Node) -> bool {
        match self {
            Self::Plain => node.differs,
            Self::Slash => node.differs_with_slash,
            Self::Whole => node.is_whole(),
        }
    }
}

/// Where a path leads to, and where its plain spellings do, which speak for it.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
struct Place {
    node: usize,
    /// Each script or mount is left out, or has any segment in its place. `None`: the path is spelled so.
    plain: Option<BTreeSet<usize>>,
}

impl Graph {
    /// Patterns, without the base path, that stand for every path that differs; and whether they do. Those behind the first ones come
    /// from a shortest path that those before them do not stand for. `work` is what may still be looked at.
    pub(super) fn patterns(&self, symbols: &[Symbol], work: &mut usize) -> (BTreeSet<String>, bool) {
        let mut patterns = self.witnesses(symbols);
        loop {
            let told: Option<Vec<Automaton>> = patterns.iter().map(|pattern| automaton(pattern, symbols)).collect();
            match told.ok_or(Incomplete).and_then(|told| self.first_untold(&told, symbols, work)) {
                Ok(None) => return (patterns, self.is_complete),
                Ok(Some((path, end))) if patterns.len() < MAX_PATTERNS => {
                    let known = patterns.len();
                    patterns.extend(self.widened(&path, end, symbols));
                    if patterns.len() == known {
                        return (patterns, false);
                    }
                }
                Ok(Some(_)) | Err(Incomplete) => return (patterns, false),
            }
        }
    }

    /// Patterns of a shortest path to each node where paths differ, up to the most that there may be: each name that makes odds has one
    /// of its own.
    fn witnesses(&self, symbols: &[Symbol]) -> BTreeSet<String> {
        let start = Place::default();
        let (mut seen, mut queue, mut found) = (BTreeSet::from([0]), VecDeque::from([(start, Vec::new())]), BTreeSet::new());
        while let Some((place, path)) = queue.pop_front().filter(|_| found.len() < MAX_PATTERNS) {
            let node = &self.nodes[place.node];
            if node.all_below && (node.differs || path.is_empty()) {
                // `/a/**` is `/a`, too.
                if !self.is_spoken_for(&place, End::Whole) {
                    found.extend(self.widened(&path, End::Whole, symbols));
                }
                continue;
            }
            if node.differs && !path.is_empty() && !self.is_spoken_for(&place, End::Plain) {
                found.extend(self.widened(&path, End::Plain, symbols));
            }
            if node.differs_with_slash && !self.is_spoken_for(&place, End::Slash) {
                found.extend(self.widened(&path, End::Slash, symbols));
            }
            for (symbol, next) in node.next.iter().enumerate() {
                let longer = [path.as_slice(), &[symbol]].concat();
                let further = self.after(&place, symbol, path.is_empty(), symbols);
                if seen.insert(*next) {
                    queue.push_back((further, longer));
                } else if self.nodes[*next].is_whole() && !node.next[..symbol].contains(next) {
                    // Another path has shown that node, but this one leads there, too.
                    if !self.is_spoken_for(&further, End::Whole) {
                        found.extend(self.widened(&longer, End::Whole, symbols));
                    }
                }
            }
        }
        found
    }

    /// The shortest path that differs and that no pattern of `told` stands for, and how it ends.
    fn first_untold(
        &self,
        told: &[Automaton],
        symbols: &[Symbol],
        work: &mut usize,
    ) -> Result<Option<(Vec<usize>, End)>, Incomplete> {
        let start = (Place::default(), told.iter().map(Automaton::start).enumerate().collect::<MatchStates>());
        // The path of no segment is none, whatever leads back to its node.
        let (mut seen, mut queue) = (HashSet::new(), VecDeque::from([(start, Vec::<usize>::new())]));
        let is_told = |progress: &MatchStates| progress.iter().any(|(number, progress)| told[*number].is_matched(*progress));
        let after = |progress: &MatchStates, symbol: usize| after(|number| &told[number], progress, symbol);
        while let Some(((place, progress), path)) = queue.pop_front() {
            let node = &self.nodes[place.node];
            let is_untold = |end: End| end.differs(node) && !self.is_spoken_for(&place, end);
            let plain = is_untold(End::Plain) && !path.is_empty() && !is_told(&progress);
            if plain || is_untold(End::Slash) && !is_told(&after(&progress, symbols.len())) {
                let is_whole = node.all_below && (node.differs || path.is_empty()) && !self.is_spoken_for(&place, End::Whole);
                let end = match (is_whole, plain) {
                    (true, _) => End::Whole,
                    (false, true) => End::Plain,
                    (false, false) => End::Slash,
                };
                return Ok(Some((path, end)));
            }
            for symbol in 0..symbols.len() {
                let further = self.after(&place, symbol, path.is_empty(), symbols);
                let progress = after(&progress, symbol);
                let kinds = |nodes: &BTreeSet<usize>| nodes.iter().map(|node| self.kinds[*node]).collect();
                let of_kind = Place { node: self.kinds[further.node], plain: further.plain.as_ref().map(kinds) };
                if seen.insert((of_kind, progress.clone())) {
                    queue.push_back(((further, progress), [path.as_slice(), &[symbol]].concat()));
                }
            }
            *work = work.checked_sub(symbols.len() * (1 + progress.len())).ok_or(Incomplete)?;
        }
        Ok(None)
    }

    /// Where one more segment leads to. `is_first`: none was before it.
    fn after(&self, place: &Place, symbol: usize, is_first: bool, symbols: &[Symbol]) -> Place {
        let Symbol { spells, is_script, is_mount, .. } = symbols[symbol];
        let (plain, may_lack) = (spells.unwrap_or(symbol), is_script || (is_first && is_mount));
        let changed = (plain != symbol || may_lack).then(|| BTreeSet::from([place.node]));
        let step = |nodes: BTreeSet<usize>| {
            let further = nodes.iter().map(|node| self.nodes[*node].next[if may_lack { 0 } else { plain }]).collect();
            if may_lack { &nodes | &further } else { further }
        };
        Place { node: self.nodes[place.node].next[symbol], plain: place.plain.clone().or(changed).map(step) }
    }

    /// Whether a plain spelling of the path differs, too: it is told, and speaks for the other ones.
    fn is_spoken_for(&self, place: &Place, end: End) -> bool {
        place.plain.iter().flatten().any(|plain| end.differs(&self.nodes[*plain]))
    }

    /// A path that differs, as patterns: with `**` wherever any number of further segments makes no odds, and with `*` where one
    /// does. Segments that no rule names are meant.
    fn widened(&self, path: &[usize], end: End, symbols: &[Symbol]) -> Vec<String> {
        let last = path.len();
        // At the end of a plain path `**` would be a slash, too.
        let any = |at: &usize| if *at == last && end == End::Plain { "/**/*" } else { "/**" };
        // Of segments that no rule names, the first one speaks for those that follow it, and what ends in `**` needs none before.
        let is_first = |at: &usize| *at == 0 || path[at - 1] != 0;
        let is_open = |at: &usize| end != End::Whole || path[*at..].iter().any(|symbol| *symbol != 0);
        // What begins so is told as a whole.
        let is_told = |at: &usize| self.nodes[self.nodes[self.node_of(&path[..*at])].next[0]].is_whole();
        let gaps = (0..=last).filter(|at| is_first(at) && is_open(at) && !is_told(at));
        let (wide, narrow): (Vec<usize>, Vec<usize>) = gaps.partition(|at| self.differs_through(path, &[*at], usize::MAX, end));
        // As many at once as may be.
        let mut together = Vec::new();
        for at in &wide {
            let more = [together.as_slice(), &[*at]].concat();
            if self.differs_through(path, &more, usize::MAX, end) {
                together = more;
            }
        }
        let shown = |gaps: &[(usize, &str)]| {
            let mut text = String::new();
            for at in 0..=last {
                text.extend(gaps.iter().filter(|(gap, _)| *gap == at).map(|(_, inserted)| *inserted));
                text.extend(path.get(at).into_iter().flat_map(|symbol| ["/", &symbols[*symbol].shown]));
            }
            text + end.text()
        };
        let with_any = |gaps: &[usize]| shown(&gaps.iter().map(|at| (*at, any(at))).collect::<Vec<_>>());
        let but_last: Vec<usize> = together.iter().copied().filter(|at| any(at) == "/**").collect();
        let mut patterns = vec![with_any(&but_last), with_any(&together)];
        patterns.extend(wide.iter().filter(|at| !together.contains(at)).map(|at| with_any(&[*at])));
        let one = narrow.into_iter().filter(|at| self.differs_through(path, &[*at], 1, end));
        patterns.extend(one.map(|at| shown(&[(at, "/*")])));
        patterns
    }

    fn node_of(&self, path: &[usize]) -> usize {
        path.iter().fold(0, |at, symbol| self.nodes[at].next[*symbol])
    }

    /// Whether the path differs with segments that no rule names in these gaps: exactly one in each, or any number of them.
    fn differs_through(&self, path: &[usize], gaps: &[usize], count: usize, end: End) -> bool {
        let step = |nodes: &BTreeSet<usize>, symbol: usize| nodes.iter().map(|at| self.nodes[*at].next[symbol]).collect();
        let mut nodes = BTreeSet::from([0]);
        for at in 0..=path.len() {
            if gaps.contains(&at) {
                let mut further: BTreeSet<usize> = step(&nodes, 0);
                if count == 1 {
                    nodes = further;
                } else {
                    while !further.is_subset(&nodes) {
                        nodes.extend(&further);
                        further = step(&further, 0);
                    }
                }
            }
            nodes = path.get(at).map_or_else(|| nodes.clone(), |symbol| step(&nodes, *symbol));
        }
        // The path itself is known to.
        nodes.iter().all(|at| end.differs(&self.nodes[*at]) || (path.is_empty() && *at == 0))
    }
}

/// A pattern as a rule of `allow`; `None`: it is too long.
fn automaton(pattern: &str, symbols: &[Symbol]) -> Option<Automaton> {
    let rule = Rule::parse(&format!("* {pattern}")).ok()?;
    (rule.segments.len() <= MAX_SEGMENTS).then(|| Automaton::exact(&rule, "", symbols))
}
