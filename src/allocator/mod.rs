//! The program's allocator, which wipes memory when it is freed, and gives it back to the system.
//!
//! Buffers of HTTP and TLS libraries have held the token, and the libraries do not wipe them. Guarantees: freed memory is
//! overwritten, except for large blocks that a worker frees while it serves requests. Those are read buffers of 8 KiB and
//! more; a request frees about six of them, and to wipe them would cost more than the request. A large block that may have
//! held the token belongs to an upstream connection, and is freed within [`Wiped`].
//!
//! The system's allocator keeps what is freed, for each thread apart: after a burst on one worker, the next burst may find the
//! memory of the process used up. [`Returns`] says when it is worth while to give it back.

#[cfg(target_os = "linux")]
mod blocks;

use std::{
    alloc::{GlobalAlloc, Layout},
    cell::Cell,
    pin::Pin,
    task::{Context, Poll},
};

use zeroizing_alloc::ZeroAlloc;

#[cfg(target_os = "linux")]
use blocks::Segregated;
#[cfg(not(target_os = "linux"))]
use std::alloc::System as Segregated;

/// The program's allocator: the system's, with wiping, and with memory of its own for the buffers of connections.
pub struct Wiping;

/// The crate's allocator wipes so that the compiler can't leave it out, as it may with a plain write before memory is freed.
const WIPING: ZeroAlloc<Segregated> = ZeroAlloc(Segregated);

thread_local! {
    static SPARES_LARGE: Cell<bool> = const { Cell::new(false) };
    /// How many bytes this thread has freed.
    static FREED: Cell<u64> = const { Cell::new(0) };
}

/// The size of hyper's smallest read buffer, in bytes.
const LARGE: usize = 8 * 1024;

#[expect(unsafe_code, reason = "an allocator is unsafe to write; every call is passed on as it came")]
// SAFETY: both allocators are the same but for wiping, so that either may free what came from the other.
unsafe impl GlobalAlloc for Wiping {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises are passed on.
        unsafe { Segregated.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        unsafe { Segregated.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        FREED.set(FREED.get().wrapping_add(layout.size() as u64));
        if layout.size() >= LARGE && SPARES_LARGE.get() {
            // SAFETY: as above.
            unsafe { Segregated.dealloc(block, layout) }
        } else {
            // SAFETY: as above.
            unsafe { WIPING.dealloc(block, layout) }
        }
    }

    /// Copies a block of any size that grows, and wipes the old one.
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as above.
        unsafe { WIPING.realloc(block, layout, size) }
    }
}

/// Stops wiping large blocks on this thread, which serves requests.
pub fn spare_large_blocks() {
    SPARES_LARGE.set(true);
}

/// Decides when a thread, which asks once a second, gives free memory back to the system: when it has freed much and is quiet
/// again; and, since a thread may never be quiet, every `BUSY_ROUNDS`.
#[derive(Default)]
pub struct Returns {
    freed: u64,
    /// How many bytes were freed since memory was given back, in how many seconds.
    since: (u64, u32),
}

/// So little is freed in a second by a thread that is quiet, in bytes: some twenty requests.
const QUIET: u64 = 1024 * 1024;
/// What is worth giving back, in bytes.
const MUCH: u64 = 4 * 1024 * 1024;
/// How many seconds a busy thread keeps free memory, which it is likely to use again.
const BUSY_ROUNDS: u32 = 30;

impl Returns {
    /// Gives free memory of the whole process back to the system, if that is due.
    pub fn round(&mut self) {
        if self.is_due(FREED.get()) {
            #[cfg(target_os = "linux")]
            blocks::give_back();
            give_back();
        }
    }

