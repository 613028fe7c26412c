use std::fmt::Write as _;

use super::*;
use crate::{
    connect::{CertificateFault, TlsFault},
    upstream::Sent,
};

const REFUSALS: [Refusal; 13] = [
    Refusal::HostCount,
    Refusal::MethodNotAllowed,
    Refusal::HostNotAllowed,
    Refusal::BadTarget,
    Refusal::CrossSite,
    Refusal::HeaderRequired,
    Refusal::CallerNotAllowed,
    Refusal::NoApi,
    Refusal::LoginPath,
    Refusal::NotCanonical,
    Refusal::NotAllowed,
    Refusal::BadFraming,
    Refusal::ExpectationFailed,
];
const REASONS: [Why; 6] =
    [Why::LoggedOut, Why::TokenPending, Why::Replaced, Why::LoginFailing, Why::LoginRejected, Why::NoOrganization];
const CAUSES: [Cause; 25] = [
    Cause::Connect(ConnectError::NoDescriptor),
    Cause::Connect(ConnectError::DnsFailed),
    Cause::Connect(ConnectError::DnsTimeout),
    Cause::Connect(ConnectError::Refused),
    Cause::Connect(ConnectError::Unreachable),
    Cause::Connect(ConnectError::Timeout),
    Cause::Connect(ConnectError::TlsFailed(TlsFault::NotTls)),
    Cause::Connect(ConnectError::CertificateRejected(CertificateFault::Expired)),
    Cause::Connect(ConnectError::Egress(EgressError::DnsFailed)),
    Cause::Connect(ConnectError::Egress(EgressError::Refused)),
    Cause::Connect(ConnectError::Egress(EgressError::Unreachable)),
    Cause::Connect(ConnectError::Egress(EgressError::TlsFailed(TlsFault::NotTls))),
    Cause::Connect(ConnectError::Egress(EgressError::CertificateRejected(CertificateFault::Expired))),
    Cause::Connect(ConnectError::Egress(EgressError::CredentialsRefused)),
    Cause::Connect(ConnectError::Egress(EgressError::Denied(403))),
    Cause::Connect(ConnectError::Egress(EgressError::NotHttp)),
    Cause::Connect(ConnectError::Egress(EgressError::DnsTimeout)),
    Cause::Connect(ConnectError::Egress(EgressError::Timeout)),
    Cause::Connect(ConnectError::Egress(EgressError::Closed)),
    Cause::Closed,
    Cause::BrokenOff,
    Cause::Protocol,
    Cause::HeadTooLarge,
    Cause::RequestBody,
    Cause::Upgrade,
];

static ID: HeaderValue = HeaderValue::from_static("id-1");

fn refused(refusal: Refusal) -> ProxyError {
    ProxyError::Refused(refusal)
}

fn without_bearer(why: Why) -> ProxyError {
    ProxyError::NoBearer(Unavailable { why, retry_after: Duration::from_secs(7) })
}

fn failed(cause: Cause) -> ProxyError {
    ProxyError::Upstream(SendError { cause, sent: Sent::Something })
}

fn every_error() -> Vec<ProxyError> {
    let mut errors: Vec<_> = REFUSALS.map(refused).to_vec();
    errors.extend(REASONS.map(without_bearer));
    errors.extend(CAUSES.map(failed));
    errors.extend([ProxyError::Busy, ProxyError::UpstreamTimeout, ProxyError::RequestBodyTimeout, ProxyError::Bug]);
    errors
}

#[track_caller]
fn answers(error: ProxyError, status: u16, code: &str, proxy_error: &str) {
    let response = response(&error, Version::HTTP_11, ID.clone());
    assert_eq!(response.status(), status);
    assert_eq!(response.headers()["proxy-status"], format!("careportals-sidecar; error={proxy_error}"));
    let document: serde_json::Value = serde_json::from_slice(response.body()).unwrap();
    assert_eq!(document["code"], code);
}

