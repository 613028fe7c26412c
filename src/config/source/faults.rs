//! What is wrong with the settings, and where.
//!
//! Pure. A message never holds a secret: whoever writes one shows at most [`shown`] values of keys that are none.

use std::{fmt, path::PathBuf};

/// Where a value was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nowhere: built in.
    Default,
    /// Nowhere: it follows from the API's preset.
    Preset,
    /// In the settings file.
    File {
        /// As it was named.
        path: PathBuf,
        /// From 1; 0 when no line is to blame.
        line: usize,
    },
    /// An environment variable.
    Variable(String),
    /// A command-line flag.
    Flag(String),
}

impl Origin {
    /// The file from top to bottom, then what is in no file.
    pub(super) fn rank(&self) -> (u8, usize) {
        match self {
            Self::File { line, .. } => (0, *line),
            Self::Variable(_) => (1, 0),
            Self::Flag(_) => (2, 0),
            Self::Default | Self::Preset => (3, 0),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Preset => f.write_str("preset"),
            Self::File { path, line: 0 } => f.write_str(&printable(&path.to_string_lossy())),
            Self::File { path, line } => write!(f, "{}:{line}", printable(&path.to_string_lossy())),
            Self::Variable(name) => f.write_str(&printable(name)),
            Self::Flag(name) => f.write_str(name),
        }
    }
}

/// Something to say about a setting.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Finding {
    origin: Origin,
    path: String,
    message: String,
    hint: Option<String>,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.origin {
            // The variable or the flag is what its user wrote; the key behind it would only confuse.
            Origin::Variable(_) | Origin::Flag(_) => write!(f, "{}: ", self.origin)?,
            Origin::File { .. } => {
                write!(f, "{}: ", self.origin)?;
                if !self.path.is_empty() {
                    write!(f, "{}: ", printable(&self.path))?;
                }
            }
            Origin::Default | Origin::Preset if self.path.is_empty() => {}
            Origin::Default | Origin::Preset => write!(f, "{}: ", printable(&self.path))?,
        }
        f.write_str(&printable(&self.message))?;
        if let Some(hint) = &self.hint {
            write!(f, "\n  hint: {}", printable(hint))?;
        }
        Ok(())
    }
}

/// Something that must be mended before the daemon starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault(Finding);

impl Fault {
    pub(super) fn new(origin: Origin, path: impl Into<String>, wrong: Diagnostic) -> Self {
        Self(Finding { origin, path: path.into(), message: wrong.message, hint: wrong.hint })
    }

    /// Where to mend it.
    #[must_use]
    pub fn origin(&self) -> &Origin {
        &self.0.origin
    }

    /// The key, as `apis.emr.listen`; empty when it concerns none.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.0.path
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Something that works, and that its user may not want.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning(Finding);

impl Warning {
    pub(super) fn new(origin: Origin, path: impl Into<String>, wrong: Diagnostic) -> Self {
        Self(Finding { origin, path: path.into(), message: wrong.message, hint: wrong.hint })
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A message before it has a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Diagnostic {
    message: String,
    hint: Option<String>,
}

impl Diagnostic {
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None }
    }

    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds "did you mean", when one of the names known is near.
    pub(super) fn did_you_mean<'a>(self, written: &str, known: impl IntoIterator<Item = &'a str>) -> Self {
        match nearest(written, known) {
            Some(name) => self.hint(format!("did you mean `{name}`?")),
            None => self,
        }
    }
}

/// A value that is no secret, fit for a terminal and for one line.
pub(super) fn shown(text: &str) -> String {
    const MOST: usize = 60;
    if text.chars().count() > MOST {
        format!("`{}…`", printable(&text.chars().take(MOST).collect::<String>()))
    } else {
        format!("`{}`", printable(text))
    }
}

/// Without control characters, which a terminal might obey.
pub(super) fn printable(text: &str) -> String {
    text.chars()
        .flat_map(|c| if c.is_control() { c.escape_default().to_string() } else { c.to_string() }.chars().collect::<Vec<_>>())
        .collect()
}

/// The name that was most likely meant; at most a third of it may differ.
fn nearest<'a>(written: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let written = written.to_lowercase().replace('-', "_");
    known
        .into_iter()
        .map(|name| (distance(&written, &name.to_lowercase().replace('-', "_")), name))
        .filter(|(distance, name)| *distance <= (own_length(&written, name) / 3).clamp(1, 4))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// How long a name is without the words that both begin with: `CAREPORTALS_` makes no two variables alike.
fn own_length(written: &str, name: &str) -> usize {
    let name = name.to_lowercase().replace('-', "_");
    let shared: String =
        written.chars().zip(name.chars()).take_while(|(left, right)| left == right).map(|(letter, _)| letter).collect();
    name.len() - shared.rfind('_').map_or(0, |at| at + 1)
}

/// Insertions, deletions, replacements and swaps of neighbours (optimal string alignment). Long names are cut: nobody
/// means a key by a text of hundreds of letters.
fn distance(left: &str, right: &str) -> usize {
    let left: Vec<char> = left.chars().take(64).collect();
    let right: Vec<char> = right.chars().take(64).collect();
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=right.len()).collect();
    for (i, l) in left.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, r) in right.iter().enumerate() {
            let mut least = (above[j] + usize::from(l != r)).min(above[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *l == right[j - 1] && left[i - 1] == *r {
                least = least.min(before[j - 1] + 1);
            }
            row.push(least);
        }
        before = std::mem::replace(&mut above, row);
    }
    above[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_finger_finds_the_name_and_nonsense_finds_none() {
        let known = ["listen", "upstream", "login_url", "log"];
        for (written, expected) in [
            ("listne", Some("listen")),
            ("Listen", Some("listen")),
            ("login-url", Some("login_url")),
            ("upstrem", Some("upstream")),
            ("lgo", Some("log")),
            ("banana", None),
            ("login_xyz", None),
        ] {
            assert_eq!(nearest(written, known), expected, "{written}");
        }
    }

    #[test]
    fn a_fault_prints_its_place_its_key_and_its_hint() {
        let file = Origin::File { path: "a/b.toml".into(), line: 12 };
        let fault = Fault::new(file, "apis.emr.listen", Diagnostic::new("bad").hint("better"));
        assert_eq!(fault.to_string(), "a/b.toml:12: apis.emr.listen: bad\n  hint: better");
        let fault = Fault::new(Origin::Variable("CAREPORTALS_LISTEN".into()), "apis.default.listen", Diagnostic::new("bad"));
        assert_eq!(fault.to_string(), "CAREPORTALS_LISTEN: bad");
    }

    #[test]
    fn what_a_terminal_might_obey_is_escaped() {
        assert_eq!(shown("a\u{1b}[2Jb\n"), "`a\\u{1b}[2Jb\\n`");
    }
}
