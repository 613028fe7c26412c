//! The environment alone, its variants, and what it must not do.

use std::ffi::OsString;
#[cfg(unix)]
use std::os::unix::ffi::OsStringExt;

use super::*;
use crate::config::{ControlSocket, Listen, LogFormat, RuntimeDirectories, Source};

#[test]
fn the_environment_alone_is_enough_for_one_account_and_one_api() {
    let config = sound(load_variables(&VARIABLES));
    let (account, api) = (only_account(&config), only_api(&config));
    assert_eq!((account.name.as_str(), api.name.as_str()), ("default", "default"));
    assert!(matches!(&account.organization, Source::Value(organization) if organization.matches(b"acme")));
    let login = only_login(&config);
    assert!(matches!(&login.username, Source::File(path) if path.as_os_str() == "/u"));
    assert_eq!(login.url.origin.to_string(), "https://api.careportals.com");
    assert_eq!(login.url.target, "/patient/auth");
    let listen: Vec<String> = api.listen.iter().map(ToString::to_string).collect();
    assert_eq!(listen, ["127.0.0.1:2273", "[::1]:2273"]);
    assert!(api.listen.iter().all(|place| matches!(place, Listen::Tcp { required: false, .. })));
    assert_eq!(config.restart_only.control_socket, ControlSocket::Default(RuntimeDirectories::default()));
    assert_eq!(config.restart_only.telemetry_listen.unwrap().to_string(), "127.0.0.1:2274");
}

#[test]
fn every_variable_reaches_its_key() {
    let config = sound(load_variables(&[
        ("CAREPORTALS_ORGANIZATION_FILE", "/o"),
        ("CAREPORTALS_USERNAME", "jane"),
        ("CAREPORTALS_PASSWORD_FILE", "/p"),
        ("CAREPORTALS_API", "crm"),
        ("CAREPORTALS_UPSTREAM", "https://crm.example/base/"),
        ("CAREPORTALS_LOGIN_URL", "/auth"),
        ("CAREPORTALS_LISTEN", "127.0.0.1:0, unix:/run/x.sock,0.0.0.0:80"),
        ("CAREPORTALS_ALLOW_NON_LOOPBACK", "true"),
        ("CAREPORTALS_TELEMETRY_LISTEN", "off"),
        ("CAREPORTALS_CONTROL_SOCKET", "off"),
        ("CAREPORTALS_CA_FILE", "/ca.pem"),
        ("CAREPORTALS_WORKERS", "3"),
        ("CAREPORTALS_LOG", "debug"),
        ("CAREPORTALS_LOG_FORMAT", "json"),
    ]));
    let (account, api, login) = (only_account(&config), only_api(&config), only_login(&config));
    assert!(matches!(&account.organization, Source::File(path) if path.as_os_str() == "/o"));
    assert!(matches!(&login.username, Source::Value(name) if name.matches(b"jane")));
    assert_eq!((api.upstream.origin.host.as_str(), api.upstream.base_path.as_str()), ("crm.example", "/base"));
    assert_eq!(login.url.target, "/base/auth");
    let listen: Vec<String> = api.listen.iter().map(ToString::to_string).collect();
    assert_eq!(listen, ["127.0.0.1:0", "unix:/run/x.sock", "0.0.0.0:80"]);
    assert!(matches!(api.listen[0], Listen::Tcp { required: true, .. }));
    assert_eq!((config.restart_only.telemetry_listen, &config.restart_only.control_socket), (None, &ControlSocket::Off));
    assert_eq!(config.tls.ca_file.as_deref(), Some(Path::new("/ca.pem")));
    assert_eq!(config.restart_only.workers.map(std::num::NonZero::get), Some(3));
    assert_eq!((config.reloadable.log.filter.as_str(), config.restart_only.log_format), ("debug", LogFormat::Json));
}

#[test]
fn what_is_required_is_named_by_its_variable() {
    assert_faults(
        &load_variables(&[]),
        &["CAREPORTALS_ORGANIZATION: is not set", "CAREPORTALS_USERNAME: is not set", "CAREPORTALS_PASSWORD: is not set"],
    );
    assert_faults(&load_variables(&[("CAREPORTALS_API", "public")]), &["CAREPORTALS_ORGANIZATION: is not set"]);
    assert_faults(&load_variables(&[("CAREPORTALS_LOGIN_URL", "off")]), &["CAREPORTALS_ORGANIZATION: is not set"]);
    let named = load_variables(&[("CAREPORTALS__ACCOUNTS__CRM__LOGIN_URL", "off"), ("CAREPORTALS__APIS__CRM__ACCOUNT", "crm")]);
    let expected =
        "CAREPORTALS__ACCOUNTS__CRM__ORGANIZATION: is not set\n  hint: set it or CAREPORTALS__ACCOUNTS__CRM__ORGANIZATION__FILE";
    assert_eq!(faults(&named), [expected]);
}

