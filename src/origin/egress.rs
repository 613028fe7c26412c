//! Decides which servers are reached through a proxy.
//!
//! Pure. A proxy's credentials are a [`Secret`].

use std::{net::IpAddr, sync::Arc};

use super::Origin;
use crate::secret::Secret;

/// The proxy towards upstream, and the servers that are reached without it: `HTTPS_PROXY` and `NO_PROXY`.
#[derive(Debug, Default)]
pub struct Egress {
    proxy: Option<Arc<EgressProxy>>,
    exceptions: Vec<Exception>,
}

/// A proxy that serves CONNECT.
#[derive(Debug)]
pub struct EgressProxy {
    /// `https`: TLS to the proxy, and inside of it TLS to the upstream.
    pub origin: Origin,
    /// `user:password`, percent-decoded, for Basic authentication.
    pub credentials: Option<Secret>,
}

/// An entry of `NO_PROXY`; a port narrows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exception {
    /// `*`: no server is reached through the proxy.
    Everything,
    /// A name and every name under it, in lower case and without dots around it.
    Name(String, Option<u16>),
    /// A network: an address and the number of its leading bits. One address has all of them.
    Network(IpAddr, u32, Option<u16>),
}

impl Egress {
    /// `exceptions`: the servers that are reached without the proxy.
    #[must_use]
    pub fn new(proxy: Option<EgressProxy>, exceptions: Vec<Exception>) -> Self {
        Self { proxy: proxy.map(Arc::new), exceptions }
    }

    /// The proxy on the way to `server`. A loopback server never has one: it is on this machine, and the proxy may not be.
    #[must_use]
    pub fn on_the_way_to(&self, server: &Origin) -> Option<&Arc<EgressProxy>> {
        let excepted = || self.exceptions.iter().any(|exception| exception.is_for(server));
        self.proxy.as_ref().filter(|_| !server.is_loopback() && !excepted())
    }
}

impl Exception {
    /// Reads one entry as curl does; `None` when it is none of its forms.
    #[must_use]
    pub fn parse(entry: &str) -> Option<Self> {
        let entry = entry.to_ascii_lowercase();
        if entry == "*" {
            return Some(Self::Everything);
        }
        if let Some((network, bits)) = entry.split_once('/') {
            let network = address(network)?;
            let bits = bits.parse().ok().filter(|bits| *bits <= width(network))?;
            return Some(Self::Network(network, bits, None));
        }
        let (host, port) = match entry.rsplit_once(':') {
            // The last group of an IPv6 address is no port.
            Some((host, port)) if address(&entry).is_none() => (host, Some(port.parse().ok()?)),
            _ => (entry.as_str(), None),
        };
        if let Some(address) = address(host) {
            return Some(Self::Network(address, width(address), port));
        }
        let name = host.strip_prefix("*.").unwrap_or(host).trim_matches('.');
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        // No server's name ends in a number, and none has an empty label: such an entry would except nothing, and say nothing.
        let last = name.rsplit('.').next().unwrap_or_default();
        let is_numeric = last.bytes().all(|byte| byte.is_ascii_digit()) || last.starts_with("0x");
        let is_name = name.len() <= 253 && name.split('.').all(|label| !label.is_empty() && label.len() <= 63) && !is_numeric;
        (is_name && port != Some(0) && name.bytes().all(plain)).then(|| Self::Name(name.to_owned(), port))
    }

    fn is_for(&self, server: &Origin) -> bool {
        let is_its = |port: Option<u16>| port.is_none_or(|port| port == server.port);
        let literal = server.host.parse::<IpAddr>().ok();
        match self {
            Self::Everything => true,
            Self::Name(name, port) => {
                let under = server.host.strip_suffix(name.as_str()).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
                literal.is_none() && under && is_its(*port)
            }
            Self::Network(network, bits, port) => {
                literal.is_some_and(|address| is_within(*network, *bits, address)) && is_its(*port)
            }
        }
    }
}

