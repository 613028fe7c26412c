//! How a line begins: aligned and perhaps coloured for people, with a level for the journal, or as a JSON object for programs.
//!
//! Pure: no clock, no I/O.

use std::fmt;

use tracing::Level;

const RESET: &str = "\x1b[0m";
const DIM: &str = "\x1b[2m";
const RED: &str = "\x1b[31m";
const GREEN: &str = "\x1b[32m";
const YELLOW: &str = "\x1b[33m";
const BLUE: &str = "\x1b[34m";

/// The form of a line, by its reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// Text for people: `2026-01-02T03:04:05.678Z INFO  message      key=value`.
    Text { colour: bool },
    /// Text for systemd's journal, which adds the time: `<6>message key=value`.
    Journal,
    /// JSON for programs: one object per line.
    Json,
}

/// The width of the column of messages; fields begin after it.
const MESSAGE_WIDTH: usize = 16;

/// How many characters of a time people see: milliseconds are enough for them.
const SHOWN_OF_TIME: usize = 23;

const SPACES: &str = match std::str::from_utf8(&[b' '; MESSAGE_WIDTH]) {
    Ok(spaces) => spaces,
    Err(_) => "",
};

impl Shape {
    /// Writes what stands before the message. `time`: the text of a [`super::format::Timestamp`].
    pub(super) fn open(self, time: &str, level: Level, to: &mut impl fmt::Write) -> fmt::Result {
        match self {
            Self::Text { colour } => {
                let time = time.get(..SHOWN_OF_TIME).unwrap_or(time);
                let dim = Paint::new(colour, DIM);
                let bright = Paint::new(colour, of_level(level));
                write!(to, "{dim}{time}Z{dim:#} {bright}{level:<5}{bright:#} ")
            }
            Self::Journal => write!(to, "<{}>", priority(level)),
            Self::Json => write!(to, r#"{{"timestamp":"{time}","level":"{level}""#),
        }
    }

    /// The padding between a message of this many characters and the first field.
    pub(super) fn gap(self, message: usize) -> &'static str {
        match self {
            Self::Text { .. } => &SPACES[message.min(MESSAGE_WIDTH)..],
            Self::Journal | Self::Json => "",
        }
    }

    /// The colour of a key.
    pub(super) fn key(self) -> Paint {
        Paint::new(self == Self::Text { colour: true }, DIM)
    }

    /// The colour of an HTTP status.
    pub(super) fn status(self, status: u16) -> Paint {
        let code = match status {
            500.. => RED,
            400.. => YELLOW,
            _ => GREEN,
        };
        Paint::new(self == Self::Text { colour: true }, code)
    }
}

/// A colour, or none. `{}` switches it on, `{:#}` off.
#[derive(Clone, Copy)]
pub(super) struct Paint(&'static str);

impl Paint {
    fn new(colour: bool, code: &'static str) -> Self {
        Self(if colour { code } else { "" })
    }

    /// The escape sequence before the coloured text.
    pub(super) fn on(self) -> &'static str {
        self.0
    }

    /// The escape sequence after the coloured text.
    pub(super) fn off(self) -> &'static str {
        if self.0.is_empty() { "" } else { RESET }
    }
}

impl fmt::Display for Paint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if f.alternate() { self.off() } else { self.on() })
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
