use http::Method;
use proptest::prelude::*;

use super::{lenient::LenientPath, *};

const NOT_CANONICAL: &[&str] = &[
    "",
    "a",
    "*",
    "//",
    "//a",
    "/a//b",
    "/a//",
    "/.",
    "/..",
    "/a/./b",
    "/a/../b",
    "/a/..",
    "/..;x/a",
    "/.;/a",
    "/%2e",
    "/%2E%2e/a",
    "/a%41",
    "/%7e",
    "/%2D",
    "/%5f",
    "/%30",
    "/a%2fb",
    "/a%2Fb",
    "/a%5cb",
    "/a\\b",
    "/%00",
    "/%0a",
    "/%7F",
    "/%",
    "/%4",
    "/%zz",
    "/a%",
    "/%u002f",
    "/ä",
    "/a b",
    "/a\tb",
    "/a?b",
    "/a#b",
    "/%c0%af",
    "/%C1%a1",
    "/%e0%80%af",
    "/%f0%80%80%af",
    "/%ff",
    "/a;x=1",
    "/;",
    "/a%3bx",
    "/a%3B",
    "/a%3fx",
    "/a%23x",
    "/%2541",
    "/%252541",
    "/a%252fb",
    "/%25u002f",
    "/...",
    "/a.",
    "/a./b",
    "/a%20",
    "/a%20/b",
    "/%20",
    "/a%20%20",
    "/a%c2%a0",
    "/a.%e2%80%8b",
    "/a.%f3%a0%81%81",
    "/..%e2%80%8b",
    "/%e2%80%8b",
    "/%ef%b8%8f%e2%80%8b/a",
    "/%c2%ad.",
    "/a%20%ef%b8%8f",
    "/a%ef%bc%8fb",
    "/a%E2%88%95b",
    "/a%e2%81%84b",
    "/%ef%bc%8e%ef%bc%8e/a",
    "/a%e2%80%a4b",
    "/%e2%80%a5",
    "/a%ef%bc%bcb",
    "/a%ef%bc%9bb",
];

#[test]
fn canonical_paths_have_one_meaning() {
    for path in [
        "/",
        "/a",
        "/a/",
        "/a/b.c",
        "/a%20b",
        "/%20a",
        "/%C3%A4",
        "/%c3%a4",
        "/a:b@c!$&'()*+,=",
        "/.a/..b/a.b",
        "/%25",
        "/100%25",
        "/100%25/ab",
        "/100%25zz",
        "/100%25u",
        "/100%25u12",
        "/100%25z1234",
        "/100%25under",
        "/%25%3A",
        "/%E2%80%93",
        "/%f0%9f%98%80",
        "/%e2%9d%a4%ef%b8%8f",
        "/a%e2%80%8d",
        "/%c2%ada",
        "/%f0%9f%91%a9%e2%80%8d%e2%9a%95%ef%b8%8f/b",
        "/a~b-_",
    ] {
        assert!(is_canonical(path), "{path}");
    }
    for path in NOT_CANONICAL {
        assert!(!is_canonical(path), "{path}");
    }
}

#[test]
fn a_prefix_strips_whole_segments() {
    let prefix = Prefix::parse("/emr/v1").unwrap();
    assert_eq!(prefix.as_str(), "/emr/v1");
    for (path, rest) in [
        ("/emr/v1/x", Some("/x")),
        ("/emr/v1", Some("/")),
        ("/emr/v1/", Some("/")),
        ("/emr/v1//x", Some("//x")),
        ("/emr/v12", None),
        ("/emr", None),
        ("/EMR/v1/x", None),
        ("/%65mr/v1/x", None),
        ("/x/emr/v1", None),
    ] {
        assert_eq!(prefix.strip(path), rest, "{path}");
    }
    for bad in ["", "/", "emr", "/emr/", "/emr//x", "/a/..", "/%61", "/a?b", "/a b", "/ä"] {
        assert!(Prefix::parse(bad).is_err(), "{bad}");
    }
    for (bad, fault) in
        [("emr", "begins with `/`"), ("/", "at least one segment"), ("/emr/", "at its end"), ("/a//b", "canonical")]
    {
        assert!(Prefix::parse(bad).unwrap_err().contains(fault), "{bad}");
    }
}

