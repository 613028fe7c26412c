//! Header rules in both directions, held against a second writing of the contract.
//!
//! An input is lines, each beginning with what it is: `c` a client's header, `u` an upstream's, `t` a trailer, `f` a fixed
//! header of the settings, `r` the required header, `n` the body's length (`?`: unknown), `l` base path, `p` prefix,
//! `k` cookies pass, `2` HTTP/2, `x` the client would misread a length.

use std::cell::OnceCell;

use careportals_sidecar::{
    config::{BaseUrl, Cookies, Origin, RequireHeader, Scheme},
    metrics::Format,
    path::{Prefix, is_canonical},
    proxy::{
        HeaderRules,
        internal::{REQUEST_ID, head_to_client, head_to_upstream, request_id_and_websocket, trailers},
    },
};
use http::{
    HeaderMap, HeaderName, HeaderValue, Version,
    header::{ACCEPT, CONTENT_LENGTH, LOCATION, TRANSFER_ENCODING},
};

use crate::shared::{folded, is_original, lines, with_config};

const TOKEN: &str = "tok3n.of.ours";
const AUTHORIZATION: &str = "Bearer tok3n.of.ours";
const HOST: &str = "api.example.com";

#[derive(Default)]
struct Input {
    client: HeaderMap,
    upstream: HeaderMap,
    trailers: HeaderMap,
    fixed: Vec<(HeaderName, HeaderValue)>,
    required: Option<HeaderName>,
    length: Option<Result<u64, ()>>,
    base: String,
    prefix: Option<Prefix>,
    cookies_pass: bool,
    http2: bool,
    misread: bool,
}

/// Any bytes.
pub fn check(input: &[u8]) {
    let input = read(input);
    let rules = with_config(|config| {
        let api = &mut config.apis[0];
        let origin = Origin { scheme: Scheme::Https, host: HOST.to_owned(), rooted: false, port: 443 };
        api.upstream = BaseUrl { origin, base_path: input.base.clone() };
        api.prefix.clone_from(&input.prefix);
        api.cookies = if input.cookies_pass { Cookies::Pass } else { Cookies::Strip };
        api.headers.clone_from(&input.fixed);
        api.require_header = input.required.clone().map(|name| RequireHeader { name, value: None });
        let rules = HeaderRules::new(api, HeaderValue::from_static(HOST));
        api.require_header = None;
        rules
    });
    check_request(&rules, &input);
    check_answer(&rules, &input);
    check_trailers(&rules, &input);
    check_accept(&input.client);
    let (id, _) = request_id_and_websocket(&input.client);
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    assert!(id.is_none_or(|id| (1..=64).contains(&id.len()) && id.bytes().all(legal)));
}

fn read(input: &[u8]) -> Input {
    let mut read = Input::default();
    for (kind, line) in lines(input).take(400) {
        let text = std::str::from_utf8(line).unwrap_or_default();
        match kind {
            b'c' => put(&mut read.client, line),
            b'u' => put(&mut read.upstream, line),
            b't' => put(&mut read.trailers, line),
            b'f' => {
                let mut one = HeaderMap::new();
                put(&mut one, line);
                // Those that the settings take, each once.
                let free = |name: &HeaderName| {
                    !RESERVED.contains(&folded(name.as_str().as_bytes()).as_str())
                        && !read.fixed.iter().any(|(known, _)| known == name)
                };
                let taken: Vec<_> = one.into_iter().filter_map(|(name, value)| Some((name?, value))).collect();
                read.fixed.extend(taken.into_iter().filter(|(name, _)| free(name)).collect::<Vec<_>>());
            }
            b'r' => {
                let name = HeaderName::from_bytes(line).ok();
                read.required = name.filter(|name| !RESERVED[..15].contains(&folded(name.as_str().as_bytes()).as_str()));
            }
            b'n' if text == "?" => read.length = Some(Err(())),
            b'n' => read.length = text.parse().ok().map(Ok),
            b'l' if is_canonical(text) && !text.ends_with('/') => text.clone_into(&mut read.base),
            b'p' => read.prefix = Prefix::parse(text).ok(),
            b'k' => read.cookies_pass = true,
            b'2' => read.http2 = true,
            b'x' => read.misread = true,
            _ => {}
        }
    }
    read
}

/// Names that settings refuse to give a value; the first 15 also to require.
const RESERVED: [&str; 18] = [
    "host",
    "connection",
    "content-length",
    "expect",
    "http2-settings",
    "keep-alive",
    "proxy",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "x-request-id",
    "authorization",
    "organization",
    "cookie",
];

