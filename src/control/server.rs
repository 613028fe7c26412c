//! Serves the control socket.
//!
//! Guarantees: no request is carried out before the kernel has named the client's user; each request that changes something is
//! logged with that user's id; the socket's file is removed when the listener is dropped.

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http::{
    HeaderValue, Request, Response, StatusCode,
    header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE},
};
use http_body_util::Full;
use serde::Serialize;
use serde_json::json;
use tokio::{sync::watch, task::JoinSet, time::Instant};
use tracing::{error, info, warn};

use super::{
    commands::{Commands, NotReloaded, NotTaken, WAITING_MAX},
    problem::Refused,
    routes::{ControlRequest, RulesDocument},
    socket_path,
};
use crate::{
    account::{Account, LogInFailed},
    clock,
    config::{Config, ControlSocket, RuntimeDirectories},
    server::{
        Acceptor, AnswerKind, BindError, Bound, ConnectionBalancer, ConnectionLimit, ConnectionLimits, DirectoryAccess, Peer,
        RequestBody, RequestService, SocketAccess, bind_unix, is_one_user,
    },
    status::{AccountDocument, ApiView, Detail, Phase, StatusReader},
};

/// A bound control socket. Dropping it removes its file.
pub struct ControlListener {
    bound: Bound,
    allow_uids: Vec<u32>,
}

/// What came of opening a control socket.
pub enum OpenedControl {
    /// It is bound.
    Bound(ControlListener),
    /// No default place is free: why, for the log.
    NoPlace(String),
    /// The settings switch it off, or the default place is of no use, which was logged.
    Off,
}

impl OpenedControl {
    /// The socket's file.
    #[must_use]
    pub fn file(&self) -> Option<&Path> {
        if let Self::Bound(listener) = self { listener.bound.file() } else { None }
    }

    /// The socket, or why there is none, for the log; `None` when there is nothing more to say.
    #[must_use]
    pub fn told(&self) -> Option<String> {
        match self {
            Self::Bound(_) => self.file().map(|path| path.display().to_string()),
            Self::NoPlace(why) => Some(why.clone()),
            Self::Off => None,
        }
    }
}

impl ControlListener {
    /// Binds the socket that the settings name, or the default one.
    ///
    /// # Errors
    ///
    /// The socket that the settings name can't be bound. A default one that can't be bound is no error: the daemon serves
    /// without a control socket.
    pub fn open(config: &Config) -> Result<OpenedControl, BindError> {
        match &config.restart_only.control_socket {
            ControlSocket::Off => Ok(OpenedControl::Off),
            ControlSocket::Path(path) => {
                if DirectoryAccess::of(path).is_ok_and(|access| access == DirectoryAccess::Sticky) {
                    let socket = path.display();
                    warn!(%socket, "everybody may write to the socket's directory, so another program can come first");
                }
                Self::bind(path, config).map(OpenedControl::Bound)
            }
            ControlSocket::Default(directories) => Ok(Self::open_default(directories, config)),
        }
    }

    fn bind(path: &Path, config: &Config) -> Result<Self, BindError> {
        let allow_uids = config.restart_only.control_allow_uids.clone();
        let access = SocketAccess::new(mode(&allow_uids), None).expect("only a group's name may be unknown");
        let bound = bind_unix(path, access).map_err(|error| error.of_setting("control_socket"))?;
        Ok(Self { bound, allow_uids })
    }

    /// Binds the socket at its default place. The settings did not ask for it, so a failure is logged and not returned.
    fn open_default(directories: &RuntimeDirectories, config: &Config) -> OpenedControl {
        let Some(found) = socket_path::for_daemon(directories) else {
            return OpenedControl::NoPlace(format!("none: {}; control_socket names one", socket_path::why_none(directories)));
        };
        let socket = found.path.display();
        if let Err(error) = found.make_directory() {
            warn!(%socket, error = %error.kind(), "no control socket: its directory can't be made");
            return OpenedControl::Off;
        }
        if DirectoryAccess::of_own(&found.path).is_ok_and(|access| access == DirectoryAccess::Open) {
            warn!(%socket, "no control socket: everybody may write to its directory, so another program can take its place");
            return OpenedControl::Off;
        }
        match Self::bind(&found.path, config) {
            Ok(listener) => OpenedControl::Bound(listener),
            Err(error) if error.is_answered() => {
                OpenedControl::NoPlace(format!("none: another daemon answers at {socket}; control_socket names one of our own"))
            }
            Err(error) => {
                warn!(%socket, "no control socket: {error}");
                OpenedControl::Off
            }
        }
    }

