//! Which connections are used again. The clock stands still but where a test moves it; it runs while a connection is made,
//! for the connector's time-out would pass at once.

use std::{
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use http_body_util::{BodyExt, Empty};
use rustls::{ClientConfig, RootCertStore};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time,
};

use super::*;
use crate::config::{Origin, Scheme};

const LIMITS: HeadLimits = HeadLimits { bytes: 64 * 1024, lines: 100 };

struct Fixture {
    upstream: Upstream<Empty<Bytes>>,
    accepted: Arc<AtomicUsize>,
}

impl Fixture {
    /// A server that answers everything, and counts its connections.
    async fn keeping(idle: Duration) -> Self {
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
        let origin = Origin { scheme: Scheme::Http, host: "127.0.0.1".into(), port };
        let connector = Connector::new(&origin, &unused_tls(), Duration::from_secs(5)).unwrap();
        Self { upstream: Upstream::new(connector, LIMITS, idle), accepted }
    }

    /// One exchange; how many connections there were until now.
    async fn exchange(&self, reuse: Reuse) -> usize {
        let lease = self.upstream.lease(reuse).await.unwrap();
        let answer = lease.send(Request::new(Empty::new())).await.unwrap();
        answer.into_body().collect().await.unwrap();
        self.accepted.load(Ordering::Relaxed)
    }
}

fn unused_tls() -> Arc<ClientConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    Arc::new(builder.with_root_certificates(RootCertStore::empty()).with_no_client_auth())
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

const SAFE: Reuse = Reuse::IdleAtMost(Duration::from_secs(4));

#[tokio::test]
async fn a_connection_that_idled_for_longer_than_a_request_allows_is_not_taken() {
    let fixture = Fixture::keeping(Duration::from_secs(15)).await;
    assert_eq!(fixture.exchange(SAFE).await, 1);
    pass(Duration::from_millis(3500)).await;
    assert_eq!(fixture.exchange(SAFE).await, 1, "within 4 s");
    pass(Duration::from_millis(4001)).await;
    assert_eq!(fixture.exchange(Reuse::Any).await, 1, "any will do");
    pass(Duration::from_millis(4001)).await;
    assert_eq!(fixture.exchange(SAFE).await, 2, "over 4 s");
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
async fn a_request_that_is_sent_again_takes_a_new_connection() {
    let fixture = Fixture::keeping(Duration::from_secs(15)).await;
    assert_eq!(fixture.exchange(Reuse::Any).await, 1);
    assert_eq!(fixture.exchange(Reuse::Never).await, 2);
}
