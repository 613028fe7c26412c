//! Tests the exchange over a real connection, with a scripted server.

use std::sync::Mutex;

use rustls::RootCertStore;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    task::JoinHandle,
};

use super::*;
use crate::{
    account::tests::{config, endpoint},
    clock::SystemClock,
    config::{AccountId, Config, Source},
    tls::ClientTls,
};

/// A server that answers one connection after the other, then no more.
struct Server {
    port: u16,
    requests: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl Server {
    async fn start(answers: Vec<Vec<u8>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&requests);
        let task = tokio::spawn(async move {
            for answer in answers {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = Vec::new();
                while !is_complete(&request) {
                    let mut piece = [0; 1024];
                    let count = stream.read(&mut piece).await.unwrap();
                    assert!(count > 0, "the request ended early");
                    request.extend_from_slice(&piece[..count]);
                }
                seen.lock().unwrap().push(String::from_utf8(request).unwrap());
                // The other side may have read enough and gone.
                let _ = stream.write_all(&answer).await;
            }
        });
        Self { port, requests, task }
    }

    fn request(&self, number: usize) -> String {
        self.requests.lock().unwrap()[number].clone()
    }
}

fn is_complete(request: &[u8]) -> bool {
    let text = String::from_utf8_lossy(request);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).expect("a length");
    body.len() >= length.parse().unwrap()
}

fn response(status: &str, headers: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status} x\r\n{headers}content-length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

fn connector(port: u16) -> Connector {
    let tls = ClientTls::with_roots(RootCertStore::empty()).unwrap();
    Connector::new(&endpoint(port, "/").origin, &tls, &crate::config::Egress::default(), Duration::from_secs(5)).unwrap()
}

fn log_in_at(port: u16, change: impl FnOnce(&mut Config)) -> HttpLogIn {
    let mut config = config();
    change(&mut config);
    let sources = Sources::new(Arc::new(config), AccountId(0)).unwrap();
    let connectors = LoginConnectors { login: connector(port), refresh: Some(connector(port)) };
    HttpLogIn { sources, connectors, clock: Arc::new(SystemClock) }
}

fn with_login(change: impl FnOnce(&mut Login)) -> impl FnOnce(&mut Config) {
    |config| change(config.accounts[0].login.as_mut().unwrap())
}

async fn answered(answer: Vec<u8>) -> Result<Grant, LoginError> {
    let server = Server::start(vec![answer]).await;
    let answered = outcome(log_in_at(server.port, |_| {}).log_in(None)).await;
    server.task.await.unwrap();
    answered
}

async fn error(answer: Vec<u8>) -> LoginError {
    answered(answer).await.err().expect("no grant")
}

