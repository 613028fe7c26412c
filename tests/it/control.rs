//! The control socket: which users are answered, what can be asked, and what comes of it.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    os::unix::{
        fs::{PermissionsExt, chown},
        net::UnixListener,
        process::CommandExt,
    },
    path::Path,
    process::{Command, Stdio},
};

use careportals_simulator::{LoginFault, Simulator};
use rustix::process::{Signal, getuid};
use serde_json::{Value, json};

use crate::harness::{
    Answer, ORGANIZATION, PASSWORD, Request, Setup, Sidecar, USERNAME, held, mode, program_file, simulator, until,
};

fn ask(sidecar: &Sidecar, method: &str, target: &str) -> Answer {
    Sidecar::connect_unix(&sidecar.setup.control_socket()).send(&Request::new(method, target))
}

fn get(sidecar: &Sidecar, target: &str) -> Answer {
    ask(sidecar, "GET", target)
}

fn post(sidecar: &Sidecar, target: &str) -> Answer {
    ask(sidecar, "POST", target)
}

/// Status and code of an answer that is a problem document.
#[track_caller]
fn problem(answer: &Answer) -> (u16, String) {
    assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{answer:?}");
    let document = answer.json();
    assert_eq!(document["status"], answer.status, "{document}");
    assert!(document["type"].is_string() && document["title"].is_string() && document["detail"].is_string(), "{document}");
    (answer.status, document["code"].as_str().unwrap().to_owned())
}

fn expect(status: u16, code: &str) -> (u16, String) {
    (status, code.to_owned())
}

#[test]
fn the_socket_is_for_its_owner_alone_and_gone_after_the_end() {
    let simulator = simulator();
    let mut sidecar = Setup::controlled(&simulator).start();
    let path = sidecar.setup.control_socket();
    assert_eq!(mode(&path), 0o600);
    assert!(sidecar.wait_for_log("\"control socket\"").contains(path.to_str().unwrap()));
    assert!(!sidecar.logs().contains("not in effect"), "{}", sidecar.logs());
    assert_eq!(sidecar.stop().code(), Some(0));
    assert!(!path.exists());
}

