//! Deadlines that cost next to nothing to arm and disarm.
//!
//! Instead of one timer per phase of a request, one [`Deadlines`] per worker checks all of its deadlines together: every
//! [`TICK`] while one of them is near, else every second, and not at all while none is armed. Guarantees: a deadline passes up
//! to a tick late and never early; arming one wakes no task unless it is due before the next check.

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

/// How often deadlines are checked while none is due within [`NEAR`]. Connections may be idle for hours.
const SLOW: Duration = Duration::from_secs(1);
/// A deadline that is due sooner than this is checked every tick. It is more than [`SLOW`], so that a slow check is never late.
const NEAR: Duration = Duration::from_secs(2);

/// All deadlines of one worker. Clones share them.
#[derive(Clone, Default)]
pub struct Deadlines(Arc<Table>);

/// The deadlines of one worker.
#[derive(Default)]
struct Table {
    slots: Mutex<Slots>,
    /// Notified when a deadline is armed that is due before the next check.
    sooner: Notify,
}

#[derive(Default)]
struct Slots {
    all: Vec<DeadlineSlot>,
    free: Vec<usize>,
    /// The time of the next check; `None`: nothing is armed.
    next_check: Option<Instant>,
}

#[derive(Default)]
struct DeadlineSlot {
    state: SlotState,
    waker: Option<Waker>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum SlotState {
    #[default]
    Unarmed,
    Armed(Instant),
    Passed,
}

impl Deadlines {
    /// Makes a deadline that is not armed yet.
    #[must_use]
    pub fn deadline(&self) -> Deadline {
        let mut slots = self.0.lock();
        let slot = slots.free.pop().unwrap_or_else(|| {
            slots.all.push(DeadlineSlot::default());
            slots.all.len() - 1
        });
        Deadline { table: Arc::clone(&self.0), slot }
    }

    /// Checks the deadlines and never returns. One task of the worker runs it.
    pub async fn run(&self) {
        loop {
            let next_check = self.0.check();
            let sooner = self.0.sooner.notified();
            match next_check {
                None => sooner.await,
                Some(at) => tokio::select! {
                    biased;
                    () = tokio::time::sleep_until(at) => {}
                    () = sooner => {}
                },
            }
        }
    }
}

impl Table {
    fn lock(&self) -> MutexGuard<'_, Slots> {
        // No code panics while it holds the lock.
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets every deadline pass whose time has come, and returns the time of the next check.
    fn check(&self) -> Option<Instant> {
        let now = clock::instant();
        let mut slots = self.lock();
        let mut soonest: Option<Instant> = None;
        for slot in &mut slots.all {
            match slot.state {
                SlotState::Armed(at) if at <= now => slot.pass(),
                SlotState::Armed(at) => soonest = Some(soonest.map_or(at, |soonest| soonest.min(at))),
                SlotState::Unarmed | SlotState::Passed => {}
            }
        }
        slots.next_check = soonest.map(|soonest| now + if soonest <= now + NEAR { TICK } else { SLOW });
        slots.next_check
    }
}

impl DeadlineSlot {
    fn pass(&mut self) {
        self.state = SlotState::Passed;
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

/// One deadline, which may be armed and disarmed any number of times. Its slot is freed on drop.
pub struct Deadline {
    table: Arc<Table>,
    slot: usize,
}

impl Deadline {
    /// Arms it to pass `after` from now, in place of an earlier time.
    pub fn arm(&self, after: Duration) {
        self.arm_at(clock::instant() + after);
    }

    /// Arms it to pass at `at`.
    pub fn arm_at(&self, at: Instant) {
        let mut slots = self.table.lock();
        slots.all[self.slot].state = SlotState::Armed(at);
        if slots.next_check.is_none_or(|next| at < next) {
            // A deadline that is armed next need not notify again unless it is due even sooner.
            slots.next_check = Some(at);
            drop(slots);
            self.table.sooner.notify_one();
        }
    }

    /// Wakes the task that looks at it, which then looks again; its time stays. Any thread may call this.
    pub fn wake(&self) {
        let waker = self.table.lock().all[self.slot].waker.take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Disarms it: it does not pass until it is armed again.
    pub fn disarm(&self) {
        self.table.lock().all[self.slot].state = SlotState::Unarmed;
    }

    /// Whether it has passed. If it has not, the task is woken when it does.
    pub fn poll_passed(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut slots = self.table.lock();
        let slot = &mut slots.all[self.slot];
        if slot.state == SlotState::Passed {
            return Poll::Ready(());
        }
        if !slot.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            slot.waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Waits until it has passed. Cancelling the wait changes nothing.
    pub async fn passed(&self) {
        poll_fn(|cx| self.poll_passed(cx)).await;
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        let mut slots = self.table.lock();
        slots.all[self.slot] = DeadlineSlot::default();
        slots.free.push(self.slot);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn checked() -> Deadlines {
        let deadlines = Deadlines::default();
        let runner = deadlines.clone();
        tokio::spawn(async move { runner.run().await });
        tokio::task::yield_now().await;
        deadlines
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_passes_within_a_tick_and_never_early() {
        let deadlines = checked().await;
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
    async fn a_deadline_that_is_armed_between_two_slow_checks_passes_in_time() {
        let deadlines = checked().await;
        let (far, near) = (deadlines.deadline(), deadlines.deadline());
        far.arm(Duration::from_secs(3600));
        tokio::time::sleep(Duration::from_millis(300)).await;
        let start = clock::instant();
        near.arm(Duration::from_millis(200));
        near.passed().await;
        assert!(start.elapsed() <= Duration::from_millis(200) + 2 * TICK, "{:?}", start.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn arming_again_moves_a_deadline_and_disarming_stops_it() {
        let deadlines = checked().await;
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
    async fn the_task_that_looks_at_a_deadline_can_be_woken_before_its_time() {
        let deadlines = Deadlines::default();
        let deadline = deadlines.deadline();
        deadline.arm(Duration::from_secs(3600));
        let looks = std::cell::Cell::new(0);
        let looking = poll_fn(|cx| {
            looks.set(looks.get() + 1);
            if looks.get() == 3 { Poll::Ready(()) } else { deadline.poll_passed(cx) }
        });
        let waking = async {
            for _ in 0..2 {
                tokio::task::yield_now().await;
                deadline.wake();
            }
        };
        let start = clock::instant();
        tokio::join!(looking, waking);
        assert_eq!((looks.get(), start.elapsed()), (3, Duration::ZERO));
    }

    #[tokio::test(start_paused = true)]
    async fn while_every_deadline_is_far_away_checks_are_rare_and_arming_wakes_no_task() {
        let deadlines = checked().await;
        let deadline = deadlines.deadline();
        deadline.arm(Duration::from_secs(3600));
        tokio::time::sleep(Duration::from_millis(10)).await;
        let next = deadlines.0.lock().next_check;
        assert!(next.is_some_and(|next| next > clock::instant() + SLOW / 2));
        deadline.arm(Duration::from_secs(10));
        deadline.arm(Duration::from_secs(60));
        assert_eq!(deadlines.0.lock().next_check, next);
    }

    #[tokio::test(start_paused = true)]
    async fn the_checks_stop_while_nothing_is_armed_and_slots_are_used_again() {
        let deadlines = checked().await;
        for _ in 0..3 {
            let deadline = deadlines.deadline();
            deadline.arm(Duration::from_millis(200));
            deadline.passed().await;
        }
        assert_eq!(deadlines.0.lock().all.len(), 1);
        tokio::time::sleep(2 * TICK).await;
        assert_eq!(deadlines.0.lock().next_check, None);
    }
}
