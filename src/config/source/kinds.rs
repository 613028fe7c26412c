//! The kinds of settings: one value at a time, from what was written to a type that can't be wrong. [`words!`] declares the
//! types of settings that are one of several words.
//!
//! Pure. Messages never repeat a secret, nor a URL (which may hold one).

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use http::{HeaderName, HeaderValue, StatusCode};
use serde_json::{Map, Value, json};
use tracing::level_filters::LevelFilter;

use super::{
    environment::Environment,
    faults::{Diagnostic, all, ensure, shown},
    headers::{LOGIN_HEADERS, REQUEST_HEADERS, headers, not_a_header, required_header_name},
    measures::{duration, show_duration, show_size, size},
    setting::Kind,
    toml::{Form, mismatch, number, scalars, text},
    url::{self, Address},
};
use crate::{
    careportals::{PRESETS, Preset},
    config::{AllowedHosts, BaseUrl, ControlSocket, Listen, Log, RuntimeDirectories, Source},
    path::{Prefix, Rule},
    secret::Secret,
};

const SOURCE_HINT: &str = "write text, { file = \"…\" }, { env = \"…\" } or { command = [\"…\"] }";
const COMMAND_WRONG: &str = "`command` must be a list: the program and its arguments";

/// Declares kinds. A row says what a value means, the kind's name in the documentation, its form, its JSON Schema, and how a
/// value is read, perhaps with a look at the environment. `absent` gives the value of a key that nobody has written.
macro_rules! kinds {
    ($($(#[$meta:meta])* $name:ident $(<$(const $limit:ident),+>)? => $value:ty,
       $words:expr, $form:ident, $schema:expr, |$read:ident, $environment:tt| $body:expr $(, absent = $absent:expr)?;)+) => {$(
        $(#[$meta])*
        pub(super) enum $name $(<$(const $limit: u64),+>)? {}

        impl $(<$(const $limit: u64),+>)? Kind for $name $(<$($limit),+>)? {
            type Value = $value;
            const FORM: Form = Form::$form;

            fn described() -> (String, Value) {
                ($words.into(), $schema)
            }

            fn read($read: &Value, $environment: &Environment) -> Result<$value, Diagnostic> {
                $body
            }

            $(fn absent(environment: &Environment) -> Option<$value> {
                Some($absent(environment))
            })?
        }
    )+};
}

kinds! {
    /// Any text but the empty one.
    Text => String, "text", Text, some_text(), |value, _| text(value).map(str::to_owned);
    /// An account's name; whether there is such an account, the relations say.
    AccountName => String, "account's name", Text, some_text(), |value, _| text(value).map(str::to_owned);
    /// A file's path; it is opened only when the file is needed.
    Path => PathBuf, "path", Text, some_text(), |value, _| text(value).map(PathBuf::from);
    /// A TOML boolean.
    Switch => bool, "`true` or `false`", Literal, json!({ "type": "boolean" }),
        |value, _| value.as_bool().ok_or_else(|| mismatch("true or false", value));
    /// `on` or `off`, in quotes.
    OnOff => bool, one_of(&["on", "off"]).0, Text, one_of(&["on", "off"]).1, |value, _| word(value, &[("on", true), ("off", false)]);
    /// The name of a preset.
    PresetName => Preset, one_of(&PRESETS.map(|preset| preset.name)).0, Text, one_of(&PRESETS.map(|preset| preset.name)).1,
        |value, _| word(value, &PRESETS.map(|preset| (preset.name, preset)));
    /// A whole number within limits.
    Count<const MIN, const MAX> => usize, format!("{MIN} to {MAX}"), Literal, whole(MIN, MAX),
        |value, _| within(number(value)?, MIN, MAX, |n| n.to_string());
    /// A number of bytes, or text with a unit; the limits are in bytes.
    Size<const MIN, const MAX> => usize, ranged("size", MIN, MAX, show_size), Compound,
        json!({ "anyOf": [matching("^[0-9]+(B|KiB|MiB|GiB|KB|MB|GB)$"), whole(MIN, MAX)] }),
        |value, _| within(size(value)?, MIN, MAX, show_size);
    /// A duration; the limits are in milliseconds.
    Between<const MIN, const MAX> => Duration, ranged("duration", MIN, MAX, show_duration), Text, matching("^([0-9]+(ms|s|m|h|d))+$"),
        |value, _| within(duration(value)?, MIN, MAX, show_duration).map(Duration::from_millis);
    /// A base URL, whose path is canonical.
    UpstreamUrl => BaseUrl, "URL", Text, some_text(), |value, _| url::upstream(text(value)?);
    /// A URL or a path.
    UrlOrPath => Address, "URL or path", Text, some_text(), |value, _| url::address(text(value)?);
    /// A URL or a path, or `off`.
    LoginUrl => Address, "URL, path or `off`", Text, some_text(), |value, _| url::address_or_off(text(value)?);
    /// Addresses where clients connect, each named once.
    Listeners => Vec<Listen>, "list of addresses", Compound, some_list(&some_text()), |value, _| listeners(value);
    /// One TCP address, or `off`.
    AddressOrOff => Option<SocketAddr>, "address or `off`", Text, some_text(),
        |value, _| match text(value)? { "off" => Ok(None), address => url::socket_address(address).map(Some) };
    /// The path of the control socket, or `off`.
    SocketOrOff => ControlSocket, "path or `off`", Text, some_text(),
        |value, _| match text(value)? {
            "off" => Ok(ControlSocket::Off),
            path if path.starts_with('/') => url::socket_path(path, path).map(ControlSocket::Path),
            _ => Err(Diagnostic::new("expected a path that starts with `/`, or `off`")),
        },
        absent = default_socket;
    /// Fixed headers of requests, without those that the sidecar sets itself.
    RequestHeaders => Vec<(HeaderName, HeaderValue)>, "table of texts", SecretTable, text_table(),
        |value, _| headers(value, REQUEST_HEADERS);
    /// Fixed headers of log-ins, without those that the sidecar sets itself.
    LoginHeaders => Vec<(HeaderName, HeaderValue)>, "table of texts", SecretTable, text_table(),
        |value, _| headers(value, LOGIN_HEADERS);
    /// The name of a header that a client sends.
    RequiredHeaderName => HeaderName, "header's name", Text, some_text(), |value, _| required_header_name(text(value)?);
    /// Anything that JSON can hold, by name.
    Json => Map<String, Value>, "table", SecretTable, json!({ "type": "object" }), |value, _| {
        let Value::Object(table) = value else { return Err(mismatch("a table", value)) };
        // TOML's infinities and NaN have no value in JSON, and nothing else in TOML lacks one.
        ensure!(!scalars(value).contains(&&Value::Null), "holds a number that JSON can't");
        Ok(table.clone())
    };
    /// A JSON pointer (RFC 6901).
    Pointer => String, "JSON pointer", Text, matching("^/"), |value, _| pointer(text(value)?);
    /// The status of a refusal (4xx), by which a server says that it did nothing.
    Status => StatusCode, "400 to 499", Literal, whole(400, 499), |value, _| {
        let code: u16 = within(number(value)?, 400, 499, |n| n.to_string())?;
        StatusCode::from_u16(code).map_err(|_| Diagnostic::new("is not a status"))
    };
    /// A user's or group's id.
    Id => u32, "ids", Literal, whole(0, u32::MAX.into()),
        |value, _| u32::try_from(number(value)?).map_err(|_| Diagnostic::new("an id is at most 4294967295"));
    /// A rule for requests, written `METHOD /path`.
    RequestRule => Rule, "rules", Text, some_text(), |value, _| rule(text(value)?);
    /// A prefix of paths, made of whole segments.
    PathPrefix => Prefix, "path", Text, matching("^/"), |value, _| prefix(text(value)?);
    /// A web page's origin, as browsers send it.
    WebOrigin => String, "origins", Text, some_text(), |value, _| url::serialized_origin(text(value)?);
    /// Host names without ports, or `*` for any host.
    Hosts => AllowedHosts, "list of hosts", Compound, some_list(&some_text()), |value, _| hosts(value);
    /// A path segment that logs may show.
    PathWord => String, "words", Text, some_text(), |value, _| path_word(text(value)?);
    /// A file mode in octal.
    Mode => u32, "octal mode", Octal, json!({ "anyOf": [matching("^(0o)?[0-7]{3,4}$"), { "type": "integer" }] }),
        |value, _| mode(text(value)?);
    /// A filter in tracing's syntax.
    Filter => String, "filter", Text, some_text(), |value, _| filter(text(value)?);
    /// A secret, or where it is read from.
    AnySource => Source, "text or source", Source, json!({ "$ref": "#/$defs/source" }),
        |value, environment| source(value, environment);
    /// A secret that is sent in a header, or where it is read from.
    HeaderSource => Source, "text or source", Source, AnySource::described().1, |value, environment| {
        let source = source(value, environment)?;
        if let Source::Value(secret) = &source {
            secret.header_value().map_err(not_a_header)?;
        }
        Ok(source)
    };
}

/// The kind of a key that may be absent.
pub(super) struct Optional<K>(K);

impl<K: Kind> Kind for Optional<K> {
    type Value = Option<K::Value>;
    const FORM: Form = K::FORM;

    fn described() -> (String, Value) {
        K::described()
    }

    fn read(value: &Value, environment: &Environment) -> Result<Self::Value, Diagnostic> {
        K::read(value, environment).map(Some)
    }

    fn absent(_: &Environment) -> Option<Self::Value> {
        Some(None)
    }
}

/// The kind of a list of values, or of one value that stands for a list of one.
pub(super) struct List<K>(K);

impl<K: Kind> Kind for List<K> {
    type Value = Vec<K::Value>;
    const FORM: Form = Form::Compound;

    fn described() -> (String, Value) {
        let (words, schema) = K::described();
        (format!("list of {words}"), some_list(&schema))
    }

    fn read(value: &Value, environment: &Environment) -> Result<Self::Value, Diagnostic> {
        list(value, |item| K::read(item, environment))
    }
}

/// Declares enums whose variants are words in the settings. Each is the kind of its setting.
macro_rules! words {
    ($($(#[$meta:meta])* $name:ident { $($(#[$variant_meta:meta])* $variant:ident = $word:literal,)+ })+) => {$(
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name {
            $($(#[$variant_meta])* $variant,)+
        }

        impl Kind for $name {
            type Value = Self;
            const FORM: super::toml::Form = super::toml::Form::Text;

            fn described() -> (String, serde_json::Value) {
                super::kinds::one_of(&[$($word),+])
            }

            fn read(value: &serde_json::Value, _: &super::environment::Environment) -> Result<Self, super::faults::Diagnostic> {
                super::kinds::word(value, &[$(($word, Self::$variant)),+])
            }
        }
    )+};
}

pub(super) use words;

/// The kind of a setting that is one of several words: its name in the documentation, and its JSON Schema.
pub(super) fn one_of(words: &[&str]) -> (String, Value) {
    (all_quoted(words), json!({ "enum": words }))
}

/// Reads one of several words, each of which stands beside its value.
pub(super) fn word<T: Copy>(value: &Value, all: &[(&str, T)]) -> Result<T, Diagnostic> {
    let words: Vec<&str> = all.iter().map(|(word, _)| *word).collect();
    let Value::String(written) = value else { return Err(mismatch(&format!("{} in quotes", all_quoted(&words)), value)) };
    let wrong = || Diagnostic::new(format!("{} is none of {}", shown(written), all_quoted(&words)));
    let found = all.iter().find(|(word, _)| word == written).map(|(_, value)| *value);
    found.ok_or_else(|| wrong().did_you_mean(written, words.iter().copied()))
}

fn all_quoted(words: &[&str]) -> String {
    words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
}

fn some_text() -> Value {
    json!({ "type": "string", "minLength": 1 })
}

fn matching(pattern: &str) -> Value {
    json!({ "type": "string", "pattern": pattern })
}

fn whole(min: u64, max: u64) -> Value {
    json!({ "type": "integer", "minimum": min, "maximum": max })
}

fn text_table() -> Value {
    json!({ "type": "object", "additionalProperties": { "type": "string" } })
}

fn some_list(items: &Value) -> Value {
    json!({ "anyOf": [{ "type": "array", "items": items }, items] })
}

fn ranged(what: &str, min: u64, max: u64, show: fn(u64) -> String) -> String {
    format!("{what}, {} to {}", show(min), show(max))
}

fn within<T: TryFrom<u64>>(value: u64, min: u64, max: u64, show: fn(u64) -> String) -> Result<T, Diagnostic> {
    let fitting = T::try_from(value).ok().filter(|_| (min..=max).contains(&value));
    fitting.ok_or_else(|| Diagnostic::new(format!("must be from {} to {}", show(min), show(max))))
}

fn source(value: &Value, environment: &Environment) -> Result<Source, Diagnostic> {
    match value {
        Value::String(text) if text.is_empty() => Err(Diagnostic::new("is empty")),
        Value::String(text) => Ok(Source::Value(Secret::from(text.as_str()))),
        Value::Object(table) => {
            let wrong = || Diagnostic::new("a source has exactly one of `file`, `env` and `command`").hint(SOURCE_HINT);
            let (name, value) = table.iter().next().filter(|_| table.len() == 1).ok_or_else(wrong)?;
            match name.as_str() {
                "file" => {
                    text(value).map(|path| Source::File(path.into())).map_err(|_| Diagnostic::new("`file` must name a file"))
                }
                "env" => from_variable(value, environment),
                "command" => command(value).ok_or_else(|| Diagnostic::new(COMMAND_WRONG)),
                other => Err(wrong().did_you_mean(other, ["file", "env", "command"])),
            }
        }
        other => Err(mismatch("text or a source", other).hint(SOURCE_HINT)),
    }
}

fn default_socket(environment: &Environment) -> ControlSocket {
    // systemd separates several by colons; the XDG base directory specification has relative paths ignored.
    let absolute = |path: &str| path.starts_with('/').then(|| path.into());
    let service = environment.get("RUNTIME_DIRECTORY").and_then(|value| value.to_str()?.split(':').find_map(absolute));
    let user = environment.get("XDG_RUNTIME_DIR").and_then(|value| absolute(value.to_str()?));
    ControlSocket::Default(RuntimeDirectories { service, user })
}

fn from_variable(value: &Value, environment: &Environment) -> Result<Source, Diagnostic> {
    // Somebody may have put the secret itself where its variable's name belongs.
    let is_name = |name: &&str| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    let name = text(value).ok().filter(is_name).ok_or_else(|| Diagnostic::new("`env` must name a variable"))?;
    let wrong = match environment.get(name).map(|value| value.to_str()) {
        Some(Some("")) => "empty",
        Some(Some(secret)) => return Ok(Source::Value(Secret::from(secret))),
        Some(None) => "not UTF-8",
        None => "not set",
    };
    // A name in capitals is none of those.
    let is_shown = name.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_');
    let shown = if is_shown { format!(" ({name})") } else { String::new() };
    Err(Diagnostic::new(format!("the variable that `env` names{shown} is {wrong}")))
}

fn command(value: &Value) -> Option<Source> {
    let word = |word: &Value| word.as_str().filter(|text| !text.contains('\0')).map(str::to_owned);
    let words: Vec<String> = value.as_array()?.iter().map(word).collect::<Option<_>>()?;
    words.first().is_some_and(|program| !program.is_empty()).then_some(Source::Command(words))
}

/// Reads a list, or one value that stands for a list of one.
fn list<T>(value: &Value, mut item: impl FnMut(&Value) -> Result<T, Diagnostic>) -> Result<Vec<T>, Diagnostic> {
    match value {
        Value::Array(values) => all(values.iter().enumerate().map(|(at, value)| {
            let which = |wrong: Diagnostic| if values.len() > 1 { wrong.about(format!("entry {}", at + 1)) } else { wrong };
            item(value).map_err(which)
        })),
        Value::Object(_) => Err(mismatch("a list", value)),
        single => Ok(vec![item(single)?]),
    }
}

fn listeners(value: &Value) -> Result<Vec<Listen>, Diagnostic> {
    let listeners = match value {
        // One text may hold several, as in the variable.
        Value::String(text) => all(text.split(',').map(|entry| url::listener(entry.trim())))?,
        other => list(other, |entry| url::listener(text(entry)?))?,
    };
    for (at, listener) in listeners.iter().enumerate() {
        let may_repeat = matches!(listener, Listen::Tcp { address, .. } if address.port() == 0);
        ensure!(may_repeat || !listeners[..at].contains(listener), format!("`{listener}` is named twice"));
    }
    ensure!(!listeners.is_empty(), "names no address");
    Ok(listeners)
}

fn pointer(text: &str) -> Result<String, Diagnostic> {
    ensure!(text.starts_with('/'), "a JSON pointer starts with `/`", hint = "write \"/data/token\"");
    // RFC 6901, 3: `~` stands only in `~0` and `~1`.
    ensure!(text.split('~').skip(1).all(|rest| rest.starts_with(['0', '1'])), "in a JSON pointer `~` is written `~0`");
    Ok(text.to_owned())
}

fn rule(text: &str) -> Result<Rule, Diagnostic> {
    Rule::parse(text).map_err(|why| Diagnostic::new(format!("{}: {why}", shown(text))).hint("write `METHOD /a/*/b` or `* /a/**`"))
}

fn prefix(text: &str) -> Result<Prefix, Diagnostic> {
    Prefix::parse(text).map_err(|why| Diagnostic::new(format!("{}: {why}", shown(text))))
}

fn hosts(value: &Value) -> Result<AllowedHosts, Diagnostic> {
    let names = list(value, |host| match text(host)? {
        "*" => Ok("*".to_owned()),
        name => url::host(name).map_err(|wrong| wrong.hint("a host's exact name, without port, or `*`")),
    })?;
    Ok(if names.iter().any(|name| name == "*") { AllowedHosts::Any } else { AllowedHosts::Names(names) })
}

fn path_word(word: &str) -> Result<String, Diagnostic> {
    const MARKS: &str = "-._~!$&'()*+,;=:@";
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || MARKS.as_bytes().contains(&byte);
    ensure!(word.bytes().all(plain), format!("a path word is one segment, made of a-z, A-Z, 0-9 and {MARKS}"));
    Ok(word.to_owned())
}

fn mode(text: &str) -> Result<u32, Diagnostic> {
    let digits = text.strip_prefix("0o").unwrap_or(text);
    let is_plain = matches!(digits.len(), 3 | 4) && digits.bytes().all(|byte| byte.is_ascii_digit());
    let mode = u32::from_str_radix(digits, 8).ok().filter(|mode| is_plain && *mode <= 0o777);
    let mode = mode.ok_or_else(|| Diagnostic::new("a mode is three octal digits").hint("write \"0660\""))?;
    // Without read and write for the owner, the daemon itself could not reach the socket.
    ensure!(mode & 0o600 == 0o600, "the owner must be able to read and write");
    Ok(mode)
}

fn filter(text: &str) -> Result<String, Diagnostic> {
    // tracing takes a word that is no level for a target, and then logs nothing else: the filter must say something of our own
    // targets, and mean a target by each such word.
    let is_own_target = |part: &str| {
        let rest = part.strip_prefix("careportals_sidecar").filter(|_| !part.contains(char::is_whitespace));
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['=', '[']) || rest.starts_with("::"))
    };
    let is_ours = |part: &str| part.parse::<LevelFilter>().is_ok() || is_own_target(part);
    let parts: Vec<&str> = text.split(',').map(str::trim).filter(|part| !part.is_empty()).collect();
    let is_meant = parts.iter().any(|part| is_ours(part)) && parts.iter().all(|part| is_ours(part) || part.contains('='));
    let hint = "write `error`, `warn`, `info`, `debug`, `trace` or `info,careportals_sidecar::account=debug`";
    ensure!(is_meant && Log::parse_filter(text).is_some(), format!("{} is not a filter", shown(text)), hint = hint);
    Ok(text.to_owned())
}
