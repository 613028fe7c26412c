//! From the first socket to the last: start, drain, signals, want of descriptors, sockets of both kinds.

use std::{
    fs::{self, File},
    io::ErrorKind,
    net::{TcpListener, TcpStream},
    os::unix::net::{UnixListener, UnixStream},
    process::{Command, Stdio},
    time::Duration,
};

use careportals_simulator::{Control, Simulator};
use rustix::{
    fs::fstat,
    process::{Pid, Resource, Rlimit, Signal, getrlimit, getuid, prlimit},
};

use crate::harness::{
    Connection, Request, Setup, Sidecar, held, let_time_pass, mode, now, program_file, simulator, until, until_some,
    with_signals_blocked,
};

fn until_refused(sidecar: &Sidecar) {
    // Until then a connection may be queued, and is closed with the socket or a moment later.
    until("nobody listens any more", || {
        TcpStream::connect(sidecar.address()).is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
    });
}

#[test]
fn on_sigterm_what_is_in_flight_finishes_while_new_connections_are_refused() {
    for signal in [Signal::TERM, Signal::INT] {
        let simulator = simulator();
        let mut sidecar = Sidecar::start(&simulator).ready();
        let mut client = held(&simulator, &sidecar);
        sidecar.signal(signal);
        sidecar.wait_for_log("draining");
        until_refused(&sidecar);
        simulator.control().hold_requests(false);
        assert_eq!(client.answer("GET").status, 200);
        assert!(client.is_closed());
        assert_eq!(sidecar.wait().code(), Some(0));
    }
}

#[test]
fn a_client_that_connects_while_the_daemon_starts_is_served_though_sigterm_comes_before_the_start_is_over() {
    let simulator = simulator();
    for _ in 0..10 {
        let mut setup = Setup::new(&simulator);
        let socket = setup.dir.path().join("app.sock");
        setup.variable("CAREPORTALS_LISTEN", &format!("unix:{}", socket.display()));
        let mut sidecar = setup.start();
        let mut client = until_some("the socket takes connections", || UnixStream::connect(&socket).map(Connection::unix).ok());
        client.write(&Request::get("/_sim/echo").head());
        sidecar.signal(Signal::TERM);
        assert_eq!(client.answer("GET").status, 200, "{}", sidecar.logs());
        assert_eq!(sidecar.wait().code(), Some(0));
    }
}

#[test]
fn what_is_still_in_flight_after_drain_timeout_is_cut_and_the_exit_code_is_0() {
    let simulator = simulator();
    let mut setup = Setup::new(&simulator);
    setup.global("drain_timeout", "300ms");
    let mut sidecar = setup.start().ready();
    let mut client = held(&simulator, &sidecar);
    let start = now();
    sidecar.signal(Signal::TERM);
    assert!(client.is_closed());
    assert!(start.elapsed() >= Duration::from_millis(300));
    assert_eq!(sidecar.wait().code(), Some(0));
    assert!(sidecar.logs().contains("the drain time ran out"));
    assert!(sidecar.wait_for_access_lines(1).iter().any(|line| line["cut"] == "drain"), "{}", sidecar.logs());
}

/// They were never sent: whoever hears so may try again elsewhere.
#[test]
fn requests_that_wait_for_a_token_when_the_drain_time_ends_are_told_503() {
    let simulator = simulator();
    simulator.control().hold_logins(true);
    let mut setup = Setup::new(&simulator);
    setup.global("drain_timeout", "300ms").account("token_wait", "1m");
    let mut sidecar = setup.start();
    let mut waiting = [sidecar.connect(), sidecar.connect()];
    for client in &mut waiting {
        client.write(&Request::post("/_sim/echo", "once").head());
        client.write(b"once");
    }
    until("a log-in has begun", || simulator.control().counts().logins == 1);
    sidecar.signal(Signal::TERM);
    for client in &mut waiting {
        let answer = client.answer("POST");
        assert_eq!((answer.status, answer.problem().as_str()), (503, "token_pending"), "{answer:?}");
    }
    assert_eq!(simulator.control().counts().requests, 0);
    assert_eq!(sidecar.wait().code(), Some(0));
}

