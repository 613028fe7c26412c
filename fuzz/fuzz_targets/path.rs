//! Looks for bytes that break what `tests/fuzz/path.rs` checks.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| careportals_sidecar_fuzz::path::check(input));
