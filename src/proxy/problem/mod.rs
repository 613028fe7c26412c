//! The sidecar's own error answers: what each cause tells the client. Pure.
//!
//! One match without a wildcard turns every cause into a [`Problem`], so none can be forgotten. Guarantees: all text is
//! constant; nothing of a request, of a secret or of an error's source reaches a client, but the request's own id. A test
//! compares `docs/problems.md` with these texts.

mod code;

use std::time::Duration;

use bytes::Bytes;
use http::{
    HeaderValue, Response, StatusCode, Version,
    header::{ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, RETRY_AFTER},
};
use serde::Serialize;

pub use code::Code;

use super::{admit::Refusal, headers::OURS, request_id::X_REQUEST_ID};
use crate::{
    account::{Unavailable, Why},
    connect::{ConnectError, EgressError},
    upstream::{Cause, SendError},
};

/// When to try again if too many requests are in flight, which passes quickly.
const BUSY_RETRY_AFTER: Duration = Duration::from_secs(1);
/// All registered methods but CONNECT and TRACE.
const ALLOWED_METHODS: &str = "DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT";
const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");

/// Why the client gets an answer of the sidecar's instead of the upstream's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyError {
    /// The request was not admitted.
    Refused(Refusal),
    /// There is no bearer to send with it.
    NoBearer(Unavailable),
    /// `max_requests` requests are in flight.
    Busy,
    /// The exchange failed before the answer's head.
    Upstream(SendError),
    /// No answer came within `response_timeout`.
    UpstreamTimeout,
    /// The client stopped sending its body for longer than `body_idle`.
    RequestBodyTimeout,
    /// The sidecar has a fault.
    Bug,
}

/// What a cause tells the client. Every text is constant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Problem {
    /// The answer's status.
    pub(super) status: StatusCode,
    /// The stable name, for programs.
    pub(super) code: Code,
    /// A summary, equal for each occurrence.
    pub(super) title: &'static str,
    /// What to do, and which setting governs it.
    pub(super) detail: &'static str,
    /// The error type in `Proxy-Status` (RFC 9209, 2.3).
    pub(super) proxy_error: &'static str,
    /// When to try again, where that makes sense.
    pub(super) retry_after: Option<Duration>,
}

impl From<&ProxyError> for Problem {
    fn from(error: &ProxyError) -> Self {
        let retry_after = match error {
            ProxyError::NoBearer(unavailable) => Some(unavailable.retry_after),
            ProxyError::Busy => Some(BUSY_RETRY_AFTER),
            ProxyError::Refused(_)
            | ProxyError::Upstream(_)
            | ProxyError::UpstreamTimeout
            | ProxyError::RequestBodyTimeout
            | ProxyError::Bug => None,
        };
        let (code, proxy_error) = error.name();
        Self { status: code.status(), code, title: code.title(), detail: code.detail(), proxy_error, retry_after }
    }
}

impl ProxyError {
    /// The cause's stable name.
    #[must_use]
    pub const fn code(&self) -> Code {
        self.name().0
    }

    /// What happened, in a few words for people. They are RFC 9209's, but for a certificate, which has a fault of its own.
    #[must_use]
    pub fn in_brief(&self) -> String {
        let connect = match self {
            Self::Upstream(SendError { cause: Cause::Connect(error), .. }) => Some(error),
            _ => None,
        };
        let word = |word: &str| match word {
            "dns" | "tls" | "http" | "ip" => word.to_ascii_uppercase(),
            _ => word.to_owned(),
        };
        let words = self.name().1.split('_').map(word).collect::<Vec<_>>().join(" ");
        match connect {
            // The rest is about clocks, and long.
            Some(ConnectError::CertificateRejected(fault)) => {
                format!("certificate not accepted: {}", fault.to_string().split(": ").next().unwrap_or_default())
            }
            Some(error @ ConnectError::NoDescriptor) => error.to_string(),
            Some(ConnectError::Egress(error)) if self.code() == Code::EgressRefused => format!("egress proxy: {error}"),
            Some(ConnectError::Egress(_)) => format!("egress proxy: {words}"),
            _ => words,
        }
    }

