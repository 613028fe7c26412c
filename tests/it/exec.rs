//! `exec`: the daemon around one program.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::process::ExitStatusExt,
    path::Path,
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    sync::mpsc::{Receiver, channel},
    thread::JoinHandle,
};

use careportals_simulator::{LoginFault, Simulator};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use crate::harness::{
    Connection, ORGANIZATION, PASSWORD, PATIENCE, Request, Setup, USERNAME, interrupts_are_ignored, now, program_file, simulator,
    until, with_signals_blocked,
};

/// The environment of a laptop: credentials and an upstream, and everything else at `exec`'s own defaults.
pub(super) fn setup(simulator: &Simulator) -> Setup {
    let mut setup = Setup::new(simulator);
    for name in ["LISTEN", "TELEMETRY_LISTEN", "CONTROL_SOCKET", "LOG", "LOG_FORMAT"] {
        setup.without(&format!("CAREPORTALS_{name}"));
    }
    // It names the setting that it warns about, and that warning is not what is tested.
    let password = setup.file("password", PASSWORD);
    setup.without("CAREPORTALS_PASSWORD").variable("CAREPORTALS_PASSWORD_FILE", password.to_str().unwrap());
    setup
}

/// Runs `exec OPTIONS -- WORDS` to its end.
fn executed(setup: &Setup, options: &[&str], words: &[&str]) -> (Option<i32>, String, String) {
    let mut command = setup.command("exec");
    let output = command.args(options).arg("--").args(words).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// A running `exec` whose program is fed and listened to. The program ends when its standard input does.
pub(super) struct Executing {
    sidecar: Child,
    input: Option<ChildStdin>,
    lines: Receiver<String>,
    errors: Option<JoinHandle<String>>,
    _setup: Setup,
}

impl Executing {
    pub(super) fn start(setup: Setup, words: &[&str]) -> Self {
        let mut command = setup.command("exec");
        command.arg("--").args(words);
        Self::spawn(&mut command, setup)
    }

    fn spawn(command: &mut Command, setup: Setup) -> Self {
        let mut sidecar = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (line, lines) = channel();
        let stdout = BufReader::new(sidecar.stdout.take().unwrap());
        std::thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|text| line.send(text)));
        let mut stderr = sidecar.stderr.take().unwrap();
        let errors = std::thread::spawn(move || {
            let mut text = String::new();
            stderr.read_to_string(&mut text).unwrap();
            text
        });
        Self { input: sidecar.stdin.take(), sidecar, lines, errors: Some(errors), _setup: setup }
    }

    /// Waits for the next line that the program writes.
    pub(super) fn line(&mut self) -> String {
        self.lines.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("no line"))
    }

    pub(super) fn say(&mut self, line: &str) {
        writeln!(self.input.as_mut().unwrap(), "{line}").unwrap();
    }

    pub(super) fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    pub(super) fn pid(&self) -> Pid {
        Pid::from_child(&self.sidecar)
    }

    /// Ends the program's input, and waits for both. Returns what was written meanwhile, and what to standard error.
    pub(super) fn end(mut self) -> (ExitStatus, Vec<String>, String) {
        drop(self.input.take());
        self.wait()
    }

    pub(super) fn has_ended(&mut self) -> bool {
        self.sidecar.try_wait().unwrap().is_some()
    }

    pub(super) fn wait(&mut self) -> (ExitStatus, Vec<String>, String) {
        // The lines end when every process that could write has ended.
        let mut rest = Vec::new();
        while let Ok(line) = self.lines.recv_timeout(PATIENCE) {
            rest.push(line);
        }
        let errors = self.errors.take().unwrap().join().unwrap();
        (self.sidecar.wait().unwrap(), rest, errors)
    }
}

impl Drop for Executing {
    fn drop(&mut self) {
        drop(self.input.take());
        let _ = self.sidecar.kill();
        let _ = self.sidecar.wait();
    }
}

pub(super) fn get(base: &str, target: &str) -> u16 {
    let address: SocketAddr = base.strip_prefix("http://").unwrap().parse().unwrap();
    Connection::tcp(TcpStream::connect(address).unwrap()).send(&Request::get(target)).status
}

