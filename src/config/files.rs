//! Which files the daemon reads again while it runs.
//!
//! Pure. Guarantees: every path among the settings that is looked at after the start is named here, so that a process that
//! gives up access to all other files can still do its work.

use std::path::{Path, PathBuf};

use super::{Config, Source};

impl Config {
    /// Files that must stay readable: where values come from, trust, and our own certificate. Some may not exist yet, and
    /// their directories are watched: it is these that must be reachable.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        let tls = &self.tls;
        let own = tls.client_certificate.iter().flat_map(|own| [&own.certificates, &own.key]);
        let of_tls = tls.ca_file.iter().chain(&tls.ca_only_file).chain(own);
        self.sources().filter_map(Source::file).chain(of_tls.map(PathBuf::as_path))
    }

    /// Every source of a value that is read after the start.
    pub fn sources(&self) -> impl Iterator<Item = &Source> {
        let logins = self.accounts.iter().filter_map(|account| account.login.as_ref());
        let credentials = logins.flat_map(|login| [&login.username, &login.password]);
        let organizations = self.accounts.iter().map(|account| &account.organization);
        let required = self.apis.iter().filter_map(|api| api.require_header.as_ref()?.value.as_ref());
        credentials.chain(organizations).chain(required)
    }
}

impl Source {
    fn file(&self) -> Option<&Path> {
        match self {
            Self::File(path) => Some(path),
            Self::Value(_) | Self::Command(_) => None,
        }
    }
}
