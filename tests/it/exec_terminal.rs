//! `exec` on a terminal: who gets what is typed, and what Ctrl-C and Ctrl-Z do.

use std::{
    fs::File,
    io::{Read, Write},
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::Path,
    process::{Child, Command, ExitStatus},
    sync::{Arc, Mutex},
    thread::JoinHandle,
};

use careportals_simulator::Simulator;
use rustix::{
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{OptionalActions, tcgetattr, tcsetattr},
};

use crate::harness::{PATIENCE, Setup, interrupts_are_ignored, simulator, within};

const CTRL_C: &str = "\x03";
const CTRL_Z: &str = "\x1a";

/// A program at a terminal of its own, on which a test types and at which it looks.
struct Screen {
    keyboard: File,
    session: Child,
    shown: Arc<Mutex<String>>,
    reader: JoinHandle<()>,
    /// What was waited for already.
    seen: usize,
    _setup: Setup,
}

impl Screen {
    /// Starts `words` as the first program of a session, which starts `exec` as `$EXEC`.
    fn open(simulator: &Simulator, words: &[&str]) -> Self {
        let mut setup = Setup::new(simulator);
        setup.without("CAREPORTALS_LOG");
        let keyboard = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&keyboard).unwrap();
        unlockpt(&keyboard).unwrap();
        let name = ptsname(&keyboard, Vec::new()).unwrap();
        let path = Path::new(std::ffi::OsStr::from_bytes(name.as_bytes()));
        let line: OwnedFd = File::options().read(true).write(true).open(path).unwrap().into();
        // What is typed would else be shown too, and be taken for an answer.
        let mut modes = tcgetattr(&line).unwrap();
        modes.local_modes.remove(rustix::termios::LocalModes::ECHO);
        tcsetattr(&line, OptionalActions::Now, &modes).unwrap();
        let exec = setup.command("exec");
        let mut command = Command::new("setsid");
        command.args(["--ctty", "--wait"]).args(words).current_dir(setup.dir.path());
        command.env_clear().envs(exec.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.env("EXEC", format!("{} exec --", exec.get_program().display())).env("PS1", "").env("ENV", "");
        let session = command.stdin(line.try_clone().unwrap()).stdout(line.try_clone().unwrap()).stderr(line).spawn().unwrap();
        // Only the session holds the terminal now, so that it ends with the session.
        drop(command);
        let shown = Arc::new(Mutex::new(String::new()));
        let (showing, mut screen) = (Arc::clone(&shown), File::from(keyboard.try_clone().unwrap()));
        let reader = std::thread::spawn(move || {
            let mut bytes = [0; 1024];
            // The end is an error: EIO.
            while let Ok(count @ 1..) = screen.read(&mut bytes) {
                showing.lock().unwrap().push_str(&String::from_utf8_lossy(&bytes[..count]));
            }
        });
        Self { keyboard: keyboard.into(), session, shown, reader, seen: 0, _setup: setup }
    }

    fn types(&mut self, text: &str) {
        self.keyboard.write_all(text.as_bytes()).unwrap();
    }

    /// Waits until `text` is shown after what was waited for before. Returns what stands between the two.
    #[track_caller]
    fn shows(&mut self, text: &str) -> String {
        let between = within(PATIENCE, || {
            let shown = self.shown.lock().unwrap();
            shown[self.seen..].find(text).map(|at| shown[self.seen..self.seen + at].to_owned())
        });
        let Some(between) = between else { panic!("waited until {text:?} is shown:\n{}", self.shown.lock().unwrap()) };
        self.seen += between.len() + text.len();
        between
    }

    /// Waits for the session's end. Returns what was shown in the meantime.
    fn ends(mut self) -> (ExitStatus, String) {
        let status = self.session.wait().unwrap();
        drop(self.keyboard);
        self.reader.join().unwrap();
        let shown = self.shown.lock().unwrap();
        (status, shown[self.seen..].to_owned())
    }
}

/// Tells each SIGINT, and ends with the terminal's input or with `q`.
const TELLS_INT: &str = "trap 'echo INT' INT; echo ready; while read line || [ $? -gt 128 ]; do echo \"got $line\"; \
                         [ \"$line\" = q ] && exit 7; done";

