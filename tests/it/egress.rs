//! The way out through a proxy: log-ins and requests, credentials, exceptions, refusals.

use careportals_simulator::{Options, Pattern, Simulator};
use rustix::process::Signal;

use crate::harness::{ConnectProxy, Crowd, Manner, Request, Setup, Sidecar, websocket};

/// A name that only the proxy finds.
const NAME: &str = "api.sim.example.test";
/// A name of this machine that is not one of loopback: what is reached there is reached directly.
const HERE: &str = "0.0.0.0";
/// What must not be seen anywhere.
const PASSWORD: &str = "egress-canary-7f3a";

fn named_simulator() -> Simulator {
    Simulator::start(Options { names: vec![NAME.to_owned(), HERE.to_owned()], ..Options::default() }).unwrap()
}

/// A sidecar in front of the simulator by that name, with the proxy on the way.
fn behind(simulator: &Simulator, proxy: &ConnectProxy, userinfo: &str) -> Setup {
    let mut setup = Setup::new(simulator);
    let scheme = if proxy.certificate.is_some() { "https" } else { "http" };
    setup
        .variable("CAREPORTALS_UPSTREAM", &format!("https://{NAME}:{}", simulator.address().port()))
        .variable("HTTPS_PROXY", &format!("{scheme}://{userinfo}{}", proxy.address));
    setup
}

fn lead(simulator: &Simulator) -> ConnectProxy {
    ConnectProxy::plain(Manner::Lead(simulator.address()))
}

#[test]
fn log_ins_and_requests_go_through_the_proxy_and_connections_are_used_again() {
    let simulator = named_simulator();
    let proxy = lead(&simulator);
    let sidecar = behind(&simulator, &proxy, "").start().ready();
    let mut client = sidecar.connect();
    for _ in 0..5 {
        assert_eq!(client.send(&Request::get("/_sim/echo")).status, 200);
    }
    let place = format!("{NAME}:{}", simulator.address().port());
    let heads = proxy.heads();
    // One for the log-in; each of the two workers may have one.
    assert!((2..=3).contains(&heads.len()), "{heads:?}");
    for head in heads {
        assert_eq!(head, format!("CONNECT {place} HTTP/1.1\r\nHost: {place}\r\n\r\n"));
    }
    let seen = simulator.control().requests();
    assert!(seen.iter().all(|seen| seen.authority == place), "{seen:?}");
}

#[test]
fn http2_and_websockets_go_through_it_too() {
    let simulator = named_simulator();
    let proxy = lead(&simulator);
    let mut setup = behind(&simulator, &proxy, "");
    setup.api("http2", "auto");
    let sidecar = setup.start().ready();
    assert_eq!(sidecar.get("/_sim/echo").json()["version"], "HTTP/2.0");
    let before = proxy.heads().len();
    let upgrade = Request::get("/_sim/websocket")
        .header("Connection", "Upgrade")
        .header("Upgrade", "websocket")
        .header("Sec-WebSocket-Version", "13")
        .header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==");
    let mut client = sidecar.connect();
    client.write(&upgrade.head());
    client.read_until(b"101 Switching Protocols");
    assert_eq!(proxy.heads().len(), before + 1);
}

