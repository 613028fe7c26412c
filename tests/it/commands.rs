//! The commands that talk to a running daemon, as a user at a terminal sees them.

use std::{
    fs::{self, File},
    io::Read,
    os::unix::{ffi::OsStrExt, net::UnixListener},
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use careportals_simulator::LoginFault;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use serde_json::Value;

use crate::harness::{Logs, PASSWORD, Setup, Sidecar, let_time_pass, simulator, until};

/// Runs a command that must succeed, and returns what it prints.
#[track_caller]
fn says(sidecar: &Sidecar, arguments: &[&str]) -> String {
    let output = sidecar.setup.output_of(arguments);
    assert_eq!((output.code, output.stderr.as_str()), (Some(0), ""), "{output:?}");
    output.stdout
}

/// Runs a command that must fail with 1, and returns its complaint.
#[track_caller]
fn complains(setup: &Setup, arguments: &[&str]) -> String {
    let output = setup.output_of(arguments);
    assert_eq!((output.code, output.stdout.as_str()), (Some(1), ""), "{output:?}");
    output.stderr
}

#[test]
fn status_is_a_table() {
    let simulator = simulator();
    let sidecar = Setup::controlled(&simulator).start().ready();
    let table = says(&sidecar, &["status"]);
    let lines: Vec<&str> = table.lines().collect();
    assert!(lines[0].starts_with(&format!("careportals-sidecar {}: running for ", env!("CARGO_PKG_VERSION"))), "{table}");
    assert_eq!(lines[2], "ACCOUNT  STATE  TOKEN EXPIRES  NEXT LOG-IN  LAST LOG-IN");
    let account: Vec<&str> = lines[3].split("  ").filter(|cell| !cell.is_empty()).map(str::trim).collect();
    assert_eq!(&account[..2], ["default", "ready"], "{table}");
    assert!(account[2].starts_with("in ") && account[3].starts_with("in ") && account[4].ends_with(" ago"), "{table}");
    assert_eq!(lines[5], "API      ACCOUNT  STATE   REQUESTS  ERRORS  IN FLIGHT");
    assert!(lines[6].starts_with("default  default  served  "), "{table}");
    assert_eq!(lines[7], format!("  from {}", sidecar.address()));
    assert_eq!(lines[8], format!("  to {}", simulator.base_url().trim_end_matches('/')));
    assert!(lines.iter().all(|line| line.len() <= 80) && !table.contains('\u{1b}'), "{table}");
}

#[test]
fn status_says_what_failed_and_what_to_do() {
    let simulator = simulator();
    simulator.control().set_login_fault(Some(LoginFault::Status(401)));
    let sidecar = Setup::controlled(&simulator).start();
    sidecar.wait_for_log("\"rejected\"");
    let table = says(&sidecar, &["status"]);
    assert!(table.contains("\ndefault  rejected  -  "), "{table}");
    assert!(table.contains(" ago: the server refused the log-in with status 401\n"), "{table}");
    assert!(table.contains("correct user name, password"), "{table}");
}

#[test]
fn status_json_is_the_document_as_it_came() {
    let simulator = simulator();
    let sidecar = Setup::controlled(&simulator).start().ready();
    let printed = says(&sidecar, &["status", "--json"]);
    let document: Value = serde_json::from_str(&printed).unwrap();
    assert!(printed.ends_with("}\n"));
    for member in ["version", "phase", "uptime_seconds", "now", "accounts", "apis", "telemetry"] {
        assert!(document.get(member).is_some(), "{member}: {document}");
    }
    assert_eq!(document["accounts"][0]["state"], "ready");
}

#[test]
fn status_asks_the_telemetry_listener_where_the_control_socket_can_not_be_used() {
    let simulator = simulator();
    let mut setup = Setup::new(&simulator);
    setup.with_telemetry();
    let mut sidecar = setup.start().ready();
    let address = sidecar.telemetry_address().to_string();
    sidecar.setup.variable("CAREPORTALS_TELEMETRY_LISTEN", &address);
    let off = ("CAREPORTALS_CONTROL_SOCKET", "off");
    let missing = ("CAREPORTALS_CONTROL_SOCKET", "/nowhere/control.sock");
    for (variable, why) in [(off, "the control socket is off"), (missing, "cannot reach the daemon at /nowhere/control.sock")] {
        sidecar.setup.variable(variable.0, variable.1);
        let output = sidecar.setup.output("status");
        assert_eq!(output.code, Some(0), "{output:?}");
        assert!(output.stdout.contains("\ndefault  ready  "), "{output:?}");
        assert!(output.stderr.starts_with("note: ") && output.stderr.contains(why), "{output:?}");
        assert!(output.stderr.ends_with(&format!("; the telemetry listener at {address} answered instead\n")), "{output:?}");
        let json = sidecar.setup.output_of(&["status", "--json"]).stdout;
        assert_eq!(serde_json::from_str::<Value>(&json).unwrap()["accounts"][0]["state"], "ready");
    }
    if !Path::new("/run/careportals-sidecar").exists() {
        // As on a laptop without a runtime directory.
        sidecar.setup.without("CAREPORTALS_CONTROL_SOCKET");
        let output = sidecar.setup.output("status");
        assert!(output.code == Some(0) && output.stderr.contains("no default place for a control socket"), "{output:?}");
        sidecar.setup.variable(missing.0, missing.1);
    }
    // Whoever names a socket means that daemon and no other.
    let said = complains(&sidecar.setup, &["status", "--control-socket", "/nowhere/other.sock"]);
    assert!(said.contains("/nowhere/other.sock") && !said.contains("telemetry"), "{said}");
    // Only `status` can be answered there.
    assert!(complains(&sidecar.setup, &["login"]).contains("/nowhere/control.sock"));
    sidecar.stop();
    let said = complains(&sidecar.setup, &["status"]);
    let note = format!(
        "note: nor is there an answer of the telemetry listener at {address}: nobody listens there; is the daemon running?\n"
    );
    assert!(said.starts_with("error: cannot reach the daemon") && said.ends_with(&note), "{said}");
}

#[test]
fn status_watch_shows_it_again_and_again_over_a_restart_of_the_daemon() {
    let simulator = simulator();
    let mut sidecar = Setup::controlled(&simulator).start().ready();
    let mut command = sidecar.setup.command("status");
    let mut watch = command.arg("--watch").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let [out, errors] = [(); 2].map(|()| Arc::new(Logs::default()));
    let readers = [out.collect(watch.stdout.take().unwrap()), errors.collect(watch.stderr.take().unwrap())];
    let tables = || out.text().matches("careportals-sidecar 0").count();
    until("it has been shown twice", || tables() >= 2);
    sidecar.stop();
    until("it is told that nobody answers", || errors.text().contains("error: cannot reach the daemon"));
    let before = tables();
    let mut daemon = sidecar.setup.command("run").stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    until("it is shown again", || tables() > before);
    // A pipe that is closed ends it.
    let mut command = sidecar.setup.command("status");
    let mut closed = command.args(["--watch", "--json"]).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    drop(closed.stdout.take());
    until("it ends", || closed.try_wait().unwrap().is_some());
    assert!(closed.wait().unwrap().success());
    for child in [&mut watch, &mut daemon] {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    for reader in readers {
        reader.join().unwrap();
    }
}

#[test]
fn colours_are_for_a_terminal_and_not_under_no_color() {
    let simulator = simulator();
    let sidecar = Setup::controlled(&simulator).start().ready();
    let at_terminal = |variable: (&str, &str)| {
        let screen = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&screen).unwrap();
        unlockpt(&screen).unwrap();
        let name = ptsname(&screen, Vec::new()).unwrap();
        let line = File::options().write(true).open(Path::new(std::ffi::OsStr::from_bytes(name.as_bytes()))).unwrap();
        let mut command = sidecar.setup.command("status");
        let ended = command.env(variable.0, variable.1).stdout(line).status().unwrap();
        assert!(ended.success());
        // Only this process holds the terminal now, so that it ends.
        drop(command);
        let (mut shown, mut bytes, mut screen) = (Vec::new(), [0; 4096], File::from(screen));
        while let Ok(count @ 1..) = screen.read(&mut bytes) {
            shown.extend_from_slice(&bytes[..count]);
        }
        String::from_utf8(shown).unwrap()
    };
    assert!(at_terminal(("TERM", "xterm")).contains("\u{1b}[32mready\u{1b}[0m"));
    for variable in [("NO_COLOR", "1"), ("TERM", "dumb")] {
        let shown = at_terminal(variable);
        assert!(shown.contains("ready") && !shown.contains('\u{1b}'), "{shown}");
    }
}

#[test]
fn login_after_rejected_credentials_were_corrected_waits_for_the_token() {
    let simulator = simulator();
    let mut setup = Setup::controlled(&simulator);
    let password = setup.file("password", "wrong");
    // A command can't be watched: only `login` notices the change.
    setup.without("CAREPORTALS_PASSWORD").account("password", &format!("{{ command = [\"cat\", {password:?}] }}"));
    let sidecar = setup.start();
    sidecar.wait_for_log("\"rejected\"");
    let said = complains(&sidecar.setup, &["login"]);
    assert!(said.starts_with("error: the log-in failed\n  default: the server refused the log-in with status 401\n"), "{said}");
    assert!(said.contains("    hint: correct user name"), "{said}");
    fs::write(&password, PASSWORD).unwrap();
    let said = says(&sidecar, &["login", "default"]);
    assert!(said.starts_with("default: logged in; the token expires in "), "{said}");
    assert_eq!(sidecar.get("/users/account").status, 200);
}

#[test]
fn login_begins_anew_when_the_log_in_in_flight_hangs() {
    let simulator = simulator();
    let control = simulator.control();
    control.set_login_fault(Some(LoginFault::Hang));
    let mut setup = Setup::controlled(&simulator);
    setup.account("login_timeout", "5m");
    let sidecar = setup.start();
    until("the log-in has reached the server", || control.counts().logins == 1);
    let mut early = sidecar.setup.command("login").stdout(Stdio::piped()).spawn().unwrap();
    let_time_pass("the log-in takes so long that it counts as hanging", Duration::from_secs(5));
    assert_eq!(control.counts().logins, 1, "what came early has joined it");
    control.set_login_fault(None);
    let said = says(&sidecar, &["login"]);
    assert!(said.starts_with("default: logged in; the token expires in "), "{said}");
    assert!(early.wait().unwrap().success());
    assert_eq!(control.counts().logins, 2);
}

#[test]
fn logout_then_login_by_name_and_a_name_that_is_none() {
    let simulator = simulator();
    let sidecar = Setup::controlled(&simulator).start().ready();
    assert_eq!(says(&sidecar, &["logout", "default"]), "default: logged out\n");
    assert_eq!(sidecar.get("/users/account").status, 503);
    let said = complains(&sidecar.setup, &["login", "nobody"]);
    assert!(said.contains("there is no account of that name"), "{said}");
    let said = complains(&sidecar.setup, &["logout", "Default&x=1"]);
    assert!(said.contains("names are made of a-z"), "{said}");
    says(&sidecar, &["login"]);
    assert_eq!(sidecar.get("/users/account").status, 200);
}

#[test]
fn reload_waits_for_the_outcome_and_names_every_fault() {
    let simulator = simulator();
    let mut setup = Setup::controlled(&simulator);
    setup.settings("drain_timeout = \"20s\"\n");
    let sidecar = setup.start().ready();
    assert_eq!(says(&sidecar, &["reload"]), "reloaded\n");
    sidecar.setup.file("config.toml", "drain_timout = \"20s\"\ndrain_delay = \"soon\"\n");
    let said = complains(&sidecar.setup, &["reload"]);
    assert!(said.starts_with("error: not reloaded: nothing has changed\n  "), "{said}");
    for fault in ["config.toml:1: drain_timout: no such key\n    hint: did you mean", "config.toml:2: drain_delay: "] {
        assert!(said.contains(fault), "{fault}\n{said}");
    }
    // A settings file that can't be read any more does not keep the command from the daemon, which says so.
    sidecar.setup.file("config.toml", "no TOML\n");
    let said = complains(&sidecar.setup, &["reload"]);
    assert!(said.contains("config.toml:1: not valid TOML") && !said.contains("note:"), "{said}");
}

#[test]
fn a_settings_file_that_can_not_be_read_leads_no_command_to_another_daemon() {
    let simulator = simulator();
    let mut setup = Setup::new(&simulator);
    let runtime = tempfile::tempdir().unwrap();
    setup.variable("XDG_RUNTIME_DIR", runtime.path().to_str().unwrap()).without("CAREPORTALS_CONTROL_SOCKET");
    let mut sidecar = setup.start().ready();
    assert_eq!(says(&sidecar, &["reload"]), "reloaded\n");
    for (name, text, said) in [("gone.toml", None, "there is no such file"), ("broken.toml", Some("no TOML\n"), "not valid TOML")]
    {
        let file = text.map_or_else(|| runtime.path().join(name), |text| sidecar.setup.file(name, text));
        for command in ["reload", "logout", "login", "shutdown", "status"] {
            let output = sidecar.setup.output_of(&[command, "--config", file.to_str().unwrap()]);
            let code = if ["reload", "login"].contains(&command) { 1 } else { 78 };
            assert_eq!((output.code, output.stdout.as_str()), (Some(code), ""), "{command}: {output:?}");
            assert!(output.stderr.starts_with("error: ") && output.stderr.contains(said), "{command}: {output:?}");
            assert!(output.stderr.contains("--control-socket"), "{command}: {output:?}");
        }
    }
    assert_eq!(sidecar.get("/users/account").status, 200);
    assert_eq!(says(&sidecar, &["shutdown"]).lines().count(), 1);
    assert_eq!(sidecar.wait().code(), Some(0));
}

#[test]
fn shutdown_ends_the_daemon_with_0() {
    let simulator = simulator();
    let mut sidecar = Setup::controlled(&simulator).start().ready();
    let said = says(&sidecar, &["shutdown"]);
    let (socket, pid) = (sidecar.setup.control_socket(), sidecar.pid());
    assert!(said.starts_with(&format!("shutting down the daemon at {}, process {pid}: ", socket.display())), "{said}");
    assert_eq!(sidecar.wait().code(), Some(0));
    let said = complains(&sidecar.setup, &["status"]);
    assert!(said.contains("there is no such socket"), "{said}");
}

const COMMANDS: [&[&str]; 6] = [&["status"], &["status", "--json"], &["login"], &["logout"], &["reload"], &["shutdown"]];

#[test]
fn every_command_says_which_socket_it_tried_why_that_one_and_what_to_do() {
    for arguments in COMMANDS {
        let setup = Setup::empty();
        let said = complains(&setup, arguments);
        assert!(said.contains("the control socket is off (CAREPORTALS_CONTROL_SOCKET)") && said.contains("hint: "), "{said}");

        let mut setup = Setup::empty();
        setup.variable("CAREPORTALS_CONTROL_SOCKET", "/nonexistent/control.sock");
        let said = complains(&setup, arguments);
        for part in [
            "cannot reach the daemon at /nonexistent/control.sock: there is no such socket",
            "(control_socket: CAREPORTALS_CONTROL_SOCKET)",
            "hint: is the daemon running",
        ] {
            assert!(said.contains(part), "{part}\n{said}");
        }
    }
}

#[test]
fn a_socket_may_be_stale_foreign_named_by_a_flag_or_by_the_file() {
    let mut setup = Setup::empty();
    setup.without("CAREPORTALS_CONTROL_SOCKET");
    let path = setup.dir.path().join("other.sock");
    let flag = format!("--control-socket={}", path.display());
    drop(UnixListener::bind(&path).unwrap());
    let said = complains(&setup, &["status", &flag]);
    assert!(said.contains("nobody listens there") && said.contains("(control_socket: --control-socket)"), "{said}");

    fs::remove_file(&path).unwrap();
    let listener = UnixListener::bind(&path).unwrap();
    let foreign = std::thread::spawn(move || {
        use std::io::Write;
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(b"SSH-2.0-OpenSSH\r\n").unwrap();
        let mut rest = Vec::new();
        drop(stream.read_to_end(&mut rest));
    });
    setup.settings(&format!("control_socket = {path:?}\nnonsense = 1\n"));
    let said = complains(&setup, &["status"]);
    foreign.join().unwrap();
    assert!(said.contains("the answer is not HTTP") && said.contains("config.toml:1)"), "{said}");
    assert!(said.contains("note: ") && said.contains("config.toml:2: nonsense: no such key"), "{said}");
}

#[test]
fn a_setting_that_is_wrong_exits_78_and_no_default_place_is_said() {
    let mut setup = Setup::empty();
    setup.variable("CAREPORTALS_CONTROL_SOCKET", "relative.sock");
    let output = setup.output("status");
    assert_eq!(output.code, Some(78), "{output:?}");
    assert!(output.stderr.contains("CAREPORTALS_CONTROL_SOCKET: expected a path"), "{output:?}");

    if !Path::new("/run/careportals-sidecar").exists() {
        setup.without("CAREPORTALS_CONTROL_SOCKET");
        let said = complains(&setup, &["status"]);
        assert!(said.contains("no default place") && said.contains("--control-socket"), "{said}");
    }
}

#[test]
fn completions_are_there_for_every_shell_and_know_the_commands() {
    let setup = Setup::empty();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = setup.output_of(&["completions", shell]);
        assert_eq!(output.code, Some(0), "{output:?}");
        for word in ["healthcheck", "control-socket", "json"] {
            assert!(output.stdout.contains(word), "{shell} does not know {word}");
        }
    }
    assert_eq!(setup.output_of(&["completions", "csh"]).code, Some(2));
    let script = setup.file("completions", &setup.output_of(&["completions", "bash"]).stdout);
    let Ok(checked) = Command::new("bash").arg("-n").arg(script).output() else {
        eprintln!("skipped: there is no bash");
        return;
    };
    assert!(checked.status.success(), "{checked:?}");
}

