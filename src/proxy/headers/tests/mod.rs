//! Tests requests and trailers; answers and generated headers have modules of their own.

mod answers;
mod generated;

use std::time::Duration;

use http::header::{COOKIE, ORIGIN};

use super::{
    request_field::{ORIGINAL, ORIGINALS, REMOVED_FAMILIES, REMOVED_FROM_REQUESTS},
    *,
};
use crate::{
    config::{AccountId, AllowedHosts, Http2, RequireHeader, Scheme, UpstreamSettings},
    path::Prefix,
};

/// An API with every setting at its default, for the tests of this folder.
pub(in crate::proxy) fn api() -> Api {
    let second = Duration::from_secs(1);
    Api {
        name: "default".to_owned(),
        account: AccountId(0),
        upstream: BaseUrl {
            origin: Origin { scheme: Scheme::Https, host: "api.example.com".to_owned(), rooted: false, port: 443 },
            base_path: String::new(),
        },
        listen: Vec::new(),
        allow_non_loopback: false,
        prefix: None,
        allow: None,
        deny: Vec::new(),
        observe: false,
        cookies: Cookies::Strip,
        headers: Vec::new(),
        allowed_hosts: AllowedHosts::Names(Vec::new()),
        allowed_origins: Vec::new(),
        allow_navigation: false,
        require_header: None,
        replay_buffer: 65536,
        retry_idempotency_key: false,
        path_words: Vec::new(),
        socket_mode: 0o660,
        socket_group: None,
        allow_uids: Vec::new(),
        allow_gids: Vec::new(),
        connections: UpstreamSettings {
            origin: Origin { scheme: Scheme::Https, host: "api.example.com".to_owned(), rooted: false, port: 443 },
            http2: Http2::Off,
            max_header_bytes: 65536,
            max_headers: 256,
            connect_timeout: 5 * second,
            pool_idle: 15 * second,
            connection_max_age: 300 * second,
        },
        max_requests: 1024,
        max_connections: 4096,
        max_header_bytes: 65536,
        max_headers: 256,
        head_timeout: 10 * second,
        response_timeout: 60 * second,
        body_idle: 60 * second,
        stream_idle: 3600 * second,
        client_idle: 3600 * second,
        client_stall: 3600 * second,
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
static ORGANIZATION_VALUE: HeaderValue = HeaderValue::from_static("acme");
static OURS: AccountFields<'static> = AccountFields { authorization: Some(&TOKEN), organization: &ORGANIZATION_VALUE };

static ID: HeaderValue = HeaderValue::from_static("id-1");

fn to_upstream(
    rules: &HeaderRules,
    client: &HeaderMap,
    version: Version,
    account: AccountFields<'_>,
    framing: Framing,
) -> HeaderMap {
    without_id(&super::to_upstream(HeaderMap::new(), rules, client, version, account, framing, ID.clone()))
}

fn to_client(rules: &HeaderRules, upstream: HeaderMap, misread: bool) -> HeaderMap {
    let named = NamedByConnection::in_headers(&upstream);
    without_id(&super::to_client(rules, upstream, &named, misread, ID.clone()))
}

/// The head without the request's id, which each has once.
fn without_id(head: &HeaderMap) -> HeaderMap {
    assert_eq!(head.get_all(X_REQUEST_ID).iter().collect::<Vec<_>>(), [&ID]);
    assert!(!head.contains_key("x_request_id"));
    only(head, |name, _| *name != X_REQUEST_ID)
}

#[track_caller]
fn forwards(api: &Api, client: &[(&str, &str)], framing: Framing, expected: &[(&str, &str)]) {
    let head = to_upstream(&rules(api), &map(client), Version::HTTP_11, OURS, framing);
    let mut all = vec![("host", "api.example.com")];
    all.extend(expected);
    all.extend([("authorization", "Bearer ours"), ("organization", "acme")]);
    assert_eq!(lines(&head), all);
}

#[track_caller]
fn answers(api: &Api, upstream: &[(&str, &str)], expected: &[(&str, &str)]) {
    assert_eq!(lines(&to_client(&rules(api), map(upstream), false)), expected);
}

#[test]
fn a_number_of_forwardings_is_one_number_and_counts_down() {
    for (sent, expected, left) in [
        (&["0"][..], Some(0), &["0"][..]),
        (&["1"], Some(1), &["0"]),
        (&["0010"], Some(10), &["9"]),
        (&["18446744073709551616"], Some(u64::MAX), &["18446744073709551614"]),
        (&["-1"], None, &["-1"]),
        (&["+1"], None, &["+1"]),
        (&["1, 1"], None, &["1, 1"]),
        (&["x"], None, &["x"]),
        (&[""], None, &[""]),
        (&["1", "1"], None, &["1", "1"]),
        (&[], None, &[]),
    ] {
        let mut head = map(&sent.iter().map(|value| ("max-forwards", *value)).collect::<Vec<_>>());
        assert_eq!(max_forwards(&head), expected, "{sent:?}");
        count_forwarding(&mut head);
        assert_eq!(head.get_all("max-forwards").iter().collect::<Vec<_>>(), left, "{sent:?}");
    }
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
        "X-Client-IP",
        "True-Client-IP",
        "CF-Connecting-IP",
        "X-Cluster-Client-IP",
        "X-HTTP-Method-Override",
        "X-HTTP-Method",
        "X-Method-Override",
        "X-Original-URL",
        "X-Original-Host",
        "X-Rewrite-URL",
        "Expect",
        "Host",
        "Content-Length",
    ];
    let families = REMOVED_FAMILIES.map(|family| format!("{family}x"));
    let originals = ORIGINALS.map(|what| format!("{ORIGINAL}{what}"));
    let further = families.iter().chain(&originals).map(String::as_str);
    for name in removed.into_iter().chain(REMOVED_FROM_REQUESTS).chain(further) {
        for spelling in [name.to_owned(), name.to_uppercase(), name.replace('-', "_")] {
            forwards(&api(), &[(&spelling, "theirs"), (&spelling, "again"), ("x-a", "1")], Framing::None, &[("x-a", "1")]);
        }
    }
}

#[test]
fn what_an_app_calls_original_passes() {
    for name in ["x-original-filename", "x-original-to", "x-original-urls", "x-original-", "x-original"] {
        forwards(&api(), &[(name, "theirs")], Framing::None, &[(name, "theirs")]);
    }
}

#[test]
fn nothing_names_the_proxy_to_the_upstream() {
    let head = to_upstream(&rules(&api()), &HeaderMap::new(), Version::HTTP_11, OURS, Framing::None);
    assert_eq!(lines(&head), [("host", "api.example.com"), ("authorization", "Bearer ours"), ("organization", "acme")]);
}

#[test]
fn an_account_without_log_in_sends_its_organization_only() {
    let ours = AccountFields { authorization: None, organization: &ORGANIZATION_VALUE };
    let head = to_upstream(&rules(&api()), &map(&[("authorization", "Bearer theirs")]), Version::HTTP_11, ours, Framing::None);
    assert_eq!(lines(&head), [("host", "api.example.com"), ("organization", "acme")]);
}

#[test]
fn a_secret_stays_marked_as_one() {
    let mut token = TOKEN.clone();
    token.set_sensitive(true);
    let ours = AccountFields { authorization: Some(&token), organization: &ORGANIZATION_VALUE };
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
fn the_required_header_does_not_reach_the_upstream() {
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
fn the_requests_id_takes_the_place_of_any_other() {
    for sent in [
        &[][..],
        &[("x-request-id", "theirs")],
        &[("x-request-id", "a"), ("x-request-id", "b")],
        &[("x_request_id", "a"), ("x-request_id", "b")],
        &[("connection", "x-request-id"), ("x-request-id", "a")],
    ] {
        forwards(&api(), sent, Framing::None, &[]);
        answers(&api(), sent, &[]);
    }
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
    for name in both.iter().chain(&upstream).chain(&REMOVED_FROM_REQUESTS) {
        let trailers = map(&[&[(*name, "x")], &kept[..]].concat());
        assert_eq!(lines(&trailers_to_upstream(&rules(&api), &NamedByConnection::default(), &trailers)), kept, "{name}");
    }
    for name in both.iter().chain(&["set-cookie", "Set_Cookie", "alt-svc", "proxy-authenticate"]) {
        let trailers = map(&[&[(*name, "x")], &kept[..]].concat());
        assert_eq!(lines(&trailers_to_client(&rules(&api), &NamedByConnection::default(), &trailers)), kept, "{name}");
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
fn a_websocket_is_asked_for_by_upgrade_and_connection_alone() {
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
fn familiar_options_of_connection_name_no_field() {
    for (line, named) in
        [("close", 0), ("Keep-Alive, Upgrade", 0), ("TE,, http2-settings ,", 0), ("", 0), ("close, x-a", 1), ("x-a, X-B", 2)]
    {
        let headers = HeaderMap::from_iter([(CONNECTION, HeaderValue::from_str(line).unwrap())]);
        assert_eq!(NamedByConnection::in_headers(&headers).0.len(), named, "{line:?}");
    }
}

#[test]
fn a_head_that_asks_for_a_websocket_is_told_from_others() {
    let mut head = HeaderMap::new();
    assert!(!asks_for_websocket(&head));
    upgrade_to_websocket(&mut head);
    assert!(asks_for_websocket(&head));
    assert_eq!((head[CONNECTION].as_bytes(), head[UPGRADE].as_bytes()), (&b"upgrade"[..], &b"websocket"[..]));
}
