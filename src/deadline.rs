//! Deadlines that cost next to nothing while they are kept.
//!
//! Depends on `clock`. One [`Deadlines`] per worker looks at all of its deadlines every [`TICK`], instead of one timer a
//! phase; so a deadline passes up to a tick late, never early. The ticking stops while nothing is armed.

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

/// All deadlines of one worker. Clones share them.
#[derive(Clone, Default)]
pub struct Deadlines(Arc<Shared>);

#[derive(Default)]
struct Shared {
    slots: Mutex<Slots>,
    armed: Notify,
}

#[derive(Default)]
struct Slots {
    all: Vec<Slot>,
    free: Vec<usize>,
    armed: usize,
    ticking: bool,
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

    /// Ticks for ever. One task of the worker runs it.
    pub async fn run(&self) {
        loop {
            if self.0.must_tick() {
                tokio::time::sleep(TICK).await;
                self.0.tick();
            } else {
                self.0.armed.notified().await;
            }
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Slots> {
        // Nothing in here can panic half-way.
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn must_tick(&self) -> bool {
        let mut slots = self.lock();
        slots.ticking = slots.armed > 0;
        slots.ticking
    }

    fn tick(&self) {
        let now = clock::instant();
        let mut slots = self.lock();
        let slots = &mut *slots;
        for slot in &mut slots.all {
            if matches!(slot.state, State::Armed(at) if at <= now) {
                slot.state = State::Passed;
                slots.armed -= 1;
                if let Some(waker) = slot.waker.take() {
                    waker.wake();
                }
            }
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
        if !matches!(slots.all[self.slot].state, State::Armed(_)) {
            slots.armed += 1;
        }
        slots.all[self.slot].state = State::Armed(at);
        if !slots.ticking {
            slots.ticking = true;
            drop(slots);
            self.shared.armed.notify_one();
        }
    }

    /// It does not pass until it is armed again.
    pub fn disarm(&self) {
        let mut slots = self.shared.lock();
        if matches!(slots.all[self.slot].state, State::Armed(_)) {
            slots.armed -= 1;
        }
        slots.all[self.slot].state = State::Unarmed;
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
        self.disarm();
        let mut slots = self.shared.lock();
        slots.all[self.slot].waker = None;
        slots.free.push(self.slot);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn ticking() -> Deadlines {
        let deadlines = Deadlines::default();
        let runner = deadlines.clone();
        tokio::spawn(async move { runner.run().await });
        tokio::task::yield_now().await;
        deadlines
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_passes_within_a_tick_and_never_early() {
        let deadlines = ticking().await;
        let deadline = deadlines.deadline();
        let start = clock::instant();
        deadline.arm(Duration::from_secs(3));
        deadline.passed().await;
        let took = start.elapsed();
        assert!(took >= Duration::from_secs(3), "{took:?}");
        assert!(took <= Duration::from_secs(3) + 2 * TICK, "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn arming_again_moves_it_and_disarming_stops_it() {
        let deadlines = ticking().await;
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
    async fn the_ticking_stops_while_nothing_is_armed_and_slots_are_used_again() {
        let deadlines = ticking().await;
        for _ in 0..3 {
            let deadline = deadlines.deadline();
            deadline.arm(Duration::from_millis(200));
            deadline.passed().await;
        }
        assert_eq!(deadlines.0.lock().all.len(), 1);
        tokio::time::sleep(2 * TICK).await;
        assert!(!deadlines.0.lock().ticking);
        assert_eq!(deadlines.0.lock().armed, 0);
    }
}
