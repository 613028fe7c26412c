//! Reads along what goes over an HTTP/2 connection to a simulated server, and judges it: streams, PINGs, GOAWAY, and the end.
//!
//! It knows of frames what their first nine bytes say (RFC 9113, 4.1).

use std::{
    collections::BTreeMap,
    io,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};

use super::world::World;
use crate::clock;

/// What a client's connection begins with.
const PREFACE: usize = 24;
/// How often the daemon sends a PING.
const PING_EVERY: Duration = Duration::from_secs(5);
/// Within what time the daemon gives up a connection whose server has fallen silent.
const NOTICED: Duration = Duration::from_secs(10);
/// For how long the daemon may use a connection after a GOAWAY: it comes at the same moment.
const MOMENT: Duration = Duration::from_millis(100);
const LATE: Duration = Duration::from_millis(300);

/// A byte stream that carries HTTP/2. Clones of its [`Seen`] tell of it.
pub(super) struct Frames<S> {
    stream: S,
    seen: Seen,
    inbound: Parser,
    outbound: Parser,
}

/// What was seen of a connection.
#[derive(Clone)]
pub(super) struct Seen(Arc<Mutex<State>>);

struct State {
    world: Weak<World>,
    opened: Instant,
    /// How many streams may be open.
    most: usize,
    /// The open ones: whether the daemon has ended its side, and whether the server has.
    streams: BTreeMap<u32, (bool, bool)>,
    /// How many these are, for others to see.
    open: Arc<AtomicUsize>,
    last_stream: u32,
    last_ping: Option<Instant>,
    going_away: Option<Instant>,
    /// Since when the server says nothing.
    silent: Option<Instant>,
    has_ended: bool,
}

/// Finds the frames in bytes.
struct Parser {
    /// Bytes to pass over.
    skip: usize,
    head: Vec<u8>,
}

/// The head of a frame.
struct FrameHead {
    kind: u8,
    flags: u8,
    stream: u32,
}

/// The type of a frame, by RFC 9113, 6; this one carries a part of a body.
const BODY: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
/// The flag that ends a stream; of a PING, the one that answers.
const END_STREAM: u8 = 1;
const ACK: u8 = 1;

impl Parser {
    fn read(&mut self, mut bytes: &[u8], mut found: impl FnMut(FrameHead)) {
        loop {
            let passed = self.skip.min(bytes.len());
            self.skip -= passed;
            bytes = &bytes[passed..];
            let wanted = (9 - self.head.len()).min(bytes.len());
            self.head.extend_from_slice(&bytes[..wanted]);
            bytes = &bytes[wanted..];
            let Ok(head) = <[u8; 9]>::try_from(self.head.as_slice()) else { return };
            self.head.clear();
            let number = |bytes: &[u8]| bytes.iter().fold(0, |number, byte| number << 8 | u32::from(*byte));
            self.skip = number(&head[..3]) as usize;
            found(FrameHead { kind: head[3], flags: head[4], stream: number(&head[5..]) & 0x7fff_ffff });
        }
    }
}

impl<S> Frames<S> {
    /// `most`: how many streams the server allows.
    pub(super) fn new(stream: S, world: &Arc<World>, most: usize) -> (Self, Seen) {
        let state = State {
            world: Arc::downgrade(world),
            opened: clock::instant(),
            most,
            streams: BTreeMap::new(),
            open: world.new_streams(),
            last_stream: 0,
            last_ping: None,
            going_away: None,
            silent: None,
            has_ended: false,
        };
        let seen = Seen(Arc::new(Mutex::new(state)));
        let parser = |skip| Parser { skip, head: Vec::new() };
        (Self { stream, seen: seen.clone(), inbound: parser(PREFACE), outbound: parser(0) }, seen)
    }
}

impl Seen {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on the server says nothing, and takes what comes without looking at it.
    pub(super) fn fall_silent(&self) {
        self.lock().silent = Some(clock::instant());
    }

    /// The server has ended the connection by itself.
    pub(super) fn end(&self) {
        let mut state = self.lock();
        state.has_ended = true;
        state.count();
    }

    /// The silent connection was watched for long enough: the daemon has to have closed it.
    pub(super) fn judge_silence(&self) {
        let state = self.lock();
        if let Some(since) = state.silent.filter(|_| !state.has_ended) {
            state.fault(&format!("it is still open {:?} after its server fell silent", since.elapsed()));
        }
    }

