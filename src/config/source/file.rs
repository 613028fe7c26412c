//! The settings file: TOML into leaves, each with its line.
//!
//! Pure but for the text it is given. Unknown keys fall out here. Text of a file that cannot be parsed is never
//! repeated, since it may hold a password.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use figment::value::{Dict, Value};
use toml_edit::{Document, Item, TableLike};

use super::{
    faults::{Diagnostic, Fault, Origin, printable},
    keys::{self, Key, Kind, Section},
    layers::Layer,
};

/// What a file holds.
pub(super) struct File {
    pub(super) layer: Layer,
    /// Of each key and table, by path.
    pub(super) lines: BTreeMap<String, usize>,
    /// In the file's order.
    pub(super) accounts: Vec<String>,
    pub(super) apis: Vec<String>,
    pub(super) faults: Vec<Fault>,
}

/// Reads all of it, and goes on after each fault but a broken syntax.
pub(super) fn read(path: &Path, text: &str) -> File {
    let mut reader = Reader {
        path: path.to_owned(),
        text,
        file: File {
            layer: Layer::new(Origin::File { path: path.to_owned(), line: 0 }),
            lines: BTreeMap::new(),
            accounts: Vec::new(),
            apis: Vec::new(),
            faults: Vec::new(),
        },
    };
    match Document::parse(text) {
        Ok(document) => reader.top(document.as_table()),
        Err(error) => {
            let line = error.span().map_or(0, |span| reader.line(span.start));
            reader.fault(line, "", Diagnostic::new(format!("not valid TOML: {}", error.message())));
        }
    }
    reader.file
}

struct Reader<'a> {
    path: PathBuf,
    text: &'a str,
    file: File,
}

impl Reader<'_> {
    fn top(&mut self, table: &dyn TableLike) {
        for (name, item) in table.iter() {
            let line = self.line_of(table, name);
            match name {
                "accounts" => self.entries(Section::Account, "accounts", item, line),
                "apis" => self.entries(Section::Api, "apis", item, line),
                _ => self.key(Section::Global, "", "", name, item, line),
            }
        }
    }

    fn entries(&mut self, section: Section, group: &str, item: &Item, line: usize) {
        self.file.lines.insert(group.to_owned(), line);
        let Some(table) = item.as_table_like() else {
            self.fault(line, group, Diagnostic::new("expected tables with names").hint(format!("write `[{group}.NAME]`")));
            return;
        };
        for (name, item) in table.iter() {
            let line = self.line_of(table, name);
            let path = format!("{group}.{name}");
            if !is_name(name) {
                self.fault(line, &path, Diagnostic::new("a name is made of a-z, 0-9 and `-`"));
                continue;
            }
            self.file.lines.insert(path.clone(), line);
            match section {
                Section::Account => self.file.accounts.push(name.to_owned()),
                _ => self.file.apis.push(name.to_owned()),
            }
            let Some(table) = item.as_table_like() else {
                self.fault(line, &path, Diagnostic::new("expected a table").hint(format!("write `[{path}]`")));
                continue;
            };
            for (key, item) in table.iter() {
                let line = self.line_of(table, key);
                self.key(section, &format!("{path}."), "", key, item, line);
            }
        }
    }

    /// `parent`: empty, or a table inside an entry such as `login_fields.`.
    fn key(&mut self, section: Section, entry: &str, parent: &str, name: &str, item: &Item, line: usize) {
        let full = format!("{parent}{name}");
        let path = format!("{entry}{full}");
        if let Some(key) = keys::find(section, &full) {
            match self.leaf(key, item) {
                Some(value) => {
                    self.file.lines.insert(path.clone(), line);
                    self.file.layer.push(path, value);
                }
                None => self.fault(line, &path, Diagnostic::new("has no value")),
            }
            return;
        }
        let group = format!("{full}.");
        if parent.is_empty() && keys::of(section).any(|key| key.name.starts_with(&group)) {
            self.file.lines.insert(path.clone(), line);
            let Some(table) = item.as_table_like() else {
                self.fault(line, &path, Diagnostic::new("expected a table"));
                return;
            };
            for (name, item) in table.iter() {
                let line = self.line_of(table, name);
                self.key(section, entry, &group, name, item, line);
            }
            return;
        }
        let wrong = unknown(section, &full);
        self.fault(line, &path, wrong);
    }

    fn leaf(&self, key: &Key, item: &Item) -> Option<Value> {
        // A mode is octal however it is written, so its digits count and not its number.
        if key.kind == Kind::Mode && item.is_integer() {
            return item.span().and_then(|span| self.text.get(span)).map(Value::from);
        }
        value_of(item)
    }

    fn line_of(&self, table: &dyn TableLike, name: &str) -> usize {
        table
            .get_key_value(name)
            .and_then(|(key, item)| key.span().or_else(|| item.span()))
            .map_or(0, |span| self.line(span.start))
    }

    fn line(&self, offset: usize) -> usize {
        self.text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1
    }

    fn fault(&mut self, line: usize, path: &str, wrong: Diagnostic) {
        self.file.faults.push(Fault::new(Origin::File { path: self.path.clone(), line }, path, wrong));
    }
}

/// Whether accounts and APIs may be called so.
pub(super) fn is_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

/// Says that there is no such key, and where there is one like it.
fn unknown(section: Section, name: &str) -> Diagnostic {
    let wrong = Diagnostic::new("no such key");
    let (known, places) = match section {
        Section::Global => {
            (&["accounts", "apis"][..], [(Section::Account, "under `[accounts.NAME]`"), (Section::Api, "under `[apis.NAME]`")])
        }
        Section::Account => (&[][..], [(Section::Api, "under `[apis.NAME]`"), (Section::Global, "at the top level")]),
        Section::Api => (&[][..], [(Section::Account, "under `[accounts.NAME]`"), (Section::Global, "at the top level")]),
    };
    for (other, place) in places {
        if keys::find(other, name).is_some() {
            return wrong.hint(format!("`{}` belongs {place}", printable(name)));
        }
    }
    wrong.did_you_mean(name, keys::of(section).map(|key| key.name).chain(known.iter().copied()))
}

/// Any TOML as figment's; `None` for what is no value.
fn value_of(item: &Item) -> Option<Value> {
    if let Some(table) = item.as_table_like() {
        return table_of(table).map(Value::from);
    }
    if let Item::ArrayOfTables(tables) = item {
        return tables.iter().map(|table| table_of(table).map(Value::from)).collect::<Option<Vec<_>>>().map(Value::from);
    }
    item.as_value().and_then(plain)
}

fn table_of(table: &dyn TableLike) -> Option<Dict> {
    table.iter().map(|(name, item)| Some((name.to_owned(), value_of(item)?))).collect()
}

/// A TOML value as figment's.
pub(super) fn plain(value: &toml_edit::Value) -> Option<Value> {
    Some(match value {
        toml_edit::Value::String(text) => Value::from(text.value().as_str()),
        toml_edit::Value::Integer(number) => Value::from(*number.value()),
        toml_edit::Value::Float(number) => Value::from(*number.value()),
        toml_edit::Value::Boolean(switch) => Value::from(*switch.value()),
        toml_edit::Value::Datetime(moment) => Value::from(moment.value().to_string()),
        toml_edit::Value::Array(array) => Value::from(array.iter().map(plain).collect::<Option<Vec<_>>>()?),
        toml_edit::Value::InlineTable(table) => Value::from(table_of(table)?),
    })
}
