//! The token in what an upstream says back.
//!
//! Depends on `account` for the token. Guarantees: no head and no trailers of an answer give the present token to a client,
//! nor to whatever logs its answers; bodies are not looked into.

use http::{HeaderMap, HeaderValue, response};
use hyper::ext::ReasonPhrase;

use super::Api;

impl Api {
    /// Of an answer's head. What stands behind the status is free text, which hyper passes on.
    pub(super) fn hide_token(&self, head: &mut response::Parts) {
        let hidden = self.account.show_token(|token| {
            let echoed = head.extensions.get::<ReasonPhrase>().is_some_and(|reason| holds(reason.as_bytes(), token));
            if echoed {
                head.extensions.remove::<ReasonPhrase>();
            }
            u64::from(echoed) + redact(&mut head.headers, token)
        });
        self.count_redacted(hidden);
    }

    pub(super) fn hide_token_in_trailers(&self, trailers: &mut HeaderMap) {
        self.count_redacted(self.account.show_token(|token| redact(trailers, token)));
    }

    fn count_redacted(&self, hidden: Option<u64>) {
        if let Some(hidden @ 1..) = hidden {
            self.meter.redacted(hidden);
        }
    }
}

/// Hides each value that holds `token`, and says how many there were.
pub(super) fn redact(fields: &mut HeaderMap, token: &[u8]) -> u64 {
    let mut redacted = 0;
    for value in fields.values_mut() {
        if holds(value.as_bytes(), token) {
            *value = REDACTED;
            redacted += 1;
        }
    }
    redacted
}

/// Most texts are shorter, and cost no more than that.
fn holds(text: &[u8], token: &[u8]) -> bool {
    text.len() >= token.len() && text.windows(token.len().max(1)).any(|part| part == token)
}

const REDACTED: HeaderValue = HeaderValue::from_static("[redacted]");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_that_holds_the_token_is_hidden_and_counted() {
        let token = b"eyJhbGciOiJSUzI1NiJ9.eyJleHAiOjF9.c2ln";
        let text = std::str::from_utf8(token).unwrap();
        let mut answer = HeaderMap::new();
        for (name, value) in [
            ("x-echo", text.to_owned()),
            ("x-echo", format!("Bearer {text}")),
            ("location", format!("https://elsewhere.example/?access_token={text}&a=b")),
            ("x-part", text[..text.len() - 1].to_owned()),
            ("x-other", "x".repeat(4096)),
            ("x-empty", String::new()),
        ] {
            answer.append(name, value.parse().unwrap());
        }
        assert_eq!(redact(&mut answer, token), 3);
        assert_eq!(answer.get_all("x-echo").iter().collect::<Vec<_>>(), ["[redacted]", "[redacted]"]);
        assert_eq!(answer["location"], "[redacted]");
        assert_eq!(answer["x-part"].len(), text.len() - 1);
        assert_eq!(redact(&mut answer, token), 0);
        assert_eq!(redact(&mut answer, b""), 0);
    }
}
