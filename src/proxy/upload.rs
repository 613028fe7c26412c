//! A request's body on its way to upstream: streamed as it comes, and kept while it is small, so that it can be sent again.
//!
//! Depends on `clock`, `deadline` and `headers`. Guarantees: keeping never delays a frame and never holds more than the limit; a
//! frame that was kept is the same allocation that was sent; at most one attempt reads the client; no trailer passes that
//! the sidecar owns.

use std::{
    fmt,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::Instant;

use super::{Api, headers};
use crate::{clock, deadline::Deadlines};

/// Frames kept at most: many tiny ones would cost more than their bytes.
const FRAMES: usize = 256;

/// Once an answer ended early, how long and how much of the rest of the request is still read and thrown away. A client
/// that is cut off while it writes may never read the answer.
const LINGER: (Duration, u64) = (Duration::from_secs(5), 64 * 1024 * 1024);

/// The client's body, shared between the attempts to send it.
#[derive(Clone)]
pub(super) struct Upload(Arc<Mutex<Shared>>);

struct Shared {
    client: Incoming,
    /// How much is kept, and which trailers pass.
    api: Arc<Api>,
    kept: Vec<Bytes>,
    trailers: Option<HeaderMap>,
    /// Everything that was read is in `kept`.
    whole: bool,
    ended: bool,
    bytes: u64,
    attempt: u64,
    waiting: Waiting,
    since: Instant,
}

/// Which side owes the next step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waiting {
    /// The client, more of its body.
    Client,
    /// The upstream, to take what is there.
    Upstream,
    /// The upstream, an answer: the body is complete.
    ResponseBody,
}

impl Upload {
    /// `client`: what is left to read, to be sent by the rules of `api`.
    pub(super) fn new(client: Incoming, api: Arc<Api>) -> Self {
        Self(Arc::new(Mutex::new(Shared {
            client,
            api,
            kept: Vec::new(),
            trailers: None,
            whole: true,
            ended: false,
            bytes: 0,
            attempt: 0,
            waiting: Waiting::Upstream,
            since: clock::instant(),
        })))
    }

    /// The body for one more attempt, from its beginning. The attempt before it can read no further. `None`: the beginning
    /// is no longer at hand.
    pub(super) fn attempt(&self) -> Option<Attempt> {
        let mut shared = self.lock();
        if !shared.whole {
            return None;
        }
        shared.attempt += 1;
        shared.wait_for(Waiting::Upstream);
        Some(Attempt { number: shared.attempt, next: 0, trailers_sent: false, upload: self.clone() })
    }

    /// Whether it could be sent from its beginning.
    pub(super) fn is_at_hand(&self) -> bool {
        self.lock().whole
    }

    /// Whether the client has sent all of it.
    pub(super) fn has_ended(&self) -> bool {
        self.lock().ended
    }

    /// Bytes that came from the client.
    pub(super) fn bytes(&self) -> u64 {
        self.lock().bytes
    }

    /// Whom the exchange waits for, and since when.
    pub(super) fn waiting(&self) -> (Waiting, Instant) {
        let shared = self.lock();
        (shared.waiting, shared.since)
    }

    /// Reads what is left and throws it away, within bounds.
    pub(super) async fn discard_upload(self, deadlines: Deadlines) {
        self.lock().attempt += 1;
        let deadline = deadlines.deadline();
        deadline.arm(LINGER.0);
        let end = self.bytes().saturating_add(LINGER.1);
        std::future::poll_fn(|cx| {
            if deadline.poll_passed(cx).is_ready() {
                return Poll::Ready(());
            }
            let mut shared = self.lock();
            while let Poll::Ready(frame) = Pin::new(&mut shared.client).poll_frame(cx) {
                let Some(Ok(frame)) = frame else { return Poll::Ready(()) };
                shared.bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
                if shared.bytes > end {
                    return Poll::Ready(());
                }
            }
            Poll::Pending
        })
        .await;
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        // The state is consistent between any two statements that could panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    fn wait_for(&mut self, whom: Waiting) {
        self.waiting = whom;
        self.since = clock::instant();
    }

