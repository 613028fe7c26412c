//! A request's body on its way to upstream: streamed as it comes, and kept while it is small, so that it can be sent again.
//!
//! Guarantees: [`UploadState`] alone decides when the body has ended; `upstream` asks by `is_end_stream`. Keeping
//! never delays a frame and never holds more than the limit, the memory that nothing was written to yet included; at most one
//! attempt reads the client; no trailer passes that the sidecar owns, or that the head names by `Connection`.

use std::{
    collections::VecDeque,
    fmt,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Response};
use http_body::{Body, Frame, SizeHint};
use tokio::time::Instant;

use super::{
    coalesce::Coalesced,
    headers::{self, HeaderRules, NamedByConnection},
};
use crate::{
    clock,
    deadline::Deadlines,
    server::{RequestBody, is_all_here},
    upstream::ResponseBody,
};

/// The largest block that is reserved for what is kept, in bytes.
const BLOCK: usize = 16 * 1024;

/// When an answer ends before its request does: for how long, and how many bytes of the rest are still read and thrown away.
/// A client that is cut off while it writes may never read the answer.
const DISCARD: (Duration, u64) = (Duration::from_secs(5), 64 * 1024 * 1024);

/// The client's body, which all attempts to send it share.
#[derive(Clone)]
pub(super) struct Upload(Arc<Mutex<UploadState>>);

struct UploadState {
    client: RequestBody,
    /// Which trailers pass.
    rules: Arc<HeaderRules>,
    /// The head has named these: they do not.
    named: NamedByConnection,
    /// How many bytes are kept at most.
    replay_buffer: usize,
    kept: Kept,
    trailers: Option<HeaderMap>,
    /// Everything that was read is in `kept`.
    whole: bool,
    /// The client has sent all of it.
    ended: bool,
    /// It broke off. The client's body says so once, and then looks as if it had ended.
    broken: bool,
    /// How many bytes came from the client.
    bytes: u64,
    /// The number of the attempt that may read.
    attempt: u64,
    waits_for: WaitsFor,
    since: Instant,
}

/// What the exchange waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WaitsFor {
    /// The client must send more of the body.
    Client,
    /// The upstream must take what is there.
    Upstream,
    /// The body is complete, and the upstream must answer.
    Answer,
}

impl Upload {
    /// `client`: the body as the client sends it. `named`: what its head names by `Connection`. `replay_buffer`: how many bytes are
    /// kept at most.
    pub(super) fn new(client: RequestBody, rules: Arc<HeaderRules>, named: NamedByConnection, replay_buffer: usize) -> Self {
        Self(Arc::new(Mutex::new(UploadState {
            client,
            rules,
            named,
            replay_buffer,
            kept: Kept::default(),
            trailers: None,
            whole: true,
            ended: false,
            broken: false,
            bytes: 0,
            attempt: 0,
            waits_for: WaitsFor::Upstream,
            since: clock::instant(),
        })))
    }

    /// The body for one more attempt, from its beginning. The attempt before it can read no further. `None` when the
    /// beginning is no longer at hand.
    pub(super) fn attempt(&self) -> Option<Coalesced<UploadAttempt>> {
        let mut state = self.lock();
        if !state.whole {
            return None;
        }
        state.attempt += 1;
        let kept: VecDeque<Bytes> = state.kept.blocks().into();
        if kept.is_empty() {
            state.wait_for_taking();
        } else {
            state.wait_for(WaitsFor::Upstream);
        }
        Some(Coalesced::new(UploadAttempt { number: state.attempt, kept, trailers_sent: false, upload: self.clone() }))
    }

    /// From now on `rules` say which trailers pass.
    pub(super) fn set_header_rules(&self, rules: &Arc<HeaderRules>) {
        let mut state = self.lock();
        state.rules = Arc::clone(rules);
        let kept = state.trailers.take();
        state.trailers = kept.map(|kept| headers::trailers_to_upstream(rules, &state.named, &kept));
    }

