//! Compares two sets of rules: which requests one lets through and the other does not. Pure.
//!
//! Both are automata over the segments of canonical paths. Segments fall into classes that no rule tells apart: each name that a
//! rule spells, its careless spellings, and all others. So the product of both automata is finite, and whatever differs has a
//! short witness.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};

use http::Method;

use super::{
    Rule,
    lenient::LenientPattern,
    rule::Pattern,
    symbols::{Symbol, symbols},
    wildcard::covers,
};

/// How many states are looked at for one method. Only contrived rules have more.
const MAX_STATES: usize = 2000;

/// How many patterns one method may need, and how many states are looked at for each of them.
const MAX_PATTERNS: usize = 200;
const MAX_TOLD_STATES: usize = 20_000;

/// How many segments a rule may have to be compared: states have to fit into a word.
const MAX_SEGMENTS: usize = 127;

/// The rules of an API.
#[derive(Clone, Copy, Debug)]
pub struct RuleSet<'a> {
    /// `None`: everything is allowed.
    pub allow: Option<&'a [Rule]>,
    /// It wins.
    pub deny: &'a [Rule],
}

/// The requests that one set lets through and another one does not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// The methods by path, in the syntax of rules. `*` in a path stands for a segment that no rule names, and for a named one
    /// that no other path has in its place; `**` for any number of segments; `*` as a method for all, `OTHER` for those that no
    /// rule names.
    pub methods_by_path: BTreeMap<String, Vec<String>>,
    /// Whether nothing is missing.
    pub is_complete: bool,
}

impl RuleSet<'_> {
    /// What this set lets through below `base`, and `other` does not below `other_base`.
    #[must_use]
    pub fn beyond(&self, base: &str, other: &Self, other_base: &str) -> Difference {
        let rules: Vec<&Rule> =
            [self, other].iter().flat_map(|set| set.allow.iter().copied().flatten().chain(set.deny)).collect();
        let symbols = symbols(&rules, !(self.deny.is_empty() && other.deny.is_empty()));
        let methods = methods(&rules);
        let mut difference = Difference { is_complete: true, ..Difference::default() };
        difference.is_complete &= rules.iter().all(|rule| rule.segments.len() <= MAX_SEGMENTS);
        let mut by_path: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for method in &methods {
            let sides = [Side::new(self, method), Side::new(other, method)];
            let Some(graph) = Graph::new(&sides, [base, other_base], &symbols) else {
                difference.is_complete = false;
                continue;
            };
            let Some(patterns) = graph.patterns(&symbols) else {
                difference.is_complete = false;
                continue;
            };
            for path in without_narrower(patterns) {
                by_path.entry(format!("{base}{path}")).or_default().push(method.as_str().to_owned());
            }
        }
        for named in by_path.values_mut().filter(|named| named.len() == methods.len()) {
            *named = vec!["*".to_owned()];
        }
        difference.methods_by_path = by_path;
        difference
    }
}

/// Leaves out patterns that others hold. Where one spells a name, a star of another is no other word for it.
fn without_narrower(mut patterns: BTreeSet<String>) -> BTreeSet<String> {
    let segments = |pattern: &str| pattern.split('/').map(str::to_owned).collect::<Vec<_>>();
    let names = |segments: &[String]| segments.iter().filter(|segment| !segment.starts_with('*')).count();
    for narrow in patterns.clone() {
        let own = segments(&narrow);
        let holds = |wide: &String| {
            let wide_segments = segments(wide);
            let has_its_names = names(&wide_segments) == names(&own);
            *wide != narrow && has_its_names && covers(&wide_segments, &own, &"**".to_owned(), |wide, own| wide == own)
        };
        if patterns.iter().any(holds) {
            patterns.remove(&narrow);
        }
    }
    patterns
}

