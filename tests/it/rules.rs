//! `allow` and `deny`: what passes, what does not, and that nothing of the latter reaches upstream.

use rustix::process::Signal;

use crate::harness::{Answer, Http2, OK, RecordingUpstream, Request, Setup, Sidecar, simulator};

/// A problem's code, or the status of the upstream's own answer.
fn outcome(answer: &Answer) -> String {
    if answer.header("proxy-status").is_some() { answer.problem() } else { answer.status.to_string() }
}

fn asked(sidecar: &Sidecar, requests: &[(&str, &str)]) -> Vec<String> {
    requests.iter().map(|(method, target)| outcome(&sidecar.send(&Request::new(method, target)))).collect()
}

#[test]
fn only_what_allow_speaks_of_reaches_upstream_and_deny_wins() {
    let simulator = simulator();
    let mut setup = Setup::new(&simulator);
    setup.api("allow", r#"["GET /users/**", "* /_sim/echo"]"#).api("deny", r#"["* /users/*/secret", "DELETE /**"]"#);
    let sidecar = setup.start().ready();
    let control = simulator.control();
    control.reset_counts();
    let refused = [
        ("POST", "/users/account", "not_allowed"),
        ("GET", "/users/7/secret", "not_allowed"),
        ("DELETE", "/_sim/echo", "not_allowed"),
        ("GET", "/v2/products", "not_allowed"),
        ("GET", "/", "not_allowed"),
        ("GET", "/Users/account", "not_allowed"),
        ("GET", "/users/../v2/products", "not_canonical"),
        ("GET", "/users/%2e%2e/v2/products", "not_canonical"),
        ("GET", "/users//account", "not_canonical"),
        ("GET", "/users/7%2fsecret", "not_canonical"),
        ("GET", "/users/7/%73ecret", "not_canonical"),
        ("GET", "/users/7\\secret", "not_canonical"),
        ("GET", "/users/7%00", "not_canonical"),
        ("GET", "/users/7/secret;a", "not_canonical"),
        ("GET", "/users/7/secret%3ba", "not_canonical"),
        ("GET", "/users/7/secret%3fa", "not_canonical"),
        ("GET", "/users/7/secret%23", "not_canonical"),
        ("GET", "/users/7/%2573ecret", "not_canonical"),
        ("GET", "/users/7/secret.", "not_canonical"),
        ("GET", "/users/7/secret%20", "not_canonical"),
        ("GET", "/users/7%ef%bc%8fsecret", "not_canonical"),
        ("POST", "/patient/auth", "login_path"),
    ];
    for (method, target, code) in refused {
        assert_eq!(asked(&sidecar, &[(method, target)]), [code], "{method} {target}");
    }
    assert_eq!(control.counts().requests, 0, "nothing of it reached upstream");
    assert_eq!(asked(&sidecar, &[("GET", "/users/account"), ("PATCH", "/_sim/echo?a=/../b%2f")]), ["200", "200"]);
    assert_eq!(control.counts().requests, 2);
}

#[test]
fn the_problem_names_the_settings_and_nothing_of_the_request() {
    let simulator = simulator();
    let mut setup = Setup::new(&simulator);
    setup.api("allow", r#"["GET /users/**"]"#);
    let sidecar = setup.start().ready();
    for target in ["/patients/jane-doe", "/patients//jane-doe"] {
        let answer = sidecar.get(target);
        let document = answer.text();
        assert!(document.contains("`allow`") && document.contains("`deny`"), "{document}");
        assert!(!document.contains("jane-doe") && !document.contains("patients"), "{document}");
    }
    let lines = sidecar.wait_for_access_lines(3);
    assert!(lines.iter().any(|line| line["code"] == "not_allowed"), "{lines:?}");
    assert!(!sidecar.logs().contains("jane-doe"));
}

#[test]
fn over_http2_the_rules_are_the_same() {
    let simulator = simulator();
    let mut setup = Setup::new(&simulator);
    setup.api("deny", r#"["* /v2/**"]"#);
    let sidecar = setup.start().ready();
    let mut client = Http2::connect(sidecar.address());
    for (target, expected) in [("/users/account", "200"), ("/v2/products", "not_allowed"), ("/a/../v2/products", "not_canonical")]
    {
        assert_eq!(outcome(&client.send(&Request::get(target))), expected, "{target}");
    }
}

#[test]
fn the_base_path_is_part_of_what_is_judged() {
    let simulator = simulator();
    let mut setup = Setup::new(&simulator);
    setup.variable("CAREPORTALS_UPSTREAM", &format!("{}/_sim", simulator.base_url()));
    setup.variable("CAREPORTALS_LOGIN_URL", &format!("{}/patient/auth", simulator.base_url()));
    setup.api("allow", r#"["GET /_sim/echo"]"#);
    let sidecar = setup.start();
    assert_eq!(
        asked(&sidecar, &[("GET", "/echo"), ("GET", "/_sim/echo"), ("GET", "/bytes")]),
        ["200", "not_allowed", "not_allowed"]
    );
}

#[test]
fn an_empty_allow_lets_nothing_through() {
    let simulator = simulator();
    let mut setup = Setup::new(&simulator);
    setup.api("allow", "[]");
    let sidecar = setup.start();
    assert_eq!(asked(&sidecar, &[("GET", "/"), ("GET", "/users/account")]), ["not_allowed", "not_allowed"]);
}

#[test]
fn a_reload_changes_the_rules_for_the_next_request() {
    let simulator = simulator();
    let mut setup = Setup::new(&simulator);
    setup.settings("[apis.default]\ndeny = [\"* /users/**\"]\n");
    let sidecar = setup.start();
    let mut client = sidecar.connect();
    assert_eq!(outcome(&client.send(&Request::get("/users/account"))), "not_allowed");
    sidecar.setup.file("config.toml", "[apis.default]\ndeny = [\"* /v2/**\"]\n");
    sidecar.signal(Signal::HUP);
    sidecar.wait_for_log("reloaded");
    assert_eq!(outcome(&client.send(&Request::get("/users/account"))), "200");
    assert_eq!(outcome(&client.send(&Request::get("/v2/products"))), "not_allowed");
}

#[test]
fn a_star_in_allow_is_one_segment_that_is_not_empty() {
    let simulator = simulator();
    let mut setup = Setup::new(&simulator);
    setup.api("allow", r#"["GET /users/*", "GET /v2/**"]"#);
    let sidecar = setup.start().ready();
    let outcomes = asked(&sidecar, &[("GET", "/users/account"), ("GET", "/users/"), ("GET", "/users"), ("GET", "/users/7/")]);
    assert_eq!(outcomes, ["200", "not_allowed", "not_allowed", "not_allowed"]);
    assert_eq!(asked(&sidecar, &[("GET", "/v2/products"), ("get", "/v2/products")]), ["200", "not_allowed"]);
}

#[test]
fn no_spelling_of_a_denied_request_reaches_upstream() {
    let simulator = simulator();
    let mut setup = Setup::new(&simulator);
    setup.api("deny", r#"["* /users/*/ssn", "GET /v2/products"]"#);
    let sidecar = setup.start().ready();
    let control = simulator.control();
    control.reset_counts();
    for (method, target) in [
        ("GET", "/users/1/ssn"),
        ("GET", "/users/1/SSN"),
        ("GET", "/Users/1/ssn"),
        ("GET", "/users/1/ssn/"),
        ("GET", "/users/1/ssn.xml"),
        ("GET", "/users/1/%C3%9Fn"),
        ("POST", "/users/1/ssn?x"),
        ("GET", "/users/1/%ef%bd%93sn"),
        ("HEAD", "/V2/products/"),
        ("get", "/v2/products"),
    ] {
        let answer = sidecar.send(&Request::new(method, target));
        assert_eq!(answer.status, 403, "{method} {target}");
    }
    for target in ["/users/1/ssn;a", "/users//1/ssn", "/users/1/x/../ssn", "/users/1%2fssn"] {
        let answer = sidecar.get(target);
        assert!([400, 403].contains(&answer.status), "{target}: {answer:?}");
    }
    assert_eq!(control.counts().requests, 0, "nothing of it reached upstream");
    assert_eq!(asked(&sidecar, &[("GET", "/users/account")]), ["200"]);
}

/// The spellings that the drill of rules replays against real servers: what is expected, and the request.
fn corpus() -> impl Iterator<Item = (&'static str, Request)> {
    let lines = include_str!("../drills/rules/corpus.txt").lines();
    lines.filter(|line| !line.is_empty() && !line.starts_with('#')).map(|line| {
        let mut parts = line.split(" | ");
        let request: Vec<&str> = parts.next().unwrap().splitn(3, ' ').collect();
        let fields = parts.map(|field| field.split_once(": ").unwrap());
        (request[0], Request::new(request[1], request[2]).headers(fields))
    })
}

/// Plays the corpus under a prefix and in front of a base path. Both begin with a slash, or are empty.
#[track_caller]
fn nothing_of_the_corpus_arrives(prefix: &str, base: &str) {
    const REMOVED: [&str; 5] = ["method-override", "method_override", "x-http-method", "original-url", "rewrite-url"];
    let simulator = simulator();
    let upstream = RecordingUpstream::start(OK);
    let mut setup = upstream.setup(&simulator);
    setup.upstream(&format!("{}{base}", upstream.base_url()), &simulator);
    let rules =
        ["* /customers/*/ssn", "DELETE /customers/*", "GET /reports/**"].map(|rule| rule.replacen('/', &format!("{base}/"), 1));
    setup.api("deny", &format!("{rules:?}"));
    if !prefix.is_empty() {
        setup.api("prefix", prefix);
    }
    let sidecar = setup.start().ready_with(&Request::get(&format!("{prefix}/ready")));
    let mut sent = 0;
    for (expected, mut request) in corpus() {
        let line = format!("{} {}", request.method, request.target);
        let path = if request.target.starts_with(['/', '\\']) { 0 } else { request.target.match_indices('/').nth(2).unwrap().0 };
        request.target.insert_str(path, prefix);
        let before = upstream.requests().len();
        let answer = sidecar.send(&request);
        if expected != "pass" {
            // 404: no API has what a backslash makes of the prefix.
            assert!(matches!(answer.status, 400 | 403 | 404), "{line}: {answer:?}");
            assert_eq!(upstream.requests().len(), before, "{line}");
            continue;
        }
        sent += 1;
        assert_eq!(answer.status, 200, "{line}: {answer:?}");
        let arrived = upstream.requests().pop().unwrap();
        assert!(arrived.starts_with(&line.replacen('/', &format!("{base}/"), 1)), "{line}: {arrived}");
        assert!(!REMOVED.iter().any(|name| arrived.to_lowercase().contains(name)), "{line}: {arrived}");
    }
    assert!(sent > 10 && upstream.requests().len() == sent + 1);
}

#[test]
fn no_spelling_of_the_corpus_arrives() {
    nothing_of_the_corpus_arrives("", "");
}

#[test]
fn no_spelling_of_the_corpus_arrives_behind_a_prefix_or_in_front_of_a_base_path() {
    nothing_of_the_corpus_arrives("/crm", "");
    nothing_of_the_corpus_arrives("/crm", "/v1/x");
}