#[test]
fn credentials_are_sent_decoded_and_seen_nowhere_else() {
    let simulator = named_simulator();
    let proxy = lead(&simulator);
    let mut setup = behind(&simulator, &proxy, &format!("an%6E:{PASSWORD}%2F%40@"));
    let shown = setup.output("config");
    assert_eq!(shown.code, Some(0), "{shown:?}");
    assert!(shown.stdout.contains("HTTPS_PROXY") && shown.stdout.contains("[redacted]"), "{shown:?}");
    setup.argument("--online");
    let checked = setup.output("check");
    assert_eq!(checked.code, Some(0), "{checked:?}");
    assert!(checked.stdout.contains(&format!("through the egress proxy http://{}", proxy.address)), "{checked:?}");
    let mut setup = behind(&simulator, &proxy, &format!("an%6E:{PASSWORD}%2F%40@"));
    setup.variable("CAREPORTALS_LOG", "trace");
    let mut sidecar = setup.start().ready();
    assert_eq!(sidecar.stop().code(), Some(0));
    // `ann:egress-canary-7f3a/@`
    let expected = "Proxy-Authorization: Basic YW5uOmVncmVzcy1jYW5hcnktN2YzYS9A\r\n";
    assert!(proxy.heads().iter().all(|head| head.contains(expected)), "{:?}", proxy.heads());
    for text in [shown.all(), checked.all(), sidecar.logs()] {
        assert!(!text.contains("egress-canary") && !text.contains("YW5uOmVncmVz"), "{text}");
    }
}

#[test]
fn of_a_proxy_variable_in_two_cases_the_lower_one_counts() {
    let simulator = named_simulator();
    let (used, unused) = (lead(&simulator), lead(&simulator));
    let mut setup = behind(&simulator, &unused, "");
    setup.variable("https_proxy", &format!("http://{}", used.address));
    setup.variable("NO_PROXY", "*").variable("no_proxy", "other.example");
    let _sidecar = setup.start().ready();
    assert!(!used.heads().is_empty());
    assert!(unused.heads().is_empty());
}

#[test]
fn loopback_is_never_reached_through_a_proxy() {
    let simulator = named_simulator();
    let proxy = lead(&simulator);
    for host in ["localhost", "127.0.0.1"] {
        let mut setup = behind(&simulator, &proxy, "");
        setup.variable("CAREPORTALS_UPSTREAM", &format!("https://{host}:{}", simulator.address().port()));
        let _sidecar = setup.start().ready();
    }
    assert_eq!(proxy.heads(), Vec::<String>::new());
}

#[test]
fn a_host_in_no_proxy_is_reached_directly_and_no_other_is() {
    let simulator = named_simulator();
    let port = simulator.address().port();
    let here = format!("{HERE}:{port}");
    for (list, direct) in [
        (HERE, true),
        ("*", true),
        ("b.example, 0.0.0.0/8", true),
        (here.as_str(), true),
        ("0.0.0.0:1", false),
        ("b.example,10.0.0.0/8", false),
    ] {
        let proxy = lead(&simulator);
        let mut setup = behind(&simulator, &proxy, "");
        setup.variable("CAREPORTALS_UPSTREAM", &format!("https://{here}")).variable("NO_PROXY", list);
        let _sidecar = setup.start().ready();
        assert_eq!(proxy.heads().is_empty(), direct, "{list}");
    }
}

#[test]
fn a_name_in_no_proxy_is_resolved_here_and_not_by_the_proxy() {
    let simulator = named_simulator();
    let proxy = lead(&simulator);
    for list in [NAME, ".sim.example.test", "b.example,test"] {
        let mut setup = unlogged(&proxy, &simulator);
        setup.variable("NO_PROXY", list);
        let code = setup.start().get("/v2/products").problem();
        // A name server that does not answer counts like one that knows no such name.
        assert!(["dns_failed", "dns_timeout"].contains(&code.as_str()), "{list}: {code}");
    }
    assert_eq!(proxy.heads(), Vec::<String>::new());
}

#[test]
fn a_proxy_over_tls_is_verified_like_any_server() {
    let simulator = named_simulator();
    let proxy = ConnectProxy::over_tls(Manner::Lead(simulator.address()));
    let setup = behind(&simulator, &proxy, &format!("ann:{PASSWORD}@"));
    let untrusted = setup.start();
    untrusted.wait_for_log("the egress proxy is no way to the upstream: its certificate was not accepted");
    assert!(proxy.heads().is_empty(), "no credentials for a stranger");
    let mut setup = behind(&simulator, &proxy, &format!("ann:{PASSWORD}@"));
    let roots = format!("{}{}", simulator.ca_pem(), proxy.certificate.as_deref().unwrap());
    setup.file("ca.pem", &roots);
    setup.api("http2", "auto");
    let sidecar = setup.start().ready();
    assert_eq!(sidecar.get("/_sim/echo").json()["version"], "HTTP/2.0");
    assert!(proxy.heads().len() >= 2);
}

