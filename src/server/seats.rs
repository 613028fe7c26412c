//! Places for connections at one listen address, over all workers, and who gives his up when there is none.
//!
//! Depends on `deadline`. Guarantees: never more seats than the limit; a connection that is asked to leave is the one that
//! has been idle longest, one at a time, and decides itself whether it still is idle. The lock is taken when a connection
//! comes or goes, and when the limit is reached; not for a request.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Notify, futures::Notified},
    time::{Instant, timeout},
};

use crate::{
    clock,
    deadline::{Deadline, Deadlines},
};

/// The seats of one listen address. Clones share them.
#[derive(Clone)]
pub struct Seats(Arc<Shared>);

struct Shared {
    room: Mutex<Room>,
    /// One acceptor has somebody waiting and looks for a seat: the next free one is his.
    claimed: AtomicBool,
    /// A seat is free, or somebody else could be asked to leave.
    changed: Notify,
    epoch: Instant,
}

struct Room {
    limit: usize,
    taken: usize,
    /// Seats whose connection has come; the other ones are held by acceptors.
    seated: usize,
    guests: Vec<Option<Arc<Guest>>>,
    free: Vec<usize>,
}

/// One connection, as acceptors on all workers see it.
struct Guest {
    deadline: Deadline,
    /// Nanoseconds since the epoch, perhaps in the future; [`BUSY`] while it is not idle.
    idle_since: AtomicU64,
    /// Asked to leave.
    told: AtomicBool,
}

const BUSY: u64 = u64::MAX;

impl Guest {
    /// Asks it to leave. Its task is woken, on whichever worker.
    fn ask(&self) {
        self.told.store(true, Ordering::SeqCst);
        self.deadline.pass();
    }
}

impl Seats {
    /// For `limit` connections at a time.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        let room = Room { limit, taken: 0, seated: 0, guests: Vec::new(), free: Vec::new() };
        Self(Arc::new(Shared {
            room: Mutex::new(room),
            claimed: AtomicBool::new(false),
            changed: Notify::new(),
            epoch: clock::instant(),
        }))
    }

    /// From now on as many. Whoever is over a lower limit may stay, and each acceptor that has a seat ready uses it; other
    /// newcomers wait.
    pub fn set_limit(&self, limit: usize) {
        self.0.lock().limit = limit;
        self.0.changed.notify_waiters();
    }

    /// Connections that are there, and how many may be.
    #[must_use]
    pub fn taken(&self) -> (usize, usize) {
        let room = self.0.lock();
        (room.seated, room.limit)
    }

    /// A free seat, with a deadline of the connection's worker.
    pub(super) fn take(&self, deadlines: &Deadlines) -> Option<Seat> {
        let spoken_for = usize::from(self.0.claimed.load(Ordering::SeqCst));
        self.take_beside(spoken_for, deadlines)
    }

    fn take_beside(&self, spoken_for: usize, deadlines: &Deadlines) -> Option<Seat> {
        let mut room = self.0.lock();
        if room.taken + spoken_for >= room.limit {
            return None;
        }
        room.taken += 1;
        let guest =
            Arc::new(Guest { deadline: deadlines.deadline(), idle_since: AtomicU64::new(BUSY), told: AtomicBool::new(false) });
        let key = room.free.pop().unwrap_or_else(|| {
            room.guests.push(None);
            room.guests.len() - 1
        });
        room.guests[key] = Some(Arc::clone(&guest));
        Some(Seat { guest, key, came: false, seats: self.clone() })
    }

    /// The right to ask somebody to leave: one acceptor at a time has it, and none while another one holds a seat for
    /// whoever comes next.
    pub(super) fn claim(&self) -> Option<Claim> {
        let room = self.0.lock();
        let one_is_held = room.taken > room.seated;
        (!one_is_held && !self.0.claimed.swap(true, Ordering::SeqCst)).then(|| Claim(self.clone()))
    }

    /// Completes when it is worth looking again. What happens before it is first polled counts once it is enabled.
    pub(super) fn changed(&self) -> Notified<'_> {
        self.0.changed.notified()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Room> {
        // Counts and list change together, and nothing in between can panic.
        self.room.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn nanoseconds(&self, instant: Instant) -> u64 {
        let since = instant.saturating_duration_since(self.epoch).as_nanos();
        u64::try_from(since).unwrap_or(BUSY - 1)
    }

    /// Somebody who looks for a seat may find one now.
    fn notify_claimant(&self) {
        if self.claimed.load(Ordering::SeqCst) {
            self.changed.notify_waiters();
        }
    }
}

/// Looks for a seat for somebody who waits. Dropped, the next acceptor may.
pub(super) struct Claim(Seats);

impl Claim {
    /// Waits for a free seat, and asks the longest idle connection for its own.
    pub(super) async fn seat(&self, deadlines: &Deadlines) -> Seat {
        loop {
            let mut changed = std::pin::pin!(self.0.changed());
            changed.as_mut().enable();
            if let Some(seat) = self.0.take_beside(0, deadlines) {
                return seat;
            }
            match self.ask_longest_idle() {
                // It makes no difference which of the two it was.
                Some(moment) => drop(timeout(moment, changed).await),
                None => changed.await,
            }
        }
    }