/// The methods that rules tell apart; `OTHER` stands for those that none names.
fn methods(rules: &[&Rule]) -> Vec<Method> {
    let other = Method::from_bytes(b"OTHER").expect("letters are a method");
    let mut names: BTreeSet<&str> = rules.iter().filter_map(|rule| rule.method()).map(Method::as_str).collect();
    if names.contains("GET") {
        names.insert("HEAD");
    }
    let all = names.into_iter().filter(|name| *name != "OTHER").filter_map(|name| Method::from_bytes(name.as_bytes()).ok());
    all.chain([other]).collect()
}

/// What one set has for requests of one method.
struct Side<'a> {
    allow: Option<Vec<&'a Rule>>,
    deny: Vec<&'a LenientPattern>,
}

/// How far each rule has matched.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Progress {
    allow: Vec<u128>,
    deny: Vec<u64>,
}

impl<'a> Side<'a> {
    fn new(set: &RuleSet<'a>, method: &Method) -> Self {
        let fits = |rule: &&Rule| rule.method().is_none_or(|only| only == method) && rule.segments.len() <= MAX_SEGMENTS;
        let allow = set.allow.map(|rules| rules.iter().filter(fits).collect());
        Self { allow, deny: set.deny.iter().filter(|rule| rule.denies_method(method)).map(|rule| &rule.lenient).collect() }
    }

    /// The progress when the segments of `base` were read.
    fn start(&self, base: &str) -> Progress {
        let allow = self.allow.iter().flatten().map(|rule| skip_any(rule, 1)).collect();
        let start = Progress { allow, deny: self.deny.iter().map(|pattern| pattern.start()).collect() };
        base.split('/').skip(1).fold(start, |progress, segment| self.after(&progress, segment))
    }

    fn after(&self, progress: &Progress, segment: &str) -> Progress {
        let allow = self.allow.iter().flatten().zip(&progress.allow).map(|(rule, states)| after(rule, *states, segment));
        let deny = self.deny.iter().zip(&progress.deny).map(|(pattern, states)| pattern.after(*states, segment));
        Progress { allow: allow.collect(), deny: deny.collect() }
    }

    fn passes(&self, progress: &Progress) -> bool {
        let allows =
            |rules: &Vec<&Rule>| rules.iter().zip(&progress.allow).any(|(rule, states)| states & (1 << rule.segments.len()) != 0);
        let denied = self.deny.iter().zip(&progress.deny).any(|(pattern, states)| pattern.accepts(*states));
        !denied && self.allow.as_ref().is_none_or(allows)
    }
}

/// Adds the states in which a `**` has matched all that it will. Bit `i` is set when the first `i` segments of the rule are
/// matched.
fn skip_any(rule: &Rule, states: u128) -> u128 {
    let any = rule.segments.iter().enumerate().filter(|(_, pattern)| **pattern == Pattern::Any);
    any.fold(states, |states, (at, _)| states | (states & (1 << at)) << 1)
}

fn after(rule: &Rule, states: u128, segment: &str) -> u128 {
    let next = rule.segments.iter().enumerate().filter(|(at, pattern)| states & (1 << at) != 0 && pattern.fits(segment));
    skip_any(rule, next.fold(0, |next, (at, pattern)| next | if *pattern == Pattern::Any { 1 << at } else { 1 << (at + 1) }))
}

/// The states of both sets together that some path leads to; the first is that of no segment.
#[derive(Default)]
struct Graph {
    nodes: Vec<Node>,
    /// By node: those of one kind differ with the same further segments.
    kinds: Vec<usize>,
}

#[derive(Default)]
struct Node {
    /// By symbol.
    next: Vec<usize>,
    /// Whether a path that ends here differs.
    differs: bool,
    /// Whether it does with a slash at its end.
    differs_with_slash: bool,
    /// Whether every longer path differs too.
    all_below: bool,
}

impl Node {
    /// Whether a path that ends here differs, and every longer one.
    fn is_whole(&self) -> bool {
        self.all_below && self.differs
    }
}

struct TooManyStates;

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

