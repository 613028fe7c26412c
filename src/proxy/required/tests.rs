use std::fs;

use http::HeaderValue;
use tempfile::TempDir;
use tokio::time::timeout;

use super::*;
use crate::{
    config::{RequireHeader, fixture},
    proxy::headers::tests::api,
};

fn config(value: Option<Source>) -> Arc<Config> {
    let mut api = api();
    api.require_header = Some(RequireHeader { name: HeaderName::from_static("x-app"), value });
    Arc::new(Config { apis: vec![api], ..fixture::config() })
}

async fn begun(value: Source) -> Required {
    Required::begin(&config(Some(value)), 0, None).await.unwrap()
}

fn text(value: &str) -> Source {
    Source::Value(Secret::from(value))
}

fn command(script: &str) -> Source {
    Source::Command(["sh", "-c", script].map(str::to_owned).to_vec())
}

fn is_met(required: &Required, lines: &[(&'static str, &str)]) -> bool {
    let lines = lines.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap()));
    let mut headers = HeaderMap::new();
    for (name, value) in lines {
        headers.append(name, value);
    }
    required.is_met(&headers)
}

fn takes(required: &Required, value: &str) -> bool {
    is_met(required, &[("host", "localhost"), ("x-app", value)])
}

#[tokio::test]
async fn nothing_is_required_unless_the_setting_says_so() {
    let config = Arc::new(Config { apis: vec![api()], ..fixture::config() });
    assert!(Required::begin(&config, 0, None).await.is_none());
}

#[tokio::test]
async fn without_a_value_any_header_of_that_name_passes() {
    let required = Required::begin(&config(None), 0, None).await.unwrap();
    for lines in [&[("x-app", "true")][..], &[("x-app", "")], &[("x_app", "1")], &[("x-app", "1"), ("x-app", "2")]] {
        assert!(is_met(&required, lines), "{lines:?}");
    }
    for lines in [&[][..], &[("x-ap", "1")], &[("x-appp", "1")], &[("y-app", "x-app")]] {
        assert!(!is_met(&required, lines), "{lines:?}");
    }
}

#[tokio::test]
async fn with_a_value_the_header_must_be_there_once_and_equal_it() {
    let required = begun(text("canary")).await;
    for lines in [&[("x-app", "canary")][..], &[("x_app", "canary")]] {
        assert!(is_met(&required, lines), "{lines:?}");
    }
    for lines in [
        &[][..],
        &[("x-app", "")],
        &[("x-app", "canarz")],
        &[("x-app", "canar")],
        &[("x-app", "canaryy")],
        &[("x-app", "Canary")],
        &[("x-app", "canary, canary")],
        &[("x-app", "canary"), ("x-app", "canary")],
        &[("x-app", "canary"), ("x_app", "canary")],
        &[("x-app", "other"), ("x-app", "canary")],
        &[("x-other", "canary")],
    ] {
        assert!(!is_met(&required, lines), "{lines:?}");
    }
}

#[tokio::test]
async fn without_a_usable_value_nothing_passes() {
    for source in [command("true"), command("exit 1"), command("printf ' a'"), command("printf 'a\\nb'")] {
        let required = begun(source).await;
        for value in ["", "a", " a"] {
            assert!(!takes(&required, value), "{value:?}");
        }
        assert!(!is_met(&required, &[]));
    }
}

#[tokio::test]
async fn a_reload_that_fails_to_run_the_same_command_keeps_its_value() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("value");
    fs::write(&path, "canary").unwrap();
    let script = format!("cat '{}'", path.display());
    let before = begun(command(&script)).await;
    assert!(takes(&before, "canary"));
    fs::remove_file(&path).unwrap();
    let after = Required::begin(&config(Some(command(&script))), 0, Some(&before)).await.unwrap();
    assert!(takes(&after, "canary"));
    let other = Required::begin(&config(Some(command(&format!("{script} ")))), 0, Some(&before)).await.unwrap();
    assert!(!takes(&other, "canary"), "another command's value is none of it");
    fs::write(&path, "second").unwrap();
    let renewed = Required::begin(&config(Some(command(&script))), 0, Some(&after)).await.unwrap();
    assert!(takes(&renewed, "second") && !takes(&renewed, "canary"));
}

/// The value of a file that is gone is not kept, not even across a reload.
#[tokio::test]
async fn a_reload_keeps_no_value_of_a_file_that_is_gone() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("value");
    fs::write(&path, "canary").unwrap();
    let before = begun(Source::File(path.clone())).await;
    assert!(takes(&before, "canary"));
    fs::remove_file(&path).unwrap();
    let after = Required::begin(&config(Some(Source::File(path))), 0, Some(&before)).await.unwrap();
    assert!(!takes(&after, "canary"));
}

#[tokio::test(start_paused = true)]
async fn a_command_that_failed_at_first_is_tried_again() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("value");
    let required = begun(command(&format!("cat '{}'", path.display()))).await;
    assert!(!takes(&required, "canary"));
    fs::write(&path, "canary").unwrap();
    // No timer is due before the one that it waits for.
    while !takes(&required, "canary") {
        sleep(Duration::from_secs(1)).await;
    }
}

#[tokio::test]
async fn a_file_is_followed_until_the_last_clone_is_dropped() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("value");
    let required = begun(Source::File(path.clone())).await;
    assert!(!takes(&required, ""));
    for value in ["first", "second"] {
        fs::write(&path, format!("{value}\n")).unwrap();
        until(&required, value).await;
    }
    fs::write(&path, "").unwrap();
    timeout(PATIENCE, async {
        while takes(&required, "second") {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("an empty file closes");
    let current = Arc::downgrade(&required.value.as_ref().unwrap().reader.current);
    drop(required);
    timeout(PATIENCE, async {
        while current.strong_count() > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("the task has ended");
}

async fn until(required: &Required, value: &str) {
    timeout(PATIENCE, async {
        while !takes(required, value) {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("the value is taken");
}

/// It is far below the time after which the file is read anyway: only an event can be that quick.
const PATIENCE: Duration = Duration::from_secs(20);
