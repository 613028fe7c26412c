//! Tests the awkward endpoints that leave the connection intact.

use bytes::Bytes;
use careportals_simulator::{Pattern, pattern_byte};
use http_body_util::{BodyExt, channel::Channel};
use hyper::{
    Method, StatusCode,
    body::Frame,
    header::{HeaderMap, HeaderValue},
};
use serde_json::json;

use crate::client::{BOTH, Client, Version, nothing, read, simulator, text};

#[tokio::test]
async fn awkward_endpoints_need_the_token() {
    let simulator = simulator();
    let mut client = Client::connect(&simulator, Version::Http1).await;
    assert_eq!(client.get("/_sim/echo").await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(simulator.control().counts().by_route["/_sim/echo"], 1);
}

#[tokio::test]
async fn echo_tells_what_arrived() {
    let simulator = simulator();
    for version in BOTH {
        let mut client = Client::logged_in(&simulator, version).await;
        let request = client.request(Method::PATCH, "/_sim/echo/a%2Fb?x=%20&y").header("x-twice", "1").header("x-twice", "2");
        let request = request.body(text("héllo")).expect("a request");
        let echo = read(client.send(request).await.expect("an answer")).await.expect("read").json();
        assert_eq!((&echo["method"], &echo["target"]), (&json!("PATCH"), &json!("/_sim/echo/a%2Fb?x=%20&y")));
        assert_eq!((&echo["body"], &echo["body_bytes"]), (&json!("héllo"), &json!(6)));
        let twice: Vec<_> =
            echo["headers"].as_array().expect("pairs").iter().filter(|pair| pair[0] == "x-twice").map(|pair| &pair[1]).collect();
        assert_eq!(twice, ["1", "2"]);
        assert_eq!(echo["version"], if version == Version::Http2 { "HTTP/2.0" } else { "HTTP/1.1" });
        let binary = client.call(Method::PUT, "/_sim/echo", text(&b"\xff\x00"[..])).await.json();
        assert_eq!(binary["body_base64"], "/wA=");
    }
    let seen = simulator.control().requests();
    assert_eq!((seen[0].target.as_str(), seen[0].body_bytes, seen[0].complete), ("/_sim/echo/a%2Fb?x=%20&y", 6, true));
    assert_eq!(seen[0].values("x-twice"), ["1", "2"]);
    assert_eq!(seen[0].status, Some(200));
}

#[tokio::test]
async fn long_bodies_are_hashed_and_not_echoed() {
    let simulator = simulator();
    let mut client = Client::logged_in(&simulator, Version::Http1).await;
    let echo = client.call(Method::POST, "/_sim/echo", text(vec![b'a'; 1024 * 1024 + 1])).await.json();
    assert_eq!(echo["body_bytes"], 1024 * 1024 + 1);
    assert!(echo.get("body").is_none() && echo.get("body_base64").is_none());
    assert_eq!(echo["sha256"].as_str().map(str::len), Some(64));
}

#[tokio::test]
async fn downloads_are_the_pattern_with_and_without_a_length() {
    let simulator = simulator();
    for version in BOTH {
        let mut client = Client::logged_in(&simulator, version).await;
        for (target, length) in
            [("/_sim/download?bytes=3000000", Some("3000000")), ("/_sim/download?bytes=3000000&chunked=1", None)]
        {
            let answer = client.get(target).await;
            assert_eq!(answer.header("content-length"), length, "{version:?}");
            assert_eq!(answer.body.len(), 3_000_000);
            assert!(Pattern::new().matches(0, &answer.body));
            assert_eq!(answer.body[2_999_999], pattern_byte(2_999_999));
        }
    }
    assert!(simulator.control().requests().iter().all(|seen| seen.answer_bytes == 3_000_000));
}

#[tokio::test]
async fn uploads_are_counted_hashed_and_compared() {
    let simulator = simulator();
    let pattern = Pattern::new();
    for version in BOTH {
        let mut client = Client::logged_in(&simulator, version).await;
        let body: Vec<u8> = (0..2_000_000).map(pattern_byte).collect();
        let answer = client.call(Method::PUT, "/_sim/upload", text(body)).await.json();
        assert_eq!((&answer["bytes"], &answer["pattern_ok"]), (&json!(2_000_000), &json!(true)), "{version:?}");
        let shifted = client.call(Method::POST, "/_sim/upload", text(pattern.stretch(1, 10))).await.json();
        assert_eq!(shifted["pattern_ok"], false);
    }
}

#[tokio::test]
async fn the_mirror_answers_while_the_request_goes_on() {
    let simulator = simulator();
    for version in BOTH {
        let mut client = Client::logged_in(&simulator, version).await;
        let (mut sender, channel) = Channel::<Bytes, std::io::Error>::new(1);
        sender.send_data(Bytes::from_static(b"one")).await.expect("sent");
        let request = client.request(Method::POST, "/_sim/mirror").body(channel.boxed()).expect("a request");
        let mut body = client.send(request).await.expect("an answer").into_body();
        assert_eq!(body.frame().await.expect("a frame").expect("sound").into_data().expect("bytes"), "one");
        sender.send_data(Bytes::from_static(b"two")).await.expect("sent");
        assert_eq!(body.frame().await.expect("a frame").expect("sound").into_data().expect("bytes"), "two");
        drop(sender);
        assert!(body.collect().await.expect("a proper end").to_bytes().is_empty(), "{version:?}");
    }
}

#[tokio::test]
async fn events_and_drips_come_piece_by_piece() {
    let simulator = simulator();
    let mut client = Client::logged_in(&simulator, Version::Http1).await;
    let events = client.get("/_sim/sse?events=3&interval_ms=1").await;
    assert_eq!(events.header("content-type"), Some("text/event-stream"));
    assert_eq!(events.body.windows(5).filter(|window| window == b"data:").count(), 3);
    let drip = client.get("/_sim/drip?bytes=5&interval_ms=1").await;
    assert_eq!((drip.body.len(), drip.header("content-length")), (5, Some("5")));
    // This stream has no end, so the test reads only its first event.
    let request = client.request(Method::GET, "/_sim/sse?events=0&interval_ms=1").body(nothing()).expect("a request");
    let mut body = client.send(request).await.expect("an answer").into_body();
    assert!(body.frame().await.is_some_and(|frame| frame.is_ok()));
}

#[tokio::test]
async fn slow_reading_is_slow() {
    let simulator = simulator();
    let mut client = Client::logged_in(&simulator, Version::Http1).await;
    let started = std::time::Instant::now();
    let answer = client.call(Method::POST, "/_sim/slow-read?bytes_per_second=10000", text(vec![0; 2000])).await;
    assert_eq!(answer.json()["bytes"], 2000);
    assert!(started.elapsed().as_millis() >= 200);
}

#[tokio::test]
async fn trailers_go_both_ways() {
    let simulator = simulator();
    for version in BOTH {
        let mut client = Client::logged_in(&simulator, version).await;
        let (mut sender, channel) = Channel::<Bytes, std::io::Error>::new(2);
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", HeaderValue::from_static("7"));
        sender.send(Frame::data(Bytes::from_static(b"abc"))).await.expect("sent");
        sender.send_trailers(trailers).await.expect("sent");
        drop(sender);
        let request = client.request(Method::POST, "/_sim/trailers").header("te", "trailers").header("trailer", "x-sum");
        let response = client.send(request.body(channel.boxed()).expect("a request")).await.expect("an answer");
        let answer = read(response).await.expect("read");
        assert_eq!(answer.json(), json!({ "body_bytes": 3, "trailers": [["x-sum", "7"]] }), "{version:?}");
        let trailers = answer.trailers.expect("trailers");
        let checksum = trailers["x-checksum"].to_str().expect("text");
        let sum = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &answer.body);
        let byte = |at| u8::from_str_radix(&checksum[at..at + 2], 16).expect("hexadecimal");
        assert_eq!((0..64).step_by(2).map(byte).collect::<Vec<u8>>(), sum.as_ref());
    }
}

