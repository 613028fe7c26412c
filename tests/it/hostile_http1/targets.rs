//! What is asked for: targets of every form, and the way to a log-in in every disguise.

use crate::harness::hostile_http1::{Case, Client, Fate, Fate::*, Stage, play};

fn get((fate, target): &(Fate, &str)) -> Case {
    (*fate, format!("GET {target} HTTP/1.1\r\nHost: localhost\r\nX-Case: CASE\r\n\r\n"))
}

const TARGETS: &[(Fate, &str)] = &[
    (Passes, "/CASE"),
    (Passes, "//CASE"),
    (Passes, "//elsewhere.example.test/CASE"),
    (Passes, "/CASE//../../.././"),
    (Passes, "/CASE/%00%0d%0aHost:%20x"),
    (Passes, "/CASE%20HTTP/1.1%0d%0aX:%20y"),
    (Passes, "/CASE?http://elsewhere.example.test/"),
    (Passes, "/CASE\\..\\x"),
    (Passes, "/CASE%"),
    (Passes, "/CASE%zz%u0041"),
    (Passes, "/CASE?{}|^`"),
    (Closed(400), "/CASE?\""),
    (Closed(400), "/CASE?<>"),
    (Closed(400), "/CASE<>"),
    (Passes, "/CASE#fragment"),
    (Passes, "/CASE?a#/../smuggled"),
    (Passes, "/CASE/\u{c3}\u{a9}"),
    (Passes, "/http://elsewhere.example.test/CASE"),
    (Passes, "/@elsewhere.example.test/CASE"),
    (Passes, "http://localhost/CASE"),
    (Passes, "http://LOCALHOST:1/CASE"),
    (Passes, "http://127.0.0.1"),
    (Passes, "http://localhost?CASE"),
    (Closed(400), "/CASE/\x01"),
    (Closed(400), "/CASE/\x7f"),
    (Closed(400), "/CASE/\x1b[0m"),
    (Closed(400), "/CASE/\u{ff}"),
    (Closed(400), "/CASE/\u{c3}"),
    (Closed(400), "/CASE\x0b/"),
    (Closed(400), "/CASE\u{a0}/"),
    (Closed(400), "#CASE"),
    (Closed(400), "?CASE"),
    (Refused(400), "CASE"),
    (Closed(400), "./CASE"),
    (Closed(400), "\\CASE"),
    (Closed(400), ""),
    (Refused(400), "*"),
    (Refused(400), "http://elsewhere.example.test/CASE"),
    (Refused(400), "http://localhost.example.test/CASE"),
    (Refused(400), "http://localhost@elsewhere.example.test/CASE"),
    (Refused(400), "http://elsewhere.example.test@localhost/CASE"),
    (Refused(400), "http://user:secret@localhost/CASE"),
    (Closed(400), "http://localhost:80:80/CASE"),
    (Refused(400), "http://localhost:99999/CASE"),
    (Closed(400), "http://localhost\\@elsewhere.example.test/CASE"),
    (Closed(400), "http://[::1/CASE"),
    (Refused(400), "http://[::1]x/CASE"),
    (Closed(400), "http:///CASE"),
    (Closed(400), "http:/CASE"),
    (Refused(400), "http:CASE"),
    (Closed(400), "http://"),
    (Refused(400), "https://localhost/CASE"),
    (Refused(400), "ftp://localhost/CASE"),
    (Closed(400), "file:///etc/passwd"),
    (Refused(400), "javascript:CASE"),
    (Closed(400), "unix:/CASE"),
    (Refused(400), "localhost:443"),
    (Refused(400), "elsewhere.example.test:443"),
    (Refused(400), "localhost"),
];

const METHODS: &[(Fate, &str)] = &[
    (Refused(405), "CONNECT localhost:443"),
    (Refused(405), "CONNECT elsewhere.example.test:443"),
    (Refused(405), "CONNECT /CASE"),
    (Refused(405), "CONNECT http://localhost/CASE"),
    (Refused(405), "CONNECT *"),
    (Refused(405), "TRACE /CASE"),
    (Refused(405), "TRACE *"),
    (Passes, "OPTIONS *"),
    (Passes, "OPTIONS /CASE"),
    (Refused(400), "POST *"),
    (Refused(400), "HEADER *"),
    (Passes, "trace /CASE"),
    (Passes, "connect /CASE"),
    (Closed(400), "CONNECT"),
    (Closed(400), "CONNECT "),
];

