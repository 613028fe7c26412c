//! Headers on their way to upstream: what is added, removed and kept.

use careportals_simulator::Simulator;

use crate::harness::{Answer, OK, ORGANIZATION, RecordingUpstream, Request, Setup, Sidecar, simulator};

/// Each header's name that reached upstream, sorted.
fn names(answer: &Answer) -> Vec<String> {
    let document = answer.json();
    let headers = document["headers"].as_array().unwrap_or_else(|| panic!("not an echo: {answer:?}"));
    let mut names: Vec<String> = headers.iter().map(|pair| pair[0].as_str().unwrap().to_owned()).collect();
    names.sort();
    names
}

fn assert_ours(simulator: &Simulator, answer: &Answer) {
    assert_eq!(answer.status, 200, "{answer:?}");
    let token = simulator.control().last_token().unwrap();
    assert_eq!(answer.echoed("authorization"), [format!("Bearer {token}")]);
    assert_eq!(answer.echoed("organization"), [ORGANIZATION]);
}

#[test]
fn nothing_but_host_and_credentials_is_added() {
    let simulator = simulator();
    let sidecar = Sidecar::start(&simulator);
    let answer = sidecar.get("/_sim/echo");
    assert_eq!(names(&answer), ["authorization", "host", "organization"]);
    assert_eq!(answer.header("via"), None);
}

#[test]
fn a_clients_own_credentials_never_arrive() {
    let simulator = simulator();
    let sidecar = Sidecar::start(&simulator);
    for (name, value) in [
        ("Authorization", "Bearer forged"),
        ("AUTHORIZATION", "Basic Zm9yZ2Vk"),
        ("organization", "forged"),
        ("Organization", "other"),
    ] {
        let answer = sidecar.send(&Request::get("/_sim/echo").header(name, value).header(name, value));
        assert_ours(&simulator, &answer);
        assert_eq!(names(&answer), ["authorization", "host", "organization"], "{name}");
    }
    assert_eq!(simulator.control().counts().malformed, 0);
}

#[test]
fn what_connection_names_is_removed_except_what_the_sidecar_adds() {
    let simulator = simulator();
    let sidecar = Sidecar::start(&simulator);
    let request = Request::post("/_sim/echo", "five!")
        .header("Connection", "X-Private, authorization,organization , host, content-length")
        .header("Connection", "x-also_private")
        .header("X-Private", "1")
        .header("X-Also-Private", "2")
        .header("X-Public", "3");
    let answer = sidecar.send(&request);
    assert_ours(&simulator, &answer);
    assert_eq!(names(&answer), ["authorization", "content-length", "host", "organization", "x-public"]);
    assert_eq!(answer.json()["body"], "five!");
}

#[test]
fn hop_by_hop_headers_do_not_pass() {
    let simulator = simulator();
    let sidecar = Sidecar::start(&simulator);
    for (name, value) in [
        ("Connection", "keep-alive"),
        ("Keep-Alive", "timeout=5"),
        ("Keep_Alive", "timeout=5"),
        ("Proxy-Connection", "keep-alive"),
        ("Proxy-Authorization", "Basic Zm9yZ2Vk"),
        ("Proxy-Authenticate", "Basic"),
    ] {
        let answer = sidecar.send(&Request::get("/_sim/echo").header(name, value));
        assert_eq!(names(&answer), ["authorization", "host", "organization"], "{name}");
    }
}

#[test]
fn what_says_where_a_request_came_from_is_removed() {
    let simulator = simulator();
    let sidecar = Sidecar::start(&simulator);
    for (name, value) in [
        ("Cookie", "session=1"),
        ("Origin", "http://localhost"),
        ("Proxy", "http://attacker.example"),
        ("Proxy-Anything", "1"),
        ("Proxy_Anything", "1"),
        ("Forwarded", "for=192.0.2.1"),
        ("X-Forwarded-For", "192.0.2.1"),
        ("X_Forwarded_For", "192.0.2.1"),
        ("X-Forwarded_Host", "attacker.example"),
        ("X-Forwarded-Anything", "1"),
        ("X-Real-IP", "192.0.2.1"),
        ("x_real_ip", "192.0.2.1"),
    ] {
        let answer = sidecar.send(&Request::get("/_sim/echo").header(name, value).header("X-Kept", "1"));
        assert_eq!(names(&answer), ["authorization", "host", "organization", "x-kept"], "{name}");
    }
}

