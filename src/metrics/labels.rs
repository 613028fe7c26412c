//! Values of labels that are fixed sets of words: enums, each value with its word.
//!
//! The modules above have enums of their own, such as the codes of problems. They implement [`Label`] for them, so that this
//! module counts by the enum's values and needs to know no other module.

use std::sync::Arc;

/// A value of a label. Metrics count it by its index.
pub trait Label: Copy + 'static {
    /// All values, in the order of their indexes.
    const ALL: &'static [Self];

    /// The value's place in [`Self::ALL`].
    fn index(self) -> usize;

    /// The value as users see it.
    fn as_str(self) -> &'static str;
}

/// The code of a problem document, as a label.
pub trait ProblemLabel: Label {
    /// The HTTP status of the response.
    fn status(self) -> u16;

    /// Which requests are refused with this code; `None` when it is not a refusal.
    fn refused(self) -> Option<RefusalScope>;

    /// Whether the upstream did answer, and its answer is of no use.
    fn is_of_an_answer(self) -> bool;
}

/// The reason why an answer was cut, as a label.
pub trait CutLabel: Label {
    /// Whether the upstream did not give the rest of its answer.
    fn is_the_upstreams(self) -> bool;
}

/// Which requests a refusal is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalScope {
    /// It refuses requests of an API.
    Api,
    /// It refuses requests of an API, by its rules.
    Rules,
    /// It refuses requests that no API is for.
    NoApi,
}

/// Makes an enum a [`Label`], with a word for each value.
macro_rules! label {
    (
        $(#[$attribute:meta])*
        $visibility:vis enum $name:ident { $($(#[$about:meta])* $value:ident = $word:literal,)* }
    ) => {
        $(#[$attribute])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        $visibility enum $name { $($(#[$about])* $value,)* }

        impl $crate::metrics::Label for $name {
            const ALL: &'static [Self] = &[$(Self::$value),*];

            fn index(self) -> usize {
                self as usize
            }

            fn as_str(self) -> &'static str {
                match self { $(Self::$value => $word,)* }
            }
        }
    };
}

pub(crate) use label;

/// The labels of one daemon's requests, taken from the enums that it is made for.
#[derive(Debug)]
pub(super) struct RequestLabels {
    /// The codes of problems, in the order of their indexes.
    pub(super) codes: Arc<[CodeLabel]>,
    /// The reasons why responses are cut, in the order of their indexes.
    pub(super) cuts: Vec<&'static str>,
}

/// What exposition needs to know of a problem's code.
#[derive(Debug)]
pub(super) struct CodeLabel {
    pub(super) word: &'static str,
    pub(super) status: u16,
    pub(super) refused: Option<RefusalScope>,
}

impl RequestLabels {
    pub(super) fn new<Code: ProblemLabel, Cut: CutLabel>() -> Self {
        let label = |code: &Code| CodeLabel { word: code.as_str(), status: code.status(), refused: code.refused() };
        Self { codes: Code::ALL.iter().map(label).collect(), cuts: Cut::ALL.iter().map(|cut| cut.as_str()).collect() }
    }
}

/// Stands for codes and cuts where a test has neither.
#[cfg(test)]
impl Label for std::convert::Infallible {
    const ALL: &'static [Self] = &[];

    fn index(self) -> usize {
        match self {}
    }

    fn as_str(self) -> &'static str {
        match self {}
    }
}

#[cfg(test)]
impl ProblemLabel for std::convert::Infallible {
    fn status(self) -> u16 {
        match self {}
    }

    fn refused(self) -> Option<RefusalScope> {
        match self {}
    }

    fn is_of_an_answer(self) -> bool {
        match self {}
    }
}

#[cfg(test)]
impl CutLabel for std::convert::Infallible {
    fn is_the_upstreams(self) -> bool {
        match self {}
    }
}
