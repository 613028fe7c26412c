//! Tells that a drain has begun, and when everything that it waits for has ended.

use tokio::sync::{mpsc, watch};

/// Tells a worker's acceptors and connections that a drain has begun. The drain ends when the last holder is dropped.
#[derive(Clone)]
pub struct Drain {
    begun: watch::Receiver<bool>,
    /// Every acceptor and connection holds a sender; the channel closes when the last one is dropped.
    alive: mpsc::Sender<()>,
}

impl Drain {
    /// Makes a drain that begins when `begun` turns true. The receiver yields `None` when the last holder is dropped.
    #[must_use]
    pub fn new(begun: watch::Receiver<bool>) -> (Self, mpsc::Receiver<()>) {
        let (alive, gone) = mpsc::channel(1);
        (Self { begun, alive }, gone)
    }

    /// Waits for the drain to begin. It also begins when the sender of `begun` is dropped.
    pub async fn begun(&mut self) {
        drop(self.begun.wait_for(|begun| *begun).await);
    }

    /// Whether the drain has begun.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        *self.begun.borrow()
    }

    /// Makes a holder that keeps the drain from ending until it is dropped.
    pub(super) fn hold(&self) -> mpsc::Sender<()> {
        self.alive.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_drain_ends_when_the_last_connection_has_ended() {
        let (sender, begun) = watch::channel(false);
        let (drain, mut gone) = Drain::new(begun);
        let connection = drain.hold();
        let mut acceptor = drain.clone();
        drop(drain);
        assert!(!acceptor.has_begun());
        sender.send(true).unwrap();
        acceptor.begun().await;
        assert!(acceptor.has_begun());
        drop(acceptor);
        assert_eq!(gone.try_recv(), Err(mpsc::error::TryRecvError::Empty), "a connection is left");
        drop(connection);
        assert_eq!(gone.recv().await, None);
    }

    #[tokio::test]
    async fn a_drain_begins_when_nobody_is_left_to_begin_it() {
        let (sender, begun) = watch::channel(false);
        let (mut drain, _gone) = Drain::new(begun);
        drop(sender);
        drain.begun().await;
    }
}