#[test]
fn a_variable_and_its_file_variant_together_are_a_fault() {
    for name in ["ORGANIZATION", "USERNAME", "PASSWORD"] {
        let (plain, file) = (format!("CAREPORTALS_{name}"), format!("CAREPORTALS_{name}_FILE"));
        let mut variables: Vec<(&str, &str)> = VARIABLES.into_iter().filter(|(known, _)| !known.contains(name)).collect();
        variables.extend([(plain.as_str(), "canary"), (file.as_str(), "/x")]);
        assert_faults(&load_variables(&variables), &[&format!("{file}: set together with {plain}")]);
    }
}

#[test]
fn two_variables_for_one_key_are_a_fault() {
    let loaded = load_variables(&with_account(&[
        ("CAREPORTALS_LISTEN", "127.0.0.1:1"),
        ("CAREPORTALS__APIS__DEFAULT__LISTEN", "127.0.0.1:2"),
        ("CAREPORTALS__ACCOUNTS__DEFAULT__PASSWORD__FILE", "/q"),
    ]));
    assert_faults(
        &loaded,
        &[
            "CAREPORTALS__ACCOUNTS__DEFAULT__PASSWORD__FILE: sets the same key as CAREPORTALS_PASSWORD_FILE",
            "CAREPORTALS__APIS__DEFAULT__LISTEN: sets the same key as CAREPORTALS_LISTEN",
        ],
    );
}

#[test]
fn a_password_given_directly_is_warned_about_and_no_other_way_is() {
    for (name, value, count) in [
        ("CAREPORTALS_PASSWORD", "canary", 1),
        ("CAREPORTALS_USERNAME", "canary", 0),
        ("CAREPORTALS__ACCOUNTS__DEFAULT__PASSWORD", "canary", 1),
        ("CAREPORTALS__ACCOUNTS__DEFAULT__PASSWORD__ENV", "ELSEWHERE", 0),
        ("CAREPORTALS_PASSWORD_FILE", "/p", 0),
    ] {
        let mut variables = vec![("CAREPORTALS_ORGANIZATION", "acme"), ("ELSEWHERE", "canary"), (name, value)];
        for (what, other) in [("USERNAME", "CAREPORTALS_USERNAME_FILE"), ("PASSWORD", "CAREPORTALS_PASSWORD_FILE")] {
            variables.extend((!name.contains(what)).then_some((other, "/x")));
        }
        let loaded = load_variables(&variables);
        let warnings = warnings(&loaded);
        assert_eq!(warnings.len(), count, "{warnings:?}");
        assert!(warnings.iter().all(|warning| warning.starts_with(&format!("{name}: is given directly"))));
        sound(loaded);
    }
}

#[test]
fn a_directory_of_credentials_need_not_hold_them_yet() {
    for name in ["CAREPORTALS_CREDENTIALS_DIR", "CREDENTIALS_DIRECTORY"] {
        let config = sound(load_variables(&[(name, "/no/such/place")]));
        let login = only_login(&config);
        for (source, file) in
            [(&only_account(&config).organization, "organization"), (&login.username, "username"), (&login.password, "password")]
        {
            assert!(matches!(source, Source::File(path) if *path == Path::new("/no/such/place").join(file)));
        }
    }
}

#[test]
fn what_stands_around_a_wrong_value_is_named() {
    for (name, value, fault) in [
        (
            "CAREPORTALS_UPSTREAM",
            "\"https://a.example\"",
            "stands in quotes, which are part of the value: the scheme must be https\n  hint: leave them",
        ),
        ("CAREPORTALS_UPSTREAM", "https://a.example\r", "ends in a carriage return: a URL holds no spaces"),
        ("CAREPORTALS_LOG_FORMAT", "'json'", "stands in quotes, which are part of the value: `'json'` is none of"),
        (
            "CAREPORTALS_LISTEN",
            "127.0.0.1:x ",
            "begins or ends with a blank: `127.0.0.1:x` is not an address\n  hint: leave it out",
        ),
        ("CAREPORTALS_ALLOW_NON_LOOPBACK", "true\r", "ends in a carriage return: "),
    ] {
        let fault = format!("{name}: {fault}");
        assert_faults(&load_variables(&with_account(&[(name, value)])), &[&fault]);
    }
}

#[test]
fn a_users_value_stays_as_it_is_where_it_is_the_name_of_a_key() {
    for (variable, value, fault) in [
        ("CAREPORTALS_LOG_FORMAT", "log", "`log` is none of `auto`, `text`, `json`"),
        ("CAREPORTALS__APIS__DEFAULT__ACCOUNT", "prefix", "there is no account `prefix`"),
        ("CAREPORTALS__APIS__DEFAULT__HEADERS", "{ organization = 'x' }", "`organization` is the sidecar's own to set"),
    ] {
        let fault = format!("{variable}: {fault}");
        assert_faults(&load_variables(&with_account(&[(variable, value)])), &[&fault]);
    }
}

