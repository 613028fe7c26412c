//! One value at a time: what is right, and what each wrong one is told.

use super::*;
use crate::config::{AllowedHosts, Cookies, Hardening, Http2, Source};

#[test]
fn durations() {
    for (text, millis) in [("30s", 30_000), ("250ms", 250), ("2m", 120_000), ("1m30s", 90_000)] {
        assert_eq!(sound(api_with(&format!("head_timeout = \"{text}\""))).apis[0].head_timeout.as_millis(), millis, "{text}");
    }
    for text in [
        "\"30\"",
        "\"s\"",
        "\"1.5s\"",
        "\"-1s\"",
        "\"30 s\"",
        "\"1x\"",
        "\"99999999999999999999s\"",
        "\"9999999999999999d\"",
        "\"\"",
    ] {
        assert_faults(&api_with(&format!("head_timeout = {text}")), &["config.toml:6: apis.default.head_timeout: `"]);
    }
    assert_faults(
        &api_with("head_timeout = 30"),
        &["config.toml:6: apis.default.head_timeout: expected a duration, found a whole number"],
    );
    assert_eq!(
        sound(account_with("assumed_life = \"30d\"")).accounts[0].login.as_ref().unwrap().assumed_life.as_secs(),
        2_592_000
    );
}

#[test]
fn durations_and_counts_that_cannot_work_are_told_their_range() {
    for (line, expected) in [
        ("connect_timeout = \"0s\"", "must be from 10ms to 5m"),
        ("connect_timeout = \"1h\"", "must be from 10ms to 5m"),
        ("max_requests = 0", "must be from 1 to 1000000"),
        ("max_requests = -1", "must not be negative"),
        ("max_requests = \"many\"", "expected a whole number, found text"),
        ("max_requests = 1.5", "expected a whole number, found a fractional number"),
        ("max_header_bytes = \"1KiB\"", "must be from 8KiB to 1MiB"),
        ("replay_buffer = \"1GiB\"", "must be from 0B to 64MiB"),
    ] {
        let key = line.split(' ').next().unwrap();
        assert_faults(&api_with(line), &[&format!("config.toml:6: apis.default.{key}: {expected}")]);
    }
}

#[test]
fn sizes() {
    for (text, bytes) in [
        ("\"64KiB\"", 65_536),
        ("\"1MiB\"", 1_048_576),
        ("\"10KB\"", 10_000),
        ("\"1MB\"", 1_000_000),
        ("\"0B\"", 0),
        ("512", 512),
    ] {
        assert_eq!(sound(api_with(&format!("replay_buffer = {text}"))).apis[0].replay_buffer, bytes);
    }
    for text in ["\"64\"", "\"64kib\"", "\"1KiB1B\"", "\"KiB\"", "\"99999999999999999999B\"", "true"] {
        assert_faults(&api_with(&format!("replay_buffer = {text}")), &["config.toml:6: apis.default.replay_buffer: "]);
    }
}

#[test]
fn modes_are_octal_however_they_are_written() {
    for (text, mode) in [("\"0660\"", 0o660), ("\"600\"", 0o600), ("0o666", 0o666), ("660", 0o660)] {
        assert_eq!(sound(api_with(&format!("socket_mode = {text}"))).apis[0].socket_mode, mode, "{text}");
    }
    for text in ["\"0990\"", "\"07777\"", "\"0066\"", "-1", "\"rw\"", "\"+660\"", "\"00660\"", "\"0o00660\"", "\"66\""] {
        assert_faults(&api_with(&format!("socket_mode = {text}")), &["config.toml:6: apis.default.socket_mode: "]);
    }
}

#[test]
fn words_of_a_choice() {
    let config = sound(api_with("cookies = \"pass\""));
    assert_eq!(
        (config.apis[0].cookies, config.apis[0].connections.http2, config.restart_only.hardening),
        (Cookies::Pass, Http2::Off, Hardening::Auto)
    );
    assert_eq!(sound(global_with("hardening = \"off\"")).restart_only.hardening, Hardening::Off);
    assert_faults(&api_with("cookies = \"keep\""), &["config.toml:6: apis.default.cookies: `keep` is none of `strip`, `pass`"]);
    assert_faults(&global_with("log_format = 1"), &["config.toml:1: log_format: expected `auto`, `text`, `json` in quotes"]);
    let of_nobody = ["careportals_sidecarx=debug", "careportals_sidecar::account debug", "careportals_sidecar debug"];
    let wrong = ["[[", "verbose", "warning", "hyper=debug", "careportals-sidecar=debug", "debug,verbose", ","];
    for filter in wrong.into_iter().chain(of_nobody) {
        let fault = format!("config.toml:1: log: `{filter}` is not a filter\n  hint: write `error`, `warn`, `info`");
        assert_faults(&global_with(&format!("log = \"{filter}\"")), &[&fault]);
    }
    for filter in ["off", "INFO", "warn,careportals_sidecar::account=debug", "info,hyper=debug", "careportals_sidecar=trace", "3"]
    {
        sound(global_with(&format!("log = \"{filter}\"")));
    }
    assert_faults(
        &global_with("access_log = true"),
        &["config.toml:1: access_log: expected `on`, `off` in quotes, found a switch"],
    );
}

