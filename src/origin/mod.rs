//! Servers: their origins, the URLs under them, and which of them are reached through a proxy.
//!
//! Pure.

mod egress;

use std::{fmt, net::IpAddr};

use http::uri::PathAndQuery;

pub use egress::{Egress, EgressProxy, Exception};

/// A URL that the sidecar calls for itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    pub origin: Origin,
    /// The path of the request.
    pub target: PathAndQuery,
}

/// A server: scheme, host and port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Origin {
    /// `http` only towards loopback, where a setting permits it.
    pub scheme: Scheme,
    /// A name in lower case, or an address without brackets.
    pub host: String,
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

    /// Whether the host is a loopback address or `localhost`.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        self.host == "localhost" || self.host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme.as_str(), self.authority())
    }
}

/// A base URL: requests are sent below it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    pub origin: Origin,
    /// The path before that of each request, without a trailing slash; empty for none.
    pub base_path: String,
}

impl fmt::Display for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.origin, self.base_path)
    }
}