#[test]
fn status_tells_everything_of_accounts_and_apis() {
    let simulator = simulator();
    let mut setup = Setup::controlled(&simulator);
    setup.with_telemetry();
    let sidecar = setup.start().ready();
    let answer = get(&sidecar, "/status");
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let document = answer.json();
    assert_eq!(document["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(document["phase"], "running");
    assert_eq!(document["telemetry"], sidecar.telemetry_address().to_string());
    assert!(document["uptime_seconds"].is_u64(), "{document}");
    let [account] = document["accounts"].as_array().unwrap().as_slice() else { panic!("{document}") };
    assert_eq!((&account["name"], &account["state"]), (&json!("default"), &json!("ready")));
    for time in ["expires_at", "refresh_at", "last_login_at"] {
        let time = account[time].as_str().unwrap();
        assert!(time.ends_with('Z') && time.as_bytes()[10] == b'T', "{document}");
    }
    assert!(account["last_error"].is_null() && account["last_error_at"].is_null() && account["advice"].is_null(), "{document}");
    let [api] = document["apis"].as_array().unwrap().as_slice() else { panic!("{document}") };
    assert_eq!((&api["name"], &api["account"], &api["in_flight"]), (&json!("default"), &json!("default"), &json!(0)));
    assert_eq!(api["listen"], json!([sidecar.address().to_string()]), "the port that was really taken");
    assert!(api["requests"].is_u64() && api["errors"] == 0, "{api}");
    assert_eq!(api["upstream"], simulator.base_url().trim_end_matches('/'));
    let secrets = [PASSWORD, USERNAME, &simulator.control().last_token().unwrap()];
    assert!(secrets.iter().all(|secret| !answer.text().contains(secret)), "{document}");
}

#[test]
fn what_is_not_there_is_refused_and_changes_nothing() {
    let simulator = simulator();
    let sidecar = Setup::controlled(&simulator).start().ready();
    for (method, target, status, code, allow) in [
        ("HEAD", "/status", 405, "", Some("GET")),
        ("POST", "/status", 405, "method_not_allowed", Some("GET")),
        ("GET", "/logout", 405, "method_not_allowed", Some("POST")),
        ("DELETE", "/shutdown", 405, "method_not_allowed", Some("POST")),
        ("GET", "/", 404, "not_found", None),
        ("GET", "/metrics", 404, "not_found", None),
        ("POST", "/logout?acount=default", 400, "bad_query", None),
        ("POST", "/logout?account=nobody", 404, "no_account", None),
        ("POST", "/login?account=nobody", 404, "no_account", None),
    ] {
        let answer = ask(&sidecar, method, target);
        assert_eq!((answer.status, answer.header("allow")), (status, allow), "{method} {target}: {answer:?}");
        if method != "HEAD" {
            assert_eq!(problem(&answer), expect(status, code));
        }
    }
    assert_eq!(sidecar.get("/users/account").status, 200);
    assert_eq!(simulator.control().counts().logins, 1);
}

#[test]
fn after_a_logout_requests_get_503_until_a_login_is_answered() {
    let simulator = simulator();
    let control = simulator.control();
    let sidecar = Setup::controlled(&simulator).start().ready();
    let answer = post(&sidecar, "/logout");
    assert_eq!((answer.status, &answer.json()["accounts"][0]["state"]), (200, &json!("logged_out")), "{answer:?}");
    until("idle connections are closed", || control.counts().open_connections == 0);
    let refused = sidecar.get("/users/account");
    assert_eq!((refused.status, refused.problem().as_str()), (503, "logged_out"));

    control.hold_logins(true);
    std::thread::scope(|scope| {
        let login = scope.spawn(|| post(&sidecar, "/login"));
        until("two log-ins have begun", || control.counts().logins == 2);
        assert!(!login.is_finished(), "the outcome is not known yet");
        control.hold_logins(false);
        let answer = login.join().unwrap();
        let account = &answer.json()["accounts"][0];
        assert_eq!((answer.status, &account["name"], &account["state"]), (200, &json!("default"), &json!("ready")));
        assert!(account["expires_at"].is_string(), "{account}");
    });
    assert_eq!(sidecar.get("/users/account").status, 200);
}

#[test]
fn a_login_that_fails_says_which_account_and_why() {
    let simulator = simulator();
    let control = simulator.control();
    let sidecar = Setup::controlled(&simulator).start().ready();
    for (fault, code) in [(LoginFault::Status(401), "login_refused"), (LoginFault::Garbage, "login_answer_malformed")] {
        control.set_login_fault(Some(fault));
        let answer = post(&sidecar, "/login?account=default");
        assert_eq!(problem(&answer), expect(502, "login_failed"));
        let failed = &answer.json()["accounts"][0];
        assert_eq!((&failed["name"], &failed["code"]), (&json!("default"), &json!(code)), "{failed}");
        assert!(failed["detail"].is_string() && failed["advice"].is_string(), "{failed}");
        assert_eq!(sidecar.get("/users/account").status, 200, "the token at hand goes on");
    }
    control.set_login_fault(None);
    assert_eq!(post(&sidecar, "/login").status, 200);
    assert!(!sidecar.logs().contains(PASSWORD));
}

#[test]
fn a_credential_that_is_not_there_is_a_conflict_and_nothing_of_the_servers() {
    let simulator = simulator();
    let mut setup = Setup::controlled(&simulator);
    let missing = setup.dir.path().join("absent");
    setup.without("CAREPORTALS_PASSWORD").variable("CAREPORTALS_PASSWORD_FILE", missing.to_str().unwrap());
    let sidecar = setup.start();
    let answer = post(&sidecar, "/login");
    assert_eq!(problem(&answer), expect(409, "login_failed"));
    assert_eq!(answer.json()["accounts"][0]["code"], "source_missing");
    sidecar.setup.file("absent", PASSWORD);
    assert_eq!(post(&sidecar, "/login").status, 200);
}

/// Two accounts that log in and one that does not, each with an API.
fn three_accounts(simulator: &Simulator) -> Sidecar {
    simulator.control().set_credentials("other", "user@other", "other-password");
    let mut setup = Setup::controlled(simulator);
    for name in ["ORGANIZATION", "USERNAME", "PASSWORD", "UPSTREAM", "LISTEN"] {
        setup.without(&format!("CAREPORTALS_{name}"));
    }
    let account = |name: &str, organization: &str, username: &str, password: &str| {
        format!("[accounts.{name}]\norganization = \"{organization}\"\nusername = \"{username}\"\npassword = \"{password}\"\n")
    };
    let api = |name: &str| {
        let upstream = simulator.base_url();
        format!("[apis.{name}]\naccount = \"{name}\"\nupstream = \"{upstream}\"\nlisten = \"127.0.0.1:0\"\n")
    };
    setup.settings(
        &[
            account("demo", ORGANIZATION, USERNAME, PASSWORD),
            account("other", "other", "user@other", "other-password"),
            "[accounts.open]\norganization = \"demo\"\nlogin_url = \"off\"\n".to_owned(),
            ["demo", "other", "open"].map(api).concat(),
        ]
        .concat(),
    );
    let sidecar = setup.start();
    sidecar.wait_for_logs("\"message\":\"logged in\"", 2);
    sidecar
}

fn states(sidecar: &Sidecar) -> Vec<Value> {
    let document = get(sidecar, "/status").json();
    document["accounts"].as_array().unwrap().iter().map(|account| account["state"].clone()).collect()
}

#[test]
fn one_account_is_logged_out_and_in_without_the_others() {
    let simulator = simulator();
    let sidecar = three_accounts(&simulator);
    let answer = post(&sidecar, "/logout?account=other");
    assert_eq!((answer.status, answer.json()["accounts"].as_array().unwrap().len()), (200, 1));
    assert_eq!(states(&sidecar), [json!("ready"), json!("logged_out"), Value::Null]);
    let before = simulator.control().counts().logins;
    assert_eq!(post(&sidecar, "/login?account=other").status, 200);
    assert_eq!(states(&sidecar), [json!("ready"), json!("ready"), Value::Null]);
    assert_eq!(simulator.control().counts().logins, before + 1);

    simulator.control().set_credentials("other", "user@other", "changed");
    let answer = post(&sidecar, "/login");
    assert_eq!(problem(&answer), expect(502, "login_failed"));
    let document = answer.json();
    assert_eq!(document["detail"], "1 of 2 log-ins failed");
    assert_eq!(document["accounts"].as_array().unwrap().len(), 1);
    assert_eq!(document["accounts"][0]["name"], "other");
}

#[test]
fn all_accounts_log_in_at_the_same_time() {
    let simulator = simulator();
    let control = simulator.control();
    let sidecar = three_accounts(&simulator);
    let before = control.counts().logins;
    control.hold_logins(true);
    std::thread::scope(|scope| {
        let login = scope.spawn(|| post(&sidecar, "/login"));
        until("one waits for the other", || control.counts().logins == before + 2);
        control.hold_logins(false);
        let answer = login.join().unwrap();
        assert_eq!((answer.status, answer.json()["accounts"].as_array().unwrap().len()), (200, 2));
    });
}

#[test]
fn an_account_that_does_not_log_in_can_neither_log_in_nor_out() {
    let simulator = simulator();
    let sidecar = three_accounts(&simulator);
    for target in ["/login?account=open", "/logout?account=open"] {
        assert_eq!(problem(&post(&sidecar, target)), expect(409, "no_login"));
    }
    assert_eq!(sidecar.connect_to("open").send(&Request::get("/_sim/echo")).status, 401, "it is passed on without a token");
}

#[test]
fn a_reload_is_answered_when_the_settings_are_in_force_or_refused_with_every_reason() {
    let simulator = simulator();
    let mut setup = Setup::controlled(&simulator);
    setup.settings("drain_timeout = \"20s\"\n");
    let sidecar = setup.start().ready();
    let more = format!("[apis.default]\n[apis.more]\nlisten = \"127.0.0.1:0\"\nupstream = \"{}\"\n", simulator.base_url());
    sidecar.setup.file("config.toml", &more);
    let answer = post(&sidecar, "/reload");
    assert_eq!((answer.status, answer.json()), (200, json!({"reloaded": true})));
    let apis = get(&sidecar, "/status").json()["apis"].as_array().unwrap().len();
    assert_eq!(apis, 2, "in force, and shown");

    sidecar.setup.file("config.toml", "[apis.default]\nmax_requests = 0\nnonsense = 1\n");
    let answer = post(&sidecar, "/reload");
    assert_eq!(problem(&answer), expect(409, "not_reloaded"));
    let faults = answer.json()["faults"].as_array().unwrap().clone();
    let line = |fault: &Value, line: &str| fault.as_str().unwrap().contains(&format!("config.toml:{line}"));
    assert!(faults.len() == 2 && line(&faults[0], "2:") && line(&faults[1], "3:"), "{faults:?}");

    sidecar.setup.file("config.toml", "control_allow_uids = [1]\n");
    let answer = post(&sidecar, "/reload");
    assert_eq!(problem(&answer), expect(409, "not_reloaded"));
    assert!(answer.json()["faults"][0].as_str().unwrap().contains("`control_allow_uids` needs a restart"), "{answer:?}");
    assert_eq!(sidecar.get("/users/account").status, 200);
}

#[test]
fn a_shutdown_is_answered_at_once_and_what_is_in_flight_finishes_through_one_sigterm() {
    let simulator = simulator();
    let mut sidecar = Setup::controlled(&simulator).start().ready();
    let mut client = held(&simulator, &sidecar);
    let answer = post(&sidecar, "/shutdown");
    assert_eq!((answer.status, answer.json()), (202, json!({"phase": "draining", "pid": sidecar.pid()})));
    sidecar.wait_for_log("\"draining\"");
    assert_eq!(get(&sidecar, "/status").json()["phase"], "draining");
    for target in ["/login", "/reload"] {
        assert_eq!(problem(&post(&sidecar, target)), expect(409, "draining"));
    }
    assert_eq!(post(&sidecar, "/shutdown").status, 202, "once more changes nothing");
    // As a service manager does that was told to stop the daemon, too. It is not a second one.
    sidecar.signal(Signal::TERM);
    simulator.control().hold_requests(false);
    assert_eq!(client.answer("GET").status, 200);
    assert_eq!(sidecar.wait().code(), Some(0));
    let line =
        sidecar.wait_for_event(|event| event["message"] == "asked over the control socket" && event["action"] == "shutdown");
    assert_eq!((&line["uid"], &line["pid"]), (&json!(getuid().as_raw()), &json!(std::process::id())));
}

#[test]
fn a_second_sigterm_after_a_shutdown_ends_at_once() {
    let simulator = simulator();
    let mut sidecar = Setup::controlled(&simulator).start().ready();
    let _client = held(&simulator, &sidecar);
    assert_eq!(post(&sidecar, "/shutdown").status, 202);
    sidecar.wait_for_log("\"draining\"");
    sidecar.signal(Signal::TERM);
    sidecar.signal(Signal::INT);
    assert_eq!(sidecar.wait().code(), Some(1));
}

/// Runs the program's own client as another user.
fn status_as(uid: u32, sidecar: &Sidecar) -> std::process::Output {
    let dir = sidecar.setup.dir.path();
    let program = dir.join("client");
    if !program.exists() {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).unwrap();
        let built = program_file();
        fs::hard_link(&built, &program).or_else(|_| fs::copy(&built, &program).map(drop)).unwrap();
    }
    let mut command = Command::new(program);
    command.env_clear().current_dir("/").args(["status", "--json", "--control-socket"]).arg(sidecar.setup.control_socket());
    command.uid(uid).gid(uid).output().unwrap()
}

const STRANGER: u32 = 65_531;
const FRIEND: u32 = 65_532;

#[test]
fn another_user_is_refused_unless_control_allow_uids_names_him() {
    if !getuid().is_root() {
        eprintln!("skipped: only root can become another user");
        return;
    }
    let simulator = simulator();
    let sidecar = Setup::controlled(&simulator).start().ready();
    let refused = status_as(STRANGER, &sidecar);
    let said = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(said.contains("permission denied") && said.contains(&format!("control_allow_uids = [{STRANGER}]")), "{said}");

    let mut setup = Setup::controlled(&simulator);
    setup.global("control_allow_uids", &format!("[{FRIEND}]"));
    let sidecar = setup.start().ready();
    assert_eq!(mode(&sidecar.setup.control_socket()), 0o666, "the kernel lets everybody ask, and the daemon answers some");
    let refused = status_as(STRANGER, &sidecar);
    let said = String::from_utf8(refused.stderr).unwrap();
    assert_eq!((refused.status.code(), refused.stdout.len()), (Some(1), 0), "{said}");
    assert!(said.contains("control_allow_uids may control it") && said.contains(&format!("user id {STRANGER}")), "{said}");
    let line = sidecar.wait_for_event(|event| event["message"] == "refused at the control socket: this user may not");
    assert_eq!(line["uid"], STRANGER, "{line}");
    let answered = status_as(FRIEND, &sidecar);
    assert_eq!(answered.status.code(), Some(0), "{answered:?}");
    assert_eq!(serde_json::from_slice::<Value>(&answered.stdout).unwrap()["phase"], "running");
}

/// The daemon's command line in a user namespace where it runs as the user that everybody without a number there seems to be;
/// `None` where this user may not make one.
fn as_anybody(setup: &Setup) -> Option<Command> {
    const UNSHARE: [&str; 2] = ["--user", "--map-user=65534"];
    let allowed = Command::new("unshare").args(UNSHARE).arg("true").output().is_ok_and(|output| output.status.success());
    let daemon = setup.command("run");
    let mut command = Command::new("unshare");
    command.args(UNSHARE).arg(daemon.get_program()).args(daemon.get_args()).env_clear().current_dir(setup.dir.path());
    command.envs(daemon.get_envs().filter_map(|(name, value)| Some((name, value?)))).stdin(Stdio::null());
    allowed.then_some(command)
}

#[test]
fn a_user_without_a_number_in_the_daemons_user_namespace_is_not_taken_for_its_own() {
    if !getuid().is_root() {
        eprintln!("skipped: only root can become another user");
        return;
    }
    let simulator = simulator();
    let mut setup = Setup::controlled(&simulator);
    setup.global("control_allow_uids", "[1]");
    let Some(command) = as_anybody(&setup) else {
        eprintln!("skipped: this user may not make a user namespace");
        return;
    };
    let sidecar = setup.start_with(command).ready();
    let refused = status_as(STRANGER, &sidecar);
    let said = String::from_utf8(refused.stderr).unwrap();
    assert_eq!((refused.status.code(), refused.stdout.len()), (Some(1), 0), "{said}");
    assert!(said.contains("you are user id 65534"), "{said}");

    // The file's mode lets in the daemon's own user, and nobody else.
    let setup = Setup::controlled(&simulator);
    let command = as_anybody(&setup).unwrap();
    let sidecar = setup.start_with(command).ready();
    assert_eq!(get(&sidecar, "/status").status, 200);
    assert_eq!(status_as(STRANGER, &sidecar).status.code(), Some(1));
}

#[test]
fn a_directory_of_a_user_without_a_number_in_the_daemons_user_namespace_is_not_taken_for_its_own() {
    if !getuid().is_root() {
        eprintln!("skipped: only root can give a directory away");
        return;
    }
    let simulator = simulator();
    let mut setup = Setup::new(&simulator);
    let directory = setup.dir.path().join("run");
    fs::create_dir(&directory).unwrap();
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o777)).unwrap();
    chown(&directory, Some(STRANGER), None).unwrap();
    setup.without("CAREPORTALS_CONTROL_SOCKET").variable("XDG_RUNTIME_DIR", directory.to_str().unwrap());
    let Some(command) = as_anybody(&setup) else {
        eprintln!("skipped: this user may not make a user namespace");
        return;
    };
    let sidecar = setup.start_with(command).ready();
    sidecar.wait_for_log("belongs to uid 65534, which in this user namespace may be anybody");
    assert_eq!(fs::read_dir(&directory).unwrap().count(), 0);
}

