//! Values of settings: read from TOML, taken as text or a number, and written as TOML without their secrets.
//!
//! Pure. A value is JSON's, since a variable's text and a default are values like those of the file.

use serde_json::{Value, json};

use super::faults::Diagnostic;

pub(super) const REDACTED: &str = "[redacted]";

/// How a value is written: what text without quotes means, and how much of the value `config` shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// Text, even where it looks like a number.
    Text,
    /// Text. An integer in the file counts by its digits.
    Octal,
    /// A number or a switch.
    Literal,
    /// A list, or a size.
    Compound,
    /// A secret, or where it is read from.
    Source,
    /// A table whose values are never shown.
    SecretTable,
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

/// A TOML value as a JSON value: a date becomes text, and a number that is not finite becomes null.
pub(super) fn json_of(value: &toml_edit::Value) -> Value {
    match value {
        toml_edit::Value::String(text) => Value::from(text.value().as_str()),
        toml_edit::Value::Integer(number) => Value::from(*number.value()),
        toml_edit::Value::Float(number) => Value::from(*number.value()),
        toml_edit::Value::Boolean(switch) => Value::from(*switch.value()),
        toml_edit::Value::Datetime(date) => Value::from(date.value().to_string()),
        toml_edit::Value::Array(array) => array.iter().map(json_of).collect(),
        toml_edit::Value::InlineTable(table) => table.iter().map(|(name, value)| (name, json_of(value))).collect(),
    }
}

/// Everything inside a value that holds no further values; that may be the value itself.
pub(super) fn scalars(value: &Value) -> Vec<&Value> {
    match value {
        Value::Array(values) => values.iter().flat_map(scalars).collect(),
        Value::Object(table) => table.values().flat_map(scalars).collect(),
        scalar => vec![scalar],
    }
}

/// Writes a value in TOML syntax, which has text, numbers and lists in common with JSON. No control character stays: TOML has none,
/// nor may a terminal get one.
pub(super) fn in_toml(value: &Value) -> String {
    let shown = |c: char| if c.is_control() { format!("\\u{:04X}", u32::from(c)) } else { c.into() };
    let plain = |text: String| text.chars().map(shown).collect::<String>();
    match value {
        Value::Array(values) => format!("[{}]", values.iter().map(in_toml).collect::<Vec<_>>().join(", ")),
        Value::Object(table) if !table.is_empty() => {
            let key = |name: &str| plain(toml_edit::Key::new(name).to_string());
            let member = |(name, value): (&String, &Value)| format!("{} = {}", key(name), in_toml(value));
            format!("{{ {} }}", table.iter().map(member).collect::<Vec<_>>().join(", "))
        }
        other => plain(other.to_string()),
    }
}

/// The value without its secrets: what is left of it may be shown to anybody.
pub(super) fn redacted(form: Form, value: &Value) -> Value {
    match (form, value) {
        (Form::SecretTable, Value::Object(table)) => table.keys().map(|name| (name.clone(), json!(REDACTED))).collect(),
        (Form::Source, Value::Object(table)) => match table.iter().next() {
            // A command's arguments may hold a secret.
            Some((name, Value::Array(words))) if name == "command" => {
                let arguments = words.get(1).map(|_| json!(REDACTED));
                json!({ name: words.iter().take(1).cloned().chain(arguments).collect::<Value>() })
            }
            Some((name, value)) if name != "command" => json!({ name: value }),
            _ => json!(REDACTED),
        },
        (Form::SecretTable | Form::Source, _) => json!(REDACTED),
        (_, value) => value.clone(),
    }
}

/// The value as text that is not empty.
pub(super) fn text(value: &Value) -> Result<&str, Diagnostic> {
    match value {
        Value::String(text) if text.is_empty() => Err(Diagnostic::new("is empty")),
        Value::String(text) if text.contains('\0') => Err(Diagnostic::new("holds a NUL")),
        Value::String(text) => Ok(text),
        other => Err(mismatch("text", other)),
    }
}

/// The value as a whole number.
pub(super) fn number(value: &Value) -> Result<u64, Diagnostic> {
    value.as_u64().ok_or_else(|| match value {
        Value::Number(number) if number.is_i64() => Diagnostic::new("must not be negative"),
        other => mismatch("a whole number", other),
    })
}

/// Says that another type was expected. The value itself is not repeated.
pub(super) fn mismatch(expected: &str, found: &Value) -> Diagnostic {
    let found = match found {
        Value::String(_) => "text",
        Value::Bool(_) => "a switch",
        Value::Number(number) if !number.is_f64() => "a whole number",
        // A number without a value in JSON is not finite.
        Value::Number(_) | Value::Null => "a fractional number",
        Value::Object(_) => "a table",
        Value::Array(_) => "a list",
    };
    Diagnostic::new(format!("expected {expected}, found {found}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_text_is_written_as_toml_that_reads_as_the_same() {
        for text in ["", "a\"\\b", "tab\tand\nline", "del\u{7f}", "\u{1}\u{1f}\u{85}\u{9f}é"] {
            for value in [json!(text), json!([text]), json!({ text: text })] {
                let written = in_toml(&value);
                assert!(!written.contains(char::is_control), "{written}");
                assert_eq!(json_of(&written.parse().unwrap()), value, "{written}");
            }
        }
    }

    #[test]
    fn of_a_source_that_is_written_wrong_a_command_stays_hidden() {
        for (written, shown) in [
            (json!({ "command": "op canary" }), json!(REDACTED)),
            (json!({ "command": ["op", "canary"] }), json!({ "command": ["op", REDACTED] })),
            (json!({ "command": ["op"] }), json!({ "command": ["op"] })),
            (json!({ "file": ["/a", "/b"] }), json!({ "file": ["/a", "/b"] })),
            (json!({ "env": "NAME" }), json!({ "env": "NAME" })),
            (json!({}), json!(REDACTED)),
            (json!(7), json!(REDACTED)),
        ] {
            assert_eq!(redacted(Form::Source, &written), shown, "{written}");
        }
    }
}
