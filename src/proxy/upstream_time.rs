//! How long a request waits for others, so that the rest of its time is the sidecar's own.

use std::{pin::Pin, time::Duration};

use tokio::time::Instant;

use crate::clock;

/// Time that a request spends in waiting for the account and the upstream; the rest of its time is the sidecar's own
/// overhead. A request that is sent again adds up. A request that gets its bearer and connection at once reads the clock
/// twice: when it is sent, and when the answer's head is there.
#[derive(Default)]
pub(super) struct UpstreamTime {
    pub(super) total: Duration,
    sent: Option<Instant>,
    pub(super) answered: Option<Instant>,
}

impl UpstreamTime {
    /// Waits for `future`, and adds the time that it takes. A future that is ready at once adds nothing and reads no clock.
    pub(super) async fn wait<F: Future>(&mut self, mut future: Pin<&mut F>) -> F::Output {
        let mut since = None;
        let output = std::future::poll_fn(|cx| {
            let polled = future.as_mut().poll(cx);
            if polled.is_pending() {
                since.get_or_insert_with(clock::instant);
            }
            polled
        })
        .await;
        if let Some(since) = since {
            self.total += since.elapsed();
        }
        output
    }

    /// Waits likewise, and takes the time from `left`.
    pub(super) async fn wait_within<F: Future>(&mut self, left: &mut Duration, future: Pin<&mut F>) -> F::Output {
        let before = self.total;
        let output = self.wait(future).await;
        *left = left.saturating_sub(self.total.saturating_sub(before));
        output
    }

    /// The request needs a connection, perhaps once more.
    pub(super) fn begin_attempt(&mut self) {
        self.sent = None;
    }

    /// The request has its connection and goes out now.
    pub(super) fn send(&mut self) -> Instant {
        let now = clock::instant();
        self.sent = Some(now);
        now
    }

    /// The upstream has answered, or it won't.
    pub(super) fn end(&mut self) {
        let now = clock::instant();
        self.answered = Some(now);
        self.total += self.sent.map_or(Duration::ZERO, |sent| now - sent);
    }

    /// When the present attempt got its connection.
    pub(super) fn sent(&self) -> Option<Instant> {
        self.sent
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use tokio::time::sleep;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn time_that_others_take_adds_up_and_what_is_ready_at_once_takes_none() {
        let mut time = UpstreamTime::default();
        assert_eq!(time.wait(pin!(async { 7 })).await, 7);
        assert_eq!((time.total, time.sent, time.answered), (Duration::ZERO, None, None));
        time.wait(pin!(sleep(Duration::from_secs(3)))).await;
        let mut left = Duration::from_secs(2);
        assert_eq!(UpstreamTime::default().wait_within(&mut left, pin!(async { 7 })).await, 7);
        assert_eq!(left, Duration::from_secs(2));
        for rest in [1, 0, 0] {
            UpstreamTime::default().wait_within(&mut left, pin!(sleep(Duration::from_secs(1)))).await;
            assert_eq!(left.as_millis().div_ceil(100), rest * 10);
        }
        // The request does not wait now: this is the sidecar's own time.
        tokio::time::advance(Duration::from_secs(100)).await;
        for _ in 0..2 {
            let sent = time.send();
            tokio::time::advance(Duration::from_secs(5)).await;
            time.end();
            assert_eq!(time.answered, Some(sent + Duration::from_secs(5)));
            tokio::time::advance(Duration::from_secs(100)).await;
        }
        // Tokio's timers have a resolution of a millisecond.
        let over = time.total.saturating_sub(Duration::from_secs(13));
        assert!(time.total >= Duration::from_secs(13) && over <= Duration::from_millis(1), "{:?}", time.total);
    }
}