    fn poll_client(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, UploadError>>> {
        let Poll::Ready(polled) = Pin::new(&mut self.client).poll_frame(cx) else {
            if self.waiting != Waiting::Client {
                self.wait_for(Waiting::Client);
            }
            return Poll::Pending;
        };
        self.wait_for(Waiting::Upstream);
        match polled {
            None => self.end(),
            Some(Err(_)) => return Poll::Ready(Some(Err(UploadError::Client))),
            Some(Ok(frame)) => {
                let frame = match frame.into_trailers() {
                    Ok(trailers) => Frame::trailers(headers::trailers_to_upstream(&self.api.rules, &trailers)),
                    Err(frame) => frame,
                };
                self.keep(&frame);
                // Trailers are the last: whoever has them does not ask again.
                if frame.is_trailers() || self.client.is_end_stream() {
                    self.end();
                }
                return Poll::Ready(Some(Ok(frame)));
            }
        }
        Poll::Ready(None)
    }

    fn end(&mut self) {
        self.ended = true;
        self.wait_for(Waiting::ResponseBody);
    }

    fn keep(&mut self, frame: &Frame<Bytes>) {
        if let Some(trailers) = frame.trailers_ref() {
            self.trailers = Some(trailers.clone());
        }
        let Some(data) = frame.data_ref() else { return };
        self.bytes += data.len() as u64;
        if !self.whole {
            return;
        }
        if self.bytes <= self.api.replay_buffer as u64 && self.kept.len() < FRAMES {
            self.kept.push(data.clone());
        } else {
            self.whole = false;
            self.kept = Vec::new();
        }
    }
}

/// One attempt's view of the body.
pub(super) struct Attempt {
    upload: Upload,
    number: u64,
    next: usize,
    trailers_sent: bool,
}

impl Body for Attempt {
    type Data = Bytes;
    type Error = UploadError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, UploadError>>> {
        let this = &mut *self;
        let mut shared = this.upload.lock();
        if shared.attempt != this.number {
            return Poll::Ready(Some(Err(UploadError::Superseded)));
        }
        if let Some(kept) = shared.kept.get(this.next).cloned() {
            this.next += 1;
            let owed = if shared.ended { Waiting::ResponseBody } else { Waiting::Upstream };
            shared.wait_for(owed);
            return Poll::Ready(Some(Ok(Frame::data(kept))));
        }
        if shared.ended {
            let trailers = if this.trailers_sent { None } else { shared.trailers.clone() };
            this.trailers_sent = true;
            shared.wait_for(Waiting::ResponseBody);
            return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
        }
        let polled = shared.poll_client(cx);
        this.next = shared.kept.len();
        this.trailers_sent |= matches!(&polled, Poll::Ready(Some(Ok(frame))) if frame.is_trailers());
        polled
    }

    fn is_end_stream(&self) -> bool {
        let shared = self.upload.lock();
        let trailers_due = shared.trailers.is_some() && !self.trailers_sent;
        shared.attempt == self.number && shared.ended && self.next >= shared.kept.len() && !trailers_due
    }

    fn size_hint(&self) -> SizeHint {
        let shared = self.upload.lock();
        let ahead: u64 = shared.kept.iter().skip(self.next).map(|frame| frame.len() as u64).sum();
        match shared.client.size_hint().exact() {
            Some(rest) => SizeHint::with_exact(ahead + rest),
            None => SizeHint::default(),
        }
    }
}

/// Why an attempt can't go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UploadError {
    /// The client's body broke off.
    Client,
    /// Another attempt has taken over.
    Superseded,
}

impl fmt::Display for UploadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Client => "the client's body broke off",
            Self::Superseded => "the request is being sent again",
        })
    }
}

impl std::error::Error for UploadError {}

/// What upstream reads.
pub enum ToUpstream {
    /// A request without a body.
    Empty,
    /// One attempt of a request with a body.
    #[expect(private_interfaces, reason = "nobody outside looks into it")]
    Upload(Attempt),
}

impl Body for ToUpstream {
    type Data = Bytes;
    type Error = UploadError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, UploadError>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Upload(attempt) => Pin::new(attempt).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Upload(attempt) => attempt.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Upload(attempt) => attempt.size_hint(),
        }
    }
}
