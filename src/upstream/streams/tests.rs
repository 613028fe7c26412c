//! Who gets a stream, who connects, and who waits. The server is h2's, on plain TCP.

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
    upstream::{Cause, HeadLimits, Sent, h2 as exchange},
    upstream_io,
};

const HOUR: Duration = Duration::from_secs(3600);
const LIMITS: HeadLimits = HeadLimits { bytes: 64 * 1024, lines: 100 };

/// A server with so many streams on each connection that answers everything; with none it does not even say hello.
async fn serve(streams: Option<u32>) -> Server {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            tokio::spawn(connection(tcp, streams));
        }
    });
    Server::at(port)
}

struct Server {
    port: u16,
    counts: Arc<ApiMetrics>,
}

async fn connection(mut tcp: TcpStream, streams: Option<u32>) {
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
        let stream = upstream_io::UpstreamIo::Plain(upstream_io::CountingTcp::new(tcp, Arc::clone(&written)).unwrap());
        let connection = Connection { stream, written, protocol: Protocol::Http2 };
        let presence = self.counts.meter(0).connected();
        exchange::open(connection, Authority::from_static("upstream.example.test"), LIMITS, presence).await.unwrap()
    }

    /// A connection made for `opening`, and its first stream.
    async fn join(&self, streams: &Streams, opening: PendingConnection) -> Http2Stream {
        let (link, driver) = self.connect().await;
        streams.join(link, driver, Some(opening), clock::instant() + HOUR)
    }
}

fn opening(claim: StreamSlot) -> PendingConnection {
    let StreamSlot::Open(opening) = claim else { panic!("not to connect") };
    opening
}

fn waiting(claim: StreamSlot) -> oneshot::Receiver<StreamPermit> {
    let StreamSlot::Wait(turn) = claim else { panic!("not to wait") };
    turn
}

fn stream(claim: StreamSlot) -> Http2Stream {
    let StreamSlot::Stream(stream) = claim else { panic!("no stream") };
    stream
}

async fn told(turn: oneshot::Receiver<StreamPermit>) -> &'static str {
    name(&turn.await.unwrap())
}

fn name(turn: &StreamPermit) -> &'static str {
    match turn {
        StreamPermit::Stream(_) => "stream",
        StreamPermit::Open(_) => "open",
        StreamPermit::Again => "again",
        StreamPermit::Failed(_) => "failed",
    }
}

fn nothing_yet(turn: &mut oneshot::Receiver<StreamPermit>) -> bool {
    matches!(turn.try_recv(), Err(oneshot::error::TryRecvError::Empty))
}

#[tokio::test]
async fn one_connects_while_it_is_unknown_what_the_server_speaks_and_the_rest_share_its_connection() {
    let (server, streams) = (serve(Some(1000)).await, Streams::new(HOUR));
    let first = opening(streams.claim(Reuse::Any));
    let mut turns: Vec<_> = (0..99).map(|_| waiting(streams.claim(Reuse::Any))).collect();
    assert!(turns.iter_mut().all(nothing_yet));
    let own = server.join(&streams, first).await;
    let mut held = vec![own];
    for turn in turns {
        let StreamPermit::Stream(stream) = turn.await.unwrap() else { panic!("no stream") };
        assert_eq!(stream.number, 0, "all on one connection");
        held.push(stream);
    }
    // More than this many never share one.
    opening(streams.claim(Reuse::Any));
    drop(held.pop());
    stream(streams.claim(Reuse::Any));
}

#[tokio::test]
async fn a_connection_is_counted_as_active_while_it_has_a_stream_and_as_idle_while_it_has_none() {
    let (server, streams) = (serve(Some(1000)).await, Streams::new(HOUR));
    let counted = || server.counts.connections();
    let first = opening(streams.claim(Reuse::Any));
    let second = waiting(streams.claim(Reuse::Any));
    let own = server.join(&streams, first).await;
    let second = second.await.unwrap();
    assert_eq!(counted(), (1, 0));
    drop(own);
    assert_eq!(counted(), (1, 0), "one stream is left");
    drop(second);
    assert_eq!(counted(), (0, 1));
    let third = stream(streams.claim(Reuse::Any));
    assert_eq!(counted(), (1, 0));
    streams.clear();
    assert_eq!(counted(), (1, 0), "it takes no new stream, but has one");
    drop(third);
    assert_eq!(counted(), (0, 0));
}

