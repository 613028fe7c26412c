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
fn a_method_that_rules_name_is_no_other_method_and_what_is_never_served_is_not_told() {
    let named: Option<&[&str]> = Some(&["OTHER /b"]);
    assert_eq!(difference((Some(&["* /b"]), &[]), (named, &[])), ["ANY-OTHER /b"]);
    assert_eq!(difference((named, &[]), (Some(&[]), &[])), ["OTHER /b"]);
    assert!(difference((Some(&["TRACE /a", "CONNECT /a"]), &[]), (Some(&[]), &[])).is_empty());
}

#[test]
fn of_too_many_differences_some_are_told() {
    let many: Vec<Rule> = (0..12).map(|at| Rule::parse(&format!("GET /**/a{at}/**/b{at}")).unwrap()).collect();
    let [one, other] = [&many[..], &[]].map(|allow| RuleSet { allow: Some(allow), deny: &[] });
    let found = one.beyond("", &other, "");
    assert!(!found.is_complete && found.methods_by_path.contains_key("/**/a0/**/b0"), "{found:?}");
}

#[test]
fn what_was_not_looked_at_is_no_difference() {
    let rules = rules(&["GET /a/**"]);
    let (all, some) = (RuleSet { allow: None, deny: &[] }, RuleSet { allow: Some(&rules), deny: &[] });
    let symbols = symbols(&rules.iter().collect::<Vec<_>>(), false);
    let terms = Terms { allows_all: [true, false], has_same_base: true, symbols: &symbols };
    let graph = Graph::new(&parts([(&all, ""), (&some, "")], &symbols), terms, &Method::GET, &mut 0);
    assert!(!graph.is_complete && graph.nodes.iter().skip(1).all(|node| !node.differs && !node.all_below));
}

#[test]
fn a_change_of_one_rule_among_many_is_told_as_it_would_be_alone() {
    let rules = |count: usize| (0..count).map(|at| Rule::parse(&format!("GET /v2/a{at}/*/b{at}")).unwrap()).collect::<Vec<_>>();
    let deny = [Rule::parse("* /**/ssn").unwrap()];
    let [one, other] = [rules(60), rules(59)];
    let found = RuleSet { allow: Some(&one), deny: &deny }.beyond("", &RuleSet { allow: Some(&other), deny: &deny }, "");
    assert!(found.is_complete, "{found:?}");
    assert_eq!(found.methods_by_path.into_iter().collect::<Vec<_>>(), [("/v2/a59/*/b59".to_owned(), vec!["GET".to_owned()])]);
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
    let rules = || proptest::collection::vec(rule.clone(), 0..3);
    (rules(), rules()).prop_map(|(allow, deny)| (Some(allow), deny))
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
