//! The outcome of reading the settings, and how `check` and `config` print it.
//!
//! Pure but for the writer that it is given. It never shows secrets, the values of fixed headers, or further log-in members.

use std::{
    ffi::OsString,
    io::{self, Write},
    path::PathBuf,
};

use super::{
    faults::{Diagnostic, Fault, Finding, ValueOrigin, Warning, printable},
    named_variables::variable_of,
    setting::{EffectiveValue, Section, parts},
    tables::key_at,
};
use crate::config::Config;

/// What [`load`](super::load) found, and the configuration if nothing is wrong.
#[derive(Debug, Default)]
pub struct Loaded {
    /// The configuration; `None` when there are faults.
    pub config: Option<Config>,
    /// What is right of settings that have faults: the files and sockets that it names are judged too. Nothing may run by it.
    pub rest: Option<Config>,
    /// All faults: the file's from top to bottom, then those of variables and flags.
    pub faults: Vec<Fault>,
    /// All warnings, likewise.
    pub warnings: Vec<Warning>,
    /// Every value in effect, for `config`.
    pub values: Vec<EffectiveValue>,
    /// The settings file, if one is named or there; it may be of no use.
    pub file: Option<PathBuf>,
    /// The names of the variables that hold a secret or lead to one. A started program must not inherit them.
    pub secret_variables: Vec<OsString>,
}

impl Loaded {
    /// Adds a fault that only the use of a value shows, such as a file that can't be used. `key`: the value's key, or empty.
    pub fn refuse(&mut self, key: &str, message: String, hint: Option<&str>) {
        self.faults.push(self.finding(key, message, hint));
        self.faults.sort_by_key(Fault::line);
        self.config = None;
    }

    /// Adds a warning that only the use of the value of `key` shows.
    pub fn warn(&mut self, key: &str, message: String, hint: &str) {
        self.warnings.push(self.finding(key, message, Some(hint)));
        self.warnings.sort_by_key(Warning::line);
    }

    /// Whether a value in effect stands in the settings file.
    #[must_use]
    pub fn has_file_keys(&self) -> bool {
        self.values.iter().any(|value| matches!(value.origin, ValueOrigin::File { .. }))
    }

    fn finding(&self, key: &str, message: String, hint: Option<&str>) -> Finding {
        let value = self.values.iter().find(|value| value.path == key);
        let origin = value.map_or(ValueOrigin::Default, |value| value.origin.clone());
        Finding::new(origin, key, Diagnostic { hint: hint.map(str::to_owned), ..Diagnostic::new(message) }).spelled(&self.values)
    }
}

impl Finding {
    /// Names other keys as the user names this one, by their variables, but for those that the file sets.
    pub(super) fn spelled(mut self, values: &[EffectiveValue]) -> Self {
        let is_in_file =
            |path: &str| values.iter().any(|value| value.path == path && matches!(value.origin, ValueOrigin::File { .. }));
        let (section, entry, _) = parts(&self.path);
        let word = |word: &str| {
            let (name, value) = word.split_once(" = ").map_or((word, String::new()), |(name, value)| (name, format!("={value}")));
            let section = [section, Section::Account, Section::TopLevel].into_iter().find(|other| other.find(name).is_some());
            let entry = if entry.is_empty() { "default" } else { entry };
            let path = section.map(|section| section.path(entry, name)).filter(|path| !is_in_file(path));
            path.map_or_else(|| word.to_owned(), |path| variable_of(&path) + &value)
        };
        // What stands between backticks is every other part.
        let part = |(at, text): (usize, &str)| if at % 2 == 0 { text.to_owned() } else { word(text) };
        let each = |text: &str| text.split('`').enumerate().map(part).collect::<Vec<_>>().join("`");
        if matches!(self.origin, ValueOrigin::Variable(_)) {
            self.wrong.message = each(&self.wrong.message);
            self.wrong.hint = self.wrong.hint.as_deref().map(each);
        }
        self
    }
}

/// Writes each value in effect as TOML, with its origin in a comment.
///
/// # Errors
///
/// Writing to `out` failed.
pub fn render_effective(loaded: &Loaded, out: &mut impl Write) -> io::Result<()> {
    let file = loaded.file.as_ref().map_or("none".into(), |path| path.to_string_lossy());
    writeln!(out, "# settings file: {}", printable(&file))?;
    let line = |value: &EffectiveValue| {
        let (name, shown) = (table_and_name(&value.path).1, printable(&value.shown));
        if value.is_set { format!("{name} = {shown}") } else { format!("# {name}: {shown}") }
    };
    let widths = loaded.values.iter().map(|value| line(value).chars().count());
    let width = widths.filter(|width| *width <= 60).max().unwrap_or(0);
    let mut table = String::new();
    for value in &loaded.values {
        let (next, _) = table_and_name(&value.path);
        if next != table {
            writeln!(out, "\n[{next}]")?;
            table = next;
        }
        writeln!(out, "{:width$}  # {}", line(value), printable(&value.origin.to_string()))?;
    }
    if !loaded.faults.is_empty() {
        writeln!(out, "\n# {}; see `check`", counted(loaded.faults.len(), "fault"))?;
    }
    Ok(())
}

/// Splits `accounts.crm.login_fields.username` into the table that it is shown in and its name there.
fn table_and_name(path: &str) -> (String, &str) {
    match parts(path) {
        (Section::TopLevel, ..) if key_at(path).is_none() => ("environment".to_owned(), path),
        (Section::TopLevel, ..) => (String::new(), path),
        (section, entry, name) => (format!("{}.{entry}", section.group()), name),
    }
}

/// Writes every fault and warning, then a line that sums them up.
///
/// # Errors
///
/// Writing to `out` failed.
pub fn render_check(loaded: &Loaded, out: &mut impl Write) -> io::Result<()> {
    for fault in &loaded.faults {
        writeln!(out, "error: {fault}")?;
    }
    for warning in &loaded.warnings {
        writeln!(out, "warning: {warning}")?;
    }
    let (word, warnings) = match loaded.warnings.len() {
        0 => ("ok", String::new()),
        count => ("valid", format!(", {}", counted(count, "warning"))),
    };
    match &loaded.config {
        Some(config) => {
            let accounts = counted(config.accounts.len(), "account");
            let apis = counted(config.apis.len(), "API");
            writeln!(out, "{word}: {accounts}, {apis}{warnings}")
        }
        None => writeln!(out, "invalid: {}{warnings}", counted(loaded.faults.len(), "fault")),
    }
}

fn counted(count: usize, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}
