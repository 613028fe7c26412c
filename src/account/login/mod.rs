//! Performs one log-in: it reads the sources, and returns a [`Grant`] or a classified [`LoginError`].
//!
//! Guarantees: a log-in uses a connection of its own, never the data path's; bodies with secrets live in buffers that are
//! wiped; no text that the server says, its `message` included, is kept or logged; redirects are never followed.

mod wait;

use std::{
    io,
    pin::Pin,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body::Body as _;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use tokio::time::timeout;

use super::{
    answer::{self, LoginAnswer},
    credentials::{LoginCredentials, Secrets, Sources},
    failure::{LoginError, Malformed, Unreachable},
    token::{Grant, Refresh},
};
use crate::{
    careportals::{ORGANIZATION_HEADER, REFRESH_REQUEST_FIELD},
    clock::{Clock, Moment, Now},
    config::{Endpoint, Login},
    connect::Connector,
    secret::{Pages, Secret},
    sources::SourceFault,
    upstream,
};

use wait::{date, retry_after};

pub use wait::read_wait;

/// The longest answer that is read, in bytes.
const ANSWER_MAX: usize = 64 * 1024;

/// Statuses of the client's that say nothing of the credentials, and that another attempt may cure (RFC 9110, 15.5.9 and
/// 15.5.20; RFC 8470, 5.2).
const TRANSIENT: [StatusCode; 3] = [StatusCode::REQUEST_TIMEOUT, StatusCode::MISDIRECTED_REQUEST, StatusCode::TOO_EARLY];

/// How the driver gets a token. Tests script it.
pub(super) trait LogIn: Send + Sync + 'static {
    /// Starts a log-in. `refresh` is the refresh token that an earlier one left.
    fn log_in(&self, refresh: Option<Refresh>) -> LoggingIn;
}

/// A log-in in flight; dropping it gives it up.
pub(super) type LoggingIn = Pin<Box<dyn Future<Output = Progress> + Send>>;

/// How far a log-in has come. It connects only after its owner has taken the organization and polls the rest.
pub(super) enum Progress {
    /// It has read the organization, and goes on with `rest`. This may come twice. `None`: the source gives one that no header
    /// can hold, so it is another one than that of any token.
    OrganizationRead {
        organization: Option<HeaderValue>,
        rest: LoggingIn,
    },
    Ended(Result<Grant, LoginError>),
}

/// How a log-in ends, for callers that hold no token which another organization would end.
pub(super) async fn outcome(mut log_in: LoggingIn) -> Result<Grant, LoginError> {
    loop {
        match log_in.await {
            Progress::OrganizationRead { rest, .. } => log_in = rest,
            Progress::Ended(outcome) => return outcome,
        }
    }
}

/// The connections that an account may make.
#[derive(Clone)]
pub struct LoginConnectors {
    /// Connects to the origin of `login_url`.
    pub login: Connector,
    /// Connects to the origin of `refresh_url`, when there is one.
    pub refresh: Option<Connector>,
}

/// The log-in over HTTP.
#[derive(Clone)]
pub(super) struct HttpLogIn {
    pub(super) sources: Sources,
    pub(super) connectors: LoginConnectors,
    pub(super) clock: Arc<dyn Clock>,
}

impl LogIn for HttpLogIn {
    fn log_in(&self, refresh: Option<Refresh>) -> LoggingIn {
        let this = self.clone();
        let Some(timeout) = self.sources.login().map(|login| login.timeout) else {
            // An account without log-in has no driver that calls this.
            return Box::pin(async { Progress::Ended(Err(LoginError::Malformed(Malformed::NoToken))) });
        };
        match refresh.filter(|_| self.connectors.refresh.is_some()) {
            Some(refresh) => Box::pin(this.begin_refresh(refresh, timeout)),
            None => Box::pin(this.begin_login(timeout)),
        }
    }
}

impl HttpLogIn {
    /// Reads the organization for a refresh. `limit`: how long the servers may take; sources have limits of their own.
    async fn begin_refresh(self, refresh: Refresh, limit: Duration) -> Progress {
        match self.sources.organization().await {
            Ok(organization) if organization == refresh.organization => {
                let rest = Box::pin(self.refresh(refresh.token, organization.clone(), limit));
                Progress::OrganizationRead { organization: Some(organization), rest }
            }
            // A refresh token is good for its own organization only.
            _ => self.begin_login(limit).await,
        }
    }

