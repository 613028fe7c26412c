//! Says once that an upstream can't be reached, and once that it can again; the access line of each request has its code.
//!
//! Depends on `connect`. On the way of a request that succeeds it costs one load.

use std::sync::{
    Arc,
    atomic::{AtomicU8, Ordering},
};

use tracing::{info, warn};

use super::problem::Code;
use crate::connect::ConnectError;

/// Of one API, over all workers. Clones share it.
#[derive(Clone, Default)]
pub struct ReachabilityLog(Arc<AtomicU8>);

/// The upstream was reached last.
const NONE: u8 = 0;

impl ReachabilityLog {
    /// There was no connection to be had.
    pub(super) fn failed(&self, api: &str, code: Code, error: ConnectError) {
        let now = code as u8 + 1;
        if self.0.swap(now, Ordering::Relaxed) != now {
            warn!(api, code = code.as_str(), reason = %error, "the upstream can't be reached");
        }
    }

    /// There was.
    pub(super) fn reached(&self, api: &str) {
        if self.0.load(Ordering::Relaxed) != NONE && self.0.swap(NONE, Ordering::Relaxed) != NONE {
            info!(api, "the upstream is reached again");
        }
    }
}
