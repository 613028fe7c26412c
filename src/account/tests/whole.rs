//! Tests the whole account with real files, a real connection and real time.

use std::{
    fs,
    path::{Path, PathBuf},
};

use rustls::RootCertStore;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::*;
use crate::{clock::SystemClock, connect::Connector, tls::ClientTls};

const PATIENCE: Duration = Duration::from_secs(10);

/// Gives a token for the password `right`, and refuses any other.
async fn server() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = vec![0; 4096];
            let mut filled = 0;
            while !request[..filled].ends_with(b"}") {
                match stream.read(&mut request[filled..]).await {
                    Ok(count) if count > 0 => filled += count,
                    _ => break,
                }
            }
            let knows = request[..filled].windows(7).any(|window| window == b"\"right\"");
            let (status, body) = if knows { ("201 Created", r#"{"token":"t"}"#) } else { ("401 Unauthorized", "{}") };
            let answer = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    port
}

fn connectors(port: u16) -> LoginConnectors {
    let tls = ClientTls::with_roots(RootCertStore::empty()).unwrap();
    let origin = Origin { scheme: Scheme::Http, host: "127.0.0.1".to_owned(), rooted: false, port };
    LoginConnectors { login: Connector::new(&origin, &tls, &crate::config::Egress::default(), PATIENCE).unwrap(), refresh: None }
}

fn start(change: impl FnOnce(&mut Config), port: Option<u16>) -> Account {
    let mut config = config();
    change(&mut config);
    let clock = Arc::new(SystemClock);
    Account::start(Arc::new(config), AccountId(0), port.map(connectors), Start::LogIn, clock, Jitter::seeded(1), Arc::default())
        .unwrap()
}

async fn until(account: &Account, what: impl FnMut(&AccountSnapshot) -> bool) {
    timeout(PATIENCE, account.subscribe().wait_for(what)).await.expect("in good time").expect("while the driver runs");
}

/// Replaces the file in one step, as well-behaved writers do.
fn put(path: &Path, content: &str) {
    let staged = path.with_extension("new");
    fs::write(&staged, content).unwrap();
    fs::rename(staged, path).unwrap();
}

fn password_in(path: PathBuf) -> impl FnOnce(&mut Config) {
    |config| config.accounts[0].login.as_mut().unwrap().password = Source::File(path)
}

#[tokio::test]
async fn a_password_file_that_is_missing_is_named_waited_for_and_then_used() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("password");
    let account = start(password_in(path.clone()), Some(server().await));
    until(&account, |snapshot| snapshot.state() == Some(StateName::BackingOff)).await;
    let error = account.snapshot().last_error().cloned().unwrap();
    assert_eq!(error.code(), "source_missing");
    assert!(error.to_string().contains(path.to_str().unwrap()));
    put(&path, "right\n");
    until(&account, |snapshot| snapshot.state() == Some(StateName::Ready)).await;
    let bearer = account.wait_for_bearer().await.unwrap();
    assert_eq!(bearer.authorization.as_ref().unwrap(), "Bearer t");
    account.shut_down().await;
}

#[tokio::test]
async fn a_rejected_password_that_is_corrected_is_used_at_once() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("password");
    put(&path, "wrong");
    let account = start(password_in(path.clone()), Some(server().await));
    until(&account, |snapshot| snapshot.state() == Some(StateName::Rejected)).await;
    assert_eq!(account.wait_for_bearer().await.unwrap_err().why, Why::LoginRejected);
    put(&path, "right");
    // This is far within the minute after which it would be tried again anyway.
    until(&account, |snapshot| snapshot.state() == Some(StateName::Ready)).await;
    account.shut_down().await;
}