/// A script that tells its signals, and ends with 7 when its input ends.
///
/// It waits for a `cat` that ignores them: unlike `read`, `wait` is woken by a signal however close it comes.
fn tells(who: &str, signals: &str) -> String {
    format!(
        "exec 3<&0; trap '' {signals}; cat <&3 >/dev/null &
        for s in {signals}; do trap \"echo {who}$s\" $s; done
        echo {who}ready; while wait $!; [ $? -gt 128 ]; do :; done; exit 7"
    )
}

#[test]
fn the_program_calls_the_api_at_the_base_url_that_it_is_given() {
    let simulator = simulator();
    let mut run = Executing::start(setup(&simulator), &["sh", "-c", "echo $CAREPORTALS_BASE_URL; read _; exit 3"]);
    let base = run.line();
    assert!(base.starts_with("http://127.0.0.1:"), "{base}");
    // It was started with the token at hand.
    assert_eq!(simulator.control().counts().logins, 1);
    assert_eq!(get(&base, "/users/account"), 200);
    run.say("");
    let (status, rest, errors) = run.end();
    assert_eq!((status.code(), rest), (Some(3), vec![]));
    assert_eq!(errors, "", "nothing is wrong, so nothing is said");
}

#[test]
fn several_programs_at_once_do_not_disturb_each_other() {
    let simulator = simulator();
    let start = || Executing::start(setup(&simulator), &["sh", "-c", "echo $CAREPORTALS_BASE_URL; read _; exit 0"]);
    let (mut first, mut second) = (start(), start());
    assert_ne!(first.line(), second.line());
    assert!(second.end().0.success());
    assert!(first.end().0.success());
}

#[test]
fn each_api_has_an_address_and_a_variable_of_its_own() {
    let simulator = simulator();
    let mut setup = setup(&simulator);
    let url = simulator.base_url();
    for name in ["ORGANIZATION", "USERNAME", "PASSWORD_FILE", "UPSTREAM"] {
        setup.without(&format!("CAREPORTALS_{name}"));
    }
    setup.settings(&format!(
        r#"
        [accounts.default]
        organization = "{ORGANIZATION}"
        username = "{USERNAME}"
        password = {{ file = "{}" }}
        login_url = "{url}/patient/auth"
        [apis.crm]
        upstream = "{url}"
        [apis.emr-eu]
        upstream = "{url}"
        [apis.local]
        upstream = "{url}"
        listen = ["unix:{}"]
        "#,
        setup.dir.path().join("password").display(),
        setup.dir.path().join("s.sock").display(),
    ));
    // One that was inherited would lead to somebody else.
    setup.variable("CAREPORTALS_BASE_URL", "http://127.0.0.1:1").variable("CAREPORTALS_LOCAL_BASE_URL", "http://127.0.0.1:1");
    let script = "echo $CAREPORTALS_CRM_BASE_URL; echo $CAREPORTALS_EMR_EU_BASE_URL
        echo ${CAREPORTALS_BASE_URL-none} ${CAREPORTALS_LOCAL_BASE_URL-none}; read _";
    let mut run = Executing::start(setup, &["sh", "-c", script]);
    let (crm, emr) = (run.line(), run.line());
    assert_ne!(crm, emr);
    assert_eq!(run.line(), "none none");
    assert_eq!((get(&crm, "/users/account"), get(&emr, "/users/account")), (200, 200));
    let (_, _, errors) = run.end();
    assert!(errors.contains("local") && errors.contains("no TCP address"), "{errors}");
    assert!(!errors.contains("_BASE_URL"), "its own variables are no mistake: {errors}");
}

#[test]
fn a_configured_address_is_kept() {
    let simulator = simulator();
    let mut setup = setup(&simulator);
    setup.variable("CAREPORTALS_LISTEN", "[::1]:0");
    let mut run = Executing::start(setup, &["sh", "-c", "echo $CAREPORTALS_BASE_URL; read _; exit 0"]);
    let base = run.line();
    assert!(base.starts_with("http://[::1]:"), "{base}");
    assert_eq!(get(&base, "/users/account"), 200);
}

