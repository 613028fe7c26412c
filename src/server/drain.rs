//! The word that a drain has begun, and the wait until everything it concerns has ended.

use tokio::sync::{mpsc, watch};

/// Tells a worker's loops and connections that a drain has begun, and who waits for them that they have ended.
#[derive(Clone)]
pub struct Drain {
    begun: watch::Receiver<bool>,
    /// Held by every loop and connection; the channel closes when the last is gone.
    alive: mpsc::Sender<()>,
}

impl Drain {
    /// `begun` turns true once. The receiver yields `None` when every holder of the drain is gone.
    #[must_use]
    pub fn new(begun: watch::Receiver<bool>) -> (Self, mpsc::Receiver<()>) {
        let (alive, gone) = mpsc::channel(1);
        (Self { begun, alive }, gone)
    }

    /// Waits for the drain to begin. A sender that is gone counts as a beginning.
    pub async fn begun(&mut self) {
        drop(self.begun.wait_for(|begun| *begun).await);
    }

    /// Whether it has.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        *self.begun.borrow()
    }

    /// Keeps the drain from ending while it lives.
    pub(super) fn hold(&self) -> mpsc::Sender<()> {
        self.alive.clone()
    }
}
