//! Makes routes from an OpenAPI 3 document: its paths, and its examples as answers.
//!
//! Pure. The files, each using only those before it: `yaml`, `example`. The result is JSON as own routes are written; an operation that
//! makes no good route is skipped.

mod example;
mod yaml;

use serde_json::{Map, Value};

use crate::route_table;
use example::{of_schema, resolved};

/// The methods of a path that become routes.
const METHODS: [&str; 6] = ["get", "post", "put", "patch", "delete", "options"];

/// What an OpenAPI document gave.
pub(crate) struct ImportedRoutes {
    /// Each is written as own routes are.
    pub(crate) routes: Vec<Value>,
    /// The operations that became no route, and why.
    pub(crate) skipped: Vec<String>,
}

/// Makes routes from an OpenAPI 3 document in JSON or YAML.
///
/// # Errors
///
/// Why this is no such document, and what to do.
pub(crate) fn routes_from_openapi(text: &str) -> Result<ImportedRoutes, String> {
    let document = if text.trim_start().starts_with('{') {
        serde_json::from_str(text).map_err(|fault| format!("it is not JSON: {fault}"))?
    } else {
        yaml::parse(text).map_err(|fault| format!("it is neither JSON nor YAML: {fault}"))?
    };
    let version = document.get("openapi").and_then(Value::as_str).unwrap_or_default();
    if !version.starts_with("3.") {
        let found =
            if document.get("swagger").is_some() { "Swagger 2; convert it to OpenAPI 3 first" } else { "no OpenAPI document" };
        return Err(format!("expected \"openapi\": \"3.…\" at its top; this is {found}"));
    }
    let paths = document.get("paths").and_then(Value::as_object).ok_or("it has no \"paths\"")?;
    let prefix = prefix(&document);
    let mut imported = ImportedRoutes { routes: Vec::new(), skipped: Vec::new() };
    for (path, item) in paths {
        let item = resolved(&document, item);
        for method in METHODS {
            let Some(operation) = item.get(method) else { continue };
            let name = format!("{} {prefix}{path}", method.to_uppercase());
            match route(&document, &prefix, path, method, operation) {
                Ok(route) => imported.routes.push(route),
                Err(why) => imported.skipped.push(format!("{name}: {why}")),
            }
        }
    }
    Ok(imported)
}

/// The path of the first server, which stands before every path.
fn prefix(document: &Value) -> String {
    let url = document.pointer("/servers/0/url").and_then(Value::as_str).unwrap_or_default();
    let path = match url.split_once("://") {
        Some((_, rest)) => rest.find('/').map_or("", |at| &rest[at..]),
        None => url,
    };
    if path.contains(['{', '?']) { String::new() } else { path.trim_end_matches('/').to_owned() }
}

/// Makes the route of one operation.
fn route(document: &Value, prefix: &str, path: &str, method: &str, operation: &Value) -> Result<Value, String> {
    let (status, response) = best_response(document, operation).ok_or("it has no response")?;
    let mut route = Map::new();
    route.insert("method".to_owned(), method.to_uppercase().into());
    route.insert("path".to_owned(), format!("{prefix}{path}").into());
    route.insert("status".to_owned(), status.into());
    // `security: []` says that a call needs no credentials; everything here needs an organization.
    if operation.get("security").and_then(Value::as_array).is_some_and(Vec::is_empty) {
        route.insert("access".to_owned(), "organization".into());
    }
    let mut headers = headers(document, response);
    if status != 204 && status != 304 {
        let (member, body, kind) = body(document, response);
        if let Some(kind) = kind.filter(|kind| !(member == "body" && kind == "application/json")) {
            headers.insert("content-type".to_owned(), kind.into());
        }
        if let Some(body) = body {
            route.insert(member.to_owned(), escaped(body));
        }
    }
    if !headers.is_empty() {
        route.insert("headers".to_owned(), Value::Object(headers));
    }
    let route = Value::Object(route);
    route_table::check(&route).map(|()| route)
}

/// The response with the lowest 2xx; else `default`, as a 200; else the first.
fn best_response<'a>(document: &'a Value, operation: &'a Value) -> Option<(u16, &'a Value)> {
    let responses = operation.get("responses")?.as_object()?;
    let status =
        |key: &str| key.to_ascii_lowercase().replace("xx", "00").parse::<u16>().ok().filter(|code| (200..=999).contains(code));
    let coded = || responses.iter().filter_map(|(key, response)| Some((status(key)?, response)));
    let good = coded().filter(|(code, _)| (200..300).contains(code)).min_by_key(|(code, _)| *code);
    let best = good.or_else(|| responses.get("default").map(|response| (200, response))).or_else(|| coded().next());
    best.map(|(code, response)| (code, resolved(document, response)))
}

/// The headers that have an example; their other values are unknown.
fn headers(document: &Value, response: &Value) -> Map<String, Value> {
    let mut examples = Map::new();
    for (name, header) in response.get("headers").and_then(Value::as_object).into_iter().flatten() {
        let header = resolved(document, header);
        let example =
            header.get("example").or_else(|| header.get("schema").map(|schema| resolved(document, schema))?.get("example"));
        let is_set_by_http =
            ["content-type", "content-length", "transfer-encoding", "connection"].contains(&name.to_lowercase().as_str());
        if let Some(example) = example.filter(|_| !is_set_by_http) {
            let text = example.as_str().map_or_else(|| example.to_string(), str::to_owned);
            examples.insert(name.clone(), escaped(Value::String(text)));
        }
    }
    examples
}

