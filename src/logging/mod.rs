//! Logs: what is said, in which form, and how it gets to standard output without anybody waiting for it.
//!
//! Depends on `clock`, `path` and `config`'s [`Log`]. Guarantees: requests never wait for the reader of our standard
//! output; a dependency's events below `warn` are never written, whatever the filter says, since they may hold header
//! values; of a request only what [`AccessLine`] lists is written. There is no state but [`Logging`] and tracing's own
//! subscriber.

mod access;
mod format;
mod queue;
mod reader;
mod text;

use std::{
    fmt::Write as _,
    io::{self, Write},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use thiserror::Error;
use tracing::{Dispatch, Level, Metadata, Subscriber, dispatcher, level_filters::LevelFilter, span, subscriber::Interest};
use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    filter::ParseError,
    fmt::{self, MakeWriter},
    layer::{Context, SubscriberExt as _},
    reload,
};

pub use access::{AccessLine, AccessLog, AccessWriter, TARGET as ACCESS_TARGET};
pub use format::rfc3339;
pub use reader::Reader;

use crate::{
    clock::{Clock, SystemClock},
    config::{Log, LogFormat},
};
use access::Shared;
use format::{Events, Timestamp};
use queue::{Capacity, Queue};
use text::Shape;

/// Why there are no logs.
#[derive(Debug, Error)]
pub enum LogError {
    /// The filter is not in tracing's syntax.
    #[error("not a log filter: {0}")]
    Filter(#[from] ParseError),
    /// The log thread did not start.
    #[error("the log thread did not start: {0}")]
    Thread(#[source] io::Error),
    /// Somebody in this process logs already.
    #[error("logs have been started before")]
    Started,
}

/// The logs. Dropping it writes what is left, for [`PATIENCE`] at most; what comes later is lost, so it is dropped last,
/// after every [`AccessWriter`].
pub struct Logging {
    control: LogControl,
    /// Starts the log thread, as long as nobody has.
    thread: Option<Start>,
}

type Start = Box<dyn FnOnce() -> io::Result<()> + Send>;

/// Changes what is logged while it is. Clones control the same logs.
#[derive(Clone)]
pub struct LogControl {
    dispatch: Dispatch,
    filter: reload::Handle<Levels, Registry>,
    shared: Arc<Shared>,
}

/// Makes this process's events go to `writer`, once [`Logging::write`] has started the log thread.
pub fn start(log: &Log, writer: impl Write + Send + 'static, reader: Reader) -> Result<Logging, LogError> {
    let logging = Logging::build(log, writer, reader, Arc::new(SystemClock))?;
    dispatcher::set_global_default(logging.dispatch().clone()).map_err(|_| LogError::Started)?;
    Ok(logging)
}

/// Whether `filter` is in tracing's syntax.
pub fn check_filter(filter: &str) -> Result<(), LogError> {
    Levels::parse(filter).map(drop)
}

impl Logging {
    /// The same without making it the process's own: for several daemons in one process.
    pub fn build(
        log: &Log,
        writer: impl Write + Send + 'static,
        reader: Reader,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, LogError> {
        let shape = match (log.format, reader) {
            (LogFormat::Json, _) | (LogFormat::Auto, Reader::Unknown) => Shape::Json,
            (_, Reader::Journal) => Shape::Journal,
            (_, Reader::Terminal { colour }) => Shape::Text { colour },
            (LogFormat::Text, Reader::Unknown) => Shape::Text { colour: false },
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
            .with_writer(Sender(Arc::clone(&queue)));
        let waiting = Arc::clone(&queue);
        let thread: Start = Box::new(move || waiting.start(writer, report));
        let shared = Arc::new(Shared { queue, shape, wanted: AtomicBool::new(false) });
        let dispatch = Dispatch::new(tracing_subscriber::registry().with(levels).with(layer));
        let control = LogControl { dispatch, filter, shared };
        control.judge_access(log.access);
        Ok(Self { control, thread: Some(thread) })
    }

    /// Starts the log thread; what was said so far is written first. Until then there is no second thread.
    pub fn write(&mut self) -> Result<(), LogError> {
        self.thread.take().map_or(Ok(()), |start| start()).map_err(LogError::Thread)
    }

    /// For whoever reads settings again.
    #[must_use]
    pub fn control(&self) -> &LogControl {
        &self.control
    }

    /// For the workers.
    #[must_use]
    pub fn access_log(&self) -> AccessLog {
        AccessLog::new(Arc::clone(&self.control.shared))
    }

    /// Lines lost so far, because standard output did not take them.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.control.shared.queue.dropped()
    }

    /// Where events go.
    #[must_use]
    pub fn dispatch(&self) -> &Dispatch {
        &self.control.dispatch
    }
}

impl LogControl {
    /// Changes the filter, and whether there are access lines. A bad filter changes nothing; the format stays.
    pub fn adopt(&self, log: &Log) -> Result<(), LogError> {
        let levels = Levels::parse(&log.filter)?;
        // After a reload tracing asks anew who wants which event, and a lone subscriber is asked only while it is the
        // current one. It lives as long as `dispatch`, so there is something to reload.
        let _ = dispatcher::with_default(&self.dispatch, || self.filter.reload(levels));
        self.judge_access(log.access);
        Ok(())
    }

    /// Access lines are no events, but the filter speaks of them as if they were. `asked`: the settings want them.
    fn judge_access(&self, asked: bool) {
        let passes = || tracing::enabled!(target: ACCESS_TARGET, Level::INFO);
        let wanted = asked && dispatcher::with_default(&self.dispatch, passes);
        self.shared.wanted.store(wanted, Ordering::Relaxed);
    }
}

impl Drop for Logging {
    fn drop(&mut self) {
        // Whoever ends before there was a log thread has something to say, too. Without one it is lost.
        let _ = self.write();
        self.control.shared.queue.close(PATIENCE);
    }
}

/// How long exit waits for standard output.
pub const PATIENCE: Duration = Duration::from_millis(500);

/// Some seconds of a busy daemon's lines.
const CAPACITY: Capacity = Capacity { bytes: 1024 * 1024, entries: 1024 };

fn dropped_line(shape: Shape, lines: u64, clock: &dyn Clock) -> Vec<u8> {
    let mut timestamp = Timestamp::new();
    let time = timestamp.set(clock.now().wall);
    let mut line = String::new();
    // Appending to a string can't fail.
    let _ = shape.open(time, Level::WARN, &mut line);
    let _ = match shape {
        Shape::Text { .. } | Shape::Journal => writeln!(line, "{DROPPED} dropped={lines}"),
        Shape::Json => writeln!(line, r#","message":"{DROPPED}","dropped":{lines},"target":"{}"}}"#, module_path!()),
    };
    line.into_bytes()
}

const DROPPED: &str = "log lines were dropped: standard output did not take them";

/// Hands each formatted line to the queue.
#[derive(Clone)]
struct Sender(Arc<Queue>);

impl<'a> MakeWriter<'a> for Sender {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line(&self.0)
    }
}

struct Line<'a>(&'a Queue);

impl Write for Line<'_> {
    /// The formatter writes each line at once.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.send(line, 1);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The user's filter for what is ours, `warn` for the rest.
struct Levels {
    ours: EnvFilter,
}

impl Levels {
    fn parse(filter: &str) -> Result<Self, LogError> {
        Ok(Self { ours: EnvFilter::builder().with_regex(false).parse(filter)? })
    }
}

fn is_ours(metadata: &Metadata<'_>) -> bool {
    let package = metadata.target().split("::").next().unwrap_or_default();
    matches!(package, "careportals_sidecar" | "careportals_simulator")
}

fn is_warning(metadata: &Metadata<'_>) -> bool {
    metadata.is_event() && *metadata.level() <= Level::WARN
}

/// A filter for the whole subscriber and not for one layer, since `enabled!` does not see filters of layers.
impl<S: Subscriber> Layer<S> for Levels {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        if is_ours(metadata) {
            Layer::<S>::register_callsite(&self.ours, metadata)
        } else if is_warning(metadata) {
            Interest::always()
        } else {
            Interest::never()
        }
    }

    fn enabled(&self, metadata: &Metadata<'_>, context: Context<'_, S>) -> bool {
        if is_ours(metadata) { Layer::enabled(&self.ours, metadata, context) } else { is_warning(metadata) }
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Layer::<S>::max_level_hint(&self.ours).map(|level| level.max(LevelFilter::WARN))
    }

    fn on_new_span(&self, attributes: &span::Attributes<'_>, id: &span::Id, context: Context<'_, S>) {
        Layer::on_new_span(&self.ours, attributes, id, context);
    }

    fn on_record(&self, id: &span::Id, values: &span::Record<'_>, context: Context<'_, S>) {
        Layer::on_record(&self.ours, id, values, context);
    }

    fn on_enter(&self, id: &span::Id, context: Context<'_, S>) {
        Layer::on_enter(&self.ours, id, context);
    }

    fn on_exit(&self, id: &span::Id, context: Context<'_, S>) {
        Layer::on_exit(&self.ours, id, context);
    }

    fn on_close(&self, id: span::Id, context: Context<'_, S>) {
        Layer::on_close(&self.ours, id, context);
    }
}

#[cfg(test)]
mod tests;
