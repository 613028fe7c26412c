//! Faults and warnings: what is wrong with the settings, and where.
//!
//! Pure. A message never holds a secret: it repeats only values of keys that are not secret, and those by [`shown`].

use std::{fmt, path::PathBuf};

/// Letters of a value that a message repeats.
const SHOWN_MAX: usize = 60;
/// Letters of two names that are compared: nobody means a key by a text of hundreds of letters.
const COMPARED_MAX: usize = 64;

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ValueOrigin {
    /// The value stands in the settings file.
    File {
        /// Its path, as it was given.
        path: PathBuf,
        /// Counted from 1; 0 when no single line is meant.
        line: usize,
    },
    /// The variable of this name gives the value.
    Variable(String),
    /// The flag of this name gives the value.
    Flag(String),
    /// The value is built in.
    Default,
    /// The value follows from the API's preset.
    Preset,
}

impl ValueOrigin {
    /// Whether a user wrote the value.
    pub(super) fn is_written(&self) -> bool {
        !matches!(self, Self::Default | Self::Preset)
    }
}

impl fmt::Display for ValueOrigin {
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

/// What is said of a key that there is not.
pub(super) const NO_SUCH_KEY: &str = "no such key";
/// What is said of a variable that there is not: as a warning with its end, `IGNORED`.
pub(super) const NO_SUCH_VARIABLE: &str = "no such variable; ignored";
const IGNORED: &str = "; ignored";

/// A fault: the daemon does not start, or does not reload, with it.
pub type Fault = Finding;

/// A warning: the settings work, but perhaps not as their user wants.
pub type Warning = Finding;

/// A message about a setting, with its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The user can correct it there.
    pub origin: ValueOrigin,
    pub(super) path: Box<str>,
    pub(super) wrong: Diagnostic,
}

impl Finding {
    /// `path`: the key, such as `apis.emr.listen`; empty when it concerns none.
    pub(super) fn new(origin: ValueOrigin, path: impl Into<String>, wrong: Diagnostic) -> Self {
        Self { origin, path: path.into().into_boxed_str(), wrong }
    }

    /// Its line in the file, by which findings are told from top to bottom; the others come behind, in the order in which they
    /// were found.
    pub(super) fn line(&self) -> usize {
        if let ValueOrigin::File { line, .. } = self.origin { line } else { usize::MAX }
    }

    /// Whether it says that `key` is meant.
    pub(super) fn suggests(&self, key: &str) -> bool {
        self.wrong.hint.as_ref().is_some_and(|hint| hint.contains(&format!("did you mean `{key}`")))
    }

    /// Whether it is about a variable that may have been meant for the settings file.
    pub(super) fn is_about_settings_file(&self) -> bool {
        let ValueOrigin::Variable(name) = &self.origin else { return false };
        let is_like = |word: &&str| name.to_lowercase().contains(word);
        self.path.is_empty() && (self.suggests("CAREPORTALS_CONFIG") || ["conf", "cfg", "settings"].iter().any(is_like))
    }

    /// Whether it is about the control socket, or about a name that may have been meant for it: outside accounts and APIs any.
    pub(super) fn may_mean_control_socket(&self) -> bool {
        let is_of_entry = ["accounts.", "apis."].iter().any(|group| self.path.starts_with(group));
        self.names_control_socket() || (self.wrong.message == NO_SUCH_KEY && !is_of_entry)
    }

    /// Whether it is about the control socket, or about a name like that.
    pub(super) fn names_control_socket(&self) -> bool {
        let variable = if let ValueOrigin::Variable(name) = &self.origin { name.as_str() } else { "" };
        let key = self.path.rsplit('.').next().unwrap_or_default();
        let names = [variable, key].map(str::to_lowercase);
        let is_other =
            |name: &String| ["socket_mode", "socket_group", "control_allow_uids"].iter().any(|other| name.ends_with(other));
        let is_like = |name: &String| ["sock", "control", "ctl", "ctrl"].iter().any(|word| name.contains(word));
        let is_meant = ["control_socket", "CAREPORTALS_CONTROL_SOCKET"].iter().any(|meant| self.suggests(meant));
        is_meant || names.iter().any(|name| is_like(name) && !is_other(name))
    }

