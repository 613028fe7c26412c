//! Reads the settings of one table of the file, and declares them.
//!
//! Pure. [`table!`] declares the settings of one table. Everything else comes from the declaration: what is recognized, the
//! defaults, the output of `config`, the JSON Schema and `docs/settings.md`. [`built!`] declares the types that the rest of the
//! program reads.

use serde_json::{Value, json};

use super::{
    environment::Environment,
    faults::{Diagnostic, Fault, ValueOrigin, Warning},
    layers::Merged,
    setting::{EffectiveValue, Findings, Key, Kind, Setting, Unset},
    toml::{REDACTED, in_toml, redacted},
};

/// Reads settings out of the merged layers, and collects the findings.
pub(super) struct SettingsReader<'a> {
    pub(super) merged: &'a Merged,
    pub(super) environment: &'a Environment,
    /// Defaults that a command has instead of the daemon's, in TOML syntax, by key.
    pub(super) defaults: &'a [(&'static str, &'static str)],
    pub(super) findings: &'a mut Findings,
}

impl SettingsReader<'_> {
    /// Reads the setting of a key, which is of the kind `K`. `entry`: the name of the account or API.
    pub(super) fn setting<K: Kind>(&mut self, entry: &str, key: &Key) -> Setting<K::Value> {
        let path = key.section.path(entry, key.name);
        let (written, origin) = self.merged.values.get(&path).cloned().unzip();
        // The variable that sets it gives no text, and that is told.
        if let Some(fault) = self.findings.faults.iter().find(|fault| written.is_none() && *fault.path == *path).cloned() {
            let origin = fault.origin.clone();
            self.show(key, &path, Some(&Value::Null), &origin, false);
            return Setting { value: Err(fault), place: origin.clone(), origin, path };
        }
        let (written, origin) = (written.or_else(|| key.default_value(self.defaults)), origin.unwrap_or(ValueOrigin::Default));
        let place = if origin.is_written() { origin.clone() } else { self.merged.place(&path) };
        let value = match &written {
            Some(value) => K::read(value, self.environment),
            None => K::absent(self.environment).ok_or_else(|| Diagnostic::new("is missing")),
        };
        self.show(key, &path, written.as_ref(), &origin, value.is_ok());
        let value = value.map_err(|mut wrong| {
            if let Some((around, hint)) = written.as_ref().and_then(Value::as_str).and_then(around) {
                wrong = wrong.about(around).hint(hint);
            }
            let further = std::mem::take(&mut wrong.further);
            let faults = [wrong].into_iter().chain(further).map(|wrong| Fault::new(place.clone(), &path, wrong));
            let at = self.findings.faults.len();
            self.findings.faults.extend(faults);
            self.findings.faults[at].clone()
        });
        Setting { value, origin, path, place }
    }

    /// Has `config` show the value, and warns of a secret that others can see.
    fn show(&mut self, key: &Key, path: &str, value: Option<&Value>, origin: &ValueOrigin, is_right: bool) {
        // It may be the secret itself, given where its file's name belongs.
        let is_bare = |value: &Value| value.get("file").and_then(Value::as_str).is_some_and(|path| !path.contains('/'));
        let shown = match (value, key.unset) {
            (Some(value), _) if is_right && is_bare(value) && matches!(origin, ValueOrigin::Variable(_)) => {
                in_toml(&json!({ "file": REDACTED }))
            }
            (Some(value), _) if is_right => in_toml(&redacted(key.form, value)),
            (Some(_), _) => "\"[invalid]\"".to_owned(),
            (None, Unset::Shown(words)) => words.to_owned(),
            (None, Unset::Documented(_)) => return,
        };
        let (path, is_set) = (path.to_owned(), value.is_some());
        if let Some(wrong) = value.filter(|_| is_right).and_then(|value| doubtful(key, value, origin)) {
            self.findings.warnings.push(Warning::new(origin.clone(), path.clone(), wrong));
        }
        self.findings.values.push(EffectiveValue { path, shown, origin: origin.clone(), is_set });
    }
}

/// What stands around a text that is wrong and is hard to see there, with a hint. An env file keeps quotes and carriage returns.
fn around(text: &str) -> Option<(&'static str, &'static str)> {
    let is_quoted = |mark: char| text.len() > 1 && text.starts_with(mark) && text.ends_with(mark);
    match text {
        _ if text.ends_with('\r') => Some(("ends in a carriage return", "save the file with the line ends of Unix")),
        _ if text.trim() != text => Some(("begins or ends with a blank", "leave it out")),
        _ if is_quoted('"') || is_quoted('\'') => Some(("stands in quotes, which are part of the value", "leave them out")),
        _ => None,
    }
}

