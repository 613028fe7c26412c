//! A log-in's answer and the token in it, held against `serde_json`'s own reading.
//!
//! An input is a line with a JSON pointer (`-`: none), a line with two numbers (the server's clock and the assumed life, in
//! seconds), and the answer. The answer is also tried as a token, as a token's claims, and as `Retry-After` and `Date`.

use std::time::{Duration, SystemTime};

use careportals_sidecar::{
    account::{
        Malformed,
        internal::{TokenLife, read_answer, read_token, read_wait},
    },
    careportals::{REFRESH_TOKEN_FIELDS, TOKEN_FIELDS},
    clock::{Moment, Now},
    secret::Secret,
};
use http::{
    HeaderMap, HeaderValue,
    header::{DATE, RETRY_AFTER},
};
use serde_json::Value;

/// Any bytes.
pub fn check(input: &[u8]) {
    let mut parts = input.splitn(3, |&byte| byte == b'\n');
    let mut line = || parts.next().unwrap_or_default();
    let (pointer, numbers, body) = (line(), line(), line());
    let pointer = std::str::from_utf8(pointer).ok().filter(|pointer| *pointer != "-");
    let numbers = std::str::from_utf8(numbers).unwrap_or_default();
    let mut numbers = numbers.split(' ').map(|number| number.parse::<u32>().unwrap_or(0));
    let mut number = || u64::from(numbers.next().unwrap_or(0));
    let times = Times { server: number(), assumed: Duration::from_secs(number()) };
    check_answer(body, pointer);
    check_life(body, &times);
    check_wait(body, &times);
    let claims = [b"h.".as_slice(), base64url(body).as_bytes(), b".s"].concat();
    if let Some(life) = check_life(&claims, &times) {
        check_expiry(body, &life, &times);
    }
}

struct Times {
    /// What the server's clock shows, since 1970.
    server: u64,
    assumed: Duration,
}

fn check_answer(body: &[u8], pointer: Option<&str>) {
    let answer = read_answer(body, pointer);
    let shown = format!("{answer:?}");
    assert!(shown.len() < 64, "an answer shows what is in it: {shown}");
    if let Ok((token, refresh)) = &answer {
        assert!(!token.is_empty() && token.expose_str().is_some(), "a token is text");
        assert!(refresh.as_ref().is_none_or(|refresh| !refresh.is_empty() && refresh.expose_str().is_some()));
    }
    // RFC 8259, 8.1: JSON is UTF-8, which `IgnoredAny` does not look at.
    let is_json = std::str::from_utf8(body).is_ok_and(|text| serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok());
    assert!(is_json || matches!(answer, Err(Malformed::NotJson)), "what is no JSON holds a token");
    assert!(!is_json || !matches!(answer, Err(Malformed::NotJson)), "JSON is not recognized");
    // It refuses more than it must: depth, numbers out of range, half a surrogate pair. Its private names are no data.
    let Ok(value) = serde_json::from_slice::<Value>(body) else { return };
    if body.windows(11).any(|part| part == b"$serde_json") {
        return;
    }
    let text = |value: &Value| value.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
    let first = |names: &[&str]| names.iter().find_map(|name| value.as_object()?.get(*name).and_then(text));
    let expected = match pointer {
        Some(pointer) => value.pointer(pointer).and_then(text),
        None => text(&value).or_else(|| first(&TOKEN_FIELDS)),
    };
    match (answer, expected) {
        (Ok((token, refresh)), Some(expected)) => {
            assert_eq!(token.expose_str(), Some(expected.as_str()));
            assert_eq!(refresh.as_ref().and_then(Secret::expose_str), first(&REFRESH_TOKEN_FIELDS).as_deref());
        }
        (Err(_), None) => {}
        (answer, expected) => panic!("{answer:?} where serde_json reads {expected:?}"),
    }
}

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

