//! Lines on their way to standard output, and the thread that writes them.
//!
//! Depends on nothing of ours. Guarantees: a sender never waits for the writer, only for another sender's copy of a few
//! kilobytes; memory is bounded in bytes and in entries; what does not fit is dropped and counted, and once the writer
//! keeps up again one line says how many that were.

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

/// Bounds of the queue.
#[derive(Clone, Copy, Debug)]
pub(super) struct Capacity {
    pub(super) bytes: usize,
    pub(super) entries: usize,
}

/// Whole lines, shared by all senders and the log thread.
pub(super) struct Queue {
    state: Mutex<State>,
    /// The log thread has something to do.
    filled: Condvar,
    /// The log thread has ended.
    ended: Condvar,
    capacity: Capacity,
    dropped: AtomicU64,
}

#[derive(Default)]
struct State {
    entries: VecDeque<Entry>,
    /// Of the entries and of the one being written.
    bytes: usize,
    /// Dropped since the last line that said so.
    unreported: u64,
    /// Nothing more is taken.
    closed: bool,
    ended: bool,
}

struct Entry {
    text: Vec<u8>,
    lines: u64,
}

impl Queue {
    /// Takes lines, which wait for the log thread.
    pub(super) fn new(capacity: Capacity) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::default(),
            filled: Condvar::new(),
            ended: Condvar::new(),
            capacity,
            dropped: AtomicU64::new(0),
        })
    }

    /// Starts the log thread, of which there must be one. `report` writes the line that tells how many lines were dropped.
    pub(super) fn start(
        self: &Arc<Self>,
        mut writer: impl Write + Send + 'static,
        report: impl Fn(u64) -> Vec<u8> + Send + 'static,
    ) -> io::Result<()> {
        let receiver = Arc::clone(self);
        let builder = thread::Builder::new().name("log".to_owned()).stack_size(STACK);
        builder.spawn(move || {
            let _ended = Ended(&receiver);
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
            state.entries.push_back(Entry { text: text.to_vec(), lines });
        }
        drop(state);
        // Also when it was dropped: a text too long for an empty queue has to be reported by a thread that sleeps.
        self.filled.notify_one();
    }

    /// Lines dropped since the start.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Takes nothing more, and waits until all is written, but not longer than `patience`. Whether all was.
    pub(super) fn close(&self, patience: Duration) -> bool {
        let mut state = self.lock();
        state.closed = true;
        self.filled.notify_one();
        let waited = self.ended.wait_timeout_while(state, patience, |state| !state.ended);
        let state = waited.unwrap_or_else(PoisonError::into_inner).0;
        state.ended && state.entries.is_empty()
    }

    fn write_all_to(&self, writer: &mut impl Write, report: impl Fn(u64) -> Vec<u8>) {
        let mut unflushed = false;
        loop {
            match self.next(unflushed) {
                Work::Write(entry) => {
                    let outcome = writer.write_all(&entry.text);
                    self.settle(&entry, &outcome);
                    unflushed = true;
                }
                // A report that fails is lost; `dropped` still counts those lines.
                Work::Report(lines) => unflushed = writer.write_all(&report(lines)).is_ok(),
                Work::Flush => {
                    // Nothing can be done about a failure, and trying again at once would spin.
                    let _ = writer.flush();
                    unflushed = false;
                }
                Work::End => return,
            }
        }
    }

    /// Waits for something to do.
    fn next(&self, unflushed: bool) -> Work {
        let mut state = self.lock();
        loop {
            // The writer keeps up again once half of the queue is free; a slow one would else report after each line.
            let keeps_up = state.bytes <= self.capacity.bytes / 2 && state.entries.len() <= self.capacity.entries / 2;
            if state.unreported > 0 && keeps_up {
                return Work::Report(mem::take(&mut state.unreported));
            }
            if let Some(entry) = state.entries.pop_front() {
                return Work::Write(entry);
            }
            if unflushed {
                return Work::Flush;
            }
            if state.closed {
                return Work::End;
            }
            state = self.filled.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn settle(&self, entry: &Entry, outcome: &io::Result<()>) {
        let mut state = self.lock();
        state.bytes -= entry.text.len();
        if outcome.is_err() {
            // Standard output is gone: there is no other place to tell it.
            state.unreported += entry.lines;
            self.dropped.fetch_add(entry.lines, Ordering::Relaxed);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

enum Work {
    Write(Entry),
    Report(u64),
    Flush,
    End,
}

/// Tells `close` that the thread has ended, even by a panic of the writer.
struct Ended<'a>(&'a Queue);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.lock().ended = true;
        self.0.ended.notify_all();
    }
}

const STACK: usize = 128 * 1024;

#[cfg(test)]
mod tests;
