//! SIGHUP: settings are read again and taken over whole, or not at all, while requests run.

use std::{
    fs,
    io::Write as _,
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

use careportals_simulator::{LoginFault, Simulator};
use rustix::process::Signal;

use crate::harness::{self, Answer, Connection, Http2, LOGGED_IN, Request, SetAtEnd, Setup, Sidecar, simulator, until};

/// The account `demo`.
const ACCOUNT: &str =
    "[accounts.demo]\norganization = \"demo\"\nusername = \"service@demo.example.test\"\npassword = \"demo-password-1\"\n";

fn api(name: &str, simulator: &Simulator, rest: &str) -> String {
    format!("[apis.{name}]\naccount = \"demo\"\nupstream = \"{}\"\n{rest}\n", simulator.base_url())
}

const ANY_PORT: &str = "listen = \"127.0.0.1:0\"";

/// A daemon with a settings file that tests rewrite.
struct Reloading {
    sidecar: Sidecar,
    ca: PathBuf,
    reloads: usize,
}

impl Reloading {
    fn of(sidecar: Sidecar) -> Self {
        let ca = sidecar.setup.dir.path().join("ca.pem");
        Self { sidecar, ca, reloads: 0 }
    }

    fn start(simulator: &Simulator, apis: &str) -> Self {
        let mut setup = Setup::empty();
        setup.settings(&format!("{ACCOUNT}{apis}")).trust(simulator.ca_pem());
        Self::of(setup.start())
    }

    fn write(&self, settings: &str) {
        self.sidecar.setup.file("config.toml", settings);
    }

    /// Reloads with other settings, which must be taken over.
    fn reload(&mut self, settings: &str) {
        self.write(settings);
        self.reloads += 1;
        self.sidecar.signal(Signal::HUP);
        self.sidecar.wait_for_logs("\"message\":\"reloaded\"", self.reloads);
    }

    /// Reloads with other settings, which must be refused. Returns why.
    fn refused(&self, settings: &str) -> String {
        self.write(settings);
        let before = self.sidecar.logs().matches("not reloaded").count();
        self.sidecar.signal(Signal::HUP);
        self.sidecar.wait_for_logs("not reloaded", before + 1);
        self.sidecar.logs().lines().rfind(|line| line.contains("not reloaded")).unwrap().to_owned()
    }

    fn echo(&self) -> Answer {
        self.sidecar.get("/_sim/echo")
    }
}

/// A free port, reserved until the daemon binds it: an address may be shared with a socket that does not listen.
fn free_port() -> (SocketAddr, socket2::Socket) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    (socket.local_addr().unwrap().as_socket().unwrap(), socket)
}

fn get(address: SocketAddr, target: &str) -> Answer {
    Connection::tcp(TcpStream::connect(address).unwrap()).send(&Request::get(target))
}

#[test]
fn an_api_and_an_address_are_added_and_the_old_ones_serve_on() {
    let simulator = simulator();
    let one = api("one", &simulator, ANY_PORT);
    let mut daemon = Reloading::start(&simulator, &one);
    let mut kept = daemon.sidecar.connect();
    assert_eq!(kept.send(&Request::get("/_sim/echo")).status, 200);
    let address = daemon.sidecar.address();
    let (second, _held) = free_port();
    let more = format!(
        "{ACCOUNT}{}{}",
        api("one", &simulator, &format!("listen = [\"127.0.0.1:0\", \"{second}\"]")),
        api("two", &simulator, ANY_PORT)
    );
    daemon.reload(&more);
    assert_eq!(get(second, "/_sim/echo").status, 200);
    assert_eq!(get(daemon.sidecar.address_of("two"), "/_sim/echo").status, 200);
    assert_eq!(get(address, "/_sim/echo").status, 200, "the old address, at its old port");
    assert_eq!(kept.send(&Request::get("/_sim/echo")).status, 200, "the old connection");
    assert_eq!(simulator.control().counts().logins, 1, "the account goes on with its token");
    // Each new address is told of once, with its port.
    assert_eq!(daemon.sidecar.logs().matches("\"message\":\"listening\"").count(), 3);
}

