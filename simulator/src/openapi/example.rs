//! Makes an example of what a schema describes.
//!
//! Pure. The same schema always gives the same example. References are followed within the document.

use serde_json::{Map, Value, json};

/// How deep a schema is followed; one that holds itself ends here.
const MAX_DEPTH: usize = 8;
/// How many references in a row are followed.
const MAX_REFERENCES: usize = 32;

/// Follows `$ref` within the document; the value itself if it is none, `Null` if it leads nowhere.
pub(super) fn resolved<'a>(document: &'a Value, mut value: &'a Value) -> &'a Value {
    for _ in 0..MAX_REFERENCES {
        let Some(reference) = value.get("$ref").and_then(Value::as_str) else { return value };
        let Some(found) =
            reference.strip_prefix('#').and_then(|pointer| document.pointer(&pointer.replace("%7B", "{").replace("%7D", "}")))
        else {
            return &Value::Null;
        };
        value = found;
    }
    &Value::Null
}

/// The example of a schema: the one that it has, or else one made from its type.
pub(super) fn of_schema(document: &Value, schema: &Value) -> Value {
    made(document, schema, 0).unwrap_or(Value::Null)
}

/// `None` where the schema holds itself.
fn made(document: &Value, schema: &Value, depth: usize) -> Option<Value> {
    let schema = resolved(document, schema);
    if depth > MAX_DEPTH {
        return None;
    }
    let given = ["example", "const", "default"].iter().find_map(|name| schema.get(name));
    let first = |name: &str| schema.get(name).and_then(Value::as_array).and_then(|values| values.first());
    if let Some(given) = given.or_else(|| first("examples")).or_else(|| first("enum")) {
        return Some(given.clone());
    }
    if let Some(parts) = schema.get("allOf").and_then(Value::as_array) {
        return Some(all_of(document, schema, parts, depth));
    }
    if let Some(one) = first("oneOf").or_else(|| first("anyOf")) {
        return made(document, one, depth + 1);
    }
    let kind = match schema.get("type") {
        Some(Value::Array(kinds)) => kinds.iter().filter_map(Value::as_str).find(|kind| *kind != "null"),
        kind => kind.and_then(Value::as_str),
    };
    Some(match kind {
        Some("string") => text(schema),
        Some("integer" | "number") => number(schema),
        Some("boolean") => Value::Bool(true),
        Some("array") => schema.get("items").and_then(|items| made(document, items, depth + 1)).into_iter().collect(),
        Some("object") => object(document, schema, depth),
        None if schema.get("properties").is_some() => object(document, schema, depth),
        _ => Value::Null,
    })
}

/// Every property that an answer may have.
fn object(document: &Value, schema: &Value, depth: usize) -> Value {
    let properties = schema.get("properties").and_then(Value::as_object);
    let example = |(name, schema): (&String, &Value)| {
        let is_for_requests = resolved(document, schema).get("writeOnly").is_some_and(|only| *only == Value::Bool(true));
        if is_for_requests { None } else { Some((name.clone(), made(document, schema, depth + 1)?)) }
    };
    Value::Object(properties.into_iter().flatten().filter_map(example).collect())
}

/// The members of all parts together, and those of the schema itself.
fn all_of(document: &Value, schema: &Value, parts: &[Value], depth: usize) -> Value {
    let mut members = Map::new();
    let mut other = None;
    for part in parts {
        match made(document, part, depth + 1) {
            Some(Value::Object(part)) => members.extend(part),
            Some(value) => other = other.or(Some(value)),
            None => {}
        }
    }
    if let Value::Object(own) = object(document, schema, depth) {
        members.extend(own);
    }
    match other {
        Some(value) if members.is_empty() => value,
        _ => Value::Object(members),
    }
}

fn text(schema: &Value) -> Value {
    let example = match schema.get("format").and_then(Value::as_str) {
        Some("date-time") => "2026-01-15T09:30:00.000Z",
        Some("date") => "2026-01-15",
        Some("time") => "09:30:00Z",
        Some("email") => "someone@example.test",
        Some("uuid") => "00000000-0000-4000-8000-000000000000",
        Some("uri" | "url") => "https://example.test/",
        Some("byte") => "ZXhhbXBsZQ==",
        _ if schema.get("pattern").and_then(Value::as_str).is_some_and(|pattern| pattern.contains("{24}")) => {
            "0123456789abcdef01234567"
        }
        _ => "text",
    };
    let bound = |name| schema.get(name).and_then(Value::as_u64).and_then(|length| usize::try_from(length).ok());
    let mut example = example.to_owned();
    // A text that has to be long is as long as this at most.
    let shortest = bound("minLength").unwrap_or(0).min(1000);
    while example.len() < shortest {
        example.push('x');
    }
    example.truncate(bound("maxLength").unwrap_or(usize::MAX));
    Value::String(example)
}

fn number(schema: &Value) -> Value {
    let bound = |name| schema.get(name).filter(|bound| bound.is_number());
    match (bound("minimum"), bound("maximum")) {
        (Some(minimum), _) => minimum.clone(),
        (None, Some(maximum)) if maximum.as_f64().is_some_and(|maximum| maximum < 1.0) => maximum.clone(),
        _ => json!(1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schema_gives_what_it_describes() {
        let document = json!({ "components": { "schemas": {
            "Id": { "type": "string", "pattern": "^[0-9a-f]{24}$" },
            "Person": { "type": "object", "properties": {
                "_id": { "$ref": "#/components/schemas/Id" },
                "password": { "type": "string", "writeOnly": true },
                "email": { "type": "string", "format": "email" },
                "friends": { "type": "array", "items": { "$ref": "#/components/schemas/Person" } },
            } },
        } } });
        for (schema, expected) in [
            (json!({ "type": "string", "example": "e" }), json!("e")),
            (json!({ "type": "string", "enum": ["one", "two"] }), json!("one")),
            (json!({ "type": ["null", "integer"], "minimum": 18 }), json!(18)),
            (json!({ "type": "string", "minLength": 6 }), json!("textxx")),
            (json!({ "type": "string", "format": "date", "maxLength": 4 }), json!("2026")),
            (json!({ "oneOf": [{ "type": "boolean" }, { "type": "string" }] }), json!(true)),
            (json!({ "type": "array", "items": { "type": "number" } }), json!([1])),
            (json!({ "$ref": "#/nowhere" }), Value::Null),
            (
                json!({ "allOf": [{ "properties": { "a": { "const": 1 } } }], "properties": { "b": { "default": 2 } } }),
                json!({ "a": 1, "b": 2 }),
            ),
        ] {
            assert_eq!(of_schema(&document, &schema), expected, "{schema}");
        }
        let person = of_schema(&document, &json!({ "$ref": "#/components/schemas/Person" }));
        assert_eq!((&person["_id"], &person["email"]), (&json!("0123456789abcdef01234567"), &json!("someone@example.test")));
        assert!(person.get("password").is_none() && person["friends"][0]["_id"].is_string());
    }
}
