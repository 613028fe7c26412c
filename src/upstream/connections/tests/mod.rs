//! Which connections are used again. The clock stands still unless a test moves it. It runs while a connection is made:
//! otherwise the connector's time-out would pass at once.

use std::{
    convert::Infallible,
    net::Ipv4Addr,
    num::NonZeroUsize,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use http_body_util::{BodyExt, Empty, Full};
use rustls::RootCertStore;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time,
};

use super::*;
use crate::{
    clock::{Clock as _, SystemClock},
    config::{Egress, Origin, Scheme},
    metrics::{ApiMetrics, Metrics},
    tls::ClientTls,
    upstream::Cause,
};

mod scripted;

const LIMITS: HeadLimits = HeadLimits { bytes: 64 * 1024, lines: 100 };

fn counts() -> Arc<ApiMetrics> {
    Metrics::new::<Infallible, Infallible>(NonZeroUsize::MIN).api("emr")
}

struct Fixture {
    upstream: Arc<Upstream<Empty<Bytes>>>,
    accepted: Arc<AtomicUsize>,
    counts: Arc<ApiMetrics>,
}

impl Fixture {
    /// Starts a server that answers everything and counts its connections.
    async fn keeping(idle: Duration) -> Self {
        Self::with(Lifetimes { idle, max_age: Duration::from_secs(300) }).await
    }

    async fn with(lifetimes: Lifetimes) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let accepted = Arc::<AtomicUsize>::default();
        let counter = Arc::clone(&accepted);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                counter.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(answer_all(stream));
            }
        });
        let origin = Origin { scheme: Scheme::Http, host: "127.0.0.1".into(), rooted: false, port };
        let connector = Connector::new(&origin, &unused_tls(), &Egress::default(), Duration::from_secs(5)).unwrap();
        let counts = counts();
        let upstream =
            Upstream::new(connector, Http2::Off, LIMITS, lifetimes, Jitter::seeded(7), KeepAlive::default(), counts.meter(0))
                .unwrap();
        Self { upstream: Arc::new(upstream), accepted, counts }
    }

    /// Lets `seconds` pass, with a round of the worker after each.
    async fn idle(&self, seconds: u32) {
        for _ in 0..seconds {
            pass(Duration::from_secs(1)).await;
            self.upstream.sweep(SystemClock.now().moment);
            self.upstream.keep_ready();
            self.settle().await;
        }
    }

    /// Waits until no connection is being opened.
    async fn settle(&self) {
        while Arc::strong_count(&self.upstream) > 1 {
            tokio::task::yield_now().await;
        }
    }

    fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Makes one exchange, and tells how many connections the server has accepted so far.
    async fn exchange(&self, reuse: Reuse) -> usize {
        let lease = self.upstream.lease(reuse).await.unwrap();
        let answer = send(lease).await.unwrap();
        answer.into_body().collect().await.unwrap();
        self.accepted()
    }
}

async fn send(lease: Lease<Empty<Bytes>>) -> Result<Response<ResponseBody<Empty<Bytes>>>, SendError> {
    lease.send(|| Ok((Request::new(Empty::new()), ()))).await.map(|(answer, ())| answer)
}

fn unused_tls() -> ClientTls {
    ClientTls::with_roots(RootCertStore::empty()).unwrap()
}

async fn answer_all(mut stream: TcpStream) {
    let mut buffer = [0; 1024];
    while stream.read(&mut buffer).await.is_ok_and(|read| read > 0) {
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.unwrap();
    }
}

async fn pass(time: Duration) {
    time::pause();
    time::advance(time).await;
    time::resume();
}

#[tokio::test]
async fn a_connection_that_idled_for_longer_than_a_request_allows_is_not_taken() {
    let fixture = Fixture::keeping(Duration::from_secs(15)).await;
    assert_eq!(fixture.exchange(Reuse::Safe).await, 1);
    pass(Duration::from_millis(3500)).await;
    assert_eq!(fixture.exchange(Reuse::Safe).await, 1, "within 4 s");
    pass(Duration::from_millis(4001)).await;
    assert_eq!(fixture.exchange(Reuse::Any).await, 1, "any will do");
    pass(Duration::from_millis(4001)).await;
    assert_eq!(fixture.exchange(Reuse::Safe).await, 2, "over 4 s");
    assert_eq!(fixture.counts.connections(), (0, 2), "another request may take the first one yet");
}

#[tokio::test]
async fn a_request_that_must_not_arrive_twice_finds_a_connection_after_any_silence() {
    for silence in [6, 30, 89, 200] {
        let fixture = Fixture::keeping(Duration::from_secs(90)).await;
        fixture.exchange(Reuse::Safe).await;
        fixture.idle(silence).await;
        let opened = fixture.accepted();
        assert_eq!(fixture.exchange(Reuse::Safe).await, opened, "after {silence} s");
    }
}

