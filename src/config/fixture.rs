//! A configuration for the tests of other modules.

use std::time::Duration;

use super::{Config, ControlSocket, Egress, Hardening, Log, LogFormat, Reloadable, RestartOnly, Tls};
use crate::path::LoginPaths;

/// The defaults, with no account, no API and no log-in path.
pub(crate) fn config() -> Config {
    Config {
        accounts: Vec::new(),
        apis: Vec::new(),
        login_paths: LoginPaths::default(),
        restart_only: RestartOnly {
            workers: None,
            log_format: LogFormat::Auto,
            telemetry_listen: None,
            quitquitquit: false,
            control_socket: ControlSocket::Off,
            control_allow_uids: Vec::new(),
            hardening: Hardening::Auto,
        },
        reloadable: Reloadable {
            log: Log { filter: "info".to_owned(), format: LogFormat::Auto, access: true },
            drain_delay: Duration::ZERO,
            drain_timeout: Duration::from_secs(25),
        },
        tls: Tls::default(),
        egress: Egress::default(),
        socket_names: Vec::new(),
    }
}
