//! Admits a request or refuses it, by its head alone. Pure, but for the question to the kernel who calls.
//!
//! Guarantees: an [`Admitted`] is made only here, and its target is exactly the one that was judged, the upstream's base path
//! included. Without this gate any web page could use the account through its visitor's browser (DNS rebinding, cross-site
//! requests), and any client could fetch a token.
//!
//! Files, each using only those before it: `browser` (what a browser says of itself), `rules` (what may be asked for).

mod browser;
mod rules;

use std::{fmt, net::Ipv6Addr, sync::Arc};

use bytes::Bytes;
use http::{
    HeaderMap, Method, Uri, Version,
    uri::{PathAndQuery, Scheme},
};

pub use browser::{BrowserMarks, names_loopback};

use super::{headers::HostAndPort, required::Required};
use crate::{
    config::{AllowedHosts, Api, Config},
    path::{LoginPaths, Prefix, Rule},
    server::Peer,
};
use rules::{Rules, Ruling};

/// Admits the requests of one API at one kind of listener. Built once.
pub struct Gate {
    conditions: Arc<Conditions>,
    /// The conditions of the other APIs behind an address, for a request that has no API's prefix.
    others: Vec<Arc<Conditions>>,
}

/// The conditions of one API.
struct Conditions {
    entry: Entry,
    /// Distinguishes this API from others at the same address.
    prefix: Option<Prefix>,
    upstream_host: String,
    base_path: String,
    allowed_hosts: AllowedHosts,
    allowed_origins: Vec<String>,
    allow_navigation: bool,
    required: Option<Required>,
    callers: AllowedCallers,
    login_paths: LoginPaths,
    rules: Rules,
}

/// How clients reach a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// They connect to an address, which a browser reaches too.
    Tcp,
    /// They connect to a path in the file system, which names no host.
    Unix,
}

/// A request that may be forwarded. Only [`Gate::admit`] makes one.
pub(super) struct Admitted {
    target: PathAndQuery,
    would_refuse: Option<Refusal>,
}

impl Admitted {
    /// The target at the upstream: base path, path and query, byte for byte, without a fragment.
    #[must_use]
    pub(super) fn target(&self) -> &PathAndQuery {
        &self.target
    }

    /// Why the rules would refuse the request; they are observed and not enforced.
    #[must_use]
    pub(super) fn would_refuse(&self) -> Option<Refusal> {
        self.would_refuse
    }
}

/// What method and target alone decide about a request, in answer to [`Gate::explain`].
#[derive(Debug)]
pub struct Explanation<'a> {
    /// Why it is refused; `None`: it passes.
    pub refusal: Option<Refusal>,
    /// Why the rules would refuse it if they were enforced.
    pub would_refuse: Option<Refusal>,
    /// The rule that decides: one of `deny` if the request is denied, else one of `allow`; `None`: there is none.
    pub rule: Option<&'a Rule>,
    /// The target that is judged, and that the upstream gets if the request passes. `None`: there is no such target.
    pub target: Option<PathAndQuery>,
}

impl fmt::Debug for Admitted {
    /// Leaves the target out: it names people and records.
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
    /// A `Host` that is not one of our names: DNS rebinding.
    HostNotAllowed,
    /// Absolute form with an authority that is not ours, or a target that is no path.
    BadTarget,
    /// Sent by a web page that may not call.
    CrossSite,
    /// The header of `require_header` is missing or has another value. The client is not told which.
    HeaderRequired,
    /// The caller is not one of those that may call.
    CallerNotAllowed,
    /// No API has a prefix of the path.
    NoApi,
    /// The path answers with a token.
    LoginPath,
    /// There are rules, and the path could be read in more than one way.
    NotCanonical,
    /// A rule of `deny` forbids it.
    Denied,
    /// No rule of `allow` lets it pass.
    NotAllowed,
    /// It is not certain where the body ends.
    BadFraming,
    /// An `Expect` other than `100-continue`.
    ExpectationFailed,
}

