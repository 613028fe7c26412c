//! Settings for the tests of other folders.

use std::time::Duration;

use super::{Config, ControlSocket, Egress, Hardening, Log, LogFormat, Tls};
use crate::path::LoginPaths;

/// Nothing but defaults: no account, no API, no log-in path.
pub(crate) fn config() -> Config {
    Config {
        accounts: Vec::new(),
        apis: Vec::new(),
        login_paths: LoginPaths::default(),
        workers: None,
        log: Log { filter: "info".to_owned(), format: LogFormat::Auto, access: true },
        telemetry_listen: None,
        quitquitquit: false,
        control_socket: ControlSocket::Off,
        control_allow_uids: Vec::new(),
        drain_delay: Duration::ZERO,
        drain_timeout: Duration::from_secs(25),
        hardening: Hardening::Auto,
        tls: Tls::default(),
        egress: Egress::default(),
        socket_names: Vec::new(),
    }
}