    /// The same where a command can't go on with it, with something else that helps.
    pub(super) fn ends_command(mut self, other: &str) -> Self {
        self.wrong.message = self.wrong.message.strip_suffix(IGNORED).unwrap_or(&self.wrong.message).to_owned();
        self.wrong.hint = Some(self.wrong.hint.map_or_else(|| other.to_owned(), |hint| format!("{hint}; or {other}")));
        self
    }

    /// `path`: the key that the variable sets; empty when it sets none.
    pub(super) fn of_variable(name: &str, path: &str, wrong: Diagnostic) -> Self {
        Self::new(ValueOrigin::Variable(name.to_owned()), path, wrong)
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.origin.is_written() {
            write!(f, "{}: ", self.origin)?;
        }
        // The user wrote the variable or the flag, and may not know the key behind it.
        if !self.path.is_empty() && !matches!(self.origin, ValueOrigin::Variable(_) | ValueOrigin::Flag(_)) {
            write!(f, "{}: ", printable(&self.path))?;
        }
        let unmarked = |text: &str| printable(&text.replace(VALUE_MARK, ""));
        f.write_str(&unmarked(&self.wrong.message))?;
        if let Some(hint) = &self.wrong.hint {
            write!(f, "\n  hint: {}", unmarked(hint))?;
        }
        Ok(())
    }
}

/// A message with a hint, before it has a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Diagnostic {
    pub(super) message: String,
    pub(super) hint: Option<String>,
    /// What else is wrong with the same value.
    pub(super) further: Vec<Self>,
}

impl Diagnostic {
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None, further: Vec::new() }
    }

    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Puts what the message is about before it.
    pub(super) fn about(mut self, subject: impl fmt::Display) -> Self {
        self.message = format!("{subject}: {}", self.message);
        self
    }

    /// Adds "did you mean" when a known value is near.
    pub(super) fn did_you_mean<'a>(self, written: &str, known: impl IntoIterator<Item = &'a str>) -> Self {
        match nearest(written, known.into_iter()) {
            Some(name) => self.hint(format!("did you mean {}?", shown(name))),
            None => self,
        }
    }
}

/// Collects the values, or else all that is wrong with them.
pub(super) fn all<T>(outcomes: impl Iterator<Item = Result<T, Diagnostic>>) -> Result<Vec<T>, Diagnostic> {
    let mut wrong = Vec::new();
    let values = outcomes.filter_map(|outcome| outcome.map_err(|found| wrong.push(found)).ok()).collect();
    let mut wrong = wrong.into_iter();
    wrong.next().map_or(Ok(values), |first| Err(Diagnostic { further: wrong.collect(), ..first }))
}

/// Returns a diagnostic unless the condition holds.
macro_rules! ensure {
    ($condition:expr, $message:expr $(, hint = $hint:expr)?) => {
        if !$condition {
            return Err(Diagnostic::new($message)$(.hint($hint))?);
        }
    };
}

pub(super) use ensure;

/// It stands before a value in backticks, and is not printed: other words there name keys, which a variable's fault spells anew.
const VALUE_MARK: char = '\u{1}';

/// Quotes a value that is not secret, or a name that the user chose, fit for a terminal and for one line. Of a URL it shows no
/// credentials.
pub(super) fn shown(text: &str) -> String {
    let host = text.rsplit_once('@').filter(|(before, _)| before.contains("://")).map(|(_, host)| format!("[redacted]@{host}"));
    let text = host.as_deref().unwrap_or(text);
    let kept: String = text.chars().take(SHOWN_MAX).collect();
    let end = if kept.len() < text.len() { "…" } else { "" };
    format!("`{VALUE_MARK}{}{end}`", printable(&kept))
}

/// Escapes control characters, which a terminal might obey.
#[must_use]
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { c.escape_default().to_string() } else { c.to_string() }).collect()
}

/// Words of other programs, and the keys that mean the same here.
const SYNONYMS: &str = "log_level=log loglevel=log port=listen host=listen bind=listen api_url=upstream base_url=upstream url=upstream \
                        user=username pass=password org=organization telemetry=telemetry_listen control=control_socket \
                        credentials=credentials_dir credentials_directory=credentials_dir";