impl Graph {
    /// `None`: there are too many states.
    fn new(sides: &[Side<'_>; 2], bases: [&str; 2], symbols: &[Symbol]) -> Option<Self> {
        let after =
            |state: &[Progress; 2], segment: &str| [sides[0].after(&state[0], segment), sides[1].after(&state[1], segment)];
        let differs = |state: &[Progress; 2]| sides[0].passes(&state[0]) && !sides[1].passes(&state[1]);
        let start = [sides[0].start(bases[0]), sides[1].start(bases[1])];
        // A path may lead back to the first state; that of no segment stays apart, since it is no path.
        let (mut known, mut states, mut graph) = (HashMap::new(), vec![start], Self::default());
        while let Some(state) = states.get(graph.nodes.len()).cloned() {
            let mut node = Node { differs: differs(&state), ..Node::default() };
            node.differs_with_slash = differs(&after(&state, ""));
            for symbol in symbols {
                let next = after(&state, &symbol.segment);
                let index = *known.entry(next.clone()).or_insert(states.len());
                if index == states.len() {
                    states.push(next);
                }
                node.next.push(index);
            }
            if states.len() > MAX_STATES {
                return None;
            }
            graph.nodes.push(node);
        }
        graph.find_whole();
        graph.find_kinds();
        Some(graph)
    }

    /// Divides the nodes until those of one kind lead to the same kinds (Moore's algorithm).
    fn find_kinds(&mut self) {
        let mut count = 0;
        self.kinds = vec![0; self.nodes.len()];
        loop {
            let mut known = HashMap::new();
            let kind = |(node, kind): (&Node, &usize)| {
                let next: Vec<usize> = node.next.iter().map(|next| self.kinds[*next]).collect();
                let number = known.len();
                *known.entry((*kind, node.differs, node.differs_with_slash, next)).or_insert(number)
            };
            let kinds: Vec<usize> = self.nodes.iter().zip(&self.kinds).map(kind).collect();
            if known.len() == count {
                return;
            }
            (count, self.kinds) = (known.len(), kinds);
        }
    }

    /// Finds the nodes below which everything differs: the largest set of nodes that lead only to each other.
    fn find_whole(&mut self) {
        let mut is_whole: Vec<bool> = self.nodes.iter().map(|node| node.differs_with_slash).collect();
        loop {
            let holds =
                |at: usize| is_whole[at] && self.nodes[at].next.iter().all(|next| is_whole[*next] && self.nodes[*next].differs);
            let smaller: Vec<bool> = (0..is_whole.len()).map(holds).collect();
            if smaller == is_whole {
                break;
            }
            is_whole = smaller;
        }
        for (node, is_whole) in self.nodes.iter_mut().zip(is_whole) {
            node.all_below = is_whole;
        }
    }

    /// Patterns, without the base path, that stand for every path that differs; `None`: there are too many. Each comes from a
    /// shortest path that those before it do not stand for.
    fn patterns(&self, symbols: &[Symbol]) -> Option<BTreeSet<String>> {
        let rule = |pattern: &String| Rule::parse(&format!("* {pattern}")).ok();
        let mut patterns: BTreeSet<String> = self.witnesses(symbols).into_iter().collect();
        let mut rules: Vec<Rule> = patterns.iter().filter_map(rule).collect();
        while let Some((path, end)) = self.first_untold(&rules, symbols).ok()? {
            let more = self.widened(&path, end, symbols);
            rules.extend(more.iter().filter_map(rule));
            patterns.extend(more);
            if rules.len() > MAX_PATTERNS {
                return None;
            }
        }
        Some(patterns)
    }

    /// Patterns of a shortest path to each node where paths differ: each name that makes odds has one of its own.
    fn witnesses(&self, symbols: &[Symbol]) -> Vec<String> {
        let (mut seen, mut queue, mut found) = (BTreeSet::from([0]), VecDeque::from([(0, Vec::new())]), Vec::new());
        while let Some((at, path)) = queue.pop_front() {
            let (node, plain) = (&self.nodes[at], self.plainly(&path, symbols));
            let untold = |end: End| !plain.iter().any(|plain| end.differs(plain));
            if node.all_below && (node.differs || path.is_empty()) {
                // `/a/**` is `/a`, too.
                if untold(End::Whole) {
                    found.extend(self.widened(&path, End::Whole, symbols));
                }
                continue;
            }
            if node.differs && !path.is_empty() && untold(End::Plain) {
                found.extend(self.widened(&path, End::Plain, symbols));
            }
            if node.differs_with_slash && untold(End::Slash) {
                found.extend(self.widened(&path, End::Slash, symbols));
            }
            for (symbol, next) in node.next.iter().enumerate() {
                let longer = [path.as_slice(), &[symbol]].concat();
                if seen.insert(*next) {
                    queue.push_back((*next, longer));
                } else if self.nodes[*next].is_whole() && !node.next[..symbol].contains(next) {
                    // Another path has shown that node, but this one leads there, too.
                    let plain = self.plainly(&longer, symbols);
                    if !plain.iter().any(|plain| plain.is_whole()) {
                        found.extend(self.widened(&longer, End::Whole, symbols));
                    }
                }
            }
        }
        found
    }

    /// The shortest path that differs and that no rule of `told` stands for, and how it ends. A plain spelling speaks for the other
    /// ones.
    ///
    /// # Errors
    ///
    /// There are too many states.
    fn first_untold(&self, told: &[Rule], symbols: &[Symbol]) -> Result<Option<(Vec<usize>, End)>, TooManyStates> {
        let start = (0, told.iter().map(|rule| skip_any(rule, 1)).collect::<Vec<u128>>());
        // The path of no segment is none, whatever leads back to its node.
        let (mut seen, mut queue) = (HashSet::new(), VecDeque::from([(start, Vec::<usize>::new())]));
        let is_told = |states: &[u128]| told.iter().zip(states).any(|(rule, states)| states & (1 << rule.segments.len()) != 0);
        while let Some(((at, states), path)) = queue.pop_front() {
            let node = &self.nodes[at];
            let (plain, with_slash) = (
                self.plainly(&path, symbols),
                told.iter().zip(&states).map(|(rule, states)| after(rule, *states, "")).collect::<Vec<_>>(),
            );
            let untold = |end: End| !plain.iter().any(|plain| end.differs(plain));
            let differs = node.differs && !path.is_empty() && !is_told(&states) && untold(End::Plain);
            let differs_with_slash = node.differs_with_slash && !is_told(&with_slash) && untold(End::Slash);
            if differs || differs_with_slash {
                let is_whole = node.all_below && (node.differs || path.is_empty()) && untold(End::Whole);
                let end = if is_whole {
                    End::Whole
                } else if differs {
                    End::Plain
                } else {
                    End::Slash
                };
                return Ok(Some((path, end)));
            }
            for (symbol, next) in node.next.iter().enumerate() {
                let step = |(rule, states): (&Rule, &u128)| after(rule, *states, &symbols[symbol].segment);
                let progress: Vec<u128> = told.iter().zip(&states).map(step).collect();
                if seen.insert((self.kinds[*next], progress.clone())) {
                    queue.push_back(((*next, progress), [path.as_slice(), &[symbol]].concat()));
                }
            }
            if seen.len() > MAX_TOLD_STATES {
                return Err(TooManyStates);
            }
        }
        Ok(None)
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

    /// The nodes of the same path in plain spelling, which speaks for the other ones: without the script, or with any segment in
    /// its place.
    fn plainly(&self, path: &[usize], symbols: &[Symbol]) -> Vec<&Node> {
        let spelled = |at: usize| symbols[at].spells.unwrap_or(at);
        let may_lack = |index: usize, at: usize| symbols[at].is_script || (index == 0 && symbols[at].is_mount);
        let segments = || path.iter().copied().enumerate();
        let without = segments().filter(|(index, at)| !may_lack(*index, *at)).map(|(_, at)| spelled(at)).collect();
        let replaced = segments().map(|(index, at)| if may_lack(index, at) { 0 } else { spelled(at) }).collect();
        let others = [without, replaced].into_iter().filter(|plain: &Vec<usize>| plain != path);
        others.map(|plain| &self.nodes[plain.iter().fold(0, |at, symbol| self.nodes[at].next[*symbol])]).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use proptest::prelude::*;

    use super::{
        super::{is_canonical, lenient::LenientPath},
        *,
    };

    fn rules(texts: &[&str]) -> Vec<Rule> {
        texts.iter().map(|text| Rule::parse(text).unwrap()).collect()
    }

    type Texts<'a> = (Option<&'a [&'a str]>, &'a [&'a str]);

    fn difference(one: Texts<'_>, other: Texts<'_>) -> Vec<String> {
        let [one, other] = [one, other].map(|(allow, deny)| (allow.map(rules), rules(deny)));
        let found = set_of(&one).beyond("", &set_of(&other), "");
        assert!(found.is_complete);
        found.methods_by_path.iter().map(|(path, methods)| format!("{} {path}", methods.join(","))).collect()
    }

    fn set_of((allow, deny): &OwnedSet) -> RuleSet<'_> {
        RuleSet { allow: allow.as_deref(), deny }
    }

    #[test]
    fn what_one_set_lets_through_and_the_other_does_not_is_told_in_rules() {
        let all: Option<&[&str]> = None;
        assert_eq!(difference((Some(&["GET /a/**", "GET /b"]), &[]), (Some(&["GET /a/**"]), &[])), ["GET /b"]);
        let narrowed = difference((Some(&["GET /a/**"]), &[]), (Some(&["GET /a/*"]), &[]));
        assert_eq!(narrowed, ["GET /a", "GET /a/**/", "GET /a/*/*/**"]);
        assert_eq!(difference((all, &[]), (all, &["* /admin/**"])), ["* /admin/**"]);
        assert_eq!(difference((all, &[]), (all, &["GET /a/*/ssn"])), ["GET,HEAD /a/*/ssn", "GET,HEAD /a/*/ssn/"]);
        assert_eq!(difference((Some(&["GET /a/*"]), &[]), (Some(&["GET /a/*"]), &["* /a/x"])), ["GET /a/x"]);
        assert_eq!(difference((Some(&["* /a"]), &[]), (Some(&["GET /a"]), &[])), ["HEAD,OTHER /a"]);
        assert_eq!(difference((all, &[]), (Some(&[]), &[])), ["* /**"]);
        assert!(difference((Some(&["GET /a/x", "GET /a/*"]), &[]), (Some(&["GET /a/*"]), &[])).is_empty());
        let widened = difference((Some(&["GET /a", "GET /**/export/csv"]), &[]), (Some(&["GET /a"]), &[]));
        assert!(widened.contains(&"GET /**/export/csv".to_owned()), "{widened:?}");
        let below_a_named_one = difference((Some(&["GET /users/**"]), &[]), (Some(&["GET /users/account"]), &[]));
        assert!(below_a_named_one.contains(&"GET /users/account/*/**".to_owned()), "{below_a_named_one:?}");
        let undenied = difference((Some(&["GET /c/**"]), &[]), (Some(&["GET /c/**"]), &["GET /c/**/ssn"]));
        assert!(undenied.contains(&"GET /c/**/ssn".to_owned()), "{undenied:?}");
        // Two ways to match lead to one state.
        let twice = difference((Some(&["GET /**/a/**"]), &[]), (Some(&["GET /a/**"]), &[]));
        assert_eq!(twice, ["GET /**/*/a/**"]);
        assert_eq!(difference((Some(&["GET /**/**"]), &[]), (Some(&[]), &[])), ["GET /**"]);
        assert_eq!(difference((Some(&["GET /c/**/n/**"]), &[]), (Some(&[]), &[])), ["GET /c/**/n/**"]);
        assert_eq!(difference((Some(&["GET /**/b/**"]), &[]), (Some(&[]), &[])), ["GET /**/b/**"]);
        assert_eq!(difference((Some(&["GET /a/**/b/**/c"]), &[]), (Some(&[]), &[])), ["GET /a/**/b/**/c"]);
        // What follows leads back to the same state.
        assert_eq!(difference((Some(&["GET /c/**/"]), &[]), (Some(&[]), &[])), ["GET /c/**/"]);
        assert_eq!(difference((Some(&["GET /c/**"]), &[]), (Some(&["GET /c/**/"]), &[])), ["GET /c", "GET /c/**/*"]);
    }

    /// Servers answer the same routes below a mount and below a script, which a rule of `deny` knows.
    #[test]
    fn what_only_the_careless_reading_of_a_deny_refuses_is_a_difference() {
        let below: Option<&[&str]> = Some(&["GET /*/users"]);
        let below_scripts = ["GET /index.php/users", "GET /patient/users", "GET /public/users"];
        assert_eq!(difference((below, &[]), (below, &["* /users"])), below_scripts);
        let plain: Option<&[&str]> = Some(&["GET /users"]);
        assert_eq!(difference((plain, &[]), (plain, &["* /patient/users"])), ["GET /users"]);
        // The plain spelling speaks for the other ones.
        assert_eq!(difference((None, &[]), (None, &["* /a/x"])), ["* /a/x", "* /a/x/"]);
        assert_eq!(difference((None, &[]), (None, &["* /b/a"])), ["* /b/a", "* /b/a/"]);
        // Also where `allow` tells it from them.
        let named: Option<&[&str]> = Some(&["GET /a/x", "GET /*/x"]);
        assert_eq!(difference((named, &[]), (named, &["* /a/x"])), ["GET /a/x"]);
        // And for a mount that leads elsewhere than a script does, which is also a spelling of `index`.
        let below: Option<&[&str]> = Some(&["GET /a", "GET /*/a"]);
        assert_eq!(difference((below, &[]), (below, &["* /a", "* /index/a"])), ["GET /a", "GET /index/a"]);
    }

    #[test]
    fn a_segment_that_a_rule_names_is_no_other_segment() {
        for name in ["other0", "OTHER0"] {
            let [path, below] = [format!("* /{name}"), format!("* /{name}/")];
            assert_eq!(difference((None, &[]), (None, &[&path])), [path, below]);
        }
    }

    #[test]
    fn a_rule_of_too_many_segments_leaves_the_difference_incomplete() {
        for (segments, is_complete) in [(MAX_SEGMENTS, true), (MAX_SEGMENTS + 1, false)] {
            let long = [Rule::parse(&format!("GET {}", "/a".repeat(segments))).unwrap()];
            let [one, other] = [&long[..], &[]].map(|allow| RuleSet { allow: Some(allow), deny: &[] });
            assert_eq!(one.beyond("", &other, "").is_complete, is_complete, "{segments}");
        }
    }

    fn rule() -> impl Strategy<Value = Rule> {
        let segment = proptest::sample::select(vec!["a", "A", "b", "a.json", "index.php", "patient", "*", "*", "**"]);
        let path = (proptest::collection::vec(segment, 1..4), any::<bool>());
        (proptest::sample::select(vec!["*", "GET", "HEAD", "POST"]), path).prop_map(|(method, (segments, slash))| {
            Rule::parse(&format!("{method} /{}{}", segments.join("/"), if slash { "/" } else { "" })).unwrap()
        })
    }

    /// Rules of many stars, whose differences need many stars.
    fn starred() -> impl Strategy<Value = OwnedSet> {
        let segment = proptest::sample::select(vec!["a", "b", "*", "**", "**", "**"]);
        let path = (proptest::collection::vec(segment, 1..6), any::<bool>());
        let rule = path.prop_map(|(segments, slash)| {
            Rule::parse(&format!("GET /{}{}", segments.join("/"), if slash { "/" } else { "" })).unwrap()
        });
        proptest::collection::vec(rule, 0..3).prop_map(|allow| (Some(allow), Vec::new()))
    }

    type OwnedSet = (Option<Vec<Rule>>, Vec<Rule>);

    fn set() -> impl Strategy<Value = OwnedSet> {
        let few = || proptest::collection::vec(rule(), 0..3);
        (proptest::option::weighted(0.8, few()), few())
    }

    fn passes((allow, deny): &OwnedSet, method: &Method, path: &str) -> bool {
        let allowed = allow.as_ref().is_none_or(|rules| rules.iter().any(|rule| rule.matches(method, path)));
        allowed && !deny.iter().any(|rule| rule.denies(method, &LenientPath::new(path)))
    }

    /// Every canonical path of up to four segments over a small alphabet.
    fn paths() -> Vec<String> {
        let names = ["a", "A", "b", "other", "a.json", "A+", "b.JSON", "index.php", "Patient", ""];
        let (mut paths, mut all) = (vec![String::new()], Vec::new());
        for _ in 0..4 {
            paths = paths.iter().flat_map(|path| names.map(|name| format!("{path}/{name}"))).collect();
            all.extend(paths.iter().filter(|path| is_canonical(path)).cloned());
            paths.retain(|path| !path.ends_with('/'));
        }
        all
    }

    /// Paths without odd spellings, for which other ones speak.
    static PLAIN: LazyLock<Vec<String>> = LazyLock::new(|| {
        let is_plain = |segment: &str| ["", "a", "b", "other"].contains(&segment);
        paths().into_iter().filter(|path| path.split('/').all(is_plain)).collect()
    });

    /// Whether a list of methods stands for `method`, which `rules` name or don't.
    fn includes(methods: &[String], method: &Method, rules: &[&Rule]) -> bool {
        let names = self::methods(rules);
        let shown = if names.contains(method) { method.as_str() } else { "OTHER" };
        methods.iter().any(|named| named == "*" || named == shown)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]
        #[test]
        fn a_difference_is_found_where_there_is_one_and_nowhere_else(one in prop_oneof![set(), starred()], other in prop_oneof![set(), starred()]) {
            let found = set_of(&one).beyond("", &set_of(&other), "");
            // Many stars may need more patterns than are looked for.
            prop_assume!(found.is_complete);
            let rules: Vec<&Rule> = [&one, &other].iter().flat_map(|(allow, deny)| allow.iter().flatten().chain(deny)).collect();
            let unnamed = Method::from_bytes(b"OTHER").unwrap();
            let paths = paths();
            for method in [Method::GET, Method::HEAD, Method::POST, unnamed.clone()] {
                let differs = paths.iter().any(|path| passes(&one, &method, path) && !passes(&other, &method, path));
                let is_told = found.methods_by_path.values().any(|methods| includes(methods, &method, &rules));
                // A difference may need more segments than these paths have.
                prop_assert!(is_told || !differs, "{method} {found:?}");
            }
            // Each path that differs is among those that a pattern means, which may be more.
            let is_plain = rules.iter().flat_map(|rule| rule.words()).all(|word| ["a", "b"].contains(&word));
            for path in PLAIN.iter().filter(|_| is_plain).filter(|path| passes(&one, &Method::GET, path) && !passes(&other, &Method::GET, path)) {
                let is_meant = |(pattern, methods): (&String, &Vec<String>)| {
                    includes(methods, &Method::GET, &rules) && Rule::parse(&format!("* {pattern}")).unwrap().matches_path(path)
                };
                prop_assert!(found.methods_by_path.iter().any(is_meant), "{path} {found:?}");
            }
            // Each pattern is a difference: a star is a segment that no rule names.
            for (path, methods) in &found.methods_by_path {
                let (body, ends) = path.strip_suffix("/**").map_or((path.as_str(), [""; 3]), |body| (body, ["", "/", "/z/z/"]));
                for (inner, end) in ["", "/z", "/z/z/z"].into_iter().flat_map(|inner| ends.map(|end| (inner, end))) {
                    let concrete = (body.replace("/**", inner) + end).replace('*', "z");
                    for method in methods.iter().filter(|_| !concrete.is_empty()) {
                        let method = if method == "*" { unnamed.clone() } else { Method::from_bytes(method.as_bytes()).unwrap() };
                        prop_assert!(passes(&one, &method, &concrete) && !passes(&other, &method, &concrete), "{method} {concrete} {found:?}");
                    }
                }
            }
        }
    }
}
