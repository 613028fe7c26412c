//! Has an egress proxy connect us to the upstream: CONNECT (RFC 9110, 9.3.6).
//!
//! Guarantees: the proxy is told the upstream's host and port and nothing else; every buffer that has held its credentials is
//! wiped; a response whose head is too long, or that goes on after its head, ends the attempt.

use std::{
    future::poll_fn,
    io,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{
    HeaderValue, Request,
    header::{HOST, PROXY_AUTHORIZATION},
};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{CertificateFault, ConnectError, TlsFault};
use crate::{
    allocator::Wiped,
    config::{EgressProxy, Origin},
    local_http::{ByteStream, connection_ended},
    secret::{Pages, Secret},
};

/// The longest head of a proxy's response, in bytes.
const HEAD_MAX: usize = 8 * 1024;

/// Why the egress proxy does not connect us.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EgressError {
    /// Its name has no address, or the resolver failed.
    #[error("its name could not be resolved")]
    DnsFailed,
    /// The resolver did not answer in time.
    #[error("resolving its name took too long")]
    DnsTimeout,
    /// Nothing listens at its address.
    #[error("it refused the connection")]
    Refused,
    /// There is no route to it.
    #[error("it could not be reached")]
    Unreachable,
    /// TCP, TLS or its response took too long.
    #[error("it took too long")]
    Timeout,
    /// The TLS handshake failed.
    #[error("the TLS handshake with it failed: {0}")]
    TlsFailed(TlsFault),
    /// Its certificate is not trusted.
    #[error("its certificate was not accepted: {0}")]
    CertificateRejected(CertificateFault),
    /// It wants credentials, or refused ours.
    #[error("it asks for other credentials (407)")]
    CredentialsRefused,
    /// It refused to connect us, with this status.
    #[error("it answered CONNECT with {0}")]
    Denied(u16),
    /// It hung up before its response was whole.
    #[error("it closed the connection before it had answered")]
    Closed,
    /// Its response is not HTTP, or goes on after its head.
    #[error("its answer to CONNECT is not HTTP")]
    NotHttp,
}

