//! A token and its life.
//!
//! Pure. Guarantees: it reads `exp` and no other claim, and wipes what it decodes; no input makes it panic; a life is never
//! negative, infinite or longer than ten years.

mod fingerprint;

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use http::HeaderValue;
use serde::Deserialize;

pub use self::fingerprint::Fingerprint;
use super::{failure::Malformed, terms::AccountIdentity};
use crate::{
    clock::{Moment, Now},
    secret::{Pages, Secret},
};

/// A refresh starts this long before the token expires, when its life is long enough.
const REFRESH_BEFORE_END: Duration = Duration::from_secs(30);
const MARGIN_MIN: Duration = Duration::from_secs(1);
const MARGIN_MAX: Duration = Duration::from_secs(2);
/// A token with a shorter life counts as expired when it comes: most of its life is margin, and a log-in at each end would
/// be a storm.
const LIFE_MIN: Duration = Duration::from_secs(2);
/// The longest life keeps arithmetic on absurd claims far from any limit.
const LIFE_MAX: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// The number of a token. A later token has a greater one, and none is used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation(pub(super) u64);

/// What a request carries. Token and organization of one log-in are published and read as one value, so that a token never
/// travels with another organization.
pub struct Bearer {
    /// `Bearer <token>`, one allocation for all requests; `None` when the account has no log-in.
    pub authorization: Option<HeaderValue>,
    /// The value of the organization header.
    pub organization: HeaderValue,
    /// The number of the token.
    pub generation: Generation,
    /// Finds echoes of the token; `None` when the account has no log-in.
    pub fingerprint: Option<Arc<Fingerprint>>,
    /// The account that fetched it. Requests of no other may carry it.
    pub(super) account: AccountIdentity,
    /// From this time on it may not be sent; `None`: it has no end.
    pub(super) usable_until: Option<Moment>,
}

impl Bearer {
    /// Whether it may still be sent.
    #[must_use]
    pub fn is_usable(&self, now: Moment) -> bool {
        self.usable_until.is_none_or(|end| now < end)
    }
}

impl fmt::Debug for Bearer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bearer").field("generation", &self.generation.0).finish_non_exhaustive()
    }
}

/// What a log-in brought, before its token is read.
pub(super) struct Grant {
    pub(super) token: Secret,
    /// The refresh token for the next log-in.
    pub(super) refresh: Option<Secret>,
    /// The organization that the log-in was for.
    pub(super) organization: HeaderValue,
    /// The server's clock when it answered.
    pub(super) server_date: Option<SystemTime>,
    /// When it was asked for, on a connection that was open: the token was not made before.
    pub(super) asked: Moment,
    /// Our clocks when the server wrote its `Date`, as far as we can tell.
    pub(super) received: Now,
}

/// A refresh token, and the organization that it is good for.
#[derive(Clone, Debug)]
pub(super) struct Refresh {
    pub(super) token: Arc<Secret>,
    pub(super) organization: HeaderValue,
}

/// A token whose life is known.
#[derive(Clone, Debug)]
pub(super) struct Token {
    pub(super) bearer: Arc<Bearer>,
    pub(super) refresh: Option<Arc<Secret>>,
    pub(super) received: Moment,
    pub(super) expires: Moment,
    pub(super) life: Duration,
    /// When it expires at the earliest, less a margin: no request arrives with a token that has just expired.
    pub(super) usable_until: Moment,
}

impl Token {
    /// Reads when the token expires, by the server's clock (ours when it sent no `Date`). `account` has fetched it.
    pub(super) fn read(
        grant: Grant,
        account: AccountIdentity,
        generation: Generation,
        assumed_life: Duration,
    ) -> Result<Self, Malformed> {
        let authorization = grant.token.authorization().ok_or(Malformed::NotAHeader)?;
        let server_now = grant.server_date.unwrap_or(grant.received.wall);
        let life = match expiry(grant.token.expose()) {
            Some(exp) => life_left(exp, server_now).ok_or(Malformed::Expired)?,
            None => assumed_life.min(LIFE_MAX),
        };
        let received = grant.received.moment;
        let expires = received + life;
        // Where the clocks disagree, an answer that was held back looks younger than it is: its token may be as old as the question.
        let usable_until = grant.asked + life - margin(life);
        if life < LIFE_MIN {
            return Err(Malformed::Expired);
        }
        let bearer = Bearer {
            authorization: Some(authorization),
            organization: grant.organization,
            generation,
            fingerprint: Some(Arc::new(Fingerprint::of(grant.token.expose()))),
            account,
            usable_until: Some(usable_until),
        };
        let refresh = grant.refresh.map(Arc::new);
        Ok(Self { bearer: Arc::new(bearer), refresh, received, expires, life, usable_until })
    }

