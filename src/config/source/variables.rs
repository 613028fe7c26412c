//! Reads the environment: the named variables, `CAREPORTALS__…` paths, credential directories.
//!
//! Pure.

use std::{ffi::OsStr, path::Path};

use serde_json::{Value, json};

use super::{
    environment::Environment,
    faults::{Diagnostic, ValueOrigin},
    file::is_name,
    layers::{Layers, Leaf},
    named_variables::{self, CREDENTIALS_DIR, CREDENTIALS_DIRECTORY, variable_by_path},
    setting::{Key, Section},
    tables::key_at,
    toml::{Form, value_of},
};

/// Reads every `CAREPORTALS_…` variable.
pub(super) fn read(environment: &Environment, layers: &mut Layers) {
    let directory = |name| environment.get(name).filter(|directory| !directory.is_empty());
    layers.offered = directory(CREDENTIALS_DIRECTORY).map_or_else(Vec::new, |at| credentials(CREDENTIALS_DIRECTORY, at));
    layers.variables = directory(CREDENTIALS_DIR).map_or_else(Vec::new, |at| credentials(CREDENTIALS_DIR, at));
    let mut reader = VariablesReader { environment, layers };
    for (name, value) in environment.iter() {
        let Some(name) = name.to_str().filter(|name| name.starts_with("CAREPORTALS_")) else { continue };
        match name.strip_prefix("CAREPORTALS__") {
            _ if is_service_link(name, &value.to_string_lossy()) => {}
            Some(path) => reader.by_path(name, path, value),
            None => reader.by_name(name, value),
        }
    }
}

/// The key that a variable sets. `None`: it sets none, or several at once.
pub(super) fn key_of(name: &str) -> Option<&'static Key> {
    match name.strip_prefix("CAREPORTALS__") {
        Some(path) => Target::of(path).map(|target| target.key),
        None => key_at(named_variables::find(name)?.0.path?),
    }
}

struct VariablesReader<'a> {
    environment: &'a Environment,
    layers: &'a mut Layers,
}

impl VariablesReader<'_> {
    fn by_name(&mut self, name: &str, value: &OsStr) {
        let Some((variable, is_file)) = named_variables::find(name) else { return self.unknown_name(name) };
        let Some(path) = variable.path else { return self.text(name, "", value).into_iter().for_each(drop) };
        if is_file && !value.is_empty() {
            if self.environment.get(variable.name).is_some() {
                let wrong = Diagnostic::new(format!("set together with {}", variable.name));
                return self.fault(name, path, wrong.hint("unset one of the two"));
            }
            return self.set(name, path, file_source(Path::new(value)));
        }
        let (Some(text), Some(key)) = (self.text(name, path, value), key_at(path)) else { return };
        // Named variables hold plain text; only numbers and switches are read as TOML.
        let value = if key.form == Form::Literal { value_of(key.form, text) } else { Value::from(text) };
        self.set(name, path, value);
    }

    fn unknown_name(&mut self, name: &str) {
        // `exec` sets these for the program that it starts, which may be one of the sidecar's own commands.
        if name.ends_with("_BASE_URL") {
            return;
        }
        let known: Vec<String> = named_variables::names().map(|(name, ..)| name).collect();
        let wrong = Diagnostic::new("no such variable; ignored").did_you_mean(name, known.iter().map(String::as_str));
        self.layers.findings.warn_of_variable(name, wrong);
    }

    fn by_path(&mut self, name: &str, written: &str, value: &OsStr) {
        let Some(target) = Target::of(written) else {
            let Some(members) = members(written, value) else { return self.unknown_path(name, written) };
            return members.iter().for_each(|(member, text)| self.by_path(name, member, OsStr::new(text)));
        };
        let path = target.path();
        let Some(text) = self.text(name, &path, value) else { return };
        let value = match &target.source {
            None => value_of(target.key.form, text),
            Some(kind) if kind == "command" => json!({ kind: value_of(Form::Compound, text) }),
            Some(kind) => json!({ kind: value_of(Form::Text, text) }),
        };
        self.layers.entries.push((target.key.section, target.entry));
        self.set(name, &path, value);
    }

    fn unknown_path(&mut self, name: &str, written: &str) {
        let parts: Vec<String> = written.split("__").map(str::to_lowercase).collect();
        let section = Section::of_group(&parts[0]).filter(|_| parts.len() > 1).unwrap_or(Section::TopLevel);
        let key = parts[if section == Section::TopLevel { 0 } else { 2 }..].join(".");
        // Suggestions as they would be written, group and name included.
        let entry = parts.get(1).map_or("default", String::as_str);
        let all = [Section::TopLevel, Section::Account, Section::Api].into_iter().flat_map(Section::keys);
        let known: Vec<String> = all.map(|key| variable_by_path(&key.section.path(entry, key.name))).collect();
        let wrong = Diagnostic::new("no such key");
        let wrong = match section.keys().find(|known| key.starts_with(&format!("{}.", known.name))) {
            Some(whole) => wrong.hint(format!("give `{}` as a whole, in TOML syntax", whole.name)),
            None if section.find(&key).is_some() => wrong.hint("an account's or API's name is made of a-z, 0-9 and `-`"),
            None => wrong.did_you_mean(name, known.iter().map(String::as_str)),
        };
        self.fault(name, "", wrong);
    }

    /// Adds a variable's value. Two variables for one key would leave the choice to chance.
    fn set(&mut self, name: &str, path: &str, value: Value) {
        let is_directory = |leaf: &Leaf| matches!(&leaf.origin, ValueOrigin::Variable(name) if name == CREDENTIALS_DIR);
        let other = self.layers.variables.iter().find(|leaf| leaf.path == path && !is_directory(leaf));
        if let Some(other) = other.map(|leaf| leaf.origin.to_string()) {
            let wrong = Diagnostic::new(format!("sets the same key as {other}"));
            return self.fault(name, path, wrong.hint("unset one of the two"));
        }
        let origin = ValueOrigin::Variable(name.to_owned());
        self.layers.variables.push(Leaf { path: path.to_owned(), value, origin });
    }

    /// The text of a variable's value.
    fn text<'v>(&mut self, name: &str, path: &str, value: &'v OsStr) -> Option<&'v str> {
        match value.to_str() {
            Some("") => self.fault(name, path, Diagnostic::new("is empty").hint("unset it or give it a value")),
            Some(text) => return Some(text),
            None => self.fault(name, path, Diagnostic::new("is not UTF-8")),
        }
        None
    }

    fn fault(&mut self, name: &str, path: &str, wrong: Diagnostic) {
        self.layers.findings.fault_of_variable(name, path, wrong);
    }
}