#[test]
fn rules_match_segment_by_segment() {
    let check = |rule: &str, matching: &[&str], others: &[&str]| {
        let rule = Rule::parse(rule).unwrap();
        for path in matching {
            assert!(rule.matches(&Method::GET, path), "{rule:?} {path}");
        }
        for path in others {
            assert!(!rule.matches(&Method::GET, path), "{rule:?} {path}");
        }
    };
    check("GET /a/*/b", &["/a/x/b", "/a/b/b"], &["/a/b", "/a/x/y/b", "/a/x/b/", "/A/x/b", "/a/x"]);
    check("GET /a", &["/a"], &["/a/", "/", "/a/b", "/b", "a"]);
    check("GET /a/", &["/a/"], &["/a", "/a/b"]);
    check("GET /", &["/"], &["/a", ""]);
    check("GET /**", &["/", "/a", "/a/b/"], &[]);
    check("GET /a/**", &["/a", "/a/", "/a/b", "/a/b/c/"], &["/", "/ab", "/b/a"]);
    check("GET /a/**/b", &["/a/b", "/a/x/b", "/a/x/y/b", "/a/b/b"], &["/a", "/a/b/", "/a/x", "/b"]);
    check("GET /**/a/*/b/**", &["/a/x/b", "/z/a/a/a/b/c", "/a/b/b"], &["/a/b", "/a/x/y/b"]);
    check("GET /a/*", &["/a/x"], &["/a", "/a/", "/a/x/", "/a/x/y"]);
    check("GET /*", &["/a"], &["/", "/a/"]);
    check("GET /a/*/", &["/a/x/"], &["/a/x", "/a/", "/a"]);
    check("GET /a/*/**", &["/a/x", "/a/x/", "/a/x/y"], &["/a", "/a/"]);
    check("GET /**/**", &["/", "/a/b/c"], &[]);
    check("* /a", &["/a"], &["/b"]);
    check("POST /a", &[], &["/a"]);
    check("GET /a:b/%c3%a4", &["/a:b/%C3%A4", "/a%3Ab/%c3%A4"], &["/a%3Ab/%C3%A5", "/a/%C3%A4"]);
}

fn denies(rule: &str, method: &str, path: &str) -> bool {
    let method = Method::from_bytes(method.as_bytes()).unwrap();
    Rule::parse(rule).unwrap().denies(&method, &LenientPath::new(path))
}

#[test]
fn deny_matches_every_spelling() {
    for path in [
        "/customers/1/ssn",
        "/customers/1/SSN",
        "/Customers/1/ssn",
        "/customers/1/ssn/",
        "/customers/1/ssn//",
        "/customers//1/ssn",
        "/customers//ssn",
        "/customers/1/ssn;a",
        "/customers;a/1/ssn",
        "/customers/1;a/ssn",
        "/customers/1/%73sn",
        "/customers/1/%2573sn",
        "/customers/1%2fssn",
        "/customers\\1\\ssn",
        "/customers/1/ssn.",
        "/customers/1/ssn%20",
        "/customers/1/ssn%2e%20",
        "/customers/1/ssn%00",
        "/customers/1/ssn%3fx",
        "/customers/1/ssn%23x",
        "/customers/1/x/../ssn",
        "/x/../customers/1/ssn",
        "/./customers/1/./ssn",
        "/customers/1/%ef%bd%93sn",
        "/customers/1/\u{17f}sn",
        "/patient/customers/1/ssn",
        "/Public/customers/1/ssn.tar.gz",
        "/customers/1/s%ed%a0%80sn",
    ] {
        assert!(denies("* /customers/*/ssn", "GET", path), "{path}");
    }
    for path in
        ["/customers/1", "/customers/1/ssnx", "/customers/1/2/ssn", "/customers/ssn", "/x/customers/1/ssn", "/", "/ssn", ""]
    {
        assert!(!denies("* /customers/*/ssn", "GET", path), "{path}");
    }
}

#[test]
fn deny_knows_that_the_same_routes_answer_below_patient_and_public() {
    assert!(denies("POST /users", "POST", "/patient/users"));
    assert!(denies("POST /patient/users", "POST", "/users"));
    assert!(denies("POST /patient/users", "POST", "/patient/users"));
    assert!(denies("GET /v2/products", "GET", "/public/v2/products"));
    assert!(!denies("POST /users", "POST", "/other/users"));
    assert!(!denies("POST /users", "POST", "/patient"));
    assert!(!denies("* /patient/**", "POST", "/users"), "all below the mount, and not all");
    assert!(!denies("* /patient", "POST", "/"));
}

