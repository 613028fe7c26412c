//! What the log says of a request, what it never says, and that no request waits for its reader.

use std::{
    collections::BTreeSet,
    fs::File,
    io::{BufRead, BufReader, PipeReader, PipeWriter, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    process::{Child, Stdio},
    time::Duration,
};

use careportals_simulator::{LoginFault, Simulator};
use rustix::{
    fs::{OFlags, fcntl_setfl, fstat},
    process::{Pid, Signal, kill_process},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
};
use serde_json::Value;

use crate::harness::{Connection, Crowd, LOGGED_IN, PASSWORD, Request, Setup, Sidecar, never, revoke, simulator, until};

/// Sends one request, and returns its access line.
fn line_of(sidecar: &Sidecar, request: &Request) -> Value {
    sidecar.send(request);
    sidecar.wait_for_access_lines(1).pop().unwrap()
}

#[test]
fn each_request_has_one_line_that_says_just_this() {
    let simulator = simulator();
    let sidecar = Sidecar::start(&simulator);
    let request = Request::post("/_sim/mirror?keyword=ann", "0123456789");
    let line = line_of(&sidecar, &request);
    let fields: BTreeSet<&str> = line.as_object().unwrap().keys().map(String::as_str).collect();
    let expected = [
        "timestamp",
        "level",
        "message",
        "target",
        "api",
        "listener",
        "method",
        "path",
        "status",
        "request_bytes",
        "response_bytes",
        "duration_us",
        "upstream_first_byte_us",
        "request_id",
    ];
    assert_eq!(fields, BTreeSet::from(expected));
    assert_eq!(line["level"], "INFO");
    assert_eq!(line["api"], "default");
    assert_eq!(line["listener"], sidecar.address().to_string());
    assert_eq!(line["method"], "POST");
    assert_eq!(line["path"], "/{…}/{…}");
    assert_eq!(line["status"], 200);
    assert_eq!((&line["request_bytes"], &line["response_bytes"]), (&10.into(), &10.into()));
    assert!(line["duration_us"].as_u64() >= line["upstream_first_byte_us"].as_u64(), "{line}");
}

#[test]
fn the_line_of_a_problem_says_its_code() {
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let sidecar = Setup::plain(gone).start();
    let line = line_of(&sidecar, &Request::get("/users"));
    assert_eq!((&line["status"], &line["code"]), (&502.into(), &"connect_failed".into()), "{line}");
}

#[test]
fn the_line_says_how_often_a_request_was_sent_again_and_what_its_401_did() {
    let simulator = simulator();
    let control = simulator.control();
    let sidecar = Setup::eager(&simulator).start().ready();
    revoke(&simulator);
    control.hold_requests(true);
    let crowd = Crowd::send(&sidecar, 5, &Request::get("/users/account").header("X-Request-Id", "one-of-five"));
    // All of them carry the revoked token.
    until("the upstream has got six requests", || control.counts().requests == 6);
    control.hold_requests(false);
    crowd.succeeds();
    sidecar.wait_for_logs("one-of-five", 5);
    let lines: Vec<_> = sidecar.events().into_iter().filter(|event| event["request_id"] == "one-of-five").collect();
    let relogin = |word: &str| lines.iter().filter(|line| line["relogin"] == word && line["retries"] == 1).count();
    assert_eq!((relogin("done"), relogin("joined")), (1, 4), "{lines:?}");
    let lost = line_with("lost", &sidecar, "/_sim/reset-before?how=rst");
    assert_eq!(
        (&lost["retries"], &lost["code"], &lost["relogin"]),
        (&1.into(), &"upstream_closed".into(), &Value::Null),
        "{lost}"
    );
    revoke(&simulator);
    control.set_login_fault(Some(LoginFault::Status(403)));
    let failed = line_with("failed", &sidecar, "/users/account");
    assert_eq!((&failed["status"], &failed["retries"], &failed["relogin"]), (&401.into(), &Value::Null, &"failed".into()));
}

#[test]
fn a_401_for_a_token_younger_than_the_floor_says_so() {
    let simulator = simulator();
    let sidecar = Sidecar::start(&simulator).ready();
    for id in ["first", "second"] {
        let line = line_with(id, &sidecar, "/_sim/always-401");
        assert_eq!(
            (&line["status"], &line["retries"], &line["relogin"]),
            (&401.into(), &Value::Null, &"too_young".into()),
            "{line}"
        );
    }
    let told = sidecar.events().into_iter().filter(|event| event["relogin_in_s"].is_u64()).collect::<Vec<_>>();
    assert!(told.len() == 1 && told[0]["account"] == "default", "once for each token: {told:?}");
}

/// Asks for `target` with that request id, and returns the access line.
fn line_with(id: &str, sidecar: &Sidecar, target: &str) -> Value {
    sidecar.send(&Request::get(target).header("X-Request-Id", id));
    sidecar.wait_for_event(|event| event["request_id"] == id)
}

#[test]
fn the_first_failure_by_a_code_in_a_minute_is_a_warning() {
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let sidecar = Setup::plain(gone).start();
    for _ in 0..3 {
        assert_eq!(sidecar.get("/users").status, 502);
    }
    assert_eq!(sidecar.get("/auth").status, 403);
    let lines = sidecar.wait_for_access_lines(4);
    let warnings: Vec<_> = lines.iter().filter(|line| line["level"] == "WARN").map(|line| &line["code"]).collect();
    assert_eq!(warnings, ["connect_failed"]);
}

#[test]
fn a_start_is_told_in_a_few_lines_and_one_for_each_api() {
    let simulator = simulator();
    for apis in [1, 3] {
        let mut setup = Setup::controlled(&simulator);
        let password = setup.file("password", PASSWORD);
        setup.with_telemetry().without("CAREPORTALS_PASSWORD").without("CAREPORTALS_UPSTREAM").without("CAREPORTALS_LISTEN");
        setup.variable("CAREPORTALS_LOG", "info").variable("CAREPORTALS_PASSWORD_FILE", password.to_str().unwrap());
        let base = simulator.base_url();
        let api = |index| format!("[apis.api{index}]\nupstream = {base:?}\nlisten = [\"127.0.0.1:0\", \"127.0.0.2:0\"]\n");
        setup.settings(&format!(
            "[accounts.default]\nlogin_url = \"{base}/patient/auth\"\n{}",
            (0..apis).map(api).collect::<String>()
        ));
        let sidecar = setup.start();
        sidecar.wait_for_log(LOGGED_IN);
        sidecar.wait_for_logs("\"listening\"", apis);
        let events = sidecar.events();
        // The account's lines are about the log-in, and a machine may allow too few descriptors, which is a warning.
        let is_of_start = |event: &&Value| event["level"] == "INFO" && !event["target"].as_str().unwrap().contains("account");
        let told: Vec<_> = events.iter().filter(is_of_start).map(|event| event["message"].as_str().unwrap()).collect();
        assert_eq!(told, [vec!["starting", "hardened", "health and metrics"], vec!["listening"; apis]].concat());
        assert_eq!(sidecar.addresses().len(), 2 * apis);
        let admin = events.iter().find(|event| event["message"] == "health and metrics").unwrap();
        assert_eq!(admin["control"], sidecar.setup.control_socket().to_str().unwrap());
    }
}

#[test]
fn of_a_path_only_known_words_and_versions_are_shown() {
    let simulator = simulator();
    let mut setup = Setup::new(&simulator);
    setup.api("path_words", r#"["intake-forms"]"#);
    let sidecar = setup.start();
    for path in [
        "/customers/925b4686443c49ffc136033b/orders?keyword=ann",
        "/v2/checkout/77/start",
        "/intake-forms/ann@example.test/Customers",
        "/vip/v2x/users/",
    ] {
        sidecar.get(path);
    }
    let shown: BTreeSet<String> =
        sidecar.wait_for_access_lines(4).iter().map(|line| line["path"].as_str().unwrap().to_owned()).collect();
    let expected = ["/customers/{…}/orders", "/v2/checkout/{…}/start", "/intake-forms/{…}/{…}", "/{…}/{…}/users/"];
    assert_eq!(shown, expected.map(str::to_owned).into());
}

#[test]
fn access_log_off_silences_the_lines_of_requests_alone() {
    let simulator = simulator();
    let mut setup = Setup::new(&simulator);
    setup.global("access_log", "off");
    let mut sidecar = setup.start();
    assert_eq!(sidecar.get("/_sim/echo").status, 200);
    assert!(sidecar.stop().success());
    let logs = sidecar.logs();
    assert!(!logs.contains("\"request_id\""), "{logs}");
    assert!(logs.contains("logged in"), "{logs}");
    assert!(logs.contains("\"stopped\""), "{logs}");
}

#[test]
fn the_filter_chooses_among_our_own_targets() {
    let simulator = simulator();
    let mut setup = Setup::new(&simulator);
    setup.variable("CAREPORTALS_LOG", "careportals_sidecar::app=info");
    let mut sidecar = setup.start();
    assert_eq!(sidecar.get("/_sim/echo").status, 200);
    assert!(sidecar.stop().success());
    let events = sidecar.events();
    let is_chosen = |target: &str| target == "careportals_sidecar::app" || target.starts_with("careportals_sidecar::app::");
    assert!(events.iter().all(|event| is_chosen(event["target"].as_str().unwrap())), "{events:?}");
    assert!(events.iter().any(|event| event["message"] == "stopped"), "{events:?}");
}

#[test]
fn the_filter_may_silence_access_lines() {
    let simulator = simulator();
    let mut setup = Setup::new(&simulator);
    setup.variable("CAREPORTALS_LOG", "info,careportals_sidecar::access=warn");
    let mut sidecar = setup.start();
    assert_eq!(sidecar.get("/_sim/echo").status, 200);
    assert!(sidecar.stop().success());
    assert!(sidecar.logs().contains("logged in"));
    assert!(!sidecar.logs().contains("\"request_id\""));
}

#[test]
fn a_well_formed_request_id_is_kept_and_any_other_is_replaced() {
    let simulator = simulator();
    let sidecar = Sidecar::start(&simulator);
    let longest = "Az09._-".repeat(9) + "x";
    let too_long = format!("{longest}y");
    let refused = |id: &str| Request::new("TRACE", "/users").header("X-Request-Id", id);
    let asked = [longest.as_str(), too_long.as_str(), "with space", "with/slash", ""];
    let told = asked.map(|id| sidecar.send(&refused(id)).json()["request_id"].as_str().unwrap().to_owned());
    assert_eq!(told[0], longest);
    let is_ours = |id: &String| id.len() == 16 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    assert!(told[1..].iter().all(is_ours), "{told:?}");
    let logged = sidecar.wait_for_access_lines(asked.len());
    let logged: BTreeSet<&str> = logged.iter().map(|line| line["request_id"].as_str().unwrap()).collect();
    assert_eq!(logged, told.iter().map(String::as_str).collect());
    assert!(!sidecar.logs().contains(&too_long));
    assert!(!sidecar.logs().contains("with space"));
}

#[test]
fn a_method_that_is_not_registered_is_logged_as_other() {
    let simulator = simulator();
    let sidecar = Sidecar::start(&simulator);
    let answer = sidecar.send(&Request::new("PROPFIND", "/_sim/echo"));
    assert_eq!(answer.json()["method"], "PROPFIND");
    assert_eq!(sidecar.wait_for_access_lines(1)[0]["method"], "OTHER");
    assert!(!sidecar.logs().contains("PROPFIND"));
}

#[test]
fn text_is_written_when_asked_for() {
    let simulator = simulator();
    let mut setup = Setup::new(&simulator);
    setup.variable("CAREPORTALS_LOG_FORMAT", "text").variable("CAREPORTALS_LISTEN", "127.0.0.1:0");
    let sidecar = setup.start();
    let listening = sidecar.wait_for_log("listener=127.0.0.1:");
    let address: SocketAddr = listening.split("listener=").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
    let mut client = Connection::tcp(TcpStream::connect(address).unwrap());
    assert_eq!(client.send(&Request::get("/users/account").header("X-Request-Id", "seen-1")).status, 200);
    let line = sidecar.wait_for_log("request_id=seen-1");
    assert!(line.contains("Z INFO  request          api=default "), "{line}");
    assert!(line.contains(" method=GET path=/users/account status=200 "), "{line}");
}

#[test]
fn when_nobody_reads_the_log_requests_go_on_and_lost_lines_are_counted() {
    const REQUESTS: u64 = 120;
    let simulator = simulator();
    let mut setup = Setup::new(&simulator);
    // Lines of some 30 kB, so that a queue of a megabyte is soon full.
    let word = "w".repeat(900);
    setup.api("path_words", &format!("[\"{word}\"]"));
    let mut child = setup.command("run").stdout(Stdio::piped()).spawn().unwrap();
    let mut log = BufReader::new(child.stdout.take().unwrap());
    let mut next = || {
        let mut line = String::new();
        log.read_line(&mut line).unwrap();
        serde_json::from_str::<Value>(&line).unwrap()
    };
    let address: SocketAddr = loop {
        let event = next();
        if event["message"] == "listening" {
            break event["listener"].as_str().unwrap().parse().unwrap();
        }
    };
    let mut client = Connection::tcp(TcpStream::connect(address).unwrap());
    let lengthy = Request::get(&format!("/{word}").repeat(32)).host("elsewhere.example");
    for _ in 0..REQUESTS {
        assert_eq!(client.send(&lengthy).status, 421);
    }
    let (mut written, mut dropped) = (0, 0);
    while written + dropped < REQUESTS {
        let event = next();
        if event["target"] == "careportals_sidecar::access" {
            written += 1;
        } else if let Some(lines) = event["dropped"].as_u64() {
            dropped += lines;
        }
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(written + dropped, REQUESTS);
    assert!(written > 20 && dropped > REQUESTS / 2, "{written} {dropped}");
}

/// A pipe whose writer's end does not block, as Node makes of a pipe that it shares.
fn pipe_that_does_not_block() -> (PipeReader, PipeWriter) {
    let (reader, writer) = std::io::pipe().unwrap();
    fcntl_setfl(&writer, OFlags::NONBLOCK).unwrap();
    (reader, writer)
}

#[test]
fn a_log_stream_that_does_not_block_loses_no_line_while_the_queue_has_space() {
    // Together they are longer than a pipe, and shorter than the queue.
    const REQUESTS: usize = 400;
    let (reader, writer) = pipe_that_does_not_block();
    let mut setup = Setup::plain(SocketAddr::from(([127, 0, 0, 1], 1)));
    setup.variable("CAREPORTALS_LOG", "info");
    let mut child = setup.command("run").stdout(writer).spawn().unwrap();
    let mut log = BufReader::new(reader).lines().map(Result::unwrap);
    let listening = log.find(|line| line.contains("\"listening\"")).unwrap();
    let address = serde_json::from_str::<Value>(&listening).unwrap()["listener"].as_str().unwrap().parse().unwrap();
    let mut client = Connection::tcp(TcpStream::connect::<SocketAddr>(address).unwrap());
    // Nobody reads the log meanwhile.
    for _ in 0..REQUESTS {
        assert_eq!(client.send(&Request::get("/users").host("elsewhere.example")).status, 421);
    }
    let mut written = 0;
    while written < REQUESTS {
        let line = log.next().unwrap();
        assert!(!line.contains("dropped"), "{line}");
        written += usize::from(line.contains("\"request_id\""));
    }
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_command_waits_for_the_reader_of_a_pipe_that_does_not_block() {
    let whole = Setup::empty().output_of(&["config", "--json-schema"]).stdout;
    let (mut reader, mut writer) = pipe_that_does_not_block();
    let filled: usize = std::iter::from_fn(|| writer.write(&[b' '; 4096]).ok()).sum();
    let mut child = Setup::empty().command("config").arg("--json-schema").stdout(writer).spawn().unwrap();
    never("it gives up", Duration::from_millis(300), || child.try_wait().unwrap().is_some());
    let mut read = String::new();
    reader.read_to_string(&mut read).unwrap();
    assert_eq!((child.wait().unwrap().code(), &read[filled..]), (Some(0), whole.as_str()));
}

/// Reads what the daemon writes there. Once it listens and its log-in has failed, has it refuse a request and end.
fn lines_of(mut child: Child, output: File) -> Vec<String> {
    let mut output = BufReader::new(output);
    let mut lines = Vec::new();
    let mut line = String::new();
    let (mut address, mut failed) = (None, false);
    // A terminal whose last user has gone is an error to read from.
    while output.read_line(&mut line).is_ok_and(|read| read > 0) {
        if let Some((_, rest)) = line.split_once("listener=").filter(|_| line.contains("listening")) {
            address = Some(rest.trim_start_matches("\x1b[0m").split(' ').next().unwrap().to_owned());
        }
        failed |= line.contains("log-in failed");
        if failed && let Some(address) = address.take() {
            let mut client = Connection::tcp(TcpStream::connect(address).unwrap());
            assert_eq!(client.send(&Request::get("/users").host("elsewhere.example")).status, 421);
            kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
        }
        lines.push(std::mem::take(&mut line).trim_end().to_owned());
    }
    assert!(child.wait().unwrap().success(), "{lines:#?}");
    lines
}

fn with_refused_login() -> (Simulator, Setup) {
    let simulator = simulator();
    let mut setup = Setup::new(&simulator);
    setup
        .variable("CAREPORTALS_PASSWORD", "wrong")
        .variable("CAREPORTALS_LOG", "info")
        .variable("CAREPORTALS_LOG_FORMAT", "auto");
    (simulator, setup)
}

#[test]
fn in_the_journal_each_line_has_its_level_and_no_time() {
    let (_simulator, mut setup) = with_refused_login();
    let (output, input) = std::io::pipe().unwrap();
    let stat = fstat(&input).unwrap();
    setup.variable("JOURNAL_STREAM", &format!("{}:{}", stat.st_dev, stat.st_ino));
    let child = setup.command("run").stdout(input).spawn().unwrap();
    let lines = lines_of(child, File::from(std::os::fd::OwnedFd::from(output)));
    let has = |start: &str| lines.iter().any(|line| line.starts_with(start));
    assert!(has("<6>starting version=") && has("<6>request api=default ") && has("<6>stopped"), "{lines:#?}");
    assert!(has("<4>log-in failed: the server refused the log-in with status 401 account=default state=rejected "), "{lines:#?}");
    assert!(lines.iter().all(|line| line.starts_with('<')), "{lines:#?}");
}

#[test]
fn a_journal_that_standard_output_does_not_go_to_changes_nothing() {
    let (_simulator, mut setup) = with_refused_login();
    setup.variable("JOURNAL_STREAM", "1:1");
    let sidecar = setup.start();
    sidecar.wait_for_log("log-in failed");
    assert!(sidecar.logs().lines().all(|line| line.starts_with('{')), "{}", sidecar.logs());
}

#[test]
fn on_a_terminal_lines_are_aligned_and_coloured_unless_it_is_dumb_or_no_color_is_set() {
    for (objection, dim, level) in [
        (None, "\x1b[2m", "\x1b[32mINFO \x1b[0m"),
        (Some(("NO_COLOR", "1")), "", " INFO "),
        (Some(("TERM", "dumb")), "", " INFO "),
    ] {
        let (_simulator, mut setup) = with_refused_login();
        setup.variable("TERM", "xterm");
        if let Some((name, value)) = objection {
            setup.variable(name, value);
        }
        let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&terminal).unwrap();
        unlockpt(&terminal).unwrap();
        let name = ptsname(&terminal, Vec::new()).unwrap().into_string().unwrap();
        let screen = File::options().write(true).open(name).unwrap();
        let child = setup.command("run").stdout(screen).spawn().unwrap();
        let lines = lines_of(child, File::from(terminal));
        let is_digit = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_digit);
        let has_time =
            |line: &str| line.strip_prefix(dim).is_some_and(|line| is_digit(line.as_bytes().first()) && &line[2..3] == ":");
        assert!(lines.iter().all(|line| has_time(line)), "{lines:#?}");
        let listening = |line: &&String| line.contains(level) && line.contains(" listening        ");
        assert!(lines.iter().any(|line| listening(&line)), "{lines:#?}");
        let request = lines.iter().find(|line| line.contains(" GET /users ")).unwrap();
        let columns = request.replace("\x1b[2m", "").replace("\x1b[33m", "").replace("\x1b[0m", "");
        assert!(columns.contains(" GET /users 421 ") && columns.chars().count() <= 100, "{columns}");
        assert!(columns.contains("B id=") && columns.contains("… code=host_not_allowed"), "{columns}");
        assert_eq!(objection.is_none(), lines.iter().any(|line| line.contains('\x1b')), "{lines:#?}");
    }
}
