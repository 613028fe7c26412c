//! Issues tokens (signed with ES256), remembers them and checks them.
//!
//! It uses `ids`; the caller passes the time. A token is good if this module issued exactly these bytes, if it has not
//! expired and if it was not revoked. The signing key never leaves this module, and nothing here prints a token.

use std::collections::{HashMap, VecDeque};

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use crate::ids::{object_id, random_word};

/// How many tokens are remembered: enough for any test, and a bound for a simulator that runs for weeks.
const REMEMBERED_MAX: usize = 10_000;

/// Which kind of token to issue.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum TokenKind {
    /// A JWT that is valid for the token life.
    Valid,
    /// A JWT that expired an hour ago.
    Expired,
    /// A JWT without `exp`, whose life nobody can read.
    NoExp,
    /// Random bytes in base64 instead of a JWT.
    Opaque,
}

/// Why a token is rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TokenRejection {
    /// It was not issued here, or so long ago that it is forgotten.
    Unknown,
    /// The time in its `exp` has passed.
    Expired,
    /// It was revoked before its time.
    Revoked,
    /// It was issued to another organization.
    OtherOrganization,
}

/// The tokens of one simulator, and their key.
pub(crate) struct Tokens {
    key: EcdsaKeyPair,
    issued: HashMap<String, IssuedToken>,
    /// The tokens in the order of their issue, so that the oldest can be forgotten.
    order: VecDeque<String>,
    last: Option<String>,
    count: u64,
    refresh: HashMap<String, TokenOwner>,
}

/// The user that a token belongs to.
#[derive(Clone)]
pub(crate) struct TokenOwner {
    pub(crate) organization: String,
    pub(crate) username: String,
}

struct IssuedToken {
    organization: String,
    /// Seconds since 1970, by the simulator's clock.
    expires: i64,
    revoked: bool,
}

impl Tokens {
    /// No tokens, and a new key.
    ///
    /// # Errors
    ///
    /// The system has no randomness.
    pub(crate) fn new() -> std::io::Result<Self> {
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).map_err(std::io::Error::other)?;
        Ok(Self { key, issued: HashMap::new(), order: VecDeque::new(), last: None, count: 0, refresh: HashMap::new() })
    }

    /// The public key that verifies the signatures: an uncompressed P-256 point.
    pub(crate) fn public_key(&self) -> Vec<u8> {
        self.key.public_key().as_ref().to_vec()
    }

    /// Issues a token at `now` (seconds since 1970) that lives for `life` seconds.
    pub(crate) fn issue(&mut self, owner: &TokenOwner, now: i64, life: i64, shape: TokenKind) -> String {
        let (issued_at, expires) = match shape {
            TokenKind::Expired => (now.saturating_sub(7200), now.saturating_sub(3600)),
            _ => (now, now.saturating_add(life)),
        };
        let token = match shape {
            TokenKind::Opaque => format!("opaque_{}", random_word()),
            TokenKind::NoExp => self.sign(&claims(owner, issued_at, None)),
            _ => self.sign(&claims(owner, issued_at, Some(expires))),
        };
        let organization = owner.organization.clone();
        self.issued.insert(token.clone(), IssuedToken { organization, expires, revoked: false });
        self.order.push_back(token.clone());
        if self.order.len() > REMEMBERED_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.issued.remove(&oldest);
        }
        self.last = Some(token.clone());
        self.count += 1;
        token
    }

    /// Issues a refresh token, which is good for one refresh.
    pub(crate) fn issue_refresh(&mut self, owner: &TokenOwner) -> String {
        let token = format!("rt_{}", random_word());
        self.refresh.insert(token.clone(), owner.clone());
        token
    }

    /// Uses up a refresh token and returns its owner; `None` when the token is unknown or another organization's.
    pub(crate) fn redeem(&mut self, token: &str, organization: &str) -> Option<TokenOwner> {
        let ours = self.refresh.get(token).is_some_and(|held| held.organization == organization);
        if ours { self.refresh.remove(token) } else { None }
    }

    /// Checks whether `token` is good for `organization` at `now`.
    ///
    /// # Errors
    ///
    /// The first reason to reject it, in the order: unknown, revoked, expired, other organization.
    pub(crate) fn check(&self, token: &str, organization: &str, now: i64) -> Result<(), TokenRejection> {
        let issued = self.issued.get(token).ok_or(TokenRejection::Unknown)?;
        if issued.revoked {
            Err(TokenRejection::Revoked)
        } else if now >= issued.expires {
            Err(TokenRejection::Expired)
        } else if issued.organization != organization {
            Err(TokenRejection::OtherOrganization)
        } else {
            Ok(())
        }
    }

    /// Revokes all tokens issued so far, or only those of one organization.
    pub(crate) fn revoke(&mut self, organization: Option<&str>) {
        for issued in self.issued.values_mut() {
            if organization.is_none_or(|organization| issued.organization == organization) {
                issued.revoked = true;
            }
        }
    }

    /// Revokes every refresh token.
    pub(crate) fn revoke_refresh(&mut self) {
        self.refresh.clear();
    }

    /// The token that was issued last.
    pub(crate) fn last(&self) -> Option<&str> {
        self.last.as_deref()
    }

    /// How many tokens were issued so far.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    fn sign(&self, claims: &Value) -> String {
        let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"ES256","typ":"JWT"}"#);
        let mut token = format!("{header}.{}", URL_SAFE_NO_PAD.encode(claims.to_string()));
        let signature = self
            .key
            .sign(&SystemRandom::new(), token.as_bytes())
            .expect("the key was made by the same library and signing needs only memory");
        token.push('.');
        token.push_str(&URL_SAFE_NO_PAD.encode(signature));
        token
    }
}

