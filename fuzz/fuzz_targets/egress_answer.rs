//! Looks for bytes that break what `tests/fuzz/egress_answer.rs` checks.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| careportals_sidecar_fuzz::egress_answer::check(input));
