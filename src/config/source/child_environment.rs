//! Finds the variables that a started program must not inherit: those that hold a secret or lead to one.
//!
//! Pure. A variable counts as secret by its meaning here, not by a list of names: it sets a key that is a source or is never
//! shown, a source names it, its value is a password or another text that is never shown, its name is all but that of the password's
//! variable, or it is a proxy's URL with credentials. A copy of what stands in a file, or comes from a command, is not known here.

use std::ffi::{OsStr, OsString};

use serde_json::Value;

use super::{
    environment::Environment,
    layers::Leaf,
    named_variables::{CONFIG, CREDENTIALS_DIR, CREDENTIALS_DIRECTORY},
    tables::key_at,
    toml::{Form, scalars},
    variables,
};

/// Variables that a service manager sets for this process alone. A started program would take the sockets for its own, or
/// speak to systemd in the sidecar's name.
pub const MEANT_FOR_US: [&str; 6] =
    ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"];

/// A proxy's URL in `NO_PROXY` was written in the wrong one.
const PROXIES: [&str; 4] = ["HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY"];
/// A shorter text may be in a variable by chance, such as a shell's level.
const SECRET_MIN: usize = 8;

/// The names of the variables that hold a secret or lead to one. `leaves`: those of all layers, since a source counts also
/// where a later layer wins.
pub(super) fn secret_variables(environment: &Environment, leaves: &[Leaf]) -> Vec<OsString> {
    let named: Vec<&str> = leaves.iter().filter_map(|leaf| leaf.value.get("env")?.as_str()).collect();
    let secrets: Vec<&str> = leaves.iter().flat_map(|leaf| texts_never_shown(leaf, environment)).collect();
    let is_unfit = |name: &OsStr, value: &OsStr| {
        let is_copy = value
            .to_str()
            .is_some_and(|value| value.len() >= SECRET_MIN && secrets.iter().any(|secret| bare(secret) == bare(value)));
        is_copy || name.to_str().is_some_and(|name| named.contains(&name) || leads_to_one(name, value))
    };
    environment.iter().filter(|(name, value)| is_unfit(name, value)).map(|(name, _)| name.to_owned()).collect()
}

/// The texts of a setting that are never shown.
fn texts_never_shown<'a>(leaf: &'a Leaf, environment: &'a Environment) -> Vec<&'a str> {
    if [".password", ".require_header.value"].iter().any(|key| leaf.path.ends_with(key)) {
        let named = || leaf.value.get("env").and_then(Value::as_str).and_then(|name| environment.get(name)?.to_str());
        return leaf.value.as_str().or_else(named).into_iter().collect();
    }
    match key_at(&leaf.path) {
        Some(key) if key.form == Form::SecretTable => scalars(&leaf.value).into_iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    }
}

/// A value without the newline that a file or a shell may have put behind it.
fn bare(value: &str) -> &str {
    let value = value.strip_suffix('\n').unwrap_or(value);
    value.strip_suffix('\r').unwrap_or(value)
}

