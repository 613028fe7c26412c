//! Parses the JSON of a team's own routes.
//!
//! Pure. A fault names the route by its number and name, the member, and what to write.

use std::time::Duration;

use hyper::{
    StatusCode,
    header::{CONNECTION, CONTENT_LENGTH, HeaderName, HeaderValue, TRANSFER_ENCODING},
};
use serde_json::{Map, Value};

use super::{
    own_route::{CallFault, MadeAnswer, PathPattern, RouteBody, RouteFault, parse_fault},
    template::{JsonTemplate, Template},
};
use crate::duration;

/// The methods that a route may have.
const METHODS: [&str; 6] = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
/// The members of a route.
const MEMBERS: &str = "method, path, access, status, headers, body, text, latency, fault";
/// The limit for the number of routes.
const MAX_ROUTES: usize = 10_000;
/// How many faults are shown at once.
const MAX_FAULTS: usize = 20;

/// A route as it was written, before it is known what it stands for.
pub(crate) struct WrittenRoute {
    /// How a fault calls it, such as `route 2 (GET /notes)`.
    pub(crate) label: String,
    pub(crate) method: String,
    pub(crate) path: PathPattern,
    /// `None`: the answer of the route that is there already.
    pub(crate) answer: Option<MadeAnswer>,
    pub(crate) latency: Option<Duration>,
    pub(crate) fault: Option<(CallFault, Option<u32>)>,
}

impl WrittenRoute {
    /// The fault, as new.
    pub(crate) fn fresh_fault(&self) -> Option<RouteFault> {
        self.fault.clone().map(|(what, times)| RouteFault::new(what, times))
    }
}

/// Parses `{"routes": […]}` or the list alone.
///
/// # Errors
///
/// One line for each route that is wrong.
pub(crate) fn parse(document: &Value) -> Result<Vec<WrittenRoute>, String> {
    let expected = "expected {\"routes\": [{\"path\": \"/notes\", \"body\": {}}]}, or the list alone";
    let list = match document {
        Value::Object(members) => {
            if let Some(other) = members.keys().find(|name| *name != "routes") {
                return Err(format!("member {other:?} beside \"routes\" is not known; {expected}"));
            }
            members.get("routes")
        }
        other => Some(other),
    };
    let list = list.and_then(Value::as_array).ok_or(expected)?;
    if list.len() > MAX_ROUTES {
        return Err(format!("there are {} routes; {MAX_ROUTES} is the limit", list.len()));
    }
    let mut routes: Vec<WrittenRoute> = Vec::new();
    let mut faults = Vec::new();
    for (index, value) in list.iter().enumerate() {
        match parse_route(index + 1, value) {
            Ok(parsed) => routes.extend(parsed),
            Err(fault) => faults.push(fault),
        }
    }
    for (index, route) in routes.iter().enumerate() {
        let is_same = |other: &&WrittenRoute| other.method == route.method && other.path.is_same(&route.path);
        if let Some(first) = routes[..index].iter().find(is_same) {
            faults.push(format!("{}: {} has the same method and path; leave one of them out", route.label, first.label));
        }
    }
    if faults.is_empty() {
        return Ok(routes);
    }
    if faults.len() > MAX_FAULTS {
        let more = faults.len() - MAX_FAULTS;
        faults.truncate(MAX_FAULTS);
        faults.push(format!("and {more} more"));
    }
    Err(faults.join("\n"))
}

/// Parses one route; it is several if it has several methods.
fn parse_route(number: usize, value: &Value) -> Result<Vec<WrittenRoute>, String> {
    let route = value.as_object().ok_or_else(|| format!("route {number}: expected an object with {MEMBERS}"))?;
    let shown =
        |name: &str, default: &str| route.get(name).map_or(default.to_owned(), |value| value.to_string().replace('"', ""));
    let label = format!("route {number} ({} {})", shown("method", "GET"), shown("path", "without path"));
    let parse = || {
        if let Some(unknown) = route.keys().find(|name| !MEMBERS.split(", ").any(|known| known == *name)) {
            return Err(format!("member {unknown:?}: not known; a route has {MEMBERS}"));
        }
        let in_member = |name: &'static str| move |fault: String| format!("member {name:?}: {fault}");
        let path = route.get("path").and_then(Value::as_str).ok_or("expected a text such as \"/customers/{id}/notes\"");
        let path = path.map_err(str::to_owned).and_then(PathPattern::parse).map_err(in_member("path"))?;
        let methods = parse_methods(route.get("method")).map_err(in_member("method"))?;
        let answer = parse_answer(route, &path.parameters())?;
        let latency = route.get("latency").map(|latency| {
            let written = latency.as_str().ok_or("expected a text such as \"200ms\"".to_owned());
            written.and_then(duration::parse).map_err(in_member("latency"))
        });
        let latency = latency.transpose()?;
        let fault = route.get("fault").filter(|fault| !fault.is_null());
        let fault = fault.map(parse_route_fault).transpose().map_err(in_member("fault"))?;
        let one = |method: String| {
            let (path, answer, fault) = (path.clone(), answer.clone(), fault.clone());
            WrittenRoute { label: label.clone(), method, path, answer, latency, fault }
        };
        Ok(methods.into_iter().map(one).collect())
    };
    parse().map_err(|fault: String| format!("{label}, {fault}"))
}

