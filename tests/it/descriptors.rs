//! How many files and sockets the daemon may open: what it does with the limit, and what happens when it is low.

use std::{
    fs,
    net::TcpStream,
    process::{Command, Stdio},
    time::Duration,
};

use rustix::process::Signal;

use crate::harness::{PASSWORD, Request, Setup, Sidecar, now, simulator, until};

const PROMPTLY: Duration = Duration::from_secs(5);

/// The program with a soft and a hard limit of descriptors.
fn limited(setup: &Setup, arguments: &[&str], (soft, hard): (u64, u64)) -> Command {
    let program = setup.command(arguments[0]);
    let mut command = Command::new("/bin/sh");
    command.arg("-c").arg(format!("ulimit -Sn {soft} && ulimit -Hn {hard} && exec \"$0\" \"$@\""));
    command.arg(program.get_program()).args(program.get_args()).args(&arguments[1..]);
    let variables = program.get_envs().filter_map(|(name, value)| Some((name, value?)));
    command.env_clear().envs(variables).current_dir(setup.dir.path()).stdin(Stdio::null());
    command
}

fn start(setup: Setup, limits: (u64, u64)) -> Sidecar {
    let command = limited(&setup, &["run"], limits);
    setup.start_with(command)
}

/// The soft and the hard limit of a running daemon.
fn limits_of(sidecar: &Sidecar) -> (u64, u64) {
    let limits = fs::read_to_string(format!("/proc/{}/limits", sidecar.pid())).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let mut numbers = line.split_whitespace().filter_map(|word| word.parse().ok());
    (numbers.next().unwrap(), numbers.next().unwrap())
}

/// The limits that the metrics show for the listeners of APIs.
fn connection_limits(sidecar: &Sidecar) -> Vec<u64> {
    let page = sidecar.telemetry("/metrics");
    let lines = page.text().lines().filter(|line| line.starts_with("careportals_sidecar_client_connections_max{"));
    lines.map(|line| line.split_whitespace().last().unwrap().parse().unwrap()).collect()
}

#[test]
fn the_soft_limit_is_raised_and_a_command_gets_the_old_one() {
    let simulator = simulator();
    let mut setup = Setup::new(&simulator);
    let seen = setup.dir.path().join("seen");
    let script = format!("ulimit -Sn > {0}.new && ulimit -Hn >> {0}.new && mv {0}.new {0}; echo {PASSWORD}", seen.display());
    setup.without("CAREPORTALS_PASSWORD");
    setup.account("password", &format!("{{ command = [\"sh\", \"-c\", \"{script}\"] }}"));
    let sidecar = start(setup, (300, 4000)).ready();
    assert_eq!(limits_of(&sidecar), (4000, 4000));
    assert_eq!(fs::read_to_string(seen).unwrap(), "300\n4000\n");
    assert_eq!(limits_of(&sidecar), (4000, 4000), "it is raised again");
}

#[test]
fn the_program_of_exec_gets_the_old_limit() {
    let simulator = simulator();
    let setup = Setup::new(&simulator);
    let output = limited(&setup, &["exec", "--", "sh", "-c", "ulimit -Sn"], (300, 4000)).output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "300\n");
}

#[test]
fn max_connections_is_lowered_to_what_the_descriptors_allow_also_after_a_reload() {
    let simulator = simulator();
    let settings = |rest: &str| {
        format!(
            "[accounts.demo]\norganization = \"demo\"\nusername = \"service@demo.example.test\"\npassword = \"{PASSWORD}\"\n\
             [apis.one]\naccount = \"demo\"\nupstream = \"{}\"\nlisten = \"127.0.0.1:0\"\n{rest}\n",
            simulator.base_url()
        )
    };
    let mut setup = Setup::empty();
    setup.settings(&settings("max_connections = 20\nmax_requests = 20")).trust(simulator.ca_pem()).with_telemetry();
    let sidecar = start(setup, (512, 512)).ready();
    assert_eq!(connection_limits(&sidecar), [20]);
    assert!(!sidecar.logs().contains("max_connections"), "20 are not too many");
    let reload = |rest: &str, reloads: usize| {
        sidecar.setup.file("config.toml", &settings(rest));
        sidecar.signal(rustix::process::Signal::HUP);
        sidecar.wait_for_logs("\"message\":\"reloaded\"", reloads);
    };
    reload("max_connections = 100000", 1);
    let warning = sidecar.wait_for_event(|event| event["descriptors"] == 512);
    assert!(warning["message"].as_str().unwrap().contains("`max_connections`"), "{warning}");
    let limit = connection_limits(&sidecar)[0];
    assert!((20..400).contains(&limit), "{limit}");
    assert_eq!(warning["max_connections"], limit);
    reload("max_connections = 20", 2);
    assert_eq!(connection_limits(&sidecar), [20]);
}

