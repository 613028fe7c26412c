//! What is added to, removed from and rewritten in the headers of a request and of its answer. Pure.
//!
//! Guarantees: whatever a client sends, the upstream sees at most one `Authorization` and exactly one `organization`, both
//! ours; no hop-by-hop field crosses in either direction; values of one name keep their order. A new map is built in one
//! pass: `HeaderMap::remove` would reorder what is kept, and looking up each removed name costs more than looking at each
//! present one.
//!
//! Names are compared with `_`, `.` and `-` folded, since CGI-like servers can't tell them apart.

mod request_field;

use std::cmp::Ordering;

use http::{
    HeaderMap, HeaderName, HeaderValue, Version,
    header::{
        AUTHORIZATION, CONNECTION, CONTENT_LENGTH, COOKIE, Entry, HOST, LOCATION, MAX_FORWARDS, TE, TRANSFER_ENCODING, UPGRADE,
    },
};

use request_field::RequestField;

use super::request_id::X_REQUEST_ID;
use crate::{
    careportals::ORGANIZATION_HEADER,
    config::{Api, BaseUrl, Cookies, Origin},
};

/// What the sidecar calls itself in a `Proxy-Status`.
pub(super) const OURS: &str = "careportals-sidecar";
const ORGANIZATION: HeaderName = HeaderName::from_static(ORGANIZATION_HEADER);
/// Options of `Connection` that name no header, or one that is removed anyway.
const FAMILIAR_OPTIONS: [&str; 5] = ["close", "keep-alive", "upgrade", "te", "http2-settings"];

/// The rules of one API, built once.
///
/// It is not `Debug`: fixed header values may be confidential.
pub struct HeaderRules {
    host: HeaderValue,
    cookies: Cookies,
    required: Option<HeaderName>,
    fixed: Vec<(HeaderName, HeaderValue)>,
    upstream: BaseUrl,
    /// The prefix of the path, without the last slash; empty for none.
    prefix: String,
}

impl HeaderRules {
    /// The rules of `api`. `upstream_authority`: the `Host` that its upstream is sent.
    #[must_use]
    pub fn new(api: &Api, upstream_authority: HeaderValue) -> Self {
        let prefix = api.prefix.as_ref().map_or("", |prefix| prefix.as_str());
        Self {
            host: upstream_authority,
            cookies: api.cookies,
            required: api.require_header.as_ref().map(|required| required.name.clone()),
            // The settings refuse these names already; exactly one of each goes out even if they did not.
            fixed: api.headers.iter().filter(|(name, _)| !is_ours(bytes_of(name))).cloned().collect(),
            upstream: api.upstream.clone(),
            prefix: prefix.trim_end_matches('/').to_owned(),
        }
    }
}

/// The two fields that a request carries of its account; both come from one log-in.
#[derive(Clone, Copy)]
pub(super) struct AccountFields<'a> {
    /// `Bearer <token>`; `None` for an account that does not log in.
    pub(super) authorization: Option<&'a HeaderValue>,
    /// The account's organization.
    pub(super) organization: &'a HeaderValue,
}

/// How a body is delimited towards the upstream, whatever the client said about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// There is no body.
    None,
    /// It has this many bytes.
    Length(u64),
    /// Its length is unknown.
    Chunked,
}

