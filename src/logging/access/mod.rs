//! Access lines: one per request. They are formatted by hand, since each request has one: it costs no allocation and no event.
//!
//! Guarantees: of the request, a line shows the method, the masked path and the request's id, and nothing else; a worker
//! writes to a buffer of its own, and takes the queue's lock once a second, or when the buffer is full.

use std::{
    str,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use http::Method;
use tracing::Level;

use super::{
    format::{Shape, Timestamp, escape_quoted, is_bare},
    queue::Queue,
};
use crate::path::{Words, mask};

/// The target by which a filter may silence the access lines.
pub const TARGET: &str = "careportals_sidecar::access";

/// How many bytes a buffer holds when it is handed over.
const FULL: usize = 16 * 1024;
/// The space for the line that fills the buffer, in bytes; a longer line makes the buffer grow.
const LINE: usize = 1024;

/// The content of one access line.
#[derive(Clone, Copy, Debug)]
pub struct AccessLine<'a> {
    /// The API's name; empty when no API is for the request.
    pub api: &'a str,
    /// The listen address.
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
        match self.output.shape {
            Shape::Json => JsonLine(&mut self.buffer).line(line, time),
            shape => TextLine { to: &mut self.buffer, shape }.line(line, time),
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

/// Writes the fields in their order, as text or JSON.
trait FieldWriter {
    fn word(&mut self, key: &'static str, value: &str);
    fn number(&mut self, key: &'static str, value: u64);
    fn status(&mut self, status: u16);
    fn path(&mut self, path: &str, words: &Words);

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

struct JsonLine<'a>(&'a mut Vec<u8>);

impl JsonLine<'_> {
    fn line(&mut self, line: &AccessLine<'_>, time: &str) {
        self.push("{\"timestamp\":\"");
        self.push(time);
        self.push("\",\"level\":\"INFO\",\"message\":\"request\"");
        self.fields(line);
        self.push(",\"target\":\"");
        self.push(TARGET);
        self.push("\"}\n");
    }

    fn push(&mut self, text: &str) {
        self.0.extend_from_slice(text.as_bytes());
    }

    fn key(&mut self, key: &'static str) {
        self.push(",\"");
        self.push(key);
        self.push("\":");
    }
}

impl FieldWriter for JsonLine<'_> {
    fn word(&mut self, key: &'static str, value: &str) {
        self.key(key);
        push_quoted(self.0, value);
    }

    fn number(&mut self, key: &'static str, value: u64) {
        self.key(key);
        push_number(self.0, value);
    }

    fn status(&mut self, status: u16) {
        self.number("status", status.into());
    }

    fn path(&mut self, path: &str, words: &Words) {
        self.push(",\"path\":\"");
        mask(path, words, self.0);
        self.0.push(b'"');
    }
}

/// A line for people, or for the journal.
struct TextLine<'a> {
    to: &'a mut Vec<u8>,
    shape: Shape,
}

impl TextLine<'_> {
    fn line(&mut self, line: &AccessLine<'_>, time: &str) {
        const MESSAGE: &str = "request";
        // Appending to a vector can't fail.
        let _ = self.shape.open(time, Level::INFO, &mut Utf8(self.to));
        self.push(MESSAGE);
        self.push(self.shape.gap(MESSAGE.len()));
        self.fields(line);
        self.to.push(b'\n');
    }

    fn push(&mut self, text: &str) {
        self.to.extend_from_slice(text.as_bytes());
    }

    fn key(&mut self, key: &'static str) {
        let paint = self.shape.key();
        self.to.push(b' ');
        self.push(paint.on());
        self.push(key);
        self.to.push(b'=');
        self.push(paint.off());
    }
}

impl FieldWriter for TextLine<'_> {
    fn word(&mut self, key: &'static str, value: &str) {
        self.key(key);
        if is_bare(value) { self.push(value) } else { push_quoted(self.to, value) }
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
        self.key("path");
        mask(path, words, self.to);
    }
}

fn push_quoted(to: &mut Vec<u8>, value: &str) {
    to.push(b'"');
    if is_bare(value) {
        to.extend_from_slice(value.as_bytes());
    } else {
        // Appending to a vector can't fail.
        let _ = escape_quoted(value, &mut Utf8(to));
    }
    to.push(b'"');
}

struct Utf8<'a>(&'a mut Vec<u8>);

impl std::fmt::Write for Utf8<'_> {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
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
