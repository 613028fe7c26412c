//! Lists the faults of a log-in, and parses their written form for flags and the admin port.
//!
//! Pure; it uses no other module. `login.rs` carries the faults out.

use std::{fmt, str::FromStr};

/// A fault that replaces or changes the response to a log-in.
///
/// The faults from [`EmptyToken`](Self::EmptyToken) to [`WithRefreshToken`](Self::WithRefreshToken) change the token, so they
/// apply only to a log-in whose credentials are right. The others apply without regard to the credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LoginFault {
    /// The response has this status and a `{"message"}` body.
    Status(u16),
    /// The response has this status (429, 503, …) and this `Retry-After` value.
    StatusRetryAfter(u16, String),
    /// The response is 200 with a body that is not JSON.
    Garbage,
    /// The response is a 302 to this location.
    Redirect(String),
    /// The response is 200 with a JSON body that never ends.
    Huge,
    /// The connection is reset after the request was read.
    Reset,
    /// The request is read and never answered.
    Hang,
    /// The response is `{"token": ""}`.
    EmptyToken,
    /// The response is a success without a token.
    NoToken,
    /// The token expired an hour ago.
    ExpiredToken,
    /// The token has no `exp`; it is accepted for the token life.
    NoExp,
    /// The response is the token as a bare JSON string.
    BareString,
    /// The token is in a field of this name instead of `token`.
    Field(String),
    /// The token is not a JWT; it is accepted for the token life.
    OpaqueToken,
    /// The token contains CR, LF and a space.
    BadTokenBytes,
    /// The response is correct and also has a `refreshToken`.
    WithRefreshToken,
    /// The response is a 400 whose message is a raw JavaScript exception.
    JavascriptError,
}

impl fmt::Display for LoginFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(code) => write!(f, "status:{code}"),
            Self::StatusRetryAfter(code, after) => write!(f, "retry-after:{code}:{after}"),
            Self::Redirect(location) => write!(f, "redirect:{location}"),
            Self::Field(field) => write!(f, "field:{field}"),
            Self::Garbage => f.write_str("garbage"),
            Self::Huge => f.write_str("huge"),
            Self::Reset => f.write_str("reset"),
            Self::Hang => f.write_str("hang"),
            Self::EmptyToken => f.write_str("empty-token"),
            Self::NoToken => f.write_str("no-token"),
            Self::ExpiredToken => f.write_str("expired-token"),
            Self::NoExp => f.write_str("no-exp"),
            Self::BareString => f.write_str("bare-string"),
            Self::OpaqueToken => f.write_str("opaque-token"),
            Self::BadTokenBytes => f.write_str("bad-token-bytes"),
            Self::WithRefreshToken => f.write_str("with-refresh-token"),
            Self::JavascriptError => f.write_str("javascript-error"),
        }
    }
}

/// The written form is not that of a fault; its message lists all forms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownFault;

impl UnknownFault {
    /// The message, which ends in all forms.
    pub(crate) const FORMS: &str = "expected one of status:CODE, retry-after:CODE:VALUE, garbage, redirect:URL, huge, \
             reset, hang, empty-token, no-token, expired-token, no-exp, bare-string, field:NAME, \
             opaque-token, bad-token-bytes, with-refresh-token, javascript-error";
}

impl fmt::Display for UnknownFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Self::FORMS)
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
            ("javascript-error", None) => Self::JavascriptError,
            _ => return Err(UnknownFault),
        })
    }
}

/// Parses a final status; a 1xx is not a response to a request.
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
    fn a_fault_is_written_as_it_is_read() {
        let forms = UnknownFault.to_string();
        let (_, forms) = forms.split_once("one of ").unwrap();
        for form in forms.split(", ") {
            let written = form
                .replace("CODE", "429")
                .replace("VALUE", "7")
                .replace("URL", "https://x.example.test/")
                .replace("NAME", "jwt");
            assert_eq!(written.parse::<LoginFault>().unwrap().to_string(), written);
        }
    }

    #[test]
    fn what_is_not_a_fault_is_refused() {
        for wrong in ["", "status", "status:100", "status:1000", "garbage:1", "field:", "Garbage"] {
            assert_eq!(wrong.parse::<LoginFault>(), Err(UnknownFault), "{wrong:?}");
        }
    }
}
