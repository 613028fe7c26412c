//! The way through a proxy: CONNECT (RFC 9110, 9.3.6), and what it answers.
//!
//! Depends on `config` and `secret`. Guarantees: the proxy is told the upstream's host and port and nothing else of what
//! follows; its credentials are written from a buffer that is wiped; an answer that is too long or goes on after its head
//! ends the attempt.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::{CertificateFault, ConnectError, TlsFault};
use crate::{
    config::{EgressProxy, Origin},
    secret::Pages,
};

/// Why the proxy is no way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EgressError {
    /// Its name has no address, or the resolver failed.
    #[error("its name could not be resolved")]
    DnsFailed,
    /// The resolver did not answer in time.
    #[error("resolving its name took too long")]
    DnsTimeout,
    /// Nobody listens there.
    #[error("it refused the connection")]
    Refused,
    /// No way there.
    #[error("it could not be reached")]
    Unreachable,
    /// TCP, TLS or its answer did not come in time.
    #[error("it took too long")]
    Timeout,
    /// It does not speak TLS as we need it.
    #[error("the TLS handshake with it failed: {0}")]
    TlsFailed(TlsFault),
    /// Its certificate is not one to trust.
    #[error("its certificate was not accepted: {0}")]
    CertificateRejected(CertificateFault),
    /// It wants to know who we are, or does not believe it.
    #[error("it asks for other credentials (407)")]
    CredentialsRefused,
    /// It won't connect us.
    #[error("it answered CONNECT with {0}")]
    Denied(u16),
    /// It hung up before its answer was whole.
    #[error("it closed the connection before it had answered")]
    Closed,
    /// What it answered is not HTTP, or more than an answer.
    #[error("its answer to CONNECT is not HTTP")]
    NotHttp,
}

impl EgressError {
    /// What happened on the way to the upstream, if it happened on the way to the proxy.
    pub(super) fn on_the_way(error: ConnectError) -> ConnectError {
        ConnectError::Egress(match error {
            ConnectError::DnsFailed => Self::DnsFailed,
            ConnectError::DnsTimeout => Self::DnsTimeout,
            ConnectError::Refused => Self::Refused,
            ConnectError::Unreachable => Self::Unreachable,
            ConnectError::Timeout => Self::Timeout,
            ConnectError::TlsFailed(fault) => Self::TlsFailed(fault),
            ConnectError::CertificateRejected(fault) => Self::CertificateRejected(fault),
            ConnectError::Egress(error) => error,
        })
    }
}

/// Has the proxy connect `stream` to `server`. How long that may take is the caller's to say.
pub(super) async fn ask<S>(stream: &mut S, proxy: &EgressProxy, server: &Origin) -> Result<(), EgressError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let request = request(proxy, server);
    stream.write_all(&request).await.map_err(|_| EgressError::Closed)?;
    stream.flush().await.map_err(|_| EgressError::Closed)?;
    let mut head = Vec::with_capacity(HEAD_MAX);
    loop {
        if stream.read_buf(&mut head).await.map_err(|_| EgressError::Closed)? == 0 {
            return Err(EgressError::Closed);
        }
        match status(&head)? {
            None if head.len() >= HEAD_MAX => return Err(EgressError::NotHttp),
            None => {}
            Some(200..=299) => return Ok(()),
            Some(407) => return Err(EgressError::CredentialsRefused),
            Some(other) => return Err(EgressError::Denied(other)),
        }
    }
}

fn request(proxy: &EgressProxy, server: &Origin) -> Pages {
    let host = if server.host.contains(':') { format!("[{}]", server.host) } else { server.host.clone() };
    let place = format!("{host}:{}", server.port);
    let mut out = Pages::default();
    for part in ["CONNECT ", &place, " HTTP/1.1\r\nHost: ", &place, "\r\n"] {
        out.extend(part.as_bytes());
    }
    if let Some(credentials) = &proxy.credentials {
        out.extend(b"Proxy-Authorization: Basic ");
        let room = out.room(4 * credentials.expose().len().div_ceil(3));
        // It fits: the room is what the encoding takes.
        let written = STANDARD.encode_slice(credentials.expose(), room).unwrap_or_default();
        out.filled(written);
        out.extend(b"\r\n");
    }
    out.extend(b"\r\n");
    out
}