#[test]
fn the_programs_exit_code_and_output_are_passed_on() {
    let simulator = simulator();
    let setup = setup(&simulator);
    for code in [0, 1, 42, 255] {
        let said = executed(&setup, &[], &["sh", "-c", &format!("echo out; echo err >&2; exit {code}")]);
        assert_eq!(said, (Some(code), "out\n".to_owned(), "err\n".to_owned()));
    }
    // Options are its own.
    assert_eq!(executed(&setup, &[], &["echo", "--wait", "--", "-x"]).1, "--wait -- -x\n");
}

#[test]
fn a_program_that_a_signal_ended_gives_128_and_the_signal() {
    let simulator = simulator();
    let setup = setup(&simulator);
    for (signal, code) in [("TERM", 143), ("KILL", 137), ("INT", 130), ("SEGV", 139)] {
        let (status, _, errors) = executed(&setup, &[], &["sh", "-c", &format!("kill -{signal} $$; read _")]);
        assert_eq!((status, errors.as_str()), (Some(code), ""), "{signal}");
    }
}

#[test]
fn a_program_that_is_not_there_is_127_one_that_cannot_run_126_and_none_at_all_2() {
    let simulator = simulator();
    let setup = setup(&simulator);
    let plain = setup.file("plain", "not a program");
    for (words, code, said) in
        [(vec!["no-such-program"], 127, "no-such-program: not found"), (vec![plain.to_str().unwrap()], 126, "ermission denied")]
    {
        let (status, _, errors) = executed(&setup, &[], &words);
        assert_eq!(status, Some(code), "{errors}");
        assert!(errors.contains(said), "{errors}");
    }
    assert_eq!(executed(&setup, &[], &[]).0, Some(2));
    assert_eq!(setup.output_of(&["exec", "true"]).code, Some(2), "without `--`");
    assert_eq!(executed(&setup, &["--wait", "soon"], &["true"]).0, Some(2));
    let mut faulty = setup;
    faulty.variable("CAREPORTALS_UPSTREAM", "ftp://nowhere");
    assert_eq!(executed(&faulty, &[], &["true"]).0, Some(78));
}

#[test]
fn without_a_token_in_time_the_program_is_not_started_and_the_reason_is_told() {
    let simulator = simulator();
    let setup = setup(&simulator);
    let mark = setup.dir.path().join("started");
    simulator.control().set_login_fault(Some(LoginFault::Status(503)));
    let (code, _, errors) = executed(&setup, &["--wait", "300ms"], &["touch", mark.to_str().unwrap()]);
    assert_eq!(code, Some(1), "{errors}");
    let told = format!(
        "no token within 300 ms, so the program was not started\n  account default, log-in at {}/patient/auth (backing_off): the \
         server failed the log-in with status 503\n    hint: ",
        simulator.base_url()
    );
    assert!(errors.contains(&told), "{errors}");
    assert!(!errors.contains(PASSWORD) && !errors.contains(USERNAME) && !mark.exists(), "{errors}");
}

#[test]
fn a_rejected_log_in_ends_exec_at_once_whatever_other_accounts_wait_for() {
    let (simulator, hanging) = (simulator(), simulator());
    hanging.control().set_login_fault(Some(LoginFault::Hang));
    simulator.control().set_login_fault(Some(LoginFault::Status(401)));
    let mut setup = setup(&simulator);
    for name in ["ORGANIZATION", "USERNAME", "PASSWORD_FILE", "UPSTREAM"] {
        setup.without(&format!("CAREPORTALS_{name}"));
    }
    setup.trust(&format!("{}{}", simulator.ca_pem(), hanging.ca_pem()));
    let (mut settings, mark) = (String::new(), setup.dir.path().join("started"));
    for (name, server) in [("a", &hanging), ("b", &simulator)] {
        let (url, password) = (server.base_url(), setup.dir.path().join("password"));
        settings += &format!(
            "[accounts.{name}]\norganization = \"{ORGANIZATION}\"\nusername = \"{USERNAME}\"\npassword = {{ file = {password:?} }}\n\
             login_url = \"{url}/patient/auth\"\nlogin_timeout = \"5m\"\n[apis.{name}]\naccount = \"{name}\"\nupstream = \"{url}\"\n",
        );
    }
    setup.settings(&settings);
    let begun = now();
    let (code, _, errors) = executed(&setup, &["--wait", "10m"], &["touch", mark.to_str().unwrap()]);
    assert!(begun.elapsed() < PATIENCE, "{errors}");
    assert_eq!(code, Some(1), "{errors}");
    let [a, b] = [&hanging, &simulator].map(|server| format!("log-in at {}/patient/auth", server.base_url()));
    for told in [
        format!(
            "error: the log-in was rejected, so the program was not started\n  account a, {a} (logging_in): no answer to the"
        ),
        format!(
            "  account b, {b} (rejected): the server refused the log-in with status 401\n    hint: correct user name, password"
        ),
    ] {
        assert!(errors.contains(&told), "{errors}");
    }
    let (_, told_last) = errors.split_once("error: ").unwrap();
    assert!(!told_last.contains("careportals-sidecar login"), "there is no daemon any more: {errors}");
    assert!(!mark.exists());
}

