//! `demo`: the main job at work, against a simulated CarePortals, told in plain words.
//!
//! Depends on everything below `cli`, and on the simulator. What is shown are real calls of a real sidecar: `stage` sets
//! both up in this process, `client` plays the app, `story` makes the calls and judges each, `page` writes.
//! Guarantees: needs no file, no network, no root, and heeds none of the environment's settings; what it prints holds of a
//! token no more than the first characters, which are the same for every token, and nothing of credentials or bodies.

mod client;
mod page;
mod stage;
mod story;

use std::{fmt, io};

use crate::{
    app::StartError,
    config::{Log, LogFormat, source::Environment},
    logging::{self, LogError, Reader},
    process::report_panics_by_place,
};
use page::Narration;
use stage::Stage;
use story::{Amiss, Story};

/// Why a demo did not come to its good end.
#[derive(Debug)]
pub enum DemoError {
    /// There are no logs to tell of trouble.
    Log(LogError),
    /// The simulator did not start.
    Simulator(io::Error),
    /// The demo's own settings are wrong; each fault in words.
    Settings(String),
    /// The sidecar did not start, or ended badly.
    Sidecar(StartError),
    /// The sidecar ended in a panic, which has been reported.
    Panic,
    /// Neither the usual port nor one of several free ones could be had.
    NoPort,
    /// The system refuses a pipe, a thread or the like.
    System(io::Error),
    /// Standard output takes no more.
    Output(io::Error),
    /// A signal came before the story was over.
    Interrupted,
    /// Something did not go as told.
    Step {
        /// As printed.
        number: usize,
        /// As printed.
        title: &'static str,
        /// What was expected, and what happened.
        why: String,
    },
}

impl fmt::Display for DemoError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Log(error) => error.fmt(f),
            Self::Simulator(error) => write!(f, "the simulated CarePortals did not start: {error}"),
            Self::Settings(faults) => write!(f, "the demo's own settings are wrong, which is a bug:\n{faults}"),
            Self::Sidecar(error) => write!(f, "the sidecar did not run: {error}"),
            Self::Panic => f.write_str("the sidecar ended in a panic, which is a bug"),
            Self::NoPort => write!(
                f,
                "no port to listen on: {} is taken on 127.0.0.1 or [::1], and so was every other that was tried\n  \
                 hint: end what listens on {}, or try again",
                stage::USUAL_PORT,
                stage::USUAL_PORT
            ),
            Self::System(error) => write!(f, "the system refused what the demo needs: {error}"),
            Self::Output(error) => write!(f, "standard output: {error}"),
            Self::Interrupted => f.write_str("stopped by a signal before the demo was over"),
            Self::Step { number, title, why } => write!(f, "step {number} ({title}) failed: {why}"),
        }
    }
}

impl std::error::Error for DemoError {}

/// Plays the demo, and unless `once`, stays up until a signal.
pub fn run(once: bool) -> Result<(), DemoError> {
    // The sidecar's lines would drown the story; what is wrong is said, and not on standard output.
    let log = Log { filter: "warn".to_owned(), format: LogFormat::Auto, access: false };
    let environment = Environment::of_process();
    let mut logging = logging::start(&log, io::stderr(), Reader::of(&io::stderr(), &environment)).map_err(DemoError::Log)?;
    logging.write().map_err(DemoError::Log)?;
    report_panics_by_place();
    let stage = Stage::set(logging.access_log())?;
    let _signals = stage.catch_signals()?;
    let mut page =
        Narration::new(io::stdout().lock(), Reader::of(&io::stdout(), &environment) == Reader::Terminal { colour: true });
    let told = Story::new(&stage, &mut page).and_then(|mut story| story.tell());
    if told.is_err() && stage.is_stopping() {
        // Calls fail when a signal has stopped the sidecar; that is no failure of theirs.
        stage.wait()?;
        return if once { Err(DemoError::Interrupted) } else { Ok(()) };
    }
    if told.is_err() || once {
        stage.stop()?;
        told?;
        return page.all_well().map_err(DemoError::Output);
    }
    story::invite(&stage, &mut page).map_err(DemoError::Output)?;
    stage.wait()?;
    page.say("\nStopped.").map_err(DemoError::Output)
}

impl Amiss {
    fn in_step(self, number: usize, title: &'static str) -> DemoError {
        match self {
            Self::Output(error) => DemoError::Output(error),
            Self::Otherwise(why) => DemoError::Step { number, title, why },
        }
    }
}