/// A sidecar without log-in, in front of a name that only a proxy finds.
fn unlogged(proxy: &ConnectProxy, simulator: &Simulator) -> Setup {
    let upstream = format!("https://{NAME}:{}", simulator.address().port());
    let mut setup = Setup::without_login(&upstream, simulator.ca_pem());
    setup.variable("HTTPS_PROXY", &format!("http://{}", proxy.address)).api("connect_timeout", "500ms");
    setup
}

fn without_login(proxy: &ConnectProxy, simulator: &Simulator) -> Sidecar {
    unlogged(proxy, simulator).start()
}

#[test]
fn what_the_proxy_refuses_is_said_to_be_so() {
    let simulator = named_simulator();
    for (says, reason) in [
        ("HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic\r\nContent-Length: 0\r\n\r\n", "407"),
        ("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno", "it answered CONNECT with 403"),
        ("SSH-2.0-OpenSSH_9.9\r\n\r\n", "its answer to CONNECT is not HTTP"),
        ("SSH-2.0-OpenSSH_9.9", "its answer to CONNECT is not HTTP"),
        ("HTTP/1.1 200 OK\r\n\r\nand more", "its answer to CONNECT is not HTTP"),
        ("HTTP/1.1 200 OK\r\n", "it closed the connection before it had answered"),
        ("", "it closed the connection before it had answered"),
    ] {
        let proxy = ConnectProxy::plain(Manner::Say(says));
        let sidecar = without_login(&proxy, &simulator);
        let answer = sidecar.send(&Request::post("/users", "{}"));
        assert_eq!((answer.status, answer.problem().as_str()), (502, "egress_refused"), "{says}");
        assert_eq!(answer.header("proxy-status"), Some("careportals-sidecar; error=destination_unavailable"));
        sidecar.wait_for_log(reason);
        assert_eq!(proxy.heads().len(), 1, "asking again would not help");
    }
    assert_eq!(simulator.control().counts().connections, 0);
}

#[test]
fn a_proxy_that_is_silent_or_not_there_is_an_error_of_connecting_to_the_proxy() {
    let simulator = named_simulator();
    let proxy = ConnectProxy::plain(Manner::Silent);
    let sidecar = without_login(&proxy, &simulator);
    let answer = sidecar.get("/_sim/echo");
    assert_eq!((answer.status, answer.problem().as_str()), (504, "connect_timeout"));
    sidecar.wait_for_log("the egress proxy is no way to the upstream: it took too long");
    assert_eq!(proxy.heads().len(), 1);
    let mut gone = ConnectProxy::plain(Manner::Silent);
    // Nothing listens at this port.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    gone.address = socket.local_addr().unwrap().as_socket().unwrap();
    let sidecar = without_login(&gone, &simulator);
    let answer = sidecar.get("/_sim/echo");
    assert_eq!((answer.status, answer.problem().as_str()), (502, "connect_failed"));
    sidecar.wait_for_log("the egress proxy is no way to the upstream: it refused the connection");
    let mut setup = unlogged(&gone, &simulator);
    setup.variable("HTTPS_PROXY", "http://proxy.example.test:3128");
    let sidecar = setup.start();
    let code = sidecar.get("/_sim/echo").problem();
    assert!(["dns_failed", "dns_timeout"].contains(&code.as_str()), "{code}");
    let said = sidecar.wait_for_log("the egress proxy is no way to the upstream: ");
    assert!(said.contains("its name"), "{said}");
}