impl EgressError {
    /// Makes an error about the upstream one about the proxy, which is where it happened.
    pub(super) fn on_the_way(error: ConnectError) -> ConnectError {
        ConnectError::Egress(match error {
            ConnectError::NoDescriptor => return error,
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

/// Asks the proxy to connect `stream` to `server`. How long that may take is the caller's to say. Dropping the future leaves the
/// stream in an unknown state.
pub(super) async fn connect(stream: &mut dyn ByteStream, proxy: &EgressProxy, server: &Origin) -> Result<(), EgressError> {
    // hyper's buffers have held the proxy's credentials.
    Wiped::throughout(exchange(stream, request(proxy, server)?)).await
}

/// Asks a proxy over any stream, for the fuzz targets.
pub async fn ask_egress_proxy(stream: &mut dyn ByteStream, proxy: &EgressProxy, server: &Origin) -> Result<(), EgressError> {
    connect(stream, proxy, server).await
}

async fn exchange(stream: &mut dyn ByteStream, request: Request<Empty<Bytes>>) -> Result<(), EgressError> {
    // Old proxies may not know that names of headers have no case.
    let mut builder = http1::Builder::new();
    builder.max_buf_size(HEAD_MAX).title_case_headers(true);
    let stream = PlainReason { stream, line: StatusLine::Before };
    let (mut sender, mut connection) = builder.handshake(TokioIo::new(stream)).await.map_err(|error| classify(&error))?;
    let mut response = pin!(sender.send_request(request));
    let response = tokio::select! {
        biased;
        response = response.as_mut() => response,
        // hyper hands an error of the connection to the response.
        _ = poll_fn(|cx| connection.poll_without_shutdown(cx)) => response.await,
    };
    match response.map_err(|error| classify(&error))?.status().as_u16() {
        // The upstream speaks only after us, so nothing may follow the head.
        200..=299 if connection.into_parts().read_buf.is_empty() => Ok(()),
        200..=299 => Err(EgressError::NotHttp),
        407 => Err(EgressError::CredentialsRefused),
        other => Err(EgressError::Denied(other)),
    }
}

/// A stream that hides the reason phrase of a status line: it is free text, in any encoding, and means nothing (RFC 9112, 4).
struct PlainReason<'a> {
    stream: &'a mut dyn ByteStream,
    line: StatusLine,
}

/// How far the status line was read.
#[derive(Clone, Copy)]
enum StatusLine {
    Before,
    /// This many bytes of it.
    Within(usize),
    After,
}

/// Version, blank, and three digits: `HTTP/1.1 200`.
const VERSION_AND_STATUS: usize = 12;

impl StatusLine {
    fn hide_reason(&mut self, bytes: &mut [u8]) {
        for byte in bytes {
            *self = match (*self, *byte) {
                (Self::After, _) => return,
                // Line ends may come before it (RFC 9112, 2.2).
                (Self::Before, b'\r' | b'\n') => Self::Before,
                (_, b'\n') => Self::After,
                (Self::Before, _) => Self::Within(1),
                (Self::Within(read), seen) => {
                    if read >= VERSION_AND_STATUS && seen != b'\r' && !(b' '..=b'~').contains(&seen) {
                        *byte = b'?';
                    }
                    Self::Within(read + 1)
                }
            };
        }
    }
}

impl AsyncRead for PlainReason<'_> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Self { stream, line } = self.get_mut();
        let before = buffer.filled().len();
        ready!(Pin::new(stream).poll_read(cx, buffer))?;
        line.hide_reason(&mut buffer.filled_mut()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for PlainReason<'_> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

fn request(proxy: &EgressProxy, server: &Origin) -> Result<Request<Empty<Bytes>>, EgressError> {
    let host = if server.host.contains(':') { format!("[{}]", server.host) } else { server.host.clone() };
    let authority = format!("{host}:{}", server.port);
    let request = Request::connect(&*authority).header(HOST, &*authority).body(Empty::new());
    // A host that a certificate may name is a legal authority, so this does not fail.
    let mut request = request.map_err(|_| EgressError::NotHttp)?;
    if let Some(credentials) = proxy.credentials.as_ref().and_then(basic) {
        request.headers_mut().insert(PROXY_AUTHORIZATION, credentials);
    }
    Ok(request)
}

/// `Basic <credentials>` (RFC 7617, 2), wiped with its last clone.
fn basic(credentials: &Secret) -> Option<HeaderValue> {
    let mut value = Pages::default();
    value.extend(b"Basic ");
    // The encoding fits: it takes exactly this much.
    let written =
        STANDARD.encode_slice(credentials.expose(), value.spare_capacity_mut(4 * credentials.expose().len().div_ceil(3)));
    value.filled(written.unwrap_or_default());
    Secret::from(value).header_value().ok()
}

fn classify(error: &hyper::Error) -> EgressError {
    if connection_ended(error) { EgressError::Closed } else { EgressError::NotHttp }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        time::timeout,
    };

    use super::*;
    use crate::config::Scheme;

    fn origin(host: &str, port: u16) -> Origin {
        Origin { scheme: Scheme::Https, host: host.to_owned(), rooted: false, port }
    }

    fn proxy(credentials: Option<&str>) -> EgressProxy {
        EgressProxy { origin: origin("proxy.example", 3128), credentials: credentials.map(Secret::from) }
    }

    /// What the proxy is asked, and how that ends when it sends `response` and goes on listening; `None`: it is waited for.
    async fn ask(proxy: &EgressProxy, server: &Origin, response: &[u8]) -> (String, Option<Result<(), EgressError>>) {
        let (mut ours, mut theirs) = tokio::io::duplex(64 * 1024);
        let answer = async {
            let mut asked = Vec::new();
            while !asked.ends_with(b"\r\n\r\n") {
                theirs.read_buf(&mut asked).await.unwrap();
            }
            theirs.write_all(response).await.unwrap();
            String::from_utf8(asked).unwrap()
        };
        let (outcome, asked) = tokio::join!(timeout(Duration::from_secs(3600), connect(&mut ours, proxy, server)), answer);
        if let Ok(Ok(())) = outcome {
            theirs.write_all(b"hello").await.unwrap();
            let mut first = [0; 5];
            ours.read_exact(&mut first).await.unwrap();
            assert_eq!(&first, b"hello", "the stream is the upstream's from then on");
        }
        (asked, outcome.ok())
    }

    #[tokio::test(start_paused = true)]
    async fn the_request_names_the_server_and_carries_the_credentials() {
        let whole = b"HTTP/1.1 200 OK\r\n\r\n";
        assert_eq!(
            ask(&proxy(None), &origin("api.example", 443), whole).await.0,
            "CONNECT api.example:443 HTTP/1.1\r\nHost: api.example:443\r\n\r\n"
        );
        assert_eq!(
            ask(&proxy(Some("ann:s3cret")), &origin("fd00::1", 8443), whole).await.0,
            "CONNECT [fd00::1]:8443 HTTP/1.1\r\nHost: [fd00::1]:8443\r\nProxy-Authorization: Basic YW5uOnMzY3JldA==\r\n\r\n"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_response_is_a_whole_head_and_nothing_after_it() {
        let long = format!("HTTP/1.1 200 OK\r\nVia: {}", "x".repeat(HEAD_MAX));
        for (response, expected) in [
            ("HTTP/1.1 200 Connection established\r\n\r\n", Some(Ok(()))),
            ("HTTP/1.0 200 OK\r\nVia: x\r\n\r\n", Some(Ok(()))),
            ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", Some(Ok(()))),
            ("HTTP/1.1 204\r\n\r\n", Some(Ok(()))),
            ("HTTP/1.1 200 OK\r\n", None),
            ("HTTP/1.1 200 OK\r\n\r\nx", Some(Err(EgressError::NotHttp))),
            ("HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\nno", Some(Err(EgressError::Denied(403)))),
            ("HTTP/1.1 407 Who\r\nContent-Length: 0\r\n\r\n", Some(Err(EgressError::CredentialsRefused))),
            ("HTTP/2 200 OK\r\n\r\n", Some(Err(EgressError::NotHttp))),
            ("HTTP/1.1 20x OK\r\n\r\n", Some(Err(EgressError::NotHttp))),
            ("220 mail.example\r\n\r\n", Some(Err(EgressError::NotHttp))),
            ("HTT", None),
            ("SSH-2.0", Some(Err(EgressError::NotHttp))),
            // A blank line may come before a message (RFC 9112, 2.2); the caller's time limit ends the wait.
            ("\r\n\r\n", None),
            (&long, Some(Err(EgressError::NotHttp))),
        ] {
            let (_, outcome) = ask(&proxy(None), &origin("api.example", 443), response.as_bytes()).await;
            assert_eq!(outcome, expected, "{response:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_reason_phrase_is_not_looked_at() {
        for (response, expected) in [
            (&b"HTTP/1.1 200 Verbindung \xfcber Proxy hergestellt\r\n\r\n"[..], Ok(())),
            (b"HTTP/1.0 200 \xff\xfe\x00\x1b[31m\r\nVia: x\r\n\r\n", Ok(())),
            ("HTTP/1.1 200 接続しました\r\n\r\n".as_bytes(), Ok(())),
            (b"\r\nHTTP/1.1 200 \x80\n\n", Ok(())),
            (b"HTTP/1.1 407 Anmeldung n\xf6tig\r\nContent-Length: 0\r\n\r\n", Err(EgressError::CredentialsRefused)),
            (b"HTTP/1.1 403 Verboten f\xfcr dich\r\nContent-Length: 0\r\n\r\n", Err(EgressError::Denied(403))),
            (b"HTTP/1.1 20\xfc OK\r\n\r\n", Err(EgressError::NotHttp)),
            (b"HTTP\xfc1.1 200 OK\r\n\r\n", Err(EgressError::NotHttp)),
        ] {
            let (_, outcome) = ask(&proxy(None), &origin("api.example", 443), response).await;
            assert_eq!(outcome, Some(expected), "{}", String::from_utf8_lossy(response));
        }
    }

    #[tokio::test]
    async fn a_proxy_that_speaks_or_hangs_up_before_it_is_asked_has_its_error() {
        for (greeting, expected) in [("220 mail.example\r\n", EgressError::NotHttp), ("", EgressError::Closed)] {
            let (mut ours, mut theirs) = tokio::io::duplex(64 * 1024);
            theirs.write_all(greeting.as_bytes()).await.unwrap();
            drop(theirs);
            assert_eq!(connect(&mut ours, &proxy(None), &origin("api.example", 443)).await, Err(expected));
        }
    }
}
