//! The `exec` command runs the daemon in this process and one program as its child, in a process group of its own.
//!
//! Guarantees: the program starts once every account that logs in has a token, and never once a log-in is rejected; it gets no
//! variable that holds a secret. Each signal reaches it once and never ends us before it. The daemon serves until the program has
//! ended. Nothing of the program's group outlives us, unless SIGKILL or a signal that is not passed on ends us. Orphans are reaped by
//! `children`.
//!
//! Files, each using only those before it: `environment` (pure), `process_group`, `terminal`, `supervisor`.

mod environment;
mod process_group;
mod supervisor;
mod terminal;

use std::{ffi::OsString, io, process::Command, sync::Arc, time::Duration};

use thiserror::Error;
use tracing::warn;

use crate::{
    account::AccountSnapshot,
    app::{self, App, StartError},
    clock::SystemClock,
    config::{Config, source::Environment},
    control,
    logging::AccessLog,
    process::{CaughtSignals, SignalMask, adopt_orphans},
    resources::{self, Runtime},
};
use supervisor::Supervisor;
use terminal::Terminal;

/// Defaults that differ from the daemon's: the API listens on a free port, nothing else listens, and the log holds warnings
/// and errors alone.
pub const DEFAULTS: &[(&str, &str)] =
    &[("listen", "[\"127.0.0.1:0\"]"), ("telemetry_listen", "\"off\""), ("control_socket", "\"off\""), ("log", "\"warn\"")];

/// The program to run, and how.
#[derive(Debug)]
pub struct Program {
    /// The program and its arguments; at least one word.
    pub words: Vec<OsString>,
    /// How long the accounts may take to get their tokens. With zero the program starts at once, and its requests wait for
    /// a token themselves.
    pub wait: Duration,
    /// Variables that the program must not inherit.
    pub secret_variables: Vec<OsString>,
    /// The signals that were blocked when this process was started, and that are blocked for the program.
    pub signal_mask: SignalMask,
}

/// Why the program was not run to its end.
#[derive(Debug, Error)]
pub enum ExecError {
    /// The daemon could not start, or failed while the program ran.
    #[error(transparent)]
    Daemon(StartError),
    /// Accounts had no token in time: name and snapshot of each.
    #[error("no token within {}, so the program was not started{}", in_words(*.0), states(.1))]
    NoToken(Duration, Vec<(String, AccountSnapshot)>),
    /// Log-ins were rejected, and no attempt is near that could end better: name and snapshot of each account without a token.
    #[error("the log-in was rejected, so the program was not started{}", states(.0))]
    Rejected(Vec<(String, AccountSnapshot)>),
    /// The program could not be started.
    #[error("{}: {}{}", .0.display(), if is_missing(.1) { "not found".to_owned() } else { .1.to_string() }, resources::hint(.1))]
    NotStarted(OsString, io::Error),
    /// The daemon was told to stop before the program was started.
    #[error("told to stop before the program was started")]
    Stopped,
    /// The system refused a thread, a signal handler or another resource.
    #[error("the system refused what is needed: {}{}", .0, resources::hint(.0))]
    System(#[from] io::Error),
}

impl ExecError {
    /// The exit code that a shell uses for a program that is not there (127) or can't be run (126, but 1 for want of a resource);
    /// 78 for a fault of the configuration, else 1.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::NotStarted(_, error) if is_missing(error) => 127,
            // The program is not at fault.
            Self::NotStarted(_, error) if resources::advice(error).is_some() => 1,
            Self::NotStarted(..) => 126,
            Self::Daemon(error) if error.is_configuration() => 78,
            Self::Daemon(_) | Self::NoToken(..) | Self::Rejected(_) | Self::Stopped | Self::System(_) => 1,
        }
    }
}

/// What each account without a token waits for, and what to do about its failure.
fn states(accounts: &[(String, AccountSnapshot)]) -> String {
    let line = |(name, snapshot): &(String, AccountSnapshot)| {
        let state = snapshot.state().map(|state| format!(" ({})", state.as_str())).unwrap_or_default();
        let said = match snapshot.last_error() {
            Some(error) => format!("{error}\n    hint: {}", error.advice_for_next_run()),
            None => "no answer to the log-in yet".to_owned(),
        };
        format!("\n  account {name}{state}: {said}")
    };
    accounts.iter().map(line).collect()
}

fn is_missing(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
}

fn in_words(duration: Duration) -> String {
    if duration.subsec_millis() == 0 { format!("{} s", duration.as_secs()) } else { format!("{} ms", duration.as_millis()) }
}

/// How this process has to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It exits with the program's code, or with 128+n when signal n ended the program or the wait for a token.
    Code(u8),
    /// It kills itself with SIGINT, because Ctrl-C ended the program. A shell goes on with its script or loop when a command
    /// merely exits with 130.
    ByInterrupt,
}

