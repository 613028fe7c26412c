//! A WebSocket: who asks for one, and the tunnel that passes its bytes both ways, until both sides have ended or both are silent
//! for too long.
//!
//! Guarantees: each direction holds one buffer at most, and reads only when it is empty; the end of one direction is passed
//! on and the other one continues; however the tunnel ends, both connections are closed and the exchange writes its line.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use http::{Method, Request, Response, Version};
use http_body::Body;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};

use super::{
    api::Api,
    download::ToClient,
    exchange::{Cut, Exchange},
    headers::{self, NamedByConnection},
    upload::{ToUpstream, UpstreamResponse},
};
use crate::{clock, deadline::Deadline, server::RequestBody, upstream::ResponseBody};

/// How many bytes each direction may hold.
const BUFFER: usize = 16 * 1024;

/// A tunnel that both sides have agreed to.
struct Tunnel {
    client: OnUpgrade,
    upstream: OnUpgrade,
    deadline: Deadline,
    /// How long both sides may be silent.
    idle: Duration,
    exchange: Exchange,
    /// The answer that agreed to the tunnel. While it lives, the connection to the upstream is counted.
    answer: ResponseBody<ToUpstream>,
}

/// The client's side of a tunnel, when a request asks for a WebSocket.
pub(super) fn asked_for(request: &mut Request<RequestBody>) -> Option<OnUpgrade> {
    // hyper's sign of an `Upgrade`, which nearly no request has.
    request.extensions().get::<OnUpgrade>()?;
    let asks = *request.method() == Method::GET
        && request.version() == Version::HTTP_11
        && request.body().is_end_stream()
        && headers::asks_for_websocket(request.headers());
    asks.then(|| hyper::upgrade::on(request))
}

/// Begins a tunnel, to which the upstream has agreed: what follows is not HTTP.
pub(super) fn begin(
    api: &Api,
    mut answer: UpstreamResponse,
    client: OnUpgrade,
    exchange: Exchange,
    deadline: Deadline,
) -> Response<ToClient> {
    let upstream = hyper::upgrade::on(&mut answer);
    let (mut head, answer) = answer.into_parts();
    let named = NamedByConnection::in_headers(&head.headers);
    head.headers = headers::to_client(&api.rules, head.headers, &named, true, exchange.request_id());
    exchange.hide_tokens(&mut head);
    headers::upgrade_to_websocket(&mut head.headers);
    // The drain waits for the task, since it waits until the client's connection is closed.
    tokio::spawn(Tunnel { client, upstream, deadline, idle: api.stream_idle, exchange, answer }.run());
    Response::from_parts(head, ToClient::Empty)
}

