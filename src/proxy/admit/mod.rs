//! Admit a request or refuse it, on its head alone.
//!
//! Depends on `config`, `path`, `headers`, `callers` and `required`, and is pure but for the question who calls. Guarantees: an [`Admitted`] is made only here, and the target it
//! holds is exactly the one that was judged, the upstream's base path included. Without this gate any web page could use
//! the account through its visitor's browser (DNS rebinding, cross-site requests), and any client could fetch a token.

use std::{
    fmt,
    net::{Ipv4Addr, Ipv6Addr},
};

use bytes::Bytes;
use http::{
    HeaderMap, Method, Uri, Version,
    uri::{PathAndQuery, Scheme},
};

use super::{callers::Callers, headers::Authority, required::Required};
use crate::{
    config::{AllowedHosts, Api, Config},
    path::{LoginPaths, Prefix, Rule, is_canonical},
    server::Peer,
};

/// The conditions of one API at one kind of listener, built once.
pub struct Gate {
    entry: Entry,
    /// Tells this API from others at the same address.
    prefix: Option<Prefix>,
    upstream_host: String,
    base_path: String,
    allowed_hosts: AllowedHosts,
    allowed_origins: Vec<String>,
    required: Option<Required>,
    callers: Callers,
    login_paths: LoginPaths,
    allow: Option<Vec<Rule>>,
    deny: Vec<Rule>,
}

/// How clients reach a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// By an address, which a browser reaches too.
    Tcp,
    /// By a path in the file system, which names no host.
    Unix,
}

/// A request that may be forwarded. Only [`Gate::admit`] makes one.
pub(super) struct Admitted {
    target: PathAndQuery,
}

impl Admitted {
    /// What to ask the upstream for: base path, path and query, byte for byte, without a fragment.
    #[must_use]
    pub(super) fn target(&self) -> &PathAndQuery {
        &self.target
    }
}

impl fmt::Debug for Admitted {
    /// Without the target: it names people and records.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admitted").finish_non_exhaustive()
    }
}

/// Why a request is not forwarded. Holds nothing of the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// Not exactly one `Host`.
    HostCount,
    /// CONNECT or TRACE.
    MethodNotAllowed,
    /// A `Host` that is none of ours: DNS rebinding.
    HostNotAllowed,
    /// Absolute form with somebody else's authority, or a target that is no path.
    BadTarget,
    /// Sent by a web page that may not call.
    CrossSite,
    /// `require_header` is missing, or is not as it must be. Which of the two is not told.
    HeaderRequired,
    /// The caller is none of those that may call.
    CallerNotAllowed,
    /// No API goes by the path's first segments.
    NoApi,
    /// The path answers with a token.
    LoginPath,
    /// There are rules, and the path could be read in more than one way.
    NotCanonical,
    /// A rule forbids it, or none allows it.
    NotAllowed,
    /// It is not certain where the body ends.
    BadFraming,
    /// An `Expect` other than `100-continue`.
    ExpectationFailed,
}

impl Gate {
    /// The conditions of `api` for requests that come in by `entry`. `required`: what its `require_header` comes to.
    #[must_use]
    pub fn new(config: &Config, api: &Api, required: Option<Required>, entry: Entry) -> Self {
        Self {
            entry,
            prefix: api.prefix.clone(),
            upstream_host: api.upstream.origin.host.clone(),
            base_path: api.upstream.base_path.clone(),
            allowed_hosts: api.allowed_hosts.clone(),
            allowed_origins: api.allowed_origins.clone(),
            required,
            callers: Callers::new(api),
            login_paths: config.login_paths.clone(),
            allow: api.allow.clone(),
            deny: api.deny.clone(),
        }
    }

    /// How much of a request's path is this API's prefix, in bytes; `None` when the path is under another.
    #[must_use]
    pub(super) fn prefix_of(&self, uri: &Uri) -> Option<usize> {
        self.prefix.as_ref().map_or(Some(0), |prefix| prefix.strip(uri.path()).map(|_| prefix.as_str().len()))
    }

