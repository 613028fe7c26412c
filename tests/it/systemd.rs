//! What systemd is told, by a test that plays systemd: a datagram socket named by `NOTIFY_SOCKET`.

use std::{
    fs,
    io::ErrorKind,
    os::unix::{fs::PermissionsExt, net::UnixDatagram},
    time::Duration,
};

use careportals_simulator::LoginFault;
use rustix::process::Signal;

use crate::harness::{LETS_DEBUGGERS_IN, PATIENCE, Request, Setup, Sidecar, Stalled, now, simulator};

/// A service manager that notes what it is told.
struct Systemd(UnixDatagram);

impl Systemd {
    /// Binds a socket, and names it to `setup`'s daemon.
    fn new(setup: &mut Setup) -> Self {
        let path = setup.dir.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        setup.variable("NOTIFY_SOCKET", path.to_str().unwrap());
        Self(socket)
    }

    fn next_within(&self, time: Duration) -> Option<String> {
        self.0.set_read_timeout(Some(time)).unwrap();
        let mut message = vec![0; 4096];
        match self.0.recv(&mut message) {
            Ok(length) => Some(String::from_utf8(message[..length].to_vec()).unwrap()),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => None,
            Err(error) => panic!("{error}"),
        }
    }

    /// Waits for a message with that line, and returns every message up to that one.
    fn until(&self, line: &str) -> Vec<String> {
        let deadline = now() + PATIENCE;
        let mut messages = Vec::new();
        loop {
            let left = deadline.saturating_duration_since(now()).max(Duration::from_millis(1));
            let Some(message) = self.next_within(left) else { panic!("no {line:?} in {messages:#?}") };
            let found = message.lines().any(|it| it.starts_with(line));
            messages.push(message);
            if found {
                return messages;
            }
        }
    }
}

fn is_said(messages: &[String], line: &str) -> bool {
    messages.iter().flat_map(|message| message.lines()).any(|it| it.starts_with(line))
}

#[test]
fn systemd_is_told_ready_once_clients_are_accepted_and_how_each_account_is() {
    let simulator = simulator();
    simulator.control().hold_logins(true);
    let mut setup = Setup::new(&simulator);
    let systemd = Systemd::new(&mut setup);
    let sidecar = setup.start();
    let messages = systemd.until("READY=1");
    assert!(is_said(&messages, "STATUS=Serving 1 API; account default logging in"), "{messages:?}");
    // The next client is served.
    assert_eq!(sidecar.send(&Request::get("/users").host("elsewhere.example")).status, 421);
    simulator.control().hold_logins(false);
    let messages = systemd.until("STATUS=Serving 1 API; account default ready, token until ");
    assert!(!is_said(&messages, "READY=1"), "once is enough: {messages:?}");
    sidecar.signal(Signal::USR1);
    systemd.until("STATUS=Not working; account default logged out");
}

#[test]
fn a_log_in_that_fails_is_told_by_its_code() {
    let simulator = simulator();
    simulator.control().set_login_fault(Some(LoginFault::Status(401)));
    let mut setup = Setup::new(&simulator);
    let systemd = Systemd::new(&mut setup);
    let _sidecar = setup.start();
    let messages = systemd.until("STATUS=Not working; account default rejected (login_refused), next attempt ");
    assert!(is_said(&messages, "READY=1"), "a log-in that fails is no failed start: {messages:?}");
}

#[test]
fn an_upstream_that_does_not_answer_is_told_by_its_code_and_that_it_answers_again() {
    let simulator = simulator();
    let mut setup = Setup::new(&simulator);
    setup.api("response_timeout", "\"300ms\"");
    let systemd = Systemd::new(&mut setup);
    let sidecar = setup.start().ready();
    simulator.control().hold_requests(true);
    assert_eq!(sidecar.get("/_sim/echo").status, 504);
    systemd.until("STATUS=Not working; default can't reach CarePortals (upstream_timeout) since ");
    simulator.control().hold_requests(false);
    assert_eq!(sidecar.get("/_sim/echo").status, 200);
    systemd.until("STATUS=Serving 1 API; account default ready, token until ");
}

/// `CLOCK_MONOTONIC` in microseconds.
fn monotonic() -> i64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec * 1_000_000 + now.tv_nsec / 1000
}

#[test]
fn a_reload_is_told_with_its_beginning_and_its_end_whether_it_was_taken_over_or_refused() {
    let simulator = simulator();
    let mut setup = Setup::new(&simulator);
    setup.settings("drain_delay = \"0s\"\n");
    let systemd = Systemd::new(&mut setup);
    let sidecar = setup.start();
    systemd.until("READY=1");
    for (settings, refused) in [
        ("drain_delay = \"1s\"\n", false),
        ("drain_delay = \"soon\"\nworkers = 0\n", true),
        ("workers = 1\ndrain_delay = \"1s\"\n", false),
        ("quitquitquit = true\n", true),
        ("drain_delay = \"0s\"\n", false),
    ] {
        sidecar.setup.file("config.toml", settings);
        let before = monotonic();
        sidecar.signal(Signal::HUP);
        let reloading = systemd.until("RELOADING=1").pop().unwrap();
        let stamp = reloading.lines().find_map(|line| line.strip_prefix("MONOTONIC_USEC=")).unwrap();
        assert!((before..=monotonic()).contains(&stamp.parse().unwrap()), "{reloading}");
        let over = systemd.until("READY=1").pop().unwrap();
        assert_eq!(over.contains("; the last reload was refused ("), refused, "{settings} {over}");
    }
}

