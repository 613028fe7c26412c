//! The settings, once they are known to be right.
//!
//! Pure. Every value here is valid by construction: [`source`] parses what users write, and no other module looks at the text
//! of a setting again.

mod egress;
#[cfg(test)]
pub(crate) mod fixture;
pub mod source;

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
};

use http::uri::PathAndQuery;
use tracing_subscriber::filter::Targets;

pub use self::{
    egress::{Egress, EgressProxy, Exception},
    source::{
        account::{Account, Login},
        api::{AllowedHosts, Api, Cookies, Http2, Limits, RequireHeader, Timeouts, UpstreamSettings},
        top_level::{
            ClientCertificate, ControlSocket, Hardening, LogFormat, Reloadable, RestartOnly, RuntimeDirectories, Tls, TlsVersion,
        },
    },
};
use crate::{path::LoginPaths, secret::Secret};

/// The default of `telemetry_listen`.
pub const TELEMETRY_DEFAULT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 2274);

/// All settings of one daemon.
#[derive(Debug)]
pub struct Config {
    /// In the order of the file; [`Api::account`] points into it.
    pub accounts: Vec<Account>,
    /// In the order of the file.
    pub apis: Vec<Api>,
    /// Canonical log-in and refresh paths of every preset and account, refused at every API.
    pub login_paths: LoginPaths,
    /// Settings of the daemon that a reload can't change.
    pub restart_only: RestartOnly,
    /// Settings of the daemon that a reload changes.
    pub reloadable: Reloadable,
    /// Trust and versions towards upstream.
    pub tls: Tls,
    /// The proxy on the way to upstream, if there is one.
    pub egress: Egress,
    /// Names of the sockets that the service manager passes, in their order.
    pub socket_names: Vec<String>,
}

impl Config {
    /// The settings of the log.
    #[must_use]
    pub fn log(&self) -> Log {
        let Reloadable { log_filter, access_log, .. } = &self.reloadable;
        Log { filter: log_filter.clone(), format: self.restart_only.log_format, access: *access_log }
    }

    /// Files that must stay readable while the daemon runs: those of sources, roots of trust, and the client certificate.
    /// Nothing else among the settings is read after the start, so a process that gives up access to all other files can
    /// still work. A file may not exist yet; then its directory must be reachable.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        let tls = &self.tls;
        let own = tls.client_certificate.iter().flat_map(|own| [&own.certificates, &own.key]);
        let of_tls = tls.ca_file.iter().chain(&tls.ca_only_file).chain(own);
        self.sources().filter_map(Source::file).chain(of_tls.map(PathBuf::as_path))
    }

    /// Every source of a value that is read after the start.
    pub fn sources(&self) -> impl Iterator<Item = &Source> {
        let logins = self.accounts.iter().filter_map(|account| account.login.as_ref());
        let credentials = logins.flat_map(|login| [&login.username, &login.password]);
        let organizations = self.accounts.iter().map(|account| &account.organization);
        let required = self.apis.iter().filter_map(|api| api.require_header.as_ref()?.value.as_ref());
        credentials.chain(organizations).chain(required)
    }
}

/// An account, as its index in [`Config::accounts`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AccountId(pub usize);

/// Where a secret, or a value that is kept with secrets, is read from.
pub enum Source {
    /// Written down, or read from the environment at start.
    Value(Secret),
    /// Read anew whenever it is needed, one trailing newline trimmed, and watched.
    File(PathBuf),
    /// Run, without a shell, at each log-in, or once for a required header; its standard output, one trailing newline trimmed.
    Command(Vec<String>),
}

impl Source {
    fn file(&self) -> Option<&Path> {
        match self {
            Self::File(path) => Some(path),
            Self::Value(_) | Self::Command(_) => None,
        }
    }

    /// Whether both are written alike. A file or a command may still give another value later.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Value(left), Self::Value(right)) => left.expose() == right.expose(),
            (Self::File(left), Self::File(right)) => left == right,
            (Self::Command(left), Self::Command(right)) => left == right,
            (Self::Value(_) | Self::File(_) | Self::Command(_), _) => false,
        }
    }
}

/// Not derived: a command's arguments may hold a secret.
impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Value(secret) => f.debug_tuple("Value").field(secret).finish(),
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Command(words) => f.debug_tuple("Command").field(&words.first()).finish(),
        }
    }
}

/// A URL that the sidecar calls for itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The server.
    pub origin: Origin,
    /// The target of the request.
    pub target: PathAndQuery,
}

/// Scheme, host and port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Origin {
    /// `http` only to loopback, by explicit permission.
    pub scheme: Scheme,
    /// Lower case, without brackets, and without a dot at its end.
    pub host: String,
    /// Whether the name ended in a dot, so that a resolver tries it as it is and appends no search domain.
    pub rooted: bool,
    /// Explicit, or the scheme's default.
    pub port: u16,
}

/// The scheme of an origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// Plain text.
    Http,
    /// TLS.
    Https,
}

impl Scheme {
    /// 80 or 443.
    #[must_use]
    pub const fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }

    /// The scheme in a URL.
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
        self.host == "localhost" || self.host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme.as_str(), self.authority())
    }
}

/// A base URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// The server.
    pub origin: Origin,
    /// Path prefix without a trailing slash; empty for none.
    pub base_path: String,
}

impl fmt::Display for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.origin, self.base_path)
    }
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

/// An address where clients connect.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Listen {
    /// TCP.
    Tcp {
        /// Port 0: any free one.
        address: SocketAddr,
        /// False for built-in defaults, whose address family the machine may lack; other addresses must bind.
        required: bool,
    },
    /// A Unix socket.
    Unix(PathBuf),
    /// Sockets handed over by the service manager.
    Systemd,
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { address, .. } => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Systemd => f.write_str("systemd"),
        }
    }
}

/// The settings of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// tracing's filter syntax, for our own targets.
    pub filter: String,
    /// The form of its lines.
    pub format: LogFormat,
    /// A line for each request.
    pub access: bool,
}

impl Log {
    /// Parses a filter in tracing's syntax. `None` when `text` is something else.
    #[must_use]
    pub fn parse_filter(text: &str) -> Option<Targets> {
        // tracing takes an empty part for `error`, and a bracket that stays open for a part of a target.
        let parts: Vec<&str> = text.split(',').filter(|part| !part.is_empty()).collect();
        let is_balanced = text.matches('[').count() == text.matches(']').count();
        if is_balanced { parts.join(",").parse().ok() } else { None }
    }
}
