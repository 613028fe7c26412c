//! May this request be sent again?
//!
//! Pure; depends on `upstream` for what went wrong. There are two reasons: a connection that failed before it answered,
//! and a bearer that was refused. Each is good once, whatever comes in between, so that a request is sent three times at
//! the most: neither a path that always answers 401 nor an upstream that drops every connection makes a loop.

use std::mem;

use http::{HeaderMap, Method};

use crate::{
    connect::ConnectError,
    upstream::{Cause, SendError, Sent},
};

/// The reasons that a request has not used yet.
///
/// Not `Clone`: a copy would bring a used reason back.
#[derive(Debug)]
pub(super) struct RetryBudget {
    connection: bool,
    bearer: bool,
}

/// A request that got no answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Failed<'a> {
    /// Of the request.
    pub(super) method: &'a Method,
    /// Whether the upstream will notice a repetition.
    pub(super) key: IdempotencyKey,
    /// Whether there is anything to send again.
    pub(super) body: Body,
    /// What went wrong, and whether the upstream may have acted before it did.
    pub(super) error: SendError,
}

/// Whether a request carries an `Idempotency-Key` that counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum IdempotencyKey {
    /// The upstream does the same thing once.
    Honoured,
    /// There is none, or the settings do not rely on it.
    Absent,
}

impl IdempotencyKey {
    /// `relied_on`: the API's `retry_idempotency_key`.
    #[must_use]
    pub(super) fn of(headers: &HeaderMap, relied_on: bool) -> Self {
        if relied_on && headers.contains_key("idempotency-key") { Self::Honoured } else { Self::Absent }
    }
}

/// What is left of a request's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Body {
    /// All that was taken from the client can be sent again: there was nothing, or it was kept.
    AtHand,
    /// Some of it is lost.
    Gone,
}

/// After a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum AfterFailure {
    /// Send it again, on a connection made for it.
    Reconnect,
    /// Tell the client.
    GiveUp,
}

/// After an answer that says the bearer is no good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum AfterUnauthorized {
    /// Send it again, with a bearer newer than the refused one.
    FreshBearer,
    /// The answer goes to the client as it came.
    PassOn,
}

impl RetryBudget {
    /// For a request that was not sent yet.
    #[must_use]
    pub(super) fn new() -> Self {
        Self { connection: true, bearer: true }
    }

    /// RFC 9110, 9.2.2: repeat what is idempotent, or what never left.
    pub(super) fn after_failure(&mut self, failed: &Failed<'_>) -> AfterFailure {
        let harmless = match failed.error.sent {
            Sent::Nothing => true,
            Sent::Something => failed.method.is_idempotent() || failed.key == IdempotencyKey::Honoured,
        };
        let promising = is_curable(failed.error.cause) && failed.body == Body::AtHand;
        if promising && harmless && mem::take(&mut self.connection) { AfterFailure::Reconnect } else { AfterFailure::GiveUp }
    }

    /// A refused request was not acted on, whatever its method.
    pub(super) fn after_unauthorized(&mut self, body: Body) -> AfterUnauthorized {
        if body == Body::AtHand && mem::take(&mut self.bearer) {
            AfterUnauthorized::FreshBearer
        } else {
            AfterUnauthorized::PassOn
        }
    }
}

impl Default for RetryBudget {
    fn default() -> Self {
        Self::new()
    }
}

