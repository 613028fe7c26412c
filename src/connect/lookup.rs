//! Resolves names, each on a thread of its own: the system's resolver blocks.

use std::{
    net::{SocketAddr, ToSocketAddrs as _},
    sync::{Arc, Once},
};

use tokio::sync::Semaphore;
use tracing::warn;

use crate::resources::{self, blocking};

/// Look-ups of one name at a time; further ones wait. A resolver that hangs holds at most this many threads.
const LOOKUPS_MAX: usize = 64;

/// The look-ups of one connector.
pub(super) struct Lookups {
    permits: Arc<Semaphore>,
    refused: Once,
}

impl Default for Lookups {
    fn default() -> Self {
        Self { permits: Arc::new(Semaphore::new(LOOKUPS_MAX)), refused: Once::new() }
    }
}

impl Lookups {
    /// The addresses in the resolver's order; none when it knows none, or when the system refuses a thread, which is logged once.
    pub(super) async fn resolve(&self, host: String, port: u16) -> Vec<SocketAddr> {
        // Nobody closes the semaphore.
        let Ok(permit) = Arc::clone(&self.permits).acquire_owned().await else { return Vec::new() };
        let lookup = blocking(move || {
            let found = (host.as_str(), port).to_socket_addrs().map(Iterator::collect);
            // A look-up that hangs keeps its permit, though nobody waits for it any more.
            drop(permit);
            found
        });
        match lookup.await {
            Ok(found) => found.unwrap_or_default(),
            Err(error) => {
                let advice = resources::advice(&error);
                let log = || warn!(%error, advice, "a name can't be resolved: the system refuses a thread");
                self.refused.call_once(log);
                Vec::new()
            }
        }
    }
}
