use std::{
    fs::{self, Permissions},
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
};

use tempfile::TempDir;
use tokio::time::timeout;

use super::*;
use crate::{
    account::tests,
    config::{AccountId, Config},
    secret::Secret,
};

/// This is far below the time after which the watch looks anyway: only events can be that quick.
const PATIENCE: Duration = Duration::from_secs(10);

struct Mount {
    directory: TempDir,
    sources: Sources,
}

impl Mount {
    /// All three values come from files under `at`.
    fn new(at: &str) -> Self {
        let directory = TempDir::new().unwrap();
        let sources = Sources::new(std::sync::Arc::new(config(&directory.path().join(at))), AccountId(0)).unwrap();
        Self { directory, sources }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, content: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn write_all(&self, at: &str, values: [&str; 3]) {
        for (name, value) in ["organization", "username", "password"].into_iter().zip(values) {
            self.write(&format!("{at}/{name}"), value);
        }
    }

    /// Reads all values, as a log-in does.
    async fn log_in(&self) -> bool {
        let (organization, secrets) = self.sources.organization_first().await;
        secrets.await.is_ok() && organization.is_ok()
    }

    fn watch(&self) -> CredentialWatch {
        CredentialWatch::start(&self.sources)
    }

    fn files(&self) -> FileComparison {
        FileComparison::new(&self.sources).unwrap()
    }

    fn look(&self, files: &mut FileComparison) -> Option<CredentialChange> {
        self.sources.last_read().judge(&files.compare())
    }
}

fn config(at: &Path) -> Config {
    let mut config = tests::config();
    let account = &mut config.accounts[0];
    account.organization = Source::File(at.join("organization"));
    let login = account.login.as_mut().unwrap();
    login.username = Source::File(at.join("username"));
    login.password = Source::File(at.join("password"));
    config
}

async fn next(watch: &mut CredentialWatch) -> CredentialChange {
    timeout(PATIENCE, watch.changed()).await.expect("noticed by an event")
}

#[tokio::test]
async fn a_write_in_place_is_noticed() {
    let mount = Mount::new("secret");
    mount.write_all("secret", ["acme", "ann", "one"]);
    assert!(mount.log_in().await);
    let mut watch = mount.watch();
    mount.write("secret/password", "two");
    assert_eq!(next(&mut watch).await, CredentialChange::Credentials);
    assert!(mount.log_in().await);
    // The watch is surely armed by now: this is seen by an event alone.
    mount.write("secret/username", "bob");
    assert_eq!(next(&mut watch).await, CredentialChange::Credentials);
}

#[tokio::test]
async fn a_rename_is_noticed() {
    let mount = Mount::new("secret");
    mount.write_all("secret", ["acme", "ann", "one"]);
    assert!(mount.log_in().await);
    let mut watch = mount.watch();
    for password in ["two", "three"] {
        mount.write("secret/.new", password);
        fs::rename(mount.path("secret/.new"), mount.path("secret/password")).unwrap();
        assert_eq!(next(&mut watch).await, CredentialChange::Credentials);
        assert!(mount.log_in().await);
    }
}

#[tokio::test]
async fn a_kubernetes_mount_that_swaps_its_symlink_is_noticed() {
    let mount = Mount::new("secret");
    mount.write_all("secret/..1", ["acme", "ann", "one"]);
    symlink("..1", mount.path("secret/..data")).unwrap();
    for name in ["organization", "username", "password"] {
        symlink(format!("..data/{name}"), mount.path("secret").join(name)).unwrap();
    }
    assert!(mount.log_in().await);
    let mut watch = mount.watch();
    for (number, password) in [(2, "two"), (3, "three")] {
        mount.write_all(&format!("secret/..{number}"), ["acme", "ann", password]);
        symlink(format!("..{number}"), mount.path("secret/..data_tmp")).unwrap();
        fs::rename(mount.path("secret/..data_tmp"), mount.path("secret/..data")).unwrap();
        fs::remove_dir_all(mount.path(&format!("secret/..{}", number - 1))).unwrap();
        assert_eq!(next(&mut watch).await, CredentialChange::Credentials);
        assert!(mount.log_in().await);
    }
}

#[tokio::test]
async fn a_directory_that_appears_later_is_noticed() {
    let mount = Mount::new("run/secrets/app");
    assert!(!mount.log_in().await);
    let mut watch = mount.watch();
    mount.write_all("staged/one", ["acme", "ann", "one"]);
    mount.write_all("staged/two", ["acme", "ann", "two"]);
    fs::create_dir_all(mount.path("run/secrets")).unwrap();
    fs::rename(mount.path("staged/one"), mount.path("run/secrets/app")).unwrap();
    assert_eq!(next(&mut watch).await, CredentialChange::Organization);
    // A directory that is made anew is watched by its new identity.
    assert!(mount.log_in().await);
    fs::rename(mount.path("run/secrets/app"), mount.path("run/secrets/old")).unwrap();
    fs::rename(mount.path("staged/two"), mount.path("run/secrets/app")).unwrap();
    assert_eq!(next(&mut watch).await, CredentialChange::Credentials);
    assert!(mount.log_in().await);
    mount.write("run/secrets/app/password", "three");
    assert_eq!(next(&mut watch).await, CredentialChange::Credentials);
}

#[tokio::test]
async fn the_target_of_a_link_to_a_file_elsewhere_is_watched() {
    let mount = Mount::new("secret");
    mount.write_all("elsewhere", ["acme", "ann", "one"]);
    fs::create_dir(mount.path("secret")).unwrap();
    for name in ["organization", "username", "password"] {
        symlink(mount.path("elsewhere").join(name), mount.path("secret").join(name)).unwrap();
    }
    assert!(mount.log_in().await);
    let mut watch = mount.watch();
    for password in ["two", "three"] {
        mount.write("elsewhere/password", password);
        assert_eq!(next(&mut watch).await, CredentialChange::Credentials);
        assert!(mount.log_in().await);
    }
}

#[tokio::test]
async fn a_file_that_becomes_readable_is_noticed() {
    let mount = Mount::new("secret");
    mount.write_all("secret", ["acme", "ann", "one"]);
    // Root reads everything: an empty file stands in for one that can't be read.
    mount.write("secret/password", "");
    fs::set_permissions(mount.path("secret/password"), Permissions::from_mode(0o000)).unwrap();
    assert!(!mount.log_in().await);
    let mut watch = mount.watch();
    fs::set_permissions(mount.path("secret/password"), Permissions::from_mode(0o600)).unwrap();
    mount.write("secret/password", "one");
    assert_eq!(next(&mut watch).await, CredentialChange::Credentials);
}

#[tokio::test]
async fn a_changed_organization_outweighs_changed_credentials() {
    let mount = Mount::new("secret");
    mount.write_all("secret", ["acme", "ann", "one"]);
    assert!(mount.log_in().await);
    let mut files = mount.files();
    mount.write_all("secret", ["umbrella", "bob", "two"]);
    assert_eq!(mount.look(&mut files), Some(CredentialChange::Organization));
}

#[tokio::test]
async fn a_change_is_told_until_a_log_in_reads_it_and_only_if_the_content_differs() {
    let mount = Mount::new("secret");
    mount.write_all("secret", ["acme", "ann", "one"]);
    let mut files = mount.files();
    assert_eq!(mount.look(&mut files), None, "no log-in has read anything yet");
    assert!(mount.log_in().await);
    assert_eq!(mount.look(&mut files), None);
    mount.write("secret/password", "one\n");
    assert_eq!(mount.look(&mut files), None, "the same value");
    mount.write("secret/password", "two");
    assert_eq!(mount.look(&mut files), Some(CredentialChange::Credentials));
    assert_eq!(mount.look(&mut files), Some(CredentialChange::Credentials), "no log-in has read it");
    mount.write("secret/password", "");
    assert_eq!(mount.look(&mut files), None, "half written");
    fs::remove_file(mount.path("secret/password")).unwrap();
    assert_eq!(mount.look(&mut files), None, "gone");
    mount.write("secret/password", "three");
    assert_eq!(mount.look(&mut files), Some(CredentialChange::Credentials));
    mount.write("secret/password", "one");
    assert_eq!(mount.look(&mut files), None, "back to what is in use");
    mount.write("secret/password", "three");
    assert_eq!(mount.look(&mut files), Some(CredentialChange::Credentials), "and away from it again");
    assert!(mount.log_in().await);
    assert_eq!(mount.look(&mut files), None, "read");
}

#[tokio::test]
async fn the_watch_ends_with_its_threads_when_dropped() {
    let mount = Mount::new("secret");
    mount.write_all("secret", ["acme", "ann", "one"]);
    assert!(mount.log_in().await);
    let mut watch = mount.watch();
    mount.write("secret/password", "two");
    next(&mut watch).await;
    let (_, none) = mpsc::channel(1);
    let mut changes = std::mem::replace(&mut watch.differences, none);
    drop(watch);
    // The sender lives in the task, and goes when the task does.
    assert!(timeout(PATIENCE, changes.recv()).await.unwrap().is_none());
}

#[tokio::test]
async fn without_files_there_is_nothing_to_watch() {
    let sources = Sources::new(Arc::new(tests::config()), AccountId(0)).unwrap();
    let mut watch = CredentialWatch::start(&sources);
    assert!(watch.task.is_none());
    tokio::select! {
        biased;
        _ = watch.changed() => panic!("nothing changed"),
        () = std::future::ready(()) => {}
    }
}

#[tokio::test]
async fn a_file_that_goes_back_is_read_and_changes_again_is_noticed() {
    let mount = Mount::new("secret");
    mount.write_all("secret", ["acme", "ann", "one"]);
    assert!(mount.log_in().await);
    let mut watch = mount.watch();
    mount.write("secret/password", "two");
    assert_eq!(next(&mut watch).await, CredentialChange::Credentials);
    // All of this happens in the pause after that change.
    mount.write("secret/password", "one");
    assert!(mount.log_in().await);
    mount.write("secret/password", "two");
    assert_eq!(next(&mut watch).await, CredentialChange::Credentials);
}

/// The log-in has read the file before it changed, and its note comes after the look at the change: no event follows.
#[tokio::test]
async fn a_reading_that_is_noted_late_is_compared_too() {
    let mount = Mount::new("secret");
    mount.write_all("secret", ["acme", "ann", "one"]);
    assert!(mount.log_in().await);
    let mut watch = mount.watch();
    mount.write("secret/password", "two");
    assert_eq!(next(&mut watch).await, CredentialChange::Credentials);
    assert!(mount.log_in().await);
    mount.sources.last_read().note(Field::Password, Some(&Secret::from("one")));
    assert_eq!(next(&mut watch).await, CredentialChange::Credentials);
}

#[tokio::test]
async fn an_organization_that_was_away_for_a_log_in_and_is_back_is_no_other_one() {
    let mount = Mount::new("secret");
    mount.write_all("secret", ["acme", "ann", "one"]);
    assert!(mount.log_in().await);
    let mut files = mount.files();
    for (back, expected) in [("acme", CredentialChange::Credentials), ("umbrella", CredentialChange::Organization)] {
        fs::remove_file(mount.path("secret/organization")).unwrap();
        assert!(!mount.log_in().await);
        assert_eq!(mount.look(&mut files), None);
        mount.write("secret/organization", back);
        assert_eq!(mount.look(&mut files), Some(expected), "{back}");
    }
}

#[tokio::test]
async fn what_a_log_in_has_read_since_the_look_is_not_told() {
    let mount = Mount::new("secret");
    mount.write_all("secret", ["acme", "ann", "one"]);
    assert!(mount.log_in().await);
    mount.write_all("secret", ["umbrella", "ann", "two"]);
    let differences = mount.files().compare();
    let last_read = mount.sources.last_read();
    assert_eq!(last_read.judge(&differences), Some(CredentialChange::Organization));
    last_read.note(Field::Organization, Some(&Secret::from("umbrella")));
    assert_eq!(last_read.judge(&differences), Some(CredentialChange::Credentials), "the password is still the old one");
    last_read.note(Field::Password, Some(&Secret::from("two")));
    assert_eq!(last_read.judge(&differences), None);
}

/// Real time: the pauses of the watch are what this is about.
#[tokio::test]
async fn a_file_that_never_stays_the_same_is_told_once_a_second_at_most() {
    let mount = Mount::new("secret");
    mount.write_all("secret", ["acme", "ann", "one"]);
    assert!(mount.log_in().await);
    let mut watch = mount.watch();
    let started = crate::clock::instant();
    let mut told: u32 = 0;
    for number in 0..u32::MAX {
        if started.elapsed() >= Duration::from_millis(2500) {
            break;
        }
        mount.write("secret/password", &format!("password {number}"));
        if timeout(Duration::from_millis(10), watch.changed()).await.is_ok() {
            told += 1;
            assert!(mount.log_in().await);
        }
    }
    assert!((1..=3).contains(&told), "{told}");
}

#[test]
fn a_file_that_is_lost_is_told_once_and_not_while_it_may_be_being_replaced() {
    let missing = || Some(SourceFault::Missing("/gone".into()));
    let mut lost = Lost::No;
    let mut told = |found| lost.after_look(found).is_some();
    assert_eq!([told(missing()), told(None), told(missing())], [false; 3], "it came back");
    assert_eq!([told(missing()), told(missing()), told(None)], [true, false, false]);
    assert_eq!([told(missing()), told(missing())], [false, true]);
    let mut silent = Lost::No;
    assert!(silent.after_look(Some(SourceFault::NoAnswer("/hangs".into()))).is_some(), "it has hung for ten seconds");
}

#[tokio::test]
async fn a_file_that_no_log_in_has_had_is_told_by_the_log_in_alone() {
    let mount = Mount::new("creds");
    mount.write_all("creds", ["acme", "user", ""]);
    let mut files = mount.files();
    assert!(!mount.log_in().await);
    files.compare();
    assert_eq!(files.lost, [Lost::No; 3]);
    mount.write_all("creds", ["acme", "user", "secret"]);
    assert!(mount.log_in().await);
    fs::remove_file(mount.path("creds/password")).unwrap();
    files.compare();
    assert_eq!(files.lost, [Lost::No, Lost::No, Lost::Once]);
    files.compare();
    assert_eq!(files.lost, [Lost::No, Lost::No, Lost::Told]);
    // One is told though another is missing.
    fs::remove_file(mount.path("creds/username")).unwrap();
    files.compare();
    assert_eq!(files.lost, [Lost::No, Lost::Once, Lost::Told]);
    mount.write("creds/password", "secret");
    files.compare();
    assert_eq!(files.lost, [Lost::No, Lost::Told, Lost::No]);
}
