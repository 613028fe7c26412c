//! How long a request waited for others: what is left of its time is our own.
//!
//! On the way of an ordinary request it looks at the clock once, when upstream's head is there.

use std::{pin::Pin, time::Duration};

use tokio::time::Instant;

use crate::clock;

/// CountingTcp while it goes on; a request that is sent again adds up.
#[derive(Default)]
pub(super) struct UpstreamTime {
    total: Duration,
    sent: Option<Instant>,
    answered: Option<Instant>,
}

impl UpstreamTime {
    /// UpstreamTime for a token, for a connection. What is there at once takes no time.
    pub(super) async fn on<F: Future>(&mut self, mut what: Pin<&mut F>) -> F::Output {
        let mut since = None;
        let output = std::future::poll_fn(|cx| {
            let polled = what.as_mut().poll(cx);
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

    /// The request is about to be sent, perhaps once more.
    pub(super) fn begin_attempt(&mut self) {
        self.sent = None;
    }

    /// The request has its connection and goes out; now.
    pub(super) fn send(&mut self) -> Instant {
        let now = clock::instant();
        self.sent = Some(now);
        now
    }

    /// There is an answer, or there won't be one.
    pub(super) fn end(&mut self) {
        let now = clock::instant();
        self.answered = Some(now);
        self.total += self.sent.map_or(Duration::ZERO, |sent| now - sent);
    }

    /// When it had its connection last.
    pub(super) fn sent(&self) -> Option<Instant> {
        self.sent
    }

    /// When upstream's answer, the last one, began.
    pub(super) fn answered(&self) -> Option<Instant> {
        self.answered
    }

    /// All of them.
    pub(super) fn total(&self) -> Duration {
        self.total
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use tokio::time::sleep;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_others_take_adds_up_and_what_is_there_at_once_takes_nothing() {
        let mut waits = UpstreamTime::default();
        assert_eq!(waits.on(pin!(async { 7 })).await, 7);
        assert_eq!((waits.total(), waits.sent(), waits.answered()), (Duration::ZERO, None, None));
        waits.on(pin!(sleep(Duration::from_secs(3)))).await;
        // Ours, and not waiting.
        tokio::time::advance(Duration::from_secs(100)).await;
        for _ in 0..2 {
            let sent = waits.send();
            tokio::time::advance(Duration::from_secs(5)).await;
            waits.end();
            assert_eq!(waits.answered(), Some(sent + Duration::from_secs(5)));
            tokio::time::advance(Duration::from_secs(100)).await;
        }
        assert_eq!(waits.total(), Duration::from_secs(13) + slack(waits.total()));
    }

    /// Tokio's timers have a resolution of a millisecond.
    fn slack(total: Duration) -> Duration {
        let over = total.saturating_sub(Duration::from_secs(13));
        assert!(over <= Duration::from_millis(1), "{total:?}");
        over
    }
}