#[test]
fn a_host_may_end_in_a_dot_which_is_kept_for_the_resolver_alone() {
    let upstream = |url: &str| sound(api_with(&format!("upstream = \"{url}\""))).apis[0].upstream.clone();
    let rooted = upstream("https://API.example.:8443/v2");
    assert_eq!(rooted.to_string(), "https://api.example:8443/v2");
    assert_eq!((rooted.origin.host.as_str(), rooted.origin.name_for_dns().as_str()), ("api.example", "api.example."));
    let plain = upstream("https://api.example:443");
    assert_eq!((plain.origin.authority().as_str(), plain.origin.name_for_dns().as_str()), ("api.example", "api.example"));
    assert_eq!(upstream("https://api.example.").origin.authority(), "api.example");
    assert_eq!(upstream("https://localhost.").origin.name_for_dns(), "localhost");
    for url in
        ["https://.", "https://a..", "https://a..b.", "https://127.0.0.1.", "https://[::1].", "https://10.9.", "https://0x7f."]
    {
        assert_faults(&api_with(&format!("upstream = \"{url}\"")), &["config.toml:6: apis.default.upstream: "]);
    }
}

#[test]
fn sources_that_are_written_alike_are_the_same() {
    let all = || {
        let words = |words: &[&str]| Source::Command(words.iter().map(|word| (*word).to_owned()).collect());
        [
            Source::Value("a".into()),
            Source::Value("b".into()),
            Source::File("a".into()),
            Source::File("b".into()),
            words(&["a"]),
            words(&["a", "b"]),
        ]
    };
    for (at, one) in all().iter().enumerate() {
        for (other_at, other) in all().iter().enumerate() {
            assert_eq!(one.is_same(other), at == other_at, "{one:?} {other:?}");
        }
    }
    let shown: Vec<String> = all().iter().map(|source| format!("{source:?}")).collect();
    assert_eq!(shown[1..4], ["Value([redacted])", "File(\"a\")", "File(\"b\")"]);
    assert_eq!(shown[5], "Command(Some(\"a\"))", "an argument may be a secret");
}

#[test]
fn sources() {
    let config = sound(load_both(&ACCOUNT.replace("{ file = \"/p\" }", "{ env = \"SECRET\" }"), &[("SECRET", "canary")]));
    assert!(matches!(&only_login(&config).password, Source::Value(secret) if secret.matches(b"canary")));
    for (source, expected) in [
        ("{ env = \"CANARY\" }", "the variable that `env` names (CANARY) is not set"),
        ("{ env = \"canary1\" }", "the variable that `env` names is not set"),
        ("{ env = \"EMPTY\" }", "the variable that `env` names (EMPTY) is empty"),
        ("{ env = \"no name\" }", "`env` must name a variable"),
        ("{ file = \"\" }", "`file` must name a file"),
        ("{ file = 3 }", "`file` must name a file"),
        ("{ command = \"op read\" }", "`command` must be a list"),
        ("{ command = [] }", "`command` must be a list"),
        ("{ command = [\"\"] }", "`command` must be a list"),
        ("{ command = [1] }", "`command` must be a list"),
        ("{ command = [\"a\"], file = \"/x\" }", "a source has exactly one of"),
        ("{ flie = \"/x\" }", "a source has exactly one of `file`, `env` and `command`\n  hint: did you mean `file`?"),
        ("{ fil = \"/x\" }", "a source has exactly one of `file`, `env` and `command`\n  hint: did you mean `file`?"),
        ("{ comand = [\"op\"] }", "a source has exactly one of `file`, `env` and `command`\n  hint: did you mean `command`?"),
        ("{ canary = \"/x\" }", "a source has exactly one of `file`, `env` and `command`\n  hint: write text, {"),
        ("{ fil = \"/x\", canary = 1 }", "a source has exactly one of `file`, `env` and `command`\n  hint: write text, {"),
        ("{}", "a source has exactly one of"),
        ("\"\"", "is empty"),
        ("17", "expected text or a source, found a whole number"),
        ("[\"canary\"]", "expected text or a source, found a list"),
    ] {
        let loaded = load_both(&ACCOUNT.replace("{ file = \"/p\" }", source), &[("EMPTY", "")]);
        assert_faults(&loaded, &[&format!("config.toml:4: accounts.default.password: {expected}")]);
    }
}

