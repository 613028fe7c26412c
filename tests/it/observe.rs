//! `observe`: rules are judged and counted, and refuse nothing; and the rules that `rules` proposes from what was seen.

use crate::harness::{Answer, Http2, Request, Setup, simulator, until_some};

/// A problem's code, or the status of the upstream's own answer.
fn outcome(answer: &Answer) -> String {
    if answer.header("proxy-status").is_some() { answer.problem() } else { answer.status.to_string() }
}

fn observing(setup: &mut Setup) -> &mut Setup {
    setup.api("observe", "true").api("allow", r#"["GET /users/**"]"#).api("deny", r#"["* /v2/**"]"#)
}

#[test]
fn observed_rules_are_counted_and_refuse_nothing_and_all_else_is_refused_as_before() {
    let simulator = simulator();
    let mut setup = Setup::controlled(&simulator);
    observing(&mut setup).with_telemetry();
    let sidecar = setup.start().ready();
    sidecar.wait_for_log("NOT ENFORCED");
    let mut http2 = Http2::connect(sidecar.address());
    for (target, expected, would_refuse) in [
        ("/users/account", "200", None),
        ("/v2/products", "200", Some("not_allowed")),
        ("/V2/products", "404", Some("not_allowed")),
        ("/_sim/echo", "200", Some("not_allowed")),
        ("/_sim/../_sim/echo", "404", Some("not_canonical")),
        ("/patient/auth", "login_path", None),
    ] {
        let before = sidecar.wait_for_access_lines(1).len();
        assert_eq!(outcome(&sidecar.get(target)), expected, "{target}");
        assert_eq!(outcome(&http2.send(&Request::get(target))), expected, "{target} over HTTP/2");
        for line in &sidecar.wait_for_access_lines(before + 2)[before..] {
            assert_eq!(line.get("would_refuse").and_then(|code| code.as_str()), would_refuse, "{target}: {line}");
        }
    }
    let rebound = sidecar.send(&Request::get("/users/account").host("evil.example"));
    assert_eq!(outcome(&rebound), "host_not_allowed");

    let page = sidecar.telemetry("/metrics");
    let counted = |reason: &str, count: u32| {
        let line = format!("careportals_sidecar_would_refuse_total{{api=\"default\",reason=\"{reason}\"}} {count}\n");
        assert!(page.text().contains(&line), "{line}{}", page.text());
    };
    counted("not_allowed", 6);
    counted("not_canonical", 2);
    assert!(page.text().contains("careportals_sidecar_refusals_total{api=\"default\",reason=\"not_allowed\"} 0\n"));

    let status = sidecar.setup.output("status");
    assert!(status.stdout.contains("OBSERVES ONLY") && status.stdout.contains("refused: 8"), "{status:?}");
    let api = &sidecar.telemetry("/status").json()["apis"][0];
    assert_eq!((&api["observe"], &api["would_refuse"]), (&true.into(), &8.into()), "{api}");
}

#[test]
fn a_reload_without_observe_enforces_the_rules() {
    let simulator = simulator();
    let mut setup = Setup::controlled(&simulator);
    let rules = "[apis.default]\ndeny = [\"* /v2/**\"]\n";
    setup.settings(&format!("{rules}observe = true\n"));
    let sidecar = setup.start().ready();
    assert_eq!(outcome(&sidecar.get("/v2/products")), "200");
    sidecar.setup.file("config.toml", rules);
    assert_eq!(sidecar.setup.output("reload").code, Some(0));
    assert_eq!(outcome(&sidecar.get("/v2/products")), "not_allowed");
    let line =
        until_some("the request has its line", || sidecar.events().into_iter().find(|event| event["code"] == "not_allowed"));
    assert!(line.get("would_refuse").is_none(), "{line}");
}

/// Requests of an app, with what must not be in a list of rules.
const TRAFFIC: [(&str, &str); 9] = [
    ("GET", "/users/account"),
    ("GET", "/v2/products"),
    ("GET", "/customers/jane-doe"),
    ("GET", "/customers/652f/notes/jane@example.com"),
    ("GET", "/customers/*/**/"),
    ("DELETE", "/customers/652f?name=jane"),
    ("POST", "/orders/"),
    ("HEAD", "/"),
    ("GET", "/customers/jane%20doe/subscriptions"),
];

#[test]
fn the_rules_that_are_proposed_pass_check_let_the_same_traffic_through_and_name_nobody() {
    let simulator = simulator();
    let mut setup = Setup::controlled(&simulator);
    setup.settings("[apis.default]\nobserve = true\ndeny = [\"* /admin/**\"]\npath_words = [\"notes\"]\n");
    let sidecar = setup.start();
    let replay = || -> Vec<String> {
        TRAFFIC.iter().map(|(method, target)| outcome(&sidecar.send(&Request::new(method, target)))).collect()
    };
    let before = replay();
    for (method, target) in [("JANE", "/users"), ("GET", "/users//jane"), ("GET", "/ADMIN/jane"), ("OPTIONS", "*")] {
        sidecar.send(&Request::new(method, target));
    }
    let proposed = sidecar.setup.output("rules");
    assert_eq!(proposed.code, Some(0), "{proposed:?}");
    let list = "allow = [\n    \"DELETE /customers/*\",\n    \"GET /customers/*\",\n    \"GET /customers/*/*/\",\n    \
                \"GET /customers/*/notes/*\",\n    \"GET /customers/*/subscriptions\",\n    \"GET /users/account\",\n    \
                \"GET /v2/products\",\n    \"HEAD /\",\n    \"POST /orders/\",\n]\n";
    assert_eq!(proposed.stdout, list);
    assert!(proposed.stderr.starts_with("note: 4 requests are in no rule: `deny`"), "{proposed:?}");
    assert!(!proposed.all().to_lowercase().contains("jane"));

    sidecar.setup.file("config.toml", &format!("[apis.default]\n{list}path_words = [\"notes\"]\n"));
    let checked = sidecar.setup.output("check");
    // The password of the tests is given directly.
    assert!(checked.stdout.ends_with("1 API, 2 warnings\n"), "{checked:?}");
    assert_eq!(sidecar.setup.output("reload").code, Some(0));
    assert_eq!(replay(), before);
    assert_eq!(outcome(&sidecar.get("/orders/")), "not_allowed");

    let ended = sidecar.setup.output("rules");
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(1), ""), "{ended:?}");
    assert!(ended.stderr.contains("observe = true"), "{ended:?}");
}

