//! Reads what users write in the file, the environment and flags, and makes the configuration from it.
//!
//! It finds every fault in one run, each with its file and line, variable or flag. No fault, warning or printed value holds
//! a secret. Only [`Environment::of_process`] reads the environment of the process, and only this file reads the settings
//! file; the rest is pure.
//!
//! Files, each using only those before it: `faults`, `environment`, `named_variables`, `toml` (values as they are written),
//! `setting` (what a setting is), `layers` (merges the leaves of what is written), `reader` (the macros that declare settings,
//! and how these are read); `measures`, `headers`, `url`, `kinds` (read one value each); `top_level`, `account`, `api`
//! (declare the settings), `tables` (all of them); `file`, `variables` (make leaves of what is written); `login`, `egress`,
//! `relations` (faults that only several values together show), `warnings`, `build` (makes the configuration); `schema`,
//! `child_environment`, `loaded` (the outcome, and how it is printed).

pub mod account;
pub mod api;
mod build;
mod child_environment;
mod egress;
mod environment;
mod faults;
mod file;
mod headers;
mod kinds;
mod layers;
mod loaded;
mod login;
mod measures;
mod named_variables;
mod reader;
mod relations;
mod schema;
mod setting;
mod tables;
mod toml;
pub mod top_level;
mod url;
mod variables;
mod warnings;

#[cfg(test)]
pub(crate) mod tests;

use std::{
    collections::BTreeSet,
    io::ErrorKind,
    net::SocketAddr,
    path::{Path, PathBuf},
};

pub use self::{
    child_environment::MEANT_FOR_US,
    environment::Environment,
    faults::{Fault, Finding, ValueOrigin, Warning, printable},
    loaded::{Loaded, render_check, render_effective},
    measures::parse_duration,
    named_variables::variables_in_words,
    schema::json_schema,
    setting::{EffectiveValue, Setting},
};
use self::{
    faults::{Diagnostic, NO_SUCH_KEY},
    layers::{Layers, Leaf, Merged},
    named_variables::{CONFIG, CREDENTIALS_DIRECTORY, variable_by_path},
    reader::SettingsReader,
    setting::{Findings, Section, parts},
    tables::{Written, key_at},
    top_level::{NamedRoots, TopLevel},
};
use super::ControlSocket;
use crate::{files, resources};

/// The settings file that is read when no other is named, if it exists.
pub const DEFAULT_FILE: &str = "/etc/careportals-sidecar/config.toml";

/// Where settings may be written.
#[derive(Clone, Debug)]
pub struct Input {
    /// The settings file that `--config` names.
    pub config_flag: Option<PathBuf>,
    /// Read when neither `--config` nor its variable names a file, and only if present.
    pub default_file: PathBuf,
    /// The daemon runs by keys of the settings file: one that is gone, or has none, must not lift its rules.
    pub needs_file_keys: bool,
    /// Flags: the path of a key, such as `log`, and its value.
    pub flags: Vec<(String, String)>,
    /// The environment, as it was at start.
    pub environment: Environment,
    /// Defaults that a command has instead of the daemon's: the name of a key and a value in TOML syntax.
    pub defaults: &'static [(&'static str, &'static str)],
}

impl Input {
    /// The settings of this process.
    #[must_use]
    pub fn of_process(config_flag: Option<PathBuf>) -> Self {
        let (default_file, environment) = (PathBuf::from(DEFAULT_FILE), Environment::of_process());
        Self { config_flag, default_file, needs_file_keys: false, flags: Vec::new(), environment, defaults: &[] }
    }

    /// Files that a later [`load`] reads again, or trust that is loaded after it, besides those that the settings name.
    pub fn files(&self) -> impl Iterator<Item = PathBuf> {
        std::iter::once(self.settings_file().0).chain(NamedRoots::of(&self.environment).and_then(|roots| roots.file))
    }

    /// Directories whose files are read again likewise.
    pub fn directories(&self) -> impl Iterator<Item = PathBuf> {
        NamedRoots::of(&self.environment).into_iter().flat_map(|roots| roots.directories)
    }