#[test]
fn an_api_may_move_to_another_address_of_ours_and_one_may_go_when_its_address_stays() {
    let simulator = simulator();
    let (first, _a) = free_port();
    let shared = format!("listen = \"{first}\"\nprefix = ");
    let two = api("one", &simulator, &format!("{shared}\"/one\"")) + &api("two", &simulator, &format!("{shared}\"/two\""));
    let mut daemon = Reloading::start(&simulator, &two);
    assert_eq!(get(first, "/two/_sim/echo").status, 200);
    daemon.reload(&format!("{ACCOUNT}{}", api("three", &simulator, &format!("{shared}\"/three\""))));
    assert_eq!(get(first, "/two/_sim/echo").status, 404);
    assert_eq!(get(first, "/three/_sim/echo").status, 200);
}

#[test]
fn what_clients_sent_that_is_no_request_stays_counted_for_the_api_that_it_was_counted_for() {
    let simulator = simulator();
    let (address, _a) = free_port();
    let with = |name: &str| api(name, &simulator, &format!("listen = \"{address}\"\nprefix = \"/{name}\""));
    let mut setup = Setup::empty();
    setup.settings(&format!("{ACCOUNT}{}", with("one"))).trust(simulator.ca_pem()).with_telemetry();
    let mut daemon = Reloading::of(setup.start());
    let is_counted = |daemon: &Reloading, api: &str, count: u64| {
        let series = format!("careportals_sidecar_client_errors_total{{api=\"{api}\",reason=\"malformed\"}} {count}");
        let page = daemon.sidecar.telemetry("/metrics");
        page.text().lines().any(|line| line == series)
    };
    let err = || assert_eq!(get(address, "/ /").status, 400);
    err();
    until("it is counted", || is_counted(&daemon, "one", 1));
    daemon.reload(&format!("{ACCOUNT}{}{}", with("one"), with("two")));
    assert!(is_counted(&daemon, "one", 1) && is_counted(&daemon, "", 0), "{}", daemon.sidecar.telemetry("/metrics").text());
    err();
    until("it is counted for neither", || is_counted(&daemon, "", 1));
    daemon.reload(&format!("{ACCOUNT}{}", with("two")));
    err();
    until("it is counted for the other one", || is_counted(&daemon, "two", 1));
    assert!(is_counted(&daemon, "one", 1) && is_counted(&daemon, "", 1), "{}", daemon.sidecar.telemetry("/metrics").text());
}

#[test]
fn an_emptied_settings_file_lifts_no_rule() {
    let simulator = simulator();
    let mut setup = Setup::new(&simulator);
    setup.settings("[apis.default]\ndeny = [\"GET /_sim/echo\"]\n");
    let mut daemon = Reloading::of(setup.start().ready());
    assert_eq!(daemon.echo().status, 403);
    for emptied in ["", "# nothing\n", "[apis.default]\n"] {
        let why = daemon.refused(emptied);
        assert!(why.contains("config.toml: sets nothing, and would lift every rule"), "{why}");
        assert_eq!(daemon.echo().status, 403);
    }
    daemon.reload("[apis.default]\ndeny = [\"GET /_sim/other\"]\n");
    assert_eq!(daemon.echo().status, 200);
    daemon.reload("[apis.default]\nhttp2 = \"off\"\n");
    let warned = daemon.sidecar.wait_for_log("the reload has taken rules away");
    assert!(warned.contains("\"rules\":\"deny\""), "{warned}");
}

