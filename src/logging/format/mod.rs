//! How a line looks: times, escaping, and tracing's events as text or JSON.
//!
//! Depends on `clock`, and on `text` for how lines begin. Guarantees: one event is one line, whatever is in it.

use std::{
    fmt::{self, Write as _},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    field::RecordFields,
    fmt::{FmtContext, FormatEvent, FormatFields, FormattedFields, format::Writer},
    registry::LookupSpan,
};

use super::text::Shape;
use crate::clock::Clock;

/// `2026-01-02T03:04:05.678901Z` (RFC 3339), always of the same length.
#[derive(Clone, Copy)]
pub(super) struct Timestamp {
    text: [u8; 27],
    /// Of what `text` says; the day is worked out only when it changes.
    second: u64,
}

impl Timestamp {
    pub(super) const fn new() -> Self {
        Self { text: *b"1970-01-01T00:00:00.000000Z", second: 0 }
    }

    /// Writes `time` over what was there. Before 1970 and after 9999 the nearest time between is shown.
    pub(super) fn set(&mut self, time: SystemTime) -> &str {
        let since_epoch = time.duration_since(UNIX_EPOCH).unwrap_or_default().min(LAST);
        if since_epoch.as_secs() != self.second {
            self.second = since_epoch.as_secs();
            self.set_second();
        }
        self.put(20, 6, u64::from(since_epoch.subsec_micros()));
        // Only ASCII is ever put into it.
        std::str::from_utf8(&self.text).unwrap_or_default()
    }

    fn set_second(&mut self) {
        let (year, month, day) = civil(self.second / 86_400);
        let of_day = self.second % 86_400;
        let parts =
            [(0, 4, year), (5, 2, month), (8, 2, day), (11, 2, of_day / 3600), (14, 2, of_day / 60 % 60), (17, 2, of_day % 60)];
        for (at, width, value) in parts {
            self.put(at, width, value);
        }
    }

    fn put(&mut self, at: usize, width: usize, mut value: u64) {
        for digit in self.text[at..at + width].iter_mut().rev() {
            *digit = b'0' + u8::try_from(value % 10).unwrap_or(0);
            value /= 10;
        }
    }
}

/// 9999-12-31T23:59:59.999999999.
const LAST: Duration = Duration::new(253_402_300_799, 999_999_999);

/// Year, month and day of a number of days since 1970, in the Gregorian calendar.
///
/// Counted in years that begin in March, so that a leap day is the last of its year.
fn civil(days: u64) -> (u64, u64, u64) {
    const FOUR_CENTURIES: u64 = 146_097;
    const CENTURY: u64 = 36_524;
    const FOUR_YEARS: u64 = 1461;
    // From 0000-03-01 to 1970-01-01.
    let days = days + 719_468;
    let rest = days % FOUR_CENTURIES;
    // The fourth century is a day longer than the others, the fourth year likewise.
    let centuries = (rest / CENTURY).min(3);
    let rest = rest - centuries * CENTURY;
    let quads = rest / FOUR_YEARS;
    let rest = rest - quads * FOUR_YEARS;
    let years = (rest / 365).min(3);
    let day_of_year = rest - years * 365;
    // Months of 31, 30, 31, 30, 31 days, over and over.
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let year = days / FOUR_CENTURIES * 400 + centuries * 100 + quads * 4 + years;
    if month < 10 { (year, month + 3, day) } else { (year + 1, month - 9, day) }
}

/// `time` as RFC 3339, with microseconds, in UTC.
#[must_use]
pub fn rfc3339(time: SystemTime) -> String {
    Timestamp::new().set(time).to_owned()
}

/// Escapes what would end a line or a quoted string.
pub(super) struct Escaped<'a, W: ?Sized> {
    to: &'a mut W,
    quoted: bool,
    /// The indentation of a further line is being left out.
    unindenting: bool,
}

impl<'a, W: fmt::Write + ?Sized> Escaped<'a, W> {
    /// What stands between quotes, as JSON has it.
    pub(super) fn quoted(to: &'a mut W) -> Self {
        Self { to, quoted: true, unindenting: false }
    }

    /// What stands by itself: several lines become clauses of one.
    pub(super) fn bare(to: &'a mut W) -> Self {
        Self { to, quoted: false, unindenting: false }
    }

