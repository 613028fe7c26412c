//! Where clients come in: several addresses, several APIs behind one, sockets from a service manager, a socket's group.

use std::{
    fs,
    io::{BufRead, BufReader},
    net::{Shutdown, TcpListener, TcpStream},
    os::{
        fd::OwnedFd,
        unix::{
            fs::{MetadataExt, PermissionsExt},
            net::UnixListener,
        },
    },
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use careportals_simulator::Simulator;
use rustix::process::{Pid, Signal, getgid, getgroups, getuid, kill_process};
use socket2::Socket;

use crate::harness::{Connection, Request, Setup, Sidecar, now, simulator};

fn account(name: &str, base: &str) -> String {
    format!(
        "[accounts.{name}]\nlogin_url = \"{base}/patient/auth\"\norganization = \"{name}\"\nusername = \"service@{name}.example.test\"\npassword = \"{name}-password-1\"\n"
    )
}

fn api(name: &str, account: &str, upstream: &str, rest: &str) -> String {
    format!("[apis.{name}]\naccount = \"{account}\"\nupstream = \"{upstream}\"\n{rest}\n")
}

fn setup(simulator: &Simulator, settings: &str) -> Setup {
    let mut setup = Setup::empty();
    setup.settings(settings);
    setup.trust(simulator.ca_pem());
    setup
}

/// Two organizations at one Unix socket, and a third API under the prefix of the first.
fn shared(simulator: &Simulator) -> (Sidecar, std::path::PathBuf) {
    let base = simulator.base_url();
    let setup = setup(simulator, "");
    let path = setup.dir.path().join("shared.sock");
    let listen = format!("listen = [\"unix:{}\"]\n", path.display());
    let under = |prefix: &str| format!("{listen}prefix = \"{prefix}\"");
    let settings = [
        account("demo", &base),
        account("other", &base),
        api("demo", "demo", &base, &under("/demo")),
        api("other", "other", &format!("{base}/_sim"), &under("/other")),
        api("inner", "other", &base, &under("/demo/inner")),
    ];
    let mut setup = setup;
    setup.settings(&settings.concat());
    (setup.start(), path)
}

#[test]
fn several_apis_share_an_address_each_under_its_prefix() {
    let simulator = simulator();
    let (sidecar, path) = shared(&simulator);
    let mut client = Sidecar::connect_unix(&path);
    for (target, organization, arrives_as) in [
        ("/demo/_sim/echo?a=/demo", "demo", "/_sim/echo?a=/demo"),
        ("/other/echo?", "other", "/_sim/echo?"),
        // The longest prefix is the one.
        ("/demo/inner/_sim/echo", "other", "/_sim/echo"),
        ("/demo/_sim/echo", "demo", "/_sim/echo"),
    ] {
        let answer = client.send(&Request::get(target));
        assert_eq!(answer.status, 200, "{target} {answer:?}");
        assert_eq!(answer.json()["target"], arrives_as, "{target}");
        assert_eq!(answer.echoed("organization"), [organization], "{target}");
    }
    // Nothing but the prefix asks for the API's root.
    assert_eq!(client.send(&Request::get("/demo?x=1")).status, 404);
    assert_eq!(simulator.control().requests().last().unwrap().target, "/?x=1");
    let apis: Vec<_> = sidecar.wait_for_access_lines(5).iter().map(|line| line["api"].clone()).collect();
    assert_eq!(apis, ["demo", "other", "inner", "demo", "demo"]);
}

#[test]
fn a_path_under_no_prefix_is_404_and_reaches_nobody() {
    let simulator = simulator();
    let (sidecar, path) = shared(&simulator);
    for target in ["/", "/demos/_sim/echo", "/de", "/Demo/_sim/echo", "/%64emo/_sim/echo", "/users/account", "//demo/_sim/echo"] {
        let answer = Sidecar::connect_unix(&path).send(&Request::get(target));
        assert_eq!((answer.status, answer.problem().as_str()), (404, "no_api"), "{target}");
    }
    let asterisk = Sidecar::connect_unix(&path).send(&Request::new("OPTIONS", "*"));
    assert_eq!((asterisk.status, asterisk.problem().as_str()), (404, "no_api"));
    // What is judged before is told first.
    let traced = Sidecar::connect_unix(&path).send(&Request::new("TRACE", "/nowhere"));
    assert_eq!((traced.status, traced.problem().as_str()), (405, "method_not_allowed"));
    assert_eq!(simulator.control().counts().requests, 0);
    // A line of no API names none.
    assert_eq!(sidecar.wait_for_access_lines(9)[0]["api"], "");
}

#[test]
fn a_log_in_path_is_refused_under_every_prefix() {
    let simulator = simulator();
    let (_sidecar, path) = shared(&simulator);
    for target in ["/demo/patient/auth", "/demo/auth", "/demo//auth", "/other/../auth", "/demo/inner/%61uth"] {
        let answer = Sidecar::connect_unix(&path).send(&Request::post(target, "{}"));
        assert_eq!((answer.status, answer.problem().as_str()), (403, "login_path"), "{target}");
    }
    assert_eq!(simulator.control().counts().requests, 0);
}

#[test]
fn a_redirect_leads_back_under_the_prefix() {
    let simulator = simulator();
    let (_sidecar, path) = shared(&simulator);
    let answer = Sidecar::connect_unix(&path).send(&Request::get("/demo/_sim/redirect"));
    assert_eq!((answer.status, answer.header("location")), (302, Some("/demo/users/account")));
}

#[test]
fn an_api_listens_on_several_addresses_at_once_and_each_is_logged_with_its_port() {
    let simulator = simulator();
    let mut setup = Setup::new(&simulator);
    let path = setup.dir.path().join("x.sock");
    setup.variable("CAREPORTALS_LISTEN", &format!("127.0.0.1:0,127.0.0.2:0,unix:{}", path.display()));
    let sidecar = setup.start();
    assert_eq!(sidecar.addresses().len(), 2);
    for address in sidecar.addresses() {
        assert_ne!(address.port(), 0);
        let answer = Connection::tcp(TcpStream::connect(address).unwrap()).send(&Request::get("/_sim/echo"));
        assert_eq!(answer.status, 200, "{address}");
    }
    assert_eq!(Sidecar::connect_unix(&path).send(&Request::get("/_sim/echo")).status, 200);
}

#[test]
fn socket_group_sets_the_group_of_a_unix_socket_by_number_or_name() {
    let simulator = simulator();
    // A group that this process may give away to: any for root.
    let own = getgid();
    let root = getuid().is_root().then_some(1);
    let others = getgroups().unwrap().into_iter().filter(|group| *group != own).map(rustix::process::Gid::as_raw);
    let group = root.into_iter().chain(others).next().unwrap_or(own.as_raw());
    let named = fs::read_to_string("/etc/group").unwrap();
    let name = named.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        (fields.get(2) == Some(&group.to_string().as_str())).then(|| fields[0].to_owned())
    });
    for value in std::iter::once(format!("\"{group}\"")).chain(name) {
        let mut setup = Setup::new(&simulator);
        let path = setup.dir.path().join("x.sock");
        setup.variable("CAREPORTALS_LISTEN", &format!("unix:{}", path.display())).api("socket_group", &value);
        let _sidecar = setup.start();
        assert_eq!(fs::metadata(&path).unwrap().gid(), group, "{value}");
        assert_eq!(Sidecar::connect_unix(&path).send(&Request::get("/_sim/echo")).status, 200);
    }
}

