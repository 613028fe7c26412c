//! Answers the known calls of CarePortals with invented people; each organization has its own.
//!
//! It uses admitted calls, the store of what they create and the issue of tokens. The same call gets the same response, but for what was created.

use aws_lc_rs::digest;
use hyper::{Method, Request, Response, StatusCode};
use serde_json::{Value, json};

use crate::{
    body::RequestBody,
    call::{Call, MAX_BODY_BYTES},
    ids::{is_object_id, object_id, random_word},
    login,
    request::{query, single_header},
    response::{ResponseBody, json_response, message, typed_error},
    store::{IdempotencyKey, StoredReply},
    sync::lock,
    tokens::{TokenKind, TokenOwner},
};

/// First name, last name and date of birth of an organization's customers.
const PEOPLE: [(&str, &str, &str); 5] = [
    ("Ana", "Invented", "1979-03-14"),
    ("Ben", "Fictive", "1988-11-02"),
    ("Cleo", "Madeup", "1992-06-23"),
    ("Dov", "Pretend", "1965-01-30"),
    ("Eve", "Sample", "2001-09-09"),
];

/// A known call. An identifier in the path comes along.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PortalCall {
    Account,
    PaymentMethods,
    NewUser,
    ForgottenPassword,
    NewConsultation,
    CheckoutStart(String),
    CheckoutPayment(String),
    Lookup,
    Customers,
    Customer(String),
    Subscriptions,
    Products,
    NewCart,
}

/// The names of all known calls.
pub(crate) const NAMES: [&str; 13] = [
    "POST /auth/forgot",
    "POST /consultations",
    "GET /customers",
    "GET /customers/lookups",
    "GET /customers/{id}",
    "GET /subscriptions",
    "POST /users",
    "GET /users/account",
    "GET /users/payment-methods",
    "POST /v2/carts",
    "POST /v2/checkout/{id}/payments",
    "GET /v2/checkout/{id}/start",
    "GET /v2/products",
];

/// Finds the known call of a method and a path, and the name that it is counted under. HEAD counts as GET.
///
/// The Patient API also answers under `/patient`, and the Public API, whose paths begin with `/v2`, under `/public`.
pub(crate) fn find(method: &Method, path: &str) -> Option<(&'static str, PortalCall)> {
    let method = if *method == Method::HEAD { "GET" } else { method.as_str() };
    let segments: Vec<&str> = path.strip_prefix('/')?.split('/').collect();
    let has_prefix = matches!(segments.as_slice(), ["patient", ..] | ["public", "v2", ..]);
    let segments = &segments[usize::from(has_prefix)..];
    Some(match (method, segments) {
        ("GET", ["users", "account"]) => ("GET /users/account", PortalCall::Account),
        ("GET", ["users", "payment-methods"]) => ("GET /users/payment-methods", PortalCall::PaymentMethods),
        ("POST", ["users"]) => ("POST /users", PortalCall::NewUser),
        ("POST", ["auth", "forgot"]) => ("POST /auth/forgot", PortalCall::ForgottenPassword),
        ("POST", ["consultations"]) => ("POST /consultations", PortalCall::NewConsultation),
        ("GET", ["v2", "checkout", id, "start"]) => ("GET /v2/checkout/{id}/start", PortalCall::CheckoutStart((*id).to_owned())),
        ("POST", ["v2", "checkout", id, "payments"]) => {
            ("POST /v2/checkout/{id}/payments", PortalCall::CheckoutPayment((*id).to_owned()))
        }
        ("GET", ["customers", "lookups"]) => ("GET /customers/lookups", PortalCall::Lookup),
        ("GET", ["customers"]) => ("GET /customers", PortalCall::Customers),
        ("GET", ["customers", id]) => ("GET /customers/{id}", PortalCall::Customer((*id).to_owned())),
        ("GET", ["subscriptions"]) => ("GET /subscriptions", PortalCall::Subscriptions),
        ("GET", ["v2", "products"]) => ("GET /v2/products", PortalCall::Products),
        ("POST", ["v2", "carts"]) => ("POST /v2/carts", PortalCall::NewCart),
        _ => return None,
    })
}