impl Gate {
    /// The gate of `api` for requests that come in by `entry`. `required`: the header that its `require_header` asks for.
    #[must_use]
    pub fn new(config: &Config, api: &Api, required: Option<Required>, entry: Entry) -> Self {
        let conditions = Conditions {
            entry,
            prefix: api.prefix.clone(),
            upstream_host: api.upstream.origin.host.clone(),
            base_path: api.upstream.base_path.clone(),
            allowed_hosts: api.allowed_hosts.clone(),
            allowed_origins: api.allowed_origins.clone(),
            allow_navigation: api.allow_navigation,
            required,
            callers: AllowedCallers::new(api),
            login_paths: config.login_paths.clone(),
            rules: Rules::new(api),
        };
        Self { conditions: Arc::new(conditions), others: Vec::new() }
    }

    /// The gate for requests that have no API's prefix, behind an address with the gates `first` and `others`. It admits none:
    /// a client that any API would let in learns that there is no such API, and others are refused as by `first`.
    pub(super) fn of_no_api<'a>(first: &Self, others: impl Iterator<Item = &'a Self>) -> Self {
        Self { conditions: Arc::clone(&first.conditions), others: others.map(|gate| Arc::clone(&gate.conditions)).collect() }
    }

    /// How many bytes of `path` are this API's prefix; `None` when the path does not begin with it.
    #[must_use]
    pub(super) fn prefix_of(&self, path: &str) -> Option<usize> {
        let prefix = self.conditions.prefix.as_ref();
        prefix.map_or(Some(0), |prefix| prefix.strip(path).map(|_| prefix.as_str().len()))
    }

    /// The upstream's base path, if the rules are observed and not enforced.
    pub(super) fn observes_below(&self) -> Option<&str> {
        self.conditions.rules.observe.then_some(&self.conditions.base_path)
    }

    /// Whether the client of a new connection may be one of the callers. It may if the kernel can't be asked just now.
    pub(super) fn may_let_in(&self, peer: &Peer) -> bool {
        // The first call asks the kernel.
        self.conditions.callers.include(peer) || (peer.is_local() && peer.uid().is_none() && !peer.has_gone())
    }

    /// Judges a request in the order that users are told, so that the first fault is the one they read about.
    ///
    /// It allocates only if there is a prefix, or if the upstream has a base path.
    pub(super) fn admit(
        &self,
        method: &Method,
        uri: &Uri,
        version: Version,
        headers: &HeaderMap,
        peer: &Peer,
    ) -> Result<Admitted, Refusal> {
        let judged = self.conditions.judge(method, uri, version, headers, peer);
        let has_no_api = |other: &Arc<Conditions>| other.judge(method, uri, version, headers, peer).err() == Some(Refusal::NoApi);
        if judged.is_err() && self.others.iter().any(has_no_api) { Err(Refusal::NoApi) } else { judged }
    }
}

impl Gate {
    /// Judges method and target alone, by the functions that `admit` uses: whoever asks has no head and no caller. An
    /// unknown API is found by `prefix_of`.
    #[must_use]
    pub fn explain(&self, method: &Method, uri: &Uri) -> Explanation<'_> {
        let conditions = &self.conditions;
        let asked = method_is_served(method).and_then(|()| conditions.asked_for(method, uri, Version::HTTP_11));
        let target = asked.and_then(|asked| conditions.at_upstream(asked));
        let judged = target.clone().and_then(|target| conditions.judge_target(method, &target));
        let (refusal, ruling) = match judged {
            Ok(ruling) => (ruling.refusal.filter(|_| !conditions.rules.observe), Some(ruling)),
            Err(refusal) => (Some(refusal), None),
        };
        let would_refuse = ruling.and_then(|ruling| ruling.refusal).filter(|_| refusal.is_none());
        Explanation { refusal, would_refuse, rule: ruling.and_then(|ruling| ruling.rule), target: target.ok() }
    }
}

