//! Two connections that have become one: bytes both ways, until both sides are done or nobody says anything.
//!
//! Depends on `exchange` and `deadline`. Guarantees: a direction holds one buffer at the most, and reads only
//! when that is empty; the end of one direction is passed on and the other one goes on; whatever ends it, both connections
//! are closed and the exchange writes its line.

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
    ToUpstream,
    exchange::{Cut, Exchange},
};
use crate::{clock, deadline::Deadline, upstream::ResponseBody};

/// Bytes that each direction may hold.
const BUFFER: usize = 16 * 1024;

/// A tunnel that both sides have agreed to.
pub(super) struct Tunnel {
    pub(super) client: OnUpgrade,
    pub(super) upstream: OnUpgrade,
    pub(super) deadline: Deadline,
    /// How long both sides may be silent.
    pub(super) idle: Duration,
    pub(super) exchange: Exchange,
    /// What agreed to it: the connection counts for as long as it is there.
    pub(super) answer: ResponseBody<ToUpstream>,
}

impl Tunnel {
    /// Lasts as long as the tunnel. Dropped, it closes both connections.
    pub(super) async fn run(self) {
        let Self { client, upstream, deadline, idle, mut exchange, answer: _answer } = self;
        // The client's comes when it was sent the answer.
        deadline.arm(idle);
        let upgraded = tokio::select! {
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

/// Until both directions have ended. Why they did not, if so.
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
                (Poll::Ready(Err(Side::Reads)), _) | (_, Poll::Ready(Err(Side::Writes))) => {
                    return Poll::Ready(Some(Cut::ClientClosed));
                }
                (Poll::Ready(Err(Side::Writes)), _) | (_, Poll::Ready(Err(Side::Reads))) => {
                    return Poll::Ready(Some(Cut::UpstreamClosed));
                }
                (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => return Poll::Ready(None),
                _ => {}
            }
            ready!(deadline.poll_passed(cx));
            // Who does not read is not silent, and neither is who is held back by him.
            let stuck = up.holds_something() || down.holds_something();
            let (now, due) = (clock::instant(), up.last.max(down.last) + idle);
            if !stuck && due <= now {
                return Poll::Ready(Some(Cut::Silent));
            }
            deadline.arm_at(if due > now { due } else { now + idle });
        }
    })
    .await
}

/// Whose fault a direction's failure is.
enum Side {
    Reads,
    Writes,
}

/// One direction.
struct Direction {
    buffer: Box<[u8]>,
    /// What was read and not written yet.
    held: std::ops::Range<usize>,
    passed: u64,
    last: Instant,
    state: State,
}

#[derive(PartialEq, Eq)]
enum State {
    Open,
    /// The one side has no more to say; the other one is being told.
    Ending,
    Ended,
}

impl Direction {
    fn new() -> Self {
        Self { buffer: vec![0; BUFFER].into(), held: 0..0, passed: 0, last: clock::instant(), state: State::Open }
    }

    fn holds_something(&self) -> bool {
        !self.held.is_empty()
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut (impl AsyncRead + Unpin),
        to: &mut (impl AsyncWrite + Unpin),
    ) -> Poll<Result<(), Side>> {
        loop {
            if self.state == State::Open && self.held.is_empty() {
                let polled = self.poll_read(cx, from);
                if polled.is_pending() {
                    // What was written may still be on its way through TLS.
                    ready!(Pin::new(&mut *to).poll_flush(cx)).map_err(|_| Side::Writes)?;
                }
                ready!(polled).map_err(|_| Side::Reads)?;
            }
            while !self.held.is_empty() {
                let pending = &self.buffer[self.held.clone()];
                let written = ready!(Pin::new(&mut *to).poll_write(cx, pending)).map_err(|_| Side::Writes)?;
                if written == 0 {
                    return Poll::Ready(Err(Side::Writes));
                }
                self.held.start += written;
                self.passed += written as u64;
                self.last = clock::instant();
            }
            match self.state {
                State::Open => {}
                State::Ending => {
                    ready!(Pin::new(&mut *to).poll_shutdown(cx)).map_err(|_| Side::Writes)?;
                    self.state = State::Ended;
                }
                State::Ended => return Poll::Ready(Ok(())),
            }
        }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, from: &mut (impl AsyncRead + Unpin)) -> Poll<io::Result<()>> {
        let mut buffer = ReadBuf::new(&mut self.buffer);
        ready!(Pin::new(from).poll_read(cx, &mut buffer))?;
        let read = buffer.filled().len();
        self.held = 0..read;
        if read == 0 {
            self.state = State::Ending;
        }
        Poll::Ready(Ok(()))
    }
}
