//! A byte stream to an HTTP/2 client of which only so much is read in one poll of its connection, and in all without a request.
//!
//! h2 reads all that has come before it hands out the first request of it, and each head that waits takes many times its bytes on
//! the wire: a field of one byte may take a hundred in memory. Requests that we refuse, and frames that are no requests (PING,
//! SETTINGS, window updates, priorities) cost time alone, which the other connections of the worker wait for. Guarantees: until
//! [`Pace::renew`], which the connection's task calls when it is polled, about [`AT_ONCE`], [`AT_ONCE_WITHOUT_BODY`] or
//! [`AT_ONCE_WITHOUT_REQUEST`] bytes are read; a client that goes on sending without a request or a body waits its turn, and is cut
//! after a while.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep_until},
};

/// How many bytes are read at once while a request with a body is in progress; one read may exceed it.
const AT_ONCE: usize = 16 * 1024;
/// How many bytes are read at once while any other admitted request is in progress: three hundred of the smallest frames.
const AT_ONCE_WITHOUT_BODY: usize = 4 * 1024;
/// How many bytes are read at once otherwise: ten requests. Thousands of clients whose requests are refused, and who send them one
/// behind the other, take turns with those who are served.
const AT_ONCE_WITHOUT_REQUEST: usize = 512;
/// How many turns may bring no request before each further one takes the time of an answer of our own: a head may take several.
const IN_VAIN: usize = 8;
/// How many bytes may come without a request in each second: keep-alive pings take 17 each.
const EACH_SECOND: usize = 1024;
/// How many bytes are written for one more that may come without a request: a client gives window as it reads.
const WRITTEN_PER_BYTE: usize = 8;

/// What the connection's task knows when it is polled.
#[derive(Clone, Copy)]
pub(super) struct RequestProgress {
    /// The connection is read in small turns: no admitted request is in progress, or its own answers wait for those of others.
    pub(super) takes_turns: bool,
    /// A request with a body is in progress.
    pub(super) has_body: bool,
    /// How many requests have begun so far.
    pub(super) requests: usize,
    /// How many bodies were given up so far before their end.
    pub(super) given_up: usize,
    /// Until when nothing is read: other clients, whom we also answer ourselves, come first.
    pub(super) waits_until: Option<Instant>,
    /// The client is asked for nothing more: its caller is refused, and its first request has begun.
    pub(super) is_over: bool,
}

/// How much may be read. Only the connection's task uses it; its members are atomic because a task must be `Send`.
#[derive(Clone)]
pub(super) struct Pace(Arc<Allowances>);

struct Allowances {
    /// How many bytes may be read in the present poll.
    now: AtomicUsize,
    /// How many bytes may come without a request or a body.
    without_request: AtomicUsize,
    /// The most that `without_request` grows to.
    burst: usize,
    window: usize,
    has_body: AtomicBool,
    requests: AtomicUsize,
    given_up: AtomicUsize,
    /// Nothing more is read.
    is_over: AtomicBool,
    /// Something was read since the connection was polled.
    has_read: AtomicBool,
    /// How many polls have read something, and brought no request, since the last one that did.
    in_vain: AtomicUsize,
    began: Instant,
    /// Until how many nanoseconds after `began` nothing is read; 0: nothing is waited for.
    waits_until: AtomicU64,
    /// Until how many seconds after `began` `without_request` has grown.
    grown_until: AtomicUsize,
}

impl Pace {
    /// `burst`: how many bytes may come at once without a request; at least the largest head, which is one only when it is whole.
    /// `window`: how many bytes of a body may be on their way when it is given up.
    pub(super) fn new(burst: usize, window: usize, began: Instant) -> Self {
        Self(Arc::new(Allowances {
            now: AtomicUsize::new(AT_ONCE_WITHOUT_REQUEST),
            without_request: AtomicUsize::new(burst),
            burst,
            window,
            has_body: AtomicBool::new(false),
            requests: AtomicUsize::new(0),
            given_up: AtomicUsize::new(0),
            is_over: AtomicBool::new(false),
            has_read: AtomicBool::new(false),
            in_vain: AtomicUsize::new(0),
            began,
            waits_until: AtomicU64::new(0),
            grown_until: AtomicUsize::new(0),
        }))
    }

