//! Where organization, user name and password come from: read anew at each log-in.
//!
//! Depends on `config`, `secret` and `sources`. Guarantees: a [`SourceError`] says which source is at fault and never what
//! it gave.

use std::{
    hash::{BuildHasher, RandomState},
    sync::{Arc, Mutex, PoisonError},
};

use http::HeaderValue;
use tokio::sync::Semaphore;

use super::failure::{Field, SourceError};
use crate::{
    config::{Account, AccountId, Config, Login, Source},
    secret::Secret,
    sources::{SourceFault, read},
};

/// What a log-in needs.
pub(super) struct Credentials {
    pub(super) username: Secret,
    pub(super) password: Secret,
    pub(super) organization: HeaderValue,
}

/// The sources of one account.
#[derive(Clone)]
pub(super) struct Sources {
    config: Arc<Config>,
    id: AccountId,
    seen: Arc<Seen>,
    /// One for each field: a file system that hangs holds no more threads than that.
    readers: Arc<Semaphore>,
}

impl Sources {
    /// `None` when the configuration has no such account.
    pub(super) fn new(config: Arc<Config>, id: AccountId) -> Option<Self> {
        config.accounts.get(id.0)?;
        Some(Self { config, id, seen: Arc::new(Seen::default()), readers: Arc::new(Semaphore::new(READERS_MAX)) })
    }

    /// The same files and values, as another configuration has them.
    pub(super) fn under(&self, config: Arc<Config>, id: AccountId) -> Self {
        Self { config, id, seen: Arc::clone(&self.seen), readers: Arc::clone(&self.readers) }
    }

    pub(super) fn account(&self) -> &Account {
        &self.config.accounts[self.id.0]
    }

    pub(super) fn login(&self) -> Option<&Login> {
        self.account().login.as_ref()
    }

    /// The source of each field that the account has.
    pub(super) fn each(&self) -> impl Iterator<Item = (Field, &Source)> {
        let login = self.login().into_iter();
        let secrets = login.flat_map(|login| [(Field::Username, &login.username), (Field::Password, &login.password)]);
        std::iter::once((Field::Organization, &self.account().organization)).chain(secrets)
    }

    /// What was read last, for whoever watches the files.
    pub(super) fn seen(&self) -> &Arc<Seen> {
        &self.seen
    }

    /// Reads all three, at the same time.
    pub(super) async fn credentials(&self, login: &Login) -> Result<Credentials, SourceError> {
        // All to the end, though one failed: what was found of each is noted for the watch.
        let (organization, username, password) = tokio::join!(
            self.organization(),
            self.text(&login.username, Field::Username),
            self.text(&login.password, Field::Password),
        );
        Ok(Credentials { organization: organization?, username: username?, password: password? })
    }

    /// Reads the organization_only alone.
    pub(super) async fn organization(&self) -> Result<HeaderValue, SourceError> {
        let which = Field::Organization;
        let value = self.read(&self.account().organization, which).await?;
        let bytes = value.expose();
        // Outer spaces would be lost on the way, and the organization_only be another one.
        let fits = bytes.trim_ascii().len() == bytes.len();
        value.header_value().filter(|_| fits).ok_or(SourceError { which, fault: SourceFault::NotAHeader })
    }

    async fn text(&self, source: &Source, which: Field) -> Result<Secret, SourceError> {
        let value = self.read(source, which).await?;
        let fault = SourceFault::NotText;
        if value.expose_str().is_some() { Ok(value) } else { Err(SourceError { which, fault }) }
    }

    async fn read(&self, source: &Source, which: Field) -> Result<Secret, SourceError> {
        let value = read(source, &self.readers).await;
        if matches!(source, Source::File(_)) {
            self.seen.note(which, value.as_ref().ok());
        }
        value.map_err(|fault| SourceError { which, fault })
    }
}

/// What the last log-in read from files, as hashes under a key of this process.
#[derive(Default)]
pub(super) struct Seen {
    key: RandomState,
    read: Mutex<[Reading; 3]>,
}

/// What was found at one reading.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Reading {
    /// Nobody has looked yet.
    #[default]
    Never,
    /// Nothing usable.
    Nothing,
    Hash(u64),
}

impl Seen {
    fn note(&self, which: Field, value: Option<&Secret>) {
        let reading = self.reading_of(value);
        self.read.lock().unwrap_or_else(PoisonError::into_inner)[which as usize] = reading;
    }

    pub(super) fn last(&self, which: Field) -> Reading {
        self.read.lock().unwrap_or_else(PoisonError::into_inner)[which as usize]
    }

    pub(super) fn reading_of(&self, value: Option<&Secret>) -> Reading {
        value.map_or(Reading::Nothing, |value| Reading::Hash(self.key.hash_one(value.expose())))
    }
}

const READERS_MAX: usize = 3;

#[cfg(test)]
pub(super) mod tests;
