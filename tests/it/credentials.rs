//! Where credentials come from: files that appear and change, commands, variables, mounts.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use careportals_simulator::Simulator;

use crate::harness::{
    LOGGED_IN, ORGANIZATION, PASSWORD, Request, Setup, Sidecar, USERNAME, mount_secret, renew_secret, revoke, simulator, until,
};

const NEXT: &str = "demo-password-2";

/// A command that prints a value, says something, and fails.
const FAILING: &str = r#"["sh", "-c", "echo hunter2; echo the vault is sealed >&2; exit 3"]"#;

#[test]
fn a_file_that_is_absent_at_start_is_waited_for() {
    let simulator = simulator();
    let mut setup = in_files(&simulator);
    fs::remove_file(setup.dir.path().join("password")).unwrap();
    setup.account("token_wait", "100ms");
    let sidecar = setup.start();
    let event = sidecar.wait_for_log("does not exist");
    assert!(event.contains("/password"), "{event}");
    let answer = sidecar.get("/users/account");
    assert_eq!((answer.status, answer.problem().as_str()), (503, "login_failing"));
    assert_eq!(simulator.control().counts().logins, 0);
    sidecar.setup.file("password", PASSWORD);
    until("one log-in has succeeded", || simulator.control().counts().login_ok == 1);
    sidecar.wait_for_log("logged in");
    assert_eq!(sidecar.get("/users/account").status, 200);
}

#[test]
fn a_directory_that_is_absent_at_start_is_waited_for() {
    let simulator = simulator();
    let mut setup = Setup::new(&simulator);
    let directory = setup.dir.path().join("not/yet");
    setup.without("CAREPORTALS_ORGANIZATION").without("CAREPORTALS_USERNAME").without("CAREPORTALS_PASSWORD");
    setup.variable("CAREPORTALS_CREDENTIALS_DIR", directory.to_str().unwrap());
    let sidecar = setup.start();
    sidecar.wait_for_log("does not exist");
    write(&directory, ORGANIZATION, USERNAME, PASSWORD);
    until("one log-in has succeeded", || simulator.control().counts().login_ok == 1);
    assert_eq!(sidecar.get("/users/account").status, 200);
}

#[test]
fn one_trailing_newline_of_a_file_is_no_part_of_its_value() {
    let simulator = simulator();
    let setup = in_files(&simulator);
    setup.file("organization", &format!("{ORGANIZATION}\n"));
    setup.file("username", &format!("{USERNAME}\n"));
    setup.file("password", &format!("{PASSWORD}\n"));
    assert_eq!(setup.start().get("/users/account").status, 200);
    let login = &simulator.control().logins()[0];
    assert_eq!((login.organization.as_str(), login.username.as_str()), (ORGANIZATION, USERNAME));
    assert_eq!(login.body["password"], PASSWORD);
}

#[test]
fn a_password_may_hold_any_character() {
    let simulator = simulator();
    let password = "\"quoted\", back\\slash, пароль, tab\t, two lines\n and a trailing one\n";
    simulator.control().set_credentials(ORGANIZATION, USERNAME, password);
    let setup = in_files(&simulator);
    setup.file("password", &format!("{password}\n"));
    assert_eq!(setup.start().get("/users/account").status, 200);
}

#[test]
fn a_file_rewritten_in_place_logs_in_anew() {
    changed(|path| fs::write(path, NEXT).unwrap());
}

#[test]
fn a_file_renamed_over_logs_in_anew() {
    changed(|path| {
        let beside = path.with_extension("new");
        fs::write(&beside, NEXT).unwrap();
        fs::rename(beside, path).unwrap();
    });
}

#[test]
fn a_file_removed_and_made_again_logs_in_anew() {
    changed(|path| {
        fs::remove_file(path).unwrap();
        fs::write(path, NEXT).unwrap();
    });
}

#[test]
fn a_swapped_kubernetes_mount_logs_in_anew() {
    let simulator = simulator();
    let control = simulator.control();
    let setup = mounted(&simulator);
    let mount = setup.dir.path().join("mount");
    let sidecar = setup.start().ready();
    control.set_credentials(ORGANIZATION, USERNAME, NEXT);
    renew_secret(&mount, "..second", &files(ORGANIZATION, USERNAME, NEXT));
    logs_in_with(&simulator, NEXT);
    assert_eq!(sidecar.get("/users/account").status, 200);
    // The new directory is watched as the old one was.
    control.set_credentials(ORGANIZATION, USERNAME, "demo-password-3");
    renew_secret(&mount, "..third", &files(ORGANIZATION, USERNAME, "demo-password-3"));
    logs_in_with(&simulator, "demo-password-3");
    assert_eq!(control.counts().logins, 3);
}

