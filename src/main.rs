//! The program.

use std::process::ExitCode;

fn main() -> ExitCode {
    careportals_sidecar::cli::run()
}
