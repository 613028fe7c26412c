//! Tokens: signed (ES256), remembered, judged.
//!
//! A token is good when it is, byte for byte, one that was signed here, has not expired by the
//! simulator's clock and was not revoked; nothing else verifies against the key, which exists
//! nowhere else. Nothing in here prints a token.

use std::collections::{HashMap, VecDeque};

use aws_lc_rs::{
    digest,
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};

/// What kind of token to issue.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    Proper,
    /// Expired when it was issued.
    Expired,
    NoExp,
    /// Random bytes in base64, no JWT.
    Opaque,
}

/// Why a token is not good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    Unknown,
    Expired,
    Revoked,
    OtherOrganization,
}

/// All tokens of one simulator.
pub(crate) struct Tokens {
    key: EcdsaKeyPair,
    issued: HashMap<String, Issued>,
    /// Issue order, so that the oldest can be forgotten.
    order: VecDeque<String>,
    last: Option<String>,
    count: u64,
    refresh: HashMap<String, Holder>,
}

/// Who a token belongs to.
#[derive(Clone)]
pub(crate) struct Holder {
    pub(crate) organization: String,
    pub(crate) username: String,
}

struct Issued {
    organization: String,
    /// Seconds since 1970 by the simulator's clock.
    expires: i64,
    revoked: bool,
}

/// Enough for any test, and a bound for a simulator that runs for weeks.
const REMEMBERED: usize = 10_000;

impl Tokens {
    /// No tokens, and a new key; fails only when the system has no randomness.
    pub(crate) fn new() -> std::io::Result<Self> {
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).map_err(std::io::Error::other)?;
        Ok(Self { key, issued: HashMap::new(), order: VecDeque::new(), last: None, count: 0, refresh: HashMap::new() })
    }

    /// The public key that verifies the tokens: an uncompressed P-256 point.
    pub(crate) fn public_key(&self) -> Vec<u8> {
        self.key.public_key().as_ref().to_vec()
    }

    /// Issues a token at `now` that lives for `life` seconds.
    pub(crate) fn issue(&mut self, holder: &Holder, now: i64, life: i64, shape: Shape) -> String {
        let (issued_at, expires) = match shape {
            Shape::Expired => (now.saturating_sub(7200), now.saturating_sub(3600)),
            _ => (now, now.saturating_add(life)),
        };
        let token = match shape {
            Shape::Opaque => format!("opaque_{}", random_word()),
            Shape::NoExp => self.sign(&claims(holder, issued_at, None)),
            _ => self.sign(&claims(holder, issued_at, Some(expires))),
        };
        let organization = holder.organization.clone();
        self.issued.insert(token.clone(), Issued { organization, expires, revoked: false });
        self.order.push_back(token.clone());
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.issued.remove(&oldest);
        }
        self.last = Some(token.clone());
        self.count += 1;
        token
    }

    /// Issues a refresh token, good for one refresh.
    pub(crate) fn issue_refresh(&mut self, holder: &Holder) -> String {
        let token = format!("rt_{}", random_word());
        self.refresh.insert(token.clone(), holder.clone());
        token
    }

    /// Takes a refresh token out of circulation; `None` when it is not this organization's.
    pub(crate) fn redeem(&mut self, token: &str, organization: &str) -> Option<Holder> {
        let ours = self.refresh.get(token).is_some_and(|held| held.organization == organization);
        if ours { self.refresh.remove(token) } else { None }
    }

    /// Whether `token` is good for `organization` at `now`.
    pub(crate) fn judge(&self, token: &str, organization: &str, now: i64) -> Result<(), Refused> {
        let issued = self.issued.get(token).ok_or(Refused::Unknown)?;
        if issued.revoked {
            Err(Refused::Revoked)
        } else if now >= issued.expires {
            Err(Refused::Expired)
        } else if issued.organization != organization {
            Err(Refused::OtherOrganization)
        } else {
            Ok(())
        }
    }

    /// Revokes what was issued so far, to everybody or to one organization.
    pub(crate) fn revoke(&mut self, organization: Option<&str>) {
        for issued in self.issued.values_mut() {
            if organization.is_none_or(|organization| issued.organization == organization) {
                issued.revoked = true;
            }
        }
    }

    /// Voids every refresh token.
    pub(crate) fn revoke_refresh(&mut self) {
        self.refresh.clear();
    }

    pub(crate) fn last(&self) -> Option<&str> {
        self.last.as_deref()
    }

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

