//! Requests that are refused without a byte of them reaching upstream, and in which order.

use crate::harness::{Answer, Request, Setup, Sidecar, simulator};

const LOGIN_PATHS: [&str; 5] = ["/patient/auth", "/auth/login", "/auth", "/patient/auth/login", "/auth/refresh"];

fn code(answer: &Answer) -> String {
    if answer.status == 200 { "passes".to_owned() } else { answer.problem() }
}

/// A request to the echo with each of `headers`.
fn echo(headers: &[(&str, &str)]) -> Request {
    Request::get("/_sim/echo").headers(headers.iter().copied())
}

#[test]
fn a_host_that_is_not_ours_is_421() {
    let simulator = simulator();
    let sidecar = Sidecar::start(&simulator).ready();
    simulator.control().reset_counts();
    for host in [
        "rebound.example.test",
        "localhost.example.test",
        "127.0.0.1.example.test",
        "128.0.0.1",
        "126.255.255.255",
        "[::2]",
        "[::1",
        "::1",
        "localhost:1:2",
        "localhost:x",
        "somebody@localhost",
        "localhost/",
        "127.1",
        "0x7f000001",
        "2130706433",
        "0.0.0.0",
        "",
        "*",
        ",localhost",
    ] {
        let answer = sidecar.send(&Request::get("/users/account").host(host));
        assert_eq!((answer.status, code(&answer).as_str()), (421, "host_not_allowed"), "{host:?}");
    }
    assert_eq!(simulator.control().counts().requests, 0);
}

#[test]
fn a_host_that_names_this_machine_passes_with_any_port() {
    let simulator = simulator();
    let sidecar = Sidecar::start(&simulator);
    for host in
        ["localhost", "LocalHost:1", "localhost:", "127.0.0.1", "127.0.0.1:2273", "127.255.9.8:65535", "[::1]", "[::1]:2273"]
    {
        assert_eq!(code(&sidecar.send(&echo(&[]).host(host))), "passes", "{host:?}");
    }
}

#[test]
fn a_host_that_names_the_upstream_passes() {
    let simulator = simulator();
    let mut setup = Setup::new(&simulator);
    setup.upstream("https://api.careportals.invalid", &simulator).api("connect_timeout", "200ms");
    let sidecar = setup.start();
    for host in ["api.careportals.invalid", "API.CarePortals.invalid:443"] {
        let answer = sidecar.send(&Request::get("/").host(host));
        // No such host exists: the request got as far as looking for it.
        assert!(matches!(answer.problem().as_str(), "dns_failed" | "dns_timeout"), "{answer:?}");
    }
    assert_eq!(sidecar.send(&Request::get("/").host("careportals.invalid")).problem(), "host_not_allowed");
}

