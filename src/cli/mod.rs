//! Parses the command line, runs the commands, and turns their errors into exit codes.
//!
//! It may use every other module. Each command is a few lines over the library, and its exit code is chosen here; `exec` ends
//! with that of its program.

mod arguments;
mod control;
mod reference;
mod status;

use std::{
    ffi::OsString,
    fmt::Display,
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use clap::{CommandFactory, Parser};
use tracing::{error, info, warn};

use self::arguments::{Cli, ClientFlags, Subcommands};
pub use self::reference::{ManualPart, completions, manual_parts};
use crate::{
    app::{self, App, StartError},
    check,
    clock::SystemClock,
    config::{
        Config,
        source::{self, Environment, Fault, Input, Loaded, ValueOrigin},
    },
    control::ControlRequest,
    exec::{self, ExecError, Exit, Program},
    healthcheck::{self, Probe},
    logging::{self, BlockingOutput, Logging, Reader},
    process::{
        DaemonSignals, OnHangup, SignalMask, end_by_interrupt, keep_ended_children, report_panics_by_place, survive_full_files,
    },
    resources::Runtime,
    systemd::Systemd,
    tls,
};

/// The exit code for an invalid configuration, as in sysexits.h.
const EX_CONFIG: u8 = 78;

/// Runs the program with the arguments, the environment and the standard streams of this process.
#[must_use]
pub fn run() -> ExitCode {
    // Signals come first: the kernel drops a signal to a container's first process that has no handler for it yet.
    let signals = may_be_the_daemon(std::env::args_os().skip(1)).then(DaemonSignals::catch).transpose();
    let signal_mask = SignalMask::prepare();
    if let Err(error) = keep_ended_children().and_then(|()| survive_full_files()) {
        return fail(&StartError::System(error), 1);
    }
    let words = arguments::command_first(std::env::args_os().collect());
    match Cli::try_parse_from(&words) {
        Ok(cli) => execute_command(cli, signals, signal_mask),
        #[cfg(not(feature = "demo"))]
        Err(_) if words.get(1).is_some_and(|word| word == "demo") => fail(&reference::NO_DEMO, 1),
        Err(error) => {
            let code = ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
            if !error.use_stderr() {
                return print(|out| write!(out, "{}", error.render()));
            }
            // If a usage error can't be printed, its exit code still tells.
            drop(match reference::two_dashes_missing(&error, &words) {
                Some(hint) => write!(errors(), "{hint}"),
                None => write!(errors(), "{}", error.render()),
            });
            code
        }
    }
}

fn execute_command(cli: Cli, signals: io::Result<Option<DaemonSignals>>, signal_mask: SignalMask) -> ExitCode {
    let client = |flags: ClientFlags, request: ControlRequest<'_>| control::command(&flags.input(), request);
    let wanted = cli.command.unwrap_or(Subcommands::Run { flags: cli.run });
    if !matches!(wanted, Subcommands::Exec { .. }) {
        SignalMask::unblock_handled();
    }
    match wanted {
        Subcommands::Run { flags } => daemon(flags.input(&[]), signals),
        Subcommands::Exec { wait, command, flags } => {
            let loaded = source::load(flags.input(exec::DEFAULTS));
            execute(loaded, |secret_variables| Program { words: command, wait, secret_variables, signal_mask })
        }
        Subcommands::Check { explain: Some(request), api, flags, .. } => explain(&flags.load(), &request, api.as_deref()),
        Subcommands::Check { diff: Some(old), flags, .. } => difference(flags.input(), old),
        Subcommands::Check { online, strict, flags, .. } => check_settings(flags.load(), online, strict),
        Subcommands::Config { json_schema: true, .. } => print(|out| writeln!(out, "{:#}", source::json_schema())),
        Subcommands::Config { json_schema: false, flags } => show_settings(&flags.load()),
        Subcommands::Status { json, watch, flags } => control::status(flags, json, watch),
        Subcommands::Rules { api, flags } => control::rules(&flags.input(), api.as_deref()),
        Subcommands::Login { account, flags } => client(flags, ControlRequest::LogIn(account.as_deref())),
        Subcommands::Logout { account, flags } => client(flags, ControlRequest::LogOut(account.as_deref())),
        Subcommands::Reload { flags } => client(flags, ControlRequest::Reload),
        Subcommands::Shutdown { flags } => client(flags, ControlRequest::Shutdown),
        Subcommands::Healthcheck { started, ready, wait, flags, live: _ } => {
            check_health(&flags.input(), arguments::probe(started, ready), wait)
        }
        Subcommands::Completions { shell } => {
            let script = reference::completions(shell, command());
            print(|out| out.write_all(&script))
        }
        Subcommands::Help { command: of } => reference::help(of.as_deref()),
        Subcommands::Version => print(|out| out.write_all(reference::version().as_bytes())),
        #[cfg(feature = "demo")]
        Subcommands::Demo { once } => demo(once),
    }
}

/// The commands that start no daemon. A test compares them with the command line's definition.
const OTHER_COMMANDS: [&str; 14] = [
    "exec",
    "check",
    "config",
    "status",
    "rules",
    "login",
    "logout",
    "reload",
    "shutdown",
    "healthcheck",
    "completions",
    "demo",
    "help",
    "version",
];

/// Whether a command line with these arguments may start the daemon. It is asked before the command line is parsed. In doubt it
/// says no: the handlers of the daemon would end `exec` at the first signal.
fn may_be_the_daemon(arguments: impl Iterator<Item = OsString>) -> bool {
    let mut before_program = arguments.take_while(|argument| argument != "--");
    !before_program.any(|argument| OTHER_COMMANDS.iter().any(|command| argument == *command))
}

/// Returns the definition of the command line, from which tests write docs/commands.md and the man pages.
#[must_use]
pub fn command() -> clap::Command {
    Cli::command()
}

/// Runs `run`: binds all listeners and gives up privileges while there is one thread, then serves.
fn daemon(input: Input, signals: io::Result<Option<DaemonSignals>>) -> ExitCode {
    let signals = match signals.and_then(|caught| caught.map_or_else(DaemonSignals::catch, Ok)) {
        Ok(signals) => signals,
        Err(error) => return fail(&StartError::System(error), 1),
    };
    let mut loaded = source::load(input.clone());
    let Some(config) = loaded.config.take() else { return refuse_all(loaded) };
    let input = Input { needs_file_keys: loaded.has_file_keys(), ..input };
    let reader = Reader::of(&io::stdout(), &input.environment);
    let mut logging = match logging::start(&config.reloadable.log, BlockingOutput(io::stdout()), reader) {
        Ok(logging) => logging,
        Err(error) => return fail(&error, 1),
    };
    report_panics_by_place();
    let settings = loaded.file.as_deref().map(Path::display).map(tracing::field::display);
    info!(version = env!("CARGO_PKG_VERSION"), settings, "starting");
    for warning in &loaded.warnings {
        warn!("{warning}");
    }
    let config = Arc::new(config);
    let Err(error) = serve(Arc::clone(&config), input, signals, &mut logging) else { return ExitCode::SUCCESS };
    let code = if error.is_configuration() { EX_CONFIG } else { 1 };
    let all = said_of(&error, &config, &mut loaded);
    if reader == Reader::Journal {
        // Both streams lead there, and only a line of the log has a level.
        for error in all {
            error!("{error}");
        }
        return ExitCode::from(code);
    }
    // What was logged before stands before it.
    drop(logging);
    for error in &all {
        complain(error);
    }
    ExitCode::from(code)
}

fn serve(config: Arc<Config>, input: Input, signals: DaemonSignals, logging: &mut Logging) -> Result<(), StartError> {
    let systemd = Systemd::of(&input.environment).unwrap_or_else(|error| {
        warn!(error = %error.kind(), "systemd can't be told how the daemon is");
        None
    });
    // Reading files may take long. Until a socket is bound there is nothing to clean up, so a signal ends the process at once.
    let tls = app::rehearse(&config)?;
    signals.clean_up_from_now_on();
    let app = App::bind(config, tls)?.reloading_from(input, logging.control().clone()).harden()?.with_systemd(systemd);
    // This starts the first thread besides this one. Threads inherit what this one has given up.
    logging.write().map_err(io::Error::other)?;
    let (commands, receiver) = crate::control::commands();
    let _signals = signals.deliver(commands.clone(), OnHangup::Reload)?;
    Runtime::new()?.block_on(app.run(Arc::new(SystemClock), logging.access_log(), commands, receiver))
}

/// Runs `exec`. Logs go to standard error, since standard output belongs to the program.
fn execute(mut loaded: Loaded, program: impl FnOnce(Vec<OsString>) -> Program) -> ExitCode {
    let Some(config) = loaded.config.take() else { return refuse_all(loaded) };
    let environment = Environment::of_process();
    let started = logging::start(&config.reloadable.log, BlockingOutput(io::stderr()), Reader::of(&io::stderr(), &environment));
    let logging = match started.and_then(|mut logging| logging.write().map(|()| logging)) {
        Ok(logging) => logging,
        Err(error) => return fail(&error, 1),
    };
    report_panics_by_place();
    for warning in &loaded.warnings {
        warn!("{warning}");
    }
    let program = program(std::mem::take(&mut loaded.secret_variables));
    let config = Arc::new(config);
    match exec::run(&program, &config, &environment, logging.access_log()) {
        Ok(Exit::Code(code)) => ExitCode::from(code),
        Ok(Exit::ByInterrupt) => {
            drop(logging);
            end_by_interrupt();
            // If the signal did not end the process, this is the code that a shell shows for it.
            ExitCode::from(128 + 2)
        }
        Err(error) => {
            drop(logging);
            match &error {
                ExecError::Daemon(of_daemon) => {
                    for error in said_of(of_daemon, &config, &mut loaded) {
                        complain(&error);
                    }
                }
                other => complain(other),
            }
            ExitCode::from(error.exit_code())
        }
    }
}

/// Runs `check`: prints every fault, and with `online` tries the upstream. With `strict` a warning fails it.
fn check_settings(mut loaded: Loaded, online: bool, strict: bool) -> ExitCode {
    if let Some(config) = loaded.config.as_ref().or(loaded.rest.as_ref()) {
        let (files, sockets) = (check::open_files(config, &loaded), app::warnings(config));
        for (key, message, hint) in sockets.into_iter().chain(files) {
            loaded.warn(&key, message, hint);
        }
    }
    app::judge(&mut loaded);
    // Where a file gives no answer, that is told already.
    let of_roots = loaded.config.as_ref().filter(|_| loaded.faults.is_empty()).map(|config| tls::warnings(&config.tls));
    for (key, message, hint) in of_roots.into_iter().flatten() {
        loaded.warn(&key, message, hint);
    }
    let shown = print(|out| source::render_check(&loaded, out));
    let could_write = shown == ExitCode::SUCCESS;
    let shown = if strict && !loaded.warnings.is_empty() { ExitCode::FAILURE } else { shown };
    // Nobody sees the outcome where the first lines can't be written.
    let Some(config) = loaded.config.filter(|_| online && could_write) else {
        return if loaded.faults.is_empty() { shown } else { ExitCode::from(EX_CONFIG) };
    };
    let tried = app::rehearse(&config).and_then(|tls| check::online(&Arc::new(config), &tls, &mut BlockingOutput(io::stdout())));
    match tried {
        Ok((all_passed, printed)) => written(printed, if all_passed { shown } else { ExitCode::FAILURE }),
        Err(error) => fail(&error, if error.is_configuration() { EX_CONFIG } else { 1 }),
    }
}

/// Runs `check --explain`: prints what would become of a request; exit code 1 when it would be refused.
fn explain(loaded: &Loaded, request: &str, api: Option<&str>) -> ExitCode {
    let Some(config) = &loaded.config else { return refuse(loaded) };
    // The outcome stands before it is printed: a reader that closes the pipe does not change it.
    let mut text = Vec::new();
    match check::explain(config, loaded, request, api, &mut text) {
        Ok(Ok(passes)) => {
            let shown = print(|out| out.write_all(&text));
            if passes { shown } else { ExitCode::FAILURE }
        }
        Ok(Err(error)) => fail(&error, 2),
        Err(error) => written(Err(error), ExitCode::FAILURE),
    }
}

/// Runs `check --diff`: prints what the rules of these settings reach that those of `old` do not, and the reverse.
fn difference(input: Input, old: PathBuf) -> ExitCode {
    let mut old = source::load(Input { config_flag: Some(old), ..input.clone() });
    for fault in old.faults.iter_mut().filter(|fault| fault.origin == ValueOrigin::Flag("--config".to_owned())) {
        fault.origin = ValueOrigin::Flag("--diff".to_owned());
    }
    let new = source::load(input);
    match (&old.config, &new.config) {
        (Some(old), Some(new)) => print(|out| check::difference(old, new, out)),
        (None, _) => refuse(&old),
        (_, None) => refuse(&new),
    }
}

/// Runs `config`. A faulty value is printed as `[invalid]`, its fault on standard error, and the exit code is 78.
fn show_settings(loaded: &Loaded) -> ExitCode {
    let shown = print(|out| source::render_effective(loaded, out));
    if loaded.config.is_none() { refuse(loaded) } else { shown }
}

/// Runs `healthcheck`. Any failure is exit code 1, since Docker reserves the others.
fn check_health(input: &Input, probe: Probe, wait: Duration) -> ExitCode {
    let daemon = source::daemon_address(input);
    match healthcheck::run(daemon.telemetry, probe, wait) {
        Ok(()) => print(|out| writeln!(out, "{}", probe.word())),
        Err(error) => {
            let failed = fail(&error, 1);
            note_faults(&daemon.faults, &error);
            failed
        }
    }
}

/// Prints the faults of the settings, since one of them may be why the daemon was not found. One may be the `error` that was
/// printed.
fn note_faults(faults: &[Fault], error: &dyn Display) {
    let (mut err, error) = (errors(), error.to_string());
    for fault in faults.iter().filter(|fault| !error.starts_with(&fault.to_string())) {
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

/// Prints every fault on standard error, and returns the exit code for an invalid configuration.
fn refuse(loaded: &Loaded) -> ExitCode {
    for fault in &loaded.faults {
        complain(fault);
    }
    ExitCode::from(EX_CONFIG)
}

/// The same, with the faults of the files and sockets that the settings name.
fn refuse_all(mut loaded: Loaded) -> ExitCode {
    app::judge(&mut loaded);
    refuse(&loaded)
}

/// A start's error in words. One of the settings says where the setting stands, and brings all others of its kind.
fn said_of(error: &StartError, config: &Config, loaded: &mut Loaded) -> Vec<String> {
    if !error.is_configuration() {
        return vec![error.to_string()];
    }
    error.explain(config, loaded);
    loaded.faults.iter().map(ToString::to_string).collect()
}

/// Prints an error on standard error, and returns its exit code.
fn fail(error: &dyn Display, code: u8) -> ExitCode {
    complain(error);
    ExitCode::from(code)
}

fn complain(error: &dyn Display) {
    // If standard error is closed, the exit code still tells.
    drop(writeln!(errors(), "error: {error}"));
}

/// Standard error.
fn errors() -> BlockingOutput<io::StderrLock<'static>> {
    BlockingOutput(io::stderr().lock())
}

/// Writes to standard output. When that fails, it says so and returns 1.
fn print(write: impl FnOnce(&mut BlockingOutput<io::StdoutLock<'static>>) -> io::Result<()>) -> ExitCode {
    let mut out = BlockingOutput(io::stdout().lock());
    let outcome = write(&mut out).and_then(|()| out.flush());
    written(outcome, ExitCode::SUCCESS)
}

/// The exit code of a command that has written its output, which by itself would be `code`.
fn written(outcome: io::Result<()>, code: ExitCode) -> ExitCode {
    match outcome {
        Ok(()) => code,
        // A reader such as `head` may close the pipe once it has enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => code,
        Err(error) => fail(&format_args!("standard output can't be written to: {error}"), 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_command_but_run_is_known_to_start_no_daemon() {
        let known: Vec<String> = command().get_subcommands().map(|known| known.get_name().to_owned()).collect();
        for name in known.iter().filter(|name| *name != "run") {
            assert!(OTHER_COMMANDS.contains(&name.as_str()), "{name}");
        }
    }

    #[test]
    fn flags_before_a_command_do_not_make_it_the_daemon() {
        let may_be = |line: &str| may_be_the_daemon(line.split_whitespace().map(OsString::from));
        for line in ["", "run", "--config a.toml", "--config a.toml run", "--config=exec.toml"] {
            assert!(may_be(line), "{line}");
        }
        for line in ["exec -- run", "--config a.toml exec -- run", "--log debug status", "check --online"] {
            assert!(!may_be(line), "{line}");
        }
    }
}
