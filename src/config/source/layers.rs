//! Layers of settings, merged: a later value replaces an earlier one as a whole, and keeps its origin.
//!
//! Pure. figment merges which leaf is in effect for each key. The values stay in their leaves, since figment would merge
//! tables member by member, and a source `{ file = … }` must not mix with an earlier `{ env = … }`.

use std::{collections::BTreeMap, path::PathBuf};

use figment::{Figment, providers::Serialized};
use serde_json::Value;
use zeroize::Zeroizing;

use super::{
    faults::{Fault, ValueOrigin},
    named_variables::variable_of,
    setting::{Findings, Section, parts},
};

/// A key with its value and its origin.
#[derive(Clone)]
pub(super) struct Leaf {
    /// `apis.emr.listen`. Names hold no dots.
    pub(super) path: String,
    pub(super) value: Value,
    pub(super) origin: ValueOrigin,
}

impl Leaf {
    /// The text of a password or of a required header's value, where it stands in the settings themselves.
    fn literal_secret(&self) -> Option<&str> {
        let is_secret = self.path.starts_with("accounts.") && self.path.ends_with(".password")
            || self.path.ends_with(".require_header.value");
        self.value.as_str().filter(|_| is_secret)
    }
}

/// What is written, before it is merged.
#[derive(Default)]
pub(super) struct Layers {
    /// The service manager's credentials: the file wins over these.
    pub(super) offered: Vec<Leaf>,
    pub(super) file: Vec<Leaf>,
    pub(super) lines: Lines,
    /// A directory of credentials, then each variable: these win over the file.
    pub(super) variables: Vec<Leaf>,
    /// These win over all others.
    pub(super) flags: Vec<Leaf>,
    /// Accounts and APIs that the file names, in its order, then those of `CAREPORTALS__…` variables; some more than once.
    pub(super) entries: Vec<(Section, String)>,
    pub(super) findings: Findings,
    /// Why the settings file can't be used at all. Nothing else is judged then.
    pub(super) unusable: Option<Fault>,
}

/// The lines of a settings file's tables.
#[derive(Default)]
pub(super) struct Lines {
    /// `None`: no file was read.
    pub(super) file: Option<PathBuf>,
    pub(super) by_path: BTreeMap<String, usize>,
}

/// The values in effect, with their origins.
pub(super) struct Merged {
    values: BTreeMap<String, (Value, ValueOrigin)>,
    lines: Lines,
    /// The variables that any layer's sources name, also where a later layer wins.
    pub(super) named_variables: Vec<String>,
    literal_secrets: Vec<Zeroizing<String>>,
}

impl Merged {
    /// Merges the leaves, of which later ones replace earlier ones.
    pub(super) fn new(lines: Lines, leaves: &[Leaf]) -> Self {
        let layer = |(index, leaf): (usize, &Leaf)| Serialized::defaults(BTreeMap::from([(leaf.path.clone(), index)]));
        let merged = leaves.iter().enumerate().map(layer).fold(Figment::new(), Figment::merge);
        // Layers are made of values, so reading them can't fail.
        let in_effect: BTreeMap<String, usize> = merged.extract().unwrap_or_default();
        let value =
            |(path, index): (String, usize)| leaves.get(index).map(|leaf| (path, (leaf.value.clone(), leaf.origin.clone())));
        let named = |leaf: &Leaf| leaf.value.get("env").and_then(Value::as_str).map(str::to_owned);
        let literal = |leaf: &Leaf| leaf.literal_secret().map(|secret| Zeroizing::new(secret.to_owned()));
        Self {
            values: in_effect.into_iter().filter_map(value).collect(),
            lines,
            named_variables: leaves.iter().filter_map(named).collect(),
            literal_secrets: leaves.iter().filter_map(literal).collect(),
        }
    }

    /// Adds a value that follows from others, unless the key has one.
    pub(super) fn derive(&mut self, path: String, value: Value) {
        self.values.entry(path).or_insert((value, ValueOrigin::Preset));
    }

    /// Whether any layer has that very text for a password, or for the value of a required header.
    pub(super) fn is_literal_secret(&self, text: &[u8]) -> bool {
        self.literal_secrets.iter().any(|secret| secret.as_bytes() == text)
    }

    /// The value in effect and its origin.
    pub(super) fn get(&self, path: &str) -> Option<&(Value, ValueOrigin)> {
        self.values.get(path)
    }

    /// The place where the user would write a key: the line of its table in the file, the file as a whole, or the key's
    /// variable if there is no file, or if variables set other keys of the same account or API.
    pub(super) fn place(&self, path: &str) -> ValueOrigin {
        let (section, entry, _) = parts(path);
        let table = format!("{}.{entry}.", section.group());
        let by_variable =
            |(path, (_, origin)): (&String, &(_, _))| path.starts_with(&table) && matches!(origin, ValueOrigin::Variable(_));
        let mut tables = std::iter::successors(Some(path), |path| path.rsplit_once('.').map(|(table, _)| table));
        match (&self.lines.file, tables.find_map(|table| self.lines.by_path.get(table))) {
            (Some(file), Some(line)) => ValueOrigin::File { path: file.clone(), line: *line },
            (Some(file), None) if !self.values.iter().any(by_variable) => ValueOrigin::File { path: file.clone(), line: 0 },
            _ => ValueOrigin::Variable(variable_of(path)),
        }
    }
}
