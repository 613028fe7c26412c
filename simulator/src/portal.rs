//! The known calls of CarePortals, with invented people. Each organization has its own.

use std::collections::{HashMap, HashSet};

use aws_lc_rs::digest;
use hyper::{Method, Request, Response, StatusCode};
use serde_json::{Value, json};

use crate::{
    answer::{Body, Received, error, json, message},
    routes::{Call, query, single},
    sync::lock,
    tokens::{object_id, random_word},
};

/// Longer bodies of known calls are refused with 413.
pub(crate) const LONGEST_BODY: usize = 1024 * 1024;

/// A known call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Known {
    Account,
    PaymentMethods,
    NewUser,
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

/// Which known call this is, and the name it is counted under. HEAD goes where GET goes.
pub(crate) fn known(method: &Method, path: &str) -> Option<(&'static str, Known)> {
    let method = if *method == Method::HEAD { "GET" } else { method.as_str() };
    let segments: Vec<&str> = path.strip_prefix('/')?.split('/').collect();
    Some(match (method, segments.as_slice()) {
        ("GET", ["users", "account"]) => ("GET /users/account", Known::Account),
        ("GET", ["users", "payment-methods"]) => ("GET /users/payment-methods", Known::PaymentMethods),
        ("POST", ["users"]) => ("POST /users", Known::NewUser),
        ("POST", ["consultations"]) => ("POST /consultations", Known::NewConsultation),
        ("GET", ["v2", "checkout", id, "start"]) => ("GET /v2/checkout/{id}/start", Known::CheckoutStart((*id).to_owned())),
        ("POST", ["v2", "checkout", id, "payments"]) => {
            ("POST /v2/checkout/{id}/payments", Known::CheckoutPayment((*id).to_owned()))
        }
        ("GET", ["customers", "lookups"]) => ("GET /customers/lookups", Known::Lookup),
        ("GET", ["customers"]) => ("GET /customers", Known::Customers),
        ("GET", ["customers", id]) => ("GET /customers/{id}", Known::Customer((*id).to_owned())),
        ("GET", ["subscriptions"]) => ("GET /subscriptions", Known::Subscriptions),
        ("GET", ["v2", "products"]) => ("GET /v2/products", Known::Products),
        ("POST", ["v2", "carts"]) => ("POST /v2/carts", Known::NewCart),
        _ => return None,
    })
}

