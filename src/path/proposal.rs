//! Proposes the rules that would let through the requests that were seen. Pure.
//!
//! Guarantees: a rule holds no segment of a request but known words and versions, which name no person; memory is bounded.

use std::collections::BTreeSet;

use http::Method;

use super::{Rule, Words};

/// How many rules are kept.
const MAX_RULES: usize = 1000;

/// How many segments a rule names; `**` stands for further ones.
const MAX_SEGMENTS: usize = 32;

/// The methods that a rule may name: a client can send any other word, even a name.
const METHODS: [Method; 7] =
    [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::DELETE, Method::OPTIONS, Method::PATCH];

/// The rules for what was seen so far.
#[derive(Clone, Debug, Default)]
pub struct ProposedRules {
    rules: BTreeSet<String>,
    is_full: bool,
    left_out: u64,
}

impl ProposedRules {
    /// Adds the rule for a request, unless there are too many. `path` is canonical, as the upstream gets it; its beginning is
    /// `base`, the upstream's base path.
    pub fn see(&mut self, method: &Method, path: &str, base: &str, words: &Words) {
        if !METHODS.contains(method) {
            return self.leave_out();
        }
        let rule = rule_for(method, path, base, words);
        if self.rules.contains(&rule) {
            return;
        }
        if self.rules.len() == MAX_RULES {
            self.is_full = true;
        } else {
            self.rules.insert(rule);
        }
    }

    /// Counts a request that no rule is proposed for.
    pub fn leave_out(&mut self) {
        self.left_out += 1;
    }

    /// The rules in alphabetical order, without those that another one makes superfluous.
    #[must_use]
    pub fn rules(&self) -> Vec<String> {
        let parsed: Vec<Rule> = self.rules.iter().filter_map(|text| Rule::parse(text).ok()).collect();
        let is_needed = |rule: &&Rule| !parsed.iter().any(|other| other != *rule && other.allows_all_of(rule));
        parsed.iter().filter(is_needed).map(ToString::to_string).collect()
    }

    /// Whether some requests have no rule, since there are too many rules.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.is_full
    }

    /// How many requests were left out.
    #[must_use]
    pub fn left_out(&self) -> u64 {
        self.left_out
    }
}

fn rule_for(method: &Method, path: &str, base: &str, words: &Words) -> String {
    let in_base = base.split('/').count() - 1;
    let mut rule = format!("{method} ");
    for (at, segment) in path.split('/').skip(1).enumerate() {
        rule.push('/');
        if at == MAX_SEGMENTS {
            rule.push_str("**");
            break;
        }
        // A star in a segment can't be written in a rule.
        let is_known = (at < in_base || words.shows(segment.as_bytes())) && !segment.contains('*');
        rule.push_str(if is_known { segment } else { "*" });
    }
    rule
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::path::is_canonical;

    fn seen(requests: &[(&str, &str)], base: &str, words: &[&str]) -> ProposedRules {
        let (mut proposed, words) = (ProposedRules::default(), Words::new(words));
        for (method, path) in requests {
            proposed.see(&Method::from_bytes(method.as_bytes()).unwrap(), path, base, &words);
        }
        proposed
    }

    #[test]
    fn segments_that_are_no_words_become_stars() {
        let requests = [
            ("GET", "/base*/x/customers/652f/notes"),
            ("GET", "/base*/x/customers/jane%20doe/notes"),
            ("POST", "/base*/x/v2/orders/"),
            ("GET", "/base*/x/*/**"),
            ("GET", "/base*/x/"),
            ("GET", "/base*/x/jane"),
            ("JANE", "/base*/x/orders"),
            ("JOHN", "/base*/x/orders"),
        ];
        let proposed = seen(&requests, "/base*/x", &["notes"]);
        let expected = ["GET /*/x/", "GET /*/x/*", "GET /*/x/*/*", "GET /*/x/customers/*/notes", "POST /*/x/v2/orders/"];
        assert_eq!(proposed.rules(), expected);
        assert_eq!((proposed.left_out(), proposed.is_full()), (2, false));
    }

    #[test]
    fn a_rule_that_another_one_makes_superfluous_is_left_out() {
        let proposed = seen(&[("GET", "/orders/7"), ("GET", "/orders/start"), ("HEAD", "/orders/start")], "", &[]);
        assert_eq!(proposed.rules(), ["GET /orders/*", "HEAD /orders/start"]);
    }

    #[test]
    fn a_long_path_makes_a_short_rule_and_there_is_a_limit_of_rules() {
        let mut proposed = seen(&[("GET", &"/orders".repeat(10_000))], "", &[]);
        assert_eq!(proposed.rules(), [format!("GET {}/**", "/orders".repeat(MAX_SEGMENTS))]);
        let words = Words::new((0..2000).map(|number| format!("w{number}")));
        for number in 0..2000 {
            proposed.see(&Method::GET, &format!("/w{number}"), "", &words);
            assert_eq!(proposed.is_full(), number > MAX_RULES - 2, "{number}");
        }
        assert_eq!(proposed.rules().len(), MAX_RULES);
    }

    proptest! {
        #[test]
        fn what_was_seen_passes_by_the_rules_that_are_proposed(
            paths in proptest::collection::vec("(/[a-c*%20v1]{1,3}|/orders){1,5}/?", 1..20), base in "(/b){0,2}",
        ) {
            let paths: Vec<String> = paths.iter().map(|path| format!("{base}{path}")).filter(|path| is_canonical(path)).collect();
            let requests: Vec<(&str, &str)> = paths.iter().map(|path| ("GET", path.as_str())).collect();
            let rules: Vec<Rule> = seen(&requests, &base, &["a"]).rules().iter().map(|rule| Rule::parse(rule).unwrap()).collect();
            for path in &paths {
                prop_assert!(rules.iter().any(|rule| rule.matches(&Method::GET, path)), "{path} {rules:?}");
            }
        }
    }
}
