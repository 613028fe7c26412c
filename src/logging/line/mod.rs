//! Log lines: how one begins, its time, its escapes; and the access line (`access`).

mod access;

use std::{
    fmt,
    io::Write as _,
    str,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tracing::Level;

pub use access::{AccessLine, AccessLog, AccessWriter, TARGET};
pub(super) use access::{AccessOutput, Wanted};

/// The last time that has four digits of a year: 9999-12-31T23:59:59.999999999.
const LAST: Duration = Duration::new(253_402_300_799, 999_999_999);
const RESET: &str = "\x1b[0m";
const DIM: &str = "\x1b[2m";
const RED: &str = "\x1b[31m";
const GREEN: &str = "\x1b[32m";
const YELLOW: &str = "\x1b[33m";
const BLUE: &str = "\x1b[34m";

/// The width of the column of messages; fields begin after it.
const MESSAGE_WIDTH: usize = 16;

/// How many characters of a time text has: milliseconds are enough for people.
const SHOWN_OF_TIME: usize = 23;
/// The characters of a time that a terminal has: the time of day.
const TIME_OF_DAY: std::ops::Range<usize> = 11..19;

/// As many spaces as that column is wide.
const SPACES: &str = "                ";

/// The form of a line, by its reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// Text for people at a terminal: `03:04:05 INFO  message          key=value`.
    Terminal { colour: bool },
    /// Text elsewhere: `2026-01-02T03:04:05.678Z INFO  message          key=value`.
    Text,
    /// Text for systemd's journal, which adds the time: `<6>message key=value`.
    Journal,
    /// JSON for programs: one object per line.
    Json,
}

impl Shape {
    /// Writes what stands before the message. `time`: the text of a [`Timestamp`].
    pub(super) fn open(self, time: &str, level: Level, to: &mut impl fmt::Write) -> fmt::Result {
        match self {
            Self::Terminal { colour } => {
                let (time, dim, bright) = (time_of_day(time), Paint::new(colour, DIM), Paint::new(colour, of_level(level)));
                write!(to, "{dim}{time}{dim:#} {bright}{level:<5}{bright:#} ")
            }
            Self::Text => write!(to, "{}Z {level:<5} ", time.get(..SHOWN_OF_TIME).unwrap_or(time)),
            Self::Journal => write!(to, "<{}>", priority(level)),
            // Without `write!`, since each request has a line.
            Self::Json => [r#"{"timestamp":""#, time, r#"","level":""#, level.as_str(), "\""]
                .into_iter()
                .try_for_each(|part| to.write_str(part)),
        }
    }

    /// The padding between a message of this many characters and the first field.
    pub(super) fn gap(self, message: usize) -> &'static str {
        match self {
            Self::Terminal { .. } | Self::Text => &SPACES[message.min(MESSAGE_WIDTH)..],
            Self::Journal | Self::Json => "",
        }
    }

    /// The colour of a key.
    pub(super) fn key(self) -> Paint {
        Paint::new(self == Self::Terminal { colour: true }, DIM)
    }
}

fn time_of_day(time: &str) -> &str {
    time.get(TIME_OF_DAY).unwrap_or(time)
}

/// A colour, or none. `{}` switches it on, `{:#}` off.
#[derive(Clone, Copy)]
pub(super) struct Paint(&'static str);

impl Paint {
    fn new(colour: bool, code: &'static str) -> Self {
        Self(if colour { code } else { "" })
    }
}

impl fmt::Display for Paint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if f.alternate() && !self.0.is_empty() { RESET } else { self.0 })
    }
}

fn of_level(level: Level) -> &'static str {
    match level {
        Level::ERROR => RED,
        Level::WARN => YELLOW,
        Level::INFO => GREEN,
        _ => BLUE,
    }
}

/// The priority in syslog's numbers: error, warning, informational, debug.
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}

/// A time like `2026-01-02T03:04:05.678901Z` (RFC 3339), always of the same length.
#[derive(Clone, Copy)]
pub(super) struct Timestamp {
    text: [u8; 27],
    /// The second that `text` shows. Date and time are formatted only when it changes.
    second: u64,
}

