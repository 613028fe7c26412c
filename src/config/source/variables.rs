//! The environment as a layer: the named variables, `CAREPORTALS__…` paths, credential directories.
//!
//! Pure: the environment is a value, and [`Environment::of_process`] is the only place that reads the real one.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    fmt,
    path::Path,
};

use figment::value::{Dict, Value};

use super::{
    faults::{Diagnostic, Fault, Origin, Warning},
    file::{is_name, plain},
    keys::{self, CREDENTIALS_DIR, CREDENTIALS_DIRECTORY, Key, Kind, Section, VARIABLES, Variable},
    layers::Layer,
};

/// Environment variables, as at start.
#[derive(Clone, Default)]
pub struct Environment(BTreeMap<OsString, OsString>);

impl Environment {
    /// The real ones.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "the only place that reads the environment")]
    pub fn of_process() -> Self {
        std::env::vars_os().collect()
    }

    /// The value of one.
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

/// What the environment says.
pub(super) struct Variables {
    /// Of less weight than the file: what the service manager offers.
    pub(super) offered: Option<Layer>,
    /// A directory of credentials, then one layer for each variable.
    pub(super) layers: Vec<Layer>,
    /// Named by `CAREPORTALS__…` variables.
    pub(super) accounts: Vec<String>,
    pub(super) apis: Vec<String>,
    pub(super) faults: Vec<Fault>,
    pub(super) warnings: Vec<Warning>,
}

/// Reads every `CAREPORTALS_…` variable.
pub(super) fn read(environment: &Environment) -> Variables {
    let mut reader = Variables {
        offered: environment
            .get(CREDENTIALS_DIRECTORY)
            .filter(|directory| !directory.is_empty())
            .map(|directory| credentials(CREDENTIALS_DIRECTORY, directory)),
        layers: Vec::new(),
        accounts: Vec::new(),
        apis: Vec::new(),
        faults: Vec::new(),
        warnings: Vec::new(),
    };
    if let Some(directory) = environment.get(CREDENTIALS_DIR) {
        if directory.is_empty() {
            reader.fault(CREDENTIALS_DIR, "", empty());
        } else {
            reader.layers.push(credentials(CREDENTIALS_DIR, directory));
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
            reader.by_name(name, value, environment);
        }
    }
    reader
}

/// The key that a variable of ours sets; `None` when it sets none, or several at once.
pub(super) fn key_of(name: &str) -> Option<&'static Key> {
    if let Some(path) = name.strip_prefix("CAREPORTALS__") {
        return Target::of(path).map(|target| target.key);
    }
    let sets =
        |variable: &&Variable| variable.name == name || (variable.file && name.strip_suffix("_FILE") == Some(variable.name));
    keys::at(VARIABLES.iter().find(sets)?.path?)
}

impl Variables {
    fn by_name(&mut self, name: &str, value: &OsStr, environment: &Environment) {
        let plainly = VARIABLES.iter().find(|variable| variable.name == name);
        let as_file = VARIABLES.iter().find(|variable| variable.file && name.strip_suffix("_FILE") == Some(variable.name));
        let (variable, is_file): (&Variable, bool) = match (plainly, as_file) {
            (Some(variable), _) => (variable, false),
            (None, Some(variable)) => (variable, true),
            // What `exec` tells the program that it starts, which may be one of our own commands.
            (None, None) if name.ends_with("_BASE_URL") => return,
            (None, None) => return self.unknown_name(name),
        };
        let Some(path) = variable.path else { return };
        if value.is_empty() {
            return self.fault(name, path, empty());
        }
        if is_file {
            if environment.get(variable.name).is_some() {
                return self.fault(
                    name,
                    path,
                    Diagnostic::new(format!("set together with {}", variable.name)).hint("unset one of the two"),
                );
            }
            return self.set(name, path, file_source(Path::new(value)));
        }
        let Some(text) = value.to_str() else { return self.fault(name, path, Diagnostic::new("is not UTF-8")) };
        let Some(key) = keys::at(path) else { return };
        // Names come with plain values; only numbers and switches are read as such.
        let value = match key.kind {
            Kind::Count { .. } | Kind::Switch => value_of(key, text),
            _ => Value::from(text),
        };
        self.set(name, path, value);
    }

