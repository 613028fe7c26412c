//! A shutdown and a log-out come before everything else: a start, a reload, a file that does not answer.
//!
//! The daemon is held where it reads a pipe. Opening the pipe's other end waits for the daemon, so a test knows that it
//! is there.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Stdio,
    thread,
    time::Duration,
};

use careportals_simulator::Simulator;
use rustix::{
    fs::{CWD, Mode, mkfifoat},
    process::Signal,
};

use crate::harness::{Answer, Request, Setup, Sidecar, now, simulator};

/// Less than any time limit of a source or a file.
const SOON: Duration = Duration::from_secs(5);

fn control_socket(setup: &Setup) -> PathBuf {
    setup.dir.path().join("control.sock")
}

/// Puts a pipe where a file was.
fn replace_by_pipe(path: &Path) {
    drop(fs::remove_file(path));
    mkfifoat(CWD, path, Mode::RUSR | Mode::WUSR).unwrap();
}

/// Waits until somebody reads the pipe, who then waits until what is given here is dropped.
fn hold(pipe: &Path) -> File {
    File::options().write(true).open(pipe).unwrap()
}

/// With a required header whose value a command reads from a file, and everything that shows the daemon.
fn requiring(simulator: &Simulator) -> (Setup, PathBuf) {
    let mut setup = Setup::new(simulator);
    let value = setup.file("value", "canary-required");
    let command = format!("{{ name = \"X-App-Key\", value = {{ command = [\"cat\", {:?}] }} }}", value.to_str().unwrap());
    let socket = control_socket(&setup);
    setup
        .api("require_header", &command)
        .variable("CAREPORTALS_TELEMETRY_LISTEN", "127.0.0.1:0")
        .variable("CAREPORTALS_CONTROL_SOCKET", socket.to_str().unwrap());
    (setup, value)
}

/// A daemon in the middle of a reload that can't go on.
fn held_in_a_reload(simulator: &Simulator) -> (Sidecar, File) {
    let (setup, value) = requiring(simulator);
    let sidecar = setup.start();
    replace_by_pipe(&value);
    sidecar.signal(Signal::HUP);
    (sidecar, hold(&value))
}

fn post(sidecar: &Sidecar, target: &str) -> Answer {
    Sidecar::connect_unix(&control_socket(&sidecar.setup)).send(&Request::new("POST", target))
}

#[test]
fn sigterm_ends_a_daemon_that_is_held_in_a_reload_behind_which_thirty_more_wait() {
    let simulator = simulator();
    let (mut sidecar, _held) = held_in_a_reload(&simulator);
    for _ in 0..30 {
        sidecar.signal(Signal::HUP);
    }
    let start = now();
    assert_eq!(sidecar.stop().code(), Some(0));
    assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
    assert!(sidecar.logs().contains("the daemon is stopping"), "the reload is told as refused");
}

#[test]
fn a_shutdown_by_the_control_socket_ends_a_daemon_behind_any_number_of_reloads() {
    let simulator = simulator();
    let (mut sidecar, _held) = held_in_a_reload(&simulator);
    thread::scope(|scope| {
        let sidecar = &sidecar;
        let reloads: Vec<_> = (0..25).map(|_| scope.spawn(move || post(sidecar, "/reload"))).collect();
        sidecar.wait_for_logs("\"action\":\"reload\"", 25);
        let start = now();
        assert_eq!(post(sidecar, "/shutdown").status, 202);
        for reload in reloads {
            let answer = reload.join().unwrap();
            assert_eq!((answer.status, answer.json()["code"].as_str().unwrap()), (409, "draining"), "{answer:?}");
        }
        assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
    });
    assert_eq!(sidecar.wait().code(), Some(0));
}

#[test]
fn clients_that_wait_for_a_reload_keep_nobody_from_a_shutdown() {
    const CLIENTS: usize = 100;
    let simulator = simulator();
    let (mut sidecar, _held) = held_in_a_reload(&simulator);
    thread::scope(|scope| {
        let sidecar = &sidecar;
        let reloads: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(move || post(sidecar, "/reload"))).collect();
        sidecar.wait_for_logs("\"action\":\"reload\"", CLIENTS);
        assert_eq!(post(sidecar, "/shutdown").status, 202);
        let answers: Vec<_> =
            reloads.into_iter().map(|reload| reload.join().unwrap().json()["code"].as_str().unwrap().to_owned()).collect();
        let count = |code| answers.iter().filter(|answer| *answer == code).count();
        assert_eq!((count("draining"), count("busy")), (64, CLIENTS - 64), "{answers:?}");
    });
    assert_eq!(sidecar.wait().code(), Some(0));
}

#[test]
fn a_log_out_does_not_wait_for_a_reload() {
    let simulator = simulator();
    let (sidecar, held) = held_in_a_reload(&simulator);
    let with_key = Request::get("/users/account").header("X-App-Key", "canary-required");
    assert_eq!(sidecar.send(&with_key).status, 200);
    let start = now();
    assert_eq!(post(&sidecar, "/logout").status, 200);
    assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
    assert_eq!(sidecar.send(&with_key).json()["code"], "logged_out");
    drop(held);
    sidecar.wait_for_log("\"message\":\"reloaded\"");
    assert_eq!(sidecar.send(&with_key).json()["code"], "logged_out", "a reload does not undo it");
}