#[tokio::test]
async fn those_for_whom_there_is_no_room_connect_themselves_and_as_few_of_them_as_needed() {
    let (server, streams) = (serve(Some(3)).await, Streams::new(HOUR));
    let first = opening(streams.claim(Reuse::Any));
    let turns: Vec<_> = (0..8).map(|_| waiting(streams.claim(Reuse::Any))).collect();
    let _own = server.join(&streams, first).await;
    let mut kinds = Vec::new();
    let mut held = Vec::new();
    let mut left = Vec::new();
    for mut turn in turns {
        if kinds.len() < 4 {
            let turn = turn.await.unwrap();
            kinds.push(name(&turn));
            held.push(turn);
        } else {
            assert!(nothing_yet(&mut turn));
            left.push(turn);
        }
    }
    // Two more of the first connection's three; six are left, a connection serves its maker and two more.
    assert_eq!(kinds, ["stream", "stream", "open", "open"]);
    let openings: Vec<_> = held.drain(2..).collect();
    for turn in openings {
        let StreamPermit::Open(opening) = turn else { panic!("not to connect") };
        held.push(StreamPermit::Stream(server.join(&streams, opening).await));
    }
    for turn in left {
        let turn = turn.await.unwrap();
        assert_eq!(name(&turn), "stream");
        held.push(turn);
    }
}

#[tokio::test]
async fn where_one_stream_is_all_each_request_has_its_connection() {
    let (server, streams) = (serve(Some(1)).await, Streams::new(HOUR));
    let first = opening(streams.claim(Reuse::Any));
    let turns: Vec<_> = (0..5).map(|_| waiting(streams.claim(Reuse::Any))).collect();
    let own = server.join(&streams, first).await;
    for turn in turns {
        assert_eq!(told(turn).await, "open");
    }
    drop(own);
    let again = stream(streams.claim(Reuse::Any));
    assert_eq!(again.number, 0, "the connection is used again");
    opening(streams.claim(Reuse::Any));
}

#[tokio::test]
async fn a_stream_that_ends_goes_to_whoever_has_waited_longest() {
    let (server, streams) = (serve(Some(2)).await, Streams::new(HOUR));
    settled(&server, &streams).await;
    let (own, second) = (stream(streams.claim(Reuse::Any)), stream(streams.claim(Reuse::Any)));
    let _connecting = opening(streams.claim(Reuse::Any));
    let early = waiting(streams.claim(Reuse::Any));
    let _connecting_too = opening(streams.claim(Reuse::Any));
    let mut late = waiting(streams.claim(Reuse::Any));
    drop(second);
    assert_eq!(told(early).await, "stream");
    // What was told was dropped, and given back.
    assert_eq!(told(late).await, "stream");
    let mut latest = Vec::new();
    while let StreamSlot::Stream(stream) = streams.claim(Reuse::Any) {
        latest.push(stream);
    }
    late = waiting(streams.claim(Reuse::Any));
    assert!(nothing_yet(&mut late));
    drop(own);
    assert_eq!(told(late).await, "stream");
}

#[tokio::test]
async fn when_the_one_who_connects_gives_up_the_next_takes_over() {
    let streams = Streams::new(HOUR);
    let first = opening(streams.claim(Reuse::Any));
    let gone = waiting(streams.claim(Reuse::Any));
    let (next, mut last) = (waiting(streams.claim(Reuse::Any)), waiting(streams.claim(Reuse::Any)));
    drop(gone);
    drop(first);
    let StreamPermit::Open(second) = next.await.unwrap() else { panic!("not to connect") };
    assert!(nothing_yet(&mut last), "one at a time");
    drop(second);
    assert_eq!(told(last).await, "open");
    opening(streams.claim(Reuse::Any));
}

