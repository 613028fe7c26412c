//! Which request gets a stream, which connects and which waits. The server is h2's, on plain TCP.

use std::{convert::Infallible, net::Ipv4Addr, num::NonZeroUsize};

use bytes::Bytes;
use h2::server;
use http::{Request, Response, uri::Authority};
use http_body_util::{Empty, Full};
use tokio::{
    io::AsyncReadExt,
    net::{TcpListener, TcpStream},
    sync::mpsc,
};

use super::*;
use crate::{
    connect::{ConnectError, Connection},
    metrics::{ApiMetrics, Metrics},
    upstream::{
        HeadLimits, Sent,
        http2::{connection, exchange},
    },
    upstream_io,
};

const HOUR: Duration = Duration::from_secs(3600);
const LIMITS: HeadLimits = HeadLimits { bytes: 64 * 1024, lines: 100 };

/// Starts a server that answers everything and allows this many streams on each connection; with `None` it never speaks.
async fn serve(streams: Option<u32>) -> Server {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            tokio::spawn(answer_all(tcp, streams));
        }
    });
    Server::at(port)
}

struct Server {
    port: u16,
    counts: Arc<ApiMetrics>,
}

async fn answer_all(mut tcp: TcpStream, streams: Option<u32>) {
    let Some(streams) = streams else {
        let mut buffer = [0; 1024];
        while tcp.read(&mut buffer).await.is_ok_and(|read| read > 0) {}
        return;
    };
    let mut serving = server::Builder::new().max_concurrent_streams(streams).handshake::<_, Bytes>(tcp).await.unwrap();
    while let Some(Ok((_, mut respond))) = serving.accept().await {
        let _ = respond.send_response(Response::new(()), true);
    }
}

impl Server {
    fn at(port: u16) -> Self {
        Self { port, counts: Metrics::new::<Infallible, Infallible>(NonZeroUsize::MIN).api("emr") }
    }

    async fn connect(&self) -> (Http2Handle, Http2Driver) {
        let tcp = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).await.unwrap();
        let written = Arc::default();
        let stream = upstream_io::UpstreamIo::Plain(upstream_io::CountingTcp::new(tcp, Arc::clone(&written)));
        let connection = Connection { stream, written, protocol: Protocol::Http2 };
        let gauge = self.counts.meter(0).connected();
        connection::open(connection, Authority::from_static("upstream.example.test"), LIMITS, gauge).await.unwrap()
    }

    /// Connects for `pending`, and gives the connection's first stream.
    async fn insert(&self, pool: &Http2Pool, pending: PendingConnection) -> StreamPermit {
        let (handle, driver) = self.connect().await;
        pool.insert(handle, driver, Some(pending), clock::instant() + HOUR)
    }
}

fn connecting(checkout: Checkout) -> PendingConnection {
    let Checkout::Connect(pending) = checkout else { panic!("not to connect") };
    pending
}

fn waiting(checkout: Checkout) -> oneshot::Receiver<Wakeup> {
    let Checkout::Wait(wakeup) = checkout else { panic!("not to wait") };
    wakeup
}

fn stream(checkout: Checkout) -> StreamPermit {
    let Checkout::Stream(stream) = checkout else { panic!("no stream") };
    stream
}

async fn told(wakeup: oneshot::Receiver<Wakeup>) -> &'static str {
    name(&wakeup.await.unwrap())
}

fn name(wakeup: &Wakeup) -> &'static str {
    match wakeup {
        Wakeup::Stream(_) => "stream",
        Wakeup::Connect(_) => "connect",
        Wakeup::TryAgain => "try again",
        Wakeup::Failed(_) => "failed",
    }
}

fn nothing_yet(wakeup: &mut oneshot::Receiver<Wakeup>) -> bool {
    matches!(wakeup.try_recv(), Err(oneshot::error::TryRecvError::Empty))
}

#[tokio::test]
async fn one_request_connects_while_the_servers_protocol_is_unknown_and_the_rest_share_its_connection() {
    let (server, pool) = (serve(Some(1000)).await, Http2Pool::new(HOUR, KeepAlive::default()));
    let first = connecting(pool.checkout(Reuse::Any));
    let mut wakeups: Vec<_> = (0..99).map(|_| waiting(pool.checkout(Reuse::Any))).collect();
    assert!(wakeups.iter_mut().all(nothing_yet));
    let own = server.insert(&pool, first).await;
    let mut held = vec![own];
    for wakeup in wakeups {
        let Wakeup::Stream(stream) = wakeup.await.unwrap() else { panic!("no stream") };
        assert_eq!(stream.number, 0, "all on one connection");
        held.push(stream);
    }
    // A hundred streams is the most that one connection carries.
    connecting(pool.checkout(Reuse::Any));
    drop(held.pop());
    stream(pool.checkout(Reuse::Any));
}

