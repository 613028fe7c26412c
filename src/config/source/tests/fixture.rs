//! Configurations for the tests of other modules.

use super::*;
use crate::path::LoginPaths;

/// The defaults, with no account, no API, no log-in path and nothing that administrators connect to.
pub(crate) fn config() -> Config {
    let off = [("CAREPORTALS_TELEMETRY_LISTEN", "off"), ("CAREPORTALS_CONTROL_SOCKET", "off")];
    let defaults = sound(load_variables(&with_account(&off)));
    Config { accounts: Vec::new(), apis: Vec::new(), login_paths: LoginPaths::default(), socket_names: Vec::new(), ..defaults }
}

/// The settings of one account and these APIs, as users write them.
#[track_caller]
pub(crate) fn settings(apis: &str) -> Loaded {
    let loaded = account_with(&format!("login_url = \"https://api.example/log-in\"\n{apis}"));
    assert_eq!(faults(&loaded), Vec::<String>::new());
    loaded
}
