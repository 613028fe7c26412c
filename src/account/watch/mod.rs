//! Notices when the files of credentials give something else than the last log-in used.
//!
//! `sources` says when to look. A change is reported when the content differs, and once.

use std::{future::pending, path::PathBuf, sync::Arc, time::Duration};

use tokio::{sync::mpsc, task::JoinHandle, time::sleep};

use super::{
    credentials::{Reading, Seen, Sources},
    failure::Field,
};
use crate::{
    config::{Account, Source},
    sources::{WatchedDirectories, read_file},
};

/// What differs from what the last log-in used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CredentialChange {
    /// User name or password.
    Credentials,
    /// The organization_only, whatever else.
    Organization,
}

impl CredentialChange {
    /// What other settings make of a log-in. Another log-in server is another organization_only's, as far as we know: what it gives
    /// must not be mixed with what the old one gave.
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

/// The watch; it ends, with its threads, when dropped.
pub(super) struct Watch {
    changes: mpsc::Receiver<CredentialChange>,
    /// `None` when the account has no files.
    task: Option<JoinHandle<()>>,
}

impl Watch {
    pub(super) fn start(sources: &Sources) -> Self {
        let (tell, changes) = mpsc::channel(1);
        let task = Eyes::new(sources).map(|eyes| tokio::spawn(eyes.look_on(tell)));
        Self { changes, task }
    }

    /// One that tells what it is told.
    #[cfg(test)]
    pub(super) fn scripted(changes: mpsc::Receiver<CredentialChange>) -> Self {
        Self { changes, task: None }
    }

    /// The next change; dropping the future loses none.
    pub(super) async fn changed(&mut self) -> CredentialChange {
        match self.changes.recv().await {
            Some(change) => change,
            None => pending().await,
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

struct Eyes {
    account: String,
    files: Vec<(Field, PathBuf)>,
    /// What was reported of each file: a change is told once, even if no log-in reads it.
    announced: Vec<Reading>,
    seen: Arc<Seen>,
    directories: WatchedDirectories,
}

impl Eyes {
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
            announced: vec![Reading::Never; files.len()],
            directories: WatchedDirectories::of(files.iter().map(|(_, path)| path.clone()).collect()),
            files,
            seen: Arc::clone(sources.seen()),
        })
    }

    async fn look_on(mut self, changes: mpsc::Sender<CredentialChange>) {
        loop {
            // Watching first, reading then: what happens in between makes us look again.
            let looked = tokio::task::spawn_blocking(move || {
                if let Err(reason) = self.directories.arm() {
                    tracing::warn!(
                        account = self.account,
                        ?reason,
                        "credential files can't be watched: looking twice a minute instead"
                    );
                }
                let change = self.look();
                (self, change)
            });
            // It fails only while the runtime shuts down, or in a panic, which was printed.
            let Ok((eyes, change)) = looked.await else { return };
            self = eyes;
            if let Some(change) = change {
                if changes.send(change).await.is_err() {
                    return;
                }
                // A file that never stays the same must not cause a storm of log-ins.
                sleep(AFTER_CHANGE).await;
            }
            self.directories.changed().await;
        }
    }

    fn look(&mut self) -> Option<CredentialChange> {
        let mut change = None;
        for ((field, path), announced) in self.files.iter().zip(&mut self.announced) {
            // A file that is gone or empty, in the midst of being replaced perhaps, is no reason to log in.
            let Some(value) = read_file(path).ok().filter(|value| !value.is_empty()) else { continue };
            let reading = self.seen.reading_of(Some(&value));
            let last = self.seen.last(*field);
            if last == Reading::Never || last == reading {
                *announced = Reading::Never;
            } else if *announced != reading {
                *announced = reading;
                change = match (field, change) {
                    (Field::Organization, _) | (_, Some(CredentialChange::Organization)) => Some(CredentialChange::Organization),
                    _ => Some(CredentialChange::Credentials),
                };
            }
        }
        change
    }
}

const AFTER_CHANGE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests;
