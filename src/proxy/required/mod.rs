//! The header that each request must have: `require_header`.
//!
//! A file's value follows the file. A command runs again every [`RETRY_COMMAND`] until it gives a value, and not after that.
//! Guarantees: values are compared in constant time, and neither the required value nor a client's is ever shown; if a value is
//! required and its source gives none, no request passes; a request takes no lock and waits for nothing.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwapOption;
use http::{HeaderMap, HeaderName};
use tokio::{sync::Semaphore, task::JoinHandle, time::sleep};
use tracing::{info, warn};

use super::headers::{bytes_of, same_name};
use crate::{
    config::{Api, Config, Source},
    resources::blocking_on,
    secret::Secret,
    sources::{self, SourceFault, WatchedDirectories},
};

/// Readings of its file that may hang at a time.
const READERS_MAX: usize = 4;

/// How long after a failure a command is run again.
const RETRY_COMMAND: Duration = Duration::from_secs(30);

/// The header that an API requires. Clones share its value; dropping the last one ends the watch of its file.
#[derive(Clone)]
pub struct Required {
    name: HeaderName,
    /// `None`: any value passes.
    value: Option<Arc<RequiredValue>>,
}

/// The value as its source gives it.
struct RequiredValue {
    reader: ValueReader,
    /// Follows the source; `None` when the value can't change.
    task: Option<JoinHandle<()>>,
}

impl Drop for RequiredValue {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

impl Required {
    /// Reads the header that the API with this index in [`Config::apis`] requires; that takes 10 s at most. A task on the
    /// present runtime follows the value from then on. `None` when it requires none. `before`: what the same API required until
    /// now; a command that gave a value then, and fails now, keeps that value.
    pub async fn begin(config: &Arc<Config>, api: usize, before: Option<&Self>) -> Option<Self> {
        let setting = config.apis.get(api)?.require_header.as_ref()?;
        let value = match &setting.value {
            None => None,
            Some(source) => {
                let (readers, current) = (Arc::new(Semaphore::new(READERS_MAX)), Arc::new(ArcSwapOption::empty()));
                let reader = ValueReader { config: Arc::clone(config), api, readers, current };
                let known = before.and_then(|before| before.value.as_ref()).map(|value| &value.reader);
                let outcome = reader.read_first(known, source).await;
                let task = reader.follow(source, outcome);
                Some(Arc::new(RequiredValue { reader, task }))
            }
        };
        Some(Self { name: setting.name.clone(), value })
    }

    /// Whether no request passes, since its source gives no value.
    #[must_use]
    pub fn refuses_all(&self) -> bool {
        self.value.as_ref().is_some_and(|value| value.reader.current.load().is_none())
    }

    /// Whether a request with these headers has the required one. Without a value any header of that name passes; with a value
    /// there must be exactly one, which must hold that value and nothing else.
    pub(super) fn is_met(&self, headers: &HeaderMap) -> bool {
        let named = headers.iter().filter(|(name, _)| same_name(bytes_of(name), bytes_of(&self.name)));
        let mut lines = named.map(|(_, line)| line.as_bytes());
        let Some(value) = &self.value else { return lines.next().is_some() };
        match (value.reader.current.load().as_ref(), lines.next(), lines.next()) {
            (Some(value), Some(only), None) => value.matches(only),
            _ => false,
        }
    }
}

/// Reads the value, at first and for the task that follows it.
#[derive(Clone)]
struct ValueReader {
    config: Arc<Config>,
    api: usize,
    readers: Arc<Semaphore>,
    current: Arc<ArcSwapOption<Secret>>,
}

/// How the last reading ended. The same fault is logged once.
type ReadOutcome = Result<(), SourceFault>;

impl ValueReader {
    fn api(&self) -> &Api {
        &self.config.apis[self.api]
    }

    fn source(&self) -> Option<&Source> {
        self.api().require_header.as_ref()?.value.as_ref()
    }

    /// Reads the value for the first time. `before`: the reader of the settings before.
    async fn read_first(&self, before: Option<&Self>, source: &Source) -> ReadOutcome {
        let outcome = read_value(source, &self.readers).await;
        let is_same = before.and_then(Self::source).is_some_and(|known| known.is_same(source));
        if let (Err(fault), Source::Command(_), Some(before), true) = (&outcome, source, before, is_same)
            && let Some(value) = before.current.load_full()
        {
            warn!(api = self.api().name, "the required header keeps the value that it had: {fault}");
            self.current.store(Some(value));
            return Ok(());
        }
        self.take(outcome, &Ok(()), true)
    }

    /// Puts what was read in force, and logs what has changed.
    fn take(&self, outcome: Result<Secret, SourceFault>, last: &ReadOutcome, first: bool) -> ReadOutcome {
        let api = &self.api().name;
        match outcome {
            Ok(value) => {
                let known = self.current.load_full();
                if known.is_none_or(|known| !known.matches(value.expose())) {
                    self.current.store(Some(Arc::new(value)));
                    if !first {
                        info!(api, "the required header has a new value");
                    }
                }
                Ok(())
            }
            Err(fault) => {
                self.current.store(None);
                if last.as_ref() != Err(&fault) {
                    warn!(api, "every request is refused, since no value is known for the required header: {fault}");
                }
                Err(fault)
            }
        }
    }

    fn follow(&self, source: &Source, last: ReadOutcome) -> Option<JoinHandle<()>> {
        match (source, &last) {
            (Source::File(path), _) => {
                let directories = WatchedDirectories::of(vec![path.clone()]);
                Some(tokio::spawn(self.clone().follow_file(directories, last)))
            }
            (Source::Command(_), Err(_)) => Some(tokio::spawn(self.clone().retry_until_read(last))),
            (Source::Value(_) | Source::Command(_), _) => None,
        }
    }

    /// Reads whenever a watched directory changes, and from time to time anyway.
    async fn follow_file(self, mut directories: WatchedDirectories, mut last: ReadOutcome) {
        loop {
            // Watch first and read then: a change in between makes us read again.
            // `None`: a panic, which was printed.
            let Some((watching, armed)) = blocking_on(directories, WatchedDirectories::arm).await else { return };
            directories = watching;
            if let Err(reason) = armed.and_then(|armed| armed) {
                let api = &self.api().name;
                warn!(api, ?reason, "the required header's file can't be watched: looking twice a minute instead");
            }
            last = self.look(last).await;
            directories.changed().await;
        }
    }

    /// Runs the command until it gives a value.
    async fn retry_until_read(self, mut last: ReadOutcome) {
        while last.is_err() {
            sleep(RETRY_COMMAND).await;
            last = self.look(last).await;
        }
    }

    async fn look(&self, last: ReadOutcome) -> ReadOutcome {
        let Some(source) = self.source() else { return last };
        self.take(read_value(source, &self.readers).await, &last, false)
    }
}

/// Reads a value, which a header must be able to hold.
async fn read_value(source: &Source, readers: &Arc<Semaphore>) -> Result<Secret, SourceFault> {
    can_be_sent(sources::read(source, readers).await?)
}

fn can_be_sent(value: Secret) -> Result<Secret, SourceFault> {
    value.header_value().map_err(SourceFault::NotAHeader)?;
    Ok(value)
}

/// Whether the source of a required header's value gives one now. The fault keeps what a failed command wrote to its standard
/// error.
pub async fn try_source(source: &Source) -> Result<(), SourceFault> {
    sources::read_keeping_stderr(source, &Arc::new(Semaphore::new(1))).await.and_then(can_be_sent).map(drop)
}

#[cfg(test)]
mod tests;
