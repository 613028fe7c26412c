//! One value at a time: from what was written to a type that can't be wrong.
//!
//! Pure. Each [`Kind`] has one reading here. Messages never repeat a secret, nor a URL (which may hold one).

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use figment::value::{Dict, Value};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::{
    faults::{Diagnostic, shown},
    keys::{Key, Kind, UNREQUIRABLE},
    url::{self, Address},
    variables::Environment,
};
use crate::{
    config::{AllowedHosts, Listen, Source},
    path::{Prefix, Rule, is_canonical},
    secret::Secret,
};

/// A value that is right.
#[derive(Debug)]
pub(super) enum Parsed {
    Text(String),
    Path(PathBuf),
    Switch(bool),
    Number(u64),
    Duration(Duration),
    Source(Source),
    Address(Address),
    Listen(Vec<Listen>),
    Socket(Option<SocketAddr>),
    Headers(Vec<(HeaderName, HeaderValue)>),
    HeaderName(HeaderName),
    Json(serde_json::Map<String, serde_json::Value>),
    Statuses(Vec<StatusCode>),
    Ids(Vec<u32>),
    Rules(Vec<Rule>),
    Prefix(Prefix),
    Texts(Vec<String>),
    Hosts(AllowedHosts),
}

/// The value of a key.
pub(super) fn parse(key: &Key, value: &Value, environment: &Environment) -> Result<Parsed, Diagnostic> {
    Ok(match key.kind {
        Kind::Text | Kind::Account => Parsed::Text(text(value)?.to_owned()),
        Kind::Path => Parsed::Path(path(value)?),
        Kind::Switch => match value {
            Value::Bool(_, switch) => Parsed::Switch(*switch),
            other => return Err(mismatch("true or false", other)),
        },
        Kind::Count { min, max } => Parsed::Number(within(number(value)?, min, max, |n| n.to_string())?),
        Kind::Size { min, max } => Parsed::Number(within(size(value)?, min, max, show_size)?),
        Kind::Duration { min, max } => Parsed::Duration(within(duration(value)?, min, max, show_duration)?),
        Kind::OneOf(words) => Parsed::Text(one_of(value, words)?),
        Kind::Source => Parsed::Source(source(value, environment)?),
        Kind::Upstream => Parsed::Address(upstream(text(value)?)?),
        Kind::LoginUrl if matches!(value, Value::String(_, word) if word == "off") => Parsed::Address(Address::Off),
        Kind::LoginUrl | Kind::Endpoint => Parsed::Address(url::address(text(value)?)?),
        Kind::Listen => Parsed::Listen(listen(value)?),
        Kind::AddressOrOff => Parsed::Socket(match text(value)? {
            "off" => None,
            address => Some(socket_address(address)?),
        }),
        Kind::SocketOrOff => Parsed::Text(socket_or_off(text(value)?)?),
        Kind::Headers { reserved } => Parsed::Headers(headers(value, reserved)?),
        Kind::HeaderName => Parsed::HeaderName(header_name(text(value)?, UNREQUIRABLE)?),
        Kind::Json => Parsed::Json(json_object(value)?),
        Kind::Pointer => Parsed::Text(pointer(text(value)?)?),
        Kind::Statuses => Parsed::Statuses(list(value, status)?),
        Kind::Ids => {
            Parsed::Ids(list(value, |id| u32::try_from(number(id)?).map_err(|_| Diagnostic::new("an id is at most 4294967295")))?)
        }
        Kind::Rules => Parsed::Rules(list(value, |rule| {
            let text = text(rule)?;
            Rule::parse(text)
                .map_err(|why| Diagnostic::new(format!("{}: {why}", shown(text))).hint("write `METHOD /a/*/b` or `* /a/**`"))
        })?),
        Kind::Prefix => Parsed::Prefix({
            let text = text(value)?;
            Prefix::parse(text).map_err(|why| Diagnostic::new(format!("{}: {why}", shown(text))))?
        }),
        Kind::Origins => Parsed::Texts(list(value, |origin| url::serialized_origin(text(origin)?))?),
        Kind::Hosts => Parsed::Hosts(hosts(value)?),
        Kind::Words => Parsed::Texts(list(value, |word| path_word(text(word)?))?),
        Kind::Mode => Parsed::Number(mode(text(value)?)?),
        Kind::Filter => Parsed::Text(filter(text(value)?)?),
    })
}

