//! What a setting is: its declaration, the kind that reads it, and its outcome.
//!
//! Pure. [`table!`] declares the settings of one table of the file. Everything else comes from the declaration: what is
//! recognized, the defaults, the output of `config`, the JSON Schema and `docs/settings.md`.

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

    /// Where a message says that its keys belong.
    pub(super) fn place(self) -> &'static str {
        match self {
            Self::TopLevel => "at the top level",
            Self::Account => "under `[accounts.NAME]`",
            Self::Api => "under `[apis.NAME]`",
        }
    }
}

/// The key that a path such as `apis.emr.listen` or `log` names.
pub(super) fn at(path: &str) -> Option<&'static Key> {
    let mut parts = path.splitn(3, '.');
    match (parts.next(), parts.next(), parts.next()) {
        (Some("accounts"), Some(_), Some(name)) => Section::Account.find(name),
        (Some("apis"), Some(_), Some(name)) => Section::Api.find(name),
        _ => Section::TopLevel.find(path),
    }
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
    pub(super) default: Option<fn() -> Value>,
    pub(super) unset: Unset,
    pub(super) form: Form,
    /// The kind's name in the documentation, and its JSON Schema.
    pub(super) kind: fn() -> (String, Value),
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
    pub(super) fn fault<T>(&mut self, setting: &Setting<T>, wrong: Diagnostic) {
        self.faults.push(setting.finding(wrong));
    }

    pub(super) fn warn<T>(&mut self, setting: &Setting<T>, wrong: Diagnostic) {
        self.warnings.push(setting.finding(wrong));
    }

    pub(super) fn show(&mut self, path: &str, shown: String, origin: ValueOrigin) {
        self.values.push(EffectiveValue { path: path.to_owned(), shown, origin, is_set: true });
    }

    /// Shows a value that follows from others, behind those of its table.
    pub(super) fn show_derived(&mut self, entry: &str, name: &str, shown: String) {
        let end = self.values.iter().rposition(|value| value.path.starts_with(entry)).map_or(self.values.len(), |at| at + 1);
        let (path, origin) = (format!("{entry}{name}"), ValueOrigin::Preset);
        self.values.insert(end, EffectiveValue { path, shown, origin, is_set: true });
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
    /// Reads `[group.name]`.
    pub(super) fn entry<T>(&mut self, group: &str, name: &str, read: fn(&mut Self, &str) -> T) -> Named<T> {
        let path = format!("{group}.{name}");
        let table = read(self, &format!("{path}."));
        Named { name: name.to_owned(), place: self.merged.place(&path), table }
    }

    /// Reads one setting. `entry`: `accounts.NAME.`, `apis.NAME.` or nothing.
    pub(super) fn setting<K: Kind>(&mut self, entry: &str, key: &Key) -> Setting<K::Value> {
        let path = format!("{entry}{}", key.name);
        let written = self.merged.get(&path).cloned();
        let place = match &written {
            Some((_, origin)) if *origin != ValueOrigin::Preset => origin.clone(),
            _ => self.merged.place(&path),
        };
        let default = || Some((self.default_of(key)?, ValueOrigin::Default));
        let Some((value, origin)) = written.or_else(default) else { return self.absent::<K>(key, path, place) };
        match K::read(&value, self.environment) {
            Ok(read) => {
                self.findings.show(&path, render::shown(key.form, &value), origin.clone());
                if let Some(wrong) = literal_secret(key, &value, &origin) {
                    self.findings.warnings.push(Warning::new(origin.clone(), &path, wrong));
                }
                Setting { value: Ok(read), origin, path, place }
            }
            Err(wrong) => {
                self.findings.show(&path, "\"[invalid]\"".to_owned(), origin.clone());
                let fault = Fault::new(origin.clone(), &path, wrong);
                self.findings.faults.push(fault.clone());
                Setting { value: Err(fault), origin, path, place }
            }
        }
    }

    fn default_of(&self, key: &Key) -> Option<Value> {
        match self.defaults.iter().find(|(name, _)| *name == key.name) {
            Some((_, default)) => Some(variables::value_of(key.form, default)),
            None => key.default.map(|default| default()),
        }
    }

    fn absent<K: Kind>(&mut self, key: &Key, path: String, place: ValueOrigin) -> Setting<K::Value> {
        let origin = ValueOrigin::Default;
        if let Unset::Shown(words) = key.unset {
            let (path, shown, origin) = (path.clone(), words.to_owned(), origin.clone());
            self.findings.values.push(EffectiveValue { path, shown, origin, is_set: false });
        }
        let value = K::absent(self.environment).ok_or_else(|| {
            let fault = Fault::new(place.clone(), &path, Diagnostic::new("is missing"));
            self.findings.faults.push(fault.clone());
            fault
        });
        Setting { value, origin, path, place }
    }
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
/// The name is left out when it is the field's. A default is written as JSON. A key has a default, or a kind that has a value
/// when it is absent; then the words say what that means, or it is "none".
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
                let mut keys = Self::KEYS.iter();
                let mut next = || keys.next().expect("there is a key for each field");
                Self { $($field: reader.setting::<$kind>(entry, next())),+ }
            }
        }
    };
    (@name $field:ident) => { stringify!($field) };
    (@name $field:ident $name:literal) => { $name };
    (@default) => { None };
    (@default $default:tt) => { Some(|| serde_json::json!($default)) };
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
