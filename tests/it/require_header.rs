//! The header without which nothing passes, against requests that a server was tricked into: `require_header`.

use std::{
    fs,
    net::TcpStream,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use careportals_simulator::Simulator;
use rustix::process::{Signal, getuid};

use crate::harness::{
    Answer, Connection, Http2, OFF_AND_AUTO, Request, SetAtEnd, Setup, Sidecar, mount_secret, now, renew_secret, simulator, until,
};

const VALUE: &str = "canary-required-1";
const NEXT: &str = "canary-required-2";

/// A sidecar at a TCP address and at a Unix socket that requires a header.
fn requiring(simulator: &Simulator, setting: &str) -> Setup {
    let mut setup = Setup::new(simulator);
    let socket = setup.dir.path().join("api.sock");
    setup.variable("CAREPORTALS_LISTEN", &format!("127.0.0.1:0,unix:{}", socket.display()));
    setup.api("require_header", setting);
    setup
}

/// A sidecar whose required value comes from that source.
fn with_value(simulator: &Simulator, value: &str) -> Setup {
    requiring(simulator, &format!("{{ name = \"X-App-Key\", value = {value} }}"))
}

fn from_file(simulator: &Simulator, content: &str) -> Setup {
    let setup = with_value(simulator, "{ file = \"mount/key\" }");
    fs::create_dir(setup.dir.path().join("mount")).unwrap();
    if !content.is_empty() {
        setup.file("mount/key", content);
    }
    setup
}

fn echo(lines: &[(&str, &str)]) -> Request {
    Request::get("/_sim/echo").headers(lines.iter().copied())
}

fn with(value: &str) -> Request {
    echo(&[("X-App-Key", value)])
}

/// Sends the request over each kind of listener in each protocol.
fn every_way(sidecar: &Sidecar, request: &Request) -> [Answer; 3] {
    let socket = sidecar.setup.dir.path().join("api.sock");
    let mut http2 = Http2::connect(sidecar.address());
    [sidecar.send(request), Sidecar::connect_unix(&socket).send(request), http2.send(request)]
}

#[track_caller]
fn assert_refused(answer: &Answer) {
    assert_eq!((answer.status, answer.problem().as_str()), (403, "header_required"), "{answer:?}");
    assert_eq!(answer.header("proxy-status"), Some("careportals-sidecar; error=http_request_denied"));
    let detail = answer.json()["detail"].as_str().unwrap().to_owned();
    assert!(detail.contains("`require_header`"), "{detail}");
}

/// Repeats the request until it is answered with that status.
#[track_caller]
fn until_status(sidecar: &Sidecar, request: &Request, status: u16) {
    let mut client = sidecar.connect();
    until(&format!("the answer is {status}"), || client.send(request).status == status);
}

#[test]
fn without_a_value_the_header_must_be_there_whatever_it_holds() {
    let simulator = simulator();
    let sidecar = requiring(&simulator, "{ name = \"X-App\" }").start().ready_with(&echo(&[("X-App", "true")]));
    simulator.control().reset_counts();
    for lines in [&[("x-app", "true")][..], &[("X-APP", "")], &[("X_App", "1")], &[("X-App", "1"), ("X-App", "2")]] {
        for answer in every_way(&sidecar, &echo(lines)) {
            assert_eq!(answer.status, 200, "{lines:?} {answer:?}");
            assert!(!answer.text().to_lowercase().contains("x-app") && !answer.text().contains("x_app"), "{}", answer.text());
        }
    }
    for lines in [&[][..], &[("x-ap", "1")], &[("x-app-2", "x-app")]] {
        for answer in every_way(&sidecar, &echo(lines)) {
            assert_refused(&answer);
        }
    }
    assert_eq!(simulator.control().counts().requests, 12, "none of the refused ones arrived");
}

#[test]
fn with_a_value_it_must_be_there_once_and_hold_just_that() {
    let simulator = simulator();
    let mut setup = with_value(&simulator, &format!("\"{VALUE}\""));
    setup.with_telemetry();
    let sidecar = setup.start().ready_with(&with(VALUE));
    simulator.control().reset_counts();
    for name in ["x-app-key", "x_app_key", "x-app_key"] {
        for answer in every_way(&sidecar, &echo(&[(name, VALUE)])) {
            assert_eq!(answer.status, 200, "{answer:?}");
            assert!(!answer.text().contains(VALUE), "it goes no further: {}", answer.text());
        }
    }
    let wrong = [
        &[][..],
        &[("x-app-key", "")],
        &[("x-app-key", "canary-required-")],
        &[("x-app-key", "canary-required-11")],
        &[("x-app-key", "canary-required-2")],
        &[("x-app-key", "Canary-required-1")],
        &[("x-app-key", VALUE), ("x-app-key", VALUE)],
        &[("x-app-key", VALUE), ("x_app_key", VALUE)],
        &[("x_app_key", "wrong"), ("x-app-key", VALUE)],
        &[("x-other", VALUE)],
    ];
    for lines in wrong {
        let answers = every_way(&sidecar, &echo(lines));
        for answer in &answers {
            assert_refused(answer);
        }
    }
    assert_eq!(simulator.control().counts().requests, 9, "none of the refused ones arrived");
    let page = sidecar.telemetry("/metrics");
    let counted = format!("careportals_sidecar_refusals_total{{api=\"default\",reason=\"header_required\"}} {}", wrong.len() * 3);
    assert!(page.text().contains(&counted), "{}", page.text());
}

#[test]
fn missing_and_wrong_are_answered_alike() {
    let simulator = simulator();
    let sidecar = with_value(&simulator, &format!("\"{VALUE}\"")).start();
    let told = |request: Request| {
        let answer = sidecar.send(&request.header("X-Request-Id", "same"));
        let headers: Vec<_> = answer.headers.iter().filter(|(name, _)| name != "date").cloned().collect();
        (answer.status, headers, answer.text().to_owned())
    };
    let missing = told(Request::get("/_sim/echo"));
    for value in ["", "wrong", NEXT, "canary-required-10"] {
        assert_eq!(told(with(value)), missing, "{value:?}");
    }
}

#[test]
fn as_a_trailer_the_required_header_neither_counts_nor_passes() {
    for http2 in OFF_AND_AUTO {
        let simulator = simulator();
        let mut setup = with_value(&simulator, &format!("\"{VALUE}\""));
        setup.api("http2", http2);
        let sidecar = setup.start().ready_with(&with(VALUE));
        for (request, status) in [(Request::new("POST", "/_sim/echo"), 403), (with_post(VALUE), 200)] {
            let request = request.header("trailer", "x-app-key, x-sum");
            let mut client = sidecar.connect();
            client.write(&request.clone().header("transfer-encoding", "chunked").head());
            client.write(format!("4\r\nbody\r\n0\r\nx-app-key: {VALUE}\r\nx-sum: 1\r\n\r\n").as_bytes());
            let over_http1 = client.answer("POST");
            let mut client = Http2::connect(sidecar.address());
            let mut stream = client.open(&request, false);
            client.write(&mut stream, b"body", false);
            client.finish(&mut stream, &[("x_app_key", VALUE), ("x-sum", "1")]);
            let over_http2 = client.answer(stream);
            for answer in [over_http1, over_http2] {
                assert_eq!(answer.status, status, "{answer:?}");
                assert!(!answer.text().contains(VALUE), "{}", answer.text());
                if status == 200 {
                    assert_eq!(answer.json()["trailers"], serde_json::json!([["x-sum", "1"]]));
                }
            }
        }
    }
}

fn with_post(value: &str) -> Request {
    Request::new("POST", "/_sim/echo").header("x-app-key", value)
}

#[test]
fn naming_the_required_header_in_connection_changes_nothing() {
    let simulator = simulator();
    let sidecar = with_value(&simulator, &format!("\"{VALUE}\"")).start().ready_with(&with(VALUE));
    let named = with(VALUE).header("Connection", "x-app-key");
    let answer = sidecar.send(&named);
    assert_eq!((answer.status, answer.echoed("x-app-key").len()), (200, 0));
    assert_refused(&sidecar.send(&Request::get("/_sim/echo").header("Connection", "x-app-key")));
}

#[test]
fn a_required_cookie_is_not_passed_on() {
    let simulator = simulator();
    let mut setup = requiring(&simulator, "{ name = \"cookie\", value = \"a=1\" }");
    setup.api("cookies", "pass");
    let cookie = echo(&[("cookie", "a=1")]);
    let sidecar = setup.start().ready_with(&cookie);
    for answer in every_way(&sidecar, &cookie) {
        assert_eq!((answer.status, answer.echoed("cookie").len()), (200, 0), "{answer:?}");
    }
}

#[test]
fn the_required_header_is_judged_after_the_web_page_and_before_caller_and_path() {
    let simulator = simulator();
    let mut setup = with_value(&simulator, &format!("\"{VALUE}\""));
    setup.api("allow_uids", &format!("[{}]", getuid().as_raw() + 1)).api("prefix", "\"/api\"");
    let sidecar = setup.start();
    for page in [echo(&[("Origin", "http://evil.example")]), with(VALUE).header("Sec-Fetch-Site", "cross-site")] {
        assert_eq!(sidecar.send(&page).problem(), "cross_site");
    }
    assert_eq!(sidecar.send(&Request::get("/api/x").host("evil.example")).problem(), "host_not_allowed");
    assert_refused(&sidecar.get("/api/_sim/echo"));
    assert_refused(&sidecar.get("/elsewhere"));
    assert_refused(&sidecar.get("/api/auth"));
    assert_eq!(sidecar.send(&with(VALUE)).problem(), "caller_not_allowed");
}

#[test]
fn each_api_at_an_address_requires_its_own_header() {
    let simulator = simulator();
    let mut setup = Setup::empty();
    let socket = setup.dir.path().join("api.sock");
    let shared = format!("account = \"demo\"\nupstream = \"{}\"\nlisten = \"unix:{}\"", simulator.base_url(), socket.display());
    let api = |name: &str, rest: &str| format!("[apis.{name}]\n{shared}\nprefix = \"/{name}\"\n{rest}\n");
    let one = api("one", &format!("require_header = {{ name = \"x-app-key\", value = \"{VALUE}\" }}"));
    let (two, three) = (api("two", "require_header = { name = \"x-two\" }"), api("three", ""));
    setup.settings(&format!("{ACCOUNT}{one}{two}{three}")).trust(simulator.ca_pem());
    let _sidecar = setup.start();
    let mut client = Sidecar::connect_unix(&socket);
    let mut status = |path: &str, lines: &[(&str, &str)]| {
        let request = Request { target: format!("{path}/_sim/echo"), ..echo(lines) };
        client.send(&request).status
    };
    assert_eq!([status("/one", &[]), status("/two", &[]), status("/three", &[])], [403, 403, 200]);
    assert_eq!([status("/one", &[("x-two", "1")]), status("/two", &[("x-app-key", VALUE)])], [403, 403]);
    assert_eq!([status("/one", &[("x-app-key", VALUE)]), status("/two", &[("x-two", "1")])], [200, 200]);
}

const ACCOUNT: &str =
    "[accounts.demo]\norganization = \"demo\"\nusername = \"service@demo.example.test\"\npassword = \"demo-password-1\"\n";

#[test]
fn the_value_may_come_from_a_variable_a_command_or_a_file() {
    let simulator = simulator();
    for source in ["{ env = \"CLIENT_KEY\" }", "{ command = [\"sh\", \"-c\", \"cat key; echo >> runs\"] }", "{ file = \"key\" }"]
    {
        let mut setup = with_value(&simulator, source);
        setup.file("key", &format!("{VALUE}\n"));
        setup.variable("CLIENT_KEY", VALUE);
        let sidecar = setup.start().ready_with(&with(VALUE));
        for _ in 0..3 {
            assert_eq!(sidecar.send(&with(VALUE)).status, 200, "{source}");
        }
        assert_refused(&sidecar.send(&with(NEXT)));
        if source.contains("command") {
            let runs = fs::read_to_string(sidecar.setup.dir.path().join("runs")).unwrap();
            assert_eq!(runs.len(), 1, "once, and not for each request");
        }
    }
}

#[test]
fn a_swapped_kubernetes_mount_is_followed_under_load_and_the_new_value_is_never_refused_again() {
    let simulator = simulator();
    let setup = from_file(&simulator, "");
    let mount = setup.dir.path().join("mount");
    mount_secret(&mount, "..first", &[("key", VALUE)]);
    let sidecar = setup.start().ready_with(&with(VALUE));
    let (ended, begun) = (AtomicBool::new(false), now());
    thread::scope(|scope| {
        let _end = SetAtEnd(&ended);
        let load: Vec<_> = (0..2).map(|_| scope.spawn(|| follows(&sidecar, &ended))).collect();
        renew_secret(&mount, "..second", &[("key", NEXT)]);
        until_status(&sidecar, &with(NEXT), 200);
        assert_refused(&sidecar.send(&with(VALUE)));
        let mut client = sidecar.connect();
        for _ in 0..50 {
            assert_eq!(client.send(&with(NEXT)).status, 200);
        }
        ended.store(true, Ordering::Relaxed);
        for client in load {
            let (old, new) = client.join().unwrap();
            assert!(old + new > 0, "{old} {new}");
        }
    });
    // The new directory is watched as the old one was, and each change was noticed by an event: the next look at the file would come later.
    renew_secret(&mount, "..third", &[("key", "canary-required-3")]);
    until_status(&sidecar, &with("canary-required-3"), 200);
    assert_refused(&sidecar.send(&with(NEXT)));
    assert!(begun.elapsed().as_secs() < 25, "noticed by looking");
    sidecar.wait_for_logs("the required header has a new value", 2);
}

/// Sends the old value and the new one in turns. Exactly one of them passes, but for the moment of the change; once the new
/// one has passed it always does, and the old one never.
fn follows(sidecar: &Sidecar, ended: &AtomicBool) -> (usize, usize) {
    let mut client = Connection::tcp(TcpStream::connect(sidecar.address()).unwrap());
    let (mut old, mut new, mut changed) = (0, 0, false);
    while !ended.load(Ordering::Relaxed) {
        let before = client.send(&with(VALUE)).status;
        assert_eq!(before, if changed { 403 } else { before }, "the old value is over");
        old += usize::from(before == 200);
        let after = client.send(&with(NEXT)).status;
        assert!(after == 200 || !changed, "the new value was refused after it had passed");
        assert!(after == 200 || before == 200, "neither of them passes");
        changed = after == 200;
        new += usize::from(changed);
    }
    (old, new)
}

#[test]
fn while_the_file_is_absent_or_empty_nothing_passes_and_the_log_says_why() {
    let simulator = simulator();
    let sidecar = from_file(&simulator, "").start();
    // At once: a file that is being written is empty for a moment.
    let put = |text: &str| {
        let new = sidecar.setup.file("mount/new", text);
        fs::rename(new, sidecar.setup.dir.path().join("mount/key")).unwrap();
    };
    sidecar.wait_for_log("no value is known for the required header");
    for lines in [&[][..], &[("X-App-Key", "")], &[("X-App-Key", VALUE)]] {
        assert_refused(&sidecar.send(&echo(lines)));
    }
    put(&format!("{VALUE}\n"));
    until_status(&sidecar, &with(VALUE), 200);
    put("\n");
    until_status(&sidecar, &with(VALUE), 403);
    for lines in [&[][..], &[("X-App-Key", "")]] {
        assert_refused(&sidecar.send(&echo(lines)));
    }
    put(NEXT);
    until_status(&sidecar, &with(NEXT), 200);
    fs::remove_file(sidecar.setup.dir.path().join("mount/key")).unwrap();
    until_status(&sidecar, &with(NEXT), 403);
    sidecar.wait_for_logs("every request is refused", 3);
    let told = sidecar.events();
    let told = told.iter().filter_map(|event| event["message"].as_str()).filter(|text| text.contains("every request is refused"));
    let told: Vec<_> = told.collect();
    assert!(told[0].contains("does not exist") && told[1].contains("empty") && told[2].contains("does not exist"), "{told:?}");
    assert_eq!(told.len(), 3, "once for each reason");
    assert!(!sidecar.logs().contains(VALUE) && !sidecar.logs().contains(NEXT));
}

#[test]
fn during_a_reload_to_another_value_or_name_no_request_passes_unchecked() {
    let simulator = simulator();
    let settings = |required: &str| {
        let base = simulator.base_url();
        format!("{ACCOUNT}[apis.one]\naccount = \"demo\"\nupstream = \"{base}\"\nlisten = \"127.0.0.1:0\"\n{required}\n")
    };
    let of = |name: &str, value: &str| settings(&format!("require_header = {{ name = \"{name}\", value = {value} }}"));
    let mut setup = Setup::empty();
    setup.file("second", NEXT);
    setup.settings(&settings("")).trust(simulator.ca_pem());
    // A reload can't bring a command to a daemon that has given up running any.
    setup.global("hardening", "off");
    let sidecar = setup.start().ready();
    let mut http2 = Http2::connect(sidecar.address());
    let mut reloads = 0;
    let mut reload = |text: &str| {
        sidecar.setup.file("config.toml", text);
        reloads += 1;
        sidecar.signal(Signal::HUP);
        sidecar.wait_for_logs("\"message\":\"reloaded\"", reloads);
    };
    reload(&of("x-app-key", &format!("\"{VALUE}\"")));
    let ended = AtomicBool::new(false);
    thread::scope(|scope| {
        let _end = SetAtEnd(&ended);
        let burglar = scope.spawn(|| {
            let mut client = sidecar.connect();
            let mut tried = 0;
            while !ended.load(Ordering::Relaxed) {
                for lines in [&[][..], &[("x-app-key", "")], &[("x-other", "wrong")]] {
                    assert_refused(&client.send(&echo(lines)));
                    tried += 1;
                }
            }
            tried
        });
        for (name, source, value) in [
            ("x-app-key", "{ file = \"second\" }", NEXT),
            ("x-other", "{ command = [\"cat\", \"second\"] }", NEXT),
            ("x-app-key", "\"canary-required-3\"", "canary-required-3"),
        ] {
            reload(&of(name, source));
            for answer in [sidecar.send(&echo(&[(name, value)])), http2.send(&echo(&[(name, value)]))] {
                assert_eq!(answer.status, 200, "{name} {source} {answer:?}");
            }
            for lines in [&[("x-app-key", VALUE)][..], &[("x-other", VALUE)]] {
                assert_refused(&http2.send(&echo(lines)));
            }
        }
        ended.store(true, Ordering::Relaxed);
        assert!(burglar.join().unwrap() > 0);
    });
    reload(&settings(""));
    assert_eq!(http2.get("/_sim/echo").status, 200, "and it may be given up");
}

#[test]
fn check_warns_of_a_written_value_and_online_tells_of_a_source_that_gives_none() {
    let simulator = simulator();
    let setup = with_value(&simulator, &format!("\"{VALUE}\""));
    for (command, code) in [("check", 0), ("config", 0)] {
        let output = setup.output(command);
        assert_eq!(output.code, Some(code), "{output:?}");
        assert!(!output.all().contains(VALUE), "{}", output.all());
    }
    assert!(setup.output("check").all().contains("REQUIRE_HEADER: is given directly"), "a written secret is warned about");
    assert!(
        setup.output("config").stdout.lines().any(|line| line.contains("require_header.value") && line.contains("[redacted]"))
    );
    let setup = from_file(&simulator, "");
    let output = setup.output_of(&["check", "--online"]);
    assert_eq!(output.code, Some(1), "{output:?}");
    assert!(
        output.stdout.contains("failed: api default: require_header.value: the file that it names does not exist"),
        "{output:?}"
    );
    setup.file("mount/key", VALUE);
    let output = setup.output_of(&["check", "--online"]);
    assert_eq!(output.code, Some(0), "{output:?}");
    assert!(output.stdout.contains("ok: api default: require_header.value") && !output.all().contains(VALUE), "{output:?}");
}

#[test]
fn the_value_and_what_clients_tried_show_nowhere() {
    let simulator = simulator();
    let mut setup = from_file(&simulator, VALUE);
    setup.with_telemetry().with_control_socket();
    let mut sidecar = setup.start().ready_with(&with(VALUE));
    let tried = "canary-tried-value";
    let mut said = String::new();
    for answer in every_way(&sidecar, &with(tried)) {
        said.push_str(&format!("{answer:?} {}", answer.text()));
    }
    sidecar.setup.file("mount/key", NEXT);
    until_status(&sidecar, &with(NEXT), 200);
    sidecar.signal(Signal::HUP);
    sidecar.wait_for_log("\"message\":\"reloaded\"");
    for path in ["/", "/metrics", "/status", "/readyz", "/livez"] {
        said.push_str(&String::from_utf8_lossy(&sidecar.telemetry(path).body));
    }
    for command in [&["status"][..], &["status", "--json"], &["config"], &["check"]] {
        said.push_str(&sidecar.setup.output_of(command).all());
    }
    assert!(sidecar.stop().success());
    said.push_str(&sidecar.logs());
    assert!(said.contains("header_required") && said.contains("mount/key"), "something was said");
    for secret in [VALUE, NEXT, tried] {
        assert!(!said.contains(secret), "{secret} in {said}");
    }
}
