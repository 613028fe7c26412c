//! Reads one value from its source.
//!
//! Guarantees: every buffer that held a value is wiped; a [`SourceFault`] holds nothing that a source gave, unless a caller asks
//! for a failed command's standard error; a command and all that it started is killed when its time is over or its reader gives
//! up.

use std::{
    ffi::OsString,
    fs::File,
    io,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::Arc,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    process::{Child, Command},
    sync::Semaphore,
    time::timeout,
};

use super::SourceFault;
use crate::{
    children::{self, OwnChild},
    config::{Source, source::MEANT_FOR_US},
    files::BoundedReads,
    resources::blocking,
    secret::{Pages, Secret},
};

/// The longest value, in bytes.
const VALUE_MAX: usize = 64 * 1024;
/// The bytes that are read at a time; most values are shorter.
const PIECE: usize = 1024;
/// The bytes of a failed command's standard error that are kept.
const STDERR_MAX: usize = 512;
const SOURCE_TIMEOUT: Duration = Duration::from_secs(10);
const OUR_PREFIX: &[u8] = b"CAREPORTALS_";

/// Reads one value, and removes one trailing newline and a byte order mark of a file or a command. It takes 10 s at most;
/// dropping the future kills a command. `readers` limits how many files are read at a time, since a file system that hangs holds
/// a thread.
///
/// # Errors
///
/// The source gives no value, or an empty one; the error says why.
pub async fn read(source: &Source, readers: &Arc<Semaphore>) -> Result<Secret, SourceFault> {
    read_keeping_stderr(source, readers).await.map_err(|fault| match fault {
        SourceFault::CommandFailed { program, status, .. } => SourceFault::CommandFailed { program, status, stderr: None },
        other => other,
    })
}

/// As [`read`], for a caller that shows a failed command's standard error to the user who runs it.
///
/// # Errors
///
/// The source gives no value; the fault says why.
pub async fn read_keeping_stderr(source: &Source, readers: &Arc<Semaphore>) -> Result<Secret, SourceFault> {
    let value = match source {
        Source::Value(value) => Secret::of(value.expose()),
        Source::File(path) => {
            // A file system that hangs must not hold the account for ever.
            let read = timeout(SOURCE_TIMEOUT, read_apart(path.clone(), Arc::clone(readers))).await;
            read.unwrap_or_else(|_| Err(SourceFault::NoAnswer(path.clone())))?
        }
        Source::Command(argv) => {
            let output = timeout(SOURCE_TIMEOUT, run(argv)).await.map_err(|_| SourceFault::TimedOut)??;
            output.trim_ends()
        }
    };
    match source {
        _ if !value.is_empty() => Ok(value),
        Source::File(path) => Err(SourceFault::EmptyFile(path.clone())),
        Source::Value(_) | Source::Command(_) => Err(SourceFault::Empty),
    }
}

/// Reads a file on a thread for blocking work.
async fn read_apart(path: PathBuf, readers: Arc<Semaphore>) -> Result<Secret, SourceFault> {
    // Neither of the two fails: nobody closes the semaphore, and `read_file` does not panic.
    let permit = readers.acquire_owned().await.map_err(|_| SourceFault::TimedOut)?;
    let wanted = path.clone();
    let reading = blocking(move || {
        let _permit = permit;
        read_file(&wanted)
    });
    reading.await.unwrap_or(Err(SourceFault::NoThread(path)))
}

/// Reads a file as [`read_file`] does, and gives up after 10 s, or at once while too many of `readings` hang. It blocks.
///
/// # Errors
///
/// The file can't be read, or gives no answer; the error says why.
pub fn read_file_in_time(path: &Path, readings: &BoundedReads) -> Result<Secret, SourceFault> {
    let wanted = path.to_owned();
    let read = readings.within(SOURCE_TIMEOUT, move || Ok(read_file(&wanted)));
    read.unwrap_or_else(|_| Err(SourceFault::NoAnswer(path.to_owned())))
}

