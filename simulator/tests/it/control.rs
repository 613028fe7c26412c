//! Tests the settings, the actions and the records of a running simulator.

use std::time::{Duration, Instant};

use careportals_simulator::{Options, Simulator};
use hyper::{Method, StatusCode};

use crate::client::{BOTH, Client, Version, nothing, simulator, text, tls};

const SOON: Duration = Duration::from_secs(10);

#[tokio::test]
async fn the_clock_moves_date_and_can_be_left_out() {
    let simulator = simulator();
    let mut client = Client::logged_in(&simulator, Version::Http1).await;
    simulator.control().set_clock_offset(-86_400 * 365);
    let answer = client.get("/v2/products").await;
    let date = httpdate::parse_http_date(answer.header("date").expect("a date")).expect("a date");
    let behind = std::time::SystemTime::now().duration_since(date).expect("earlier");
    assert!(behind.abs_diff(Duration::from_secs(86_400 * 365)) < Duration::from_secs(60));
    for extreme in [i64::MIN, i64::MAX] {
        simulator.control().set_clock_offset(extreme);
        assert!(client.get("/v2/products").await.header("date").is_some());
    }
    simulator.control().set_omit_date(true);
    assert_eq!(client.get("/v2/products").await.header("date"), None);
}

#[tokio::test]
async fn tokens_live_as_long_as_was_set() {
    let simulator = simulator();
    simulator.control().set_token_life(Duration::from_secs(5));
    let mut client = Client::logged_in(&simulator, Version::Http1).await;
    assert_eq!(client.get("/customers").await.status, StatusCode::OK);
    simulator.control().set_clock_offset(6);
    assert_eq!(client.get("/customers").await.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn calls_and_log_ins_take_as_long_as_was_set() {
    let simulator = simulator();
    let mut client = Client::logged_in(&simulator, Version::Http1).await;
    simulator.control().set_latency(Duration::from_millis(60));
    let started = Instant::now();
    client.get("/customers").await;
    assert!(started.elapsed() >= Duration::from_millis(60));
    simulator.control().set_login_delay(Duration::from_millis(70));
    let started = Instant::now();
    client.log_in().await;
    assert!(started.elapsed() >= Duration::from_millis(70));
}

#[tokio::test]
async fn http2_is_offered_only_while_set() {
    let simulator = simulator();
    simulator.control().set_http2(false);
    // A server that shares no protocol with its client refuses the handshake.
    assert!(tls(simulator.address(), simulator.ca_pem(), b"h2").await.is_err());
    simulator.control().set_http2(true);
    Client::logged_in(&simulator, Version::Http2).await;
    assert_eq!(simulator.control().counts().connections_http2, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropped_connections_are_gone_and_new_ones_work() {
    let simulator = simulator();
    for version in BOTH {
        let mut client = Client::logged_in(&simulator, version).await;
        simulator.drop_connections();
        assert_eq!(simulator.control().counts().open_connections, 0);
        assert!(client.try_call(Method::GET, "/customers", nothing()).await.is_err(), "{version:?}");
        Client::logged_in(&simulator, version).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_accepting_is_paused_new_connections_wait_and_busy_ones_go_on() {
    let simulator = simulator();
    let control = simulator.control().clone();
    let mut busy = Client::logged_in(&simulator, Version::Http1).await;
    let mut idle = Client::logged_in(&simulator, Version::Http1).await;
    control.hold_requests(true);
    let call = tokio::spawn(async move { busy.get("/customers").await.status });
    let seen = control.clone();
    assert!(
        tokio::task::spawn_blocking(move || seen.wait_until(SOON, |control| control.counts().requests == 1))
            .await
            .expect("joined")
    );

    simulator.pause_accepting(true);
    assert_eq!(control.counts().open_connections, 1, "the busy one");
    assert!(idle.try_call(Method::GET, "/customers", nothing()).await.is_err());
    let waiting = Client::try_connect(&simulator, Version::Http1);
    assert!(tokio::time::timeout(Duration::from_millis(50), waiting).await.is_err(), "not served");
    control.hold_requests(false);
    assert_eq!(call.await.expect("joined"), StatusCode::OK);
    simulator.pause_accepting(false);
    Client::logged_in(&simulator, Version::Http1).await;
}

#[tokio::test]
async fn idle_connections_are_closed_in_order_after_their_time() {
    let options = Options { keep_alive_for: Some(Duration::from_millis(40)), ..Options::default() };
    let simulator = Simulator::start(options).expect("started");
    for version in BOTH {
        let client = Client::logged_in(&simulator, version).await;
        let control = simulator.control().clone();
        let gone =
            tokio::task::spawn_blocking(move || control.wait_until(SOON, |control| control.counts().open_connections == 0));
        assert!(gone.await.expect("joined"), "{version:?}");
        drop(client);
    }
}

#[tokio::test]
async fn five_hundred_requests_at_once_are_all_seen() {
    let simulator = simulator();
    let token = Client::logged_in(&simulator, Version::Http1).await.token;
    let mut calls = tokio::task::JoinSet::new();
    let simulator = std::sync::Arc::new(simulator);
    for _ in 0..500 {
        let (simulator, token) = (std::sync::Arc::clone(&simulator), token.clone());
        calls.spawn(async move {
            let mut client = Client::connect(&simulator, Version::Http1).await;
            client.token = token;
            client.get("/customers").await.status
        });
    }
    assert!(calls.join_all().await.iter().all(|status| *status == StatusCode::OK));
    assert_eq!(simulator.control().counts().by_route["GET /customers"], 500);
}

#[tokio::test]
async fn a_client_that_goes_away_ends_its_exchange() {
    let simulator = simulator();
    for version in BOTH {
        let mut client = Client::logged_in(&simulator, version).await;
        let request = client.request(Method::GET, "/_sim/hang").body(nothing()).expect("a request");
        let call = tokio::spawn(async move { client.send(request).await.map(drop) });
        let control = simulator.control().clone();
        let outcome = tokio::task::spawn_blocking(move || {
            let hanging = control.wait_until(SOON, |control| control.requests().last().is_some_and(|seen| !seen.over));
            call.abort();
            let over = control.wait_until(SOON, |control| control.requests().iter().all(|seen| seen.over));
            (hanging, over, control.requests().last().and_then(|seen| seen.status))
        });
        assert_eq!(outcome.await.expect("joined"), (true, true, None), "{version:?}");
    }
}

#[tokio::test]
async fn reset_forgets_what_was_seen_but_not_the_tokens() {
    let simulator = simulator();
    let mut client = Client::logged_in(&simulator, Version::Http1).await;
    client.get("/customers").await;
    simulator.control().reset_counts();
    let control = simulator.control();
    assert_eq!((control.counts().logins, control.counts().requests, control.counts().open_connections), (0, 0, 1));
    assert!(control.requests().is_empty() && control.logins().is_empty());
    assert_eq!(client.get("/customers").await.status, StatusCode::OK);
}

#[tokio::test]
async fn the_last_thousand_requests_are_kept() {
    let simulator = simulator();
    let mut client = Client::logged_in(&simulator, Version::Http1).await;
    for number in 0..1005 {
        client.call(Method::POST, &format!("/_sim/upload?n={number}"), text("x")).await;
    }
    let seen = simulator.control().requests();
    assert_eq!((seen.len(), seen[0].target.as_str()), (1000, "/_sim/upload?n=5"));
    assert!(!format!("{:?}", seen[0]).contains(client.token.as_deref().expect("logged in")));
}

#[tokio::test]
async fn a_stopped_simulator_is_gone() {
    let simulator = simulator();
    let address = simulator.address();
    let mut client = Client::logged_in(&simulator, Version::Http1).await;
    simulator.stop();
    assert!(client.try_call(Method::GET, "/customers", nothing()).await.is_err());
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
}

#[test]
fn an_admin_port_beyond_loopback_is_refused() {
    let options = Options { admin: Some(([0, 0, 0, 0], 0).into()), ..Options::default() };
    assert!(Simulator::start(options.clone()).is_err());
    assert!(Simulator::start(Options { admin_open: true, ..options }).is_ok());
}

#[tokio::test]
async fn a_drain_lets_what_was_accepted_finish_and_takes_no_more() {
    let simulator = simulator();
    let control = simulator.control().clone();
    for version in BOTH {
        let mut client = Client::logged_in(&simulator, version).await;
        control.reset_counts();
        control.hold_requests(true);
        let request = client.request(Method::GET, "/customers").body(nothing()).expect("a request");
        let (call, arrived) = tokio::join!(client.send(request), {
            let control = control.clone();
            async move {
                let waiting = control.clone();
                let arrived = move || waiting.wait_until(SOON, |control| control.counts().requests == 1);
                let arrived = tokio::task::spawn_blocking(arrived).await.expect("joined");
                control.drain_connections();
                control.hold_requests(false);
                arrived
            }
        });
        assert!(arrived, "{version:?}");
        let answer = crate::client::read(call.expect("an answer")).await.expect("a whole one");
        assert_eq!(answer.status, StatusCode::OK, "{version:?}");
        // Over HTTP/2 requests succeed until the client has received GOAWAY (RFC 9113, 6.8).
        let leaves = async { while client.try_call(Method::GET, "/customers", nothing()).await.is_ok() {} };
        tokio::time::timeout(SOON, leaves).await.unwrap_or_else(|_| panic!("{version:?}: it takes more"));
        let gone = move |control: &careportals_simulator::Control| control.counts().open_connections == 0;
        let control = control.clone();
        assert!(tokio::task::spawn_blocking(move || control.wait_until(SOON, gone)).await.expect("joined"), "{version:?}");
    }
}

#[tokio::test]
async fn a_frozen_connection_says_nothing_more_and_new_ones_work() {
    let simulator = simulator();
    for version in BOTH {
        let mut client = Client::logged_in(&simulator, version).await;
        simulator.control().freeze_connections();
        let answer = tokio::time::timeout(Duration::from_millis(100), client.get("/customers")).await;
        assert!(answer.is_err(), "{version:?}");
        assert_eq!(Client::logged_in(&simulator, version).await.get("/customers").await.status, StatusCode::OK);
    }
}

#[tokio::test]
async fn requests_over_http2_are_counted_and_their_number_at_once_is_limited() {
    let simulator = simulator();
    let control = simulator.control();
    Client::logged_in(&simulator, Version::Http1).await.get("/customers").await;
    let mut client = Client::logged_in(&simulator, Version::Http2).await;
    client.get("/customers").await;
    assert_eq!((control.counts().requests, control.counts().requests_http2), (2, 1));
    control.set_max_concurrent_streams(Some(1));
    control.set_latency(Duration::from_millis(60));
    let mut client = Client::logged_in(&simulator, Version::Http2).await;
    let started = Instant::now();
    let requests = [(); 2].map(|()| client.request(Method::GET, "/customers").body(nothing()).expect("a request"));
    for request in requests {
        client.send(request).await.expect("an answer");
    }
    assert!(started.elapsed() >= Duration::from_millis(120), "one after the other");
}
