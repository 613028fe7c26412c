//! Every key read once, by its kind: values, faults, and what `config` shows.
//!
//! Pure. Whether a key has its effect already is judged here, from the table alone.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, time::Duration};

use figment::value::Value;
use http::{HeaderName, HeaderValue, StatusCode};

use super::{
    EffectiveValue,
    faults::{Diagnostic, Fault, Origin, Warning},
    keys::{self, Key, Kind, Section},
    layers::Merged,
    render,
    url::{self, Address},
    values::{self, Parsed},
    variables::Environment,
};
use crate::{
    careportals::Preset,
    config::{AllowedHosts, Listen, Source},
    path::{Prefix, Rule},
};

/// What all layers together say, key by key.
pub(super) struct Values<'a> {
    merged: &'a Merged,
    environment: &'a Environment,
    parsed: BTreeMap<String, (Parsed, Origin)>,
    pub(super) accounts: Vec<String>,
    pub(super) apis: Vec<String>,
    pub(super) faults: Vec<Fault>,
    pub(super) warnings: Vec<Warning>,
    pub(super) effective: Vec<EffectiveValue>,
}

/// One getter per type; `None` when the key has no value, or a faulty one.
macro_rules! getters {
    ($($name:ident: $variant:ident => $kind:ty),* $(,)?) => {
        $(pub(super) fn $name(&self, path: &str) -> Option<$kind> {
            match self.parsed.get(path) {
                Some((Parsed::$variant(value), _)) => Some(value.clone()),
                _ => None,
            }
        })*
    };
}

impl<'a> Values<'a> {
    pub(super) fn read(merged: &'a Merged, environment: &'a Environment, accounts: &[String], apis: &[String]) -> Self {
        let mut values = Self {
            merged,
            environment,
            parsed: BTreeMap::new(),
            accounts: accounts.to_vec(),
            apis: apis.to_vec(),
            faults: Vec::new(),
            warnings: Vec::new(),
            effective: Vec::new(),
        };
        values.section(Section::Global, "");
        for name in accounts {
            values.section(Section::Account, &format!("accounts.{name}."));
        }
        for name in apis {
            values.section(Section::Api, &format!("apis.{name}."));
        }
        values
    }

    fn section(&mut self, section: Section, entry: &str) {
        for key in keys::of(section) {
            let path = format!("{entry}{}", key.name);
            match self.merged.get(&path) {
                Some((value, origin)) => self.key(key, path, &value, origin),
                None if key.kind == Kind::Upstream => self.preset_upstream(entry, path),
                // `login_url` is shown once it is known.
                None if matches!(key.otherwise, "none" | "from the preset" | "anything")
                    || key.otherwise.starts_with("required") => {}
                None => self.show_unset(path, key.otherwise),
            }
        }
    }

    fn key(&mut self, key: &Key, path: String, value: &Value, origin: Origin) {
        match values::parse(key, value, self.environment).and_then(|parsed| sound(key, parsed)) {
            Ok(parsed) => {
                self.show(&path, render::shown(key, value), origin.clone());
                self.warn_of_literals(key, &path, value, &origin);
                let parsed = if origin == Origin::Default { optional(parsed) } else { parsed };
                self.parsed.insert(path, (parsed, origin));
            }
            Err(wrong) => {
                self.show(&path, "\"[invalid]\"".to_owned(), origin.clone());
                self.faults.push(Fault::new(origin, path, wrong));
            }
        }
    }

    fn preset_upstream(&mut self, entry: &str, path: String) {
        let Some(preset) = self.preset(entry) else { return };
        if let Ok(address) = url::address(preset.upstream()) {
            self.show(&path, format!("\"{}\"", preset.upstream()), Origin::Preset);
            self.parsed.insert(path, (Parsed::Address(address), Origin::Preset));
        }
    }

    /// `entry`: `apis.NAME.`.
    pub(super) fn preset(&self, entry: &str) -> Option<Preset> {
        self.text(&format!("{entry}preset")).and_then(|name| Preset::from_name(&name))
    }

    fn show(&mut self, path: &str, shown: String, origin: Origin) {
        self.effective.push(EffectiveValue { path: path.to_owned(), shown, origin, is_set: true });
    }

    fn show_unset(&mut self, path: String, words: &str) {
        self.effective.push(EffectiveValue { path, shown: words.to_owned(), origin: Origin::Default, is_set: false });
    }

