//! `HTTPS_PROXY` and `NO_PROXY`: whom they concern.
//!
//! Pure. The proxy's URL may hold a password and is never shown.

use std::net::IpAddr;

use super::{
    EffectiveValue,
    faults::{Fault, Origin, Wrong},
    keys::{EGRESS, Support},
    reading::Values,
    variables::Environment,
};
use crate::{
    config::{Egress, Origin as Server},
    secret::Secret,
};

/// Reads both variables. `servers`: everything the daemon will connect to.
pub(super) fn read<'a>(values: &mut Values<'_>, environment: &Environment, servers: impl Iterator<Item = &'a Server>) -> Egress {
    let proxy = first(values, environment, ["HTTPS_PROXY", "https_proxy"]);
    let exceptions = first(values, environment, ["NO_PROXY", "no_proxy"]);
    if let Some((name, _)) = &proxy {
        show(values, name, "\"[redacted]\"".to_owned());
    }
    if let Some((name, list)) = &exceptions {
        show(values, name, toml_edit::Value::from(list.as_str()).to_string().trim().to_owned());
    }
    let no_proxy = exceptions.map(|(_, list)| list);
    if let (Some((name, _)), Support::FaultUntil { .. }) = (&proxy, EGRESS) {
        let concerned = |server: &&Server| !server.is_loopback() && !is_excepted(no_proxy.as_deref().unwrap_or_default(), server);
        if let Some(server) = { servers }.find(concerned) {
            let wrong = Wrong::new("egress proxies are not supported by this version yet")
                .hint(format!("unset it, or add {} to NO_PROXY", server.host));
            values.faults.push(Fault::new(Origin::Variable((*name).to_owned()), "", wrong));
        }
    }
    Egress { https_proxy: proxy.map(|(_, url)| Secret::new(url.into_bytes())), no_proxy }
}

/// The first that is set; an empty one is not.
fn first(values: &mut Values<'_>, environment: &Environment, names: [&'static str; 2]) -> Option<(&'static str, String)> {
    let name = names.into_iter().find(|name| environment.get(name).is_some_and(|value| !value.is_empty()))?;
    let text = environment.get(name).and_then(|value| value.to_str());
    if text.is_none() {
        values.faults.push(Fault::new(Origin::Variable(name.to_owned()), "", Wrong::new("is not UTF-8")));
    }
    text.map(|text| (name, text.to_owned()))
}

fn show(values: &mut Values<'_>, name: &str, shown: String) {
    values.effective.push(EffectiveValue {
        path: name.to_owned(),
        shown,
        origin: Origin::Variable(name.to_owned()),
        is_set: true,
    });
}

/// As curl reads `NO_PROXY`: names with everything under them, addresses, networks, `*`; a port narrows an entry.
fn is_excepted(list: &str, server: &Server) -> bool {
    list.split([',', ' ']).map(str::trim).filter(|entry| !entry.is_empty()).any(|entry| {
        let entry = entry.to_ascii_lowercase();
        if entry == "*" {
            return true;
        }
        if let Ok(address) = server.host.parse::<IpAddr>() {
            return is_within(&entry, address)
                || entry == format!("{}:{}", server.host, server.port)
                || entry == server.authority();
        }
        let (name, port) = match entry.rsplit_once(':') {
            Some((name, port)) => (name, port.parse::<u16>().ok()),
            None => (entry.as_str(), None),
        };
        let name = name.trim_start_matches("*.").trim_start_matches('.');
        let matches = server.host == name || server.host.strip_suffix(name).is_some_and(|rest| rest.ends_with('.'));
        !name.is_empty() && matches && port.is_none_or(|port| port == server.port)
    })
}

/// An address, or a network such as `10.0.0.0/8`.
fn is_within(entry: &str, address: IpAddr) -> bool {
    let (network, bits) = match entry.split_once('/') {
        Some((network, bits)) => (network, bits.parse::<u32>().ok()),
        None => (entry, None),
    };
    let Ok(network) = network.trim_matches(['[', ']']).parse::<IpAddr>() else { return false };
    match (network, address, bits) {
        (network, address, None) => !entry.contains('/') && network == address,
        (IpAddr::V4(network), IpAddr::V4(address), Some(bits @ 0..=32)) => {
            u32::MAX.checked_shl(32 - bits).unwrap_or(0) & (network.to_bits() ^ address.to_bits()) == 0
        }
        (IpAddr::V6(network), IpAddr::V6(address), Some(bits @ 0..=128)) => {
            u128::MAX.checked_shl(128 - bits).unwrap_or(0) & (network.to_bits() ^ address.to_bits()) == 0
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Scheme;

    #[test]
    fn no_proxy_excepts_names_domains_addresses_and_networks() {
        for (list, host, expected) in [
            ("*", "a.example", true),
            ("a.example", "a.example", true),
            (".example", "a.example", true),
            ("example", "a.example", true),
            ("*.example", "a.example", true),
            ("xample", "a.example", false),
            ("b.example, a.example:443", "a.example", true),
            ("a.example:80", "a.example", false),
            ("10.0.0.0/8", "10.1.2.3", true),
            ("10.0.0.0/8", "11.1.2.3", false),
            ("0.0.0.0/0", "11.1.2.3", true),
            ("10.1.2.3", "10.1.2.3", true),
            ("fd00::/8", "fd12::1", true),
            ("10.0.0.0/99", "10.0.0.1", false),
            ("", "a.example", false),
        ] {
            let server = Server { scheme: Scheme::Https, host: host.to_owned(), port: 443 };
            assert_eq!(is_excepted(list, &server), expected, "{list} {host}");
        }
    }
}