#[test]
fn on_sigterm_systemd_is_told_that_the_daemon_stops_and_how_long_it_may_take() {
    let simulator = simulator();
    let mut setup = Setup::new(&simulator);
    setup.global("drain_timeout", "7s").global("drain_delay", "200ms");
    let systemd = Systemd::new(&mut setup);
    let mut sidecar = setup.start().ready();
    systemd.until("STATUS=Serving 1 API; account default ready");
    sidecar.signal(Signal::TERM);
    let stopping = systemd.until("STOPPING=1").pop().unwrap();
    assert!(stopping.contains("EXTEND_TIMEOUT_USEC=12200000\n"), "{stopping}");
    assert!(stopping.contains("STATUS=Stopping; 0 requests in flight, 7 s at most"), "{stopping}");
    sidecar.signal(Signal::HUP);
    sidecar.signal(Signal::USR1);
    assert_eq!(sidecar.wait().code(), Some(0));
    let mut after = Vec::new();
    while let Some(message) = systemd.next_within(Duration::from_millis(1)) {
        after.push(message);
    }
    assert!(!is_said(&after, "READY=1") && !is_said(&after, "RELOADING=1"), "{after:?}");
}

#[test]
fn a_start_that_fails_says_nothing_of_ready() {
    let simulator = simulator();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut setup = Setup::new(&simulator);
    setup.variable("CAREPORTALS_LISTEN", &taken.local_addr().unwrap().to_string());
    let systemd = Systemd::new(&mut setup);
    assert_eq!(setup.output("run").code, Some(1));
    assert_eq!(systemd.next_within(Duration::from_millis(1)), None);
}

#[test]
fn the_watchdog_is_fed_while_every_worker_turns_and_not_while_one_is_stuck() {
    const LIMIT: Duration = Duration::from_millis(600);
    let simulator = simulator();
    let mut setup = Setup::new(&simulator);
    setup.variable("WATCHDOG_USEC", &LIMIT.as_micros().to_string()).global("hardening", LETS_DEBUGGERS_IN);
    let systemd = Systemd::new(&mut setup);
    let sidecar = setup.start();
    for _ in 0..3 {
        systemd.until("WATCHDOG=1");
    }
    let stalled = Stalled::worker(&sidecar, 1);
    sidecar.wait_for_log("a worker does not answer: the watchdog is not fed");
    while systemd.next_within(Duration::from_millis(1)).is_some() {}
    let silent = now();
    while let Some(left) = LIMIT.checked_sub(silent.elapsed()).filter(|left| !left.is_zero()) {
        let message = systemd.next_within(left);
        assert!(message.as_deref() != Some("WATCHDOG=1"), "fed though a worker is stuck");
    }
    drop(stalled);
    systemd.until("WATCHDOG=1");
    sidecar.wait_for_log("every worker answers again");
}

#[test]
fn a_watchdog_for_another_process_is_not_fed() {
    let simulator = simulator();
    let mut setup = Setup::new(&simulator);
    setup.variable("WATCHDOG_USEC", "30000").variable("WATCHDOG_PID", "1");
    let systemd = Systemd::new(&mut setup);
    let sidecar = setup.start().ready();
    systemd.until("STATUS=Serving 1 API; account default ready");
    // By now it would have been fed many times.
    sidecar.get("/_sim/drip?bytes=3&interval_ms=50");
    let mut messages = Vec::new();
    while let Some(message) = systemd.next_within(Duration::from_millis(1)) {
        messages.push(message);
    }
    assert!(!is_said(&messages, "WATCHDOG=1"), "{messages:?}");
}

#[test]
fn commands_that_give_credentials_do_not_speak_to_systemd_in_our_name() {
    let simulator = simulator();
    let mut setup = Setup::new(&simulator);
    let seen = setup.dir.path().join("seen");
    let script = format!("#!/bin/sh\nenv > {}\necho demo-password-1\n", seen.display());
    let script = setup.file("password.sh", &script);
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    setup.without("CAREPORTALS_PASSWORD").variable("WATCHDOG_USEC", "60000000").variable("LISTEN_FDNAMES", "");
    setup.account("password", &format!("{{ command = [\"{}\"] }}", script.display()));
    let systemd = Systemd::new(&mut setup);
    let _sidecar = setup.start().ready();
    systemd.until("READY=1");
    let environment = fs::read_to_string(seen).unwrap();
    assert!(environment.contains("PATH="), "{environment}");
    for name in ["NOTIFY_SOCKET", "WATCHDOG_USEC", "LISTEN_FDNAMES"] {
        assert!(!environment.contains(name), "{environment}");
    }
}

#[test]
fn a_socket_that_leads_nowhere_is_told_and_does_no_harm() {
    let simulator = simulator();
    let mut setup = Setup::new(&simulator);
    setup.variable("NOTIFY_SOCKET", "/nowhere/at/all");
    let sidecar: Sidecar = setup.start().ready();
    sidecar.wait_for_log("systemd can't be told how the daemon is");
}
