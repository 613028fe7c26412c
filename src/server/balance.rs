//! Shares the connections of an address out among the workers that accept there.
//!
//! A new connection wakes all of them, and whichever is first accepts it: an app that keeps four connections may have all on one
//! worker, and of a burst one worker may get twice as many as another, and open upstream connections for them while others have
//! idle ones. So whoever accepts gives a connection to the worker that has the fewest. Guarantees: each connection is served once,
//! also when a drain begins; a worker that does not take what it was given gets no more.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::mpsc;

use super::{Drain, DrainHolder, client_io::UnregisteredStream, connection_limit::ConnectionPermit};
use crate::deadline::Deadlines;

/// How many connections may wait for the worker that they were given to. A burst that one worker accepts while another wakes up is
/// shorter.
const GIVEN: usize = 256;

/// The workers that accept at one address. Clones share them.
#[derive(Clone, Default)]
pub struct Balance(Arc<Mutex<Vec<Arc<Member>>>>);

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

/// A worker's membership, until it is dropped.
pub(super) struct Membership {
    balance: Balance,
    own: Arc<Member>,
}

/// Another worker that a connection is for.
pub(super) struct Recipient {
    member: Arc<Member>,
    alive: DrainHolder,
    place: mpsc::OwnedPermit<GivenConnection>,
}

impl Balance {
    /// Adds a worker. It has to take what the receiver gives, until the receiver is closed and gives nothing more.
    pub(super) fn join(&self, deadlines: &Deadlines, drain: &Drain) -> (Membership, mpsc::Receiver<GivenConnection>) {
        let (given, taken) = mpsc::channel(GIVEN);
        let own = Arc::new(Member { deadlines: deadlines.clone(), drain: drain.clone(), given });
        self.lock().push(Arc::clone(&own));
        (Membership { balance: self.clone(), own }, taken)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Member>>> {
        // Nothing can panic while it is held.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Membership {
    /// Counts a connection for the worker that has the fewest: another one that takes what it is given, or else our own.
    pub(super) fn assign(&self) -> Result<Recipient, DrainHolder> {
        // While it is held, nobody else assigns.
        let members = self.balance.lock();
        let fewest = members.iter().min_by_key(|member| member.drain.connections());
        let other = fewest.filter(|member| member.drain.connections() < self.own.drain.connections());
        let place = other.and_then(|member| Some((member, member.given.clone().try_reserve_owned().ok()?)));
        let Some((member, place)) = place else { return Err(self.own.drain.hold()) };
        Ok(Recipient { member: Arc::clone(member), alive: member.drain.hold(), place })
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        self.balance.lock().retain(|member| !Arc::ptr_eq(member, &self.own));
    }
}

impl Recipient {
    /// What the connection's deadline is one of.
    pub(super) fn deadlines(&self) -> &Deadlines {
        &self.member.deadlines
    }

    /// Gives the worker a connection.
    pub(super) fn give(self, stream: UnregisteredStream, permit: ConnectionPermit) {
        self.place.send(GivenConnection { stream, permit, alive: self.alive });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_connection_is_for_the_worker_that_has_the_fewest() {
        let balance = Balance::default();
        let [one, other] = [Drain::new().0, Drain::new().0];
        let (here, _given_here) = balance.join(&Deadlines::default(), &one);
        let alone: Vec<_> = (0..3).map(|_| here.assign().err().unwrap()).collect();
        let (_there, mut given_there) = balance.join(&Deadlines::default(), &other);
        let given: Vec<_> = (0..3).map(|_| here.assign().ok().unwrap()).collect();
        assert_eq!((one.connections(), other.connections()), (3, 3));
        let own = here.assign().err();
        assert!(own.is_some(), "as many as the other one has");
        assert!(here.assign().is_ok());
        drop((alone, own));
        assert!(here.assign().is_err());
        // One that ends, or takes nothing, gets nothing.
        let many: Vec<_> = (0..2 * GIVEN).map(|_| one.hold()).collect();
        let waiting: Vec<_> = std::iter::from_fn(|| here.assign().ok()).collect();
        assert_eq!((waiting.len() + given.len(), other.connections()), (GIVEN, GIVEN));
        drop((waiting, given));
        given_there.close();
        assert!(here.assign().is_err() && many.len() > other.connections());
    }

    #[test]
    fn a_worker_that_has_left_gets_nothing() {
        let balance = Balance::default();
        let [one, other] = [Drain::new().0, Drain::new().0];
        let (here, _given_here) = balance.join(&Deadlines::default(), &one);
        let (there, _given_there) = balance.join(&Deadlines::default(), &other);
        let _busy = one.hold();
        assert!(here.assign().is_ok());
        drop(there);
        assert!(here.assign().is_err());
    }
}