#[tokio::test]
async fn two_connections_teach_that_a_server_keeps_them_for_a_minute() {
    let fixture = Fixture::keeping(Duration::from_secs(90)).await;
    fixture.exchange(Reuse::Safe).await;
    fixture.idle(60).await;
    assert_eq!(fixture.accepted(), 1 + 2);
}

#[tokio::test]
async fn no_connection_is_opened_ahead_for_an_upstream_that_nobody_uses() {
    let fixture = Fixture::keeping(Duration::from_secs(90)).await;
    fixture.idle(30).await;
    assert_eq!(fixture.accepted(), 0);
    fixture.exchange(Reuse::Safe).await;
    fixture.upstream.close_idle();
    fixture.idle(30).await;
    assert_eq!(fixture.accepted(), 1, "the account was logged out");
    fixture.exchange(Reuse::Safe).await;
    fixture.idle(600).await;
    let opened = fixture.accepted();
    assert!(opened < 2 + 3 + 600 / 30, "{opened}");
    fixture.idle(300).await;
    assert_eq!(fixture.accepted(), opened);
}

#[tokio::test]
async fn a_connection_that_is_opened_ahead_serves_the_first_request() {
    let fixture = Fixture::keeping(Duration::from_secs(90)).await;
    fixture.upstream.open_ahead();
    fixture.settle().await;
    assert_eq!(fixture.counts.connections(), (0, 1));
    assert_eq!(fixture.exchange(Reuse::Safe).await, 1);
}

#[tokio::test]
async fn a_connection_that_is_being_opened_ahead_is_not_kept_once_idle_ones_are_closed() {
    let fixture = Fixture::keeping(Duration::from_secs(90)).await;
    for close in [Upstream::close_idle, Upstream::retire] {
        fixture.upstream.open_ahead();
        tokio::task::yield_now().await;
        close(&fixture.upstream);
        fixture.settle().await;
        assert_eq!(fixture.counts.connections(), (0, 0));
    }
}

#[tokio::test]
async fn a_connection_is_renewed_before_it_is_too_old() {
    let fixture = Fixture::with(Lifetimes { idle: Duration::from_secs(90), max_age: Duration::from_secs(100) }).await;
    for _ in 0..400 {
        let opened = fixture.accepted();
        let served = fixture.exchange(Reuse::Safe).await;
        assert!(opened == 0 || served == opened, "a request waited for a connection");
        fixture.idle(1).await;
    }
    assert!((5..=12).contains(&fixture.accepted()), "{}", fixture.accepted());
}

#[tokio::test]
async fn a_connection_that_idled_for_longer_than_pool_idle_is_not_taken() {
    let fixture = Fixture::keeping(Duration::from_secs(15)).await;
    assert_eq!(fixture.exchange(Reuse::Any).await, 1);
    pass(Duration::from_millis(14_500)).await;
    assert_eq!(fixture.exchange(Reuse::Any).await, 1);
    pass(Duration::from_millis(15_001)).await;
    assert_eq!(fixture.exchange(Reuse::Any).await, 2);
}

#[tokio::test]
async fn a_sweep_closes_what_idled_for_longer_than_pool_idle_and_what_is_too_old() {
    let lifetimes = |idle, max_age| Lifetimes { idle: Duration::from_secs(idle), max_age: Duration::from_secs(max_age) };
    for (lifetimes, seconds, left) in [
        (lifetimes(15, 3600), 14, 1),
        (lifetimes(15, 3600), 16, 0),
        (lifetimes(3600, 100), 79, 1),
        (lifetimes(3600, 100), 121, 0),
    ] {
        let fixture = Fixture::with(lifetimes).await;
        fixture.exchange(Reuse::Any).await;
        pass(Duration::from_secs(seconds)).await;
        fixture.upstream.sweep(SystemClock.now().moment);
        assert_eq!(fixture.counts.connections(), (0, left), "{lifetimes:?} {seconds}");
    }
}

#[tokio::test]
async fn nothing_is_opened_ahead_where_idle_connections_are_kept_for_less_than_half_a_minute() {
    let fixture = Fixture::keeping(Duration::from_secs(29)).await;
    fixture.upstream.open_ahead();
    fixture.exchange(Reuse::Safe).await;
    fixture.idle(10).await;
    assert_eq!(fixture.accepted(), 1);
}