    /// Exchanges the refresh token, or else logs in with the credentials in the time that is left.
    async fn refresh(self, refresh: Arc<Secret>, organization: HeaderValue, limit: Duration) -> Progress {
        let Some(login) = self.sources.login() else { return self.begin_login(limit).await };
        let began = crate::clock::instant();
        if let (Some(endpoint), Some(connector)) = (&login.refresh_url, &self.connectors.refresh) {
            let body = body(|out| write_refresh(out, &refresh));
            let request = request(login, endpoint, connector, &organization, body);
            // The refresh gets half of the time, so that a log-in still fits after it.
            let tried = timeout(login.timeout / 2, self.exchange(login, connector, request, organization)).await;
            match tried {
                // When the server sends no new refresh token, the old one stays in use (RFC 6749, 6).
                Ok(Ok(grant)) => {
                    let kept = || Secret::of(refresh.expose());
                    return Progress::Ended(Ok(Grant { refresh: grant.refresh.or_else(|| Some(kept())), ..grant }));
                }
                // A server that asks for fewer log-ins must not get another one.
                Ok(Err(error)) if matches!(error, LoginError::Throttled(_)) || error.retry_after().is_some() => {
                    return Progress::Ended(Err(error));
                }
                Ok(Err(error)) => tracing::debug!(reason = error.code(), "refresh failed, logging in instead"),
                Err(_) => tracing::debug!(reason = LoginError::TimedOut.code(), "refresh failed, logging in instead"),
            }
        }
        self.begin_login(limit.saturating_sub(began.elapsed())).await
    }

    /// Reads the sources for a log-in, and tells the organization as soon as it is known.
    async fn begin_login(self, remaining: Duration) -> Progress {
        let (organization, secrets) = self.sources.organization_first().await;
        match organization {
            Ok(organization) => {
                let rest = Box::pin(self.finish_login(organization.clone(), secrets, remaining));
                Progress::OrganizationRead { organization: Some(organization), rest }
            }
            Err(error) => {
                let cant_be_sent = matches!(error.fault, SourceFault::NotAHeader(_));
                let end = Box::pin(async move {
                    // The rest is read to its end even so: the watch compares with what each gave.
                    drop(secrets.await);
                    Progress::Ended(Err(error.into()))
                });
                if cant_be_sent { Progress::OrganizationRead { organization: None, rest: end } } else { end.await }
            }
        }
    }

    async fn finish_login(self, organization: HeaderValue, secrets: Secrets, remaining: Duration) -> Progress {
        Progress::Ended(match secrets.await {
            Ok(credentials) => self.send_login(organization, credentials, remaining).await,
            Err(error) => Err(error.into()),
        })
    }

    async fn send_login(
        &self,
        organization: HeaderValue,
        credentials: LoginCredentials,
        remaining: Duration,
    ) -> Result<Grant, LoginError> {
        let login = self.sources.login().ok_or(LoginError::Malformed(Malformed::NoToken))?;
        let connector = &self.connectors.login;
        let body = body(|out| write_login(out, login, &credentials));
        drop(credentials);
        let request = request(login, &login.url, connector, &organization, body);
        let exchange = self.exchange(login, connector, request, organization);
        timeout(remaining, exchange).await.map_err(|_| LoginError::TimedOut)?
    }

    async fn exchange(
        &self,
        login: &Login,
        connector: &Connector,
        request: Request<Full<Bytes>>,
        organization: HeaderValue,
    ) -> Result<Grant, LoginError> {
        let now = || (self.clock.now().moment, crate::clock::instant());
        let (mut asked, mut began) = now();
        let sent = upstream::send_once(connector, request, || (asked, began) = now()).await;
        let response = sent.map_err(|error| LoginError::Unreachable(Unreachable::NoAnswer(error)))?;
        let server_date = date(response.headers());
        let received = as_of_date(self.clock.now(), server_date, asked, began.elapsed());
        classify(&response, server_date.unwrap_or(received.wall))?;
        let body = collect(response.into_body()).await?;
        let LoginAnswer { token, refresh } =
            answer::read(&body, login.token_pointer.as_deref()).map_err(LoginError::Malformed)?;
        Ok(Grant { token, refresh, organization, server_date, asked, received })
    }
}

/// How long an answer is taken to have been on its way at most, where our clock does not tell.
const ON_ITS_WAY: Duration = Duration::from_secs(1);

/// By how much clocks may differ that agree: by the seconds that machines are usually off, and since `Date` is of whole seconds.
const AGREEMENT: Duration = Duration::from_secs(30);