/// The claims of a token: the fields of CarePortals' tokens, with an invented person.
fn claims(owner: &TokenOwner, issued_at: i64, expires: Option<i64>) -> Value {
    let mut claims = json!({
        "sub": object_id(&format!("{}/{}", owner.organization, owner.username)),
        "organization": owner.organization,
        "email": owner.username,
        "phone": "+15550100142",
        "birthDate": "1984-07-19",
        "name": "Robin Sample",
        "iat": issued_at,
        "jti": random_word(),
    });
    if let Some(expires) = expires {
        claims["exp"] = expires.into();
    }
    claims
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};

    fn owner(organization: &str) -> TokenOwner {
        TokenOwner { organization: organization.to_owned(), username: "service@demo.example.test".to_owned() }
    }

    #[test]
    fn a_token_verifies_against_the_public_key_and_holds_its_times() {
        let mut tokens = Tokens::new().unwrap();
        let token = tokens.issue(&owner("demo"), 1_000, 60, TokenKind::Valid);
        let (signed, signature) = token.rsplit_once('.').unwrap();
        let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, tokens.public_key())
            .verify(signed.as_bytes(), &signature)
            .expect("signed with this key");
        let claims = URL_SAFE_NO_PAD.decode(signed.split_once('.').unwrap().1).unwrap();
        let claims: Value = serde_json::from_slice(&claims).unwrap();
        assert_eq!((claims["iat"].as_i64(), claims["exp"].as_i64()), (Some(1_000), Some(1_060)));
        assert_eq!(claims["organization"], "demo");
    }

    #[test]
    fn tokens_are_checked_by_age_tenant_and_revocation() {
        let mut tokens = Tokens::new().unwrap();
        let token = tokens.issue(&owner("demo"), 1_000, 60, TokenKind::Valid);
        let elsewhere = tokens.issue(&owner("other"), 1_000, 60, TokenKind::Valid);
        assert_eq!(tokens.check(&token, "demo", 1_059), Ok(()));
        assert_eq!(tokens.check(&token, "demo", 1_060), Err(TokenRejection::Expired));
        assert_eq!(tokens.check(&token, "other", 1_000), Err(TokenRejection::OtherOrganization));
        assert_eq!(tokens.check("x.y.z", "demo", 1_000), Err(TokenRejection::Unknown));
        tokens.revoke(Some("demo"));
        assert_eq!(tokens.check(&token, "demo", 1_000), Err(TokenRejection::Revoked));
        assert_eq!(tokens.check(&elsewhere, "other", 1_000), Ok(()));
        let later = tokens.issue(&owner("demo"), 1_000, 60, TokenKind::Opaque);
        assert_eq!(tokens.check(&later, "demo", 1_000), Ok(()));
    }

    #[test]
    fn a_refresh_token_is_good_once_and_for_its_tenant_only() {
        let mut tokens = Tokens::new().unwrap();
        let refresh = tokens.issue_refresh(&owner("demo"));
        assert!(tokens.redeem(&refresh, "other").is_none());
        assert!(tokens.redeem(&refresh, "demo").is_some());
        assert!(tokens.redeem(&refresh, "demo").is_none());
    }

    #[test]
    fn old_tokens_are_forgotten_so_that_memory_is_bounded() {
        let mut tokens = Tokens::new().unwrap();
        let first = tokens.issue(&owner("demo"), 0, 60, TokenKind::Opaque);
        for _ in 0..REMEMBERED_MAX {
            tokens.issue(&owner("demo"), 0, 60, TokenKind::Opaque);
        }
        assert_eq!(tokens.check(&first, "demo", 0), Err(TokenRejection::Unknown));
        assert_eq!(tokens.issued.len(), REMEMBERED_MAX);
    }
}
