//! What several values together can get wrong.

use super::*;
use crate::config::{AccountId, Source};

/// An account `crm` and these APIs.
fn apis(text: &str) -> Loaded {
    load_text(&format!("{}{text}", ACCOUNT.replace("default", "crm")))
}

#[test]
fn an_account_may_serve_several_apis_whose_presets_agree() {
    let config = sound(apis(
        "[apis.crm]\npreset = \"crm\"\naccount = \"crm\"\nlisten = \"127.0.0.1:1\"\n[apis.emr]\npreset = \"emr\"\naccount = \"crm\"\nlisten = \"127.0.0.1:3\"\n",
    ));
    assert_eq!(only_login(&config).url.origin.host, "crm-api.portals.care");
    assert!(config.apis.iter().all(|api| api.account == AccountId(0)));
}

#[test]
fn apis_that_do_not_agree_on_a_log_in_are_a_fault() {
    for other in ["patient", "public", "careportals"] {
        let text = format!(
            "[apis.crm]\npreset = \"crm\"\naccount = \"crm\"\nlisten = \"127.0.0.1:1\"\n[apis.x]\npreset = \"{other}\"\naccount = \"crm\"\nlisten = \"127.0.0.1:3\"\n"
        );
        assert_faults(
            &apis(&text),
            &["config.toml:1: accounts.crm.login_url: APIs `crm` and `x` of this account do not agree on a log-in"],
        );
        let told = text.replace("[apis.crm]", "login_url = \"https://crm.example/auth\"\n[apis.crm]");
        sound(apis(&told));
    }
}

#[test]
fn emr_with_another_upstream_needs_a_login_url() {
    let text = "[apis.emr]\npreset = \"emr\"\naccount = \"crm\"\nupstream = \"https://emr.example\"\n";
    assert_faults(
        &apis(text),
        &["config.toml:1: accounts.crm.login_url: needed, since API `emr` has the preset `emr` with another upstream"],
    );
    sound(apis(&format!("login_url = \"https://crm.example/auth\"\n{text}")));
    sound(apis(&text.replace("emr.example", "EMR-api.portals.care:443/")));
}

#[test]
fn a_login_path_needs_exactly_one_api() {
    let one =
        "login_url = \"/in\"\n[apis.a]\naccount = \"crm\"\nupstream = \"https://a.example/base\"\nlisten = \"127.0.0.1:1\"\n";
    assert_eq!(only_login(&sound(apis(one))).url.target, "/base/in");
    let two = format!("{one}[apis.b]\naccount = \"crm\"\nlisten = \"127.0.0.1:3\"\n");
    assert_faults(
        &apis(&two),
        &["config.toml:5: accounts.crm.login_url: a path needs an account with exactly one API, and several APIs use it"],
    );
    for key in ["login_url", "refresh_url"] {
        let typo = one.replace("\"crm\"", "\"crmm\"").replace("login_url", key);
        assert_faults(&apis(&typo), &["config.toml:7: apis.a.account: there is no account `crmm`"]);
    }
    let refresh = one.replace("login_url", "refresh_url");
    assert_eq!(only_login(&sound(apis(&refresh))).refresh_url.as_ref().unwrap().target, "/base/in");
}

#[test]
fn an_account_without_log_in_needs_no_credentials() {
    for text in [
        "[accounts.default]\norganization = \"acme\"\n[apis.default]\npreset = \"public\"\n",
        "[accounts.default]\norganization = \"acme\"\nlogin_url = \"off\"\n",
    ] {
        assert!(only_account(&sound(load_text(text))).login.is_none());
    }
}

#[test]
fn an_account_that_no_api_uses_is_told() {
    let unused = "[accounts.spare]\norganization = \"x\"\nusername = { file = \"/u\" }\npassword = { file = \"/p\" }\n";
    assert_faults(
        &load_text(&format!("{ACCOUNT}{unused}[apis.default]\n")),
        &["config.toml:5: accounts.spare.login_url: no API uses this account, so nothing says where it logs in"],
    );
    let loaded = load_text(&format!("{ACCOUNT}{unused}login_url = \"https://x.example/in\"\n[apis.default]\n"));
    assert_eq!(warnings(&loaded), ["config.toml:9: accounts.spare.login_url: no API uses this account"]);
    sound(loaded);
}

