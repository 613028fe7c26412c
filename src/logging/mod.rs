//! Logs: their filter, their formats, and a thread that writes them to a standard stream.
//!
//! The only state is a [`Logging`] and tracing's own subscriber. Guarantees: a request never waits for the reader of the log; a
//! dependency's events below `warn` are never written, whatever the filter says, since they may hold header values; of a request
//! only the members of [`AccessLine`] are written.

mod events;
mod line;
mod output;
mod queue;
mod reader;

use std::{
    fmt::Write as _,
    io::{self, Write},
    sync::Arc,
    time::Duration,
};

use thiserror::Error;
use tracing::{Dispatch, Level, Metadata, Subscriber, dispatcher, level_filters::LevelFilter};
use tracing_subscriber::{
    Layer, Registry,
    filter::Targets,
    fmt,
    layer::{Context, SubscriberExt as _},
    reload,
};

pub use line::{AccessLine, AccessLog, AccessWriter, TARGET as ACCESS_TARGET, parse_rfc3339, rfc3339};
pub use output::BlockingOutput;
pub use reader::Reader;

use crate::{
    clock::{Clock, SystemClock},
    config::{Log, LogFormat},
};
use events::Events;
use line::{AccessOutput, Shape, Timestamp, Wanted};
use queue::{Capacity, Queue};

/// How long the end of the process waits for the log's stream.
pub const PATIENCE: Duration = Duration::from_millis(250);

/// The bounds of the queue, which holds some seconds of a busy daemon's lines.
const CAPACITY: Capacity = Capacity { bytes: 1024 * 1024, entries: 1024 };

const DROPPED: &str = "log lines were dropped: the log's stream did not take them";

/// Why logs could not be started.
#[derive(Debug, Error)]
pub enum LogError {
    /// The filter is not in tracing's syntax.
    #[error("not a log filter: {0}")]
    Filter(String),
    /// The log thread did not start.
    #[error("the log thread did not start: {0}")]
    Thread(#[source] io::Error),
    /// This process has a logger already.
    #[error("logs have been started before")]
    Started,
}

/// The logs. Dropping it writes the lines that are left, for [`PATIENCE`] at most. Later lines are lost, so it is dropped last,
/// after every [`AccessWriter`].
pub struct Logging {
    control: LogControl,
    /// Starts the log thread; `None` once it was started.
    thread: Option<Start>,
}

type Start = Box<dyn FnOnce() -> io::Result<()> + Send>;

/// Changes the filter of running logs. Clones control the same logs.
#[derive(Clone)]
pub struct LogControl {
    dispatch: Dispatch,
    filter: reload::Handle<Levels, Registry>,
    access: Arc<AccessOutput>,
}

/// Makes this process's events go to `writer`, once [`Logging::write`] has started the log thread.
pub fn start(log: &Log, writer: impl Write + Send + 'static, reader: Reader) -> Result<Logging, LogError> {
    let logging = Logging::build(log, writer, reader, Arc::new(SystemClock))?;
    dispatcher::set_global_default(logging.dispatch().clone()).map_err(|_| LogError::Started)?;
    Ok(logging)
}

impl Logging {
    /// Builds logs without making them the process's own, for several daemons in one process.
    pub fn build(
        log: &Log,
        writer: impl Write + Send + 'static,
        reader: Reader,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, LogError> {
        let shape = match (log.format, reader) {
            (LogFormat::Json, _) | (LogFormat::Auto, Reader::Unknown) => Shape::Json,
            (_, Reader::Journal) => Shape::Journal,
            (_, Reader::Terminal { colour }) => Shape::Terminal { colour },
            (LogFormat::Text, Reader::Unknown) => Shape::Text,
        };
        let (levels, filter) = reload::Layer::new(Levels::parse(&log.filter)?);
        let report_clock = Arc::clone(&clock);
        let report = move |lines| dropped_line(shape, lines, report_clock.as_ref());
        let queue = Queue::new(CAPACITY);
        let events = Events { shape, clock };
        let layer = fmt::layer()
            .fmt_fields(events.clone())
            .event_format(events)
            .log_internal_errors(false)
            .with_writer(Arc::clone(&queue));
        let waiting = Arc::clone(&queue);
        let thread: Start = Box::new(move || waiting.start(writer, report));
        let access = Arc::new(AccessOutput::new(queue, shape, Wanted::Nothing));
        let dispatch = Dispatch::new(tracing_subscriber::registry().with(levels).with(layer));
        let control = LogControl { dispatch, filter, access };
        control.judge_access(log.access);
        Ok(Self { control, thread: Some(thread) })
    }

    /// Starts the log thread, which first writes the lines so far. Before that, the logs have no thread.
    pub fn write(&mut self) -> Result<(), LogError> {
        self.thread.take().map_or(Ok(()), |start| start()).map_err(LogError::Thread)
    }

    /// Changes the filter, for a reload of the settings.
    #[must_use]
    pub fn control(&self) -> &LogControl {
        &self.control
    }

    /// Makes writers of access lines, for the workers.
    #[must_use]
    pub fn access_log(&self) -> AccessLog {
        AccessLog::new(Arc::clone(&self.control.access))
    }

    /// Lines dropped so far, because the log's stream did not take them.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.control.access.queue.dropped()
    }