#[test]
fn urls_are_read_in_one_way_only_or_refused() {
    for (url, origin, base) in [
        ("https://API.Example", "https://api.example", ""),
        ("HTTPS://api.example/", "https://api.example", ""),
        ("https://api.example:443/a/b/", "https://api.example", "/a/b"),
        ("https://api.example:8443", "https://api.example:8443", ""),
        ("https://[::1]:8443/x", "https://[::1]:8443", "/x"),
        ("https://192.0.2.1", "https://192.0.2.1", ""),
    ] {
        let config = sound(api_with(&format!("upstream = \"{url}\"")));
        assert_eq!(
            (config.apis[0].upstream.origin.to_string().as_str(), config.apis[0].upstream.base_path.as_str()),
            (origin, base)
        );
    }
    for (url, expected) in [
        ("https://user:canary@host", "a user name or password cannot be part of it"),
        ("https://host/?canary", "a query cannot be part of it"),
        ("https://host/#canary", "a fragment cannot be part of it"),
        ("ftp://canary", "the scheme must be https"),
        ("canary.example", "expected a URL"),
        ("/canary", "expected a URL"),
        ("https://", "holds what is not a host"),
        ("https://ho st", "a URL holds no spaces"),
        ("https://host\\\\canary", "a URL holds no spaces, control characters or backslashes"),
        ("https://hóst", "a URL is made of ASCII"),
        ("https://127.1", "holds what is not a host"),
        ("https://0x7f.1", "holds what is not a host"),
        ("https://-a.example", "holds what is not a host"),
        ("https://a..example", "holds what is not a host"),
        ("https://host:0", "port 0 cannot be reached"),
        ("https://host:99999", "its port is beyond 65535"),
        ("https://host:+1", "its port is not a number"),
        ("https://host:", "its port is not a number"),
        ("https://[::1", "its port is not a number"),
        ("https://[::1]canary", "holds what is not a host"),
        ("https://host/a/../canary", "its path holds a dot segment"),
        ("https://host/a/%2E%2e/canary", "its path holds a dot segment"),
        ("https://host//canary", "its path holds an empty segment"),
        ("https://host/%zz", "its path holds a broken percent escape"),
        ("https://host/%63anary", "its path is not in canonical form"),
        ("https://host/a%2fb", "its path is not in canonical form"),
    ] {
        assert_faults(
            &api_with(&format!("upstream = \"{url}\"")),
            &[&format!("config.toml:6: apis.default.upstream: {expected}")],
        );
    }
}

#[test]
fn listen_addresses() {
    let config = sound(api_with("listen = \"127.0.0.1:0\""));
    assert_eq!(config.apis[0].listen[0].to_string(), "127.0.0.1:0");
    assert_eq!(sound(api_with("listen = \"127.0.0.1:1, [::1]:1\"")).apis[0].listen.len(), 2);
    assert_eq!(sound(api_with("listen = [\"unix:/a,b\"]")).apis[0].listen[0].to_string(), "unix:/a,b");
    for (list, expected) in [
        ("[]", "names no address"),
        ("[\"localhost:80\"]", "`localhost:80` is not an address\n  hint: write 127.0.0.1:80"),
        (
            "[\"[::ffff:127.0.0.1]:80\"]",
            "`[::ffff:127.0.0.1]:80` is an address of IPv4 that is written as one of IPv6\n  hint: write 127.0.0.1:80",
        ),
        ("[\":80\"]", "`:80` is not an address\n  hint: write 127.0.0.1:80"),
        ("[\"80\"]", "`80` is not an address\n  hint: write 127.0.0.1:80"),
        ("[\"localhost:http\"]", "`localhost:http` is not an address\n  hint: write 127.0.0.1:PORT"),
        ("[\"http\"]", "`http` is not an address\n  hint: write 127.0.0.1:PORT"),
        ("[\"/run/x.sock\"]", "`/run/x.sock` is not an address\n  hint: for a Unix socket write unix:/run/x.sock"),
        ("[\"unix:x.sock\"]", "`unix:x.sock`: the path of a Unix socket must start with `/`"),
        ("[\"unix:/run/\"]", "`unix:/run/` names a directory"),
        ("[\"127.0.0.1:1\", \"127.0.0.1:1\"]", "`127.0.0.1:1` is named twice"),
        ("[1]", "expected text, found a whole number"),
        ("{}", "expected a list, found a table"),
    ] {
        assert_faults(&api_with(&format!("listen = {list}")), &[&format!("config.toml:6: apis.default.listen: {expected}")]);
    }
    let long = format!("listen = [\"unix:/{}\"]", "x".repeat(200));
    assert_faults(&api_with(&long), &["config.toml:6: apis.default.listen: the path of a Unix socket has at most 103 bytes"]);
}