#[test]
fn the_flag_names_the_socket_for_daemon_and_commands_alike() {
    let simulator = simulator();
    let mut setup = Setup::new(&simulator);
    let path = setup.dir.path().join("by-flag.sock");
    setup.argument("--control-socket").argument(path.to_str().unwrap());
    let sidecar = setup.start();
    sidecar.wait_for_log("\"control socket\"");
    let output = sidecar.setup.output("status");
    assert_eq!(output.code, Some(0), "the variable says off: {output:?}");
}

/// Starts a daemon with the default control socket of a service whose runtime directory is `run`.
fn by_default(simulator: &Simulator, run: &Path) -> Setup {
    let mut setup = Setup::new(simulator);
    let others = "/nowhere/else";
    setup.without("CAREPORTALS_CONTROL_SOCKET").variable("RUNTIME_DIRECTORY", &format!("{}:{others}", run.display()));
    setup
}

#[test]
fn a_default_socket_where_a_daemon_answers_is_left_alone() {
    let (simulator, run) = (simulator(), tempfile::tempdir().unwrap());
    let path = run.path().join("control.sock");
    let first = by_default(&simulator, run.path()).start().ready();
    first.wait_for_log("\"control socket\"");
    let mut second = by_default(&simulator, run.path()).start().ready();
    second.wait_for_log("none: another daemon answers at ");
    let listens = |document: &Value| document["apis"][0]["listen"][0].clone();
    let document = || Sidecar::connect_unix(&path).send(&Request::get("/status")).json();
    assert_eq!(listens(&document()), first.address().to_string());
    assert_eq!(second.stop().code(), Some(0));
    assert_eq!(listens(&document()), first.address().to_string(), "its file is still there");
}