fn text(value: &Value) -> Result<&str, Diagnostic> {
    match value {
        Value::String(_, text) if text.is_empty() => Err(Diagnostic::new("is empty")),
        Value::String(_, text) if text.contains('\0') => Err(Diagnostic::new("holds a NUL")),
        Value::String(_, text) => Ok(text),
        other => Err(mismatch("text", other)),
    }
}

fn mismatch(expected: &str, found: &Value) -> Diagnostic {
    let found = match found {
        Value::String(..) | Value::Char(..) => "text",
        Value::Bool(..) => "a switch",
        Value::Num(_, number) if number.to_u128().is_some() || number.to_i128().is_some() => "a whole number",
        Value::Num(..) => "a fractional number",
        Value::Empty(..) => "nothing",
        Value::Dict(..) => "a table",
        Value::Array(..) => "a list",
    };
    Diagnostic::new(format!("expected {expected}, found {found}"))
}

fn path(value: &Value) -> Result<PathBuf, Diagnostic> {
    text(value).map(PathBuf::from)
}

fn number(value: &Value) -> Result<u64, Diagnostic> {
    match value {
        Value::Num(_, number) => {
            number.to_u128().or_else(|| number.to_i128().and_then(|n| u128::try_from(n).ok())).and_then(|n| u64::try_from(n).ok())
        }
        _ => None,
    }
    .ok_or_else(|| match value {
        Value::Num(_, number) if number.to_i128().is_some() => Diagnostic::new("must not be negative"),
        other => mismatch("a whole number", other),
    })
}

fn within<T: PartialOrd>(value: T, min: T, max: T, show: impl Fn(T) -> String) -> Result<T, Diagnostic> {
    if value < min || value > max {
        return Err(Diagnostic::new(format!("must be from {} to {}", show(min), show(max))));
    }
    Ok(value)
}

fn one_of(value: &Value, words: &[&str]) -> Result<String, Diagnostic> {
    let word = match value {
        Value::Bool(..) if words == ["on", "off"] => {
            return Err(mismatch("`on` or `off` in quotes", value));
        }
        value => text(value)?,
    };
    if words.contains(&word) {
        return Ok(word.to_owned());
    }
    let all = words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ");
    Err(Diagnostic::new(format!("{} is none of {all}", shown(word))).did_you_mean(word, words.iter().copied()))
}

