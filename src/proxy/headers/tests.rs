use std::time::Duration;

use http::header::{COOKIE, ORIGIN};
use proptest::prelude::*;

use super::*;
use crate::{
    config::{AccountId, AllowedHosts, Http2, Limits, RequireHeader, Scheme, Timeouts},
    path::Prefix,
};

/// An API with every setting at its default, for the tests of this folder.
pub(in crate::proxy) fn api() -> Api {
    let second = Duration::from_secs(1);
    Api {
        name: "default".to_owned(),
        account: AccountId(0),
        upstream: Upstream {
            origin: Origin { scheme: Scheme::Https, host: "api.example.com".to_owned(), port: 443 },
            base_path: String::new(),
        },
        listen: Vec::new(),
        allow_non_loopback: false,
        prefix: None,
        allow: None,
        deny: Vec::new(),
        cookies: Cookies::Strip,
        headers: Vec::new(),
        allowed_hosts: AllowedHosts::Names(Vec::new()),
        allowed_origins: Vec::new(),
        require_header: None,
        replay_buffer: 65536,
        retry_idempotency_key: false,
        path_words: Vec::new(),
        socket_mode: 0o660,
        socket_group: None,
        allow_uids: Vec::new(),
        allow_gids: Vec::new(),
        http2: Http2::Off,
        limits: Limits { max_requests: 1024, max_connections: 4096, max_header_bytes: 65536, max_headers: 256 },
        timeouts: Timeouts {
            head: 10 * second,
            connect: 5 * second,
            response: 60 * second,
            body_idle: 60 * second,
            stream_idle: 3600 * second,
            client_idle: 3600 * second,
            pool_idle: 15 * second,
            connection_max_age: 300 * second,
        },
    }
}

fn rules(api: &Api) -> HeaderRules {
    HeaderRules::new(api, HeaderValue::from_static("api.example.com"))
}

