//! Reads organization, user name and password from their sources, anew at each log-in.
//!
//! Guarantees: a [`SourceError`] names the source at fault. It holds nothing that a source gave, unless
//! [`Sources::keeping_stderr`] was asked for.

use std::{
    hash::{BuildHasher, RandomState},
    pin::{Pin, pin},
    sync::{Arc, Mutex, PoisonError},
};

use http::HeaderValue;
use tokio::sync::{Notify, Semaphore};

use super::failure::{Field, SourceError};
use crate::{
    config::{Account, AccountId, Config, Login, Source},
    secret::Secret,
    sources::{SourceFault, read, read_keeping_stderr},
};

/// A file system that hangs holds at most this many threads: one for each field.
const READERS_MAX: usize = 12;

/// User name and password for one log-in.
pub(super) struct LoginCredentials {
    pub(super) username: Secret,
    pub(super) password: Secret,
}

/// The reading of user name and password; dropping it gives it up.
pub(super) type Secrets = Pin<Box<dyn Future<Output = Result<LoginCredentials, SourceError>> + Send>>;

/// The sources of one account.
#[derive(Clone)]
pub(super) struct Sources {
    config: Arc<Config>,
    id: AccountId,
    last_read: Arc<LastRead>,
    readers: Arc<Semaphore>,
    keeps_stderr: bool,
}

impl Sources {
    /// The sources of account `id`; `None` when the configuration has no such account.
    pub(super) fn new(config: Arc<Config>, id: AccountId) -> Option<Self> {
        config.accounts.get(id.0)?;
        let (last_read, readers) = (Arc::new(LastRead::default()), Arc::new(Semaphore::new(READERS_MAX)));
        Some(Self { config, id, last_read, readers, keeps_stderr: false })
    }

    /// These sources, whose errors keep what a failed command wrote to its standard error: for `check`.
    pub(super) fn keeping_stderr(self) -> Self {
        Self { keeps_stderr: true, ..self }
    }

    /// These sources under another configuration that has the same ones; what was read last is kept.
    pub(super) fn under(&self, config: Arc<Config>, id: AccountId) -> Self {
        Self { config, id, ..self.clone() }
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

    /// Reads all three at the same time, and returns as soon as the organization is there; the others may still be on their
    /// way.
    pub(super) async fn organization_first(&self) -> (Result<HeaderValue, SourceError>, Secrets) {
        let mut secrets: Secrets = Box::pin(self.clone().secrets());
        let mut organization = pin!(self.organization());
        tokio::select! {
            biased;
            organization = &mut organization => (organization, secrets),
            read = &mut secrets => (organization.await, Box::pin(std::future::ready(read))),
        }
    }

    /// Reads user name and password. Each is read to the end even if the other fails: the watch compares with what each gave.
    async fn secrets(self) -> Result<LoginCredentials, SourceError> {
        // An account without log-in has neither.
        let missing = |which| SourceError { which, fault: SourceFault::Empty };
        let login = self.login().ok_or(missing(Field::Username))?;
        let (username, password) =
            tokio::join!(self.text(&login.username, Field::Username), self.text(&login.password, Field::Password));
        Ok(LoginCredentials { username: username?, password: password? })
    }

    /// Reads the organization alone.
    pub(super) async fn organization(&self) -> Result<HeaderValue, SourceError> {
        let which = Field::Organization;
        let value = self.read(&self.account().organization, which).await?;
        value.header_value().map_err(|what| SourceError { which, fault: SourceFault::NotAHeader(what) })
    }

    async fn text(&self, source: &Source, which: Field) -> Result<Secret, SourceError> {
        let value = self.read(source, which).await?;
        let fault = SourceFault::NotText;
        if value.expose_str().is_some() { Ok(value) } else { Err(SourceError { which, fault }) }
    }

    async fn read(&self, source: &Source, which: Field) -> Result<Secret, SourceError> {
        let value =
            if self.keeps_stderr { read_keeping_stderr(source, &self.readers).await } else { read(source, &self.readers).await };
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
    read: Mutex<[Noted; 3]>,
    /// The watch looks again after each reading.
    noted: Arc<Notify>,
}

/// The latest reading of a field. A comparison with an earlier one is out of date.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Noted {
    pub(super) reading: Reading,
    /// What the latest reading gave that gave something.
    pub(super) given: Reading,
    /// Readings of this field so far.
    number: u64,
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
    pub(super) fn note(&self, which: Field, value: Option<&Secret>) {
        let reading = self.reading_of(value);
        let last = &mut self.read.lock().unwrap_or_else(PoisonError::into_inner)[which as usize];
        let given = if reading == Reading::Nothing { last.given } else { reading };
        *last = Noted { reading, given, number: last.number + 1 };
        self.noted.notify_one();
    }

    pub(super) fn of(&self, which: Field) -> Noted {
        self.read.lock().unwrap_or_else(PoisonError::into_inner)[which as usize]
    }

    pub(super) fn reading_of(&self, value: Option<&Secret>) -> Reading {
        value.map_or(Reading::Nothing, |value| Reading::Hash(self.key.hash_one(value.expose())))
    }

    /// Is notified of each reading.
    pub(super) fn noted(&self) -> &Arc<Notify> {
        &self.noted
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
                assert_eq!(error.which, Field::Organization);
                assert!(matches!(error.fault, SourceFault::NotAHeader(_)), "{error}");
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
        let (organization, secrets) = sources.organization_first().await;
        assert_eq!(organization.unwrap(), "acme");
        let error = secrets.await.err().unwrap();
        let text = "password: /nonexistent/password does not exist; it is watched, and used as soon as it appears";
        assert_eq!(error.to_string(), text);
        assert_eq!(sources.last_read().of(Field::Password).reading, Reading::Nothing);
        assert_eq!(sources.last_read().of(Field::Username).reading, Reading::Never, "only files are noted");
    }
}
