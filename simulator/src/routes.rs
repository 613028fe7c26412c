//! From a request to its answer: what every call needs (organization, bearer), and which part of
//! the simulator answers it.

use std::sync::Arc;

use hyper::{HeaderMap, Method, Request, Response, StatusCode, Version, header::AUTHORIZATION, http::request::Parts};

use crate::{
    answer::{Body, Received, message},
    awkward,
    line::Line,
    login::{self, malformed},
    portal,
    state::{Shared, released},
    sync::lock,
    tokens::Refused,
};

/// A call that is admitted, with what its answer may depend on.
pub(crate) struct Call {
    pub(crate) shared: Arc<Shared>,
    pub(crate) line: Arc<Line>,
    /// Empty for the few calls that need none.
    pub(crate) organization: String,
    /// Empty for the few calls that need none.
    pub(crate) bearer: String,
}

/// Whether this is a log-in or a refresh, which are counted apart.
pub(crate) fn is_log_in(head: &Parts) -> bool {
    let path = head.uri.path();
    head.method == Method::POST && (login::LOGIN_PATHS.contains(&path) || path == login::REFRESH_PATH)
}

/// Serves a log-in or a refresh.
pub(crate) async fn log_in(shared: &Arc<Shared>, line: &Line, request: Request<Received>) -> Response<Body> {
    if request.uri().path() == login::REFRESH_PATH {
        login::refresh(shared, request).await
    } else {
        login::log_in(shared, line, request).await
    }
}

/// Serves every other call.
pub(crate) async fn serve(shared: &Arc<Shared>, line: &Arc<Line>, request: Request<Received>) -> Response<Body> {
    let route = route(&request);
    shared.ledger.count(|counts| {
        counts.requests += 1;
        counts.requests_http2 += u64::from(request.version() == Version::HTTP_2);
        *counts.by_route.entry(route.to_string()).or_default() += 1;
    });
    let latency = shared.settings(|settings| settings.latency);
    if !latency.is_zero() {
        tokio::time::sleep(latency).await;
    }
    released(&shared.requests_held).await;
    let response = match admit(shared, line, &request, &route) {
        Ok(call) => match route {
            Route::Portal(_, call_of) => portal::answer(&call, call_of, request).await,
            Route::Awkward(name) => awkward::answer(call, name, request).await,
            Route::Other => {
                // Read, so that the connection can be used again.
                let _ = request.into_body().read(portal::LONGEST_BODY).await;
                message(StatusCode::NOT_FOUND, "Not Found")
            }
        },
        Err(refusal) => {
            // It is refused at once, but read to its end: closing on unread bytes would take the answer along.
            tokio::spawn(request.into_body().read(portal::LONGEST_BODY));
            *refusal
        }
    };
    if response.status() == StatusCode::UNAUTHORIZED {
        shared.ledger.count(|counts| counts.unauthorized += 1);
    }
    response
}

/// Who answers.
enum Route {
    /// A known call, with the name it is counted under.
    Portal(&'static str, portal::Known),
    /// An awkward one, by its name under `/_sim/`.
    Awkward(String),
    Other,
}

impl std::fmt::Display for Route {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Portal(name, _) => f.write_str(name),
            Self::Awkward(name) => write!(f, "/_sim/{name}"),
            Self::Other => f.write_str("other"),
        }
    }
}

fn route<B>(request: &Request<B>) -> Route {
    let path = request.uri().path();
    if let Some(rest) = path.strip_prefix("/_sim/") {
        let name = rest.split('/').next().unwrap_or_default();
        if awkward::NAMES.contains(&name) {
            return Route::Awkward(name.to_owned());
        }
    }
    match portal::known(request.method(), path) {
        Some((name, known)) => Route::Portal(name, known),
        None => Route::Other,
    }
}