#[test]
fn a_change_of_credentials_drops_no_request() {
    let simulator = simulator();
    let control = simulator.control();
    let sidecar = in_files(&simulator).start().ready();
    let token = control.last_token().unwrap();
    control.set_credentials(ORGANIZATION, USERNAME, NEXT);
    control.hold_logins(true);
    sidecar.setup.file("password", NEXT);
    until("two log-ins have begun", || control.counts().logins == 2);
    let answer = sidecar.get("/_sim/echo");
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.echoed("authorization"), [format!("Bearer {token}")]);
    control.hold_logins(false);
    until("two log-ins have succeeded", || control.counts().login_ok == 2);
}

#[test]
fn corrected_credentials_are_tried_at_once() {
    let simulator = simulator();
    let setup = in_files(&simulator);
    setup.file("password", "not-the-password");
    let sidecar = setup.start();
    sidecar.wait_for_log("\"rejected\"");
    sidecar.setup.file("password", PASSWORD);
    // Left alone it would take a minute.
    until("one log-in has succeeded", || simulator.control().counts().login_ok == 1);
    sidecar.wait_for_log("logged in");
    assert_eq!(sidecar.get("/users/account").status, 200);
}

#[test]
fn a_changed_organization_drops_the_old_token_at_once() {
    let simulator = simulator();
    let control = simulator.control();
    let mut setup = mounted(&simulator);
    setup.account("token_wait", "200ms");
    let mount = setup.dir.path().join("mount");
    let sidecar = setup.start();
    sidecar.wait_for_log("logged in");
    let sidecar = sidecar.ready();
    control.hold_logins(true);
    renew_secret(&mount, "..second", &files("other", "service@other.example.test", "other-password-1"));
    until("two log-ins have begun", || control.counts().logins == 2);
    let answer = sidecar.get("/users/account");
    assert_eq!((answer.status, answer.problem().as_str()), (503, "token_pending"));
    assert_eq!(control.counts().requests, 1, "the old tenant's token was used");
    control.hold_logins(false);
    until("two log-ins have succeeded", || control.counts().login_ok == 2);
    sidecar.wait_for_logs(LOGGED_IN, 2);
    let answer = sidecar.get("/_sim/echo");
    assert_eq!((answer.status, answer.echoed("organization")), (200, vec!["other".to_owned()]));
    assert_eq!(control.counts().unauthorized, 0);
}

#[test]
fn a_changed_organization_counts_without_a_log_in_too() {
    let simulator = simulator();
    let control = simulator.control();
    let mut setup = in_files(&simulator);
    setup.variable("CAREPORTALS_LOGIN_URL", "off");
    setup.without("CAREPORTALS_USERNAME_FILE").without("CAREPORTALS_PASSWORD_FILE");
    let sidecar = setup.start();
    assert_eq!(sidecar.get("/v2/products").status, 200);
    sidecar.setup.file("organization", "other");
    sidecar.wait_for_logs("organization is known", 2);
    assert_eq!(sidecar.get("/v2/products").status, 200);
    let seen = control.requests();
    assert_eq!(seen[0].values("organization"), [ORGANIZATION]);
    assert_eq!(seen[1].values("organization"), ["other"]);
}