#[test]
fn a_group_that_does_not_exist_is_named_and_nothing_is_bound() {
    let simulator = simulator();
    let mut setup = Setup::new(&simulator);
    let path = setup.dir.path().join("x.sock");
    setup.variable("CAREPORTALS_LISTEN", &format!("unix:{}", path.display())).api("socket_group", "no-such-group-here");
    let output = setup.output("run");
    assert_eq!(output.code, Some(78), "{output:?}");
    assert!(
        output.stderr.contains("CAREPORTALS__APIS__DEFAULT__SOCKET_GROUP: there is no group \"no-such-group-here\""),
        "{output:?}"
    );
    assert!(!path.exists());
}

/// An API at a Unix socket in a directory of this mode.
fn in_directory(simulator: &Simulator, mode: u32) -> (Setup, std::path::PathBuf) {
    let mut setup = Setup::new(simulator);
    let directory = setup.dir.path().join("sockets");
    fs::create_dir(&directory).unwrap();
    fs::set_permissions(&directory, fs::Permissions::from_mode(mode)).unwrap();
    let path = directory.join("x.sock");
    setup.variable("CAREPORTALS_LISTEN", &format!("unix:{}", path.display()));
    (setup, path)
}

#[test]
fn a_socket_in_a_directory_that_everybody_may_write_to_is_a_fault() {
    let simulator = simulator();
    for mode in [0o777, 0o703, 0o2777] {
        let (setup, path) = in_directory(&simulator, mode);
        for command in ["run", "check"] {
            let output = setup.output(command);
            assert_eq!(output.code, Some(78), "{output:?}");
            let said = format!("{}{}", output.stdout, output.stderr);
            let fault = format!("CAREPORTALS_LISTEN: unix:{}: everybody may write to ", path.display());
            assert!(said.contains(&fault) && said.contains("hint: choose a directory that only"), "{said}");
        }
        assert!(!path.exists());
    }
}