/// Starts the daemon, runs the program, and drains the daemon when the program has ended.
///
/// It returns when both have ended and nothing is left of the program's process group. Call it while the process has no
/// threads but that of the log: it takes hardening steps, and signals are caught from here on.
///
/// # Errors
///
/// The daemon or the program could not be started, a token did not come in time, or the daemon failed; see [`ExecError`].
pub fn run(program: &Program, config: &Arc<Config>, environment: &Environment, access: AccessLog) -> Result<Exit, ExecError> {
    // `App` has to bind before there are more threads.
    let app = app::rehearse(config).and_then(|tls| App::bind(Arc::clone(config), tls)).map_err(ExecError::Daemon)?;
    app.harden_around_a_program().map_err(ExecError::Daemon)?;
    let command = program_command(program, config, environment, &app)?;
    adopt_orphans()?;
    let (_caught, signals) = CaughtSignals::catch()?;
    SignalMask::unblock_handled();
    let runtime = Runtime::new()?;
    let (commands, receiver) = control::commands();
    let mut supervisor = Supervisor {
        signals,
        views: app.views(),
        phases: app.phases(),
        signal_mask: program.signal_mask,
        terminal: Terminal::open(),
        kill_after: config.reloadable.drain_timeout,
    };
    let (served, outcome) = runtime.block_on(async {
        let serving = Box::pin(app.run(Arc::new(SystemClock), access, commands.clone(), receiver));
        let supervised = async {
            let outcome = supervisor.run(command, program.wait).await;
            commands.shut_down();
            outcome
        };
        tokio::join!(serving, supervised)
    });
    served.map_err(ExecError::Daemon)?;
    outcome.map_err(|error| name_servers(error, config))
}

/// Adds to each account's name the URL of its log-in: it may be the one that is wrong.
fn name_servers(mut error: ExecError, config: &Config) -> ExecError {
    if let ExecError::NoToken(_, accounts) | ExecError::Rejected(accounts) = &mut error {
        for (name, _) in accounts {
            let known = config.accounts.iter().find(|account| account.name == *name);
            if let Some(login) = known.and_then(|account| account.login.as_ref()) {
                *name = format!("{name}, log-in at {}{}", login.url.origin, login.url.target);
            }
        }
    }
    error
}

fn program_command(program: &Program, config: &Config, environment: &Environment, app: &App) -> Result<Command, ExecError> {
    let Some((name, arguments)) = program.words.split_first() else {
        return Err(ExecError::NotStarted(OsString::new(), io::ErrorKind::InvalidInput.into()));
    };
    let base_urls = environment::api_base_urls(config, app.addresses());
    for api in base_urls.iter().filter_map(environment::ApiBaseUrl::api_without_url) {
        warn!(api, "the program is not told a base URL: the API listens on no TCP address");
    }
    let withheld = environment::withheld_proxies(&program.secret_variables);
    if !withheld.is_empty() {
        warn!(variables = withheld.join(", "), "not passed on to the program: there are credentials in a proxy's URL");
    }
    let mut command = Command::new(name);
    command.args(arguments);
    environment::set_environment(&mut command, environment, &program.secret_variables, &base_urls);
    Ok(command)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        account::{LoginError, StateName},
        tls::TlsSetupError,
    };

    #[test]
    fn an_error_has_the_exit_code_that_a_shell_would_use() {
        let not_started = |error: io::Error| ExecError::NotStarted("x".into(), error);
        for (error, code) in [
            (not_started(io::ErrorKind::NotFound.into()), 127),
            (not_started(io::ErrorKind::PermissionDenied.into()), 126),
            (not_started(io::ErrorKind::InvalidInput.into()), 126),
            // EMFILE: the program is not at fault.
            (not_started(io::Error::from_raw_os_error(24)), 1),
            (ExecError::Daemon(StartError::Tls(TlsSetupError::NoRoots { unreadable: None })), 78),
            (ExecError::Daemon(StartError::System(io::ErrorKind::NotFound.into())), 1),
            (ExecError::NoToken(Duration::ZERO, Vec::new()), 1),
            (ExecError::Rejected(Vec::new()), 1),
            (ExecError::Stopped, 1),
            (ExecError::System(io::ErrorKind::NotFound.into()), 1),
        ] {
            assert_eq!(error.exit_code(), code, "{error:?}");
        }
    }

    #[test]
    fn an_error_says_what_is_missing_and_what_each_account_waits_for() {
        let missing = ExecError::NotStarted("nosuch".into(), io::ErrorKind::NotFound.into());
        assert_eq!(missing.to_string(), "nosuch: not found");
        let forbidden = ExecError::NotStarted("x".into(), io::ErrorKind::PermissionDenied.into()).to_string();
        assert!(forbidden.starts_with("x: ") && !forbidden.contains("not found"), "{forbidden}");
        let hung = AccountSnapshot::showing(Some(StateName::LoggingIn), None, None, None);
        let failed = AccountSnapshot::showing(Some(StateName::BackingOff), None, None, Some(LoginError::TimedOut));
        let accounts = vec![("a".to_owned(), hung), ("b".to_owned(), failed)];
        let advice = LoginError::TimedOut.advice();
        for (wait, words) in [(Duration::from_secs(2), "2 s"), (Duration::from_millis(2500), "2500 ms")] {
            let said = ExecError::NoToken(wait, accounts.clone()).to_string();
            let expected = format!(
                "no token within {words}, so the program was not started\n  account a (logging_in): no answer to the log-in yet\n  \
                 account b (backing_off): {}\n    hint: {advice}",
                LoginError::TimedOut
            );
            assert_eq!(said, expected);
        }
    }
}
