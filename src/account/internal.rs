//! The pure readings of this folder, for the fuzz targets and for the test that replays what they found.
//!
//! Not an interface: the program calls nothing here, so nothing here is in it. Adds no rule of its own.

#![doc(hidden)]

use std::time::{Duration, SystemTime};

use http::HeaderValue;

use super::{
    answer,
    failure::Malformed,
    token::{Generation, Grant, Token},
};
use crate::{clock::Now, secret::Secret};

/// The token in a log-in's answer, and the refresh token beside it.
pub fn read_answer(body: &[u8], pointer: Option<&str>) -> Result<(Secret, Option<Secret>), Malformed> {
    answer::read(body, pointer).map(|answer| (answer.token, answer.refresh))
}

/// What is made of a token.
#[derive(Debug)]
pub struct Life {
    /// `Bearer <token>`.
    pub authorization: Option<HeaderValue>,
    /// From receipt to expiry.
    pub whole: Duration,
    /// From receipt until it may not be sent any more.
    pub usable: Duration,
    /// From receipt until it is renewed.
    pub refreshed: Duration,
}

/// Reads a token that came at `received` from a server whose clock showed `server_date`; `fraction` is the jitter's.
pub fn read_token(
    token: Secret,
    server_date: Option<SystemTime>,
    received: Now,
    assumed: Duration,
    fraction: f64,
) -> Result<Life, Malformed> {
    let grant = Grant { token, refresh: None, organization: HeaderValue::from_static("acme"), server_date, received };
    let token = Token::read(grant, Generation(1), assumed)?;
    let since = |moment: crate::clock::Moment| moment.since(received.moment);
    Ok(Life {
        authorization: token.bearer.authorization.clone(),
        whole: token.life,
        usable: since(token.usable_until),
        refreshed: since(token.refresh_at(fraction)),
    })
}