/// Reads a file without its trailing newline and byte order mark; the value may be empty. It blocks.
///
/// # Errors
///
/// The file can't be read, or is too long.
pub fn read_file(path: &Path) -> Result<Secret, SourceFault> {
    let fault = |error: io::Error| SourceFault::of_file(path, &error);
    // Check this before opening it: opening a pipe would wait for its writer.
    if !path.metadata().map_err(fault)?.is_file() {
        return Err(SourceFault::NotAFile(path.to_owned()));
    }
    let value = File::open(path).and_then(|file| Pages::read(file, VALUE_MAX)).map_err(fault)?;
    Ok(Secret::from(value).trim_ends())
}

/// Runs a command and returns its standard output.
async fn run(argv: &[String]) -> Result<Secret, SourceFault> {
    let Some((program, arguments)) = argv.split_first() else {
        return Err(SourceFault::CommandNotRun { program: String::new(), kind: io::ErrorKind::InvalidInput });
    };
    let not_run = |error: io::Error| SourceFault::CommandNotRun { program: program.clone(), kind: error.kind() };
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.process_group(0).kill_on_drop(true);
    for name in our_variables() {
        command.env_remove(name);
    }
    let (child, own) = children::start(|| command.spawn(), Child::id).map_err(not_run)?;
    let mut group = ProcessGroup { leader: child, _own: own };
    let (stdout, stderr) = (group.leader.stdout.take(), group.leader.stderr.take());
    let (stdout, stderr) = tokio::try_join!(collect(stdout, VALUE_MAX), collect(stderr, STDERR_MAX)).map_err(not_run)?;
    let status = group.leader.wait().await.map_err(not_run)?;
    if !status.success() {
        return Err(failed(program, status, &stderr));
    }
    if stdout.more { Err(SourceFault::TooLarge) } else { Ok(stdout.start.into()) }
}

fn failed(program: &str, status: ExitStatus, stderr: &Collected) -> SourceFault {
    let stderr = printable(&stderr.start);
    // What a command says may be a secret, so no other line has it.
    tracing::debug!(program, stderr, "the command failed");
    SourceFault::CommandFailed { program: program.to_owned(), status: status.code(), stderr: Some(stderr) }
}

/// Joins the text into one line without control characters, which a terminal would obey.
fn printable(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let words: Vec<&str> = text.split(|c: char| c.is_control() || c.is_whitespace()).filter(|word| !word.is_empty()).collect();
    words.join(" ")
}

/// The names of our own variables. They may hold secrets, and a command needs none of ours. Only names are read here.
#[expect(clippy::disallowed_methods, reason = "a child inherits the environment unless its names are known")]
fn our_variables() -> impl Iterator<Item = OsString> {
    let is_ours =
        |name: &OsString| name.as_encoded_bytes().starts_with(OUR_PREFIX) || MEANT_FOR_US.iter().any(|known| name == known);
    std::env::vars_os().map(|(name, _)| name).filter(is_ours)
}

/// A command and all that it started. Dropping it before the command's end was seen kills them.
struct ProcessGroup {
    leader: Child,
    /// It is dropped after the leader, which tokio reaps.
    _own: OwnChild,
}

impl Drop for ProcessGroup {
    fn drop(&mut self) {
        // `id` is none once the end was seen, since another process may have the number by then.
        let leader = self.leader.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        if let Some(leader) = leader {
            // It fails only when all of them have ended already.
            let _ = kill_process_group(leader, Signal::KILL);
        }
    }
}

/// The start of a stream. The rest is read and thrown away, so that the writer does not stall.
struct Collected {
    start: Pages,
    more: bool,
}

async fn collect<R: AsyncRead + Unpin>(stream: Option<R>, most: usize) -> io::Result<Collected> {
    let mut collected = Collected { start: Pages::default(), more: false };
    let Some(mut stream) = stream else { return Ok(collected) };
    loop {
        match stream.read(collected.start.spare_capacity_mut(PIECE)).await? {
            0 => return Ok(collected),
            count => collected.start.filled(count),
        }
        collected.more |= collected.start.len() > most;
        collected.start.truncate(most);
    }
}

#[cfg(test)]
mod tests;
