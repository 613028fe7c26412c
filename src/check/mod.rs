//! What `check` does beyond reading the settings.
//!
//! `online` connects and logs in, `permissions` looks at the modes of files, `explain` says what becomes of one request. None of them
//! binds anything or prints a secret.

mod explain;
mod online;
mod permissions;

pub use explain::{ExplainError, explain};
pub use online::online;
pub use permissions::open_files;
