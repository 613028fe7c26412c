//! The settings file: where it is, its lines, its unknown keys.

use super::*;
use crate::config::Source;

#[test]
fn the_default_file_is_read_when_present_and_not_missed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.toml");
    let read = || load(Input { default_file: path.clone(), ..input(&VARIABLES) });
    assert_eq!(sound(read()).reloadable.log.filter, "info");
    fs::write(&path, "log = \"debug\"").unwrap();
    assert_eq!(sound(read()).reloadable.log.filter, "debug");
}

#[test]
fn an_empty_file_is_a_warning_and_a_fault_where_keys_of_it_were_in_force() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.toml");
    let read = |needs_file_keys| load(Input { config_flag: Some(path.clone()), needs_file_keys, ..input(&VARIABLES) });
    for text in ["", "# log = \"debug\"\n"] {
        fs::write(&path, text).unwrap();
        let start = read(false);
        assert!(!start.has_file_keys() && start.config.is_some());
        assert!(start.warnings.iter().any(|warning| warning.to_string().contains("config.toml: is empty, and sets nothing")));
        let hint = "put its settings back and reload; to run without them, restart the daemon";
        let wrong = format!("config.toml: sets nothing, and would lift every rule that it had\n  hint: {hint}");
        assert_faults(&read(true), &[&wrong]);
    }
    for tables in ["[apis.default]", "[apis]", "apis = {}", "[accounts.default]\n[apis.default]"] {
        fs::write(&path, tables).unwrap();
        let faults = read(true).faults;
        assert!(faults.iter().any(|fault| fault.to_string().contains("config.toml: sets nothing")), "{tables}: {faults:?}");
    }
    fs::write(&path, "log = \"debug\"").unwrap();
    assert!(read(true).has_file_keys());
}

#[test]
fn a_default_file_that_is_behind_a_broken_link_or_was_in_force_is_missed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.toml");
    let gone = load(Input { default_file: path.clone(), needs_file_keys: true, ..input(&VARIABLES) });
    assert_faults(
        &gone,
        &["config.toml: cannot read config.toml: there is no such file\n  hint: put it back; to run without it, restart"],
    );
    std::os::unix::fs::symlink("nowhere", &path).unwrap();
    let broken = load(Input { default_file: path.clone(), ..input(&VARIABLES) });
    assert_faults(&broken, &["config.toml: cannot read config.toml: a link leads nowhere\n  hint: "]);
    // So is one in a directory that is a link.
    let linked = directory.path().join("linked");
    std::os::unix::fs::symlink("nowhere", &linked).unwrap();
    let broken = load(Input { default_file: linked.join("config.toml"), ..input(&VARIABLES) });
    assert!(faults(&broken)[0].contains("a link leads nowhere"), "{:?}", faults(&broken));
}

#[test]
fn a_file_that_was_asked_for_must_be_there() {
    let loaded = load_variables(&with_account(&[("CAREPORTALS_CONFIG", "/nonexistent/a.toml")]));
    assert_faults(&loaded, &["CAREPORTALS_CONFIG: cannot read /nonexistent/a.toml: there is no such file"]);
    let loaded = load(Input { config_flag: Some("/nonexistent/b.toml".into()), ..input(&VARIABLES) });
    assert_faults(&loaded, &["--config: cannot read /nonexistent/b.toml: there is no such file"]);
}

#[test]
fn the_flag_wins_over_the_variable() {
    let loaded = load_both(ACCOUNT, &[("CAREPORTALS_CONFIG", "/nonexistent/a.toml")]);
    sound(loaded);
}

#[test]
fn a_reload_reads_the_settings_file_and_the_systems_roots_again() {
    let named = input(&[("CAREPORTALS_CONFIG", "/a.toml"), ("SSL_CERT_FILE", "/roots.pem"), ("SSL_CERT_DIR", "/roots:/more")]);
    let paths =
        |paths: &mut dyn Iterator<Item = PathBuf>| paths.map(|path| path.to_str().unwrap().to_owned()).collect::<Vec<_>>();
    assert_eq!(paths(&mut named.files()), ["/a.toml", "/roots.pem"]);
    assert_eq!(paths(&mut named.directories()), ["/roots", "/more"]);
    let by_flag = Input { config_flag: Some("/b.toml".into()), ..named };
    assert_eq!(paths(&mut by_flag.files()), ["/b.toml", "/roots.pem"]);
    // An empty variable counts as not set.
    let unnamed = input(&[("SSL_CERT_FILE", ""), ("SSL_CERT_DIR", "")]);
    assert_eq!(paths(&mut unnamed.files()), ["/nonexistent/config.toml"]);
    assert_eq!(paths(&mut unnamed.directories()), Vec::<String>::new());
}

