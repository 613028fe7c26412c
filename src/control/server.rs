//! The daemon's end of the control socket.
//!
//! Guarantees: the kernel has named the client's user before anything is done; what is done is logged with the user id; the
//! socket's file is gone when the daemon is.

use std::{path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{
    HeaderValue, Request, Response, StatusCode,
    header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE},
};
use http_body_util::Full;
use hyper::body::Incoming;
use serde::Serialize;
use serde_json::json;
use tokio::{sync::watch, task::JoinSet};
use tracing::{error, info, warn};

use super::{
    commands::{Commands, NotReloaded, NotTaken, WAITING_MAX},
    problem::Refused,
    routes::ControlRequest,
    socket_path,
};
use crate::{
    account::{Account, LogInFailed},
    config::{Config, ControlSocket, RuntimeDirectories},
    server::{
        Acceptor, AnswerKind, BindError, Bound, ConnectionLimit, ConnectionLimits, Peer, RequestService, SocketAccess, bind_unix,
    },
    status::{AccountDocument, Detail, Phase, StatusReader},
};

/// A control socket that is bound. Its file goes when this does.
pub struct ControlListener {
    bound: Bound,
    allow_uids: Vec<u32>,
}

impl ControlListener {
    /// Opens the socket that the settings name, or the default one. `Ok(None)`: there is none, which the log says.
    ///
    /// # Errors
    ///
    /// Where the settings name one that can't be had. A default one that can't be had is done without.
    pub fn open(config: &Config) -> Result<Option<Self>, BindError> {
        match &config.restart_only.control_socket {
            ControlSocket::Off => Ok(None),
            ControlSocket::Path(path) => Self::bind(path, config).map(Some).map_err(|error| error.of_setting("control_socket")),
            ControlSocket::Default(directories) => Ok(Self::open_default(directories, config)),
        }
    }

    fn bind(path: &Path, config: &Config) -> Result<Self, BindError> {
        let mode = if config.restart_only.control_allow_uids.is_empty() { FOR_US } else { FOR_OTHERS_TOO };
        let access = SocketAccess::new(mode, None).expect("only a group's name may be unknown");
        let bound = bind_unix(path, access)?;
        info!(socket = %path.display(), "control socket");
        Ok(Self { bound, allow_uids: config.restart_only.control_allow_uids.clone() })
    }

    /// Nobody asked for it, so nothing fails for want of it.
    fn open_default(directories: &RuntimeDirectories, config: &Config) -> Option<Self> {
        let Some(found) = socket_path::for_daemon(directories) else {
            info!("no control socket: there is no directory for one; control_socket names one");
            return None;
        };
        let socket = found.path.display();
        if let Err(error) = found.make_directory() {
            warn!(%socket, error = %error.kind(), "no control socket: its directory can't be made");
            return None;
        }
        match Self::bind(&found.path, config) {
            Ok(listener) => Some(listener),
            Err(error) if error.is_answered() => {
                info!(%socket, "no control socket: another daemon answers there; control_socket names one of our own");
                None
            }
            Err(error) => {
                warn!(%socket, "no control socket: {error}");
                None
            }
        }
    }

    /// Its file.
    #[must_use]
    pub fn file(&self) -> Option<&Path> {
        self.bound.file()
    }

    /// Serves within `connection_limit` until `closing` turns true, then finishes what is under way.
    pub async fn serve(
        self,
        status: StatusReader,
        commands: Commands,
        connection_limit: ConnectionLimit,
        closing: watch::Receiver<bool>,
    ) {
        let own_uid = rustix::process::geteuid().as_raw();
        let control = Arc::new(Control { status, commands, own_uid, allow_uids: self.allow_uids });
        // The original stays here: the file goes when nobody is answered any more.
        let acceptor = self.bound.try_clone().and_then(|bound| Acceptor::new(bound, connection_limit));
        let acceptor = match acceptor {
            Ok(acceptor) => acceptor,
            Err(cause) => return error!(socket = self.bound.name, error = %cause, "the control socket can't be served"),
        };
        acceptor.run_alone(control, closing).await;
    }
}

