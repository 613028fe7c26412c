//! The codes of the sidecar's own error answers, and what each means. Answers, metrics and `docs/problems.md` use this one
//! list.

use http::StatusCode;

use crate::metrics::{Label, ProblemLabel, RefusalScope};

/// Makes the enum and its texts from one list, so that no code can lack a text.
macro_rules! codes {
    ($($code:ident $name:literal $status:ident
        title $title:literal
        detail $detail:literal
        settings [$($setting:literal),*];
    )*) => {
        /// The stable name of an error: `code` in a problem document, a label in metrics and in the access log.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Code {
            $(#[doc = $title] $code,)*
        }

        impl Code {
            /// All codes, in the order of the documentation.
            pub const ALL: &[Self] = &[$(Self::$code),*];

            /// The code as programs see it.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$code => $name,)* }
            }

            /// The answer's status.
            #[must_use]
            pub const fn status(self) -> StatusCode {
                match self { $(Self::$code => StatusCode::$status,)* }
            }

            /// What went wrong.
            #[must_use]
            pub const fn title(self) -> &'static str {
                match self { $(Self::$code => $title,)* }
            }

            /// What to do about it.
            #[must_use]
            pub const fn detail(self) -> &'static str {
                match self { $(Self::$code => $detail,)* }
            }

            /// The settings that govern the problem.
            #[must_use]
            pub const fn settings(self) -> &'static [&'static str] {
                match self { $(Self::$code => &[$($setting),*],)* }
            }
        }
    };
}

impl Label for Code {
    const ALL: &'static [Self] = Self::ALL;

    fn index(self) -> usize {
        self as usize
    }

    fn as_str(self) -> &'static str {
        self.as_str()
    }
}

impl ProblemLabel for Code {
    fn status(self) -> u16 {
        self.status().as_u16()
    }

    fn refused(self) -> Option<RefusalScope> {
        // There is no `_`, so that a new refusal can't stay uncounted.
        match self {
            Self::NoApi => Some(RefusalScope::NoApi),
            Self::BadHost
            | Self::BadTarget
            | Self::BadFraming
            | Self::MethodNotAllowed
            | Self::ExpectationFailed
            | Self::HostNotAllowed
            | Self::CrossSite
            | Self::HeaderRequired
            | Self::CallerNotAllowed
            | Self::LoginPath => Some(RefusalScope::Api),
            Self::NotCanonical | Self::NotAllowed => Some(RefusalScope::Rules),
            Self::LoggedOut
            | Self::TokenPending
            | Self::LoginFailing
            | Self::LoginRejected
            | Self::NoOrganization
            | Self::TooManyRequestsInFlight
            | Self::DnsFailed
            | Self::DnsTimeout
            | Self::ConnectFailed
            | Self::ConnectTimeout
            | Self::EgressRefused
            | Self::TlsFailed
            | Self::CertificateRejected
            | Self::UpstreamClosed
            | Self::UpstreamProtocol
            | Self::UpstreamHeadTooLarge
            | Self::UpgradeFailed
            | Self::UpstreamTimeout
            | Self::RequestBodyFailed
            | Self::RequestBodyTimeout
            | Self::Internal => None,
        }
    }

    fn is_of_an_answer(self) -> bool {
        matches!(self, Self::UpstreamProtocol | Self::UpstreamHeadTooLarge | Self::UpgradeFailed)
    }
}

impl Code {
    /// Whether the next bytes on the connection could be the rest of this request's body.
    #[must_use]
    pub const fn ends_the_connection(self) -> bool {
        matches!(self, Self::BadFraming | Self::RequestBodyFailed | Self::RequestBodyTimeout)
    }
}

