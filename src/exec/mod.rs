//! `exec`: the daemon around one program.
//!
//! Depends on everything below `cli`. The daemon serves in this process; the program is a child in a group of its own.
//! Guarantees: the program is started once every account that logs in has a token, without any variable that holds a
//! secret; signals reach it once and never end us before it; it is served until it has ended; nothing of its group is
//! left when we are gone, unless we are killed by SIGKILL.
//!
//! Files, each using only those before it: `environment` (pure), `group` (processes), `terminal`, `supervisor`.

mod environment;
mod group;
mod supervisor;
mod terminal;

use std::{ffi::OsString, fmt, io, process::Command, sync::Arc, time::Duration};

use tokio::sync::mpsc;
use tracing::warn;

use crate::{
    account::AccountStatus,
    app::{App, StartError},
    clock::SystemClock,
    config::{Config, source::Environment},
    control,
    logging::AccessLog,
    process::{CaughtSignals, adopt_orphans},
};
use supervisor::{Outcome, Supervisor};
use terminal::Terminal;

/// What to run, and how.
#[derive(Debug)]
pub struct Program {
    /// The program and its arguments; one word at least.
    pub words: Vec<OsString>,
    /// How long a token may take; zero: the program is started at once, and its calls wait for themselves.
    pub wait: Duration,
    /// Variables that it must not have.
    pub secret_variables: Vec<OsString>,
}

/// Defaults that differ from the daemon's: a free port, nothing else that listens, and only what is wrong is said.
pub const DEFAULTS: &[(&str, &str)] =
    &[("listen", "[\"127.0.0.1:0\"]"), ("telemetry_listen", "\"off\""), ("control_socket", "\"off\""), ("log", "\"warn\"")];

/// Why the program was not run to its end.
#[derive(Debug)]
pub enum ExecError {
    /// The daemon could not start, or failed while the program ran.
    Daemon(StartError),
    /// Accounts had no token in time: name and status of each.
    NoToken(Duration, Vec<(String, AccountStatus)>),
    /// The program could not be started.
    NotStarted(OsString, io::Error),
    /// The daemon was told to stop before the program was started.
    Stopped,
    /// The system refuses a thread or the like.
    System(io::Error),
}

impl ExecError {
    /// As a shell has it for a program that is not there (127) or can't be run (126).
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::NotStarted(_, error) if error.kind() == io::ErrorKind::NotFound => 127,
            Self::NotStarted(..) => 126,
            Self::Daemon(error) if error.is_configuration() => 78,
            Self::Daemon(_) | Self::NoToken(..) | Self::Stopped | Self::System(_) => 1,
        }
    }
}

impl fmt::Display for ExecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Daemon(error) => error.fmt(f),
            Self::NoToken(wait, accounts) => {
                write!(f, "no token within {}, so the program was not started", in_words(*wait))?;
                for (name, status) in accounts {
                    write!(f, "\n  account `{name}`")?;
                    if let Some(state) = status.state {
                        write!(f, " ({})", state.as_str())?;
                    }
                    match &status.last_error {
                        Some(error) => write!(f, ": {error}")?,
                        None => f.write_str(": no answer to the log-in yet")?,
                    }
                }
                Ok(())
            }
            Self::NotStarted(program, error) if error.kind() == io::ErrorKind::NotFound => {
                write!(f, "{}: not found", program.display())
            }
            Self::NotStarted(program, error) => write!(f, "{}: {error}", program.display()),
            Self::Stopped => f.write_str("told to stop before the program was started"),
            Self::System(error) => write!(f, "the system refused what is needed: {error}"),
        }
    }
}

impl std::error::Error for ExecError {}

impl From<io::Error> for ExecError {
    fn from(error: io::Error) -> Self {
        Self::System(error)
    }
}

fn in_words(duration: Duration) -> String {
    if duration.subsec_millis() == 0 { format!("{} s", duration.as_secs()) } else { format!("{} ms", duration.as_millis()) }
}

/// How to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// The program's, or 128+n when signal n ended it or the wait for a token.
    Code(u8),
    /// Ctrl-C did. A shell goes on with its script or loop after a program that only says so with 130, so we end by that
    /// signal, too.
    ByInterrupt,
}

/// Serves, runs the program, and ends after it.
pub fn run(program: &Program, config: Config, environment: &Environment, access: AccessLog) -> Result<Exit, ExecError> {
    let config = Arc::new(config);
    // Opened before there are more threads, as `App` asks.
    let app = App::bind(Arc::clone(&config)).map_err(ExecError::Daemon)?;
    app.harden_around_a_program().map_err(ExecError::Daemon)?;
    let command = command(program, &config, environment, &app)?;
    adopt_orphans()?;
    let (_caught, signals) = CaughtSignals::catch()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (commands, given) = mpsc::channel(COMMANDS);
    let mut supervisor = Supervisor {
        signals,
        views: app.views(),
        phases: app.phases(),
        terminal: Terminal::open(),
        patience: config.reloadable.drain_timeout,
    };
    let (served, outcome) = runtime.block_on(async {
        let serving = Box::pin(app.run(Arc::new(SystemClock), access, given));
        let supervised = async {
            let outcome = supervisor.run(command, program.wait).await;
            // An error means that it has ended already.
            let _ = commands.send(control::Command::Shutdown).await;
            outcome
        };
        tokio::join!(serving, supervised)
    });
    served.map_err(ExecError::Daemon)?;
    match outcome {
        Outcome::Ended(end) => Ok(Exit::Code(end.exit_code())),
        Outcome::Interrupted => Ok(Exit::ByInterrupt),
        Outcome::Signalled(signal) => Ok(Exit::Code(group::exit_code_of(signal.as_raw()))),
        Outcome::Stopped => Err(ExecError::Stopped),
        Outcome::NoToken(accounts) => Err(ExecError::NoToken(program.wait, accounts)),
        Outcome::NotStarted(error) => Err(ExecError::NotStarted(program.words.first().cloned().unwrap_or_default(), error)),
    }
}

fn command(program: &Program, config: &Config, environment: &Environment, app: &App) -> Result<Command, ExecError> {
    let Some((name, arguments)) = program.words.split_first() else {
        return Err(ExecError::NotStarted(OsString::new(), io::ErrorKind::InvalidInput.into()));
    };
    let bases = environment::bases(config, app.addresses());
    for api in bases.iter().filter_map(environment::Base::is_missing) {
        warn!(api, "the program is not told a base URL: the API listens on no TCP address");
    }
    let withheld = environment::withheld_proxies(&program.secret_variables);
    if !withheld.is_empty() {
        warn!(variables = withheld.join(", "), "not passed on to the program: there are credentials in a proxy's URL");
    }
    let mut command = Command::new(name);
    command.args(arguments);
    environment::prepare(&mut command, environment, &program.secret_variables, &bases);
    Ok(command)
}

/// Commands that may wait while one is carried out.
const COMMANDS: usize = 4;
