//! Takes the settings file apart: TOML into leaves, each with its line.
//!
//! Pure. Unknown keys become faults here. Text of a file that can't be parsed is never repeated, since it may hold a
//! password.

use std::{ops::Range, path::Path};

use serde_json::Value;
use toml_edit::{ArrayOfTables, Document, Item, TableLike};

use super::{
    faults::{Diagnostic, Fault, NO_SUCH_KEY, ValueOrigin, Warning, nearest, printable},
    layers::{Layers, Leaf},
    setting::{Key, Section},
    toml::{Form, json_of},
};

/// Reads all of it, and goes on after each fault but a broken syntax. `needs_keys`: a file without any is of no use.
pub(super) fn read(path: &Path, text: &str, needs_keys: bool, layers: &mut Layers) {
    layers.file = Some(path.to_owned());
    let before = layers.leaves.len();
    let line_ends = text.match_indices('\n').map(|(at, _)| at).collect();
    let mut reader = FileReader { path, text, line_ends, layers };
    reader.layers.tables.insert(String::new(), reader.origin(0));
    match Document::parse(text) {
        Ok(document) if document.as_table().is_empty() && !needs_keys => {
            let wrong = Diagnostic::new("is empty, and sets nothing").hint("write the settings into it, or do without it");
            let warning = Warning::new(reader.origin(0), "", wrong);
            layers.findings.warnings.push(warning);
        }
        Ok(document) => {
            reader.keys(Section::TopLevel, "", "", document.as_table());
            if needs_keys && reader.layers.leaves.len() == before {
                let wrong = Diagnostic::new("sets nothing, and would lift every rule that it had");
                let wrong = wrong.hint("put its settings back and reload; to run without them, restart the daemon");
                reader.layers.unusable = Some(Fault::new(reader.origin(0), "", wrong));
            }
        }
        Err(error) => {
            let origin = reader.origin(reader.line(error.span()));
            let wrong = Diagnostic::new(format!("not valid TOML: {}", error.message()));
            let hint = "write `key = \"text\"`, and `[accounts.NAME]` or `[apis.NAME]` above the keys of a table";
            layers.unusable = Some(Fault::new(origin, "", wrong.hint(hint)));
        }
    }
}

struct FileReader<'a> {
    path: &'a Path,
    text: &'a str,
    /// Where each line ends.
    line_ends: Vec<usize>,
    layers: &'a mut Layers,
}

