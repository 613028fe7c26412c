//! A tunnel: passes bytes both ways, until both sides have ended or both are silent for too long.
//!
//! Guarantees: each direction holds one buffer at most, and reads only when it is empty; the end of one direction is passed
//! on and the other one continues; however the tunnel ends, both connections are closed and the exchange writes its line.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};

use super::{
    exchange::{Cut, Exchange},
    upload::ToUpstream,
};
use crate::{clock, deadline::Deadline, upstream::ResponseBody};

/// How many bytes each direction may hold.
const BUFFER: usize = 16 * 1024;

/// A tunnel that both sides have agreed to.
pub(super) struct Tunnel {
    pub(super) client: OnUpgrade,
    pub(super) upstream: OnUpgrade,
    pub(super) deadline: Deadline,
    /// How long both sides may be silent.
    pub(super) idle: Duration,
    pub(super) exchange: Exchange,
    /// The answer that agreed to the tunnel. While it lives, the connection to the upstream is counted.
    pub(super) answer: ResponseBody<ToUpstream>,
}

impl Tunnel {
    /// Passes bytes until the tunnel ends. Dropping the future closes both connections.
    pub(super) async fn run(self) {
        let Self { client, upstream, deadline, idle, mut exchange, answer: _answer } = self;
        // The client's side is there once it was sent the answer.
        deadline.arm(idle);
        let upgraded = tokio::select! {
            biased;
            ends = async { (client.await, upstream.await) } => Some(ends),
            () = deadline.passed() => None,
        };
        match upgraded {
            Some((Ok(client), Ok(upstream))) => {
                let (mut client, mut upstream) = (TokioIo::new(client), TokioIo::new(upstream));
                let ended = join(&mut client, &mut upstream, &deadline, idle, &mut exchange).await;
                match ended {
                    None => exchange.complete(),
                    Some(cut) => exchange.cut(cut),
                }
            }
            Some((Ok(_), Err(_))) => exchange.cut(Cut::UpstreamClosed),
            Some((Err(_), _)) => exchange.cut(Cut::ClientClosed),
            None => exchange.cut(Cut::Silent),
        }
    }
}

/// Passes bytes until both directions have ended, or until something ends the tunnel before: then it tells what.
async fn join<C, U>(client: &mut C, upstream: &mut U, deadline: &Deadline, idle: Duration, exchange: &mut Exchange) -> Option<Cut>
where
    C: AsyncRead + AsyncWrite + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
{
    let (mut up, mut down) = (Direction::new(), Direction::new());
    std::future::poll_fn(|cx| {
        loop {
            let forth = up.poll(cx, client, upstream);
            let back = down.poll(cx, upstream, client);
            exchange.tunnelled(up.passed, down.passed);
            match (forth, back) {
                (Poll::Ready(Err(FailedSide::Reads)), _) | (_, Poll::Ready(Err(FailedSide::Writes))) => {
                    return Poll::Ready(Some(Cut::ClientClosed));
                }
                (Poll::Ready(Err(FailedSide::Writes)), _) | (_, Poll::Ready(Err(FailedSide::Reads))) => {
                    return Poll::Ready(Some(Cut::UpstreamClosed));
                }
                (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => return Poll::Ready(None),
                _ => {}
            }
            ready!(deadline.poll_passed(cx));
            // A side that is blocked by back-pressure does not count as idle.
            let blocked = up.is_blocked() || down.is_blocked();
            let (now, due) = (clock::instant(), up.last.max(down.last) + idle);
            if !blocked && due <= now {
                return Poll::Ready(Some(Cut::Silent));
            }
            deadline.arm_at(if due > now { due } else { now + idle });
        }
    })
    .await
}

/// Where a direction failed.
enum FailedSide {
    /// The side that it reads from.
    Reads,
    /// The side that it writes to.
    Writes,
}

/// One direction of a tunnel.
struct Direction {
    buffer: Box<[u8]>,
    /// What was read and not written yet.
    held: std::ops::Range<usize>,
    /// How many bytes were written so far.
    passed: u64,
    /// When bytes were written last.
    last: Instant,
    state: DirectionState,
}

#[derive(PartialEq, Eq)]
enum DirectionState {
    Open,
    /// The one side has ended; the other one is being told.
    Ending,
    Ended,
}

impl Direction {
    fn new() -> Self {
        Self { buffer: vec![0; BUFFER].into(), held: 0..0, passed: 0, last: clock::instant(), state: DirectionState::Open }
    }

    /// Bytes wait for the side that it writes to.
    fn is_blocked(&self) -> bool {
        !self.held.is_empty()
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut (impl AsyncRead + Unpin),
        to: &mut (impl AsyncWrite + Unpin),
    ) -> Poll<Result<(), FailedSide>> {
        loop {
            if self.state == DirectionState::Open && self.held.is_empty() {
                let polled = self.poll_read(cx, from);
                if polled.is_pending() {
                    // TLS may still hold what was written.
                    ready!(Pin::new(&mut *to).poll_flush(cx)).map_err(|_| FailedSide::Writes)?;
                }
                ready!(polled).map_err(|_| FailedSide::Reads)?;
            }
            while !self.held.is_empty() {
                let pending = &self.buffer[self.held.clone()];
                let written = ready!(Pin::new(&mut *to).poll_write(cx, pending)).map_err(|_| FailedSide::Writes)?;
                if written == 0 {
                    return Poll::Ready(Err(FailedSide::Writes));
                }
                self.held.start += written;
                self.passed += written as u64;
                self.last = clock::instant();
            }
            match self.state {
                DirectionState::Open => {}
                DirectionState::Ending => {
                    ready!(Pin::new(&mut *to).poll_shutdown(cx)).map_err(|_| FailedSide::Writes)?;
                    self.state = DirectionState::Ended;
                }
                DirectionState::Ended => return Poll::Ready(Ok(())),
            }
        }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, from: &mut (impl AsyncRead + Unpin)) -> Poll<io::Result<()>> {
        let mut buffer = ReadBuf::new(&mut self.buffer);
        ready!(Pin::new(from).poll_read(cx, &mut buffer))?;
        let read = buffer.filled().len();
        self.held = 0..read;
        if read == 0 {
            self.state = DirectionState::Ending;
        }
        Poll::Ready(Ok(()))
    }
}