/// Serves a known call.
pub(crate) async fn serve(call: &Call, portal_call: PortalCall, request: Request<RequestBody>) -> Response<ResponseBody> {
    let (head, body) = request.into_parts();
    let Some(body) = body.read(MAX_BODY_BYTES).await else {
        return message(StatusCode::PAYLOAD_TOO_LARGE, "request entity too large");
    };
    let request = Request::from_parts(head, ());
    let organization = call.organization.as_str();
    match portal_call {
        PortalCall::Account => json_response(StatusCode::OK, &account(organization)),
        PortalCall::PaymentMethods => json_response(StatusCode::OK, &payment_methods(organization)),
        PortalCall::Customers => {
            let all = customers(organization);
            json_response(StatusCode::OK, &json!({ "data": all, "total": all.len() }))
        }
        PortalCall::Customer(id) => customer(organization, &id),
        PortalCall::Lookup => lookup(organization, query(&request, "keyword")),
        PortalCall::Subscriptions => subscriptions(organization, query(&request, "customer").as_deref()),
        PortalCall::Products => json_response(StatusCode::OK, &products(organization)),
        PortalCall::CheckoutStart(id) => checkout_start(organization, &id),
        PortalCall::CheckoutPayment(id) => checkout_payment(call, &id, &body),
        PortalCall::ForgottenPassword => forgotten_password(&body),
        PortalCall::NewUser => new_user(call, &body),
        PortalCall::NewConsultation => {
            create_once(call, &request, "consultations", &body, |sent| consultation(organization, sent))
        }
        PortalCall::NewCart => create_once(call, &request, "carts", &body, |sent| cart(organization, sent)),
    }
}

/// Creates something, once for each `Idempotency-Key`; without a key, each time.
fn create_once(
    call: &Call,
    request: &Request<()>,
    name: &'static str,
    body: &[u8],
    create: impl FnOnce(&Value) -> Value,
) -> Response<ResponseBody> {
    let Ok(sent) = serde_json::from_slice::<Value>(body) else {
        return typed_error(StatusCode::BAD_REQUEST, "invalid_request_error", "Unexpected token in JSON");
    };
    let status = StatusCode::CREATED;
    let Ok(Some(key)) = single_header(request.headers(), "idempotency-key") else {
        return json_response(status, &create(&sent));
    };
    call.state.recorder.count(|counts| {
        *counts.idempotency_keys.entry(key.to_owned()).or_default() += 1;
    });
    let key = IdempotencyKey { organization: call.organization.clone(), call: name, key: key.to_owned() };
    let body_sha256 = digest::digest(&digest::SHA256, body).as_ref().to_vec();
    let mut store = lock(&call.state.store);
    if let Some(reply) = store.reply(&key) {
        if reply.body_sha256 != body_sha256 {
            return typed_error(StatusCode::CONFLICT, "idempotency_error", "This idempotency key was used with another request");
        }
        call.state.recorder.count(|counts| counts.idempotency_replays += 1);
        return json_response(reply.status, &reply.value);
    }
    let value = create(&sent);
    let response = json_response(status, &value);
    store.keep_reply(key, StoredReply { body_sha256, status, value });
    response
}

fn customers(organization: &str) -> Vec<Value> {
    let customer = |(index, (first, last, born)): (usize, &(&str, &str, &str))| {
        json!({
            "_id": object_id(&format!("{organization}/customer/{index}")),
            "organization": organization,
            "firstName": first,
            "lastName": last,
            "email": format!("{}@{organization}.example.test", first.to_lowercase()),
            "phone": format!("+1555010{:04}", 150 + index),
            "birthDate": born,
            "createdAt": "2026-01-15T09:30:00.000Z",
        })
    };
    PEOPLE.iter().enumerate().map(customer).collect()
}