impl Timestamp {
    pub(super) const fn new() -> Self {
        Self { text: *b"1970-01-01T00:00:00.000000Z", second: 0 }
    }

    /// Shows `time`. For a time before 1970 or after 9999 it shows the nearest one in between.
    pub(super) fn set(&mut self, time: SystemTime) -> &str {
        let since_epoch = time.duration_since(UNIX_EPOCH).unwrap_or_default().min(LAST);
        if since_epoch.as_secs() != self.second {
            self.second = since_epoch.as_secs();
            self.set_second();
        }
        self.set_micros(since_epoch.subsec_micros());
        // It holds only ASCII.
        std::str::from_utf8(&self.text).unwrap_or_default()
    }

    fn set_second(&mut self) {
        let time = UNIX_EPOCH + Duration::from_secs(self.second);
        let mut shown = *b"1970-01-01T00:00:00Z";
        // It fits: up to 9999, a time takes exactly this much.
        let _ = write!(&mut shown[..], "{}", humantime::format_rfc3339_seconds(time));
        let digits = shown.len() - 1;
        self.text[..digits].copy_from_slice(&shown[..digits]);
    }

    fn set_micros(&mut self, mut micros: u32) {
        for digit in self.text[20..26].iter_mut().rev() {
            *digit = b'0' + u8::try_from(micros % 10).unwrap_or(0);
            micros /= 10;
        }
    }
}

/// Formats a time as RFC 3339, with microseconds, in UTC.
#[must_use]
pub fn rfc3339(time: SystemTime) -> String {
    Timestamp::new().set(time).to_owned()
}

/// Reads a time in RFC 3339 and UTC, as [`rfc3339`] writes it. `None` when `text` is something else.
#[must_use]
pub fn parse_rfc3339(text: &str) -> Option<SystemTime> {
    humantime::parse_rfc3339(text).ok()
}

/// Appends `text` as JSON has it between quotes.
pub(super) fn escape_quoted(text: &str, to: &mut impl fmt::Write) -> fmt::Result {
    escape(text, true, to)
}

/// Appends `text` for a line without quotes: several lines become one, with semicolons and without indentation.
pub(super) fn escape_bare(text: &str, to: &mut impl fmt::Write) -> fmt::Result {
    let mut lines = text.split('\n');
    escape(lines.next().unwrap_or_default(), false, to)?;
    lines.try_for_each(|line| {
        to.write_str("; ")?;
        escape(line.trim_start_matches(' '), false, to)
    })
}

/// Escapes characters that would end a line or a quoted string.
fn escape(text: &str, quoted: bool, to: &mut impl fmt::Write) -> fmt::Result {
    // These are controls, with those of C1, and the two separators that some readers take for the end of a line. All of them lie
    // below U+10000, so four digits are enough.
    let special = |c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') || (quoted && matches!(c, '"' | '\\'));
    let mut plain = 0;
    for (at, character) in text.char_indices().filter(|(_, character)| special(*character)) {
        to.write_str(&text[plain..at])?;
        match character {
            '\n' => to.write_str("\\n"),
            '\r' => to.write_str("\\r"),
            '\t' => to.write_str("\\t"),
            '"' | '\\' => write!(to, "\\{character}"),
            _ => write!(to, "\\u{:04x}", u32::from(character)),
        }?;
        plain = at + character.len_utf8();
    }
    to.write_str(&text[plain..])
}

/// Whether `text` needs no quotes after `key=`.
pub(super) fn is_bare(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| BARE[usize::from(byte)])
}

/// The bytes that need no quotes: a table, since each request has a line.
const BARE: [bool; 256] = {
    let (mut bare, mut byte) = ([false; 256], 0_u8);
    while byte.is_ascii() {
        bare[byte as usize] = byte.is_ascii_graphic() && !matches!(byte, b'"' | b'=' | b'\\');
        byte += 1;
    }
    bare
};

#[cfg(test)]
mod tests;
