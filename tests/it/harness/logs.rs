//! What a daemon writes to both of its streams, collected as it comes.

use std::{
    io::{BufRead, BufReader, Read},
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
};

use crate::harness::until_some;

/// What a daemon writes, as it comes.
#[derive(Default)]
pub struct Logs(Mutex<String>);

impl Logs {
    pub fn collect(self: &Arc<Self>, stream: impl Read + Send + 'static) -> JoinHandle<()> {
        let logs = Arc::clone(self);
        std::thread::spawn(move || {
            let mut stream = BufReader::new(stream);
            let mut line = Vec::new();
            while stream.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
                logs.0.lock().unwrap().push_str(&String::from_utf8_lossy(&line));
                line.clear();
            }
        })
    }

    pub fn text(&self) -> String {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What `find` finds, once it does. Fails with `what`.
    #[track_caller]
    pub fn find<T>(&self, what: &str, find: impl Fn(&str) -> Option<T>) -> T {
        let mut looked_at = None;
        until_some(what, || {
            let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            // Logs can be long. They are looked at again when there is more of them.
            if looked_at == Some(all.len()) {
                return None;
            }
            looked_at = Some(all.len());
            find(&all)
        })
    }
}
