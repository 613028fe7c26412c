//! The log-in endpoints and the refresh endpoint, and what can be made to go wrong with them.

use std::{
    future::pending,
    sync::{Arc, atomic::AtomicU16, atomic::Ordering},
};

use bytes::Bytes;
use http_body_util::{BodyExt, channel::Channel};
use hyper::{
    Request, Response, StatusCode,
    header::{CONTENT_TYPE, LOCATION, RETRY_AFTER},
};
use serde_json::{Map, Value, json};

use crate::{
    answer::{Body, Received, answer, full, json, message, set},
    fault::LoginFault,
    line::{Cut, Line},
    record::{LoginRecord, SeenLogin, listed},
    routes::single,
    state::{Shared, released},
    sync::lock,
    tokens::{Holder, Shape},
};

/// Where one logs in: the documented path and those observed at the other APIs.
pub(crate) const LOGIN_PATHS: [&str; 4] = ["/patient/auth", "/auth/login", "/auth", "/patient/auth/login"];

/// Where a refresh token is used.
pub(crate) const REFRESH_PATH: &str = "/auth/refresh";

/// No honest log-in is longer.
const LONGEST_BODY: usize = 64 * 1024;

/// Serves one log-in.
pub(crate) async fn log_in(shared: &Arc<Shared>, line: &Line, request: Request<Received>) -> Response<Body> {
    let (head, body) = request.into_parts();
    shared.ledger.count(|counts| counts.logins += 1);
    let sent = body.read(LONGEST_BODY).await;
    let sent: Value = sent.and_then(|sent| serde_json::from_slice(&sent).ok()).unwrap_or(Value::Null);
    // A second bearer is as malformed here as elsewhere, though a log-in needs none.
    let organization = single(&head.headers, "authorization").and_then(|_| single(&head.headers, "organization"));
    let (user_field, password_field) = shared.settings(|settings| settings.login_fields.clone());
    let field = |name: &str| sent.get(name).and_then(Value::as_str).map(str::to_owned);
    let (username, password) = (field(&user_field), field(&password_field));
    let record = Arc::new(LoginRecord {
        seen: SeenLogin {
            organization: organization.unwrap_or_default().unwrap_or_default().to_owned(),
            username: username.clone().unwrap_or_default(),
            path: head.uri.path().to_owned(),
            headers: listed(&head.headers),
            body: sent.clone(),
            status: 0,
        },
        status: AtomicU16::new(0),
    });
    shared.ledger.keep_login(Arc::clone(&record));
    let fault = shared.take_login_fault();
    tokio::time::sleep(shared.settings(|settings| settings.login_delay)).await;
    released(&shared.logins_held).await;

    let early = match &fault {
        Some(fault) => fail(shared, line, fault).await,
        None => None,
    };
    let response = match early {
        Some(response) => response,
        None => match verified(shared, organization, &sent, username, password) {
            Ok(holder) => granted(shared, &holder, fault.as_ref()),
            Err(refusal) => *refusal,
        },
    };
    record.status.store(response.status().as_u16(), Ordering::Release);
    shared.ledger.touch();
    response
}

/// Serves one use of a refresh token: the token is void afterwards, and a new one comes along.
pub(crate) async fn refresh(shared: &Arc<Shared>, request: Request<Received>) -> Response<Body> {
    let (head, body) = request.into_parts();
    shared.ledger.count(|counts| counts.refreshes += 1);
    let sent = body.read(LONGEST_BODY).await.unwrap_or_default();
    let organization = match single(&head.headers, "organization") {
        Ok(Some(organization)) => organization,
        Ok(None) => return message(StatusCode::BAD_REQUEST, "Organization is required"),
        Err(()) => return malformed(shared),
    };
    let Ok(sent) = serde_json::from_slice::<Value>(&sent) else {
        return message(StatusCode::BAD_REQUEST, "Unexpected token in JSON");
    };
    let Some(presented) = sent.get("refreshToken").and_then(Value::as_str) else {
        return message(StatusCode::NOT_ACCEPTABLE, "refreshToken should not be empty");
    };
    released(&shared.logins_held).await;
    let Some(holder) = lock(&shared.tokens).redeem(presented, organization) else {
        return message(StatusCode::UNAUTHORIZED, "Unauthorized");
    };
    shared.ledger.count(|counts| counts.refresh_ok += 1);
    granted_fields(shared, &holder, Shape::Proper, "token", true)
}

/// The faults that do not look at the credentials.
async fn fail(shared: &Arc<Shared>, line: &Line, fault: &LoginFault) -> Option<Response<Body>> {
    match fault {
        LoginFault::Status(status) => Some(message(code(*status), "Something went wrong")),
        LoginFault::StatusRetryAfter(status, after) => {
            let mut response = message(code(*status), "Too Many Requests");
            set(&mut response, RETRY_AFTER, after);
            Some(response)
        }
        LoginFault::Garbage => {
            let mut response = answer(StatusCode::OK, full("<html>Bad gateway, probably</html>"));
            set(&mut response, CONTENT_TYPE, "text/html");
            Some(response)
        }
        LoginFault::Redirect(location) => {
            let mut response = message(StatusCode::FOUND, "Found");
            set(&mut response, LOCATION, location);
            Some(response)
        }
        LoginFault::Huge => Some(endless(shared)),
        LoginFault::Reset => {
            line.cut(Cut::Reset);
            pending().await
        }
        LoginFault::Hang => pending().await,
        _ => None,
    }
}

