//! Decides whether a request may be sent again. Pure.
//!
//! There are two reasons: a connection that failed before it answered, and a bearer that was refused. Each counts once,
//! whatever happens in between, so a request is sent three times at most: neither a path that always answers 401 nor an
//! upstream that drops every connection makes a loop.

use std::mem;

use http::{HeaderMap, Method};

use crate::{
    connect::ConnectError,
    upstream::{Cause, SendError, Sent},
};

/// The reasons to send it again that a request has not used yet.
///
/// It is not `Clone`: a copy would bring a used reason back.
#[derive(Debug)]
pub(super) struct RetryBudget {
    connection: bool,
    bearer: bool,
}

/// A request that got no answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct FailedSend<'a> {
    /// The request's method.
    pub(super) method: &'a Method,
    /// Whether the upstream notices a repetition.
    pub(super) key: IdempotencyKey,
    /// Whether the body can be sent again.
    pub(super) replay: Replay,
    /// What went wrong, and whether the upstream may have acted before it did.
    pub(super) error: SendError,
}

/// Whether a request carries an `Idempotency-Key` that counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum IdempotencyKey {
    /// The upstream acts once on the same key.
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

/// Whether a request's body can be sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Replay {
    /// All that was read from the client is kept, or there is no body.
    Possible,
    /// Some of it is lost.
    Impossible,
}

/// What to do after a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum AfterFailure {
    /// Send the request again, on a new connection.
    Reconnect,
    /// Answer the client with a problem.
    GiveUp,
}

/// What to do after an answer that refuses the bearer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum AfterUnauthorized {
    /// Send the request again, with a bearer newer than the refused one.
    FreshBearer,
    /// Give the client the answer as it came.
    PassOn,
}

impl RetryBudget {
    /// The budget of a request that was not sent yet.
    pub(super) const FULL: Self = Self { connection: true, bearer: true };

    /// Repeats a request that is idempotent or that never left (RFC 9110, 9.2.2).
    pub(super) fn after_failure(&mut self, failed: &FailedSend<'_>) -> AfterFailure {
        let harmless = match failed.error.sent {
            Sent::Nothing => true,
            Sent::Something => failed.method.is_idempotent() || failed.key == IdempotencyKey::Honoured,
        };
        let promising = is_curable(failed.error.cause) && failed.replay == Replay::Possible;
        if promising && harmless && mem::take(&mut self.connection) { AfterFailure::Reconnect } else { AfterFailure::GiveUp }
    }

    /// Repeats a request whatever its method: by `relogin_on` the settings promise that the upstream did nothing.
    pub(super) fn after_unauthorized(&mut self, replay: Replay) -> AfterUnauthorized {
        if replay == Replay::Possible && mem::take(&mut self.bearer) {
            AfterUnauthorized::FreshBearer
        } else {
            AfterUnauthorized::PassOn
        }
    }
}