#[test]
fn exec_without_the_two_dashes_says_where_they_go() {
    let setup = Setup::empty();
    for (words, hint) in [
        (&["exec", "curl", "-H", "x: secret"][..], "exec -- curl …"),
        (&["exec", "--wait", "5s", "curl", "--", "x"], "exec --wait 5s -- curl …"),
        (&["--log", "debug", "exec", "curl"], "exec --log debug -- curl …"),
    ] {
        let output = setup.output_of(words);
        assert_eq!((output.code, output.stdout.as_str()), (Some(2), ""), "{output:?}");
        let told =
            format!("error: `curl` is no option of `exec`\n  hint: the program stands after `--`: careportals-sidecar {hint}\n");
        assert_eq!(output.stderr, told);
    }
    let output = setup.output_of(&["exec", "--wiat", "5s", "curl"]);
    assert!(output.stderr.contains("--wiat") && !output.stderr.contains("stands after"), "{output:?}");
}

#[test]
fn the_program_is_started_as_soon_as_a_log_in_succeeds_and_at_once_when_nothing_is_waited_for() {
    let simulator = simulator();
    let setup = setup(&simulator);
    simulator.control().set_login_fault(Some(LoginFault::Status(503)));
    assert_eq!(executed(&setup, &["--wait", "0s"], &["echo", "started"]).1, "started\n");
    let mut run = Executing::start(setup, &["echo", "started"]);
    until("at least two log-ins have begun", || simulator.control().counts().logins >= 2);
    simulator.control().set_login_fault(None);
    assert_eq!(run.line(), "started");
}

#[test]
fn an_account_without_log_in_is_not_waited_for() {
    let simulator = simulator();
    let mut setup = setup(&simulator);
    setup.variable("CAREPORTALS_LOGIN_URL", "off");
    assert_eq!(executed(&setup, &[], &["echo", "started"]).1, "started\n");
    assert_eq!(simulator.control().counts().logins, 0);
}

#[test]
fn a_signal_ends_the_wait_for_a_token() {
    let simulator = simulator();
    simulator.control().set_login_fault(Some(LoginFault::Status(503)));
    let mut run = Executing::start(setup(&simulator), &["echo", "started"]);
    until("a log-in has begun", || simulator.control().counts().logins >= 1);
    run.signal(Signal::INT);
    let (status, lines, _) = run.wait();
    assert_eq!((status.code(), lines), (Some(130), vec![]));
}

