//! What the declared settings give without further words: the reference in `docs/settings.md`, and the JSON Schema.
//!
//! Pure.

use serde_json::{Map, Value, json};

use super::{
    named_variables,
    render::in_toml,
    setting::{Key, Section, Unset},
};

/// The tables of the reference, in Markdown.
#[must_use]
pub fn reference() -> String {
    let mut text = String::from("### Variables\n\n| variable | meaning | default |\n| --- | --- | --- |\n");
    for variable in named_variables::VARIABLES {
        let file = if variable.file { ", `_FILE`" } else { "" };
        row(&mut text, &[&format!("`{}`{file}", variable.name), variable.doc, variable.default]);
    }
    text += "| `HTTPS_PROXY`, `NO_PROXY` | CONNECT proxy towards upstream (`http://` or `https://`, credentials in the URL allowed), and the hosts that are reached without it; lower case wins. Never used for loopback. | none |\n";
    for section in Section::ALL {
        text += "\n### ";
        text += &section.heading();
        text += "\n\n| key | type | default | meaning |\n| --- | --- | --- | --- |\n";
        for key in section.keys() {
            setting(&mut text, key);
        }
    }
    text
}

fn row(text: &mut String, cells: &[&str]) {
    *text += "| ";
    *text += &cells.join(" | ");
    *text += " |\n";
}

fn setting(text: &mut String, key: &Key) {
    let default = match (key.default_value(&[]), key.unset) {
        (Some(default), _) => format!("`{}`", in_toml(&default)),
        (None, Unset::Shown(words) | Unset::Documented(words)) => words.to_owned(),
    };
    row(text, &[&format!("`{}`", key.name), &(key.kind)().0, &default, key.doc]);
}

/// The JSON Schema (draft 2020-12) that editors complete settings files with.
#[must_use]
pub fn json_schema() -> Value {
    let named =
        |entry| json!({ "type": "object", "propertyNames": { "pattern": "^[a-z0-9-]+$" }, "additionalProperties": entry });
    let mut root = schema_of(Section::TopLevel);
    root["properties"]["accounts"] = named(schema_of(Section::Account));
    root["properties"]["apis"] = named(schema_of(Section::Api));
    root["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    root["title"] = json!("Settings of careportals-sidecar");
    root["$defs"] = json!({ "source": {
        "description": "Text, or where it is read from.",
        "oneOf": [
            { "type": "string", "minLength": 1 },
            source_schema("file", &json!({ "type": "string" })),
            source_schema("env", &json!({ "type": "string" })),
            source_schema("command", &json!({ "type": "array", "items": { "type": "string" }, "minItems": 1 })),
        ]
    } });
    root
}

fn source_schema(member: &str, schema: &Value) -> Value {
    json!({ "type": "object", "properties": { member: schema }, "required": [member], "additionalProperties": false })
}

fn schema_of(section: Section) -> Value {
    let mut properties = Map::new();
    for key in section.keys() {
        let (_, mut schema) = (key.kind)();
        schema["description"] = json!(key.doc);
        if let Some(default) = key.default_value(&[]) {
            schema["default"] = default;
        }
        match key.name.split_once('.') {
            None => drop(properties.insert(key.name.to_owned(), schema)),
            Some((table, name)) => {
                let empty = || json!({ "type": "object", "properties": {}, "additionalProperties": false });
                properties.entry(table).or_insert_with(empty)["properties"][name] = schema;
            }
        }
    }
    json!({ "type": "object", "properties": properties, "additionalProperties": false })
}