fn map(lines: &[(&str, &str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in lines {
        map.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap());
    }
    map
}

fn lines(map: &HeaderMap) -> Vec<(&str, &str)> {
    map.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect()
}

static TOKEN: HeaderValue = HeaderValue::from_static("Bearer ours");
static TENANT: HeaderValue = HeaderValue::from_static("acme");
static OURS: Credentials<'static> = Credentials { authorization: Some(&TOKEN), organization: &TENANT };

#[track_caller]
fn forwards(api: &Api, client: &[(&str, &str)], framing: Framing, expected: &[(&str, &str)]) {
    let head = to_upstream(&rules(api), &map(client), Version::HTTP_11, OURS, framing);
    let mut all = vec![("host", "api.example.com")];
    all.extend(expected);
    all.extend([("authorization", "Bearer ours"), ("organization", "acme")]);
    assert_eq!(lines(&head), all);
}

#[test]
fn what_is_not_removed_passes_in_order() {
    let kept = [
        ("accept", "application/json"),
        ("user-agent", "app/1"),
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ("tracestate", "a=1"),
        ("tracestate", "b=2"),
        ("idempotency-key", "k"),
        ("x-forward", "is another name"),
        ("proxies", "is another name"),
        ("x_custom", "1"),
        ("via", "1.1 someone"),
    ];
    forwards(&api(), &kept, Framing::None, &kept);
}

#[test]
fn what_the_contract_removes_never_reaches_the_upstream() {
    let removed = [
        "Authorization",
        "organization",
        "Cookie",
        "Origin",
        "Connection",
        "Keep-Alive",
        "Proxy-Connection",
        "TE",
        "Transfer-Encoding",
        "Upgrade",
        "HTTP2-Settings",
        "Proxy-Authorization",
        "Proxy-Anything",
        "Proxy",
        "Forwarded",
        "X-Forwarded-For",
        "X-Forwarded-Proto",
        "X-Forwarded-Anything",
        "X-Real-IP",
        "Expect",
        "Host",
        "Content-Length",
    ];
    for name in removed {
        for spelling in [name.to_owned(), name.to_uppercase(), name.replace('-', "_")] {
            forwards(&api(), &[(&spelling, "theirs"), (&spelling, "again"), ("x-a", "1")], Framing::None, &[("x-a", "1")]);
        }
    }
}

#[test]
fn nothing_names_the_proxy_to_the_upstream() {
    let head = to_upstream(&rules(&api()), &HeaderMap::new(), Version::HTTP_11, OURS, Framing::None);
    assert_eq!(lines(&head), [("host", "api.example.com"), ("authorization", "Bearer ours"), ("organization", "acme")]);
}

#[test]
fn an_account_without_log_in_sends_its_organization_only() {
    let ours = Credentials { authorization: None, organization: &TENANT };
    let head = to_upstream(&rules(&api()), &map(&[("authorization", "Bearer theirs")]), Version::HTTP_11, ours, Framing::None);
    assert_eq!(lines(&head), [("host", "api.example.com"), ("organization", "acme")]);
}

#[test]
fn a_secret_stays_marked_as_one() {
    let mut token = TOKEN.clone();
    token.set_sensitive(true);
    let ours = Credentials { authorization: Some(&token), organization: &TENANT };
    assert!(to_upstream(&rules(&api()), &HeaderMap::new(), Version::HTTP_11, ours, Framing::None)[AUTHORIZATION].is_sensitive());
}

#[test]
fn cookies_pass_only_when_asked_to() {
    let mut api = api();
    api.cookies = Cookies::Pass;
    let cookies = [("cookie", "a=1"), ("cookie", "b=2")];
    forwards(&api, &cookies, Framing::None, &cookies);
}

#[test]
fn the_required_header_is_ours_to_read_and_goes_no_further() {
    let mut api = api();
    api.require_header = Some(RequireHeader { name: HeaderName::from_static("x-sidecar"), value: None });
    forwards(&api, &[("X-Sidecar", "yes"), ("x_sidecar", "yes"), ("x-a", "1")], Framing::None, &[("x-a", "1")]);
}

#[test]
fn a_fixed_header_replaces_the_clients() {
    let mut api = api();
    api.headers = vec![
        (ORIGIN, HeaderValue::from_static("https://acme.example.com")),
        (HeaderName::from_static("x-plan"), HeaderValue::from_static("gold")),
    ];
    forwards(
        &api,
        &[("origin", "https://evil.example"), ("X_Plan", "theirs"), ("x-plan", "theirs"), ("x-a", "1")],
        Framing::None,
        &[("x-a", "1"), ("origin", "https://acme.example.com"), ("x-plan", "gold")],
    );
}

#[test]
fn a_fixed_header_can_be_neither_the_bearer_nor_the_framing() {
    let mut api = api();
    for name in ["authorization", "organization", "host", "content-length", "transfer-encoding", "content_length"] {
        api.headers.push((HeaderName::from_static(name), HeaderValue::from_static("x")));
    }
    forwards(&api, &[], Framing::None, &[]);
}

#[test]
fn the_body_is_framed_by_us() {
    let framed = [("content-length", "5"), ("content_length", "6"), ("transfer-encoding", "chunked")];
    forwards(&api(), &framed, Framing::None, &[]);
    forwards(&api(), &framed, Framing::Chunked, &[("transfer-encoding", "chunked")]);
    for written in ["5", "+5", "05", "7", "5, 5", ""] {
        forwards(&api(), &[("content-length", written)], Framing::Length(5), &[("content-length", "5")]);
    }
    forwards(&api(), &[], Framing::Length(0), &[("content-length", "0")]);
}

#[test]
fn connection_removes_what_it_names_however_it_is_written() {
    for connection in
        ["x-a", "X-A", "close, x-a", "close,,X-A ;", "\"x-a\"", "keep-alive x-a", "x_a", "\tx-a\t", "upgrade,x-b,x-a,x-c"]
    {
        forwards(
            &api(),
            &[("x-a", "1"), ("x-a", "2"), ("X_A", "3"), ("x-ab", "4"), ("connection", connection)],
            Framing::None,
            &[("x-ab", "4")],
        );
    }
    let several = [("connection", "close"), ("x-a", "1"), ("connection", "x-b, x-a"), ("x-b", "2"), ("x-c", "3")];
    forwards(&api(), &several, Framing::None, &[("x-c", "3")]);
}

#[test]
fn connection_removes_nothing_that_the_sidecar_adds() {
    let mut api = api();
    api.headers = vec![(HeaderName::from_static("x-plan"), HeaderValue::from_static("gold"))];
    forwards(
        &api,
        &[
            ("connection", "authorization, organization, host, content-length, transfer-encoding, x-plan"),
            ("connection", "Authorization, ORGANIZATION"),
            ("content-length", "3"),
        ],
        Framing::Length(3),
        &[("content-length", "3"), ("x-plan", "gold")],
    );
}

#[test]
fn a_request_id_passes_when_it_is_one_and_well_formed() {
    let longest = "a".repeat(64);
    for good in ["1", "AZaz09._-", longest.as_str()] {
        forwards(&api(), &[("X-Request-Id", good)], Framing::None, &[("x-request-id", good)]);
        assert_eq!(request_id(&map(&[("x-request-id", good)])), Some(good));
    }
    let too_long = "a".repeat(65);
    for bad in ["", "a b", "a,b", "a/b", "a\"b", "ä", too_long.as_str()] {
        let mut client = HeaderMap::new();
        client.append(X_REQUEST_ID, HeaderValue::from_bytes(bad.as_bytes()).unwrap());
        assert_eq!(request_id(&client), None, "{bad}");
        assert!(!to_upstream(&rules(&api()), &client, Version::HTTP_11, OURS, Framing::None).contains_key(X_REQUEST_ID), "{bad}");
    }
    let two = [("x-request-id", "a"), ("x-request-id", "a")];
    forwards(&api(), &two, Framing::None, &[]);
    assert_eq!(request_id(&map(&two)), None);
    assert_eq!(request_id(&HeaderMap::new()), None);
    forwards(&api(), &[("x_request_id", "a")], Framing::None, &[]);
    forwards(&api(), &[("x_request_id", "a"), ("x-request-id", "b")], Framing::None, &[("x-request-id", "b")]);
}

#[track_caller]
fn answers(api: &Api, upstream: &[(&str, &str)], expected: &[(&str, &str)]) {
    assert_eq!(lines(&to_client(&rules(api), map(upstream), false)), expected);
}

#[test]
fn an_answer_with_nothing_to_remove_is_as_it_came() {
    let clean = [
        ("content-type", "application/json"),
        ("content-length", "12"),
        ("vary", "a"),
        ("vary", "b"),
        ("proxy-status", "cdn"),
        ("date", "Tue, 15 Nov 1994 08:12:31 GMT"),
        ("server", "x"),
    ];
    answers(&api(), &clean, &clean);
}

#[test]
fn an_answer_does_not_speak_in_the_sidecars_name() {
    let sent = [
        ("proxy-status", "cdn; error=dns_error"),
        ("proxy-status", "careportals-sidecar; error=connection_refused"),
        ("x-other", "careportals-sidecar"),
        ("Proxy_Status", "cdn, \"Careportals-Sidecar\""),
    ];
    answers(&api(), &sent, &[sent[0], sent[2]]);
}

#[test]
fn trailers_are_announced_and_asked_for_and_other_codings_are_not() {
    let asked = &[("connection", "te"), ("te", "trailers")];
    for te in ["trailers", "Trailers", "gzip, trailers", "deflate;q=0.5 , trailers"] {
        forwards(&api(), &[("te", te), ("connection", "TE")], Framing::None, asked);
    }
    forwards(&api(), &[("te", "gzip"), ("te", "trailers")], Framing::None, asked);
    for te in ["gzip", "", "trailers;q=0", "trailersx"] {
        forwards(&api(), &[("te", te)], Framing::None, &[]);
    }
    let announced = [("trailer", "x-checksum"), ("trailer", "x-more")];
    forwards(&api(), &announced, Framing::None, &announced);
    answers(&api(), &announced, &announced);
    forwards(&api(), &[("trailer", "x-checksum"), ("connection", "trailer")], Framing::None, &[]);
}

#[test]
fn nothing_that_the_sidecar_owns_passes_as_a_trailer() {
    let mut api = api();
    api.cookies = Cookies::Pass;
    api.headers = vec![(HeaderName::from_static("x-plan"), HeaderValue::from_static("gold"))];
    api.require_header = Some(RequireHeader { name: HeaderName::from_static("x-app"), value: None });
    let kept = [("x-checksum", "1"), ("x-checksum", "2"), ("grpc-status", "0")];
    let both = [
        "authorization",
        "Authorization",
        "organization",
        "host",
        "content-length",
        "content_length",
        "transfer-encoding",
        "trailer",
        "te",
        "connection",
        "keep-alive",
        "upgrade",
    ];
    let upstream = ["cookie", "origin", "x-forwarded-for", "x_real_ip", "proxy", "expect", "x-request-id", "x-plan", "x_app"];
    for name in both.iter().chain(&upstream) {
        let trailers = map(&[&[(*name, "x")], &kept[..]].concat());
        assert_eq!(lines(&trailers_to_upstream(&rules(&api), &trailers)), kept, "{name}");
    }
    for name in both.iter().chain(&["set-cookie", "Set_Cookie", "alt-svc", "proxy-authenticate"]) {
        let trailers = map(&[&[(*name, "x")], &kept[..]].concat());
        assert_eq!(lines(&trailers_to_client(&rules(&api), &trailers)), kept, "{name}");
    }
}

#[test]
fn the_cookies_of_an_http2_client_become_one_line() {
    let mut api = api();
    api.cookies = Cookies::Pass;
    let client = map(&[("cookie", "a=1"), ("x-a", "1"), ("cookie", "b=2"), ("cookie", "c=3")]);
    let cookies = |version| -> Vec<String> {
        let head = to_upstream(&rules(&api), &client, version, OURS, Framing::None);
        head.get_all(COOKIE).iter().map(|value| value.to_str().unwrap().to_owned()).collect()
    };
    assert_eq!(cookies(Version::HTTP_2), ["a=1; b=2; c=3"]);
    assert_eq!(cookies(Version::HTTP_11), ["a=1", "b=2", "c=3"]);
}

#[test]
fn a_websocket_is_asked_for_by_exactly_that() {
    let asks = |lines: &[(&str, &str)]| asks_for_websocket(&map(lines));
    assert!(asks(&[("upgrade", "websocket"), ("connection", "Upgrade")]));
    assert!(asks(&[("upgrade", "WebSocket"), ("connection", "keep-alive, upgrade")]));
    assert!(asks(&[("connection", "keep-alive"), ("upgrade", "websocket"), ("connection", "upgrade")]));
    for other in [
        &[("upgrade", "websocket")][..],
        &[("connection", "upgrade")],
        &[("upgrade", "websocket"), ("connection", "keep-alive")],
        &[("upgrade", "websocket, h2c"), ("connection", "upgrade")],
        &[("upgrade", "websocket"), ("upgrade", "h2c"), ("connection", "upgrade")],
        &[("upgrade", "websocket"), ("upgrade", "websocket"), ("connection", "upgrade")],
        &[("upgrade", "h2c"), ("connection", "upgrade, http2-settings"), ("http2-settings", "AAMAAABkAAQ")],
        &[("upgrade", "websocket/13"), ("connection", "upgrade")],
    ] {
        assert!(!asks(other), "{other:?}");
    }
}

#[test]
fn hop_by_hop_headers_alt_svc_and_cookies_end_here() {
    for name in [
        "connection",
        "keep-alive",
        "proxy-connection",
        "proxy-authenticate",
        "te",
        "transfer-encoding",
        "upgrade",
        "alt-svc",
        "set-cookie",
        "set-cookie2",
        "Set_Cookie",
    ] {
        answers(
            &api(),
            &[("vary", "a"), (name, "x"), (name, "y"), ("x-a", "1"), ("vary", "b"), ("x-a", "2"), ("x-b", "3")],
            &[("vary", "a"), ("vary", "b"), ("x-a", "1"), ("x-a", "2"), ("x-b", "3")],
        );
    }
}

#[test]
fn an_answers_connection_removes_what_it_names_but_not_its_length() {
    answers(
        &api(),
        &[("connection", "close, X-A, content-length"), ("x_a", "1"), ("x-a", "2"), ("content-length", "7")],
        &[("content-length", "7")],
    );
}

#[test]
fn a_length_beside_transfer_encoding_means_nothing() {
    answers(&api(), &[("content-length", "7"), ("transfer-encoding", "chunked"), ("x-a", "1")], &[("x-a", "1")]);
}

#[test]
fn set_cookie_passes_only_when_asked_to() {
    let mut api = api();
    api.cookies = Cookies::Pass;
    let cookies = [("set-cookie", "a=1"), ("set-cookie", "b=2")];
    answers(&api, &cookies, &cookies);
}

#[track_caller]
fn leads(upstream: &str, prefix: Option<&str>, location: &str, expected: &str) {
    let mut api = api();
    api.prefix = prefix.map(|prefix| Prefix::parse(prefix).unwrap());
    let (scheme, rest) = upstream.split_once("://").unwrap();
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let authority = Authority::parse(authority.as_bytes()).unwrap();
    let scheme = if scheme == "https" { Scheme::Https } else { Scheme::Http };
    api.upstream = Upstream {
        origin: Origin {
            scheme,
            host: String::from_utf8(authority.host.to_vec()).unwrap(),
            port: authority.port.unwrap_or(scheme.default_port()),
        },
        base_path: path.to_owned(),
    };
    let head = to_client(&rules(&api), map(&[("location", location), ("x-a", "1")]), false);
    assert_eq!(lines(&head), [("location", expected), ("x-a", "1")], "{upstream} {prefix:?} {location}");
}

#[test]
fn a_redirect_under_the_upstreams_base_stays_on_our_side() {
    let plain = "https://api.example.com";
    for (upstream, prefix, location, expected) in [
        (plain, None, "https://api.example.com/a/b?c=d#e", "/a/b?c=d#e"),
        (plain, None, "HTTPS://API.Example.COM:443/a", "/a"),
        (plain, None, "https://api.example.com:/a", "/a"),
        (plain, None, "https://api.example.com:0443/a", "/a"),
        (plain, None, "//api.example.com/a", "/a"),
        (plain, None, "https://api.example.com", "/"),
        (plain, None, "https://api.example.com?x=1", "/?x=1"),
        (plain, None, "https://api.example.com#top", "/#top"),
        (plain, None, "https://api.example.com/%7Ea/../b?x=//y\\z", "/%7Ea/../b?x=//y\\z"),
        (plain, Some("/emr"), "https://api.example.com/a", "/emr/a"),
        (plain, Some("/emr"), "https://api.example.com//a", "/emr//a"),
        (plain, Some("/emr"), "/a?b", "/emr/a?b"),
        (plain, Some("/emr"), "https://api.example.com", "/emr"),
        (plain, Some("/emr"), "https://api.example.com?x", "/emr?x"),
        ("https://api.example.com/v2", None, "https://api.example.com/v2/a", "/a"),
        ("https://api.example.com/v2", None, "https://api.example.com/v2", "/"),
        ("https://api.example.com/v2", None, "https://api.example.com/v2?a", "/?a"),
        ("https://api.example.com/v2", None, "/v2/a", "/a"),
        ("https://api.example.com/v2", Some("/emr"), "/v2/a", "/emr/a"),
        ("https://api.example.com:8443", None, "https://api.example.com:8443/a", "/a"),
        ("http://127.0.0.1:8080", None, "http://127.0.0.1:8080/a", "/a"),
        ("http://127.0.0.1", None, "http://127.0.0.1:80/a", "/a"),
        ("https://[::1]:8443/v2", None, "https://[::1]:8443/v2/a", "/a"),
    ] {
        leads(upstream, prefix, location, expected);
    }
}

#[test]
fn any_other_redirect_is_left_alone() {
    let plain = "https://api.example.com";
    for (upstream, prefix, location) in [
        (plain, None, "/a"),
        (plain, None, "a/b"),
        (plain, Some("/emr"), "a/b"),
        (plain, Some("/emr"), "?x=1"),
        (plain, None, ""),
        (plain, None, "https:/a"),
        (plain, None, "https"),
        (plain, None, "http://api.example.com/a"),
        (plain, None, "https://api.example.com:8443/a"),
        (plain, None, "https://api.example.com:99999/a"),
        (plain, None, "https://api.example.com:443x/a"),
        (plain, None, "https://api.example.com.evil.example/a"),
        (plain, None, "https://api.example.com@evil.example/a"),
        (plain, None, "https://me@api.example.com/a"),
        (plain, None, "https://me:pw@api.example.com/a"),
        (plain, None, "https://api.example.com\\@evil.example/a"),
        (plain, None, "https://api.example.com:443@evil.example/a"),
        (plain, None, "https://[api.example.com]/a"),
        // Each of these would name another host if only the authority were cut off.
        (plain, None, "https://api.example.com//evil.example/a"),
        (plain, None, "https://api.example.com/\\evil.example/a"),
        (plain, None, "https://api.example.com/\t/evil.example/a"),
        ("https://api.example.com/v2", None, "https://api.example.com/v2//evil.example"),
        ("https://api.example.com/v2", None, "/v2//evil.example"),
        // Outside the base, or climbing out of it.
        ("https://api.example.com/v2", None, "https://api.example.com/v20/a"),
        ("https://api.example.com/v2", None, "https://api.example.com/V2/a"),
        ("https://api.example.com/v2", None, "/a"),
        ("https://api.example.com/v2", None, "https://api.example.com/v2/../a"),
        ("https://api.example.com/v2", None, "https://api.example.com/v2/%2e%2E/a"),
        ("https://api.example.com/v2", None, "https://api.example.com/v2/.%2e"),
        (plain, Some("/emr"), "https://api.example.com/../a"),
    ] {
        leads(upstream, prefix, location, location);
    }
}

#[test]
fn only_location_is_rewritten() {
    let kept = [("content-location", "https://api.example.com/a"), ("link", "<https://api.example.com/b>; rel=next")];
    answers(&api(), &kept, &kept);
}

#[test]
fn an_authority_is_a_host_and_perhaps_a_port() {
    let parse = |text: &'static str| {
        Authority::parse(text.as_bytes())
            .map(|authority| (std::str::from_utf8(authority.host).unwrap(), authority.bracketed, authority.port))
    };
    for (text, expected) in [
        ("a.example", Some(("a.example", false, None))),
        ("a.example:80", Some(("a.example", false, Some(80)))),
        ("a.example:", Some(("a.example", false, None))),
        ("[::1]", Some(("::1", true, None))),
        ("[::1]:2273", Some(("::1", true, Some(2273)))),
        ("", Some(("", false, None))),
        ("[::1", None),
        ("[::1]2273", None),
        ("::1", None),
        ("a:-1", None),
        ("a:+1", None),
        ("a:65536", None),
        ("a:80:80", None),
        ("a:pw@b", None),
    ] {
        assert_eq!(parse(text), expected, "{text}");
    }
}