impl FileReader<'_> {
    /// Reads a table's keys. `entry`: `apis.NAME.` or the like. `parent`: empty, or a table inside the entry such as
    /// `login_fields.`.
    fn keys(&mut self, section: Section, entry: &str, parent: &str, table: &dyn TableLike) {
        for (name, item) in table.iter() {
            let line = self.line_of(table, name);
            match Section::of_group(name).filter(|_| section == Section::TopLevel) {
                Some(section) => self.entries(section, name, item, line),
                None => self.key(section, entry, &format!("{parent}{name}"), item, line),
            }
        }
    }

    fn entries(&mut self, section: Section, group: &str, item: &Item, line: usize) {
        let Some(table) = item.as_table_like() else {
            let wrong = Diagnostic::new("expected tables with names").hint(format!("write `[{group}.NAME]`"));
            self.fault(line, group, wrong);
            return self.control_sockets_in(group, item);
        };
        for (written, item) in table.iter() {
            let line = self.line_of(table, written);
            if !is_name(written) {
                self.fault(line, &format!("{group}.{written}"), Diagnostic::new("a name is made of a-z, 0-9 and `-`"));
            }
            // Under a wrong name, too, its keys are judged, and others may refer to it. A dot would end it in a path.
            let name = written.replace('.', "-");
            let path = format!("{group}.{name}");
            self.layers.entries.push((section, name));
            let wrong = Diagnostic::new("expected a table").hint(format!("write `[{path}]`"));
            match self.table(item, line, &path, wrong) {
                Some(table) => self.keys(section, &format!("{path}."), "", table),
                None => self.control_sockets_in(&path, item),
            }
        }
    }

    fn key(&mut self, section: Section, entry: &str, name: &str, item: &Item, line: usize) {
        let path = format!("{entry}{name}");
        let group = format!("{name}.");
        let members: Vec<&str> = section.keys().iter().filter_map(|key| key.name.strip_prefix(&group)).collect();
        if let Some(key) = section.find(name) {
            let (value, origin) = (self.value(key, item), self.origin(line));
            self.layers.leaves.push(Leaf { path, value, origin });
        } else if !members.is_empty() {
            let hint = format!("write {name} = {{ {} = … }}", members.join(" = …, "));
            if let Some(table) = self.table(item, line, &path, Diagnostic::new("expected a table").hint(&hint)) {
                if table.is_empty() && name == "require_header" {
                    // It looks like a protection, and nothing would be required.
                    self.fault(line, &path, Diagnostic::new("needs `name`").hint(hint));
                }
                self.keys(section, entry, &group, table);
            }
        } else {
            self.fault(line, &path, unknown(section, name, item));
            self.control_sockets_in(&path, item);
        }
    }

    /// Finds what may be meant for the control socket in a table that is none of ours, whose other keys nobody reads.
    fn control_sockets_in(&mut self, path: &str, item: &Item) {
        let tables = item.as_array_of_tables().into_iter().flat_map(ArrayOfTables::iter).map(|table| table as &dyn TableLike);
        for table in item.as_table_like().into_iter().chain(tables) {
            for (name, item) in table.iter() {
                let path = format!("{path}.{name}");
                let found =
                    Fault::new(self.origin(self.line_of(table, name)), path.as_str(), unknown(Section::TopLevel, name, item));
                if found.names_control_socket() {
                    self.layers.findings.faults.push(found);
                }
                self.control_sockets_in(&path, item);
            }
        }
    }

    /// Notes where a table stands. `wrong`: the fault if it is none.
    fn table<'t>(&mut self, item: &'t Item, line: usize, path: &str, wrong: Diagnostic) -> Option<&'t dyn TableLike> {
        let table = item.as_table_like();
        match table {
            Some(_) => drop(self.layers.tables.insert(path.to_owned(), self.origin(line))),
            None => self.fault(line, path, wrong),
        }
        table
    }

    fn value(&self, key: &Key, item: &Item) -> Value {
        // A mode is octal however it is written, so its digits count, not the integer that TOML reads.
        if key.form == Form::Octal && item.is_integer() {
            return item.span().and_then(|span| self.text.get(span)).into();
        }
        // Each item of a file has a value.
        item.clone().into_value().as_ref().map_or(Value::Null, json_of)
    }

    fn line_of(&self, table: &dyn TableLike, name: &str) -> usize {
        self.line(table.get_key_value(name).and_then(|(key, item)| key.span().or_else(|| item.span())))
    }

    /// The line in which a span begins; 0 if there is no span.
    fn line(&self, span: Option<Range<usize>>) -> usize {
        span.map_or(0, |span| self.line_ends.partition_point(|end| *end < span.start) + 1)
    }

    fn origin(&self, line: usize) -> ValueOrigin {
        ValueOrigin::File { path: self.path.to_owned(), line }
    }

    fn fault(&mut self, line: usize, path: &str, wrong: Diagnostic) {
        self.layers.findings.faults.push(Fault::new(self.origin(line), path, wrong));
    }
}

/// Whether an account or an API may have this name.
pub(super) fn is_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

/// Says that there is no such key, and which one may be meant.
fn unknown(section: Section, name: &str, item: &Item) -> Diagnostic {
    let wrong = Diagnostic::new(NO_SUCH_KEY);
    if let Some(table) = item.as_table_like().filter(|_| section == Section::TopLevel) {
        let entry = table.iter().next().filter(|(_, item)| item.is_table_like()).map_or("NAME", |(entry, _)| entry);
        let known = ["accounts", "apis"].map(|group| format!("[{group}.{entry}]"));
        if let Some(meant) = nearest(&format!("[{name}.{entry}]"), known.into_iter()) {
            return wrong.hint(format!("did you mean `{meant}`?"));
        }
    }
    let sections = [section, Section::Api, Section::Account, Section::TopLevel];
    let home = |name: &str| sections.into_iter().find(|section| section.names().any(|known| known == name));
    let belongs = |other: Section| match other {
        Section::TopLevel => "belongs at the top level".to_owned(),
        other => format!("belongs under {}", other.heading()),
    };
    if let Some(other) = home(name) {
        return wrong.hint(format!("`{}` {}", printable(name), belongs(other)));
    }
    let groups = ["accounts", "apis"].into_iter().filter(|_| section == Section::TopLevel);
    let Some(meant) = nearest(name, sections.into_iter().flat_map(Section::names).chain(groups)) else { return wrong };
    let elsewhere = home(meant).filter(|home| *home != section).map(|other| format!(", which {}", belongs(other)));
    wrong.hint(format!("did you mean `{meant}`{}?", elsewhere.unwrap_or_default()))
}
