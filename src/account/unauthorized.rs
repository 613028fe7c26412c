//! What a 401 does for the request that got it: which bearer the request goes out with once more, or why the client gets the 401.
//!
//! Guarantees: a request that hangs up ends its own wait and not the log-in; the log says once for each token that a 401 came too
//! early to replace it.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::{sync::oneshot, time::timeout};
use tracing::info;

use super::{
    Account,
    driver::DriverRequest,
    relogin_floor::ProbationOutcome,
    snapshot::{OnUnauthorized, Unauthorized, Unavailable},
    token::{Bearer, Generation},
};
use crate::{clock::Moment, metrics::label};

/// What became of a request's 401.
pub struct Replaced {
    /// A bearer newer than the refused one. `None`: the client gets the 401.
    pub bearer: Option<Arc<Bearer>>,
    /// How there came to be one, or why there is none.
    pub relogin: Relogin,
}

label! {
    /// What a request's 401 did about the token.
    pub enum Relogin {
        /// It began a log-in, and a token came.
        Done = "done",
        /// A token came from a log-in that had begun, or had its time, before.
        Joined = "joined",
        /// The token was younger than `relogin_floor`, so the client gets the 401.
        TooYoung = "too_young",
        /// No token came in time.
        Failed = "failed",
        /// A log-in is under way, but the request can't be sent again: its body is no longer at hand, so the client gets the 401.
        BodyGone = "body_gone",
    }
}

impl Account {
    /// Reports that a request with token `refused` got a 401, and gives a newer bearer: at once, or from the log-in that all
    /// such requests share. When that log-in fails, or an earlier one has, the request waits for the next attempt if it is due
    /// within `limit`, what is left of its `token_wait`. There is none when the token is too young, or no attempt brings one in
    /// that time. Dropping the future ends the wait, not the log-in.
    ///
    /// # Errors
    ///
    /// The account has ended: a reload has put another in its place, so the 401 says nothing that the client can use.
    pub async fn replace(&self, refused: Generation, limit: Duration) -> Result<Replaced, Unavailable> {
        let now = self.task.clock.now().moment;
        self.task.signals.refusal.refused(refused, now);
        let unauthorized = Unauthorized { refused, deadline: now + limit, is_reported: false };
        let too_late = Replaced { bearer: None, relogin: Relogin::Failed };
        timeout(limit, self.newer_bearer(unauthorized)).await.unwrap_or(Ok(too_late))
    }

    async fn newer_bearer(&self, mut unauthorized: Unauthorized) -> Result<Replaced, Unavailable> {
        let (refused, mut began) = (unauthorized.refused, false);
        loop {
            // What changes from here on wakes it.
            let changed = self.task.changed.notified();
            let now = self.task.clock.now().moment;
            let on_unauthorized = self.task.snapshot.borrow().on_unauthorized(unauthorized, now);
            if let Some(bearer) = self.bearer(now).filter(|bearer| bearer.generation > refused) {
                return Ok(Replaced { bearer: Some(bearer), relogin: if began { Relogin::Done } else { Relogin::Joined } });
            }
            match on_unauthorized {
                OnUnauthorized::PassOn => return Ok(Replaced { bearer: None, relogin: Relogin::Failed }),
                OnUnauthorized::TooYoung(until) => {
                    self.log_too_young(refused, until, now);
                    return Ok(Replaced { bearer: None, relogin: Relogin::TooYoung });
                }
                OnUnauthorized::Ended => return Err(self.ended()),
                OnUnauthorized::Report => {
                    unauthorized.is_reported = true;
                    began = self.report(refused).await.ok_or_else(|| self.ended())?;
                    continue;
                }
                OnUnauthorized::WakeAndWait => self.task.signals.wake(),
                OnUnauthorized::Wait => {}
            }
            changed.await;
        }
    }

    /// Reports that a request with token `refused` got a 401 and can't be sent again. It does not wait for a new token. Tells
    /// whether the token was too young to be replaced; `None` where no log-in would help.
    pub async fn unauthorized(&self, refused: Generation) -> Option<Relogin> {
        let now = self.task.clock.now().moment;
        self.task.signals.refusal.refused(refused, now);
        let judge = |is_reported| {
            let unauthorized = Unauthorized { refused, deadline: now, is_reported };
            self.task.snapshot.borrow().on_unauthorized(unauthorized, now)
        };
        let mut on_unauthorized = judge(false);
        if on_unauthorized == OnUnauthorized::Report && self.report(refused).await.is_some() {
            on_unauthorized = judge(true);
        }
        match on_unauthorized {
            OnUnauthorized::TooYoung(until) => {
                self.log_too_young(refused, until, now);
                Some(Relogin::TooYoung)
            }
            OnUnauthorized::Report | OnUnauthorized::Wait | OnUnauthorized::WakeAndWait => Some(Relogin::BodyGone),
            OnUnauthorized::PassOn | OnUnauthorized::Ended => None,
        }
    }

    /// Tells the driver of a 401, and whether it began a log-in for that; `None` when the account has ended. The driver answers
    /// after it has published the outcome.
    async fn report(&self, refused: Generation) -> Option<bool> {
        let (answer, answered) = oneshot::channel();
        self.task.requests.send(DriverRequest::Unauthorized(refused, answer)).await.ok()?;
        answered.await.ok()
    }

    /// Reports that a request with token `by` got an answer that does not refuse the token.
    pub fn answered(&self, by: Generation) {
        self.task.signals.answered(by);
    }

    /// Reports that a request that had got a 401 got through with the newer token `by`.
    pub fn accepted(&self, by: Generation) {
        if self.task.snapshot.borrow().is_open_to(ProbationOutcome::Accepted, by) {
            self.task.signals.accepted(by);
        }
    }

    /// Reports that a request that had got a 401 got another with the newer token `by`.
    pub fn rejected_again(&self, by: Generation) {
        if self.task.snapshot.borrow().is_open_to(ProbationOutcome::RejectedAgain, by) {
            self.task.signals.rejected_again(by);
        }
    }

    /// Logs that a 401 came too early to replace the token, once for each token. `until`: when one will.
    fn log_too_young(&self, refused: Generation, until: Moment, now: Moment) {
        if self.task.refused_young.fetch_max(refused.0, Ordering::Relaxed) < refused.0 {
            let relogin_in_s = until.since(now).as_secs();
            info!(account = self.name(), relogin_in_s, "the API refused a token younger than relogin_floor (401): no log-in");
        }
    }
}