#[test]
fn output_that_can_not_be_written_is_one_line_and_1_and_a_closed_pipe_ends_quietly() {
    let simulator = simulator();
    let setup = Setup::new(&simulator);
    for line in [
        "check",
        "check --online",
        "check --explain=GET§/a",
        "config",
        "config --json-schema",
        "completions bash",
        "completions fish",
        "version",
        "--version",
        "help",
        "--help",
        "check --help",
    ] {
        let mut words = line.split(' ').map(|word| word.replace('§', " "));
        let command = |stdout: Stdio, words: &mut dyn Iterator<Item = String>| {
            let mut command = setup.command(&words.next().unwrap());
            command.args(words).stdout(stdout).output().unwrap()
        };
        let full = command(File::options().write(true).open("/dev/full").unwrap().into(), &mut words.clone());
        let said = String::from_utf8(full.stderr).unwrap();
        assert_eq!(full.status.code(), Some(1), "{line}: {said}");
        assert!(said.starts_with("error: standard output can't be written to: ") && said.lines().count() == 1, "{line}: {said}");
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let closed = command(writer.into(), &mut words);
        let said = String::from_utf8(closed.stderr).unwrap();
        assert_eq!((closed.status.code(), said.as_str()), (Some(0), ""), "{line}");
    }
    // A faulty configuration is still told, and its exit code too.
    let faulty = Setup::empty();
    let full = File::options().write(true).open("/dev/full").unwrap();
    let output = faulty.command("check").stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(78), "{output:?}");
}

#[test]
fn bash_completes_flags_values_and_arguments_of_a_command() {
    let setup = Setup::empty();
    let script = setup.file("completions", &setup.output_of(&["completions", "bash"]).stdout);
    for (line, offered) in [
        ("check --s", "--strict"),
        ("run --log-format ", "auto,text,json"),
        ("--log-format j", "json"),
        ("exec --wa", "--wait"),
        ("healthcheck --re", "--ready"),
        ("completions b", "bash"),
        ("heal", "healthcheck"),
    ] {
        let asks = r#"source "$1"; COMP_WORDS=(careportals-sidecar); IFS=' '; COMP_WORDS+=($2); [[ $2 == *' ' ]] && COMP_WORDS+=('')
            COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); unset IFS
            _careportals__sidecar careportals-sidecar "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
            IFS=,; echo "${COMPREPLY[*]}""#;
        let Ok(asked) = Command::new("bash").args(["-c", asks, "bash"]).arg(&script).arg(line).output() else {
            eprintln!("skipped: there is no bash");
            return;
        };
        assert_eq!(String::from_utf8_lossy(&asked.stdout).trim_end(), offered, "{line}: {asked:?}");
    }
}
