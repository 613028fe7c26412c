//! Which users may call: `allow_uids` and `allow_gids`, on Unix sockets and over TCP.

use std::{
    fs,
    io::Write,
    net::{SocketAddr, TcpStream},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use careportals_simulator::Simulator;
use rustix::{
    process::{Gid, Pid, Signal, Uid, WaitOptions, getgid, getuid, waitpid},
    thread::{set_thread_gid, set_thread_groups, set_thread_uid},
};
use serde_json::Value;
use socket2::{Domain, Socket, Type};

use crate::harness::{Answer, Connection, Http2, Request, Setup, Sidecar, simulator};

const FRIEND: u32 = 65_521;
const STRANGER: u32 = 65_522;
const TEAM: u32 = 65_523;
const CROWD: u32 = 65_524;

fn is_root() -> bool {
    let is_root = getuid().is_root();
    if !is_root {
        eprintln!("skipped: only root can become another user");
    }
    is_root
}

/// Runs `act` on a thread that acts as another user, with that group and no other.
fn acting_as<T: Send + 'static>(uid: u32, gid: u32, act: impl FnOnce() -> T + Send + 'static) -> T {
    let thread = std::thread::spawn(move || {
        set_thread_groups(&[]).unwrap();
        set_thread_gid(Gid::from_raw(gid)).unwrap();
        set_thread_uid(Uid::from_raw(uid)).unwrap();
        act()
    });
    thread.join().unwrap()
}

fn echo_as(uid: u32, address: SocketAddr) -> Answer {
    let mut connection = acting_as(uid, CROWD, move || Connection::tcp(TcpStream::connect(address).unwrap()));
    connection.send(&Request::get("/_sim/echo"))
}

fn echo_over(socket: &Path, (uid, gid): (u32, u32)) -> Answer {
    let socket = socket.to_owned();
    acting_as(uid, gid, move || Sidecar::connect_unix(&socket)).send(&Request::get("/_sim/echo"))
}

#[track_caller]
fn assert_refused(answer: &Answer) {
    assert_eq!((answer.status, answer.problem().as_str()), (403, "caller_not_allowed"), "{answer:?}");
    let detail = answer.json()["detail"].as_str().unwrap().to_owned();
    assert!(detail.contains("`allow_uids`") && detail.contains("`allow_gids`"), "{detail}");
}