#[test]
fn connections_that_the_kernel_had_queued_are_served_before_the_end() {
    let simulator = simulator();
    let mut sidecar = Sidecar::start(&simulator).ready();
    sidecar.signal(Signal::STOP);
    let mut queued: Vec<_> = (0..20).map(|_| sidecar.connect()).collect();
    for connection in &mut queued {
        connection.write(&Request::get("/_sim/echo").head());
    }
    sidecar.signal(Signal::TERM);
    sidecar.signal(Signal::CONT);
    for connection in &mut queued {
        assert_eq!(connection.answer("GET").status, 200);
    }
    assert_eq!(sidecar.wait().code(), Some(0));
}

#[test]
fn connections_that_the_kernel_had_queued_for_want_of_a_place_are_served_one_after_the_other() {
    let simulator = simulator();
    for kind in ["tcp", "unix"] {
        let mut setup = Setup::new(&simulator);
        let socket = setup.dir.path().join("app.sock");
        setup.api("max_connections", "2");
        setup.variable("CAREPORTALS_LISTEN", &format!("127.0.0.1:0,unix:{}", socket.display()));
        let mut sidecar = setup.start().ready();
        let connect = || match kind {
            "tcp" => sidecar.connect(),
            _ => Connection::unix(UnixStream::connect(&socket).unwrap()),
        };
        simulator.control().reset_counts();
        simulator.control().hold_requests(true);
        let send = |count| {
            let clients = (0..count).map(|_| {
                let mut client = connect();
                client.write(&Request::get("/_sim/echo").head());
                client
            });
            clients.collect::<Vec<_>>()
        };
        let mut clients = send(2);
        until("both places are taken", || simulator.control().counts().requests == 2);
        clients.extend(send(10));
        sidecar.signal(Signal::TERM);
        sidecar.wait_for_log("draining");
        let nobody_listens = || match kind {
            "tcp" => TcpStream::connect(sidecar.address()).is_err(),
            _ => UnixStream::connect(&socket).is_err(),
        };
        until("nobody listens any more", nobody_listens);
        simulator.control().hold_requests(false);
        for client in &mut clients {
            assert_eq!(client.answer("GET").status, 200, "{kind}: {}", sidecar.logs());
        }
        assert_eq!(sidecar.wait().code(), Some(0));
    }
}

#[test]
fn a_request_whose_head_has_come_in_part_is_awaited_and_answered() {
    let simulator = simulator();
    let mut sidecar = Sidecar::start(&simulator).ready();
    let head = Request::get("/_sim/echo").head();
    let (begun, rest) = head.split_at(10);
    let (mut used, mut new) = (sidecar.connect(), sidecar.connect());
    assert_eq!(used.send(&Request::get("/_sim/echo")).status, 200);
    for connection in [&mut used, &mut new] {
        connection.write(begun);
    }
    // What was sent before has been read by now.
    assert_eq!(sidecar.get("/_sim/echo").status, 200);
    sidecar.signal(Signal::TERM);
    sidecar.wait_for_log("draining");
    for connection in [&mut used, &mut new] {
        connection.write(rest);
        assert_eq!(connection.answer("GET").status, 200);
        assert!(connection.is_closed());
    }
    assert_eq!(sidecar.wait().code(), Some(0));
}

#[test]
fn idle_connections_do_not_delay_the_end() {
    let simulator = simulator();
    let mut sidecar = Sidecar::start(&simulator).ready();
    let mut idle = sidecar.connect();
    assert_eq!(idle.send(&Request::get("/_sim/echo")).status, 200);
    let start = now();
    assert_eq!(sidecar.stop().code(), Some(0));
    assert!(idle.is_closed());
    assert!(start.elapsed() < Duration::from_secs(5), "the drain time-out is 25 s");
}