#[test]
fn an_unknown_account_is_a_fault() {
    assert_faults(
        &load_text(&format!("{ACCOUNT}[apis.a]\naccount = \"other\"\nlisten = \"127.0.0.1:1\"\n[apis.b]\n")),
        &["config.toml:6: apis.a.account: there is no account `other`\n  hint: write account = \"default\""],
    );
}

#[test]
fn beyond_loopback_only_when_allowed_and_not_without_a_word() {
    for address in ["0.0.0.0:80", "192.0.2.1:80", "[::]:80"] {
        let line = format!("listen = [\"{address}\"]");
        assert_faults(&api_with(&line), &[&format!("config.toml:6: apis.default.listen: {address} is not a loopback address")]);
        let loaded = api_with(&format!("{line}\nallow_non_loopback = true"));
        let [warning] = warnings(&loaded).try_into().unwrap();
        assert!(
            warning.starts_with("config.toml:6: apis.default.listen: listens beyond loopback without `allowed_hosts`"),
            "{warning}"
        );
        sound(loaded);
        let named = api_with(&format!("{line}\nallow_non_loopback = true\nallowed_hosts = [\"a.example\"]"));
        assert_eq!(warnings(&named), Vec::<String>::new());
    }
    for address in ["127.0.0.1:80", "127.9.9.9:80", "[::1]:80", "unix:/x"] {
        sound(api_with(&format!("listen = [\"{address}\"]")));
    }
}

#[test]
fn groups_alone_are_warned_about_where_they_let_nobody_in() {
    let callers = |lines: &str| warnings(&api_with(lines));
    for listen in ["", "\nlisten = [\"127.0.0.1:80\", \"unix:/x\"]"] {
        let [warning] = callers(&format!("allow_gids = [7]{listen}")).try_into().unwrap();
        assert!(warning.starts_with("config.toml:6: apis.default.allow_gids: lets nobody in over TCP"), "{warning}");
    }
    for lines in
        ["allow_gids = [7]\nlisten = \"unix:/x\"", "allow_gids = [7]\nallow_uids = 7", "allow_gids = []", "allow_uids = [7]"]
    {
        assert_eq!(callers(lines), Vec::<String>::new(), "{lines}");
    }
    let config = sound(api_with("allow_uids = [7, 8]\nallow_gids = 9"));
    assert_eq!((&config.apis[0].allow_uids[..], &config.apis[0].allow_gids[..]), (&[7, 8][..], &[9][..]));
}

#[test]
fn plain_http_is_for_loopback_by_permission() {
    for host in ["127.0.0.1:8080", "localhost:8080", "[::1]:8080"] {
        let line = format!("upstream = \"http://{host}\"");
        assert_faults(&api_with(&line), &["config.toml:6: apis.default.upstream: plain http is refused"]);
        sound(api_with(&format!("{line}\nallow_insecure_upstream = true")));
    }
    for host in ["a.example", "192.0.2.1", "0.0.0.0", "localhost.example"] {
        let loaded = api_with(&format!("upstream = \"http://{host}\"\nallow_insecure_upstream = true"));
        assert_faults(&loaded, &["config.toml:6: apis.default.upstream: plain http would show the token"]);
    }
}

#[test]
fn log_in_never_goes_over_plain_http_but_to_loopback() {
    for key in ["login_url", "refresh_url"] {
        assert_faults(
            &account_with(&format!("{key} = \"http://a.example/in\"")),
            &[&format!("config.toml:5: accounts.default.{key}: ")],
        );
        sound(account_with(&format!("{key} = \"http://127.0.0.1:9/in\"")));
    }
}