/// The key that the rest of a `CAREPORTALS__…` variable names.
struct Target {
    key: &'static Key,
    /// The account or API; empty at the top level.
    entry: String,
    /// `file`, `env` or `command` when the variable ends in it.
    source: Option<String>,
}

impl Target {
    /// An account's or API's name may hold `--`, written `__`: the first reading that gives a known key counts.
    fn of(written: &str) -> Option<Self> {
        let parts: Vec<String> = written.split("__").map(str::to_lowercase).collect();
        let Some(section) = Section::of_group(parts.first()?) else {
            return Self::key(Section::TopLevel, String::new(), &parts);
        };
        (2..parts.len()).find_map(|end| {
            let entry = parts[1..end].join("__").replace('_', "-");
            if is_name(&entry) { Self::key(section, entry, &parts[end..]) } else { None }
        })
    }

    fn key(section: Section, entry: String, parts: &[String]) -> Option<Self> {
        if let Some(key) = section.find(&parts.join(".")) {
            return Some(Self { key, entry, source: None });
        }
        let (last, rest) = parts.split_last()?;
        let key = section.find(&rest.join(".")).filter(|key| key.form == Form::Source)?;
        matches!(last.as_str(), "file" | "env" | "command").then(|| Self { key, entry, source: Some(last.clone()) })
    }

    fn path(&self) -> String {
        self.key.section.path(&self.entry, self.key.name)
    }
}

/// The members of a table that is given as a whole, each as its own variable would give it. `None`: it is no such table.
fn members(written: &str, value: &OsStr) -> Option<Vec<(String, String)>> {
    let table = value.to_str()?.parse::<toml_edit::Value>().ok()?;
    let table = table.as_inline_table()?;
    let named = |member: &str| format!("{written}__{member}");
    let members = table.iter().map(|(member, value)| (named(member), value.to_string().trim().to_owned()));
    let members: Vec<_> = members.collect();
    members.iter().any(|(member, _)| Target::of(member).is_some()).then_some(members)
}

fn file_source(path: &Path) -> Value {
    // A path that is not text can't be a value; the file is found missing when it is read.
    json!({ "file": path.to_string_lossy() })
}

fn credentials(variable: &str, directory: &OsStr) -> Vec<Leaf> {
    let leaf = |name: &str| Leaf {
        path: format!("accounts.default.{name}"),
        value: file_source(&Path::new(directory).join(name)),
        origin: ValueOrigin::Variable(variable.to_owned()),
    };
    ["organization", "username", "password"].map(leaf).into()
}

/// Whether Kubernetes wrote the variable. It writes such variables into every container for a service called `careportals` or
/// `careportals-…`.
fn is_service_link(name: &str, value: &str) -> bool {
    let is_scheme = |scheme| value.starts_with(scheme);
    let after = |marker: &str| name.rfind(marker).map(|at| &name[at + marker.len()..]);
    name.ends_with("_SERVICE_HOST")
        || after("_SERVICE_PORT").is_some_and(|rest| rest.is_empty() || rest.starts_with('_'))
        || name.ends_with("_PORT") && ["tcp://", "udp://", "sctp://"].into_iter().any(is_scheme)
        // `…_PORT_443_TCP`, `…_PORT_443_TCP_ADDR`; the last marker may belong to the ending `_TCP_PORT`.
        || name.match_indices("_PORT_").any(|(at, marker)| {
            let rest: Vec<&str> = name[at + marker.len()..].split('_').collect();
            let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
            matches!(rest[..], [number, "TCP" | "UDP" | "SCTP"] | [number, "TCP" | "UDP" | "SCTP", "PROTO" | "PORT" | "ADDR"] if is_number(number))
        })
}