#[test]
fn a_proxy_with_an_unsupported_url_is_a_fault_that_does_not_show_its_credentials() {
    let simulator = named_simulator();
    for url in ["socks5://ann:egress-canary-7f3a@proxy.example", "http://ann:egress-canary-7f3a@proxy.example/path"] {
        let mut setup = Setup::new(&simulator);
        setup.variable("HTTPS_PROXY", url);
        let output = setup.output("run");
        assert_eq!(output.code, Some(78), "{output:?}");
        assert!(output.stderr.contains("HTTPS_PROXY") && !output.all().contains(PASSWORD), "{output:?}");
    }
}

#[test]
fn a_drain_ends_connections_through_the_proxy() {
    let simulator = named_simulator();
    let proxy = lead(&simulator);
    let mut sidecar = behind(&simulator, &proxy, "").start().ready();
    sidecar.signal(Signal::TERM);
    assert_eq!(sidecar.wait().code(), Some(0));
}

/// Runs the check through a proxy over plain TCP, and through one over TLS that is trusted.
fn through_each(simulator: &Simulator, check: impl Fn(&ConnectProxy, Setup)) {
    let manner = Manner::Lead(simulator.address());
    for proxy in [ConnectProxy::plain(manner.clone()), ConnectProxy::over_tls(manner)] {
        let setup = behind(simulator, &proxy, "ann:pw@");
        setup.file("ca.pem", &format!("{}{}", simulator.ca_pem(), proxy.certificate.as_deref().unwrap_or_default()));
        check(&proxy, setup);
    }
}

#[test]
fn large_bodies_pass_whole_through_each_kind_of_proxy() {
    const BYTES: u64 = 3_000_001;
    let simulator = named_simulator();
    let (pattern, mut body) = (Pattern::new(), Vec::new());
    while (body.len() as u64) < BYTES {
        let offset = body.len() as u64;
        body.extend_from_slice(&pattern.stretch(offset, BYTES - offset));
    }
    through_each(&simulator, |_, setup| {
        let sidecar = setup.start().ready();
        let answer = sidecar.send(&Request::post("/_sim/upload", body.clone())).json();
        assert_eq!((answer["bytes"].as_u64(), answer["pattern_ok"].as_bool()), (Some(BYTES), Some(true)));
        let answer = sidecar.get(&format!("/_sim/download?bytes={BYTES}"));
        assert!(answer.body == body, "{} bytes", answer.body.len());
    });
}

#[test]
fn a_websockets_messages_go_both_ways_through_each_kind_of_proxy() {
    let simulator = named_simulator();
    through_each(&simulator, |_, setup| {
        let sidecar = setup.start().ready();
        let mut client = websocket::open(&sidecar);
        for text in ["one", "two", "three"] {
            websocket::assert_echoes(&mut client, text);
        }
    });
}

#[test]
fn many_requests_share_one_http2_connection_through_each_kind_of_proxy() {
    let simulator = named_simulator();
    through_each(&simulator, |proxy, mut setup| {
        setup.api("http2", "auto").variable("CAREPORTALS_WORKERS", "1");
        let sidecar = setup.start().ready();
        Crowd::send(&sidecar, 20, &Request::post("/_sim/echo", "once")).succeeds();
        assert_eq!(proxy.heads().len(), 2, "one for the log-in, one that all requests share");
    });
}

#[test]
fn the_proxys_credentials_go_to_the_proxy_and_the_clients_go_nowhere() {
    let simulator = named_simulator();
    through_each(&simulator, |proxy, setup| {
        let sidecar = setup.start().ready();
        let answer = sidecar.send(&Request::get("/_sim/echo").header("Proxy-Authorization", "Basic eDp5"));
        assert_eq!(answer.echoed("proxy-authorization"), Vec::<String>::new());
        for head in proxy.heads() {
            assert!(head.ends_with("\r\nProxy-Authorization: Basic YW5uOnB3\r\n\r\n"), "{head}");
        }
    });
}

