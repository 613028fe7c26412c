//! Finds the token in a log-in's answer.
//!
//! Pure. Guarantees: it copies a string that may be a secret once, into a buffer that is wiped; no input makes it panic.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::failure::Malformed;
use crate::{
    careportals::{REFRESH_TOKEN_FIELDS, TOKEN_FIELDS},
    secret::{BYTE_ORDER_MARK, Pages, Secret},
};

/// The tokens in an answer.
#[derive(Debug)]
pub(super) struct LoginAnswer {
    pub(super) token: Secret,
    pub(super) refresh: Option<Secret>,
}

/// Reads the token at `pointer` (RFC 6901), or else in the first known member that holds one, or as a bare string.
pub(super) fn read(body: &[u8], pointer: Option<&str>) -> Result<LoginAnswer, Malformed> {
    // RFC 8259, 8.1: a parser may ignore a byte order mark.
    let body = body.strip_prefix(BYTE_ORDER_MARK).unwrap_or(body);
    let answer: &RawValue = serde_json::from_slice(body).map_err(|_| Malformed::NotJson)?;
    let token = match pointer {
        Some(pointer) => pointed(answer, pointer).and_then(string),
        None => string(answer).or_else(|| first(answer, &TOKEN_FIELDS)),
    };
    let token = token.ok_or(Malformed::NoToken)?;
    Ok(LoginAnswer { token, refresh: first(answer, &REFRESH_TOKEN_FIELDS) })
}

/// The tokens in an answer, the refresh token second, for the fuzz targets.
pub fn read_answer(body: &[u8], pointer: Option<&str>) -> Result<(Secret, Option<Secret>), Malformed> {
    read(body, pointer).map(|answer| (answer.token, answer.refresh))
}

fn first(answer: &RawValue, names: &[&str]) -> Option<Secret> {
    names.iter().find_map(|name| child(answer, name).and_then(string))
}

fn pointed<'a>(answer: &'a RawValue, pointer: &str) -> Option<&'a RawValue> {
    let mut steps = pointer.split('/');
    // A pointer is empty or starts with a slash, so the first step is empty.
    if !steps.next()?.is_empty() {
        return None;
    }
    steps.try_fold(answer, |value, step| child(value, &step.replace("~1", "/").replace("~0", "~")))
}

/// Finds a member of an object, or an element of an array.
fn child<'a>(value: &'a RawValue, name: &str) -> Option<&'a RawValue> {
    Child(name).deserialize(&mut serde_json::Deserializer::from_str(value.get())).ok()?
}

struct Child<'n>(&'n str);

