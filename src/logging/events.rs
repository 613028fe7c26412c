//! Formats tracing's events as log lines.
//!
//! Guarantees: one event is one line, whatever it contains.

use std::{fmt, sync::Arc};

use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    field::RecordFields,
    fmt::{FmtContext, FormatEvent, FormatFields, FormattedFields, format::Writer},
    registry::LookupSpan,
};

use super::line::{Shape, Timestamp, escape_bare, escape_quoted, is_bare};
use crate::clock::Clock;

/// The name that tracing gives to the message of an event.
const MESSAGE: &str = "message";

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
            Shape::Terminal { .. } | Shape::Text | Shape::Journal => to.write_char('\n'),
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