/// Names that matter, in all spellings, and some that do not.
fn any_name() -> impl Strategy<Value = String> {
    let known = proptest::sample::select(vec![
        "authorization",
        "organization",
        "cookie",
        "origin",
        "connection",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "http2-settings",
        "proxy-authorization",
        "proxy",
        "forwarded",
        "x-forwarded-for",
        "x-real-ip",
        "expect",
        "host",
        "content-length",
        "x-request-id",
        "accept",
        "x-plan",
        "x-a",
        "x-b",
    ]);
    (known, any::<u32>()).prop_map(|(name, bits)| {
        let spell = |(index, letter): (usize, char)| match (letter, bits >> (index % 32) & 1) {
            ('-', 1) => '_',
            (letter, 1) => letter.to_ascii_uppercase(),
            (letter, _) => letter,
        };
        name.chars().enumerate().map(spell).collect()
    })
}

fn any_headers() -> impl Strategy<Value = Vec<(String, String)>> {
    let value = prop_oneof!["[a-z0-9, ]{0,12}", proptest::collection::vec(any_name(), 1..4).prop_map(|n| n.join(", "))];
    proptest::collection::vec((any_name(), value), 0..16)
}

fn any_framing() -> impl Strategy<Value = Framing> {
    prop_oneof![Just(Framing::None), any::<u64>().prop_map(Framing::Length), Just(Framing::Chunked)]
}

