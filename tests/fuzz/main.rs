//! What fuzzing holds true, held on every `cargo test` for each input that is kept in `fuzz/corpus`.
//!
//! The fuzz targets and these tests share the checks: `check` of each module takes any bytes, and panics with the reason
//! when a promise is broken. `fuzz/README.md` tells how to look for further inputs.

#![allow(unreachable_pub, reason = "one crate; nothing leaves it")]
#![allow(clippy::unwrap_used, reason = "a test that panics has failed, and says where")]
#![allow(clippy::format_push_string, reason = "short beats fast here")]

mod answer;
mod daemon;
mod egress_answer;
mod headers;
mod login_answer;
mod masking;
mod path;
mod request_head;
mod settings;
mod shared;

use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

/// Every input of a target, sorted by name.
fn replay(target: &str, check: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut files: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 10, "the corpus of {target} is gone");
    for file in files {
        let input = fs::read(&file).unwrap();
        let outcome = catch_unwind(AssertUnwindSafe(|| check(&input)));
        assert!(outcome.is_ok(), "{}: see above", file.display());
    }
    check(b"");
}

#[test]
fn the_corpus_of_path_holds() {
    replay("path", path::check);
}

#[test]
fn the_corpus_of_headers_holds() {
    replay("headers", headers::check);
}

#[test]
fn the_corpus_of_settings_holds() {
    replay("settings", settings::check);
}

#[test]
fn the_corpus_of_login_answer_holds() {
    replay("login_answer", login_answer::check);
}

#[test]
fn the_corpus_of_request_head_holds() {
    replay("request_head", request_head::check);
}

#[test]
fn the_corpus_of_masking_holds() {
    replay("masking", masking::check);
}

#[test]
fn the_corpus_of_answer_holds() {
    replay("answer", answer::check);
}

#[test]
fn the_corpus_of_egress_answer_holds() {
    replay("egress_answer", egress_answer::check);
}