#[test]
fn a_listener_that_a_reload_adds_is_opened_when_its_clients_are_served() {
    let simulator = simulator();
    let (mut setup, value) = requiring(&simulator);
    let added = setup.dir.path().join("added.sock");
    setup.without("CAREPORTALS_LISTEN").settings("[apis.default]\nlisten = [\"127.0.0.1:0\"]\n");
    let sidecar = setup.start();
    let listens = format!("[apis.default]\nlisten = [\"127.0.0.1:0\", \"unix:{}\"]\n", added.display());
    sidecar.setup.file("config.toml", &listens);
    replace_by_pipe(&value);
    sidecar.signal(Signal::HUP);
    let held = hold(&value);
    assert!(!added.exists(), "a client would be queued for as long as the source takes");
    drop(held);
    sidecar.wait_for_log("\"message\":\"reloaded\"");
    let with_key = Request::get("/users/account").header("X-App-Key", "canary-required");
    assert_eq!(Sidecar::connect_unix(&added).send(&with_key).status, 200);
}

#[test]
fn reloads_that_are_asked_for_while_one_runs_become_one_more() {
    let simulator = simulator();
    let (mut sidecar, held) = held_in_a_reload(&simulator);
    for _ in 0..30 {
        sidecar.signal(Signal::HUP);
    }
    // The next one is to find a file again.
    fs::remove_file(sidecar.setup.dir.path().join("value")).unwrap();
    sidecar.setup.file("value", "canary-required");
    thread::scope(|scope| {
        let reload = scope.spawn(|| post(&sidecar, "/reload"));
        sidecar.wait_for_log("\"action\":\"reload\"");
        drop(held);
        assert_eq!(reload.join().unwrap().status, 200);
    });
    sidecar.stop();
    assert_eq!(sidecar.logs().matches("\"message\":\"reloaded\"").count(), 2, "{}", sidecar.logs());
}

#[test]
fn sigterm_ends_a_start_that_waits_for_a_source() {
    let simulator = simulator();
    let (setup, value) = requiring(&simulator);
    replace_by_pipe(&value);
    let child = setup.command("run").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let _held = hold(&value);
    let start = now();
    terminate(child.id());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
    assert!(!control_socket(&setup).exists(), "its control socket is gone");
    let logs = String::from_utf8(output.stdout).unwrap();
    assert!(logs.contains("stopped") && !logs.contains("\"listening\""), "{logs}");
}

#[test]
fn sigterm_ends_a_start_that_waits_for_its_settings_file() {
    let simulator = simulator();
    let mut setup = Setup::new(&simulator);
    let settings = setup.dir.path().join("config.toml");
    mkfifoat(CWD, &settings, Mode::RUSR | Mode::WUSR).unwrap();
    setup.variable("CAREPORTALS_CONFIG", settings.to_str().unwrap());
    let mut child = setup.command("run").stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let _held = hold(&settings);
    let start = now();
    terminate(child.id());
    assert_eq!(child.wait().unwrap().code(), Some(0), "the handlers come before everything that may wait");
    assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
}

#[test]
fn sigterm_ends_a_start_that_waits_for_a_certificate_file() {
    let simulator = simulator();
    let mut setup = Setup::new(&simulator);
    let roots = setup.dir.path().join("roots.pem");
    mkfifoat(CWD, &roots, Mode::RUSR | Mode::WUSR).unwrap();
    setup.variable("CAREPORTALS_CA_ONLY_FILE", roots.to_str().unwrap());
    let mut child = setup.command("run").stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let _held = hold(&roots);
    let start = now();
    terminate(child.id());
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
}

#[test]
fn a_file_that_does_not_answer_holds_up_neither_health_nor_the_end() {
    let simulator = simulator();
    let mut setup = Setup::new(&simulator);
    let ca = setup.file("more-roots.pem", simulator.ca_pem());
    setup
        .without("CAREPORTALS_CA_ONLY_FILE")
        .variable("CAREPORTALS_CA_FILE", ca.to_str().unwrap())
        .variable("CAREPORTALS_TELEMETRY_LISTEN", "127.0.0.1:0");
    let mut sidecar = setup.start().ready();
    replace_by_pipe(&ca);
    sidecar.signal(Signal::HUP);
    let _held = hold(&ca);
    assert_eq!(sidecar.telemetry("/livez").status, 200);
    assert_eq!(sidecar.get("/users/account").status, 200);
    let start = now();
    assert_eq!(sidecar.stop().code(), Some(0));
    assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
}

fn terminate(pid: u32) {
    let pid = rustix::process::Pid::from_raw(pid.try_into().unwrap()).unwrap();
    rustix::process::kill_process(pid, Signal::TERM).unwrap();
}
