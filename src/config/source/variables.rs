//! Reads the environment: the named variables, `CAREPORTALS__…` paths, credential directories.
//!
//! Pure, since the environment is a value: only [`Environment::of_process`] reads that of the process.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    fmt,
    path::Path,
};

use serde_json::{Value, json};

use super::{
    faults::{Diagnostic, Fault, ValueOrigin, Warning},
    file::{is_name, json_of},
    layers::{Layers, Leaf},
    named_variables::{self, CREDENTIALS_DIR, CREDENTIALS_DIRECTORY},
    setting::{self, Form, Key, Section},
};

/// Protocols in the names of the variables that Kubernetes writes for a service.
const PROTOCOLS: [&str; 3] = ["TCP", "UDP", "SCTP"];

/// Environment variables, as they were at start.
#[derive(Clone, Default)]
pub struct Environment(BTreeMap<OsString, OsString>);

impl Environment {
    /// Those of this process.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "the only place that reads the environment")]
    pub fn of_process() -> Self {
        std::env::vars_os().collect()
    }

    /// The value of a variable.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&OsStr> {
        self.0.get(OsStr::new(name)).map(OsString::as_os_str)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&OsStr, &OsStr)> {
        self.0.iter().map(|(name, value)| (name.as_os_str(), value.as_os_str()))
    }
}

impl<N: Into<OsString>, V: Into<OsString>> FromIterator<(N, V)> for Environment {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(variables: I) -> Self {
        Self(variables.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// Reads every `CAREPORTALS_…` variable.
pub(super) fn read(environment: &Environment, layers: &mut Layers) {
    let mut reader = VariablesReader { environment, layers };
    if let Some(directory) = environment.get(CREDENTIALS_DIRECTORY).filter(|directory| !directory.is_empty()) {
        reader.layers.offered = credentials(CREDENTIALS_DIRECTORY, directory);
    }
    if let Some(directory) = environment.get(CREDENTIALS_DIR) {
        if directory.is_empty() {
            reader.fault(CREDENTIALS_DIR, "", empty());
        } else {
            reader.layers.variables = credentials(CREDENTIALS_DIR, directory);
        }
    }
    for (name, value) in &environment.0 {
        let Some(name) = name.to_str().filter(|name| name.starts_with("CAREPORTALS_")) else { continue };
        if is_service_link(name, &value.to_string_lossy()) {
            continue;
        }
        if let Some(path) = name.strip_prefix("CAREPORTALS__") {
            reader.by_path(name, path, value);
        } else {
            reader.by_name(name, value);
        }
    }
}

/// The key that a variable sets. `None`: it sets none, or several at once.
pub(super) fn key_of(name: &str) -> Option<&'static Key> {
    if let Some(path) = name.strip_prefix("CAREPORTALS__") {
        return Target::of(path).map(|target| target.key);
    }
    setting::at(named_variables::find(name)?.0.path?)
}

struct VariablesReader<'a> {
    environment: &'a Environment,
    layers: &'a mut Layers,
}

impl VariablesReader<'_> {
    fn by_name(&mut self, name: &str, value: &OsStr) {
        let Some((variable, is_file)) = named_variables::find(name) else {
            // `exec` sets these for the program that it starts, which may be one of the sidecar's own commands.
            if !name.ends_with("_BASE_URL") {
                self.unknown_name(name);
            }
            return;
        };
        let Some(path) = variable.path else { return };
        if is_file && !value.is_empty() {
            if self.environment.get(variable.name).is_some() {
                let wrong = Diagnostic::new(format!("set together with {}", variable.name));
                return self.fault(name, path, wrong.hint("unset one of the two"));
            }
            return self.set(name, path, file_source(Path::new(value)));
        }
        let Some(text) = self.text(name, path, value) else { return };
        let Some(key) = setting::at(path) else { return };
        // Named variables hold plain text; only numbers and switches are read as TOML.
        let value = if key.form == Form::Literal { value_of(key.form, text) } else { Value::from(text) };
        self.set(name, path, value);
    }

    fn unknown_name(&mut self, name: &str) {
        let known = named_variables::names();
        let wrong = Diagnostic::new("no such variable; ignored").did_you_mean(name, known.iter().map(String::as_str));
        self.layers.findings.warnings.push(Warning::new(ValueOrigin::Variable(name.to_owned()), "", wrong));
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
            Some(kind) => {
                let form = if kind == "command" { Form::Compound } else { Form::Text };
                json!({ kind: value_of(form, text) })
            }
        };
        self.layers.entries.push((target.key.section, target.entry));
        self.set(name, &path, value);
    }

    fn unknown_path(&mut self, name: &str, written: &str) {
        let parts: Vec<String> = written.split("__").map(str::to_lowercase).collect();
        // The top level has no account or API between `CAREPORTALS` and the key.
        let section = Section::of_group(&parts[0]).filter(|_| parts.len() > 1).unwrap_or(Section::TopLevel);
        let depth = if section == Section::TopLevel { 0 } else { 2 };
        let key = parts[depth..].join(".");
        // Suggestions as they would be written, group and name included.
        let before = name.split("__").take(depth + 1).collect::<Vec<_>>().join("__");
        let whole = |key: &Key| format!("{before}__{}", key.name.replace('.', "__").to_uppercase());
        let known: Vec<String> = section.keys().map(whole).collect();
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
            Some("") => self.fault(name, path, empty()),
            Some(text) => return Some(text),
            None => self.fault(name, path, Diagnostic::new("is not UTF-8")),
        }
        None
    }

    fn fault(&mut self, name: &str, path: &str, wrong: Diagnostic) {
        self.layers.findings.faults.push(Fault::new(ValueOrigin::Variable(name.to_owned()), path, wrong));
    }
}

fn empty() -> Diagnostic {
    Diagnostic::new("is empty").hint("unset it or give it a value")
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
        match self.key.section {
            Section::TopLevel => self.key.name.to_owned(),
            section => format!("{}.{}.{}", section.group(), self.entry, self.key.name),
        }
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

/// Reads a value in TOML syntax, or text without quotes, as its form has it.
pub(super) fn value_of(form: Form, text: &str) -> Value {
    let toml = text.parse::<toml_edit::Value>().ok().as_ref().map(json_of);
    let fits = |value: &Value| match form {
        Form::Text | Form::Octal => value.is_string(),
        Form::Source => value.is_string() || value.is_object(),
        Form::Literal | Form::Compound | Form::SecretTable => true,
    };
    toml.filter(fits).unwrap_or_else(|| Value::from(text))
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
    let after = |marker: &str| name.rfind(marker).map(|at| &name[at + marker.len()..]);
    if name.ends_with("_SERVICE_HOST") || after("_SERVICE_PORT").is_some_and(|rest| rest.is_empty() || rest.starts_with('_')) {
        return true;
    }
    if name.ends_with("_PORT") && ["tcp://", "udp://", "sctp://"].iter().any(|scheme| value.starts_with(scheme)) {
        return true;
    }
    // `…_PORT_443_TCP`, `…_PORT_443_TCP_ADDR`; the last marker may belong to the ending `_TCP_PORT`.
    name.match_indices("_PORT_").any(|(at, marker)| {
        let mut parts = name[at + marker.len()..].split('_');
        let number = parts.next().is_some_and(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()));
        let protocol = parts.next().is_some_and(|part| PROTOCOLS.contains(&part));
        number && protocol && matches!((parts.next(), parts.next()), (None, _) | (Some("PROTO" | "PORT" | "ADDR"), None))
    })
}