#[test]
fn for_drain_delay_new_requests_are_still_served() {
    let simulator = simulator();
    let mut setup = Setup::new(&simulator);
    setup.global("drain_delay", "800ms");
    let mut sidecar = setup.start().ready();
    let start = now();
    sidecar.signal(Signal::TERM);
    sidecar.wait_for_log("new requests are still served");
    assert_eq!(sidecar.get("/_sim/echo").status, 200);
    assert_eq!(sidecar.wait().code(), Some(0));
    assert!(start.elapsed() >= Duration::from_millis(800));
}

#[test]
fn a_second_signal_ends_at_once_with_1() {
    for (first, second) in [(Signal::TERM, Signal::TERM), (Signal::TERM, Signal::INT), (Signal::INT, Signal::INT)] {
        let simulator = simulator();
        let mut sidecar = Sidecar::start(&simulator).ready();
        let mut client = held(&simulator, &sidecar);
        sidecar.signal(first);
        sidecar.wait_for_log("draining");
        sidecar.signal(second);
        assert_eq!(sidecar.wait().code(), Some(1));
        assert!(client.is_closed());
    }
}

#[test]
fn of_two_different_signals_at_the_same_moment_one_is_the_second() {
    let simulator = simulator();
    // Two threads may take them at once, or one of them both: so some tries.
    for _ in 0..25 {
        let mut setup = Setup::new(&simulator);
        setup.variable("CAREPORTALS__DRAIN_DELAY", "5s");
        let mut sidecar = setup.start();
        sidecar.wait_for_log("\"listening\"");
        sidecar.signal(Signal::TERM);
        sidecar.signal(Signal::INT);
        assert_eq!(sidecar.wait().code(), Some(1));
    }
}

#[test]
fn signals_that_were_blocked_from_the_start_are_heard_all_the_same() {
    for signals in [&[Signal::TERM][..], &[Signal::INT], &[Signal::HUP, Signal::USR1, Signal::TERM]] {
        let simulator = simulator();
        let mut sidecar = with_signals_blocked(|| Sidecar::start(&simulator)).ready();
        for signal in signals {
            sidecar.signal(*signal);
            match *signal {
                Signal::HUP => drop(sidecar.wait_for_log("\"reloaded\"")),
                Signal::USR1 => drop(sidecar.wait_for_log("logged out")),
                _ => {}
            }
        }
        assert_eq!(sidecar.wait().code(), Some(0), "{signals:?}");
    }
}

#[test]
fn sighup_with_the_same_settings_changes_nothing() {
    let simulator = simulator();
    let mut sidecar = Sidecar::start(&simulator).ready();
    let mut client = held(&simulator, &sidecar);
    sidecar.signal(Signal::HUP);
    sidecar.wait_for_log("\"message\":\"reloaded\"");
    simulator.control().hold_requests(false);
    assert_eq!(client.answer("GET").status, 200);
    assert_eq!(client.send(&Request::get("/_sim/echo")).status, 200);
    assert_eq!(simulator.control().tokens_issued(), 1);
    assert_eq!(sidecar.stop().code(), Some(0));
}

#[test]
fn sighup_and_sigusr1_during_a_drain_do_no_harm() {
    let simulator = simulator();
    let mut sidecar = Sidecar::start(&simulator).ready();
    let mut client = held(&simulator, &sidecar);
    sidecar.signal(Signal::TERM);
    sidecar.wait_for_log("draining");
    sidecar.signal(Signal::HUP);
    sidecar.signal(Signal::USR1);
    sidecar.wait_for_log("\"logged_out\"");
    simulator.control().hold_requests(false);
    assert_eq!(client.answer("GET").status, 200);
    assert_eq!(sidecar.wait().code(), Some(0));
}