fn folded(name: &HeaderName) -> String {
    name.as_str().replace('_', "-")
}

proptest! {
    #[test]
    fn whatever_a_client_sends_ours_are_there_once_and_no_hop_is_crossed(
        client in any_headers(), framing in any_framing(), pass in any::<bool>(),
    ) {
        let mut api = api();
        api.headers = vec![(HeaderName::from_static("x-plan"), HeaderValue::from_static("gold"))];
        api.cookies = if pass { Cookies::Pass } else { Cookies::Strip };
        let client: Vec<_> = client.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let head = to_upstream(&rules(&api), &map(&client), Version::HTTP_11, OURS, framing);
        let values = |wanted: &str| -> Vec<HeaderValue> {
            head.iter().filter(|(name, _)| folded(name) == wanted).map(|(_, value)| value.clone()).collect()
        };
        prop_assert_eq!(values("authorization"), [TOKEN.clone()]);
        prop_assert_eq!(values("organization"), [TENANT.clone()]);
        prop_assert_eq!(values("host"), ["api.example.com"]);
        prop_assert_eq!(values("x-plan"), ["gold"]);
        let length = match framing { Framing::Length(length) => vec![length.to_string()], _ => vec![] };
        prop_assert_eq!(values("content-length"), length);
        let chunked = if framing == Framing::Chunked { vec!["chunked"] } else { vec![] };
        prop_assert_eq!(values("transfer-encoding"), chunked);
        for gone in ["origin", "keep-alive", "upgrade", "http2-settings", "forwarded", "x-real-ip", "expect"] {
            prop_assert!(values(gone).is_empty(), "{}", gone);
        }
        let te = values("te");
        prop_assert!(te.is_empty() || te == ["trailers"]);
        prop_assert_eq!(values("connection"), if te.is_empty() { vec![] } else { vec!["te"] });
        prop_assert!(pass || !head.contains_key(COOKIE));
        for name in head.keys().map(folded) {
            prop_assert!(!name.starts_with("proxy") && !name.starts_with("x-forwarded-"), "{}", name);
        }
    }

    #[test]
    fn values_of_one_name_keep_their_order(client in any_headers(), framing in any_framing()) {
        let client: Vec<_> = client.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let client = map(&client);
        let head = to_upstream(&rules(&api()), &client, Version::HTTP_11, OURS, framing);
        for name in ["accept", "x-a", "x-b"] {
            // All of a name's values pass, or none.
            let passed: Vec<_> = head.get_all(name).iter().collect();
            let sent: Vec<_> = client.get_all(name).iter().collect();
            prop_assert!(passed.is_empty() || passed == sent);
        }
    }

    #[test]
    fn an_answer_keeps_its_values_in_order_and_crosses_no_hop(upstream in any_headers()) {
        let upstream: Vec<_> = upstream.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let upstream = map(&upstream);
        let head = to_client(&rules(&api()), upstream.clone(), false);
        for name in head.keys() {
            let passed: Vec<_> = head.get_all(name).iter().collect();
            prop_assert_eq!(passed, upstream.get_all(name).iter().collect::<Vec<_>>());
            let gone = ["connection", "keep-alive", "proxy-connection", "te", "transfer-encoding", "upgrade"];
            prop_assert!(!gone.contains(&folded(name).as_str()));
        }
    }

    #[test]
    fn a_rewritten_location_is_an_absolute_path_that_names_no_host(
        // Made of what could trick a parser, behind what looks like the upstream.
        start in "(https?:)?(//)?(me@)?(api\\.example\\.com)?(:443)?(/v2)?", rest in "[/\\\\a.?#:@%2e\t]{0,8}",
        base in proptest::sample::select(vec!["", "/v2"]), prefix in proptest::sample::select(vec!["", "/emr"]),
    ) {
        let mut api = api();
        api.upstream.base_path = base.to_owned();
        api.prefix = (!prefix.is_empty()).then(|| Prefix::parse(prefix).unwrap());
        let location = start + &rest;
        if let Some(ours) = rules(&api).location(location.as_bytes()) {
            let ours = ours.to_str().unwrap();
            prop_assert!(ours.starts_with('/') && !ours.starts_with("//") && !ours.starts_with("/\\"), "{}", ours);
            prop_assert!(ours.starts_with(prefix));
            prop_assert!(!location.contains("me@api"));
            // Byte for byte: what follows the base is found again.
            let tail = ours.strip_prefix(prefix).unwrap();
            prop_assert!(location.ends_with(tail) || location.ends_with(&tail[1..]), "{} {}", location, ours);
        }
    }
}

#[test]
fn a_length_that_would_be_misread_goes_and_nothing_else() {
    let upstream = map(&[("etag", "x"), ("content-length", "9"), ("x-a", "1"), ("x-a", "2")]);
    assert_eq!(lines(&to_client(&rules(&api()), upstream, true)), [("etag", "x"), ("x-a", "1"), ("x-a", "2")]);
}