#[test]
fn with_several_apis_rules_are_those_of_the_one_that_is_named() {
    let simulator = simulator();
    let mut setup = Setup::controlled(&simulator);
    let api = |name: &str| {
        let upstream = simulator.base_url();
        format!("[apis.{name}]\nlisten = [\"127.0.0.1:0\"]\nupstream = \"{upstream}/v2\"\nobserve = true\n")
    };
    let log_in = format!("[accounts.default]\nlogin_url = \"{}/patient/auth\"\n", simulator.base_url());
    setup.settings(&format!("{log_in}{}{}", api("a"), api("b"))).without("CAREPORTALS_UPSTREAM").without("CAREPORTALS_LISTEN");
    let sidecar = setup.start();
    assert_eq!(outcome(&sidecar.connect_to("b").send(&Request::get("/products"))), "200");
    let several = sidecar.setup.output("rules");
    assert_eq!((several.code, several.stdout.as_str()), (Some(1), ""), "{several:?}");
    assert!(several.stderr.contains("rules NAME"), "{several:?}");
    assert_eq!(sidecar.setup.output_of(&["rules", "b"]).stdout, "allow = [\n    \"GET /v2/products\",\n]\n");
    let none = sidecar.setup.output_of(&["rules", "a"]);
    assert_eq!((none.code, none.stdout.as_str()), (Some(0), "allow = [\n]\n"), "{none:?}");
    assert!(none.stderr.contains("has seen no request yet"), "{none:?}");
    assert_eq!(sidecar.setup.output_of(&["rules", "nowhere"]).code, Some(1));
}
