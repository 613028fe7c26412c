//! How a log-in can go wrong: [`LoginFault`], and its written form for flags and the admin port.
//!
//! Words only: what each fault does on the wire is `login.rs`.

use std::{fmt, str::FromStr};

/// What the log-in endpoints do instead of answering properly.
///
/// The faults that concern the token ([`EmptyToken`](Self::EmptyToken) and later ones) act only on
/// a log-in whose credentials are right; the others act before the credentials are looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LoginFault {
    /// This status with a `{"message"}` body.
    Status(u16),
    /// This status (429, 503, …) with this `Retry-After` value.
    StatusRetryAfter(u16, String),
    /// 200 with a body that is not JSON.
    Garbage,
    /// 302 to this location.
    Redirect(String),
    /// 200 with a JSON body that never ends.
    Huge,
    /// The connection is reset after the request was read.
    Reset,
    /// The request is read and never answered.
    Hang,
    /// `{"token": ""}`.
    EmptyToken,
    /// A success without a token.
    NoToken,
    /// A token that expired an hour ago.
    ExpiredToken,
    /// A token without `exp`; it is honoured for the token life all the same.
    NoExp,
    /// The token as a bare JSON string.
    BareString,
    /// The token in a field of this name instead of `token`.
    Field(String),
    /// A token that is no JWT; it is honoured for the token life.
    OpaqueToken,
    /// A token that holds CR, LF and a space.
    BadTokenBytes,
    /// A proper answer that also holds a `refreshToken`.
    WithRefreshToken,
}

/// The written form of a fault was not understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownFault;

impl fmt::Display for UnknownFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "expected one of status:CODE, retry-after:CODE:VALUE, garbage, redirect:URL, huge, \
             reset, hang, empty-token, no-token, expired-token, no-exp, bare-string, field:NAME, \
             opaque-token, bad-token-bytes, with-refresh-token",
        )
    }
}

impl std::error::Error for UnknownFault {}

impl FromStr for LoginFault {
    type Err = UnknownFault;

    fn from_str(written: &str) -> Result<Self, UnknownFault> {
        let (name, rest) = match written.split_once(':') {
            Some((name, rest)) => (name, Some(rest)),
            None => (written, None),
        };
        Ok(match (name, rest) {
            ("status", Some(code)) => Self::Status(status(code)?),
            ("retry-after", Some(rest)) => {
                let (code, value) = rest.split_once(':').ok_or(UnknownFault)?;
                Self::StatusRetryAfter(status(code)?, value.to_owned())
            }
            ("redirect", Some(location)) => Self::Redirect(location.to_owned()),
            ("field", Some(field)) if !field.is_empty() => Self::Field(field.to_owned()),
            ("garbage", None) => Self::Garbage,
            ("huge", None) => Self::Huge,
            ("reset", None) => Self::Reset,
            ("hang", None) => Self::Hang,
            ("empty-token", None) => Self::EmptyToken,
            ("no-token", None) => Self::NoToken,
            ("expired-token", None) => Self::ExpiredToken,
            ("no-exp", None) => Self::NoExp,
            ("bare-string", None) => Self::BareString,
            ("opaque-token", None) => Self::OpaqueToken,
            ("bad-token-bytes", None) => Self::BadTokenBytes,
            ("with-refresh-token", None) => Self::WithRefreshToken,
            _ => return Err(UnknownFault),
        })
    }
}

/// Final statuses only: a 1xx would not be an answer.
fn status(code: &str) -> Result<u16, UnknownFault> {
    code.parse().ok().filter(|code| (200..=999).contains(code)).ok_or(UnknownFault)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_faults_are_read() {
        assert_eq!("status:503".parse(), Ok(LoginFault::Status(503)));
        assert_eq!(
            "retry-after:429:Wed, 21 Oct 2026 07:28:00 GMT".parse(),
            Ok(LoginFault::StatusRetryAfter(429, "Wed, 21 Oct 2026 07:28:00 GMT".to_owned()))
        );
        assert_eq!("redirect:https://localhost/x".parse(), Ok(LoginFault::Redirect("https://localhost/x".to_owned())));
        assert_eq!("no-exp".parse(), Ok(LoginFault::NoExp));
    }

    #[test]
    fn what_is_not_a_fault_is_refused() {
        for wrong in ["", "status", "status:100", "status:1000", "garbage:1", "field:", "Garbage"] {
            assert_eq!(wrong.parse::<LoginFault>(), Err(UnknownFault), "{wrong:?}");
        }
    }
}
