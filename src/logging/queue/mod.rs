//! The queue of log lines, and the thread that writes them to standard output.
//!
//! Guarantees: a sender never waits for the writer, only while another sender copies a few kilobytes; memory is bounded in
//! bytes and in entries; lines that do not fit are dropped and counted, and once the writer keeps up again, one line reports
//! their number.

use std::{
    collections::VecDeque,
    io::{self, Write},
    mem,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

/// The stack of the log thread, in bytes.
const STACK: usize = 128 * 1024;

/// The bounds of the queue.
#[derive(Clone, Copy, Debug)]
pub(super) struct Capacity {
    pub(super) bytes: usize,
    pub(super) entries: usize,
}

/// Whole lines, shared by all senders and the log thread.
pub(super) struct Queue {
    state: Mutex<QueueState>,
    /// Notified when the log thread has something to do.
    filled: Condvar,
    /// Notified when the log thread has ended.
    ended: Condvar,
    capacity: Capacity,
    dropped: AtomicU64,
}

#[derive(Default)]
struct QueueState {
    entries: VecDeque<QueuedLines>,
    /// Bytes of the entries and of the one that is being written.
    bytes: usize,
    /// Lines dropped since the last report.
    unreported: u64,
    /// A report could not be written either, and nothing was written since.
    fails: bool,
    /// No more lines are taken.
    closed: bool,
    ended: bool,
}

struct QueuedLines {
    text: Vec<u8>,
    lines: u64,
}

impl Queue {
    /// Makes a queue. Lines wait in it until the log thread starts.
    pub(super) fn new(capacity: Capacity) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::default(),
            filled: Condvar::new(),
            ended: Condvar::new(),
            capacity,
            dropped: AtomicU64::new(0),
        })
    }

    /// Starts the log thread; call it once. `report` makes the line that tells how many lines were dropped.
    pub(super) fn start(
        self: &Arc<Self>,
        mut writer: impl Write + Send + 'static,
        report: impl Fn(u64) -> Vec<u8> + Send + 'static,
    ) -> io::Result<()> {
        let receiver = Arc::clone(self);
        let builder = thread::Builder::new().name("log".to_owned()).stack_size(STACK);
        builder.spawn(move || {
            let _end = EndNotice(&receiver);
            receiver.write_all_to(&mut writer, report);
        })?;
        Ok(())
    }

    /// Takes a copy of `text`, which holds `lines` whole lines, or drops it.
    pub(super) fn send(&self, text: &[u8], lines: u64) {
        let mut state = self.lock();
        let fits = state.bytes + text.len() <= self.capacity.bytes && state.entries.len() < self.capacity.entries;
        if state.closed || !fits {
            state.unreported += lines;
            self.dropped.fetch_add(lines, Ordering::Relaxed);
        } else {
            state.bytes += text.len();
            state.entries.push_back(QueuedLines { text: text.to_vec(), lines });
        }
        drop(state);
        // The thread is woken also when lines were dropped, to report them: a text may be too long for an empty queue.
        self.filled.notify_one();
    }

    /// Lines dropped since the start.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Takes no more lines, and waits until all are written, for at most `patience`. Returns whether all were written.
    pub(super) fn close(&self, patience: Duration) -> bool {
        let mut state = self.lock();
        state.closed = true;
        self.filled.notify_one();
        let waited = self.ended.wait_timeout_while(state, patience, |state| !state.ended);
        let state = waited.unwrap_or_else(PoisonError::into_inner).0;
        state.ended && state.entries.is_empty()
    }

    fn write_all_to(&self, writer: &mut impl Write, report: impl Fn(u64) -> Vec<u8>) {
        let (mut unflushed, mut is_torn) = (false, false);
        loop {
            match self.next(unflushed) {
                LogWork::Write(entry) => {
                    let outcome = write_lines(writer, &entry.text, &mut is_torn);
                    self.settle(&entry, &outcome);
                    unflushed = true;
                }
                LogWork::Report(lines) => {
                    let outcome = write_lines(writer, &report(lines), &mut is_torn);
                    let mut state = self.lock();
                    state.fails = outcome.is_err();
                    state.unreported += if state.fails { lines } else { 0 };
                    unflushed = true;
                }
                LogWork::Flush => {
                    // A failure can't be reported, and another attempt at once would spin.
                    let _ = writer.flush();
                    unflushed = false;
                }
                LogWork::End => return,
            }
        }
    }

    /// Waits for the log thread's next piece of work.
    fn next(&self, unflushed: bool) -> LogWork {
        let mut state = self.lock();
        loop {
            // The writer keeps up again once half of the queue is free. Without this, a slow writer would report after each line.
            let keeps_up = state.bytes <= self.capacity.bytes / 2 && state.entries.len() <= self.capacity.entries / 2;
            // While reports fail, the next line is the attempt.
            if state.unreported > 0 && keeps_up && !state.fails {
                return LogWork::Report(mem::take(&mut state.unreported));
            }
            if let Some(entry) = state.entries.pop_front() {
                return LogWork::Write(entry);
            }
            if unflushed {
                return LogWork::Flush;
            }
            if state.closed {
                return LogWork::End;
            }
            state = self.filled.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn settle(&self, entry: &QueuedLines, outcome: &io::Result<()>) {
        let mut state = self.lock();
        state.bytes -= entry.text.len();
        state.fails &= outcome.is_err();
        if outcome.is_err() {
            // There is no other place to report that.
            state.unreported += entry.lines;
            self.dropped.fetch_add(entry.lines, Ordering::Relaxed);
        }
    }

    fn lock(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes whole lines. A failure in the middle of one `is_torn`: what is written next begins a line of its own.
fn write_lines(writer: &mut impl Write, text: &[u8], is_torn: &mut bool) -> io::Result<()> {
    if *is_torn {
        writer.write_all(b"\n")?;
        *is_torn = false;
    }
    let mut rest = text;
    while !rest.is_empty() {
        match writer.write(rest) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                rest = &rest[written..];
                *is_torn = !rest.is_empty();
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Takes events: the formatter writes each whole line at once.
impl Write for &Queue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.send(line, 1);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

enum LogWork {
    Write(QueuedLines),
    Report(u64),
    Flush,
    End,
}

/// Tells [`Queue::close`] on drop that the thread has ended, even by a panic of the writer.
struct EndNotice<'a>(&'a Queue);

impl Drop for EndNotice<'_> {
    fn drop(&mut self) {
        self.0.lock().ended = true;
        self.0.ended.notify_all();
    }
}

#[cfg(test)]
mod tests;
