//! What users write, from the file, the environment and flags, and what it comes to.
//!
//! Depends on figment (layers), `toml_edit` (lines), and on `careportals`, `path` and `secret` of ours. Guarantees: every
//! fault is found in one go, each with its file and line, variable or flag; no fault, warning or rendering holds a
//! secret; nothing but [`Environment::of_process`] reads the process's environment.
//!
//! The way through: `layers` from `file` and `variables`; each value read by its kind in `values`, as the table in `keys`
//! says; `build` makes the types of [`super`]; `relations` judges what only several values together can get wrong.

mod build;
mod child_environment;
mod daemon_address;
mod egress;
mod faults;
mod file;
mod keys;
mod layers;
mod login;
mod partial_api;
mod reading;
mod reference;
mod relations;
mod render;
mod schema;
mod url;
mod values;
mod variables;

#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    ffi::OsString,
    io::ErrorKind,
    path::{Path, PathBuf},
};

pub use child_environment::MEANT_FOR_US;
pub use daemon_address::{DaemonAddress, Setting, reach};
pub use faults::{Fault, Origin, Warning};
pub use reference::reference;
pub use render::{render_check, render_effective};
pub use schema::json_schema;
pub use values::parse_duration;
pub use variables::Environment;

use self::{
    faults::Diagnostic,
    file::File,
    keys::{CONFIG, Section},
    layers::{Layer, Merged},
    reading::Values,
    variables::Variables,
};
use super::Config;
use crate::files;

/// Where settings may stand.
#[derive(Clone, Debug)]
pub struct Input {
    /// `--config`.
    pub config_flag: Option<PathBuf>,
    /// Read when neither `--config` nor its variable names a file, and only if present.
    pub default_file: PathBuf,
    /// Key paths such as `log` and their values, from flags.
    pub flags: Vec<(String, String)>,
    /// Variables as at start.
    pub environment: Environment,
    /// Keys' names and the defaults, in TOML syntax, that a command has instead of the daemon's.
    pub defaults: &'static [(&'static str, &'static str)],
}

/// The default of [`Input::default_file`].
pub const DEFAULT_FILE: &str = "/etc/careportals-sidecar/config.toml";

/// Where OpenSSL, and so everybody, looks for the system's roots of trust, if it is set.
const ROOTS_FILE: &str = "SSL_CERT_FILE";
const ROOTS_DIRECTORIES: &str = "SSL_CERT_DIR";

/// What came of it.
#[derive(Debug)]
pub struct Loaded {
    /// Only when there is no fault.
    pub config: Option<Config>,
    /// Everything that is wrong.
    pub faults: Vec<Fault>,
    /// Everything that is worth a word.
    pub warnings: Vec<Warning>,
    /// Every value in effect, for `config`.
    pub values: Vec<EffectiveValue>,
    /// The settings file, if one was read.
    pub file: Option<PathBuf>,
    /// Variables that hold a secret, or say where one is to be had: not for a program that is started. By name.
    pub secret_variables: Vec<OsString>,
}

/// One value in effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EffectiveValue {
    /// `apis.emr.listen`, or a variable that has no key.
    pub path: String,
    /// In TOML syntax; a secret as `"[redacted]"`, a faulty value as `"[invalid]"`. Words when it has no value.
    pub shown: String,
    /// Who gave it.
    pub origin: Origin,
    /// Whether it has a value at all.
    pub is_set: bool,
}

impl Loaded {
    /// Takes up what only shows when a value is used: a file that is of no use, say. `key`: whose value; empty: nobody's.
    pub fn refuse(&mut self, key: &str, message: String, hint: Option<&str>) {
        let value = self.values.iter().find(|value| value.path == key);
        let origin = value.map_or(Origin::Default, |value| value.origin.clone());
        let wrong = Diagnostic::new(message);
        let wrong = if let Some(hint) = hint { wrong.hint(hint) } else { wrong };
        self.faults.push(Fault::new(origin, key, wrong));
        self.config = None;
    }
}

