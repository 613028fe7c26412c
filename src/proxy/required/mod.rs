//! The header without which nothing passes: `require_header`.
//!
//! Depends on `config`, `secret`, `sources` and `headers`. Guarantees: a value is compared in constant time, and neither it
//! nor what a client sent is ever shown; where a value is wanted and its source gives none, nothing passes; a request
//! takes no lock and waits for nothing. A file's value follows the file, a command's is read once.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwapOption;
use http::{HeaderMap, HeaderName};
use tokio::{
    sync::Semaphore,
    task::{JoinHandle, spawn_blocking},
    time::sleep,
};
use tracing::{info, warn};

use super::headers::{bytes_of, same_name};
use crate::{
    config::{Api, Config, Source},
    secret::Secret,
    sources::{self, SourceFault, WatchedDirectories},
};

/// What an API requires. Clones are the same, and the last one to go ends the watch of its file.
#[derive(Clone)]
pub struct Required {
    name: HeaderName,
    /// `None`: any value will do.
    value: Option<Arc<Value>>,
}

/// The value as its source gives it.
struct Value {
    reader: Reader,
    /// `None` when there is nothing that could change it.
    task: Option<JoinHandle<()>>,
}

impl Drop for Value {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

impl Required {
    /// What the API at that place of [`Config::apis`] requires, its value read already, which takes 10 s at most; it is
    /// followed from then on by a task on the present runtime. `before`: what was required of the same API until now. A
    /// command that gave a value then, and fails now, has not changed its mind.
    pub async fn begin(config: &Arc<Config>, api: usize, before: Option<&Self>) -> Option<Self> {
        let setting = config.apis.get(api)?.require_header.as_ref()?;
        let value = match &setting.value {
            None => None,
            Some(source) => {
                let (readers, current) = (Arc::new(Semaphore::new(1)), Arc::new(ArcSwapOption::empty()));
                let reader = Reader { config: Arc::clone(config), api, readers, current };
                let known = before.and_then(|before| before.value.as_ref()).map(|value| &value.reader);
                let state = reader.read_after(known, source).await;
                let task = reader.follow(source, state);
                Some(Arc::new(Value { reader, task }))
            }
        };
        Some(Self { name: setting.name.clone(), value })
    }

    /// Whether a request with these headers has it. Without a value any header of that name will do; with one there must be
    /// exactly one of it, which must hold that value and nothing else.
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

/// Reads the value; the task's side of it.
#[derive(Clone)]
struct Reader {
    config: Arc<Config>,
    api: usize,
    readers: Arc<Semaphore>,
    current: Arc<ArcSwapOption<Secret>>,
}

/// How the last reading ended: what was said of it is not said again.
type Reading = Result<(), SourceFault>;

impl Reader {
    fn api(&self) -> &Api {
        &self.config.apis[self.api]
    }

    fn source(&self) -> Option<&Source> {
        self.api().require_header.as_ref()?.value.as_ref()
    }

    /// The first reading.
    async fn read_after(&self, before: Option<&Self>, source: &Source) -> Reading {
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

    /// Puts what was read in force, and says what has changed.
    fn take(&self, outcome: Result<Secret, SourceFault>, last: &Reading, first: bool) -> Reading {
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

    fn follow(&self, source: &Source, last: Reading) -> Option<JoinHandle<()>> {
        match (source, &last) {
            (Source::File(path), _) => {
                let directories = WatchedDirectories::of(vec![path.clone()]);
                Some(tokio::spawn(self.clone().follow_file(directories, last)))
            }
            (Source::Command(_), Err(_)) => Some(tokio::spawn(self.clone().retry_until_read(last))),
            (Source::Value(_) | Source::Command(_), _) => None,
        }
    }

    /// Looks whenever something stirs, and from time to time anyway.
    async fn follow_file(self, mut directories: WatchedDirectories, mut last: Reading) {
        loop {
            // Watching first, reading then: what happens in between makes us look again.
            let armed = spawn_blocking(move || {
                let armed = directories.arm();
                (directories, armed)
            });
            // It fails only while the runtime shuts down, or in a panic, which was printed.
            let Ok((watching, armed)) = armed.await else { return };
            directories = watching;
            if let Err(reason) = armed {
                let api = &self.api().name;
                warn!(api, ?reason, "the required header's file can't be watched: looking twice a minute instead");
            }
            last = self.look(last).await;
            directories.changed().await;
        }
    }

    /// Until the command has given a value.
    async fn retry_until_read(self, mut last: Reading) {
        while last.is_err() {
            sleep(INSIST).await;
            last = self.look(last).await;
        }
    }

    async fn look(&self, last: Reading) -> Reading {
        let Some(source) = self.source() else { return last };
        self.take(read_value(source, &self.readers).await, &last, false)
    }
}

/// A value that a header can hold.
async fn read_value(source: &Source, readers: &Arc<Semaphore>) -> Result<Secret, SourceFault> {
    let value = sources::read(source, readers).await?;
    // No client could send outer spaces.
    let fits = value.expose().trim_ascii().len() == value.expose().len() && value.header_value().is_some();
    if fits { Ok(value) } else { Err(SourceFault::NotAHeader) }
}

/// Whether the source of a required header's value gives one now.
pub async fn try_source(source: &Source) -> Result<(), SourceFault> {
    read_value(source, &Arc::new(Semaphore::new(1))).await.map(drop)
}

const INSIST: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests;