impl Conditions {
    fn judge(&self, method: &Method, uri: &Uri, version: Version, headers: &HeaderMap, peer: &Peer) -> Result<Admitted, Refusal> {
        let head = Head::read(uri, version, headers);
        if !head.host_count_fits(version) {
            return Err(Refusal::HostCount);
        }
        method_is_served(method)?;
        if !self.host_passes(head.host) {
            return Err(Refusal::HostNotAllowed);
        }
        let asked = self.asked_for(method, uri, version)?;
        if !self.page_passes(&head, uri, version, headers) {
            return Err(Refusal::CrossSite);
        }
        if self.required.as_ref().is_some_and(|required| !required.is_met(headers)) {
            return Err(Refusal::HeaderRequired);
        }
        if !self.callers.include(peer) {
            return Err(Refusal::CallerNotAllowed);
        }
        let target = self.at_upstream(asked)?;
        let would_refuse = match self.judge_target(method, &target)?.refusal {
            Some(refusal) if !self.rules.observe => return Err(refusal),
            observed => observed,
        };
        if !head.framing_is_certain(version) {
            return Err(Refusal::BadFraming);
        }
        if head.unmet_expectation {
            return Err(Refusal::ExpectationFailed);
        }
        Ok(Admitted { target, would_refuse })
    }

    /// Judges the target that the upstream would get, base path included: it must read the path as it was judged.
    fn judge_target(&self, method: &Method, target: &PathAndQuery) -> Result<Ruling<'_>, Refusal> {
        if self.login_paths.contains(target.path()) {
            return Err(Refusal::LoginPath);
        }
        Ok(self.rules.judge(method, target.path()))
    }

    fn host_passes(&self, host: HeadField<'_>) -> bool {
        match (self.entry, host) {
            // Without `Host` it is HTTP/1.0, which no browser speaks any more.
            (Entry::Unix, _) | (_, HeadField::Absent) => true,
            (Entry::Tcp, HeadField::Once(value)) => self.is_allowed_host(value),
            (Entry::Tcp, HeadField::Several) => false,
        }
    }

    /// Whether it is a name of this machine, of the upstream, or one of `allowed_hosts`, at any port.
    fn is_allowed_host(&self, text: &[u8]) -> bool {
        let Some(HostAndPort { host, bracketed, .. }) = HostAndPort::parse(text) else { return false };
        if browser::is_loopback(host, bracketed) {
            return true;
        }
        let Ok(host) = std::str::from_utf8(host) else { return false };
        // The settings may name an IPv6 address with or without its brackets.
        let is = |name: &str| {
            let name = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
            host.eq_ignore_ascii_case(name) && bracketed == name.contains(':')
        };
        is(&self.upstream_host)
            || match &self.allowed_hosts {
                AllowedHosts::Any => is_host(host, bracketed),
                AllowedHosts::Names(names) => names.iter().any(|name| is(name)),
            }
    }

    /// The part of the request's target that the upstream gets. Absolute form is for forward proxies; it is accepted with
    /// names of our own only, at either entry. HTTP/2 has no other form, and there the authority was judged as `Host`.
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

    /// The target without the prefix, under the base path. `OPTIONS *` asks about the whole server, so it stays.
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
        // It fails only if the target has become too long.
        PathAndQuery::from_maybe_shared(whole).map_err(|_| Refusal::BadTarget)
    }

    /// Whether no browser sent the request, or for a page that may call: of an allowed origin, or served under the host that it
    /// calls. Over TCP the latter host must be loopback's: any other name, the upstream's too, can be made to lead here.
    fn page_passes(&self, head: &Head<'_>, uri: &Uri, version: Version, headers: &HeaderMap) -> bool {
        let marks = &head.marks;
        if marks.is_of_one_of(&self.allowed_origins) {
            return true;
        }
        let opens_page = marks.navigates() && !self.allow_navigation;
        let rebound = || self.entry == Entry::Tcp && marks.are_there() && !names_loopback(uri, version, headers);
        !marks.are_foreign_to(head.host) && !opens_page && !rebound()
    }
}

fn method_is_served(method: &Method) -> Result<(), Refusal> {
    if matches!(*method, Method::CONNECT | Method::TRACE) { Err(Refusal::MethodNotAllowed) } else { Ok(()) }
}

/// The users and groups that may call: `allow_uids` and `allow_gids`. If both are empty, anyone may, and the kernel is not
/// asked; otherwise only a caller who is known to be listed.
struct AllowedCallers {
    uids: Vec<u32>,
    gids: Vec<u32>,
}