#[test]
fn an_upstream_that_is_our_own_address_is_a_fault() {
    for (listen, upstream) in [
        ("127.0.0.1:2273", "https://127.0.0.1:2273"),
        ("127.0.0.1:2273", "https://localhost:2273/x"),
        ("127.0.0.1:443", "https://localhost"),
        ("[::1]:2273", "https://[::1]:2273"),
        ("127.0.0.1:2273", "https://[::ffff:127.0.0.1]:2273"),
        ("127.0.0.1:2273", "https://0.0.0.0:2273"),
        ("127.0.0.1:1", "https://127.0.0.1:2274"),
        ("[::1]:9", "https://localhost:9"),
        ("[::1]:9", "https://[::]:9"),
    ] {
        let loaded = api_with(&format!("listen = [\"{listen}\"]\nupstream = \"{upstream}\""));
        assert_faults(&loaded, &["config.toml:7: apis.default.upstream: is our own address"]);
    }
    let loaded = api_with("listen = [\"0.0.0.0:9\"]\nallow_non_loopback = true\nupstream = \"https://127.0.0.1:9\"");
    assert_faults(&loaded, &["config.toml:8: apis.default.upstream: is our own address 0.0.0.0:9"]);
    sound(api_with("listen = [\"127.0.0.1:0\"]\nupstream = \"https://127.0.0.1:9\""));
    // These never meet: an IPv6 listener serves no IPv4, and `localhost` is one address of each family.
    for (listen, upstream) in [
        ("127.0.0.2:9", "127.0.0.1:9"),
        ("127.0.0.2:9", "localhost:9"),
        ("127.0.0.2:9", "0.0.0.0:9"),
        ("[::]:9", "127.0.0.1:9"),
        ("0.0.0.0:9", "[::1]:9"),
    ] {
        let listen = format!("listen = [\"{listen}\"]\nallow_non_loopback = true\nallowed_hosts = [\"a\"]");
        sound(api_with(&format!("{listen}\nupstream = \"https://{upstream}\"")));
    }
    for key in ["login_url", "refresh_url"] {
        let expected =
            format!("config.toml:5: accounts.default.{key}: is our own address 127.0.0.1:2273, which refuses log-in paths");
        assert_faults(&account_with(&format!("{key} = \"https://127.0.0.1:2273/in\"")), &[&expected]);
        let path = format!("{ACCOUNT}{key} = \"/in\"\n[apis.default]\nupstream = \"https://127.0.0.1:2273\"\n");
        assert_faults(&load_text(&path), &["config.toml:7: apis.default.upstream: is our own address"]);
    }
}

#[test]
fn apis_that_share_an_address_need_a_prefix_each() {
    let two = |a: &str, b: &str| load_text(&format!("{ACCOUNT}[apis.a]\n{a}\n[apis.b]\n{b}\n"));
    let shares = "config.toml:7: apis.b.listen: shares 127.0.0.1:2273 with API `a`, and each then needs a prefix of its own";
    assert_faults(&two("", ""), &[shares]);
    assert_faults(&two("prefix = \"/a\"", ""), &[shares]);
    assert_faults(&two("", "prefix = \"/b\""), &[shares]);
    assert_faults(
        &two("prefix = \"/a\"", "prefix = \"/a\""),
        &["config.toml:7: apis.b.listen: shares 127.0.0.1:2273 with API `a`, and both have the prefix /a"],
    );
    sound(two("prefix = \"/a\"", "prefix = \"/b\""));
    // A prefix that is wrong is one.
    for (a, b, line) in [("\"a\"", "\"/b\"", 6), ("\"/a\"", "3", 8)] {
        let [fault] = faults(&two(&format!("prefix = {a}"), &format!("prefix = {b}"))).try_into().unwrap();
        assert!(fault.starts_with(&format!("config.toml:{line}: apis.")) && fault.contains(".prefix: "), "{fault}");
    }
    // Which socket is whose, systemd says.
    sound(two("listen = \"systemd\"", "listen = \"systemd\""));
    assert_faults(
        &two("listen = \"unix:/x\"", "listen = \"unix:/x\""),
        &["config.toml:8: apis.b.listen: shares unix:/x with API `a`, and each then needs"],
    );
    assert_faults(
        &two("listen = \"0.0.0.0:7\"\nallow_non_loopback = true", "listen = \"127.0.0.1:7\""),
        &["config.toml:9: apis.b.listen: 127.0.0.1:7 overlaps 0.0.0.0:7 of API `a`"],
    );
    assert_faults(
        &api_with("listen = [\"0.0.0.0:7\", \"127.0.0.1:7\"]\nallow_non_loopback = true\nallowed_hosts = [\"a\"]"),
        &["config.toml:6: apis.default.listen: 127.0.0.1:7 overlaps 0.0.0.0:7\n  hint: name one of the two"],
    );
    let one_file = "listen = \"unix:/x\"\nprefix = ";
    sound(two(&format!("{one_file}\"/a\""), &format!("{one_file}\"/b\"")));
    assert_faults(
        &two(&format!("{one_file}\"/a\""), &format!("{one_file}\"/b\"\nsocket_mode = \"0600\"")),
        &["config.toml:11: apis.b.socket_mode: is not that of API `a`, with which it shares a Unix socket"],
    );
    assert_faults(
        &two(&format!("{one_file}\"/a\"\nsocket_group = \"staff\""), &format!("{one_file}\"/b\"")),
        &["config.toml:9: apis.b.socket_group: is not that of API `a`, with which it shares a Unix socket"],
    );
    for (key, wrong) in [("socket_mode", "\"rw\""), ("socket_group", "3")] {
        let loaded = two(&format!("{one_file}\"/a\"\n{key} = {wrong}"), &format!("{one_file}\"/b\""));
        assert_faults(&loaded, &[&format!("config.toml:8: apis.a.{key}: ")]);
    }
    sound(two("listen = \"127.0.0.1:0\"", "listen = \"127.0.0.1:0\""));
    sound(two("listen = \"127.0.0.1:1\"", "listen = \"[::1]:1\""));
}