#[test]
fn a_command_gives_a_value_at_each_log_in() {
    let simulator = simulator();
    let control = simulator.control();
    let mut setup = Setup::new(&simulator);
    // It says something else the second time.
    let script = setup.file(
        "password.sh",
        "echo run >> runs; test \"$(wc -l < runs)\" -eq 1 && echo demo-password-1 || echo demo-password-2\n",
    );
    setup.without("CAREPORTALS_PASSWORD");
    setup.account("password", &format!(r#"{{ command = ["sh", "{}"] }}"#, script.display()));
    setup.account("relogin_floor", "100ms");
    let sidecar = setup.start().ready();
    control.set_credentials(ORGANIZATION, USERNAME, NEXT);
    revoke(&simulator);
    assert_eq!(sidecar.get("/users/account").status, 200);
    let passwords: Vec<_> = control.logins().iter().map(|login| login.body["password"].clone()).collect();
    assert_eq!(passwords, [PASSWORD, NEXT]);
}

/// A parent may have left SIGCHLD ignored; then the kernel throws the status of children away.
#[test]
fn a_command_gives_a_value_where_the_ends_of_children_are_ignored() {
    let simulator = simulator();
    let mut setup = Setup::new(&simulator);
    setup.without("CAREPORTALS_PASSWORD").account("password", &format!(r#"{{ command = ["echo", "{PASSWORD}"] }}"#));
    let check = setup.command("check");
    let ignoring = "import os, signal, sys; signal.signal(signal.SIGCHLD, signal.SIG_IGN); os.execv(sys.argv[1], sys.argv[1:])";
    let mut python = std::process::Command::new("python3");
    python.env_clear().envs(check.get_envs().filter_map(|(name, value)| Some((name, value?)))).current_dir(setup.dir.path());
    python.args(["-c", ignoring]).arg(check.get_program()).args(check.get_args()).arg("--online");
    let output = python.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn a_command_gets_its_arguments_as_they_are_and_none_of_our_settings() {
    let simulator = simulator();
    let mut setup = Setup::new(&simulator);
    // No shell makes anything of the second argument; the third is what `sh -c` prints.
    setup.without("CAREPORTALS_PASSWORD");
    setup.account("password", r#"{ command = ["sh", "-c", "env | grep -q CAREPORTALS_ || printf %s \"$1\"", "sh", "$HOME;*"] }"#);
    simulator.control().set_credentials(ORGANIZATION, USERNAME, "$HOME;*");
    let answer = setup.start().get("/users/account");
    assert_eq!(answer.status, 200, "{answer:?}");
}

#[test]
fn what_a_failing_command_prints_is_not_shown_but_its_exit_status_is() {
    let simulator = simulator();
    let sidecar = with_command(&simulator, FAILING);
    let event = sidecar.wait_for_log("log-in failed");
    assert!(event.contains("the command sh failed (exit status 3)"), "{event}");
    let answer = sidecar.get("/users/account");
    assert_eq!((answer.status, answer.problem().as_str()), (503, "login_failing"));
    let shown = [
        answer.text().to_owned(),
        sidecar.telemetry("/readyz").text().to_owned(),
        sidecar.telemetry("/status").text().to_owned(),
    ];
    assert!(shown[1].contains("exit status 3") && shown[2].contains("exit status 3"), "{shown:?}");
    for text in shown.iter().chain([&sidecar.logs()]) {
        assert!(!text.contains("vault") && !text.contains("hunter2"), "{text}");
    }
    assert_eq!(simulator.control().counts().logins, 0);
}

#[test]
fn at_debug_the_log_has_what_a_failing_command_says_and_not_what_it_gave() {
    let simulator = simulator();
    let mut setup = Setup::new(&simulator);
    setup.without("CAREPORTALS_PASSWORD").account("password", &format!("{{ command = {FAILING} }}"));
    setup.variable("CAREPORTALS_LOG", "debug");
    let sidecar = setup.start();
    let event = sidecar.wait_for_log("the vault is sealed");
    assert!(event.contains("DEBUG"), "{event}");
    assert!(!sidecar.logs().contains("hunter2"));
    let checked = sidecar.setup.output_of(&["check", "--online"]);
    assert!(checked.stdout.contains("\n  the command's standard error: the vault is sealed\n"), "{checked:?}");
    assert!(!checked.all().contains("hunter2"), "{checked:?}");
}

#[test]
fn a_byte_order_mark_is_no_part_of_a_value() {
    let simulator = simulator();
    let setup = in_files(&simulator);
    for (name, value) in files(ORGANIZATION, USERNAME, PASSWORD) {
        setup.file(name, &format!("\u{feff}{value}\r\n"));
    }
    let sidecar = setup.start();
    assert_eq!(sidecar.get("/users/account").status, 200);
    let checked = sidecar.setup.output("check");
    assert_eq!(checked.code, Some(0), "{checked:?}");
    assert_eq!(checked.stdout.matches("begins with a byte order mark, which is left out").count(), 3, "{checked:?}");
    assert!(checked.stdout.contains("3 warnings") && !checked.stdout.contains(PASSWORD), "{checked:?}");
}

#[test]
fn check_names_what_looks_mistaken_about_a_value_and_does_not_show_it() {
    let simulator = simulator();
    let setup = in_files(&simulator);
    let odd = ["\"hunter2\"\n", "hunter2 \n", "hunter2\n\n"];
    for ((name, _), value) in files(ORGANIZATION, USERNAME, PASSWORD).into_iter().zip(odd) {
        setup.file(name, value);
    }
    for arguments in [&["check"][..], &["check", "--online"]] {
        let checked = setup.output_of(arguments);
        for said in ["stands in quotes", "begins or ends with a blank", "begins or ends with a newline", "3 warnings"] {
            assert!(checked.stdout.contains(said), "{said}: {checked:?}");
        }
        assert!(!checked.all().contains("hunter2"), "{checked:?}");
    }
}

#[test]
fn a_command_whose_output_is_no_value_is_a_failed_log_in() {
    let simulator = simulator();
    let cases = [
        (r#"["head", "-c", "70000", "/dev/zero"]"#, "longer than 64 KiB"),
        (r#"["true"]"#, "empty"),
        (r#"["no-such-program-anywhere"]"#, "no-such-program-anywhere"),
        (r#"["printf", "\\377"]"#, "not UTF-8"),
    ];
    for (command, said) in cases {
        let sidecar = with_command(&simulator, command);
        let event = sidecar.wait_for_log("log-in failed");
        assert!(event.contains(said), "{command}: {event}");
    }
    assert_eq!(simulator.control().counts().logins, 0);
}

#[test]
fn a_variable_of_any_name_may_hold_a_value() {
    let simulator = simulator();
    let mut setup = Setup::new(&simulator);
    setup.without("CAREPORTALS_PASSWORD").variable("PORTAL_SECRET", PASSWORD);
    setup.account("password", r#"{ env = "PORTAL_SECRET" }"#);
    assert_eq!(setup.start().get("/users/account").status, 200);
}

#[test]
fn systemds_credentials_directory_is_used_by_default() {
    let simulator = simulator();
    let mut setup = Setup::new(&simulator);
    let directory = setup.dir.path().join("credentials");
    write(&directory, ORGANIZATION, USERNAME, PASSWORD);
    setup.without("CAREPORTALS_ORGANIZATION").without("CAREPORTALS_USERNAME").without("CAREPORTALS_PASSWORD");
    setup.variable("CREDENTIALS_DIRECTORY", directory.to_str().unwrap());
    assert_eq!(setup.start().get("/users/account").status, 200);
}

/// A sidecar that reads each value from a file of its own, named by a variable.
fn in_files(simulator: &Simulator) -> Setup {
    let mut setup = Setup::new(simulator);
    for (name, value) in [("organization", ORGANIZATION), ("username", USERNAME), ("password", PASSWORD)] {
        let variable = format!("CAREPORTALS_{}", name.to_uppercase());
        let path = setup.file(name, value);
        // `check` warns of secrets that everybody may read.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        setup.without(&variable).variable(&format!("{variable}_FILE"), path.to_str().unwrap());
    }
    setup
}

/// A sidecar that reads its credentials from a directory, as Kubernetes mounts a secret.
fn mounted(simulator: &Simulator) -> Setup {
    let mut setup = Setup::new(simulator);
    let mount = setup.dir.path().join("mount");
    mount_secret(&mount, "..first", &files(ORGANIZATION, USERNAME, PASSWORD));
    setup.without("CAREPORTALS_ORGANIZATION").without("CAREPORTALS_USERNAME").without("CAREPORTALS_PASSWORD");
    setup.variable("CAREPORTALS_CREDENTIALS_DIR", mount.to_str().unwrap());
    setup
}

fn write(directory: &Path, organization: &str, username: &str, password: &str) {
    fs::create_dir_all(directory).unwrap();
    for (name, value) in files(organization, username, password) {
        fs::write(directory.join(name), value).unwrap();
    }
}

/// Files of credentials: names and values.
fn files<'a>(organization: &'a str, username: &'a str, password: &'a str) -> [(&'static str, &'a str); 3] {
    [("organization", organization), ("username", username), ("password", password)]
}

/// Changes the password's file, and asserts that requests get through all the time.
fn changed(change: impl FnOnce(&Path)) {
    let simulator = simulator();
    let control = simulator.control();
    let sidecar = in_files(&simulator).start().ready();
    control.set_credentials(ORGANIZATION, USERNAME, NEXT);
    change(&sidecar.setup.dir.path().join("password"));
    let mut connection = sidecar.connect();
    until("the change is noticed", || {
        assert_eq!(connection.send(&Request::get("/users/account")).status, 200);
        control.counts().login_ok >= 2
    });
    logs_in_with(&simulator, NEXT);
    assert_eq!((control.counts().logins, control.counts().unauthorized), (2, 0));
}

fn logs_in_with(simulator: &Simulator, password: &str) {
    let last = |logins: &[careportals_simulator::RecordedLogin]| {
        logins.last().is_some_and(|login| login.body["password"] == password && login.status == 201)
    };
    until("the last log-in used the new password", || last(&simulator.control().logins()));
}

fn with_command(simulator: &Simulator, argv: &str) -> Sidecar {
    let mut setup = Setup::new(simulator);
    setup.without("CAREPORTALS_PASSWORD").with_telemetry().variable("CAREPORTALS_LOG", "info");
    setup.account("password", &format!("{{ command = {argv} }}")).account("token_wait", "100ms");
    setup.start()
}