#[test]
fn headers_may_not_name_what_the_sidecar_owns() {
    for name in [
        "Authorization",
        "organization",
        "Host",
        "cookie",
        "Content-Length",
        "content_length",
        "Transfer-Encoding",
        "Connection",
        "keep-alive",
        "TE",
        "trailer",
        "Upgrade",
        "proxy-authorization",
        "Proxy_Connection",
        "HTTP2-Settings",
        "expect",
        "X-Request-Id",
        "x_request_id",
    ] {
        let loaded = api_with(&format!("headers = {{ {name} = \"canary\" }}"));
        assert_faults(
            &loaded,
            &[&format!("config.toml:6: apis.default.headers: `{}` is the sidecar's own to set", name.to_lowercase())],
        );
    }
    for (table, expected) in [
        ("{ \"a b\" = \"x\" }", "`a b` is not a header's name"),
        ("{ a = \"canary\\r\\nb: c\" }", "`a`: cannot stand in a header (line break)\n  hint: remove the line break"),
        ("{ a = \"canary \" }", "`a`: cannot stand in a header (trailing blank)\n  hint: remove the trailing blank"),
        ("{ a = 1 }", "`a`: expected text, found a whole number"),
        ("{ a = \"\" }", "`a`: is empty"),
        ("{ x-a = \"1\", x_a = \"2\" }", "`x_a` is set twice"),
        ("[\"a\"]", "expected a table of headers, found a list"),
    ] {
        assert_faults(&api_with(&format!("headers = {table}")), &[&format!("config.toml:6: apis.default.headers: {expected}")]);
    }
    assert_faults(
        &api_with("require_header = { name = \"X-Request-Id\", value = \"canary-value\" }"),
        &["config.toml:6: apis.default.require_header.name: `x-request-id` is the sidecar's own to set"],
    );
    for name in ["content-type", "Content_Length", "accept", "accept-encoding", "if-match", "origin", "host", "transfer-encoding"]
    {
        let loaded = api_with(&format!("require_header = {{ name = \"{name}\" }}"));
        assert_faults(&loaded, &[&format!("config.toml:6: apis.default.require_header.name: `{}` ", name.to_lowercase())]);
    }
    for name in ["authorization", "x-content-type", "cookie"] {
        sound(api_with(&format!("require_header = {{ name = \"{name}\" }}")));
    }
    let config = sound(account_with("login_headers = { authorization = \"Basic canary\" }"));
    assert!(!format!("{config:?}").contains("canary"));
    assert_faults(
        &account_with("login_headers = { content-type = \"canary\" }"),
        &["config.toml:5: accounts.default.login_headers: `content-type` is the sidecar's own to set"],
    );
}

