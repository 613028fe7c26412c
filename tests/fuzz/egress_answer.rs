//! Fuzzes what an egress proxy answers to CONNECT: we go on only after a 2xx with nothing behind it, whatever else it says.
//!
//! An input is a byte that says in pieces of how many bytes the answer comes (0: at once), and the answer, after which the proxy
//! hangs up.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use careportals_sidecar::{
    config::{EgressProxy, Origin, Scheme},
    connect::{EgressError, internal::ask_egress_proxy},
    secret::Secret,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    runtime::Runtime,
};

const ASKED: &str = "CONNECT api.example.com:443 HTTP/1.1\r\nHost: api.example.com:443\r\n\
                     Proxy-Authorization: Basic dXNlcjpwYXNzd29yZA==\r\n\r\n";

/// The longest head, in bytes, that certainly passes.
const SHORT: usize = 4096;

/// Checks any bytes.
pub fn check(input: &[u8]) {
    let Some((piece, answer)) = input.split_first() else { return };
    let origin = |host: &str, port| Origin { scheme: Scheme::Https, host: host.to_owned(), rooted: false, port };
    let proxy = EgressProxy { origin: origin("proxy.example", 3128), credentials: Some(Secret::from("user:password")) };
    let piece = if *piece == 0 { usize::MAX } else { usize::from(*piece) };
    let mut stream = Scripted { written: Vec::new(), answer, piece };
    let outcome =
        RUNTIME.with(|runtime| runtime.block_on(ask_egress_proxy(&mut stream, &proxy, &origin("api.example.com", 443))));
    let unread = stream.answer.len();
    assert_eq!(String::from_utf8_lossy(&stream.written).to_lowercase(), ASKED.to_lowercase(), "it is told something else");
    let read = &answer[..answer.len() - unread];
    match outcome {
        // The next bytes that are read are the upstream's: no byte of the proxy's may be lost or left.
        Ok(()) => assert!(is_consent(read), "{:?} is taken for consent", String::from_utf8_lossy(read)),
        Err(EgressError::Denied(status)) => assert!(mentions(read, status) && !(200..300).contains(&status), "{status}"),
        Err(EgressError::CredentialsRefused) => assert!(mentions(read, 407)),
        Err(EgressError::NotHttp | EgressError::Closed) => {}
        Err(other) => panic!("{other:?} over a connection that is there"),
    }
    if let Some((status, rest)) = plain(answer) {
        let expected = match status {
            200..300 if rest.is_empty() => Some(Ok(())),
            200..300 if piece == usize::MAX => Some(Err(EgressError::NotHttp)),
            // What comes later can't be told from what the upstream says.
            200..300 => None,
            407 => Some(Err(EgressError::CredentialsRefused)),
            other => Some(Err(EgressError::Denied(other))),
        };
        assert!(expected.is_none_or(|expected| expected == outcome), "{status} becomes {outcome:?}");
    }
}

thread_local! {
    static RUNTIME: Runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
}

/// A proxy's side of a connection: gives pieces of an answer, once it was asked.
struct Scripted<'a> {
    written: Vec<u8>,
    /// The part of the answer that was not read.
    answer: &'a [u8],
    piece: usize,
}

impl AsyncRead for Scripted<'_> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.written.ends_with(b"\r\n\r\n") {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let (piece, rest) = self.answer.split_at(self.answer.len().min(self.piece).min(buffer.remaining()));
        buffer.put_slice(piece);
        self.answer = rest;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Scripted<'_> {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.written.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Whether the text ends with a head whose status is 2xx; interim answers may stand before it.
fn is_consent(read: &[u8]) -> bool {
    let Some(text) = read.strip_suffix(b"\n\r\n").or_else(|| read.strip_suffix(b"\n\n")) else { return false };
    let last = text.windows(9).rposition(|part| matches!(part, b"HTTP/1.1 " | b"HTTP/1.0 "));
    last.is_some_and(|_| text.windows(10).any(|part| matches!(part, b"HTTP/1.1 2" | b"HTTP/1.0 2")))
}

fn mentions(read: &[u8], status: u16) -> bool {
    let (new, old) = (format!("HTTP/1.1 {status}"), format!("HTTP/1.0 {status}"));
    read.windows(12).any(|part| part == new.as_bytes() || part == old.as_bytes())
}

/// The status of a short and plain head, and what follows it.
fn plain(answer: &[u8]) -> Option<(u16, &[u8])> {
    let end = answer.windows(4).position(|part| part == b"\r\n\r\n").filter(|end| *end < SHORT)?;
    let (head, rest) = (std::str::from_utf8(&answer[..end]).ok()?, &answer[end + 4..]);
    let mut lines = head.split("\r\n");
    let line = lines.next()?.strip_prefix("HTTP/1.1 ")?;
    let (digits, reason) = line.split_at_checked(3)?;
    let status: u16 = digits.parse().ok().filter(|status| (200..1000).contains(status))?;
    let is_text = |text: &str| text.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    let is_field = |line: &str| {
        let (name, value) = line.split_once(": ").unwrap_or_default();
        // How an answer to CONNECT is framed means nothing, and hyper judges it all the same.
        let frames = ["content-length", "transfer-encoding"].contains(&name.to_lowercase().as_str());
        !name.is_empty() && !frames && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') && is_text(value)
    };
    let is_ordinary = digits.bytes().all(|byte| byte.is_ascii_digit()) && reason.starts_with(' ') && is_text(reason);
    let mut fields = 0;
    let are_fields = lines.all(|line| {
        fields += 1;
        is_field(line)
    });
    (is_ordinary && are_fields && fields <= 50).then_some((status, rest))
}
