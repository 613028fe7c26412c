//! Formats log lines: how a line begins, times, escaping, and tracing's events.
//!
//! Guarantees: one event is one line, whatever it contains.

use std::{
    fmt,
    io::Write as _,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    field::RecordFields,
    fmt::{FmtContext, FormatEvent, FormatFields, FormattedFields, format::Writer},
    registry::LookupSpan,
};

use crate::clock::Clock;

/// The last time that has four digits of a year: 9999-12-31T23:59:59.999999999.
const LAST: Duration = Duration::new(253_402_300_799, 999_999_999);
/// The name that tracing gives to the message of an event.
const MESSAGE: &str = "message";

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

/// As many spaces as that column is wide.
const SPACES: &str = "                ";

impl Shape {
    /// Writes what stands before the message. `time`: the text of a [`Timestamp`].
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
fn escape_bare(text: &str, to: &mut impl fmt::Write) -> fmt::Result {
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
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'=' | b'\\'))
}

/// Formats tracing's events and fields.
#[derive(Clone)]
pub(super) struct Events {
    pub(super) shape: Shape,
    pub(super) clock: Arc<dyn Clock>,
}

impl<S, N> FormatEvent<S, N> for Events
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut to: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut timestamp = Timestamp::new();
        let time = timestamp.set(self.clock.now().wall);
        let metadata = event.metadata();
        self.shape.open(time, *metadata.level(), &mut to)?;
        let mut fields = Fields::new(&mut to, self.shape);
        event.record(&mut fields);
        fields.outcome?;
        for span in context.event_scope().into_iter().flatten() {
            if let Some(fields) = span.extensions().get::<FormattedFields<N>>() {
                to.write_str(fields)?;
            }
        }
        match self.shape {
            Shape::Text { .. } | Shape::Journal => to.write_char('\n'),
            Shape::Json => writeln!(to, r#","target":"{}"}}"#, metadata.target()),
        }
    }
}

/// Formats the fields of spans, which follow those of the event.
impl<'writer> FormatFields<'writer> for Events {
    fn format_fields<R: RecordFields>(&self, mut to: Writer<'writer>, recorded: R) -> fmt::Result {
        let mut fields = Fields::new(&mut to, self.shape);
        recorded.record(&mut fields);
        fields.outcome
    }

    fn add_fields(&self, current: &'writer mut FormattedFields<Self>, recorded: &tracing::span::Record<'_>) -> fmt::Result {
        self.format_fields(current.as_writer(), recorded)
    }
}

/// Writes fields, each with its separator.
struct Fields<'a, W> {
    to: &'a mut W,
    shape: Shape,
    /// The padding between the message and the first field, until it is written.
    gap: &'static str,
    outcome: fmt::Result,
}

impl<'a, W: fmt::Write> Fields<'a, W> {
    fn new(to: &'a mut W, shape: Shape) -> Self {
        Self { to, shape, gap: "", outcome: Ok(()) }
    }

    fn key(&mut self, name: &str) -> fmt::Result {
        if self.shape == Shape::Json {
            self.to.write_str(",\"")?;
            escape_quoted(name, self.to)?;
            return self.to.write_str("\":");
        }
        let paint = self.shape.key();
        write!(self.to, "{} {paint}{name}={paint:#}", std::mem::take(&mut self.gap))
    }

    /// Writes a number or a truth value.
    fn bare(&mut self, field: &Field, value: fmt::Arguments<'_>) {
        self.outcome = self.outcome.and_then(|()| self.key(field.name())).and_then(|()| self.to.write_fmt(value));
    }

    fn text(&mut self, name: &str, value: &str) -> fmt::Result {
        if name == MESSAGE && self.shape != Shape::Json {
            let mut message = String::new();
            escape_bare(value, &mut message)?;
            self.gap = self.shape.gap(message.chars().count());
            return self.to.write_str(&message);
        }
        self.key(name)?;
        if self.shape != Shape::Json && is_bare(value) {
            return self.to.write_str(value);
        }
        self.to.write_char('"')?;
        escape_quoted(value, self.to)?;
        self.to.write_char('"')
    }
}

impl<W: fmt::Write> Visit for Fields<'_, W> {
    /// Writes a value that was recorded with `?` or `%`.
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.outcome = self.outcome.and_then(|()| self.text(field.name(), value));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.bare(field, format_args!("{value}"));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.bare(field, format_args!("{value}"));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.bare(field, format_args!("{value}"));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        if value.is_finite() {
            self.bare(field, format_args!("{value}"));
        } else {
            // JSON has no such number.
            self.record_str(field, &value.to_string());
        }
    }
}

#[cfg(test)]
mod tests;
