//! A panic ends one request, and not its connection or its worker.

use std::{
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    pin::Pin,
    task::{Context, Poll},
};

use pin_project_lite::pin_project;

/// What `work` comes to; what `instead` gives when it panics, which ends one request and nothing else.
pub(super) fn unless_panicked<W: Future, I: FnOnce() -> W::Output>(work: W, instead: I) -> UnlessPanicked<W, I> {
    UnlessPanicked { work, instead: Some(instead) }
}

pin_project! {
    /// By hand, not by `async`: that would copy the work, which is large, once more.
    pub(super) struct UnlessPanicked<W, I> {
        #[pin]
        work: W,
        instead: Option<I>,
    }
}

impl<W: Future, I: FnOnce() -> W::Output> Future for UnlessPanicked<W, I> {
    type Output = W::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<W::Output> {
        let this = self.project();
        let work = this.work;
        // After a panic it is not polled again, so what it left half done is seen by nobody but destructors.
        let panicked = match catch_unwind(AssertUnwindSafe(|| work.poll(cx))) {
            Ok(polled) => return polled,
            Err(panicked) => panicked,
        };
        match this.instead.take() {
            Some(instead) => Poll::Ready(instead()),
            // It was polled after its end, against its contract.
            None => resume_unwind(panicked),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_ends_one_request_and_nothing_else() {
        assert_eq!(unless_panicked(async { 7 }, || 8).await, 7);
        let panics = async {
            tokio::task::yield_now().await;
            panic!("on purpose")
        };
        assert_eq!(unless_panicked(panics, || 8).await, 8);
    }
}
