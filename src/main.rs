//! The program.

use std::{alloc::System, process::ExitCode};

use zeroizing_alloc::ZeroAlloc;

/// Whatever was in memory that is freed, a token in a connection's buffer perhaps, is gone from then on.
#[global_allocator]
static ALLOCATOR: ZeroAlloc<System> = ZeroAlloc(System);

fn main() -> ExitCode {
    careportals_sidecar::cli::run()
}