    fn unknown_name(&mut self, name: &str) {
        let known = VARIABLES.iter().map(|variable| variable.name.to_owned());
        let files = VARIABLES.iter().filter(|variable| variable.file).map(|variable| format!("{}_FILE", variable.name));
        let known: Vec<String> = known.chain(files).collect();
        let wrong = Diagnostic::new("no such variable; ignored").did_you_mean(name, known.iter().map(String::as_str));
        self.warnings.push(Warning::new(Origin::Variable(name.to_owned()), "", wrong));
    }

    fn by_path(&mut self, name: &str, written: &str, value: &OsStr) {
        let Some(target) = Target::of(written) else {
            let Some(members) = members(written, value) else { return self.unknown_path(name, written) };
            return members.iter().for_each(|(member, text)| self.by_path(name, member, OsStr::new(text)));
        };
        let path = target.path();
        if value.is_empty() {
            return self.fault(name, &path, empty());
        }
        let Some(text) = value.to_str() else { return self.fault(name, &path, Diagnostic::new("is not UTF-8")) };
        let value = match &target.source {
            None => value_of(target.key, text),
            Some(kind) => {
                let inner = if kind == "command" { toml(text).unwrap_or_else(|| Value::from(text)) } else { bare(text) };
                Value::from(Dict::from([(kind.clone(), inner)]))
            }
        };
        match target.key.section {
            Section::Global => {}
            Section::Account => remember(&mut self.accounts, &target.entry),
            Section::Api => remember(&mut self.apis, &target.entry),
        }
        self.set(name, &path, value);
    }

    fn unknown_path(&mut self, name: &str, written: &str) {
        let parts: Vec<String> = written.split("__").map(str::to_lowercase).collect();
        let (section, key) = match parts.as_slice() {
            [group, _, rest @ ..] if group == "accounts" => (Section::Account, rest.join(".")),
            [group, _, rest @ ..] if group == "apis" => (Section::Api, rest.join(".")),
            rest => (Section::Global, rest.join(".")),
        };
        // Suggestions as they would be written, group and name included.
        let depth = if section == Section::Global { 1 } else { 3 };
        let before = name.split("__").take(depth).collect::<Vec<_>>().join("__");
        let whole = |key: &Key| format!("{before}__{}", variable_part(key.name));
        let known: Vec<String> = keys::of(section).map(whole).collect();
        let wrong = Diagnostic::new("no such key");
        let wrong = match keys::of(section).find(|known| key.starts_with(&format!("{}.", known.name))) {
            Some(whole) => wrong.hint(format!("give `{}` as a whole, in TOML syntax", whole.name)),
            None if keys::find(section, &key).is_some() => wrong.hint("an account's or API's name is made of a-z, 0-9 and `-`"),
            None => wrong.did_you_mean(name, known.iter().map(String::as_str)),
        };
        self.fault(name, "", wrong);
    }

    /// One layer for each variable, so that each value knows its own. Two for one key would leave the choice to chance.
    fn set(&mut self, name: &str, path: &str, value: Value) {
        let other = self.layers.iter().find(|layer| is_other(layer, path)).map(|layer| layer.origin().to_string());
        match other {
            Some(other) => {
                self.fault(name, path, Diagnostic::new(format!("sets the same key as {other}")).hint("unset one of the two"));
            }
            None => self.layers.push(Layer::with(Origin::Variable(name.to_owned()), path, value)),
        }
    }

    fn fault(&mut self, name: &str, path: &str, wrong: Diagnostic) {
        self.faults.push(Fault::new(Origin::Variable(name.to_owned()), path, wrong));
    }
}

fn is_other(layer: &Layer, path: &str) -> bool {
    let directory = matches!(layer.origin(), Origin::Variable(name) if name == CREDENTIALS_DIR);
    !directory && layer.paths().any(|taken| taken == path)
}

fn remember(names: &mut Vec<String>, name: &str) {
    if !names.iter().any(|known| known == name) {
        names.push(name.to_owned());
    }
}