#[tokio::test]
async fn a_failure_to_connect_is_everybodys() {
    let streams = Streams::new(HOUR);
    let first = opening(streams.claim(Reuse::Any));
    let turns: Vec<_> = (0..5).map(|_| waiting(streams.claim(Reuse::Any))).collect();
    let error = SendError { cause: Cause::Connect(ConnectError::Refused), sent: Sent::Nothing };
    first.failed(error);
    for turn in turns {
        assert!(matches!(turn.await, Ok(StreamPermit::Failed(told)) if told == error));
    }
    let _connecting = opening(streams.claim(Reuse::OpenedAfter(clock::instant())));
    waiting(streams.claim(Reuse::OpenedAfter(clock::instant())));
}

#[tokio::test]
async fn once_the_server_speaks_http1_nobody_waits_until_it_speaks_http2_again() {
    let (server, streams) = (serve(Some(100)).await, Streams::new(HOUR));
    let first = opening(streams.claim(Reuse::Any));
    let turn = waiting(streams.claim(Reuse::Any));
    streams.speaks_http1();
    drop(first);
    assert_eq!(told(turn).await, "again");
    assert!(matches!(streams.claim(Reuse::Any), StreamSlot::OpenHttp1));
    assert!(matches!(streams.claim(Reuse::OpenedAfter(clock::instant())), StreamSlot::OpenHttp1));
    // One of them finds the server changed.
    let (link, driver) = server.connect().await;
    drop(streams.join(link, driver, None, clock::instant() + HOUR));
    stream(streams.claim(Reuse::Any));
}

#[tokio::test]
async fn a_request_that_is_sent_again_takes_no_connection_that_was_there_before() {
    let (server, streams) = (serve(Some(100)).await, Streams::new(HOUR));
    settled(&server, &streams).await;
    let taken = clock::instant();
    let fresh = opening(streams.claim(Reuse::OpenedAfter(taken)));
    // Others take it without waiting, and those who are sent again, too, wait for the same new one.
    let other = stream(streams.claim(Reuse::Any));
    assert_eq!(other.number, 0);
    let mut turn = waiting(streams.claim(Reuse::OpenedAfter(clock::instant())));
    drop(other);
    assert!(nothing_yet(&mut turn));
    let fresh = server.join(&streams, fresh).await;
    let Ok(StreamPermit::Stream(second)) = turn.await else { panic!("no stream") };
    assert_eq!((fresh.number, second.number), (1, 1));
    // One that fails on the old connection later, but took it before, shares it; one that fails on the new one does not.
    let late = stream(streams.claim(Reuse::OpenedAfter(taken)));
    assert_eq!(late.number, 1);
    drop(opening(streams.claim(Reuse::OpenedAfter(clock::instant()))));
}

/// An idle connection whose limit is known.
async fn settled(server: &Server, streams: &Streams) {
    let own = server.join(streams, opening(streams.claim(Reuse::Any))).await;
    assert_eq!(told(waiting(streams.claim(Reuse::Any))).await, "stream");
    drop(own);
}

async fn pass(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}

#[tokio::test]
async fn an_idle_connection_is_taken_only_while_a_request_may_trust_it() {
    let (server, streams) = (serve(Some(100)).await, Streams::new(Duration::from_secs(15)));
    settled(&server, &streams).await;
    pass(Duration::from_millis(3500)).await;
    drop(stream(streams.claim(Reuse::IdleAtMost(Duration::from_secs(4)))));
    pass(Duration::from_millis(4001)).await;
    drop(opening(streams.claim(Reuse::IdleAtMost(Duration::from_secs(4)))));
    let busy = stream(streams.claim(Reuse::Any));
    pass(Duration::from_millis(4001)).await;
    drop(stream(streams.claim(Reuse::IdleAtMost(Duration::from_secs(4)))));
    drop(busy);
    pass(Duration::from_millis(15_001)).await;
    opening(streams.claim(Reuse::Any));
    streams.sweep();
    assert!(streams.lock().members.is_empty());
}

