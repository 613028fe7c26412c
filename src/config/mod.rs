//! What the settings mean, once they are known to be right.
//!
//! Depends on `secret`, `careportals` and `path`. Every value here is valid by construction: [`source`] parses what users
//! write, and nothing after it looks at a setting's text again.

mod egress;
mod files;
#[cfg(test)]
pub(crate) mod fixture;
pub mod source;

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    num::NonZeroUsize,
    path::PathBuf,
    time::Duration,
};

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, uri::PathAndQuery};

pub use egress::{Egress, EgressProxy, Exception};

use crate::{
    path::{LoginPaths, Prefix, Rule},
    secret::Secret,
};

/// All settings of one daemon.
#[derive(Debug)]
pub struct Config {
    /// In the order of the file; [`Api::account`] points into it.
    pub accounts: Vec<Account>,
    /// In the order of the file.
    pub apis: Vec<Api>,
    /// Canonical log-in and refresh paths of every preset and account, refused at every API.
    pub login_paths: LoginPaths,
    /// What a reload can't change.
    pub restart_only: RestartOnly,
    /// tracing's filter syntax, for our own targets.
    pub log_filter: String,
    /// A line for each request.
    pub access_log: bool,
    /// How long new requests are still served once a drain began.
    pub drain_delay: Duration,
    /// How long requests in flight may take to finish.
    pub drain_timeout: Duration,
    /// Trust and versions towards upstream.
    pub tls: Tls,
    /// The way out, when it leads through a proxy.
    pub egress: Egress,
    /// Names of the sockets that the service manager passes, in their order.
    pub socket_names: Vec<String>,
}

impl Config {
    /// What the log is built from, and what a reload changes of it.
    #[must_use]
    pub fn log(&self) -> Log {
        Log { filter: self.log_filter.clone(), format: self.restart_only.log_format, access: self.access_log }
    }
}

/// Settings that are in effect from the daemon's start to its end. A reload that changes one of them is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestartOnly {
    /// Worker threads; `None`: usable cores, at most 4.
    pub workers: Option<NonZeroUsize>,
    /// The form of log lines.
    pub log_format: LogFormat,
    /// Health and metrics; `None`: off.
    pub telemetry_listen: Option<SocketAddr>,
    /// `POST /quitquitquit` on the telemetry listener.
    pub quitquitquit: bool,
    /// Where `status` and its siblings reach the daemon.
    pub control_socket: ControlSocket,
    /// User ids, besides our own and root, that may use it.
    pub control_allow_uids: Vec<u32>,
    /// What the process gives up at start.
    pub hardening: Hardening,
}

impl RestartOnly {
    /// The first setting that differs from the other's, by name.
    #[must_use]
    pub fn changed(&self, other: &Self) -> Option<&'static str> {
        let Self { workers, log_format, telemetry_listen, quitquitquit, control_socket, control_allow_uids, hardening } = self;
        let differing = [
            ("workers", *workers != other.workers),
            ("log_format", *log_format != other.log_format),
            ("telemetry_listen", *telemetry_listen != other.telemetry_listen),
            ("quitquitquit", *quitquitquit != other.quitquitquit),
            ("control_socket", *control_socket != other.control_socket),
            ("control_allow_uids", *control_allow_uids != other.control_allow_uids),
            ("hardening", *hardening != other.hardening),
        ];
        differing.into_iter().find_map(|(name, differs)| differs.then_some(name))
    }
}

/// An account by its place in [`Config::accounts`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AccountId(pub usize);

/// Credentials and organization, shared by one or more APIs.
#[derive(Debug)]
pub struct Account {
    /// `[a-z0-9-]+`.
    pub name: String,
    /// The tenant; a source, since a secret mount may hold it.
    pub organization: Source,
    /// `None`: the organization header alone is sent.
    pub login: Option<Login>,
}

/// How an account logs in.
pub struct Login {
    /// Where credentials become a token.
    pub url: Endpoint,
    /// Where a refresh token becomes a token.
    pub refresh_url: Option<Endpoint>,
    /// Read anew at each log-in.
    pub username: Source,
    /// Read anew at each log-in.
    pub password: Source,
    /// Body member for the user name.
    pub username_field: String,
    /// Body member for the password.
    pub password_field: String,
    /// Further members of the body.
    pub extra: serde_json::Map<String, serde_json::Value>,
    /// Further headers of the log-in request.
    pub headers: HeaderMap,
    /// For one log-in, connection included.
    pub timeout: Duration,
    /// How long a request waits for a token.
    pub token_wait: Duration,
    /// A token younger than this is never replaced because of a 401.
    pub relogin_floor: Duration,
    /// Upstream statuses that make a token suspect.
    pub relogin_on: Vec<StatusCode>,
    /// Life of a token without `exp`.
    pub assumed_life: Duration,
    /// JSON pointer (RFC 6901) to the token in the answer; `None`: the known fields.
    pub token_pointer: Option<String>,
}

