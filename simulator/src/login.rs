//! Answers log-ins and refreshes, and makes them fail as the settings say.
//!
//! It uses the state, tokens and faults. Credentials are read after delay, hold and those faults that do not depend on them.

use std::sync::{Arc, atomic::AtomicU16, atomic::Ordering};

use hyper::{Request, Response, StatusCode};
use serde_json::{Map, Value, json};

use crate::{
    body::RequestBody,
    call::repeated_header,
    connection::ConnectionHandle,
    failure,
    fault::LoginFault,
    record::{LiveLogin, RecordedLogin, header_pairs},
    request::{RepeatedHeader, single_header},
    response::{ResponseBody, json_response, message},
    state::{SimulatorState, wait_while_held},
    sync::lock,
    tokens::{TokenKind, TokenOwner},
};

/// The paths of log-ins: the documented one first, then those observed at other APIs.
pub(crate) const LOGIN_PATHS: [&str; 4] = ["/patient/auth", "/auth/login", "/auth", "/patient/auth/login"];

/// The path at which a refresh token is used.
pub(crate) const REFRESH_PATH: &str = "/auth/refresh";

/// The limit for bodies of log-ins and refreshes, in bytes; no real one comes close.
const MAX_BODY_BYTES: usize = 64 * 1024;

/// Serves one log-in.
pub(crate) async fn log_in(
    state: &Arc<SimulatorState>,
    connection: &ConnectionHandle,
    request: Request<RequestBody>,
) -> Response<ResponseBody> {
    let (head, body) = request.into_parts();
    state.recorder.count(|counts| counts.logins += 1);
    let sent = body.read(MAX_BODY_BYTES).await;
    let sent: Value = sent.and_then(|sent| serde_json::from_slice(&sent).ok()).unwrap_or(Value::Null);
    // A log-in needs no bearer, but two of them are an error here as in every other request.
    let organization = single_header(&head.headers, "authorization").and_then(|_| single_header(&head.headers, "organization"));
    let (user_field, password_field) = state.settings(|settings| settings.login_fields.clone());
    let field = |name: &str| sent.get(name).and_then(Value::as_str).map(str::to_owned);
    let (username, password) = (field(&user_field), field(&password_field));
    let record = Arc::new(LiveLogin {
        login: RecordedLogin {
            organization: organization.unwrap_or_default().unwrap_or_default().to_owned(),
            username: username.clone().unwrap_or_default(),
            path: head.uri.path().to_owned(),
            headers: header_pairs(&head.headers),
            body: sent.clone(),
            status: 0,
        },
        status: AtomicU16::new(0),
    });
    state.recorder.keep_login(Arc::clone(&record));
    let fault = state.take_login_fault();
    tokio::time::sleep(state.settings(|settings| settings.login_delay)).await;
    wait_while_held(&state.logins_held).await;

    let early = match &fault {
        Some(fault) => failure::carry_out(state, connection, fault).await,
        None => None,
    };
    let response = match early {
        Some(response) => response,
        None => match check_credentials(state, organization, &sent, username, password) {
            Ok(owner) => grant(state, &owner, fault.as_ref()),
            Err(refusal) => *refusal,
        },
    };
    record.status.store(response.status().as_u16(), Ordering::Release);
    state.recorder.notify();
    response
}

/// Serves one refresh: it uses up the refresh token and issues a new one along with the token.
pub(crate) async fn refresh(state: &Arc<SimulatorState>, request: Request<RequestBody>) -> Response<ResponseBody> {
    let (head, body) = request.into_parts();
    state.recorder.count(|counts| counts.refreshes += 1);
    let sent = body.read(MAX_BODY_BYTES).await.unwrap_or_default();
    let organization = match single_header(&head.headers, "organization") {
        Ok(Some(organization)) => organization,
        Ok(None) => return message(StatusCode::BAD_REQUEST, "Organization is required"),
        Err(RepeatedHeader) => return repeated_header(state),
    };
    let Ok(sent) = serde_json::from_slice::<Value>(&sent) else {
        return message(StatusCode::BAD_REQUEST, "Unexpected token in JSON");
    };
    let Some(presented) = sent.get("refreshToken").and_then(Value::as_str) else {
        return message(StatusCode::NOT_ACCEPTABLE, "refreshToken should not be empty");
    };
    wait_while_held(&state.logins_held).await;
    let Some(owner) = lock(&state.tokens).redeem(presented, organization) else {
        return message(StatusCode::UNAUTHORIZED, "Unauthorized");
    };
    state.recorder.count(|counts| counts.refresh_ok += 1);
    grant_object(state, &owner, TokenKind::Valid, "token", true)
}