    /// The connection is polled anew. Returns whether the last poll was one too many that has read something and no request.
    pub(super) fn renew(&self, progress: RequestProgress, now: Instant) -> bool {
        let allowances = &*self.0;
        let has_read = allowances.has_read.swap(false, Ordering::Relaxed);
        allowances.has_body.store(progress.has_body, Ordering::Relaxed);
        allowances.is_over.store(progress.is_over, Ordering::Relaxed);
        let at_once = match (progress.has_body, progress.takes_turns) {
            (true, _) => AT_ONCE,
            (false, false) => AT_ONCE_WITHOUT_BODY,
            (false, true) => AT_ONCE_WITHOUT_REQUEST,
        };
        allowances.now.store(at_once, Ordering::Relaxed);
        let waits = progress.waits_until.map_or(0, |until| until.saturating_duration_since(allowances.began).as_nanos());
        allowances.waits_until.store(u64::try_from(waits).unwrap_or(u64::MAX), Ordering::Relaxed);
        let seconds = usize::try_from(now.saturating_duration_since(allowances.began).as_secs()).unwrap_or(usize::MAX);
        let before = allowances.grown_until.swap(seconds, Ordering::Relaxed);
        let is_another = allowances.requests.swap(progress.requests, Ordering::Relaxed) != progress.requests;
        let by_time = seconds.saturating_sub(before).saturating_mul(EACH_SECOND);
        self.grow(if is_another { allowances.burst } else { by_time });
        let before = allowances.given_up.swap(progress.given_up, Ordering::Relaxed);
        let on_their_way = progress.given_up.saturating_sub(before).saturating_mul(self.0.window);
        if on_their_way > 0 && !self.is_exhausted() {
            self.0.without_request.fetch_add(on_their_way, Ordering::Relaxed);
        }
        if is_another || progress.has_body || !progress.takes_turns {
            allowances.in_vain.store(0, Ordering::Relaxed);
            return false;
        }
        has_read && allowances.in_vain.fetch_add(1, Ordering::Relaxed) >= IN_VAIN
    }

    /// Whether the client has sent too much without a request.
    pub(super) fn is_exhausted(&self) -> bool {
        self.0.without_request.load(Ordering::Relaxed) == 0
    }

    /// Until when nothing is read, if the time has not come.
    fn waits_until(&self) -> Option<Instant> {
        match self.0.waits_until.load(Ordering::Relaxed) {
            0 => None,
            nanoseconds => Some(self.0.began + Duration::from_nanos(nanoseconds)),
        }
    }

    fn grow(&self, bytes: usize) {
        let left = self.0.without_request.load(Ordering::Relaxed);
        // What is used up stays so: the connection ends.
        if left > 0 {
            self.0.without_request.store(left.saturating_add(bytes).min(self.0.burst).max(left), Ordering::Relaxed);
        }
    }

    fn read(&self, bytes: usize) {
        self.0.has_read.store(bytes > 0, Ordering::Relaxed);
        let now = self.0.now.load(Ordering::Relaxed);
        self.0.now.store(now.saturating_sub(bytes), Ordering::Relaxed);
        if !self.0.has_body.load(Ordering::Relaxed) {
            let left = self.0.without_request.load(Ordering::Relaxed);
            self.0.without_request.store(left.saturating_sub(bytes), Ordering::Relaxed);
        }
    }

    fn wrote(&self, polled: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(bytes)) = &polled {
            self.grow(bytes / WRITTEN_PER_BYTE);
        }
        polled
    }
}

/// A connection's stream, whose client may send no faster than its pace allows.
pub(super) struct Paced<S> {
    stream: S,
    pace: Pace,
    /// Wakes the connection's task, which renews the pace.
    wait: Option<Pin<Box<Sleep>>>,
}