/// What to say about a value that was copied from `config`, or about a secret that is written down where others may see it.
fn doubtful(key: &Key, value: &Value, origin: &ValueOrigin) -> Option<Diagnostic> {
    let is_secret = value.is_string() && ["username", "password", "require_header.value"].contains(&key.name);
    let name = key.name.rsplit('.').next().unwrap_or_default();
    let (wrong, hint) = match origin {
        _ if value.to_string().contains("\"[redacted]\"") => {
            let hint = "write the value itself, or where it is read from".to_owned();
            ("is `[redacted]`, which `config` shows in place of a secret", hint)
        }
        ValueOrigin::File { .. } if is_secret => {
            ("is written in the settings file itself", format!("use {name} = {{ file = \"…\" }}, or `env` or `command`"))
        }
        // `check` alone tells of a user name: on a laptop it is usual.
        ValueOrigin::Variable(variable) if is_secret && name != "username" => {
            let end = if variable.starts_with("CAREPORTALS__") { "__FILE" } else { "_FILE" };
            ("is given directly; whoever sees this process's environment sees it", format!("use {variable}{end}"))
        }
        _ => return None,
    };
    Some(Diagnostic::new(wrong).hint(hint))
}

/// Declares the settings of one table of the file, in the order of the documentation:
///
/// ```text
/// /// What it means, as docs/settings.md says it.
/// field ("name.in.file"): Kind = default, Unset("words");
/// ```
///
/// The name is left out when it is the field's. A default is written in TOML syntax. A key has a default, or a kind that has a
/// value when it is absent; then the words say what that means, or it is "none". A table with a name has it as its first field.
macro_rules! table {
    ($(#[$meta:meta])* $table:ident $({ $entry:ident })? of $section:ident;
     $($(#[doc = $doc:literal])+
       $field:ident $(($name:literal))?: $kind:ty $(= $default:tt)? $(, $unset:ident($words:literal))?;)+) => {
        $(#[$meta])*
        pub(super) struct $table {
            $(pub(super) $entry: String,)?
            $($(#[doc = $doc])+ pub(super) $field: Setting<<$kind as Kind>::Value>,)+
        }

        impl $table {
            // Of what may be left out, the first of two counts: what is written, or what holds without it.
            pub(super) const KEYS: &'static [Key] = &[$(Key {
                name: [$($name,)? stringify!($field)][0],
                section: Section::$section,
                doc: concat!($($doc),+).trim_ascii(),
                default: [$(Some(stringify!($default)),)? None][0],
                unset: [$(Unset::$unset($words),)? Unset::Documented("none")][0],
                form: <$kind as Kind>::FORM,
                kind: <$kind as Kind>::described,
            }),+];

            /// `entry`: the name of the account or API; empty at the top level.
            pub(super) fn read(reader: &mut SettingsReader<'_>, entry: &str) -> Self {
                let mut keys = Self::KEYS.iter();
                Self {
                    $($entry: entry.to_owned(),)?
                    $($field: reader.setting::<$kind>(entry, keys.next().expect("there is a key for each field"))),+
                }
            }
        }
    };
}

/// Declares a type of settings that are right, and how each field is read from what was written. `of` gives `None` as long
/// as a field has no right value. `named`: each field has the name of its setting, and `changed` names those that differ.
macro_rules! built {
    (named $(#[$meta:meta])* $name:ident of $args:tt {
        $($(#[$field_meta:meta])* $field:ident: $type:ty = $value:expr,)+
    }) => {
        built! { $(#[$meta])* $name of $args { $($(#[$field_meta])* $field: $type = $value,)+ } }

        impl $name {
            /// The fields that differ from the other's, by name.
            pub fn changed(&self, other: &Self) -> impl Iterator<Item = &'static str> + use<> {
                let differing = [$((stringify!($field), self.$field != other.$field)),+];
                differing.into_iter().filter_map(|(name, differs)| differs.then_some(name))
            }
        }
    };
    ($(#[$meta:meta])* $name:ident of ($($arg:ident: $arg_type:ty),+) {
        $($(#[$field_meta:meta])* $field:ident: $type:ty = $value:expr,)+
    }) => {
        $(#[$meta])*
        pub struct $name {
            $($(#[$field_meta])* #[doc = concat!("Read from `", stringify!($value), "`.")] pub $field: $type,)+
        }

        impl $name {
            pub(super) fn of($($arg: $arg_type),+) -> Option<Self> {
                Some(Self { $($field: $value?),+ })
            }
        }
    };
}

pub(super) use {built, table};