fn put(map: &mut HeaderMap, line: &[u8]) {
    let Some(colon) = line.iter().position(|&byte| byte == b':') else { return };
    let (name, value) = (HeaderName::from_bytes(&line[..colon]), HeaderValue::from_bytes(line[colon + 1..].trim_ascii()));
    if let (Ok(name), Ok(value)) = (name, value) {
        map.append(name, value);
    }
}

/// The names that `Connection` lists, however they are separated.
fn named_by_connection(head: &HeaderMap) -> Vec<String> {
    let separates = |byte: &u8| !byte.is_ascii_alphanumeric() && !b"!#$%&'*+-.^_`|~".contains(byte);
    let lists = head.get_all("connection").iter().flat_map(|line| line.as_bytes().split(separates));
    lists
        .map(folded)
        .filter(|name| !["", "close", "keep-alive", "upgrade", "te", "http2-settings"].contains(&name.as_str()))
        .collect()
}

/// Gone from every request, by its folded name.
fn is_removed(name: &str) -> bool {
    const REMOVED: [&str; 29] = [
        "authorization",
        "organization",
        "origin",
        "host",
        "connection",
        "keep-alive",
        "te",
        "transfer-encoding",
        "content-length",
        "upgrade",
        "http2-settings",
        "expect",
        "proxy",
        "forwarded",
        "x-real-ip",
        "x-client-ip",
        "true-client-ip",
        "cf-connecting-ip",
        "x-cluster-client-ip",
        "x-http-method-override",
        "x-http-method",
        "x-method-override",
        "x-rewrite-url",
        "x-request-id",
        "x-forwarded",
        "fastly-client-ip",
        "fly-client-ip",
        "x-envoy-original-path",
        "x-waws-unencoded-url",
    ];
    REMOVED.contains(&name) || ["proxy-", "x-forwarded-"].iter().any(|family| name.starts_with(family)) || is_original(name)
}

fn values<'a>(head: &'a HeaderMap, name: &HeaderName) -> Vec<&'a HeaderValue> {
    head.get_all(name).iter().collect()
}

fn check_request(rules: &HeaderRules, input: &Input) {
    let version = if input.http2 { Version::HTTP_2 } else { Version::HTTP_11 };
    let ours = [&HeaderValue::from_static(AUTHORIZATION), &HeaderValue::from_static("acme")];
    let head = head_to_upstream(rules, &input.client, version, ours, input.length);
    let id = format!("{REQUEST_ID:016x}");
    for (name, value) in [("authorization", AUTHORIZATION), ("organization", "acme"), ("host", HOST), ("x-request-id", &id)] {
        let found: Vec<_> = head.iter().filter(|(other, _)| folded(other.as_str().as_bytes()) == name).collect();
        assert!(matches!(found[..], [(_, only)] if only == value), "{name}: {found:?}");
    }
    let named = named_by_connection(&input.client);
    let is_set = |name: &str| input.fixed.iter().any(|(fixed, _)| folded(fixed.as_str().as_bytes()) == name);
    let is_required = |name: &str| input.required.iter().any(|required| folded(required.as_str().as_bytes()) == name);
    for name in input.client.keys() {
        let plain = folded(name.as_str().as_bytes());
        let cookie = matches!(plain.as_str(), "cookie" | "cookie2");
        let removed = is_removed(&plain) || (cookie && !input.cookies_pass) || named.contains(&plain);
        // What is ours is checked elsewhere.
        if is_set(&plain)
            || ["authorization", "organization", "host", "content-length", "transfer-encoding", "x-request-id"].contains(&&*plain)
        {
            continue;
        }
        if input.http2 && name == "cookie" && !removed && !is_required(&plain) {
            assert_eq!(values(&head, name).len(), 1, "cookies of HTTP/2 become one line");
            continue;
        }
        if ["te", "connection"].contains(&&*plain) {
            continue;
        }
        let expected = if removed || is_required(&plain) { Vec::new() } else { values(&input.client, name) };
        assert_eq!(values(&head, name), expected, "{name}");
    }
    for name in head.keys() {
        let known = input.client.contains_key(name)
            || input.fixed.iter().any(|(fixed, _)| fixed == name)
            || [
                "host",
                "authorization",
                "organization",
                "content-length",
                "transfer-encoding",
                "te",
                "connection",
                "x-request-id",
            ]
            .contains(&name.as_str());
        assert!(known, "{name} comes from nowhere");
    }
    for (name, value) in &input.fixed {
        assert_eq!(values(&head, name), [value], "a fixed header is there once");
        let plain = folded(name.as_str().as_bytes());
        let alike = head.keys().filter(|other| folded(other.as_str().as_bytes()) == plain).count();
        let fixed = input.fixed.iter().filter(|(other, _)| folded(other.as_str().as_bytes()) == plain).count();
        assert_eq!(alike, fixed, "{name} has a namesake");
    }
    check_framing(&head, input);
}