const DURATION_UNITS: [(&str, u64); 5] = [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
const SIZE_UNITS: [(&str, u64); 7] =
    [("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("KB", 1_000), ("MB", 1_000_000), ("GB", 1_000_000_000)];

fn duration(value: &Value) -> Result<Duration, Diagnostic> {
    const HINT: &str = "write a duration like \"30s\", \"250ms\" or \"1h30m\" (ms, s, m, h, d)";
    match value {
        Value::String(_, text) => measure(text, &DURATION_UNITS, true)
            .map(Duration::from_millis)
            .ok_or_else(|| Diagnostic::new(format!("{} is not a duration", shown(text))).hint(HINT)),
        other => Err(mismatch("a duration", other).hint(HINT)),
    }
}

/// A duration as in the settings, for a flag that is none of them.
///
/// # Errors
///
/// What to write instead.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    measure(text, &DURATION_UNITS, true)
        .map(Duration::from_millis)
        .ok_or_else(|| "write a duration like 30s, 250ms or 1h30m (ms, s, m, h, d)".to_owned())
}

fn size(value: &Value) -> Result<u64, Diagnostic> {
    match value {
        Value::String(_, text) => measure(text, &SIZE_UNITS, false).ok_or_else(|| {
            Diagnostic::new(format!("{} is not a size", shown(text))).hint("write a size like \"64KiB\" (B, KiB, MiB, KB, MB)")
        }),
        other => number(other).map_err(|_| mismatch("a size like \"64KiB\"", other)),
    }
}

/// `1h30m`: numbers, each with its unit; `several`: more than one.
fn measure(text: &str, units: &[(&str, u64)], several: bool) -> Option<u64> {
    let mut rest = text;
    let mut sum = 0_u64;
    loop {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let number: u64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let letters = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_alphabetic()).len();
        let (_, factor) = units.iter().find(|(unit, _)| *unit == &rest[..letters])?;
        sum = sum.checked_add(number.checked_mul(*factor)?)?;
        rest = &rest[letters..];
        if rest.is_empty() {
            return Some(sum);
        }
        if !several {
            return None;
        }
    }
}

fn show_duration(duration: Duration) -> String {
    let mut left = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let mut shown = String::new();
    for (unit, factor) in DURATION_UNITS.iter().rev() {
        if left >= *factor {
            shown += &(left / factor).to_string();
            shown += unit;
            left %= factor;
        }
    }
    if shown.is_empty() { "0s".to_owned() } else { shown }
}

fn show_size(bytes: u64) -> String {
    match bytes {
        0 => "0B".to_owned(),
        _ if bytes.is_multiple_of(1 << 20) => format!("{}MiB", bytes >> 20),
        _ if bytes.is_multiple_of(1 << 10) => format!("{}KiB", bytes >> 10),
        _ => format!("{bytes}B"),
    }
}

fn source(value: &Value, environment: &Environment) -> Result<Source, Diagnostic> {
    const HINT: &str = "write text, { file = \"…\" }, { env = \"…\" } or { command = [\"…\"] }";
    match value {
        Value::String(_, text) if text.is_empty() => Err(Diagnostic::new("is empty")),
        Value::String(_, text) => Ok(Source::Value(Secret::from(text.as_str()))),
        Value::Dict(_, table) => match (table.len(), table.iter().next()) {
            (1, Some((name, value))) if name == "file" => {
                Ok(Source::File(path(value).map_err(|_| Diagnostic::new("`file` must name a file"))?))
            }
            (1, Some((name, value))) if name == "env" => from_variable(value, environment),
            (1, Some((name, value))) if name == "command" => command(value),
            _ => Err(Diagnostic::new("a source has exactly one of `file`, `env` and `command`").hint(HINT)),
        },
        other => Err(mismatch("text or a source", other).hint(HINT)),
    }
}

fn from_variable(value: &Value, environment: &Environment) -> Result<Source, Diagnostic> {
    let name = text(value).map_err(|_| Diagnostic::new("`env` must name a variable"))?;
    // Somebody may have put the secret itself where its variable's name belongs.
    if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
        return Err(Diagnostic::new("`env` must name a variable"));
    }
    match environment.get(name).map(|value| value.to_str()) {
        Some(Some("")) => Err(Diagnostic::new("the variable that `env` names is empty")),
        Some(Some(secret)) => Ok(Source::Value(Secret::from(secret))),
        Some(None) => Err(Diagnostic::new("the variable that `env` names is not UTF-8")),
        None => Err(Diagnostic::new("the variable that `env` names is not set")),
    }
}

fn command(value: &Value) -> Result<Source, Diagnostic> {
    const WRONG: &str = "`command` must be a list: the program and its arguments";
    let words = list(value, |word| match word {
        Value::String(_, text) if !text.contains('\0') => Ok(text.clone()),
        _ => Err(Diagnostic::new(WRONG)),
    })
    .map_err(|_| Diagnostic::new(WRONG))?;
    match words.first() {
        Some(program) if !program.is_empty() && matches!(value, Value::Array(..)) => Ok(Source::Command(words)),
        _ => Err(Diagnostic::new(WRONG)),
    }
}

/// A list, or one value that stands for a list of one.
fn list<T>(value: &Value, mut item: impl FnMut(&Value) -> Result<T, Diagnostic>) -> Result<Vec<T>, Diagnostic> {
    match value {
        Value::Array(_, values) => values.iter().map(item).collect(),
        Value::Dict(..) => Err(mismatch("a list", value)),
        single => Ok(vec![item(single)?]),
    }
}

fn upstream(text: &str) -> Result<Address, Diagnostic> {
    match url::address(text)? {
        // What a rule judges includes this path, and it judges only what can be read in one way.
        Address::Absolute { path, .. } if !path.is_empty() && !is_canonical(&path) => {
            Err(Diagnostic::new("its path is not in canonical form")
                .hint("write letters, digits and `-._~` as they are, not percent-encoded"))
        }
        address @ Address::Absolute { .. } => Ok(address),
        _ => Err(Diagnostic::new("expected a URL").hint("write https://HOST or https://HOST/PATH")),
    }
}