fn parse_methods(value: Option<&Value>) -> Result<Vec<String>, String> {
    let expected = || format!("expected one of {}, or a list of them", METHODS.join(", "));
    let one = |value: &Value| {
        let method = value.as_str().map(str::to_uppercase).ok_or_else(expected)?;
        if method == "HEAD" {
            return Err("HEAD is answered as GET is, without the body; write GET".to_owned());
        }
        if METHODS.contains(&method.as_str()) { Ok(method) } else { Err(expected()) }
    };
    match value {
        None => Ok(vec!["GET".to_owned()]),
        Some(Value::Array(methods)) if !methods.is_empty() => methods.iter().map(one).collect(),
        Some(value) => Ok(vec![one(value)?]),
    }
}

/// Parses the members that make an answer; `None` if there are none.
fn parse_answer(route: &Map<String, Value>, parameters: &[&str]) -> Result<Option<MadeAnswer>, String> {
    if !["access", "status", "headers", "body", "text"].iter().any(|member| route.contains_key(*member)) {
        return Ok(None);
    }
    let needs_bearer = match route.get("access").map(|access| access.as_str().unwrap_or_default()) {
        None | Some("bearer") => true,
        Some("organization") => false,
        Some(_) => {
            let why = "CarePortals answers nothing without an organization";
            return Err(format!("member \"access\": expected \"bearer\" (the default) or \"organization\"; {why}"));
        }
    };
    let status = route.get("status").map_or(Some(200), Value::as_u64);
    let status = status.and_then(|status| u16::try_from(status).ok()).filter(|status| (200..=999).contains(status));
    let status = status.and_then(|status| StatusCode::from_u16(status).ok());
    let status = status.ok_or("member \"status\": expected a number from 200 to 999")?;
    let (json, text) = (route.get("body"), route.get("text"));
    let has_no_body = matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    if has_no_body && (json.is_some() || text.is_some()) {
        return Err(format!("member \"body\": an answer with status {} has no body; leave it out", status.as_u16()));
    }
    let body = match (json, text) {
        (Some(_), Some(_)) => return Err("member \"text\": there is a \"body\" too; keep one of them".to_owned()),
        (Some(json), None) => JsonTemplate::parse(json, parameters).map(RouteBody::Json).map_err(|fault| {
            let gap = if fault.starts_with('.') { "" } else { ": " };
            format!("member \"body\"{gap}{fault}")
        })?,
        (None, Some(text)) => {
            let text = text.as_str().ok_or("member \"text\": expected a text; JSON is a \"body\"")?;
            RouteBody::Text(Template::parse(text, parameters).map_err(|fault| format!("member \"text\": {fault}"))?)
        }
        (None, None) => RouteBody::Empty,
    };
    Ok(Some(MadeAnswer { status, headers: parse_headers(route.get("headers"), parameters)?, body, needs_bearer }))
}

fn parse_headers(value: Option<&Value>, parameters: &[&str]) -> Result<Vec<(HeaderName, Template)>, String> {
    let Some(value) = value else { return Ok(Vec::new()) };
    let headers = value.as_object().ok_or("member \"headers\": expected an object such as {\"x-total\": \"1\"}")?;
    let mut parsed = Vec::new();
    for (written, value) in headers {
        let wrong = |fault: &str| format!("member \"headers\".{written}: {fault}");
        let name: HeaderName = written.parse().map_err(|_| wrong("no header can have this name"))?;
        if [CONTENT_LENGTH, TRANSFER_ENCODING, CONNECTION].contains(&name) {
            return Err(wrong("the simulator sets it; leave it out. Paths under /_sim/ break HTTP on purpose"));
        }
        let value = value.as_str().ok_or_else(|| wrong("expected a text"))?;
        if HeaderValue::from_str(value).is_err() {
            return Err(wrong("no header can have this value"));
        }
        parsed.push((name, Template::parse(value, parameters).map_err(|fault| wrong(&fault))?));
    }
    Ok(parsed)
}

