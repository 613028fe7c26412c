//! Whether an API is served: its state, its errors, and where both are told.

use careportals_simulator::{LoginFault, Simulator};
use rustix::process::Signal;
use serde_json::{Value, json};

use std::time::Duration;

use crate::harness::{Answer, Request, Setup, Sidecar, held, let_time_pass, never, simulator, until, until_some};

/// A sidecar with telemetry and a control socket, and one of its log-ins done.
fn observed(simulator: &Simulator, set: impl FnOnce(&mut Setup)) -> Sidecar {
    let mut setup = Setup::new(simulator);
    setup.with_telemetry().with_control_socket();
    set(&mut setup);
    setup.start().ready()
}

fn api(sidecar: &Sidecar) -> Value {
    sidecar.telemetry("/status").json()["apis"][0].clone()
}

/// A time of the document, which has always the same length.
fn time(value: &Value) -> &str {
    value.as_str().unwrap()
}

#[track_caller]
fn until_state(sidecar: &Sidecar, state: &str) -> Value {
    until_some(&format!("the API is {state}"), || Some(api(sidecar)).filter(|api| api["state"] == state))
}

fn is_reached(sidecar: &Sidecar) -> Option<String> {
    let answer: Answer = sidecar.telemetry("/metrics");
    let name = "careportals_sidecar_upstream_reachable{api=\"default\"} ";
    answer.text().lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned)
}

#[test]
fn an_upstream_that_is_gone_is_told_by_status_metrics_and_the_command_until_it_answers() {
    let simulator = simulator();
    // Nobody listens here, and the log-in is elsewhere.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let sidecar = {
        let mut setup = Setup::new(&simulator);
        setup.with_telemetry().with_control_socket().upstream(&format!("https://localhost:{}", free.port()), &simulator);
        setup.start()
    };
    let before = until_state(&sidecar, "served");
    assert_eq!(
        json!([before["reason"], before["last_error"], before["last_error_at"], before["errors_by_code"]]),
        json!([null, null, null, {}]),
        "no request has shown anything: {before}"
    );
    assert_eq!(is_reached(&sidecar).as_deref(), Some("1"));
    for _ in 0..4 {
        assert_eq!(sidecar.get("/users").status, 502);
    }
    let api = until_some("all four are counted", || Some(api(&sidecar)).filter(|api| api["errors"] == 4));
    assert_eq!(
        json!([api["state"], api["last_error"], api["errors_by_code"], api["reason"]]),
        json!(["unreachable", "connect_failed", {"connect_failed": 4}, "connection refused"])
    );
    assert!(api["advice"].as_str().unwrap().contains("firewalls"), "{api}");
    assert!(time(&api["since"]) <= time(&api["last_error_at"]), "{api}");
    assert_eq!(is_reached(&sidecar).as_deref(), Some("0"));
    let table = sidecar.setup.output_of(&["status"]).stdout;
    assert!(table.contains("  unreachable  ") && table.contains("CarePortals can't be reached since "), "{table}");
    assert!(table.contains("since the start: 4 connect_failed"), "{table}");
    let document: Value = serde_json::from_str(&sidecar.setup.output_of(&["status", "--json"]).stdout).unwrap();
    assert_eq!(document["apis"][0]["since"], api["since"], "an outage has one beginning");
}

#[test]
fn an_api_that_refuses_every_request_for_want_of_the_required_value_says_so_until_it_has_one() {
    let simulator = simulator();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("client-key");
    let sidecar = {
        let mut setup = Setup::new(&simulator);
        setup.api("require_header", &format!("{{ name = \"x-app\", value = {{ file = \"{}\" }} }}", file.display()));
        setup.with_telemetry().with_control_socket();
        setup.start()
    };
    let api = until_state(&sidecar, "refusing");
    assert_eq!(api["reason"], "no value is known for the required header");
    assert!(api["advice"].as_str().unwrap().contains("require_header"), "{api}");
    assert_eq!(sidecar.get("/_sim/echo").problem(), "header_required");
    let table = sidecar.setup.output_of(&["status"]).stdout;
    assert!(table.contains("  refusing  ") && table.contains("every request is refused since "), "{table}");
    std::fs::write(&file, "key").unwrap();
    until_state(&sidecar, "served");
    std::fs::remove_file(&file).unwrap();
    until_state(&sidecar, "refusing");
}

