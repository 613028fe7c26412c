//! What `config` and `check` print.
//!
//! Pure but for the writer it is given. Secrets, fixed header values and further log-in members are never shown.

use std::io::{self, Write};

use figment::value::Value;

use super::{
    Loaded,
    faults::printable,
    keys::{Key, Kind},
};

const REDACTED: &str = "\"[redacted]\"";

/// Each value in effect with its origin, as TOML that says where it came from.
///
/// # Errors
///
/// When `out` fails.
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

/// `accounts.crm.login_fields.username`: the table it is shown in, and its name there.
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

/// Every fault and warning, then a line that sums it up.
///
/// # Errors
///
/// When `out` fails.
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

/// A right value in TOML syntax, without what nobody may see.
pub(super) fn shown(key: &Key, value: &Value) -> String {
    match value {
        Value::Dict(_, table) if key.redacted => {
            let entries: Vec<String> = table.keys().map(|name| format!("{} = {REDACTED}", key_in_toml(name))).collect();
            if entries.is_empty() { "{}".to_owned() } else { format!("{{ {} }}", entries.join(", ")) }
        }
        _ if key.redacted => REDACTED.to_owned(),
        Value::Dict(_, table) if key.kind == Kind::Source => match table.iter().next() {
            Some((name, Value::Array(_, words))) if name == "command" => {
                let more = if words.len() > 1 { format!(", {REDACTED}") } else { String::new() };
                format!("{{ command = [{}{more}] }}", words.first().map(in_toml).unwrap_or_default())
            }
            Some((name, value)) if name != "command" => format!("{{ {name} = {} }}", in_toml(value)),
            _ => REDACTED.to_owned(),
        },
        _ if key.kind == Kind::Source => REDACTED.to_owned(),
        value => in_toml(value),
    }
}

fn in_toml(value: &Value) -> String {
    match value {
        Value::String(_, text) => toml_edit::Value::from(text.as_str()).to_string(),
        Value::Bool(_, switch) => switch.to_string(),
        Value::Num(_, number) => match number.to_i128() {
            Some(number) => number.to_string(),
            None => number
                .to_u128()
                .map(|number| number.to_string())
                .or_else(|| number.to_f64().map(|number| number.to_string()))
                .unwrap_or_default(),
        },
        Value::Array(_, values) => format!("[{}]", values.iter().map(in_toml).collect::<Vec<_>>().join(", ")),
        Value::Dict(_, table) => {
            let entries: Vec<String> =
                table.iter().map(|(name, value)| format!("{} = {}", key_in_toml(name), in_toml(value))).collect();
            if entries.is_empty() { "{}".to_owned() } else { format!("{{ {} }}", entries.join(", ")) }
        }
        Value::Char(_, letter) => toml_edit::Value::from(letter.to_string()).to_string(),
        Value::Empty(..) => "\"\"".to_owned(),
    }
}

fn key_in_toml(name: &str) -> String {
    toml_edit::Key::new(name).display_repr().into_owned()
}