fn empty() -> Diagnostic {
    Diagnostic::new("is empty").hint("unset it or give it a value")
}

/// What `CAREPORTALS__…` names.
struct Target {
    key: &'static Key,
    /// The account or API; empty for a global key.
    entry: String,
    /// `file`, `env` or `command` when the variable ends in it.
    source: Option<String>,
}

impl Target {
    /// A name may hold `--`, written `__`: the first reading that gives a known key counts.
    fn of(written: &str) -> Option<Self> {
        let parts: Vec<String> = written.split("__").map(str::to_lowercase).collect();
        let section = match parts.first()?.as_str() {
            "accounts" => Section::Account,
            "apis" => Section::Api,
            _ => return Self::key(Section::Global, String::new(), &parts),
        };
        (2..parts.len()).find_map(|end| {
            let entry = parts[1..end].join("__").replace('_', "-");
            if is_name(&entry) { Self::key(section, entry, &parts[end..]) } else { None }
        })
    }

    fn key(section: Section, entry: String, parts: &[String]) -> Option<Self> {
        if let Some(key) = keys::find(section, &parts.join(".")) {
            return Some(Self { key, entry, source: None });
        }
        let (last, rest) = parts.split_last()?;
        let key = keys::find(section, &rest.join(".")).filter(|key| key.kind == Kind::Source)?;
        matches!(last.as_str(), "file" | "env" | "command").then(|| Self { key, entry, source: Some(last.clone()) })
    }

    fn path(&self) -> String {
        match self.key.section {
            Section::Global => self.key.name.to_owned(),
            Section::Account => format!("accounts.{}.{}", self.entry, self.key.name),
            Section::Api => format!("apis.{}.{}", self.entry, self.key.name),
        }
    }
}

/// The members of a table given as a whole, each as a variable of its own would give it; `None` when it is no such table.
fn members(written: &str, value: &OsStr) -> Option<Vec<(String, String)>> {
    let table = value.to_str()?.parse::<toml_edit::Value>().ok()?;
    let table = table.as_inline_table()?;
    let named = |member: &str| format!("{written}__{member}");
    let members = table.iter().map(|(member, value)| (named(member), value.to_string().trim().to_owned()));
    let members: Vec<_> = members.collect();
    members.iter().any(|(member, _)| Target::of(member).is_some()).then_some(members)
}

fn variable_part(name: &str) -> String {
    name.replace('.', "__").to_uppercase()
}

/// A value in TOML syntax, or a bare string, as the key would have it.
pub(super) fn value_of(key: &Key, text: &str) -> Value {
    match toml(text) {
        Some(Value::String(tag, inner)) => Value::String(tag, inner),
        Some(Value::Dict(tag, table)) if key.kind == Kind::Source => Value::Dict(tag, table),
        Some(_) if key.is_text() || key.kind == Kind::Source => Value::from(text),
        Some(value) => value,
        None => Value::from(text),
    }
}

fn toml(text: &str) -> Option<Value> {
    text.parse::<toml_edit::Value>().ok().as_ref().and_then(plain)
}

fn bare(text: &str) -> Value {
    match toml(text) {
        Some(Value::String(tag, inner)) => Value::String(tag, inner),
        _ => Value::from(text),
    }
}

fn file_source(path: &Path) -> Value {
    // A path that is no text can't travel as a value; what is lost here is found missing when it is read.
    Value::from(Dict::from([("file".to_owned(), Value::from(path.to_string_lossy().into_owned()))]))
}

fn credentials(variable: &str, directory: &OsStr) -> Layer {
    let mut layer = Layer::new(Origin::Variable(variable.to_owned()));
    for name in ["organization", "username", "password"] {
        layer.push(format!("accounts.default.{name}"), file_source(&Path::new(directory).join(name)));
    }
    layer
}

/// Kubernetes writes such variables into every container for a service called `careportals` or `careportals-…`.
fn is_service_link(name: &str, value: &str) -> bool {
    const PROTOCOLS: [&str; 3] = ["TCP", "UDP", "SCTP"];
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
