//! Servers: their origins, the URLs under them, and how they are reached.
//!
//! Pure.

mod egress;

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use http::uri::PathAndQuery;

pub use egress::{Egress, EgressProxy, Exception};

/// A URL that the sidecar calls for itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    pub origin: Origin,
    /// The path of the request.
    pub target: PathAndQuery,
}

/// A base URL: requests are sent below it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseUrl {
    pub origin: Origin,
    /// The path before that of each request, without a trailing slash; empty for none.
    pub base_path: String,
}

impl BaseUrl {
    /// The URL of a path below it. `None`: the whole path is too long for a request.
    #[must_use]
    pub fn endpoint(&self, path: &str) -> Option<Endpoint> {
        let target = PathAndQuery::try_from(format!("{}{path}", self.base_path)).ok()?;
        Some(Endpoint { origin: self.origin.clone(), target })
    }
}

impl fmt::Display for BaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.origin, self.base_path)
    }
}

/// A server: scheme, host and port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Origin {
    /// `http` only towards loopback, where a setting permits it.
    pub scheme: Scheme,
    /// A name in lower case, or an address without brackets.
    pub host: String,
    /// Whether the name ended in a dot, so that a resolver tries it as it is and appends no search domain.
    pub rooted: bool,
    /// The port that is written, or the scheme's default.
    pub port: u16,
}

/// The scheme of an origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// HTTP without TLS.
    Http,
    /// HTTP over TLS.
    Https,
}

impl Scheme {
    /// Returns the port that URLs of this scheme leave out: 80 or 443.
    #[must_use]
    pub const fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }

    /// Returns the scheme as URLs spell it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

impl Origin {
    /// The value of `Host`: IPv6 in brackets, the port only when it is not the scheme's own (RFC 9110, 7.2).
    #[must_use]
    pub fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        if self.port == self.scheme.default_port() { host } else { format!("{host}:{}", self.port) }
    }

    /// The name as the resolver gets it: the only place where a dot at its end is kept.
    #[must_use]
    pub fn name_for_dns(&self) -> String {
        if self.rooted { format!("{}.", self.host) } else { self.host.clone() }
    }

    /// Whether the host is a loopback address or `localhost`.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        self.host == "localhost" || self.host.parse::<IpAddr>().is_ok_and(is_loopback)
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme.as_str(), self.authority())
    }
}

/// Whether the address is loopback's. A socket for both families has IPv4 addresses in the form of IPv6 (`::ffff:127.0.0.1`).
#[must_use]
pub fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

/// The address by which a program on this machine reaches a listener on `address`. A listener on every address is reached
/// over loopback.
#[must_use]
pub fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}