/// A JSON string that never ends.
fn endless(shared: &Arc<Shared>) -> Response<Body> {
    let (mut sender, channel) = Channel::new(1);
    tokio::spawn(async move {
        let mut piece = Bytes::from_static(b"{\"token\": \"");
        // Ends when the client has had enough: the channel is closed then.
        while sender.send_data(piece).await.is_ok() {
            piece = Bytes::from_static(&[b'A'; 16 * 1024]);
        }
    });
    shared.ledger.touch();
    let mut response = answer(StatusCode::OK, channel.boxed_unsync());
    set(&mut response, CONTENT_TYPE, "application/json");
    response
}

/// Looks at a log-in as CarePortals would.
fn verified(
    shared: &Shared,
    organization: Result<Option<&str>, ()>,
    sent: &Value,
    username: Option<String>,
    password: Option<String>,
) -> Result<Holder, Box<Response<Body>>> {
    let refuse = |status, text: &str| Err(Box::new(message(status, text)));
    let organization = match organization {
        Ok(Some(organization)) if !organization.is_empty() => organization.to_owned(),
        Ok(_) => return refuse(StatusCode::BAD_REQUEST, "Organization is required"),
        Err(()) => return Err(Box::new(malformed(shared))),
    };
    if !sent.is_object() {
        return refuse(StatusCode::BAD_REQUEST, "Unexpected token in JSON");
    }
    let (Some(username), Some(password)) = (username, password) else {
        return refuse(StatusCode::NOT_ACCEPTABLE, "username and password should not be empty");
    };
    if username.is_empty() || password.is_empty() {
        return refuse(StatusCode::NOT_ACCEPTABLE, "username and password should not be empty");
    }
    let holder = Holder { organization, username };
    let user = (holder.organization.clone(), holder.username.clone());
    if shared.settings(|settings| settings.credentials.get(&user) == Some(&password)) {
        Ok(holder)
    } else {
        refuse(StatusCode::UNAUTHORIZED, "Invalid credentials")
    }
}

/// The answer to a log-in whose credentials are right, bent by the fault.
fn granted(shared: &Shared, holder: &Holder, fault: Option<&LoginFault>) -> Response<Body> {
    let shape = match fault {
        Some(LoginFault::EmptyToken) => return json(StatusCode::CREATED, &json!({ "token": "" })),
        Some(LoginFault::NoToken) => {
            return json(StatusCode::CREATED, &json!({ "user": holder.username }));
        }
        Some(LoginFault::BadTokenBytes) => {
            let token = "eyJhbGciOiJFUzI1NiJ9.\r\nx-injected: 1 .c2ln";
            return json(StatusCode::CREATED, &json!({ "token": token }));
        }
        Some(LoginFault::ExpiredToken) => {
            return granted_fields(shared, holder, Shape::Expired, "token", false);
        }
        Some(LoginFault::NoExp) => Shape::NoExp,
        Some(LoginFault::OpaqueToken) => Shape::Opaque,
        _ => Shape::Proper,
    };
    shared.ledger.count(|counts| counts.login_ok += 1);
    match fault {
        Some(LoginFault::BareString) => json(StatusCode::CREATED, &Value::String(issue(shared, holder, shape))),
        Some(LoginFault::Field(field)) => granted_fields(shared, holder, shape, field, false),
        Some(LoginFault::WithRefreshToken) => granted_fields(shared, holder, shape, "token", true),
        _ => granted_fields(shared, holder, shape, "token", false),
    }
}

/// A grant as an object, with or without a refresh token.
fn granted_fields(shared: &Shared, holder: &Holder, shape: Shape, field: &str, with_refresh: bool) -> Response<Body> {
    let mut grant = Map::new();
    grant.insert(field.to_owned(), issue(shared, holder, shape).into());
    if with_refresh {
        let refresh = lock(&shared.tokens).issue_refresh(holder);
        grant.insert("refreshToken".to_owned(), refresh.into());
    }
    json(StatusCode::CREATED, &Value::Object(grant))
}

fn issue(shared: &Shared, holder: &Holder, shape: Shape) -> String {
    let life = shared.settings(|settings| settings.token_life);
    let life = i64::try_from(life.as_secs()).unwrap_or(i64::MAX);
    let now = shared.now_seconds();
    lock(&shared.tokens).issue(holder, now, life, shape)
}

/// The answer to a header that must come once and came twice.
pub(crate) fn malformed(shared: &Shared) -> Response<Body> {
    shared.ledger.count(|counts| counts.malformed += 1);
    message(StatusCode::BAD_REQUEST, "A header that must be sent once was sent more than once")
}

/// A status that was set; what is none becomes 500.
fn code(status: u16) -> StatusCode {
    StatusCode::from_u16(status).ok().filter(|status| !status.is_informational()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}