fn listen(value: &Value) -> Result<Vec<Listen>, Diagnostic> {
    let mut places: Vec<Listen> = Vec::new();
    let texts = match value {
        // One text may hold several, as in the variable.
        Value::String(_, text) => text.split(',').map(|entry| entry.trim().to_owned()).collect(),
        other => list(other, |entry| text(entry).map(str::to_owned))?,
    };
    for entry in &texts {
        let place = listen_at(entry)?;
        if places.contains(&place) && !matches!(place, Listen::Tcp { address, .. } if address.port() == 0) {
            return Err(Diagnostic::new(format!("{} is named twice", shown(entry))));
        }
        places.push(place);
    }
    if places.is_empty() { Err(Diagnostic::new("names no address")) } else { Ok(places) }
}

fn listen_at(entry: &str) -> Result<Listen, Diagnostic> {
    // `sun_path` has 108 bytes with its NUL on Linux, 104 elsewhere.
    const LONGEST: usize = 103;
    if entry == "systemd" {
        return Ok(Listen::Systemd);
    }
    match entry.strip_prefix("unix:") {
        Some(path) if !path.starts_with('/') => {
            Err(Diagnostic::new(format!("{}: the path of a Unix socket must start with `/`", shown(entry))))
        }
        Some(path) if path.len() > LONGEST => {
            Err(Diagnostic::new(format!("the path of a Unix socket has at most {LONGEST} bytes")))
        }
        Some(path) if path.ends_with('/') => Err(Diagnostic::new(format!("{} names a directory", shown(entry)))),
        Some(path) => Ok(Listen::Unix(path.into())),
        None => Ok(Listen::Tcp { address: socket_address(entry)?, required: true }),
    }
}

fn socket_address(text: &str) -> Result<SocketAddr, Diagnostic> {
    text.parse().map_err(|_| {
        let wrong = Diagnostic::new(format!("{} is not an address", shown(text)));
        let hint = match text.rsplit_once(':') {
            Some(("localhost" | "", port)) if port.parse::<u16>().is_ok() => format!("write 127.0.0.1:{port}"),
            _ if text.starts_with('/') => format!("for a Unix socket write unix:{text}"),
            _ => "write 127.0.0.1:2273 or [::1]:2273".to_owned(),
        };
        wrong.hint(hint)
    })
}

fn socket_or_off(text: &str) -> Result<String, Diagnostic> {
    match text {
        "off" => Ok(text.to_owned()),
        path if path.starts_with('/') => Ok(path.to_owned()),
        _ => Err(Diagnostic::new("expected a path that starts with `/`, or `off`")),
    }
}

fn headers(value: &Value, reserved: &[&str]) -> Result<Vec<(HeaderName, HeaderValue)>, Diagnostic> {
    let Value::Dict(_, table) = value else { return Err(mismatch("a table of headers", value)) };
    let mut headers: Vec<(HeaderName, HeaderValue)> = Vec::new();
    for (name, value) in table {
        let name = header_name(name, reserved)?;
        if headers.iter().any(|(known, _)| folded(known.as_str()) == folded(name.as_str())) {
            return Err(Diagnostic::new(format!("`{name}` is set twice")));
        }
        let Value::String(_, text) = value else { return Err(mismatch(&format!("text for `{name}`"), value)) };
        let mut value = HeaderValue::from_str(text)
            .ok()
            .filter(|value| !value.is_empty() && text.trim() == text)
            .ok_or_else(|| Diagnostic::new(format!("the value of `{name}` cannot stand in a header")))?;
        value.set_sensitive(true);
        headers.push((name, value));
    }
    Ok(headers)
}

fn header_name(text: &str, reserved: &[&str]) -> Result<HeaderName, Diagnostic> {
    let name = HeaderName::from_bytes(text.as_bytes()).map_err(|_| Diagnostic::new("holds what is not a header's name"))?;
    if reserved.iter().any(|owned| folded(owned) == folded(name.as_str())) {
        return Err(Diagnostic::new(format!("`{name}` is the sidecar's own to set")));
    }
    Ok(name)
}

