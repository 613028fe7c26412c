//! A hunt through the daemon's memory: what was secret must be gone once the account is logged out and nothing is in flight.

use std::{
    collections::{BTreeMap, HashSet},
    fs::{self, File},
    os::unix::fs::FileExt as _,
    time::Duration,
};

use careportals_simulator::{LoginFault, Simulator};
use rustix::process::Signal;

use crate::harness::{Connection, OFF_AND_AUTO, Request, Setup, Sidecar, revoke, simulator, until, within};

const ORGANIZATION: &str = "demo";
const USERNAME: &str = "hunted-user-name-9f83b1c25d70e64a@mail.hunted.test";
const PASSWORD: &str = "hunted-password-5b2e8d1f7c3a90466e21-first";
const NEXT_PASSWORD: &str = "hunted-password-c07d4419be5f83a2d91b-next";

/// Pieces of secrets that are long enough to be no accident.
const PIECE: usize = 16;
/// Memory is looked at from every eighth byte: what is left of a secret is found from 23 bytes on.
const STEP: usize = 8;
/// The length of most pieces that are looked for.
const REST: usize = 512;

/// What is looked for: every piece of every secret, with a name for it.
#[derive(Default)]
struct Wanted {
    pieces: BTreeMap<[u8; PIECE], &'static str>,
    /// How any of them begins: that alone rules most memory out.
    beginnings: HashSet<u16>,
}

impl Wanted {
    fn add(&mut self, name: &'static str, secret: &str) {
        assert!(secret.len() >= PIECE + STEP, "too short to be found: {name}");
        for piece in secret.as_bytes().windows(PIECE) {
            self.pieces.insert(piece.try_into().unwrap(), name);
            self.beginnings.insert(u16::from_ne_bytes([piece[0], piece[1]]));
        }
    }

    /// Adds what differs in any two tokens: neither the first part nor what names the issuer.
    fn add_token(&mut self, token: &str) {
        let parts: Vec<&str> = token.split('.').collect();
        self.add("a token's claims", parts[1]);
        self.add("a token's signature", parts[2]);
    }

    /// Finds where any of it is, and how often.
    fn found_in(&self, sidecar: &Sidecar) -> BTreeMap<String, usize> {
        let mut found = BTreeMap::new();
        for (place, memory) in image(sidecar) {
            let mut at = 0;
            while at + PIECE <= memory.len() {
                let piece = &memory[at..at + PIECE];
                let beginning = u16::from_ne_bytes([piece[0], piece[1]]);
                let wanted = if beginning != 0 && self.beginnings.contains(&beginning) { self.pieces.get(piece) } else { None };
                if let Some(name) = wanted {
                    *found.entry(format!("{name} in {place}, after {:?}", before(&memory, at))).or_default() += 1;
                    // What follows is the rest of it.
                    at += REST;
                }
                at += STEP;
            }
        }
        found
    }
}

/// The end of what stands before a find: enough to tell whose buffer it was.
fn before(memory: &[u8], at: usize) -> String {
    let text = String::from_utf8_lossy(&memory[at.saturating_sub(48)..at]);
    text.chars().map(|letter| if letter.is_ascii_graphic() { letter } else { '.' }).collect()
}

/// Reads everything of the process that a debugger could, but for its program's own text.
fn image(sidecar: &Sidecar) -> Vec<(String, Vec<u8>)> {
    let maps = fs::read_to_string(format!("/proc/{}/maps", sidecar.pid())).unwrap();
    let memory = File::open(format!("/proc/{}/mem", sidecar.pid())).unwrap();
    let mut image = Vec::new();
    for line in maps.lines() {
        let mut fields = line.split_whitespace();
        let (range, rights, name) = (fields.next().unwrap(), fields.next().unwrap(), fields.nth(3).unwrap_or("anonymous"));
        // What can't be written can't have been.
        if !rights.starts_with("rw") || name.starts_with("[v") {
            continue;
        }
        let (start, end) = range.split_once('-').unwrap();
        let (start, end) = (u64::from_str_radix(start, 16).unwrap(), u64::from_str_radix(end, 16).unwrap());
        let mut bytes = vec![0; usize::try_from(end - start).unwrap()];
        // It may have been unmapped since.
        if memory.read_exact_at(&mut bytes, start).is_ok() {
            image.push((format!("{name} {rights}"), bytes));
        }
    }
    image
}

fn simulator_of_secrets() -> Simulator {
    let simulator = simulator();
    simulator.control().set_credentials(ORGANIZATION, USERNAME, PASSWORD);
    simulator
}

/// A sidecar with credentials in files, as secret mounts have them, that a debugger may read.
fn setup(simulator: &Simulator) -> Setup {
    let mut setup = Setup::new(simulator);
    let files = [("username", USERNAME), ("password", PASSWORD)];
    for (name, value) in files {
        let variable = format!("CAREPORTALS_{}", name.to_uppercase());
        let path = setup.file(name, &format!("{value}\n"));
        setup.without(&variable).variable(&format!("{variable}_FILE"), path.to_str().unwrap());
    }
    setup.global("hardening", "off").account("relogin_floor", "100ms");
    setup
}

/// Every token that went over the wire or was given out last.
fn tokens(simulator: &Simulator) -> Vec<String> {
    let control = simulator.control();
    let mut tokens: Vec<String> = control.last_token().into_iter().collect();
    for seen in control.requests() {
        tokens.extend(seen.values("authorization").into_iter().map(|value| value.replace("Bearer ", "")));
    }
    tokens.sort();
    tokens.dedup();
    tokens
}

