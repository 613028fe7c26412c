//! Settings that are one of several words.
//!
//! Pure.

use crate::careportals::Preset;

/// Values that are written as one of several words.
pub(super) trait Worded: Sized + 'static {
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

/// Declares an enum whose variants are words in the settings.
macro_rules! words {
    ($(#[$meta:meta])* $name:ident { $($(#[$variant_meta:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
        pub enum $name {
            $($(#[$variant_meta])* $variant,)+
        }

        impl super::words::Worded for $name {
            fn all() -> Vec<(&'static str, Self)> {
                vec![$(($word, Self::$variant)),+]
            }
        }
    };
}

pub(super) use words;
