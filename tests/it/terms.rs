//! A bearer goes only where it was fetched for: a reload that changes log-in server or account starts over, a file that names
//! another organization ends the token. Whoever waits meanwhile goes on by the new settings, or is told to come again.

use std::{
    fs,
    net::TcpStream,
    process::{Child, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use careportals_simulator::{LoginFault, Simulator};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::{
    Answer, Connection, Crowd, LOGGED_IN, PASSWORD, Request, SetAtEnd, Setup, Sidecar, USERNAME, let_time_pass, mount_secret,
    never, outgrow_the_floor, renew_secret, simulator, until,
};

/// The organizations that each simulator knows. One is for the first server, one for the second, so that each sees whose
/// requests it gets.
const FIRST: &str = "demo";
const SECOND: &str = "other";

/// A daemon whose settings file points one API to one of two servers.
struct Moving {
    sidecar: Sidecar,
    first: Simulator,
    second: Simulator,
    reloads: usize,
}

impl Moving {
    /// Begins at the first server.
    fn start() -> Self {
        Self::start_with(|_| ())
    }

    fn start_with(prepare: impl FnOnce(&Simulator)) -> Self {
        let (first, second) = (simulator(), simulator());
        prepare(&first);
        let mut setup = Setup::empty();
        setup.trust(&format!("{}{}", first.ca_pem(), second.ca_pem())).with_control_socket().with_telemetry();
        setup.settings(&settings(&account("main", FIRST), "main", &first));
        Self { sidecar: setup.start(), first, second, reloads: 0 }
    }

    /// Begins at the first server, which answers no log-in. `request` waits for it.
    fn waiting(request: &Request) -> (Self, Crowd) {
        let moving = Self::start_with(|first| first.control().hold_logins(true));
        let waiting = Crowd::send(&moving.sidecar, 4, request);
        until("a log-in has begun", || moving.first.control().counts().logins == 1);
        (moving, waiting)
    }

    /// As [`start`](Self::start), with a token at hand that is old enough to be replaced.
    fn seasoned() -> Self {
        let moving = Self::start();
        moving.sidecar.wait_for_logs(LOGGED_IN, 1);
        outgrow_the_floor();
        moving
    }

    fn reload(&mut self, settings: &str) {
        self.sidecar.setup.file("config.toml", settings);
        self.reloads += 1;
        self.sidecar.signal(Signal::HUP);
        self.sidecar.wait_for_logs("\"message\":\"reloaded\"", self.reloads);
    }

    /// Points the account and the API to the second server.
    fn move_on(&mut self) {
        let settings = settings(&account("main", SECOND), "main", &self.second);
        self.reload(&settings);
    }

    fn status(&self) -> Value {
        let output = self.sidecar.setup.output_of(&["status", "--json"]);
        serde_json::from_str(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", output.all()))
    }
}

fn account(name: &str, organization: &str) -> String {
    format!(
        "[accounts.{name}]\norganization = \"{organization}\"\nusername = \"service@{organization}.example.test\"\n\
         password = \"{organization}-password-1\"\nrelogin_floor = \"100ms\"\n"
    )
}

fn settings(accounts: &str, account: &str, upstream: &Simulator) -> String {
    let base = upstream.base_url();
    format!("{accounts}[apis.one]\naccount = \"{account}\"\nupstream = \"{base}\"\nlisten = \"127.0.0.1:0\"\n")
}

#[track_caller]
fn is_of_the_second(answer: &Answer) {
    assert_eq!((answer.status, answer.echoed("organization")), (200, vec![SECOND.to_owned()]), "{answer:?}");
}

#[track_caller]
fn is_told_to_come_again(answer: &Answer) {
    assert_eq!((answer.status, answer.problem().as_str()), (503, "token_pending"), "{answer:?}");
    assert_eq!(answer.header("retry-after"), Some("1"));
    assert!(answer.header("proxy-status").is_some(), "the answer is ours");
}

/// What a server got that was meant for the other one.
fn foreign(simulator: &Simulator, own: &str) -> usize {
    simulator.control().requests().iter().filter(|request| request.values("organization") != [own]).count()
}

#[test]
fn a_request_that_waits_for_a_token_goes_to_the_server_that_a_reload_puts_in_its_place() {
    let (mut moving, waiting) = Moving::waiting(&Request::get("/_sim/echo"));
    moving.move_on();
    for answer in waiting.answers() {
        is_of_the_second(&answer);
    }
    is_of_the_second(&moving.sidecar.get("/_sim/echo"));
    moving.first.control().hold_logins(false);
    assert_eq!(moving.first.control().counts().requests, 0);
    assert_eq!(foreign(&moving.second, SECOND), 0);
}

#[test]
fn so_does_a_request_whose_token_was_refused_with_its_body() {
    let mut moving = Moving::seasoned();
    let control = moving.first.control().clone();
    control.revoke_tokens();
    control.hold_logins(true);
    let refused = Crowd::send(&moving.sidecar, 4, &Request::post("/_sim/echo", "whole"));
    until("the token is suspect", || control.counts().logins == 2);
    moving.move_on();
    for answer in refused.answers() {
        is_of_the_second(&answer);
        assert_eq!(answer.json()["body"], "whole");
    }
    control.hold_logins(false);
    is_of_the_second(&moving.sidecar.get("/_sim/echo"));
    assert_eq!((foreign(&moving.first, FIRST), foreign(&moving.second, SECOND)), (0, 0));
    assert_eq!(control.counts().unauthorized, moving.first.control().counts().requests, "each was a token of its own");
}

/// The request is on its way when the reload comes, and its 401 comes after it.
#[test]
fn a_401_after_the_reload_is_not_passed_on() {
    let mut moving = Moving::seasoned();
    let control = moving.first.control().clone();
    control.hold_requests(true);
    let held = Crowd::send(&moving.sidecar, 2, &Request::get("/_sim/echo"));
    until("the first server has got two requests", || control.counts().requests == 2);
    moving.move_on();
    moving.sidecar.wait_for_logs(LOGGED_IN, 2);
    control.revoke_tokens();
    control.hold_requests(false);
    for answer in held.answers() {
        is_of_the_second(&answer);
    }
    for access in moving.sidecar.wait_for_access_lines(2) {
        assert_eq!((&access["retries"], &access["status"]), (&json!(1), &json!(200)), "{access}");
    }
    assert_eq!((control.counts().requests, foreign(&moving.first, FIRST)), (2, 0));
}

#[test]
fn a_request_that_waits_goes_on_with_the_other_account_that_a_reload_gives_its_api() {
    let (mut moving, waiting) = Moving::waiting(&Request::get("/_sim/echo"));
    let after = settings(&account("after", SECOND), "after", &moving.second);
    moving.reload(&after);
    for answer in waiting.answers() {
        is_of_the_second(&answer);
    }
    assert_eq!(moving.first.control().counts().requests, 0);
}

#[test]
fn a_request_that_goes_on_after_a_reload_is_judged_by_the_new_settings() {
    let (mut moving, denied) = Moving::waiting(&Request::get("/_sim/echo"));
    let mut upload = moving.sidecar.connect();
    upload.write(
        &Request::new("POST", "/_sim/echo").header("Transfer-Encoding", "chunked").header("Trailer", "x-plan, x-sum").head(),
    );
    upload.write(b"4\r\nbody\r\n0\r\nx-plan: theirs\r\nx-sum: 1\r\n\r\n");
    let in_flight = "requests_in_flight{api=\"one\"} 5";
    until("all wait for a token", || moving.sidecar.telemetry("/metrics").text().contains(in_flight));
    let rules = "deny = [\"GET /_sim/**\"]\nheaders = { x-plan = \"gold\" }\n";
    let after = settings(&account("main", SECOND), "main", &moving.second) + rules;
    moving.reload(&after);
    for answer in denied.answers() {
        assert_eq!(answer.status, 403, "{answer:?}");
    }
    let answer = upload.answer("POST");
    is_of_the_second(&answer);
    assert_eq!((answer.echoed("x-plan"), &answer.json()["trailers"]), (vec!["gold".to_owned()], &json!([["x-sum", "1"]])));
    assert_eq!((moving.first.control().counts().requests, moving.second.control().counts().requests), (0, 1));
    until("no permit is held", || moving.sidecar.telemetry("/metrics").text().contains("requests_in_flight{api=\"one\"} 0"));
}

#[test]
fn it_waits_no_longer_than_the_new_settings_allow() {
    let (mut moving, waiting) = Moving::waiting(&Request::get("/_sim/echo"));
    moving.second.control().hold_logins(true);
    let impatient = account("main", SECOND) + "token_wait = \"200ms\"\n";
    let after = settings(&impatient, "main", &moving.second);
    moving.reload(&after);
    for answer in waiting.answers() {
        is_told_to_come_again(&answer);
    }
}

#[test]
fn one_that_ends_before_it_is_sent_again_does_not_count_as_sent_again() {
    let mut moving = Moving::seasoned();
    let control = moving.first.control().clone();
    control.revoke_tokens();
    control.hold_logins(true);
    let refused = Crowd::send(&moving.sidecar, 2, &Request::get("/_sim/echo"));
    // The other request may come so late that it waits for the log-in at once.
    until("the token is suspect", || control.counts().logins == 2);
    moving.second.control().hold_logins(true);
    let impatient = account("main", SECOND) + "token_wait = \"200ms\"\n";
    let after = settings(&impatient, "main", &moving.second);
    moving.reload(&after);
    for answer in refused.answers() {
        is_told_to_come_again(&answer);
    }
    control.hold_logins(false);
    for access in moving.sidecar.wait_for_access_lines(2) {
        assert_eq!((&access["retries"], &access["status"]), (&Value::Null, &json!(503)), "{access}");
    }
}

#[test]
fn a_reload_that_moves_an_account_does_not_undo_its_log_out() {
    let mut moving = Moving::seasoned();
    let done = moving.sidecar.setup.output_of(&["logout"]);
    assert_eq!(done.code, Some(0), "{}", done.all());
    moving.move_on();
    let answer = moving.sidecar.get("/_sim/echo");
    assert_eq!((answer.status, answer.problem().as_str()), (503, "logged_out"));
    assert_eq!(moving.status()["accounts"][0]["state"], "logged_out");
    never("a log-in by itself", Duration::from_millis(800), || moving.second.control().counts().logins > 0);
    let done = moving.sidecar.setup.output_of(&["login"]);
    assert_eq!(done.code, Some(0), "{}", done.all());
    assert_eq!(moving.sidecar.get("/_sim/echo").echoed("organization"), [SECOND]);
}

#[test]
fn log_ins_are_counted_on_when_an_account_moves() {
    let mut moving = Moving::seasoned();
    moving.move_on();
    moving.sidecar.wait_for_logs(LOGGED_IN, 2);
    let metrics = moving.sidecar.telemetry("/metrics");
    let metrics = metrics.text();
    let count = "careportals_sidecar_logins_total{account=\"main\",outcome=\"ok\"} 2";
    assert!(metrics.contains(count), "{metrics}");
    assert_eq!(metrics.matches("careportals_sidecar_account_state{account=\"main\",state=\"ready\"}").count(), 1);
    assert_eq!(moving.status()["accounts"].as_array().map(Vec::len), Some(1));
}

#[test]
fn reloads_between_two_servers_under_load_drop_no_request_and_send_no_token_to_the_other_one() {
    let mut moving = Moving::seasoned();
    let address = moving.sidecar.address();
    let over = AtomicBool::new(false);
    let controls = [moving.first.control().clone(), moving.second.control().clone()];
    std::thread::scope(|scope| {
        for _ in 0..8 {
            let over = &over;
            scope.spawn(move || {
                let mut connection = Connection::tcp(TcpStream::connect(address).unwrap());
                while !over.load(Ordering::Relaxed) {
                    let answer = connection.send(&Request::get("/_sim/echo"));
                    assert_eq!(answer.status, 200, "{answer:?}");
                }
            });
        }
        let _over = SetAtEnd(&over);
        for round in 0..12 {
            // Log-ins take a while and tokens are revoked, so requests of every kind wait when the reload comes.
            for control in &controls {
                control.set_login_delay(Duration::from_millis(20));
                control.revoke_tokens();
            }
            let target = &controls[(round + 1) % 2];
            let before = target.counts().login_ok;
            if round % 2 == 0 {
                moving.move_on();
            } else {
                let back = settings(&account("main", FIRST), "main", &moving.first);
                moving.reload(&back);
            }
            until("the account has logged in there", || target.counts().login_ok > before);
            until("its token is in use", || moving.sidecar.get("/_sim/echo").status == 200);
            let_time_pass("the token grows older than the smallest `relogin_floor`", Duration::from_millis(250));
        }
    });
    assert_eq!((foreign(&moving.first, FIRST), foreign(&moving.second, SECOND)), (0, 0));
}

/// A daemon with credentials in a mounted secret.
fn mounted(simulator: &Simulator) -> Sidecar {
    let mut setup = Setup::new(simulator);
    let mount = setup.dir.path().join("mount");
    mount_secret(&mount, "..1", &secret(FIRST));
    setup.without("CAREPORTALS_ORGANIZATION").without("CAREPORTALS_USERNAME").without("CAREPORTALS_PASSWORD");
    setup.variable("CAREPORTALS_CREDENTIALS_DIR", mount.to_str().unwrap());
    setup.account("token_wait", "100ms").with_control_socket().with_telemetry();
    setup.start().ready()
}

fn secret(organization: &str) -> [(&'static str, &str); 3] {
    match organization {
        FIRST => [("organization", FIRST), ("username", "service@demo.example.test"), ("password", "demo-password-1")],
        _ => [("organization", SECOND), ("username", "service@other.example.test"), ("password", "other-password-1")],
    }
}

/// A daemon whose organization comes from a command: no watch sees it change, only a log-in does.
fn with_commanded_organization(simulator: &Simulator) -> Sidecar {
    let mut setup = Setup::new(simulator);
    let organization = setup.file("organization", FIRST);
    setup.without("CAREPORTALS_ORGANIZATION");
    setup.account("organization", &format!("{{ command = [\"cat\", \"{}\"] }}", organization.display()));
    setup.account("token_wait", "100ms").with_control_socket().with_telemetry();
    simulator.control().set_credentials(SECOND, USERNAME, PASSWORD);
    setup.start().ready()
}

/// Has a log-in read another organization.
fn log_in_with_another_organization(sidecar: &Sidecar) -> Child {
    sidecar.setup.file("organization", SECOND);
    sidecar.setup.command("login").stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

#[test]
fn a_log_in_that_reads_another_organization_and_is_slow_ends_the_old_token() {
    let simulator = simulator();
    let control = simulator.control();
    let sidecar = with_commanded_organization(&simulator);
    control.hold_logins(true);
    let mut login = log_in_with_another_organization(&sidecar);
    until("two log-ins have begun", || control.counts().logins == 2);
    is_told_to_come_again(&sidecar.get("/users/account"));
    assert_eq!(sidecar.telemetry("/readyz").status, 503);
    control.hold_logins(false);
    assert!(login.wait().unwrap().success());
    assert_eq!(sidecar.get("/_sim/echo").echoed("organization"), [SECOND]);
    assert_eq!((control.counts().unauthorized, control.counts().requests), (0, 2));
}

#[test]
fn a_log_in_that_reads_another_organization_and_fails_ends_the_old_token() {
    for (fault, problem) in [(LoginFault::Status(401), "login_rejected"), (LoginFault::Status(503), "login_failing")] {
        let simulator = simulator();
        let control = simulator.control();
        let sidecar = with_commanded_organization(&simulator);
        control.set_login_fault(Some(fault));
        assert!(!log_in_with_another_organization(&sidecar).wait().unwrap().success());
        let answer = sidecar.get("/users/account");
        assert_eq!(answer.status, 503, "{answer:?}");
        assert!([problem, "token_pending"].contains(&answer.problem().as_str()), "{answer:?}");
        assert_eq!(sidecar.telemetry("/readyz").status, 503);
        assert_eq!(control.counts().requests, 1, "nothing goes out for the old organization");
    }
}

/// The watch is the first to see it, and its log-in fails.
#[test]
fn a_mount_that_names_another_organization_ends_the_old_token_though_the_log_in_fails() {
    let simulator = simulator();
    let control = simulator.control();
    let sidecar = mounted(&simulator);
    control.set_login_fault(Some(LoginFault::Status(401)));
    let mount = sidecar.setup.dir.path().join("mount");
    renew_secret(&mount, "..2", &secret(SECOND));
    until("a log-in has been refused", || control.counts().logins == 2);
    until("no token serves", || sidecar.telemetry("/readyz").status == 503);
    control.set_login_fault(None);
    renew_secret(&mount, "..3", &secret(FIRST));
    until("the first organization is back", || sidecar.get("/_sim/echo").status == 200);
    assert_eq!(sidecar.get("/_sim/echo").echoed("organization"), [FIRST]);
}

/// A password that goes there and back again within the watch's pause, with a log-in in between.
#[test]
fn a_password_that_changes_back_and_forth_is_the_last_one_in_the_end() {
    let simulator = simulator();
    let control = simulator.control();
    let sidecar = mounted(&simulator);
    let password = sidecar.setup.dir.path().join("mount/..1/password");
    let next = "demo-password-2";
    control.set_credentials(FIRST, "service@demo.example.test", next);
    fs::write(&password, next).unwrap();
    until("the change is noticed", || control.counts().logins == 2);
    // Everything up to the end is within the pause after that change.
    fs::write(&password, "demo-password-1").unwrap();
    let done = sidecar.setup.output_of(&["login"]);
    assert_ne!(done.code, Some(0), "the old password is no longer good");
    fs::write(&password, next).unwrap();
    until("a log-in with the last password has succeeded", || {
        control.logins().last().is_some_and(|login| login.body["password"] == next && login.status == 201)
    });
    until("the account is ready", || sidecar.telemetry("/readyz").status == 200);
}

#[test]
fn a_reload_that_renames_the_account_does_not_undo_a_log_out_of_all() {
    let mut moving = Moving::start();
    moving.sidecar.wait_for_logs(LOGGED_IN, 1);
    moving.sidecar.signal(Signal::USR1);
    until("the log-out is done", || moving.sidecar.get("/_sim/echo").status == 503);
    let (logins, renamed) =
        (moving.first.control().counts().logins, settings(&account("renamed", FIRST), "renamed", &moving.first));
    moving.reload(&renamed);
    let answer = moving.sidecar.get("/_sim/echo");
    assert_eq!((answer.status, answer.problem().as_str()), (503, "logged_out"), "{answer:?}");
    assert_eq!(moving.first.control().counts().logins, logins);
    assert_eq!(moving.sidecar.setup.output_of(&["login"]).code, Some(0));
    assert_eq!(moving.sidecar.get("/_sim/echo").status, 200);
}
