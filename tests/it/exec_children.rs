//! Processes that the sidecar starts or adopts: under `exec`, and as a container's first process. Each is waited for by whoever
//! started it, and an orphan by the sidecar.

use std::{path::Path, process::Command, time::Duration};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use crate::{
    exec::{Executing, child_of, ended_children, get, setup},
    harness::{PASSWORD, Setup, let_time_pass, now, revoke, simulator, until},
};

/// `exec` whose password comes from a command that runs `script`. With each line that its program reads, it leaves an orphan behind,
/// which says its process id and ends.
fn with_password_command(setup: Setup, script: &str) -> Executing {
    let program = "echo $CAREPORTALS_BASE_URL; while read _; do (sh -c 'echo $$; exit 9' &); done";
    Executing::start(password_command(setup, script), &["sh", "-c", program])
}

fn password_command(mut setup: Setup, script: &str) -> Setup {
    setup.without("CAREPORTALS_PASSWORD_FILE").account("relogin_floor", "100ms");
    setup.account("password", &format!(r#"{{ command = ["sh", "-c", "{script}"] }}"#));
    setup
}

#[test]
fn a_command_that_ends_before_those_who_hold_its_output_keeps_its_status() {
    let simulator = simulator();
    let mut run = with_password_command(setup(&simulator), &format!("echo {PASSWORD}; sleep 1.5 &"));
    let base = run.line();
    revoke(&simulator);
    let begun = now();
    assert_eq!(get(&base, "/users/account"), 200);
    assert!(begun.elapsed().as_millis() > 1200, "the command's output was held");
    let counts = simulator.control().counts();
    assert_eq!((counts.logins, counts.login_ok), (2, 2));
    until("nothing that has ended is left", || ended_children(run.pid()).is_empty());
    let (status, _, errors) = run.end();
    assert_eq!((status.code(), errors.as_str()), (Some(0), ""));
}

#[test]
fn an_orphan_is_reaped_while_a_command_that_has_ended_waits_for_those_who_hold_its_output() {
    let simulator = simulator();
    let held = setup(&simulator);
    let mark = held.dir.path().join("mark");
    let script = format!("while [ -e {} ]; do sleep 0.05; done & echo {PASSWORD}", mark.display());
    let mut run = with_password_command(held, &script);
    let base = run.line();
    std::fs::write(&mark, "").unwrap();
    revoke(&simulator);
    std::thread::scope(|scope| {
        let answer = scope.spawn(|| get(&base, "/users/account"));
        until("the command has ended", || ended_children(run.pid()).len() == 1);
        run.say("");
        let orphan = Pid::from_raw(run.line().parse().unwrap()).unwrap();
        until("the orphan is reaped", || test_kill_process(orphan).is_err());
        assert_eq!(ended_children(run.pid()).len(), 1, "the command's end is kept");
        std::fs::remove_file(&mark).unwrap();
        assert_eq!(answer.join().unwrap(), 200);
    });
    assert!(run.end().0.success());
}

#[test]
fn a_sidecar_with_nothing_to_do_sleeps_after_a_command_whose_output_was_held() {
    let simulator = simulator();
    // Nobody ends when the output is closed: no signal comes after that.
    let script = format!("(sleep 0.6; exec >&- 2>&-; exec sleep 4) & echo {PASSWORD}");
    let mut run = with_password_command(setup(&simulator), &script);
    let base = run.line();
    revoke(&simulator);
    assert_eq!(get(&base, "/users/account"), 200);
    let_time_pass("an end that nobody asks about would be looked for after a second", Duration::from_millis(700));
    let before = ticks(run.pid());
    let_time_pass("it has nothing to do", Duration::from_secs(1));
    let busy = ticks(run.pid()) - before;
    assert!(busy < 5, "it was busy for {busy} hundredths of a second");
    until("what held the output has ended", || children(run.pid()).split_whitespace().count() == 1);
    assert!(run.end().0.success());
}

/// The time that a process has computed, in hundredths of a second.
fn ticks(process: Pid) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    fields.split(' ').skip(11).take(2).map(|time| time.parse::<u64>().unwrap()).sum()
}

#[test]
fn an_orphan_that_a_real_time_signal_ended_is_reaped_and_hides_no_other() {
    let simulator = simulator();
    let script = "for i in 1 2 3; do (sh -c 'kill -37 $$' &); (setsid sh -c 'kill -37 $$' &); (setsid sh -c 'exit 3' &); done
        echo left; read _; exit 6";
    let mut run = Executing::start(setup(&simulator), &["bash", "-c", script]);
    assert_eq!(run.line(), "left");
    until("nothing that has ended is left", || ended_children(run.pid()).is_empty());
    run.say("");
    assert_eq!(run.end().0.code(), Some(6));
}

#[test]
fn as_a_containers_first_process_the_daemon_reaps_what_commands_leave_behind() {
    const UNSHARE: [&str; 4] = ["--pid", "--fork", "--kill-child=KILL", "--mount-proc"];
    let simulator = simulator();
    let allowed = Command::new("unshare").args(UNSHARE).arg("true").output().is_ok_and(|output| output.status.success());
    if !allowed {
        eprintln!("skipped: this user may not make a PID namespace");
        return;
    }
    let mut setup = Setup::new(&simulator);
    setup.without("CAREPORTALS_PASSWORD");
    // One orphan ends before the command does, one after it.
    let setup = password_command(setup, &format!("(sh -c 'exit 1' &); (sh -c 'exec >&- 2>&-; sleep 0.2' &); echo {PASSWORD}"));
    let run = setup.command("run");
    let mut command = Command::new("unshare");
    command.args(UNSHARE).arg(run.get_program()).args(run.get_args()).env_clear();
    command.envs(run.get_envs().filter_map(|(name, value)| Some((name, value?)))).current_dir(setup.dir.path());
    let sidecar = setup.start_with(command).ready();
    for logins in 2..=3 {
        revoke(&simulator);
        assert_eq!(sidecar.get("/users/account").status, 200);
        assert_eq!(simulator.control().counts().login_ok, logins);
    }
    let first = child_of(Pid::from_raw(i32::try_from(sidecar.pid()).unwrap()).unwrap());
    until("nothing is left of the commands", || children(first).is_empty());
    kill_process(first, Signal::TERM).unwrap();
}

/// The children of a process, whether they have ended or not.
fn children(parent: Pid) -> String {
    let threads = std::fs::read_dir(Path::new("/proc").join(parent.to_string()).join("task")).unwrap().filter_map(Result::ok);
    threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("children")).ok()).collect()
}