/// Claims as CarePortals has them: personal, and here invented from the user's name.
fn claims(holder: &Holder, issued_at: i64, expires: Option<i64>) -> Value {
    let mut claims = json!({
        "sub": object_id(&format!("{}/{}", holder.organization, holder.username)),
        "organization": holder.organization,
        "email": holder.username,
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

/// A 24-hex identifier that is always the same for the same seed.
pub(crate) fn object_id(seed: &str) -> String {
    hex(&digest::digest(&digest::SHA256, seed.as_bytes()).as_ref()[..12])
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a `String` cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// 144 random bits.
pub(crate) fn random_word() -> String {
    let mut bytes = [0_u8; 18];
    aws_lc_rs::rand::fill(&mut bytes).expect("the library aborts rather than run out of randomness");
    URL_SAFE_NO_PAD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};

    fn holder(organization: &str) -> Holder {
        Holder { organization: organization.to_owned(), username: "service@demo.example.test".to_owned() }
    }

    #[test]
    fn a_token_verifies_against_the_public_key_and_holds_its_times() {
        let mut tokens = Tokens::new().unwrap();
        let token = tokens.issue(&holder("demo"), 1_000, 60, Shape::Proper);
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
    fn tokens_are_judged_by_age_tenant_and_revocation() {
        let mut tokens = Tokens::new().unwrap();
        let token = tokens.issue(&holder("demo"), 1_000, 60, Shape::Proper);
        let elsewhere = tokens.issue(&holder("other"), 1_000, 60, Shape::Proper);
        assert_eq!(tokens.judge(&token, "demo", 1_059), Ok(()));
        assert_eq!(tokens.judge(&token, "demo", 1_060), Err(Refused::Expired));
        assert_eq!(tokens.judge(&token, "other", 1_000), Err(Refused::OtherOrganization));
        assert_eq!(tokens.judge("x.y.z", "demo", 1_000), Err(Refused::Unknown));
        tokens.revoke(Some("demo"));
        assert_eq!(tokens.judge(&token, "demo", 1_000), Err(Refused::Revoked));
        assert_eq!(tokens.judge(&elsewhere, "other", 1_000), Ok(()));
        let later = tokens.issue(&holder("demo"), 1_000, 60, Shape::Opaque);
        assert_eq!(tokens.judge(&later, "demo", 1_000), Ok(()));
    }

    #[test]
    fn a_refresh_token_is_good_once_and_for_its_tenant_only() {
        let mut tokens = Tokens::new().unwrap();
        let refresh = tokens.issue_refresh(&holder("demo"));
        assert!(tokens.redeem(&refresh, "other").is_none());
        assert!(tokens.redeem(&refresh, "demo").is_some());
        assert!(tokens.redeem(&refresh, "demo").is_none());
    }

    #[test]
    fn old_tokens_are_forgotten_so_that_memory_is_bounded() {
        let mut tokens = Tokens::new().unwrap();
        let first = tokens.issue(&holder("demo"), 0, 60, Shape::Opaque);
        for _ in 0..REMEMBERED {
            tokens.issue(&holder("demo"), 0, 60, Shape::Opaque);
        }
        assert_eq!(tokens.judge(&first, "demo", 0), Err(Refused::Unknown));
        assert_eq!(tokens.issued.len(), REMEMBERED);
    }
}