/// The status, once the head is whole. The upstream speaks only after us, so nothing may follow; but for the body of a
/// refusal, which nobody reads.
fn status(head: &[u8]) -> Result<Option<u16>, EgressError> {
    // What is no HTTP may never end like a head: it is not waited for.
    if !head.iter().zip(VERSION).all(|(byte, expected)| byte == expected) {
        return Err(EgressError::NotHttp);
    }
    let Some(end) = head.windows(4).position(|window| window == b"\r\n\r\n") else { return Ok(None) };
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let line = std::str::from_utf8(line).map_err(|_| EgressError::NotHttp)?;
    let mut words = line.splitn(3, ' ');
    let is_http = matches!(words.next(), Some("HTTP/1.1" | "HTTP/1.0"));
    let digits = words.next().filter(|word| is_http && word.len() == 3 && word.bytes().all(|byte| byte.is_ascii_digit()));
    let status: u16 = digits.and_then(|digits| digits.parse().ok()).ok_or(EgressError::NotHttp)?;
    let goes_on = head.len() > end + 4;
    if (200..300).contains(&status) && goes_on { Err(EgressError::NotHttp) } else { Ok(Some(status)) }
}

const HEAD_MAX: usize = 8 * 1024;
const VERSION: &[u8] = b"HTTP/1.";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::Scheme, secret::Secret};

    #[test]
    fn the_request_names_the_server_and_carries_the_credentials() {
        let origin = |host: &str, port| Origin { scheme: Scheme::Https, host: host.to_owned(), port };
        let proxy = |credentials: Option<&str>| EgressProxy {
            origin: origin("proxy.example", 3128),
            credentials: credentials.map(Secret::from),
        };
        let text = |proxy: &EgressProxy, server: &Origin| String::from_utf8(request(proxy, server).to_vec()).unwrap();
        assert_eq!(
            text(&proxy(None), &origin("api.example", 443)),
            "CONNECT api.example:443 HTTP/1.1\r\nHost: api.example:443\r\n\r\n"
        );
        assert_eq!(
            text(&proxy(Some("ann:s3cret")), &origin("fd00::1", 8443)),
            "CONNECT [fd00::1]:8443 HTTP/1.1\r\nHost: [fd00::1]:8443\r\nProxy-Authorization: Basic YW5uOnMzY3JldA==\r\n\r\n"
        );
    }

    #[test]
    fn an_answer_is_a_whole_head_and_nothing_after_it() {
        for (answer, expected) in [
            ("HTTP/1.1 200 Connection established\r\n\r\n", Ok(Some(200))),
            ("HTTP/1.0 200 OK\r\nVia: x\r\n\r\n", Ok(Some(200))),
            ("HTTP/1.1 204\r\n\r\n", Ok(Some(204))),
            ("HTTP/1.1 200 OK\r\n", Ok(None)),
            ("HTTP/1.1 200 OK\r\n\r\nx", Err(EgressError::NotHttp)),
            ("HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\nno", Ok(Some(403))),
            ("HTTP/2 200 OK\r\n\r\n", Err(EgressError::NotHttp)),
            ("HTTP/1.1 20x OK\r\n\r\n", Err(EgressError::NotHttp)),
            ("220 mail.example\r\n\r\n", Err(EgressError::NotHttp)),
            ("HTT", Ok(None)),
            ("SSH-2.0", Err(EgressError::NotHttp)),
            ("\r\n\r\n", Err(EgressError::NotHttp)),
        ] {
            assert_eq!(status(answer.as_bytes()), expected, "{answer:?}");
        }
    }
}
