//! Deadlines that cost next to nothing while they are kept.
//!
//! Depends on `clock`. One [`Deadlines`] per worker looks at all of its deadlines together, instead of one timer a phase:
//! every [`TICK`] while one of them is near, else every second, and not at all while nothing is armed. So a deadline
//! passes up to a tick late, never early; arming one wakes nobody unless it is due before the next look.

use std::{
    future::poll_fn,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

use crate::clock;

/// How late a deadline may pass.
pub const TICK: Duration = Duration::from_millis(100);

/// How often deadlines are looked at while none is due within [`NEAR`]. Connections may be idle for hours.
const SLOW: Duration = Duration::from_secs(1);
/// What is due sooner than this is looked at every tick. More than one slow look away, so that none comes too late.
const NEAR: Duration = Duration::from_secs(2);

/// All deadlines of one worker. Clones share them.
#[derive(Clone, Default)]
pub struct Deadlines(Arc<Shared>);

#[derive(Default)]
struct Shared {
    slots: Mutex<Slots>,
    /// One was armed that is due before the next look.
    sooner: Notify,
}

#[derive(Default)]
struct Slots {
    all: Vec<Slot>,
    free: Vec<usize>,
    /// When all are looked at next; `None`: nothing is armed.
    next_look: Option<Instant>,
}

#[derive(Default)]
struct Slot {
    state: State,
    waker: Option<Waker>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum State {
    #[default]
    Unarmed,
    Armed(Instant),
    Passed,
}

impl Deadlines {
    /// A deadline that is not armed yet.
    #[must_use]
    pub fn deadline(&self) -> Deadline {
        let mut slots = self.0.lock();
        let slot = slots.free.pop().unwrap_or_else(|| {
            slots.all.push(Slot::default());
            slots.all.len() - 1
        });
        Deadline { shared: Arc::clone(&self.0), slot }
    }

    /// Looks for ever. One task of the worker runs it.
    pub async fn run(&self) {
        loop {
            let next_look = self.0.look();
            let sooner = self.0.sooner.notified();
            match next_look {
                None => sooner.await,
                Some(at) => tokio::select! {
                    () = tokio::time::sleep_until(at) => {}
                    () = sooner => {}
                },
            }
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Slots> {
        // Nothing in here can panic half-way.
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes whose time has come, and says when to look again.
    fn look(&self) -> Option<Instant> {
        let now = clock::instant();
        let mut slots = self.lock();
        let mut soonest: Option<Instant> = None;
        for slot in &mut slots.all {
            match slot.state {
                State::Armed(at) if at <= now => slot.pass(),
                State::Armed(at) => soonest = Some(soonest.map_or(at, |soonest| soonest.min(at))),
                State::Unarmed | State::Passed => {}
            }
        }
        slots.next_look = soonest.map(|soonest| now + if soonest <= now + NEAR { TICK } else { SLOW });
        slots.next_look
    }
}

impl Slot {
    fn pass(&mut self) {
        self.state = State::Passed;
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

/// One deadline, armed and disarmed as often as needed. Freed when dropped.
pub struct Deadline {
    shared: Arc<Shared>,
    slot: usize,
}

impl Deadline {
    /// It passes `after` from now; an earlier arming is forgotten.
    pub fn arm(&self, after: Duration) {
        self.arm_at(clock::instant() + after);
    }

    /// It passes at `at`.
    pub fn arm_at(&self, at: Instant) {
        let mut slots = self.shared.lock();
        slots.all[self.slot].state = State::Armed(at);
        if slots.next_look.is_none_or(|next| at < next) {
            // Whoever arms the next one need not say so again.
            slots.next_look = Some(at);
            drop(slots);
            self.shared.sooner.notify_one();
        }
    }

    /// It passes now. From any thread.
    pub fn pass(&self) {
        self.shared.lock().all[self.slot].pass();
    }

    /// It does not pass until it is armed again.
    pub fn disarm(&self) {
        self.shared.lock().all[self.slot].state = State::Unarmed;
    }

    /// Whether it has passed; if not, the task is woken when it does.
    pub fn poll_passed(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut slots = self.shared.lock();
        let slot = &mut slots.all[self.slot];
        if slot.state == State::Passed {
            return Poll::Ready(());
        }
        if !slot.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            slot.waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Waits until it has passed.
    pub async fn passed(&self) {
        poll_fn(|cx| self.poll_passed(cx)).await;
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        let mut slots = self.shared.lock();
        slots.all[self.slot] = Slot::default();
        slots.free.push(self.slot);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn looking() -> Deadlines {
        let deadlines = Deadlines::default();
        let runner = deadlines.clone();
        tokio::spawn(async move { runner.run().await });
        tokio::task::yield_now().await;
        deadlines
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_passes_within_a_tick_and_never_early() {
        let deadlines = looking().await;
        for after in [10, 300, 1000, 1950, 2050, 3000, 3333] {
            let deadline = deadlines.deadline();
            let (start, after) = (clock::instant(), Duration::from_millis(after));
            deadline.arm(after);
            deadline.passed().await;
            let took = start.elapsed();
            assert!(took >= after, "{took:?}");
            assert!(took <= after + 2 * TICK, "{took:?} for {after:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_armed_between_two_slow_looks_passes_in_time() {
        let deadlines = looking().await;
        let (far, near) = (deadlines.deadline(), deadlines.deadline());
        far.arm(Duration::from_secs(3600));
        tokio::time::sleep(Duration::from_millis(300)).await;
        let start = clock::instant();
        near.arm(Duration::from_millis(200));
        near.passed().await;
        assert!(start.elapsed() <= Duration::from_millis(200) + 2 * TICK, "{:?}", start.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn arming_again_moves_it_and_disarming_stops_it() {
        let deadlines = looking().await;
        let (moved, stopped) = (deadlines.deadline(), deadlines.deadline());
        moved.arm(Duration::from_secs(1));
        stopped.arm(Duration::from_secs(1));
        moved.arm(Duration::from_secs(5));
        stopped.disarm();
        let start = clock::instant();
        moved.passed().await;
        assert!(start.elapsed() >= Duration::from_secs(5));
        let never = tokio::time::timeout(Duration::from_secs(60), stopped.passed()).await;
        assert!(never.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn one_can_be_made_to_pass_long_before_its_time() {
        let deadlines = looking().await;
        let deadline = deadlines.deadline();
        deadline.arm(Duration::from_secs(3600));
        let start = clock::instant();
        deadline.pass();
        deadline.passed().await;
        assert_eq!(start.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn while_everything_is_far_away_looks_are_rare_and_arming_wakes_nobody() {
        let deadlines = looking().await;
        let deadline = deadlines.deadline();
        deadline.arm(Duration::from_secs(3600));
        tokio::time::sleep(Duration::from_millis(10)).await;
        let next = deadlines.0.lock().next_look;
        assert!(next.is_some_and(|next| next > clock::instant() + SLOW / 2));
        deadline.arm(Duration::from_secs(10));
        deadline.arm(Duration::from_secs(60));
        assert_eq!(deadlines.0.lock().next_look, next);
    }

    #[tokio::test(start_paused = true)]
    async fn the_looking_stops_while_nothing_is_armed_and_slots_are_used_again() {
        let deadlines = looking().await;
        for _ in 0..3 {
            let deadline = deadlines.deadline();
            deadline.arm(Duration::from_millis(200));
            deadline.passed().await;
        }
        assert_eq!(deadlines.0.lock().all.len(), 1);
        tokio::time::sleep(2 * TICK).await;
        assert_eq!(deadlines.0.lock().next_look, None);
    }
}
