//! A log-in by itself, for `check --online`. Nothing of it is kept.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::{
    credentials::Sources,
    failure::{LoginError, Malformed},
    login::{self, HttpLogIn, LogIn as _, LoginConnectors},
    terms::AccountIdentity,
    token::{Generation, Token},
};
use crate::{
    clock::Clock,
    config::{AccountId, Config},
};

/// Logs in once, for `check --online`, and wipes the token.
///
/// # Errors
///
/// The log-in failed.
pub async fn try_log_in(
    config: Arc<Config>,
    id: AccountId,
    connectors: LoginConnectors,
    clock: Arc<dyn Clock>,
) -> Result<Tried, LoginError> {
    let Some((sources, assumed_life)) =
        Sources::new(config, id).and_then(|sources| Some((sources.clone().keeping_stderr(), sources.login()?.assumed_life)))
    else {
        return Err(LoginError::Malformed(Malformed::NoToken));
    };
    let grant = login::outcome(HttpLogIn { sources, connectors, clock }.log_in(None)).await?;
    let (server_date, received) = (grant.server_date, grant.received.wall);
    let token = Token::read(grant, AccountIdentity::new(), Generation(0), assumed_life).map_err(LoginError::Malformed)?;
    Ok(Tried { life: token.life, server_date, received })
}

/// Reads the organization of an account without log-in, for `check --online`.
///
/// # Errors
///
/// Its source gives none that a request could carry.
pub async fn try_organization(config: Arc<Config>, id: AccountId) -> Result<(), LoginError> {
    let Some(sources) = Sources::new(config, id) else { return Ok(()) };
    sources.keeping_stderr().organization().await.map(drop).map_err(LoginError::Source)
}

/// What that log-in showed.
#[derive(Clone, Copy, Debug)]
pub struct Tried {
    /// The token's life.
    pub life: Duration,
    /// The server's clock when it answered.
    pub server_date: Option<SystemTime>,
    /// Our clock at that moment.
    pub received: SystemTime,
}
