//! What `config` and `check` print, and the schema.

use super::*;

fn effective(loaded: &Loaded) -> String {
    let mut out = Vec::new();
    render_effective(loaded, &mut out).unwrap();
    plain(&String::from_utf8(out).unwrap())
}

fn checked(loaded: &Loaded) -> String {
    let mut out = Vec::new();
    render_check(loaded, &mut out).unwrap();
    plain(&String::from_utf8(out).unwrap())
}

#[track_caller]
fn assert_shows(text: &str, name: &str, value: &str, origin: &str) {
    let line = text.lines().find(|line| line.starts_with(&format!("{name} = "))).unwrap_or_else(|| panic!("{name} in {text}"));
    let (shown, from) = line.split_once("  # ").unwrap();
    assert_eq!((shown.trim_end(), from), (format!("{name} = {value}").as_str(), origin));
}

#[test]
fn config_shows_each_value_with_its_origin_and_no_secret() {
    let text = "\
[accounts.default]
organization = \"canary\"
username = { file = \"/run/user\" }
password = { command = [\"op\", \"canary\"] }
login_extra = { scope = \"canary\" }
login_headers = { x-key = \"canary\" }
[apis.default]
headers = { origin = \"canary\" }
";
    let loaded = load_both(text, &[("HTTPS_PROXY", "http://u:canary@p"), ("NO_PROXY", "*"), ("CAREPORTALS_LOG", "debug")]);
    let shown = effective(&loaded);
    assert!(!shown.contains("canary"), "{shown}");
    assert_shows(&shown, "organization", "\"[redacted]\"", "config.toml:2");
    assert_shows(&shown, "username", "{ file = \"/run/user\" }", "config.toml:3");
    assert_shows(&shown, "password", "{ command = [\"op\", \"[redacted]\"] }", "config.toml:4");
    assert_shows(&shown, "login_extra", "{ scope = \"[redacted]\" }", "config.toml:5");
    assert_shows(&shown, "login_headers", "{ x-key = \"[redacted]\" }", "config.toml:6");
    assert_shows(&shown, "headers", "{ origin = \"[redacted]\" }", "config.toml:8");
    assert_shows(&shown, "HTTPS_PROXY", "\"http://[redacted]@p\"", "HTTPS_PROXY");
    for (url, line) in [
        ("http://u:canary@p:3128", "http://[redacted]@p:3128"),
        ("canary@[::1]:3128", "http://[redacted]@[::1]:3128"),
        ("https://p:3128/", "https://p:3128"),
        ("http://u:canary@p/path", "[redacted]"),
        ("canary://p", "[redacted]"),
    ] {
        let shown = effective(&load_both(ACCOUNT, &[("https_proxy", url)]));
        assert_shows(&shown, "https_proxy", &format!("{line:?}"), "https_proxy");
        assert!(!shown.contains("canary"), "{shown}");
    }
    assert_shows(&shown, "log", "\"debug\"", "CAREPORTALS_LOG");
    assert_shows(&shown, "drain_timeout", "\"25s\"", "default");
    assert_shows(&shown, "upstream", "\"https://api.careportals.com\"", "preset");
    assert_shows(&shown, "login_url", "\"https://api.careportals.com/patient/auth\"", "preset");
    assert!(shown.contains("\n# workers: usable cores"), "{shown}");
    assert!(!format!("{:?}", sound(loaded)).contains("canary"));
}

#[test]
fn config_names_a_settings_file_that_can_not_be_used() {
    let gone = load(Input { config_flag: Some("/nonexistent/a.toml".into()), ..input(&[]) });
    assert!(effective(&gone).starts_with("# settings file: /nonexistent/a.toml\n"), "{}", effective(&gone));
    assert!(effective(&load_text("no TOML")).starts_with("# settings file: config.toml\n"));
    for none in [load(Input { config_flag: Some(PathBuf::new()), ..input(&[]) }), load_variables(&VARIABLES)] {
        assert!(effective(&none).starts_with("# settings file: none\n"));
    }
}

#[test]
fn nothing_that_is_printed_is_obeyed_by_a_terminal() {
    let odd = "CAREPORTALS__ACCOUNTS__A\u{1b}[2J__PASWORD";
    let missing = Input { config_flag: Some(PathBuf::from("/nonexistent/\u{1b}[2J\n")), ..input(&[]) };
    for loaded in [load_variables(&[(odd, "x")]), load(missing)] {
        let printed = checked(&loaded) + &effective(&loaded);
        assert!(printed.contains("\\u{1b}[2J"), "{printed:?}");
        assert!(!printed.contains(|c: char| c.is_control() && c != '\n'), "{printed:?}");
    }
}

/// Everything but the variables that have no key can be given back as a file, where nothing is redacted.
#[test]
fn what_config_prints_is_a_settings_file() {
    let loaded = load_text(ACCOUNT);
    let printed = effective(&loaded);
    let first = sound(loaded);
    let second = sound(load_text(&printed));
    // Addresses that were optional as defaults are now asked for.
    let normal = |config: &Config| format!("{config:?}").replace("required: false", "required: true");
    let again = normal(&second).replace("telemetry", "");
    assert_eq!(normal(&first).replace("telemetry", ""), again);
}

#[test]
fn origins_stand_below_each_other_and_what_has_no_key_stands_apart() {
    let long = format!("drain_delay = \"1s\"\n{ACCOUNT}[apis.default]\npath_words = [\"{}\"]\n", "w".repeat(80));
    let printed = effective(&load_both(&long, &[("NO_PROXY", "*")]));
    let line_and_column = |line: &'_ str| line.find("  # ").map(|column| (line[..column].trim_end().len(), column));
    // A very long value has its origin behind it.
    let columns: Vec<usize> = printed
        .lines()
        .filter_map(line_and_column)
        .filter(|(shown, _)| (1..=60).contains(shown))
        .map(|(_, column)| column)
        .collect();
    assert!(columns.len() > 9 && columns.iter().all(|column| *column == columns[0] && *column <= 60), "{printed}");
    let apart = printed.split("\n[environment]\n").nth(1).unwrap_or_else(|| panic!("{printed}"));
    assert!(apart.starts_with("NO_PROXY = \"*\" "), "{printed}");
    assert!(!printed.contains("see `check`"), "{printed}");
    assert!(effective(&global_with("drain_delay = 1")).ends_with("\n# 1 fault; see `check`\n"));
}

#[test]
fn where_a_preset_logs_in_stands_behind_what_is_written_of_the_account() {
    let printed = effective(&load_text(&format!("{ACCOUNT}[apis.default]\n")));
    let account = printed.split("\n[accounts.default]\n").nth(1).and_then(|rest| rest.split("\n\n[").next()).unwrap();
    assert!(account.lines().last().unwrap().starts_with("login_url = "), "{account}");
}

#[test]
fn debug_output_names_variables_and_sources_without_what_they_hold() {
    let variables = with_account(&[("CAREPORTALS__ACCOUNTS__DEFAULT__LOGIN_EXTRA", "{ scope = \"canary\" }")]);
    let environment = format!("{:?}", input(&variables).environment);
    assert!(environment.contains("\"CAREPORTALS_USERNAME_FILE\"") && !environment.contains("acme"), "{environment}");
    let login = format!("{:?}", only_login(&sound(load_variables(&variables))));
    assert!(login.contains("/patient/auth") && login.contains("\"/u\"") && !login.contains("canary"), "{login}");
}

#[test]
fn the_help_tells_each_variable_with_its_default() {
    let words = named_variables::variables_in_words();
    let of = |name: &str| words.iter().find(|(known, _)| known == name).map_or("", |(_, meaning)| meaning.as_str());
    assert_eq!(of("CAREPORTALS_ORGANIZATION, CAREPORTALS_ORGANIZATION_FILE"), "Organization id. [required]");
    assert_eq!(of("CAREPORTALS_API"), "Preset: careportals, patient, crm, emr or public. [default: careportals]");
    assert!(!of("CAREPORTALS_CA_FILE").is_empty() && !of("CAREPORTALS_CA_FILE").contains('['), "{words:?}");
    assert!(
        words.len() > named_variables::VARIABLES.len() && words.last().is_some_and(|(name, _)| name.starts_with("CAREPORTALS__"))
    );
}

#[test]
fn check_sums_up() {
    assert_eq!(checked(&load_variables(&VARIABLES)), "ok: 1 account, 1 API\n");
    let warned = checked(&load_variables(&with_account(&[("CAREPORTALS_XYZZY", "canary")])));
    assert_eq!(warned, "warning: CAREPORTALS_XYZZY: no such variable; ignored\nvalid: 1 account, 1 API, 1 warning\n");
    let broken = checked(&global_with("drain_delay = 1"));
    assert!(broken.starts_with("error: config.toml:1: drain_delay: expected a duration"), "{broken}");
    assert!(broken.ends_with("\ninvalid: 1 fault\n"), "{broken}");
}

#[test]
fn every_default_is_a_right_value_of_its_key() {
    assert_eq!(faults(&load_text(ACCOUNT)), Vec::<String>::new());
    for key in keys() {
        assert!(key.doc.ends_with('.'), "{}", key.name);
    }
}

#[test]
fn the_default_preset_is_the_presets_own() {
    assert_eq!(sound(load_text(ACCOUNT)).apis[0].upstream.origin.to_string(), crate::careportals::PRESETS[0].upstream);
}

#[test]
fn every_variable_that_stands_for_a_key_names_one() {
    for variable in named_variables::VARIABLES {
        assert!(variable.path.is_none_or(|path| tables::key_at(path).is_some()), "{}", variable.name);
    }
}

#[test]
fn the_schema_knows_every_key_and_its_default() {
    let schema = json_schema();
    for key in keys() {
        let section = match key.section {
            Section::TopLevel => &schema["properties"],
            Section::Account => &schema["properties"]["accounts"]["additionalProperties"]["properties"],
            Section::Api => &schema["properties"]["apis"]["additionalProperties"]["properties"],
        };
        let property = match key.name.split_once('.') {
            None => &section[key.name],
            Some((table, name)) => &section[table]["properties"][name],
        };
        assert_eq!(property["description"], key.doc, "{}", key.name);
        assert_eq!(property["title"], (key.kind)().0, "{}", key.name);
        assert_eq!(property["default"].is_null(), key.default.is_none(), "{}", key.name);
        let says_what_it_takes = ["type", "anyOf", "oneOf", "enum", "$ref", "not"].iter().any(|word| !property[word].is_null());
        assert!(says_what_it_takes, "{}: {property}", key.name);
    }
    assert_eq!(schema["properties"]["drain_timeout"]["default"], "25s");
    // What a pattern can't say of them.
    let of_api = &schema["properties"]["apis"]["additionalProperties"]["properties"];
    for (property, range) in [
        (&schema["properties"]["drain_timeout"], "duration, 0s to 1h"),
        (&of_api["connect_timeout"], "duration, 10ms to 5m"),
        (&of_api["max_header_bytes"], "size, 8KiB to 1MiB"),
        (&of_api["replay_buffer"], "size, 0B to 64MiB"),
        (&of_api["max_requests"], "1 to 1000000"),
    ] {
        assert_eq!(property["title"], range);
    }
    for (index, member, kind) in [(1, "file", "string"), (2, "env", "string"), (3, "command", "array")] {
        let source = &schema["$defs"]["source"]["oneOf"][index];
        assert_eq!(source["properties"][member]["type"], kind);
        assert_eq!((&source["required"][0], &source["additionalProperties"]), (&member.into(), &false.into()));
    }
    assert_eq!(schema["additionalProperties"], false);
}

#[test]
fn a_proxys_password_in_no_proxy_is_shown_nowhere() {
    for list in ["http://u:canary@p:3128", "localhost,http://u:can,canary@p:3128 http://u:canary@p:3128"] {
        let loaded = load_variables(&with_account(&[("NO_PROXY", list)]));
        let printed = effective(&loaded) + &checked(&loaded);
        assert!(printed.contains("[redacted]@p:3128") && !printed.contains("canary") && !printed.contains("u:can"), "{printed}");
    }
}
