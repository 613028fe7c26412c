//! The access line, one for each request.
//!
//! Access lines are formatted by hand, so that they cost no allocation and no event. Guarantees: of the request, an access line
//! shows the method, the masked path, its id and how large its body is, and nothing else; a worker writes to a buffer of its own,
//! and takes the queue's lock once a second, or when the buffer is full. `terminal` writes the lines for people at a terminal.

mod terminal;

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU8, Ordering},
    },
    time::{Duration, SystemTime},
};

use http::Method;
use tracing::Level;

use super::{Shape, Timestamp, escape_quoted, is_bare};
use crate::{
    logging::queue::Queue,
    path::{Words, mask},
};

/// The target by which a filter may silence the access lines.
pub const TARGET: &str = "careportals_sidecar::access";

/// How many bytes a buffer holds when it is handed over.
const FULL: usize = 16 * 1024;
/// The space for the line that fills the buffer, in bytes; a longer line makes the buffer grow.
const LINE: usize = 1024;
/// How long further failures by the same code are no warnings.
const WARNING_INTERVAL: Duration = Duration::from_secs(60);

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
    /// How often the request was sent again.
    pub retries: u8,
    /// What its 401 did about the token.
    pub relogin: Option<&'a str>,
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

/// Where access lines go, how they look, and which are wanted.
pub(in crate::logging) struct AccessOutput {
    pub(in crate::logging) queue: Arc<Queue>,
    shape: Shape,
    wanted: AtomicU8,
    failures: Mutex<Vec<Failure>>,
}

/// Which access lines settings and filter want.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::logging) enum Wanted {
    Nothing,
    /// Those of level WARN.
    Warnings,
    Everything,
}

/// When an API's requests last failed by this code with a line of level WARN.
struct Failure {
    api: Box<str>,
    code: Box<str>,
    told: SystemTime,
}

impl AccessOutput {
    pub(in crate::logging) fn new(queue: Arc<Queue>, shape: Shape, wanted: Wanted) -> Self {
        Self { queue, shape, wanted: AtomicU8::new(wanted as u8), failures: Mutex::default() }
    }

    /// The filter or the settings have changed.
    pub(in crate::logging) fn want(&self, wanted: Wanted) {
        self.wanted.store(wanted as u8, Ordering::Relaxed);
    }

    fn wants(&self, wanted: Wanted) -> bool {
        self.wanted.load(Ordering::Relaxed) >= wanted as u8
    }

    /// The level of a line: the first 5xx of our own for an API and a code in a minute is a warning, over all workers.
    fn level(&self, line: &AccessLine<'_>, at: SystemTime) -> Level {
        let Some(code) = line.code.filter(|_| line.status >= 500) else { return Level::INFO };
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        // Forgetting the older ones bounds the list by the APIs and codes. Lines of several workers come in any order; a clock that
        // was set back further than that forgets all.
        let distance = |told: SystemTime| at.duration_since(told).unwrap_or_else(|later| later.duration());
        failures.retain(|failure| distance(failure.told) < WARNING_INTERVAL);
        if failures.iter().any(|failure| *failure.code == *code && *failure.api == *line.api) {
            return Level::INFO;
        }
        failures.push(Failure { api: line.api.into(), code: code.into(), told: at });
        Level::WARN
    }
}

impl AccessLog {
    pub(in crate::logging) fn new(output: Arc<AccessOutput>) -> Self {
        Self(output)
    }

    /// Lines dropped so far, events included, because the log's stream did not take them.
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
    /// Adds one line with the time `at`, if it is wanted.
    pub fn write(&mut self, line: &AccessLine<'_>, at: SystemTime) {
        if !self.output.wants(Wanted::Warnings) {
            return;
        }
        let level = self.output.level(line, at);
        if level == Level::INFO && !self.output.wants(Wanted::Everything) {
            return;
        }
        if self.buffer.capacity() == 0 {
            self.buffer.reserve_exact(FULL + LINE);
        }
        let time = self.timestamp.set(at);
        match self.output.shape {
            Shape::Terminal { colour } => terminal::write(line, time, colour, &mut self.buffer),
            shape => LineWriter { to: &mut self.buffer, shape }.line(line, level, time),
        }
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

/// The key of a field, with what stands before and after it: pushed at once, since each line has ten.
#[derive(Clone, Copy)]
struct Key {
    json: &'static str,
    text: &'static str,
}

macro_rules! key {
    ($name:literal) => {
        Key { json: concat!(",\"", $name, "\":"), text: concat!(" ", $name, "=") }
    };
}

/// Writes one access line.
struct LineWriter<'a> {
    to: &'a mut Vec<u8>,
    shape: Shape,
}

impl LineWriter<'_> {
    fn line(&mut self, line: &AccessLine<'_>, level: Level, time: &str) {
        const MESSAGE: &str = "request";
        // Appending to a vector can't fail.
        let _ = self.shape.open(time, level, &mut Utf8(self.to));
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

    fn key(&mut self, key: Key) {
        self.push(if self.shape == Shape::Json { key.json } else { key.text });
    }

    fn word(&mut self, key: Key, value: &str) {
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

    fn number(&mut self, key: Key, value: u64) {
        self.key(key);
        push_number(self.to, value);
    }

    fn path(&mut self, path: &str, words: &Words) {
        let quote = if self.shape == Shape::Json { "\"" } else { "" };
        self.key(key!("path"));
        self.push(quote);
        mask(path, words, self.to);
        self.push(quote);
    }

    fn push(&mut self, text: &str) {
        self.to.extend_from_slice(text.as_bytes());
    }

    fn fields(&mut self, line: &AccessLine<'_>) {
        self.word(key!("api"), line.api);
        self.word(key!("listener"), line.listener);
        self.word(key!("method"), method_name(line.method));
        self.path(line.path, line.words);
        self.number(key!("status"), line.status.into());
        for (key, value) in [(key!("code"), line.code), (key!("would_refuse"), line.would_refuse), (key!("cut"), line.cut)] {
            if let Some(value) = value {
                self.word(key, value);
            }
        }
        if line.retries > 0 {
            self.number(key!("retries"), line.retries.into());
        }
        if let Some(relogin) = line.relogin {
            self.word(key!("relogin"), relogin);
        }
        self.number(key!("request_bytes"), line.request_bytes);
        self.number(key!("response_bytes"), line.response_bytes);
        self.number(key!("duration_us"), micros(line.duration));
        if let Some(first_byte) = line.upstream_first_byte {
            self.number(key!("upstream_first_byte_us"), micros(first_byte));
        }
        self.word(key!("request_id"), line.request_id);
        if let Some(uid) = line.uid {
            self.number(key!("uid"), u64::from(uid));
        }
        // A pid is positive; the kernel says 0 for one outside our namespace.
        if let Some(pid) = line.pid.and_then(|pid| u64::try_from(pid).ok()) {
            self.number(key!("pid"), pid);
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

#[cfg(test)]
mod tests;