impl Input {
    /// What a command started from a shell goes by.
    #[must_use]
    pub fn of_process(config_flag: Option<PathBuf>, flags: Vec<(String, String)>) -> Self {
        let (default_file, environment) = (PathBuf::from(DEFAULT_FILE), Environment::of_process());
        Self { config_flag, default_file, flags, environment, defaults: &[] }
    }

    /// Files that a later [`load`], or what becomes of it, reads again, beside those that the settings name.
    pub fn files(&self) -> impl Iterator<Item = PathBuf> {
        let (settings, _) = settings_file(self.config_flag.as_deref(), &self.default_file, &self.environment);
        std::iter::once(settings).chain(self.environment.get(ROOTS_FILE).map(PathBuf::from))
    }

    /// The same of whole directories.
    pub fn directories(&self) -> impl Iterator<Item = PathBuf> {
        self.environment.get(ROOTS_DIRECTORIES).into_iter().flat_map(std::env::split_paths)
    }
}

/// Reads every layer, finds every fault, and builds the configuration if there is none.
#[must_use]
pub fn load(input: Input) -> Loaded {
    let mut faults = Vec::new();
    let environment = input.environment;
    let text = read_file(input.config_flag.as_deref(), &input.default_file, &environment, &mut faults);
    let file = text.as_ref().map(|(path, text)| file::read(path, text));
    let path = text.as_ref().map(|(path, _)| path.clone());
    let variables = variables::read(&environment);
    let flags = flag_layers(input.flags, &mut faults);
    let accounts = names(file.as_ref().map(|file| &file.accounts), &variables.accounts, "accounts", &flags);
    let apis = names(file.as_ref().map(|file| &file.apis), &variables.apis, "apis", &flags);
    let defaults = defaults(&accounts, &apis, input.defaults);
    let (merged, warnings) = merge(defaults, file, path.as_deref(), variables, flags, [&accounts, &apis], &mut faults);

    let mut values = Values::read(&merged, &environment, &accounts, &apis);
    faults.append(&mut values.faults);
    let unsound = !faults.is_empty();
    let mut config = build::config(&mut values, &environment);
    faults.append(&mut values.faults);
    if config.is_none() && faults.is_empty() {
        // Unreachable as long as `build` names a fault for whatever it misses; never start on a guess.
        faults.push(Fault::new(Origin::Default, "", Diagnostic::new("the settings are incomplete")));
    }
    if unsound || !faults.is_empty() {
        config = None;
    }
    faults.sort_by_key(|fault| fault.origin().rank());
    faults.dedup();
    let mut all_warnings = warnings;
    all_warnings.append(&mut values.warnings);
    let secret_variables = child_environment::secret_variables(&environment, &merged);
    Loaded { config, faults, warnings: all_warnings, values: values.effective, file: path, secret_variables }
}

/// Its path, and who says so.
fn settings_file(flag: Option<&Path>, default: &Path, environment: &Environment) -> (PathBuf, Origin) {
    let variable = environment.get(CONFIG).map(PathBuf::from);
    match (flag, variable) {
        (Some(path), _) => (path.to_owned(), Origin::Flag("--config".to_owned())),
        (None, Some(path)) => (path, Origin::Variable(CONFIG.to_owned())),
        (None, None) => (default.to_owned(), Origin::Default),
    }
}

/// The file's path and text. A file that was asked for must be there; the default one need not.
fn read_file(
    flag: Option<&Path>,
    default: &Path,
    environment: &Environment,
    faults: &mut Vec<Fault>,
) -> Option<(PathBuf, String)> {
    let (path, origin) = settings_file(flag, default, environment);
    match files::read(&path).map(String::from_utf8) {
        Ok(Ok(text)) => return Some((path, text)),
        Ok(Err(_)) => faults.push(Fault::new(Origin::File { path, line: 0 }, "", Diagnostic::new("is not UTF-8"))),
        Err(error) if error.kind() == ErrorKind::NotFound && origin == Origin::Default => {}
        Err(error) => {
            let origin = if origin == Origin::Default { Origin::File { path: path.clone(), line: 0 } } else { origin };
            faults.push(Fault::new(origin, "", Diagnostic::new(format!("cannot read {}: {}", path.display(), error.kind()))));
        }
    }
    None
}