#[test]
fn directories_of_credentials_yield_to_single_variables_and_ours_to_the_systemds() {
    let config = sound(load_variables(&[
        ("CAREPORTALS_CREDENTIALS_DIR", "/ours"),
        ("CREDENTIALS_DIRECTORY", "/systemd"),
        ("CAREPORTALS_ORGANIZATION", "acme"),
    ]));
    assert!(matches!(only_account(&config).organization, Source::Value(_)));
    assert!(matches!(&only_login(&config).password, Source::File(path) if path.as_os_str() == "/ours/password"));
    // What systemd offers for other purposes does not override the file.
    let config = sound(load_both(ACCOUNT, &[("CREDENTIALS_DIRECTORY", "/systemd")]));
    assert!(matches!(&only_login(&config).password, Source::File(path) if path.as_os_str() == "/p"));
    let config = sound(load_both(ACCOUNT, &[("CAREPORTALS_CREDENTIALS_DIR", "/ours")]));
    assert!(matches!(&only_login(&config).password, Source::File(path) if path.as_os_str() == "/ours/password"));
}

#[test]
fn any_key_is_reachable_by_its_path() {
    let text = "[accounts.crm-eu]\norganization = \"acme\"\nusername = { file = \"/u\" }\n[apis.emr]\npreset = \"crm\"\naccount = \"crm-eu\"\n";
    let config = sound(load_both(
        text,
        &[
            ("CAREPORTALS__ACCOUNTS__CRM_EU__PASSWORD", "{ file = \"/p\" }"),
            ("CAREPORTALS__ACCOUNTS__CRM_EU__ORGANIZATION", "4711"),
            ("CAREPORTALS__ACCOUNTS__CRM_EU__LOGIN_FIELDS__USERNAME", "email"),
            ("CAREPORTALS__ACCOUNTS__CRM_EU__LOGIN_EXTRA", "{ scope = \"all\", n = 1 }"),
            ("CAREPORTALS__ACCOUNTS__CRM_EU__RELOGIN_ON", "[401, 403]"),
            ("CAREPORTALS__APIS__EMR__LISTEN", "[\"127.0.0.1:1\", \"127.0.0.1:3\"]"),
            ("CAREPORTALS__APIS__EMR__RESPONSE_TIMEOUT", "90s"),
            ("CAREPORTALS__APIS__EMR__HEADERS", "{ origin = \"https://acme.example\" }"),
            ("CAREPORTALS__APIS__EMR__MAX_REQUESTS", "7"),
            ("CAREPORTALS__APIS__EMR__SOCKET_MODE", "0600"),
            ("CAREPORTALS__DRAIN_DELAY", "\"5s\""),
            ("CAREPORTALS__ACCESS_LOG", "off"),
        ],
    ));
    let (account, api, login) = (only_account(&config), only_api(&config), only_login(&config));
    assert!(matches!(&login.password, Source::File(path) if path.as_os_str() == "/p"));
    assert!(matches!(&account.organization, Source::Value(value) if value.matches(b"4711")), "a bare string stays text");
    assert_eq!(login.username_field, "email");
    assert_eq!(serde_json::to_string(&login.extra).unwrap(), r#"{"n":1,"scope":"all"}"#);
    assert_eq!(login.relogin_on.len(), 2);
    assert_eq!(api.listen.len(), 2);
    assert_eq!(api.response_timeout.as_secs(), 90);
    assert_eq!(api.headers[0].0, "origin");
    assert_eq!((api.max_requests, api.socket_mode), (7, 0o600));
    assert_eq!(config.reloadable.drain_delay.as_secs(), 5);
    assert!(!config.reloadable.log.access);
}

#[test]
fn a_key_is_reachable_by_its_path_whatever_its_accounts_name_is() {
    for name in ["a", "a-", "-a", "a--b", "a-b", "--", "-", "a--", "listen", "a-listen-"] {
        let text = ACCOUNT.replace("default", name) + &format!("[apis.{name}]\naccount = \"{name}\"\n");
        let variables =
            [("accounts", "token_wait", "7s"), ("accounts", "login_fields.username", "email"), ("apis", "max_requests", "9")];
        let variables =
            variables.map(|(group, key, value)| (named_variables::variable_by_path(&format!("{group}.{name}.{key}")), value));
        let config = sound(load_both(&text, &variables.each_ref().map(|(variable, value)| (variable.as_str(), *value))));
        let login = only_login(&config);
        assert_eq!((login.token_wait.as_secs(), login.username_field.as_str()), (7, "email"), "{name}");
        assert_eq!(only_api(&config).max_requests, 9, "{name}");
    }
}

#[test]
fn a_files_name_is_text_whatever_it_looks_like() {
    let variables = [
        ("CAREPORTALS_ORGANIZATION", "x"),
        ("CAREPORTALS_USERNAME_FILE", "/u"),
        ("CAREPORTALS__ACCOUNTS__DEFAULT__PASSWORD__FILE", "[1]"),
    ];
    let config = sound(load_variables(&variables));
    assert!(matches!(&only_login(&config).password, Source::File(path) if path.as_os_str() == "[1]"));
}

#[test]
fn a_path_variable_may_name_an_api_that_the_file_does_not() {
    let config = sound(load_both(
        "[accounts.crm]\norganization = \"acme\"\nusername = { file = \"/u\" }\npassword = { file = \"/p\" }\n",
        &[("CAREPORTALS__APIS__EMR__PRESET", "emr"), ("CAREPORTALS__APIS__EMR__ACCOUNT", "crm")],
    ));
    assert_eq!(only_api(&config).name, "emr");
}

#[test]
fn unknown_path_variables_are_faults_with_a_suggestion() {
    for (name, expected) in [
        (
            "CAREPORTALS__APIS__DEFAULT__LISTNE",
            "CAREPORTALS__APIS__DEFAULT__LISTNE: no such key\n  hint: did you mean `CAREPORTALS__APIS__DEFAULT__LISTEN`?",
        ),
        ("CAREPORTALS__DRAIN_DELY", "CAREPORTALS__DRAIN_DELY: no such key\n  hint: did you mean `CAREPORTALS__DRAIN_DELAY`?"),
        ("CAREPORTALS__XYZZY", "CAREPORTALS__XYZZY: no such key"),
        ("CAREPORTALS__ALLOW", "CAREPORTALS__ALLOW: no such key\n  hint: did you mean `CAREPORTALS__APIS__DEFAULT__ALLOW`?"),
        (
            "CAREPORTALS__APIS__DEFAULT__TOKEN_WAIT",
            "CAREPORTALS__APIS__DEFAULT__TOKEN_WAIT: no such key\n  hint: did you mean `CAREPORTALS__ACCOUNTS__DEFAULT__TOKEN_WAIT`?",
        ),
        ("CAREPORTALS__APIS", "CAREPORTALS__APIS: no such key"),
        ("CAREPORTALS__APIS____LISTEN", "CAREPORTALS__APIS____LISTEN: no such key"),
        ("CAREPORTALS__", "CAREPORTALS__: no such key"),
        (
            "CAREPORTALS__API__DEFAULT__LISTEN",
            "CAREPORTALS__API__DEFAULT__LISTEN: no such key\n  hint: did you mean `CAREPORTALS__APIS__DEFAULT__LISTEN`?",
        ),
        (
            "CAREPORTALS__APIS__DEFAULT__URL",
            "CAREPORTALS__APIS__DEFAULT__URL: no such key\n  hint: did you mean `CAREPORTALS__APIS__DEFAULT__UPSTREAM`?",
        ),
        (
            "CAREPORTALS__APIS__DEFAULT__HEADERS__ORIGIN",
            "CAREPORTALS__APIS__DEFAULT__HEADERS__ORIGIN: no such key\n  hint: give `headers` as a whole",
        ),
        (
            "CAREPORTALS__APIS__A.B__LISTEN",
            "CAREPORTALS__APIS__A.B__LISTEN: no such key\n  hint: an account's or API's name is made of a-z, 0-9 and `-`",
        ),
    ] {
        assert_faults(&load_variables(&with_account(&[(name, "x")])), &[expected]);
    }
}

#[test]
fn other_unknown_variables_are_a_warning_with_a_suggestion() {
    for (name, expected) in [
        ("CAREPORTALS_LISTNE", "CAREPORTALS_LISTNE: no such variable; ignored\n  hint: did you mean `CAREPORTALS_LISTEN`?"),
        (
            "CAREPORTALS_PASWORD_FILE",
            "CAREPORTALS_PASWORD_FILE: no such variable; ignored\n  hint: did you mean `CAREPORTALS_PASSWORD_FILE`?",
        ),
        ("CAREPORTALS_PORT", "CAREPORTALS_PORT: no such variable; ignored\n  hint: did you mean `CAREPORTALS_LISTEN`?"),
        ("CAREPORTALS_URL", "CAREPORTALS_URL: no such variable; ignored\n  hint: did you mean `CAREPORTALS_UPSTREAM`?"),
        ("CAREPORTALS_LOG_LEVEL", "CAREPORTALS_LOG_LEVEL: no such variable; ignored\n  hint: did you mean `CAREPORTALS_LOG`?"),
        ("CAREPORTALS_FOO", "CAREPORTALS_FOO: no such variable; ignored"),
    ] {
        let loaded = load_variables(&with_account(&[(name, "canary")]));
        let [warning] = warnings(&loaded).try_into().unwrap();
        assert!(warning.starts_with(expected), "{warning}");
        sound(loaded);
    }
}

#[test]
fn a_variable_named_by_a_key_alone_is_told_how_that_key_is_spelled() {
    let by_file = format!("{ACCOUNT}[apis.emr-eu]\npreset = \"patient\"\n");
    let by_several = format!("{by_file}prefix = \"/a\"\n[apis.two]\nprefix = \"/b\"\n");
    for (text, name, meant) in [
        ("", "HARDENING", "CAREPORTALS__HARDENING"),
        ("", "DRAIN_DELAY", "CAREPORTALS__DRAIN_DELAY"),
        ("", "DRAIN_DELY", "CAREPORTALS__DRAIN_DELAY"),
        ("", "TLS_MIN", "CAREPORTALS__TLS_MIN"),
        ("", "ACCESS_LOG", "CAREPORTALS__ACCESS_LOG"),
        ("", "QUITQUITQUIT", "CAREPORTALS__QUITQUITQUIT"),
        ("", "TOKEN_WAIT", "CAREPORTALS__ACCOUNTS__DEFAULT__TOKEN_WAIT"),
        ("", "ALLOW", "CAREPORTALS__APIS__DEFAULT__ALLOW"),
        ("", "LOGIN_FIELDS_USERNAME", "CAREPORTALS__ACCOUNTS__DEFAULT__LOGIN_FIELDS__USERNAME"),
        ("", "REQUIRE_HEADER_VALUE_FILE", "CAREPORTALS__APIS__DEFAULT__REQUIRE_HEADER__VALUE__FILE"),
        ("", "APIS_DEFAULT_ALLOW", "CAREPORTALS__APIS__DEFAULT__ALLOW"),
        ("", "APIS_DEFAULT_LISTEN", "CAREPORTALS_LISTEN"),
        ("", "PRESET", "CAREPORTALS_API"),
        ("", "LOGLEVEL", "CAREPORTALS_LOG"),
        ("", "TELEMETRY", "CAREPORTALS_TELEMETRY_LISTEN"),
        ("", "CONTROL", "CAREPORTALS_CONTROL_SOCKET"),
        ("", "CREDENTIALS", "CAREPORTALS_CREDENTIALS_DIR"),
        ("", "CREDENTIALS_DIRECTORY", "CAREPORTALS_CREDENTIALS_DIR"),
        ("", "PASWORD_FILE", "CAREPORTALS_PASSWORD_FILE"),
        (by_file.as_str(), "ALLOW", "CAREPORTALS__APIS__EMR_EU__ALLOW"),
        (by_several.as_str(), "ALLOW", "CAREPORTALS__APIS__NAME__ALLOW"),
    ] {
        let variable = format!("CAREPORTALS_{name}");
        let account = if text.is_empty() { &VARIABLES[..] } else { &[] };
        let loaded = load_both(text, &[account, &[(variable.as_str(), "canary")]].concat());
        let expected = format!("{variable}: no such variable; ignored\n  hint: did you mean `{meant}`?");
        assert!(warnings(&loaded).contains(&expected), "{expected}\n{:?}", warnings(&loaded));
    }
}

#[test]
fn a_variable_that_takes_no_file_is_told_so() {
    for (name, meant) in [
        ("UPSTREAM", "CAREPORTALS_UPSTREAM"),
        ("LISTEN", "CAREPORTALS_LISTEN"),
        ("CONFIG", "CAREPORTALS_CONFIG"),
        ("LOG", "CAREPORTALS_LOG"),
        ("CA_FILE", "CAREPORTALS_CA_FILE"),
        ("DRAIN_DELAY", "CAREPORTALS__DRAIN_DELAY"),
        ("PASSWORD_FILE", "CAREPORTALS_PASSWORD_FILE"),
    ] {
        let variable = format!("CAREPORTALS_{name}_FILE");
        let loaded = load_variables(&[&VARIABLES[..], &[(variable.as_str(), "canary")]].concat());
        let expected = format!("{variable}: no such variable; ignored\n  hint: `{meant}` takes no `_FILE`: set it itself");
        assert_eq!(warnings(&loaded), [expected]);
    }
}

#[test]
fn an_empty_variable_is_one_fault_whatever_stands_beside_it() {
    let hint = "is empty\n  hint: unset it or give it a value";
    let password = format!("CAREPORTALS_PASSWORD: {hint}");
    assert_faults(&load_variables(&with_account(&[("CAREPORTALS_PASSWORD", "")])), &[&password]);
    let file = format!("CAREPORTALS_PASSWORD_FILE: {hint}");
    let direct = [VARIABLES[0], VARIABLES[1], ("CAREPORTALS_PASSWORD", "canary"), ("CAREPORTALS_PASSWORD_FILE", "")];
    assert_faults(&load_variables(&direct), &[&file]);
    for name in ["ORGANIZATION", "USERNAME_FILE", "PASSWORD_FILE"].map(|key| format!("CAREPORTALS_{key}")) {
        let variables = VARIABLES.map(|(known, value)| if known == name { (known, "") } else { (known, value) });
        assert_faults(&load_variables(&variables), &[&format!("{name}: {hint}")]);
    }
    let directory = load_variables(&[("CAREPORTALS_CREDENTIALS_DIR", "")]);
    assert_faults(&directory, &[&format!("CAREPORTALS_CREDENTIALS_DIR: {hint}")]);
    assert!(directory.rest.is_some());
    let emr = [("CAREPORTALS_API", "emr"), ("CAREPORTALS_UPSTREAM", "https://x.example"), ("CAREPORTALS_LOGIN_URL", "")];
    assert_faults(&load_variables(&with_account(&emr)), &[&format!("CAREPORTALS_LOGIN_URL: {hint}")]);
    let two = format!("ca_file = \"/c\"\n{ACCOUNT}[apis.a]\nprefix = \"/a\"\n[apis.b]\n");
    for name in ["CAREPORTALS__APIS__B__PREFIX", "CAREPORTALS__TLS_CERT_FILE", "CAREPORTALS_CA_ONLY_FILE"] {
        let text = if name.ends_with("PREFIX") { two.clone() } else { two.replace("[apis.b]", "") };
        assert_faults(&load_both(&text, &[(name, "")]), &[&format!("{name}: {hint}")]);
    }
    let config = format!("CAREPORTALS_CONFIG: {hint}");
    assert_faults(&load_variables(&[("CAREPORTALS_CONFIG", "")]), &[&config]);
    assert!(daemon_address(&input(&[("CAREPORTALS_CONFIG", "")])).control.value.unwrap_err().to_string().starts_with(&config));
    let flag = load(Input { config_flag: Some(PathBuf::new()), ..input(&VARIABLES) });
    assert_faults(&flag, &["--config: is empty\n  hint: leave it out or name a file"]);
}

#[test]
fn kubernetes_service_links_are_ignored() {
    for (name, value) in [
        ("CAREPORTALS_PORT", "tcp://10.0.0.1:2273"),
        ("CAREPORTALS_SERVICE_HOST", "10.0.0.1"),
        ("CAREPORTALS_SERVICE_PORT", "2273"),
        ("CAREPORTALS_SERVICE_PORT_HTTP", "2273"),
        ("CAREPORTALS_PORT_2273_TCP", "tcp://10.0.0.1:2273"),
        ("CAREPORTALS_PORT_2273_TCP_ADDR", "10.0.0.1"),
        ("CAREPORTALS_PORT_2273_TCP_PORT", "2273"),
        ("CAREPORTALS_PORT_2273_TCP_PROTO", "tcp"),
        ("CAREPORTALS_PORT_53_UDP", "udp://10.0.0.1:53"),
        ("CAREPORTALS_SIDECAR_SERVICE_HOST", "10.0.0.1"),
        ("CAREPORTALS_SIDECAR_PORT", "tcp://10.0.0.1:2273"),
        ("CAREPORTALS_SIDECAR_PORT_2273_TCP_PORT", "2273"),
    ] {
        let loaded = load_variables(&with_account(&[(name, value)]));
        assert_eq!(warnings(&loaded), Vec::<String>::new(), "{name}");
        sound(loaded);
    }
    for name in ["CAREPORTALS_PORT_WEB_TCP", "CAREPORTALS_PORT__TCP", "CAREPORTALS_PORT_2273_XYZ"] {
        assert_eq!(warnings(&load_variables(&with_account(&[(name, "10.0.0.1")]))).len(), 1, "{name}");
    }
}

#[test]
fn the_default_account_and_api_exist_only_when_named_or_when_nobody_names_any() {
    let named = "[accounts.crm]\norganization = \"acme\"\nusername = { file = \"/u\" }\npassword = { file = \"/p\" }\n[apis.crm]\naccount = \"crm\"\n";
    sound(load_text(named));
    for (name, value, kind) in [
        ("CAREPORTALS_ORGANIZATION", "x", "accounts"),
        ("CAREPORTALS_PASSWORD_FILE", "/x", "accounts"),
        ("CAREPORTALS_LOGIN_URL", "off", "accounts"),
        ("CAREPORTALS_CREDENTIALS_DIR", "/x", "accounts"),
        ("CAREPORTALS_API", "crm", "apis"),
        ("CAREPORTALS_UPSTREAM", "https://x.example", "apis"),
        ("CAREPORTALS_LISTEN", "127.0.0.1:9", "apis"),
        ("CAREPORTALS_ALLOW_NON_LOOPBACK", "true", "apis"),
    ] {
        let expected = format!("{name}: sets `[{kind}.default]`, which the settings do not have");
        assert_faults(&load_both(named, &[(name, value)]), &[&expected]);
    }
    // Global ones are always fine, and so is what systemd sets for other purposes.
    sound(load_both(named, &[("CAREPORTALS_LOG", "debug"), ("CREDENTIALS_DIRECTORY", "/x")]));
    // A file that names an API and no account leaves the default account to the variables, and the other way round.
    sound(load_both("[apis.crm]\npreset = \"crm\"\n", &VARIABLES));
    sound(load_both(
        &ACCOUNT.replace("default", "crm"),
        &[("CAREPORTALS__APIS__DEFAULT__ACCOUNT", "crm"), ("CAREPORTALS_API", "crm")],
    ));
}

#[test]
fn hints_name_variables_where_the_user_does() {
    for (name, value, expected) in [
        ("CAREPORTALS_LISTEN", "0.0.0.0:1", "or set `CAREPORTALS_ALLOW_NON_LOOPBACK=true`"),
        ("CAREPORTALS_UPSTREAM", "http://127.0.0.1:1", "set `CAREPORTALS__APIS__DEFAULT__ALLOW_INSECURE_UPSTREAM=true`"),
        ("CAREPORTALS__TLS_CERT_FILE", "/c", "needs `CAREPORTALS__TLS_KEY_FILE` beside it"),
    ] {
        let [fault] = faults(&load_variables(&with_account(&[(name, value)]))).try_into().unwrap();
        assert!(fault.starts_with(&format!("{name}: ")) && fault.contains(expected), "{fault}");
    }
    let emr = with_account(&[("CAREPORTALS_API", "emr"), ("CAREPORTALS_UPSTREAM", "https://x.example")]);
    assert_faults(&load_variables(&emr), &["CAREPORTALS_LOGIN_URL: needed, since API `default` has the preset `emr`"]);
    let [of_file] = faults(&api_with("listen = \"0.0.0.0:1\"")).try_into().unwrap();
    assert!(of_file.ends_with("or set `allow_non_loopback = true`"), "{of_file}");
}

#[test]
fn an_empty_variable_is_a_fault() {
    for name in ["CAREPORTALS_LISTEN", "CAREPORTALS_CREDENTIALS_DIR", "CAREPORTALS__DRAIN_DELAY"] {
        assert_faults(&load_variables(&with_account(&[(name, "")])), &[&format!("{name}: is empty")]);
    }
}

#[cfg(unix)]
#[test]
fn a_variable_that_is_no_text_is_a_fault_that_does_not_repeat_it() {
    let mut variables: Vec<(OsString, OsString)> = VARIABLES.iter().map(|(name, value)| (name.into(), value.into())).collect();
    for (name, expected) in [("CAREPORTALS_LOG", 4), ("CAREPORTALS_ORGANIZATION", 3)] {
        variables.retain(|(known, _)| known != "CAREPORTALS_LOG" && known != name);
        variables.push((name.into(), OsString::from_vec(b"canary\xff".to_vec())));
        assert_eq!(variables.len(), expected);
        let loaded = load(Input { environment: variables.iter().cloned().collect(), ..input(&[]) });
        assert_eq!(faults(&loaded), [format!("{name}: is not UTF-8")]);
    }
}

#[test]
fn the_way_out_is_read_from_either_case_of_the_names_and_the_lower_one_wins() {
    let way = |variables: &[(&'static str, &'static str)]| {
        let config = sound(load_variables(&with_account(variables)));
        let way = config.egress.on_the_way_to(&config.apis[0].upstream.origin);
        way.map(|proxy| proxy.origin.to_string())
    };
    let proxy = ("HTTPS_PROXY", "http://user:canary@proxy.example:3128");
    let found = Some("http://proxy.example:3128".to_owned());
    assert_eq!(way(&[proxy]), found);
    assert_eq!(way(&[proxy, ("https_proxy", "other.example")]), Some("http://other.example".to_owned()));
    assert_eq!(way(&[proxy, ("NO_PROXY", "other.example")]), found);
    assert_eq!(way(&[proxy, ("NO_PROXY", "other.example,.careportals.com")]), None);
    assert_eq!(way(&[proxy, ("NO_PROXY", "other.example"), ("no_proxy", "*")]), None);
    assert_eq!(way(&[("HTTPS_PROXY", "")]), None);
    assert_eq!(way(&[proxy, ("CAREPORTALS_UPSTREAM", "https://127.0.0.1:9443")]), None);
    let wrong = load_variables(&with_account(&[("https_proxy", "socks5://user:canary@proxy.example")]));
    assert_faults(&wrong, &["https_proxy: only http:// and https:// proxies are supported"]);
}

#[test]
fn an_entry_of_no_proxy_that_nobody_understands_is_warned_about() {
    let loaded = load_variables(&with_account(&[("NO_PROXY", "10.0.0.0/99, a.example,<local>")]));
    let expected = |entry| format!("NO_PROXY: `{entry}` is no name, address or network, and excepts nothing");
    assert_eq!(warnings(&loaded), [expected("10.0.0.0/99"), expected("<local>")]);
}

#[test]
fn flags_win_over_variables_and_variables_over_the_file_and_the_file_over_defaults() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.toml");
    fs::write(&path, format!("log = \"warn\"\ndrain_timeout = \"1s\"\ndrain_delay = \"1s\"\n{ACCOUNT}")).unwrap();
    let variables =
        [("CAREPORTALS_LOG", "debug"), ("CAREPORTALS__DRAIN_DELAY", "2s"), ("CAREPORTALS_CONFIG", path.to_str().unwrap())];
    let loaded = load(Input { flags: vec![("log".to_owned(), "trace".to_owned())], ..input(&variables) });
    let origin = |path: &str| plain(&loaded.values.iter().find(|value| value.path == path).unwrap().origin.to_string());
    assert_eq!(origin("log"), "--log");
    assert_eq!(origin("drain_delay"), "CAREPORTALS__DRAIN_DELAY");
    assert_eq!(origin("drain_timeout"), "config.toml:2");
    assert_eq!(origin("hardening"), "default");
    assert_eq!(origin("apis.default.upstream"), "preset");
    let config = sound(loaded);
    assert_eq!(config.reloadable.log.filter, "trace");
    assert_eq!((config.reloadable.drain_delay.as_secs(), config.reloadable.drain_timeout.as_secs()), (2, 1));
}