/// The member that holds the body, the body, and its media type.
fn body(document: &Value, response: &Value) -> (&'static str, Option<Value>, Option<String>) {
    let Some(content) = response.get("content").and_then(Value::as_object) else { return ("body", None, None) };
    let is_json = |kind: &str| {
        let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        kind == "application/json" || kind.ends_with("+json") || kind == "*/*"
    };
    let json = content.iter().find(|(kind, _)| is_json(kind));
    let Some((kind, media)) = json.or_else(|| content.iter().next()) else { return ("body", None, None) };
    let example = media_example(document, media);
    if json.is_some() {
        let kind = if kind == "*/*" { "application/json".to_owned() } else { kind.clone() };
        return ("body", Some(example), Some(kind));
    }
    let text = example.as_str().map_or_else(|| example.to_string(), str::to_owned);
    ("text", Some(Value::String(text)), Some(kind.clone()))
}

/// The example of a media type, or one made from its schema.
fn media_example(document: &Value, media: &Value) -> Value {
    let examples = media.get("examples").and_then(Value::as_object);
    let mut values = examples.into_iter().flatten().filter_map(|(_, example)| resolved(document, example).get("value"));
    match (media.get("example").or_else(|| values.next()), media.get("schema")) {
        (Some(value), _) => literal(document, value).clone(),
        (None, Some(schema)) => of_schema(document, schema),
        (None, None) => Value::Null,
    }
}

/// An example's value. Some documents have a reference there, though the value is a literal by the specification.
fn literal<'a>(document: &'a Value, value: &'a Value) -> &'a Value {
    let is_reference = value.as_object().is_some_and(|members| members.len() == 1 && members.contains_key("$ref"));
    match resolved(document, value) {
        Value::Null => value,
        found if is_reference => found.get("value").unwrap_or(found),
        _ => value,
    }
}

/// Writes `{{` as the text that it is, not as a placeholder.
fn escaped(value: Value) -> Value {
    match value {
        Value::String(text) => Value::String(text.replace("{{", "{{{{")),
        Value::Array(elements) => elements.into_iter().map(escaped).collect(),
        Value::Object(members) => members.into_iter().map(|(name, member)| (name, escaped(member))).collect(),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn imported(paths: &Value) -> ImportedRoutes {
        routes_from_openapi(
            &json!({ "openapi": "3.0.3", "servers": [{ "url": "https://x.example.test/v1/" }], "paths": paths }).to_string(),
        )
        .unwrap()
    }

    #[test]
    fn examples_become_answers() {
        let imported = imported(&json!({
            "/notes/{id}": {
                "get": { "responses": {
                    "404": { "description": "" },
                    "200": { "headers": { "X-Total": { "schema": { "type": "integer", "example": 3 } } }, "content": {
                        "text/csv": { "example": "a" },
                        "application/json": { "examples": { "one": { "value": { "text": "{{id}}" } } } },
                    } },
                } },
                "delete": { "security": [], "responses": { "204": { "description": "" } } },
                "put": { "responses": { "default": { "content": { "text/plain": { "schema": { "type": "string" } } } } } },
            },
            "/files/{name}.pdf": { "get": { "responses": { "200": {} } } },
            "/nothing": { "get": {} },
        }));
        let expected = json!([
            { "method": "GET", "path": "/v1/notes/{id}", "status": 200, "headers": { "X-Total": "3" }, "body": { "text": "{{{{id}}" } },
            { "method": "PUT", "path": "/v1/notes/{id}", "status": 200, "headers": { "content-type": "text/plain" }, "text": "text" },
            { "method": "DELETE", "path": "/v1/notes/{id}", "status": 204, "access": "organization" },
        ]);
        assert_eq!(Value::Array(imported.routes), expected);
        assert_eq!(imported.skipped.len(), 2, "{:?}", imported.skipped);
        assert!(
            imported.skipped[0]
                .starts_with("GET /v1/files/{name}.pdf: member \"path\": \"{name}.pdf\": a parameter is a whole segment")
        );
    }

    #[test]
    fn operations_that_no_route_can_be_are_skipped_one_by_one() {
        let operation = json!({ "responses": { "200": { "description": "" } } });
        let imported = imported(&json!({
            "/a/{id}/b/{id}": { "get": operation }, "/a#b": { "get": operation }, "/a": { "get": operation },
        }));
        assert_eq!((imported.routes.len(), imported.skipped.len()), (1, 2), "{:?}", imported.skipped);
    }

    #[test]
    fn a_reference_in_the_place_of_a_value_is_followed() {
        let document = json!({ "components": { "examples": { "note": { "value": { "text": "a" } } } } });
        let media = json!({ "examples": { "one": { "value": { "$ref": "#/components/examples/note" } } } });
        assert_eq!(media_example(&document, &media), json!({ "text": "a" }));
        let media = json!({ "example": { "$ref": "#/nowhere" } });
        assert_eq!(media_example(&document, &media), json!({ "$ref": "#/nowhere" }), "a literal, then");
    }

    #[test]
    fn what_is_no_openapi_3_is_refused() {
        for (text, told) in [
            ("{", "not JSON"),
            ("a: [", "neither JSON nor YAML"),
            ("swagger: '2.0'", "convert it to OpenAPI 3"),
            ("{\"openapi\":\"3.1.0\"}", "no \"paths\""),
            ("a: 1", "no OpenAPI document"),
        ] {
            let fault = routes_from_openapi(text).map(|_| ()).unwrap_err();
            assert!(fault.contains(told), "{text}: {fault}");
        }
    }
}
