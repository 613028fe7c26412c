//! What a setting is: its declaration, the kind that reads it, and its outcome.
//!
//! Pure.

use serde_json::Value;

use super::{
    environment::Environment,
    faults::{Diagnostic, Fault, Finding, ValueOrigin, Warning},
    toml::{Form, value_of},
};

/// The tables of the file in which a key may stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Section {
    /// The file's top level, outside all tables.
    TopLevel,
    /// The table `[accounts.NAME]`.
    Account,
    /// The table `[apis.NAME]`.
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

    /// The path of a key in one of its tables. `entry`: the account or API; it does not count at the top level.
    pub(super) fn path(self, entry: &str, key: &str) -> String {
        if self == Self::TopLevel { key.to_owned() } else { format!("{}.{entry}.{key}", self.group()) }
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

/// What a key without a default means, in words.
#[derive(Clone, Copy, Debug)]
pub(super) enum Unset {
    /// `config` and the documentation show the words.
    Shown(&'static str),
    /// Only the documentation has the words.
    #[cfg_attr(not(test), expect(dead_code, reason = "for the reference, which a test writes"))]
    Documented(&'static str),
}

/// The declaration of one setting.
pub(super) struct Key {
    /// Dotted when it stands in a table of its own.
    pub(super) name: &'static str,
    pub(super) section: Section,
    pub(super) doc: &'static str,
    /// The default value, in TOML syntax.
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
        other.or(self.default).map(|text| value_of(self.form, text))
    }
}

/// How values of one kind are read.
pub(super) trait Kind {
    /// The type of a value that is right.
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
    /// The value, or what is wrong with it.
    pub value: Result<T, Fault>,
    /// Where the value was written.
    pub origin: ValueOrigin,
    /// The key with its table, such as `apis.emr.listen`.
    pub(super) path: String,
    /// Where the value was written, or would be: the line of its table.
    pub(super) place: ValueOrigin,
}

impl<T> Setting<T> {
    /// Returns the value; `None` when it is faulty.
    pub(super) fn known(&self) -> Option<&T> {
        self.value.as_ref().ok()
    }

    /// Returns a copy of the value; `None` when it is faulty.
    pub(super) fn get(&self) -> Option<T>
    where
        T: Clone,
    {
        self.known().cloned()
    }

    /// Whether a user gave it a value, right or wrong.
    pub(super) fn is_written(&self) -> bool {
        self.origin.is_written()
    }

    /// Makes a fault or a warning about the setting.
    pub(super) fn finding(&self, wrong: Diagnostic) -> Finding {
        Finding::new(self.place.clone(), self.path.clone(), wrong)
    }
}

impl<T> Setting<Option<T>> {
    /// Returns the value, if there is one that is right.
    pub(super) fn set(&self) -> Option<&T> {
        self.known()?.as_ref()
    }

    /// Takes the value out, since a secret is never copied.
    pub(super) fn take(&mut self) -> Option<T> {
        self.value.as_mut().ok()?.take()
    }
}

/// A value in effect, as `config` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EffectiveValue {
    /// A key such as `apis.emr.listen`, or a variable that has no key.
    pub path: String,
    /// The value in TOML syntax: a secret as `"[redacted]"`, a faulty one as `"[invalid]"`. Worded, if it has no value.
    pub shown: String,
    /// Where the value came from.
    pub origin: ValueOrigin,
    /// Whether there is a value; if not, `shown` holds words.
    pub is_set: bool,
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
}