    /// The settings file and who names it.
    fn settings_file(&self) -> (PathBuf, ValueOrigin) {
        match (&self.config_flag, self.environment.get(CONFIG)) {
            (Some(path), _) => (path.clone(), ValueOrigin::Flag("--config".to_owned())),
            (None, Some(path)) => (path.into(), ValueOrigin::Variable(CONFIG.to_owned())),
            (None, None) => (self.default_file.clone(), ValueOrigin::Default),
        }
    }
}

/// Reads every layer, finds every fault, and builds the configuration if there is none.
#[must_use]
pub fn load(input: Input) -> Loaded {
    let mut layers = read_layers(&input);
    let Input { environment, defaults, .. } = input;
    let file = layers.file.take();
    if let Some(fault) = layers.unusable.take() {
        let faults = [fault].into_iter().chain(faults_beside_file(layers, &environment)).collect();
        return Loaded { faults, file, ..Loaded::default() };
    }
    let secret_variables = child_environment::secret_variables(&environment, &layers.leaves);
    let [accounts, mut apis] = [Section::Account, Section::Api].map(|section| names(section, &layers));
    let (mut merged, mut findings) = merge(layers, &accounts, &apis);
    apis.retain(|api| api_of_variables_alone(api, &merged).map(|fault| findings.faults.push(fault)).is_none());
    let judge = |merged: &mut Merged, findings: &mut Findings| {
        build::derive_upstreams(merged, &apis);
        let mut reader = SettingsReader { merged, environment: &environment, defaults, findings };
        build::config(Written::read(&mut reader, &accounts, &apis), &environment, findings)
    };
    let config = judge(&mut merged, &mut findings);
    if config.is_none() && findings.faults.is_empty() {
        // Unreachable as long as `build` names a fault for each value that it misses; never start on a guess.
        findings.faults.push(Fault::new(ValueOrigin::Default, "", Diagnostic::new("the settings are incomplete")));
    }
    let (config, rest) = if findings.faults.is_empty() {
        (config, None)
    } else {
        let told: Vec<String> = findings.faults.iter().map(|fault| fault.path.to_string()).collect();
        // Where a table is wrong, any account may lack what it holds.
        let of_accounts = accounts.iter().map(|name| Section::Account.path(name, "organization"));
        let all = of_accounts.chain(apis.iter().map(|name| Section::Api.path(name, "account"))).collect();
        let mut without = |faulty| {
            build::leave_out(&mut merged, faulty, &accounts);
            judge(&mut merged, &mut Findings::default())
        };
        (None, config.or_else(|| without(told)).or_else(|| without(all)))
    };
    let Findings { mut faults, mut warnings, values } = findings;
    faults.sort_by_key(Fault::line);
    warnings.sort_by_key(Warning::line);
    faults.dedup();
    let [faults, warnings] =
        [faults, warnings].map(|all| all.into_iter().map(|found| found.spelled(&values)).collect::<Vec<_>>());
    Loaded { config, rest, faults, warnings, values, file, secret_variables }
}

/// The faults of variables and flags that are faults whatever the settings file says: unknown names, and values that can't be read.
fn faults_beside_file(layers: Layers, environment: &Environment) -> Vec<Fault> {
    let Layers { leaves, tables, mut findings, .. } = layers;
    let named = |section| {
        let entries = leaves.iter().map(|leaf| parts(&leaf.path)).filter(|(other, ..)| *other == section);
        entries.map(|(_, entry, _)| entry.to_owned()).collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>()
    };
    let [accounts, apis] = [Section::Account, Section::Api].map(named);
    let merged = &Merged::new(tables, &leaves);
    Written::read(&mut SettingsReader { merged, environment, defaults: &[], findings: &mut findings }, &accounts, &apis);
    egress::read(environment, &mut findings);
    findings.faults
}

/// Where a daemon is, as its settings say, for commands that talk to it.
#[derive(Debug)]
pub struct DaemonAddress {
    /// Health and metrics. `None`: off.
    pub telemetry: Setting<Option<SocketAddr>>,
    /// The socket for `status` and its siblings.
    pub control: Setting<ControlSocket>,
    /// What else is wrong with the settings. It may be why the daemon is looked for at the wrong address.
    pub faults: Vec<Fault>,
}

