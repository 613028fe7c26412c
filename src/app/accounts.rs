//! Starts the accounts of a configuration, carries them over a reload, and ends them.
//!
//! One running account has one set of terms (`account`): where a reload changes them, another account starts, and the one
//! before ends once the workers have taken over, or a worker that is stuck has had its time.

use std::sync::Arc;

use super::start::{StartError, connector};
use crate::{
    account::{Account, LoginConnectors, Start},
    clock::{Clock, Jitter},
    config::{AccountId, Config, Endpoint},
    metrics::Metrics,
    tls::ClientTls,
};

/// Starts all accounts.
pub(super) fn start(
    config: &Arc<Config>,
    tls: &ClientTls,
    clock: &Arc<dyn Clock>,
    metrics: &Metrics,
) -> Result<Vec<Account>, StartError> {
    (0..config.accounts.len()).map(|index| start_one(config, AccountId(index), Start::LogIn, tls, clock, metrics)).collect()
}

/// Carries over the accounts of `before` that keep their terms, with their tokens, and starts the others. An account that
/// follows a logged-out one of its name stays logged out, and so does every account when all were logged out: only a log-in
/// or a restart ends that.
pub(super) async fn reconfigure(
    before: &[Account],
    config: &Arc<Config>,
    tls: &ClientTls,
    clock: &Arc<dyn Clock>,
    metrics: &Metrics,
) -> Result<Vec<Account>, StartError> {
    let mut accounts = Vec::with_capacity(config.accounts.len());
    let mut that_log_in = before.iter().filter(|account| account.logs_in()).peekable();
    let all_logged_out = that_log_in.peek().is_some() && that_log_in.all(Account::is_logged_out);
    for (index, settings) in config.accounts.iter().enumerate() {
        let id = AccountId(index);
        let known = before.iter().find(|account| account.name() == settings.name);
        let taken = match known {
            Some(known) => known.reconfigure(Arc::clone(config), id, connectors(config, id, tls)?).await,
            None => None,
        };
        accounts.push(match taken {
            Some(account) => account,
            None => start_one(config, id, first_step(known, all_logged_out), tls, clock, metrics)?,
        });
    }
    Ok(accounts)
}

fn first_step(before: Option<&Account>, all_logged_out: bool) -> Start {
    if all_logged_out || before.is_some_and(Account::is_logged_out) { Start::StayLoggedOut } else { Start::LogIn }
}

/// Ends the accounts of `before` that are not among `now`. Requests that wait for their tokens begin anew by the new routes.
pub(super) async fn end_the_rest(before: &[Account], now: &[Account]) {
    for account in before {
        if !now.iter().any(|other| other.is_same(account)) {
            account.give_way_to(now.iter().find(|other| other.name() == account.name())).await;
        }
    }
}

fn start_one(
    config: &Arc<Config>,
    id: AccountId,
    start: Start,
    tls: &ClientTls,
    clock: &Arc<dyn Clock>,
    metrics: &Metrics,
) -> Result<Account, StartError> {
    let counts = metrics.account(&config.accounts[id.0].name);
    let connectors = connectors(config, id, tls)?;
    // `None` would mean that index and connectors do not fit each other; both come from this configuration.
    Account::start(Arc::clone(config), id, connectors, start, Arc::clone(clock), Jitter::from_system(), counts)
        .ok_or(StartError::System(std::io::ErrorKind::InvalidInput.into()))
}

fn connectors(config: &Config, id: AccountId, tls: &ClientTls) -> Result<Option<LoginConnectors>, StartError> {
    let Some(login) = &config.accounts[id.0].login else { return Ok(None) };
    let connector = |endpoint: &Endpoint| connector(&endpoint.origin, tls, &config.egress, login.timeout);
    Ok(Some(LoginConnectors { login: connector(&login.url)?, refresh: login.refresh_url.as_ref().map(connector).transpose()? }))
}