#[test]
fn telemetry_and_apis_do_not_share_a_port() {
    assert_faults(
        &global_with("telemetry_listen = \"127.0.0.1:2273\""),
        &["config.toml:1: telemetry_listen: the telemetry address 127.0.0.1:2273 is also where API `default` listens"],
    );
    assert_faults(&api_with("listen = \"127.0.0.1:2274\""), &["config.toml:6: apis.default.listen: the telemetry address"]);
    sound(load_text(&format!("telemetry_listen = \"off\"\n{ACCOUNT}[apis.default]\nlisten = \"127.0.0.1:2274\"\n")));
}

#[test]
fn settings_that_come_in_pairs() {
    assert_faults(
        &global_with("ca_file = \"/a\"\nca_only_file = \"/b\""),
        &["config.toml:2: ca_only_file: contradicts `ca_file`"],
    );
    // Each is named as it was written.
    let both = format!("ca_file = \"/a\"\n{ACCOUNT}");
    let named = "CAREPORTALS_CA_ONLY_FILE: contradicts `ca_file`, which adds to the system's roots";
    assert_faults(&load_both(&both, &[("CAREPORTALS_CA_ONLY_FILE", "/b")]), &[named]);
    assert_faults(&global_with("tls_cert_file = \"/a\""), &["config.toml:1: tls_cert_file: needs `tls_key_file` beside it"]);
    for empty in ["require_header = {}", "[apis.default.require_header]"] {
        let expected =
            "config.toml:6: apis.default.require_header: needs `name`\n  hint: write require_header = { name = …, value = … }";
        assert_faults(&api_with(empty), &[expected]);
    }
    let variable = "CAREPORTALS__APIS__DEFAULT__REQUIRE_HEADER";
    assert_faults(&load_variables(&with_account(&[(variable, "{}")])), &[&format!("{variable}: no such key")]);
    assert_faults(
        &api_with("require_header = { value = \"canary\" }"),
        &["config.toml:6: apis.default.require_header.value: needs `require_header.name` beside it"],
    );
}

#[test]
fn every_log_in_path_is_refused_to_clients() {
    let text = "login_url = \"/in\"\nrefresh_url = \"https://a.example/again\"\n[apis.a]\naccount = \"crm\"\nupstream = \"https://a.example/base\"\n";
    let config = sound(apis(text));
    for path in ["/base/in", "/again", "/auth", "/base/patient/auth", "/patient/auth/login"] {
        assert!(config.login_paths.contains(path), "{path}");
    }
    assert!(!config.login_paths.contains("/in"));
}

#[test]
fn every_file_that_is_looked_at_after_the_start_can_be_listed() {
    let text = r#"
ca_file = "/ca"
tls_cert_file = "/cert"
tls_key_file = "/key"
[accounts.crm]
organization = { file = "/org" }
username = { file = "/user" }
password = { command = ["op"] }
[apis.crm]
account = "crm"
preset = "crm"
listen = "127.0.0.1:1"
require_header = { name = "x-a", value = { file = "/value" } }
[apis.free]
account = "crm"
preset = "crm"
listen = "127.0.0.1:3"
require_header = { name = "x-a" }
"#;
    let config = sound(load_text(text));
    let mut files: Vec<_> = config.files().map(|path| path.to_str().unwrap()).collect();
    files.sort_unstable();
    assert_eq!(files, ["/ca", "/cert", "/key", "/org", "/user", "/value"]);
    assert!(config.sources().any(|source| matches!(source, Source::Command(_))));
}

