//! What the daemon gives up at start, and that it goes on doing its work without it.

use std::{
    fs,
    os::unix::{
        fs::{MetadataExt as _, PermissionsExt as _, symlink},
        process::{CommandExt as _, ExitStatusExt as _},
    },
    path::Path,
    process::Command,
};

use careportals_simulator::Simulator;
use rustix::process::Signal;
use serde_json::Value;

use crate::harness::{LOGGED_IN, PASSWORD, Request, Setup, Sidecar, USERNAME, mount_secret, renew_secret, simulator, until};

/// A directory that an unprivileged user may read.
const NOBODY: u32 = 65534;

/// A sidecar with user name and password in files of a directory of their own.
fn with_files(simulator: &Simulator) -> Setup {
    let mut setup = Setup::new(simulator);
    for (name, value) in [("username", USERNAME), ("password", PASSWORD)] {
        let variable = format!("CAREPORTALS_{}", name.to_uppercase());
        let path = setup.file(&format!("secrets/{name}"), value);
        setup.without(&variable).variable(&format!("{variable}_FILE"), path.to_str().unwrap());
    }
    setup
}

/// Reads a field of `/proc/PID/task/TID/status` for every thread.
fn of_threads(sidecar: &Sidecar, field: &str) -> Vec<String> {
    let threads = fs::read_dir(format!("/proc/{}/task", sidecar.pid())).unwrap();
    let statuses = threads.map(|thread| fs::read_to_string(thread.unwrap().path().join("status")).unwrap());
    let value = |status: String| status.lines().find_map(|line| Some(line.strip_prefix(field)?.trim().to_owned()));
    statuses.map(|status| value(status).unwrap()).collect()
}

/// The limit on core dumps, soft and hard.
fn core_limit(sidecar: &Sidecar) -> Vec<String> {
    let limits = fs::read_to_string(format!("/proc/{}/limits", sidecar.pid())).unwrap();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max core file size")).unwrap();
    line.split_whitespace().take(2).map(str::to_owned).collect()
}

/// Returns the lines about hardening.
fn hardened(sidecar: &Sidecar) -> Vec<Value> {
    sidecar.events().into_iter().filter(|event| event["steps"].is_string()).collect()
}

#[test]
fn each_step_is_taken_by_every_thread_and_one_line_tells_all() {
    let simulator = simulator();
    let mut setup = with_files(&simulator);
    setup.global("hardening", "required");
    let sidecar = setup.start().ready();
    let lines = hardened(&sidecar);
    let expected = "no core dumps, not dumpable, no_new_privs, memory locked, Landlock (ABI ";
    assert!(lines.len() == 1 && lines[0]["steps"].as_str().unwrap().starts_with(expected), "{lines:?}");
    assert_eq!((&lines[0]["level"], &lines[0]["message"]), (&"INFO".into(), &"hardened".into()));
    assert!(lines[0]["missing"].is_null() && lines[0]["not_applicable"].is_null(), "{lines:?}");
    let privileges = of_threads(&sidecar, "NoNewPrivs:");
    assert!(privileges.len() >= 4, "workers, the log, signals and the main one: {privileges:?}");
    assert!(privileges.iter().all(|value| value == "1"), "{privileges:?}");
    assert_eq!(core_limit(&sidecar), ["0", "0"]);
}

#[test]
fn off_gives_up_nothing() {
    let simulator = simulator();
    let mut setup = with_files(&simulator);
    setup.global("hardening", "off");
    let limited = setup.command("run");
    let sidecar = setup.start_with(limited).ready();
    sidecar.wait_for_log("hardening is off");
    assert_eq!(hardened(&sidecar), [Value::Null; 0]);
    let own = fs::read_to_string("/proc/self/status").unwrap();
    let own = own.lines().find_map(|line| line.strip_prefix("NoNewPrivs:")).unwrap().trim();
    assert!(of_threads(&sidecar, "NoNewPrivs:").iter().all(|value| value == own));
}

