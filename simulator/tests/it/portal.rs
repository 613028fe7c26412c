//! Tests the known calls.

use hyper::{Method, StatusCode};
use serde_json::{Value, json};

use crate::client::{Client, Version, nothing, read, simulator, text};

#[tokio::test]
async fn the_known_calls_answer_with_invented_people() {
    let simulator = simulator();
    let mut client = Client::logged_in(&simulator, Version::Http2).await;
    let customers = client.get("/customers").await.json();
    let first = &customers["data"][0];
    let id = first["_id"].as_str().expect("an id");
    assert_eq!(id.len(), 24);
    assert_eq!(client.get(&format!("/customers/{id}")).await.json(), *first);
    let found = client.get("/customers/lookups?keyword=ana%40demo.example.test").await.json();
    assert_eq!(found, json!([first]));
    let subscriptions = client.get(&format!("/subscriptions?customer={id}")).await.json();
    assert_eq!(subscriptions.as_array().map(Vec::len), Some(1));
    assert_eq!(subscriptions[0]["customer"], id);
    assert!(client.get("/users/payment-methods").await.json().is_array());
    let start = client.get(&format!("/v2/checkout/{id}/start")).await;
    assert_eq!(start.json()["cart"]["_id"], id);
    assert_eq!(client.get("/customers/nobody").await.status, StatusCode::NOT_FOUND);
    let unknown = client.get("/nothing/here").await;
    assert_eq!(unknown.status, StatusCode::NOT_FOUND);
    assert!(unknown.json()["message"].is_string());
    let by_route = simulator.control().counts().by_route;
    assert_eq!((by_route["GET /customers/{id}"], by_route["other"]), (2, 1));
}