    /// The subscriber that gets the events.
    #[must_use]
    pub fn dispatch(&self) -> &Dispatch {
        &self.control.dispatch
    }
}

impl LogControl {
    /// Changes the filter, and whether there are access lines. A bad filter changes nothing; the format stays.
    pub fn adopt(&self, log: &Log) -> Result<(), LogError> {
        let levels = Levels::parse(&log.filter)?;
        // After a reload, tracing asks subscribers again which events they want, and it asks a single subscriber only while that
        // is the current one. The filter lives as long as `dispatch`, so the reload does not fail.
        let _ = dispatcher::with_default(&self.dispatch, || self.filter.reload(levels));
        self.judge_access(log.access);
        Ok(())
    }

    /// Applies the filter to access lines, which are no events but have a target. `asked`: the settings want access lines.
    fn judge_access(&self, asked: bool) {
        let passes = || {
            let warnings = tracing::enabled!(target: ACCESS_TARGET, Level::WARN);
            (warnings, tracing::enabled!(target: ACCESS_TARGET, Level::INFO))
        };
        self.access.want(match dispatcher::with_default(&self.dispatch, passes) {
            _ if !asked => Wanted::Nothing,
            (_, true) => Wanted::Everything,
            (true, false) => Wanted::Warnings,
            (false, false) => Wanted::Nothing,
        });
    }
}

impl Drop for Logging {
    fn drop(&mut self) {
        // A process that ends before it started the log thread has lines to write, too. If the thread fails, they are lost.
        let _ = self.write();
        self.control.access.queue.close(PATIENCE);
    }
}

/// The line that says how many lines were dropped.
fn dropped_line(shape: Shape, lines: u64, clock: &dyn Clock) -> Vec<u8> {
    let mut timestamp = Timestamp::new();
    let time = timestamp.set(clock.now().wall);
    let mut line = String::new();
    // Appending to a string can't fail.
    let _ = shape.open(time, Level::WARN, &mut line);
    let _ = match shape {
        Shape::Terminal { .. } | Shape::Text | Shape::Journal => writeln!(line, "{DROPPED} dropped={lines}"),
        Shape::Json => writeln!(line, r#","message":"{DROPPED}","dropped":{lines},"target":"{}"}}"#, module_path!()),
    };
    line.into_bytes()
}

/// The dependency whose warnings are about what a peer sends, one line for each frame, as many as the peer likes; some hold bytes
/// of the peer's choosing. What ends a connection is counted by `server`, or is an error of the request.
const SILENCED: &str = "h2";

/// The user's filter for our own events, and `warn` for those of dependencies.
struct Levels(Targets);

impl Levels {
    fn parse(filter: &str) -> Result<Self, LogError> {
        Log::parse_filter(filter).map(Self).ok_or_else(|| LogError::Filter(filter.to_owned()))
    }
}

fn is_ours(metadata: &Metadata<'_>) -> bool {
    let package = metadata.target().split("::").next().unwrap_or_default();
    matches!(package, "careportals_sidecar" | "careportals_simulator")
}

fn is_warning(metadata: &Metadata<'_>) -> bool {
    let is_silenced = || metadata.target().split("::").next() == Some(SILENCED);
    metadata.is_event() && (*metadata.level() == Level::ERROR || (*metadata.level() == Level::WARN && !is_silenced()))
}

/// Filters for the whole subscriber and not for one layer, since `enabled!` does not see the filters of layers.
impl<S: Subscriber> Layer<S> for Levels {
    fn enabled(&self, metadata: &Metadata<'_>, context: Context<'_, S>) -> bool {
        if is_ours(metadata) { Layer::enabled(&self.0, metadata, context) } else { is_warning(metadata) }
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Layer::<S>::max_level_hint(&self.0).map(|level| level.max(LevelFilter::WARN))
    }
}

#[cfg(test)]
mod tests;