impl AllowedCallers {
    fn new(api: &Api) -> Self {
        Self { uids: api.allow_uids.clone(), gids: api.allow_gids.clone() }
    }

    fn include(&self, peer: &Peer) -> bool {
        if self.uids.is_empty() && self.gids.is_empty() {
            return true;
        }
        // Ask for the user even if none is listed: the log names a refused caller.
        peer.is_user(&self.uids) || (!self.gids.is_empty() && peer.is_in(&self.gids))
    }
}

/// The fields of a head that are judged, read in one pass.
struct Head<'a> {
    host: HeadField<'a>,
    marks: BrowserMarks<'a>,
    transfer_encoding: HeadField<'a>,
    content_length: HeadField<'a>,
    unmet_expectation: bool,
}

/// A field that a head may have once.
#[derive(Clone, Copy)]
enum HeadField<'a> {
    Absent,
    Once(&'a [u8]),
    Several,
}

impl<'a> HeadField<'a> {
    fn add(&mut self, value: &'a [u8]) {
        *self = match self {
            Self::Absent => Self::Once(value),
            Self::Once(_) | Self::Several => Self::Several,
        };
    }
}

impl<'a> Head<'a> {
    /// Reads a head. Over HTTP/2 `:authority` is the host; a `Host` beside it may only repeat it (RFC 9113, 8.3.1).
    fn read(uri: &'a Uri, version: Version, headers: &'a HeaderMap) -> Self {
        let authority = uri.authority().filter(|_| version == Version::HTTP_2).map(|authority| authority.as_str().as_bytes());
        let mut head = Self {
            host: HeadField::Absent,
            marks: BrowserMarks::NONE,
            transfer_encoding: HeadField::Absent,
            content_length: HeadField::Absent,
            unmet_expectation: false,
        };
        if let Some(authority) = authority {
            head.host.add(authority);
        }
        for (name, value) in headers {
            let value = value.as_bytes();
            match name.as_str() {
                "host" if authority.is_some_and(|authority| authority.eq_ignore_ascii_case(value)) => {}
                "host" => head.host.add(value),
                "transfer-encoding" => head.transfer_encoding.add(value),
                "content-length" => head.content_length.add(value),
                "expect" => head.unmet_expectation |= !value.eq_ignore_ascii_case(b"100-continue"),
                name => head.marks.add(name, value),
            }
        }
        head
    }

    /// Whether there is one host in HTTP/1.1 (RFC 9112, 3.2) and in HTTP/2, and not several in any version: the upstream could
    /// read another one of them than we do.
    fn host_count_fits(&self, version: Version) -> bool {
        match self.host {
            HeadField::Once(_) => true,
            HeadField::Absent => !matches!(version, Version::HTTP_11 | Version::HTTP_2),
            HeadField::Several => false,
        }
    }

    /// Whether it is certain where the body ends. The parser refuses most of this by itself; a body's end is too important to
    /// rest on that alone.
    ///
    /// `Transfer-Encoding` overrides a `Content-Length` beside it (RFC 9112, 6.3), and neither is passed on.
    fn framing_is_certain(&self, version: Version) -> bool {
        let coded = match self.transfer_encoding {
            HeadField::Absent => true,
            HeadField::Once(value) => version == Version::HTTP_11 && value.eq_ignore_ascii_case(b"chunked"),
            HeadField::Several => false,
        };
        let counted = match self.content_length {
            HeadField::Absent => true,
            HeadField::Once(value) => !value.is_empty() && value.iter().all(u8::is_ascii_digit),
            HeadField::Several => false,
        };
        coded && counted
    }
}

/// Whether it can be a host at all (RFC 3986, 3.2.2). With `allowed_hosts = "*"` any one passes.
fn is_host(host: &str, bracketed: bool) -> bool {
    if bracketed {
        return host.parse::<Ipv6Addr>().is_ok();
    }
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=%".contains(&byte);
    !host.is_empty() && host.bytes().all(legal)
}

#[cfg(test)]
mod tests;