#[test]
fn allowed_hosts_are_exact_names() {
    let simulator = simulator();
    let mut setup = Setup::new(&simulator);
    setup.api("allowed_hosts", r#"["sidecar.example.test", "10.1.2.3"]"#);
    let sidecar = setup.start();
    for host in ["sidecar.example.test", "SIDECAR.example.test:99", "10.1.2.3:80", "localhost"] {
        assert_eq!(code(&sidecar.send(&echo(&[]).host(host))), "passes", "{host:?}");
    }
    for host in ["example.test", "a.sidecar.example.test", "sidecar.example.test.example", "10.1.2.30"] {
        assert_eq!(code(&sidecar.send(&echo(&[]).host(host))), "host_not_allowed", "{host:?}");
    }
}

#[test]
fn an_asterisk_allows_any_host() {
    let simulator = simulator();
    let mut setup = Setup::new(&simulator);
    setup.api("allowed_hosts", r#"["*"]"#);
    let sidecar = setup.start();
    for host in ["anything.example.test", "192.0.2.1:80", "[2001:db8::1]:80"] {
        assert_eq!(code(&sidecar.send(&echo(&[]).host(host))), "passes", "{host:?}");
    }
}

#[test]
fn any_host_passes_on_a_unix_socket_and_upstream_sees_its_own() {
    let simulator = simulator();
    let mut setup = Setup::new(&simulator);
    let path = setup.dir.path().join("api.sock");
    setup.variable("CAREPORTALS_LISTEN", &format!("unix:{}", path.display()));
    let sidecar = setup.start();
    for host in ["anything.example.test", "x", ""] {
        let answer = Sidecar::connect_unix(&path).send(&echo(&[]).host(host));
        assert_eq!(code(&answer), "passes", "{host:?}");
        assert_eq!(answer.echoed("host"), [simulator.base_url().trim_start_matches("https://")]);
    }
    let mut hostless = echo(&[]);
    hostless.headers.clear();
    assert_eq!(code(&Sidecar::connect_unix(&path).send(&hostless)), "bad_host");
    let page = echo(&[("Origin", "https://page.example.test")]);
    assert_eq!(code(&Sidecar::connect_unix(&path).send(&page)), "cross_site");
    drop(sidecar);
}

#[test]
fn a_request_without_exactly_one_host_is_400() {
    let simulator = simulator();
    let sidecar = Sidecar::start(&simulator).ready();
    simulator.control().reset_counts();
    let mut hostless = echo(&[]);
    hostless.headers.clear();
    for request in [hostless, echo(&[("Host", "localhost")]), echo(&[("host", "elsewhere.example.test")])] {
        let answer = sidecar.send(&request);
        assert_eq!((answer.status, code(&answer).as_str()), (400, "bad_host"), "{request:?}");
    }
    assert_eq!(simulator.control().counts().requests, 0);
}

#[test]
fn connect_and_trace_are_405_and_told_what_is_allowed() {
    let simulator = simulator();
    let sidecar = Sidecar::start(&simulator).ready();
    simulator.control().reset_counts();
    for (method, target) in [("CONNECT", "localhost:443"), ("TRACE", "/users/account"), ("TRACE", "*")] {
        let answer = sidecar.send(&Request::new(method, target));
        assert_eq!((answer.status, answer.problem().as_str()), (405, "method_not_allowed"), "{method}");
        let mut allowed: Vec<&str> = answer.header("allow").unwrap().split(", ").collect();
        allowed.sort_unstable();
        assert_eq!(allowed, ["DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"]);
    }
    assert_eq!(simulator.control().counts().requests, 0);
}

#[test]
fn no_log_in_path_is_reachable_by_any_method() {
    let simulator = simulator();
    let sidecar = Sidecar::start(&simulator).ready();
    simulator.control().reset_counts();
    for path in LOGIN_PATHS {
        for method in ["POST", "GET", "PUT", "HEAD", "OPTIONS", "ANY"] {
            let answer = sidecar.send(&Request::new(method, path));
            assert_eq!(answer.status, 403, "{method} {path}");
            if method != "HEAD" {
                assert_eq!(answer.problem(), "login_path");
            }
        }
    }
    assert_eq!((simulator.control().counts().logins, simulator.control().counts().requests), (0, 0));
}

#[test]
fn no_spelling_of_a_log_in_path_is_reachable() {
    let simulator = simulator();
    let sidecar = Sidecar::start(&simulator).ready();
    simulator.control().reset_counts();
    for target in [
        "/auth/",
        "/auth//",
        "//auth",
        "/AUTH",
        "/auth?x=/users",
        "/auth#x",
        "/auth;x=y",
        "/auth;",
        "/;x/auth",
        "/./auth",
        "/x/../auth",
        "/auth/.",
        "/auth/x/..",
        "/%61uth",
        "/%2561uth",
        "/%252561uth",
        "/patient%2Fauth",
        "/patient%252fauth",
        "/patient\\auth",
        "/patient%5cauth",
        "/%2e%2e/auth",
        "/x/%2e%2e/auth",
        "/PATIENT//Auth%2f",
        "/auth+",
        "/auth.json",
        "/auth.xml",
        "//host/auth",
        "/\\host/patient/auth",
        "/index.php/auth",
        "/auth/refresh/",
        "/auth/log%c4%b1n",
        "/%f0%9d%9a%8auth",
        "/%ef%bd%81uth",
        "/au%c2%85th",
        "http://localhost/auth",
    ] {
        let answer = sidecar.send(&Request::post(target, r#"{"username":"a","password":"b"}"#));
        assert_eq!((answer.status, code(&answer).as_str()), (403, "login_path"), "{target}");
    }
    assert_eq!((simulator.control().counts().logins, simulator.control().counts().requests), (0, 0));
}

#[test]
fn paths_that_only_resemble_a_log_in_path_pass() {
    let simulator = simulator();
    let sidecar = Sidecar::start(&simulator).ready();
    simulator.control().reset_counts();
    for path in ["/auth/forgot", "/authors", "/x/auth", "/patient", "/patient/auth/logins", "/users?next=/auth", "//host/users"] {
        // The simulator knows none of them.
        assert_eq!(sidecar.get(path).header("proxy-status"), None, "{path}");
    }
    assert_eq!(simulator.control().counts().requests, 7);
}

#[test]
fn log_in_and_refresh_paths_of_the_account_are_refused_too() {
    let simulator = simulator();
    let mut setup = Setup::new(&simulator);
    setup
        .variable("CAREPORTALS_LOGIN_URL", &format!("{}/auth", simulator.base_url()))
        .account("refresh_url", &format!("{}/custom/renew", simulator.base_url()));
    let sidecar = setup.start().ready();
    assert_eq!(sidecar.send(&Request::post("/custom/renew", "{}")).problem(), "login_path");
    assert_eq!(sidecar.send(&Request::post("/CUSTOM//renew/", "{}")).problem(), "login_path");
    assert_eq!(sidecar.send(&Request::post("/auth", "{}")).problem(), "login_path");
}

#[test]
fn the_final_path_at_the_upstream_is_what_counts() {
    let simulator = simulator();
    let mut setup = Setup::new(&simulator);
    setup.upstream(&format!("{}/auth", simulator.base_url()), &simulator);
    let sidecar = setup.start();
    // The upstream sees /auth/login, /auth/ and so on; and /auth/auth would be its log-in if it has its own under its base.
    for target in ["/login", "/LOGIN/", "/", "/?x", "http://localhost", "/../auth", "/%2e%2e/patient/auth", "/auth"] {
        assert_eq!(sidecar.send(&Request::post(target, "{}")).problem(), "login_path", "{target}");
    }
    for target in ["/forgot", "/x/auth"] {
        assert_eq!(sidecar.get(target).header("proxy-status"), None, "{target}");
    }
    let targets: Vec<String> = simulator.control().requests().into_iter().map(|seen| seen.target).collect();
    assert_eq!(targets, ["/auth/forgot", "/auth/x/auth"]);
}

#[test]
fn faults_are_judged_in_a_fixed_order() {
    let simulator = simulator();
    let sidecar = Sidecar::start(&simulator).ready();
    simulator.control().reset_counts();
    // All faults at once; each is taken away as soon as it was told.
    let mut request = Request::new("TRACE", "http://elsewhere.example.test/auth")
        .host("rebound.example.test")
        .header("Host", "rebound.example.test")
        .header("Origin", "https://page.example.test");
    let mut told = Vec::new();
    for _ in 0..6 {
        let code = code(&sidecar.send(&request));
        match code.as_str() {
            "bad_host" => drop(request.headers.remove(1)),
            "method_not_allowed" => "POST".clone_into(&mut request.method),
            "host_not_allowed" => request = request.host("localhost"),
            "bad_target" => "/auth".clone_into(&mut request.target),
            "cross_site" => request.headers.truncate(1),
            _ => "/_sim/echo".clone_into(&mut request.target),
        }
        told.push(code);
    }
    assert_eq!(told, ["bad_host", "method_not_allowed", "host_not_allowed", "bad_target", "cross_site", "login_path"]);
    assert_eq!(simulator.control().counts().requests, 0);
    assert_eq!(code(&sidecar.send(&request)), "passes");
}

#[test]
fn a_refused_request_does_not_cost_the_connection() {
    let simulator = simulator();
    let sidecar = Sidecar::start(&simulator);
    let mut client = sidecar.connect();
    assert_eq!(client.send(&Request::get("/auth")).problem(), "login_path");
    // That holds for a request with a body, too, however much of it has come when the answer does.
    assert_eq!(client.send(&Request::post("/auth", "a body")).problem(), "login_path");
    let request = Request::post("/auth", vec![b'x'; 8 * 1024 * 1024]);
    client.write(&request.head());
    assert_eq!(client.answer("POST").problem(), "login_path");
    client.write(&request.body);
    assert_eq!(client.send(&Request::get("/users/account").host("x.example.test")).problem(), "host_not_allowed");
    assert_eq!(client.send(&Request::get("/users/account")).status, 200);
}
