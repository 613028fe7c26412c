//! Notices when the files of credentials give something else than the last log-in used.
//!
//! `sources` says when to look. Guarantees: a change is reported only when the content differs, and once.

use std::{future::pending, path::PathBuf, sync::Arc, time::Duration};

use tokio::{sync::mpsc, task::JoinHandle, time::sleep};

use super::{
    credentials::{LastRead, Reading, Sources},
    failure::Field,
};
use crate::{
    config::{Account, Source},
    sources::{WatchedDirectories, read_file},
};

/// The pause after a change: a file that never stays the same must not cause a storm of log-ins.
const AFTER_CHANGE: Duration = Duration::from_secs(1);

/// What differs from what the last log-in used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CredentialChange {
    /// User name or password.
    Credentials,
    /// The organization, and perhaps the others too.
    Organization,
}

impl CredentialChange {
    /// What changes when an account gets other settings. Another log-in server counts as another organization: a token of
    /// the old one must not be sent on.
    pub(super) fn between(before: &Account, after: &Account) -> Option<Self> {
        let (old, new) = (before.login.as_ref()?, after.login.as_ref()?);
        if !before.organization.is_same(&after.organization) || old.url != new.url {
            return Some(Self::Organization);
        }
        let same_credentials = old.username.is_same(&new.username) && old.password.is_same(&new.password);
        let same_way = old.refresh_url == new.refresh_url
            && old.username_field == new.username_field
            && old.password_field == new.password_field
            && old.extra == new.extra
            && old.headers == new.headers
            && old.token_pointer == new.token_pointer;
        (!(same_credentials && same_way)).then_some(Self::Credentials)
    }
}

/// A watch over an account's files. Dropping it ends its threads.
pub(super) struct CredentialWatch {
    changes: mpsc::Receiver<CredentialChange>,
    /// `None` when the account has no files.
    task: Option<JoinHandle<()>>,
}

impl CredentialWatch {
    pub(super) fn start(sources: &Sources) -> Self {
        let (report, changes) = mpsc::channel(1);
        let task = FileComparison::new(sources).map(|files| tokio::spawn(files.run(report)));
        Self { changes, task }
    }

    /// A watch that reports what a test sends.
    #[cfg(test)]
    pub(super) fn scripted(changes: mpsc::Receiver<CredentialChange>) -> Self {
        Self { changes, task: None }
    }

    /// Waits for the next change. Dropping the future loses none.
    pub(super) async fn changed(&mut self) -> CredentialChange {
        match self.changes.recv().await {
            Some(change) => change,
            None => pending().await,
        }
    }
}

impl Drop for CredentialWatch {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// Compares the files with what was read last.
struct FileComparison {
    account: String,
    files: Vec<(Field, PathBuf)>,
    /// What was reported of each file: a change is reported once, even if no log-in reads it.
    reported: Vec<Reading>,
    last_read: Arc<LastRead>,
    directories: WatchedDirectories,
}

impl FileComparison {
    fn new(sources: &Sources) -> Option<Self> {
        let files: Vec<(Field, PathBuf)> = sources
            .each()
            .filter_map(|(field, source)| match source {
                Source::File(path) => Some((field, path.clone())),
                Source::Value(_) | Source::Command(_) => None,
            })
            .collect();
        if files.is_empty() {
            return None;
        }
        Some(Self {
            account: sources.account().name.clone(),
            reported: vec![Reading::Never; files.len()],
            directories: WatchedDirectories::of(files.iter().map(|(_, path)| path.clone()).collect()),
            files,
            last_read: Arc::clone(sources.last_read()),
        })
    }

    async fn run(mut self, changes: mpsc::Sender<CredentialChange>) {
        loop {
            // Watch first, then read: what happens in between causes another look.
            let compared = tokio::task::spawn_blocking(move || {
                if let Err(reason) = self.directories.arm() {
                    tracing::warn!(
                        account = self.account,
                        ?reason,
                        "credential files can't be watched: looking twice a minute instead"
                    );
                }
                let change = self.compare();
                (self, change)
            });
            // It fails only while the runtime shuts down, or in a panic, which was printed.
            let Ok((files, change)) = compared.await else { return };
            self = files;
            if let Some(change) = change {
                if changes.send(change).await.is_err() {
                    return;
                }
                sleep(AFTER_CHANGE).await;
            }
            self.directories.changed().await;
        }
    }

    fn compare(&mut self) -> Option<CredentialChange> {
        let mut change = None;
        for ((field, path), reported) in self.files.iter().zip(&mut self.reported) {
            // A file that is gone or empty may be in the middle of being replaced; there is nothing to log in with.
            let Some(value) = read_file(path).ok().filter(|value| !value.is_empty()) else { continue };
            let reading = self.last_read.reading_of(Some(&value));
            let last = self.last_read.of(*field);
            if last == Reading::Never || last == reading {
                *reported = Reading::Never;
            } else if *reported != reading {
                *reported = reading;
                change = match (field, change) {
                    (Field::Organization, _) | (_, Some(CredentialChange::Organization)) => Some(CredentialChange::Organization),
                    _ => Some(CredentialChange::Credentials),
                };
            }
        }
        change
    }
}

#[cfg(test)]
mod tests;