/// Many servers take `_` for `-`, so both are one name.
fn folded(name: &str) -> String {
    name.to_ascii_lowercase().replace('_', "-")
}

/// As `http` has it, for log-in requests.
pub(super) fn header_map(headers: &[(HeaderName, HeaderValue)]) -> HeaderMap {
    headers.iter().cloned().collect()
}

fn json_object(value: &Value) -> Result<serde_json::Map<String, serde_json::Value>, Diagnostic> {
    let Value::Dict(_, table) = value else { return Err(mismatch("a table", value)) };
    dict(table)
}

fn dict(table: &Dict) -> Result<serde_json::Map<String, serde_json::Value>, Diagnostic> {
    table.iter().map(|(name, value)| Ok((name.clone(), json(value)?))).collect()
}

fn json(value: &Value) -> Result<serde_json::Value, Diagnostic> {
    Ok(match value {
        Value::String(_, text) => text.as_str().into(),
        Value::Char(_, letter) => letter.to_string().into(),
        Value::Bool(_, switch) => (*switch).into(),
        Value::Num(_, number) => match number.to_i128().and_then(|n| i64::try_from(n).ok()) {
            Some(whole) => whole.into(),
            None => number
                .to_f64()
                .and_then(serde_json::Number::from_f64)
                .map(serde_json::Value::Number)
                .ok_or_else(|| Diagnostic::new("holds a number that JSON can't"))?,
        },
        Value::Empty(..) => serde_json::Value::Null,
        Value::Dict(_, table) => serde_json::Value::Object(dict(table)?),
        Value::Array(_, values) => serde_json::Value::Array(values.iter().map(json).collect::<Result<_, _>>()?),
    })
}

fn pointer(text: &str) -> Result<String, Diagnostic> {
    if !text.starts_with('/') {
        return Err(Diagnostic::new("a JSON pointer starts with `/`").hint("write \"/data/token\""));
    }
    // RFC 6901, 3: `~` stands only in `~0` and `~1`.
    if text.split('~').skip(1).any(|rest| !rest.starts_with(['0', '1'])) {
        return Err(Diagnostic::new("in a JSON pointer `~` is written `~0`"));
    }
    Ok(text.to_owned())
}

fn status(value: &Value) -> Result<StatusCode, Diagnostic> {
    let number = within(number(value)?, 400, 599, |n| n.to_string())?;
    u16::try_from(number).ok().and_then(|code| StatusCode::from_u16(code).ok()).ok_or_else(|| Diagnostic::new("is not a status"))
}

fn hosts(value: &Value) -> Result<AllowedHosts, Diagnostic> {
    let names = list(value, |host| match text(host)? {
        "*" => Ok("*".to_owned()),
        name => url::host(name).map_err(|wrong| wrong.hint("a host's exact name, without port, or `*`")),
    })?;
    Ok(if names.iter().any(|name| name == "*") { AllowedHosts::Any } else { AllowedHosts::Names(names) })
}

fn path_word(word: &str) -> Result<String, Diagnostic> {
    let plain = word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@".contains(&byte));
    if plain { Ok(word.to_owned()) } else { Err(Diagnostic::new("a path word is one segment, without `/` and `%`")) }
}

fn mode(text: &str) -> Result<u64, Diagnostic> {
    let wrong = || Diagnostic::new("a mode is three octal digits").hint("write \"0660\"");
    let mode = u64::from_str_radix(text.strip_prefix("0o").unwrap_or(text), 8).map_err(|_| wrong())?;
    // Read and write for the owner, or not even we could be reached.
    if mode > 0o777 {
        Err(wrong())
    } else if mode & 0o600 == 0o600 {
        Ok(mode)
    } else {
        Err(Diagnostic::new("the owner must be able to read and write"))
    }
}

fn filter(text: &str) -> Result<String, Diagnostic> {
    tracing_subscriber::EnvFilter::builder().parse(text).map(|_| text.to_owned()).map_err(|_| {
        Diagnostic::new(format!("{} is not a filter", shown(text)))
            .hint("write `info` or `info,careportals_sidecar::account=debug`")
    })
}
