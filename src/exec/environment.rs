//! Tells the program by environment variables where the APIs are, and keeps secrets out of its environment.
//!
//! Pure: it changes the `Command` that it gets, and reads no variable of the process itself. A variable in the program's
//! environment never holds a secret of ours, and never a base URL that leads past the sidecar.

use std::{
    ffi::{OsStr, OsString},
    net::SocketAddr,
    process::Command,
};

use crate::{
    config::{
        Config, reachable,
        source::{Environment, MEANT_FOR_US},
    },
    origin::is_loopback,
};

/// The variable for the main API: the only one, or the one that is called `default`.
const BASE_URL: &str = "CAREPORTALS_BASE_URL";

/// Variables that name a proxy which HTTP clients use for plain `http` URLs, such as ours.
const HTTP_PROXY_VARIABLES: [&str; 4] = ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"];

/// What `NO_PROXY` must name so that a client connects to the sidecar directly.
const LOOPBACK: &str = "localhost,127.0.0.1,::1";

/// The base URL at which the program reaches one API.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ApiBaseUrl {
    api: String,
    /// `None` when the API listens on Unix sockets alone, for which there is no URL.
    url: Option<String>,
}

/// Finds the base URL of each API. `addresses` pairs an API's name with an address that it is bound to (with the port that
/// the kernel chose); one API may have several, in any order.
pub(super) fn api_base_urls<'a>(config: &Config, addresses: impl Iterator<Item = (&'a str, &'a str)>) -> Vec<ApiBaseUrl> {
    let addresses: Vec<(&str, SocketAddr)> = addresses.filter_map(|(api, address)| Some((api, address.parse().ok()?))).collect();
    let base_url = |api: &crate::config::Api| {
        let own = addresses.iter().filter(|(name, _)| *name == api.name).map(|(_, address)| reachable(*address));
        let prefix = api.prefix.as_ref().map_or("", |prefix| prefix.as_str());
        // The check of `Host` accepts loopback without a setting, and every client speaks IPv4.
        let best = own.min_by_key(|address| (!is_loopback(address.ip()), address.is_ipv6()));
        ApiBaseUrl { api: api.name.clone(), url: best.map(|address| format!("http://{address}{prefix}")) }
    };
    config.apis.iter().map(base_url).collect()
}

impl ApiBaseUrl {
    /// The API's name if it has no URL.
    pub(super) fn api_without_url(&self) -> Option<&str> {
        self.url.is_none().then_some(&self.api)
    }

    fn variable(&self) -> String {
        format!("CAREPORTALS_{}_BASE_URL", self.api.replace('-', "_").to_uppercase())
    }
}

/// Sets up the environment of `command`, which inherits ours (`environment`). It removes the variables in `secret` and those
/// that systemd meant for us, sets the base URLs, and keeps proxies from getting requests for the sidecar.
pub(super) fn set_environment(command: &mut Command, environment: &Environment, secret: &[OsString], base_urls: &[ApiBaseUrl]) {
    for name in secret {
        command.env_remove(name);
    }
    for name in MEANT_FOR_US.iter().filter(|name| environment.get(name).is_some()) {
        command.env_remove(name);
    }
    let main = base_urls.iter().find(|base| base.api == "default" || base_urls.len() == 1);
    let named = base_urls.iter().map(|base| (base.variable(), base));
    for (name, base) in named.chain(main.map(|base| (BASE_URL.to_owned(), base))) {
        if let Some(url) = &base.url {
            command.env(name, url);
        } else {
            // A value that we inherited would lead past the sidecar.
            command.env_remove(name);
        }
    }
    if main.is_none() {
        command.env_remove(BASE_URL);
    }
    let is_secret = |name: &str| secret.iter().any(|known| known == name);
    let inherits = |name: &str| environment.get(name).is_some_and(|value| !value.is_empty()) && !is_secret(name);
    if HTTP_PROXY_VARIABLES.iter().any(|name| inherits(name)) {
        exempt_loopback_from_proxies(command, |name| environment.get(name).filter(|_| inherits(name)));
    }
}

/// Adds loopback to `NO_PROXY`; otherwise the program would send its requests for the sidecar to its proxy. Programs differ
/// in which spelling they read, so both are set. `inherited`: the value of a variable that the program would inherit.
fn exempt_loopback_from_proxies<'a>(command: &mut Command, inherited: impl Fn(&str) -> Option<&'a OsStr>) {
    for (name, other) in [("NO_PROXY", "no_proxy"), ("no_proxy", "NO_PROXY")] {
        let mut value = inherited(name).or_else(|| inherited(other)).unwrap_or_default().to_owned();
        if value == "*" {
            // `*` exempts every host, but only when it stands alone.
            command.env(name, value);
            continue;
        }
        if !value.is_empty() {
            value.push(",");
        }
        value.push(LOOPBACK);
        command.env(name, value);
    }
}

