//! What a daemon writes to both of its streams, collected as it comes.

use std::{
    io::{BufRead, BufReader, Read},
    sync::{Arc, Condvar, Mutex, PoisonError},
    thread::JoinHandle,
    time::Instant,
};

use crate::harness::PATIENCE;

/// What a daemon writes, as it comes.
#[derive(Default)]
pub struct Logs {
    text: Mutex<String>,
    grown: Condvar,
}

impl Logs {
    pub fn collect(self: &Arc<Self>, stream: impl Read + Send + 'static) -> JoinHandle<()> {
        let logs = Arc::clone(self);
        std::thread::spawn(move || {
            let mut stream = BufReader::new(stream);
            let mut line = Vec::new();
            while stream.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
                logs.text.lock().unwrap().push_str(&String::from_utf8_lossy(&line));
                logs.grown.notify_all();
                line.clear();
            }
            // Whoever waits for a line that never comes must not wait for ever.
            logs.grown.notify_all();
        })
    }

    pub fn text(&self) -> String {
        // Whoever waited in vain panicked with the lock in hand; its test still wants to show the log.
        self.text.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn wait_for(&self, text: &str) -> String {
        self.find(|all| all.lines().find(|line| line.contains(text)).map(str::to_owned))
            .unwrap_or_else(|| panic!("no line with {text:?}\n{}", self.text()))
    }

    /// What `found` finds, once it does, or nothing when it never does. The lock is free again by then: a test that fails
    /// for it shows the log.
    pub fn find<T>(&self, found: impl Fn(&str) -> Option<T>) -> Option<T> {
        let deadline = Instant::now() + PATIENCE;
        let mut all = self.text.lock().unwrap();
        loop {
            if let Some(found) = found(&all) {
                return Some(found);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            all = self.grown.wait_timeout(all, left).unwrap().0;
        }
    }
}
