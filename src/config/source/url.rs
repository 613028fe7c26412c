//! URLs, hosts, origins and addresses as settings hold them.
//!
//! Pure. A text that two parsers could read in two ways is refused, since a token goes where a URL points. Messages never
//! repeat a URL, which may hold a password before its `@`.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
};

use http::uri::PathAndQuery;
use rustls::pki_types::DnsName;

use super::faults::{Diagnostic, ensure, shown};
use crate::{
    config::{BaseUrl, Endpoint, Listen, Origin, Scheme},
    path::is_canonical,
};

/// Bytes of a Unix socket's path: `sun_path` has 108 with its NUL on Linux, 104 elsewhere.
const SOCKET_PATH_MAX: usize = 103;

/// A URL or a path, as written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Address {
    /// The word `off`.
    Off,
    /// A path under an API's upstream.
    Path(PathAndQuery),
    /// A whole URL.
    Absolute(Endpoint),
}

/// Reads what [`address`] reads, or `off`.
pub(super) fn address_or_off(text: &str) -> Result<Address, Diagnostic> {
    if text == "off" { Ok(Address::Off) } else { address(text) }
}

/// Reads a URL, or a path that starts with `/`.
pub(super) fn address(text: &str) -> Result<Address, Diagnostic> {
    let plain = |byte: u8| byte > b' ' && byte != 0x7f && byte != b'\\';
    ensure!(text.bytes().all(plain), "a URL holds no spaces, control characters or backslashes");
    let hint = "write the host in its `xn--` form and percent-encode the path";
    ensure!(text.is_ascii(), "a URL is made of ASCII", hint = hint);
    ensure!(!text.contains('?'), "a query cannot be part of it");
    ensure!(!text.contains('#'), "a fragment cannot be part of it");
    if text.starts_with('/') {
        return path(text).map(Address::Path);
    }
    let (scheme, rest) = text.split_once("://").ok_or_else(no_url)?;
    let scheme = match scheme.to_ascii_lowercase().as_str() {
        "https" => Scheme::Https,
        "http" => Scheme::Http,
        _ => return Err(Diagnostic::new("the scheme must be https")),
    };
    let (authority, target) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let hint = "credentials belong to the account";
    ensure!(!authority.contains('@'), "a user name or password cannot be part of it", hint = hint);
    let (host, rooted, port) = host_and_port(authority)?;
    let port = port.unwrap_or(scheme.default_port());
    ensure!(port != 0, "port 0 cannot be reached");
    let target = path(if target.is_empty() { "/" } else { target })?;
    Ok(Address::Absolute(Endpoint { origin: Origin { scheme, host, rooted, port }, target }))
}

/// Reads a path: each character as it will be sent, and no segment that means another one.
fn path(text: &str) -> Result<PathAndQuery, Diagnostic> {
    ensure!(!text.contains("//"), "its path holds an empty segment (`//`)");
    let decoded = text.to_ascii_lowercase().replace("%2e", ".");
    ensure!(!decoded.split('/').any(|segment| segment == "." || segment == ".."), "its path holds a dot segment");
    let is_escape = |after: &str| after.as_bytes().get(..2).is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit));
    ensure!(text.split('%').skip(1).all(is_escape), "its path holds a broken percent escape");
    PathAndQuery::try_from(text).map_err(|_| Diagnostic::new("its path cannot stand in a request"))
}

/// Reads `host`, `host:port`, `[v6]` or `[v6]:port`; in the middle: whether the host ended in a dot.
fn host_and_port(authority: &str) -> Result<(String, bool, Option<u16>), Diagnostic> {
    let bracket = authority.rfind(']').unwrap_or(0);
    let colon = authority[bracket..].find(':').map(|at| bracket + at);
    let Some(colon) = colon else { return Ok((host(authority)?, is_rooted(authority), None)) };
    let (name, digits) = (&authority[..colon], &authority[colon + 1..]);
    ensure!(!digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()), "its port is not a number");
    let port = digits.parse().map_err(|_| Diagnostic::new("its port is beyond 65535"))?;
    Ok((host(name)?, is_rooted(name), Some(port)))
}

/// Whether a name ends in a dot that means something to a resolver: every resolver knows `localhost` itself.
fn is_rooted(name: &str) -> bool {
    name.strip_suffix('.').is_some_and(|name| !name.eq_ignore_ascii_case("localhost"))
}

/// Reads a host: in lower case, without a dot at the end of a name, and an IPv6 address without brackets and in its short form.
pub(super) fn host(text: &str) -> Result<String, Diagnostic> {
    let wrong = || Diagnostic::new("holds what is not a host");
    if let Some(address) = text.strip_prefix('[') {
        let address = address.strip_suffix(']').ok_or_else(wrong)?;
        return address.parse::<Ipv6Addr>().map(|address| address.to_string()).map_err(|_| wrong());
    }
    // An address has no dot at its end; what looks like one is refused below.
    let is_address = text.parse::<Ipv4Addr>().is_ok();
    let text = text.strip_suffix('.').unwrap_or(text);
    // `127.1` and `0x7f.1` are addresses to some resolvers (inet_aton) and names to others; `DnsName` refuses the first form.
    let is_hexadecimal = text.rsplit('.').next().is_some_and(|last| last.to_ascii_lowercase().starts_with("0x"));
    let is_name = DnsName::try_from(text).is_ok() && !text.ends_with('.') && !is_hexadecimal;
    (is_address || is_name).then(|| text.to_ascii_lowercase()).ok_or_else(wrong)
}

