//! A stage for hostile HTTP/1.1: cases are played to one sidecar, and what both sides saw is judged when nothing more can
//! arrive.

mod record;
mod stage;
mod strict;

pub use stage::{Case, Client, Fate, Stage, play, play_slowly};