    /// What an administrator can do where the upstream gave no answer.
    #[must_use]
    pub const fn advice(&self) -> &'static str {
        match self {
            Self::Upstream(SendError { cause: Cause::Connect(error), .. }) => error.advice(),
            Self::UpstreamTimeout => {
                "ask CarePortals whether it is slow; if it is not, `response_timeout` may be too short for these calls"
            }
            _ => "nothing, if it passes; else ask CarePortals, and who runs a firewall or proxy in between",
        }
    }

    /// The cause's code, and its error type in `Proxy-Status`.
    const fn name(&self) -> (Code, &'static str) {
        match self {
            Self::Refused(refusal) => match refusal {
                Refusal::HostCount => (Code::BadHost, "http_request_error"),
                Refusal::MethodNotAllowed => (Code::MethodNotAllowed, "http_request_error"),
                Refusal::HostNotAllowed => (Code::HostNotAllowed, "http_request_denied"),
                Refusal::BadTarget => (Code::BadTarget, "http_request_error"),
                Refusal::CrossSite => (Code::CrossSite, "http_request_denied"),
                Refusal::HeaderRequired => (Code::HeaderRequired, "http_request_denied"),
                Refusal::CallerNotAllowed => (Code::CallerNotAllowed, "http_request_denied"),
                Refusal::NoApi => (Code::NoApi, "http_request_denied"),
                Refusal::LoginPath => (Code::LoginPath, "http_request_denied"),
                Refusal::NotCanonical => (Code::NotCanonical, "http_request_error"),
                Refusal::Denied | Refusal::NotAllowed => (Code::NotAllowed, "http_request_denied"),
                Refusal::BadFraming => (Code::BadFraming, "http_request_error"),
                Refusal::ExpectationFailed => (Code::ExpectationFailed, "http_request_error"),
            },
            Self::NoBearer(unavailable) => match unavailable.why {
                Why::LoggedOut => (Code::LoggedOut, "proxy_internal_response"),
                // The one in its place has its first token to get.
                Why::TokenPending | Why::Replaced => (Code::TokenPending, "proxy_internal_response"),
                Why::LoginFailing => (Code::LoginFailing, "proxy_internal_response"),
                Why::LoginRejected => (Code::LoginRejected, "proxy_internal_response"),
                Why::NoOrganization => (Code::NoOrganization, "proxy_configuration_error"),
            },
            Self::Busy => (Code::TooManyRequestsInFlight, "connection_limit_reached"),
            Self::Upstream(failed) => match failed.cause {
                Cause::Connect(ConnectError::DnsFailed) => (Code::DnsFailed, "dns_error"),
                Cause::Connect(ConnectError::DnsTimeout) => (Code::DnsTimeout, "dns_timeout"),
                Cause::Connect(ConnectError::Refused) => (Code::ConnectFailed, "connection_refused"),
                Cause::Connect(ConnectError::Unreachable) => (Code::ConnectFailed, "destination_ip_unroutable"),
                Cause::Connect(ConnectError::NoDescriptor) => (Code::ConnectFailed, "proxy_internal_error"),
                Cause::Connect(ConnectError::Timeout) => (Code::ConnectTimeout, "connection_timeout"),
                Cause::Connect(ConnectError::TlsFailed(_)) => (Code::TlsFailed, "tls_protocol_error"),
                Cause::Connect(ConnectError::CertificateRejected(_)) => (Code::CertificateRejected, "tls_certificate_error"),
                Cause::Connect(ConnectError::Egress(error)) => match error {
                    EgressError::DnsFailed => (Code::DnsFailed, "dns_error"),
                    EgressError::DnsTimeout => (Code::DnsTimeout, "dns_timeout"),
                    EgressError::Refused => (Code::ConnectFailed, "connection_refused"),
                    EgressError::Unreachable => (Code::ConnectFailed, "destination_ip_unroutable"),
                    EgressError::Timeout => (Code::ConnectTimeout, "connection_timeout"),
                    EgressError::TlsFailed(_) => (Code::TlsFailed, "tls_protocol_error"),
                    EgressError::CertificateRejected(_) => (Code::CertificateRejected, "tls_certificate_error"),
                    EgressError::CredentialsRefused | EgressError::Denied(_) | EgressError::Closed | EgressError::NotHttp => {
                        (Code::EgressRefused, "destination_unavailable")
                    }
                },
                Cause::Closed | Cause::BrokenOff => (Code::UpstreamClosed, "connection_terminated"),
                Cause::Protocol | Cause::Surplus | Cause::Http1Required => (Code::UpstreamProtocol, "http_protocol_error"),
                Cause::HeadTooLarge => (Code::UpstreamHeadTooLarge, "http_response_header_section_size"),
                Cause::RequestBody => (Code::RequestBodyFailed, "http_request_error"),
                Cause::Upgrade => (Code::UpgradeFailed, "http_upgrade_failed"),
            },
            Self::UpstreamTimeout => (Code::UpstreamTimeout, "http_response_timeout"),
            Self::RequestBodyTimeout => (Code::RequestBodyTimeout, "http_request_error"),
            Self::Bug => (Code::Internal, "proxy_internal_error"),
        }
    }
}

