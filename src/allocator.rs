//! Memory that is wiped when it is given back, whichever library had it.
//!
//! Depends on nothing of ours. Buffers of HTTP and TLS have held the token, and libraries don't wipe them. Guarantees: freed
//! memory is overwritten, but for large blocks that a worker frees in the course of its requests. Those are read buffers,
//! 8 KiB and more of what clients and upstream said: to wipe six of them for a request would cost more than the request. What
//! may have held the token among large blocks belongs to an upstream connection, and is freed within [`Wiped`].

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    pin::Pin,
    task::{Context, Poll},
};

use zeroizing_alloc::ZeroAlloc;

/// The program's allocator: the system's, and what is said above.
pub struct Wiping;

/// It does not wipe by itself: a compiler sees through a write to memory that is freed next, and leaves it out.
const WIPING: ZeroAlloc<System> = ZeroAlloc(System);

thread_local! {
    static SPARES_LARGE: Cell<bool> = const { Cell::new(false) };
}

/// What hyper reads into at least.
const LARGE: usize = 8 * 1024;

#[expect(unsafe_code, reason = "an allocator is unsafe to write; every call is passed on as it came")]
// SAFETY: both allocators are the system's, so that either may free what came from the other.
unsafe impl GlobalAlloc for Wiping {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if layout.size() >= LARGE && SPARES_LARGE.get() {
            // SAFETY: as above.
            unsafe { System.dealloc(block, layout) }
        } else {
            // SAFETY: as above.
            unsafe { WIPING.dealloc(block, layout) }
        }
    }

    /// What grows is copied and wiped, whatever its size.
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as above.
        unsafe { WIPING.realloc(block, layout, size) }
    }
}

/// From now on this thread does not wipe large blocks: it serves requests.
pub fn spare_large_blocks() {
    SPARES_LARGE.set(true);
}

/// A future whose memory, large blocks included, is wiped as it goes, on a worker too.
pub struct Wiped<F: Future> {
    /// Taken out when this is dropped.
    future: Option<Pin<Box<F>>>,
    while_it_runs: bool,
}

impl<F: Future> Wiped<F> {
    /// Wipes what the future leaves behind at its end; not what it gives back before, as an `async` block does of a future
    /// that it has awaited.
    pub fn at_the_end(future: F) -> Self {
        Self { future: Some(Box::pin(future)), while_it_runs: false }
    }

    /// Wipes what it frees while it runs, too.
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
            // Only a future that is being dropped has none.
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

/// Until dropped, this thread wipes everything.
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
    struct Probe<'a>(&'a Cell<Option<bool>>, &'a Cell<Option<bool>>);

    impl Future for Probe<'_> {
        type Output = ();

        fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
            self.0.set(Some(SPARES_LARGE.get()));
            Poll::Ready(())
        }
    }

    impl Drop for Probe<'_> {
        fn drop(&mut self) {
            self.1.set(Some(SPARES_LARGE.get()));
        }
    }

    #[test]
    fn a_worker_spares_large_blocks_except_within_what_is_wiped() {
        assert!(!SPARES_LARGE.get(), "a thread wipes everything unless it says otherwise");
        spare_large_blocks();
        for throughout in [false, true] {
            let (polled, dropped) = (Cell::new(None), Cell::new(None));
            let probe = Probe(&polled, &dropped);
            let mut wiped = if throughout { Wiped::throughout(probe) } else { Wiped::at_the_end(probe) };
            assert!(Pin::new(&mut wiped).poll(&mut Context::from_waker(std::task::Waker::noop())).is_ready());
            assert_eq!((polled.get(), SPARES_LARGE.get()), (Some(!throughout), true));
            drop(wiped);
            assert_eq!((dropped.get(), SPARES_LARGE.get()), (Some(false), true));
        }
    }
}