/// Parses `"status:503"` or `{"times": 2, "fault": "status:503"}`.
fn parse_route_fault(value: &Value) -> Result<(CallFault, Option<u32>), String> {
    let expected = "expected a text such as \"status:503\", or {\"times\": 2, \"fault\": \"status:503\"}";
    match value {
        Value::String(written) => Ok((parse_fault(written)?, None)),
        Value::Object(members) => {
            let times = members.get("times").and_then(Value::as_u64).and_then(|times| u32::try_from(times).ok());
            let written = members.get("fault").and_then(Value::as_str);
            match (times, written) {
                (Some(times), Some(written)) if members.len() == 2 => Ok((parse_fault(written)?, Some(times))),
                _ => Err(expected.to_owned()),
            }
        }
        _ => Err(expected.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn fault(route: &Value) -> String {
        parse(&json!({ "routes": [{ "path": "/a", "body": 1 }, route] })).map(|_| ()).unwrap_err()
    }

    #[test]
    fn a_fault_names_the_route_the_member_and_what_to_do() {
        for (route, start) in [
            (json!(1), "route 2: expected an object with method, path"),
            (json!({ "body": 1 }), "route 2 (GET without path), member \"path\": expected a text such as"),
            (json!({ "path": "b", "body": 1 }), "route 2 (GET b), member \"path\": expected a path that begins with \"/\""),
            (json!({ "path": "/b", "method": "FETCH" }), "route 2 (FETCH /b), member \"method\": expected one of GET, POST"),
            (json!({ "path": "/b", "method": "HEAD" }), "route 2 (HEAD /b), member \"method\": HEAD is answered as GET"),
            (json!({ "path": "/b", "status": 99 }), "route 2 (GET /b), member \"status\": expected a number from 200"),
            (json!({ "path": "/b", "status": 204, "body": 1 }), "route 2 (GET /b), member \"body\": an answer with status 204"),
            (json!({ "path": "/b", "body": { "c": "{{path.d}}" } }), "route 2 (GET /b), member \"body\".c: the path has no"),
            (json!({ "path": "/b", "body": "{{uuid}}" }), "route 2 (GET /b), member \"body\": {{uuid}} is no placeholder"),
            (json!({ "path": "/b", "body": 1, "text": "" }), "route 2 (GET /b), member \"text\": there is a \"body\" too"),
            (
                json!({ "path": "/b", "headers": { "content-length": "1" } }),
                "route 2 (GET /b), member \"headers\".content-length:",
            ),
            (json!({ "path": "/b", "headers": { "x": "a\nb" } }), "route 2 (GET /b), member \"headers\".x: no header"),
            (json!({ "path": "/b", "latency": 5 }), "route 2 (GET /b), member \"latency\": expected a text such as \"200ms\""),
            (json!({ "path": "/b", "fault": { "times": 1 } }), "route 2 (GET /b), member \"fault\": expected a text such as"),
            (json!({ "path": "/b", "access": "none" }), "route 2 (GET /b), member \"access\": expected \"bearer\""),
            (json!({ "path": "/b", "delay": "1s" }), "route 2 (GET /b), member \"delay\": not known; a route has method"),
            (json!({ "path": "/a", "body": 1 }), "route 2 (GET /a): route 1 (GET /a) has the same method and path"),
        ] {
            let told = fault(&route);
            assert!(told.starts_with(start), "{told}");
        }
        assert!(parse(&json!({ "route": [] })).is_err_and(|fault| fault.contains("{\"routes\": [")));
    }

    #[test]
    fn all_wrong_routes_are_told_at_once() {
        let told = parse(&json!([{ "path": "a" }, { "path": "/b", "status": 1 }])).map(|_| ()).unwrap_err();
        assert_eq!(told.lines().count(), 2, "{told}");
    }

    #[test]
    fn several_methods_are_several_routes() {
        let routes = parse(&json!([{ "path": "/a", "method": ["put", "PATCH"], "status": 204 }])).ok().unwrap();
        assert_eq!(routes.iter().map(|route| route.method.as_str()).collect::<Vec<_>>(), ["PUT", "PATCH"]);
    }
}
