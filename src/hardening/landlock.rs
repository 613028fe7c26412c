//! Restricts with Landlock (linux/Documentation/userspace-api/landlock.rst) which files this thread, and the threads that it
//! starts, can open.
//!
//! The kernel then refuses to open a file for reading outside `AllowedDirectories::read`, to open any file for writing, to
//! create, rename or delete one, and to run a program. Below `AllowedDirectories::bind` it lets sockets be created and files
//! be deleted. From Landlock 6 (Linux 6.12) it also refuses signals to processes outside the restriction, and connections to
//! their abstract Unix sockets.
//!
//! It does not refuse everything. Whole directories stay readable, among them all of `/etc`, `/usr` and `/proc`. Below a
//! socket's directory every file can be deleted. Before Landlock 3 (Linux 6.2) `truncate` works on any file that the user may
//! write to. No version covers `chmod`, `chown` or `utime`, or `stat`. TCP ports stay open, since settings that are read
//! later may name others.

use landlock::{
    ABI, Access as _, AccessFs, LandlockStatus, PathBeneath, PathFd, Ruleset, RulesetAttr as _, RulesetCreated,
    RulesetCreatedAttr as _, RulesetError, RulesetStatus, Scope,
};
use tracing::{debug, warn};

use super::{AllowedDirectories, Sandbox};

/// The Landlock version whose rights are all denied unless a rule allows them. An older kernel denies those that it knows.
const NEWEST_ABI: ABI = ABI::V6;

/// Restricts this thread to `directories`. Also returns the version of the kernel's Landlock.
///
/// # Errors
///
/// The kernel has no Landlock, or does not enforce it; the text says why.
pub(super) fn restrict(directories: AllowedDirectories) -> Result<(Sandbox, i32), String> {
    let denied =
        || Ruleset::default().handle_access(AccessFs::from_all(NEWEST_ABI))?.scope(Scope::from_all(NEWEST_ABI))?.create();
    let status = denied()
        .and_then(|rules| allow(rules, &directories))
        .and_then(RulesetCreated::restrict_self)
        .map_err(|error| error.to_string())?;
    if status.ruleset == RulesetStatus::NotEnforced {
        return Err(match status.landlock {
            LandlockStatus::NotEnabled => "this kernel's Landlock is not enabled",
            _ => "this kernel has no Landlock",
        }
        .to_owned());
    }
    let abi = match status.landlock {
        LandlockStatus::Available { effective_abi, kernel_abi } => kernel_abi.unwrap_or(effective_abi as i32),
        _ => 0,
    };
    debug!(?directories, "within reach");
    if directories.read.iter().any(|directory| directory.parent().is_none()) {
        warn!("every file stays readable: a file is to appear in a directory directly below the root that does not exist yet");
    }
    Ok((Sandbox(directories), abi))
}

fn allow(rules: RulesetCreated, directories: &AllowedDirectories) -> Result<RulesetCreated, RulesetError> {
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let bind = AccessFs::MakeSock | AccessFs::RemoveFile;
    let mut rules = rules;
    for (directories, access) in [(&directories.read, read), (&directories.bind, bind)] {
        for directory in directories {
            // A directory that is gone by now can't be opened, and needs no rule.
            let Ok(opened) = PathFd::new(directory) else { continue };
            rules = rules.add_rule(PathBeneath::new(opened, access))?;
        }
    }
    Ok(rules)
}
