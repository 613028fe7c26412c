//! A list of rules that is fast however long it is: by one word of each rule it finds those that a path may match. Pure.
//!
//! Guarantee: the answers are those of a look at each rule in turn; the words only tell which rules can't match. However often a path
//! repeats a word, a rule is looked at once.

use std::{collections::HashMap, mem};

use http::Method;

use super::{
    decode::decode,
    lenient::{LenientPath, is_separator, name_of, names_that_match},
    rule::Rule,
    without_query,
};

/// A shorter list is looked at rule by rule.
const SHORT: usize = 8;
/// No API has a path of more segments. A longer one would cost each rule that it may match as many steps.
const SEGMENTS_MAX: usize = 256;

/// The rules of `allow` or `deny`, in their order.
pub struct RuleList {
    rules: Vec<Rule>,
    /// `None`: the list is short.
    words: Option<Words>,
}

impl RuleList {
    /// Keeps the order.
    #[must_use]
    pub fn new(rules: Vec<Rule>) -> Self {
        let words = (rules.len() > SHORT).then(|| Words::new(&rules));
        Self { rules, words }
    }

    /// Whether there is no rule.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// The first rule that matches, as one of `allow`; `path` is canonical and without a query. A path of more than 256 segments
    /// matches none.
    #[must_use]
    pub fn first_that_matches(&self, method: &Method, path: &str) -> Option<&Rule> {
        let decoded = decode(without_query(path).as_bytes());
        if has_many_segments(decoded.as_deref()) {
            return None;
        }
        self.first(decoded.as_deref(), |rule| rule.matches(method, path))
    }

    /// The first rule, as one of `deny`, for which a server could take the request, as it could for a log-in path. In doubt there
    /// is one.
    ///
    /// Case does not count, in the method neither, and `GET` denies `HEAD`, which servers answer from the same handler. A path of
    /// more than 256 segments is denied by each rule.
    #[must_use]
    pub fn first_that_denies(&self, method: &Method, path: &str) -> Option<&Rule> {
        let first = self.rules.first()?;
        let read = LenientPath::new(path);
        if has_many_segments(read.decoded()) {
            return Some(first);
        }
        self.first(read.decoded(), |rule| rule.denies(method, &read))
    }

    /// `decoded`: the path; `None`: it is encoded too often to be looked into.
    fn first(&self, decoded: Option<&[u8]>, matches: impl Fn(&Rule) -> bool) -> Option<&Rule> {
        let (Some(words), Some(decoded)) = (&self.words, decoded) else {
            return self.rules.iter().find(|rule| matches(rule));
        };
        let (mut first, mut is_tried) = (None, vec![false; self.rules.len()]);
        words.each_candidate(decoded, |number| {
            let is_new = !mem::replace(&mut is_tried[number], true);
            if is_new && first.is_none_or(|found| number < found) && matches(&self.rules[number]) {
                first = Some(number);
            }
        });
        first.map(|number| &self.rules[number])
    }
}

fn has_many_segments(decoded: Option<&[u8]>) -> bool {
    decoded.is_some_and(|decoded| decoded.iter().filter(|byte| is_separator(**byte)).count() > SEGMENTS_MAX)
}

/// The rarest word of each rule.
struct Words {
    rules: HashMap<Box<[u8]>, Vec<usize>>,
    /// Rules without a word.
    wordless: Vec<usize>,
    /// The length of the longest word.
    longest: usize,
}

impl Words {
    fn new(rules: &[Rule]) -> Self {
        let mut counts: HashMap<&[u8], usize> = HashMap::new();
        for word in rules.iter().flat_map(Rule::names) {
            *counts.entry(word).or_default() += 1;
        }
        let mut words = Self { rules: HashMap::new(), wordless: Vec::new(), longest: 0 };
        for (number, rule) in rules.iter().enumerate() {
            match rule.names().min_by_key(|word| counts[word]) {
                Some(word) => {
                    words.longest = words.longest.max(word.len());
                    words.rules.entry(word.into()).or_default().push(number);
                }
                None => words.wordless.push(number),
            }
        }
        words
    }