    /// What the next log-in may use in place of the credentials.
    pub(super) fn refresh(&self) -> Option<Refresh> {
        self.refresh.clone().map(|token| Refresh { token, organization: self.bearer.organization.clone() })
    }

    pub(super) fn is_of(&self, organization: Option<&HeaderValue>) -> bool {
        organization == Some(&self.bearer.organization)
    }

    pub(super) fn generation(&self) -> Generation {
        self.bearer.generation
    }

    pub(super) fn is_usable(&self, now: Moment) -> bool {
        now < self.usable_until
    }

    /// When the refresh is due: `max(life/2, min(0.8 * life * (1 ± 0.1), life - 30 s))` after the token was received. Half of
    /// the life at least, so that a short one does not cause a loop of refreshes; but no later than the end. `fraction` is uniform
    /// in `[0, 1)`.
    pub(super) fn refresh_at(&self, fraction: f64) -> Moment {
        let scattered = self.life.mul_f64(0.8 * (0.9 + 0.2 * fraction.clamp(0.0, 1.0)));
        let after = scattered.min(self.life.saturating_sub(REFRESH_BEFORE_END)).max(self.life / 2);
        (self.received + after).min(self.usable_until)
    }
}

fn margin(life: Duration) -> Duration {
    (life / 10).clamp(MARGIN_MIN, MARGIN_MAX)
}

/// Reads `exp` in seconds since 1970; `None` when the token is no JWT or has no `exp`.
fn expiry(token: &[u8]) -> Option<f64> {
    let mut parts = token.split(|&byte| byte == b'.');
    let (_header, payload) = (parts.next()?, parts.next()?);
    // A signature must follow, and no more: five parts would be an encrypted token.
    if parts.next().is_none() || parts.next().is_some() {
        return None;
    }
    let claims = base64url(payload)?;
    // serde reads an array as a struct's members in order.
    if !claims.trim_ascii_start().starts_with(b"{") {
        return None;
    }
    serde_json::from_slice::<Claims>(&claims).ok()?.exp
}

/// The only claim that is kept.
#[derive(Deserialize)]
struct Claims {
    exp: Option<f64>,
}

/// The time from the server's now until `exp`; `None` when `exp` has passed.
fn life_left(exp: f64, server_now: SystemTime) -> Option<Duration> {
    let server_now = server_now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let left = exp - server_now.as_secs_f64();
    // A number that is not finite, negative or zero fails the comparison.
    (left > 0.0).then(|| Duration::try_from_secs_f64(left).unwrap_or(LIFE_MAX).min(LIFE_MAX))
}

/// Decodes base64url (RFC 4648, 5). Padding, and bits behind the last byte, are ignored.
fn base64url(text: &[u8]) -> Option<Pages> {
    use base64::{
        Engine as _,
        alphabet::URL_SAFE,
        engine::general_purpose::{GeneralPurpose, NO_PAD},
    };
    const LENIENT: GeneralPurpose = GeneralPurpose::new(&URL_SAFE, NO_PAD.with_decode_allow_trailing_bits(true));
    let unpadded = text.len() - text.iter().rev().take_while(|&&byte| byte == b'=').count();
    let mut bytes = Pages::default();
    let decoded = LENIENT.decode_slice(&text[..unpadded], bytes.spare_capacity_mut(text.len())).ok()?;
    bytes.filled(decoded);
    Some(bytes)
}

/// The life of a token, for the fuzz targets.
#[derive(Debug)]
pub struct TokenLife {
    /// `Bearer <token>`.
    pub authorization: Option<HeaderValue>,
    /// The time from receipt to expiry.
    pub whole: Duration,
    /// The time from receipt until it may not be sent any more.
    pub usable: Duration,
    /// The time from receipt until it is renewed.
    pub refreshed: Duration,
}

/// Reads a token that came at `received` from a server whose clock showed `server_date`, for the fuzz targets; `fraction` is
/// the jitter's.
pub fn read_token(
    token: Secret,
    server_date: Option<SystemTime>,
    received: Now,
    assumed_life: Duration,
    fraction: f64,
) -> Result<TokenLife, Malformed> {
    let grant = Grant {
        token,
        refresh: None,
        organization: HeaderValue::from_static("acme"),
        server_date,
        asked: received.moment,
        received,
    };
    let token = Token::read(grant, AccountIdentity::new(), Generation(1), assumed_life)?;
    let since = |moment: Moment| moment.since(received.moment);
    Ok(TokenLife {
        authorization: token.bearer.authorization.clone(),
        whole: token.life,
        usable: since(token.usable_until),
        refreshed: since(token.refresh_at(fraction)),
    })
}

#[cfg(test)]
pub(super) mod tests;