const FOR_US: u32 = 0o600;
/// Then the kernel lets everybody connect, and who asks decides: a file's mode knows no list of users.
const FOR_OTHERS_TOO: u32 = 0o666;

/// Connections at a time: clients that wait for reloads, log-outs and log-ins, and as many others.
pub const CONNECTIONS: usize = 4 * WAITING_MAX;

const LIMITS: ConnectionLimits = ConnectionLimits {
    head_bytes: 8 * 1024,
    head_lines: 64,
    head_timeout: Duration::from_secs(5),
    client_idle: Duration::from_secs(60),
    client_stall: Duration::from_secs(10),
};

struct Control {
    status: StatusReader,
    commands: Commands,
    own_uid: u32,
    allow_uids: Vec<u32>,
}

type Answer = Response<Full<Bytes>>;

impl RequestService for Control {
    type Body = Full<Bytes>;

    async fn answer(self: Arc<Self>, request: Request<Incoming>, peer: Peer) -> Answer {
        let (method, uri) = (request.method(), request.uri());
        let asked = if may_ask(peer.uid(), self.own_uid, &self.allow_uids) {
            ControlRequest::parse(method, uri.path(), uri.query())
        } else {
            Err(Refused::Caller(peer.uid()))
        };
        let done = match asked {
            Ok(asked) => self.carry_out(asked, &peer).await,
            Err(refused) => Err(refused),
        };
        let mut answer = done.unwrap_or_else(|refused| problem(refused, &peer));
        answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        answer
    }

    fn kind(answer: &Answer) -> AnswerKind {
        if answer.status() == StatusCode::FORBIDDEN { AnswerKind::CallerRefused } else { AnswerKind::Own }
    }

    fn lets_in(&self, peer: &Peer) -> bool {
        may_ask(peer.uid(), self.own_uid, &self.allow_uids)
    }

    fn limits(&self) -> ConnectionLimits {
        LIMITS
    }
}

impl Control {
    async fn carry_out(&self, asked: ControlRequest<'_>, peer: &Peer) -> Result<Answer, Refused> {
        if asked != ControlRequest::Status {
            info!(action = asked.name(), uid = peer.uid(), pid = peer.pid(), "asked over the control socket");
        }
        match asked {
            ControlRequest::Status => Ok(document(StatusCode::OK, &self.status.document(Detail::Full))),
            ControlRequest::LogIn(only) => self.log_in(only).await,
            ControlRequest::LogOut(only) => self.log_out(only).await,
            ControlRequest::Reload => self.reload().await,
            ControlRequest::Shutdown => {
                self.commands.shut_down();
                Ok(document(StatusCode::ACCEPTED, &json!({ "phase": Phase::Draining })))
            }
        }
    }

    /// The accounts that are meant; all of them log in, and there is one at least.
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

    /// All at once: one server that is slow should not keep the others from theirs.
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

    /// How these accounts are now.
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

/// `asking`: by the kernel's word; without it nobody is answered.
fn may_ask(asking: Option<u32>, own: u32, allowed: &[u32]) -> bool {
    asking.is_some_and(|uid| uid == 0 || uid == own || allowed.contains(&uid))
}

#[derive(Serialize)]
struct Accounts {
    now: String,
    accounts: Vec<AccountDocument>,
}

fn document(status: StatusCode, document: &impl Serialize) -> Answer {
    answer(status, "application/json", document)
}

fn problem(refused: Refused, peer: &Peer) -> Answer {
    let (allowed, is_stranger) = (refused.allowed(), matches!(refused, Refused::Caller(_)));
    let problem = refused.problem();
    let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut answer = answer(status, "application/problem+json", &problem);
    if let Some(methods) = allowed {
        answer.headers_mut().insert(ALLOW, HeaderValue::from_static(methods));
    }
    if is_stranger {
        warn!(uid = peer.uid(), pid = peer.pid(), "refused at the control socket: this user may not");
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
            assert_eq!(may_ask(asking, 1000, allowed), expected, "{asking:?} {allowed:?}");
        }
    }
}
