//! What `check` does beyond reading the settings.
//!
//! `online` connects and logs in, `permissions` looks at the modes of files, `explain` says what becomes of one request,
//! `difference` what a change of rules does. None of them binds anything, or prints a secret of its own (`online`).

mod difference;
mod explain;
mod online;
mod permissions;

pub use difference::difference;
pub use explain::{ExplainError, explain};
pub use online::online;
pub use permissions::open_files;