    /// Serves within `connection_limit` until `closing` turns true, then finishes the requests in flight.
    pub async fn serve(
        self,
        status: StatusReader,
        commands: Commands,
        connection_limit: ConnectionLimit,
        closing: watch::Receiver<bool>,
    ) {
        let own_uid = rustix::process::geteuid().as_raw();
        let control =
            Arc::new(Control { status, commands, own_uid, allow_uids: self.allow_uids, stranger_told: Mutex::default() });
        // `self.bound` outlives the acceptor's clone, so the file is removed after the last answer.
        let acceptor =
            self.bound.try_clone().and_then(|bound| Acceptor::new(bound, connection_limit, ConnectionBalancer::default()));
        let acceptor = match acceptor {
            Ok(acceptor) => acceptor,
            Err(cause) => return error!(socket = self.bound.name, error = %cause, "the control socket can't be served"),
        };
        acceptor.run_alone(control, closing).await;
    }
}

/// The mode of a socket for the daemon's own user and root.
const FOR_US: u32 = 0o600;
/// The mode of a socket with `control_allow_uids`. A mode can't hold a list of users, so the kernel lets everybody connect, and
/// each request is judged by the client's user id.
const FOR_OTHERS_TOO: u32 = 0o666;

/// The limit of connections. It leaves room for `status` while clients wait for reloads, log-outs and log-ins.
pub const CONNECTIONS: usize = 4 * WAITING_MAX;

/// The shortest time between two lines about users who may not ask.
const STRANGERS_TOLD_EVERY: Duration = Duration::from_secs(1);

const LIMITS: ConnectionLimits = ConnectionLimits {
    head_bytes: 8 * 1024,
    head_lines: 64,
    head_timeout: Duration::from_secs(5),
    client_idle: Duration::from_secs(60),
    client_stall: Duration::from_secs(10),
    streams: None,
};

struct Control {
    status: StatusReader,
    commands: Commands,
    own_uid: u32,
    allow_uids: Vec<u32>,
    /// When a user who may not ask was logged last.
    stranger_told: Mutex<Option<Instant>>,
}

type Answer = Response<Full<Bytes>>;

impl RequestService for Control {
    type Body = Full<Bytes>;

    async fn answer(self: Arc<Self>, request: Request<RequestBody>, peer: Peer) -> Answer {
        let (method, uri) = (request.method(), request.uri());
        let asked = if self.lets_in(&peer) {
            ControlRequest::parse(method, uri.path(), uri.query())
        } else {
            self.tell_of_stranger(&peer);
            Err(Refused::Caller(peer.uid()))
        };
        let done = match asked {
            Ok(asked) => self.carry_out(asked, &peer).await,
            Err(refused) => Err(refused),
        };
        let mut answer = done.unwrap_or_else(problem);
        answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        answer
    }

    fn kind(answer: &Answer) -> AnswerKind {
        if answer.status() == StatusCode::FORBIDDEN { AnswerKind::CallerRefused } else { AnswerKind::Own }
    }

    fn lets_in(&self, peer: &Peer) -> bool {
        may_ask(peer.uid(), is_one_user, self.own_uid, &self.allow_uids)
    }

    fn limits(&self) -> ConnectionLimits {
        LIMITS
    }
}

impl Control {
    /// Logs a user who may not ask, once in [`STRANGERS_TOLD_EVERY`] at most: it may ask as often as it likes.
    fn tell_of_stranger(&self, peer: &Peer) {
        let now = clock::instant();
        let mut told = self.stranger_told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.is_none_or(|before| now.duration_since(before) >= STRANGERS_TOLD_EVERY) {
            *told = Some(now);
            warn!(uid = peer.uid(), pid = peer.pid(), "refused at the control socket: this user may not");
        }
    }