#[test]
fn settings_that_come_from_a_pipe_are_not_read_again() {
    let simulator = simulator();
    let setup = Setup::new(&simulator);
    let mut command = setup.command("run");
    let (reader, mut writer) = std::io::pipe().unwrap();
    writer.write_all(b"[apis.default]\ndeny = [\"GET /_sim/echo\"]\n").unwrap();
    drop(writer);
    command.args(["--config", "/dev/stdin"]).stdin(reader);
    let sidecar = setup.start_with(command).ready();
    sidecar.signal(Signal::HUP);
    let why = sidecar.wait_for_log("not reloaded");
    assert!(why.contains("/dev/stdin is a pipe or a device, which gives its text once"), "{why}");
    assert_eq!(sidecar.get("/_sim/echo").status, 403);
}

#[test]
fn changed_limits_hold_for_requests_that_come_then() {
    let simulator = simulator();
    let with = |rest: &str| format!("{ACCOUNT}{}", api("one", &simulator, &format!("{ANY_PORT}\n{rest}")));
    let mut daemon = Reloading::start(&simulator, &api("one", &simulator, ANY_PORT));
    assert_eq!(daemon.echo().status, 200);
    simulator.control().hold_requests(true);
    let mut busy = daemon.sidecar.connect();
    busy.write(&Request::get("/_sim/echo").head());
    until("the upstream has got two requests", || simulator.control().counts().requests == 2);
    daemon.reload(&with("max_requests = 1\nresponse_timeout = \"300ms\""));
    let refused = daemon.echo();
    assert_eq!((refused.status, refused.problem().as_str()), (503, "too_many_requests_in_flight"));
    simulator.control().hold_requests(false);
    assert_eq!(busy.answer("GET").status, 200, "by the settings that it began with");
    assert_eq!(daemon.echo().status, 200);
    let late = daemon.sidecar.get("/_sim/hang");
    assert_eq!((late.status, late.problem().as_str()), (504, "upstream_timeout"));
    daemon.reload(&with("headers = { x-from = \"settings\" }"));
    assert_eq!(daemon.echo().echoed("x-from"), ["settings"]);
}

#[test]
fn an_invalid_file_changes_nothing_and_says_why() {
    let simulator = simulator();
    let one = api("one", &simulator, &format!("{ANY_PORT}\nheaders = {{ x-from = \"first\" }}"));
    let daemon = Reloading::start(&simulator, &one);
    assert_eq!(daemon.echo().status, 200);
    let typo = format!(
        "{ACCOUNT}{}",
        api("one", &simulator, &format!("{ANY_PORT}\nheaders = {{ x-from = \"second\" }}\nmax_request = 1"))
    );
    let why = daemon.refused(&typo);
    assert!(why.contains("config.toml:10: apis.one.max_request: no such key") && why.contains("nothing has changed"), "{why}");
    // Several faults are told one by one.
    daemon.refused(&format!("{ACCOUNT}{}", api("one", &simulator, "listen = \"nowhere\"\nmax_requests = 0")));
    let logs = daemon.sidecar.logs();
    assert!(logs.contains("apis.one.listen: `nowhere` is not an address") && logs.contains("apis.one.max_requests:"), "{logs}");
    assert_eq!(daemon.echo().echoed("x-from"), ["first"]);
    let gone = daemon.sidecar.setup.dir.path().join("config.toml");
    fs::remove_file(gone).unwrap();
    daemon.sidecar.signal(Signal::HUP);
    daemon.sidecar.wait_for_logs("not reloaded", 3);
    assert_eq!(daemon.echo().status, 200);
}