/// Finds the name that was most likely meant: a synonym's, or one of which at most a third differs.
pub(super) fn nearest<N: AsRef<str>>(written: &str, known: impl Iterator<Item = N>) -> Option<N> {
    let folded = |name: &str| name.to_lowercase().replace('-', "_");
    let cut = |name: &str| folded(name).chars().take(COMPARED_MAX).collect::<String>();
    // A key alone, or behind the beginning of a variable's name.
    let key = folded(written);
    let at = key.rfind("__").map_or_else(|| if key.starts_with("careportals_") { "careportals_".len() } else { 0 }, |at| at + 2);
    let synonym = SYNONYMS.split(' ').filter_map(|pair| pair.split_once('=')).find(|(word, _)| key[at..] == **word);
    let written = synonym.map_or_else(|| written.to_owned(), |(_, meant)| format!("{}{meant}", &key[..at]));
    known
        .map(|name| (strsim::osa_distance(&cut(&written), &cut(name.as_ref())), name))
        .filter(|(distance, name)| *distance <= (own_length(&folded(&written), &folded(name.as_ref())) / 3).clamp(1, 4))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// Counts the letters of a name without the words that both begin with: `CAREPORTALS_` makes no two variables alike.
fn own_length(written: &str, name: &str) -> usize {
    let shared = written.bytes().zip(name.bytes()).take_while(|(left, right)| left == right).count();
    name.len() - name.as_bytes()[..shared].iter().rposition(|byte| *byte == b'_').map_or(0, |at| at + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_finger_finds_the_name_and_nonsense_finds_none() {
        let known = ["listen", "upstream", "login_url", "log", "login_extra"];
        for (written, expected) in [
            ("listne", Some("listen")),
            ("Listen", Some("listen")),
            ("login-url", Some("login_url")),
            ("upstrem", Some("upstream")),
            ("lgo", Some("log")),
            // A third of six and of eight letters, and more than a third of the five behind `login_`.
            ("lsitne", Some("listen")),
            ("uptsraem", Some("upstream")),
            ("login_xetar", None),
            ("log_level", Some("log")),
            ("url", Some("upstream")),
            ("curl", None),
            ("banana", None),
            ("login_xyz", None),
        ] {
            assert_eq!(nearest(written, known.into_iter()), expected, "{written}");
        }
    }

    #[test]
    fn a_fault_prints_its_place_its_key_and_its_hint() {
        let file = ValueOrigin::File { path: "a/b.toml".into(), line: 12 };
        let fault = Fault::new(file, "apis.emr.listen", Diagnostic::new("bad").hint("better"));
        assert_eq!(fault.to_string(), "a/b.toml:12: apis.emr.listen: bad\n  hint: better");
        let fault = Fault::new(ValueOrigin::Variable("CAREPORTALS_LISTEN".into()), "apis.default.listen", Diagnostic::new("bad"));
        assert_eq!(fault.to_string(), "CAREPORTALS_LISTEN: bad");
    }

    /// A value as a fault prints it.
    fn said(value: &str) -> String {
        Fault::new(ValueOrigin::Default, "", Diagnostic::new(shown(value))).to_string()
    }

    #[test]
    fn of_a_url_only_the_host_is_repeated() {
        assert_eq!(said("http://ann:s3/cr@et@proxy:1"), "`[redacted]@proxy:1`");
        assert_eq!(said("GET /a@b"), "`GET /a@b`");
    }

    #[test]
    fn what_a_terminal_might_obey_is_escaped() {
        assert_eq!(said("a\u{1b}[2Jb\n\u{1}"), "`a\\u{1b}[2Jb\\n\\u{1}`");
    }

    #[test]
    fn a_value_is_cut_where_it_is_longer_than_a_message_repeats() {
        for (length, cut) in [(59, ""), (60, ""), (61, "…"), (62, "…")] {
            assert_eq!(said(&"é".repeat(length)), format!("`{}{cut}`", "é".repeat(length.min(60))));
        }
    }
}