#[test]
fn no_variable_that_holds_a_secret_or_leads_to_one_reaches_the_program() {
    let simulator = simulator();
    let mut setup = setup(&simulator);
    let passwords =
        ["password-canary", "file-canary", "env-canary", "header-canary", "extra-canary", "proxy-canary", "dir-canary"];
    setup
        .without("CAREPORTALS_PASSWORD_FILE")
        .variable("CAREPORTALS_PASSWORD", "password-canary")
        .variable("COPY_OF_IT", "password-canary")
        .variable("USERNAME_OF_IT", "env-canary")
        .without("CAREPORTALS_USERNAME")
        .variable("CAREPORTALS__ACCOUNTS__DEFAULT__USERNAME__ENV", "USERNAME_OF_IT")
        .api("headers", "{ x-key = \"header-canary\" }")
        .account("login_extra", "{ key = \"extra-canary\" }")
        .variable("HTTPS_PROXY", "http://user:proxy-canary@127.0.0.1:9")
        .variable("CREDENTIALS_DIRECTORY", "/dir-canary")
        .variable("OF_THE_APP", "kept")
        .variable("http_proxy", "http://127.0.0.1:9");
    let (code, environment, errors) = executed(&setup, &["--wait", "0s"], &["env"]);
    assert_eq!(code, Some(0), "{errors}");
    for canary in passwords.iter().chain([&ORGANIZATION]) {
        assert!(!environment.lines().any(|line| line.ends_with(canary) || line.contains("canary")), "{canary}\n{environment}");
    }
    for name in ["CAREPORTALS_CONFIG", "CAREPORTALS_ORGANIZATION", "HTTPS_PROXY", "CREDENTIALS_DIRECTORY"] {
        assert!(!environment.lines().any(|line| line.starts_with(&format!("{name}="))), "{name}\n{environment}");
    }
    assert!(errors.contains("HTTPS_PROXY") && errors.contains("not passed on"), "{errors}");
    for line in ["OF_THE_APP=kept", "PATH=/usr/bin:/bin", "http_proxy=http://127.0.0.1:9", "no_proxy=localhost,127.0.0.1,::1"] {
        assert!(environment.lines().any(|known| known == line), "{line}\n{environment}");
    }
}

#[test]
fn signals_reach_the_program_once_and_it_is_served_until_it_ends() {
    let simulator = simulator();
    let tells = tells("", "HUP INT QUIT TERM USR1 USR2 WINCH");
    let setup = setup(&simulator);
    // A flag before the command must not make it the daemon's.
    let mut command = setup.command("--log");
    command.args(["info", "exec", "--", "sh", "-c", &format!("echo $CAREPORTALS_BASE_URL; {tells}")]);
    let mut run = Executing::spawn(&mut command, setup);
    let base = run.line();
    assert_eq!(run.line(), "ready");
    for (signal, name) in [
        (Signal::TERM, "TERM"),
        (Signal::TERM, "TERM"),
        (Signal::INT, "INT"),
        (Signal::INT, "INT"),
        (Signal::HUP, "HUP"),
        (Signal::QUIT, "QUIT"),
        (Signal::USR1, "USR1"),
        (Signal::USR2, "USR2"),
        (Signal::WINCH, "WINCH"),
    ] {
        run.signal(signal);
        assert_eq!(run.line(), name);
    }
    // Neither has a second SIGTERM ended us, nor SIGUSR1 logged out, nor SIGHUP done anything.
    assert_eq!(get(&base, "/users/account"), 200);
    assert_eq!(simulator.control().counts().logins, 1);
    let (status, rest, _) = run.end();
    assert_eq!((status.code(), rest), (Some(7), vec![]), "a signal came twice");
}

#[test]
fn what_ends_a_program_goes_to_its_whole_group_and_what_only_it_understands_to_itself_alone() {
    let simulator = simulator();
    let outer = format!("exec 4<&0; sh -c \"$0\" <&4 & {}", tells("outer ", "TERM USR1"));
    let mut run = Executing::start(setup(&simulator), &["sh", "-c", &outer, &tells("inner ", "TERM USR1")]);
    let mut both = [run.line(), run.line()];
    both.sort();
    assert_eq!(both, ["inner ready", "outer ready"]);
    run.signal(Signal::TERM);
    both = [run.line(), run.line()];
    both.sort();
    assert_eq!(both, ["inner TERM", "outer TERM"]);
    run.signal(Signal::USR1);
    assert_eq!(run.line(), "outer USR1");
    // What is left of the group when the program ends is sent a SIGTERM of its own.
    let (_, rest, _) = run.end();
    assert!(rest.iter().all(|line| line == "inner TERM"), "{rest:?}");
}

#[test]
fn a_signal_that_was_ignored_from_the_start_stays_ignored() {
    if interrupts_are_ignored() {
        return;
    }
    let simulator = simulator();
    let setup = setup(&simulator);
    let exec = setup.command("exec");
    // A shell that ignores SIGHUP, as nohup does, and then becomes the sidecar.
    let mut shell = Command::new("sh");
    shell.env_clear().envs(exec.get_envs().filter_map(|(name, value)| Some((name, value?))));
    shell.current_dir(setup.dir.path()).args(["-c", "trap '' HUP; exec \"$0\" \"$@\""]).arg(exec.get_program());
    shell.args(["exec", "--", "sh", "-c", "kill -HUP $PPID; kill -HUP $$; echo alive"]);
    let mut run = Executing::spawn(&mut shell, setup);
    assert_eq!(run.line(), "alive");
    assert!(run.end().0.success());
}