    fn escape(&mut self, character: char) -> fmt::Result {
        match (character, self.quoted) {
            ('\n', false) => {
                self.unindenting = true;
                self.to.write_str("; ")
            }
            ('\n', true) => self.to.write_str("\\n"),
            ('\r', _) => self.to.write_str("\\r"),
            ('\t', _) => self.to.write_str("\\t"),
            ('"', true) => self.to.write_str("\\\""),
            ('\\', true) => self.to.write_str("\\\\"),
            _ => write!(self.to, "\\u{:04x}", u32::from(character)),
        }
    }
}

impl<W: fmt::Write + ?Sized> fmt::Write for Escaped<'_, W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let quoted = self.quoted;
        // Controls, those of C1 too, and the two separators that some readers take for the end of a line: all of them
        // lie below U+10000, so four digits hold them.
        let special = |c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') || (quoted && matches!(c, '"' | '\\'));
        let mut plain = 0;
        for (at, character) in text.char_indices() {
            if self.unindenting {
                if character == ' ' {
                    plain = at + 1;
                    continue;
                }
                self.unindenting = false;
            }
            if special(character) {
                self.to.write_str(&text[plain..at])?;
                self.escape(character)?;
                plain = at + character.len_utf8();
            }
        }
        self.to.write_str(&text[plain..])
    }
}

/// Whether `text` can stand after `key=` and still be told from what follows.
pub(super) fn is_bare(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'=' | b'\\'))
}

/// Our form of tracing's events and fields.
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

/// Fields of spans: they follow those of the event.
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

/// Writes each field with whatever separates it from what stands before.
struct Fields<'a, W> {
    to: Counted<'a, W>,
    shape: Shape,
    /// What is still to be written before the first field after the message.
    gap: &'static str,
    outcome: fmt::Result,
}

impl<'a, W: fmt::Write> Fields<'a, W> {
    fn new(to: &'a mut W, shape: Shape) -> Self {
        Self { to: Counted { to, characters: 0 }, shape, gap: "", outcome: Ok(()) }
    }

    fn key(&mut self, name: &str) -> fmt::Result {
        if self.shape == Shape::Json {
            self.to.write_str(",\"")?;
            Escaped::quoted(&mut self.to).write_str(name)?;
            return self.to.write_str("\":");
        }
        if name == MESSAGE {
            return Ok(());
        }
        let paint = self.shape.key();
        write!(self.to, "{} {paint}{name}={paint:#}", std::mem::take(&mut self.gap))
    }

    /// Numbers and truth values.
    fn bare(&mut self, field: &Field, value: fmt::Arguments<'_>) {
        self.outcome = self.outcome.and_then(|()| self.key(field.name())).and_then(|()| self.to.write_fmt(value));
    }

    fn escaped(&mut self, field: &Field, value: fmt::Arguments<'_>, quoted: bool) -> fmt::Result {
        self.outcome?;
        self.key(field.name())?;
        if quoted {
            self.to.write_char('"')?;
            Escaped::quoted(&mut self.to).write_fmt(value)?;
            return self.to.write_char('"');
        }
        let before = self.to.characters;
        Escaped::bare(&mut self.to).write_fmt(value)?;
        if field.name() == MESSAGE {
            self.gap = self.shape.gap(self.to.characters - before);
        }
        Ok(())
    }
}

const MESSAGE: &str = "message";

/// Counts characters on their way.
struct Counted<'a, W> {
    to: &'a mut W,
    characters: usize,
}

impl<W: fmt::Write> fmt::Write for Counted<'_, W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.characters += text.chars().count();
        self.to.write_str(text)
    }
}

impl<W: fmt::Write> Visit for Fields<'_, W> {
    /// Also whatever has a `Display` and is recorded with `%`.
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if self.shape == Shape::Json || field.name() == MESSAGE {
            self.outcome = self.escaped(field, format_args!("{value:?}"), self.shape == Shape::Json);
        } else {
            // Whether it needs quotes shows only when it is there.
            self.record_str(field, &format!("{value:?}"));
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        let quoted = self.shape == Shape::Json || (field.name() != MESSAGE && !is_bare(value));
        self.outcome = self.escaped(field, format_args!("{value}"), quoted);
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
            // JSON has no number for it.
            self.record_str(field, &value.to_string());
        }
    }
}

#[cfg(test)]
mod tests;