/// How the body ends is said once, and by us; nothing else of the connection is passed on but what trailers need.
fn check_framing(head: &HeaderMap, input: &Input) {
    let count = |name: &str| {
        head.keys()
            .filter(|other| folded(other.as_str().as_bytes()) == name)
            .map(|other| head.get_all(other).iter().count())
            .sum::<usize>()
    };
    let (lengths, codings) = match input.length {
        None => (0, 0),
        Some(Ok(_)) => (1, 0),
        Some(Err(())) => (0, 1),
    };
    assert_eq!((count("content-length"), count("transfer-encoding")), (lengths, codings));
    if let Some(Ok(length)) = input.length {
        assert_eq!(head[CONTENT_LENGTH], length.to_string().as_str());
    }
    assert!(codings == 0 || head[TRANSFER_ENCODING] == "chunked");
    let wants = |line: &HeaderValue| {
        line.as_bytes().split(|&byte| byte == b',').any(|item| item.trim_ascii().eq_ignore_ascii_case(b"trailers"))
    };
    let trailers = usize::from(input.client.get_all("te").iter().any(wants));
    assert_eq!((count("te"), count("connection")), (trailers, trailers));
    assert!(trailers == 0 || (head["te"] == "trailers" && head["connection"] == "te"));
    for gone in ["keep-alive", "upgrade", "http2-settings", "expect"] {
        assert_eq!(count(gone), 0, "{gone}");
    }
}

/// Of an answer, by its folded name.
const HOPS: [&str; 8] =
    ["connection", "keep-alive", "proxy-connection", "proxy-authenticate", "te", "transfer-encoding", "upgrade", "alt-svc"];

fn check_answer(rules: &HeaderRules, input: &Input) {
    let upstream = &input.upstream;
    let (head, hidden) = head_to_client(rules, upstream.clone(), input.misread, TOKEN.as_bytes());
    let holds = |value: &HeaderValue| value.as_bytes().windows(TOKEN.len()).any(|part| part == TOKEN.as_bytes());
    assert!(!head.values().any(holds), "the token gets out");
    let named = named_by_connection(upstream);
    let ids: Vec<_> = head.iter().filter(|(name, _)| folded(name.as_str().as_bytes()) == "x-request-id").collect();
    assert!(matches!(ids[..], [(_, only)] if *only == format!("{REQUEST_ID:016x}")), "{ids:?}");
    let mut redacted = 0;
    for name in upstream.keys() {
        let plain = folded(name.as_str().as_bytes());
        if plain == "x-request-id" {
            continue;
        }
        let cookie = !input.cookies_pass && matches!(plain.as_str(), "set-cookie" | "set-cookie2");
        let length = name == "content-length";
        let meaningless = length && (input.misread || upstream.contains_key(TRANSFER_ENCODING));
        if HOPS.contains(&plain.as_str()) || cookie || meaningless || (named.contains(&plain) && !length) {
            assert!(!head.contains_key(name), "{name} passes");
            continue;
        }
        let (mut sent, got) = (values(upstream, name), values(&head, name));
        sent.retain(|sent| !imitates(&plain, sent));
        assert_eq!(sent.len(), got.len(), "{name}");
        for (sent, got) in sent.into_iter().zip(got) {
            let home = at_home(input, sent).filter(|_| name == LOCATION);
            // A prefix may look like a token, too.
            let is_hidden = got == "[redacted]" && (holds(sent) || home.as_ref().is_some_and(|home| home.contains(TOKEN)));
            redacted += u64::from(is_hidden);
            assert!(is_hidden || sent == got || home.is_some_and(|home| home == as_text(got)), "{name}: {sent:?} {got:?}");
        }
    }
    assert_eq!(redacted, hidden, "each value that is hidden is counted");
    assert!(head.keys().all(|name| name == "x-request-id" || upstream.contains_key(name)), "a header comes from nowhere");
}

/// It speaks in the sidecar's name.
fn imitates(plain: &str, value: &HeaderValue) -> bool {
    plain == "proxy-status" && as_text(value).to_ascii_lowercase().contains("careportals-sidecar")
}

