//! HTTP/2 from those who mean harm: for whatever frames a client writes, upstream receives nothing, or one request of ours;
//! the connection or the stream ends where RFC 9113 demands it; everybody else is served, and memory is bounded.

mod connection;
mod floods;
mod from_upstream;
mod heads;