/// Reads an address with or without the brackets of a URL.
fn address(text: &str) -> Option<IpAddr> {
    let inner = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    inner.unwrap_or(text).parse().ok().filter(|address: &IpAddr| inner.is_none() || address.is_ipv6())
}

/// The number of bits in an address.
fn width(address: IpAddr) -> u32 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn is_within(network: IpAddr, bits: u32, address: IpAddr) -> bool {
    let number = |address: IpAddr| match address {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => address.to_bits(),
    };
    let differing: u128 = number(network) ^ number(address);
    network.is_ipv4() == address.is_ipv4() && differing.checked_shr(width(network) - bits).unwrap_or(0) == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::origin::Scheme;

    fn server(host: &str) -> Origin {
        Origin { scheme: Scheme::Https, host: host.to_owned(), rooted: false, port: 443 }
    }

    fn egress(entries: &[&str]) -> Egress {
        let proxy = EgressProxy { origin: server("proxy.example"), credentials: None };
        Egress::new(Some(proxy), entries.iter().filter_map(|entry| Exception::parse(entry)).collect())
    }

    #[test]
    fn no_proxy_excepts_names_domains_addresses_and_networks() {
        for (entries, host, expected) in [
            (&["*"][..], "a.example", true),
            (&["a.example"], "a.example", true),
            (&["A.Example"], "a.example", true),
            (&[".example"], "a.example", true),
            (&["example"], "a.example", true),
            (&["*.example"], "a.example", true),
            (&["example."], "a.example", true),
            (&["xample"], "a.example", false),
            (&["b.a.example"], "a.example", false),
            (&["b.example", "a.example:443"], "a.example", true),
            (&["a.example:80"], "a.example", false),
            (&["a.example:x"], "a.example", false),
            (&["10.0.0.0/8"], "10.1.2.3", true),
            (&["10.0.0.0/8"], "11.1.2.3", false),
            (&["0.0.0.0/0"], "11.1.2.3", true),
            (&["0.0.0.0/0"], "fd12::1", false),
            (&["10.1.2.3"], "10.1.2.3", true),
            (&["10.1.2.3/32"], "10.1.2.3", true),
            (&["10.1.2.3:443"], "10.1.2.3", true),
            (&["10.1.2.3:444"], "10.1.2.3", false),
            (&["3.example"], "3.example", true),
            (&["a.example.:443"], "a.example", true),
            (&["fd00::/8"], "fd12::1", true),
            (&["fd12::1"], "fd12::1", true),
            (&["[fd12::1]"], "fd12::1", true),
            (&["[fd12::1]:443"], "fd12::1", true),
            (&["[fd12::1]:444"], "fd12::1", false),
            (&["::/0"], "fd12::1", true),
            (&[], "a.example", false),
        ] {
            assert_eq!(egress(entries).on_the_way_to(&server(host)).is_none(), expected, "{entries:?} {host}");
        }
    }

    #[test]
    fn what_is_no_entry_is_told() {
        for entry in
            ["10.0.0.0/33", "fd00::/129", "10.0.0.0/", "a.example/8", "a.example:65536", ".", "*.", "a,b", "<local>", "a*"]
                .into_iter()
                // Addresses that are not whole, which excepted nothing in silence.
                .chain(["10.9.", "10.9", "10", "10.9.1.2.", ".10.9.1.2", "0x0a", "1.2.3.4.5", "10.*", "a..b", "a.example:0"])
        {
            assert_eq!(Exception::parse(entry), None, "{entry}");
        }
    }

    #[test]
    fn loopback_is_never_reached_through_a_proxy() {
        for host in ["localhost", "127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"] {
            assert!(egress(&[]).on_the_way_to(&server(host)).is_none(), "{host}");
        }
        assert!(egress(&[]).on_the_way_to(&server("a.example")).is_some());
        assert!(Egress::default().on_the_way_to(&server("a.example")).is_none());
    }
}
