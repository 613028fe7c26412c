//! Landlock (linux/Documentation/userspace-api/landlock.rst): this thread, and those that it starts, can do with files what
//! is allowed here and nothing else. Not with ports: settings that are read later may name others.

use landlock::{
    ABI, Access as _, AccessFs, LandlockStatus, PathBeneath, PathFd, Ruleset, RulesetAttr as _, RulesetCreated,
    RulesetCreatedAttr as _, RulesetError, RulesetStatus, Scope,
};
use tracing::{debug, warn};

use super::{AllowedDirectories, Sandbox};

/// Everything that this version knows is denied; an older kernel denies what it knows of it.
const KNOWN: ABI = ABI::V6;

/// Closes off everything but `directories`. Also gives the version of Landlock that the kernel has.
///
/// # Errors
///
/// Says why the kernel does not.
pub(super) fn enter(directories: AllowedDirectories) -> Result<(Sandbox, i32), String> {
    let denied = || Ruleset::default().handle_access(AccessFs::from_all(KNOWN))?.scope(Scope::from_all(KNOWN))?.create();
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
            // One that is gone by now can't be opened, and is not needed.
            let Ok(opened) = PathFd::new(directory) else { continue };
            rules = rules.add_rule(PathBeneath::new(opened, access))?;
        }
    }
    Ok(rules)
}