#[test]
fn what_is_missing_belongs_into_the_file_though_variables_set_other_things() {
    let loaded = load_both("log = \"debug\"\n", &[("CAREPORTALS_LOG_FORMAT", "json")]);
    assert!(faults(&loaded)[0].starts_with("config.toml: accounts.default.organization: is missing"), "{:?}", faults(&loaded));
}

#[test]
fn the_contracts_own_example_is_read() {
    let text = r#"
[accounts.crm]
organization = "acme"
login_url = "https://crm-api.portals.care/auth"
username = { file = "/run/secrets/careportals/username" }
password = { command = ["op", "read", "op://vault/item"] }

[apis.emr]
preset = "emr"
account = "crm"
listen = ["127.0.0.1:2273", "unix:/run/careportals/emr.sock"]
allow = ["GET /customers/**", "GET /subscriptions"]
headers = { origin = "https://acme.portals.care" }
"#;
    let config = sound(load_text(text));
    let (api, login) = (only_api(&config), only_login(&config));
    assert_eq!(api.upstream.origin.to_string(), "https://emr-api.portals.care");
    assert_eq!(login.url.origin.to_string(), "https://crm-api.portals.care");
    assert!(matches!(&login.password, Source::Command(words) if words.len() == 3));
    assert_eq!(api.headers[0].1, "https://acme.portals.care");
    let rules = api.allow.as_deref().unwrap_or_default();
    assert_eq!(rules.len(), 2);
    assert!(rules[0].matches(&http::Method::GET, "/customers/7"));
}