/// Checks a log-in as CarePortals does.
fn check_credentials(
    state: &SimulatorState,
    organization: Result<Option<&str>, RepeatedHeader>,
    sent: &Value,
    username: Option<String>,
    password: Option<String>,
) -> Result<TokenOwner, Box<Response<ResponseBody>>> {
    let refuse = |status, text: &str| Err(Box::new(message(status, text)));
    let organization = match organization {
        Ok(Some(organization)) if !organization.is_empty() => organization.to_owned(),
        Ok(_) => return refuse(StatusCode::BAD_REQUEST, "Organization is required"),
        Err(RepeatedHeader) => return Err(Box::new(repeated_header(state))),
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
    let owner = TokenOwner { organization, username };
    let user = (owner.organization.clone(), owner.username.clone());
    if state.settings(|settings| settings.credentials.get(&user) == Some(&password)) {
        Ok(owner)
    } else {
        refuse(StatusCode::UNAUTHORIZED, "Invalid credentials")
    }
}

/// Answers a log-in whose credentials are right, with a token as the fault wants it.
fn grant(state: &SimulatorState, owner: &TokenOwner, fault: Option<&LoginFault>) -> Response<ResponseBody> {
    let kind = match fault {
        Some(LoginFault::EmptyToken) => return json_response(StatusCode::CREATED, &json!({ "token": "" })),
        Some(LoginFault::NoToken) => {
            return json_response(StatusCode::CREATED, &json!({ "user": owner.username }));
        }
        Some(LoginFault::BadTokenBytes) => {
            let token = "eyJhbGciOiJFUzI1NiJ9.\r\nx-injected: 1 .c2ln";
            return json_response(StatusCode::CREATED, &json!({ "token": token }));
        }
        Some(LoginFault::ExpiredToken) => {
            return grant_object(state, owner, TokenKind::Expired, "token", false);
        }
        Some(LoginFault::NoExp) => TokenKind::NoExp,
        Some(LoginFault::OpaqueToken) => TokenKind::Opaque,
        _ => TokenKind::Valid,
    };
    state.recorder.count(|counts| counts.login_ok += 1);
    match fault {
        Some(LoginFault::BareString) => json_response(StatusCode::CREATED, &Value::String(issue(state, owner, kind))),
        Some(LoginFault::Field(field)) => grant_object(state, owner, kind, field, false),
        Some(LoginFault::WithRefreshToken) => grant_object(state, owner, kind, "token", true),
        _ => grant_object(state, owner, kind, "token", false),
    }
}

/// Answers with a grant as an object, with or without a refresh token.
fn grant_object(
    state: &SimulatorState,
    owner: &TokenOwner,
    kind: TokenKind,
    field: &str,
    with_refresh: bool,
) -> Response<ResponseBody> {
    let mut object = Map::new();
    object.insert(field.to_owned(), issue(state, owner, kind).into());
    if with_refresh {
        let refresh = lock(&state.tokens).issue_refresh(owner);
        object.insert("refreshToken".to_owned(), refresh.into());
    }
    json_response(StatusCode::CREATED, &Value::Object(object))
}

/// Issues a token to `owner` by the simulator's clock.
pub(crate) fn issue(state: &SimulatorState, owner: &TokenOwner, kind: TokenKind) -> String {
    let life = state.settings(|settings| settings.token_life);
    let life = i64::try_from(life.as_secs()).unwrap_or(i64::MAX);
    let now = state.now_seconds();
    lock(&state.tokens).issue(owner, now, life, kind)
}