#[tokio::test]
async fn a_connection_is_counted_as_active_or_idle_for_as_long_as_it_is_there() {
    let fixture = Fixture::keeping(Duration::from_secs(15)).await;
    let counted = || fixture.counts.connections();
    assert_eq!(counted(), (0, 0));
    let lease = fixture.upstream.lease(Reuse::Any).await.unwrap();
    assert_eq!(counted(), (1, 0));
    let answer = send(lease).await.unwrap();
    assert_eq!(fixture.exchange(Reuse::Any).await, 2);
    assert_eq!(counted(), (1, 1), "one is kept, the other one's answer is not read yet");
    answer.into_body().collect().await.unwrap();
    assert_eq!(counted(), (0, 2));
    drop(fixture.upstream.lease(Reuse::Any).await.unwrap());
    assert_eq!(counted(), (0, 1), "a connection that is given up is gone");
    fixture.upstream.close_idle();
    assert_eq!(counted(), (0, 0));
    let tunnel = send(fixture.upstream.lease_for_tunnel().await.unwrap()).await.unwrap();
    assert_eq!(counted(), (1, 0));
    drop(tunnel);
    assert_eq!(counted(), (0, 0));
}

#[tokio::test]
async fn a_request_that_is_sent_again_takes_a_new_connection() {
    let fixture = Fixture::keeping(Duration::from_secs(15)).await;
    assert_eq!(fixture.exchange(Reuse::Any).await, 1);
    assert_eq!(fixture.exchange(Reuse::OpenedAfter(clock::instant())).await, 2);
}

const AGE: Duration = Duration::from_secs(100);

/// Connections may be idle for longer than they may live, so only their age counts.
async fn aging() -> Fixture {
    Fixture::with(Lifetimes { idle: Duration::from_secs(3600), max_age: AGE }).await
}

#[tokio::test]
async fn a_connection_takes_requests_until_it_is_as_old_as_the_settings_say_give_or_take_a_fifth() {
    let fixture = aging().await;
    assert_eq!(fixture.exchange(Reuse::Any).await, 1);
    pass(AGE.mul_f64(0.79)).await;
    fixture.upstream.sweep(Moment::new(Duration::ZERO));
    assert_eq!(fixture.exchange(Reuse::Any).await, 1, "young");
    pass(AGE.mul_f64(0.41)).await;
    assert_eq!(fixture.exchange(Reuse::Any).await, 2, "too old");
}

#[tokio::test]
async fn a_connection_that_grew_old_in_its_exchange_is_closed_afterwards() {
    let fixture = aging().await;
    let lease = fixture.upstream.lease(Reuse::Any).await.unwrap();
    let answer = send(lease).await.unwrap();
    pass(AGE.mul_f64(1.2)).await;
    answer.into_body().collect().await.unwrap();
    assert_eq!(fixture.exchange(Reuse::Any).await, 2);
}

#[test]
fn connections_grow_old_at_different_times_within_a_fifth() {
    let origin = Origin { scheme: Scheme::Http, host: "127.0.0.1".into(), rooted: false, port: 9 };
    let connector = Connector::new(&origin, &unused_tls(), &Egress::default(), Duration::from_secs(5)).unwrap();
    let lifetimes = Lifetimes { idle: AGE, max_age: AGE };
    let upstream: Upstream<Empty<Bytes>> =
        Upstream::new(connector, Http2::Auto, LIMITS, lifetimes, Jitter::seeded(7), KeepAlive::default(), counts().meter(0))
            .unwrap();
    let ages: Vec<f64> = (0..100).map(|_| upstream.age().as_secs_f64()).collect();
    assert!(ages.iter().all(|age| (79.9..121.0).contains(age)), "{ages:?}");
    assert!(ages.iter().any(|age| *age < 90.0) && ages.iter().any(|age| *age > 110.0), "{ages:?}");
}

#[tokio::test]
async fn after_a_suspend_no_connection_from_before_it_is_used() {
    let fixture = aging().await;
    let moment = |seconds| Moment::new(Duration::from_secs(seconds));
    fixture.upstream.sweep(moment(1000));
    assert_eq!(fixture.exchange(Reuse::Any).await, 1);
    let lease = fixture.upstream.lease(Reuse::OpenedAfter(clock::instant())).await.unwrap();
    pass(Duration::from_secs(3)).await;
    fixture.upstream.sweep(moment(1003));
    assert_eq!(fixture.exchange(Reuse::Any).await, 2, "nothing happened");
    // The boot clock went on for a minute while the other one stood still.
    fixture.upstream.sweep(moment(1063));
    let in_use = send(lease).await.unwrap();
    in_use.into_body().collect().await.unwrap();
    assert_eq!(fixture.exchange(Reuse::Any).await, 3, "neither the idle one nor the one in use");
    fixture.upstream.sweep(moment(1064));
    assert_eq!(fixture.exchange(Reuse::Any).await, 3, "only once");
}