#[tokio::test]
async fn the_request_is_what_the_api_asks_for() {
    let server = Server::start(vec![response("201", "", r#"{"token":"t"}"#)]).await;
    let log_in = log_in_at(server.port, |config| {
        let login = config.accounts[0].login.as_mut().unwrap();
        login.username = Source::Value(Secret::from("ann \"the\" ü"));
        login.username_field = "email".to_owned();
        login.extra.insert("remember".to_owned(), true.into());
        login.headers.append("x-app", HeaderValue::from_static("one"));
        login.headers.append("x-app", HeaderValue::from_static("two"));
        login.headers.insert("accept", HeaderValue::from_static("*/*"));
        login.headers.insert("organization", HeaderValue::from_static("someone-else"));
    });
    let grant = outcome(log_in.log_in(None)).await.unwrap();
    assert!(grant.token.matches(b"t"));
    assert_eq!(grant.organization, "acme");
    let request = server.request(0);
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    let mut lines: Vec<&str> = head.lines().collect();
    assert_eq!(lines.remove(0), "POST /auth HTTP/1.1");
    lines.sort_unstable();
    let host = format!("host: 127.0.0.1:{}", server.port);
    let length = format!("content-length: {}", body.len());
    let agent = concat!("user-agent: careportals-sidecar/", env!("CARGO_PKG_VERSION"));
    let mut expected = vec![
        "accept: */*",
        &length,
        "content-type: application/json",
        &host,
        "organization: acme",
        agent,
        "x-app: one",
        "x-app: two",
    ];
    expected.sort_unstable();
    assert_eq!(lines, expected);
    assert_eq!(body, r#"{"email":"ann \"the\" ü","password":"s3cret","remember":true}"#);
}

#[tokio::test]
async fn the_servers_date_comes_with_the_grant() {
    let date = "date: Fri, 01 Jan 2027 00:00:00 GMT\r\n";
    let grant = answered(response("200", date, r#""t""#)).await.unwrap();
    assert_eq!(grant.server_date, Some(httpdate::parse_http_date("Fri, 01 Jan 2027 00:00:00 GMT").unwrap()));
    let garbage = answered(response("200", "date: soon\r\n", r#""t""#)).await.unwrap();
    assert_eq!(garbage.server_date, None);
}

#[tokio::test]
async fn refusals_are_told_from_failures() {
    for status in ["400", "401", "403", "404", "406", "301", "307", "422", "423"] {
        let code = StatusCode::from_bytes(status.as_bytes()).unwrap();
        let moved = "location: /elsewhere\r\n";
        let answer = response(status, moved, r#"{"message":"ann is unknown","token":"t"}"#);
        let error = error(answer).await;
        assert_eq!(error, LoginError::Refused(code));
        assert!(!format!("{error} {error:?}").contains("ann"), "what the server says is not repeated");
    }
    for status in [408, 421, 425, 500, 501, 502, 503, 504, 599] {
        let code = StatusCode::from_u16(status).unwrap();
        let answer = response(&status.to_string(), "retry-after: 100\r\n", "");
        let retry_after = (status == 503).then(|| Duration::from_secs(100));
        let expected = Unreachable::ServerFailed { status: code, retry_after };
        assert_eq!(error(answer).await, LoginError::Unreachable(expected));
    }
}

#[tokio::test]
async fn retry_after_is_read_in_both_forms() {
    let date = "date: Fri, 01 Jan 2027 00:00:00 GMT\r\n";
    for (after, expected) in [
        ("retry-after: 7\r\n", Some(7)),
        ("retry-after: Fri, 01 Jan 2027 00:01:00 GMT\r\n", Some(60)),
        ("retry-after: 99999999999999999999999\r\n", Some(u64::MAX)),
        ("retry-after: 0\r\n", None),
        ("retry-after: -1\r\n", None),
        ("retry-after: soon\r\n", None),
        ("retry-after: Thu, 31 Dec 2026 00:00:00 GMT\r\n", None),
        ("", None),
    ] {
        let throttled = error(response("429", &format!("{date}{after}"), "")).await;
        assert_eq!(throttled, LoginError::Throttled(expected.map(Duration::from_secs)), "{after}");
        let busy = error(response("503", &format!("{date}{after}"), "")).await;
        assert_eq!(busy.retry_after(), expected.map(Duration::from_secs), "{after}");
    }
}

#[tokio::test]
async fn an_answer_without_use_is_malformed() {
    for (body, expected) in [("", Malformed::NotJson), ("<html>", Malformed::NotJson), ("{}", Malformed::NoToken)] {
        assert_eq!(error(response("200", "", body)).await, LoginError::Malformed(expected), "{body}");
    }
    let large = format!("\"{}\"", "x".repeat(ANSWER_MAX));
    assert_eq!(error(response("200", "", &large)).await, LoginError::Malformed(Malformed::TooLarge));
    let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    let chunked = format!("{head}{:x}\r\n{large}\r\n0\r\n\r\n", large.len());
    assert_eq!(error(chunked.into_bytes()).await, LoginError::Malformed(Malformed::TooLarge));
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_a_failure() {
    let cut = b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{\"token\":\"t\"}".to_vec();
    assert_eq!(error(cut).await, LoginError::Unreachable(Unreachable::Cut));
    let none = error(Vec::new()).await;
    assert!(matches!(none, LoginError::Unreachable(Unreachable::NoAnswer(_))), "{none:?}");
}

#[tokio::test]
async fn nobody_listening_is_a_failure_that_says_so() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let error = outcome(log_in_at(port, |_| {}).log_in(None)).await.err().unwrap();
    assert_eq!(error.to_string(), "the upstream refused the connection");
}

#[tokio::test]
async fn a_server_that_stays_silent_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let log_in = log_in_at(port, with_login(|login| login.timeout = Duration::from_millis(50)));
    assert_eq!(outcome(log_in.log_in(None)).await.err(), Some(LoginError::TimedOut));
}

#[tokio::test]
async fn a_missing_source_is_an_error_before_anything_is_sent() {
    let log_in = log_in_at(9, with_login(|login| login.password = Source::File("/nonexistent/password".into())));
    let error = outcome(log_in.log_in(None)).await.err().unwrap();
    assert_eq!(error.code(), "source_missing");
}

fn refreshable(config: &mut Config) {
    let login = config.accounts[0].login.as_mut().unwrap();
    login.refresh_url = Some(endpoint(9, "/auth/refresh"));
}

fn held() -> Refresh {
    held_for("acme")
}

fn held_for(organization: &'static str) -> Refresh {
    Refresh { token: Arc::new(Secret::from("r1")), organization: HeaderValue::from_static(organization) }
}

#[tokio::test]
async fn a_refresh_token_is_used_first() {
    for (body, next) in [(r#"{"token":"t","refreshToken":"r2"}"#, "r2"), (r#"{"token":"t"}"#, "r1")] {
        let server = Server::start(vec![response("200", "", body)]).await;
        let grant = outcome(log_in_at(server.port, refreshable).log_in(Some(held()))).await.unwrap();
        assert!(grant.refresh.unwrap().matches(next.as_bytes()));
        let request = server.request(0);
        assert!(request.starts_with("POST /auth/refresh HTTP/1.1\r\n"));
        assert!(request.contains("\r\norganization: acme\r\n"));
        assert!(request.ends_with(r#"{"refreshToken":"r1"}"#));
    }
}

#[tokio::test]
async fn a_log_in_is_the_fallback_of_a_failed_refresh() {
    for failure in [response("401", "", ""), response("500", "", ""), response("200", "", "{}"), Vec::new()] {
        let server = Server::start(vec![failure, response("201", "", r#"{"token":"t"}"#)]).await;
        let grant = outcome(log_in_at(server.port, refreshable).log_in(Some(held()))).await.unwrap();
        assert!(grant.token.matches(b"t") && grant.refresh.is_none());
        assert!(server.request(1).starts_with("POST /auth HTTP/1.1\r\n"));
    }
}

#[tokio::test]
async fn a_throttled_refresh_is_not_followed_by_a_log_in() {
    let server = Server::start(vec![response("429", "retry-after: 5\r\n", "")]).await;
    let error = outcome(log_in_at(server.port, refreshable).log_in(Some(held()))).await.err();
    assert_eq!(error, Some(LoginError::Throttled(Some(Duration::from_secs(5)))));
}

#[tokio::test]
async fn without_a_refresh_url_the_refresh_token_is_not_used() {
    let server = Server::start(vec![response("201", "", r#"{"token":"t","refreshToken":"r"}"#)]).await;
    let grant = outcome(log_in_at(server.port, |_| {}).log_in(Some(held()))).await.unwrap();
    assert!(server.request(0).starts_with("POST /auth HTTP/1.1\r\n"));
    assert!(grant.refresh.is_some());
}

#[tokio::test]
async fn a_refresh_token_of_another_organization_is_not_used() {
    let server = Server::start(vec![response("201", "", r#"{"token":"t"}"#)]).await;
    let grant = outcome(log_in_at(server.port, refreshable).log_in(Some(held_for("umbrella")))).await.unwrap();
    assert_eq!(grant.organization, "acme");
    assert!(server.request(0).starts_with("POST /auth HTTP/1.1\r\n"));
}

/// A password that is never there holds the log-in, so nothing but its own order can make the organization come first.
#[tokio::test]
async fn the_organization_is_told_before_the_password_is_there_and_before_anything_is_sent() {
    let server = Server::start(vec![response("201", "", r#"{"token":"t"}"#)]).await;
    let slow = with_login(|login| login.password = Source::Command(vec!["sleep".to_owned(), "60".to_owned()]));
    let Progress::OrganizationRead { organization, rest } = log_in_at(server.port, slow).log_in(None).await else {
        panic!("the organization comes first");
    };
    assert_eq!(organization.unwrap(), "acme");
    assert!(timeout(Duration::from_millis(50), rest).await.is_err(), "the password is waited for");
    assert!(server.requests.lock().unwrap().is_empty());
    for refresh in [None, Some(held())] {
        let Progress::OrganizationRead { rest, .. } = log_in_at(server.port, refreshable).log_in(refresh).await else {
            panic!("the organization comes first");
        };
        drop(rest);
    }
    assert!(server.requests.lock().unwrap().is_empty(), "and whoever drops the rest has sent nothing");
}

#[tokio::test]
async fn an_organization_that_no_header_can_hold_is_told_too() {
    let unfit = |config: &mut Config| config.accounts[0].organization = Source::Value(Secret::from(" acme"));
    let Progress::OrganizationRead { organization: None, rest } = log_in_at(9, unfit).log_in(None).await else {
        panic!("it is another organization than that of any token");
    };
    assert_eq!(outcome(rest).await.err().unwrap().code(), "source_invalid");
    let missing = |config: &mut Config| config.accounts[0].organization = Source::File("/nonexistent/organization".into());
    let Progress::Ended(Err(error)) = log_in_at(9, missing).log_in(None).await else {
        panic!("a file that is absent says nothing of the organization");
    };
    assert_eq!(error.code(), "source_missing");
}

#[test]
fn the_time_for_which_an_answer_may_have_been_on_its_way_is_no_time_of_the_tokens_life() {
    let now = |millis: u64| Now {
        moment: Moment::new(Duration::from_millis(90_000 + millis)),
        wall: std::time::UNIX_EPOCH + Duration::from_millis(7_000_000 + millis),
    };
    let (asked, awake) = (now(0).moment, Duration::from_millis);
    assert_eq!(as_of_date(now(0), None, asked, awake(0)), now(0));
    assert_eq!(as_of_date(now(600), None, asked, awake(600)), now(0));
    assert_eq!(as_of_date(now(5000), None, asked, awake(5000)), now(4000), "a server that is slow may write it at the end");
    assert_eq!(as_of_date(now(205_000), None, asked, awake(5000)), now(4000), "the answer may have waited through a suspend");
    assert_eq!(as_of_date(now(200_100), None, asked, awake(100)), now(0));
    // The clocks agree: what the answer was held back for is known.
    for (date, expected) in [(0, 0), (1000, 1000), (3000, 3000), (7000, 7000), (7500, 7000), (8000, 7000)] {
        let date = Some(now(date).wall);
        assert_eq!(as_of_date(now(8000), date, asked, awake(8000)), now(expected), "{date:?}");
    }
    // A second more or less is no disagreement: then it was held back all the time.
    for behind in [500, 1200, 30_000] {
        assert_eq!(as_of_date(now(8000), Some(now(0).wall - Duration::from_millis(behind)), asked, awake(8000)), now(0));
    }
    // They do not: the server's is ahead or behind by more than the answer took.
    for date in [now(9000).wall, now(0).wall - Duration::from_millis(30_001)] {
        assert_eq!(as_of_date(now(8000), Some(date), asked, awake(8000)), now(7000));
    }
}
