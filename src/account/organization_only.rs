//! An account without log-in: its organization alone is sent, as soon as the source gives one.
//!
//! Depends on `credentials` and `driver`. Whoever asked for something may have gone by the time of the answer; then nobody
//! needs it.

use std::{pin::pin, sync::Arc, time::Duration};

use http::HeaderValue;
use tokio::{sync::mpsc, time::timeout};

use super::{
    credentials::Sources,
    driver::{DriverRequest, LogInFailed, Published},
    failure::{LoginError, SourceError},
    phase::{Outlook, Phase},
    token::{Bearer, Generation},
    watch::{CredentialChange, Watch},
};
use crate::clock::{Clock, Jitter};

/// The task behind the handle.
pub(super) struct OrganizationOnly {
    pub(super) sources: Sources,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) jitter: Jitter,
    pub(super) published: Published,
    pub(super) watch: Watch,
    pub(super) requests: mpsc::Receiver<DriverRequest>,
}

impl OrganizationOnly {
    /// Reads the organization again whenever it changes, until nobody needs it.
    pub(super) async fn run(mut self) {
        let mut failures = 0;
        for number in 1.. {
            let Some(outcome) = self.read().await else { return };
            match &outcome {
                Ok(organization) => self.publish(organization, Generation(number)),
                // Once, not for each attempt.
                Err(error) if failures == 0 => {
                    tracing::warn!(account = self.sources.account().name, "no organization yet: {error}");
                }
                Err(_) => {}
            }
            let outcome = outcome.map(drop);
            failures = if outcome.is_ok() { 0 } else { failures + 1 };
            if self.wait(&outcome, failures).await == Next::Stop {
                return;
            }
        }
    }

    /// `None` when it is time to stop.
    async fn read(&mut self) -> Option<Result<HeaderValue, SourceError>> {
        let sources = self.sources.clone();
        let mut reading = pin!(sources.organization());
        let mut asked = Vec::new();
        loop {
            tokio::select! {
                biased;
                request = self.requests.recv() => match request? {
                    DriverRequest::ShutDown => return None,
                    DriverRequest::LogIn(answer) if asked.len() < ASKED_MAX => asked.push(answer),
                    DriverRequest::LogIn(answer) => answer.send(Err(LogInFailed::Busy)).unwrap_or(()),
                    DriverRequest::LogOut(answer) | DriverRequest::Unauthorized(_, answer) => answer.send(()).unwrap_or(()),
                    // Only for accounts that log in.
                    DriverRequest::Reconfigure(..) => {}
                },
                outcome = &mut reading => {
                    for answer in asked {
                        answer.send(answer_to_log_in(&outcome)).unwrap_or(());
                    }
                    return Some(outcome);
                }
            }
        }
    }

    fn publish(&self, organization: &HeaderValue, generation: Generation) {
        let organization = organization.clone();
        let bearer = Bearer { authorization: None, organization, generation, usable_until: None };
        self.published.publish(Some(&Arc::new(bearer)), Phase { outlook: Outlook::Usable, ..Phase::new(None) });
        tracing::info!(account = self.sources.account().name, "the organization is known");
    }

    /// Until it is time to read again.
    async fn wait(&mut self, outcome: &Result<(), SourceError>, failures: u32) -> Next {
        let pause = outcome.as_ref().err().map(|error| {
            let pause = self.pause(failures);
            let now = self.clock.now();
            let due_at = now.moment + pause;
            let last_error = Some(LoginError::Source(error.clone()));
            let phase = Phase {
                outlook: Outlook::NoOrganization(due_at),
                due_at: Some(due_at),
                last_error,
                last_error_at: Some(now.wall),
                ..Phase::new(None)
            };
            self.published.publish(None, phase);
            pause
        });
        let waiting = async {
            loop {
                tokio::select! {
                    biased;
                    request = self.requests.recv() => match request {
                        None | Some(DriverRequest::ShutDown) => return Next::Stop,
                        Some(DriverRequest::LogIn(answer)) => answer.send(answer_to_log_in(outcome)).unwrap_or(()),
                        Some(DriverRequest::LogOut(answer) | DriverRequest::Unauthorized(_, answer)) => answer.send(()).unwrap_or(()),
                        Some(DriverRequest::Reconfigure(..)) => {}
                    },
                    change = self.watch.changed() => if change == CredentialChange::Organization {
                        // At once: what is sent from now on must not name the old organization_only.
                        self.published.publish(None, Phase::new(None));
                        return Next::Read;
                    }
                }
            }
        };
        match pause {
            Some(pause) => timeout(pause, waiting).await.unwrap_or(Next::Read),
            None => waiting.await,
        }
    }

    fn pause(&mut self, failures: u32) -> Duration {
        let most = Duration::from_secs(1 << failures.min(6)).min(PAUSE_MAX);
        PAUSE_MIN + most.saturating_sub(PAUSE_MIN).mul_f64(self.jitter.fraction())
    }
}

#[derive(PartialEq, Eq)]
enum Next {
    Read,
    Stop,
}

/// There is nothing to log in to; what can fail is the source.
fn answer_to_log_in<T>(outcome: &Result<T, SourceError>) -> Result<(), LogInFailed> {
    match outcome {
        Ok(_) => Ok(()),
        Err(error) => Err(LogInFailed::Failed(LoginError::Source(error.clone()))),
    }
}

const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);
const ASKED_MAX: usize = 64;
