//! What a user can do about a connection that fails: one table, for the log, `status`, `login`, `check --online` and the runbook.
//!
//! Pure.

use super::{CertificateFault, ConnectError, EgressError, TlsFault};

/// What to do when this machine's clock and a server's differ.
pub const CLOCK_ADVICE: &str = "correct this machine's clock (`timedatectl`), if it is not the server's that is wrong";

impl ConnectError {
    /// What to do about it.
    #[must_use]
    pub const fn advice(self) -> &'static str {
        match self {
            Self::DnsFailed | Self::DnsTimeout => "check the host name in `upstream` or `login_url`, and this machine's resolver",
            Self::Refused | Self::Unreachable | Self::Timeout => "check `upstream` or `login_url`, firewalls and routes",
            Self::NoDescriptor => "raise `LimitNOFILE=` or `ulimit -n`, or lower `max_requests`",
            Self::TlsFailed(fault) => fault.advice(),
            Self::CertificateRejected(fault) => fault.advice(),
            Self::Egress(error) => error.advice(),
        }
    }
}

impl EgressError {
    /// What to do about it.
    #[must_use]
    pub const fn advice(self) -> &'static str {
        match self {
            Self::DnsFailed | Self::DnsTimeout => "check the host name in HTTPS_PROXY and this machine's resolver",
            Self::Refused | Self::Unreachable | Self::Timeout => "check HTTPS_PROXY, firewalls and routes",
            Self::TlsFailed(TlsFault::NotTls) => "write http:// in HTTPS_PROXY: the proxy does not speak TLS, as most don't",
            Self::TlsFailed(fault) => fault.advice(),
            Self::CertificateRejected(fault) => fault.advice(),
            Self::CredentialsRefused => "check those in HTTPS_PROXY: http://USER:PASSWORD@HOST:PORT, percent-encoded",
            Self::Denied(_) | Self::Closed | Self::NotHttp => {
                "the proxy must allow CONNECT to this host and port; NO_PROXY names what is reached without it"
            }
        }
    }
}

impl TlsFault {
    /// One of each that a user can meet, for documents and tests.
    pub const EACH: [Self; 6] = [Self::NotTls, Self::Version, Self::ClientCertificate, Self::Refused, Self::Closed, Self::Other];

    /// What to do about it.
    #[must_use]
    pub const fn advice(self) -> &'static str {
        match self {
            Self::NotTls => "check host and port: another service answers there, or one without TLS",
            Self::Version => "have the server speak TLS 1.2 or later; with `tls_min = \"1.3\"` it must speak that",
            Self::ClientCertificate | Self::Refused => {
                "check `tls_cert_file` and `tls_key_file`: does the server trust that certificate, and is it still valid?"
            }
            Self::Closed => "check that the port speaks TLS, and what is in between: a firewall or proxy may cut TLS off",
            Self::SessionOver => "nothing; the next connection begins anew",
            Self::Other => {
                "ask who runs the server, or what opens TLS in between; `openssl s_client -connect HOST:PORT` shows more"
            }
        }
    }
}

impl CertificateFault {
    /// One of each, for documents and tests.
    pub const EACH: [Self; 12] = [
        Self::Expired,
        Self::NotYetValid,
        Self::WrongName,
        Self::NoName,
        Self::UnknownIssuer,
        Self::WrongSignature,
        Self::OfAnAuthority,
        Self::WrongPurpose,
        Self::OldVersion,
        Self::WeakSignature,
        Self::BadChain,
        Self::Unverifiable,
    ];

    /// What to do about it.
    #[must_use]
    pub const fn advice(self) -> &'static str {
        match self {
            Self::Expired | Self::ExpiredAt(_) => {
                "have the server's certificate renewed; if this machine's clock is wrong, correct it (`timedatectl`)"
            }
            Self::NotYetValid | Self::ValidFrom(_) => {
                "correct this machine's clock (`timedatectl`), if the certificate is not from the future"
            }
            Self::WrongName => "check the host name in the URL: the certificate must name exactly that host",
            Self::NoName => {
                "have it made with the host in `subjectAltName` (`-addext subjectAltName=DNS:HOST`): a common name alone is not read"
            }
            Self::UnknownIssuer => {
                "a private authority, or that of a proxy that opens TLS, belongs into `ca_file`; after a change of that file run \
                 `careportals-sidecar reload`"
            }
            Self::WrongSignature => {
                "the authority has another key now, or somebody uses its name: put its present certificate into `ca_file`, then run \
                 `careportals-sidecar reload`"
            }
            Self::OfAnAuthority => {
                "have the server show a certificate that is no authority's: make it with `openssl req -x509 -addext \
                 basicConstraints=critical,CA:FALSE -addext subjectAltName=DNS:HOST`, or let that authority sign one; then reload"
            }
            Self::WrongPurpose => {
                "have it made with `extendedKeyUsage = serverAuth`, or without that extension: it is a client's, or for something else"
            }
            Self::OldVersion => {
                "have it made as X.509 version 3: `openssl x509 -req` does so with `-extfile` and a `subjectAltName`"
            }
            Self::WeakSignature => {
                "have it signed with SHA-256 or better, and with a key of a usual kind: RSA, P-256, P-384 or Ed25519"
            }
            Self::BadChain => "ask who runs the server for its whole chain in order: a limit that an authority set is not kept",
            Self::Unverifiable => {
                "look at it with `openssl s_client -connect HOST:PORT -showcerts`; it is damaged, or of an unusual kind"
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The runbook says the same as the program.
    #[test]
    fn the_runbook_has_each_fault_of_a_connection_with_its_advice() {
        let runbook = include_str!("../../docs/runbook.md");
        let has = |fault: &dyn std::fmt::Display, advice: &str| {
            let row = format!("| {fault} | {advice} |");
            assert!(runbook.contains(&row), "docs/runbook.md lacks\n{row}");
        };
        for fault in CertificateFault::EACH {
            has(&fault, fault.advice());
        }
        for fault in TlsFault::EACH {
            has(&fault, fault.advice());
        }
        let errors = [
            ConnectError::DnsFailed,
            ConnectError::DnsTimeout,
            ConnectError::Refused,
            ConnectError::Unreachable,
            ConnectError::Timeout,
        ];
        for error in errors {
            has(&error, error.advice());
            has(&EgressError::on_the_way(error), EgressError::on_the_way(error).advice());
        }
        has(&ConnectError::NoDescriptor, ConnectError::NoDescriptor.advice());
        for error in [EgressError::CredentialsRefused, EgressError::Denied(403), EgressError::Closed, EgressError::NotHttp] {
            has(&ConnectError::Egress(error), error.advice());
        }
        has(&"the clocks of this machine and the server differ", CLOCK_ADVICE);
    }
}