/// Starts the daemon as a user without rights, where these tests may do that.
fn as_nobody(setup: &Setup) -> Command {
    let mut command = setup.command("run");
    if rustix::process::geteuid().is_root() {
        fs::set_permissions(setup.dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        command.uid(NOBODY).gid(NOBODY);
    }
    command
}

#[test]
fn no_process_of_the_same_user_can_read_its_memory_or_environment() {
    let simulator = simulator();
    for (hardening, is_closed) in [("auto", true), ("off", false)] {
        let mut setup = Setup::new(&simulator);
        setup.global("hardening", hardening);
        let command = as_nobody(&setup);
        let sidecar = setup.start_with(command).ready();
        // What the kernel closes to the user itself belongs to root.
        let user = if rustix::process::geteuid().is_root() { NOBODY } else { rustix::process::geteuid().as_raw() };
        let owner = fs::metadata(format!("/proc/{}/environ", sidecar.pid())).unwrap().uid();
        assert_eq!(owner, if is_closed { 0 } else { user }, "{hardening}");
    }
}

#[test]
fn a_crash_leaves_no_core_dump() {
    let simulator = simulator();
    let setup = Setup::new(&simulator);
    // Whatever the limit was before; the program takes the shell's place.
    let program = setup.command("run");
    let mut command = Command::new("/bin/sh");
    command.arg("-c").arg("ulimit -S -c unlimited 2>/dev/null; exec \"$@\"").arg("sh");
    command.arg(program.get_program()).args(program.get_args()).current_dir(setup.dir.path()).env_clear();
    command.envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let mut sidecar = setup.start_with(command).ready();
    sidecar.signal(Signal::ABORT);
    let status = sidecar.wait();
    assert_eq!(status.signal(), Some(Signal::ABORT.as_raw()));
    assert!(!status.core_dumped());
}

#[test]
fn what_must_be_and_can_not_be_is_a_fault_that_names_the_step() {
    let simulator = simulator();
    for (hardening, code) in [("required", Some(78)), ("auto", None)] {
        let mut setup = Setup::new(&simulator);
        setup.global("hardening", hardening);
        let program = as_nobody(&setup);
        let mut command = Command::new("/bin/sh");
        command.arg("-c").arg("ulimit -l 0; exec \"$@\"").arg("sh").arg(program.get_program()).args(program.get_args());
        command.current_dir(setup.dir.path()).env_clear();
        command.envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))));
        if rustix::process::geteuid().is_root() {
            command.uid(NOBODY).gid(NOBODY);
        }
        if let Some(code) = code {
            let output = command.output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(code), "{said}");
            assert!(said.contains("hardening = \"required\"") && said.contains("memory locked"), "{said}");
            assert!(said.contains("\n  hint: lift what is in its way") && !said.contains("\\n"), "{said}");
        } else {
            let sidecar = setup.start_with(command).ready();
            let line = hardened(&sidecar).remove(0);
            assert!(line["level"] == "WARN" && line["missing"].as_str().unwrap().starts_with("memory locked: "), "{line}");
            assert!(!line["steps"].as_str().unwrap().contains("memory locked"), "{line}");
        }
    }
}