    fn is_due(&mut self, freed: u64) -> bool {
        let now = freed.wrapping_sub(std::mem::replace(&mut self.freed, freed));
        let (bytes, rounds) = (self.since.0.saturating_add(now), self.since.1 + 1);
        let due = bytes >= MUCH && (now < QUIET || rounds >= BUSY_ROUNDS);
        self.since = if due { (0, 0) } else { (bytes, rounds.min(BUSY_ROUNDS)) };
        due
    }
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[expect(unsafe_code, reason = "a call of the C library")]
fn give_back() {
    // SAFETY: it may be called at any time, from any thread.
    unsafe { libc::malloc_trim(0) };
}

/// Other allocators are not known to keep much.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn give_back() {}

/// A future whose memory is wiped when it is freed, large blocks included, on a worker, too.
pub struct Wiped<F: Future> {
    /// The future; `None` while this is being dropped.
    future: Option<Pin<Box<F>>>,
    while_it_runs: bool,
}

impl<F: Future> Wiped<F> {
    /// Wipes the memory that is freed when the future is dropped. Memory that it frees earlier is not wiped, like that of a
    /// future which an `async` block has awaited.
    pub fn at_the_end(future: F) -> Self {
        Self { future: Some(Box::pin(future)), while_it_runs: false }
    }

    /// Wipes also the memory that the future frees while it runs.
    pub fn throughout(future: F) -> Self {
        Self { future: Some(Box::pin(future)), while_it_runs: true }
    }
}

impl<F: Future> Future for Wiped<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let _wiping = self.while_it_runs.then(WipeAll::begin);
        match &mut self.future {
            Some(future) => future.as_mut().poll(cx),
            // This is never polled while it is being dropped.
            None => Poll::Pending,
        }
    }
}

impl<F: Future> Drop for Wiped<F> {
    fn drop(&mut self) {
        let _wiping = WipeAll::begin();
        self.future = None;
    }
}

/// Makes this thread wipe all freed memory until it is dropped.
struct WipeAll {
    spared: bool,
}

impl WipeAll {
    fn begin() -> Self {
        Self { spared: SPARES_LARGE.replace(false) }
    }
}

impl Drop for WipeAll {
    fn drop(&mut self) {
        SPARES_LARGE.set(self.spared);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Notes whether large blocks were spared when it was polled, and when it was dropped.
    struct WipeProbe<'a>(&'a Cell<Option<bool>>, &'a Cell<Option<bool>>);

    impl Future for WipeProbe<'_> {
        type Output = ();

        fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
            self.0.set(Some(SPARES_LARGE.get()));
            Poll::Ready(())
        }
    }

    impl Drop for WipeProbe<'_> {
        fn drop(&mut self) {
            self.1.set(Some(SPARES_LARGE.get()));
        }
    }

    #[test]
    fn memory_goes_back_when_a_burst_is_over_and_now_and_then_during_a_long_one() {
        let (mut returns, mut freed) = (Returns::default(), 0);
        let mut second = |bytes: u64| {
            freed += bytes;
            returns.is_due(freed)
        };
        assert!((0..10).all(|_| !second(100)), "an idle thread has nothing to give back");
        assert!(!second(100 * MUCH));
        assert!(second(QUIET - 1));
        assert!(!second(QUIET - 1));
        let due: Vec<u32> = (1..=100).filter(|_| second(MUCH)).collect();
        assert_eq!(due, [29, 59, 89], "two seconds had passed");
    }

    #[test]
    fn a_worker_does_not_wipe_large_blocks_except_within_wiped() {
        assert!(!SPARES_LARGE.get(), "a thread wipes everything unless it says otherwise");
        spare_large_blocks();
        for throughout in [false, true] {
            let (polled, dropped) = (Cell::new(None), Cell::new(None));
            let probe = WipeProbe(&polled, &dropped);
            let mut wiped = if throughout { Wiped::throughout(probe) } else { Wiped::at_the_end(probe) };
            assert!(Pin::new(&mut wiped).poll(&mut Context::from_waker(std::task::Waker::noop())).is_ready());
            assert_eq!((polled.get(), SPARES_LARGE.get()), (Some(!throughout), true));
            drop(wiped);
            assert_eq!((dropped.get(), SPARES_LARGE.get()), (Some(false), true));
        }
    }
}
