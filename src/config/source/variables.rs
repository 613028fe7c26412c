//! Reads the environment: the named variables, `CAREPORTALS__…` paths, credential directories.
//!
//! Pure.

use std::{ffi::OsStr, path::Path};

use serde_json::{Value, json};

use super::{
    environment::Environment,
    faults::{Diagnostic, Fault, NO_SUCH_KEY, NO_SUCH_VARIABLE, ValueOrigin, Warning, nearest},
    file::is_name,
    layers::{Layers, Leaf},
    named_variables::{self, CONFIG, CREDENTIALS_DIR, CREDENTIALS_DIRECTORY, variable_by_path, variable_of},
    setting::{Key, Section},
    tables::key_at,
    toml::{Form, value_of},
};

/// How our variables begin.
const PREFIX: &str = "CAREPORTALS_";

/// Reads every `CAREPORTALS_…` variable.
pub(super) fn read(environment: &Environment, layers: &mut Layers) {
    layers.leaves.extend(credentials(environment, CREDENTIALS_DIR));
    for (name, value) in environment.iter() {
        let Some(name) = name.to_str() else { continue };
        if !name.starts_with(PREFIX) {
            layers.findings.warnings.extend(misspelt(name));
            continue;
        }
        let mut reader = VariableReader { environment, layers: &mut *layers, name };
        match name.strip_prefix("CAREPORTALS__") {
            _ if is_service_link(name, &value.to_string_lossy()) => {}
            Some(path) => reader.by_path(path, value),
            None => reader.by_name(value),
        }
    }
}

/// Says which variable may be meant by one whose beginning is misspelt.
fn misspelt(name: &str) -> Option<Warning> {
    let likely = name.to_uppercase().replace('-', "_");
    // Most of an environment need not be compared.
    let may_be_ours = likely.starts_with("CAR") || likely.contains("PORTAL");
    let meant = nearest(&likely, named_variables::names().map(|(name, ..)| name).filter(|_| may_be_ours))?;
    let wrong = Diagnostic::new(NO_SUCH_VARIABLE).hint(format!("did you mean `{meant}`?"));
    Some(Warning::of_variable(name, "", wrong))
}

/// The sources in the directory of credentials that a variable names, if it is set.
pub(super) fn credentials(environment: &Environment, variable: &str) -> Vec<Leaf> {
    let Some(directory) = environment.get(variable).filter(|directory| !directory.is_empty()) else { return Vec::new() };
    let leaf = |name: &str| Leaf {
        path: format!("accounts.default.{name}"),
        // A path that is not text can't be a value; the file is found missing when it is read.
        value: json!({ "file": Path::new(directory).join(name).to_string_lossy() }),
        origin: ValueOrigin::Variable(variable.to_owned()),
    };
    ["organization", "username", "password"].map(leaf).into()
}

/// The key that a variable sets. `None`: it sets none, or several at once.
pub(super) fn key_of(name: &str) -> Option<&'static Key> {
    match name.strip_prefix("CAREPORTALS__") {
        Some(path) => Target::of(path).map(|target| target.key),
        None => key_at(named_variables::find(name)?.0.path?),
    }
}

/// Reads the variable of this name.
struct VariableReader<'a> {
    environment: &'a Environment,
    layers: &'a mut Layers,
    name: &'a str,
}