#[test]
fn a_control_socket_in_such_a_directory_is_a_fault_or_with_the_sticky_bit_a_warning() {
    let simulator = simulator();
    for (mode, code, warned) in [(0o777, Some(78), true), (0o1777, Some(0), true), (0o700, Some(0), false)] {
        let mut setup = Setup::new(&simulator);
        let directory = setup.dir.path().join("sockets");
        fs::create_dir(&directory).unwrap();
        fs::set_permissions(&directory, fs::Permissions::from_mode(mode)).unwrap();
        let path = directory.join("control.sock");
        setup.variable("CAREPORTALS_CONTROL_SOCKET", path.to_str().unwrap());
        let checked = setup.output("check");
        let said = format!("CAREPORTALS_CONTROL_SOCKET: unix:{}: everybody may write to ", path.display());
        assert_eq!((checked.code, checked.stdout.contains(&said)), (code, warned), "{checked:?}");
        if code == Some(78) {
            let run = setup.output("run");
            assert!(run.code == code && run.stderr.contains("CAREPORTALS_CONTROL_SOCKET: unix:"), "{run:?}");
            assert!(!path.exists());
        } else {
            let sidecar = setup.start();
            sidecar.wait_for_log("\"listening\"");
            assert_eq!(sidecar.logs().contains("everybody may write to"), warned, "{mode:o}");
        }
    }
}

#[test]
fn a_default_control_socket_is_left_out_where_everybody_may_write_to_its_directory() {
    if Path::new("/run/careportals-sidecar").exists() {
        eprintln!("skipped: this machine has a daemon of its own");
        return;
    }
    let simulator = simulator();
    let mut setup = Setup::new(&simulator);
    let directory = setup.dir.path().join("user/careportals-sidecar");
    fs::create_dir_all(&directory).unwrap();
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o777)).unwrap();
    setup.without("CAREPORTALS_CONTROL_SOCKET").variable("XDG_RUNTIME_DIR", directory.parent().unwrap().to_str().unwrap());
    let sidecar = setup.start().ready();
    sidecar.wait_for_log("no control socket: everybody may write to its directory");
    assert!(!directory.join("control.sock").exists());
}