#[test]
fn hosts_origins_words_and_pointers() {
    let config = sound(api_with(
        "allowed_hosts = [\"App.Example\", \"[::1]\"]\nallowed_origins = [\"https://a.example\", \"http://b.example:3000\", \"app://x\"]\npath_words = [\"v-1\"]",
    ));
    assert_eq!(config.apis[0].allowed_hosts, AllowedHosts::Names(vec!["app.example".to_owned(), "::1".to_owned()]));
    assert_eq!(config.apis[0].allowed_origins.len(), 3);
    assert_eq!(sound(api_with("allowed_hosts = \"*\"")).apis[0].allowed_hosts, AllowedHosts::Any);
    for (line, expected) in [
        ("allowed_hosts = [\"a.example:80\"]", "holds what is not a host"),
        ("allowed_hosts = [\"*.example\"]", "holds what is not a host"),
        ("allowed_origins = [\"https://a.example/\"]", "an origin is a scheme and a host"),
        ("allowed_origins = [\"https://A.example\"]", "an origin is in lower case"),
        ("allowed_origins = [\"https://a.example:443\"]", "an origin is in lower case, without its scheme's own port"),
        ("allowed_origins = [\"a.example\"]", "an origin has a scheme and a host"),
        ("allowed_origins = [\"null\"]", "an origin has a scheme and a host"),
        ("allowed_origins = [\"1http://a.example\"]", "an origin begins with a scheme in lower case"),
        ("allowed_origins = [\"ht_tp://a.example\"]", "an origin begins with a scheme in lower case"),
        ("allowed_origins = [\"*\"]", "an origin has a scheme and a host"),
        ("socket_group = \"a\\u0000b\"", "holds a NUL"),
        ("path_words = [\"a/b\"]", "a path word is one segment, made of a-z, A-Z, 0-9 and -._~!$&'()*+,;=:@"),
        ("path_words = [\"é\"]", "a path word is one segment, made of a-z, A-Z, 0-9 and -._~!$&'()*+,;=:@"),
        ("path_words = [\"%20\"]", "a path word is one segment, made of"),
        ("prefix = \"emr\"", "`emr`: "),
        ("deny = [\"GET\"]", "`GET`: "),
        ("allow_uids = [-1]", "must not be negative"),
        ("allow_uids = [4294967296]", "an id is at most 4294967295"),
    ] {
        let key = line.split(' ').next().unwrap();
        assert_faults(&api_with(line), &[&format!("config.toml:6: apis.default.{key}: {expected}")]);
    }
    assert_eq!(only_login(&sound(account_with("token_pointer = \"/a~1b/0\""))).token_pointer.as_deref(), Some("/a~1b/0"));
    for pointer in ["token", "/a~2"] {
        assert_faults(
            &account_with(&format!("token_pointer = \"{pointer}\"")),
            &["config.toml:5: accounts.default.token_pointer: "],
        );
    }
}

#[test]
fn statuses_and_extra_members() {
    assert_eq!(only_login(&sound(account_with("relogin_on = [401, 419]"))).relogin_on.len(), 2);
    for status in [200, 399, 500, 503, 599] {
        let faults = ["config.toml:5: accounts.default.relogin_on: entry 2: must be from 400 to 499"];
        assert_faults(&account_with(&format!("relogin_on = [401, {status}]")), &faults);
    }
    assert_eq!(only_login(&sound(account_with("relogin_on = [400, 499]"))).relogin_on.len(), 2);
    let config = sound(account_with("login_extra = { a = 1, b = [true, \"x\"], c = { d = 1.5 } }"));
    assert_eq!(serde_json::to_string(&only_login(&config).extra).unwrap(), r#"{"a":1,"b":[true,"x"],"c":{"d":1.5}}"#);
    assert_faults(
        &account_with("login_extra = { a = inf }"),
        &["config.toml:5: accounts.default.login_extra: holds a number that JSON can't"],
    );
    assert_faults(
        &account_with("login_extra = { username = \"y\" }"),
        &["config.toml:5: accounts.default.login_extra: has \"username\", which is the field of the username"],
    );
    let variable = ("CAREPORTALS__ACCOUNTS__DEFAULT__LOGIN_EXTRA", "{ username = \"y\" }");
    let expected = format!("{}: has \"username\", which is", variable.0);
    assert_faults(&load_both(ACCOUNT, &[variable]), &[&expected]);
}

#[test]
fn user_name_and_password_need_a_field_each() {
    let hint = "\n  hint: give user name and password a field each";
    for (line, at, other) in [
        ("login_fields = { username = \"a\", password = \"a\" }", "password", "user name"),
        ("login_fields = { password = \"username\" }", "password", "user name"),
        ("login_fields = { username = \"password\" }", "username", "password"),
    ] {
        let expected = format!(
            "config.toml:5: accounts.default.login_fields.{at}: is the field of the {other}, too: the log-in's body would have it twice{hint}"
        );
        assert_faults(&account_with(line), &[&expected]);
    }
    sound(account_with("login_fields = { username = \"password\", password = \"username\" }"));
}

#[test]
fn keys_that_have_their_effect_are_not_warned_about() {
    let others = "control_socket = \"/c\"\ncontrol_allow_uids = [1]\ntls_min = \"1.3\"";
    assert_eq!(warnings(&global_with(others)), Vec::<String>::new());
    assert_eq!(warnings(&api_with("http2 = \"auto\"\nmax_connections = 9\nstream_idle = \"2h\"")), Vec::<String>::new());
}

#[test]
fn the_default_of_the_telemetry_address_is_the_one_that_may_be_skipped() {
    assert_eq!(sound(global_with("")).restart_only.telemetry_listen, Some(crate::config::TELEMETRY_DEFAULT));
}
