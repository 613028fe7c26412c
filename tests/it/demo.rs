//! `demo`: the story it tells, what it keeps to itself, and that it stays up to be tried.

#![allow(clippy::unwrap_used, reason = "a test that can't go on says where")]

use std::{
    ffi::OsStr,
    fs::File,
    io::{BufRead, BufReader, Read},
    net::{SocketAddr, TcpStream},
    os::unix::ffi::OsStrExt,
    path::Path,
    process::{Child, ChildStdout, Command, Stdio},
    thread::JoinHandle,
};

use careportals_simulator::Options;
use rustix::{
    process::{Pid, Signal, kill_process},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{Winsize, tcsetwinsize},
};

use crate::harness::{Connection, PASSWORD, Request, program_file};

/// The program with no environment at all.
fn demo(arguments: &[&str]) -> Command {
    let mut command = Command::new(program_file());
    command.arg("demo").args(arguments).env_clear().current_dir("/").stdin(Stdio::null());
    command
}

/// Runs `demo --once`, which must end well and write nothing to standard error. Returns what it says.
fn told(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let (out, err) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert_eq!(output.status.code(), Some(0), "{out}\n{err}");
    assert_eq!(err, "");
    out
}

/// The port in the line of step 1 that names the sidecar.
fn port(told: &str) -> u16 {
    let (_, rest) = told.split_once("http://localhost:").unwrap_or_else(|| panic!("no address\n{told}"));
    rest.chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap()
}

const STEPS: [&str; 6] = [
    "1  Both are up",
    "2  The sidecar logs in by itself",
    "3  Your app calls, without a token",
    "4  CarePortals revokes the token, and your app does not notice",
    "5  A token is about to expire, and is renewed before it does",
    "6  Nobody gets a token through the sidecar",
];

#[test]
fn the_demo_tells_each_step_and_ends_well_without_any_environment() {
    let told = told(&mut demo(&["--once"]));
    for step in STEPS {
        assert!(told.lines().any(|line| line == step), "{step:?}\n{told}");
    }
    for fact in
        ["POST /patient/auth → 201", "GET /users/account → 200", "1 → 2", "2 → 3", "POST /patient/auth → 403", "login_path"]
    {
        assert!(told.contains(fact), "{fact:?}\n{told}");
    }
    assert!(told.contains("All went as told."), "{told}");
}

#[test]
fn piped_output_of_the_demo_is_plain() {
    let told = told(demo(&["--once"]).env("TERM", "xterm-256color"));
    assert!(!told.contains('\x1b'), "{told:?}");
}

#[test]
fn the_demo_shows_no_token_no_credentials_and_no_people() {
    let told = told(&mut demo(&["--once"]));
    for (_, username, password) in Options::default().credentials {
        assert!(!told.contains(&username) && !told.contains(&password), "{told}");
    }
    assert!(!told.contains('@'), "an e-mail address\n{told}");
    let (_, bearer) = told.split_once("Bearer ").unwrap();
    let shown = bearer.split_once('…').unwrap().0;
    // Part of the token's header; what identifies anybody comes after its first dot.
    assert!(shown.len() <= 10 && !shown.contains('.'), "{told}");
    let longest = told.split(|sign: char| !sign.is_ascii_alphanumeric()).map(str::len).max().unwrap();
    assert!(longest < 20, "something as long as an id or a token\n{told}");
}

#[test]
fn settings_of_the_environment_are_ignored() {
    let told = told(
        demo(&["--once"])
            .env("CAREPORTALS_CONFIG", "/does/not/exist.toml")
            .env("CAREPORTALS_ORGANIZATION", "acme")
            .env("CAREPORTALS_PASSWORD", PASSWORD)
            .env("CAREPORTALS_UPSTREAM", "http://192.0.2.1")
            .env("CAREPORTALS_LISTEN", "192.0.2.1:1")
            .env("CAREPORTALS_LOG", "trace")
            .env("CAREPORTALS__NO__SUCH__KEY", "1")
            .env("HTTPS_PROXY", "http://192.0.2.1:3128")
            .env("SSL_CERT_FILE", "/does/not/exist.pem"),
    );
    assert!(told.contains("All went as told.") && !told.contains("acme"), "{told}");
}

/// A demo that stays up.
struct Staying {
    child: Child,
    out: BufReader<ChildStdout>,
    /// What was read so far.
    told: String,
    errors: Option<JoinHandle<String>>,
}

impl Staying {
    /// Starts it, and waits until all steps are done.
    fn start() -> Self {
        Self::started(&[], "Ctrl-C")
    }

