//! Plays the rows of `tests/corpus`: what a client or an upstream writes, the clause that decides about it, and what must come of
//! it. `tests/corpus/README.md` describes the files.

mod answers;
mod requests;
mod rows;
mod transcript;

pub use answers::play_answers;
pub use requests::play_requests;
pub use rows::play_all;