/// Picks the proxy variables out of `secret`: the program does not get them, since their URLs hold credentials.
pub(super) fn withheld_proxies(secret: &[OsString]) -> Vec<&str> {
    secret.iter().filter_map(|name| name.to_str()).filter(|name| name.to_ascii_lowercase().ends_with("_proxy")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base(api: &str, url: &str) -> ApiBaseUrl {
        ApiBaseUrl { api: api.to_owned(), url: (!url.is_empty()).then(|| url.to_owned()) }
    }

    /// Lists what changes for the program: `name=value` for a variable that is set, `name` for one that is removed.
    fn changes(variables: &[(&str, &str)], secret: &[&str], base_urls: &[ApiBaseUrl]) -> Vec<String> {
        let mut command = Command::new("x");
        let secret: Vec<OsString> = secret.iter().map(OsString::from).collect();
        set_environment(&mut command, &variables.iter().copied().collect(), &secret, base_urls);
        let change = |(name, value): (&OsStr, Option<&OsStr>)| match value {
            Some(value) => format!("{}={}", name.display(), value.display()),
            None => name.display().to_string(),
        };
        command.get_envs().map(change).collect()
    }

    #[test]
    fn the_only_api_and_the_one_called_default_have_the_plain_variable() {
        assert_eq!(
            changes(&[], &[], &[base("emr-eu", "http://a")]),
            ["CAREPORTALS_BASE_URL=http://a", "CAREPORTALS_EMR_EU_BASE_URL=http://a"]
        );
        assert_eq!(
            changes(&[], &[], &[base("emr", "http://a"), base("default", "http://b")]),
            ["CAREPORTALS_BASE_URL=http://b", "CAREPORTALS_DEFAULT_BASE_URL=http://b", "CAREPORTALS_EMR_BASE_URL=http://a"]
        );
    }

    #[test]
    fn an_inherited_base_url_that_would_lead_past_the_sidecar_is_removed() {
        assert_eq!(
            changes(&[], &[], &[base("crm", "http://a"), base("emr", "")]),
            ["CAREPORTALS_BASE_URL", "CAREPORTALS_CRM_BASE_URL=http://a", "CAREPORTALS_EMR_BASE_URL"]
        );
    }

    #[test]
    fn with_a_proxy_for_http_both_spellings_of_no_proxy_name_loopback() {
        let none = changes(&[("HTTPS_PROXY", "http://p"), ("NO_PROXY", "a")], &[], &[]);
        assert_eq!(none, ["CAREPORTALS_BASE_URL"]);
        let secret = changes(&[("HTTP_PROXY", "http://u:p@p")], &["HTTP_PROXY"], &[]);
        assert_eq!(secret, ["CAREPORTALS_BASE_URL", "HTTP_PROXY"]);
        for (given, upper, lower) in
            [(vec![], "", ""), (vec![("NO_PROXY", "a")], "a,", "a,"), (vec![("no_proxy", "a"), ("NO_PROXY", "b")], "b,", "a,")]
        {
            let mut variables = vec![("http_proxy", "http://p")];
            variables.extend(given);
            let expected =
                ["CAREPORTALS_BASE_URL".to_owned(), format!("NO_PROXY={upper}{LOOPBACK}"), format!("no_proxy={lower}{LOOPBACK}")];
            assert_eq!(changes(&variables, &[], &[]), expected);
        }
        // A proxy's URL in the wrong variable is not passed on.
        let swapped = changes(&[("HTTP_PROXY", "p"), ("NO_PROXY", "http://u:p@p")], &["NO_PROXY"], &[]);
        let expected = [format!("NO_PROXY={LOOPBACK}"), format!("no_proxy={LOOPBACK}")];
        assert_eq!(swapped[1..], expected);
        let everything = changes(&[("ALL_PROXY", "p"), ("no_proxy", "*")], &[], &[]);
        assert_eq!(everything, ["CAREPORTALS_BASE_URL", "NO_PROXY=*", "no_proxy=*"]);
    }

    #[test]
    fn the_variables_that_systemd_meant_for_the_sidecar_are_removed() {
        let variables = [("NOTIFY_SOCKET", "/run/systemd/notify"), ("LISTEN_FDS", "1"), ("JOURNAL_STREAM", "8:1")];
        assert_eq!(changes(&variables, &[], &[]), ["CAREPORTALS_BASE_URL", "LISTEN_FDS", "NOTIFY_SOCKET"]);
    }

    #[test]
    fn a_wildcard_address_is_reached_over_loopback() {
        for (bound, reached) in
            [("0.0.0.0:1", "127.0.0.1:1"), ("[::]:1", "[::1]:1"), ("10.0.0.1:1", "10.0.0.1:1"), ("127.0.0.2:1", "127.0.0.2:1")]
        {
            assert_eq!(reachable(bound.parse().unwrap()), reached.parse().unwrap());
        }
    }
}