#[tokio::test]
async fn the_storefront_needs_only_the_organization() {
    let simulator = simulator();
    let mut client = Client::connect(&simulator, Version::Http1).await;
    assert!(client.get("/v2/products").await.json().as_array().is_some_and(|all| !all.is_empty()));
    client.organization = Some("nobody".to_owned());
    assert_eq!(client.get("/v2/products").await.status, StatusCode::NOT_FOUND);
    client.organization = None;
    assert_eq!(client.get("/v2/products").await.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn users_are_added_once() {
    let simulator = simulator();
    let mut client = Client::logged_in(&simulator, Version::Http1).await;
    let new = json!({ "email": "new@demo.example.test", "firstName": "New" }).to_string();
    let mut statuses = Vec::new();
    for body in [new.clone(), new, "{}".to_owned(), "{".to_owned()] {
        let answer = client.call(Method::POST, "/users", text(body)).await;
        statuses.push(answer.status.as_u16());
        if answer.status == StatusCode::CONFLICT {
            assert_eq!(answer.json()["message"], "Account Exists Already");
        }
    }
    assert_eq!(statuses, [201, 409, 406, 400]);
}

#[tokio::test]
async fn a_payment_needs_action_and_then_the_same_one_succeeds() {
    let simulator = simulator();
    let mut client = Client::logged_in(&simulator, Version::Http1).await;
    let target = "/v2/checkout/0123456789abcdef01234567/payments";
    let mut pay = async |target: &str, body: &'static str| client.call(Method::POST, target, text(body)).await;
    let refused = pay(target, r#"{"card":"pm_1"}"#).await;
    assert_eq!((refused.status.as_u16(), &refused.json()["type"]), (402, &json!("card_error")));
    assert_eq!(pay(target, r#"{"card":"pm_2"}"#).await.status, StatusCode::PAYMENT_REQUIRED, "another card is asked for, too");
    assert_eq!(pay("/v2/checkout/0123456789abcdef01234568/payments", r#"{"card":"pm_1"}"#).await.status, 402);
    assert_eq!(pay(target, r#"{"card":"pm_1"}"#).await.status, StatusCode::CREATED);
    assert_eq!(pay(target, "{").await.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn prefixes_of_other_apis_lead_to_the_same_calls() {
    let simulator = simulator();
    let mut client = Client::logged_in(&simulator, Version::Http2).await;
    let account = client.get("/users/account").await.json();
    assert_eq!(client.get("/patient/users/account").await.json(), account);
    assert_eq!(client.get("/public/users/account").await.status, StatusCode::NOT_FOUND);
    client.token = None;
    assert!(client.get("/public/v2/products").await.json().is_array());
    assert_eq!(client.get("/patient/users/account").await.status, StatusCode::UNAUTHORIZED);
    let by_route = simulator.control().counts().by_route;
    assert_eq!((by_route["GET /users/account"], by_route["GET /v2/products"]), (3, 1));
}

#[tokio::test]
async fn a_forgotten_password_is_answered_with_a_bare_true() {
    let simulator = simulator();
    let mut client = Client::connect(&simulator, Version::Http1).await;
    let answer = client.call(Method::POST, "/auth/forgot", text(r#"{"email":"a@b.example.test"}"#)).await;
    assert_eq!((answer.status, &answer.body[..]), (StatusCode::CREATED, &b"true"[..]));
    assert_eq!(client.call(Method::POST, "/auth/forgot", text("{")).await.status, StatusCode::BAD_REQUEST);
    client.organization = None;
    assert_eq!(client.call(Method::POST, "/auth/forgot", text("{}")).await.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn a_new_user_comes_with_a_token_only_where_that_is_set() {
    let simulator = simulator();
    let mut client = Client::logged_in(&simulator, Version::Http1).await;
    let mut create =
        async |email: &str| client.call(Method::POST, "/users", text(json!({ "email": email }).to_string())).await.json();
    assert_eq!(create("one@demo.example.test").await.get("token"), None);
    simulator.control().set_new_user_token(true);
    let token = create("two@demo.example.test").await["token"].as_str().expect("a token").to_owned();
    assert_ne!(Some(&token), client.token.as_ref());
    client.token = Some(token);
    assert_eq!(client.get("/users/account").await.status, StatusCode::OK);
}

#[tokio::test]
async fn an_idempotency_key_creates_once_and_conflicts_with_another_body() {
    let simulator = simulator();
    let mut client = Client::logged_in(&simulator, Version::Http1).await;
    let mut post = async |body: &'static str, key: Option<&str>| -> (u16, Value) {
        let mut request = client.request(Method::POST, "/consultations");
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        let request = request.body(text(body)).expect("a request");
        let answer = read(client.send(request).await.expect("an answer")).await.expect("read");
        (answer.status.as_u16(), answer.json())
    };
    let (status, first) = post(r#"{"customer":"a"}"#, Some("k1")).await;
    assert_eq!(status, 201);
    assert_eq!(post(r#"{"customer":"a"}"#, Some("k1")).await, (201, first.clone()));
    let (status, conflict) = post(r#"{"customer":"b"}"#, Some("k1")).await;
    assert_eq!((status, &conflict["type"]), (409, &json!("idempotency_error")));
    assert_ne!(post(r#"{"customer":"a"}"#, None).await.1["_id"], first["_id"]);
    let counts = simulator.control().counts();
    assert_eq!((counts.idempotency_keys["k1"], counts.idempotency_replays), (3, 1));
}

#[tokio::test]
async fn head_answers_like_get_without_a_body() {
    let simulator = simulator();
    for version in crate::client::BOTH {
        let mut client = Client::logged_in(&simulator, version).await;
        for target in ["/users/account", "/_sim/download?bytes=100000", "/_sim/gzip"] {
            let get = client.get(target).await;
            let head = client.call(Method::HEAD, target, nothing()).await;
            assert_eq!(head.status, get.status);
            assert_eq!(head.header("content-length"), Some(get.body.len().to_string().as_str()), "{target}");
            assert!(head.body.is_empty());
        }
    }
}