fn account(organization: &str) -> Value {
    json!({
        "_id": object_id(&format!("{organization}/account")),
        "organization": organization,
        "email": format!("service@{organization}.example.test"),
        "firstName": "Robin",
        "lastName": "Sample",
        "phone": "+15550100142",
        "birthDate": "1984-07-19",
        "address": { "line1": "1 Example Way", "city": "Testville", "state": "TX", "zip": "00000" },
    })
}

fn payment_methods(organization: &str) -> Value {
    json!([{
        "id": format!("pm_{}", object_id(&format!("{organization}/card"))),
        "type": "card",
        "card": { "brand": "visa", "last4": "4242", "expMonth": 12, "expYear": 2030 },
        "default": true,
    }])
}

fn customer(organization: &str, id: &str) -> Response<ResponseBody> {
    match customers(organization).into_iter().find(|customer| customer["_id"] == id) {
        Some(customer) => json_response(StatusCode::OK, &customer),
        None => message(StatusCode::NOT_FOUND, "Customer not found"),
    }
}

fn lookup(organization: &str, keyword: Option<String>) -> Response<ResponseBody> {
    let Some(keyword) = keyword else {
        return message(StatusCode::BAD_REQUEST, "keyword is required");
    };
    let keyword = keyword.to_lowercase();
    let matches = |customer: &Value| {
        ["firstName", "lastName", "email", "phone"]
            .iter()
            .any(|field| customer[field].as_str().is_some_and(|text| text.to_lowercase().contains(&keyword)))
    };
    let found: Vec<Value> = customers(organization).into_iter().filter(matches).collect();
    json_response(StatusCode::OK, &Value::Array(found))
}

fn subscriptions(organization: &str, customer: Option<&str>) -> Response<ResponseBody> {
    let all = customers(organization).into_iter().enumerate().map(|(index, customer)| {
        json!({
            "_id": object_id(&format!("{organization}/subscription/{index}")),
            "organization": organization,
            "customer": customer["_id"],
            "product": object_id(&format!("{organization}/product/{}", index % 3)),
            "status": if index == 3 { "paused" } else { "active" },
            "nextOrderDate": "2027-01-10",
        })
    });
    let wanted = |subscription: &Value| customer.is_none_or(|customer| subscription["customer"] == customer);
    json_response(StatusCode::OK, &Value::Array(all.filter(wanted).collect()))
}

fn products(organization: &str) -> Value {
    let product = |(index, (label, price)): (usize, &(&str, u32))| {
        json!({
            "_id": object_id(&format!("{organization}/product/{index}")),
            "organization": organization,
            "label": label,
            "price": price,
            "currency": "USD",
            "type": "RECURRING",
        })
    };
    let all = [("Sleep programme", 4900), ("Skin programme", 3500), ("Lab kit", 8900)];
    Value::Array(all.iter().enumerate().map(product).collect())
}

fn consultation(organization: &str, sent: &Value) -> Value {
    json!({
        "_id": object_id(&random_word()),
        "organization": organization,
        "customer": sent.get("customer").cloned().unwrap_or(Value::Null),
        "status": "pending",
        "createdAt": "2026-01-15T09:30:00.000Z",
    })
}

fn cart(organization: &str, sent: &Value) -> Value {
    json!({
        "_id": object_id(&random_word()),
        "organization": organization,
        "items": sent.get("items").cloned().unwrap_or_else(|| json!([])),
        "status": "open",
    })
}

fn checkout_start(organization: &str, id: &str) -> Response<ResponseBody> {
    if !is_object_id(id) {
        return message(StatusCode::BAD_REQUEST, "Invalid cart id");
    }
    json_response(
        StatusCode::OK,
        &json!({
            "cart": { "_id": id, "organization": organization, "status": "open" },
            "amount": 4900,
            "currency": "USD",
            "questionnaires": [],
        }),
    )
}