#[tokio::test]
async fn statuses_are_as_asked_for() {
    let simulator = simulator();
    for version in BOTH {
        let mut client = Client::logged_in(&simulator, version).await;
        for status in [200, 204, 304, 402, 429, 503, 599] {
            let answer = client.get(&format!("/_sim/status/{status}")).await;
            assert_eq!(answer.status.as_u16(), status, "{version:?}");
            assert_eq!(answer.body.is_empty(), status == 204 || status == 304);
            if status == 304 {
                assert_eq!((answer.header("content-length"), answer.header("etag")), (Some("1234"), Some("\"invented-1\"")));
            }
        }
        for wrong in ["100", "x", "1000", ""] {
            assert_eq!(client.get(&format!("/_sim/status/{wrong}")).await.status, StatusCode::BAD_REQUEST, "{wrong}");
        }
    }
}

#[tokio::test]
async fn heads_are_as_awkward_as_promised() {
    let simulator = simulator();
    let mut client = Client::logged_in(&simulator, Version::Http1).await;
    assert_eq!(client.get("/_sim/cookies").await.headers.get_all("set-cookie").iter().count(), 2);
    let redirect = client.get("/_sim/redirect").await;
    let own = format!("{}/users/account", simulator.base_url());
    assert_eq!((redirect.status.as_u16(), redirect.header("location")), (302, Some(own.as_str())));
    let away = client.get("/_sim/redirect?to=https%3A%2F%2Fx.example.test%2F").await;
    assert_eq!(away.header("location"), Some("https://x.example.test/"));
    let leak = client.get("/_sim/leak").await;
    assert_eq!(leak.header("x-debug-auth"), client.token.as_ref().map(|token| format!("Bearer {token}")).as_deref());
    let many = client.get("/_sim/headers?count=50&size=100").await;
    assert_eq!(many.header("x-sim-49").map(str::len), Some(100));
    let hop = client.get("/_sim/hop-by-hop").await;
    assert_eq!((hop.header("connection"), hop.header("x-private")), (Some("x-private"), Some("1")));
    assert!(hop.header("alt-svc").is_some() && hop.header("proxy-authenticate").is_some());
    let gzip = client.get("/_sim/gzip").await;
    assert_eq!((gzip.header("content-encoding"), &gzip.body[..2]), (Some("gzip"), &b"\x1f\x8b"[..]));
    assert_eq!(client.get("/_sim/always-401").await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(simulator.control().counts().connections, 1, "all on one connection");
}