    /// Puts a value that was worked out behind the others of its table.
    pub(super) fn show_in(&mut self, entry: &str, name: &str, shown: String, origin: Origin) {
        let place =
            self.effective.iter().rposition(|value| value.path.starts_with(entry)).map_or(self.effective.len(), |at| at + 1);
        self.effective.insert(place, EffectiveValue { path: format!("{entry}{name}"), shown, origin, is_set: true });
    }

    fn warn_of_literals(&mut self, key: &Key, path: &str, value: &Value, origin: &Origin) {
        let literal = matches!(value, Value::String(..)) && key.section != Section::Global;
        let wrong = match (key.name, origin) {
            ("password", Origin::File { .. }) | ("username", Origin::File { .. }) if literal => {
                Diagnostic::new("is written in the settings file itself")
                    .hint(format!("use {} = {{ file = \"…\" }}, or `env` or `command`", key.name))
            }
            ("require_header.value", Origin::File { .. }) if literal => {
                Diagnostic::new("is written in the settings file itself").hint(REQUIRED_SOURCE)
            }
            ("require_header.value", _) if literal => {
                Diagnostic::new("is given directly; whoever sees this process's environment sees it").hint(REQUIRED_SOURCE)
            }
            ("password", _) if literal => Diagnostic::new("is given directly; whoever sees this process's environment sees it")
                .hint(match origin {
                    Origin::Variable(name) if name.starts_with("CAREPORTALS__") => format!("use {name}__FILE"),
                    _ => "use CAREPORTALS_PASSWORD_FILE".to_owned(),
                }),
            _ => return,
        };
        self.warnings.push(Warning::new(origin.clone(), path, wrong));
    }

    getters! {
        text: Text => String,
        path: Path => PathBuf,
        switch: Switch => bool,
        number: Number => u64,
        duration: Duration => Duration,
        address: Address => Address,
        listen: Listen => Vec<Listen>,
        socket: Socket => Option<SocketAddr>,
        headers: Headers => Vec<(HeaderName, HeaderValue)>,
        header_name: HeaderName => HeaderName,
        json: Json => serde_json::Map<String, serde_json::Value>,
        statuses: Statuses => Vec<StatusCode>,
        ids: Ids => Vec<u32>,
        rules: Rules => Vec<Rule>,
        prefix: Prefix => Prefix,
        texts: Texts => Vec<String>,
        hosts: Hosts => AllowedHosts,
    }

    /// Taken out, since a secret is never copied.
    pub(super) fn take_source(&mut self, path: &str) -> Option<Source> {
        match self.parsed.remove(path) {
            Some((Parsed::Source(source), _)) => Some(source),
            _ => None,
        }
    }

    /// Whether anybody but the built-in defaults gave it a value, right or wrong.
    pub(super) fn is_written(&self, path: &str) -> bool {
        self.merged.get(path).is_some_and(|(_, origin)| origin != Origin::Default)
    }

    /// Where a value was written, or where it would be.
    pub(super) fn origin(&self, path: &str) -> Origin {
        match self.merged.get(path) {
            Some((_, origin)) if origin != Origin::Default => origin,
            _ => self.merged.place(path),
        }
    }

    pub(super) fn fault(&mut self, path: &str, wrong: Diagnostic) {
        self.faults.push(Fault::new(self.origin(path), path, wrong));
    }

    pub(super) fn warn(&mut self, path: &str, wrong: Diagnostic) {
        self.warnings.push(Warning::new(self.origin(path), path, wrong));
    }
}

const REQUIRED_SOURCE: &str = "use value = { file = \"…\" }, or `env` or `command`";

/// What a value's kind alone does not say.
fn sound(key: &Key, parsed: Parsed) -> Result<Parsed, Diagnostic> {
    match &parsed {
        Parsed::Source(Source::Value(secret)) if matches!(key.name, "organization" | "require_header.value") => {
            let trimmed = secret.expose().trim_ascii().len() == secret.expose().len();
            if !trimmed || secret.header_value().is_none() {
                return Err(Diagnostic::new("cannot stand in a header"));
            }
        }
        _ => {}
    }
    Ok(parsed)
}

/// A machine may lack the address family of a built-in address.
fn optional(parsed: Parsed) -> Parsed {
    match parsed {
        Parsed::Listen(places) => Parsed::Listen(
            places
                .into_iter()
                .map(|place| match place {
                    Listen::Tcp { address, .. } => Listen::Tcp { address, required: false },
                    other => other,
                })
                .collect(),
        ),
        other => other,
    }
}
