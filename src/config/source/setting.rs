//! What a setting is: its declaration, the kind that reads it, and its outcome.
//!
//! Pure. [`table!`] declares the settings of one table of the file. Everything else comes from the declaration: what is
//! recognized, the defaults, the output of `config`, the JSON Schema and `docs/settings.md`.

use std::slice;

use serde_json::Value;

use super::{
    EffectiveValue,
    account::AccountTable,
    api::ApiTable,
    faults::{Diagnostic, Fault, Finding, ValueOrigin, Warning},
    layers::Merged,
    render,
    top_level::TopLevel,
    variables::{self, Environment},
};

/// Where a key stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Section {
    /// At the file's top level.
    TopLevel,
    /// Under `[accounts.NAME]`.
    Account,
    /// Under `[apis.NAME]`.
    Api,
}

impl Section {
    /// All of them, in the order of the documentation.
    pub(super) const ALL: [Self; 3] = [Self::TopLevel, Self::Account, Self::Api];

    /// The group that holds its tables; empty for the top level.
    pub(super) fn group(self) -> &'static str {
        match self {
            Self::TopLevel => "",
            Self::Account => "accounts",
            Self::Api => "apis",
        }
    }

    /// The section whose tables stand in that group.
    pub(super) fn of_group(group: &str) -> Option<Self> {
        [Self::Account, Self::Api].into_iter().find(|section| section.group() == group)
    }

    /// Its keys, in the order of the documentation.
    pub(super) fn keys(self) -> impl Iterator<Item = &'static Key> {
        let keys = match self {
            Self::TopLevel => TopLevel::KEYS,
            Self::Account => AccountTable::KEYS,
            Self::Api => ApiTable::KEYS,
        };
        keys.iter()
    }

    /// The key of that name.
    pub(super) fn find(self, name: &str) -> Option<&'static Key> {
        self.keys().find(|key| key.name == name)
    }

    /// Its heading in the documentation.
    pub(super) fn heading(self) -> String {
        if self == Self::TopLevel { "Top level".to_owned() } else { format!("`[{}.NAME]`", self.group()) }
    }
}

/// Takes a path such as `apis.emr.listen` apart: the section, the account or the API, and the key's name. At the top level
/// the second is empty.
pub(super) fn parts(path: &str) -> (Section, &str, &str) {
    let mut parts = path.splitn(3, '.');
    match (parts.next().and_then(Section::of_group), parts.next(), parts.next()) {
        (Some(section), Some(entry), Some(name)) => (section, entry, name),
        _ => (Section::TopLevel, "", path),
    }
}

/// The key that a path such as `apis.emr.listen` or `log` names.
pub(super) fn at(path: &str) -> Option<&'static Key> {
    let (section, _, name) = parts(path);
    section.find(name)
}

/// How a value is written: what text without quotes means, and how much of the value `config` shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// Text, even where it looks like a number.
    Text,
    /// Text. An integer in the file counts by its digits.
    Octal,
    /// A number or a switch.
    Literal,
    /// A list, or a size.
    Compound,
    /// A secret, or where it is read from.
    Source,
    /// A table whose values are never shown.
    SecretTable,
}

