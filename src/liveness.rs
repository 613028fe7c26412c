//! Whether every worker's event loop turns.
//!
//! Depends on nothing of ours. Each worker answers when it is asked, from the loop that serves its clients: a loop that is
//! stuck can't. A worker that has finished its work counts as well; one that panicked does not. Nothing beyond this
//! process is looked at.

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

/// Asks the workers. Clones ask the same ones.
#[derive(Clone, Default)]
pub struct LivenessProbe(Vec<Worker>);

#[derive(Clone)]
struct Worker {
    questions: mpsc::Sender<oneshot::Sender<()>>,
    finished: Arc<AtomicBool>,
}

/// A worker's end.
pub struct Responder {
    questions: mpsc::Receiver<oneshot::Sender<()>>,
    finished: Arc<AtomicBool>,
}

/// Questions that may wait for one worker; more have to wait for their turn.
const QUESTIONS: usize = 4;

impl LivenessProbe {
    /// One more worker.
    pub fn add(&mut self) -> Responder {
        let (ask, questions) = mpsc::channel(QUESTIONS);
        let finished = Arc::new(AtomicBool::new(false));
        self.0.push(Worker { questions: ask, finished: Arc::clone(&finished) });
        Responder { questions, finished }
    }

    /// Whether all of them answer within that time. Dropping the future takes the question back.
    pub async fn turns(&self, within: Duration) -> bool {
        // Asked all at once, so that the time is for all of them together.
        let asked: Vec<_> = self.0.iter().map(|worker| (worker, oneshot::channel())).collect();
        let all = async {
            let mut answers = Vec::with_capacity(asked.len());
            for (worker, (question, answer)) in asked {
                // An error means that it is gone, and so is the answer.
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
    /// Answers one question. Belongs into the worker's loop; safe to drop and call again.
    pub async fn answer(&mut self) {
        match self.questions.recv().await {
            // Whoever asked may have given up.
            Some(question) => drop(question.send(())),
            // Nobody is left to ask.
            None => std::future::pending().await,
        }
    }

    /// The worker is done, which is no fault.
    pub fn finish(self) {
        self.finished.store(true, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(3);

    #[tokio::test(start_paused = true)]
    async fn the_pulse_is_there_while_every_worker_answers() {
        let mut liveness = LivenessProbe::default();
        assert!(liveness.turns(LIMIT).await, "nobody to wait for");
        let (mut first, mut second) = (liveness.add(), liveness.add());
        let turning = liveness.turns(LIMIT);
        let ((), (), turns) = tokio::join!(first.answer(), second.answer(), turning);
        assert!(turns);
        let ((), turns) = tokio::join!(first.answer(), liveness.turns(LIMIT));
        assert!(!turns, "the second one is stuck");
    }

    #[tokio::test(start_paused = true)]
    async fn a_worker_may_finish_but_not_vanish() {
        let mut liveness = LivenessProbe::default();
        let (first, second) = (liveness.add(), liveness.add());
        first.finish();
        assert!(!liveness.turns(LIMIT).await, "the second one does not answer");
        drop(second);
        assert!(!liveness.turns(LIMIT).await);
        let mut liveness = LivenessProbe::default();
        liveness.add().finish();
        assert!(liveness.turns(LIMIT).await);
    }

    #[tokio::test(start_paused = true)]
    async fn questions_to_a_stuck_worker_end_in_time_however_many_there_are() {
        let mut liveness = LivenessProbe::default();
        let _stuck = liveness.add();
        for _ in 0..3 * QUESTIONS {
            assert!(!liveness.turns(LIMIT).await);
        }
    }
}