#[test]
fn a_faulty_flag_is_named() {
    let flags = [("log_format", "yaml"), ("nonsense", "x"), ("apis.emr.listen", "127.0.0.1:1")];
    let flags = flags.map(|(path, value)| (path.to_owned(), value.to_owned())).to_vec();
    let loaded = load(Input { flags, ..input(&with_account(&[("CAREPORTALS__APIS__CRM__PRESET", "crm")])) });
    assert_faults(
        &loaded,
        &[
            "--nonsense: no such key",
            "--listen: sets `[apis.emr]`, which the settings do not have",
            "--log-format: `yaml` is none of `auto`, `text`, `json`",
        ],
    );
}

#[test]
fn a_table_may_be_given_as_a_whole() {
    let name = "CAREPORTALS__ACCOUNTS__DEFAULT__LOGIN_FIELDS";
    let mut variables = VARIABLES.to_vec();
    variables.push((name, "{ username = \"email\", password = \"secret\" }"));
    let config = sound(load_variables(&variables));
    let login = only_login(&config);
    assert_eq!((login.username_field.as_str(), login.password_field.as_str()), ("email", "secret"));

    variables.pop();
    variables.push((name, "{ username = \"email\", pasword = \"secret\" }"));
    let faults = load_variables(&variables).faults;
    assert_eq!(faults.len(), 1, "{faults:?}");
    assert!(faults[0].to_string().starts_with(name), "{}", faults[0]);
}