#[test]
fn the_upstreams_own_certificate_is_verified_inside_the_tunnel() {
    let (simulator, other) = (named_simulator(), named_simulator());
    let proxy = lead(&other);
    let sidecar = without_login(&proxy, &simulator);
    let answer = sidecar.get("/v2/products");
    assert_eq!((answer.status, answer.problem().as_str()), (502, "certificate_rejected"));
    sidecar.wait_for_log("the upstream's certificate was not accepted: its issuer is not trusted");
    assert_eq!(other.control().counts().requests, 0);
}

#[test]
fn an_upstream_that_is_silent_inside_the_tunnel_is_not_the_proxys_fault() {
    let simulator = named_simulator();
    simulator.pause_accepting(true);
    let proxy = lead(&simulator);
    let sidecar = without_login(&proxy, &simulator);
    let answer = sidecar.get("/v2/products");
    assert_eq!((answer.status, answer.problem().as_str()), (504, "connect_timeout"));
    sidecar.wait_for_log("connecting to the upstream took too long");
}

#[test]
fn a_log_in_that_the_proxy_refuses_says_so() {
    let simulator = named_simulator();
    let proxy = ConnectProxy::plain(Manner::Say("HTTP/1.1 407 No\r\n\r\n"));
    let sidecar = behind(&simulator, &proxy, "").start();
    sidecar.wait_for_log("log-in failed: the egress proxy is no way to the upstream: it asks for other credentials (407)");
}

#[test]
fn check_online_says_where_the_proxy_is_on_the_way_and_which_step_failed() {
    let simulator = named_simulator();
    through_each(&simulator, |proxy, setup| {
        let output = setup.output_of(&["check", "--online"]);
        assert_eq!(output.code, Some(0), "{output:?}");
        let scheme = if proxy.certificate.is_some() { "https" } else { "http" };
        let through = format!("through the egress proxy {scheme}://{}", proxy.address);
        for subject in ["api default: ", "account default: log-in at "] {
            let line = output.stdout.lines().find(|line| line.starts_with(&format!("ok: {subject}")));
            assert!(line.is_some_and(|line| line.contains(&through)), "{output:?}");
        }
    });
    for (manner, expected) in [
        (Manner::Say("HTTP/1.1 407 No\r\n\r\n"), "it asks for other credentials (407); check those in HTTPS_PROXY"),
        (Manner::Say("HTTP/1.1 403 No\r\n\r\n"), "it answered CONNECT with 403; the proxy must allow CONNECT"),
    ] {
        let output = behind(&simulator, &ConnectProxy::plain(manner), "ann:pw@").output_of(&["check", "--online"]);
        assert_eq!(output.code, Some(1), "{output:?}");
        assert!(output.stdout.contains(expected), "{output:?}");
    }
    let proxy = ConnectProxy::over_tls(Manner::Silent);
    let output = behind(&simulator, &proxy, "ann:pw@").output_of(&["check", "--online"]);
    assert_eq!(output.code, Some(1), "{output:?}");
    assert!(
        output.stdout.contains("its certificate was not accepted: its issuer is not trusted; a private authority"),
        "{output:?}"
    );
}

#[test]
fn a_reload_keeps_the_proxy() {
    let simulator = named_simulator();
    let proxy = lead(&simulator);
    let mut setup = unlogged(&proxy, &simulator);
    setup.settings("[apis.default]\nresponse_timeout = \"50s\"\nmax_headers = 90\n");
    let sidecar = setup.start();
    assert_eq!(sidecar.get("/v2/products").status, 200);
    // What connections are made of has changed: new ones are made.
    sidecar.setup.file("config.toml", "[apis.default]\nmax_headers = 91\n");
    sidecar.signal(Signal::HUP);
    sidecar.wait_for_log("\"reloaded\"");
    assert_eq!(sidecar.get("/v2/products").status, 200);
    assert_eq!(proxy.heads().len(), 2);
}