/// The processor time that was used so far, in ticks of 10 ms.
fn ticks(sidecar: &Sidecar) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{}/stat", sidecar.pid())).unwrap();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[test]
fn without_descriptors_accepting_slows_down_and_goes_on_when_there_are_some() {
    let simulator = simulator();
    let control = simulator.control();
    let sidecar = Sidecar::start(&simulator).ready();
    let mut early = sidecar.connect();
    assert_eq!(early.send(&Request::get("/_sim/echo")).status, 200);
    control.reset_counts();
    // Each is in the middle of a request, so none can be closed for another.
    let mut busy: Vec<_> = (0..8).map(|_| sidecar.connect()).collect();
    for client in &mut busy {
        client.write(&Request::get("/_sim/hang").head());
    }
    until("the upstream has got all requests", || control.counts().requests == 8);
    let drip = "/_sim/drip?bytes=30&interval_ms=100";
    early.write(&Request::get(drip).head());
    until("one more answer has begun", || control.counts().requests == 9);
    // No new descriptor from here on, whatever the daemon has reckoned with.
    let hard = getrlimit(Resource::Nofile).maximum;
    let limit_to = |current| {
        let pid = Pid::from_raw(sidecar.pid().try_into().unwrap());
        prlimit(pid, Resource::Nofile, Rlimit { current, maximum: hard }).unwrap();
    };
    limit_to(Some(3));
    let mut waiting = sidecar.connect();
    waiting.write(&Request::get("/_sim/status/204").head());
    sidecar.wait_for_log("accepting is paused");
    let before = ticks(&sidecar);
    assert_eq!(early.answer("GET").body.len(), 30, "who is in is served");
    assert!(ticks(&sidecar) - before < 60, "it spins");
    limit_to(hard);
    assert_eq!(waiting.answer("GET").status, 204);
    sidecar.wait_for_log("accepting again");
}

/// Runs a command as a shell that has lowered a limit, and then became the program.
fn limited(setup: &Setup, limit: &str, words: &[&str]) -> Command {
    let whole = setup.command(words[0]);
    let mut shell = Command::new("sh");
    shell.env_clear().envs(whole.get_envs().filter_map(|(name, value)| Some((name, value?))));
    shell.current_dir(setup.dir.path()).args(["-c", &format!("ulimit {limit}; exec \"$0\" \"$@\"")]);
    shell.arg(whole.get_program()).args(whole.get_args()).args(&words[1..]).stdin(Stdio::null());
    shell
}

#[test]
fn too_few_descriptors_to_serve_anybody_are_told_in_words_and_end_with_1() {
    let simulator = simulator();
    let setup = Setup::new(&simulator);
    for words in [&["run"][..], &["exec", "--", "true"], &["check", "--online"], &["status"]] {
        // With fewer the program itself can't be loaded.
        for descriptors in 5..=20 {
            let output = limited(&setup, &format!("-n {descriptors}"), words).output().unwrap();
            let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
            let allowed = if words[0] == "check" { vec![Some(0), Some(1), Some(78)] } else { vec![Some(1), Some(78)] };
            assert!(allowed.contains(&output.status.code()), "{words:?} {descriptors}: {:?} {said}", output.status);
            assert!(!said.contains("panicked") && !said.contains("a bug"), "{words:?} {descriptors}: {said}");
            let is_daemon = ["run", "exec"].contains(&words[0]);
            assert!(!is_daemon || descriptors < 8 || said.contains("LimitNOFILE="), "{words:?} {descriptors}: {said}");
        }
    }
}

#[test]
fn a_log_file_that_may_grow_no_further_does_not_end_the_daemon() {
    let simulator = simulator();
    let mut setup = Setup::new(&simulator);
    setup.with_telemetry();
    let socket = setup.dir.path().join("x.sock");
    setup.api("listen", &format!("[\"unix:{}\"]", socket.display())).without("CAREPORTALS_LISTEN");
    let log = fs::File::create(setup.dir.path().join("log")).unwrap();
    // One block of 512 bytes, or of 1024.
    let mut daemon = limited(&setup, "-f 1", &["run"]).stdout(log).spawn().unwrap();
    until("it listens", || socket.exists());
    for _ in 0..20 {
        assert_eq!(Sidecar::connect_unix(&socket).send(&Request::get("/users/account")).status, 200);
    }
    assert!(daemon.try_wait().unwrap().is_none(), "it is still there");
    rustix::process::kill_process(rustix::process::Pid::from_child(&daemon), Signal::TERM).unwrap();
    assert_eq!(daemon.wait().unwrap().code(), Some(0));
}

