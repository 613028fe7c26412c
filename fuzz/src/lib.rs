//! The checks that the fuzz targets run. They stand with the tests, where every `cargo test` holds them to the corpus.

#[path = "../../tests/fuzz/answer.rs"]
pub mod answer;
#[path = "../../tests/fuzz/daemon.rs"]
pub mod daemon;
#[path = "../../tests/fuzz/egress_answer.rs"]
pub mod egress_answer;
#[path = "../../tests/fuzz/headers.rs"]
pub mod headers;
#[path = "../../tests/fuzz/login_answer.rs"]
pub mod login_answer;
#[path = "../../tests/fuzz/masking.rs"]
pub mod masking;
#[path = "../../tests/fuzz/path.rs"]
pub mod path;
#[path = "../../tests/fuzz/request_head.rs"]
pub mod request_head;
#[path = "../../tests/fuzz/settings.rs"]
pub mod settings;
#[path = "../../tests/fuzz/shared.rs"]
pub mod shared;