/// Cleans up for half a second when it is told to end.
const CLEANS_UP: &str = "trap 'sleep 0.5; echo cleaned; exit' TERM; echo $PPID; while :; do sleep 0.05; done";

#[test]
fn a_signal_for_a_program_that_has_just_ended_leaves_the_rest_of_its_group_time_to_clean_up() {
    let simulator = simulator();
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        let mut run = Executing::start(setup(&simulator), &["sh", "-c", "sh -c \"$0\" & read _", CLEANS_UP]);
        let program = Pid::from_raw(run.line().parse().unwrap()).unwrap();
        kill_process(program, Signal::KILL).unwrap();
        until("the program is gone", || test_kill_process(program).is_err());
        run.signal(signal);
        let (status, rest, errors) = run.wait();
        assert_eq!((status.code(), rest), (Some(137), vec!["cleaned".to_owned()]), "{signal:?} {errors}");
    }
}

#[test]
fn signals_for_a_program_that_has_ended_end_the_wait_for_the_rest_of_its_group() {
    let simulator = simulator();
    let mut setup = setup(&simulator);
    setup.global("drain_timeout", "10m");
    let stubborn = "trap '' TERM; echo $PPID $$; exec sleep 60";
    let mut run = Executing::start(setup, &["sh", "-c", "sh -c \"$0\" & read _; exit 5", stubborn]);
    let [program, left] = [0, 1].map({
        let line = run.line();
        move |at| Pid::from_raw(line.split(' ').nth(at).unwrap().parse().unwrap()).unwrap()
    });
    run.say("");
    until("the program has ended", || test_kill_process(program).is_err());
    until("it has ended, since somebody would not wait", || {
        run.signal(Signal::TERM);
        run.has_ended()
    });
    assert_eq!(run.wait().0.code(), Some(5));
    assert!(test_kill_process(left).is_err());
}