fn leads_to_one(name: &str, value: &OsStr) -> bool {
    if PROXIES.iter().any(|proxy| name.eq_ignore_ascii_case(proxy)) {
        // It has user information (RFC 3986, 3.2.1). A password that is not percent-encoded may hold a `/`.
        return value.as_encoded_bytes().contains(&b'@');
    }
    if [CONFIG, CREDENTIALS_DIR, CREDENTIALS_DIRECTORY].contains(&name) {
        return true;
    }
    match variables::key_of(name) {
        // One letter too many, and a password is in no variable of ours.
        None if name.starts_with("CAREPORTALS_PASSWORD") => true,
        Some(key) => matches!(key.form, Form::Source | Form::SecretTable) || key.name == "tls_key_file",
        // A whole table may hold anything.
        None => name.starts_with("CAREPORTALS__"),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::super::{Input, load};

    /// The variables of these that a program may not inherit.
    fn secret(variables: &[(&str, &str)], file: &str) -> Vec<String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.toml");
        std::fs::write(&path, file).unwrap();
        let environment = variables.iter().copied().collect();
        let default_file = PathBuf::new();
        let loaded = load(Input {
            config_flag: Some(path),
            default_file,
            needs_file_keys: false,
            flags: Vec::new(),
            environment,
            defaults: &[],
        });
        loaded.secret_variables.into_iter().map(|name| name.into_string().unwrap()).collect()
    }

    #[test]
    fn variables_of_credentials_and_whatever_leads_to_them_are_secret() {
        for (name, value) in [
            ("CAREPORTALS_PASSWORD", "p"),
            ("CAREPORTALS_PASSWORD_FILE", "/run/p"),
            ("CAREPORTALS_USERNAME", "u"),
            ("CAREPORTALS_ORGANIZATION_FILE", "/run/o"),
            ("CAREPORTALS_CONFIG", "/etc/c.toml"),
            ("CAREPORTALS_CREDENTIALS_DIR", "/run/c"),
            ("CREDENTIALS_DIRECTORY", "/run/c"),
            ("CAREPORTALS__ACCOUNTS__CRM__PASSWORD", "p"),
            ("CAREPORTALS__ACCOUNTS__CRM__PASSWORD__COMMAND", "[\"op\"]"),
            ("CAREPORTALS__ACCOUNTS__CRM__LOGIN_EXTRA", "{ key = 1 }"),
            ("CAREPORTALS__ACCOUNTS__CRM__LOGIN_HEADERS", "{ a = \"b\" }"),
            ("CAREPORTALS__APIS__CRM__HEADERS", "{ a = \"b\" }"),
            ("CAREPORTALS__APIS__CRM__REQUIRE_HEADER", "{ name = \"x\", value = \"y\" }"),
            ("CAREPORTALS__APIS__CRM__REQUIRE_HEADER__VALUE", "y"),
            ("CAREPORTALS__TLS_KEY_FILE", "/run/k"),
            ("HTTPS_PROXY", "http://user:pass@proxy:3128"),
            ("https_proxy", "user:pa/ss@proxy:3128"),
            ("ALL_PROXY", "socks5://user@proxy"),
            ("no_proxy", "http://user:pass@proxy:3128"),
        ] {
            assert_eq!(secret(&[(name, value)], ""), [name]);
        }
    }

    #[test]
    fn other_settings_and_what_is_not_ours_are_not() {
        for (name, value) in [
            ("CAREPORTALS_LISTEN", "127.0.0.1:1"),
            ("CAREPORTALS_CA_FILE", "/ca.pem"),
            ("CAREPORTALS_CONTROL_SOCKET", "/run/c.sock"),
            ("CAREPORTALS__APIS__CRM__MAX_REQUESTS", "7"),
            ("CAREPORTALS_BASE_URL", "http://127.0.0.1:1"),
            ("CAREPORTALS_OF_THE_APP", "x"),
            ("HTTPS_PROXY", "http://proxy:3128"),
            ("NO_PROXY", "localhost,.example"),
            ("PATH", "/bin"),
            ("SOMETHING", "user@host"),
        ] {
            assert_eq!(secret(&[(name, value)], ""), Vec::<String>::new(), "{name}");
        }
    }

    #[test]
    fn variables_that_a_source_names_are_secret_even_where_another_source_wins() {
        let file = "[accounts.default]\npassword = { env = \"FROM_FILE\" }\nusername = { env = \"USER_OF_IT\" }\n";
        let variables = [
            ("FROM_FILE", "a"),
            ("USER_OF_IT", "b"),
            ("FROM_VARIABLE", "c"),
            ("OTHER", "d"),
            ("CAREPORTALS__ACCOUNTS__DEFAULT__PASSWORD__ENV", "FROM_VARIABLE"),
        ];
        let expected = ["CAREPORTALS__ACCOUNTS__DEFAULT__PASSWORD__ENV", "FROM_FILE", "FROM_VARIABLE", "USER_OF_IT"];
        assert_eq!(secret(&variables, file), expected);
    }

    #[test]
    fn a_copy_of_what_is_never_shown_is_secret_wherever_that_comes_from() {
        let file = "[accounts.default]\npassword = { env = \"MINE\" }\nlogin_extra = { pin = \"pin-123456\", n = 1, more = { deep = [\"deep-text\"] } }\n\
                    login_headers = { x-key = \"login-key-1\" }\n[apis.default]\nheaders = { x-key = \"api-key-12\" }\n";
        let copies = [
            ("F", "deep-text"),
            ("G", "demo-password\n"),
            ("A", "demo-password"),
            ("B", "pin-123456"),
            ("C", "login-key-1"),
            ("D", "api-key-12"),
        ];
        let variables = [&copies[..], &[("MINE", "demo-password"), ("E", "another-text")]].concat();
        assert_eq!(secret(&variables, file), ["A", "B", "C", "D", "F", "G", "MINE"]);
        assert_eq!(secret(&[("CAREPORTALS_PASSWORDD", "x"), ("CAREPORTALS_PASSWORD_FIEL", "/p")], "").len(), 2);
    }

    #[test]
    fn a_copy_of_other_text_of_an_account_is_not_secret() {
        let file = "[accounts.default]\norganization = \"acme-clinics\"\nusername = \"jane@acme.example\"\n";
        assert_eq!(secret(&[("TENANT", "acme-clinics"), ("EMAIL", "jane@acme.example")], file), Vec::<String>::new());
    }

    #[test]
    fn a_copy_of_a_password_under_another_name_is_secret_unless_it_may_be_chance() {
        let file = "[accounts.default]\npassword = \"correct horse\"\n";
        assert_eq!(secret(&[("COPY", "correct horse"), ("PART", "correct"), ("LEVEL", "1")], file), ["COPY"]);
        assert_eq!(secret(&[("LEVEL", "1")], "[accounts.default]\npassword = \"1\"\n"), Vec::<String>::new());
    }
}