impl Tunnel {
    /// Passes bytes until the tunnel ends. Dropping the future closes both connections.
    async fn run(self) {
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
                let passed = |up, down| exchange.tunnelled(up, down);
                let ended = join(&mut client, &mut upstream, &deadline, idle, passed).await;
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

/// Passes bytes until both directions have ended, or until something ends the tunnel before: then it tells what. `passed` learns
/// how many bytes have gone to the upstream and to the client so far.
async fn join<C, U>(
    client: &mut C,
    upstream: &mut U,
    deadline: &Deadline,
    idle: Duration,
    mut passed: impl FnMut(u64, u64),
) -> Option<Cut>
where
    C: AsyncRead + AsyncWrite + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
{
    let (mut up, mut down) = (Direction::new(), Direction::new());
    std::future::poll_fn(|cx| {
        loop {
            let forth = up.poll(cx, client, upstream);
            let back = down.poll(cx, upstream, client);
            passed(up.passed, down.passed);
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

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex, empty, join as both, sink},
        task::JoinHandle,
    };

    use super::*;
    use crate::deadline::Deadlines;

    const IDLE: Duration = Duration::from_secs(10);

    /// How a tunnel has ended, and how many bytes went to the upstream and to the client.
    type Ended = (Option<Cut>, u64, u64);

    /// Joins the two, which hold a buffer of this many bytes each.
    fn tunnel<C, U>(mut client: C, mut upstream: U) -> JoinHandle<Ended>
    where
        C: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        U: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        tokio::spawn(async move {
            let deadlines = Deadlines::default();
            let deadline = deadlines.deadline();
            deadline.arm(IDLE);
            let mut counted = (0, 0);
            let ended = {
                let passing = join(&mut client, &mut upstream, &deadline, IDLE, |up, down| counted = (up, down));
                tokio::select! {
                    ended = passing => ended,
                    () = deadlines.run() => unreachable!("it has no end"),
                }
            };
            (ended, counted.0, counted.1)
        })
    }

    fn ends(buffer: usize) -> (DuplexStream, DuplexStream, JoinHandle<Ended>) {
        let ((client, ours), (upstream, theirs)) = (duplex(buffer), duplex(buffer));
        (client, upstream, tunnel(ours, theirs))
    }

    async fn read(from: &mut DuplexStream) -> Vec<u8> {
        let mut all = Vec::new();
        from.read_to_end(&mut all).await.unwrap();
        all
    }

    #[tokio::test]
    async fn bytes_pass_both_ways_and_when_one_side_has_ended_the_other_one_goes_on() {
        let (mut client, mut upstream, ended) = ends(64);
        let (up, down) = (vec![1; 100_000], vec![2; 200_000]);
        let sending = async {
            client.write_all(&up).await.unwrap();
            client.shutdown().await.unwrap();
        };
        let (received, ()) = tokio::join!(read(&mut upstream), sending);
        assert_eq!(received, up);
        let answering = async {
            upstream.write_all(&down).await.unwrap();
            upstream.shutdown().await.unwrap();
        };
        let (received, ()) = tokio::join!(read(&mut client), answering);
        assert_eq!(received, down);
        assert_eq!(ended.await.unwrap(), (None, 100_000, 200_000));
    }

    /// A connection that was reset.
    struct Reset;

    impl AsyncRead for Reset {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()))
        }
    }

    impl AsyncWrite for Reset {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
            Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn a_tunnel_is_cut_by_the_side_that_fails() {
        let (mut peer, ours) = duplex(64);
        peer.write_all(b"x").await.unwrap();
        let silent = || duplex(64).0;
        assert_eq!(tunnel(both(Reset, sink()), ours).await.unwrap().0, Some(Cut::ClientClosed));
        let (_other, theirs) = duplex(64);
        assert_eq!(tunnel(theirs, both(Reset, sink())).await.unwrap().0, Some(Cut::UpstreamClosed));
        // One byte is to be passed on.
        let byte = || both(&b"x"[..], sink());
        assert_eq!(tunnel(byte(), both(empty(), Reset)).await.unwrap().0, Some(Cut::UpstreamClosed));
        assert_eq!(tunnel(both(empty(), Reset), byte()).await.unwrap().0, Some(Cut::ClientClosed));
        // A side that is gone takes nothing more.
        assert_eq!(tunnel(silent(), silent()).await.unwrap(), (None, 0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_tunnel_is_cut_once_both_sides_have_been_silent_for_long_enough() {
        let (mut client, mut upstream, ended) = ends(64);
        let began = clock::instant();
        for _ in 0..3 {
            tokio::time::sleep(IDLE.mul_f32(0.9)).await;
            client.write_all(b"up").await.unwrap();
            upstream.read_u16().await.unwrap();
            tokio::time::sleep(IDLE.mul_f32(0.9)).await;
            upstream.write_all(b"dn").await.unwrap();
            client.read_u16().await.unwrap();
        }
        assert_eq!(ended.await.unwrap(), (Some(Cut::Silent), 6, 6));
        let took = began.elapsed();
        assert!((IDLE * 64 / 10..IDLE * 66 / 10).contains(&took), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_side_that_does_not_read_is_not_silent() {
        let (mut client, mut upstream, ended) = ends(64);
        client.write_all(&[7; 150]).await.unwrap();
        tokio::time::sleep(10 * IDLE).await;
        assert!(!ended.is_finished());
        let mut all = [0; 150];
        upstream.read_exact(&mut all).await.unwrap();
        assert_eq!(ended.await.unwrap(), (Some(Cut::Silent), 150, 0));
        drop(client);
    }
}