/// Goes through requests of every kind, a 401 with its new log-in, a failed log-in, and a password that changes.
fn live_through(simulator: &Simulator, sidecar: &Sidecar) {
    let control = simulator.control();
    let mut client = sidecar.connect();
    for _ in 0..5 {
        assert_eq!(client.send(&Request::get("/users/account")).status, 200);
    }
    let body = Request::new("POST", "/patients").header("content-type", "application/json").body("{\"a\":1}");
    assert!(client.send(&body).status < 500);
    revoke(simulator);
    assert_eq!(client.send(&Request::get("/users/account")).status, 200);
    // A log-in that fails, and one that succeeds, for which the request waits.
    control.fail_next_logins(1, LoginFault::Status(500));
    revoke(simulator);
    assert_eq!(client.send(&Request::get("/users/account")).status, 200);
    control.set_credentials(ORGANIZATION, USERNAME, NEXT_PASSWORD);
    let logins = control.counts().logins;
    sidecar.setup.file("password", NEXT_PASSWORD);
    until("another log-in has begun", || control.counts().logins > logins);
    sidecar.wait_for_logs("\"refresh_in_s\"", 4);
    assert_eq!(client.send(&Request::get("/users/account")).status, 200);
}

#[test]
fn after_a_log_out_no_token_and_no_password_is_left_in_memory() {
    for http2 in OFF_AND_AUTO {
        let simulator = simulator_of_secrets();
        let mut setup = setup(&simulator);
        setup.api("http2", http2);
        let sidecar = setup.start().ready();
        let mut wanted = Wanted::default();
        live_through(&simulator, &sidecar);
        for token in tokens(&simulator) {
            wanted.add_token(&token);
        }
        for (name, secret) in [("the user name", USERNAME), ("a password", PASSWORD), ("a password", NEXT_PASSWORD)] {
            wanted.add(name, secret);
        }
        assert!(!wanted.found_in(&sidecar).is_empty(), "the hunt does not see the token that is in use");
        log_out(&sidecar);
        assert_gone(&wanted, &simulator, &sidecar, http2);
    }
}

#[test]
fn a_request_in_flight_at_the_log_out_leaves_no_token_in_memory_when_it_has_ended() {
    for http2 in OFF_AND_AUTO {
        let simulator = simulator_of_secrets();
        let mut setup = setup(&simulator);
        setup.api("http2", http2);
        let sidecar = setup.start().ready();
        let (wanted, mut client) = begin_request(&simulator, &sidecar);
        log_out(&sidecar);
        simulator.control().hold_requests(false);
        assert_eq!(client.answer("GET").status, 200);
        assert_gone(&wanted, &simulator, &sidecar, http2);
    }
}

#[test]
fn a_connection_that_a_request_opens_after_a_reload_replaced_its_upstream_is_not_kept() {
    for http2 in OFF_AND_AUTO {
        let simulator = simulator_of_secrets();
        let control = simulator.control();
        control.hold_logins(true);
        let mut setup = setup(&simulator);
        setup
            .api("http2", http2)
            .settings("[apis.default]\nconnect_timeout = \"5s\"\n")
            .with_telemetry()
            .without_connections_ahead();
        let sidecar = setup.start();
        let mut client = sidecar.connect();
        client.write(&Request::get("/users/account").head());
        let in_flight = "careportals_sidecar_requests_in_flight{api=\"default\"} 1";
        until("the request waits for a token", || sidecar.telemetry("/metrics").text().contains(in_flight));
        sidecar.setup.file("config.toml", "[apis.default]\nconnect_timeout = \"4s\"\n");
        sidecar.signal(Signal::HUP);
        sidecar.wait_for_log("\"message\":\"reloaded\"");
        control.hold_logins(false);
        assert_eq!(client.answer("GET").status, 200);
        let mut wanted = Wanted::default();
        for token in tokens(&simulator) {
            wanted.add_token(&token);
        }
        // It closes without a log-out, long before `pool_idle`.
        until("the connection is closed", || control.counts().open_connections == 0);
        assert!(!wanted.found_in(&sidecar).is_empty(), "the hunt does not see the token that is in use");
        log_out(&sidecar);
        assert_gone(&wanted, &simulator, &sidecar, http2);
    }
}

/// Sends a request that the simulator holds, and gives its client and what is looked for.
fn begin_request(simulator: &Simulator, sidecar: &Sidecar) -> (Wanted, Connection) {
    let control = simulator.control();
    let before = control.counts().requests;
    control.hold_requests(true);
    let mut client = sidecar.connect();
    client.write(&Request::get("/users/account").head());
    until("the upstream has got the request", || control.counts().requests > before);
    let mut wanted = Wanted::default();
    for token in tokens(simulator) {
        wanted.add_token(&token);
    }
    assert!(!wanted.found_in(sidecar).is_empty(), "the hunt does not see the token that is in use");
    (wanted, client)
}

fn log_out(sidecar: &Sidecar) {
    sidecar.signal(Signal::USR1);
    sidecar.wait_for_log("\"logged_out\"");
}

fn assert_gone(wanted: &Wanted, simulator: &Simulator, sidecar: &Sidecar, http2: &str) {
    until("no connection to the upstream is open", || simulator.control().counts().open_connections == 0);
    // The simulator sees the end of a connection a moment before its buffers are gone.
    let mut left = BTreeMap::new();
    let is_gone = within(Duration::from_secs(2), || {
        left = wanted.found_in(sidecar);
        left.is_empty().then_some(())
    });
    assert!(is_gone.is_some(), "http2 = {http2}: {} places: {left:#?}", left.len());
}