#[tokio::test]
async fn a_connection_is_counted_as_active_while_it_has_a_stream_and_as_idle_while_it_has_none() {
    let (server, pool) = (serve(Some(1000)).await, Http2Pool::new(HOUR, KeepAlive::default()));
    let counted = || server.counts.connections();
    let first = connecting(pool.checkout(Reuse::Any));
    let second = waiting(pool.checkout(Reuse::Any));
    let own = server.insert(&pool, first).await;
    let second = second.await.unwrap();
    assert_eq!(counted(), (1, 0));
    drop(own);
    assert_eq!(counted(), (1, 0), "one stream is left");
    drop(second);
    assert_eq!(counted(), (0, 1));
    let third = stream(pool.checkout(Reuse::Any));
    assert_eq!(counted(), (1, 0));
    pool.clear();
    assert_eq!(counted(), (1, 0), "it takes no new stream, but has one");
    drop(third);
    assert_eq!(counted(), (0, 0));
}

#[tokio::test]
async fn requests_that_find_no_stream_connect_and_no_more_of_them_than_needed() {
    let (server, pool) = (serve(Some(3)).await, Http2Pool::new(HOUR, KeepAlive::default()));
    let first = connecting(pool.checkout(Reuse::Any));
    let wakeups: Vec<_> = (0..8).map(|_| waiting(pool.checkout(Reuse::Any))).collect();
    let _own = server.insert(&pool, first).await;
    let mut kinds = Vec::new();
    let mut held = Vec::new();
    let mut left = Vec::new();
    for mut wakeup in wakeups {
        if kinds.len() < 4 {
            let wakeup = wakeup.await.unwrap();
            kinds.push(name(&wakeup));
            held.push(wakeup);
        } else {
            assert!(nothing_yet(&mut wakeup));
            left.push(wakeup);
        }
    }
    // The first connection has two more streams. Six requests are left: a new connection serves the one that makes it and
    // two others.
    assert_eq!(kinds, ["stream", "stream", "connect", "connect"]);
    let pendings: Vec<_> = held.drain(2..).collect();
    for wakeup in pendings {
        let Wakeup::Connect(pending) = wakeup else { panic!("not to connect") };
        held.push(Wakeup::Stream(server.insert(&pool, pending).await));
    }
    for wakeup in left {
        let wakeup = wakeup.await.unwrap();
        assert_eq!(name(&wakeup), "stream");
        held.push(wakeup);
    }
}

#[tokio::test]
async fn if_the_server_allows_one_stream_each_request_has_its_own_connection() {
    let (server, pool) = (serve(Some(1)).await, Http2Pool::new(HOUR, KeepAlive::default()));
    let first = connecting(pool.checkout(Reuse::Any));
    let wakeups: Vec<_> = (0..5).map(|_| waiting(pool.checkout(Reuse::Any))).collect();
    let own = server.insert(&pool, first).await;
    for wakeup in wakeups {
        assert_eq!(told(wakeup).await, "connect");
    }
    drop(own);
    let again = stream(pool.checkout(Reuse::Any));
    assert_eq!(again.number, 0, "the connection is used again");
    connecting(pool.checkout(Reuse::Any));
}

#[tokio::test]
async fn a_stream_that_ends_goes_to_the_request_that_has_waited_longest() {
    let (server, pool) = (serve(Some(2)).await, Http2Pool::new(HOUR, KeepAlive::default()));
    settled(&server, &pool).await;
    let (own, second) = (stream(pool.checkout(Reuse::Any)), stream(pool.checkout(Reuse::Any)));
    let _pending = connecting(pool.checkout(Reuse::Any));
    let early = waiting(pool.checkout(Reuse::Any));
    let _second_pending = connecting(pool.checkout(Reuse::Any));
    let mut late = waiting(pool.checkout(Reuse::Any));
    drop(second);
    assert_eq!(told(early).await, "stream");
    // `told` dropped the permit, and so gave the stream back.
    assert_eq!(told(late).await, "stream");
    let mut latest = Vec::new();
    while let Checkout::Stream(stream) = pool.checkout(Reuse::Any) {
        latest.push(stream);
    }
    late = waiting(pool.checkout(Reuse::Any));
    assert!(nothing_yet(&mut late));
    drop(own);
    assert_eq!(told(late).await, "stream");
}

