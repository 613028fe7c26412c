//! One end of a connection inside the process, as a server or a client has it: it is cut, or falls silent, after the bytes that its
//! [`Fate`] says.

use std::{sync::Arc, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    time::sleep,
};

use super::{calls::CallId, ledger::Reply, upstreams::Link, world::World};

/// What becomes of a connection that was made.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Fate {
    /// After so many bytes from the daemon, and so many to it, the wire ends as it is told; `None`: never.
    pub(super) end: Option<(usize, usize, End)>,
    /// The longest time that the bytes of each write wait.
    pub(super) lag: Duration,
}

/// How a wire ends.
#[derive(Clone, Copy, Debug)]
pub(super) enum End {
    /// Both directions are closed; with bytes unread it is a reset.
    Close,
    /// No more bytes go to the daemon, and none are taken from it, until it gives up.
    Silence,
}

/// A byte stream, plain or over TLS.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// A server's end of a connection, or a client's that writes HTTP by itself.
pub(super) struct Wire {
    /// `None`: it has ended.
    stream: Option<Box<dyn Stream>>,
    fate: Fate,
    world: Arc<World>,
    taken: usize,
    given: usize,
    held: Vec<u8>,
    /// The server, whose log-ins may fail when the wire ends; `None`: it is a client's.
    server: Option<usize>,
    /// The other side has ended it by a reset.
    was_reset: bool,
    /// What is told to the ledger once the next byte has gone out.
    reply: Option<(CallId, Reply)>,
    /// The connection, as long as it is open; `None` for a client's.
    link: Option<Link>,
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.has_gone(true);
    }
}

impl Wire {
    pub(super) fn new(stream: Box<dyn Stream>, fate: Fate, world: Arc<World>, server: Option<usize>) -> Self {
        Self {
            stream: Some(stream),
            fate,
            world,
            taken: 0,
            given: 0,
            held: Vec::new(),
            server,
            was_reset: false,
            reply: None,
            link: None,
        }
    }

    /// A server's end of that connection.
    pub(super) fn of_server(stream: Box<dyn Stream>, fate: Fate, world: Arc<World>, link: Link) -> Self {
        let mut wire = Self::new(stream, fate, world, Some(link.server));
        wire.link = Some(link);
        wire
    }

    /// Whether it has not ended by itself. The other side may have.
    pub(super) fn is_open(&self) -> bool {
        self.stream.is_some()
    }

    /// Whether what is written arrives at once, and whole.
    pub(super) fn is_prompt(&self) -> bool {
        self.fate.lag.is_zero() && self.fate.end.is_none()
    }

    /// Tells that the connection has ended.
    fn has_gone(&mut self, by_server: bool) {
        if let Some(number) = self.link.take().and_then(|link| link.number) {
            self.world.upstreams().closed(number, by_server);
        }
    }

    /// What is written next answers that call.
    pub(super) fn answers(&mut self, call: CallId, reply: Reply) {
        self.reply = Some((call, reply));
    }

    /// Whether the other side has sent nothing yet.
    pub(super) fn is_fresh(&self) -> bool {
        self.taken == 0
    }

    /// Whether it ended by a reset.
    pub(super) fn was_reset(&self) -> bool {
        self.was_reset
    }

    /// What has come and was not taken yet.
    pub(super) fn held(&self) -> &[u8] {
        &self.held
    }

    /// Takes the first `count` of the bytes that have come.
    pub(super) fn take(&mut self, count: usize) -> Vec<u8> {
        self.held.drain(..count).collect()
    }

    /// Reads more. `None`: nothing will come any more.
    pub(super) async fn read_more(&mut self) -> Option<()> {
        let room = self.fate.end.map_or(usize::MAX, |(bytes, ..)| bytes.saturating_sub(self.taken));
        let mut buffer = vec![0; 16 * 1024];
        let most = buffer.len().min(room.max(1));
        let read = self.stream.as_mut()?.read(&mut buffer[..most]).await;
        self.was_reset |= read.is_err();
        let Some(count) = read.ok().filter(|count| *count > 0) else {
            self.has_gone(false);
            return None;
        };
        self.held.extend_from_slice(&buffer[..count]);
        self.taken += count;
        self.end_if_due()
    }

    /// Writes, in pieces. `None`: the wire has ended.
    pub(super) async fn write(&mut self, mut bytes: &[u8]) -> Option<()> {
        while !bytes.is_empty() {
            let room = self.fate.end.map_or(usize::MAX, |(_, bytes, _)| bytes.saturating_sub(self.given));
            let piece = self.world.draw(1..=bytes.len().min(32 * 1024)).min(room.max(1));
            if !self.fate.lag.is_zero() {
                sleep(self.fate.lag.mul_f64(self.world.fraction())).await;
            }
            let (now, later) = bytes.split_at(piece);
            if self.stream.as_mut()?.write_all(now).await.is_err() {
                self.has_gone(false);
                return None;
            }
            self.given += piece;
            if let Some((call, reply)) = self.reply.take() {
                self.world.ledger(|ledger, at| ledger.reply(at, call, reply));
            }
            bytes = later;
            self.end_if_due()?;
        }
        Some(())
    }

    /// Ends one direction: no more bytes will be written.
    pub(super) async fn finish(&mut self) -> Option<()> {
        self.stream.as_mut()?.shutdown().await.ok()
    }

    /// Ends the wire cleanly.
    pub(super) fn close(&mut self) {
        self.stream = None;
        self.has_gone(true);
    }

    fn end_if_due(&mut self) -> Option<()> {
        let Some((taken, given, end)) = self.fate.end else { return Some(()) };
        if self.taken < taken && self.given < given {
            return Some(());
        }
        let stream = self.stream.take()?;
        self.has_gone(true);
        if let Some(server) = self.server {
            self.world.ledger(|ledger, at| ledger.trouble_at(at, server));
        }
        if matches!(end, End::Silence) {
            // The daemon's end closes when it gives up, which nobody hears here: the socket is kept until the world ends.
            self.world.keep_silent(stream);
        }
        None
    }
}