const LOGINS: &[&str] = &[
    "/auth",
    "/AuTh",
    "/auth/",
    "//auth",
    "///auth///",
    "/auth?",
    "/auth?a=/b",
    "/auth#",
    "/auth#/users",
    "/auth;",
    "/auth;a=b",
    "/auth;/",
    "/;a/auth",
    "/auth/.",
    "/./auth",
    "/a/../auth",
    "/auth/a/..",
    "/../auth",
    "/..;/auth",
    "/a/..;b/auth",
    "/auth.",
    "/%61uth",
    "/%61%75%74%68",
    "/%2561uth",
    "/%25252561uth",
    "/auth%2f",
    "/auth%2F.",
    "/%2fauth",
    "/auth%00",
    "/auth%00.json",
    "/auth%3b",
    "/auth%23x",
    "/auth%3Fx",
    "/auth%20",
    "/auth%09",
    "/\\auth",
    "/auth\\",
    "/a\\..\\auth",
    "/%5cauth",
    "/%2e/auth",
    "/a/%2e%2E/auth",
    "/a/%252e%252e/auth",
    "/patient/auth",
    "/PATIENT/AUTH",
    "/patient//auth",
    "/patient/./auth",
    "/patient;a/auth",
    "/patient%2fauth",
    "/patient%252fauth",
    "/patient\\auth",
    "/patient/a/../auth/",
    "/auth/login",
    "/auth%2Flogin",
    "/auth/refresh/../login",
    "/patient/auth/login",
    "http://localhost/auth",
    "http://LOCALHOST:80//auth/",
    "HTTP://127.0.0.1/patient%2fauth?x",
    "http://[::1]/a/../auth",
];

/// Targets for a sidecar whose rules allow everything below one path but one of its branches.
const RULED: &[(Fate, &str)] = &[
    (Passes, "/open/CASE"),
    (Passes, "/open/CASE/x?deny=/open/shut/../.."),
    (Passes, "/open/CASE#/../shut"),
    (Passes, "http://localhost/open/CASE"),
    (Refused(403), "/shut/CASE"),
    (Refused(403), "/open/shut/CASE"),
    (Refused(403), "/open/shut"),
    (Refused(403), "/OPEN/CASE"),
    (Refused(403), "/"),
    (Refused(403), "http://localhost/shut/CASE"),
    (Refused(400), "//open/CASE"),
    (Refused(400), "/open//shut/CASE"),
    (Refused(400), "/open/./CASE"),
    (Refused(400), "/open/CASE/../shut"),
    (Refused(400), "/open/CASE/.."),
    (Refused(400), "/open/CASE/%2e%2e/shut"),
    (Refused(400), "/open/CASE/%2E./shut"),
    (Refused(400), "/open/..%2fshut/CASE"),
    (Refused(400), "/open/%73hut/CASE"),
    (Refused(400), "/open/CASE%2f..%2fshut"),
    (Refused(400), "/open/CASE%5c..%5cshut"),
    (Refused(400), "/open/CASE\\..\\shut"),
    (Refused(400), "/open/CASE%00"),
    (Refused(400), "/%6fpen/CASE"),
    (Refused(400), "http://localhost/open/../shut/CASE"),
    (Refused(400), "http://elsewhere.example.test/open/CASE"),
];

#[test]
fn a_disguised_path_gets_around_no_rule() {
    let stage = Stage::new(|setup| {
        setup.api("allow", r#"["GET /open/**", "GET /*/probe", "GET /case-none"]"#).api("deny", r#"["* /open/shut/**"]"#);
    });
    stage.play(Client::InOnePiece, RULED.iter().map(get));
}

#[test]
fn a_target_arrives_as_it_was_judged_or_not_at_all() {
    play(TARGETS.iter().map(get));
}

#[test]
fn a_method_arrives_as_written_or_not_at_all() {
    let ask = |(fate, line): &(Fate, &str)| (*fate, format!("{line} HTTP/1.1\r\nHost: localhost\r\nX-Case: CASE\r\n\r\n"));
    play(METHODS.iter().map(ask));
}

#[test]
fn a_disguised_log_in_path_is_refused() {
    let ask = |target: &&str| (Refused(403), format!("GET {target} HTTP/1.1\r\nHost: localhost\r\nX-Case: CASE\r\n\r\n"));
    play(LOGINS.iter().map(ask));
}

/// A client that wants a token sends credentials in the body.
#[test]
fn a_disguised_log_in_path_is_refused_with_a_body_too() {
    let body = r#"{"username":"CASE","password":"b"}"#;
    let ask = |target: &&str| {
        let length = body.len() + "case-000".len() - "CASE".len();
        (Refused(403), format!("POST {target} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n{body}"))
    };
    play(LOGINS.iter().map(ask));
}
