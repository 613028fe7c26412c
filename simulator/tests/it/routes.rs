//! Tests a team's own routes and the import of OpenAPI documents.

use std::time::{Duration, Instant};

use careportals_simulator::Simulator;
use hyper::{Method, StatusCode};
use serde_json::{Value, json};

use crate::client::{BOTH, Client, Version, nothing, simulator, text};

const DOCUMENT: &str = include_str!("openapi.yaml");

/// A simulator with these routes.
fn with_routes(routes: &Value) -> Simulator {
    let simulator = simulator();
    simulator.control().add_routes(routes).expect("good routes");
    simulator
}

#[tokio::test]
async fn a_route_answers_with_what_the_request_says() {
    let simulator = with_routes(&json!({ "routes": [{
        "method": "POST", "path": "/customers/{id}/notes", "status": 201,
        "headers": { "location": "/customers/{{path.id}}/notes/1", "x-page": "{{query.page}}" },
        "body": { "_id": "{{id}}", "customer": "{{path.id}}", "text": "{{body.note.text}}", "tags": "{{body.tags}}",
                  "organization": "{{organization}}", "createdAt": "{{now}}" },
    }] }));
    simulator.control().set_clock_offset(-3600);
    for version in BOTH {
        let mut client = Client::logged_in(&simulator, version).await;
        let sent = json!({ "note": { "text": "ü {{now}}" }, "tags": ["a", 1] }).to_string();
        let answer = client.call(Method::POST, "/customers/a%20b/notes?page=2%0d%0ax", text(sent)).await;
        assert_eq!(answer.status, StatusCode::CREATED);
        assert_eq!(answer.header("location"), Some("/customers/a b/notes/1"));
        assert_eq!(answer.header("x-page"), None, "a line break ends no header");
        assert_eq!(answer.header("content-type"), Some("application/json"));
        let body = answer.json();
        assert_eq!(body["_id"].as_str().map(str::len), Some(24));
        assert_eq!((&body["customer"], &body["text"]), (&json!("a b"), &json!("ü {{now}}")));
        assert_eq!((&body["tags"], &body["organization"]), (&json!(["a", 1]), &json!("demo")));
        let date = httpdate::parse_http_date(answer.header("date").expect("a date")).expect("a date");
        let hour = httpdate::fmt_http_date(date)[17..22].to_owned();
        assert_eq!(&body["createdAt"].as_str().expect("text")[11..16], hour, "by the simulator's clock");
    }
    assert_eq!(simulator.control().counts().by_route["POST /customers/{id}/notes"], 2);
}

#[tokio::test]
async fn a_header_of_a_route_takes_the_place_of_the_one_that_follows_from_its_body() {
    let simulator = with_routes(&json!([
        { "path": "/reports", "text": "day;count\n", "headers": { "Content-Type": "text/csv" } },
        { "path": "/problem", "status": 422, "body": {}, "headers": { "content-type": "application/problem+json" } },
        { "path": "/nothing", "status": 202 },
    ]));
    let mut client = Client::logged_in(&simulator, Version::Http1).await;
    for (path, kind) in [("/reports", Some("text/csv")), ("/problem", Some("application/problem+json")), ("/nothing", None)] {
        let answer = client.get(path).await;
        let kinds: Vec<_> = answer.headers.get_all("content-type").iter().map(|kind| kind.to_str().expect("text")).collect();
        assert_eq!(kinds, Vec::from_iter(kind), "{path}");
    }
}