    /// Judges a request in the order that users are told, so that the first fault is the one they read about.
    ///
    /// Allocates only when there is a prefix, or the upstream has a base path.
    pub(super) fn admit(
        &self,
        method: &Method,
        uri: &Uri,
        version: Version,
        headers: &HeaderMap,
        peer: &Peer,
    ) -> Result<Admitted, Refusal> {
        let head = Head::read(uri, version, headers);
        if !head.host_count_fits(version) {
            return Err(Refusal::HostCount);
        }
        if matches!(*method, Method::CONNECT | Method::TRACE) {
            return Err(Refusal::MethodNotAllowed);
        }
        if !self.host_passes(head.host) {
            return Err(Refusal::HostNotAllowed);
        }
        let asked = self.asked_for(method, uri, version)?;
        if !self.page_passes(&head) {
            return Err(Refusal::CrossSite);
        }
        if self.required.as_ref().is_some_and(|required| !required.is_met(headers)) {
            return Err(Refusal::HeaderRequired);
        }
        if !self.callers.include(peer) {
            return Err(Refusal::CallerNotAllowed);
        }
        let target = self.at_upstream(asked)?;
        if self.login_paths.contains(target.path()) {
            return Err(Refusal::LoginPath);
        }
        self.rules_pass(method, target.path())?;
        if !head.framing_is_certain(version) {
            return Err(Refusal::BadFraming);
        }
        if head.unmet_expectation {
            return Err(Refusal::ExpectationFailed);
        }
        Ok(Admitted { target })
    }

    fn host_passes(&self, host: Field<'_>) -> bool {
        match (self.entry, host) {
            // `Field::Absent`: HTTP/1.0, which no browser speaks any more.
            (Entry::Unix, _) | (_, Field::Absent) => true,
            (Entry::Tcp, Field::Once(value)) => self.is_allowed_host(value),
            (Entry::Tcp, Field::Several) => false,
        }
    }

    /// Whether it is a name of this machine, of the upstream, or one of `allowed_hosts`; the port does not matter.
    fn is_allowed_host(&self, text: &[u8]) -> bool {
        let Some(Authority { host, bracketed, .. }) = Authority::parse(text) else { return false };
        let Ok(host) = std::str::from_utf8(host) else { return false };
        let loopback = if bracketed {
            host.parse() == Ok(Ipv6Addr::LOCALHOST)
        } else {
            host.eq_ignore_ascii_case("localhost") || host.parse().is_ok_and(|address: Ipv4Addr| address.is_loopback())
        };
        // An IPv6 address is an exact name too, with or without its brackets.
        let is = |name: &str| {
            let name = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
            host.eq_ignore_ascii_case(name) && bracketed == name.contains(':')
        };
        loopback
            || is(&self.upstream_host)
            || match &self.allowed_hosts {
                AllowedHosts::Any => is_host(host, bracketed),
                AllowedHosts::Names(names) => names.iter().any(|name| is(name)),
            }
    }

    /// The part of the request's target that the upstream gets. Absolute form takes us for a forward proxy, which we are
    /// only for names of our own, at whatever entry. HTTP/2 has no other form, and there the authority was judged as `Host`.
    fn asked_for<'a>(&self, method: &Method, uri: &'a Uri, version: Version) -> Result<&'a PathAndQuery, Refusal> {
        if version == Version::HTTP_2 {
            // RFC 9113, 8.3.1.
            let is_path = uri.path_and_query().is_some_and(|asked| asked.as_str().starts_with('/') || asked == "*");
            if !is_path {
                return Err(Refusal::BadTarget);
            }
        } else if let Some(authority) = uri.authority() {
            let ours = uri.scheme() == Some(&Scheme::HTTP) && self.is_allowed_host(authority.as_str().as_bytes());
            if !ours {
                return Err(Refusal::BadTarget);
            }
        }
        let asked = uri.path_and_query().ok_or(Refusal::BadTarget)?;
        if asked.path() == "*" && method != Method::OPTIONS {
            return Err(Refusal::BadTarget);
        }
        Ok(asked)
    }

    /// Without the prefix, under the base path. `OPTIONS *` asks about the whole server, which no base path divides.
    fn at_upstream(&self, asked: &PathAndQuery) -> Result<PathAndQuery, Refusal> {
        let text = match &self.prefix {
            None => asked.as_str(),
            Some(prefix) if prefix.strip(asked.path()).is_some() => &asked.as_str()[prefix.as_str().len()..],
            Some(_) => return Err(Refusal::NoApi),
        };
        // Absolute form may lack the slash before the query, and so may what a prefix leaves.
        let root = if text.starts_with(['/', '*']) { "" } else { "/" };
        if text == "*" || (self.prefix.is_none() && self.base_path.is_empty() && root.is_empty()) {
            return Ok(asked.clone());
        }
        let whole = Bytes::from([&self.base_path, root, text].concat());
        // Fails only for what has become too long.
        PathAndQuery::from_maybe_shared(whole).map_err(|_| Refusal::BadTarget)
    }

    /// `path` is the one that is sent, base path included: what is judged must not be read otherwise by the upstream.
    fn rules_pass(&self, method: &Method, path: &str) -> Result<(), Refusal> {
        if self.allow.is_none() && self.deny.is_empty() {
            return Ok(());
        }
        // `OPTIONS *` asks about the whole server, of which no rule speaks.
        if path == "*" {
            return Err(Refusal::NotAllowed);
        }
        if !is_canonical(path) {
            return Err(Refusal::NotCanonical);
        }
        let speaks_of_it = |rules: &[Rule]| rules.iter().any(|rule| rule.matches(method, path));
        let is_allowed = self.allow.as_deref().is_none_or(speaks_of_it) && !speaks_of_it(&self.deny);
        if is_allowed { Ok(()) } else { Err(Refusal::NotAllowed) }
    }

    /// Whether no web page sent it, or one that may: of an allowed origin, or served under the very host that it calls.
    fn page_passes(&self, head: &Head<'_>) -> bool {
        match head.origin {
            Field::Absent => !head.foreign_site,
            Field::Once(origin) => {
                let listed = self.allowed_origins.iter().any(|allowed| origin.eq_ignore_ascii_case(allowed.as_bytes()));
                listed || (!head.foreign_site && head.is_own_origin(origin))
            }
            Field::Several => false,
        }
    }
}