#[test]
fn signals_that_were_blocked_from_the_start_are_blocked_for_the_program_alone() {
    let simulator = simulator();
    // A shell might change the mask. The sidecar is told of the program's end by SIGCHLD.
    let program = ["grep", "SigBlk", "/proc/self/status"];
    let mut run = with_signals_blocked(|| Executing::start(setup(&simulator), &program));
    let blocked = run.line();
    let mask = u64::from_str_radix(blocked.split_whitespace().last().unwrap(), 16).unwrap();
    for signal in [Signal::TERM, Signal::INT, Signal::HUP, Signal::CHILD, Signal::USR1] {
        // The `env` that restores SIGINT unblocks it too.
        let is_restored = signal == Signal::INT && interrupts_are_ignored();
        assert!(is_restored || mask & (1 << (signal.as_raw() - 1)) != 0, "{signal:?}: {blocked}");
    }
    assert_eq!(run.end().0.code(), Some(0));
    // A signal reaches the sidecar, which passes it on.
    let script = "import signal as s; s.pthread_sigmask(s.SIG_SETMASK, []); print('up', flush=True); s.pause()";
    let mut run = with_signals_blocked(|| Executing::start(setup(&simulator), &["python3", "-c", script]));
    assert_eq!(run.line(), "up");
    run.signal(Signal::TERM);
    assert_eq!(run.end().0.code(), Some(128 + 15));
}

#[test]
fn what_the_program_leaves_behind_is_reaped_when_it_ends_and_the_programs_own_status_is_kept() {
    let simulator = simulator();
    // In the program's group, in a session of its own, and in a group of its own as a shell with job control makes it.
    let script = "for i in 1 2 3 4 5; do (sh -c 'exit 3' &); (setsid sh -c 'exit 3' &); (set -m; sh -c 'exit 3' &); done
        echo left; read _; exit 6";
    let mut run = Executing::start(setup(&simulator), &["bash", "-c", script]);
    assert_eq!(run.line(), "left");
    until("nothing that has ended is left", || ended_children(run.pid()).is_empty());
    run.say("");
    assert_eq!(run.end().0.code(), Some(6));
}

/// `exec` in a PID namespace of its own: its session and its group are led by processes outside, which have no number inside.
/// `None` where this user may not make one.
fn in_a_pid_namespace(setup: &Setup) -> Option<Command> {
    const UNSHARE: [&str; 3] = ["--pid", "--fork", "--mount-proc"];
    let allowed = Command::new("unshare").args(UNSHARE).arg("true").output().is_ok_and(|output| output.status.success());
    let exec = setup.command("exec");
    let mut command = Command::new("unshare");
    command.args(UNSHARE).arg(exec.get_program()).args(exec.get_args()).env_clear();
    command.envs(exec.get_envs().filter_map(|(name, value)| Some((name, value?)))).current_dir(setup.dir.path());
    allowed.then_some(command)
}

#[test]
fn orphans_are_reaped_where_our_session_is_led_from_outside_our_pid_namespace() {
    let simulator = simulator();
    let setup = setup(&simulator);
    let Some(mut command) = in_a_pid_namespace(&setup) else {
        eprintln!("skipped: this user may not make a PID namespace");
        return;
    };
    // Inside, `ps` and the like see only what runs inside.
    let ended = "grep -l '^State:.Z' /proc/[0-9]*/status 2>/dev/null | wc -l";
    let script = format!(
        "for i in 1 2 3; do (sh -c 'exit 3' &); (setsid sh -c 'exit 3' &); done
        while [ $({ended}) != 0 ]; do sleep 0.05; done; echo reaped; read _; exit 6"
    );
    command.args(["--", "bash", "-c", &script]);
    let mut run = Executing::spawn(&mut command, setup);
    assert_eq!(run.line(), "reaped");
    run.say("");
    let (status, _, errors) = run.end();
    assert_eq!(status.code(), Some(6), "{errors}");
}

