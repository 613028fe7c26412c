//! Notices when the files of credentials give something else than the last log-in used.
//!
//! `sources` says when to look; after each reading of a log-in the watch looks too. Guarantees: whenever the files say something
//! else than the last log-in read, and both have come to rest, a look finds it; a change is reported only when the content
//! differs, and at most once a second.

use std::{future::pending, path::PathBuf, sync::Arc, time::Duration};

use tokio::{sync::mpsc, task::JoinHandle, time::sleep};

use super::{
    credentials::{LastRead, Noted, Reading, Sources},
    failure::Field,
};
use crate::{
    config::Source,
    files::BoundedReads,
    resources::blocking_on,
    sources::{SourceFault, WatchedDirectories, read_file_in_time},
};

/// The pause after a change: a file that never stays the same must not cause a storm of log-ins.
const AFTER_CHANGE: Duration = Duration::from_secs(1);

/// What differs from what the last log-in used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum CredentialChange {
    /// User name or password; or a file that could not be read gives what it gave before.
    Credentials,
    /// The organization, and perhaps the others too.
    Organization,
}

/// What a look found: the fields whose file says something else than the last log-in read, with that reading.
pub(super) type Differences = Vec<(Field, Noted, CredentialChange)>;

/// A watch over an account's files. Dropping it ends its task.
pub(super) struct CredentialWatch {
    differences: mpsc::Receiver<Differences>,
    last_read: Arc<LastRead>,
    /// `None` when the account has no files.
    task: Option<JoinHandle<()>>,
}

impl CredentialWatch {
    pub(super) fn start(sources: &Sources) -> Self {
        let (report, differences) = mpsc::channel(1);
        let task = FileComparison::new(sources).map(|files| tokio::spawn(files.run(report)));
        Self { differences, last_read: Arc::clone(sources.last_read()), task }
    }

    /// A watch that reports what a test sends.
    #[cfg(test)]
    pub(super) fn scripted(changes: mpsc::Receiver<Differences>) -> Self {
        Self { differences: changes, last_read: Arc::default(), task: None }
    }

    /// Waits for the next change. Dropping the future loses none.
    pub(super) async fn changed(&mut self) -> CredentialChange {
        while let Some(differences) = self.differences.recv().await {
            if let Some(change) = self.last_read.judge(&differences) {
                return change;
            }
        }
        pending().await
    }
}

impl LastRead {
    /// What a look found, if it still counts. A field that a log-in has read since does not: the watch looks again after each
    /// reading.
    fn judge(&self, differences: &Differences) -> Option<CredentialChange> {
        let counts = |(field, compared, _): &&(Field, Noted, _)| self.of(*field) == *compared;
        differences.iter().filter(counts).map(|(.., change)| *change).max()
    }
}

impl Drop for CredentialWatch {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// Compares the files with what was read last. It remembers nothing of earlier looks: each look compares anew.
struct FileComparison {
    account: String,
    files: Vec<(Field, PathBuf)>,
    last_read: Arc<LastRead>,
    directories: WatchedDirectories,
    readings: BoundedReads,
    /// One for each file.
    lost: Vec<Lost>,
}

/// Whether a file that the last log-in had read gives nothing to log in with any more, as far as looks have found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lost {
    No,
    /// One look has found it so: it may be in the middle of being replaced.
    Once,
    /// The log says so.
    Told,
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
        let last_read = Arc::clone(sources.last_read());
        // A file may change between a log-in's reading and the note of it. So each note causes another look.
        let paths = files.iter().map(|(_, path)| path.clone()).collect();
        let directories = WatchedDirectories::with_signal(paths, Arc::clone(last_read.noted()));
        let lost = vec![Lost::No; files.len()];
        let (account, readings) = (sources.account().name.clone(), BoundedReads::default());
        Some(Self { account, files, last_read, directories, readings, lost })
    }

    async fn run(mut self, report: mpsc::Sender<Differences>) {
        loop {
            // Watch first, then read: what happens in between causes another look.
            // `None`: a panic, which was printed.
            let Some((files, looked)) = blocking_on(self, Self::look).await else { return };
            self = files;
            // Without a thread it looks again when something changes, or later.
            let differences = looked.unwrap_or_default();
            if !differences.is_empty() {
                if report.send(differences).await.is_err() {
                    return;
                }
                sleep(AFTER_CHANGE).await;
            }
            // A signal during the pause is kept: a log-in that has read, or a file that has changed, causes another look.
            self.directories.changed().await;
        }
    }

    fn look(&mut self) -> Differences {
        if let Err(reason) = self.directories.arm() {
            let reason = reason.to_string();
            tracing::warn!(account = self.account, reason, "credential files can't be watched: looking twice a minute instead");
        }
        self.compare()
    }

    fn compare(&mut self) -> Differences {
        let mut differences = Differences::new();
        for ((field, path), lost) in self.files.iter().zip(&mut self.lost) {
            // Take what was read last before the look, so that a reading during the look makes the comparison out of date.
            let last = self.last_read.of(*field);
            let read = match read_file_in_time(path, &self.readings) {
                Ok(value) if value.is_empty() => Err(SourceFault::EmptyFile(path.clone())),
                read => read,
            };
            let found = self.last_read.reading_of(read.as_ref().ok());
            if last.reading != Reading::Never && read.is_ok() && found != last.reading {
                // A token of the organization that is there again stays in use.
                let is_other = *field == Field::Organization && found != last.given;
                let change = if is_other { CredentialChange::Organization } else { CredentialChange::Credentials };
                differences.push((*field, last, change));
            }
            // What a log-in has not had, it tells itself.
            let tells =
                |fault: &SourceFault| matches!(last.reading, Reading::Hash(_)) || matches!(fault, SourceFault::NoAnswer(_));
            if read.is_ok() && matches!(lost, Lost::Told) {
                tracing::info!(account = self.account, file = %path.display(), "a credential file gives a value again");
            }
            if let Some(fault) = lost.after_look(read.err().filter(tells)) {
                tracing::warn!(account = self.account, "a credential file gives nothing for the next log-in: {fault}");
            }
        }
        differences
    }
}

impl Lost {
    /// The fault that the log is to tell now that a look has found it, or none.
    fn after_look(&mut self, found: Option<SourceFault>) -> Option<SourceFault> {
        let (next, told) = match (*self, found) {
            (_, None) => (Self::No, None),
            (Self::Told, Some(_)) => (Self::Told, None),
            (Self::No, Some(fault)) if !matches!(fault, SourceFault::NoAnswer(_)) => (Self::Once, None),
            (Self::No | Self::Once, fault) => (Self::Told, fault),
        };
        *self = next;
        told
    }
}

#[cfg(test)]
mod tests;