#[test]
fn a_configured_socket_where_a_daemon_answers_is_an_error_at_start() {
    let simulator = simulator();
    let first = Setup::controlled(&simulator).start();
    let path = first.setup.control_socket();
    let mut setup = Setup::new(&simulator);
    setup.variable("CAREPORTALS_CONTROL_SOCKET", path.to_str().unwrap());
    let output = setup.output("run");
    assert_eq!(output.code, Some(1), "{output:?}");
    let said = format!(
        "cannot listen on unix:{}: another process answers on that socket: careportals-sidecar (pid {})",
        path.display(),
        first.pid()
    );
    assert!(output.stderr.contains(&said), "{output:?}");
    assert!(
        output.stderr.contains("choose another with `control_socket` in the settings file or CAREPORTALS_CONTROL"),
        "{output:?}"
    );
    assert_eq!(get(&first, "/status").status, 200);
}

#[test]
fn a_socket_that_a_killed_daemon_left_behind_is_replaced() {
    let (simulator, run) = (simulator(), tempfile::tempdir().unwrap());
    let path = run.path().join("control.sock");
    drop(UnixListener::bind(&path).unwrap());
    let sidecar = by_default(&simulator, run.path()).start();
    sidecar.wait_for_log("\"control socket\"");
    assert_eq!(Sidecar::connect_unix(&path).send(&Request::get("/status")).status, 200);
    assert_eq!(mode(&path), 0o600);
}