impl<'de> DeserializeSeed<'de> for Child<'_> {
    type Value = Option<&'de RawValue>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Child<'_> {
    type Value = Option<&'de RawValue>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object or an array")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some(name) = members.next_key::<String>()? {
            if name == self.0 {
                found = Some(members.next_value()?);
            } else {
                members.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Self::Value, A::Error> {
        let mut wanted = self.0.parse::<usize>().ok().filter(|index| index.to_string() == self.0);
        let mut found = None;
        while let Some(element) = elements.next_element::<&RawValue>()? {
            match wanted {
                Some(0) => (found, wanted) = (Some(element), None),
                later => wanted = later.map(|index| index - 1),
            }
        }
        Ok(found)
    }
}

/// Reads a JSON string; `None` when the value is no string or an empty one.
fn string(value: &RawValue) -> Option<Secret> {
    let quoted = value.get().strip_prefix('"')?.strip_suffix('"')?;
    let mut text = Pages::with_capacity(quoted.len());
    let mut rest = quoted;
    while let Some(at) = rest.find('\\') {
        text.extend(&rest.as_bytes()[..at]);
        let (character, after) = escape(&rest[at + 1..])?;
        text.extend(character.encode_utf8(&mut [0; 4]).as_bytes());
        rest = after;
    }
    text.extend(rest.as_bytes());
    (!text.is_empty()).then(|| text.into())
}

/// Reads an escape (without its backslash): the character that it stands for, and the text after it.
fn escape(text: &str) -> Option<(char, &str)> {
    let mut characters = text.chars();
    let character = match characters.next()? {
        'b' => '\u{8}',
        'f' => '\u{c}',
        'n' => '\n',
        'r' => '\r',
        't' => '\t',
        'u' => return unicode(characters.as_str()),
        // The parser lets only a quote, a slash or a backslash through here.
        itself => itself,
    };
    Some((character, characters.as_str()))
}

fn unicode(text: &str) -> Option<(char, &str)> {
    let (first, rest) = unit(text)?;
    if !(0xd800..0xdc00).contains(&first) {
        return Some((char::from_u32(first)?, rest));
    }
    let (second, rest) = unit(rest.strip_prefix("\\u")?)?;
    let low = second.checked_sub(0xdc00).filter(|low| *low < 0x400)?;
    Some((char::from_u32(0x1_0000 + ((first - 0xd800) << 10) + low)?, rest))
}

fn unit(text: &str) -> Option<(u32, &str)> {
    let (digits, rest) = text.split_at_checked(4)?;
    Some((u32::from_str_radix(digits, 16).ok()?, rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn token(body: &str, pointer: Option<&str>) -> Result<String, Malformed> {
        read(body.as_bytes(), pointer).map(|answer| answer.token.expose_str().unwrap().to_owned())
    }

    #[test]
    fn a_byte_order_mark_before_the_answer_is_ignored() {
        assert!(read("\u{feff}{\"token\":\"t\"}".as_bytes(), None).unwrap().token.matches(b"t"));
        assert!(read("\u{feff}\"t\"".as_bytes(), None).unwrap().token.matches(b"t"));
        assert_eq!(read("\u{feff}\u{feff}{\"token\":\"t\"}".as_bytes(), None).unwrap_err(), Malformed::NotJson);
    }

    #[test]
    fn the_token_is_found_wherever_it_is_known_to_be() {
        for body in [
            r#"{"token":"t"}"#,
            r#"{"access_token":"t"}"#,
            r#"{"accessToken":"t"}"#,
            r#"{"jwt":"t"}"#,
            r#""t""#,
            " {\"user\":{\"token\":\"other\"},\n\"token\" : \"t\"} ",
            r#"{"token":null,"jwt":"t"}"#,
            r#"{"token":"","accessToken":"t"}"#,
            r#"{"token":{"token":"x"},"jwt":"t"}"#,
            r#"{"\u0074oken":"\u0074"}"#,
        ] {
            assert_eq!(token(body, None).as_deref(), Ok("t"), "{body}");
        }
    }

    #[test]
    fn a_success_without_a_token_is_malformed() {
        for body in ["{}", r#"{"token":""}"#, r#"{"token":5}"#, "[]", "null", "5", r#""""#, r#"["t"]"#, r#"{"Token":"t"}"#] {
            assert_eq!(token(body, None), Err(Malformed::NoToken), "{body}");
        }
        for body in ["", "<html>", "{", r#"{"token":"t""#, r#"{"token":"t"} x"#, "header.payload.signature"] {
            assert_eq!(token(body, None), Err(Malformed::NotJson), "{body}");
        }
    }

    #[test]
    fn a_pointer_is_followed_and_nothing_else() {
        let body = r#"{"token":"wrong","data":[{"a/b":{"m~n":"t"}}],"":"empty"}"#;
        assert_eq!(token(body, Some("/data/0/a~1b/m~0n")).as_deref(), Ok("t"));
        assert_eq!(token(body, Some("/")).as_deref(), Ok("empty"));
        assert_eq!(token(r#""t""#, Some("")).as_deref(), Ok("t"));
        for pointer in ["/data/1", "/data/00/a~1b/m~0n", "/data/-", "/nothing", "", "token", "/token/0"] {
            assert_eq!(token(body, Some(pointer)), Err(Malformed::NoToken), "{pointer}");
        }
    }

    #[test]
    fn a_refresh_token_is_taken_along() {
        for (body, expected) in [
            (r#"{"token":"t","refreshToken":"r"}"#, Some("r")),
            (r#"{"token":"t","refresh_token":"r"}"#, Some("r")),
            (r#"{"token":"t","refreshToken":null}"#, None),
            (r#"{"token":"t"}"#, None),
        ] {
            let refresh = read(body.as_bytes(), None).unwrap().refresh;
            assert_eq!(refresh.as_ref().and_then(Secret::expose_str), expected, "{body}");
        }
    }

    #[test]
    fn half_a_surrogate_pair_is_no_token() {
        for body in [r#""\ud83d""#, r#""\ud83dx""#, r#""\ud83d\u0041""#, r#""\udc00""#] {
            assert!(token(body, None).is_err(), "{body}");
        }
    }

    proptest! {
        #[test]
        fn strings_are_read_as_serde_json_reads_them(text in "\\PC{1,40}", escaped in any::<String>()) {
            for text in [text, escaped].into_iter().filter(|text| !text.is_empty()) {
                let body = serde_json::to_string(&text).unwrap();
                prop_assert_eq!(token(&body, None), Ok(text.clone()));
                let units: Vec<String> = text.encode_utf16().map(|unit| format!("\\u{unit:04x}")).collect();
                prop_assert_eq!(token(&format!("\"{}\"", units.concat()), None), Ok(text));
            }
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(body in proptest::collection::vec(any::<u8>(), 0..100), pointer in "[/~a01]{0,8}") {
            let _ = read(&body, None);
            let _ = read(&body, Some(&pointer));
        }
    }
}