    /// Calls `visit` for each rule that the path may match, in any order.
    fn each_candidate(&self, decoded: &[u8], mut visit: impl FnMut(usize)) {
        self.wordless.iter().copied().for_each(&mut visit);
        let mut name = Vec::new();
        for raw in LenientPath::raw_names(decoded) {
            // A server in C stops at the first NUL.
            let until_nul = raw.iter().position(|byte| *byte == 0).map(|end| &raw[..end]);
            for raw in until_nul.into_iter().chain([raw]) {
                name_of(raw, &mut name);
                for word in names_that_match(&name, self.longest) {
                    self.rules.get(word).into_iter().flatten().copied().for_each(&mut visit);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use proptest::prelude::*;

    use super::*;

    fn list(rules: &[String]) -> RuleList {
        RuleList::new(rules.iter().map(|rule| Rule::parse(rule).unwrap()).collect())
    }

    #[test]
    fn of_a_long_list_the_first_rule_that_fits_is_found() {
        let mut rules: Vec<String> = (0..1000).map(|number| format!("GET /area{number}/*/sub")).collect();
        rules[500] = "GET /**".to_owned();
        rules[501] = "* /AREA7/*".to_owned();
        rules[502] = "* /secret".to_owned();
        let list = list(&rules);
        let first = |path| list.first_that_matches(&Method::GET, path).map(ToString::to_string);
        assert_eq!(first("/area7/1/sub").as_deref(), Some("GET /area7/*/sub"));
        assert_eq!(first("/area700/1/sub").as_deref(), Some("GET /**"));
        let denies = |path| list.first_that_denies(&Method::POST, path).map(ToString::to_string);
        assert_eq!(denies("/area7/1").as_deref(), Some("* /AREA7/*"));
        assert_eq!(denies("/Area7.json/1;x").as_deref(), Some("* /AREA7/*"));
        assert_eq!(denies("/area7+/1").as_deref(), Some("* /AREA7/*"));
        assert_eq!(denies("/area8/1"), None);
        // A server in C stops at the first NUL.
        assert_eq!(denies("/area7/1%00x").as_deref(), Some("* /AREA7/*"));
        assert_eq!(denies("/secret%00x").as_deref(), Some("* /secret"));
    }

    #[test]
    fn a_rule_is_looked_at_once_however_often_a_path_has_its_word() {
        let list = list(&vec!["* /a/*".to_owned(); 10]);
        for path in ["/a".repeat(200), "/a%00".repeat(200)] {
            let looks = Cell::new(0);
            let decoded = decode(path.as_bytes());
            let found = list.first(decoded.as_deref(), |_| {
                looks.set(looks.get() + 1);
                false
            });
            assert_eq!((found, looks.get()), (None, 10));
        }
    }

    #[test]
    fn a_path_of_very_many_segments_is_allowed_by_no_rule_and_denied_by_each() {
        for rules in [&["GET /**".to_owned()][..], &vec!["GET /**".to_owned(); 20]] {
            let list = list(rules);
            let found = |path: &str| {
                let denies = list.first_that_denies(&Method::POST, path).is_some();
                (list.first_that_matches(&Method::GET, path).is_some(), denies)
            };
            assert_eq!(found(&"/a".repeat(256)), (true, false));
            assert_eq!(found(&"/a".repeat(257)), (false, true));
            assert!(found(&"/a%5c".repeat(129)).1);
        }
        assert!(RuleList::new(Vec::new()).first_that_denies(&Method::GET, &"/a".repeat(257)).is_none());
    }

    /// Segments of rules and of paths that are alike to some server.
    fn word() -> impl Strategy<Value = &'static str> {
        prop::sample::select(
            &[
                "a",
                "A",
                "b",
                "a.json",
                "a.x",
                "a+",
                "a+.x",
                "ab",
                "a%3Ab",
                "a:b",
                "index.php",
                "patient",
                "Public",
                "a.b.c",
                "x",
                "%C3%9F",
                "ss",
            ][..],
        )
    }

    fn rule() -> impl Strategy<Value = String> {
        let segment = prop_oneof![4 => word(), 1 => Just("*"), 1 => Just("**")];
        let method = prop::sample::select(&["GET", "POST", "*"][..]);
        (method, prop::collection::vec(segment, 1..4)).prop_map(|(method, path)| format!("{method} /{}", path.join("/")))
    }

    fn path() -> impl Strategy<Value = String> {
        let odd = prop::sample::select(
            &["", "..", ".", "a;b", "a.", "a+++", "a%2fb", "%61", "a.jsonx", "a%00b", "a.json+", "\u{ff41}", "%25%36%31"][..],
        );
        prop::collection::vec(prop_oneof![3 => word(), 1 => odd], 1..5).prop_map(|path| format!("/{}", path.join("/")))
    }

    proptest! {
        #[test]
        fn a_long_list_says_what_its_rules_say_in_turn(rules in prop::collection::vec(rule(), SHORT + 1..30), path in path()) {
            let list = list(&rules);
            for method in [Method::GET, Method::HEAD, Method::POST] {
                let read = LenientPath::new(&path);
                let denies = list.rules.iter().find(|rule| rule.denies(&method, &read));
                prop_assert_eq!(list.first_that_denies(&method, &path), denies, "{} {:?}", path, rules);
                let matches = list.rules.iter().find(|rule| rule.matches(&method, &path));
                prop_assert_eq!(list.first_that_matches(&method, &path), matches, "{} {:?}", path, rules);
            }
        }
    }
}