/// Reads what a browser sends as `Origin` (RFC 6454, 6.2): `scheme://host[:port]`, lower case, without a default port.
pub(super) fn serialized_origin(text: &str) -> Result<String, Diagnostic> {
    let hint = "write it as browsers send it: https://app.example or http://localhost:3000";
    let wrong = |why: &str| Diagnostic::new(format!("an origin {why}")).hint(hint);
    let (scheme, authority) = text.split_once("://").ok_or_else(|| wrong("has a scheme and a host"))?;
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "+-.".contains(c);
    let is_scheme = scheme.starts_with(|c: char| c.is_ascii_lowercase()) && scheme.chars().all(plain);
    ensure!(is_scheme, "an origin begins with a scheme in lower case", hint = hint);
    let is_whole = !authority.contains(['/', '?', '#', '@']);
    ensure!(is_whole, "an origin is a scheme and a host, with nothing after them", hint = hint);
    let (host, _, port) = host_and_port(authority).map_err(|_| wrong("has a host's name and perhaps a port"))?;
    let shown = if host.contains(':') { format!("[{host}]") } else { host };
    let serialized = match port {
        Some(port) if !matches!((scheme, port), ("https", 443) | ("http", 80)) => format!("{scheme}://{shown}:{port}"),
        _ => format!("{scheme}://{shown}"),
    };
    if serialized == text { Ok(serialized) } else { Err(wrong("is in lower case, without its scheme's own port")) }
}

/// Reads an API's base URL.
pub(super) fn upstream(text: &str) -> Result<BaseUrl, Diagnostic> {
    let Address::Absolute(Endpoint { origin, target }) = address(text)? else { return Err(no_url()) };
    // A rule judges the base path too, and it judges only what can be read in one way.
    let wrong = "its path is not in canonical form: with `allow` or `deny` each request would be a 400";
    let hint = "leave out `;`, `//` and dots at the end of a segment, and write letters, digits and `-._~` as they are, not percent-encoded";
    ensure!(is_canonical(target.path()), wrong, hint = hint);
    Ok(BaseUrl { origin, base_path: target.path().trim_end_matches('/').to_owned() })
}

fn no_url() -> Diagnostic {
    Diagnostic::new("expected a URL").hint("write https://HOST or https://HOST/PATH; for a log-in also /PATH or `off`")
}

/// Reads one listener: a TCP address, `unix:/path` or `systemd`.
pub(super) fn listener(entry: &str) -> Result<Listen, Diagnostic> {
    match entry.strip_prefix("unix:") {
        Some(path) if path.starts_with('/') => socket_path(entry, path).map(Listen::Unix),
        Some(_) => Err(Diagnostic::new(format!("{}: the path of a Unix socket must start with `/`", shown(entry)))),
        None if entry == "systemd" => Ok(Listen::Systemd),
        None => Ok(Listen::Tcp { address: socket_address(entry)?, required: true }),
    }
}

/// Reads the path of a Unix socket, which starts with `/`. `entry`: as it was written.
pub(super) fn socket_path(entry: &str, path: &str) -> Result<PathBuf, Diagnostic> {
    ensure!(path.len() <= SOCKET_PATH_MAX, format!("the path of a Unix socket has at most {SOCKET_PATH_MAX} bytes"));
    ensure!(!path.ends_with('/'), format!("{} names a directory", shown(entry)));
    Ok(path.into())
}

/// Reads an IP address with a port.
pub(super) fn socket_address(text: &str) -> Result<SocketAddr, Diagnostic> {
    let address: SocketAddr = text.parse().map_err(|_| {
        let wrong = Diagnostic::new(format!("{} is not an address", shown(text)));
        let hint = match text.rsplit_once(':') {
            Some(("localhost" | "", port)) if port.parse::<u16>().is_ok() => format!("write 127.0.0.1:{port}"),
            None if text.parse::<u16>().is_ok() => format!("write 127.0.0.1:{text}"),
            _ if text.starts_with('/') => format!("for a Unix socket write unix:{text}"),
            _ => "write 127.0.0.1:PORT or [::1]:PORT".to_owned(),
        };
        wrong.hint(hint)
    })?;
    // A socket of IPv6 alone, as ours are, can't be bound to it.
    let plain = SocketAddr::new(address.ip().to_canonical(), address.port());
    let wrong = format!("{} is an address of IPv4 that is written as one of IPv6", shown(text));
    ensure!(plain.is_ipv4() == address.is_ipv4(), wrong, hint = format!("write {plain}"));
    Ok(address)
}