/// Such a variable would open an address where everything passes, beside the API that it is meant for.
#[test]
fn a_variable_makes_no_api_beside_those_of_the_file_unless_it_says_where_that_leads() {
    let limit = ("CAREPORTALS__APIS__DEFAULT__MAX_REQUESTS", "64");
    let file = format!("{ACCOUNT}[apis.foo]\nupstream = \"https://api.example\"\nallow = [\"GET /users/account\"]\n");
    let refused = load_both(&file, &[limit]);
    assert_faults(
        &refused,
        &["CAREPORTALS__APIS__DEFAULT__MAX_REQUESTS: sets `[apis.default]`, which the settings file does not"],
    );
    let hint = refused.faults[0].to_string();
    assert!(hint.contains("name an API of the file; or set CAREPORTALS__APIS__DEFAULT__UPSTREAM for another one"), "{hint}");
    for (leads, value) in [("UPSTREAM", "https://crm.example"), ("PRESET", "crm")] {
        let leads = format!("CAREPORTALS__APIS__DEFAULT__{leads}");
        let more = [limit, (&leads, value), ("CAREPORTALS__APIS__DEFAULT__LISTEN", "127.0.0.1:1")];
        let found = faults(&load_both(&file, &more));
        assert!(!found.iter().any(|fault| fault.contains("the settings file does not have")), "{found:?}");
    }
    for file in [ACCOUNT.to_owned(), file.replace("foo", "default")] {
        assert_eq!(sound(load_both(&file, &[limit])).apis[0].max_requests, 64);
    }
}
