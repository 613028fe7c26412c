//! Prints for `config` and `check`.
//!
//! Pure but for the writer that it is given. It never shows secrets, the values of fixed headers, or further log-in members.

use std::io::{self, Write};

use serde_json::Value;

use super::{
    EffectiveValue, Loaded,
    faults::printable,
    setting::{self, Form, Section, parts},
};

const REDACTED: &str = "\"[redacted]\"";

/// Writes each value in effect as TOML, with its origin in a comment.
///
/// # Errors
///
/// Writing to `out` failed.
pub fn render_effective(loaded: &Loaded, out: &mut impl Write) -> io::Result<()> {
    match &loaded.file {
        Some(path) => writeln!(out, "# settings file: {}", printable(&path.to_string_lossy()))?,
        None => writeln!(out, "# settings file: none")?,
    }
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
        (Section::TopLevel, ..) if setting::at(path).is_none() => ("environment".to_owned(), path),
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
    let warnings = match loaded.warnings.len() {
        0 => String::new(),
        count => format!(", {}", counted(count, "warning")),
    };
    match &loaded.config {
        Some(config) => {
            let accounts = counted(config.accounts.len(), "account");
            let apis = counted(config.apis.len(), "API");
            writeln!(out, "ok: {accounts}, {apis}{warnings}")
        }
        None => writeln!(out, "invalid: {}{warnings}", counted(loaded.faults.len(), "fault")),
    }
}

fn counted(count: usize, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

/// Writes a value in TOML syntax, without its secrets.
pub(super) fn shown(form: Form, value: &Value) -> String {
    match (form, value) {
        (Form::SecretTable, Value::Object(table)) => {
            braced(&table.keys().map(|name| format!("{} = {REDACTED}", key_in_toml(name))).collect::<Vec<_>>())
        }
        (Form::Source, Value::Object(table)) => match table.iter().next() {
            Some((name, Value::Array(words))) if name == "command" => {
                let more = if words.len() > 1 { format!(", {REDACTED}") } else { String::new() };
                format!("{{ command = [{}{more}] }}", words.first().map(in_toml).unwrap_or_default())
            }
            Some((name, value)) if name != "command" => format!("{{ {name} = {} }}", in_toml(value)),
            _ => REDACTED.to_owned(),
        },
        (Form::SecretTable | Form::Source, _) => REDACTED.to_owned(),
        (_, value) => in_toml(value),
    }
}

/// Writes a value in TOML syntax.
pub(super) fn in_toml(value: &Value) -> String {
    match value {
        Value::String(text) => toml_edit::Value::from(text.as_str()).to_string(),
        Value::Array(values) => format!("[{}]", values.iter().map(in_toml).collect::<Vec<_>>().join(", ")),
        Value::Object(table) => {
            braced(&table.iter().map(|(name, value)| format!("{} = {}", key_in_toml(name), in_toml(value))).collect::<Vec<_>>())
        }
        Value::Null => "\"\"".to_owned(),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
    }
}

fn braced(entries: &[String]) -> String {
    if entries.is_empty() { "{}".to_owned() } else { format!("{{ {} }}", entries.join(", ")) }
}

fn key_in_toml(name: &str) -> String {
    toml_edit::Key::new(name).display_repr().into_owned()
}