#[test]
fn what_needs_a_restart_is_refused_whole_with_that_reason() {
    let simulator = simulator();
    let fixed = |rest: &str| format!("{ACCOUNT}{}", api("one", &simulator, &format!("{ANY_PORT}\n{rest}")));
    let mut setup = Setup::empty();
    setup.trust(simulator.ca_pem()).without("CAREPORTALS_WORKERS");
    setup.settings(&format!("workers = 2\n{}", fixed("")));
    let daemon = Reloading::of(setup.start());
    for (global, setting) in [
        ("workers = 3", "workers"),
        ("workers = 2\nhardening = \"off\"", "hardening"),
        ("workers = 2\ndrain_timeout = \"9s\"\nquitquitquit = true", "quitquitquit"),
        ("workers = 2\ncontrol_allow_uids = [7]", "control_allow_uids"),
    ] {
        let why = daemon.refused(&format!("{global}\n{}", fixed("headers = { x-from = \"second\" }")));
        assert!(why.contains(&format!("a changed `{setting}` needs a restart")), "{why}");
    }
    daemon.refused(&format!("workers = 3\nhardening = \"off\"\n{ACCOUNT}{}", api("other", &simulator, ANY_PORT)));
    let logs = daemon.sidecar.logs();
    assert!(logs.contains("3 changes need a restart"), "{logs}");
    for change in ["a changed `workers`", "a changed `hardening`", "to stop listening on "] {
        assert!(logs.lines().any(|line| line.contains("\"ERROR\"") && line.contains(change)), "{change}: {logs}");
    }
    let why = daemon.refused(&format!("workers = 2\n{ACCOUNT}{}", api("other", &simulator, ANY_PORT)));
    assert!(why.contains(&format!("to stop listening on {} needs a restart", daemon.sidecar.address())), "{why}");
    assert_eq!(daemon.echo().echoed("x-from"), Vec::<String>::new());
}

#[test]
fn an_address_that_cannot_be_bound_changes_nothing() {
    let simulator = simulator();
    let daemon = Reloading::start(&simulator, &api("one", &simulator, ANY_PORT));
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let occupied = taken.local_addr().unwrap();
    let (free, _held) = free_port();
    let listen = format!("listen = [\"127.0.0.1:0\", \"{free}\", \"{occupied}\"]\nheaders = {{ x-from = \"second\" }}");
    let why = daemon.refused(&format!("{ACCOUNT}{}", api("one", &simulator, &listen)));
    assert!(why.contains(&format!("cannot listen on {occupied}: the address is in use")), "{why}");
    assert!(TcpStream::connect(free).is_err(), "what was bound before is closed again");
    assert_eq!(daemon.echo().echoed("x-from"), Vec::<String>::new());
}

#[test]
fn a_rotated_authority_is_trusted_from_then_on_and_the_old_one_no_longer() {
    let old = simulator();
    let new = simulator();
    let mut daemon = Reloading::start(&old, &api("one", &old, ANY_PORT));
    assert_eq!(daemon.echo().status, 200);
    fs::write(&daemon.ca, new.ca_pem()).unwrap();
    let moved = format!("{ACCOUNT}{}", api("one", &new, ANY_PORT));
    daemon.reload(&moved);
    assert_eq!(daemon.echo().status, 200);
    assert_eq!(new.control().counts().login_ok, 1, "another log-in server, another token");
    // No CA at all is a fault, and changes nothing.
    fs::write(&daemon.ca, "no certificate").unwrap();
    let refused = daemon.refused(&moved);
    assert!(refused.contains("CAREPORTALS_CA_ONLY_FILE: no usable certificate"), "{refused}");
    assert_eq!(daemon.echo().status, 200);
}

#[test]
fn connections_to_upstream_are_kept_unless_what_they_are_made_of_changes() {
    let simulator = simulator();
    let with = |rest: &str| format!("{ACCOUNT}{}", api("one", &simulator, &format!("{ANY_PORT}\n{rest}")));
    // Only requests open connections.
    let short = "pool_idle = \"15s\"";
    let mut daemon = Reloading::start(&simulator, &api("one", &simulator, &format!("{ANY_PORT}\n{short}")));
    let mut client = daemon.sidecar.connect();
    let mut connections_after = |daemon: &Reloading| {
        assert_eq!(client.send(&Request::get("/_sim/echo")).status, 200, "{}", daemon.sidecar.logs());
        simulator.control().counts().connections
    };
    // The log-in's, and one.
    assert_eq!(connections_after(&daemon), 2);
    daemon.reload(&with(&format!("{short}\nmax_requests = 7\nheaders = {{ x-a = \"1\" }}")));
    assert_eq!(connections_after(&daemon), 2, "it has nothing to do with connections");
    daemon.reload(&with("pool_idle = \"9s\""));
    assert_eq!(connections_after(&daemon), 3);
    let other = harness::simulator();
    fs::write(&daemon.ca, format!("{}{}", simulator.ca_pem(), other.ca_pem())).unwrap();
    daemon.reload(&with("pool_idle = \"9s\""));
    assert_eq!(connections_after(&daemon), 4, "other roots, other connections");
    daemon.reload(&with("pool_idle = \"9s\""));
    assert_eq!(connections_after(&daemon), 4, "the same roots, read again");
}

