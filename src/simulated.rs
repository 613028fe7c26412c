//! What stands in for the system in a simulation of the whole daemon (`app/simulation`). Only tests have it.
//!
//! A simulation runs on one thread, in paused time, where nothing may wait for another thread or for a real server. On that thread
//! a connection leads to a simulated server, and blocking work is done where it is asked for. Every other thread is not concerned.

use std::{cell::RefCell, io, net::SocketAddr, pin::Pin, sync::Arc};

use tokio::net::TcpStream;

/// A network of simulated servers.
pub(crate) trait Network: Send + Sync {
    /// Opens a connection, when the server takes it.
    fn connect(&self, address: SocketAddr) -> Pin<Box<dyn Future<Output = io::Result<TcpStream>> + Send>>;
}

thread_local! {
    static NETWORK: RefCell<Option<Arc<dyn Network>>> = const { RefCell::new(None) };
}

/// The network of this thread's simulation; `None` where nothing is simulated.
pub(crate) fn network() -> Option<Arc<dyn Network>> {
    NETWORK.with_borrow(Clone::clone)
}

/// Lets this thread be a simulation until the guard is dropped.
pub(crate) fn enter(network: Arc<dyn Network>) -> Simulated {
    NETWORK.set(Some(network));
    Simulated
}

/// Ends the simulation of its thread when it is dropped.
pub(crate) struct Simulated;

impl Drop for Simulated {
    fn drop(&mut self) {
        NETWORK.set(None);
    }
}