/// Whether another connection may fare better. A time-out has used up the client's patience; a certificate, a name,
/// what an egress proxy says and an answer that is not HTTP will be the same again.
const fn is_curable(cause: Cause) -> bool {
    match cause {
        Cause::Closed | Cause::Connect(ConnectError::Refused | ConnectError::Unreachable | ConnectError::TlsFailed(_)) => true,
        Cause::Connect(
            ConnectError::DnsFailed
            | ConnectError::DnsTimeout
            | ConnectError::Timeout
            | ConnectError::CertificateRejected(_)
            | ConnectError::Egress(_),
        )
        | Cause::Protocol
        | Cause::HeadTooLarge
        | Cause::RequestBody
        | Cause::Upgrade => false,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::connect::{CertificateFault, TlsFault};

    const IDEMPOTENT: [Method; 6] = [Method::GET, Method::HEAD, Method::PUT, Method::DELETE, Method::OPTIONS, Method::TRACE];
    const OTHERS: [Method; 3] = [Method::POST, Method::PATCH, Method::CONNECT];
    const KEYS: [IdempotencyKey; 2] = [IdempotencyKey::Honoured, IdempotencyKey::Absent];
    const BODIES: [Body; 2] = [Body::AtHand, Body::Gone];
    const SENT: [Sent; 2] = [Sent::Nothing, Sent::Something];
    const CURABLE: [Cause; 4] = [
        Cause::Closed,
        Cause::Connect(ConnectError::Refused),
        Cause::Connect(ConnectError::Unreachable),
        Cause::Connect(ConnectError::TlsFailed(TlsFault::Closed)),
    ];
    const INCURABLE: [Cause; 8] = [
        Cause::Connect(ConnectError::DnsFailed),
        Cause::Connect(ConnectError::DnsTimeout),
        Cause::Connect(ConnectError::Timeout),
        Cause::Connect(ConnectError::CertificateRejected(CertificateFault::Expired)),
        Cause::Protocol,
        Cause::HeadTooLarge,
        Cause::RequestBody,
        Cause::Upgrade,
    ];

    fn after(method: &Method, key: IdempotencyKey, body: Body, cause: Cause, sent: Sent) -> AfterFailure {
        RetryBudget::new().after_failure(&Failed { method, key, body, error: SendError { cause, sent } })
    }

    #[test]
    fn the_whole_table_of_failures() {
        for method in IDEMPOTENT.iter().chain(&OTHERS) {
            for (key, body, sent) in
                KEYS.iter().flat_map(|k| BODIES.iter().flat_map(move |b| SENT.iter().map(move |s| (k, b, s))))
            {
                for cause in CURABLE.iter().chain(&INCURABLE) {
                    let again = CURABLE.contains(cause)
                        && *body == Body::AtHand
                        && (*sent == Sent::Nothing || IDEMPOTENT.contains(method) || *key == IdempotencyKey::Honoured);
                    let expected = if again { AfterFailure::Reconnect } else { AfterFailure::GiveUp };
                    let verdict = after(method, *key, *body, *cause, *sent);
                    assert_eq!(verdict, expected, "{method} {key:?} {body:?} {cause:?} {sent:?}");
                }
            }
        }
    }

    #[test]
    fn a_get_is_repeated_although_it_left() {
        let verdict = after(&Method::GET, IdempotencyKey::Absent, Body::AtHand, Cause::Closed, Sent::Something);
        assert_eq!(verdict, AfterFailure::Reconnect);
    }

    #[test]
    fn a_post_that_left_is_repeated_only_with_an_idempotency_key() {
        let after = |key| after(&Method::POST, key, Body::AtHand, Cause::Closed, Sent::Something);
        assert_eq!(after(IdempotencyKey::Absent), AfterFailure::GiveUp);
        assert_eq!(after(IdempotencyKey::Honoured), AfterFailure::Reconnect);
    }

    #[test]
    fn a_post_that_never_left_is_repeated() {
        let verdict = after(&Method::POST, IdempotencyKey::Absent, Body::AtHand, Cause::Closed, Sent::Nothing);
        assert_eq!(verdict, AfterFailure::Reconnect);
    }

    #[test]
    fn a_method_nobody_knows_counts_as_one_that_acts() {
        let method = Method::from_bytes(b"PURGE").unwrap();
        let verdict = after(&method, IdempotencyKey::Absent, Body::AtHand, Cause::Closed, Sent::Something);
        assert_eq!(verdict, AfterFailure::GiveUp);
    }

    #[test]
    fn a_failure_that_is_not_repeated_does_not_use_up_the_reason() {
        let mut retry_budget = RetryBudget::new();
        let failure = |body| Failed {
            method: &Method::GET,
            key: IdempotencyKey::Absent,
            body,
            error: SendError { cause: Cause::Closed, sent: Sent::Nothing },
        };
        assert_eq!(retry_budget.after_failure(&failure(Body::Gone)), AfterFailure::GiveUp);
        assert_eq!(retry_budget.after_failure(&failure(Body::AtHand)), AfterFailure::Reconnect);
        assert_eq!(retry_budget.after_failure(&failure(Body::AtHand)), AfterFailure::GiveUp);
    }

    #[test]
    fn a_refused_bearer_is_replaced_once_while_the_body_is_at_hand() {
        let mut retry_budget = RetryBudget::new();
        assert_eq!(retry_budget.after_unauthorized(Body::Gone), AfterUnauthorized::PassOn);
        assert_eq!(retry_budget.after_unauthorized(Body::AtHand), AfterUnauthorized::FreshBearer);
        assert_eq!(retry_budget.after_unauthorized(Body::AtHand), AfterUnauthorized::PassOn);
    }

    #[test]
    fn a_key_counts_only_when_the_settings_rely_on_it() {
        let mut headers = HeaderMap::new();
        assert_eq!(IdempotencyKey::of(&headers, true), IdempotencyKey::Absent);
        headers.insert("Idempotency-Key", http::HeaderValue::from_static("k"));
        assert_eq!(IdempotencyKey::of(&headers, true), IdempotencyKey::Honoured);
        assert_eq!(IdempotencyKey::of(&headers, false), IdempotencyKey::Absent);
    }

    proptest! {
        #[test]
        fn whatever_happens_a_request_is_sent_three_times_at_most(unauthorized in proptest::collection::vec(any::<bool>(), 0..12)) {
            let mut retry_budget = RetryBudget::new();
            let mut sends = 1;
            for unauthorized in unauthorized {
                let again = if unauthorized {
                    retry_budget.after_unauthorized(Body::AtHand) == AfterUnauthorized::FreshBearer
                } else {
                    let error = SendError { cause: Cause::Closed, sent: Sent::Nothing };
                    let failure = Failed { method: &Method::GET, key: IdempotencyKey::Absent, body: Body::AtHand, error };
                    retry_budget.after_failure(&failure) == AfterFailure::Reconnect
                };
                if !again {
                    break;
                }
                sends += 1;
            }
            prop_assert!(sends <= 3, "{} sends", sends);
        }
    }
}