/// A life is bounded, and every time within it lies in order; `None` when there is none.
fn check_life(token: &[u8], times: &Times) -> Option<TokenLife> {
    const YEARS: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
    let received = Now { moment: Moment::new(Duration::from_secs(1000)), wall: at(1_800_000_000) };
    let date = (times.server > 0).then(|| at(times.server));
    let mut lives = [0.0, 0.5, 0.999].map(|fraction| read_token(Secret::of(token), date, received, times.assumed, fraction));
    for life in &lives {
        let Ok(life) = life else {
            assert!(lives.iter().all(Result::is_err), "a token's life depends on chance");
            let reason = lives.into_iter().find_map(Result::err);
            assert!(matches!(reason, Some(Malformed::NotAHeader | Malformed::Expired)), "{reason:?}");
            return None;
        };
        assert!(life.whole >= Duration::from_secs(2) && life.whole <= YEARS, "{life:?}");
        assert!(life.usable < life.whole && life.usable + Duration::from_secs(2) >= life.whole, "{life:?}");
        assert!(life.refreshed >= life.whole / 2 && life.refreshed <= life.whole, "{life:?}");
        let authorization = life.authorization.as_ref().expect("a token makes a header");
        assert!(authorization.is_sensitive() && authorization.as_bytes() == [b"Bearer ", token].concat());
        assert!(token.iter().all(u8::is_ascii_graphic), "such a token is no header");
    }
    let [first, ..] = &mut lives;
    std::mem::replace(first, Err(Malformed::Status)).ok()
}

/// Of the claims `exp` alone counts, by the server's clock.
fn check_expiry(claims: &[u8], life: &TokenLife, times: &Times) {
    let now = if times.server > 0 { times.server } else { 1_800_000_000 };
    let Ok(Value::Object(read)) = serde_json::from_slice::<Value>(claims) else { return };
    // Of two claims with that name, either may count.
    let mentions = claims.windows(3).filter(|part| part == b"exp").count();
    if mentions > 1 || claims.contains(&b'\\') {
        return;
    }
    #[allow(clippy::cast_precision_loss, reason = "a clock of this century")]
    match read.get("exp") {
        Some(Value::Number(exp)) => {
            let left = exp.as_f64().expect("a number") - now as f64;
            let close = (life.whole.as_secs_f64() - left).abs() < 0.001;
            assert!(left > 0.0 && (close || left > life.whole.as_secs_f64()), "{left} s become {life:?}");
        }
        Some(Value::Null) | None => assert!(life.whole == times.assumed || times.assumed > life.whole, "{life:?}"),
        Some(_) => {}
    }
}

/// `Retry-After` is a number of seconds, or a date by the server's clock (RFC 9110, 10.2.3); no other text makes anybody wait.
fn check_wait(text: &[u8], times: &Times) {
    let Ok(value) = HeaderValue::from_bytes(text) else { return };
    let headers: HeaderMap = [(RETRY_AFTER, value.clone()), (DATE, value)].into_iter().collect();
    let (wait, date) = read_wait(&headers, at(times.server));
    // Years of more than four digits have no date.
    assert!(date.is_none_or(|date| date < at(253_402_300_800)), "{date:?}");
    let text = text.trim_ascii();
    if !text.is_empty() && text.iter().all(u8::is_ascii_digit) {
        let seconds = text.iter().fold(0_u64, |sum, digit| sum.saturating_mul(10).saturating_add(u64::from(digit - b'0')));
        assert_eq!(wait, Some(Duration::from_secs(seconds)).filter(|wait| !wait.is_zero()));
        assert!(date.is_none(), "a number is no date");
    } else if let Some(wait) = wait {
        // The date may have blanks around it, with which `Date` has none.
        assert!(date.is_none_or(|date| date == at(times.server) + wait), "{date:?}");
    }
}

fn base64url(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let sextets = bytes.chunks(3).flat_map(|chunk| {
        let bits = chunk.iter().fold(0_u32, |bits, &byte| bits << 8 | u32::from(byte)) << (8 * (3 - chunk.len()));
        (0..=chunk.len()).map(move |at| (bits >> (18 - 6 * at)) & 63)
    });
    sextets.map(|sextet| char::from(ALPHABET[sextet as usize])).collect()
}