#[test]
fn all_faults_are_reported_at_once_in_the_files_order() {
    let text = "\
drain_delay = \"soon\"
bogus = 1

[accounts.crm]
organization = \"a\\nb\"
usrname = \"canary\"
password = { file = \"/p\", env = \"X\" }

[apis.crm]
preset = \"crmm\"
account = \"cmr\"
listen = [\"0.0.0.0:1\"]
upstream = \"http://user:canary@host/\"
";
    assert_faults(
        &load_both(text, &[("CAREPORTALS_WORKERS", "0")]),
        &[
            "config.toml:1: drain_delay: `soon` is not a duration\n  hint: write a duration like \"30s\"",
            "config.toml:2: bogus: no such key",
            "config.toml:5: accounts.crm.organization: cannot stand in a header",
            "config.toml:6: accounts.crm.usrname: no such key\n  hint: did you mean `username`?",
            "config.toml:7: accounts.crm.password: a source has exactly one of `file`, `env` and `command`",
            "config.toml:10: apis.crm.preset: `crmm` is none of `careportals`, `patient`, `crm`, `emr`, `public`\n  hint: did you mean `crm`?",
            "config.toml:11: apis.crm.account: there is no account `cmr`\n  hint: write account = \"crm\"",
            "config.toml:12: apis.crm.listen: 0.0.0.0:1 is not a loopback address",
            "config.toml:13: apis.crm.upstream: a user name or password cannot be part of it",
            "CAREPORTALS_WORKERS: must be from 1 to 256",
        ],
    );
}

#[test]
fn what_a_misspelt_key_was_meant_to_set_is_not_also_missing() {
    let text =
        "[accounts.default]\norganization = { file = \"/o\" }\nusername = { file = \"/u\" }\npasswrd = { file = \"/p\" }\n";
    assert_faults(&load_text(text), &["config.toml:4: accounts.default.passwrd: no such key\n  hint: did you mean `password`?"]);
}

#[test]
fn unknown_keys_are_faults_with_a_suggestion_or_their_right_place() {
    for (loaded, expected) in [
        (global_with("acounts = 1"), "config.toml:1: acounts: no such key\n  hint: did you mean `accounts`?"),
        (global_with("listen = []"), "config.toml:1: listen: no such key\n  hint: `listen` belongs under `[apis.NAME]`"),
        (
            account_with("upstream = \"x\""),
            "config.toml:5: accounts.default.upstream: no such key\n  hint: `upstream` belongs under `[apis.NAME]`",
        ),
        (api_with("log = \"x\""), "config.toml:6: apis.default.log: no such key\n  hint: `log` belongs at the top level"),
        (api_with("lsten = []"), "config.toml:6: apis.default.lsten: no such key\n  hint: did you mean `listen`?"),
        (
            account_with("login_fields = { usrname = \"x\" }"),
            "config.toml:5: accounts.default.login_fields.usrname: no such key\n  hint: did you mean `login_fields.username`?",
        ),
        (
            account_with("login_field = { username = \"x\" }"),
            "config.toml:5: accounts.default.login_field: no such key\n  hint: did you mean `login_fields`?",
        ),
        (
            api_with("require_heade = { name = \"x\" }"),
            "config.toml:6: apis.default.require_heade: no such key\n  hint: did you mean `require_header`?",
        ),
        (
            account_with("require_header = { name = \"x\" }"),
            "config.toml:5: accounts.default.require_header: no such key\n  hint: `require_header` belongs under `[apis.NAME]`",
        ),
        (
            api_with("login_header = { a = \"x\" }"),
            "config.toml:6: apis.default.login_header: no such key\n  hint: did you mean `login_headers`, which belongs under `[accounts.NAME]`?",
        ),
        (
            api_with("acces_log = \"off\""),
            "config.toml:6: apis.default.acces_log: no such key\n  hint: did you mean `access_log`, which belongs at the top level?",
        ),
        (account_with("login_fields = 1"), "config.toml:5: accounts.default.login_fields: expected a table"),
    ] {
        assert_faults(&loaded, &[expected]);
    }
}

#[test]
fn names_and_tables_are_judged() {
    for (text, expected) in [
        ("[apis.\"Bad Name\"]\n", "config.toml:1: apis.Bad Name: a name is made of a-z, 0-9 and `-`"),
        ("[apis.a_b]\n", "config.toml:1: apis.a_b: a name is made of a-z, 0-9 and `-`"),
        ("apis = 3\n", "config.toml:1: apis: expected tables with names\n  hint: write `[apis.NAME]`"),
        ("[[apis]]\n", "config.toml:1: apis: expected tables with names"),
        ("apis.default = 3\n", "config.toml:1: apis.default: expected a table"),
    ] {
        assert_faults(&load_both(text, &VARIABLES), &[expected]);
    }
}

#[test]
fn a_group_or_a_name_that_is_wrong_brings_no_fault_about_what_it_may_hold() {
    let named = |name: &str| ACCOUNT.replace("default", name);
    let crm = "[apis.x]\naccount = \"crm\"\n";
    for (text, expected) in [
        (named("\"A\""), &["config.toml:1: accounts.A: a name is made of"][..]),
        (
            named("\"A\"").replace("user", "usr"),
            &["config.toml:1: accounts.A: a name", "config.toml:3: accounts.A.usrname: no such"],
        ),
        (named("\"A\"") + &crm.replace("crm", "A"), &["config.toml:1: accounts.A: a name is made of"]),
        (named("crm") + &crm.replace('x', "\"X\""), &["config.toml:5: apis.X: a name is made of"]),
        ("accounts = \"x\"\n".to_owned(), &["config.toml:1: accounts: expected tables with names"]),
        (format!("accounts = 3\n{crm}"), &["config.toml:1: accounts: expected tables with names"]),
        (format!("accounts.crm = 3\n{crm}"), &["config.toml:1: accounts.crm: expected a table"]),
        (format!("[account.crm]\n{crm}"), &["config.toml:1: account: no such key"]),
        (format!("apis = 3\n{}", named("crm")), &["config.toml:1: apis: expected tables with names"]),
    ] {
        let loaded = load_text(&text);
        assert_faults(&loaded, expected);
        assert!(loaded.rest.is_some(), "files and sockets are not judged beside {expected:?}");
    }
}

#[test]
fn broken_toml_is_told_by_its_line_and_never_repeated() {
    for text in [
        "a = 1\npassword = \"canary\n",
        "x = canary\n",
        "[accounts.a]\npassword = \"canary\"\npassword = \"canary\"\n",
        "[canary",
    ] {
        let loaded = load_both(text, &VARIABLES);
        let [fault] = faults(&loaded).try_into().unwrap();
        assert!(fault.starts_with("config.toml:") && fault.contains("not valid TOML"), "{fault}");
        assert!(!fault.contains("canary"), "{fault}");
    }
}

#[test]
fn beside_a_file_that_can_not_be_used_faults_of_variables_and_flags_are_told_that_do_not_depend_on_it() {
    let directory = tempfile::tempdir().unwrap();
    let wrong = [
        ("CAREPORTALS_WORKERS", "0"),
        ("CAREPORTALS__NO_SUCH_KEY", "1"),
        ("CAREPORTALS__APIS__EMR__DENY", "GET"),
        ("CAREPORTALS__ACCOUNTS__CRM__LOGIN_TIMEOUT", "soon"),
        ("CAREPORTALS_ORGANIZATION", "a\nb"),
        ("CAREPORTALS_USERNAME", ""),
        ("HTTPS_PROXY", "socks5://proxy"),
        // The file may allow the one, and have the other.
        ("CAREPORTALS_LISTEN", "0.0.0.0:1"),
        ("CAREPORTALS_CREDENTIALS_DIR", "/d"),
    ];
    let beside = [
        "CAREPORTALS_USERNAME: is empty",
        "CAREPORTALS__NO_SUCH_KEY: no such key",
        "CAREPORTALS_WORKERS: must be from 1 to 256",
        "CAREPORTALS__ACCOUNTS__CRM__LOGIN_TIMEOUT: `soon` is not a duration",
        "CAREPORTALS_ORGANIZATION: cannot stand in a header",
        "CAREPORTALS__APIS__EMR__DENY: `GET`: ",
        "HTTPS_PROXY: only http:// and https:// proxies are supported",
    ];
    let expected = |first| [&[first][..], &beside].concat();
    let broken = load_both("log: debug\n", &wrong);
    assert_faults(&broken, &expected("config.toml:1: not valid TOML: key with no value"));
    let missing = load(Input { config_flag: Some("/nonexistent/c.toml".into()), ..input(&wrong) });
    assert_faults(&missing, &expected("--config: cannot read /nonexistent/c.toml: there is no such file\n  hint: "));
    let flags = vec![("apis.default.listen".to_owned(), "foo".to_owned())];
    let unreadable = load(Input { config_flag: Some(directory.path().into()), flags, ..input(&[]) });
    let [fault, of_flag] = faults(&unreadable).try_into().unwrap();
    assert!(fault.starts_with("--config: cannot read ") && fault.contains(": it is a directory\n  hint: "), "{fault}");
    assert!(of_flag.starts_with("--listen: `foo` is not an address"), "{of_flag}");
    // What is missing may stand in the file.
    assert_faults(&load_text("log: debug\n"), &["config.toml:1: not valid TOML: key with no value"]);
}

#[test]
fn a_fault_of_the_file_brings_no_other_about_variables() {
    for (text, expected) in [
        (
            "[account.crm]\norganization = \"acme\"\n",
            "config.toml:1: account: no such key\n  hint: did you mean `[accounts.crm]`?",
        ),
        ("[api.x]\nlisten = \"127.0.0.1:1\"\n", "config.toml:1: api: no such key\n  hint: did you mean `[apis.x]`?"),
        ("[account]\norganization = \"acme\"\n", "config.toml:1: account: no such key\n  hint: did you mean `[accounts.NAME]`?"),
        ("lgo = \"debug\"\n", "config.toml:1: lgo: no such key\n  hint: did you mean `log`?"),
        ("port = 1\n", "config.toml:1: port: no such key\n  hint: did you mean `listen`, which belongs under `[apis.NAME]`?"),
        ("log_level = \"debug\"\n", "config.toml:1: log_level: no such key\n  hint: did you mean `log`?"),
    ] {
        assert_faults(&load_text(text), &[expected]);
    }
}

#[test]
fn what_is_missing_is_named_as_the_user_names_the_rest() {
    let hint =
        |key: &str| format!("config.toml: accounts.default.{key}: is missing\n  hint: write {key} = {{ file = \"…\" }} under [");
    let by_key = ["organization", "username", "password"].map(hint);
    assert_faults(&load_text("log = \"debug\"\n"), &by_key.each_ref().map(String::as_str));
    let by_variable = load_both("log = \"debug\"\n", &VARIABLES[..2]);
    assert_faults(&by_variable, &["CAREPORTALS_PASSWORD: is not set\n  hint: set it, CAREPORTALS_PASSWORD_FILE or"]);
}

#[test]
fn all_faults_of_a_list_or_a_table_are_reported() {
    let path = "config.toml:6: apis.default";
    for (line, key, expected) in [
        ("listen = [\"a\", \"127.0.0.1:1\", \"b\"]", "listen", &["entry 1: `a` is not an", "entry 3: `b` is not an"][..]),
        ("listen = \"a, b\"", "listen", &["`a` is not an address", "`b` is not an address"]),
        ("allow = [\"GET\", 1, \"GET /a\"]", "allow", &["entry 1: `GET`: ", "entry 2: expected text"]),
        ("allowed_hosts = [\"a:1\", \"b\", \"c d\"]", "allowed_hosts", &["entry 1: holds", "entry 3: holds"]),
        (
            "headers = { host = \"x\", a = \" b\", ok = \"y\", \"c d\" = \"z\" }",
            "headers",
            &["`a`: cannot stand in a header (leading blank)\n  hint: remove", "`c d` is not a header's name", "`host` is the"],
        ),
    ] {
        let expected: Vec<String> = expected.iter().map(|said| format!("{path}.{key}: {said}")).collect();
        assert_faults(&api_with(line), &expected.iter().map(String::as_str).collect::<Vec<_>>());
    }
}

#[test]
fn what_config_shows_in_place_of_a_secret_is_no_value() {
    let loaded = api_with("headers = { origin = \"[redacted]\" }\nrequire_header = { name = \"x\", value = \"[redacted]\" }");
    let warnings = warnings(&loaded);
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(
        warnings[0].starts_with("config.toml:6: apis.default.headers: is `[redacted]`, which `config` shows"),
        "{warnings:?}"
    );
    sound(loaded);
}

#[test]
fn a_file_that_is_no_text_is_a_fault() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.toml");
    fs::write(&path, b"log = \"\xff\"").unwrap();
    assert_faults(&load(Input { config_flag: Some(path), ..input(&VARIABLES) }), &["--config: config.toml is not UTF-8"]);
}

#[test]
fn literals_in_the_file_are_warned_about() {
    let loaded = load_text("[accounts.default]\norganization = \"acme\"\nusername = \"jane\"\npassword = \"canary\"\n");
    let warnings = warnings(&loaded);
    assert_eq!(warnings.len(), 2);
    assert!(warnings[0].starts_with("config.toml:3: accounts.default.username: is written in the settings file itself"));
    assert!(warnings[1].starts_with("config.toml:4: accounts.default.password: is written in the settings file itself"));
    sound(loaded);
}

#[test]
fn what_an_account_of_the_file_lacks_is_told_at_its_table() {
    let text = "[accounts.crm]\n\n[apis.crm]\naccount = \"crm\"\n";
    assert_faults(
        &load_text(text),
        &[
            "config.toml:1: accounts.crm.organization: is missing",
            "config.toml:1: accounts.crm.username: is missing",
            "config.toml:1: accounts.crm.password: is missing",
        ],
    );
}

#[test]
fn a_later_source_replaces_an_earlier_one_whole() {
    let text = ACCOUNT.replace("{ file = \"/p\" }", "{ command = [\"pass\"] }");
    let config = sound(load_both(&text, &[("CAREPORTALS_PASSWORD_FILE", "/q")]));
    assert!(matches!(&only_login(&config).password, Source::File(path) if path.as_os_str() == "/q"));
}
