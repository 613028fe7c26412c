//! The program's allocator, which wipes memory when it is freed.
//!
//! Buffers of HTTP and TLS libraries have held the token, and the libraries do not wipe them. Guarantees: freed memory is
//! overwritten, except for large blocks that a worker frees while it serves requests. Those are read buffers of 8 KiB and
//! more; a request frees about six of them, and to wipe them would cost more than the request. A large block that may have
//! held the token belongs to an upstream connection, and is freed within [`Wiped`].

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    pin::Pin,
    task::{Context, Poll},
};

use zeroizing_alloc::ZeroAlloc;

/// The program's allocator: the system's, with wiping.
pub struct Wiping;

/// The crate's allocator wipes so that the compiler can't leave it out, as it may with a plain write before memory is freed.
const WIPING: ZeroAlloc<System> = ZeroAlloc(System);

thread_local! {
    static SPARES_LARGE: Cell<bool> = const { Cell::new(false) };
}

/// The size of hyper's smallest read buffer, in bytes.
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
