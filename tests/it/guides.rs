//! Commands of the guides, as they are written there: each one is run here, or a table says where else or why not.
//!
//! A guide's fixed ports become those of this test's daemon, and its credentials those of the simulator.

use std::{collections::HashSet, fs, os::unix::fs::symlink, process::Command};

use crate::harness::{PASSWORD, Setup, Sidecar, simulator};

/// What the test does with a command.
enum Fate {
    /// It is run, succeeds, and prints this.
    Prints(&'static str),
    /// It is not run here, for this reason.
    Elsewhere(&'static str),
}
use Fate::*;

/// Reads all commands of a guide.
const GUIDES: &[(&str, Fate)] = &[
    ("RELEASING.md", Elsewhere("it is for those who may push a tag; deploy/release/version has a check of its own")),
    ("deploy/compose/README.md", Elsewhere("deploy/compose/check brings the files up in podman")),
    ("deploy/kubernetes/README.md", Elsewhere(CLUSTER)),
    ("docs/debian.md", Elsewhere("deploy/debian/test goes through it under a real systemd")),
    ("docs/rules.md", Elsewhere("tests/it/check.rs and observe.rs do it with rules of their own")),
    ("examples/README.md", Elsewhere("examples/run runs them all")),
    ("examples/pytest/README.md", Elsewhere("examples/pytest/check does it")),
];

const BUILDS: &str = "it takes minutes; .ci/run and deploy/check-image build";
const UNITS: &str = "systemd/test does it under a real systemd";
const CLUSTER: &str = "deploy/kubernetes/check and play do it, without a cluster";

/// What the test does with a command that begins like this; the first row that fits counts.
const COMMANDS: &[(&str, Fate)] = &[
    ("cargo ", Elsewhere(BUILDS)),
    ("docker ", Elsewhere(BUILDS)),
    ("buildah ", Elsewhere(BUILDS)),
    ("deploy/build-dist", Elsewhere(BUILDS)),
    ("deploy/check-image", Elsewhere("it is such a check itself")),
    ("deploy/kubernetes/", Elsewhere("it is such a check itself")),
    ("sudo ", Elsewhere(UNITS)),
    ("systemctl ", Elsewhere(UNITS)),
    ("echo CAREPORTALS_LISTEN=systemd", Elsewhere(UNITS)),
    ("kubectl ", Elsewhere(CLUSTER)),
    ("export ", Elsewhere("the environment of this test says the same")),
    ("careportals-sidecar &", Elsewhere("it runs already")),
    ("careportals-sidecar exec -- npm", Elsewhere("npm may be missing")),
    ("careportals-sidecar check --online", Prints("ok: ")),
    ("careportals-sidecar exec", Prints("\"_id\"")),
    ("careportals-sidecar status", Prints("ACCOUNT")),
    ("careportals-sidecar login default", Prints("default")),
    ("curl http://localhost:2273/users/account", Prints("\"_id\"")),
    ("curl -s localhost:2274/readyz", Prints("\"ready\":true")),
    ("curl --unix-socket /run/careportals-sidecar/control.sock http://localhost/status", Prints("\"phase\":\"running\"")),
    ("curl --unix-socket /run/careportals-sidecar/control.sock -X POST", Prints("\"accounts\"")),
];

/// The documents for users, besides docs/; simulator/README.md has a test of its own there.
const OUTSIDE_DOCS: &[&str] = &["README.md", "systemd/README.md"];

/// Each command in a block that shows a shell, with its document; those on several lines as one.
fn commands() -> Vec<(String, String)> {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/");
    let mut files: Vec<_> =
        OUTSIDE_DOCS.iter().chain(GUIDES.iter().map(|(file, _)| file)).map(|file| (*file).to_owned()).collect();
    for entry in fs::read_dir(format!("{root}docs")).unwrap() {
        files.push(format!("docs/{}", entry.unwrap().file_name().into_string().unwrap()));
    }
    files.sort();
    files.dedup();
    let mut commands = Vec::new();
    for file in files {
        let text = fs::read_to_string(format!("{root}{file}")).unwrap();
        for block in text.split("```console\n").skip(1).filter_map(|rest| rest.split("```").next()) {
            let joined = block.replace("\\\n", " ");
            let typed = joined.lines().map(str::trim_start).filter_map(|line| line.strip_prefix("$ "));
            commands.extend(typed.map(|command| (file.clone(), command.to_owned())));
        }
    }
    commands
}

#[test]
fn what_the_guides_have_typed_does_what_they_say() {
    let simulator = simulator();
    let mut setup = Setup::new(&simulator);
    let password = setup.file("password", PASSWORD);
    let socket = setup.control_socket();
    setup.without("CAREPORTALS_PASSWORD").variable("CAREPORTALS_PASSWORD_FILE", password.to_str().unwrap());
    setup.with_telemetry().with_control_socket();
    symlink(env!("CARGO_BIN_EXE_careportals-sidecar"), setup.dir.path().join("careportals-sidecar")).unwrap();
    let environment: Vec<_> =
        setup.command("run").get_envs().filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned()))).collect();
    let path = format!("{}:/usr/bin:/bin", setup.dir.path().display());
    let sidecar = setup.start().ready();
    let (telemetry, port) = (sidecar.telemetry_address().port(), sidecar.address().port());
    let has_curl = Command::new("curl").arg("--version").output().is_ok();
    let (mut run, mut used) = (0, HashSet::new());
    for (file, command) in commands() {
        let guide = GUIDES.iter().find(|(guide, _)| file == *guide);
        let fate = guide.or_else(|| COMMANDS.iter().find(|(start, _)| command.starts_with(start)));
        let Some((start, fate)) = fate else { panic!("{file}: `{command}` is neither run here, nor is it said where it is") };
        used.insert(start);
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
    let unused: Vec<_> = GUIDES.iter().chain(COMMANDS).map(|(start, _)| start).filter(|start| !used.contains(start)).collect();
    assert!(unused.is_empty(), "no guide says {unused:?} any more");
}

fn shell(sidecar: &Sidecar, command: &str, environment: &[(std::ffi::OsString, std::ffi::OsString)], path: &str) -> String {
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", command]).current_dir(sidecar.setup.dir.path()).env_clear();
    shell.envs(environment.iter().map(|(name, value)| (name, value))).env("PATH", path);
    if command.contains(" exec ") {
        // It is a daemon of its own, which only its program asks.
        shell.env_remove("CAREPORTALS_CONTROL_SOCKET").env_remove("CAREPORTALS_TELEMETRY_LISTEN");
    }
    let output = shell.output().unwrap();
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{command}: {printed}{}", String::from_utf8_lossy(&output.stderr));
    printed
}
