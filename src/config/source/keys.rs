//! The keys of each section, as their tables declare them.
//!
//! Pure.

use super::{
    account::AccountTable,
    api::ApiTable,
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