/// The answer to the client: a problem document (RFC 9457), whose `Proxy-Status` says that the sidecar made it. Answers of
/// the upstream never say that.
#[must_use]
pub(super) fn response(error: &ProxyError, version: Version, request_id: HeaderValue) -> Response<Bytes> {
    let problem = Problem::from(error);
    let document = problem.document(request_id.to_str().unwrap_or_default());
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = problem.status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(document.len()));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(PROXY_STATUS, problem.proxy_status());
    headers.insert(X_REQUEST_ID, request_id);
    if let Some(after) = problem.retry_after {
        headers.insert(RETRY_AFTER, HeaderValue::from(whole_seconds(after)));
    }
    if problem.status == StatusCode::METHOD_NOT_ALLOWED {
        headers.insert(ALLOW, HeaderValue::from_static(ALLOWED_METHODS));
    }
    // Over HTTP/2 only the stream ends, and the field may not be sent.
    if problem.code.ends_the_connection() && version != Version::HTTP_2 {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    *response.body_mut() = document;
    response
}

/// The answer to an OPTIONS that no further proxy may pass on.
#[must_use]
pub(super) fn allowed_methods(request_id: HeaderValue) -> Response<()> {
    let mut response = Response::new(());
    let headers = response.headers_mut();
    headers.insert(ALLOW, HeaderValue::from_static(ALLOWED_METHODS));
    headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    headers.insert(X_REQUEST_ID, request_id);
    response
}

/// The members of a problem document (RFC 9457, 3).
#[derive(Serialize)]
struct ProblemDocument<'a> {
    r#type: String,
    title: &'a str,
    status: u16,
    detail: &'a str,
    code: &'a str,
    request_id: &'a str,
}

impl Problem {
    fn document(&self, request_id: &str) -> Bytes {
        let code = self.code.as_str();
        let document = ProblemDocument {
            r#type: format!("urn:careportals-sidecar:problem:{code}"),
            title: self.title,
            status: self.status.as_u16(),
            detail: self.detail,
            code,
            request_id,
        };
        Bytes::from(serde_json::to_vec(&document).expect("strings and a number always have a JSON form"))
    }

    fn proxy_status(&self) -> HeaderValue {
        HeaderValue::try_from(format!("{OURS}; error={}", self.proxy_error))
            .expect("RFC 9209's error types are letters and underscores")
    }
}

/// Rounded up, and never 0: that would mean "at once".
fn whole_seconds(after: Duration) -> u64 {
    after.as_secs().saturating_add(u64::from(after.subsec_nanos() > 0)).max(1)
}

#[cfg(test)]
mod tests;