/// A sidecar at a TCP address and at a Unix socket that every user can open.
fn behind_both(simulator: &Simulator) -> (Setup, PathBuf) {
    let mut setup = Setup::new(simulator);
    fs::set_permissions(setup.dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let socket = setup.dir.path().join("api.sock");
    setup.variable("CAREPORTALS_LISTEN", &format!("127.0.0.1:0,unix:{}", socket.display())).api("socket_mode", "\"0666\"");
    (setup, socket)
}

#[test]
fn a_listed_user_may_call_and_the_sidecars_own_is_no_exception() {
    let simulator = simulator();
    let us = getuid().as_raw();
    for (listed, passes) in [(us, true), (us + 1, false)] {
        let (mut setup, socket) = behind_both(&simulator);
        setup.api("allow_uids", &format!("[4000000000, {listed}]"));
        let sidecar = setup.start();
        let request = Request::get("/_sim/echo");
        for answer in [sidecar.send(&request), Sidecar::connect_unix(&socket).send(&request)] {
            if passes {
                assert_eq!(answer.status, 200, "{answer:?}");
            } else {
                assert_refused(&answer);
            }
        }
    }
    assert_eq!(simulator.control().counts().requests, 2, "none of the refused ones arrived");
}

#[test]
fn another_user_is_refused_over_tcp() {
    if !is_root() {
        return;
    }
    let simulator = simulator();
    let mut setup = Setup::new(&simulator);
    setup.variable("CAREPORTALS_LISTEN", "127.0.0.1:0,[::1]:0,0.0.0.0:0").api("allow_uids", &format!("[{FRIEND}]"));
    setup.api("allow_non_loopback", "true").with_telemetry();
    let sidecar = setup.start();
    let [v4, v6, wildcard] = sidecar.addresses().try_into().unwrap();
    let by_number = SocketAddr::from(([127, 0, 0, 9], wildcard.port()));
    for address in [v4, v6, by_number] {
        assert_eq!(echo_as(FRIEND, address).status, 200, "{address}");
        assert_refused(&echo_as(STRANGER, address));
        assert_refused(&echo_as(0, address));
    }
    assert_eq!(simulator.control().counts().requests, 3, "none of the refused ones arrived");
    let lines = sidecar.wait_for_access_lines(9);
    let callers: Vec<_> = lines.iter().map(|line| line["uid"].as_u64()).collect();
    assert!(callers.contains(&Some(u64::from(STRANGER))), "who was refused can be told: {callers:?}");
    let page = sidecar.telemetry("/metrics");
    let counted = "careportals_sidecar_refusals_total{api=\"default\",reason=\"caller_not_allowed\"} 6";
    assert!(page.text().contains(counted), "{}", page.text());
}

#[test]
fn a_client_with_one_kind_of_socket_for_both_families_is_known() {
    if !is_root() {
        return;
    }
    let simulator = simulator();
    let mut setup = Setup::new(&simulator);
    setup.api("allow_uids", &format!("[{FRIEND}]"));
    let sidecar = setup.start();
    let mapped: SocketAddr = format!("[::ffff:127.0.0.1]:{}", sidecar.address().port()).parse().unwrap();
    let status = |uid| {
        let connect = move || {
            let client = Socket::new(Domain::IPV6, Type::STREAM, None).unwrap();
            client.connect(&mapped.into()).unwrap();
            Connection::tcp(client.into())
        };
        acting_as(uid, CROWD, connect).send(&Request::get("/_sim/echo")).status
    };
    assert_eq!((status(FRIEND), status(STRANGER)), (200, 403));
}

#[test]
fn another_user_is_refused_on_a_unix_socket_unless_the_group_may_call() {
    if !is_root() {
        return;
    }
    let simulator = simulator();
    let (mut setup, socket) = behind_both(&simulator);
    setup.api("allow_uids", &format!("[{FRIEND}]")).api("allow_gids", &format!("[{TEAM}]"));
    let sidecar = setup.start();
    assert_eq!(echo_over(&socket, (FRIEND, CROWD)).status, 200);
    assert_eq!(echo_over(&socket, (STRANGER, TEAM)).status, 200);
    assert_refused(&echo_over(&socket, (STRANGER, CROWD)));
    assert_refused(&echo_over(&socket, (0, 0)));
    // Its group does not show over TCP.
    let address = sidecar.address();
    let mut connection = acting_as(STRANGER, TEAM, move || Connection::tcp(TcpStream::connect(address).unwrap()));
    assert_refused(&connection.send(&Request::get("/_sim/echo")));
}

#[test]
fn a_supplementary_group_counts_on_a_unix_socket() {
    if !is_root() {
        return;
    }
    let simulator = simulator();
    let (mut setup, socket) = behind_both(&simulator);
    setup.api("allow_gids", &format!("[{TEAM}]"));
    let sidecar = setup.start();
    let status_in = |groups: &[u32]| {
        let groups: Vec<String> = groups.iter().map(u32::to_string).collect();
        let mut command = Command::new("setpriv");
        command.arg(format!("--reuid={STRANGER}")).arg(format!("--regid={CROWD}")).arg(format!("--groups={}", groups.join(",")));
        command.args(["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "--unix-socket"]).arg(&socket);
        command.arg("http://localhost/_sim/echo").current_dir("/").output()
    };
    let Ok(output) = status_in(&[CROWD, TEAM]) else {
        eprintln!("skipped: no setpriv here");
        return;
    };
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "200", "{}", sidecar.logs());
    assert_eq!(String::from_utf8(status_in(&[CROWD]).unwrap().stdout).unwrap(), "403");
}

#[test]
fn a_user_in_none_of_the_groups_is_refused() {
    let simulator = simulator();
    let (mut setup, socket) = behind_both(&simulator);
    setup.api("allow_gids", "[4000000000]");
    let _sidecar = setup.start();
    assert_refused(&Sidecar::connect_unix(&socket).send(&Request::get("/_sim/echo")));
}

#[test]
fn a_connection_without_an_owner_is_refused() {
    let simulator = simulator();
    let mut setup = Setup::new(&simulator);
    setup.api("allow_uids", &format!("[0, {}]", getuid().as_raw()));
    let sidecar = setup.start();
    sidecar.signal(Signal::STOP);
    let pid = Pid::from_raw(sidecar.pid().try_into().unwrap());
    waitpid(pid, WaitOptions::UNTRACED).unwrap();
    // No process holds its socket any more by the time the request is read.
    let mut client = TcpStream::connect(sidecar.address()).unwrap();
    client.write_all(&Request::get("/_sim/echo").head()).unwrap();
    drop(client);
    sidecar.signal(Signal::CONT);
    let lines = sidecar.wait_for_access_lines(1);
    assert_eq!((&lines[0]["code"], &lines[0]["uid"]), (&"caller_not_allowed".into(), &Value::Null), "{lines:?}");
    assert_eq!(sidecar.get("/_sim/echo").status, 200, "who is still there is let in");
    assert_eq!(simulator.control().counts().requests, 1);
}

#[test]
fn an_open_connection_follows_a_reload() {
    let simulator = simulator();
    let us = getuid().as_raw();
    let settings = |rest: &str| {
        format!(
            "[accounts.demo]\norganization = \"demo\"\nusername = \"service@demo.example.test\"\npassword = \"demo-password-1\"\n\
             [apis.one]\naccount = \"demo\"\nupstream = \"{}\"\nlisten = \"127.0.0.1:0\"\n{rest}\n",
            simulator.base_url()
        )
    };
    let mut setup = Setup::empty();
    setup.settings(&settings("")).trust(simulator.ca_pem());
    let sidecar = setup.start();
    let mut reloads = 0;
    let mut reload = |listed: &str| {
        sidecar.setup.file("config.toml", &settings(listed));
        sidecar.signal(Signal::HUP);
        reloads += 1;
        sidecar.wait_for_logs("\"message\":\"reloaded\"", reloads);
    };
    for _ in 0..2 {
        let (mut client, mut http2) = (sidecar.connect(), Http2::connect(sidecar.address()));
        let mut statuses = || (client.send(&Request::get("/_sim/echo")).status, http2.get("/_sim/echo").status);
        assert_eq!(statuses(), (200, 200));
        reload(&format!("allow_uids = [{us}]"));
        assert_eq!(statuses(), (200, 200));
        reload(&format!("allow_uids = [{}]", us + 1));
        assert_eq!(statuses(), (403, 403));
        // A connection whose caller is refused is closed.
        assert!(client.is_closed());
        drop(http2.closed());
        reload("");
    }
}

#[test]
fn each_api_at_an_address_has_its_own_callers() {
    let simulator = simulator();
    let us = getuid().as_raw();
    let base = simulator.base_url();
    let api = |name: &str, uid: u32| {
        format!("[apis.{name}]\naccount = \"demo\"\nupstream = \"{base}\"\nprefix = \"/{name}\"\nallow_uids = [{uid}]\n")
    };
    let mut setup = Setup::empty();
    let socket = setup.dir.path().join("api.sock");
    let listen = format!("listen = \"unix:{}\"\n", socket.display());
    setup.settings(&format!(
        "[accounts.demo]\norganization = \"demo\"\nusername = \"service@demo.example.test\"\npassword = \"demo-password-1\"\n{}{listen}{}{listen}",
        api("theirs", us + 1),
        api("ours", us)
    ));
    setup.trust(simulator.ca_pem());
    let _sidecar = setup.start();
    let mut client = Sidecar::connect_unix(&socket);
    assert_eq!(client.send(&Request::get("/ours/_sim/echo")).status, 200);
    assert_eq!(client.send(&Request::get("/neither")).problem(), "no_api", "who may call one of them is told so");
    assert_eq!(client.send(&Request::get("/ours/_sim/echo")).status, 200);
    assert_refused(&client.send(&Request::get("/theirs/_sim/echo")));
    assert!(client.is_closed());
}

#[test]
fn callers_are_judged_after_the_web_page_and_before_the_path() {
    let simulator = simulator();
    let mut setup = Setup::new(&simulator);
    setup.api("allow_uids", &format!("[{}]", getuid().as_raw() + 1)).api("prefix", "\"/api\"");
    let sidecar = setup.start();
    let page = Request::get("/api/_sim/echo").header("Origin", "http://evil.example");
    assert_eq!(sidecar.send(&page).problem(), "cross_site");
    assert_refused(&sidecar.get("/elsewhere"));
    assert_refused(&sidecar.get("/api/auth"));
}

#[test]
fn groups_alone_over_tcp_are_warned_about() {
    let simulator = simulator();
    let (mut setup, _) = behind_both(&simulator);
    setup.api("allow_gids", &format!("[{}]", getgid().as_raw()));
    let output = setup.output("check");
    assert_eq!(output.code, Some(0), "{output:?}");
    assert!(output.all().contains("lets nobody in over TCP"), "{output:?}");
    let sidecar = setup.start();
    assert_refused(&sidecar.get("/_sim/echo"));
}