#[tokio::test]
async fn when_a_connecting_request_gives_up_the_next_one_connects() {
    let pool = Http2Pool::new(HOUR, KeepAlive::default());
    let first = connecting(pool.checkout(Reuse::Any));
    let gone = waiting(pool.checkout(Reuse::Any));
    let (next, mut last) = (waiting(pool.checkout(Reuse::Any)), waiting(pool.checkout(Reuse::Any)));
    drop(gone);
    drop(first);
    let Wakeup::Connect(second) = next.await.unwrap() else { panic!("not to connect") };
    assert!(nothing_yet(&mut last), "one at a time");
    drop(second);
    assert_eq!(told(last).await, "connect");
    connecting(pool.checkout(Reuse::Any));
}

#[tokio::test]
async fn every_waiting_request_learns_of_a_failure_to_connect() {
    let pool = Http2Pool::new(HOUR, KeepAlive::default());
    let first = connecting(pool.checkout(Reuse::Any));
    let wakeups: Vec<_> = (0..5).map(|_| waiting(pool.checkout(Reuse::Any))).collect();
    let error = SendError { cause: Cause::Connect(ConnectError::Refused), sent: Sent::Nothing };
    first.failed(error);
    for wakeup in wakeups {
        assert!(matches!(wakeup.await, Ok(Wakeup::Failed(told)) if told == error));
    }
    let _pending = connecting(pool.checkout(Reuse::OpenedAfter(clock::instant())));
    waiting(pool.checkout(Reuse::OpenedAfter(clock::instant())));
}

#[tokio::test]
async fn once_the_server_speaks_http1_no_request_waits_until_it_speaks_http2_again() {
    let (server, pool) = (serve(Some(100)).await, Http2Pool::new(HOUR, KeepAlive::default()));
    let first = connecting(pool.checkout(Reuse::Any));
    let wakeup = waiting(pool.checkout(Reuse::Any));
    pool.speaks_http1();
    drop(first);
    assert_eq!(told(wakeup).await, "try again");
    assert!(matches!(pool.checkout(Reuse::Any), Checkout::ConnectAlone));
    assert!(matches!(pool.checkout(Reuse::OpenedAfter(clock::instant())), Checkout::ConnectAlone));
    // One of the connections finds that the server has changed.
    let (handle, driver) = server.connect().await;
    drop(pool.insert(handle, driver, None, clock::instant() + HOUR));
    stream(pool.checkout(Reuse::Any));
}

#[tokio::test(start_paused = true)]
async fn a_server_that_asks_for_http1_is_offered_nothing_else_for_ten_minutes() {
    let pool = Http2Pool::new(HOUR, KeepAlive::default());
    let first = connecting(pool.checkout(Reuse::Any));
    let wakeup = waiting(pool.checkout(Reuse::Any));
    assert!(!pool.is_http1() && pool.may_speak_http2());
    pool.requires_http1();
    assert!(pool.is_http1() && !pool.may_speak_http2());
    assert_eq!(told(wakeup).await, "try again");
    drop(first);
    for reuse in [Reuse::Any, Reuse::OpenedAfter(clock::instant()), Reuse::Safe] {
        assert!(matches!(pool.checkout(reuse), Checkout::ConnectHttp1));
    }
    tokio::time::advance(Duration::from_secs(599)).await;
    assert!(matches!(pool.checkout(Reuse::Any), Checkout::ConnectHttp1));
    tokio::time::advance(Duration::from_secs(1)).await;
    assert!(matches!(pool.checkout(Reuse::Any), Checkout::ConnectAlone), "it may have changed");
    assert!(pool.is_http1() && pool.may_speak_http2());
}