#[test]
fn exec_keeps_debuggers_out_and_leaves_its_program_what_it_had() {
    let simulator = simulator();
    let mut setup = Setup::new(&simulator);
    setup.variable("CAREPORTALS_LOG", "info");
    let look = "stat -c %u /proc/$PPID/environ; stat -c %u /proc/self/environ; grep NoNewPrivs /proc/self/status; ulimit -c";
    let program = setup.command("exec");
    let mut command = Command::new("/bin/sh");
    command.arg("-c").arg("ulimit -S -c 0; ulimit -S -c; exec \"$@\"").arg("sh").arg(program.get_program());
    command.args(program.get_args()).args(["--", "/bin/sh", "-c", look]).current_dir(setup.dir.path()).env_clear();
    command.envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let mut user = rustix::process::geteuid().as_raw();
    if rustix::process::geteuid().is_root() {
        fs::set_permissions(setup.dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        command.uid(NOBODY).gid(NOBODY);
        user = NOBODY;
    }
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let own = fs::read_to_string("/proc/self/status").unwrap();
    let privileges = own.lines().find(|line| line.starts_with("NoNewPrivs")).unwrap();
    let expected = ["0", "0", &user.to_string(), privileges, "0"];
    assert_eq!(said.lines().collect::<Vec<_>>(), expected, "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_step_that_does_not_apply_is_not_missing() {
    let simulator = simulator();
    let mut setup = Setup::new(&simulator);
    setup.global("hardening", "required").without("CAREPORTALS_PASSWORD");
    setup.account("password__command", &format!("[\"echo\", \"{PASSWORD}\"]"));
    let sidecar = setup.start().ready();
    let line = hardened(&sidecar).remove(0);
    let why = line["not_applicable"].as_str().unwrap();
    assert!(line["message"] == "hardened" && why.starts_with("Landlock: ") && why.contains("`command`"), "{line}");
}

#[test]
fn a_file_that_comes_to_lead_out_of_reach_is_not_read_whoever_we_are() {
    let simulator = simulator();
    let elsewhere = tempfile::tempdir().unwrap();
    fs::write(elsewhere.path().join("key"), "anything").unwrap();
    let request = |key: &str| Request::get("/users/account").header("x-key", key);
    let run = |hardening: &str| {
        let mut setup = Setup::new(&simulator);
        let key = setup.file("secrets/key", "the-key");
        setup.global("hardening", hardening);
        setup.api("require_header", &format!("{{ name = \"x-key\", value = {{ file = {key:?} }} }}"));
        let sidecar = setup.start().ready_with(&request("the-key"));
        symlink(elsewhere.path().join("key"), sidecar.setup.dir.path().join("secrets/next")).unwrap();
        fs::rename(sidecar.setup.dir.path().join("secrets/next"), &key).unwrap();
        sidecar
    };
    let sidecar = run("auto");
    let said = sidecar.wait_for_log("can't be read");
    assert!(said.contains("permission denied (owner uid ") && said.contains("so Landlock, SELinux or AppArmor"), "{said}");
    assert_eq!(sidecar.send(&request("anything")).problem(), "header_required");
    let sidecar = run("off");
    sidecar.wait_for_log("the required header has a new value");
    assert_eq!(sidecar.send(&request("anything")).status, 200);
}

#[test]
fn secrets_are_renewed_inside_the_sandbox() {
    let simulator = simulator();
    let control = simulator.control();
    let mut setup = Setup::new(&simulator);
    setup.global("hardening", "required");
    let mount = setup.dir.path().join("mount");
    mount_secret(&mount, "..1", &[("username", USERNAME), ("password", PASSWORD)]);
    for name in ["username", "password"] {
        let variable = format!("CAREPORTALS_{}", name.to_uppercase());
        setup.without(&variable).variable(&format!("{variable}_FILE"), mount.join(name).to_str().unwrap());
    }
    let sidecar = setup.start().ready();
    control.set_credentials("demo", USERNAME, "another-password");
    renew_secret(&mount, "..2", &[("username", USERNAME), ("password", "another-password")]);
    sidecar.wait_for_logs(LOGGED_IN, 2);
    assert_eq!(control.counts().login_ok, 2);
    assert_eq!(sidecar.get("/users/account").status, 200);
}

#[test]
fn a_reload_inside_the_sandbox_adds_addresses_sockets_and_upstreams() {
    let (first, second) = (simulator(), simulator());
    let mut setup = with_files(&first);
    setup.global("hardening", "required").without("CAREPORTALS_LISTEN").without("CAREPORTALS_CA_ONLY_FILE");
    let ca = setup.file("trust/ca.pem", first.ca_pem());
    let (kept, added) = (setup.dir.path().join("kept.sock"), setup.dir.path().join("added.sock"));
    let settings = |sockets: &[&Path], more: &str| {
        let sockets: String = sockets.iter().map(|path| format!(", \"unix:{}\"", path.display())).collect();
        format!("ca_only_file = {ca:?}\n[accounts.default]\n{more}[apis.default]\nlisten = [\"127.0.0.1:0\"{sockets}]\n")
    };
    setup.settings(&settings(&[&kept], ""));
    let sidecar = setup.start().ready();
    fs::write(&ca, format!("{}{}", first.ca_pem(), second.ca_pem())).unwrap();
    let other = format!(
        "[accounts.other]\norganization = \"demo\"\nlogin_url = \"off\"\n[apis.other]\naccount = \"other\"\nupstream = \"{}\"\nlisten = [\"127.0.0.1:0\"]\n",
        second.base_url()
    );
    let other = settings(&[&kept, &added], &other);
    sidecar.setup.file("config.toml", &other);
    sidecar.signal(Signal::HUP);
    sidecar.wait_for_log("reloaded");
    let mut client = Sidecar::connect_unix(&added);
    assert_eq!(client.send(&Request::get("/users/account")).status, 200);
    let answer = sidecar.connect_to("other").send(&Request::get("/v2/products"));
    assert!(answer.header("proxy-status").is_none(), "{answer:?}");
    until("the upstream has got at least one request", || second.control().counts().requests > 0);
}

#[test]
fn a_reload_that_needs_more_than_is_within_reach_is_refused_with_that_reason() {
    let simulator = simulator();
    let elsewhere = tempfile::tempdir().unwrap();
    let password = elsewhere.path().join("password");
    fs::write(&password, PASSWORD).unwrap();
    let account = format!("[accounts.default]\norganization = \"demo\"\nusername = \"{USERNAME}\"\n");
    let given = format!("{account}password = \"{PASSWORD}\"\n");
    let mut setup = Setup::new(&simulator);
    for name in ["CAREPORTALS_ORGANIZATION", "CAREPORTALS_USERNAME", "CAREPORTALS_PASSWORD", "CAREPORTALS_LISTEN"] {
        setup.without(name);
    }
    let listen = |more: &str| format!("[apis.default]\nlisten = [\"127.0.0.1:0\"{more}]\n");
    setup.settings(&format!("{given}{}", listen("")));
    let sidecar = setup.start().ready();
    let socket = format!(", \"unix:{}\"", elsewhere.path().join("a.sock").display());
    for (settings, reason) in [
        (
            format!("{account}password = {{ file = {password:?} }}\n{}", listen("")),
            "password, which lies outside the directories",
        ),
        (format!("{account}password = {{ command = [\"echo\"] }}\n{}", listen("")), "a `command`"),
        (format!("{given}{}", listen(&socket)), "a.sock, which lies outside the directories"),
    ] {
        sidecar.setup.file("config.toml", &settings);
        sidecar.signal(Signal::HUP);
        let line = sidecar.wait_for_log(reason);
        assert!(line.contains("needs a restart"), "{line}");
    }
    assert_eq!(sidecar.get("/users/account").status, 200);
}

#[test]
fn a_root_that_is_a_link_is_trusted_after_a_reload_too() {
    let simulator = simulator();
    let (certs, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let root = elsewhere.path().join("root.pem");
    std::fs::write(&root, simulator.ca_pem()).unwrap();
    std::os::unix::fs::symlink(&root, certs.path().join("deadbeef.0")).unwrap();
    let mut setup = Setup::new(&simulator);
    setup.without("CAREPORTALS_CA_ONLY_FILE").variable("SSL_CERT_DIR", certs.path().to_str().unwrap()).with_control_socket();
    let sidecar = setup.start().ready();
    for command in ["reload", "login"] {
        let output = sidecar.setup.output(command);
        assert_eq!(output.code, Some(0), "{output:?}");
    }
    // One that comes to lead outside is told of.
    let outside = tempfile::tempdir().unwrap();
    std::fs::copy(&root, outside.path().join("other.pem")).unwrap();
    std::os::unix::fs::symlink(outside.path().join("other.pem"), certs.path().join("deadbeef.1")).unwrap();
    assert_eq!(sidecar.setup.output("reload").code, Some(0));
    let line = sidecar.wait_for_log("a file of the system's roots of trust can't be read");
    assert!(line.contains("deadbeef.1"), "{line}");
}