    /// Keeps nothing of the body any more: the request will not be sent again.
    pub(super) fn forget(&self) {
        self.lock().forget();
    }

    /// Whether the body can be sent from its beginning to its end.
    pub(super) fn is_at_hand(&self) -> bool {
        let state = self.lock();
        state.whole && !state.broken
    }

    /// Whether the client has sent all of it.
    pub(super) fn has_ended(&self) -> bool {
        self.lock().ended
    }

    /// How many bytes came from the client.
    pub(super) fn bytes(&self) -> u64 {
        self.lock().bytes
    }

    /// What the exchange waits for, and since when.
    pub(super) fn waits_for(&self) -> (WaitsFor, Instant) {
        let state = self.lock();
        (state.waits_for, state.since)
    }

    /// Reads the rest of the body and throws it away, for a limited time and up to a limited size.
    pub(super) async fn discard_upload(self, deadlines: Deadlines) {
        {
            let mut state = self.lock();
            state.attempt += 1;
            state.forget();
        }
        let deadline = deadlines.deadline();
        deadline.arm(DISCARD.0);
        let end = self.bytes().saturating_add(DISCARD.1);
        std::future::poll_fn(|cx| {
            if deadline.poll_passed(cx).is_ready() {
                return Poll::Ready(());
            }
            let mut state = self.lock();
            while let Poll::Ready(frame) = Pin::new(&mut state.client).poll_frame(cx) {
                let Some(Ok(frame)) = frame else { return Poll::Ready(()) };
                state.bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
                if state.bytes > end {
                    return Poll::Ready(());
                }
            }
            Poll::Pending
        })
        .await;
    }

    fn lock(&self) -> MutexGuard<'_, UploadState> {
        // The state is consistent between any two statements that could panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl UploadState {
    fn wait_for(&mut self, what: WaitsFor) {
        self.waits_for = what;
        self.since = clock::instant();
    }

    /// The upstream must take what is there, and answer if that is all. Who sends a body of a known length reads no further than its
    /// last byte, though an HTTP/2 client may end its stream later.
    fn wait_for_taking(&mut self) {
        self.wait_for(if self.ended || is_all_here(&self.client) { WaitsFor::Answer } else { WaitsFor::Upstream });
    }

    fn poll_client(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, UploadError>>> {
        if self.broken {
            return Poll::Ready(Some(Err(UploadError::Client)));
        }
        let Poll::Ready(polled) = Pin::new(&mut self.client).poll_frame(cx) else {
            if self.waits_for != WaitsFor::Client {
                self.wait_for(WaitsFor::Client);
            }
            return Poll::Pending;
        };
        match polled {
            None => self.end(),
            Some(Err(_)) => {
                self.broken = true;
                return Poll::Ready(Some(Err(UploadError::Client)));
            }
            Some(Ok(frame)) => {
                let frame = match frame.into_trailers() {
                    Ok(trailers) => Frame::trailers(headers::trailers_to_upstream(&self.rules, &self.named, &trailers)),
                    Err(frame) => frame,
                };
                self.keep(&frame);
                // Nothing follows trailers, and their reader does not ask again.
                if frame.is_trailers() || self.client.is_end_stream() {
                    self.end();
                } else {
                    self.wait_for_taking();
                }
                return Poll::Ready(Some(Ok(frame)));
            }
        }
        Poll::Ready(None)
    }

    fn end(&mut self) {
        self.ended = true;
        self.wait_for(WaitsFor::Answer);
    }

    fn keep(&mut self, frame: &Frame<Bytes>) {
        if let Some(trailers) = frame.trailers_ref() {
            self.trailers = Some(trailers.clone());
        }
        let Some(data) = frame.data_ref() else { return };
        let room = (self.replay_buffer as u64).checked_sub(self.bytes).and_then(|room| usize::try_from(room).ok());
        self.bytes += data.len() as u64;
        match room {
            Some(room) if self.whole && data.len() <= room => self.kept.push(data, room),
            _ => self.forget(),
        }
    }

    fn forget(&mut self) {
        self.whole = false;
        self.kept = Kept::default();
    }
}

/// A copy of the beginning of a body. The frames themselves are slices of the buffers that they were read into, and would keep
/// those: 8 KiB and more for a chunk of one byte.
#[derive(Default)]
struct Kept {
    full: Vec<Bytes>,
    /// The last block, which may have room left.
    last: BytesMut,
}

impl Kept {
    /// Keeps `data`, of `room` bytes at most, and reserves no more than `room` for it and what follows.
    fn push(&mut self, data: &[u8], room: usize) {
        let (fits, rest) = data.split_at(data.len().min(self.last.capacity() - self.last.len()));
        self.last.extend_from_slice(fits);
        if rest.is_empty() {
            return;
        }
        // As much again as there is already, so that many small frames take few blocks.
        let before = self.full.iter().map(Bytes::len).sum::<usize>() + self.last.len();
        let block = rest.len().max(before.min(BLOCK)).min(room - fits.len());
        let full = std::mem::replace(&mut self.last, BytesMut::with_capacity(block));
        if !full.is_empty() {
            self.full.push(full.freeze());
        }
        self.last.extend_from_slice(rest);
    }

