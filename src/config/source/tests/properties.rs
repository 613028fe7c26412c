//! Whatever is wrong: no panic, a fault for every refusal, and no secret in what is printed.

use proptest::prelude::*;

use super::*;

/// Long and odd enough to be nobody's but ours.
const CANARY: &str = "cAn4ry-9f3b";

fn everything_printed(loaded: &Loaded) -> String {
    let mut out = Vec::new();
    render_check(loaded, &mut out).unwrap();
    render_effective(loaded, &mut out).unwrap();
    format!("{}{:?}{:?}", String::from_utf8_lossy(&out), loaded.faults, loaded.config)
}

fn check(loaded: &Loaded) -> String {
    assert_eq!(loaded.config.is_none(), !loaded.faults.is_empty());
    everything_printed(loaded)
}

/// A TOML value that may hold the canary anywhere.
fn value() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just(format!("\"{CANARY}\"")),
        Just(format!("\"{CANARY}\\n\\u0000\"")),
        Just(format!("\"https://u:{CANARY}@h/\"")),
        Just("17".to_owned()),
        Just("true".to_owned()),
        Just("1979-05-27".to_owned()),
        Just("nan".to_owned()),
        Just("\"\"".to_owned()),
        Just(format!("\"{CANARY}")),
        Just(CANARY.to_owned()),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(|items| format!("[{}]", items.join(", "))),
            inner.clone().prop_map(|item| format!("{{ file = {item}, env = {item} }}")),
            inner.clone().prop_map(|item| format!("{{ value = {item} }}")),
            inner.clone().prop_map(|item| format!("{{ command = [\"x\", {item}] }}")),
            inner.prop_map(|item| format!("{{ env = {item} }}")),
        ]
    })
}

/// Keys whose values nobody may see, at home and astray.
const SECRET_KEYS: [&str; 9] =
    ["organization", "username", "password", "login_extra", "login_headers", "headers", "passwrd", "require_header", "login_url"];

fn line() -> impl Strategy<Value = String> {
    (prop::sample::select(&SECRET_KEYS[..]), value()).prop_map(|(key, value)| format!("{key} = {value}\n"))
}

fn variable() -> impl Strategy<Value = (String, String)> {
    let names = prop::sample::select(vec![
        "CAREPORTALS_ORGANIZATION",
        "CAREPORTALS_USERNAME",
        "CAREPORTALS_PASSWORD",
        "CAREPORTALS_PASWORD",
        "CAREPORTALS_UPSTREAM",
        "CAREPORTALS_LOGIN_URL",
        "CAREPORTALS__ACCOUNTS__DEFAULT__PASSWORD",
        "CAREPORTALS__ACCOUNTS__DEFAULT__LOGIN_EXTRA",
        "CAREPORTALS__ACCOUNTS__DEFAULT__PASWORD",
        "CAREPORTALS__APIS__DEFAULT__HEADERS",
        "CAREPORTALS__APIS__DEFAULT__REQUIRE_HEADER__VALUE",
        "HTTPS_PROXY",
        "PASSWORD",
    ]);
    let values = prop_oneof![value(), Just(format!("http://u:{CANARY}@proxy")), Just(String::new())];
    (names, values).prop_map(|(name, value)| (name.to_owned(), value))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_secret_is_ever_printed(
        global in prop::collection::vec(line(), 0..2),
        account in prop::collection::vec(line(), 0..5),
        api in prop::collection::vec(line(), 0..3),
        variables in prop::collection::vec(variable(), 0..5),
    ) {
        let text = format!("{}[accounts.default]\n{}[apis.default]\n{}", global.concat(), account.concat(), api.concat());
        let variables: Vec<(&str, &str)> = variables.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let loaded = load_both(&text, &variables);
        // The one place for a file's name is shown, and may be anything.
        let printed = check(&loaded);
        prop_assert!(!printed.contains(CANARY), "{text}\n{variables:?}\n{printed}");
    }

    #[test]
    fn nothing_of_a_proxys_credentials_is_printed(
        scheme in prop::sample::select(vec!["http://", "HTTPS://", "", "socks5://"]),
        before in "\\PC{0,8}",
        after in "(:\\PC{0,8})?",
        end in prop::sample::select(vec!["@proxy.example:3128", "@proxy.example/", "@[::1]", "@", "/@proxy.example", "@proxy.example?x"]),
    ) {
        let url = format!("{scheme}{before}{CANARY}{after}{end}");
        let printed = check(&load_both(ACCOUNT, &[("HTTPS_PROXY", url.as_str())]));
        prop_assert!(!printed.contains(CANARY) && !printed.contains(&CANARY.to_lowercase()), "{url}\n{printed}");
    }

    #[test]
    fn no_text_panics(text in "\\PC{0,200}", name in "CAREPORTALS_[A-Z_]{0,40}|CAREPORTALS__\\PC{0,40}", value in "\\PC{0,40}") {
        check(&load_both(&text, &[(name.as_str(), value.as_str())]));
    }

    #[test]
    fn no_value_of_any_key_panics(at in 0..keys().len(), value in prop_oneof![value(), "\\PC{0,30}".prop_map(|text| format!("{text:?}"))]) {
        let key = keys()[at];
        let name = key.name;
        let loaded = match key.section {
            Section::TopLevel => global_with(&format!("{name} = {value}")),
            Section::Account => load_text(&format!("[accounts.default]\n{name} = {value}\n")),
            Section::Api => api_with(&format!("{name} = {value}")),
        };
        check(&loaded);
    }

    #[test]
    fn durations_are_read_as_they_are_shown(millis in 10_u64..600_000) {
        let seconds = millis / 1000;
        let text = format!("{seconds}s{}ms", millis % 1000);
        let config = sound(api_with(&format!("head_timeout = \"{text}\"")));
        prop_assert_eq!(u128::from(millis), config.apis[0].head_timeout.as_millis());
    }
}
