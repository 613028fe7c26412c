//! Fills placeholders in the texts and bodies of a team's own routes.
//!
//! Pure. `{{…}}` is a placeholder and `{{{{` the text `{{`. A JSON string that is one placeholder and nothing else becomes the value
//! itself, so `"{{body.items}}"` may become an array.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde_json::{Map, Value};

use crate::ids::{object_id, random_word};

/// Seconds in a day.
const DAY: u64 = 86_400;
/// What may stand between the braces.
const PLACEHOLDERS: &str = "{{path.NAME}}, {{query.NAME}}, {{body.MEMBER}}, {{organization}}, {{id}} or {{now}}";

/// What a request gives to its placeholders.
pub(crate) struct RequestValues<'a> {
    pub(crate) path: &'a BTreeMap<String, String>,
    /// Looks up a query parameter.
    pub(crate) query: &'a dyn Fn(&str) -> Option<String>,
    /// The request's JSON; `Null` when it is none.
    pub(crate) body: &'a Value,
    pub(crate) organization: &'a str,
    pub(crate) now: SystemTime,
}

/// A text with placeholders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Template(Vec<Piece>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    Placeholder(Placeholder),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Placeholder {
    Path(String),
    Query(String),
    /// The steps from the request's JSON to one of its members.
    Body(Vec<String>),
    Organization,
    Id,
    Now,
}

impl Template {
    /// Parses a text; `parameters` are those of the route's path.
    ///
    /// # Errors
    ///
    /// A placeholder that is not known or not closed, or a parameter that the path does not have.
    pub(crate) fn parse(text: &str, parameters: &[&str]) -> Result<Self, String> {
        let mut pieces = Vec::new();
        let mut plain = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("{{") {
            plain.push_str(before);
            if let Some(after) = after.strip_prefix("{{") {
                plain.push_str("{{");
                rest = after;
                continue;
            }
            let (name, after) = after.split_once("}}").ok_or("a {{ has no }}; write {{{{ for the text {{")?;
            if !plain.is_empty() {
                pieces.push(Piece::Text(std::mem::take(&mut plain)));
            }
            pieces.push(Piece::Placeholder(placeholder(name.trim(), parameters)?));
            rest = after;
        }
        plain.push_str(rest);
        if !plain.is_empty() {
            pieces.push(Piece::Text(plain));
        }
        Ok(Self(pieces))
    }

    /// The text of one answer.
    pub(crate) fn text(&self, values: &RequestValues) -> String {
        let piece = |piece: &Piece| match piece {
            Piece::Text(text) => text.clone(),
            Piece::Placeholder(placeholder) => match placeholder.value(values) {
                Value::String(text) => text,
                Value::Null => String::new(),
                other => other.to_string(),
            },
        };
        self.0.iter().map(piece).collect()
    }

    /// The JSON value of one answer.
    fn value(&self, values: &RequestValues) -> Value {
        match self.0.as_slice() {
            [Piece::Placeholder(placeholder)] => placeholder.value(values),
            _ => Value::String(self.text(values)),
        }
    }
}

/// Parses what stands between the braces.
fn placeholder(name: &str, parameters: &[&str]) -> Result<Placeholder, String> {
    let unknown = || format!("{{{{{name}}}}} is no placeholder; write {PLACEHOLDERS}, or {{{{{{{{ for the text {{{{");
    match name.split_once('.') {
        Some(("path", parameter)) if parameters.contains(&parameter) => Ok(Placeholder::Path(parameter.to_owned())),
        Some(("path", parameter)) => {
            let known: Vec<String> = parameters.iter().map(|known| format!("{{{known}}}")).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            Err(format!("the path has no parameter {{{parameter}}}; it has {known}"))
        }
        Some(("query", parameter)) if !parameter.is_empty() => Ok(Placeholder::Query(parameter.to_owned())),
        Some(("body", member)) if !member.is_empty() => Ok(Placeholder::Body(member.split('.').map(str::to_owned).collect())),
        None if name == "body" => Ok(Placeholder::Body(Vec::new())),
        None if name == "organization" => Ok(Placeholder::Organization),
        None if name == "id" => Ok(Placeholder::Id),
        None if name == "now" => Ok(Placeholder::Now),
        _ => Err(unknown()),
    }
}

impl Placeholder {
    fn value(&self, values: &RequestValues) -> Value {
        match self {
            Self::Path(name) => values.path.get(name).map_or(Value::Null, |value| value.as_str().into()),
            Self::Query(name) => (values.query)(name).map_or(Value::Null, Value::String),
            Self::Body(steps) => steps.iter().try_fold(values.body, member).cloned().unwrap_or(Value::Null),
            Self::Organization => values.organization.into(),
            Self::Id => object_id(&random_word()).into(),
            Self::Now => rfc3339(values.now).into(),
        }
    }
}

/// A member of an object, or an element of an array by its number.
fn member<'a>(value: &'a Value, step: &String) -> Option<&'a Value> {
    match value {
        Value::Array(elements) => elements.get(step.parse::<usize>().ok()?),
        other => other.get(step),
    }
}

