//! The rows of `tests/corpus`: requests, answers and frames after the kinds of cases that the suites of other HTTP implementations
//! have, each with the clause that decides about it.

use crate::harness::corpus::{play_all, play_answers, play_http2_clients, play_http2_upstreams, play_requests};

#[test]
fn each_request_arrives_or_is_refused_as_the_corpus_says() {
    let rows = play_all("requests", play_requests);
    assert!(rows >= 700, "{rows}");
}

#[test]
fn each_answer_comes_as_the_corpus_says() {
    let rows = play_all("answers", play_answers);
    assert!(rows >= 380, "{rows}");
}

#[test]
fn frames_of_clients_end_as_the_corpus_says() {
    let rows = play_all("http2-clients", play_http2_clients);
    assert!(rows >= 160, "{rows}");
}

#[test]
fn frames_of_upstreams_are_told_as_the_corpus_says() {
    let rows = play_all("http2-upstreams", play_http2_upstreams);
    assert!(rows >= 75, "{rows}");
}
