//! Sends the requests of `status`, `rules`, `login`, `logout`, `reload` and `shutdown` to the daemon's control socket.
//!
//! Guarantees: an error names the socket, says why it is that one, and what to do.

use std::io;

use thiserror::Error;

use super::{
    problem::ControlProblem,
    routes::ControlRequest,
    socket_path::{self, ControlSocketPath, PathReason, SYSTEM_DIRECTORY},
};
use crate::{
    config::{
        ControlSocket,
        source::{Fault, Setting, ValueOrigin},
    },
    local_http::{self, LocalHttpError, LocalResponse},
};

/// Why the daemon did not do what was requested.
#[derive(Debug, Error)]
pub enum ControlError {
    /// The settings say `control_socket = "off"`.
    #[error(
        "the control socket is off ({0}): there is no way to reach the daemon\n  hint: set control_socket (CAREPORTALS_CONTROL_SOCKET) to a path, or unset it, and restart the daemon"
    )]
    Off(ValueOrigin),
    /// No setting names a socket, and this machine has none of the default directories.
    #[error(
        "there is no default place for a control socket here: no {SYSTEM_DIRECTORY}, and neither $RUNTIME_DIRECTORY nor $XDG_RUNTIME_DIR is set\n  hint: name the daemon's socket with --control-socket or CAREPORTALS_CONTROL_SOCKET; `control` of `health and metrics` in its log, or of `control socket` where telemetry is off, says where it is"
    )]
    NoDefaultPath,
    /// The setting `control_socket` is wrong.
    #[error("{0}")]
    Setting(Fault),
    /// The name can't be that of an account or an API. Such a name is never sent, so it needs no escaping.
    #[error("there is no {0} {1:?}: names are made of a-z, 0-9 and `-`")]
    Name(&'static str, String),
    /// The socket could not be reached, or gave no answer.
    #[error("cannot reach the daemon at {}: {error}\n  ({})\n  hint: {}", socket.path.display(), socket.reason, hint(socket, error))]
    Unreachable {
        /// The socket that was tried.
        socket: ControlSocketPath,
        error: LocalHttpError,
    },
    /// Another program answers there.
    #[error("what answers at {} is not a sidecar of ours (status {status})\n  ({})", socket.path.display(), socket.reason)]
    NotOurs {
        /// The socket that was tried.
        socket: ControlSocketPath,
        /// The HTTP status of its answer.
        status: u16,
    },
    /// The daemon refused, or it failed to do it.
    #[error("{0}")]
    Problem(Box<ControlProblem>),
}

impl ControlError {
    /// Whether no daemon was reached, which may still run.
    #[must_use]
    pub const fn is_unreached(&self) -> bool {
        matches!(self, Self::Off(_) | Self::NoDefaultPath | Self::Unreachable { .. })
    }
}

/// Sends `request` to the daemon that `socket` leads to, and returns the body of its answer when that has a 2xx status. It
/// blocks until the answer is there: ten seconds at most, ten minutes for `login` and `reload`.
///
/// # Errors
///
/// The daemon was not reached, or it did not do it; see [`ControlError`].
pub fn send(socket: Setting<ControlSocket>, request: ControlRequest<'_>) -> Result<Vec<u8>, ControlError> {
    if let Some((what, name)) = request.named().filter(|(_, name)| !is_name(name)) {
        return Err(ControlError::Name(what, name.to_owned()));
    }
    let socket = match socket.value.map_err(ControlError::Setting)? {
        ControlSocket::Off => return Err(ControlError::Off(socket.origin)),
        ControlSocket::Path(path) => ControlSocketPath { path, reason: PathReason::Configured(socket.origin) },
        ControlSocket::Default(directories) => socket_path::for_client(&directories).ok_or(ControlError::NoDefaultPath)?,
    };
    let answer = local_http::request(
        &local_http::LocalEndpoint::Unix(socket.path.clone()),
        request.method(),
        &request.target(),
        request.time_limit(),
    );
    match answer {
        Ok(answer) => success_body(answer, socket),
        Err(error) => Err(ControlError::Unreachable { socket, error }),
    }
}

fn success_body(answer: LocalResponse, socket: ControlSocketPath) -> Result<Vec<u8>, ControlError> {
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
                PathReason::Configured(_) | PathReason::Service | PathReason::User => "",
            };
            format!(
                "the socket is for root and for the daemon's own user; you are user id {me}. Try sudo, or set control_allow_uids = [{me}] and restart the daemon{own}"
            )
        }
        LocalHttpError::Silent(_) => "it listens but does not answer: it may be stopped or stuck; see its log".to_owned(),
        LocalHttpError::NotHttp => format!("something else listens there; {elsewhere}"),
        LocalHttpError::Connect(_) | LocalHttpError::Cut if matches!(socket.reason, PathReason::Configured(_)) => {
            "is the daemon running, and with the same control_socket?".to_owned()
        }
        LocalHttpError::Connect(_) | LocalHttpError::Cut => format!("is the daemon running? Start it with `run`, or {elsewhere}"),
    }
}