impl VariableReader<'_> {
    fn by_name(&mut self, value: &OsStr) {
        let Some((variable, is_file)) = named_variables::find(self.name) else { return self.unknown_name() };
        let path = variable.path.unwrap_or_default();
        if self.name == CONFIG && value.is_empty() {
            // Whoever reads the settings file tells of it.
            return;
        }
        if is_file && !value.is_empty() {
            // An empty one is a fault of its own.
            if self.environment.get(variable.name).is_some_and(|direct| !direct.is_empty()) {
                let wrong = Diagnostic::new(format!("set together with {}", variable.name));
                return self.fault(path, wrong.hint("unset one of the two"));
            }
            return self.set(path, json!({ "file": value.to_string_lossy() }));
        }
        let (Some(text), Some(key)) = (self.text(path, value), key_at(path)) else { return };
        // Named variables hold plain text; only numbers and switches are read as TOML.
        self.set(path, if key.form == Form::Literal { value_of(key.form, text) } else { Value::from(text) });
    }

    fn unknown_name(&mut self) {
        // `exec` sets these for the program that it starts, which may be one of the sidecar's own commands.
        if self.name.ends_with("_BASE_URL") {
            return;
        }
        let likely = self.likely();
        let near = nearest(self.name, likely.iter().map(|(written, _)| written.as_str())).unwrap_or_default();
        let meant = |name: &str| likely.iter().find(|(written, _)| written == name).map(|(_, meant)| meant);
        // The name of a source for a file is itself a likely one.
        let whole = self.name.strip_suffix("_FILE").filter(|_| near != self.name).and_then(meant);
        let hint = whole.map(|whole| format!("`{whole}` takes no `_FILE`: set it itself"));
        let hint = hint.or_else(|| Some(format!("did you mean `{}`?", meant(near)?)));
        let wrong = Diagnostic { hint, ..Diagnostic::new(NO_SUCH_VARIABLE) };
        self.layers.findings.warnings.push(Warning::of_variable(self.name, "", wrong));
    }

    /// Names that a user may think of, each with the variable that is meant: the named variables, each key behind `CAREPORTALS_`, and
    /// each path with single underscores.
    fn likely(&self) -> Vec<(String, String)> {
        let mut likely: Vec<(String, String)> = named_variables::names().map(|(name, ..)| (name.clone(), name)).collect();
        for key in Section::ALL.into_iter().flat_map(Section::keys) {
            let entry = self.entry(key.section);
            let [name, path] = [key.name.to_owned(), key.section.path(entry, key.name)];
            let written = [&name, &path].map(|name| variable_by_path(name).replace("__", "_"));
            let meant = variable_of(&path);
            if key.form == Form::Source && meant == variable_by_path(&path) {
                likely.extend(written.each_ref().map(|written| (format!("{written}_FILE"), format!("{meant}__FILE"))));
            }
            likely.extend(written.map(|written| (written, meant.clone())));
        }
        likely
    }

    /// The account or API that a variable is likely to mean: the only one, or `default`. Of several, none can be told.
    fn entry(&self, section: Section) -> &str {
        let entries = self.layers.entries.iter().filter(|(other, _)| *other == section);
        let named: Vec<&str> = entries.map(|(_, name)| name.as_str()).collect();
        match named[..] {
            [] => "default",
            [first, ..] if named.iter().all(|other| *other == first) => first,
            _ if named.contains(&"default") => "default",
            _ => "name",
        }
    }

    fn by_path(&mut self, written: &str, value: &OsStr) {
        let Some(target) = Target::of(written) else {
            let Some(members) = members(written, value) else { return self.unknown_path(written) };
            return members.iter().for_each(|(member, text)| self.by_path(member, OsStr::new(text)));
        };
        let path = target.key.section.path(&target.entry, target.key.name);
        let Some(text) = self.text(&path, value) else { return };
        let value = match &target.source {
            None => value_of(target.key.form, text),
            Some(kind) if kind == "command" => json!({ kind: value_of(Form::Compound, text) }),
            Some(kind) => json!({ kind: value_of(Form::Text, text) }),
        };
        self.layers.entries.push((target.key.section, target.entry));
        self.set(&path, value);
    }

    fn unknown_path(&mut self, written: &str) {
        let parts: Vec<String> = written.split("__").map(str::to_lowercase).collect();
        let (section, key) = match Section::of_group(&parts[0]) {
            Some(section) if parts.len() > 1 => (section, parts[2..].join(".")),
            _ => (Section::TopLevel, parts.join(".")),
        };
        // Suggestions as they would be written, group and name included.
        let entry = parts.get(1).map_or("default", String::as_str);
        let keys = Section::ALL.into_iter().flat_map(Section::keys);
        let known = keys.map(|key| variable_by_path(&key.section.path(entry, key.name)));
        let wrong = Diagnostic::new(NO_SUCH_KEY);
        let wrong = if let Some(whole) = section.keys().iter().find(|known| key.starts_with(&format!("{}.", known.name))) {
            wrong.hint(format!("give `{}` as a whole, in TOML syntax", whole.name))
        } else if section.find(&key).is_some() {
            wrong.hint("an account's or API's name is made of a-z, 0-9 and `-`")
        } else if let Some(near) = nearest(self.name, known) {
            wrong.hint(format!("did you mean `{near}`?"))
        } else if let Some(other) = Section::ALL.into_iter().find(|other| other.find(&key).is_some()) {
            // The right key in the wrong place is far from its variable by letters.
            wrong.hint(format!("did you mean `{}`?", variable_by_path(&other.path(self.entry(other), &key))))
        } else {
            wrong
        };
        self.fault("", wrong);
    }

    /// Adds a variable's value. Two variables for one key would leave the choice to chance.
    fn set(&mut self, path: &str, value: Value) {
        let is_directory = |name: &str| [CREDENTIALS_DIR, CREDENTIALS_DIRECTORY].contains(&name);
        let by_variable = |origin: &ValueOrigin| matches!(origin, ValueOrigin::Variable(name) if !is_directory(name));
        if let Some(other) = self.layers.leaves.iter().find(|leaf| leaf.path == path && by_variable(&leaf.origin)) {
            let wrong = Diagnostic::new(format!("sets the same key as {}", other.origin));
            return self.fault(path, wrong.hint("unset one of the two"));
        }
        let origin = ValueOrigin::Variable(self.name.to_owned());
        self.layers.leaves.push(Leaf { path: path.to_owned(), value, origin });
    }

    /// The text of a variable's value.
    fn text<'v>(&mut self, path: &str, value: &'v OsStr) -> Option<&'v str> {
        match value.to_str() {
            Some("") => self.fault(path, Diagnostic::new("is empty").hint("unset it or give it a value")),
            Some(text) => return Some(text),
            None => self.fault(path, Diagnostic::new("is not UTF-8")),
        }
        None
    }

    fn fault(&mut self, path: &str, wrong: Diagnostic) {
        self.layers.findings.faults.push(Fault::of_variable(self.name, path, wrong));
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
    /// An account's or API's name may hold `-`, written `_`, anywhere: the first reading that gives a known key counts.
    fn of(written: &str) -> Option<Self> {
        let written = written.to_lowercase();
        let group = written.split_once("__").and_then(|(group, rest)| Some((Section::of_group(group)?, rest)));
        let Some((section, rest)) = group else { return Self::key(Section::TopLevel, String::new(), &written) };
        (0..rest.len()).filter(|at| rest.as_bytes()[*at..].starts_with(b"__")).find_map(|at| {
            let entry = rest[..at].replace('_', "-");
            if is_name(&entry) { Self::key(section, entry, &rest[at + 2..]) } else { None }
        })
    }

    fn key(section: Section, entry: String, written: &str) -> Option<Self> {
        let parts: Vec<&str> = written.split("__").collect();
        if let Some(key) = section.find(&parts.join(".")) {
            return Some(Self { key, entry, source: None });
        }
        let (last, rest) = parts.split_last()?;
        let key = section.find(&rest.join(".")).filter(|key| key.form == Form::Source)?;
        matches!(*last, "file" | "env" | "command").then(|| Self { key, entry, source: Some((*last).to_owned()) })
    }
}