#[test]
fn every_cause_has_its_status_code_and_proxy_status() {
    answers(refused(Refusal::HostCount), 400, "bad_host", "http_request_error");
    answers(refused(Refusal::BadTarget), 400, "bad_target", "http_request_error");
    answers(refused(Refusal::BadFraming), 400, "bad_framing", "http_request_error");
    answers(refused(Refusal::MethodNotAllowed), 405, "method_not_allowed", "http_request_error");
    answers(refused(Refusal::ExpectationFailed), 417, "expectation_failed", "http_request_error");
    answers(refused(Refusal::HostNotAllowed), 421, "host_not_allowed", "http_request_denied");
    answers(refused(Refusal::CrossSite), 403, "cross_site", "http_request_denied");
    answers(refused(Refusal::HeaderRequired), 403, "header_required", "http_request_denied");
    answers(refused(Refusal::CallerNotAllowed), 403, "caller_not_allowed", "http_request_denied");
    answers(refused(Refusal::NoApi), 404, "no_api", "http_request_denied");
    answers(refused(Refusal::LoginPath), 403, "login_path", "http_request_denied");
    answers(refused(Refusal::NotCanonical), 400, "not_canonical", "http_request_error");
    answers(refused(Refusal::NotAllowed), 403, "not_allowed", "http_request_denied");
    answers(without_bearer(Why::LoggedOut), 503, "logged_out", "proxy_internal_response");
    answers(without_bearer(Why::TokenPending), 503, "token_pending", "proxy_internal_response");
    answers(without_bearer(Why::LoginFailing), 503, "login_failing", "proxy_internal_response");
    answers(without_bearer(Why::LoginRejected), 503, "login_rejected", "proxy_internal_response");
    answers(without_bearer(Why::NoOrganization), 503, "no_organization", "proxy_configuration_error");
    answers(ProxyError::Busy, 503, "too_many_requests_in_flight", "connection_limit_reached");
    answers(failed(Cause::Connect(ConnectError::DnsFailed)), 502, "dns_failed", "dns_error");
    answers(failed(Cause::Connect(ConnectError::DnsTimeout)), 504, "dns_timeout", "dns_timeout");
    answers(failed(Cause::Connect(ConnectError::Refused)), 502, "connect_failed", "connection_refused");
    answers(failed(Cause::Connect(ConnectError::Unreachable)), 502, "connect_failed", "destination_ip_unroutable");
    answers(failed(Cause::Connect(ConnectError::NoDescriptor)), 502, "connect_failed", "proxy_internal_error");
    answers(failed(Cause::Connect(ConnectError::Timeout)), 504, "connect_timeout", "connection_timeout");
    answers(failed(Cause::Connect(ConnectError::TlsFailed(TlsFault::NotTls))), 502, "tls_failed", "tls_protocol_error");
    answers(
        failed(Cause::Connect(ConnectError::CertificateRejected(CertificateFault::Expired))),
        502,
        "certificate_rejected",
        "tls_certificate_error",
    );
    let egress = |error| failed(Cause::Connect(ConnectError::Egress(error)));
    answers(egress(EgressError::DnsFailed), 502, "dns_failed", "dns_error");
    answers(egress(EgressError::DnsTimeout), 504, "dns_timeout", "dns_timeout");
    answers(egress(EgressError::Timeout), 504, "connect_timeout", "connection_timeout");
    answers(egress(EgressError::Refused), 502, "connect_failed", "connection_refused");
    answers(egress(EgressError::TlsFailed(TlsFault::NotTls)), 502, "tls_failed", "tls_protocol_error");
    for refused in [EgressError::CredentialsRefused, EgressError::Denied(403), EgressError::Closed, EgressError::NotHttp] {
        answers(egress(refused), 502, "egress_refused", "destination_unavailable");
    }
    for cause in [Cause::Closed, Cause::BrokenOff] {
        answers(failed(cause), 502, "upstream_closed", "connection_terminated");
    }
    for cause in [Cause::Protocol, Cause::Surplus, Cause::Http1Required] {
        answers(failed(cause), 502, "upstream_protocol", "http_protocol_error");
    }
    answers(failed(Cause::HeadTooLarge), 502, "upstream_head_too_large", "http_response_header_section_size");
    answers(failed(Cause::RequestBody), 400, "request_body_failed", "http_request_error");
    answers(failed(Cause::Upgrade), 502, "upgrade_failed", "http_upgrade_failed");
    answers(ProxyError::UpstreamTimeout, 504, "upstream_timeout", "http_response_timeout");
    answers(ProxyError::RequestBodyTimeout, 408, "request_body_timeout", "http_request_error");
    answers(ProxyError::Bug, 500, "internal", "proxy_internal_error");
}

#[test]
fn every_code_has_a_cause_and_no_two_share_a_name() {
    let used: Vec<_> = every_error().iter().map(|error| Problem::from(error).code).collect();
    for (index, code) in Code::ALL.iter().enumerate() {
        assert!(used.contains(code), "{code:?}");
        assert!(Code::ALL[..index].iter().all(|earlier| earlier.as_str() != code.as_str()), "{code:?}");
        let tidy = |text: &str| text.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
        assert!(tidy(code.as_str()), "{code:?}");
    }
}