#[tokio::test]
async fn an_organization_alone_is_waited_for_and_followed() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("organization");
    let from_file = path.clone();
    let without_login = |config: &mut Config| {
        config.accounts[0].login = None;
        config.accounts[0].organization = Source::File(from_file);
    };
    let account = start(without_login, None);
    until(&account, |snapshot| snapshot.last_error().is_some()).await;
    assert_eq!(account.wait_for_bearer().await.unwrap_err().why, Why::NoOrganization);
    assert!(matches!(account.log_in().await, Err(LogInFailed::Failed(LoginError::Source(_)))));
    put(&path, "acme\n");
    until(&account, |snapshot| snapshot.standing == Standing::OrganizationKnown).await;
    let first = account.wait_for_bearer().await.unwrap();
    assert_eq!(first.organization, "acme");
    put(&path, "umbrella\n");
    // The bearer is published before the snapshot that wakes us.
    let current = || account.bearer(SystemClock.now().moment);
    until(&account, |_| current().is_some_and(|bearer| bearer.generation > first.generation)).await;
    assert_eq!(current().unwrap().organization, "umbrella");
    account.shut_down().await;
}

/// A pipe stands for the source, so that each reading takes as long as we like.
#[tokio::test]
async fn a_changed_organization_is_withdrawn_before_the_new_one_is_known() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("pipe");
    rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR).unwrap();
    let say = |organization: &'static str| {
        let path = path.clone();
        tokio::task::spawn_blocking(move || fs::write(path, organization).unwrap())
    };
    let mut config = config();
    config.accounts[0].login = None;
    config.accounts[0].organization = Source::Command(vec!["cat".to_owned(), path.to_str().unwrap().to_owned()]);
    let sources = Sources::new(Arc::new(config), AccountId(0)).unwrap();
    let (changes, watched) = mpsc::channel(1);
    let (clock, watch) = (Arc::new(SystemClock), CredentialWatch::scripted(watched));
    let dependencies = Dependencies { start: Start::LogIn, clock, jitter: Jitter::seeded(1), watch, counts: Arc::default() };
    let account = Account::assemble(sources, None, dependencies);
    say("acme").await.unwrap();
    assert_eq!(account.wait_for_bearer().await.unwrap().organization, "acme");
    Changes(changes).send(CredentialChange::Organization).await.unwrap();
    until(&account, |snapshot| snapshot.standing == Standing::OrganizationPending).await;
    assert!(account.bearer(SystemClock.now().moment).is_none());
    say("umbrella").await.unwrap();
    assert_eq!(account.wait_for_bearer().await.unwrap().organization, "umbrella");
    account.shut_down().await;
}

#[tokio::test]
async fn other_terms_are_no_settings_of_a_running_account() {
    let port = server().await;
    let at = |port, change: &dyn Fn(&mut Config)| {
        let mut config = config();
        let login = config.accounts[0].login.as_mut().unwrap();
        login.url = endpoint(port, "/auth");
        login.password = Source::Value(Secret::from("right"));
        change(&mut config);
        Arc::new(config)
    };
    let before = at(port, &|_| {});
    let clock = Arc::new(SystemClock);
    let account =
        Account::start(before, AccountId(0), Some(connectors(port)), Start::LogIn, clock, Jitter::seeded(1), Arc::default())
            .unwrap();
    let bearer = account.wait_for_bearer().await.unwrap();
    for change in [
        (&|config: &mut Config| config.accounts[0].organization = Source::Value(Secret::from("umbrella")))
            as &dyn Fn(&mut Config),
        &|config| config.accounts[0].login.as_mut().unwrap().url = endpoint(9, "/auth"),
        &|config| config.accounts[0].login.as_mut().unwrap().refresh_url = Some(endpoint(9, "/refresh")),
        &|config| config.accounts[0].login = None,
    ] {
        assert!(account.reconfigure(at(port, change), AccountId(0), Some(connectors(port))).await.is_none());
    }
    let kept = at(port, &|config| config.accounts[0].login.as_mut().unwrap().token_wait = PATIENCE);
    let kept = account.reconfigure(kept, AccountId(0), Some(connectors(port))).await.unwrap();
    assert!(kept.is_same(&account));
    for handle in [&account, &kept] {
        assert_eq!(handle.bearer(SystemClock.now().moment).unwrap().generation, bearer.generation, "nothing has changed");
    }
    account.shut_down().await;
}
