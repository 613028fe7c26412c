use std::net::Ipv4Addr;

use http::{HeaderName, HeaderValue};
use proptest::prelude::*;

use super::*;
use crate::{config::fixture, path::is_canonical, proxy::headers::tests::api};

fn config() -> Config {
    Config { login_paths: LoginPaths::new(["/auth", "/auth/login", "/v2/token"]), ..fixture::config() }
}

/// A caller whom the kernel does not know.
fn nobody() -> Peer {
    Peer::unix(None)
}

/// A request as clients send it, which each test changes where it matters.
#[derive(Clone)]
struct Request {
    api: fn(&mut Api),
    entry: Entry,
    method: Method,
    target: String,
    version: Version,
    headers: Vec<(&'static str, String)>,
}

fn get(target: &str) -> Request {
    Request {
        api: |_| {},
        entry: Entry::Tcp,
        method: Method::GET,
        target: target.to_owned(),
        version: Version::HTTP_11,
        headers: vec![("host", "localhost:2273".to_owned())],
    }
}

impl Request {
    fn to(self, api: fn(&mut Api)) -> Self {
        Self { api, ..self }
    }

    fn over(self, entry: Entry) -> Self {
        Self { entry, ..self }
    }

    fn by(self, method: Method) -> Self {
        Self { method, ..self }
    }

    fn in_version(self, version: Version) -> Self {
        Self { version, ..self }
    }

    fn with(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }

    fn without_host(mut self) -> Self {
        self.headers.retain(|(name, _)| *name != "host");
        self
    }

    fn host(self, value: &str) -> Self {
        self.without_host().with("host", value)
    }

