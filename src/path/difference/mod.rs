//! Compares two sets of rules: which requests one lets through and the other does not. Pure.
//!
//! Both are automata over the segments of canonical paths. Segments fall into classes that no rule tells apart: each name that a
//! rule spells, its careless spellings, and all others. So the product of both automata is finite, and whatever differs has a
//! short witness.

mod automaton;
mod graph;
mod patterns;

use std::collections::{BTreeMap, BTreeSet};

use http::Method;

use self::{
    automaton::{Automaton, MAX_SEGMENTS},
    graph::{Graph, Part, Role, Terms},
};
use super::{
    Rule,
    symbols::{Symbol, symbols},
    wildcard::covers,
};

/// How much is looked at in all: for each state, each class of segments with each rule that may still match counts. That takes half a
/// second.
const MAX_WORK: usize = 10_000_000;

/// Methods that are never served, whatever rules say.
const NEVER_SERVED: [&str; 2] = ["CONNECT", "TRACE"];

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
        let parts = parts([(self, base), (other, other_base)], &symbols);
        let allows_all = [self, other].map(|set| set.allow.is_none());
        let terms = Terms { allows_all, has_same_base: base == other_base, symbols: &symbols };
        let mut is_complete = rules.iter().all(|rule| rule.segments.len() <= MAX_SEGMENTS);
        let (mut methods_by_path, mut work) = (BTreeMap::<String, Vec<String>>::new(), MAX_WORK);
        for method in &methods {
            let graph = Graph::new(&parts, terms, method, &mut work);
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

/// The rules of both sets, each as an automaton that has read its base path.
fn parts<'a>(sets: [(&RuleSet<'a>, &str); 2], symbols: &[Symbol]) -> Vec<Part<'a>> {
    let mut parts = Vec::new();
    for ((set, base), [allow, deny]) in sets.into_iter().zip([[Role::Allow, Role::Deny], [Role::OtherAllow, Role::OtherDeny]]) {
        let short = |rules: &'a [Rule]| rules.iter().filter(|rule| rule.segments.len() <= MAX_SEGMENTS);
        let allows = set.allow.into_iter().flat_map(short).map(|rule| (allow, rule, Automaton::exact(rule, base, symbols)));
        parts.extend(allows.map(|(role, rule, automaton)| Part { role, rule, automaton }));
        let denies =
            short(set.deny).map(|rule| Part { role: deny, rule, automaton: Automaton::lenient(&rule.lenient, base, symbols) });
        parts.extend(denies);
    }
    parts
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

/// The methods that rules tell apart, and one that none names: `OTHER`, or a longer word where a rule has that.
fn methods(rules: &[&Rule]) -> Vec<Method> {
    let mut names: BTreeSet<&str> = rules.iter().filter_map(|rule| rule.method()).map(Method::as_str).collect();
    if names.contains("GET") {
        names.insert("HEAD");
    }
    let mut other = "OTHER".to_owned();
    while names.contains(other.as_str()) {
        other.insert_str(0, "ANY-");
    }
    let served = names.into_iter().filter(|name| !NEVER_SERVED.contains(name)).chain([other.as_str()]);
    served.filter_map(|name| Method::from_bytes(name.as_bytes()).ok()).collect()
}

#[cfg(test)]
mod tests;