    async fn carry_out(&self, asked: ControlRequest<'_>, peer: &Peer) -> Result<Answer, Refused> {
        if !asked.only_reads() {
            info!(action = asked.name(), uid = peer.uid(), pid = peer.pid(), "asked over the control socket");
        }
        match asked {
            ControlRequest::Status => Ok(document(StatusCode::OK, &self.status.document(Detail::Full))),
            ControlRequest::Rules(only) => self.rules(only),
            ControlRequest::LogIn(only) => self.log_in(only).await,
            ControlRequest::LogOut(only) => self.log_out(only).await,
            ControlRequest::Reload => self.reload().await,
            ControlRequest::Shutdown => {
                self.commands.shut_down();
                Ok(document(StatusCode::ACCEPTED, &json!({ "phase": Phase::Draining, "pid": std::process::id() })))
            }
        }
    }

    /// The rules for what the API `only`, or the only one that observes, has seen.
    fn rules(&self, only: Option<&str>) -> Result<Answer, Refused> {
        let view = Arc::clone(&self.status.view.borrow());
        let named: Vec<&ApiView> = view.apis.iter().filter(|api| only.is_none_or(|name| api.name == name)).collect();
        if named.is_empty() {
            return Err(Refused::NoApi);
        }
        let observing: Vec<&ApiView> = named.into_iter().filter(|api| api.observe).collect();
        let [api] = observing[..] else {
            return Err(if observing.is_empty() { Refused::NotObserving } else { Refused::SeveralObserve });
        };
        let seen = api.observed.proposed();
        let proposal =
            RulesDocument { api: api.name.clone(), allow: seen.rules(), full: seen.is_full(), left_out: seen.left_out() };
        Ok(document(StatusCode::OK, &proposal))
    }

    /// Returns the account of this name, or all accounts, without those that do not log in. There is at least one, or an error.
    fn meant(&self, only: Option<&str>) -> Result<Vec<Account>, Refused> {
        let view = Arc::clone(&self.status.view.borrow());
        let named: Vec<&Account> = view.accounts.iter().filter(|known| only.is_none_or(|name| known.name() == name)).collect();
        if named.is_empty() {
            return Err(Refused::NoAccount);
        }
        let meant: Vec<Account> = named.into_iter().filter(|account| account.snapshot().state().is_some()).cloned().collect();
        if meant.is_empty() { Err(Refused::NoLogin) } else { Ok(meant) }
    }

    fn check_running(&self) -> Result<(), Refused> {
        match *self.status.phase.borrow() {
            Phase::Starting | Phase::Running => Ok(()),
            Phase::Draining | Phase::Stopped => Err(Refused::Stopping),
        }
    }

    /// Logs in to all meant accounts at the same time, so that a slow server delays no other account.
    async fn log_in(&self, only: Option<&str>) -> Result<Answer, Refused> {
        self.check_running()?;
        let meant = self.meant(only)?;
        let mut under_way = JoinSet::new();
        for (place, account) in meant.iter().cloned().enumerate() {
            under_way.spawn(async move { (place, account.log_in().await) });
        }
        let mut outcomes = under_way.join_all().await;
        outcomes.sort_by_key(|(place, _)| *place);
        let failed = |(place, outcome): (usize, Result<(), LogInFailed>)| Some((meant[place].name().to_owned(), outcome.err()?));
        let failures: Vec<_> = outcomes.into_iter().filter_map(failed).collect();
        if failures.is_empty() { Ok(self.done(&meant)) } else { Err(Refused::LogIn(failures, meant.len())) }
    }

    async fn log_out(&self, only: Option<&str>) -> Result<Answer, Refused> {
        let meant = self.meant(only)?;
        let outcome = self.commands.log_out(only).map_err(not_taken)?;
        outcome.await.map_err(|_| Refused::Stopping)?;
        Ok(self.done(&meant))
    }

