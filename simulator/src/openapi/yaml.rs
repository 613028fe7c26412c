//! Reads YAML as JSON.
//!
//! Pure. It takes the part of YAML that JSON can hold: one document, keys that are texts or numbers, and plain scalars by the core
//! schema. An alias is replaced by what its anchor holds, within a limit for the whole document.

use std::collections::HashMap;

use saphyr_parser::{Event, Parser, ScalarStyle, StrInput};
use serde_json::{Map, Number, Value};

/// The limit for the number of values in a document with all its aliases replaced.
const MAX_VALUES: usize = 1_000_000;
/// The limit for how deep values are nested.
const MAX_DEPTH: usize = 200;

/// Parses a document.
///
/// # Errors
///
/// What is wrong, with line and column where the parser knows them.
pub(super) fn parse(text: &str) -> Result<Value, String> {
    let mut reader = Reader { events: Parser::new_from_str(text), anchors: HashMap::new(), values: 0 };
    loop {
        match reader.next()? {
            Event::StreamStart | Event::DocumentStart(_) | Event::Nothing => {}
            Event::StreamEnd => return Err("the document is empty".to_owned()),
            first => return reader.value(first, 0),
        }
    }
}

struct Reader<'input> {
    events: Parser<'input, StrInput<'input>>,
    /// What each anchor holds, and of how many values that consists.
    anchors: HashMap<usize, (Value, usize)>,
    /// How many values were read, those of aliases included.
    values: usize,
}

impl<'input> Reader<'input> {
    fn next(&mut self) -> Result<Event<'input>, String> {
        match self.events.next_event() {
            Some(Ok((event, _))) => Ok(event),
            Some(Err(fault)) => Err(fault.to_string()),
            None => Err("the document ends too early".to_owned()),
        }
    }

    /// Reads the value that begins with `event`.
    fn value(&mut self, event: Event<'input>, depth: usize) -> Result<Value, String> {
        let before = self.values;
        self.count(1)?;
        if depth > MAX_DEPTH {
            return Err(format!("values are nested more than {MAX_DEPTH} deep"));
        }
        let (value, anchor) = match event {
            Event::Alias(anchor) => {
                let (value, size) = self.anchors.get(&anchor).cloned().ok_or("an alias stands inside of its own anchor")?;
                self.count(size)?;
                (value, 0)
            }
            Event::Scalar(text, style, anchor, tag) => {
                let is_text = style != ScalarStyle::Plain || tag.is_some_and(|tag| tag.suffix == "str");
                (if is_text { Value::String(text.into_owned()) } else { plain(&text) }, anchor)
            }
            Event::SequenceStart(anchor, _) => {
                let mut elements = Vec::new();
                loop {
                    match self.next()? {
                        Event::SequenceEnd => break,
                        element => elements.push(self.value(element, depth + 1)?),
                    }
                }
                (Value::Array(elements), anchor)
            }
            Event::MappingStart(anchor, _) => (Value::Object(self.members(depth)?), anchor),
            other => return Err(format!("a value is missing before {other:?}")),
        };
        if anchor > 0 {
            self.anchors.insert(anchor, (value.clone(), self.values - before));
        }
        Ok(value)
    }

    fn members(&mut self, depth: usize) -> Result<Map<String, Value>, String> {
        let mut members = Map::new();
        loop {
            let name = match self.next()? {
                Event::MappingEnd => return Ok(members),
                // `200:` is a text here, as it is in JSON.
                Event::Scalar(name, ..) => name.into_owned(),
                _ => return Err("a key is not a text".to_owned()),
            };
            let first = self.next()?;
            let value = self.value(first, depth + 1)?;
            if members.insert(name.clone(), value).is_some() {
                return Err(format!("the key {name:?} stands twice in one mapping"));
            }
        }
    }

    fn count(&mut self, values: usize) -> Result<(), String> {
        self.values = self.values.saturating_add(values);
        if self.values > MAX_VALUES { Err(format!("there are more than {MAX_VALUES} values")) } else { Ok(()) }
    }
}

/// A plain scalar by YAML's core schema (YAML 1.2.2, 10.3.2). A number that JSON cannot hold is a text.
fn plain(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "true" | "True" | "TRUE" => Value::Bool(true),
        "false" | "False" | "FALSE" => Value::Bool(false),
        _ => number(text).map_or_else(|| Value::String(text.to_owned()), Value::Number),
    }
}

fn number(text: &str) -> Option<Number> {
    if let Some(digits) = text.strip_prefix("0x") {
        return u64::from_str_radix(digits, 16).ok().map(Number::from);
    }
    if let Some(digits) = text.strip_prefix("0o") {
        return u64::from_str_radix(digits, 8).ok().map(Number::from);
    }
    // Rust also reads `inf` and `nan`, which are texts here.
    if !text.chars().all(|c| c.is_ascii_digit() || "+-.eE".contains(c)) {
        return None;
    }
    let whole = text.parse::<u64>().map(Number::from).or_else(|_| text.parse::<i64>().map(Number::from));
    whole.ok().or_else(|| text.parse::<f64>().ok().and_then(Number::from_f64))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn yaml_is_read_as_the_json_that_it_means() {
        let text = "a: &x\n  - 1\n  - -2.5\n  - 'yes'\n  - yes\n  - true\n  - ~\nb: *x\n200: {c: \"1\", d: !!str 1}\ne: |\n  two\n  lines\n\
                    f: 2026-01-15\ng: 1.0.0\nh: 0x10\n";
        let list = json!([1, -2.5, "yes", "yes", true, null]);
        let expected = json!({
            "a": list, "b": list, "200": { "c": "1", "d": "1" }, "e": "two\nlines\n", "f": "2026-01-15", "g": "1.0.0", "h": 16,
        });
        assert_eq!(parse(text), Ok(expected));
    }

    #[test]
    fn what_json_cannot_hold_is_refused() {
        for (text, told) in [
            ("", "empty"),
            ("a: [1", "line"),
            ("? [a]\n: 1", "key is not a text"),
            ("a: 1\na: 2", "stands twice"),
            ("a: &x [*x]", "inside of its own anchor"),
        ] {
            let fault = parse(text).unwrap_err();
            assert!(fault.contains(told), "{text:?}: {fault}");
        }
    }

    #[test]
    fn aliases_cannot_make_a_document_grow_without_limit() {
        let level = |level: usize| {
            let element = if level == 0 { "x".to_owned() } else { format!("*a{}", level - 1) };
            format!("a{level}: &a{level} [{}]", [element.as_str(); 10].join(", "))
        };
        let text = (0..10).map(level).collect::<Vec<_>>().join("\n");
        assert!(parse(&text).unwrap_err().contains("more than 1000000 values"));
        assert!(parse(&"[".repeat(300)).is_err());
    }
}
