//! Plays the rows of `tests/corpus`: what a client or an upstream writes, the clause that decides about it, and what must come of
//! it. `tests/corpus/README.md` describes the files.

mod answers;
mod frames;
mod http2_clients;
mod http2_upstreams;
mod requests;
mod rows;
mod transcript;

pub use answers::play_answers;
pub use http2_clients::play_http2_clients;
pub use http2_upstreams::play_http2_upstreams;
pub use requests::play_requests;
pub use rows::play_all;