#[test]
fn the_document_is_a_complete_problem() {
    let response = response(&failed(Cause::Closed), Version::HTTP_11, HeaderValue::from_static("0af7-1"));
    let headers = response.headers();
    assert_eq!(headers["x-request-id"], "0af7-1");
    assert_eq!(headers["content-type"], "application/problem+json");
    assert_eq!(headers["cache-control"], "no-store");
    assert_eq!(headers["content-length"], response.body().len().to_string());
    let document: serde_json::Value = serde_json::from_slice(response.body()).unwrap();
    assert_eq!(
        document,
        serde_json::json!({
            "type": "urn:careportals-sidecar:problem:upstream_closed",
            "title": Code::UpstreamClosed.title(),
            "status": 502,
            "detail": Code::UpstreamClosed.detail(),
            "code": "upstream_closed",
            "request_id": "0af7-1",
        })
    );
}

#[test]
fn every_503_says_when_to_try_again_and_nothing_else_does() {
    for error in every_error() {
        let response = response(&error, Version::HTTP_11, ID.clone());
        assert_eq!(response.headers().contains_key("retry-after"), response.status() == 503, "{error:?}");
    }
}

#[test]
fn retry_after_is_in_whole_seconds_rounded_up_and_never_at_once() {
    for (after, expected) in [
        (Duration::ZERO, "1"),
        (Duration::from_millis(1), "1"),
        (Duration::from_secs(1), "1"),
        (Duration::from_millis(1001), "2"),
        (Duration::new(59, 1), "60"),
        (Duration::from_secs(900), "900"),
        (Duration::MAX, "18446744073709551615"),
    ] {
        let error = ProxyError::NoBearer(Unavailable { why: Why::LoginFailing, retry_after: after });
        assert_eq!(response(&error, Version::HTTP_11, ID.clone()).headers()["retry-after"], expected, "{after:?}");
    }
}

#[test]
fn a_405_says_what_is_allowed() {
    for error in every_error() {
        let response = response(&error, Version::HTTP_11, ID.clone());
        let allow = response.headers().get("allow").map(HeaderValue::as_bytes);
        assert_eq!(allow.is_some(), response.status() == 405, "{error:?}");
        assert!(allow.is_none_or(|methods| methods == b"DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT"));
    }
}

#[test]
fn a_connection_ends_when_the_rest_of_a_body_could_follow() {
    for error in every_error() {
        let closes = response(&error, Version::HTTP_11, ID.clone()).headers().contains_key("connection");
        let unsure = matches!(Problem::from(&error).code, Code::BadFraming | Code::RequestBodyFailed | Code::RequestBodyTimeout);
        assert_eq!(closes, unsure, "{error:?}");
        assert!(!response(&error, Version::HTTP_2, ID.clone()).headers().contains_key("connection"), "{error:?}");
    }
}

#[test]
fn a_setting_that_governs_a_problem_is_named_by_its_detail() {
    let row_only = ["login_url", "refresh_url", "login_timeout", "drain_delay", "drain_timeout", "ca_only_file", "replay_buffer"];
    for code in Code::ALL {
        for setting in code.settings() {
            let named = code.detail().contains(&format!("`{setting}`"));
            assert!(named || row_only.contains(setting), "{code:?} {setting}");
        }
    }
}

#[test]
fn the_documentation_has_a_row_for_each_code() {
    let mut table = String::from("| code | status | meaning | what to do | settings |\n| --- | --- | --- | --- | --- |\n");
    for code in Code::ALL {
        let settings: Vec<_> = code.settings().iter().map(|setting| format!("`{setting}`")).collect();
        let (name, status) = (code.as_str(), code.status().as_u16());
        writeln!(table, "| `{name}` | {status} | {} | {} | {} |", code.title(), code.detail(), settings.join(", ")).unwrap();
    }
    let written = include_str!("../../../docs/problems.md");
    let start = written.find("| code |").expect("docs/problems.md has the table of codes");
    assert!(written[start..] == table, "docs/problems.md should end with:\n{table}");
}

#[test]
fn what_happened_is_told_in_a_few_words() {
    let connect = |error| ProxyError::Upstream(SendError { cause: Cause::Connect(error), sent: Sent::Nothing });
    for (error, expected) in [
        (connect(ConnectError::Refused), "connection refused"),
        (connect(ConnectError::DnsTimeout), "DNS timeout"),
        (connect(ConnectError::NoDescriptor), "no file descriptor is left for a connection"),
        (connect(ConnectError::TlsFailed(TlsFault::NotTls)), "TLS protocol error"),
        (
            connect(ConnectError::CertificateRejected(CertificateFault::WrongName)),
            "certificate not accepted: it is for another name",
        ),
        (connect(ConnectError::Egress(EgressError::Refused)), "egress proxy: connection refused"),
        (connect(ConnectError::Egress(EgressError::Denied(403))), "egress proxy: it answered CONNECT with 403"),
        (ProxyError::UpstreamTimeout, "HTTP response timeout"),
    ] {
        assert_eq!(error.in_brief(), expected);
    }
}
