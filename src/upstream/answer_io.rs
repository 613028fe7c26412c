//! A byte stream to an HTTP/1.1 upstream that notes how each answer begins, and ends an answer that is all overhead.
//!
//! It parses nothing: hyper does. It tells apart what hyper's errors don't: bytes that were left over from an earlier answer, and
//! a head over the limits. Guarantee: what is neither the head of an answer nor its body is limited ([`Overhead`]).

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::options::HeadLimits;
use crate::{overhead::Overhead, upstream_io::UpstreamIo};

/// How every answer of HTTP/1.x begins.
const BEGINNING: &[u8] = b"HTTP/1.";
/// Where the first digit of its status is (RFC 9112, section 4).
const STATUS: usize = b"HTTP/1.1 ".len();

/// How far the present answer is.
#[derive(Debug, Default)]
pub(super) struct AnswerProgress {
    /// The head of an answer is expected.
    expected: AtomicBool,
    bytes: AtomicUsize,
    lines: AtomicUsize,
    overhead: Overhead,
    /// What follows is not HTTP.
    tunnel: AtomicBool,
    /// An answer began otherwise, with an empty line for example.
    odd: AtomicBool,
    /// The present answer begins with an interim one.
    interim: AtomicBool,
}

impl AnswerProgress {
    /// The next bytes are those of an answer.
    pub(super) fn expect(&self) {
        self.bytes.store(0, Ordering::Relaxed);
        self.lines.store(0, Ordering::Relaxed);
        self.overhead.begin();
        self.interim.store(false, Ordering::Relaxed);
        self.expected.store(true, Ordering::Relaxed);
    }

    /// The head is whole.
    pub(super) fn head_has_ended(&self) {
        self.expected.store(false, Ordering::Relaxed);
        self.overhead.begin();
    }

    /// A piece of the body was given out.
    pub(super) fn body_came(&self, bytes: usize) {
        self.overhead.body_came(bytes);
    }

    /// What follows the head is not HTTP.
    pub(super) fn becomes_tunnel(&self) {
        self.tunnel.store(true, Ordering::Relaxed);
    }

    /// Whether anything of the present answer has come, or bytes in its place.
    pub(super) fn has_come(&self) -> bool {
        self.bytes.load(Ordering::Relaxed) > 0
    }

    /// Whether bytes came in place of an answer, ever.
    pub(super) fn was_odd(&self) -> bool {
        self.odd.load(Ordering::Relaxed)
    }

    /// Whether the present answer began with an interim one (1xx), so that what follows is of the same request.
    pub(super) fn was_interim(&self) -> bool {
        self.interim.load(Ordering::Relaxed)
    }

    /// Whether as much came as a head may have. Asked after hyper has found it too large.
    pub(super) fn exceeds(&self, limits: HeadLimits) -> bool {
        self.bytes.load(Ordering::Relaxed) >= limits.bytes || self.lines.load(Ordering::Relaxed) > limits.lines
    }

    /// Whether too much came that is neither head nor body.
    pub(super) fn is_all_overhead(&self) -> bool {
        self.overhead.is_too_much() && !self.tunnel.load(Ordering::Relaxed)
    }

    fn read(&self, bytes: &[u8]) {
        self.overhead.read(bytes.len());
        if !self.expected.load(Ordering::Relaxed) {
            return;
        }
        let before = self.bytes.fetch_add(bytes.len(), Ordering::Relaxed);
        let rest = BEGINNING.get(before..).unwrap_or_default();
        if bytes.iter().zip(rest).any(|(read, expected)| read != expected) {
            self.odd.store(true, Ordering::Relaxed);
        }
        if STATUS.checked_sub(before).and_then(|at| bytes.get(at)) == Some(&b'1') && !self.was_odd() {
            self.interim.store(true, Ordering::Relaxed);
        }
        self.lines.fetch_add(count_lines(bytes), Ordering::Relaxed);
    }
}

/// Counts line ends in chunks of 255, so that a `u8` holds each sum.
fn count_lines(bytes: &[u8]) -> usize {
    bytes.chunks(255).map(|some| usize::from(some.iter().map(|byte| u8::from(*byte == b'\n')).sum::<u8>())).sum()
}

/// A connection's stream, which notices how each answer begins.
pub(super) struct AnswerIo {
    stream: UpstreamIo,
    progress: Arc<AnswerProgress>,
}

impl AnswerIo {
    /// Notes in the second value how the answers on `stream` begin.
    pub(super) fn new(stream: UpstreamIo) -> (Self, Arc<AnswerProgress>) {
        let progress = Arc::<AnswerProgress>::default();
        (Self { stream, progress: Arc::clone(&progress) }, progress)
    }
}

