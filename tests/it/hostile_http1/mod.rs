//! Malformed and ambiguous HTTP/1.1, byte by byte: for each request the upstream gets nothing, or exactly one that can be
//! read in one way only and holds exactly one of each of our headers.
//!
//! The cases stand in tables, a test for each theme. Each names its fate; what both sides saw is judged at the end, when
//! nothing more can arrive. A client that goes on is followed by one more request, so that a connection on which the two
//! sides have lost each other shows.

mod bodies;
mod connections;
mod fields;
mod heads;
mod targets;
