//! Commands of the guides, as they are written there: each one is run here, or a table says where else or why not.
//!
//! The daemon has the settings that the README's guide for a laptop exports. A guide's fixed ports become this daemon's.

use std::{collections::HashSet, fs, os::unix::fs::symlink, path::Path, process::Command};

use careportals_simulator::Simulator;

use crate::harness::{Setup, Sidecar, program_file, simulator};

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
    ("docs/helm.md", Elsewhere("deploy/helm/check types them")),
    ("docs/kubernetes-try-out.md", Elsewhere("deploy/kubernetes/play runs the same pods, without a cluster")),
    ("docs/debian.md", Elsewhere("deploy/debian/test goes through it under a real systemd")),
    ("docs/rules.md", Elsewhere("tests/it/check.rs and observe.rs do it with rules of their own")),
    ("examples/README.md", Elsewhere("examples/run runs them all")),
    ("examples/pytest/README.md", Elsewhere("examples/pytest/check does it")),
];

const BUILDS: &str = "it takes minutes; .ci/run and deploy/check-image build";
const UNITS: &str = "systemd/test does it under a real systemd";
const TYPED: &str = "it makes the environment of all others, before them";
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
    ("sed -i 's|https://careportals-sidecar.invalid/|", Elsewhere("it changes the repository's own files")),
    ("cd \"$(mktemp -d)\"", Elsewhere(TYPED)),
    ("(umask 077;", Elsewhere(TYPED)),
    ("export ", Elsewhere(TYPED)),
    ("careportals-simulator --ca-out", Elsewhere("the test has a simulator of its own; simulator/tests types it")),
    ("careportals-sidecar >", Elsewhere("it runs already")),
    ("kill %", Elsewhere("the test ends both by itself")),
    ("careportals-sidecar healthcheck --ready", Prints("")),
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
    files.retain(|file| Path::new(file).extension().is_some_and(|extension| extension == "md"));
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

/// The variables that the README's guide for a laptop exports, typed in its order before `simulator`.
fn exported_by_the_readme(simulator: &Simulator, setup: &Setup) -> Vec<(String, String)> {
    let authority = setup.file("authority.pem", simulator.ca_pem());
    let typed = commands().into_iter().filter(|(file, _)| file == "README.md").map(|(_, command)| {
        let simulated = command.starts_with("careportals-simulator").then(|| format!("cp {} ca.pem", authority.display()));
        simulated.unwrap_or_else(|| command.replace("https://localhost:8443", &simulator.base_url()))
    });
    let before = typed.skip_while(|command| !command.starts_with("cd ")).take_while(|command| !command.contains(" check "));
    let script = before.chain(["env".to_owned()]).collect::<Vec<_>>().join("\n");
    let mut shell = Command::new("/bin/sh");
    shell.args(["-ec", &script]).env_clear().env("PATH", "/usr/bin:/bin").env("TMPDIR", setup.dir.path());
    let output = shell.output().unwrap();
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    let lines = String::from_utf8(output.stdout).unwrap();
    let variables = lines.lines().filter_map(|line| line.split_once('='));
    variables.filter(|(name, _)| name.starts_with("CAREPORTALS_")).map(|(name, value)| (name.into(), value.into())).collect()
}

#[test]
fn what_the_guides_have_typed_does_what_they_say() {
    let simulator = simulator();
    let mut setup = Setup::empty();
    for (name, value) in exported_by_the_readme(&simulator, &setup) {
        setup.variable(&name, &value);
    }
    let socket = setup.control_socket();
    setup.variable("CAREPORTALS_LISTEN", "127.0.0.1:0").with_telemetry().with_control_socket();
    symlink(program_file(), setup.dir.path().join("careportals-sidecar")).unwrap();
    let mut environment: Vec<_> =
        setup.command("run").get_envs().filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned()))).collect();
    let path = format!("{}:/usr/bin:/bin", setup.dir.path().display());
    let sidecar = setup.start().ready();
    let (telemetry, port) = (sidecar.telemetry_address().port(), sidecar.address().port());
    // `healthcheck` asks where the settings say.
    environment.push(("CAREPORTALS_TELEMETRY_LISTEN".into(), format!("127.0.0.1:{telemetry}").into()));
    let has_curl = Command::new("curl").arg("--version").output().is_ok();
    let (mut run, mut used) = (0, HashSet::new());
    for (file, command) in commands() {
        let guide = GUIDES.iter().find(|(guide, _)| file == *guide);
        let fate = guide.or_else(|| COMMANDS.iter().find(|(start, _)| command.starts_with(start)));
        let Some((start, fate)) = fate else { panic!("{file}: `{command}` is neither run here, nor is it said where it is") };
        used.insert(start);
        // A newcomer pastes it, and zsh takes no comment where somebody types.
        assert!(file != "README.md" || !command.contains(" #"), "{file}: `{command}` has a comment");
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

#[test]
fn the_lines_that_the_readme_shows_for_an_app_call_through_the_sidecar() {
    let simulator = simulator();
    let sidecar = Sidecar::start(&simulator).ready();
    let readme = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    let (_, rest) = readme.split_once("```js\n").unwrap();
    let (program, _) = rest.split_once("```").unwrap();
    assert_eq!(program.lines().count(), 3);
    let mut node = Command::new("node");
    node.args(["--input-type=module", "--eval", program]).env_clear();
    node.env("CAREPORTALS_BASE_URL", format!("http://{}", sidecar.address()));
    let Ok(output) = node.env("PATH", "/usr/local/bin:/usr/bin:/bin").output() else {
        return eprintln!("not run: there is no node");
    };
    let (printed, complaint) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(printed.starts_with("200 {") && printed.contains("_id"), "{printed}{complaint}");
}
