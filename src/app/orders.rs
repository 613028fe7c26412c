//! What the daemon wants a worker to do.
//!
//! Guarantees: giving an order never waits, and is lost on no worker that still runs, however long it is stuck; what is ordered
//! meanwhile joins what was ordered before, so nothing piles up; a worker whose daemon is gone stops.

use std::{
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{Notify, oneshot};

use super::{listeners::Listener, snapshot::Snapshot};

/// What a worker has still to do.
#[derive(Default)]
pub(super) struct Orders {
    /// Serve by this from now on, the latest that there is.
    pub(super) take_over: Option<Arc<Snapshot>>,
    /// New listeners, in the order of the snapshot's.
    pub(super) listeners: Vec<Listener>,
    /// Close every idle upstream connection.
    pub(super) close_idle: bool,
    /// End now and drop the connections that are left.
    pub(super) stop: bool,
    /// Who waits until all of it is done.
    pub(super) done: Vec<oneshot::Sender<()>>,
}

struct Slot {
    /// `None`: the worker has ended.
    orders: Mutex<Option<Orders>>,
    given: Notify,
}

/// The daemon's end.
pub(super) struct OrderSender(Arc<Slot>);

/// The worker's end.
pub(super) struct OrderReceiver(Arc<Slot>);

/// Both ends.
pub(super) fn channel() -> (OrderSender, OrderReceiver) {
    let slot = Arc::new(Slot { orders: Mutex::new(Some(Orders::default())), given: Notify::new() });
    (OrderSender(Arc::clone(&slot)), OrderReceiver(slot))
}

impl Slot {
    fn lock(&self) -> MutexGuard<'_, Option<Orders>> {
        // Each order is added by itself.
        self.orders.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl OrderSender {
    /// Adds to what the worker has to do. What is returned ends when that is done, or when the worker has ended.
    pub(super) fn give(&self, order: impl FnOnce(&mut Orders)) -> oneshot::Receiver<()> {
        let (done, outcome) = oneshot::channel();
        if let Some(orders) = &mut *self.0.lock() {
            order(orders);
            // Nobody waits for a worker for long.
            orders.done.retain(|done| !done.is_closed());
            orders.done.push(done);
        }
        self.0.given.notify_one();
        outcome
    }
}

impl Drop for OrderSender {
    fn drop(&mut self) {
        drop(self.give(|orders| orders.stop = true));
    }
}

impl OrderReceiver {
    /// Waits for something to do, and takes all of it. Cancelled, it takes nothing.
    pub(super) async fn next(&self) -> Orders {
        self.0.given.notified().await;
        self.0.lock().as_mut().map(mem::take).unwrap_or_default()
    }
}

impl Drop for OrderReceiver {
    fn drop(&mut self) {
        *self.0.lock() = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_a_stuck_worker_is_told_waits_for_it_and_joins() {
        let (sender, receiver) = channel();
        for _ in 0..100 {
            drop(sender.give(|orders| orders.close_idle = true));
        }
        let mut outcome = sender.give(|_| {});
        let orders = receiver.next().await;
        assert!(orders.close_idle && !orders.stop && orders.take_over.is_none());
        assert_eq!(orders.done.len(), 1, "nobody waits for the others");
        assert!(outcome.try_recv().is_err());
        orders.done.into_iter().for_each(|done| done.send(()).unwrap());
        outcome.await.unwrap();
        drop(sender);
        assert!(receiver.next().await.stop, "nobody is left who could tell it to");
    }

    #[tokio::test]
    async fn nobody_waits_for_a_worker_that_has_ended() {
        let (sender, receiver) = channel();
        let before = sender.give(|orders| orders.close_idle = true);
        drop(receiver);
        assert!(before.await.is_err());
        assert!(sender.give(|orders| orders.close_idle = true).await.is_err());
    }
}
