//! A stage for hostile HTTP/1.1: cases are played to one sidecar, and what both sides saw is judged when nothing more can
//! arrive.

mod record;
mod stage;
mod strict;
mod strict_answer;

pub use record::{Recorder, Seen};
pub use stage::{Case, Client, Fate, Stage, contains, play, play_slowly, told};
pub use strict::{Credentials, Fault, Fields, Request};
pub use strict_answer::StrictAnswer;
