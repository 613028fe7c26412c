//! What the program is told by its environment, and what it is not.
//!
//! Pure but for the command it writes to; depends on `config`.

use std::{
    ffi::{OsStr, OsString},
    net::SocketAddr,
    process::Command,
};

use crate::config::{
    Config, reachable,
    source::{Environment, MEANT_FOR_US},
};

/// Where the program reaches an API.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Base {
    api: String,
    /// `None`: only a Unix socket leads there, for which there is no URL.
    url: Option<String>,
}

/// Each API's. `addresses`: an API's name with an address, ports as they really are; several of one API in any order.
pub(super) fn bases<'a>(config: &Config, addresses: impl Iterator<Item = (&'a str, &'a str)>) -> Vec<Base> {
    let addresses: Vec<(&str, SocketAddr)> = addresses.filter_map(|(api, address)| Some((api, address.parse().ok()?))).collect();
    let base = |api: &crate::config::Api| {
        let own = addresses.iter().filter(|(name, _)| *name == api.name).map(|(_, address)| reachable(*address));
        let prefix = api.prefix.as_ref().map_or("", |prefix| prefix.as_str());
        // Loopback is what every client is let in by; IPv4 is what every client speaks.
        let best = own.min_by_key(|address| (!address.ip().is_loopback(), address.is_ipv6()));
        Base { api: api.name.clone(), url: best.map(|address| format!("http://{address}{prefix}")) }
    };
    config.apis.iter().map(base).collect()
}

impl Base {
    /// The API's name when it has no URL.
    pub(super) fn is_missing(&self) -> Option<&str> {
        self.url.is_none().then_some(&self.api)
    }

    fn variable(&self) -> String {
        format!("CAREPORTALS_{}_BASE_URL", self.api.replace('-', "_").to_uppercase())
    }
}

/// Of what we were given the program inherits everything but `secret`; it is told where the APIs are.
pub(super) fn prepare(command: &mut Command, environment: &Environment, secret: &[OsString], bases: &[Base]) {
    for name in secret {
        command.env_remove(name);
    }
    for name in MEANT_FOR_US.iter().filter(|name| environment.get(name).is_some()) {
        command.env_remove(name);
    }
    let main = bases.iter().find(|base| base.api == "default" || bases.len() == 1);
    let named = bases.iter().map(|base| (base.variable(), base));
    for (name, base) in named.chain(main.map(|base| (BASE_URL.to_owned(), base))) {
        if let Some(url) = &base.url {
            command.env(name, url);
        } else {
            // One that we were given leads elsewhere.
            command.env_remove(name);
        }
    }
    if main.is_none() {
        command.env_remove(BASE_URL);
    }
    let inherits = |name: &str| environment.get(name).is_some_and(|value| !value.is_empty()) && !is_among(secret, name);
    if PROXIES_OF_HTTP.iter().any(|name| inherits(name)) {
        reach_loopback_directly(command, environment);
    }
}

/// Else the program would ask its proxy for us. Programs differ in which spelling they heed, so both are set.
fn reach_loopback_directly(command: &mut Command, environment: &Environment) {
    let given = |name: &str| environment.get(name).filter(|value| !value.is_empty()).map(OsStr::to_owned);
    for (name, other) in [("NO_PROXY", "no_proxy"), ("no_proxy", "NO_PROXY")] {
        let mut value = given(name).or_else(|| given(other)).unwrap_or_default();
        if value == "*" {
            // As it is: beside anything else it would mean nothing.
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

/// Proxies that are not passed on because of the credentials in their URLs, by their variables.
pub(super) fn withheld_proxies(secret: &[OsString]) -> Vec<&str> {
    secret.iter().filter_map(|name| name.to_str()).filter(|name| name.to_ascii_lowercase().ends_with("_proxy")).collect()
}

fn is_among(secret: &[OsString], name: &str) -> bool {
    secret.iter().any(|known| known == name)
}

const BASE_URL: &str = "CAREPORTALS_BASE_URL";
const PROXIES_OF_HTTP: [&str; 4] = ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"];
const LOOPBACK: &str = "localhost,127.0.0.1,::1";

#[cfg(test)]
mod tests {
    use super::*;

    fn base(api: &str, url: &str) -> Base {
        Base { api: api.to_owned(), url: (!url.is_empty()).then(|| url.to_owned()) }
    }

    /// What is changed for the program: `name=value`, or `name` when it is taken away.
    fn changes(variables: &[(&str, &str)], secret: &[&str], bases: &[Base]) -> Vec<String> {
        let mut command = Command::new("x");
        let secret: Vec<OsString> = secret.iter().map(OsString::from).collect();
        prepare(&mut command, &variables.iter().copied().collect(), &secret, bases);
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
    fn a_url_that_would_lead_elsewhere_is_taken_away() {
        assert_eq!(
            changes(&[], &[], &[base("crm", "http://a"), base("emr", "")]),
            ["CAREPORTALS_BASE_URL", "CAREPORTALS_CRM_BASE_URL=http://a", "CAREPORTALS_EMR_BASE_URL"]
        );
    }

    #[test]
    fn with_a_proxy_for_http_loopback_is_excepted_in_both_spellings() {
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
        let everything = changes(&[("ALL_PROXY", "p"), ("no_proxy", "*")], &[], &[]);
        assert_eq!(everything, ["CAREPORTALS_BASE_URL", "NO_PROXY=*", "no_proxy=*"]);
    }

    #[test]
    fn what_systemd_means_for_us_is_taken_away() {
        let variables = [("NOTIFY_SOCKET", "/run/systemd/notify"), ("LISTEN_FDS", "1"), ("JOURNAL_STREAM", "8:1")];
        assert_eq!(changes(&variables, &[], &[]), ["CAREPORTALS_BASE_URL", "LISTEN_FDS", "NOTIFY_SOCKET"]);
    }

    #[test]
    fn an_address_of_every_interface_is_reached_over_loopback() {
        for (bound, reached) in
            [("0.0.0.0:1", "127.0.0.1:1"), ("[::]:1", "[::1]:1"), ("10.0.0.1:1", "10.0.0.1:1"), ("127.0.0.2:1", "127.0.0.2:1")]
        {
            assert_eq!(reachable(bound.parse().unwrap()), reached.parse().unwrap());
        }
    }
}