#[test]
fn a_client_that_hangs_up_cancels_its_request_upstream() {
    let simulator = simulator();
    let control = simulator.control();
    let sidecar = Sidecar::start(&simulator).ready();
    control.reset_counts();
    let mut client = sidecar.connect();
    client.write(&Request::get("/_sim/hang").head());
    until("the upstream has got one request", || control.counts().requests == 1);
    drop(client);
    until("the exchange is over", || control.requests()[0].over);
    let lines = sidecar.wait_for_access_lines(2);
    assert!(lines.iter().any(|line| line["status"] == 499 && line["cut"] == "client_closed"), "{lines:?}");
}

#[test]
fn a_client_that_hangs_up_cancels_its_download() {
    let simulator = simulator();
    let control = simulator.control();
    let sidecar = Sidecar::start(&simulator).ready();
    control.reset_counts();
    let mut client = sidecar.connect();
    client.write(&Request::get("/_sim/download?bytes=10000000000").head());
    assert_eq!(client.head().status, 200);
    drop(client);
    until("the exchange is over", || control.requests()[0].over);
}

#[test]
fn a_client_that_hangs_up_does_not_cancel_the_login() {
    let simulator = simulator();
    let control = simulator.control();
    control.hold_logins(true);
    let mut setup = Setup::new(&simulator);
    setup.variable("CAREPORTALS_WORKERS", "1");
    let sidecar = setup.start();
    until("one log-in has begun", || control.counts().logins == 1);
    let mut client = sidecar.connect();
    client.write(&Request::get("/_sim/echo").head());
    // Once the one worker has answered this, the other request is waiting for the token.
    assert_eq!(sidecar.send(&Request::get("/users").host("elsewhere.example")).status, 421);
    drop(client);
    let lines = sidecar.wait_for_access_lines(2);
    assert!(lines.iter().any(|line| line["status"] == 499), "{lines:?}");
    control.hold_logins(false);
    assert_eq!(sidecar.get("/_sim/echo").status, 200);
    assert_eq!(control.counts().logins, 1);
}

#[test]
fn an_address_in_use_is_told_and_the_exit_code_is_1() {
    let simulator = simulator();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let mut setup = Setup::new(&simulator);
    setup.variable("CAREPORTALS_LISTEN", &address);
    let output = setup.output("run");
    assert_eq!(output.code, Some(1), "{output:?}");
    assert!(output.stderr.contains(&format!("cannot listen on {address}: the address is in use")), "{output:?}");
    #[cfg(target_os = "linux")]
    assert!(output.stderr.contains(&format!(" (pid {})\n  hint: stop that program, or", std::process::id())), "{output:?}");
    assert_eq!(output.all().matches("cannot listen on").count(), 1, "{output:?}");
    // Where systemd's journal reads both, it is a line with a level.
    setup.variable("CAREPORTALS_LOG_FORMAT", "auto");
    let journal = setup.file("journal", "");
    let stream = File::options().append(true).open(&journal).unwrap();
    let stat = fstat(&stream).unwrap();
    setup.variable("JOURNAL_STREAM", &format!("{}:{}", stat.st_dev, stat.st_ino));
    let status = setup.command("run").stdout(stream.try_clone().unwrap()).stderr(stream).status().unwrap();
    let said = fs::read_to_string(journal).unwrap();
    assert_eq!((status.code(), said.matches("cannot listen on").count()), (Some(1), 1), "{said}");
    assert!(said.lines().any(|line| line.starts_with(&format!("<3>cannot listen on {address}"))), "{said}");
}

