//! Reads organization, user name and password from their sources, anew at each log-in.
//!
//! Guarantees: a [`SourceError`] names the source at fault. It holds no value that a source gave, but a command that fails
//! puts the first 512 bytes of its standard error there.

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

/// A file system that hangs holds at most this many threads: one for each field.
const READERS_MAX: usize = 3;

/// The values for one log-in.
pub(super) struct LoginCredentials {
    pub(super) username: Secret,
    pub(super) password: Secret,
    pub(super) organization: HeaderValue,
}

/// The sources of one account.
#[derive(Clone)]
pub(super) struct Sources {
    config: Arc<Config>,
    id: AccountId,
    last_read: Arc<LastRead>,
    readers: Arc<Semaphore>,
}

impl Sources {
    /// The sources of account `id`; `None` when the configuration has no such account.
    pub(super) fn new(config: Arc<Config>, id: AccountId) -> Option<Self> {
        config.accounts.get(id.0)?;
        Some(Self { config, id, last_read: Arc::new(LastRead::default()), readers: Arc::new(Semaphore::new(READERS_MAX)) })
    }

    /// These sources under another configuration that has the same ones; what was read last is kept.
    pub(super) fn under(&self, config: Arc<Config>, id: AccountId) -> Self {
        Self { config, id, last_read: Arc::clone(&self.last_read), readers: Arc::clone(&self.readers) }
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

    /// What was read last, for the watch to compare with.
    pub(super) fn last_read(&self) -> &Arc<LastRead> {
        &self.last_read
    }

    /// Reads all three at the same time.
    pub(super) async fn credentials(&self, login: &Login) -> Result<LoginCredentials, SourceError> {
        // Each is read to the end even if another fails: the watch compares with what each gave.
        let (organization, username, password) = tokio::join!(
            self.organization(),
            self.text(&login.username, Field::Username),
            self.text(&login.password, Field::Password),
        );
        Ok(LoginCredentials { organization: organization?, username: username?, password: password? })
    }

    /// Reads the organization alone.
    pub(super) async fn organization(&self) -> Result<HeaderValue, SourceError> {
        let which = Field::Organization;
        let value = self.read(&self.account().organization, which).await?;
        let bytes = value.expose();
        // HTTP strips outer spaces, so the upstream would see another organization.
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
            self.last_read.note(which, value.as_ref().ok());
        }
        value.map_err(|fault| SourceError { which, fault })
    }
}

/// What the last log-in read from files, as hashes under a key of this process.
#[derive(Default)]
pub(super) struct LastRead {
    key: RandomState,
    read: Mutex<[Reading; 3]>,
}

/// What one reading of a field found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Reading {
    /// No log-in has read it yet.
    #[default]
    Never,
    /// The source gave nothing usable.
    Nothing,
    Hash(u64),
}

impl LastRead {
    fn note(&self, which: Field, value: Option<&Secret>) {
        let reading = self.reading_of(value);
        self.read.lock().unwrap_or_else(PoisonError::into_inner)[which as usize] = reading;
    }

    pub(super) fn of(&self, which: Field) -> Reading {
        self.read.lock().unwrap_or_else(PoisonError::into_inner)[which as usize]
    }

    pub(super) fn reading_of(&self, value: Option<&Secret>) -> Reading {
        value.map_or(Reading::Nothing, |value| Reading::Hash(self.key.hash_one(value.expose())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::account::tests::config;

    #[tokio::test]
    async fn an_organization_must_stand_in_a_header_as_it_is() {
        for (value, fits) in
            [("acme", true), ("a c", true), (" acme", false), ("acme\t", false), ("a\nb", false), ("a\u{7f}", false)]
        {
            let mut config = config();
            config.accounts[0].organization = Source::Value(Secret::from(value));
            let sources = Sources::new(Arc::new(config), AccountId(0)).unwrap();
            let organization = sources.organization().await;
            assert_eq!(organization.is_ok(), fits, "{value:?}");
            if let Err(error) = organization {
                assert_eq!(error, SourceError { which: Field::Organization, fault: SourceFault::NotAHeader });
            }
        }
    }

    #[tokio::test]
    async fn an_error_names_its_source_and_what_to_do() {
        let mut config = config();
        if let Some(login) = &mut config.accounts[0].login {
            login.password = Source::File("/nonexistent/password".into());
        }
        let sources = Sources::new(Arc::new(config), AccountId(0)).unwrap();
        let error = sources.credentials(sources.login().unwrap()).await.err().unwrap();
        let text = "password: /nonexistent/password does not exist; it is watched, and used as soon as it appears";
        assert_eq!(error.to_string(), text);
        assert_eq!(sources.last_read().of(Field::Password), Reading::Nothing);
        assert_eq!(sources.last_read().of(Field::Username), Reading::Never, "only files are noted");
    }
}
