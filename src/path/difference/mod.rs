//! Compares two sets of rules: which requests one lets through and the other does not. Pure.
//!
//! Both are automata over the segments of canonical paths. Segments fall into classes that no rule tells apart: each name that a
//! rule spells, its careless spellings, and all others. So the product of both automata is finite, and whatever differs has a
//! short witness.

mod graph;
mod patterns;

use std::collections::{BTreeMap, BTreeSet};

use http::Method;

use self::{graph::Graph, patterns::MAX_WORK};
use super::{Rule, lenient::LenientPattern, rule::Pattern, symbols::symbols, wildcard::covers};

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
        let mut is_complete = rules.iter().all(|rule| rule.segments.len() <= MAX_SEGMENTS);
        let (mut methods_by_path, mut work) = (BTreeMap::<String, Vec<String>>::new(), MAX_WORK);
        for method in &methods {
            let sides = [Side::new(self, method), Side::new(other, method)];
            let Ok(graph) = Graph::new(&sides, [base, other_base], &symbols) else {
                is_complete = false;
                continue;
            };
            let (patterns, is_whole) = graph.patterns(&symbols, &mut work);
            is_complete &= is_whole;
            for path in without_narrower(patterns) {
                methods_by_path.entry(format!("{base}{path}")).or_default().push(method.as_str().to_owned());
            }
        }
        for named in methods_by_path.values_mut().filter(|named| named.len() == methods.len()) {
            *named = vec!["*".to_owned()];
        }
        Difference { methods_by_path, is_complete }
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

#[cfg(test)]
mod tests;