/// Adds to `head`, which is empty, the headers that the upstream gets for those of `client`, which came in `version`. `request_id`
/// replaces the client's own.
///
/// The request's id and the account's fields are added last and always, so that nothing a client writes
/// (`Connection: authorization`) removes them.
#[must_use]
pub(super) fn to_upstream(
    mut head: HeaderMap,
    rules: &HeaderRules,
    client: &HeaderMap,
    version: Version,
    account: AccountFields<'_>,
    framing: Framing,
    request_id: HeaderValue,
) -> HeaderMap {
    let named = NamedByConnection::in_headers(client);
    let (mut content_length, mut wants_trailers) = (None, false);
    // For `Host`, the request's id and the account's two; a client's own `Host` leaves room for `Connection`.
    head.reserve(client.keys_len() + rules.fixed.len() + 4);
    head.append(HOST, rules.host.clone());
    for (name, value) in client {
        let bytes = bytes_of(name);
        match RequestField::of(bytes) {
            RequestField::Removed => continue,
            RequestField::ContentLength => {
                content_length = Some(value);
                continue;
            }
            RequestField::Te => {
                wants_trailers |= *name == TE && lists(value, "trailers");
                continue;
            }
            RequestField::Cookie if rules.cookies == Cookies::Strip => continue,
            RequestField::Cookie if version == Version::HTTP_2 && *name == COOKIE && !rules.sets_or_requires(bytes) => {
                if !head.contains_key(COOKIE) {
                    head.append(COOKIE, one_cookie_line(client));
                }
                continue;
            }
            RequestField::Cookie | RequestField::Trailer | RequestField::Other => {}
        }
        if !rules.sets_or_requires(bytes) && !named.contains(bytes) {
            head.append(name.clone(), value.clone());
        }
    }
    match framing {
        Framing::None => {}
        Framing::Length(length) => {
            head.append(CONTENT_LENGTH, length_value(length, content_length));
        }
        Framing::Chunked => {
            head.append(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
    }
    if wants_trailers {
        // The option keeps the next hop from passing the field on (RFC 9110, 10.1.4). HTTP/2 has no such option.
        head.append(CONNECTION, HeaderValue::from_static("te"));
        head.append(TE, HeaderValue::from_static("trailers"));
    }
    for (name, value) in &rules.fixed {
        head.append(name.clone(), value.clone());
    }
    head.append(X_REQUEST_ID, request_id);
    if let Some(authorization) = account.authorization {
        head.append(AUTHORIZATION, authorization.clone());
    }
    head.append(ORGANIZATION, account.organization.clone());
    head
}

/// How many more times an OPTIONS request may be passed on (RFC 9110, 7.6.2). `None`: it does not say so in one number.
#[must_use]
pub(super) fn max_forwards(head: &HeaderMap) -> Option<u64> {
    let mut values = head.get_all(MAX_FORWARDS).iter();
    let (Some(only), None) = (values.next(), values.next()) else { return None };
    let is_number = !only.is_empty() && only.as_bytes().iter().all(u8::is_ascii_digit);
    // A number beyond 64 bits counts as the largest one: "the recipient's maximum supported value".
    is_number.then(|| only.to_str().ok()?.parse().ok()).map(|number| number.unwrap_or(u64::MAX))
}

/// Counts one forwarding of an OPTIONS request.
pub(super) fn count_forwarding(head: &mut HeaderMap) {
    if let Some(left) = max_forwards(head) {
        head.insert(MAX_FORWARDS, HeaderValue::from(left.saturating_sub(1)));
    }
}

/// The headers that the client gets for those of `upstream`, with `request_id` in place of one that the upstream gave. If there
/// is nothing to remove, the others are returned as they came.
///
/// `Content-Length` stays as sent, since answers to HEAD and 304 have one without a body. It is removed beside
/// `Transfer-Encoding`, where it means nothing (RFC 9112, 6.3), and if it does not belong there, or the client would expect a
/// body by it (`misread`). `named`: what `upstream` names by `Connection`.
#[must_use]
pub(super) fn to_client(
    rules: &HeaderRules,
    upstream: HeaderMap,
    named: &NamedByConnection,
    misread: bool,
    request_id: HeaderValue,
) -> HeaderMap {
    let (mut clean, mut redirects, mut chunked, mut has_proxy_status) = (!misread, false, misread, false);
    for name in upstream.keys() {
        clean &= !rules.removes_from_answer(name, named);
        redirects |= *name == LOCATION;
        chunked |= *name == TRANSFER_ENCODING;
        has_proxy_status |= is_proxy_status(name);
    }
    let mut head = if clean { upstream } else { without_removed(rules, upstream, named, chunked) };
    head.insert(X_REQUEST_ID, request_id);
    if redirects && let Entry::Occupied(mut location) = head.entry(LOCATION) {
        for value in location.iter_mut() {
            if let Some(ours) = rules.location(value.as_bytes()) {
                *value = ours;
            }
        }
    }
    if has_proxy_status { only(&head, |name, value| !imitates(name, value)) } else { head }
}

/// Whether it is `Proxy-Status` (RFC 9209). Those of proxies behind the upstream pass.
fn is_proxy_status(name: &HeaderName) -> bool {
    same_name(bytes_of(name), b"proxy-status")
}

/// Whether clients would take the upstream's answer for one of the sidecar's own.
fn imitates(name: &HeaderName, value: &HeaderValue) -> bool {
    is_proxy_status(name) && value.as_bytes().windows(OURS.len()).any(|part| part.eq_ignore_ascii_case(OURS.as_bytes()))
}

/// The trailers of a request that pass: none that the sidecar owns, none that frames, routes or identifies, and none that the
/// head has `named` by `Connection` (RFC 9110, 7.6.1).
#[must_use]
pub(super) fn trailers_to_upstream(rules: &HeaderRules, named: &NamedByConnection, trailers: &HeaderMap) -> HeaderMap {
    let passes = |name: &HeaderName, _: &HeaderValue| {
        let bytes = bytes_of(name);
        matches!(RequestField::of(bytes), RequestField::Other) && !rules.sets_or_requires(bytes) && !named.contains(bytes)
    };
    only(trailers, passes)
}

/// The trailers of an answer that pass. `named`: what its head names by `Connection`.
#[must_use]
pub(super) fn trailers_to_client(rules: &HeaderRules, named: &NamedByConnection, trailers: &HeaderMap) -> HeaderMap {
    const NEVER: [&str; 3] = ["trailer", "set-cookie", "set-cookie2"];
    let passes = |name: &HeaderName, value: &HeaderValue| {
        let bytes = bytes_of(name);
        let never = is_ours(bytes) || NEVER.iter().any(|never| same_name(bytes, never.as_bytes()));
        !never && !rules.removes_from_answer(name, named) && !imitates(name, value)
    };
    only(trailers, passes)
}

fn only(fields: &HeaderMap, passes: impl Fn(&HeaderName, &HeaderValue) -> bool) -> HeaderMap {
    fields.iter().filter(|(name, value)| passes(name, value)).map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// Whether a request asks for a WebSocket and for nothing else (RFC 6455, 4.1).
#[must_use]
pub(super) fn asks_for_websocket(client: &HeaderMap) -> bool {
    let mut protocols = client.get_all(UPGRADE).iter();
    let (Some(only), None) = (protocols.next(), protocols.next()) else { return false };
    is_websocket(only) && client.get_all(CONNECTION).iter().any(|line| lists(line, "upgrade"))
}

fn is_websocket(protocol: &HeaderValue) -> bool {
    protocol.as_bytes().eq_ignore_ascii_case(b"websocket")
}

/// Adds the two fields that make a head ask for a WebSocket, or agree to one.
pub(super) fn upgrade_to_websocket(head: &mut HeaderMap) {
    head.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    head.insert(UPGRADE, HeaderValue::from_static("websocket"));
}

/// `host[:port]`, as in `Host` and in a URL without user information.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct HostAndPort<'a> {
    /// As written, without an IPv6 literal's brackets.
    pub(super) host: &'a [u8],
    /// Whether there were brackets.
    pub(super) bracketed: bool,
    /// `None` when absent or empty, which both mean the scheme's own (RFC 3986, 6.2.3).
    pub(super) port: Option<u16>,
}

impl<'a> HostAndPort<'a> {
    /// `None` for text of another shape. User information has another shape: `@` can't be part of a port, and a host with one
    /// equals no name that it is compared with.
    pub(super) fn parse(text: &'a [u8]) -> Option<Self> {
        let bracketed = text.first() == Some(&b'[');
        let (host, rest) = if bracketed {
            let end = text.iter().position(|&byte| byte == b']')?;
            (&text[1..end], &text[end + 1..])
        } else {
            text.split_at(text.iter().position(|&byte| byte == b':').unwrap_or(text.len()))
        };
        let port = match rest {
            [] | [b':'] => None,
            [b':', digits @ ..] if digits.iter().all(u8::is_ascii_digit) => Some(std::str::from_utf8(digits).ok()?.parse().ok()?),
            _ => return None,
        };
        Some(Self { host, bracketed, port })
    }
}

impl HeaderRules {
    /// Whether the sidecar itself sets a header of that name, or asks clients for it.
    fn sets_or_requires(&self, name: &[u8]) -> bool {
        let ours = self.fixed.iter().map(|(ours, _)| ours).chain(&self.required);
        ours.into_iter().any(|ours| same_name(name, bytes_of(ours)))
    }

    /// `Content-Length` is never removed because `Connection` names it: it is the answer's framing.
    fn removes_from_answer(&self, name: &HeaderName, named: &NamedByConnection) -> bool {
        let bytes = bytes_of(name);
        let is = |ours: &str| same_name(bytes, ours.as_bytes());
        let removed = match bytes.first() {
            Some(b'a') => is("alt-svc"),
            Some(b'c') => is("connection"),
            Some(b'k') => is("keep-alive"),
            Some(b'p') => is("proxy-connection") || is("proxy-authenticate"),
            Some(b's') => self.cookies == Cookies::Strip && (is("set-cookie") || is("set-cookie2")),
            Some(b't') => is("te") || is("transfer-encoding"),
            Some(b'u') => is("upgrade"),
            // One that is written as ours is replaced, which moves no other field.
            Some(b'x') => is("x-request-id") && *name != X_REQUEST_ID,
            _ => false,
        };
        removed || (named.contains(bytes) && *name != CONTENT_LENGTH)
    }

    /// Where a redirect leads on the client's side; `None` when it stays as it is.
    fn location(&self, value: &[u8]) -> Option<HeaderValue> {
        let (base, prefix) = (self.upstream.base_path.as_bytes(), self.prefix.as_bytes());
        let moved = !(base.is_empty() && prefix.is_empty());
        if !moved && is_path_absolute(value) {
            return None;
        }
        let target = target_at(&self.upstream.origin, value)?;
        let path = &target[..target.iter().position(|&byte| matches!(byte, b'?' | b'#')).unwrap_or(target.len())];
        let rest = target.strip_prefix(base)?;
        let whole_segments = matches!(rest.first(), None | Some(b'/' | b'?' | b'#'));
        // A dot segment would climb out of the base or the prefix, and browsers take `\` for `/` and skip blanks.
        let climbs = moved && path.split(|&b| b == b'/').any(is_dot_segment);
        let odd = path.contains(&b'\\') || value.iter().any(|&byte| byte <= b' ' || byte == 0x7f);
        // `//x` would name another host.
        let leaves = prefix.is_empty() && rest.starts_with(b"//");
        if !whole_segments || climbs || odd || leaves {
            return None;
        }
        let root: &[u8] = if prefix.is_empty() && !rest.starts_with(b"/") { b"/" } else { b"" };
        HeaderValue::from_bytes(&[prefix, root, rest].concat()).ok()
    }
}

/// Path, query and fragment of an absolute, scheme-relative or path-absolute reference to `origin`.
fn target_at<'a>(origin: &Origin, reference: &'a [u8]) -> Option<&'a [u8]> {
    if is_path_absolute(reference) {
        return Some(reference);
    }
    let scheme = origin.scheme.as_str().as_bytes();
    let after_scheme = match reference.split_at_checked(scheme.len()) {
        Some((written, rest)) if written.eq_ignore_ascii_case(scheme) => rest.strip_prefix(b":")?,
        _ => reference,
    };
    let rest = after_scheme.strip_prefix(b"//")?;
    let end = rest.iter().position(|byte| matches!(byte, b'/' | b'?' | b'#')).unwrap_or(rest.len());
    let (authority, target) = rest.split_at(end);
    let authority = HostAndPort::parse(authority)?;
    let same = authority.host.eq_ignore_ascii_case(origin.host.as_bytes())
        && authority.bracketed == origin.host.contains(':')
        && authority.port.unwrap_or(origin.scheme.default_port()) == origin.port;
    same.then_some(target)
}

