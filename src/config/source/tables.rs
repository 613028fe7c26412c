//! All tables together: the keys of each section, and the settings as they are written.
//!
//! Pure.

use super::{
    account::AccountEntry,
    api::ApiEntry,
    reader::SettingsReader,
    setting::{Key, Section, parts},
    top_level::TopLevel,
};

impl Section {
    /// Its keys, in the order of the documentation.
    pub(super) fn keys(self) -> &'static [Key] {
        match self {
            Self::TopLevel => TopLevel::KEYS,
            Self::Account => AccountEntry::KEYS,
            Self::Api => ApiEntry::KEYS,
        }
    }

    /// The names that may stand in it: those of its keys, and of the tables inside it that hold keys.
    pub(super) fn names(self) -> impl Iterator<Item = &'static str> {
        let tables = self.keys().iter().filter_map(|key| key.name.split_once('.').map(|(table, _)| table));
        self.keys().iter().map(|key| key.name).chain(tables)
    }

    /// The key of that name.
    pub(super) fn find(self, name: &str) -> Option<&'static Key> {
        self.keys().iter().find(|key| key.name == name)
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
        let accounts = accounts.iter().map(|name| AccountEntry::read(reader, name)).collect();
        let apis = apis.iter().map(|name| ApiEntry::read(reader, name)).collect();
        Self { top, accounts, apis }
    }
}
