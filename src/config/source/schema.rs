//! Makes the JSON Schema of the settings file from the declared settings.
//!
//! Pure.

use serde_json::{Map, Value, json};

use super::setting::{Key, Section};

/// The schema (draft 2020-12) that editors complete settings files with.
#[must_use]
pub fn json_schema() -> Value {
    let mut root = section(Section::TopLevel);
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
                "description": "Text, or where it is read from.",
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
    for key in section.keys() {
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
    let mut schema = (key.schema)();
    schema["description"] = json!(key.doc);
    if let Some(default) = key.default {
        schema["default"] = default();
    }
    schema
}