fn flag_layers(flags: Vec<(String, String)>, faults: &mut Vec<Fault>) -> Vec<Layer> {
    let mut layers = Vec::new();
    for (path, value) in flags {
        let origin = Origin::Flag(format!("--{}", path.rsplit('.').next().unwrap_or(&path).replace('_', "-")));
        match keys::at(&path) {
            Some(key) => layers.push(Layer::with(origin, path, variables::value_of(key, &value))),
            None => faults.push(Fault::new(origin, path, Diagnostic::new("no such key"))),
        }
    }
    layers
}

/// The file's names, then the variables'; `default` when nobody names any.
fn names(file: Option<&Vec<String>>, variables: &[String], group: &str, flags: &[Layer]) -> Vec<String> {
    let of_flags =
        flags.iter().flat_map(Layer::paths).filter_map(|path| path.strip_prefix(group)?.strip_prefix('.')?.split('.').next());
    let mut names: Vec<String> = Vec::new();
    for name in file.into_iter().flatten().chain(variables) {
        if !names.contains(name) {
            names.push(name.clone());
        }
    }
    if names.is_empty() {
        names.extend(of_flags.map(str::to_owned).take(1));
    }
    if names.is_empty() {
        names.push("default".to_owned());
    }
    names
}

fn merge(
    defaults: Layer,
    file: Option<File>,
    path: Option<&Path>,
    variables: Variables,
    flags: Vec<Layer>,
    names: [&[String]; 2],
    faults: &mut Vec<Fault>,
) -> (Merged, Vec<Warning>) {
    let [accounts, apis] = names;
    let exists = |path: &str| {
        let missing = |group: &str, names: &[String]| path.starts_with(group) && !names.iter().any(|name| name == "default");
        !missing("accounts.default.", accounts) && !missing("apis.default.", apis)
    };
    let mut layers = vec![defaults];
    layers.extend(variables.offered.filter(|layer| layer.paths().all(exists)));
    let mut lines = BTreeMap::new();
    if let Some(file) = file {
        layers.push(file.layer);
        lines = file.lines;
        faults.extend(file.faults);
    }
    faults.extend(variables.faults);
    for layer in variables.layers {
        let homeless = layer.paths().find(|path| !exists(path)).map(str::to_owned);
        match homeless {
            None => layers.push(layer),
            Some(path) => {
                let (group, kind) = if path.starts_with("accounts") { ("accounts", "account") } else { ("apis", "API") };
                let wrong = Diagnostic::new(format!("sets the {kind} `default`, which the settings do not have"))
                    .hint(format!("add `[{group}.default]`, or use CAREPORTALS__{}__NAME__KEY", group.to_uppercase()));
                faults.push(Fault::new(layer.origin().clone(), path, wrong));
            }
        }
    }
    for layer in flags {
        let known = |path: &str| match path.split('.').collect::<Vec<_>>().as_slice() {
            ["accounts", name, ..] => accounts.iter().any(|known| known == name),
            ["apis", name, ..] => apis.iter().any(|known| known == name),
            _ => true,
        };
        let homeless = layer.paths().find(|path| !known(path)).map(str::to_owned);
        match homeless {
            None => layers.push(layer),
            Some(path) => {
                faults.push(Fault::new(layer.origin().clone(), path, Diagnostic::new("the settings have no such table")))
            }
        }
    }
    (Merged::new(layers, path, lines), variables.warnings)
}

fn defaults(accounts: &[String], apis: &[String], instead: &[(&str, &str)]) -> Layer {
    let mut layer = Layer::new(Origin::Default);
    let mut add = |section: Section, entry: &str| {
        for key in keys::of(section) {
            let instead = instead.iter().find(|(name, _)| *name == key.name).map(|(_, default)| *default);
            if let Some(default) = instead.or(key.default) {
                layer.push(format!("{entry}{}", key.name), variables::value_of(key, default));
            }
        }
    };
    add(Section::Global, "");
    for name in accounts {
        add(Section::Account, &format!("accounts.{name}."));
    }
    for name in apis {
        add(Section::Api, &format!("apis.{name}."));
    }
    layer
}
