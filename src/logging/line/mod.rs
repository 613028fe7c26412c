//! Log lines: how one begins, its time, its escapes; and the access line, one for each request.
//!
//! Access lines are formatted by hand, so that they cost no allocation and no event. Guarantees: of the request, an access line
//! shows the method, the masked path and the request's id, and nothing else; a worker writes to a buffer of its own, and takes
//! the queue's lock once a second, or when the buffer is full.

use std::{
    fmt,
    io::Write as _,
    str,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use http::Method;
use tracing::Level;

use super::queue::Queue;
use crate::path::{Words, mask};

/// The target by which a filter may silence the access lines.
pub const TARGET: &str = "careportals_sidecar::access";

/// How many bytes a buffer holds when it is handed over.
const FULL: usize = 16 * 1024;
/// The space for the line that fills the buffer, in bytes; a longer line makes the buffer grow.
const LINE: usize = 1024;

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

/// How many characters of a time people see: milliseconds are enough for them.
const SHOWN_OF_TIME: usize = 23;

/// As many spaces as that column is wide.
const SPACES: &str = "                ";

/// The content of one access line.
#[derive(Clone, Copy, Debug)]
pub struct AccessLine<'a> {
    /// The API's name; empty when no API is for the request.
    pub api: &'a str,
    /// The listen address that the client connected to.
    pub listener: &'a str,
    /// The method; shown as `OTHER` unless it is registered.
    pub method: &'a Method,
    /// The path as it came; shown masked, without its query.
    pub path: &'a str,
    /// The segments that a path may show.
    pub words: &'a Words,
    /// The status of the answer.
    pub status: u16,
    /// The problem's code, when the answer is our own.
    pub code: Option<&'a str>,
    /// The code with which the rules would have refused the request, were they enforced.
    pub would_refuse: Option<&'a str>,
    /// Why the answer ended early.
    pub cut: Option<&'a str>,
    /// The length of the request's body.
    pub request_bytes: u64,
    /// The length of the answer's body.
    pub response_bytes: u64,
    /// The time from the arrival of the request's head to the end of the answer.
    pub duration: Duration,
    /// The time from the arrival of the request's head to the head of the upstream's answer.
    pub upstream_first_byte: Option<Duration>,
    /// The request's id: the client's if it is well formed, else our own.
    pub request_id: &'a str,
    /// The caller's user id, where it is known.
    pub uid: Option<u32>,
    /// The caller's process id, on Unix sockets.
    pub pid: Option<i32>,
}

/// Makes writers of access lines.
#[derive(Clone)]
pub struct AccessLog(Arc<AccessOutput>);

/// Where access lines go, and how they look.
pub(super) struct AccessOutput {
    pub(super) queue: Arc<Queue>,
    pub(super) shape: Shape,
    /// Whether settings and filter want access lines; the filter may change.
    pub(super) wanted: AtomicBool,
}

impl AccessLog {
    pub(super) fn new(output: Arc<AccessOutput>) -> Self {
        Self(output)
    }

    /// Lines dropped so far, events included, because standard output did not take them.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.0.queue.dropped()
    }

    /// Makes a writer for one worker.
    #[must_use]
    pub fn worker(&self) -> AccessWriter {
        AccessWriter { output: Arc::clone(&self.0), buffer: Vec::new(), lines: 0, timestamp: Timestamp::new() }
    }
}

/// A buffer of access lines. It belongs to one worker, and hands over its lines when it is dropped.
pub struct AccessWriter {
    output: Arc<AccessOutput>,
    buffer: Vec<u8>,
    lines: u64,
    timestamp: Timestamp,
}

impl AccessWriter {
    /// Adds one line with the time `at`. Does nothing when access lines are off.
    pub fn write(&mut self, line: &AccessLine<'_>, at: SystemTime) {
        if !self.output.wanted.load(Ordering::Relaxed) {
            return;
        }
        if self.buffer.capacity() == 0 {
            self.buffer.reserve_exact(FULL + LINE);
        }
        let time = self.timestamp.set(at);
        LineWriter { to: &mut self.buffer, shape: self.output.shape }.line(line, time);
        self.lines += 1;
        if self.buffer.len() >= FULL {
            self.tick();
        }
    }

    /// Hands over the lines so far. Call it once a second, so that no line is late.
    pub fn tick(&mut self) {
        if self.lines > 0 {
            self.output.queue.send(&self.buffer, self.lines);
            self.buffer.clear();
            self.lines = 0;
        }
    }
}