codes! {
    BadHost "bad_host" BAD_REQUEST
        title "Not exactly one Host"
        detail "A request names its host once: send one Host header."
        settings [];
    BadTarget "bad_target" BAD_REQUEST
        title "The request's target is not one of ours"
        detail "The sidecar is no forward proxy. Send the path alone, or an absolute http URL with a host that the sidecar goes by; `allowed_hosts` adds names."
        settings ["allowed_hosts"];
    BadFraming "bad_framing" BAD_REQUEST
        title "It is not certain where the request's body ends"
        detail "Send one Content-Length, or `Transfer-Encoding: chunked` and no other coding."
        settings [];
    MethodNotAllowed "method_not_allowed" METHOD_NOT_ALLOWED
        title "CONNECT and TRACE are not served"
        detail "Use one of the methods in Allow. Call the sidecar as if it were the API itself, not as an HTTP proxy."
        settings [];
    ExpectationFailed "expectation_failed" EXPECTATION_FAILED
        title "An expectation that can't be met"
        detail "The only expectation that is served is `Expect: 100-continue`."
        settings [];
    HostNotAllowed "host_not_allowed" MISDIRECTED_REQUEST
        title "Not a host that the sidecar goes by"
        detail "Call the sidecar by localhost, a loopback address or the upstream's name. Any other name that clients use for it belongs in `allowed_hosts`."
        settings ["allowed_hosts"];
    CrossSite "cross_site" FORBIDDEN
        title "A web page that may not call the sidecar"
        detail "The request comes from a browser: from a page of another origin, as a page of its own, or under a host that is not loopback's. Origins that may call belong in `allowed_origins`; `allow_navigation` lets a browser open pages."
        settings ["allowed_origins", "allow_navigation"];
    HeaderRequired "header_required" FORBIDDEN
        title "Not without the required header"
        detail "Send the header that `require_header` names, once and with the value that it has there. If the source of that value gives none, nothing passes, and the sidecar's log says why."
        settings ["require_header"];
    CallerNotAllowed "caller_not_allowed" FORBIDDEN
        title "A caller that may not call"
        detail "Only the users in `allow_uids` and the groups in `allow_gids` may call, and only where the kernel tells who calls: on Unix sockets, and over TCP from processes of this machine by their user alone."
        settings ["allow_uids", "allow_gids"];
    NoApi "no_api" NOT_FOUND
        title "No API is served under this path"
        detail "Several APIs share this address, each under its own `prefix`: begin the path with one of them."
        settings ["prefix"];
    LoginPath "login_path" FORBIDDEN
        title "Log-in is the sidecar's"
        detail "This path answers with a token and is never forwarded. Leave the log-in out: the sidecar adds the bearer to every request."
        settings ["login_url", "refresh_url"];
    NotCanonical "not_canonical" BAD_REQUEST
        title "The path can be read in more than one way"
        detail "This API has rules (`allow`, `deny`), which judge the path as it is sent: leave out dot segments, doubled slashes, backslashes, semicolons, dots and blanks at the end of a segment, and escapes of letters, digits, separators and further escapes."
        settings ["allow", "deny"];
    NotAllowed "not_allowed" FORBIDDEN
        title "The rules do not let this request pass"
        detail "The rules in `allow` and `deny` say which methods and paths pass; a path is judged as the upstream gets it. `careportals-sidecar check --explain 'METHOD PATH'` names the rule."
        settings ["allow", "deny"];
    LoggedOut "logged_out" SERVICE_UNAVAILABLE
        title "The account is logged out"
        detail "Run `careportals-sidecar login`, or restart the sidecar."
        settings [];
    TokenPending "token_pending" SERVICE_UNAVAILABLE
        title "The log-in is still under way"
        detail "Try again after Retry-After. `token_wait` is how long a request waits for a token."
        settings ["token_wait"];
    LoginFailing "login_failing" SERVICE_UNAVAILABLE
        title "The log-in fails for now"
        detail "A source of the credentials is missing, or the log-in server can't be reached or gives no usable answer; the sidecar's log says which. It is tried again by itself, with growing pauses."
        settings ["login_url", "login_timeout"];
    LoginRejected "login_rejected" SERVICE_UNAVAILABLE
        title "The log-in was refused"
        detail "Correct `organization`, `username` or `password`. A changed file is tried at once (one of systemd's `LoadCredential=` after a restart); otherwise the sidecar tries again slowly, so as not to lock the account."
        settings ["organization", "username", "password"];
    NoOrganization "no_organization" SERVICE_UNAVAILABLE
        title "The organization is not known yet"
        detail "The source of `organization` yields nothing; the sidecar's log says why. A file is used as soon as it appears."
        settings ["organization"];
    TooManyRequestsInFlight "too_many_requests_in_flight" SERVICE_UNAVAILABLE
        title "Too many requests at once"
        detail "Try again after Retry-After. `max_requests` is how many may be in flight."
        settings ["max_requests"];
    DnsFailed "dns_failed" BAD_GATEWAY
        title "The upstream's name can't be resolved"
        detail "Check the host in `upstream` and this machine's DNS."
        settings ["upstream"];
    DnsTimeout "dns_timeout" GATEWAY_TIMEOUT
        title "The upstream's name was not resolved in time"
        detail "Check this machine's DNS. `connect_timeout` covers the name, the connection and TLS together."
        settings ["connect_timeout"];
    ConnectFailed "connect_failed" BAD_GATEWAY
        title "No connection to the upstream"
        detail "The connection was refused, there is no route, or the sidecar has no file descriptor left. Check `upstream`, the network, and the sidecar's log."
        settings ["upstream"];
    ConnectTimeout "connect_timeout" GATEWAY_TIMEOUT
        title "No connection to the upstream in time"
        detail "Check the network and its firewalls. `connect_timeout` covers the name, the connection and TLS together."
        settings ["connect_timeout"];
    EgressRefused "egress_refused" BAD_GATEWAY
        title "The egress proxy refused the way to the upstream"
        detail "The sidecar's log says what it answered. Check HTTPS_PROXY with its credentials, and the proxy's rules; NO_PROXY names what is reached without it."
        settings [];
    TlsFailed "tls_failed" BAD_GATEWAY
        title "No TLS with the upstream"
        detail "The handshake failed; the sidecar's log says why. Check that `upstream` speaks TLS at that port, in a version that `tls_min` allows; a client certificate that it wants belongs in `tls_cert_file`."
        settings ["upstream", "tls_min", "tls_cert_file"];
    CertificateRejected "certificate_rejected" BAD_GATEWAY
        title "The upstream's certificate is not trusted"
        detail "The sidecar's log says why. A private authority belongs in `ca_file`."
        settings ["ca_file", "ca_only_file"];
    UpstreamClosed "upstream_closed" BAD_GATEWAY
        title "The upstream closed the connection without an answer"
        detail "The upstream may have acted on the request: repeat it only if that does no harm. With `retry_idempotency_key` the sidecar repeats requests that carry an Idempotency-Key."
        settings ["retry_idempotency_key", "replay_buffer"];
    UpstreamProtocol "upstream_protocol" BAD_GATEWAY
        title "The upstream's answer is not HTTP"
        detail "Check that `upstream` is the API and not another service. An answer must also say in one way where it ends: by one Content-Length, or by `Transfer-Encoding: chunked` and no other coding."
        settings ["upstream"];
    UpstreamHeadTooLarge "upstream_head_too_large" BAD_GATEWAY
        title "The head of the upstream's answer is too large"
        detail "`max_header_bytes` and `max_headers` are the limits."
        settings ["max_header_bytes", "max_headers"];
    UpgradeFailed "upgrade_failed" BAD_GATEWAY
        title "The upstream switched to a protocol that nobody asked for"
        detail "The request asked for a WebSocket, and the upstream's 101 answer does not agree to one."
        settings [];
    UpstreamTimeout "upstream_timeout" GATEWAY_TIMEOUT
        title "The upstream did not answer in time"
        detail "The upstream may have acted on the request: repeat it only if that does no harm. `response_timeout` is how long an answer may take."
        settings ["response_timeout"];
    RequestBodyFailed "request_body_failed" BAD_REQUEST
        title "The request's body broke off"
        detail "Send the whole body that the head announces."
        settings [];
    RequestBodyTimeout "request_body_timeout" REQUEST_TIMEOUT
        title "The request's body stopped coming"
        detail "`body_idle` is how long a client may pause in a body."
        settings ["body_idle"];
    Internal "internal" INTERNAL_SERVER_ERROR
        title "A fault of the sidecar"
        detail "Please report it with the line of the sidecar's log that has this request id."
        settings [];
}