/// Reads the address out of every layer, and judges no other setting: a probe needs no credentials, and a fault elsewhere must
/// not keep it from asking. The daemon may run with settings that were right when it started.
#[must_use]
pub fn daemon_address(input: &Input) -> DaemonAddress {
    let Layers { leaves, tables, findings, unusable, .. } = read_layers(input);
    let merged = &Merged::new(tables, &leaves);
    let Input { environment, defaults, .. } = input;
    let mut unasked = Findings::default();
    let top = TopLevel::read(&mut SettingsReader { merged, environment, defaults, findings: &mut unasked }, "");
    let Findings { mut faults, warnings, .. } = findings;
    let (mut control, mut telemetry) = (top.control_socket, top.telemetry_listen);
    // What is wrong may be how the user has written the socket, and another daemon may be at the default place.
    let has_no_file = !input.settings_file().1.is_written();
    let is_about_control = |fault: &&Fault| fault.may_mean_control_socket() || (has_no_file && fault.is_about_settings_file());
    let about_control = unusable.as_ref().or_else(|| faults.iter().chain(&warnings).find(is_about_control));
    if let Some(fault) = about_control.filter(|_| !control.is_written()) {
        control.value = Err(fault.clone().ends_command("name the daemon's socket with --control-socket"));
    }
    // A healthy daemon may run by settings that were changed since. One by a file that can't be read can't be known at all.
    let is_unread = |fault: &&Fault| !matches!(fault.origin, ValueOrigin::File { line: 1.., .. });
    if let Some(fault) = unusable.as_ref().filter(is_unread).filter(|_| !telemetry.is_written()) {
        telemetry.value = Err(fault.clone().ends_command("name the listener with CAREPORTALS_TELEMETRY_LISTEN"));
    }
    faults.splice(..0, unusable).for_each(drop);
    DaemonAddress { telemetry, control, faults }
}

/// Reads the file, the environment and the flags.
fn read_layers(input: &Input) -> Layers {
    let mut layers = Layers { leaves: variables::credentials(&input.environment, CREDENTIALS_DIRECTORY), ..Layers::default() };
    match read_file(input) {
        Ok(Some((path, text))) => file::read(&path, &text, input.needs_file_keys, &mut layers),
        Ok(None) => {}
        Err(fault) => {
            layers.file = Some(input.settings_file().0).filter(|path| !path.as_os_str().is_empty());
            layers.unusable = Some(fault);
        }
    }
    variables::read(&input.environment, &mut layers);
    for (path, value) in &input.flags {
        let name = path.rsplit('.').next().unwrap_or(path).replace('_', "-");
        let (path, origin) = (path.clone(), ValueOrigin::Flag(format!("--{name}")));
        match key_at(&path) {
            Some(key) => layers.leaves.push(Leaf { path, value: toml::value_of(key.form, value), origin }),
            None => layers.findings.faults.push(Fault::new(origin, path, Diagnostic::new(NO_SUCH_KEY))),
        }
    }
    layers
}

/// The file's path and text. A file that was asked for, or by which the daemon runs, must be there; the default one need not.
fn read_file(input: &Input) -> Result<Option<(PathBuf, String)>, Fault> {
    let (path, origin) = input.settings_file();
    if path.as_os_str().is_empty() && origin.is_written() {
        let hint =
            if matches!(origin, ValueOrigin::Flag(_)) { "leave it out or name a file" } else { "unset it or give it a value" };
        return Err(Fault::new(origin, "", Diagnostic::new("is empty").hint(hint)));
    }
    let is_optional = origin == ValueOrigin::Default && !input.needs_file_keys;
    let wrong = match files::read(&path).map(String::from_utf8) {
        // A pipe gives its text once: what it gives now is not the settings.
        _ if input.needs_file_keys && is_pipe_or_device(&path) => {
            let wrong = format!("{} is a pipe or a device, which gives its text once", path.display());
            Diagnostic::new(wrong)
                .hint("restart the daemon with the new settings, or with a regular file, which a reload can read")
        }
        Ok(Ok(text)) => return Ok(Some((path, text))),
        // Rules that stand behind a broken link must not be lifted.
        Err(error) if error.kind() == ErrorKind::NotFound && is_optional && !files::has_broken_link(&path) => return Ok(None),
        Ok(Err(_)) => Diagnostic::new(format!("{} is not UTF-8", path.display())),
        Err(error) => {
            let hint = match error.kind() {
                ErrorKind::NotFound if input.needs_file_keys => "put it back; to run without it, restart",
                _ => "correct the path, or give this user the right to read the file",
            };
            Diagnostic::new(format!("cannot read {}: {}", path.display(), files::why(&path, &error)))
                .hint(resources::advice(&error).unwrap_or(hint))
        }
    };
    Err(Fault::new(if origin.is_written() { origin } else { ValueOrigin::File { path, line: 0 } }, "", wrong))
}