/// Where a redirect leads on our side: where the upstream meant, and there however a browser reads it. Each character is
/// a byte.
fn at_home(input: &Input, sent: &HeaderValue) -> Option<String> {
    let prefix = input.prefix.as_ref().map_or("", Prefix::as_str);
    let sent = as_text(sent);
    let rest = target_at_upstream(&sent)?.strip_prefix(input.base.as_str())?;
    let root = if prefix.is_empty() && !rest.starts_with('/') { "/" } else { "" };
    let home = format!("{prefix}{root}{rest}");
    let whole = rest.is_empty() || rest.starts_with(['/', '?', '#']);
    // Browsers drop tabs, blanks at either end, and take a backslash for a slash.
    let path = home.split(['?', '#']).next().unwrap_or_default();
    let names_no_host = home.starts_with('/') && !home.starts_with("//") && !path.contains('\\');
    let is_odd = home.bytes().any(|byte| byte <= b' ' || byte == 0x7f);
    let mut segments: Vec<&str> = Vec::new();
    for segment in path.split('/').skip(1) {
        match segment.to_ascii_lowercase().replace("%2e", ".").as_str() {
            "." => {}
            ".." => drop(segments.pop()),
            _ => segments.push(segment),
        }
    }
    let stays = prefix.split('/').skip(1).eq(segments.iter().copied().take(prefix.split('/').count() - 1));
    (whole && names_no_host && !is_odd && stays).then_some(home)
}

fn as_text(value: &HeaderValue) -> String {
    value.as_bytes().iter().copied().map(char::from).collect()
}

/// What a reference asks of the upstream's origin; `None` if it leads elsewhere.
fn target_at_upstream(reference: &str) -> Option<&str> {
    if reference.starts_with('/') && !reference.starts_with("//") {
        return Some(reference);
    }
    let after_scheme = match reference.split_at_checked(6) {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https:") => rest,
        _ => reference,
    };
    let rest = after_scheme.strip_prefix("//")?;
    let (authority, target) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let (host, port) = authority.split_once(':').unwrap_or((authority, ""));
    (host.eq_ignore_ascii_case(HOST) && (port.is_empty() || port.parse() == Ok(443_u16))).then_some(target)
}

/// A scraper gets OpenMetrics only if it names it, and gets it if it also asks for it plainly.
fn check_accept(client: &HeaderMap) {
    const NAME: &str = "application/openmetrics-text";
    let lines: Vec<&str> = client.get_all(ACCEPT).iter().filter_map(|line| line.to_str().ok()).collect();
    let is_named = lines.iter().any(|line| line.to_ascii_lowercase().contains(NAME));
    assert!(is_named || Format::accepted(lines.iter().copied()) == Format::Prometheus, "{lines:?}");
    assert_eq!(Format::accepted(lines.iter().copied().chain([NAME])), Format::OpenMetrics, "{lines:?}");
}

fn check_trailers(rules: &HeaderRules, input: &Input) {
    thread_local! {
        static NEVER: OnceCell<Vec<&'static str>> = const { OnceCell::new() };
    }
    let [up, down] = trailers(rules, &input.trailers);
    NEVER.with(|never| {
        let never = never.get_or_init(|| {
            vec![
                "authorization",
                "organization",
                "host",
                "content-length",
                "transfer-encoding",
                "trailer",
                "connection",
                "te",
                "upgrade",
                "keep-alive",
            ]
        });
        for name in up.keys().chain(down.keys()) {
            assert!(!never.contains(&folded(name.as_str().as_bytes()).as_str()), "{name} passes as a trailer");
        }
    });
    for name in up.keys() {
        let plain = folded(name.as_str().as_bytes());
        let set = input.fixed.iter().map(|(fixed, _)| fixed).chain(&input.required);
        assert!(!is_removed(&plain) && !["cookie", "cookie2"].contains(&&*plain), "{name} passes as a trailer");
        assert!(set.into_iter().all(|ours| folded(ours.as_str().as_bytes()) != plain), "{name} passes as a trailer");
    }
    for name in down.keys() {
        let plain = folded(name.as_str().as_bytes());
        assert!(!["set-cookie", "set-cookie2", "alt-svc", "x-request-id"].contains(&&*plain), "{name} passes as a trailer");
    }
    for (passed, downwards) in [(&up, false), (&down, true)] {
        for name in passed.keys() {
            let mut sent = values(&input.trailers, name);
            sent.retain(|sent| !downwards || !imitates(&folded(name.as_str().as_bytes()), sent));
            assert_eq!(values(passed, name), sent, "a trailer changes on its way");
        }
    }
}