/// Answers 402 to the first payment, as for a card whose holder is asked (3-D Secure), and takes the same payment when it is sent
/// again.
fn checkout_payment(call: &Call, id: &str, body: &[u8]) -> Response<ResponseBody> {
    if !is_object_id(id) {
        return message(StatusCode::BAD_REQUEST, "Invalid cart id");
    }
    if serde_json::from_slice::<Value>(body).is_err() {
        return message(StatusCode::BAD_REQUEST, "Unexpected token in JSON");
    }
    let body_sha256 = digest::digest(&digest::SHA256, body).as_ref().to_vec();
    if lock(&call.state.store).is_repeated_payment(&call.organization, id, body_sha256) {
        return json_response(StatusCode::CREATED, &json!({ "cart": id, "status": "succeeded" }));
    }
    typed_error(StatusCode::PAYMENT_REQUIRED, "card_error", "The card requires authentication")
}

/// Answers a bare `true`, whether there is such a user or not.
fn forgotten_password(body: &[u8]) -> Response<ResponseBody> {
    match serde_json::from_slice::<Value>(body) {
        Ok(Value::Object(_)) => json_response(StatusCode::CREATED, &Value::Bool(true)),
        _ => message(StatusCode::BAD_REQUEST, "Unexpected token in JSON"),
    }
}

fn new_user(call: &Call, body: &[u8]) -> Response<ResponseBody> {
    let sent: Value = match serde_json::from_slice(body) {
        Ok(sent) => sent,
        Err(_) => return message(StatusCode::BAD_REQUEST, "Unexpected token in JSON"),
    };
    let Some(email) = sent["email"].as_str().filter(|email| email.contains('@')) else {
        return message(StatusCode::NOT_ACCEPTABLE, "email must be an email");
    };
    if !lock(&call.state.store).add_user(&call.organization, email) {
        return message(StatusCode::CONFLICT, "Account Exists Already");
    }
    let mut user = json!({
        "_id": object_id(&random_word()),
        "organization": call.organization,
        "email": email,
        "firstName": sent["firstName"],
        "lastName": sent["lastName"],
    });
    if call.state.settings(|settings| settings.new_user_token) {
        let owner = TokenOwner { organization: call.organization.clone(), username: email.to_owned() };
        user["token"] = login::issue(&call.state, &owner, TokenKind::Valid).into();
    }
    json_response(StatusCode::CREATED, &user)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_known_call_is_found_by_its_name() {
        for name in NAMES {
            let (method, path) = name.split_once(' ').unwrap();
            for prefix in ["", "/patient"] {
                let found = find(&method.parse().unwrap(), &format!("{prefix}{path}"));
                assert_eq!(found.map(|(found, _)| found), Some(name));
            }
            let public = find(&method.parse().unwrap(), &format!("/public{path}"));
            assert_eq!(public.is_some(), path.starts_with("/v2/"), "{name}");
        }
    }

    #[test]
    fn paths_are_matched_whole() {
        let known = |method: &str, path| find(&method.parse().unwrap(), path).map(|(name, _)| name);
        assert_eq!(known("GET", "/customers/lookups"), Some("GET /customers/lookups"));
        assert_eq!(known("HEAD", "/customers/x"), Some("GET /customers/{id}"));
        assert_eq!(known("GET", "/customers/x/y"), None);
        assert_eq!(known("POST", "/users/account"), None);
        assert_eq!(known("GET", "*"), None);
    }

    #[test]
    fn tenants_have_different_people() {
        let ids = |organization| -> Vec<String> {
            customers(organization).iter().map(|customer| customer["_id"].to_string()).collect()
        };
        assert_eq!(ids("demo"), ids("demo"));
        assert!(ids("demo").iter().all(|id| !ids("other").contains(id)));
    }
}
