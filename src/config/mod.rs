//! The settings, once they are known to be right.
//!
//! Pure. Every value here is valid by construction: [`source`] parses what users write, and no other module looks at the text
//! of a setting again.

pub mod source;

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};

use tracing_subscriber::filter::Targets;

#[cfg(test)]
pub(crate) use self::source::tests::fixture;
pub use self::source::{
    account::{Account, Login},
    api::{AllowedHosts, Api, Cookies, Http2, RequireHeader, UpstreamSettings},
    top_level::{
        ClientCertificate, ControlSocket, Hardening, Log, LogFormat, NamedRoots, Reloadable, RestartOnly, RuntimeDirectories,
        Tls, TlsVersion,
    },
};
pub use crate::origin::{BaseUrl, Egress, EgressProxy, Endpoint, Exception, Origin, Scheme, reachable};
use crate::{path::LoginPaths, secret::Secret};

/// Health and metrics are served here, unless `telemetry_listen` says otherwise.
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
    /// Files that must stay readable while the daemon runs: those of sources, roots of trust, and the client certificate.
    /// Nothing else among the settings is read after the start, so a process that gives up access to all other files can
    /// still work. A file may not exist yet; then its directory must be reachable.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        let tls = &self.tls;
        let own = tls.client_certificate.iter().flat_map(|own| [&own.certificates, &own.key]);
        let of_tls = tls.ca_file.iter().chain(&tls.ca_only_file).chain(own);
        let of_sources = self.sources().filter_map(|source| if let Source::File(path) = source { Some(path) } else { None });
        of_sources.chain(of_tls).map(PathBuf::as_path)
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

/// An address where clients connect.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Listen {
    /// An IP address and a port.
    Tcp {
        /// Port 0: any free one.
        address: SocketAddr,
        /// False for built-in defaults, whose address family the machine may lack; other addresses must bind.
        required: bool,
    },
    /// A Unix socket that the daemon makes at this path.
    Unix(PathBuf),
    /// The sockets that the service manager hands over, chosen by their names.
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

impl Log {
    /// Parses a filter in tracing's syntax. `None` when `text` is something else.
    #[must_use]
    pub fn parse_filter(text: &str) -> Option<Targets> {
        // tracing takes an empty part for `error`, and a blank or a bracket that stays open for a part of a target.
        let parts: Vec<&str> = text.split(',').map(str::trim).filter(|part| !part.is_empty()).collect();
        let is_balanced = text.matches('[').count() == text.matches(']').count();
        if is_balanced { parts.join(",").parse().ok() } else { None }
    }
}
