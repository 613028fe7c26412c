//! Layers of settings, merged: a later value replaces an earlier one, and keeps its origin.
//!
//! Pure. A value is replaced whole, so a source `{ file = … }` never mixes with an earlier `{ env = … }`. That is one
//! insertion into a map; libraries that merge configurations go into tables, member by member, which is wrong here.

use std::{collections::BTreeMap, path::PathBuf};

use serde_json::Value;
use zeroize::Zeroizing;

use super::faults::ValueOrigin;

/// A key with its value and its origin.
#[derive(Clone)]
pub(super) struct Leaf {
    /// `apis.emr.listen`. Names hold no dots.
    pub(super) path: String,
    pub(super) value: Value,
    pub(super) origin: ValueOrigin,
}

/// The lines of a settings file's keys and tables.
#[derive(Default)]
pub(super) struct Lines {
    pub(super) file: PathBuf,
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
        let (named_variables, literal_secrets) = (Vec::new(), Vec::new());
        let mut merged = Self { values: BTreeMap::new(), lines, named_variables, literal_secrets };
        for Leaf { path, value, origin } in leaves {
            merged.named_variables.extend(value.get("env").and_then(Value::as_str).map(str::to_owned));
            let is_secret =
                path.starts_with("accounts.") && path.ends_with(".password") || path.ends_with(".require_header.value");
            merged.literal_secrets.extend(value.as_str().filter(|_| is_secret).map(|secret| Zeroizing::new(secret.to_owned())));
            merged.values.insert(path, (value, origin));
        }
        merged
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
            if let Some(line) = self.lines.by_path.get(path) {
                return ValueOrigin::File { path: self.lines.file.clone(), line: *line };
            }
            match path.rsplit_once('.') {
                Some((table, _)) => path = table,
                None => return ValueOrigin::Default,
            }
        }
    }
}