/// Our clocks when the server wrote its `Date`, as far as we can tell: the answer came at `now`, and was `asked` for. `awake`: the
/// time between the two without suspends of the machine, through all of which the answer may have waited. A server may also have held
/// it back for long: by our wall clock that shows, if the clocks agree.
fn as_of_date(now: Now, date: Option<SystemTime>, asked: Moment, awake: Duration) -> Now {
    let since = now.moment.since(asked);
    let age = date.and_then(|date| now.wall.duration_since(date).ok());
    let held_back = age.filter(|age| *age <= since + AGREEMENT).unwrap_or_default();
    let on_its_way = since.min(held_back.max(ON_ITS_WAY + since.saturating_sub(awake)));
    Now { moment: now.moment - on_its_way, wall: now.wall.checked_sub(on_its_way).unwrap_or(now.wall) }
}

fn request(
    login: &Login,
    endpoint: &Endpoint,
    connector: &Connector,
    organization: &HeaderValue,
    body: Bytes,
) -> Request<Full<Bytes>> {
    let mut headers = HeaderMap::new();
    headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
    headers.insert(header::USER_AGENT, HeaderValue::from_static(concat!("careportals-sidecar/", env!("CARGO_PKG_VERSION"))));
    for name in login.headers.keys() {
        headers.remove(name);
    }
    for (name, value) in &login.headers {
        headers.append(name, value.clone());
    }
    // These come last: settings can't change them.
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(HeaderName::from_static(ORGANIZATION_HEADER), organization.clone());
    // An authority that was parsed from a URL is a legal value.
    if let Ok(host) = HeaderValue::from_str(&connector.origin().authority()) {
        headers.insert(header::HOST, host);
    }
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = Uri::from(endpoint.target.clone());
    *request.headers_mut() = headers;
    request
}

/// Sorts an answer by its status: a success, or one of the errors.
fn classify(response: &Response<Incoming>, server_now: SystemTime) -> Result<(), LoginError> {
    let status = response.status();
    if status.is_success() {
        Ok(())
    } else if status == StatusCode::TOO_MANY_REQUESTS {
        Err(LoginError::Throttled(retry_after(response.headers(), server_now)))
    } else if status.is_server_error() || TRANSIENT.contains(&status) {
        let retry_after =
            if status == StatusCode::SERVICE_UNAVAILABLE { retry_after(response.headers(), server_now) } else { None };
        Err(LoginError::Unreachable(Unreachable::ServerFailed { status, retry_after }))
    } else if status.is_redirection() || status.is_client_error() {
        Err(LoginError::Refused(status))
    } else {
        Err(LoginError::Malformed(Malformed::Status))
    }
}

async fn collect(mut body: Incoming) -> Result<Pages, LoginError> {
    let too_large = LoginError::Malformed(Malformed::TooLarge);
    let expected = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    if expected > ANSWER_MAX {
        return Err(too_large);
    }
    let mut bytes = Pages::with_capacity(expected);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| LoginError::Unreachable(Unreachable::Cut))?;
        let Ok(piece) = frame.into_data() else { continue };
        if bytes.len() + piece.len() > ANSWER_MAX {
            return Err(too_large);
        }
        bytes.extend(&piece);
    }
    Ok(bytes)
}

/// Makes a body that is wiped when the last reference to it goes.
fn body(write: impl Fn(&mut Pages) -> io::Result<()>) -> Bytes {
    let mut pages = Pages::default();
    // Writing text as JSON into memory does not fail.
    let _ = write(&mut pages);
    Bytes::from_owner(pages)
}

fn write_login(out: &mut Pages, login: &Login, credentials: &LoginCredentials) -> io::Result<()> {
    out.extend(b"{");
    write_member(out, &login.username_field, &credentials.username)?;
    out.extend(b",");
    write_member(out, &login.password_field, &credentials.password)?;
    for (name, value) in &login.extra {
        out.extend(b",");
        serde_json::to_writer(&mut *out, name)?;
        out.extend(b":");
        serde_json::to_writer(&mut *out, value)?;
    }
    out.extend(b"}");
    Ok(())
}

fn write_refresh(out: &mut Pages, refresh: &Secret) -> io::Result<()> {
    out.extend(b"{");
    write_member(out, REFRESH_REQUEST_FIELD, refresh)?;
    out.extend(b"}");
    Ok(())
}

fn write_member(out: &mut Pages, name: &str, value: &Secret) -> io::Result<()> {
    serde_json::to_writer(&mut *out, name)?;
    out.extend(b":");
    // `Sources` lets only text through, and the refresh token came out of JSON.
    serde_json::to_writer(&mut *out, value.expose_str().unwrap_or_default())?;
    Ok(())
}

#[cfg(test)]
mod tests;
