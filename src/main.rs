//! The program `careportals-sidecar`: hands the command line to `cli`.

use std::process::ExitCode;

use careportals_sidecar::{allocator::Wiping, cli};

#[global_allocator]
static ALLOCATOR: Wiping = Wiping;

fn main() -> ExitCode {
    cli::run()
}