impl<S> Paced<S> {
    pub(super) fn new(stream: S, pace: Pace) -> Self {
        Self { stream, pace, wait: None }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Paced<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.pace.is_exhausted() {
            return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
        }
        if this.pace.0.is_over.load(Ordering::Relaxed) {
            // The connection's deadline ends it.
            return Poll::Pending;
        }
        if let Some(until) = this.pace.waits_until() {
            let wait = this.wait.take().filter(|wait| wait.deadline() == until).unwrap_or_else(|| Box::pin(sleep_until(until)));
            ready!(this.wait.insert(wait).as_mut().poll(cx));
        }
        let now = this.pace.0.now.load(Ordering::Relaxed);
        if now == 0 {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let stream = Pin::new(&mut this.stream);
        let read =
            if now <= AT_ONCE_WITHOUT_REQUEST { read_at_most(now, stream, cx, buffer) } else { read_all(stream, cx, buffer) };
        this.pace.read(ready!(read)?);
        Poll::Ready(Ok(()))
    }
}

fn read_all(stream: Pin<&mut impl AsyncRead>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<usize>> {
    let before = buffer.filled().len();
    ready!(stream.poll_read(cx, buffer))?;
    Poll::Ready(Ok(buffer.filled().len() - before))
}

/// Reads at most `most` bytes, and at most [`AT_ONCE_WITHOUT_REQUEST`]: h2's buffer may take many more.
fn read_at_most(
    most: usize,
    stream: Pin<&mut impl AsyncRead>,
    cx: &mut Context<'_>,
    buffer: &mut ReadBuf<'_>,
) -> Poll<io::Result<usize>> {
    let mut bytes = [0; AT_ONCE_WITHOUT_REQUEST];
    let most = most.min(bytes.len()).min(buffer.remaining());
    let mut part = ReadBuf::new(&mut bytes[..most]);
    ready!(stream.poll_read(cx, &mut part))?;
    buffer.put_slice(part.filled());
    Poll::Ready(Ok(part.filled().len()))
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Paced<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, buffer);
        self.pace.wrote(polled)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffers: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, buffers);
        self.pace.wrote(polled)
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
    use std::task::Waker;

    use super::*;
    use crate::clock;

    const BURST: usize = 40 * 1024;

    /// Reads until nothing more is given.
    fn read(stream: &mut Paced<&[u8]>) -> (usize, Poll<bool>) {
        let mut all = 0;
        loop {
            let mut bytes = [0; 1024];
            let mut buffer = ReadBuf::new(&mut bytes);
            match Pin::new(&mut *stream).poll_read(&mut Context::from_waker(Waker::noop()), &mut buffer) {
                Poll::Ready(Ok(())) if buffer.filled().is_empty() => return (all, Poll::Ready(true)),
                Poll::Ready(Ok(())) => all += buffer.filled().len(),
                Poll::Ready(Err(_)) => return (all, Poll::Ready(false)),
                Poll::Pending => return (all, Poll::Pending),
            }
        }
    }

    #[test]
    fn until_the_next_poll_only_so_much_is_read_and_more_while_a_body_is_on_its_way() {
        let (bytes, start) = (vec![1; 5 * AT_ONCE], clock::instant());
        let pace = Pace::new(BURST, AT_ONCE, start);
        let mut stream = Paced::new(bytes.as_slice(), pace.clone());
        for (takes_turns, has_body, at_once) in [
            (true, false, AT_ONCE_WITHOUT_REQUEST),
            (false, false, AT_ONCE_WITHOUT_BODY),
            (false, true, AT_ONCE),
            (false, true, AT_ONCE),
            (true, false, AT_ONCE_WITHOUT_REQUEST),
        ] {
            pace.renew(
                RequestProgress { takes_turns, has_body, requests: 0, given_up: 0, waits_until: None, is_over: false },
                start,
            );
            assert_eq!(read(&mut stream), (at_once, Poll::Pending));
        }
    }

    #[test]
    fn of_a_client_that_is_asked_for_nothing_more_nothing_is_read() {
        let (bytes, start) = ([1; 100], clock::instant());
        let pace = Pace::new(BURST, AT_ONCE, start);
        let mut stream = Paced::new(bytes.as_slice(), pace.clone());
        let first =
            RequestProgress { takes_turns: false, has_body: false, requests: 1, given_up: 0, waits_until: None, is_over: true };
        pace.renew(first, start);
        assert_eq!(read(&mut stream), (0, Poll::Pending));
    }

