//! Tests the program: the line it prints, its files, its admin port and its end.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::client::tls;

pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_careportals-simulator");

/// A program that is killed when this is dropped, so that a failed test leaves none behind.
pub(crate) struct KilledOnDrop(Child);

impl Drop for KilledOnDrop {
    fn drop(&mut self) {
        // Both fail if the program has ended already, as it has after most tests.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts the program on free ports; its two addresses come from the line it prints.
pub(crate) fn started(flags: &[&str]) -> (KilledOnDrop, SocketAddr, SocketAddr) {
    let child = Command::new(PROGRAM)
        .args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
        .args(flags)
        .stdout(Stdio::piped())
        .spawn()
        .expect("started");
    let mut running = KilledOnDrop(child);
    let mut line = String::new();
    BufReader::new(running.0.stdout.take().expect("piped")).read_line(&mut line).expect("a line");
    let address = |after: &str| {
        let rest = line.split_once(after).expect("in the line").1;
        let end = rest.find(|c: char| c == ',' || c.is_whitespace()).unwrap_or(rest.len());
        rest[..end].parse().expect("an address")
    };
    let (listen, admin) = (address("https://"), address("http://"));
    (running, listen, admin)
}

/// One call to the admin port.
pub(crate) fn admin(address: SocketAddr, method: &str, target: &str, host: &str, body: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).expect("connected");
    let length = body.len();
    write!(stream, "{method} {target} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}")
        .expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let status = answer.split(' ').nth(1).expect("a status").parse().expect("a number");
    (status, answer.split_once("\r\n\r\n").expect("a body").1.to_owned())
}

#[tokio::test]
async fn the_program_serves_follows_its_admin_port_and_ends_on_sigterm() {
    let ca_file = std::env::temp_dir().join(format!("careportals-simulator-{}.pem", std::process::id()));
    let flags = ["--ca-out", ca_file.to_str().expect("text"), "--token-life", "30s", "--clock-offset", "-5"];
    let (mut running, listen, port) = started(&flags);
    let ca = std::fs::read_to_string(&ca_file).expect("written");
    std::fs::remove_file(&ca_file).expect("removed");
    tls(listen, &ca, b"h2").await.expect("trusted");
    let local = port.to_string();
    let json = |answer: (u16, String)| -> Value {
        assert_eq!(answer.0, 200, "{}", answer.1);
        serde_json::from_str(&answer.1).expect("JSON")
    };

    assert_eq!(admin(port, "GET", "/ca.pem", &local, ""), (200, ca));
    assert_eq!(json(admin(port, "GET", "/counts", &local, ""))["connections"], 1);
    assert_eq!(json(admin(port, "GET", "/requests", &local, "")), json!([]));
    let settings = json!({
        "token_life": "5s", "latency": "1ms", "login_delay": "0s", "clock_offset": 10, "omit_date": true, "http2": false,
        "login_fault": "status:503", "fail_next_logins": { "times": 2, "fault": "garbage" },
        "credentials": { "organization": "acme", "username": "u", "password": "p" },
    });
    json(admin(port, "POST", "/settings", &local, &settings.to_string()));
    assert!(tls(listen, &admin(port, "GET", "/ca.pem", &local, "").1, b"h2").await.is_err(), "no HTTP/2 any more");
    json(admin(port, "POST", "/settings", &local, r#"{"fail_next_logins":null}"#));
    assert_eq!(admin(port, "POST", "/settings", &local, r#"{"latency":"soon"}"#).0, 400);
    for target in ["/revoke", "/revoke?organization=demo", "/drop-connections", "/reset"] {
        json(admin(port, "POST", target, &local, ""));
    }
    assert_eq!(json(admin(port, "GET", "/counts", &local, ""))["connections"], 0);
    assert_eq!(admin(port, "GET", "/counts", "rebound.example.test", "").0, 403);
    assert_eq!(admin(port, "GET", "/nothing", &local, "").0, 404);

    let pid = running.0.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().expect("told").success());
    assert!(running.0.wait().expect("ended").success());
}

#[test]
fn an_opened_admin_port_takes_containers_names_and_no_web_page() {
    let (_running, _, port) = started(&["--admin-open"]);
    for host in ["simulator:8444", "10.0.0.7:8444", "[fd00::7]:8444", "localhost"] {
        assert_eq!(admin(port, "GET", "/counts", host, "").0, 200, "{host}");
    }
    for host in ["rebound.example.test", "rebound.example.test:8444", "", "simulator\r\norigin: http://web.example.test"] {
        assert_eq!(admin(port, "GET", "/counts", host, "").0, 403, "{host}");
    }
}

#[test]
fn the_health_check_asks_a_running_simulator_and_is_not_counted() {
    let (running, _, port) = started(&[]);
    let check = || {
        let asked = Command::new(PROGRAM).args(["--healthcheck", "--admin", &port.to_string()]).output().expect("ran");
        (asked.status.code(), asked.stdout.len())
    };
    assert_eq!(check(), (Some(0), 0));
    let counts: Value = serde_json::from_str(&admin(port, "GET", "/counts", "localhost", "").1).expect("JSON");
    assert_eq!((&counts["connections"], &counts["handshakes_failed"]), (&json!(0), &json!(0)));
    drop(running);
    assert_eq!(check(), (Some(1), 0));
}

#[tokio::test]
async fn the_last_of_the_two_flags_for_http2_counts() {
    for (flags, offered) in [(["--http2", "--no-http2"], false), (["--no-http2", "--http2"], true)] {
        let (_running, listen, port) = started(&flags);
        let ca = admin(port, "GET", "/ca.pem", "localhost", "").1;
        assert_eq!(tls(listen, &ca, b"h2").await.is_ok(), offered, "{flags:?}");
    }
}

#[test]
fn wrong_flags_are_reported() {
    let told = |flags: &[&str]| {
        let output = Command::new(PROGRAM).args(flags).output().expect("ran");
        (output.status.code(), String::from_utf8(output.stderr).expect("text"))
    };
    let (code, text) = told(&["--token-life", "soon"]);
    assert!(code == Some(2) && text.contains("expected a duration"), "{text}");
    let (code, text) = told(&["--login-fault", "nonsense"]);
    assert!(code == Some(2) && text.contains("retry-after:CODE:VALUE"), "{text}");
    let (code, text) = told(&["--listen", "127.0.0.1:0", "--routes", "/nowhere.json"]);
    assert!(code == Some(1) && text.contains("/nowhere.json: No such file"), "{text}");
    let (code, text) = told(&["--listen", "127.0.0.1:0", "--admin", "0.0.0.0:0"]);
    assert!(code == Some(1) && text.contains("loopback"), "{text}");
}

/// A folder for one test's files; it is removed when this is dropped.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("careportals-simulator-{name}-{}", std::process::id()));
        std::fs::create_dir(&folder).expect("a folder");
        Self(folder)
    }

    fn file(&self, name: &str, text: &str) -> String {
        let file = self.0.join(name);
        std::fs::write(&file, text).expect("written");
        file.to_str().expect("text").to_owned()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn json((status, body): (u16, String)) -> Value {
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).expect("JSON")
}

/// Runs the program, which refuses to start, and returns what it told.
fn refused(flags: &[&str]) -> String {
    let output = Command::new(PROGRAM).args(["--listen", "127.0.0.1:0"]).args(flags).output().expect("ran");
    assert_eq!(output.status.code(), Some(1));
    String::from_utf8(output.stderr).expect("text")
}

#[test]
fn routes_come_from_files_and_from_the_admin_port() {
    let folder = Folder::new("routes");
    let openapi = folder.file("api.yaml", include_str!("openapi.yaml"));
    // The second file changes a route of the first.
    let routes =
        folder.file("routes.json", r#"[{"path":"/customers/{id}/notes/{note}","latency":"1ms"},{"path":"/mine","body":1}]"#);
    let (_running, _, port) = started(&["--openapi", &openapi, "--routes", &routes]);
    let local = port.to_string();
    let call = |method: &str, target: &str, body: &str| admin(port, method, target, &local, body);
    let at_start = json!([
        "DELETE /customers/{id}/notes/{note}",
        "GET /customers/{id}/notes/{note}",
        "GET /mine",
        "GET /shops",
        "POST /customers/{id}/notes",
    ]);
    assert_eq!(json(call("GET", "/routes", ""))["routes"], at_start);
    let added = json(call("POST", "/routes", r#"{"routes":[{"path":"/added","status":204}]}"#));
    assert_eq!(added["routes"][1], "GET /added", "{added}");
    let (status, fault) = call("POST", "/routes", r#"[{"path":"/other","body":1},{"path":"/x/{id}","body":"{{path.ID}}"}]"#);
    assert_eq!(status, 400);
    let expected = r#"route 2 (GET /x/{id}), member "body": the path has no parameter {ID}; it has {id}"#;
    assert_eq!(serde_json::from_str::<Value>(&fault).expect("JSON")["message"], expected);
    assert_eq!(json(call("GET", "/routes", "")), added, "all or none");
    assert_eq!(json(call("POST", "/openapi", include_str!("openapi.yaml")))["skipped"].as_array().map(Vec::len), Some(1));
    assert_eq!(call("POST", "/openapi", "{}").0, 400);
    assert_eq!(json(call("DELETE", "/routes", ""))["routes"], at_start);
}

#[test]
fn a_wrong_file_of_routes_is_told_by_its_name_route_and_member() {
    let folder = Folder::new("wrong-routes");
    let file = folder.file("routes.json", r#"{"routes":[{"path":"/a","body":1,"status":"ok"},{"path":"b","body":1}]}"#);
    let told = refused(&["--routes", &file]);
    assert!(
        told.contains(&format!("{file}: route 1 (GET /a), member \"status\": expected a number from 200 to 999\n")),
        "{told}"
    );
    assert!(told.contains(&format!("{file}: route 2 (GET b), member \"path\": expected a path that begins")), "{told}");
    assert!(refused(&["--routes", &folder.file("r.json", "{")]).contains("expected JSON: EOF"));
    assert!(refused(&["--openapi", &folder.file("o.json", "{}")]).contains("no OpenAPI document"));
}

#[test]
fn the_settings_are_shown_as_they_are_sent_and_show_no_password_but_those_of_the_guide() {
    let (_running, _, port) = started(&["--organization", "acme", "--username", "a@b#acme", "--password", "secret-1"]);
    let local = port.to_string();
    let call = |method: &str, target: &str, body: &str| admin(port, method, target, &local, body);
    let change = json!({ "token_life": "90m", "login_fault": "retry-after:429:7", "hold_logins": true, "new_user_token": true,
                         "fail_next_logins": { "times": 2, "fault": "garbage" }, "max_concurrent_streams": null });
    json(call("POST", "/settings", &change.to_string()));
    let shown = json(call("GET", "/settings", ""));
    assert!(!shown.to_string().contains("secret-1"));
    assert_eq!(shown["users"][0], json!({ "organization": "acme", "username": "a@b#acme", "password": "[hidden]" }));
    assert_eq!(shown["users"][1]["password"], "demo-password-1");
    assert_eq!(shown["next_login_faults"], json!([{ "times": 2, "fault": "garbage" }]));
    let settings = &shown["settings"];
    assert_eq!((&settings["token_life"], &settings["login_fault"]), (&json!("1h30m"), &json!("retry-after:429:7")));
    assert_eq!((&settings["hold_logins"], &settings["max_concurrent_streams"]), (&json!(true), &Value::Null));
    json(call("POST", "/settings", &settings.to_string()));
    assert_eq!(json(call("GET", "/settings", "")), shown, "what is shown can be sent back");
    let (status, fault) = call("POST", "/settings", r#"{"tokens":1}"#);
    assert!(status == 400 && fault.contains("there are token_life, latency"), "{fault}");
}

#[test]
fn the_index_lists_every_call_that_the_admin_port_has() {
    let (_running, _, port) = started(&[]);
    let local = port.to_string();
    let index = admin(port, "GET", "/", &local, "").1;
    for part in [
        "GET /customers/{id}",
        "POST /patient/auth",
        "/_sim/echo",
        "new_user_token",
        "javascript-error",
        "truncated",
        "own routes\n\n  none",
    ] {
        assert!(index.contains(part), "{part} is missing in {index}");
    }
    let calls = index.lines().skip_while(|line| !line.starts_with("Calls")).skip(2).take_while(|line| !line.is_empty());
    let calls: Vec<(&str, &str)> = calls.filter_map(|line| line.trim().split_once(' ')).collect();
    assert!(calls.len() > 12, "{index}");
    for (method, rest) in calls {
        let path = rest.trim().split(' ').next().expect("a path");
        let (status, answer) = admin(port, method, path, &local, "");
        assert_ne!(status, 404, "{method} {path}: {answer}");
    }
}

/// Makes an authority with openssl, as the guide does unless `extra` says otherwise; `None` where there is no openssl.
fn authority(folder: &Folder, name: &str, extra: &[&str]) -> Option<String> {
    let (key, certificate) = (folder.0.join("key.pem"), folder.0.join("certificate.pem"));
    let usage: &[&str] =
        if extra.concat().contains("keyUsage") { &[] } else { &["-addext", "keyUsage=critical,keyCertSign,cRLSign"] };
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/O=Acme/CN=CI tests"])
        .args(usage)
        .args(extra)
        .arg("-keyout")
        .arg(&key)
        .arg("-out")
        .arg(&certificate)
        .output();
    let Ok(made) = made else {
        eprintln!("not run: there is no openssl");
        return None;
    };
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let read = |file: &PathBuf| std::fs::read_to_string(file).expect("made");
    Some(folder.file(name, &format!("{}{}", read(&certificate), read(&key))))
}

#[tokio::test]
async fn a_fixed_authority_signs_the_certificate_and_shows_its_key_to_nobody() {
    let folder = Folder::new("authority");
    let Some(file) = authority(&folder, "ca-in.pem", &[]) else { return };
    let certificate = std::fs::read_to_string(folder.0.join("certificate.pem")).expect("made");
    let out = folder.0.join("ca.pem");
    for _ in 0..2 {
        let (_running, listen, port) = started(&["--ca-in", &file, "--ca-out", out.to_str().expect("text")]);
        tls(listen, &certificate, b"h2").await.expect("trusted");
        assert_eq!(std::fs::read_to_string(&out).expect("written"), certificate);
        assert_eq!(admin(port, "GET", "/ca.pem", "localhost", "").1, certificate);
    }
}

#[test]
fn an_authority_that_clients_would_refuse_is_refused_at_the_start() {
    let folder = Folder::new("wrong-authority");
    let Some(good) = authority(&folder, "good.pem", &[]) else { return };
    let good = std::fs::read_to_string(good).expect("made");
    let (certificate, key) = good.split_at(good.find("-----BEGIN PRIVATE KEY").expect("a key"));
    let leaf = authority(&folder, "leaf.pem", &["-addext", "basicConstraints=critical,CA:FALSE"]).expect("openssl");
    let twice = authority(&folder, "twice.pem", &["-subj", "/OU=one/OU=two/CN=x"]).expect("openssl");
    let no_signer = authority(&folder, "no-signer.pem", &["-addext", "keyUsage=critical,digitalSignature"]).expect("openssl");
    let other = authority(&folder, "other.pem", &[]).expect("openssl");
    let other = std::fs::read_to_string(other).expect("made");
    let other_key = &other[other.find("-----BEGIN PRIVATE KEY").expect("a key")..];
    for (file, told) in [
        (folder.file("a.pem", certificate), "there is no private key in PEM"),
        (folder.file("b.pem", key), "there is no certificate in PEM"),
        (folder.file("c.pem", &format!("{certificate}{other_key}")), "the key is not that of the certificate"),
        (leaf, "the certificate is not one of an authority"),
        (twice, "its name can't be copied; make it with a subject such as"),
        (no_signer, "the certificate does not say that it may sign others; make it with keyUsage="),
    ] {
        let text = refused(&["--ca-in", &file]);
        assert!(text.contains(told), "{text}");
        assert!(!text.contains("PRIVATE KEY"), "{text}");
    }
}

#[tokio::test]
async fn the_log_has_one_line_for_each_request_and_no_ids() {
    let folder = Folder::new("log");
    let ca = folder.0.join("ca.pem");
    let child = Command::new(PROGRAM)
        .args(["--listen", "127.0.0.1:0", "--no-http2", "--log", "--ca-out", ca.to_str().expect("text")])
        .stdout(Stdio::piped())
        .spawn()
        .expect("started");
    let mut running = KilledOnDrop(child);
    let mut lines = BufReader::new(running.0.stdout.take().expect("piped")).lines().map(|line| line.expect("text"));
    let first = lines.next().expect("a line");
    let listen = first.split("https://").nth(1).expect("an address").trim().parse().expect("an address");
    let ca = std::fs::read_to_string(&ca).expect("written");
    let mut stream = tls(listen, &ca, b"http/1.1").await.expect("trusted");
    for (request, line) in [
        ("POST /patient/auth", "POST /patient/auth 400"),
        ("GET /customers/0123456789abcdef01234567?email=a%40b", "GET /customers/{id} 400"),
        ("GET /nothing/0123456789abcdef01234567", "GET (unknown route) 400"),
        ("0123456789abcdef01234567 /customers", "- (unknown route) 400"),
    ] {
        let request = format!("{request} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut answer = [0; 1024];
        assert!(stream.read(&mut answer).await.expect("read") > 0);
        assert_eq!(lines.next().as_deref(), Some(line));
    }
}

#[test]
fn an_address_that_is_taken_is_named_with_the_flag_for_another() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("its address").to_string();
    let output = Command::new(PROGRAM).args(["--listen", &address]).output().expect("ran");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains(&format!("can't listen on {address}: ")) && said.contains("--listen"), "{said}");
}

#[test]
fn a_health_check_finds_no_simulator_that_is_not_prepared() {
    let folder = Folder::new("prepared");
    // Nobody writes to the pipe, so the program waits for its routes.
    let pipe = folder.0.join("routes.json");
    assert!(Command::new("mkfifo").arg(&pipe).status().expect("ran").success());
    let port = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a port");
    let child = Command::new(PROGRAM)
        .args(["--listen", "127.0.0.1:0", "--admin", &port.to_string(), "--routes"])
        .arg(&pipe)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("started");
    let mut running = KilledOnDrop(child);
    while TcpStream::connect(port).is_err() {
        assert_eq!(running.0.try_wait().expect("asked"), None, "it has ended");
        std::thread::yield_now();
    }
    let check = || Command::new(PROGRAM).args(["--healthcheck", "--admin", &port.to_string()]).output().expect("ran").status;
    assert_eq!(check().code(), Some(1));
    std::fs::write(&pipe, r#"[{"path":"a"}]"#).expect("read by the program");
    assert_eq!(running.0.wait().expect("ended").code(), Some(1));
    assert_eq!(check().code(), Some(1));
}
