//! The JSON Schema of the settings file, from the table of keys.
//!
//! Pure.

use serde_json::{Map, Value, json};

use super::{
    keys::{self, Key, Kind, Section},
    variables,
};

/// The schema (draft 2020-12) that editors complete settings files with.
#[must_use]
pub fn json_schema() -> Value {
    let mut root = section(Section::Global);
    if let Some(Value::Object(properties)) = root.get_mut("properties") {
        properties.insert("accounts".to_owned(), named(Section::Account));
        properties.insert("apis".to_owned(), named(Section::Api));
    }
    root.insert("$schema".to_owned(), json!("https://json-schema.org/draft/2020-12/schema"));
    root.insert("title".to_owned(), json!("Settings of careportals-sidecar"));
    root.insert(
        "$defs".to_owned(),
        json!({
            "source": {
                "description": "Text, or where it is to be had.",
                "oneOf": [
                    { "type": "string", "minLength": 1 },
                    { "type": "object", "properties": { "file": { "type": "string" } }, "required": ["file"], "additionalProperties": false },
                    { "type": "object", "properties": { "env": { "type": "string" } }, "required": ["env"], "additionalProperties": false },
                    {
                        "type": "object",
                        "properties": { "command": { "type": "array", "items": { "type": "string" }, "minItems": 1 } },
                        "required": ["command"],
                        "additionalProperties": false
                    }
                ]
            }
        }),
    );
    Value::Object(root)
}

fn named(of: Section) -> Value {
    json!({ "type": "object", "propertyNames": { "pattern": "^[a-z0-9-]+$" }, "additionalProperties": section(of) })
}

fn section(section: Section) -> Map<String, Value> {
    let mut properties = Map::new();
    for key in keys::of(section) {
        match key.name.split_once('.') {
            None => {
                properties.insert(key.name.to_owned(), property(key));
            }
            Some((table, name)) => {
                let table = properties
                    .entry(table)
                    .or_insert_with(|| json!({ "type": "object", "properties": {}, "additionalProperties": false }));
                table["properties"][name] = property(key);
            }
        }
    }
    let mut object = Map::new();
    object.insert("type".to_owned(), json!("object"));
    object.insert("properties".to_owned(), Value::Object(properties));
    object.insert("additionalProperties".to_owned(), json!(false));
    object
}

fn property(key: &Key) -> Value {
    let mut schema = shape(key.kind);
    if let Value::Object(schema) = &mut schema {
        schema.insert("description".to_owned(), json!(key.doc));
        if let Some(default) = key.default.and_then(|text| serde_json::to_value(variables::value_of(key, text)).ok()) {
            schema.insert("default".to_owned(), default);
        }
    }
    schema
}

fn shape(kind: Kind) -> Value {
    let list = |items: Value| json!({ "anyOf": [{ "type": "array", "items": items }, items] });
    match kind {
        Kind::Switch => json!({ "type": "boolean" }),
        Kind::Count { min, max } => json!({ "type": "integer", "minimum": min, "maximum": max }),
        Kind::Size { min, max } => json!({
            "anyOf": [{ "type": "string", "pattern": "^[0-9]+(B|KiB|MiB|GiB|KB|MB|GB)$" }, { "type": "integer", "minimum": min, "maximum": max }]
        }),
        Kind::Duration { .. } => json!({ "type": "string", "pattern": "^([0-9]+(ms|s|m|h|d))+$" }),
        Kind::OneOf(words) => json!({ "enum": words }),
        Kind::Source => json!({ "$ref": "#/$defs/source" }),
        Kind::Headers { .. } => json!({ "type": "object", "additionalProperties": { "type": "string" } }),
        Kind::Json => json!({ "type": "object" }),
        Kind::Statuses => list(json!({ "type": "integer", "minimum": 400, "maximum": 599 })),
        Kind::Ids => list(json!({ "type": "integer", "minimum": 0, "maximum": u32::MAX })),
        Kind::Listen | Kind::Rules | Kind::Origins | Kind::Hosts | Kind::Words => {
            list(json!({ "type": "string", "minLength": 1 }))
        }
        Kind::Mode => json!({ "anyOf": [{ "type": "string", "pattern": "^(0o)?[0-7]{3,4}$" }, { "type": "integer" }] }),
        Kind::Prefix | Kind::Pointer => json!({ "type": "string", "pattern": "^/" }),
        Kind::Text
        | Kind::Path
        | Kind::Upstream
        | Kind::LoginUrl
        | Kind::Endpoint
        | Kind::AddressOrOff
        | Kind::SocketOrOff
        | Kind::HeaderName
        | Kind::Account
        | Kind::Filter => json!({ "type": "string", "minLength": 1 }),
    }
}