#[test]
fn without_its_default_socket_the_daemon_starts_all_the_same() {
    let (simulator, run) = (simulator(), tempfile::tempdir().unwrap());
    fs::write(run.path().join("control.sock"), "in the way").unwrap();
    let sidecar = by_default(&simulator, run.path()).start().ready();
    sidecar.wait_for_log("no control socket: cannot listen on unix:");
    let nowhere = by_default(&simulator, &run.path().join("absent")).start().ready();
    let told = nowhere.wait_for_log("no control socket: cannot listen on unix:");
    let hint = "choose another with `control_socket` in the settings file or CAREPORTALS_CONTROL_SOCKET";
    assert!(told.contains(hint) && !told.contains("`listen`"), "{told}");
}

#[test]
fn the_users_own_daemon_has_its_socket_under_the_users_runtime_directory() {
    if Path::new("/run/careportals-sidecar").exists() {
        eprintln!("skipped: this machine has a daemon of its own");
        return;
    }
    let (simulator, run) = (simulator(), tempfile::tempdir().unwrap());
    let mut setup = Setup::new(&simulator);
    setup.without("CAREPORTALS_CONTROL_SOCKET").variable("XDG_RUNTIME_DIR", run.path().to_str().unwrap());
    let mut sidecar = setup.start().ready();
    let path = run.path().join("careportals-sidecar/control.sock");
    sidecar.wait_for_log("\"control socket\"");
    assert_eq!((mode(path.parent().unwrap()), mode(&path)), (0o700, 0o600));
    let output = sidecar.setup.output("status");
    assert_eq!(output.code, Some(0), "{output:?}");
    assert_eq!(sidecar.stop().code(), Some(0));
    assert!(!path.exists());
    sidecar.setup.variable("XDG_RUNTIME_DIR", "/nonexistent");
    let output = sidecar.setup.output("status");
    assert!(output.stderr.contains("the default: under $XDG_RUNTIME_DIR"), "{output:?}");
}