/// The members of a table that is given as a whole, each as its own variable would give it. `None`: it is no such table.
fn members(written: &str, value: &OsStr) -> Option<Vec<(String, String)>> {
    let table = value.to_str()?.parse::<toml_edit::Value>().ok()?;
    let table = table.as_inline_table()?;
    let member = |(name, value): (&str, &toml_edit::Value)| (format!("{written}__{name}"), value.to_string().trim().to_owned());
    let members: Vec<_> = table.iter().map(member).collect();
    members.iter().any(|(member, _)| Target::of(member).is_some()).then_some(members)
}

/// Whether Kubernetes wrote the variable. It writes such variables into every container for a service called `careportals` or
/// `careportals-…`.
fn is_service_link(name: &str, value: &str) -> bool {
    // `…_PORT_443_TCP`, `…_PORT_443_TCP_ADDR`.
    let port = ["_PROTO", "_PORT", "_ADDR"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
    let port = ["_TCP", "_UDP", "_SCTP"].iter().find_map(|end| port.strip_suffix(end)).unwrap_or_default();
    let number = port.rsplit_once("_PORT_").map_or("", |(_, number)| number);
    name.ends_with("_SERVICE_HOST")
        || name.rsplit_once("_SERVICE_PORT").is_some_and(|(_, rest)| rest.is_empty() || rest.starts_with('_'))
        || name.ends_with("_PORT") && ["tcp://", "udp://", "sctp://"].iter().any(|scheme| value.starts_with(scheme))
        || !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
}