    fn judged(&self) -> Result<String, Refusal> {
        let mut api = api();
        (self.api)(&mut api);
        let mut headers = HeaderMap::new();
        for (name, value) in &self.headers {
            headers.append(HeaderName::from_static(name), HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        let uri = Uri::from_maybe_shared(Bytes::from(self.target.clone())).unwrap();
        let gate = Gate::new(&config(), &api, None, self.entry);
        gate.admit(&self.method, &uri, self.version, &headers, &nobody()).map(|admitted| admitted.target().to_string())
    }

    #[track_caller]
    fn sent_as(self, target: &str) {
        assert_eq!(self.judged().as_deref(), Ok(target), "{} {:?}", self.target, self.headers);
    }

    #[track_caller]
    fn passes(self) {
        assert!(self.judged().is_ok(), "{} {} {:?}: {:?}", self.method, self.target, self.headers, self.judged());
    }

    #[track_caller]
    fn refused_for(self, refusal: Refusal) {
        assert_eq!(self.judged(), Err(refusal), "{} {} {:?}", self.method, self.target, self.headers);
    }
}

#[test]
fn a_target_is_sent_byte_for_byte_without_its_fragment() {
    for (target, sent) in [
        ("/", "/"),
        ("/a/b?c=d", "/a/b?c=d"),
        ("/a//b/../%2e%2F;x?", "/a//b/../%2e%2F;x?"),
        ("//evil.example/a", "//evil.example/a"),
        ("/a?b#c", "/a?b"),
        ("/a#/auth", "/a"),
        ("/a?x=/auth", "/a?x=/auth"),
        ("http://localhost:2273/a?b", "/a?b"),
        ("http://localhost", "/"),
        ("http://localhost?b", "/?b"),
        ("http://API.example.com/a", "/a"),
    ] {
        get(target).sent_as(sent);
        let based = format!("/v2{sent}");
        get(target).to(|api| api.upstream.base_path = "/v2".to_owned()).sent_as(&based);
    }
}

/// A request over HTTP/2: the authority is in the target, and there is no `Host`.
fn get2(target: &str) -> Request {
    get(target).in_version(Version::HTTP_2).without_host()
}

#[test]
fn an_http2_authority_is_judged_as_host_whatever_the_scheme() {
    for authority in ["localhost", "LOCALHOST:2273", "127.0.0.9:1", "[::1]:2273", "api.example.com"] {
        for scheme in ["http", "https"] {
            get2(&format!("{scheme}://{authority}/a//b?c")).sent_as("/a//b?c");
        }
    }
    for authority in ["evil.example", "localhost.evil.example", "user@localhost", "10.0.0.1"] {
        get2(&format!("http://{authority}/")).refused_for(Refusal::HostNotAllowed);
    }
    get2("http://evil.example/").over(Entry::Unix).passes();
    get2("http://evil.example/").to(|api| api.allowed_hosts = AllowedHosts::Any).passes();
}

#[test]
fn an_http2_request_names_its_host_once_or_twice_the_same() {
    get2("http://localhost:2273/").with("host", "LocalHost:2273").passes();
    get2("http://localhost/").with("host", "localhost:80").refused_for(Refusal::HostCount);
    get2("http://localhost/").with("host", "evil.example").refused_for(Refusal::HostCount);
    get2("http://localhost/").with("host", "localhost").with("host", "evil.example").refused_for(Refusal::HostCount);
    get2("/").refused_for(Refusal::HostCount);
    get2("/").with("host", "localhost").passes();
    get2("/").with("host", "evil.example").refused_for(Refusal::HostNotAllowed);
    get2("/").with("host", "localhost").with("host", "localhost").refused_for(Refusal::HostCount);
}

#[test]
fn a_web_page_over_http2_is_held_to_its_origin() {
    get2("http://localhost:2273/").with("origin", "http://localhost:2273").passes();
    get2("http://localhost:2273/").with("origin", "http://localhost:9999").refused_for(Refusal::CrossSite);
    get2("http://localhost:2273/").with("host", "LOCALHOST:2273").with("origin", "http://localhost:2273").passes();
    // The telemetry listener asks it too, of a head that no gate has judged.
    let names = |target: &str, host: &str| {
        let headers = HeaderMap::from_iter([(http::header::HOST, HeaderValue::from_str(host).unwrap())]);
        names_loopback(&target.parse().unwrap(), Version::HTTP_2, &headers)
    };
    assert!(names("http://localhost:1/", "LocalHost:1"));
    assert!(!names("http://localhost:1/", "127.0.0.1:1") && !names("http://evil.example/", "evil.example"));
    get2("http://localhost:2273/auth").refused_for(Refusal::LoginPath);
    get2("http://localhost").by(Method::CONNECT).refused_for(Refusal::MethodNotAllowed);
    get2("http://localhost/").with("transfer-encoding", "chunked").refused_for(Refusal::BadFraming);
}

#[test]
fn a_new_connection_is_let_in_unless_its_client_is_known_to_be_no_caller() {
    let gate = |callers: fn(&mut Api)| {
        let mut api = api();
        callers(&mut api);
        Gate::new(&config(), &api, None, Entry::Tcp)
    };
    let [local, remote] = ["127.0.0.1:1", "192.0.2.1:1"].map(|address| address.parse().unwrap());
    let anyone = gate(|_| {});
    for peer in [nobody(), Peer::tcp(remote, local)] {
        assert!(anyone.may_let_in(&peer));
    }
    for listed in [gate(|api| api.allow_uids = vec![7]), gate(|api| api.allow_gids = vec![7])] {
        assert!(!listed.may_let_in(&Peer::tcp(remote, remote)), "its user can't be known");
        assert!(listed.may_let_in(&nobody()), "the kernel may know its user a moment later");
    }
}

#[test]
fn options_may_ask_about_the_whole_server() {
    get("*").by(Method::OPTIONS).sent_as("*");
    get("*").by(Method::OPTIONS).to(|api| api.upstream.base_path = "/v2".to_owned()).sent_as("*");
    get("*").refused_for(Refusal::BadTarget);
    get2("*").with("host", "localhost").by(Method::OPTIONS).sent_as("*");
    get2("http://localhost?x").refused_for(Refusal::BadTarget);
}

#[test]
fn a_target_that_is_too_long_with_the_base_path_is_refused() {
    let longest = format!("/{}", "a".repeat(65_500));
    get(&longest).sent_as(&longest);
    get(&longest).to(|api| api.upstream.base_path = format!("/{}", "b".repeat(100))).refused_for(Refusal::BadTarget);
}

#[test]
fn http_1_1_names_exactly_one_host() {
    get("/").without_host().refused_for(Refusal::HostCount);
    get("/").with("host", "localhost:2273").refused_for(Refusal::HostCount);
    get("/").without_host().in_version(Version::HTTP_10).passes();
    get("/").in_version(Version::HTTP_10).passes();
    get("/").with("host", "localhost").in_version(Version::HTTP_10).refused_for(Refusal::HostCount);
    get("/").without_host().over(Entry::Unix).refused_for(Refusal::HostCount);
    get("/").with("host", "localhost").over(Entry::Unix).refused_for(Refusal::HostCount);
}

#[test]
fn connect_and_trace_are_refused_and_every_other_method_passes() {
    get("localhost:80").by(Method::CONNECT).refused_for(Refusal::MethodNotAllowed);
    get("/").by(Method::TRACE).refused_for(Refusal::MethodNotAllowed);
    for method in ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "PURGE"] {
        get("/").by(method.parse().unwrap()).passes();
    }
}

#[test]
fn hosts_of_this_machine_and_of_the_upstream_pass_at_any_port() {
    for host in [
        "localhost",
        "LocalHost:80",
        "localhost:",
        "127.0.0.1",
        "127.0.0.1:2273",
        "127.255.3.9:1",
        "[::1]",
        "[::1]:2273",
        "[0:0:0:0:0:0:0:1]",
        "api.example.com",
        "API.EXAMPLE.COM:8443",
    ] {
        get("/").host(host).passes();
    }
}

#[test]
fn any_other_host_is_refused() {
    for host in [
        "",
        ":80",
        "evil.example",
        "evil.example:2273",
        "localhost.evil.example",
        "evil.localhost",
        "localhost.",
        "127.0.0.1.evil.example",
        "127.1",
        "0127.0.0.1",
        "128.0.0.1",
        "0.0.0.0",
        "10.0.0.1",
        "::1",
        "[::2]",
        "[::1",
        "[::ffff:127.0.0.1]",
        "[localhost]",
        "[127.0.0.1]",
        "me@localhost",
        "localhost@evil.example",
        "localhost:80:80",
        "localhost:x",
        "localhost:99999",
        "localhost/",
        "localhost evil",
        "localhost, evil.example",
        "api.example.com.",
        "xapi.example.com",
        "ä.example",
        "1",
    ] {
        get("/").host(host).refused_for(Refusal::HostNotAllowed);
    }
}

#[test]
fn allowed_hosts_are_exact_names_without_port() {
    let names: fn(&mut Api) = |api| {
        api.allowed_hosts = AllowedHosts::Names(["sidecar", "10.0.0.7", "fd00::7", "[fd00::8]"].map(str::to_owned).to_vec());
    };
    for host in ["sidecar", "SIDECAR:8080", "10.0.0.7:2273", "[fd00::7]:2273", "[FD00::8]", "localhost"] {
        get("/").to(names).host(host).passes();
    }
    for host in ["sidecar.evil.example", "a.sidecar", "sidecar.", "10.0.0.8", "[fd00::9]", "fd00::7", "[sidecar]"] {
        get("/").to(names).host(host).refused_for(Refusal::HostNotAllowed);
    }
}

#[test]
fn a_star_allows_every_host_that_could_be_one() {
    let any: fn(&mut Api) = |api| api.allowed_hosts = AllowedHosts::Any;
    for host in ["evil.example", "evil.example:1", "[fd00::9]:1", "a_b"] {
        get("/").to(any).host(host).passes();
    }
    for host in ["", "a b", "a@b", "a/b", "[x]", "a\"b", "ä"] {
        get("/").to(any).host(host).refused_for(Refusal::HostNotAllowed);
    }
}

#[test]
fn a_unix_socket_has_no_host_to_be_mistaken_for() {
    for host in ["evil.example", "", "unix", "a b"] {
        get("/").host(host).over(Entry::Unix).passes();
    }
}

#[test]
fn absolute_form_is_for_our_own_names() {
    get("http://127.0.0.1:1/a").sent_as("/a");
    get("HTTP://localhost/a").sent_as("/a");
    for target in [
        "http://evil.example/a",
        "https://localhost/a",
        "https://api.example.com/a",
        "ftp://localhost/a",
        "http://me@localhost/a",
        "http://localhost@evil.example/a",
        "localhost:80",
    ] {
        for entry in [Entry::Tcp, Entry::Unix] {
            get(target).over(entry).refused_for(Refusal::BadTarget);
        }
    }
    get("http://localhost/auth").refused_for(Refusal::LoginPath);
}

#[test]
fn a_web_page_may_call_only_its_own_host_or_by_permission() {
    let listed: fn(&mut Api) = |api| api.allowed_origins = vec!["https://app.example".to_owned()];
    for entry in [Entry::Tcp, Entry::Unix] {
        let get = || get("/").over(entry);
        get().with("origin", "http://localhost:2273").passes();
        get().with("origin", "http://LOCALHOST:2273").passes();
        get().with("origin", "https://app.example").to(listed).passes();
        for origin in [
            "null",
            "",
            "https://app.example",
            "https://localhost:2273",
            "http://localhost",
            "http://localhost:2274",
            "http://127.0.0.1:2273",
            "http://localhost:2273/",
            "http://evil.example",
            "localhost:2273",
            "http://",
            "http://localhost:2273, http://evil.example",
        ] {
            get().with("origin", origin).refused_for(Refusal::CrossSite);
        }
        for origin in
            ["http://app.example", "https://app.example:8443", "https://app.example.evil.example", "https://app.example/"]
        {
            get().with("origin", origin).to(listed).refused_for(Refusal::CrossSite);
        }
        get()
            .with("origin", "https://app.example")
            .with("origin", "https://app.example")
            .to(listed)
            .refused_for(Refusal::CrossSite);
    }
    get("/").without_host().in_version(Version::HTTP_10).with("origin", "http://").refused_for(Refusal::CrossSite);
}

#[test]
fn a_browser_says_whether_the_page_is_ours() {
    let listed: fn(&mut Api) = |api| api.allowed_origins = vec!["https://app.example".to_owned()];
    for site in ["none", "same-origin"] {
        get("/").with("sec-fetch-site", site).passes();
        get("/").with("sec-fetch-site", site).with("origin", "http://evil.example").refused_for(Refusal::CrossSite);
    }
    for site in ["cross-site", "same-site", "", "NONE", "same-origin, cross-site"] {
        get("/").with("sec-fetch-site", site).refused_for(Refusal::CrossSite);
        get("/").with("sec-fetch-site", site).with("origin", "http://localhost:2273").refused_for(Refusal::CrossSite);
        get("/").with("sec-fetch-site", site).with("origin", "https://app.example").to(listed).passes();
    }
    get("/").with("sec-fetch-site", "none").with("sec-fetch-site", "cross-site").refused_for(Refusal::CrossSite);
    get("/").with("sec-fetch-site", "cross-site").to(listed).refused_for(Refusal::CrossSite);
}

#[test]
fn a_page_that_the_browser_opens_is_refused_without_allow_navigation() {
    let allowed: fn(&mut Api) = |api| api.allow_navigation = true;
    for mode in ["navigate", "NAVIGATE", "nested-navigate", "navigate, cors", " navigate;x"] {
        for entry in [Entry::Tcp, Entry::Unix] {
            get("/").over(entry).with("sec-fetch-mode", mode).refused_for(Refusal::CrossSite);
            get("/").over(entry).with("sec-fetch-mode", mode).to(allowed).passes();
        }
    }
    for mode in ["cors", "no-cors", "same-origin", "websocket", ""] {
        get("/").with("sec-fetch-mode", mode).passes();
        get("/").with("sec-fetch-mode", mode).with("sec-fetch-site", "cross-site").to(allowed).refused_for(Refusal::CrossSite);
    }
    get("/").with("sec-fetch-mode", "cors").with("sec-fetch-mode", "navigate").refused_for(Refusal::CrossSite);
    get("/")
        .with("sec-fetch-mode", "navigate")
        .with("referer", "http://evil.example/")
        .to(allowed)
        .refused_for(Refusal::CrossSite);
}

#[test]
fn a_referer_is_a_url_of_the_very_host_that_is_called() {
    for entry in [Entry::Tcp, Entry::Unix] {
        let get = || get("/").over(entry);
        for url in ["http://localhost:2273", "http://localhost:2273/", "HTTP://LocalHost:2273/a/b?c#d", "http://localhost:2273?a"]
        {
            get().with("referer", url).passes();
        }
        for url in [
            "",
            "/",
            "http://",
            "http:///",
            "localhost:2273",
            "https://localhost:2273/",
            "http://localhost/",
            "http://localhost:22730/",
            "http://localhost:2273.evil.example/",
            "http://localhost:2273@evil.example/",
            "http://me@localhost:2273/",
            "http://localhost:2273\\evil.example/",
            "http://localhost:2273 /",
            "http://evil.example/http://localhost:2273/",
            "http://127.0.0.1:2273/",
            "about:blank",
            "ä",
        ] {
            get().with("referer", url).refused_for(Refusal::CrossSite);
            get().with("referer", url).with("origin", "http://localhost:2273").refused_for(Refusal::CrossSite);
        }
        get().with("referer", "http://localhost:2273/").with("referer", "http://localhost:2273/").refused_for(Refusal::CrossSite);
    }
}

#[test]
fn over_tcp_a_browser_may_call_loopbacks_hosts_alone() {
    let named: fn(&mut Api) = |api| api.allowed_hosts = AllowedHosts::Any;
    let listed: fn(&mut Api) =
        |api| (api.allowed_hosts, api.allowed_origins) = (AllowedHosts::Any, vec!["https://app.example".to_owned()]);
    for host in ["localhost", "127.0.0.1:2273", "127.9.9.9", "[::1]:2273", "LOCALHOST:1"] {
        get("/").host(host).with("origin", &format!("http://{host}")).to(named).passes();
        get("/").host(host).with("sec-fetch-dest", "empty").to(named).passes();
    }
    for host in ["api.example.com", "evil.example:2273", "10.0.0.1", "[fd00::1]", "localhost.", "localhost.evil.example", "127.1"]
    {
        for (name, value) in [
            ("origin", format!("http://{host}")),
            ("referer", format!("http://{host}/")),
            ("sec-fetch-site", "same-origin".to_owned()),
            ("sec-fetch-site", "none".to_owned()),
            ("sec-fetch-dest", "empty".to_owned()),
            ("sec-fetch-dest", String::new()),
        ] {
            get("/").host(host).with(name, &value).to(named).refused_for(Refusal::CrossSite);
            get2(&format!("http://{host}/")).with(name, &value).to(named).refused_for(Refusal::CrossSite);
            get(&format!("http://{host}/")).with(name, &value).to(named).refused_for(Refusal::CrossSite);
            get("/").host(host).with(name, &value).over(Entry::Unix).to(named).passes();
        }
        get("/").host(host).with("sec-fetch-mode", "cors").with("x-requested-with", "x").to(named).passes();
        get("/").host(host).with("origin", "https://app.example").with("sec-fetch-site", "cross-site").to(listed).passes();
        get("/").host(host).to(named).passes();
    }
    get("/").without_host().in_version(Version::HTTP_10).with("sec-fetch-dest", "empty").refused_for(Refusal::CrossSite);
}

#[test]
fn no_path_that_answers_with_a_token_is_reached() {
    for target in ["/auth", "/auth?x=1", "/AUTH/", "//auth", "/auth/login", "/%61uth", "/x/../auth", "/auth;a=b", "/a\\..\\auth"]
    {
        // The parser refuses some of these itself; the gate refuses the others.
        if Uri::from_maybe_shared(Bytes::from(target)).is_ok() {
            for method in [Method::GET, Method::POST, Method::OPTIONS] {
                get(target).by(method).refused_for(Refusal::LoginPath);
            }
        }
    }
    get("/auth/forgot").passes();
}

#[test]
fn log_in_paths_are_matched_with_the_upstreams_base_path() {
    let based: fn(&mut Api) = |api| api.upstream.base_path = "/v2".to_owned();
    get("/token").to(based).refused_for(Refusal::LoginPath);
    get("/token").passes();
    get("/../auth").to(based).refused_for(Refusal::LoginPath);
    get("/auth").to(based).sent_as("/v2/auth");
}

#[test]
fn any_transfer_encoding_but_chunked_is_refused() {
    let post = || get("/").by(Method::POST);
    post().with("transfer-encoding", "chunked").passes();
    post().with("transfer-encoding", "Chunked").passes();
    for coding in
        ["gzip, chunked", "chunked, chunked", "identity", "gzip", "", "chunked;x=1", "xchunked", "\"chunked\"", "chunked,"]
    {
        post().with("transfer-encoding", coding).refused_for(Refusal::BadFraming);
    }
    post().with("transfer-encoding", "chunked").with("transfer-encoding", "chunked").refused_for(Refusal::BadFraming);
    post().with("transfer-encoding", "chunked").in_version(Version::HTTP_10).refused_for(Refusal::BadFraming);
}

#[test]
fn a_length_is_one_number() {
    let post = || get("/").by(Method::POST);
    post().with("content-length", "12").passes();
    post().with("content-length", "12").with("transfer-encoding", "chunked").passes();
    for length in ["", "+1", "-1", "1, 1", "0x1", "1 "] {
        post().with("content-length", length).refused_for(Refusal::BadFraming);
    }
    post().with("content-length", "1").with("content-length", "1").refused_for(Refusal::BadFraming);
}

#[test]
fn only_100_continue_can_be_expected() {
    get("/").with("expect", "100-continue").passes();
    get("/").with("expect", "100-Continue").passes();
    for expectation in ["", "200-ok", "100-continue, x", "100-continue;x"] {
        get("/").with("expect", expectation).refused_for(Refusal::ExpectationFailed);
    }
    get("/").with("expect", "100-continue").with("expect", "x").refused_for(Refusal::ExpectationFailed);
}

#[test]
fn the_first_fault_in_the_promised_order_is_reported() {
    let mut worst = get("http://evil.example/auth")
        .by(Method::TRACE)
        .host("evil.example")
        .with("host", "evil.example")
        .with("origin", "null")
        .with("transfer-encoding", "gzip")
        .with("expect", "x");
    let mut judged = vec![worst.judged().unwrap_err()];
    worst = worst.host("evil.example");
    judged.push(worst.judged().unwrap_err());
    worst.method = Method::POST;
    judged.push(worst.judged().unwrap_err());
    worst = worst.host("localhost");
    judged.push(worst.judged().unwrap_err());
    worst.target = "/auth".to_owned();
    judged.push(worst.judged().unwrap_err());
    worst.headers.retain(|(name, _)| *name != "origin");
    judged.push(worst.judged().unwrap_err());
    worst.target = "/".to_owned();
    judged.push(worst.judged().unwrap_err());
    worst.headers.retain(|(name, _)| *name != "transfer-encoding");
    judged.push(worst.judged().unwrap_err());
    worst.headers.retain(|(name, _)| *name != "expect");
    worst.passes();
    assert_eq!(
        judged,
        [
            Refusal::HostCount,
            Refusal::MethodNotAllowed,
            Refusal::HostNotAllowed,
            Refusal::BadTarget,
            Refusal::CrossSite,
            Refusal::LoginPath,
            Refusal::BadFraming,
            Refusal::ExpectationFailed,
        ]
    );
}

fn rules(rules: &[&str]) -> Vec<Rule> {
    rules.iter().map(|rule| Rule::parse(rule).unwrap()).collect()
}

#[test]
fn with_allow_only_what_a_rule_matches_passes() {
    let allow = |api: &mut Api| api.allow = Some(rules(&["GET /customers/**", "* /v1/*/notes", "GET /"]));
    for target in ["/customers", "/customers/", "/customers/7/orders?all=%2f..", "/v1/7/notes", "/"] {
        get(target).to(allow).sent_as(target);
    }
    get("/v1/7/notes").by(Method::DELETE).to(allow).passes();
    for target in ["/customer", "/customersx", "/v1/notes", "/v1/7/8/notes", "/v1/7/notes/", "/Customers"] {
        get(target).to(allow).refused_for(Refusal::NotAllowed);
    }
    get("/customers").by(Method::POST).to(allow).refused_for(Refusal::NotAllowed);
    get("/customers").by(Method::HEAD).to(allow).refused_for(Refusal::NotAllowed);
    get("/").to(|api| api.allow = Some(Vec::new())).refused_for(Refusal::NotAllowed);
    let one = |api: &mut Api| api.allow = Some(rules(&["GET /customers/*"]));
    get("/customers/7").to(one).passes();
    for target in ["/customers/", "/customers", "/customers/7/"] {
        get(target).to(one).refused_for(Refusal::NotAllowed);
    }
}

#[test]
fn deny_wins_over_allow_and_is_enough_by_itself() {
    let both = |api: &mut Api| {
        api.allow = Some(rules(&["* /customers/**"]));
        api.deny = rules(&["DELETE /**", "* /customers/*/secret"]);
    };
    get("/customers/7").to(both).passes();
    get("/customers/7").by(Method::DELETE).to(both).refused_for(Refusal::Denied);
    get("/customers/7/secret").to(both).refused_for(Refusal::Denied);
    get("/customers/7/%73ecret").to(both).refused_for(Refusal::NotCanonical);
    let deny = |api: &mut Api| api.deny = rules(&["* /admin/**"]);
    get("/elsewhere").to(deny).passes();
    get("/admin").to(deny).refused_for(Refusal::Denied);
    get("/admin/").to(deny).refused_for(Refusal::Denied);
    get("*").by(Method::OPTIONS).to(deny).refused_for(Refusal::NotAllowed);
}

#[test]
fn deny_refuses_what_a_careless_server_would_take_for_the_same() {
    let deny = |api: &mut Api| api.deny = rules(&["* /customers/*/ssn", "GET /notes"]);
    for target in ["/customers/1/SSN", "/Customers/1/ssn", "/customers/1/ssn/", "/customers/1/ssn?x", "/NOTES/"] {
        get(target).to(deny).refused_for(Refusal::Denied);
    }
    for target in ["/customers/1", "/customers/1/ssnx", "/notes/1"] {
        get(target).to(deny).sent_as(target);
    }
    get("/notes").by(Method::HEAD).to(deny).refused_for(Refusal::Denied);
    get("/notes").by(Method::from_bytes(b"gEt").unwrap()).to(deny).refused_for(Refusal::Denied);
    get("/notes").by(Method::POST).to(deny).passes();
}

#[test]
fn observed_rules_refuse_nothing_and_all_else_is_enforced() {
    let observed = |api: &mut Api| {
        api.observe = true;
        api.allow = Some(rules(&["GET /customers/**"]));
        api.deny = rules(&["* /customers/*/ssn"]);
    };
    for (target, would_refuse) in [
        ("/customers/7", None),
        ("/orders", Some(Refusal::NotAllowed)),
        ("/customers/7/SSN", Some(Refusal::Denied)),
        ("/customers//7", Some(Refusal::NotCanonical)),
    ] {
        get(target).to(observed).sent_as(target);
        let mut api = api();
        observed(&mut api);
        let uri = target.parse().unwrap();
        let headers = HeaderMap::from_iter([(http::header::HOST, HeaderValue::from_static("localhost"))]);
        let gate = Gate::new(&config(), &api, None, Entry::Tcp);
        let admitted = gate.admit(&Method::GET, &uri, Version::HTTP_11, &headers, &nobody()).unwrap();
        assert_eq!(admitted.would_refuse(), would_refuse, "{target}");
        let explained = gate.explain(&Method::GET, &uri);
        assert_eq!((explained.refusal, explained.would_refuse), (None, would_refuse), "{target}");
    }
    get("/auth").to(observed).refused_for(Refusal::LoginPath);
    get("/customers/7").to(observed).host("evil.example").refused_for(Refusal::HostNotAllowed);
    get("/customers/7").by(Method::TRACE).to(observed).refused_for(Refusal::MethodNotAllowed);
    for (observe, below) in [(true, Some("/v2")), (false, None)] {
        let mut api = api();
        (api.observe, api.upstream.base_path) = (observe, "/v2".to_owned());
        assert_eq!(Gate::new(&config(), &api, None, Entry::Tcp).observes_below(), below);
    }
    // Before there are rules, an observer learns which paths will not be canonical once there are.
    get("/a//b").to(|api| api.observe = true).sent_as("/a//b");
}

#[test]
fn what_is_explained_is_what_would_be_done_and_names_the_rule_as_it_is_written() {
    let ruled = |api: &mut Api| {
        api.upstream.base_path = "/v2".to_owned();
        api.prefix = Some(Prefix::parse("/crm").unwrap());
        api.allow = Some(rules(&["GET /v2/orders", "GET  /v2/customers/**"]));
        api.deny = rules(&["* /v2/x", "* /v2/customers/*/ssn"]);
    };
    for (method, target, expected, rule, sent) in [
        ("GET", "/crm/customers/1?x=1", None, Some("GET /v2/customers/**"), Some("/v2/customers/1?x=1")),
        ("GET", "/crm/customers/1/SSN", Some(Refusal::Denied), Some("* /v2/customers/*/ssn"), Some("/v2/customers/1/SSN")),
        ("POST", "/crm/orders", Some(Refusal::NotAllowed), None, Some("/v2/orders")),
        ("GET", "/crm//orders", Some(Refusal::NotCanonical), None, Some("/v2//orders")),
        ("GET", "/orders", Some(Refusal::NoApi), None, None),
        ("GET", "http://evil.example/crm/orders", Some(Refusal::BadTarget), None, None),
        ("TRACE", "/crm/orders", Some(Refusal::MethodNotAllowed), None, None),
    ] {
        let mut api = api();
        ruled(&mut api);
        let (method, uri) = (Method::from_bytes(method.as_bytes()).unwrap(), target.parse().unwrap());
        let gate = Gate::new(&config(), &api, None, Entry::Tcp);
        let explained = gate.explain(&method, &uri);
        assert_eq!(explained.refusal, expected, "{target}");
        assert_eq!(explained.rule.map(ToString::to_string).as_deref(), rule, "{target}");
        assert_eq!(explained.target.as_ref().map(PathAndQuery::as_str), sent, "{target}");
        let headers = HeaderMap::from_iter([(http::header::HOST, HeaderValue::from_static("localhost"))]);
        let judged = gate.admit(&method, &uri, Version::HTTP_11, &headers, &nobody());
        assert_eq!(judged.err(), expected, "{target}");
    }
}

#[test]
fn with_rules_a_path_that_could_be_read_in_two_ways_is_refused_and_without_them_it_passes() {
    let allow = |api: &mut Api| api.allow = Some(rules(&["* /**"]));
    let deny = |api: &mut Api| api.deny = rules(&["* /admin/**"]);
    for target in [
        "//admin",
        "/a//b",
        "/a/../admin",
        "/a/./b",
        "/a/%2e%2e/admin",
        "/a%2fb",
        "/a%2Fb",
        "/a%5cb",
        "/%61dmin",
        "/a%00",
        "/a/..;x/b",
        "/a%zz",
        "/a%c0%af",
        "/a;x",
        "/a%3bx",
        "/a%3fx",
        "/a%23x",
        "/a%2541",
        "/a.",
        "/a%20",
        "/a%ef%bc%8fb",
        "/%e2%80%a4%e2%80%a4/b",
    ] {
        get(target).to(allow).refused_for(Refusal::NotCanonical);
        get(target).to(deny).refused_for(Refusal::NotCanonical);
        get(target).sent_as(target);
    }
}

#[test]
fn rules_judge_the_path_that_is_sent_with_the_base_path_and_without_the_prefix() {
    let moved = |api: &mut Api| {
        api.upstream.base_path = "/v2".to_owned();
        api.prefix = Some(Prefix::parse("/emr").unwrap());
        api.allow = Some(rules(&["GET /v2/customers"]));
    };
    get("/emr/customers").to(moved).sent_as("/v2/customers");
    get("/emr/v2/customers").to(moved).refused_for(Refusal::NotAllowed);
    get("/emr//customers").to(moved).refused_for(Refusal::NotCanonical);
    get("/customers").to(moved).refused_for(Refusal::NoApi);
    get("/emr/auth")
        .to(|api| (api.prefix, api.allow) = (Some(Prefix::parse("/emr").unwrap()), Some(rules(&["* /**"]))))
        .refused_for(Refusal::LoginPath);
}

#[test]
fn an_admitted_request_does_not_print_its_target() {
    let uri = Uri::from_static("/customers/652f?email=a@b.example");
    let mut headers = HeaderMap::new();
    headers.insert("host", HeaderValue::from_static("localhost"));
    let admitted =
        Gate::new(&config(), &api(), None, Entry::Tcp).admit(&Method::GET, &uri, Version::HTTP_11, &headers, &nobody());
    assert_eq!(format!("{:?}", admitted.unwrap()), "Admitted { .. }");
}

proptest! {
    #[test]
    fn what_is_judged_is_what_is_sent(
        path in "(/[a-z%2fe.;:@/]{0,8}){1,4}", query in "(\\?[a-z/?%=&]{0,8})?", fragment in "(#[a-z/]{0,4})?",
        base in proptest::sample::select(vec!["", "/v2"]), absolute in any::<bool>(),
    ) {
        let origin = if absolute { "http://localhost" } else { "" };
        let mut request = get(&format!("{origin}{path}{query}{fragment}"));
        if base == "/v2" {
            request = request.to(|api| api.upstream.base_path = "/v2".to_owned());
        }
        let whole = format!("{base}{path}{query}");
        let expected =
            if config().login_paths.contains(&format!("{base}{path}")) { Err(Refusal::LoginPath) } else { Ok(whole) };
        prop_assert_eq!(request.judged(), expected);
    }

    #[test]
    fn with_rules_nothing_passes_that_has_two_readings(path in "(/[a-z%25fF.;:@\\\\/~]{0,6}){1,4}") {
        let request = get(&path).to(|api| api.allow = Some(vec![Rule::parse("* /**").unwrap()]));
        if let Ok(sent) = request.judged() {
            prop_assert_eq!(&sent, &path);
            prop_assert!(is_canonical(&sent));
        }
    }

    #[test]
    fn no_host_header_lets_another_name_in(
        pieces in proptest::collection::vec(
            proptest::sample::select(vec![
                "localhost", "127.0.0.1", "127.9.9.9", "[::1]", "api.example.com", "evil.example", ":", "80", ".", "@", "/", ",", " ", "[", "]",
                "a",
            ]),
            0..4,
        ),
    ) {
        let host = pieces.concat();
        let name = match host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
            _ => host.as_str(),
        };
        let known = ["localhost", "api.example.com", "[::1]"].contains(&name)
            || name.parse().is_ok_and(|address: Ipv4Addr| address.is_loopback());
        if get("/").host(&host).judged().is_ok() {
            prop_assert!(known, "{}", host);
        }
    }
}