#[tokio::test]
async fn a_connection_is_opened_ahead_only_where_none_is_there_for_long_enough_or_on_its_way() {
    let (server, pool) = (serve(Some(100)).await, Http2Pool::new(HOUR, KeepAlive::default()));
    let soon = Duration::from_secs(10);
    assert!(!pool.is_ready(soon));
    let pending = pool.open_ahead(soon).expect("none is there");
    assert!(pool.is_ready(soon) && pool.open_ahead(soon).is_none(), "one is on its way");
    drop(pending);
    let pending = pool.open_ahead(soon).expect("that one has failed");
    let own = server.insert(&pool, pending).await;
    assert_eq!(told(waiting(pool.checkout(Reuse::Any))).await, "stream");
    drop(own);
    assert!(pool.is_ready(soon) && pool.open_ahead(soon).is_none(), "it is there");
    assert!(!pool.is_ready(HOUR) && pool.open_ahead(HOUR).is_some(), "it will be too old");
    pool.retire();
    assert!(pool.is_ready(soon), "no further one is wanted");
}

#[tokio::test]
async fn a_request_that_is_sent_again_takes_no_connection_that_was_there_before() {
    let (server, pool) = (serve(Some(100)).await, Http2Pool::new(HOUR, KeepAlive::default()));
    settled(&server, &pool).await;
    let taken = clock::instant();
    let fresh = connecting(pool.checkout(Reuse::OpenedAfter(taken)));
    // Other requests take the old connection without waiting. A second one that is sent again waits for the same new one.
    let other = stream(pool.checkout(Reuse::Any));
    assert_eq!(other.number, 0);
    let mut wakeup = waiting(pool.checkout(Reuse::OpenedAfter(clock::instant())));
    drop(other);
    assert!(nothing_yet(&mut wakeup));
    let fresh = server.insert(&pool, fresh).await;
    let Ok(Wakeup::Stream(second)) = wakeup.await else { panic!("no stream") };
    assert_eq!((fresh.number, second.number), (1, 1));
    // A request that took the old connection earlier and fails later shares the new one; one that fails on the new one does
    // not.
    let late = stream(pool.checkout(Reuse::OpenedAfter(taken)));
    assert_eq!(late.number, 1);
    drop(connecting(pool.checkout(Reuse::OpenedAfter(clock::instant()))));
}

/// Puts an idle connection whose limit is known into the pool.
async fn settled(server: &Server, pool: &Http2Pool) {
    let own = server.insert(pool, connecting(pool.checkout(Reuse::Any))).await;
    assert_eq!(told(waiting(pool.checkout(Reuse::Any))).await, "stream");
    drop(own);
}

async fn pass(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}

#[tokio::test]
async fn an_idle_connection_is_taken_within_pool_idle_whatever_the_request() {
    let keep_alive = KeepAlive::default();
    let (server, pool) = (serve(Some(100)).await, Http2Pool::new(Duration::from_secs(15), keep_alive.clone()));
    settled(&server, &pool).await;
    pass(Duration::from_millis(14_500)).await;
    drop(stream(pool.checkout(Reuse::Safe)));
    let busy = stream(pool.checkout(Reuse::Any));
    pass(Duration::from_secs(20)).await;
    drop(stream(pool.checkout(Reuse::Safe)));
    drop(busy);
    pass(Duration::from_millis(15_001)).await;
    drop(connecting(pool.checkout(Reuse::Safe)));
    connecting(pool.checkout(Reuse::Any));
    pool.sweep();
    assert!(pool.lock().connections.is_empty());
    assert_eq!(keep_alive.safe_idle(), Duration::from_secs(15) * 4 / 5);
}

#[tokio::test]
async fn a_connection_that_is_too_old_takes_no_request_and_closes_with_its_last_stream() {
    let (server, pool) = (serve(Some(100)).await, Http2Pool::new(HOUR, KeepAlive::default()));
    settled(&server, &pool).await;
    pool.lock().connections[0].retires = clock::instant() + Duration::from_secs(100);
    let first = stream(pool.checkout(Reuse::Any));
    let handle = Arc::downgrade(&first.handle);
    pass(Duration::from_secs(101)).await;
    drop(connecting(pool.checkout(Reuse::Any)));
    assert_eq!(handle.strong_count(), 1, "in use");
    let request = Request::new(Empty::<Bytes>::new());
    let answer = exchange::send(first, request).await.unwrap();
    assert_eq!(answer.status(), 200);
    drop(answer);
    assert_eq!(handle.strong_count(), 0);
}