#[tokio::test]
async fn after_a_time_out_no_connection_that_was_idle_meanwhile_is_used() {
    let fixture = aging().await;
    assert_eq!(fixture.exchange(Reuse::Any).await, 1);
    pass(Duration::from_secs(5)).await;
    fixture.upstream.retire_older_than(Duration::from_secs(6));
    assert_eq!(fixture.exchange(Reuse::Any).await, 1, "it has answered since");
    pass(Duration::from_secs(5)).await;
    fixture.upstream.retire_older_than(Duration::from_secs(5));
    assert_eq!(fixture.exchange(Reuse::Any).await, 2);
}

#[tokio::test]
async fn a_lease_whose_request_can_not_be_made_gives_its_connection_back_and_sends_nothing() {
    let fixture = Fixture::keeping(Duration::from_secs(15)).await;
    let refuse = async || {
        let lease = fixture.upstream.lease(Reuse::Any).await.unwrap();
        let refused: Result<(_, ()), _> = lease.send(|| Err(SendError::unsent(Cause::RequestBody))).await;
        assert_eq!(refused.map(drop), Err(SendError::unsent(Cause::RequestBody)));
        // The connection's driver learns of it.
        tokio::task::yield_now().await;
    };
    refuse().await;
    assert_eq!(fixture.counts.connections(), (0, 1), "a new connection is kept");
    assert_eq!(fixture.exchange(Reuse::Any).await, 1);
    refuse().await;
    assert_eq!(fixture.exchange(Reuse::Any).await, 1, "so is one that was used");
}

#[tokio::test]
async fn a_retired_upstream_keeps_no_connection_neither_one_that_was_in_use_nor_a_new_one() {
    let fixture = Fixture::keeping(Duration::from_secs(15)).await;
    let counted = || fixture.counts.connections();
    let in_use = send(fixture.upstream.lease(Reuse::Any).await.unwrap()).await.unwrap();
    assert_eq!(fixture.exchange(Reuse::Any).await, 2);
    assert_eq!(counted(), (1, 1));
    fixture.upstream.retire();
    assert_eq!(counted(), (1, 0), "the idle one is closed");
    in_use.into_body().collect().await.unwrap();
    assert_eq!(counted(), (0, 0), "so is the other one, once its exchange has ended");
    assert_eq!(fixture.exchange(Reuse::Any).await, 3, "a request that came before gets its answer");
    assert_eq!(counted(), (0, 0), "and its connection is closed");
}

/// More than the kernel takes for a server that does not read.
const LARGE: usize = 64 * 1024 * 1024;

#[tokio::test]
async fn a_connection_whose_upstream_answered_and_does_not_read_the_rest_of_the_request_delays_no_other_and_is_closed() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let origin = Origin { scheme: Scheme::Http, host: "127.0.0.1".into(), rooted: false, port };
    let connector = Connector::new(&origin, &unused_tls(), &Egress::default(), Duration::from_secs(5)).unwrap();
    let lifetimes = Lifetimes { idle: Duration::from_secs(15), max_age: Duration::from_secs(300) };
    let counts = counts();
    let upstream: Upstream<Full<Bytes>> =
        Upstream::new(connector, Http2::Off, LIMITS, lifetimes, Jitter::seeded(7), KeepAlive::default(), counts.meter(0))
            .unwrap();
    let exchange = async |body: Bytes| {
        let lease = upstream.lease(Reuse::Any).await.unwrap();
        let (answer, ()) = lease.send(|| Ok::<_, SendError>((Request::new(Full::new(body)), ()))).await.unwrap();
        answer.into_body().collect().await.unwrap();
    };
    let serve = async || {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut buffer = [0; 1024];
        assert!(stream.read(&mut buffer).await.unwrap() > 0);
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.unwrap();
        stream
    };
    let (mut unread, ()) = tokio::join!(serve(), exchange(Bytes::from(vec![0; LARGE])));
    let second = async { tokio::join!(serve(), exchange(Bytes::new())).0 };
    let _second = time::timeout(Duration::from_secs(5), second).await.expect("the second request waits for the first one's rest");
    let mut rest = Vec::new();
    // A reset is an end, too.
    let _ = time::timeout(Duration::from_secs(5), unread.read_to_end(&mut rest)).await.expect("the connection is still open");
    assert!(rest.len() < LARGE / 2, "the connection went on for {} bytes", rest.len());
}
