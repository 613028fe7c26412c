//! Tests which headers of an answer pass, and where its redirects lead.

use super::*;

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
fn hop_by_hop_headers_alt_svc_and_cookies_do_not_pass() {
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
    let authority = HostAndPort::parse(authority.as_bytes()).unwrap();
    let scheme = if scheme == "https" { Scheme::Https } else { Scheme::Http };
    api.upstream = BaseUrl {
        origin: Origin {
            scheme,
            host: String::from_utf8(authority.host.to_vec()).unwrap(),
            rooted: false,
            port: authority.port.unwrap_or(scheme.default_port()),
        },
        base_path: path.to_owned(),
    };
    let head = to_client(&rules(&api), map(&[("location", location), ("x-a", "1")]), false);
    assert_eq!(lines(&head), [("location", expected), ("x-a", "1")], "{upstream} {prefix:?} {location}");
    let alone = to_client(&rules(&api), map(&[("location", location)]), false);
    assert_eq!(lines(&alone), [("location", expected)], "{upstream} {prefix:?} {location}");
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
fn any_other_redirect_stays_as_it_is() {
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
        // These are outside the base, or climb out of it.
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
        HostAndPort::parse(text.as_bytes())
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

#[test]
fn a_length_that_would_be_misread_is_removed_and_nothing_else() {
    let upstream = map(&[("etag", "x"), ("content-length", "9"), ("x-a", "1"), ("x-a", "2")]);
    assert_eq!(lines(&to_client(&rules(&api()), upstream, true)), [("etag", "x"), ("x-a", "1"), ("x-a", "2")]);
}
