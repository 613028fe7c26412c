//! Layers of settings, later ones winning, each value with its origin.
//!
//! Depends on figment, which merges and remembers who gave what. A key's value is one leaf, whole: an array or a source
//! given later replaces the earlier one instead of mixing with it. figment merges tables, so each leaf travels in an
//! array of one.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use figment::{
    Figment, Metadata, Profile, Provider,
    value::{Dict, Map, Tag, Value},
};
use zeroize::Zeroizing;

use super::faults::Origin;

/// What one place says.
#[derive(Clone)]
pub(super) struct Layer {
    origin: Origin,
    leaves: Vec<Leaf>,
}

/// A key with its value.
#[derive(Clone)]
pub(super) struct Leaf {
    /// `apis.emr.listen`. Names hold no dots.
    pub(super) path: String,
    pub(super) value: Value,
}

impl Layer {
    pub(super) fn new(origin: Origin) -> Self {
        Self { origin, leaves: Vec::new() }
    }

    pub(super) fn with(origin: Origin, path: impl Into<String>, value: Value) -> Self {
        let mut layer = Self::new(origin);
        layer.push(path, value);
        layer
    }

    pub(super) fn push(&mut self, path: impl Into<String>, value: Value) {
        self.leaves.push(Leaf { path: path.into(), value });
    }

    pub(super) fn origin(&self) -> &Origin {
        &self.origin
    }

    /// Variables that sources name.
    fn named_variables(&self) -> impl Iterator<Item = &str> {
        self.leaves.iter().filter_map(|leaf| match &leaf.value {
            Value::Dict(_, source) => source.get("env")?.as_str(),
            _ => None,
        })
    }

    /// Passwords and the like that are written down.
    fn literal_secrets(&self) -> impl Iterator<Item = &str> {
        let secrets = self.leaves.iter().filter(|leaf| {
            leaf.path.starts_with("accounts.") && leaf.path.ends_with(".password") || leaf.path.ends_with(".require_header.value")
        });
        secrets.filter_map(|leaf| leaf.value.as_str())
    }

    pub(super) fn paths(&self) -> impl Iterator<Item = &str> {
        self.leaves.iter().map(|leaf| leaf.path.as_str())
    }
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        Metadata::named(label(&self.origin))
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        let mut root = Dict::new();
        for leaf in &self.leaves {
            let parts: Vec<&str> = leaf.path.split('.').collect();
            insert(&mut root, &parts, leaf.value.clone());
        }
        Ok(Map::from([(Profile::Default, root)]))
    }
}

fn insert(table: &mut Dict, parts: &[&str], value: Value) {
    match parts {
        [] => {}
        [last] => {
            table.insert((*last).to_owned(), Value::Array(Tag::Default, vec![value]));
        }
        [first, rest @ ..] => {
            let entry = table.entry((*first).to_owned()).or_insert_with(|| Value::Dict(Tag::Default, Dict::new()));
            if let Value::Dict(_, inner) = entry {
                insert(inner, rest, value);
            }
        }
    }
}

/// Unique among origins, since figment gives it back when asked who set a value.
fn label(origin: &Origin) -> String {
    match origin {
        Origin::Default => "default".to_owned(),
        Origin::Preset => "preset".to_owned(),
        Origin::File { .. } => "file".to_owned(),
        Origin::Variable(name) => format!("variable {name}"),
        Origin::Flag(name) => format!("flag {name}"),
    }
}

/// All layers as one.
pub(super) struct Merged {
    figment: Figment,
    /// Its merged values, taken out once: figment copies all of them each time it is asked for one.
    root: Value,
    origins: BTreeMap<String, Origin>,
    /// Of every layer, also where a later one wins.
    named_variables: Vec<String>,
    literal_secrets: Vec<Zeroizing<String>>,
    file: Option<PathBuf>,
    lines: BTreeMap<String, usize>,
}

impl Merged {
    /// `layers`: the weakest first. `lines`: where the file holds each key and table.
    pub(super) fn new(layers: Vec<Layer>, file: Option<&Path>, lines: BTreeMap<String, usize>) -> Self {
        let mut figment = Figment::new();
        let mut origins = BTreeMap::new();
        let (mut named_variables, mut literal_secrets) = (Vec::new(), Vec::new());
        for layer in layers {
            origins.insert(label(&layer.origin), layer.origin.clone());
            named_variables.extend(layer.named_variables().map(str::to_owned));
            literal_secrets.extend(layer.literal_secrets().map(|secret| Zeroizing::new(secret.to_owned())));
            figment = figment.merge(layer);
        }
        // Layers are made of values and cannot fail.
        let root = figment.data().ok().and_then(|mut profiles| profiles.remove(&Profile::Default)).unwrap_or_default();
        let root = Value::from(root);
        Self { figment, root, origins, named_variables, literal_secrets, file: file.map(Path::to_owned), lines }
    }

    /// Variables that any layer's sources name.
    pub(super) fn named_variables(&self) -> &[String] {
        &self.named_variables
    }

    /// Whether any layer has that very text for a password, or for what a required header must hold.
    pub(super) fn is_literal_secret(&self, text: &[u8]) -> bool {
        self.literal_secrets.iter().any(|secret| secret.as_bytes() == text)
    }

    /// The value in effect and who gave it.
    pub(super) fn get(&self, path: &str) -> Option<(Value, Origin)> {
        let found = self.root.find_ref(path)?;
        let Value::Array(tag, wrapped) = found else { return None };
        let value = wrapped.first()?.clone();
        let named = self.figment.get_metadata(*tag).map(|metadata| metadata.name.to_string());
        let origin = match named.and_then(|name| self.origins.get(&name)) {
            Some(Origin::File { .. }) => self.place(path),
            Some(origin) => origin.clone(),
            None => Origin::Default,
        };
        Some((value, origin))
    }

    /// The line of a key or, failing that, of the table it would stand in; else no place at all.
    pub(super) fn place(&self, path: &str) -> Origin {
        let Some(file) = &self.file else { return Origin::Default };
        let mut path = path;
        loop {
            if let Some(line) = self.lines.get(path) {
                return Origin::File { path: file.clone(), line: *line };
            }
            match path.rsplit_once('.') {
                Some((table, _)) => path = table,
                None => return Origin::Default,
            }
        }
    }
}