impl Drop for AccessWriter {
    fn drop(&mut self) {
        self.tick();
    }
}

/// The name of a registered method (RFC 9110 and 5789), and `OTHER` for the rest, since a client may send any word.
fn method_name(method: &Method) -> &'static str {
    const REGISTERED: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];
    REGISTERED.into_iter().find(|name| *name == method.as_str()).unwrap_or("OTHER")
}

/// Writes one access line.
struct LineWriter<'a> {
    to: &'a mut Vec<u8>,
    shape: Shape,
}

impl LineWriter<'_> {
    fn line(&mut self, line: &AccessLine<'_>, time: &str) {
        const MESSAGE: &str = "request";
        // Appending to a vector can't fail.
        let _ = self.shape.open(time, Level::INFO, &mut Utf8(self.to));
        if self.shape == Shape::Json {
            self.push(r#","message":"request""#);
        } else {
            self.push(MESSAGE);
            self.push(self.shape.gap(MESSAGE.len()));
        }
        self.fields(line);
        if self.shape == Shape::Json {
            self.push(r#","target":""#);
            self.push(TARGET);
            self.push("\"}");
        }
        self.push("\n");
    }

    fn key(&mut self, key: &'static str) {
        if self.shape == Shape::Json {
            self.push(",\"");
            self.push(key);
            return self.push("\":");
        }
        let paint = self.shape.key();
        self.push(" ");
        self.push(paint.on());
        self.push(key);
        self.push("=");
        self.push(paint.off());
    }

    fn word(&mut self, key: &'static str, value: &str) {
        self.key(key);
        let bare = is_bare(value);
        let quote = if bare && self.shape != Shape::Json { "" } else { "\"" };
        self.push(quote);
        if bare {
            self.push(value);
        } else {
            // Appending to a vector can't fail.
            let _ = escape_quoted(value, &mut Utf8(self.to));
        }
        self.push(quote);
    }

    fn number(&mut self, key: &'static str, value: u64) {
        self.key(key);
        push_number(self.to, value);
    }

    fn status(&mut self, status: u16) {
        let paint = self.shape.status(status);
        self.key("status");
        self.push(paint.on());
        push_number(self.to, status.into());
        self.push(paint.off());
    }

    fn path(&mut self, path: &str, words: &Words) {
        let quote = if self.shape == Shape::Json { "\"" } else { "" };
        self.key("path");
        self.push(quote);
        mask(path, words, self.to);
        self.push(quote);
    }

    fn push(&mut self, text: &str) {
        self.to.extend_from_slice(text.as_bytes());
    }

    fn fields(&mut self, line: &AccessLine<'_>) {
        self.word("api", line.api);
        self.word("listener", line.listener);
        self.word("method", method_name(line.method));
        self.path(line.path, line.words);
        self.status(line.status);
        for (key, value) in [("code", line.code), ("would_refuse", line.would_refuse), ("cut", line.cut)] {
            if let Some(value) = value {
                self.word(key, value);
            }
        }
        self.number("request_bytes", line.request_bytes);
        self.number("response_bytes", line.response_bytes);
        self.number("duration_us", micros(line.duration));
        if let Some(first_byte) = line.upstream_first_byte {
            self.number("upstream_first_byte_us", micros(first_byte));
        }
        self.word("request_id", line.request_id);
        if let Some(uid) = line.uid {
            self.number("uid", u64::from(uid));
        }
        // A pid is positive; the kernel says 0 for one outside our namespace.
        if let Some(pid) = line.pid.and_then(|pid| u64::try_from(pid).ok()) {
            self.number("pid", pid);
        }
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

struct Utf8<'a>(&'a mut Vec<u8>);

impl fmt::Write for Utf8<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

fn push_number(to: &mut Vec<u8>, mut value: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + u8::try_from(value % 10).unwrap_or(0);
        value /= 10;
        if value == 0 {
            break;
        }
    }
    to.extend_from_slice(&digits[at..]);
}

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
            // Without `write!`, since each request has a line.
            Self::Json => [r#"{"timestamp":""#, time, r#"","level":""#, level.as_str(), "\""]
                .into_iter()
                .try_for_each(|part| to.write_str(part)),
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
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'=' | b'\\'))
}

#[cfg(test)]
mod tests;
