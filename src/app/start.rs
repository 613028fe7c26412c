//! Why a start fails, and the part of a start that `check` can try.
//!
//! It reads files, and looks up groups and the modes of directories; it binds nothing and connects to nothing.

use std::{fmt, io, time::Duration};

use super::{
    listener_error::{ListenerError, OPEN_DIRECTORY_HINT, open_directory, same_file},
    listeners,
};
use crate::{
    config::{Config, Egress, Origin, source::Loaded},
    connect::Connector,
    hardening::MissingStep,
    resources,
    server::{BindError, NoSuchGroup},
    sources::oddities,
    tls::{ClientTls, TlsSetupError},
};

/// Why a daemon can't start.
#[derive(Debug)]
pub enum StartError {
    /// A TLS file is of no use: a matter of configuration.
    Tls(TlsSetupError),
    /// No certificate can be for this host name: a matter of configuration.
    Host(Origin),
    /// A listener of an API can't be opened.
    Listener(ListenerError),
    /// The telemetry listener can't be bound.
    Telemetry(BindError),
    /// The control socket can't be bound.
    Control(BindError),
    /// A required hardening step can't be taken.
    Hardening(MissingStep),
    /// The system refuses a thread, a descriptor or another resource.
    System(io::Error),
}

impl StartError {
    /// Whether changing the settings would help.
    #[must_use]
    pub fn is_configuration(&self) -> bool {
        let Self::Listener(listener) = self else {
            return matches!(self, Self::Tls(_) | Self::Host(_) | Self::Hardening(_));
        };
        matches!(
            listener,
            ListenerError::Group(..)
                | ListenerError::OpenDirectory(..)
                | ListenerError::InTheWay(..)
                | ListenerError::SameFile(..)
        )
    }

    /// Adds this error of a setting to what was found wrong, and what else is of its kind.
    pub fn explain(&self, config: &Config, loaded: &mut Loaded) {
        // What looks at files again would wait for the same one again.
        let took_long = matches!(self, Self::Tls(error) if error.took_long());
        let found = if took_long { Vec::new() } else { faults(config) };
        refuse(loaded, if found.is_empty() { std::slice::from_ref(self) } else { &found });
    }

    /// The error as a fault of a setting: its key (empty when no setting is at fault), what is wrong, and a hint.
    #[must_use]
    pub fn as_fault(&self) -> (String, String, Option<&'static str>) {
        match self {
            Self::Tls(error) => (error.setting().unwrap_or_default().to_owned(), error.message(), error.hint()),
            Self::Listener(ListenerError::Group(api, group)) => {
                (format!("apis.{api}.socket_group"), group.to_string(), Some(NoSuchGroup::HINT))
            }
            Self::Listener(ListenerError::InTheWay(key, error)) => {
                (key.clone(), error.message(), error.hint().or(Some("choose another path")))
            }
            Self::Listener(ListenerError::SameFile(api, path, other)) => {
                (format!("apis.{api}.listen"), same_file(path, other), None)
            }
            Self::Listener(ListenerError::OpenDirectory(key, path)) => {
                (key.clone(), open_directory(path), Some(OPEN_DIRECTORY_HINT))
            }
            Self::Hardening(missing) => ("hardening".to_owned(), missing.to_string(), Some(MissingStep::HINT)),
            other => (String::new(), other.to_string(), None),
        }
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tls(error) => error.fmt(f),
            Self::Host(origin) => write!(f, "{origin}: not a host name that a certificate can be checked for"),
            Self::Listener(error) => error.fmt(f),
            Self::Telemetry(error) | Self::Control(error) => error.fmt(f),
            Self::Hardening(missing) => missing.fmt(f),
            Self::System(error) => write!(f, "the system refused what the daemon needs: {error}{}", resources::hint(error)),
        }
    }
}

impl std::error::Error for StartError {}

impl From<io::Error> for StartError {
    fn from(error: io::Error) -> Self {
        Self::System(error)
    }
}

/// Looks at the files, hosts, groups and directories that the settings name, without starting anything.
///
/// # Errors
///
/// A fault of the settings that reading them alone does not show.
pub fn rehearse(config: &Config) -> Result<ClientTls, StartError> {
    let tls = trust(config)?;
    sockets(config).into_iter().next().map_or(Ok(tls), Err)
}

/// Adds to the faults of settings those of the files, hosts, groups and directories that they name, as far as the settings are
/// right: all are told at once.
pub fn judge(loaded: &mut Loaded) {
    let found = loaded.config.as_ref().or(loaded.rest.as_ref()).map(faults).unwrap_or_default();
    refuse(loaded, &found);
}

fn refuse(loaded: &mut Loaded, errors: &[StartError]) {
    for error in errors {
        let (key, message, hint) = error.as_fault();
        loaded.refuse(&key, message, hint);
    }
}

/// Every fault of a setting that [`rehearse`] might find. It reads the files again.
fn faults(config: &Config) -> Vec<StartError> {
    let tls: Vec<StartError> = ClientTls::faults(&config.tls).into_iter().map(StartError::Tls).collect();
    // A host's name is judged once there is TLS.
    let host = if tls.is_empty() { trust(config).err() } else { None };
    tls.into_iter().chain(host).chain(sockets(config)).collect()
}

fn sockets(config: &Config) -> Vec<StartError> {
    listeners::check_sockets(config).faults.into_iter().map(StartError::Listener).collect()
}

/// What `check` warns of besides what [`rehearse`] refuses: for each, the key, what may go wrong, and a hint. Of sockets the log
/// says the same when they are bound.
#[must_use]
pub fn warnings(config: &Config) -> Vec<(String, String, &'static str)> {
    listeners::check_sockets(config).warnings.into_iter().chain(odd_values(config)).collect()
}

/// Values that look mistaken, and files that give none: each with its key.
fn odd_values(config: &Config) -> impl Iterator<Item = (String, String, &'static str)> {
    let accounts = config.accounts.iter().flat_map(|account| {
        let login = account.login.iter().flat_map(|login| [("username", &login.username), ("password", &login.password)]);
        let each = std::iter::once(("organization", &account.organization)).chain(login);
        each.map(|(field, source)| (format!("accounts.{}.{field}", account.name), source))
    });
    let required = config.apis.iter().filter_map(|api| {
        Some((format!("apis.{}.require_header.value", api.name), api.require_header.as_ref()?.value.as_ref()?))
    });
    accounts
        .chain(required)
        .flat_map(|(key, source)| oddities(source).into_iter().map(move |(message, hint)| (key.clone(), message, hint)))
}

/// Reads the roots to trust and the client certificate.
///
/// # Errors
///
/// A file that is of no use, or a host that no certificate can be for.
pub(super) fn trust(config: &Config) -> Result<ClientTls, StartError> {
    let tls = ClientTls::new(&config.tls).map_err(StartError::Tls)?;
    let logins = config.accounts.iter().filter_map(|account| account.login.as_ref());
    let endpoints = logins.flat_map(|login| [Some(&login.url), login.refresh_url.as_ref()]).flatten();
    let origins = config.apis.iter().map(|api| &api.upstream.origin).chain(endpoints.map(|endpoint| &endpoint.origin));
    for origin in origins {
        connector(origin, &tls, &config.egress, Duration::ZERO)?;
    }
    Ok(tls)
}

pub(super) fn connector(origin: &Origin, tls: &ClientTls, egress: &Egress, limit: Duration) -> Result<Connector, StartError> {
    Connector::new(origin, tls, egress, limit).ok_or_else(|| StartError::Host(origin.clone()))
}