/// Whether another connection may succeed; after `Http1Required` it speaks HTTP/1.1. After a time-out the client has waited long
/// enough; a certificate, a name, the answer of an egress proxy and an answer that is not HTTP will be the same again. An
/// upstream that had begun to answer has acted.
const fn is_curable(cause: Cause) -> bool {
    match cause {
        Cause::Closed
        | Cause::Surplus
        | Cause::Http1Required
        | Cause::Connect(ConnectError::Refused | ConnectError::Unreachable | ConnectError::TlsFailed(_)) => true,
        Cause::Connect(
            ConnectError::DnsFailed
            | ConnectError::DnsTimeout
            | ConnectError::NoDescriptor
            | ConnectError::Timeout
            | ConnectError::CertificateRejected(_)
            | ConnectError::Egress(_),
        )
        | Cause::BrokenOff
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
    const REPLAYS: [Replay; 2] = [Replay::Possible, Replay::Impossible];
    const SENT: [Sent; 2] = [Sent::Nothing, Sent::Something];
    const CURABLE: [Cause; 6] = [
        Cause::Closed,
        Cause::Surplus,
        Cause::Http1Required,
        Cause::Connect(ConnectError::Refused),
        Cause::Connect(ConnectError::Unreachable),
        Cause::Connect(ConnectError::TlsFailed(TlsFault::Closed)),
    ];
    const INCURABLE: [Cause; 10] = [
        Cause::Connect(ConnectError::NoDescriptor),
        Cause::Connect(ConnectError::DnsFailed),
        Cause::Connect(ConnectError::DnsTimeout),
        Cause::Connect(ConnectError::Timeout),
        Cause::Connect(ConnectError::CertificateRejected(CertificateFault::Expired)),
        Cause::BrokenOff,
        Cause::Protocol,
        Cause::HeadTooLarge,
        Cause::RequestBody,
        Cause::Upgrade,
    ];

    fn after(method: &Method, key: IdempotencyKey, replay: Replay, cause: Cause, sent: Sent) -> AfterFailure {
        let mut retry_budget = RetryBudget::FULL;
        retry_budget.after_failure(&FailedSend { method, key, replay, error: SendError { cause, sent } })
    }

    #[test]
    fn the_whole_table_of_failures() {
        for method in IDEMPOTENT.iter().chain(&OTHERS) {
            for (key, replay, sent) in
                KEYS.iter().flat_map(|k| REPLAYS.iter().flat_map(move |b| SENT.iter().map(move |s| (k, b, s))))
            {
                for cause in CURABLE.iter().chain(&INCURABLE) {
                    let again = CURABLE.contains(cause)
                        && *replay == Replay::Possible
                        && (*sent == Sent::Nothing || IDEMPOTENT.contains(method) || *key == IdempotencyKey::Honoured);
                    let expected = if again { AfterFailure::Reconnect } else { AfterFailure::GiveUp };
                    let verdict = after(method, *key, *replay, *cause, *sent);
                    assert_eq!(verdict, expected, "{method} {key:?} {replay:?} {cause:?} {sent:?}");
                }
            }
        }
    }

    #[test]
    fn a_get_is_repeated_although_it_left() {
        let verdict = after(&Method::GET, IdempotencyKey::Absent, Replay::Possible, Cause::Closed, Sent::Something);
        assert_eq!(verdict, AfterFailure::Reconnect);
    }

    #[test]
    fn a_post_that_left_is_repeated_only_with_an_idempotency_key() {
        let after = |key| after(&Method::POST, key, Replay::Possible, Cause::Closed, Sent::Something);
        assert_eq!(after(IdempotencyKey::Absent), AfterFailure::GiveUp);
        assert_eq!(after(IdempotencyKey::Honoured), AfterFailure::Reconnect);
    }

    #[test]
    fn a_post_that_never_left_is_repeated() {
        let verdict = after(&Method::POST, IdempotencyKey::Absent, Replay::Possible, Cause::Closed, Sent::Nothing);
        assert_eq!(verdict, AfterFailure::Reconnect);
    }

    #[test]
    fn an_unknown_method_counts_as_one_that_acts() {
        let method = Method::from_bytes(b"PURGE").unwrap();
        let verdict = after(&method, IdempotencyKey::Absent, Replay::Possible, Cause::Closed, Sent::Something);
        assert_eq!(verdict, AfterFailure::GiveUp);
    }

    #[test]
    fn a_failure_that_is_not_repeated_does_not_use_up_the_reason() {
        let mut retry_budget = RetryBudget::FULL;
        let failure = |replay| FailedSend {
            method: &Method::GET,
            key: IdempotencyKey::Absent,
            replay,
            error: SendError { cause: Cause::Closed, sent: Sent::Nothing },
        };
        assert_eq!(retry_budget.after_failure(&failure(Replay::Impossible)), AfterFailure::GiveUp);
        assert_eq!(retry_budget.after_failure(&failure(Replay::Possible)), AfterFailure::Reconnect);
        assert_eq!(retry_budget.after_failure(&failure(Replay::Possible)), AfterFailure::GiveUp);
    }

    #[test]
    fn a_refused_bearer_is_replaced_once_while_the_body_is_at_hand() {
        let mut retry_budget = RetryBudget::FULL;
        assert_eq!(retry_budget.after_unauthorized(Replay::Impossible), AfterUnauthorized::PassOn);
        assert_eq!(retry_budget.after_unauthorized(Replay::Possible), AfterUnauthorized::FreshBearer);
        assert_eq!(retry_budget.after_unauthorized(Replay::Possible), AfterUnauthorized::PassOn);
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
            let mut retry_budget = RetryBudget::FULL;
            let mut sends = 1;
            for unauthorized in unauthorized {
                let again = if unauthorized {
                    retry_budget.after_unauthorized(Replay::Possible) == AfterUnauthorized::FreshBearer
                } else {
                    let error = SendError { cause: Cause::Closed, sent: Sent::Nothing };
                    let failure = FailedSend { method: &Method::GET, key: IdempotencyKey::Absent, replay: Replay::Possible, error };
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