    /// Starts it, and waits until it has said `said`.
    fn started(arguments: &[&str], said: &str) -> Self {
        let mut child = demo(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let mut err = child.stderr.take().unwrap();
        let errors = std::thread::spawn(move || {
            let mut text = String::new();
            err.read_to_string(&mut text).unwrap();
            text
        });
        let mut demo = Self { child, out, told: String::new(), errors: Some(errors) };
        while !demo.told.contains(said) {
            assert_ne!(demo.out.read_line(&mut demo.told).unwrap(), 0, "it ended\n{}", demo.told);
        }
        demo
    }

    /// Reads on until `said` has come.
    fn read_until(&mut self, said: &str) {
        let known = self.told.len();
        while !self.told[known..].contains(said) {
            assert_ne!(self.out.read_line(&mut self.told).unwrap(), 0, "it ended\n{}", self.told);
        }
    }

    fn status_of(&self, target: &str) -> u16 {
        let address = SocketAddr::from(([127, 0, 0, 1], port(&self.told)));
        Connection::tcp(TcpStream::connect(address).unwrap()).send(&Request::get(target)).status
    }

    /// Sends a signal, and returns the exit code and what was written to standard error.
    fn end_with(mut self, signal: Signal) -> (Option<i32>, String) {
        kill_process(Pid::from_raw(self.child.id().try_into().unwrap()).unwrap(), signal).unwrap();
        self.out.read_to_string(&mut self.told).unwrap();
        let errors = self.errors.take().unwrap().join().unwrap();
        (self.child.wait().unwrap().code(), errors)
    }
}

impl Drop for Staying {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_demo_stays_up_until_a_signal_and_two_run_side_by_side() {
    let (first, second) = (Staying::start(), Staying::start());
    assert_ne!(port(&first.told), port(&second.told));
    for demo in [&first, &second] {
        assert!(demo.told.contains(&format!("curl http://localhost:{}/users/account", port(&demo.told))), "{}", demo.told);
        assert_eq!(demo.status_of("/users/account"), 200);
    }
    assert_eq!(first.end_with(Signal::TERM), (Some(0), String::new()));
    assert_eq!(second.status_of("/users/account"), 200);
    assert_eq!(second.end_with(Signal::INT), (Some(0), String::new()));
}

#[test]
fn each_call_to_the_demo_gets_a_line_and_its_token_can_be_forgotten_and_fetched_again() {
    let mut demo = Staying::start();
    assert!(!demo.told.contains("request "), "its own calls are told already\n{}", demo.told);
    assert_eq!(demo.status_of("/users/account"), 200);
    demo.read_until("/users/account");
    let mark = demo.told.len();
    let typed = |words: &str| {
        // What the demo says is typed as it stands.
        let program = demo.told.lines().find(|line| line.contains(&format!(" {words}  "))).unwrap().trim();
        let (command, _) = program.split_once("  ").unwrap();
        let (_, export) = demo.told.split_once("   export ").unwrap();
        let socket = export.split_whitespace().next().unwrap();
        let output = Command::new("sh").args(["-c", &format!("export {socket}; {command}")]).output().unwrap();
        assert!(output.status.success(), "{output:?}\n{}", demo.told);
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(typed("status").contains("\ndefault  ready  "));
    assert_eq!(typed("logout"), "default: logged out\n");
    assert_eq!(demo.status_of("/users/account"), 503);
    assert!(typed("login").starts_with("default: logged in"));
    assert_eq!(demo.status_of("/v2/products"), 200);
    // Lines of calls may come up to a second later than others.
    let missing = |told: &str| ["logged out", "503", "logged in", "/v2/products"].into_iter().find(|text| !told.contains(text));
    while missing(&demo.told[mark..]).is_some() {
        demo.read_until("\n");
    }
    let socket = demo.told.split_once("CAREPORTALS_CONTROL_SOCKET=").unwrap().1.split_whitespace().next().unwrap().to_owned();
    assert!(Path::new(&socket).exists());
    assert_eq!(demo.end_with(Signal::TERM), (Some(0), String::new()));
    assert!(!Path::new(&socket).exists());
}

#[test]
fn the_demo_wraps_at_the_terminals_width() {
    let screen = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&screen).unwrap();
    unlockpt(&screen).unwrap();
    tcsetwinsize(&screen, Winsize { ws_row: 24, ws_col: 60, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
    let name = ptsname(&screen, Vec::new()).unwrap();
    let line = File::options().write(true).open(Path::new(OsStr::from_bytes(name.as_bytes()))).unwrap();
    let mut command = demo(&["--once"]);
    let mut child = command.env("NO_COLOR", "1").stdout(line).spawn().unwrap();
    // Only the demo holds the terminal now, so that reading ends with it.
    drop(command);
    let (mut shown, mut bytes, mut screen) = (Vec::new(), [0; 4096], File::from(screen));
    while let Ok(count @ 1..) = screen.read(&mut bytes) {
        shown.extend_from_slice(&bytes[..count]);
    }
    assert!(child.wait().unwrap().success());
    let shown = String::from_utf8(shown).unwrap();
    assert!(shown.contains("All went as told."), "{shown}");
    for line in shown.lines() {
        assert!(line.chars().count() <= 60, "{line:?}\n{shown}");
    }
}

#[test]
fn the_demo_ends_with_its_terminal() {
    assert_eq!(Staying::start().end_with(Signal::HUP), (Some(0), String::new()));
}

#[test]
fn a_signal_in_the_middle_of_the_demo_is_no_failure_of_its_steps() {
    assert_eq!(Staying::started(&[], STEPS[2]).end_with(Signal::TERM), (Some(0), String::new()));
}

#[test]
fn once_says_that_a_signal_cut_it_short() {
    let demo = Staying::started(&["--once"], STEPS[2]);
    let (code, errors) = demo.end_with(Signal::TERM);
    assert_eq!(code, Some(1));
    assert_eq!(errors, "error: stopped by a signal before the demo was over\n");
}