#[tokio::test]
async fn a_connection_that_is_too_old_takes_no_request_and_closes_with_its_last_stream() {
    let (server, streams) = (serve(Some(100)).await, Streams::new(HOUR));
    settled(&server, &streams).await;
    streams.lock().members[0].retires = clock::instant() + Duration::from_secs(100);
    let first = stream(streams.claim(Reuse::Any));
    let link = Arc::downgrade(&first.link);
    pass(Duration::from_secs(101)).await;
    drop(opening(streams.claim(Reuse::Any)));
    assert_eq!(link.strong_count(), 1, "in use");
    let request = Request::new(Empty::<Bytes>::new());
    let answer = exchange::send(first, request).await.unwrap();
    assert_eq!(answer.status(), 200);
    drop(answer);
    assert_eq!(link.strong_count(), 0);
}

#[tokio::test]
async fn what_was_open_when_an_answer_failed_to_come_takes_no_request() {
    let (server, streams) = (serve(Some(100)).await, Streams::new(HOUR));
    settled(&server, &streams).await;
    pass(Duration::from_secs(10)).await;
    streams.retire_older_than(Duration::from_secs(11));
    let in_use = stream(streams.claim(Reuse::Any));
    streams.retire_older_than(Duration::from_secs(10));
    drop(opening(streams.claim(Reuse::Any)));
    // Who uses it goes on.
    let answer = exchange::send(in_use, Request::new(Full::new(Bytes::from("body")))).await.unwrap();
    assert_eq!(answer.status(), 200);
}

#[tokio::test]
async fn a_connection_that_the_server_leaves_takes_no_request() {
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
        // Not before the client has heard of the other thing.
        leaving.recv().await;
        respond.send_response(Response::new(()), true).unwrap();
    });
    let streams = Streams::new(HOUR);
    let own = server.join(&streams, opening(streams.claim(Reuse::Any))).await;
    let sending = tokio::spawn(exchange::send(own, Request::new(Empty::<Bytes>::new())));
    leave.send(()).await.unwrap();
    let left = async {
        while !streams.lock().members.is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), left).await.unwrap();
    drop(opening(streams.claim(Reuse::Any)));
    leave.send(()).await.unwrap();
    assert_eq!(sending.await.unwrap().unwrap().status(), 200, "what it had accepted, it answers");
}

#[tokio::test(start_paused = true)]
async fn a_connection_on_which_nobody_answers_is_dead_within_ten_seconds_and_its_requests_hear_of_it() {
    let (server, streams) = (serve(None).await, Streams::new(HOUR));
    let own = server.join(&streams, opening(streams.claim(Reuse::Any))).await;
    let waits = waiting(streams.claim(Reuse::Any));
    let started = clock::instant();
    let failed = exchange::send(own, Request::new(Empty::<Bytes>::new())).await.err();
    let expected = SendError { cause: Cause::Closed, sent: Sent::Something };
    assert_eq!(failed, Some(expected));
    let took = started.elapsed();
    assert!(took >= Duration::from_secs(9) && took < Duration::from_secs(10), "{took:?}");
    assert_eq!(told(waits).await, "failed");
    opening(streams.claim(Reuse::Any));
}

#[tokio::test(start_paused = true)]
async fn a_connection_on_which_pings_are_answered_lives_on() {
    let (server, streams) = (serve(Some(100)).await, Streams::new(HOUR));
    settled(&server, &streams).await;
    // Slowly, for the clock is fast and the network is not.
    for _ in 0..30 {
        tokio::time::advance(Duration::from_secs(1)).await;
        for _ in 0..5000 {
            tokio::task::yield_now().await;
        }
    }
    let own = stream(streams.claim(Reuse::Any));
    let answer = exchange::send(own, Request::new(Empty::<Bytes>::new())).await.unwrap();
    let (head, mut body) = answer.into_parts();
    assert_eq!(head.status, 200);
    assert!(std::future::poll_fn(|cx| body.poll_frame(cx)).await.is_none());
}
