//! The command line: thin commands over the library, and errors as exit codes.
//!
//! Depends on everything below it. The only place where a process ends and where its exit code is chosen.

mod arguments;
mod control;
mod status;

use std::{
    ffi::{OsStr, OsString},
    fmt::Display,
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use clap::{CommandFactory, Parser};
use tracing::{error, info, warn};

use self::arguments::{Cli, Subcommands};
use crate::{
    app::{self, App, StartError},
    check,
    clock::SystemClock,
    config::{
        Config,
        source::{self, Environment, Fault, Input, Loaded},
    },
    control::ControlRequest,
    exec::{self, Exit, Program},
    healthcheck::{self, Probe},
    logging::{self, Logging, Reader},
    process::{DaemonSignals, OnHangup, end_by_interrupt, report_panics_by_place},
    systemd::Systemd,
};

/// sysexits.h: something in the configuration is wrong.
const EX_CONFIG: u8 = 78;

/// Runs the program with the process's own arguments, environment and standard streams.
#[must_use]
pub fn run() -> ExitCode {
    // First of all: as the first process of a container we would never see a signal that has no handler yet.
    let signals = may_be_the_daemon(std::env::args_os().nth(1).as_deref()).then(DaemonSignals::catch).transpose();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Nobody to tell when the terminal is gone.
            drop(error.print());
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let settings = cli.settings;
    match cli.command.unwrap_or(Subcommands::Run) {
        Subcommands::Run => daemon(settings.input(&[]), signals),
        Subcommands::Exec { wait, command } => execute(source::load(settings.input(exec::DEFAULTS)), wait, command),
        Subcommands::Check { explain: Some(request), api, .. } => explain(&settings.load(), &request, api.as_deref()),
        Subcommands::Check { diff: Some(old), .. } => difference(settings.input(&[]), old),
        Subcommands::Check { online, strict, .. } => check_settings(settings.load(), online, strict),
        Subcommands::Config { json_schema: true } => print(|out| writeln!(out, "{:#}", source::json_schema())),
        Subcommands::Config { json_schema: false } => show_settings(&settings.load()),
        Subcommands::Status { json } => control::status(&settings.input(&[]), json),
        Subcommands::Rules { api } => control::rules(&settings.input(&[]), api.as_deref()),
        Subcommands::Login { account } => control::command(&settings.input(&[]), ControlRequest::LogIn(account.as_deref())),
        Subcommands::Logout { account } => control::command(&settings.input(&[]), ControlRequest::LogOut(account.as_deref())),
        Subcommands::Reload => control::command(&settings.input(&[]), ControlRequest::Reload),
        Subcommands::Shutdown => control::command(&settings.input(&[]), ControlRequest::Shutdown),
        Subcommands::Healthcheck { started, ready, wait, live: _ } => {
            check_health(&settings.input(&[]), arguments::probe(started, ready), wait)
        }
        Subcommands::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut command(), env!("CARGO_PKG_NAME"), &mut script);
            print(|out| out.write_all(&script))
        }
        #[cfg(feature = "demo")]
        Subcommands::Demo { once } => demo(once),
    }
}

/// Whether a command line with this first argument may mean the daemon. Flags may stand before `run`, or without it.
fn may_be_the_daemon(first: Option<&OsStr>) -> bool {
    first.is_none_or(|first| first == "run" || first.as_encoded_bytes().starts_with(b"-"))
}

/// The command line's definition, for the manual and the man pages.
#[must_use]
pub fn command() -> clap::Command {
    Cli::command()
}

/// `run`. Everything that must be open is opened before there is a second thread.
fn daemon(input: Input, signals: io::Result<Option<DaemonSignals>>) -> ExitCode {
    let signals = match signals.and_then(|caught| caught.map_or_else(DaemonSignals::catch, Ok)) {
        Ok(signals) => signals,
        Err(error) => return fail(&StartError::System(error), 1),
    };
    let loaded = source::load(input.clone());
    let Loaded { config: Some(config), warnings, file, .. } = loaded else { return refuse(&loaded) };
    let reader = Reader::of(&io::stdout(), &input.environment);
    let mut logging = match logging::start(&config.log(), io::stdout(), reader) {
        Ok(logging) => logging,
        Err(error) => return fail(&error, EX_CONFIG),
    };
    report_panics_by_place();
    let settings = file.as_deref().map(Path::display).map(tracing::field::display);
    info!(version = env!("CARGO_PKG_VERSION"), settings, "starting");
    for warning in &warnings {
        warn!("{warning}");
    }
    let outcome = serve(config, input, signals, &mut logging);
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!("{error}");
            drop(logging);
            fail(&error, if error.is_configuration() { EX_CONFIG } else { 1 })
        }
    }
}

fn serve(config: Config, input: Input, signals: DaemonSignals, logging: &mut Logging) -> Result<(), StartError> {
    let systemd = Systemd::of(&input.environment).unwrap_or_else(|error| {
        warn!(error = %error.kind(), "systemd can't be told how the daemon is");
        None
    });
    // Files may take long, and until there are sockets a signal may end the process at once.
    let tls = app::rehearse(&config)?;
    signals.clean_up_from_now_on();
    let app = App::bind(Arc::new(config), tls)?.reloading_from(input, logging.control().clone()).harden()?.with_systemd(systemd);
    // The first thread beside this one; each has given up what this one had.
    logging.write().map_err(io::Error::other)?;
    let (commands, receiver) = crate::control::commands();
    let _signals = signals.deliver(commands.clone(), OnHangup::Reload)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(app.run(Arc::new(SystemClock), logging.access_log(), commands, receiver));
    // A file or a name server that does not answer holds a thread, which must not hold the process.
    runtime.shutdown_background();
    outcome
}

