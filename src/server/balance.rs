//! Shares the connections of an address out among the workers that accept there.
//!
//! A new connection wakes all of them, and whichever is first accepts it: an app that keeps four connections may have all on one
//! worker, and of a burst one worker may get twice as many as another, and open upstream connections for them while others have
//! idle ones. So the acceptor gives each connection to the worker that has the fewest. Guarantees: each connection is served once,
//! also when a drain begins; at most [`HANDOVER_QUEUE`] connections wait for a worker.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::mpsc;

use super::{Drain, DrainHolder, client_io::UnregisteredStream, connection_limit::ConnectionPermit};
use crate::deadline::Deadlines;

/// How many connections may wait for the worker that they were given to. A burst that one worker accepts while another wakes up is
/// shorter.
const HANDOVER_QUEUE: usize = 256;

/// The workers that accept at one address. Clones share them.
#[derive(Clone, Default)]
pub struct ConnectionBalancer(Arc<Mutex<Vec<Arc<Member>>>>);

/// A worker that accepts.
struct Member {
    deadlines: Deadlines,
    drain: Drain,
    given: mpsc::Sender<GivenConnection>,
}

/// A connection that another worker has accepted.
pub(super) struct GivenConnection {
    pub(super) stream: UnregisteredStream,
    pub(super) permit: ConnectionPermit,
    pub(super) alive: DrainHolder,
}

/// A worker's entry, until it is dropped.
pub(super) struct BalancerEntry {
    balancer: ConnectionBalancer,
    own: Arc<Member>,
}

/// Which worker a connection is for.
pub(super) enum Assigned {
    /// The one that has accepted it.
    Own(DrainHolder),
    Other(Recipient),
}

/// Another worker that a connection is for.
pub(super) struct Recipient {
    member: Arc<Member>,
    alive: DrainHolder,
    queue_slot: mpsc::OwnedPermit<GivenConnection>,
}

impl ConnectionBalancer {
    /// Adds a worker. It has to take what the receiver gives, until the receiver is closed and gives nothing more.
    pub(super) fn join(&self, deadlines: &Deadlines, drain: &Drain) -> (BalancerEntry, mpsc::Receiver<GivenConnection>) {
        let (given, taken) = mpsc::channel(HANDOVER_QUEUE);
        let own = Arc::new(Member { deadlines: deadlines.clone(), drain: drain.clone(), given });
        self.lock().push(Arc::clone(&own));
        (BalancerEntry { balancer: self.clone(), own }, taken)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Member>>> {
        // Nothing can panic while it is held.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl BalancerEntry {
    /// Counts a connection for the worker that has the fewest: another one that takes what it is given, or else our own.
    pub(super) fn assign(&self) -> Assigned {
        // While it is held, nobody else assigns.
        let members = self.balancer.lock();
        let fewest = members.iter().min_by_key(|member| member.drain.connections());
        let other = fewest.filter(|member| member.drain.connections() < self.own.drain.connections());
        let slot = other.and_then(|member| Some((member, member.given.clone().try_reserve_owned().ok()?)));
        let Some((member, queue_slot)) = slot else { return Assigned::Own(self.own.drain.hold()) };
        Assigned::Other(Recipient { member: Arc::clone(member), alive: member.drain.hold(), queue_slot })
    }
}

impl Drop for BalancerEntry {
    fn drop(&mut self) {
        self.balancer.lock().retain(|member| !Arc::ptr_eq(member, &self.own));
    }
}

impl Recipient {
    /// The deadlines of that worker.
    pub(super) fn deadlines(&self) -> &Deadlines {
        &self.member.deadlines
    }

    /// Gives the worker a connection.
    pub(super) fn give(self, stream: UnregisteredStream, permit: ConnectionPermit) {
        self.queue_slot.send(GivenConnection { stream, permit, alive: self.alive });
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    fn own(entry: &BalancerEntry) -> Option<DrainHolder> {
        if let Assigned::Own(alive) = entry.assign() { Some(alive) } else { None }
    }

    fn other_one(entry: &BalancerEntry) -> Option<Recipient> {
        if let Assigned::Other(recipient) = entry.assign() { Some(recipient) } else { None }
    }

    #[test]
    fn each_connection_is_for_the_worker_that_has_the_fewest() {
        let balancer = ConnectionBalancer::default();
        let [one, other] = [Drain::new().0, Drain::new().0];
        let (here, _given_here) = balancer.join(&Deadlines::default(), &one);
        let alone: Vec<_> = (0..3).map(|_| own(&here).unwrap()).collect();
        let (_there, mut given_there) = balancer.join(&Deadlines::default(), &other);
        let given: Vec<_> = (0..3).map(|_| other_one(&here).unwrap()).collect();
        assert_eq!((one.connections(), other.connections()), (3, 3));
        let also_own = own(&here);
        assert!(also_own.is_some(), "as many as the other one has");
        assert!(other_one(&here).is_some());
        drop((alone, also_own));
        assert!(own(&here).is_some());
        // One that ends, or takes nothing, gets nothing.
        let many: Vec<_> = (0..2 * HANDOVER_QUEUE).map(|_| one.hold()).collect();
        let waiting: Vec<_> = std::iter::from_fn(|| other_one(&here)).collect();
        assert_eq!((waiting.len() + given.len(), other.connections()), (HANDOVER_QUEUE, HANDOVER_QUEUE));
        drop((waiting, given));
        given_there.close();
        assert!(own(&here).is_some() && many.len() > other.connections());
    }

    #[test]
    fn a_worker_that_has_left_gets_nothing() {
        let balancer = ConnectionBalancer::default();
        let [one, other] = [Drain::new().0, Drain::new().0];
        let (here, _given_here) = balancer.join(&Deadlines::default(), &one);
        let (there, _given_there) = balancer.join(&Deadlines::default(), &other);
        let _busy = one.hold();
        assert!(other_one(&here).is_some());
        drop(there);
        assert!(own(&here).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_is_given_away_goes_by_the_deadlines_of_its_new_worker() {
        let (balancer, deadlines) = (ConnectionBalancer::default(), Deadlines::default());
        let [one, other] = [Drain::new().0, Drain::new().0];
        let (here, _given_here) = balancer.join(&Deadlines::default(), &one);
        let (_there, _given_there) = balancer.join(&deadlines, &other);
        let _busy = one.hold();
        let deadline = other_one(&here).unwrap().deadlines().deadline();
        deadline.arm(Duration::from_secs(1));
        tokio::select! {
            passed = timeout(Duration::from_secs(10), deadline.passed()) => passed.unwrap(),
            () = deadlines.run() => {}
        }
    }
}
