//! Prints for `config` and `check`.
//!
//! Pure but for the writer that it is given. It never shows secrets, the values of fixed headers, or further log-in members.

use std::io::{self, Write};

use serde_json::Value;

use super::{Loaded, faults::printable, setting::Form};

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
    let mut table = String::new();
    let lines: Vec<(String, String, String)> = loaded
        .values
        .iter()
        .map(|value| {
            let (entry, name) = entry_and_name(&value.path);
            let unset = if value.is_set { "" } else { "# " };
            let equals = if value.is_set { " =" } else { ":" };
            (entry, format!("{unset}{name}{equals} {}", printable(&value.shown)), value.origin.to_string())
        })
        .collect();
    let width = lines.iter().map(|(_, text, _)| text.chars().count()).filter(|width| *width <= 60).max().unwrap_or(0);
    for (entry, text, origin) in lines {
        if entry != table {
            writeln!(out, "\n[{entry}]")?;
            table = entry;
        }
        writeln!(out, "{text:width$}  # {}", printable(&origin))?;
    }
    if !loaded.faults.is_empty() {
        writeln!(out, "\n# {}; see `check`", counted(loaded.faults.len(), "fault"))?;
    }
    Ok(())
}

/// Splits `accounts.crm.login_fields.username` into the table that it is shown in and its name there.
fn entry_and_name(path: &str) -> (String, String) {
    let mut parts = path.splitn(3, '.');
    match (parts.next(), parts.next(), parts.next()) {
        (Some(group), Some(entry), Some(name)) => (format!("{group}.{entry}"), name.to_owned()),
        _ if path.chars().all(|c| c == '_' || c.is_ascii_uppercase()) || path.ends_with("_proxy") => {
            ("environment".to_owned(), path.to_owned())
        }
        _ => (String::new(), path.to_owned()),
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
