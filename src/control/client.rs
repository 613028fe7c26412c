//! The other end of the control socket: what `status` and its siblings ask, and what they say when nobody answers.
//!
//! Depends on `socket`, `problem` and `ask`. Guarantees: every error says which socket it is about, why that one, and what to do.

use std::{io, time::Duration};

use thiserror::Error;

use super::{
    problem::ControlProblem,
    socket_path::{self, ControlSocketPath, PathReason, SYSTEM},
};
use crate::{
    config::{
        ControlSocket,
        source::{Fault, Setting, ValueOrigin},
    },
    local_http::{self, LocalHttpError, LocalResponse},
};

/// What a running daemon is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControlRequest<'a> {
    /// How it is.
    Status,
    /// To log in: one account, or all.
    LogIn(Option<&'a str>),
    /// To log out: one account, or all.
    LogOut(Option<&'a str>),
    /// To read the settings again.
    Reload,
    /// To drain and end.
    Shutdown,
}

impl ControlRequest<'_> {
    fn method(self) -> &'static str {
        if self == Self::Status { "GET" } else { "POST" }
    }

    fn target(self) -> String {
        let of =
            |path: &str, account: Option<&str>| account.map_or_else(|| path.to_owned(), |name| format!("{path}?account={name}"));
        match self {
            Self::Status => "/status".to_owned(),
            Self::LogIn(account) => of("/login", account),
            Self::LogOut(account) => of("/logout", account),
            Self::Reload => "/reload".to_owned(),
            Self::Shutdown => "/shutdown".to_owned(),
        }
    }

    /// Those that wait for their outcome may take as long as the settings let a log-in take.
    fn patience(self) -> Duration {
        match self {
            Self::LogIn(_) | Self::Reload => Duration::from_secs(10 * 60),
            Self::Status | Self::LogOut(_) | Self::Shutdown => Duration::from_secs(10),
        }
    }
}

/// Why a request did not do what it was made for.
#[derive(Debug, Error)]
pub enum ControlError {
    /// `control_socket = "off"`.
    #[error(
        "the control socket is off ({0}): there is no way to reach the daemon\n  hint: set control_socket (CAREPORTALS_CONTROL_SOCKET) to a path, or unset it, and restart the daemon"
    )]
    Off(ValueOrigin),
    /// No default socket exists here.
    #[error(
        "there is no default socket for a control socket here: no {SYSTEM}, and neither $RUNTIME_DIRECTORY nor $XDG_RUNTIME_DIR is set\n  hint: name the daemon's socket with --control-socket or CAREPORTALS_CONTROL_SOCKET; `control socket` in its log says where it is"
    )]
    NoPlace,
    /// The setting is wrong.
    #[error("{0}")]
    Setting(Fault),
    /// An account's name is made of few letters, and nothing else travels.
    #[error("there is no account {0:?}: names are made of a-z, 0-9 and `-`")]
    Name(String),
    /// Nobody answered.
    #[error("cannot reach the daemon at {}: {error}\n  ({})\n  hint: {}", socket.path.display(), socket.reason, hint(socket, error))]
    Unreachable {
        /// Where it was tried.
        socket: ControlSocketPath,
        /// What happened.
        error: LocalHttpError,
    },
    /// Somebody else answers there.
    #[error("what answers at {} is not a sidecar of ours (status {status})\n  ({})", socket.path.display(), socket.reason)]
    NotOurs {
        /// Where it was tried.
        socket: ControlSocketPath,
        /// Of the answer.
        status: u16,
    },
    /// The daemon says no, or that it failed.
    #[error("{0}")]
    Problem(Box<ControlProblem>),
}

/// Asks the daemon that `socket` leads to; its answer, when it is a yes.
pub fn ask(socket: Setting<ControlSocket>, request: ControlRequest<'_>) -> Result<Vec<u8>, ControlError> {
    if let ControlRequest::LogIn(Some(name)) | ControlRequest::LogOut(Some(name)) = request
        && !is_name(name)
    {
        return Err(ControlError::Name(name.to_owned()));
    }
    let socket = match socket.value.map_err(ControlError::Setting)? {
        ControlSocket::Off => return Err(ControlError::Off(socket.origin)),
        ControlSocket::Path(path) => ControlSocketPath { path, reason: PathReason::Told(socket.origin) },
        ControlSocket::Default(directories) => socket_path::to_ask(&directories).ok_or(ControlError::NoPlace)?,
    };
    let asked = local_http::ask(
        &local_http::LocalEndpoint::Unix(socket.path.clone()),
        request.method(),
        &request.target(),
        request.patience(),
    );
    match asked {
        Ok(answer) => judge(answer, socket),
        Err(error) => Err(ControlError::Unreachable { socket, error }),
    }
}

fn judge(answer: LocalResponse, socket: ControlSocketPath) -> Result<Vec<u8>, ControlError> {
    if matches!(answer.status, 200..300) {
        return Ok(answer.body);
    }
    match serde_json::from_slice(&answer.body) {
        Ok(problem) => Err(ControlError::Problem(Box::new(problem))),
        Err(_) => Err(ControlError::NotOurs { socket, status: answer.status }),
    }
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

fn hint(socket: &ControlSocketPath, error: &LocalHttpError) -> String {
    let elsewhere = "name its socket with --control-socket or CAREPORTALS_CONTROL_SOCKET if it has another";
    match error {
        LocalHttpError::Connect(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            let me = rustix::process::geteuid().as_raw();
            let own = match socket.reason {
                PathReason::System => "; a daemon of your own has its socket under $XDG_RUNTIME_DIR",
                PathReason::Told(_) | PathReason::Service | PathReason::User => "",
            };
            format!(
                "the socket is for root and for the daemon's own user; you are user id {me}. Try sudo, or set control_allow_uids = [{me}] and restart the daemon{own}"
            )
        }
        LocalHttpError::Silent(_) => "it listens but does not answer: it may be stopped or stuck; see its log".to_owned(),
        LocalHttpError::NotHttp => format!("something else listens there; {elsewhere}"),
        LocalHttpError::Connect(_) | LocalHttpError::Cut if matches!(socket.reason, PathReason::Told(_)) => {
            "is the daemon running, and with the same control_socket?".to_owned()
        }
        LocalHttpError::Connect(_) | LocalHttpError::Cut => format!("is the daemon running? Start it with `run`, or {elsewhere}"),
    }
}
