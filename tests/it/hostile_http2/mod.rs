//! Hostile HTTP/2: whatever frames a client writes, the upstream receives nothing, or one well-formed request. The
//! connection or the stream ends where RFC 9113 demands it, every other client is served, and memory is bounded.

mod connection;
mod floods;
mod from_upstream;
mod heads;