/// Not derived: `extra` and `headers` may hold secrets.
impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login")
            .field("url", &self.url)
            .field("username", &self.username)
            .field("password", &self.password)
            .finish_non_exhaustive()
    }
}

/// Where a value comes from.
pub enum Source {
    /// Written down, or read from the environment at start.
    Value(Secret),
    /// Read anew whenever it is needed, one trailing newline trimmed, and watched.
    File(PathBuf),
    /// Run, without a shell, at each log-in, or once for a required header; its standard output, one trailing newline trimmed.
    Command(Vec<String>),
}

impl Source {
    /// Whether both are written alike; of what a file or a command gives, this says nothing.
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

/// A URL that the sidecar itself calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Whom to connect to.
    pub origin: Origin,
    /// What to ask for.
    pub target: PathAndQuery,
}

/// Scheme, host and port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Origin {
    /// `http` only to loopback, by explicit permission.
    pub scheme: Scheme,
    /// Lower case, without brackets.
    pub host: String,
    /// Explicit, or the scheme's default.
    pub port: u16,
}

/// How an origin is spoken to.
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
    /// As `Host` carries it: IPv6 in brackets, the port only when it is not the scheme's own (RFC 9110, 7.2).
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

/// A base URL with its rules.
#[derive(Debug)]
pub struct Api {
    /// `[a-z0-9-]+`.
    pub name: String,
    /// Whose bearer it sends.
    pub account: AccountId,
    /// Where requests go.
    pub upstream: Upstream,
    /// Where clients come in.
    pub listen: Vec<Listen>,
    /// Other than loopback addresses may be among them; of sockets that are passed to us, that shows only at start.
    pub allow_non_loopback: bool,
    /// Shares its addresses with other APIs under this prefix.
    pub prefix: Option<Prefix>,
    /// `None`: everything but log-in paths.
    pub allow: Option<Vec<Rule>>,
    /// Wins over `allow`.
    pub deny: Vec<Rule>,
    /// What happens to cookies.
    pub cookies: Cookies,
    /// Fixed extra request headers.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Hosts clients may name besides loopback's and upstream's.
    pub allowed_hosts: AllowedHosts,
    /// Origins (serialized, RFC 6454) of web pages that may call.
    pub allowed_origins: Vec<String>,
    /// A header without which nothing passes.
    pub require_header: Option<RequireHeader>,
    /// Bytes of a request body kept to send it again.
    pub replay_buffer: usize,
    /// `Idempotency-Key` makes a request safe to send again.
    pub retry_idempotency_key: bool,
    /// Further path segments that logs may show.
    pub path_words: Vec<String>,
    /// Of Unix sockets.
    pub socket_mode: u32,
    /// Of Unix sockets, by name or number.
    pub socket_group: Option<String>,
    /// Users that may call; both this and `allow_gids` empty: anybody.
    pub allow_uids: Vec<u32>,
    /// Groups that may call.
    pub allow_gids: Vec<u32>,
    /// Protocol towards upstream.
    pub http2: Http2,
    /// Counts and sizes.
    pub limits: Limits,
    /// Durations.
    pub timeouts: Timeouts,
}

/// All that connections to an upstream are made from. A reload keeps connections only where these are equal, so whatever
/// opens connections takes this type and no other settings of the API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamSettings {
    /// Whom to connect to.
    pub origin: Origin,
    /// Protocol towards upstream.
    pub http2: Http2,
    /// Bytes of a response's head.
    pub max_header_bytes: usize,
    /// Header lines of a response.
    pub max_headers: usize,
    /// Name, connection and TLS together.
    pub connect_timeout: Duration,
    /// Silence of a kept connection.
    pub pool_idle: Duration,
    /// Age of a connection, ±20 %.
    pub connection_max_age: Duration,
}