fn is_path_absolute(reference: &[u8]) -> bool {
    reference.starts_with(b"/") && !reference.starts_with(b"//")
}

/// The names that `Connection` lists, read leniently: any byte that can't be part of a name separates two.
///
/// [`FAMILIAR_OPTIONS`] are left out, so that for nearly every message this is empty and allocates nothing.
#[derive(Default)]
pub(super) struct NamedByConnection(Vec<Vec<u8>>);

impl NamedByConnection {
    pub(super) fn in_headers(headers: &HeaderMap) -> Self {
        let mut names = Vec::new();
        for line in headers.get_all(CONNECTION) {
            for name in line.as_bytes().split(|byte| !is_name_byte(*byte)) {
                let familiar = FAMILIAR_OPTIONS.iter().any(|option| name.eq_ignore_ascii_case(option.as_bytes()));
                if !name.is_empty() && !familiar {
                    names.push(name.to_ascii_lowercase());
                }
            }
        }
        names.sort_unstable_by(|a, b| compare_names(a, b));
        Self(names)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn contains(&self, name: &[u8]) -> bool {
        !self.0.is_empty() && self.0.binary_search_by(|named| compare_names(named, name)).is_ok()
    }
}

/// Moves the fields that stay into a new map; no name or value is copied.
fn without_removed(rules: &HeaderRules, upstream: HeaderMap, named: &NamedByConnection, chunked: bool) -> HeaderMap {
    let mut head = HeaderMap::with_capacity(upstream.keys_len());
    let mut fields = upstream.into_iter().peekable();
    while let Some((Some(name), value)) = fields.next() {
        // The further values of a name come without it.
        if rules.removes_from_answer(&name, named) || (chunked && name == CONTENT_LENGTH) {
            while fields.next_if(|(name, _)| name.is_none()).is_some() {}
            continue;
        }
        let mut kept = match head.entry(name) {
            Entry::Vacant(vacant) => vacant.insert_entry(value),
            Entry::Occupied(mut occupied) => {
                occupied.append(value);
                occupied
            }
        };
        while let Some((_, further)) = fields.next_if(|(name, _)| name.is_none()) {
            kept.append(further);
        }
    }
    head
}

/// Whether a comma-separated field has that member, in any case.
fn lists(value: &HeaderValue, member: &str) -> bool {
    value.as_bytes().split(|byte| *byte == b',').any(|item| item.trim_ascii().eq_ignore_ascii_case(member.as_bytes()))
}

/// Joins cookies. HTTP/2 clients may send each one in a field of its own; HTTP/1.1 has one field (RFC 9113, 8.2.3).
fn one_cookie_line(client: &HeaderMap) -> HeaderValue {
    let lines: Vec<&[u8]> = client.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    HeaderValue::from_bytes(&lines.join(&b"; "[..])).expect("values and a separator, all of them legal, make a legal value")
}

/// The client's own value if it is what we would write: sharing it allocates nothing.
fn length_value(length: u64, written: Option<&HeaderValue>) -> HeaderValue {
    let same = |value: &&HeaderValue| {
        let digits = value.as_bytes();
        matches!(digits, [b'0'] | [b'1'..=b'9', ..])
            && digits.iter().all(u8::is_ascii_digit)
            && value.to_str().is_ok_and(|digits| digits.parse() == Ok(length))
    };
    written.filter(same).cloned().unwrap_or_else(|| HeaderValue::from(length))
}

/// Whether no setting may give the name a value, since it carries the account, the framing or the request's id.
fn is_ours(name: &[u8]) -> bool {
    [ORGANIZATION_HEADER, "authorization", "host", "content-length", "transfer-encoding", "x-request-id"]
        .iter()
        .any(|ours| same_name(name, ours.as_bytes()))
}

pub(super) fn bytes_of(name: &HeaderName) -> &[u8] {
    name.as_str().as_bytes()
}

/// Whether two names are equal with `_`, `.` and `-` folded, as servers do that pass headers on as variables. `HeaderName`s are
/// lower case already.
pub(super) fn same_name(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(&a, &b)| fold(a) == fold(b))
}

fn compare_names(a: &[u8], b: &[u8]) -> Ordering {
    a.iter().map(|&byte| fold(byte)).cmp(b.iter().map(|&byte| fold(byte)))
}

const fn fold(byte: u8) -> u8 {
    if matches!(byte, b'_' | b'.') { b'-' } else { byte }
}

/// Whether it is a `tchar` (RFC 9110, 5.6.2).
const fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(byte, b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~')
}

/// Whether it is `.` or `..`, with dots encoded or not.
fn is_dot_segment(segment: &[u8]) -> bool {
    let after_dot = |text: &'_ [u8]| -> Option<usize> {
        match text {
            [b'.', ..] => Some(1),
            [b'%', b'2', b'e' | b'E', ..] => Some(3),
            _ => None,
        }
    };
    let Some(first) = after_dot(segment) else { return false };
    let rest = &segment[first..];
    rest.is_empty() || after_dot(rest).is_some_and(|second| rest.len() == second)
}

#[cfg(test)]
pub(super) mod tests;