#[test]
fn a_control_socket_may_be_in_a_volume_of_its_own_whatever_its_mode() {
    const UNSHARE: [&str; 3] = ["--user", "--map-root-user", "--mount"];
    let allowed = Command::new("unshare").args(UNSHARE).arg("true").output().is_ok_and(|output| output.status.success());
    if !allowed {
        eprintln!("skipped: this user may not make a mount namespace");
        return;
    }
    let mut setup = Setup::new(&simulator());
    let directory = setup.dir.path().join("volume");
    fs::create_dir(&directory).unwrap();
    setup.variable("CAREPORTALS_CONTROL_SOCKET", directory.join("control.sock").to_str().unwrap());
    let check = setup.command("check");
    let mut command = Command::new("unshare");
    let script = r#"mount -t tmpfs -o mode=0777 none "$1" && shift && exec "$@""#;
    command.args(UNSHARE).args(["sh", "-c", script, "sh"]).arg(&directory).arg(check.get_program()).args(check.get_args());
    command.envs(check.get_envs().filter_map(|(name, value)| Some((name, value?)))).current_dir(setup.dir.path());
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && !said.contains("everybody may write"), "{output:?}");
}

#[test]
fn a_default_telemetry_address_that_the_machine_lacks_is_left_out_and_logged() {
    // The kernel gives `lo` this address when it is brought up.
    let script = r#"ip link set lo up && ip address del 127.0.0.1/8 dev lo && exec "$@""#;
    let within = ["--user", "--map-root-user", "--net", "sh", "-c", script, "sh"];
    let allowed = Command::new("unshare").args(within).arg("true").output().is_ok_and(|output| output.status.success());
    if !allowed {
        eprintln!("skipped: this user may not make a network namespace, or there is no `ip`");
        return;
    }
    let simulator = simulator();
    let (mut setup, path) = in_directory(&simulator, 0o700);
    setup.without("CAREPORTALS_TELEMETRY_LISTEN");
    let run = setup.command("run");
    let mut command = Command::new("unshare");
    command.args(within).arg(run.get_program()).args(run.get_args());
    command.envs(run.get_envs().filter_map(|(name, value)| Some((name, value?)))).current_dir(setup.dir.path());
    let mut sidecar = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(sidecar.stdout.take().unwrap()).lines().map_while(Result::ok);
    let told: Vec<String> = lines.by_ref().take_while(|line| !line.contains("\"listening\"")).collect();
    assert!(path.exists());
    sidecar.kill().unwrap();
    sidecar.wait().unwrap();
    let skipped = told.iter().filter(|line| line.contains("no health and metrics") && line.contains("127.0.0.1:2274"));
    assert_eq!(skipped.count(), 1, "{told:#?}");
}

#[test]
fn with_the_sticky_bit_it_is_a_warning_and_a_directory_of_a_group_is_neither() {
    let simulator = simulator();
    for (mode, warned) in [(0o1777, true), (0o770, false), (0o755, false)] {
        let (setup, path) = in_directory(&simulator, mode);
        let checked = setup.output("check");
        assert_eq!((checked.code, checked.stdout.contains("everybody may write to")), (Some(0), warned), "{checked:?}");
        let sidecar = setup.start();
        assert_eq!(Sidecar::connect_unix(&path).send(&Request::get("/_sim/echo")).status, 200);
        assert_eq!(sidecar.logs().contains("everybody may write to"), warned, "{mode:o}");
    }
}

#[test]
fn a_live_socket_whose_owner_is_too_busy_to_accept_is_left_alone() {
    let simulator = simulator();
    let mut setup = Setup::new(&simulator);
    let path = setup.dir.path().join("x.sock");
    setup.variable("CAREPORTALS_LISTEN", &format!("unix:{}", path.display()));
    // A full queue would hold a client up for ever.
    let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
    socket.bind(&socket2::SockAddr::unix(&path).unwrap()).unwrap();
    socket.listen(0).unwrap();
    let _queued = std::os::unix::net::UnixStream::connect(&path).unwrap();
    let output = setup.output("run");
    assert_eq!(output.code, Some(1), "{output:?}");
    assert!(output.stderr.contains("another process answers on that socket"), "{output:?}");
    assert!(path.exists());
}

#[test]
fn a_socket_file_that_somebody_else_put_in_our_place_is_left_alone_at_the_end() {
    let simulator = simulator();
    let mut setup = Setup::new(&simulator);
    let path = setup.dir.path().join("x.sock");
    setup.variable("CAREPORTALS_LISTEN", &format!("unix:{}", path.display()));
    let mut sidecar = setup.start();
    fs::remove_file(&path).unwrap();
    let _other = UnixListener::bind(&path).unwrap();
    assert_eq!(sidecar.stop().code(), Some(0));
    assert!(path.exists());
}