    /// Nobody, while one who was asked before has not made up his mind. Where nobody counts as idle yet, but somebody will,
    /// after how long.
    fn ask_longest_idle(&self) -> Option<Duration> {
        let room = self.0.0.lock();
        let guests = || room.guests.iter().flatten();
        if guests().any(|guest| guest.told.load(Ordering::SeqCst)) {
            return None;
        }
        let idle = guests().map(|guest| (guest.idle_since.load(Ordering::SeqCst), guest)).filter(|(since, _)| *since != BUSY);
        let (since, longest) = idle.min_by_key(|(since, _)| *since)?;
        let now = self.0.0.nanoseconds(clock::instant());
        if since <= now {
            longest.ask();
            return None;
        }
        Some(Duration::from_nanos(since - now))
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.0.0.claimed.store(false, Ordering::SeqCst);
        self.0.0.changed.notify_waiters();
    }
}

/// One connection's place. Free again when dropped.
pub(super) struct Seat {
    guest: Arc<Guest>,
    key: usize,
    came: bool,
    seats: Seats,
}

impl Seat {
    /// Its connection has come.
    pub(super) fn sit(&mut self) {
        self.came = true;
        self.seats.0.lock().seated += 1;
        // Acceptors that left the newcomer to us look whether there is another one.
        self.seats.0.changed.notify_waiters();
    }

    /// The one deadline of the connection; it passes, too, when the connection is asked to leave.
    pub(super) fn deadline(&self) -> &Deadline {
        &self.guest.deadline
    }

    /// The connection is idle since then, or will be.
    pub(super) fn idle(&self, since: Instant) {
        self.guest.idle_since.store(self.seats.0.nanoseconds(since), Ordering::SeqCst);
        self.seats.0.notify_claimant();
    }

    /// It is not idle any more. To be called after its deadline was set, so that a request to leave is either seen here or
    /// makes that deadline pass. Whether it was asked to leave before.
    pub(super) fn busy(&self) -> bool {
        self.guest.idle_since.store(BUSY, Ordering::SeqCst);
        self.decline()
    }

    /// Somebody asks it to leave who thought it idle.
    #[cfg(test)]
    pub(super) fn ask(&self) {
        self.guest.ask();
    }

    /// If it was asked to leave: it does not. Whether it was.
    pub(super) fn decline(&self) -> bool {
        let told = self.guest.told.load(Ordering::SeqCst);
        if told {
            self.guest.told.store(false, Ordering::SeqCst);
            self.seats.0.notify_claimant();
        }
        told
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut room = self.seats.0.lock();
        room.taken -= 1;
        room.seated -= usize::from(self.came);
        room.guests[self.key] = None;
        room.free.push(self.key);
        drop(room);
        self.seats.0.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, time::Duration};

    use super::*;

    fn seated(seats: &Seats, deadlines: &Deadlines) -> Seat {
        let mut seat = seats.take(deadlines).unwrap();
        seat.sit();
        seat
    }

    /// Whether it was asked to leave.
    async fn is_told(seat: &Seat) -> bool {
        poll_fn(|cx| std::task::Poll::Ready(seat.deadline().poll_passed(cx).is_ready())).await
            && seat.guest.told.load(Ordering::SeqCst)
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_seats_than_the_limit_and_it_can_be_changed() {
        let (seats, deadlines) = (Seats::new(2), Deadlines::default());
        let first = seated(&seats, &deadlines);
        let _second = seated(&seats, &deadlines);
        assert!(seats.take(&deadlines).is_none());
        seats.set_limit(3);
        let third = seated(&seats, &deadlines);
        seats.set_limit(1);
        drop((first, third));
        assert!(seats.take(&deadlines).is_none());
        assert_eq!(seats.0.lock().guests.len(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn the_longest_idle_one_is_asked_and_nobody_else_until_it_has_decided() {
        let (seats, deadlines) = (Seats::new(3), Deadlines::default());
        let [busy, older, newer] = [(); 3].map(|()| seated(&seats, &deadlines));
        older.idle(clock::instant());
        newer.idle(clock::instant() + Duration::from_millis(1));
        let claim = seats.claim().unwrap();
        assert!(seats.claim().is_none(), "one at a time");
        let mut seat = Box::pin(claim.seat(&deadlines));
        assert!(tokio::time::timeout(Duration::from_secs(1), &mut seat).await.is_err());
        assert!(is_told(&older).await);
        assert!(!is_told(&newer).await && !is_told(&busy).await);

        // A request has begun just then.
        older.deadline().disarm();
        older.busy();
        assert!(tokio::time::timeout(Duration::from_secs(1), &mut seat).await.is_err());
        assert!(!is_told(&older).await && is_told(&newer).await);

        drop(newer);
        let _found = seat.await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_freed_seat_is_the_claimants() {
        let (seats, deadlines) = (Seats::new(1), Deadlines::default());
        let only = seated(&seats, &deadlines);
        let claim = seats.claim().unwrap();
        drop(only);
        assert!(seats.take(&deadlines).is_none());
        drop(claim.seat(&deadlines).await);
        drop(claim);
        assert!(seats.take(&deadlines).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_is_asked_while_another_acceptor_holds_a_seat() {
        let (seats, deadlines) = (Seats::new(2), Deadlines::default());
        let _connection = seated(&seats, &deadlines);
        let mut held = seats.take(&deadlines).unwrap();
        assert!(seats.claim().is_none());
        held.sit();
        assert!(seats.claim().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn who_becomes_idle_later_is_asked_then() {
        let (seats, deadlines) = (Seats::new(1), Deadlines::default());
        let only = seated(&seats, &deadlines);
        let claim = seats.claim().unwrap();
        let mut seat = Box::pin(claim.seat(&deadlines));
        assert!(tokio::time::timeout(Duration::from_secs(1), &mut seat).await.is_err());
        assert!(!is_told(&only).await);
        only.idle(clock::instant());
        assert!(tokio::time::timeout(Duration::from_secs(1), &mut seat).await.is_err());
        assert!(is_told(&only).await);
    }
}
