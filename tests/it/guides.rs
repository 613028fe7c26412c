//! Commands of the guides, as they are written there: each one is run here, or a table says where else or why not.
//!
//! A guide's fixed ports become those of this test's daemon, and its credentials those of the simulator.

use std::{fs, os::unix::fs::symlink, process::Command};

use careportals_simulator::{Options, Simulator};

use crate::sidecar::{PASSWORD, Setup, Sidecar};

/// What is to be made of a command.
enum Fate {
    /// It is run, succeeds, and prints this.
    Prints(&'static str),
    /// Not here; the reason.
    Elsewhere(&'static str),
}
use Fate::*;

const BUILDS: &str = "cargo and images have checks of their own";
const UNITS: &str = "systemd/test does it under a real systemd";
const CLUSTER: &str = "deploy/kubernetes and its checks do it";
const SIMULATOR: &str = "simulator/tests do it";
const TAKES_AWAY: &str = "it would end the daemon of the others";

/// By how a command begins; the first that fits.
const COMMANDS: &[(&str, Fate)] = &[
    ("cargo run -p careportals-simulator", Elsewhere(SIMULATOR)),
    ("TOKEN=", Elsewhere(SIMULATOR)),
    ("curl -s --cacert", Elsewhere(SIMULATOR)),
    ("curl -s http://127.0.0.1:8444", Elsewhere(SIMULATOR)),
    ("curl -s -X POST http://127.0.0.1:8444", Elsewhere(SIMULATOR)),
    ("cargo ", Elsewhere(BUILDS)),
    ("docker ", Elsewhere(BUILDS)),
    ("buildah ", Elsewhere(BUILDS)),
    ("deploy/", Elsewhere(BUILDS)),
    (".ci/run", Elsewhere(BUILDS)),
    ("sudo ", Elsewhere(UNITS)),
    ("systemctl ", Elsewhere(UNITS)),
    ("echo CAREPORTALS_LISTEN=systemd", Elsewhere(UNITS)),
    ("kubectl ", Elsewhere(CLUSTER)),
    ("export ", Elsewhere("the environment of this test says the same")),
    ("careportals-sidecar &", Elsewhere("it runs already")),
    ("careportals-sidecar exec -- npm", Elsewhere("npm may be missing")),
    ("careportals-sidecar exec -- pytest", Elsewhere("pytest may be missing")),
    ("careportals-sidecar check --online", Prints("ok: ")),
    ("careportals-sidecar exec", Prints("\"_id\"")),
    ("careportals-sidecar status", Prints("ACCOUNT")),
    ("careportals-sidecar login default", Prints("default")),
    ("curl http://localhost:2273/users/account", Prints("\"_id\"")),
    ("curl -s localhost:2274/readyz", Prints("\"ready\":true")),
    ("curl -X POST http://127.0.0.1:2274/quitquitquit", Elsewhere(TAKES_AWAY)),
    ("curl --unix-socket /run/careportals-sidecar/control.sock http://localhost/status", Prints("\"phase\":\"running\"")),
    ("curl --unix-socket /run/careportals-sidecar/control.sock -X POST", Prints("\"accounts\"")),
];

/// Each command in a block that shows a shell, with its document; those on several lines as one.
fn commands() -> Vec<(String, String)> {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/");
    let mut files = vec!["README.md".to_owned(), "systemd/README.md".to_owned(), "simulator/README.md".to_owned()];
    for entry in fs::read_dir(format!("{root}docs")).unwrap() {
        files.push(format!("docs/{}", entry.unwrap().file_name().into_string().unwrap()));
    }
    let mut commands = Vec::new();
    for file in files {
        let text = fs::read_to_string(format!("{root}{file}")).unwrap();
        for block in text.split("```console\n").skip(1).filter_map(|rest| rest.split("```").next()) {
            let joined = block.replace("\\\n", " ");
            let typed = joined.lines().filter_map(|line| line.strip_prefix("$ "));
            commands.extend(typed.map(|command| (file.clone(), command.to_owned())));
        }
    }
    commands
}

#[test]
fn what_the_guides_have_typed_does_what_they_say() {
    let simulator = Simulator::start(Options::default()).unwrap();
    let mut setup = Setup::new(&simulator);
    let password = setup.file("password", PASSWORD);
    let socket = setup.dir.path().join("control.sock");
    setup.without("CAREPORTALS_PASSWORD").variable("CAREPORTALS_PASSWORD_FILE", password.to_str().unwrap());
    setup.variable("CAREPORTALS_TELEMETRY_LISTEN", "127.0.0.1:0");
    setup.variable("CAREPORTALS_CONTROL_SOCKET", socket.to_str().unwrap());
    symlink(env!("CARGO_BIN_EXE_careportals-sidecar"), setup.dir.path().join("careportals-sidecar")).unwrap();
    let environment: Vec<_> =
        setup.command("run").get_envs().filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned()))).collect();
    let path = format!("{}:/usr/bin:/bin", setup.dir.path().display());
    let sidecar = setup.start().ready();
    let (telemetry, port) = (sidecar.telemetry_address().port(), sidecar.address().port());
    let has_curl = Command::new("curl").arg("--version").output().is_ok();
    let mut run = 0;
    for (file, command) in commands() {
        let fate = COMMANDS.iter().find(|(start, _)| command.starts_with(start));
        let Some((_, fate)) = fate else { panic!("{file}: `{command}` is neither run here, nor is it said where it is") };
        let expected = match fate {
            Prints(expected) => expected,
            Elsewhere(reason) => {
                assert!(!reason.is_empty());
                continue;
            }
        };
        if command.contains("curl") && !has_curl {
            eprintln!("not run, there is no curl: {command}");
            continue;
        }
        let here = command
            .replace(":2273", &format!(":{port}"))
            .replace(":2274", &format!(":{telemetry}"))
            .replace("localhost", "127.0.0.1")
            .replace("/run/careportals-sidecar/control.sock", socket.to_str().unwrap())
            .replace("account=crm", "account=default");
        let output = shell(&sidecar, &here, &environment, &path);
        assert!(output.contains(expected), "{file}: `{command}` printed {output}");
        run += 1;
    }
    assert!(run >= 6 || !has_curl, "{run} were run");
}

fn shell(sidecar: &Sidecar, command: &str, environment: &[(std::ffi::OsString, std::ffi::OsString)], path: &str) -> String {
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", command]).current_dir(sidecar.setup.dir.path()).env_clear();
    shell.envs(environment.iter().map(|(name, value)| (name, value))).env("PATH", path);
    if command.contains(" exec ") {
        // A daemon of its own, which nobody but its program asks.
        shell.env_remove("CAREPORTALS_CONTROL_SOCKET").env_remove("CAREPORTALS_TELEMETRY_LISTEN");
    }
    let output = shell.output().unwrap();
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{command}: {printed}{}", String::from_utf8_lossy(&output.stderr));
    printed
}
