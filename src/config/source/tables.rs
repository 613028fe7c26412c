//! All tables together: the keys of each section, and the settings as they are written.
//!
//! Pure.

use super::{
    account::{AccountEntry, AccountTable},
    api::{ApiEntry, ApiTable},
    reader::SettingsReader,
    setting::{Key, Section, parts},
    top_level::TopLevel,
};

impl Section {
    /// Its keys, in the order of the documentation.
    pub(super) fn keys(self) -> impl Iterator<Item = &'static Key> {
        let keys = match self {
            Self::TopLevel => TopLevel::KEYS,
            Self::Account => AccountTable::KEYS,
            Self::Api => ApiTable::KEYS,
        };
        keys.iter()
    }

    /// The key of that name.
    pub(super) fn find(self, name: &str) -> Option<&'static Key> {
        self.keys().find(|key| key.name == name)
    }
}

/// The key that a path such as `apis.emr.listen` or `log` names.
pub(super) fn key_at(path: &str) -> Option<&'static Key> {
    let (section, _, name) = parts(path);
    section.find(name)
}

/// The settings as they are written.
pub(super) struct Written {
    pub(super) top: TopLevel,
    pub(super) accounts: Vec<AccountEntry>,
    pub(super) apis: Vec<ApiEntry>,
}

impl Written {
    pub(super) fn read(reader: &mut SettingsReader<'_>, accounts: &[String], apis: &[String]) -> Self {
        let top = TopLevel::read(reader, "");
        let accounts = accounts.iter().map(|name| reader.entry(Section::Account, name, AccountTable::read)).collect();
        let apis = apis.iter().map(|name| reader.entry(Section::Api, name, ApiTable::read)).collect();
        Self { top, accounts, apis }
    }
}