/// The kernel drops a signal to a container's first process that has no handler for it.
#[test]
fn a_containers_first_process_that_is_told_to_stop_while_it_reads_its_settings_stops() {
    let simulator = simulator();
    let mut setup = setup(&simulator);
    let settings = setup.dir.path().join("pipe.toml");
    rustix::fs::mkfifoat(rustix::fs::CWD, &settings, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR).unwrap();
    setup.variable("CAREPORTALS_CONFIG", settings.to_str().unwrap());
    let Some(mut command) = in_a_pid_namespace(&setup) else {
        eprintln!("skipped: this user may not make a PID namespace");
        return;
    };
    command.args(["--", "sh", "-c", "trap 'exit 7' TERM; read _ & wait; exit 8"]);
    let run = Executing::spawn(&mut command, setup);
    // It opens when the other side reads.
    let mut written = std::fs::OpenOptions::new().write(true).open(&settings).unwrap();
    let first = child_of(run.pid());
    kill_process(first, Signal::TERM).unwrap();
    written.write_all(b"\n").unwrap();
    drop(written);
    let (status, _, errors) = run.end();
    assert!(matches!(status.code(), Some(1 | 7 | 143)), "{status:?}: {errors}");
}

/// The only child of a process.
pub(super) fn child_of(parent: Pid) -> Pid {
    let processes = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let stats = processes.filter_map(|process| std::fs::read_to_string(process.path().join("stat")).ok());
    let of_parent = |stat: &String| {
        stat.rsplit_once(')').is_some_and(|(_, rest)| rest[3..].starts_with(&format!("{} ", parent.as_raw_pid())))
    };
    let stat = stats.into_iter().find(of_parent).expect("it has a child");
    Pid::from_raw(stat.split(' ').next().unwrap().parse().unwrap()).unwrap()
}

#[test]
fn a_program_that_leaves_processes_behind_all_the_time_keeps_its_status() {
    let simulator = simulator();
    for code in 1..=5 {
        let script = format!("for i in $(seq 40); do (sh -c 'exit 9' &) ; (setsid sh -c 'exit 8' &) ; done; exit {code}");
        let (status, _, errors) = executed(&setup(&simulator), &[], &["sh", "-c", &script]);
        assert_eq!(status, Some(code), "{errors}");
    }
}