    /// All of it.
    fn blocks(&mut self) -> Vec<Bytes> {
        if !self.last.is_empty() {
            // The room that is left stays.
            self.full.push(self.last.split().freeze());
        }
        self.full.clone()
    }
}

/// The body as one attempt to send the request reads it.
pub(super) struct UploadAttempt {
    upload: Upload,
    number: u64,
    /// What was kept when the attempt began and is not sent yet.
    kept: VecDeque<Bytes>,
    trailers_sent: bool,
}

impl Body for UploadAttempt {
    type Data = Bytes;
    type Error = UploadError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, UploadError>>> {
        let this = &mut *self;
        let mut state = this.upload.lock();
        if state.attempt != this.number {
            return Poll::Ready(Some(Err(UploadError::Superseded)));
        }
        if let Some(kept) = this.kept.pop_front() {
            state.wait_for_taking();
            return Poll::Ready(Some(Ok(Frame::data(kept))));
        }
        if state.ended {
            let trailers = if this.trailers_sent { None } else { state.trailers.clone() };
            this.trailers_sent = true;
            state.wait_for(WaitsFor::Answer);
            return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
        }
        let polled = state.poll_client(cx);
        this.trailers_sent |= matches!(&polled, Poll::Ready(Some(Ok(frame))) if frame.is_trailers());
        polled
    }

    fn is_end_stream(&self) -> bool {
        let state = self.upload.lock();
        let trailers_due = state.trailers.is_some() && !self.trailers_sent;
        state.attempt == self.number && state.ended && self.kept.is_empty() && !trailers_due
    }

    fn size_hint(&self) -> SizeHint {
        let state = self.upload.lock();
        let ahead: u64 = self.kept.iter().map(|frame| frame.len() as u64).sum();
        match state.client.size_hint().exact() {
            Some(rest) => SizeHint::with_exact(ahead + rest),
            None => SizeHint::default(),
        }
    }
}

/// Why an attempt can't read on.
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

/// An answer of the upstream's to a request with such a body.
pub(super) type UpstreamResponse = Response<ResponseBody<ToUpstream>>;

/// The body of a request as the upstream gets it.
pub enum ToUpstream {
    /// The request has no body.
    Empty,
    /// One attempt to send a body. Boxed, since each request moves this about, and most have no body.
    #[expect(private_interfaces, reason = "nobody outside looks into it")]
    Upload(Box<Coalesced<UploadAttempt>>),
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

#[cfg(test)]
mod tests;