#[test]
fn a_required_value_that_is_written_down_is_warned_about() {
    let written = "require_header = { name = \"x-a\", value = \"canary\" }";
    let told = warnings(&api_with(written));
    assert!(told.len() == 1 && told[0].starts_with("config.toml:6: apis.default.require_header.value: is written"), "{told:?}");
    let variable = [("CAREPORTALS__APIS__DEFAULT__REQUIRE_HEADER__VALUE", "canary")];
    let told = warnings(&load_both(&format!("{ACCOUNT}[apis.default]\nrequire_header = {{ name = \"x-a\" }}\n"), &variable));
    assert!(told.iter().any(|told| told.contains("REQUIRE_HEADER__VALUE: is given directly")), "{told:?}");
    for source in ["{ file = \"/a\" }", "{ command = [\"op\"] }"] {
        let text = format!("require_header = {{ name = \"x-a\", value = {source} }}");
        assert_eq!(warnings(&api_with(&text)), Vec::<String>::new(), "{source}");
    }
}

#[test]
fn an_upstream_of_another_name_or_address_at_our_port_is_no_address_of_ours() {
    for host in ["api.example", "192.0.2.7", "[2001:db8::7]"] {
        sound(api_with(&format!("upstream = \"https://{host}:2273\"")));
    }
    let beyond = "listen = \"192.0.2.7:8443\"\nallow_non_loopback = true\nallowed_hosts = [\"x.example\"]\n";
    sound(api_with(&format!("{beyond}upstream = \"https://localhost:8443\"")));
}

#[test]
fn a_refresh_url_without_log_in_is_warned_about() {
    let off = "[accounts.default]\norganization = \"acme\"\nlogin_url = \"off\"\n";
    let told = warnings(&load_text(&format!("{off}refresh_url = \"https://a.example/again\"\n")));
    assert_eq!(told, ["config.toml:4: accounts.default.refresh_url: has no effect, since log-in is off"]);
    assert_eq!(warnings(&load_text(off)), Vec::<String>::new());
}

#[test]
fn a_log_in_that_is_written_wrong_has_one_fault() {
    let two = "[apis.a]\naccount = \"crm\"\npreset = \"crm\"\nlisten = \"127.0.0.1:1\"\n[apis.b]\naccount = \"crm\"\npreset = \"patient\"\nlisten = \"127.0.0.1:3\"\n";
    assert_faults(&apis(&format!("login_url = \"ftp://x\"\n{two}")), &["config.toml:5: accounts.crm.login_url: "]);
}

#[test]
fn credentials_that_are_missing_are_told_beside_a_log_in_that_is_not_known() {
    let text =
        "[accounts.crm]\norganization = \"acme\"\nlogin_url = \"ftp://x\"\n[apis.crm]\npreset = \"crm\"\naccount = \"crm\"\n";
    assert_faults(
        &load_text(text),
        &[
            "config.toml:1: accounts.crm.username: is missing",
            "config.toml:1: accounts.crm.password: is missing",
            "config.toml:3: accounts.crm.login_url: ",
        ],
    );
    // With this preset nothing says that the account logs in at all.
    assert_faults(
        &load_text(&text.replace("preset = \"crm\"", "preset = \"public\"")),
        &["config.toml:3: accounts.crm.login_url: "],
    );
}

#[test]
fn of_two_rules_that_are_alike_the_second_one_is_superfluous() {
    for (key, wrong) in [("allow", "`GET /a:b` lets all of it through already"), ("deny", "`GET /a:b` refuses all of it already")]
    {
        let told = warnings(&api_with(&format!("{key} = [\"GET /a:b\", \"GET /a%3Ab\", \"GET /c\"]")));
        assert_eq!(told, [format!("config.toml:6: apis.default.{key}: `GET /a%3Ab` has no effect: {wrong}")]);
    }
}