    async fn reload(&self) -> Result<Answer, Refused> {
        self.check_running()?;
        let outcome = self.commands.reload().map_err(not_taken)?;
        match outcome.await.map_err(|_| Refused::Stopping)? {
            Ok(()) => Ok(document(StatusCode::OK, &json!({ "reloaded": true }))),
            Err(NotReloaded(reasons)) => Err(Refused::NotReloaded(reasons)),
        }
    }

    /// Makes the answer that shows these accounts as they are now.
    fn done(&self, accounts: &[Account]) -> Answer {
        let status = self.status.document(Detail::Full);
        let is_meant = |account: &AccountDocument| accounts.iter().any(|meant| meant.name() == account.name);
        let accounts = status.accounts.into_iter().filter(is_meant).collect();
        document(StatusCode::OK, &Accounts { now: status.now, accounts })
    }
}

fn not_taken(reason: NotTaken) -> Refused {
    match reason {
        NotTaken::Ended => Refused::Stopping,
        NotTaken::Busy => Refused::Busy,
    }
}

/// Whether a client's user may send requests. `asking`: the user id that the kernel reports; a client without one may not.
/// `is_one_user`: whether an id stands for one user.
fn may_ask(asking: Option<u32>, is_one_user: impl FnOnce(u32) -> bool, own: u32, allowed: &[u32]) -> bool {
    let Some(uid) = asking else { return false };
    // By its mode the kernel has let nobody else connect, whatever number it shows here.
    let is_own_by_mode = uid == own && mode(allowed) == FOR_US;
    is_own_by_mode || ((uid == 0 || uid == own || allowed.contains(&uid)) && is_one_user(uid))
}

/// The mode of the socket's file.
fn mode(allow_uids: &[u32]) -> u32 {
    if allow_uids.is_empty() { FOR_US } else { FOR_OTHERS_TOO }
}

#[derive(Serialize)]
struct Accounts {
    now: String,
    accounts: Vec<AccountDocument>,
}

fn document(status: StatusCode, document: &impl Serialize) -> Answer {
    answer(status, "application/json", document)
}

fn problem(refused: Refused) -> Answer {
    let allowed = refused.allowed();
    let problem = refused.problem();
    let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut answer = answer(status, "application/problem+json", &problem);
    if let Some(methods) = allowed {
        answer.headers_mut().insert(ALLOW, HeaderValue::from_static(methods));
    }
    answer
}

fn answer(status: StatusCode, kind: &'static str, document: &impl Serialize) -> Answer {
    let mut document = serde_json::to_vec(document).expect("names, texts and numbers always have a JSON form");
    document.push(b'\n');
    let mut answer = Response::new(Full::new(Bytes::from(document)));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_daemons_own_user_root_and_those_allowed_are_answered() {
        for (asking, allowed, expected) in [
            (Some(1000), &[][..], true),
            (Some(0), &[], true),
            (Some(1001), &[], false),
            (Some(1001), &[1001], true),
            (Some(1002), &[1001], false),
            (None, &[], false),
            (None, &[1001], false),
        ] {
            assert_eq!(may_ask(asking, |_| true, 1000, allowed), expected, "{asking:?} {allowed:?}");
        }
    }

    #[test]
    fn who_may_be_anybody_is_taken_for_the_daemons_own_user_only_where_the_kernel_lets_nobody_else_connect() {
        const ANYBODY: u32 = 65_534;
        for (asking, own, allowed, expected) in [
            (ANYBODY, ANYBODY, &[][..], true),
            (ANYBODY, ANYBODY, &[1001], false),
            (ANYBODY, 1000, &[ANYBODY], false),
            (ANYBODY, 1000, &[], false),
            (1001, ANYBODY, &[1001], true),
            (0, ANYBODY, &[1001], true),
        ] {
            let judged = may_ask(Some(asking), |uid| uid != ANYBODY, own, allowed);
            assert_eq!(judged, expected, "{asking} asks {own}, who allows {allowed:?}");
        }
    }
}