/// What a head says about the things that are judged, read in one pass.
struct Head<'a> {
    host: Field<'a>,
    origin: Field<'a>,
    /// `Sec-Fetch-Site` that is neither `none` (typed, bookmarked) nor `same-origin`.
    foreign_site: bool,
    transfer_encoding: Field<'a>,
    content_length: Field<'a>,
    unmet_expectation: bool,
}

/// A field that may stand in a head once.
#[derive(Clone, Copy)]
enum Field<'a> {
    Absent,
    Once(&'a [u8]),
    Several,
}

impl<'a> Field<'a> {
    fn see(&mut self, value: &'a [u8]) {
        *self = match self {
            Self::Absent => Self::Once(value),
            Self::Once(_) | Self::Several => Self::Several,
        };
    }
}

impl<'a> Head<'a> {
    /// Over HTTP/2 `:authority` is the host; a `Host` beside it may only repeat it (RFC 9113, 8.3.1).
    fn read(uri: &'a Uri, version: Version, headers: &'a HeaderMap) -> Self {
        let authority = uri.authority().filter(|_| version == Version::HTTP_2).map(|authority| authority.as_str().as_bytes());
        let mut head = Self {
            host: Field::Absent,
            origin: Field::Absent,
            foreign_site: false,
            transfer_encoding: Field::Absent,
            content_length: Field::Absent,
            unmet_expectation: false,
        };
        if let Some(authority) = authority {
            head.host.see(authority);
        }
        for (name, value) in headers {
            let value = value.as_bytes();
            match name.as_str() {
                "host" if authority.is_some_and(|authority| authority.eq_ignore_ascii_case(value)) => {}
                "host" => head.host.see(value),
                "origin" => head.origin.see(value),
                "sec-fetch-site" => head.foreign_site |= !matches!(value, b"none" | b"same-origin"),
                "transfer-encoding" => head.transfer_encoding.see(value),
                "content-length" => head.content_length.see(value),
                "expect" => head.unmet_expectation |= !value.eq_ignore_ascii_case(b"100-continue"),
                _ => {}
            }
        }
        head
    }

    /// RFC 9112, 3.2: one in HTTP/1.1, and so in HTTP/2. Two could be read differently by us and by the upstream, in any
    /// version.
    fn host_count_fits(&self, version: Version) -> bool {
        match self.host {
            Field::Once(_) => true,
            Field::Absent => !matches!(version, Version::HTTP_11 | Version::HTTP_2),
            Field::Several => false,
        }
    }

    /// The parser refuses most of this by itself; a body's end is too important to rest on that alone.
    ///
    /// `Content-Length` beside `Transfer-Encoding` is overridden by it (RFC 9112, 6.3), and neither is passed on.
    fn framing_is_certain(&self, version: Version) -> bool {
        let coded = match self.transfer_encoding {
            Field::Absent => true,
            Field::Once(value) => version == Version::HTTP_11 && value.eq_ignore_ascii_case(b"chunked"),
            Field::Several => false,
        };
        let counted = match self.content_length {
            Field::Absent => true,
            Field::Once(value) => !value.is_empty() && value.iter().all(u8::is_ascii_digit),
            Field::Several => false,
        };
        coded && counted
    }

    fn is_own_origin(&self, origin: &[u8]) -> bool {
        let Field::Once(host) = self.host else { return false };
        let Some((scheme, authority)) = origin.split_at_checked(7) else { return false };
        scheme.eq_ignore_ascii_case(b"http://") && authority.eq_ignore_ascii_case(host)
    }
}

/// RFC 3986, 3.2.2: what may stand for a host at all, of which `*` allows any.
fn is_host(host: &str, bracketed: bool) -> bool {
    if bracketed {
        return host.parse::<Ipv6Addr>().is_ok();
    }
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=%".contains(&byte);
    !host.is_empty() && host.bytes().all(legal)
}

#[cfg(test)]
mod tests;