#[test]
fn a_socket_that_cannot_be_bound_is_told_with_the_reason() {
    let mut setup = Setup::empty();
    setup.variable("CAREPORTALS_ORGANIZATION", "acme").variable("CAREPORTALS_LOGIN_URL", "off");
    let mut run = |listen: &str| setup.variable("CAREPORTALS_LISTEN", listen).output("run");
    let nowhere = run("unix:/nonexistent/deep/api.sock");
    assert_eq!(nowhere.code, Some(1), "{nowhere:?}");
    assert!(nowhere.stderr.contains("there is no directory /nonexistent\n  hint: create it"), "{nowhere:?}");
    let under_a_file = run(&format!("unix:{}/api.sock", program_file().display()));
    assert!(under_a_file.stderr.contains("careportals-sidecar is not a directory\n  hint: choose another"), "{under_a_file:?}");
    let file = run(&format!("unix:{}", program_file().display()));
    assert!(file.stderr.contains("a file that is not a socket is in the way\n  hint: remove it"), "{file:?}");
    // Trying again would not help, and systemd does not for this code.
    setup.variable("CAREPORTALS_LISTEN", "127.0.0.1:0").variable("CAREPORTALS_CONTROL_SOCKET", program_file().to_str().unwrap());
    let control = setup.output("run");
    assert!(control.stderr.starts_with("error: CAREPORTALS_CONTROL_SOCKET: cannot listen on unix:"), "{control:?}");
    for output in [under_a_file, file, control] {
        assert_eq!(output.code, Some(78), "{output:?}");
    }
}

#[test]
fn roots_that_cannot_be_read_are_a_fault_of_the_configuration() {
    let simulator = simulator();
    for (name, text) in [("missing.pem", None), ("empty.pem", Some("no certificate\n"))] {
        let mut setup = Setup::new(&simulator);
        let path = setup.dir.path().join(name);
        if let Some(text) = text {
            fs::write(&path, text).unwrap();
        }
        setup.variable("CAREPORTALS_CA_ONLY_FILE", path.to_str().unwrap());
        let output = setup.output("run");
        assert_eq!(output.code, Some(78), "{output:?}");
        assert!(output.stderr.contains(name), "{output:?}");
    }
}

/// A sidecar on a Unix socket in the test's own directory.
fn on_unix(simulator: &Simulator) -> (Setup, std::path::PathBuf) {
    let mut setup = Setup::new(simulator);
    let path = setup.dir.path().join("sidecar.sock");
    setup.variable("CAREPORTALS_LISTEN", &format!("unix:{}", path.display()));
    (setup, path)
}

#[test]
fn a_unix_socket_serves_by_any_host_and_is_gone_after_the_end() {
    let simulator = simulator();
    let (setup, path) = on_unix(&simulator);
    let mut sidecar = setup.start();
    assert_eq!(mode(&path), 0o660);
    let request = Request::get("/_sim/echo").host("anything.example");
    assert_eq!(Sidecar::connect_unix(&path).send(&request).status, 200);
    let line = sidecar.wait_for_access_lines(1).pop().unwrap();
    assert_eq!(line["uid"], getuid().as_raw(), "{line}");
    assert_eq!(line["pid"], std::process::id(), "{line}");
    assert_eq!(line["listener"], format!("unix:{}", path.display()), "{line}");
    assert_eq!(sidecar.stop().code(), Some(0));
    assert!(!path.exists());
}

#[test]
fn socket_mode_sets_the_mode_of_a_unix_socket() {
    let simulator = simulator();
    let (mut setup, path) = on_unix(&simulator);
    setup.api("socket_mode", "0o600");
    let _sidecar = setup.start();
    assert_eq!(mode(&path), 0o600);
}

#[test]
fn a_stale_unix_socket_is_replaced_and_a_live_one_is_left_alone() {
    let simulator = simulator();
    let (setup, path) = on_unix(&simulator);
    let other = UnixListener::bind(&path).unwrap();
    let refused = setup.output("run");
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("another process answers on that socket"), "{refused:?}");
    assert!(path.exists());
    drop(other);
    assert!(path.exists(), "stale now");
    let _sidecar = setup.start();
    assert_eq!(Sidecar::connect_unix(&path).send(&Request::get("/_sim/echo")).status, 200);
}

