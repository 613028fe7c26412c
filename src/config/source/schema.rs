//! The JSON Schema of a settings file, made from the declared settings.
//!
//! Pure.

use serde_json::{Map, Value, json};

use super::setting::Section;

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
        let (kind, mut schema) = (key.kind)();
        schema["title"] = json!(kind);
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