/// An app that waits for less than `response_timeout` never sees a 504.
#[test]
fn an_upstream_that_answers_no_client_before_it_gives_up_is_unreachable() {
    let simulator = simulator();
    let sidecar = observed(&simulator, |_| {});
    let before = simulator.control().counts().requests;
    simulator.control().hold_requests(true);
    let give_up = |path: &str, after: Duration| {
        let mut clients = [sidecar.connect(), sidecar.connect()];
        for client in &mut clients {
            client.write(&Request::get(path).head());
        }
        let_time_pass("both clients wait for an answer", after);
    };
    give_up("/users", Duration::from_millis(300));
    until("their requests are over", || api(&sidecar)["in_flight"] == 0);
    assert_eq!(api(&sidecar)["state"], "served", "they were in a hurry");
    for _ in 0..2 {
        give_up("/users", Duration::from_millis(2100));
        until("their requests are over", || api(&sidecar)["in_flight"] == 0);
    }
    let api = until_state(&sidecar, "unreachable");
    assert_eq!(json!([api["reason"], api["errors"]]), json!(["HTTP response timeout", 0]));
    assert_eq!(is_reached(&sidecar).as_deref(), Some("0"));
    assert!(sidecar.wait_for_log("the upstream can't be reached").contains("upstream_timeout"));
    simulator.control().hold_requests(false);
    assert_eq!(sidecar.get("/users/account").status, 200);
    until_state(&sidecar, "served");
    assert!(simulator.control().counts().requests > before + 6, "all were sent");
}

/// Clients that do not finish their own requests, or that hang up right behind the end of a slow one, tell nothing of the upstream.
#[test]
fn clients_that_give_up_for_other_reasons_do_not_make_an_upstream_unreachable() {
    let simulator = simulator();
    let sidecar = observed(&simulator, |_| {});
    simulator.control().hold_requests(true);
    for rest in ["", " more!", " more!"] {
        let mut clients = [sidecar.connect(), sidecar.connect()];
        for client in &mut clients {
            client.write(b"POST /_sim/echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\nhalf");
        }
        let_time_pass("both clients pause in their bodies", Duration::from_millis(2100));
        for client in &mut clients {
            client.write(rest.as_bytes());
        }
        drop(clients);
        until("their requests are over", || api(&sidecar)["in_flight"] == 0);
    }
    never("the API is unreachable", Duration::from_millis(300), || api(&sidecar)["state"] != "served");
}

