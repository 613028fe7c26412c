//! Layers of settings, merged: a later value replaces an earlier one as a whole, and keeps its origin.
//!
//! Pure. figment merges which leaf is in effect for each key. The values stay in their leaves, since figment would merge
//! tables member by member, and a source `{ file = … }` must not mix with an earlier `{ env = … }`.

use std::{collections::BTreeMap, mem::discriminant, path::PathBuf};

use figment::{Figment, providers::Serialized};
use serde_json::Value;

use super::{
    faults::{Fault, ValueOrigin},
    named_variables::variable_of,
    setting::{Findings, Section, parts},
};

/// A key with its value and its origin.
pub(super) struct Leaf {
    /// `apis.emr.listen`. Names hold no dots.
    pub(super) path: String,
    pub(super) value: Value,
    pub(super) origin: ValueOrigin,
}

/// What is written, before it is merged.
#[derive(Default)]
pub(super) struct Layers {
    /// All values, the weakest first: the service manager's credentials, the file, a directory of credentials, each variable,
    /// each flag.
    pub(super) leaves: Vec<Leaf>,
    /// The settings file, if one is named or there; it may be of no use.
    pub(super) file: Option<PathBuf>,
    /// Where each table of the file stands; the empty path is the file as a whole.
    pub(super) tables: BTreeMap<String, ValueOrigin>,
    /// Accounts and APIs that the file names, in its order, then those of `CAREPORTALS__…` variables; some more than once.
    pub(super) entries: Vec<(Section, String)>,
    pub(super) findings: Findings,
    /// Why the settings file can't be used at all. Only what does not depend on it is judged then.
    pub(super) unusable: Option<Fault>,
}

/// The values in effect, with their origins.
pub(super) struct Merged {
    /// By the key's path.
    pub(super) values: BTreeMap<String, (Value, ValueOrigin)>,
    tables: BTreeMap<String, ValueOrigin>,
}

impl Merged {
    /// Merges the leaves, of which later ones replace earlier ones.
    pub(super) fn new(tables: BTreeMap<String, ValueOrigin>, leaves: &[Leaf]) -> Self {
        // A layer for each kind of origin: each one that is merged costs a copy of all before it.
        let indexed: Vec<(usize, &Leaf)> = leaves.iter().enumerate().collect();
        let layers = indexed.chunk_by(|(_, a), (_, b)| discriminant(&a.origin) == discriminant(&b.origin));
        let layer = |leaves: &[(usize, &Leaf)]| {
            Serialized::defaults(leaves.iter().map(|(index, leaf)| (leaf.path.clone(), *index)).collect::<BTreeMap<_, _>>())
        };
        let merged = layers.map(layer).fold(Figment::new(), Figment::merge);
        // Layers are made of values, so reading them can't fail.
        let in_effect: BTreeMap<String, usize> = merged.extract().unwrap_or_default();
        let values = in_effect.into_iter().filter_map(|(path, index)| Some((path, leaves.get(index)?)));
        Self { values: values.map(|(path, leaf)| (path, (leaf.value.clone(), leaf.origin.clone()))).collect(), tables }
    }

    /// The names of the file's tables.
    pub(super) fn tables(&self) -> impl Iterator<Item = &str> {
        self.tables.keys().map(String::as_str)
    }

    /// The place where the user would write a key: the line of its table in the file, the file as a whole, or the key's
    /// variable if there is no file, or if variables set other keys of the same account or API.
    pub(super) fn place(&self, path: &str) -> ValueOrigin {
        let (section, entry, _) = parts(path);
        let table = format!("{}.{entry}.", section.group());
        let by_variable =
            |(path, (_, origin)): (&String, &(_, _))| path.starts_with(&table) && matches!(origin, ValueOrigin::Variable(_));
        let mut above = std::iter::successors(Some(path), |path| path.rsplit_once('.').map(|(table, _)| table));
        match (above.find_map(|table| self.tables.get(table)), self.tables.get("")) {
            (Some(place), _) => place.clone(),
            (None, Some(file)) if !self.values.iter().any(by_variable) => file.clone(),
            _ => ValueOrigin::Variable(variable_of(path)),
        }
    }
}