/// What calls have changed: users that were added, and answers bound to an `Idempotency-Key`.
#[derive(Default)]
pub(crate) struct Portal {
    /// By organization and e-mail address.
    users: HashSet<(String, String)>,
    /// By organization, call and key.
    idempotent: HashMap<(String, &'static str, String), Bound>,
}

/// What a key was first used for.
#[derive(Clone)]
struct Bound {
    body: Vec<u8>,
    status: StatusCode,
    answer: Value,
}

/// A simulator may run for weeks: beyond this many, added users and keys are forgotten.
const REMEMBERED: usize = 10_000;

/// Answers a known call.
pub(crate) async fn answer(call: &Call, known: Known, request: Request<Received>) -> Response<Body> {
    let (head, body) = request.into_parts();
    let Some(body) = body.read(LONGEST_BODY).await else {
        return message(StatusCode::PAYLOAD_TOO_LARGE, "request entity too large");
    };
    let request = Request::from_parts(head, ());
    let organization = call.organization.as_str();
    match known {
        Known::Account => json(StatusCode::OK, &account(organization)),
        Known::PaymentMethods => json(StatusCode::OK, &payment_methods(organization)),
        Known::Customers => {
            let all = customers(organization);
            json(StatusCode::OK, &json!({ "data": all, "total": all.len() }))
        }
        Known::Customer(id) => customer(organization, &id),
        Known::Lookup => lookup(organization, query(&request, "keyword")),
        Known::Subscriptions => subscriptions(organization, query(&request, "customer").as_deref()),
        Known::Products => json(StatusCode::OK, &products(organization)),
        Known::CheckoutStart(id) => checkout_start(organization, &id),
        Known::CheckoutPayment(id) => checkout_payment(&id, &body),
        Known::NewUser => new_user(call, &body),
        Known::NewConsultation => {
            once(call, &request, "consultations", &body, |sent| (StatusCode::CREATED, consultation(organization, sent)))
        }
        Known::NewCart => once(call, &request, "carts", &body, |sent| (StatusCode::CREATED, cart(organization, sent))),
    }
}

/// Creates something, once for each `Idempotency-Key`.
fn once(
    call: &Call,
    request: &Request<()>,
    what: &'static str,
    body: &[u8],
    create: impl FnOnce(&Value) -> (StatusCode, Value),
) -> Response<Body> {
    let Ok(sent) = serde_json::from_slice::<Value>(body) else {
        return error(StatusCode::BAD_REQUEST, "invalid_request_error", "Unexpected token in JSON");
    };
    let Ok(Some(key)) = single(request.headers(), "idempotency-key") else {
        let (status, answer) = create(&sent);
        return json(status, &answer);
    };
    call.shared.ledger.count(|counts| {
        *counts.idempotency_keys.entry(key.to_owned()).or_default() += 1;
    });
    let digest = digest::digest(&digest::SHA256, body).as_ref().to_vec();
    let mut portal = lock(&call.shared.portal);
    let place = (call.organization.clone(), what, key.to_owned());
    if let Some(bound) = portal.idempotent.get(&place) {
        if bound.body != digest {
            return error(StatusCode::CONFLICT, "idempotency_error", "This idempotency key was used with another request");
        }
        call.shared.ledger.count(|counts| counts.idempotency_replays += 1);
        return json(bound.status, &bound.answer);
    }
    let (status, answer) = create(&sent);
    if portal.idempotent.len() >= REMEMBERED {
        portal.idempotent.clear();
    }
    let response = json(status, &answer);
    portal.idempotent.insert(place, Bound { body: digest, status, answer });
    response
}

const PEOPLE: [(&str, &str, &str); 5] = [
    ("Ana", "Invented", "1979-03-14"),
    ("Ben", "Fictive", "1988-11-02"),
    ("Cleo", "Madeup", "1992-06-23"),
    ("Dov", "Pretend", "1965-01-30"),
    ("Eve", "Sample", "2001-09-09"),
];

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

fn customer(organization: &str, id: &str) -> Response<Body> {
    match customers(organization).into_iter().find(|customer| customer["_id"] == id) {
        Some(customer) => json(StatusCode::OK, &customer),
        None => message(StatusCode::NOT_FOUND, "Customer not found"),
    }
}

fn lookup(organization: &str, keyword: Option<String>) -> Response<Body> {
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
    json(StatusCode::OK, &Value::Array(found))
}

fn subscriptions(organization: &str, customer: Option<&str>) -> Response<Body> {
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
    json(StatusCode::OK, &Value::Array(all.filter(wanted).collect()))
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

fn checkout_start(organization: &str, id: &str) -> Response<Body> {
    if !is_object_id(id) {
        return message(StatusCode::BAD_REQUEST, "Invalid cart id");
    }
    json(
        StatusCode::OK,
        &json!({
            "cart": { "_id": id, "organization": organization, "status": "open" },
            "amount": 4900,
            "currency": "USD",
            "questionnaires": [],
        }),
    )
}

/// 402 until the card's action is said to be done.
fn checkout_payment(id: &str, body: &[u8]) -> Response<Body> {
    if !is_object_id(id) {
        return message(StatusCode::BAD_REQUEST, "Invalid cart id");
    }
    let sent: Value = match serde_json::from_slice(body) {
        Ok(sent) => sent,
        Err(_) => return message(StatusCode::BAD_REQUEST, "Unexpected token in JSON"),
    };
    if sent["confirmed"] == true {
        return json(StatusCode::CREATED, &json!({ "cart": id, "status": "succeeded" }));
    }
    error(StatusCode::PAYMENT_REQUIRED, "card_error", "The card requires authentication")
}

fn new_user(call: &Call, body: &[u8]) -> Response<Body> {
    let sent: Value = match serde_json::from_slice(body) {
        Ok(sent) => sent,
        Err(_) => return message(StatusCode::BAD_REQUEST, "Unexpected token in JSON"),
    };
    let Some(email) = sent["email"].as_str().filter(|email| email.contains('@')) else {
        return message(StatusCode::NOT_ACCEPTABLE, "email must be an email");
    };
    let mut portal = lock(&call.shared.portal);
    if portal.users.len() >= REMEMBERED {
        portal.users.clear();
    }
    let user = (call.organization.clone(), email.to_lowercase());
    if !portal.users.insert(user) {
        return message(StatusCode::CONFLICT, "Account Exists Already");
    }
    json(
        StatusCode::CREATED,
        &json!({
            "_id": object_id(&random_word()),
            "organization": call.organization,
            "email": email,
            "firstName": sent["firstName"],
            "lastName": sent["lastName"],
        }),
    )
}

fn is_object_id(id: &str) -> bool {
    id.len() == 24 && id.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_matched_whole() {
        let known = |method: &str, path| known(&method.parse().unwrap(), path).map(|(name, _)| name);
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