#[test]
fn an_api_that_refuses_the_token_with_every_answer_is_failing_though_another_one_takes_it() {
    let simulator = simulator();
    let sidecar = {
        let mut setup = Setup::eager(&simulator);
        let apis = format!("[apis.default]\n[apis.other]\nupstream = \"{}\"\nlisten = \"127.0.0.1:0\"\n", simulator.base_url());
        let file = setup.file("two.toml", &apis);
        setup.variable("CAREPORTALS_CONFIG", file.to_str().unwrap()).with_telemetry().with_control_socket();
        setup.start()
    };
    let states = || {
        let apis = sidecar.telemetry("/status").json()["apis"].clone();
        (apis[0].clone(), apis[1]["state"].clone())
    };
    until("one has answered with 401s and nothing else for five seconds", || {
        assert_eq!(sidecar.get("/_sim/always-401").status, 401);
        assert_eq!(sidecar.connect_to("other").send(&Request::get("/users/account")).status, 200);
        states().0["state"] == "failing"
    });
    let (one, other) = states();
    assert_eq!(json!([one["reason"], other]), json!(["status 401 and no other", "served"]));
    assert!(one["advice"].as_str().unwrap().contains("organization"), "{one}");
    let account = sidecar.telemetry("/status").json()["accounts"][0].clone();
    assert!(account["trouble"].is_null(), "{account}");
    assert!(sidecar.wait_for_log("the upstream refuses the token with every answer").contains(r#""api":"default""#));
    assert_eq!(sidecar.get("/users/account").status, 200);
    assert_eq!(states().0["state"], "served");
    sidecar.wait_for_log("the upstream takes the token again");
}

#[test]
fn the_first_answer_of_any_status_ends_an_outage() {
    let simulator = simulator();
    let sidecar = observed(&simulator, |setup| {
        setup.api("response_timeout", "\"300ms\"");
    });
    let served_since = api(&sidecar)["since"].clone();
    simulator.control().hold_requests(true);
    assert_eq!(sidecar.get("/_sim/echo").status, 504);
    let out = until_state(&sidecar, "unreachable");
    assert_eq!(json!([out["last_error"], out["reason"]]), json!(["upstream_timeout", "HTTP response timeout"]));
    simulator.control().hold_requests(false);
    assert_eq!(sidecar.get("/_sim/status/404").status, 404);
    let back = until_state(&sidecar, "served");
    assert_eq!(back["last_error"], "upstream_timeout", "it is history, and stays");
    assert!(time(&back["since"]) > time(&served_since), "{back}");
    assert_eq!(is_reached(&sidecar).as_deref(), Some("1"));
}

#[test]
fn an_upstream_whose_answers_are_5xx_is_failing_until_fewer_than_half_are() {
    let simulator = simulator();
    let sidecar = observed(&simulator, |_| {});
    // `ready` has had one answer.
    assert_eq!(sidecar.get("/_sim/status/503").status, 503);
    let failing = until_state(&sidecar, "failing");
    assert_eq!(
        json!([failing["last_error"], failing["errors_by_code"], failing["reason"]]),
        json!(["upstream_503", {"upstream_503": 1}, "status 503"])
    );
    assert_eq!(is_reached(&sidecar).as_deref(), Some("1"));
    assert_eq!(sidecar.get("/users/account").status, 200);
    until_state(&sidecar, "served");
}

#[test]
fn an_api_that_refuses_requests_for_its_limit_is_busy_and_stays_so_for_a_while() {
    let simulator = simulator();
    let sidecar = observed(&simulator, |setup| {
        setup.api("max_requests", "1");
    });
    let mut first = held(&simulator, &sidecar);
    for _ in 0..3 {
        assert_eq!(sidecar.get("/users").problem(), "too_many_requests_in_flight");
    }
    let busy = until_state(&sidecar, "busy");
    assert_eq!(busy["errors_by_code"], json!({"too_many_requests_in_flight": 3}), "{busy}");
    assert!(busy["reason"].as_str().unwrap().starts_with("1 requests in flight"), "{busy}");
    simulator.control().hold_requests(false);
    assert_eq!(first.answer("GET").status, 200);
    assert_eq!(api(&sidecar)["state"], "busy", "it is told for a while");
}

#[test]
fn without_a_token_an_api_is_not_served_whatever_else_there_is() {
    let simulator = simulator();
    let sidecar = observed(&simulator, |_| {});
    assert_eq!(sidecar.get("/_sim/status/500").status, 500);
    until_state(&sidecar, "failing");
    simulator.control().set_login_fault(Some(LoginFault::Status(401)));
    sidecar.signal(Signal::USR1);
    let out = until_state(&sidecar, "no_token");
    assert_eq!(sidecar.get("/users").problem(), "logged_out");
    until("the refusal is counted", || api(&sidecar)["last_error"] == "logged_out");
    assert!(time(&out["since"]) >= time(&out["last_error_at"]), "{out}");
}
