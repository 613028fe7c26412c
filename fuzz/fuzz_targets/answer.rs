//! Looks for bytes that break what `tests/fuzz/answer.rs` checks.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| careportals_sidecar_fuzz::answer::check(input));