#[test]
fn what_is_typed_goes_to_the_program_and_ctrl_c_reaches_it_once() {
    if interrupts_are_ignored() {
        return;
    }
    let simulator = simulator();
    let mut screen =
        Screen::open(&simulator, &["sh", "-c", &format!("exec $EXEC bash -c '{}'", TELLS_INT.replace('\'', "'\\''"))]);
    screen.shows("ready");
    screen.types("hello\n");
    screen.shows("got hello");
    // The line makes `read` return, should the signal have come just before it.
    screen.types(CTRL_C);
    screen.types("x\n");
    screen.shows("INT");
    screen.shows("got x");
    screen.types("q\n");
    screen.shows("got q");
    let (status, rest) = screen.ends();
    assert_eq!(status.code(), Some(7), "{rest}");
    assert!(!rest.contains("INT"), "{rest}");
}

#[test]
fn ctrl_c_ends_a_program_that_does_nothing_about_it_and_the_script_that_called_us() {
    if interrupts_are_ignored() {
        return;
    }
    let simulator = simulator();
    let mut screen = Screen::open(&simulator, &["bash", "-c", "$EXEC sh -c 'echo ready; read _'; echo went on"]);
    screen.shows("ready");
    screen.types(CTRL_C);
    let (status, rest) = screen.ends();
    assert!(!rest.contains("went on") && !status.success(), "{status:?} {rest}");
}

#[test]
fn ctrl_c_leaves_the_rest_of_the_programs_group_time_to_clean_up() {
    if interrupts_are_ignored() {
        return;
    }
    let simulator = simulator();
    // A shell starts it with SIGINT ignored.
    let cleans_up = "trap 'sleep 0.5; echo cleaned; exit' TERM; echo ready; while :; do sleep 0.05; done";
    let mut screen = Screen::open(&simulator, &["sh", "-c", "$EXEC sh -c 'sh -c \"$0\" & read _' \"$0\"", cleans_up]);
    screen.shows("ready");
    screen.types(CTRL_C);
    let (status, rest) = screen.ends();
    assert!(rest.contains("cleaned") && !status.success(), "{status:?} {rest}");
}

#[test]
fn the_terminal_is_the_callers_again_when_the_program_has_ended() {
    if interrupts_are_ignored() {
        return;
    }
    let simulator = simulator();
    let mut screen =
        Screen::open(&simulator, &["sh", "-c", "$EXEC sh -c 'read a; echo \"program $a\"'; read b; echo \"script $b\""]);
    screen.types("one\ntwo\n");
    screen.shows("program one");
    screen.shows("script two");
    assert!(screen.ends().0.success());
}

#[test]
fn ctrl_z_stops_the_program_and_us_and_fg_has_both_go_on() {
    if interrupts_are_ignored() {
        return;
    }
    let simulator = simulator();
    // A shell with job control.
    let mut screen = Screen::open(&simulator, &["bash", "--norc", "--noprofile", "-i"]);
    screen.types("$EXEC sh -c 'echo rea\"\"dy; read a; echo \"got $a\"; exit 9'\n");
    screen.shows("ready");
    screen.types(CTRL_Z);
    screen.shows("Stopped");
    screen.types("echo the shell has it\n");
    screen.shows("the shell has it");
    screen.types("fg\n");
    screen.shows("$EXEC sh");
    screen.types("back\n");
    screen.shows("got back");
    screen.types("echo code $?\n");
    screen.shows("code 9");
    screen.types("exit\n");
    assert!(screen.ends().0.success());
}

#[test]
fn in_the_background_a_program_that_reads_is_stopped_and_leaves_the_terminal_alone() {
    if interrupts_are_ignored() {
        return;
    }
    let simulator = simulator();
    let mut screen = Screen::open(&simulator, &["bash", "--norc", "--noprofile", "-i"]);
    screen.types("$EXEC sh -c 'read a; echo \"got $a\"' &\n");
    // The shell tells before its next prompt: enter is such an occasion, however often.
    screen.types("until jobs | grep -q Stopped; do :; done; echo it is sto\"\"pped\n");
    screen.shows("it is stopped");
    screen.types("fg\n");
    screen.shows("$EXEC sh");
    screen.types("now\n");
    screen.shows("got now");
    screen.types("exit\n");
    assert!(screen.ends().0.success());
}

#[test]
fn in_a_pipeline_the_reader_keeps_the_terminal_until_the_program_asks_for_it() {
    if interrupts_are_ignored() {
        return;
    }
    let simulator = simulator();
    let script = "$EXEC sh -c 'echo ready; read a </dev/tty; echo \"asked $a\"' | { read line; echo \"pipe $line\"; cat; }";
    let mut screen = Screen::open(&simulator, &["sh", "-c", script]);
    screen.shows("pipe ready");
    screen.types("answer\n");
    screen.shows("asked answer");
    assert!(screen.ends().0.success());
}