impl AsyncRead for AnswerIo {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        self.progress.read(&buffer.filled()[before..]);
        if self.progress.is_all_overhead() {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, "an answer that is all overhead")));
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for AnswerIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buffer)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffers: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::{TcpListener, TcpStream},
        time::timeout,
    };

    use super::*;
    use crate::upstream_io::CountingTcp;

    #[tokio::test]
    async fn what_is_written_passes_as_it_is_and_so_does_its_end() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let ours = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut theirs, _) = listener.accept().await.unwrap();
        let (mut io, _) = AnswerIo::new(UpstreamIo::Plain(CountingTcp::new(ours, Arc::default())));
        assert!(io.is_write_vectored());
        io.write_all(b"a request").await.unwrap();
        io.shutdown().await.unwrap();
        let mut read = Vec::new();
        timeout(Duration::from_secs(10), theirs.read_to_end(&mut read)).await.expect("the end is passed on").unwrap();
        assert_eq!(read, b"a request");
    }

    /// What is noted of an answer that comes in these pieces.
    fn noted(pieces: &[&str]) -> AnswerProgress {
        let progress = AnswerProgress::default();
        progress.read(b"not yet");
        progress.expect();
        for piece in pieces {
            progress.read(piece.as_bytes());
        }
        progress
    }

    #[test]
    fn an_answer_begins_with_its_version_in_however_many_pieces_it_comes() {
        for pieces in [&["HTTP/1.1 200 OK\r\n"][..], &["H", "TTP", "/1", ".0 200"], &["HTTP/1."], &["HT"], &[]] {
            assert!(!noted(pieces).was_odd(), "{pieces:?}");
        }
        for pieces in
            [&["\r\nHTTP/1.1 200 OK"][..], &["lo"], &["H", "TTP/2.0"], &["0\r\n\r\n"], &["HTHTTP/1.1"], &["http/1.1 200"]]
        {
            assert!(noted(pieces).was_odd(), "{pieces:?}");
        }
    }

    #[test]
    fn an_interim_answer_is_known_by_its_status_in_however_many_pieces_it_comes() {
        for pieces in [&["HTTP/1.1 103 Early\r\n"][..], &["HTTP/1.0 1"], &["HTTP/1.1", " ", "100"], &["HTTP/1.1 1", "0"]] {
            assert!(noted(pieces).was_interim(), "{pieces:?}");
        }
        for pieces in
            [&["HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 100"][..], &["HTTP/1.1", " "], &["HTTP/1.1 2", "1"], &["HTHTTP/1.1 200 OK"], &[]]
        {
            assert!(!noted(pieces).was_interim(), "{pieces:?}");
        }
        let progress = noted(&["HTTP/1.1 100"]);
        progress.expect();
        assert!(!progress.was_interim(), "of the answer before");
    }

    #[test]
    fn lines_are_counted_in_any_number_of_bytes() {
        for (length, each) in [(0_usize, 1), (1, 1), (255, 1), (256, 1), (1000, 3), (70_000, 255)] {
            let bytes: Vec<u8> = (0..length).map(|at| if at % each == 0 { b'\n' } else { b'x' }).collect();
            assert_eq!(count_lines(&bytes), length.div_ceil(each), "{length}");
        }
    }

    #[test]
    fn an_answer_that_is_all_overhead_ends() {
        let much = vec![b'0'; 4 * 1024 * 1024];
        let body_came = |progress: &AnswerProgress| progress.body_came(4 * 1024 * 1024);
        let others: [fn(&AnswerProgress); 4] =
            [AnswerProgress::head_has_ended, AnswerProgress::expect, AnswerProgress::becomes_tunnel, body_came];
        for something_comes in others {
            let progress = noted(&["HTTP/1.1 103"]);
            progress.read(&much);
            assert!(progress.is_all_overhead());
            something_comes(&progress);
            assert!(!progress.is_all_overhead());
        }
    }

    #[test]
    fn bytes_and_lines_count_until_the_head_is_whole() {
        let limits = HeadLimits { bytes: 20, lines: 2 };
        assert!(!noted(&["HTTP/1.1 200 OK\r\n", "\r\n"]).exceeds(limits));
        assert!(noted(&["HTTP/1.1 200 OK\r\n", "a: bcd\r\n"]).exceeds(limits));
        assert!(noted(&["HTTP/1.1 2\n\n\n"]).exceeds(limits));
        let progress = noted(&["HTTP/1.1 200 OK\r\n"]);
        progress.head_has_ended();
        progress.read(&[b'\n'; 100]);
        assert!(!progress.exceeds(limits));
        progress.expect();
        progress.read(b"HTTP/1.1");
        assert!(!progress.exceeds(limits) && !progress.was_odd());
    }
}
