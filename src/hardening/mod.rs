//! What the process gives up before it serves: core dumps, debuggers, new privileges, and all files but those that it needs.
//!
//! Depends on `config` and `secret`. Belongs after every socket is bound and before there is a second thread: a thread has
//! what the one had that started it. Guarantees: each step is logged once; with `required` a step that can't be taken is an
//! error, and one that does not apply is not missing.

mod directories;
#[cfg(target_os = "linux")]
mod landlock;

use std::fmt;

use tracing::{info, warn};

pub use self::directories::{AllowedDirectories, Outside, Sandbox};
use crate::{config::Hardening, secret::Pages};

/// A step that can't be taken here, and must be.
#[derive(Debug)]
pub struct Missing {
    step: &'static str,
    reason: String,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { step, reason } = self;
        write!(f, "hardening = \"required\", and this step can't be taken here: {step}: {reason}")?;
        f.write_str("\n  hint: lift what is in its way, or set hardening = \"auto\" to start without it")
    }
}

impl std::error::Error for Missing {}

/// What a step comes to.
enum Outcome {
    /// With the version of what the kernel has for it, if that matters.
    Taken(Option<i32>),
    /// There is no use for it.
    Needless(&'static str),
    Missing(String),
}

/// Takes every step. `directories`: what must stay within reach, or why nothing can be closed off. The sandbox, once it
/// is closed, says what may be asked of it later.
pub fn harden(level: Hardening, directories: Result<AllowedDirectories, &'static str>) -> Result<Option<Sandbox>, Missing> {
    if level == Hardening::Off {
        info!("hardening is off");
        return Ok(None);
    }
    settle(level, CORE_DUMPS, of(no_core_dumps()))?;
    settle(level, NOT_DUMPABLE, of(not_dumpable()))?;
    settle(level, PRIVILEGES, of(no_new_privileges()))?;
    settle(level, MEMORY_LOCKED, of(Pages::probe(LOCKED_MIN)))?;
    let (sandbox, outcome) = match directories.map(enter) {
        Ok(Ok((sandbox, abi))) => (Some(sandbox), Outcome::Taken(Some(abi))),
        Ok(Err(reason)) => (None, Outcome::Missing(reason)),
        Err(needless) => (None, Outcome::Needless(needless)),
    };
    settle(level, LANDLOCK, outcome)?;
    Ok(sandbox)
}

/// What can be given up around a program that somebody else runs: nothing that it would inherit.
pub fn harden_around_a_program(level: Hardening) -> Result<(), Missing> {
    if level == Hardening::Off {
        return Ok(());
    }
    settle(level, NOT_DUMPABLE, of(not_dumpable()))?;
    settle(level, MEMORY_LOCKED, of(Pages::probe(LOCKED_MIN)))
}

fn of(done: std::io::Result<()>) -> Outcome {
    done.map_or_else(|error| Outcome::Missing(error.to_string()), |()| Outcome::Taken(None))
}

fn settle(level: Hardening, step: &'static str, outcome: Outcome) -> Result<(), Missing> {
    match outcome {
        Outcome::Taken(abi) => info!(step, abi, "hardened"),
        Outcome::Needless(reason) => info!(step, reason, "this hardening step does not apply"),
        Outcome::Missing(reason) if level == Hardening::Required => return Err(Missing { step, reason }),
        Outcome::Missing(reason) => warn!(step, reason, "this hardening step can't be taken here"),
    }
    Ok(())
}

/// For good: the hard limit goes too.
fn no_core_dumps() -> std::io::Result<()> {
    use rustix::process::{Resource, Rlimit, setrlimit};
    Ok(setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?)
}

/// No dump even where dumps go through a pipe, whatever the limit; and no other process of this user may attach, or read
/// memory, environment and open files.
#[cfg(target_os = "linux")]
fn not_dumpable() -> std::io::Result<()> {
    use rustix::process::{DumpableBehavior, set_dumpable_behavior};
    Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}

/// Whatever is run has no more rights than we have, set-uid programs included.
#[cfg(target_os = "linux")]
fn no_new_privileges() -> std::io::Result<()> {
    Ok(rustix::thread::set_no_new_privs(true)?)
}

#[cfg(target_os = "linux")]
fn enter(directories: AllowedDirectories) -> Result<(Sandbox, i32), String> {
    landlock::enter(directories)
}

#[cfg(not(target_os = "linux"))]
fn not_dumpable() -> std::io::Result<()> {
    Err(std::io::ErrorKind::Unsupported.into())
}

#[cfg(not(target_os = "linux"))]
fn no_new_privileges() -> std::io::Result<()> {
    Err(std::io::ErrorKind::Unsupported.into())
}

#[cfg(not(target_os = "linux"))]
fn enter(_: AllowedDirectories) -> Result<(Sandbox, i32), String> {
    Err("this system has no Landlock".to_owned())
}

const CORE_DUMPS: &str = "no core dumps";
const NOT_DUMPABLE: &str = "not dumpable";
const PRIVILEGES: &str = "no new privileges";
const MEMORY_LOCKED: &str = "memory locked";
const LANDLOCK: &str = "Landlock";

/// Of locked memory, so much must be had: some pages for each secret of a few accounts. Half of what containers often allow,
/// as values that stand in the settings are locked by then.
const LOCKED_MIN: usize = 32 * 1024;