#[test]
fn deny_knows_stars_as_allow_does_and_forgets_a_slash_at_the_end() {
    let check = |rule: &str, denied: &[&str], others: &[&str]| {
        for path in denied {
            assert!(denies(rule, "GET", path), "{rule} {path}");
        }
        for path in others {
            assert!(!denies(rule, "GET", path), "{rule} {path}");
        }
    };
    check("* /", &["/", "//", "/."], &["/a"]);
    check("* /**", &["/", "/a", "/a/b/"], &[]);
    check("* /a", &["/a", "/a/", "//a"], &["/", "/ab", "/a/b"]);
    check("* /a/", &["/a", "/a/"], &["/", "/a/b"]);
    // Some routers fill a parameter with nothing.
    check("* /a/*", &["/a/b", "/a/b/", "/a/"], &["/a", "/a/b/c", "/b/a"]);
    check("* /*/a", &["/b/a", "/b/a/", "/././a"], &["/a", "/b/a/c"]);
    check("* /a/**", &["/a", "/a/", "/A/b/c"], &["/", "/ab", "/b/a"]);
    check("* /a/**/b", &["/a/b", "/a/x/B", "/a/x/y/b/", "/a/b/b"], &["/a", "/a/x", "/b"]);
    check("* /**/a/*/b/**", &["/a/x/b", "/z/a/a/a/b/c", "/a/b/b"], &["/a/b", "/a/x/y/b"]);
    check("* /**/**/a", &["/a", "/x/a", "/x/y/a"], &["/", "/a/x"]);
    check("* /a:b/%C3%A4", &["/a:b/%C3%A4", "/a%3Ab/%c3%a4"], &["/a:b/%C3%A5"]);
    for spelling in ["%C3%84rzte/%CF%83", "%C3%A4RZTE/%CF%82"] {
        check(
            &format!("* /{spelling}"),
            &["/%C3%A4rzte/%CF%83", "/%C3%84rzte/%CE%A3", "/%25C3%2584rzte/%CF%82"],
            &["/%C3%96rzte/%CE%A3"],
        );
    }
}

#[test]
fn deny_reads_the_name_of_a_script_as_a_segment_and_as_none() {
    for path in ["/x/index.php", "/index.php/x", "/x/index.php/y", "/index.php"] {
        assert!(denies("* /**/*", "GET", path), "{path}");
    }
    assert!(denies("* /**/a", "GET", "/index.php/x/a"));
    assert!(denies("* /a/*", "GET", "/a/index.php") && denies("* /a", "GET", "/a/index.php"));
    assert!(!denies("* /a/*/b", "GET", "/a/index.php"));
}

#[test]
fn deny_ignores_the_case_of_methods_and_get_denies_head() {
    for method in ["GET", "get", "Get", "HEAD", "head"] {
        assert!(denies("GET /a", method, "/a"), "{method}");
    }
    for method in ["POST", "GETS", "OPTIONS"] {
        assert!(!denies("GET /a", method, "/a"), "{method}");
        assert!(denies("* /a", method, "/a"), "{method}");
    }
    assert!(denies("DELETE /a", "delete", "/a"));
    assert!(!denies("HEAD /a", "GET", "/a"));
}

#[test]
fn a_path_that_is_encoded_too_often_is_denied() {
    let deep = format!("/x%{}41", "25".repeat(20));
    assert!(denies("GET /a", "GET", &deep));
    assert!(!denies("GET /a", "POST", &deep));
    assert!(RuleList::new(Vec::new()).first_that_denies(&Method::GET, &deep).is_none());
}

#[test]
fn a_deny_of_very_many_segments_still_denies() {
    let deep = format!("/*{}", "/a".repeat(80));
    assert!(denies(&format!("* {deep}"), "GET", &deep.replace('*', "x")));
    assert!(!denies(&format!("* {deep}"), "GET", "/x/a/a"));
}

#[test]
fn a_malformed_rule_is_refused() {
    for bad in [
        "",
        "GET",
        "/a",
        "GET /a /b",
        "get /a",
        "GET a",
        "GET /a*",
        "GET /***",
        "G@T /a",
        "GET /a?b",
        "GET /a/../b",
        "GET /%61",
        "GET //",
        "GET /a;b",
        "GET /a.",
        "GET /a%2541",
    ] {
        assert!(Rule::parse(bad).is_err(), "{bad}");
    }
    assert!(Rule::parse("  PURGE\t/a ").unwrap().matches(&Method::from_bytes(b"PURGE").unwrap(), "/a"));
}

#[test]
fn a_rule_takes_time_in_proportion_to_the_path() {
    // An exponential matcher would not finish this.
    let rule = Rule::parse(&format!("GET {}/b", "/**/a".repeat(40))).unwrap();
    assert!(!rule.matches(&Method::GET, &"/a".repeat(5000)));
    assert!(rule.matches(&Method::GET, &format!("{}/b", "/a".repeat(5000))));
}

fn masked(path: &str, words: &Words) -> String {
    let mut out = Vec::new();
    mask(path, words, &mut out);
    String::from_utf8(out).unwrap()
}

