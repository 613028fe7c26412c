//! What `check` does beyond reading the settings.
//!
//! `online` connects and logs in, `permissions` looks at the modes of files, `explain` says what becomes of one request,
//! `difference` what a change of rules does. None of them
//! binds anything or prints a secret.

mod difference;
mod explain;
mod online;
mod permissions;

pub use difference::difference;
pub use explain::{ExplainError, explain};
pub use online::online;
pub use permissions::open_files;

#[cfg(test)]
mod tests {
    use crate::config::source::{Input, Loaded, load};

    const ACCOUNT: &str = "[accounts.default]\norganization = { file = \"/o\" }\nusername = { file = \"/u\" }\npassword = { file = \"/p\" }\nlogin_url = \"https://api.example/log-in\"\n";

    /// The settings of one account and these APIs.
    #[track_caller]
    pub(super) fn settings(apis: &str) -> Loaded {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("config.toml");
        std::fs::write(&file, format!("{ACCOUNT}{apis}")).unwrap();
        let (default_file, flags) = ("/nonexistent/config.toml".into(), Vec::new());
        let environment = std::iter::empty::<(&str, &str)>().collect();
        let loaded = load(Input { config_flag: Some(file), default_file, flags, environment, defaults: &[] });
        assert!(loaded.faults.is_empty(), "{:?}", loaded.faults.iter().map(ToString::to_string).collect::<Vec<_>>());
        loaded
    }
}
