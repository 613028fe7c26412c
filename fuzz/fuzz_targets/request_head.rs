//! Looks for bytes that break what `tests/fuzz/request_head.rs` checks.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| careportals_sidecar_fuzz::request_head::check(input));
