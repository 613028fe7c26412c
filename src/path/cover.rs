//! Tells which rules can never decide about a request, for the warnings of `check`. Pure.

use http::Method;

use super::{
    rule::{Pattern, Rule},
    wildcard::covers,
};

impl Rule {
    /// Whether the rule, as one of `allow`, lets everything through that `other` does. It may say no where that is so.
    #[must_use]
    pub fn allows_all_of(&self, other: &Self) -> bool {
        let by_method = self.method.is_none() || self.method == other.method;
        by_method && covers(&self.segments, &other.segments, &Pattern::Any, takes)
    }

    /// Whether the rule, as one of `deny`, refuses everything that `other` does. It may say no where that is so.
    #[must_use]
    pub fn denies_all_of(&self, other: &Self) -> bool {
        let by_method = match (&self.method, &other.method) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(_), Some(method)) => self.denies_method(method),
        };
        by_method && self.lenient.covers(&other.lenient)
    }

    /// Whether the rule, as one of `allow`, matches some path under `base`, which has no slash at its end.
    #[must_use]
    pub fn may_allow_under(&self, base: &str) -> bool {
        goes_on_below(&self.segments, base.split('/').skip(1))
    }

    /// Whether the rule, as one of `deny`, matches some path under `base`.
    #[must_use]
    pub fn may_deny_under(&self, base: &str) -> bool {
        self.lenient.may_be_under(base)
    }

    /// The only path that the rule, as one of `allow`, matches; `None` when it has a `*`.
    #[must_use]
    pub fn only_path(&self) -> Option<String> {
        let is_literal = |pattern: &Pattern| matches!(pattern, Pattern::Literal(_));
        self.segments.iter().all(is_literal).then(|| self.path())
    }

    /// The path as it is written in the settings.
    #[must_use]
    pub fn path(&self) -> String {
        self.segments.iter().flat_map(|segment| ["/", segment.as_written()]).collect()
    }

    /// The method that the rule names; `None` for `*`.
    #[must_use]
    pub fn method(&self) -> Option<&Method> {
        self.method.as_ref()
    }
}

/// Whether `pattern` takes every segment that `other` stands for.
fn takes(pattern: &Pattern, other: &Pattern) -> bool {
    match (pattern, other) {
        (_, Pattern::Any) | (Pattern::Literal(_), Pattern::One) => false,
        (pattern, Pattern::Literal(word)) => pattern.fits(word),
        (Pattern::One | Pattern::Any, Pattern::One) => true,
    }
}

