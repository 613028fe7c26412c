//! One line per request, formatted by hand: it is written for every request, so it costs no allocation and no event.
//!
//! Depends on `path`. Guarantees: of the request it shows the method, the masked path and the request's id, and nothing
//! else; a worker touches only its own buffer but once a second, or when that is full.

use std::{
    fmt::Write as _,
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
    format::{Escaped, Timestamp, is_bare},
    queue::Queue,
    text::Shape,
};
use crate::path::{Words, mask};

/// The target by which a filter may silence the access lines.
pub const TARGET: &str = "careportals_sidecar::access";

/// What there is to say about one request and its answer.
#[derive(Clone, Copy, Debug)]
pub struct AccessLine<'a> {
    /// The API's name; empty when the request was of none.
    pub api: &'a str,
    /// Where it came in.
    pub listener: &'a str,
    /// Shown as `OTHER` unless it is registered.
    pub method: &'a Method,
    /// As it came; shown masked, without its query.
    pub path: &'a str,
    /// What the path may show.
    pub words: &'a Words,
    /// Of the answer.
    pub status: u16,
    /// The problem's, when the answer is ours.
    pub code: Option<&'a str>,
    /// Why the answer ended early.
    pub cut: Option<&'a str>,
    /// Of the body.
    pub request_bytes: u64,
    /// Of the body.
    pub response_bytes: u64,
    /// From the head's arrival to the answer's end.
    pub duration: Duration,
    /// From the head's arrival to the upstream's head.
    pub upstream_first_byte: Option<Duration>,
    /// The client's when it is well formed, else ours.
    pub request_id: &'a str,
    /// The caller's, on Unix sockets.
    pub uid: Option<u32>,
    /// The caller's, on Unix sockets.
    pub pid: Option<i32>,
}

/// Makes writers of access lines.
#[derive(Clone)]
pub struct AccessLog(Arc<Shared>);

pub(super) struct Shared {
    pub(super) queue: Arc<Queue>,
    pub(super) shape: Shape,
    /// Whether settings and filter want access lines; the filter may change.
    pub(super) wanted: AtomicBool,
}

impl AccessLog {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self(shared)
    }

    /// Lines lost so far, because standard output did not take them; events too.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.0.queue.dropped()
    }

    /// A writer for one thread.
    #[must_use]
    pub fn worker(&self) -> AccessWriter {
        AccessWriter { shared: Arc::clone(&self.0), buffer: Vec::new(), lines: 0, timestamp: Timestamp::new() }
    }
}

/// A buffer of access lines. It belongs to one thread; what it holds is handed over when it is dropped.
pub struct AccessWriter {
    shared: Arc<Shared>,
    buffer: Vec<u8>,
    lines: u64,
    timestamp: Timestamp,
}

impl AccessWriter {
    /// Adds one line, as of `at`. Next to nothing when access lines are off.
    pub fn write(&mut self, line: &AccessLine<'_>, at: SystemTime) {
        if !self.shared.wanted.load(Ordering::Relaxed) {
            return;
        }
        if self.buffer.capacity() == 0 {
            self.buffer.reserve_exact(FULL + LINE);
        }
        let time = self.timestamp.set(at);
        match self.shared.shape {
            Shape::Json => Json(&mut self.buffer).line(line, time),
            shape => Text { to: &mut self.buffer, shape }.line(line, time),
        }
        self.lines += 1;
        if self.buffer.len() >= FULL {
            self.tick();
        }
    }

    /// Hands over what is there; to be called once a second, so that no line is late.
    pub fn tick(&mut self) {
        if self.lines > 0 {
            self.shared.queue.send(&self.buffer, self.lines);
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

/// A buffer is handed over when it holds so much.
const FULL: usize = 16 * 1024;

/// Room for the line that fills it; a longer one makes the buffer grow.
const LINE: usize = 1024;

/// Of the registry (RFC 9110 and 5789); any other name may be anything a client likes to write.
fn method_name(method: &Method) -> &'static str {
    const REGISTERED: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];
    REGISTERED.into_iter().find(|name| *name == method.as_str()).unwrap_or("OTHER")
}

/// The fields in their order, for either shape.
trait Line {
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
        for (key, value) in [("code", line.code), ("cut", line.cut)] {
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

struct Json<'a>(&'a mut Vec<u8>);

impl Json<'_> {
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

impl Line for Json<'_> {
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

/// For people, and for the journal.
struct Text<'a> {
    to: &'a mut Vec<u8>,
    shape: Shape,
}

impl Text<'_> {
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

impl Line for Text<'_> {
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
        let _ = Escaped::quoted(&mut Utf8(to)).write_str(value);
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