/// `exec`. Standard output is the program's, so logs go to standard error.
fn execute(loaded: Loaded, wait: Duration, words: Vec<OsString>) -> ExitCode {
    let Loaded { config: Some(config), warnings, secret_variables, .. } = loaded else { return refuse(&loaded) };
    let environment = Environment::of_process();
    let started = logging::start(&config.log(), io::stderr(), Reader::of(&io::stderr(), &environment));
    let logging = match started.and_then(|mut logging| logging.write().map(|()| logging)) {
        Ok(logging) => logging,
        Err(error) => return fail(&error, EX_CONFIG),
    };
    report_panics_by_place();
    for warning in &warnings {
        warn!("{warning}");
    }
    let program = Program { words, wait, secret_variables };
    match exec::run(&program, config, &environment, logging.access_log()) {
        Ok(Exit::Code(code)) => ExitCode::from(code),
        Ok(Exit::ByInterrupt) => {
            drop(logging);
            end_by_interrupt();
            // The same in a shell's eyes.
            ExitCode::from(128 + 2)
        }
        Err(error) => {
            drop(logging);
            fail(&error, error.exit_code())
        }
    }
}

/// `check`.
fn check_settings(mut loaded: Loaded, online: bool, strict: bool) -> ExitCode {
    let rehearsal = loaded.config.as_ref().map(app::rehearse).transpose();
    let files = loaded.config.as_ref().map(|config| check::open_files(config, &loaded)).unwrap_or_default();
    let sockets = loaded.config.as_ref().map(app::warnings).unwrap_or_default();
    for (key, message, hint) in sockets.into_iter().chain(files) {
        loaded.warn(&key, message, hint);
    }
    let tls = rehearsal.unwrap_or_else(|error| {
        let (key, message, hint) = error.as_fault();
        loaded.refuse(&key, message, hint);
        None
    });
    let shown = print(|out| source::render_check(&loaded, out));
    let shown = if strict && !loaded.warnings.is_empty() { ExitCode::FAILURE } else { shown };
    match (loaded.config, tls) {
        (Some(config), Some(tls)) if online => match check::online(&Arc::new(config), &tls, &mut io::stdout()) {
            Ok(true) => shown,
            Ok(false) => ExitCode::FAILURE,
            Err(error) => fail(&error, if error.is_configuration() { EX_CONFIG } else { 1 }),
        },
        (Some(_), _) => shown,
        (None, _) => ExitCode::from(EX_CONFIG),
    }
}

/// `check --explain`.
fn explain(loaded: &Loaded, request: &str, api: Option<&str>) -> ExitCode {
    let Some(config) = &loaded.config else { return refuse(loaded) };
    let mut outcome = Ok(true);
    let shown = print(|out| {
        outcome = check::explain(config, loaded, request, api, out)?;
        Ok(())
    });
    match outcome {
        Ok(true) => shown,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => fail(&error, 2),
    }
}

/// `check --diff`.
fn difference(input: Input, old: PathBuf) -> ExitCode {
    let old = source::load(Input { config_flag: Some(old), ..input.clone() });
    let new = source::load(input);
    match (&old.config, &new.config) {
        (Some(old), Some(new)) => print(|out| check::difference(old, new, out)),
        (None, _) => refuse(&old),
        (_, None) => refuse(&new),
    }
}

/// `config`. What is wrong is shown in its place; the exit code says so too.
fn show_settings(loaded: &Loaded) -> ExitCode {
    let shown = print(|out| source::render_effective(loaded, out));
    if loaded.config.is_none() { refuse(loaded) } else { shown }
}

/// `healthcheck`. Whatever is wrong, the code is 1: Docker knows no other.
fn check_health(input: &Input, probe: Probe, wait: Duration) -> ExitCode {
    let daemon = source::daemon_address(input);
    match healthcheck::run(daemon.telemetry, probe, wait) {
        Ok(()) => print(|out| writeln!(out, "{}", probe.word())),
        Err(error) => {
            let failed = fail(&error, 1);
            note_faults(&daemon.faults);
            failed
        }
    }
}

/// What is wrong with the settings may be why the daemon was not found.
fn note_faults(faults: &[Fault]) {
    let mut err = io::stderr().lock();
    for fault in faults {
        drop(writeln!(err, "note: {fault}"));
    }
}

#[cfg(feature = "demo")]
fn demo(once: bool) -> ExitCode {
    match crate::demo::run(once) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error, 1),
    }
}

/// Every fault, on standard error.
fn refuse(loaded: &Loaded) -> ExitCode {
    let mut err = io::stderr().lock();
    for fault in &loaded.faults {
        // With standard error closed the exit code has to do.
        drop(writeln!(err, "error: {fault}"));
    }
    ExitCode::from(EX_CONFIG)
}

fn fail(error: &dyn Display, code: u8) -> ExitCode {
    drop(writeln!(io::stderr().lock(), "error: {error}"));
    ExitCode::from(code)
}

fn print(write: impl FnOnce(&mut io::StdoutLock<'_>) -> io::Result<()>) -> ExitCode {
    match write(&mut io::stdout().lock()) {
        // A reader that went away has seen enough.
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}
