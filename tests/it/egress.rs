//! The way out through a proxy: log-ins and requests, credentials, exceptions, refusals.

use careportals_simulator::{Options, Simulator};
use rustix::process::Signal;

use crate::{
    connect_proxy::{ConnectProxy, Manner},
    http::Request,
    sidecar::{Setup, Sidecar},
};

/// A name that only the proxy finds.
const NAME: &str = "api.sim.example.test";
/// What must not be seen anywhere.
const PASSWORD: &str = "egress-canary-7f3a";

fn simulator() -> Simulator {
    Simulator::start(Options { names: vec![NAME.to_owned()], ..Options::default() }).unwrap()
}

/// In front of the simulator by that name, with the proxy on the way.
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
    let simulator = simulator();
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
    let simulator = simulator();
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
    let simulator = simulator();
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
fn of_a_name_in_two_cases_the_lower_one_counts() {
    let simulator = simulator();
    let (used, unused) = (lead(&simulator), lead(&simulator));
    let mut setup = behind(&simulator, &unused, "");
    setup.variable("https_proxy", &format!("http://{}", used.address));
    setup.variable("NO_PROXY", "*").variable("no_proxy", "other.example");
    let _sidecar = setup.start().ready();
    assert!(!used.heads().is_empty());
    assert!(unused.heads().is_empty());
}

#[test]
fn loopback_and_exceptions_are_reached_directly() {
    let simulator = simulator();
    let proxy = lead(&simulator);
    let mut setup = Setup::new(&simulator);
    setup.variable("https_proxy", &format!("http://{}", proxy.address));
    let _sidecar = setup.start().ready();
    // The name of nobody, which only the proxy would find.
    let mut excepted = behind(&simulator, &proxy, "");
    excepted.variable("NO_PROXY", "b.example, .sim.example.test");
    let sidecar = excepted.start();
    sidecar.wait_for_log("log-in failed: log-in: the upstream's name could not be resolved");
    assert!(proxy.heads().is_empty());
}

#[test]
fn a_proxy_over_tls_is_verified_like_any_server() {
    let simulator = simulator();
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

/// Without log-in, in front of a name that only a proxy finds.
fn without_login(proxy: &ConnectProxy, simulator: &Simulator) -> Sidecar {
    let upstream = format!("https://{NAME}:{}", simulator.address().port());
    let mut setup = Setup::without_login(&upstream, simulator.ca_pem());
    setup.variable("HTTPS_PROXY", &format!("http://{}", proxy.address)).api("connect_timeout", "500ms");
    setup.start()
}

#[test]
fn what_the_proxy_refuses_is_said_to_be_so() {
    let simulator = simulator();
    for (says, reason) in [
        ("HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic\r\nContent-Length: 0\r\n\r\n", "407"),
        ("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno", "it answered CONNECT with 403"),
        ("SSH-2.0-OpenSSH_9.9\r\n\r\n", "its answer to CONNECT is not HTTP"),
        ("HTTP/1.1 200 OK\r\n\r\nand more", "its answer to CONNECT is not HTTP"),
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
fn a_proxy_that_is_silent_hangs_up_or_is_not_there_is_an_error_of_connecting() {
    let simulator = simulator();
    for (manner, status, code) in [
        (Manner::Silent, 504, "connect_timeout"),
        (Manner::Say(""), 502, "connect_failed"),
        (Manner::Say("HTTP/1.1 200 OK\r\n"), 502, "connect_failed"),
    ] {
        let proxy = ConnectProxy::plain(manner);
        let answer = without_login(&proxy, &simulator).get("/_sim/echo");
        assert_eq!((answer.status, answer.problem().as_str()), (status, code));
    }
    let mut gone = ConnectProxy::plain(Manner::Silent);
    // Bound by nobody who listens.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    gone.address = socket.local_addr().unwrap().as_socket().unwrap();
    let sidecar = without_login(&gone, &simulator);
    let answer = sidecar.get("/_sim/echo");
    assert_eq!((answer.status, answer.problem().as_str()), (502, "connect_failed"));
    sidecar.wait_for_log("the egress proxy is no way to the upstream: it refused the connection");
}

#[test]
fn a_proxy_that_is_none_of_ours_is_a_fault_without_its_credentials() {
    let simulator = simulator();
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
    let simulator = simulator();
    let proxy = lead(&simulator);
    let mut sidecar = behind(&simulator, &proxy, "").start().ready();
    sidecar.signal(Signal::TERM);
    assert_eq!(sidecar.wait().code(), Some(0));
}