#[test]
fn other_credentials_log_in_anew_while_the_old_token_serves() {
    let simulator = simulator();
    let one = api("one", &simulator, ANY_PORT);
    let mut daemon = Reloading::start(&simulator, &one);
    let before = daemon.echo().echoed("authorization");
    let control = simulator.control();
    control.set_credentials("demo", "second@demo.example.test", "second-password");
    control.hold_logins(true);
    let account = ACCOUNT.replace("service@", "second@").replace("demo-password-1", "second-password");
    daemon.reload(&format!("{account}{one}"));
    until("two log-ins have begun", || control.counts().logins == 2);
    assert_eq!(daemon.echo().echoed("authorization"), before);
    control.hold_logins(false);
    daemon.sidecar.wait_for_logs(LOGGED_IN, 2);
    assert_ne!(daemon.echo().echoed("authorization"), before);
    assert_eq!(control.logins().last().unwrap().username, "second@demo.example.test");
}

#[test]
fn another_organization_withdraws_the_old_bearer_at_once() {
    let simulator = simulator();
    let one = api("one", &simulator, ANY_PORT);
    let mut daemon = Reloading::start(&simulator, &one);
    assert_eq!(daemon.echo().echoed("organization"), ["demo"]);
    simulator.control().hold_logins(true);
    daemon.reload(&format!(
        "{}{one}",
        ACCOUNT
            .replace("demo\"", "other\"")
            .replace("demo.example", "other.example")
            .replace("demo-password", "other-password")
            .replace("[accounts.other\"", "[accounts.demo")
    ));
    let mut client = daemon.sidecar.connect();
    client.write(&Request::get("/_sim/echo").head());
    until("two log-ins have begun", || simulator.control().counts().logins == 2);
    assert_eq!(simulator.control().counts().requests, 1, "nothing goes out for the old tenant");
    simulator.control().hold_logins(false);
    assert_eq!(client.answer("GET").echoed("organization"), ["other"]);
}

#[test]
fn the_log_filter_and_the_access_log_change_at_once() {
    let simulator = simulator();
    let one = api("one", &simulator, ANY_PORT);
    let mut setup = Setup::empty();
    setup.trust(simulator.ca_pem()).without("CAREPORTALS_LOG");
    setup.settings(&format!("access_log = \"off\"\n{ACCOUNT}{one}"));
    let mut daemon = Reloading::of(setup.start());
    assert_eq!(daemon.echo().status, 200);
    daemon.reload(&format!("{ACCOUNT}{one}"));
    assert_eq!(daemon.sidecar.get("/users/account").status, 200);
    let lines = daemon.sidecar.wait_for_access_lines(1);
    assert_eq!(lines.len(), 1, "the first request has none");
    assert_eq!(lines[0]["path"], "/users/account");
    daemon.write(&format!("log = \"warn\"\n{ACCOUNT}{one}"));
    daemon.sidecar.signal(Signal::HUP);
    // Nothing says so any more, so a refusal is what is waited for.
    daemon.refused("nonsense");
    assert_eq!(daemon.sidecar.logs().matches("\"message\":\"reloaded\"").count(), 1);
}