impl Api {
    /// Its part that connections to upstream depend on.
    #[must_use]
    pub fn upstream_settings(&self) -> UpstreamSettings {
        UpstreamSettings {
            origin: self.upstream.origin.clone(),
            http2: self.http2,
            max_header_bytes: self.limits.max_header_bytes,
            max_headers: self.limits.max_headers,
            connect_timeout: self.timeouts.connect,
            pool_idle: self.timeouts.pool_idle,
            connection_max_age: self.timeouts.connection_max_age,
        }
    }
}

/// A base URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// Whom to connect to.
    pub origin: Origin,
    /// Path prefix without a trailing slash; empty for none.
    pub base_path: String,
}

impl fmt::Display for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.origin, self.base_path)
    }
}

/// Where `telemetry_listen` is unless it is set.
pub const TELEMETRY_DEFAULT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 2274);

/// Where a program of this machine connects to who listens on `address`: a listener on every address is reached by
/// loopback.
#[must_use]
pub fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// A place where clients come in.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Listen {
    /// TCP. `required`: false for built-in defaults, whose address family the machine may lack.
    Tcp {
        /// Port 0: any free one.
        address: SocketAddr,
        /// A configured address must bind.
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

/// `cookies`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Cookies {
    /// Neither `Cookie` nor `Set-Cookie` passes: a token may travel in them.
    #[default]
    Strip,
    /// Both pass.
    Pass,
}

/// `allowed_hosts`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AllowedHosts {
    /// `*`.
    Any,
    /// Exact names, lower case, without port.
    Names(Vec<String>),
}

/// `require_header`.
#[derive(Debug)]
pub struct RequireHeader {
    /// Its name.
    pub name: HeaderName,
    /// What it must hold; `None`: anything.
    pub value: Option<Source>,
}

/// `http2`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Http2 {
    /// HTTP/1.1.
    #[default]
    Off,
    /// HTTP/2 when the server takes it.
    Auto,
}

/// Counts and sizes of one API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Requests in flight.
    pub max_requests: usize,
    /// Connections per listen address.
    pub max_connections: usize,
    /// Bytes of a request's or answer's head.
    pub max_header_bytes: usize,
    /// Header lines of a request or an answer.
    pub max_headers: usize,
}

/// Durations of one API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// From accept to the first whole head; from the first byte of each later one.
    pub head: Duration,
    /// Name, connection and TLS together.
    pub connect: Duration,
    /// From the last byte of the request's body to the answer's head.
    pub response: Duration,
    /// Silence of the side that a body comes from.
    pub body_idle: Duration,
    /// The same for event streams and tunnels.
    pub stream_idle: Duration,
    /// Between a client's requests.
    pub client_idle: Duration,
    /// Of a kept upstream connection.
    pub pool_idle: Duration,
    /// Of an upstream connection, ±20 %.
    pub connection_max_age: Duration,
}

/// Logging.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// tracing's filter syntax, for our own targets.
    pub filter: String,
    /// One of three.
    pub format: LogFormat,
    /// A line for each request.
    pub access: bool,
}

/// `log_format`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// Text on a terminal and in systemd's journal, else JSON.
    #[default]
    Auto,
    /// For people.
    Text,
    /// For machines.
    Json,
}

/// `control_socket`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ControlSocket {
    /// The first default place that fits; these may be among them.
    Default(RuntimeDirectories),
    /// None.
    Off,
    /// Here.
    Path(PathBuf),
}

/// Directories for sockets, as the environment names them.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct RuntimeDirectories {
    /// `$RUNTIME_DIRECTORY`, the first of them: the service manager made it for this daemon.
    pub service: Option<PathBuf>,
    /// `$XDG_RUNTIME_DIR`: the user's own.
    pub user: Option<PathBuf>,
}

/// `hardening`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Hardening {
    /// What the kernel offers.
    #[default]
    Auto,
    /// All of it, or no start.
    Required,
    /// Nothing.
    Off,
}

/// Trust towards upstream.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Tls {
    /// PEM roots beside the system's.
    pub ca_file: Option<PathBuf>,
    /// PEM roots instead of the system's.
    pub ca_only_file: Option<PathBuf>,
    /// The lowest version accepted.
    pub min_version: TlsVersion,
    /// Our own certificate and key, PEM.
    pub client_certificate: Option<ClientCertificate>,
}

/// `tls_min`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum TlsVersion {
    /// TLS 1.2.
    #[default]
    Tls12,
    /// TLS 1.3.
    Tls13,
}

/// `tls_cert_file` and `tls_key_file`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificate {
    /// PEM chain.
    pub certificates: PathBuf,
    /// PEM key.
    pub key: PathBuf,
}
