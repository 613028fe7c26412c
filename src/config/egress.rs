//! The way out, when it leads through a proxy: whom it concerns.
//!
//! Pure. A proxy's credentials are a [`Secret`].

use std::{net::IpAddr, sync::Arc};

use super::Origin;
use crate::secret::Secret;

/// `HTTPS_PROXY` and `NO_PROXY`.
#[derive(Debug, Default)]
pub struct Egress {
    proxy: Option<Arc<EgressProxy>>,
    /// As in `NO_PROXY`.
    exceptions: String,
}

/// A proxy that is asked to CONNECT.
#[derive(Debug)]
pub struct EgressProxy {
    /// `https`: TLS to the proxy, and inside of it TLS to the upstream.
    pub origin: Origin,
    /// `user:password`, decoded.
    pub credentials: Option<Secret>,
}

impl Egress {
    /// `exceptions`: as in `NO_PROXY`.
    #[must_use]
    pub fn new(proxy: Option<EgressProxy>, exceptions: String) -> Self {
        Self { proxy: proxy.map(Arc::new), exceptions }
    }

    /// The proxy on the way to `server`. Never for a loopback one: it is on this machine, and the proxy is not.
    #[must_use]
    pub fn on_the_way_to(&self, server: &Origin) -> Option<&Arc<EgressProxy>> {
        self.proxy.as_ref().filter(|_| !server.is_loopback() && !is_excepted(&self.exceptions, server))
    }
}

/// As curl reads `NO_PROXY`: names with everything under them, addresses, networks, `*`; a port narrows an entry.
fn is_excepted(list: &str, server: &Origin) -> bool {
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
            let server = Origin { scheme: Scheme::Https, host: host.to_owned(), port: 443 };
            assert_eq!(is_excepted(list, &server), expected, "{list} {host}");
        }
    }

    #[test]
    fn a_loopback_server_is_never_reached_through_the_proxy() {
        let origin = |host: &str| Origin { scheme: Scheme::Https, host: host.to_owned(), port: 443 };
        let egress =
            Egress::new(Some(EgressProxy { origin: origin("proxy.example"), credentials: None }), "b.example".to_owned());
        for direct in ["localhost", "127.0.0.1", "127.9.9.9", "::1", "b.example"] {
            assert!(egress.on_the_way_to(&origin(direct)).is_none(), "{direct}");
        }
        assert!(egress.on_the_way_to(&origin("a.example")).is_some());
        assert!(Egress::default().on_the_way_to(&origin("a.example")).is_none());
    }
}