/// A daemon that was handed two sockets; its output is not read. It is killed when dropped.
struct Activated(Child);

impl Activated {
    fn start(setup: &Setup, names: &str, first: OwnedFd, second: OwnedFd) -> Self {
        Self(activation(setup, names, first, Some(second)).stdout(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Activated {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts the daemon as systemd would: bound sockets as descriptors 3 and 4, their names in the environment. The shell
/// takes them from where a process can be given any descriptor: standard input and standard error.
fn activation(setup: &Setup, names: &str, first: OwnedFd, second: Option<OwnedFd>) -> Command {
    let daemon = setup.command("run");
    let (count, redirect) = if second.is_some() { (2, "3<&0 4<&2 2>&1 0</dev/null") } else { (1, "3<&0 0</dev/null") };
    let mut command = Command::new("/bin/sh");
    command.arg("-c").arg(format!("LISTEN_PID=$$ LISTEN_FDS={count} LISTEN_FDNAMES={names} exec \"$@\" {redirect}"));
    command.arg("sh").arg(daemon.get_program()).args(daemon.get_args()).current_dir(setup.dir.path()).env_clear();
    for (name, value) in daemon.get_envs() {
        command.env(name, value.unwrap());
    }
    command.stdin(Stdio::from(first));
    if let Some(second) = second {
        command.stderr(Stdio::from(second));
    }
    command
}

fn loopback() -> (OwnedFd, std::net::SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener.into(), address)
}

#[test]
fn a_socket_from_systemd_is_served_and_its_file_left_to_it() {
    let simulator = simulator();
    let mut setup = Setup::new(&simulator);
    setup.variable("CAREPORTALS_LISTEN", "systemd");
    let path = setup.dir.path().join("passed.sock");
    let (tcp, address) = loopback();
    let unix = UnixListener::bind(&path).unwrap();
    // Queued before the daemon exists.
    let mut early = Connection::tcp(TcpStream::connect(address).unwrap());
    early.write(&Request::get("/_sim/echo").head());
    let mut daemon = Activated::start(&setup, "sidecar.socket:sidecar.socket", tcp, unix.into());
    assert_eq!(early.answer("GET").status, 200);
    assert_eq!(Sidecar::connect_unix(&path).send(&Request::get("/_sim/echo")).status, 200);
    let pid = Pid::from_raw(daemon.0.id().try_into().unwrap()).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
    assert_eq!(daemon.0.wait().unwrap().code(), Some(0));
    assert!(path.exists(), "the file is the service manager's");
}

#[test]
fn a_socket_named_after_an_api_is_that_apis() {
    let simulator = simulator();
    let base = simulator.base_url();
    let settings = [
        account("demo", &base),
        account("other", &base),
        api("emr", "demo", &base, "listen = [\"systemd\"]"),
        api("crm", "other", &base, "listen = [\"systemd\", \"127.0.0.1:0\"]"),
    ];
    let setup = setup(&simulator, &settings.concat());
    let ((crm, crm_address), (emr, emr_address)) = (loopback(), loopback());
    let _daemon = Activated::start(&setup, "crm:emr", crm, emr);
    for (address, organization) in [(crm_address, "other"), (emr_address, "demo")] {
        let answer = Connection::tcp(TcpStream::connect(address).unwrap()).send(&Request::get("/_sim/echo"));
        assert_eq!(answer.echoed("organization"), [organization]);
    }
}

/// Starts the daemon, which must fail, and returns its error.
fn refused(setup: &Setup, names: &str, socket: OwnedFd) -> String {
    let output = activation(setup, names, socket, None).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn without_a_socket_or_with_one_for_several_apis_the_start_fails_and_says_so() {
    let simulator = simulator();
    let mut alone = Setup::new(&simulator);
    alone.variable("CAREPORTALS_LISTEN", "systemd");
    let output = alone.output("run");
    assert_eq!(output.code, Some(1), "{output:?}");
    assert!(output.stderr.contains("apis.default.listen: systemd passed no socket for it"), "{output:?}");
    let base = simulator.base_url();
    let both = [api("emr", "demo", &base, "listen = \"systemd\""), api("crm", "demo", &base, "listen = \"systemd\"")];
    let setup = setup(&simulator, &format!("{}{}", account("demo", &base), both.concat()));
    let error = refused(&setup, "x.socket", loopback().0);
    assert!(error.contains("the socket \"x.socket\" that systemd passed could be for several APIs"), "{error}");
}

/// Where descriptor 3 is closed when the process begins, a socket of its own has that number.
#[test]
fn what_is_no_listening_socket_is_not_taken_for_one() {
    let mut setup = Setup::new(&simulator());
    setup.variable("CAREPORTALS_LISTEN", "systemd");
    let daemon = setup.command("run");
    let mut command = Command::new("/bin/sh");
    command.arg("-c").arg("LISTEN_PID=$$ LISTEN_FDS=1 exec \"$@\" 3<&-").arg("sh").arg(daemon.get_program()).arg("run");
    for (name, value) in daemon.get_envs() {
        command.env(name, value.unwrap());
    }
    let output = command.output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("one of the descriptors that LISTEN_FDS passes is no listening socket"), "{said}");
}

#[test]
fn a_passed_socket_beyond_loopback_needs_permission() {
    let simulator = simulator();
    let mut setup = Setup::new(&simulator);
    setup.variable("CAREPORTALS_LISTEN", "systemd");
    let everywhere = || OwnedFd::from(TcpListener::bind("0.0.0.0:0").unwrap());
    let error = refused(&setup, "x.socket", everywhere());
    assert!(error.contains("is not a loopback address: whoever reaches it can use the token"), "{error}");
    setup.variable("CAREPORTALS_ALLOW_NON_LOOPBACK", "true");
    let command = activation(&setup, "x.socket", everywhere(), None);
    let sidecar = setup.start_with(command);
    let port = sidecar.address().port();
    let answer = Connection::tcp(TcpStream::connect(("127.0.0.1", port)).unwrap()).send(&Request::get("/_sim/echo"));
    assert_eq!(answer.status, 200);
}

/// The kernel refuses to accept from such a socket at once, each time.
#[test]
fn a_passed_socket_that_somebody_shuts_down_is_told_of_once_and_does_not_hold_up_the_end() {
    let simulator = simulator();
    let mut setup = Setup::new(&simulator);
    setup.variable("CAREPORTALS_LISTEN", "systemd").global("drain_timeout", "30s");
    let (passed, _) = loopback();
    let ours = Socket::from(passed.try_clone().unwrap());
    let command = activation(&setup, "x.socket", passed, None);
    let mut sidecar = setup.start_with(command).ready();
    ours.shutdown(Shutdown::Both).unwrap();
    let line = sidecar.wait_for_log("accepting is paused: the socket no longer listens");
    assert!(line.contains("WARN"), "{line}");
    let start = now();
    assert_eq!(sidecar.stop().code(), Some(0));
    assert!(start.elapsed() < Duration::from_secs(15), "the drain took {:?}", start.elapsed());
    assert!(!sidecar.logs().contains("accepting again"));
}

#[test]
fn sockets_meant_for_another_process_are_left_alone() {
    let simulator = simulator();
    let setup = Setup::new(&simulator);
    let path = Path::new("/bin/sh");
    let daemon = setup.command("run");
    let mut command = Command::new(path);
    command.arg("-c").arg("LISTEN_PID=1 LISTEN_FDS=1 exec \"$@\" 3<&0 0</dev/null").arg("sh");
    command.arg(daemon.get_program()).args(daemon.get_args()).current_dir(setup.dir.path()).env_clear();
    for (name, value) in daemon.get_envs() {
        command.env(name, value.unwrap());
    }
    command.stdin(Stdio::from(loopback().0));
    let sidecar = setup.start_with(command);
    assert_eq!(sidecar.get("/_sim/echo").status, 200);
    assert!(!sidecar.logs().contains("systemd passed"));
}
