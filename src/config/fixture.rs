//! Configurations for the tests of other modules.

use std::time::Duration;

use super::{
    Config, ControlSocket, Egress, Hardening, Log, LogFormat, Reloadable, RestartOnly, Tls,
    source::{Input, Loaded, load},
};
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

const ACCOUNT: &str = r#"
[accounts.default]
organization = { file = "/o" }
username = { file = "/u" }
password = { file = "/p" }
login_url = "https://api.example/log-in"
"#;

/// The settings of one account and these APIs, as users write them.
#[track_caller]
pub(crate) fn settings(apis: &str) -> Loaded {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("config.toml");
    std::fs::write(&file, format!("{ACCOUNT}{apis}")).unwrap();
    let (default_file, flags) = ("/nonexistent/config.toml".into(), Vec::new());
    let environment = std::iter::empty::<(&str, &str)>().collect();
    let loaded =
        load(Input { config_flag: Some(file), default_file, needs_default_file: false, flags, environment, defaults: &[] });
    assert!(loaded.faults.is_empty(), "{:?}", loaded.faults.iter().map(ToString::to_string).collect::<Vec<_>>());
    loaded
}
