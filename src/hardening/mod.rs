//! Takes away from the process, before it serves, what it does not need: core dumps, debuggers, new privileges, and with
//! Landlock most of the file system. Secrets get locked memory.
//!
//! The caller runs it after every socket is bound and before there is a second thread, because a new thread inherits the
//! limits of the thread that starts it. Guarantees: one log line tells all steps. With `hardening = "required"` a step that can't
//! be taken is an error; a step that does not apply is no error.
//!
//! What Landlock restricts and what it leaves open stands in `landlock`. Around a program of `exec`, and where a source runs
//! a `command`, there is no Landlock at all.

mod directories;
#[cfg(target_os = "linux")]
mod landlock;

use tracing::{info, warn};

pub use self::directories::{AllowedDirectories, OutsideSandbox, Sandbox};
use crate::{config::Hardening, secret::Pages};

/// The names of the steps in the log.
const CORE_DUMPS: &str = "no core dumps";
const NOT_DUMPABLE: &str = "not dumpable";
const PRIVILEGES: &str = "no_new_privs";
const MEMORY_LOCKED: &str = "memory locked";
const LANDLOCK: &str = "Landlock";

/// Pages that the process must be able to lock: some for the secrets of a few accounts, each of which takes one at least. With
/// pages of 4 KiB they are half of what containers often allow, because secrets that the settings hold are locked before this
/// check.
const LOCKED_MIN: usize = 8;

/// A required step that can't be taken here.
#[derive(Debug, thiserror::Error)]
#[error("hardening = \"required\", and this step can't be taken here: {step}: {reason}")]
pub struct MissingStep {
    step: &'static str,
    reason: String,
}

impl MissingStep {
    /// What to do about it.
    pub const HINT: &str = "lift what is in its way, or set hardening = \"auto\" to start without it";
}

/// What came of one step.
enum StepOutcome {
    /// The step was taken; with the version of the kernel's Landlock, if the step is that one.
    Taken(Option<i32>),
    /// The step does not apply here, for this reason.
    NotApplicable(&'static str),
    /// The step can't be taken, for this reason.
    Impossible(String),
}

/// Takes every step that `level` asks for, for good: no step can be undone. `directories` holds the directories that stay
/// accessible, or the reason why Landlock does not apply. The returned sandbox, if Landlock is in force, tells whether
/// settings that are read later stay within these directories.
///
/// # Errors
///
/// `level` is `required`, and a step that applies can't be taken.
pub fn harden(level: Hardening, directories: Result<AllowedDirectories, &'static str>) -> Result<Option<Sandbox>, MissingStep> {
    if level == Hardening::Off {
        info!("hardening is off");
        return Ok(None);
    }
    let mut steps = Steps::new(level);
    steps.note(CORE_DUMPS, outcome_of(no_core_dumps()))?;
    steps.note(NOT_DUMPABLE, outcome_of(not_dumpable()))?;
    steps.note(PRIVILEGES, outcome_of(no_new_privileges()))?;
    steps.note(MEMORY_LOCKED, locked_memory())?;
    let (sandbox, outcome) = match directories.map(restrict) {
        Ok(Ok((sandbox, abi))) => (Some(sandbox), StepOutcome::Taken(Some(abi))),
        Ok(Err(reason)) => (None, StepOutcome::Impossible(reason)),
        Err(reason) => (None, StepOutcome::NotApplicable(reason)),
    };
    steps.note(LANDLOCK, outcome)?;
    steps.log();
    Ok(sandbox)
}

/// Takes only the steps that a program which `exec` starts does not inherit.
///
/// # Errors
///
/// `level` is `required`, and one of these steps can't be taken.
pub fn harden_around_a_program(level: Hardening) -> Result<(), MissingStep> {
    if level == Hardening::Off {
        return Ok(());
    }
    let mut steps = Steps::new(level);
    steps.note(NOT_DUMPABLE, outcome_of(not_dumpable()))?;
    steps.note(MEMORY_LOCKED, locked_memory())?;
    steps.log();
    Ok(())
}

fn locked_memory() -> StepOutcome {
    Pages::probe(LOCKED_MIN).map_or_else(
        |error| StepOutcome::Impossible(format!("{error}; the limit is too low (`ulimit -l`; systemd: LimitMEMLOCK=)")),
        |()| StepOutcome::Taken(None),
    )
}

fn outcome_of(done: std::io::Result<()>) -> StepOutcome {
    done.map_or_else(|error| StepOutcome::Impossible(error.to_string()), |()| StepOutcome::Taken(None))
}

/// What came of each step so far, for one line of the log.
struct Steps {
    level: Hardening,
    taken: Vec<String>,
    not_applicable: Vec<String>,
    missing: Vec<String>,
}

impl Steps {
    fn new(level: Hardening) -> Self {
        Self { level, taken: Vec::new(), not_applicable: Vec::new(), missing: Vec::new() }
    }