#[test]
fn ten_reloads_under_load_fail_no_request() {
    let simulator = simulator();
    let reloads = 10;
    let (second, _held) = free_port();
    let mut daemon = Reloading::start(&simulator, &api("one", &simulator, ANY_PORT));
    let (over, sent) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..8 {
            let (over, sent, address) = (&over, &sent, daemon.sidecar.address());
            scope.spawn(move || {
                let mut connection = Connection::tcp(TcpStream::connect(address).unwrap());
                while !over.load(Ordering::Relaxed) || sent.load(Ordering::Relaxed) < 10_000 {
                    let answer = connection.send(&Request::post("/_sim/echo", "hello"));
                    assert_eq!(answer.status, 200, "{answer:?}");
                    sent.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let _over = SetAtEnd(&over);
        for number in 0..reloads {
            let before = sent.load(Ordering::Relaxed);
            // Roots that change each time, limits that do, and from the third on an API and an address more.
            let other = harness::simulator();
            fs::write(&daemon.ca, format!("{}{}", simulator.ca_pem(), other.ca_pem())).unwrap();
            let limits =
                format!("max_requests = {}\nbody_idle = \"{}s\"\npool_idle = \"{}s\"", 100 + number, 20 + number, 5 + number);
            let listen = if number < 2 { ANY_PORT.to_owned() } else { format!("listen = [\"127.0.0.1:0\", \"{second}\"]") };
            let more = if number < 2 { String::new() } else { api("two", &simulator, ANY_PORT) };
            daemon.reload(&format!("{ACCOUNT}{}{more}", api("one", &simulator, &format!("{listen}\n{limits}"))));
            until("500 more requests are sent", || sent.load(Ordering::Relaxed) >= before + 500);
        }
    });
    assert_eq!(get(second, "/_sim/echo").status, 200);
    let counts = simulator.control().counts();
    let sent = sent.load(Ordering::Relaxed);
    assert!(sent >= 10_000);
    assert_eq!((counts.requests, counts.logins), (sent + 1, 1), "each arrived once, and one log-in did for all");
}

#[test]
fn how_many_may_connect_and_how_long_they_may_be_idle_changes_too() {
    let simulator = simulator();
    let settings = |rest: &str| format!("{ACCOUNT}{}", api("one", &simulator, &format!("{ANY_PORT}\n{rest}")));
    let mut daemon = Reloading::start(&simulator, &api("one", &simulator, &format!("{ANY_PORT}\nmax_connections = 1")));
    let request = Request::get("/_sim/status/204");
    let idle = |daemon: &Reloading| {
        let mut client = daemon.sidecar.connect();
        assert_eq!(client.send(&request).status, 204);
        client
    };
    let mut only = idle(&daemon);
    let mut newcomer = idle(&daemon);
    assert!(only.is_closed());

    daemon.reload(&settings("max_connections = 3"));
    let mut others = [idle(&daemon), idle(&daemon)];
    for client in others.iter_mut().chain([&mut newcomer]) {
        assert_eq!(client.send(&request).status, 204);
    }

    // A connection from before keeps the time-out that it started with.
    daemon.reload(&settings("max_connections = 9\nclient_idle = \"300ms\""));
    assert!(idle(&daemon).is_closed());
    assert_eq!(newcomer.send(&request).status, 204);

    daemon.reload(&settings("max_connections = 1"));
    // Each of the two workers held a permit for the next connection.
    (0..3).for_each(|_| drop(idle(&daemon)));
    for mut client in others.into_iter().chain([newcomer]) {
        assert!(client.is_closed(), "all of them are closed before a connection is accepted again");
    }
}

#[test]
fn an_http2_connection_follows_a_reload() {
    let simulator = simulator();
    let mut daemon = Reloading::start(&simulator, &api("one", &simulator, ANY_PORT));
    let mut client = Http2::connect(daemon.sidecar.address());
    assert_eq!(client.get("/_sim/echo").status, 200);
    daemon.reload(&format!("{ACCOUNT}{}", api("one", &simulator, &format!("{ANY_PORT}\nprefix = \"/one\""))));
    assert_eq!(client.get("/_sim/echo").problem(), "no_api");
    assert_eq!(client.get("/one/_sim/echo").json()["target"], "/_sim/echo");
}

#[test]
fn a_new_socket_mode_is_given_to_the_socket_alone_whatever_took_its_place() {
    let simulator = simulator();
    let mut setup = Setup::empty();
    setup.trust(simulator.ca_pem());
    let (socket, moved) = (setup.dir.path().join("api.sock"), setup.dir.path().join("moved.sock"));
    let password = setup.file("password", "precious");
    fs::set_permissions(&password, fs::Permissions::from_mode(0o400)).unwrap();
    let mode = |path: &Path| fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777;
    let settings = |mode: &str| {
        let listen = format!("listen = \"unix:{}\"\nsocket_mode = \"{mode}\"", socket.display());
        format!("{ACCOUNT}{}", api("one", &simulator, &listen))
    };
    setup.settings(&settings("0600"));
    let mut daemon = Reloading::of(setup.start());
    daemon.reload(&settings("0660"));
    assert_eq!(mode(&socket), 0o660);
    fs::rename(&socket, &moved).unwrap();
    let untouched = "the socket's mode stays as it was";
    symlink(&password, &socket).unwrap();
    daemon.reload(&settings("0666"));
    daemon.sidecar.wait_for_logs(untouched, 1);
    assert_eq!((mode(&password), mode(&moved)), (0o400, 0o660));
    fs::remove_file(&socket).unwrap();
    fs::hard_link(&password, &socket).unwrap();
    daemon.reload(&settings("0666"));
    daemon.sidecar.wait_for_logs(untouched, 2);
    assert_eq!((mode(&password), mode(&moved)), (0o400, 0o660));
    // It is tried again once the socket is back.
    fs::remove_file(&socket).unwrap();
    fs::rename(&moved, &socket).unwrap();
    daemon.reload(&settings("0666"));
    assert_eq!((mode(&password), mode(&socket)), (0o400, 0o666));
}

#[test]
fn a_new_socket_in_a_directory_that_everybody_may_write_to_is_refused() {
    let simulator = simulator();
    let mut setup = Setup::empty();
    setup.trust(simulator.ca_pem());
    let directory = setup.dir.path().join("sockets");
    fs::create_dir(&directory).unwrap();
    let (first, second) = (directory.join("first.sock"), directory.join("second.sock"));
    let settings = |more: &str| {
        let listen = format!("listen = [\"127.0.0.1:0\", \"unix:{}\"{more}]", first.display());
        format!("{ACCOUNT}{}", api("one", &simulator, &listen))
    };
    setup.settings(&settings(""));
    let daemon = Reloading::of(setup.start());
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o777)).unwrap();
    let why = daemon.refused(&settings(&format!(", \"unix:{}\"", second.display())));
    assert!(why.contains("apis.one.listen") && why.contains("everybody may write to"), "{why}");
    assert!(first.exists() && !second.exists());
    assert_eq!(daemon.echo().status, 200);
}

#[test]
fn a_reload_does_not_shorten_the_wait_that_the_server_asked_for() {
    for status in [429, 503] {
        let simulator = simulator();
        simulator.control().set_login_fault(Some(LoginFault::StatusRetryAfter(status, "300".to_owned())));
        let one = api("one", &simulator, ANY_PORT);
        let mut daemon = Reloading::start(&simulator, &one);
        daemon.sidecar.wait_for_log("log-in failed");
        daemon.reload(&format!("{ACCOUNT}{}", api("one", &simulator, &format!("max_requests = 7\n{ANY_PORT}"))));
        // If the reload had begun a log-in, this would wait for its end.
        assert_eq!(daemon.echo().problem(), "login_failing", "{status}");
        assert_eq!(simulator.control().counts().logins, 1, "{status}");
    }
}
