//! Probes whether every worker's event loop turns.
//!
//! Each worker answers from the loop that serves its clients, so a loop that is stuck can't answer. A worker that has
//! finished counts as alive; one that panicked does not. The probe looks at nothing beyond this process.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};

/// Asks every worker. Clones ask the same workers.
#[derive(Clone, Default)]
pub struct LivenessProbe(Vec<Worker>);

#[derive(Clone)]
struct Worker {
    questions: mpsc::Sender<oneshot::Sender<()>>,
    finished: Arc<AtomicBool>,
}

/// The worker's end of the probe.
pub struct Responder {
    questions: mpsc::Receiver<oneshot::Sender<()>>,
    finished: Arc<AtomicBool>,
}

/// Questions that may wait for one worker; a further one waits to be queued.
const QUESTIONS: usize = 4;

impl LivenessProbe {
    /// Adds a worker.
    pub fn add(&mut self) -> Responder {
        let (ask, questions) = mpsc::channel(QUESTIONS);
        let finished = Arc::new(AtomicBool::new(false));
        self.0.push(Worker { questions: ask, finished: Arc::clone(&finished) });
        Responder { questions, finished }
    }

    /// Whether all workers answer `within` that time. Dropping the future withdraws the question.
    pub async fn turns(&self, within: Duration) -> bool {
        // All are asked at once, so the time is for all of them together.
        let asked: Vec<_> = self.0.iter().map(|worker| (worker, oneshot::channel())).collect();
        let all = async {
            let mut answers = Vec::with_capacity(asked.len());
            for (worker, (question, answer)) in asked {
                // A worker that has gone drops the question; its answer then is an error.
                let _ = worker.questions.send(question).await;
                answers.push((worker, answer));
            }
            for (worker, answer) in answers {
                if answer.await.is_err() && !worker.finished.load(Ordering::Acquire) {
                    return false;
                }
            }
            true
        };
        timeout(within, all).await.unwrap_or(false)
    }
}

impl Responder {
    /// Answers one question. To be called in the worker's loop; cancelling it loses no question.
    pub async fn answer(&mut self) {
        match self.questions.recv().await {
            // The probe may have timed out.
            Some(question) => drop(question.send(())),
            // No probe is left.
            None => std::future::pending().await,
        }
    }

    /// Says that the worker has ended as it should.
    pub fn finish(self) {
        self.finished.store(true, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(3);

    #[tokio::test(start_paused = true)]
    async fn workers_are_alive_while_each_of_them_answers() {
        let mut probe = LivenessProbe::default();
        assert!(probe.turns(LIMIT).await, "nobody to wait for");
        let (mut first, mut second) = (probe.add(), probe.add());
        let turning = probe.turns(LIMIT);
        let ((), (), turns) = tokio::join!(first.answer(), second.answer(), turning);
        assert!(turns);
        let ((), turns) = tokio::join!(first.answer(), probe.turns(LIMIT));
        assert!(!turns, "the second one is stuck");
    }

    #[tokio::test(start_paused = true)]
    async fn a_worker_may_finish_but_not_vanish() {
        let mut probe = LivenessProbe::default();
        let (first, second) = (probe.add(), probe.add());
        first.finish();
        assert!(!probe.turns(LIMIT).await, "the second one does not answer");
        drop(second);
        assert!(!probe.turns(LIMIT).await);
        let mut probe = LivenessProbe::default();
        probe.add().finish();
        assert!(probe.turns(LIMIT).await);
    }

    #[tokio::test(start_paused = true)]
    async fn questions_to_a_stuck_worker_end_in_time_however_many_there_are() {
        let mut probe = LivenessProbe::default();
        let _stuck = probe.add();
        for _ in 0..3 * QUESTIONS {
            assert!(!probe.turns(LIMIT).await);
        }
    }
}