    /// Notes a step. It fails when the step is missing and required.
    fn note(&mut self, step: &'static str, outcome: StepOutcome) -> Result<(), MissingStep> {
        match outcome {
            StepOutcome::Taken(Some(abi)) => self.taken.push(format!("{step} (ABI {abi})")),
            StepOutcome::Taken(None) => self.taken.push(step.to_owned()),
            StepOutcome::NotApplicable(reason) => self.not_applicable.push(format!("{step}: {reason}")),
            StepOutcome::Impossible(reason) if self.level == Hardening::Required => return Err(MissingStep { step, reason }),
            StepOutcome::Impossible(reason) => self.missing.push(format!("{step}: {reason}")),
        }
        Ok(())
    }

    fn log(&self) {
        let steps = self.taken.join(", ");
        let [not_applicable, missing] =
            [&self.not_applicable, &self.missing].map(|steps| (!steps.is_empty()).then(|| steps.join("; ")));
        if missing.is_none() {
            info!(steps, not_applicable, "hardened");
        } else {
            warn!(steps, not_applicable, missing, "hardened, but for steps that can't be taken here");
        }
    }
}

/// Forbids core files, by the hard limit too.
fn no_core_dumps() -> std::io::Result<()> {
    use rustix::process::{Resource, Rlimit, setrlimit};
    Ok(setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?)
}

/// Prevents dumps where the kernel pipes them to a program, which ignores the limit on core files. Other processes of this
/// user can't attach to this one either, nor read its memory, environment and open files.
#[cfg(target_os = "linux")]
fn not_dumpable() -> std::io::Result<()> {
    use rustix::process::{DumpableBehavior, set_dumpable_behavior};
    Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}

/// Keeps every program that we run from getting more rights than we have, set-uid programs included.
#[cfg(target_os = "linux")]
fn no_new_privileges() -> std::io::Result<()> {
    Ok(rustix::thread::set_no_new_privs(true)?)
}

#[cfg(target_os = "linux")]
fn restrict(directories: AllowedDirectories) -> Result<(Sandbox, i32), String> {
    landlock::restrict(directories)
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
fn restrict(_: AllowedDirectories) -> Result<(Sandbox, i32), String> {
    Err("this system has no Landlock".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is noted of a step: taken, not applicable, missing; or why the start fails.
    fn noted(level: Hardening, outcome: StepOutcome) -> Result<[Vec<String>; 3], String> {
        let mut steps = Steps::new(level);
        steps.note("step", outcome).map_err(|missing| missing.to_string())?;
        Ok([steps.taken, steps.not_applicable, steps.missing])
    }

    fn one(text: &str) -> Vec<String> {
        vec![text.to_owned()]
    }

    #[test]
    fn each_outcome_of_a_step_is_told_in_its_place_and_only_a_required_one_must_be_taken() {
        for level in [Hardening::Auto, Hardening::Required] {
            assert_eq!(noted(level, StepOutcome::Taken(None)).unwrap(), [one("step"), vec![], vec![]]);
            assert_eq!(noted(level, StepOutcome::Taken(Some(3))).unwrap(), [one("step (ABI 3)"), vec![], vec![]]);
            assert_eq!(noted(level, StepOutcome::NotApplicable("why")).unwrap(), [vec![], one("step: why"), vec![]]);
        }
        let impossible = || StepOutcome::Impossible("why".to_owned());
        assert_eq!(noted(Hardening::Auto, impossible()).unwrap(), [vec![], vec![], one("step: why")]);
        let said = noted(Hardening::Required, impossible()).unwrap_err();
        assert!(said.starts_with("hardening = \"required\", and this step can't be taken here: step: why"), "{said}");
    }

    #[test]
    fn a_failure_of_the_system_is_an_impossible_step_with_its_reason() {
        assert!(matches!(outcome_of(Ok(())), StepOutcome::Taken(None)));
        let failed = outcome_of(Err(std::io::Error::other("no")));
        assert!(matches!(failed, StepOutcome::Impossible(reason) if reason == "no"));
    }
}
