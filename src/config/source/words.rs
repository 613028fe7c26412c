//! Settings that are one of several words.
//!
//! Pure.

use serde_json::{Value, json};

use super::{
    environment::Environment,
    faults::{Diagnostic, shown},
    setting::Kind,
    toml::{Form, mismatch},
};
use crate::careportals::Preset;

/// Values that are written as one of several words.
pub(super) trait Worded: Sized {
    /// Each word with its value, in the order of the documentation.
    fn all() -> Vec<(&'static str, Self)>;
}

/// `on` and `off`, in quotes.
impl Worded for bool {
    fn all() -> Vec<(&'static str, Self)> {
        vec![("on", true), ("off", false)]
    }
}

impl Worded for Preset {
    fn all() -> Vec<(&'static str, Self)> {
        Self::ALL.into_iter().map(|preset| (preset.name(), preset)).collect()
    }
}

/// Declares enums whose variants are words in the settings.
macro_rules! words {
    ($($(#[$meta:meta])* $name:ident { $($(#[$variant_meta:meta])* $variant:ident = $word:literal,)+ })+) => {$(
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name {
            $($(#[$variant_meta])* $variant,)+
        }

        impl super::words::Worded for $name {
            fn all() -> Vec<(&'static str, Self)> {
                vec![$(($word, Self::$variant)),+]
            }
        }
    )+};
}

pub(super) use words;

/// The kind of a setting that is one of several words.
pub(super) struct OneOf<T>(T);

impl<T: Worded> Kind for OneOf<T> {
    type Value = T;
    const FORM: Form = Form::Text;

    fn described() -> (String, Value) {
        let words: Vec<&str> = T::all().into_iter().map(|(word, _)| word).collect();
        (all_quoted(&words), json!({ "enum": words }))
    }

    fn read(value: &Value, _: &Environment) -> Result<T, Diagnostic> {
        let (words, values): (Vec<&str>, Vec<T>) = T::all().into_iter().unzip();
        let Value::String(written) = value else { return Err(mismatch(&format!("{} in quotes", all_quoted(&words)), value)) };
        let found = words.iter().zip(values).find(|(word, _)| **word == written);
        let wrong = || Diagnostic::new(format!("{} is none of {}", shown(written), all_quoted(&words)));
        found.map(|(_, value)| value).ok_or_else(|| wrong().did_you_mean(written, words.iter().copied()))
    }
}

fn all_quoted(words: &[&str]) -> String {
    words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
}
