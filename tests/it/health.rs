//! Health over the telemetry listener: what each endpoint means in an outage, a rejection, a drain, and while workers are
//! busy or stuck.

use std::{
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use careportals_simulator::{LoginFault, Simulator};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::{
    Answer, Connection, Crowd, LETS_DEBUGGERS_IN, ORGANIZATION, Request, Setup, Sidecar, Stalled, now, revoke, simulator, until,
    until_some, until_within,
};

fn observed(simulator: &Simulator) -> Setup {
    let mut setup = Setup::new(simulator);
    setup.with_telemetry();
    setup
}

/// Asks the telemetry listener until the answer has that status.
#[track_caller]
fn until_status(sidecar: &Sidecar, path: &str, status: u16) -> Answer {
    until_some(&format!("{path} is answered by {status}"), || {
        Some(sidecar.telemetry(path)).filter(|answer| answer.status == status)
    })
}

fn codes(answer: &Answer) -> Vec<Value> {
    let document = answer.json();
    document["reasons"].as_array().unwrap().iter().map(|reason| json!([reason["account"], reason["code"]])).collect()
}

#[test]
fn a_daemon_with_a_token_is_alive_started_and_ready() {
    let simulator = simulator();
    let sidecar = observed(&simulator).start().ready();
    for path in ["/livez", "/startupz"] {
        let answer = sidecar.telemetry(path);
        assert_eq!((answer.status, answer.text()), (200, "ok\n"));
        assert_eq!(answer.header("cache-control"), Some("no-store"));
    }
    for path in ["/readyz", "/readyz/default"] {
        let answer = sidecar.telemetry(path);
        assert_eq!((answer.status, answer.json()), (200, json!({"ready": true, "reasons": []})));
    }
    let status = sidecar.telemetry("/status").json();
    assert_eq!((&status["apis"][0]["requests"], &status["apis"][0]["errors"]), (&json!(1), &json!(0)), "{status}");
    assert_eq!((&status["history"]["step_seconds"], &status["history"]["apis"][0]["name"]), (&json!(5), &json!("default")));
    assert_eq!(sidecar.telemetry("/readyz/nobody").status, 404);
    assert_eq!(sidecar.telemetry("/elsewhere").status, 404);
}

#[test]
fn the_telemetry_listener_does_not_speak_http2() {
    let simulator = simulator();
    let sidecar = observed(&simulator).start().ready();
    let mut client = Connection::tcp(TcpStream::connect(sidecar.telemetry_address()).unwrap());
    client.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0");
    let said = client.read_to_end();
    assert!(said.is_empty() || said.starts_with(b"HTTP/1.1 400 "), "{said:?}");
}

#[test]
fn a_daemon_is_alive_and_started_but_not_ready_while_its_log_in_takes_its_time() {
    let simulator = simulator();
    simulator.control().hold_logins(true);
    let sidecar = observed(&simulator).start();
    assert_eq!(until_status(&sidecar, "/startupz", 200).text(), "ok\n");
    assert_eq!(sidecar.telemetry("/livez").status, 200);
    let answer = sidecar.telemetry("/readyz");
    assert_eq!((answer.status, codes(&answer)), (503, vec![json!(["default", "token_pending"])]));
    let account = sidecar.telemetry("/status").json()["accounts"][0].clone();
    assert!(account["login_began_at"].is_string() && account["trouble"].is_null(), "it does not hang yet: {account}");
    simulator.control().hold_logins(false);
    until_status(&sidecar, "/readyz", 200);
}

#[test]
fn in_an_outage_at_start_the_reason_is_told_and_nobody_restarts_the_daemon_for_it() {
    let simulator = simulator();
    simulator.control().set_login_fault(Some(LoginFault::Status(500)));
    let sidecar = observed(&simulator).start();
    sidecar.wait_for_log("log-in failed");
    let answer = until_status(&sidecar, "/readyz", 503);
    assert_eq!(codes(&answer), vec![json!(["default", "login_failing"])]);
    let detail = answer.json()["reasons"][0]["detail"].as_str().unwrap().to_owned();
    assert!(detail.contains("500"), "{detail}");
    assert_eq!((sidecar.telemetry("/livez").status, sidecar.telemetry("/startupz").status), (200, 200));
}

#[test]
fn a_daemon_whose_log_in_is_rejected_stays_ready_while_its_token_is_good() {
    let simulator = simulator();
    let mut setup = Setup::eager(&simulator);
    setup.with_telemetry();
    let sidecar = setup.start().ready();
    simulator.control().set_login_fault(Some(LoginFault::Status(401)));
    // The log-in that its 401 causes is refused; the token may yet be good for other paths.
    revoke(&simulator);
    assert_eq!(sidecar.get("/users/account").status, 401);
    sidecar.wait_for_log("\"state\":\"rejected\"");
    let answer = sidecar.telemetry("/readyz");
    assert_eq!((answer.status, answer.json()["ready"].as_bool()), (200, Some(true)));
    let account = &sidecar.telemetry("/status").json()["accounts"][0];
    assert_eq!((account["state"].as_str(), account["usable"].as_bool()), (Some("rejected"), Some(true)), "{account}");
    assert_eq!(account["trouble"], "renewal_failing", "{account}");
}

#[test]
fn a_daemon_whose_log_in_is_rejected_and_that_has_no_token_is_not_ready_and_says_what_to_do() {
    let simulator = simulator();
    simulator.control().set_login_fault(Some(LoginFault::Status(401)));
    let sidecar = observed(&simulator).start();
    sidecar.wait_for_log("\"state\":\"rejected\"");
    let answer = until_status(&sidecar, "/readyz/default", 503);
    assert_eq!(codes(&answer), vec![json!(["default", "login_rejected"])]);
    let account = sidecar.telemetry("/status").json()["accounts"][0].clone();
    assert_eq!((&account["state"], &account["trouble"]), (&json!("rejected"), &json!("no_token")));
    assert!(account["last_error"].as_str().unwrap().contains("401"), "{account}");
    assert!(account["advice"].as_str().unwrap().contains("careportals-sidecar login"), "{account}");
    assert!(account["retry_at"].is_string() && account["last_error_at"].is_string(), "{account}");
    assert!(account["expires_at"].is_null() && account["last_login_at"].is_null(), "{account}");
}

#[test]
fn a_daemon_that_is_logged_out_is_not_ready() {
    let simulator = simulator();
    let sidecar = observed(&simulator).start().ready();
    sidecar.signal(Signal::USR1);
    let answer = until_status(&sidecar, "/readyz", 503);
    assert_eq!(codes(&answer), vec![json!(["default", "logged_out"])]);
    let document = sidecar.telemetry("/status").json();
    let (account, api) = (&document["accounts"][0], &document["apis"][0]);
    assert!(account["since"].is_string() && account["trouble"].is_null(), "{account}");
    assert_eq!(account["advice"], "`careportals-sidecar login` logs in again");
    assert_eq!((&api["state"], &api["advice"]), (&json!("no_token"), &account["advice"]), "{api}");
}

#[test]
fn a_renewal_that_hangs_is_told_with_its_beginning_and_advice() {
    let simulator = simulator();
    let mut setup = Setup::eager(&simulator);
    setup.account("login_timeout", "60s").with_telemetry().with_control_socket();
    let sidecar = setup.start().ready();
    simulator.control().hold_logins(true);
    revoke(&simulator);
    let crowd = Crowd::send(&sidecar, 1, &Request::get("/users/account"));
    let account = || sidecar.telemetry("/status").json()["accounts"][0].clone();
    until_within(Duration::from_secs(30), "the log-in hangs", || !account()["trouble"].is_null());
    let account = account();
    assert_eq!(account["since"], account["login_began_at"], "{account}");
    assert!(account["last_error"].is_null() && account["advice"].as_str().unwrap().contains("check --online"), "{account}");
    let table = sidecar.setup.output("status").stdout;
    assert!(table.contains("default waits for a log-in that hangs since "), "{table}");
    simulator.control().hold_logins(false);
    drop(crowd);
}

#[test]
fn an_account_without_log_in_counts_in_no_readiness() {
    let simulator = simulator();
    let mut setup = observed(&simulator);
    setup.variable("CAREPORTALS_LOGIN_URL", "off");
    let sidecar = setup.start();
    until_status(&sidecar, "/readyz", 200);
    assert_eq!(sidecar.telemetry("/readyz/default").status, 200);
    assert!(sidecar.telemetry("/status").json()["accounts"][0]["state"].is_null());
}

#[test]
fn during_drain_delay_a_daemon_is_not_ready_and_still_serves() {
    let simulator = simulator();
    let mut setup = observed(&simulator);
    setup.global("drain_delay", "20s");
    let mut sidecar = setup.start().ready();
    sidecar.signal(Signal::TERM);
    let answer = until_status(&sidecar, "/readyz", 503);
    assert_eq!(codes(&answer), vec![json!([null, "draining"])]);
    assert_eq!(sidecar.telemetry("/readyz/default").status, 503);
    assert_eq!(sidecar.telemetry("/livez").status, 200);
    assert_eq!(sidecar.telemetry("/startupz").status, 200);
    assert_eq!(sidecar.get("/users/account").status, 200, "new requests are served for the delay");
    assert_eq!(sidecar.telemetry("/status").json()["phase"], "draining");
    sidecar.signal(Signal::TERM);
    assert_eq!(sidecar.wait().code(), Some(1), "a second signal does not wait");
}

#[test]
fn a_daemon_is_alive_for_as_long_as_its_drain_takes() {
    let simulator = simulator();
    let mut sidecar = observed(&simulator).start().ready();
    simulator.control().hold_requests(true);
    let crowd = Crowd::send(&sidecar, 1, &Request::get("/users/account"));
    until("the upstream has got two requests", || simulator.control().counts().requests == 2);
    sidecar.signal(Signal::TERM);
    sidecar.wait_for_log("draining");
    // One worker is done by now; that is no fault.
    for _ in 0..5 {
        assert_eq!(sidecar.telemetry("/livez").status, 200);
    }
    simulator.control().hold_requests(false);
    crowd.succeeds();
    assert_eq!(sidecar.wait().code(), Some(0));
}

#[test]
fn health_is_answered_while_max_requests_and_max_connections_are_reached() {
    let simulator = simulator();
    let mut setup = observed(&simulator);
    setup.api("max_requests", "4").api("max_connections", "6");
    let sidecar = setup.start().ready();
    simulator.control().hold_requests(true);
    let crowd = Crowd::send(&sidecar, 4, &Request::get("/users/account"));
    until("the upstream has got five requests", || simulator.control().counts().requests == 5);
    let _more: Vec<TcpStream> = (0..20).map(|_| TcpStream::connect(sidecar.address()).unwrap()).collect();
    for path in ["/livez", "/startupz", "/readyz", "/status"] {
        assert_eq!(sidecar.telemetry(path).status, 200, "{path}");
    }
    assert_eq!(sidecar.telemetry("/status").json()["apis"][0]["in_flight"], 4);
    simulator.control().hold_requests(false);
    crowd.succeeds();
}

#[test]
fn a_worker_that_is_stuck_is_not_alive_and_the_answer_comes_all_the_same() {
    let simulator = simulator();
    let mut setup = observed(&simulator);
    setup.global("hardening", LETS_DEBUGGERS_IN);
    let sidecar = setup.start().ready();
    let stalled = Stalled::worker(&sidecar, 1);
    let answer = sidecar.telemetry("/livez");
    assert_eq!((answer.status, answer.text()), (503, "a worker does not answer\n"));
    assert_eq!(sidecar.telemetry("/readyz").status, 200, "readiness is about tokens");
    drop(stalled);
    until_status(&sidecar, "/livez", 200);
}

#[test]
fn over_the_network_reasons_are_codes() {
    let simulator = simulator();
    simulator.control().set_login_fault(Some(LoginFault::Status(401)));
    let mut setup = Setup::new(&simulator);
    setup.variable("CAREPORTALS_TELEMETRY_LISTEN", "0.0.0.0:0");
    let sidecar = setup.start();
    sidecar.wait_for_log("\"state\":\"rejected\"");
    let expected = json!({"ready": false, "reasons": [{"account": "default", "code": "login_rejected"}]});
    assert_eq!(until_status(&sidecar, "/readyz", 503).json(), expected);
    let account = sidecar.telemetry("/status").json()["accounts"][0].clone();
    assert!(account["last_error"].is_null() && account["advice"].is_null(), "{account}");
    assert_eq!(account["last_error_code"], "login_refused");
}

#[test]
fn only_get_and_head_and_any_host_but_for_what_a_browser_shows() {
    let simulator = simulator();
    let sidecar = observed(&simulator).start().ready();
    for path in ["/livez", "/startupz", "/readyz", "/readyz/default", "/status", "/"] {
        let whole = sidecar.telemetry(path);
        let head = sidecar.telemetry_send(&Request::new("HEAD", path));
        assert_eq!((head.status, head.body.len()), (200, 0), "{path}");
        assert_eq!(head.header("content-type"), whole.header("content-type"));
        for method in ["POST", "PUT", "DELETE", "OPTIONS", "BREW"] {
            let answer = sidecar.telemetry_send(&Request::new(method, path));
            assert_eq!((answer.status, answer.header("allow")), (405, Some("GET, HEAD")), "{method} {path}");
        }
        let elsewhere = sidecar.telemetry_send(&Request::get(path).host("pod.example.test:2274"));
        assert_eq!(elsewhere.status, if matches!(path, "/status" | "/") { 421 } else { 200 }, "{path}");
    }
}

#[test]
fn the_page_is_one_document_under_a_policy_that_lets_nothing_else_in() {
    let simulator = simulator();
    let sidecar = observed(&simulator).start().ready();
    let page = sidecar.telemetry("/");
    assert_eq!((page.status, page.header("content-type")), (200, Some("text/html; charset=utf-8")));
    let policy = page.header("content-security-policy").unwrap();
    assert!(policy.starts_with("default-src 'none'; style-src 'sha256-"), "{policy}");
    assert!(policy.contains("frame-ancestors 'none'") && !policy.contains("unsafe"), "{policy}");
    assert!(page.text().starts_with("<!doctype html>") && page.text().trim_end().ends_with("</html>"));
}

#[test]
fn quitquitquit_ends_a_job_where_the_settings_have_it() {
    let simulator = simulator();
    let sidecar = observed(&simulator).start().ready();
    assert_eq!(sidecar.telemetry_send(&Request::post("/quitquitquit", "")).status, 404);
    assert_eq!(sidecar.telemetry("/livez").status, 200);
    drop(sidecar);
    let mut setup = observed(&simulator);
    setup.global("quitquitquit", "true");
    let mut sidecar = setup.start().ready();
    let answer = sidecar.telemetry("/quitquitquit");
    assert_eq!((answer.status, answer.header("allow")), (405, Some("POST")));
    assert_eq!(sidecar.telemetry_send(&Request::post("/quitquitquit", "")).status, 200);
    assert_eq!(sidecar.wait().code(), Some(0));
    assert!(sidecar.logs().contains("draining"), "in its own time");
}

#[test]
fn the_telemetry_address_can_be_off_and_a_taken_one_names_the_setting() {
    let simulator = simulator();
    let sidecar = Setup::new(&simulator).start().ready();
    assert!(!sidecar.logs().contains("health and metrics"));
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut setup = Setup::new(&simulator);
    setup.variable("CAREPORTALS_TELEMETRY_LISTEN", &taken.local_addr().unwrap().to_string());
    let output = setup.output("run");
    assert_eq!(output.code, Some(1));
    assert!(output.stderr.contains("in use") && output.stderr.contains("CAREPORTALS_TELEMETRY_LISTEN"), "{output:?}");
}

#[test]
fn slow_clients_and_many_of_them_keep_nobody_from_asking() {
    let simulator = simulator();
    let sidecar = observed(&simulator).start().ready();
    let address: SocketAddr = sidecar.telemetry_address();
    let mut idle: Vec<Connection> = (0..80).map(|_| Connection::tcp(TcpStream::connect(address).unwrap())).collect();
    for connection in idle.iter_mut().take(40) {
        connection.write(&Request::get("/livez").head());
        assert_eq!(connection.answer("GET").status, 200);
    }
    let begun = now();
    assert_eq!(sidecar.telemetry("/livez").status, 200, "the longest idle one makes room");
    assert!(begun.elapsed() < Duration::from_secs(8));
}

#[test]
fn a_burst_of_silent_connections_keeps_no_probe_waiting_for_a_second() {
    let simulator = simulator();
    let sidecar = observed(&simulator).start();
    let address = sidecar.telemetry_address();
    let _silent: Vec<TcpStream> = (0..600).map(|_| TcpStream::connect(address).unwrap()).collect();
    let start = now();
    assert_eq!(sidecar.telemetry("/livez").status, 200);
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
}

#[test]
fn an_account_without_log_in_is_not_ready_until_its_organization_is_known() {
    let simulator = simulator();
    let mut setup = Setup::without_login(&simulator.base_url(), simulator.ca_pem());
    let told = setup.dir.path().join("told");
    let script = format!("while [ ! -e {} ]; do sleep 0.05; done; echo {ORGANIZATION}", told.display());
    setup.without("CAREPORTALS_ORGANIZATION").with_telemetry();
    setup.account("organization", &format!(r#"{{ command = ["sh", "-c", "{script}"] }}"#));
    let sidecar = setup.start();
    let ready = sidecar.telemetry("/readyz");
    assert_eq!((ready.status, &ready.json()["reasons"][0]["code"]), (503, &"no_organization".into()), "{ready:?}");
    std::fs::write(&told, "").unwrap();
    until("the organization is known", || sidecar.telemetry("/readyz").status == 200);
}
