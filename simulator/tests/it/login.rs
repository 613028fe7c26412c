//! Tests log-ins, refreshes, the admission of calls, and the faults of log-ins.

use std::time::Duration;

use careportals_simulator::LoginFault;
use hyper::{Method, StatusCode};
use serde_json::json;

use crate::client::{BOTH, Client, PASSWORD, USER, Version, nothing, read, simulator, text};

#[tokio::test]
async fn a_log_in_gives_a_token_that_every_call_accepts() {
    let simulator = simulator();
    for version in BOTH {
        let mut client = Client::logged_in(&simulator, version).await;
        let answer = client.get("/users/account").await;
        assert_eq!(answer.status, StatusCode::OK, "{version:?}");
        assert_eq!(answer.json()["organization"], "demo");
        assert_eq!(answer.header("content-type"), Some("application/json"));
        assert!(answer.header("date").is_some());
    }
    let counts = simulator.control().counts();
    assert_eq!((counts.logins, counts.login_ok, counts.requests, counts.unauthorized), (2, 2, 2, 0));
    assert_eq!((counts.connections, counts.connections_http2), (2, 1));
    assert_eq!(simulator.control().tokens_issued(), 2);
}

#[tokio::test]
async fn each_log_in_path_works_and_is_seen() {
    let simulator = simulator();
    let mut client = Client::connect(&simulator, Version::Http1).await;
    let body = json!({ "username": USER, "password": PASSWORD }).to_string();
    for path in ["/patient/auth", "/auth/login", "/auth", "/patient/auth/login"] {
        let answer = client.call(Method::POST, path, text(body.clone())).await;
        assert_eq!(answer.status, StatusCode::CREATED, "{path}");
    }
    let logins = simulator.control().logins();
    assert_eq!(logins.len(), 4);
    assert_eq!((logins[1].path.as_str(), logins[1].status), ("/auth/login", 201));
    assert_eq!((logins[1].organization.as_str(), logins[1].username.as_str()), ("demo", USER));
    assert_eq!(logins[1].body["password"], PASSWORD);
    assert!(!format!("{:?}", logins[1]).contains(PASSWORD));
}