/// Whether the path leads to what is no regular file. A directory is told by whoever reads it.
fn is_pipe_or_device(path: &Path) -> bool {
    let path = path.to_owned();
    let found = files::within(files::LIMIT, move || path.metadata());
    found.is_ok_and(|found| !found.is_file() && !found.is_dir())
}

/// The file's names, then those of variables. Where neither has one, `default`, which flags mean too.
fn names(section: Section, layers: &Layers) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for (_, name) in layers.entries.iter().filter(|(other, _)| *other == section) {
        if !names.contains(name) {
            names.push(name.clone());
        }
    }
    if names.is_empty() {
        names.push("default".to_owned());
    }
    names
}

/// Merges the layers, and reports values whose account or API does not exist.
fn merge(layers: Layers, accounts: &[String], apis: &[String]) -> (Merged, Findings) {
    let Layers { leaves, tables, mut findings, .. } = layers;
    for Leaf { path, origin, .. } in &leaves {
        let (section, entry, _) = parts(path);
        let known = if section == Section::Account { accounts } else { apis };
        let exists = section == Section::TopLevel || known.iter().any(|known| known == entry);
        // The service manager may offer credentials for other purposes. A directory of credentials gives several values at once.
        let is_offered = *origin == ValueOrigin::Variable(CREDENTIALS_DIRECTORY.to_owned());
        if exists || is_offered || findings.faults.last().is_some_and(|fault| fault.origin == *origin) {
            continue;
        }
        let wrong = Diagnostic::new(format!("sets `[{}.{entry}]`, which the settings do not have", section.group()));
        let hint = format!("add that table, or use CAREPORTALS__{}__NAME__KEY", section.group().to_uppercase());
        findings.faults.push(Fault::new(origin.clone(), path, wrong.hint(hint)));
    }
    (Merged::new(tables, &leaves), findings)
}

/// Reports an API that only variables create beside those of the file, if they set neither `upstream` nor `preset`: the variable is
/// meant for another API, and an address without rules would open.
fn api_of_variables_alone(api: &str, merged: &Merged) -> Option<Fault> {
    let table = Section::Api.path(api, "");
    let is_file = |origin: &ValueOrigin| matches!(origin, ValueOrigin::File { .. });
    let of_file = |table: &str| merged.tables().any(|name| format!("{name}.").starts_with(table));
    let set: Vec<_> = merged.values.range(table.clone()..).take_while(|(path, _)| path.starts_with(&table)).collect();
    let has_upstream = set.iter().any(|(path, _)| matches!(&path[table.len()..], "upstream" | "preset"));
    if has_upstream || of_file(&table) || !of_file("apis.") || set.iter().any(|(_, (_, origin))| is_file(origin)) {
        return None;
    }
    let (path, (_, origin)) = set.into_iter().find(|(_, (_, origin))| matches!(origin, ValueOrigin::Variable(_)))?;
    let wrong = Diagnostic::new(format!("sets `[apis.{api}]`, which the settings file does not have"));
    let upstream = variable_by_path(&Section::Api.path(api, "upstream"));
    Some(Fault::new(
        origin.clone(),
        path.clone(),
        wrong.hint(format!("name an API of the file; or set {upstream} for another one")),
    ))
}