/// JSON with placeholders in its strings.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum JsonTemplate {
    /// A number, a boolean or null.
    Fixed(Value),
    Text(Template),
    Array(Vec<JsonTemplate>),
    Object(Vec<(String, JsonTemplate)>),
}

impl JsonTemplate {
    /// Parses JSON.
    ///
    /// # Errors
    ///
    /// The first string that is wrong, by the members that lead to it, and what is wrong.
    pub(crate) fn parse(value: &Value, parameters: &[&str]) -> Result<Self, String> {
        let inside = |step: &str, value: &Value| {
            Self::parse(value, parameters).map_err(|fault| match fault.strip_prefix('.') {
                Some(_) => format!(".{step}{fault}"),
                None => format!(".{step}: {fault}"),
            })
        };
        Ok(match value {
            Value::String(text) => Self::Text(Template::parse(text, parameters)?),
            Value::Array(elements) => {
                let parsed = elements.iter().enumerate().map(|(number, element)| inside(&number.to_string(), element));
                Self::Array(parsed.collect::<Result<_, _>>()?)
            }
            Value::Object(members) => {
                let parsed = members.iter().map(|(name, member)| Ok((name.clone(), inside(name, member)?)));
                Self::Object(parsed.collect::<Result<_, String>>()?)
            }
            fixed => Self::Fixed(fixed.clone()),
        })
    }

    /// The JSON of one answer.
    pub(crate) fn value(&self, values: &RequestValues) -> Value {
        match self {
            Self::Fixed(value) => value.clone(),
            Self::Text(template) => template.value(values),
            Self::Array(elements) => elements.iter().map(|element| element.value(values)).collect(),
            Self::Object(members) => {
                let filled = members.iter().map(|(name, member)| (name.clone(), member.value(values)));
                Value::Object(filled.collect::<Map<_, _>>())
            }
        }
    }
}

/// Writes a time as CarePortals does: `2026-01-15T09:30:00.000Z`.
fn rfc3339(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let (day, second) = (since.as_secs() / DAY, since.as_secs() % DAY);
    // The days are counted from 1 March of the year 0, so that a leap day is the last of its year. 400 years have 146,097 days.
    let day = day + 719_468;
    let (era, day_of_era) = (day / 146_097, day % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day_of_month = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second, millis) = (second / 3600, second / 60 % 60, second % 60, since.subsec_millis());
    format!("{year:04}-{month:02}-{day_of_month:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn filled(body: &Value) -> Result<Value, String> {
        let path = BTreeMap::from([("id".to_owned(), "a1".to_owned())]);
        let sent = json!({ "customer": { "name": "Ana" }, "items": [1, { "sku": "x" }] });
        let template = JsonTemplate::parse(body, &["id"])?;
        Ok(template.value(&RequestValues {
            path: &path,
            query: &|name| (name == "page").then(|| "2".to_owned()),
            body: &sent,
            organization: "demo",
            now: UNIX_EPOCH + Duration::from_millis(1_768_469_400_007),
        }))
    }

    #[test]
    fn placeholders_are_filled_from_the_request() {
        let template = json!({
            "id": "{{path.id}}", "page": "{{ query.page }}", "none": "{{query.none}}", "text": "<{{query.none}}>",
            "items": "{{body.items}}", "sku": "{{body.items.1.sku}}", "hello": "Hello {{body.customer.name}} of {{organization}}",
            "at": "{{now}}", "braces": "{{{{x}}", "number": 7, "list": ["{{path.id}}", null],
        });
        let expected = json!({
            "id": "a1", "page": "2", "none": null, "text": "<>",
            "items": [1, { "sku": "x" }], "sku": "x", "hello": "Hello Ana of demo",
            "at": "2026-01-15T09:30:00.007Z", "braces": "{{x}}", "number": 7, "list": ["a1", null],
        });
        assert_eq!(filled(&template), Ok(expected));
    }

    #[test]
    fn each_fresh_id_is_another() {
        let ids = filled(&json!(["{{id}}", "{{id}}"])).unwrap();
        assert!(ids[0].as_str().unwrap().len() == 24 && ids[0] != ids[1]);
    }

    #[test]
    fn a_wrong_placeholder_is_named_with_the_way_to_it() {
        let fault = |body| filled(&body).unwrap_err();
        assert!(
            fault(json!({ "a": [{ "b": "{{path.no}}" }] })).starts_with(".a.0.b: the path has no parameter {no}; it has {id}")
        );
        assert!(fault(json!("{{uuid}}")).contains("{{id}} or {{now}}"));
        assert!(fault(json!("{{id")).contains("has no }}"));
    }

    #[test]
    fn times_are_written_as_careportals_does() {
        for (seconds, written) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399, "2000-02-28T23:59:59.000Z"),
            (951_782_400, "2000-02-29T00:00:00.000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000Z"),
            (1_798_761_599, "2026-12-31T23:59:59.000Z"),
        ] {
            assert_eq!(rfc3339(UNIX_EPOCH + Duration::from_secs(seconds)), written);
        }
    }
}
