//! Layers of settings, merged: a later value replaces an earlier one, and keeps its origin.
//!
//! Pure. figment merges the layers, and remembers which layer each key comes from. It merges the keys alone: the values stay
//! with their layers, since figment would merge tables member by member, and a source `{ file = … }` must not mix with an
//! earlier `{ env = … }`.

use std::{collections::BTreeMap, path::PathBuf};

use figment::{
    Figment, Metadata, Profile, Provider,
    value::{Dict, Map, Value as Merging},
};
use serde_json::Value;
use zeroize::Zeroizing;

use super::{
    faults::ValueOrigin,
    setting::{Findings, Section},
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

/// The leaves of one origin.
struct Layer {
    /// The layer's index, by which figment's metadata name it.
    index: usize,
    leaves: Vec<Leaf>,
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.index.to_string())
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        let keys: Dict = self.leaves.iter().map(|leaf| (leaf.path.clone(), Merging::from(true))).collect();
        Ok(Profile::Default.collect(keys))
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
}

/// The lines of a settings file's keys and tables.
#[derive(Default)]
pub(super) struct Lines {
    /// `None`: no file was read.
    pub(super) file: Option<PathBuf>,
    pub(super) by_path: BTreeMap<String, usize>,
}

/// All layers as one.
pub(super) struct Merged {
    values: BTreeMap<String, (Value, ValueOrigin)>,
    lines: Lines,
    /// The variables that any layer's sources name, also where a later layer wins.
    named_variables: Vec<String>,
    literal_secrets: Vec<Zeroizing<String>>,
}

impl Merged {
    /// `leaves`: the weakest first.
    pub(super) fn new(lines: Lines, leaves: impl IntoIterator<Item = Leaf>) -> Self {
        let mut layers: Vec<Layer> = Vec::new();
        let (mut named_variables, mut literal_secrets) = (Vec::new(), Vec::new());
        for leaf in leaves {
            named_variables.extend(leaf.value.get("env").and_then(Value::as_str).map(str::to_owned));
            literal_secrets.extend(leaf.literal_secret().map(|secret| Zeroizing::new(secret.to_owned())));
            match layers.last_mut().filter(|layer| layer.leaves.iter().any(|other| other.origin == leaf.origin)) {
                Some(layer) => layer.leaves.push(leaf),
                None => layers.push(Layer { index: layers.len(), leaves: vec![leaf] }),
            }
        }
        let figment = layers.iter().fold(Figment::new(), Figment::merge);
        // Layers are made of values, so reading them can't fail.
        let merged = figment.data().ok().and_then(|mut profiles| profiles.remove(&Profile::Default)).unwrap_or_default();
        let value = |(path, key): (String, Merging)| {
            let index: usize = figment.get_metadata(key.tag())?.name.parse().ok()?;
            let leaf = layers.get(index)?.leaves.iter().rfind(|leaf| leaf.path == path)?;
            Some((path, (leaf.value.clone(), leaf.origin.clone())))
        };
        Self { values: merged.into_iter().filter_map(value).collect(), lines, named_variables, literal_secrets }
    }

    /// Adds a value that follows from others, unless the key has one.
    pub(super) fn derive(&mut self, path: String, value: Value) {
        self.values.entry(path).or_insert((value, ValueOrigin::Preset));
    }

    pub(super) fn named_variables(&self) -> &[String] {
        &self.named_variables
    }

    /// Whether any layer has that very text for a password, or for the value of a required header.
    pub(super) fn is_literal_secret(&self, text: &[u8]) -> bool {
        self.literal_secrets.iter().any(|secret| secret.as_bytes() == text)
    }

    /// The value in effect and its origin.
    pub(super) fn get(&self, path: &str) -> Option<&(Value, ValueOrigin)> {
        self.values.get(path)
    }

    /// The line of a key or, failing that, of the table it would stand in. `Default`: neither is in the file.
    pub(super) fn place(&self, mut path: &str) -> ValueOrigin {
        loop {
            if let (Some(file), Some(line)) = (&self.lines.file, self.lines.by_path.get(path)) {
                return ValueOrigin::File { path: file.clone(), line: *line };
            }
            match path.rsplit_once('.') {
                Some((table, _)) => path = table,
                None => return ValueOrigin::Default,
            }
        }
    }
}
