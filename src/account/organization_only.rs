//! An account without log-in: requests carry its organization alone, as soon as the source gives one.
//!
//! The task answers requests of the handle, though little can change. A sender that has gone needs no answer.

use std::{pin::pin, sync::Arc, time::Duration};

use http::HeaderValue;
use tokio::{sync::mpsc, time::timeout};

use super::{
    credentials::Sources,
    driver::{DriverRequest, LogInFailed, Published},
    failure::{LoginError, SourceError},
    snapshot::{AccountSnapshot, LoginHistory, Standing},
    token::{Bearer, Generation},
    transition_log::Causes,
    watch::{CredentialChange, CredentialWatch},
};
use crate::clock::{Clock, Jitter};

const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// At most this many explicit log-ins wait for one reading.
const WAITING_MAX: usize = 64;

/// The account's task.
pub(super) struct OrganizationOnly {
    pub(super) sources: Sources,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) jitter: Jitter,
    pub(super) published: Published,
    pub(super) watch: CredentialWatch,
    pub(super) requests: mpsc::Receiver<DriverRequest>,
}

impl OrganizationOnly {
    /// Reads the organization, and reads it again whenever it changes, until the account is shut down.
    pub(super) async fn run(mut self) {
        let (mut failures, mut causes) = (0, Causes::default());
        for number in 1.. {
            let Some(outcome) = self.read().await else { return };
            let is_new_cause = causes.is_new(outcome.as_ref().err());
            match &outcome {
                Ok(organization) => self.publish(organization, Generation(number)),
                Err(error) if is_new_cause => {
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

    /// Reads the organization once; `None` when the account is shut down meanwhile.
    async fn read(&mut self) -> Option<Result<HeaderValue, SourceError>> {
        let sources = self.sources.clone();
        let mut reading = pin!(sources.organization());
        let mut waiting = Vec::new();
        loop {
            tokio::select! {
                biased;
                request = self.requests.recv() => match request? {
                    DriverRequest::ShutDown => return None,
                    DriverRequest::LogIn(answer) if waiting.len() < WAITING_MAX => waiting.push(answer),
                    DriverRequest::LogIn(answer) => answer.send(Err(LogInFailed::Busy)).unwrap_or(()),
                    DriverRequest::LogOut(answer) => answer.send(()).unwrap_or(()),
                    DriverRequest::Unauthorized(_, answer) => drop(answer.send(false)),
                    // Only accounts that log in are reconfigured.
                    DriverRequest::Reconfigure(..) => {}
                },
                outcome = &mut reading => {
                    for answer in waiting {
                        answer.send(answer_to_log_in(&outcome)).unwrap_or(());
                    }
                    return Some(outcome);
                }
            }
        }
    }

    fn publish(&self, organization: &HeaderValue, generation: Generation) {
        let organization = organization.clone();
        let account = self.published.identity;
        let bearer = Bearer { authorization: None, organization, generation, fingerprint: None, account, usable_until: None };
        self.published.publish(Some(&Arc::new(bearer)), AccountSnapshot::new(Standing::OrganizationKnown));
        tracing::info!(account = self.sources.account().name, "the organization is known");
    }

    /// Waits until it is time to read again.
    async fn wait(&mut self, outcome: &Result<(), SourceError>, failures: u32) -> Next {
        let pause = outcome.as_ref().err().map(|error| {
            let pause = self.pause(failures);
            let now = self.clock.now();
            let error = Some(LoginError::Source(error.clone()));
            let failing_since = self.published.snapshot.borrow().history.failing_since.or(Some(now.wall));
            let snapshot = AccountSnapshot {
                due_at: Some(now.moment + pause),
                history: LoginHistory { failed_at: Some(now.wall), error, failing_since, ..LoginHistory::default() },
                ..AccountSnapshot::new(Standing::OrganizationMissing)
            };
            self.published.publish(None, snapshot);
            pause
        });
        let waiting = async {
            loop {
                tokio::select! {
                    biased;
                    request = self.requests.recv() => match request {
                        None | Some(DriverRequest::ShutDown) => return Next::Stop,
                        Some(DriverRequest::LogIn(answer)) => answer.send(answer_to_log_in(outcome)).unwrap_or(()),
                        Some(DriverRequest::LogOut(answer)) => answer.send(()).unwrap_or(()),
                        Some(DriverRequest::Unauthorized(_, answer)) => drop(answer.send(false)),
                        Some(DriverRequest::Reconfigure(..)) => {}
                    },
                    change = self.watch.changed() => {
                        if change == CredentialChange::Organization {
                            // Withdraw it before the new one is read: no request may name the old organization any more.
                            self.published.publish(None, AccountSnapshot::new(Standing::OrganizationPending));
                        }
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

/// The answer to a log-in: there is none, so it fails only when the source does.
fn answer_to_log_in<T>(outcome: &Result<T, SourceError>) -> Result<(), LogInFailed> {
    match outcome {
        Ok(_) => Ok(()),
        Err(error) => Err(LogInFailed::Failed(LoginError::Source(error.clone()))),
    }
}