#[tokio::test]
async fn a_connection_that_was_open_when_an_answer_timed_out_takes_no_request() {
    let (server, pool) = (serve(Some(100)).await, Http2Pool::new(HOUR, KeepAlive::default()));
    settled(&server, &pool).await;
    pass(Duration::from_secs(10)).await;
    pool.retire_older_than(Duration::from_secs(11));
    let in_use = stream(pool.checkout(Reuse::Any));
    pool.retire_older_than(Duration::from_secs(10));
    drop(connecting(pool.checkout(Reuse::Any)));
    // The request that uses it goes on.
    let answer = exchange::send(in_use, Request::new(Full::new(Bytes::from("body")))).await.unwrap();
    assert_eq!(answer.status(), 200);
}

#[tokio::test]
async fn a_connection_that_the_server_is_closing_takes_no_request() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let server = Server::at(listener.local_addr().unwrap().port());
    let (leave, mut leaving) = mpsc::channel::<()>(1);
    tokio::spawn(async move {
        let (tcp, _) = listener.accept().await.unwrap();
        let mut serving = server::handshake(tcp).await.unwrap();
        let (_, mut respond): (_, server::SendResponse<Bytes>) = serving.accept().await.unwrap().unwrap();
        tokio::select! {
            _ = leaving.recv() => serving.graceful_shutdown(),
            _ = serving.accept() => panic!("a second request"),
        }
        tokio::spawn(async move { while serving.accept().await.is_some() {} });
        // Not before the client has received the GOAWAY.
        leaving.recv().await;
        respond.send_response(Response::new(()), true).unwrap();
    });
    let pool = Http2Pool::new(HOUR, KeepAlive::default());
    let own = server.insert(&pool, connecting(pool.checkout(Reuse::Any))).await;
    let sending = tokio::spawn(exchange::send(own, Request::new(Empty::<Bytes>::new())));
    leave.send(()).await.unwrap();
    let left = async {
        while !pool.lock().connections.is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), left).await.unwrap();
    drop(connecting(pool.checkout(Reuse::Any)));
    leave.send(()).await.unwrap();
    assert_eq!(sending.await.unwrap().unwrap().status(), 200, "what it had accepted, it answers");
}

#[tokio::test]
async fn requests_that_connect_themselves_are_never_told_to_and_get_the_stream_of_another_one() {
    let (server, pool) = (serve(Some(100)).await, Http2Pool::new(HOUR, KeepAlive::default()));
    let first = connecting(pool.checkout(Reuse::Any));
    let mut waits = waiting(pool.checkout(Reuse::Any));
    let mut beside = [pool.wait_beside(Reuse::Any), pool.wait_beside(Reuse::Any)];
    drop(first);
    assert!(beside.iter_mut().all(nothing_yet));
    let Ok(Wakeup::Connect(second)) = waits.try_recv() else { panic!("nobody connects") };
    // Each of them has handed the right to connect on, and would go on for ever.
    drop(second);
    assert!(beside.iter_mut().all(nothing_yet));
    let third = connecting(pool.checkout(Reuse::Any));
    let _own = server.insert(&pool, third).await;
    for waits in beside {
        assert_eq!(told(waits).await, "stream");
    }
}

#[tokio::test]
async fn one_that_connects_itself_takes_a_stream_that_became_free_before_it_looked() {
    let (server, pool) = (serve(Some(1)).await, Http2Pool::new(HOUR, KeepAlive::default()));
    let only = server.insert(&pool, connecting(pool.checkout(Reuse::Any))).await;
    let Ok(Wakeup::Connect(hangs)) = waiting(pool.checkout(Reuse::Any)).await else { panic!("nobody connects") };
    drop(only);
    drop(hangs);
    assert_eq!(told(pool.wait_beside(Reuse::Any)).await, "stream");
}

#[tokio::test(start_paused = true)]
async fn a_connection_on_which_the_server_is_silent_is_dead_within_ten_seconds_and_its_requests_fail() {
    let (server, pool) = (serve(None).await, Http2Pool::new(HOUR, KeepAlive::default()));
    let own = server.insert(&pool, connecting(pool.checkout(Reuse::Any))).await;
    let waits = waiting(pool.checkout(Reuse::Any));
    let started = clock::instant();
    let failed = exchange::send(own, Request::new(Empty::<Bytes>::new())).await.err();
    let expected = SendError { cause: Cause::Closed, sent: Sent::Something };
    assert_eq!(failed, Some(expected));
    let took = started.elapsed();
    assert!(took >= Duration::from_secs(9) && took < Duration::from_secs(10), "{took:?}");
    // It has been told after a second.
    assert_eq!(told(waits).await, "connect");
    connecting(pool.checkout(Reuse::Any));
}