#[test]
fn a_file_that_is_no_socket_is_left_alone() {
    let simulator = simulator();
    let (setup, path) = on_unix(&simulator);
    fs::write(&path, "precious").unwrap();
    assert_eq!(setup.output("run").code, Some(78));
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
}

#[test]
fn ipv6_loopback_is_served_where_there_is_one() {
    if TcpListener::bind("[::1]:0").is_err() {
        return;
    }
    let simulator = simulator();
    let mut setup = Setup::new(&simulator);
    setup.variable("CAREPORTALS_LISTEN", "[::1]:0,127.0.0.1:0");
    let sidecar = setup.start();
    let addresses = sidecar.addresses();
    assert!(addresses.iter().any(std::net::SocketAddr::is_ipv6), "{addresses:?}");
    for address in addresses {
        let request = Request::get("/_sim/echo").host(&address.to_string());
        assert_eq!(Connection::tcp(TcpStream::connect(address).unwrap()).send(&request).status, 200);
    }
}

#[test]
fn the_listener_accepts_before_the_first_login_is_done() {
    let simulator = simulator();
    let control: &Control = simulator.control();
    control.hold_logins(true);
    let sidecar = Sidecar::start(&simulator);
    let mut client = sidecar.connect();
    client.write(&Request::get("/_sim/echo").head());
    until("one log-in has begun", || control.counts().logins == 1);
    control.hold_logins(false);
    assert_eq!(client.answer("GET").status, 200);
}

/// The daemon's command line in a network of its own, where packets to the only name server vanish; `None` where this user
/// may not make one.
fn behind_a_silent_name_server(setup: &Setup) -> Option<Command> {
    const NETWORK: &str = "PATH=$PATH:/usr/sbin:/sbin && ip link add silent type veth peer name nowhere \
                           && ip address add 192.0.2.1/24 dev silent && ip link set silent up && ip link set nowhere up \
                           && ip neighbour add 192.0.2.53 lladdr 02:00:00:00:00:01 dev silent \
                           && mount --bind resolv.conf /etc/resolv.conf";
    setup.file("resolv.conf", "nameserver 192.0.2.53\noptions timeout:5 attempts:2\n");
    let unshare = |script: &str| {
        let mut command = Command::new("unshare");
        command.args(["--net", "--mount", "sh", "-c", script, "sh"]).current_dir(setup.dir.path());
        command
    };
    let allowed = unshare(NETWORK).output().is_ok_and(|output| output.status.success());
    let daemon = setup.command("run");
    let mut command = unshare(&format!("{NETWORK} && exec \"$@\""));
    command.arg(daemon.get_program()).args(daemon.get_args()).env_clear();
    command.envs(daemon.get_envs().filter_map(|(name, value)| Some((name, value?)))).stdin(Stdio::null());
    allowed.then_some(command)
}

#[test]
fn a_name_server_that_is_silent_does_not_hold_up_the_end() {
    let mut setup = Setup::without_login("https://upstream.example.test", simulator().ca_pem());
    let socket = setup.dir.path().join("api.sock");
    setup.variable("CAREPORTALS_LISTEN", &format!("unix:{}", socket.display())).global("drain_timeout", "300ms");
    let Some(command) = behind_a_silent_name_server(&setup) else {
        eprintln!("skipped: this user may not make a network");
        return;
    };
    let mut sidecar = setup.start_with(command);
    let mut client = Sidecar::connect_unix(&socket);
    client.write(&Request::get("/").head());
    let_time_pass("the name is looked up by then", Duration::from_millis(300));
    let start = now();
    assert_eq!(sidecar.stop().code(), Some(0));
    assert!(start.elapsed() < Duration::from_secs(4), "a look-up takes ten seconds, and the end took {:?}", start.elapsed());
}