#[test]
fn with_few_descriptors_a_client_that_hoards_connections_keeps_nobody_out() {
    let simulator = simulator();
    let mut setup = Setup::controlled(&simulator);
    setup.with_telemetry().variable("CAREPORTALS_LOG", "info");
    let sidecar = start(setup, (400, 400)).ready();
    assert_eq!(sidecar.logs().matches("`max_connections`").count(), 1, "{}", sidecar.logs());
    let address = sidecar.address();
    let mut hoard: Vec<TcpStream> = (0..1500).map(|_| TcpStream::connect(address).unwrap()).collect();
    let telemetry = sidecar.telemetry_address();
    hoard.extend((0..500).map(|_| TcpStream::connect(telemetry).unwrap()));
    let logins = simulator.control().logins().len();
    for _ in 0..3 {
        let start = now();
        assert_eq!(sidecar.get("/_sim/echo").status, 200);
        assert_eq!(sidecar.telemetry("/livez").status, 200);
        assert_eq!(sidecar.setup.output("login").code, Some(0), "{}", sidecar.logs());
        assert!(start.elapsed() < PROMPTLY, "{:?}", start.elapsed());
    }
    until("the log-ins are done", || simulator.control().logins().len() >= logins + 3);
    drop(sidecar.send(&Request::get("/_sim/echo")));
    assert!(!sidecar.logs().contains("accepting is paused"), "{}", sidecar.logs());
}

#[test]
fn when_descriptors_run_out_all_the_same_an_idle_connection_goes_at_once() {
    let simulator = simulator();
    let mut setup = Setup::new(&simulator);
    setup.variable("CAREPORTALS_LOG", "info").api("max_connections", "1000").api("max_requests", "100");
    let sidecar = start(setup, (4000, 4000)).ready();
    let address = sidecar.address();
    let _hoard: Vec<TcpStream> = (0..300).map(|_| TcpStream::connect(address).unwrap()).collect();
    let open = || fs::read_dir(format!("/proc/{}/fd", sidecar.pid())).unwrap().count() as u64;
    until("all are accepted", || open() > 300);
    // Somebody else lowers the limit of the running process, as far as it has gone.
    let pid = rustix::process::Pid::from_raw(sidecar.pid().try_into().unwrap());
    let low = rustix::process::Rlimit { current: Some(open() - 20), maximum: Some(4000) };
    rustix::process::prlimit(pid, rustix::process::Resource::Nofile, low).unwrap();
    for _ in 0..20 {
        let start = now();
        assert_eq!(sidecar.get("/_sim/echo").status, 200, "{}", sidecar.logs());
        assert!(start.elapsed() < PROMPTLY, "{:?}", start.elapsed());
    }
    assert!(sidecar.logs().contains("no file descriptor is left"), "{}", sidecar.logs());
}

#[test]
fn with_few_descriptors_what_is_queued_at_sigterm_leaves_enough_for_the_requests() {
    let simulator = simulator();
    let mut setup = Setup::new(&simulator);
    setup.variable("CAREPORTALS_WORKERS", "2").variable("CAREPORTALS_LOG", "info");
    let mut sidecar = start(setup, (64, 64)).ready();
    simulator.control().reset_counts();
    simulator.control().hold_requests(true);
    let send = || {
        let mut client = sidecar.connect();
        client.write(&Request::get("/_sim/echo").header("Connection", "close").head());
        client
    };
    let mut clients: Vec<_> = (0..4).map(|_| send()).collect();
    until("all places are taken", || simulator.control().counts().requests == 4);
    clients.extend((0..60).map(|_| send()));
    sidecar.signal(Signal::TERM);
    sidecar.wait_for_log("draining");
    simulator.control().hold_requests(false);
    for client in &mut clients {
        assert_eq!(client.answer("GET").status, 200, "{}", sidecar.logs());
    }
    assert_eq!(sidecar.wait().code(), Some(0));
}