#[test]
fn masking_shows_words_and_versions_only() {
    let rule = Rule::parse("GET /labs/*/results/**").unwrap();
    assert_eq!(rule.words().collect::<Vec<_>>(), ["labs", "results"]);
    let words = Words::new(rule.words().chain(["say\"so", "a/b"]));
    for (path, shown) in [
        ("/customers/64b5f0c2a1e3d4f5a6b7c8d9", "/customers/{…}"),
        ("/v2/checkout/64b5/start", "/v2/checkout/{…}/start"),
        ("/labs/7/results/", "/labs/{…}/results/"),
        ("/customers/lookups?keyword=jane@example.com", "/customers/lookups"),
        ("/users#jane", "/users"),
        ("/Users/account", "/{…}/account"),
        ("/%75sers", "/{…}"),
        ("/v", "/{…}"),
        ("/v1234/v123", "/{…}/v123"),
        ("/v1a", "/{…}"),
        ("/say\"so/a", "/{…}/{…}"),
        ("/jane@example.com", "/{…}"),
        ("/", "/"),
        ("//users", "//users"),
        ("", ""),
        ("*", "{…}"),
        ("jane", "{…}"),
        ("/..", "/{…}"),
    ] {
        assert_eq!(masked(path, &words), shown, "{path}");
    }
}

#[test]
fn a_long_path_makes_a_short_line() {
    let words = Words::new(["a"]);
    let shown = masked(&"/a".repeat(5000), &words);
    assert_eq!(shown, "/a".repeat(MAX_SEGMENTS_SHOWN) + "/…");
    let whole = "/a".repeat(MAX_SEGMENTS_SHOWN);
    assert_eq!(masked(&whole, &words), whole);
}

/// Matches in the simplest way.
fn matches_simply(rule: &[&str], path: &[&str]) -> bool {
    match (rule, path) {
        ([], []) => true,
        (["**", rest @ ..], _) => (0..=path.len()).any(|taken| matches_simply(rest, &path[taken..])),
        (["*", rest @ ..], [segment, path @ ..]) => !segment.is_empty() && matches_simply(rest, path),
        ([word, rest @ ..], [segment, path @ ..]) => word == segment && matches_simply(rest, path),
        _ => false,
    }
}

proptest! {
    #[test]
    fn a_rule_without_stars_matches_its_own_path_only(path in "(/[a-z:]{1,3}){1,4}/?", other in "(/[a-z:]{1,3}){1,4}/?") {
        let rule = Rule::parse(&format!("GET {path}")).unwrap();
        prop_assert_eq!(rule.matches(&Method::GET, &other), path == other);
        prop_assert!(rule.matches(&Method::GET, &path.replace(':', "%3a")));
    }

    #[test]
    fn stars_match_as_a_plain_recursion_would(
        rule in prop::collection::vec(prop::sample::select(&["a", "b", "*", "**", ""][..]), 1..6),
        mut path in prop::collection::vec(prop::sample::select(&["a", "b", "c"][..]), 1..7), slash in any::<bool>(),
    ) {
        if slash {
            path.push("");
        }
        let written = format!("GET /{}", rule.join("/"));
        if let Ok(parsed) = Rule::parse(&written) {
            prop_assert_eq!(parsed.matches(&Method::GET, &format!("/{}", path.join("/"))), matches_simply(&rule, &path), "{}", written);
        }
    }

    #[test]
    fn deny_matches_at_least_what_allow_does(
        rule in prop::collection::vec(prop::sample::select(&["a", "b", "*", "**", ""][..]), 1..6),
        path in "(/(a|b|A|%c3%a4|c)){0,6}/?", method in prop::sample::select(&["GET", "POST", "HEAD"][..]),
    ) {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        if let Ok(rule) = Rule::parse(&format!("GET /{}", rule.join("/"))) && rule.matches(&method, &path) {
            for path in [path.clone(), path.to_uppercase(), path.clone() + "/", path.replace('a', "%2561")] {
                prop_assert!(rule.denies(&method, &LenientPath::new(&path)), "{}", path);
            }
        }
    }

    #[test]
    fn masking_shows_nothing_but_words(path in "(/([a-z]{1,8}|users|v[0-9]{1,4}|\\PC{0,6})){0,6}(\\?\\PC{0,9})?", extra in "[a-z]{1,8}") {
        let words = Words::new([&extra]);
        for segment in masked(&path, &words).split('/') {
            let known = careportals::ROUTE_WORDS.contains(&segment) || segment == extra;
            prop_assert!(known || segment.is_empty() || segment == "{…}" || is_version(segment.as_bytes()), "{segment}");
        }
    }
}