/// Lets a call in when it has one organization and one good bearer of it.
fn admit(
    shared: &Arc<Shared>,
    line: &Arc<Line>,
    request: &Request<Received>,
    route: &Route,
) -> Result<Call, Box<Response<Body>>> {
    let refuse = |status, text: &str| Box::new(message(status, text));
    let headers = request.headers();
    let organization = single(headers, "organization").map_err(|()| Box::new(malformed(shared)))?;
    let bearer = single(headers, AUTHORIZATION.as_str()).map_err(|()| Box::new(malformed(shared)))?;
    let organization = organization
        .filter(|organization| !organization.is_empty())
        .ok_or_else(|| refuse(StatusCode::BAD_REQUEST, "Organization is required"))?;
    let mut call =
        Call { shared: Arc::clone(shared), line: Arc::clone(line), organization: organization.to_owned(), bearer: String::new() };
    if matches!(route, Route::Portal(_, portal::Known::Products)) {
        // Storefront: the organization alone is enough.
        return if shared.knows_organization(organization) {
            Ok(call)
        } else {
            Err(refuse(StatusCode::NOT_FOUND, "Organization not found"))
        };
    }
    let unauthorized = |text| refuse(StatusCode::UNAUTHORIZED, text);
    let (scheme, token) = bearer.and_then(|bearer| bearer.split_once(' ')).ok_or_else(|| unauthorized("No auth token"))?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(unauthorized("No auth token"));
    }
    let now = shared.now_seconds();
    lock(&shared.tokens).judge(token, organization, now).map_err(|refused| {
        unauthorized(match refused {
            Refused::Unknown => "invalid token",
            Refused::Expired => "jwt expired",
            Refused::Revoked => "jwt revoked",
            Refused::OtherOrganization => "Unauthorized",
        })
    })?;
    token.clone_into(&mut call.bearer);
    Ok(call)
}

/// The value of a header that may come once; `Err` when it came more often.
pub(crate) fn single<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, ()> {
    let mut values = headers.get_all(name).iter();
    let first = values.next();
    if values.next().is_some() {
        return Err(());
    }
    // A value that is no text matches no organization and no token.
    Ok(first.map(|value| value.to_str().unwrap_or("\u{fffd}")))
}

/// The status a request asks for; one that is none, or not final, is `default`.
pub(crate) fn wanted_status<B>(request: &Request<B>, default: StatusCode) -> StatusCode {
    query(request, "status")
        .and_then(|status| StatusCode::from_bytes(status.as_bytes()).ok())
        .filter(|status| !status.is_informational())
        .unwrap_or(default)
}

/// A query parameter, decoded.
pub(crate) fn query<B>(request: &Request<B>, name: &str) -> Option<String> {
    let query = request.uri().query()?;
    let (_, value) = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, ""))).find(|(known, _)| *known == name)?;
    Some(decoded(value))
}

/// A query parameter that is a number; `default` when it is missing or none.
pub(crate) fn number<B>(request: &Request<B>, name: &str, default: u64) -> u64 {
    query(request, name).and_then(|value| value.parse().ok()).unwrap_or(default)
}

fn decoded(value: &str) -> String {
    let mut bytes = value.bytes();
    let mut plain = Vec::with_capacity(value.len());
    while let Some(byte) = bytes.next() {
        let mut rest = bytes.clone();
        let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
        match (byte, digit(rest.next()), digit(rest.next())) {
            (b'%', Some(high), Some(low)) => {
                plain.push(u8::try_from(high * 16 + low).unwrap_or_default());
                bytes = rest;
            }
            (b'+', ..) => plain.push(b' '),
            (byte, ..) => plain.push(byte),
        }
    }
    String::from_utf8_lossy(&plain).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn query_parameters_are_found_and_decoded() {
        let request = Request::get("/x?a=1&keyword=ana%40example.test+x%2&b").body(()).unwrap();
        assert_eq!(query(&request, "keyword").as_deref(), Some("ana@example.test x%2"));
        assert_eq!(query(&request, "b").as_deref(), Some(""));
        assert_eq!(query(&request, "c"), None);
        assert_eq!((number(&request, "a", 5), number(&request, "b", 5)), (1, 5));
    }

    #[test]
    fn log_ins_are_told_by_method_and_path() {
        let is =
            |method: &str, path: &str| is_log_in(&Request::builder().method(method).uri(path).body(()).unwrap().into_parts().0);
        assert!(is("POST", "/patient/auth") && is("POST", "/auth/refresh"));
        assert!(!is("GET", "/patient/auth") && !is("POST", "/auth/forgot"));
    }
}