    fn is_silent(&self) -> bool {
        self.lock().silent.is_some()
    }
}

impl State {
    fn fault(&self, what: &str) {
        if let Some(world) = self.world.upgrade() {
            world.break_promise(format!("an HTTP/2 connection: {what}"));
        }
    }

    fn daemon_sends(&mut self, frame: &FrameHead) {
        let now = clock::instant();
        match frame.kind {
            HEADERS if frame.stream > self.last_stream && self.silent.is_none() => {
                self.last_stream = frame.stream;
                self.streams.insert(frame.stream, (false, false));
                if self.streams.len() > self.most {
                    self.fault(&format!("{} streams are open, and {} are allowed", self.streams.len(), self.most));
                }
                if self.going_away.is_some_and(|since| since + MOMENT < now) {
                    self.fault("a new stream after a GOAWAY");
                }
            }
            RST_STREAM => drop(self.streams.remove(&frame.stream)),
            PING if frame.flags & ACK == 0 => {
                let gap = now.duration_since(self.last_ping.unwrap_or(self.opened));
                if gap + MOMENT < PING_EVERY || gap > PING_EVERY + LATE {
                    self.fault(&format!("a PING after {gap:?}; they come every {PING_EVERY:?}"));
                }
                self.last_ping = Some(now);
            }
            _ => {}
        }
        if matches!(frame.kind, HEADERS | BODY) && frame.flags & END_STREAM != 0 {
            self.ended(frame.stream, (true, false));
        }
        self.count();
    }

    fn server_sends(&mut self, frame: &FrameHead) {
        match frame.kind {
            RST_STREAM => drop(self.streams.remove(&frame.stream)),
            GOAWAY => drop(self.going_away.get_or_insert_with(clock::instant)),
            HEADERS | BODY if frame.flags & END_STREAM != 0 => self.ended(frame.stream, (false, true)),
            _ => {}
        }
        self.count();
    }

    /// Says how many streams are open.
    fn count(&self) {
        self.open.store(if self.has_ended { 0 } else { self.streams.len() }, Ordering::Relaxed);
    }

    fn ended(&mut self, stream: u32, side: (bool, bool)) {
        let Some(ended) = self.streams.get_mut(&stream) else { return };
        *ended = (ended.0 || side.0, ended.1 || side.1);
        if *ended == (true, true) {
            self.streams.remove(&stream);
        }
    }

    /// The daemon has closed the connection.
    fn end(&mut self) {
        if std::mem::replace(&mut self.has_ended, true) {
            return;
        }
        self.count();
        let now = clock::instant();
        match self.silent {
            Some(since) if since + NOTICED + LATE < now => {
                self.fault(&format!("its server was silent for {:?} until it was closed", now.duration_since(since)));
            }
            None if !self.streams.is_empty() && self.world.upgrade().is_some_and(|world| world.upstreams().is_serving()) => {
                self.fault(&format!("it was closed with {} streams open, and its server is alive", self.streams.len()));
            }
            None if now.duration_since(self.last_ping.unwrap_or(self.opened)) > PING_EVERY + LATE => {
                self.fault("it was not kept honest by PINGs");
            }
            _ => {}
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Frames<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buffer.filled().len();
        loop {
            let outcome = ready!(Pin::new(&mut this.stream).poll_read(cx, buffer));
            let bytes = &buffer.filled()[before..];
            if bytes.is_empty() || outcome.is_err() {
                this.seen.lock().end();
                return Poll::Ready(outcome);
            }
            let mut state = this.seen.lock();
            this.inbound.read(bytes, |frame| state.daemon_sends(&frame));
            let is_silent = state.silent.is_some();
            drop(state);
            if !is_silent {
                return Poll::Ready(outcome);
            }
            buffer.set_filled(before);
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Frames<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if this.seen.is_silent() {
            return Poll::Ready(Ok(bytes.len()));
        }
        let written = ready!(Pin::new(&mut this.stream).poll_write(cx, bytes));
        // h2 reads no further then, so what the daemon said at last stays unknown.
        let count = written.inspect_err(|_| this.seen.end())?;
        let mut state = this.seen.lock();
        this.outbound.read(&bytes[..count], |frame| state.server_sends(&frame));
        Poll::Ready(Ok(count))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.seen.is_silent() {
            return Poll::Ready(Ok(()));
        }
        let this = &mut *self;
        Pin::new(&mut this.stream).poll_flush(cx).map_err(|error| {
            this.seen.end();
            error
        })
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