    #[test]
    fn a_client_that_goes_on_sending_without_a_request_is_cut() {
        let (bytes, start) = (vec![1; 4 * BURST], clock::instant());
        let pace = Pace::new(BURST, AT_ONCE, start);
        let mut stream = Paced::new(bytes.as_slice(), pace.clone());
        let mut sent = |requests, seconds| {
            pace.renew(
                RequestProgress { takes_turns: false, has_body: false, requests, given_up: 0, waits_until: None, is_over: false },
                start + Duration::from_secs(seconds),
            );
            read(&mut stream)
        };
        for _ in 0..9 {
            assert_eq!(sent(0, 0), (AT_ONCE_WITHOUT_BODY, Poll::Pending));
        }
        // A request begins anew, and a second allows a little more.
        for _ in 0..9 {
            assert_eq!(sent(1, 0), (AT_ONCE_WITHOUT_BODY, Poll::Pending));
        }
        for second in 1..20 {
            assert_eq!(sent(1, second * 4), (AT_ONCE_WITHOUT_BODY, Poll::Pending));
        }
        assert_eq!(sent(1, 76), (4096, Poll::Ready(false)));
        assert_eq!(sent(2, 500), (0, Poll::Ready(false)), "it stays so");
    }

    #[test]
    fn what_was_on_its_way_of_a_body_that_was_given_up_is_allowed() {
        let (bytes, start) = (vec![1; 4 * BURST], clock::instant());
        let pace = Pace::new(2 * AT_ONCE_WITHOUT_BODY, AT_ONCE, start);
        let mut stream = Paced::new(bytes.as_slice(), pace.clone());
        pace.renew(
            RequestProgress { takes_turns: false, has_body: false, requests: 1, given_up: 1, waits_until: None, is_over: false },
            start,
        );
        for _ in 0..5 {
            assert_eq!(read(&mut stream), (AT_ONCE_WITHOUT_BODY, Poll::Pending));
            pace.renew(
                RequestProgress {
                    takes_turns: false,
                    has_body: false,
                    requests: 1,
                    given_up: 1,
                    waits_until: None,
                    is_over: false,
                },
                start,
            );
        }
        assert_eq!(read(&mut stream).1, Poll::Ready(false));
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_waits_for_others_is_read_again_when_its_time_has_come() {
        let (bytes, start) = (vec![1; BURST], clock::instant());
        let pace = Pace::new(BURST, AT_ONCE, start);
        let mut stream = Paced::new(bytes.as_slice(), pace.clone());
        let waits_until = Some(start + Duration::from_secs(2));
        pace.renew(
            RequestProgress { takes_turns: true, has_body: false, requests: 0, given_up: 0, waits_until, is_over: false },
            start,
        );
        assert_eq!(read(&mut stream), (0, Poll::Pending));
        let mut byte = [0];
        std::future::poll_fn(|cx| Pin::new(&mut stream).poll_read(cx, &mut ReadBuf::new(&mut byte))).await.unwrap();
        assert!((2000..2010).contains(&start.elapsed().as_millis()), "{:?}", start.elapsed());
    }

    #[test]
    fn turns_that_bring_no_request_are_told_after_the_first_few() {
        let (bytes, start) = (vec![1; 20 * AT_ONCE + BURST], clock::instant());
        let pace = Pace::new(BURST, AT_ONCE, start);
        let mut stream = Paced::new(bytes.as_slice(), pace.clone());
        let mut turn_with = |requests, takes_turns, has_body| {
            let waits_until = None;
            let told =
                pace.renew(RequestProgress { takes_turns, has_body, requests, given_up: 0, waits_until, is_over: false }, start);
            let _ = read(&mut stream);
            told
        };
        let mut turn = |requests, takes_turns| turn_with(requests, takes_turns, false);
        assert!(!(0..=IN_VAIN).any(|_| turn(0, true)));
        assert!(turn(0, true) && turn(0, true));
        assert!(!turn(1, true) && !turn(1, true), "a request begins anew");
        assert!(!(0..20).any(|_| turn(1, false)));
        assert!(!(0..20).any(|_| turn_with(1, true, true)), "a body is not in vain");
        // Polls that read nothing don't count.
        let nothing = Pace::new(BURST, AT_ONCE, start);
        let progress =
            RequestProgress { takes_turns: true, has_body: false, requests: 0, given_up: 0, waits_until: None, is_over: false };
        assert!(!(0..20).any(|_| nothing.renew(progress, start)));
    }
}