#[tokio::test]
async fn a_route_is_as_strict_as_the_known_calls() {
    let simulator = with_routes(&json!([
        { "path": "/notes", "body": [] },
        { "path": "/shop", "body": [], "access": "organization" },
    ]));
    let mut client = Client::connect(&simulator, Version::Http1).await;
    assert_eq!(client.get("/notes").await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(client.get("/shop").await.status, StatusCode::OK);
    client.organization = None;
    assert_eq!(client.get("/shop").await.status, StatusCode::BAD_REQUEST);
    let mut client = Client::logged_in(&simulator, Version::Http1).await;
    assert_eq!(client.get("/notes").await.status, StatusCode::OK);
    let head = client.call(Method::HEAD, "/notes", nothing()).await;
    assert_eq!((head.status, head.header("content-length"), head.body.len()), (StatusCode::OK, Some("2"), 0));
    assert_eq!(client.call(Method::DELETE, "/notes", nothing()).await.status, StatusCode::NOT_FOUND);
    simulator.control().revoke_tokens();
    assert_eq!(client.get("/notes").await.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn a_fault_of_a_route_ends_after_its_times_and_leaves_other_routes_alone() {
    let simulator = with_routes(&json!([
        { "path": "/notes", "body": { "total": 0 } },
        { "path": "/users/account", "fault": { "times": 2, "fault": "retry-after:429:7" } },
    ]));
    let control = simulator.control();
    let mut client = Client::logged_in(&simulator, Version::Http2).await;
    for expected in [429, 429, 200] {
        let answer = client.get("/users/account").await;
        assert_eq!(answer.status.as_u16(), expected);
        assert_eq!(answer.header("retry-after"), (expected == 429).then_some("7"));
        assert_eq!(client.get("/notes").await.status, StatusCode::OK);
    }
    control.add_routes(&json!([{ "path": "/notes", "fault": "javascript-error" }])).expect("added");
    let answer = client.get("/notes").await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    assert!(answer.json()["message"].as_str().is_some_and(|message| message.starts_with("TypeError: ")));
    control.add_routes(&json!([{ "path": "/notes" }])).expect("added");
    assert_eq!(client.get("/notes").await.json(), json!({ "total": 0 }), "without a fault the answer is the one of before");
}

#[tokio::test]
async fn a_truncated_answer_breaks_off_and_a_reset_one_never_comes() {
    for version in BOTH {
        let simulator = with_routes(&json!([
            { "path": "/notes", "body": ["a long enough text"], "fault": "truncated" },
            { "path": "/customers", "fault": "truncated" },
            { "path": "/empty", "status": 200, "fault": "truncated" },
            { "path": "/users/account", "fault": "reset" },
        ]));
        for path in ["/notes", "/customers", "/empty", "/users/account"] {
            let mut client = Client::logged_in(&simulator, version).await;
            assert!(client.try_call(Method::GET, path, nothing()).await.is_err(), "{path} {version:?}");
        }
    }
}

#[tokio::test]
async fn a_routes_latency_takes_the_place_of_the_setting() {
    let simulator = with_routes(&json!([{ "path": "/slow", "body": 1, "latency": "80ms" }]));
    let mut client = Client::logged_in(&simulator, Version::Http1).await;
    let begun = Instant::now();
    client.get("/slow").await;
    assert!(begun.elapsed() >= Duration::from_millis(80));
    simulator.control().set_latency(Duration::from_secs(3600));
    assert_eq!(client.get("/slow").await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_known_call_whose_path_fits_better_is_not_hidden() {
    let simulator = with_routes(&json!([{ "path": "/customers/{customer}", "body": "mine" }]));
    let mut client = Client::logged_in(&simulator, Version::Http1).await;
    assert_eq!(client.get("/customers/1").await.json(), json!("mine"));
    assert!(client.get("/customers/lookups?keyword=ana").await.json().is_array());
    simulator.control().add_routes(&json!([{ "path": "/customers/lookups", "text": "mine {{query.keyword}}" }])).expect("added");
    let answer = client.get("/customers/lookups?keyword=ana").await;
    assert_eq!((&answer.body[..], answer.header("content-type")), (&b"mine ana"[..], Some("text/plain; charset=utf-8")));
}

#[tokio::test]
async fn routes_of_the_start_stay_when_added_ones_are_taken_away() {
    let simulator = with_routes(&json!([{ "path": "/notes", "body": 1 }]));
    let control = simulator.control();
    control.keep_added_routes();
    control.add_routes(&json!([{ "path": "/notes", "body": 2 }, { "path": "/more", "body": 2 }])).expect("added");
    assert_eq!(control.route_names(), ["GET /more", "GET /notes"]);
    let mut client = Client::logged_in(&simulator, Version::Http1).await;
    assert_eq!(client.get("/notes").await.json(), json!(2));
    control.remove_added_routes();
    assert_eq!(client.get("/notes").await.json(), json!(1));
    let gone = client.get("/more").await;
    assert_eq!((gone.status, gone.header("x-simulator")), (StatusCode::NOT_FOUND, Some("unknown-route")));
}

#[tokio::test]
async fn log_ins_are_not_replaced() {
    let simulator = simulator();
    let fault = simulator.control().add_routes(&json!([{ "method": "POST", "path": "/patient/auth", "body": {} }]));
    assert!(fault.is_err_and(|fault| fault.contains("the simulator answers this by itself")));
}

#[tokio::test]
async fn the_paths_of_an_openapi_document_answer_with_its_examples() {
    let simulator = simulator();
    let skipped = simulator.control().add_openapi(DOCUMENT).expect("imported");
    assert_eq!(skipped, ["POST /patient/auth: the simulator answers this by itself"]);
    let mut client = Client::logged_in(&simulator, Version::Http2).await;
    let note = client.get("/customers/0123456789abcdef01234567/notes/1").await;
    assert_eq!((note.status, note.json()), (StatusCode::OK, json!({ "text": "Called back", "pinned": false })));
    let made = client.call(Method::POST, "/customers/0123456789abcdef01234567/notes", text("{}")).await;
    assert_eq!(made.status, StatusCode::CREATED);
    assert_eq!(made.json(), json!({ "_id": "0123456789abcdef01234567", "text": "text", "pinned": true }));
    let gone = client.call(Method::DELETE, "/customers/0123456789abcdef01234567/notes/1", nothing()).await;
    assert_eq!((gone.status, gone.body.len()), (StatusCode::NO_CONTENT, 0));
    client.token = None;
    assert_eq!(client.get("/shops").await.status, StatusCode::OK, "it has `security: []`");
}

#[tokio::test]
async fn unknown_routes_are_marked_and_counted() {
    let simulator = simulator();
    let mut client = Client::logged_in(&simulator, Version::Http1).await;
    for path in ["/nothing/here?email=a%40b", "/nothing/here", "/_sim/no-such"] {
        let answer = client.get(path).await;
        assert_eq!((answer.status, answer.header("x-simulator")), (StatusCode::NOT_FOUND, Some("unknown-route")), "{path}");
    }
    client.token = None;
    let refused = client.get("/nothing/here").await;
    assert_eq!((refused.status, refused.header("x-simulator")), (StatusCode::UNAUTHORIZED, Some("unknown-route")));
    assert_eq!(client.get("/customers").await.header("x-simulator"), None);
    let counts = simulator.control().counts();
    assert_eq!((counts.unknown, counts.by_route["other"]), (4, 4));
    assert_eq!(counts.unknown_routes["GET /nothing/here"], 3);
    client.token = Client::logged_in(&simulator, Version::Http1).await.token;
    for number in 0..150 {
        client.get(&format!("/unknown/{number}")).await;
    }
    let counts = simulator.control().counts();
    assert_eq!((counts.unknown, counts.unknown_routes.len()), (154, 100));
}