#[tokio::test]
async fn wrong_log_ins_are_refused_as_careportals_does() {
    let simulator = simulator();
    let mut client = Client::connect(&simulator, Version::Http1).await;
    let wrong = client.log_in_as(USER, "wrong").await;
    assert_eq!(wrong.status, StatusCode::UNAUTHORIZED);
    assert!(wrong.json()["message"].is_string());
    for (body, status) in [("{", 400), ("\"text\"", 400), ("{}", 406), (r#"{"username":"","password":"x"}"#, 406)] {
        let answer = client.call(Method::POST, "/auth", text(body)).await;
        assert_eq!(answer.status.as_u16(), status, "{body}");
        assert!(answer.json()["message"].is_string());
    }
    client.organization = Some("other".to_owned());
    assert_eq!(client.log_in().await.status, StatusCode::UNAUTHORIZED);
    client.organization = None;
    assert_eq!(client.log_in().await.status, StatusCode::BAD_REQUEST);
    assert_eq!(simulator.control().counts().login_ok, 0);
}

#[tokio::test]
async fn a_bearer_is_checked_for_signature_age_revocation_and_tenant() {
    let simulator = simulator();
    let control = simulator.control();
    let mut client = Client::logged_in(&simulator, Version::Http2).await;
    let token = client.token.clone().expect("logged in");

    client.token = None;
    assert_eq!(client.get("/customers").await.status, StatusCode::UNAUTHORIZED);
    // The last character but one of a signature carries six bits of it, so this changes the signature.
    let mut forged = token.clone().into_bytes();
    let place = forged.len() - 2;
    forged[place] = if forged[place] == b'A' { b'B' } else { b'A' };
    client.token = Some(String::from_utf8(forged).expect("text"));
    assert_eq!(client.get("/customers").await.status, StatusCode::UNAUTHORIZED);

    client.token = Some(token);
    client.organization = Some("other".to_owned());
    assert_eq!(client.get("/customers").await.status, StatusCode::UNAUTHORIZED);
    client.organization = None;
    assert_eq!(client.get("/customers").await.status, StatusCode::BAD_REQUEST);
    client.organization = Some("demo".to_owned());
    assert_eq!(client.get("/customers").await.status, StatusCode::OK);

    control.set_clock_offset(3601);
    assert_eq!(client.get("/customers").await.json()["message"], "jwt expired");
    control.set_clock_offset(0);
    control.revoke_tokens_of("other");
    assert_eq!(client.get("/customers").await.status, StatusCode::OK);
    control.revoke_tokens();
    assert_eq!(client.get("/customers").await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(control.counts().unauthorized, 5);
}

#[tokio::test]
async fn a_header_that_comes_twice_is_refused_and_counted() {
    let simulator = simulator();
    let mut client = Client::logged_in(&simulator, Version::Http1).await;
    for (name, value) in [("authorization", "Bearer x"), ("organization", "demo")] {
        let request = client.request(Method::GET, "/users/account").header(name, value);
        let response = client.send(request.body(nothing()).expect("a request")).await.expect("an answer");
        assert_eq!(response.status(), StatusCode::BAD_REQUEST, "{name}");
        read(response).await.expect("read");
    }
    assert_eq!(simulator.control().counts().malformed, 2);
}

#[tokio::test]
async fn faults_change_the_answer_to_a_log_in() {
    let simulator = simulator();
    let control = simulator.control();
    let mut client = Client::connect(&simulator, Version::Http1).await;
    let mut with = async |fault: LoginFault| {
        control.set_login_fault(Some(fault));
        client.log_in().await
    };
    assert_eq!(with(LoginFault::Status(503)).await.status.as_u16(), 503);
    let throttled = with(LoginFault::StatusRetryAfter(429, "7".to_owned())).await;
    assert_eq!((throttled.status.as_u16(), throttled.header("retry-after")), (429, Some("7")));
    let garbage = with(LoginFault::Garbage).await;
    assert_eq!(garbage.status, StatusCode::OK);
    assert!(serde_json::from_slice::<serde_json::Value>(&garbage.body).is_err());
    assert_eq!(with(LoginFault::EmptyToken).await.json()["token"], "");
    assert!(with(LoginFault::NoToken).await.json().get("token").is_none());
    let redirect = with(LoginFault::Redirect("https://elsewhere.example.test/".to_owned())).await;
    assert_eq!(redirect.header("location"), Some("https://elsewhere.example.test/"));
    assert!(with(LoginFault::BareString).await.json().as_str().is_some_and(|token| token.split('.').count() == 3));
    assert!(with(LoginFault::Field("jwt".to_owned())).await.json()["jwt"].is_string());
    assert!(with(LoginFault::OpaqueToken).await.json()["token"].as_str().is_some_and(|token| !token.contains('.')));
    assert!(with(LoginFault::BadTokenBytes).await.json()["token"].as_str().is_some_and(|token| token.contains("\r\n")));
    let expired = with(LoginFault::ExpiredToken).await.json();
    client.token = expired["token"].as_str().map(str::to_owned);
    assert_eq!(client.get("/customers").await.json()["message"], "jwt expired");
    assert_eq!(control.logins().last().map(|login| login.status), Some(201));
}

#[tokio::test]
async fn tokens_without_exp_and_opaque_ones_are_accepted() {
    let simulator = simulator();
    for fault in [LoginFault::NoExp, LoginFault::OpaqueToken] {
        simulator.control().fail_next_logins(1, fault.clone());
        let mut client = Client::logged_in(&simulator, Version::Http1).await;
        assert_eq!(client.get("/customers").await.status, StatusCode::OK, "{fault:?}");
        assert_eq!(simulator.control().last_token(), client.token);
    }
}

#[tokio::test]
async fn the_next_log_ins_fail_by_number_and_later_ones_succeed() {
    let simulator = simulator();
    let control = simulator.control();
    control.fail_next_logins(2, LoginFault::Status(500));
    control.fail_next_logins(1, LoginFault::Status(503));
    let mut client = Client::connect(&simulator, Version::Http2).await;
    let mut statuses = Vec::new();
    for _ in 0..4 {
        statuses.push(client.log_in().await.status.as_u16());
    }
    assert_eq!(statuses, [500, 500, 503, 201]);
    assert_eq!((control.counts().logins, control.counts().login_ok), (4, 1));
}

#[tokio::test]
async fn a_log_in_can_be_reset() {
    let simulator = simulator();
    simulator.control().fail_next_logins(1, LoginFault::Reset);
    let mut client = Client::connect(&simulator, Version::Http1).await;
    assert!(client.try_call(Method::POST, "/auth", text("{}")).await.is_err());
    assert_eq!(simulator.control().logins()[0].status, 0);
    assert_eq!(simulator.control().counts().logins, 1);
}

#[tokio::test]
async fn a_log_in_can_hang_and_the_connection_can_be_dropped_under_it() {
    let simulator = simulator();
    simulator.control().set_login_fault(Some(LoginFault::Hang));
    let mut client = Client::connect(&simulator, Version::Http1).await;
    let control = simulator.control().clone();
    let seen = tokio::task::spawn_blocking(move || {
        let seen = control.wait_until(Duration::from_secs(10), |control| control.counts().logins == 1);
        control.drop_connections();
        seen
    });
    let outcome = client.try_call(Method::POST, "/auth", text("{}")).await;
    assert!(outcome.is_err());
    assert!(seen.await.expect("joined"));
    assert_eq!(simulator.control().counts().open_connections, 0);
}

#[tokio::test]
async fn a_huge_answer_does_not_end() {
    use http_body_util::BodyExt;
    let simulator = simulator();
    simulator.control().set_login_fault(Some(LoginFault::Huge));
    let mut client = Client::connect(&simulator, Version::Http1).await;
    let request = client.request(Method::POST, "/auth").body(text("{}")).expect("a request");
    let mut body = client.send(request).await.expect("an answer").into_body();
    let mut bytes = 0;
    while bytes < 4 * 1024 * 1024 {
        bytes += body.frame().await.expect("more").expect("sound").into_data().expect("bytes").len();
    }
}

#[tokio::test]
async fn held_log_ins_are_answered_when_released() {
    let simulator = simulator();
    let control = simulator.control().clone();
    control.hold_logins(true);
    let mut client = Client::connect(&simulator, Version::Http1).await;
    let release = tokio::task::spawn_blocking(move || {
        let seen = control.wait_until(Duration::from_secs(10), |control| control.logins().len() == 1);
        assert_eq!(control.logins()[0].status, 0, "held");
        control.hold_logins(false);
        seen
    });
    assert_eq!(client.log_in().await.status, StatusCode::CREATED);
    assert!(release.await.expect("joined"));
}

#[tokio::test]
async fn a_refresh_token_is_good_for_one_new_token() {
    let simulator = simulator();
    simulator.control().fail_next_logins(1, LoginFault::WithRefreshToken);
    let mut client = Client::connect(&simulator, Version::Http1).await;
    let grant = client.log_in().await.json();
    let body = json!({ "refreshToken": grant["refreshToken"] }).to_string();
    let answer = client.call(Method::POST, "/auth/refresh", text(body.clone())).await;
    assert_eq!(answer.status, StatusCode::CREATED);
    assert_ne!(answer.json()["refreshToken"], grant["refreshToken"]);
    client.token = answer.json()["token"].as_str().map(str::to_owned);
    assert_eq!(client.get("/users/account").await.status, StatusCode::OK);
    assert_eq!(client.call(Method::POST, "/auth/refresh", text(body)).await.status, StatusCode::UNAUTHORIZED);
    let counts = simulator.control().counts();
    assert_eq!((counts.logins, counts.refreshes, counts.refresh_ok), (1, 2, 1));
}

#[tokio::test]
async fn new_users_and_other_field_names_can_be_set() {
    let simulator = simulator();
    let control = simulator.control();
    control.set_credentials("acme", "kim@acme.example.test", "p1");
    control.set_login_fields("email", "secret");
    let mut client = Client::connect(&simulator, Version::Http1).await;
    client.organization = Some("acme".to_owned());
    let body = json!({ "email": "kim@acme.example.test", "secret": "p1" }).to_string();
    assert_eq!(client.call(Method::POST, "/auth", text(body.clone())).await.status, StatusCode::CREATED);
    control.set_credentials("acme", "kim@acme.example.test", "p2");
    assert_eq!(client.call(Method::POST, "/auth", text(body)).await.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn a_user_name_may_hold_a_number_sign() {
    let simulator = simulator();
    let name = "service@acme.example.test#acme";
    simulator.control().set_credentials("acme", name, "p#1");
    let mut client = Client::connect(&simulator, Version::Http1).await;
    client.organization = Some("acme".to_owned());
    let answer = client.log_in_as(name, "p#1").await;
    assert_eq!(answer.status, StatusCode::CREATED);
    client.token = answer.json()["token"].as_str().map(str::to_owned);
    assert_eq!(client.get("/users/account").await.status, StatusCode::OK);
    assert_eq!(client.log_in_as("service@acme.example.test", "p#1").await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(simulator.control().logins()[0].username, name);
}

#[tokio::test]
async fn a_log_in_may_fail_with_a_raw_javascript_exception() {
    let simulator = simulator();
    simulator.control().fail_next_logins(1, LoginFault::JavascriptError);
    let mut client = Client::connect(&simulator, Version::Http1).await;
    let answer = client.log_in().await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    assert!(answer.json()["message"].as_str().is_some_and(|message| message.starts_with("TypeError: ")));
    assert_eq!(client.log_in().await.status, StatusCode::CREATED);
}