/// Whether `patterns` match a path that begins with the segments of `base` and has one more at least.
fn goes_on_below<'a>(patterns: &[Pattern], base: impl Iterator<Item = &'a str>) -> bool {
    let mut patterns = patterns.iter();
    for segment in base {
        match patterns.next() {
            // It takes the rest of the base path, and what the further patterns match may follow.
            Some(Pattern::Any) => return true,
            Some(pattern) if pattern.fits(segment) => {}
            _ => return false,
        }
    }
    patterns.next().is_some()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::lenient::LenientPath, *};
    use crate::path::is_canonical;

    /// Rules over a small alphabet, in which some names are alike to a careless server.
    fn rule() -> impl Strategy<Value = Rule> {
        let segment = proptest::sample::select(vec!["a", "A", "b", "a.json", "index.php", "*", "*", "**"]);
        let path = (proptest::collection::vec(segment, 1..5), any::<bool>());
        (proptest::sample::select(vec!["*", "GET", "HEAD", "POST"]), path).prop_map(|(method, (segments, slash))| {
            let end = if slash { "/" } else { "" };
            Rule::parse(&format!("{method} /{}{end}", segments.join("/"))).unwrap()
        })
    }

    /// Every canonical path of up to four segments over a small alphabet.
    fn paths() -> Vec<String> {
        let names = ["a", "A", "b", "c", "a.json", "index.php", ""];
        let mut paths = vec![String::new()];
        let mut all = Vec::new();
        for _ in 0..4 {
            paths = paths.iter().flat_map(|path| names.map(|name| format!("{path}/{name}"))).collect();
            all.extend(paths.iter().filter(|path| is_canonical(path)).cloned());
            paths.retain(|path| !path.ends_with('/'));
        }
        all
    }

    fn denies(rule: &Rule, method: &Method, path: &str) -> bool {
        rule.denies(method, &LenientPath::new(path))
    }

    #[test]
    fn a_wider_rule_makes_a_narrower_one_superfluous() {
        for (wide, narrow, allows, denies) in [
            ("* /a/**", "GET /a/b/c", true, true),
            ("GET /a/*", "GET /a/b", true, true),
            ("GET /a/*", "GET /a/", false, false),
            ("GET /a", "GET /a", true, true),
            ("GET /a", "HEAD /a", false, true),
            ("GET /A/", "GET /a", false, true),
            ("GET /a", "* /a", false, false),
            ("GET /a/b", "GET /a/*", false, false),
            ("GET /**/b", "GET /a/**/b", true, true),
            ("GET /a/**/b", "GET /**/b", false, false),
            ("GET /a/**", "GET /a", true, true),
        ] {
            let [wide, narrow] = [wide, narrow].map(|text| Rule::parse(text).unwrap());
            assert_eq!((wide.allows_all_of(&narrow), wide.denies_all_of(&narrow)), (allows, denies), "{wide} {narrow}");
        }
    }

    #[test]
    fn a_rule_that_can_match_nothing_under_the_base_path_is_told_from_one_that_can() {
        for (rule, base, may_allow, may_deny) in [
            ("GET /", "", true, true),
            ("GET /a", "/a", false, true),
            ("GET /a/", "/a", true, true),
            ("GET /a/b", "/a", true, true),
            ("GET /*/b", "/a", true, true),
            ("GET /b/**", "/a", false, false),
            ("GET /a/b", "/a/c", false, false),
            ("GET /a/b/c", "/a/b", true, true),
            ("GET /*", "/a/b", false, false),
            ("GET /a/**", "/a", true, true),
            ("GET /a/**/c", "/a/b/b", true, true),
            ("GET /**/c", "/a/b", true, true),
        ] {
            let parsed = Rule::parse(rule).unwrap();
            assert_eq!((parsed.may_allow_under(base), parsed.may_deny_under(base)), (may_allow, may_deny), "{rule} {base}");
        }
    }

    #[test]
    fn a_rule_without_stars_has_one_path() {
        let only = |rule: &str| Rule::parse(rule).unwrap().only_path();
        assert_eq!(only("GET /a/b/").as_deref(), Some("/a/b/"));
        assert_eq!(only("GET /").as_deref(), Some("/"));
        assert_eq!((only("GET /a/*"), only("GET /a/**/b")), (None, None));
        assert_eq!(Rule::parse("*  /a/*/**/b%20c").unwrap().path(), "/a/*/**/b%20c");
    }

    #[test]
    fn a_rule_whose_end_is_not_compared_is_not_superfluous() {
        let cut = Rule::parse(&format!("* {}/b", "/a".repeat(63))).unwrap();
        assert!(!Rule::parse("* /**/a").unwrap().denies_all_of(&cut));
        assert!(!cut.denies_all_of(&cut), "it may say no where that is so");
    }

    #[test]
    fn many_stars_cost_little() {
        let deep = |segments: &str| Rule::parse(&format!("GET {}/b", segments.repeat(30))).unwrap();
        assert!(!deep("/**/a").allows_all_of(&Rule::parse(&format!("GET {}", "/a".repeat(500))).unwrap()));
        assert!(!deep("/**/a").denies_all_of(&Rule::parse(&format!("GET {}", "/a".repeat(60))).unwrap()));
        assert!(deep("/**/a").may_allow_under(&"/a".repeat(500)));
    }

    proptest! {
        #[test]
        fn what_is_called_superfluous_is(wide in rule(), narrow in rule()) {
            let (allows, denied) = (wide.allows_all_of(&narrow), wide.denies_all_of(&narrow));
            for path in paths() {
                for method in [Method::GET, Method::HEAD, Method::POST, Method::from_bytes(b"get").unwrap()] {
                    if allows && narrow.matches(&method, &path) {
                        prop_assert!(wide.matches(&method, &path), "{wide} {narrow} {method} {path}");
                    }
                    if denied && denies(&narrow, &method, &path) {
                        prop_assert!(denies(&wide, &method, &path), "{wide} {narrow} {method} {path}");
                    }
                }
            }
        }

        #[test]
        fn what_is_said_to_match_nothing_under_the_base_path_does_not(rule in rule(), base in "(/(a|b|A)){0,2}") {
            let (allows, denied) = (rule.may_allow_under(&base), rule.may_deny_under(&base));
            for path in paths().into_iter().filter(|path| path.strip_prefix(&base).is_some_and(|rest| rest.starts_with('/'))) {
                for method in [Method::GET, Method::HEAD, Method::POST] {
                    prop_assert!(allows || !rule.matches(&method, &path), "{rule} {base} {path}");
                    prop_assert!(denied || !denies(&rule, &method, &path), "{rule} {base} {path}");
                }
            }
        }
    }
}