#[tokio::test(start_paused = true)]
async fn a_connection_on_which_pings_are_answered_lives_on() {
    let (server, pool) = (serve(Some(100)).await, Http2Pool::new(HOUR, KeepAlive::default()));
    settled(&server, &pool).await;
    // In small steps: the paused clock runs ahead of the network.
    for _ in 0..30 {
        tokio::time::advance(Duration::from_secs(1)).await;
        for _ in 0..5000 {
            tokio::task::yield_now().await;
        }
    }
    let own = stream(pool.checkout(Reuse::Any));
    let answer = exchange::send(own, Request::new(Empty::<Bytes>::new())).await.unwrap();
    let (head, mut body) = answer.into_parts();
    assert_eq!(head.status, 200);
    assert!(std::future::poll_fn(|cx| body.poll_frame(cx)).await.is_none());
}

#[tokio::test]
async fn a_retired_pool_closes_each_connection_with_its_last_stream() {
    let (server, pool) = (serve(Some(1000)).await, Http2Pool::new(HOUR, KeepAlive::default()));
    let counted = || server.counts.connections();
    let first = server.insert(&pool, connecting(pool.checkout(Reuse::Any))).await;
    pool.retire();
    assert_eq!(counted(), (1, 0), "it has a stream");
    // A request that came before the upstream was replaced may still need one.
    let second = waiting_or_stream(&pool).await;
    drop(first);
    assert_eq!(counted(), (1, 0));
    drop(second);
    assert_eq!(counted(), (0, 0));
    let third = server.insert(&pool, connecting(pool.checkout(Reuse::Any))).await;
    assert_eq!(counted(), (1, 0));
    drop(third);
    assert_eq!(counted(), (0, 0), "nor is a new one kept");
}

#[tokio::test]
async fn a_retired_pool_closes_its_idle_connections_at_once() {
    let (server, pool) = (serve(Some(1000)).await, Http2Pool::new(HOUR, KeepAlive::default()));
    drop(server.insert(&pool, connecting(pool.checkout(Reuse::Any))).await);
    assert_eq!(server.counts.connections(), (0, 1));
    pool.retire();
    assert_eq!(server.counts.connections(), (0, 0));
}

/// A stream, at once or when the server has said how many it allows.
async fn waiting_or_stream(pool: &Http2Pool) -> StreamPermit {
    match pool.checkout(Reuse::Any) {
        Checkout::Stream(permit) => permit,
        Checkout::Wait(wakeup) => match wakeup.await {
            Ok(Wakeup::Stream(permit)) => permit,
            _ => panic!("no stream"),
        },
        _ => panic!("not to connect"),
    }
}

/// Looks at a pool with one unused connection, in time that stands still.
async fn frozen<T>(look: impl AsyncFnOnce(Http2Pool) -> T) -> T {
    let (server, pool) = (serve(Some(10)).await, Http2Pool::new(HOUR, KeepAlive::default()));
    let pending = connecting(pool.checkout(Reuse::Any));
    let (handle, driver) = server.connect().await;
    tokio::time::pause();
    drop(pool.insert(handle, driver, Some(pending), clock::instant() + RETIRES));
    let seen = look(pool).await;
    tokio::time::resume();
    seen
}

const RETIRES: Duration = Duration::from_secs(10);
const MOMENT: Duration = Duration::from_nanos(1);

#[tokio::test]
async fn a_request_that_wants_a_new_connection_gets_none_that_was_open_before() {
    for (before, is_taken) in [(Duration::ZERO, false), (MOMENT, true)] {
        let taken = frozen(async |pool| {
            let reuse = Reuse::OpenedAfter(clock::instant() - before);
            matches!(pool.checkout(reuse), Checkout::Stream(_))
        });
        assert_eq!(taken.await, is_taken, "{before:?}");
    }
}

#[tokio::test]
async fn what_was_opened_so_long_ago_takes_no_new_request() {
    for (silence, stays) in [(RETIRES / 2 + MOMENT, 1), (RETIRES / 2, 0)] {
        let left = frozen(async |pool| {
            tokio::time::advance(RETIRES / 2).await;
            pool.retire_older_than(silence);
            pool.lock().connections.len()
        });
        assert_eq!(left.await, stays, "{silence:?}");
    }
}