#[test]
fn everything_else_passes_in_its_order() {
    let simulator = simulator();
    let sidecar = Sidecar::start(&simulator);
    let kept = [
        ("accept", "application/json;q=0.9, */*"),
        ("accept-encoding", "br"),
        ("content-type", "text/plain; charset=utf-8"),
        ("if-none-match", "\"x\""),
        ("idempotency-key", "k-1"),
        ("range", "bytes=0-1"),
        ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
        ("tracestate", "a=1,b=2"),
        ("user-agent", "an app/1.0"),
        ("x-empty", ""),
        ("x-forwardedfor", "not one of them"),
        ("x-many", "one"),
        ("x-many", "two, three"),
        ("x-many", "four"),
        ("x-many", "one"),
        ("x-request-id", "Order_17.a-B"),
        ("x_under_scored", "kept"),
    ];
    let mut request = Request::get("/_sim/echo");
    // Spread out, so that the order of one name's values is not the order of neighbours.
    for (place, (name, value)) in kept.into_iter().enumerate() {
        request = request.header(name, value).header(&format!("x-between-{place}"), "1");
    }
    let answer = sidecar.send(&request);
    for (name, _) in kept {
        let expected: Vec<&str> = kept.iter().filter(|(other, _)| *other == name).map(|(_, value)| *value).collect();
        assert_eq!(answer.echoed(name), expected, "{name}");
    }
    assert_eq!(names(&answer).iter().filter(|name| name.starts_with("x-between-")).count(), kept.len());
}

#[test]
fn values_pass_byte_for_byte() {
    let simulator = simulator();
    let upstream = RecordingUpstream::start(OK);
    let sidecar = upstream.setup(&simulator).start();
    let mut client = sidecar.connect();
    client.write(b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Odd:\t a \xe4\t\xff  b,;\"\\ \r\n\r\n");
    assert_eq!(client.answer("GET").status, 200);
    let request = upstream.requests().remove(0);
    assert!(request.contains("x-odd: a \u{e4}\t\u{ff}  b,;\"\\\r\n"), "{request:?}");
}

#[test]
fn a_request_id_passes_only_if_it_is_well_formed() {
    let simulator = simulator();
    let sidecar = Sidecar::start(&simulator);
    let (longest, too_long) = ("i".repeat(64), "i".repeat(65));
    for good in ["1", "a.B_c-9", &longest] {
        let answer = sidecar.send(&Request::get("/_sim/echo").header("X-Request-Id", good));
        assert_eq!(answer.echoed("x-request-id"), [good]);
    }
    for bad in ["", "a b", "a/b", "jane@example.test", "\u{e4}", &too_long] {
        let answer = sidecar.send(&Request::get("/_sim/echo").header("X-Request-Id", bad));
        assert_eq!(answer.echoed("x-request-id"), [""; 0], "{bad:?}");
    }
    let twice = Request::get("/_sim/echo").header("X-Request-Id", "a").header("X-Request-Id", "b");
    assert_eq!(sidecar.send(&twice).echoed("x-request-id"), [""; 0]);
    let underscored = Request::get("/_sim/echo").header("X_Request_Id", "jane");
    assert_eq!(sidecar.send(&underscored).echoed("x_request_id"), [""; 0]);
}

#[test]
fn host_is_the_upstreams_and_comes_once() {
    let simulator = simulator();
    let sidecar = Sidecar::start(&simulator);
    let answer = sidecar.send(&Request::get("/_sim/echo").host("127.0.0.1:1"));
    assert_eq!(answer.echoed("host"), [simulator.base_url().trim_start_matches("https://")]);
}

#[test]
fn cookies_pass_both_ways_only_when_asked_for() {
    let simulator = simulator();
    let mut setup = Setup::new(&simulator);
    setup.api("cookies", "pass");
    let sidecar = setup.start();
    let answer = sidecar.send(&Request::get("/_sim/echo").header("Cookie", "a=1").header("Cookie", "b=2"));
    assert_eq!(answer.echoed("cookie"), ["a=1", "b=2"]);
    let set = sidecar.get("/_sim/cookies");
    assert_eq!(set.all("set-cookie"), ["session=invented; Path=/; Secure; HttpOnly", "theme=dark; Path=/"]);
}

#[test]
fn fixed_headers_replace_the_clients() {
    let simulator = simulator();
    let mut setup = Setup::new(&simulator);
    setup.api("headers", r#"{ origin = "https://acme.example.test", x-api-client = "sidecar" }"#);
    let sidecar = setup.start();
    let request = Request::get("/_sim/echo")
        .header("Origin", "http://localhost")
        .header("X-Api-Client", "forged")
        .header("X_Api_Client", "forged")
        .header("Connection", "x-api-client, origin");
    let answer = sidecar.send(&request);
    assert_eq!(answer.echoed("origin"), ["https://acme.example.test"]);
    assert_eq!(answer.echoed("x-api-client"), ["sidecar"]);
    assert_eq!(names(&answer), ["authorization", "host", "organization", "origin", "x-api-client"]);
}

#[test]
fn an_account_that_does_not_log_in_adds_the_organization_only() {
    let simulator = simulator();
    let mut setup = Setup::new(&simulator);
    setup.variable("CAREPORTALS_LOGIN_URL", "off").without("CAREPORTALS_USERNAME").without("CAREPORTALS_PASSWORD");
    let sidecar = setup.start();
    let answer = sidecar.send(&Request::get("/v2/products").header("Authorization", "Bearer forged"));
    assert_eq!(answer.status, 200, "{answer:?}");
    let seen = simulator.control().requests().remove(0);
    assert_eq!(seen.values("organization"), [ORGANIZATION]);
    assert_eq!(seen.values("authorization"), [""; 0]);
    assert_eq!(simulator.control().counts().logins, 0);
}
