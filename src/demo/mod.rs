//! The `demo` command runs the sidecar in front of a simulated CarePortals, makes real calls through it, and explains each.
//!
//! `setup` starts both in this process, `steps` makes the calls and checks each outcome, `suggestions` says what to try then, and
//! `narration` prints. Guarantees: the demo needs no file, no network and no root, and ignores the environment's settings.
//! Of a token it prints only the first characters, which are the same for every token; of credentials and bodies, nothing.

mod narration;
mod setup;
mod steps;
mod suggestions;

use std::io;

use rustix::termios::tcgetwinsize;
use thiserror::Error;

use crate::{
    app::StartError,
    config::{Log, LogFormat, source::Environment},
    logging::{self, BlockingOutput, LogError, Reader},
    process::report_panics_by_place,
};
use narration::Narration;
use setup::Setup;
use steps::Steps;

/// The log's filter once the steps are over: a line for each call, and what becomes of the token.
const LIVE: &str = "warn,careportals_sidecar::access=info,careportals_sidecar::account=info";

/// Why the demo failed.
#[derive(Debug, Error)]
pub enum DemoError {
    /// The log can't be written.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The simulator did not start.
    #[error("the simulated CarePortals did not start: {0}")]
    Simulator(io::Error),
    /// The demo's own settings are wrong; the text names each fault.
    #[error("the demo's own settings are wrong, which is a bug:\n{0}")]
    Settings(String),
    /// The sidecar did not start, or ended with an error.
    #[error("the sidecar did not run: {0}")]
    Sidecar(StartError),
    /// The sidecar panicked, which the log says.
    #[error("the sidecar ended in a panic, which is a bug")]
    Panic,
    /// Neither the usual port nor any of several free ports could be bound.
    #[error(
        "no port to listen on: {port} is taken on 127.0.0.1 or [::1], and so was every other that was tried\n  \
         hint: end what listens on {port}, or try again",
        port = setup::USUAL_PORT
    )]
    NoPort,
    /// The system refused a pipe, a thread or another resource.
    #[error("the system refused what the demo needs: {0}")]
    System(io::Error),
    /// Standard output can't be written to.
    #[error("standard output: {0}")]
    Output(io::Error),
    /// A signal came before the last step was done.
    #[error("stopped by a signal before the demo was over")]
    Interrupted,
    /// A step had another outcome than the demo explains.
    #[error("step {number} ({title}) failed: {why}")]
    Step {
        /// The number that is printed before the step.
        number: usize,
        /// The step's title, as it is printed.
        title: &'static str,
        /// What the step expected, and what happened.
        why: String,
    },
}

/// Runs the steps. Unless `once`, sidecar and simulator then stay up until a signal comes.
///
/// # Errors
///
/// One of the two could not be started, a step had another outcome than expected, or the output can't be written.
pub fn run(once: bool) -> Result<(), DemoError> {
    let environment = Environment::of_process();
    let reader = Reader::of(&io::stdout(), &environment);
    // The sidecar's `info` lines and those of the demo's own calls would hide the narration.
    let log = Log { filter: "warn".to_owned(), format: LogFormat::Text, access: false };
    let mut logging = logging::start(&log, BlockingOutput(io::stdout()), reader)?;
    logging.write()?;
    report_panics_by_place();
    let setup = Setup::start(logging.access_log(), &environment)?;
    let _signals = setup.catch_signals()?;
    let width = tcgetwinsize(io::stdout()).ok().map(|size| usize::from(size.ws_col)).filter(|columns| *columns > 0);
    let mut narration = Narration::new(BlockingOutput(io::stdout()), reader == Reader::Terminal { colour: true }, width);
    let outcome = Steps::new(&setup, &mut narration).and_then(|mut steps| steps.run());
    if outcome.is_err() && setup.is_stopping() {
        // The step failed because a signal stopped the sidecar under it, which is no failure of the demo.
        setup.wait()?;
        return if once { Err(DemoError::Interrupted) } else { Ok(()) };
    }
    if outcome.is_err() || once {
        setup.stop()?;
        outcome?;
        return narration.all_well().map_err(DemoError::Output);
    }
    suggestions::print(&setup, &mut narration).map_err(DemoError::Output)?;
    logging.control().adopt(&Log { filter: LIVE.to_owned(), access: true, ..log })?;
    // From here on a call is told.
    narration.line("\nCtrl-C stops both.\n").map_err(DemoError::Output)?;
    setup.wait()?;
    narration.line("\nStopped.").map_err(DemoError::Output)
}