/// A daemon that is stopped accepts connections, and would be waited for as long as a log-in may take.
#[test]
fn login_and_reload_ask_first_whether_the_daemon_answers_at_all() {
    let run = tempfile::tempdir().unwrap();
    let path = run.path().join("control.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let asked = std::thread::spawn(move || {
        let mut lines = Vec::new();
        for stream in listener.incoming().take(2) {
            let mut line = String::new();
            BufReader::new(stream.unwrap()).read_line(&mut line).unwrap();
            lines.push(line.trim().to_owned());
        }
        lines
    });
    let setup = Setup::empty();
    for command in ["login", "reload"] {
        let output = setup.output_of(&[command, "--control-socket", path.to_str().unwrap()]);
        assert_eq!(output.code, Some(1), "{output:?}");
        assert!(output.stderr.contains("cannot reach the daemon at "), "{output:?}");
    }
    assert_eq!(asked.join().unwrap(), ["GET /status HTTP/1.1"; 2]);
}

/// The daemon at the default place is another one than the user means.
#[test]
fn a_control_socket_that_is_written_wrongly_leads_no_command_to_the_default_place() {
    let (simulator, run) = (simulator(), tempfile::tempdir().unwrap());
    let sidecar = by_default(&simulator, run.path()).start().ready();
    let refused = |setup: &Setup, said: &str| {
        let output = setup.output("shutdown");
        assert_eq!(output.code, Some(78), "{output:?}");
        assert!(output.stderr.contains(said), "{output:?}");
    };
    for (name, value, said) in [
        ("CAREPORTALS_CONTROL_SOCKET", "", "is empty"),
        ("CAREPORTALS_CONTROL_SOCKETS", "/x", "did you mean `CAREPORTALS_CONTROL_SOCKET`"),
        ("CAREPORTALS__CONTROL_SOKET", "/x", "no such key"),
        ("CAREPORTALS_CONTROL_SOCKET_FILE", "/x", "takes no `_FILE`"),
        ("CAREPORTALS__APIS__DEFAULT__CONTROL_SOCKET", "/x", ""),
        ("CAREPORTALS_CONFIG_FILE", "/x.toml", "takes no `_FILE`"),
        ("CAREPORTALS_SETTINGS", "/x.toml", "no such variable"),
        ("CAREPORTALS_COMFIG", "/x", "did you mean `CAREPORTALS_CONFIG`"),
        ("CAERPORTALS_CONTROL_SOCKET", "/x", "did you mean `CAREPORTALS_CONTROL_SOCKET`"),
        ("CAREPORTAL_CONTROL_SOCKET", "/x", "did you mean `CAREPORTALS_CONTROL_SOCKET`"),
        ("careportals_config", "/x", "did you mean `CAREPORTALS_CONFIG`"),
        ("CAREPORTALS_COTROL_SOKET", "/x", "did you mean `CAREPORTALS_CONTROL_SOCKET`"),
        ("CAREPORTALS__CTL", "/x", "no such key"),
    ] {
        let mut setup = by_default(&simulator, run.path());
        refused(setup.variable(name, value), said);
    }
    for (text, said) in [
        ("control_sokcet = \"/x\"\n", "did you mean `control_socket`"),
        ("admin_socket = \"/x\"\n", "no such key"),
        ("cotrol_soket = \"/x\"\n", "did you mean `control_socket`"),
        ("[admin]\npath = \"/x\"\n", "no such key"),
        ("[apis.default]\ncontrol_socket = \"/x\"\n", "belongs at the top level"),
        ("[global]\ncontrol_socket = \"/x\"\n", "belongs at the top level"),
        ("[settings]\na = { control_socket = \"/x\" }\n", "belongs at the top level"),
        ("[accounts.default.x.y]\ncontrol_socket = \"/x\"\n", "belongs at the top level"),
        ("[[apis]]\ncontrol_socket = \"/x\"\n", "belongs at the top level"),
        ("[[apis.other]]\ncontrol_socket = \"/x\"\n", "belongs at the top level"),
    ] {
        refused(by_default(&simulator, run.path()).settings(text), said);
    }
    assert_eq!(sidecar.get("/users/account").status, 200);
}