/// What a key without a default means, in words.
#[derive(Clone, Copy, Debug)]
pub(super) enum Unset {
    /// `config` shows the words.
    Shown(&'static str),
    /// Only the documentation has the words.
    Documented(&'static str),
}

/// The declaration of one setting.
pub(super) struct Key {
    /// Dotted when it stands in a table of its own.
    pub(super) name: &'static str,
    pub(super) section: Section,
    pub(super) doc: &'static str,
    /// In TOML syntax.
    pub(super) default: Option<&'static str>,
    pub(super) unset: Unset,
    pub(super) form: Form,
    /// The kind's name in the documentation, and its JSON Schema.
    pub(super) kind: fn() -> (String, Value),
}

impl Key {
    /// Its default value. `instead`: defaults that a command has instead of the daemon's, in TOML syntax, by key.
    pub(super) fn default_value(&self, instead: &[(&str, &'static str)]) -> Option<Value> {
        let other = instead.iter().find(|(name, _)| *name == self.name).map(|(_, text)| *text);
        other.or(self.default).map(|text| variables::value_of(self.form, text))
    }
}

/// How values of one kind are read.
pub(super) trait Kind {
    /// What a value means.
    type Value;
    const FORM: Form;

    /// The kind's name in the documentation, and its JSON Schema.
    fn described() -> (String, Value);

    fn read(value: &Value, environment: &Environment) -> Result<Self::Value, Diagnostic>;

    /// The value of a key that nobody has written and that has no default. `None`: there must be one.
    fn absent(_environment: &Environment) -> Option<Self::Value> {
        None
    }
}

/// The outcome of one setting.
#[derive(Debug)]
pub struct Setting<T> {
    /// Its value, or what is wrong with it.
    pub value: Result<T, Fault>,
    /// Where it was written.
    pub origin: ValueOrigin,
    /// The key with its table.
    pub(super) path: String,
    /// Where it was written, or would be.
    pub(super) place: ValueOrigin,
}

impl<T> Setting<T> {
    /// `None`: it is faulty.
    pub(super) fn known(&self) -> Option<&T> {
        self.value.as_ref().ok()
    }

    /// A copy of the value. `None`: it is faulty.
    pub(super) fn get(&self) -> Option<T>
    where
        T: Clone,
    {
        self.known().cloned()
    }

    /// Whether a user gave it a value, right or wrong.
    pub(super) fn is_written(&self) -> bool {
        !matches!(self.origin, ValueOrigin::Default | ValueOrigin::Preset)
    }

    /// A fault or a warning about it.
    pub(super) fn finding(&self, wrong: Diagnostic) -> Finding {
        Finding::new(self.place.clone(), self.path.clone(), wrong)
    }
}

impl<T> Setting<Option<T>> {
    /// The value, if it has one that is right.
    pub(super) fn set(&self) -> Option<&T> {
        self.known()?.as_ref()
    }

    /// Takes the value out, since a secret is never copied.
    pub(super) fn take(&mut self) -> Option<T> {
        self.value.as_mut().ok()?.take()
    }
}

/// An account or an API as it was written.
pub(super) struct Named<T> {
    pub(super) name: String,
    /// Where its table begins.
    pub(super) place: ValueOrigin,
    pub(super) table: T,
}

/// Everything that was found out about the settings.
#[derive(Default)]
pub(super) struct Findings {
    pub(super) faults: Vec<Fault>,
    pub(super) warnings: Vec<Warning>,
    /// In the order of `config`.
    pub(super) values: Vec<EffectiveValue>,
}

impl Findings {
    /// Adds a fault, if there is one.
    pub(super) fn fault<T>(&mut self, setting: &Setting<T>, wrong: impl Into<Option<Diagnostic>>) {
        self.faults.extend(wrong.into().map(|wrong| setting.finding(wrong)));
    }

    /// Adds a warning, if there is one.
    pub(super) fn warn<T>(&mut self, setting: &Setting<T>, wrong: impl Into<Option<Diagnostic>>) {
        self.warnings.extend(wrong.into().map(|wrong| setting.finding(wrong)));
    }

    pub(super) fn show(&mut self, path: &str, shown: String, origin: ValueOrigin) {
        self.values.push(EffectiveValue { path: path.to_owned(), shown, origin, is_set: true });
    }

    /// Shows a value that follows from others, if there is one, behind those of its table.
    pub(super) fn show_derived(&mut self, entry: &str, name: &str, shown: Option<String>) {
        let end = self.values.iter().rposition(|value| value.path.starts_with(entry)).map_or(self.values.len(), |at| at + 1);
        let (path, origin) = (format!("{entry}{name}"), ValueOrigin::Preset);
        self.values.splice(end..end, shown.map(|shown| EffectiveValue { path, shown, origin, is_set: true }));
    }
}

/// Reads settings out of the merged layers, and collects the findings.
pub(super) struct SettingsReader<'a> {
    pub(super) merged: &'a Merged,
    pub(super) environment: &'a Environment,
    /// Defaults that a command has instead of the daemon's, in TOML syntax, by key.
    pub(super) defaults: &'static [(&'static str, &'static str)],
    pub(super) findings: Findings,
}

impl SettingsReader<'_> {
    /// Reads the table of one account or API.
    pub(super) fn entry<T>(&mut self, section: Section, name: &str, read: fn(&mut Self, &str) -> T) -> Named<T> {
        let path = format!("{}.{name}", section.group());
        let table = read(self, &format!("{path}."));
        Named { name: name.to_owned(), place: self.merged.place(&path), table }
    }

    /// Reads the setting of the next key. `entry`: `accounts.NAME.`, `apis.NAME.` or nothing. `read` and `absent`: those of
    /// its [`Kind`]. There is one copy of this function per type of value, so most of it stands in the functions below.
    pub(super) fn setting<T>(
        &mut self,
        entry: &str,
        keys: &mut slice::Iter<'static, Key>,
        read: fn(&Value, &Environment) -> Result<T, Diagnostic>,
        absent: fn(&Environment) -> Option<T>,
    ) -> Setting<T> {
        let found = self.find(entry, keys);
        let read = match &found.value {
            Some(value) => read(value, self.environment),
            None => absent(self.environment).ok_or_else(|| Diagnostic::new("is missing")),
        };
        self.show(&found, read.is_ok());
        let value = read.map_err(|wrong| self.refuse(&found, wrong));
        let Found { origin, path, place, .. } = found;
        Setting { value, origin, path, place }
    }

    fn find(&self, entry: &str, keys: &mut slice::Iter<'static, Key>) -> Found {
        let key = keys.next().expect("there is a key for each field");
        let path = format!("{entry}{}", key.name);
        let written = self.merged.get(&path).cloned();
        let place = match &written {
            Some((_, origin)) if *origin != ValueOrigin::Preset => origin.clone(),
            _ => self.merged.place(&path),
        };
        let (value, origin) = match written {
            Some((value, origin)) => (Some(value), origin),
            None => (key.default_value(self.defaults), ValueOrigin::Default),
        };
        Found { key, value, origin, path, place }
    }

    /// Has `config` show the value, and warns of a secret that others can see.
    fn show(&mut self, found: &Found, is_right: bool) {
        let Found { key, value, origin, path, .. } = found;
        let shown = match (value, key.unset) {
            (Some(value), _) if is_right => render::shown(key.form, value),
            (Some(_), _) => "\"[invalid]\"".to_owned(),
            (None, Unset::Shown(words)) => words.to_owned(),
            (None, Unset::Documented(_)) => return,
        };
        let is_set = value.is_some();
        self.findings.values.push(EffectiveValue { path: path.clone(), shown, origin: origin.clone(), is_set });
        if let Some(wrong) = value.as_ref().filter(|_| is_right).and_then(|value| literal_secret(key, value, origin)) {
            self.findings.warnings.push(Warning::new(origin.clone(), path, wrong));
        }
    }

    fn refuse(&mut self, found: &Found, wrong: Diagnostic) -> Fault {
        let origin = if found.value.is_some() { &found.origin } else { &found.place };
        let fault = Fault::new(origin.clone(), &found.path, wrong);
        self.findings.faults.push(fault.clone());
        fault
    }
}

/// A setting as it was found, before its value is read.
struct Found {
    key: &'static Key,
    /// `None`: nobody has written one, and there is no default.
    value: Option<Value>,
    origin: ValueOrigin,
    path: String,
    place: ValueOrigin,
}

/// What to say about a secret that is written down where others may see it.
fn literal_secret(key: &Key, value: &Value, origin: &ValueOrigin) -> Option<Diagnostic> {
    let hint = match (key.name, origin) {
        ("require_header.value", _) => "use value = { file = \"…\" }, or `env` or `command`".to_owned(),
        ("password" | "username", ValueOrigin::File { .. }) => {
            format!("use {} = {{ file = \"…\" }}, or `env` or `command`", key.name)
        }
        ("password", ValueOrigin::Variable(name)) if name.starts_with("CAREPORTALS__") => format!("use {name}__FILE"),
        ("password", _) => "use CAREPORTALS_PASSWORD_FILE".to_owned(),
        _ => return None,
    };
    let wrong = match origin {
        ValueOrigin::File { .. } => "is written in the settings file itself",
        _ => "is given directly; whoever sees this process's environment sees it",
    };
    value.is_string().then(|| Diagnostic::new(wrong).hint(hint))
}

/// Declares the settings of one table of the file, in the order of the documentation:
///
/// ```text
/// /// What it means, as docs/settings.md says it.
/// field ("name.in.file"): Kind = default, Unset("words");
/// ```
///
/// The name is left out when it is the field's. A default is written in TOML syntax. A key has a default, or a kind that has a
/// value when it is absent; then the words say what that means, or it is "none".
macro_rules! table {
    ($(#[$meta:meta])* $table:ident of $section:ident;
     $($(#[doc = $doc:literal])+
       $field:ident $(($name:literal))?: $kind:ty $(= $default:tt)? $(, $unset:ident($words:literal))?;)+) => {
        $(#[$meta])*
        pub(super) struct $table {
            $($(#[doc = $doc])+ pub(super) $field: Setting<<$kind as Kind>::Value>,)+
        }

        impl $table {
            pub(super) const KEYS: &'static [Key] = &[$(Key {
                name: table!(@name $field $($name)?),
                section: Section::$section,
                doc: concat!($($doc),+).trim_ascii(),
                default: table!(@default $($default)?),
                unset: table!(@unset $($unset $words)?),
                form: <$kind as Kind>::FORM,
                kind: <$kind as Kind>::described,
            }),+];

            /// `entry`: what stands before each key.
            pub(super) fn read(reader: &mut SettingsReader<'_>, entry: &str) -> Self {
                let keys = &mut Self::KEYS.iter();
                Self { $($field: reader.setting(entry, keys, <$kind as Kind>::read, <$kind as Kind>::absent)),+ }
            }
        }
    };
    (@name $field:ident) => { stringify!($field) };
    (@name $field:ident $name:literal) => { $name };
    (@default) => { None };
    (@default $default:tt) => { Some(stringify!($default)) };
    (@unset) => { Unset::Documented("none") };
    (@unset $unset:ident $words:literal) => { Unset::$unset($words) };
}

/// Declares a type of settings that are right, and how each field is read from what was written. `of` gives `None` as long
/// as a field has no right value. `named`: each field has the name of its setting, and `changed` names the first that differs.
macro_rules! built {
    (named $(#[$meta:meta])* $name:ident of $args:tt {
        $($(#[$field_meta:meta])* $field:ident: $type:ty = $value:expr,)+
    }) => {
        built! { $(#[$meta])* $name of $args { $($(#[$field_meta])* $field: $type = $value,)+ } }

        impl $name {
            /// The first field that differs from the other's, by name.
            #[must_use]
            pub fn changed(&self, other: &Self) -> Option<&'static str> {
                let differing = [$((stringify!($field), self.$field != other.$field)),+];
                differing.into_iter().find_map(|(name, differs)| differs.then_some(name))
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