#[test]
fn a_command_that_gives_a_secret_keeps_its_status_while_orphans_are_reaped() {
    let simulator = simulator();
    let mut setup = setup(&simulator);
    setup.without("CAREPORTALS_PASSWORD_FILE").account("relogin_floor", "100ms");
    setup.account("password", &format!(r#"{{ command = ["sh", "-c", "(sh -c 'exit 1' &); sleep 0.1; echo {PASSWORD}"] }}"#));
    let script = "echo $CAREPORTALS_BASE_URL; while read _; do (sh -c 'exit 9' &); echo on; done";
    let mut run = Executing::start(setup, &["sh", "-c", script]);
    let base = run.line();
    for logins in 2..=4 {
        crate::harness::revoke(&simulator);
        run.say("");
        assert_eq!(get(&base, "/users/account"), 200);
        assert_eq!(simulator.control().counts().login_ok, logins);
        assert_eq!(run.line(), "on");
    }
    until("nothing that has ended is left", || ended_children(run.pid()).is_empty());
    assert!(run.end().0.success());
}

/// The children of a process that have ended and were not reaped.
pub(super) fn ended_children(parent: Pid) -> Vec<String> {
    let processes = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let stats = processes.filter_map(|process| std::fs::read_to_string(process.path().join("stat")).ok());
    let wanted = format!(" Z {} ", parent.as_raw_pid());
    stats.filter(|stat| stat.rsplit_once(')').is_some_and(|(_, rest)| rest.starts_with(&wanted))).collect()
}

#[test]
fn what_the_program_leaves_in_its_group_ends_with_it() {
    let simulator = simulator();
    // One that goes when asked and one that does not; both are orphans when the program ends.
    for (name, trap) in [("obedient", ":"), ("stubborn", "trap '' TERM")] {
        let left = format!("{trap}; echo $$; exec sleep 60");
        let script = "sh -c \"$0\" & read _; exit 5";
        let mut setup = setup(&simulator);
        setup.global("drain_timeout", "300ms");
        let mut run = Executing::start(setup, &["sh", "-c", script, &left]);
        let orphan = Pid::from_raw(run.line().parse().unwrap()).unwrap();
        test_kill_process(orphan).unwrap();
        run.say("");
        // Nothing but us ends what is left.
        let (status, _, errors) = run.wait();
        assert_eq!(status.code(), Some(5), "{name}");
        assert!(test_kill_process(orphan).is_err(), "{name} is still there");
        assert_eq!(errors.contains("killed"), name == "stubborn", "{name}: {errors}");
    }
}

#[test]
fn a_stopped_program_goes_on_when_the_sidecar_is_told_to() {
    let simulator = simulator();
    let mut run = Executing::start(setup(&simulator), &["sh", "-c", "echo $$; while read line; do echo $line; done; exit 7"]);
    let program: i32 = run.line().parse().unwrap();
    run.signal(Signal::TSTP);
    wait_for_state(program, 'T');
    run.signal(Signal::CONT);
    run.say("awake");
    assert_eq!(run.line(), "awake");
    assert_eq!(run.end().0.code(), Some(7));
}

/// Waits until a process is in a state, as `/proc` shows it.
fn wait_for_state(pid: i32, state: char) {
    until(&format!("process {pid} is in state {state}"), || {
        let stat = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat")).unwrap();
        stat.rsplit_once(") ").unwrap().1.starts_with(state)
    });
}

#[test]
fn logs_go_to_standard_error_and_tell_only_what_is_wrong_unless_asked_for_more() {
    let simulator = simulator();
    let mut setup = setup(&simulator);
    setup.variable("CAREPORTALS_LOG", "info");
    let (code, out, errors) = executed(&setup, &[], &["echo", "out"]);
    assert_eq!((code, out.as_str()), (Some(0), "out\n"));
    assert!(errors.contains("\"listening\"") && errors.contains("\"stopped\""), "{errors}");
}

#[test]
fn the_sidecar_itself_ends_by_exit_and_not_by_signal() {
    let simulator = simulator();
    let mut run = Executing::start(setup(&simulator), &["sh", "-c", "echo $$; read _"]);
    let program = Pid::from_raw(run.line().parse().unwrap()).unwrap();
    kill_process(program, Signal::KILL).unwrap();
    let (status, _, _) = run.wait();
    assert_eq!((status.code(), status.signal()), (Some(137), None));
}

#[test]
fn a_reload_under_exec_fails_and_says_why() {
    let simulator = simulator();
    let mut setup = setup(&simulator);
    let socket = setup.control_socket();
    setup.variable("CAREPORTALS_CONTROL_SOCKET", socket.to_str().unwrap());
    let (status, _, errors) = executed(&setup, &[], &[program_file().to_str().unwrap(), "reload"]);
    assert_eq!(status, Some(1), "{errors}");
    assert!(errors.contains("this daemon keeps the settings of its start: under `exec` they are not read again"), "{errors}");
}

#[test]
fn of_signals_that_were_ignored_from_the_start_the_program_gets_only_three_as_their_default() {
    let simulator = simulator();
    let setup = setup(&simulator);
    let exec = setup.command("exec");
    let mut command = Command::new("sh");
    command
        .args(["-c", r#"trap '' HUP XFSZ ALRM PIPE CHLD CONT; exec "$@""#, "sh"])
        .arg(exec.get_program())
        .args(exec.get_args());
    command.env_clear().envs(exec.get_envs().filter_map(|(name, value)| Some((name, value?)))).current_dir(setup.dir.path());
    let output = command.args(["--", "grep", "SigIgn", "/proc/self/status"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let mask = u64::from_str_radix(text.trim_start_matches("SigIgn:").trim(), 16).unwrap();
    let is_ignored = |signal: Signal| mask & 1 << (signal.as_raw() - 1) != 0;
    let expected = [Signal::HUP, Signal::XFSZ, Signal::ALARM].map(|signal| (signal, true)).into_iter();
    for (signal, expected) in expected.chain([Signal::PIPE, Signal::CHILD, Signal::CONT].map(|signal| (signal, false))) {
        assert_eq!(is_ignored(signal), expected, "{signal:?}: {text}");
    }
}
